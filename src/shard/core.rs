//! What a shard knows besides its ring and its handler: connections, channels, other shards, time.
//!
//! The handler works on this through its [`Context`](super::handler::Context). Nothing here touches
//! the ring: what is to be sent is queued, who is to be closed is listed, and the turn does it.

use super::connection::{Connection, ConnectionId, Flags, Ms, Phase};
use super::handler::{Batch, Closed, Dropped, Endpoint, Kind, Page, Refusal};
use crate::hub::directory::Directory;
use crate::hub::home::{CatchUp, Home};
use crate::hub::local::Local;
use crate::hub::presence::{Member, MembersPage};
use crate::hub::room::Room as _;
use crate::hub::rules::ChannelRules;
use crate::hub::users::Users;
use crate::hub::{Delivery, Position};
use crate::mesh::Mesh;
use crate::ring::PayloadPool;
use crate::telemetry::counters::Counters;
use crate::wire::close::CloseCode;
use bytes::Bytes;
use slab::Slab;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// What a message may cost in an answer besides its `data` and `meta`.
pub(super) const MESSAGE_ENVELOPE_BYTES: usize = 256;

/// Who began a close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseBy {
    /// The client: a close frame, or the end of its stream.
    Peer,
    /// The server, on purpose.
    Server,
    /// The server, because the client broke the protocol.
    ProtocolError,
    /// The network: reset, or no sign of life.
    Lost,
}

/// The time of a turn, read once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    /// Since the shard started.
    pub now: Ms,
    /// Since the shard started, without wrapping.
    pub elapsed_ms: u64,
    /// Since the Unix epoch.
    pub unix_ms: u64,
}

/// What a shard uses of the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// See [`crate::config::Heartbeat`].
    pub heartbeat_interval_ms: u32,
    /// See [`crate::config::Heartbeat`].
    pub heartbeat_timeout_ms: u32,
    /// See [`crate::config::Timeouts`].
    pub handshake_ms: u32,
    /// See [`crate::config::Timeouts`].
    pub close_ms: u32,
    /// See [`crate::config::Timeouts`].
    pub write_ms: u32,
    /// See [`crate::config::ClientLimits`].
    pub outbox_bytes: usize,
    /// See [`crate::config::ClientLimits`].
    pub channels: usize,
    /// See [`crate::config::HistoryLimits`].
    pub history_bytes: usize,
    /// See [`crate::config::ClientLimits`].
    pub head_bytes: usize,
    /// See [`crate::config::ClientLimits`].
    pub head_lines: usize,
    /// Small receive buffers of the ring: receives in flight at most.
    pub buffers: u32,
    /// Large receive buffers of the ring.
    pub large_buffers: u32,
}

/// Something that the handler has to hear when it is not in the middle of something else.
#[derive(Debug)]
pub(super) enum Event {
    /// A subscription is in force.
    Subscribed {
        connection: ConnectionId,
        channel: u32,
        position: Position,
        tag: Bytes,
        catch_up: Option<Box<CatchUp>>,
    },
    /// What a connection wanted to read.
    Answer {
        connection: ConnectionId,
        answer: Answer,
        tag: Bytes,
    },
    /// A subscription was given up before it was in force.
    Abandoned {
        connection: ConnectionId,
        channel: Box<str>,
        tag: Bytes,
    },
    /// A publish got its position.
    Published {
        connection: ConnectionId,
        position: Position,
        tag: Bytes,
    },
    /// A direct message or a broadcast was passed on.
    Sent {
        connection: ConnectionId,
        connections: u64,
        tag: Bytes,
    },
    /// A publish or a subscription was refused on its way.
    Refused {
        connection: ConnectionId,
        refusal: Refusal,
        tag: Option<Bytes>,
    },
    /// A connection ended.
    Closed {
        connection: ConnectionId,
        closed: Closed,
    },
}

/// Questions of a connection that homes have not answered yet.
#[derive(Debug, Default)]
pub(super) struct Unanswered {
    /// For histories and members.
    pub reads: usize,
    /// With which subscriptions begin, also those that were given up meanwhile.
    pub recoveries: usize,
}

/// What was read for a connection, or how many bytes wait for its shard already.
#[derive(Debug)]
pub(super) enum Answer {
    History(Result<Page, usize>),
    Members(Result<MembersPage, usize>),
}

impl Answer {
    /// Bytes that the answer may have.
    pub(super) fn bytes(&self) -> usize {
        let member = |(user, _): &Member| user.len() + MESSAGE_ENVELOPE_BYTES;
        match self {
            Self::History(Ok(page)) => answer_bytes(&page.messages),
            Self::Members(Ok(page)) => page.members.iter().map(member).sum(),
            _ => 0,
        }
    }
}

/// Bytes that messages may cost in answers.
pub(super) fn answer_bytes(messages: &[Delivery]) -> usize {
    let one = |message: &Delivery| {
        let publication = &message.publication;
        publication.data.len() + publication.meta.len() + MESSAGE_ENVELOPE_BYTES
    };
    messages.iter().map(one).sum()
}

