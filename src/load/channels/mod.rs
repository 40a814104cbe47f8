//! Subscriptions to many channels: every delivery must be the next one of its channel.

mod board;
mod plan;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde::Deserialize;

pub(super) use board::Board;
pub use plan::{
    CHANNEL_PUBLISH_BYTES_MIN, CHANNELS_MAX, ChannelGroup, ChannelsPlan, SUBSCRIPTIONS_MAX, Traffic,
};

use super::Latencies;
use super::scenario::{Outgoing, Scenario, ScenarioCounts, noise};
use crate::wire::frame::Opcode;
use crate::wire::message::Kind;

/// In place of a publisher's number: a subscriber published it, on its own channel.
const OWN: u32 = 0xffff;
/// Subscribers of a worker that wait at the same time for what they published.
const OWN_MAX: u32 = 256;
/// Where the randomly drawn channels begin.
const SEED: u64 = 0x2545_f491_4f6c_dd1d;

/// One worker's traffic.
pub(super) struct Channels {
    plan: ChannelsPlan,
    board: Arc<Board>,
    /// Of this worker's first subscriber.
    first_number: u32,
    /// How many of this worker's connections (the first ones) publish.
    publishing: Vec<Publisher>,
    filler: Vec<u8>,
    /// Open connections that have not subscribed yet, those that wait for answers, and how many may.
    to_subscribe: VecDeque<u32>,
    subscribing: u32,
    subscribing_max: u32,
    due: VecDeque<Due>,
    announced: Option<Due>,
    bursts_seen: u32,
    /// Rounds in which every subscriber publishes once: how many were asked for, the group of the last one,
    /// who has not yet, and how many wait for theirs.
    rounds_seen: u32,
    round_group: usize,
    to_say: VecDeque<u32>,
    saying: u32,
    /// Connections have keys below this.
    keys: u32,
    now_ns: u64,
    /// When the current run began.
    began_ns: Option<u64>,
    counts: ScenarioCounts,
    /// Of each delivery, and of those that were a publish's last.
    latencies: Latencies,
    lasts: Latencies,
}

#[derive(Clone, Copy, Debug)]
enum Due {
    Subscribe(u32),
    Publish {
        publisher: u32,
        channel: u32,
        due_ns: u64,
    },
    Say(u32),
}

#[derive(Debug)]
struct Publisher {
    open: bool,
    /// The number of the next publish.
    next: u32,
    /// Publishes that are due and not sent.
    waiting: u32,
    /// How many publishes the current run has begun, for the rate.
    begun: u32,
    /// The channels of the publishes on the way, the oldest first.
    on_the_way: VecDeque<u32>,
    /// How many publishes each of its channels has had: channel `publisher + n * publishers` at `n`.
    sequences: Vec<u32>,
    random: u64,
}

/// One connection's.
#[derive(Debug, Default)]
pub(super) struct ChannelsState {
    subscriptions: Box<[Subscription]>,
    /// Answers to its subscriptions that have not come.
    unanswered: u32,
    /// It has asked for them.
    asked: bool,
    closed: bool,
    /// The last round in which it published, and when, if that has not come back; else 0.
    said_round: u32,
    said_ns: u64,
}

#[derive(Clone, Copy, Debug)]
struct Subscription {
    channel: u32,
    /// The publisher's count of what it published there, for the next message; not known before the
    /// first one.
    next_sequence: Option<u32>,
    /// The channel's offset of the next message; 0 before the subscription is answered.
    next_offset: u64,
}

/// What the server says.
#[derive(Deserialize)]
struct Incoming<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    channel: Option<Cow<'a, str>>,
    offset: Option<u64>,
    data: Option<Cow<'a, str>>,
}

/// What a published string begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Label {
    publisher: u32,
    number: u32,
    sequence: u32,
    channel: u32,
}

impl Label {
    fn write(self) -> String {
        let Self {
            publisher,
            number,
            sequence,
            channel,
        } = self;
        format!("{publisher:04x}{number:08x}{sequence:08x}{channel:08x}")
    }

