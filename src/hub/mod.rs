//! Channels: who on this shard hears them, and — for the channels that this shard is home to —
//! in which order everybody hears them.
//!
//! On the way of a message this stands between the session's `publish` and the outboxes. Every
//! channel has one **home shard**, chosen by the hash of its name. A publish travels to the home,
//! gets its offset there, and leaves for the shards that have subscribers; so every subscriber sees
//! the same order, offsets have no gaps, and nobody locks.
//!
//! Nothing here does I/O or knows a socket: [`local::Local`] and [`home::Home`] change their state
//! and say what to send to which shard; the shard's core carries it.

mod chunks;
pub mod directory;
pub mod history;
pub mod home;
pub mod local;
mod names;
pub mod presence;
pub(crate) mod room;
pub mod rules;
pub mod subscribers;
pub mod turn;
pub mod users;
pub mod wildcards;

use bytes::Bytes;

pub use names::Names;
pub(crate) use names::home_of;

/// A place in a channel's stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Position {
    /// Number of the last message; the first one published in an epoch is 1.
    pub offset: u64,
    /// Which life of the channel the offset counts in. Drawn at random below 2^48, so that it is
    /// exact in JSON.
    pub epoch: u64,
}

/// How many shapes there are.
pub const SHAPES: usize = 4;

/// What a subscriber gets of a channel's messages: their form, and whether they come one by one or in
/// batches. Each shape is written once per shard, and only where somebody gets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shape(u8);

impl Shape {
    /// The first form, one by one.
    pub const PLAIN: Self = Self(0);

    /// The shape of a form, below half of [`SHAPES`].
    #[must_use]
    pub fn new(form: u8, batched: bool) -> Self {
        debug_assert!(usize::from(form) < SHAPES / 2, "forms are few");
        Self(form % 2 + 2 * u8::from(batched))
    }

    /// All shapes, by their index.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..SHAPES as u8).map(Self)
    }

    /// A number below [`SHAPES`].
    #[must_use]
    pub fn index(self) -> usize {
        self.0.into()
    }

    /// Which form.
    #[must_use]
    pub fn form(self) -> u8 {
        self.0 % 2
    }

    /// Whether messages come in batches.
    #[must_use]
    pub fn is_batched(self) -> bool {
        self.0 >= 2
    }
}

/// What was published: opaque to the hub, shared by all shards that deliver it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Publication {
    /// Which of the channel's messages replace each other for subscribers that do not keep up, where the
    /// channel's rule says so: those with the same number.
    pub key: u64,
    /// What the handler says about the message and its publisher (for ringwire's protocol: the user's id,
    /// the shape of the data, the key's name).
    pub meta: Bytes,
    /// The published data, byte for byte.
    pub data: Bytes,
}

/// A message on its way to subscribers: a publication with its place in the channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The number that the home shard gave it.
    pub offset: u64,
    /// When the home shard numbered it, in milliseconds since the Unix epoch.
    pub timestamp_ms: u64,
    /// What was published.
    pub publication: Publication,
}
