//! Connections that end without a word, in every state.

use crate::engine::Engine;
use crate::raw::{Raw, frame, header, read_head, read_to_end, reset, text, upgrade};
use serde_json::json;
use std::io::Write as _;
use std::net::{Shutdown, TcpStream};

/// Each state is left several times: sometimes the server has read everything by then, sometimes
/// nothing.
const ROUNDS: usize = 10;

/// Brings connections into a state, in which they are reset at once. `seen` says how to tell
/// that the server has got there, for those that are reset then.
fn resets(mut engine: Engine, into: impl Fn(&Engine) -> TcpStream, seen: impl Fn(&Engine, u64)) {
    for round in 1..=ROUNDS {
        let stream = into(&engine);
        if round % 2 == 0 {
            seen(&engine, round as u64);
        }
        reset(stream);
    }
    engine.is_undisturbed();
    engine.finish();
}

/// A connection upgraded at `path` that has sent `bytes`.
fn having_sent(path: &'static str, bytes: Vec<u8>) -> impl Fn(&Engine) -> TcpStream {
    move |engine| {
        let mut raw = Raw::open(engine, path);
        raw.write(&bytes);
        raw.stream
    }
}

/// Waits until nothing more comes in.
fn quiet(engine: &Engine, _: u64) {
    let mut before = (0, 0);
    engine.wait_for("the server reads no more", |totals| {
        let now = (totals.bytes_in, totals.bytes_out);
        let same = now == before;
        before = now;
        std::thread::sleep(std::time::Duration::from_millis(20));
        same
    });
}

#[test]
fn before_the_handshake() {
    resets(Engine::start(), Engine::connect, |engine, _| {
        engine.wait_for("it is accepted", |totals| totals.connections == 2);
    });
}

#[test]
fn half_way_through_the_handshake() {
    let half = |engine: &Engine| {
        let mut stream = engine.connect();
        stream.write_all(&upgrade("/ws").as_bytes()[..60]).unwrap();
        stream
    };
    resets(Engine::start(), half, quiet);
}

#[test]
fn before_the_answer_to_a_request_is_read() {
    for request in [
        upgrade("/ws"),
        upgrade("/nowhere"),
        "GET / HTTP/1.1\r\nHost: test\r\n\r\n".to_owned(),
    ] {
        let asked = |engine: &Engine| {
            let mut stream = engine.connect();
            stream.write_all(request.as_bytes()).unwrap();
            stream
        };
        resets(Engine::start(), asked, quiet);
    }
}

#[test]
fn open() {
    resets(Engine::start(), having_sent("/ws", Vec::new()), quiet);
}

#[test]
fn subscribed() {
    let subscribed = |engine: &Engine| {
        let mut raw = Raw::open(engine, "/ws");
        for channel in ["witness", "a", "b", "c"] {
            raw.write(&text(
                &json!({"type": "subscribe", "channel": channel}).to_string(),
            ));
        }
        for _ in 0..4 {
            raw.read_text();
        }
        raw.stream
    };
    resets(Engine::start(), subscribed, |_, _| ());
}

#[test]
fn between_asking_and_being_answered() {
    let request =
        |kind: &str| json!({"type": kind, "channel": "c", "data": 1, "id": 1}).to_string();
    let bytes = [
        "subscribe",
        "publish",
        "unsubscribe",
        "subscribe",
        "publish",
    ]
    .map(|kind| text(&request(kind)));
    resets(Engine::start(), having_sent("/ws", bytes.concat()), quiet);
}

#[test]
fn in_the_middle_of_a_frame() {
    for part in [
        frame(0x81, b"hello")[..1].to_vec(),
        frame(0x81, b"hello")[..5].to_vec(),
        frame(0x81, b"hello")[..8].to_vec(),
        frame(0x01, b"hello"),
        [frame(0x01, b"hello"), frame(0x89, b"ping")[..7].to_vec()].concat(),
        [header(0x82, 1 << 20), vec![7; 300_000]].concat(),
    ] {
        resets(Engine::start(), having_sent("/ws", part), quiet);
    }
}

/// The connection's answers fill every buffer on the way, and reading from it is paused.
#[test]
fn while_the_server_is_sending() {
    let stuck = |engine: &Engine| {
        let mut raw = Raw::open(engine, "/echo");
        let message = frame(0x82, &vec![7; 1 << 20]);
        raw.stream.set_nonblocking(true).unwrap();
        // Far more than fits; what does not is not sent.
        for _ in 0..64 {
            if raw
                .stream
                .write(&message)
                .is_ok_and(|written| written == message.len())
            {
                continue;
            }
            break;
        }
        raw.stream
    };
    resets(Engine::start(), stuck, quiet);
}

