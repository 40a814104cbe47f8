//! What a peer can do wrong in its frames, and the close code that tells it so.

use super::close::CloseCode;

/// A violation of RFC 6455 or of a limit. The connection fails: send a close frame with
/// [`WireError::close_code`] and this error's text, then close (RFC 6455 section 7.1.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// Section 5.2: RSV1 to RSV3 belong to extensions, and none was negotiated.
    #[error("reserved bits are set and no extension was negotiated")]
    ReservedBits,
    /// Section 5.2: opcodes 3–7 and 11–15.
    #[error("opcode {0} is reserved")]
    ReservedOpcode(u8),
    /// Section 5.1: a client masks every frame.
    #[error("frames from a client must be masked")]
    Unmasked,
    /// Section 5.1: a server masks no frame.
    #[error("frames from a server must not be masked")]
    Masked,
    /// Section 5.2: the length takes the fewest bytes that hold it.
    #[error("the payload length is not encoded in the fewest bytes")]
    LengthNotMinimal,
    /// Section 5.2: the top bit of a 64-bit length is 0.
    #[error("the top bit of the payload length is set")]
    LengthTopBit,
    /// Section 5.5: a control frame's payload is at most 125 bytes.
    #[error("a control frame's payload may have at most 125 bytes")]
    ControlTooLong,
    /// Section 5.5: control frames are not fragmented.
    #[error("control frames must not be fragmented")]
    ControlFragmented,
    /// Section 5.4: a continuation frame continues a message.
    #[error("a continuation frame without a message to continue")]
    NothingToContinue,
    /// Section 5.4: messages do not interleave.
    #[error("a new message began before the last one was complete")]
    MessageIncomplete,
    /// The message is longer than `limit` bytes.
    #[error("the message exceeds the limit of {limit} bytes")]
    MessageTooBig {
        /// The largest message that is allowed here, in bytes.
        limit: usize,
    },
    /// The message has more than `limit` fragments.
    #[error("the message exceeds the limit of {limit} fragments")]
    TooManyFragments {
        /// The most fragments that one message may have here.
        limit: u32,
    },
    /// Section 8.1: text is UTF-8.
    #[error("the text is not valid UTF-8")]
    InvalidUtf8,
    /// Section 5.5.1: a close frame is empty or begins with a 2-byte code.
    #[error("a close frame's payload must be empty or begin with a 2-byte code")]
    CloseLength,
    /// Section 7.4: the code may not be sent.
    #[error("close code {0} must not be sent")]
    CloseCode(u16),
    /// Section 5.5.1: a close reason is UTF-8.
    #[error("the close reason is not valid UTF-8")]
    CloseReason,
}

impl WireError {
    /// 1002 protocol error, 1007 invalid payload data or 1009 message too big.
    #[must_use]
    pub const fn close_code(&self) -> CloseCode {
        match self {
            Self::InvalidUtf8 | Self::CloseReason => CloseCode::INVALID_PAYLOAD,
            Self::MessageTooBig { .. } | Self::TooManyFragments { .. } => {
                CloseCode::MESSAGE_TOO_BIG
            }
            _ => CloseCode::PROTOCOL_ERROR,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_fits_a_close_reason_and_a_register_pair() {
        for (error, code) in [
            (WireError::ReservedBits, 1002),
            (WireError::ReservedOpcode(15), 1002),
            (WireError::CloseCode(65_535), 1002),
            (WireError::MessageTooBig { limit: usize::MAX }, 1009),
            (WireError::TooManyFragments { limit: u32::MAX }, 1009),
            (WireError::InvalidUtf8, 1007),
            (WireError::CloseReason, 1007),
        ] {
            assert_eq!(error.close_code().get(), code);
            assert!(error.to_string().len() <= 123, "{error}");
        }
        assert!(size_of::<WireError>() <= 16);
    }
}
