//! Frames that break RFC 6455 or a limit: each gets its close code, and nobody else notices.

use crate::engine::Engine;
use crate::raw::{Raw, frame, header, text};
use serde_json::{Value, json};

/// What each case must be answered with. The client of each case keeps its connection until
/// the server has forgotten it: the server needs nobody's help to do so.
fn closed(path: &str, code: u16, cases: &[(&str, Vec<u8>)]) {
    let mut engine = Engine::configured(|config| config.timeouts.close_ms = 100);
    for (what, bytes) in cases {
        let mut raw = Raw::open(&engine, path);
        raw.write(bytes);
        assert_eq!(raw.close_code(), Some(code), "{what}");
        engine.is_undisturbed();
    }
    let totals = engine.finish();
    assert_eq!(totals.protocol_errors, cases.len() as u64);
    assert_eq!(totals.close_codes[&code], cases.len() as u64);
}

fn fragments(payloads: &[&[u8]]) -> Vec<u8> {
    payloads
        .iter()
        .enumerate()
        .flat_map(|(number, payload)| {
            let opcode = if number == 0 { 1 } else { 0 };
            let fin = if number + 1 == payloads.len() {
                0x80
            } else {
                0
            };
            frame(fin | opcode, payload)
        })
        .collect()
}

#[test]
fn unmasked_frames() {
    closed(
        "/ws",
        1002,
        &[
            ("text", b"\x81\x02{}".to_vec()),
            ("ping", b"\x89\x00".to_vec()),
            ("close", b"\x88\x02\x03\xe8".to_vec()),
            (
                "after a masked one",
                [frame(0x8a, b""), b"\x81\x00".to_vec()].concat(),
            ),
        ],
    );
}

#[test]
fn reserved_bits_and_opcodes() {
    let bits = [0x40, 0x20, 0x10, 0x70].map(|bits| ("reserved bit", frame(0x81 | bits, b"{}")));
    let opcodes = [3, 4, 5, 6, 7, 11, 12, 13, 14, 15]
        .map(|opcode| ("reserved opcode", frame(0x80 | opcode, b"")));
    closed("/ws", 1002, &[&bits[..], &opcodes[..]].concat());
}

#[test]
fn control_frames_that_are_too_long_or_in_fragments() {
    closed(
        "/ws",
        1002,
        &[
            ("a ping of 126 bytes", header(0x89, 126)),
            ("a close of 64 KiB", header(0x88, 65_536)),
            ("a pong in fragments", frame(0x0a, b"x")),
            ("a close in fragments", frame(0x08, b"")),
        ],
    );
}

