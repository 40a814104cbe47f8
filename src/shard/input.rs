//! From a readable socket to the handler: receive, upgrade, frames.

use super::connection::{Connection, ConnectionId, Flags, Phase};
use super::core::{CloseBy, Core};
use super::handler::{Context, Handler, Message};
use super::outbox::PAUSE_BYTES;
use super::{Shard, run_events};
use crate::ring::{BufferClass, Completion, Op, POLL_HANGUP, Ring, Token, errno};
use crate::wire::close::CloseCode;
use crate::wire::frame::Opcode;
use crate::wire::message::{Event, Flow, Rules, decode};
use crate::wire::upgrade::{Head, HeadLimits, HeaderSpace, parse_head, write_accept};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// A frame that still misses more bytes than this is received into large buffers. A small buffer's
/// size: below it one more small receive is enough.
const LARGE_FROM_BYTES: usize = 2048;

/// Connections that hung up of which one turn takes care: what ends with one that has a few subscriptions
/// takes some ten microseconds, and a turn that takes longer than a millisecond can be noticed.
const HUNG_UP_PER_TURN: usize = 128;

/// The address of a peer on a network whose address the kernel did not say.
const UNKNOWN_PEER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

impl<R: Ring, H: Handler> Shard<R, H> {
    /// The poll of a connection reports something.
    pub(super) fn polled(&mut self, key: u32, completion: &Completion) {
        let Some(connection) = self.core.connections.get_mut(key as usize) else {
            return;
        };
        if !completion.more {
            connection.flags.clear(Flags::POLLING);
        }
        if !connection.reads() {
            return;
        }
        if completion.result < 0 && completion.result != -errno::ECANCELED {
            self.lost(key);
            return;
        }
        if completion.result > 0 && completion.result & POLL_HANGUP != 0 {
            connection.flags.set(Flags::HANGUP);
        }
        if !completion.more {
            // The kernel ends a multishot poll when its completion queue overflows.
            connection.flags.set(Flags::POLLING);
            connection.in_flight += 1;
            let token = Token::new(Op::Poll, key, connection.generation);
            self.ring.poll(connection.slot, token);
        }
        if connection.flags.any(Flags::HANGUP) {
            let generation = connection.generation;
            return self.hung_up.push_back((key, generation));
        }
        self.read(key);
    }

    /// Reads from some of those whose peers hung up: to their end, as a rule. When thousands leave at once
    /// the others get their turns in between. Returns whether there was anybody.
    pub(super) fn read_hung_up(&mut self) -> bool {
        let some = HUNG_UP_PER_TURN.min(self.hung_up.len());
        for _ in 0..some {
            let Some((key, generation)) = self.hung_up.pop_front() else {
                break;
            };
            let connection = self.core.connections.get(key as usize);
            if connection.is_some_and(|connection| connection.generation == generation) {
                self.read(key);
            }
        }
        some > 0
    }

    /// Receives once, unless that has to wait.
    pub(super) fn read(&mut self, key: u32) {
        let Some(connection) = self.core.connections.get_mut(key as usize) else {
            return;
        };
        if !connection.reads() {
            return;
        }
        let waits = Flags::RECEIVING | Flags::PAUSED | Flags::STARVED;
        if connection.flags.any(waits) {
            connection.flags.set(Flags::READABLE);
            return;
        }
        let class = class_of(connection);
        if !self.reading.has_room(class) {
            connection.flags.set(Flags::STARVED | Flags::READABLE);
            self.reading.wait_in_line(class, key, connection.generation);
            return;
        }
        self.receive(key, class);
    }

    /// Receives into a buffer that is there.
    fn receive(&mut self, key: u32, class: BufferClass) {
        let Some(connection) = self.core.connections.get_mut(key as usize) else {
            return;
        };
        self.reading.started(class);
        connection.flags.clear(Flags::READABLE);
        connection.flags.set(Flags::RECEIVING);
        connection.in_flight += 1;
        let token = Token::new(Op::Recv, key, connection.generation);
        self.ring.recv(connection.slot, class, token);
    }

    /// Lets connections that waited for a buffer receive, as many as there are buffers now.
    pub(super) fn feed_starved(&mut self) {
        for class in [BufferClass::Small, BufferClass::Large] {
            while let Some((key, generation)) = self.reading.next_in_line(class) {
                if let Some(connection) = self.core.connections.get_mut(key as usize)
                    && connection.generation == generation
                    && connection.flags.clear(Flags::STARVED)
                    && connection.reads()
                    && !connection.flags.any(Flags::PAUSED)
                {
                    self.receive(key, class);
                }
            }
        }
    }

