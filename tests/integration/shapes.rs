//! One channel, subscribers that speak JSON and MessagePack, one by one and in batches.

use crate::engine::{Engine, connect};
use serde_json::json;
use std::net::TcpStream;
use tungstenite::client::IntoClientRequest;
use tungstenite::{Message, WebSocket};

const CHANNEL: &str = "all";

/// A subscriber that speaks MessagePack.
fn packed(engine: &Engine, batch: bool) -> WebSocket<TcpStream> {
    let url = format!("ws://{}/ws", engine.address());
    let mut request = url.into_client_request().expect("a request");
    let subprotocol = "ringwire.msgpack.v1".parse().expect("a header");
    let headers = request.headers_mut();
    headers.insert("Sec-WebSocket-Protocol", subprotocol);
    let (mut socket, _) =
        tungstenite::client(request, connect(engine.address())).expect("upgraded");
    let mut subscribe = Vec::new();
    let value = rmpv::Value::Map(vec![
        ("type".into(), "subscribe".into()),
        ("channel".into(), CHANNEL.into()),
        ("batch".into(), batch.into()),
    ]);
    rmpv::encode::write_value(&mut subscribe, &value).expect("it is written");
    socket.send(Message::binary(subscribe)).expect("it is sent");
    assert_eq!(hear(&mut socket)["type"].as_str(), Some("subscribed"));
    socket
}

fn hear(socket: &mut WebSocket<TcpStream>) -> rmpv::Value {
    let message = socket.read().expect("a message");
    assert!(message.is_binary(), "{message}");
    let mut bytes = &message.into_data()[..];
    rmpv::decode::read_value(&mut bytes).expect("MessagePack")
}

#[test]
fn a_message_is_written_once_per_shape() {
    let engine = Engine::configured(|config| config.shards = Some(1));
    let shapes = [false, true];
    let subscribers = || shapes.iter().flat_map(|batch| [*batch; 3]);
    let mut clients: Vec<_> = subscribers().map(|_| engine.open()).collect();
    for (client, batch) in clients.iter_mut().zip(subscribers()) {
        let subscribe = json!({"type": "subscribe", "channel": CHANNEL, "batch": batch});
        assert_eq!(client.ask(subscribe)["type"], "subscribed");
    }
    let mut speaker = engine.open();
    let written = |speaker: &mut crate::client::Client<TcpStream>, data: &str| {
        let before = engine.totals();
        speaker.publish(CHANNEL, data);
        // (Deliveries are counted with the turn that sends them.)
        let after = engine.wait_for("it is delivered", |now| now.deliveries > before.deliveries);
        after.encodes - before.encodes
    };
    assert_eq!(
        written(&mut speaker, "json"),
        2,
        "nobody speaks MessagePack"
    );
    let mut packed: Vec<_> = subscribers().map(|batch| packed(&engine, batch)).collect();
    assert_eq!(written(&mut speaker, "both"), 4);
    for (client, batch) in clients.iter_mut().zip(subscribers()) {
        for data in ["json", "both"] {
            let frame = client.hear();
            let message = if batch { &frame["messages"][0] } else { &frame };
            assert_eq!(message["data"], data);
        }
    }
    for (socket, batch) in packed.iter_mut().zip(subscribers()) {
        let frame = hear(socket);
        let message = if batch { &frame["messages"][0] } else { &frame };
        assert_eq!(message["data"].as_str(), Some("both"));
        socket.close(None).expect("it is open");
        while socket.read().is_ok() {}
    }
    clients.iter_mut().for_each(|client| client.bye());
    speaker.bye();
    engine.finish();
}
