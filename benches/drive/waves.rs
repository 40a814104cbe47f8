//! `drive waves`: connections that come and end in waves, and what is left of them.

use std::time::{Duration, Instant};

use ringwire::load::{CONNECTION, ChannelGroup, ChannelsPlan, Ending, Load, Plan, Scenario};
use serde::Serialize;

use crate::control::{Control, held_sockets};
use crate::measure::{PATIENCE, Setup};
use crate::report::{Report, Table, Verdict, number};
use crate::server::{self, Launch, Server};

/// User memory may grow by this much from the second wave to the last one, in MiB: 16 steps of 256 KiB,
/// in which the allocator takes memory and gives it back, for what several waves leave lying about. A
/// leak of 24 bytes per connection would be as much after 180,000.
const GROWN_MIB_AT_MOST: f64 = 4.0;
/// After this time a server has nothing left of a channel that nobody is in: a minute
/// (`docs/protocol.md`), and time to look for it.
const FORGOTTEN: Duration = Duration::from_secs(66);
/// A server notices the end of a whole wave within this time, or it never will.
const NOTICED: Duration = Duration::from_secs(30);
/// The channel that everybody is in, and its rule.
const COMMON: &str = "common-0";
const RULES: &str = "\
[[channels]]
match = \"common-*\"
presence.enabled = true
history.size = 100

[[channels]]
match = \"*\"
";

/// How large it all is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) waves: u32,
    /// Connections of a wave.
    pub(crate) connections: u32,
    /// No channel has been anybody's before; otherwise each wave has those of the one before, dealt out
    /// anew.
    pub(crate) fresh_channels: bool,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Wave {
    wave: u32,
    ready_seconds: f64,
    ended_seconds: f64,
    /// From the end of the last connection to the presence of the control connection alone.
    noticed_seconds: f64,
    private_dirty_bytes: u64,
    /// Whether the server has rested before its memory was read.
    settled: bool,
}

/// Measures and prints; true when every figure was reached.
pub(crate) fn run(setup: &Setup, ringwire: &Launch, size: Size) -> anyhow::Result<bool> {
    let mut report = Report::begin("waves");
    let users = "[users]\ntrusted_peers = [\"127.0.0.0/8\"]\nbroadcast = \"everyone\"\n";
    let launch = ringwire.with_config(&format!("{users}\n{RULES}"));
    report.server(&launch);
    println!();
    // With huge pages a touched byte counts as 2 MiB.
    rustix::thread::disable_transparent_huge_pages(true)?;
    let server = Server::start(&launch, &setup.out)?;
    let mut control = Control::connect(server.address)?;
    control.subscribe(COMMON)?;
    let mut waves = Vec::new();
    for number in 0..size.waves {
        eprintln!("wave {} of {} …", number + 1, size.waves);
        let mut wave = wave(setup, &server, &mut control, size, number)?;
        if number == 1 || number + 1 == size.waves {
            if size.fresh_channels {
                // Idle channels would make the difference.
                control.rest(FORGOTTEN)?;
            }
            let (quiet, limit) = (Duration::from_millis(1_500), Duration::from_secs(15));
            wave.private_dirty_bytes = server.process.settled_dirty_bytes(quiet, limit)?;
            wave.settled = true;
        }
        report.keep(&wave)?;
        waves.push(wave);
    }
    let counted = control.connections()?;
    let held = held_sockets(server.address)?;
    drop(control); // it would not answer the server's farewell
    server.stop()?;
    print(&waves);
    let settled: Vec<f64> = waves
        .iter()
        .filter(|wave| wave.settled)
        .map(|wave| wave.private_dirty_bytes as f64)
        .collect();
    let growth = match settled[..] {
        [second, .., last] => Some((last - second) / f64::from(1 << 20)),
        _ => None,
    };
    report.verdict(Verdict::at_most(
        "MiB of user memory grown from the second wave to the last",
        growth,
        GROWN_MIB_AT_MOST,
    ));
    report.verdict(Verdict::at_most(
        "connections that the server counts in the end",
        Some(counted as f64),
        1.0,
    ));
    report.verdict(Verdict::at_most(
        "connections that the server holds in the end",
        Some(held as f64),
        1.0,
    ));
    report.end(&setup.out)
}

/// One wave: everybody comes, hears a message, and ends; then nobody is there any more.
fn wave(
    setup: &Setup,
    server: &Server,
    control: &mut Control,
    size: Size,
    number: u32,
) -> anyhow::Result<Wave> {
    let load = Load::start(&setup.aimed(&plan(size, number), server))?;
    let ready = load.wait_ready(PATIENCE)?;
    load.burst(0, PATIENCE)?;
    // The publisher does not subscribe; the control connection does.
    let everybody = u64::from(size.connections);
    let present = |control: &mut Control| control.present(COMMON);
    let what = format!("connections in {COMMON} during wave {}", number + 1);
    control.wait_for(&what, everybody, NOTICED, present)?;
    let ending = Instant::now();
    load.finish()?;
    let ended = ending.elapsed();
    let what = format!("connections in {COMMON} after wave {}", number + 1);
    let noticed = control.wait_for(&what, 1, NOTICED, present)?;
    let what = format!("connections after wave {}", number + 1);
    control.wait_for(&what, 1, NOTICED, Control::connections)?;
    let what = format!("open sockets after wave {}", number + 1);
    control.wait_for(&what, 1, NOTICED, |_| held_sockets(server.address))?;
    Ok(Wave {
        wave: number + 1,
        ready_seconds: ready.as_secs_f64(),
        ended_seconds: ended.as_secs_f64(),
        noticed_seconds: noticed.as_secs_f64(),
        private_dirty_bytes: server.process.private_dirty_bytes()?,
        settled: false,
    })
}

/// Each connection of all waves has a user of its own, and a channel.
fn plan(size: Size, number: u32) -> Plan {
    let waves = if size.fresh_channels { size.waves } else { 1 };
    let scenario = Scenario::Channels(ChannelsPlan {
        groups: vec![
            ChannelGroup::new("common", 1, 1),
            ChannelGroup::new("own", waves * size.connections, 1),
        ],
        publishers: 1,
        size_bytes: 128,
        traffic: None,
        held_back: false,
    });
    let anywhere = ([127, 0, 0, 1], 0).into();
    let mut plan = Plan::new(anywhere, "/ws", size.connections, scenario);
    plan.first = number * size.connections;
    plan.headers = vec![server::user_header(CONNECTION)];
    plan.endings = vec![Ending::Reset, Ending::Close, Ending::MidMessage];
    plan
}

fn print(waves: &[Wave]) {
    let mut table = Table::new(&[
        "wave",
        "subscribed, s",
        "ended, s",
        "forgotten, s",
        "user memory, MB",
    ]);
    for wave in waves {
        let memory = number(wave.private_dirty_bytes as f64 / 1e6);
        let settled = if wave.settled { " (settled)" } else { "" };
        table.row([
            format!("{}{settled}", wave.wave),
            number(wave.ready_seconds),
            number(wave.ended_seconds),
            number(wave.noticed_seconds),
            memory,
        ]);
    }
    table.print();
}
