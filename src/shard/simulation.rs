//! The shard on the simulated ring: whole servers, many clients, and every fault that a seed draws.
//!
//! A seed decides everything: shards, limits, faults, who connects and what they do, and in which
//! order everybody moves. First there is chaos; then nobody fails any more, everybody reads, and
//! what is owed must arrive; then everybody leaves or the server ends, and nothing may be left.
//! `RINGWIRE_SEED=N cargo test --lib simulation` repeats one seed with a trace of its last events;
//! `RINGWIRE_SEEDS=K` sets how many are run.

mod client;
mod delivered;
mod delivery;
mod hearing;
mod oracle;
mod peer;
mod pressure;
mod rules;
mod server;

use crate::config::{Access, Config, SlowConsumer};
use crate::mesh::Message;
use crate::ring::sim::{Faults, Kind as SocketKind, Random, RingSetup};
use crate::telemetry::counters::Totals;
use client::{Bounds, Client, Leaving, Plan, Stage};
use oracle::Oracle;
use server::Server;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, Once};

/// Seeds that run when `RINGWIRE_SEEDS` does not say otherwise.
const SEEDS: u64 = 10_000;
/// Clients of one seed at most, those that left included.
const MAX_CLIENTS: usize = 80;
/// Rounds in which everything owed must arrive, and in which everything must be gone. Where the only
/// receive buffer has 16 bytes and each of many clients has written 64 KiB, that takes some ten thousand.
const MAX_ROUNDS: u32 = 100_000;

/// One server and everybody around it.
struct Simulation {
    random: Random,
    server: Server,
    clients: Vec<Client>,
    oracle: Oracle,
    faults: Faults,
    step_weights: Vec<usize>,
    steps: usize,
    /// How often somebody leaves, per thousand steps.
    unrest: u32,
    bounds: Option<Bounds>,
    skew: usize,
    channels: usize,
}

fn some(random: &mut Random, most: usize) -> u32 {
    if random.chance(500) {
        0
    } else {
        random.between(1, most) as u32
    }
}

fn draw_faults(random: &mut Random) -> Faults {
    Faults {
        late: some(random, 700),
        reorder: some(random, 1000),
        short_receives: some(random, 900),
        no_buffers: some(random, 200),
        interrupted: some(random, 100),
        receive_errors: some(random, 3),
        send_errors: some(random, 3),
        poll_errors: some(random, 3),
        poll_ends: some(random, 200),
        accept_errors: some(random, 100),
        hand_over_errors: some(random, 400),
        early_submits: some(random, 300),
        slow_shutdowns: some(random, 900),
    }
}

/// Deadlines that are met by whoever is slow, or deadlines that nothing may ever need.
fn draw_deadlines(random: &mut Random, config: &mut Config) {
    let hasty = random.chance(400);
    let ms = |random: &mut Random, low, high| {
        let drawn = random.between(low, high) as u32;
        if hasty { drawn } else { 1000 * drawn }
    };
    config.heartbeat.interval_ms = random.between(40, 500) as u32;
    if random.chance(300) {
        config.heartbeat.interval_ms = 0;
    }
    config.heartbeat.timeout_ms = ms(random, 100, 400);
    config.timeouts.handshake_ms = ms(random, 200, 800);
    config.timeouts.close_ms = ms(random, 50, 400);
    config.timeouts.write_ms = ms(random, 200, 1000);
}

