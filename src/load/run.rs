//! A run: starts the client threads, moves them through its phases, reads their counters.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde::Serialize;

use super::channels::{Board, Channels};
use super::echo::Echo;
use super::fanout::{Fanout, Progress};
use super::idle::Idle;
use super::plan::{Ends, OUTSTANDING_MAX, Plan, Scenario};
use super::scenario::Scenario as Traffic;
use super::tun;
use super::worker::Worker;
use super::{Latencies, LatencySummary};

/// How often the coordinator looks at the counters while it waits.
const LOOK: Duration = Duration::from_millis(2);

/// What the workers are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    /// Open connections; send nothing of their own.
    Pause,
    /// Send.
    Run,
    /// Close everything and end.
    Close,
}

/// What workers and coordinator share.
pub(super) struct Shared {
    /// When the run began: the workers' clocks count from here, so that they agree.
    pub(super) began: Instant,
    phase: AtomicU8,
    /// Counts up when measured latencies are to be handed in.
    pub(super) lap: AtomicU32,
    pub(super) workers: Box<[Counters]>,
    /// Those that don't read are to read again, and to throw away what comes.
    pub(super) drain: AtomicBool,
    failed: AtomicBool,
    /// Connections that failed.
    failures: AtomicU64,
    /// Why: of the run if it failed, else of the first of them.
    failure: Mutex<Option<String>>,
    /// What was handed in of the lap.
    laps: Mutex<Lap>,
}

/// One worker's counters, written by it alone; on cache lines of its own.
#[derive(Default)]
#[repr(align(128))]
pub(super) struct Counters {
    pub(super) messages: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) publishes: AtomicU64,
    pub(super) opened: AtomicU64,
    pub(super) left: AtomicU64,
    pub(super) cut: AtomicU64,
    pub(super) behind: AtomicU64,
    pub(super) unread: AtomicU64,
    pub(super) pings: AtomicU64,
    pub(super) sent_again: AtomicU64,
    pub(super) out_of_order: AtomicU64,
    pub(super) damaged: AtomicU64,
    pub(super) ready: AtomicU32,
    /// The last lap that was handed in.
    pub(super) lap: AtomicU32,
    pub(super) quiet: AtomicBool,
}

impl Shared {
    fn new(workers: u32) -> Self {
        Self {
            began: Instant::now(),
            phase: AtomicU8::new(Phase::Pause as u8),
            lap: AtomicU32::new(0),
            workers: (0..workers).map(|_| Counters::default()).collect(),
            drain: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            failures: AtomicU64::new(0),
            failure: Mutex::new(None),
            laps: Mutex::default(),
        }
    }

    pub(super) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Pause,
            1 => Phase::Run,
            _ => Phase::Close,
        }
    }

    /// Keeps the first failure.
    pub(super) fn fail(&self, reason: String) {
        if let Ok(mut failure) = self.failure.lock() {
            failure.get_or_insert(reason);
        }
        self.failed.store(true, Ordering::Release);
    }

    /// Counts a connection that failed; one beyond `most` fails the run. Keeps the first reason.
    pub(super) fn fail_connection(&self, reason: String, most: u32) {
        let before = self.failures.fetch_add(1, Ordering::AcqRel);
        if let Ok(mut failure) = self.failure.lock() {
            failure.get_or_insert(reason);
        }
        if before >= most.into() {
            self.failed.store(true, Ordering::Release);
        }
    }

    pub(super) fn add_lap(&self, lap: &Lap) {
        if let Ok(mut all) = self.laps.lock() {
            all.messages.merge(&lap.messages);
            all.lasts.merge(&lap.lasts);
            all.connects.merge(&lap.connects);
        }
    }

    /// What was handed in since the last time.
    fn take_lap(&self) -> Lap {
        let taken = self.laps.lock();
        taken.map_or_else(|_| Lap::default(), |mut all| std::mem::take(&mut *all))
    }

    fn check(&self) -> anyhow::Result<()> {
        if self.failed.load(Ordering::Acquire) {
            let failure = self.failure.lock().ok().and_then(|failure| failure.clone());
            bail!(failure.unwrap_or_else(|| "a client thread failed".to_owned()));
        }
        Ok(())
    }
}

