//! `drive subscriptions`: a million subscriptions over a hundred thousand channels: what they take, and
//! what a publish to one of the channels costs among them.

use std::thread;
use std::time::{Duration, Instant};

use ringwire::load::statistics::median;
use ringwire::load::{
    ChannelGroup, ChannelsPlan, Counts, CpuTime, LatencySummary, Load, Plan, Scenario, Traffic,
};
use serde::Serialize;

use crate::measure::Setup;
use crate::report::{Report, Table, Verdict, number};
use crate::server::{Launch, Server};

/// Length of the published string, in bytes.
const SIZE_BYTES: usize = 128;
/// Connections that publish, and publishes that each has on the way.
const PUBLISHERS: u32 = 8;
const OUTSTANDING: u32 = 32;
/// After this time there is no point in waiting on.
const LIMIT: Duration = Duration::from_secs(180);

/// How large it all is.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Size {
    /// Connections that subscribe.
    pub(crate) connections: u32,
    /// Subscriptions of each.
    pub(crate) each: u32,
    /// Channels among which they are dealt out.
    pub(crate) channels: u32,
}

impl Size {
    fn subscriptions(self) -> f64 {
        f64::from(self.connections) * f64::from(self.each)
    }
}

/// What the subscriptions took.
#[derive(Clone, Copy, Debug, Serialize)]
struct Subscribed {
    size: Size,
    seconds: f64,
    cpu: CpuTime,
    private_dirty_bytes_before: u64,
    private_dirty_bytes: u64,
}

/// One window of publishes.
#[derive(Clone, Copy, Debug, Serialize)]
struct Window {
    round: u32,
    seconds: f64,
    counts: Counts,
    cpu: CpuTime,
    /// Of each delivery, from its publish on.
    latency: LatencySummary,
}

/// Measures and prints; true when every delivery came once, in order, where it belonged.
pub(crate) fn run(setup: &Setup, ringwire: &Launch, size: Size) -> anyhow::Result<bool> {
    let mut report = Report::begin("subscriptions");
    let launch = ringwire.with_config(&format!("[client]\nchannels = {}\n", size.each));
    report.server(&launch);
    println!();
    // With huge pages a touched byte counts as 2 MiB.
    rustix::thread::disable_transparent_huge_pages(true)?;
    let server = Server::start(&launch, &setup.out)?;
    let load = Load::start(&setup.aimed(&plan(size, launch.cores.len() == 1), &server))?;
    eprintln!("{} connections …", size.connections);
    load.wait_open(LIMIT)?;
    let subscribed = subscribe(&server, &load, size)?;
    report.keep(&subscribed)?;
    print_subscribed(&subscribed);
    load.resume();
    thread::sleep(setup.warm_up);
    load.lap(LIMIT)?;
    let mut windows = Vec::new();
    for round in 0..setup.rounds {
        eprintln!("publishes, round {round} …");
        let (began, cpu, counts) = (Instant::now(), server.process.cpu()?, load.counts());
        thread::sleep(setup.window);
        let window = Window {
            round,
            seconds: began.elapsed().as_secs_f64(),
            cpu: server.process.cpu()?.since(cpu),
            counts: load.counts().since(counts),
            latency: load.lap(LIMIT)?.messages.summary(),
        };
        report.keep(&window)?;
        windows.push(window);
    }
    load.pause(LIMIT)?;
    // A delivery that comes twice comes late.
    thread::sleep(setup.warm_up);
    let counts = load.counts();
    load.finish()?;
    server.stop()?;
    print_windows(&windows);
    let expected = counts.publishes as f64 * size.subscriptions() / f64::from(size.channels);
    report.verdict(Verdict::at_most(
        "deliveries that are missing or too many",
        Some((expected - counts.messages as f64).abs()),
        0.0,
    ));
    report.verdict(Verdict::at_least(
        "publishes that reached all of their subscribers",
        Some(counts.publishes as f64),
        1.0,
    ));
    report.end(&setup.out)
}

/// Lets all connections subscribe, and measures the server meanwhile.
fn subscribe(server: &Server, load: &Load, size: Size) -> anyhow::Result<Subscribed> {
    eprintln!("{} subscriptions …", size.subscriptions());
    let settled = || {
        let (quiet, limit) = (Duration::from_millis(1_500), Duration::from_secs(15));
        server.process.settled_dirty_bytes(quiet, limit)
    };
    let private_dirty_bytes_before = settled()?;
    let (began, cpu) = (Instant::now(), server.process.cpu()?);
    load.subscribe();
    load.wait_ready(LIMIT)?;
    let seconds = began.elapsed().as_secs_f64();
    let cpu = server.process.cpu()?.since(cpu);
    Ok(Subscribed {
        size,
        seconds,
        cpu,
        private_dirty_bytes_before,
        private_dirty_bytes: settled()?,
    })
}

fn plan(size: Size, spin: bool) -> Plan {
    let scenario = Scenario::Channels(ChannelsPlan {
        groups: vec![ChannelGroup::new("channel", size.channels, size.each)],
        publishers: PUBLISHERS,
        size_bytes: SIZE_BYTES,
        traffic: Some(Traffic {
            group: 0,
            outstanding: OUTSTANDING,
            rate: None,
        }),
        held_back: true,
    });
    let anywhere = ([127, 0, 0, 1], 0).into();
    let mut plan = Plan::new(anywhere, "/ws", PUBLISHERS + size.connections, scenario);
    plan.spin = spin;
    plan
}

fn print_subscribed(subscribed: &Subscribed) {
    let size = subscribed.size;
    let subscriptions = size.subscriptions();
    let before = subscribed.private_dirty_bytes_before;
    let grown = subscribed.private_dirty_bytes.saturating_sub(before) as f64;
    let mut table = Table::new(&["subscriptions", ""]);
    for (what, value) in [
        ("connections", f64::from(size.connections)),
        ("channels", f64::from(size.channels)),
        ("subscriptions", subscriptions),
        ("subscriptions/s", subscriptions / subscribed.seconds),
        (
            "server CPU µs/subscription",
            subscribed.cpu.total_ns as f64 / 1e3 / subscriptions,
        ),
        ("user memory grown by, MB", grown / 1e6),
        ("bytes/subscription", grown / subscriptions),
        ("bytes/channel", grown / f64::from(size.channels)),
    ] {
        table.row([what.to_owned(), number(value)]);
    }
    table.print();
}

fn print_windows(windows: &[Window]) {
    let of = |value: &dyn Fn(&Window) -> f64| {
        let values: Vec<f64> = windows.iter().map(value).collect();
        median(&values).map_or_else(String::new, number)
    };
    let cpu_us = |window: &Window| window.cpu.total_ns as f64 / 1e3;
    let mut table = Table::new(&["publishes to random channels", ""]);
    for (what, value) in [
        (
            "publishes/s",
            of(&|window| window.counts.publishes as f64 / window.seconds),
        ),
        (
            "deliveries/s",
            of(&|window| window.counts.messages as f64 / window.seconds),
        ),
        (
            "server CPU µs/publish",
            of(&|window| cpu_us(window) / window.counts.publishes.max(1) as f64),
        ),
        (
            "server CPU µs/delivery",
            of(&|window| cpu_us(window) / window.counts.messages.max(1) as f64),
        ),
        (
            "cores busy",
            of(&|window| cpu_us(window) / 1e6 / window.seconds),
        ),
        (
            "delivered after, p50 µs",
            of(&|window| window.latency.p50_us),
        ),
        ("p99 µs", of(&|window| window.latency.p99_us)),
    ] {
        table.row([what.to_owned(), value]);
    }
    table.print();
}
