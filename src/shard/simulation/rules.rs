//! The rules of the ring that concern the shard, and its deadlines: one test each, without chance.

use super::peer::{Got, Peer, WINDOW, server, text};
use super::server::Server;
use crate::mesh::Message;
use crate::ring::sim::{End, Faults, plain};
use crate::ring::{Op, Token};
use crate::wire::client::write_request;
use crate::wire::frame::Opcode;

#[test]
fn an_event_during_a_receive_is_remembered() {
    let mut server = server(1, 8, |_| ());
    let peer = Peer::upgrade(&mut server, 0, "/echo", WINDOW);
    server.world.borrow_mut().hold = Some(Op::Recv);
    peer.text(&server, "first");
    server.rest();
    peer.text(&server, "second");
    server.rest();
    assert!(peer.hear(&server).is_empty());
    server.world.borrow_mut().hold = None;
    server.rest();
    assert_eq!(peer.hear(&server), [text("first"), text("second")]);
}

#[test]
fn a_hang_up_during_a_receive_that_finds_nothing_is_remembered() {
    let mut server = server(1, 8, |_| ());
    let peer = Peer::upgrade(&mut server, 0, "/echo", WINDOW);
    server.world.borrow_mut().hold = Some(Op::Recv);
    // A poll event whose bytes an earlier receive took: the receive for it finds nothing.
    let connection = server
        .shard(0)
        .core
        .connections
        .iter()
        .next()
        .map(|(key, c)| (key, c.generation));
    let (key, generation) = connection.expect("one connection");
    let mut event = plain(
        Token::new(Op::Poll, key as u32, generation),
        i32::from(libc::POLLIN),
    );
    event.more = true;
    server.world.borrow_mut().inject(0, event);
    server.rest();
    peer.text(&server, "last words");
    server.world.borrow_mut().reset(peer.socket);
    server.rest();
    server.world.borrow_mut().hold = None;
    server.rest();
    assert_eq!(server.heard.borrow().messages, 1);
    server.check_empty();
}

#[test]
fn a_hung_up_socket_is_read_to_its_end() {
    for reset in [false, true] {
        let mut server = server(1, 8, |_| ());
        let peer = Peer::upgrade(&mut server, 0, "/echo", WINDOW);
        for number in 0..50 {
            peer.text(&server, &format!("{number} {}", "x".repeat(300)));
        }
        if reset {
            server.world.borrow_mut().reset(peer.socket);
        } else {
            server.world.borrow_mut().finish(peer.socket);
        }
        server.rest();
        assert_eq!(server.heard.borrow().messages, 50, "reset: {reset}");
        if !reset {
            assert_eq!(
                peer.hear(&server).len(),
                50,
                "what was asked before the end is answered"
            );
            assert_eq!(peer.ended(&server), Some(End::Fin));
        }
        server.rest();
        server.check_empty();
    }
}

#[test]
fn a_late_completion_does_not_touch_the_successor() {
    let mut server = server(1, 2, |_| ());
    let first = Peer::upgrade(&mut server, 0, "/echo", WINDOW);
    let generation = server.shard(0).core.connections[0].generation;
    server.world.borrow_mut().hold = Some(Op::Close);
    server.world.borrow_mut().reset(first.socket);
    server.rest();
    // The slot is free already and is used again; the entry is not.
    let second = Peer::upgrade(&mut server, 0, "/echo", WINDOW);
    let core = &server.shard(0).core;
    assert_eq!(core.connections.len(), 2);
    assert_eq!(core.connections[0].slot, core.connections[1].slot);
    server.world.borrow_mut().hold = None;
    server.rest();
    assert_eq!(server.shard(0).core.connections.len(), 1);

    let third = Peer::upgrade(&mut server, 0, "/echo", WINDOW);
    assert_ne!(server.shard(0).core.connections[0].generation, generation);
    for op in [Op::Recv, Op::Send, Op::Poll, Op::Close, Op::HandOver] {
        let late = plain(Token::new(op, 0, generation), -libc::ECONNRESET);
        server.world.borrow_mut().inject(0, late);
    }
    server.rest();
    assert_eq!(server.nodes[0].counters.stale_completions.get(), 5);
    for peer in [&second, &third] {
        peer.text(&server, "still here");
        server.rest();
        assert_eq!(peer.hear(&server), [text("still here")]);
        server.world.borrow_mut().hang_up(peer.socket);
    }
    server.rest();
    server.check_empty();
}