/// What has been counted since the run began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Messages that came back (echo) or were delivered (fan-out), each checked byte for byte.
    pub messages: u64,
    /// Their payload bytes.
    pub bytes: u64,
    /// Publishes that reached every subscriber.
    pub publishes: u64,
}

impl Counts {
    /// What was counted after `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            messages: self.messages - earlier.messages,
            bytes: self.bytes - earlier.bytes,
            publishes: self.publishes - earlier.publishes,
        }
    }
}

/// The connections of a run at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Live {
    /// Open and, where the scenario subscribes, subscribed.
    pub ready: u32,
    /// All that the server ever accepted.
    pub opened: u64,
    /// Closed because their time was over ([`Plan::stay_ms`]).
    pub left: u64,
    /// Closed by the server, of those that did not read ([`Plan::stall`]); seen once they read again
    /// ([`Load::drain`]): the end comes after what was sent before.
    pub cut: u64,
    /// Of those that did not read: for which more waited than their own receive buffer holds
    /// ([`Plan::receive_buffer_bytes`]), so that the rest was at the server; seen once they read again.
    pub behind: u64,
    /// What they had not read, in bytes: what came once they read again.
    pub unread_bytes: u64,
    /// Failed, of those that may ([`Plan::failures_max`]).
    pub failed: u64,
}

/// What clients behind a TUN device saw of the network between them and the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Network {
    /// Segments that they sent again, because no acknowledgement came in time.
    pub sent_again: u64,
    /// Segments that came when others were due: something before them was lost, or they came twice.
    pub out_of_order: u64,
    /// Packets with a wrong checksum or length, which were thrown away.
    pub damaged: u64,
}

/// What is left of a run when it is over.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Summary {
    /// Everything counted.
    pub counts: Counts,
    /// Since the last [`Load::lap`]. Round trips: of each message (echo), from a publish to its last
    /// delivery (fan-out), or to each of them (channels).
    pub latency: LatencySummary,
    /// Since the last [`Load::lap`], from the beginning of each connect to the complete upgrade.
    pub connect_latency: LatencySummary,
}

/// What was measured between two calls of [`Load::lap`].
#[derive(Clone, Debug, Default)]
pub struct Lap {
    /// As [`Summary::latency`].
    pub messages: Latencies,
    /// From each publish to its last delivery, where there are publishes.
    pub lasts: Latencies,
    /// As [`Summary::connect_latency`].
    pub connects: Latencies,
}

/// A run in progress. Dropping it closes all connections.
pub struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    connections: u32,
    /// What the workers of [`Scenario::Channels`] share, and how many channels its groups have.
    board: Option<Arc<Board>>,
    groups: Vec<u32>,
    publishers: u32,
}

impl Load {
    /// Starts the client threads, which begin to connect.
    ///
    /// # Errors
    /// When the plan cannot be run, or a thread not be started. What fails in a thread (a ring that
    /// the kernel does not give, a connection that is refused) is returned by the next call.
    pub fn start(plan: &Plan) -> anyhow::Result<Self> {
        Self::start_with(plan, None)
    }

    /// The same for a plan with [`Ends::Tun`]: the clients are behind `device`.
    ///
    /// # Errors
    /// As [`Load::start`].
    pub fn start_behind(plan: &Plan, device: &Arc<tun::Device>) -> anyhow::Result<Self> {
        Self::start_with(plan, Some(device))
    }

