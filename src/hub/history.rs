//! What the home shard keeps of its channels' messages: per channel the last ones, for a time, and all
//! together within a budget, where the oldest go first.
//!
//! A channel's kept messages follow each other without gaps, up to its last one.

use super::room::Room as _;
use super::rules::RuleNumber;
use super::{Delivery, Position, Publication};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// What a message costs besides its bytes: its entry here and as much room again, which [`History::fit`]
/// leaves at most, and what allocating its two parts rounds up.
const ENTRY_BYTES: usize = 2 * size_of::<Kept>() + 32;

/// What a channel with a history costs besides its messages: its own entries, the least room for messages,
/// its name, its place among those that expire.
const CHANNEL_BYTES: usize = 640;

struct Kept {
    /// When it was published, in milliseconds since the shard started.
    at_ms: u64,
    /// The same since the Unix epoch.
    timestamp_ms: u64,
    publication: Publication,
}

impl Kept {
    fn bytes(&self) -> usize {
        ENTRY_BYTES + self.publication.data.len() + self.publication.meta.len()
    }
}

/// The kept messages of one channel.
#[derive(Default)]
pub(super) struct History {
    kept: VecDeque<Kept>,
}

/// When something is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time {
    /// Milliseconds since the shard started.
    pub elapsed_ms: u64,
    /// Milliseconds since the Unix epoch.
    pub unix_ms: u64,
}

/// A place to read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Since {
    /// The offset.
    pub offset: u64,
    /// Which life of the channel it counts in; `None`: the present one.
    pub epoch: Option<u64>,
}

/// How to read a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query {
    /// Messages at most.
    pub limit: usize,
    /// Only messages after this one; before it with `reverse`. `None`: from the oldest, or from the
    /// newest.
    pub since: Option<Since>,
    /// The newest first.
    pub reverse: bool,
    /// Bytes at most, where a message counts as its `data` and `meta`, and [`Self::envelope_bytes`]. The
    /// first message is given whatever its size.
    pub bytes: usize,
    /// What each message costs besides.
    pub envelope_bytes: usize,
}

/// A part of a channel's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The channel's position when it was read.
    pub position: Position,
    /// Messages, in the order that was asked for.
    pub messages: Vec<Delivery>,
    /// Whether there are more in that direction.
    pub more: bool,
    /// Whether nothing is missing between `since` and the first of `messages`: it has not been forgotten,
    /// and the channel is still in the same life.
    pub complete: bool,
}

impl History {
    /// Gives back room that it has no use for: room for as many as there are, and a few, may stay.
    fn fit(&mut self) {
        let length = self.kept.len();
        if self.kept.capacity() > 2 * length + 4 {
            self.kept.shrink_to(length + length / 2);
        }
    }

    /// The offset of the oldest kept message.
    fn first(&self, last: u64) -> u64 {
        last + 1 - self.kept.len() as u64
    }

    fn delivery(&self, at: usize, last: u64) -> Delivery {
        let kept = &self.kept[at];
        Delivery {
            offset: self.first(last) + at as u64,
            timestamp_ms: kept.timestamp_ms,
            publication: kept.publication.clone(),
        }
    }
}

/// Reads a part of a history (`None`: nothing is kept) of a channel at `position`.
pub(super) fn read(history: Option<&History>, position: Position, query: &Query) -> Page {
    let none = History::default();
    let history = history.unwrap_or(&none);
    let last = position.offset;
    let first = history.first(last);
    let count = history.kept.len();
    // A place in another life of the channel is none: everything that is kept came later.
    let known = |since: &Since| since.epoch.is_none_or(|epoch| epoch == position.epoch);
    let lost = query.since.is_some_and(|since| !known(&since));
    let since = query.since.filter(known).map(|since| since.offset);
    // What there is to choose from, as indexes.
    let (from, to) = match (since, query.reverse) {
        (None, _) => (0, count),
        (Some(since), false) => (
            since
                .saturating_add(1)
                .saturating_sub(first)
                .min(count as u64) as usize,
            count,
        ),
        (Some(since), true) => (0, since.saturating_sub(first).min(count as u64) as usize),
    };
    let complete = match (since, query.reverse) {
        (None, _) => !lost,
        (Some(since), false) => since == last || (since < last && since + 1 >= first),
        (Some(since), true) => since <= 1 || (since > first && since <= last + 1),
    };
    let mut bytes = 0;
    let fits = |at: &usize| {
        let publication = &history.kept[*at].publication;
        let first = bytes == 0;
        bytes += publication.data.len() + publication.meta.len() + query.envelope_bytes;
        first || bytes <= query.bytes
    };
    let choose: &mut dyn Iterator<Item = usize> = if query.reverse {
        &mut (from..to).rev()
    } else {
        &mut (from..to)
    };
    let messages: Vec<Delivery> = choose
        .take(query.limit)
        .take_while(fits)
        .map(|at| history.delivery(at, last))
        .collect();
    Page {
        position,
        more: messages.len() < to - from,
        messages,
        complete,
    }
}

