//! The channels that somebody on this shard hears: who, and what this turn brought for them.
//!
//! A channel is **asked for** from its first subscriber on (an interest is on its way to the home
//! shard), and **live** when the home has answered with its position. Only then do subscribers
//! count as subscribed; whatever arrives earlier belongs to an interest that has ended.

use super::home::{ChannelRef, Interest};
use super::names::home_of;
use super::room::Room as _;
use super::rules::{ChannelRules, RuleNumber};
use super::subscribers::{ByShape, Subscribers};
use super::turn::Turn;
use super::wildcards::is_wildcard;
use super::{Names, Position, Shape};
use bytes::Bytes;
use smallvec::SmallVec;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// Emptied turns that are kept for the next ones.
const SPARE_TURNS: usize = 64;

/// A subscriber that waits for the home shard's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The connection's key in this shard's slab.
    pub key: u32,
    /// What it gets of the channel's messages.
    pub shape: Shape,
    /// What the handler wants back with the confirmation (a request's id).
    pub tag: Bytes,
    /// With this it has become a subscriber.
    pub joined: bool,
}

/// A connection that becomes a subscriber with the home's answer to its question: what it missed, or what
/// the last message was.
struct Asking {
    question: u32,
    shape: Shape,
    /// Of what it has asked for, first with the question.
    tags: SmallVec<[Bytes; 1]>,
}

/// Who is about to subscribe.
#[derive(Default)]
struct Pending {
    /// Until the channel is live.
    waiting: Vec<Waiting>,
    /// By key.
    asking: HashMap<u32, Asking>,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.asking.is_empty()
    }
}

/// One channel as this shard sees it.
pub struct Channel {
    /// While it is live.
    position: Position,
    subscribers: ByShape,
    pending: Option<Box<Pending>>,
    turn: Option<Box<Turn>>,
    serial: u32,
    /// Its number at its home, while it is live. Of a wildcard: how many homes have answered.
    home_number: u32,
    home: u16,
    rule: RuleNumber,
    live: bool,
    /// Every shard is home to channels that it matches.
    wildcard: bool,
}

const _: () = assert!(size_of::<Channel>() <= 72, "there may be a million");

impl Channel {
    /// Who hears it.
    #[must_use]
    pub fn subscribers(&self) -> &ByShape {
        &self.subscribers
    }

    /// The rule that it follows.
    #[must_use]
    pub fn rule(&self) -> RuleNumber {
        self.rule
    }

    /// Whether it stands for all channels whose names it matches.
    #[must_use]
    pub fn is_wildcard(&self) -> bool {
        self.wildcard
    }

    /// What this turn has brought so far, and who gets it.
    pub fn turn(&mut self) -> (&mut Turn, &ByShape) {
        (self.turn.get_or_insert_default(), &self.subscribers)
    }

    fn pending(&mut self) -> &mut Pending {
        self.pending.get_or_insert_default()
    }

    fn release_pending(&mut self) {
        if self.pending.as_ref().is_some_and(|one| one.is_empty()) {
            self.pending = None;
        }
    }
}

/// The shard's last subscriber of a channel left: tell the home.
#[derive(Debug, PartialEq, Eq)]
pub struct GivenUp {
    /// The home shard; `None`: all shards, because it was a wildcard.
    pub home: Option<u16>,
    /// The channel's name.
    pub name: Box<str>,
    /// The interest that ends.
    pub serial: u32,
}

/// The local side of one shard's channels.
pub struct Local {
    shard: u16,
    shards: usize,
    seed: u64,
    rules: ChannelRules,
    /// Of those of the rules that gather at all.
    shortest_batch_ms: u32,
    gathers: bool,
    channels: Names<Channel>,
    wildcards: usize,
    next_serial: u32,
    touched: Vec<u32>,
    /// Channels whose messages are gathered for a while: until when, number, interest.
    windows: BinaryHeap<Reverse<(u64, u32, u32)>>,
    #[expect(clippy::vec_box, reason = "channels hold them in boxes")]
    spare: Vec<Box<Turn>>,
}

impl Local {
    /// `seed` is the same on all shards of the process.
    #[must_use]
    pub fn new(shard: u16, shards: usize, seed: u64, rules: ChannelRules) -> Self {
        Self {
            shard,
            shards,
            seed,
            shortest_batch_ms: rules
                .iter()
                .map(|rule| rule.delivery.batch_ms)
                .filter(|batch_ms| *batch_ms > 0)
                .min()
                .unwrap_or(u32::MAX),
            gathers: true,
            rules,
            channels: Names::new(seed),
            wildcards: 0,
            next_serial: 0,
            touched: Vec::new(),
            windows: BinaryHeap::new(),
            spare: Vec::new(),
        }
    }

