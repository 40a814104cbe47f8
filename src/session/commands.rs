//! What happens when a client asks for something: who may, and what the engine is asked for.

use super::data::{self, MAX_GROWTH};
use super::envelope::{Command, Envelope, write_error};
use super::form::Form;
use super::meta::Meta;
use super::object::{Object, write_object};
use super::{Session, access};
use crate::config::Allow;
use crate::hub::{Publication, wildcards};
use crate::shard::connection::ConnectionId;
use crate::shard::handler::{
    Context, HistoryOptions, MembersOptions, PublishOptions, Refusal, SubscribeOptions,
};
use bytes::Bytes;

impl Session {
    /// Sends an answer whose fields `write` writes, in the connection's own form.
    pub(super) fn answer(
        &mut self,
        context: &mut Context<'_>,
        to: ConnectionId,
        write: impl FnOnce(&mut Object<'_>),
    ) {
        let form = Form::of(context.form(to));
        self.answer.clear();
        write_object(&mut self.answer, form, write);
        context.send(to, form.kind(), &self.answer);
    }

    /// Does what a client asks for. `form` is that of its message.
    pub(super) fn command(
        &mut self,
        context: &mut Context<'_>,
        from: ConnectionId,
        form: Form,
        envelope: Envelope<'_>,
    ) {
        let id = envelope.id;
        if let Some(error) = misused_wildcard(&envelope.command) {
            return self.error(context, from, "invalid_message", &error, id);
        }
        match envelope.command {
            Command::Connect => {
                let interval_ms = self.ping_interval_ms;
                let user = context.user(from).map(str::to_owned);
                self.answer(context, from, |answer| {
                    answer.string("type", "connect");
                    answer.id(id.unwrap_or_default());
                    answer.string("connection_id", &from.to_string());
                    answer.string_or_null("user_id", user.as_deref());
                    answer.integer("ping_interval_ms", interval_ms.into());
                });
            }
            Command::Ping => {
                self.answer(context, from, |answer| {
                    answer.string("type", "pong");
                    answer.id(id.unwrap_or_default());
                });
            }
            Command::Pong => {}
            Command::Subscribe {
                channel,
                recover,
                batch,
            } => {
                let allow = &self.rules.of(&channel).allow;
                let user = context.user(from);
                let denied = if !self.may_subscribe(allow, user, &channel) {
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
                    tag: tag(id),
                    recover,
                    batch,
                };
                if let Err(refusal) = context.subscribe(from, &channel, options) {
                    self.refuse(context, from, refusal, id);
                }
            }
            Command::Unsubscribe { channel } => {
                if context.unsubscribe(from, &channel) {
                    self.answer(context, from, |answer| {
                        answer.string("type", "unsubscribed");
                        answer.string("channel", &channel);
                        answer.id(id.unwrap_or_default());
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
                key,
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
                let options = PublishOptions {
                    tag: id.map(Bytes::copy_from_slice),
                    exclude_self: !echo.unwrap_or(rule.echo),
                };
                let publish = match self.publication(context, from, form, data, key.as_deref()) {
                    Ok(publication) => publication,
                    Err(error) => return self.error(context, from, "message_too_big", &error, id),
                };
                if let Err(refusal) = context.publish(from, &channel, publish, options) {
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
                let publication = match self.publication(context, from, form, data, None) {
                    Ok(publication) => publication,
                    Err(error) => return self.error(context, from, "message_too_big", &error, id),
                };
                let tag = id.map(Bytes::copy_from_slice);
                if let Err(refusal) = context.direct(from, &to, publication, tag) {
                    self.refuse(context, from, refusal, id);
                }
            }
            Command::Broadcast { data, echo } => {
                if !access::allows(&self.broadcast, context.user(from), "") {
                    return self.forbid(context, from, "send to everyone", id);
                }
                let publication = match self.publication(context, from, form, data, None) {
                    Ok(publication) => publication,
                    Err(error) => return self.error(context, from, "message_too_big", &error, id),
                };
                let options = PublishOptions {
                    tag: id.map(Bytes::copy_from_slice),
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
                    tag: tag(id),
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

    /// Whether a user may hear a channel, or all that a wildcard matches.
    fn may_subscribe(&self, allow: &Allow, user: Option<&str>, channel: &str) -> bool {
        if !wildcards::is_wildcard(channel) {
            return access::allows(&allow.subscribe, user, channel);
        }
        // The rule's pattern may itself be a secret, so the client is not told which one it is.
        access::may_hear_wildcard(&self.rules, user, channel)
            .inspect_err(|rule| {
                tracing::debug!(channel, rule = rule.pattern, "wildcard refused");
            })
            .is_ok()
    }

    /// What a connection publishes.
    ///
    /// # Errors
    /// When no subscriber that speaks JSON could be sent it. In the other direction nothing is refused: a
    /// JSON document that would be too large in MessagePack goes out as text.
    fn publication(
        &self,
        context: &Context<'_>,
        from: ConnectionId,
        form: Form,
        data: &[u8],
        key: Option<&str>,
    ) -> Result<Publication, String> {
        let limit = self.message_bytes;
        if form == Form::MessagePack && data.len() > limit / MAX_GROWTH {
            let bytes = data::json_bytes(data);
            if bytes > limit {
                return Err(format!(
                    "\"data\" would have {bytes} bytes for clients that speak JSON, {limit} are allowed"
                ));
            }
        }
        let meta = Meta {
            form,
            user: context.user(from),
            key,
        };
        Ok(meta.publication(data))
    }

    /// Asks who is in a channel (`limit` 0: how many), if that is known and this connection may.
    fn ask_who(
        &mut self,
        context: &mut Context<'_>,
        from: ConnectionId,
        channel: &str,
        cursor: u32,
        limit: usize,
        id: Option<&[u8]>,
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
            tag: tag(id),
            from: cursor,
            limit,
        };
        if let Err(refusal) = context.read_members(from, channel, options) {
            self.refuse(context, from, refusal, id);
        }
    }

    pub(super) fn refuse(
        &mut self,
        context: &mut Context<'_>,
        from: ConnectionId,
        refusal: Refusal,
        id: Option<&[u8]>,
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

    pub(super) fn error(
        &mut self,
        context: &mut Context<'_>,
        to: ConnectionId,
        code: &str,
        error: &str,
        id: Option<&[u8]>,
    ) {
        let form = Form::of(context.form(to));
        self.answer.clear();
        write_error(&mut self.answer, form, code, error, id);
        context.send(to, form.kind(), &self.answer);
    }

    fn forbid(
        &mut self,
        context: &mut Context<'_>,
        to: ConnectionId,
        what: &str,
        id: Option<&[u8]>,
    ) {
        let who = match context.user(to) {
            Some(user) => format!("user {user:?}"),
            None => "a connection without a user id".to_owned(),
        };
        let error = format!("{who} may not {what}");
        self.error(context, to, "forbidden", &error, id);
    }
}

/// What is wrong with the wildcard that a command names.
fn misused_wildcard(command: &Command<'_>) -> Option<String> {
    match command {
        Command::Subscribe {
            channel, recover, ..
        } => {
            if let Err(error) = wildcards::check(channel) {
                return Some(error.to_string());
            }
            if !wildcards::is_wildcard(channel) {
                return None;
            }
            let costs = wildcards::check_cost(channel).err();
            let recovers = recover.map(|_| {
                format!("{channel:?} is a wildcard: its channels can only be recovered one by one")
            });
            costs.map(|error| error.to_string()).or(recovers)
        }
        Command::Publish { channel, .. }
        | Command::History { channel, .. }
        | Command::Presence { channel, .. }
        | Command::PresenceStats { channel } => wildcards::is_reserved(channel).then(|| {
            format!(
                "{channel:?} is no channel: a level * or > makes it a wildcard, which can only be \
                 subscribed to"
            )
        }),
        _ => None,
    }
}

/// What the engine gives back with the answer: the `id`, in the form that it goes out in again.
fn tag(id: Option<&[u8]>) -> Bytes {
    Bytes::copy_from_slice(id.unwrap_or_default())
}

fn read_history(channel: &str) -> String {
    format!("read the history of {channel:?}")
}
