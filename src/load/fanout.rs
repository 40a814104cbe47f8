//! Fan-out traffic: every subscriber must get every publish, in its publisher's order.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use memchr::memmem::{self, Finder};
use smallvec::SmallVec;

use super::Latencies;
use super::plan::{FanoutPlan, OUTSTANDING_MAX};
use super::scenario::{Outgoing, Scenario, ScenarioCounts, noise};
use crate::wire::frame::Opcode;
use crate::wire::message::Kind;

/// Publishes of one publisher that are told apart at a time.
const WINDOW: u32 = OUTSTANDING_MAX;
/// Digits of a publish that name its publisher and its number.
const PUBLISHER_DIGITS: usize = 4;
const NUMBER_DIGITS: usize = 8;
/// Is part of the answer to a subscription, and of nothing else that comes before it.
const SUBSCRIBED: &[u8] = br#""type":"subscribed""#;

/// What the workers of one run share: how many of them have seen each publish delivered to all of
/// their subscribers.
pub(super) struct Progress {
    delivered: Box<[AtomicU32]>,
    /// Workers that have subscribers.
    workers: u32,
    /// Publishes that reached everyone, over all publishers.
    pub(super) complete: AtomicU64,
}

impl Progress {
    pub(super) fn new(publishers: u32, workers: u32) -> Self {
        Self {
            delivered: (0..publishers * WINDOW)
                .map(|_| AtomicU32::new(0))
                .collect(),
            workers,
            complete: AtomicU64::new(0),
        }
    }

    fn of(&self, publisher: u32, number: u32) -> &AtomicU32 {
        &self.delivered[(publisher * WINDOW + number % WINDOW) as usize]
    }
}

/// One worker's fan-out traffic.
pub(super) struct Fanout {
    plan: FanoutPlan,
    progress: Arc<Progress>,
    /// How many of this worker's connections (the first ones) publish.
    publishers: u32,
    /// How many of this worker's connections subscribe.
    subscribers: u32,
    /// The publishers' own state.
    publishing: Vec<Publisher>,
    /// This worker's deliveries of each publish that is on the way.
    delivered: Vec<u32>,
    data: Data,
    subscribe: String,
    needle: Finder<'static>,
    due: VecDeque<u32>,
    now_ns: u64,
    /// When the current run began.
    began_ns: Option<u64>,
    counts: ScenarioCounts,
    latencies: Latencies,
}

#[derive(Debug, Default)]
struct Publisher {
    open: bool,
    /// The number of the next publish.
    next: u32,
    /// How many publishes the current run has begun, for the rate.
    begun: u32,
    /// When the publishes on the way were sent, the oldest first.
    sent_at_ns: VecDeque<u64>,
}

/// One connection's.
#[derive(Debug, Default)]
pub(super) struct FanoutState {
    subscribed: bool,
    /// For each publisher the number of the next publish that has to come.
    next: SmallVec<[u32; 2]>,
}

/// The published strings.
struct Data {
    /// Printable bytes that need no escaping.
    filler: Vec<u8>,
    /// The string that was built last, and of what.
    last: Vec<u8>,
    last_of: Option<(u32, u32)>,
}

impl Data {
    fn new(size_bytes: usize) -> Self {
        let filler = noise(size_bytes.saturating_sub(PUBLISHER_DIGITS + NUMBER_DIGITS));
        Self {
            filler: filler.iter().map(|byte| b'a' + byte % 26).collect(),
            last: Vec::new(),
            last_of: None,
        }
    }

    /// The string of a publish. All subscribers expect the same one, mostly one after the other.
    fn of(&mut self, publisher: u32, number: u32) -> &[u8] {
        if self.last_of != Some((publisher, number)) {
            self.last_of = Some((publisher, number));
            self.last.clear();
            self.last
                .extend_from_slice(format!("{publisher:04x}{number:08x}").as_bytes());
            self.last.extend_from_slice(&self.filler);
        }
        &self.last
    }
}

