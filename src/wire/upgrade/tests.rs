//! The request head rule by rule, then cut anywhere.

use super::*;
use crate::wire::client;
use proptest::prelude::*;

const LIMITS: HeadLimits = HeadLimits {
    bytes: 8192,
    lines: 64,
};

/// The handshake of RFC 6455 section 1.2, line by line.
const LINES: [&str; 8] = [
    "GET /chat?room=1&x=%20 HTTP/1.1",
    "Host: server.example.com",
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Origin: http://example.com",
    "Sec-WebSocket-Protocol: chat, superchat",
    "Sec-WebSocket-Version: 13",
];

fn join(lines: &[&str]) -> String {
    let mut text = lines.join("\r\n");
    text.push_str("\r\n\r\n");
    text
}

/// The handshake with the line that begins like `name` replaced; an empty `line` removes it.
fn with(name: &str, line: &str) -> String {
    let mut lines = LINES.to_vec();
    let at = lines
        .iter()
        .position(|line| line.starts_with(name))
        .unwrap();
    lines[at] = line;
    lines.retain(|line| !line.is_empty());
    join(&lines)
}

/// The handshake with lines added.
fn plus(more: &[&str]) -> String {
    join(&[&LINES, more].concat())
}

#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Incomplete,
    Upgrade(String, usize),
    Plain(String, usize),
    Refused(u16, String),
}

fn seen(bytes: &[u8], limits: HeadLimits) -> Seen {
    match parse_head(bytes, &mut HeaderSpace::new(), limits) {
        Ok(Head::Incomplete) => Seen::Incomplete,
        Ok(Head::Upgrade {
            request, consumed, ..
        }) => Seen::Upgrade(request.path.to_owned(), consumed),
        Ok(Head::Plain { request, consumed }) => Seen::Plain(request.path.to_owned(), consumed),
        Err(rejection) => Seen::Refused(rejection.status, rejection.reason.into_owned()),
    }
}

fn status(text: &str) -> u16 {
    match seen(text.as_bytes(), LIMITS) {
        Seen::Incomplete => 0,
        Seen::Upgrade(..) => 101,
        Seen::Plain(..) => 200,
        Seen::Refused(status, _) => status,
    }
}

