//! Clients that are slow, and clients that never read: bounded, and at nobody else's cost.

use crate::engine::Engine;
use crate::raw::{Raw, frame, text};
use crate::support::eventually;
use serde_json::{Value, json};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

/// Messages that fit into no outbox a hundred times; the kernel buffers some megabytes.
const LARGE: usize = 30_000;

fn bounded(config: &mut ringwire::config::Config) {
    config.client.message_bytes = 32 << 10;
    config.client.outbox_bytes = 96 << 10;
}

/// Publishes until a subscriber is too slow; `quick` gets everything, one by one. Returns how
/// many messages that took.
fn flood(engine: &Engine, quick: &mut [crate::client::Client<TcpStream>]) -> u64 {
    let data = "x".repeat(LARGE);
    let mut speaker = engine.open();
    let mut number = 0;
    while engine.totals().slow_consumers == 0 {
        number += 1;
        assert!(number < 2000, "60 MB went somewhere");
        speaker.publish("flood", data.as_str());
        for client in &mut *quick {
            let (offset, got) = client.message("flood");
            assert_eq!(offset, number);
            assert!(got == data);
        }
    }
    speaker.bye();
    number
}

#[test]
fn a_slow_consumer_is_told_and_nobody_else_waits() {
    let mut engine = Engine::configured(|config| {
        bounded(config);
    });
    let mut slow = engine.open();
    slow.subscribe("flood");
    let mut quick: Vec<_> = (0..3).map(|_| engine.open()).collect();
    quick
        .iter_mut()
        .for_each(|client| _ = client.subscribe("flood"));
    let published = flood(&engine, &mut quick);
    engine.serves_others();
    quick[0].publish("flood", "after");
    for client in &mut quick {
        assert_eq!(client.message("flood"), (published + 1, json!("after")));
        client.bye();
    }
    // What it gets is the beginning, whole and in order, then why that was all.
    let (frames, end) = slow.closed();
    assert_eq!(end, Some((4010, "slow consumer".to_owned())));
    let (last, messages) = frames.split_last().expect("frames");
    assert_eq!(
        (&last["type"], &last["code"], &last["reconnect"]),
        (&json!("disconnect"), &json!(4010), &json!(true))
    );
    for (number, message) in (1..).zip(messages) {
        assert_eq!(message["offset"].as_u64(), Some(number));
        assert_eq!(message["data"].as_str().map(str::len), Some(LARGE));
    }
    drop(slow);
    engine.is_undisturbed();
    let totals = engine.finish();
    assert_eq!(totals.slow_consumers, 1);
    assert_eq!(totals.close_codes[&4010], 1);
    assert!(totals.dropped_bytes > 0 && totals.dropped_bytes < 96 << 10);
}

#[test]
fn a_client_that_never_reads_is_cut_off() {
    let mut engine = Engine::configured(|config| {
        bounded(config);
        config.timeouts.close_ms = 100;
    });
    let mut deaf = engine.open();
    deaf.subscribe("flood");
    flood(&engine, &mut []);
    // It holds its end open; the server does not wait for it.
    engine.is_undisturbed();
    drop(deaf);
    engine.finish();
}