fn draw_config(random: &mut Random) -> Config {
    let mut config = Config::default();
    draw_deadlines(random, &mut config);
    config.client.message_bytes = random.between(300, 3000);
    config.client.echo_message_bytes = if random.chance(100) {
        random.between(10_000, 400_000)
    } else {
        random.between(10, 9000)
    };
    config.client.fragments = random.between(2, 6) as u32;
    config.client.channels = random.between(1, 4);
    if random.chance(400) {
        config.client.outbox_bytes = random.between(2000, 20_000);
    }
    if random.chance(40) {
        // Messages that take several sends.
        config.client.message_bytes = random.between(100_000, 400_000);
        config.client.outbox_bytes = random.between(400_000, 900_000);
    }
    if random.chance(200) {
        config.client.mesh_pending_bytes = random.between(0, 2000);
    }
    if random.chance(700) {
        let rule = &mut config.channels[0];
        rule.history.size = *random
            .clone()
            .pick(&[random.between(1, 20) as u32, 200, 5000]);
        rule.history.ttl_ms = *random
            .clone()
            .pick(&[random.between(20, 3000) as u32, 1 << 30]);
        rule.history.last_on_subscribe = random.chance(300);
        if random.chance(300) {
            config.history.shard_bytes = random.between(1000, 100_000);
        }
    }
    if random.chance(500) {
        let rule = &mut config.channels[0];
        rule.presence.enabled = true;
        rule.presence.events = random.chance(700);
        rule.presence.events_max_members = random.between(1, 8) as u32;
        rule.presence.counts_interval_ms = random.between(1, 100) as u32;
    }
    let rule = &mut config.channels[0];
    if random.chance(400) {
        rule.slow_consumer = *random
            .clone()
            .pick(&[SlowConsumer::DropOldest, SlowConsumer::Conflate]);
    }
    if random.chance(300) {
        rule.delivery.batch_ms = random.between(1, 50) as u32;
        rule.delivery.batch_bytes = random.between(1024, 20_000);
    }
    if random.chance(150) {
        rule.subscribers = Some(random.between(1, 6) as u32);
    }
    if random.chance(500) {
        rule.allow.wildcards = Access::Everyone;
    }
    config.users.direct = Access::Everyone;
    config.users.broadcast = Access::Everyone;
    if random.chance(600) {
        let everywhere = ["0.0.0.0/0", "unix"].map(|peer| peer.parse().expect("a peer"));
        config.users.trusted_peers = everywhere.into();
    }
    config.ring.buffers = random.between(1, 8) as u16;
    config.ring.large_buffers = random.between(1, 3) as u16;
    config
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let config = draw_config(&mut random);
        let shards = random.between(1, 4);
        let setup = RingSetup {
            slots: random.between(2, 24) as u32,
            listeners: vec![SocketKind::Tcp, SocketKind::Unix],
            buffers: config.ring.buffers,
            buffer_bytes: random.between(16, *random.clone().pick(&[64, 512, 2048])),
            large_buffers: config.ring.large_buffers,
            large_buffer_bytes: random.between(2048, 16 << 10),
        };
        let server = Server::new(seed, shards, &setup, &config);
        let faults = draw_faults(&mut random);
        server.world.borrow_mut().faults = faults;
        server.world.borrow_mut().closes_late = random.chance(300);
        let mut simulation = Self {
            server,
            clients: Vec::new(),
            oracle: Oracle::default(),
            faults,
            step_weights: (0..shards).map(|_| random.skewed(20)).collect(),
            steps: random.between(200, 3000),
            unrest: random.skewed(20) as u32,
            bounds: None,
            skew: 1,
            channels: 1,
            random,
        };
        simulation.add_clients(&config);
        simulation.start_clock();
        simulation
    }

    fn add_clients(&mut self, config: &Config) {
        self.bounds = Some(Bounds::new(config));
        // Some shards get most of the connections, so that some are handed over.
        self.skew = self.random.below(self.server.nodes.len()) + 1;
        self.channels = self.random.between(1, 4);
        for _ in 0..self.random.between(3, 30) {
            self.add_client();
        }
    }

    fn add_client(&mut self) {
        let random = &mut self.random;
        let plan = match random.below(100) {
            0..70 => Plan::Channels,
            70..85 => Plan::Echo,
            85..91 => Plan::Http,
            91..95 => Plan::Garbage,
            _ => Plan::Half,
        };
        let bounds = self.bounds.expect("set before the first client");
        let mut client = Client::new(self.clients.len(), plan, bounds, random.next());
        client.to = (random.below(self.skew), usize::from(random.chance(250)));
        client.window = random.skewed(64 << 10);
        client.deaf = random.chance(80);
        client.channels = self.channels;
        client.misdeed_after = random.chance(120).then(|| random.below(20) as u32);
        self.clients.push(client);
        self.server.heard.borrow_mut().said.push(Vec::new());
    }

    /// Sometimes the 32-bit clock is about to wrap.
    fn start_clock(&mut self) {
        let start = if self.random.chance(200) {
            (1 << 32) - self.random.below(600) as u64
        } else {
            0
        };
        let mut now = 0;
        while now < start {
            let ms = (start - now).min(1 << 30);
            self.server.world.borrow_mut().advance(ms);
            now += ms;
            for index in 0..self.server.nodes.len() {
                self.server.step(index);
                self.server.step(index);
            }
        }
    }

    fn chaos(&mut self) {
        for _ in 0..self.steps {
            match self.random.below(100) {
                0..45 => self.step_a_shard(),
                45..91 => self.step_a_client(),
                _ => {
                    let ms = self.random.skewed(20) as u64;
                    self.server.world.borrow_mut().advance(ms);
                }
            }
            if self.random.chance(self.unrest) {
                self.someone_leaves();
            }
        }
    }

    fn step_a_shard(&mut self) {
        let total: usize = self.step_weights.iter().sum();
        let mut at = self.random.below(total);
        for (index, &weight) in self.step_weights.iter().enumerate() {
            if at < weight {
                self.server.step(index);
                return;
            }
            at -= weight;
        }
    }

    fn step_a_client(&mut self) {
        let at = self.random.below(self.clients.len());
        let mut world = self.server.world.borrow_mut();
        let mut heard = self.server.heard.borrow_mut();
        self.clients[at].step(&mut world, &mut self.oracle, &mut heard);
    }

    fn someone_leaves(&mut self) {
        let at = self.random.below(self.clients.len());
        let how = *self.random.pick(&[
            Leaving::Close,
            Leaving::Fin,
            Leaving::HangUp,
            Leaving::Reset,
        ]);
        self.clients[at].leave(how, &mut self.server.world.borrow_mut());
        if self.clients.len() < MAX_CLIENTS && self.random.chance(800) {
            self.add_client();
        }
    }

    /// Everybody reads and writes, everybody turns. Returns whether anything moved.
    fn round(&mut self) -> bool {
        let mut moved = false;
        for client in &mut self.clients {
            let mut world = self.server.world.borrow_mut();
            moved |= client.settle(&mut world, &mut self.oracle);
        }
        for index in 0..self.server.nodes.len() {
            moved |= self.server.step(index);
        }
        moved
    }

    /// Without faults, and with everybody reading, everything arrives.
    fn settle(&mut self) {
        self.server.world.borrow_mut().faults = Faults::default();
        self.oracle.settling = true;
        let mut quiet = 0;
        for rounds in 0.. {
            // A shard that goes to sleep submits what it has queued: its clients look once more.
            quiet = if self.round() { 0 } else { quiet + 1 };
            if quiet > 1 && self.server.is_at_rest() && !self.clients.iter().any(Client::is_writing)
            {
                break;
            }
            assert!(rounds < MAX_ROUNDS, "nothing settles: {}", self.describe());
            if rounds % 4 == 3 {
                self.server.world.borrow_mut().advance(1);
            }
        }
        self.oracle.settling = false;
        self.server.check_presence();
        self.server.check_admitted();
        for client in &self.clients {
            client.check_arrived(&self.server, &mut self.oracle);
        }
    }

    /// All leave, or the server ends.
    fn end(&mut self) {
        if self.random.chance(500) {
            // Once more with faults, for the ways to end.
            self.server.world.borrow_mut().faults = self.faults;
        }
        if self.random.chance(400) {
            self.oracle.draining = true;
            for index in 0..self.server.nodes.len() {
                self.server.tell(index, Message::Drain);
                if self.random.chance(500) {
                    self.step_a_shard();
                }
            }
        } else {
            for at in 0..self.clients.len() {
                let how = *self.random.pick(&[
                    Leaving::Close,
                    Leaving::Close,
                    Leaving::Fin,
                    Leaving::HangUp,
                    Leaving::Reset,
                ]);
                self.clients[at].leave(how, &mut self.server.world.borrow_mut());
                for _ in 0..self.random.below(4) {
                    self.step_a_shard();
                }
            }
        }
        for rounds in 0.. {
            if rounds == 50 {
                self.server.world.borrow_mut().faults = Faults::default();
            }
            if self.random.chance(700) {
                self.round();
            } else {
                self.step_a_shard();
            }
            self.server.world.borrow_mut().advance(2);
            if self.is_over() {
                break;
            }
            assert!(rounds < MAX_ROUNDS, "nobody leaves: {}", self.describe());
        }
        if self.oracle.draining {
            assert!(
                self.server.nodes.iter().all(|node| node.shard.is_none()),
                "a drained shard did not end"
            );
        }
        self.server.check_empty();
        self.oracle.check();
    }

    fn is_over(&self) -> bool {
        let empty = self.server.nodes.iter().all(|node| {
            node.shard
                .as_ref()
                .is_none_or(|shard| shard.core.connections.is_empty())
        });
        let done = if self.oracle.draining {
            self.server.nodes.iter().all(|node| node.shard.is_none())
        } else {
            self.clients
                .iter()
                .all(|client| client.stage == Stage::Over || client.gone)
        };
        empty && done && self.server.is_at_rest()
    }

    fn describe(&self) -> String {
        let mut text = String::new();
        let world = self.server.world.borrow();
        for client in &self.clients {
            if let Some(socket) = client.socket
                && client.stage != Stage::Over
                && !client.gone
            {
                let socket = world.socket(socket);
                text.push_str(&format!(
                    "\n  client {} ({:?}, {:?}): accepted {}, unread by the server {}, by the client {}, send blocked {}",
                    client.index,
                    client.plan,
                    client.stage,
                    socket.accepted,
                    socket.unread_by_server(),
                    socket.unread_by_client(),
                    socket.has_blocked_send(),
                ));
            }
        }
        for (index, node) in self.server.nodes.iter().enumerate() {
            let left = world.left_over(index);
            text.push_str(&format!(
                "\n  shard {index}: busy {}, parked {}, {left:?}",
                node.busy,
                world.is_parked(index)
            ));
        }
        text
    }

    fn check_accepts(&self) {
        let world = self.server.world.borrow();
        let counters = world.counters;
        assert_eq!(
            counters.lost_accepts, 0,
            "connections were lost to a full table"
        );
    }
}

