//! Messages on their way through several shards: order, size, pipelining, subscriptions.

use crate::client::Client;
use crate::engine::Engine;
use crate::raw::{Raw, frame, text};
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::net::TcpStream;
use std::thread;

/// Clients of which each shard serves at least one.
fn on_every_shard(engine: &Engine, shards: usize, count: usize) -> Vec<Client<TcpStream>> {
    let mut clients: Vec<_> = (0..count).map(|_| engine.open()).collect();
    let used: HashSet<usize> = clients.iter_mut().map(Client::shard).collect();
    assert_eq!(
        used.len(),
        shards,
        "connections are balanced over the shards"
    );
    clients
}

#[test]
fn one_order_for_everybody_on_four_shards() {
    const MESSAGES: usize = 150;
    const CHANNELS: [&str; 2] = ["red", "blue"];
    let mut engine = Engine::configured(|config| config.shards = Some(4));
    let publishers = on_every_shard(&engine, 4, 8);
    let mut subscribers = on_every_shard(&engine, 4, 20);
    for subscriber in &mut subscribers {
        for channel in CHANNELS {
            assert_eq!(subscriber.subscribe(channel), 0);
        }
    }
    let publishing: Vec<_> = (0_u64..)
        .zip(publishers)
        .map(|(publisher, mut client)| {
            thread::spawn(move || {
                for number in 0..MESSAGES {
                    for channel in CHANNELS {
                        client.publish(channel, json!([publisher, number]));
                    }
                }
                client
            })
        })
        .collect();
    let reading: Vec<_> = subscribers
        .into_iter()
        .map(|mut client| {
            thread::spawn(move || {
                let mut seen: HashMap<String, Vec<Value>> = HashMap::new();
                for _ in 0..CHANNELS.len() * 8 * MESSAGES {
                    let mut message = client.hear();
                    let channel = message["channel"].as_str().expect("a channel").to_owned();
                    let seen = seen.entry(channel).or_default();
                    assert_eq!(message["offset"], seen.len() + 1, "no gap, no repetition");
                    seen.push(message["data"].take());
                }
                client.is_alive();
                (client, seen)
            })
        })
        .collect();
    let mut everybody: Vec<_> = publishing
        .into_iter()
        .map(|thread| thread.join().unwrap())
        .collect();
    let mut orders = Vec::new();
    for thread in reading {
        let (client, seen) = thread.join().unwrap();
        everybody.push(client);
        orders.push(seen);
    }
    assert!(
        orders.iter().all(|order| *order == orders[0]),
        "all see the same order"
    );
    // And it keeps the order of each publisher.
    for order in orders[0].values() {
        for publisher in 0..8 {
            let own: Vec<_> = order
                .iter()
                .filter(|data| data[0] == publisher)
                .map(|data| data[1].clone())
                .collect();
            assert_eq!(own, (0..MESSAGES).map(Value::from).collect::<Vec<_>>());
        }
    }
    everybody.iter_mut().for_each(Client::bye);
    engine.is_undisturbed();
    let totals = engine.finish();
    // Each message is encoded once per shard, however many hear it (and those of the witness).
    assert!(totals.encodes <= (CHANNELS.len() * 8 * MESSAGES * 4 + 4) as u64);
    assert!(totals.deliveries >= (CHANNELS.len() * 8 * MESSAGES * 20) as u64);
}

