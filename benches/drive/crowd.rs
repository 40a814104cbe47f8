//! `drive crowd`: what a crowd costs that is connected, beside bare sockets: memory, heartbeats, and a
//! message to all.

use std::net::{IpAddr, Ipv4Addr};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use ringwire::load::statistics::{median, paired_ratio};
use ringwire::load::{ChannelGroup, ChannelsPlan, Load, Plan, Process, Scenario};
use rustix::thread::disable_transparent_huge_pages;
use serde::Serialize;

use crate::measure::Setup;
use crate::memory::{self, Point, settled_slabs};
use crate::report::{Report, Table, Verdict, number};
use crate::server::{Launch, Server};

/// User and kernel memory of a subscribed connection, to that of a bare socket.
const MEMORY_AT_MOST: f64 = 1.1;
/// Processor time of a heartbeat, to that of a bare send and receive.
const HEARTBEAT_AT_MOST: f64 = 1.5;
/// Processor time of a delivery to everybody, to that of a bare send.
const DELIVERY_AT_MOST: f64 = 1.15;
/// Length of the published string, in bytes.
const SIZE_BYTES: usize = 128;
/// Nothing that all connections do takes longer.
const LIMIT: Duration = Duration::from_secs(1_200);

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    /// Connections at which memory is read first, and all.
    pub(crate) few: u32,
    pub(crate) all: u32,
    /// Between two heartbeats of a connection, and how many times that is the window.
    pub(crate) heartbeat: Duration,
    pub(crate) intervals: u32,
    /// Messages to all.
    pub(crate) broadcasts: u32,
    /// For how long memory must not have changed.
    pub(crate) quiet: Duration,
    /// How often the kernel's memory is looked at, at most, until it has stopped moving.
    pub(crate) slab_looks: u32,
}

/// What happened how often, and what the server used for it.
#[derive(Clone, Copy, Debug, Serialize)]
struct Cost {
    count: u64,
    seconds: f64,
    cpu_ns: u64,
}

impl Cost {
    fn each_us(&self) -> f64 {
        self.cpu_ns as f64 / 1e3 / self.count.max(1) as f64
    }
}

/// One server in one round.
#[derive(Clone, Debug, Serialize)]
struct Held {
    server: String,
    round: u32,
    few: Point,
    many: Point,
    heartbeats: Cost,
    deliveries: Cost,
}

impl Held {
    fn user_bytes(&self) -> Option<f64> {
        memory::per_connection(&self.few, &self.many, Point::user_bytes)
    }

    /// Of both ends of a connection; unknown where others opened or closed sockets meanwhile.
    fn kernel_bytes(&self) -> Option<f64> {
        if !memory::undisturbed(&self.few, &self.many) {
            return None;
        }
        memory::per_connection(&self.few, &self.many, Point::kernel_bytes)
    }

    /// User and kernel memory of this server's end, in bytes. The client is the same for both servers. Of a
    /// bare connection, whose ends are two sockets of one kind, half is taken for the server's; another
    /// server's end is that and what its connections take beyond bare ones.
    fn end_bytes(&self, bare: &Self) -> Option<f64> {
        let (kernel, bare) = (self.kernel_bytes()?, bare.kernel_bytes()?);
        Some(self.user_bytes()? + bare / 2.0 + (kernel - bare))
    }
}

