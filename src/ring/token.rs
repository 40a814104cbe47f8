//! What travels through the kernel as a request's `user_data`: operation, key, generation.

/// What a completion is the completion of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Op {
    /// A connection was accepted into a slot.
    Accept = 1,
    /// A socket became readable, or its peer went away.
    Poll,
    /// Bytes were received.
    Recv,
    /// A send finished.
    Send,
    /// A `shutdown` finished.
    Shutdown,
    /// The cancellation that precedes a close finished.
    Cancel,
    /// A slot was closed.
    Close,
    /// A descriptor was handed over to another ring (completes at the sender).
    HandOver,
    /// A descriptor arrived from another ring (completes at the receiver).
    Arrived,
    /// Another shard asked this one to look at its inbox.
    Wake,
    /// The periodic timeout that bounds a lost wake-up.
    Tick,
    /// A connect finished (load generator).
    Connect,
    /// The accepts of a listener were cancelled. The ring keeps this one to itself.
    Unlisten,
}

/// `user_data` of a request: operation (8 bits), key (24 bits), generation (32 bits).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token(u64);

impl Token {
    /// Largest key: 24 bits.
    pub const MAX_KEY: u32 = (1 << 24) - 1;

    /// # Panics
    /// When `key` needs more than 24 bits.
    #[must_use]
    pub const fn new(op: Op, key: u32, generation: u32) -> Self {
        assert!(key <= Self::MAX_KEY, "a token's key has 24 bits");
        Self((op as u64) << 56 | (key as u64) << 32 | generation as u64)
    }

    /// The operation; `None` when the number is none of ours.
    #[must_use]
    #[inline]
    pub const fn op(self) -> Option<Op> {
        // Spelled out, so that it compiles to a comparison instead of a look-up in a table.
        Some(match self.0 >> 56 {
            1 => Op::Accept,
            2 => Op::Poll,
            3 => Op::Recv,
            4 => Op::Send,
            5 => Op::Shutdown,
            6 => Op::Cancel,
            7 => Op::Close,
            8 => Op::HandOver,
            9 => Op::Arrived,
            10 => Op::Wake,
            11 => Op::Tick,
            12 => Op::Connect,
            13 => Op::Unlisten,
            _ => return None,
        })
    }

    /// The key of the connection in its slab, or the number of an accept.
    #[must_use]
    pub const fn key(self) -> u32 {
        (self.0 >> 32) as u32 & Self::MAX_KEY
    }

    /// The life of the slab entry that the request belongs to.
    #[must_use]
    pub const fn generation(self) -> u32 {
        self.0 as u32
    }

    /// The number as the kernel carries it.
    #[must_use]
    pub const fn into_raw(self) -> u64 {
        self.0
    }

    /// A token from the number that the kernel brought back.
    #[must_use]
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.op() {
            Some(op) => write!(f, "{op:?}({}.{})", self.key(), self.generation()),
            None => write!(f, "Token({:#x})", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    impl Op {
        const ALL: [Self; 13] = [
            Self::Accept,
            Self::Poll,
            Self::Recv,
            Self::Send,
            Self::Shutdown,
            Self::Cancel,
            Self::Close,
            Self::HandOver,
            Self::Arrived,
            Self::Wake,
            Self::Tick,
            Self::Connect,
            Self::Unlisten,
        ];
    }

    proptest! {
        #[test]
        fn survives_the_kernel(op in 0usize..Op::ALL.len(), key in 0..=Token::MAX_KEY, generation: u32) {
            let token = Token::from_raw(Token::new(Op::ALL[op], key, generation).into_raw());
            prop_assert_eq!(token.op(), Some(Op::ALL[op]));
            prop_assert_eq!(token.key(), key);
            prop_assert_eq!(token.generation(), generation);
        }

        #[test]
        fn any_number_decodes(raw: u64) {
            let token = Token::from_raw(raw);
            let known = (1..=Op::ALL.len() as u64).contains(&(raw >> 56));
            prop_assert_eq!(token.op().is_some(), known);
            let shown = format!("{token:?}");
            prop_assert!(!shown.is_empty());
        }
    }
}
