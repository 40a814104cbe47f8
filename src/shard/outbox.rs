//! What waits to be sent: one payload per connection as a rule, a queue for those that lag.
//!
//! Last stop before the ring. Everything that a turn produces for a socket leaves in one send, and
//! exactly one send is in flight per socket; the rest waits here, bounded.

use super::connection::{Connection, ConnectionId, Flags, Phase};
use super::core::{CloseBy, Core};
use super::handler::Kind;
use crate::hub::local::Turn;
use crate::ring::{Payload, PayloadPool};
use crate::wire::close::{CloseCode, encode_close};
use crate::wire::frame::{self, Opcode};

/// Bytes of one send at most. Small enough that the write deadline sees progress on a slow link
/// (30 s for 256 KiB is 8.5 KiB/s), large enough that a send's fixed cost does not matter.
pub(super) const MAX_SEND_BYTES: usize = 256 << 10;

/// How many times the limit of an outbox may wait for a client that takes whatever it is offered.
const PROMPT_FACTOR: usize = 4;

/// Above this a payload is queued by reference instead of copied behind others.
const MAX_COPIED_BYTES: usize = 16 << 10;

/// Reading from a connection pauses while more answers than this wait for it, in bytes, and goes on
/// at half of it. Answers are never dropped, so this is what bounds them.
pub(super) const PAUSE_BYTES: u32 = 256 << 10;

impl From<Kind> for Opcode {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Text => Self::Text,
            Kind::Binary => Self::Binary,
        }
    }
}

impl Core {
    /// Queues an answer to an open connection; whether it is open.
    pub(super) fn answer(&mut self, id: ConnectionId, opcode: Opcode, payload: &[u8]) -> bool {
        if !self.is_open(id) {
            return false;
        }
        self.counters.messages_out.add(1);
        self.push_frame(id.key, opcode, payload);
        true
    }

    /// Queues one frame, whatever the phase.
    pub(super) fn push_frame(&mut self, key: u32, opcode: Opcode, payload: &[u8]) {
        self.push_with(key, |out| frame::encode(out, opcode, payload));
    }

    /// Queues an answer that may be as large as all that may wait for a client: what `write` queues does
    /// not count when it is judged whether the client is slow.
    pub(super) fn push_bulk(&mut self, key: u32, write: impl FnOnce(&mut Self)) {
        let waiting = |core: &Self| {
            let connection = core.connections.get(key as usize);
            connection.map_or(0, |connection| connection.outbox_bytes)
        };
        let before = waiting(self);
        write(self);
        let queued = waiting(self).saturating_sub(before);
        if queued > 0
            && let Some(connection) = self.connections.get_mut(key as usize)
        {
            let rare = connection.rare();
            rare.bulk_bytes = rare.bulk_bytes.saturating_add(queued);
        }
    }

    /// Whether `bytes` more may be queued in answer to an open connection's question.
    pub(super) fn has_room_for(&mut self, id: ConnectionId, bytes: usize) -> bool {
        let limit = self.settings.outbox_bytes;
        self.get(id).is_some_and(|connection| {
            connection.outbox_bytes as usize + bytes <= connection.own_bound(limit)
        })
    }

    /// Queues our close frame.
    pub(super) fn push_close(&mut self, key: u32, code: Option<CloseCode>, reason: &str) {
        self.push_with(key, |out| match code {
            Some(code) => encode_close(out, code, reason),
            None => frame::encode(out, Opcode::Close, &[]),
        });
    }

    /// Queues bytes that `write` appends.
    pub(super) fn push_with(&mut self, key: u32, write: impl FnOnce(&mut Vec<u8>)) {
        let Some(connection) = self.connections.get_mut(key as usize) else {
            return;
        };
        let mut out = match connection.out.take() {
            Some(mut out) => {
                if out.len() < MAX_SEND_BYTES && out.try_extend().is_some() {
                    out
                } else {
                    connection.rare().queue.push_back(out);
                    self.pool.take()
                }
            }
            None => self.pool.take(),
        };
        if let Some(bytes) = out.try_extend() {
            let before = bytes.len();
            write(bytes);
            connection.outbox_bytes = connection
                .outbox_bytes
                .saturating_add((bytes.len() - before) as u32);
        }
        connection.out = Some(out);
        mark_dirty(connection, key, &mut self.dirty);
    }

    /// Puts a connection on the list of those with something to do at the end of the turn.
    pub(super) fn mark_dirty(&mut self, key: u32) {
        if let Some(connection) = self.connections.get_mut(key as usize) {
            mark_dirty(connection, key, &mut self.dirty);
        }
    }

