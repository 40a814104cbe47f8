//! What a connection may say: ringwire's own protocol, as a handler on the engine.
//!
//! On the way of a message this stands between `wire` (complete messages) and `hub` (channels). It
//! speaks the JSON envelope on the channel endpoints and plain echo on `/echo`, and answers plain
//! HTTP requests on the public listener.

pub mod access;
pub mod envelope;
mod http;

use crate::config::limits::MAX_USER_ID_BYTES;
use crate::config::{Access, Config, TrustedPeer};
use crate::hub::rules::ChannelRules;
use crate::hub::{Position, Publication};
use crate::shard::connection::ConnectionId;
use crate::shard::handler::{
    Accept, Audience, Closed, Context, Counts, Endpoint, Handler, HistoryOptions, Kind,
    MembersOptions, MembersPage, Message, Page, PresenceEvent, PublishOptions, Published, Refusal,
    SubscribeOptions, Subscribed,
};
use crate::wire::close::CloseCode;
use crate::wire::upgrade::{Rejection, Request};
use bytes::Bytes;
use envelope::{
    Command, Envelope, Refused, write_boolean, write_error, write_id, write_integer, write_seconds,
    write_string,
};
use std::net::SocketAddr;

/// The subprotocol of the JSON envelope. A client may also offer none.
pub const JSON_SUBPROTOCOL: &str = "ringwire.json.v1";

/// Fragments of one message on `/echo`: conformance suites send 4 MiB in pieces of 64 bytes.
const ECHO_FRAGMENTS: u32 = 1 << 18;

/// Endpoints, as the engine numbers them.
const CHANNELS: u8 = 0;
const ECHO: u8 = 1;

/// One shard's part of ringwire's protocol.
pub struct Session {
    channel_paths: Vec<String>,
    echo: bool,
    demo_page: bool,
    message_bytes: usize,
    echo_message_bytes: usize,
    fragments: u32,
    channel_name_bytes: usize,
    ping_interval_ms: u32,
    rules: ChannelRules,
    trusted_peers: Vec<TrustedPeer>,
    direct: Access,
    broadcast: Access,
    answer: Vec<u8>,
}

