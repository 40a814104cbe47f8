//! Close codes and close frames (RFC 6455 sections 5.5.1 and 7.4).

use super::WireError;
use super::frame::{self, MAX_CONTROL_BYTES, Opcode};

/// A close code: why a connection ended. Any number can be held; [`CloseCode::is_valid_on_wire`]
/// says which ones a close frame may carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CloseCode(u16);

impl CloseCode {
    /// 1000: the purpose is fulfilled.
    pub const NORMAL: Self = Self(1000);
    /// 1001: this end goes away: shutdown, a page left, or no sign of life from the other end.
    pub const GOING_AWAY: Self = Self(1001);
    /// 1002: the other end broke the protocol.
    pub const PROTOCOL_ERROR: Self = Self(1002);
    /// 1003: a kind of data that is not accepted here.
    pub const UNSUPPORTED_DATA: Self = Self(1003);
    /// 1005: the close frame had no code. Never on the wire.
    pub const NO_STATUS: Self = Self(1005);
    /// 1006: the connection ended without a close frame. Never on the wire.
    pub const ABNORMAL: Self = Self(1006);
    /// 1007: text that is not UTF-8.
    pub const INVALID_PAYLOAD: Self = Self(1007);
    /// 1008: a message that violates a policy.
    pub const POLICY_VIOLATION: Self = Self(1008);
    /// 1009: a message too big to process.
    pub const MESSAGE_TOO_BIG: Self = Self(1009);
    /// 1010: the client needs an extension that the server did not negotiate.
    pub const MANDATORY_EXTENSION: Self = Self(1010);
    /// 1011: an unexpected condition in the server.
    pub const INTERNAL_ERROR: Self = Self(1011);
    /// 1012: the service restarts.
    pub const SERVICE_RESTART: Self = Self(1012);
    /// 1013: overloaded; try again later.
    pub const TRY_AGAIN_LATER: Self = Self(1013);
    /// 1014: a gateway got an invalid answer.
    pub const BAD_GATEWAY: Self = Self(1014);
    /// 1015: the TLS handshake failed. Never on the wire.
    pub const TLS_HANDSHAKE: Self = Self(1015);
    /// 4001: the token is invalid or expired.
    pub const TOKEN_INVALID: Self = Self(4001);
    /// 4002: the credentials were refused.
    pub const CREDENTIALS_REFUSED: Self = Self(4002);
    /// 4003: no `auth` in time.
    pub const AUTH_TIMEOUT: Self = Self(4003);
    /// 4004: the origin is not allowed.
    pub const ORIGIN_NOT_ALLOWED: Self = Self(4004);
    /// 4008: above the rate limit.
    pub const RATE_LIMITED: Self = Self(4008);
    /// 4009: too many connections.
    pub const TOO_MANY_CONNECTIONS: Self = Self(4009);
    /// 4010: the client reads more slowly than its channels speak.
    pub const SLOW_CONSUMER: Self = Self(4010);

    /// The code with this number, valid on the wire or not.
    #[must_use]
    pub const fn new(code: u16) -> Self {
        Self(code)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }

    /// Whether a close frame may carry the code: those the IANA registry lists for endpoints to
    /// send (1000–1003, 1007–1014), and the ranges of libraries (3000–3999) and applications
    /// (4000–4999).
    #[must_use]
    pub const fn is_valid_on_wire(self) -> bool {
        matches!(self.0, 1000..=1003 | 1007..=1014 | 3000..=4999)
    }

    /// Whether a client should connect again, with backoff, after a connection that ended so.
    #[must_use]
    pub const fn should_reconnect(self) -> bool {
        matches!(
            self,
            Self::GOING_AWAY
                | Self::ABNORMAL
                | Self::INTERNAL_ERROR
                | Self::SERVICE_RESTART
                | Self::TRY_AGAIN_LATER
                | Self::TOO_MANY_CONNECTIONS
                | Self::SLOW_CONSUMER
        )
    }
}

impl std::fmt::Display for CloseCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Longest reason of a close frame, in bytes: what a control frame has left after the code.
pub const MAX_REASON_BYTES: usize = MAX_CONTROL_BYTES - 2;

/// Appends a server's close frame.
///
/// A reason above [`MAX_REASON_BYTES`] is cut at a character. A code that may not be sent
/// (1005: the peer gave none) makes an empty close frame, which says just that.
pub fn encode_close(out: &mut Vec<u8>, code: CloseCode, reason: &str) {
    if !code.is_valid_on_wire() {
        frame::encode(out, Opcode::Close, &[]);
        return;
    }
    let mut end = reason.len().min(MAX_REASON_BYTES);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    let reason = &reason[..end];
    frame::encode_header(out, Opcode::Close, 2 + reason.len());
    out.extend_from_slice(&code.0.to_be_bytes());
    out.extend_from_slice(reason.as_bytes());
}

/// Splits a close frame's unmasked payload into code and reason.
pub(super) fn parse_close(payload: &[u8]) -> Result<(Option<u16>, &str), WireError> {
    match payload {
        [] => Ok((None, "")),
        [_] => Err(WireError::CloseLength),
        [high, low, reason @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            if !CloseCode(code).is_valid_on_wire() {
                return Err(WireError::CloseCode(code));
            }
            let reason = std::str::from_utf8(reason).map_err(|_| WireError::CloseReason)?;
            Ok((Some(code), reason))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_on_the_wire() {
        let valid: Vec<u16> = (0..=u16::MAX)
            .filter(|code| CloseCode::new(*code).is_valid_on_wire())
            .collect();
        let mut expected = vec![
            1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014,
        ];
        expected.extend(3000..=4999);
        assert_eq!(valid, expected);
    }

    #[test]
    fn codes_to_reconnect_after() {
        let codes: Vec<u16> = (0..=u16::MAX)
            .filter(|code| CloseCode::new(*code).should_reconnect())
            .collect();
        assert_eq!(codes, [1001, 1006, 1011, 1012, 1013, 4009, 4010]);
    }

    #[test]
    fn encoding() {
        let mut out = Vec::new();
        encode_close(&mut out, CloseCode::NORMAL, "bye");
        assert_eq!(out, b"\x88\x05\x03\xe8bye");
        out.clear();
        encode_close(&mut out, CloseCode::NO_STATUS, "not sent");
        assert_eq!(out, b"\x88\x00");
        out.clear();
        // 122 bytes and a two-byte character: the character does not fit.
        encode_close(
            &mut out,
            CloseCode::SLOW_CONSUMER,
            &format!("{}é", "x".repeat(122)),
        );
        assert_eq!(out.len(), 2 + 2 + 122);
        assert_eq!(out[1], 124);
        out.clear();
        encode_close(&mut out, CloseCode::SLOW_CONSUMER, &"x".repeat(1000));
        assert_eq!(out.len(), 2 + 125);
    }

    #[test]
    fn parsing() {
        assert_eq!(parse_close(b""), Ok((None, "")));
        assert_eq!(parse_close(b"\x03"), Err(WireError::CloseLength));
        assert_eq!(parse_close(b"\x03\xe8"), Ok((Some(1000), "")));
        assert_eq!(parse_close(b"\x0f\xaaslow"), Ok((Some(4010), "slow")));
        assert_eq!(parse_close(b"\x03\xed"), Err(WireError::CloseCode(1005)));
        assert_eq!(parse_close(b"\x00\x00"), Err(WireError::CloseCode(0)));
        assert_eq!(parse_close(b"\x03\xe8\xff"), Err(WireError::CloseReason));
        assert_eq!(parse_close(b"\x03\xe8\xc3"), Err(WireError::CloseReason));
    }
}