    /// The label, and what follows it.
    fn read(data: &str) -> Option<(Self, &str)> {
        let digits = |from, to| u32::from_str_radix(data.get(from..to)?, 16).ok();
        let label = Self {
            publisher: digits(0, 4)?,
            number: digits(4, 12)?,
            sequence: digits(12, 20)?,
            channel: digits(20, 28)?,
        };
        Some((label, &data[CHANNEL_PUBLISH_BYTES_MIN..]))
    }
}

impl Channels {
    /// `publishers` of this worker's connections (the first ones) publish; `first_number` is the first
    /// subscriber's. At most `subscribing_max` connections wait for the answers to their subscriptions.
    pub(super) fn new(
        plan: ChannelsPlan,
        board: Arc<Board>,
        publishers: u32,
        first_number: u32,
        subscribing_max: u32,
    ) -> Self {
        let filler = noise(plan.size_bytes - CHANNEL_PUBLISH_BYTES_MIN);
        let channels = plan.channels().div_ceil(plan.publishers.max(1));
        let publisher = |publisher: u32| Publisher {
            open: false,
            next: 0,
            waiting: 0,
            begun: 0,
            on_the_way: VecDeque::new(),
            sequences: vec![0; channels as usize],
            random: SEED ^ u64::from(publisher),
        };
        Self {
            publishing: (0..publishers).map(publisher).collect(),
            filler: filler.iter().map(|byte| b'a' + byte % 26).collect(),
            plan,
            board,
            first_number,
            to_subscribe: VecDeque::new(),
            subscribing: 0,
            subscribing_max,
            due: VecDeque::new(),
            announced: None,
            bursts_seen: 0,
            rounds_seen: 0,
            round_group: 0,
            to_say: VecDeque::new(),
            saying: 0,
            keys: 0,
            now_ns: 0,
            began_ns: None,
            counts: ScenarioCounts::default(),
            latencies: Latencies::new(),
            lasts: Latencies::new(),
        }
    }

    fn subscribed(
        &mut self,
        state: &mut ChannelsState,
        incoming: &Incoming<'_>,
    ) -> Result<bool, String> {
        let (subscription, name) = self.subscription(state, incoming)?;
        if subscription.next_offset != 0 {
            return Err(format!("the subscription to {name} was answered twice"));
        }
        let offset = incoming.offset.ok_or("an answer without an offset")?;
        subscription.next_offset = offset + 1;
        state.unanswered -= 1;
        if state.unanswered == 0 {
            self.subscribing -= 1;
        }
        Ok(state.unanswered == 0)
    }

    fn deliver(
        &mut self,
        state: &mut ChannelsState,
        incoming: &Incoming<'_>,
    ) -> Result<(), String> {
        let (subscription, name) = self.subscription(state, incoming)?;
        let offset = incoming.offset.unwrap_or(0);
        if subscription.next_offset == 0 || offset != subscription.next_offset {
            let expected = match subscription.next_offset {
                0 => "the answer to the subscription".to_owned(),
                next => format!("offset {next}"),
            };
            return Err(format!(
                "in channel {name} offset {offset} came where {expected} had to come"
            ));
        }
        let data = incoming.data.as_deref().unwrap_or_default();
        let (label, filler) = Label::read(data)
            .ok_or_else(|| format!("in channel {name} came what nobody published: {data:?}"))?;
        if label.channel != subscription.channel || filler.as_bytes() != self.filler {
            return Err(format!(
                "in channel {name} came {data:?}, which was published to {}",
                if label.channel < self.plan.channels() {
                    self.plan.name(label.channel)
                } else {
                    "no channel".to_owned()
                }
            ));
        }
        let sequence = subscription.next_sequence.unwrap_or(label.sequence);
        if label.sequence != sequence {
            return Err(format!(
                "in channel {name} publish {} of its publisher came where {sequence} had to come",
                label.sequence
            ));
        }
        subscription.next_sequence = Some(sequence.wrapping_add(1));
        subscription.next_offset += 1;
        self.counts.messages += 1;
        self.counts.bytes += data.len() as u64;
        if label.publisher == OWN {
            return self.came_back(state, label);
        }
        if self.plan.publishers == 0 {
            return Ok(()); // another run publishes
        }
        if label.publisher >= self.plan.publishers {
            return Err(format!(
                "publisher {} of {} published in {name}",
                label.publisher, self.plan.publishers
            ));
        }
        let flight = self.board.flight(label.publisher, label.number);
        if flight.channel.load(Ordering::Relaxed) != label.channel {
            return Err(format!(
                "publish {} to {name} came after it had reached everyone",
                label.number
            ));
        }
        let sent_at_ns = flight.sent_at_ns.load(Ordering::Relaxed);
        let took_ns = self.now_ns.saturating_sub(sent_at_ns);
        self.latencies.record_ns(took_ns);
        if self.board.land(flight, label.channel, self.now_ns) {
            self.lasts.record_ns(took_ns);
        }
        Ok(())
    }

