//! Which connection subscribes to what, and what is published there.

use serde::Serialize;

use crate::load::plan::{OUTSTANDING_MAX, PlanError, check_channel, within};

/// Subscriptions of one connection at most, over all groups.
pub const SUBSCRIPTIONS_MAX: u32 = 1_024;
/// Channels of all groups together at most: each has an entry in a table.
pub const CHANNELS_MAX: u32 = 16 << 20;
/// The shortest payload of a publish, in bytes: it carries its publisher, its number, its channel and
/// its place in that.
pub const CHANNEL_PUBLISH_BYTES_MIN: usize = 28;

/// Subscriptions to several channels, and publishes to them.
#[derive(Clone, Debug, Serialize)]
pub struct ChannelsPlan {
    /// What every subscriber subscribes to.
    pub groups: Vec<ChannelGroup>,
    /// Connections (the plan's first ones, all on the first worker) that publish, and subscribe to
    /// nothing. A channel has one publisher of a run.
    pub publishers: u32,
    /// Length of a published string, in bytes.
    pub size_bytes: usize,
    /// What is published while the run is not paused. `None`: nothing but what `Load::burst` asks for.
    pub traffic: Option<Traffic>,
    /// Subscribe only when `Load::subscribe` says so, not as soon as a connection is open.
    pub held_back: bool,
}

/// Channels with a common name, dealt out evenly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ChannelGroup {
    /// What their names begin with; the channels are `NAME-0`, `NAME-1` and so on. Letters, digits,
    /// `-`, `_`, `.`, `:` only.
    pub name: String,
    /// How many there are. One channel is common to all subscribers; as many as there are subscriptions
    /// make that each is a connection's own.
    pub channels: u32,
    /// Subscriptions of each connection, all to different channels: `channels` is a multiple.
    pub each: u32,
}

/// Publishes to channels of one group, drawn at random, the same ones in every run.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Traffic {
    /// The group's place in [`ChannelsPlan::groups`].
    pub group: usize,
    /// Publishes that a publisher has on the way: from the oldest one that somebody still misses.
    pub outstanding: u32,
    /// Publishes per second and publisher, evenly spaced, as long as no more than `outstanding` are on
    /// the way. `None`: as fast as they arrive.
    pub rate: Option<u32>,
}

impl ChannelGroup {
    /// `channels` channels called `name-0` and so on, to `each` of which every connection subscribes.
    #[must_use]
    pub fn new(name: &str, channels: u32, each: u32) -> Self {
        Self {
            name: name.to_owned(),
            channels,
            each,
        }
    }

    /// The channel of subscription `place` (below `each`) of connection `number`.
    ///
    /// Subscriptions are dealt out in rounds, each of which gives every channel once; rounds differ
    /// in their order, so that connections do not meet the same neighbours in all their channels. The
    /// first round is in order: with no more subscriptions than channels, every connection has its own.
    #[must_use]
    pub fn channel(&self, number: u32, place: u32) -> u32 {
        let channels = u64::from(self.channels);
        let subscription = u64::from(number) * u64::from(self.each) + u64::from(place);
        let (round, at) = (subscription / channels, subscription % channels);
        ((at * step(round, channels) + round) % channels) as u32
    }

    /// The channel with this name, if it is one of the group.
    fn find(&self, name: &str) -> Option<u32> {
        let digits = name.strip_prefix(&*self.name)?.strip_prefix('-')?;
        let channel: u32 = digits.parse().ok()?;
        (channel < self.channels).then_some(channel)
    }
}

/// A step that visits every one of `channels` once: it has no divisor in common with their number.
fn step(round: u64, channels: u64) -> u64 {
    // Steps of following rounds lie far from each other.
    const FAR: u64 = 0x9e37_79b9;
    let mut step = (1 + (round % channels) * (FAR % channels)) % channels;
    while divisor(step.max(1), channels) != 1 {
        step += 1;
    }
    step.max(1)
}

/// The greatest common divisor.
fn divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

impl ChannelsPlan {
    /// Subscriptions to `groups`, and no publishers.
    #[must_use]
    pub fn subscribing(groups: Vec<ChannelGroup>) -> Self {
        Self {
            groups,
            publishers: 0,
            size_bytes: CHANNEL_PUBLISH_BYTES_MIN,
            traffic: None,
            held_back: false,
        }
    }

    /// Subscriptions of one connection.
    #[must_use]
    pub fn each(&self) -> u32 {
        self.groups.iter().map(|group| group.each).sum()
    }

    /// Channels of all groups; they are numbered through.
    pub(in crate::load) fn channels(&self) -> u32 {
        self.groups.iter().map(|group| group.channels).sum()
    }

    /// The number of a group's first channel among all.
    pub(super) fn start(&self, group: usize) -> u32 {
        self.groups[..group]
            .iter()
            .map(|group| group.channels)
            .sum()
    }

