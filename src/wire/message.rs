//! From received bytes to messages (RFC 6455 sections 5.4 to 8.1), in the receive buffer itself.
//!
//! A frame that is complete in the input is unmasked there and handed out from there. What a read
//! leaves incomplete (half a header, part of a payload, the fragments of a message so far) moves
//! into a [`Partial`], whose box exists only as long: an idle connection keeps nothing.

use super::close::parse_close;
use super::frame::{Header, MAX_CONTROL_BYTES, MAX_HEADER_BYTES, Opcode, parse_header};
use super::{Role, WireError};
use crate::simd::{self, Utf8};

#[cfg(test)]
mod tests;

/// What a connection keeps between two reads: nothing, unless a frame or a message is incomplete.
pub type Carry = Option<Box<Partial>>;

/// Below this many received bytes of a message its buffer is taken up to four times too large,
/// but no larger than this; above, up to twice.
const EAGER_BYTES: usize = 64 * 1024;

/// What a connection's frames must keep to. The same for all reads of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Who reads: decides whether frames must be masked.
    pub role: Role,
    /// Largest message, in bytes. A header that exceeds it fails before its payload arrives.
    pub message_bytes: usize,
    /// Most frames that one message may consist of.
    pub fragments: u32,
}

/// What a message contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// UTF-8, checked.
    Text,
    /// Any bytes.
    Binary,
}

/// What the peer said. Payloads are unmasked; they live as long as the call of `on_event`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A whole message.
    Message {
        /// Text or binary.
        kind: Kind,
        /// The message; UTF-8 if `kind` is text.
        payload: &'a [u8],
    },
    /// To be answered with a pong of the same payload, at most 125 bytes.
    Ping(&'a [u8]),
    /// The peer lives; at most 125 bytes.
    Pong(&'a [u8]),
    /// To be answered with a close frame, unless one was already sent. Nothing follows.
    Close {
        /// The code, valid on the wire; `None` if the frame was empty.
        code: Option<u16>,
        /// The reason, at most 123 bytes.
        reason: &'a str,
    },
}

/// Whether the decoder goes on to the next frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Go on.
    Continue,
    /// Return; the caller comes back with the rest of the input.
    Stop,
}

/// The incomplete part of a connection's input: a frame, a message, or a control frame inside a
/// message.
#[derive(Debug, Default)]
pub struct Partial {
    /// A header's first bytes.
    header: [u8; MAX_HEADER_BYTES],
    /// How many of them there are; 0 outside a header.
    header_bytes: u8,
    /// The frame whose payload is incomplete.
    frame: Option<Incoming>,
    /// The message so far.
    message: Option<Assembly>,
    /// The unmasked payload so far of an incomplete control frame.
    control: Vec<u8>,
}

/// A frame whose header is read and whose payload is incomplete.
#[derive(Clone, Copy, Debug)]
struct Incoming {
    header: Header,
    received_bytes: u64,
}

impl Incoming {
    fn missing_bytes(&self) -> u64 {
        self.header.payload_bytes - self.received_bytes
    }
}

/// A message that is incomplete.
#[derive(Debug)]
struct Assembly {
    kind: Kind,
    payload: Vec<u8>,
    fragments: u32,
    utf8: Utf8,
}

impl Partial {
    /// How many bytes the current frame still misses; 0 between frames and inside a header. For
    /// the choice of a receive buffer: up to 2^63, as the peer declared it within the rules.
    #[must_use]
    pub fn remaining_hint(&self) -> usize {
        self.frame.map_or(0, |frame| {
            usize::try_from(frame.missing_bytes()).unwrap_or(usize::MAX)
        })
    }

    /// Memory held, in bytes, this box included.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        let message = self.message.as_ref();
        size_of::<Self>()
            + message.map_or(0, |message| message.payload.capacity())
            + self.control.capacity()
    }

    /// Takes a piece of the incomplete frame's payload.
    fn append(
        &mut self,
        mut frame: Incoming,
        piece: &[u8],
        rules: &Rules,
    ) -> Result<(), WireError> {
        let Header { opcode, key, .. } = frame.header;
        // The key repeats every four bytes.
        let offset = (frame.received_bytes % 4) as usize;
        frame.received_bytes += piece.len() as u64;
        self.frame = Some(frame);
        if opcode.is_control() {
            if self.control.is_empty() && !piece.is_empty() {
                self.control
                    .reserve_exact(frame.header.payload_bytes as usize);
            }
            copy(piece, &mut self.control, key, offset);
            return Ok(());
        }
        let message = self.message.get_or_insert_with(|| Assembly::new(opcode));
        let ceiling = if frame.header.fin {
            message.payload.len() + piece.len() + frame.missing_bytes() as usize
        } else {
            rules.message_bytes
        };
        message.append(piece, key, offset, ceiling)
    }
}

