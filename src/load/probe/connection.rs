//! A WebSocket connection as a client sees it: frames out as they are told, right or wrong;
//! messages in, read by the strict decoder of [`crate::wire`].

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use super::stream::{Lost, Stream};
use crate::wire::close::CloseCode;
use crate::wire::frame::{Opcode, encode_masked};
use crate::wire::message::{Carry, Event, Flow, Kind, Rules, decode};
use crate::wire::{Role, WireError};

/// How long a connection that a test is done with may take to end in order.
const LEAVE: Duration = Duration::from_millis(250);

/// How much is read at once, in bytes.
const READ_BYTES: usize = 16 * 1024;

/// Something that the server sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Received {
    Message(Kind, Vec<u8>),
    /// Answered already.
    Ping,
    Pong(Vec<u8>),
    /// Answered already, if it was not the answer. Nothing follows.
    Close(Option<u16>, String),
}

/// An open connection.
#[derive(Debug)]
pub(super) struct Connection {
    stream: Stream,
    carry: Carry,
    rules: Rules,
    inbox: VecDeque<Received>,
    /// What the server did wrong after the last of `inbox`.
    broken: Option<WireError>,
    buffer: Vec<u8>,
    /// Whether a close frame has come: nothing after it is looked at.
    closed: bool,
    close_sent: bool,
}

impl Connection {
    /// Goes on behind a handshake; `rest` came with its answer.
    pub(super) fn new(stream: Stream, mut rest: Vec<u8>, message_bytes: usize) -> Self {
        let mut connection = Self {
            stream,
            carry: None,
            rules: Rules {
                role: Role::Client,
                message_bytes,
                fragments: u32::MAX,
            },
            inbox: VecDeque::new(),
            broken: None,
            buffer: vec![0; READ_BYTES],
            closed: false,
            close_sent: false,
        };
        connection.take(&mut rest);
        connection
    }

