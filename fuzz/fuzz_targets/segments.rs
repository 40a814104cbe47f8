//! Packets of a network, and a client's end of a TCP connection. What is read as a segment is written as
//! one that reads the same; what an end takes is what the peer sent, in order and once, and it sends nothing
//! that the peer has no room for.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringwire::load::tun::segment::{MSS, Segment};
use ringwire::load::tun::tcp::{AGAIN_NS_MAX, Flight, State, Tcp};
use std::net::{Ipv4Addr, SocketAddrV4};

const CLIENT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 19, 0, 1), 10_000);
const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 18, 0, 1), 9_000);
/// Initial sequence numbers.
const OURS: u32 = u32::MAX - 2;
const THEIRS: u32 = u32::MAX - 5;

fn read(packet: &[u8]) {
    let Ok(segment) = Segment::parse(packet) else {
        return;
    };
    let mut written = Vec::new();
    segment.write(&mut written);
    assert_eq!(Segment::parse(&written), Ok(segment));
}

/// The sum of RFC 1071 over `bytes`, beginning with `sum`.
fn checksum(bytes: &[u8], mut sum: u32) -> [u8; 2] {
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

/// The same packet with a length and checksums that are right.
fn mended(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    let header = packet.first().map_or(0, |first| usize::from(first & 15) * 4);
    if header < 20 || packet.len() < header + 20 {
        return packet;
    }
    let length = (packet.len() as u16).to_be_bytes();
    packet[2..4].copy_from_slice(&length);
    packet[6] &= 0x40;
    packet[7] = 0;
    packet[9] = 6;
    packet[10..12].fill(0);
    let sum = checksum(&packet[..header], 0);
    packet[10..12].copy_from_slice(&sum);
    let (head, body) = packet.split_at_mut(header);
    body[16..18].fill(0);
    let addresses = u32::from(!u16::from_be_bytes(checksum(&head[12..20], 0)));
    let sum = checksum(body, addresses + 6 + body.len() as u32);
    body[16..18].copy_from_slice(&sum);
    packet
}

fn theirs(at: usize) -> u8 {
    (at * 7 % 251) as u8
}

fn ours(at: usize) -> u8 {
    (at * 11 % 241) as u8
}

/// A connection whose peer sends what the bytes say.
fn drive(mut bytes: &[u8]) {
    let stream: Vec<u8> = (0..4_096).map(theirs).collect();
    let (mut tcp, mut flight) = (Tcp::open(OURS), Flight::default());
    let (mut now_ns, mut taken, mut given) = (1, 0, 0);
    // What was acknowledged, and up to where there was ever room.
    let (mut acknowledged, mut edge) = (0usize, 0usize);
    let base = Segment::new(CLIENT, SERVER, 0);
    while let [kind, a, b, window, rest @ ..] = bytes {
        bytes = rest;
        let mut out = |segment: &Segment<'_>| {
            assert_eq!((segment.from, segment.to), (CLIENT, SERVER));
            if segment.syn {
                assert_eq!((segment.sequence, segment.acknowledgment), (OURS, None));
                return;
            }
            let at = segment.sequence.wrapping_sub(OURS.wrapping_add(1)) as usize;
            let expected = THEIRS.wrapping_add(1).wrapping_add(taken as u32);
            assert_eq!(segment.acknowledgment, Some(expected));
            assert!(segment.payload.len() <= MSS);
            let end = at + segment.payload.len();
            // One byte may ask whether there is room.
            assert!(end <= edge.max(acknowledged + 1), "{end} {edge}");
            for (offset, byte) in segment.payload.iter().enumerate() {
                assert_eq!(*byte, ours(at + offset));
            }
        };
        match kind % 4 {
            0 => {
                let length = usize::from(*a);
                flight.bytes().extend((given..given + length).map(ours));
                given += length;
                tcp.send(Some(&mut flight), b & 1 == 1, base, now_ns, &mut out);
            }
            1 => {
                now_ns += u64::from(*a) * AGAIN_NS_MAX / 255;
                if tcp.send_again(&mut flight, base, now_ns, &mut out).is_err() {
                    return;
                }
            }
            _ => {
                let opening = tcp.state() == State::Opening;
                let ahead = i64::from(*a as i8);
                let at = taken as i64 + ahead;
                let from = usize::try_from(at).unwrap_or(0).min(stream.len());
                let to = (from + usize::from(*b)).min(stream.len());
                let acknowledges = acknowledged + usize::from(*window >> 4) * 8;
                let segment = Segment {
                    acknowledgment: (kind & 4 == 0)
                        .then(|| OURS.wrapping_add(1).wrapping_add(acknowledges as u32)),
                    syn: kind & 0x18 == 0x18 || opening && kind & 0x60 == 0,
                    rst: kind & 0xe0 == 0xe0,
                    window: u16::from(*window & 15) * 40,
                    payload: if at < 0 || opening { &[] } else { &stream[from..to] },
                    ..Segment::new(
                        SERVER,
                        CLIENT,
                        THEIRS.wrapping_add(1).wrapping_add(at as u32),
                    )
                };
                let segment = if opening {
                    Segment { sequence: THEIRS, ..segment }
                } else {
                    segment
                };
                let arrival = tcp.receive(Some(&mut flight), &segment);
                assert_eq!(arrival.bytes, &stream[taken..taken + arrival.bytes.len()]);
                taken += arrival.bytes.len();
                if arrival.end.is_some() {
                    assert!(segment.rst);
                    return;
                }
                if acknowledges <= given && !opening && !segment.syn {
                    // What is held begins where what is acknowledged ends.
                    acknowledged = given - flight.bytes().len();
                }
                edge = edge.max(acknowledges + usize::from(segment.window));
            }
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let [kind, bytes @ ..] = bytes else { return };
    match kind % 3 {
        0 => read(bytes),
        1 => read(&mended(bytes)),
        _ => drive(bytes),
    }
});