impl Fanout {
    /// `connections`: this worker's; its first `publishers` publish.
    pub(super) fn new(
        plan: FanoutPlan,
        progress: Arc<Progress>,
        connections: u32,
        publishers: u32,
    ) -> Self {
        let subscribe = format!(
            r#"{{"type":"subscribe","channel":"{}","id":1}}"#,
            plan.channel
        );
        Self {
            data: Data::new(plan.size_bytes),
            delivered: vec![0; (plan.publishers * WINDOW) as usize],
            publishing: (0..publishers).map(|_| Publisher::default()).collect(),
            subscribers: connections - publishers,
            plan,
            progress,
            publishers,
            subscribe,
            needle: Finder::new(br#""data":""#),
            due: VecDeque::new(),
            now_ns: 0,
            began_ns: None,
            counts: ScenarioCounts::default(),
            latencies: Latencies::new(),
        }
    }

    /// The published string in a message: in its `data`, or (from the bare floor) all of it.
    fn data_in<'a>(&self, payload: &'a [u8]) -> &'a [u8] {
        if payload.first() != Some(&b'{') {
            return payload;
        }
        let Some(start) = self.needle.find(payload) else {
            return &[];
        };
        let rest = &payload[start + self.needle.needle().len()..];
        // A string of another length does not end here, and is found out by the comparison.
        match rest.get(self.plan.size_bytes) {
            Some(b'"') => &rest[..self.plan.size_bytes],
            _ => &[],
        }
    }

    fn deliver(&mut self, state: &mut FanoutState, payload: &[u8]) -> Result<(), String> {
        let data = self.data_in(payload);
        let wrong = || {
            let start = &payload[..payload.len().min(160)];
            format!("unexpected message: {}", String::from_utf8_lossy(start))
        };
        let (publisher, number) = read_numbers(data).ok_or_else(wrong)?;
        let expected = state.next.get_mut(publisher as usize).ok_or_else(wrong)?;
        if number != *expected {
            return Err(format!(
                "publish {number} of publisher {publisher} came where {expected} had to come"
            ));
        }
        if data != self.data.of(publisher, number) {
            return Err(wrong());
        }
        *expected = expected.wrapping_add(1);
        self.counts.messages += 1;
        self.counts.bytes += data.len() as u64;
        let delivered = &mut self.delivered[(publisher * WINDOW + number % WINDOW) as usize];
        *delivered += 1;
        if *delivered == self.subscribers {
            *delivered = 0;
            let workers = self.progress.of(publisher, number);
            workers.fetch_add(1, Ordering::AcqRel);
        }
        Ok(())
    }
}

/// Publisher and number at the start of a published string.
fn read_numbers(data: &[u8]) -> Option<(u32, u32)> {
    let digits = |bytes: &[u8]| u32::from_str_radix(std::str::from_utf8(bytes).ok()?, 16).ok();
    let (publisher, rest) = data.split_at_checked(PUBLISHER_DIGITS)?;
    Some((digits(publisher)?, digits(rest.get(..NUMBER_DIGITS)?)?))
}

impl Scenario for Fanout {
    type State = FanoutState;

    fn opened(&mut self, key: u32, state: &mut FanoutState, out: &mut Outgoing<'_>) -> bool {
        if let Some(publisher) = self.publishing.get_mut(key as usize) {
            publisher.open = true;
            return true;
        }
        state.next = SmallVec::from_elem(0, self.plan.publishers as usize);
        out.frame(Opcode::Text, self.subscribe.as_bytes());
        false
    }

    fn message(
        &mut self,
        key: u32,
        state: &mut FanoutState,
        kind: Kind,
        payload: &[u8],
        _: &mut Outgoing<'_>,
    ) -> Result<bool, String> {
        if kind != Kind::Text {
            return Err("a binary message on a text protocol".to_owned());
        }
        if key >= self.publishers && state.subscribed {
            return self.deliver(state, payload).map(|()| false);
        }
        if key >= self.publishers && memmem::find(payload, SUBSCRIBED).is_some() {
            state.subscribed = true;
            return Ok(true);
        }
        let start = &payload[..payload.len().min(160)];
        Err(format!(
            "unexpected answer: {}",
            String::from_utf8_lossy(start)
        ))
    }