impl Session {
    /// The protocol as configured.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self {
            channel_paths: config.http.websocket_paths.clone(),
            echo: config.echo_enabled(),
            demo_page: config.http.demo_page,
            message_bytes: config.client.message_bytes,
            echo_message_bytes: config.client.echo_message_bytes,
            fragments: config.client.fragments,
            channel_name_bytes: config.client.channel_name_bytes,
            ping_interval_ms: config.heartbeat.interval_ms,
            rules: ChannelRules::new(&config.channels),
            trusted_peers: config.users.trusted_peers.clone(),
            direct: config.users.direct.clone(),
            broadcast: config.users.broadcast.clone(),
            answer: Vec::new(),
        }
    }

    /// Sends an answer that `write` writes.
    fn answer(
        &mut self,
        context: &mut Context<'_>,
        to: ConnectionId,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        self.answer.clear();
        write(&mut self.answer);
        context.send(to, Kind::Text, &self.answer);
    }

    fn command(&mut self, context: &mut Context<'_>, from: ConnectionId, envelope: Envelope<'_>) {
        let id = envelope.id;
        match envelope.command {
            Command::Connect => {
                let interval_ms = self.ping_interval_ms;
                let user = publisher(context, from);
                self.answer(context, from, |out| {
                    out.extend_from_slice(b"{\"type\":\"connect\"");
                    write_id(out, id.unwrap_or_default().as_bytes());
                    out.extend_from_slice(b",\"connection_id\":");
                    write_string(out, &from.to_string());
                    out.extend_from_slice(b",\"user_id\":");
                    out.extend_from_slice(&user);
                    out.extend_from_slice(b",\"ping_interval_ms\":");
                    write_integer(out, u64::from(interval_ms));
                    out.push(b'}');
                });
            }
            Command::Ping => {
                self.answer(context, from, |out| {
                    out.extend_from_slice(b"{\"type\":\"pong\"");
                    write_id(out, id.unwrap_or_default().as_bytes());
                    out.push(b'}');
                });
            }
            Command::Pong => {}
            Command::Subscribe { channel, recover } => {
                let allow = &self.rules.of(&channel).allow;
                let user = context.user(from);
                let denied = if !access::allows(&allow.subscribe, user, &channel) {
                    Some(format!("subscribe to {channel:?}"))
                } else if recover.is_some() && !access::allows(&allow.history, user, &channel) {
                    Some(read_history(&channel))
                } else {
                    None
                };
                if let Some(what) = denied {
                    return self.forbid(context, from, &what, id);
                }
                let options = SubscribeOptions {
                    tag: Bytes::copy_from_slice(id.unwrap_or_default().as_bytes()),
                    recover,
                    batch: false,
                };
                if let Err(refusal) = context.subscribe(from, &channel, options) {
                    self.refuse(context, from, refusal, id);
                }
            }
            Command::Unsubscribe { channel } => {
                if context.unsubscribe(from, &channel) {
                    self.answer(context, from, |out| {
                        out.extend_from_slice(b"{\"type\":\"unsubscribed\",\"channel\":");
                        write_string(out, &channel);
                        write_id(out, id.unwrap_or_default().as_bytes());
                        out.push(b'}');
                    });
                } else {
                    let error = format!("not subscribed to {channel:?}");
                    self.error(context, from, "not_subscribed", &error, id);
                }
            }
            Command::Publish {
                channel,
                data,
                echo,
            } => {
                let rule = self.rules.of(&channel);
                if !access::allows(&rule.allow.publish, context.user(from), &channel) {
                    let what = format!("publish to {channel:?}");
                    return self.forbid(context, from, &what, id);
                }
                if rule.publish_needs_subscription && !context.is_subscribed(from, &channel) {
                    let error = format!("only subscribers may publish to {channel:?}");
                    return self.error(context, from, "not_subscribed", &error, id);
                }
                if let Some(limit) = rule.data_bytes
                    && data.len() > limit
                {
                    let bytes = data.len();
                    let error =
                        format!("\"data\" has {bytes} bytes, {limit} are allowed in {channel:?}");
                    return self.error(context, from, "message_too_big", &error, id);
                }
                let publication = Publication {
                    key: 0,
                    meta: publisher(context, from),
                    data: Bytes::copy_from_slice(data.as_bytes()),
                };
                let options = PublishOptions {
                    tag: id.map(|id| Bytes::copy_from_slice(id.as_bytes())),
                    exclude_self: !echo.unwrap_or(rule.echo),
                };
                if let Err(refusal) = context.publish(from, &channel, publication, options) {
                    self.refuse(context, from, refusal, id);
                }
            }
            Command::Presence {
                channel,
                cursor,
                limit,
            } => {
                // Nobody is 0: that would only count.
                self.ask_who(context, from, &channel, cursor, limit.max(1), id);
            }
            Command::PresenceStats { channel } => {
                self.ask_who(context, from, &channel, 0, 0, id);
            }
            Command::Direct { to, data } => {
                if !access::allows(&self.direct, context.user(from), "") {
                    return self.forbid(context, from, "send direct messages", id);
                }
                let publication = Publication {
                    key: 0,
                    meta: publisher(context, from),
                    data: Bytes::copy_from_slice(data.as_bytes()),
                };
                let tag = id.map(|id| Bytes::copy_from_slice(id.as_bytes()));
                if let Err(refusal) = context.direct(from, &to, publication, tag) {
                    self.refuse(context, from, refusal, id);
                }
            }
            Command::Broadcast { data, echo } => {
                if !access::allows(&self.broadcast, context.user(from), "") {
                    return self.forbid(context, from, "send to everyone", id);
                }
                let publication = Publication {
                    key: 0,
                    meta: publisher(context, from),
                    data: Bytes::copy_from_slice(data.as_bytes()),
                };
                let options = PublishOptions {
                    tag: id.map(|id| Bytes::copy_from_slice(id.as_bytes())),
                    exclude_self: !echo,
                };
                if let Err(refusal) = context.broadcast(from, publication, options) {
                    self.refuse(context, from, refusal, id);
                }
            }
            Command::History {
                channel,
                limit,
                since,
                reverse,
            } => {
                let allow = &self.rules.of(&channel).allow;
                if !access::may_read(allow, &allow.history, context.user(from), &channel) {
                    return self.forbid(context, from, &read_history(&channel), id);
                }
                let options = HistoryOptions {
                    tag: Bytes::copy_from_slice(id.unwrap_or_default().as_bytes()),
                    limit,
                    since,
                    reverse,
                };
                if let Err(refusal) = context.read_history(from, &channel, options) {
                    self.refuse(context, from, refusal, id);
                }
            }
            Command::NotAvailable { kind } => {
                let error = format!("this server does not serve \"{kind}\"");
                self.error(context, from, "not_available", &error, id);
            }
        }
    }

    /// Asks who is in a channel (`limit` 0: how many), if that is known and this connection may.
    fn ask_who(
        &mut self,
        context: &mut Context<'_>,
        from: ConnectionId,
        channel: &str,
        cursor: u32,
        limit: usize,
        id: Option<&str>,
    ) {
        let rule = self.rules.of(channel);
        let allow = &rule.allow;
        if !access::may_read(allow, &allow.presence, context.user(from), channel) {
            let what = format!("ask who is in {channel:?}");
            return self.forbid(context, from, &what, id);
        }
        if !rule.presence.enabled {
            let error = format!("there is no presence in {channel:?}");
            return self.error(context, from, "not_available", &error, id);
        }
        let options = MembersOptions {
            tag: Bytes::copy_from_slice(id.unwrap_or_default().as_bytes()),
            from: cursor,
            limit,
        };
        if let Err(refusal) = context.read_members(from, channel, options) {
            self.refuse(context, from, refusal, id);
        }
    }

    fn refuse(
        &mut self,
        context: &mut Context<'_>,
        from: ConnectionId,
        refusal: Refusal,
        id: Option<&str>,
    ) {
        let code = match refusal {
            Refusal::Closed => return,
            Refusal::TooManyChannels { .. } => "too_many_channels",
            Refusal::TooManySubscribers { .. } => "too_many_subscribers",
            Refusal::TooManyWildcards { .. } => "too_many_wildcards",
            Refusal::Unanswered { .. } | Refusal::Busy { .. } | Refusal::Full { .. } => "busy",
        };
        self.error(context, from, code, &refusal.to_string(), id);
    }

    fn error(
        &mut self,
        context: &mut Context<'_>,
        to: ConnectionId,
        code: &str,
        error: &str,
        id: Option<&str>,
    ) {
        self.answer(context, to, |out| write_error(out, code, error, id));
    }

    fn forbid(
        &mut self,
        context: &mut Context<'_>,
        to: ConnectionId,
        what: &str,
        id: Option<&str>,
    ) {
        let who = match context.user(to) {
            Some(user) => format!("user {user:?}"),
            None => "a connection without a user id".to_owned(),
        };
        let error = format!("{who} may not {what}");
        self.error(context, to, "forbidden", &error, id);
    }

    /// The user whose name a trusted peer put into the request's head.
    fn user(
        &self,
        request: &Request<'_>,
        peer: Option<SocketAddr>,
    ) -> Result<Option<String>, Rejection> {
        let address = peer.map(|peer| peer.ip());
        if !self.trusted_peers.iter().any(|one| one.matches(address)) {
            return Ok(None);
        }
        let mut headers = request.headers(USER_HEADER);
        let Some(value) = headers.next() else {
            return Ok(None);
        };
        if headers.next().is_some() {
            return Err(Rejection::new(400, "X-User-ID is there more than once."));
        }
        let value = value.trim_ascii();
        let user = std::str::from_utf8(value)
            .ok()
            .filter(|user| user.len() <= MAX_USER_ID_BYTES && !user.chars().any(char::is_control));
        match user {
            Some("") => Ok(None),
            Some(user) => Ok(Some(user.to_owned())),
            None => Err(Rejection::new(
                400,
                format!(
                    "X-User-ID must be UTF-8 of at most {MAX_USER_ID_BYTES} bytes without control characters."
                ),
            )),
        }
    }
}

