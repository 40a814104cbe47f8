//! The HTTP/1.1 around a handshake: reading a response head, and judging an upgrade by RFC 6455
//! section 4.1.
//!
//! [`crate::wire::client`] judges as well, and says only that something is wrong; here every single
//! thing is named.

use std::io::Read;

use super::stream::{Lost, Stream};
use crate::wire::client::MAX_RESPONSE_BYTES;
use crate::wire::upgrade::AcceptKey;

/// Most header lines that are read of a response.
const MAX_LINES: usize = 128;

/// A response without its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) status: u16,
    /// As the server wrote it; may be empty.
    phrase: String,
    headers: Vec<(String, String)>,
}

impl Head {
    /// The values of all headers with this name, in order.
    fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.headers
            .iter()
            .filter(move |(own, _)| own.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// Whether a comma-separated list has this element, in any case.
    fn lists(&self, name: &str, element: &str) -> bool {
        self.values(name)
            .flat_map(|value| value.split(','))
            .any(|other| other.trim().eq_ignore_ascii_case(element))
    }

    /// `404 Not Found`.
    pub(super) fn status_line(&self) -> String {
        format!("{} {}", self.status, self.phrase).trim_end().into()
    }
}

/// Reads a response head, and returns it with the bytes that came behind it.
pub(super) fn read_head(stream: &mut Stream) -> Result<(Head, Vec<u8>), String> {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let count = match stream.read(&mut piece) {
            Ok(0) if bytes.is_empty() => return Err("the server closed without an answer".into()),
            Ok(0) => return Err("the server closed within its answer".into()),
            Ok(count) => count,
            Err(error) => {
                return Err(format!(
                    "no answer: {}",
                    Lost::from_io(error, stream.timeout())
                ));
            }
        };
        bytes.extend_from_slice(&piece[..count]);
        if let Some((head, consumed)) = parse_head(&bytes)? {
            return Ok((head, bytes.split_off(consumed)));
        }
        if bytes.len() > MAX_RESPONSE_BYTES {
            return Err(format!(
                "the response head has more than {MAX_RESPONSE_BYTES} bytes"
            ));
        }
    }
}

/// The head at the start of `bytes` and its length; `None` while it is incomplete.
fn parse_head(bytes: &[u8]) -> Result<Option<(Head, usize)>, String> {
    let mut lines = [httparse::EMPTY_HEADER; MAX_LINES];
    let mut response = httparse::Response::new(&mut lines);
    let consumed = match response.parse(bytes) {
        Ok(httparse::Status::Complete(consumed)) => consumed,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => {
            let start = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
            return Err(format!(
                "the answer is no HTTP/1.1 response ({error}): {start:?}"
            ));
        }
    };
    let head = Head {
        status: response.code.unwrap_or_default(),
        phrase: response.reason.unwrap_or_default().into(),
        headers: response
            .headers
            .iter()
            .map(|line| {
                let value = String::from_utf8_lossy(line.value);
                (line.name.to_owned(), value.trim().to_owned())
            })
            .collect(),
    };
    Ok(Some((head, consumed)))
}

/// Judges the answer to an upgrade; returns the subprotocol that was chosen, if any.
///
/// # Errors
/// All that is wrong with it, in sentences without an end.
pub(super) fn judge(
    head: &Head,
    expected: &AcceptKey,
    offered: &[String],
) -> Result<Option<String>, String> {
    if head.status != 101 {
        let mut text = format!("the server answered {} instead of 101", head.status_line());
        if let Some(location) = head.values("Location").next() {
            text += &format!(" (Location: {location})");
        }
        return Err(text);
    }
    let mut problems = Vec::new();
    if !head.lists("Upgrade", "websocket") {
        problems.push(found(head, "Upgrade", "is not websocket"));
    }
    if !head.lists("Connection", "upgrade") {
        problems.push(found(head, "Connection", "does not name upgrade"));
    }
    let expected = String::from_utf8_lossy(expected.as_bytes());
    let accepts: Vec<&str> = head.values("Sec-WebSocket-Accept").collect();
    if accepts != [&*expected] {
        let what = format!("is not {expected:?}, which belongs to the key");
        problems.push(found(head, "Sec-WebSocket-Accept", &what));
    }
    // None was offered.
    if head.values("Sec-WebSocket-Extensions").next().is_some() {
        problems.push(found(
            head,
            "Sec-WebSocket-Extensions",
            "names an extension, and none was offered",
        ));
    }
    let chosen: Vec<&str> = head.values("Sec-WebSocket-Protocol").collect();
    match *chosen {
        [] => {}
        [one] if offered.iter().any(|offer| offer == one) => {}
        _ => problems.push(found(
            head,
            "Sec-WebSocket-Protocol",
            "is not one subprotocol of those that were offered",
        )),
    }
    if problems.is_empty() {
        Ok(chosen.first().map(ToString::to_string))
    } else {
        Err(problems.join("; "))
    }
}