/// What a handler writes without looking at itself.
pub(super) struct Codec {
    /// A last message before a close: [`super::handler::Handler::farewell`].
    pub farewell: fn(u8, CloseCode, &str, &mut Vec<u8>) -> Option<Kind>,
    /// [`super::handler::Handler::encode_batch`].
    pub encode_batch: fn(&Batch<'_>, &mut Vec<u8>) -> Kind,
    /// [`super::handler::Handler::encode_dropped`].
    pub encode_dropped: fn(&Dropped<'_>, &mut Vec<u8>) -> Option<Kind>,
}

/// See the module's documentation.
pub struct Core {
    pub(super) shard: u16,
    pub(super) clock: Clock,
    pub(super) settings: Settings,
    pub(super) connections: Slab<Connection>,
    /// One more than the largest key ever used: where the sweep turns back.
    pub(super) high_key: u32,
    /// Connections that have come, and gone, and channels that were forgotten: what may have freed memory.
    pub(super) stirred: u64,
    next_generation: u32,
    /// Connections whose upgrade is complete and that have not begun to close.
    pub(super) open: usize,
    /// Connections with something to send, each once (see [`Flags::DIRTY`]).
    pub(super) dirty: Vec<u32>,
    /// Deadlines of connections that have not completed their handshake, oldest first.
    pub(super) handshakes: VecDeque<(Ms, u32, u32)>,
    /// Deadlines of connections that are closing, oldest first.
    pub(super) closings: VecDeque<(Ms, u32, u32)>,
    pub(super) pool: PayloadPool,
    pub(super) scratch: Vec<u8>,
    pub(super) rules: ChannelRules,
    pub(super) local: Local,
    pub(super) home: Home,
    pub(super) users: Users,
    pub(super) directory: Directory,
    /// The handler's, by number.
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) seed: u64,
    /// By connection.
    pub(super) unanswered: HashMap<u32, Unanswered>,
    pub(super) mesh: Mesh,
    pub(super) events: VecDeque<Event>,
    pub(super) codec: Codec,
    pub(super) counters: Arc<Counters>,
}

/// What a core is made of.
pub(super) struct Parts {
    pub shard: u16,
    pub settings: Settings,
    pub slots: u32,
    pub mesh: Mesh,
    /// The same on all shards: where channels are at home.
    pub seed: u64,
    /// Different on every shard: channel epochs, connection generations.
    pub random: u64,
    pub rules: ChannelRules,
    pub endpoints: Vec<Endpoint>,
    pub codec: Codec,
    pub counters: Arc<Counters>,
}

impl Core {
    pub(super) fn new(parts: Parts) -> Self {
        let shards = parts.mesh.links().shards();
        Self {
            shard: parts.shard,
            clock: Clock::default(),
            settings: parts.settings,
            // Reserved, not touched: memory becomes resident with the connections.
            connections: Slab::with_capacity(parts.slots as usize),
            high_key: 0,
            stirred: 0,
            next_generation: parts.random as u32,
            open: 0,
            dirty: Vec::new(),
            handshakes: VecDeque::new(),
            closings: VecDeque::new(),
            pool: PayloadPool::new(),
            scratch: Vec::new(),
            local: Local::new(parts.shard, shards, parts.seed, parts.rules.clone()),
            home: Home::new(
                parts.seed,
                parts.random,
                parts.rules.clone(),
                parts.settings.history_bytes,
            ),
            rules: parts.rules,
            users: Users::new(parts.seed),
            directory: Directory::default(),
            endpoints: parts.endpoints,
            seed: parts.seed,
            unanswered: HashMap::new(),
            mesh: parts.mesh,
            events: VecDeque::new(),
            codec: parts.codec,
            counters: parts.counters,
        }
    }

    pub(super) fn id(&self, key: u32, connection: &Connection) -> ConnectionId {
        ConnectionId {
            shard: self.shard,
            key,
            generation: connection.generation,
        }
    }

    /// Lets go of room that no connection needs any more. Between turns: lists of a turn are empty.
    pub(super) fn give_back(&mut self) {
        if self.connections.is_empty() {
            // Freed entries stay resident. Reserved and untouched again.
            self.connections = Slab::with_capacity(self.connections.capacity());
            self.high_key = 0;
        }
        self.dirty.give_back();
        self.handshakes.give_back();
        self.closings.give_back();
        self.events.give_back();
        self.scratch.give_back();
        self.pool.clear();
        if self.unanswered.is_empty() {
            self.unanswered = HashMap::new();
        }
        self.local.give_back();
        self.home.give_back();
        self.users.give_back();
        self.directory.give_back();
    }

    /// A generation that no connection of this shard had within the last 4 billion.
    pub(super) fn draw_generation(&mut self) -> u32 {
        self.next_generation = self.next_generation.wrapping_add(1);
        self.next_generation
    }

