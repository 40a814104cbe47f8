//! Frame headers, read and written (RFC 6455 section 5.2).

use super::{Role, WireError};
use crate::simd;

/// Longest header, in bytes: 2, a 64-bit length and a masking key.
pub const MAX_HEADER_BYTES: usize = 14;

/// Longest payload of a control frame, in bytes (RFC 6455 section 5.5).
pub const MAX_CONTROL_BYTES: usize = 125;

const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;
const RESERVED_BITS: u8 = 0x70;
/// Lengths up to this one stand in the second byte itself.
const MAX_SHORT_LENGTH: usize = 125;
/// Lengths from here on take eight bytes; those between take two.
const MIN_LONG_LENGTH: usize = 0x1_0000;
const LENGTH_16: u8 = 126;
const LENGTH_64: u8 = 127;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Opcode {
    /// The next fragment of a message.
    Continuation = 0x0,
    /// A text message, or its first fragment.
    Text = 0x1,
    /// A binary message, or its first fragment.
    Binary = 0x2,
    /// The end of the connection.
    Close = 0x8,
    /// Asks for a pong with the same payload.
    Ping = 0x9,
    /// Answers a ping, or says that the peer lives.
    Pong = 0xa,
}

impl Opcode {
    #[inline]
    const fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0x0 => Some(Self::Continuation),
            0x1 => Some(Self::Text),
            0x2 => Some(Self::Binary),
            0x8 => Some(Self::Close),
            0x9 => Some(Self::Ping),
            0xa => Some(Self::Pong),
            _ => None,
        }
    }

    /// Close, ping or pong: at most 125 bytes, never fragmented, allowed between fragments.
    #[inline]
    #[must_use]
    pub const fn is_control(self) -> bool {
        self as u8 & 0x8 != 0
    }
}

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the frame is.
    pub opcode: Opcode,
    /// Whether this is the message's last fragment.
    pub fin: bool,
    /// The masking key of a masked frame.
    pub key: Option<[u8; 4]>,
    /// Length of the header itself, in bytes: 2 to [`MAX_HEADER_BYTES`].
    pub header_bytes: u8,
    /// Length of the payload that follows, in bytes; the top bit is clear.
    pub payload_bytes: u64,
}

/// Reads the header at the start of `bytes`; `None` while it is incomplete. A wrong bit fails as
/// soon as its byte is there, complete or not.
///
/// # Errors
/// Whatever RFC 6455 section 5.2 forbids in a header that `role` reads. Whether the frame fits
/// between its neighbours and the limits is the decoder's to say.
#[inline]
pub fn parse_header(bytes: &[u8], role: Role) -> Result<Option<Header>, WireError> {
    let Some(&first) = bytes.first() else {
        return Ok(None);
    };
    if first & RESERVED_BITS != 0 {
        return Err(WireError::ReservedBits);
    }
    let fin = first & FIN != 0;
    let bits = first & 0x0f;
    let opcode = Opcode::from_bits(bits).ok_or(WireError::ReservedOpcode(bits))?;
    if opcode.is_control() && !fin {
        return Err(WireError::ControlFragmented);
    }

    let Some(&second) = bytes.get(1) else {
        return Ok(None);
    };
    let masked = second & MASKED != 0;
    match role {
        Role::Server if !masked => return Err(WireError::Unmasked),
        Role::Client if masked => return Err(WireError::Masked),
        _ => {}
    }
    let short = second & !MASKED;
    if opcode.is_control() && usize::from(short) > MAX_CONTROL_BYTES {
        return Err(WireError::ControlTooLong);
    }

    let rest = &bytes[2..];
    let (payload_bytes, rest) = match short {
        LENGTH_16 => {
            let Some((length, rest)) = rest.split_first_chunk::<2>() else {
                return Ok(None);
            };
            let length = u64::from(u16::from_be_bytes(*length));
            if length <= MAX_SHORT_LENGTH as u64 {
                return Err(WireError::LengthNotMinimal);
            }
            (length, rest)
        }
        LENGTH_64 => {
            let Some((length, rest)) = rest.split_first_chunk::<8>() else {
                return Ok(None);
            };
            let length = u64::from_be_bytes(*length);
            if length >> 63 != 0 {
                return Err(WireError::LengthTopBit);
            }
            if length < MIN_LONG_LENGTH as u64 {
                return Err(WireError::LengthNotMinimal);
            }
            (length, rest)
        }
        length => (u64::from(length), rest),
    };
    let (key, rest) = if masked {
        let Some((key, rest)) = rest.split_first_chunk::<4>() else {
            return Ok(None);
        };
        (Some(*key), rest)
    } else {
        (None, rest)
    };
    Ok(Some(Header {
        opcode,
        fin,
        key,
        header_bytes: (bytes.len() - rest.len()) as u8,
        payload_bytes,
    }))
}

