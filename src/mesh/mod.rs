//! Batches between shards.
//!
//! On the way of a message: what one turn produced for another shard leaves as one immutable
//! [`Batch`] over a bounded lock-free channel. Nothing here waits: a full channel means that the
//! batch grows until the next turn, up to a bound that publishers are told about. So what can wait
//! for a stalled shard is bounded: once in its inbox, and once more on each shard that sends to it.

mod message;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

pub use message::{BROADCASTING_SHARD, Message, Receipt};

/// Batches that may wait for one shard. A shard takes all of them every turn, so more than a few per
/// sender means that it is stalled; then senders keep their batches and let them grow.
pub const BATCHES_PER_SHARD: usize = 1024;

/// What one turn of a shard has to say to another one.
#[derive(Debug, Default)]
pub struct Batch {
    /// In the order in which it was said.
    pub messages: Vec<Message>,
    /// Bytes that they keep in memory.
    bytes: usize,
}

impl Batch {
    fn push(&mut self, message: Message) {
        self.bytes += message.weight();
        self.messages.push(message);
    }

    /// Keeps what `room_bytes` hold, at least one message; returns the rest.
    fn split_off(&mut self, room_bytes: usize) -> Self {
        if self.bytes <= room_bytes {
            return Self::default();
        }
        let mut bytes = 0;
        let fits = self.messages.iter().take_while(|message| {
            bytes += message.weight();
            bytes <= room_bytes
        });
        let at = fits.count().max(1);
        let mut rest = Self {
            messages: self.messages.split_off(at),
            bytes: self.bytes,
        };
        self.bytes = self.messages.iter().map(Message::weight).sum();
        rest.bytes -= self.bytes;
        rest
    }

    /// Adds what was said later.
    fn append(&mut self, mut later: Self) {
        self.messages.append(&mut later.messages);
        self.bytes += later.bytes;
    }

    /// Whether nothing was said.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }
}

impl From<Message> for Batch {
    fn from(message: Message) -> Self {
        let mut batch = Self::default();
        batch.push(message);
        batch
    }
}

/// How much one shard has to do, in a cache line of its own.
#[derive(Default)]
#[repr(align(128))]
pub struct Load {
    connections: AtomicUsize,
    /// Places of its table that are taken or promised: to connections until their entry goes, to
    /// accepts in flight, and to connections that other shards are handing over.
    places: AtomicUsize,
    /// Bytes that wait in its inbox.
    inbox_bytes: AtomicUsize,
}

/// What all shards of a server share: how to reach each other, and how many connections each has.
pub struct Links {
    senders: Vec<Sender<Batch>>,
    loads: Vec<Load>,
}

impl Links {
    /// Links between `shards` shards, and each one's inbox.
    #[must_use]
    pub fn new(shards: usize) -> (Arc<Self>, Vec<Receiver<Batch>>) {
        let (senders, inboxes) = (0..shards).map(|_| bounded(BATCHES_PER_SHARD)).unzip();
        let loads = (0..shards).map(|_| Load::default()).collect();
        (Arc::new(Self { senders, loads }), inboxes)
    }

