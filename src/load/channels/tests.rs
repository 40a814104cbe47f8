use super::*;
use crate::load::plan::{Plan, Scenario as Planned};
use crate::load::scenario::MaskKeys;
use crate::ring::PayloadPool;

/// Connection 0 publishes; 1 to 4 subscribe to two of four channels each, so that every channel has
/// two subscribers.
struct Run {
    channels: Channels,
    states: [ChannelsState; 5],
    board: Arc<Board>,
    /// What left, as the text of its frames.
    sent: Vec<(u32, String)>,
}

const SIZE_BYTES: usize = 40;

impl Run {
    fn opened(traffic: Option<Traffic>) -> Self {
        let plan = ChannelsPlan {
            groups: vec![ChannelGroup::new("c", 4, 2)],
            publishers: 1,
            size_bytes: SIZE_BYTES,
            traffic,
            held_back: true,
        };
        let address = ([127, 0, 0, 1], 9000).into();
        let whole = Plan::new(address, "/ws", 5, Planned::Channels(plan.clone()));
        assert_eq!(whole.check(), Ok(()));
        let board = Arc::new(Board::new(&plan, &whole));
        let mut run = Self {
            channels: Channels::new(plan, Arc::clone(&board), 1, 0, 2),
            states: Default::default(),
            board,
            sent: Vec::new(),
        };
        for key in 0..5 {
            let state = &mut run.states[key as usize];
            let (ready, _) = with_out(|out| run.channels.opened(key, state, out));
            assert_eq!(ready, key == 0);
        }
        run
    }

    /// All are subscribed.
    fn ready(traffic: Option<Traffic>) -> Self {
        let mut run = Self::opened(traffic);
        run.board.subscribe.store(true, Ordering::Release);
        for _ in 0..2 {
            run.turn(0, false);
            for (key, text) in std::mem::take(&mut run.sent) {
                for name in text.split(r#""channel":""#).skip(1) {
                    let name = name.split('"').next().unwrap_or_default();
                    let answer = format!(
                        r#"{{"type":"subscribed","channel":"{name}","offset":7,"epoch":1}}"#
                    );
                    run.message(key, &answer).expect("it waits for this");
                }
            }
        }
        assert!(run.states.iter().all(|state| state.unanswered == 0));
        run
    }

    fn message(&mut self, key: u32, text: &str) -> Result<bool, String> {
        let state = &mut self.states[key as usize];
        let channels = &mut self.channels;
        with_out(|out| channels.message(key, state, Kind::Text, text.as_bytes(), out)).0
    }

    fn turn(&mut self, now_ns: u64, running: bool) {
        self.channels.clock(now_ns);
        self.channels.turn(running);
        while let Some(key) = self.channels.next_due() {
            let state = &mut self.states[key as usize];
            let ((), bytes) = with_out(|out| self.channels.send(key, state, out));
            self.sent.push((key, bytes));
        }
    }

    /// What the server makes of a publish, for everybody in its channel.
    fn delivery(publish: &str, offset: u64) -> String {
        let publish: serde_json::Value = serde_json::from_str(publish).expect("JSON");
        serde_json::json!({
            "type": "message", "channel": publish["channel"], "from": null,
            "data": publish["data"], "offset": offset, "timestamp": 1.5,
        })
        .to_string()
    }

    /// The subscribers of the channel that a publish names.
    fn subscribers(&self, publish: &str) -> Vec<u32> {
        let publish: serde_json::Value = serde_json::from_str(publish).expect("JSON");
        let channel = self
            .channels
            .plan
            .find(publish["channel"].as_str().expect("a name"));
        let subscribes = |key: &u32| {
            let subscriptions = &self.states[*key as usize].subscriptions;
            subscriptions.iter().any(|at| Some(at.channel) == channel)
        };
        (1..5).filter(subscribes).collect()
    }
}