    /// A receive finished.
    pub(super) fn received(&mut self, key: u32, completion: Completion) {
        let Some(connection) = self.core.connections.get_mut(key as usize) else {
            return;
        };
        connection.flags.clear(Flags::RECEIVING);
        // What chose the class cannot have changed since: only one receive is in flight.
        let class = class_of(connection);
        self.reading.finished(class);
        let alive = connection.reads();
        match completion.result {
            bytes @ 1.. => {
                let Some(buffer) = completion.buffer else {
                    return;
                };
                if alive {
                    self.take_bytes(key, buffer, bytes as usize);
                }
                self.ring.recycle(buffer);
                self.go_on_reading(key, bytes as usize, completion.nonempty);
            }
            0 => {
                if let Some(buffer) = completion.buffer {
                    self.ring.recycle(buffer);
                }
                self.ended(key);
            }
            error if error == -errno::ENOBUFS => {
                self.core.counters.buffers_exhausted.add(1);
                if alive {
                    connection.flags.set(Flags::STARVED | Flags::READABLE);
                    self.reading.wait_in_line(class, key, connection.generation);
                }
            }
            error if error == -errno::EAGAIN => {
                // Nothing there: an event that came during the receive is looked at now. It may
                // have been a hang-up, so that condition stays.
                if connection.flags.clear(Flags::READABLE) {
                    self.read(key);
                }
            }
            error if error == -errno::EINTR => self.read(key),
            error if error == -errno::ECANCELED && !alive => {}
            _ => self.lost(key),
        }
    }

    fn go_on_reading(&mut self, key: u32, bytes: usize, nonempty: bool) {
        let Some(connection) = self.core.connections.get_mut(key as usize) else {
            return;
        };
        if !connection.reads() {
            return;
        }
        let missing = connection
            .carry
            .as_ref()
            .map_or(0, |partial| partial.remaining_hint());
        if missing > LARGE_FROM_BYTES
            || (nonempty && bytes >= LARGE_FROM_BYTES)
            || bytes > LARGE_FROM_BYTES
        {
            connection.flags.set(Flags::LARGE);
        } else {
            connection.flags.clear(Flags::LARGE);
        }
        if connection.phase == Phase::Open && connection.outbox_bytes > PAUSE_BYTES {
            connection.flags.set(Flags::PAUSED);
        }
        let more = Flags::READABLE | Flags::HANGUP | Flags::UNIX;
        if nonempty || connection.flags.any(more) {
            self.read(key);
        }
    }

    fn take_bytes(&mut self, key: u32, buffer: crate::ring::BufferId, length: usize) {
        let Some(connection) = self.core.connections.get_mut(key as usize) else {
            return;
        };
        connection.flags.clear(Flags::PINGED);
        self.core.counters.bytes_in.add(length as u64);
        let Self {
            ring,
            handler,
            core,
            rules,
            ..
        } = self;
        let bytes = &mut ring.buffer(buffer)[..length];
        match connection_phase(core, key) {
            Phase::Open | Phase::Closing => frames(handler, core, rules, key, bytes),
            Phase::Handshake => handshake(handler, core, rules, key, bytes),
            Phase::Lingering | Phase::Dead | Phase::HandingOver => {}
        }
    }

    /// The peer ended its side of the stream.
    fn ended(&mut self, key: u32) {
        let Some(connection) = self.core.connections.get_mut(key as usize) else {
            return;
        };
        if !connection.reads() {
            return;
        }
        connection.flags.clear(Flags::READABLE | Flags::HANGUP);
        connection.flags.set(Flags::ENDED | Flags::CLOSE_WHEN_SENT);
        if connection.is_open() {
            self.core.leave(key, CloseCode::ABNORMAL, CloseBy::Peer);
            run_events(&mut self.handler, &mut self.core);
        }
        // What is queued still leaves: the peer may have closed only its sending side.
        self.core.set_deadline(key, Phase::Lingering);
    }

    /// The connection is gone: reset, or an error that nothing mends.
    pub(super) fn lost(&mut self, key: u32) {
        self.core.leave(key, CloseCode::ABNORMAL, CloseBy::Lost);
        run_events(&mut self.handler, &mut self.core);
        self.kill(key);
    }
}

/// Which buffers a connection receives into.
fn class_of(connection: &Connection) -> BufferClass {
    if connection.flags.any(Flags::LARGE) {
        BufferClass::Large
    } else {
        BufferClass::Small
    }
}

fn connection_phase(core: &Core, key: u32) -> Phase {
    core.connections
        .get(key as usize)
        .map_or(Phase::Dead, |connection| connection.phase)
}

/// Bytes of the request's head. Nothing is copied when it arrives in one piece.
fn handshake<H: Handler>(
    handler: &mut H,
    core: &mut Core,
    rules: &[Rules],
    key: u32,
    bytes: &mut [u8],
) {
    let Some(connection) = core.connections.get_mut(key as usize) else {
        return;
    };
    let rare = connection.rare();
    let limits = HeadLimits {
        bytes: core.settings.head_bytes,
        lines: core.settings.head_lines,
    };
    if rare.head.is_empty() {
        if let Some(consumed) = request(handler, core, key, bytes, limits) {
            frames(handler, core, rules, key, &mut bytes[consumed..]);
        }
        return;
    }
    let mut head = std::mem::take(&mut rare.head);
    head.extend_from_slice(bytes);
    if let Some(consumed) = request(handler, core, key, &head, limits) {
        frames(handler, core, rules, key, &mut head[consumed..]);
    }
}

