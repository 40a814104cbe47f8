//! The protocol as MessagePack: what is chosen at the upgrade, answers, errors, and what is kept of a
//! channel in both forms.

use crate::client::{Client, SUBPROTOCOL};
use crate::support::Server;
use rmpv::Value;
use rustix::process::Signal;
use serde_json::json;
use tungstenite::Message;

/// The subprotocol of this form.
const MSGPACK: &str = "ringwire.msgpack.v1";

/// A connection that speaks MessagePack.
struct Packed(Client);

fn map(fields: &[(&str, Value)]) -> Value {
    let field = |(name, value): &(&str, Value)| ((*name).into(), value.clone());
    Value::Map(fields.iter().map(field).collect())
}

/// A field of a map; nil when there is none.
fn field<'a>(frame: &'a Value, name: &str) -> &'a Value {
    let fields = frame.as_map().expect("a map");
    let found = fields.iter().find(|(key, _)| key.as_str() == Some(name));
    found.map_or(&Value::Nil, |(_, value)| value)
}

fn unpack(payload: &[u8]) -> Value {
    let mut rest = payload;
    let value = rmpv::decode::read_value(&mut rest).expect("MessagePack");
    assert!(rest.is_empty(), "more after {value}");
    value
}

impl Packed {
    fn open(server: &Server) -> Self {
        let (client, chosen) = Client::open_at(server, server.url(), Some(MSGPACK));
        assert_eq!(chosen.as_deref(), Some(MSGPACK));
        Self(client)
    }

    fn send_bytes(&mut self, bytes: &[u8]) {
        let message = Message::binary(bytes.to_vec());
        self.0.socket.send(message).expect("the connection is open");
    }

    fn receive(&mut self) -> Value {
        match self.0.receive_message() {
            Message::Binary(payload) => unpack(&payload),
            other => panic!("expected a binary message, got {other:?}"),
        }
    }

    fn ask(&mut self, fields: &[(&str, Value)]) -> Value {
        let mut bytes = Vec::new();
        rmpv::encode::write_value(&mut bytes, &map(fields)).unwrap();
        self.send_bytes(&bytes);
        self.receive()
    }

    fn is_alive(&mut self) {
        let pong = map(&[("type", "pong".into())]);
        assert_eq!(self.ask(&[("type", "ping".into())]), pong);
    }

    fn error(&mut self, code: &str) -> Value {
        let frame = self.receive();
        assert_eq!(field(&frame, "type").as_str(), Some("error"), "{frame}");
        assert_eq!(field(&frame, "code").as_str(), Some(code), "{frame}");
        frame
    }
}

#[test]
fn the_clients_first_choice_that_is_known_counts() {
    let server = Server::start();
    let both = format!("other.v1, {MSGPACK}, {SUBPROTOCOL}");
    let (client, chosen) = Client::open_at(&server, server.url(), Some(&both));
    assert_eq!(chosen.as_deref(), Some(MSGPACK));
    Packed(client).is_alive();
    let both = format!("{SUBPROTOCOL}, {MSGPACK}");
    let (mut client, chosen) = Client::open_at(&server, server.url(), Some(&both));
    assert_eq!(chosen.as_deref(), Some(SUBPROTOCOL));
    client.is_alive();
}

#[test]
fn commands_are_answered_in_msgpack() {
    let server = Server::start();
    let mut client = Packed::open(&server);
    let connect = client.ask(&[("type", "connect".into()), ("id", "me".into())]);
    assert_eq!(field(&connect, "id").as_str(), Some("me"));
    assert_eq!(field(&connect, "ping_interval_ms").as_u64(), Some(25_000));
    assert!(field(&connect, "connection_id").is_str() && field(&connect, "user_id").is_nil());
    for id in [
        Value::from("ünï"),
        "".into(),
        0.into(),
        (-7).into(),
        u64::MAX.into(),
    ] {
        let command = |kind: &str| {
            [
                ("type", kind.into()),
                ("channel", "c".into()),
                ("id", id.clone()),
            ]
        };
        let subscribed = client.ask(&command("subscribe"));
        assert_eq!(field(&subscribed, "type").as_str(), Some("subscribed"));
        assert_eq!(field(&subscribed, "channel").as_str(), Some("c"));
        assert_eq!(field(&subscribed, "id"), &id);
        assert!(field(&subscribed, "epoch").is_u64());
        let unsubscribed = client.ask(&command("unsubscribe"));
        let expected = map(&[
            ("type", "unsubscribed".into()),
            ("channel", "c".into()),
            ("id", id.clone()),
        ]);
        assert_eq!(unsubscribed, expected);
    }
    let publish = client.ask(&[
        ("type", "publish".into()),
        ("channel", "c".into()),
        ("data", Value::Binary(vec![0, 255])),
        ("id", 1.into()),
    ]);
    let data = map(&[("published", true.into()), ("offset", 1.into())]);
    let expected = map(&[
        ("type", "response".into()),
        ("id", 1.into()),
        ("data", data),
    ]);
    assert_eq!(publish, expected);
}

