//! What waits for a connection that does not keep up, and what of it may be left out.
//!
//! Channels whose rule says so (`slow_consumer`) let a subscriber lose its oldest messages, or those that
//! a newer one replaces, instead of its connection. Where messages are missing without having been replaced,
//! a **gap** stands in their place: how many they were. It becomes a frame when it is its turn to be sent.

use crate::hub::rules::RuleNumber;
use crate::ring::Payload;
use foldhash::fast::RandomState;
use std::collections::{HashMap, VecDeque};

/// What may be left out: some messages of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Messages {
    /// The channel's number on this shard.
    pub channel: u32,
    /// The rule that it follows.
    pub rule: RuleNumber,
    /// How many they are: messages, and events about members.
    pub count: u32,
    /// The number of the last one in the channel.
    pub offset: u64,
}

/// Messages that are lost, at the place where they were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    pub channel: u32,
    pub count: u64,
    /// The number of the last one.
    pub offset: u64,
}

/// What was left out to make room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LeftOut {
    pub rule: RuleNumber,
    pub count: u32,
    /// Bytes of its frames.
    pub bytes: usize,
    /// Whether a gap was made for it, which weighs [`GAP_BYTES`] in turn.
    pub made_gap: bool,
}

/// What a gap weighs among the bytes that wait: about the frame that it becomes. So gaps are as bounded as
/// everything else that waits.
pub(super) const GAP_BYTES: usize = 100;

enum Entry {
    /// It has to be sent.
    Plain(Payload),
    /// It may be left out.
    Droppable(Payload, Messages),
    /// The same, and a newer one with this key replaces it.
    Latest(Payload, Messages, u64),
    Gap(Gap),
    /// Something that was left out.
    Hole,
}

/// What waits, in order.
#[derive(Default)]
pub(super) struct Queue {
    entries: VecDeque<Entry>,
    /// The number of the first entry; those of the others follow.
    first: u64,
    holes: usize,
    /// Entries that may be left out, and gaps.
    loose: usize,
    /// No entry with a smaller number may be left out.
    droppable_from: u64,
    /// By channel and key: the number of the newest message that waits.
    latest: HashMap<(u32, u64), u64, RandomState>,
    /// By channel: the number of its gap, if nothing that has to be sent follows before `droppable_from`.
    gaps: HashMap<u32, u64>,
}