    /// What a connection itself has published came back.
    fn came_back(&mut self, state: &mut ChannelsState, label: Label) -> Result<(), String> {
        if state.said_ns == 0 || label.number != self.rounds_seen {
            return Err(format!(
                "what a subscriber published in round {} came back twice, or to another one",
                label.number
            ));
        }
        let took_ns = self.now_ns.saturating_sub(state.said_ns);
        self.latencies.record_ns(took_ns);
        state.said_ns = 0;
        self.saying -= 1;
        Ok(())
    }

    /// The subscription of a connection in a group, with the channel's number.
    fn own(&self, state: &mut ChannelsState) -> Option<(u32, u32)> {
        let start = self.plan.start(self.round_group);
        let end = start + self.plan.groups[self.round_group].channels;
        let own = state.subscriptions.iter();
        own.map(|own| (own.channel, own.next_sequence.unwrap_or(0)))
            .find(|(channel, _)| (start..end).contains(channel))
    }

    fn say(&mut self, state: &mut ChannelsState, out: &mut Outgoing<'_>) {
        let may = !state.closed && state.unanswered == 0 && state.said_round != self.rounds_seen;
        let Some((channel, sequence)) = self.own(state).filter(|_| may) else {
            self.saying -= 1;
            return;
        };
        state.said_round = self.rounds_seen;
        let label = Label {
            publisher: OWN,
            number: self.rounds_seen,
            sequence,
            channel,
        };
        state.said_ns = self.now_ns.max(1);
        out.frame(Opcode::Text, &self.written(label));
    }

    /// The publish with this label.
    fn written(&self, label: Label) -> Vec<u8> {
        let mut message = format!(
            r#"{{"type":"publish","channel":"{}","data":"{}"#,
            self.plan.name(label.channel),
            label.write()
        )
        .into_bytes();
        message.extend_from_slice(&self.filler);
        message.extend_from_slice(b"\"}");
        message
    }

    /// The subscription that an answer or a message is for, and the channel's name.
    fn subscription<'a, 'b>(
        &self,
        state: &'a mut ChannelsState,
        incoming: &'b Incoming<'_>,
    ) -> Result<(&'a mut Subscription, &'b str), String> {
        let name = incoming.channel.as_deref().unwrap_or_default();
        let channel = self.plan.find(name);
        state
            .subscriptions
            .iter_mut()
            .find(|subscription| Some(subscription.channel) == channel)
            .map(|subscription| (subscription, name))
            .ok_or_else(|| {
                format!(
                    "a {:?} for channel {name:?}, to which this connection does not subscribe",
                    incoming.kind
                )
            })
    }

    /// Takes what has reached everyone off the list.
    fn settle(&mut self) {
        for (key, publisher) in self.publishing.iter_mut().enumerate() {
            while let Some(&channel) = publisher.on_the_way.front() {
                let oldest = publisher.next - publisher.on_the_way.len() as u32;
                let flight = self.board.flight(key as u32, oldest);
                if flight.delivered.load(Ordering::Acquire) < self.board.subscribers(channel) {
                    break;
                }
                publisher.on_the_way.pop_front();
                self.counts.publishes += 1;
            }
        }
    }