/// Measures and prints; true when every figure was reached.
pub(crate) fn run(
    setup: &Setup,
    floor: &Launch,
    ringwire: &Launch,
    size: Size,
) -> anyhow::Result<bool> {
    let mut report = Report::begin("crowd");
    report.server(floor);
    report.server(ringwire);
    println!();
    // As for idle memory: servers inherit this.
    disable_transparent_huge_pages(true)?;
    let (mut bare, mut ours) = (Vec::new(), Vec::new());
    for round in 0..setup.rounds {
        let measure = |launch| Crowd { setup, size }.measure(launch, round);
        if round % 2 == 0 {
            bare.push(measure(floor)?);
            ours.push(measure(ringwire)?);
        } else {
            ours.push(measure(ringwire)?);
            bare.push(measure(floor)?);
        }
    }
    for held in bare.iter().chain(&ours) {
        report.keep(held)?;
    }
    println!(
        "memory: growth from {} to {} connections, all subscribed to one channel; CPU: at {} connections",
        size.few, size.all, size.all
    );
    print(&bare, &ours);
    let ends = ours.iter().zip(&bare);
    let ends = ends.filter_map(|(held, bare)| held.end_bytes(bare).zip(bare.end_bytes(bare)));
    let (ends, bare_ends): (Vec<f64>, Vec<f64>) = ends.unzip();
    let disturbed = ours.len() - ends.len();
    if disturbed > 0 {
        println!(
            "{disturbed} of {} rounds have no figure of memory: the kernel's cannot be read, or others opened or \
             closed sockets meanwhile",
            ours.len()
        );
    }
    let memory = paired_ratio(&ends, &bare_ends);
    report.verdict(Verdict::at_most(
        "user and kernel memory per connection, to a bare socket's",
        memory,
        MEMORY_AT_MOST,
    ));
    let each = |rounds: &[Held], of: fn(&Held) -> Cost| -> Vec<f64> {
        rounds.iter().map(|held| of(held).each_us()).collect()
    };
    let ratio = |of| paired_ratio(&each(&ours, of), &each(&bare, of));
    report.verdict(Verdict::at_most(
        "CPU per heartbeat, to a bare send and receive",
        ratio(|held| held.heartbeats),
        HEARTBEAT_AT_MOST,
    ));
    report.verdict(Verdict::at_most(
        "CPU per delivery of a message to all, to a bare send",
        ratio(|held| held.deliveries),
        DELIVERY_AT_MOST,
    ));
    report.end(&setup.out)
}

fn print(bare: &[Held], ours: &[Held]) {
    let mut table = Table::new(&[
        "server",
        "user bytes",
        "kernel bytes, both ends",
        "its own end, in all",
        "µs/heartbeat",
        "heartbeats/s",
        "µs/delivery",
    ]);
    for rounds in [bare, ours] {
        let middle = |of: &dyn Fn(&Held, &Held) -> Option<f64>| {
            let pairs = rounds.iter().zip(bare);
            let values: Vec<f64> = pairs.filter_map(|(held, bare)| of(held, bare)).collect();
            median(&values).map_or_else(|| "unknown".to_owned(), number)
        };
        let pace = |cost: Cost| cost.count as f64 / cost.seconds;
        table.row([
            rounds
                .first()
                .map_or_else(String::new, |held| held.server.clone()),
            middle(&|held, _| held.user_bytes()),
            middle(&|held, _| held.kernel_bytes()),
            middle(&Held::end_bytes),
            middle(&|held, _| Some(held.heartbeats.each_us())),
            middle(&|held, _| Some(pace(held.heartbeats))),
            middle(&|held, _| Some(held.deliveries.each_us())),
        ]);
    }
    table.print();
}

/// How a server is measured.
struct Crowd<'a> {
    setup: &'a Setup,
    size: Size,
}

