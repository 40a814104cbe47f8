//! `drive echo`: what an echoed message costs, beside the plain epoll baseline.

use ringwire::load::statistics::{median, paired_ratio};
use ringwire::load::{EchoPlan, Plan, Scenario};
use serde::Serialize;

use crate::measure::{Inspection, Sample, Setup};
use crate::report::{Report, Table, Verdict, number};
use crate::server::Launch;

/// What is measured about one kind of traffic.
struct Case {
    name: &'static str,
    connections: u32,
    size_bytes: usize,
    outstanding: u32,
    rate: Option<u32>,
    /// Opens connections instead of sending messages.
    handshakes: bool,
    /// Whether its cost is compared with that at one outstanding message.
    compared_with_one: bool,
    /// Extra arguments of ringwire.
    arguments: &'static [&'static str],
    /// Bound of the ratio to the baseline.
    ratio_at_most: Option<f64>,
    /// Bound of the user part, in microseconds per message.
    user_us_at_most: Option<f64>,
    /// Bound of the system calls per message.
    syscalls_at_most: Option<f64>,
}

impl Case {
    const fn new(
        name: &'static str,
        connections: u32,
        size_bytes: usize,
        outstanding: u32,
    ) -> Self {
        Self {
            name,
            connections,
            size_bytes,
            outstanding,
            rate: None,
            handshakes: false,
            compared_with_one: false,
            arguments: &[],
            ratio_at_most: None,
            user_us_at_most: None,
            syscalls_at_most: None,
        }
    }

    fn plan(&self, setup: &Setup) -> Plan {
        let scenario = if self.handshakes {
            Scenario::Idle
        } else {
            Scenario::Echo(EchoPlan {
                rate: self.rate,
                ..EchoPlan::new(self.size_bytes, self.outstanding)
            })
        };
        let anywhere = ([127, 0, 0, 1], 0).into();
        let mut plan = Plan::new(anywhere, "/echo", self.connections, scenario);
        plan.cores = vec![setup.client_core];
        plan.spin = true;
        plan
    }
}

fn cases(quick: bool) -> Vec<Case> {
    let many = if quick { 200 } else { 1_000 };
    vec![
        Case {
            ratio_at_most: Some(1.0),
            user_us_at_most: Some(0.25),
            syscalls_at_most: Some(0.1),
            ..Case::new("64 B, 100 connections", 100, 64, 1)
        },
        Case {
            ratio_at_most: Some(1.0),
            user_us_at_most: Some(0.25),
            syscalls_at_most: Some(0.1),
            ..Case::new("64 B, 1,000 connections", many, 64, 1)
        },
        Case {
            compared_with_one: true,
            ..Case::new("64 B, 100 connections, 16 outstanding", 100, 64, 16)
        },
        Case {
            ratio_at_most: Some(0.9),
            ..Case::new("16 KiB, 100 connections", 100, 16 * 1024, 1)
        },
        Case {
            rate: Some(100_000),
            arguments: &["--min-wait-us", "200"],
            ratio_at_most: Some(0.85),
            ..Case::new("64 B, 1,000 connections, 100,000/s, min-wait", many, 64, 1)
        },
        Case {
            syscalls_at_most: Some(3.0),
            ..Case::new("64 B, 1 connection", 1, 64, 1)
        },
        Case {
            handshakes: true,
            ratio_at_most: Some(1.0),
            ..Case::new("handshake", if quick { 500 } else { 10_000 }, 0, 1)
        },
    ]
}

#[derive(Serialize)]
struct Inspected<'a> {
    case: &'a str,
    server: &'a str,
    inspection: Inspection,
}

