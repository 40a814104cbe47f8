//! How messages leave: gathered, in batches, without those that a slow consumer may lose, through
//! wildcards. One test each, without chance.

use super::peer::{Peer, WINDOW, server};
use super::server::Server;
use crate::config::{Access, ChannelRule, SlowConsumer};
use serde_json::{Value, json};

/// A server of one shard whose channels all follow one rule. Its clients read when they are told to.
fn one_shard(rule: impl FnOnce(&mut ChannelRule)) -> Server {
    server(1, 16, |config| {
        config.heartbeat.interval_ms = 0;
        config.client.outbox_bytes = 4000;
        config.client.message_bytes = 2000;
        rule(&mut config.channels[0]);
    })
}

fn subscriber(server: &mut Server, channel: &str, fields: &str, window: usize) -> Peer {
    let peer = Peer::upgrade(server, 0, "/", window);
    let subscribe = format!(r#"{{"type":"subscribe","channel":"{channel}"{fields}}}"#);
    peer.text(server, &subscribe);
    server.rest();
    assert_eq!(heard(&peer, server)[0]["type"], "subscribed");
    peer
}

fn publish(peer: &Peer, server: &Server, channel: &str, fields: &str, data: &str) {
    let text = format!(r#"{{"type":"publish","channel":"{channel}"{fields},"data":"{data}"}}"#);
    peer.text(server, &text);
}

fn heard(peer: &Peer, server: &Server) -> Vec<Value> {
    let texts = peer.texts(server).into_iter();
    texts
        .map(|text| serde_json::from_str(&text).expect("JSON"))
        .collect()
}

/// Reads until nothing more comes.
fn hear_all(peer: &Peer, server: &mut Server) -> Vec<Value> {
    let mut bytes = Vec::new();
    loop {
        server.rest();
        let more = server.world.borrow_mut().read(peer.socket, usize::MAX);
        if more.is_empty() {
            break;
        }
        bytes.extend(more);
    }
    Peer::frames(&mut bytes)
        .into_iter()
        .map(|text| serde_json::from_str(&text).expect("JSON"))
        .collect()
}

fn offsets(heard: &[Value]) -> Vec<u64> {
    let messages = heard.iter().filter(|one| one["type"] == "message");
    messages
        .map(|one| one["offset"].as_u64().expect("an offset"))
        .collect()
}

#[test]
fn who_may_lose_messages_is_told_which_and_stays() {
    let mut server = one_shard(|rule| rule.slow_consumer = SlowConsumer::DropOldest);
    let slow = subscriber(&mut server, "c", "", 300);
    let prompt = subscriber(&mut server, "c", "", WINDOW);
    let speaker = Peer::upgrade(&mut server, 0, "/", WINDOW);
    let mut got = Vec::new();
    for number in 0..100 {
        publish(&speaker, &server, "c", "", &format!("{number:0500}"));
        server.rest();
        got.extend(heard(&prompt, &server));
    }
    assert_eq!(offsets(&got), (1..=100).collect::<Vec<_>>());
    let outbox = &server.shard(0).core.connections[0];
    assert!(outbox.outbox_bytes <= 4000, "{}", outbox.outbox_bytes);
    let got = hear_all(&slow, &mut server);
    // What was on its way when it stopped to read, the gap, and the last that there was room for.
    let dropped: Vec<&Value> = got.iter().filter(|one| one["type"] == "dropped").collect();
    let [dropped] = dropped[..] else {
        panic!("one gap, not {dropped:?}");
    };
    let offsets = offsets(&got);
    let lost = 100 - offsets.len() as u64;
    let first_after = 101 - (offsets.len() as u64 - 1);
    let expected =
        json!({"type": "dropped", "channel": "c", "count": lost, "offset": first_after - 1});
    assert_eq!(*dropped, expected);
    let kept: Vec<u64> = std::iter::once(1).chain(first_after..=100).collect();
    assert_eq!(offsets, kept);
    let at = |kind: &str, offset: u64| {
        let found = got
            .iter()
            .position(|one| one["type"] == kind && one["offset"] == offset);
        found.expect("it came")
    };
    assert!(at("message", 1) < at("dropped", first_after - 1));
    assert!(at("dropped", first_after - 1) < at("message", first_after));
    let counters = &server.nodes[0].counters;
    assert_eq!(counters.rules[0].dropped.get(), lost);
    assert_eq!(counters.slow_consumers.get(), 0);
    // It is as any other from here on.
    publish(&speaker, &server, "c", "", "last");
    server.rest();
    assert_eq!(heard(&slow, &server)[0]["data"], "last");
}

#[test]
fn only_the_newest_of_each_key_waits() {
    let mut server = one_shard(|rule| rule.slow_consumer = SlowConsumer::Conflate);
    for fields in ["", r#","batch":true"#] {
        let slow = subscriber(&mut server, "c", fields, 300);
        let speaker = Peer::upgrade(&mut server, 0, "/", WINDOW);
        // The send that fills the window.
        publish(&speaker, &server, "c", "", &"x".repeat(600));
        server.rest();
        let before = server.nodes[0].counters.rules[0].conflated.get();
        for round in 0..50 {
            for key in ["a", "b"] {
                let field = format!(r#","key":"{key}""#);
                publish(&speaker, &server, "c", &field, &format!("{key} {round}"));
            }
            publish(&speaker, &server, "c", "", &format!("none {round}"));
            if round % 3 == 0 {
                server.rest();
            }
        }
        server.rest();
        let got = hear_all(&slow, &mut server);
        let mut data = Vec::new();
        for one in &got {
            match one["messages"].as_array() {
                Some(batch) => data.extend(batch.iter().map(|one| one["data"].clone())),
                None => data.push(one["data"].clone()),
            }
        }
        assert_eq!(data[1..], ["a 49", "b 49", "none 49"], "{fields}");
        let counters = &server.nodes[0].counters.rules[0];
        assert_eq!(counters.conflated.get() - before, 3 * 49, "{fields}");
        assert_eq!(counters.dropped.get(), 0);
        server.world.borrow_mut().hang_up(slow.socket);
        server.rest();
    }
}

#[test]
fn keys_beyond_the_outbox_are_lost_and_told() {
    let mut server = one_shard(|rule| rule.slow_consumer = SlowConsumer::Conflate);
    let slow = subscriber(&mut server, "c", "", 300);
    let speaker = Peer::upgrade(&mut server, 0, "/", WINDOW);
    publish(&speaker, &server, "c", "", &"x".repeat(600));
    server.rest();
    for key in 0..100 {
        publish(
            &speaker,
            &server,
            "c",
            &format!(r#","key":"k{key}""#),
            &"y".repeat(100),
        );
        server.rest();
    }
    let got = hear_all(&slow, &mut server);
    let lost: u64 = got.iter().filter_map(|one| one["count"].as_u64()).sum();
    assert_eq!(offsets(&got).len() as u64 + lost, 101);
    assert!(lost > 50, "{lost}");
    assert_eq!(server.nodes[0].counters.rules[0].dropped.get(), lost);
}

/// What may be lost makes room for what may not.
#[test]
fn a_message_that_must_come_displaces_others() {
    let mut server = server(1, 16, |config| {
        config.heartbeat.interval_ms = 0;
        config.client.outbox_bytes = 4000;
        config.client.message_bytes = 2000;
        let mut lossy = config.channels[0].clone();
        lossy.pattern = "lossy".into();
        lossy.slow_consumer = SlowConsumer::DropOldest;
        config.channels.insert(0, lossy);
    });
    let slow = subscriber(&mut server, "lossy", "", 300);
    slow.text(&server, r#"{"type":"subscribe","channel":"strict"}"#);
    server.rest();
    heard(&slow, &server);
    let speaker = Peer::upgrade(&mut server, 0, "/", WINDOW);
    for _ in 0..30 {
        publish(&speaker, &server, "lossy", "", &"x".repeat(400));
        server.rest();
    }
    publish(&speaker, &server, "strict", "", &"y".repeat(400));
    server.rest();
    assert_eq!(server.nodes[0].counters.slow_consumers.get(), 0);
    let got = hear_all(&slow, &mut server);
    assert!(got.iter().any(|one| one["channel"] == "strict"), "{got:?}");
    // Where nothing is left to lose, it goes, and is counted where it did.
    for _ in 0..30 {
        publish(&speaker, &server, "strict", "", &"y".repeat(400));
        server.rest();
    }
    let counters = &server.nodes[0].counters;
    assert_eq!(counters.slow_consumers.get(), 1);
    assert_eq!(counters.rules[1].disconnected.get(), 1);
    assert_eq!(counters.rules[0].disconnected.get(), 0);
}

#[test]
fn who_leaves_a_channel_is_told_first_what_it_lost() {
    let mut server = one_shard(|rule| rule.slow_consumer = SlowConsumer::DropOldest);
    let slow = subscriber(&mut server, "c", "", 300);
    let speaker = Peer::upgrade(&mut server, 0, "/", WINDOW);
    for _ in 0..30 {
        publish(&speaker, &server, "c", "", &"x".repeat(400));
        server.rest();
    }
    slow.text(&server, r#"{"type":"unsubscribe","channel":"c"}"#);
    // Another channel, which may get the number.
    slow.text(&server, r#"{"type":"subscribe","channel":"d"}"#);
    server.rest();
    for _ in 0..30 {
        publish(&speaker, &server, "d", "", &"x".repeat(400));
        server.rest();
    }
    let got = hear_all(&slow, &mut server);
    let of = |kind: &str, channel: &str| -> Vec<usize> {
        let fits = |one: &Value| one["type"] == kind && one["channel"] == channel;
        (0..got.len()).filter(|at| fits(&got[*at])).collect()
    };
    let unsubscribed = of("unsubscribed", "c")[0];
    for (channel, published) in [("c", 30), ("d", 30)] {
        let lost: u64 = of("dropped", channel)
            .into_iter()
            .map(|at| got[at]["count"].as_u64().expect("a count"))
            .sum();
        let came = of("message", channel).len() as u64;
        assert_eq!(lost + came, published, "{channel}: {got:?}");
    }
    assert!(of("dropped", "c").iter().all(|at| *at < unsubscribed));
    assert!(of("message", "c").iter().all(|at| *at < unsubscribed));
}

#[test]
fn messages_gather_for_their_time() {
    let mut server = one_shard(|rule| {
        rule.delivery.batch_ms = 100;
        rule.delivery.batch_bytes = 1024;
    });
    let single = subscriber(&mut server, "c", "", WINDOW);
    let batch = subscriber(&mut server, "c", r#","batch":true"#, WINDOW);
    let both = Peer::upgrade(&mut server, 0, "/", WINDOW);
    both.text(
        &server,
        r#"{"type":"subscribe","channel":"c","batch":true}"#,
    );
    server.rest();
    heard(&both, &server);
    let sends = |server: &Server, peer: &Peer| server.world.borrow().socket(peer.socket).sends_made;
    let before = sends(&server, &single);
    let turn = |server: &mut Server, ms: u64| {
        server.world.borrow_mut().advance(ms);
        for _ in 0..20 {
            server.step(0);
        }
    };
    for number in 0..4 {
        // Its publisher does not want the second one back.
        let fields = if number == 1 { r#","echo":false"# } else { "" };
        publish(&both, &server, "c", fields, &number.to_string());
        turn(&mut server, 20);
    }
    assert_eq!(sends(&server, &single), before, "60 ms have passed");
    turn(&mut server, 45);
    assert_eq!(sends(&server, &single), before + 1);
    assert_eq!(offsets(&heard(&single, &server)), [1, 2, 3, 4]);
    let batches = |server: &Server, peer: &Peer| -> Vec<Vec<u64>> {
        let got = heard(peer, server);
        let offsets = |one: &Value| {
            assert_eq!(
                (&one["type"], &one["channel"]),
                (&json!("messages"), &json!("c"))
            );
            let messages = one["messages"].as_array().expect("an array").iter();
            messages
                .map(|one| one["offset"].as_u64().expect("an offset"))
                .collect()
        };
        got.iter().map(offsets).collect()
    };
    assert_eq!(batches(&server, &batch), [[1, 2, 3, 4]]);
    assert_eq!(batches(&server, &both), [vec![1, 3, 4]]);
    // What is much is sent at once, and what would be too much together in two parts.
    for _ in 0..3 {
        publish(&both, &server, "c", "", &"x".repeat(500));
    }
    turn(&mut server, 1);
    assert_eq!(batches(&server, &batch), [vec![5], vec![6]]);
    turn(&mut server, 100);
    assert_eq!(batches(&server, &batch), [[7]]);
    // Who comes meanwhile gets what follows.
    let late = Peer::upgrade(&mut server, 0, "/", WINDOW);
    publish(&both, &server, "c", "", "before");
    turn(&mut server, 10);
    late.text(&server, r#"{"type":"subscribe","channel":"c"}"#);
    turn(&mut server, 1);
    assert_eq!(heard(&late, &server)[0]["offset"], 8);
    assert_eq!(batches(&server, &batch), [[8]]);
}

#[test]
fn what_gathers_is_sent_before_the_server_ends() {
    let mut server = one_shard(|rule| rule.delivery.batch_ms = 1000);
    let listener = subscriber(&mut server, "c", "", WINDOW);
    let speaker = Peer::upgrade(&mut server, 0, "/", WINDOW);
    publish(&speaker, &server, "c", "", "last words");
    for _ in 0..20 {
        server.step(0);
    }
    assert!(listener.hear(&server).is_empty());
    server.tell(0, crate::mesh::Message::Drain);
    for _ in 0..20 {
        server.step(0);
    }
    let got = listener.hear(&server);
    let text = format!("{:?}", got[0]);
    assert!(text.contains("last words") && got.len() == 3, "{got:?}");
}

#[test]
fn wildcards_hear_channels_of_all_shards() {
    let mut server = server(3, 16, |config| {
        config.heartbeat.interval_ms = 0;
        config.channels[0].allow.wildcards = Access::Everyone;
    });
    let mut listeners: Vec<Peer> = Vec::new();
    for ring in 0..3 {
        listeners.push(Peer::upgrade(&mut server, ring, "/", WINDOW));
    }
    for (listener, wildcard) in listeners.iter().zip(["prices.*", "prices.>", "*.eur"]) {
        listener.text(
            &server,
            &format!(r#"{{"type":"subscribe","channel":"{wildcard}","id":1}}"#),
        );
        server.rest();
        let expected = json!({"type": "subscribed", "channel": wildcard, "id": 1});
        assert_eq!(heard(listener, &server), [expected]);
    }
    let speaker = Peer::upgrade(&mut server, 1, "/", WINDOW);
    let channels = [
        "prices.eur",
        "prices.usd",
        "prices.eur.cent",
        "rates.eur",
        "prices",
        "x",
    ];
    for channel in channels {
        publish(&speaker, &server, channel, "", channel);
        publish(&speaker, &server, channel, "", channel);
    }
    server.rest();
    let matched = |listener: &Peer, wildcard: &str| {
        let mut channels = Vec::new();
        for one in heard(listener, &server) {
            assert_eq!(
                (&one["type"], &one["wildcard"]),
                (&json!("message"), &json!(wildcard))
            );
            assert_eq!(one["channel"], one["data"]);
            channels.push(format!("{} {}", one["channel"], one["offset"]).replace('"', ""));
        }
        channels.sort();
        channels
    };
    let both = |channels: &[&str]| -> Vec<String> {
        let numbered = |channel: &&str| [1, 2].map(|offset| format!("{channel} {offset}"));
        channels.iter().flat_map(numbered).collect()
    };
    assert_eq!(
        matched(&listeners[0], "prices.*"),
        both(&["prices.eur", "prices.usd"])
    );
    assert_eq!(
        matched(&listeners[1], "prices.>"),
        both(&["prices.eur", "prices.eur.cent", "prices.usd"])
    );
    assert_eq!(
        matched(&listeners[2], "*.eur"),
        both(&["prices.eur", "rates.eur"])
    );
    // Nobody publishes to one, or asks what was said.
    for text in [
        r#"{"type":"publish","channel":"prices.*","data":1,"id":2}"#,
        r#"{"type":"history","channel":"prices.>","id":2}"#,
        r#"{"type":"subscribe","channel":"prices.>.eur","id":2}"#,
        r#"{"type":"subscribe","channel":"*.*.*.*","id":2}"#,
        r#"{"type":"subscribe","channel":"*","recover":{"offset":1,"epoch":1},"id":2}"#,
    ] {
        speaker.text(&server, text);
        server.rest();
        assert_eq!(
            heard(&speaker, &server)[0]["code"],
            "invalid_message",
            "{text}"
        );
    }
    listeners[0].text(&server, r#"{"type":"unsubscribe","channel":"prices.*"}"#);
    server.rest();
    assert_eq!(heard(&listeners[0], &server)[0]["type"], "unsubscribed");
    publish(&speaker, &server, "prices.eur", "", "prices.eur");
    server.rest();
    assert!(heard(&listeners[0], &server).is_empty());
    for index in 0..3 {
        assert_eq!(server.shard(index).core.home.wildcards(), 2);
    }
}

#[test]
fn a_channel_is_full_and_has_room_again() {
    let mut server = server(2, 16, |config| {
        config.heartbeat.interval_ms = 0;
        config.channels[0].subscribers = Some(2);
    });
    let peers: Vec<Peer> = (0..4)
        .map(|number| Peer::upgrade(&mut server, number % 2, "/", WINDOW))
        .collect();
    let ask = |server: &mut Server, peer: &Peer, kind: &str| {
        peer.text(
            server,
            &format!(r#"{{"type":"{kind}","channel":"c","id":7}}"#),
        );
        server.rest();
        let got = heard(peer, server);
        let [answer] = &got[..] else {
            panic!("one answer, not {got:?}");
        };
        assert_eq!(answer["id"], 7);
        answer.clone()
    };
    for round in 0..200 {
        let [first, second, third] = [0, 1, 2].map(|at| &peers[(at + round) % 4]);
        assert_eq!(ask(&mut server, first, "subscribe")["type"], "subscribed");
        assert_eq!(ask(&mut server, second, "subscribe")["type"], "subscribed");
        let refused = ask(&mut server, third, "subscribe");
        assert_eq!(refused["code"], "too_many_subscribers", "round {round}");
        // Once more, for who is there already.
        assert_eq!(ask(&mut server, first, "subscribe")["type"], "subscribed");
        assert_eq!(
            ask(&mut server, third, "unsubscribe")["code"],
            "not_subscribed"
        );
        assert_eq!(
            ask(&mut server, first, "unsubscribe")["type"],
            "unsubscribed"
        );
        assert_eq!(ask(&mut server, third, "subscribe")["type"], "subscribed");
        for peer in [second, third] {
            assert_eq!(
                ask(&mut server, peer, "unsubscribe")["type"],
                "unsubscribed"
            );
        }
        server.check_admitted();
    }
    // A place is free when its connection has ended, in whichever way.
    ask(&mut server, &peers[0], "subscribe");
    ask(&mut server, &peers[1], "subscribe");
    server.world.borrow_mut().reset(peers[0].socket);
    server.rest();
    assert_eq!(
        ask(&mut server, &peers[2], "subscribe")["type"],
        "subscribed"
    );
}
