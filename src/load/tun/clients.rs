//! The clients themselves, without I/O and without a clock: packets and the time come in, packets go out.
//!
//! What a connection keeps while nothing is on the way for it is a [`Connection`], 24 bytes and what the
//! scenario keeps. All else (what it sent and is not acknowledged, the answer to its upgrade request, a
//! part of a frame) is in an [`Extra`], which exists as long as there is something in it.

use std::collections::VecDeque;
use std::net::SocketAddrV4;

use slab::Slab;

use super::addresses;
use super::segment::{NoSegment, Segment};
use super::tcp::{Arrival, End, Flight, Lost, Reply, State, Tcp, reset_for};
use crate::load::Latencies;
use crate::load::handshake::Handshake;
use crate::load::plan::Plan;
use crate::load::scenario::{MaskKeys, Outgoing, Scenario};
use crate::load::worker::MESSAGE_BYTES_MAX;
use crate::ring::{Payload, PayloadPool};
use crate::wire::Role;
use crate::wire::frame::Opcode;
use crate::wire::message::{self, Carry, Event, Flow, Rules};

/// Buffers that are kept for what is sent next.
const BUFFERS_MAX: usize = 1_024;
/// In place of the place of an [`Extra`].
const NONE: u32 = u32::MAX;
/// From one connection's initial sequence number to the next one's: any odd number.
const SEQUENCES: u32 = 0x9e37_79b1;

/// What a connection always has.
struct Connection<T> {
    tcp: Tcp,
    /// Where its [`Extra`] is, or [`NONE`].
    extra: u32,
    marks: Marks,
    /// The scenario's.
    state: T,
}

#[derive(Clone, Copy, Default)]
struct Marks {
    /// It is ready, and counted as such.
    ready: bool,
    /// Stands in the list of connections that may have something to send.
    listed: bool,
    /// It owes the peer an acknowledgement.
    owes: bool,
    /// The upgrade is complete.
    upgraded: bool,
    /// It is over, and counted as such.
    closed: bool,
}

/// What a connection has for a while.
struct Extra {
    key: u32,
    flight: Flight,
    /// A part of a frame or of a message.
    carry: Carry,
    /// What has come of the answer to the upgrade request.
    head: Vec<u8>,
    /// When it began.
    began_ns: u64,
}

/// What has been counted.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counted {
    /// Connections whose upgrade is complete.
    pub(super) opened: u64,
    /// Those that are ready.
    pub(super) ready: u32,
    /// Pings answered.
    pub(super) pings: u64,
    /// Segments that were sent again.
    pub(super) sent_again: u64,
    /// Segments that came and were not the next ones.
    pub(super) out_of_order: u64,
    /// Packets with a wrong checksum or length.
    pub(super) damaged: u64,
}

/// All connections of a run.
pub(super) struct Clients<S: Scenario> {
    connections: Vec<Connection<S::State>>,
    extras: Slab<Extra>,
    pub(super) scenario: S,
    server: SocketAddrV4,
    handshake: Handshake,
    rules: Rules,
    /// The number of the first connection.
    first: u32,
    /// Connections that were begun; how many are being opened, and may be.
    begun: u32,
    connecting: u32,
    connecting_max: u32,
    /// What initial sequence numbers count from.
    sequence: u32,
    keys: MaskKeys,
    pool: PayloadPool,
    buffers: Vec<Vec<u8>>,
    /// Connections that may have something to send.
    listed: VecDeque<u32>,
    /// Resets that belong to no connection.
    resets: VecDeque<Segment<'static>>,
    /// Bytes of a segment, for the decoder to unmask where they are.
    input: Vec<u8>,
    packet: Vec<u8>,
    now_ns: u64,
    pub(super) counted: Counted,
    pub(super) connects: Latencies,
    /// Why connections failed, since that was last asked.
    failures: Vec<String>,
}

