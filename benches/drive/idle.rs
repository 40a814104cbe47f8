//! `drive idle`: what an open connection keeps that says nothing.

use std::collections::BTreeMap;
use std::io;
use std::thread;
use std::time::Duration;

use ringwire::load::process::{SlabCache, slab_bytes, socket_slabs};
use ringwire::load::statistics::{median, slope};
use ringwire::load::{Load, Plan, Process, Scenario};
use rustix::thread::disable_transparent_huge_pages;
use serde::Serialize;

use crate::measure::{PATIENCE, Setup};
use crate::report::{Report, Table, Verdict, number};
use crate::server::{Launch, Server};

/// User memory of an idle connection, in bytes.
const USER_BYTES_AT_MOST: f64 = 128.0;
/// Kernel slab of an idle connection beyond that of a socket that is just held, in bytes.
const KERNEL_BYTES_AT_MOST: f64 = 300.0;

/// Memory at one number of connections.
#[derive(Clone, Debug, Serialize)]
struct Point {
    connections: u32,
    private_dirty_bytes: u64,
    slabs: Option<Vec<SlabCache>>,
}

/// One server at two numbers of connections.
#[derive(Clone, Debug, Serialize)]
struct Growth {
    server: String,
    round: u32,
    few: Point,
    many: Point,
}

impl Growth {
    fn user_bytes(&self) -> Option<f64> {
        self.per_connection(|point| Some(point.private_dirty_bytes))
    }

    fn kernel_bytes(&self) -> Option<f64> {
        self.per_connection(|point| point.slabs.as_deref().map(slab_bytes))
    }

    fn per_connection(&self, bytes: impl Fn(&Point) -> Option<u64>) -> Option<f64> {
        let at = |point: &Point| Some((f64::from(point.connections), bytes(point)? as f64));
        slope(at(&self.few)?, at(&self.many)?)
    }

    /// Growth of each kernel cache, in bytes per connection.
    fn caches(&self) -> BTreeMap<&str, f64> {
        let (Some(few), Some(many)) = (&self.few.slabs, &self.many.slabs) else {
            return BTreeMap::new();
        };
        let mut growth = BTreeMap::<&str, f64>::new();
        let connections = f64::from(self.many.connections - self.few.connections);
        for (caches, sign) in [(few, -1.0), (many, 1.0)] {
            for cache in caches {
                *growth.entry(&cache.name).or_default() += sign * cache.bytes as f64 / connections;
            }
        }
        growth
    }
}

/// Measures and prints; true when every figure was reached. `holder` answers upgrades and then
/// leaves the sockets alone.
pub(crate) fn run(
    setup: &Setup,
    holder: &Launch,
    ringwire: &Launch,
    quick: bool,
) -> anyhow::Result<bool> {
    let mut report = Report::begin("idle");
    report.server(holder);
    report.server(ringwire);
    println!();
    // Servers inherit this. With huge pages a touched byte counts as 2 MiB, and the growth by some
    // thousand connections is the number of huge pages that it happened to cross.
    disable_transparent_huge_pages(true)?;
    let sizes = if quick { [300, 1_500] } else { [3_000, 15_000] };
    let (mut held, mut ours) = (Vec::new(), Vec::new());
    // One after the other and never together: kernel memory is everybody's.
    for round in 0..setup.rounds {
        held.push(growth(setup, holder, sizes, round)?);
        ours.push(growth(setup, ringwire, sizes, round)?);
    }
    for growth in held.iter().chain(&ours) {
        report.keep(growth)?;
    }
    let mut table = Table::new(&[
        "server",
        "user bytes/connection",
        "kernel slab bytes/connection",
    ]);
    for rounds in [&held, &ours] {
        table.row([
            rounds
                .first()
                .map_or_else(String::new, |growth| growth.server.clone()),
            middle(rounds, Growth::user_bytes).map_or_else(unknown, number),
            middle(rounds, Growth::kernel_bytes).map_or_else(unknown, number),
        ]);
    }
    println!(
        "growth from {} to {} connections; kernel memory counts both ends of a connection",
        sizes[0], sizes[1]
    );
    table.print();
    print_caches(&held, &ours);
    let user = middle(&ours, Growth::user_bytes);
    report.verdict(Verdict::at_most(
        "user bytes per connection",
        user,
        USER_BYTES_AT_MOST,
    ));
    let kernel = middle(&ours, Growth::kernel_bytes)
        .zip(middle(&held, Growth::kernel_bytes))
        .map(|(ours, held)| ours - held);
    report.verdict(Verdict::at_most(
        "kernel slab bytes per connection beyond a held socket",
        kernel,
        KERNEL_BYTES_AT_MOST,
    ));
    report.end(&setup.out)
}

