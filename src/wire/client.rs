//! The client's side of the handshake (RFC 6455 section 4.1), for the load generator and tests.

use super::upgrade::{AcceptKey, MAX_LINES, is_token};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Longest response head that is read, in bytes.
pub const MAX_RESPONSE_BYTES: usize = 16 * 1024;

/// Appends a handshake request and returns the answer to its key, for [`parse_response`].
///
/// `host` is the authority (`example.org:9000`), `path` the target with its query, `key` 16 random
/// bytes, `subprotocols` a comma-separated list. `extra_headers` are names and values as they go
/// on the wire, without line breaks.
pub fn write_request(
    out: &mut Vec<u8>,
    host: &str,
    path: &str,
    key: &[u8; 16],
    subprotocols: Option<&str>,
    extra_headers: &[(&str, &str)],
) -> AcceptKey {
    let key = STANDARD.encode(key);
    let mut put = |parts: &[&str]| {
        for part in parts {
            debug_assert!(part.ends_with("\r\n") || !part.contains(['\r', '\n']));
            out.extend_from_slice(part.as_bytes());
        }
    };
    put(&["GET ", path, " HTTP/1.1\r\n"]);
    put(&["Host: ", host, "\r\n"]);
    put(&["Upgrade: websocket\r\n"]);
    put(&["Connection: Upgrade\r\n"]);
    put(&["Sec-WebSocket-Version: 13\r\n"]);
    put(&["Sec-WebSocket-Key: ", &key, "\r\n"]);
    if let Some(subprotocols) = subprotocols {
        put(&["Sec-WebSocket-Protocol: ", subprotocols, "\r\n"]);
    }
    for (name, value) in extra_headers {
        put(&[name, ": ", value, "\r\n"]);
    }
    put(&["\r\n"]);
    AcceptKey::derive(key.as_bytes())
}

/// A handshake that the server accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted<'a> {
    /// Length of the response head; frames may follow it.
    pub consumed: usize,
    /// The subprotocol that the server chose. The caller checks that it was offered.
    pub subprotocol: Option<&'a str>,
}

/// Why a handshake failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResponseError {
    /// The response is not HTTP/1.1.
    #[error("the answer is not an HTTP/1.1 response: {0}")]
    Malformed(httparse::Error),
    /// The response head exceeds [`MAX_RESPONSE_BYTES`].
    #[error("the response head exceeds {MAX_RESPONSE_BYTES} bytes")]
    TooLong,
    /// The server answered with another status than 101.
    #[error("the server answered {0} instead of 101 (Switching Protocols)")]
    Status(u16),
    /// A header that RFC 6455 section 4.1 wants is missing, repeated or wrong.
    #[error("the server's {0} header is missing, repeated or wrong")]
    Header(&'static str),
}