    fn start_with(plan: &Plan, device: Option<&Arc<tun::Device>>) -> anyhow::Result<Self> {
        plan.check()?;
        if device.is_some() != (plan.ends == Ends::Tun) {
            bail!("clients behind a TUN device, and no others, are started with the device");
        }
        let shared = Arc::new(Shared::new(plan.workers));
        let progress = progress(plan);
        let (board, groups, publishers) = match &plan.scenario {
            Scenario::Channels(channels) => (
                Some(Arc::new(Board::new(channels, plan))),
                channels.groups.iter().map(|group| group.channels).collect(),
                channels.publishers,
            ),
            _ => (None, Vec::new(), 0),
        };
        let mut load = Self {
            shared: Arc::clone(&shared),
            threads: Vec::new(),
            connections: plan.connections,
            board: board.clone(),
            groups,
            publishers,
        };
        for index in 0..plan.workers as usize {
            let (plan, shared) = (plan.clone(), Arc::clone(&shared));
            let (progress, board) = (progress.clone(), board.clone());
            let device = device.cloned();
            let core = match plan.cores.len() {
                0 => None,
                cores => Some(plan.cores[index % cores]),
            };
            let work = move || {
                let pinned = core
                    .is_none_or(|id| core_affinity::set_for_current(core_affinity::CoreId { id }));
                if !pinned {
                    shared.fail(format!("cannot pin a client thread to core {core:?}"));
                } else if let Err(error) = work(&plan, index, progress, board, &shared, device) {
                    shared.fail(format!("client thread {index}: {error:#}"));
                }
            };
            let thread = thread::Builder::new().name(format!("load-{index}"));
            load.threads
                .push(thread.spawn(work).context("cannot start a client thread")?);
        }
        Ok(load)
    }

    /// Waits until every connection is open (and, for fan-out, subscribed); returns how long it took
    /// since the start.
    ///
    /// # Errors
    /// When a connection failed, or `limit` is over.
    pub fn wait_ready(&self, limit: Duration) -> anyhow::Result<Duration> {
        let ready = || u64::from(self.live().ready);
        let all = u64::from(self.connections);
        self.wait(limit, || ready() + self.failures() >= all)
            .with_context(|| format!("{} of {all} connections ready", ready()))?;
        Ok(self.shared.began.elapsed())
    }

    /// Waits until the server has accepted every connection, whatever it still has to subscribe to;
    /// returns how long it took since the start.
    ///
    /// # Errors
    /// When a connection failed, or `limit` is over.
    pub fn wait_open(&self, limit: Duration) -> anyhow::Result<Duration> {
        let all = u64::from(self.connections);
        self.wait(limit, || self.opened() + self.failures() >= all)
            .with_context(|| format!("{} of {all} connections open", self.opened()))?;
        Ok(self.shared.began.elapsed())
    }

    /// Connections that the server has accepted so far.
    #[must_use]
    pub fn opened(&self) -> u64 {
        self.sum(|worker| worker.opened.load(Ordering::Acquire))
    }

    fn failures(&self) -> u64 {
        self.shared.failures.load(Ordering::Acquire)
    }

    /// How the connections are now. Cheap; at most one turn of a worker behind.
    #[must_use]
    pub fn live(&self) -> Live {
        Live {
            ready: self.sum(|worker| worker.ready.load(Ordering::Acquire).into()) as u32,
            opened: self.opened(),
            left: self.sum(|worker| worker.left.load(Ordering::Relaxed)),
            cut: self.sum(|worker| worker.cut.load(Ordering::Relaxed)),
            behind: self.sum(|worker| worker.behind.load(Ordering::Relaxed)),
            unread_bytes: self.sum(|worker| worker.unread.load(Ordering::Relaxed)),
            failed: self.failures(),
        }
    }

    /// Lets connections read again that don't ([`Plan::stall`]), and throw away what comes: so it is seen
    /// whether the server has closed them ([`Live::cut`]).
    pub fn drain(&self) {
        self.shared.drain.store(true, Ordering::Release);
    }

    /// Pings that the server sent, each answered.
    #[must_use]
    pub fn pings(&self) -> u64 {
        self.sum(|worker| worker.pings.load(Ordering::Relaxed))
    }

    /// What the network did, to clients behind a TUN device. (Of sockets, the kernel knows.)
    #[must_use]
    pub fn network(&self) -> Network {
        Network {
            sent_again: self.sum(|worker| worker.sent_again.load(Ordering::Relaxed)),
            out_of_order: self.sum(|worker| worker.out_of_order.load(Ordering::Relaxed)),
            damaged: self.sum(|worker| worker.damaged.load(Ordering::Relaxed)),
        }
    }

    /// Why the first connection failed, of those that may.
    #[must_use]
    pub fn first_failure(&self) -> Option<String> {
        self.shared.failure.lock().ok()?.clone()
    }

    /// Lets connections subscribe that were held back ([`super::ChannelsPlan::held_back`]).
    pub fn subscribe(&self) {
        if let Some(board) = &self.board {
            board.subscribe.store(true, Ordering::Release);
        }
    }

