//! Ten thousand readers, of which one in a hundred does not read: what happens to it is what the channel's
//! rule says, to the message, and the others do not wait.

use crate::client::Client;
use crate::engine::{Engine, connect};
use crate::support::PATIENCE;
use ringwire::config::SlowConsumer;
use ringwire::load::{FanoutPlan, Load, Plan, Scenario};
use ringwire::telemetry::counters::RuleTotals;
use ringwire::topology::raise_nofile;
use serde_json::{Value, json};
use socket2::SockRef;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;
use tungstenite::{Error, Message};

const CHANNEL: &str = "all";
/// 9 MB for each reader: more than the kernel buffers for one that does not read.
const FILLING: u32 = 300;
/// For everybody, while they are stuck.
const PUBLISHES: u32 = 20;
const ALL: u64 = (FILLING + PUBLISHES) as u64;

/// Messages to `readers` that read, while others don't. The load generator sees to it that each publish has
/// reached all of its readers before the next one leaves: if they waited for somebody who reads only
/// afterwards, this would not end.
fn publish(address: SocketAddr, readers: u32, publishes: u32, size_bytes: usize) {
    let fanout = FanoutPlan {
        channel: CHANNEL.to_owned(),
        publishers: 1,
        size_bytes,
        outstanding: 1,
        publishes: Some(publishes),
        rate: None,
    };
    let plan = Plan::new(address, "/ws", readers + 1, Scenario::Fanout(fanout));
    let load = Load::start(&plan).expect("it starts");
    load.wait_ready(4 * PATIENCE).expect("all subscribe");
    load.resume();
    let patience = 10 * PATIENCE;
    load.wait_publishes(publishes.into(), patience)
        .expect("nobody waits for those that don't read");
    let summary = load.finish().expect("nothing is missing");
    assert_eq!(summary.counts.messages, u64::from(readers * publishes));
}

/// Much for few, so that those that don't read are stuck; then something for many.
fn publish_beside_the_stuck(engine: &Engine, readers: u32) {
    publish(engine.address(), 5, FILLING, 30_000);
    publish(engine.address(), readers, PUBLISHES, 1_000);
}

/// A connection for which the kernel does not keep ever more. (With much less room than a segment of the
/// loopback device has, 64 KiB, it would take minutes to read.)
fn lagging(engine: &Engine) -> Client<TcpStream> {
    let stream = connect(engine.address());
    let socket = SockRef::from(&stream);
    socket
        .set_recv_buffer_size(256 << 10)
        .expect("a buffer that does not grow");
    let mut client = Client::over(stream, "/ws");
    client.subscribe(CHANNEL);
    client
}

/// What one that lagged gets when it reads at last.
#[derive(Debug, Default)]
struct Got {
    offsets: Vec<u64>,
    dropped: u64,
    /// By how much the offsets rise where messages are missing without a word.
    silent: u64,
}

impl Got {
    /// Reads up to message `until`, or to the end of the connection.
    fn read(client: &mut Client<TcpStream>, until: u64) -> (Self, Option<u16>) {
        let mut got = Self::default();
        let mut position = 0;
        while position < until {
            let frame: Value = match client.socket.read() {
                Ok(Message::Text(text)) => serde_json::from_str(&text).expect("JSON"),
                Ok(Message::Close(frame)) => {
                    return (got, frame.map(|frame| frame.code.into()));
                }
                Ok(_) => continue,
                Err(Error::ConnectionClosed) => return (got, None),
                Err(error) => panic!("{error}"),
            };
            if frame["type"] == "disconnect" {
                continue;
            }
            let offset = frame["offset"].as_u64().expect("an offset");
            assert!(offset > position, "{frame} after {position}");
            if frame["type"] == "dropped" {
                let count = frame["count"].as_u64().expect("a count");
                got.dropped += count;
                got.silent += offset - position - count;
            } else {
                assert_eq!(frame["type"], "message");
                got.silent += offset - position - 1;
                got.offsets.push(offset);
            }
            position = offset;
        }
        (got, None)
    }
}

fn engine(policy: SlowConsumer) -> Engine {
    let limit = raise_nofile().soft;
    assert!(
        limit >= 11_000,
        "11,000 open files are needed, {limit} are allowed"
    );
    Engine::configured(|config| {
        config.client.connections_per_shard = Some(8192);
        config.client.message_bytes = 32 << 10;
        config.client.outbox_bytes = 128 << 10;
        config.channels[0].slow_consumer = policy;
    })
}

