//! Counters per shard, summed when somebody reads them.
//!
//! Each counter has one writer, its shard, so adding is a plain load and store; readers on other
//! threads see a value that is at most a turn old.

use crate::wire::close::CloseCode;
use std::sync::atomic::{AtomicU64, Ordering};

/// One number with one writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to it. Only the shard that owns it may.
    pub fn add(&self, n: u64) {
        self.0.store(
            self.0.load(Ordering::Relaxed).wrapping_add(n),
            Ordering::Relaxed,
        );
    }

    /// Sets it. Only the shard that owns it may.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// Its value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Ended connections by close code.
#[derive(Debug)]
struct CloseCodes([Counter; 33]);

impl Default for CloseCodes {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

/// What slow consumers of the channels of one rule have lost, by reason.
#[derive(Debug, Default)]
pub struct RuleCounters {
    /// Messages that were dropped because the subscriber's outbox was full; it was told.
    pub dropped: Counter,
    /// Messages that were left out because a newer one with the same key replaced them while they waited.
    pub conflated: Counter,
    /// Subscribers that were disconnected because a message did not fit into their outbox.
    pub disconnected: Counter,
}

/// Counters of one rule of several shards, added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuleTotals {
    /// See [`RuleCounters`].
    pub dropped: u64,
    /// See [`RuleCounters`].
    pub conflated: u64,
    /// See [`RuleCounters`].
    pub disconnected: u64,
}

impl RuleTotals {
    fn add(&mut self, counters: &RuleCounters) {
        self.dropped += counters.dropped.get();
        self.conflated += counters.conflated.get();
        self.disconnected += counters.disconnected.get();
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Everything that one shard counts.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct Counters {
            $($(#[$doc])* pub $name: Counter,)*
            /// By number of the rule of channels.
            pub rules: Box<[RuleCounters]>,
            /// Close codes 1000–1015, then 4000–4015, then all others.
            close_codes: CloseCodes,
        }

        /// Counters of several shards, added up.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Totals {
            $($(#[$doc])* pub $name: u64,)*
            /// Ended connections by close code; 0 stands for codes that are neither 1000–1015 nor
            /// 4000–4015.
            pub close_codes: std::collections::BTreeMap<u16, u64>,
            /// By rule of channels, in the order of the configuration; the last one is for all other
            /// channels.
            pub rules: Vec<RuleTotals>,
        }

        impl Totals {
            /// Adds one shard's counters.
            pub fn add(&mut self, counters: &Counters) {
                $(self.$name += counters.$name.get();)*
                let rules = self.rules.len().max(counters.rules.len());
                self.rules.resize(rules, RuleTotals::default());
                for (total, rule) in self.rules.iter_mut().zip(&counters.rules) {
                    total.add(rule);
                }
                for (at, counter) in counters.close_codes.0.iter().enumerate() {
                    let count = counter.get();
                    if count > 0 {
                        *self.close_codes.entry(code_of(at)).or_default() += count;
                    }
                }
            }

            /// Name and value of every counter.
            #[must_use]
            pub fn named(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }
        }
    };
}

counters! {
    /// Connections in the slab, whatever their phase.
    connections,
    /// Upgraded connections that have not begun to close.
    open,
    /// Connections accepted by this shard's listeners.
    accepted,
    /// Accepts that failed.
    accept_errors,
    /// Connections handed over to another shard.
    handed_over,
    /// Handing overs that failed; the connection stayed.
    hand_over_errors,
    /// Connections that arrived from another shard.
    arrived,
    /// Completed upgrades.
    upgrades,
    /// Plain HTTP requests answered.
    http_requests,
    /// Requests refused with an HTTP error.
    rejections,
    /// Connections closed because their handshake took too long.
    handshake_timeouts,
    /// Bytes received.
    bytes_in,
    /// Bytes sent.
    bytes_out,
    /// Complete messages received.
    messages_in,
    /// Messages sent in answer.
    messages_out,
    /// Publishes accepted from this shard's clients.
    publishes,
    /// Publishes refused because another shard does not keep up.
    publishes_refused,
    /// Published messages queued for subscribers of this shard.
    deliveries,
    /// Direct messages queued for connections of this shard.
    directs,
    /// Messages to everyone queued for connections of this shard.
    broadcasts,
    /// Subscriptions that asked for what they had missed.
    recoveries,
    /// Those that could not be given it: too much or too old, or no room for it.
    recoveries_failed,
    /// Kept messages that were sent to new subscribers.
    history_deliveries,
    /// Frames about members of channels that were encoded.
    presence_events,
    /// Requests for a channel's members, or their number.
    presence_reads,
    /// Requests for a channel's history.
    history_reads,
    /// Bytes that the histories of the channels at home here cost.
    history_bytes,
    /// Kept messages that had to go before their time, so that all histories stay within their limit.
    history_evicted,
    /// Users that are connected.
    users,
    /// Frames of published messages encoded; one per message whatever the number of subscribers.
    encodes,
    /// Connections closed for breaking the WebSocket protocol.
    protocol_errors,
    /// Connections closed because they did not keep up.
    slow_consumers,
    /// Bytes that were queued for slow consumers and dropped.
    dropped_bytes,
    /// Connections closed because a send made no progress.
    write_timeouts,
    /// Pings sent by the sweep.
    pings,
    /// Connections closed because no sign of life came.
    heartbeat_timeouts,
    /// Receives that found no buffer.
    buffers_exhausted,
    /// Completions that belong to no living connection.
    stale_completions,
    /// Batches that stayed because another shard's inbox was full.
    batches_kept,
    /// Turns of the event loop.
    turns,
}

fn code_of(at: usize) -> u16 {
    match at {
        0..16 => 1000 + at as u16,
        16..32 => 4000 + (at - 16) as u16,
        _ => 0,
    }
}

impl Counters {
    /// Counters of a shard with this many rules of channels, the one for all others included.
    #[must_use]
    pub fn new(rules: usize) -> Self {
        Self {
            rules: (0..rules).map(|_| RuleCounters::default()).collect(),
            ..Self::default()
        }
    }

    /// Counts an ended connection.
    pub fn closed(&self, code: CloseCode) {
        let at = match code.get() {
            code @ 1000..1016 => usize::from(code - 1000),
            code @ 4000..4016 => usize::from(code - 4000) + 16,
            _ => 32,
        };
        self.close_codes.0[at].add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_add_up() {
        let shards = [Counters::new(2), Counters::new(2)];
        shards[0].rules[1].dropped.add(3);
        shards[1].rules[1].dropped.add(4);
        shards[0].bytes_in.add(5);
        shards[1].bytes_in.add(7);
        shards[0].closed(CloseCode::new(1000));
        shards[1].closed(CloseCode::new(4010));
        shards[1].closed(CloseCode::new(3000));
        let mut totals = Totals::default();
        shards.iter().for_each(|counters| totals.add(counters));
        assert_eq!(totals.bytes_in, 12);
        let dropped: Vec<u64> = totals.rules.iter().map(|rule| rule.dropped).collect();
        assert_eq!(dropped, [0, 7]);
        assert_eq!(
            totals.close_codes.into_iter().collect::<Vec<_>>(),
            [(0, 1), (1000, 1), (4010, 1)]
        );
    }
}