impl Crowd<'_> {
    fn measure(&self, launch: &Launch, round: u32) -> anyhow::Result<Held> {
        let size = self.size;
        eprintln!("{}, round {round} …", launch.name);
        let server = Server::start(launch, &self.setup.out)?;
        let mut processes = vec![server.process.clone()];
        let children = server.process.children();
        processes.extend(children.context("the server's processes (CONFIG_PROC_CHILDREN)")?);
        let point =
            |connections| Point::take(&processes, connections, size.quiet, Some(size.slab_looks));
        let publisher = Load::start(&self.setup.aimed(&publisher(), &server))?;
        publisher.wait_ready(LIMIT)?;
        // What the first connections make the server allocate once is not what a connection costs.
        let few = self.open(&server, 0, size.few)?;
        let at_few = point(size.few)?;
        let more = self.open(&server, size.few, size.all - size.few)?;
        let at_all = point(size.all)?;
        let crowd = [few, more];
        let heartbeats = self.heartbeats(&processes, &crowd)?;
        let deliveries = self.deliveries(&processes, &crowd, &publisher)?;
        for load in crowd.into_iter().chain([publisher]) {
            load.finish()?;
        }
        server.stop()?;
        // What is still being freed belongs to this server, not to the next one.
        let _ = settled_slabs(size.slab_looks);
        Ok(Held {
            server: launch.name.clone(),
            round,
            few: at_few,
            many: at_all,
            heartbeats,
            deliveries,
        })
    }

    /// Subscribers from number `first` on, each thread of the client from an address of its own.
    fn open(&self, server: &Server, first: u32, connections: u32) -> anyhow::Result<Load> {
        let scenario = Scenario::Channels(ChannelsPlan {
            size_bytes: SIZE_BYTES,
            ..ChannelsPlan::subscribing(vec![channel()])
        });
        let anywhere = ([127, 0, 0, 1], 0).into();
        let mut plan = Plan::new(anywhere, "/ws", connections, scenario);
        plan.first = first;
        let network = if first == 0 { 1 } else { 2 };
        plan.sources = (0..plan.workers)
            .map(|worker| IpAddr::V4(Ipv4Addr::new(127, 0, network, 2 + worker as u8)))
            .collect();
        // As for idle memory: many at once leave buffers behind.
        plan.connecting = 1;
        let load = Load::start(&self.setup.aimed(&plan, server))?;
        load.wait_ready(LIMIT)?;
        Ok(load)
    }

    fn heartbeats(&self, processes: &[Process], crowd: &[Load]) -> anyhow::Result<Cost> {
        let pings = || crowd.iter().map(Load::pings).sum::<u64>();
        let (began, cpu, before) = (Instant::now(), cpu_ns(processes)?, pings());
        let window = self.size.heartbeat * self.size.intervals;
        while began.elapsed() < window {
            crowd.iter().try_for_each(Load::check)?;
            let left = window.saturating_sub(began.elapsed());
            thread::sleep(left.min(Duration::from_secs(1)));
        }
        let count = pings() - before;
        if count == 0 {
            bail!("no heartbeat came in {} s", window.as_secs_f64());
        }
        Ok(Cost {
            count,
            seconds: began.elapsed().as_secs_f64(),
            cpu_ns: cpu_ns(processes)?.saturating_sub(cpu),
        })
    }

    fn deliveries(
        &self,
        processes: &[Process],
        crowd: &[Load],
        publisher: &Load,
    ) -> anyhow::Result<Cost> {
        // The first one makes room for those that are measured.
        broadcast(crowd, publisher)?;
        let delivered = || crowd.iter().map(|load| load.counts().messages).sum::<u64>();
        let (began, cpu, before) = (Instant::now(), cpu_ns(processes)?, delivered());
        for _ in 0..self.size.broadcasts {
            broadcast(crowd, publisher)?;
        }
        Ok(Cost {
            count: delivered() - before,
            seconds: began.elapsed().as_secs_f64(),
            cpu_ns: cpu_ns(processes)?.saturating_sub(cpu),
        })
    }
}

/// One message to all; done when each has it.
fn broadcast(crowd: &[Load], publisher: &Load) -> anyhow::Result<()> {
    let all = crowd
        .iter()
        .map(|load| load.counts().messages + u64::from(load.live().ready));
    let expected: Vec<u64> = all.collect();
    publisher.burst(0, LIMIT)?;
    for (load, expected) in crowd.iter().zip(expected) {
        load.wait_messages(expected, LIMIT)?;
    }
    Ok(())
}

/// Processor time of all `processes`, in nanoseconds.
fn cpu_ns(processes: &[Process]) -> anyhow::Result<u64> {
    let mut sum = 0;
    for process in processes {
        sum += process
            .cpu()
            .context("a process of the server is gone")?
            .total_ns;
    }
    Ok(sum)
}

/// One publishes, and another one hears it as all do.
fn publisher() -> Plan {
    let scenario = Scenario::Channels(ChannelsPlan {
        groups: vec![channel()],
        publishers: 1,
        size_bytes: SIZE_BYTES,
        traffic: None,
        held_back: false,
    });
    Plan::new(([127, 0, 0, 1], 0).into(), "/ws", 2, scenario)
}

fn channel() -> ChannelGroup {
    ChannelGroup::new("common", 1, 1)
}
