//! One client thread: a ring, its connections, and the loop that drives them.
//!
//! A turn takes what the kernel completed, hands messages to the scenario, and sends what that
//! wrote, one send per connection. Every connection waits in multishot poll and is read with single
//! receives, as on the server.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::Latencies;
use super::connection::{Connection, Stage};
use super::explain::{self, NoSource};
use super::handshake::Handshake;
use super::plan::{Ending, Plan};
use super::run::{Lap, Phase, Shared};
use super::scenario::{MaskKeys, Outgoing, Scenario};
use crate::ring::{
    BufferClass, Completion, Op, PayloadPool, Peers, Ring, Token, Uring, UringConfig, Wait,
};
use crate::wire::Role;
use crate::wire::message::Rules;

/// Receives in flight at most, and so buffers in use: what one turn can take without running out.
const SMALL_BUFFERS: u16 = 512;
const LARGE_BUFFERS: u16 = 128;
/// Answers up to this size are received into small buffers.
const SMALL_BYTES: usize = 2_048;
/// Largest message that a server may send, in bytes.
pub(super) const MESSAGE_BYTES_MAX: usize = 32 << 20;
/// How long a worker with nothing to do sleeps before it looks at the phase again.
const SLEEP_US: u32 = 2_000;
/// Ports that connections from given source addresses have, from here on: below those that the kernel
/// hands out by itself, with room for [`super::plan::WORKER_CONNECTIONS_MAX`] and what is in use.
const FIRST_PORT: u16 = 10_000;

/// One client thread's world.
pub(super) struct Worker<S: Scenario> {
    pub(super) ring: Uring,
    pub(super) connections: Vec<Connection<S::State>>,
    pub(super) scenario: S,
    pub(super) shared: Arc<Shared>,
    pub(super) index: usize,
    address: SocketAddr,
    source: Option<IpAddr>,
    spin: bool,
    /// How long it sleeps while nothing is to be done, in microseconds.
    rest_us: u32,
    connecting_max: u32,
    /// This worker's part of the rate of new connections, per second.
    connect_rate: Option<f64>,
    /// The number of this worker's first connection.
    pub(super) first: u32,
    pub(super) endings: Vec<Ending>,
    pub(super) handshake: Handshake,
    pub(super) rules: Rules,
    pub(super) class: BufferClass,
    pub(super) pool: PayloadPool,
    pub(super) keys: MaskKeys,
    /// Connections with something to send.
    listed: Vec<u32>,
    /// Connections that wait for a receive buffer, with their generation.
    pub(super) starved: VecDeque<(u32, u32)>,
    pub(super) receives: u16,
    pub(super) receives_max: u16,
    /// Connections that were begun, and how many handshakes are in flight.
    begun: u64,
    pub(super) connecting: u32,
    /// Entries whose connection is closed, for others to take their place.
    pub(super) vacant: VecDeque<u32>,
    /// How long a connection stays, when each of those that don't stay for ever has to go, and until when
    /// each of those that go must be gone: the oldest first, with its generation.
    pub(super) stay_ns: Option<u64>,
    pub(super) leaving: VecDeque<(u64, u32, u32)>,
    pub(super) parted_by: VecDeque<(u64, u32, u32)>,
    pub(super) stall: bool,
    /// SO_RCVBUF of each socket.
    pub(super) receive_buffer_bytes: Option<u32>,
    /// Of those that read again, what each has read since, in bytes; empty before.
    pub(super) unread_bytes: Vec<u64>,
    failures_max: u32,
    /// The port to try for the next connection from `source`.
    next_port: u16,
    pub(super) ready: u32,
    /// Connections that the server accepted, that were closed because their time was over, and of those
    /// that don't read any more: that the server closed.
    opened: u64,
    pub(super) left: u64,
    pub(super) cut: u64,
    /// Of those that read again: for how many something waited at the server, and what all had not read.
    pub(super) behind: u64,
    pub(super) unread: u64,
    /// Pings answered.
    pub(super) pings: u64,
    /// From the beginning of a connect to the complete upgrade.
    connect_latencies: Latencies,
    clock: Instant,
    /// The last lap that was handed in.
    lap: u32,
    /// Connections that said their last words and wait for the answer.
    pub(super) parting: u32,
    /// Sockets that are being closed.
    pub(super) closing: u32,
}

