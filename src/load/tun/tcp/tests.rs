use std::net::{Ipv4Addr, SocketAddrV4};

use proptest::prelude::*;

use super::*;

const CLIENT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 19, 0, 1), 10_000);
const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 18, 0, 1), 9_000);
/// Initial sequence numbers, near the end.
const OURS: u32 = u32::MAX - 1;
const THEIRS: u32 = u32::MAX - 3;

/// A segment of the server, `ahead` of its first byte, that acknowledges `acknowledged` bytes.
fn theirs(ahead: i32, acknowledged: i32, payload: &[u8]) -> Segment<'_> {
    let sequence = THEIRS.wrapping_add(1).wrapping_add(ahead as u32);
    let acknowledgment = OURS.wrapping_add(1).wrapping_add(acknowledged as u32);
    Segment {
        acknowledgment: Some(acknowledgment),
        window: 1_000,
        payload,
        ..Segment::new(SERVER, CLIENT, sequence)
    }
}

/// What is sent: where each segment begins after the first byte, and its payload.
fn sent(tcp: &Tcp, flight: &mut Flight, owes: bool, now_ns: u64) -> Vec<(u32, Vec<u8>)> {
    let mut all = Vec::new();
    let base = Segment::new(CLIENT, SERVER, 0);
    tcp.send(Some(flight), owes, base, now_ns, &mut |segment| {
        assert_eq!((segment.from, segment.to), (CLIENT, SERVER));
        all.push(described(segment));
    });
    all
}

fn described(segment: &Segment<'_>) -> (u32, Vec<u8>) {
    let at = segment.sequence.wrapping_sub(OURS.wrapping_add(1));
    (at, segment.payload.to_vec())
}

fn opened() -> (Tcp, Flight) {
    let mut flight = Flight::default();
    let mut tcp = Tcp::open(OURS);
    let mut segments = Vec::new();
    let base = Segment::new(CLIENT, SERVER, 0);
    tcp.send(Some(&mut flight), false, base, 1, &mut |segment| {
        segments.push((segment.sequence, segment.syn, segment.acknowledgment));
    });
    assert_eq!(segments, [(OURS, true, None)]);
    let answer = Segment {
        syn: true,
        ..theirs(-1, 0, b"")
    };
    let arrival = tcp.receive(Some(&mut flight), &answer);
    assert!(arrival.opened && arrival.reply == Reply::Acknowledge);
    assert_eq!(sent(&tcp, &mut flight, true, 2), [(0, vec![])]);
    assert!(flight.is_over());
    (tcp, flight)
}

#[test]
fn a_connection_is_small() {
    assert!(size_of::<Tcp>() <= 12);
}

#[test]
fn only_the_answer_to_the_syn_opens() {
    let syn = |acknowledged| Segment {
        syn: true,
        ..theirs(-1, acknowledged, b"")
    };
    let mut tcp = Tcp::open(OURS);
    for (segment, reply) in [
        // Of an earlier connection; a reset of one; an acknowledgement alone.
        (syn(5), Reply::Reset),
        (theirs(0, 5, b"x"), Reply::Reset),
        (
            Segment {
                rst: true,
                ..theirs(0, 5, b"")
            },
            Reply::Nothing,
        ),
        (theirs(0, 0, b""), Reply::Nothing),
    ] {
        let arrival = tcp.receive(None, &segment);
        assert_eq!(
            (arrival.opened, arrival.end, arrival.reply),
            (false, None, reply)
        );
        assert_eq!(tcp.state(), State::Opening);
    }
    let refusal = Segment {
        rst: true,
        ..theirs(0, 0, b"")
    };
    assert_eq!(tcp.receive(None, &refusal).end, Some(End::Refused));
    assert_eq!(tcp.state(), State::Closed);
}

