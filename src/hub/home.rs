//! The channels that this shard is home to: their offsets, their epochs, what is kept of them, and which
//! shards listen.

use super::history::{self, Histories, History, Page, Query, Since, Time};
use super::presence::{Counts, MembersPage, Presence, PresenceEvent};
use super::room::Room as _;
use super::rules::{ChannelRules, RuleNumber};
use super::wildcards::Wildcards;
use super::{Delivery, Names, Position, Publication};
use crate::config::limits::HISTORY_PAGE_MESSAGES;
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::sync::Arc;

/// A channel without subscribers keeps its position this long after the last use, so that a
/// publisher and a returning subscriber see one epoch. Milliseconds.
pub const IDLE_CHANNEL_MS: u64 = 60_000;
/// Channels without subscribers and history kept per shard; beyond it the longest idle one goes first.
/// About 150 bytes each: 10 MiB per shard.
pub const MAX_IDLE_CHANNELS: usize = 65_536;

/// A shard that has subscribers to a channel, and how it knows the channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interest {
    /// The shard.
    pub shard: u16,
    /// The channel's number in that shard's [`super::local::Local`].
    pub channel: u32,
    /// Which interest of that shard this is: a number that it never uses twice.
    pub serial: u32,
}

/// Who hears a channel.
#[derive(Clone, Copy, Debug)]
pub enum Listener<'a> {
    /// A shard with subscribers to the channel itself.
    Channel(Interest),
    /// A shard with subscribers to wildcards that match the channel's name, which follows.
    Wildcards(u16, &'a Arc<[Interest]>, &'a str),
}

impl Listener<'_> {
    /// Which shard it is.
    #[must_use]
    pub fn shard(self) -> u16 {
        match self {
            Self::Channel(interest) => interest.shard,
            Self::Wildcards(shard, ..) => shard,
        }
    }
}

struct Channel {
    position: Position,
    interested: SmallVec<[Interest; 1]>,
    /// The wildcards that match its name, if any did when that was last looked at.
    matched: Option<Box<Matched>>,
    /// Subscribers, where their number is limited.
    admitted: u32,
    /// When the channel was last used while nobody listened.
    idle_since_ms: u64,
    /// Whether it stands in the queue of idle channels.
    queued: bool,
    rule: RuleNumber,
    /// What is kept of its messages. A channel that keeps some is not forgotten.
    history: Option<Box<History>>,
    /// Who is there, where the rule says so: somebody at least.
    presence: Option<Box<Presence>>,
}

const _: () = assert!(size_of::<Channel>() <= 80, "there may be a million");

/// What a channel's name matches, as long as the wildcards are the same.
struct Matched {
    version: u64,
    shards: SmallVec<[(u16, Arc<[Interest]>); 2]>,
}

/// Wildcards of a channel beyond which they are looked up for every message: what a channel keeps of them
/// stays small.
const MAX_KEPT_MATCHES: usize = 16;

impl Channel {
    /// What its name matched when that was last looked at; `many` is what no channel keeps.
    fn matched<'a>(&'a self, key: u32, many: Option<&'a (u32, Matched)>) -> Option<&'a Matched> {
        let many = many.filter(|(of, _)| *of == key);
        self.matched.as_deref().or(many.map(|(_, many)| many))
    }

    fn is_idle(&self) -> bool {
        self.interested.is_empty() && self.history.is_none() && self.admitted == 0
    }
}

impl history::Slots for Names<Channel> {
    fn history(&mut self, channel: u32) -> Option<&mut Option<Box<History>>> {
        self.get_mut(channel).map(|channel| &mut channel.history)
    }
}

/// How a publish names its channel: by number where the publisher's shard knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChannelRef {
    /// The number in the home's table. Valid as long as the sender's shard has interest.
    Number(u32),
    /// The name.
    Name(Box<str>),
}

/// What a new subscriber gets first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatchUp {
    /// The channel's position: what is published after it follows.
    pub position: Position,
    /// Whether `messages` are all that it missed; `None` when it did not ask.
    pub recovered: Option<bool>,
    /// What to send before anything else, in order.
    pub messages: Vec<Delivery>,
}

/// The home side of one shard's channels.
pub struct Home {
    channels: Names<Channel>,
    idle: VecDeque<u32>,
    random: u64,
    rules: ChannelRules,
    histories: Histories,
    /// Of subscribers of all shards.
    wildcards: Wildcards<Interest>,
    /// What the name of the channel of this number matched, where it is too much to be kept.
    many_matched: Option<(u32, Matched)>,
    /// Channels with new counts of members that their subscribers will be told.
    recounted: Vec<u32>,
    seed: u64,
}