/// So many that don't read, beside so many that do; then `check` looks at what each of them got, and adds to
/// what the server must have counted.
fn lag_behind(
    policy: SlowConsumer,
    laggards: usize,
    readers: u32,
    mut check: impl FnMut(&mut Client<TcpStream>, &mut RuleTotals),
) -> Engine {
    let engine = engine(policy);
    let mut laggards: Vec<_> = (0..laggards).map(|_| lagging(&engine)).collect();
    publish_beside_the_stuck(&engine, readers);
    let mut expected = RuleTotals::default();
    for laggard in &mut laggards {
        check(laggard, &mut expected);
    }
    assert_eq!(engine.totals().rules[0], expected);
    engine
}

/// The connection is as any other, and ends.
fn goes_on(laggard: &mut Client<TcpStream>) {
    laggard.is_alive();
    laggard.bye();
}

#[test]
fn of_ten_thousand_readers_a_hundred_lose_messages() {
    let mut engine = lag_behind(SlowConsumer::DropOldest, 100, 9_900, |laggard, expected| {
        let (got, closed) = Got::read(laggard, ALL);
        assert_eq!((got.silent, closed), (0, None), "{got:?}");
        let is_last = got.offsets.last() == Some(&ALL);
        assert!(got.dropped > 0 && is_last, "{got:?}");
        assert_eq!(got.offsets.len() as u64 + got.dropped, ALL);
        expected.dropped += got.dropped;
        goes_on(laggard);
    });
    engine.is_undisturbed();
    assert_eq!(engine.finish().slow_consumers, 0);
}

#[test]
fn of_a_thousand_readers_ten_get_the_newest() {
    let mut engine = lag_behind(SlowConsumer::Conflate, 10, 990, |laggard, expected| {
        let (got, closed) = Got::read(laggard, ALL);
        assert_eq!((got.dropped, closed), (0, None), "{got:?}");
        assert!(got.silent > 0, "{got:?}");
        expected.conflated += got.silent;
        goes_on(laggard);
    });
    engine.is_undisturbed();
    assert_eq!(engine.finish().slow_consumers, 0);
}

#[test]
fn of_a_thousand_readers_ten_are_disconnected() {
    let mut engine = lag_behind(SlowConsumer::Disconnect, 10, 990, |laggard, expected| {
        let (got, closed) = Got::read(laggard, ALL);
        let nothing = (got.dropped, got.silent);
        assert_eq!((nothing, closed), ((0, 0), Some(4010)), "{got:?}");
        expected.disconnected += 1;
    });
    engine.is_undisturbed();
    let totals = engine.finish();
    assert_eq!((totals.slow_consumers, totals.close_codes[&4010]), (10, 10));
}

/// A real server, beside what the simulation shows: wildcards and batches over two shards.
#[test]
fn a_wildcard_brings_batches_of_several_channels() {
    let engine = Engine::configured(|config| {
        config.channels[0].allow.wildcards = ringwire::config::Access::Everyone;
        config.channels[0].delivery.batch_ms = 50;
    });
    let mut listener = engine.open();
    let subscribe = json!({"type": "subscribe", "channel": "prices.*", "batch": true});
    assert_eq!(
        listener.ask(subscribe),
        json!({"type": "subscribed", "channel": "prices.*"})
    );
    let mut speaker = engine.open();
    for number in 0..20 {
        speaker.publish(&format!("prices.{}", number % 4), number);
    }
    let (mut heard, mut frames) = (Vec::new(), 0);
    while heard.len() < 20 {
        let frame = listener.hear();
        assert_eq!(
            (&frame["type"], &frame["wildcard"]),
            (&json!("messages"), &json!("prices.*"))
        );
        frames += 1;
        for message in frame["messages"].as_array().expect("an array") {
            let number = message["data"].as_u64().expect("a number");
            assert_eq!(message["channel"], format!("prices.{}", number % 4));
            assert_eq!(message["offset"], number / 4 + 1);
            heard.push(number);
        }
    }
    assert!(frames < 20, "nothing was gathered");
    heard.sort_unstable();
    assert_eq!(heard, (0..20).collect::<Vec<_>>());
    // What gathers comes although nothing else happens.
    std::thread::sleep(Duration::from_millis(5));
    speaker.publish("prices.last", "last");
    assert_eq!(listener.hear()["messages"][0]["data"], "last");
    listener.bye();
    speaker.bye();
    engine.finish();
}