#[test]
fn fragments_in_disorder() {
    closed(
        "/ws",
        1002,
        &[
            ("nothing to continue", frame(0x80, b"x")),
            (
                "a message within a message",
                [frame(0x01, b"x"), frame(0x81, b"y")].concat(),
            ),
            (
                "a continuation of a whole message",
                [text(r#"{"type":"pong"}"#), frame(0x00, b"y")].concat(),
            ),
        ],
    );
}

#[test]
fn lengths_in_the_wrong_form() {
    let key = [1, 2, 3, 4];
    let length = |start: &[u8]| [&[0x81], start, &key].concat();
    closed(
        "/ws",
        1002,
        &[
            ("125 in two bytes", length(&[0xfe, 0, 125])),
            (
                "65535 in eight bytes",
                length(&[0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff]),
            ),
            ("2^63", length(&[0xff, 0x80, 0, 0, 0, 0, 0, 0, 0])),
            ("all ones", length(&[0xff; 9])),
        ],
    );
}

/// Of these messages not one byte of payload is ever sent: the header is enough.
#[test]
fn huge_declared_lengths() {
    for (path, limit) in [("/ws", 1 << 20), ("/echo", 16 << 20)] {
        closed(
            path,
            1009,
            &[
                ("one byte too many", header(0x81, limit + 1)),
                ("4 GiB", header(0x82, 1 << 32)),
                ("the largest length", header(0x82, (1 << 63) - 1)),
                (
                    "too much with the last fragment",
                    [frame(0x02, b"x"), header(0x80, limit)].concat(),
                ),
            ],
        );
    }
}

#[test]
fn messages_over_the_limit_in_fragments() {
    let piece = vec![b'x'; 1 << 18];
    closed(
        "/ws",
        1009,
        &[(
            "five quarters",
            fragments(&[&piece, &piece, &piece, &piece, &piece]),
        )],
    );
}

#[test]
fn too_many_fragments() {
    let mut engine = Engine::configured(|config| config.client.fragments = 8);
    let mut raw = Raw::open(&engine, "/ws");
    raw.write(&fragments(&[&b"x"[..]; 8]));
    assert!(raw.read_text().contains("invalid_json"));
    raw.write(&fragments(&[&b"x"[..]; 9]));
    assert_eq!(raw.close_code(), Some(1009));
    drop(raw);
    // A client that never ends its message gets no further than one that does.
    let mut raw = Raw::open(&engine, "/ws");
    raw.write(&[frame(0x01, b""), frame(0x00, b"").repeat(8)].concat());
    assert_eq!(raw.close_code(), Some(1009));
    drop(raw);
    engine.is_undisturbed();
    engine.finish();
}

#[test]
fn text_that_is_not_utf8() {
    closed(
        "/echo",
        1007,
        &[
            ("in one frame", frame(0x81, b"abc\xff")),
            ("a surrogate", frame(0x81, b"\xed\xa0\x80")),
            ("an overlong slash", frame(0x81, b"\xc0\xaf")),
            ("half a character at the end", frame(0x81, b"\xc3")),
            (
                "half a character at the end of the last fragment",
                fragments(&[b"a", b"\xe2\x82"]),
            ),
            // Here the message is not over, and its frame is not, when the wrong byte comes.
            ("at once in a fragment", frame(0x01, b"ok\xc0")),
            (
                "at once in half a frame",
                [header(0x81, 1000), vec![b'\xff' ^ 0xa5]].concat(),
            ),
            (
                "across fragments",
                [frame(0x01, b"\xe2\x82"), frame(0x00, b"x")].concat(),
            ),
            ("in a close reason", frame(0x88, b"\x03\xe8\xff")),
        ],
    );
}

#[test]
fn close_frames_that_are_wrong() {
    let code = |code: u16| ("an invalid code", frame(0x88, &code.to_be_bytes()));
    let codes = [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535].map(code);
    let half = [("half a code", frame(0x88, b"\x03"))];
    closed("/ws", 1002, &[&codes[..], &half[..]].concat());
}

#[test]
fn a_character_cut_by_a_ping_is_whole() {
    let engine = Engine::start();
    let mut raw = Raw::open(&engine, "/echo");
    let euro = "€".as_bytes();
    raw.write(
        &[
            frame(0x01, &euro[..1]),
            frame(0x89, b"between"),
            frame(0x80, &euro[1..]),
        ]
        .concat(),
    );
    assert_eq!(raw.read_frame(), Some((0x8a, b"between".to_vec())));
    assert_eq!(raw.read_text(), "€");
    drop(raw);
    engine.finish();
}

#[test]
fn wrong_commands_get_error_frames_and_the_connection_stays() {
    let mut engine = Engine::start();
    let mut raw = Raw::open(&engine, "/ws");
    let mut error = |bytes: Vec<u8>| {
        raw.write(&bytes);
        let answer: Value = serde_json::from_str(&raw.read_text()).unwrap();
        assert_eq!(answer["type"], "error", "{answer}");
        answer
    };
    for (message, code) in [
        ("", "invalid_json"),
        ("{", "invalid_json"),
        ("nonsense", "invalid_json"),
        (r#"{"type":"ping"}}"#, "invalid_json"),
        ("[]", "invalid_message"),
        ("{}", "invalid_message"),
        (r#"{"type":"subscribe"}"#, "invalid_message"),
        (r#"{"type":"subscribe","channel":""}"#, "invalid_message"),
        (r#"{"type":"publish","channel":"c"}"#, "invalid_message"),
        (r#"{"type":"fly"}"#, "unknown_type"),
        (r#"{"type":"unsubscribe","channel":"c"}"#, "not_subscribed"),
        (r#"{"type":"presence","channel":"c"}"#, "not_available"),
        (
            r#"{"type":"history","channel":"c","limit":-1}"#,
            "invalid_message",
        ),
        (r#"{"type":"direct","to":"42","data":1}"#, "forbidden"),
        (r#"{"type":"broadcast","data":1}"#, "forbidden"),
    ] {
        assert_eq!(error(text(message))["code"], code, "{message}");
    }
    // Nesting is data; it must not become nesting of the server's calls.
    let deep = |end: &str| {
        let (open, closed) = ("[".repeat(100_000), end.repeat(100_000));
        text(&format!(
            r#"{{"type":"publish","channel":"c","id":1,"data":{open}{closed}}}"#
        ))
    };
    assert_eq!(error(deep(""))["code"], "invalid_json");
    assert_eq!(
        error(frame(0x82, b"{\"type\":\"ping\"}"))["code"],
        "unsupported_data"
    );
    assert_eq!(error(text(r#"{"type":"fly","id":7}"#))["id"], 7);
    raw.write(&deep("]"));
    let answer: Value = serde_json::from_str(&raw.read_text()).unwrap();
    assert_eq!(answer["data"]["published"], true);
    raw.write(&text(r#"{"type":"ping","id":"still here"}"#));
    assert_eq!(raw.read_text(), r#"{"type":"pong","id":"still here"}"#);
    assert_eq!(engine.totals().protocol_errors, 0);
    drop(raw);
    engine.is_undisturbed();
    engine.finish();
}

#[test]
fn too_many_channels() {
    let engine = Engine::configured(|config| config.client.channels = 5);
    let mut client = engine.open();
    for channel in 0..5 {
        client.subscribe(&format!("c{channel}"));
    }
    let answer = client.ask(json!({"type": "subscribe", "channel": "c5", "id": 9}));
    assert_eq!(
        (&answer["code"], &answer["id"]),
        (&json!("too_many_channels"), &json!(9))
    );
    client.subscribe("c4");
    client.ask(json!({"type": "unsubscribe", "channel": "c0"}));
    client.subscribe("c5");
    client.publish("c5", 1);
    assert_eq!(client.message("c5"), (1, json!(1)));
    client.bye();
    engine.finish();
}
