//! A simulated client: what it says, and what it expects of everything it hears.

use super::super::handler::Kind;
use super::delivered::{Matched, WILDCARD};
use super::hearing::{Expected, Pending, Subscription};
use super::oracle::{Addressed, Oracle, Publication};
use super::server::{Heard, Server};
use crate::config::{Access, Config, SlowConsumer};
use crate::ring::sim::{End, Random, SocketId, World};
use crate::wire::client::write_request;
use crate::wire::frame::{Opcode, encode_masked};
use crate::wire::message::Carry;
use crate::wire::upgrade::AcceptKey;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

/// What a client comes for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    Channels,
    Echo,
    /// A request without an upgrade.
    Http,
    /// Bytes that are no request.
    Garbage,
    /// A request that never becomes complete.
    Half,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Unconnected,
    Handshake,
    Open,
    /// A close frame came, or a response that ends the connection.
    Ending,
    Over,
}

/// How a client goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaving {
    Close,
    Fin,
    HangUp,
    Reset,
}

/// Bounds that a client must know.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) message_bytes: usize,
    pub(super) echo_message_bytes: usize,
    pub(super) fragments: u32,
    pub(super) channels: usize,
    /// Deadlines are short: whoever is slow may be dropped.
    pub(super) hasty: bool,
    pub(super) heartbeat: bool,
    pub(super) mesh_is_small: bool,
    pub(super) outbox_is_small: bool,
    pub(super) last_on_subscribe: bool,
    pub(super) presence: bool,
    pub(super) slow_consumer: SlowConsumer,
    /// Everybody may hear all channels through a wildcard.
    pub(super) wildcards: bool,
    /// Everybody is believed who it says it is.
    pub(super) users: bool,
}

impl Bounds {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            message_bytes: config.client.message_bytes,
            echo_message_bytes: config.client.echo_message_bytes,
            fragments: config.client.fragments,
            channels: config.client.channels,
            hasty: config.timeouts.close_ms < 1000,
            heartbeat: config.heartbeat.interval_ms > 0,
            // Subscriptions may be refused, then.
            mesh_is_small: config.client.mesh_pending_bytes < 1 << 20
                || config.channels[0].subscribers.is_some(),
            slow_consumer: config.channels[0].slow_consumer,
            wildcards: config.channels[0].allow.wildcards == Access::Everyone,
            outbox_is_small: config.client.outbox_bytes < 1 << 20,
            presence: config.channels[0].presence.enabled,
            users: !config.users.trusted_peers.is_empty(),
            last_on_subscribe: config
                .channels
                .iter()
                .any(|rule| rule.history.last_on_subscribe),
        }
    }
}

pub(super) struct Client {
    pub(super) index: usize,
    pub(super) plan: Plan,
    pub(super) stage: Stage,
    pub(super) bounds: Bounds,
    pub(super) random: Random,
    /// Where it connects: ring and listener.
    pub(super) to: (usize, usize),
    pub(super) window: usize,
    /// Reads nothing before everybody settles.
    pub(super) deaf: bool,
    /// Channels that it may name.
    pub(super) channels: usize,
    pub(super) socket: Option<SocketId>,
    outgoing: Vec<u8>,
    pub(super) incoming: Vec<u8>,
    pub(super) carry: Carry,
    pub(super) key: Option<AcceptKey>,
    pub(super) status: Option<u16>,
    pub(super) head_only: bool,
    /// Breaks the protocol when it has said this much.
    pub(super) misdeed_after: Option<u32>,
    pub(super) said: u32,
    /// The close codes that what it did may bring.
    pub(super) deserved: Vec<u16>,
    /// It says nothing more.
    pub(super) silent: bool,
    pub(super) close_sent: Option<Option<u16>>,
    pub(super) farewell: Option<u64>,
    /// It ended its side and still reads.
    pub(super) fin: bool,
    /// It is gone altogether.
    pub(super) gone: bool,
    pub(super) pongs: VecDeque<Vec<u8>>,
    pub(super) echoes: VecDeque<(Kind, Vec<u8>)>,
    pub(super) pending: Vec<Pending>,
    /// Channels that the server counts it a subscriber of when it has read everything said.
    pub(super) member: BTreeSet<String>,
    pub(super) subscriptions: BTreeMap<String, Subscription>,
    /// Channels whose messages it has ever wanted in batches.
    pub(super) batched: BTreeSet<String>,
    pub(super) matched: Matched,
    /// Those that it gave up, as they were.
    pub(super) left: BTreeMap<String, Subscription>,
    /// Who it says it is, and is believed to be.
    pub(super) user: Option<String>,
    /// What it got that belongs to no channel.
    pub(super) addressed: HashSet<String>,
    numbers: HashMap<String, u64>,
    next_id: u32,
}

