//! The recipe behind the name: as many connections as are asked for, each subscribed to a channel of its
//! own and to a common one; held, heard, all told something at once, all gone.

use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit};

use super::options::{Options, Target, Tun};
use super::run::{Memory, Run};
use super::watch::FLOOR_BYTES;
use crate::load::machine::memory_kib;
use crate::load::{ChannelGroup, ChannelsPlan, Process, Scenario};

/// What a connection takes on this machine, in bytes: kernel memory of both ends, what the server keeps,
/// and what the load generator does. Measured: 9.7 KB for a pair of sockets, 0.4 KB, 0.7 KB.
const BYTES_PER_CONNECTION: u64 = 11_500;
/// The same where one of the two ends is on another machine.
const BYTES_PER_END: u64 = 5_500;
/// The same with clients behind a TUN device: the server's end, what such a client keeps, and messages to all that
/// wait in the server's sockets. Measured: 4.2 KB and 0.4 KB, 0.3 KB, up to 1.2 KB.
const BYTES_BEHIND_TUN: u64 = 6_200;
/// What the server's configuration says besides. All clients share what cores there are: the answer to a ping
/// that is sent while everybody hears something waits behind all of that, longer than on machines of their own.
pub(super) const CONFIG: &str = "[heartbeat]\ntimeout_ms = 120000\n";
/// The groups of channels.
const OWN: usize = 0;
const COMMON: usize = 1;
/// Length of a published string, in bytes.
const SIZE_BYTES: usize = 128;
/// Every connection has had a heartbeat by then: a ringwire sends one every 25 s by default.
const HEARTBEATS: Duration = Duration::from_secs(40);
/// What the clients are.
const SOCKETS: &str = "ordinary clients, with sockets of this machine";
const TUN: &str =
    "clients in user space behind a TUN device, so that all kernel memory is the server's";
/// Nothing takes longer.
const LIMIT: Duration = Duration::from_secs(1_800);
/// The server has forgotten who left, and the channels that nobody uses any more, within this time: it
/// keeps a channel's numbers for a minute.
const FORGET: Duration = Duration::from_secs(120);

