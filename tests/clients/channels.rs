//! The protocol of the channels: every command, every error, and the order of messages.

use crate::client::{Client, SUBPROTOCOL};
use crate::support::Server;
use serde_json::json;
use std::thread;
use tungstenite::Message;

#[test]
fn subprotocol_may_be_offered_or_not() {
    let server = Server::start();
    for (offer, expected) in [
        (None, None),
        (Some(SUBPROTOCOL), Some(SUBPROTOCOL)),
        (Some("other.v1, ringwire.json.v1"), Some(SUBPROTOCOL)),
    ] {
        let (mut client, chosen) = Client::open_at(&server, server.url(), offer);
        assert_eq!(chosen.as_deref(), expected, "offered {offer:?}");
        client.is_alive();
    }
    let (mut client, _) = Client::open_at(&server, &server.at("/?a=b"), None);
    client.is_alive();
}

#[test]
fn connect_says_who_we_are() {
    let server = Server::start();
    let (mut one, mut two) = (Client::open(&server), Client::open(&server));
    let first = one.ask(json!({"type": "connect", "id": 1}));
    assert_eq!(
        (&first["type"], &first["id"]),
        (&json!("connect"), &json!(1))
    );
    assert!(
        first["user_id"].is_null() && first.get("user_id").is_some(),
        "{first}"
    );
    assert_eq!(first["ping_interval_ms"], 25_000);
    let second = two.ask(json!({"type": "connect"}));
    assert!(second.get("id").is_none(), "{second}");
    assert!(first["connection_id"].is_string());
    assert_ne!(first["connection_id"], second["connection_id"]);
}

#[test]
fn two_clients_talk() {
    let server = Server::start();
    let (mut one, mut two) = (Client::open(&server), Client::open(&server));
    let (offset, epoch) = one.subscribe("news");
    assert_eq!(offset, 0, "nothing was published yet");
    one.publish("news", "first");
    assert_eq!(one.message("news"), (1, json!("first")));
    assert_eq!(
        two.subscribe("news"),
        (1, epoch),
        "the same count, one message on"
    );
    assert!(epoch < 1 << 48, "exact in every JSON parser");
    two.send(json!({"type": "message", "channel": "news", "data": {"text": "grüße"}}));
    for client in [&mut one, &mut two] {
        let mut frame = client.receive();
        let timestamp = frame["timestamp"].take().as_f64().expect("a number");
        assert!(timestamp > 1.6e9, "seconds since 1970");
        let expected = json!({
            "type": "message", "channel": "news", "from": null, "data": {"text": "grüße"}, "offset": 2, "timestamp": null,
        });
        assert_eq!(frame, expected);
    }
}

#[test]
fn publishing_needs_no_subscription() {
    let server = Server::start();
    let (mut speaker, mut listener) = (Client::open(&server), Client::open(&server));
    listener.subscribe("news");
    let answer =
        speaker.ask(json!({"type": "publish", "channel": "news", "data": null, "id": "x"}));
    assert_eq!(
        answer,
        json!({"type": "response", "id": "x", "data": {"published": true, "offset": 1}})
    );
    assert_eq!(listener.message("news"), (1, json!(null)));
    speaker.is_alive();
}

#[test]
fn echo_false_keeps_the_copy_from_this_connection_only() {
    let server = Server::start();
    let (mut one, mut two) = (Client::open(&server), Client::open(&server));
    one.subscribe("c");
    two.subscribe("c");
    let answer =
        one.ask(json!({"type": "publish", "channel": "c", "data": 1, "id": 1, "echo": false}));
    assert_eq!(answer["data"]["offset"], 1);
    one.is_alive();
    one.publish("c", 2);
    assert_eq!(
        one.message("c"),
        (2, json!(2)),
        "the unheard message took an offset too"
    );
    assert_eq!(two.message("c"), (1, json!(1)));
    assert_eq!(two.message("c"), (2, json!(2)));
}