impl Client {
    pub(super) fn new(index: usize, plan: Plan, bounds: Bounds, seed: u64) -> Self {
        Self {
            index,
            plan,
            stage: Stage::Unconnected,
            bounds,
            random: Random::new(seed),
            to: (0, 0),
            window: 64 << 10,
            deaf: false,
            channels: 3,
            socket: None,
            outgoing: Vec::new(),
            incoming: Vec::new(),
            carry: None,
            key: None,
            status: None,
            head_only: false,
            misdeed_after: None,
            said: 0,
            deserved: Vec::new(),
            silent: false,
            close_sent: None,
            farewell: None,
            fin: false,
            gone: false,
            pongs: VecDeque::new(),
            echoes: VecDeque::new(),
            pending: Vec::new(),
            member: BTreeSet::new(),
            subscriptions: BTreeMap::new(),
            batched: BTreeSet::new(),
            matched: Matched::default(),
            left: BTreeMap::new(),
            user: None,
            addressed: HashSet::new(),
            numbers: HashMap::new(),
            next_id: 0,
        }
    }

    /// Does something, chosen by its seed.
    pub(super) fn step(&mut self, world: &mut World, oracle: &mut Oracle, heard: &mut Heard) {
        if self.stage == Stage::Unconnected {
            self.connect(world);
            return;
        }
        if self.gone || self.stage == Stage::Over {
            return;
        }
        if self.stage == Stage::Open
            && !self.silent
            && self.outgoing.len() < 4096
            && self.random.chance(700)
        {
            self.act(oracle, heard);
        }
        if self.random.chance(800) {
            let all = self.random.chance(500);
            let most = if all {
                usize::MAX
            } else {
                self.random.skewed(self.outgoing.len().max(1))
            };
            self.write(world, most);
        }
        if !self.deaf && self.random.chance(700) {
            let most = self.random.skewed(16 << 10);
            self.read(world, oracle, most);
        }
    }

    /// Writes and reads everything there is. Returns whether there was anything.
    pub(super) fn settle(&mut self, world: &mut World, oracle: &mut Oracle) -> bool {
        if self.gone || matches!(self.stage, Stage::Over | Stage::Unconnected) {
            return false;
        }
        let wrote = self.write(world, usize::MAX);
        let mut read = false;
        while self.stage != Stage::Over && self.read(world, oracle, usize::MAX) {
            read = true;
        }
        wrote || read
    }

    pub(super) fn connect(&mut self, world: &mut World) {
        let (ring, listener) = self.to;
        let Some(socket) = world.connect(ring, listener, self.window) else {
            self.stage = Stage::Over;
            return;
        };
        let index = self.index;
        world.note(|| format!("client {index} connects to ring {ring} as {socket:?}"));
        self.socket = Some(socket);
        self.stage = Stage::Handshake;
        self.write_request();
    }

