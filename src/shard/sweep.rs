//! Time, without a timer per connection: a cursor walks the slab, all of it once a second; the few
//! connections with a short deadline stand in line while they have one.

use super::Shard;
use super::connection::{Flags, Ms, Phase};
use super::core::CloseBy;
use super::handler::Handler;
use crate::hub::room::Room as _;
use crate::ring::{Ring, memory};
use crate::wire::close::CloseCode;
use crate::wire::frame::Opcode;

/// The whole slab is walked once in this time, in milliseconds.
const ROUND_MS: u32 = 1000;
/// The least time between two steps of the walk, in milliseconds.
const STEP_MS: u32 = 50;
/// Time between two rounds of housekeeping (forgotten channels, memory given back), in milliseconds.
const HOUSEKEEPING_MS: u32 = 1000;

/// Connections after whose coming or going, and channels after whose end, freed memory is returned to the
/// operating system. Few in tests: the simulation's servers are small, and must take this way too.
const BURST: u64 = if cfg!(test) { 10 } else { 1000 };

/// Completions of one turn from which on it counts as a burst as well, and how much less the largest turn of
/// a round of housekeeping has afterwards.
const BURST_TURN: usize = if cfg!(test) { 10 } else { 1024 };
const LESS: usize = 8;

/// mimalloc lets one thread at a time give memory back, and leaves out those that ask meanwhile. When a crowd
/// leaves all shards at once, what these have freed would stay: so each asks once more after this time, and
/// each shard so much later than the one before it, in milliseconds.
const AGAIN_MS: u32 = 5_000;
const APART_MS: u32 = 100;

/// Where the walk stands.
#[derive(Default)]
pub(super) struct Sweep {
    cursor: u32,
    stepped_at: Ms,
    housekept_at: Ms,
    /// What had been stirred when memory was last given back.
    collected_at: u64,
    /// When memory is given back once more.
    again_at: Option<Ms>,
    /// The most completions of a turn: since then, and since the last round of housekeeping.
    largest_turn: usize,
    largest_lately: usize,
}

impl Sweep {
    /// A turn has so many completions.
    pub(super) fn turn_has(&mut self, completions: usize) {
        self.largest_lately = self.largest_lately.max(completions);
    }

    /// Whether turns were much larger once than they have been since the last call.
    fn burst_is_over(&mut self) -> bool {
        let lately = std::mem::take(&mut self.largest_lately);
        self.largest_turn = self.largest_turn.max(lately);
        self.largest_turn >= BURST_TURN && lately < self.largest_turn / LESS
    }
}

impl<R: Ring, H: Handler> Shard<R, H> {
    /// Looks after everything that is due. Cheap when nothing is.
    pub(super) fn sweep(&mut self) {
        let now = self.core.clock.now;
        let elapsed_ms = now.since(self.sweep.stepped_at);
        if elapsed_ms < STEP_MS {
            return;
        }
        self.sweep.stepped_at = now;
        self.accepting.retry();
        self.expire_handshakes();
        self.expire_closings();
        self.walk(elapsed_ms);
        if now.since(self.sweep.housekept_at) >= HOUSEKEEPING_MS {
            self.sweep.housekept_at = now;
            let core = &mut self.core;
            core.stirred += core.home.expire(core.clock.elapsed_ms) as u64;
            core.recount_members();
            let (home, counters) = (&core.home, &core.counters);
            counters.history_bytes.set(home.history_bytes() as u64);
            counters.history_evicted.set(home.history_evicted());
            counters.users.set(core.users.len() as u64);
            // After a burst: of traffic, or of connections when none is coming or going any more.
            let calm = self.core.handshakes.is_empty() && self.core.closings.is_empty();
            let stirred = self.core.stirred - self.sweep.collected_at >= BURST;
            if self.sweep.burst_is_over() || stirred && calm {
                self.sweep.collected_at = self.core.stirred;
                self.sweep.largest_turn = 0;
                self.give_back();
                let apart_ms = u32::from(self.core.shard).saturating_mul(APART_MS);
                self.sweep.again_at = Some(now.plus(AGAIN_MS + apart_ms));
            } else if calm && self.sweep.again_at.is_some_and(|at| is_due(now, at)) {
                self.sweep.again_at = None;
                memory::give_back();
            }
        }
    }