impl Queue {
    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.len() == self.holes
    }

    /// Adds what has to be sent.
    pub(super) fn push(&mut self, payload: Payload) {
        self.entries.push_back(Entry::Plain(payload));
    }

    /// Adds messages that may be left out.
    pub(super) fn push_droppable(&mut self, payload: Payload, messages: Messages) {
        self.loose += 1;
        self.entries.push_back(Entry::Droppable(payload, messages));
    }

    /// Adds a message that replaces the one of its channel with the same key, and may be replaced. Returns
    /// what was left out.
    pub(super) fn push_latest(
        &mut self,
        payload: Payload,
        message: Messages,
        key: u64,
    ) -> Option<LeftOut> {
        let number = self.end();
        self.loose += 1;
        self.entries.push_back(Entry::Latest(payload, message, key));
        let old = self.latest.insert((message.channel, key), number)?;
        let replaced = self.take(old);
        self.loose -= 1;
        self.compact();
        match replaced {
            Entry::Latest(payload, messages, _) => Some(LeftOut {
                rule: messages.rule,
                count: messages.count,
                bytes: payload.len(),
                made_gap: false,
            }),
            _ => {
                debug_assert!(false, "only the newest of a key is listed");
                None
            }
        }
    }

    /// Leaves out the oldest entry that may be. A gap stands in its place.
    pub(super) fn drop_oldest(&mut self) -> Option<LeftOut> {
        let mut number = self.droppable_from.max(self.first);
        let (payload, messages) = loop {
            let index = (number - self.first) as usize;
            match self.entries.get(index) {
                None => {
                    self.droppable_from = number;
                    return None;
                }
                Some(Entry::Droppable(..) | Entry::Latest(..)) => match self.take(number) {
                    Entry::Droppable(payload, messages) => break (payload, messages),
                    Entry::Latest(payload, messages, key) => {
                        self.latest.remove(&(messages.channel, key));
                        break (payload, messages);
                    }
                    _ => {}
                },
                // It may say how far a channel is: what is lost after it is said after it.
                Some(Entry::Plain(_)) => self.gaps.clear(),
                Some(Entry::Gap(gap)) => {
                    self.gaps.insert(gap.channel, number);
                }
                Some(Entry::Hole) => {}
            }
            number += 1;
        };
        self.droppable_from = number + 1;
        let made_gap = !self.widen_gap(&messages);
        if made_gap {
            let index = (number - self.first) as usize;
            self.entries[index] = Entry::Gap(new_gap(&messages));
            self.holes -= 1;
            self.gaps.insert(messages.channel, number);
        } else {
            self.loose -= 1;
        }
        self.compact();
        Some(LeftOut {
            rule: messages.rule,
            count: messages.count,
            bytes: payload.len(),
            made_gap,
        })
    }

    fn widen_gap(&mut self, messages: &Messages) -> bool {
        let Some(&number) = self.gaps.get(&messages.channel) else {
            return false;
        };
        let index = (number - self.first) as usize;
        let Some(Entry::Gap(gap)) = self.entries.get_mut(index) else {
            debug_assert!(false, "gaps are listed while they wait");
            return false;
        };
        gap.count += u64::from(messages.count);
        gap.offset = messages.offset;
        true
    }

    /// Brings something that can be sent to the front: a gap there becomes the frame that `write` makes of
    /// it, if any. Returns by how much more waits now.
    pub(super) fn settle(&mut self, mut write: impl FnMut(&Gap) -> Option<Payload>) -> isize {
        let mut bytes = 0;
        while let Some(front) = self.entries.front_mut() {
            match front {
                Entry::Gap(gap) => {
                    let gap = *gap;
                    if self.gaps.get(&gap.channel) == Some(&self.first) {
                        self.gaps.remove(&gap.channel);
                    }
                    self.loose -= 1;
                    bytes -= GAP_BYTES as isize;
                    if let Some(payload) = write(&gap) {
                        bytes += payload.len() as isize;
                        *front = Entry::Plain(payload);
                        break;
                    }
                    self.pop_entry();
                }
                Entry::Hole => {
                    self.pop_entry();
                }
                _ => break,
            }
        }
        bytes
    }

    /// What is first, after [`Self::settle`].
    pub(super) fn front(&self) -> Option<&Payload> {
        self.entries.front().and_then(Entry::payload)
    }

    /// How long the second one is, as far as that is known.
    pub(super) fn second_len(&self) -> Option<usize> {
        let others = self.entries.iter().skip(1);
        let mut solid = others.filter(|entry| !matches!(entry, Entry::Hole));
        solid
            .next()
            .map(|entry| entry.payload().map_or(0, Payload::len))
    }

    /// Takes what is first.
    pub(super) fn pop_front(&mut self) -> Option<Payload> {
        self.pin_front();
        match self.pop_entry()? {
            Entry::Plain(payload) => Some(payload),
            _ => {
                debug_assert!(false, "settled before");
                None
            }
        }
    }

    /// The first one is being sent: it cannot be left out any more.
    pub(super) fn pin_front(&mut self) {
        if let Some(front) = self.entries.front_mut() {
            match std::mem::replace(front, Entry::Hole) {
                Entry::Droppable(payload, _) => {
                    self.loose -= 1;
                    *front = Entry::Plain(payload);
                }
                Entry::Latest(payload, messages, key) => {
                    self.loose -= 1;
                    self.latest.remove(&(messages.channel, key));
                    *front = Entry::Plain(payload);
                }
                other => *front = other,
            }
        }
    }

    /// Nothing of a channel (`None`: of any) is left out any more: its number may be another's soon. What is
    /// lost already becomes the frame that `write` makes of it. Returns by how much more waits now.
    pub(super) fn forget(
        &mut self,
        channel: Option<u32>,
        mut write: impl FnMut(&Gap) -> Option<Payload>,
    ) -> isize {
        let mut bytes = 0;
        // Whoever leaves many channels asks for each.
        if self.loose == 0 {
            return bytes;
        }
        let ends = |one: u32| channel.is_none_or(|channel| channel == one);
        for entry in &mut self.entries {
            match std::mem::replace(entry, Entry::Hole) {
                Entry::Droppable(payload, messages) if ends(messages.channel) => {
                    self.loose -= 1;
                    *entry = Entry::Plain(payload);
                }
                Entry::Latest(payload, messages, key) if ends(messages.channel) => {
                    self.loose -= 1;
                    self.latest.remove(&(messages.channel, key));
                    *entry = Entry::Plain(payload);
                }
                Entry::Gap(gap) if ends(gap.channel) => {
                    self.loose -= 1;
                    bytes -= GAP_BYTES as isize;
                    // What is lost from now on is said after this: the others are found again on the way.
                    self.gaps.clear();
                    self.droppable_from = self.first;
                    match write(&gap) {
                        Some(payload) => {
                            bytes += payload.len() as isize;
                            *entry = Entry::Plain(payload);
                        }
                        None => self.holes += 1,
                    }
                }
                other => *entry = other,
            }
        }
        bytes
    }

    /// Forgets everything but the first `kept` entries. Returns how many bytes that was.
    pub(super) fn truncate(&mut self, kept: usize) -> usize {
        let dropped = self.entries.drain(kept..);
        let bytes = dropped
            .map(|entry| match &entry {
                Entry::Gap(_) => GAP_BYTES,
                entry => entry.payload().map_or(0, Payload::len),
            })
            .sum();
        self.latest.clear();
        self.gaps.clear();
        (self.holes, self.loose) = (0, 0);
        for entry in &mut self.entries {
            if let Entry::Droppable(payload, _) | Entry::Latest(payload, ..) = entry {
                *entry = Entry::Plain(payload.clone());
            }
        }
        bytes
    }

    /// The number of the next entry.
    fn end(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    /// Takes an entry out; a hole stays.
    fn take(&mut self, number: u64) -> Entry {
        self.holes += 1;
        let index = (number - self.first) as usize;
        std::mem::replace(&mut self.entries[index], Entry::Hole)
    }

    fn pop_entry(&mut self) -> Option<Entry> {
        let entry = self.entries.pop_front()?;
        self.first += 1;
        self.holes -= usize::from(matches!(entry, Entry::Hole));
        Some(entry)
    }

    /// Closes the holes when they are more than half: a key that changes all the time must not let the
    /// queue grow.
    fn compact(&mut self) {
        const FEW: usize = 32;
        if self.holes <= FEW || self.holes <= self.entries.len() / 2 {
            return;
        }
        self.entries.retain(|entry| !matches!(entry, Entry::Hole));
        self.holes = 0;
        // Gaps are found again on the way.
        self.droppable_from = self.first;
        self.gaps.clear();
        for (entry, number) in self.entries.iter().zip(self.first..) {
            if let Entry::Latest(_, messages, key) = entry {
                self.latest.insert((messages.channel, *key), number);
            }
        }
    }
}