#[test]
fn bytes_are_taken_in_order_and_once() {
    let (mut tcp, _) = opened();
    for (ahead, payload, taken) in [
        (0, &b"abc"[..], &b"abc"[..]),
        (0, b"abc", b""),
        (1, b"bcd", b"d"),
        (6, b"ghi", b""),
        (4, b"efg", b"efg"),
        (-2, b"..abcdefgh", b"h"),
    ] {
        let arrival = tcp.receive(None, &theirs(ahead, 0, payload));
        assert_eq!((arrival.bytes, arrival.reply), (taken, Reply::Acknowledge));
        assert_eq!(arrival.out_of_order, taken.is_empty());
    }
    let last = Segment {
        fin: true,
        ..theirs(7, 0, b"hi")
    };
    let arrival = tcp.receive(None, &last);
    assert_eq!(
        (arrival.bytes, arrival.end),
        (&b"i"[..], Some(End::Finished))
    );
}

#[test]
fn who_asks_whether_it_lives_is_answered() {
    let (mut tcp, _) = opened();
    assert_eq!(tcp.receive(None, &theirs(0, 0, b"")).reply, Reply::Nothing);
    // A keepalive, with and without a byte; something before it was lost; a SYN that came again.
    let syn = Segment {
        syn: true,
        ..theirs(-1, 0, b"")
    };
    for probe in [
        theirs(-1, 0, b""),
        theirs(-1, 0, b"?"),
        theirs(9, 0, b""),
        syn,
    ] {
        let arrival = tcp.receive(None, &probe);
        assert_eq!(
            (arrival.bytes, arrival.reply),
            (&b""[..], Reply::Acknowledge)
        );
    }
}

#[test]
fn only_an_exact_reset_ends() {
    let reset = |ahead| Segment {
        rst: true,
        ..theirs(ahead, 0, b"")
    };
    let (mut tcp, _) = opened();
    for (ahead, reply) in [
        (-1, Reply::Nothing),
        (70_000, Reply::Nothing),
        (1, Reply::Acknowledge),
    ] {
        let arrival = tcp.receive(None, &reset(ahead));
        assert_eq!((arrival.end, arrival.reply), (None, reply));
    }
    assert_eq!(tcp.receive(None, &reset(0)).end, Some(End::Reset));
    // From now on everything is answered with a reset, but a reset.
    assert_eq!(tcp.receive(None, &theirs(0, 0, b"x")).reply, Reply::Reset);
    assert_eq!(tcp.receive(None, &reset(0)).reply, Reply::Nothing);
}

#[test]
fn no_more_is_sent_than_there_is_room_for() {
    let (mut tcp, mut flight) = opened();
    flight.bytes().extend_from_slice(b"0123456789");
    let room = |acknowledged, window| Segment {
        window,
        ..theirs(0, acknowledged, b"")
    };
    tcp.receive(Some(&mut flight), &room(0, 4));
    assert_eq!(sent(&tcp, &mut flight, true, 5), [(0, b"0123".to_vec())]);
    assert_eq!(sent(&tcp, &mut flight, false, 6), []);
    // Acknowledgements alone come after what was sent.
    assert_eq!(sent(&tcp, &mut flight, true, 6), [(4, vec![])]);
    // Less room than before takes nothing back.
    tcp.receive(Some(&mut flight), &room(1, 1));
    assert_eq!(sent(&tcp, &mut flight, false, 7), []);
    tcp.receive(Some(&mut flight), &room(4, 2));
    assert_eq!(sent(&tcp, &mut flight, false, 8), [(4, b"45".to_vec())]);
    // What was never sent cannot be acknowledged; an old acknowledgement says nothing.
    assert_eq!(
        tcp.receive(Some(&mut flight), &room(7, 9)).reply,
        Reply::Acknowledge
    );
    tcp.receive(Some(&mut flight), &room(2, 9));
    assert_eq!(sent(&tcp, &mut flight, false, 9), []);
    tcp.receive(Some(&mut flight), &room(6, 9));
    assert_eq!(sent(&tcp, &mut flight, false, 9), [(6, b"6789".to_vec())]);
    assert!(!flight.is_over());
    tcp.receive(Some(&mut flight), &room(10, 9));
    assert!(flight.is_over());
}

