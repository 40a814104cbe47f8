//! Request heads, and the response heads of the client's side.
//!
//! The first two bytes choose the limits, the rest is what arrives. An answer must not depend on
//! how the bytes are cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringwire::wire::client::parse_response;
use ringwire::wire::upgrade::{AcceptKey, Head, HeadLimits, HeaderSpace, parse_head, write_accept};

#[derive(Debug, PartialEq)]
enum Seen {
    Incomplete,
    Upgrade(usize, AcceptKey),
    Plain(usize),
    Refused(u16),
}

fn see(bytes: &[u8], limits: HeadLimits) -> Seen {
    let mut space = HeaderSpace::new();
    let (request, consumed, accept) = match parse_head(bytes, &mut space, limits) {
        Ok(Head::Incomplete) => return Seen::Incomplete,
        Ok(Head::Upgrade {
            request,
            accept,
            consumed,
        }) => (request, consumed, Some(accept)),
        Ok(Head::Plain { request, consumed }) => (request, consumed, None),
        Err(rejection) => {
            let mut out = Vec::new();
            rejection.write_response(&mut out);
            assert!(out.starts_with(b"HTTP/1.1 4") || out.starts_with(b"HTTP/1.1 505 "));
            return Seen::Refused(rejection.status);
        }
    };
    assert!(consumed <= bytes.len().min(limits.bytes));
    assert!(bytes[..consumed].ends_with(b"\n"));
    assert!(request.path.starts_with('/') || request.path == "*");
    assert!(!request.path.contains('?'));
    for subprotocol in request.subprotocols() {
        assert!(!subprotocol.is_empty() && !subprotocol.contains([',', ' ', '\r', '\n']));
    }
    assert!(request.extensions().count() <= limits.lines);
    let Some(accept) = accept else {
        return Seen::Plain(consumed);
    };
    assert_eq!((request.method, request.minor_version), ("GET", 1));
    let mut out = Vec::new();
    write_accept(&mut out, &accept, request.subprotocols().next());
    let accepted = parse_response(&out, &accept).expect("our client reads our answer");
    let accepted = accepted.expect("a whole answer");
    assert_eq!(accepted.consumed, out.len());
    assert_eq!(accepted.subprotocol, request.subprotocols().next());
    Seen::Upgrade(consumed, accept)
}

fuzz_target!(|data: &[u8]| {
    let [scale, lines, bytes @ ..] = data else {
        return;
    };
    let limits = HeadLimits {
        bytes: 32 * (1 + usize::from(*scale)),
        lines: usize::from(*lines),
    };
    let whole = see(bytes, limits);
    let mut answered = false;
    // Every beginning of a short head, some 128 of a long one.
    for length in (0..bytes.len()).step_by(1 + bytes.len() / 128) {
        let part = see(&bytes[..length], limits);
        match (&part, &whole) {
            (Seen::Incomplete, _) => assert!(!answered, "an answer was taken back"),
            (Seen::Refused(_), Seen::Refused(_)) => answered = true,
            (part, whole) => {
                assert_eq!(part, whole, "{length} bytes");
                answered = true;
            }
        }
    }
    let expected = AcceptKey::derive(b"dGhlIHNhbXBsZSBub25jZQ==");
    if let Ok(Some(accepted)) = parse_response(bytes, &expected) {
        assert!(accepted.consumed <= bytes.len());
    }
});
