//! `drive idle`: what an open connection keeps that says nothing, and what its subscriptions and its
//! user add to that.

use std::collections::BTreeMap;
use std::time::Duration;

use ringwire::load::statistics::median;
use ringwire::load::{CONNECTION, ChannelGroup, ChannelsPlan, Load, Plan, Process, Scenario};
use rustix::thread::disable_transparent_huge_pages;
use serde::Serialize;

use crate::measure::{PATIENCE, Setup};
use crate::memory::{self, Point, settled_slabs};
use crate::report::{Report, Table, Verdict, number};
use crate::server::{self, Launch, Server};

/// User memory of an idle connection, in bytes.
const USER_BYTES_AT_MOST: f64 = 128.0;
/// Kernel slab of an idle connection beyond that of a socket that is just held, in bytes.
const KERNEL_BYTES_AT_MOST: f64 = 300.0;
/// User memory of a connection that is subscribed to the same channel as all others, in bytes.
const COMMON_BYTES_AT_MOST: f64 = 160.0;
/// The same with a user id, in a channel that has presence.
const PRESENT_BYTES_AT_MOST: f64 = 224.0;
/// User memory of each further subscription to a channel that nobody else is in, in bytes.
const OWN_BYTES_AT_MOST: f64 = 400.0;
/// Channels of its own that a connection has, where further ones are measured.
const OWN_CHANNELS: u32 = 5;

/// What the connections do that are measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Case {
    /// Nothing.
    Idle,
    /// They are subscribed to one channel, all of them to the same.
    Common,
    /// As before; each belongs to a user of its own, and the channel has presence.
    Present,
    /// They are subscribed to as many channels that no other connection is in.
    Own(u32),
    /// As before; each belongs to a user of its own, and the channels have presence.
    OwnPresent(u32),
}

impl Case {
    fn name(self) -> String {
        match self {
            Self::Idle => "idle".to_owned(),
            Self::Common => "one common channel".to_owned(),
            Self::Present => "user and presence, one common channel".to_owned(),
            Self::Own(1) => "1 channel of its own".to_owned(),
            Self::Own(channels) => format!("{channels} channels of its own"),
            Self::OwnPresent(channels) => {
                format!("user and presence, {}", Self::Own(channels).name())
            }
        }
    }

    /// A plan for the connections from `first` on, of `all` that there will be.
    fn plan(self, first: u32, connections: u32, all: u32) -> Plan {
        let group = match self {
            Self::Idle => None,
            Self::Common | Self::Present => Some(ChannelGroup::new("common", 1, 1)),
            Self::Own(each) | Self::OwnPresent(each) => {
                Some(ChannelGroup::new("own", all * each, each))
            }
        };
        let scenario = group.map_or(Scenario::Idle, |group| {
            Scenario::Channels(ChannelsPlan::subscribing(vec![group]))
        });
        let anywhere = ([127, 0, 0, 1], 0).into();
        let mut plan = Plan::new(anywhere, "/ws", connections, scenario);
        plan.first = first;
        if matches!(self, Self::Present | Self::OwnPresent(_)) {
            plan.headers = vec![server::user_header(CONNECTION)];
        }
        // Handshakes by the dozen would leave buffers behind that no idle connection has, and that
        // the allocator gives back when it likes.
        plan.connecting = 1;
        plan
    }
}

/// One server at two numbers of connections.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Growth {
    server: String,
    case: String,
    round: u32,
    few: Point,
    many: Point,
}

impl Growth {
    /// User memory per connection, in bytes.
    pub(crate) fn user_bytes(&self) -> Option<f64> {
        self.per_connection(Point::user_bytes)
    }

    /// Kernel slab per connection with both of its ends, in bytes; `None` where it cannot be read.
    pub(crate) fn kernel_bytes(&self) -> Option<f64> {
        self.per_connection(Point::kernel_bytes)
    }

