//! `drive disconnect`: what others notice when thousands of subscribers disconnect at once.

use std::thread;
use std::time::{Duration, Instant};

use ringwire::load::statistics::{median, paired_ratio};
use ringwire::load::{
    CONNECTION, ChannelGroup, ChannelsPlan, LatencySummary, Load, Plan, Scenario, Traffic,
};
use serde::Serialize;

use crate::control::Control;
use crate::measure::{PATIENCE, Setup};
use crate::report::{Report, Table, Verdict, number};
use crate::server::{self, Launch, Server};

/// 999 of 1,000 may take this much longer while the crowd leaves than in the quiet time before.
const RATIO_AT_MOST: f64 = 5.0;
/// Length of the published string, in bytes.
const SIZE_BYTES: usize = 128;
/// The subscribers whose deliveries are timed, and publishes to them per second.
const SUBSCRIBERS: u32 = 300;
const PUBLISHES_PER_SECOND: u32 = 100;
/// New connections per second.
const CONNECTS_PER_SECOND: u32 = 500;
/// Channels of its own that each connection of the crowd is in, besides the common one.
const OWN_CHANNELS: u32 = 4;
/// The common channel.
const CROWD: &str = "crowd-0";

/// How large it all is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    /// Connections that disconnect at once.
    pub(crate) crowd: u32,
}

/// What was noticed in one window.
#[derive(Clone, Copy, Debug, Serialize)]
struct Window {
    deliveries: LatencySummary,
    connects: LatencySummary,
    server_cpu_seconds: f64,
}

/// One quiet window, and the one in which the crowd leaves.
#[derive(Clone, Copy, Debug, Serialize)]
struct Round {
    round: u32,
    crowd: u32,
    quiet: Window,
    leaving: Window,
    /// Until the last of the crowd was closed, on the client's side.
    closed_seconds: f64,
    /// Until presence had none of them any more.
    forgotten_seconds: f64,
}

/// Measures and prints; true when every figure was reached.
pub(crate) fn run(setup: &Setup, ringwire: &Launch, size: Size) -> anyhow::Result<bool> {
    let mut report = Report::begin("disconnect");
    let launch = ringwire.with_config(&format!("{}{}", server::USERS, server::PRESENCE));
    report.server(&launch);
    println!(
        "traffic   {PUBLISHES_PER_SECOND} publishes/s to {SUBSCRIBERS} subscribers, \
         {CONNECTS_PER_SECOND} new connections/s; {} subscribers of {} channels each disconnect\n",
        size.crowd,
        OWN_CHANNELS + 1
    );
    let mut rounds = Vec::new();
    for number in 0..setup.rounds {
        eprintln!("round {number} …");
        let round = round(setup, &launch, size, number)?;
        report.keep(&round)?;
        rounds.push(round);
    }
    print(&rounds);
    for (what, of) in [
        ("deliveries", deliveries as fn(&Window) -> LatencySummary),
        ("new connections", connects),
    ] {
        let quiet: Vec<f64> = rounds
            .iter()
            .map(|round| of(&round.quiet).p999_us)
            .collect();
        let leaving: Vec<f64> = rounds
            .iter()
            .map(|round| of(&round.leaving).p999_us)
            .collect();
        report.verdict(Verdict::at_most(
            format!("{what}: p99.9 while the crowd leaves, to the quiet time before"),
            paired_ratio(&leaving, &quiet),
            RATIO_AT_MOST,
        ));
    }
    report.end(&setup.out)
}

fn deliveries(window: &Window) -> LatencySummary {
    window.deliveries
}

fn connects(window: &Window) -> LatencySummary {
    window.connects
}

fn round(setup: &Setup, launch: &Launch, size: Size, round: u32) -> anyhow::Result<Round> {
    let server = Server::start(launch, &setup.out)?;
    let mut control = Control::connect(server.address)?;
    let crowd = Load::start(&setup.aimed(&crowd_plan(size), &server))?;
    crowd.wait_ready(PATIENCE)?;
    let present = |control: &mut Control| control.present(CROWD);
    control.wait_for("the crowd", size.crowd.into(), PATIENCE, present)?;
    let publishing = Load::start(&setup.aimed(&publishing_plan(), &server))?;
    publishing.wait_ready(PATIENCE)?;
    publishing.resume();
    // As many connections as come until the second window ends, and some more for a slow machine.
    let window_seconds = setup.window.as_secs_f64();
    let seconds = 2.0 * (setup.warm_up.as_secs_f64() + window_seconds) + 4.0;
    let coming = Load::start(&setup.aimed(&coming_plan(seconds), &server))?;
    thread::sleep(setup.warm_up);
    let quiet = window(setup, &server, &publishing, &coming, || Ok(()))?;
    let mut closed_seconds = 0.0;
    let mut forgotten_seconds = 0.0;
    let leaving = window(setup, &server, &publishing, &coming, || {
        let began = Instant::now();
        crowd.finish()?;
        closed_seconds = began.elapsed().as_secs_f64();
        control.wait_for("the crowd", 0, PATIENCE, present)?;
        forgotten_seconds = began.elapsed().as_secs_f64();
        Ok(())
    })?;
    publishing.pause(PATIENCE)?;
    publishing.finish()?;
    coming.finish()?;
    drop(control); // it would not answer the server's farewell
    server.stop()?;
    Ok(Round {
        round,
        crowd: size.crowd,
        quiet,
        leaving,
        closed_seconds,
        forgotten_seconds,
    })
}