/// Reads the response at the start of `bytes`; `None` while it is incomplete.
///
/// # Errors
/// The server did not accept, or broke RFC 6455 section 4.1: close the connection.
pub fn parse_response<'a>(
    bytes: &'a [u8],
    expected: &AcceptKey,
) -> Result<Option<Accepted<'a>>, ResponseError> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_LINES / 4];
    let mut response = httparse::Response::new(&mut headers);
    let window = &bytes[..bytes.len().min(MAX_RESPONSE_BYTES)];
    let status = response.parse(window).map_err(ResponseError::Malformed)?;
    // The status line may be there long before the rest.
    match response.code {
        Some(101) | None => {}
        Some(code) => return Err(ResponseError::Status(code)),
    }
    let consumed = match status {
        httparse::Status::Complete(consumed) => consumed,
        httparse::Status::Partial if bytes.len() < MAX_RESPONSE_BYTES => return Ok(None),
        httparse::Status::Partial => return Err(ResponseError::TooLong),
    };
    if response.version != Some(1) {
        return Err(ResponseError::Malformed(httparse::Error::Version));
    }
    let values = |name: &'static str| {
        response
            .headers
            .iter()
            .filter(move |header| header.name.eq_ignore_ascii_case(name))
            .map(|header| header.value)
    };
    let has_token = |name, token: &str| {
        values(name)
            .flat_map(|value| value.split(|byte| *byte == b','))
            .any(|element| element.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
    };
    if !has_token("Upgrade", "websocket") {
        return Err(ResponseError::Header("Upgrade"));
    }
    if !has_token("Connection", "upgrade") {
        return Err(ResponseError::Header("Connection"));
    }
    let mut accepts = values("Sec-WebSocket-Accept");
    match (accepts.next(), accepts.next()) {
        (Some(accept), None) if accept == expected.as_bytes() => {}
        _ => return Err(ResponseError::Header("Sec-WebSocket-Accept")),
    }
    // None was offered.
    if values("Sec-WebSocket-Extensions").next().is_some() {
        return Err(ResponseError::Header("Sec-WebSocket-Extensions"));
    }
    let mut subprotocols = values("Sec-WebSocket-Protocol");
    let subprotocol = match (subprotocols.next(), subprotocols.next()) {
        (None, _) => None,
        (Some(name), None) if is_token(name) => std::str::from_utf8(name).ok(),
        _ => return Err(ResponseError::Header("Sec-WebSocket-Protocol")),
    };
    Ok(Some(Accepted {
        consumed,
        subprotocol,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::upgrade::{Head, HeadLimits, HeaderSpace, parse_head, write_accept};

    const KEY: [u8; 16] = *b"the sample nonce";

    fn accept() -> AcceptKey {
        AcceptKey::derive(b"dGhlIHNhbXBsZSBub25jZQ==")
    }

    fn accepted() -> String {
        let mut out = Vec::new();
        write_accept(&mut out, &accept(), Some("ringwire.json.v1"));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn our_server_accepts_our_request() {
        let mut out = Vec::new();
        let extra = [("Origin", "http://localhost")];
        let expected = write_request(
            &mut out,
            "localhost:1",
            "/ws?a=b",
            &KEY,
            Some("x, y"),
            &extra,
        );
        assert_eq!(expected, accept());
        let mut space = HeaderSpace::new();
        let limits = HeadLimits {
            bytes: 8192,
            lines: 64,
        };
        let Ok(Head::Upgrade {
            request,
            accept,
            consumed,
        }) = parse_head(&out, &mut space, limits)
        else {
            panic!("{}", String::from_utf8_lossy(&out))
        };
        assert_eq!((accept, consumed), (expected, out.len()));
        assert_eq!((request.path, request.query), ("/ws", Some("a=b")));
        assert_eq!(request.header("host"), Some("localhost:1"));
        assert_eq!(request.header("origin"), Some("http://localhost"));
        assert_eq!(request.subprotocols().collect::<Vec<_>>(), ["x", "y"]);
    }

    #[test]
    fn every_beginning_of_a_response_is_incomplete() {
        let text = accepted();
        for length in 0..text.len() {
            assert_eq!(
                parse_response(&text.as_bytes()[..length], &accept()),
                Ok(None)
            );
        }
        let more = format!("{text}frames");
        let response = parse_response(more.as_bytes(), &accept()).unwrap().unwrap();
        assert_eq!(response.consumed, text.len());
        assert_eq!(response.subprotocol, Some("ringwire.json.v1"));
    }

    #[test]
    fn the_rules_of_section_4_1() {
        use ResponseError::{Header, Malformed, Status, TooLong};
        let text = accepted();
        let fails = |from: &str, to: &str| {
            assert!(text.contains(from));
            parse_response(text.replace(from, to).as_bytes(), &accept()).unwrap_err()
        };
        assert_eq!(fails("101 Switching", "200 OK"), Status(200));
        assert!(matches!(fails("HTTP/1.1", "HTTP/1.0"), Malformed(_)));
        assert!(matches!(fails("HTTP/1.1", "SSH-2.0"), Malformed(_)));
        assert_eq!(
            fails("Upgrade: websocket", "Upgrade: h2c"),
            Header("Upgrade")
        );
        assert_eq!(
            fails("Connection: Upgrade", "Connection: close"),
            Header("Connection")
        );
        assert_eq!(
            fails("Accept: s", "Accept: t"),
            Header("Sec-WebSocket-Accept")
        );
        let extension = "Sec-WebSocket-Extensions: permessage-deflate\r\nUpgrade:";
        assert_eq!(
            fails("Upgrade:", extension),
            Header("Sec-WebSocket-Extensions")
        );
        assert_eq!(
            fails("ringwire.json.v1", "a, b"),
            Header("Sec-WebSocket-Protocol")
        );
        // A refusal is known from its first line, and a head without end is not waited for.
        let refused = b"HTTP/1.1 503 Service Unavailable\r\nConn";
        assert_eq!(parse_response(refused, &accept()), Err(Status(503)));
        let endless = format!("HTTP/1.1 101 X\r\na: {}", "b".repeat(MAX_RESPONSE_BYTES));
        assert_eq!(parse_response(endless.as_bytes(), &accept()), Err(TooLong));
    }
}