    fn write_request(&mut self) {
        let random = &mut self.random;
        match self.plan {
            Plan::Channels | Plan::Echo | Plan::Half => {
                let path = if self.plan == Plan::Echo {
                    "/echo"
                } else {
                    *random.pick(&["/", "/ws"])
                };
                let target = format!("{path}?{}", self.index);
                let mut key = [0; 16];
                key[..8].copy_from_slice(&random.next().to_le_bytes());
                let offered = random.chance(300).then_some("ringwire.json.v1");
                let claimed = random
                    .chance(500)
                    .then(|| format!("user {}", random.below(4)));
                let headers: Vec<_> = claimed
                    .iter()
                    .map(|user| ("X-User-ID", user.as_str()))
                    .collect();
                let key = write_request(
                    &mut self.outgoing,
                    "localhost:9000",
                    &target,
                    &key,
                    offered,
                    &headers,
                );
                self.key = Some(key);
                self.user = claimed.filter(|_| self.bounds.users);
                if self.plan == Plan::Half {
                    let kept = random.below(self.outgoing.len());
                    self.outgoing.truncate(kept);
                }
            }
            Plan::Http => {
                let (line, status) = *random.pick(&[
                    ("GET / HTTP/1.1", 200),
                    ("HEAD / HTTP/1.1", 200),
                    ("GET /healthz HTTP/1.1", 200),
                    ("GET /nothing HTTP/1.1", 404),
                    ("GET /ws HTTP/1.1", 426),
                    ("POST /healthz HTTP/1.1", 405),
                ]);
                self.status = Some(status);
                self.head_only = line.starts_with("HEAD");
                self.outgoing = format!("{line}\r\nHost: localhost\r\n\r\n").into_bytes();
            }
            Plan::Garbage => {
                self.status = Some(0);
                self.outgoing = match random.below(3) {
                    0 => (0..random.between(20, 200))
                        .map(|_| random.next() as u8 | 0x80)
                        .collect(),
                    1 => b"GET / HTTP/1.1\r\nHost: a\r\nno colon here\r\n\r\n".to_vec(),
                    _ => {
                        let mut head = b"GET / HTTP/1.1\r\nHost: a\r\nX: ".to_vec();
                        head.resize(20_000, b'x');
                        head
                    }
                };
            }
        }
    }

    /// Writes up to `most` of what waits. Returns whether anything was taken.
    pub(super) fn write(&mut self, world: &mut World, most: usize) -> bool {
        let Some(socket) = self.socket.filter(|_| !self.fin) else {
            return false;
        };
        let length = most.min(self.outgoing.len());
        if length == 0 {
            return false;
        }
        let written = world.write(socket, &self.outgoing[..length]);
        self.outgoing.drain(..written);
        written > 0
    }

    fn read(&mut self, world: &mut World, oracle: &mut Oracle, most: usize) -> bool {
        let Some(socket) = self.socket else {
            return false;
        };
        oracle.now_ms = world.now_ms;
        let bytes = world.read(socket, most);
        let any = !bytes.is_empty();
        self.hear(bytes, world, oracle);
        if let Some(end) = world.ended(socket) {
            self.ended(end, world, oracle);
            return true;
        }
        any
    }

    /// The server's side has ended.
    fn ended(&mut self, end: End, world: &mut World, oracle: &Oracle) {
        let socket = self.socket.expect("a connected client");
        let faulted = world.socket(socket).faulted;
        let index = self.index;
        world.note(|| {
            format!(
                "client {index} sees the end ({end:?}, stage {:?}, faulted {faulted})",
                self.stage
            )
        });
        if !faulted {
            self.judge_end(end, oracle);
        }
        self.stage = Stage::Over;
        world.hang_up(socket);
    }

    /// Whether the connection may end here.
    fn judge_end(&self, end: End, oracle: &Oracle) {
        let index = self.index;
        if self.fin || self.bounds.hasty {
            return;
        }
        let excused = match self.stage {
            // A server that ends drops who is not in yet.
            Stage::Handshake => oracle.draining,
            Stage::Open => false,
            // Bytes behind what ended the connection may make it a reset.
            Stage::Ending => {
                let clean = self.deserved.is_empty() && self.plan != Plan::Garbage;
                end == End::Fin || !clean || oracle.draining
            }
            Stage::Unconnected | Stage::Over => true,
        };
        let broken = self.carry.is_some() || !self.incoming.is_empty();
        assert!(
            excused,
            "client {index} ({:?}, {:?}, unparsed {broken}): the connection ended with {end:?} and no reason",
            self.plan, self.stage
        );
    }

    /// Says or does something.
    fn act(&mut self, oracle: &mut Oracle, heard: &mut Heard) {
        if self.misdeed_after.is_some_and(|after| self.said >= after) {
            self.misbehave();
            return;
        }
        self.said += 1;
        if self.random.chance(60) {
            let length = self.random.below(126);
            let payload: Vec<u8> = (0..length).map(|_| self.random.next() as u8).collect();
            self.frame(Opcode::Ping, true, &payload);
            self.pongs.push_back(payload);
            return;
        }
        if self.random.chance(20) {
            self.frame(Opcode::Pong, true, b"unasked");
            return;
        }
        if self.plan == Plan::Echo {
            let most = self.bounds.echo_message_bytes;
            let length = self.random.skewed(most + 1) - 1;
            let kind = if self.random.chance(500) {
                Kind::Text
            } else {
                Kind::Binary
            };
            let mut text = format!("{} says {} ", self.index, self.said);
            let fill = *self.random.pick(&["x", "ä", "€", "😀"]);
            while text.len() + fill.len() <= length {
                text.push_str(fill);
            }
            text.truncate(text.floor_char_boundary(length));
            self.say(heard, kind, text.as_bytes());
            self.echoes.push_back((kind, text.into_bytes()));
            return;
        }
        self.command(oracle, heard);
    }