    /// Queues what the traffic of the plan has due.
    fn pace(&mut self, running: bool) {
        if !running {
            self.began_ns = None;
            return;
        }
        let Some(traffic) = self.plan.traffic else {
            return;
        };
        if self.began_ns.is_none() {
            self.began_ns = Some(self.now_ns);
            for publisher in &mut self.publishing {
                publisher.begun = 0;
            }
        }
        let elapsed_ns = self.now_ns - self.began_ns.unwrap_or(self.now_ns);
        let due_by_now = traffic.rate.map(|rate| {
            let due = u128::from(elapsed_ns) * u128::from(rate) / 1_000_000_000;
            u32::try_from(due).unwrap_or(u32::MAX)
        });
        let start = self.plan.start(traffic.group);
        let channels = self.plan.groups[traffic.group].channels;
        for (key, publisher) in self.publishing.iter_mut().enumerate() {
            if !publisher.open {
                continue;
            }
            let taken = publisher.on_the_way.len() as u32 + publisher.waiting;
            let free = traffic.outstanding.saturating_sub(taken);
            let paced = due_by_now.map_or(free, |due| due.saturating_sub(publisher.begun));
            let more = free.min(paced);
            publisher.waiting += more;
            let key = key as u32;
            for _ in 0..more {
                publisher.begun += 1;
                let channel = publisher.draw(start, channels, key, self.plan.publishers);
                // At a rate it counts from when it had to leave, also where it leaves later.
                let due_ns = traffic.rate.map_or(self.now_ns, |rate| {
                    let after = u128::from(publisher.begun) * 1_000_000_000 / u128::from(rate);
                    self.now_ns - elapsed_ns + after as u64
                });
                self.due.push_back(Due::Publish {
                    publisher: key,
                    channel,
                    due_ns,
                });
            }
        }
    }

    /// Queues one publish to each channel of `group` that belongs to this worker's publishers.
    fn burst(&mut self, group: usize) {
        let start = self.plan.start(group);
        for channel in start..start + self.plan.groups[group].channels {
            let publisher = channel % self.plan.publishers;
            if let Some(publishing) = self.publishing.get_mut(publisher as usize) {
                publishing.waiting += 1;
                let due_ns = self.now_ns;
                self.due.push_back(Due::Publish {
                    publisher,
                    channel,
                    due_ns,
                });
            }
        }
    }

    fn publish(&mut self, publisher: u32, channel: u32, due_ns: u64, out: &mut Outgoing<'_>) {
        let Some(publishing) = self.publishing.get_mut(publisher as usize) else {
            return;
        };
        let sequence = &mut publishing.sequences[(channel / self.plan.publishers) as usize];
        let label = Label {
            publisher,
            number: publishing.next,
            sequence: *sequence,
            channel,
        };
        *sequence += 1;
        publishing.next += 1;
        publishing.waiting -= 1;
        publishing.on_the_way.push_back(channel);
        self.board
            .take_off(publisher, label.number, channel, due_ns);
        out.frame(Opcode::Text, &self.written(label));
    }
}

impl Publisher {
    /// A channel among `channels` from `start` on, of those that belong to publisher `key`.
    fn draw(&mut self, start: u32, channels: u32, key: u32, publishers: u32) -> u32 {
        // Marsaglia's xorshift in 64 bits.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let first = start + (key + publishers - start % publishers) % publishers;
        let own = (start + channels - first).div_ceil(publishers);
        first + (self.random % u64::from(own)) as u32 * publishers
    }
}

impl Scenario for Channels {
    type State = ChannelsState;

