//! One connection as its shard keeps it: what every turn touches in 64 bytes, what is rare in boxes.

use super::queue::Queue;
use crate::hub::users::NOBODY;
use crate::ring::{Payload, Slot};
use crate::wire::message::Carry;
use std::net::SocketAddr;
use thin_vec::ThinVec;

/// Names one connection of the whole server, for as long as it lives. A later connection that
/// happens to get the same place in the slab has another generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId {
    /// The shard that owns it.
    pub shard: u16,
    /// Its key in that shard's slab.
    pub key: u32,
    /// Its generation there.
    pub generation: u32,
}

impl std::fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:x}-{:x}-{:x}", self.shard, self.key, self.generation)
    }
}

/// Milliseconds since the shard started, in 32 bits: they wrap after 49 days, so only differences
/// of less than 24 days mean something. Every deadline is far below that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Ms(pub u32);

impl Ms {
    /// Milliseconds from `earlier` to `self`; 0 when `earlier` is later.
    pub fn since(self, earlier: Self) -> u32 {
        let difference = self.0.wrapping_sub(earlier.0);
        if difference > u32::MAX / 2 {
            0
        } else {
            difference
        }
    }

    /// This time plus `ms`.
    pub fn plus(self, ms: u32) -> Self {
        Self(self.0.wrapping_add(ms))
    }
}

/// Where a connection stands between accept and close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Accepted here, on its way to a shard with less to do.
    HandingOver,
    /// The head of its HTTP request is being read.
    Handshake,
    /// Upgraded; frames go both ways.
    Open,
    /// Our close frame is queued or sent, the peer's is awaited. Messages are ignored.
    Closing,
    /// Nothing more is said. What is queued still leaves, then the write side is shut down and
    /// input is discarded until the peer closes too: closing with unread input would send a reset,
    /// which can overtake the last bytes.
    Lingering,
    /// Cancelled and closed; the entry waits for its last completion.
    Dead,
}

/// Conditions of a connection, one bit each.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(u16);

impl Flags {
    /// Multishot poll is in flight.
    pub const POLLING: Self = Self(1);
    /// A receive is in flight.
    pub const RECEIVING: Self = Self(1 << 1);
    /// A send is in flight.
    pub const SENDING: Self = Self(1 << 2);
    /// There is input to read: an event came during a receive, or while reading was paused.
    pub const READABLE: Self = Self(1 << 3);
    /// The peer hung up or failed: read until nothing is left, then it is over.
    pub const HANGUP: Self = Self(1 << 4);
    /// Waits in line for a receive buffer.
    pub const STARVED: Self = Self(1 << 5);
    /// Reading is paused until the answers that wait have left.
    pub const PAUSED: Self = Self(1 << 6);
    /// Stands in this turn's list of connections with something to send.
    pub const DIRTY: Self = Self(1 << 7);
    /// A ping went out and nothing came since.
    pub const PINGED: Self = Self(1 << 8);
    /// In the middle of something large: receive into a large buffer.
    pub const LARGE: Self = Self(1 << 9);
    /// The peer ended its side of the stream.
    pub const ENDED: Self = Self(1 << 10);
    /// Close the socket as soon as everything queued has left.
    pub const CLOSE_WHEN_SENT: Self = Self(1 << 11);
    /// The write side has been shut down.
    pub const SHUT: Self = Self(1 << 12);
    /// A Unix socket: the kernel does not say whether more is waiting, read until it would block.
    pub const UNIX: Self = Self(1 << 13);
    /// A shutdown is in flight: the slot must stay as it is until it is done.
    pub const SHUTTING: Self = Self(1 << 14);
    /// The socket can be closed, however late: its peer has been told, or it lives on in another
    /// shard's table.
    pub const LEAVING: Self = Self(1 << 15);

    /// Whether any of `other`'s bits is set.
    pub fn any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Sets `other`'s bits.
    pub fn set(&mut self, other: Self) {
        self.0 |= other.0;
    }

    /// Clears `other`'s bits; whether any was set.
    pub fn clear(&mut self, other: Self) -> bool {
        let was = self.any(other);
        self.0 &= !other.0;
        was
    }
}

