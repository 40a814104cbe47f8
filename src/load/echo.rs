//! Echo traffic: every message must come back as it was, in order.

use std::collections::VecDeque;

use super::Latencies;
use super::plan::EchoPlan;
use super::scenario::{Outgoing, Scenario, ScenarioCounts, noise};
use crate::wire::frame::Opcode;
use crate::wire::message::Kind;

/// Payloads start at this many different places of the noise: a prime, so that neither the
/// connections nor the numbers of messages repeat in step with it.
const STARTS: u32 = 1_021;

/// One worker's echo traffic.
pub(super) struct Echo {
    plan: EchoPlan,
    /// This worker's part of the rate, in messages per second.
    rate: Option<f64>,
    noise: Vec<u8>,
    /// Connections that may send; one entry per message.
    idle: VecDeque<u32>,
    outstanding: u64,
    running: bool,
    now_ns: u64,
    /// When the current run began and how many messages it has sent, for the rate.
    run: Option<(u64, u64)>,
    /// Runs that have begun.
    runs: u32,
    /// One entry for each message of a window that its connection may not send in this run.
    spent: Vec<u32>,
    /// When the message that [`Scenario::next_due`] announced was due.
    due_ns: u64,
    counts: ScenarioCounts,
    latencies: Latencies,
}

/// One connection's.
#[derive(Debug, Default)]
pub(super) struct EchoState {
    /// The number of the next message that has to come back.
    expected: u32,
    /// When the messages on the way were due, the oldest first.
    sent_at_ns: VecDeque<u64>,
    /// The run in which it last sent, and how many messages there.
    run: u32,
    sent: u32,
    closed: bool,
}

impl Echo {
    pub(super) fn new(plan: EchoPlan, rate: Option<f64>) -> Self {
        Self {
            plan,
            rate,
            noise: noise(plan.size_bytes + STARTS as usize),
            idle: VecDeque::new(),
            outstanding: 0,
            running: false,
            now_ns: 0,
            run: None,
            runs: 0,
            spent: Vec::new(),
            due_ns: 0,
            counts: ScenarioCounts::default(),
            latencies: Latencies::new(),
        }
    }

    /// The payload of a connection's message: different from that of its neighbours in number and
    /// connection.
    fn payload(&self, key: u32, number: u32) -> &[u8] {
        let start = (key.wrapping_mul(31).wrapping_add(number) % STARTS) as usize;
        &self.noise[start..start + self.plan.size_bytes]
    }

    /// Writes the next message, which was due at `due_ns`, if the connection may send another in this run.
    fn write(&mut self, key: u32, state: &mut EchoState, due_ns: u64, out: &mut Outgoing<'_>) {
        if state.run != self.runs {
            (state.run, state.sent) = (self.runs, 0);
        }
        if self.plan.messages.is_some_and(|most| state.sent >= most) {
            self.spent.push(key);
            return;
        }
        state.sent += 1;
        let number = state.expected.wrapping_add(state.sent_at_ns.len() as u32);
        out.frame(Opcode::Binary, self.payload(key, number));
        state.sent_at_ns.push_back(due_ns);
        self.outstanding += 1;
    }
}

impl Scenario for Echo {
    type State = EchoState;

    fn opened(&mut self, key: u32, _: &mut EchoState, _: &mut Outgoing<'_>) -> bool {
        self.idle
            .extend(std::iter::repeat_n(key, self.plan.outstanding as usize));
        true
    }

    fn message(
        &mut self,
        key: u32,
        state: &mut EchoState,
        kind: Kind,
        payload: &[u8],
        out: &mut Outgoing<'_>,
    ) -> Result<bool, String> {
        let number = state.expected;
        let Some(sent_at_ns) = state.sent_at_ns.pop_front() else {
            return Err("a message came back that was not sent".to_owned());
        };
        if kind != Kind::Binary || payload != self.payload(key, number) {
            return Err(difference(number, self.payload(key, number), payload));
        }
        state.expected = number.wrapping_add(1);
        self.outstanding -= 1;
        self.counts.messages += 1;
        self.counts.bytes += payload.len() as u64;
        self.latencies
            .record_ns(self.now_ns.saturating_sub(sent_at_ns));
        if self.running && self.rate.is_none() {
            self.write(key, state, self.now_ns, out);
        } else {
            self.idle.push_back(key);
        }
        Ok(false)
    }

