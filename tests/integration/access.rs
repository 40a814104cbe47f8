//! Who may do what, by rule and by user.

use crate::client::Client;
use crate::engine::Engine;
use crate::raw::{read_head, upgrade};
use ringwire::config::{Access, ChannelRule};
use serde_json::{Value, json};
use std::io::Write as _;
use std::net::TcpStream;
use tungstenite::client::IntoClientRequest as _;

fn rule(pattern: &str, change: impl FnOnce(&mut ChannelRule)) -> ChannelRule {
    let mut rule = ChannelRule {
        pattern: pattern.into(),
        ..ChannelRule::default()
    };
    change(&mut rule);
    rule
}

fn engine(trusted: &[&str], rules: Vec<ChannelRule>) -> Engine {
    Engine::configured(|config| {
        config.channels = rules;
        config.users.trusted_peers = trusted.iter().map(|one| one.parse().unwrap()).collect();
    })
}

/// A client whose proxy says who it is.
pub(crate) fn open_as(engine: &Engine, user: &str) -> Client<TcpStream> {
    let mut request = "ws://test/ws".into_client_request().unwrap();
    request
        .headers_mut()
        .insert("x-user-id", user.parse().unwrap());
    let (socket, _) = tungstenite::client(request, engine.connect()).expect("an upgrade");
    Client { socket }
}

fn code(answer: &Value) -> &str {
    match answer["type"].as_str() {
        Some("error") => answer["code"].as_str().unwrap(),
        _ => "",
    }
}

#[test]
fn a_trusted_peer_names_the_user() {
    let engine = engine(&["127.0.0.0/8"], vec![ChannelRule::default()]);
    let mut alice = open_as(&engine, "alice \"a\"");
    let mut nobody = engine.open();
    assert_eq!(
        alice.ask(json!({"type": "connect"}))["user_id"],
        "alice \"a\""
    );
    assert_eq!(
        nobody.ask(json!({"type": "connect"}))["user_id"],
        Value::Null
    );
    nobody.subscribe("c");
    alice.publish("c", 1);
    nobody.publish("c", 2);
    let from = |client: &mut Client<TcpStream>| client.hear()["from"].clone();
    let mut heard = [from(&mut nobody), from(&mut nobody)];
    heard.sort_by_key(Value::is_null);
    assert_eq!(heard, [json!("alice \"a\""), Value::Null]);
    engine.wait_for("the user is counted", |totals| totals.users == 1);
    alice.bye();
    engine.wait_for("the user is gone", |totals| totals.users == 0);
}

#[test]
fn nobody_else_is_believed() {
    for trusted in [&[][..], &["10.0.0.0/8", "unix"]] {
        let engine = engine(trusted, vec![ChannelRule::default()]);
        let mut liar = open_as(&engine, "alice");
        assert_eq!(liar.ask(json!({"type": "connect"}))["user_id"], Value::Null);
    }
}

#[test]
fn a_user_id_has_bounds() {
    let engine = engine(&["127.0.0.1"], vec![ChannelRule::default()]);
    let long = "x".repeat(129);
    for (headers, status) in [
        ("X-User-ID: 42\r\n", "101"),
        ("X-User-ID:\r\n", "101"),
        (&format!("X-User-ID: {}\r\n", &long[1..]), "101"),
        (&format!("X-User-ID: {long}\r\n"), "400"),
        ("X-User-ID: ä €\r\n", "101"),
        ("X-User-ID: a\tb\r\n", "400"),
        ("X-User-ID: 1\r\nx-user-id: 1\r\n", "400"),
    ] {
        let mut stream = engine.connect();
        let request = upgrade("/ws").replacen("\r\n", &format!("\r\n{headers}"), 1);
        stream.write_all(request.as_bytes()).unwrap();
        let head = read_head(&mut stream);
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status}")),
            "{headers}: {head}"
        );
    }
}