    fn closed(&mut self, key: u32, _: &mut FanoutState) {
        if let Some(publisher) = self.publishing.get_mut(key as usize) {
            publisher.open = false;
        }
    }

    fn clock(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
    }

    fn turn(&mut self, running: bool) {
        let now_ns = self.now_ns;
        if !running {
            self.began_ns = None;
        } else if self.began_ns.is_none() {
            self.began_ns = Some(now_ns);
            for publisher in &mut self.publishing {
                publisher.begun = 0;
            }
        }
        let elapsed_ns = now_ns - self.began_ns.unwrap_or(now_ns);
        let due_by_now = self.plan.rate.map(|rate| {
            let due = u128::from(elapsed_ns) * u128::from(rate) / 1_000_000_000;
            u32::try_from(due).unwrap_or(u32::MAX)
        });
        for (key, publisher) in self.publishing.iter_mut().enumerate() {
            let key = key as u32;
            while let Some(&sent_at_ns) = publisher.sent_at_ns.front() {
                let oldest = publisher.next - publisher.sent_at_ns.len() as u32;
                let workers = self.progress.of(key, oldest);
                if workers.load(Ordering::Acquire) < self.progress.workers {
                    break;
                }
                workers.store(0, Ordering::Release);
                publisher.sent_at_ns.pop_front();
                self.counts.publishes += 1;
                self.progress.complete.fetch_add(1, Ordering::Relaxed);
                self.latencies.record_ns(now_ns.saturating_sub(sent_at_ns));
            }
            if running && publisher.open {
                let free = self.plan.outstanding - publisher.sent_at_ns.len() as u32;
                let left = match self.plan.publishes {
                    Some(publishes) => publishes - publisher.next,
                    None => free,
                };
                let paced = due_by_now.map_or(free, |due| due.saturating_sub(publisher.begun));
                let more = free.min(left).min(paced);
                publisher.begun += more;
                self.due.extend(std::iter::repeat_n(key, more as usize));
            }
        }
    }

    fn next_due(&mut self) -> Option<u32> {
        self.due.pop_front()
    }

    fn send(&mut self, key: u32, _: &mut FanoutState, out: &mut Outgoing<'_>) {
        let Some(publisher) = self.publishing.get_mut(key as usize) else {
            return;
        };
        let number = publisher.next;
        publisher.next += 1;
        publisher.sent_at_ns.push_back(self.now_ns);
        let mut message = format!(
            r#"{{"type":"publish","channel":"{}","data":""#,
            self.plan.channel
        )
        .into_bytes();
        message.extend_from_slice(self.data.of(key, number));
        message.extend_from_slice(b"\"}");
        out.frame(Opcode::Text, &message);
    }

    fn counts(&self) -> ScenarioCounts {
        self.counts
    }

    fn is_quiet(&self) -> bool {
        self.publishing
            .iter()
            .all(|publisher| publisher.sent_at_ns.is_empty())
    }

    fn take_latencies(&mut self) -> (Latencies, Latencies) {
        let lasts = std::mem::take(&mut self.latencies);
        (lasts.clone(), lasts)
    }
}

#[cfg(test)]
mod tests {
    use super::super::scenario::MaskKeys;
    use super::*;
    use crate::ring::PayloadPool;

    /// Three connections, of which the first publishes.
    struct Run {
        fanout: Fanout,
        states: [FanoutState; 3],
        progress: Arc<Progress>,
        sent: usize,
    }

    impl Run {
        fn new(outstanding: u32, publishes: Option<u32>, rate: Option<u32>) -> Self {
            let plan = FanoutPlan {
                channel: "c".to_owned(),
                publishers: 1,
                size_bytes: 32,
                outstanding,
                publishes,
                rate,
            };
            let progress = Arc::new(Progress::new(1, 1));
            let mut run = Self {
                fanout: Fanout::new(plan, Arc::clone(&progress), 3, 1),
                states: Default::default(),
                progress,
                sent: 0,
            };
            for key in 0..3 {
                let state = &mut run.states[key as usize];
                let ready = with_out(|out| run.fanout.opened(key, state, out));
                assert_eq!(ready, key == 0);
            }
            for key in 1..3 {
                let answer = br#"{"type":"subscribed","channel":"c","id":1}"#;
                assert_eq!(run.message(key, answer), Ok(true));
            }
            run
        }

