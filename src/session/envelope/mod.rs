//! The envelope: from the bytes of a message to a [`Command`].
//!
//! Each form has a reader of its own, which finds the fields; what they must be, and what is said when they
//! are not, is decided here for both. `data` and `id` point into the message, as the client wrote them.

mod json;
mod msgpack;
mod refused;

use super::form::Form;
use super::object::write_object;
use crate::config::limits::{MAX_KEY_BYTES, MAX_USER_ID_BYTES};
use crate::hub::Position;
use crate::shard::handler::Since;
use refused::invalid;
use serde::Deserialize;
use std::borrow::Cow;

/// Messages that a `history` without a `limit` gives at most.
const DEFAULT_HISTORY_LIMIT: usize = 100;

/// Users that a `presence` without a `limit` names at most.
const DEFAULT_PRESENCE_LIMIT: usize = 100;

/// What a `limit` is.
const LIMIT: &str = "\"limit\" must be a whole number";

/// Longest `id` that is given back, in bytes as written.
pub const MAX_ID_BYTES: usize = 256;

/// What a client asks for. `data` is in the form of the message.
#[derive(Clone, Debug, PartialEq)]
pub enum Command<'a> {
    /// Who am I?
    Connect,
    /// Hear a channel.
    Subscribe {
        /// Its name.
        channel: Cow<'a, str>,
        /// What the client has of it, and wants to be brought up from.
        recover: Option<Position>,
        /// Whether its messages may come several at a time.
        batch: bool,
    },
    /// Hear it no more.
    Unsubscribe {
        /// Its name.
        channel: Cow<'a, str>,
    },
    /// Say something to everyone who hears a channel.
    Publish {
        /// Its name.
        channel: Cow<'a, str>,
        /// What is said.
        data: &'a [u8],
        /// Whether the publisher, if subscribed, hears it too. `None`: as the channel's rule says.
        echo: Option<bool>,
        /// What it is about: it makes earlier messages with the same key out of date.
        key: Option<Cow<'a, str>>,
    },
    /// Say something to every connection of a user.
    Direct {
        /// The user's id.
        to: Cow<'a, str>,
        /// What is said.
        data: &'a [u8],
    },
    /// Say something to everyone.
    Broadcast {
        /// What is said.
        data: &'a [u8],
        /// Whether the sender hears it too.
        echo: bool,
    },
    /// What was said before?
    History {
        /// The channel's name.
        channel: Cow<'a, str>,
        /// Messages at most.
        limit: usize,
        /// After which message; before it with `reverse`.
        since: Option<Since>,
        /// The newest first.
        reverse: bool,
    },
    /// Who is in a channel?
    Presence {
        /// The channel's name.
        channel: Cow<'a, str>,
        /// Where the page begins.
        cursor: u32,
        /// Users at most.
        limit: usize,
    },
    /// How many are in a channel?
    PresenceStats {
        /// The channel's name.
        channel: Cow<'a, str>,
    },
    /// Is anybody there?
    Ping,
    /// An answer to the server's ping: its arrival is all that matters.
    Pong,
    /// A type of the protocol that this server does not serve.
    NotAvailable {
        /// Its name.
        kind: &'static str,
    },
}

/// A parsed message: the command, and the `id` to answer with.
#[derive(Clone, Debug, PartialEq)]
pub struct Envelope<'a> {
    /// A string or an integer, as the client wrote it in the form of the message.
    pub id: Option<&'a [u8]>,
    /// What it asks for.
    pub command: Command<'a>,
}

/// Why a message is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused<'a> {
    /// A code for programs: `invalid_json`, `invalid_msgpack`, `invalid_message`, `unknown_type`.
    pub code: &'static str,
    /// What is wrong, for people.
    pub error: String,
    /// The message's id, where it could be read.
    pub id: Option<&'a [u8]>,
}