    fn opened(&mut self, key: u32, state: &mut ChannelsState, _: &mut Outgoing<'_>) -> bool {
        if let Some(publisher) = self.publishing.get_mut(key as usize) {
            publisher.open = true;
            return true;
        }
        self.keys = self.keys.max(key + 1);
        let number = self.first_number + key - self.publishing.len() as u32;
        let subscription = |channel| Subscription {
            channel,
            next_sequence: None,
            next_offset: 0,
        };
        state.subscriptions = self.plan.subscriptions(number).map(subscription).collect();
        state.unanswered = state.subscriptions.len() as u32;
        self.to_subscribe.push_back(key);
        false
    }

    fn message(
        &mut self,
        _: u32,
        state: &mut ChannelsState,
        kind: Kind,
        payload: &[u8],
        _: &mut Outgoing<'_>,
    ) -> Result<bool, String> {
        let unexpected = || {
            let start = &payload[..payload.len().min(160)];
            format!("unexpected message: {}", String::from_utf8_lossy(start))
        };
        if kind != Kind::Text {
            return Err("a binary message on a text protocol".to_owned());
        }
        let incoming: Incoming<'_> = serde_json::from_slice(payload).map_err(|_| unexpected())?;
        match &*incoming.kind {
            "message" => self.deliver(state, &incoming).map(|()| false),
            "subscribed" => self.subscribed(state, &incoming),
            _ => Err(unexpected()),
        }
    }

    fn closed(&mut self, key: u32, state: &mut ChannelsState) {
        state.closed = true;
        if let Some(publisher) = self.publishing.get_mut(key as usize) {
            publisher.open = false;
        }
        if state.asked && state.unanswered > 0 {
            self.subscribing -= 1;
        }
        if state.said_ns > 0 {
            self.saying -= 1;
        }
    }

    fn clock(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
    }

    fn turn(&mut self, running: bool) {
        self.settle();
        if let Some(group) = self.board.burst_after(&mut self.bursts_seen) {
            self.burst(group);
        }
        if let Some(group) = self.board.round_after(&mut self.rounds_seen) {
            self.round_group = group;
            self.to_say.extend(self.publishing.len() as u32..self.keys);
        }
        while self.saying < OWN_MAX
            && let Some(key) = self.to_say.pop_front()
        {
            self.saying += 1;
            self.due.push_back(Due::Say(key));
        }
        self.pace(running);
        while self.subscribing < self.subscribing_max
            && self.board.subscribe.load(Ordering::Acquire)
            && let Some(key) = self.to_subscribe.pop_front()
        {
            self.subscribing += 1;
            self.due.push_back(Due::Subscribe(key));
        }
    }

    fn next_due(&mut self) -> Option<u32> {
        self.announced = self.due.pop_front();
        self.announced.map(|due| match due {
            Due::Subscribe(key) | Due::Say(key) => key,
            Due::Publish { publisher, .. } => publisher,
        })
    }

    fn send(&mut self, _: u32, state: &mut ChannelsState, out: &mut Outgoing<'_>) {
        match self.announced.take() {
            // Another one may ask in its place.
            Some(Due::Subscribe(_)) if state.closed => self.subscribing -= 1,
            Some(Due::Subscribe(_)) => {
                state.asked = true;
                for subscription in &state.subscriptions {
                    let name = self.plan.name(subscription.channel);
                    let subscribe = format!(r#"{{"type":"subscribe","channel":"{name}"}}"#);
                    out.frame(Opcode::Text, subscribe.as_bytes());
                }
            }
            Some(Due::Say(_)) => self.say(state, out),
            Some(Due::Publish {
                publisher,
                channel,
                due_ns,
            }) => self.publish(publisher, channel, due_ns, out),
            None => {}
        }
    }

    fn counts(&self) -> ScenarioCounts {
        self.counts
    }

    fn is_quiet(&self) -> bool {
        self.due.is_empty()
            && self.saying == 0
            && self
                .publishing
                .iter()
                .all(|publisher| publisher.on_the_way.is_empty())
    }

    fn take_latencies(&mut self) -> (Latencies, Latencies) {
        let each = std::mem::take(&mut self.latencies);
        (each, std::mem::take(&mut self.lasts))
    }
}