    fn command(&mut self, oracle: &mut Oracle, heard: &mut Heard) {
        let mut channel = format!("room \"{}\"", self.random.below(self.channels));
        let kind = self.random.below(100);
        if kind < 35 && self.random.chance(150) {
            channel = WILDCARD.to_owned();
        }
        let quoted = serde_json::to_string(&channel).expect("a string");
        self.next_id += 1;
        let id = if self.random.chance(500) {
            self.next_id.to_string()
        } else {
            format!("\"i{}\"", self.next_id)
        };
        let mut named = self.random.chance(800);
        let recover = (kind < 25 && self.random.chance(400)).then(|| {
            // Only an id tells which of several subscriptions is meant.
            named = true;
            match self.left.get(&channel) {
                Some(left) if self.random.chance(600) => (left.last, left.epoch),
                _ => oracle.some_place(&mut self.random, &channel),
            }
        });
        named |= (86..91).contains(&kind);
        let id_field = if named {
            format!(",\"id\":{id}")
        } else {
            String::new()
        };
        let id = named.then_some(id);
        let (text, expected) = match kind {
            0..25 => {
                let member = self.member.contains(&channel);
                let expected = if channel == WILDCARD && recover.is_some() {
                    Expected::Error("invalid_message")
                } else if channel == WILDCARD && !self.bounds.wildcards {
                    Expected::Error("forbidden")
                } else if !member && self.member.len() >= self.bounds.channels {
                    Expected::Error("too_many_channels")
                } else {
                    self.member.insert(channel.clone());
                    Expected::Subscribed(channel)
                };
                let recover = recover.map_or_else(String::new, |(offset, epoch)| {
                    format!(",\"recover\":{{\"offset\":{offset},\"epoch\":{epoch}}}")
                });
                let mut batch = "";
                if self.random.chance(300) {
                    self.batched
                        .insert(serde_json::from_str(&quoted).expect("a string"));
                    batch = ",\"batch\":true";
                }
                let fields = format!("{id_field}{recover}{batch}");
                (
                    format!("{{\"type\":\"subscribe\",\"channel\":{quoted}{fields}}}"),
                    Some(expected),
                )
            }
            25..35 => {
                let expected = if self.member.remove(&channel) {
                    for pending in &mut self.pending {
                        pending.may_be_abandoned |=
                            pending.expected == Expected::Subscribed(channel.clone());
                    }
                    Expected::Unsubscribed(channel)
                } else {
                    Expected::Error("not_subscribed")
                };
                (
                    format!("{{\"type\":\"unsubscribe\",\"channel\":{quoted}{id_field}}}"),
                    Some(expected),
                )
            }
            86..90 => {
                let mut fields = String::new();
                if self.random.chance(500) {
                    fields += &format!(",\"limit\":{}", self.random.skewed(20));
                }
                if self.random.chance(500) {
                    let (offset, epoch) = oracle.some_place(&mut self.random, &channel);
                    fields += &format!(",\"since\":{{\"offset\":{offset},\"epoch\":{epoch}}}");
                }
                let reverse = self.random.chance(500);
                if reverse {
                    fields += ",\"reverse\":true";
                }
                let text =
                    format!("{{\"type\":\"history\",\"channel\":{quoted}{id_field}{fields}}}");
                (text, Some(Expected::History { channel, reverse }))
            }
            80..86 => {
                let to = (kind < 84).then(|| format!("user {}", self.random.below(4)));
                let echo = self.random.chance(500);
                let data = format!("\"to {to:?} by {}: {}\"", self.index, self.next_id)
                    .replace("Some(\"", "")
                    .replace("\")", "");
                let addressed = Addressed {
                    author: self.index,
                    user: self.user.clone(),
                    to: to.clone(),
                    echo,
                };
                oracle.address(data.clone(), addressed);
                let text = match to {
                    Some(to) => {
                        format!("{{\"type\":\"direct\",\"to\":\"{to}\"{id_field},\"data\":{data}}}")
                    }
                    None => {
                        format!(
                            "{{\"type\":\"broadcast\"{id_field},\"data\":{data},\"echo\":{echo}}}"
                        )
                    }
                };
                (text, named.then_some(Expected::Sent))
            }
            35..80 => {
                let number = self.numbers.entry(channel.clone()).or_default();
                *number += 1;
                let echo = !self.random.chance(300);
                let space = self.bounds.message_bytes.saturating_sub(200).max(1);
                let padding = "p".repeat(self.random.skewed(space) - 1);
                // Odd spaces: the data must come through as it is.
                let data = format!(
                    "{{ \"by\":{}, \"in\" :{quoted},\"no\":{number},\"pad\" : \"{padding}\"}}",
                    self.index
                );
                let publication = Publication {
                    author: self.index,
                    channel: channel.clone(),
                    number: *number,
                    echo,
                    user: self.user.clone(),
                    key: self
                        .random
                        .chance(300)
                        .then(|| format!("k{}", self.random.below(3))),
                };
                let key_field = publication
                    .key
                    .as_ref()
                    .map_or_else(String::new, |key| format!(",\"key\":\"{key}\""));
                oracle.publish(data.clone(), publication);
                let kind = *self.random.pick(&["publish", "message"]);
                let echo_field = if echo { "" } else { ",\"echo\":false" };
                let text = format!(
                    "{{\"type\":\"{kind}\",\"channel\":{quoted}{id_field}{echo_field}{key_field},\"data\":{data}}}"
                );
                let expected = named.then_some(Expected::Published { channel, data });
                (text, expected)
            }
            90 => {
                let expected = match self.bounds.presence {
                    true => Expected::Members,
                    false => Expected::Error("not_available"),
                };
                let text = format!("{{\"type\":\"presence\",\"channel\":{quoted}{id_field}}}");
                (text, Some(expected))
            }
            91 => (
                format!("{{\"type\":\"ping\"{id_field}}}"),
                Some(Expected::Pong),
            ),
            92..94 => (
                format!("{{\"type\":\"connect\"{id_field}}}"),
                Some(Expected::Connect),
            ),
            94..96 => (
                format!("{{\"type\":\"dance\"{id_field}}}"),
                Some(Expected::Error("unknown_type")),
            ),
            96..98 => {
                self.pending
                    .push(Pending::new(None, Expected::Error("unsupported_data")));
                self.say(heard, Kind::Binary, b"\x00\x01");
                return;
            }
            _ => {
                self.pending
                    .push(Pending::new(None, Expected::Error("invalid_json")));
                self.say(heard, Kind::Text, b"{\"type\":");
                return;
            }
        };
        if let Some(expected) = expected {
            self.pending.push(Pending {
                recover,
                ..Pending::new(id, expected)
            });
        }
        self.say(heard, Kind::Text, text.as_bytes());
    }

