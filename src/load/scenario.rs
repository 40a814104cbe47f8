//! What a scenario has to say to a worker.

use crate::ring::{Payload, PayloadPool};
use crate::wire::frame::{self, Opcode};
use crate::wire::message::Kind;

/// A worker's traffic. One value per worker; no two connections of it share anything else.
pub(super) trait Scenario {
    /// What it keeps for each connection.
    type State: Default;

    /// Connection `key` is open. True if it is ready, false if an answer has to come first.
    fn opened(&mut self, key: u32, state: &mut Self::State, out: &mut Outgoing<'_>) -> bool;

    /// A message arrived on `key`. True if the connection became ready with it.
    ///
    /// # Errors
    /// When it is not what had to come; the text says what came instead.
    fn message(
        &mut self,
        key: u32,
        state: &mut Self::State,
        kind: Kind,
        payload: &[u8],
        out: &mut Outgoing<'_>,
    ) -> Result<bool, String>;

    /// Connection `key` was closed, whoever closed it.
    fn closed(&mut self, key: u32, state: &mut Self::State);

    /// What follows happens at `now_ns`, of a clock that begins anywhere.
    fn clock(&mut self, now_ns: u64);

    /// A turn begins; `running` says whether to send. All that [`Self::next_due`] announced was sent.
    fn turn(&mut self, running: bool);

    /// The next connection that has something to send of itself, if any.
    fn next_due(&mut self) -> Option<u32>;

    /// Writes what [`Self::next_due`] announced.
    fn send(&mut self, key: u32, state: &mut Self::State, out: &mut Outgoing<'_>);

    /// What has been counted so far.
    fn counts(&self) -> ScenarioCounts;

    /// Whether everything that was sent has been answered.
    fn is_quiet(&self) -> bool;

    /// Times since the last call: of each message, and of publishes to their last subscriber.
    fn take_latencies(&mut self) -> (super::Latencies, super::Latencies);
}

/// What a scenario counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ScenarioCounts {
    /// Messages that came back or were delivered, each of them checked.
    pub(super) messages: u64,
    /// Payload bytes of those.
    pub(super) bytes: u64,
    /// Publishes that this worker's publishers know to have reached everyone.
    pub(super) publishes: u64,
}

/// Frames on their way out of one connection: all that are written before the next flush leave with
/// one send.
pub(super) struct Outgoing<'a> {
    pub(super) waiting: &'a mut Option<Payload>,
    pub(super) pool: &'a mut PayloadPool,
    pub(super) keys: &'a mut MaskKeys,
}

impl Outgoing<'_> {
    /// Adds a whole message or control frame.
    pub(super) fn frame(&mut self, opcode: Opcode, payload: &[u8]) {
        let key = self.keys.next();
        frame::encode_masked(self.buffer(), opcode, true, payload, key);
    }

    /// Adds the first frame of a message that goes on.
    pub(super) fn part(&mut self, opcode: Opcode, payload: &[u8]) {
        let key = self.keys.next();
        frame::encode_masked(self.buffer(), opcode, false, payload, key);
    }

    /// Adds a frame without the second half of its payload.
    pub(super) fn half(&mut self, opcode: Opcode, payload: &[u8]) {
        self.frame(opcode, payload);
        let buffer = self.buffer();
        buffer.truncate(buffer.len() - payload.len().div_ceil(2));
    }

    /// Where all of that goes; for bytes that are no frame (the upgrade request).
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        let pool = &mut *self.pool;
        self.waiting
            .get_or_insert_with(|| pool.take())
            .try_extend()
            .expect("what waits has not been given to the ring")
    }
}

/// Masking keys: different for each frame. A measuring client needs no unpredictable ones.
#[derive(Debug)]
pub(super) struct MaskKeys(u32);

impl MaskKeys {
    pub(super) fn new(seed: u32) -> Self {
        Self(seed | 1)
    }

    fn next(&mut self) -> [u8; 4] {
        // Marsaglia's xorshift: every number but 0, in turn.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0.to_ne_bytes()
    }
}

/// Bytes that look like nothing in particular, the same in every run.
pub(super) fn noise(length: usize) -> Vec<u8> {
    let mut keys = MaskKeys::new(0x9e37_79b9);
    let mut bytes = Vec::with_capacity(length + 4);
    while bytes.len() < length {
        bytes.extend_from_slice(&keys.next());
    }
    bytes.truncate(length);
    bytes
}
