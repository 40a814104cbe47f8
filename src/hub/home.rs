//! The channels that this shard is home to: their offsets, their epochs, and which shards listen.

use super::{Delivery, Names, Position, Publication};
use smallvec::SmallVec;
use std::collections::VecDeque;

/// A channel without subscribers keeps its position this long after the last use, so that a
/// publisher and a returning subscriber see one epoch. Milliseconds.
pub const IDLE_CHANNEL_MS: u64 = 60_000;
/// Channels without subscribers kept per shard; beyond it the longest idle one goes first. About
/// 150 bytes each: 10 MiB per shard.
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

struct Channel {
    position: Position,
    interested: SmallVec<[Interest; 2]>,
    /// When the channel was last used while nobody listened.
    idle_since_ms: u64,
    /// Whether it stands in the queue of idle channels.
    queued: bool,
}

/// How a publish names its channel: by number where the publisher's shard knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChannelRef {
    /// The number in the home's table. Valid as long as the sender's shard has interest.
    Number(u32),
    /// The name.
    Name(Box<str>),
}

/// The home side of one shard's channels.
pub struct Home {
    channels: Names<Channel>,
    idle: VecDeque<u32>,
    random: u64,
}

impl Home {
    /// `seed` for the names' index, `random` to draw epochs from; both from the operating system.
    #[must_use]
    pub fn new(seed: u64, random: u64) -> Self {
        Self {
            channels: Names::new(seed),
            idle: VecDeque::new(),
            random: random | 1,
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

    /// The number of a channel that somebody wants to publish to.
    pub fn resolve(&mut self, channel: &ChannelRef) -> u32 {
        match channel {
            ChannelRef::Number(key) => *key,
            ChannelRef::Name(name) => self.find_or_insert(name),
        }
    }

    /// The shards that have subscribers to a channel.
    #[must_use]
    pub fn interested(&self, key: u32) -> &[Interest] {
        self.channels
            .get(key)
            .map_or(&[], |channel| &channel.interested)
    }

    /// Numbers a publication to the channel that [`Self::resolve`] found. Calls `to` for every shard
    /// that has subscribers; returns the publication's position, or `None` when there is no such
    /// channel (the publisher's shard gave up its interest meanwhile, which the order of its messages
    /// rules out).
    pub fn publish(
        &mut self,
        key: u32,
        publication: Publication,
        now_ms: u64,
        mut to: impl FnMut(Interest, Delivery),
    ) -> Option<Position> {
        let channel = self.channels.get_mut(key)?;
        channel.position.offset += 1;
        let position = channel.position;
        if let Some((last, others)) = channel.interested.split_last() {
            let delivery = Delivery {
                offset: position.offset,
                timestamp_ms: now_ms,
                publication,
            };
            for interest in others {
                to(*interest, delivery.clone());
            }
            to(*last, delivery);
        } else {
            self.queue_if_idle(key, now_ms);
        }
        Some(position)
    }

    /// Forgets channels that nobody has listened or published to for [`IDLE_CHANNEL_MS`], and the
    /// longest idle ones beyond [`MAX_IDLE_CHANNELS`]. Returns how many.
    pub fn expire(&mut self, now_ms: u64) -> usize {
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
            if !channel.interested.is_empty() {
                channel.queued = false;
                self.idle.pop_front();
            } else if overfull || now_ms.saturating_sub(channel.idle_since_ms) >= IDLE_CHANNEL_MS {
                self.idle.pop_front();
                self.channels.remove(key);
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
        if channel.interested.is_empty() {
            channel.idle_since_ms = now_ms;
            if !channel.queued {
                channel.queued = true;
                self.idle.push_back(key);
            }
        }
        if self.idle.len() > MAX_IDLE_CHANNELS {
            self.expire(now_ms);
        }
    }

    fn find_or_insert(&mut self, name: &str) -> u32 {
        if let Some(key) = self.channels.find(name) {
            return key;
        }
        let epoch = self.draw_epoch();
        self.channels.insert(
            name,
            Channel {
                position: Position { offset: 0, epoch },
                interested: SmallVec::new(),
                idle_since_ms: 0,
                queued: false,
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
mod tests {
    use super::*;
    use bytes::Bytes;

    fn publication(text: &'static str) -> Publication {
        Publication {
            meta: Bytes::from_static(b"null"),
            data: Bytes::from_static(text.as_bytes()),
        }
    }

    fn interest(shard: u16, serial: u32) -> Interest {
        Interest {
            shard,
            channel: 7,
            serial,
        }
    }

    fn publish(home: &mut Home, name: &str, now_ms: u64) -> (Position, Vec<(u16, u64)>) {
        let mut sent = Vec::new();
        let channel = home.resolve(&ChannelRef::Name(name.into()));
        let position = home
            .publish(channel, publication("1"), now_ms, |to, delivery| {
                sent.push((to.shard, delivery.offset));
            })
            .unwrap();
        (position, sent)
    }

    #[test]
    fn offsets_have_no_gaps_and_reach_interested_shards() {
        let mut home = Home::new(1, 2);
        let (key, position) = home.interest("c", interest(0, 1));
        assert_eq!(position.offset, 0);
        home.interest("c", interest(3, 9));
        let (first, sent) = publish(&mut home, "c", 5);
        assert_eq!((first.offset, first.epoch), (1, position.epoch));
        assert_eq!(sent, [(0, 1), (3, 1)]);
        home.disinterest("c", 0, 1, 6);
        let mut sent = Vec::new();
        let second = home
            .publish(key, publication("2"), 7, |to, delivery| {
                sent.push((to.shard, delivery.offset, delivery.timestamp_ms));
            })
            .unwrap();
        assert_eq!(second.offset, 2);
        assert_eq!(sent, [(3, 2, 7)]);
    }

    #[test]
    fn an_old_disinterest_does_not_end_a_new_interest() {
        let mut home = Home::new(1, 2);
        home.interest("c", interest(0, 1));
        home.interest("c", interest(0, 2));
        home.disinterest("c", 0, 1, 0);
        assert_eq!(publish(&mut home, "c", 1).1, [(0, 1)]);
    }

    #[test]
    fn an_idle_channel_keeps_its_epoch_for_a_while_and_then_begins_anew() {
        let mut home = Home::new(1, 2);
        let (first, _) = publish(&mut home, "c", 0);
        assert_eq!(home.expire(IDLE_CHANNEL_MS - 1), 0);
        let (second, _) = publish(&mut home, "c", IDLE_CHANNEL_MS - 1);
        assert_eq!((second.offset, second.epoch), (2, first.epoch));
        assert_eq!(home.expire(IDLE_CHANNEL_MS), 0, "it was used again");
        assert_eq!(home.expire(2 * IDLE_CHANNEL_MS), 1);
        let (third, _) = publish(&mut home, "c", 2 * IDLE_CHANNEL_MS);
        assert_eq!(third.offset, 1);
        assert_ne!(third.epoch, first.epoch);
    }

    #[test]
    fn a_channel_in_use_is_never_forgotten() {
        let mut home = Home::new(1, 2);
        publish(&mut home, "c", 0);
        home.interest("c", interest(0, 1));
        assert_eq!(home.expire(10 * IDLE_CHANNEL_MS), 0);
        assert_eq!(home.len(), 1);
        home.disinterest("c", 0, 1, 10 * IDLE_CHANNEL_MS);
        assert_eq!(home.expire(11 * IDLE_CHANNEL_MS), 1);
        assert!(home.is_empty());
    }

    #[test]
    fn idle_channels_are_bounded() {
        let mut home = Home::new(1, 2);
        for i in 0..MAX_IDLE_CHANNELS + 100 {
            publish(&mut home, &format!("c{i}"), 1);
        }
        assert!(home.len() <= MAX_IDLE_CHANNELS + 1, "{}", home.len());
        let (position, _) = publish(&mut home, &format!("c{}", MAX_IDLE_CHANNELS + 99), 1);
        assert_eq!(position.offset, 2, "the youngest are kept");
    }
}
