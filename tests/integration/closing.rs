//! How connections and servers end when somebody means it: close handshakes, heartbeats, drains.

use crate::client::Client;
use crate::engine::{Engine, config, connect};
use crate::raw::{Raw, frame, text};
use crate::support::{PATIENCE, eventually};
use ringwire::config::Listen;
use ringwire::{Server, StartError};
use serde_json::json;
use std::io::{ErrorKind, Write as _};
use std::net::TcpStream;
use std::thread;
use tungstenite::protocol::CloseFrame;

#[test]
fn a_close_frame_is_answered_with_its_code() {
    let mut engine = Engine::start();
    for code in [1000, 1001, 1003, 1008, 1011, 3000, 4010, 4999] {
        let mut client = engine.open();
        client.subscribe("c");
        let reason = "because".into();
        let close = CloseFrame {
            code: code.into(),
            reason,
        };
        client.socket.close(Some(close)).unwrap();
        assert_eq!(client.closed().1, Some((code, String::new())));
        engine.is_undisturbed();
        drop(client);
    }
    let totals = engine.finish();
    assert_eq!(totals.close_codes[&1008], 1);
    assert_eq!(totals.protocol_errors, 0);
}

/// Nothing of it may be taken for a message.
#[test]
fn what_follows_a_close_frame_is_ignored() {
    let mut engine = Engine::start();
    let publish = text(r#"{"type":"publish","channel":"witness","data":"from the grave"}"#);
    let close = frame(0x88, b"\x03\xe8");
    // In one piece, and as an endless stream.
    let mut raw = Raw::open(&engine, "/ws");
    raw.write(&[close.clone(), publish.clone(), vec![0xff; 100]].concat());
    assert_eq!(raw.close_code(), Some(1000));
    engine.is_undisturbed();
    drop(raw);
    let mut raw = Raw::open(&engine, "/ws");
    raw.write(&close);
    while raw.stream.write_all(&publish).is_ok() {}
    engine.is_undisturbed();
    drop(raw);
    engine.finish();
}

#[test]
fn silence_is_closed_with_1001_and_an_answer_ends_it() {
    let engine = Engine::configured(|config| {
        config.heartbeat.interval_ms = 1000;
        config.heartbeat.timeout_ms = 2000;
    });
    let mut silent = Raw::open(&engine, "/ws");
    engine.wait_for("it is closed", |totals| totals.heartbeat_timeouts == 1);
    assert_eq!(silent.read_frame(), Some((0x89, Vec::new())));
    let farewell = silent.read_text();
    assert!(
        farewell.contains("\"disconnect\"") && farewell.contains("1001"),
        "{farewell}"
    );
    assert_eq!(
        silent.read_frame(),
        Some((0x88, b"\x03\xe9no sign of life".to_vec()))
    );
    // The deadline is far away: the answer is what ends the connection, and the server closes first.
    silent.write(&frame(0x88, b"\x03\xe9"));
    assert_eq!(silent.read_frame(), None);
    engine.wait_for("it is gone", |totals| totals.connections == 1);
    drop(silent);
    engine.finish();
}

#[test]
fn who_never_answers_a_close_is_cut_off() {
    let engine = Engine::configured(|config| {
        config.heartbeat.interval_ms = 1000;
        config.heartbeat.timeout_ms = 2000;
        config.timeouts.close_ms = 200;
    });
    let silent = Raw::open(&engine, "/ws");
    let mut stubborn = Raw::open(&engine, "/ws");
    engine.wait_for("both are closed", |totals| totals.heartbeat_timeouts == 2);
    // Talking is no answer. What it says is ignored: nothing reaches the witness.
    let publish = text(r#"{"type":"publish","channel":"witness","data":"still talking"}"#);
    while stubborn.stream.write_all(&publish).is_ok() {}
    engine.wait_for("both are gone", |totals| totals.connections == 1);
    drop((silent, stubborn));
    engine.finish();
}

#[test]
fn pongs_keep_a_connection() {
    let engine = Engine::configured(|config| {
        config.heartbeat.interval_ms = 1000;
        config.heartbeat.timeout_ms = 2000;
    });
    let mut raw = Raw::open(&engine, "/ws");
    let before = engine.totals().pings;
    let answering = thread::spawn(move || {
        for _ in 0..4 {
            let (first, payload) = raw.read_frame().expect("still connected");
            assert_eq!(first, 0x89);
            raw.write(&frame(0x8a, &payload));
        }
        raw
    });
    engine.wait_for("four pings are answered", |_| answering.is_finished());
    drop(answering.join().unwrap());
    assert!(engine.totals().pings >= before + 4);
    assert_eq!(engine.totals().heartbeat_timeouts, 0);
    engine.finish();
}

#[test]
fn draining_says_goodbye_and_refuses_new_connections() {
    let server = Server::builder().config(config(|_| ()));
    let running = server.build().unwrap().start().unwrap();
    let Listen::Tcp(address) = running.addresses()[0] else {
        panic!("a TCP listener")
    };
    let mut clients: Vec<_> = (0..20)
        .map(|_| Client::over(connect(address), "/ws"))
        .collect();
    let mut echo = Client::over(connect(address), "/echo");
    let mut stubborn = Client::over(connect(address), "/ws");
    let half_open = connect(address);
    for client in &mut clients {
        client.subscribe("c");
    }
    running.drain_handle().drain();
    // Twice is as good as once.
    running.drain_handle().drain();
    for client in &mut clients {
        let (frames, end) = client.closed();
        assert_eq!(end, Some((1001, "server shutting down".to_owned())));
        let [disconnect] = &frames[..] else {
            panic!("{frames:?}")
        };
        assert_eq!(disconnect["type"], "disconnect");
        assert_eq!(disconnect["code"], 1001);
        assert_eq!(disconnect["reconnect"], true);
    }
    assert_eq!(
        echo.closed(),
        (Vec::new(), Some((1001, "server shutting down".to_owned())))
    );
    eventually("only the one that does not answer is left", || {
        (running.totals().connections == 1).then_some(())
    });
    // It holds the server up, but nobody gets in any more.
    assert_eq!(
        TcpStream::connect(address).unwrap_err().kind(),
        ErrorKind::ConnectionRefused
    );
    assert_eq!(
        stubborn.closed().1,
        Some((1001, "server shutting down".to_owned()))
    );
    running
        .wait(PATIENCE.as_millis() as u32)
        .expect("everybody is gone");
    drop(half_open);
}

#[test]
fn who_does_not_close_is_left_behind_after_the_drain_timeout() {
    let server = Server::builder().config(config(|config| config.timeouts.close_ms = 3000));
    let running = server.build().unwrap().start().unwrap();
    let Listen::Tcp(address) = running.addresses()[0] else {
        panic!("a TCP listener")
    };
    let mut stubborn: Vec<_> = (0..3)
        .map(|_| Client::over(connect(address), "/ws"))
        .collect();
    stubborn.iter_mut().for_each(Client::is_alive);
    match running.stop(100) {
        Err(StartError::DrainTimeout {
            connections: 3,
            drain_ms: 100,
        }) => {}
        other => panic!("{other:?}"),
    }
    drop(stubborn);
}

/// Dropping a running server ends it like a drain.
#[test]
fn a_dropped_server_closes_its_connections() {
    let running = Server::builder()
        .config(config(|_| ()))
        .build()
        .unwrap()
        .start()
        .unwrap();
    let Listen::Tcp(address) = running.addresses()[0] else {
        panic!("a TCP listener")
    };
    let mut client = Client::over(connect(address), "/ws");
    client.is_alive();
    let reading = thread::spawn(move || client.closed());
    drop(running);
    let (frames, end) = reading.join().unwrap();
    assert_eq!(end, Some((1001, "server shutting down".to_owned())));
    assert_eq!(
        frames[0],
        json!({"type": "disconnect", "code": 1001, "reason": "server shutting down", "reconnect": true, "after_ms": 1000})
    );
    assert_eq!(
        TcpStream::connect(address).unwrap_err().kind(),
        ErrorKind::ConnectionRefused
    );
}