fn found(head: &Head, name: &str, what: &str) -> String {
    let values: Vec<&str> = head.values(name).collect();
    if values.is_empty() {
        format!("the answer has no {name} header")
    } else {
        format!("the header {name}: {} {what}", values.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\n\
        Connection: keep-alive, Upgrade\r\n\
        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

    fn judged(text: &str, offered: &[&str]) -> Result<Option<String>, String> {
        let expected = AcceptKey::derive(b"dGhlIHNhbXBsZSBub25jZQ==");
        let (head, consumed) = parse_head(text.as_bytes()).unwrap().unwrap();
        assert_eq!(consumed, text.len());
        let offered: Vec<String> = offered.iter().map(ToString::to_string).collect();
        judge(&head, &expected, &offered)
    }

    fn changed(from: &str, to: &str) -> String {
        assert!(GOOD.contains(from));
        judged(&GOOD.replace(from, to), &[]).unwrap_err()
    }

    #[test]
    fn a_proper_upgrade() {
        assert_eq!(judged(GOOD, &[]), Ok(None));
        // A server that knows none of them may choose none.
        assert_eq!(judged(GOOD, &["a", "b"]), Ok(None));
        let chosen = GOOD.replace("Upgrade: W", "Sec-WebSocket-Protocol: b\r\nUpgrade: W");
        assert_eq!(judged(&chosen, &["a", "b"]), Ok(Some("b".into())));
    }

    #[test]
    fn every_single_fault_is_named() {
        for (from, to, expected) in [
            (
                "101 Switching Protocols",
                "403 Forbidden",
                "403 Forbidden instead of 101",
            ),
            (
                "101 Switching Protocols",
                "200",
                "answered 200 instead of 101",
            ),
            ("WebSocket", "h2c", "Upgrade: h2c is not websocket"),
            ("Upgrade: WebSocket\r\n", "", "has no Upgrade header"),
            ("keep-alive, Upgrade", "keep-alive", "does not name upgrade"),
            ("s3pP", "S3pP", "is not \"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\""),
            (
                "Upgrade: W",
                "Sec-WebSocket-Extensions: permessage-deflate\r\nUpgrade: W",
                "Sec-WebSocket-Extensions: permessage-deflate names an extension",
            ),
            (
                "Upgrade: W",
                "Sec-WebSocket-Protocol: chat\r\nUpgrade: W",
                "Sec-WebSocket-Protocol: chat is not one",
            ),
        ] {
            let text = changed(from, to);
            assert!(text.contains(expected), "{text}");
        }
        let moved = "HTTP/1.1 301 Moved Permanently\r\nLocation: wss://b/\r\n\r\n";
        assert!(
            judged(moved, &[])
                .unwrap_err()
                .ends_with("(Location: wss://b/)")
        );
        let both = changed(
            "Upgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n",
            "",
        );
        assert!(both.contains("no Upgrade header; ") && both.contains("no Connection header"));
        let twice = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
        assert!(changed(twice, &twice.repeat(2)).contains("Sec-WebSocket-Accept"));
    }

    #[test]
    fn what_is_no_http_is_shown() {
        assert_eq!(parse_head(b"HTTP/1.1 101"), Ok(None));
        let error = parse_head(b"SSH-2.0-OpenSSH_9.2\r\n").unwrap_err();
        assert!(error.contains("SSH-2.0"), "{error}");
    }
}