fn read_history(channel: &str) -> String {
    format!("read the history of {channel:?}")
}

/// The header in which a trusted peer names the user of a connection.
const USER_HEADER: &str = "X-User-ID";

/// A connection's user as JSON: what subscribers are told.
fn publisher(context: &Context<'_>, connection: ConnectionId) -> Bytes {
    match context.user(connection) {
        None => Bytes::from_static(b"null"),
        Some(user) => {
            let mut json = Vec::with_capacity(user.len() + 2);
            write_string(&mut json, user);
            json.into()
        }
    }
}

impl Handler for Session {
    fn endpoints(&self) -> Vec<Endpoint> {
        vec![
            Endpoint {
                message_bytes: self.message_bytes,
                fragments: self.fragments,
                hears_broadcasts: true,
                form: 0,
            },
            Endpoint {
                message_bytes: self.echo_message_bytes,
                fragments: ECHO_FRAGMENTS,
                hears_broadcasts: false,
                form: 0,
            },
        ]
    }

    fn upgrade(
        &mut self,
        request: &Request<'_>,
        peer: Option<SocketAddr>,
    ) -> Result<Accept, Rejection> {
        if self.echo && request.path == "/echo" {
            return Ok(Accept {
                endpoint: ECHO,
                ..Accept::default()
            });
        }
        if !self.channel_paths.iter().any(|path| path == request.path) {
            return Err(Rejection::new(404, http::nowhere(&self.channel_paths)));
        }
        // A client that offers only subprotocols we don't speak gets none selected, and decides.
        let json = request
            .subprotocols()
            .any(|offered| offered == JSON_SUBPROTOCOL);
        Ok(Accept {
            endpoint: CHANNELS,
            subprotocol: json.then_some(JSON_SUBPROTOCOL),
            user: self.user(request, peer)?,
        })
    }

