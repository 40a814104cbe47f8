//! What is not a proper handshake: each gets its answer, and nobody else notices.

use crate::engine::Engine;
use crate::raw::{Raw, read_head, read_to_end, reset, text, upgrade};
use std::io::{Read as _, Write as _};

/// Sends a request and returns the whole answer. The server must end the stream in order.
fn ask(engine: &Engine, request: &str) -> String {
    let mut stream = engine.connect();
    stream.write_all(request.as_bytes()).unwrap();
    let answer = read_to_end(&mut stream).expect("an orderly end");
    String::from_utf8(answer).expect("text")
}

fn status(answer: &str) -> &str {
    answer
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3))
        .unwrap_or_else(|| panic!("{answer:?}"))
}

/// Each request must be answered with its status, and leave nothing behind.
fn refused(cases: &[(&str, String, &str)]) {
    let mut engine = Engine::start();
    for (what, request, expected) in cases {
        let answer = ask(&engine, request);
        assert_eq!(status(&answer), *expected, "{what}: {answer}");
        assert!(
            answer.to_lowercase().contains("connection: close"),
            "{what}: {answer}"
        );
        engine.is_undisturbed();
    }
    let totals = engine.finish();
    let answered = totals.rejections + totals.http_requests;
    assert_eq!(answered, cases.len() as u64);
}

fn changed(from: &str, to: &str) -> String {
    let request = upgrade("/ws");
    assert!(request.contains(from));
    request.replace(from, to)
}

#[test]
fn garbage_is_answered_with_400() {
    let garbage = [
        "\0\0\0\0\r\n\r\n",
        "hello\r\n\r\n",
        "\u{81}\u{85}zzzzzzzz\r\n\r\n",
        "SSH-2.0-OpenSSH_9.6\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\u{fc}\x03\x03",
    ];
    let long = "x".repeat(100_000);
    let cases: Vec<_> = garbage
        .iter()
        .map(|bytes| ("garbage", (*bytes).to_owned(), "400"))
        .chain([("a long word", long, "400")])
        .collect();
    refused(&cases);
}

#[test]
fn wrong_versions_of_http_and_websocket() {
    let answer = |request: String| {
        let engine = Engine::start();
        let answer = ask(&engine, &request);
        engine.finish();
        answer
    };
    for version in ["8", "14", "0", "thirteen", "13, 8"] {
        let request = changed(
            "Sec-WebSocket-Version: 13",
            &format!("Sec-WebSocket-Version: {version}"),
        );
        let answer = answer(request);
        assert_eq!(status(&answer), "426", "{answer}");
        assert!(answer.contains("Sec-WebSocket-Version: 13\r\n"), "{answer}");
    }
    refused(&[
        ("HTTP/1.0", changed("HTTP/1.1", "HTTP/1.0"), "400"),
        ("HTTP/2.0", changed("HTTP/1.1", "HTTP/2.0"), "505"),
        (
            "no version",
            changed("Sec-WebSocket-Version: 13\r\n", ""),
            "426",
        ),
    ]);
}

#[test]
fn wrong_upgrades() {
    let key = "Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEA==\r\n";
    refused(&[
        ("POST", changed("GET", "POST"), "405"),
        ("HEAD", changed("GET", "HEAD"), "405"),
        ("no key", changed(key, ""), "400"),
        (
            "a short key",
            changed(key, "Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4P\r\n"),
            "400",
        ),
        ("two keys", changed(key, &key.repeat(2)), "400"),
        (
            "no base64",
            changed(key, "Sec-WebSocket-Key: !!!!!!!!!!!!!!!!!!!!!!!!\r\n"),
            "400",
        ),
        ("no host", changed("Host: test\r\n", ""), "400"),
        (
            "no connection",
            changed("Connection: Upgrade\r\n", ""),
            "400",
        ),
        ("unknown path", upgrade("/nowhere"), "404"),
        (
            "a body",
            changed("Host: test\r\n", "Host: test\r\nContent-Length: 5\r\n") + "hello",
            "400",
        ),
    ]);
}

#[test]
fn plain_requests() {
    let request =
        |method: &str, path: &str| format!("{method} {path} HTTP/1.1\r\nHost: test\r\n\r\n");
    refused(&[
        ("the page", request("GET", "/"), "200"),
        ("health", request("HEAD", "/healthz"), "200"),
        ("no upgrade", request("GET", "/ws"), "426"),
        ("nothing there", request("GET", "/nowhere"), "404"),
        ("another method", request("DELETE", "/"), "405"),
        (
            "a body that nobody reads",
            format!(
                "POST /healthz HTTP/1.1\r\nHost: test\r\nContent-Length: 300000\r\n\r\n{}",
                "x".repeat(300_000)
            ),
            "405",
        ),
    ]);
}

