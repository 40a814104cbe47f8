//! The two forms in which the protocol is spoken: what differs between them before anything is read or
//! written.

use crate::shard::handler::Kind;

/// How a connection writes and reads its messages, from the upgrade to the close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One JSON object in each text message.
    Json,
    /// One MessagePack map in each binary message.
    MessagePack,
}

impl Form {
    /// All of them, by their [`number`](Self::number).
    pub const ALL: [Form; 2] = [Form::Json, Form::MessagePack];

    /// The engine's number for it ([`crate::shard::handler::Endpoint::form`]).
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Form::Json => 0,
            Form::MessagePack => 1,
        }
    }

    /// The form of a number that the engine gives back.
    #[must_use]
    pub const fn of(number: u8) -> Form {
        match number {
            0 => Form::Json,
            _ => Form::MessagePack,
        }
    }

    /// The subprotocol that a client offers to speak it.
    #[must_use]
    pub const fn subprotocol(self) -> &'static str {
        match self {
            Form::Json => "ringwire.json.v1",
            Form::MessagePack => "ringwire.msgpack.v1",
        }
    }

    /// The messages that it comes in.
    pub(super) const fn kind(self) -> Kind {
        match self {
            Form::Json => Kind::Text,
            Form::MessagePack => Kind::Binary,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::handler::MAX_FORMS;

    #[test]
    fn numbers_are_those_of_the_engine() {
        assert_eq!(Form::ALL.len(), usize::from(MAX_FORMS));
        for (number, form) in (0..MAX_FORMS).zip(Form::ALL) {
            assert_eq!((form.number(), Form::of(number)), (number, form));
        }
    }
}
