//! What an application on the engine implements, and what it may ask the engine for.
//!
//! ringwire's own protocol (`session::Session`) is one such application; it has no other way in.

use super::connection::ConnectionId;
use super::core::{CloseBy, Core};
use crate::hub::{Position, Publication};
use crate::wire::close::CloseCode;
use crate::wire::frame::Opcode;
use crate::wire::upgrade::{Rejection, Request};
use bytes::Bytes;
use std::net::SocketAddr;

pub use crate::hub::history::{Page, Since};
pub use crate::hub::presence::{Counts, MembersPage, PresenceEvent};
pub use crate::wire::message::Kind;

/// One endpoint of an application, chosen at the upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Largest message accepted, in bytes; a larger one closes the connection with 1009.
    pub message_bytes: usize,
    /// Fragments that one message may come in; more close the connection with 1009.
    pub fragments: u32,
    /// Whether its connections get what is sent to everyone ([`Context::broadcast`]).
    pub hears_broadcasts: bool,
    /// In which form its connections get what is published: a number below [`MAX_FORMS`] that means
    /// something to the handler's `encode` methods. 0 where there is only one.
    pub form: u8,
}

/// Forms in which one application can send what is published.
pub const MAX_FORMS: u8 = 2;

/// An accepted upgrade.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accept {
    /// Index into [`Handler::endpoints`].
    pub endpoint: u8,
    /// The subprotocol to name in the answer; must be one that the client offered.
    pub subprotocol: Option<&'static str>,
    /// Whose connection it is, where the application knows ([`Context::user`]). A user may have any
    /// number of connections, on all shards.
    pub user: Option<String>,
}

/// A complete message from a client.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// The endpoint that the connection was upgraded at.
    pub endpoint: u8,
    /// Text or binary.
    pub kind: Kind,
    /// The payload, unmasked, in the receive buffer. Text has been checked to be UTF-8.
    pub payload: &'a [u8],
}

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// The close code: the peer's or ours; 1005 when the peer's close frame had none, 1006 when
    /// the connection was lost without one.
    pub code: CloseCode,
    /// Who began.
    pub by: CloseBy,
}

