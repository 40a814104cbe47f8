//! What waits to be sent: one payload per connection as a rule, a queue for those that lag.
//!
//! Last stop before the ring. Everything that a turn produces for a socket leaves in one send, and
//! exactly one send is in flight per socket; the rest waits here, bounded.

use super::connection::{Connection, ConnectionId, Flags, Phase};
use super::core::Core;
use super::handler::Kind;
use super::queue::{Gap, Queue};
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
                    connection.rare().queue.push(out);
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
}

/// See [`Core::mark_dirty`].
pub(super) fn mark_dirty(connection: &mut Connection, key: u32, dirty: &mut Vec<u32>) {
    if !connection.flags.any(Flags::DIRTY) {
        connection.flags.set(Flags::DIRTY);
        dirty.push(key);
    }
}

/// Queues bytes that are shared with others.
pub(super) fn push_payload(
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
                connection.rare().queue.push(out);
                payload
            }
        }
    });
    mark_dirty(connection, key, dirty);
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
    pub(super) fn outbox_bound(&self, outbox_bytes: usize) -> usize {
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

    /// Whether more is queued than leaves with the next send, or a send is in flight.
    pub(super) fn lags(&self) -> bool {
        self.flags.any(Flags::SENDING)
            || self
                .out
                .as_ref()
                .is_some_and(|out| out.len() >= MAX_SEND_BYTES)
            || self
                .rare
                .as_ref()
                .is_some_and(|rare| !rare.queue.is_empty())
    }

    /// So many bytes more wait, or less.
    pub(super) fn waits_more(&mut self, bytes: isize) {
        self.outbox_bytes = self.outbox_bytes.saturating_add_signed(bytes as i32);
    }

    /// What waits, with everything so far in it: for those that lag.
    pub(super) fn queue(&mut self) -> &mut Queue {
        let out = self.out.take();
        let queue = &mut self.rare().queue;
        if let Some(out) = out {
            queue.push(out);
        }
        queue
    }

    /// The next piece to send, if none is in flight: small payloads joined, large ones cut. `write` makes
    /// a frame of what a slow consumer has lost.
    pub(super) fn next_piece(
        &mut self,
        pool: &mut PayloadPool,
        mut write: impl FnMut(&Gap) -> Option<Payload>,
    ) -> Option<Piece> {
        let queued = self
            .rare
            .as_ref()
            .is_some_and(|rare| !rare.queue.is_empty());
        if !queued && self.out.as_ref()?.len() <= MAX_SEND_BYTES {
            let payload = self.out.take()?;
            let end = payload.len();
            return Some(Piece {
                payload,
                start: 0,
                end,
            });
        }
        self.queue();
        let mut gaps_bytes = 0;
        let rare = self.rare();
        if rare.sent_bytes == 0 {
            gaps_bytes += rare.queue.settle(&mut write);
        }
        let front = rare.queue.front()?;
        let left = front.len() - rare.sent_bytes;
        let second = rare.queue.second_len().unwrap_or(usize::MAX);
        let piece = if rare.sent_bytes > 0 || left.saturating_add(second) > MAX_SEND_BYTES {
            let start = rare.sent_bytes;
            let end = start + left.min(MAX_SEND_BYTES);
            let payload = front.clone();
            rare.queue.pin_front();
            rare.sending_piece = true;
            rare.sending_bytes = end - start;
            Piece {
                payload,
                start,
                end,
            }
        } else {
            let mut joined = pool.take();
            if let Some(bytes) = joined.try_extend() {
                while let Some(next) = rare.queue.front()
                    && bytes.len() + next.len() <= MAX_SEND_BYTES
                {
                    bytes.extend_from_slice(next.as_slice());
                    if let Some(done) = rare.queue.pop_front() {
                        pool.put(done);
                    }
                    gaps_bytes += rare.queue.settle(&mut write);
                }
            }
            let end = joined.len();
            Piece {
                payload: joined,
                start: 0,
                end,
            }
        };
        self.waits_more(gaps_bytes);
        Some(piece)
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
            let front = rare.queue.front();
            if front.is_some_and(|front| rare.sent_bytes >= front.len()) {
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
            rare.queue.truncate(0);
        }
        self.outbox_bytes = 0;
    }

    /// Whether the phase allows more input to be read.
    pub(super) fn reads(&self) -> bool {
        !matches!(self.phase, Phase::Dead | Phase::HandingOver)
    }
}
