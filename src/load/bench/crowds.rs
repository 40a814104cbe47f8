//! Many connections at once: churn, storm, mass-disconnect.

use std::time::Instant;

use super::options::Steady;
use super::run::Run;
use crate::load::statistics::median;
use crate::load::{Ending, Latencies, Load, Scenario};

/// Handshakes in flight for each client thread when everybody comes back at once, unless somebody says
/// otherwise.
const RUSH: u32 = 1_024;

/// Connections come and go, beside steady traffic.
pub(super) fn churn(
    run: &mut Run<'_>,
    rate: u32,
    stay_ms: u32,
    steady: Steady,
) -> anyhow::Result<()> {
    let echo = run.steady(steady)?;
    run.watch.phase("quiet", &[&echo])?;
    let cpu = run.server_cpu_ns();
    run.watch.for_a_time(&[&echo], steady.duration)?;
    let quiet = run.watch.messages.clone();
    let quiet_cpu = run
        .server_cpu_ns()
        .zip(cpu)
        .map(|(now, before)| now.saturating_sub(before));
    let path = run.channel_path.clone();
    let mut plan = run.plan(&path, run.options.clients.connections, Scenario::Idle);
    plan.stay_ms = Some(stay_ms);
    plan.connect_rate = Some(rate);
    plan.connecting = run.options.clients.connecting.unwrap_or(RUSH);
    plan.endings = vec![Ending::Close, Ending::Reset];
    run.watch.phase("connections come and go", &[&echo])?;
    let cpu = run.server_cpu_ns();
    let (coming, began) = (Load::start(&plan)?, Instant::now());
    run.watch.for_a_time(&[&echo, &coming], steady.duration)?;
    let seconds = began.elapsed().as_secs_f64();
    let used = run
        .server_cpu_ns()
        .zip(cpu)
        .map(|(now, before)| now.saturating_sub(before));
    let (beside, connects) = (run.watch.messages.clone(), run.watch.connects.clone());
    let live = coming.live();
    let per_second = live.opened as f64 / seconds;
    run.figure("connections per second", per_second, "1/s");
    run.figure("ended", live.left as f64, "");
    if let (Some(used), Some(quiet)) = (used, quiet_cpu) {
        let each = (used as f64 - quiet as f64) / 1e3 / live.opened.max(1) as f64;
        run.figure(
            "server CPU per connection, beyond the quiet time's",
            each,
            "µs",
        );
    }
    beside_quiet(run, &quiet, &beside);
    run.latency("connect and upgrade", &connects);
    run.check_rate("connections", live.opened as f64, seconds, rate);
    run.pause(&echo, &[&coming])?;
    run.finish(coming, &[&echo])?;
    run.finish(echo, &[])?;
    Ok(())
}

/// All connections are cut, and all come back at once.
pub(super) fn storm(run: &mut Run<'_>, rounds: u32) -> anyhow::Result<()> {
    let connections = run.options.clients.connections;
    let path = run.channel_path.clone();
    let mut plan = run.plan(&path, connections, Scenario::Idle);
    let mut load = run.open("connect", &plan)?;
    plan.connecting = run.options.clients.connecting.unwrap_or(RUSH);
    let (mut connects, mut took) = (Latencies::new(), Vec::new());
    for round in 1..=rounds {
        run.finish(load, &[])?;
        let (all, seconds) = run.open_timed(&format!("storm {round}"), &plan)?;
        load = all;
        took.push(seconds.as_secs_f64());
        connects.merge(&run.watch.connects);
    }
    let live = load.live();
    let median = median(&took).unwrap_or_default();
    run.figure("all were back within (median)", median, "s");
    run.figure(
        "connections per second",
        f64::from(live.ready) / median,
        "1/s",
    );
    run.latency("connect and upgrade", &connects);
    run.check_open(live.ready, live.failed, load.first_failure());
    run.finish(load, &[])?;
    Ok(())
}

/// Everybody leaves at once but those with steady traffic.
pub(super) fn mass_disconnect(run: &mut Run<'_>, steady: Steady) -> anyhow::Result<()> {
    let connections = run.options.clients.connections;
    let echo = run.steady(steady)?;
    let before = run.memory();
    let path = run.channel_path.clone();
    let plan = run.plan(&path, connections, Scenario::Idle);
    run.watch.phase("connect", &[&echo])?;
    let crowd = Load::start(&plan)?;
    run.opened(&crowd, connections, &[&echo])?;
    let with = run.memory();
    run.watch.phase("quiet", &[&echo, &crowd])?;
    run.watch.for_a_time(&[&echo, &crowd], steady.duration)?;
    let quiet = run.watch.messages.clone();
    run.watch.phase("all disconnect", &[&echo, &crowd])?;
    let began = Instant::now();
    let live = crowd.live();
    let counts = crowd.finish()?.counts;
    run.watch.ended(counts, live);
    let closed = began.elapsed();
    run.watch
        .for_a_time(&[&echo], steady.duration.saturating_sub(closed))?;
    let leaving = run.watch.messages.clone();
    let after = run.memory();
    run.figure("connections that ended at once", connections.into(), "");
    run.figure("closed within", closed.as_secs_f64(), "s");
    run.memory_figures(before, with, connections);
    if let Some(kept) = after.grown_since(before) {
        run.figure("server memory kept after they had gone", kept / 1e6, "MB");
    }
    beside_quiet(run, &quiet, &leaving);
    run.pause(&echo, &[])?;
    run.finish(echo, &[])?;
    Ok(())
}

/// What those with steady traffic noticed.
fn beside_quiet(run: &mut Run<'_>, quiet: &Latencies, event: &Latencies) {
    let ratio = event.summary().p999_us / quiet.summary().p999_us;
    run.figure("p99.9 of steady traffic, to the quiet time", ratio, "");
    run.latency("steady traffic, quiet", quiet);
    run.latency("steady traffic, meanwhile", event);
}