impl Assembly {
    fn new(opcode: Opcode) -> Self {
        Self {
            kind: kind(opcode),
            payload: Vec::new(),
            fragments: 0,
            utf8: Utf8::new(),
        }
    }

    /// Takes a piece of the message, which will have at most `ceiling` bytes.
    fn append(
        &mut self,
        piece: &[u8],
        key: Option<[u8; 4]>,
        offset: usize,
        ceiling: usize,
    ) -> Result<(), WireError> {
        grow(&mut self.payload, piece.len(), ceiling);
        let start = self.payload.len();
        copy(piece, &mut self.payload, key, offset);
        if self.kind == Kind::Text {
            let text = &self.payload[start..];
            self.utf8.push(text).map_err(|_| WireError::InvalidUtf8)?;
        }
        Ok(())
    }

    /// The message is complete.
    fn finish<F: FnMut(Event<'_>) -> Flow>(&self, on_event: &mut F) -> Result<Next, WireError> {
        self.utf8.finish().map_err(|_| WireError::InvalidUtf8)?;
        Ok(Next::after(on_event(Event::Message {
            kind: self.kind,
            payload: &self.payload,
        })))
    }
}

/// Makes room for `more` bytes: in proportion to what was received, so that a declared length
/// alone takes no memory, and geometrically, so that many fragments are not copied each time.
fn grow(buffer: &mut Vec<u8>, more: usize, ceiling: usize) {
    let needed = buffer.len() + more;
    if needed <= buffer.capacity() {
        return;
    }
    let eager = needed.saturating_mul(4).min(EAGER_BYTES);
    let capacity = eager.max(needed.saturating_mul(2)).min(ceiling).max(needed);
    buffer.reserve_exact(capacity - buffer.len());
}

#[inline]
fn copy(piece: &[u8], buffer: &mut Vec<u8>, key: Option<[u8; 4]>, offset: usize) {
    match key {
        Some(key) => simd::unmask_copy(piece, buffer, key, offset),
        None => buffer.extend_from_slice(piece),
    }
}

#[inline]
const fn kind(opcode: Opcode) -> Kind {
    match opcode {
        Opcode::Text => Kind::Text,
        _ => Kind::Binary,
    }
}

/// What follows an event.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Frame,
    Return,
    /// The peer has closed: whatever follows is not processed (section 5.5.1).
    Closed,
}

impl Next {
    #[inline]
    fn after(flow: Flow) -> Self {
        match flow {
            Flow::Continue => Self::Frame,
            Flow::Stop => Self::Return,
        }
    }
}

/// Reads frames from `input` and hands out what they say.
///
/// Complete frames are unmasked in `input` and handed out from there; what is incomplete moves
/// into `carry`. Returns how many bytes were consumed: all of them, unless `on_event` returned
/// [`Flow::Stop`]; then the caller calls again with the rest, which is untouched. What follows a
/// close frame counts as consumed and is dropped; the caller reads no more from the connection.
///
/// # Errors
/// The peer broke the protocol or a limit. `carry` is empty then, and the connection must fail
/// with [`WireError::close_code`]; events of earlier frames have been handed out.
pub fn decode<F: FnMut(Event<'_>) -> Flow>(
    carry: &mut Carry,
    input: &mut [u8],
    rules: &Rules,
    on_event: &mut F,
) -> Result<usize, WireError> {
    let mut consumed = 0;
    let mut header = None;
    if carry.is_some() {
        match resume(carry, input, rules, on_event) {
            Ok(Resumed::Input) => return Ok(input.len()),
            Ok(Resumed::Header(complete, bytes)) => {
                consumed = bytes;
                header = Some(complete);
            }
            Ok(Resumed::Next(Next::Frame, bytes)) => consumed = bytes,
            Ok(Resumed::Next(Next::Return, bytes)) => return Ok(bytes),
            Ok(Resumed::Next(Next::Closed, _)) => return Ok(input.len()),
            Err(error) => {
                *carry = None;
                return Err(error);
            }
        }
    }
    match frames(carry, input, consumed, header, rules, on_event) {
        Err(error) => {
            *carry = None;
            Err(error)
        }
        consumed => consumed,
    }
}

