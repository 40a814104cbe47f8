//! What everybody saw, together: one order per channel, the same for all.

use crate::ring::sim::Random;
use std::collections::{BTreeMap, HashMap};

/// A message that some client published.
#[derive(Clone, Debug)]
pub(super) struct Publication {
    pub(super) author: usize,
    pub(super) channel: String,
    /// The author's how manieth in this channel.
    pub(super) number: u64,
    /// Whether the author hears it, if subscribed.
    pub(super) echo: bool,
    pub(super) user: Option<String>,
    pub(super) key: Option<String>,
}

/// A message that belongs to no channel.
#[derive(Clone, Debug)]
pub(super) struct Addressed {
    pub(super) author: usize,
    pub(super) user: Option<String>,
    /// `None`: for everyone.
    pub(super) to: Option<String>,
    pub(super) echo: bool,
}

/// What clients share to judge what they see.
#[derive(Default)]
pub(super) struct Oracle {
    /// By the text of its data, which is unique.
    published: HashMap<String, Publication>,
    addressed: HashMap<String, Addressed>,
    /// Per channel and epoch: the data of each offset that somebody saw.
    seen: HashMap<(String, u64), BTreeMap<u64, String>>,
    /// Acknowledged publishes: channel, offset, data.
    acknowledged: Vec<(String, u64, String)>,
    /// Offsets that a subscriber did not see: they must be its own silent ones.
    skipped: Vec<(usize, String, u64, u64)>,
    /// The server was told to end.
    pub(super) draining: bool,
    /// Nobody injects faults any more, and everybody reads and answers at once.
    pub(super) settling: bool,
    pub(super) now_ms: u64,
    pub(super) delivered: u64,
}

impl Oracle {
    pub(super) fn publish(&mut self, data: String, publication: Publication) {
        let before = self.published.insert(data, publication);
        assert!(before.is_none(), "published data is unique");
    }

    pub(super) fn address(&mut self, data: String, addressed: Addressed) {
        let before = self.addressed.insert(data, addressed);
        assert!(before.is_none(), "addressed data is unique");
    }

    /// Somebody, of this user, got a message that belongs to no channel.
    pub(super) fn got(
        &self,
        client: usize,
        user: Option<&str>,
        everyone: bool,
        from: Option<&str>,
        data: &str,
    ) {
        let Some(addressed) = self.addressed.get(data) else {
            panic!("client {client} got what nobody sent: {data}");
        };
        assert_eq!(addressed.to.is_none(), everyone, "client {client}: {data}");
        assert_eq!(addressed.user.as_deref(), from, "client {client}: {data}");
        if everyone {
            assert!(
                addressed.echo || addressed.author != client,
                "client {client} got its own message to everyone back: {data}"
            );
        } else {
            assert_eq!(addressed.to.as_deref(), user, "client {client}: {data}");
        }
    }

    /// Whether a message is from the user who published it, and has its key.
    pub(super) fn is_from(&self, data: &str, user: Option<&str>, key: Option<&str>) -> bool {
        self.published.get(data).is_some_and(|publication| {
            publication.user.as_deref() == user && publication.key.as_deref() == key
        })
    }

    /// A subscriber to a wildcard got a message of a channel that it matches.
    pub(super) fn matched(&mut self, client: usize, channel: &str, data: &str) {
        self.delivered += 1;
        let publication = self.published.get(data);
        assert!(
            publication.is_some_and(|one| {
                one.channel == channel && (one.echo || one.author != client)
            }),
            "client {client} got {data} on {channel:?} through a wildcard"
        );
    }

    /// How many messages of a channel a client does not want back.
    pub(super) fn silent(&self, client: usize, channel: &str) -> u64 {
        let own = |one: &&Publication| one.author == client && one.channel == channel && !one.echo;
        self.published.values().filter(own).count() as u64
    }

    /// By key, the newest known message of a channel that a client is to get.
    pub(super) fn newest(
        &self,
        client: usize,
        channel: &str,
        epoch: u64,
    ) -> HashMap<Option<String>, u64> {
        let seen = self.seen.get(&(channel.to_owned(), epoch));
        let mut newest = HashMap::new();
        for (offset, data) in seen.into_iter().flatten() {
            let publication = &self.published[data];
            if publication.author != client || publication.echo {
                newest.insert(publication.key.clone(), *offset);
            }
        }
        newest
    }

    /// The epoch of a channel that has had no other, as far as anybody knows.
    pub(super) fn only_epoch(&self, channel: &str) -> Option<u64> {
        let mut epochs = self.seen.keys().filter(|(name, _)| name == channel);
        let (_, epoch) = epochs.next()?;
        epochs.next().is_none().then_some(*epoch)
    }