    /// Publishes once to each channel of a group of [`Scenario::Channels`], all at once, and waits until
    /// every subscriber has it. Returns the time from the first publish to the last delivery. For a run
    /// without other traffic.
    ///
    /// # Errors
    /// When the plan has no such group, no publisher or too many channels there, a connection failed, or
    /// `limit` is over.
    pub fn burst(&self, group: usize, limit: Duration) -> anyhow::Result<Duration> {
        let channels = self.groups.get(group).copied().unwrap_or(0);
        let board = self.board.as_ref().filter(|board| board.publishes());
        let Some(board) = board.filter(|_| (1..=OUTSTANDING_MAX).contains(&channels)) else {
            bail!(
                "a burst takes a publisher, and a group of 1 to {OUTSTANDING_MAX} channels: \
                 group {group} has {channels}"
            );
        };
        let publishes = self.counts().publishes + u64::from(channels);
        board.ask_burst(group);
        self.wait_publishes(publishes, limit)?;
        Ok(Duration::from_nanos(board.burst_ns()))
    }

    /// Lets every subscriber of [`Scenario::Channels`] publish once to its channel of a group, in which each
    /// has one of its own, and waits until all have it back. For a run without other traffic.
    ///
    /// # Errors
    /// When the plan has no such group, a connection failed, or `limit` is over.
    pub fn everyone(&self, group: usize, limit: Duration) -> anyhow::Result<()> {
        let Some(board) = self.board.as_ref().filter(|_| group < self.groups.len()) else {
            bail!("there is no group {group}");
        };
        let messages = self.counts().messages + u64::from(self.live().ready);
        let messages = messages - u64::from(self.publishers);
        board.ask_round(group);
        self.wait_messages(messages, limit)
    }

    /// What was measured since the last call, or since the start.
    ///
    /// # Errors
    /// When a connection failed, or a worker does not answer within `limit`.
    pub fn lap(&self, limit: Duration) -> anyhow::Result<Lap> {
        let lap = self.shared.lap.fetch_add(1, Ordering::AcqRel) + 1;
        let late = || self.sum(|worker| u64::from(worker.lap.load(Ordering::Acquire) != lap));
        self.wait(limit, || late() == 0)?;
        Ok(self.shared.take_lap())
    }

    /// Lets traffic run.
    pub fn resume(&self) {
        self.shared.phase.store(Phase::Run as u8, Ordering::Release);
    }

    /// Stops sending and waits until everything sent has been answered.
    ///
    /// # Errors
    /// When a connection failed, or `limit` is over.
    pub fn pause(&self, limit: Duration) -> anyhow::Result<()> {
        self.shared
            .phase
            .store(Phase::Pause as u8, Ordering::Release);
        // A worker may be between reading the phase and sending: what it says counts from a turn
        // that began after this.
        thread::sleep(2 * LOOK);
        let busy = || self.sum(|worker| u64::from(!worker.quiet.load(Ordering::Acquire)));
        self.wait(limit, || busy() == 0)
            .context("answers are missing")
    }

    /// Waits until `publishes` publishes have reached every subscriber.
    ///
    /// # Errors
    /// When a connection failed, or `limit` is over.
    pub fn wait_publishes(&self, publishes: u64, limit: Duration) -> anyhow::Result<()> {
        self.wait(limit, || self.counts().publishes >= publishes)
            .with_context(|| format!("{} messages were delivered", self.counts().messages))
    }

    /// Waits until `messages` messages have been counted.
    ///
    /// # Errors
    /// When a connection failed, or `limit` is over.
    pub fn wait_messages(&self, messages: u64, limit: Duration) -> anyhow::Result<()> {
        self.wait(limit, || self.counts().messages >= messages)
            .with_context(|| format!("{} of {messages} came", self.counts().messages))
    }