/// Frames from `consumed` on; `header` is already read if its first bytes came with an earlier
/// input.
#[inline]
fn frames<F: FnMut(Event<'_>) -> Flow>(
    carry: &mut Carry,
    input: &mut [u8],
    mut consumed: usize,
    mut header: Option<Header>,
    rules: &Rules,
    on_event: &mut F,
) -> Result<usize, WireError> {
    let total = input.len();
    loop {
        let header = match header.take() {
            Some(header) => header,
            None if consumed == total => return Ok(total),
            None => match parse_header(&input[consumed..], rules.role)? {
                Some(header) => {
                    admit(&header, carry, rules)?;
                    consumed += usize::from(header.header_bytes);
                    header
                }
                None => {
                    keep_header(carry, &input[consumed..]);
                    return Ok(total);
                }
            },
        };
        let rest = &mut input[consumed..];
        if header.payload_bytes > rest.len() as u64 {
            let frame = Incoming {
                header,
                received_bytes: 0,
            };
            keep_payload(carry, frame, rest, rules)?;
            return Ok(total);
        }
        let payload = &mut rest[..header.payload_bytes as usize];
        consumed += payload.len();
        let next = match header.opcode {
            Opcode::Text | Opcode::Binary if header.fin => {
                unmask(payload, header.key);
                whole(kind(header.opcode), payload, on_event)?
            }
            Opcode::Close | Opcode::Ping | Opcode::Pong => {
                unmask(payload, header.key);
                control(header.opcode, payload, on_event)?
            }
            _ => fragment(carry, &header, payload, rules, on_event)?,
        };
        match next {
            Next::Frame => {}
            Next::Return => return Ok(consumed),
            Next::Closed => return Ok(total),
        }
    }
}

#[inline]
fn unmask(payload: &mut [u8], key: Option<[u8; 4]>) {
    if let Some(key) = key {
        simd::unmask(payload, key, 0);
    }
}

/// A message of one frame, complete in the input.
#[inline]
fn whole<F: FnMut(Event<'_>) -> Flow>(
    kind: Kind,
    payload: &[u8],
    on_event: &mut F,
) -> Result<Next, WireError> {
    if kind == Kind::Text && !simd::is_utf8(payload) {
        return Err(WireError::InvalidUtf8);
    }
    Ok(Next::after(on_event(Event::Message { kind, payload })))
}

/// A complete control frame.
fn control<F: FnMut(Event<'_>) -> Flow>(
    opcode: Opcode,
    payload: &[u8],
    on_event: &mut F,
) -> Result<Next, WireError> {
    let event = match opcode {
        Opcode::Ping => Event::Ping(payload),
        Opcode::Pong => Event::Pong(payload),
        _ => {
            let (code, reason) = parse_close(payload)?;
            on_event(Event::Close { code, reason });
            return Ok(Next::Closed);
        }
    };
    Ok(Next::after(on_event(event)))
}

/// A complete fragment: the first, a middle or the last one of a message.
fn fragment<F: FnMut(Event<'_>) -> Flow>(
    carry: &mut Carry,
    header: &Header,
    payload: &[u8],
    rules: &Rules,
    on_event: &mut F,
) -> Result<Next, WireError> {
    let mut partial = carry.take().unwrap_or_default();
    let frame = Incoming {
        header: *header,
        received_bytes: 0,
    };
    partial.append(frame, payload, rules)?;
    frame_complete(carry, partial, on_event)
}

