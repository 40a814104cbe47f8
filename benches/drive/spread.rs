//! `drive spread`: one large channel beside many small ones with the same subscribers.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ringwire::load::statistics::{median, paired_ratio};
use ringwire::load::{ChannelGroup, ChannelsPlan, Load, Plan, Scenario, WORKER_CONNECTIONS_MAX};
use serde::Serialize;

use crate::measure::{PATIENCE, Setup};
use crate::report::{Report, Table, Verdict, number};
use crate::server::{Launch, Server};

/// The small channels may take this much of the large one's time, and the other way round.
const RATIO_AT_MOST: f64 = 1.3;
/// Length of the published string, in bytes.
const SIZE_BYTES: usize = 128;
/// The groups of channels: one large, and many small ones.
const LARGE: usize = 0;
const SMALL: usize = 1;
/// Rounds whose times do not count: what grows once has grown after them.
const WARM_UP_ROUNDS: u32 = 3;

/// How large it all is.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Size {
    pub(crate) subscribers: u32,
    /// Small channels, among which the subscribers are dealt out.
    pub(crate) channels: u32,
}

/// From the first publish to the last delivery.
#[derive(Clone, Copy, Debug, Serialize)]
struct Round {
    round: u32,
    large_us: f64,
    small_us: f64,
    server_cpu_large_us: f64,
    server_cpu_small_us: f64,
}

/// Measures and prints; true when every figure was reached.
pub(crate) fn run(setup: &Setup, ringwire: &Launch, size: Size) -> anyhow::Result<bool> {
    let mut report = Report::begin("spread");
    report.server(ringwire);
    println!();
    let server = Server::start(ringwire, &setup.out)?;
    let mut plan = plan(size);
    plan.address = server.address;
    let load = Load::start(&plan)?;
    eprintln!("{} subscribers …", size.subscribers);
    load.wait_ready(PATIENCE)?;
    let mut rounds = Vec::new();
    for number in 0..WARM_UP_ROUNDS + setup.rounds {
        let burst = |group| -> anyhow::Result<(f64, f64)> {
            let cpu = server.process.cpu()?;
            let took = load.burst(group, PATIENCE)?;
            let cpu_ns = server.process.cpu()?.since(cpu).total_ns;
            Ok((took.as_secs_f64() * 1e6, cpu_ns as f64 / 1e3))
        };
        let (large, small);
        if number % 2 == 0 {
            large = burst(LARGE)?;
            small = burst(SMALL)?;
        } else {
            small = burst(SMALL)?;
            large = burst(LARGE)?;
        }
        if number >= WARM_UP_ROUNDS {
            let round = Round {
                round: number - WARM_UP_ROUNDS,
                large_us: large.0,
                small_us: small.0,
                server_cpu_large_us: large.1,
                server_cpu_small_us: small.1,
            };
            report.keep(&round)?;
            rounds.push(round);
        }
    }
    // A delivery that comes twice comes late.
    std::thread::sleep(Duration::from_millis(50));
    let counts = load.counts();
    load.finish()?;
    server.stop()?;
    print(size, &rounds);
    let large: Vec<f64> = rounds.iter().map(|round| round.large_us).collect();
    let small: Vec<f64> = rounds.iter().map(|round| round.small_us).collect();
    let (few, many) = (format!("1 × {}", size.subscribers), many(size));
    report.verdict(Verdict::at_most(
        format!("time until the last delivery, {many} to {few}"),
        paired_ratio(&small, &large),
        RATIO_AT_MOST,
    ));
    report.verdict(Verdict::at_most(
        format!("time until the last delivery, {few} to {many}"),
        paired_ratio(&large, &small),
        RATIO_AT_MOST,
    ));
    let bursts = 2 * u64::from(WARM_UP_ROUNDS + setup.rounds);
    let expected = bursts * u64::from(size.subscribers);
    report.verdict(Verdict::at_most(
        "deliveries that are missing or too many",
        Some(expected.abs_diff(counts.messages) as f64),
        0.0,
    ));
    report.end(&setup.out)
}

/// Everybody is in the large channel and in one small one. The client has two rings at least, and each
/// has an address of its own.
fn plan(size: Size) -> Plan {
    let scenario = Scenario::Channels(ChannelsPlan {
        groups: vec![
            ChannelGroup::new("large", 1, 1),
            ChannelGroup::new("small", size.channels, 1),
        ],
        publishers: 1,
        size_bytes: SIZE_BYTES,
        traffic: None,
        held_back: false,
    });
    let anywhere = ([127, 0, 0, 1], 0).into();
    let connections = size.subscribers + 1;
    let mut plan = Plan::new(anywhere, "/ws", connections, scenario);
    plan.workers = connections.div_ceil(WORKER_CONNECTIONS_MAX).max(2);
    plan.sources = (0..plan.workers)
        .map(|worker| IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2 + worker as u8)))
        .collect();
    plan
}

fn many(size: Size) -> String {
    format!("{} × {}", size.channels, size.subscribers / size.channels)
}

fn print(size: Size, rounds: &[Round]) {
    let mut table = Table::new(&[
        "channels × subscribers",
        "last delivery, median µs",
        "least µs",
        "most µs",
        "server CPU µs/delivery",
    ]);
    let mut row = |name: String, took: fn(&Round) -> f64, cpu: fn(&Round) -> f64| {
        let times: Vec<f64> = rounds.iter().map(took).collect();
        let cpu: Vec<f64> = rounds.iter().map(cpu).collect();
        let cpu = median(&cpu).map(|cpu| cpu / f64::from(size.subscribers));
        table.row([
            name,
            median(&times).map_or_else(String::new, number),
            number(times.iter().copied().fold(f64::INFINITY, f64::min)),
            number(times.iter().copied().fold(0.0, f64::max)),
            cpu.map_or_else(String::new, number),
        ]);
    };
    let one = format!("1 × {}", size.subscribers);
    row(
        one,
        |round| round.large_us,
        |round| round.server_cpu_large_us,
    );
    row(
        many(size),
        |round| round.small_us,
        |round| round.server_cpu_small_us,
    );
    table.print();
}
