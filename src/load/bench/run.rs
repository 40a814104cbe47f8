//! A benchmark from its server to its outcome.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Resource, getrlimit};

use super::options::{Bench, Options, Own, Steady, Target};
use super::outcome::{Check, Distribution, Figure, Outcome, number};
use super::watch::{PATIENCE, Watch};
use super::{crowds, million, publishing, steady, watch};
use crate::load::launch::{Launch, Server};
use crate::load::machine::{Machine, without_folders};
use crate::load::process::socket_slabs;
use crate::load::tun::Device;
use crate::load::{
    EchoPlan, Ends, Latencies, Load, Plan, Process, Scenario, Summary, WORKER_CONNECTIONS_MAX,
};

/// Of a shard's table, what connections may take: they are not spread evenly.
const TABLE_SHARE: f64 = 0.85;
/// Connections that are being opened at a time, at most, as a plan allows.
const CONNECTING_MAX: u32 = 4_096;
/// Time for all connections to open.
const OPENING: Duration = Duration::from_secs(600);
/// How long memory has to be the same before it is read, and how long that may take.
const QUIET: Duration = Duration::from_millis(500);
const SETTLE: Duration = Duration::from_secs(20);

/// A benchmark in progress.
pub(super) struct Run<'a> {
    pub(super) options: &'a Options,
    address: SocketAddr,
    host: String,
    /// Where messages come back, and where ringwire's protocol is spoken.
    pub(super) echo_path: String,
    pub(super) channel_path: String,
    pub(super) watch: Watch,
    /// What the clients are behind, if they are no sockets.
    device: Option<Arc<Device>>,
    /// Connections of loads that have started (the next one's first number), and their threads.
    started: u32,
    workers: u32,
    figures: Vec<Figure>,
    latencies: Vec<Distribution>,
    checks: Vec<Check>,
}

/// Memory at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Memory {
    user_bytes: Option<u64>,
    /// Of all sockets of this machine, both ends where the clients have sockets; for root.
    kernel_bytes: Option<u64>,
    /// The load generator's own.
    client_bytes: Option<u64>,
}

impl Memory {
    /// What the server's has grown by if it is `bytes` now.
    pub(super) fn user_grown_to(self, bytes: u64) -> f64 {
        bytes as f64 - self.user_bytes.unwrap_or(0) as f64
    }

    /// What the server's has grown by, in bytes.
    pub(super) fn grown_since(self, before: Self) -> Option<f64> {
        Some(self.user_bytes? as f64 - before.user_bytes? as f64)
    }
}

/// Runs a benchmark.
///
/// # Errors
/// When it could not begin: the server does not start, or nothing is where it should be. What goes wrong
/// later is a check that failed.
pub fn run(options: &Options) -> anyhow::Result<Outcome> {
    let machine = Machine::look(Vec::new());
    watch::notice_signals()?;
    if let Bench::Million { .. } = options.scenario {
        million::check_memory(options)?;
    }
    let device = match options.scenario.tun() {
        Some(tun) => Some(Arc::new(Device::open(tun.queue)?)),
        None => None,
    };
    let logs = tempfile::tempdir().context("cannot make a folder for the server's log")?;
    let mut own = None;
    let mut shards = None;
    let (address, host, echo_path, channel_path, process, described) = match &options.server {
        Target::Running(running)
            if device.is_some() && running.address.ip() != Device::address() =>
        {
            let address = Device::address();
            bail!(
                "clients behind a TUN device reach {address} only, not {}: let the server listen on 0.0.0.0 in \
                 this network namespace, and use --url ws://{address}:{}/ws",
                running.address.ip(),
                running.address.port()
            )
        }
        Target::Running(running) => (
            running.address,
            running.host.clone(),
            running.path.clone(),
            running.path.clone(),
            running
                .pid
                .map(Process::new)
                .transpose()
                .context("there is no such process")?,
            without_folders(&format!("ws://{}{}", running.host, running.path)),
        ),
        Target::Own(launch) => {
            let config = match options.scenario {
                Bench::Million { .. } => million::CONFIG,
                _ => "",
            };
            let listen = match &device {
                Some(_) => Device::address(),
                None => Ipv4Addr::LOCALHOST,
            };
            let start = room_for(launch, listen, config, options.clients.connections);
            shards = Some(start.shards);
            let (server, described) = (Server::start(&start.launch, logs.path())?, start.described);
            let (address, process) = (server.address, server.process.clone());
            own = Some(server);
            let paths = ("/echo".to_owned(), "/ws".to_owned());
            (
                address,
                address.to_string(),
                paths.0,
                paths.1,
                Some(process),
                described,
            )
        }
    };
    let mut run = Run {
        options,
        address,
        host,
        echo_path,
        channel_path,
        watch: Watch::new(process, options.progress),
        device,
        started: 0,
        workers: 0,
        figures: Vec::new(),
        latencies: Vec::new(),
        checks: Vec::new(),
    };
    let ended = run.scenario();
    let detail = ended
        .as_ref()
        .err()
        .map_or_else(String::new, |error| format!("{error:#}"));
    run.check(
        "every connection held, every answer was the right one",
        ended.is_ok(),
        detail,
    );
    if let Some(server) = own {
        let (fine, mut detail) = match server.stop() {
            Ok(status) => (status.success(), status.to_string()),
            Err(error) => (false, format!("{error:#}")),
        };
        let said = std::fs::read_to_string(logs.path().join("ringwire.stderr"));
        if let (false, Ok(said)) = (fine, said) {
            let last: Vec<&str> = said.lines().rev().take(5).collect();
            detail += &format!("; it said last: {}", last.join(" | "));
        }
        run.check(
            "the server ran to the end, and ended as it was told",
            fine,
            detail,
        );
    }
    let Run {
        mut watch,
        figures,
        latencies,
        checks,
        ..
    } = run;
    Ok(Outcome {
        scenario: options.scenario.name().to_owned(),
        options: serde_json::json!({ "scenario": options.scenario, "clients": options.clients }),
        server: described,
        notes: options.notes.clone(),
        way: match options.scenario {
            Bench::Million { tun, .. } => Some(million::way(tun, &options.server, shards)),
            _ => None,
        },
        machine,
        phases: std::mem::take(&mut watch.phases),
        samples: std::mem::take(&mut watch.samples),
        figures,
        latencies,
        passed: checks.iter().all(|check| check.passed),
        checks,
    })
}