    /// Number of shards.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.senders.len()
    }

    /// Sends from a thread that is no shard. Waits while the shard's inbox is full.
    ///
    /// # Errors
    /// When the shard has ended.
    pub fn send_from_outside(&self, to: usize, message: Message) -> Result<(), ShardGone> {
        let batch = Batch::from(message);
        self.announce(to, batch.bytes, usize::MAX);
        self.senders[to].send(batch).map_err(|_| ShardGone)
    }

    /// Puts a message into an inbox, from a thread that is no shard. Takes no lock and never waits.
    pub(crate) fn offer(&self, to: usize, message: Message, limit_bytes: usize) -> Offered {
        let batch = Batch::from(message);
        let bytes = batch.bytes;
        let full = || Offered::Full {
            pending_bytes: self.inbox_bytes(to),
        };
        if !self.announce(to, bytes, limit_bytes.max(1)) {
            return full();
        }
        let sent = self.senders[to].try_send(batch);
        if sent.is_err() {
            self.settle(to, bytes);
        }
        match sent {
            Ok(()) => Offered::Taken,
            Err(TrySendError::Full(_)) => full(),
            Err(TrySendError::Disconnected(_)) => Offered::Gone,
        }
    }

    /// Counts bytes before they are put into an inbox, so that the receiver never takes out more than
    /// was counted. False, and nothing counted, when `limit_bytes` wait already: senders that look at
    /// the same moment cannot make it more than twice as many.
    fn announce(&self, to: usize, bytes: usize, limit_bytes: usize) -> bool {
        self.loads[to]
            .inbox_bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |waiting| {
                (waiting < limit_bytes).then_some(waiting + bytes)
            })
            .is_ok()
    }

    /// Counts bytes that were taken out, or not put in after all.
    fn settle(&self, to: usize, bytes: usize) {
        self.loads[to]
            .inbox_bytes
            .fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Bytes that wait in the inbox of `shard`.
    #[must_use]
    pub fn inbox_bytes(&self, shard: usize) -> usize {
        self.loads[shard].inbox_bytes.load(Ordering::Relaxed)
    }

    /// Connections that `shard` has or is about to get.
    #[must_use]
    pub fn connections(&self, shard: usize) -> usize {
        self.loads[shard].connections.load(Ordering::Relaxed)
    }

    /// Counts one more connection for `shard`.
    pub fn joined(&self, shard: usize) {
        self.loads[shard]
            .connections
            .fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one less.
    pub fn left(&self, shard: usize) {
        self.loads[shard]
            .connections
            .fetch_sub(1, Ordering::Relaxed);
    }

    /// Takes one of the first `limit` places in the table of `shard`, if one is free. Whatever puts a
    /// connection into a table has taken its place before: an accept, or a handing over, that finds
    /// the table full loses an established connection.
    #[must_use]
    pub fn take_place(&self, shard: usize, limit: usize) -> bool {
        self.loads[shard]
            .places
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
                (taken < limit).then_some(taken + 1)
            })
            .is_ok()
    }

    /// Gives a place back.
    pub fn give_place(&self, shard: usize) {
        self.loads[shard].places.fetch_sub(1, Ordering::Relaxed);
    }

    /// Places of `shard` that are taken or promised.
    #[must_use]
    pub fn places(&self, shard: usize) -> usize {
        self.loads[shard].places.load(Ordering::Relaxed)
    }

    /// The shard that a new connection of `shard` (already counted there) should go to: the one with
    /// the fewest, if `shard` has more than its share.
    #[must_use]
    pub fn relief_for(&self, shard: usize) -> Option<usize> {
        let shards = self.loads.len();
        if shards == 1 {
            return None;
        }
        let own = self.connections(shard);
        let (mut total, mut least, mut fewest) = (0, shard, own);
        for (other, _) in self.loads.iter().enumerate() {
            let connections = self.connections(other);
            total += connections;
            if connections < fewest {
                (least, fewest) = (other, connections);
            }
        }
        // A share and 3 %: handing over costs some microseconds, being a little uneven nothing.
        let share = total.div_ceil(shards);
        (own > share + share / 32 && fewest + 1 < own).then_some(least)
    }
}

/// What became of a message from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offered {
    /// It is in the inbox.
    Taken,
    /// So much is there already.
    Full {
        /// What waits.
        pending_bytes: usize,
    },
    /// The shard's thread has ended.
    Gone,
}

/// A shard's thread has ended.
#[derive(Debug, thiserror::Error)]
#[error("the shard has ended")]
pub struct ShardGone;

/// One shard's end of the mesh.
pub struct Mesh {
    shard: usize,
    links: Arc<Links>,
    inbox: Receiver<Batch>,
    outgoing: Vec<Batch>,
    /// Bytes of each of them that found the inbox full and had to stay.
    kept_bytes: Vec<usize>,
    limit_bytes: usize,
}

impl Mesh {
    /// The end of `shard`. `limit_bytes` is what may wait in the inbox of a shard, and then once more
    /// here, before [`Self::backlog`] tells publishers to wait.
    #[must_use]
    pub fn new(
        shard: usize,
        links: Arc<Links>,
        inbox: Receiver<Batch>,
        limit_bytes: usize,
    ) -> Self {
        let shards = links.shards();
        Self {
            shard,
            links,
            inbox,
            outgoing: (0..shards).map(|_| Batch::default()).collect(),
            kept_bytes: vec![0; shards],
            limit_bytes,
        }
    }

    /// What all shards share.
    #[must_use]
    pub fn links(&self) -> &Arc<Links> {
        &self.links
    }

    /// Adds to the batch for `to` (which may be this shard itself: it takes it in the same turn).
    pub fn post(&mut self, to: u16, message: Message) {
        self.outgoing[to as usize].push(message);
    }

    /// Sends a message at once, ahead of the batch. Returns whether the inbox had room.
    pub fn post_now(&mut self, to: u16, message: Message) -> bool {
        self.put(to as usize, message.into(), usize::MAX).is_ok()
    }

    /// Puts a batch into an inbox that holds less than the limit.
    fn put(
        &mut self,
        to: usize,
        batch: Batch,
        limit_bytes: usize,
    ) -> Result<(), TrySendError<Batch>> {
        let bytes = batch.bytes;
        if !self.links.announce(to, bytes, limit_bytes) {
            return Err(TrySendError::Full(batch));
        }
        self.links.senders[to]
            .try_send(batch)
            .inspect_err(|_| self.links.settle(to, bytes))
    }