#[test]
fn the_handshake_of_the_rfc() {
    let text = join(&LINES);
    let bytes = [text.as_bytes(), b"\x81\x80frames"].concat();
    let mut space = HeaderSpace::new();
    let head = parse_head(&bytes, &mut space, LIMITS).unwrap();
    let Head::Upgrade {
        request,
        accept,
        consumed,
    } = head
    else {
        panic!("{head:?}")
    };
    assert_eq!(consumed, text.len());
    assert_eq!(accept.as_bytes(), b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    assert_eq!(request.method, "GET");
    assert_eq!(request.path, "/chat");
    assert_eq!(request.query, Some("room=1&x=%20"));
    assert_eq!(request.minor_version, 1);
    assert_eq!(request.header("ORIGIN"), Some("http://example.com"));
    assert_eq!(request.header("Cookie"), None);
    let subprotocols: Vec<&str> = request.subprotocols().collect();
    assert_eq!(subprotocols, ["chat", "superchat"]);
}

#[test]
fn every_beginning_is_incomplete() {
    let text = join(&LINES);
    for length in 0..text.len() {
        assert_eq!(seen(&text.as_bytes()[..length], LIMITS), Seen::Incomplete);
    }
}

#[test]
fn lists_go_over_repeated_headers() {
    let text = with("Sec-WebSocket-Protocol", "Sec-WebSocket-Protocol: a,, b ,");
    let text = text.replace(
        "Origin:",
        "sec-websocket-protocol: first\r\nSec-WebSocket-Extensions: x; y=1, z\r\n\
         Sec-WebSocket-Extensions: w\r\nOrigin:",
    );
    let mut space = HeaderSpace::new();
    let Ok(Head::Upgrade { request, .. }) = parse_head(text.as_bytes(), &mut space, LIMITS) else {
        panic!("{text}")
    };
    let subprotocols: Vec<&str> = request.subprotocols().collect();
    assert_eq!(subprotocols, ["first", "a", "b"]);
    let extensions: Vec<&str> = request.extensions().collect();
    assert_eq!(extensions, ["x; y=1, z", "w"]);
    assert_eq!(request.headers("sec-websocket-protocol").count(), 2);

    assert_eq!(
        status(&with("Connection", "Connection: keep-alive, UPGRADE")),
        101
    );
    assert_eq!(
        status(&with(
            "Connection",
            "Connection: keep-alive\r\nConnection: upgrade"
        )),
        101
    );
    assert_eq!(status(&with("Upgrade", "Upgrade: h2c, WebSocket")), 101);
}

#[test]
fn what_is_no_upgrade_is_plain() {
    assert_eq!(status(&with("Upgrade", "")), 200);
    assert_eq!(status(&with("Upgrade", "Upgrade: h2c")), 200);
    assert_eq!(status(&with("Upgrade", "Upgrade: websockets")), 200);
    assert_eq!(
        status("POST /publish HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"),
        200
    );
    assert_eq!(status("HEAD /healthz HTTP/1.0\r\n\r\n"), 200);
    assert_eq!(status("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"), 200);
}

#[test]
fn the_rules_of_section_4_2_1() {
    for (name, line, expected) in [
        ("GET", "POST /chat HTTP/1.1", 405),
        ("GET", "GET /chat HTTP/1.0", 400),
        ("GET", "GET /chat HTTP/2.0", 505),
        ("GET", "GET /chat HTTP/1.2", 505),
        ("Host", "", 400),
        ("Host", "Host: a\r\nHost: a", 400),
        ("Host", "Host: a b", 400),
        ("Host", "Host: [::1]:9000", 101),
        ("Connection", "", 400),
        ("Connection", "Connection: keep-alive", 400),
        ("Connection", "Connection: not-upgrade", 400),
        ("Sec-WebSocket-Version", "", 426),
        ("Sec-WebSocket-Version", "Sec-WebSocket-Version: 8", 426),
        ("Sec-WebSocket-Version", "Sec-WebSocket-Version: 13, 8", 426),
        (
            "Sec-WebSocket-Version",
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Version: 13",
            426,
        ),
        ("Sec-WebSocket-Key", "", 400),
        ("Sec-WebSocket-Key", "Sec-WebSocket-Key: ", 400),
        ("Sec-WebSocket-Key", "Sec-WebSocket-Key: c2hvcnQ=", 400),
        (
            "Sec-WebSocket-Key",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ",
            400,
        ),
        (
            "Sec-WebSocket-Key",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZXh4",
            400,
        ),
        (
            "Sec-WebSocket-Key",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j!Q==",
            400,
        ),
        // The last character's unused bits do not matter.
        (
            "Sec-WebSocket-Key",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZR==",
            101,
        ),
        ("Sec-WebSocket-Protocol", "Sec-WebSocket-Protocol: a b", 400),
        (
            "Sec-WebSocket-Protocol",
            "Sec-WebSocket-Protocol: \"a\"",
            400,
        ),
        ("Sec-WebSocket-Protocol", "Sec-WebSocket-Protocol:", 101),
    ] {
        assert_eq!(status(&with(name, line)), expected, "{line}");
    }
    assert_eq!(
        status(&plus(&["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="])),
        400
    );
    assert_eq!(status(&plus(&["Content-Length: 5"])), 400);
    assert_eq!(status(&plus(&["Content-Length: 0"])), 101);
    assert_eq!(status(&plus(&["Transfer-Encoding: chunked"])), 400);
}

#[test]
fn targets() {
    let target = |target: &str| {
        let text = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        match parse_head(text.as_bytes(), &mut HeaderSpace::new(), LIMITS) {
            Ok(Head::Plain { request, .. }) => {
                Some((request.path.to_owned(), request.query.map(str::to_owned)))
            }
            Ok(other) => panic!("{other:?}"),
            Err(rejection) => {
                assert_eq!(rejection.status, 400);
                None
            }
        }
    };
    let is = |path: &str, query: Option<&str>| Some((path.to_owned(), query.map(str::to_owned)));
    assert_eq!(target("/"), is("/", None));
    assert_eq!(target("/a/b?"), is("/a/b", Some("")));
    assert_eq!(target("/a?b?c"), is("/a", Some("b?c")));
    assert_eq!(target("*"), is("*", None));
    assert_eq!(target("http://host:1/a?b"), is("/a", Some("b")));
    assert_eq!(target("WS://host?b/c"), is("/", Some("b/c")));
    assert_eq!(target("https://host"), is("/", None));
    for wrong in ["a", "/a#b", "ftp://host/a", "host:443", "://a"] {
        assert_eq!(target(wrong), None, "{wrong}");
    }
}

#[test]
fn garbage_is_refused_early() {
    let refused = |bytes: &[u8]| match seen(bytes, LIMITS) {
        Seen::Refused(status, reason) => (status, reason),
        other => panic!("{bytes:?}: {other:?}"),
    };
    let (status, reason) = refused(b"\x16\x03\x01\x02\x00\x01");
    assert_eq!(status, 400);
    assert!(reason.contains("TLS"), "{reason}");
    assert_eq!(refused(b"\0").0, 400);
    assert_eq!(refused(b"\x81\x85\x01").0, 400);
    assert_eq!(refused(b"{\"type\"").0, 400);
    assert_eq!(refused("é".as_bytes()).0, 400);
    assert_eq!(refused(b"GET / FTP").0, 505);
    assert_eq!(refused(b"GET / HTTP/3").0, 505);
    assert_eq!(refused(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").0, 505);
    assert_eq!(refused(&[b'A'; 33]).0, 400);
    assert_eq!(refused(b"GET / HTTP/1.1\r\nHost : a").0, 400);
    assert_eq!(refused(b"GET / HTTP/1.1\r\nHost: a\r\n folded").0, 400);
    assert_eq!(refused(b"GET / HTTP/1.1\r\nHost: a\0").0, 400);
    assert_eq!(refused(b"GET / HTTP/1.1\r\nHost: a\rb").0, 400);
}

#[test]
fn limits_hold_before_the_head_is_complete() {
    let text = join(&LINES);
    let exact = HeadLimits {
        bytes: text.len(),
        lines: LINES.len() - 1,
    };
    assert_eq!(
        seen(text.as_bytes(), exact),
        Seen::Upgrade("/chat".to_owned(), text.len())
    );
    // Frames behind the head do not count.
    let more = [text.as_bytes(), &[0; 100]].concat();
    assert_eq!(
        seen(&more, exact),
        Seen::Upgrade("/chat".to_owned(), text.len())
    );
    let refused = |bytes: &[u8], limits| matches!(seen(bytes, limits), Seen::Refused(431, _));
    let fewer_bytes = HeadLimits {
        bytes: text.len() - 1,
        ..exact
    };
    assert!(refused(text.as_bytes(), fewer_bytes));
    assert!(refused(&text.as_bytes()[..text.len() - 1], fewer_bytes));
    assert_eq!(
        seen(&text.as_bytes()[..text.len() - 2], fewer_bytes),
        Seen::Incomplete
    );
    let fewer_lines = HeadLimits {
        lines: exact.lines - 1,
        ..exact
    };
    assert!(refused(text.as_bytes(), fewer_lines));
    assert!(refused(&text.as_bytes()[..text.len() - 2], fewer_lines));
    // Empty lines are no way around it, nor is a limit above the table.
    assert!(refused(&[b'\n'; 8192], LIMITS));
    let many = format!("GET / HTTP/1.1\r\n{}", "a: b\r\n".repeat(MAX_LINES + 1));
    let wide = HeadLimits {
        bytes: 1 << 20,
        lines: usize::MAX,
    };
    assert!(refused(many.as_bytes(), wide));
}

#[test]
fn rejections_say_what_to_do() {
    let response = |text: &str| {
        let mut space = HeaderSpace::new();
        let rejection = parse_head(text.as_bytes(), &mut space, LIMITS).unwrap_err();
        let mut out = Vec::new();
        rejection.write_response(&mut out);
        let out = String::from_utf8(out).unwrap();
        let (head, body) = out.split_once("\r\n\r\n").unwrap();
        assert_eq!(body, format!("{}\n", rejection.reason));
        assert!(head.contains(&format!("\r\nContent-Length: {}", body.len())));
        assert!(head.contains("\r\nConnection: close"));
        assert_eq!(head.matches("Connection:").count(), 1);
        head.to_owned()
    };
    let head = response(&with("Sec-WebSocket-Version", "Sec-WebSocket-Version: 8"));
    assert!(head.starts_with("HTTP/1.1 426 Upgrade Required\r\n"));
    assert!(head.contains("\r\nSec-WebSocket-Version: 13"));
    assert!(head.contains("\r\nUpgrade: websocket"));
    assert!(head.contains("\r\nConnection: close, Upgrade"));
    let head = response(&with("GET", "PUT /chat HTTP/1.1"));
    assert!(head.starts_with("HTTP/1.1 405 Method Not Allowed\r\n"));
    assert!(head.contains("\r\nAllow: GET"));
    assert!(response("?").starts_with("HTTP/1.1 400 Bad Request\r\n"));
}

/// tungstenite's client accepts our answer, and our client tungstenite's.
#[test]
fn tungstenite_agrees_on_the_handshake() {
    use tungstenite::handshake::derive_accept_key;
    for seed in 0..32u8 {
        let mut out = Vec::new();
        let accept =
            client::write_request(&mut out, "h", "/", &[seed.wrapping_mul(37); 16], None, &[]);
        let mut space = HeaderSpace::new();
        let Ok(Head::Upgrade {
            request,
            accept: ours,
            ..
        }) = parse_head(&out, &mut space, LIMITS)
        else {
            panic!("{out:?}")
        };
        assert_eq!(accept, ours);
        let key = request.header("sec-websocket-key").unwrap();
        assert_eq!(
            derive_accept_key(key.as_bytes()).as_bytes(),
            ours.as_bytes()
        );
        let theirs = tungstenite::handshake::server::Request::builder()
            .uri(request.path)
            .header("Host", "h")
            .header("Connection", request.header("connection").unwrap())
            .header("Upgrade", request.header("upgrade").unwrap())
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", key)
            .body(())
            .unwrap();
        let response = tungstenite::handshake::server::create_response(&theirs).unwrap();
        let mut out = Vec::new();
        tungstenite::handshake::server::write_response(&mut out, &response).unwrap();
        let accepted = client::parse_response(&out, &accept).unwrap().unwrap();
        assert_eq!(accepted.consumed, out.len());
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        seen(&bytes, LIMITS);
        let mut damaged = join(&LINES).into_bytes();
        for (at, byte) in bytes.iter().take(4).enumerate() {
            let position = (usize::from(*byte) * 7 + at * 61) % damaged.len();
            damaged[position] = bytes[bytes.len() - 1 - at];
        }
        seen(&damaged, LIMITS);
    }

    /// More bytes never change an answer that was given, and every beginning of an accepted head
    /// is incomplete.
    #[test]
    fn answers_do_not_depend_on_the_cut(
        damage in proptest::option::of((any::<usize>(), any::<u8>())),
        lines in 1usize..12,
        bytes in 20usize..400,
    ) {
        let mut text = join(&LINES).into_bytes();
        if let Some((at, byte)) = damage {
            let at = at % text.len();
            text[at] = byte;
        }
        let limits = HeadLimits { bytes, lines };
        let whole = seen(&text, limits);
        for length in 0..text.len() {
            let part = seen(&text[..length], limits);
            match (&part, &whole) {
                (Seen::Incomplete, _) => {}
                (Seen::Refused(..), Seen::Refused(..)) => {}
                (part, whole) => prop_assert_eq!(part, whole, "{} bytes", length),
            }
        }
    }
}