/// An application's protocol. Each shard has its own handler, on its own thread: no locks needed.
///
/// Every method may use the [`Context`]; none may block, because the whole shard waits.
pub trait Handler: 'static {
    /// The endpoints that [`Accept::endpoint`] chooses from. Asked once, at start; at least one.
    fn endpoints(&self) -> Vec<Endpoint>;

    /// A client asks for an upgrade: accept it, or say why not. `peer` is `None` for a Unix socket, and
    /// for no other.
    ///
    /// # Errors
    /// The HTTP answer for a client that is not let in.
    fn upgrade(
        &mut self,
        request: &Request<'_>,
        peer: Option<SocketAddr>,
    ) -> Result<Accept, Rejection>;

    /// An HTTP request that asks for no upgrade: write the whole response, which must announce
    /// `Connection: close` (see [`crate::wire::upgrade::write_response`]). Without this method
    /// every path is answered with 426: only WebSocket is spoken here.
    fn http(&mut self, request: &Request<'_>, response: &mut Vec<u8>) {
        let _ = request;
        Rejection::new(426, "Only WebSocket is spoken here: connect with ws://.")
            .write_response(response);
    }

    /// The connection is open; what is sent here follows the upgrade response.
    fn open(&mut self, context: &mut Context<'_>, connection: ConnectionId, request: &Request<'_>) {
        let _ = (context, connection, request);
    }

    /// A complete message arrived.
    fn message(
        &mut self,
        context: &mut Context<'_>,
        connection: ConnectionId,
        message: Message<'_>,
    );

    /// The connection has ended. Its subscriptions are gone already; nothing more can be sent to it.
    fn close(&mut self, context: &mut Context<'_>, connection: ConnectionId, closed: &Closed) {
        let _ = (context, connection, closed);
    }

    /// A subscription is in force: what is published after its position will arrive.
    fn subscribed(
        &mut self,
        context: &mut Context<'_>,
        connection: ConnectionId,
        subscribed: &Subscribed<'_>,
    ) {
        let _ = (context, connection, subscribed);
    }

    /// What [`Context::read_history`] asked for.
    fn history(
        &mut self,
        context: &mut Context<'_>,
        connection: ConnectionId,
        page: &Page,
        tag: &Bytes,
    ) {
        let _ = (context, connection, page, tag);
    }

    /// A subscription that was asked for was given up by [`Context::unsubscribe`] before
    /// [`Handler::subscribed`] was called for it, which will not happen any more.
    fn abandoned(
        &mut self,
        context: &mut Context<'_>,
        connection: ConnectionId,
        channel: &str,
        tag: &Bytes,
    ) {
        let _ = (context, connection, channel, tag);
    }

    /// A publish that asked for it got its place in the channel.
    fn published(
        &mut self,
        context: &mut Context<'_>,
        connection: ConnectionId,
        position: Position,
        tag: &Bytes,
    ) {
        let _ = (context, connection, position, tag);
    }

    /// What [`Context::read_members`] asked for.
    fn members(
        &mut self,
        context: &mut Context<'_>,
        connection: ConnectionId,
        page: &MembersPage,
        tag: &Bytes,
    ) {
        let _ = (context, connection, page, tag);
    }

    /// What [`Context::direct`] or [`Context::broadcast`] sent has been passed on, to this many
    /// connections.
    fn sent(
        &mut self,
        context: &mut Context<'_>,
        connection: ConnectionId,
        connections: u64,
        tag: &Bytes,
    ) {
        let _ = (context, connection, connections, tag);
    }

    /// A publish that [`Context::publish`] took was refused on its way: a shard with subscribers does
    /// not keep up. Nobody got it. The same for a direct message or a broadcast. Or the answer to [`Context::read_history`] cannot be given now. `tag`
    /// is that of the publish or the question, if it had one. Not called for connections that have ended
    /// meanwhile.
    fn refused(
        &mut self,
        context: &mut Context<'_>,
        connection: ConnectionId,
        refusal: Refusal,
        tag: Option<&Bytes>,
    ) {
        let _ = (context, connection, refusal, tag);
    }

    /// Writes a published message as this shard's subscribers of one form get it: the payload of one
    /// frame. Called once per message, shard and form that somebody there wants, whatever the number of
    /// subscribers.
    fn encode(&mut self, message: &Published<'_>, payload: &mut Vec<u8>) -> Kind {
        payload.extend_from_slice(&message.publication.data);
        Kind::Binary
    }

    /// Writes a published message as a part of a batch, for subscribers that asked for batches
    /// ([`SubscribeOptions::batch`]). Called as often as [`Self::encode`] is for others.
    fn encode_entry(&mut self, message: &Published<'_>, entries: &mut Vec<u8>) {
        self.encode(message, entries);
    }

    /// Writes a batch of a channel's messages: the payload of one frame. `entries` are `count` parts (at
    /// least one) as [`Self::encode_entry`] wrote them one after the other. Called once per batch, form and
    /// shard, and for each publisher that gets a batch without its own messages.
    fn encode_batch(batch: &Batch<'_>, payload: &mut Vec<u8>) -> Kind
    where
        Self: Sized,
    {
        payload.extend_from_slice(batch.entries);
        Kind::Binary
    }

    /// Writes what a subscriber is told that lost messages of a channel because it does not keep up: the
    /// payload of one frame. `None`: it is not told.
    fn encode_dropped(dropped: &Dropped<'_>, payload: &mut Vec<u8>) -> Option<Kind>
    where
        Self: Sized,
    {
        let _ = (dropped, payload);
        None
    }

    /// Writes what the subscribers of a channel are told about its members
    /// ([`crate::config::PresenceRule`]): the payload of one frame. Called once per event, shard and form.
    fn encode_presence(
        &mut self,
        form: u8,
        channel: &str,
        event: &PresenceEvent,
        payload: &mut Vec<u8>,
    ) -> Kind {
        let _ = (form, channel, event, payload);
        Kind::Binary
    }

    /// Writes a message to a user or to everyone: the payload of one frame. Called once per message, shard
    /// and form.
    fn encode_direct(
        &mut self,
        form: u8,
        publication: &Publication,
        audience: Audience,
        payload: &mut Vec<u8>,
    ) -> Kind {
        let _ = (form, audience);
        payload.extend_from_slice(&publication.data);
        Kind::Binary
    }

    /// Writes a last message for a connection that the server is about to close on purpose.
    /// `None`: the close frame alone says it.
    fn farewell(endpoint: u8, code: CloseCode, reason: &str, payload: &mut Vec<u8>) -> Option<Kind>
    where
        Self: Sized,
    {
        let _ = (endpoint, code, reason, payload);
        None
    }
}

/// A subscription that has come into force.
#[derive(Clone, Copy, Debug)]
pub struct Subscribed<'a> {
    /// The channel's name.
    pub channel: &'a str,
    /// What is published after it will arrive. `None` for a wildcard: its channels have positions of
    /// their own.
    pub position: Option<Position>,
    /// Whether everything that was published after [`SubscribeOptions::recover`] follows now, up to
    /// `position`. `None`: that was not asked for, or the connection was subscribed already.
    pub recovered: Option<bool>,
    /// What the request gave.
    pub tag: &'a Bytes,
}