#[test]
fn unsubscribed_means_silence() {
    let server = Server::start();
    let (mut one, mut two) = (Client::open(&server), Client::open(&server));
    let (_, epoch) = one.subscribe("c");
    two.subscribe("c");
    let answer = one.ask(json!({"type": "unsubscribe", "channel": "c", "id": 9}));
    assert_eq!(
        answer,
        json!({"type": "unsubscribed", "channel": "c", "id": 9})
    );
    two.publish("c", "unheard");
    two.message("c");
    one.is_alive();
    one.send(json!({"type": "unsubscribe", "channel": "c", "id": 10}));
    assert_eq!(one.error("not_subscribed")["id"], 10);
    assert_eq!(one.subscribe("c"), (1, epoch), "the count went on");
    assert_eq!(
        one.subscribe("c"),
        (1, epoch),
        "subscribing twice changes nothing"
    );
    two.publish("c", "heard once");
    one.message("c");
    one.is_alive();
}

#[test]
fn ids_and_data_keep_their_bytes() {
    let server = Server::start();
    let mut client = Client::open(&server);
    client.subscribe("c");
    for id in [
        r#""""#,
        r#""a""#,
        r#""\u00e9\n""#,
        "0",
        "-1",
        "18446744073709551617",
    ] {
        client.send_text(&format!(
            r#"{{"type":"unsubscribe","channel":"none","id":{id}}}"#
        ));
        let answer = client.receive_text();
        assert!(
            answer.contains(&format!(r#""id":{id}"#)),
            "{id} in {answer}"
        );
    }
    for data in [
        r#"{"b":1.50,"a":1e400,"a":  "\u0041\/"}"#,
        "[ ]",
        "-0.0",
        "\"\u{1f9a6}\"",
    ] {
        client.send_text(&format!(
            r#"{{"data":{data},"channel":"c","type":"publish"}}"#
        ));
        let message = client.receive_text();
        assert!(
            message.contains(&format!(r#""data":{data}"#)),
            "{data} in {message}"
        );
    }
    client.send(json!({"type": "publish", "channel": "c\"\\é", "data": 1, "id": null}));
    client.is_alive();
}

#[test]
fn errors_leave_the_connection_open() {
    let server = Server::start();
    let mut client = Client::open(&server);
    let long = format!(r#"{{"type":"subscribe","channel":"{}"}}"#, "é".repeat(128));
    let deep = "[".repeat(100_000);
    for (text, code) in [
        ("", "invalid_json"),
        ("nonsense", "invalid_json"),
        ("{\"type\":\"ping\"", "invalid_json"),
        ("{\"type\":\"ping\"}{}", "invalid_json"),
        ("{\"type\":\"ping\",\"data\":\"\u{1}\"}", "invalid_json"),
        ("[]", "invalid_message"),
        ("7", "invalid_message"),
        ("{}", "invalid_message"),
        (r#"{"type":null}"#, "invalid_message"),
        (r#"{"type":"subscribe","id":1}"#, "invalid_message"),
        (r#"{"type":"subscribe","channel":""}"#, "invalid_message"),
        (r#"{"type":"subscribe","channel":["c"]}"#, "invalid_message"),
        (
            r#"{"type":"subscribe","channel":"a\u0000b"}"#,
            "invalid_message",
        ),
        (r#"{"type":"publish","channel":"c"}"#, "invalid_message"),
        (
            r#"{"type":"publish","channel":"c","data":1,"echo":"no"}"#,
            "invalid_message",
        ),
        (r#"{"type":"ping","id":1.5}"#, "invalid_message"),
        (r#"{"type":"ping","id":{}}"#, "invalid_message"),
        (r#"{"type":"fly"}"#, "unknown_type"),
        (r#"{"type":"PING"}"#, "unknown_type"),
        (&long, "invalid_message"),
    ] {
        client.send_text(text);
        let error = client.receive();
        assert_eq!(
            (&error["type"], &error["code"]),
            (&json!("error"), &json!(code)),
            "{text}: {error}"
        );
    }
    client.send_text(&deep);
    assert_eq!(client.receive()["type"], "error", "deep nesting");
    for reserved in ["request", "auth"] {
        client.send(json!({"type": reserved, "channel": "c", "id": reserved}));
        assert_eq!(client.error("not_available")["id"], reserved);
    }
    for denied in ["direct", "broadcast"] {
        client.send(json!({"type": denied, "to": "42", "data": 1, "id": denied}));
        assert_eq!(client.error("forbidden")["id"], denied);
    }
    client.is_alive();
}

#[test]
fn binary_is_unsupported_data() {
    let server = Server::start();
    let mut client = Client::open(&server);
    for bytes in [&b"{\"type\":\"ping\"}"[..], b"", b"\xff\xfe"] {
        client.socket.send(Message::binary(bytes)).unwrap();
        client.error("unsupported_data");
    }
    client.is_alive();
}

#[test]
fn subscriptions_have_a_limit() {
    let server = Server::start();
    let mut client = Client::open(&server);
    for number in 0..128 {
        client.subscribe(&format!("c{number}"));
    }
    client.send(json!({"type": "subscribe", "channel": "one more", "id": 1}));
    assert_eq!(client.error("too_many_channels")["id"], 1);
    client.subscribe("c0");
    assert_eq!(
        client.ask(json!({"type": "unsubscribe", "channel": "c0"}))["type"],
        "unsubscribed"
    );
    client.subscribe("one more");
}

#[test]
fn all_subscribers_see_one_order() {
    const PUBLISHERS: usize = 4;
    const EACH: u64 = 200;
    let server = Server::start();
    // Enough connections that both shards have some, whichever way they are balanced.
    let mut listeners: Vec<Client> = (0..8).map(|_| Client::open(&server)).collect();
    let position = listeners[0].subscribe("busy");
    for listener in &mut listeners[1..] {
        assert_eq!(listener.subscribe("busy"), position);
    }
    thread::scope(|scope| {
        for publisher in 0..PUBLISHERS {
            let server = &server;
            scope.spawn(move || {
                let mut client = Client::open(server);
                for number in 0..EACH {
                    client.send(json!({"type": "publish", "channel": "busy", "data": [publisher, number], "id": number}));
                }
                let mut last = 0;
                for number in 0..EACH {
                    let answer = client.receive();
                    assert_eq!(answer["id"], number, "answers keep the order of one connection's publishes");
                    let offset = answer["data"]["offset"].as_u64().unwrap();
                    assert!(offset > last);
                    last = offset;
                }
            });
        }
    });
    let total = PUBLISHERS as u64 * EACH;
    let read = |client: &mut Client| -> Vec<_> {
        (1..=total)
            .map(|expected| {
                let (offset, data) = client.message("busy");
                assert_eq!(offset, expected, "no gap");
                data
            })
            .collect()
    };
    let order = read(&mut listeners[0]);
    for listener in &mut listeners[1..] {
        assert_eq!(read(listener), order);
    }
    for publisher in 0..PUBLISHERS {
        let own = order
            .iter()
            .filter(|data| data[0] == publisher)
            .map(|data| data[1].as_u64().unwrap());
        assert!(
            own.eq(0..EACH),
            "one connection's messages keep their order"
        );
    }
}

#[test]
fn many_channels_reach_only_their_subscribers() {
    let server = Server::start();
    let mut clients: Vec<Client> = (0..6).map(|_| Client::open(&server)).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.subscribe(&format!("own {number}"));
        client.subscribe("all");
    }
    let mut speaker = Client::open(&server);
    for number in 0..clients.len() {
        let answer = speaker.ask(
            json!({"type": "publish", "channel": format!("own {number}"), "data": number, "id": 0}),
        );
        assert_eq!(answer["data"]["offset"], 1);
    }
    speaker.publish("all", "end");
    for (number, client) in clients.iter_mut().enumerate() {
        // Channels have no order among each other.
        let mut seen = [client.receive(), client.receive()]
            .map(|frame| frame["channel"].as_str().unwrap().to_owned());
        seen.sort();
        assert_eq!(seen, ["all".to_owned(), format!("own {number}")]);
        client.is_alive();
    }
}