    /// Bytes that found the inbox of `to` full, when they are more than the limit: nothing that can be
    /// refused should be added. What a turn adds counts from its end on.
    #[must_use]
    pub fn backlog(&self, to: u16) -> Option<usize> {
        let bytes = self.kept_bytes[to as usize];
        (bytes > self.limit_bytes).then_some(bytes)
    }

    /// Bytes that wait here for other shards.
    #[cfg(test)]
    pub(crate) fn pending_bytes(&self) -> usize {
        self.outgoing.iter().map(|batch| batch.bytes).sum()
    }

    /// Whether this shard has something to say to itself.
    #[must_use]
    pub fn has_own(&self) -> bool {
        !self.outgoing[self.shard].is_empty()
    }

    /// What this shard had to say to itself.
    pub fn take_own(&mut self) -> Batch {
        std::mem::take(&mut self.outgoing[self.shard])
    }

    /// Sends every batch that its target has room for; calls `sent` for each target. The others stay
    /// and grow. Returns how many had to stay.
    pub fn flush(&mut self, mut sent: impl FnMut(usize)) -> usize {
        let mut kept = 0;
        for to in 0..self.outgoing.len() {
            if to == self.shard || self.outgoing[to].is_empty() {
                continue;
            }
            self.flush_to(to, &mut sent);
            self.kept_bytes[to] = self.outgoing[to].bytes;
            kept += usize::from(!self.outgoing[to].is_empty());
        }
        kept
    }

    /// Sends as much of a batch as there is room for.
    fn flush_to(&mut self, to: usize, sent: &mut impl FnMut(usize)) {
        let waiting = self.links.inbox_bytes(to);
        if waiting >= self.limit_bytes.max(1) {
            return;
        }
        let mut batch = std::mem::take(&mut self.outgoing[to]);
        let rest = batch.split_off(self.limit_bytes - waiting.min(self.limit_bytes));
        match self.put(to, batch, self.limit_bytes.max(1)) {
            Ok(()) => {
                self.outgoing[to] = rest;
                sent(to);
            }
            Err(TrySendError::Full(mut batch)) => {
                batch.append(rest);
                self.outgoing[to] = batch;
            }
            // The shard has ended: the server is going down, nobody is left to tell.
            Err(TrySendError::Disconnected(_)) => {}
        }
    }

    /// The next batch from another shard.
    pub fn receive(&mut self) -> Option<Batch> {
        let batch = self.inbox.try_recv().ok()?;
        self.links.settle(self.shard, batch.bytes);
        Some(batch)
    }

