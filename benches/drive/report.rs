//! Tables for people, raw data for later.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use serde::Serialize;
use serde_json::{Value, json};

use crate::machine;
use ringwire::load::machine::Machine;

/// Columns of text, aligned when printed: the first to the left, the others to the right.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(heads: &[&str]) -> Self {
        Self {
            rows: vec![heads.iter().map(|&head| head.to_owned()).collect()],
        }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// As a table in Markdown: the first column to the left, the others to the right.
    pub(crate) fn markdown(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let mut text = String::new();
        for (number, row) in self.rows.iter().enumerate() {
            let mut cells = row.clone();
            cells.resize(columns, String::new());
            text.push_str(&format!("| {} |\n", cells.join(" | ")));
            if number == 0 {
                let rule = "---:|".repeat(columns.saturating_sub(1));
                text.push_str(&format!("|---|{rule}\n"));
            }
        }
        text
    }

    pub(crate) fn print(&self) {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for (number, row) in self.rows.iter().enumerate() {
            let cells = row.iter().zip(&widths).enumerate();
            let line: Vec<String> = cells
                .map(|(column, (cell, &width))| match column {
                    0 => format!("{cell:<width$}"),
                    _ => format!("{cell:>width$}"),
                })
                .collect();
            println!("{}", line.join("  ").trim_end());
            if number == 0 {
                let total = widths.iter().sum::<usize>() + 2 * columns.saturating_sub(1);
                println!("{}", "-".repeat(total));
            }
        }
        println!();
    }
}

/// A figure with its bound.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Verdict {
    pub(crate) figure: String,
    pub(crate) value: Option<f64>,
    pub(crate) at_most: Option<f64>,
    pub(crate) at_least: Option<f64>,
    pub(crate) reached: bool,
}

impl Verdict {
    /// Reached when `value` is known and not above `bound`.
    pub(crate) fn at_most(figure: impl Into<String>, value: Option<f64>, bound: f64) -> Self {
        Self {
            figure: figure.into(),
            value,
            at_most: Some(bound),
            at_least: None,
            reached: value.is_some_and(|value| value <= bound),
        }
    }

    /// Reached when `value` is known and not below `bound`.
    pub(crate) fn at_least(figure: impl Into<String>, value: Option<f64>, bound: f64) -> Self {
        Self {
            figure: figure.into(),
            value,
            at_most: None,
            at_least: Some(bound),
            reached: value.is_some_and(|value| value >= bound),
        }
    }
}

/// Everything that a command found out.
pub(crate) struct Report {
    name: &'static str,
    machine: Machine,
    servers: Vec<Value>,
    samples: Vec<Value>,
    verdicts: Vec<Verdict>,
}

impl Report {
    /// Prints the facts about the machine.
    pub(crate) fn begin(name: &'static str) -> Self {
        let machine = machine::look();
        println!("{}", machine.text());
        Self {
            name,
            machine,
            servers: Vec::new(),
            samples: Vec::new(),
            verdicts: Vec::new(),
        }
    }

    /// Notes how a server is started.
    pub(crate) fn server(&mut self, launch: &crate::server::Launch) {
        println!("{:<9} {}", launch.name, launch.command_line());
        for line in launch.config.lines().filter(|line| !line.is_empty()) {
            println!("          | {line}");
        }
        self.servers.push(json!({
            "name": launch.name,
            "command": launch.command_line(),
            "config": launch.config,
            "cores": launch.cores,
        }));
    }

    /// Keeps raw data.
    pub(crate) fn keep(&mut self, sample: &impl Serialize) -> anyhow::Result<()> {
        self.samples.push(serde_json::to_value(sample)?);
        Ok(())
    }

    pub(crate) fn verdict(&mut self, verdict: Verdict) {
        self.verdicts.push(verdict);
    }

    /// Prints the figures with their bounds and writes everything to `out`. True when every figure
    /// was reached.
    pub(crate) fn end(self, out: &Path) -> anyhow::Result<bool> {
        Ok(self.finish(out)?.reached)
    }

    /// As [`Self::end`], for those who make more of it.
    pub(crate) fn finish(self, out: &Path) -> anyhow::Result<Finished> {
        let table = self.figures();
        table.print();
        let reached = self.verdicts.iter().all(|verdict| verdict.reached);
        let file = out.join(format!("{}-{}.json", self.name, self.machine.unix_time));
        let raw = json!({
            "name": self.name,
            "machine": self.machine,
            "servers": self.servers,
            "samples": self.samples,
            "figures": self.verdicts,
        });
        fs::write(&file, serde_json::to_vec_pretty(&raw)?)
            .with_context(|| format!("cannot write {}", file.display()))?;
        println!("raw data  {}", file.display());
        Ok(Finished {
            reached,
            figures: table,
            raw,
            machine: self.machine,
        })
    }

    /// The figures with their bounds.
    fn figures(&self) -> Table {
        let mut table = Table::new(&["figure", "measured", "bound", ""]);
        for verdict in &self.verdicts {
            let bound = match (verdict.at_most, verdict.at_least) {
                (Some(bound), _) => format!("≤ {}", number(bound)),
                (_, Some(bound)) => format!("≥ {}", number(bound)),
                _ => String::new(),
            };
            let reached = if verdict.reached { "ok" } else { "MISSED" };
            table.row([
                verdict.figure.clone(),
                verdict.value.map_or_else(|| "unknown".to_owned(), number),
                bound,
                reached.to_owned(),
            ]);
        }
        table
    }
}

/// A report that has been printed and written.
pub(crate) struct Finished {
    /// Whether every figure was reached.
    pub(crate) reached: bool,
    /// The figures with their bounds.
    pub(crate) figures: Table,
    /// Everything, as it was written.
    pub(crate) raw: Value,
    /// The facts about the machine.
    pub(crate) machine: Machine,
}

/// A figure with as many digits as it deserves.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}