/// What all histories of a shard have in common: what they cost, and which is the next to expire.
pub(super) struct Histories {
    /// Per rule, so that what was published first expires first: when each channel's oldest kept message
    /// was published, at the latest, and the channel. Every channel with a history stands here once.
    oldest: Vec<BinaryHeap<Reverse<(u64, u32)>>>,
    limit_bytes: usize,
    bytes: usize,
    evicted: u64,
}

/// Where the histories of channels are.
pub(super) trait Slots {
    /// The history of the channel of this number.
    fn history(&mut self, channel: u32) -> Option<&mut Option<Box<History>>>;
}

impl Histories {
    /// Histories of channels under `rules` rules, that cost no more than `limit_bytes` together.
    pub(super) fn new(rules: usize, limit_bytes: usize) -> Self {
        Self {
            oldest: (0..rules).map(|_| BinaryHeap::new()).collect(),
            limit_bytes,
            bytes: 0,
            evicted: 0,
        }
    }

    /// What they cost.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Lets go of room that no history needs any more.
    pub(super) fn give_back(&mut self) {
        for oldest in &mut self.oldest {
            oldest.give_back();
        }
    }

    /// Messages that had to go before their time, so that all stay within the limit.
    pub(super) fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Keeps a message that was just published, as the last of at most `size` (not 0).
    pub(super) fn keep(
        &mut self,
        channel: u32,
        rule: RuleNumber,
        slot: &mut Option<Box<History>>,
        size: usize,
        now: Time,
        publication: Publication,
    ) {
        let history = slot.get_or_insert_with(|| {
            self.bytes += CHANNEL_BYTES;
            self.oldest[usize::from(rule)].push(Reverse((now.elapsed_ms, channel)));
            Box::default()
        });
        while history.kept.len() >= size
            && let Some(old) = history.kept.pop_front()
        {
            self.bytes -= old.bytes();
        }
        let kept = Kept {
            at_ms: now.elapsed_ms,
            timestamp_ms: now.unix_ms,
            publication,
        };
        if CHANNEL_BYTES + kept.bytes() > self.limit_bytes {
            // It would drive out everybody else's, and then itself. Without it, what came before no
            // longer reaches up to the channel's last message.
            self.evicted += history.kept.len() as u64 + 1;
            self.bytes -= history.kept.drain(..).map(|old| old.bytes()).sum::<usize>();
            history.fit();
            return;
        }
        self.bytes += kept.bytes();
        history.kept.push_back(kept);
    }

    /// Forgets what is older than `ttl_ms` of its rule. Calls `emptied` for channels that keep nothing
    /// any more.
    pub(super) fn expire(
        &mut self,
        now_ms: u64,
        ttl_ms: impl Fn(RuleNumber) -> u64,
        slots: &mut impl Slots,
        mut emptied: impl FnMut(u32),
    ) {
        for rule in 0..self.oldest.len() {
            let ttl_ms = ttl_ms(rule as RuleNumber);
            while let Some(&Reverse((at_ms, channel))) = self.oldest[rule].peek()
                && at_ms + ttl_ms <= now_ms
            {
                let gone = |kept: &Kept| kept.at_ms + ttl_ms <= now_ms;
                if self.forget(rule, channel, slots, gone) {
                    emptied(channel);
                }
            }
        }
    }

    /// Whether something has to go.
    pub(super) fn is_over_limit(&self) -> bool {
        self.bytes > self.limit_bytes
    }

    /// Lets the oldest messages of all go until the rest is within the limit.
    pub(super) fn evict(&mut self, slots: &mut impl Slots, mut emptied: impl FnMut(u32)) {
        while self.is_over_limit() {
            let heads = self.oldest.iter().enumerate();
            let heads = heads.filter_map(|(rule, heap)| Some((heap.peek()?.0, rule)));
            let Some(((at_ms, channel), rule)) = heads.min() else {
                debug_assert!(false, "what costs something stands somewhere");
                return;
            };
            let mut evicted = 0;
            // Its oldest message may have gone already, and the next one be younger than others.
            let oldest = |kept: &Kept| {
                let gone = evicted == 0 && kept.at_ms <= at_ms;
                evicted += u64::from(gone);
                gone
            };
            if self.forget(rule, channel, slots, oldest) {
                emptied(channel);
            }
            self.evicted += evicted;
        }
    }