/// Found by the fuzzer: the end of the room moved along with the acknowledgement.
#[test]
fn what_comes_again_says_what_there_is_room_for() {
    let (mut tcp, mut flight) = opened();
    flight.bytes().extend_from_slice(b"0123456789");
    let room = |ahead, acknowledged, window| Segment {
        window,
        ..theirs(ahead, acknowledged, b"")
    };
    tcp.receive(Some(&mut flight), &room(0, 0, 4));
    assert_eq!(sent(&tcp, &mut flight, false, 5), [(0, b"0123".to_vec())]);
    tcp.receive(Some(&mut flight), &room(-1, 3, 1));
    assert_eq!(sent(&tcp, &mut flight, false, 6), []);
    // An old one that acknowledges nothing new says nothing.
    tcp.receive(Some(&mut flight), &room(-1, 3, 9));
    assert_eq!(sent(&tcp, &mut flight, false, 7), []);
}

#[test]
fn what_is_not_acknowledged_is_sent_again_but_not_for_ever() {
    let (tcp, mut flight) = opened();
    let bytes: Vec<u8> = (0..MSS + 1).map(|at| at as u8).collect();
    flight.bytes().extend_from_slice(&bytes);
    let mut tcp = tcp;
    tcp.window = u16::MAX;
    assert_eq!(sent(&tcp, &mut flight, false, 10).len(), 2);
    let (mut now_ns, mut tries) = (10, 0);
    let base = Segment::new(CLIENT, SERVER, 0);
    loop {
        let mut again = Vec::new();
        let due_ns = flight.due_ns;
        assert!((AGAIN_NS..=AGAIN_NS_MAX).contains(&(due_ns - now_ns)));
        let early = tcp.send_again(&mut flight, base, due_ns - 1, &mut |_| panic!("early"));
        assert_eq!(early, Ok(false));
        now_ns = due_ns;
        let sent = tcp.send_again(&mut flight, base, now_ns, &mut |segment| {
            again.push(described(segment));
        });
        if sent.is_err() {
            break;
        }
        tries += 1;
        assert_eq!(
            again,
            [
                (0, bytes[..MSS].to_vec()),
                (MSS as u32, bytes[MSS..].to_vec())
            ]
        );
    }
    assert_eq!(tries, TRIES_MAX);
    assert!((40..90).contains(&(now_ns / 1_000_000_000)), "{now_ns}");
}

#[test]
fn a_reset_is_one_that_the_peer_can_place() {
    let (mut tcp, mut flight) = opened();
    flight.bytes().extend_from_slice(b"abc");
    sent(&tcp, &mut flight, false, 3);
    let reset = tcp.reset(Some(&flight), Segment::new(CLIENT, SERVER, 0));
    assert_eq!((reset.rst, described(&reset).0), (true, 3));
    // Of a connection that there is not: as RFC 9293 says.
    let reset = reset_for(&theirs(0, 8, b"ab"));
    assert_eq!((reset.from, reset.to), (CLIENT, SERVER));
    assert_eq!((described(&reset).0, reset.acknowledgment), (8, None));
    let mut without = theirs(0, 0, b"ab");
    without.acknowledgment = None;
    let reset = reset_for(&without);
    let past = THEIRS.wrapping_add(3);
    assert_eq!((reset.sequence, reset.acknowledgment), (0, Some(past)));
}

proptest! {
    /// Whatever comes in whatever order: what is taken is the peer's bytes, in order, each once.
    #[test]
    fn what_is_taken_is_what_was_sent(
        pieces in proptest::collection::vec((0usize..300, 1usize..80), 1..120),
    ) {
        let stream: Vec<u8> = (0..400u32).map(|at| (at * 7 % 251) as u8).collect();
        let (mut tcp, _) = opened();
        let mut taken = Vec::new();
        for (at, length) in pieces {
            let payload = &stream[at..at + length];
            let known = taken.len();
            let arrival = tcp.receive(None, &theirs(at as i32, 0, payload));
            prop_assert_eq!(arrival.reply, Reply::Acknowledge);
            prop_assert_eq!(!arrival.bytes.is_empty(), at <= known && at + length > known);
            taken.extend_from_slice(arrival.bytes);
        }
        prop_assert_eq!(&taken[..], &stream[..taken.len()]);
    }
}