/// The kernel looks up the slot of a shutdown when it comes to it.
#[test]
fn a_slot_is_not_used_again_while_a_shutdown_looks_for_it() {
    let mut server = server(1, 2, |_| ());
    let first = Peer::upgrade(&mut server, 0, "/echo", WINDOW);
    server.world.borrow_mut().hold = Some(Op::Shutdown);
    // A violation: the server says so, shuts its side down, and waits for the other.
    first.say(&server, Opcode::Continuation, b"of nothing");
    server.rest();
    server.world.borrow_mut().reset(first.socket);
    server.rest();
    let second = Peer::upgrade(&mut server, 0, "/echo", WINDOW);
    let core = &server.shard(0).core;
    assert_eq!(core.connections.len(), 2);
    assert_ne!(core.connections[0].slot, core.connections[1].slot);
    server.world.borrow_mut().hold = None;
    server.rest();
    assert_eq!(server.shard(0).core.connections.len(), 1);
    second.text(&server, "still here");
    server.rest();
    assert_eq!(second.hear(&server), [text("still here")]);
}

/// Nobody can close it in the other table.
#[test]
fn a_connection_that_is_lost_on_its_way_to_another_shard_is_told() {
    let mut server = server(2, 8, |_| ());
    server.world.borrow_mut().faults.hand_over_errors = 1000;
    server.world.borrow_mut().overflow_next = true;
    let peers: Vec<_> = (0..4)
        .map(|_| Peer::connect(&mut server, 0, WINDOW))
        .collect();
    server.rest();
    assert_eq!(server.world.borrow().lost_places(1), 1);
    let ended: Vec<_> = peers
        .iter()
        .filter_map(|peer| peer.ended(&server))
        .collect();
    assert_eq!(ended, [End::Fin]);
    // The place stays counted: an accept into a full table would lose a connection.
    assert_eq!(
        server.links.places(1),
        1 + server.shard(1).accepting.in_flight()
    );
}

/// As on Linux before 6.13.
#[test]
fn where_sockets_close_late_their_peers_are_told() {
    let mut server = server(2, 8, |config| config.timeouts.handshake_ms = 1000);
    server.world.borrow_mut().closes_late = true;
    let silent = Peer::connect(&mut server, 0, WINDOW);
    let peers: Vec<_> = (0..3)
        .map(|_| Peer::upgrade(&mut server, 0, "/echo", WINDOW))
        .collect();
    server.wait(1100);
    assert_eq!(silent.ended(&server), Some(End::Fin));
    // Those that were handed over have left a table too, and have not ended.
    assert!(server.world.borrow().counters.handed_over > 0);
    for peer in &peers {
        peer.text(&server, "still here");
    }
    server.rest();
    for peer in &peers {
        assert_eq!(peer.hear(&server), [text("still here")]);
    }
}

