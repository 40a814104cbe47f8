//! From a channel's turn to its subscribers' outboxes, each shape to those who get it.
//!
//! Whoever keeps up gets a reference to bytes that all share. For whoever does not, the channel's rule says
//! what happens: it is disconnected, loses its oldest messages, or gets only the newest of each key.

use super::connection::Connection;
use super::core::{CloseBy, Codec, Core};
use super::handler::{Batch, Dropped};
use super::outbox::{mark_dirty, push_payload};
use super::queue::{GAP_BYTES, Gap, LeftOut, Messages};
use crate::config::SlowConsumer;
use crate::hub::Shape;
use crate::hub::local::Local;
use crate::hub::turn::{Excluded, Mark, Part, Turn};
use crate::ring::{Payload, PayloadPool};
use crate::telemetry::counters::Counters;
use crate::wire::close::CloseCode;
use crate::wire::frame;

/// How entries become a batch.
struct Sealing<'a> {
    codec: &'a Codec,
    shape: Shape,
    channel: &'a str,
    wildcard: bool,
}

impl Sealing<'_> {
    /// Makes a frame of some entries.
    fn seal(&self, entries: &[u8], count: u32, frames: &mut Vec<u8>) {
        if count == 0 {
            return;
        }
        let batch = Batch {
            form: self.shape.form(),
            channel: self.channel,
            wildcard: self.wildcard,
            entries,
            count,
        };
        let mut payload = Vec::with_capacity(entries.len() + self.channel.len() + 64);
        let kind = (self.codec.encode_batch)(&batch, &mut payload);
        frame::encode(frames, kind.into(), &payload);
    }
}

/// One part of a turn on its way: what most get of it, and what is made of it for others.
struct Outgoing<'a> {
    sealing: Sealing<'a>,
    /// All of it.
    payload: Payload,
    /// Bytes at its front that are whole frames; a batch follows them.
    frames_bytes: usize,
    entries: Vec<u8>,
    count: u32,
    excluded: &'a [Excluded],
    marks: &'a [Mark],
    /// By mark, once somebody needs them: each message by itself.
    singles: Vec<Payload>,
}

impl<'a> Outgoing<'a> {
    fn new(
        codec: &'a Codec,
        shape: Shape,
        channel: &'a str,
        wildcard: bool,
        part: &'a mut Part,
    ) -> Self {
        part.excluded.sort_unstable();
        let mut frames = std::mem::take(&mut part.frames);
        let frames_bytes = frames.len();
        let entries = std::mem::take(&mut part.entries);
        let count = part.count;
        let sealing = Sealing {
            codec,
            shape,
            channel,
            wildcard,
        };
        sealing.seal(&entries, count, &mut frames);
        Self {
            sealing,
            payload: Payload::own(frames),
            frames_bytes,
            entries,
            count,
            excluded: &part.excluded,
            marks: &part.marks,
            singles: Vec::new(),
        }
    }

    /// A copy without some messages; `None` when nothing is left.
    fn without(&self, excluded: &[Excluded], pool: &mut PayloadPool) -> Option<Payload> {
        let mut copy = pool.take();
        let into = copy.try_extend()?;
        if self.sealing.shape.is_batched() {
            into.extend_from_slice(&self.payload.as_slice()[..self.frames_bytes]);
            let mut entries = Vec::with_capacity(self.entries.len());
            cut(&self.entries, excluded, &mut entries);
            let count = self.count - excluded.len() as u32;
            self.sealing.seal(&entries, count, into);
        } else {
            cut(self.payload.as_slice(), excluded, into);
        }
        if into.is_empty() {
            pool.put(copy);
            return None;
        }
        Some(copy)
    }

    /// Each message as a payload of its own.
    fn singles(&mut self) {
        if !self.singles.is_empty() {
            return;
        }
        let single = |mark: &Mark| {
            let range = mark.start as usize..mark.end as usize;
            if self.sealing.shape.is_batched() {
                let mut frame = Vec::new();
                self.sealing.seal(&self.entries[range], 1, &mut frame);
                Payload::own(frame)
            } else if range.len() == self.payload.len() {
                self.payload.clone()
            } else {
                Payload::own(self.payload.as_slice()[range].to_vec())
            }
        };
        self.singles = self.marks.iter().map(single).collect();
    }
}

