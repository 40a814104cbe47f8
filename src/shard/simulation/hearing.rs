//! What a simulated client makes of the bytes that it reads.

use super::super::handler::Kind;
use super::client::{Client, Plan, Stage};
use super::delivered::{Arrived, Matched, WILDCARD};
use super::oracle::Oracle;
use crate::config::SlowConsumer;
use crate::ring::sim::World;
use crate::wire::Role;
use crate::wire::client::parse_response;
use crate::wire::message::{Event, Flow, Rules, decode};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// The answer that a request will have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    Subscribed(String),
    Unsubscribed(String),
    Published { channel: String, data: String },
    History { channel: String, reverse: bool },
    Members,
    Sent,
    Pong,
    Connect,
    Error(&'static str),
}

impl Expected {
    /// Whether the answer depends on the channels that the client is subscribed to.
    fn is_about_membership(&self) -> bool {
        match self {
            Self::Subscribed(_) | Self::Unsubscribed(_) => true,
            Self::Error(code) => ["too_many_channels", "not_subscribed"].contains(code),
            _ => false,
        }
    }
}

/// A request that waits for its answer.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub(super) id: Option<String>,
    pub(super) expected: Expected,
    /// An unsubscribe follows it, which may come before the subscription is in force.
    pub(super) may_be_abandoned: bool,
    /// What it wants to be brought up from: offset and epoch.
    pub(super) recover: Option<(u64, u64)>,
}

impl Pending {
    pub(super) fn new(id: Option<String>, expected: Expected) -> Self {
        Self {
            id,
            expected,
            may_be_abandoned: false,
            recover: None,
        }
    }
}

/// A confirmed subscription.
#[derive(Clone, Debug)]
pub(super) struct Subscription {
    pub(super) epoch: u64,
    pub(super) last: u64,
    /// Up to here, everything comes out of the history.
    pub(super) until: u64,
    /// The message at `last` may come out of the history.
    pub(super) last_may_come: bool,
    /// Where it was when it began.
    pub(super) began: u64,
    /// Up to here, messages were lost.
    pub(super) dropped: u64,
    /// By key: the last offset.
    pub(super) newest: BTreeMap<Option<String>, u64>,
}

impl Subscription {
    fn at(epoch: u64, last: u64) -> Self {
        Self {
            epoch,
            last,
            until: last,
            last_may_come: false,
            began: last,
            dropped: 0,
            newest: BTreeMap::new(),
        }
    }
}

/// Anything that the server says.
#[derive(Deserialize)]
struct Said<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    channel: Option<Cow<'a, str>>,
    #[serde(borrow)]
    wildcard: Option<Cow<'a, str>>,
    #[serde(borrow)]
    key: Option<Cow<'a, str>>,
    count: Option<u64>,
    #[serde(borrow, default)]
    messages: Vec<Entry<'a>>,
    #[serde(borrow)]
    from: Option<Cow<'a, str>>,
    #[serde(borrow)]
    user_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    offset: Option<u64>,
    epoch: Option<u64>,
    recovered: Option<bool>,
    #[serde(borrow)]
    code: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Acknowledged {
    published: bool,
    offset: u64,
}

#[derive(Deserialize)]
struct Members {
    users: usize,
    anonymous: usize,
    connections: usize,
    members: Vec<Member>,
}

#[derive(Deserialize)]
struct Member {
    user_id: String,
    connections: usize,
}

#[derive(Deserialize)]
struct Sent {
    connections: u64,
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    messages: Vec<Entry<'a>>,
    offset: u64,
    epoch: u64,
}

#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(borrow)]
    channel: Option<Cow<'a, str>>,
    #[serde(borrow)]
    from: Option<Cow<'a, str>>,
    #[serde(borrow)]
    key: Option<Cow<'a, str>>,
    #[serde(borrow)]
    data: &'a RawValue,
    offset: u64,
}

