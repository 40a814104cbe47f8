//! The shards' threads: started together, ended together.

use super::limits::SmallPages;
use super::{Publisher, Server, StartError};
use crate::config::Listen;
use crate::hub::rules::ChannelRules;
use crate::mesh::{Batch, Links, Mesh, Message};
use crate::ring::{Peers, Uring, UringConfig};
use crate::shard::core::Settings;
use crate::shard::handler::Handler;
use crate::shard::run::{Waiting, run};
use crate::shard::{Shard, ShardParts};
use crate::telemetry::counters::{Counters, Totals};
use crate::topology::{self, SocketFile};
use crossbeam_channel::{Receiver, Sender, bounded};
use glommio::{LocalExecutorBuilder, Placement};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Entries of the executor's own rings: they carry timers and one read at a time.
const EXECUTOR_RING_DEPTH: usize = 128;
/// Memory that the executor registers for file I/O, which shards don't do.
const EXECUTOR_IO_MEMORY: usize = 64 << 10;
/// Time between two looks of the main thread at a draining server.
const POLL: Duration = Duration::from_millis(50);
/// How long a server that waits for no client (`drain_ms` 0) gives its shards to send the close frames.
/// Shards that do not get through by then have more to do than that.
const FAREWELLS: Duration = Duration::from_secs(1);
/// At most one line of the log in this time says that clients were cut off for being slow.
const SLOW_NEWS: Duration = Duration::from_secs(1);

/// The timers of the executors that shards run in.
#[derive(Clone, Copy)]
pub(super) struct ExecutorTimers {
    /// After this long the executor wants its tasks to yield. When that comes at the wrong moment,
    /// glommio 0.9 parks although a task is runnable.
    preempt: Duration,
    /// Ends a stall of that kind; see [`Waiting::ticker`].
    ticker: Duration,
}

impl Default for ExecutorTimers {
    fn default() -> Self {
        Self {
            // Not to preempt: the shard's loop yields by itself (see `shard::run`).
            preempt: Duration::from_secs(24 * 3600),
            ticker: Duration::from_millis(100),
        }
    }
}

/// A running server. Dropping it drains and waits.
pub struct Running {
    addresses: Vec<Listen>,
    counters: Vec<Arc<Counters>>,
    handle: DrainHandle,
    publisher: Publisher,
    /// The end of each shard, as it comes.
    ended: Receiver<(usize, Result<(), String>)>,
    threads: Vec<std::thread::JoinHandle<()>>,
    /// Removed when the server has ended.
    _files: Vec<SocketFile>,
}

/// Tells the shards of a running server to end.
#[derive(Clone)]
pub struct DrainHandle {
    links: Arc<Links>,
    peers: Arc<Peers>,
    asked: Sender<()>,
    was_asked: Receiver<()>,
}

impl DrainHandle {
    /// Asks all shards to accept nothing more, close their connections, and end. Returns at once.
    pub fn drain(&self) {
        if self.asked.try_send(()).is_err() {
            return;
        }
        for shard in 0..self.links.shards() {
            // A shard that has ended needs no telling.
            let _ = self.links.send_from_outside(shard, Message::Drain);
            self.peers.wake_from_outside(shard);
        }
    }

    fn is_asked(&self) -> bool {
        !self.was_asked.is_empty()
    }
}

/// What one shard's thread is made of.
struct Start<F> {
    index: usize,
    core: usize,
    ring: UringConfig,
    parts: ShardParts,
    waiting: Waiting,
    preempt: Duration,
    make: F,
    ready: Sender<(usize, Result<(), String>)>,
    /// Closes without a message when the start is called off.
    go: Receiver<()>,
    ended: Sender<(usize, Result<(), String>)>,
}