/// Whether there is memory for the connections that are asked for.
///
/// # Errors
/// Says how much is needed, and how much there is.
pub(super) fn check_memory(options: &Options) -> anyhow::Result<()> {
    let connections = options.clients.connections;
    let each = match &options.server {
        _ if options.scenario.tun().is_some() => BYTES_BEHIND_TUN,
        Target::Own(_) => BYTES_PER_CONNECTION,
        Target::Running(running) if running.address.ip().is_loopback() => BYTES_PER_CONNECTION,
        Target::Running(_) => BYTES_PER_END,
    };
    let needed = u64::from(connections) * each + FLOOR_BYTES;
    let available = memory_kib("MemAvailable").unwrap_or(0) * 1024;
    anyhow::ensure!(
        available >= needed,
        "{connections} connections need {:.1} GiB of memory, {} bytes each and {} GiB that stay free; there are \
         {:.1} GiB: use --connections {}",
        gib(needed),
        each,
        FLOOR_BYTES >> 30,
        gib(available),
        available.saturating_sub(FLOOR_BYTES) / each
    );
    Ok(())
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

/// The way in which a million is run: `shards` is how many the run's own server has.
pub(super) fn way(tun: Option<Tun>, server: &Target, shards: Option<usize>) -> String {
    let (own, shards) = match (server, shards) {
        (Target::Own(own), Some(shards)) => (own, shards),
        _ => {
            let clients = if tun.is_some() { TUN } else { SOCKETS };
            return format!("{clients}; a server that ran already");
        }
    };
    let cores = own.cores.len();
    let more = shards > cores;
    let counted =
        |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let mut spread = format!("{} on {}", counted(shards, "shard"), counted(cores, "core"));
    if more && own.shards.is_none() {
        let nofile = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
        spread +=
            &format!(", because the limit of open files ({nofile}) caps what one shard holds");
    }
    match tun {
        Some(_) => format!("(c) {TUN}; {spread}"),
        None if more => format!("(b) {SOCKETS}; {spread}"),
        None => format!("(a) {SOCKETS}; {spread}"),
    }
}

/// Runs the recipe.
pub(super) fn million(run: &mut Run<'_>, hold: Duration) -> anyhow::Result<()> {
    let connections = run.options.clients.connections;
    run.watch.phase("before", &[])?;
    let before = run.memory();
    let scenario = Scenario::Channels(ChannelsPlan {
        groups: vec![
            ChannelGroup::new("own", connections, 1),
            ChannelGroup::new("common", 1, 1),
        ],
        publishers: 1,
        size_bytes: SIZE_BYTES,
        traffic: None,
        held_back: false,
    });
    let path = run.channel_path.clone();
    // One more publishes, and subscribes to nothing.
    let plan = run.plan(&path, connections + 1, scenario);
    run.watch.phase("connect and subscribe", &[])?;
    let load = run.start(&plan)?;
    let seconds = run.opened(&load, connections + 1, &[])?.as_secs_f64();
    let connects = run.watch.connects.clone();
    run.figure("connections", f64::from(load.live().ready - 1), "");
    run.figure("established and subscribed within", seconds, "s");
    run.figure(
        "connections per second",
        f64::from(connections) / seconds,
        "1/s",
    );
    run.latency("connect and upgrade", &connects);
    let held = run.memory();
    run.memory_figures(before, held, connections);

    run.watch.phase("hold, with heartbeats", &[&load])?;
    let (cpu, pings, began) = (run.server_cpu_ns(), load.pings(), Instant::now());
    run.watch.for_a_time(&[&load], hold)?;
    let (pings, held_for) = (load.pings() - pings, began.elapsed());
    let used = run
        .server_cpu_ns()
        .zip(cpu)
        .map(|(now, before)| now.saturating_sub(before));
    run.figure("heartbeats answered", pings as f64, "");
    if hold >= HEARTBEATS {
        let detail = format!("{pings} pings");
        run.check(
            "heartbeats came while they were held",
            pings >= connections.into(),
            detail,
        );
    }
    if let Some(used_ns) = used {
        let share = used_ns as f64 / held_for.as_nanos().max(1) as f64 * 100.0;
        run.figure("server CPU while they are held", share, "% of a core");
        if pings > 0 {
            let each = used_ns as f64 / 1e3 / pings as f64;
            run.figure("server CPU per heartbeat", each, "µs");
        }
    }

    run.watch.phase("everyone says something", &[&load])?;
    let (cpu, began) = (run.server_cpu_ns(), Instant::now());
    load.everyone(OWN, LIMIT)?;
    let seconds = began.elapsed().as_secs_f64();
    let used = run
        .server_cpu_ns()
        .zip(cpu)
        .map(|(now, before)| now.saturating_sub(before));
    run.watch.sample(&[&load])?;
    run.latency(
        "publish to the own channel, and back",
        &run.watch.messages.clone(),
    );
    run.figure(
        "one message of each connection came back within",
        seconds,
        "s",
    );
    if let Some(used_ns) = used {
        let each = used_ns as f64 / 1e3 / f64::from(connections);
        run.figure("server CPU per message and its delivery", each, "µs");
    }
    let said = load.counts().messages;
    run.check(
        "every connection got back what it said",
        said == u64::from(connections),
        format!("{said} of {connections}"),
    );

    run.watch.phase("one message to all", &[&load])?;
    let cpu = run.server_cpu_ns();
    let took = load.burst(COMMON, LIMIT)?;
    let used = run
        .server_cpu_ns()
        .zip(cpu)
        .map(|(now, before)| now.saturating_sub(before));
    run.watch.sample(&[&load])?;
    run.latency(
        "from publish to each subscriber",
        &run.watch.messages.clone(),
    );
    run.figure(
        "one message to all, until the last one",
        took.as_secs_f64(),
        "s",
    );
    if let Some(used_ns) = used {
        let each = used_ns as f64 / 1e3 / f64::from(connections);
        run.figure("server CPU per delivery", each, "µs");
    }
    let delivered = load.counts().messages - said;
    run.check(
        "every connection got the message to all",
        delivered == u64::from(connections),
        format!("{delivered} of {connections}"),
    );
    let open = load.live().ready;
    run.check(
        format!("{connections} connections are open at the end"),
        open == connections + 1,
        format!("{} of {connections}", open - 1),
    );

    run.network_figures(&load);
    run.watch.phase("all disconnect", &[&load])?;
    let began = Instant::now();
    run.finish(load, &[])?;
    run.figure(
        "all disconnected within",
        began.elapsed().as_secs_f64(),
        "s",
    );
    gone(run, before, held, connections)
}

/// Whether memory came back.
fn gone(run: &mut Run<'_>, before: Memory, held: Memory, connections: u32) -> anyhow::Result<()> {
    let Some(had) = held.grown_since(before) else {
        return Ok(());
    };
    // What stays: buffers that were touched for the first time, and what the allocator keeps for later.
    let most = had / 2.0 + 16e6;
    let began = Instant::now();
    let mut kept = f64::INFINITY;
    let process = run.watch.process().cloned();
    run.watch.until(&[], 2 * FORGET, || {
        let now = process.as_ref().map(Process::private_dirty_bytes);
        if let Some(Ok(bytes)) = now {
            kept = before.user_grown_to(bytes);
        }
        if kept <= most {
            return 1.0;
        }
        began.elapsed().as_secs_f64() / FORGET.as_secs_f64()
    })?;
    run.figure("server memory kept after all had gone", kept / 1e6, "MB");
    run.figure("that came down within", began.elapsed().as_secs_f64(), "s");
    run.check(
        "the server gave its memory back",
        kept <= most,
        format!(
            "{:.1} MB of {:.1} MB for {connections} connections are kept; at most {:.1}",
            kept / 1e6,
            had / 1e6,
            most / 1e6
        ),
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::options::Own;
    use super::*;

    #[test]
    fn a_report_says_how_it_was_run() {
        let own = |cores, shards| {
            Target::Own(Own {
                program: "ringwire".into(),
                cores,
                shards,
                config: String::new(),
            })
        };
        let tun = Some(Tun { queue: 10 });
        let tuned = way(None, &own(vec![0, 1], None), Some(2));
        assert!(tuned.starts_with("(a) ordinary clients"), "{tuned}");
        assert!(tuned.ends_with("2 shards on 2 cores"), "{tuned}");
        let many = way(None, &own(vec![0], None), Some(53));
        assert!(many.starts_with("(b) ordinary clients"), "{many}");
        assert!(many.contains("53 shards on 1 core, because"), "{many}");
        let asked_for = way(None, &own(vec![0], Some(2)), Some(2));
        assert!(asked_for.starts_with("(b) "), "{asked_for}");
        assert!(!asked_for.contains("because"), "{asked_for}");
        let behind = way(tun, &own(vec![0], None), Some(1));
        assert!(behind.starts_with("(c) clients in user space"), "{behind}");
        assert!(behind.ends_with("1 shard on 1 core"), "{behind}");
    }
}
