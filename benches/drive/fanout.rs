//! `drive fanout`: what a delivery costs, beside a bare loop of `send`.

use ringwire::load::statistics::{median, paired_ratio};
use ringwire::load::{FanoutPlan, Plan, Scenario};

use crate::measure::{Inspection, Sample, Setup};
use crate::report::{Report, Table, Verdict, number};
use crate::server::Launch;

/// Length of the published string, in bytes.
const SIZE_BYTES: usize = 128;
/// A delivery may cost this much of what the bare loop needs.
const RATIO_AT_MOST: f64 = 1.1;
/// Publishes that are together on the way, and how much that speeds deliveries up at least.
const TOGETHER: u32 = 16;
const SPEED_UP_AT_LEAST: f64 = 5.0;

/// One publisher; the other connections subscribe.
pub(crate) fn plan(setup: &Setup, subscribers: u32, outstanding: u32) -> Plan {
    let scenario = Scenario::Fanout(FanoutPlan {
        channel: "bench".to_owned(),
        publishers: 1,
        size_bytes: SIZE_BYTES,
        outstanding,
        publishes: None,
        rate: None,
    });
    let anywhere = ([127, 0, 0, 1], 0).into();
    let mut plan = Plan::new(anywhere, "/ws", subscribers + 1, scenario);
    plan.cores = vec![setup.client_core];
    plan.spin = true;
    plan
}

/// Measures and prints; true when every figure was reached.
pub(crate) fn run(
    setup: &Setup,
    floor: &Launch,
    ringwire: &Launch,
    quick: bool,
    only: Option<&str>,
) -> anyhow::Result<bool> {
    let mut report = Report::begin("fanout");
    report.server(floor);
    report.server(ringwire);
    println!();
    let mut table = Table::new(&[
        "subscribers",
        "publishes outstanding",
        "server",
        "µs/delivery",
        "user µs",
        "ratio",
        "busy",
        "deliveries/s",
        "all reached, p50 µs",
        "p99 µs",
        "syscalls/delivery",
    ]);
    let sizes: &[u32] = if quick { &[100, 300] } else { &[1_000, 10_000] };
    for &subscribers in sizes {
        let mut rates = Vec::new();
        for outstanding in [1, TOGETHER] {
            let case = format!("{subscribers} subscribers, {outstanding} outstanding");
            if only.is_some_and(|only| !case.contains(only)) {
                continue;
            }
            eprintln!("{case} …");
            let plan = plan(setup, subscribers, outstanding);
            let (mut bare, mut ours) = (Vec::new(), Vec::new());
            for round in 0..setup.rounds {
                let measure = |launch| setup.sample(&case, launch, &plan, round);
                if round % 2 == 0 {
                    bare.push(measure(floor)?);
                    ours.push(measure(ringwire)?);
                } else {
                    ours.push(measure(ringwire)?);
                    bare.push(measure(floor)?);
                }
            }
            let tools = setup.inspect(ringwire, &plan)?;
            let ratio = paired_ratio(&cpu(&ours), &cpu(&bare));
            let start = [subscribers.to_string(), outstanding.to_string()];
            row(&mut table, start, &bare, &Inspection::default(), None);
            row(
                &mut table,
                [String::new(), String::new()],
                &ours,
                &tools,
                ratio,
            );
            for sample in bare.iter().chain(&ours) {
                report.keep(sample)?;
            }
            if outstanding == 1 {
                let figure = format!("{case}: ratio to the bare loop");
                report.verdict(Verdict::at_most(figure, ratio, RATIO_AT_MOST));
            }
            rates.push(median(&ours.iter().map(Sample::rate).collect::<Vec<_>>()));
        }
        if let [Some(one), Some(together)] = rates[..] {
            let figure =
                format!("{subscribers} subscribers: deliveries/s, {TOGETHER} to 1 outstanding");
            let speed_up = Some(together / one);
            report.verdict(Verdict::at_least(figure, speed_up, SPEED_UP_AT_LEAST));
        }
    }
    table.print();
    report.end(&setup.out)
}

fn cpu(samples: &[Sample]) -> Vec<f64> {
    samples.iter().map(Sample::cpu_us).collect()
}

fn row(
    table: &mut Table,
    start: [String; 2],
    samples: &[Sample],
    tools: &Inspection,
    ratio: Option<f64>,
) {
    let of = |value: &dyn Fn(&Sample) -> f64| {
        let values: Vec<f64> = samples.iter().map(value).collect();
        median(&values).map_or_else(String::new, number)
    };
    let user_share = |sample: &Sample| tools.user_share.unwrap_or(sample.cpu.user_share());
    let server = samples.first().map(|sample| sample.server.clone());
    let [subscribers, outstanding] = start;
    table.row([
        subscribers,
        outstanding,
        server.unwrap_or_default(),
        of(&Sample::cpu_us),
        of(&|sample| sample.cpu_us() * user_share(sample)),
        ratio.map_or_else(String::new, number),
        of(&Sample::busy),
        of(&Sample::rate),
        of(&|sample| sample.latency.p50_us),
        of(&|sample| sample.latency.p99_us),
        tools.syscalls_per_message.map_or_else(String::new, number),
    ]);
}