/// How to subscribe.
#[derive(Clone, Debug, Default)]
pub struct SubscribeOptions {
    /// Given back to [`Handler::subscribed`] with the position.
    pub tag: Bytes,
    /// The last message that the subscriber has: what came after it is sent first, if all of it is still
    /// kept ([`crate::config::HistoryRule`]) and fits into an outbox.
    pub recover: Option<Position>,
    /// Whether messages come in batches ([`Handler::encode_batch`]). A later subscription of the same
    /// connection to the same channel changes it.
    pub batch: bool,
}

/// How to read a channel's history.
#[derive(Clone, Debug, Default)]
pub struct HistoryOptions {
    /// Given back to [`Handler::history`] or [`Handler::refused`].
    pub tag: Bytes,
    /// Messages at most; never more than [`crate::config::limits::HISTORY_PAGE_MESSAGES`].
    pub limit: usize,
    /// Only messages after this one; before it with `reverse`. `None`: from the oldest kept message on,
    /// or from the newest.
    pub since: Option<Since>,
    /// The newest first.
    pub reverse: bool,
}

/// How to ask who is in a channel.
#[derive(Clone, Debug, Default)]
pub struct MembersOptions {
    /// Given back to [`Handler::members`] or [`Handler::refused`].
    pub tag: Bytes,
    /// Where the page begins: 0, or [`MembersPage::next`] of the page before.
    pub from: u32,
    /// Users at most; never more than [`crate::config::limits::PRESENCE_PAGE_MEMBERS`]. 0: only how many
    /// there are.
    pub limit: usize,
}

/// Whom a message that belongs to no channel is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// All connections of one user.
    User,
    /// Everyone.
    Everyone,
}

/// A published message on its way out.
#[derive(Clone, Copy, Debug)]
pub struct Published<'a> {
    /// For connections of endpoints with this [`Endpoint::form`].
    pub form: u8,
    /// The channel's name.
    pub channel: &'a str,
    /// The wildcard that its receivers are subscribed to; `None`: to the channel itself.
    pub wildcard: Option<&'a str>,
    /// Its number in the channel.
    pub offset: u64,
    /// When it got that number, in milliseconds since the Unix epoch.
    pub timestamp_ms: u64,
    /// What was published.
    pub publication: &'a Publication,
}

/// Some messages of a channel on their way out together.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// For connections of endpoints with this [`Endpoint::form`].
    pub form: u8,
    /// The channel's name, or the wildcard that the receivers are subscribed to.
    pub channel: &'a str,
    /// Whether it is a wildcard. Then each entry names its channel.
    pub wildcard: bool,
    /// Its messages, as [`Handler::encode_entry`] wrote them.
    pub entries: &'a [u8],
    /// How many they are; at least one.
    pub count: u32,
}