/// Parses a request and answers it. Returns how many bytes it took when the connection is upgraded.
fn request<H: Handler>(
    handler: &mut H,
    core: &mut Core,
    key: u32,
    head: &[u8],
    limits: HeadLimits,
) -> Option<usize> {
    let mut space = HeaderSpace::new();
    let connection = core.connections.get_mut(key as usize)?;
    let generation = connection.generation;
    let peer = connection.rare.as_ref().and_then(|rare| rare.peer);
    // No address means a Unix socket to the handler, which may trust it.
    let unknown = || (!connection.flags.any(Flags::UNIX)).then_some(UNKNOWN_PEER);
    let peer = peer.or_else(unknown);
    let rejection = match parse_head(head, &mut space, limits) {
        Ok(Head::Incomplete) => {
            connection.rare().head = head.to_vec();
            return None;
        }
        Ok(Head::Upgrade {
            request,
            accept,
            consumed,
        }) => match handler.upgrade(&request, peer) {
            Ok(accepted) => {
                connection.phase = Phase::Open;
                connection.endpoint = accepted.endpoint;
                connection.rare = None;
                // Pings are due from here on.
                connection.pinged_at = core.clock.now;
                core.open += 1;
                core.counters.open.set(core.open as u64);
                core.counters.upgrades.add(1);
                if let Some(user) = &accepted.user {
                    core.user_joins(user, key);
                }
                core.push_with(key, |out| write_accept(out, &accept, accepted.subprotocol));
                let id = ConnectionId {
                    shard: core.shard,
                    key,
                    generation,
                };
                tracing::debug!(connection = %id, ?peer, path = request.path, "opened");
                handler.open(&mut Context { core }, id, &request);
                run_events(handler, core);
                return Some(consumed);
            }
            Err(rejection) => rejection,
        },
        Ok(Head::Plain { request, .. }) => {
            tracing::debug!(
                shard = core.shard,
                ?peer,
                method = request.method,
                path = request.path,
                "answered a plain request"
            );
            core.counters.http_requests.add(1);
            core.push_with(key, |out| handler.http(&request, out));
            finish_http(core, key);
            return None;
        }
        Err(rejection) => rejection,
    };
    tracing::debug!(shard = core.shard, ?peer, status = rejection.status, reason = %rejection.reason, "refused");
    core.counters.rejections.add(1);
    core.push_with(key, |out| rejection.write_response(out));
    finish_http(core, key);
    None
}

/// The response is queued: it leaves, then the connection ends.
fn finish_http(core: &mut Core, key: u32) {
    if let Some(connection) = core.connections.get_mut(key as usize) {
        connection.rare().head = Vec::new();
    }
    core.set_deadline(key, Phase::Lingering);
}

/// Bytes of an upgraded connection.
fn frames<H: Handler>(
    handler: &mut H,
    core: &mut Core,
    rules: &[Rules],
    key: u32,
    bytes: &mut [u8],
) {
    if bytes.is_empty() {
        return;
    }
    let Some(connection) = core.connections.get_mut(key as usize) else {
        return;
    };
    let mut carry = connection.carry.take();
    let endpoint = connection.endpoint;
    let rules = rules[usize::from(endpoint).min(rules.len() - 1)];
    let id = ConnectionId {
        shard: core.shard,
        key,
        generation: connection.generation,
    };
    let result = decode(&mut carry, bytes, &rules, &mut |event| {
        match event {
            Event::Message { kind, payload } => {
                if core.is_open(id) {
                    core.counters.messages_in.add(1);
                    let message = Message {
                        endpoint,
                        kind,
                        payload,
                    };
                    handler.message(&mut Context { core }, id, message);
                    run_events(handler, core);
                }
            }
            // RFC 6455, 5.5.1: nothing follows a close frame.
            Event::Ping(payload) => {
                if core.is_open(id) {
                    core.push_frame(key, Opcode::Pong, payload);
                }
            }
            Event::Pong(_) => {}
            Event::Close { code, .. } => core.peer_closed(key, code.map(CloseCode::new)),
        }
        match connection_phase(core, key) {
            Phase::Open | Phase::Closing => Flow::Continue,
            _ => Flow::Stop,
        }
    });
    if let Err(error) = result {
        core.counters.protocol_errors.add(1);
        match connection_phase(core, key) {
            Phase::Open => core.begin_close(
                key,
                error.close_code(),
                &error.to_string(),
                CloseBy::ProtocolError,
            ),
            // Our close frame is out already.
            _ => core.set_deadline(key, Phase::Lingering),
        }
    }
    run_events(handler, core);
    if let Some(connection) = core.connections.get_mut(key as usize)
        && matches!(connection.phase, Phase::Open | Phase::Closing)
    {
        connection.carry = carry;
    }
}
