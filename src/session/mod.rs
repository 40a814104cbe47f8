//! What a connection may say: ringwire's own protocol, as a handler on the engine.
//!
//! On the way of a message this stands between `wire` (complete messages) and `hub` (channels). It
//! speaks the envelope on the channel endpoints, as JSON or as MessagePack, and plain echo on `/echo`,
//! and answers plain HTTP requests on the public listener.

mod access;
mod commands;
pub mod data;
pub mod envelope;
pub mod form;
mod frames;
mod http;
mod meta;
mod msgpack;
mod object;
mod users;

use crate::config::limits::{MAX_KEY_BYTES, MAX_USER_ID_BYTES};
use crate::config::{Access, Config, TrustedPeer};
use crate::hub::rules::ChannelRules;
use crate::hub::{Position, Publication};
use crate::shard::connection::ConnectionId;
use crate::shard::handler::{
    Accept, Audience, Batch, Closed, Context, Dropped, Endpoint, Handler, Kind, MembersPage,
    Message, Page, PresenceEvent, Published, Refusal, Subscribed,
};
use crate::wire::close::CloseCode;
use crate::wire::upgrade::{Rejection, Request};
use bytes::Bytes;
use envelope::Refused;
use form::Form;
use frames::{Numbered, write_counts, write_position, write_response};
use object::{write_entry, write_object};
use std::net::SocketAddr;

/// What a backend publishes: `data` is JSON text. `from` is the user whom subscribers are told that it is from,
/// `key` as in the protocol.
///
/// # Errors
/// Says what is wrong with which of them.
pub fn publication(
    data: &str,
    from: Option<&str>,
    key: Option<&str>,
) -> Result<Publication, String> {
    let one_of = |text: &str, most: usize| {
        (1..=most).contains(&text.len()) && !text.chars().any(char::is_control)
    };
    if let Err(error) = serde_json::from_str::<&serde_json::value::RawValue>(data) {
        return Err(format!("the data is no JSON: {error}"));
    }
    if from.is_some_and(|from| !one_of(from, MAX_USER_ID_BYTES)) {
        return Err(format!(
            "a user id has 1 to {MAX_USER_ID_BYTES} bytes and no control characters"
        ));
    }
    if key.is_some_and(|key| !one_of(key, MAX_KEY_BYTES)) {
        return Err(format!(
            "a key has 1 to {MAX_KEY_BYTES} bytes and no control characters"
        ));
    }
    let meta = meta::Meta {
        form: Form::Json,
        user: from,
        key,
    };
    Ok(meta.publication(data.trim().as_bytes()))
}

/// Fragments of one message on `/echo`: conformance suites send 4 MiB in pieces of 64 bytes.
const ECHO_FRAGMENTS: u32 = 1 << 18;

/// Endpoints, as the engine numbers them.
const CHANNELS_JSON: u8 = 0;
const ECHO: u8 = 1;
const CHANNELS_MSGPACK: u8 = 2;

/// The form that the connections of an endpoint speak; `None` where no envelope is spoken.
const fn form_at(endpoint: u8) -> Option<Form> {
    match endpoint {
        CHANNELS_JSON => Some(Form::Json),
        CHANNELS_MSGPACK => Some(Form::MessagePack),
        _ => None,
    }
}

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
    /// Bytes of an answer that carries many messages, beyond which the rest is left for the next one.
    history_bytes: usize,
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
            history_bytes: config.client.outbox_bytes / 2,
            rules: ChannelRules::new(&config.channels),
            trusted_peers: config.users.trusted_peers.clone(),
            direct: config.users.direct.clone(),
            broadcast: config.users.broadcast.clone(),
            answer: Vec::new(),
        }
    }
}