#[test]
fn rules_say_who_may_do_what() {
    let rules = vec![
        rule("news", |rule| {
            rule.allow.publish = Access::Users(vec!["editor".into()]);
            rule.history.size = 5;
            rule.allow.history = Access::Authenticated;
        }),
        rule("dialog#*", |rule| {
            rule.allow.subscribe = Access::Named;
            rule.allow.publish = Access::Named;
            rule.allow.history = Access::Named;
        }),
        rule("members:*", |rule| {
            rule.allow.subscribe = Access::Authenticated;
            rule.publish_needs_subscription = true;
        }),
        rule("short:*", |rule| rule.data_bytes = Some(10)),
        rule("quiet:*", |rule| rule.echo = false),
        rule("witness", |_| ()),
        rule("*", |rule| {
            rule.allow.subscribe = Access::Nobody;
            rule.allow.publish = Access::Nobody;
            rule.allow.history = Access::Nobody;
        }),
    ];
    let engine = engine(&["127.0.0.1"], rules);
    const NOBODY: usize = 0;
    const READER: usize = 1;
    const EDITOR: usize = 2;
    let mut clients = [
        engine.open(),
        open_as(&engine, "42"),
        open_as(&engine, "editor"),
    ];
    let subscribe = |channel: &str| json!({"type": "subscribe", "channel": channel, "id": 1});
    let history = |channel: &str| json!({"type": "history", "channel": channel, "id": 1});
    let recover = |channel: &str| {
        let place = json!({"offset": 0, "epoch": 1});
        json!({"type": "subscribe", "channel": channel, "id": 1, "recover": place})
    };
    let publish =
        |channel: &str| json!({"type": "publish", "channel": channel, "id": 1, "data": "12345678"});
    for (client, request, expected) in [
        (NOBODY, publish("news"), "forbidden"),
        (NOBODY, subscribe("news"), ""),
        (NOBODY, history("news"), "forbidden"),
        (NOBODY, subscribe("members:a"), "forbidden"),
        (NOBODY, history("members:a"), "forbidden"),
        (NOBODY, subscribe("dialog#42,43"), "forbidden"),
        (NOBODY, subscribe("elsewhere"), "forbidden"),
        (NOBODY, publish("elsewhere"), "forbidden"),
        (READER, publish("news"), "forbidden"),
        (READER, history("news"), ""),
        (READER, recover("news"), ""),
        (READER, publish("members:a"), "not_subscribed"),
        (READER, subscribe("members:a"), ""),
        (READER, subscribe("dialog#42,43"), ""),
        (READER, publish("dialog#43"), "forbidden"),
        (READER, history("dialog#42,43"), ""),
        (READER, history("elsewhere"), "forbidden"),
        (EDITOR, subscribe("dialog#42,43"), "forbidden"),
        (EDITOR, recover("dialog#42,43"), "forbidden"),
        (EDITOR, publish("news"), ""),
        (EDITOR, publish("short:a"), ""),
    ] {
        let answer = clients[client].ask(request.clone());
        assert_eq!(code(&answer), expected, "{request}: {answer}");
        assert_eq!(answer["id"], 1);
    }
    let editor = &mut clients[EDITOR];
    let answer = editor.ask(json!({
        "type": "publish", "channel": "short:a", "id": 2, "data": "123456789",
    }));
    assert_eq!(code(&answer), "message_too_big", "{answer}");
    let text = answer["error"].as_str().unwrap();
    assert!(
        text.contains("11 bytes") && text.contains("10 are allowed"),
        "{text}"
    );
    // Echo is as the rule says, unless the publisher says otherwise.
    editor.subscribe("quiet:a");
    editor.publish("quiet:a", 1);
    editor.say(json!({"type": "publish", "channel": "quiet:a", "data": 2, "echo": true}));
    assert_eq!(editor.message("quiet:a"), (2, json!(2)));
    editor.is_alive();
}

fn frame_is(frame: &Value, kind: &str, from: &Value, data: &Value) -> bool {
    (&frame["type"], &frame["from"], &frame["data"]) == (&json!(kind), from, data)
}

