//! How a worker ends its connections: at once, or with what a client says before.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::connection::Stage;
use super::plan::Ending;
use super::scenario::{Outgoing, Scenario};
use super::worker::Worker;
use crate::ring::{Completion, Op, Ring, Slot, Wait};
use crate::wire::frame::Opcode;

/// How long the closing of all connections may take.
const CLOSE: Duration = Duration::from_secs(10);
/// How long a turn waits meanwhile.
const A_WHILE: Wait = Wait::For {
    timeout_us: 10_000,
    min_wait_us: 0,
};
/// The code of a close frame that means nothing but the end (RFC 6455 section 7.4.1).
const NORMAL: u16 = 1_000;
/// The first fragment of a message that never ends.
const FRAGMENT: &[u8] = br#"{"type":"publish","channel":"never","data":""#;
/// Payload of the ping that follows it.
const HELD: &[u8] = b"held?";

impl<S: Scenario> Worker<S> {
    /// Closes `key` with a reset.
    pub(super) fn close(&mut self, key: u32) {
        let connection = &mut self.connections[key as usize];
        match connection.stage {
            Stage::New | Stage::Closed => return,
            Stage::Parting(_) | Stage::Parted => self.parting -= 1,
            Stage::Connecting | Stage::Upgrading => self.connecting -= 1,
            Stage::Open => {}
        }
        connection.stage = Stage::Closed;
        self.ready -= u32::from(std::mem::take(&mut connection.ready));
        self.closing += 1;
        let slot: Slot = connection.slot;
        let armed = [Op::Connect, Op::Poll, Op::Send];
        self.ring.close(slot, key, connection.generation, &armed);
        self.scenario.closed(key, &mut connection.state);
        if self.stay_ns.is_some() {
            self.vacant.push_back(key);
        }
    }

    /// Connection `key` is ready: whether it is read on, and when it has to go.
    pub(super) fn note_ready(&mut self, key: u32) {
        let now_ns = self.now_ns();
        let connection = &mut self.connections[key as usize];
        connection.ready = true;
        connection.stalled = self.stall;
        self.ready += 1;
        if let Some(stay_ns) = self.stay_ns {
            let entry = (now_ns + stay_ns, key, connection.generation);
            self.leaving.push_back(entry);
        }
    }

    /// Ends connections whose time is over.
    pub(super) fn leave(&mut self) {
        let now_ns = self.now_ns();
        while let Some((_, key, generation)) = due(&mut self.leaving, now_ns) {
            let connection = &self.connections[key as usize];
            if connection.generation == generation && connection.stage == Stage::Open {
                self.left += 1;
                self.end(key);
                let gone_ns = now_ns + CLOSE.as_nanos() as u64;
                self.parted_by.push_back((gone_ns, key, generation));
            }
        }
        while let Some((_, key, generation)) = due(&mut self.parted_by, now_ns) {
            let connection = &self.connections[key as usize];
            let parting = matches!(connection.stage, Stage::Parting(_) | Stage::Parted);
            if connection.generation == generation && parting {
                let seconds = CLOSE.as_secs();
                let reason = format!("no answer to its last words after {seconds} s");
                self.fail(key, &reason);
            }
        }
    }

    /// Ends an open connection as the plan says, any other at once.
    fn end(&mut self, key: u32) {
        let stage = self.connections[key as usize].stage;
        match self.endings[(self.first + key) as usize % self.endings.len()] {
            ending @ (Ending::Close | Ending::MidMessage) if stage == Stage::Open => {
                self.part(key, ending);
            }
            _ => self.close(key),
        }
    }

    /// Ends all connections, each as the plan says, and hands in what was measured.
    pub(super) fn close_all(&mut self, completions: &mut Vec<Completion>) -> anyhow::Result<()> {
        for key in 0..self.connections.len() as u32 {
            self.end(key);
            if key % 256 == 0 {
                self.flush();
                self.parting_turn(Wait::Look, completions)?;
            }
        }
        let began = Instant::now();
        while self.parting > 0 && began.elapsed() < CLOSE {
            self.receive_starved();
            self.flush();
            self.parting_turn(A_WHILE, completions)?;
        }
        if self.parting > 0 {
            self.shared.fail(format!(
                "{} connections of client thread {} had no answer to their last words after {} s",
                self.parting,
                self.index,
                CLOSE.as_secs()
            ));
            for key in 0..self.connections.len() as u32 {
                self.close(key);
            }
        }
        while self.closing > 0 && began.elapsed() < 2 * CLOSE {
            self.parting_turn(A_WHILE, completions)?;
        }
        self.hand_in_latencies();
        Ok(())
    }

    fn parting_turn(
        &mut self,
        wait: Wait,
        completions: &mut Vec<Completion>,
    ) -> anyhow::Result<()> {
        self.ring.turn(wait, completions)?;
        for completion in completions.drain(..) {
            self.complete(completion)?;
        }
        Ok(())
    }

    /// Says the last words of an open connection.
    fn part(&mut self, key: u32, ending: Ending) {
        let connection = &mut self.connections[key as usize];
        connection.stage = Stage::Parting(ending);
        self.parting += 1;
        let mut out = Outgoing {
            waiting: &mut connection.waiting,
            pool: &mut self.pool,
            keys: &mut self.keys,
        };
        if ending == Ending::Close {
            out.frame(Opcode::Close, &NORMAL.to_be_bytes());
        } else {
            out.part(Opcode::Text, FRAGMENT);
            out.frame(Opcode::Ping, HELD);
            out.half(Opcode::Continuation, FRAGMENT);
        }
        self.list(key);
    }

    /// A close frame came. True if the run may go on: it was the answer to ours.
    pub(super) fn parted(stage: &mut Stage) -> bool {
        // With which code is the server's business (RFC 6455 section 5.5.1: "typically" the same one).
        let answered = *stage == Stage::Parting(Ending::Close);
        if answered {
            // The server closes first (RFC 6455 section 7.1.1).
            *stage = Stage::Parted;
        }
        answered
    }

    /// Whether a pong says that the server holds what a connection was in the middle of.
    pub(super) fn is_held(stage: Stage, pong: &[u8]) -> bool {
        stage == Stage::Parting(Ending::MidMessage) && pong == HELD
    }

    /// What an error of a connection means that said its last words: after the answer, its end.
    pub(super) fn ended(&mut self, key: u32) -> bool {
        let parted = self.connections[key as usize].stage == Stage::Parted;
        if parted {
            self.close(key);
        }
        parted
    }
}

/// The first entry, if its time has come.
fn due(queue: &mut VecDeque<(u64, u32, u32)>, now_ns: u64) -> Option<(u64, u32, u32)> {
    let (due_ns, ..) = *queue.front()?;
    if due_ns <= now_ns {
        queue.pop_front()
    } else {
        None
    }
}