/// Length of an unmasked frame's header before a payload of `length` bytes: 2, 4 or 10.
#[inline]
#[must_use]
pub const fn header_len(length: usize) -> usize {
    match length {
        0..=MAX_SHORT_LENGTH => 2,
        126..MIN_LONG_LENGTH => 4,
        _ => 10,
    }
}

/// Appends a server's header: unmasked, FIN. The caller appends `length` bytes of payload.
///
/// For control frames `length` is at most [`MAX_CONTROL_BYTES`].
#[inline]
pub fn encode_header(out: &mut Vec<u8>, opcode: Opcode, length: usize) {
    put_header(out, FIN | opcode as u8, 0, length);
}

/// Appends a whole frame as a server sends it: unmasked, unfragmented.
///
/// For control frames the payload has at most [`MAX_CONTROL_BYTES`].
#[inline]
pub fn encode(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8]) {
    out.reserve(header_len(payload.len()) + payload.len());
    encode_header(out, opcode, payload.len());
    out.extend_from_slice(payload);
}

/// Appends a frame as a client sends it, masked with `key`; without `fin`, as a fragment that
/// continuation frames follow.
///
/// For control frames the payload has at most [`MAX_CONTROL_BYTES`] and `fin` is set.
#[inline]
pub fn encode_masked(out: &mut Vec<u8>, opcode: Opcode, fin: bool, payload: &[u8], key: [u8; 4]) {
    debug_assert!(fin || !opcode.is_control());
    out.reserve(header_len(payload.len()) + key.len() + payload.len());
    let first = if fin { FIN } else { 0 } | opcode as u8;
    put_header(out, first, MASKED, payload.len());
    out.extend_from_slice(&key);
    simd::unmask_copy(payload, out, key, 0);
}