impl<S: Scenario> Clients<S> {
    /// The connections of `plan`, all to `server`, none of them begun.
    pub(super) fn new(plan: &Plan, server: SocketAddrV4, scenario: S) -> anyhow::Result<Self> {
        let handshake = Handshake::new(plan)?;
        let connection = || Connection {
            tcp: Tcp::CLOSED,
            extra: NONE,
            marks: Marks::default(),
            state: S::State::default(),
        };
        let mut sequence = [0; 4];
        getrandom::fill(&mut sequence)
            .map_err(|error| anyhow::anyhow!("no random bytes: {error}"))?;
        Ok(Self {
            connections: (0..plan.connections).map(|_| connection()).collect(),
            extras: Slab::new(),
            scenario,
            server,
            rules: Rules {
                role: Role::Client,
                message_bytes: MESSAGE_BYTES_MAX,
                fragments: 4_096,
            },
            first: plan.first,
            begun: 0,
            connecting: 0,
            connecting_max: plan.connecting,
            sequence: u32::from_ne_bytes(sequence),
            keys: handshake.mask_keys(),
            handshake,
            pool: PayloadPool::new(),
            buffers: Vec::new(),
            listed: VecDeque::new(),
            resets: VecDeque::new(),
            input: Vec::new(),
            packet: Vec::new(),
            now_ns: 0,
            counted: Counted::default(),
            connects: Latencies::new(),
            failures: Vec::new(),
        })
    }

    /// What follows happens at `now_ns`, of a clock that begins anywhere.
    pub(super) fn clock(&mut self, now_ns: u64) {
        // 0 says "never" where times are kept.
        self.now_ns = now_ns.max(1);
        self.scenario.clock(now_ns);
    }

    /// Connections of the plan.
    pub(super) fn count(&self) -> u32 {
        self.connections.len() as u32
    }

    /// Whether connections are being opened.
    pub(super) fn is_connecting(&self) -> bool {
        self.connecting > 0
    }

