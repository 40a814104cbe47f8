//! Accepting connections, and handing them over to shards that have fewer.
//!
//! A bounded number of single-shot accepts is in flight, never more than the table has free places:
//! an accept that finds the table full loses an established connection.

use super::connection::{Connection, Flags, Phase};
use super::core::CloseBy;
use super::handler::Handler;
use super::{Drain, Shard};
use crate::mesh::Message;
use crate::ring::errno;
use crate::ring::{ACCEPTS_PER_LISTENER, ACCEPTS_PER_RING, Completion, Op, Ring, Slot, Token};
use crate::wire::close::CloseCode;
use std::collections::HashMap;
use std::net::SocketAddr;

/// Places kept free for connections that other shards hand over, at most.
const SPARE_SLOTS: u32 = 64;

/// Places kept free in a table of `slots`.
fn spare(slots: u32) -> u32 {
    SPARE_SLOTS.min(slots / 8)
}

/// The accepts of one shard.
pub(super) struct Accepting {
    /// Per number of an accept: the listener it was for, while it is in flight.
    in_flight: Vec<Option<u16>>,
    /// Numbers that no accept in flight has.
    free: Vec<u8>,
    /// Accepts in flight per listener.
    per_listener: Vec<u32>,
    unix: Vec<bool>,
    stopped: bool,
    /// The table was full or the system short of descriptors: try again with the next sweep.
    backing_off: bool,
    next_hand_over: u32,
    /// Connections announced by other shards that have not arrived yet.
    announced: HashMap<(u16, u32), Origin>,
}

/// Where a connection comes from.
#[derive(Clone, Copy, Default)]
pub(super) struct Origin {
    /// The listener of the shard that accepted it.
    pub listener: u8,
    pub unix: bool,
    pub peer: Option<SocketAddr>,
}

impl Accepting {
    pub(super) fn new(unix: Vec<bool>) -> Self {
        Self {
            in_flight: vec![None; ACCEPTS_PER_RING as usize],
            free: (0..ACCEPTS_PER_RING as u8).rev().collect(),
            per_listener: vec![0; unix.len()],
            unix,
            stopped: false,
            backing_off: false,
            next_hand_over: 0,
            announced: HashMap::new(),
        }
    }

    /// Accepts in flight.
    pub(super) fn in_flight(&self) -> usize {
        self.per_listener.iter().sum::<u32>() as usize
    }

    /// Whether no accept is in flight and none will be.
    pub(super) fn is_stopped(&self) -> bool {
        self.stopped && self.in_flight() == 0
    }

    /// Lets accepts start again after a shortage.
    pub(super) fn retry(&mut self) {
        self.backing_off = false;
    }
}

impl<R: Ring, H: Handler> Shard<R, H> {
    /// Keeps accepts in flight, as many as there is room for.
    pub(super) fn arm_accepts(&mut self) {
        let accepting = &mut self.accepting;
        if accepting.stopped || accepting.backing_off {
            return;
        }
        let links = self.core.mesh.links();
        let shard = self.core.shard as usize;
        let limit = (self.ring.slots() - spare(self.ring.slots())) as usize;
        // The next accept goes to the listener that has the fewest, so that the last free places
        // are not all kept for the first one.
        loop {
            let listeners = 0..self.ring.listeners();
            let Some(listener) =
                listeners.min_by_key(|&listener| accepting.per_listener[listener as usize])
            else {
                return;
            };
            if accepting.per_listener[listener as usize] >= ACCEPTS_PER_LISTENER {
                return;
            }
            let Some(number) = accepting.free.pop() else {
                return;
            };
            if !links.take_place(shard, limit) {
                accepting.free.push(number);
                return;
            }
            let number = usize::from(number);
            accepting.in_flight[number] = Some(listener);
            accepting.per_listener[listener as usize] += 1;
            self.ring
                .accept(listener, Token::new(Op::Accept, number as u32, 0));
        }
    }

    pub(super) fn stop_accepting(&mut self) {
        self.accepting.stopped = true;
        self.ring.stop_accepting();
    }

    /// An accept finished, with a connection or without.
    pub(super) fn accepted(&mut self, completion: Completion) {
        let number = completion.token.key() as usize;
        let Some(listener) = self
            .accepting
            .in_flight
            .get_mut(number)
            .and_then(Option::take)
        else {
            self.core.counters.stale_completions.add(1);
            return;
        };
        self.accepting.per_listener[listener as usize] -= 1;
        self.accepting.free.push(number as u8);
        let counters = &self.core.counters;
        match completion.result {
            slot @ 0.. => {
                counters.accepted.add(1);
                let peer = self.ring.peer(completion.token);
                let links = self.core.mesh.links();
                links.joined(self.core.shard as usize);
                let relief = match self.drain {
                    // All tables are of one size.
                    Drain::No => links
                        .relief_for(self.core.shard as usize)
                        .filter(|&to| links.take_place(to, self.ring.slots() as usize)),
                    _ => None,
                };
                let unix = self.accepting.unix.get(listener as usize);
                let origin = Origin {
                    listener: listener as u8,
                    unix: unix.copied().unwrap_or(false),
                    peer,
                };
                let key = self.insert(Slot(slot as u32), origin);
                match relief {
                    Some(to) => self.hand_over(key, to, origin),
                    None => self.welcome(key),
                }
            }
            error if error == -errno::ECANCELED => self.give_place(),
            error => {
                counters.accept_errors.add(1);
                self.give_place();
                // A connection that failed before it was accepted (accept(2)) says nothing about the next
                // one. After anything else, a shortage for instance, trying again at once would spin.
                let next_may_do = matches!(
                    -error,
                    errno::ECONNABORTED | errno::EINTR | errno::EPROTO | errno::EPERM
                );
                self.accepting.backing_off |= !next_may_do;
                tracing::debug!(shard = self.core.shard, errno = -error, "accept failed");
            }
        }
    }