    /// Adds a connection to the slab.
    pub(super) fn insert(&mut self, connection: Connection) -> u32 {
        let key = self.connections.insert(connection) as u32;
        self.high_key = self.high_key.max(key + 1);
        self.stirred += 1;
        key
    }

    /// The connection that `id` names, if it still lives here.
    pub(super) fn get(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        if id.shard != self.shard {
            return None;
        }
        self.connections
            .get_mut(id.key as usize)
            .filter(|connection| connection.generation == id.generation)
    }

    /// Whether a connection is subscribed, or waits to be, to the channel of this number.
    pub(super) fn has_channel(&mut self, id: ConnectionId, channel: u32) -> bool {
        self.get(id)
            .is_some_and(|connection| connection.channels.binary_search(&channel).is_ok())
    }

    pub(super) fn is_open(&mut self, id: ConnectionId) -> bool {
        self.get(id).is_some_and(|connection| connection.is_open())
    }

    /// The form in which a connection gets what is published.
    pub(super) fn form(&self, key: u32) -> u8 {
        let endpoint = self.connections.get(key as usize).map(|one| one.endpoint);
        endpoint.map_or(0, |endpoint| self.endpoints[usize::from(endpoint)].form)
    }

    /// The user that a connection belongs to.
    pub(super) fn user(&self, id: ConnectionId) -> Option<&str> {
        let connection = self.connections.get(id.key as usize)?;
        let same = id.shard == self.shard && connection.generation == id.generation;
        self.users.name(connection.user).filter(|_| same)
    }

    /// Ends a connection for the application: subscriptions go, the handler will hear of it.
    /// The socket lives on until the close handshake is through.
    pub(super) fn leave(&mut self, key: u32, code: CloseCode, by: CloseBy) {
        let Some(connection) = self.connections.get_mut(key as usize) else {
            return;
        };
        if !connection.is_open() {
            return;
        }
        // The caller says what comes next; it is no longer open whatever that is.
        connection.phase = Phase::Lingering;
        let channels = std::mem::take(&mut connection.channels);
        let user = connection.user;
        let id = ConnectionId {
            shard: self.shard,
            key,
            generation: connection.generation,
        };
        if by != CloseBy::Lost {
            self.forget_waiting(None, key);
        } else if let Some(connection) = self.connections.get_mut(key as usize) {
            // Nothing of it will be sent.
            connection.drop_output(&mut self.pool);
        }
        for channel in channels {
            self.end_subscription(channel, key);
        }
        self.user_leaves(user, key);
        self.unanswered.remove(&key);
        self.open -= 1;
        self.counters.open.set(self.open as u64);
        self.counters.closed(code);
        let closed = Closed { code, by };
        self.events.push_back(Event::Closed {
            connection: id,
            closed,
        });
    }

    /// Sends our close frame, after what is queued, and waits for the peer's.
    pub(super) fn begin_close(&mut self, key: u32, code: CloseCode, reason: &str, by: CloseBy) {
        let Some(connection) = self.connections.get_mut(key as usize) else {
            return;
        };
        if !connection.is_open() {
            return;
        }
        let endpoint = connection.endpoint;
        if by == CloseBy::Server {
            let mut scratch = std::mem::take(&mut self.scratch);
            scratch.clear();
            if let Some(kind) = (self.codec.farewell)(endpoint, code, reason, &mut scratch) {
                self.push_frame(key, kind.into(), &scratch);
            }
            self.scratch = scratch;
        }
        self.push_close(key, Some(code), reason);
        self.leave(key, code, by);
        // After a violation nothing that follows can be understood: no answer is awaited.
        let phase = match by {
            CloseBy::ProtocolError => Phase::Lingering,
            _ => Phase::Closing,
        };
        self.set_deadline(key, phase);
    }

    /// The peer's close frame arrived.
    pub(super) fn peer_closed(&mut self, key: u32, code: Option<CloseCode>) {
        let Some(connection) = self.connections.get_mut(key as usize) else {
            return;
        };
        match connection.phase {
            Phase::Open => {
                // RFC 6455, 5.5.1: the answer echoes the code.
                self.push_close(key, code, "");
                self.leave(key, code.unwrap_or(CloseCode::NO_STATUS), CloseBy::Peer);
                self.set_deadline(key, Phase::Lingering);
            }
            Phase::Closing => connection.phase = Phase::Lingering,
            _ => return,
        }
        // Both have said their last: the socket closes when our part has left.
        if let Some(connection) = self.connections.get_mut(key as usize) {
            connection.flags.set(Flags::CLOSE_WHEN_SENT);
        }
        self.mark_dirty(key);
    }

    /// Gives a connection `close_ms` to finish what it is doing in `phase`.
    pub(super) fn set_deadline(&mut self, key: u32, phase: Phase) {
        let deadline = self.clock.now.plus(self.settings.close_ms);
        if let Some(connection) = self.connections.get_mut(key as usize) {
            connection.phase = phase;
            self.closings
                .push_back((deadline, key, connection.generation));
        }
        self.mark_dirty(key);
    }
}