    fn http(&mut self, request: &Request<'_>, response: &mut Vec<u8>) {
        http::respond(
            request,
            self.demo_page,
            &self.channel_paths,
            self.echo,
            response,
        );
    }

    fn message(
        &mut self,
        context: &mut Context<'_>,
        connection: ConnectionId,
        message: Message<'_>,
    ) {
        if message.endpoint == ECHO {
            context.send(connection, message.kind, message.payload);
            return;
        }
        if message.kind == Kind::Binary {
            let error = "this connection speaks JSON in text frames";
            self.error(context, connection, "unsupported_data", error, None);
            return;
        }
        match envelope::parse(message.payload, self.channel_name_bytes) {
            Ok(envelope) => self.command(context, connection, envelope),
            Err(Refused { code, error, id }) => self.error(context, connection, code, &error, id),
        }
    }

    fn close(&mut self, _context: &mut Context<'_>, connection: ConnectionId, closed: &Closed) {
        tracing::debug!(%connection, code = closed.code.get(), by = ?closed.by, "closed");
    }

    fn subscribed(
        &mut self,
        context: &mut Context<'_>,
        connection: ConnectionId,
        subscribed: &Subscribed<'_>,
    ) {
        self.answer(context, connection, |out| {
            out.extend_from_slice(b"{\"type\":\"subscribed\",\"channel\":");
            write_string(out, subscribed.channel);
            write_id(out, subscribed.tag);
            if let Some(position) = subscribed.position {
                out.push(b',');
                write_position(out, position);
            }
            if let Some(recovered) = subscribed.recovered {
                out.extend_from_slice(b",\"recovered\":");
                write_boolean(out, recovered);
            }
            out.push(b'}');
        });
    }