    /// What has been counted so far. Cheap; at most one turn of a worker behind.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            messages: self.sum(|worker| worker.messages.load(Ordering::Relaxed)),
            bytes: self.sum(|worker| worker.bytes.load(Ordering::Relaxed)),
            publishes: self.sum(|worker| worker.publishes.load(Ordering::Relaxed)),
        }
    }

    /// Whether everything went well so far.
    ///
    /// # Errors
    /// The first failure.
    pub fn check(&self) -> anyhow::Result<()> {
        self.shared.check()
    }

    /// Closes all connections as the plan says; by default with a reset, so that none is left in
    /// `TIME_WAIT`.
    ///
    /// # Errors
    /// The first failure of the run.
    pub fn finish(mut self) -> anyhow::Result<Summary> {
        self.close();
        self.shared.check()?;
        let lap = self.shared.take_lap();
        Ok(Summary {
            counts: self.counts(),
            latency: lap.messages.summary(),
            connect_latency: lap.connects.summary(),
        })
    }

    fn close(&mut self) {
        self.shared
            .phase
            .store(Phase::Close as u8, Ordering::Release);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                self.shared.fail("a client thread panicked".to_owned());
            }
        }
    }

    fn sum(&self, of: impl Fn(&Counters) -> u64) -> u64 {
        self.shared.workers.iter().map(of).sum()
    }

    fn wait(&self, limit: Duration, done: impl Fn() -> bool) -> anyhow::Result<()> {
        let began = Instant::now();
        while !done() {
            self.shared.check()?;
            if began.elapsed() > limit {
                bail!("not done after {} s", limit.as_secs());
            }
            thread::sleep(LOOK);
        }
        self.shared.check()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.close();
    }
}

/// What the workers of a fan-out share.
fn progress(plan: &Plan) -> Option<Arc<Progress>> {
    let Scenario::Fanout(fanout) = &plan.scenario else {
        return None;
    };
    let subscribing = (0..plan.workers).filter(|&worker| {
        let connections = plan.share(worker).len() as u32;
        worker > 0 || connections > fanout.publishers
    });
    let workers = subscribing.count() as u32;
    Some(Arc::new(Progress::new(fanout.publishers, workers)))
}

/// A client thread.
fn work(
    plan: &Plan,
    index: usize,
    progress: Option<Arc<Progress>>,
    board: Option<Arc<Board>>,
    shared: &Arc<Shared>,
    device: Option<Arc<tun::Device>>,
) -> anyhow::Result<()> {
    let share = plan.share(index as u32);
    let connections = share.len() as u32;
    let shared = Arc::clone(shared);
    match (&plan.scenario, progress, board) {
        (Scenario::Echo(echo), ..) => {
            let bytes = (echo.size_bytes + 10).saturating_mul(echo.outstanding as usize);
            let share = f64::from(connections) / f64::from(plan.connections);
            let rate = echo.rate.map(|rate| f64::from(rate) * share);
            drive(plan, index, Echo::new(*echo, rate), bytes, shared, device)
        }
        (Scenario::Fanout(fanout), Some(progress), _) => {
            // The envelope takes about 100 bytes.
            let all = fanout.outstanding as usize * fanout.publishers as usize;
            let bytes = (fanout.size_bytes + 110).saturating_mul(all);
            let publishers = if index == 0 { fanout.publishers } else { 0 };
            let scenario = Fanout::new(fanout.clone(), progress, connections, publishers);
            drive(plan, index, scenario, bytes, shared, device)
        }
        (Scenario::Channels(channels), _, Some(board)) => {
            let bytes = channels.size_bytes + 160;
            let publishers = if index == 0 { channels.publishers } else { 0 };
            // The publishers have no number as subscribers; the first one is the plan's first.
            let before = share.start.saturating_sub(channels.publishers);
            let first_number = plan.first + before;
            let scenario = Channels::new(
                channels.clone(),
                board,
                publishers,
                first_number,
                plan.connecting,
            );
            drive(plan, index, scenario, bytes, shared, device)
        }
        (Scenario::Idle | Scenario::Fanout(_) | Scenario::Channels(_), ..) => {
            drive(plan, index, Idle, 0, shared, device)
        }
    }
}

/// Runs the clients of a thread, whatever their ends are.
fn drive<S: Traffic>(
    plan: &Plan,
    index: usize,
    scenario: S,
    answer_bytes: usize,
    shared: Arc<Shared>,
    device: Option<Arc<tun::Device>>,
) -> anyhow::Result<()> {
    match device {
        Some(device) => tun::Worker::new(plan, scenario, shared, device)?.run(),
        None => Worker::new(plan, index, scenario, answer_bytes, shared)?.run(),
    }
}