/// Writes messages until the server takes no more. Returns how many bytes it took.
fn write_until_stuck(engine: &Engine, stream: &mut TcpStream, bytes: &[u8]) -> usize {
    stream.set_nonblocking(true).unwrap();
    let (mut written, mut taken, mut quiet) = (0, 0, 0);
    eventually("the server stops reading", || {
        match stream.write(&bytes[written % bytes.len()..]) {
            Ok(more) => {
                written += more;
                quiet = 0;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            // The server has given up already.
            Err(_) => return Some(()),
        }
        let now = engine.totals().bytes_in;
        quiet = if now == taken { quiet + 1 } else { 0 };
        taken = now;
        // Some megabytes go through at once, so that fifty looks without a byte are the end.
        (quiet > 50).then_some(())
    });
    stream.set_nonblocking(false).unwrap();
    written
}

#[test]
fn an_echo_that_nobody_reads_pauses_and_goes_on() {
    let mut engine = Engine::start();
    let mut raw = Raw::open(&engine, "/echo");
    let message: Vec<u8> = (0..100_000_u32).map(|number| number as u8).collect();
    let bytes = frame(0x82, &message);
    let before = engine.totals();
    let written = write_until_stuck(&engine, &mut raw.stream, &bytes);
    let after = engine.totals();
    let held = (after.bytes_in - before.bytes_in) - (after.bytes_out - before.bytes_out);
    assert!(held < 1 << 20, "{held} bytes wait in the server");
    engine.serves_others();
    // Now it reads: it gets every byte, and what it still has to say is read too.
    let mut stream = raw.stream.try_clone().unwrap();
    let rest = bytes[written % bytes.len()..].to_vec();
    let writing = thread::spawn(move || stream.write_all(&rest).unwrap());
    for _ in 0..=written / bytes.len() {
        let (first, echo) = raw.read_frame().expect("an echo");
        assert!(first == 0x82 && echo == message);
    }
    writing.join().unwrap();
    raw.write(&frame(0x81, b"alive"));
    assert_eq!(raw.read_text(), "alive");
    drop(raw);
    engine.is_undisturbed();
    engine.finish();
}

/// Whatever is answered is bounded: pongs, error frames, answers to commands.
#[test]
fn answers_that_nobody_reads_stop_the_questions() {
    for (path, question) in [
        ("/ws", frame(0x89, &[7; 125])),
        ("/ws", text("x")),
        ("/ws", text(r#"{"type":"connect","id":"0123456789"}"#)),
    ] {
        let mut engine = Engine::start();
        let mut raw = Raw::open(&engine, path);
        let written = write_until_stuck(&engine, &mut raw.stream, &question.repeat(1000));
        engine.serves_others();
        assert!(written > 0);
        drop(raw);
        engine.is_undisturbed();
        engine.finish();
    }
}

#[test]
fn a_send_without_progress_ends_the_connection() {
    let mut engine = Engine::configured(|config| config.timeouts.write_ms = 1000);
    let mut raw = Raw::open(&engine, "/echo");
    write_until_stuck(&engine, &mut raw.stream, &frame(0x82, &[7; 60_000]));
    engine.is_undisturbed();
    let totals = engine.totals();
    assert_eq!(
        (totals.write_timeouts, totals.close_codes.get(&4010)),
        (1, Some(&1))
    );
    drop(raw);
    engine.finish();
}

/// A client that reads slowly is alive as long as bytes move, though its pongs are not read.
#[test]
fn a_paused_client_is_not_taken_for_dead() {
    let engine = Engine::configured(|config| {
        config.heartbeat.interval_ms = 1000;
        config.heartbeat.timeout_ms = 2000;
    });
    let mut raw = Raw::open(&engine, "/echo");
    let bytes = frame(0x82, &vec![7; 50_000]);
    let written = write_until_stuck(&engine, &mut raw.stream, &bytes);
    let pings = engine.totals().pings;
    engine.wait_for("some heartbeats pass", |totals| totals.pings >= pings + 5);
    let rest = bytes[written % bytes.len()..].to_vec();
    let mut stream = raw.stream.try_clone().unwrap();
    let writing = thread::spawn(move || stream.write_all(&rest).unwrap());
    let mut echoes = 0;
    while echoes <= written / bytes.len() {
        match raw.read_frame().expect("still connected") {
            (0x82, echo) => {
                assert_eq!(echo.len(), 50_000);
                echoes += 1;
            }
            (first, _) => assert_eq!(first, 0x89),
        }
    }
    writing.join().unwrap();
    drop(raw);
    engine.finish();
}

/// One byte now and then is a sign of life, whatever it belongs to.
#[test]
fn a_trickle_keeps_a_connection_alive() {
    let engine = Engine::configured(|config| {
        config.heartbeat.interval_ms = 1000;
        config.heartbeat.timeout_ms = 3000;
    });
    let mut raw = Raw::open(&engine, "/ws");
    let message = text(&json!({"type": "ping", "id": "slowly, but surely".repeat(10)}).to_string());
    let (last, trickle) = message.split_last().expect("bytes");
    let mut trickle = trickle.chunks(1);
    // Longer than a silent client would live.
    let pings = engine.totals().pings + 10;
    engine.wait_for("ten pings went out", |totals| {
        thread::sleep(Duration::from_millis(20));
        if let Some(byte) = trickle.next() {
            raw.stream.write_all(byte).expect("the connection is open");
            thread::sleep(Duration::from_millis(30));
        }
        totals.pings >= pings
    });
    raw.write(&trickle.collect::<Vec<_>>().concat());
    raw.write(&[*last]);
    let pong = loop {
        match raw.read_frame().expect("still connected") {
            (0x89, _) => {}
            (first, payload) => {
                assert_eq!(first, 0x81);
                break serde_json::from_slice::<Value>(&payload).unwrap();
            }
        }
    };
    assert_eq!(pong["type"], "pong");
    assert_eq!(engine.totals().heartbeat_timeouts, 0);
    drop(raw);
    engine.finish();
}

/// A client that takes a few bytes at a time gets everything, however long that takes.
#[test]
fn a_client_that_sips_gets_everything() {
    let mut engine = Engine::start();
    let mut raw = Raw::open(&engine, "/echo");
    let message = vec![0x33; 200_000];
    raw.write(&frame(0x82, &message));
    let mut echo = Vec::new();
    let mut sip = [0; 700];
    while echo.len() < 10 + message.len() {
        let read = raw.stream.read(&mut sip).unwrap();
        assert!(read > 0, "it is over after {} bytes", echo.len());
        echo.extend_from_slice(&sip[..read]);
    }
    assert!(echo[10..] == message);
    drop(raw);
    engine.is_undisturbed();
    engine.finish();
}
