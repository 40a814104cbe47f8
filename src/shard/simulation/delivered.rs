//! What a simulated client makes of published messages: its own order, and what may be missing.

use super::client::Client;
use super::hearing::Subscription;
use super::oracle::Oracle;
use crate::config::SlowConsumer;
use std::collections::{BTreeMap, HashSet};

/// The wildcard that matches all channels of the simulation.
pub(super) const WILDCARD: &str = "*";

/// A published message as it arrives.
pub(super) struct Arrived<'a> {
    pub(super) channel: &'a str,
    pub(super) wildcard: Option<&'a str>,
    pub(super) from: Option<&'a str>,
    pub(super) data: &'a str,
    pub(super) offset: u64,
    pub(super) key: Option<&'a str>,
}

/// What came through the wildcard since it was subscribed to.
#[derive(Default)]
pub(super) struct Matched {
    /// By channel: the last offset.
    last: BTreeMap<String, u64>,
    data: HashSet<String>,
    /// Something was lost, of whichever channel.
    dropped: bool,
}

impl Client {
    /// A published message arrived.
    pub(super) fn delivered(&mut self, arrived: &Arrived<'_>, oracle: &mut Oracle) {
        let index = self.index;
        let Arrived {
            channel,
            data,
            offset,
            ..
        } = *arrived;
        assert!(
            oracle.is_from(data, arrived.from, arrived.key),
            "client {index} got {data} from {:?} with key {:?}",
            arrived.from,
            arrived.key
        );
        if let Some(wildcard) = arrived.wildcard {
            assert_eq!(wildcard, WILDCARD, "client {index}");
            return self.matched(arrived, oracle);
        }
        let conflates = self.bounds.slow_consumer == SlowConsumer::Conflate;
        let subscription = self.subscriptions.get_mut(channel).unwrap_or_else(|| {
            panic!("client {index} got a message of {channel:?}, which it is not subscribed to")
        });
        let Subscription {
            epoch, last, until, ..
        } = *subscription;
        if std::mem::take(&mut subscription.last_may_come) && offset == last {
            oracle.read(index, channel, epoch, offset, data);
            return;
        }
        assert!(
            offset > last,
            "client {index} got {channel:?} offset {offset} after {last}"
        );
        subscription.last = offset;
        let key = arrived.key.map(str::to_owned);
        subscription.newest.insert(key, offset);
        if last < until {
            assert_eq!(
                offset,
                last + 1,
                "client {index} recovers {channel:?} up to {until}"
            );
            oracle.read(index, channel, epoch, offset, data);
            return;
        }
        if !conflates {
            oracle.skip(index, channel, epoch, last + 1..offset);
        }
        oracle.saw(index, channel, epoch, offset, data);
    }

    /// A message came through the wildcard.
    fn matched(&mut self, arrived: &Arrived<'_>, oracle: &mut Oracle) {
        let index = self.index;
        let Arrived {
            channel,
            data,
            offset,
            ..
        } = *arrived;
        assert!(
            self.subscriptions.contains_key(WILDCARD),
            "client {index} got a message of {channel:?} through a wildcard that it is not subscribed to"
        );
        oracle.matched(index, channel, data);
        assert!(
            self.matched.data.insert(data.to_owned()),
            "client {index} got this twice through the wildcard: {data}"
        );
        let last = self.matched.last.insert(channel.to_owned(), offset);
        // (A channel that began anew counts from 1 again.)
        if let Some(last) = last.filter(|last| *last < offset)
            && self.bounds.slow_consumer == SlowConsumer::Disconnect
        {
            let missing = offset - last - 1;
            let own = oracle.silent(index, channel);
            assert!(
                missing <= own,
                "client {index} got {channel:?} offset {offset} after {last} through the wildcard"
            );
        }
    }

    /// Messages were lost.
    pub(super) fn dropped(
        &mut self,
        channel: Option<&str>,
        wildcard: Option<&str>,
        count: u64,
        offset: Option<u64>,
        oracle: &Oracle,
    ) {
        let index = self.index;
        assert_ne!(
            self.bounds.slow_consumer,
            SlowConsumer::Disconnect,
            "client {index} lost something of {channel:?}"
        );
        assert!(count > 0, "client {index} lost nothing of {channel:?}");
        let Some(channel) = channel else {
            assert_eq!((wildcard, offset), (Some(WILDCARD), None), "client {index}");
            self.matched.dropped = true;
            return;
        };
        let offset = offset.expect("a channel's offset");
        let own = oracle.silent(index, channel);
        // It may have left the channel meanwhile.
        let Some(subscription) = self.subscriptions.get_mut(channel) else {
            assert!(
                self.left.contains_key(channel),
                "client {index} lost something of {channel:?}, which it was never subscribed to"
            );
            return;
        };
        let Subscription { last, until, .. } = *subscription;
        assert!(
            offset >= last && last >= until,
            "client {index} lost {channel:?} up to {offset} after {subscription:?}"
        );
        let missing = offset - last;
        let conflates = self.bounds.slow_consumer == SlowConsumer::Conflate;
        assert!(
            missing <= count + own || conflates,
            "client {index} lost {missing} of {channel:?}, and was told {count}"
        );
        assert!(
            count <= missing || self.bounds.presence,
            "client {index} lost {missing} of {channel:?}, and was told {count}"
        );
        subscription.last = offset;
        subscription.dropped = offset;
    }

    /// Where nothing more comes: what is missing is its own.
    ///
    /// # Panics
    /// When something else is missing.
    pub(super) fn check_streams(&self, oracle: &mut Oracle) {
        let index = self.index;
        for (channel, subscription) in &self.subscriptions {
            if channel == WILDCARD {
                continue;
            }
            let Subscription { epoch, last, .. } = *subscription;
            assert!(
                last >= subscription.until,
                "client {index} recovered {channel:?} in part: {subscription:?}"
            );
            // The oracle judges that.
            oracle.skip(
                index,
                channel,
                epoch,
                last + 1..oracle.last(channel, epoch) + 1,
            );
            if self.bounds.slow_consumer != SlowConsumer::Conflate {
                continue;
            }
            for (key, newest) in oracle.newest(index, channel, epoch) {
                let lost = newest <= subscription.dropped.max(subscription.began);
                assert!(
                    lost || subscription.newest.get(&key) == Some(&newest),
                    "client {index} has {:?} of {channel:?} with key {key:?}, not {newest}",
                    subscription.newest.get(&key)
                );
            }
        }
        if self.matched.dropped || !self.subscriptions.contains_key(WILDCARD) {
            return;
        }
        for (channel, last) in &self.matched.last {
            if let Some(epoch) = oracle.only_epoch(channel) {
                oracle.skip(
                    index,
                    channel,
                    epoch,
                    last + 1..oracle.last(channel, epoch) + 1,
                );
            }
        }
    }
}
