//! HTTP/1.1 responses: the switch of protocols, and the short answers that end a connection.

use super::upgrade::AcceptKey;

/// The name that RFC 9110 section 15 or RFC 6585 gives a status; empty for one not used here.
const fn reason_phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

/// Appends the answer that turns the connection into a WebSocket (RFC 6455 section 4.2.2).
///
/// `subprotocol` is one that the request offered.
pub fn write_accept(out: &mut Vec<u8>, accept: &AcceptKey, subprotocol: Option<&str>) {
    out.extend_from_slice(
        b"HTTP/1.1 101 Switching Protocols\r\n\
          Upgrade: websocket\r\n\
          Connection: Upgrade\r\n\
          Sec-WebSocket-Accept: ",
    );
    out.extend_from_slice(accept.as_bytes());
    if let Some(subprotocol) = subprotocol {
        out.extend_from_slice(b"\r\nSec-WebSocket-Protocol: ");
        out.extend_from_slice(subprotocol.as_bytes());
    }
    out.extend_from_slice(b"\r\n\r\n");
}

/// Appends a whole response, after which the connection closes.
///
/// `extra_headers` are names and values as they go on the wire, without line breaks: none of
/// Connection, Content-Length and Content-Type, except that a Connection header there replaces
/// `Connection: close`. `head_only` leaves the body out (HEAD), not its length.
pub fn write_response(
    out: &mut Vec<u8>,
    status: u16,
    content_type: &str,
    extra_headers: &[(&str, &str)],
    body: &[u8],
    head_only: bool,
) {
    let mut digits = itoa::Buffer::new();
    let mut put = |parts: &[&str]| {
        for part in parts {
            out.extend_from_slice(part.as_bytes());
        }
    };
    put(&[
        "HTTP/1.1 ",
        digits.format(status),
        " ",
        reason_phrase(status),
    ]);
    let own = extra_headers
        .iter()
        .any(|(name, _)| name.eq_ignore_ascii_case("connection"));
    if !own {
        put(&["\r\nConnection: close"]);
    }
    put(&["\r\nContent-Type: ", content_type]);
    put(&["\r\nContent-Length: ", digits.format(body.len())]);
    for (name, value) in extra_headers {
        debug_assert!(!name.contains(['\r', '\n']) && !value.contains(['\r', '\n']));
        put(&["\r\n", name, ": ", value]);
    }
    put(&["\r\n\r\n"]);
    if !head_only {
        out.extend_from_slice(body);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_ends_the_connection() {
        let mut out = Vec::new();
        let extra = [("Cache-Control", "no-store")];
        write_response(
            &mut out,
            200,
            "text/plain; charset=utf-8",
            &extra,
            b"ok\n",
            false,
        );
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\n\
             Content-Length: 3\r\nCache-Control: no-store\r\n\r\nok\n"
        );
    }

    #[test]
    fn a_head_response_keeps_the_length() {
        let mut out = Vec::new();
        write_response(&mut out, 404, "text/plain", &[], b"not here", true);
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("\r\nContent-Length: 8\r\n"));
        assert!(text.ends_with("\r\n\r\n"));
    }

    #[test]
    fn an_accept_names_the_subprotocol() {
        let accept = AcceptKey::derive(b"dGhlIHNhbXBsZSBub25jZQ==");
        let mut out = Vec::new();
        write_accept(&mut out, &accept, None);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
        );
        let mut out = Vec::new();
        write_accept(&mut out, &accept, Some("ringwire.json.v1"));
        assert!(out.ends_with(b"=\r\nSec-WebSocket-Protocol: ringwire.json.v1\r\n\r\n"));
    }
}