/// How to start a server.
struct Start {
    launch: Launch,
    /// As a person would type it.
    described: String,
    shards: usize,
}

/// A server with room for `connections`.
fn room_for(own: &Own, listen: Ipv4Addr, config: &str, connections: u32) -> Start {
    let nofile = getrlimit(Resource::Nofile).maximum;
    let each = nofile.map_or(f64::INFINITY, |most| (most as f64 * TABLE_SHARE).max(1.0));
    let needed = (f64::from(connections) / each).ceil() as usize;
    let shards = own
        .shards
        .unwrap_or_else(|| needed.max(own.cores.len()).max(1));
    let listen = format!("{listen}:0");
    let mut arguments: Vec<String> = ["serve", "--listen", &listen, "--shards"]
        .map(str::to_owned)
        .into();
    arguments.push(shards.to_string());
    if shards == own.cores.len() {
        let list: Vec<String> = own.cores.iter().map(usize::to_string).collect();
        arguments.extend(["--cores".to_owned(), list.join(",")]);
    }
    let launch = Launch {
        name: "ringwire".to_owned(),
        program: own.program.clone(),
        arguments,
        config: format!("{}{config}", own.config),
        cores: own.cores.clone(),
        collects_garbage: false,
    };
    let mut described = launch.command_line();
    let lines: Vec<&str> = launch.config.lines().collect();
    if !lines.is_empty() {
        described += &format!(", where FILE says {}", lines.join(" "));
    }
    Start {
        launch,
        described,
        shards,
    }
}

