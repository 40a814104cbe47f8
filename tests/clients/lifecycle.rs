//! How connections end: shutdown, silence, slowness, resets in every state; and that others don't
//! notice.

use crate::client::Client;
use crate::support::{PATIENCE, Server, eventually};
use rustix::process::Signal;
use serde_json::{Value, json};
use socket2::SockRef;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;
use tungstenite::Message;

/// The last frame before a close that the server began.
fn disconnect(frames: &[String]) -> Value {
    let frame: Value =
        serde_json::from_str(frames.last().expect("a frame before the close")).unwrap();
    assert_eq!(frame["type"], "disconnect", "{frame}");
    frame
}

#[test]
fn shutdown_tells_everybody_and_ends_with_success() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut server = Server::start();
        let mut clients: Vec<Client> = (0..10).map(|_| Client::open(&server)).collect();
        for client in &mut clients {
            client.subscribe("c");
        }
        let (mut echo, _) = Client::open_at(&server, &server.at("/echo"), None);
        echo.socket.send(Message::text("x")).unwrap();
        echo.receive_message();
        // A connection that never says a word must not hold the server up.
        let _silent = server.connect();
        server.signal(signal);
        for client in &mut clients {
            let (frames, code, reason) = client.closed();
            assert_eq!((code, reason.as_str()), (1001, "server shutting down"));
            let frame = disconnect(&frames);
            assert_eq!(
                (&frame["code"], &frame["reason"]),
                (&json!(1001), &json!("server shutting down"))
            );
            assert_eq!(frame["reconnect"], true);
            assert!(frame["after_ms"].is_u64(), "{frame}");
        }
        let (frames, code, _) = echo.closed();
        assert_eq!(
            (frames.len(), code),
            (0, 1001),
            "an echo says nothing of its own"
        );
        assert!(server.wait().success(), "{}", server.output());
        let refused = TcpStream::connect_timeout(&server.address(), PATIENCE);
        assert_eq!(
            refused.expect_err("nobody listens").kind(),
            ErrorKind::ConnectionRefused
        );
    }
}

#[test]
fn a_second_signal_ends_at_once() {
    // Without the second signal this would take ten minutes: the client never answers the close.
    let ten_minutes = "600000";
    let mut server = Server::configured(&[
        ("RINGWIRE_TIMEOUTS_DRAIN_MS", ten_minutes),
        ("RINGWIRE_TIMEOUTS_CLOSE_MS", ten_minutes),
    ]);
    let mut client = Client::open(&server);
    client.is_alive();
    server.signal(Signal::TERM);
    let mut byte = [0];
    client
        .socket
        .get_mut()
        .read_exact(&mut byte)
        .expect("the first byte of the farewell");
    server.signal(Signal::TERM);
    server.wait();
}

#[test]
fn who_gives_no_sign_of_life_is_closed() {
    let server = Server::configured(&[
        ("RINGWIRE_HEARTBEAT_INTERVAL_MS", "1000"),
        ("RINGWIRE_HEARTBEAT_TIMEOUT_MS", "1000"),
    ]);
    let (mut mute, mut lively) = (Client::open(&server), Client::open(&server));
    assert_eq!(
        lively.ask(json!({"type": "connect"}))["ping_interval_ms"],
        1000
    );
    // One reads pings and answers them, as tungstenite does by itself; the other reads bytes only.
    let bytes = thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let mut bytes = Vec::new();
            let stream = mute.socket.get_mut();
            stream.read_to_end(&mut bytes).expect("the server closes");
            bytes
        });
        while !reading.is_finished() {
            assert!(matches!(lively.socket.read().unwrap(), Message::Ping(_)));
            lively.socket.flush().unwrap();
        }
        reading.join().expect("a close frame")
    });
    let close = bytes
        .windows(4)
        .position(|part| part[0] == 0x88 && part[2..] == 1001_u16.to_be_bytes());
    let close = close.unwrap_or_else(|| panic!("no close frame with 1001 in {bytes:?}"));
    assert!(bytes[close..].ends_with(b"no sign of life"));
    assert_eq!(bytes[..2], [0x89, 0], "a ping came first");
    lively.is_alive();
}

#[test]
fn an_unfinished_handshake_is_closed() {
    let server = Server::configured(&[("RINGWIRE_TIMEOUTS_HANDSHAKE_MS", "300")]);
    let mut open = Client::open(&server);
    for part in [
        "",
        "G",
        "GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n",
    ] {
        let mut stream = server.connect();
        stream.write_all(part.as_bytes()).unwrap();
        let mut answer = Vec::new();
        // Closed with an answer or with none, by a FIN or a reset; but closed.
        let read = stream.read_to_end(&mut answer);
        let timed_out = |kind| matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut);
        assert!(
            !read.is_err_and(|error| timed_out(error.kind())),
            "still open after {part:?}"
        );
        assert!(!answer.starts_with(b"HTTP/1.1 101"));
    }
    open.is_alive();
}

