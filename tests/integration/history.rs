//! What is kept of channels, and how clients catch up, on a real server of four shards.

use crate::client::Client;
use crate::engine::{Engine, connect};
use ringwire::config::ChannelRule;
use serde_json::{Value, json};
use std::net::TcpStream;
use std::thread;

fn keeping(size: u32) -> ChannelRule {
    let mut rule = ChannelRule::default();
    rule.history.size = size;
    rule
}

fn engine(rule: ChannelRule) -> Engine {
    Engine::configured(|config| {
        config.shards = Some(4);
        config.channels = vec![rule];
    })
}

/// Publishes `numbers` and waits for each to have its offset.
fn publish(client: &mut Client<TcpStream>, channel: &str, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let answer = client.ask(json!({
            "type": "publish", "channel": channel, "data": number, "id": number, "echo": false,
        }));
        assert_eq!(answer["data"]["published"], true, "{answer}");
    }
}

fn offsets(page: &Value) -> Vec<u64> {
    let messages = page["data"]["messages"].as_array().expect("messages");
    let offset = |message: &Value| message["offset"].as_u64().expect("an offset");
    messages.iter().map(offset).collect()
}

#[test]
fn who_was_away_gets_exactly_what_it_missed() {
    let mut engine = engine(keeping(10));
    for number in 0..8 {
        // Channels at home on different shards than their clients, and on the same.
        let channel = format!("room {number}");
        let (mut speaker, mut listener) = (engine.open(), engine.open());
        let answer = listener.ask(json!({"type": "subscribe", "channel": channel}));
        let epoch = answer["epoch"].clone();
        assert_eq!(answer.get("recovered"), None, "{answer}");
        publish(&mut speaker, &channel, 1..4);
        for offset in 1..4 {
            assert_eq!(listener.message(&channel), (offset, json!(offset)));
        }
        listener.bye();
        publish(&mut speaker, &channel, 4..9);
        let mut listener = engine.open();
        let recover = json!({"offset": 3, "epoch": epoch});
        let answer = listener
            .ask(json!({"type": "subscribe", "channel": channel, "recover": recover, "id": "r"}));
        let expected = json!({
            "type": "subscribed", "channel": channel, "id": "r", "offset": 8, "epoch": epoch,
            "recovered": true,
        });
        assert_eq!(answer, expected);
        publish(&mut speaker, &channel, 9..10);
        for offset in 4..10 {
            assert_eq!(listener.message(&channel), (offset, json!(offset)));
        }
        listener.is_alive();
        // Away for too long: 3 is the oldest of ten kept.
        publish(&mut speaker, &channel, 10..13);
        for (offset, recovered) in [(1, false), (2, true)] {
            let mut late = engine.open();
            let recover = json!({"offset": offset, "epoch": epoch});
            let answer =
                late.ask(json!({"type": "subscribe", "channel": channel, "recover": recover}));
            assert_eq!(answer["recovered"], recovered, "{answer}");
            if recovered {
                for offset in 3..13 {
                    assert_eq!(late.message(&channel).0, offset);
                }
            }
            late.is_alive();
            late.bye();
        }
        let mut stranger = engine.open();
        let recover = json!({"offset": 3, "epoch": 1});
        let answer =
            stranger.ask(json!({"type": "subscribe", "channel": channel, "recover": recover}));
        assert_eq!(answer["recovered"], false, "another life of the channel");
        for mut client in [speaker, listener, stranger] {
            client.socket.close(None).unwrap();
            client.closed();
        }
    }
    let totals = engine.totals();
    assert_eq!((totals.recoveries, totals.recoveries_failed), (32, 16));
    engine.is_undisturbed();
}

/// Subscribers come back again and again while everybody publishes; nobody gets anything twice, or
/// misses anything.
#[test]
fn catching_up_meets_the_live_stream_without_gap_or_repetition() {
    const PUBLISHERS: u64 = 4;
    const MESSAGES: u64 = 225;
    let mut engine = engine(keeping(100_000));
    let total = PUBLISHERS * MESSAGES;
    thread::scope(|scope| {
        for publisher in 0..PUBLISHERS {
            let mut client = engine.open();
            scope.spawn(move || {
                for number in 0..MESSAGES {
                    client.publish("busy", json!([publisher, number]));
                    if number % 50 == 0 {
                        client.is_alive();
                    }
                }
                client.is_alive();
                client.bye();
            });
        }
        for patience in [1, 3, 7, 20, 50, 110] {
            let address = engine.address();
            scope.spawn(move || {
                let open = || Client::over(connect(address), "/ws");
                let mut client = open();
                let answer = client.ask(json!({"type": "subscribe", "channel": "busy"}));
                let epoch = answer["epoch"].clone();
                let mut last = answer["offset"].as_u64().unwrap();
                while last < total {
                    for _ in 0..patience.min(total - last) {
                        let (offset, _) = client.message("busy");
                        assert_eq!(offset, last + 1, "no gap, no repetition");
                        last = offset;
                    }
                    if last == total {
                        break;
                    }
                    drop(client);
                    client = open();
                    let recover = json!({"offset": last, "epoch": epoch});
                    let answer = client
                        .ask(json!({"type": "subscribe", "channel": "busy", "recover": recover}));
                    assert_eq!(answer["recovered"], true, "{answer}");
                }
                client.is_alive();
                client.bye();
            });
        }
    });
    engine.is_undisturbed();
}

