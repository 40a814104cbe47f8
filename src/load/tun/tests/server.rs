//! A model of a server: TCP from the other end, written apart from the clients', and as much of ringwire's
//! protocol as the recipe of the million needs. It can do one thing wrong.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddrV4;

use serde_json::{Value, json};

use super::network::Random;
use crate::load::tun::segment::{MSS, Segment};
use crate::wire::Role;
use crate::wire::frame::{self, Opcode};
use crate::wire::message::{Carry, Event, Flow, Rules, decode};
use crate::wire::upgrade::{Head, HeadLimits, HeaderSpace, parse_head, write_accept};

/// After this time it sends again what is not acknowledged, always.
const AGAIN_NS: u64 = 200_000_000;

/// What it does wrong, with the `at`th message that it delivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Nothing.
    None,
    /// It is not sent.
    Missing,
    /// It is sent twice.
    Twice,
    /// It is published twice.
    PublishedTwice,
    /// A byte of it is another one.
    Changed,
    /// It names another channel.
    OtherChannel,
    /// It goes to another client.
    OtherClient,
    /// It says another offset.
    OtherOffset,
}

impl Fault {
    pub(super) const ALL: [Self; 7] = [
        Self::Missing,
        Self::Twice,
        Self::PublishedTwice,
        Self::Changed,
        Self::OtherChannel,
        Self::OtherClient,
        Self::OtherOffset,
    ];
}

#[derive(Default)]
struct Peer {
    /// Nothing more is heard from it.
    closed: bool,
    open: bool,
    unacknowledged: u32,
    expected: u32,
    /// Sequence number up to which the client was ever told that there is room.
    edge: u32,
    /// From the first byte that is not acknowledged. (The SYN is not among them.)
    out: Vec<u8>,
    sent: usize,
    due_ns: u64,
    /// What the client has room for.
    room: usize,
    input: Vec<u8>,
    upgraded: bool,
    carry: Carry,
    pongs: u32,
    owes: bool,
}

#[derive(Default)]
struct Channel {
    offset: u64,
    subscribers: Vec<SocketAddrV4>,
}

pub(super) struct Server {
    address: SocketAddrV4,
    peers: BTreeMap<SocketAddrV4, Peer>,
    channels: HashMap<String, Channel>,
    pub(super) fault: Fault,
    pub(super) fault_at: u64,
    delivered: u64,
    /// What it says it has room for, in bytes.
    pub(super) window: u16,
    /// It hears and says nothing.
    pub(super) dead: bool,
    /// It answers SYNs with resets.
    pub(super) refuses: bool,
    pub(super) published: u64,
}

impl Server {
    pub(super) fn new(address: SocketAddrV4) -> Self {
        Self {
            address,
            peers: BTreeMap::new(),
            channels: HashMap::new(),
            fault: Fault::None,
            fault_at: 0,
            delivered: 0,
            window: 64_240,
            dead: false,
            refuses: false,
            published: 0,
        }
    }

    /// Clients whose connection has not ended.
    pub(super) fn open(&self) -> usize {
        self.peers.values().filter(|peer| !peer.closed).count()
    }

    /// The fewest and the most pongs of a client.
    pub(super) fn pongs(&self) -> (u32, u32) {
        let pongs = || self.peers.values().map(|peer| peer.pongs);
        (pongs().min().unwrap_or(0), pongs().max().unwrap_or(0))
    }