/// A field that only some commands know, and that is looked at only by them.
trait Value<'a>: Copy {
    fn as_text(self) -> Option<Cow<'a, str>>;
    fn as_boolean(self) -> Option<bool>;
    fn as_integer(self) -> Option<u64>;
    fn as_place(self) -> Option<Place>;
}

/// The fields of a message that the protocol knows. `None`: missing, or null.
struct Fields<'a, V> {
    kind: Option<Cow<'a, str>>,
    id: Option<&'a [u8]>,
    channel: Option<Cow<'a, str>>,
    /// Null is data too. An error, if what it is cannot be published.
    data: Option<Result<&'a [u8], String>>,
    echo: Option<bool>,
    to: Option<V>,
    recover: Option<V>,
    limit: Option<V>,
    since: Option<V>,
    reverse: Option<V>,
    cursor: Option<V>,
    key: Option<V>,
    batch: Option<V>,
}

/// A place in a channel, as a client writes it.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Place {
    offset: u64,
    epoch: Option<u64>,
}

/// Types that the protocol knows and this server has no use for yet.
const NOT_AVAILABLE: [&str; 2] = ["auth", "request"];

/// Parses one message. `channel_name_bytes` is the longest channel name allowed.
///
/// # Errors
/// Says what is wrong, with the message's `id` where it could be read.
pub fn parse(
    form: Form,
    message: &[u8],
    channel_name_bytes: usize,
) -> Result<Envelope<'_>, Refused<'_>> {
    match form {
        Form::Json => command(json::fields(message)?, channel_name_bytes),
        Form::MessagePack => command(msgpack::fields(message)?, channel_name_bytes),
    }
}

fn command<'a, V: Value<'a>>(
    fields: Fields<'a, V>,
    channel_name_bytes: usize,
) -> Result<Envelope<'a>, Refused<'a>> {
    let id = fields.id;
    let refuse = |error: String| invalid(error, id);
    let Some(kind) = fields.kind else {
        return Err(refuse("\"type\" is missing".to_owned()));
    };
    let name = fields.channel;
    let channel = || {
        let name = name.ok_or_else(|| refuse(format!("\"{kind}\" needs a \"channel\"")))?;
        match channel_error(&name, channel_name_bytes) {
            None => Ok(name),
            Some(error) => Err(refuse(error)),
        }
    };
    let data = || match &fields.data {
        Some(Ok(data)) => Ok(*data),
        Some(Err(error)) => Err(refuse(error.clone())),
        None => Err(refuse(format!("\"{kind}\" needs \"data\""))),
    };
    let boolean = |field: Option<V>, name: &str| {
        known(field, V::as_boolean, || {
            refuse(format!("\"{name}\" must be true or false"))
        })
    };
    let limit = |default: usize| {
        let limit = known(fields.limit, whole, || refuse(LIMIT.to_owned()));
        limit.map(|limit| limit.unwrap_or(default))
    };
    let command = match &*kind {
        "connect" => Command::Connect,
        "ping" => Command::Ping,
        "pong" => Command::Pong,
        "subscribe" => {
            let channel = channel()?;
            let whole_place = |value: V| {
                let Place { offset, epoch } = value.as_place()?;
                epoch.map(|epoch| Position { offset, epoch })
            };
            let recover = known(fields.recover, whole_place, || {
                refuse(
                    "\"recover\" must be an object with an \"offset\" and an \"epoch\"".to_owned(),
                )
            })?;
            Command::Subscribe {
                channel,
                recover,
                batch: boolean(fields.batch, "batch")?.unwrap_or(false),
            }
        }
        "unsubscribe" => Command::Unsubscribe {
            channel: channel()?,
        },
        "publish" | "message" => Command::Publish {
            channel: channel()?,
            data: data()?,
            echo: fields.echo,
            key: known(fields.key, key, || {
                refuse(format!(
                    "\"key\" must be a string of 1 to {MAX_KEY_BYTES} bytes without control characters"
                ))
            })?,
        },
        "presence" => Command::Presence {
            channel: channel()?,
            limit: limit(DEFAULT_PRESENCE_LIMIT)?,
            cursor: known(fields.cursor, whole, || {
                refuse("\"cursor\" must be the \"next\" of an earlier answer".to_owned())
            })?
            .unwrap_or(0),
        },
        "presence_stats" => Command::PresenceStats {
            channel: channel()?,
        },
        "history" => {
            let channel = channel()?;
            let limit = limit(DEFAULT_HISTORY_LIMIT)?;
            let since = known(fields.since, V::as_place, || {
                refuse("\"since\" must be an object with an \"offset\", and an \"epoch\" if it is known".to_owned())
            })?;
            Command::History {
                channel,
                limit,
                since: since.map(|Place { offset, epoch }| Since { offset, epoch }),
                reverse: boolean(fields.reverse, "reverse")?.unwrap_or(false),
            }
        }
        "direct" => {
            let expected = || {
                refuse(format!(
                    "\"to\" must be a user's id, a string of 1 to {MAX_USER_ID_BYTES} bytes"
                ))
            };
            Command::Direct {
                to: known(fields.to, user, expected)?.ok_or_else(expected)?,
                data: data()?,
            }
        }
        "broadcast" => Command::Broadcast {
            data: data()?,
            echo: fields.echo.unwrap_or(false),
        },
        other => match NOT_AVAILABLE.iter().find(|known| **known == other) {
            Some(kind) => Command::NotAvailable { kind },
            None => {
                let shown: String = other.chars().take(40).collect();
                return Err(Refused {
                    code: "unknown_type",
                    error: format!(
                        "\"type\" {shown:?} is none of connect, subscribe, unsubscribe, publish, message, direct, broadcast, history, presence, presence_stats, ping, pong"
                    ),
                    id,
                });
            }
        },
    };
    Ok(Envelope { id, command })
}