    /// Batches that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.inbox.len()
    }

    /// Whether no batch waits.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.inbox.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::Publication;
    use crate::hub::home::ChannelRef;
    use bytes::Bytes;

    fn disinterest(serial: u32) -> Message {
        Message::Disinterest {
            name: "c".into(),
            shard: 0,
            serial,
        }
    }

    fn serials(batch: &Batch) -> Vec<u32> {
        batch
            .messages
            .iter()
            .map(|message| match message {
                Message::Disinterest { serial, .. } => *serial,
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn a_full_inbox_keeps_order_and_loses_nothing() {
        let (links, mut inboxes) = Links::new(2);
        let mut to = Mesh::new(1, Arc::clone(&links), inboxes.pop().unwrap(), usize::MAX);
        let mut from = Mesh::new(0, links, inboxes.pop().unwrap(), usize::MAX);
        let mut woken = 0;
        for serial in 0..BATCHES_PER_SHARD as u32 + 10 {
            from.post(1, disinterest(serial));
            from.flush(|_| woken += 1);
        }
        assert_eq!(woken, BATCHES_PER_SHARD);
        let mut seen = Vec::new();
        while let Some(batch) = to.receive() {
            seen.extend(serials(&batch));
        }
        assert_eq!(from.flush(|_| ()), 0);
        seen.extend(serials(&to.receive().unwrap()));
        assert_eq!(seen, (0..BATCHES_PER_SHARD as u32 + 10).collect::<Vec<_>>());
        assert!(to.is_idle());
    }

    fn publish() -> Message {
        Message::Publish {
            channel: ChannelRef::Number(0),
            publication: Publication {
                key: 0,
                meta: Bytes::new(),
                data: Bytes::from_static(&[0; 1000]),
            },
            receipt: Receipt {
                shard: 0,
                key: 0,
                generation: 0,
                tag: None,
                echo: true,
            },
        }
    }

    #[test]
    fn pending_bytes_count_what_waits() {
        let (links, mut inboxes) = Links::new(2);
        let _to = inboxes.pop().unwrap();
        let mut from = Mesh::new(0, links, inboxes.pop().unwrap(), usize::MAX);
        let weight = publish().weight();
        assert!((1000..1300).contains(&weight), "{weight}");
        from.post(1, publish());
        assert_eq!(from.pending_bytes(), weight);
        from.flush(|_| ());
        assert_eq!(from.pending_bytes(), 0);
        for _ in 0..BATCHES_PER_SHARD {
            from.post(1, publish());
            from.flush(|_| ());
        }
        assert_eq!(from.pending_bytes(), weight);
        assert_eq!(from.links().inbox_bytes(1), BATCHES_PER_SHARD * weight);
        assert!(!from.post_now(1, disinterest(0)));
        assert_eq!(from.links().inbox_bytes(1), BATCHES_PER_SHARD * weight);
        from.post(0, disinterest(1));
        assert_eq!(serials(&from.take_own()), [1]);
    }

    #[test]
    fn what_waits_for_a_stalled_shard_is_bounded_in_bytes() {
        const LIMIT_BYTES: usize = 10_000;
        let (links, mut inboxes) = Links::new(2);
        let mut to = Mesh::new(1, Arc::clone(&links), inboxes.pop().unwrap(), LIMIT_BYTES);
        let mut from = Mesh::new(0, links, inboxes.pop().unwrap(), LIMIT_BYTES);
        let mut accepted = 0;
        while from.backlog(1).is_none() {
            from.post(1, publish());
            from.flush(|_| ());
            accepted += 1;
        }
        let weight = publish().weight();
        let waiting = from.links().inbox_bytes(1) + from.pending_bytes();
        assert_eq!(waiting, accepted * weight);
        assert!(waiting <= 2 * LIMIT_BYTES + 3 * weight, "{waiting}");
        // All of it arrives once the shard goes on.
        let mut arrived = 0;
        loop {
            while let Some(batch) = to.receive() {
                arrived += batch.messages.len();
            }
            if from.pending_bytes() == 0 {
                break;
            }
            from.flush(|_| ());
        }
        assert_eq!(arrived, accepted);
        assert_eq!(from.links().inbox_bytes(1), 0);
    }

    /// However busy the others are.
    #[test]
    fn a_batch_larger_than_the_room_leaves_in_parts() {
        const LIMIT_BYTES: usize = 5000;
        let (links, mut inboxes) = Links::new(3);
        let mut to = Mesh::new(2, Arc::clone(&links), inboxes.pop().unwrap(), LIMIT_BYTES);
        let mut busy = Mesh::new(1, Arc::clone(&links), inboxes.pop().unwrap(), LIMIT_BYTES);
        let mut from = Mesh::new(0, links, inboxes.pop().unwrap(), LIMIT_BYTES);
        for serial in 0..1000 {
            from.post(2, disinterest(serial));
        }
        let mut seen = Vec::new();
        for _ in 0..1000 {
            // The inbox is never empty when this one looks.
            busy.post(2, publish());
            busy.flush(|_| ());
            from.flush(|_| ());
            assert!(from.links().inbox_bytes(2) <= LIMIT_BYTES);
            while let Some(mut batch) = to.receive() {
                batch
                    .messages
                    .retain(|message| matches!(message, Message::Disinterest { .. }));
                seen.extend(serials(&batch));
            }
        }
        assert_eq!(seen, (0..1000).collect::<Vec<_>>());
    }

    #[test]
    fn a_shard_with_more_than_its_share_hands_over() {
        let (links, _inboxes) = Links::new(4);
        for _ in 0..1000 {
            // The worst skew that SO_REUSEPORT could make: every connection arrives at shard 0.
            links.joined(0);
            if let Some(to) = links.relief_for(0) {
                links.left(0);
                links.joined(to);
            }
        }
        for shard in 0..4 {
            assert!(
                (225..=275).contains(&links.connections(shard)),
                "shard {shard} has {}",
                links.connections(shard)
            );
        }
        let (single, _inbox) = Links::new(1);
        single.joined(0);
        assert_eq!(single.relief_for(0), None);
    }

    #[test]
    fn a_table_has_no_more_places_than_it_has() {
        let (links, _inboxes) = Links::new(2);
        assert!((0..3).all(|_| links.take_place(1, 3)));
        assert!(!links.take_place(1, 3));
        assert!(links.take_place(1, 4), "some see fewer places than others");
        assert!(!links.take_place(1, 3));
        links.give_place(1);
        links.give_place(1);
        assert!(links.take_place(1, 3));
        assert_eq!((links.places(0), links.places(1)), (0, 3));
    }
}