    /// A place of this shard's table is free again.
    pub(super) fn give_place(&self) {
        let shard = self.core.shard as usize;
        self.core.mesh.links().give_place(shard);
    }

    fn insert(&mut self, slot: Slot, origin: Origin) -> u32 {
        let Origin {
            listener,
            unix,
            peer,
        } = origin;
        let generation = self.core.draw_generation();
        let mut connection = Connection::new(slot, generation, listener, peer, self.core.clock.now);
        if unix {
            connection.flags.set(Flags::UNIX);
        }
        let key = self.core.insert(connection);
        let counters = &self.core.counters;
        counters.connections.set(self.core.connections.len() as u64);
        key
    }

    /// Starts to listen to a connection.
    fn welcome(&mut self, key: u32) {
        let now = self.core.clock.now;
        let Some(connection) = self.core.connections.get_mut(key as usize) else {
            return;
        };
        if self.drain != Drain::No {
            self.kill(key);
            return;
        }
        connection.phase = Phase::Handshake;
        connection.flags.set(Flags::POLLING);
        connection.in_flight += 1;
        let (slot, generation) = (connection.slot, connection.generation);
        let deadline = now.plus(self.core.settings.handshake_ms);
        self.core.handshakes.push_back((deadline, key, generation));
        self.ring.poll(slot, Token::new(Op::Poll, key, generation));
    }

    /// Passes a connection on to a shard whose table keeps a place for it.
    fn hand_over(&mut self, key: u32, to: usize, origin: Origin) {
        let Origin {
            listener,
            unix,
            peer,
        } = origin;
        let number = self.accepting.next_hand_over & Token::MAX_KEY;
        let announcement = Message::HandOver {
            from: (self.core.shard, number),
            listener,
            unix,
            peer,
        };
        // The announcement is in the inbox before the descriptor can arrive.
        if !self.core.mesh.post_now(to as u16, announcement) {
            self.core.counters.hand_over_errors.add(1);
            self.core.mesh.links().give_place(to);
            self.welcome(key);
            return;
        }
        self.accepting.next_hand_over = number + 1;
        let Some(connection) = self.core.connections.get_mut(key as usize) else {
            return;
        };
        connection.phase = Phase::HandingOver;
        connection.in_flight += 1;
        connection.rare().hand_over = Some((to as u16, number));
        let token = Token::new(Op::HandOver, key, connection.generation);
        let arrival = Token::new(Op::Arrived, number, u32::from(self.core.shard));
        let slot = connection.slot;
        let links = self.core.mesh.links();
        links.left(self.core.shard as usize);
        links.joined(to);
        self.ring.hand_over(slot, to, arrival, token);
    }

    /// The handing over finished here: the own descriptor goes, or the connection stays after all.
    pub(super) fn handed_over(&mut self, key: u32, completion: &Completion) {
        let Some(connection) = self.core.connections.get_mut(key as usize) else {
            return;
        };
        if connection.phase != Phase::HandingOver {
            return;
        }
        let Some((to, number)) = connection.rare().hand_over.take() else {
            return;
        };
        let links = self.core.mesh.links();
        links.joined(self.core.shard as usize);
        if completion.result >= 0 {
            connection.flags.set(Flags::LEAVING);
            self.core.counters.handed_over.add(1);
            self.kill(key);
        } else if completion.result == -errno::EOVERFLOW {
            // It is in the other table, where nobody knows of it: that place is lost. (The kernel had no
            // memory for a completion.) All that can be done is to tell the peer.
            tracing::warn!(
                shard = self.core.shard,
                to,
                "a connection was lost on its way to another shard: the kernel is out of memory"
            );
            links.left(to as usize);
            self.core.counters.hand_over_errors.add(1);
            let from = (self.core.shard, number);
            self.core.mesh.post(to, Message::HandOverFailed { from });
            self.abandon(key);
        } else {
            tracing::debug!(
                shard = self.core.shard,
                to,
                errno = -completion.result,
                "handing over failed"
            );
            links.left(to as usize);
            links.give_place(to as usize);
            self.core.counters.hand_over_errors.add(1);
            let from = (self.core.shard, number);
            self.core.mesh.post(to, Message::HandOverFailed { from });
            self.welcome(key);
        }
    }

    pub(super) fn announce(&mut self, from: (u16, u32), origin: Origin) {
        self.accepting.announced.insert(from, origin);
    }

    pub(super) fn retract(&mut self, from: (u16, u32)) {
        self.accepting.announced.remove(&from);
    }

    /// A connection arrived from another shard.
    pub(super) fn arrived(&mut self, completion: Completion) {
        if completion.result < 0 {
            return;
        }
        let from = (completion.token.generation() as u16, completion.token.key());
        if !self.accepting.announced.contains_key(&from) {
            self.exchange();
        }
        let origin = self.accepting.announced.remove(&from).unwrap_or_default();
        self.core.counters.arrived.add(1);
        let key = self.insert(Slot(completion.result as u32), origin);
        self.welcome(key);
    }

    /// Closes one connection because the shard ends.
    pub(super) fn end_connection(&mut self, key: u32) {
        let Some(connection) = self.core.connections.get(key as usize) else {
            return;
        };
        match connection.phase {
            Phase::Open => {
                self.core.begin_close(
                    key,
                    CloseCode::GOING_AWAY,
                    "server shutting down",
                    CloseBy::Server,
                );
            }
            Phase::Handshake => self.kill(key),
            Phase::HandingOver | Phase::Closing | Phase::Lingering | Phase::Dead => {}
        }
    }
}