pub(super) fn start<H: Handler>(
    server: Server<H>,
    timers: ExecutorTimers,
) -> Result<Running, StartError> {
    let shards = server.plan.shards.len();
    // Until all shards have their rings.
    let _small_pages = SmallPages::where_memory_is_short();
    let system = |what| move |error| StartError::System { what, error };
    let peers = Peers::new(shards).map_err(system("making an event descriptor"))?;
    let (links, inboxes) = Links::new(shards);
    let seed = random()?;
    let wait_us = server.plan.wait_us(&server.config.ring);
    let rules = ChannelRules::new(&server.config.channels);
    let config = Arc::new(server.config);
    let handler: Arc<super::MakeHandler<H>> = server.handler.into();
    let (ready, is_ready) = bounded(shards);
    let (ended, has_ended) = bounded(shards);
    let (go, may_go) = bounded::<()>(0);
    let mut sockets = Sockets::distribute(server.listeners, shards);
    let mut counters = Vec::new();
    let mut threads = Vec::new();
    for (place, inbox) in server.plan.shards.iter().zip(inboxes) {
        let index = place.shard;
        let own_counters = Arc::new(Counters::new(rules.len()));
        counters.push(Arc::clone(&own_counters));
        let (listeners, unix_listeners) = std::mem::take(&mut sockets.per_shard[index]);
        let start = Start {
            index,
            core: place.core,
            ring: UringConfig {
                entries: config.ring.entries,
                completion_entries: config.ring.completion_entries,
                buffers: config.ring.buffers,
                large_buffers: config.ring.large_buffers,
                slots: server.slots,
                listeners,
                ..UringConfig::new(Arc::clone(&peers), index)
            },
            parts: ShardParts {
                index: index as u16,
                settings: Settings::new(&config),
                mesh: Mesh::new(
                    index,
                    Arc::clone(&links),
                    inbox,
                    config.client.mesh_pending_bytes,
                ),
                seed,
                random: random()?,
                rules: rules.clone(),
                counters: own_counters,
                unix_listeners,
            },
            waiting: Waiting {
                wait_us,
                min_wait_us: config.ring.min_wait_us,
                ticker: timers.ticker,
            },
            preempt: timers.preempt,
            make: {
                let (handler, config) = (Arc::clone(&handler), Arc::clone(&config));
                move |index| handler(index, &config)
            },
            ready: ready.clone(),
            go: may_go.clone(),
            ended: ended.clone(),
        };
        let thread = std::thread::Builder::new()
            .name(format!("shard-{index}"))
            .spawn(move || shard_thread(start))
            .map_err(system("starting a shard's thread"))?;
        threads.push(thread);
    }
    drop((ready, ended, may_go));
    // The rings know each other's descriptors only when all are there: nobody accepts before that.
    for _ in 0..shards {
        let (shard, problem) = match is_ready.recv() {
            Ok((_, Ok(()))) => continue,
            Ok((shard, Err(problem))) => (shard, problem),
            Err(_) => (0, "a shard's thread ended".to_owned()),
        };
        drop(go);
        for thread in threads {
            let _ = thread.join();
        }
        return Err(StartError::Shard { shard, problem });
    }
    for _ in 0..shards {
        // Each shard takes one; none of them can have ended meanwhile.
        let _ = go.send(());
    }
    let (asked, was_asked) = bounded(1);
    Ok(Running {
        addresses: sockets.addresses,
        counters,
        publisher: Publisher {
            links: Arc::clone(&links),
            peers: Arc::clone(&peers),
            seed,
            limit_bytes: config.client.mesh_pending_bytes,
        },
        handle: DrainHandle {
            links,
            peers,
            asked,
            was_asked,
        },
        ended: has_ended,
        threads,
        _files: sockets.files,
    })
}

fn random() -> Result<u64, StartError> {
    getrandom::u64().map_err(|error| StartError::System {
        what: "reading random numbers",
        error: error.into(),
    })
}

/// Ends the process when its thread panics: other shards count on this one, and its clients would wait for
/// ever.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

/// One shard's thread, from the first to the last instruction.
fn shard_thread<H: Handler, F: FnOnce(usize) -> H>(start: Start<F>) {
    let Start {
        index,
        core,
        ring,
        parts,
        waiting,
        preempt,
        make,
        ready,
        go,
        ended,
    } = start;
    let _abort = AbortOnPanic;
    let name = format!("shard-{index}");
    let executor = LocalExecutorBuilder::new(Placement::Fixed(core))
        .name(&name)
        .ring_depth(EXECUTOR_RING_DEPTH)
        .io_memory(EXECUTOR_IO_MEMORY)
        .preempt_timer(preempt)
        .make();
    let executor = match executor {
        Ok(executor) => executor,
        Err(error) => {
            let problem = format!("its executor on core {core}: {error}");
            let _ = ready.send((index, Err(problem)));
            return;
        }
    };
    let result = executor.run(async move {
        let uring = match Uring::new(ring) {
            Ok(uring) => uring,
            Err(error) => {
                let _ = ready.send((index, Err(error.to_string())));
                return None;
            }
        };
        let _ = ready.send((index, Ok(())));
        if go.recv().is_err() {
            return None;
        }
        let shard = Shard::new(uring, make(index), parts);
        Some(run(shard, waiting).await)
    });
    if let Some(result) = result {
        let _ = ended.send((index, result.map_err(|error| error.to_string())));
    }
}