#[test]
fn the_largest_messages_arrive_whole() {
    let engine = Engine::start();
    // Channels: 1 MiB, with everything around the data.
    let shell = json!({"type": "publish", "channel": "c", "data": ""})
        .to_string()
        .len();
    let data: String = ('a'..='z').cycle().take((1 << 20) - shell).collect();
    let publish = json!({"type": "publish", "channel": "c", "data": data}).to_string();
    assert_eq!(publish.len(), 1 << 20);
    let mut subscribers = on_every_shard(&engine, 2, 4);
    subscribers
        .iter_mut()
        .for_each(|client| _ = client.subscribe("c"));
    let mut raw = Raw::open(&engine, "/ws");
    let whole = text(&publish);
    let fragments = in_fragments(1, publish.as_bytes(), 1000);
    for (offset, bytes) in [(1, whole), (2, fragments)] {
        raw.write(&bytes);
        // An outbox has room for one: the next one comes when everybody has this one.
        for client in &mut subscribers {
            assert!(client.message("c") == (offset, json!(data)));
        }
    }
    for client in &mut subscribers {
        client.bye();
    }
    // Echo: 16 MiB.
    let large: Vec<u8> = (0..16_u32 << 20)
        .map(|number| (number >> 8) as u8 ^ number as u8)
        .collect();
    let mut echo = Raw::open(&engine, "/echo");
    for bytes in [frame(0x82, &large), in_fragments(2, &large, 4096)] {
        let mut writer = echo.stream.try_clone().unwrap();
        let writing = thread::spawn(move || std::io::Write::write_all(&mut writer, &bytes));
        let (first, payload) = echo.read_frame().expect("the echo");
        assert!(first == 0x82 && payload == large);
        writing.join().unwrap().unwrap();
    }
    drop((raw, echo));
    engine.finish();
}

/// A message in `count` fragments of about the same length.
fn in_fragments(opcode: u8, payload: &[u8], count: usize) -> Vec<u8> {
    let pieces: Vec<&[u8]> = payload.chunks(payload.len().div_ceil(count)).collect();
    let last = pieces.len() - 1;
    let frames = pieces.iter().enumerate().map(|(number, piece)| {
        let opcode = if number == 0 { opcode } else { 0 };
        frame(
            if number == last {
                0x80 | opcode
            } else {
                opcode
            },
            piece,
        )
    });
    frames.collect::<Vec<_>>().concat()
}

#[test]
fn many_frames_in_one_write() {
    const MESSAGES: usize = 1000;
    let engine = Engine::start();
    let mut listeners = on_every_shard(&engine, 2, 4);
    listeners
        .iter_mut()
        .for_each(|client| _ = client.subscribe("c"));
    let mut raw = Raw::open(&engine, "/ws");
    let mut bytes = Vec::new();
    for number in 0..MESSAGES {
        bytes.extend(text(
            &json!({"type": "publish", "channel": "c", "data": number, "id": number}).to_string(),
        ));
        bytes.extend(frame(0x89, &number.to_be_bytes()));
    }
    raw.write(&bytes);
    let (mut answers, mut pongs) = (0, 0);
    while answers + pongs < 2 * MESSAGES {
        match raw.read_frame().expect("an answer") {
            (0x8a, payload) => {
                assert_eq!(payload, pongs.to_be_bytes());
                pongs += 1;
            }
            (_, payload) => {
                let answer: Value = serde_json::from_slice(&payload).unwrap();
                assert_eq!(answer["id"], answers);
                assert_eq!(answer["data"]["offset"], answers + 1);
                answers += 1;
            }
        }
    }
    for client in &mut listeners {
        for number in 0..MESSAGES {
            assert_eq!(client.message("c"), (number as u64 + 1, json!(number)));
        }
        client.bye();
    }
    drop(raw);
    engine.finish();
}

#[test]
fn subscriptions_come_and_go_in_one_write() {
    let engine = Engine::configured(|config| config.shards = Some(4));
    for mut client in on_every_shard(&engine, 4, 8) {
        // Whatever a channel's home has answered by then: every request is answered once.
        for round in 0..20 {
            let channel = format!("c{round}");
            let requests = [
                json!({"type": "subscribe", "channel": channel, "id": 1}),
                json!({"type": "subscribe", "channel": channel, "id": 2}),
                json!({"type": "unsubscribe", "channel": channel, "id": 3}),
                json!({"type": "subscribe", "channel": channel, "id": 4}),
                json!({"type": "publish", "channel": channel, "data": "x", "id": 5}),
            ];
            for request in requests {
                client.socket.write(request.to_string().into()).unwrap();
            }
            client.socket.flush().unwrap();
            let mut answered = HashSet::new();
            let mut heard = 0;
            while answered.len() < 5 || heard < 1 {
                let answer = client.hear();
                match answer["type"].as_str() {
                    Some("message") => heard += 1,
                    // 1 and 2 may still wait for the channel's home when 3 calls them off.
                    Some("error") => {
                        assert_eq!(answer["code"], "not_subscribed");
                        assert!(answer["id"].as_u64() < Some(3));
                        assert!(answered.insert(answer["id"].as_u64()), "twice: {answer}");
                    }
                    Some("subscribed" | "unsubscribed" | "response") => {
                        assert!(answered.insert(answer["id"].as_u64()), "twice: {answer}");
                    }
                    _ => panic!("{answer}"),
                }
            }
            client.is_alive();
        }
        client.bye();
    }
    engine.finish();
}