    /// The channels of connection `number`, by their numbers among all.
    pub(super) fn subscriptions(&self, number: u32) -> impl Iterator<Item = u32> {
        self.groups.iter().enumerate().flat_map(move |(at, group)| {
            let start = self.start(at);
            (0..group.each).map(move |place| start + group.channel(number, place))
        })
    }

    /// The name of a channel by its number among all.
    pub(super) fn name(&self, mut channel: u32) -> String {
        for group in &self.groups {
            if channel < group.channels {
                return format!("{}-{channel}", group.name);
            }
            channel -= group.channels;
        }
        unreachable!("channels are numbered by this plan")
    }

    /// The number among all of the channel with this name.
    pub(super) fn find(&self, name: &str) -> Option<u32> {
        let mut start = 0;
        for group in &self.groups {
            if let Some(channel) = group.find(name) {
                return Some(start + channel);
            }
            start += group.channels;
        }
        None
    }

    /// Publishers, outstanding, size and the least size, for the checks that all scenarios share.
    pub(in crate::load) fn check(&self) -> Result<(u32, u32, usize, usize), PlanError> {
        let mut channels = 0u64;
        for group in &self.groups {
            check_channel(&group.name)?;
            within("channels", group.channels.into(), 1, CHANNELS_MAX.into())?;
            within("each", group.each.into(), 1, SUBSCRIPTIONS_MAX.into())?;
            if group.channels % group.each != 0 {
                return Err(PlanError::Uneven {
                    name: group.name.clone(),
                    channels: group.channels,
                    each: group.each,
                });
            }
            channels += u64::from(group.channels);
        }
        within("groups", self.groups.len() as u64, 1, 16)?;
        within("channels", channels, 1, CHANNELS_MAX.into())?;
        within("each", self.each().into(), 1, SUBSCRIPTIONS_MAX.into())?;
        within("publishers", self.publishers.into(), 0, 64)?;
        let mut outstanding = 1;
        if let Some(traffic) = &self.traffic {
            let last = self.groups.len() as u64 - 1;
            within("group", traffic.group as u64, 0, last)?;
            // Each publisher has channels of its own, at least one.
            let most = self.groups[traffic.group].channels.min(64);
            within("publishers", self.publishers.into(), 1, most.into())?;
            outstanding = traffic.outstanding;
        }
        within("outstanding", outstanding.into(), 1, OUTSTANDING_MAX.into())?;
        Ok((
            self.publishers,
            outstanding,
            self.size_bytes,
            CHANNEL_PUBLISH_BYTES_MIN,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn channels_of_their_own_and_common_ones() {
        let own = ChannelGroup::new("own", 12, 3);
        let of = |number| [0, 1, 2].map(|place| own.channel(number, place));
        assert_eq!([of(0), of(3)], [[0, 1, 2], [9, 10, 11]]);
        let common = ChannelGroup::new("common", 1, 1);
        assert!((0..9).all(|number| common.channel(number, 0) == 0));
    }

    #[test]
    fn names_are_found_again() {
        let groups = vec![ChannelGroup::new("a", 2, 1), ChannelGroup::new("a-b", 3, 1)];
        let plan = ChannelsPlan::subscribing(groups);
        for channel in 0..5 {
            assert_eq!(plan.find(&plan.name(channel)), Some(channel));
        }
        for name in ["a", "a-", "a-2", "b-0", "a-b", "a-b-3", "a-0x"] {
            assert_eq!(plan.find(name), None, "{name}");
        }
    }

    #[test]
    fn what_cannot_be_dealt_out_is_refused() {
        let check = |channels, each| {
            ChannelsPlan::subscribing(vec![ChannelGroup::new("a", channels, each)]).check()
        };
        assert!(check(10, 5).is_ok());
        assert!(matches!(check(10, 4), Err(PlanError::Uneven { .. })));
        assert!(check(0, 1).is_err());
        assert!(check(1, 0).is_err());
        assert!(ChannelsPlan::subscribing(Vec::new()).check().is_err());
        let mut plan = ChannelsPlan::subscribing(vec![ChannelGroup::new("a", 2, 1)]);
        plan.traffic = Some(Traffic {
            group: 0,
            outstanding: 1,
            rate: None,
        });
        assert!(plan.check().is_err(), "nobody publishes");
        plan.publishers = 2;
        assert!(plan.check().is_ok());
        plan.publishers = 3;
        assert!(plan.check().is_err(), "one of three has no channel");
    }

    proptest! {
        #[test]
        fn channels_are_dealt_out_evenly(each in 1u32..12, times in 1u32..20, rounds in 1u32..30) {
            let group = ChannelGroup::new("c", each * times, each);
            let mut subscribers = vec![0u32; group.channels as usize];
            for number in 0..times * rounds {
                let mut own: Vec<u32> = (0..each).map(|place| group.channel(number, place)).collect();
                for &channel in &own {
                    subscribers[channel as usize] += 1;
                }
                own.sort_unstable();
                own.dedup();
                prop_assert_eq!(own.len() as u32, each);
            }
            prop_assert!(subscribers.iter().all(|&count| count == rounds));
        }
    }
}
