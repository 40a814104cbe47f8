//! What a benchmark found out.

use serde::Serialize;

use crate::load::machine::Machine;
use crate::load::{Latencies, LatencySummary};

/// The result of a run, as `--json` prints it and a report holds it.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// The scenario's name.
    pub scenario: String,
    /// What was asked for.
    pub options: serde_json::Value,
    /// How the server was started, if it was; else where it was found.
    pub server: String,
    /// Which of the ways it was run in, where a scenario has several.
    pub way: Option<String>,
    /// What has to be said beside the figures, if anything.
    pub notes: Vec<String>,
    /// What it ran on.
    pub machine: Machine,
    /// What happened, in order.
    pub phases: Vec<Phase>,
    /// Numbers.
    pub figures: Vec<Figure>,
    /// Round trips and the like.
    pub latencies: Vec<Distribution>,
    /// What had to hold.
    pub checks: Vec<Check>,
    /// Whether all of it held.
    pub passed: bool,
    /// Samples over time.
    #[serde(skip)]
    pub samples: Vec<Sample>,
}

/// A part of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Phase {
    /// What happens in it.
    pub name: String,
    /// When it began, in seconds since the run did.
    pub began_seconds: f64,
}

/// A number.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// Of what.
    pub name: String,
    /// The number.
    pub value: f64,
    /// Of which unit; empty for a count or a ratio.
    pub unit: &'static str,
}

/// How long something took, how often.
#[derive(Clone, Debug, Serialize)]
pub struct Distribution {
    /// What was timed.
    pub name: String,
    /// Its percentiles.
    #[serde(flatten)]
    pub summary: LatencySummary,
    /// All of it, for plots.
    #[serde(skip)]
    pub all: Latencies,
}

/// Something that had to hold.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// What.
    pub name: String,
    /// Whether it held.
    pub passed: bool,
    /// What was seen.
    pub detail: String,
}

/// The run at one moment.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Sample {
    /// Since the run began.
    pub seconds: f64,
    /// The phase's place in [`Outcome::phases`].
    pub phase: usize,
    /// Open connections.
    pub connections: u64,
    /// Connections accepted so far.
    pub accepted: u64,
    /// Connections that failed so far.
    pub failed: u64,
    /// Messages that came so far, each checked.
    pub messages: u64,
    /// Their payload bytes.
    pub bytes: u64,
    /// Publishes that reached everyone.
    pub publishes: u64,
    /// Private memory of the server's process (`Private_Dirty`).
    pub server_memory_bytes: Option<u64>,
    /// Processor time of the server so far.
    pub server_cpu_seconds: Option<f64>,
    /// Latencies since the last sample, if there were any: median, 99 of 100, longest.
    pub p50_us: Option<f64>,
    /// 99 of 100.
    pub p99_us: Option<f64>,
    /// The longest.
    pub max_us: Option<f64>,
}

impl Outcome {
    /// The result as a table for people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!("{}server    {}\n", self.machine.text(), self.server);
        if let Some(way) = &self.way {
            text += &format!("way       {way}\n");
        }
        for note in &self.notes {
            text += &format!("note      {note}\n");
        }
        text += &format!("\n{}\n", self.scenario);
        let width = |names: &mut dyn Iterator<Item = &String>| {
            names.map(|name| name.chars().count()).max().unwrap_or(0)
        };
        let names = width(&mut self.figures.iter().map(|figure| &figure.name));
        for figure in &self.figures {
            let value = number(figure.value);
            let line = format!("  {:<names$}  {value:>12} {}", figure.name, figure.unit);
            text += &format!("{}\n", line.trim_end());
        }
        let names = width(&mut self.latencies.iter().map(|latency| &latency.name));
        if !self.latencies.is_empty() {
            let heads = ["count", "p50 µs", "p90 µs", "p99 µs", "p99.9 µs", "most µs"];
            text += &format!("\n  {:<names$}", "");
            heads
                .iter()
                .for_each(|head| text += &format!("  {head:>10}"));
            text.push('\n');
        }
        for latency in &self.latencies {
            let of = latency.summary;
            text += &format!("  {:<names$}  {:>10}", latency.name, of.count);
            for value in [of.p50_us, of.p90_us, of.p99_us, of.p999_us, of.max_us] {
                text += &format!("  {:>10}", number(value));
            }
            text.push('\n');
        }
        text.push('\n');
        for check in &self.checks {
            let word = if check.passed { "ok    " } else { "FAILED" };
            let detail = match check.detail.as_str() {
                "" => String::new(),
                detail => format!(": {detail}"),
            };
            text += &format!("  {word}  {}{detail}\n", check.name);
        }
        text
    }
}

/// A number with as many digits as it deserves.
#[must_use]
pub fn number(value: f64) -> String {
    match value.abs() {
        _ if value.fract() == 0.0 && value.abs() < 1e15 => format!("{value:.0}"),
        1_000.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_as_long_as_they_need() {
        for (value, text) in [
            (0.0, "0"),
            (1_000_000.0, "1000000"),
            (1_234.56, "1235"),
            (12.345, "12.3"),
            (-0.012_34, "-0.012"),
            (f64::NAN, "NaN"),
        ] {
            assert_eq!(number(value), text);
        }
    }
}