impl<S: Scenario> Worker<S> {
    /// `answer_bytes`: what one receive typically brings.
    pub(super) fn new(
        plan: &Plan,
        index: usize,
        scenario: S,
        answer_bytes: usize,
        shared: Arc<Shared>,
    ) -> anyhow::Result<Self> {
        let share = plan.share(index as u32);
        let connections = share.len() as u32;
        let class = if answer_bytes <= SMALL_BYTES {
            BufferClass::Small
        } else {
            BufferClass::Large
        };
        let mut config = UringConfig::new(Peers::new(1)?, 0);
        config.entries = 1_024;
        config.completion_entries = 32_768;
        config.slots = connections;
        config.installed_slots = connections;
        config.tick_ms = 0;
        let receives_max = match class {
            BufferClass::Small => SMALL_BUFFERS,
            BufferClass::Large => LARGE_BUFFERS,
        };
        (config.buffers, config.large_buffers) = match class {
            BufferClass::Small => (SMALL_BUFFERS, 1),
            BufferClass::Large => (1, LARGE_BUFFERS),
        };
        let handshake = Handshake::new(plan)?;
        let part = f64::from(connections) / f64::from(plan.connections);
        Ok(Self {
            ring: Uring::new(config)?,
            connections: (0..connections).map(|_| Connection::new()).collect(),
            scenario,
            clock: shared.began,
            shared,
            index,
            address: plan.address,
            source: match plan.sources.len() {
                0 => None,
                sources => Some(plan.sources[index % sources]),
            },
            spin: plan.spin,
            // Many threads that look around often are a load of their own.
            rest_us: SLEEP_US * plan.workers.div_ceil(8),
            connecting_max: plan.connecting,
            connect_rate: plan.connect_rate.map(|rate| f64::from(rate) * part),
            first: plan.first + share.start,
            endings: plan.endings.clone(),
            rules: Rules {
                role: Role::Client,
                message_bytes: MESSAGE_BYTES_MAX,
                fragments: 4_096,
            },
            class,
            pool: PayloadPool::new(),
            keys: handshake.mask_keys(),
            handshake,
            listed: Vec::new(),
            starved: VecDeque::new(),
            receives: 0,
            receives_max,
            begun: 0,
            connecting: 0,
            vacant: VecDeque::new(),
            stay_ns: plan.stay_ms.map(|ms| u64::from(ms) * 1_000_000),
            leaving: VecDeque::new(),
            parted_by: VecDeque::new(),
            stall: plan.stall,
            receive_buffer_bytes: plan.receive_buffer_bytes,
            unread_bytes: Vec::new(),
            failures_max: plan.failures_max,
            next_port: FIRST_PORT,
            ready: 0,
            opened: 0,
            left: 0,
            cut: 0,
            behind: 0,
            unread: 0,
            pings: 0,
            connect_latencies: Latencies::new(),
            lap: 0,
            parting: 0,
            closing: 0,
        })
    }

    /// Runs until the coordinator says to close.
    pub(super) fn run(&mut self) -> anyhow::Result<()> {
        let mut completions = Vec::with_capacity(4_096);
        loop {
            let phase = self.shared.phase();
            if phase == Phase::Close {
                return self.close_all(&mut completions);
            }
            let running = phase == Phase::Run;
            self.leave();
            if self.shared.drain.load(Ordering::Acquire) {
                self.drain();
            }
            self.connect_more()?;
            self.scenario.clock(self.now_ns());
            self.scenario.turn(running);
            while let Some(key) = self.scenario.next_due() {
                let connection = &mut self.connections[key as usize];
                let mut out = Outgoing {
                    waiting: &mut connection.waiting,
                    pool: &mut self.pool,
                    keys: &mut self.keys,
                };
                self.scenario.send(key, &mut connection.state, &mut out);
                self.list(key);
            }
            self.receive_starved();
            self.flush();
            let busy = running || self.connecting > 0;
            let spinning = busy && self.spin;
            let wait = if spinning || !self.starved.is_empty() {
                Wait::Look
            } else {
                Wait::For {
                    timeout_us: if busy { SLEEP_US } else { self.rest_us },
                    min_wait_us: 0,
                }
            };
            self.ring.turn(wait, &mut completions)?;
            if spinning && completions.is_empty() {
                std::hint::spin_loop();
            }
            self.scenario.clock(self.now_ns());
            for completion in completions.drain(..) {
                self.complete(completion)?;
            }
            self.publish_counts();
            self.end_lap();
        }
    }