fn unknown() -> String {
    "unknown".to_owned()
}

fn middle(rounds: &[Growth], of: impl Fn(&Growth) -> Option<f64>) -> Option<f64> {
    let values: Option<Vec<f64>> = rounds.iter().map(of).collect();
    median(&values?)
}

/// Where the kernel's memory goes: the caches that grow by more than a few bytes per connection.
fn print_caches(held: &[Growth], ours: &[Growth]) {
    let of = |rounds: &[Growth], name: &str| {
        middle(rounds, |growth| growth.caches().get(name).copied()).unwrap_or_default()
    };
    let Some(last) = ours.last() else {
        return;
    };
    let mut table = Table::new(&["kernel cache", "held", "ringwire"]);
    for name in last.caches().keys() {
        let (held, ours) = (of(held, name), of(ours, name));
        if held.max(ours) >= 8.0 {
            table.row([(*name).to_owned(), number(held), number(ours)]);
        }
    }
    table.print();
}

fn growth(setup: &Setup, launch: &Launch, sizes: [u32; 2], round: u32) -> anyhow::Result<Growth> {
    eprintln!("{}, round {round} …", launch.name);
    let server = Server::start(launch, &setup.out)?;
    let anywhere = ([127, 0, 0, 1], 0).into();
    let open = |connections| -> anyhow::Result<Load> {
        let mut plan = Plan::new(anywhere, "/ws", connections, Scenario::Idle);
        // Handshakes by the dozen would leave buffers behind that no idle connection has, and that
        // the allocator gives back when it likes.
        plan.connecting = 1;
        let load = Load::start(&setup.aimed(&plan, &server))?;
        load.wait_ready(PATIENCE)?;
        Ok(load)
    };
    // What the first connections make the server allocate once is not what a connection costs.
    let first = open(sizes[0])?;
    let few = point(&server.process, sizes[0])?;
    let more = open(sizes[1] - sizes[0])?;
    let many = point(&server.process, sizes[1])?;
    first.finish()?;
    more.finish()?;
    server.stop()?;
    // What is still being freed belongs to this server, not to the next one.
    let _ = settled_slabs();
    Ok(Growth {
        server: launch.name.clone(),
        round,
        few,
        many,
    })
}

fn point(process: &Process, connections: u32) -> anyhow::Result<Point> {
    let quiet = Duration::from_millis(1_500);
    let private_dirty_bytes = process.settled_dirty_bytes(quiet, Duration::from_secs(15))?;
    let slabs = settled_slabs();
    if let Err(error) = &slabs {
        eprintln!("note: kernel memory is unknown: /proc/slabinfo: {error}");
    }
    Ok(Point {
        connections,
        private_dirty_bytes,
        slabs: slabs.ok(),
    })
}

/// Kernel memory once it has stopped moving: sockets are freed some time after their process ended.
fn settled_slabs() -> io::Result<Vec<SlabCache>> {
    const STEP: Duration = Duration::from_millis(250);
    const SAME_BYTES: u64 = 64 * 1024;
    let mut last = socket_slabs()?;
    let mut same = 0;
    for _ in 0..120 {
        thread::sleep(STEP);
        let now = socket_slabs()?;
        let moved = slab_bytes(&now).abs_diff(slab_bytes(&last));
        same = if moved < SAME_BYTES { same + 1 } else { 0 };
        last = now;
        if same == 4 {
            break;
        }
    }
    Ok(last)
}