    /// Lets go of room that no channel needs any more.
    pub(crate) fn give_back(&mut self) {
        self.channels.give_back();
        self.touched.give_back();
        self.windows.give_back();
        self.spare = Vec::new();
    }

    /// Channels with subscribers here.
    #[must_use]
    pub fn len(&self) -> usize {
        self.channels.len()
    }

    /// Whether nobody here hears any channel.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.channels.is_empty()
    }

    /// Those of them that are wildcards.
    #[must_use]
    pub fn wildcards(&self) -> usize {
        self.wildcards
    }

    /// The number of a channel that has subscribers here.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<u32> {
        self.channels.find(name)
    }

    /// The name of a channel.
    #[must_use]
    pub fn name(&self, number: u32) -> Option<&str> {
        self.channels.name(number)
    }

    /// A channel.
    #[must_use]
    pub fn channel(&self, number: u32) -> Option<&Channel> {
        self.channels.get(number)
    }

    /// Where to publish to a channel, and how the home knows it best.
    #[must_use]
    pub fn route(&self, name: &str) -> (u16, ChannelRef) {
        if let Some(channel) = self
            .channels
            .find(name)
            .and_then(|key| self.channels.get(key))
            .filter(|channel| !channel.wildcard)
        {
            match channel.live {
                true => (channel.home, ChannelRef::Number(channel.home_number)),
                false => (channel.home, ChannelRef::Name(name.into())),
            }
        } else {
            (self.home_of(name), ChannelRef::Name(name.into()))
        }
    }

    /// The shard that a channel is at home on.
    #[must_use]
    pub fn home_of(&self, name: &str) -> u16 {
        home_of(name, self.seed, self.shards) as u16
    }

    /// How many subscriptions of a connection to a channel wait for the home's answer.
    #[must_use]
    pub fn waits(&self, number: u32, key: u32) -> usize {
        let channel = self.channels.get(number);
        let Some(pending) = channel.and_then(|channel| channel.pending.as_ref()) else {
            return 0;
        };
        let own = |waiting: &&Waiting| waiting.key == key;
        let asking = pending
            .asking
            .get(&key)
            .map_or(0, |asking| asking.tags.len());
        asking + pending.waiting.iter().filter(own).count()
    }

    /// The number of a channel that somebody is about to subscribe to, and, when nobody here is
    /// subscribed to it yet, what to tell its home shard: all shards, for a wildcard.
    pub fn enter(&mut self, name: &str) -> (u32, Option<(Option<u16>, Interest)>) {
        if let Some(number) = self.channels.find(name) {
            return (number, None);
        }
        let home = self.home_of(name);
        let wildcard = is_wildcard(name);
        self.wildcards += usize::from(wildcard);
        let serial = self.next_serial;
        self.next_serial = self.next_serial.wrapping_add(1);
        let channel = Channel {
            position: Position {
                offset: 0,
                epoch: 0,
            },
            subscribers: ByShape::default(),
            pending: None,
            turn: None,
            serial,
            home_number: 0,
            home,
            rule: self.rules.find(name),
            live: false,
            wildcard,
        };
        let number = self.channels.insert(name, channel);
        let interest = Interest {
            shard: self.shard,
            channel: number,
            serial,
        };
        (number, Some(((!wildcard).then_some(home), interest)))
    }

    /// Adds a subscriber that is not subscribed yet. The caller has delivered the channel's pending
    /// frames before. Returns what it hears everything after, or `None` when that is known only with the
    /// home's answer.
    pub fn join(&mut self, number: u32, key: u32, shape: Shape, tag: Bytes) -> Option<Position> {
        let position = self.position_for(number, key, shape, tag)?;
        let channel = self.channels.get_mut(number)?;
        debug_assert!(
            channel.turn.is_none(),
            "pending frames go to earlier subscribers"
        );
        channel.subscribers.insert(key, shape);
        Some(position)
    }

    /// Adds a subscriber that is not subscribed yet and has a question to the home shard, with whose
    /// answer its subscription begins. Returns where to ask, how the home knows the channel best, on
    /// behalf of which interest, and the number of the question.
    pub fn ask(
        &mut self,
        number: u32,
        key: u32,
        shape: Shape,
        tag: Bytes,
    ) -> Option<(u16, ChannelRef, Interest, u32)> {
        let (name, channel) = self.channels.entry_mut(number)?;
        let question = self.next_serial;
        self.next_serial = self.next_serial.wrapping_add(1);
        let asking = Asking {
            question,
            shape,
            tags: SmallVec::from_buf([tag]),
        };
        channel.pending().asking.insert(key, asking);
        let interest = Interest {
            shard: self.shard,
            channel: number,
            serial: channel.serial,
        };
        let known = match channel.live {
            true => ChannelRef::Number(channel.home_number),
            false => ChannelRef::Name(name.into()),
        };
        Some((channel.home, known, interest, question))
    }

    /// Asks again on behalf of a connection that is subscribed already, possibly for another shape: its
    /// position, or `None` while the home's answer is awaited (the new tag is confirmed with the first one
    /// then).
    pub fn position_for(
        &mut self,
        number: u32,
        key: u32,
        shape: Shape,
        tag: Bytes,
    ) -> Option<Position> {
        let channel = self.channels.get_mut(number)?;
        let pending = channel.pending.as_mut();
        if let Some(asking) = pending.and_then(|pending| pending.asking.get_mut(&key)) {
            asking.shape = shape;
            asking.tags.push(tag);
            return None;
        }
        if channel.live {
            if channel
                .subscribers
                .shape_of(key)
                .is_some_and(|had| had != shape)
            {
                channel.subscribers.insert(key, shape);
            }
            return Some(channel.position);
        }
        channel.pending().waiting.push(Waiting {
            key,
            shape,
            tag,
            joined: false,
        });
        None
    }

    /// Gives up what a connection asked for and has not got yet: the tags of its subscriptions that
    /// wait for the home's answer.
    pub fn abandon(&mut self, number: u32, key: u32) -> Vec<Bytes> {
        let Some(channel) = self.channels.get_mut(number) else {
            return Vec::new();
        };
        let Some(pending) = &mut channel.pending else {
            return Vec::new();
        };
        let asking = pending.asking.remove(&key);
        let asking = asking.into_iter().flat_map(|asking| asking.tags);
        let waiting = pending.waiting.extract_if(.., |waiting| waiting.key == key);
        let tags = asking.chain(waiting.map(|waiting| waiting.tag)).collect();
        channel.release_pending();
        tags
    }

    /// Removes a subscriber, confirmed or not. `Some` when it was the last one here.
    pub fn unsubscribe(&mut self, number: u32, key: u32) -> Option<GivenUp> {
        let channel = self.channels.get_mut(number)?;
        channel.subscribers.remove(key);
        if let Some(pending) = &mut channel.pending {
            pending.waiting.retain(|waiting| waiting.key != key);
            pending.asking.remove(&key);
            channel.release_pending();
        }
        if !channel.subscribers.is_empty() || channel.pending.is_some() {
            return None;
        }
        let name = self.channels.name(number)?.into();
        let channel = self.channels.remove(number)?;
        if let Some(turn) = channel.turn {
            self.put_turn(turn);
        }
        self.wildcards -= usize::from(channel.wildcard);
        Some(GivenUp {
            home: (!channel.wildcard).then_some(channel.home),
            name,
            serial: channel.serial,
        })
    }

    /// The home's answer to an interest. Returns whom to confirm; they are subscribers now. Empty
    /// when the interest has ended meanwhile. Who has a question waits on.
    pub fn live(
        &mut self,
        number: u32,
        serial: u32,
        home_number: u32,
        position: Position,
    ) -> Vec<Waiting> {
        let Some(channel) = self.of_interest(number, serial) else {
            return Vec::new();
        };
        channel.live = true;
        channel.home_number = home_number;
        channel.position = position;
        let Some(pending) = &mut channel.pending else {
            return Vec::new();
        };
        let mut confirmed = std::mem::take(&mut pending.waiting);
        for subscriber in &mut confirmed {
            let Waiting { key, shape, .. } = *subscriber;
            subscriber.joined = channel.subscribers.insert(key, shape);
        }
        channel.release_pending();
        confirmed
    }

    /// One shard's answer to an interest in a wildcard; as [`Self::live`] once all have answered.
    pub fn wildcard_live(&mut self, number: u32, serial: u32) -> Vec<Waiting> {
        let shards = self.shards as u32;
        let Some(channel) = self.of_interest(number, serial) else {
            return Vec::new();
        };
        channel.home_number += 1;
        let (answers, position) = (channel.home_number, channel.position);
        if answers < shards {
            return Vec::new();
        }
        self.live(number, serial, answers, position)
    }

    /// A home does not let a connection subscribe. Returns the tags of what it asked for; empty when it gave
    /// up.
    pub fn denied(&mut self, number: u32, serial: u32, question: u32, key: u32) -> Vec<Bytes> {
        let Some(channel) = self.channels.get_mut(number) else {
            return Vec::new();
        };
        let pending = channel.pending.as_mut();
        let asks = pending.and_then(|pending| pending.asking.get(&key));
        let asks = asks.is_some_and(|asking| asking.question == question);
        if channel.serial != serial || !asks {
            return Vec::new();
        }
        self.abandon(number, key)
    }

    /// The home's answer to a question of a connection. Returns what to confirm to it: its question, and
    /// then what else it asked for meanwhile; it is a subscriber now, after everything that the channel has
    /// brought so far, which the caller has delivered. Empty when it gave up.
    pub fn answered(&mut self, number: u32, serial: u32, question: u32, key: u32) -> Vec<Waiting> {
        let Some(channel) = self.of_interest(number, serial) else {
            return Vec::new();
        };
        let Some(pending) = &mut channel.pending else {
            return Vec::new();
        };
        let asks = pending.asking.get(&key);
        if asks.is_none_or(|asking| asking.question != question) {
            return Vec::new();
        }
        let Some(Asking { shape, tags, .. }) = pending.asking.remove(&key) else {
            return Vec::new();
        };
        channel.release_pending();
        debug_assert!(channel.live, "the home has answered the interest before");
        debug_assert!(
            channel.turn.is_none(),
            "pending frames go to earlier subscribers"
        );
        let mut joined = channel.subscribers.insert(key, shape);
        let waiting = tags.into_iter().map(|tag| Waiting {
            key,
            shape,
            tag,
            joined: std::mem::take(&mut joined),
        });
        waiting.collect()
    }

    /// Whom to tell that somebody has become a subscriber of a channel, or is one no longer: its home,
    /// and the channel's number there. `None` when nobody wants to know.
    #[must_use]
    pub fn presence(&self, number: u32) -> Option<(u16, u32)> {
        let channel = self.at_home(number)?;
        let presence = self.rules.get(channel.rule).presence;
        presence
            .enabled
            .then_some((channel.home, channel.home_number))
    }

    /// Whom to tell that a subscriber of a channel has gone, because the channel's rule limits their number.
    #[must_use]
    pub fn admission(&self, number: u32) -> Option<(u16, u32)> {
        let channel = self.at_home(number)?;
        let limit = self.rules.get(channel.rule).subscribers;
        limit.map(|_| (channel.home, channel.home_number))
    }

    /// The channel of an interest that has not ended.
    fn of_interest(&mut self, number: u32, serial: u32) -> Option<&mut Channel> {
        let channel = self.channels.get_mut(number)?;
        (channel.serial == serial).then_some(channel)
    }

    /// A live channel that is no wildcard.
    fn at_home(&self, number: u32) -> Option<&Channel> {
        let channel = self.channels.get(number)?;
        (channel.live && !channel.wildcard).then_some(channel)
    }

    /// Whether a connection is a subscriber of a channel, not only about to be one.
    #[must_use]
    pub fn is_subscriber(&self, number: u32, key: u32) -> bool {
        self.channels
            .get(number)
            .is_some_and(|channel| channel.subscribers.shape_of(key).is_some())
    }

    /// The channels whose homes want to know who their subscribers are: home, number there, subscribers.
    #[cfg(test)]
    pub(crate) fn with_presence(&self) -> impl Iterator<Item = (u16, u32, &ByShape)> {
        let told = |channel: &&Channel| {
            let presence = self.rules.get(channel.rule).presence;
            channel.live && !channel.wildcard && presence.enabled
        };
        let channels = self.channels.values().filter(told);
        channels.map(|channel| (channel.home, channel.home_number, &channel.subscribers))
    }

    /// The same for channels whose homes limit the number of subscribers.
    #[cfg(test)]
    pub(crate) fn with_admission(&self) -> impl Iterator<Item = (u16, u32, &ByShape)> {
        let limited = |channel: &&Channel| {
            let limit = self.rules.get(channel.rule).subscribers;
            channel.live && !channel.wildcard && limit.is_some()
        };
        let channels = self.channels.values().filter(limited);
        channels.map(|channel| (channel.home, channel.home_number, &channel.subscribers))
    }

    /// A message from the home: notes the channel's new position and returns the channel with its name,
    /// for the message's frames to be added to its turn. `None` when nobody here hears it any more.
    pub fn receive(
        &mut self,
        number: u32,
        serial: u32,
        offset: u64,
        now_ms: u64,
    ) -> Option<(&str, &mut Channel)> {
        let (_, channel) = self.touch(number, serial, now_ms)?;
        if !channel.wildcard {
            debug_assert_eq!(
                channel.position.offset + 1,
                offset,
                "the home's messages come in order, without gaps"
            );
            channel.position.offset = offset;
        }
        let (turn, _) = channel.turn();
        turn.messages += 1;
        turn.offset = offset;
        self.channels.entry_mut(number)
    }

    /// Something from the home besides a message: as [`Self::receive`], without an offset. Sees to it that
    /// the channel's turn will be delivered.
    pub fn touch(&mut self, number: u32, serial: u32, now_ms: u64) -> Option<(&str, &mut Channel)> {
        let (name, channel) = self.channels.entry_mut(number)?;
        if channel.serial != serial || !channel.live {
            return None;
        }
        if channel.turn.is_none() {
            let mut turn = self.spare.pop().unwrap_or_default();
            let delivery = self.rules.get(channel.rule).delivery;
            let batch_ms = if self.gathers { delivery.batch_ms } else { 0 };
            turn.due_ms = now_ms + u64::from(batch_ms);
            turn.offset = channel.position.offset;
            match batch_ms {
                0 => self.touched.push(number),
                _ => self.windows.push(Reverse((turn.due_ms, number, serial))),
            }
            channel.turn = Some(turn);
        }
        let (turn, _) = channel.turn();
        turn.items += 1;
        Some((name, channel))
    }

    /// Bytes that a channel has to deliver to one subscriber.
    #[must_use]
    pub fn pending_bytes(&self, number: u32) -> usize {
        let channel = self.channels.get(number);
        let turn = channel.and_then(|channel| channel.turn.as_ref());
        turn.map_or(0, |turn| turn.bytes())
    }

    /// Whether some of them are to become a batch.
    #[must_use]
    pub fn has_entries(&self, number: u32) -> bool {
        let channel = self.channels.get(number);
        let turn = channel.and_then(|channel| channel.turn.as_ref());
        turn.is_some_and(|turn| turn.has_entries())
    }

    /// The channels with something to deliver now; each is listed once.
    pub fn take_touched(&mut self, into: &mut Vec<u32>, now_ms: u64) {
        into.clear();
        std::mem::swap(into, &mut self.touched);
        while let Some(&Reverse((due_ms, number, serial))) = self.windows.peek()
            && due_ms <= now_ms
        {
            self.windows.pop();
            // It may have been delivered early, and gather again, for a time of its own.
            let gathers = self.channels.get(number).is_some_and(|channel| {
                let turn = channel.turn.as_ref();
                channel.serial == serial && turn.is_some_and(|turn| turn.due_ms == due_ms)
            });
            if gathers {
                into.push(number);
            }
        }
    }

    /// In how many milliseconds to look again for gathered messages that are due. `None`: nothing gathers.
    #[must_use]
    pub fn due_in_ms(&self, now_ms: u64) -> Option<u32> {
        let Reverse((due_ms, _, _)) = self.windows.peek()?;
        // Never longer than the shortest time that a rule gathers for: what begins to gather meanwhile is
        // due later than that.
        let in_ms = due_ms.saturating_sub(now_ms);
        Some(in_ms.min(self.shortest_batch_ms.into()) as u32)
    }

    /// Ends all gathering: what has gathered is delivered with this turn, and what comes at once.
    pub fn stop_gathering(&mut self) {
        self.gathers = false;
        for Reverse((_, number, _)) in self.windows.drain() {
            self.touched.push(number);
        }
    }

    /// Takes what waits for a channel's subscribers.
    pub fn take_turn(&mut self, number: u32) -> Option<Box<Turn>> {
        self.channels.get_mut(number)?.turn.take()
    }

    /// Takes a turn back that has been delivered.
    pub fn put_turn(&mut self, mut turn: Box<Turn>) {
        if self.spare.len() < SPARE_TURNS {
            turn.clear();
            self.spare.push(turn);
        }
    }

    /// Those who get a channel's messages in one shape.
    #[must_use]
    pub fn subscribers(&self, number: u32, shape: Shape) -> Option<&Subscribers> {
        self.channels.get(number)?.subscribers.of(shape)
    }
}

#[cfg(test)]
mod tests;
