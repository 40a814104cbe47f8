//! The channels that somebody on this shard hears: who, and what this turn brought for them.
//!
//! A channel is **asked for** from its first subscriber on (an interest is on its way to the home
//! shard), and **live** when the home has answered with its position. Only then do subscribers
//! count as subscribed; whatever arrives earlier belongs to an interest that has ended.

use super::home::{ChannelRef, Interest};
use super::names::home_of;
use super::subscribers::Subscribers;
use super::{Names, Position};
use bytes::Bytes;
use smallvec::SmallVec;
use std::collections::HashMap;

/// A subscriber that waits for the home shard's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The connection's key in this shard's slab.
    pub key: u32,
    /// What the handler wants back with the confirmation (a request's id).
    pub tag: Bytes,
    /// With this it has become a subscriber.
    pub joined: bool,
}

/// A connection that becomes a subscriber with the home's answer to its question: what it missed, or what
/// the last message was.
struct Asking {
    question: u32,
    /// Of what it has asked for, first with the question.
    tags: SmallVec<[Bytes; 1]>,
}

/// A part of a turn's frames that one connection does not get: what it published itself with
/// `"echo":false`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Excluded {
    /// The connection's key.
    pub key: u32,
    /// Where the frame starts in the turn's bytes.
    pub start: u32,
    /// Where it ends.
    pub end: u32,
}

/// One channel as this shard sees it.
#[derive(Default)]
pub struct Channel {
    home: u16,
    serial: u32,
    live: Option<(u32, Position)>,
    /// Whether the home wants to know who the subscribers are.
    presence: bool,
    subscribers: Subscribers,
    /// Until the channel is live.
    waiting: Vec<Waiting>,
    /// By key.
    asking: HashMap<u32, Asking>,
    /// What this turn brought.
    pub turn: Turn,
}

/// What a turn brought for a channel.
#[derive(Default)]
pub struct Turn {
    /// Its messages as frames, back to back.
    pub frames: Vec<u8>,
    /// How many they are.
    pub messages: u32,
    /// What single connections don't get of them.
    pub excluded: SmallVec<[Excluded; 1]>,
}

impl Channel {
    /// Who hears it.
    #[must_use]
    pub fn subscribers(&self) -> &Subscribers {
        &self.subscribers
    }
}

/// The shard's last subscriber of a channel left: tell the home.
#[derive(Debug, PartialEq, Eq)]
pub struct GivenUp {
    /// The home shard.
    pub home: u16,
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
    channels: Names<Channel>,
    next_serial: u32,
    touched: Vec<u32>,
}

impl Local {
    /// `seed` is the same on all shards of the process.
    #[must_use]
    pub fn new(shard: u16, shards: usize, seed: u64) -> Self {
        Self {
            shard,
            shards,
            seed,
            channels: Names::new(seed),
            next_serial: 0,
            touched: Vec::new(),
        }
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

    /// The number of a channel that has subscribers here.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<u32> {
        self.channels.find(name)
    }

    /// Name and state of a channel.
    pub fn channel_mut(&mut self, channel: u32) -> Option<(&str, &mut Channel)> {
        self.channels.entry_mut(channel)
    }