/// What a subscriber has lost.
#[derive(Clone, Copy, Debug)]
pub struct Dropped<'a> {
    /// The subscriber's [`Endpoint::form`].
    pub form: u8,
    /// The channel's name, or the wildcard that it is subscribed to.
    pub channel: &'a str,
    /// How many messages and events about members.
    pub count: u64,
    /// The number of the channel's last message before this, come or lost; `None` for a wildcard: they are of several channels.
    pub offset: Option<u64>,
}

/// How to publish.
#[derive(Clone, Debug, Default)]
pub struct PublishOptions {
    /// Given back to [`Handler::published`] with the position, or to [`Handler::sent`]; `None`: no
    /// acknowledgement.
    pub tag: Option<Bytes>,
    /// The publisher, if subscribed, gets no copy of its own.
    pub exclude_self: bool,
}

/// Why the engine refuses a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The connection is closing or gone.
    #[error("the connection is closed")]
    Closed,
    /// The connection is subscribed to as many channels as allowed.
    #[error("already subscribed to {limit} channels, the most a connection may have")]
    TooManyChannels {
        /// The bound.
        limit: usize,
    },
    /// The connection has asked for the same before, and the answers are still awaited.
    #[error("{limit} requests like this one wait for their answer, the most allowed")]
    Unanswered {
        /// The bound.
        limit: usize,
    },
    /// The answer would be more than may wait for this connection.
    #[error("{pending_bytes} bytes wait for this connection already; read them first")]
    Full {
        /// What waits.
        pending_bytes: usize,
    },
    /// As many connections are subscribed to the channel as its rule allows.
    #[error("the channel has {limit} subscribers, the most it may have")]
    TooManySubscribers {
        /// The bound.
        limit: usize,
    },
    /// As many different wildcards are subscribed to as allowed.
    #[error("{limit} different wildcards are subscribed to on this shard, the most allowed")]
    TooManyWildcards {
        /// The bound.
        limit: usize,
    },
    /// Another shard does not keep up; its queue here is full.
    #[error("{pending_bytes} bytes wait for a busy shard, the most allowed; try again later")]
    Busy {
        /// What waits.
        pending_bytes: usize,
    },
}

/// What a handler may ask of the engine. Everything it asks for leaves with the end of the turn.
pub struct Context<'a> {
    pub(super) core: &'a mut Core,
}