#[test]
fn while_others_publish_to_it() {
    let mut engine = Engine::start();
    let mut speaker = engine.open();
    for round in 0..ROUNDS {
        let mut listeners: Vec<_> = (0..5).map(|_| Raw::open(&engine, "/ws")).collect();
        for listener in &mut listeners {
            listener.write(&text(r#"{"type":"subscribe","channel":"c"}"#));
            listener.read_text();
        }
        for number in 0..20 {
            speaker.publish("c", "x".repeat(10_000));
            if number == round {
                listeners
                    .drain(..3)
                    .for_each(|listener| reset(listener.stream));
            }
        }
        speaker.is_alive();
        // Who stayed gets everything.
        for mut listener in listeners {
            (0..20).for_each(|_| assert!(listener.read_text().contains("xxx")));
            reset(listener.stream);
        }
    }
    speaker.bye();
    engine.is_undisturbed();
    engine.finish();
}

#[test]
fn while_closing() {
    // Because of a violation, and after a close frame of its own.
    for bytes in [frame(0xc1, b""), frame(0x88, b"\x03\xe8")] {
        resets(Engine::start(), having_sent("/ws", bytes), quiet);
    }
    // After the server's close frame, which is never answered.
    let mut engine = Engine::start();
    let mut clients: Vec<_> = (0..ROUNDS).map(|_| Raw::open(&engine, "/ws")).collect();
    let silent = engine.open();
    let draining = engine.running().drain_handle();
    draining.drain();
    for client in &mut clients {
        while client.read_frame().expect("a close frame").0 != 0x88 {}
    }
    clients.into_iter().for_each(|client| reset(client.stream));
    reset(silent.socket.into_inner());
    engine.witness_goes();
    engine.wait_for("nobody is left", |totals| totals.connections == 0);
}

#[test]
fn the_end_of_the_stream_without_a_close_frame() {
    let mut engine = Engine::start();
    let half = &upgrade("/ws").into_bytes()[..70];
    for bytes in [&b""[..], b"G", half] {
        let mut stream = engine.connect();
        stream.write_all(bytes).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_end(&mut stream).unwrap_or_default(), b"");
        engine.is_undisturbed();
    }
    for bytes in [
        vec![],
        frame(0x01, b"part of a message"),
        frame(0x81, b"hello")[..7].to_vec(),
    ] {
        let mut raw = Raw::open(&engine, "/ws");
        raw.write(&text(r#"{"type":"subscribe","channel":"witness"}"#));
        raw.read_text();
        raw.write(&bytes);
        raw.stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(raw.close_code(), None);
        engine.is_undisturbed();
    }
    let totals = engine.finish();
    assert_eq!(totals.close_codes[&1006], 3);
    assert_eq!(totals.handshake_timeouts, 0);
}

/// A client that has said everything and only listens still gets its answers.
#[test]
fn answers_to_what_came_before_the_end_of_the_stream() {
    let mut engine = Engine::start();
    let mut raw = Raw::open(&engine, "/ws");
    raw.write(&text(r#"{"type":"ping"}"#).repeat(100));
    raw.stream.shutdown(Shutdown::Write).unwrap();
    for _ in 0..100 {
        assert_eq!(raw.read_text(), r#"{"type":"pong"}"#);
    }
    assert_eq!(raw.read_frame(), None);
    // More than is queued for one client: reading goes on when it has taken some.
    let mut raw = Raw::open(&engine, "/echo");
    let message = vec![0x5a; 3 << 20];
    raw.write(&frame(0x82, &message));
    raw.write(&frame(0x82, b"and then"));
    raw.stream.shutdown(Shutdown::Write).unwrap();
    assert!(raw.read_frame().expect("the echo").1 == message);
    assert_eq!(raw.read_frame(), Some((0x82, b"and then".to_vec())));
    assert_eq!(raw.read_frame(), None);
    engine.is_undisturbed();
    engine.finish();
}

#[test]
fn a_refused_request_and_then_the_end_of_the_stream() {
    let mut engine = Engine::start();
    let mut stream = engine.connect();
    stream.write_all(upgrade("/nowhere").as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert!(read_head(&mut stream).starts_with("HTTP/1.1 404 "));
    read_to_end(&mut stream).expect("an orderly end");
    engine.is_undisturbed();
    engine.finish();
}
