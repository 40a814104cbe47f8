//! `drive hold`: 100,000 connections to one process, each subscribed, one message to all.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use ringwire::load::{FanoutPlan, Load, Plan, Scenario, WORKER_CONNECTIONS_MAX};
use serde::Serialize;

use crate::measure::Setup;
use crate::report::{Report, Table, Verdict, number};
use crate::server::{Launch, Server};

/// All of it must be done within this time.
const SECONDS_AT_MOST: f64 = 60.0;
/// After this time there is no point in waiting on.
const LIMIT: Duration = Duration::from_secs(180);

#[derive(Serialize)]
struct Held {
    connections: u32,
    established_seconds: f64,
    delivered_seconds: f64,
    deliveries: u64,
    server_private_dirty_bytes: u64,
    server_cpu_seconds: f64,
    server_descriptors: usize,
}

/// Measures and prints; true when all connections got the message in time.
pub(crate) fn run(setup: &Setup, ringwire: &Launch, connections: u32) -> anyhow::Result<bool> {
    let mut report = Report::begin("hold");
    report.server(ringwire);
    println!();
    let began = Instant::now();
    let server = Server::start(ringwire, &setup.out)?;
    let load = Load::start(&plan(connections, &server))?;
    let established = load.wait_ready(LIMIT)?;
    println!(
        "{connections} connections established and subscribed after {:.1} s",
        established.as_secs_f64()
    );
    let published = Instant::now();
    load.resume();
    load.wait_publishes(1, LIMIT)?;
    let delivered = published.elapsed();
    let deliveries = load.counts().messages;
    println!(
        "one message received by {deliveries} after {:.2} s",
        delivered.as_secs_f64()
    );
    let held = Held {
        connections,
        established_seconds: established.as_secs_f64(),
        delivered_seconds: delivered.as_secs_f64(),
        deliveries,
        server_private_dirty_bytes: server.process.private_dirty_bytes()?,
        server_cpu_seconds: server.process.cpu()?.total_ns as f64 / 1e9,
        server_descriptors: std::fs::read_dir(format!("/proc/{}/fd", server.pid()))?.count(),
    };
    let seconds = began.elapsed().as_secs_f64();
    load.finish()?;
    server.stop()?;
    let mut table = Table::new(&["server", ""]);
    let megabytes = held.server_private_dirty_bytes as f64 / 1e6;
    table.row(["user memory, MB".to_owned(), number(megabytes)]);
    table.row(["CPU, s".to_owned(), number(held.server_cpu_seconds)]);
    table.row([
        "file descriptors".to_owned(),
        held.server_descriptors.to_string(),
    ]);
    println!();
    table.print();
    report.keep(&held)?;
    // The publisher does not subscribe.
    let all = f64::from(connections - 1);
    report.verdict(Verdict::at_least(
        "deliveries",
        Some(deliveries as f64),
        all,
    ));
    report.verdict(Verdict::at_most(
        "seconds in all",
        Some(seconds),
        SECONDS_AT_MOST,
    ));
    report.end(&setup.out)
}

/// Client rings of 19,000 connections at most, each from an address of its own.
fn plan(connections: u32, server: &Server) -> Plan {
    let scenario = Scenario::Fanout(FanoutPlan {
        channel: "everyone".to_owned(),
        publishers: 1,
        size_bytes: 128,
        outstanding: 1,
        publishes: Some(1),
        rate: None,
    });
    let mut plan = Plan::new(server.address, "/ws", connections, scenario);
    plan.workers = connections.div_ceil(WORKER_CONNECTIONS_MAX);
    plan.sources = (0..plan.workers)
        .map(|worker| IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2 + worker as u8)))
        .collect();
    plan
}