/// Every shard's listening sockets, and which of them are Unix sockets.
#[derive(Default)]
struct Sockets {
    per_shard: Vec<(Vec<OwnedFd>, Vec<bool>)>,
    addresses: Vec<Listen>,
    files: Vec<SocketFile>,
}

impl Sockets {
    fn distribute(listeners: Vec<topology::Listener>, shards: usize) -> Self {
        let mut sockets = Self {
            per_shard: (0..shards).map(|_| Default::default()).collect(),
            ..Self::default()
        };
        for listener in listeners {
            let unix = matches!(listener.address, Listen::Unix(_));
            // TCP: one socket per shard. Unix: one for shard 0, which hands over what is too much.
            for (shard, socket) in listener.sockets.into_iter().enumerate() {
                sockets.per_shard[shard].0.push(socket.into());
                sockets.per_shard[shard].1.push(unix);
            }
            sockets.addresses.push(listener.address);
            sockets.files.extend(listener.file);
        }
        sockets
    }
}

impl Running {
    /// Where clients connect.
    #[must_use]
    pub fn addresses(&self) -> &[Listen] {
        &self.addresses
    }

    /// What all shards have counted.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        self.counters
            .iter()
            .for_each(|counters| totals.add(counters));
        totals
    }

    /// What each shard has counted.
    #[must_use]
    pub fn counters(&self) -> &[Arc<Counters>] {
        &self.counters
    }

    /// Publishes, from any thread.
    #[must_use]
    pub fn publisher(&self) -> Publisher {
        self.publisher.clone()
    }

    /// Asks the server to end, from any thread.
    #[must_use]
    pub fn drain_handle(&self) -> DrainHandle {
        self.handle.clone()
    }

    /// Drains, and returns when the last connection is gone.
    ///
    /// # Errors
    /// As [`Running::wait`].
    pub fn stop(self, drain_ms: u32) -> Result<(), StartError> {
        self.handle.drain();
        self.wait(drain_ms)
    }

    /// Waits until all shards have ended.
    ///
    /// With a `drain_ms` of 0 no client is waited for: everybody is told that the server ends, and
    /// those who are still connected then are cut off, which is no error but a warning in the log.
    ///
    /// # Errors
    /// When a shard fails (the others are drained then), or connections are left `drain_ms` after the
    /// server was asked to end. Threads that still run are left to the end of the process.
    pub fn wait(mut self, drain_ms: u32) -> Result<(), StartError> {
        let mut failed = None;
        let (mut asked_at, mut told_at) = (None, None::<Instant>);
        let mut running = self.threads.len();
        let mut slow = SlowNews::default();
        while running > 0 {
            match self.ended.recv_timeout(POLL) {
                Ok((_, Ok(()))) => running -= 1,
                Ok((shard, Err(problem))) => {
                    running -= 1;
                    tracing::error!(shard, %problem, "a shard failed");
                    failed.get_or_insert(StartError::Failed { shard, problem });
                    self.handle.drain();
                }
                Err(crossbeam_channel::RecvTimeoutError::Timeout) => {}
                Err(crossbeam_channel::RecvTimeoutError::Disconnected) => break,
            }
            slow.tell(&self.counters);
            if running > 0 && self.handle.is_asked() {
                let waited = asked_at.get_or_insert_with(Instant::now).elapsed();
                if drain_ms == 0 {
                    // Nobody is open when everybody has been told, and what is told leaves with the
                    // same turn: two looks further on it has.
                    if self.totals().open == 0 {
                        told_at.get_or_insert_with(Instant::now);
                    }
                    let told = told_at.is_some_and(|at| at.elapsed() >= 2 * POLL);
                    if !told && waited < FAREWELLS {
                        continue;
                    }
                } else if waited < Duration::from_millis(drain_ms.into()) {
                    continue;
                }
                self.threads.clear();
                let connections = self.totals().connections;
                if drain_ms > 0 {
                    return Err(failed.unwrap_or(StartError::DrainTimeout {
                        connections,
                        drain_ms,
                    }));
                }
                if connections > 0 {
                    tracing::warn!(
                        connections,
                        "cut off, because the server waits for no client (timeouts.drain_ms is 0)"
                    );
                }
                return failed.map_or(Ok(()), Err);
            }
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        failed.map_or(Ok(()), Err)
    }
}

/// Says in the log that clients were cut off for reading too slowly: a line now and then with their
/// number, on the main thread. A shard that wrote a line for each would wait for standard error while
/// the rest of the channel waits for it.
struct SlowNews {
    looked_at: Instant,
    told: u64,
}