    /// Delivers what this turn brought for a channel to its subscribers' outboxes.
    pub(super) fn deliver_channel(&mut self, channel: u32) {
        let Turn {
            frames,
            messages,
            excluded,
        } = self.local.take_turn(channel);
        if frames.is_empty() {
            return;
        }
        let payload = Payload::own(frames);
        let Self {
            local,
            connections,
            pool,
            dirty,
            settings,
            counters,
            ..
        } = self;
        let Some(subscribers) = local.subscribers(channel) else {
            return;
        };
        let mut slow = Vec::new();
        let mut next_excluded = 0;
        let mut delivered = 0;
        subscribers.for_each(|key| {
            let Some(connection) = connections.get_mut(key as usize) else {
                return;
            };
            while next_excluded < excluded.len() && excluded[next_excluded].key < key {
                next_excluded += 1;
            }
            let mut messages = u64::from(messages);
            let own = if excluded
                .get(next_excluded)
                .is_some_and(|part| part.key == key)
            {
                let parts = excluded[next_excluded..]
                    .iter()
                    .take_while(|part| part.key == key)
                    .inspect(|_| messages -= 1);
                match without(
                    &payload,
                    parts.map(|part| (part.start as usize, part.end as usize)),
                    pool,
                ) {
                    Some(own) => own,
                    None => return,
                }
            } else {
                payload.clone()
            };
            let bound = connection.outbox_bound(settings.outbox_bytes);
            if connection.outbox_bytes as usize + own.len() > bound {
                slow.push(key);
                return;
            }
            delivered += messages;
            push_payload(connection, key, own, pool, dirty);
        });
        counters.deliveries.add(delivered);
        pool.put(payload);
        for key in slow {
            self.drop_slow(key);
        }
    }

    /// Queues one frame for several connections, and drops those that do not keep up. Returns how many
    /// get it.
    pub(super) fn deliver_frame(&mut self, frame: Vec<u8>, keys: &[u32]) -> u64 {
        let payload = Payload::own(frame);
        let mut slow = Vec::new();
        let mut delivered = 0;
        for &key in keys {
            let Some(connection) = self.connections.get_mut(key as usize) else {
                continue;
            };
            let bound = connection.outbox_bound(self.settings.outbox_bytes);
            if connection.outbox_bytes as usize + payload.len() > bound {
                slow.push(key);
                continue;
            }
            delivered += 1;
            let (pool, dirty) = (&mut self.pool, &mut self.dirty);
            push_payload(connection, key, payload.clone(), pool, dirty);
        }
        self.pool.put(payload);
        for key in slow {
            self.drop_slow(key);
        }
        delivered
    }

    /// A subscriber that does not keep up: what waits for it is dropped, and it is told so.
    fn drop_slow(&mut self, key: u32) {
        let Some(connection) = self.connections.get_mut(key as usize) else {
            return;
        };
        let mut dropped = 0;
        if let Some(out) = connection.out.take() {
            dropped += out.len() as u32;
        }
        if let Some(rare) = &mut connection.rare {
            // A message that has left in part must leave whole.
            let kept = usize::from(rare.sending_piece || rare.sent_bytes > 0);
            for payload in rare.queue.drain(kept..) {
                dropped += payload.len() as u32;
            }
        }
        connection.outbox_bytes = connection.outbox_bytes.saturating_sub(dropped);
        self.counters.slow_consumers.add(1);
        self.counters.dropped_bytes.add(u64::from(dropped));
        self.begin_close(
            key,
            CloseCode::SLOW_CONSUMER,
            "slow consumer",
            CloseBy::Server,
        );
    }
}

/// See [`Core::mark_dirty`].
pub(super) fn mark_dirty(connection: &mut Connection, key: u32, dirty: &mut Vec<u32>) {
    if !connection.flags.any(Flags::DIRTY) {
        connection.flags.set(Flags::DIRTY);
        dirty.push(key);
    }
}

/// Queues bytes that are shared with others.
fn push_payload(
    connection: &mut Connection,
    key: u32,
    payload: Payload,
    pool: &mut PayloadPool,
    dirty: &mut Vec<u32>,
) {
    connection.outbox_bytes = connection.outbox_bytes.saturating_add(payload.len() as u32);
    connection.out = Some(match connection.out.take() {
        None => payload,
        Some(mut out) => {
            // A copy leaves with what is there already. Behind a send that is still in flight the
            // wait may be long, and a reference costs less memory.
            let copied = !connection.flags.any(Flags::SENDING)
                && payload.len() <= MAX_COPIED_BYTES
                && out.len() < MAX_SEND_BYTES
                && out.try_extend().is_some_and(|bytes| {
                    bytes.extend_from_slice(payload.as_slice());
                    true
                });
            if copied {
                pool.put(payload);
                out
            } else {
                connection.rare().queue.push_back(out);
                payload
            }
        }
    });
    mark_dirty(connection, key, dirty);
}