#[test]
fn what_a_turn_brings_leaves_in_one_send() {
    let mut server = server(1, 8, |_| ());
    let listener = Peer::upgrade(&mut server, 0, "/", WINDOW);
    let speaker = Peer::upgrade(&mut server, 0, "/", WINDOW);
    for channel in ["a", "b", "c"] {
        listener.text(
            &server,
            &format!(r#"{{"type":"subscribe","channel":"{channel}"}}"#),
        );
    }
    server.rest();
    assert_eq!(listener.hear(&server).len(), 3);
    let before = server.world.borrow().socket(listener.socket).sends_made;
    for number in 0..10 {
        for channel in ["a", "b", "c"] {
            let text = format!(r#"{{"type":"publish","channel":"{channel}","data":{number}}}"#);
            speaker.text(&server, &text);
        }
    }
    server.rest();
    assert_eq!(listener.hear(&server).len(), 30);
    assert_eq!(
        server.world.borrow().socket(listener.socket).sends_made,
        before + 1
    );
}

#[test]
fn those_without_a_buffer_wait_in_line_and_do_not_spin() {
    let mut server = server(1, 16, |config| config.ring.buffers = 1);
    let peers: Vec<_> = (0..5)
        .map(|_| Peer::upgrade(&mut server, 0, "/echo", WINDOW))
        .collect();
    server.world.borrow_mut().faults = Faults {
        no_buffers: 1000,
        ..Faults::default()
    };
    let receives = |server: &Server| -> u32 {
        let world = server.world.borrow();
        peers
            .iter()
            .map(|peer| world.socket(peer.socket).receives_made)
            .sum()
    };
    for peer in &peers {
        peer.text(&server, "hello");
    }
    let before = receives(&server);
    for _ in 0..20 {
        server.step(0);
    }
    let tried = receives(&server) - before;
    assert!((1..=20).contains(&tried), "{tried} receives in 20 turns");
    server.world.borrow_mut().faults = Faults::default();
    let mut order = Vec::new();
    for _ in 0..40 {
        server.step(0);
        for (index, peer) in peers.iter().enumerate() {
            order.extend(peer.hear(&server).iter().map(|_| index));
        }
    }
    // Each try went to the end of the line, so the line has turned, and its order stayed.
    let expected: Vec<_> = (0..5).map(|at| (order[0] + at) % 5).collect();
    assert_eq!(order, expected);
}

#[test]
fn a_busy_connection_does_not_keep_the_only_buffer() {
    let mut server = server(1, 16, |config| config.ring.buffers = 1);
    let busy = Peer::upgrade(&mut server, 0, "/echo", 1 << 20);
    let quiet = Peer::upgrade(&mut server, 0, "/echo", WINDOW);
    for _ in 0..200 {
        busy.text(&server, &"x".repeat(500));
    }
    // Small pieces, or it would go on with the large buffers.
    server.world.borrow_mut().faults.short_receives = 1000;
    server.step(0);
    quiet.text(&server, "me, too");
    let mut heard = Vec::new();
    for _ in 0..60 {
        server.step(0);
        heard.extend(quiet.hear(&server));
    }
    assert_eq!(heard, [text("me, too")]);
    assert!(
        server.world.borrow().socket(busy.socket).unread_by_server() > 0,
        "it still sends"
    );
}

#[test]
fn accepts_never_exceed_the_free_slots() {
    let mut server = server(1, 8, |_| ());
    let peers: Vec<_> = (0..30)
        .map(|_| Peer::connect(&mut server, 0, WINDOW))
        .collect();
    server.rest();
    let accepted = |server: &Server| {
        let world = server.world.borrow();
        peers
            .iter()
            .filter(|peer| world.socket(peer.socket).accepted)
            .count()
    };
    // One place is kept for connections from other shards.
    assert_eq!(accepted(&server), 7);
    for (at, peer) in peers.iter().enumerate() {
        server.world.borrow_mut().hang_up(peer.socket);
        server.rest();
        assert_eq!(accepted(&server), (at + 8).min(30));
    }
    let counters = server.world.borrow().counters;
    assert_eq!(
        (counters.lost_accepts, counters.accepts_beyond_slots),
        (0, 0)
    );
    server.check_empty();
}

#[test]
fn a_thousand_connections_spread_over_four_shards() {
    let mut server = server(4, 1500, |_| ());
    let mut peers = Vec::new();
    for number in 0..1000 {
        // The worst that hashing ports could do.
        peers.push(Peer::connect(&mut server, 0, WINDOW));
        if number % 37 == 0 {
            server.rest();
        }
    }
    server.rest();
    for index in 0..4 {
        let connections = server.shard(index).core.connections.len();
        assert!(
            connections <= 275,
            "shard {index} has {connections} of 1000"
        );
        assert_eq!(connections, server.links.connections(index));
    }
    for peer in &peers {
        server.world.borrow_mut().reset(peer.socket);
    }
    server.rest();
    server.check_empty();
}

#[test]
fn who_gives_no_sign_of_life_is_told_and_closed() {
    let mut server = server(1, 8, |config| {
        config.heartbeat.interval_ms = 3000;
        config.heartbeat.timeout_ms = 2000;
        config.timeouts.close_ms = 1000;
    });
    let answers = Peer::upgrade(&mut server, 0, "/", WINDOW);
    let silent = Peer::upgrade(&mut server, 0, "/", WINDOW);
    server.wait(2900);
    assert!(answers.hear(&server).is_empty());
    // The sweep comes by once a second.
    server.wait(1200);
    assert_eq!(answers.hear(&server), [Got::Ping]);
    assert_eq!(silent.hear(&server), [Got::Ping]);
    answers.say(&server, Opcode::Pong, b"");
    let mut last = Vec::new();
    let mut waited_ms = 0;
    while last.is_empty() {
        server.wait(50);
        waited_ms += 50;
        last = silent.hear(&server);
    }
    assert!((900..=3100).contains(&waited_ms), "{waited_ms}");
    assert_eq!(last.len(), 2, "{last:?}");
    assert!(
        matches!(&last[0], Got::Text(farewell) if farewell.contains(r#""type":"disconnect","code":1001"#))
    );
    assert_eq!(last[1], Got::Close(Some(1001), "no sign of life".into()));
    server.wait(900);
    assert_eq!(silent.ended(&server), None, "its close frame is awaited");
    server.wait(200);
    assert_eq!(silent.ended(&server), Some(End::Fin));
    assert_eq!(answers.ended(&server), None);
    assert_eq!(server.nodes[0].counters.heartbeat_timeouts.get(), 1);
}

#[test]
fn a_handshake_has_a_deadline() {
    let mut server = server(1, 8, |config| config.timeouts.handshake_ms = 1000);
    let nothing = Peer::connect(&mut server, 0, WINDOW);
    let half = Peer::connect(&mut server, 0, WINDOW);
    half.write(&server, b"GET / HTTP/1.1\r\nHost: a\r\n");
    let whole = Peer::upgrade(&mut server, 0, "/", WINDOW);
    server.wait(900);
    assert_eq!((nothing.ended(&server), half.ended(&server)), (None, None));
    half.write(&server, b"X: a byte does not help\r\n");
    server.wait(200);
    assert_eq!(nothing.ended(&server), Some(End::Fin));
    assert_eq!(half.ended(&server), Some(End::Fin));
    assert_eq!(whole.ended(&server), None);
    assert_eq!(server.nodes[0].counters.handshake_timeouts.get(), 2);
}

#[test]
fn a_send_that_moves_nothing_ends_the_connection() {
    let mut server = server(1, 8, |config| {
        config.timeouts.write_ms = 2000;
        config.heartbeat.interval_ms = 0;
    });
    let peer = Peer::upgrade(&mut server, 0, "/echo", 1000);
    peer.text(&server, &"x".repeat(5000));
    server.wait(1900);
    assert!(server.world.borrow().socket(peer.socket).has_blocked_send());
    server.wait(1300);
    assert!(server.world.borrow().socket(peer.socket).is_closed());
    assert_eq!(server.nodes[0].counters.write_timeouts.get(), 1);
    server.check_empty();
}

#[test]
fn a_drained_server_tells_everybody_and_ends() {
    let mut server = server(2, 16, |config| config.timeouts.close_ms = 1000);
    let polite = Peer::upgrade(&mut server, 0, "/", WINDOW);
    let silent = Peer::upgrade(&mut server, 1, "/", WINDOW);
    let half = Peer::connect(&mut server, 0, WINDOW);
    server.rest();
    for index in 0..2 {
        server.tell(index, Message::Drain);
    }
    server.rest();
    assert!(
        server.world.borrow_mut().connect(0, 0, WINDOW).is_none(),
        "nobody is let in"
    );
    assert_eq!(half.ended(&server), Some(End::Fin));
    for peer in [&polite, &silent] {
        let last = peer.hear(&server);
        assert!(
            matches!(&last[0], Got::Text(farewell) if farewell.contains(r#""reconnect":true"#))
        );
        assert_eq!(
            last[1],
            Got::Close(Some(1001), "server shutting down".into())
        );
    }
    polite.say(&server, Opcode::Close, &1001u16.to_be_bytes());
    server.wait(500);
    assert_eq!(polite.ended(&server), Some(End::Fin));
    assert_eq!(silent.ended(&server), None);
    server.wait(600);
    assert_eq!(silent.ended(&server), Some(End::Fin));
    assert!(
        server.nodes.iter().all(|node| node.shard.is_none()),
        "both shards have ended"
    );
    server.check_empty();
}

#[test]
fn the_successor_of_a_publisher_hears_what_the_publisher_did_not_want() {
    let mut server = server(2, 16, |_| ());
    let channel = (0..100)
        .map(|number| format!("channel {number}"))
        .find(|name| server.shard(0).core.local.route(name).0 == 1)
        .expect("half of them are");
    let subscribe = format!(r#"{{"type":"subscribe","channel":"{channel}"}}"#);
    // Nobody is handed over: the other shard has as many.
    let publisher = Peer::upgrade(&mut server, 0, "/", WINDOW);
    let _elsewhere = Peer::upgrade(&mut server, 1, "/", WINDOW);
    let listener = Peer::upgrade(&mut server, 0, "/", WINDOW);
    let _elsewhere_too = Peer::upgrade(&mut server, 1, "/", WINDOW);
    for peer in [&publisher, &listener] {
        peer.text(&server, &subscribe);
    }
    server.rest();
    let shard = server.shard(0);
    let keys: Vec<_> = shard.core.connections.iter().map(|(key, _)| key).collect();
    assert_eq!(keys, [0, 1], "both are on shard 0");
    let publish = format!(r#"{{"type":"publish","channel":"{channel}","echo":false,"data":1}}"#);
    publisher.text(&server, &publish);
    // The home shard does not turn while the publisher leaves and another takes its place.
    for _ in 0..6 {
        server.step(0);
    }
    server.world.borrow_mut().reset(publisher.socket);
    for _ in 0..6 {
        server.step(0);
    }
    assert_eq!(server.shard(0).core.connections.len(), 1);
    let successor = Peer::connect(&mut server, 0, WINDOW);
    let mut request = Vec::new();
    write_request(&mut request, "localhost", "/", &[7; 16], None, &[]);
    successor.write(&server, &request);
    successor.text(&server, &subscribe);
    for _ in 0..12 {
        server.step(0);
    }
    assert!(
        server.shard(0).core.connections.contains(0),
        "it has the publisher's key"
    );
    let before = server.world.borrow_mut().read(successor.socket, usize::MAX);
    assert!(
        String::from_utf8_lossy(&before).contains(r#""offset":0"#),
        "it is subscribed already"
    );
    server.rest();
    let heard = successor.texts(&server);
    assert_eq!(heard.len(), 1, "the message after its position");
    assert!(heard[0].contains(r#""data":1,"offset":1"#), "{heard:?}");
}