/// Appends an error frame's payload.
pub fn write_error(out: &mut Vec<u8>, form: Form, code: &str, error: &str, id: Option<&[u8]>) {
    write_object(out, form, |frame| {
        frame.string("type", "error");
        frame.string("code", code);
        frame.string("error", error);
        frame.id(id.unwrap_or_default());
    });
}

/// A field that need not be there; if it is, `read` must understand it.
fn known<'a, V: Value<'a>, T>(
    field: Option<V>,
    read: impl FnOnce(V) -> Option<T>,
    refuse: impl FnOnce() -> Refused<'a>,
) -> Result<Option<T>, Refused<'a>> {
    match field {
        None => Ok(None),
        Some(value) => read(value).map(Some).ok_or_else(refuse),
    }
}

fn whole<'a, V: Value<'a>, T: TryFrom<u64>>(value: V) -> Option<T> {
    T::try_from(value.as_integer()?).ok()
}

fn key<'a, V: Value<'a>>(value: V) -> Option<Cow<'a, str>> {
    let allowed = |key: &Cow<'_, str>| {
        (1..=MAX_KEY_BYTES).contains(&key.len()) && !key.chars().any(char::is_control)
    };
    value.as_text().filter(allowed)
}

fn user<'a, V: Value<'a>>(value: V) -> Option<Cow<'a, str>> {
    let user = value.as_text()?;
    (1..=MAX_USER_ID_BYTES)
        .contains(&user.len())
        .then_some(user)
}

fn channel_error(name: &str, channel_name_bytes: usize) -> Option<String> {
    if name.is_empty() {
        Some("\"channel\" is empty".to_owned())
    } else if name.len() > channel_name_bytes {
        let bytes = name.len();
        Some(format!(
            "\"channel\" has {bytes} bytes, {channel_name_bytes} are allowed"
        ))
    } else if name.chars().any(char::is_control) {
        Some("\"channel\" contains a control character".to_owned())
    } else {
        None
    }
}

#[cfg(test)]
mod tests;