    /// A whole message, possibly in fragments with pings between them.
    fn say(&mut self, heard: &mut Heard, kind: Kind, payload: &[u8]) {
        heard.said[self.index].push((kind, payload.to_vec()));
        let mut opcode = Opcode::from(kind);
        let mut rest = payload;
        let mut fragments = 1;
        while self.random.chance(150) && fragments < self.bounds.fragments {
            let (first, second) = rest.split_at(self.random.below(rest.len() + 1));
            self.frame(opcode, false, first);
            opcode = Opcode::Continuation;
            rest = second;
            fragments += 1;
            if self.random.chance(300) {
                self.frame(Opcode::Ping, true, b"between");
                self.pongs.push_back(b"between".to_vec());
            }
        }
        self.frame(opcode, true, rest);
    }

    pub(super) fn frame(&mut self, opcode: Opcode, fin: bool, payload: &[u8]) {
        let key = (self.random.next() as u32).to_le_bytes();
        encode_masked(&mut self.outgoing, opcode, fin, payload, key);
    }

    /// Breaks the protocol, once, and says nothing more.
    fn misbehave(&mut self) {
        self.silent = true;
        let limit = match self.plan {
            Plan::Echo => self.bounds.echo_message_bytes,
            _ => self.bounds.message_bytes,
        };
        // Messages on /echo may have very many fragments.
        let kinds = if self.plan == Plan::Echo { 9 } else { 10 };
        let code = match self.random.below(kinds) {
            0 => {
                self.outgoing.extend_from_slice(b"\x81\x02hi");
                1002
            }
            1 => {
                self.outgoing.extend_from_slice(&[0xc1, 0x80, 0, 0, 0, 0]);
                1002
            }
            2 => {
                self.outgoing.extend_from_slice(&[0x83, 0x80, 0, 0, 0, 0]);
                1002
            }
            3 => {
                self.frame(Opcode::Continuation, true, b"of nothing");
                1002
            }
            4 => {
                self.outgoing.extend_from_slice(&[0x09, 0x80, 0, 0, 0, 0]);
                1002
            }
            5 => {
                self.frame(Opcode::Close, true, &[0x03, 0xed]);
                1002
            }
            6 => {
                self.frame(Opcode::Text, true, b"caf\xe9 \xff");
                1007
            }
            7 => {
                self.frame(Opcode::Close, true, &[0x03, 0xe8, 0xff, 0xfe]);
                1007
            }
            8 => {
                let length = (limit as u64 + 1).max(0x1_0000);
                self.outgoing.extend_from_slice(&[0x82, 0xff]);
                self.outgoing.extend_from_slice(&length.to_be_bytes());
                self.outgoing.extend_from_slice(&[1, 2, 3, 4]);
                1009
            }
            _ => {
                self.frame(Opcode::Text, false, b"");
                for _ in 0..self.bounds.fragments {
                    self.frame(Opcode::Continuation, false, b"");
                }
                1009
            }
        };
        self.deserved.push(code);
        if self.random.chance(300) {
            let tail: Vec<u8> = (0..self.random.below(300))
                .map(|_| self.random.next() as u8)
                .collect();
            self.outgoing.extend_from_slice(&tail);
        }
    }