impl std::ops::BitOr for Flags {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The part of a connection that turns and sweeps touch: one cache line.
pub struct Connection {
    /// Its direct descriptor.
    pub slot: Slot,
    /// Which life of the slab entry this is.
    pub generation: u32,
    /// Whose it is: a number of this shard's users, or [`crate::hub::users::NOBODY`].
    pub user: u32,
    /// When the last ping went out (at first: when the connection was accepted).
    pub pinged_at: Ms,
    /// When the send in flight was submitted.
    pub sending_since: Ms,
    /// Bytes queued or in flight.
    pub outbox_bytes: u32,
    /// Requests whose last completion has not come: the entry is free only at 0.
    pub in_flight: u16,
    /// Conditions.
    pub flags: Flags,
    /// Where it stands between accept and close.
    pub phase: Phase,
    /// Which of the handler's endpoints it was upgraded at.
    pub endpoint: u8,
    /// Which listener it came from.
    pub listener: u8,
    /// What leaves next, still open for appending while nobody else holds it.
    pub out: Option<Payload>,
    /// Bytes of an incomplete frame or message.
    pub carry: Carry,
    /// Channels it is subscribed to (keys of this shard's channels), sorted.
    pub channels: ThinVec<u32>,
    /// What most connections never have.
    pub rare: Option<Box<Rare>>,
}

const _: () = assert!(
    size_of::<Connection>() <= 64,
    "the hot part of a connection is one cache line"
);

/// What a connection has only for a while.
#[derive(Default)]
pub struct Rare {
    /// Before the upgrade: bytes of the request's head.
    pub head: Vec<u8>,
    /// Before the upgrade: where the connection comes from.
    pub peer: Option<SocketAddr>,
    /// While it is being handed over: to which shard, under which number.
    pub hand_over: Option<(u16, u32)>,
    /// Older than `Connection::out`, in order.
    pub(super) queue: Queue,
    /// Bytes of the queue's front that have left already.
    pub sent_bytes: usize,
    /// Length of the piece in flight.
    pub sending_bytes: usize,
    /// Whether the bytes in flight are a piece of the queue's front (which stays until all left).
    pub sending_piece: bool,
    /// Bytes of answers that wait and may be many: a client that asked for them is not slow.
    pub bulk_bytes: u32,
}

impl Connection {
    /// A connection that was just accepted.
    pub fn new(
        slot: Slot,
        generation: u32,
        listener: u8,
        peer: Option<SocketAddr>,
        now: Ms,
    ) -> Self {
        Self {
            slot,
            generation,
            user: NOBODY,
            pinged_at: now,
            sending_since: now,
            outbox_bytes: 0,
            in_flight: 0,
            flags: Flags::default(),
            phase: Phase::Handshake,
            endpoint: 0,
            listener,
            out: None,
            carry: None,
            channels: ThinVec::new(),
            rare: Some(Box::new(Rare {
                peer,
                ..Rare::default()
            })),
        }
    }

    /// Whether frames may still be queued.
    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// The rare part, made when it is not there.
    pub fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// Whether anything waits to be sent (not counting the send in flight).
    pub fn has_output(&self) -> bool {
        self.out.is_some()
            || self
                .rare
                .as_ref()
                .is_some_and(|rare| !rare.queue.is_empty())
    }

    /// Frees the rare part of an upgraded connection when nothing in it is needed.
    pub fn release_rare(&mut self) {
        if let Some(rare) = &self.rare
            && rare.queue.is_empty()
            && !rare.sending_piece
            && rare.bulk_bytes == 0
            && matches!(self.phase, Phase::Open)
        {
            self.rare = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_wraps() {
        let before = Ms(u32::MAX - 10);
        let after = before.plus(30);
        assert_eq!(after.since(before), 30);
        assert_eq!(before.since(after), 0);
    }

    #[test]
    fn an_entry_of_the_slab_is_one_line() {
        // The vacant variant hides in a niche, so the slab adds nothing.
        assert!(size_of::<Option<Connection>>() <= 64);
    }

    #[test]
    fn flags_are_independent() {
        let mut flags = Flags::default();
        flags.set(Flags::POLLING | Flags::SENDING);
        assert!(flags.any(Flags::SENDING));
        assert!(!flags.any(Flags::RECEIVING));
        assert!(flags.clear(Flags::SENDING));
        assert!(!flags.clear(Flags::SENDING));
        assert!(flags.any(Flags::POLLING));
    }
}
