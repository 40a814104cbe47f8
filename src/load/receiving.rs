//! How a worker reads: multishot poll, single receives into counted buffers, frames to the scenario.

use std::io;

use super::connection::Stage;
use super::scenario::{Outgoing, Scenario};
use super::worker::Worker;
use crate::ring::{BufferId, Completion, Op, Ring, Token};
use crate::wire::frame::Opcode;
use crate::wire::message::{self, Event, Flow};

/// Poll mask: hang-up of any kind, or an error (`poll(2)`).
const POLL_ENDS: i32 = (libc::POLLRDHUP as i32) | (libc::POLLHUP as i32) | (libc::POLLERR as i32);

impl<S: Scenario> Worker<S> {
    pub(super) fn polled(&mut self, key: u32, completion: &Completion) {
        let connection = &mut self.connections[key as usize];
        if connection.stage == Stage::Closed {
            return;
        }
        if !completion.more {
            let token = Token::new(Op::Poll, key, connection.generation);
            self.ring.poll(connection.slot, token);
        }
        connection.ending |= completion.result < 0 || completion.result & POLL_ENDS != 0;
        if connection.stalled && !connection.draining {
            return;
        }
        if connection.receiving {
            connection.readable_again = true;
        } else {
            self.receive(key);
        }
    }

    /// Asks for a receive, now or once a buffer is free.
    fn receive(&mut self, key: u32) {
        let connection = &mut self.connections[key as usize];
        connection.receiving = true;
        connection.readable_again = false;
        if self.receives == self.receives_max {
            self.starved.push_back((key, connection.generation));
            return;
        }
        self.receives += 1;
        let token = Token::new(Op::Recv, key, connection.generation);
        self.ring.recv(connection.slot, self.class, token);
    }

    /// Reads again from those that don't, to see whether the server has closed them.
    pub(super) fn drain(&mut self) {
        if !std::mem::take(&mut self.stall) {
            return;
        }
        self.unread_bytes = vec![0; self.connections.len()];
        for key in 0..self.connections.len() as u32 {
            let connection = &mut self.connections[key as usize];
            if connection.stalled && connection.stage == Stage::Open {
                connection.draining = true;
                if !connection.receiving {
                    self.receive(key);
                }
            }
        }
    }

    /// So much more had not been read by `key`.
    fn note_unread(&mut self, key: u32, bytes: u64) {
        self.unread += bytes;
        let unread = &mut self.unread_bytes[key as usize];
        let before = *unread;
        *unread += bytes;
        if let Some(size) = self.receive_buffer_bytes {
            let holds = 2 * u64::from(size);
            self.behind += u64::from(before <= holds && *unread > holds);
        }
    }

    pub(super) fn receive_starved(&mut self) {
        while self.receives < self.receives_max
            && let Some((key, generation)) = self.starved.pop_front()
        {
            let connection = &self.connections[key as usize];
            if connection.generation == generation && connection.stage != Stage::Closed {
                self.receive(key);
            }
        }
    }

    pub(super) fn received(&mut self, key: u32, completion: &Completion) -> anyhow::Result<()> {
        self.receives -= 1;
        let connection = &self.connections[key as usize];
        let generation = connection.generation;
        if generation != completion.token.generation() || connection.stage == Stage::Closed {
            if let Some(buffer) = completion.buffer {
                self.ring.recycle(buffer);
            }
            return Ok(());
        }
        let outcome = match (completion.buffer, usize::try_from(completion.result)) {
            (Some(buffer), Ok(length)) => {
                let outcome = self.take(key, buffer, length);
                self.ring.recycle(buffer);
                outcome
            }
            (None, Ok(_)) => Err("the server closed the connection".to_owned()),
            (_, Err(_)) => match -completion.result {
                libc::EAGAIN | libc::EINTR => Ok(()),
                // Should not happen, as receives are counted; the next turn tries again.
                libc::ENOBUFS => {
                    self.starved.push_back((key, generation));
                    return Ok(());
                }
                error => Err(io::Error::from_raw_os_error(error).to_string()),
            },
        };
        if let Err(reason) = outcome {
            if self.connections[key as usize].draining {
                self.cut += 1;
                self.close(key);
            } else if !self.ended(key) {
                self.fail(key, &reason);
            }
            return Ok(());
        }
        let connection = &mut self.connections[key as usize];
        connection.receiving = false;
        let got_bytes = completion.result > 0;
        if connection.stage != Stage::Closed
            && (!connection.stalled || connection.draining)
            && (connection.readable_again
                || completion.nonempty
                || (connection.ending && got_bytes))
        {
            self.receive(key);
        }
        Ok(())
    }

    /// Reads what was received.
    fn take(&mut self, key: u32, buffer: BufferId, length: usize) -> Result<(), String> {
        let connection = &mut self.connections[key as usize];
        if connection.draining {
            self.note_unread(key, length as u64);
            return Ok(());
        }
        let input = &mut self.ring.buffer(buffer)[..length];
        let mut out = Outgoing {
            waiting: &mut connection.waiting,
            pool: &mut self.pool,
            keys: &mut self.keys,
        };
        let (mut became_ready, mut opened, mut held) = (false, false, false);
        let mut pings = 0;
        let mut rest: Vec<u8>;
        let mut frames: &mut [u8] = &mut [];
        match connection.stage {
            Stage::Open | Stage::Parting(_) => frames = input,
            Stage::Upgrading => {
                let mut head = std::mem::take(&mut connection.head);
                head.extend_from_slice(input);
                let Some(answer_bytes) = self.handshake.read(&head)? else {
                    connection.head = head;
                    return Ok(());
                };
                connection.stage = Stage::Open;
                self.connecting -= 1;
                opened = true;
                became_ready = self.scenario.opened(key, &mut connection.state, &mut out);
                rest = head.split_off(answer_bytes);
                frames = &mut rest;
            }
            Stage::New | Stage::Connecting | Stage::Parted | Stage::Closed => {}
        }
        let mut outcome = Ok(());
        let (scenario, state) = (&mut self.scenario, &mut connection.state);
        let stage = &mut connection.stage;
        let decoded = message::decode(&mut connection.carry, frames, &self.rules, &mut |event| {
            let result = match event {
                // What was on the way when the last words were said.
                Event::Message { .. } if *stage != Stage::Open => Ok(false),
                Event::Message { kind, payload } => {
                    scenario.message(key, state, kind, payload, &mut out)
                }
                Event::Ping(payload) => {
                    out.frame(Opcode::Pong, payload);
                    pings += 1;
                    Ok(false)
                }
                Event::Pong(payload) => {
                    held |= Self::is_held(*stage, payload);
                    Ok(false)
                }
                Event::Close { .. } if Self::parted(stage) => Ok(false),
                Event::Close { code, reason } => {
                    let code = code.map_or_else(|| "no code".to_owned(), |code| code.to_string());
                    Err(format!("the server closed with {code} {reason:?}"))
                }
            };
            match result {
                Ok(ready) => {
                    became_ready |= ready;
                    Flow::Continue
                }
                Err(reason) => {
                    outcome = Err(reason);
                    Flow::Stop
                }
            }
        });
        self.pings += pings;
        if opened {
            self.note_opened(key);
        }
        if became_ready {
            self.note_ready(key);
        }
        if held {
            self.close(key);
            return Ok(());
        }
        self.list(key);
        outcome?;
        decoded
            .map(|_| ())
            .map_err(|error| format!("the server broke the protocol: {error}"))
    }
}