impl Handler for Session {
    fn endpoints(&self) -> Vec<Endpoint> {
        let channels = |form: Form| Endpoint {
            message_bytes: self.message_bytes,
            fragments: self.fragments,
            hears_broadcasts: true,
            form: form.number(),
        };
        let echo = Endpoint {
            message_bytes: self.echo_message_bytes,
            fragments: ECHO_FRAGMENTS,
            hears_broadcasts: false,
            form: 0,
        };
        // In the order of their numbers.
        vec![channels(Form::Json), echo, channels(Form::MessagePack)]
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
        // The client's order counts. One that offers only subprotocols we don't speak gets none selected,
        // and decides.
        let spoken = |offered: &str| {
            Form::ALL
                .into_iter()
                .find(|form| form.subprotocol() == offered)
        };
        let chosen = request.subprotocols().find_map(spoken);
        Ok(Accept {
            endpoint: match chosen {
                None | Some(Form::Json) => CHANNELS_JSON,
                Some(Form::MessagePack) => CHANNELS_MSGPACK,
            },
            subprotocol: chosen.map(Form::subprotocol),
            user: users::user(request, peer, &self.trusted_peers)?,
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
        let Some(form) = form_at(message.endpoint) else {
            context.send(connection, message.kind, message.payload);
            return;
        };
        if message.kind != form.kind() {
            let error = match form {
                Form::Json => "this connection speaks JSON in text frames",
                Form::MessagePack => "this connection speaks MessagePack in binary frames",
            };
            self.error(context, connection, "unsupported_data", error, None);
            return;
        }
        match envelope::parse(form, message.payload, self.channel_name_bytes) {
            Ok(envelope) => self.command(context, connection, form, envelope),
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
        self.answer(context, connection, |answer| {
            answer.string("type", "subscribed");
            answer.string("channel", subscribed.channel);
            answer.id(subscribed.tag);
            if let Some(position) = subscribed.position {
                write_position(answer, position);
            }
            if let Some(recovered) = subscribed.recovered {
                answer.boolean("recovered", recovered);
            }
        });
    }

    fn history(
        &mut self,
        context: &mut Context<'_>,
        connection: ConnectionId,
        page: &Page,
        tag: &Bytes,
    ) {
        let (message_bytes, history_bytes) = (self.message_bytes, self.history_bytes);
        let form = Form::of(context.form(connection));
        let (mut entries, mut count) = (Vec::new(), 0);
        for message in &page.messages {
            let before = entries.len();
            let message = Numbered {
                publication: &message.publication,
                offset: message.offset,
                timestamp_ms: message.timestamp_ms,
            };
            write_entry(&mut entries, form, |entry| {
                message.write(entry, message_bytes);
            });
            // Data can be longer than when the page was measured: it may have been published in the other
            // form.
            if count > 0 && entries.len() > history_bytes {
                entries.truncate(before);
                break;
            }
            count += 1;
        }
        self.answer(context, connection, |answer| {
            write_response(answer, tag, |data| {
                data.entries("messages", &entries, count);
                write_position(data, page.position);
                data.boolean("more", page.more || count < page.messages.len());
                data.boolean("complete", page.complete);
            });
        });
    }

    fn abandoned(
        &mut self,
        context: &mut Context<'_>,
        connection: ConnectionId,
        channel: &str,
        tag: &Bytes,
    ) {
        let error = format!("unsubscribed from {channel:?} before the subscription was in force");
        self.error(context, connection, "not_subscribed", &error, Some(tag));
    }

    fn published(
        &mut self,
        context: &mut Context<'_>,
        connection: ConnectionId,
        position: Position,
        tag: &Bytes,
    ) {
        self.answer(context, connection, |answer| {
            write_response(answer, tag, |data| {
                data.boolean("published", true);
                data.integer("offset", position.offset);
            });
        });
    }

    fn members(
        &mut self,
        context: &mut Context<'_>,
        connection: ConnectionId,
        page: &MembersPage,
        tag: &Bytes,
    ) {
        self.answer(context, connection, |answer| {
            write_response(answer, tag, |data| {
                write_counts(data, page.counts);
                if page.limit == 0 {
                    return;
                }
                data.objects("members", page.members.iter(), |member, one| {
                    let (user, connections) = one;
                    member.string("user_id", user);
                    member.integer("connections", (*connections).into());
                });
                match page.next {
                    Some(next) => data.integer("next", next.into()),
                    None => data.null("next"),
                }
            });
        });
    }

    fn sent(
        &mut self,
        context: &mut Context<'_>,
        connection: ConnectionId,
        connections: u64,
        tag: &Bytes,
    ) {
        self.answer(context, connection, |answer| {
            write_response(answer, tag, |data| {
                data.integer("connections", connections);
            });
        });
    }

    fn refused(
        &mut self,
        context: &mut Context<'_>,
        connection: ConnectionId,
        refusal: Refusal,
        tag: Option<&Bytes>,
    ) {
        self.refuse(context, connection, refusal, tag.map(Bytes::as_ref));
    }

    fn encode(&mut self, message: &Published<'_>, payload: &mut Vec<u8>) -> Kind {
        let form = Form::of(message.form);
        write_object(payload, form, |frame| {
            frame.string("type", "message");
            frame.string("channel", message.channel);
            if let Some(wildcard) = message.wildcard {
                frame.string("wildcard", wildcard);
            }
            numbered(message).write(frame, self.message_bytes);
        });
        form.kind()
    }

    fn encode_entry(&mut self, message: &Published<'_>, entries: &mut Vec<u8>) {
        write_entry(entries, Form::of(message.form), |entry| {
            // The others are in the batch's own channel.
            if message.wildcard.is_some() {
                entry.string("channel", message.channel);
            }
            numbered(message).write(entry, self.message_bytes);
        });
    }

    fn encode_batch(batch: &Batch<'_>, payload: &mut Vec<u8>) -> Kind {
        let form = Form::of(batch.form);
        write_object(payload, form, |frame| {
            frame.string("type", "messages");
            frame.string(channel_or(batch.wildcard), batch.channel);
            frame.entries("messages", batch.entries, batch.count as usize);
        });
        form.kind()
    }

    fn encode_dropped(dropped: &Dropped<'_>, payload: &mut Vec<u8>) -> Option<Kind> {
        let form = Form::of(dropped.form);
        write_object(payload, form, |frame| {
            frame.string("type", "dropped");
            frame.string(channel_or(dropped.offset.is_none()), dropped.channel);
            frame.integer("count", dropped.count);
            if let Some(offset) = dropped.offset {
                frame.integer("offset", offset);
            }
        });
        Some(form.kind())
    }

    fn encode_presence(
        &mut self,
        form: u8,
        channel: &str,
        event: &PresenceEvent,
        payload: &mut Vec<u8>,
    ) -> Kind {
        let form = Form::of(form);
        write_object(payload, form, |frame| {
            frames::write_presence(frame, channel, event);
        });
        form.kind()
    }

    fn encode_direct(
        &mut self,
        form: u8,
        publication: &Publication,
        audience: Audience,
        payload: &mut Vec<u8>,
    ) -> Kind {
        let form = Form::of(form);
        write_object(payload, form, |frame| {
            frames::write_direct(frame, publication, audience, self.message_bytes);
        });
        form.kind()
    }

    fn farewell(
        endpoint: u8,
        code: CloseCode,
        reason: &str,
        payload: &mut Vec<u8>,
    ) -> Option<Kind> {
        let form = form_at(endpoint)?;
        write_object(payload, form, |frame| {
            frames::write_disconnect(frame, code, reason);
        });
        Some(form.kind())
    }
}

/// The field that names where a frame comes from.
const fn channel_or(wildcard: bool) -> &'static str {
    match wildcard {
        true => "wildcard",
        false => "channel",
    }
}

const fn numbered<'a>(message: &Published<'a>) -> Numbered<'a> {
    Numbered {
        publication: message.publication,
        offset: message.offset,
        timestamp_ms: message.timestamp_ms,
    }
}

#[cfg(test)]
mod tests;
