//! Who is in a channel, as the home shard knows it, with connections on four shards.

use crate::access::open_as;
use crate::client::Client;
use crate::engine::Engine;
use crate::raw;
use crate::support::eventually;
use ringwire::config::{Access, ChannelRule};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::TcpStream;

fn engine(change: impl FnOnce(&mut ChannelRule)) -> Engine {
    Engine::configured(|config| {
        config.shards = Some(4);
        config.client.connections_per_shard = Some(4096);
        config.users.trusted_peers = vec!["127.0.0.1".parse().unwrap()];
        let rule = &mut config.channels[0];
        rule.presence.enabled = true;
        change(rule);
    })
}

/// Users and their connections, and the counts: users, anonymous, connections.
fn who(client: &mut Client<TcpStream>, channel: &str) -> (BTreeMap<String, u64>, [u64; 3]) {
    let answer = client.ask(json!({"type": "presence", "channel": channel, "id": "who"}));
    assert_eq!(
        (&answer["type"], &answer["id"]),
        (&json!("response"), &json!("who"))
    );
    assert_eq!(answer["data"]["next"], Value::Null, "{answer}");
    let members = answer["data"]["members"].as_array().unwrap();
    let member = |member: &Value| {
        let user = member["user_id"].as_str().unwrap().to_owned();
        (user, member["connections"].as_u64().unwrap())
    };
    (
        members.iter().map(member).collect(),
        counts(&answer["data"]),
    )
}

fn counts(data: &Value) -> [u64; 3] {
    ["users", "anonymous", "connections"].map(|name| data[name].as_u64().unwrap())
}

fn expected(users: &[(&str, u64)]) -> BTreeMap<String, u64> {
    users
        .iter()
        .map(|(user, count)| ((*user).to_owned(), *count))
        .collect()
}

#[test]
fn a_user_counts_once_whatever_its_connections_and_shards() {
    let mut engine = engine(|_| ());
    let mut asker = engine.open();
    assert_eq!(who(&mut asker, "room"), (expected(&[]), [0, 0, 0]));
    let mut alice: Vec<_> = (0..8).map(|_| open_as(&engine, "alice")).collect();
    let mut bob = open_as(&engine, "bob");
    let mut nobody = [engine.open(), engine.open()];
    let everybody = alice.iter_mut().chain([&mut bob]).chain(&mut nobody);
    everybody.for_each(|client| {
        client.subscribe("room");
        // Again is not twice.
        client.subscribe("room");
    });
    let all = expected(&[("alice", 8), ("bob", 1)]);
    let settled = |asker: &mut Client<TcpStream>, expected: BTreeMap<String, u64>, counts| {
        eventually("the home knows", || {
            (who(asker, "room") == (expected.clone(), counts)).then_some(())
        });
    };
    settled(&mut asker, all, [2, 2, 11]);
    let stats = asker.ask(json!({"type": "presence_stats", "channel": "room", "id": 5}));
    let data = json!({"users": 2, "anonymous": 2, "connections": 11});
    assert_eq!(stats, json!({"type": "response", "id": 5, "data": data}));
    // They go in every way.
    alice.pop().unwrap().bye();
    raw::reset(alice.pop().unwrap().socket.into_inner());
    drop(alice.pop());
    let mut stays = alice.pop().unwrap();
    stays.ask(json!({"type": "unsubscribe", "channel": "room"}));
    nobody[0].ask(json!({"type": "unsubscribe", "channel": "room"}));
    settled(&mut asker, expected(&[("alice", 4), ("bob", 1)]), [2, 1, 6]);
    bob.bye();
    for client in alice {
        drop(client);
    }
    settled(&mut asker, expected(&[]), [0, 1, 1]);
    for client in nobody.into_iter().chain([stays, asker]) {
        drop(client);
    }
    engine.is_undisturbed();
}

#[test]
fn members_are_read_in_pages() {
    let engine = engine(|_| ());
    let mut users: Vec<_> = (0..25)
        .map(|number| open_as(&engine, &format!("u{number}")))
        .collect();
    users.iter_mut().for_each(|client| {
        client.subscribe("room");
    });
    let mut asker = engine.open();
    eventually("all have arrived", || {
        (who(&mut asker, "room").1 == [25, 0, 25]).then_some(())
    });
    let mut seen = Vec::new();
    let mut cursor = json!(0);
    while !cursor.is_null() {
        let answer = asker.ask(json!({
            "type": "presence", "channel": "room", "id": 1, "limit": 10, "cursor": cursor,
        }));
        let members = answer["data"]["members"].as_array().unwrap();
        assert!(!members.is_empty() && members.len() <= 10, "{answer}");
        seen.extend(
            members
                .iter()
                .map(|one| one["user_id"].as_str().unwrap().to_owned()),
        );
        cursor = answer["data"]["next"].clone();
    }
    seen.sort();
    let mut all: Vec<String> = (0..25).map(|number| format!("u{number}")).collect();
    all.sort();
    assert_eq!(seen, all);
}

