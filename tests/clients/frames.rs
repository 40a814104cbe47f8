//! RFC 6455 as a client's author meets it. All of it is Autobahn's business (`scripts/autobahn`); here
//! are the answers that docs/protocol.md promises.

use crate::client::Client;
use crate::support::Server;
use serde_json::json;
use std::io::Write as _;
use tungstenite::Message;
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{Data, OpCode};

const MESSAGE_BYTES: usize = 1 << 20;

/// A frame with a masking key of zeros, which leaves the payload as it is.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).expect("a short payload");
    assert!(length < 126);
    [&[first, 0x80 | length, 0, 0, 0, 0], payload].concat()
}

#[test]
fn fragments_make_one_message() {
    let server = Server::start();
    let mut client = Client::open(&server);
    client.subscribe("c");
    let text = json!({"type": "publish", "channel": "c", "data": "stück für stück"}).to_string();
    // Byte by byte: characters are cut in two, and a ping stands between two fragments.
    for (number, byte) in text.bytes().enumerate() {
        let opcode = if number == 0 {
            Data::Text
        } else {
            Data::Continue
        };
        let frame = Frame::message(vec![byte], OpCode::Data(opcode), false);
        client.socket.write(Message::Frame(frame)).unwrap();
        if number == 20 {
            client
                .socket
                .write(Message::Ping("between".into()))
                .unwrap();
        }
    }
    let last = Frame::message(Vec::new(), OpCode::Data(Data::Continue), true);
    client.socket.send(Message::Frame(last)).unwrap();
    assert_eq!(
        client.socket.read().unwrap(),
        Message::Pong("between".into())
    );
    assert_eq!(client.message("c"), (1, json!("stück für stück")));
}

#[test]
fn pings_are_answered_with_their_payload() {
    let server = Server::start();
    let mut client = Client::open(&server);
    for payload in [&b""[..], b"x", &[0xff; 125]] {
        client
            .socket
            .send(Message::Ping(payload.to_vec().into()))
            .unwrap();
        assert_eq!(
            client.socket.read().unwrap(),
            Message::Pong(payload.to_vec().into())
        );
    }
    client.socket.send(Message::Pong("unasked".into())).unwrap();
    client.send(json!({"type": "pong"}));
    assert_eq!(
        client.ask(json!({"type": "ping", "id": 3})),
        json!({"type": "pong", "id": 3})
    );
}

#[test]
fn largest_message_passes_and_a_larger_one_is_1009() {
    let server = Server::start();
    let (mut client, mut other) = (Client::open(&server), Client::open(&server));
    client.subscribe("c");
    other.subscribe("c");
    let shell = json!({"type": "publish", "channel": "c", "data": ""})
        .to_string()
        .len();
    let data = "x".repeat(MESSAGE_BYTES - shell);
    client.publish("c", data.as_str());
    assert_eq!(client.message("c"), (1, json!(data)));
    assert_eq!(other.message("c"), (1, json!(data)));
    // The header alone decides: of this message no byte is ever sent.
    let length = (MESSAGE_BYTES as u64 + 1).to_be_bytes();
    let header = [&[0x81, 0xff][..], &length, &[0; 4]].concat();
    client.socket.get_mut().write_all(&header).unwrap();
    assert_eq!(client.closed().1, 1009);
    other.is_alive();
}

#[test]
fn echo_sends_everything_back() {
    let server = Server::start();
    let (mut client, _) = Client::open_at(&server, &server.at("/echo"), None);
    let large = vec![b'y'; 3 * MESSAGE_BYTES];
    for message in [
        Message::text(""),
        Message::text("no JSON"),
        Message::binary(&b"\xff\x00"[..]),
        Message::binary(large),
    ] {
        client.socket.send(message.clone()).unwrap();
        assert!(client.receive_message() == message, "the echo differs");
    }
}

#[test]
fn close_codes_are_answered() {
    let server = Server::start();
    for code in [1000, 1001, 1011, 3000, 4999] {
        let mut client = Client::open(&server);
        let frame = CloseFrame {
            code: code.into(),
            reason: "bye".into(),
        };
        client.socket.close(Some(frame)).unwrap();
        assert_eq!(client.closed().1, code);
    }
    let mut client = Client::open(&server);
    client.socket.close(None).unwrap();
    assert_eq!(client.closed().1, 1005);
}

#[test]
fn violations_are_closed_with_their_code() {
    let server = Server::start();
    let text = |payload: &[u8]| masked(0x81, payload);
    let cases: [(&str, Vec<u8>, u16); 13] = [
        ("unmasked", vec![0x81, 0x01, b'x'], 1002),
        ("reserved bit", masked(0xc1, b"x"), 1002),
        ("reserved opcode", masked(0x83, b"x"), 1002),
        ("reserved control opcode", masked(0x8b, b""), 1002),
        ("nothing to continue", masked(0x80, b"x"), 1002),
        (
            "two messages at once",
            [masked(0x01, b"x"), text(b"y")].concat(),
            1002,
        ),
        ("fragmented ping", masked(0x09, b"x"), 1002),
        (
            "ping of 126 bytes",
            vec![0x89, 0xfe, 0, 126, 0, 0, 0, 0],
            1002,
        ),
        (
            "length in too many bytes",
            vec![0x81, 0xfe, 0, 5, 0, 0, 0, 0],
            1002,
        ),
        ("close frame of 1 byte", masked(0x88, b"\x03"), 1002),
        ("close code 1005", masked(0x88, b"\x03\xed"), 1002),
        ("text that is not UTF-8", text(b"\xc0\xaf"), 1007),
        // The first wrong byte is enough: the message never becomes complete.
        (
            "wrong byte in a fragment",
            masked(0x01, b"\xce\xba\xe1\xbd\xed\xa0\x80"),
            1007,
        ),
    ];
    for (name, bytes, code) in cases {
        let mut client = Client::open(&server);
        client.socket.get_mut().write_all(&bytes).unwrap();
        assert_eq!(client.closed().1, code, "{name}");
    }
    Client::open(&server).is_alive();
}

#[test]
fn control_frames_come_through_a_half_sent_message() {
    let server = Server::start();
    let mut client = Client::open(&server);
    let stream = client.socket.get_mut();
    stream.write_all(&masked(0x01, b"{\"type\":")).unwrap();
    let ping = Frame::ping(b"still there?".to_vec());
    client.socket.send(Message::Frame(ping)).unwrap();
    assert_eq!(
        client.socket.read().unwrap(),
        Message::Pong("still there?".into())
    );
    client
        .socket
        .get_mut()
        .write_all(&masked(0x80, b"\"ping\"}"))
        .unwrap();
    assert_eq!(client.receive(), json!({"type": "pong"}));
}