impl Default for SlowNews {
    fn default() -> Self {
        Self {
            looked_at: Instant::now(),
            told: 0,
        }
    }
}

impl SlowNews {
    fn tell(&mut self, counters: &[Arc<Counters>]) {
        if self.looked_at.elapsed() < SLOW_NEWS {
            return;
        }
        self.looked_at = Instant::now();
        let cut_off = counters
            .iter()
            .map(|shard| shard.slow_consumers.get() + shard.write_timeouts.get())
            .sum::<u64>();
        if cut_off > self.told {
            tracing::info!(
                connections = cut_off - self.told,
                "cut off, because they read too slowly (4010)"
            );
            self.told = cut_off;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.threads.is_empty() {
            self.handle.drain();
            for thread in self.threads.drain(..) {
                let _ = thread.join();
            }
        }
    }
}

// A batch travels between threads: this fails to compile if it ever holds something that cannot.
const _: fn() = || {
    fn sendable<T: Send>() {}
    sendable::<Batch>();
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use std::io::ErrorKind;
    use std::net::TcpStream;
    use tungstenite::{Error, Message, WebSocket};

    /// Timers of an executor that are too short for it: one of this length often expires between the
    /// executor's look at its events and the moment when it would run the tasks that they woke. Then
    /// it parks instead. The slower the machine, the longer the timer that does so.
    const TOO_SHORT_US: [u64; 5] = [20, 50, 100, 200, 500];

    /// A thousand times what an echo takes, and nowhere near the next tick.
    const STALL: Duration = Duration::from_secs(1);

    const TICKER: Duration = Duration::from_secs(4);

    /// One shard that parks whenever it can, and one echo client; `None` when the executor does not
    /// get as far as that. Such a one is left to the end of the process.
    fn start_with(timers: ExecutorTimers) -> Option<(Running, WebSocket<TcpStream>)> {
        let mut config = Config {
            listen: vec!["127.0.0.1:0".parse().unwrap()],
            shards: Some(1),
            ..Config::default()
        };
        config.client.connections_per_shard = Some(64);
        config.ring.wait_us = 0;
        let server = Server::builder().config(config).build().unwrap();
        let (started, has_started) = bounded(1);
        std::thread::spawn(move || drop(started.send(start(server, timers))));
        let running = has_started.recv_timeout(Duration::from_secs(10)).ok()?;
        let running = running.unwrap();
        let Listen::Tcp(address) = running.addresses()[0] else {
            panic!("a TCP listener")
        };
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(10 * TICKER)).unwrap();
        match tungstenite::client("ws://test/echo", stream) {
            Ok((client, _)) => Some((running, client)),
            Err(_) => {
                std::mem::forget(running);
                None
            }
        }
    }

    /// Whether the echo of a number comes within `patience`.
    fn is_echoed(client: &mut WebSocket<TcpStream>, number: u64, patience: Duration) -> bool {
        client.get_ref().set_read_timeout(Some(patience)).unwrap();
        match client.read() {
            Ok(message) => {
                assert_eq!(message, Message::text(number.to_string()));
                true
            }
            Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => false,
            Err(error) => panic!("{error}"),
        }
    }

    /// Nothing but the ticker ends a stall: it lasts until the next tick, however far that is.
    #[test]
    fn a_stalled_executor_comes_back_with_the_ticker() {
        for preempt_us in TOO_SHORT_US {
            let timers = ExecutorTimers {
                preempt: Duration::from_micros(preempt_us),
                ticker: TICKER,
            };
            let Some((running, mut client)) = start_with(timers) else {
                continue;
            };
            // Dropping it would wait for a stalled executor for ever.
            let running = std::mem::ManuallyDrop::new(running);
            let started = Instant::now();
            let stalled = (1..)
                .take_while(|_| started.elapsed() < Duration::from_secs(20))
                .find(|number| {
                    client.send(Message::text(number.to_string())).unwrap();
                    !is_echoed(&mut client, *number, STALL)
                });
            // At its worst such a timer swallows one tick after the other.
            if let Some(number) = stalled
                && is_echoed(&mut client, number, 10 * TICKER)
            {
                drop(client);
                // It may stall once more when the ticker has ended.
                match std::mem::ManuallyDrop::into_inner(running).stop(5000) {
                    Ok(()) | Err(StartError::DrainTimeout { .. }) => return,
                    Err(error) => panic!("{error}"),
                }
            }
        }
        panic!("no stall that ended: if this executor has none any more, drop the ticker");
    }
}
