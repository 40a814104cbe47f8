//! Publishes to subscribers, who all read, or some of whom stop: fanout, slow.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::options::{Publishes, Target};
use super::run::Run;
use super::watch::PATIENCE;
use crate::load::{ChannelGroup, ChannelsPlan, Live, Load, Plan, Scenario, Traffic};

/// Traffic before the measured window.
const WARM_UP: Duration = Duration::from_millis(500);
/// Receive buffer of those that stop reading, in bytes: what does not fit there waits at the server. (The
/// kernel's own choice grows to many megabytes.)
const STALLED_BUFFER_BYTES: u32 = 32 << 10;
/// What a subscriber has to miss so that every buffer between it and the publisher overflows: the kernel's, of
/// 4 MiB by default (the third number of net.ipv4.tcp_wmem), and the server's outbox, of 1 MiB.
const OVERFLOW_BYTES: f64 = 8e6;
/// For that, they don't read for so many times the duration at most.
const LONGER: u32 = 10;
/// Those that read again have read all by then.
const DRAIN: Duration = Duration::from_secs(5);

/// Publishes to subscribers.
pub(super) fn fanout(run: &mut Run<'_>, publishes: Publishes) -> anyhow::Result<()> {
    let subscribers = run.options.clients.connections;
    let plan = publishing(run, &channels(), publishes, subscribers);
    let load = run.open("connect and subscribe", &plan)?;
    run.watch.phase("warm up", &[&load])?;
    load.resume();
    run.watch.for_a_time(&[&load], WARM_UP)?;
    run.watch.phase("publish", &[&load])?;
    let (cpu, counts, began) = (run.server_cpu_ns(), load.counts(), Instant::now());
    run.watch.for_a_time(&[&load], publishes.duration)?;
    let seconds = began.elapsed().as_secs_f64();
    let counts = load.counts().since(counts);
    let used = run
        .server_cpu_ns()
        .zip(cpu)
        .map(|(now, before)| now.saturating_sub(before));
    let (each, last) = (run.watch.messages.clone(), run.watch.lasts.clone());
    run.pause(&load, &[])?;
    run.figure(
        "deliveries per second",
        counts.messages as f64 / seconds,
        "1/s",
    );
    run.figure(
        "publishes per second",
        counts.publishes as f64 / seconds,
        "1/s",
    );
    if let Some(used_ns) = used {
        let deliveries = counts.messages.max(1) as f64;
        run.figure(
            "server CPU per delivery",
            used_ns as f64 / 1e3 / deliveries,
            "µs",
        );
        run.figure("server CPU", used_ns as f64 / seconds / 1e7, "% of a core");
    }
    if let Some(rate) = publishes.rate {
        let rate = rate * publishes.publishers;
        run.check_rate("publishes", counts.publishes as f64, seconds, rate);
    }
    run.latency("from publish to each subscriber", &each);
    run.latency("from publish to the last subscriber", &last);
    complete(run, &load);
    run.finish(load, &[])?;
    Ok(())
}