/// Copies `bytes` without some parts, which are in order.
fn cut(bytes: &[u8], parts: &[Excluded], into: &mut Vec<u8>) {
    let mut from = 0;
    for part in parts {
        into.extend_from_slice(&bytes[from..part.start as usize]);
        from = part.end as usize;
    }
    into.extend_from_slice(&bytes[from..]);
}

/// Counts what was left out for a slow consumer.
fn count_left_out(counters: &Counters, left_out: LeftOut) {
    let LeftOut {
        rule, count, bytes, ..
    } = left_out;
    counters.rules[usize::from(rule)]
        .dropped
        .add(u64::from(count));
    counters.dropped_bytes.add(bytes as u64);
}

/// Leaves out what may be, from the oldest on, until no more than `bound` bytes wait. Whether that was
/// enough.
fn make_room(connection: &mut Connection, bound: usize, counters: &Counters) -> bool {
    while connection.outbox_bytes as usize > bound {
        let Some(rare) = &mut connection.rare else {
            return false;
        };
        let Some(left_out) = rare.queue.drop_oldest() else {
            return false;
        };
        let gap_bytes = if left_out.made_gap { GAP_BYTES } else { 0 };
        connection.waits_more(gap_bytes as isize - left_out.bytes as isize);
        count_left_out(counters, left_out);
    }
    true
}

/// Makes the frame that tells a subscriber what it has lost.
pub(super) fn write_gap(local: &Local, codec: &Codec, form: u8, gap: &Gap) -> Option<Payload> {
    let channel = local.name(gap.channel)?;
    let dropped = Dropped {
        form,
        channel,
        count: gap.count,
        offset: (!local.channel(gap.channel)?.is_wildcard()).then_some(gap.offset),
    };
    let mut payload = Vec::new();
    let kind = (codec.encode_dropped)(&dropped, &mut payload)?;
    let mut frame = Vec::with_capacity(payload.len() + frame::MAX_HEADER_BYTES);
    frame::encode(&mut frame, kind.into(), &payload);
    Some(Payload::own(frame))
}

impl Core {
    /// Delivers what has come for a channel to its subscribers' outboxes.
    pub(super) fn deliver_channel(&mut self, channel: u32) {
        let Some(mut turn) = self.local.take_turn(channel) else {
            return;
        };
        for shape in Shape::all() {
            if turn.part(shape).bytes() > 0 {
                self.deliver_part(channel, shape, &mut turn);
            }
        }
        self.local.put_turn(turn);
    }

    fn deliver_part(&mut self, channel: u32, shape: Shape, turn: &mut Turn) {
        let (messages, items, offset) = (turn.messages, turn.items, turn.offset);
        let Self {
            local,
            connections,
            pool,
            dirty,
            settings,
            counters,
            rules,
            codec,
            ..
        } = self;
        let known = local.channel(channel).zip(local.name(channel));
        let Some((state, name)) = known else {
            return;
        };
        let Some(subscribers) = state.subscribers().of(shape) else {
            return;
        };
        let rule = state.rule();
        let policy = rules.get(rule).slow_consumer;
        let mut outgoing = Outgoing::new(codec, shape, name, state.is_wildcard(), turn.part(shape));
        let mut slow = Vec::new();
        let mut next_excluded = 0;
        let mut delivered = 0;
        subscribers.for_each(|key| {
            let Some(connection) = connections.get_mut(key as usize) else {
                return;
            };
            let excluded = outgoing.excluded;
            while next_excluded < excluded.len() && excluded[next_excluded].key < key {
                next_excluded += 1;
            }
            let own = &excluded[next_excluded..];
            let own = &own[..own.iter().take_while(|part| part.key == key).count()];
            let bound = connection.outbox_bound(settings.outbox_bytes);
            let lags = policy != SlowConsumer::Disconnect && connection.lags();
            if lags && policy == SlowConsumer::Conflate && !outgoing.marks.is_empty() {
                delivered += u64::from(messages) - own.len() as u64;
                outgoing.singles();
                let waits = outgoing.marks.iter().zip(&outgoing.singles);
                for (mark, payload) in waits {
                    if own.iter().all(|part| part.start != mark.start) {
                        let message = Messages {
                            channel,
                            rule,
                            count: 1,
                            offset: mark.offset,
                        };
                        push_latest(connection, payload.clone(), message, mark.key, counters);
                    }
                }
                if !make_room(connection, bound, counters) {
                    slow.push(key);
                }
                return mark_dirty(connection, key, dirty);
            }
            let payload = match own {
                [] => outgoing.payload.clone(),
                own => match outgoing.without(own, pool) {
                    Some(payload) => payload,
                    None => return,
                },
            };
            let got = messages - own.len() as u32;
            if lags {
                let messages = Messages {
                    channel,
                    rule,
                    count: items - own.len() as u32,
                    offset,
                };
                connection.outbox_bytes =
                    connection.outbox_bytes.saturating_add(payload.len() as u32);
                connection.queue().push_droppable(payload, messages);
                if !make_room(connection, bound, counters) {
                    slow.push(key);
                }
                mark_dirty(connection, key, dirty);
            } else {
                let room = bound.checked_sub(payload.len());
                let fits = room.is_some_and(|room| make_room(connection, room, counters));
                if !fits {
                    slow.push(key);
                    return;
                }
                push_payload(connection, key, payload, pool, dirty);
            }
            delivered += u64::from(got);
        });
        counters.deliveries.add(delivered);
        pool.put(outgoing.payload);
        for key in slow {
            let disconnected = &self.counters.rules[usize::from(rule)].disconnected;
            disconnected.add(1);
            self.drop_slow(key);
        }
    }