impl Client {
    /// Takes bytes from the server.
    pub(super) fn hear(&mut self, bytes: Vec<u8>, world: &mut World, oracle: &mut Oracle) {
        if bytes.is_empty() {
            return;
        }
        let mut bytes = if self.incoming.is_empty() {
            bytes
        } else {
            let mut all = std::mem::take(&mut self.incoming);
            all.extend_from_slice(&bytes);
            all
        };
        if self.stage == Stage::Handshake {
            match self.response(&bytes) {
                Some(consumed) => {
                    bytes.drain(..consumed);
                }
                None => {
                    self.incoming = bytes;
                    return;
                }
            }
        }
        if bytes.is_empty() {
            return;
        }
        let index = self.index;
        assert_eq!(
            self.stage,
            Stage::Open,
            "client {index} got bytes after the end: {bytes:?}"
        );
        let rules = Rules {
            role: Role::Client,
            message_bytes: 64 << 20,
            fragments: 1,
        };
        let mut carry = self.carry.take();
        let result = decode(&mut carry, &mut bytes, &rules, &mut |event| {
            match event {
                Event::Message { kind, payload } => self.message(kind, payload, oracle),
                Event::Ping(payload) => {
                    let payload = payload.to_vec();
                    if !self.silent {
                        self.frame(crate::wire::frame::Opcode::Pong, true, &payload);
                    }
                }
                Event::Pong(payload) => {
                    let expected = self.pongs.pop_front();
                    assert_eq!(expected.as_deref(), Some(payload), "client {index}'s pong");
                }
                Event::Close { code, reason } => {
                    world.note(|| format!("client {index} got close {code:?} {reason:?}"));
                    self.closed(code, reason, oracle);
                    return Flow::Stop;
                }
            }
            Flow::Continue
        });
        match result {
            Ok(consumed) => assert_eq!(
                consumed,
                bytes.len(),
                "client {index} got bytes after the close frame"
            ),
            Err(error) => panic!("client {index} cannot read what the server sent: {error}"),
        }
        self.carry = carry;
    }

    /// Reads the answer to the request; how many bytes it took when frames may follow.
    fn response(&mut self, bytes: &[u8]) -> Option<usize> {
        let index = self.index;
        if matches!(self.plan, Plan::Channels | Plan::Echo | Plan::Half) {
            let key = self.key.as_ref().expect("a request was written");
            let accepted = parse_response(bytes, key)
                .unwrap_or_else(|error| panic!("client {index}'s handshake failed: {error}"))?;
            assert_ne!(self.plan, Plan::Half, "half a request was answered");
            self.stage = Stage::Open;
            return Some(accepted.consumed);
        }
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut response = httparse::Response::new(&mut headers);
        let parsed = response
            .parse(bytes)
            .unwrap_or_else(|error| panic!("client {index} got no HTTP: {error}"));
        let httparse::Status::Complete(head) = parsed else {
            return None;
        };
        let status = response.code.expect("a complete response");
        match self.status {
            Some(0) => assert!(
                (400..=505).contains(&status),
                "client {index}: {status} for garbage"
            ),
            expected => assert_eq!(Some(status), expected, "client {index}"),
        }
        let header = |name: &str| {
            let found = response
                .headers
                .iter()
                .find(|header| header.name.eq_ignore_ascii_case(name));
            found.map(|header| String::from_utf8_lossy(header.value).into_owned())
        };
        assert!(
            header("connection").is_some_and(|value| value.to_ascii_lowercase().contains("close")),
            "client {index}: the response does not announce the close"
        );
        let length: usize = header("content-length")
            .and_then(|value| value.parse().ok())
            .expect("a length");
        let body = bytes.len() - head;
        let length = if self.head_only { 0 } else { length };
        assert!(
            body <= length,
            "client {index}: {body} bytes of body, {length} announced"
        );
        if body < length {
            return None;
        }
        self.stage = Stage::Ending;
        Some(bytes.len())
    }