/// Measures and prints; true when every figure was reached.
pub(crate) fn run(
    setup: &Setup,
    baseline: &Launch,
    ringwire: &Launch,
    quick: bool,
    only: Option<&str>,
) -> anyhow::Result<bool> {
    let mut report = Report::begin("echo");
    report.server(baseline);
    report.server(ringwire);
    println!();
    let mut table = Table::new(&[
        "case",
        "server",
        "µs/message",
        "least–most",
        "user µs",
        "ratio",
        "busy",
        "messages/s",
        "p50 µs",
        "p99 µs",
        "syscalls/message",
    ]);
    for case in cases(quick) {
        if only.is_some_and(|only| !case.name.contains(only)) {
            continue;
        }
        eprintln!("{} …", case.name);
        let mut candidate = ringwire.clone();
        if ringwire.name == "ringwire" {
            let more = case.arguments.iter().map(|&argument| argument.to_owned());
            candidate.arguments.extend(more);
        }
        let plan = case.plan(setup);
        let (mut peers, mut ours) = (Vec::new(), Vec::new());
        // The same with one outstanding message, in the same rounds.
        let single = case.compared_with_one.then(|| {
            let one = Case::new(case.name, case.connections, case.size_bytes, 1);
            one.plan(setup)
        });
        let mut singles = Vec::new();
        for round in 0..setup.rounds {
            let measure = |launch: &Launch| match case.handshakes {
                true => setup.handshakes(case.name, launch, &plan, round),
                false => setup.sample(case.name, launch, &plan, round),
            };
            // Which one goes first alternates, so that neither always follows the other.
            if round % 2 == 0 {
                peers.push(measure(baseline)?);
                ours.push(measure(&candidate)?);
            } else {
                ours.push(measure(&candidate)?);
                peers.push(measure(baseline)?);
            }
            if let Some(plan) = &single {
                let name = format!("{}: 1 instead", case.name);
                singles.push(setup.sample(&name, &candidate, plan, round)?);
            }
        }
        let inspect = |launch: &Launch| match case.handshakes {
            true => Ok(Inspection::default()),
            false => setup.inspect(launch, &plan),
        };
        let (peer_tools, our_tools) = (inspect(baseline)?, inspect(&candidate)?);
        let (peer_cpu, our_cpu) = (cpu(&peers), cpu(&ours));
        let ratio = paired_ratio(&our_cpu, &peer_cpu);
        row(&mut table, case.name, &peers, &peer_tools, None);
        row(&mut table, "", &ours, &our_tools, ratio);
        for sample in peers.iter().chain(&ours).chain(&singles) {
            report.keep(sample)?;
        }
        for (launch, inspection) in [(baseline, peer_tools), (&candidate, our_tools)] {
            let (case, server) = (case.name, launch.name.as_str());
            report.keep(&Inspected {
                case,
                server,
                inspection,
            })?;
        }
        if let Some(bound) = case.ratio_at_most {
            let figure = format!("{}: ratio to the baseline", case.name);
            report.verdict(Verdict::at_most(figure, ratio, bound));
        }
        if let Some(bound) = case.user_us_at_most {
            let figure = format!("{}: user part, µs", case.name);
            report.verdict(Verdict::at_most(figure, user_us(&ours, &our_tools), bound));
        }
        if let Some(bound) = case.syscalls_at_most {
            let figure = format!("{}: system calls per message", case.name);
            let calls = our_tools.syscalls_per_message;
            report.verdict(Verdict::at_most(figure, calls, bound));
        }
        if case.compared_with_one {
            let ratio = paired_ratio(&our_cpu, &cpu(&singles));
            let figure = format!("{}: ratio to its own cost at 1", case.name);
            report.verdict(Verdict::at_most(figure, ratio, 0.08));
        }
    }
    table.print();
    report.end(&setup.out)
}

fn cpu(samples: &[Sample]) -> Vec<f64> {
    samples.iter().map(Sample::cpu_us).collect()
}

/// User part per message: by the profile where there is one, else by the kernel's accounting over
/// all rounds.
fn user_us(samples: &[Sample], tools: &Inspection) -> Option<f64> {
    let (user, both) = samples.iter().fold((0, 0), |(user, both), sample| {
        let cpu = sample.cpu;
        (user + cpu.user_ns, both + cpu.user_ns + cpu.system_ns)
    });
    let accounted = (both > 0).then(|| user as f64 / both as f64);
    Some(median(&cpu(samples))? * tools.user_share.or(accounted)?)
}

fn row(table: &mut Table, name: &str, samples: &[Sample], tools: &Inspection, ratio: Option<f64>) {
    let cpu = cpu(samples);
    let of = |value: fn(&Sample) -> f64| {
        let values: Vec<f64> = samples.iter().map(value).collect();
        median(&values).map_or_else(String::new, number)
    };
    let least = cpu.iter().copied().fold(f64::INFINITY, f64::min);
    let most = cpu.iter().copied().fold(0.0, f64::max);
    let server = samples.first().map(|sample| sample.server.clone());
    table.row([
        name.to_owned(),
        server.unwrap_or_default(),
        median(&cpu).map_or_else(String::new, number),
        format!("{least:.3}–{most:.3}"),
        user_us(samples, tools).map_or_else(String::new, number),
        ratio.map_or_else(String::new, number),
        of(Sample::busy),
        of(Sample::rate),
        of(|sample| sample.latency.p50_us),
        of(|sample| sample.latency.p99_us),
        tools.syscalls_per_message.map_or_else(String::new, number),
    ]);
}
