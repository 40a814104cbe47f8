//! What is compared.

use std::time::Instant;

use ringwire::load::{EchoPlan, LatencySummary, Plan, Scenario};
use serde::Serialize;

use crate::fanout;
use crate::measure::{PATIENCE, Setup};
use crate::server::Launch;

/// The case that says what a server can do, for [`Kind::Latency`].
pub(super) const CAPACITY: &str = "echo 64 B, 1,000 connections";

/// One kind of traffic, or none.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// What the compared figure counts, with its unit.
    pub(super) figure: &'static str,
    /// ringwire's figure may be at most this times Bun's; for latency, times the best peer's.
    pub(super) at_most: f64,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// Closed loop.
    Echo {
        connections: u32,
        size_bytes: usize,
        outstanding: u32,
    },
    /// One publisher with one publish on the way.
    Fanout { subscribers: u32 },
    /// Opens connections.
    Handshakes { connections: u32 },
    /// Connections that say nothing.
    Idle,
    /// Echo at a rate: half of what the slower one of a pair can do.
    Latency { connections: u32 },
}

/// All cases; smaller when `quick`.
pub(super) fn all(quick: bool) -> Vec<Case> {
    let many = if quick { 200 } else { 1_000 };
    let echo = |name, connections, size_bytes, outstanding, at_most| Case {
        name,
        kind: Kind::Echo {
            connections,
            size_bytes,
            outstanding,
        },
        figure: "CPU µs/message",
        at_most,
    };
    let fanout = |name, subscribers| Case {
        name,
        kind: Kind::Fanout { subscribers },
        figure: "CPU µs/delivery",
        at_most: 0.80,
    };
    vec![
        echo("echo 64 B, 100 connections", 100, 64, 1, 0.83),
        echo(CAPACITY, many, 64, 1, 0.75),
        echo(
            "echo 64 B, 100 connections, 16 outstanding",
            100,
            64,
            16,
            0.47,
        ),
        echo("echo 16 KiB, 100 connections", 100, 16 * 1024, 1, 0.50),
        fanout(
            "fan-out 128 B, 1,000 subscribers",
            if quick { 100 } else { 1_000 },
        ),
        fanout(
            "fan-out 128 B, 10,000 subscribers",
            if quick { 300 } else { 10_000 },
        ),
        Case {
            name: "handshakes",
            kind: Kind::Handshakes {
                connections: if quick { 500 } else { 10_000 },
            },
            figure: "CPU µs/handshake",
            at_most: 0.80,
        },
        Case {
            name: "idle memory",
            kind: Kind::Idle,
            figure: "user bytes/connection",
            at_most: 0.16,
        },
        Case {
            name: "latency of echo 64 B at half load",
            kind: Kind::Latency { connections: many },
            figure: "p99.9 µs",
            at_most: 1.0,
        },
    ]
}

/// The case called [`CAPACITY`].
pub(super) fn capacity(quick: bool) -> Case {
    all(quick)
        .into_iter()
        .find(|case| case.name == CAPACITY)
        .expect("it is in the list above")
}

impl Case {
    /// The traffic; `rate` in messages per second, for latency.
    pub(super) fn plan(&self, setup: &Setup, rate: Option<u32>) -> Plan {
        let echo = |connections, size_bytes, outstanding| {
            let scenario = Scenario::Echo(EchoPlan {
                rate,
                ..EchoPlan::new(size_bytes, outstanding)
            });
            (connections, scenario)
        };
        let (connections, scenario) = match self.kind {
            Kind::Fanout { subscribers } => return fanout::plan(setup, subscribers, 1),
            Kind::Echo {
                connections,
                size_bytes,
                outstanding,
            } => echo(connections, size_bytes, outstanding),
            // A message that finds no free connection is late from when it was due.
            Kind::Latency { connections } => echo(connections, 64, 1),
            Kind::Handshakes { connections } => (connections, Scenario::Idle),
            // Measured by opening connections in two steps, elsewhere.
            Kind::Idle => (1, Scenario::Idle),
        };
        let anywhere = ([127, 0, 0, 1], 0).into();
        let mut plan = Plan::new(anywhere, "/echo", connections, scenario);
        plan.cores = vec![setup.client_core];
        plan.spin = true;
        plan
    }
}

/// What a server did in one window at a given rate.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Window {
    /// From when messages were due.
    pub(super) latency: LatencySummary,
    /// Messages per second that came back.
    pub(super) rate: f64,
    /// Share of the window that the server was busy, over all of its threads.
    pub(super) busy: f64,
}

/// Measures round trips after the warm-up only.
pub(super) fn window(setup: &Setup, launch: &Launch, plan: &Plan) -> anyhow::Result<Window> {
    let (window, _) = setup.with_traffic(launch, plan, |server, load| {
        load.lap(PATIENCE)?;
        let (began, cpu, counts) = (Instant::now(), server.process.cpu()?, load.counts());
        setup.let_window_pass(load)?;
        let latency = load.lap(PATIENCE)?.messages.summary();
        let seconds = began.elapsed().as_secs_f64();
        let cpu = server.process.cpu()?.since(cpu);
        let messages = load.counts().since(counts).messages;
        Ok(Window {
            latency,
            rate: messages as f64 / seconds,
            busy: cpu.total_ns as f64 / 1e9 / seconds,
        })
    })?;
    Ok(window)
}