    /// How long one step may take.
    pub(super) const fn timeout(&self) -> Duration {
        self.stream.timeout()
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// What came instead: the server's close frame, if there is one to explain it.
    pub(super) fn send_raw(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.stream.begin();
        let sent = self.stream.write_all(bytes);
        sent.and_then(|()| self.stream.flush()).map_err(|error| {
            let why = match Lost::from_io(error, self.timeout()) {
                Lost::Silent(waited) => format!("the server took nothing more for {waited:?}"),
                lost => lost.to_string(),
            };
            // Why the server takes nothing more may already be here.
            let deadline = Instant::now() + LEAVE;
            while let Ok(received) = self.receive_until(deadline) {
                if let Received::Close(code, reason) = received {
                    return format!("{} while it was sent to", closed(code, &reason));
                }
            }
            format!("cannot send: {why}")
        })
    }

    /// Sends a frame, masked with a random key.
    pub(super) fn send(&mut self, opcode: Opcode, fin: bool, payload: &[u8]) -> Result<(), String> {
        let mut bytes = Vec::new();
        encode_masked(&mut bytes, opcode, fin, payload, random_key());
        self.send_raw(&bytes)
    }

    /// Sends a whole message.
    pub(super) fn send_message(&mut self, kind: Kind, payload: &[u8]) -> Result<(), String> {
        self.send(opcode(kind), true, payload)
    }

    /// Sends a close frame, once.
    pub(super) fn send_close(&mut self, code: u16, reason: &str) -> Result<(), String> {
        let mut payload = code.to_be_bytes().to_vec();
        payload.extend_from_slice(reason.as_bytes());
        self.close_sent = true;
        self.send(Opcode::Close, true, &payload)
    }

    /// The next thing that the server sends until then.
    pub(super) fn receive_until(&mut self, deadline: Instant) -> Result<Received, Lost> {
        let begin = Instant::now();
        loop {
            if let Some(received) = self.inbox.pop_front() {
                return Ok(received);
            }
            if let Some(error) = self.broken {
                return Err(Lost::Broken(error));
            }
            self.stream.set_deadline(deadline);
            let mut buffer = std::mem::take(&mut self.buffer);
            let result = self.stream.read(&mut buffer);
            if let Ok(count) = result {
                self.take(&mut buffer[..count]);
            }
            self.buffer = buffer;
            match result {
                Ok(0) => return Err(Lost::Ended),
                Ok(_) => {}
                Err(error) => {
                    let waited = deadline.saturating_duration_since(begin);
                    return Err(Lost::from_io(error, waited));
                }
            }
        }
    }

    /// Reads received bytes into `inbox`, and answers what has to be answered.
    fn take(&mut self, bytes: &mut [u8]) {
        if self.closed || self.broken.is_some() {
            return;
        }
        let inbox = &mut self.inbox;
        let mut answers = Vec::new();
        let (closed, close_sent) = (&mut self.closed, &mut self.close_sent);
        let result = decode(&mut self.carry, bytes, &self.rules, &mut |event| {
            inbox.push_back(match event {
                Event::Message { kind, payload } => Received::Message(kind, payload.to_vec()),
                Event::Pong(payload) => Received::Pong(payload.to_vec()),
                Event::Ping(payload) => {
                    if !*close_sent {
                        encode_masked(&mut answers, Opcode::Pong, true, payload, random_key());
                    }
                    Received::Ping
                }
                Event::Close { code, reason } => {
                    *closed = true;
                    if !*close_sent {
                        *close_sent = true;
                        let code = code.map(u16::to_be_bytes);
                        let payload = code.as_ref().map_or(&[][..], |code| &code[..]);
                        encode_masked(&mut answers, Opcode::Close, true, payload, random_key());
                    }
                    Received::Close(code, reason.to_owned())
                }
            });
            Flow::Continue
        });
        self.broken = result.err();
        if !answers.is_empty() {
            self.stream.begin();
            // When that fails, so will whatever comes next.
            let _ = self
                .stream
                .write_all(&answers)
                .and_then(|()| self.stream.flush());
        }
    }

    /// Waits until the server has closed the TCP connection, and returns how it did: without a word,
    /// or by a reset. Whatever it still sends is not looked at.
    ///
    /// # Errors
    /// It is still open when the timeout is over.
    pub(super) fn wait_end(&mut self) -> Result<Lost, Lost> {
        let deadline = Instant::now() + self.timeout();
        self.closed = true;
        loop {
            self.inbox.clear();
            self.broken = None;
            match self.receive_until(deadline) {
                Ok(_) => {}
                Err(silent @ Lost::Silent(_)) => return Err(silent),
                Err(end) => return Ok(end),
            }
        }
    }

    /// The next message, which must be this one. Pings and pongs before it do not matter.
    ///
    /// # Errors
    /// What came instead.
    pub(super) fn expect(&mut self, kind: Kind, payload: &[u8]) -> Result<(), String> {
        let (got, got_payload) = self.message()?;
        match difference((kind, payload), (got, &got_payload)) {
            None => Ok(()),
            Some(difference) => Err(difference),
        }
    }

    /// The next message. Pings and pongs before it do not matter.
    ///
    /// # Errors
    /// What came instead.
    pub(super) fn message(&mut self) -> Result<(Kind, Vec<u8>), String> {
        let deadline = Instant::now() + self.timeout();
        loop {
            match self.receive_until(deadline) {
                Ok(Received::Message(kind, payload)) => return Ok((kind, payload)),
                Ok(Received::Ping | Received::Pong(_)) => {}
                Ok(Received::Close(code, reason)) => return Err(closed(code, &reason)),
                Err(lost) => return Err(lost.to_string()),
            }
        }
    }

    /// Sends a message and expects it back; returns how long that took.
    ///
    /// # Errors
    /// What came instead.
    pub(super) fn echo(&mut self, kind: Kind, payload: &[u8]) -> Result<Duration, String> {
        let begin = Instant::now();
        self.send_message(kind, payload)?;
        self.expect(kind, payload)?;
        Ok(begin.elapsed())
    }

    /// Sends a ping and expects its pong; returns how long that took. Messages do not matter.
    ///
    /// # Errors
    /// What came instead.
    pub(super) fn ping(&mut self, payload: &[u8]) -> Result<Duration, String> {
        let begin = Instant::now();
        self.send(Opcode::Ping, true, payload)?;
        let pong = self.pong()?;
        if pong != payload {
            return Err(format!(
                "the pong's payload is {} instead of {}",
                show(Kind::Binary, &pong),
                show(Kind::Binary, payload)
            ));
        }
        Ok(begin.elapsed())
    }

    /// The next pong. Messages and pings before it do not matter.
    ///
    /// # Errors
    /// What came instead.
    fn pong(&mut self) -> Result<Vec<u8>, String> {
        let deadline = Instant::now() + self.timeout();
        loop {
            match self.receive_until(deadline) {
                Ok(Received::Pong(payload)) => return Ok(payload),
                Ok(Received::Message(..) | Received::Ping) => {}
                Ok(Received::Close(code, reason)) => return Err(closed(code, &reason)),
                Err(Lost::Silent(waited)) => return Err(format!("no pong came within {waited:?}")),
                Err(lost) => return Err(lost.to_string()),
            }
        }
    }

    /// Ends the connection as a good client does. What the server makes of it is not this test's.
    pub(super) fn leave(self) {
        self.leave_until(Instant::now() + LEAVE);
    }

    fn leave_until(mut self, deadline: Instant) {
        if !self.close_sent {
            let _ = self.send_close(CloseCode::NORMAL.get(), "");
        }
        self.stream.finish(deadline);
    }

    /// Ends many connections in no more time than one.
    pub(super) fn leave_all(mut connections: Vec<Self>) {
        for connection in &mut connections {
            let _ = connection.send_close(CloseCode::NORMAL.get(), "");
        }
        let deadline = Instant::now() + LEAVE;
        for connection in connections {
            connection.leave_until(deadline);
        }
    }

    /// Ends the connection with a TCP reset.
    pub(super) fn reset(self) -> Result<(), String> {
        self.stream.reset().map_err(|error| error.to_string())
    }
}

const fn opcode(kind: Kind) -> Opcode {
    match kind {
        Kind::Text => Opcode::Text,
        Kind::Binary => Opcode::Binary,
    }
}

const fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "text",
        Kind::Binary => "binary",
    }
}