#[test]
fn direct_messages_reach_every_connection_of_a_user_on_any_shard() {
    let mut engine = Engine::configured(|config| {
        config.shards = Some(4);
        config.users.trusted_peers = vec!["127.0.0.1".parse().unwrap()];
    });
    // Users at home on every shard, with connections on all of them.
    let names: Vec<String> = (0..8).map(|number| format!("user {number}")).collect();
    let mut connections: Vec<Vec<_>> = names
        .iter()
        .map(|name| (0..6).map(|_| open_as(&engine, name)).collect())
        .collect();
    let mut sender = open_as(&engine, "sender");
    let mut nobody = engine.open();
    let answer = nobody.ask(json!({"type": "direct", "to": "user 1", "data": 1, "id": 1}));
    assert_eq!(code(&answer), "forbidden");
    for (name, clients) in names.iter().zip(&mut connections) {
        let data = json!({"for": name});
        let answer = sender.ask(json!({"type": "direct", "to": name, "data": data, "id": name}));
        let expected = json!({"type": "response", "id": name, "data": {"connections": 6}});
        assert_eq!(answer, expected);
        for client in clients {
            let frame = client.hear();
            assert!(
                frame_is(&frame, "direct", &json!("sender"), &data),
                "{frame}"
            );
        }
    }
    // Their order is kept, and nobody else has heard anything.
    for number in 0..50 {
        sender.say(json!({"type": "direct", "to": "user 3", "data": number}));
    }
    for client in &mut connections[3] {
        for number in 0..50 {
            assert_eq!(client.hear()["data"], number);
        }
    }
    connections.iter_mut().flatten().for_each(Client::is_alive);
    // Connections that end are missed.
    for client in connections[0].iter_mut().take(5) {
        client.bye();
    }
    engine.wait_for("five have left", |totals| totals.open == 46);
    let mut count = |to: &str| {
        let answer = sender.ask(json!({"type": "direct", "to": to, "data": 0, "id": 1}));
        answer["data"]["connections"].as_u64().unwrap()
    };
    assert_eq!(count("user 0"), 1);
    assert_eq!(count("never seen"), 0);
    let mut clients: Vec<_> = connections.into_iter().flatten().skip(5).collect();
    clients.extend([sender, nobody]);
    for mut client in clients {
        let _ = client.socket.close(None);
        client.closed();
    }
    engine.is_undisturbed();
    engine.wait_for("nobody is left", |totals| totals.users == 0);
}

#[test]
fn a_broadcast_reaches_everyone_in_one_order() {
    let engine = Engine::configured(|config| {
        config.shards = Some(4);
        config.users.trusted_peers = vec!["127.0.0.1".parse().unwrap()];
        config.users.broadcast = Access::Users(vec!["admin".into()]);
    });
    let mut everybody: Vec<_> = (0..10).map(|_| engine.open()).collect();
    let mut echo = Client::over(engine.connect(), "/echo");
    let answer = everybody[0].ask(json!({"type": "broadcast", "data": 1, "id": 1}));
    assert_eq!(code(&answer), "forbidden");
    let mut admins = [open_as(&engine, "admin"), open_as(&engine, "admin")];
    for number in 0..20 {
        for (at, admin) in admins.iter_mut().enumerate() {
            admin.say(json!({
                "type": "broadcast", "data": [at, number], "echo": at == 0, "id": number,
            }));
        }
    }
    let hear = |client: &mut Client<TcpStream>, count: usize| -> Vec<Value> {
        let mut heard = Vec::new();
        while heard.len() < count {
            let frame = client.hear();
            if frame["type"] == "response" {
                assert!(
                    frame["data"]["connections"].as_u64().unwrap() >= 13,
                    "{frame}"
                );
                continue;
            }
            let data = frame["data"].clone();
            assert!(
                frame_is(&frame, "broadcast", &json!("admin"), &data),
                "{frame}"
            );
            heard.push(data);
        }
        heard
    };
    let order = hear(&mut everybody[0], 40);
    for client in &mut everybody[1..] {
        assert_eq!(hear(client, 40), order);
    }
    assert_eq!(hear(&mut admins[0], 40), order, "it wants its own");
    let others: Vec<Value> = order.iter().filter(|data| data[0] == 0).cloned().collect();
    assert_eq!(hear(&mut admins[1], 20), others, "it does not want its own");
    for client in &mut everybody {
        client.is_alive();
    }
    echo.send("nothing came before this");
    assert_eq!(
        echo.receive().into_text().unwrap().as_str(),
        "nothing came before this"
    );
}