#[inline]
fn put_header(out: &mut Vec<u8>, first: u8, mask: u8, length: usize) {
    debug_assert!(first & 0x8 == 0 || length <= MAX_CONTROL_BYTES);
    match length {
        0..=MAX_SHORT_LENGTH => out.extend_from_slice(&[first, mask | length as u8]),
        126..MIN_LONG_LENGTH => {
            let [high, low] = (length as u16).to_be_bytes();
            out.extend_from_slice(&[first, mask | LENGTH_16, high, low]);
        }
        _ => {
            let mut header = [first, mask | LENGTH_64, 0, 0, 0, 0, 0, 0, 0, 0];
            header[2..].copy_from_slice(&(length as u64).to_be_bytes());
            out.extend_from_slice(&header);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: [u8; 4] = [1, 2, 3, 4];

    fn server(bytes: &[u8]) -> Result<Option<Header>, WireError> {
        parse_header(bytes, Role::Server)
    }

    fn client(bytes: &[u8]) -> Result<Option<Header>, WireError> {
        parse_header(bytes, Role::Client)
    }

    #[test]
    fn reserved_bits_fail_with_the_first_byte() {
        for bits in [0x10, 0x20, 0x40, 0x70] {
            assert_eq!(client(&[0x81 | bits]), Err(WireError::ReservedBits));
        }
    }

    #[test]
    fn reserved_opcodes_fail_with_the_first_byte() {
        for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
            assert_eq!(
                server(&[0x80 | opcode]),
                Err(WireError::ReservedOpcode(opcode))
            );
        }
        for opcode in [0, 1, 2, 8, 9, 10] {
            assert_eq!(server(&[0x80 | opcode]), Ok(None));
        }
    }

    #[test]
    fn control_frames_are_short_and_whole() {
        for opcode in [8, 9, 10] {
            assert_eq!(client(&[opcode]), Err(WireError::ControlFragmented));
            assert_eq!(
                client(&[0x80 | opcode, 126]),
                Err(WireError::ControlTooLong)
            );
            assert_eq!(
                client(&[0x80 | opcode, 127]),
                Err(WireError::ControlTooLong)
            );
            let header = client(&[0x80 | opcode, 125]).unwrap().unwrap();
            assert_eq!(header.payload_bytes, 125);
        }
    }

    #[test]
    fn masking_follows_the_role() {
        assert_eq!(server(&[0x81, 0x00]), Err(WireError::Unmasked));
        assert_eq!(server(&[0x81, 0x7e]), Err(WireError::Unmasked));
        assert_eq!(client(&[0x81, 0x80]), Err(WireError::Masked));
        assert_eq!(server(&[0x81, 0x80, 1, 2, 3]), Ok(None));
        let header = server(&[0x81, 0x80, 1, 2, 3, 4, 99]).unwrap().unwrap();
        assert_eq!((header.key, header.header_bytes), (Some(KEY), 6));
    }

    #[test]
    fn lengths_take_the_fewest_bytes() {
        assert_eq!(
            client(&[0x82, 126, 0, 125]),
            Err(WireError::LengthNotMinimal)
        );
        assert_eq!(client(&[0x82, 126, 0]), Ok(None));
        assert_eq!(
            client(&[0x82, 126, 0, 126]).unwrap().unwrap().payload_bytes,
            126
        );
        let long = |length: u64| {
            let mut bytes = vec![0x82, 127];
            bytes.extend(length.to_be_bytes());
            client(&bytes)
        };
        assert_eq!(long(0), Err(WireError::LengthNotMinimal));
        assert_eq!(long(65_535), Err(WireError::LengthNotMinimal));
        assert_eq!(long(65_536).unwrap().unwrap().payload_bytes, 65_536);
        assert_eq!(long(1 << 63), Err(WireError::LengthTopBit));
        assert_eq!(long(u64::MAX), Err(WireError::LengthTopBit));
        assert_eq!(long(u64::MAX >> 1).unwrap().unwrap().header_bytes, 10);
    }

    #[test]
    fn header_lengths() {
        for length in [0, 1, 125, 126, 127, 65_535, 65_536, 1 << 24] {
            let mut out = Vec::new();
            encode_header(&mut out, Opcode::Binary, length);
            assert_eq!(out.len(), header_len(length));
            let header = client(&out).unwrap().unwrap();
            assert_eq!(header.payload_bytes, length as u64);
            assert_eq!(usize::from(header.header_bytes), out.len());
        }
    }

    fn opcodes() -> impl Strategy<Value = Opcode> {
        proptest::sample::select(vec![
            Opcode::Continuation,
            Opcode::Text,
            Opcode::Binary,
            Opcode::Close,
            Opcode::Ping,
            Opcode::Pong,
        ])
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_read_back(
            opcode in opcodes(),
            fin: bool,
            payload in proptest::collection::vec(any::<u8>(), 0..700),
            key: [u8; 4],
        ) {
            let control = opcode.is_control();
            let payload = if control { &payload[..payload.len().min(125)] } else { &payload };
            let fin = fin || control;

            let mut out = Vec::new();
            encode_masked(&mut out, opcode, fin, payload, key);
            for cut in 0..out.len() - payload.len() {
                prop_assert_eq!(server(&out[..cut]), Ok(None));
            }
            let header = server(&out).unwrap().unwrap();
            prop_assert_eq!((header.opcode, header.fin, header.key), (opcode, fin, Some(key)));
            prop_assert_eq!(header.payload_bytes, payload.len() as u64);
            let mut body = out.split_off(header.header_bytes.into());
            simd::unmask(&mut body, key, 0);
            prop_assert_eq!(&body, payload);

            let mut out = Vec::new();
            encode(&mut out, opcode, payload);
            let header = client(&out).unwrap().unwrap();
            prop_assert_eq!((header.opcode, header.fin, header.key), (opcode, true, None));
            prop_assert_eq!(&out[usize::from(header.header_bytes)..], payload);
        }

        /// tungstenite writes and reads the same bytes.
        #[test]
        fn headers_equal_tungstenites(
            opcode in opcodes(),
            length in prop_oneof![0usize..300, 65_000usize..66_000],
            key: [u8; 4],
        ) {
            use tungstenite::protocol::frame::{FrameHeader, coding::OpCode};
            let length = if opcode.is_control() { length.min(125) } else { length };
            for mask in [None, Some(key)] {
                let reference = FrameHeader {
                    opcode: OpCode::from(opcode as u8),
                    mask,
                    ..FrameHeader::default()
                };
                let mut expected = Vec::new();
                reference.format(length as u64, &mut expected).unwrap();
                let mut out = Vec::new();
                match mask {
                    None => encode_header(&mut out, opcode, length),
                    Some(key) => encode_masked(&mut out, opcode, true, &vec![0; length], key),
                }
                prop_assert_eq!(&out[..expected.len()], &expected[..]);
                let role = if mask.is_some() { Role::Server } else { Role::Client };
                let header = parse_header(&out, role).unwrap().unwrap();
                prop_assert_eq!(usize::from(header.header_bytes), expected.len());
            }
        }
    }
}