#[test]
fn huge_heads_are_answered_with_431() {
    let many = |lines: usize| {
        let lines: String = (0..lines).map(|line| format!("X-{line}: y\r\n")).collect();
        changed("Host: test\r\n", &format!("Host: test\r\n{lines}"))
    };
    refused(&[
        (
            "a long header",
            changed(
                "Host: test\r\n",
                &format!("Host: test\r\nX: {}\r\n", "y".repeat(9000)),
            ),
            "431",
        ),
        (
            "a header without an end",
            changed("Host: test\r\n", &format!("X: {}", "y".repeat(200_000))),
            "431",
        ),
        (
            "a long path",
            upgrade(&format!("/{}", "y".repeat(20_000))),
            "431",
        ),
        ("65 lines", many(60), "431"),
        ("thousands of lines", many(5000), "431"),
    ]);
    // One line less, and one byte less, are fine.
    let engine = Engine::start();
    let room = 8192 - upgrade("/ws").len() - "X: \r\n".len();
    let longest = changed(
        "Host: test\r\n",
        &format!("Host: test\r\nX: {}\r\n", "y".repeat(room)),
    );
    assert_eq!(longest.len(), 8192);
    for request in [many(59), longest] {
        let mut stream = engine.connect();
        stream.write_all(request.as_bytes()).unwrap();
        assert!(read_head(&mut stream).starts_with("HTTP/1.1 101 "));
    }
    engine.finish();
}

#[test]
fn half_a_handshake_and_silence_is_closed() {
    let mut engine = Engine::configured(|config| config.timeouts.handshake_ms = 300);
    let whole = upgrade("/ws");
    let parts = ["", "G", "GET /ws HT", &whole[..whole.len() - 1]];
    let mut streams = parts.map(|part| {
        let mut stream = engine.connect();
        stream.write_all(part.as_bytes()).unwrap();
        stream
    });
    for stream in &mut streams {
        assert_eq!(
            read_to_end(stream).unwrap_or_default(),
            b"",
            "no answer to half a question"
        );
    }
    // The clients still hold their ends.
    engine.is_undisturbed();
    assert_eq!(engine.totals().handshake_timeouts, parts.len() as u64);
    drop(streams);
    engine.finish();
}

#[test]
fn a_byte_now_and_then_does_not_extend_the_handshake() {
    let mut engine = Engine::configured(|config| config.timeouts.handshake_ms = 400);
    let mut stream = engine.connect();
    let request = upgrade("/ws").repeat(1000);
    // Each byte waits until the server has taken it, so this is as slow as it can get: the clock
    // that runs out is the server's.
    let taken = engine.totals().bytes_in;
    for (number, byte) in (1..).zip(request.replace("\r\n\r\n", "\r\n").bytes()) {
        if stream.write_all(&[byte]).is_err() || engine.totals().handshake_timeouts > 0 {
            break;
        }
        engine.wait_for("the byte is taken or refused", |totals| {
            totals.bytes_in >= taken + number || totals.handshake_timeouts > 0
        });
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(engine.totals().handshake_timeouts, 1);
    assert_eq!(read_to_end(&mut stream).unwrap_or_default(), b"");
    engine.is_undisturbed();
    drop(stream);
    engine.finish();
}

#[test]
fn an_upgrade_may_come_byte_by_byte() {
    let engine = Engine::start();
    let mut stream = engine.connect();
    stream.set_nodelay(true).unwrap();
    let before = engine.totals().bytes_in;
    let bytes = [upgrade("/ws").into_bytes(), text(r#"{"type":"ping"}"#)].concat();
    for (number, byte) in (1..).zip(&bytes) {
        stream.write_all(&[*byte]).unwrap();
        engine.wait_for("the byte is read alone", |totals| {
            totals.bytes_in == before + number
        });
    }
    assert!(read_head(&mut stream).starts_with("HTTP/1.1 101 "));
    assert_eq!(Raw { stream }.read_text(), r#"{"type":"pong"}"#);
    engine.finish();
}

#[test]
fn who_goes_on_talking_after_a_refusal_is_cut_off() {
    let mut engine = Engine::configured(|config| config.timeouts.close_ms = 300);
    let mut stream = engine.connect();
    stream
        .write_all(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000000000\r\n\r\n")
        .unwrap();
    assert!(read_head(&mut stream).starts_with("HTTP/1.1 405 "));
    // It neither reads the end of the stream nor stops: the server's deadline ends it.
    let endless = [b'x'; 4096];
    while stream.write_all(&endless).is_ok() {}
    engine.is_undisturbed();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    reset(stream);
    engine.finish();
}
