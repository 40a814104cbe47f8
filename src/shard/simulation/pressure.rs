//! Who does not keep up: a client, or a shard. One test each, without chance.

use super::peer::{Peer, WINDOW, server};
use super::server::Server;
use crate::mesh::{BATCHES_PER_SHARD, Message};
use crate::wire::frame::{Opcode, encode_masked};

fn channel_at_home_on(shard: u16, server: &mut Server) -> String {
    (0..100)
        .map(|number| format!("channel {number}"))
        .find(|name| server.shard(0).core.local.home_of(name) == shard)
        .expect("every shard is the home of some")
}

#[test]
fn a_full_inbox_delays_and_loses_nothing() {
    let mut server = server(2, 8, |config| config.client.mesh_pending_bytes = 4000);
    let peer = Peer::upgrade(&mut server, 0, "/", 1 << 20);
    let channel = channel_at_home_on(1, &mut server);
    for _ in 0..BATCHES_PER_SHARD {
        let nothing = Message::HandOverFailed { from: (0, 9999) };
        server
            .links
            .send_from_outside(1, nothing)
            .expect("it lives");
    }
    let data = "x".repeat(1000);
    for number in 0..10 {
        peer.text(
            &server,
            &format!(r#"{{"type":"publish","channel":"{channel}","id":{number},"data":"{data}"}}"#),
        );
        for _ in 0..6 {
            server.step(0);
        }
    }
    assert!(server.nodes[0].counters.batches_kept.get() > 0);
    let refused = peer.texts(&server);
    assert!(
        !refused.is_empty() && refused.iter().all(|text| text.contains(r#""code":"busy""#)),
        "{refused:?}"
    );
    server.world.borrow_mut().wake_from_outside(1);
    server.rest();
    let answers = peer.texts(&server);
    assert_eq!(answers.len() + refused.len(), 10);
    for (number, answer) in answers.iter().enumerate() {
        let expected = format!(
            r#"{{"type":"response","id":{number},"data":{{"published":true,"offset":{}}}}}"#,
            number + 1
        );
        assert_eq!(*answer, expected);
    }
}

/// Neither does the home number what a shard with subscribers cannot take.
#[test]
fn what_waits_for_a_stalled_shard_is_bounded() {
    const LIMIT_BYTES: usize = 4000;
    const PUBLISHES: usize = 50;
    let mut server = server(3, 8, |config| {
        config.client.mesh_pending_bytes = LIMIT_BYTES;
    });
    let speaker = Peer::upgrade(&mut server, 0, "/", 1 << 20);
    let _other = Peer::upgrade(&mut server, 1, "/", WINDOW);
    let listener = Peer::upgrade(&mut server, 2, "/", 1 << 20);
    let channel = channel_at_home_on(1, &mut server);
    let subscribe = format!(r#"{{"type":"subscribe","channel":"{channel}"}}"#);
    listener.text(&server, &subscribe);
    server.rest();
    listener.hear(&server);
    // The listener's shard takes no turn.
    let data = "x".repeat(1000);
    for number in 0..PUBLISHES {
        speaker.text(
            &server,
            &format!(r#"{{"type":"publish","channel":"{channel}","id":{number},"data":"{data}"}}"#),
        );
        for _ in 0..12 {
            server.step(0);
            server.step(1);
        }
    }
    let waiting = server.links.inbox_bytes(2) + server.shard(1).core.mesh.pending_bytes();
    assert!(waiting <= 3 * LIMIT_BYTES, "{waiting}");
    server.rest();
    let answers = speaker.texts(&server);
    let busy = |text: &&String| text.contains(r#""code":"busy""#);
    let refused = answers.iter().filter(busy).count();
    assert_eq!(answers.len(), PUBLISHES);
    assert!((1..PUBLISHES).contains(&refused), "{refused}");
    let counters = &server.nodes[1].counters;
    assert_eq!(counters.publishes_refused.get(), refused as u64);
    // What was taken arrives, and is numbered without gaps.
    let heard = listener.texts(&server);
    assert_eq!(heard.len(), PUBLISHES - refused);
    for (text, offset) in heard.iter().zip(1..) {
        assert!(text.contains(&format!(r#""offset":{offset},"#)), "{text}");
    }
}

#[test]
fn who_does_not_read_its_answers_is_not_read_from() {
    let mut server = server(1, 8, |config| config.heartbeat.interval_ms = 0);
    let peer = Peer::upgrade(&mut server, 0, "/echo", 1000);
    let message = "x".repeat(10_000);
    let mut sent = 0;
    // The client sends all that the server takes.
    for _ in 0..200 {
        let mut frame = Vec::new();
        encode_masked(&mut frame, Opcode::Text, true, message.as_bytes(), [0; 4]);
        if server.world.borrow().socket(peer.socket).unread_by_server() + frame.len() < 100_000 {
            peer.write(&server, &frame);
            sent += 1;
        }
        server.rest();
    }
    assert!(sent < 60, "{sent} messages were taken");
    assert!(server.world.borrow().socket(peer.socket).unread_by_server() > 0);
    let mut heard = 0;
    for _ in 0..200 {
        heard += peer.hear_some(&server);
        server.rest();
    }
    assert!(heard >= sent * 10_000, "{heard} bytes of {sent} messages");
    assert_eq!(
        server.world.borrow().socket(peer.socket).unread_by_server(),
        0
    );
}

impl Peer {
    /// Reads what is there; how many bytes.
    fn hear_some(&self, server: &Server) -> usize {
        let mut bytes = 0;
        loop {
            let more = server
                .world
                .borrow_mut()
                .read(self.socket, usize::MAX)
                .len();
            if more == 0 {
                return bytes;
            }
            bytes += more;
        }
    }
}

#[test]
fn a_slow_consumer_goes_and_the_others_wait_for_nobody() {
    let mut server = server(1, 8, |config| config.client.outbox_bytes = 5000);
    let slow = Peer::upgrade(&mut server, 0, "/", 600);
    let quick = Peer::upgrade(&mut server, 0, "/", 1 << 20);
    for peer in [&slow, &quick] {
        peer.text(&server, r#"{"type":"subscribe","channel":"c"}"#);
    }
    server.rest();
    slow.hear(&server);
    for number in 0..100 {
        let data = "y".repeat(200);
        quick.text(
            &server,
            &format!(r#"{{"type":"publish","channel":"c","data":"{number}{data}"}}"#),
        );
        server.rest();
    }
    assert_eq!(quick.hear(&server).len(), 101);
    assert_eq!(server.nodes[0].counters.slow_consumers.get(), 1);
    let last = {
        let mut bytes = Vec::new();
        for _ in 0..100 {
            bytes.extend(server.world.borrow_mut().read(slow.socket, usize::MAX));
            server.rest();
        }
        bytes
    };
    let reason = b"slow consumer";
    assert!(
        last.ends_with(reason),
        "the close frame is the last thing said"
    );
    let code = &last[last.len() - reason.len() - 2..last.len() - reason.len()];
    assert_eq!(code, 4010u16.to_be_bytes());
}

/// Whose socket takes everything is not slow when a turn brings more than an outbox holds.
#[test]
fn who_takes_everything_is_no_slow_consumer() {
    const SPEAKERS: usize = 16;
    let mut server = server(1, 64, |config| config.client.outbox_bytes = 5000);
    let quick = Peer::upgrade(&mut server, 0, "/", 1 << 20);
    quick.text(&server, r#"{"type":"subscribe","channel":"c"}"#);
    let speakers: Vec<_> = (0..SPEAKERS)
        .map(|_| Peer::upgrade(&mut server, 0, "/", WINDOW))
        .collect();
    server.rest();
    quick.hear(&server);
    let data = "y".repeat(900);
    let publish = format!(r#"{{"type":"publish","channel":"c","data":"{data}"}}"#);
    for speaker in &speakers {
        speaker.text(&server, &publish);
    }
    server.rest();
    assert_eq!(quick.texts(&server).len(), SPEAKERS);
    assert_eq!(quick.ended(&server), None);
    // But there is a bound: twice as much, still in one receive of each speaker.
    for speaker in &speakers {
        speaker.text(&server, &publish);
        speaker.text(&server, &publish);
    }
    server.rest();
    assert_eq!(server.nodes[0].counters.slow_consumers.get(), 1);
}

#[test]
fn subscriptions_that_wait_for_a_stalled_shard_are_bounded() {
    const ASKED: usize = 20;
    let mut server = server(2, 8, |_| ());
    let peer = Peer::upgrade(&mut server, 0, "/", WINDOW);
    let channel = channel_at_home_on(1, &mut server);
    for number in 0..ASKED {
        let ask = format!(r#"{{"type":"subscribe","channel":"{channel}","id":{number}}}"#);
        peer.text(&server, &ask);
        server.step(0);
        server.step(0);
    }
    for _ in 0..10 {
        server.step(0);
    }
    let refused = peer.texts(&server);
    assert!(
        refused.iter().all(|text| text.contains(r#""code":"busy""#)),
        "{refused:?}"
    );
    server.rest();
    let confirmed = peer.texts(&server);
    assert!(
        confirmed
            .iter()
            .all(|text| text.contains(r#""type":"subscribed""#)),
        "{confirmed:?}"
    );
    assert_eq!((refused.len(), confirmed.len()), (ASKED - 16, 16));
}

/// Answers out of histories are not dropped, so they are bounded where they are given.
#[test]
fn answers_that_nobody_reads_are_bounded() {
    const OUTBOX_BYTES: usize = 200_000;
    let mut server = server(1, 8, |config| {
        config.client.outbox_bytes = OUTBOX_BYTES;
        config.client.message_bytes = 20_000;
        config.heartbeat.interval_ms = 0;
        config.channels[0].history.size = 1000;
    });
    let speaker = Peer::upgrade(&mut server, 0, "/", 1 << 20);
    let data = "x".repeat(1000);
    for channel in 0..60 {
        for _ in 0..50 {
            let text =
                format!(r#"{{"type":"publish","channel":"room {channel}","data":"{data}"}}"#);
            speaker.text(&server, &text);
        }
        server.rest();
    }
    speaker.text(
        &server,
        r#"{"type":"history","channel":"room 0","limit":1,"id":1}"#,
    );
    server.rest();
    let page = speaker.texts(&server).remove(0);
    let page: serde_json::Value = serde_json::from_str(&page).expect("JSON");
    let epoch = &page["data"]["epoch"];
    // It takes a little and no more: a send is in flight while everything else is asked for.
    let greedy = Peer::upgrade(&mut server, 0, "/", 1000);
    let waiting = |server: &mut Server| {
        let connections = server.shard(0).core.connections.iter();
        let waiting = connections.map(|(_, connection)| connection.outbox_bytes as usize);
        waiting.max().expect("two connections")
    };
    let mut most = 0;
    for channel in 0..60 {
        let recover = format!(
            r#"{{"type":"subscribe","channel":"room {channel}","id":{channel},"recover":{{"offset":0,"epoch":{epoch}}}}}"#
        );
        let again = format!(r#"{{"type":"unsubscribe","channel":"room {channel}"}}"#);
        let history = format!(
            r#"{{"type":"history","channel":"room {channel}","limit":1000,"id":{channel}}}"#
        );
        for text in [&recover, &again, &recover, &history] {
            let mut frame = Vec::new();
            encode_masked(
                &mut frame,
                Opcode::Text,
                true,
                text.as_bytes(),
                [1, 2, 3, 4],
            );
            server.world.borrow_mut().write(greedy.socket, &frame);
        }
        if channel % 20 == 19 {
            server.rest();
            most = most.max(waiting(&mut server));
        }
    }
    assert!(most > OUTBOX_BYTES / 4, "{most}: nothing was given");
    // What one turn brings may be four times as much, and one answer more.
    assert!(most <= 5 * OUTBOX_BYTES, "{most} bytes wait");
    let counters = &server.nodes[0].counters;
    assert!(counters.recoveries_failed.get() > 0);
    assert_eq!(counters.slow_consumers.get(), 0, "it asked for them");
}

/// What a connection has asked for and given up costs the home as much as what it still wants.
#[test]
fn questions_that_were_given_up_count() {
    let mut server = server(2, 8, |config| {
        config.client.channels = 2;
        config.channels[0].history.size = 10;
    });
    let channel = channel_at_home_on(1, &mut server);
    let peer = Peer::upgrade(&mut server, 0, "/", 1 << 20);
    for id in 0..80 {
        let recover = r#""recover":{"offset":0,"epoch":1}"#;
        let subscribe =
            format!(r#"{{"type":"subscribe","channel":"{channel}","id":{id},{recover}}}"#);
        peer.text(&server, &subscribe);
        peer.text(
            &server,
            &format!(r#"{{"type":"unsubscribe","channel":"{channel}"}}"#),
        );
        // The home takes no turn.
        server.step(0);
        server.step(0);
    }
    for _ in 0..6 {
        server.step(0);
    }
    let busy = |texts: &[String]| {
        let busy = texts
            .iter()
            .filter(|text| text.contains(r#""code":"busy""#));
        busy.count()
    };
    assert_eq!(busy(&peer.texts(&server)), 80 - (2 + 64));
    server.rest();
    let last = format!(
        r#"{{"type":"subscribe","channel":"{channel}","recover":{{"offset":0,"epoch":1}}}}"#
    );
    peer.hear(&server);
    peer.text(&server, &last);
    server.rest();
    let heard = peer.texts(&server);
    assert!(
        heard.len() == 1 && heard[0].contains(r#""recovered":false"#),
        "{heard:?}"
    );
    assert!(server.shard(0).core.unanswered.is_empty());
}

/// A home that wants to know who is there, and takes no turn, is not told more and more.
#[test]
fn members_that_come_and_go_do_not_fill_the_way_to_a_stalled_home() {
    const LIMIT_BYTES: usize = 4000;
    let mut server = server(2, 8, |config| {
        config.client.mesh_pending_bytes = LIMIT_BYTES;
        config.channels[0].presence.enabled = true;
    });
    let channel = channel_at_home_on(1, &mut server);
    let stays = Peer::upgrade(&mut server, 0, "/", WINDOW);
    let _other = Peer::upgrade(&mut server, 1, "/", WINDOW);
    let toggles = Peer::upgrade(&mut server, 0, "/", 1 << 20);
    let subscribe = format!(r#"{{"type":"subscribe","channel":"{channel}","id":1}}"#);
    let unsubscribe = format!(r#"{{"type":"unsubscribe","channel":"{channel}"}}"#);
    stays.text(&server, &subscribe);
    server.rest();
    for _ in 0..300 {
        toggles.text(&server, &subscribe);
        toggles.text(&server, &unsubscribe);
        server.step(0);
        server.step(0);
    }
    let waiting = server.links.inbox_bytes(1) + server.shard(0).core.mesh.pending_bytes();
    assert!(waiting <= 3 * LIMIT_BYTES, "{waiting}");
    let heard = toggles.texts(&server);
    let busy = |text: &&String| text.contains(r#""code":"busy""#);
    assert!(heard.iter().filter(busy).count() > 0);
    server.rest();
    server.check_presence();
}

/// What a crowd needed goes when it has left, and whoever comes then is served as before.
#[test]
fn the_room_of_a_crowd_goes_with_it() {
    let mut server = server(1, 256, |config| config.heartbeat.interval_ms = 0);
    let crowd: Vec<Peer> = (0..200)
        .map(|number| {
            let peer = Peer::upgrade(&mut server, 0, "/", 1 << 20);
            let subscribe = format!(r#"{{"type":"subscribe","channel":"channel {number}"}}"#);
            peer.text(&server, &subscribe);
            peer
        })
        .collect();
    server.rest();
    assert_eq!(server.shard(0).core.high_key, 200);
    let slots = server.shard(0).core.connections.capacity();
    for peer in &crowd {
        server.world.borrow_mut().reset(peer.socket);
    }
    server.rest();
    assert!(server.shard(0).core.connections.is_empty());
    assert_eq!(server.shard(0).core.home.len(), 200);
    // Channels are remembered for a minute, memory is given back once more after that.
    server.wait(70_000);
    let shard = server.shard(0);
    assert!(shard.completions.capacity() <= 64 && shard.hung_up.capacity() <= 64);
    let core = &mut shard.core;
    assert_eq!(
        (core.high_key, core.home.len(), core.local.len()),
        (0, 0, 0)
    );
    assert_eq!(core.connections.capacity(), slots, "there is room for all");
    assert!(core.dirty.capacity() <= 64 && core.closings.capacity() <= 64);
    let late = Peer::upgrade(&mut server, 0, "/", 1 << 20);
    late.text(&server, r#"{"type":"subscribe","channel":"channel 7"}"#);
    server.rest();
    let heard = late.texts(&server);
    assert!(
        heard.len() == 1 && heard[0].contains(r#""type":"subscribed""#),
        "{heard:?}"
    );
}