    /// Queues one frame for those of several connections that get this form, and drops those of them that do
    /// not keep up. Returns how many get it.
    pub(super) fn deliver_frame(&mut self, frame: Vec<u8>, form: u8, keys: &[u32]) -> u64 {
        let payload = Payload::own(frame);
        let mut slow = Vec::new();
        let mut delivered = 0;
        for &key in keys {
            let Some(connection) = self.connections.get_mut(key as usize) else {
                continue;
            };
            if self.endpoints[usize::from(connection.endpoint)].form != form {
                continue;
            }
            let bound = connection.outbox_bound(self.settings.outbox_bytes);
            let room = bound.checked_sub(payload.len());
            if !room.is_some_and(|room| make_room(connection, room, &self.counters)) {
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

    /// A subscription ends (`None`: all of them): its channel's number may be another's soon.
    pub(super) fn forget_waiting(&mut self, channel: Option<u32>, key: u32) {
        let form = self.form(key);
        let Self {
            local,
            connections,
            codec,
            ..
        } = self;
        let Some(connection) = connections.get_mut(key as usize) else {
            return;
        };
        let Some(rare) = &mut connection.rare else {
            return;
        };
        let write = |gap: &Gap| write_gap(local, codec, form, gap);
        let bytes = rare.queue.forget(channel, write);
        connection.waits_more(bytes);
    }

    /// A subscriber that does not keep up: what waits for it is dropped, and it is told so.
    fn drop_slow(&mut self, key: u32) {
        let Some(connection) = self.connections.get_mut(key as usize) else {
            return;
        };
        let mut dropped = 0;
        if let Some(out) = connection.out.take() {
            dropped += out.len();
        }
        if let Some(rare) = &mut connection.rare {
            // A message that has left in part must leave whole.
            let kept = usize::from(rare.sending_piece || rare.sent_bytes > 0);
            dropped += rare.queue.truncate(kept);
        }
        connection.outbox_bytes = connection.outbox_bytes.saturating_sub(dropped as u32);
        self.counters.slow_consumers.add(1);
        self.counters.dropped_bytes.add(dropped as u64);
        self.begin_close(
            key,
            CloseCode::SLOW_CONSUMER,
            "slow consumer",
            CloseBy::Server,
        );
    }
}

/// Queues a message in place of the one that it replaces.
fn push_latest(
    connection: &mut Connection,
    payload: Payload,
    message: Messages,
    key: u64,
    counters: &Counters,
) {
    connection.outbox_bytes = connection.outbox_bytes.saturating_add(payload.len() as u32);
    let replaced = connection.queue().push_latest(payload, message, key);
    if let Some(LeftOut {
        rule, count, bytes, ..
    }) = replaced
    {
        connection.waits_more(-(bytes as isize));
        counters.rules[usize::from(rule)]
            .conflated
            .add(u64::from(count));
        counters.dropped_bytes.add(bytes as u64);
    }
}