    /// Takes a packet of a client.
    pub(super) fn take(&mut self, packet: &[u8], random: &mut Random, out: &mut Vec<Vec<u8>>) {
        let Ok(segment) = Segment::parse(packet) else {
            return;
        };
        if self.dead {
            return;
        }
        assert_eq!(segment.to, self.address);
        assert!(segment.payload.len() <= MSS);
        let base = Segment::new(self.address, segment.from, 0);
        if segment.syn {
            assert!(segment.payload.is_empty() && !segment.rst && !segment.fin);
            self.opened(&segment, base, random, out);
            return;
        }
        let Some(peer) = self
            .peers
            .get_mut(&segment.from)
            .filter(|peer| !peer.closed)
        else {
            if !segment.rst {
                let sequence = segment.acknowledgment.expect("every segment says it");
                write(
                    &Segment {
                        sequence,
                        rst: true,
                        ..base
                    },
                    out,
                );
            }
            return;
        };
        let ahead = segment.sequence.wrapping_sub(peer.expected) as i32;
        if segment.rst {
            peer.closed = ahead == 0;
            peer.owes |= ahead != 0;
            return;
        }
        let acknowledgment = segment.acknowledgment.expect("every segment says it");
        let mut acknowledged = acknowledgment.wrapping_sub(peer.unacknowledged) as i32;
        if !peer.open {
            assert_eq!(acknowledged, 1, "of the SYN, and nothing else was sent");
            peer.open = true;
            peer.unacknowledged = acknowledgment;
            peer.due_ns = 0;
            acknowledged = 0;
        }
        assert!(acknowledged <= peer.sent as i32, "of what was never sent");
        if acknowledged > 0 {
            peer.out.drain(..acknowledged as usize);
            peer.sent -= acknowledged as usize;
            peer.unacknowledged = acknowledgment;
            peer.due_ns = 0;
        }
        peer.room = segment.window.into();
        if segment.payload.is_empty() {
            peer.owes |= ahead != 0;
            return;
        }
        peer.owes = true;
        let end = segment.sequence.wrapping_add(segment.length());
        if end.wrapping_sub(peer.edge) as i32 > 0 {
            assert_eq!(segment.payload.len(), 1, "more than there is room for");
            return;
        }
        let known = ahead.unsigned_abs() as usize;
        if ahead > 0 || known >= segment.payload.len() {
            return;
        }
        peer.expected = end;
        peer.input.extend_from_slice(&segment.payload[known..]);
        self.read(segment.from);
    }

    fn opened(
        &mut self,
        segment: &Segment<'_>,
        base: Segment<'static>,
        random: &mut Random,
        out: &mut Vec<Vec<u8>>,
    ) {
        let expected = segment.sequence.wrapping_add(1);
        if self.refuses {
            let acknowledgment = Some(expected);
            write(
                &Segment {
                    rst: true,
                    acknowledgment,
                    ..base
                },
                out,
            );
            return;
        }
        let window = self.window;
        let peer = self.peers.entry(segment.from).or_insert_with(|| Peer {
            // Near the end, so that numbers begin again at 0.
            unacknowledged: 0u32.wrapping_sub(random.below(2_000) as u32),
            expected,
            edge: expected.wrapping_add(window.into()),
            ..Peer::default()
        });
        if !peer.open && peer.expected == expected {
            peer.due_ns = 1;
        } else {
            peer.owes = true;
        }
    }

    /// Reads what has come of a client.
    fn read(&mut self, from: SocketAddrV4) {
        let peer = self.peers.get_mut(&from).expect("it sent something");
        if !peer.upgraded {
            let mut space = HeaderSpace::new();
            let limits = HeadLimits {
                bytes: 8_192,
                lines: 64,
            };
            match parse_head(&peer.input, &mut space, limits).expect("a request") {
                Head::Upgrade {
                    accept, consumed, ..
                } => {
                    write_accept(&mut peer.out, &accept, None);
                    peer.input.drain(..consumed);
                    peer.upgraded = true;
                }
                _ => return,
            }
        }
        let rules = Rules {
            role: Role::Server,
            message_bytes: 4_096,
            fragments: 1,
        };
        let mut input = std::mem::take(&mut peer.input);
        let mut said: Vec<Value> = Vec::new();
        let pongs = &mut peer.pongs;
        let read = decode(&mut peer.carry, &mut input, &rules, &mut |event| {
            match event {
                Event::Message { payload, .. } => {
                    said.push(serde_json::from_slice(payload).expect("JSON"));
                }
                Event::Pong(payload) => {
                    assert_eq!(payload, b"alive?");
                    *pongs += 1;
                }
                other => panic!("{other:?}"),
            }
            Flow::Continue
        });
        read.expect("frames of a client, masked");
        for said in said {
            let name = said["channel"].as_str().expect("a name").to_owned();
            match said["type"].as_str() {
                Some("subscribe") => self.subscribe(from, &name),
                Some("publish") => self.publish(&name, &said["data"]),
                _ => panic!("{said}"),
            }
        }
    }

    fn subscribe(&mut self, from: SocketAddrV4, name: &str) {
        let channel = self.channels.entry(name.to_owned()).or_default();
        assert!(!channel.subscribers.contains(&from), "subscribed twice");
        channel.subscribers.push(from);
        let offset = channel.offset;
        self.say(
            from,
            &json!({"type": "subscribed", "channel": name, "offset": offset, "epoch": 1}),
        );
    }

