//! One core's world: its connections in a slab, its event loop, its timers.
//!
//! A turn takes completions from the ring, hands received bytes to `wire` and complete messages to
//! the handler, passes on what other shards sent, and ends with at most one send per socket and
//! one batch per other shard. The files follow that order:
//!
//! `accept` → `input` (receive, upgrade, frames) → the handler → `exchange` (other shards; `addressed`
//! for what belongs to no channel) → `outbox` → `output` (sends, closes); `sweep` looks after time. `run` is the loop around the
//! turns, inside a glommio executor.

mod accept;
mod addressed;
mod asking;
pub mod connection;
pub mod core;
mod deliver;
mod events;
mod exchange;
pub mod handler;
mod input;
mod outbox;
mod output;
mod queue;
mod reading;
pub mod run;
#[cfg(test)]
mod simulation;
mod sweep;

use crate::config::Config;
use crate::hub::rules::ChannelRules;
use crate::mesh::Mesh;
use crate::ring::{Completion, Op, Ring, Token, Wait};
use crate::telemetry::counters::Counters;
use crate::wire::Role;
use crate::wire::message::Rules;
use accept::Accepting;
use connection::{Flags, Phase};
use core::{Clock, Codec, Core, Parts, Settings};
use events::run_events;
use handler::{Handler, MAX_FORMS};
use reading::Reading;
use std::collections::VecDeque;
use std::io;
use std::net::Shutdown;
use std::sync::Arc;

/// One shard: a ring, a handler, and everything they share.
pub struct Shard<R, H> {
    pub(crate) ring: R,
    handler: H,
    core: Core,
    rules: Vec<Rules>,
    completions: Vec<Completion>,
    accepting: Accepting,
    reading: Reading,
    sweep: sweep::Sweep,
    touched: Vec<u32>,
    /// Connections whose peers hung up and that have not been read from since: key and generation.
    hung_up: VecDeque<(u32, u32)>,
    drain: Drain,
    held_back: bool,
}

/// What a shard is made of, besides its ring and its handler.
pub struct ShardParts {
    /// Its number.
    pub index: u16,
    /// What it uses of the configuration.
    pub settings: Settings,
    /// Its end of the mesh.
    pub mesh: Mesh,
    /// The same random number on all shards of the process: decides where channels are at home.
    pub seed: u64,
    /// A random number of its own: channel epochs, connection generations.
    pub random: u64,
    /// How channels behave.
    pub rules: ChannelRules,
    /// Where it counts.
    pub counters: Arc<Counters>,
    /// Per listener: whether it is a Unix socket.
    pub unix_listeners: Vec<bool>,
}

impl Settings {
    /// What a shard uses of a checked configuration.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self {
            heartbeat_interval_ms: config.heartbeat.interval_ms,
            heartbeat_timeout_ms: config.heartbeat.timeout_ms,
            handshake_ms: config.timeouts.handshake_ms,
            close_ms: config.timeouts.close_ms,
            write_ms: config.timeouts.write_ms,
            outbox_bytes: config.client.outbox_bytes,
            channels: config.client.channels,
            history_bytes: config.history.shard_bytes,
            head_bytes: config.client.head_bytes,
            head_lines: config.client.head_lines,
            buffers: u32::from(config.ring.buffers),
            large_buffers: u32::from(config.ring.large_buffers),
        }
    }
}

/// How far the shard is with ending.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Drain {
    No,
    /// Connections up to this key have been told.
    Telling(u32),
    Told,
}

/// What a turn did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// There was something to do.
    pub worked: bool,
    /// Something is left that the next turn does without any completion.
    pub more: bool,
    /// A batch waits for a shard whose inbox is full: try again soon.
    pub held_back: bool,
    /// Drained: nothing is left to do, ever.
    pub ended: bool,
    /// Without any completion there is something to do in this many milliseconds: messages that gather
    /// are to be delivered then.
    pub due_in_ms: Option<u32>,
}

