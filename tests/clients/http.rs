//! Plain HTTP on the public port, and handshakes that are refused.

use crate::client::Client;
use crate::support::Server;
use std::io::{Read as _, Write as _};
use std::thread;
use std::time::Duration;

const UPGRADE: &str = "Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n";
const KEY: &str = "Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEA==\r\n";
const VERSION: &str = "Sec-WebSocket-Version: 13\r\n";

fn head(answer: &str) -> &str {
    answer
        .split_once("\r\n\r\n")
        .map_or(answer, |(head, _)| head)
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}

fn header<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    head(answer).lines().skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

fn status(answer: &str) -> u16 {
    let code = answer
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3));
    code.and_then(|code| code.parse().ok())
        .unwrap_or_else(|| panic!("no status in {answer:?}"))
}

/// Asks and checks what every answer must have.
fn ask(server: &Server, request_line: &str, headers: &str) -> String {
    let request = format!(
        "{request_line} HTTP/1.1\r\nHost: {}\r\n{headers}\r\n",
        server.authority()
    );
    let answer = server.exchange(request.as_bytes());
    let connection = header(&answer, "Connection")
        .unwrap_or_default()
        .to_lowercase();
    assert!(connection.contains("close"), "{request_line}: {answer}");
    let length: usize = header(&answer, "Content-Length")
        .and_then(|value| value.parse().ok())
        .expect("a length");
    if !request_line.starts_with("HEAD") {
        assert_eq!(body(&answer).len(), length, "{request_line}");
    }
    answer
}

#[test]
fn demo_page_comes_with_its_policy() {
    let server = Server::start();
    let answer = ask(&server, "GET /", "");
    assert_eq!(status(&answer), 200);
    assert_eq!(body(&answer), include_str!("../../src/gateway/demo.html"));
    assert_eq!(
        header(&answer, "Content-Type"),
        Some("text/html; charset=utf-8")
    );
    let policy = include_str!("../../src/gateway/demo.csp").trim_end();
    assert_eq!(header(&answer, "Content-Security-Policy"), Some(policy));
    let head_only = ask(&server, "HEAD /", "");
    assert_eq!((status(&head_only), body(&head_only)), (200, ""));
    assert_eq!(
        header(&head_only, "Content-Length"),
        header(&answer, "Content-Length")
    );
}

#[test]
fn plain_requests_are_answered() {
    let server = Server::start();
    for (request, expected) in [
        ("GET /healthz", 200),
        ("GET /?page=1", 200),
        ("GET /nowhere", 404),
        ("GET /ws", 426),
        ("GET /echo", 426),
        ("POST /", 405),
        ("POST /ws", 405),
        ("DELETE /healthz", 405),
    ] {
        let answer = ask(&server, request, "");
        assert_eq!(status(&answer), expected, "{request}: {answer}");
        assert_eq!(
            header(&answer, "Allow").is_some(),
            expected == 405,
            "{request}: {answer}"
        );
        assert_eq!(
            header(&answer, "Upgrade").is_some(),
            expected == 426,
            "{request}: {answer}"
        );
        // RFC 9110 section 7.8.
        assert_eq!(
            header(&answer, "Connection").is_some_and(|value| value.contains("Upgrade")),
            expected == 426,
            "{request}: {answer}"
        );
    }
    assert_eq!(body(&ask(&server, "GET /healthz", "")), "ok\n");
}