    pub(super) fn now_ns(&self) -> u64 {
        self.clock.elapsed().as_nanos() as u64
    }

    /// Hands in what was measured since the last time, when the coordinator asks for it.
    fn end_lap(&mut self) {
        let lap = self.shared.lap.load(Ordering::Acquire);
        if lap != self.lap {
            self.lap = lap;
            self.hand_in_latencies();
            let counters = &self.shared.workers[self.index];
            counters.lap.store(lap, Ordering::Release);
        }
    }

    pub(super) fn hand_in_latencies(&mut self) {
        let connects = std::mem::take(&mut self.connect_latencies);
        let (messages, lasts) = self.scenario.take_latencies();
        self.shared.add_lap(&Lap {
            messages,
            lasts,
            connects,
        });
    }

    /// The upgrade of `key` is complete.
    pub(super) fn note_opened(&mut self, key: u32) {
        self.opened += 1;
        let began_ns = self.connections[key as usize].began_ns;
        let took_ns = self.now_ns().saturating_sub(began_ns);
        self.connect_latencies.record_ns(took_ns);
    }

    fn publish_counts(&self) {
        let counters = &self.shared.workers[self.index];
        let counts = self.scenario.counts();
        counters.messages.store(counts.messages, Ordering::Relaxed);
        counters.bytes.store(counts.bytes, Ordering::Relaxed);
        counters
            .publishes
            .store(counts.publishes, Ordering::Relaxed);
        counters.opened.store(self.opened, Ordering::Release);
        counters.ready.store(self.ready, Ordering::Release);
        counters.left.store(self.left, Ordering::Relaxed);
        counters.cut.store(self.cut, Ordering::Relaxed);
        counters.pings.store(self.pings, Ordering::Relaxed);
        counters.behind.store(self.behind, Ordering::Relaxed);
        counters.unread.store(self.unread, Ordering::Relaxed);
        let quiet = self.scenario.is_quiet();
        counters.quiet.store(quiet, Ordering::Release);
    }

    /// Begins handshakes, as many as may be in flight.
    fn connect_more(&mut self) -> anyhow::Result<()> {
        let due = match self.connect_rate {
            Some(rate) => (self.now_ns() as f64 / 1e9 * rate) as u64,
            None => u64::MAX,
        };
        while self.connecting < self.connecting_max && self.begun < due {
            let Some(key) = self.next_key() else { break };
            let socket = self.socket().map_err(|error| self.connect_error(&error))?;
            if let Some(source) = self.source {
                self.bind(&socket, source).map_err(|reason| {
                    let why = explain::source(&reason);
                    anyhow::anyhow!("{why} (after {} connections)", self.opened)
                })?;
            }
            let slot = self.ring.install(socket.into())?;
            let began_ns = self.now_ns();
            let connection = &mut self.connections[key as usize];
            connection.began_ns = began_ns;
            connection.slot = slot;
            connection.stage = Stage::Connecting;
            let token = Token::new(Op::Connect, key, connection.generation);
            self.ring.connect(slot, self.address, token);
            self.begun += 1;
            self.connecting += 1;
        }
        Ok(())
    }