    /// Connections that something is on the way for.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.extras.len()
    }

    /// What a connection takes that nothing is on the way for, without what the scenario has elsewhere.
    #[cfg(test)]
    pub(super) const fn connection_bytes() -> usize {
        size_of::<Connection<S::State>>()
    }

    /// Why connections failed since the last call.
    pub(super) fn failures(&mut self) -> std::vec::Drain<'_, String> {
        self.failures.drain(..)
    }

    /// Begins connections, as many as may be, and lets the scenario write what it has due. What that makes
    /// leaves with the next [`Clients::flush`].
    pub(super) fn turn(&mut self, running: bool) {
        while self.connecting < self.connecting_max && self.begun < self.count() {
            self.begin(self.begun);
            self.begun += 1;
            self.connecting += 1;
        }
        self.scenario.turn(running);
        while let Some(key) = self.scenario.next_due() {
            let mut waiting = None;
            let mut out = Outgoing {
                waiting: &mut waiting,
                pool: &mut self.pool,
                keys: &mut self.keys,
            };
            let connection = &mut self.connections[key as usize];
            self.scenario.send(key, &mut connection.state, &mut out);
            self.queue(key, waiting);
        }
    }

    fn begin(&mut self, key: u32) {
        let sequence = self.sequence.wrapping_add(key.wrapping_mul(SEQUENCES));
        let number = self.first + key;
        let extra = self.extra(key);
        let extra = &mut self.extras[extra as usize];
        extra.began_ns = self.now_ns;
        self.handshake.write(number, extra.flight.bytes());
        self.connections[key as usize].tcp = Tcp::open(sequence);
        self.list(key);
    }

    /// Takes a packet.
    pub(super) fn take(&mut self, packet: &[u8]) {
        let segment = match Segment::parse(packet) {
            Ok(segment) => segment,
            Err(NoSegment::Other) => return,
            Err(NoSegment::Malformed | NoSegment::Checksum) => {
                self.counted.damaged += 1;
                return;
            }
        };
        let key = addresses::find(segment.to).filter(|&key| key < self.count());
        let Some(key) = key.filter(|_| segment.from == self.server) else {
            if !segment.rst {
                self.resets.push_back(reset_for(&segment));
            }
            return;
        };
        let connection = &mut self.connections[key as usize];
        let extra = self.extras.get_mut(connection.extra as usize);
        let flight = extra.map(|extra| &mut extra.flight);
        let Arrival {
            opened,
            bytes,
            out_of_order,
            end,
            reply,
        } = connection.tcp.receive(flight, &segment);
        self.counted.out_of_order += u64::from(out_of_order);
        match reply {
            Reply::Acknowledge => connection.marks.owes = true,
            Reply::Reset => self.resets.push_back(reset_for(&segment)),
            Reply::Nothing => {}
        }
        debug_assert!(!opened || bytes.is_empty());
        if !bytes.is_empty()
            && let Err(reason) = self.read(key, bytes)
        {
            self.fail(key, &reason);
        } else if let Some(end) = end {
            let reason = match end {
                End::Finished => "the server closed the connection",
                End::Reset => "the server reset the connection",
                End::Refused => "the server refused the connection: it does not listen there",
            };
            self.fail(key, reason);
        }
        self.tidy(key);
        self.list(key);
    }

    /// Reads the next bytes of a connection.
    fn read(&mut self, key: u32, bytes: &[u8]) -> Result<(), String> {
        let mut input = std::mem::take(&mut self.input);
        input.clear();
        input.extend_from_slice(bytes);
        let read = self.read_input(key, &mut input);
        self.input = input;
        read
    }

    fn read_input(&mut self, key: u32, input: &mut [u8]) -> Result<(), String> {
        let connection = &mut self.connections[key as usize];
        let mut extra = self.extras.get_mut(connection.extra as usize);
        let mut waiting = None;
        let mut out = Outgoing {
            waiting: &mut waiting,
            pool: &mut self.pool,
            keys: &mut self.keys,
        };
        let mut became_ready = false;
        let mut rest;
        let mut frames = input;
        if !connection.marks.upgraded {
            let extra = extra
                .as_mut()
                .ok_or("bytes came before the upgrade was asked for")?;
            extra.head.extend_from_slice(frames);
            let Some(answer_bytes) = self.handshake.read(&extra.head)? else {
                return Ok(());
            };
            rest = extra.head.split_off(answer_bytes);
            extra.head = Vec::new();
            frames = &mut rest;
            connection.marks.upgraded = true;
            self.connecting -= 1;
            self.counted.opened += 1;
            let took_ns = self.now_ns.saturating_sub(extra.began_ns);
            self.connects.record_ns(took_ns);
            became_ready = self.scenario.opened(key, &mut connection.state, &mut out);
        }
        let mut carry = extra.and_then(|extra| extra.carry.take());
        let mut outcome = Ok(());
        let (scenario, state) = (&mut self.scenario, &mut connection.state);
        let pings = &mut self.counted.pings;
        let decoded = message::decode(&mut carry, frames, &self.rules, &mut |event| {
            let result = match event {
                Event::Message { kind, payload } => {
                    scenario.message(key, state, kind, payload, &mut out)
                }
                Event::Ping(payload) => {
                    out.frame(Opcode::Pong, payload);
                    *pings += 1;
                    Ok(false)
                }
                Event::Pong(_) => Ok(false),
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
        if became_ready {
            connection.marks.ready = true;
            self.counted.ready += 1;
        }
        self.queue(key, waiting);
        outcome?;
        decoded.map_err(|error| format!("the server broke the protocol: {error}"))?;
        if carry.is_some() {
            let extra = self.extra(key);
            self.extras[extra as usize].carry = carry;
        }
        Ok(())
    }

    /// Adds what was written to what a connection has to send.
    fn queue(&mut self, key: u32, waiting: Option<Payload>) {
        let Some(payload) = waiting else { return };
        if self.connections[key as usize].tcp.state() == State::Open {
            let extra = self.extra(key);
            let bytes = self.extras[extra as usize].flight.bytes();
            bytes.extend_from_slice(payload.as_slice());
            self.list(key);
        }
        self.pool.put(payload);
    }

    /// The place of a connection's [`Extra`].
    fn extra(&mut self, key: u32) -> u32 {
        let connection = &mut self.connections[key as usize];
        if connection.extra == NONE {
            let flight = Flight::with_buffer(self.buffers.pop().unwrap_or_default());
            let extra = self.extras.insert(Extra {
                key,
                flight,
                carry: None,
                head: Vec::new(),
                began_ns: 0,
            });
            connection.extra = extra as u32;
        }
        connection.extra
    }

    /// Drops the [`Extra`] of a connection if there is nothing in it.
    fn tidy(&mut self, key: u32) {
        let connection = &mut self.connections[key as usize];
        let Some(extra) = self.extras.get(connection.extra as usize) else {
            return;
        };
        let closed = connection.tcp.state() == State::Closed;
        if closed || (connection.marks.upgraded && extra.carry.is_none() && extra.flight.is_over())
        {
            let extra = self.extras.remove(connection.extra as usize);
            connection.extra = NONE;
            if self.buffers.len() < BUFFERS_MAX {
                self.buffers.push(extra.flight.into_buffer());
            }
        }
    }

    /// Notes that a connection may have something to send.
    fn list(&mut self, key: u32) {
        let marks = &mut self.connections[key as usize].marks;
        if !marks.listed {
            marks.listed = true;
            self.listed.push_back(key);
        }
    }

    /// Whether [`Clients::flush`] may have something to send.
    pub(super) fn is_waiting(&self) -> bool {
        !self.resets.is_empty() || !self.listed.is_empty()
    }

    /// Sends what there is to send, of at most `most` connections.
    pub(super) fn flush(&mut self, most: usize, out: &mut impl FnMut(&[u8])) {
        let packet = &mut self.packet;
        let mut send = |segment: &Segment<'_>| {
            segment.write(packet);
            out(packet);
        };
        let resets = self.resets.len().min(most);
        for reset in self.resets.drain(..resets) {
            send(&reset);
        }
        let listed = self.listed.len().min(most - resets);
        for key in self.listed.drain(..listed) {
            let connection = &mut self.connections[key as usize];
            connection.marks.listed = false;
            let extra = self.extras.get_mut(connection.extra as usize);
            let flight = extra.map(|extra| &mut extra.flight);
            let owes = std::mem::take(&mut connection.marks.owes);
            let base = Segment::new(addresses::of(key), self.server, 0);
            connection
                .tcp
                .send(flight, owes, base, self.now_ns, &mut send);
        }
    }

    /// Sends again what has not been acknowledged in time, of at most `most` connections: true if there may be
    /// more. A connection for which that was done too often fails.
    pub(super) fn sweep(&mut self, most: usize, out: &mut impl FnMut(&[u8])) -> bool {
        let mut again = 0;
        let mut lost = Vec::new();
        for (_, extra) in &mut self.extras {
            let tcp = &self.connections[extra.key as usize].tcp;
            let base = Segment::new(addresses::of(extra.key), self.server, 0);
            let sent = tcp.send_again(&mut extra.flight, base, self.now_ns, &mut |segment| {
                segment.write(&mut self.packet);
                self.counted.sent_again += 1;
                out(&self.packet);
            });
            match sent {
                Ok(true) => again += 1,
                Ok(false) => {}
                Err(Lost) => lost.push(extra.key),
            }
            if again == most {
                break;
            }
        }
        for key in lost {
            let opening = self.connections[key as usize].tcp.state() == State::Opening;
            let reason = if opening {
                "no answer to the SYN: a firewall, or the server's queue of new connections is full \
                 (net.core.somaxconn, net.ipv4.tcp_max_syn_backlog)"
            } else {
                "what it sent was never acknowledged"
            };
            self.fail(key, reason);
        }
        again == most
    }

    /// A connection failed.
    fn fail(&mut self, key: u32, reason: &str) {
        let reason = format!("connection {key}: {reason}");
        self.failures.push(reason);
        self.close(key);
    }

    /// Ends a connection with a reset, if there is one.
    pub(super) fn close(&mut self, key: u32) {
        let connection = &mut self.connections[key as usize];
        if key >= self.begun || std::mem::replace(&mut connection.marks.closed, true) {
            return;
        }
        if connection.tcp.state() != State::Closed {
            let extra = self.extras.get(connection.extra as usize);
            let flight = extra.map(|extra| &extra.flight);
            let base = Segment::new(addresses::of(key), self.server, 0);
            self.resets.push_back(connection.tcp.reset(flight, base));
        }
        if !connection.marks.upgraded {
            self.connecting -= 1;
        }
        self.counted.ready -= u32::from(std::mem::take(&mut connection.marks.ready));
        self.scenario.closed(key, &mut connection.state);
        self.tidy(key);
    }
}
