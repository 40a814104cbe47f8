//! Connections that stay: idle, ramp, echo, latency, burst.

use std::time::{Duration, Instant};

use super::options::Echoes;
use super::run::Run;
use crate::load::{EchoPlan, Latencies, Load, Scenario};

/// Traffic before the measured window, for queues and caches to settle.
const WARM_UP: Duration = Duration::from_millis(500);
/// A burst is over within this time.
const BURST: Duration = Duration::from_secs(60);

/// Of so many connections, one opens before the others: what the server touches for the first time is not
/// what a connection costs.
const FIRST: u32 = 10;

/// Opens connections, at a rate or as fast as they come, and holds them.
pub(super) fn idle(run: &mut Run<'_>, rate: Option<u32>, hold: Duration) -> anyhow::Result<()> {
    let connections = run.options.clients.connections;
    let path = run.channel_path.clone();
    let few = connections / FIRST;
    let first = match few {
        0 => None,
        few => {
            let plan = run.plan(&path, few, Scenario::Idle);
            Some(run.open("connect the first", &plan)?)
        }
    };
    let before = run.memory();
    let mut plan = run.plan(&path, connections - few, Scenario::Idle);
    plan.connect_rate = rate;
    run.watch.phase("connect", &[])?;
    let load = Load::start(&plan)?;
    let beside: Vec<&Load> = first.iter().collect();
    let took = run.opened(&load, connections - few, &beside)?;
    let seconds = took.as_secs_f64();
    let connects = run.watch.connects.clone();
    let after = run.memory();
    let all: Vec<&Load> = first.iter().chain([&load]).collect();
    run.watch.phase("hold", &all)?;
    let (cpu, began) = (run.server_cpu_ns(), Instant::now());
    run.watch.for_a_time(&all, hold)?;
    let used = run
        .server_cpu_ns()
        .zip(cpu)
        .map(|(now, before)| now.saturating_sub(before));
    let held = began.elapsed();
    let (_, live) = run.watch.totals(&all);
    let came = load.live().ready;
    run.figure("connections", f64::from(live.ready), "");
    run.figure(format!("{came} of them connected within"), seconds, "s");
    run.figure("connections per second", f64::from(came) / seconds, "1/s");
    run.memory_figures(before, after, came);
    if let Some(used_ns) = used {
        let share = used_ns as f64 / held.as_nanos().max(1) as f64 * 100.0;
        run.figure("server CPU while they are idle", share, "% of a core");
    }
    run.latency("connect and upgrade", &connects);
    if let Some(rate) = rate {
        run.check_rate("connections", f64::from(came), seconds, rate);
    }
    run.check_open(live.ready, live.failed, load.first_failure());
    run.finish(load, &first.iter().collect::<Vec<_>>())?;
    if let Some(first) = first {
        run.finish(first, &[])?;
    }
    Ok(())
}

/// Echo traffic, as fast as it comes back or at a rate.
pub(super) fn echo(run: &mut Run<'_>, echoes: Echoes) -> anyhow::Result<()> {
    let scenario = Scenario::Echo(EchoPlan {
        rate: echoes.rate,
        ..EchoPlan::new(echoes.size_bytes, echoes.depth)
    });
    let path = run.echo_path.clone();
    let plan = run.plan(&path, run.options.clients.connections, scenario);
    let load = run.open("connect", &plan)?;
    run.watch.phase("warm up", &[&load])?;
    load.resume();
    run.watch.for_a_time(&[&load], WARM_UP)?;
    run.watch.phase("echo", &[&load])?;
    let (cpu, counts, began) = (run.server_cpu_ns(), load.counts(), Instant::now());
    run.watch.for_a_time(&[&load], echoes.duration)?;
    let seconds = began.elapsed().as_secs_f64();
    let counts = load.counts().since(counts);
    let used = run
        .server_cpu_ns()
        .zip(cpu)
        .map(|(now, before)| now.saturating_sub(before));
    let latencies = run.watch.messages.clone();
    run.pause(&load, &[])?;
    let per_second = counts.messages as f64 / seconds;
    run.figure("messages per second", per_second, "1/s");
    run.figure(
        "payload per second, each way",
        counts.bytes as f64 / seconds / 1e6,
        "MB/s",
    );
    if let Some(used_ns) = used {
        let messages = counts.messages.max(1) as f64;
        run.figure(
            "server CPU per message",
            used_ns as f64 / 1e3 / messages,
            "µs",
        );
        run.figure("server CPU", used_ns as f64 / seconds / 1e7, "% of a core");
    }
    run.latency(round_trip(echoes.rate), &latencies);
    if let Some(rate) = echoes.rate {
        run.check_rate("answers", counts.messages as f64, seconds, rate);
    }
    run.finish(load, &[])?;
    Ok(())
}