/// The frame in `partial` is complete.
fn frame_complete<F: FnMut(Event<'_>) -> Flow>(
    carry: &mut Carry,
    mut partial: Box<Partial>,
    on_event: &mut F,
) -> Result<Next, WireError> {
    let Some(Incoming { header, .. }) = partial.frame.take() else {
        *carry = Some(partial);
        return Ok(Next::Frame);
    };
    if header.opcode.is_control() {
        let payload = std::mem::take(&mut partial.control);
        if partial.message.is_some() {
            *carry = Some(partial);
        }
        return control(header.opcode, &payload, on_event);
    }
    match &mut partial.message {
        // Nothing else can be incomplete: the box goes with the message.
        Some(message) if header.fin => message.finish(on_event),
        Some(message) => {
            message.fragments += 1;
            *carry = Some(partial);
            Ok(Next::Frame)
        }
        None => Ok(Next::Frame),
    }
}

/// Whether a frame with this header may follow what came before it, and keeps to the limits.
#[inline]
fn admit(header: &Header, carry: &Carry, rules: &Rules) -> Result<(), WireError> {
    if header.opcode.is_control() {
        return Ok(());
    }
    let message = carry
        .as_deref()
        .and_then(|partial| partial.message.as_ref());
    let so_far = match (header.opcode, message) {
        (Opcode::Continuation, Some(message)) => {
            if message.fragments >= rules.fragments {
                let limit = rules.fragments;
                return Err(WireError::TooManyFragments { limit });
            }
            message.payload.len()
        }
        (Opcode::Continuation, None) => return Err(WireError::NothingToContinue),
        (_, Some(_)) => return Err(WireError::MessageIncomplete),
        (_, None) => 0,
    };
    if header.payload_bytes > rules.message_bytes.saturating_sub(so_far) as u64 {
        let limit = rules.message_bytes;
        return Err(WireError::MessageTooBig { limit });
    }
    Ok(())
}

#[cold]
fn keep_header(carry: &mut Carry, bytes: &[u8]) {
    let partial = carry.get_or_insert_default();
    partial.header[..bytes.len()].copy_from_slice(bytes);
    partial.header_bytes = bytes.len() as u8;
}

#[cold]
fn keep_payload(
    carry: &mut Carry,
    frame: Incoming,
    piece: &[u8],
    rules: &Rules,
) -> Result<(), WireError> {
    carry.get_or_insert_default().append(frame, piece, rules)
}

/// What the start of an input did to the carry.
enum Resumed {
    /// All of the input went into the carry.
    Input,
    /// The header is complete; its last bytes were the first ones of the input.
    Header(Header, usize),
    /// So many bytes of the input are consumed, and the frame they belonged to is done.
    Next(Next, usize),
}

/// Completes what the last input left incomplete, as far as `input` goes.
fn resume<F: FnMut(Event<'_>) -> Flow>(
    carry: &mut Carry,
    input: &[u8],
    rules: &Rules,
    on_event: &mut F,
) -> Result<Resumed, WireError> {
    let Some(mut partial) = carry.take() else {
        return Ok(Resumed::Next(Next::Frame, 0));
    };
    if let Some(frame) = partial.frame {
        let piece = frame.missing_bytes().min(input.len() as u64) as usize;
        partial.append(frame, &input[..piece], rules)?;
        if frame.missing_bytes() > piece as u64 {
            *carry = Some(partial);
            return Ok(Resumed::Input);
        }
        let next = frame_complete(carry, partial, on_event)?;
        return Ok(Resumed::Next(next, piece));
    }
    if partial.header_bytes > 0 {
        let had = usize::from(partial.header_bytes);
        let take = input.len().min(MAX_HEADER_BYTES - had);
        let bytes = &mut partial.header[..had + take];
        bytes[had..].copy_from_slice(&input[..take]);
        let Some(header) = parse_header(bytes, rules.role)? else {
            // A header is complete within its largest length, so all of the input fitted.
            partial.header_bytes += take as u8;
            *carry = Some(partial);
            return Ok(Resumed::Input);
        };
        partial.header_bytes = 0;
        if partial.message.is_some() {
            *carry = Some(partial);
        }
        admit(&header, carry, rules)?;
        // What was kept was incomplete, so the header ends inside the input.
        let taken = usize::from(header.header_bytes) - had;
        return Ok(Resumed::Header(header, taken));
    }
    // Between two fragments.
    *carry = Some(partial);
    Ok(Resumed::Next(Next::Frame, 0))
}

const _: () = assert!(MAX_CONTROL_BYTES < 126 && size_of::<Carry>() == size_of::<usize>());
