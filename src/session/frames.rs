//! The frames that carry what was published, and the fields that several kinds of frame share.

use super::meta::Meta;
use super::object::Object;
use crate::hub::{Position, Publication};
use crate::shard::handler::{Audience, Counts, PresenceEvent};
use crate::wire::close::CloseCode;

/// How long a disconnected client should wait before it comes back, in milliseconds. It adds its own
/// random part, so that a restart is no stampede.
const RECONNECT_AFTER_MS: u64 = 1000;

/// A published message with its place in a channel: what a frame, an entry of a batch and an entry of a
/// history have in common.
#[derive(Clone, Copy)]
pub(super) struct Numbered<'a> {
    pub(super) publication: &'a Publication,
    pub(super) offset: u64,
    pub(super) timestamp_ms: u64,
}

impl Numbered<'_> {
    /// `largest_bytes`: see [`Object::data`].
    pub(super) fn write(self, object: &mut Object<'_>, largest_bytes: usize) {
        let meta = Meta::read(&self.publication.meta);
        object.string_or_null("from", meta.user);
        object.data("data", meta.form, &self.publication.data, largest_bytes);
        object.integer("offset", self.offset);
        object.seconds("timestamp", self.timestamp_ms);
        if let Some(key) = meta.key {
            object.string("key", key);
        }
    }
}

/// A message to a user or to everyone.
pub(super) fn write_direct(
    object: &mut Object<'_>,
    publication: &Publication,
    audience: Audience,
    largest_bytes: usize,
) {
    let meta = Meta::read(&publication.meta);
    object.string(
        "type",
        match audience {
            Audience::User => "direct",
            Audience::Everyone => "broadcast",
        },
    );
    object.string_or_null("from", meta.user);
    object.data("data", meta.form, &publication.data, largest_bytes);
}

/// What a channel's subscribers are told about its members.
pub(super) fn write_presence(object: &mut Object<'_>, channel: &str, event: &PresenceEvent) {
    let kind = match event {
        PresenceEvent::Join(_) => "join",
        PresenceEvent::Leave(_) => "leave",
        PresenceEvent::Counts(_) => "presence_stats",
    };
    object.string("type", kind);
    object.string("channel", channel);
    match event {
        PresenceEvent::Join(user) | PresenceEvent::Leave(user) => object.string("user_id", user),
        PresenceEvent::Counts(counts) => write_counts(object, *counts),
    }
}

/// How many are in a channel.
pub(super) fn write_counts(object: &mut Object<'_>, counts: Counts) {
    object.integer("users", counts.users.into());
    object.integer("anonymous", counts.anonymous.into());
    object.integer("connections", counts.connections.into());
}

/// A place in a channel.
pub(super) fn write_position(object: &mut Object<'_>, position: Position) {
    object.integer("offset", position.offset);
    object.integer("epoch", position.epoch);
}

/// An answer to the command with this `id`, whose fields `data` writes.
pub(super) fn write_response(
    object: &mut Object<'_>,
    id: &[u8],
    data: impl FnOnce(&mut Object<'_>),
) {
    object.string("type", "response");
    object.id(id);
    object.object("data", data);
}

/// A last message before the server closes.
pub(super) fn write_disconnect(object: &mut Object<'_>, code: CloseCode, reason: &str) {
    let reconnect = code.should_reconnect();
    object.string("type", "disconnect");
    object.integer("code", code.get().into());
    object.string("reason", reason);
    object.boolean("reconnect", reconnect);
    object.integer("after_ms", if reconnect { RECONNECT_AFTER_MS } else { 0 });
}