#[test]
fn a_slow_consumer_is_disconnected_and_nobody_else_waits() {
    const MESSAGES: u64 = 600;
    let server = Server::configured(&[
        ("RINGWIRE_CLIENT_MESSAGE_BYTES", "65536"),
        ("RINGWIRE_CLIENT_OUTBOX_BYTES", "131072"),
        // The outbox is to overflow first, and the client to read what is left in the end, however slow
        // the machine.
        ("RINGWIRE_TIMEOUTS_WRITE_MS", "600000"),
        ("RINGWIRE_TIMEOUTS_CLOSE_MS", "600000"),
    ]);
    let (mut slow, mut quick, mut speaker) = (
        Client::open(&server),
        Client::open(&server),
        Client::open(&server),
    );
    slow.subscribe("flood");
    quick.subscribe("flood");
    let data = json!("x".repeat(60_000));
    // 36 MB: more than the outbox and what the kernel buffers at both ends.
    for number in 1..=MESSAGES {
        speaker.publish("flood", data.clone());
        assert_eq!(quick.message("flood").0, number);
    }
    let (frames, code, reason) = slow.closed();
    assert_eq!((code, reason.as_str()), (4010, "slow consumer"));
    let frame = disconnect(&frames);
    assert_eq!(
        (&frame["code"], &frame["reconnect"]),
        (&json!(4010), &json!(true))
    );
    // What did come is whole and in order.
    for (number, text) in (1_u64..).zip(&frames[..frames.len() - 1]) {
        let frame: Value = serde_json::from_str(text).unwrap();
        assert_eq!(frame["offset"], number);
        assert_eq!(frame["data"], data);
    }
    assert!((frames.len() as u64) < MESSAGES);
    let mut again = Client::open(&server);
    assert_eq!(again.subscribe("flood").0, MESSAGES);
    speaker.is_alive();
    eventually("the log says that somebody was cut off", || {
        let output = server.output();
        output
            .lines()
            .any(|line| line.contains("INFO") && line.contains("read too slowly"))
            .then_some(())
    });
}

#[test]
fn resets_in_every_state_disturb_nobody() {
    let server = Server::start();
    let mut witness = Client::open(&server);
    witness.subscribe("c");
    let reset = |stream: &TcpStream| {
        SockRef::from(stream)
            .set_linger(Some(Duration::ZERO))
            .unwrap()
    };
    for round in 0..20 {
        for part in [
            "",
            "GET /ws HTTP/1.1\r\nHo",
            "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            "\0\0\0",
        ] {
            let mut stream = server.connect();
            reset(&stream);
            stream.write_all(part.as_bytes()).unwrap();
        }
        // Half a frame header, half a payload, half a message, and a whole publish nobody waits for.
        let publish = br#"{"type":"publish","channel":"c","data":"left","id":1}"#;
        let length = 0x80 | publish.len() as u8;
        let whole = [&[0x81, length, 0, 0, 0, 0], &publish[..]].concat();
        for part in [
            &b""[..],
            b"\x81",
            b"\x81\x85\0\0\0\0he",
            b"\x01\x82\0\0\0\0he",
            &whole,
        ] {
            let mut client = Client::open(&server);
            client.subscribe(&format!("own {round}"));
            // The last thing read: what the rounds before left behind may come at any time.
            client.subscribe("c");
            let stream = client.socket.get_mut();
            reset(stream);
            stream.write_all(part).unwrap();
        }
    }
    // Publishes that were read before their connection's reset took an offset; the rest is gone.
    let mut last = 0;
    witness.send(json!({"type": "publish", "channel": "c", "data": "end", "id": "end"}));
    loop {
        let frame = witness.receive();
        if frame["type"] == "response" {
            continue;
        }
        last += 1;
        assert_eq!(frame["offset"], last, "{frame}");
        if frame["data"] == "end" {
            break;
        }
        assert_eq!(frame["data"], "left");
    }
    // A later connection in the same places gets nothing of the earlier ones.
    let mut fresh = Client::open(&server);
    fresh.is_alive();
}

#[test]
fn places_of_closed_connections_are_used_again() {
    let server = Server::configured(&[("RINGWIRE_CLIENT_CONNECTIONS_PER_SHARD", "64")]);
    for _ in 0..10 {
        let mut clients: Vec<Client> = (0..40).map(|_| Client::open(&server)).collect();
        for client in &mut clients {
            client.is_alive();
            client.socket.close(None).unwrap();
        }
        for client in &mut clients {
            client.closed();
        }
    }
    // What the server still has to close, it closes.
    eventually("a new connection gets through", || {
        let mut client = Client::open(&server);
        client.is_alive();
        Some(())
    });
}