/// What is noticed from now on, for as long as a window is, or `event` takes, or until something of both
/// kinds has come: a short window on a slow machine could have nothing in it.
fn window(
    setup: &Setup,
    server: &Server,
    publishing: &Load,
    coming: &Load,
    event: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<Window> {
    publishing.lap(PATIENCE)?;
    coming.lap(PATIENCE)?;
    let (began, cpu) = (Instant::now(), server.process.cpu()?);
    let come = || (publishing.counts().messages, coming.live().ready);
    let (messages, ready) = come();
    event()?;
    thread::sleep(setup.window.saturating_sub(began.elapsed()));
    let both = || matches!(come(), (more, open) if more > messages && open > ready);
    while !both() && began.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(1));
    }
    Ok(Window {
        deliveries: publishing.lap(PATIENCE)?.messages.summary(),
        connects: coming.lap(PATIENCE)?.connects.summary(),
        server_cpu_seconds: server.process.cpu()?.since(cpu).total_ns as f64 / 1e9,
    })
}

/// Those who will leave: users, subscribed to a common channel and to some of their own.
fn crowd_plan(size: Size) -> Plan {
    let groups = vec![
        ChannelGroup::new("crowd", 1, 1),
        ChannelGroup::new("own", size.crowd * OWN_CHANNELS, OWN_CHANNELS),
    ];
    let scenario = Scenario::Channels(ChannelsPlan::subscribing(groups));
    let mut plan = Plan::new(anywhere(), "/ws", size.crowd, scenario);
    plan.headers = vec![server::user_header(CONNECTION)];
    plan
}

/// One publisher, at a steady rate whatever arrives: who waits is not spared the next publish.
fn publishing_plan() -> Plan {
    let scenario = Scenario::Channels(ChannelsPlan {
        groups: vec![ChannelGroup::new("steady", 1, 1)],
        publishers: 1,
        size_bytes: SIZE_BYTES,
        traffic: Some(Traffic {
            group: 0,
            outstanding: ringwire::load::OUTSTANDING_MAX,
            rate: Some(PUBLISHES_PER_SECOND),
        }),
        held_back: false,
    });
    Plan::new(anywhere(), "/ws", SUBSCRIBERS + 1, scenario)
}

/// Connections that come at a steady rate for `seconds`, and stay.
fn coming_plan(seconds: f64) -> Plan {
    let connections = (seconds * f64::from(CONNECTS_PER_SECOND)) as u32;
    let mut plan = Plan::new(anywhere(), "/ws", connections, Scenario::Idle);
    plan.workers = 1;
    plan.connecting = 1_024;
    plan.connect_rate = Some(CONNECTS_PER_SECOND);
    plan
}

fn anywhere() -> std::net::SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

fn print(rounds: &[Round]) {
    let mut table = Table::new(&[
        "",
        "count",
        "p50 µs",
        "p99 µs",
        "p99.9 µs",
        "most µs",
        "server CPU, s",
    ]);
    for (what, latency) in [
        ("deliveries", deliveries as fn(&Window) -> LatencySummary),
        ("new connections", connects),
    ] {
        for (when, window) in [
            ("quiet", (|round| round.quiet) as fn(&Round) -> Window),
            ("leaving", |round| round.leaving),
        ] {
            let of = |value: &dyn Fn(&Window) -> f64| {
                let values: Vec<f64> = rounds.iter().map(|round| value(&window(round))).collect();
                median(&values).map_or_else(String::new, number)
            };
            table.row([
                format!("{what}, {when}"),
                of(&|window| latency(window).count as f64),
                of(&|window| latency(window).p50_us),
                of(&|window| latency(window).p99_us),
                of(&|window| latency(window).p999_us),
                of(&|window| latency(window).max_us),
                of(&|window| window.server_cpu_seconds),
            ]);
        }
    }
    table.print();
    let of = |value: fn(&Round) -> f64| {
        let values: Vec<f64> = rounds.iter().map(value).collect();
        median(&values).map_or_else(String::new, number)
    };
    println!(
        "the crowd was closed after {} s, and gone from presence after {} s\n",
        of(|round| round.closed_seconds),
        of(|round| round.forgotten_seconds)
    );
}