impl Run<'_> {
    fn scenario(&mut self) -> anyhow::Result<()> {
        match self.options.scenario {
            Bench::Idle { hold } => steady::idle(self, None, hold),
            Bench::Ramp { rate, hold } => steady::idle(self, Some(rate), hold),
            Bench::Echo(echoes) => steady::echo(self, echoes),
            Bench::Latency {
                size_bytes,
                rate,
                duration,
            } => steady::latency(self, size_bytes, rate, duration),
            Bench::Burst {
                size_bytes,
                silence,
                rounds,
            } => steady::burst(self, size_bytes, silence, rounds),
            Bench::Fanout(publishes) => publishing::fanout(self, publishes),
            Bench::Slow { percent, publishes } => publishing::slow(self, percent, publishes),
            Bench::Churn {
                rate,
                stay_ms,
                steady,
            } => crowds::churn(self, rate, stay_ms, steady),
            Bench::Million { hold, .. } => million::million(self, hold),
            Bench::Storm { rounds } => crowds::storm(self, rounds),
            Bench::MassDisconnect { steady } => crowds::mass_disconnect(self, steady),
        }
    }

    /// A plan for `connections` of the options' clients.
    pub(super) fn plan(&mut self, path: &str, connections: u32, scenario: Scenario) -> Plan {
        let clients = &self.options.clients;
        let mut plan = Plan::new(self.address, path, connections, scenario);
        plan.host = Some(self.host.clone());
        let nofile = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let each = nofile.min(WORKER_CONNECTIONS_MAX.into()) as u32;
        // As few as hold the connections, and where messages are counted, as many as can run at once.
        let busy = match self.options.scenario {
            Bench::Echo(_) | Bench::Burst { .. } | Bench::Fanout(_) => clients.cores.len() as u32,
            _ => 1,
        };
        let threads = connections.div_ceil(each.max(1)).max(busy.min(connections));
        plan.workers = clients.threads.unwrap_or(threads).min(connections);
        plan.cores.clone_from(&clients.cores);
        if !plan.cores.is_empty() {
            // Others may be on the first ones.
            let taken = self.workers as usize % plan.cores.len();
            plan.cores.rotate_left(taken);
        }
        self.workers += plan.workers;
        plan.sources.clone_from(&clients.sources);
        if plan.sources.is_empty() && plan.workers > 1 && self.address.ip().is_loopback() {
            plan.sources = own_addresses(self.address.ip(), plan.workers);
        }
        plan.connecting = clients.connecting.unwrap_or(plan.connecting);
        plan.headers.clone_from(&clients.headers);
        plan.subprotocols.clone_from(&clients.subprotocols);
        plan.failures_max = clients.failures_max;
        plan.spin = clients.spin && self.workers as usize <= clients.cores.len();
        plan.first = self.started;
        if self.device.is_some() {
            plan.ends = Ends::Tun;
            // One thread opens as many at a time as the threads would that sockets take.
            let threads = connections.div_ceil(WORKER_CONNECTIONS_MAX);
            plan.connecting = plan.connecting.saturating_mul(threads).min(CONNECTING_MAX);
            plan.workers = 1;
        }
        self.started += connections;
        plan
    }

    /// What the network between clients behind a TUN device and the server lost, and what that made of it.
    pub(super) fn network_figures(&mut self, load: &Load) {
        let Some(device) = self.device.clone() else {
            return;
        };
        let network = load.network();
        for (name, count) in [
            (
                "packets for the clients that the device lost",
                device.lost(),
            ),
            (
                "segments that the clients sent again",
                Some(network.sent_again),
            ),
            (
                "segments that came out of order, or twice",
                Some(network.out_of_order),
            ),
            ("packets that came damaged", Some(network.damaged)),
        ] {
            if let Some(count) = count {
                self.figure(name, count as f64, "");
            }
        }
    }

    /// Starts the clients of `plan`.
    pub(super) fn start(&self, plan: &Plan) -> anyhow::Result<Load> {
        match &self.device {
            Some(device) => Load::start_behind(plan, device),
            None => Load::start(plan),
        }
    }

    /// Starts the clients of `plan` and waits until all of them are ready.
    pub(super) fn open(&mut self, name: &str, plan: &Plan) -> anyhow::Result<Load> {
        Ok(self.open_timed(name, plan)?.0)
    }

    /// The same; says how long it took.
    pub(super) fn open_timed(
        &mut self,
        name: &str,
        plan: &Plan,
    ) -> anyhow::Result<(Load, Duration)> {
        self.watch.phase(name, &[])?;
        let load = self.start(plan)?;
        let took = self.opened(&load, plan.connections, &[])?;
        Ok((load, took))
    }

    /// Whether as many connections are open as have to be.
    pub(super) fn check_open(&mut self, open: u32, failed: u64, reason: Option<String>) {
        let clients = &self.options.clients;
        let least = clients.connections.saturating_sub(clients.failures_max);
        let mut detail = format!("{open} are open");
        if failed > 0 {
            let reason = reason.unwrap_or_default();
            detail += &format!(", {failed} failed; the first: {reason}");
        }
        self.check(
            format!("at least {least} connections are open at the end"),
            open >= least,
            detail,
        );
    }

    /// Waits until all connections of `load` are ready, beside `others`; says how long that took.
    pub(super) fn opened(
        &mut self,
        load: &Load,
        connections: u32,
        others: &[&Load],
    ) -> anyhow::Result<Duration> {
        let all: Vec<&Load> = others.iter().copied().chain([load]).collect();
        let ready = || {
            let live = load.live();
            (u64::from(live.ready) + live.failed) as f64 / f64::from(connections.max(1))
        };
        let limit = match self.options.scenario {
            Bench::Ramp { rate, .. } => OPENING + Duration::from_secs((connections / rate).into()),
            _ => OPENING,
        };
        self.watch.until(&all, limit, ready)
    }

    /// Starts echo traffic at a rate, beside which something else happens.
    pub(super) fn steady(&mut self, steady: Steady) -> anyhow::Result<Load> {
        let scenario = Scenario::Echo(EchoPlan {
            rate: Some(steady.rate),
            ..EchoPlan::new(64, 1)
        });
        let path = self.echo_path.clone();
        let mut plan = self.plan(&path, steady.connections, scenario);
        plan.workers = 1;
        plan.sources.truncate(1);
        let load = self.open("connect those with steady traffic", &plan)?;
        load.resume();
        Ok(load)
    }

    /// Closes a load, beside `others`, and keeps what it counted.
    pub(super) fn finish(&mut self, load: Load, others: &[&Load]) -> anyhow::Result<Summary> {
        let all: Vec<&Load> = others.iter().copied().chain([&load]).collect();
        self.watch.sample(&all)?;
        let live = load.live();
        let summary = load.finish()?;
        self.watch.ended(summary.counts, live);
        Ok(summary)
    }

    pub(super) fn figure(&mut self, name: impl Into<String>, value: f64, unit: &'static str) {
        self.figures.push(Figure {
            name: name.into(),
            value,
            unit,
        });
    }

    pub(super) fn latency(&mut self, name: impl Into<String>, all: &Latencies) {
        if all.summary().count > 0 {
            self.latencies.push(Distribution {
                name: name.into(),
                summary: all.summary(),
                all: all.clone(),
            });
        }
    }

    pub(super) fn check(
        &mut self,
        name: impl Into<String>,
        passed: bool,
        detail: impl Into<String>,
    ) {
        self.checks.push(Check {
            name: name.into(),
            passed,
            detail: detail.into(),
        });
    }

    /// Checks that something came at its rate, but for a tenth and what a quarter of a second brings.
    pub(super) fn check_rate(&mut self, what: &str, came: f64, seconds: f64, rate: u32) {
        let rate = f64::from(rate);
        let least = rate * (seconds * 0.9 - 0.25);
        let detail = format!("{} of {rate} per second", number(came / seconds));
        self.check(format!("{what} came at the rate"), came >= least, detail);
    }

    /// Memory, once it stays the same.
    pub(super) fn memory(&self) -> Memory {
        let process = self.watch.process();
        let user = process.and_then(|process| process.settled_dirty_bytes(QUIET, SETTLE).ok());
        let slabs = socket_slabs().ok();
        Memory {
            user_bytes: user,
            kernel_bytes: slabs.map(|slabs| slabs.iter().map(|slab| slab.bytes).sum()),
            client_bytes: Process::new(std::process::id())
                .and_then(|own| own.private_dirty_bytes())
                .ok(),
        }
    }

    /// What memory has grown by for each of `connections`.
    pub(super) fn memory_figures(&mut self, before: Memory, after: Memory, connections: u32) {
        let each = |before: Option<u64>, after: Option<u64>| {
            Some((after? as f64 - before? as f64) / f64::from(connections.max(1)))
        };
        let user = each(before.user_bytes, after.user_bytes);
        if let Some(bytes) = user {
            self.figure("server memory per connection", bytes, "bytes");
        }
        if let Some(bytes) = after.user_bytes {
            self.figure("server memory in all", bytes as f64 / 1e6, "MB");
        }
        let kernel = each(before.kernel_bytes, after.kernel_bytes);
        if let Some(bytes) = kernel {
            let name = match self.device {
                Some(_) => "kernel slab per connection, the server's end alone",
                None => "kernel slab per connection, all sockets of this machine",
            };
            self.figure(name, bytes, "bytes");
        }
        if self.device.is_some() {
            if let Some((user, kernel)) = user.zip(kernel) {
                let name = "user and kernel memory per connection";
                self.figure(name, user + kernel, "bytes");
            }
            if let Some(bytes) = each(before.client_bytes, after.client_bytes) {
                self.figure("the clients' own memory per connection", bytes, "bytes");
            }
        }
    }

    /// Server processor time since `before`, in nanoseconds.
    pub(super) fn server_cpu_ns(&self) -> Option<u64> {
        Some(self.watch.process()?.cpu().ok()?.total_ns)
    }

    /// Stops a load's traffic, beside `others`, and waits for what is on the way.
    pub(super) fn pause(&mut self, load: &Load, others: &[&Load]) -> anyhow::Result<()> {
        load.pause(PATIENCE)?;
        let all: Vec<&Load> = others.iter().copied().chain([load]).collect();
        self.watch.sample(&all)
    }
}

/// An address of loopback for each of `workers`: each has some 28,000 ports to one server.
fn own_addresses(of: IpAddr, workers: u32) -> Vec<IpAddr> {
    match of {
        IpAddr::V4(_) => (0..workers)
            .map(|worker| {
                let host = 0x7f00_0000 + 2 + worker % 0x00ff_fff0;
                IpAddr::V4(Ipv4Addr::from(host))
            })
            .collect(),
        // There is one address of loopback.
        IpAddr::V6(_) => Vec::new(),
    }
}

/// The program that runs now, to start a server with.
///
/// # Errors
/// When the system does not tell where it is.
pub fn this_program() -> anyhow::Result<PathBuf> {
    std::env::current_exe().context("cannot find the program itself")
}