/// RFC 6455 section 5.3: unpredictable, and another one for each frame. A system without random
/// numbers gets a fixed key: masking protects proxies from pages in browsers, and here is none.
pub(super) fn random_key() -> [u8; 4] {
    let mut key = [0x5a, 0xc3, 0x96, 0x0f];
    let _ = getrandom::fill(&mut key);
    key
}

/// How the server's close frame reads in a report.
pub(super) fn closed(code: Option<u16>, reason: &str) -> String {
    let mut text = match code {
        Some(code) => format!("the server closed with {code}"),
        None => "the server closed without a code".into(),
    };
    if !reason.is_empty() {
        let _ = write!(text, " ({reason})");
    }
    text
}

/// A payload in a report: all of a short one, the beginning of a long one.
pub(super) fn show(kind: Kind, payload: &[u8]) -> String {
    const SHOWN_BYTES: usize = 48;
    let more = payload.len().saturating_sub(SHOWN_BYTES);
    let start = &payload[..payload.len() - more];
    let mut text = match (kind, payload) {
        (_, []) => return "nothing".into(),
        (Kind::Text, _) => format!("{:?}", String::from_utf8_lossy(start)),
        (Kind::Binary, _) if start.iter().all(|byte| matches!(byte, b' '..=b'~')) => {
            format!("{:?}", String::from_utf8_lossy(start))
        }
        (Kind::Binary, _) => {
            let hex: String = start.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("0x{hex}")
        }
    };
    if more > 0 {
        let _ = write!(text, " and {more} bytes more");
    }
    text
}

/// What tells two messages apart; `None` when they are the same.
pub(super) fn difference(expected: (Kind, &[u8]), got: (Kind, &[u8])) -> Option<String> {
    if expected == got {
        return None;
    }
    let (kind, payload) = got;
    if expected.0 != kind {
        return Some(format!(
            "a {} message came back instead of a {} one: {}",
            kind_name(kind),
            kind_name(expected.0),
            show(kind, payload)
        ));
    }
    let expected = expected.1;
    let same = expected
        .iter()
        .zip(payload)
        .take_while(|(expected, got)| expected == got)
        .count();
    Some(match (expected.get(same), payload.get(same)) {
        (Some(wanted), Some(got)) if expected.len() == payload.len() => format!(
            "byte {same} of {} came back as 0x{got:02x} instead of 0x{wanted:02x}",
            payload.len()
        ),
        _ if expected.len() <= 48 => format!(
            "{} came back instead of {}",
            show(kind, payload),
            show(kind, expected)
        ),
        _ => format!(
            "{} bytes came back instead of {}, the first {same} of them right",
            payload.len(),
            expected.len()
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use Kind::{Binary, Text};

    #[test]
    fn differences() {
        assert_eq!(difference((Text, b"a"), (Text, b"a")), None);
        for (expected, got, text) in [
            (
                (Text, &b"abc"[..]),
                (Binary, &b"abc"[..]),
                "a binary message came back instead of a text one: \"abc\"",
            ),
            (
                (Binary, b"abc"),
                (Binary, b"axc"),
                "byte 1 of 3 came back as 0x78 instead of 0x62",
            ),
            (
                (Text, b"abc"),
                (Text, b""),
                "nothing came back instead of \"abc\"",
            ),
            (
                (Binary, &[0; 100]),
                (Binary, &[0; 70]),
                "70 bytes came back instead of 100, the first 70 of them right",
            ),
        ] {
            assert_eq!(difference(expected, got).as_deref(), Some(text));
        }
    }

    #[test]
    fn payloads_in_reports() {
        assert_eq!(show(Text, "é\n".as_bytes()), "\"é\\n\"");
        assert_eq!(show(Binary, &[0, 255]), "0x00ff");
        assert!(show(Text, &[b'x'; 50]).ends_with("x\" and 2 bytes more"));
        assert_eq!(
            closed(Some(1009), "too big"),
            "the server closed with 1009 (too big)"
        );
        assert_eq!(closed(None, ""), "the server closed without a code");
    }
}