    fn closed(&mut self, _: u32, state: &mut EchoState) {
        self.outstanding -= state.sent_at_ns.len() as u64;
        state.closed = true;
    }

    fn clock(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
    }

    fn turn(&mut self, running: bool) {
        let now_ns = self.now_ns;
        self.running = running;
        self.run = match (running, self.run) {
            (false, _) => None,
            (true, None) => {
                self.runs = self.runs.wrapping_add(1);
                self.idle.extend(self.spent.drain(..));
                Some((now_ns, 0))
            }
            (true, run) => run,
        };
    }

    fn next_due(&mut self) -> Option<u32> {
        let (began_ns, sent) = self.run.as_mut()?;
        self.due_ns = self.now_ns;
        if let Some(rate) = self.rate {
            self.due_ns = *began_ns + ((*sent + 1) as f64 / rate * 1e9) as u64;
            if self.due_ns > self.now_ns {
                return None;
            }
        }
        let key = self.idle.pop_front()?;
        *sent += 1;
        Some(key)
    }

    fn send(&mut self, key: u32, state: &mut EchoState, out: &mut Outgoing<'_>) {
        if !state.closed {
            self.write(key, state, self.due_ns, out);
        }
    }

    fn counts(&self) -> ScenarioCounts {
        self.counts
    }

    fn is_quiet(&self) -> bool {
        self.outstanding == 0
    }

    fn take_latencies(&mut self) -> (Latencies, Latencies) {
        (std::mem::take(&mut self.latencies), Latencies::new())
    }
}

