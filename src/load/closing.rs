//! How a worker ends its connections: at once, or with what a client says before.

use std::time::{Duration, Instant};

use super::connection::Stage;
use super::plan::Ending;
use super::scenario::{Outgoing, Scenario};
use super::worker::Worker;
use crate::ring::{Completion, Op, Ring, Slot, Wait};
use crate::wire::frame::Opcode;

/// How long the closing of all connections may take.
const CLOSE: Duration = Duration::from_secs(10);
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
            Stage::Connecting | Stage::Upgrading | Stage::Open => {}
        }
        connection.stage = Stage::Closed;
        self.closing += 1;
        let slot: Slot = connection.slot;
        let armed = [Op::Connect, Op::Poll, Op::Send];
        self.ring.close(slot, key, 0, &armed);
    }

    /// Ends all connections, each as the plan says, and hands in what was measured.
    pub(super) fn close_all(&mut self, completions: &mut Vec<Completion>) -> anyhow::Result<()> {
        for key in 0..self.connections.len() as u32 {
            let stage = self.connections[key as usize].stage;
            match self.endings[(self.first + key) as usize % self.endings.len()] {
                ending @ (Ending::Close | Ending::MidMessage) if stage == Stage::Open => {
                    self.part(key, ending);
                }
                _ => self.close(key),
            }
            if key % 256 == 0 {
                self.flush();
                self.parting_turn(Wait::Look, completions)?;
            }
        }
        let began = Instant::now();
        while self.parting > 0 && began.elapsed() < CLOSE {
            self.receive_starved();
            self.flush();
            let timeout_us = 10_000;
            let min_wait_us = 0;
            self.parting_turn(
                Wait::For {
                    timeout_us,
                    min_wait_us,
                },
                completions,
            )?;
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
            let timeout_us = 10_000;
            let min_wait_us = 0;
            self.parting_turn(
                Wait::For {
                    timeout_us,
                    min_wait_us,
                },
                completions,
            )?;
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
    pub(super) fn parted(stage: &mut Stage, code: Option<u16>) -> bool {
        let answered = *stage == Stage::Parting(Ending::Close) && code == Some(NORMAL);
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
