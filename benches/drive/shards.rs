//! `drive shards`: whether a second shard makes a message dearer.
//!
//! User time per message falls with the messages that a turn handles, and that number is not ours
//! to set: it comes out of the race between client and server. So one shard is measured at several
//! loads, which gives its user time as a line over system calls (that is, turns) per message; two
//! shards are compared with the point of that line that has as many.
//!
//! What is left must be what two shards of one server do to each other, so one shard is measured
//! under the same conditions: beside another server of one shard, for cores may share more than one
//! sees, most of all in virtual machines; and with clients on both cores, for the kernel spreads
//! connections over shards without asking where the client runs, so that a server of two shards
//! serves half of its clients across cores.

use ringwire::load::statistics::median;
use ringwire::load::{EchoPlan, Plan, Scenario};
use serde::Serialize;

use crate::fanout;
use crate::measure::Setup;
use crate::report::{Report, Table, Verdict, number};
use crate::server::Launch;

/// Two shards may use this much of one shard's user time per message.
const RATIO_AT_MOST: f64 = 1.10;

/// So few that a shard handles each publish in a turn of its own, and sleeps in between: two shards
/// have as many turns as one.
const PUBLISHES_PER_SECOND: u32 = 25;

/// One load of one server, over all rounds.
struct Point {
    shards: u32,
    connections: u32,
    plan: Plan,
    turns: Vec<f64>,
    user_us: Vec<f64>,
}

#[derive(Serialize)]
struct Round<'a> {
    traffic: &'a str,
    shards: u32,
    connections: u32,
    round: u32,
    syscalls_per_message: f64,
    user_us: f64,
}

impl Point {
    fn new(shards: u32, connections: u32, plan: Plan) -> Self {
        Self {
            shards,
            connections,
            plan,
            turns: Vec::new(),
            user_us: Vec::new(),
        }
    }

    /// System calls per message and user time per message.
    fn middle(&self) -> Option<(f64, f64)> {
        median(&self.turns).zip(median(&self.user_us))
    }
}

/// Measures and prints; true when every figure was reached.
pub(crate) fn run(
    setup: &Setup,
    launch: impl Fn(&[usize]) -> Launch,
    quick: bool,
    only: Option<&str>,
) -> anyhow::Result<bool> {
    let mut report = Report::begin("shards");
    let cores = [setup.server_core, setup.client_core];
    let (one, two) = (launch(&cores[..1]), launch(&cores));
    let mut beside = launch(&cores[1..]);
    beside.name.push_str("-beside");
    report.server(&one);
    report.server(&beside);
    report.server(&two);
    println!();
    let divide = if quick { 5 } else { 1 };
    let echo = |shards: u32, connections: u32| {
        let scenario = Scenario::Echo(EchoPlan::new(64, 1));
        let anywhere = ([127, 0, 0, 1], 0).into();
        placed(
            Plan::new(anywhere, "/echo", connections, scenario),
            &cores,
            shards,
        )
    };
    let fan_out = |shards: u32, connections: u32| {
        let mut plan = fanout::plan(setup, connections, 4);
        if let Scenario::Fanout(fanout) = &mut plan.scenario {
            fanout.rate = Some(PUBLISHES_PER_SECOND);
        }
        placed(plan, &cores, shards)
    };
    let loads = |plan: &dyn Fn(u32, u32) -> Plan, each: [u32; 4], both: u32| {
        let mut points = Vec::new();
        for connections in each.map(|each| each / divide) {
            points.push(Point::new(1, connections, plan(1, connections)));
        }
        let connections = 2 * both / divide;
        points.push(Point::new(2, connections, plan(2, connections)));
        points
    };
    let mut echo = loads(&echo, [50, 100, 200, 400], 200);
    let mut fan_out = loads(&fan_out, [500, 1_000, 2_000, 4_000], 2_000);
    for (traffic, points) in [("echo", &mut echo), ("fan-out", &mut fan_out)] {
        if only.is_some_and(|only| !traffic.contains(only)) {
            continue;
        }
        for round in 0..setup.rounds {
            for point in points.iter_mut() {
                eprintln!(
                    "{traffic}, {} shards, {} connections, round {round} …",
                    point.shards, point.connections
                );
                let profiled = if point.shards == 1 {
                    setup.profiled(&one, &point.plan, Some(&beside))?
                } else {
                    setup.profiled(&two, &point.plan, None)?
                };
                report.keep(&Round {
                    traffic,
                    shards: point.shards,
                    connections: point.connections,
                    round,
                    syscalls_per_message: profiled.syscalls_per_message,
                    user_us: profiled.user_us,
                })?;
                point.turns.push(profiled.syscalls_per_message);
                point.user_us.push(profiled.user_us);
            }
        }
        let ratio = compare(traffic, points);
        let figure = format!("{traffic}: user time per message, two shards to one");
        report.verdict(Verdict::at_most(figure, ratio, RATIO_AT_MOST));
    }
    report.end(&setup.out)
}

/// For each shard one client thread on each core.
fn placed(mut plan: Plan, cores: &[usize], shards: u32) -> Plan {
    plan.workers = shards * u32::try_from(cores.len()).unwrap_or(1);
    plan.cores = cores.repeat(shards as usize);
    plan.spin = false;
    plan
}

/// Prints the points and returns the ratio of two shards to one at the same turns per message.
fn compare(traffic: &str, points: &[Point]) -> Option<f64> {
    let mut table = Table::new(&[
        traffic,
        "connections",
        "syscalls/message",
        "user µs/message",
        "one shard there",
    ]);
    let single: Vec<(f64, f64)> = points
        .iter()
        .filter(|point| point.shards == 1)
        .filter_map(Point::middle)
        .collect();
    let line = line(&single);
    let mut ratio = None;
    for point in points {
        let Some((turns, user_us)) = point.middle() else {
            continue;
        };
        let there = line.map(|(start, rise)| start + rise * turns);
        if point.shards > 1 {
            ratio = there.map(|there| user_us / there);
        }
        table.row([
            format!("{} shards", point.shards),
            point.connections.to_string(),
            number(turns),
            number(user_us),
            there.map_or_else(String::new, number),
        ]);
    }
    table.print();
    ratio
}

/// The line through `points` by least squares: its value at 0 and its rise.
fn line(points: &[(f64, f64)]) -> Option<(f64, f64)> {
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let spread: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    let common: f64 = points
        .iter()
        .map(|point| (point.0 - x) * (point.1 - y))
        .sum();
    if points.is_empty() {
        return None;
    }
    // Without a spread there is one point, and it is where the other server is compared.
    let rise = if spread > 0.0 { common / spread } else { 0.0 };
    Some((y - rise * x, rise))
}