fn round_trip(rate: Option<u32>) -> &'static str {
    match rate {
        Some(_) => "from when it was due to the answer",
        None => "round trip",
    }
}

/// Echo at a rate, in three parts: whether it gets slower.
pub(super) fn latency(
    run: &mut Run<'_>,
    size_bytes: usize,
    rate: u32,
    duration: Duration,
) -> anyhow::Result<()> {
    let scenario = Scenario::Echo(EchoPlan {
        rate: Some(rate),
        ..EchoPlan::new(size_bytes, 1)
    });
    let path = run.echo_path.clone();
    let plan = run.plan(&path, run.options.clients.connections, scenario);
    let load = run.open("connect", &plan)?;
    run.watch.phase("warm up", &[&load])?;
    load.resume();
    run.watch.for_a_time(&[&load], WARM_UP)?;
    let mut all = Latencies::new();
    let mut parts = Vec::new();
    let counts = load.counts();
    let began = Instant::now();
    for part in ["first third", "second third", "last third"] {
        run.watch.phase(part, &[&load])?;
        run.watch.for_a_time(&[&load], duration / 3)?;
        run.latency(part, &run.watch.messages.clone());
        parts.push(run.watch.messages.summary());
        all.merge(&run.watch.messages);
    }
    let seconds = began.elapsed().as_secs_f64();
    let per_second = load.counts().since(counts).messages as f64 / seconds;
    run.pause(&load, &[])?;
    run.latency("all of it", &all);
    run.figure("messages per second", per_second, "1/s");
    run.figure(
        "p99, last third to first",
        parts[2].p99_us / parts[0].p99_us,
        "",
    );
    run.check_rate("answers", per_second * seconds, seconds, rate);
    run.finish(load, &[])?;
    Ok(())
}

/// Silence, then a message on every connection at once.
pub(super) fn burst(
    run: &mut Run<'_>,
    size_bytes: usize,
    silence: Duration,
    rounds: u32,
) -> anyhow::Result<()> {
    let connections = run.options.clients.connections;
    let scenario = Scenario::Echo(EchoPlan {
        messages: Some(1),
        ..EchoPlan::new(size_bytes, 1)
    });
    let path = run.echo_path.clone();
    let plan = run.plan(&path, connections, scenario);
    let load = run.open("connect", &plan)?;
    let all = u64::from(load.live().ready);
    let (mut answers, mut whole) = (Latencies::new(), Latencies::new());
    for round in 1..=rounds {
        run.watch.phase(&format!("silence {round}"), &[&load])?;
        run.watch.for_a_time(&[&load], silence)?;
        run.watch.phase(&format!("burst {round}"), &[&load])?;
        let (before, began) = (load.counts().messages, Instant::now());
        load.resume();
        load.wait_messages(before + all, BURST)?;
        whole.record_ns(began.elapsed().as_nanos() as u64);
        run.pause(&load, &[])?;
        answers.merge(&run.watch.messages);
    }
    let counts = load.counts().messages;
    let longest = whole.summary();
    run.figure("messages of a burst", all as f64, "");
    run.figure(
        "messages per second in a burst",
        all as f64 / longest.p50_us * 1e6,
        "1/s",
    );
    run.latency("each answer", &answers);
    run.latency("until the last answer", &whole);
    run.check(
        "every connection had one answer in each burst",
        counts == all * u64::from(rounds),
        format!("{counts} of {}", all * u64::from(rounds)),
    );
    run.finish(load, &[])?;
    Ok(())
}