    /// Takes a channel, the first of its rule, and forgets its messages from the oldest on while they are
    /// `gone`. Returns whether none is left.
    fn forget(
        &mut self,
        rule: usize,
        channel: u32,
        slots: &mut impl Slots,
        mut gone: impl FnMut(&Kept) -> bool,
    ) -> bool {
        self.oldest[rule].pop();
        let Some(slot) = slots.history(channel) else {
            debug_assert!(false, "a channel with a history stays");
            return false;
        };
        let Some(history) = slot else {
            debug_assert!(false, "who stands here has a history");
            return false;
        };
        while history.kept.front().is_some_and(&mut gone)
            && let Some(old) = history.kept.pop_front()
        {
            self.bytes -= old.bytes();
        }
        history.fit();
        match history.kept.front() {
            Some(kept) => {
                self.oldest[rule].push(Reverse((kept.at_ms, channel)));
                false
            }
            None => {
                *slot = None;
                self.bytes -= CHANNEL_BYTES;
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[derive(Default)]
    struct Channels(HashMap<u32, Option<Box<History>>>);

    impl Slots for Channels {
        fn history(&mut self, channel: u32) -> Option<&mut Option<Box<History>>> {
            self.0.get_mut(&channel)
        }
    }

    fn publication(bytes: usize) -> Publication {
        Publication {
            key: 0,
            meta: Bytes::from_static(b"null"),
            data: vec![b'1'; bytes].into(),
        }
    }

    fn at(elapsed_ms: u64) -> Time {
        Time {
            elapsed_ms,
            unix_ms: 1_000_000 + elapsed_ms,
        }
    }

    fn query(limit: usize, since: Option<u64>, reverse: bool) -> Query {
        Query {
            limit,
            since: since.map(|offset| Since {
                offset,
                epoch: None,
            }),
            reverse,
            bytes: usize::MAX,
            envelope_bytes: 0,
        }
    }

    /// Offsets 4, 5 and 6, of which each has ten bytes and `null`.
    fn three() -> (History, Position) {
        let kept = (4..7).map(|at_ms| Kept {
            at_ms,
            timestamp_ms: at_ms,
            publication: publication(10),
        });
        let history = History {
            kept: kept.collect(),
        };
        let position = Position {
            offset: 6,
            epoch: 9,
        };
        (history, position)
    }

    fn offsets(page: &Page) -> Vec<u64> {
        page.messages.iter().map(|one| one.offset).collect()
    }

    #[test]
    fn pages_go_both_ways() {
        let (history, position) = three();
        for (limit, since, reverse, expected, more, complete) in [
            (9, None, false, &[4, 5, 6][..], false, true),
            (2, None, false, &[4, 5], true, true),
            (9, None, true, &[6, 5, 4], false, true),
            (1, None, true, &[6], true, true),
            (9, Some(4), false, &[5, 6], false, true),
            (9, Some(3), false, &[4, 5, 6], false, true),
            (9, Some(2), false, &[4, 5, 6], false, false),
            (9, Some(6), false, &[], false, true),
            (9, Some(7), false, &[], false, false),
            (9, Some(6), true, &[5, 4], false, true),
            (9, Some(5), true, &[4], false, true),
            (9, Some(4), true, &[], false, false),
            (9, Some(1), true, &[], false, true),
            (9, Some(7), true, &[6, 5, 4], false, true),
            (9, Some(8), true, &[6, 5, 4], false, false),
            (9, Some(u64::MAX), false, &[], false, false),
            (9, Some(u64::MAX), true, &[6, 5, 4], false, false),
            (0, None, false, &[], true, true),
        ] {
            let page = read(Some(&history), position, &query(limit, since, reverse));
            let what = format!("{limit} {since:?} {reverse}");
            assert_eq!(offsets(&page), expected, "{what}");
            assert_eq!((page.more, page.complete), (more, complete), "{what}");
            assert_eq!(page.position, position);
        }
        for (epoch, expected, complete) in [(9, &[6][..], true), (8, &[4, 5, 6], false)] {
            let query = Query {
                since: Some(Since {
                    offset: 5,
                    epoch: Some(epoch),
                }),
                ..query(9, None, false)
            };
            let page = read(Some(&history), position, &query);
            assert_eq!(
                (offsets(&page).as_slice(), page.complete),
                (expected, complete)
            );
        }
        let page = read(None, position, &query(9, Some(6), false));
        assert!(page.messages.is_empty() && page.complete);
        assert!(!read(None, position, &query(9, Some(5), false)).complete);
    }

    #[test]
    fn a_page_is_bounded_in_bytes() {
        let (history, position) = three();
        for (bytes, expected) in [(0, 1), (39, 1), (40, 2), (60, 3)] {
            let query = Query {
                bytes,
                envelope_bytes: 6,
                ..query(9, None, false)
            };
            let page = read(Some(&history), position, &query);
            assert_eq!(page.messages.len(), expected, "{bytes}");
            assert_eq!(page.more, expected < 3);
        }
    }

    #[test]
    fn a_message_larger_than_all_histories_may_be_costs_only_its_channel() {
        let mut histories = Histories::new(1, 10_000);
        let mut channels = Channels::default();
        let mut keep = |channel: u32, bytes: usize| {
            let slot = channels.0.entry(channel).or_default();
            histories.keep(channel, 0, slot, 10, at(0), publication(bytes));
            histories.evict(&mut channels, |_| ());
            let kept = |channel: u32| {
                let history = channels.0.get(&channel).and_then(Option::as_ref);
                history.map_or(0, |history| history.kept.len())
            };
            (kept(0), kept(1), histories.evicted())
        };
        keep(0, 10);
        keep(1, 10);
        assert_eq!(keep(1, 10_000), (1, 0, 2));
        assert_eq!(keep(1, 10), (1, 1, 2));
        assert_eq!(keep(1, 9_000), (0, 1, 4), "the oldest go for one that fits");
        assert_eq!(keep(0, 10_000), (0, 1, 5));
        let mut emptied = Vec::new();
        histories.expire(10, |_| 10, &mut channels, |channel| emptied.push(channel));
        assert_eq!((emptied, histories.bytes()), (vec![1], 0));
    }

    proptest! {
        /// Against the plainest model: everything that was published, with what must have gone.
        #[test]
        fn what_is_kept_is_what_the_rules_say(
            steps in prop::collection::vec((0u32..4, 0u64..30, 0usize..300), 1..200),
            limit_bytes in 1300usize..12_000,
        ) {
            let (sizes, ttls) = ([3usize, 10], [40u64, 100]);
            let rule = |channel: u32| (channel / 2) as usize;
            let mut histories = Histories::new(2, limit_bytes);
            let mut channels = Channels::default();
            let mut model: Vec<(u64, u32, usize)> = Vec::new();
            let mut now_ms = 0;
            let mut evicted = 0;
            for (channel, later_ms, bytes) in steps {
                now_ms += later_ms;
                let emptied = |_| ();
                histories.expire(now_ms, |rule| ttls[usize::from(rule)], &mut channels, emptied);
                model.retain(|&(at_ms, one, _)| at_ms + ttls[rule(one)] > now_ms);
                let slot = channels.0.entry(channel).or_default();
                let number = rule(channel) as RuleNumber;
                histories.keep(channel, number, slot, sizes[rule(channel)], at(now_ms), publication(bytes));
                model.push((now_ms, channel, bytes));
                let of_channel = model.iter().filter(|(_, one, _)| *one == channel).count();
                if of_channel > sizes[rule(channel)] {
                    let oldest = model.iter().position(|(_, one, _)| *one == channel);
                    model.remove(oldest.unwrap());
                }
                histories.evict(&mut channels, emptied);
                let cost = |model: &[(u64, u32, usize)]| {
                    let channels: std::collections::HashSet<u32> = model.iter().map(|one| one.1).collect();
                    let messages: usize = model.iter().map(|one| ENTRY_BYTES + 4 + one.2).sum();
                    messages + channels.len() * CHANNEL_BYTES
                };
                while cost(&model) > limit_bytes {
                    // Of messages of the same moment, rule and channel decide.
                    let oldest = (0..model.len()).min_by_key(|&at| (model[at].0, model[at].1, at));
                    model.remove(oldest.unwrap());
                    evicted += 1;
                }
                prop_assert_eq!(histories.bytes(), cost(&model));
                prop_assert_eq!(histories.evicted(), evicted);
                for channel in 0..4 {
                    let kept: Vec<usize> = channels.0.get(&channel).and_then(Option::as_ref).map_or(Vec::new(), |history| {
                        history.kept.iter().map(|kept| kept.publication.data.len()).collect()
                    });
                    let expected: Vec<usize> = model.iter().filter(|one| one.1 == channel).map(|one| one.2).collect();
                    prop_assert_eq!(kept, expected, "channel {}", channel);
                }
                for history in channels.0.values().flatten() {
                    prop_assert!(history.kept.capacity() <= 2 * history.kept.len() + 4);
                }
                let standing: usize = histories.oldest.iter().map(BinaryHeap::len).sum();
                let with_history = channels.0.values().filter(|slot| slot.is_some()).count();
                prop_assert_eq!(standing, with_history);
            }
        }
    }
}