    fn publish(&mut self, name: &str, data: &Value) {
        self.published += 1;
        let channel = self.channels.entry(name.to_owned()).or_default();
        channel.offset += 1;
        let (offset, subscribers) = (channel.offset, channel.subscribers.clone());
        for to in subscribers {
            self.delivered += 1;
            let fault = if self.delivered == self.fault_at {
                self.fault
            } else {
                Fault::None
            };
            let data = data.as_str().expect("a string");
            let message = |name: &str, data: &str, offset: u64| {
                json!({"type": "message", "channel": name, "from": null, "data": data, "offset": offset,
                       "timestamp": 1.5})
            };
            let right = message(name, data, offset);
            match fault {
                Fault::None => self.say(to, &right),
                Fault::Missing => {}
                Fault::Twice => {
                    self.say(to, &right);
                    self.say(to, &right);
                }
                Fault::PublishedTwice => {
                    self.say(to, &right);
                    self.say(to, &message(name, data, offset + 1));
                }
                Fault::Changed => {
                    let last = data.chars().last().expect("it is long");
                    let other = if last == 'x' { 'y' } else { 'x' };
                    let changed = format!("{}{other}", &data[..data.len() - 1]);
                    self.say(to, &message(name, &changed, offset));
                }
                Fault::OtherChannel => {
                    let name = if name == "own-0" { "own-1" } else { "own-0" };
                    self.say(to, &message(name, data, offset));
                }
                Fault::OtherClient => {
                    let other = self.peers.keys().rev().find(|peer| **peer != to);
                    let other = *other.expect("there are several");
                    self.say(other, &right);
                }
                Fault::OtherOffset => self.say(to, &message(name, data, offset + 1)),
            }
        }
    }

    fn say(&mut self, to: SocketAddrV4, what: &Value) {
        let peer = self.peers.get_mut(&to).expect("a client");
        frame::encode(&mut peer.out, Opcode::Text, what.to_string().as_bytes());
    }

    /// Asks every client whether it lives.
    pub(super) fn ping(&mut self) {
        for peer in self.peers.values_mut().filter(|peer| peer.upgraded) {
            frame::encode(&mut peer.out, Opcode::Ping, b"alive?");
        }
    }

    /// Sends to all clients what there is to send, for the first time or again.
    pub(super) fn flush(&mut self, now_ns: u64, random: &mut Random, out: &mut Vec<Vec<u8>>) {
        for (&to, peer) in &mut self.peers {
            let base = Segment::new(self.address, to, 0);
            if peer.closed {
                continue;
            }
            let segment = |peer: &Peer, at: usize| Segment {
                sequence: peer.unacknowledged.wrapping_add(at as u32),
                acknowledgment: Some(peer.expected),
                window: self.window,
                ..base
            };
            let due = peer.due_ns > 0 && peer.due_ns <= now_ns;
            if !peer.open {
                if due {
                    write(
                        &Segment {
                            syn: true,
                            mss: Some(MSS as u16),
                            ..segment(peer, 0)
                        },
                        out,
                    );
                    peer.due_ns = now_ns + AGAIN_NS;
                }
                continue;
            }
            let edge = peer.expected.wrapping_add(self.window.into());
            if edge.wrapping_sub(peer.edge) as i32 > 0 {
                peer.edge = edge;
            }
            let mut from = if due { 0 } else { peer.sent };
            let end = peer.out.len().min(peer.room.max(peer.sent));
            let owes = std::mem::take(&mut peer.owes);
            if owes && from == end {
                write(&segment(peer, peer.sent), out);
            }
            while from < end {
                let most = (end - from).min(MSS) as u64;
                let length = 1 + random.below(most) as usize;
                let payload = &peer.out[from..from + length];
                write(
                    &Segment {
                        payload,
                        ..segment(peer, from)
                    },
                    out,
                );
                from += length;
            }
            peer.sent = end;
            if peer.sent > 0 && (due || peer.due_ns == 0) {
                peer.due_ns = now_ns + AGAIN_NS;
            } else if due {
                peer.due_ns = 0;
            }
        }
    }

    /// Tells everyone what there is room for now: what a window update is.
    pub(super) fn tell_window(&mut self) {
        for peer in self.peers.values_mut() {
            peer.owes = true;
        }
    }
}

fn write(segment: &Segment<'_>, out: &mut Vec<Vec<u8>>) {
    let mut packet = Vec::new();
    segment.write(&mut packet);
    out.push(packet);
}