#[test]
fn subscribers_hear_who_comes_and_goes_until_there_are_too_many() {
    let engine = engine(|rule| {
        rule.presence.events = true;
        rule.presence.events_max_members = 4;
        rule.presence.counts_interval_ms = 1000;
    });
    let mut listener = engine.open();
    listener.subscribe("room");
    let event = |kind: &str, user: &str| json!({"type": kind, "channel": "room", "user_id": user});
    let mut alice = open_as(&engine, "alice");
    alice.subscribe("room");
    assert_eq!(listener.hear(), event("join", "alice"));
    assert_eq!(alice.hear(), event("join", "alice"), "its own, too");
    let mut again = open_as(&engine, "alice");
    again.subscribe("room");
    let mut bob = open_as(&engine, "bob");
    bob.subscribe("room");
    assert_eq!(listener.hear(), event("join", "bob"), "alice was there");
    // Events and messages come in one order.
    bob.ask(json!({"type": "publish", "channel": "room", "data": 1, "id": 1, "echo": false}));
    assert_eq!(listener.message("room"), (1, json!(1)));
    drop(alice);
    bob.bye();
    assert_eq!(
        listener.hear(),
        event("leave", "bob"),
        "alice is still there"
    );
    again.bye();
    assert_eq!(listener.hear(), event("leave", "alice"));
    let mut crowd: Vec<_> = (0..3)
        .map(|number| open_as(&engine, &format!("u{number}")))
        .collect();
    for client in &mut crowd {
        client.subscribe("room");
        assert_eq!(listener.hear()["type"], "join");
    }
    let mut more = [open_as(&engine, "x"), open_as(&engine, "y")];
    more.iter_mut().for_each(|client| {
        client.subscribe("room");
    });
    let told = loop {
        let told = listener.hear();
        assert_eq!(
            (&told["type"], &told["channel"]),
            (&json!("presence_stats"), &json!("room"))
        );
        if counts(&told) == [5, 1, 6] {
            break told;
        }
    };
    assert_eq!(told.as_object().unwrap().len(), 5);
    for client in more {
        drop(client);
    }
    eventually("fewer again", || {
        let told = listener.hear();
        (told["type"] == "leave").then_some(())
    });
}

#[test]
fn presence_is_for_those_who_may_where_it_is() {
    let engine = Engine::configured(|config| {
        config.users.trusted_peers = vec!["127.0.0.1".parse().unwrap()];
        let mut members = ChannelRule {
            pattern: "members:*".into(),
            ..ChannelRule::default()
        };
        members.presence.enabled = true;
        members.allow.presence = Access::Authenticated;
        config.channels.insert(0, members);
    });
    let mut nobody = engine.open();
    let mut alice = open_as(&engine, "alice");
    for kind in ["presence", "presence_stats"] {
        let ask = |channel: &str| json!({"type": kind, "channel": channel, "id": 1});
        assert_eq!(nobody.ask(ask("members:a"))["code"], "forbidden");
        assert_eq!(nobody.ask(ask("others"))["code"], "not_available");
        assert_eq!(alice.ask(ask("members:a"))["data"]["connections"], 0);
    }
}

/// Joining and leaving costs the same however many are there already.
#[test]
fn many_members_come_and_go() {
    const MEMBERS: usize = 3000;
    let mut engine = engine(|rule| rule.presence.events = true);
    let mut clients: Vec<_> = (0..MEMBERS)
        .map(|number| open_as(&engine, &format!("user {number}")))
        .collect();
    for client in &mut clients {
        client.say(json!({"type": "subscribe", "channel": "room"}));
    }
    let mut asker = engine.open();
    let total = |asker: &mut Client<TcpStream>| {
        let answer = asker.ask(json!({"type": "presence_stats", "channel": "room", "id": 1}));
        counts(&answer["data"])
    };
    let all = MEMBERS as u64;
    eventually("all are there", || {
        (total(&mut asker) == [all, 0, all]).then_some(())
    });
    drop(clients);
    eventually("all are gone", || {
        (total(&mut asker) == [0, 0, 0]).then_some(())
    });
    drop(asker);
    engine.is_undisturbed();
}