/// A copy of `payload` without the given parts, which are in order; `None` when nothing is left.
fn without(
    payload: &Payload,
    parts: impl Iterator<Item = (usize, usize)>,
    pool: &mut PayloadPool,
) -> Option<Payload> {
    let bytes = payload.as_slice();
    let mut copy = pool.take();
    let into = copy.try_extend()?;
    let mut from = 0;
    for (start, end) in parts {
        into.extend_from_slice(&bytes[from..start]);
        from = end;
    }
    into.extend_from_slice(&bytes[from..]);
    if into.is_empty() {
        pool.put(copy);
        return None;
    }
    Some(copy)
}

/// A piece to send.
pub(super) struct Piece {
    pub payload: Payload,
    pub start: usize,
    pub end: usize,
}

impl Connection {
    /// How much may wait, where the limit is `outbox_bytes`: that is for a client whose socket takes
    /// nothing more. One whose socket took all that it was offered is not slow when a single turn
    /// brings more than a turn sends.
    fn outbox_bound(&self, outbox_bytes: usize) -> usize {
        let bulk = self.rare.as_ref().map_or(0, |rare| rare.bulk_bytes);
        self.own_bound(outbox_bytes).saturating_add(bulk as usize)
    }

    /// The same for all that waits, large answers included: they are given only up to here.
    fn own_bound(&self, outbox_bytes: usize) -> usize {
        if self.flags.any(Flags::SENDING) {
            outbox_bytes
        } else {
            outbox_bytes.saturating_mul(PROMPT_FACTOR)
        }
    }

    /// The next piece to send, if none is in flight: small payloads joined, large ones cut.
    pub(super) fn next_piece(&mut self, pool: &mut PayloadPool) -> Option<Piece> {
        let queued = self
            .rare
            .as_ref()
            .is_some_and(|rare| !rare.queue.is_empty());
        if !queued {
            let out = self.out.take()?;
            if out.len() <= MAX_SEND_BYTES {
                let end = out.len();
                return Some(Piece {
                    payload: out,
                    start: 0,
                    end,
                });
            }
            self.rare().queue.push_back(out);
        } else if let Some(out) = self.out.take() {
            self.rare().queue.push_back(out);
        }
        let rare = self.rare();
        let front = rare.queue.front()?;
        let left = front.len() - rare.sent_bytes;
        let second = rare.queue.get(1).map_or(usize::MAX, Payload::len);
        if rare.sent_bytes > 0 || left.saturating_add(second) > MAX_SEND_BYTES {
            let start = rare.sent_bytes;
            let end = start + left.min(MAX_SEND_BYTES);
            let payload = front.clone();
            rare.sending_piece = true;
            rare.sending_bytes = end - start;
            return Some(Piece {
                payload,
                start,
                end,
            });
        }
        let mut joined = pool.take();
        if let Some(bytes) = joined.try_extend() {
            while let Some(next) = rare.queue.front()
                && bytes.len() + next.len() <= MAX_SEND_BYTES
            {
                bytes.extend_from_slice(next.as_slice());
                if let Some(done) = rare.queue.pop_front() {
                    pool.put(done);
                }
            }
        }
        let end = joined.len();
        Some(Piece {
            payload: joined,
            start: 0,
            end,
        })
    }

    /// How many bytes the send in flight was to move.
    pub(super) fn sent_expected(&self, payload: Option<&Payload>) -> usize {
        match &self.rare {
            Some(rare) if rare.sending_piece => rare.sending_bytes,
            _ => payload.map_or(0, Payload::len),
        }
    }

    /// A send finished in full: forgets what it sent.
    pub(super) fn piece_sent(&mut self, bytes: usize) {
        self.outbox_bytes = self.outbox_bytes.saturating_sub(bytes as u32);
        if let Some(rare) = &mut self.rare {
            // What leaves may have been something else; then a client counts as slow a little earlier.
            rare.bulk_bytes = rare.bulk_bytes.saturating_sub(bytes as u32);
        }
        if let Some(rare) = &mut self.rare
            && rare.sending_piece
        {
            rare.sending_piece = false;
            rare.sent_bytes += rare.sending_bytes;
            rare.sending_bytes = 0;
            if rare
                .queue
                .front()
                .is_some_and(|front| rare.sent_bytes >= front.len())
            {
                rare.queue.pop_front();
                rare.sent_bytes = 0;
            }
        }
    }

    /// Frees everything queued. What is in flight belongs to the ring.
    pub(super) fn drop_output(&mut self, pool: &mut PayloadPool) {
        if let Some(out) = self.out.take() {
            pool.put(out);
        }
        if let Some(rare) = &mut self.rare {
            rare.queue.clear();
        }
        self.outbox_bytes = 0;
    }

    /// Whether the phase allows more input to be read.
    pub(super) fn reads(&self) -> bool {
        !matches!(self.phase, Phase::Dead | Phase::HandingOver)
    }
}