    fn per_connection(&self, bytes: impl Fn(&Point) -> Option<u64>) -> Option<f64> {
        memory::per_connection(&self.few, &self.many, bytes)
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
    let present = ringwire.with_config(&format!("{}{}", server::USERS, server::PRESENCE));
    report.server(&present);
    println!();
    // Servers inherit this. With huge pages a touched byte counts as 2 MiB, and the growth by some
    // thousand connections is the number of huge pages that it happened to cross.
    disable_transparent_huge_pages(true)?;
    let measurement = Measurement::new(setup, "/ws", quick);
    let sizes = measurement.sizes;
    // What subscriptions add is the server's alone: the kernel knows nothing of them.
    let more = [
        (Case::Common, ringwire),
        (Case::Present, &present),
        (Case::Own(1), ringwire),
        (Case::Own(OWN_CHANNELS), ringwire),
        (Case::OwnPresent(1), &present),
        (Case::OwnPresent(OWN_CHANNELS), &present),
    ];
    let (mut held, mut ours) = (Vec::new(), Vec::new());
    let mut subscribed: [Vec<Growth>; 6] = Default::default();
    // One after the other and never together: kernel memory is everybody's.
    for round in 0..setup.rounds {
        held.push(measurement.growth(holder, Case::Idle, round)?);
        ours.push(measurement.growth(ringwire, Case::Idle, round)?);
        for (rounds, (case, launch)) in subscribed.iter_mut().zip(more) {
            rounds.push(measurement.growth(launch, case, round)?);
        }
    }
    for growth in held.iter().chain(&ours).chain(subscribed.iter().flatten()) {
        report.keep(growth)?;
    }
    let mut table = Table::new(&[
        "server",
        "connections",
        "user bytes/connection",
        "kernel slab bytes/connection",
    ]);
    for rounds in [&held, &ours].into_iter().chain(&subscribed) {
        let Some(first) = rounds.first() else {
            continue;
        };
        let kernel = match first.many.slabs {
            Some(_) => middle(rounds, Growth::kernel_bytes).map_or_else(unknown, number),
            None if first.case == Case::Idle.name() => unknown(),
            None => String::new(),
        };
        table.row([
            first.server.clone(),
            first.case.clone(),
            middle(rounds, Growth::user_bytes).map_or_else(unknown, number),
            kernel,
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
    let [common, present, one, several, ..] = subscribed;
    let user = |rounds: &[Growth]| middle(rounds, Growth::user_bytes);
    report.verdict(Verdict::at_most(
        "user bytes per connection subscribed to a common channel",
        user(&common),
        COMMON_BYTES_AT_MOST,
    ));
    report.verdict(Verdict::at_most(
        "the same with a user id and presence",
        user(&present),
        PRESENT_BYTES_AT_MOST,
    ));
    let further = user(&several).zip(user(&one));
    report.verdict(Verdict::at_most(
        "user bytes per further channel of its own",
        further.map(|(several, one)| (several - one) / f64::from(OWN_CHANNELS - 1)),
        OWN_BYTES_AT_MOST,
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

/// How memory is measured.
pub(crate) struct Measurement<'a> {
    setup: &'a Setup,
    /// Where connections go.
    path: &'static str,
    /// The numbers of connections between which it grows.
    pub(crate) sizes: [u32; 2],
    /// For how long it must not have changed.
    quiet: Duration,
    /// How often the kernel's memory is looked at, at most, until it has stopped moving.
    slab_looks: u32,
}

impl<'a> Measurement<'a> {
    /// With connections to `path`; fewer of them and less patience when `quick`.
    pub(crate) fn new(setup: &'a Setup, path: &'static str, quick: bool) -> Self {
        Self {
            setup,
            path,
            sizes: if quick { [300, 1_500] } else { [3_000, 15_000] },
            quiet: Duration::from_millis(if quick { 200 } else { 1_500 }),
            slab_looks: if quick { 4 } else { 120 },
        }
    }

    /// Memory of a new server at two numbers of connections. Transparent huge pages must be off.
    pub(crate) fn growth(&self, launch: &Launch, case: Case, round: u32) -> anyhow::Result<Growth> {
        eprintln!("{}, {}, round {round} …", launch.name, case.name());
        let server = Server::start(launch, &self.setup.out)?;
        let [few, all] = self.sizes;
        let open = |first, connections| -> anyhow::Result<Load> {
            let mut plan = case.plan(first, connections, all);
            plan.path = self.path.to_owned();
            let load = Load::start(&self.setup.aimed(&plan, &server))?;
            load.wait_ready(PATIENCE)?;
            Ok(load)
        };
        // What the first connections make the server allocate once is not what a connection costs.
        let first = open(0, few)?;
        server.collect_garbage(launch)?;
        let at_few = self.point(&server.process, few, case)?;
        let more = open(few, all - few)?;
        server.collect_garbage(launch)?;
        let at_all = self.point(&server.process, all, case)?;
        first.finish()?;
        more.finish()?;
        server.stop()?;
        if case == Case::Idle {
            // What is still being freed belongs to this server, not to the next one.
            let _ = settled_slabs(self.slab_looks);
        }
        Ok(Growth {
            server: launch.name.clone(),
            case: case.name(),
            round,
            few: at_few,
            many: at_all,
        })
    }

    fn point(&self, process: &Process, connections: u32, case: Case) -> anyhow::Result<Point> {
        let slab_looks = (case == Case::Idle).then_some(self.slab_looks);
        let processes = std::slice::from_ref(process);
        Point::take(processes, connections, self.quiet, slab_looks)
    }
}