#[test]
fn a_history_is_read_in_pages() {
    let engine = engine(keeping(10));
    let mut client = engine.open();
    let before = client.ask(json!({"type": "history", "channel": "log", "id": 0}));
    assert_eq!(
        (offsets(&before), &before["data"]["offset"]),
        (vec![], &json!(0))
    );
    publish(&mut client, "log", 1..13);
    let mut ask = |fields: Value| {
        let mut question = json!({"type": "history", "channel": "log", "id": "h"});
        question
            .as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        let page = client.ask(question);
        assert_eq!(
            (&page["type"], &page["id"]),
            (&json!("response"), &json!("h"))
        );
        assert_eq!(page["data"]["offset"], 12);
        assert_eq!(
            page["data"]["epoch"], before["data"]["epoch"],
            "reading began its life"
        );
        let flags = (
            page["data"]["more"] == true,
            page["data"]["complete"] == true,
        );
        (offsets(&page), flags.0, flags.1)
    };
    assert_eq!(ask(json!({})), ((3..13).collect(), false, true));
    assert_eq!(ask(json!({"limit": 2})), (vec![3, 4], true, true));
    assert_eq!(
        ask(json!({"limit": 2, "reverse": true})),
        (vec![12, 11], true, true)
    );
    let since = |offset: u64| json!({"since": {"offset": offset}});
    assert_eq!(ask(since(10)), (vec![11, 12], false, true));
    assert_eq!(ask(since(1)), ((3..13).collect(), false, false));
    let other = json!({"since": {"offset": 10, "epoch": 1}});
    assert_eq!(ask(other), ((3..13).collect(), false, false));
    let page = client.ask(json!({"type": "history", "channel": "log", "limit": 1, "id": 1}));
    let message = &page["data"]["messages"][0];
    assert_eq!(
        (&message["data"], &message["from"]),
        (&json!(3), &Value::Null)
    );
    assert!(message["timestamp"].as_f64().unwrap() > 1.7e9);
}

#[test]
fn a_new_subscriber_may_get_the_last_message() {
    let engine = Engine::configured(|config| {
        let mut rule = keeping(1);
        rule.history.last_on_subscribe = true;
        config.channels = vec![rule];
    });
    let mut speaker = engine.open();
    let mut first = engine.open();
    assert_eq!(first.subscribe("score"), 0);
    publish(&mut speaker, "score", 1..4);
    for offset in 1..4 {
        assert_eq!(first.message("score").0, offset);
    }
    let mut second = engine.open();
    assert_eq!(second.subscribe("score"), 3);
    assert_eq!(second.message("score"), (3, json!(3)));
    publish(&mut speaker, "score", 4..5);
    assert_eq!(second.message("score"), (4, json!(4)));
    second.is_alive();
}

/// Answers that somebody asked for don't make it a slow consumer, and don't fill the memory.
#[test]
fn large_answers_are_bounded_and_slow_nobody_down() {
    let mut engine = Engine::configured(|config| {
        config.client.message_bytes = 100_000;
        config.client.outbox_bytes = 400_000;
        config.channels = vec![keeping(1000)];
    });
    let mut speaker = engine.open();
    let text = "x".repeat(10_000);
    for _ in 0..100 {
        speaker.publish("big", &*text);
    }
    speaker.is_alive();
    let mut reader = engine.open();
    let epoch = reader.ask(json!({"type": "subscribe", "channel": "big"}))["epoch"].clone();
    // A page ends where half an outbox does.
    let page = reader.ask(json!({"type": "history", "channel": "big", "limit": 1000, "id": 1}));
    assert_eq!(page["data"]["more"], true);
    assert_eq!(offsets(&page), (1..20).collect::<Vec<u64>>());
    let recover = |offset: u64| json!({"offset": offset, "epoch": epoch});
    let mut late = engine.open();
    for (offset, recovered) in [(50, false), (90, true)] {
        let answer =
            late.ask(json!({"type": "subscribe", "channel": "big", "recover": recover(offset)}));
        assert_eq!(answer["recovered"], recovered, "{answer}");
        if recovered {
            (91..101).for_each(|offset| assert_eq!(late.message("big").0, offset));
        }
        late.ask(json!({"type": "unsubscribe", "channel": "big"}));
    }
    // As many questions as one can ask, and nothing is read meanwhile.
    let mut greedy = engine.open();
    greedy.subscribe("big");
    for id in 0..200 {
        greedy.say(json!({"type": "history", "channel": "big", "limit": 1000, "id": id}));
    }
    for _ in 0..5 {
        speaker.publish("big", "and a message meanwhile");
    }
    speaker.is_alive();
    let (mut pages, mut refused, mut messages) = (0, 0, 0);
    while pages + refused < 200 || messages < 5 {
        let answer = greedy.hear();
        match answer["type"].as_str().unwrap() {
            "response" => pages += 1,
            "message" => messages += 1,
            "error" => {
                assert_eq!(answer["code"], "busy", "{answer}");
                refused += 1;
            }
            other => panic!("{other}: {answer}"),
        }
    }
    assert!(pages > 0 && refused > 0, "{pages} pages, {refused} refused");
    greedy.is_alive();
    engine.serves_others();
}