    /// Goes away.
    pub(super) fn leave(&mut self, how: Leaving, world: &mut World) {
        let Some(socket) = self.socket else {
            self.stage = Stage::Over;
            return;
        };
        if self.gone || self.stage == Stage::Over {
            return;
        }
        let index = self.index;
        world.note(|| format!("client {index} leaves: {how:?}"));
        match how {
            Leaving::Close
                if self.stage == Stage::Open && self.close_sent.is_none() && !self.silent =>
            {
                let code =
                    *self
                        .random
                        .pick(&[None, Some(1000), Some(1001), Some(3000), Some(4999)]);
                self.close(code);
                return;
            }
            Leaving::Fin => {
                // It still reads what comes.
                self.silent = true;
                self.outgoing.clear();
                self.fin = true;
                world.finish(socket);
                return;
            }
            Leaving::Close | Leaving::HangUp => world.hang_up(socket),
            Leaving::Reset => world.reset(socket),
        }
        self.gone = true;
    }

    /// Sends a close frame, its last.
    pub(super) fn close(&mut self, code: Option<u16>) {
        let payload = code.map(u16::to_be_bytes);
        self.frame(
            Opcode::Close,
            true,
            payload.as_ref().map_or(&[], |bytes| &bytes[..]),
        );
        self.close_sent = Some(code);
        self.silent = true;
    }

    /// Whether something waits to be written to a server that still takes it.
    pub(super) fn is_writing(&self) -> bool {
        !self.outgoing.is_empty() && !self.fin && !self.gone && self.stage == Stage::Open
    }

    /// Everything that was said has arrived and been answered, unless the connection has ended.
    ///
    /// # Panics
    /// When something is missing.
    pub(super) fn check_arrived(&self, server: &Server, oracle: &mut Oracle) {
        let Some(socket) = self.socket else { return };
        let world = server.world.borrow();
        let socket = world.socket(socket);
        if self.gone || self.fin || socket.faulted || !socket.accepted {
            return;
        }
        assert!(
            socket.is_closed() || socket.unread_by_server() == 0,
            "client {}: {} bytes wait and the server does not read them",
            self.index,
            socket.unread_by_server()
        );
        if self.stage == Stage::Open && self.close_sent.is_none() && self.deserved.is_empty() {
            let heard = server.heard.borrow();
            assert_eq!(
                heard.arrived(self.index),
                heard.said[self.index].len(),
                "messages of client {} that arrived",
                self.index
            );
            self.check_settled(oracle);
        }
    }
}