impl<R: Ring, H: Handler> Shard<R, H> {
    /// A shard that accepts from all listeners of its ring.
    pub fn new(ring: R, handler: H, parts: ShardParts) -> Self {
        let endpoints = handler.endpoints();
        assert!(
            endpoints.iter().all(|one| one.form < MAX_FORMS),
            "forms are numbered from 0"
        );
        let rules = endpoints
            .iter()
            .map(|endpoint| Rules {
                role: Role::Server,
                message_bytes: endpoint.message_bytes,
                fragments: endpoint.fragments,
            })
            .collect::<Vec<_>>();
        assert!(!rules.is_empty(), "a handler has at least one endpoint");
        let core = Core::new(Parts {
            shard: parts.index,
            settings: parts.settings,
            slots: ring.slots(),
            mesh: parts.mesh,
            seed: parts.seed,
            random: parts.random,
            rules: parts.rules,
            endpoints,
            codec: Codec {
                farewell: H::farewell,
                encode_batch: H::encode_batch,
                encode_dropped: H::encode_dropped,
            },
            counters: parts.counters,
        });
        Self {
            ring,
            handler,
            core,
            rules,
            completions: Vec::new(),
            accepting: Accepting::new(parts.unix_listeners),
            reading: Reading::new(parts.settings.buffers, parts.settings.large_buffers),
            sweep: sweep::Sweep::default(),
            touched: Vec::new(),
            hung_up: VecDeque::new(),
            drain: Drain::No,
            held_back: false,
        }
    }

    /// Gathers completions, possibly waiting for the first.
    ///
    /// # Errors
    /// When the ring is unusable.
    pub fn gather(&mut self, wait: Wait) -> io::Result<()> {
        self.ring.turn(wait, &mut self.completions)
    }

    /// The shard's end of the mesh.
    pub fn mesh(&self) -> &Mesh {
        &self.core.mesh
    }

    /// Handles everything gathered and queues what follows from it; it leaves with the next
    /// [`Shard::gather`].
    pub fn turn(&mut self, clock: Clock) -> Turn {
        self.core.clock = clock;
        self.core.counters.turns.add(1);
        let mut worked = false;
        let mut completions = std::mem::take(&mut self.completions);
        self.sweep.turn_has(completions.len());
        for completion in completions.drain(..) {
            worked |= !matches!(completion.token.op(), Some(Op::Wake | Op::Tick));
            self.complete(completion);
        }
        self.completions = completions;
        worked |= self.read_hung_up();
        worked |= self.exchange();
        self.sweep();
        self.continue_drain();
        worked |= self.flush();
        self.feed_starved();
        self.arm_accepts();
        Turn {
            worked,
            more: !self.core.dirty.is_empty()
                || !self.hung_up.is_empty()
                || self.core.mesh.has_own()
                || matches!(self.drain, Drain::Telling(_)),
            held_back: self.held_back,
            ended: self.drain == Drain::Told && self.core.connections.is_empty(),
            due_in_ms: self.core.local.due_in_ms(clock.elapsed_ms),
        }
    }

    fn complete(&mut self, completion: Completion) {
        let token = completion.token;
        match token.op() {
            Some(Op::Accept) => self.accepted(completion),
            Some(Op::Arrived) => self.arrived(completion),
            Some(Op::Wake | Op::Tick) => {}
            Some(
                Op::Poll
                | Op::Recv
                | Op::Send
                | Op::Shutdown
                | Op::Cancel
                | Op::Close
                | Op::HandOver,
            ) => {
                self.complete_connection(completion);
            }
            Some(Op::Connect | Op::Unlisten) | None => self.core.counters.stale_completions.add(1),
        }
    }

    fn complete_connection(&mut self, completion: Completion) {
        let (key, generation) = (completion.token.key(), completion.token.generation());
        let found = self
            .core
            .connections
            .get_mut(key as usize)
            .filter(|connection| connection.generation == generation);
        let Some(connection) = found else {
            // The slab entry is kept until its last completion, so this is the second check.
            self.core.counters.stale_completions.add(1);
            if let Some(buffer) = completion.buffer {
                self.ring.recycle(buffer);
            }
            return;
        };
        if !completion.more {
            connection.in_flight -= 1;
        }
        match completion.token.op() {
            Some(Op::Poll) => self.polled(key, &completion),
            Some(Op::Recv) => self.received(key, completion),
            Some(Op::Send) => self.sent(key, completion),
            Some(Op::HandOver) => self.handed_over(key, &completion),
            Some(Op::Shutdown) => self.shut_down(key),
            _ => {}
        }
        self.release(key);
    }