    fn socket(&self) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(self.address), Type::STREAM, None)?;
        socket.set_tcp_nodelay(true)?;
        if let Some(bytes) = self.receive_buffer_bytes {
            socket.set_recv_buffer_size(bytes as usize)?;
        }
        // Closing resets: no 100,000 connections in TIME_WAIT afterwards.
        socket.set_linger(Some(Duration::ZERO))?;
        Ok(socket)
    }

    /// Binds to the next free port of `source`. The kernel's own choice (port 0) takes longer the
    /// more ports are in use: minutes for 19,000.
    fn bind(&mut self, socket: &Socket, source: IpAddr) -> Result<(), NoSource> {
        for _ in FIRST_PORT..=u16::MAX {
            let port = self.next_port;
            self.next_port = port.checked_add(1).unwrap_or(FIRST_PORT);
            match socket.bind(&SocketAddr::new(source, port).into()) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                result => return result.map_err(|error| NoSource::Refused(source, error)),
            }
        }
        Err(NoSource::NoPortLeft(source))
    }

    /// The entry of the next connection to begin, if there is room for one.
    fn next_key(&mut self) -> Option<u32> {
        if (self.begun as usize) < self.connections.len() {
            return Some(self.begun as u32);
        }
        self.stay_ns?;
        let key = self.vacant.pop_front()?;
        let connection = &mut self.connections[key as usize];
        if let Some(payload) = connection.waiting.take() {
            self.pool.put(payload);
        }
        *connection = connection.again();
        Some(key)
    }

    fn connect_error(&self, error: &io::Error) -> anyhow::Error {
        let hint = explain::connect(error).map_or_else(String::new, |hint| format!("; {hint}"));
        anyhow::anyhow!(
            "cannot connect to {}: {error} (after {} connections){hint}",
            self.address,
            self.opened
        )
    }

    pub(super) fn complete(&mut self, completion: Completion) -> anyhow::Result<()> {
        let key = completion.token.key();
        let of_this_life =
            self.connections[key as usize].generation == completion.token.generation();
        match completion.token.op() {
            Some(Op::Connect) if of_this_life => self.connected(key, completion.result),
            Some(Op::Poll) if of_this_life => {
                self.polled(key, &completion);
                Ok(())
            }
            Some(Op::Recv) => self.received(key, &completion),
            Some(Op::Send) => self.sent(key, completion),
            Some(Op::Close) => {
                self.closing -= 1;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn connected(&mut self, key: u32, result: i32) -> anyhow::Result<()> {
        let connection = &mut self.connections[key as usize];
        if connection.stage != Stage::Connecting {
            return Ok(());
        }
        if result < 0 {
            let error = io::Error::from_raw_os_error(-result);
            let reason = self.connect_error(&error).to_string();
            self.fail(key, &reason);
            return Ok(());
        }
        connection.stage = Stage::Upgrading;
        let token = Token::new(Op::Poll, key, connection.generation);
        self.ring.poll(connection.slot, token);
        let mut out = Outgoing {
            waiting: &mut connection.waiting,
            pool: &mut self.pool,
            keys: &mut self.keys,
        };
        self.handshake.write(self.first + key, out.buffer());
        self.list(key);
        Ok(())
    }

    /// Notes that a connection may have something to send.
    pub(super) fn list(&mut self, key: u32) {
        let connection = &mut self.connections[key as usize];
        let open = connection.stage != Stage::Closed;
        if open && connection.waiting.is_some() && !connection.listed && !connection.sending {
            connection.listed = true;
            self.listed.push(key);
        }
    }

    /// One send for each connection that has something to send.
    pub(super) fn flush(&mut self) {
        for key in self.listed.drain(..) {
            let connection = &mut self.connections[key as usize];
            connection.listed = false;
            if let Some(payload) = connection.waiting.take() {
                connection.sending = true;
                let token = Token::new(Op::Send, key, connection.generation);
                let end = payload.len();
                self.ring.send(connection.slot, payload, 0, end, token);
            }
        }
    }

    fn sent(&mut self, key: u32, completion: Completion) -> anyhow::Result<()> {
        let connection = &mut self.connections[key as usize];
        if connection.generation != completion.token.generation() {
            completion
                .payload
                .into_iter()
                .for_each(|payload| self.pool.put(payload));
            return Ok(());
        }
        connection.sending = false;
        let Some(payload) = completion.payload else {
            return Ok(());
        };
        let whole = usize::try_from(completion.result) == Ok(payload.len());
        self.pool.put(payload);
        if whole {
            self.list(key);
        } else if connection.stage != Stage::Closed {
            let reason = match completion.result {
                error @ ..0 => io::Error::from_raw_os_error(-error).to_string(),
                sent => format!("only {sent} bytes of a send left"),
            };
            self.fail(key, &reason);
        }
        Ok(())
    }

    /// A connection failed, which fails the run if it is one too many.
    pub(super) fn fail(&mut self, key: u32, reason: &str) {
        let reason = format!("connection {key} of client thread {}: {reason}", self.index);
        self.shared.fail_connection(reason, self.failures_max);
        self.close(key);
    }
}