    /// Lets go of what a burst needed and nothing needs now: lists keep the room of their largest turn,
    /// tables that of their largest crowd.
    fn give_back(&mut self) {
        self.completions.give_back();
        self.touched.give_back();
        self.hung_up.give_back();
        self.ring.give_back();
        self.core.give_back();
        memory::give_back();
    }

    /// Walks the part of the slab that `elapsed_ms` are worth.
    fn walk(&mut self, elapsed_ms: u32) {
        let high = self.core.high_key;
        if high == 0 {
            return;
        }
        let share = (u64::from(high) * u64::from(elapsed_ms)).div_ceil(u64::from(ROUND_MS));
        let steps = (share as u32).min(high);
        for _ in 0..steps {
            if self.sweep.cursor >= high {
                self.sweep.cursor = 0;
            }
            let key = self.sweep.cursor;
            self.sweep.cursor += 1;
            self.look_after(key);
        }
    }

    /// Pings when due; ends what gave no sign of life or takes nothing.
    fn look_after(&mut self, key: u32) {
        let settings = self.core.settings;
        let now = self.core.clock.now;
        let Some(connection) = self.core.connections.get_mut(key as usize) else {
            return;
        };
        if connection.phase == Phase::Dead {
            return;
        }
        if connection.flags.any(Flags::SENDING)
            && now.since(connection.sending_since) >= settings.write_ms
        {
            self.core.counters.write_timeouts.add(1);
            self.core
                .leave(key, CloseCode::SLOW_CONSUMER, CloseBy::Server);
            // A close frame would have to wait behind what the client does not take.
            self.lost(key);
            return;
        }
        if connection.phase != Phase::Open || settings.heartbeat_interval_ms == 0 {
            return;
        }
        if connection.flags.any(Flags::PAUSED) {
            // Its pongs are among what is not read. That bytes leave is the sign of life, and the
            // deadline above is what ends it without.
            connection.pinged_at = now;
            return;
        }
        let since_ping = now.since(connection.pinged_at);
        if connection.flags.any(Flags::PINGED) {
            if since_ping >= settings.heartbeat_timeout_ms {
                self.core.counters.heartbeat_timeouts.add(1);
                self.core.begin_close(
                    key,
                    CloseCode::GOING_AWAY,
                    "no sign of life",
                    CloseBy::Server,
                );
                super::run_events(&mut self.handler, &mut self.core);
            }
        } else if since_ping >= settings.heartbeat_interval_ms {
            connection.flags.set(Flags::PINGED);
            connection.pinged_at = now;
            self.core.counters.pings.add(1);
            self.core.push_frame(key, Opcode::Ping, &[]);
        }
    }

    fn expire_handshakes(&mut self) {
        let now = self.core.clock.now;
        while let Some(&(deadline, key, generation)) = self.core.handshakes.front() {
            if !is_due(now, deadline) {
                break;
            }
            self.core.handshakes.pop_front();
            if let Some(connection) = self.core.connections.get(key as usize)
                && connection.generation == generation
                && connection.phase == Phase::Handshake
            {
                self.core.counters.handshake_timeouts.add(1);
                self.kill(key);
            }
        }
    }

    fn expire_closings(&mut self) {
        let now = self.core.clock.now;
        while let Some(&(deadline, key, generation)) = self.core.closings.front() {
            if !is_due(now, deadline) {
                break;
            }
            self.core.closings.pop_front();
            if let Some(connection) = self.core.connections.get(key as usize)
                && connection.generation == generation
                && matches!(connection.phase, Phase::Closing | Phase::Lingering)
            {
                self.kill(key);
            }
        }
    }
}

fn is_due(now: Ms, deadline: Ms) -> bool {
    deadline.since(now) == 0
}
