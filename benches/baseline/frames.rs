//! Frames of a client (RFC 6455 section 5.2), read and turned into the server's in place.

/// The largest payload that a baseline takes; larger frames end the connection.
pub(crate) const PAYLOAD_MAX: usize = 1 << 20;
/// Opcode of a connection close frame.
pub(crate) const CLOSE: u8 = 0x8;
/// Opcode of a ping frame.
pub(crate) const PING: u8 = 0x9;
/// Opcode of a pong frame.
pub(crate) const PONG: u8 = 0xa;

/// A complete frame at the start of a buffer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    /// The first byte: FIN, reserved bits, opcode.
    pub(crate) first: u8,
    /// Where the payload starts, in bytes from the start of the frame.
    pub(crate) payload_at: usize,
    /// Length of the payload, in bytes.
    pub(crate) payload_len: usize,
    /// The masking key.
    pub(crate) mask: [u8; 4],
}

impl Frame {
    /// The opcode.
    pub(crate) fn opcode(&self) -> u8 {
        self.first & 0x0f
    }

    /// Header and payload together, in bytes.
    pub(crate) fn len(&self) -> usize {
        self.payload_at + self.payload_len
    }
}

/// Reads the frame at the start of `input`: `Ok(None)` while it is incomplete.
///
/// # Errors
/// When the frame is not masked or larger than [`PAYLOAD_MAX`].
pub(crate) fn read(input: &[u8]) -> Result<Option<Frame>, &'static str> {
    let [first, second, rest @ ..] = input else {
        return Ok(None);
    };
    if second & 0x80 == 0 {
        return Err("unmasked frame");
    }
    let (payload_len, extended) = match second & 0x7f {
        126 => match rest.first_chunk::<2>() {
            Some(bytes) => (usize::from(u16::from_be_bytes(*bytes)), 2),
            None => return Ok(None),
        },
        127 => match rest.first_chunk::<8>() {
            Some(bytes) => (
                usize::try_from(u64::from_be_bytes(*bytes)).unwrap_or(usize::MAX),
                8,
            ),
            None => return Ok(None),
        },
        short => (usize::from(short), 0),
    };
    if payload_len > PAYLOAD_MAX {
        return Err("frame too big");
    }
    let payload_at = 2 + extended + 4;
    if input.len() < payload_at + payload_len {
        return Ok(None);
    }
    let Some(&mask) = rest.get(extended..).and_then(|key| key.first_chunk::<4>()) else {
        return Ok(None);
    };
    Ok(Some(Frame {
        first: *first,
        payload_at,
        payload_len,
        mask,
    }))
}

/// Unmasks `payload` (RFC 6455 section 5.3), 32 bytes at a time: the compiler makes SIMD of it.
pub(crate) fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let key = u32::from_ne_bytes(mask);
    let (blocks, rest) = payload.as_chunks_mut::<32>();
    for block in blocks {
        let (words, _) = block.as_chunks_mut::<4>();
        for word in words {
            *word = (u32::from_ne_bytes(*word) ^ key).to_ne_bytes();
        }
    }
    let (words, tail) = rest.as_chunks_mut::<4>();
    for word in words {
        *word = (u32::from_ne_bytes(*word) ^ key).to_ne_bytes();
    }
    for (byte, key) in tail.iter_mut().zip(mask) {
        *byte ^= key;
    }
}

/// Length of a server's frame header for a payload of `payload_len` bytes.
pub(crate) fn header_len(payload_len: usize) -> usize {
    match payload_len {
        0..=125 => 2,
        126..=0xffff => 4,
        _ => 10,
    }
}

/// Writes a server's frame header; `header` is exactly [`header_len`] bytes long.
pub(crate) fn write_header(header: &mut [u8], first: u8, payload_len: usize) {
    header[0] = first;
    match header.len() {
        2 => header[1] = payload_len as u8,
        4 => {
            header[1] = 126;
            header[2..].copy_from_slice(&(payload_len as u16).to_be_bytes());
        }
        _ => {
            header[1] = 127;
            header[2..].copy_from_slice(&(payload_len as u64).to_be_bytes());
        }
    }
}
