//! A connection as plain bytes: for what no WebSocket library would send.

use crate::engine::Engine;
use socket2::SockRef;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

/// A masking key that changes the payload.
const KEY: [u8; 4] = [0xa5, 0x3c, 0x0f, 0x96];

/// A valid upgrade of `path`.
pub(crate) fn upgrade(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEA==\r\n\r\n"
    )
}

/// A client's frame header, its length in the fewest bytes.
pub(crate) fn header(first: u8, payload_bytes: u64) -> Vec<u8> {
    let mut header = vec![first];
    match payload_bytes {
        0..126 => header.push(0x80 | payload_bytes as u8),
        126..0x1_0000 => {
            header.push(0x80 | 126);
            header.extend((payload_bytes as u16).to_be_bytes());
        }
        _ => {
            header.push(0x80 | 127);
            header.extend(payload_bytes.to_be_bytes());
        }
    }
    header.extend(KEY);
    header
}

/// A client's frame.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = header(first, payload.len() as u64);
    let masked = payload
        .iter()
        .zip(KEY.iter().cycle())
        .map(|(byte, key)| byte ^ key);
    frame.extend(masked);
    frame
}

/// A client's text message in one frame.
pub(crate) fn text(payload: &str) -> Vec<u8> {
    frame(0x81, payload.as_bytes())
}

/// Ends a connection with a reset instead of an orderly end.
pub(crate) fn reset(stream: TcpStream) {
    SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(stream);
}

/// An upgraded connection.
pub(crate) struct Raw {
    pub(crate) stream: TcpStream,
}

impl Raw {
    /// Upgrades at `path`.
    pub(crate) fn open(engine: &Engine, path: &str) -> Self {
        let mut stream = engine.connect();
        stream.write_all(upgrade(path).as_bytes()).unwrap();
        let head = read_head(&mut stream);
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        Self { stream }
    }

    /// Sends bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.stream
            .write_all(bytes)
            .expect("the connection is open");
    }

    /// The next frame: its first byte and its payload. `None` when the stream is over, in whatever
    /// way.
    ///
    /// # Panics
    /// When nothing comes, or the server masks, or uses more bytes for a length than it must.
    pub(crate) fn read_frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut start = [0; 2];
        if !self.read_or_end(&mut start) {
            return None;
        }
        let [first, length] = start;
        let payload_bytes = match length {
            0..126 => u64::from(length),
            126 => {
                let mut bytes = [0; 2];
                self.stream.read_exact(&mut bytes).unwrap();
                u64::from(u16::from_be_bytes(bytes))
            }
            127 => {
                let mut bytes = [0; 8];
                self.stream.read_exact(&mut bytes).unwrap();
                u64::from_be_bytes(bytes)
            }
            _ => panic!("the server masks its frames"),
        };
        let mut payload = vec![0; payload_bytes as usize];
        self.stream.read_exact(&mut payload).unwrap();
        Some((first, payload))
    }

    /// The next frame, which must be a whole text message.
    pub(crate) fn read_text(&mut self) -> String {
        match self.read_frame() {
            Some((0x81, payload)) => String::from_utf8(payload).expect("UTF-8"),
            other => panic!("expected a text message, got {other:?}"),
        }
    }

    /// Reads to the end of the stream: the code of the close frame, which must be the last frame
    /// if there is one.
    pub(crate) fn close_code(&mut self) -> Option<u16> {
        let mut code = None;
        while let Some((first, payload)) = self.read_frame() {
            assert_eq!(code, None, "a frame after the close frame");
            if first == 0x88 {
                code = Some(match payload[..] {
                    [high, low, ..] => u16::from_be_bytes([high, low]),
                    _ => 1005,
                });
            }
        }
        code
    }

    fn read_or_end(&mut self, bytes: &mut [u8]) -> bool {
        match self.stream.read_exact(bytes) {
            Ok(()) => true,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("the server neither answers nor closes")
            }
            Err(_) => false,
        }
    }
}

/// Reads the head of an HTTP response, and not a byte more.
pub(crate) fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).expect("an answer");
        head.push(byte[0]);
    }
    String::from_utf8(head).expect("ASCII")
}

/// Reads until the server closes; `None` when it ended with a reset instead.
pub(crate) fn read_to_end(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => Some(bytes),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => None,
        Err(error) => panic!("the server does not close: {error}"),
    }
}