    /// A subscriber got a message as it was published.
    pub(super) fn saw(
        &mut self,
        client: usize,
        channel: &str,
        epoch: u64,
        offset: u64,
        data: &str,
    ) {
        self.delivered += 1;
        let unwanted =
            |publication: &Publication| !publication.echo && publication.author == client;
        assert!(
            !self.published.get(data).is_some_and(unwanted),
            "client {client} got its own message back, which it did not want: {data}"
        );
        self.read(client, channel, epoch, offset, data);
    }

    /// Somebody got a message out of the channel's history.
    pub(super) fn read(
        &mut self,
        client: usize,
        channel: &str,
        epoch: u64,
        offset: u64,
        data: &str,
    ) {
        let Some(publication) = self.published.get(data) else {
            panic!("client {client} got data on {channel:?} that nobody published: {data}");
        };
        assert_eq!(
            publication.channel, channel,
            "client {client} got {data} on another channel"
        );
        let offsets = self.seen.entry((channel.to_owned(), epoch)).or_default();
        let known = offsets.entry(offset).or_insert_with(|| data.to_owned());
        assert_eq!(
            known, data,
            "client {client} got other data as {channel:?} offset {offset} than others"
        );
    }

    /// A publisher was told the offset of its message.
    pub(super) fn acknowledge(&mut self, channel: &str, offset: u64, data: &str) {
        self.acknowledged
            .push((channel.to_owned(), offset, data.to_owned()));
    }

    /// A subscriber did not get these offsets.
    pub(super) fn skip(
        &mut self,
        client: usize,
        channel: &str,
        epoch: u64,
        offsets: std::ops::Range<u64>,
    ) {
        for offset in offsets {
            self.skipped
                .push((client, channel.to_owned(), epoch, offset));
        }
    }

    /// A place in a channel that somebody has been to, or one that nobody can have been to.
    pub(super) fn some_place(&self, random: &mut Random, channel: &str) -> (u64, u64) {
        let mut epochs: Vec<_> = self
            .seen
            .iter()
            .filter(|((name, _), _)| name == channel)
            .collect();
        epochs.sort_by_key(|(key, _)| key.1);
        if epochs.is_empty() || random.chance(100) {
            return (random.skewed(20) as u64 - 1, random.skewed(1000) as u64);
        }
        let ((_, epoch), offsets) = *random.pick(&epochs);
        let last = offsets.keys().next_back().copied().unwrap_or(0);
        let back = random.skewed(30) as u64 - 1;
        (last.saturating_sub(back), *epoch)
    }

    /// The last offset of a channel that is known to exist.
    pub(super) fn last(&self, channel: &str, epoch: u64) -> u64 {
        let key = (channel.to_owned(), epoch);
        let seen = self
            .seen
            .get(&key)
            .and_then(|offsets| offsets.keys().next_back());
        let mut last = seen.copied().unwrap_or(0);
        // An acknowledgement names no epoch, so it counts only where there is just one.
        if self.seen.keys().filter(|(name, _)| name == channel).count() == 1 {
            let acknowledged = self
                .acknowledged
                .iter()
                .filter(|(name, ..)| name == channel);
            last = acknowledged
                .map(|(_, offset, _)| *offset)
                .fold(last, u64::max);
        }
        last
    }

    /// Everything fits together.
    ///
    /// # Panics
    /// When it does not.
    pub(super) fn check(&self) {
        for ((channel, epoch), offsets) in &self.seen {
            let mut numbers: HashMap<usize, u64> = HashMap::new();
            for (offset, data) in offsets {
                let publication = &self.published[data];
                let before = numbers.insert(publication.author, publication.number);
                assert!(
                    before.is_none_or(|before| before < publication.number),
                    "{channel:?} {epoch} offset {offset}: client {}'s message {} after its message {before:?}",
                    publication.author,
                    publication.number,
                );
            }
        }
        for (channel, offset, data) in &self.acknowledged {
            let found = self.seen.iter().filter(|((name, _), _)| name == channel);
            let at_offset: Vec<_> = found
                .filter_map(|(_, offsets)| offsets.get(offset))
                .collect();
            assert!(
                at_offset.is_empty() || at_offset.contains(&data),
                "{data} was acknowledged as {channel:?} offset {offset}, where others saw {at_offset:?}"
            );
        }
        for (client, channel, epoch, offset) in &self.skipped {
            let seen = self
                .seen
                .get(&(channel.clone(), *epoch))
                .and_then(|offsets| offsets.get(offset));
            let own = match seen {
                Some(data) => {
                    let publication = &self.published[data];
                    publication.author == *client && !publication.echo
                }
                None => self
                    .published
                    .values()
                    .any(|one| one.author == *client && one.channel == *channel && !one.echo),
            };
            assert!(
                own,
                "client {client} never got {channel:?} offset {offset} ({seen:?})"
            );
        }
    }
}