#[test]
fn errors_are_msgpack_and_leave_the_connection_open() {
    let server = Server::start();
    let mut client = Packed::open(&server);
    for (bytes, code) in [
        (b"".as_slice(), "invalid_msgpack"),
        (b"\x81\xa4type", "invalid_msgpack"),
        (b"{\"type\":\"ping\"}", "invalid_msgpack"),
        (b"\xc1", "invalid_msgpack"),
        (b"\xdf\xff\xff\xff\xff", "invalid_msgpack"),
        (b"\x80", "invalid_message"),
        (b"\x90", "invalid_message"),
        (b"\x81\xa4type\x07", "invalid_message"),
        (b"\x81\xa4type\xa3fly", "unknown_type"),
        (b"\x81\xa4type\xa4auth", "not_available"),
    ] {
        client.send_bytes(bytes);
        client.error(code);
    }
    // As it came, in eight bytes.
    client.send_bytes(b"\x82\xa2id\xcf\0\0\0\0\0\0\0\x07\xa4type\xa3fly");
    match client.0.receive_message() {
        Message::Binary(payload) => {
            assert!(
                payload.ends_with(b"\xa2id\xcf\0\0\0\0\0\0\0\x07"),
                "{payload:x?}"
            );
        }
        other => panic!("expected a binary message, got {other:?}"),
    }
    client.0.send_text("{\"type\":\"ping\"}");
    client.error("unsupported_data");
    client.is_alive();
}

/// A server that keeps 100 messages of every channel.
fn keeping() -> (Server, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ringwire.toml");
    std::fs::write(&file, "[[channels]]\nmatch = \"*\"\nhistory.size = 100\n").unwrap();
    let server = Server::with_arguments(&["--config", file.to_str().unwrap()], &[]);
    (server, folder)
}

#[test]
fn history_is_told_in_the_form_of_who_asks() {
    let (server, _folder) = keeping();
    let (mut text, mut packed) = (Client::open(&server), Packed::open(&server));
    let binary = Value::Binary(vec![0, 255]);
    let map_of_integers = Value::Map(vec![(1.into(), Value::Nil), ((-1).into(), f64::NAN.into())]);
    let extension = Value::Ext(5, b"xy".to_vec());
    let mut ids = 0..;
    for (said, heard) in [
        (binary.clone(), json!({"$base64": "AP8="})),
        (map_of_integers.clone(), json!({"1": null, "-1": null})),
        (
            Value::Array(vec![extension.clone(), 1.5.into()]),
            json!([{"$ext": [5, "eHk="]}, 1.5]),
        ),
    ] {
        let answer = packed.ask(&[
            ("type", "publish".into()),
            ("channel", "c".into()),
            ("data", said.clone()),
            ("key", "k".into()),
            ("id", ids.next().unwrap().into()),
        ]);
        assert_eq!(
            field(&answer, "type").as_str(),
            Some("response"),
            "{answer}"
        );
        let last = json!({"type": "history", "channel": "c", "limit": 1, "reverse": true});
        let page = text.ask(last);
        let message = &page["data"]["messages"][0];
        assert_eq!(message["data"], heard);
        assert_eq!(message["key"], "k");
        let page = packed.ask(&[
            ("type", "history".into()),
            ("channel", "c".into()),
            ("limit", 1.into()),
            ("reverse", true.into()),
        ]);
        let messages = field(field(&page, "data"), "messages")
            .as_array()
            .unwrap()
            .clone();
        // A NaN is not equal to itself.
        assert_eq!(field(&messages[0], "data").to_string(), said.to_string());
    }
    let answer = text.ask(json!({
        "type": "publish", "channel": "d", "data": {"n": [1, -1, 1.5], "b": {"$base64": "AP8="}}, "id": 1,
    }));
    assert_eq!(answer["type"], "response", "{answer}");
    let page = packed.ask(&[("type", "history".into()), ("channel", "d".into())]);
    let messages = field(field(&page, "data"), "messages")
        .as_array()
        .unwrap()
        .clone();
    let numbers = Value::Array(vec![1.into(), (-1).into(), 1.5.into()]);
    // serde_json sorts the members that it writes.
    assert_eq!(
        field(&messages[0], "data"),
        &map(&[("b", binary), ("n", numbers)])
    );
    assert!(field(&messages[0], "timestamp").is_f64());
}

#[test]
fn what_grows_in_json_is_bounded() {
    let (server, _folder) = keeping();
    let (mut text, mut packed) = (Client::open(&server), Packed::open(&server));
    let mut publish = |count: usize| {
        let nothing = Value::Array(vec![false.into(); count]);
        packed.ask(&[
            ("type", "publish".into()),
            ("channel", "c".into()),
            ("data", nothing),
            ("id", 1.into()),
        ])
    };
    // Each is a byte here and six there: the first is 1 MiB in JSON but for some bytes, the second more.
    let most = (1 << 20) / 6;
    for _ in 0..3 {
        assert_eq!(field(&publish(most), "type").as_str(), Some("response"));
    }
    let refused = publish(most + 1);
    assert_eq!(
        field(&refused, "code").as_str(),
        Some("message_too_big"),
        "{refused}"
    );
    // One at a time: the page was measured as it was published.
    let mut since = 0;
    for more in [true, true, false] {
        let page = text.ask(json!({"type": "history", "channel": "c", "since": {"offset": since}}));
        let data = &page["data"];
        assert_eq!(data["messages"].as_array().map(Vec::len), Some(1));
        assert_eq!(data["more"], more);
        since = data["messages"][0]["offset"].as_u64().unwrap();
    }
}

#[test]
fn the_farewell_is_msgpack() {
    let mut server = Server::start();
    let mut client = Packed::open(&server);
    client.is_alive();
    server.signal(Signal::TERM);
    let farewell = client.receive();
    assert_eq!(field(&farewell, "type").as_str(), Some("disconnect"));
    assert_eq!(field(&farewell, "code").as_u64(), Some(1001));
    assert_eq!(field(&farewell, "reconnect").as_bool(), Some(true));
    assert_eq!(client.0.closed().1, 1001);
    assert!(server.wait().success(), "{}", server.output());
}