    fn history(
        &mut self,
        context: &mut Context<'_>,
        connection: ConnectionId,
        page: &Page,
        tag: &Bytes,
    ) {
        self.answer(context, connection, |out| {
            begin_response(out, tag);
            out.extend_from_slice(b"\"messages\":[");
            for (at, message) in page.messages.iter().enumerate() {
                out.extend_from_slice(if at == 0 { b"{" } else { b",{" });
                let publication = &message.publication;
                write_message(out, publication, message.offset, message.timestamp_ms);
                out.push(b'}');
            }
            out.extend_from_slice(b"],");
            write_position(out, page.position);
            out.extend_from_slice(b",\"more\":");
            write_boolean(out, page.more);
            out.extend_from_slice(b",\"complete\":");
            write_boolean(out, page.complete);
            out.extend_from_slice(b"}}");
        });
    }

    fn abandoned(
        &mut self,
        context: &mut Context<'_>,
        connection: ConnectionId,
        channel: &str,
        tag: &Bytes,
    ) {
        let id = std::str::from_utf8(tag).ok().filter(|id| !id.is_empty());
        let error = format!("unsubscribed from {channel:?} before the subscription was in force");
        self.error(context, connection, "not_subscribed", &error, id);
    }

    fn published(
        &mut self,
        context: &mut Context<'_>,
        connection: ConnectionId,
        position: Position,
        tag: &Bytes,
    ) {
        self.answer(context, connection, |out| {
            begin_response(out, tag);
            out.extend_from_slice(b"\"published\":true,\"offset\":");
            write_integer(out, position.offset);
            out.extend_from_slice(b"}}");
        });
    }

    fn members(
        &mut self,
        context: &mut Context<'_>,
        connection: ConnectionId,
        page: &MembersPage,
        tag: &Bytes,
    ) {
        self.answer(context, connection, |out| {
            begin_response(out, tag);
            write_counts(out, page.counts);
            if page.limit > 0 {
                write_members(out, page);
            }
            out.extend_from_slice(b"}}");
        });
    }

    fn sent(
        &mut self,
        context: &mut Context<'_>,
        connection: ConnectionId,
        connections: u64,
        tag: &Bytes,
    ) {
        self.answer(context, connection, |out| {
            begin_response(out, tag);
            out.extend_from_slice(b"\"connections\":");
            write_integer(out, connections);
            out.extend_from_slice(b"}}");
        });
    }

    fn refused(
        &mut self,
        context: &mut Context<'_>,
        connection: ConnectionId,
        refusal: Refusal,
        tag: Option<&Bytes>,
    ) {
        let id = tag.and_then(|tag| std::str::from_utf8(tag).ok());
        self.refuse(context, connection, refusal, id);
    }

    fn encode(&mut self, message: &Published<'_>, payload: &mut Vec<u8>) -> Kind {
        payload.extend_from_slice(b"{\"type\":\"message\",\"channel\":");
        write_string(payload, message.channel);
        payload.push(b',');
        let publication = message.publication;
        write_message(payload, publication, message.offset, message.timestamp_ms);
        payload.push(b'}');
        Kind::Text
    }

    fn encode_presence(
        &mut self,
        _form: u8,
        channel: &str,
        event: &PresenceEvent,
        payload: &mut Vec<u8>,
    ) -> Kind {
        payload.extend_from_slice(match event {
            PresenceEvent::Join(_) => b"{\"type\":\"join\",\"channel\":".as_slice(),
            PresenceEvent::Leave(_) => b"{\"type\":\"leave\",\"channel\":",
            PresenceEvent::Counts(_) => b"{\"type\":\"presence_stats\",\"channel\":",
        });
        write_string(payload, channel);
        payload.push(b',');
        match event {
            PresenceEvent::Join(user) | PresenceEvent::Leave(user) => {
                payload.extend_from_slice(b"\"user_id\":");
                write_string(payload, user);
            }
            PresenceEvent::Counts(counts) => write_counts(payload, *counts),
        }
        payload.push(b'}');
        Kind::Text
    }