#[test]
fn wrong_upgrades_are_refused() {
    let server = Server::start();
    let unknown = body(&ask(&server, "GET /nowhere", "")).to_owned();
    for path in ["/nowhere", "/healthz"] {
        let upgrade = ask(
            &server,
            &format!("GET {path}"),
            &format!("{UPGRADE}{KEY}{VERSION}"),
        );
        assert_eq!((status(&upgrade), body(&upgrade)), (404, unknown.as_str()));
    }
    for (request, headers, expected) in [
        ("GET /nowhere", format!("{UPGRADE}{KEY}{VERSION}"), 404),
        ("POST /ws", format!("{UPGRADE}{KEY}{VERSION}"), 405),
        ("GET /ws", format!("{UPGRADE}{KEY}"), 426),
        (
            "GET /ws",
            format!("{UPGRADE}{KEY}Sec-WebSocket-Version: 8\r\n"),
            426,
        ),
        ("GET /ws", format!("{UPGRADE}{VERSION}"), 400),
        (
            "GET /ws",
            format!("{UPGRADE}{VERSION}Sec-WebSocket-Key: c2hvcnQ=\r\n"),
            400,
        ),
        ("GET /ws", format!("{UPGRADE}{KEY}{KEY}{VERSION}"), 400),
        (
            "GET /ws",
            format!("Upgrade: websocket\r\n{KEY}{VERSION}"),
            400,
        ),
    ] {
        let answer = ask(&server, request, &headers);
        assert_eq!(status(&answer), expected, "{request}\n{headers}\n{answer}");
        assert!(
            !body(&answer).trim().is_empty(),
            "the refusal says why: {answer}"
        );
        let version = header(&answer, "Sec-WebSocket-Version");
        assert_eq!(version.is_some(), expected == 426, "{answer}");
    }
}

#[test]
fn what_is_not_http_1_1_is_refused_or_answered_as_1_0() {
    let server = Server::start();
    let long = format!("GET /{} HTTP/1.1\r\n", "x".repeat(9000));
    let many = format!(
        "GET / HTTP/1.1\r\nHost: x\r\n{}\r\n",
        "A: b\r\n".repeat(100)
    );
    let cases: [(&[u8], u16); 12] = [
        (b"GET /healthz HTTP/1.0\r\n\r\n", 200),
        (b"GET /ws HTTP/1.0\r\n\r\n", 426),
        (
            b"GET /ws HTTP/1.0\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
            400,
        ),
        (
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello",
            400,
        ),
        (b"hello\r\n\r\n", 400),
        (
            b"\x00\xff\xfe\x80 noise noise noise noise noise\r\n\r\n",
            400,
        ),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nBad Header: x\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        (long.as_bytes(), 431),
        (many.as_bytes(), 431),
    ];
    for (bytes, expected) in cases {
        let answer = server.exchange(bytes);
        assert_eq!(
            status(&answer),
            expected,
            "{}: {answer}",
            String::from_utf8_lossy(bytes)
        );
    }
    Client::open(&server).is_alive();
}

#[test]
fn unknown_subprotocols_are_not_named() {
    let server = Server::start();
    let mut stream = server.connect();
    let host = server.authority();
    let request = format!(
        "GET /ws HTTP/1.1\r\nHost: {host}\r\n{UPGRADE}{KEY}{VERSION}Sec-WebSocket-Protocol: a, b\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let answer = read_head(&mut stream);
    assert_eq!(status(&answer), 101);
    assert_eq!(header(&answer, "Sec-WebSocket-Protocol"), None);
    assert_eq!(header(&answer, "Sec-WebSocket-Extensions"), None);
    // The key's answer, as `printf '%s' KEY258EAFA5-E914-47DA-95CA-C5AB0DC85B11 | openssl sha1 -binary | base64` says.
    assert_eq!(
        header(&answer, "Sec-WebSocket-Accept"),
        Some("C/0nmHhBztSRGR1CwL6Tf4ZjwpY=")
    );
}

#[test]
fn a_handshake_may_come_byte_by_byte_with_frames_behind_it() {
    let server = Server::start();
    let mut stream = server.connect();
    stream.set_nodelay(true).unwrap();
    let request = format!("GET /ws HTTP/1.1\r\nHost: x\r\n{UPGRADE}{KEY}{VERSION}\r\n");
    let (slowly, at_once) = request.as_bytes().split_at(request.len() - 20);
    for byte in slowly {
        stream.write_all(&[*byte]).unwrap();
        thread::sleep(Duration::from_micros(200));
    }
    // The last bytes of the head and a masked ping with the payload "hi" in one piece.
    stream
        .write_all(&[at_once, b"\x89\x82\0\0\0\0hi"].concat())
        .unwrap();
    assert_eq!(status(&read_head(&mut stream)), 101);
    let mut pong = [0; 4];
    stream.read_exact(&mut pong).unwrap();
    assert_eq!(&pong, b"\x8a\x02hi");
}

/// Reads to the end of the head, and not a byte further.
fn read_head(stream: &mut std::net::TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a whole head");
        head.push(byte[0]);
    }
    String::from_utf8(head).expect("text")
}