/// Calls with a place to write frames, and reads what was written: masks are taken off.
fn with_out<T>(call: impl FnOnce(&mut Outgoing<'_>) -> T) -> (T, String) {
    let mut waiting = None;
    let result = call(&mut Outgoing {
        waiting: &mut waiting,
        pool: &mut PayloadPool::new(),
        keys: &mut MaskKeys::new(1),
    });
    let mut bytes = waiting.map_or_else(Vec::new, |waiting| waiting.as_slice().to_vec());
    let mut text = String::new();
    let mut rest = &mut bytes[..];
    while rest.len() > 6 {
        let (header, length) = match rest[1] & 0x7f {
            126 => (4, usize::from(u16::from_be_bytes([rest[2], rest[3]]))),
            length => (2, usize::from(length)),
        };
        let key: [u8; 4] = rest[header..header + 4].try_into().expect("four bytes");
        let (frame, more) = rest[header + 4..].split_at_mut(length);
        for (at, byte) in frame.iter_mut().enumerate() {
            *byte ^= key[at % 4];
        }
        text += std::str::from_utf8(frame).expect("text");
        rest = more;
    }
    (result, text)
}

fn traffic(outstanding: u32, rate: Option<u32>) -> Option<Traffic> {
    Some(Traffic {
        group: 0,
        outstanding,
        rate,
    })
}

#[test]
fn subscriptions_wait_until_they_are_wanted() {
    let mut run = Run::opened(None);
    run.turn(0, true);
    assert!(run.sent.is_empty());
    run.board.subscribe.store(true, Ordering::Release);
    run.turn(0, true);
    // Two connections at a time, each with all its channels.
    assert_eq!(run.sent.len(), 2);
    assert!(
        run.sent
            .iter()
            .all(|(_, text)| text.matches("subscribe").count() == 2)
    );
    let answer =
        |name: &str| format!(r#"{{"type":"subscribed","channel":"{name}","offset":0,"epoch":1}}"#);
    assert_eq!(run.message(1, &answer("c-0")), Ok(false));
    let twice = run.message(1, &answer("c-0")).unwrap_err();
    assert!(twice.contains("answered twice"), "{twice}");
    let other = run.message(1, &answer("c-3")).unwrap_err();
    assert!(other.contains("c-3"), "{other}");
    run.turn(0, true);
    assert_eq!(run.sent.len(), 2, "a connection still waits");
    assert_eq!(run.message(1, &answer("c-1")), Ok(true));
    run.turn(0, true);
    assert_eq!(run.sent.len(), 3);
}

#[test]
fn a_burst_publishes_once_to_each_channel_and_takes_until_the_last_delivery() {
    let mut run = Run::ready(None);
    run.board.ask_burst(0);
    run.turn(1_000, false);
    run.turn(1_500, false);
    let publishes = std::mem::take(&mut run.sent);
    assert_eq!(publishes.len(), 4);
    assert!(!run.channels.is_quiet());
    let mut now_ns = 2_000;
    for (_, publish) in &publishes {
        let subscribers = run.subscribers(publish);
        assert_eq!(subscribers.len(), 2);
        for key in subscribers {
            now_ns += 100;
            run.channels.clock(now_ns);
            assert_eq!(run.message(key, &Run::delivery(publish, 8)), Ok(false));
        }
    }
    assert_eq!(run.board.burst_ns(), 2_800 - 1_000);
    run.turn(9_000, false);
    assert!(run.channels.is_quiet());
    let counts = run.channels.counts();
    assert_eq!((counts.messages, counts.publishes), (8, 4));
    assert_eq!(run.channels.take_latencies().0.summary().count, 8);
}

#[test]
fn what_is_lost_doubled_misled_or_changed_is_found() {
    let mut run = Run::ready(traffic(64, None));
    run.turn(1_000, true);
    let publishes = std::mem::take(&mut run.sent);
    let of = |name: &str| -> Vec<String> {
        let channel = format!(r#""channel":"{name}""#);
        let texts = publishes.iter().map(|(_, text)| text.clone());
        texts.filter(|text| text.contains(&channel)).collect()
    };
    let (own, other) = (of("c-0"), of("c-3"));
    let fails = |run: &mut Run, text: &str, what: &str| {
        let error = run.message(1, text).expect_err(what);
        assert!(error.contains(what), "{error}");
    };
    fails(
        &mut run,
        &Run::delivery(&own[0], 9),
        "offset 9 came where offset 8",
    );
    fails(
        &mut run,
        &Run::delivery(&other[0], 8),
        "to which this connection does not",
    );
    let misled = Run::delivery(&other[0], 8).replace("c-3", "c-0");
    fails(&mut run, &misled, "which was published to c-3");
    let longer = Run::delivery(&own[0], 8).replace("\",\"from", "x\",\"from");
    fails(&mut run, &longer, "which was published to c-0");
    fails(
        &mut run,
        r#"{"type":"message","channel":"c-0","data":"hello","offset":8}"#,
        "what nobody published",
    );
    assert_eq!(run.message(1, &Run::delivery(&own[0], 8)), Ok(false));
    fails(
        &mut run,
        &Run::delivery(&own[0], 8),
        "offset 8 came where offset 9",
    );
    // The server numbered them one after another, in the wrong order.
    fails(
        &mut run,
        &Run::delivery(&own[2], 9),
        "publish 2 of its publisher came where 1",
    );
    fails(&mut run, r#"{"type":"disconnect","code":4010}"#, "4010");
    assert_eq!(run.message(1, &Run::delivery(&own[1], 9)), Ok(false));
}

#[test]
fn no_more_is_on_the_way_than_the_plan_says() {
    let mut run = Run::ready(traffic(3, None));
    run.turn(1_000, true);
    run.turn(2_000, true);
    assert_eq!(run.sent.len(), 3);
    let (_, first) = run.sent[0].clone();
    for key in run.subscribers(&first) {
        assert_eq!(run.message(key, &Run::delivery(&first, 8)), Ok(false));
    }
    run.turn(3_000, true);
    assert_eq!((run.sent.len(), run.channels.counts().publishes), (4, 1));
}

#[test]
fn a_rate_is_kept() {
    let mut run = Run::ready(traffic(1_000, Some(100)));
    for ms in 0..=500 {
        run.turn(7 + ms * 1_000_000, true);
    }
    assert_eq!(run.sent.len(), 50);
}

#[test]
fn publishers_have_channels_of_their_own() {
    for (start, channels, publishers) in [(0, 10, 3), (7, 64, 64), (5, 4, 4), (1, 1, 1)] {
        for key in 0..publishers {
            let mut publisher = Publisher {
                open: true,
                next: 0,
                waiting: 0,
                begun: 0,
                on_the_way: VecDeque::new(),
                sequences: Vec::new(),
                random: SEED,
            };
            for _ in 0..100 {
                let channel = publisher.draw(start, channels, key, publishers);
                assert!((start..start + channels).contains(&channel), "{channel}");
                assert_eq!(channel % publishers, key);
            }
        }
    }
}