    fn encode_direct(
        &mut self,
        _form: u8,
        publication: &Publication,
        audience: Audience,
        payload: &mut Vec<u8>,
    ) -> Kind {
        payload.extend_from_slice(match audience {
            Audience::User => b"{\"type\":\"direct\",\"from\":".as_slice(),
            Audience::Everyone => b"{\"type\":\"broadcast\",\"from\":",
        });
        payload.extend_from_slice(&publication.meta);
        payload.extend_from_slice(b",\"data\":");
        payload.extend_from_slice(&publication.data);
        payload.push(b'}');
        Kind::Text
    }

    fn farewell(
        endpoint: u8,
        code: CloseCode,
        reason: &str,
        payload: &mut Vec<u8>,
    ) -> Option<Kind> {
        if endpoint != CHANNELS {
            return None;
        }
        payload.extend_from_slice(b"{\"type\":\"disconnect\",\"code\":");
        write_integer(payload, u64::from(code.get()));
        payload.extend_from_slice(b",\"reason\":");
        write_string(payload, reason);
        let reconnect = code.should_reconnect();
        payload.extend_from_slice(b",\"reconnect\":");
        write_boolean(payload, reconnect);
        payload.extend_from_slice(b",\"after_ms\":");
        write_integer(payload, if reconnect { RECONNECT_AFTER_MS } else { 0 });
        payload.push(b'}');
        Some(Kind::Text)
    }
}

/// What a published message and an entry of a history have in common.
fn write_message(out: &mut Vec<u8>, publication: &Publication, offset: u64, timestamp_ms: u64) {
    out.extend_from_slice(b"\"from\":");
    out.extend_from_slice(&publication.meta);
    out.extend_from_slice(b",\"data\":");
    out.extend_from_slice(&publication.data);
    out.extend_from_slice(b",\"offset\":");
    write_integer(out, offset);
    out.extend_from_slice(b",\"timestamp\":");
    write_seconds(out, timestamp_ms);
}

/// Everything of a response up to the first field of its data.
fn begin_response(out: &mut Vec<u8>, tag: &Bytes) {
    out.extend_from_slice(b"{\"type\":\"response\"");
    write_id(out, tag);
    out.extend_from_slice(b",\"data\":{");
}

fn write_counts(out: &mut Vec<u8>, counts: Counts) {
    out.extend_from_slice(b"\"users\":");
    write_integer(out, u64::from(counts.users));
    out.extend_from_slice(b",\"anonymous\":");
    write_integer(out, u64::from(counts.anonymous));
    out.extend_from_slice(b",\"connections\":");
    write_integer(out, u64::from(counts.connections));
}

fn write_members(out: &mut Vec<u8>, page: &MembersPage) {
    out.extend_from_slice(b",\"members\":[");
    for (at, (user, connections)) in page.members.iter().enumerate() {
        let begin: &[u8] = match at {
            0 => b"{\"user_id\":",
            _ => b",{\"user_id\":",
        };
        out.extend_from_slice(begin);
        write_string(out, user);
        out.extend_from_slice(b",\"connections\":");
        write_integer(out, u64::from(*connections));
        out.push(b'}');
    }
    out.extend_from_slice(b"],\"next\":");
    match page.next {
        Some(next) => write_integer(out, u64::from(next)),
        None => out.extend_from_slice(b"null"),
    }
}

fn write_position(out: &mut Vec<u8>, position: Position) {
    out.extend_from_slice(b"\"offset\":");
    write_integer(out, position.offset);
    out.extend_from_slice(b",\"epoch\":");
    write_integer(out, position.epoch);
}

/// How long a disconnected client should wait before it comes back, in milliseconds. It adds its own
/// random part, so that a restart is no stampede.
const RECONNECT_AFTER_MS: u64 = 1000;