#[test]
fn echo_false_excludes_one_connection() {
    let engine = Engine::start();
    let mut clients = on_every_shard(&engine, 2, 4);
    clients
        .iter_mut()
        .for_each(|client| _ = client.subscribe("c"));
    for publisher in 0..clients.len() {
        for echo in [false, true] {
            let client = &mut clients[publisher];
            client.say(
                json!({"type": "publish", "channel": "c", "data": [publisher, echo], "echo": echo}),
            );
        }
        for (number, client) in clients.iter_mut().enumerate() {
            for echo in [false, true] {
                if echo || number != publisher {
                    let (offset, data) = client.message("c");
                    assert_eq!(data, json!([publisher, echo]));
                    assert_eq!(offset, 2 * publisher as u64 + if echo { 2 } else { 1 });
                }
            }
        }
    }
    clients.iter_mut().for_each(Client::is_alive);
    clients.iter_mut().for_each(Client::bye);
    engine.finish();
}

#[test]
fn unsubscribed_connections_hear_nothing_and_may_come_back() {
    let engine = Engine::start();
    let mut clients = on_every_shard(&engine, 2, 4);
    let mut speaker = engine.open();
    for round in 0..5 {
        for client in &mut clients {
            assert_eq!(client.subscribe("c"), 2 * round);
            assert_eq!(client.subscribe("c"), 2 * round, "twice is once");
        }
        let published = |speaker: &mut Client<TcpStream>| {
            let answer =
                speaker.ask(json!({"type": "publish", "channel": "c", "data": 1, "id": 1}));
            answer["data"]["offset"].as_u64().expect("an offset")
        };
        assert_eq!(published(&mut speaker), 2 * round + 1);
        for client in &mut clients {
            assert_eq!(client.message("c"), (2 * round + 1, json!(1)));
            assert_eq!(
                client.ask(json!({"type": "unsubscribe", "channel": "c"}))["type"],
                "unsubscribed"
            );
        }
        assert_eq!(published(&mut speaker), 2 * round + 2);
        clients.iter_mut().for_each(Client::is_alive);
    }
    clients.iter_mut().for_each(Client::bye);
    speaker.bye();
    engine.finish();
}

/// Quiet shards sleep; a message wakes the ones that it is for.
#[test]
fn a_message_reaches_shards_that_sleep() {
    let engine = Engine::start();
    let mut clients = on_every_shard(&engine, 2, 4);
    clients
        .iter_mut()
        .for_each(|client| _ = client.subscribe("c"));
    let turns = |engine: &Engine| -> Vec<u64> {
        let counters = engine.running().counters();
        counters
            .iter()
            .map(|counters| counters.turns.get())
            .collect()
    };
    for number in 0..20_u64 {
        // Asleep: no shard turns between two looks (it turns when its clock ticks, so look again).
        let mut before = turns(&engine);
        engine.wait_for("the shards sleep", |_| {
            thread::sleep(std::time::Duration::from_millis(5));
            let now = turns(&engine);
            let asleep = now == before;
            before = now;
            asleep
        });
        let publisher = number as usize % clients.len();
        clients[publisher].publish("c", number);
        for client in &mut clients {
            assert_eq!(client.message("c"), (number + 1, json!(number)));
        }
    }
    clients.iter_mut().for_each(Client::bye);
    engine.finish();
}