impl Home {
    /// `seed` for the names' index, `random` to draw epochs from; both from the operating system.
    /// `history_bytes` is what the histories of all channels may cost.
    #[must_use]
    pub fn new(seed: u64, random: u64, rules: ChannelRules, history_bytes: usize) -> Self {
        Self {
            channels: Names::new(seed),
            idle: VecDeque::new(),
            random: random | 1,
            histories: Histories::new(rules.len(), history_bytes),
            rules,
            wildcards: Wildcards::new(seed),
            many_matched: None,
            recounted: Vec::new(),
            seed,
        }
    }

    /// Channels known here, with subscribers or not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.channels.len()
    }

    /// Whether no channel is known here.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.channels.is_empty()
    }

    /// A shard has its first subscriber: from now on it gets every message. Returns the channel's
    /// number here and the position that the next message follows.
    pub fn interest(&mut self, name: &str, interest: Interest) -> (u32, Position) {
        let key = self.find_or_insert(name);
        let channel = self.channels.get_mut(key).expect("just found or inserted");
        channel
            .interested
            .retain(|other| other.shard != interest.shard);
        channel.interested.push(interest);
        (key, channel.position)
    }

    /// A shard's last subscriber left. `serial` is the interest that ends; a later one stays.
    pub fn disinterest(&mut self, name: &str, shard: u16, serial: u32, now_ms: u64) {
        let Some(key) = self.channels.find(name) else {
            return;
        };
        if let Some(channel) = self.channels.get_mut(key) {
            channel
                .interested
                .retain(|other| other.shard != shard || other.serial != serial);
        }
        self.queue_if_idle(key, now_ms);
    }

    /// A shard has its first subscriber to a wildcard: from now on it gets every message of every channel
    /// that it matches.
    pub fn wildcard_interest(&mut self, wildcard: &str, interest: Interest) {
        let same = |other: &Interest| other.shard == interest.shard;
        self.wildcards.remove(wildcard, same);
        self.wildcards.insert(wildcard, interest);
    }

    /// A shard's last subscriber to a wildcard left. `serial` is the interest that ends; a later one stays.
    pub fn wildcard_disinterest(&mut self, wildcard: &str, shard: u16, serial: u32) {
        let ends = |other: &Interest| other.shard == shard && other.serial == serial;
        self.wildcards.remove(wildcard, ends);
    }

    /// Wildcards that somebody is subscribed to, on whichever shard.
    #[must_use]
    pub fn wildcards(&self) -> usize {
        self.wildcards.len()
    }

    /// Looks at which wildcards match a channel's name, if that can have changed.
    fn match_wildcards(&mut self, key: u32) {
        let Some((name, channel)) = self.channels.entry_mut(key) else {
            return;
        };
        if self.wildcards.is_empty() {
            channel.matched = None;
            self.many_matched = None;
            return;
        }
        let version = self.wildcards.version();
        let known = channel.matched(key, self.many_matched.as_ref());
        if known.is_some_and(|known| known.version == version) {
            return;
        }
        let mut interested: Vec<Interest> = Vec::new();
        self.wildcards
            .for_each_match(name, |_, interest| interested.push(*interest));
        interested.sort_unstable_by_key(|interest| interest.shard);
        let shards = interested.chunk_by(|one, other| one.shard == other.shard);
        let matched = Matched {
            version,
            shards: shards.map(|own| (own[0].shard, own.into())).collect(),
        };
        channel.matched = None;
        if interested.len() <= MAX_KEPT_MATCHES {
            channel.matched = Some(Box::new(matched));
        } else {
            self.many_matched = Some((key, matched));
        }
    }

    /// Lets one more connection subscribe, where the channel's rule limits their number; whether it does.
    ///
    /// # Errors
    /// The limit, when it is reached.
    pub fn admit(&mut self, key: u32) -> Result<bool, u32> {
        let Some(channel) = self.channels.get_mut(key) else {
            return Ok(false);
        };
        let Some(limit) = self.rules.get(channel.rule).subscribers else {
            return Ok(false);
        };
        if channel.admitted >= limit {
            return Err(limit);
        }
        channel.admitted += 1;
        Ok(true)
    }

    /// One that was admitted subscribes no longer.
    pub fn release(&mut self, key: u32, now_ms: u64) {
        let Some(channel) = self.channels.get_mut(key) else {
            debug_assert!(false, "a channel stays as long as somebody is admitted");
            return;
        };
        debug_assert!(channel.admitted > 0, "who is released was admitted");
        channel.admitted = channel.admitted.saturating_sub(1);
        self.queue_if_idle(key, now_ms);
    }

    /// Those that were admitted to channels and not released.
    #[cfg(test)]
    pub(crate) fn admitted(&self) -> u64 {
        let channels = self.channels.values();
        channels.map(|channel| u64::from(channel.admitted)).sum()
    }

    /// A subscriber has come, or has gone. Returns what the channel's subscribers are to be told.
    pub fn member(&mut self, key: u32, user: Option<&str>, joined: bool) -> Option<PresenceEvent> {
        let channel = self.channels.get_mut(key)?;
        let rule = &self.rules.get(channel.rule).presence;
        let seed = self.seed;
        let presence = channel
            .presence
            .get_or_insert_with(|| Box::new(Presence::new(seed)));
        let news = match joined {
            true => presence.join(user),
            false => presence.leave(user),
        };
        let counts = presence.counts();
        let mut event = None;
        let few = counts.connections <= rule.events_max_members;
        if rule.events
            && few
            && let Some(user) = user.filter(|_| news)
        {
            event = Some(match joined {
                true => PresenceEvent::Join(user.into()),
                false => PresenceEvent::Leave(user.into()),
            });
        }
        // Who was last told a number is told the one that it ends with, too.
        if rule.events && (!few || presence.numbered) && !presence.changed {
            presence.changed = true;
            self.recounted.push(key);
        }
        if counts.connections == 0 {
            channel.presence = None;
        }
        event
    }

    /// The channels whose subscribers are to be told how many they are by now: calls `tell` with each.
    /// Those that it could not tell are told another time.
    pub fn recount(&mut self, now_ms: u64, mut tell: impl FnMut(&[Interest], Counts) -> bool) {
        let Self {
            channels,
            recounted,
            rules,
            ..
        } = self;
        recounted.retain(|&key| {
            let Some(channel) = channels.get_mut(key) else {
                return false;
            };
            // Where nobody is left, nobody is told; and the number may be another channel's by now.
            let Some(presence) = &mut channel.presence else {
                return false;
            };
            if !presence.changed {
                return false;
            }
            let rule = &rules.get(channel.rule).presence;
            if now_ms.saturating_sub(presence.told_ms) < rule.counts_interval_ms.into() {
                return true;
            }
            let counts = presence.counts();
            presence.told_ms = now_ms;
            presence.numbered = counts.connections > rule.events_max_members;
            presence.changed = !tell(&channel.interested, counts);
            presence.changed
        });
    }

    /// Some of a channel's members; `None` when there is no such channel. Nobody is there where presence
    /// is off.
    #[must_use]
    pub fn members(&self, key: u32, from: u32, limit: usize) -> Option<MembersPage> {
        let channel = self.channels.get(key)?;
        let page = |presence: &Presence| presence.page(from, limit);
        let nobody = MembersPage {
            limit,
            ..MembersPage::default()
        };
        Some(channel.presence.as_deref().map_or(nobody, page))
    }

    /// Whether anybody is known to be in a channel.
    #[cfg(test)]
    pub(crate) fn has_members(&self) -> bool {
        self.channels
            .values()
            .any(|channel| channel.presence.is_some())
    }

    /// The number of a channel that is known here.
    #[must_use]
    pub fn find(&self, channel: &ChannelRef) -> Option<u32> {
        match channel {
            ChannelRef::Number(key) => Some(*key),
            ChannelRef::Name(name) => self.channels.find(name),
        }
    }

    /// The number of a channel that somebody wants to publish to, or asks about.
    pub fn resolve(&mut self, channel: &ChannelRef) -> u32 {
        match channel {
            ChannelRef::Number(key) => *key,
            ChannelRef::Name(name) => self.find_or_insert(name),
        }
    }

    /// The shards that a message of a channel goes to, some of them possibly more than once.
    pub fn listening(&mut self, key: u32) -> impl Iterator<Item = u16> {
        self.match_wildcards(key);
        let channel = self.channels.get(key);
        let matched = channel.and_then(|one| one.matched(key, self.many_matched.as_ref()));
        let others = matched.into_iter().flat_map(|matched| &matched.shards);
        let own = self.interested(key).iter().map(|interest| interest.shard);
        own.chain(others.map(|(shard, _)| *shard))
    }

    /// The shards that have subscribers to a channel itself.
    #[must_use]
    pub fn interested(&self, key: u32) -> &[Interest] {
        self.channels
            .get(key)
            .map_or(&[], |channel| &channel.interested)
    }

    /// Numbers a publication to the channel that [`Self::resolve`] found, and keeps it where the
    /// channel's rule says so. Calls `to` for every shard that has subscribers; returns the publication's
    /// position, or `None` when there is no such channel (the publisher's shard gave up its interest
    /// meanwhile, which the order of its messages rules out).
    pub fn publish(
        &mut self,
        key: u32,
        publication: Publication,
        now: Time,
        mut to: impl FnMut(Listener<'_>, Delivery),
    ) -> Option<Position> {
        self.match_wildcards(key);
        let (name, channel) = self.channels.entry_mut(key)?;
        channel.position.offset += 1;
        let position = channel.position;
        let size = self.rules.get(channel.rule).history.size as usize;
        if size > 0 {
            let (rule, slot) = (channel.rule, &mut channel.history);
            let kept = publication.clone();
            self.histories.keep(key, rule, slot, size, now, kept);
        }
        let delivery = Delivery {
            offset: position.offset,
            timestamp_ms: now.unix_ms,
            publication,
        };
        let matched = channel.matched(key, self.many_matched.as_ref());
        for (shard, interested) in matched.into_iter().flat_map(|matched| &matched.shards) {
            let listener = Listener::Wildcards(*shard, interested, name);
            to(listener, delivery.clone());
        }
        if let Some((last, others)) = channel.interested.split_last() {
            for interest in others {
                to(Listener::Channel(*interest), delivery.clone());
            }
            to(Listener::Channel(*last), delivery);
        } else {
            self.queue_if_idle(key, now.elapsed_ms);
        }
        if self.histories.is_over_limit() {
            let mut emptied = Vec::new();
            self.histories
                .evict(&mut self.channels, |channel| emptied.push(channel));
            self.queue_emptied(&emptied, now.elapsed_ms);
        }
        Some(position)
    }

    /// What a subscriber that joins now gets first: everything that was published after `since`, or else
    /// the last message, where the channel's rule says so. At most `bytes`, where each message counts
    /// `envelope_bytes` besides its own.
    pub fn catch_up(
        &mut self,
        key: u32,
        since: Option<Position>,
        bytes: usize,
        envelope_bytes: usize,
        now_ms: u64,
    ) -> Option<CatchUp> {
        let mut query = Query {
            limit: HISTORY_PAGE_MESSAGES,
            since: since.map(|since| Since {
                offset: since.offset,
                epoch: Some(since.epoch),
            }),
            reverse: false,
            bytes,
            envelope_bytes,
        };
        if since.is_some() {
            let page = self.read_number(key, &query, now_ms)?;
            if page.complete && !page.more {
                return Some(CatchUp {
                    position: page.position,
                    recovered: Some(true),
                    messages: page.messages,
                });
            }
        }
        let rule = self.rules.get(self.channels.get(key)?.rule);
        query.limit = usize::from(rule.history.last_on_subscribe);
        query.since = None;
        query.reverse = true;
        let page = self.read_number(key, &query, now_ms)?;
        Some(CatchUp {
            position: page.position,
            recovered: since.map(|_| false),
            messages: page.messages,
        })
    }

    /// The same for a subscriber that cannot be given anything: it may have missed something.
    #[must_use]
    pub fn no_catch_up(&self, key: u32, since: Option<Position>) -> Option<CatchUp> {
        let channel = self.channels.get(key)?;
        let last = self.rules.get(channel.rule).history.last_on_subscribe;
        Some(CatchUp {
            position: channel.position,
            recovered: (since.is_some() || last).then_some(false),
            messages: Vec::new(),
        })
    }

    /// A part of the history of a channel. Who asks brings it into being.
    pub fn read(&mut self, channel: &ChannelRef, query: &Query, now_ms: u64) -> Page {
        // Before: it may forget channels that are idle.
        self.expire_histories(now_ms);
        let key = self.resolve(channel);
        let page = self.read_number(key, query, now_ms);
        page.unwrap_or_else(|| {
            debug_assert!(false, "a channel that was just found");
            let position = Position {
                offset: 0,
                epoch: 0,
            };
            history::read(None, position, query)
        })
    }

    fn read_number(&mut self, key: u32, query: &Query, now_ms: u64) -> Option<Page> {
        self.expire_histories(now_ms);
        let channel = self.channels.get(key)?;
        let page = history::read(channel.history.as_deref(), channel.position, query);
        // What came into being for this may be all that ever happens to it.
        self.queue_if_idle(key, now_ms);
        Some(page)
    }

    /// What the histories cost, in bytes.
    #[must_use]
    pub fn history_bytes(&self) -> usize {
        self.histories.bytes()
    }

    /// Messages that histories lost before their time, because all together would have cost too much.
    #[must_use]
    pub fn history_evicted(&self) -> u64 {
        self.histories.evicted()
    }

    fn expire_histories(&mut self, now_ms: u64) {
        let mut emptied = Vec::new();
        let rules = &self.rules;
        self.histories.expire(
            now_ms,
            |rule| rules.get(rule).history.ttl_ms.into(),
            &mut self.channels,
            |channel| emptied.push(channel),
        );
        self.queue_emptied(&emptied, now_ms);
    }

    fn queue_emptied(&mut self, emptied: &[u32], now_ms: u64) {
        for &key in emptied {
            self.queue_if_idle(key, now_ms);
        }
    }

    /// Forgets what histories keep no longer, channels that nobody has listened or published to for
    /// [`IDLE_CHANNEL_MS`], and the longest idle ones beyond [`MAX_IDLE_CHANNELS`]. Returns how many
    /// channels.
    pub fn expire(&mut self, now_ms: u64) -> usize {
        self.expire_histories(now_ms);
        self.forget_idle(now_ms)
    }

    /// Lets go of room that no channel needs any more.
    pub(crate) fn give_back(&mut self) {
        self.channels.give_back();
        self.histories.give_back();
        self.idle.give_back();
        self.recounted.give_back();
    }

    fn forget_idle(&mut self, now_ms: u64) -> usize {
        let mut forgotten = 0;
        // A channel used again since it was queued goes to the end, once; so this visits each
        // queued channel at most once per call.
        for _ in 0..self.idle.len() {
            let Some(&key) = self.idle.front() else { break };
            let Some(channel) = self.channels.get_mut(key) else {
                self.idle.pop_front();
                continue;
            };
            let overfull = self.idle.len() > MAX_IDLE_CHANNELS;
            if !channel.is_idle() {
                channel.queued = false;
                self.idle.pop_front();
            } else if overfull || now_ms.saturating_sub(channel.idle_since_ms) >= IDLE_CHANNEL_MS {
                self.idle.pop_front();
                self.channels.remove(key);
                // Another channel may get its number, and matches something else.
                if self.many_matched.as_ref().is_some_and(|(of, _)| *of == key) {
                    self.many_matched = None;
                }
                forgotten += 1;
            } else if self.idle.len() > 1 && self.is_younger_than_next(now_ms) {
                self.idle.rotate_left(1);
            } else {
                break;
            }
        }
        forgotten
    }

    /// Whether the front of the queue was used after the channel behind it.
    fn is_younger_than_next(&self, now_ms: u64) -> bool {
        let idle_ms = |at: usize| {
            self.idle
                .get(at)
                .and_then(|&key| self.channels.get(key))
                .map_or(u64::MAX, |channel| {
                    now_ms.saturating_sub(channel.idle_since_ms)
                })
        };
        idle_ms(0) < idle_ms(1)
    }

    fn queue_if_idle(&mut self, key: u32, now_ms: u64) {
        let Some(channel) = self.channels.get_mut(key) else {
            return;
        };
        if channel.is_idle() {
            channel.idle_since_ms = now_ms;
            if !channel.queued {
                channel.queued = true;
                self.idle.push_back(key);
            }
        }
        if self.idle.len() > MAX_IDLE_CHANNELS {
            self.forget_idle(now_ms);
        }
    }

    fn find_or_insert(&mut self, name: &str) -> u32 {
        if let Some(key) = self.channels.find(name) {
            return key;
        }
        let epoch = self.draw_epoch();
        let rule = self.rules.find(name);
        self.channels.insert(
            name,
            Channel {
                position: Position { offset: 0, epoch },
                interested: SmallVec::new(),
                matched: None,
                admitted: 0,
                idle_since_ms: 0,
                queued: false,
                rule,
                history: None,
                presence: None,
            },
        )
    }

    /// The next epoch: xorshift from a random start. It need not be secret, only different from
    /// the epoch of the channel's earlier lives.
    fn draw_epoch(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random & ((1 << 48) - 1)).max(1)
    }
}

#[cfg(test)]
mod tests;