/// What many seeds did, to see that they did anything.
#[derive(Default)]
struct Summary {
    delivered: u64,
    counters: Totals,
}

thread_local! {
    /// Whether a seed runs on this thread: then a panic's text is its report.
    static RUNNING: Cell<bool> = const { Cell::new(false) };
    static REPORT: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Keeps the panics of failing seeds for their report instead of printing them.
fn keep_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if RUNNING.get() {
                REPORT.set(panic.to_string());
            } else {
                usual(panic);
            }
        }));
    });
}

fn run(simulation: &mut Simulation, summary: &Mutex<Summary>) {
    simulation.chaos();
    simulation.settle();
    simulation.end();
    simulation.check_accepts();
    let mut summary = summary.lock().expect("no panic while it is held");
    summary.delivered += simulation.oracle.delivered;
    for node in &simulation.server.nodes {
        summary.counters.add(&node.counters);
    }
}

/// Runs a seed; `Err` with what went wrong.
fn run_seed(seed: u64, traced: bool, summary: &Mutex<Summary>) -> Result<(), String> {
    let mut simulation = Simulation::new(seed);
    if traced {
        simulation.server.world.borrow_mut().keep_trace();
    }
    keep_panics();
    RUNNING.set(true);
    let result = catch_unwind(AssertUnwindSafe(|| run(&mut simulation, summary)));
    RUNNING.set(false);
    if result.is_ok() {
        return Ok(());
    }
    let mut report = REPORT.take();
    report.push_str(&format!("\nIts clients know: {:?}", simulation.bounds));
    if traced {
        report.push_str("\nThe last events:\n");
        for line in simulation.server.world.borrow_mut().take_trace() {
            report.push_str(&line);
            report.push('\n');
        }
    }
    Err(report)
}

fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} must be a number, not {text:?}")),
    )
}

#[test]
fn every_seed_keeps_every_promise() {
    let summary = Mutex::new(Summary::default());
    if let Some(seed) = from_environment("RINGWIRE_SEED") {
        if let Err(report) = run_seed(seed, true, &summary) {
            panic!("seed {seed} fails: {report}");
        }
        return;
    }
    let seeds = from_environment("RINGWIRE_SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(0);
    let failures = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds {
                        break;
                    }
                    if let Err(report) = run_seed(seed, false, &summary) {
                        let mut failures = failures.lock().expect("no panic while it is held");
                        failures.push((seed, report));
                        if failures.len() >= 5 {
                            next.store(seeds, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    let mut failures = failures.into_inner().expect("no panic while it is held");
    failures.sort();
    if let Some((seed, _)) = failures.first() {
        for (seed, report) in &failures {
            println!("seed {seed}: {report}");
        }
        let report = run_seed(*seed, true, &summary).expect_err("a seed repeats");
        panic!(
            "seed {seed} fails (again: RINGWIRE_SEED={seed} cargo test --lib simulation): {report}"
        );
    }
    let Summary {
        delivered,
        counters,
    } = summary.into_inner().expect("no panic while it is held");
    println!("{seeds} seeds: {delivered} deliveries, {counters:?}");
    if seeds >= SEEDS {
        // Otherwise the simulation tests less than it says.
        for (name, count) in counters.named() {
            // Gauges, and what only a test of its own brings about.
            let zero = matches!(
                name,
                "connections" | "open" | "stale_completions" | "batches_kept"
            );
            assert!(count > 0 || zero, "no seed came across {name}");
        }
        assert!(delivered > 10 * seeds);
        let rule = counters.rules[0];
        assert!(rule.dropped > 0 && rule.conflated > 0 && rule.disconnected > 0);
        assert!(counters.recoveries_failed < counters.recoveries / 10 * 9);
    }
}