/// Says where an answer differs from what was sent.
fn difference(number: u32, sent: &[u8], came: &[u8]) -> String {
    let at = sent.iter().zip(came).position(|(sent, came)| sent != came);
    match at {
        _ if sent.len() != came.len() => format!(
            "message {number} had {} bytes and came back with {}",
            sent.len(),
            came.len()
        ),
        Some(at) => format!(
            "byte {at} of message {number} was {:#04x} and came back as {:#04x}",
            sent[at], came[at]
        ),
        None => format!("message {number} was binary and came back as text"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::scenario::MaskKeys;
    use super::*;
    use crate::ring::{Payload, PayloadPool};

    struct Wire {
        waiting: Option<Payload>,
        pool: PayloadPool,
        keys: MaskKeys,
    }

    impl Wire {
        fn new() -> Self {
            Self {
                waiting: None,
                pool: PayloadPool::new(),
                keys: MaskKeys::new(7),
            }
        }

        fn out(&mut self) -> Outgoing<'_> {
            Outgoing {
                waiting: &mut self.waiting,
                pool: &mut self.pool,
                keys: &mut self.keys,
            }
        }
    }

    fn echo(outstanding: u32, rate: Option<f64>) -> Echo {
        Echo::new(EchoPlan::new(64, outstanding), rate)
    }

    #[test]
    fn a_window_is_filled_and_kept_full() {
        let (mut echo, mut state, mut wire) = (echo(3, None), EchoState::default(), Wire::new());
        assert!(echo.opened(5, &mut state, &mut wire.out()));
        echo.clock(1_000);
        echo.turn(false);
        assert_eq!(echo.next_due(), None);
        echo.clock(2_000);
        echo.turn(true);
        while let Some(key) = echo.next_due() {
            echo.send(key, &mut state, &mut wire.out());
        }
        assert_eq!((state.sent_at_ns.len(), echo.is_quiet()), (3, false));
        echo.clock(7_000);
        echo.turn(true);
        let answer = echo.payload(5, 0).to_vec();
        let came = echo.message(5, &mut state, Kind::Binary, &answer, &mut wire.out());
        assert_eq!((came, state.sent_at_ns.len()), (Ok(false), 3));
        echo.clock(8_000);
        echo.turn(false);
        for number in 1..4 {
            let answer = echo.payload(5, number).to_vec();
            let came = echo.message(5, &mut state, Kind::Binary, &answer, &mut wire.out());
            assert_eq!(came, Ok(false));
        }
        assert!(echo.is_quiet());
        assert_eq!((echo.counts().messages, echo.counts().bytes), (4, 256));
        let latencies = echo.take_latencies().0.summary();
        assert_eq!((latencies.count, latencies.max_us), (4, 6.003));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let (mut echo, mut state, mut wire) = (echo(1, None), EchoState::default(), Wire::new());
        echo.opened(0, &mut state, &mut wire.out());
        let mut receive = |change: fn(&mut Vec<u8>), kind| {
            echo.send(0, &mut state, &mut wire.out());
            let mut payload = echo.payload(0, 0).to_vec();
            change(&mut payload);
            echo.message(0, &mut state, kind, &payload, &mut wire.out())
        };
        let byte = receive(|payload| payload[9] ^= 1, Kind::Binary);
        assert!(byte.unwrap_err().starts_with("byte 9 of message 0"));
        let short = receive(Vec::clear, Kind::Binary);
        assert!(short.unwrap_err().contains("64 bytes and came back with 0"));
        assert!(receive(|_| {}, Kind::Text).unwrap_err().contains("as text"));
        assert_eq!(receive(|_| {}, Kind::Binary), Ok(false));
        let unasked = echo.message(
            0,
            &mut EchoState::default(),
            Kind::Binary,
            b"",
            &mut wire.out(),
        );
        assert!(unasked.unwrap_err().contains("not sent"));
    }

    #[test]
    fn a_rate_is_kept() {
        let (mut echo, mut state, mut wire) = (
            echo(1_000, Some(1_000.0)),
            EchoState::default(),
            Wire::new(),
        );
        echo.opened(0, &mut state, &mut wire.out());
        let mut sent = 0;
        for ms in 0..=100u64 {
            echo.clock(1 + ms * 1_000_000);
            echo.turn(true);
            while echo.next_due().is_some() {
                sent += 1;
            }
        }
        assert_eq!(sent, 100);
    }

    #[test]
    fn a_message_that_leaves_late_is_not_measured_from_there() {
        // One message per millisecond, one connection, one on the way: the second one has to wait for the
        // answer to the first.
        let (mut echo, mut state, mut wire) =
            (echo(1, Some(1_000.0)), EchoState::default(), Wire::new());
        echo.opened(0, &mut state, &mut wire.out());
        let began_ns = 5_000_000;
        echo.clock(began_ns);
        echo.turn(true);
        for (sent_ms, came_ms) in [(1, 4), (4, 6)] {
            echo.clock(began_ns + sent_ms * 1_000_000);
            echo.turn(true);
            let key = echo.next_due().expect("one is due");
            echo.send(key, &mut state, &mut wire.out());
            assert_eq!(echo.next_due(), None);
            echo.clock(began_ns + came_ms * 1_000_000);
            let answer = echo.payload(0, state.expected).to_vec();
            let came = echo.message(0, &mut state, Kind::Binary, &answer, &mut wire.out());
            assert_eq!(came, Ok(false));
        }
        // Due after 1 ms and after 2 ms, back after 4 and after 6; three digits are kept.
        let latencies = echo.take_latencies().0.summary();
        assert_eq!(latencies.count, 2);
        assert!(
            (2_990.0..3_010.0).contains(&latencies.p50_us),
            "{latencies:?}"
        );
        assert!(
            (3_990.0..4_010.0).contains(&latencies.max_us),
            "{latencies:?}"
        );
    }

    #[test]
    fn neighbours_differ() {
        let echo = echo(1, None);
        for key in 0..50 {
            for number in 0..50 {
                let here = echo.payload(key, number);
                assert_ne!(here, echo.payload(key, number + 1));
                assert_ne!(here, echo.payload(key + 1, number));
            }
        }
    }
}