    /// Where to publish to a channel, and how the home knows it best.
    #[must_use]
    pub fn route(&self, name: &str) -> (u16, ChannelRef) {
        if let Some(channel) = self
            .channels
            .find(name)
            .and_then(|key| self.channels.get(key))
        {
            match channel.live {
                Some((number, _)) => (channel.home, ChannelRef::Number(number)),
                None => (channel.home, ChannelRef::Name(name.into())),
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
        let Some(channel) = self.channels.get(number) else {
            return 0;
        };
        let own = |waiting: &&Waiting| waiting.key == key;
        let asking = channel
            .asking
            .get(&key)
            .map_or(0, |asking| asking.tags.len());
        asking + channel.waiting.iter().filter(own).count()
    }

    /// The number of a channel that somebody is about to subscribe to, and, when nobody here is
    /// subscribed to it yet, what to tell its home shard. `presence`: whether the home wants to know who
    /// subscribes to this channel.
    pub fn enter(&mut self, name: &str, presence: bool) -> (u32, Option<(u16, Interest)>) {
        if let Some(number) = self.channels.find(name) {
            return (number, None);
        }
        let home = self.home_of(name);
        let serial = self.next_serial;
        self.next_serial = self.next_serial.wrapping_add(1);
        let channel = Channel {
            home,
            serial,
            presence,
            ..Channel::default()
        };
        let number = self.channels.insert(name, channel);
        let interest = Interest {
            shard: self.shard,
            channel: number,
            serial,
        };
        (number, Some((home, interest)))
    }

    /// Adds a subscriber that is not subscribed yet. The caller has delivered the channel's pending
    /// frames before. Returns what it hears everything after, or `None` when that is known only with the
    /// home's answer.
    pub fn join(&mut self, number: u32, key: u32, tag: Bytes) -> Option<Position> {
        let position = self.position_for(number, key, tag)?;
        let channel = self.channels.get_mut(number)?;
        debug_assert!(
            channel.turn.frames.is_empty(),
            "pending frames go to earlier subscribers"
        );
        channel.subscribers.insert(key);
        Some(position)
    }

    /// Adds a subscriber that is not subscribed yet and has a question to the home shard, with whose
    /// answer its subscription begins. Returns where to ask, how the home knows the channel best, on
    /// behalf of which interest, and the number of the question.
    pub fn ask(
        &mut self,
        number: u32,
        key: u32,
        tag: Bytes,
    ) -> Option<(u16, ChannelRef, Interest, u32)> {
        let (name, channel) = self.channels.entry_mut(number)?;
        let question = self.next_serial;
        self.next_serial = self.next_serial.wrapping_add(1);
        let tags = SmallVec::from_buf([tag]);
        channel.asking.insert(key, Asking { question, tags });
        let interest = Interest {
            shard: self.shard,
            channel: number,
            serial: channel.serial,
        };
        let known = match channel.live {
            Some((home_number, _)) => ChannelRef::Number(home_number),
            None => ChannelRef::Name(name.into()),
        };
        Some((channel.home, known, interest, question))
    }

    /// Asks again on behalf of a connection that is subscribed already: its position, or `None`
    /// while the home's answer is awaited (the new tag is confirmed with the first one then).
    pub fn position_for(&mut self, number: u32, key: u32, tag: Bytes) -> Option<Position> {
        let channel = self.channels.get_mut(number)?;
        if let Some(asking) = channel.asking.get_mut(&key) {
            asking.tags.push(tag);
            return None;
        }
        let position = channel.live.map(|(_, position)| position);
        if position.is_none() {
            channel.waiting.push(Waiting {
                key,
                tag,
                joined: false,
            });
        }
        position
    }

    /// Gives up what a connection asked for and has not got yet: the tags of its subscriptions that
    /// wait for the home's answer.
    pub fn abandon(&mut self, number: u32, key: u32) -> Vec<Bytes> {
        let Some(channel) = self.channels.get_mut(number) else {
            return Vec::new();
        };
        let asking = channel.asking.remove(&key);
        let asking = asking.into_iter().flat_map(|asking| asking.tags);
        let waiting = channel.waiting.extract_if(.., |waiting| waiting.key == key);
        asking.chain(waiting.map(|waiting| waiting.tag)).collect()
    }

    /// Removes a subscriber, confirmed or not. `Some` when it was the last one here.
    pub fn unsubscribe(&mut self, number: u32, key: u32) -> Option<GivenUp> {
        let channel = self.channels.get_mut(number)?;
        channel.subscribers.remove(key);
        channel.waiting.retain(|waiting| waiting.key != key);
        channel.asking.remove(&key);
        let waited_for = !channel.waiting.is_empty() || !channel.asking.is_empty();
        if !channel.subscribers.is_empty() || waited_for {
            return None;
        }
        let name = self.channels.name(number)?.into();
        let channel = self.channels.remove(number)?;
        Some(GivenUp {
            home: channel.home,
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
        let Some(channel) = self
            .channels
            .get_mut(number)
            .filter(|channel| channel.serial == serial)
        else {
            return Vec::new();
        };
        channel.live = Some((home_number, position));
        let mut confirmed = std::mem::take(&mut channel.waiting);
        for subscriber in &mut confirmed {
            subscriber.joined = channel.subscribers.insert(subscriber.key);
        }
        confirmed
    }

    /// The home's answer to a question of a connection. Returns what to confirm to it: its question, and
    /// then what else it asked for meanwhile; it is a subscriber now, after everything that the channel has
    /// brought so far, which the caller has delivered. Empty when it gave up.
    pub fn answered(&mut self, number: u32, serial: u32, question: u32, key: u32) -> Vec<Waiting> {
        let Some(channel) = self
            .channels
            .get_mut(number)
            .filter(|channel| channel.serial == serial)
        else {
            return Vec::new();
        };
        let asks = channel.asking.get(&key);
        if asks.is_none_or(|asking| asking.question != question) {
            return Vec::new();
        }
        let Some(asking) = channel.asking.remove(&key) else {
            return Vec::new();
        };
        if channel.asking.is_empty() {
            channel.asking = HashMap::new();
        }
        debug_assert!(
            channel.live.is_some(),
            "the home has answered the interest before"
        );
        debug_assert!(
            channel.turn.frames.is_empty(),
            "pending frames go to earlier subscribers"
        );
        let mut joined = channel.subscribers.insert(key);
        let waiting = asking.tags.into_iter().map(|tag| Waiting {
            key,
            tag,
            joined: std::mem::take(&mut joined),
        });
        waiting.collect()
    }

    /// Whom to tell that somebody has become a subscriber of a channel, or is one no longer: its home,
    /// and the channel's number there. `None` when nobody wants to know.
    #[must_use]
    pub fn presence(&self, number: u32) -> Option<(u16, u32)> {
        let channel = self.channels.get(number)?;
        let (home_number, _) = channel.live?;
        channel.presence.then_some((channel.home, home_number))
    }

    /// Whether a connection is a subscriber of a channel, not only about to be one.
    #[must_use]
    pub fn is_subscriber(&self, number: u32, key: u32) -> bool {
        self.channels
            .get(number)
            .is_some_and(|channel| channel.subscribers.contains(key))
    }

    /// The channels whose homes want to know who their subscribers are: home, number there, subscribers.
    #[cfg(test)]
    pub(crate) fn with_presence(&self) -> impl Iterator<Item = (u16, u32, &Subscribers)> {
        self.channels.values().filter_map(|channel| {
            let (home_number, _) = channel.live.filter(|_| channel.presence)?;
            Some((channel.home, home_number, &channel.subscribers))
        })
    }

    /// A message from the home: notes the channel's new position, puts the channel on the list of
    /// this turn's channels and returns it with its name, for its frame to be appended. `None` when
    /// nobody here hears it any more.
    pub fn receive(
        &mut self,
        number: u32,
        serial: u32,
        offset: u64,
    ) -> Option<(&str, &mut Channel)> {
        let (name, channel) = self.channels.entry_mut(number)?;
        if channel.serial != serial {
            return None;
        }
        let (_, position) = channel.live.as_mut()?;
        debug_assert_eq!(
            position.offset + 1,
            offset,
            "the home's messages come in order, without gaps"
        );
        position.offset = offset;
        if channel.turn.frames.is_empty() {
            self.touched.push(number);
        }
        Some((name, channel))
    }

    /// Something from the home besides a message: as [`Self::receive`], without an offset.
    pub fn touch(&mut self, number: u32, serial: u32) -> Option<(&str, &mut Channel)> {
        let (name, channel) = self.channels.entry_mut(number)?;
        if channel.serial != serial || channel.live.is_none() {
            return None;
        }
        if channel.turn.frames.is_empty() {
            self.touched.push(number);
        }
        Some((name, channel))
    }

    /// Bytes of frames that a channel has to deliver.
    #[must_use]
    pub fn pending_bytes(&self, number: u32) -> usize {
        self.channels
            .get(number)
            .map_or(0, |channel| channel.turn.frames.len())
    }

    /// The channels with frames to deliver; the list is empty afterwards.
    pub fn take_touched(&mut self, into: &mut Vec<u32>) {
        into.clear();
        std::mem::swap(into, &mut self.touched);
    }

    /// Takes what waits for a channel's subscribers, its exclusions sorted.
    pub fn take_turn(&mut self, number: u32) -> Turn {
        match self.channels.get_mut(number) {
            Some(channel) => {
                let mut turn = std::mem::take(&mut channel.turn);
                turn.excluded.sort_unstable();
                turn
            }
            None => Turn::default(),
        }
    }

    /// Who hears a channel.
    #[must_use]
    pub fn subscribers(&self, number: u32) -> Option<&Subscribers> {
        self.channels.get(number).map(Channel::subscribers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the channel's home is told, if anything, and the subscriber's position, if it is known.
    type Subscribed = (Option<Interest>, Option<Position>);

    fn subscribe(local: &mut Local, key: u32) -> (u32, Subscribed) {
        let (number, ask) = local.enter("c", false);
        let position = local.join(number, key, Bytes::from_static(b"1"));
        (number, (ask.map(|(_, interest)| interest), position))
    }

    fn first(local: &mut Local, key: u32) -> (u32, Interest) {
        match subscribe(local, key) {
            (number, (Some(interest), None)) => (number, interest),
            other => panic!("{other:?}"),
        }
    }

    fn position(offset: u64) -> Position {
        Position { offset, epoch: 9 }
    }

    #[test]
    fn the_first_subscriber_asks_and_the_answer_confirms_all() {
        let mut local = Local::new(0, 1, 1);
        let (number, interest) = first(&mut local, 5);
        assert_eq!(subscribe(&mut local, 3).1, (None, None));
        assert!(matches!(local.route("c").1, ChannelRef::Name(_)));
        let confirmed = local.live(number, interest.serial, 77, position(4));
        assert_eq!(
            confirmed
                .iter()
                .map(|waiting| waiting.key)
                .collect::<Vec<_>>(),
            [5, 3]
        );
        assert_eq!(local.route("c").1, ChannelRef::Number(77));
        assert_eq!(subscribe(&mut local, 4).1, (None, Some(position(4))));
        let mut order = Vec::new();
        local
            .subscribers(number)
            .unwrap()
            .for_each(|key| order.push(key));
        assert_eq!(order, [3, 4, 5]);
    }

    #[test]
    fn an_answer_to_an_ended_interest_is_ignored() {
        let mut local = Local::new(0, 1, 1);
        let (number, old) = first(&mut local, 5);
        let given_up = local.unsubscribe(number, 5).expect("the last one left");
        assert_eq!(
            (given_up.home, &*given_up.name, given_up.serial),
            (0, "c", old.serial)
        );
        let (number, new) = first(&mut local, 6);
        assert!(local.live(number, old.serial, 1, position(0)).is_empty());
        assert!(local.receive(number, old.serial, 1).is_none());
        assert!(
            local.receive(number, new.serial, 1).is_none(),
            "not live yet"
        );
        assert_eq!(local.live(number, new.serial, 1, position(1)).len(), 1);
        assert!(local.receive(number, old.serial, 2).is_none());
        assert!(local.receive(number, new.serial, 2).is_some());
    }

    #[test]
    fn what_is_given_up_early_is_named() {
        let mut local = Local::new(0, 1, 1);
        let (number, _) = subscribe(&mut local, 5);
        subscribe(&mut local, 6);
        assert_eq!(
            local.position_for(number, 5, Bytes::from_static(b"2")),
            None
        );
        assert_eq!(local.abandon(number, 5), ["1", "2"]);
        assert_eq!(local.unsubscribe(number, 5), None, "6 still waits");
        local.live(number, 0, 1, position(0));
        assert!(local.abandon(number, 6).is_empty(), "confirmed already");
    }

    #[test]
    fn a_turns_channels_are_listed_once() {
        let mut local = Local::new(0, 1, 1);
        let (number, _) = subscribe(&mut local, 5);
        local.live(number, 0, 1, position(0));
        for offset in 1..=3 {
            let (name, channel) = local.receive(number, 0, offset).unwrap();
            assert_eq!(name, "c");
            channel.turn.frames.push(b'x');
        }
        let mut touched = Vec::new();
        local.take_touched(&mut touched);
        assert_eq!(touched, [number]);
        assert_eq!(local.take_turn(number).frames, b"xxx");
        assert_eq!(subscribe(&mut local, 9).1, (None, Some(position(3))));
        local.take_touched(&mut touched);
        assert!(touched.is_empty());
    }

    #[test]
    fn who_asks_joins_with_the_answer() {
        let mut local = Local::new(0, 1, 1);
        let (number, interest) = first(&mut local, 5);
        let (_, known, same, question) = local.ask(number, 6, Bytes::from_static(b"6")).unwrap();
        assert!(matches!(known, ChannelRef::Name(_)));
        assert_eq!(same, interest);
        // Once more before the answer: confirmed with it.
        assert_eq!(local.join(number, 6, Bytes::from_static(b"again")), None);
        let live = local.live(number, interest.serial, 77, position(4));
        assert_eq!(live.len(), 1, "6 still waits");
        let (_, known, _, later) = local.ask(number, 7, Bytes::from_static(b"7")).unwrap();
        assert_eq!(known, ChannelRef::Number(77));
        assert_eq!(local.join(number, 6, Bytes::from_static(b"third")), None);
        let tags = |waiting: Vec<Waiting>| -> Vec<Bytes> {
            waiting.into_iter().map(|one| one.tag).collect()
        };
        let serial = interest.serial;
        assert_eq!(
            tags(local.answered(number, serial, question, 6)),
            ["6", "again", "third"]
        );
        assert_eq!(local.join(number, 6, Bytes::new()), Some(position(4)));
        assert!(local.answered(number, serial, question, 6).is_empty());
        assert!(local.answered(number, serial + 9, later, 7).is_empty());
        // Gives up: the answer finds nobody.
        assert_eq!(local.abandon(number, 7), ["7"]);
        assert_eq!(local.unsubscribe(number, 7), None);
        assert!(local.answered(number, serial, later, 7).is_empty());
    }
}
