//! What a connection may say: ringwire's own protocol, as a handler on the engine.
//!
//! On the way of a message this stands between `wire` (complete messages) and `hub` (channels). It
//! speaks the JSON envelope on the channel endpoints and plain echo on `/echo`, and answers plain
//! HTTP requests on the public listener.

pub mod envelope;
mod http;

use crate::config::Config;
use crate::hub::{Position, Publication};
use crate::shard::connection::ConnectionId;
use crate::shard::handler::{
    Accept, Closed, Context, Endpoint, Handler, Kind, Message, PublishOptions, Published, Refusal,
};
use crate::wire::close::CloseCode;
use crate::wire::upgrade::{Rejection, Request};
use bytes::Bytes;
use envelope::{
    Command, Envelope, Refused, write_error, write_id, write_integer, write_seconds, write_string,
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
                self.answer(context, from, |out| {
                    out.extend_from_slice(b"{\"type\":\"connect\"");
                    write_id(out, id.unwrap_or_default().as_bytes());
                    out.extend_from_slice(b",\"connection_id\":");
                    write_string(out, &from.to_string());
                    out.extend_from_slice(b",\"user_id\":null,\"ping_interval_ms\":");
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
            Command::Subscribe { channel } => {
                let tag = Bytes::copy_from_slice(id.unwrap_or_default().as_bytes());
                if let Err(refusal) = context.subscribe(from, &channel, tag) {
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
                    self.answer(context, from, |out| {
                        write_error(out, "not_subscribed", &error, id)
                    });
                }
            }
            Command::Publish {
                channel,
                data,
                echo,
            } => {
                let publication = Publication {
                    meta: Bytes::from_static(b"null"),
                    data: Bytes::copy_from_slice(data.as_bytes()),
                };
                let options = PublishOptions {
                    tag: id.map(|id| Bytes::copy_from_slice(id.as_bytes())),
                    exclude_self: !echo,
                };
                if let Err(refusal) = context.publish(from, &channel, publication, options) {
                    self.refuse(context, from, refusal, id);
                }
            }
            Command::NotAvailable { kind } => {
                let error = format!("this server does not serve \"{kind}\"");
                self.answer(context, from, |out| {
                    write_error(out, "not_available", &error, id)
                });
            }
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
            Refusal::Unanswered { .. } | Refusal::Busy { .. } => "busy",
        };
        self.answer(context, from, |out| {
            write_error(out, code, &refusal.to_string(), id)
        });
    }
}

impl Handler for Session {
    fn endpoints(&self) -> Vec<Endpoint> {
        vec![
            Endpoint {
                message_bytes: self.message_bytes,
                fragments: self.fragments,
            },
            Endpoint {
                message_bytes: self.echo_message_bytes,
                fragments: ECHO_FRAGMENTS,
            },
        ]
    }

    fn upgrade(
        &mut self,
        request: &Request<'_>,
        _peer: Option<SocketAddr>,
    ) -> Result<Accept, Rejection> {
        if self.echo && request.path == "/echo" {
            return Ok(Accept {
                endpoint: ECHO,
                subprotocol: None,
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
            self.answer(context, connection, |out| {
                write_error(
                    out,
                    "unsupported_data",
                    "this connection speaks JSON in text frames",
                    None,
                );
            });
            return;
        }
        match envelope::parse(message.payload, self.channel_name_bytes) {
            Ok(envelope) => self.command(context, connection, envelope),
            Err(Refused { code, error, id }) => {
                self.answer(context, connection, |out| {
                    write_error(out, code, &error, id)
                });
            }
        }
    }

    fn close(&mut self, _context: &mut Context<'_>, connection: ConnectionId, closed: &Closed) {
        tracing::debug!(%connection, code = closed.code.get(), by = ?closed.by, "closed");
    }

    fn subscribed(
        &mut self,
        context: &mut Context<'_>,
        connection: ConnectionId,
        channel: &str,
        position: Position,
        tag: &Bytes,
    ) {
        self.answer(context, connection, |out| {
            out.extend_from_slice(b"{\"type\":\"subscribed\",\"channel\":");
            write_string(out, channel);
            write_id(out, tag);
            out.extend_from_slice(b",\"offset\":");
            write_integer(out, position.offset);
            out.extend_from_slice(b",\"epoch\":");
            write_integer(out, position.epoch);
            out.push(b'}');
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
        self.answer(context, connection, |out| {
            write_error(out, "not_subscribed", &error, id);
        });
    }

    fn published(
        &mut self,
        context: &mut Context<'_>,
        connection: ConnectionId,
        position: Position,
        tag: &Bytes,
    ) {
        self.answer(context, connection, |out| {
            out.extend_from_slice(b"{\"type\":\"response\"");
            write_id(out, tag);
            out.extend_from_slice(b",\"data\":{\"published\":true,\"offset\":");
            write_integer(out, position.offset);
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
        payload.extend_from_slice(b",\"from\":");
        payload.extend_from_slice(&message.publication.meta);
        payload.extend_from_slice(b",\"data\":");
        payload.extend_from_slice(&message.publication.data);
        payload.extend_from_slice(b",\"offset\":");
        write_integer(payload, message.offset);
        payload.extend_from_slice(b",\"timestamp\":");
        write_seconds(payload, message.timestamp_ms);
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
        payload.extend_from_slice(if reconnect { b"true" } else { b"false" });
        payload.extend_from_slice(b",\"after_ms\":");
        write_integer(payload, if reconnect { RECONNECT_AFTER_MS } else { 0 });
        payload.push(b'}');
        Some(Kind::Text)
    }
}

/// How long a disconnected client should wait before it comes back, in milliseconds. It adds its own
/// random part, so that a restart is no stampede.
const RECONNECT_AFTER_MS: u64 = 1000;
