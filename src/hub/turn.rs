//! What has come for a channel and has not been delivered to its subscribers yet.

use super::{SHAPES, Shape};
use smallvec::SmallVec;

/// A part of a turn that one connection does not get: what it published itself with `"echo":false`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Excluded {
    /// The connection's key.
    pub key: u32,
    /// Where it starts: in the part's frames, or in its entries where they come in batches.
    pub start: u32,
    /// Where it ends.
    pub end: u32,
}

/// Where one message stands in a part, and which others it replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Where it starts, as in [`Excluded`].
    pub start: u32,
    /// Where it ends.
    pub end: u32,
    /// The publication's key.
    pub key: u64,
    /// The message's number.
    pub offset: u64,
}

/// What the subscribers of one shape get.
#[derive(Debug, Default)]
pub struct Part {
    /// Whole frames, back to back.
    pub frames: Vec<u8>,
    /// Where messages come in batches: the entries of the next one.
    pub entries: Vec<u8>,
    /// How many they are.
    pub count: u32,
    /// What single connections don't get of it.
    pub excluded: SmallVec<[Excluded; 1]>,
    /// Where newer messages replace older ones: each message.
    pub marks: Vec<Mark>,
}

impl Part {
    /// Bytes that have gathered.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.frames.len() + self.entries.len()
    }
}

/// What has come for a channel.
#[derive(Debug, Default)]
pub struct Turn {
    parts: [Part; SHAPES],
    /// Messages.
    pub messages: u32,
    /// Messages and events.
    pub items: u32,
    /// The number of the last message.
    pub offset: u64,
    /// When it is to be delivered at the latest, in milliseconds since the shard started.
    pub due_ms: u64,
}

impl Turn {
    /// What the subscribers of a shape get.
    pub fn part(&mut self, shape: Shape) -> &mut Part {
        &mut self.parts[shape.index()]
    }

    /// Bytes of the largest part.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.parts.iter().map(Part::bytes).max().unwrap_or(0)
    }

    /// Whether some messages are to become a batch.
    #[must_use]
    pub fn has_entries(&self) -> bool {
        self.parts.iter().any(|part| part.count > 0)
    }

    /// Empties it, for the next turn.
    pub fn clear(&mut self) {
        for part in &mut self.parts {
            // What was much once is not kept for ever.
            for bytes in [&mut part.frames, &mut part.entries] {
                match bytes.capacity() {
                    0..=4096 => bytes.clear(),
                    _ => *bytes = Vec::new(),
                }
            }
            part.count = 0;
            part.excluded.clear();
            part.marks.clear();
        }
        (self.messages, self.items) = (0, 0);
    }
}