impl Context<'_> {
    /// The shard that calls.
    #[must_use]
    pub fn shard(&self) -> u16 {
        self.core.shard
    }

    /// Wall-clock time of this turn, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn unix_ms(&self) -> u64 {
        self.core.clock.unix_ms
    }

    /// Open connections of this shard.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.core.open
    }

    /// Sends a message to a connection of this shard. Answers are never dropped: while many wait,
    /// the connection is not read from. Returns whether the connection is open.
    pub fn send(&mut self, to: ConnectionId, kind: Kind, payload: &[u8]) -> bool {
        let opcode = match kind {
            Kind::Text => Opcode::Text,
            Kind::Binary => Opcode::Binary,
        };
        self.core.answer(to, opcode, payload)
    }

    /// Starts the close handshake. Messages sent before still arrive.
    pub fn close(&mut self, connection: ConnectionId, code: CloseCode, reason: &str) {
        if self.core.is_open(connection) {
            self.core
                .begin_close(connection.key, code, reason, CloseBy::Server);
        }
    }

    /// The form in which a connection gets what is published ([`Endpoint::form`]).
    #[must_use]
    pub fn form(&self, connection: ConnectionId) -> u8 {
        self.core.form(connection.key)
    }

    /// The user that a connection of this shard belongs to ([`Accept::user`]).
    #[must_use]
    pub fn user(&self, connection: ConnectionId) -> Option<&str> {
        self.core.user(connection)
    }

    /// Whether a connection of this shard is subscribed to a channel, or about to be: then nothing but the
    /// connection itself can keep it from being. Where the channel's rule limits the number of subscribers,
    /// only those count whom it has admitted.
    #[must_use]
    pub fn is_subscribed(&mut self, connection: ConnectionId, channel: &str) -> bool {
        let Some(number) = self.core.local.find(channel) else {
            return false;
        };
        let limited = self.core.rules.of(channel).subscribers.is_some();
        self.core.has_channel(connection, number)
            && (!limited || self.core.local.is_subscriber(number, connection.key))
    }

    /// Subscribes a connection of this shard to a channel. [`Handler::subscribed`] confirms it, with
    /// the tag given here; also when it was subscribed already. Messages that were missed follow, or the
    /// last one, where the channel's rule says so.
    ///
    /// # Errors
    /// When the connection is gone or has too many channels, or the channel's home shard does not keep
    /// up.
    pub fn subscribe(
        &mut self,
        connection: ConnectionId,
        channel: &str,
        options: SubscribeOptions,
    ) -> Result<(), Refusal> {
        self.core.subscribe(connection, channel, options)
    }

    /// Reads what is kept of a channel. [`Handler::history`] gets it, or [`Handler::refused`].
    ///
    /// # Errors
    /// When the connection is gone or has asked too often without an answer, or the channel's home shard
    /// does not keep up.
    pub fn read_history(
        &mut self,
        connection: ConnectionId,
        channel: &str,
        options: HistoryOptions,
    ) -> Result<(), Refusal> {
        self.core.read_history(connection, channel, options)
    }

    /// Ends a subscription. Returns whether there was one.
    pub fn unsubscribe(&mut self, connection: ConnectionId, channel: &str) -> bool {
        self.core.unsubscribe(connection, channel)
    }

    /// Publishes on behalf of a connection of this shard. Every subscriber on every shard gets it,
    /// in the channel's one order.
    ///
    /// # Errors
    /// When the connection is gone, or the channel's home shard does not keep up.
    pub fn publish(
        &mut self,
        from: ConnectionId,
        channel: &str,
        publication: Publication,
        options: PublishOptions,
    ) -> Result<(), Refusal> {
        self.core.publish(from, channel, publication, options)
    }

    /// Asks who is in a channel whose rule has presence. [`Handler::members`] gets it, or
    /// [`Handler::refused`].
    ///
    /// # Errors
    /// As [`Self::read_history`].
    pub fn read_members(
        &mut self,
        connection: ConnectionId,
        channel: &str,
        options: MembersOptions,
    ) -> Result<(), Refusal> {
        self.core.read_members(connection, channel, options)
    }

    /// Sends a message to every connection of a user, on whichever shard. [`Handler::sent`] says to how
    /// many, if there is a tag.
    ///
    /// # Errors
    /// When the connection is gone, or the user's home shard does not keep up.
    pub fn direct(
        &mut self,
        from: ConnectionId,
        user: &str,
        publication: Publication,
        tag: Option<Bytes>,
    ) -> Result<(), Refusal> {
        self.core.direct(from, user, publication, tag)
    }

    /// Sends a message to every connection of every endpoint that hears broadcasts. [`Handler::sent`] says
    /// to about how many, if there is a tag.
    ///
    /// # Errors
    /// When the connection is gone, or the first shard does not keep up.
    pub fn broadcast(
        &mut self,
        from: ConnectionId,
        publication: Publication,
        options: PublishOptions,
    ) -> Result<(), Refusal> {
        self.core.broadcast(from, publication, options)
    }

    /// Publishes on behalf of the application itself: also about a connection that has just ended,
    /// from [`Handler::close`]. Nobody is told when it is refused later, on its way
    /// ([`Handler::refused`]); it is counted (`publishes_refused`).
    ///
    /// # Errors
    /// When the channel's home shard does not keep up.
    pub fn announce(&mut self, channel: &str, publication: Publication) -> Result<(), Refusal> {
        self.core.announce(channel, publication)
    }
}
