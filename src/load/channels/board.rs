//! What the workers of a run share about its publishes.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use super::plan::ChannelsPlan;
use crate::load::plan::{OUTSTANDING_MAX, Plan};

/// Publishes of one publisher that are told apart at a time.
const WINDOW: u32 = OUTSTANDING_MAX;

/// A publish that is on the way, written by its publisher's worker before it is sent.
#[derive(Default)]
pub(super) struct Flight {
    pub(super) sent_at_ns: AtomicU64,
    pub(super) channel: AtomicU32,
    /// Subscribers that have it.
    pub(super) delivered: AtomicU32,
}

/// The publishes on the way, over all workers, and what the coordinator asks for.
pub(in crate::load) struct Board {
    flights: Box<[Flight]>,
    /// Subscribers of each channel; empty where nobody publishes.
    subscribers: Box<[u32]>,
    /// Whether connections may subscribe.
    pub(in crate::load) subscribe: AtomicBool,
    /// Bursts that were asked for, and the group of the last one.
    bursts: AtomicU32,
    burst_group: AtomicU32,
    /// Rounds in which every subscriber publishes once, and the group of the last one.
    rounds: AtomicU32,
    round_group: AtomicU32,
    /// When the first publish of a burst left, and when the last delivery of it arrived.
    first_ns: AtomicU64,
    last_ns: AtomicU64,
}

impl Board {
    pub(in crate::load) fn new(channels: &ChannelsPlan, plan: &Plan) -> Self {
        let mut subscribers = vec![0; channels.channels() as usize];
        if channels.publishers == 0 {
            subscribers.clear();
        } else {
            for connection in channels.publishers..plan.connections {
                let number = plan.first + connection - channels.publishers;
                for channel in channels.subscriptions(number) {
                    subscribers[channel as usize] += 1;
                }
            }
        }
        Self {
            flights: (0..channels.publishers * WINDOW)
                .map(|_| Flight::default())
                .collect(),
            subscribers: subscribers.into(),
            subscribe: AtomicBool::new(!channels.held_back),
            bursts: AtomicU32::new(0),
            burst_group: AtomicU32::new(0),
            rounds: AtomicU32::new(0),
            round_group: AtomicU32::new(0),
            first_ns: AtomicU64::new(u64::MAX),
            last_ns: AtomicU64::new(0),
        }
    }

    pub(super) fn flight(&self, publisher: u32, number: u32) -> &Flight {
        &self.flights[(publisher * WINDOW + number % WINDOW) as usize]
    }

    pub(super) fn subscribers(&self, channel: u32) -> u32 {
        self.subscribers[channel as usize]
    }

    /// Whether somebody publishes.
    pub(in crate::load) fn publishes(&self) -> bool {
        !self.flights.is_empty()
    }

    /// Notes a publish that is about to be sent.
    pub(super) fn take_off(&self, publisher: u32, number: u32, channel: u32, now_ns: u64) {
        let flight = self.flight(publisher, number);
        flight.sent_at_ns.store(now_ns, Ordering::Relaxed);
        flight.channel.store(channel, Ordering::Relaxed);
        flight.delivered.store(0, Ordering::Release);
        self.first_ns.fetch_min(now_ns, Ordering::Relaxed);
    }

    /// Notes a delivery; true if it was the last one of its publish.
    pub(super) fn land(&self, flight: &Flight, channel: u32, now_ns: u64) -> bool {
        let before = flight.delivered.fetch_add(1, Ordering::AcqRel);
        let is_last = before + 1 == self.subscribers(channel);
        if is_last {
            self.last_ns.fetch_max(now_ns, Ordering::AcqRel);
        }
        is_last
    }

    /// Asks for one publish to each channel of a group.
    pub(in crate::load) fn ask_burst(&self, group: usize) {
        self.first_ns.store(u64::MAX, Ordering::Relaxed);
        self.last_ns.store(0, Ordering::Relaxed);
        self.burst_group.store(group as u32, Ordering::Relaxed);
        self.bursts.fetch_add(1, Ordering::Release);
    }

    /// From the first publish of the last burst to its last delivery so far, in nanoseconds.
    pub(in crate::load) fn burst_ns(&self) -> u64 {
        let last_ns = self.last_ns.load(Ordering::Acquire);
        last_ns.saturating_sub(self.first_ns.load(Ordering::Relaxed))
    }

    /// The group of a burst that was asked for after the first `seen`.
    pub(super) fn burst_after(&self, seen: &mut u32) -> Option<usize> {
        after(&self.bursts, &self.burst_group, seen)
    }

    /// Asks every subscriber to publish once to its channel of a group.
    pub(in crate::load) fn ask_round(&self, group: usize) {
        self.round_group.store(group as u32, Ordering::Relaxed);
        self.rounds.fetch_add(1, Ordering::Release);
    }

    /// The group of a round that was asked for after the first `seen`.
    pub(super) fn round_after(&self, seen: &mut u32) -> Option<usize> {
        after(&self.rounds, &self.round_group, seen)
    }
}

/// The group of what was asked for since `seen`, if it was.
fn after(asked: &AtomicU32, group: &AtomicU32, seen: &mut u32) -> Option<usize> {
    let now = asked.load(Ordering::Acquire);
    (now != *seen).then(|| {
        *seen = now;
        group.load(Ordering::Relaxed) as usize
    })
}