    /// Frees the slab entry of a dead connection whose last completion has come.
    fn release(&mut self, key: u32) {
        let core = &mut self.core;
        if let Some(connection) = core.connections.get(key as usize)
            && connection.phase == Phase::Dead
            && connection.in_flight == 0
        {
            core.connections.remove(key as usize);
            core.stirred += 1;
            core.mesh.links().give_place(core.shard as usize);
            core.counters.connections.set(core.connections.len() as u64);
        }
    }

    /// Ends a connection: what it had is let go, what is in flight cancelled, the socket closed. The
    /// entry stays until its last completion.
    fn kill(&mut self, key: u32) {
        if self.end(key) {
            self.close(key, false);
        }
    }

    /// Lets go of all that a connection had but its socket. Returns whether it was alive.
    fn end(&mut self, key: u32) -> bool {
        let core = &mut self.core;
        let Some(connection) = core.connections.get_mut(key as usize) else {
            return false;
        };
        if connection.phase == Phase::Dead {
            return false;
        }
        debug_assert!(!connection.is_open(), "the application hears first");
        connection.phase = Phase::Dead;
        connection.drop_output(&mut core.pool);
        connection.carry = None;
        connection.rare = None;
        core.mesh.links().left(core.shard as usize);
        true
    }

    /// Ends a connection whose socket is also in a table where nothing can close it.
    fn abandon(&mut self, key: u32) {
        self.end(key);
        self.close(key, true);
    }

    /// A shutdown finished.
    fn shut_down(&mut self, key: u32) {
        if let Some(connection) = self.core.connections.get_mut(key as usize) {
            connection.flags.clear(Flags::SHUTTING);
            if connection.phase == Phase::Dead {
                self.close(key, false);
            }
        }
    }

    /// Closes the socket of a dead connection as soon as nothing else needs its slot. `tell`: the close
    /// alone would not tell the peer, also where sockets close at once.
    fn close(&mut self, key: u32, tell: bool) {
        let Some(connection) = self.core.connections.get_mut(key as usize) else {
            return;
        };
        if connection.flags.any(Flags::SHUTTING) {
            return;
        }
        let (slot, generation) = (connection.slot, connection.generation);
        let tell = tell || self.ring.closes_late();
        if tell && !connection.flags.any(Flags::LEAVING) {
            connection.flags.set(Flags::SHUTTING | Flags::LEAVING);
            connection.in_flight += 1;
            let token = Token::new(Op::Shutdown, key, generation);
            self.ring.shutdown(slot, Shutdown::Both, token);
            return;
        }
        // Receives never wait; these two may.
        let armed: &[Op] = match (
            connection.flags.any(Flags::POLLING),
            connection.flags.any(Flags::SENDING),
        ) {
            (true, true) => &[Op::Poll, Op::Send],
            (true, false) => &[Op::Poll],
            (false, true) => &[Op::Send],
            (false, false) => &[],
        };
        connection.in_flight += 1 + armed.len() as u16;
        self.ring.close(slot, key, generation, armed);
    }

    /// Starts to end: accepts nothing more and closes all connections.
    fn begin_drain(&mut self) {
        if self.drain == Drain::No {
            self.drain = Drain::Telling(0);
            // What gathers still reaches those who are about to be told goodbye.
            self.core.local.stop_gathering();
            self.deliver_touched();
            self.stop_accepting();
        }
    }

    /// Says goodbye to the next connections, some thousand per turn so
    /// that the first ones leave while the last ones are being written.
    fn continue_drain(&mut self) {
        const PER_TURN: u32 = 4096;
        let Drain::Telling(from) = self.drain else {
            return;
        };
        let to = self.core.high_key.min(from.saturating_add(PER_TURN));
        for key in from..to {
            self.end_connection(key);
        }
        self.drain = if to == self.core.high_key && self.accepting.is_stopped() {
            Drain::Told
        } else {
            Drain::Telling(to)
        };
    }
}