impl Entry {
    fn payload(&self) -> Option<&Payload> {
        match self {
            Self::Plain(payload) | Self::Droppable(payload, _) | Self::Latest(payload, ..) => {
                Some(payload)
            }
            Self::Gap(_) | Self::Hole => None,
        }
    }
}

fn new_gap(messages: &Messages) -> Gap {
    Gap {
        channel: messages.channel,
        count: messages.count.into(),
        offset: messages.offset,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const _: () = assert!(
        size_of::<Entry>() <= 48,
        "a lagging client may have thousands"
    );

    /// What waits, as plain as can be.
    #[derive(Clone, Debug)]
    enum Model {
        /// It has to be sent.
        Frame(String),
        /// Channel, key, number.
        Message(u32, Option<u64>, u64),
        Lost(Gap),
    }

    impl Model {
        fn text(&self) -> String {
            match self {
                Self::Frame(text) => text.clone(),
                Self::Message(_, _, number) => number.to_string(),
                Self::Lost(gap) => format!("{gap:?}"),
            }
        }

        fn pin(&mut self) {
            *self = Self::Frame(self.text());
        }

        fn channel(&self) -> Option<u32> {
            match self {
                Self::Frame(_) => None,
                Self::Message(channel, ..) => Some(*channel),
                Self::Lost(gap) => Some(gap.channel),
            }
        }
    }

    fn payload(text: String) -> Payload {
        Payload::own(text.into_bytes())
    }

    fn written(gap: &Gap) -> Option<Payload> {
        Some(payload(format!("{gap:?}")))
    }

    fn lose(model: &mut Vec<Model>, at: usize, channel: u32, offset: u64) {
        for one in model[..at].iter_mut().rev() {
            match one {
                Model::Frame(_) => break,
                Model::Lost(gap) if gap.channel == channel => {
                    (gap.count, gap.offset) = (gap.count + 1, offset);
                    return;
                }
                _ => {}
            }
        }
        let gap = Gap {
            channel,
            count: 1,
            offset,
        };
        model.insert(at, Model::Lost(gap));
    }

    proptest! {
        #[test]
        fn behaves_like_a_list(steps in prop::collection::vec((0u8..9, 1u32..4, 0u64..3), 0..400)) {
            let mut queue = Queue::default();
            let mut model: Vec<Model> = Vec::new();
            for (number, (step, channel, key)) in steps.into_iter().enumerate() {
                let number = number as u64;
                let messages = Messages { channel, rule: 0, count: 1, offset: number };
                let bytes = payload(number.to_string());
                match step {
                    0 => {
                        queue.push(bytes);
                        model.push(Model::Frame(number.to_string()));
                    }
                    1 | 2 => {
                        queue.push_droppable(bytes, messages);
                        model.push(Model::Message(channel, None, number));
                    }
                    3 | 4 => {
                        let old = model.iter().position(|one| {
                            matches!(one, Model::Message(of, Some(k), _) if (*of, *k) == (channel, key))
                        });
                        let replaced = queue.push_latest(bytes, messages, key);
                        let expected = old.map(|at| model.remove(at).text().len());
                        prop_assert_eq!(replaced.map(|one| one.bytes), expected);
                        model.push(Model::Message(channel, Some(key), number));
                    }
                    5 => {
                        let dropped = queue.drop_oldest();
                        let oldest = model.iter().position(|one| matches!(one, Model::Message(..)));
                        prop_assert_eq!(dropped.is_some(), oldest.is_some());
                        if let Some(at) = oldest {
                            let Model::Message(of, _, lost) = model.remove(at) else { unreachable!() };
                            prop_assert_eq!(dropped.unwrap().bytes, lost.to_string().len());
                            lose(&mut model, at, of, lost);
                        }
                    }
                    6 | 7 => {
                        queue.settle(written);
                        let second = model.get(1).map(|one| match one {
                            Model::Lost(_) => 0,
                            other => other.text().len(),
                        });
                        prop_assert_eq!(queue.second_len(), second);
                        if step == 6 {
                            let popped = queue.pop_front().map(|one| one.as_slice().to_vec());
                            let first = (!model.is_empty()).then(|| model.remove(0).text().into_bytes());
                            prop_assert_eq!(popped, first);
                        } else {
                            queue.pin_front();
                            if let Some(first) = model.first_mut() {
                                first.pin();
                            }
                        }
                    }
                    _ => {
                        let channel = (key > 0).then_some(channel);
                        queue.forget(channel, written);
                        let of_it = |one: &&mut Model| match channel {
                            None => true,
                            channel => one.channel() == channel,
                        };
                        model.iter_mut().filter(of_it).for_each(Model::pin);
                    }
                }
                prop_assert_eq!(queue.is_empty(), model.is_empty());
                let loose = model.iter().filter(|one| one.channel().is_some()).count();
                prop_assert_eq!(queue.loose, loose);
                prop_assert!(queue.entries.len() <= 2 * model.len() + 34, "holes are closed");
            }
            for one in &model {
                queue.settle(written);
                let front = queue.pop_front().unwrap();
                prop_assert_eq!(front.as_slice().to_vec(), one.text().into_bytes());
            }
            prop_assert!(queue.is_empty() && queue.latest.is_empty() && queue.gaps.is_empty());
        }
    }
}