/// Publishes beside subscribers that stop reading.
pub(super) fn slow(run: &mut Run<'_>, percent: u32, publishes: Publishes) -> anyhow::Result<()> {
    let subscribers = run.options.clients.connections;
    let stalled = (u64::from(subscribers) * u64::from(percent) / 100).max(1) as u32;
    let channels = channels();
    let plan = publishing(run, &channels, publishes, subscribers - stalled);
    let load = run.open("connect and subscribe", &plan)?;
    load.resume();
    run.watch.for_a_time(&[&load], WARM_UP)?;
    run.watch.phase("everybody reads", &[&load])?;
    run.watch.for_a_time(&[&load], publishes.duration)?;
    let quiet = run.watch.messages.clone();
    let scenario = Scenario::Channels(ChannelsPlan {
        size_bytes: publishes.size_bytes,
        ..ChannelsPlan::subscribing(vec![group(&channels, publishes)])
    });
    let path = run.channel_path.clone();
    let mut plan = run.plan(&path, stalled, scenario);
    plan.stall = true;
    plan.receive_buffer_bytes = Some(STALLED_BUFFER_BYTES);
    run.watch
        .phase("some subscribe and stop reading", &[&load])?;
    let stopped = Load::start(&plan)?;
    let ready = || {
        let live = stopped.live();
        f64::from(live.ready) / f64::from(stalled)
    };
    run.watch
        .until(&[&load, &stopped], Duration::from_secs(120), ready)?;
    run.watch.phase("they don't read", &[&load])?;
    // On a busy machine it takes longer until there is too much for those that don't read.
    let (began, before) = (Instant::now(), load.counts().publishes);
    run.watch.until(
        &[&load, &stopped],
        LONGER * publishes.duration + PATIENCE,
        || {
            let time = began.elapsed().as_secs_f64() / publishes.duration.as_secs_f64().max(0.001);
            let published = (load.counts().publishes - before) * publishes.size_bytes as u64;
            let each = published as f64 / f64::from(publishes.channels);
            let enough = (each / OVERFLOW_BYTES).max(time / f64::from(LONGER));
            time.min(enough)
        },
    )?;
    let beside = run.watch.messages.clone();
    run.pause(&load, &[&stopped])?;
    run.watch.phase("they read again", &[&load, &stopped])?;
    stopped.drain();
    let began = Instant::now();
    run.watch.until(&[&load, &stopped], 2 * DRAIN, || {
        let cut = stopped.live().cut as f64 / f64::from(stalled);
        cut.max(began.elapsed().as_secs_f64() / DRAIN.as_secs_f64())
    })?;
    let live = stopped.live();
    run.figure("subscribers that stopped reading", f64::from(stalled), "");
    run.figure("of these, closed by the server", live.cut as f64, "");
    let unread_mb = live.unread_bytes as f64 / f64::from(stalled) / 1e6;
    run.figure("unread when they read again, each", unread_mb, "MB");
    let ratio = beside.summary().p999_us / quiet.summary().p999_us;
    run.figure("p99.9 of the others, to when everybody read", ratio, "");
    run.latency("everybody reads", &quiet);
    run.latency("some don't read", &beside);
    complete(run, &load);
    behind(run, live, stalled);
    run.finish(load, &[&stopped])?;
    run.finish(stopped, &[])?;
    Ok(())
}

/// Those who publish, and those who hear it.
fn publishing(run: &mut Run<'_>, channels: &str, publishes: Publishes, subscribers: u32) -> Plan {
    let scenario = Scenario::Channels(ChannelsPlan {
        groups: vec![group(channels, publishes)],
        publishers: publishes.publishers,
        size_bytes: publishes.size_bytes,
        traffic: Some(Traffic {
            group: 0,
            outstanding: publishes.depth,
            rate: publishes.rate,
        }),
        held_back: false,
    });
    let path = run.channel_path.clone();
    run.plan(&path, subscribers + publishes.publishers, scenario)
}

fn group(name: &str, publishes: Publishes) -> ChannelGroup {
    ChannelGroup::new(name, publishes.channels, 1)
}

/// Channels that nobody else uses: a server that runs already may have others.
fn channels() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    format!("bench-{:x}", now.map_or(0, |now| now.as_nanos()))
}

/// Whether those that stopped reading were any trouble to the server: otherwise nothing was measured.
fn behind(run: &mut Run<'_>, live: Live, stalled: u32) {
    // A server of our own closes them when its outbox is full; another one may have a rule by which they lose
    // messages instead.
    let own = matches!(run.options.server, Target::Own(_));
    let behind = if own {
        live.cut
    } else {
        live.cut.max(live.behind)
    };
    let held = behind >= stalled.into();
    let mut detail = format!("{behind} of {stalled}");
    if !held {
        detail += &format!(
            "; the others had {:.0} KB unread on average, which the kernel's buffers hold: publish more \
             (--size, --rate, --duration)",
            live.unread_bytes as f64 / f64::from(stalled) / 1e3
        );
    }
    let name = if own {
        "the server closed all that did not read"
    } else {
        "all that did not read were closed, or more waited for them at the server than they had room for"
    };
    run.check(name, held, detail);
}

/// (What is missing, doubled or changed has failed the run before: here nothing is on the way.)
fn complete(run: &mut Run<'_>, load: &Load) {
    let counts = load.counts();
    run.check(
        "every publish reached every subscriber once, in order",
        counts.publishes > 0,
        format!(
            "{} publishes, {} deliveries",
            counts.publishes, counts.messages
        ),
    );
}