    fn message(&mut self, kind: Kind, payload: &[u8], oracle: &mut Oracle) {
        let index = self.index;
        if self.plan == Plan::Echo {
            let (expected_kind, expected) = self.echoes.pop_front().expect("an echo of nothing");
            assert_eq!(kind, expected_kind, "client {index}'s echo");
            assert!(
                expected == payload,
                "client {index}'s echo came back changed"
            );
            return;
        }
        assert_eq!(kind, Kind::Text, "client {index}");
        let said: Said<'_> = serde_json::from_slice(payload).unwrap_or_else(|error| {
            panic!(
                "client {index}: {error} in {}",
                String::from_utf8_lossy(payload)
            )
        });
        let channel = said.channel.as_deref().unwrap_or_default();
        let id = said.id.map(RawValue::get);
        match &*said.kind {
            "message" => {
                let arrived = Arrived {
                    channel,
                    wildcard: said.wildcard.as_deref(),
                    from: said.from.as_deref(),
                    data: said.data.expect("data").get(),
                    offset: said.offset.expect("an offset"),
                    key: said.key.as_deref(),
                };
                self.delivered(&arrived, oracle);
            }
            "messages" => {
                let wildcard = said.wildcard.as_deref();
                let asked = wildcard.unwrap_or(channel);
                assert!(self.batched.contains(asked), "client {index}: {asked:?}");
                assert!(!said.messages.is_empty(), "client {index}: {asked:?}");
                for entry in &said.messages {
                    let arrived = Arrived {
                        channel: entry.channel.as_deref().unwrap_or(channel),
                        wildcard,
                        from: entry.from.as_deref(),
                        data: entry.data.get(),
                        offset: entry.offset,
                        key: entry.key.as_deref(),
                    };
                    self.delivered(&arrived, oracle);
                }
            }
            "dropped" => {
                let count = said.count.expect("a count");
                let wildcard = said.wildcard.as_deref();
                self.dropped(
                    said.channel.as_deref(),
                    wildcard,
                    count,
                    said.offset,
                    oracle,
                );
            }
            "join" | "leave" | "presence_stats" => {
                let user = said.user_id.as_deref();
                let known = said.kind == "presence_stats" && user.is_none();
                let named = user.is_some_and(|user| user.starts_with("user "));
                assert!(known || named, "client {index}: {} of {user:?}", said.kind);
                assert!(
                    self.subscriptions.contains_key(channel),
                    "client {index} is told who is in {channel:?}"
                );
            }
            "direct" | "broadcast" => {
                let data = said.data.expect("data").get();
                let everyone = said.kind == "broadcast";
                oracle.got(
                    index,
                    self.user.as_deref(),
                    everyone,
                    said.from.as_deref(),
                    data,
                );
                assert!(
                    self.addressed.insert(data.to_owned()),
                    "client {index} got this twice: {data}"
                );
            }
            "subscribed" if channel == WILDCARD => {
                self.answer(id, &Expected::Subscribed(channel.to_owned()));
                assert_eq!(
                    (said.offset, said.epoch, said.recovered),
                    (None, None, None)
                );
                if !self.subscriptions.contains_key(WILDCARD) {
                    self.matched = Matched::default();
                    let nowhere = Subscription::at(0, 0);
                    self.subscriptions.insert(channel.to_owned(), nowhere);
                }
            }
            "subscribed" => {
                let pending = self.answer(id, &Expected::Subscribed(channel.to_owned()));
                let (epoch, offset) = (
                    said.epoch.expect("an epoch"),
                    said.offset.expect("an offset"),
                );
                let mut subscription = Subscription::at(epoch, offset);
                if let Some(known) = self.subscriptions.get(channel) {
                    assert_eq!(known.epoch, epoch, "client {index}: {channel:?} began anew");
                    assert!(
                        offset >= known.last,
                        "client {index}: {channel:?} is at {offset} after {}",
                        known.last
                    );
                    assert!(known.until <= known.last, "recovered in part: {known:?}");
                    assert_eq!(said.recovered, None, "client {index} was subscribed");
                    if self.bounds.slow_consumer == SlowConsumer::Disconnect {
                        oracle.skip(index, channel, epoch, known.last + 1..offset + 1);
                        subscription.newest = known.newest.clone();
                        (subscription.began, subscription.dropped) = (known.began, known.dropped);
                    } else {
                        // What was lost before is told, or replaced, at its place: before or after this.
                        subscription = known.clone();
                    }
                } else if said.recovered == Some(true) {
                    let (since, life) = pending
                        .recover
                        .unwrap_or_else(|| panic!("client {index} recovered without asking"));
                    assert_eq!(life, epoch, "client {index} recovered from another life");
                    assert!(since <= offset, "client {index} recovered from the future");
                    subscription.last = since;
                } else {
                    // Not even the last message could be sent.
                    let squeezed = self.bounds.last_on_subscribe
                        && (self.bounds.outbox_is_small || self.bounds.mesh_is_small);
                    assert!(
                        said.recovered.is_none() || pending.recover.is_some() || squeezed,
                        "client {index} did not ask"
                    );
                    subscription.last_may_come = self.bounds.last_on_subscribe;
                }
                self.subscriptions.insert(channel.to_owned(), subscription);
            }
            "unsubscribed" => {
                self.answer(id, &Expected::Unsubscribed(channel.to_owned()));
                if let Some(left) = self.subscriptions.remove(channel) {
                    self.left.insert(channel.to_owned(), left);
                }
            }
            "response" => {
                let at = self.position(|pending| pending.id.as_deref() == id);
                let pending = self
                    .pending
                    .remove(at.unwrap_or_else(|| panic!("client {index}: id {id:?}?")));
                let answer = said.data.expect("data").get();
                match pending.expected {
                    Expected::Published { channel, data } => {
                        let answer: Acknowledged =
                            serde_json::from_str(answer).expect("an acknowledgement");
                        assert!(answer.published);
                        oracle.acknowledge(&channel, answer.offset, &data);
                    }
                    Expected::History { channel, reverse } => {
                        let page: Page<'_> = serde_json::from_str(answer).expect("a page");
                        let mut offsets: Vec<u64> =
                            page.messages.iter().map(|one| one.offset).collect();
                        if reverse {
                            offsets.reverse();
                        }
                        assert!(
                            offsets.windows(2).all(|two| two[0] + 1 == two[1]),
                            "client {index} read {offsets:?} of {channel:?}"
                        );
                        assert!(offsets.last().is_none_or(|&last| last <= page.offset));
                        for entry in &page.messages {
                            let data = entry.data.get();
                            oracle.read(index, &channel, page.epoch, entry.offset, data);
                        }
                    }
                    Expected::Members => {
                        let page: Members = serde_json::from_str(answer).expect("members");
                        assert_eq!(page.members.len(), page.users);
                        let own = |member: &Member| member.connections;
                        let users: usize = page.members.iter().map(own).sum();
                        assert_eq!(users + page.anonymous, page.connections);
                        assert!(
                            page.members
                                .iter()
                                .all(|one| one.user_id.starts_with("user "))
                        );
                    }
                    Expected::Sent => {
                        let answer: Sent = serde_json::from_str(answer).expect("a number");
                        assert!(answer.connections <= 1000);
                    }
                    other => panic!("client {index} got a response to {other:?}"),
                }
            }
            "pong" => {
                self.answer(id, &Expected::Pong);
            }
            "connect" => {
                self.answer(id, &Expected::Connect);
                assert_eq!(said.user_id, self.user.as_deref().map(Cow::Borrowed));
            }
            "error" => {
                let code = said.code.expect("a code").get().trim_matches('"');
                if code == "busy" {
                    // More is read than may wait for it.
                    let at = self.position(|pending| {
                        pending.id.as_deref() == id
                            && matches!(
                                pending.expected,
                                Expected::History { .. } | Expected::Members
                            )
                    });
                    if let Some(at) = at.filter(|_| id.is_some()) {
                        self.pending.remove(at);
                        return;
                    }
                }
                let known = [
                    "unknown_type",
                    "unsupported_data",
                    "invalid_json",
                    "not_subscribed",
                    "too_many_channels",
                    "not_available",
                    "forbidden",
                    "invalid_message",
                ];
                if code == "busy" && !self.bounds.mesh_is_small {
                    // It asked for very much at once; what it thinks of its channels is wrong from now on.
                    assert!(
                        self.bounds.last_on_subscribe
                            || self.pending.iter().any(|one| one.recover.is_some()),
                        "client {index} was refused id {id:?}"
                    );
                    self.bounds.mesh_is_small = true;
                }
                if code == "busy" || code == "too_many_subscribers" {
                    // Without an id it could be for anything.
                    let at = self.position(|pending| {
                        id.is_some()
                            && pending.id.as_deref() == id
                            && (matches!(
                                pending.expected,
                                Expected::Published { .. } | Expected::Sent
                            ) || pending.expected.is_about_membership())
                    });
                    if let Some(at) = at {
                        self.pending.remove(at);
                    }
                    return;
                }
                let Some(code) = known.iter().find(|known| **known == code) else {
                    panic!("client {index} got error {code}: {:?}", said.error);
                };
                let error = said.error.as_deref().unwrap_or_default();
                if error.starts_with("unsubscribed from ") {
                    self.abandoned(id, error);
                } else {
                    self.answer(id, &Expected::Error(code));
                }
            }
            "disconnect" => {
                let code = said.code.expect("a code").get().parse().expect("a number");
                assert_eq!(self.farewell.replace(code), None, "client {index}");
            }
            other => panic!("client {index} got {other:?}"),
        }
    }

    fn position(&self, matches: impl FnMut(&Pending) -> bool) -> Option<usize> {
        self.pending.iter().position(matches)
    }

    /// A subscription was given up before it was in force.
    fn abandoned(&mut self, id: Option<&str>, error: &str) {
        let at = self.position(|pending| {
            let named = match &pending.expected {
                Expected::Subscribed(channel) => error.contains(&format!("{channel:?}")),
                _ => false,
            };
            named && pending.may_be_abandoned && pending.id.as_deref() == id
        });
        // (Where subscribes are refused, this client's idea of its channels may be wrong.)
        assert!(
            at.is_some() || self.bounds.mesh_is_small,
            "client {} was told {error:?} for id {id:?}, and waits for {:?}",
            self.index,
            self.pending
        );
        let at = at.or_else(|| {
            self.position(|pending| {
                pending.id.as_deref() == id && pending.expected.is_about_membership()
            })
        });
        if let Some(at) = at {
            self.pending.remove(at);
        }
    }

    /// Finds the request that this answers.
    fn answer(&mut self, id: Option<&str>, expected: &Expected) -> Pending {
        // Those that nothing else can answer first: an id may be missing, and then many look alike.
        let fits = |pending: &Pending| pending.id.as_deref() == id && pending.expected == *expected;
        let mut at = self
            .position(|pending| fits(pending) && !pending.may_be_abandoned)
            .or_else(|| self.position(fits));
        if self.bounds.mesh_is_small && expected.is_about_membership() {
            // A subscribe may have been refused, which decides about what follows.
            at = at.or_else(|| {
                self.position(|pending| {
                    pending.id.as_deref() == id && pending.expected.is_about_membership()
                })
            });
        }
        let Some(at) = at else {
            panic!(
                "client {} got an answer to id {id:?}, {expected:?}, and waits for {:?}",
                self.index, self.pending
            );
        };
        self.pending.remove(at)
    }

    /// A close frame came.
    fn closed(&mut self, code: Option<u16>, reason: &str, oracle: &Oracle) {
        let index = self.index;
        let is_echo = self.close_sent.is_some_and(|sent| sent == code);
        let allowed = match code {
            Some(1001) if reason == "server shutting down" => oracle.draining,
            Some(1001) if reason == "no sign of life" => self.bounds.hasty && self.bounds.heartbeat,
            Some(4010) => self.bounds.outbox_is_small,
            Some(code) => self.deserved.contains(&code) || is_echo,
            None => is_echo,
        };
        assert!(
            allowed,
            "client {index} got close {code:?} {reason:?} and deserved {:?} (own close: {:?})",
            self.deserved, self.close_sent
        );
        let on_purpose =
            matches!(code, Some(1001 | 4010)) && !is_echo && self.plan == Plan::Channels;
        if on_purpose || self.farewell.is_some() {
            assert_eq!(
                self.farewell,
                code.map(u64::from),
                "client {index}'s farewell"
            );
        }
        self.stage = Stage::Ending;
        if self.close_sent.is_none() && !self.silent {
            self.close(code);
        }
        self.silent = true;
        self.pending.clear();
        self.subscriptions.clear();
    }

    /// Everything said has been answered and every message has come.
    ///
    /// # Panics
    /// When something is missing.
    pub(super) fn check_settled(&self, oracle: &mut Oracle) {
        let index = self.index;
        let missing: Vec<_> = self
            .pending
            .iter()
            .filter(|pending| {
                let refused = self.bounds.mesh_is_small && pending.id.is_none();
                !(refused && pending.expected.is_about_membership())
            })
            .collect();
        assert!(
            missing.is_empty(),
            "client {index} waits for answers: {missing:?}"
        );
        assert!(
            self.pongs.is_empty(),
            "client {index} waits for {} pongs",
            self.pongs.len()
        );
        assert!(
            self.echoes.is_empty(),
            "client {index} waits for {} echoes",
            self.echoes.len()
        );
        assert!(
            self.carry.is_none() && self.incoming.is_empty(),
            "client {index} waits for the rest of a frame"
        );
        for channel in &self.member {
            assert!(
                self.bounds.mesh_is_small || self.subscriptions.contains_key(channel),
                "client {index} never heard of {channel:?}"
            );
        }
        for channel in self.subscriptions.keys() {
            assert!(
                self.bounds.mesh_is_small || self.member.contains(channel),
                "client {index} is still subscribed to {channel:?}"
            );
        }
        self.check_streams(oracle);
    }
}