        fn message(&mut self, key: u32, payload: &[u8]) -> Result<bool, String> {
            let state = &mut self.states[key as usize];
            with_out(|out| self.fanout.message(key, state, Kind::Text, payload, out))
        }

        fn turn(&mut self, now_ns: u64) {
            self.fanout.clock(now_ns);
            self.fanout.turn(true);
            while let Some(key) = self.fanout.next_due() {
                let state = &mut self.states[key as usize];
                with_out(|out| self.fanout.send(key, state, out));
                self.sent += 1;
            }
        }

        fn published(&mut self, number: u32) -> Vec<u8> {
            let data = String::from_utf8(self.fanout.data.of(0, number).to_vec());
            let data = data.expect("it is text");
            format!(r#"{{"type":"message","channel":"c","from":null,"data":"{data}","offset":7}}"#)
                .into_bytes()
        }
    }

    fn with_out<T>(call: impl FnOnce(&mut Outgoing<'_>) -> T) -> T {
        call(&mut Outgoing {
            waiting: &mut None,
            pool: &mut PayloadPool::new(),
            keys: &mut MaskKeys::new(1),
        })
    }

    #[test]
    fn a_publish_is_over_when_everyone_has_it() {
        let mut run = Run::new(2, Some(3), None);
        run.turn(1_000);
        run.turn(2_000);
        assert_eq!(run.sent, 2);
        let (first, second, third) = (run.published(0), run.published(1), run.published(2));
        assert_eq!(run.message(1, &first), Ok(false));
        assert_eq!(run.message(1, &second), Ok(false));
        run.turn(3_000);
        assert_eq!((run.sent, run.fanout.counts().publishes), (2, 0));
        assert_eq!(run.message(2, &first), Ok(false));
        run.turn(4_000);
        assert_eq!((run.sent, run.fanout.counts().publishes), (3, 1));
        for (key, message) in [(2, &second), (1, &third), (2, &third)] {
            assert_eq!(run.message(key, message), Ok(false));
        }
        assert!(!run.fanout.is_quiet());
        run.turn(5_000);
        assert!(run.fanout.is_quiet());
        assert_eq!((run.sent, run.fanout.counts().messages), (3, 6));
        assert_eq!(run.progress.complete.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn a_rate_is_kept() {
        let mut run = Run::new(1_000, None, Some(100));
        for ms in 0..=500 {
            run.turn(7 + ms * 1_000_000);
        }
        assert_eq!(run.sent, 50);
    }

    #[test]
    fn what_is_lost_doubled_or_changed_is_found() {
        let mut run = Run::new(4, None, None);
        run.turn(1_000);
        let (first, second) = (run.published(0), run.published(1));
        let lost = run.message(1, &second).unwrap_err();
        assert!(
            lost.contains("publish 1 of publisher 0 came where 0"),
            "{lost}"
        );
        assert_eq!(run.message(1, &first), Ok(false));
        assert!(run.message(1, &first).is_err(), "doubled");
        let mut changed = second.clone();
        let at = changed.len() - 20;
        changed[at] ^= 1;
        assert!(run.message(1, &changed).is_err(), "changed");
        let longer = String::from_utf8_lossy(&second).replace("\",\"offset", "x\",\"offset");
        assert!(run.message(1, longer.as_bytes()).is_err(), "longer");
        let disconnect = run.message(1, br#"{"type":"disconnect","code":4010}"#);
        assert!(disconnect.unwrap_err().contains("4010"));
        assert_eq!(run.message(1, &second), Ok(false));
        // The bare floor sends nothing but the string.
        let bare = run.fanout.data.of(0, 0).to_vec();
        assert_eq!(run.message(2, &bare), Ok(false));
        assert!(run.message(0, b"{}").is_err(), "publishers hear nothing");
    }
}
