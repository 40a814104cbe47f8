//! The JSON envelope: from the bytes of a text message to a [`Command`], and answers back to bytes.
//!
//! `data` and `id` are passed through as the client wrote them, never re-encoded.

mod refused;

use crate::config::limits::MAX_USER_ID_BYTES;
use crate::hub::Position;
use crate::shard::handler::Since;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt::Write as _;

/// Messages that a `history` without a `limit` gives at most.
const DEFAULT_HISTORY_LIMIT: usize = 100;

/// Users that a `presence` without a `limit` names at most.
const DEFAULT_PRESENCE_LIMIT: usize = 100;

/// What a `limit` is.
const LIMIT: &str = "\"limit\" must be a whole number";

/// Longest `id` that is given back, in bytes as written.
pub const MAX_ID_BYTES: usize = 256;

/// What a client asks for.
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
        /// JSON text.
        data: &'a str,
        /// Whether the publisher, if subscribed, hears it too. `None`: as the channel's rule says.
        echo: Option<bool>,
    },
    /// Say something to every connection of a user.
    Direct {
        /// The user's id.
        to: String,
        /// JSON text.
        data: &'a str,
    },
    /// Say something to everyone.
    Broadcast {
        /// JSON text.
        data: &'a str,
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

/// A parsed message: the command, and the `id` to answer with (JSON text).
#[derive(Clone, Debug, PartialEq)]
pub struct Envelope<'a> {
    /// A string or an integer, as the client wrote it.
    pub id: Option<&'a str>,
    /// What it asks for.
    pub command: Command<'a>,
}

/// Why a message is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused<'a> {
    /// A code for programs: `invalid_json`, `invalid_message`, `unknown_type`.
    pub code: &'static str,
    /// What is wrong, for people.
    pub error: String,
    /// The message's id, where it could be read.
    pub id: Option<&'a str>,
}

#[derive(Deserialize)]
struct Raw<'a> {
    #[serde(rename = "type", borrow)]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    channel: Option<Cow<'a, str>>,
    // `null` is data too, not the absence of it.
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    echo: Option<bool>,
    // What only single commands know is looked at by them.
    #[serde(borrow)]
    to: Option<&'a RawValue>,
    #[serde(borrow)]
    recover: Option<&'a RawValue>,
    #[serde(borrow)]
    limit: Option<&'a RawValue>,
    #[serde(borrow)]
    since: Option<&'a RawValue>,
    #[serde(borrow)]
    reverse: Option<&'a RawValue>,
    #[serde(borrow)]
    cursor: Option<&'a RawValue>,
}

/// A place in a channel, as a client writes it.
#[derive(Deserialize)]
struct Place {
    offset: u64,
    epoch: Option<u64>,
}

/// A field that only some commands have; `null` is its absence.
fn field<'a, T: Deserialize<'a>>(
    value: Option<&'a RawValue>,
    id: Option<&'a str>,
    expected: &str,
) -> Result<Option<T>, Refused<'a>> {
    let Some(value) = value.map(RawValue::get) else {
        return Ok(None);
    };
    // serde would read an array as the fields of an object in order.
    let read = match value.starts_with('[') {
        true => None,
        false => serde_json::from_str(value).ok(),
    };
    read.ok_or_else(|| refused::invalid(expected.to_owned(), id))
}

fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Types that the protocol knows and this server has no use for yet.
const NOT_AVAILABLE: [&str; 2] = ["auth", "request"];

/// Parses one message. `channel_name_bytes` is the longest channel name allowed.
///
/// # Errors
/// Says what is wrong, with the message's `id` where it could be read.
pub fn parse<'a>(text: &'a [u8], channel_name_bytes: usize) -> Result<Envelope<'a>, Refused<'a>> {
    // serde would read an array as the fields in order.
    if text.trim_ascii_start().starts_with(b"[") {
        return Err(refused::explain(text));
    }
    let raw: Raw<'_> = serde_json::from_slice(text).map_err(|_| refused::explain(text))?;
    let id = match raw.id.map(RawValue::get) {
        None | Some("null") => None,
        Some(id) if is_id(id) => Some(id),
        Some(_) => {
            return Err(refused::wrong_id());
        }
    };
    let refuse = |code, error: String| Refused { code, error, id };
    let Some(kind) = raw.kind else {
        return Err(refuse("invalid_message", "\"type\" is missing".to_owned()));
    };
    let channel = |channel: Option<Cow<'_, str>>| match channel {
        None => Err(refuse(
            "invalid_message",
            format!("\"{kind}\" needs a \"channel\""),
        )),
        Some(name) if name.is_empty() => {
            Err(refuse("invalid_message", "\"channel\" is empty".to_owned()))
        }
        Some(name) if name.len() > channel_name_bytes => Err(refuse(
            "invalid_message",
            format!(
                "\"channel\" has {} bytes, {channel_name_bytes} are allowed",
                name.len()
            ),
        )),
        Some(name) if name.chars().any(char::is_control) => Err(refuse(
            "invalid_message",
            "\"channel\" contains a control character".to_owned(),
        )),
        Some(_) => Ok(()),
    };
    let data = |data: Option<&'a RawValue>| match data {
        Some(data) => Ok(data.get()),
        None => Err(refuse(
            "invalid_message",
            format!("\"{kind}\" needs \"data\""),
        )),
    };
    let command = match &*kind {
        "connect" => Command::Connect,
        "ping" => Command::Ping,
        "pong" => Command::Pong,
        "subscribe" | "unsubscribe" | "publish" | "message" | "history" | "presence"
        | "presence_stats" => {
            channel(raw.channel.clone())?;
            let name = raw.channel.unwrap_or_default();
            match &*kind {
                "subscribe" => {
                    let expected =
                        "\"recover\" must be an object with an \"offset\" and an \"epoch\"";
                    let recover: Option<Place> = field(raw.recover, id, expected)?;
                    let recover = match recover {
                        None => None,
                        Some(Place {
                            offset,
                            epoch: Some(epoch),
                        }) => Some(Position { offset, epoch }),
                        Some(_) => return Err(refuse("invalid_message", expected.to_owned())),
                    };
                    Command::Subscribe {
                        channel: name,
                        recover,
                    }
                }
                "unsubscribe" => Command::Unsubscribe { channel: name },
                "presence" => {
                    let limit = field(raw.limit, id, LIMIT)?;
                    let expected = "\"cursor\" must be the \"next\" of an earlier answer";
                    let cursor = field(raw.cursor, id, expected)?;
                    Command::Presence {
                        channel: name,
                        cursor: cursor.unwrap_or(0),
                        limit: limit.unwrap_or(DEFAULT_PRESENCE_LIMIT),
                    }
                }
                "presence_stats" => Command::PresenceStats { channel: name },
                "history" => {
                    let limit = field(raw.limit, id, LIMIT)?;
                    let expected = "\"since\" must be an object with an \"offset\", and an \"epoch\" if it is known";
                    let since: Option<Place> = field(raw.since, id, expected)?;
                    let reverse = field(raw.reverse, id, "\"reverse\" must be true or false")?;
                    Command::History {
                        channel: name,
                        limit: limit.unwrap_or(DEFAULT_HISTORY_LIMIT),
                        since: since.map(|Place { offset, epoch }| Since { offset, epoch }),
                        reverse: reverse.unwrap_or(false),
                    }
                }
                _ => Command::Publish {
                    channel: name,
                    data: data(raw.data)?,
                    echo: raw.echo,
                },
            }
        }
        "direct" => {
            let expected =
                format!("\"to\" must be a user's id, a string of 1 to {MAX_USER_ID_BYTES} bytes");
            let to: Option<String> = field(raw.to, id, &expected)?;
            let to = to.filter(|to| !to.is_empty() && to.len() <= MAX_USER_ID_BYTES);
            Command::Direct {
                to: to.ok_or_else(|| refuse("invalid_message", expected))?,
                data: data(raw.data)?,
            }
        }
        "broadcast" => Command::Broadcast {
            data: data(raw.data)?,
            echo: raw.echo.unwrap_or(false),
        },
        other => match NOT_AVAILABLE.iter().find(|known| **known == other) {
            Some(kind) => Command::NotAvailable { kind },
            None => {
                let shown: String = other.chars().take(40).collect();
                return Err(refuse(
                    "unknown_type",
                    format!(
                        "\"type\" {shown:?} is none of connect, subscribe, unsubscribe, publish, message, direct, broadcast, history, presence, presence_stats, ping, pong"
                    ),
                ));
            }
        },
    };
    Ok(Envelope { id, command })
}

/// A JSON string or integer of moderate length.
fn is_id(text: &str) -> bool {
    let integer = || {
        let digits = text.strip_prefix('-').unwrap_or(text);
        !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
    };
    text.len() <= MAX_ID_BYTES && (text.starts_with('"') || integer())
}

/// Writes `text` as a JSON string.
pub fn write_string(out: &mut Vec<u8>, text: &str) {
    // Writing to a Vec cannot fail, and a string always has a JSON form.
    let _ = serde_json::to_writer(out, text);
}

/// Writes an integer.
pub fn write_integer(out: &mut Vec<u8>, integer: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(integer).as_bytes());
}

/// Writes `true` or `false`.
pub fn write_boolean(out: &mut Vec<u8>, boolean: bool) {
    out.extend_from_slice(if boolean { b"true" } else { b"false" });
}

/// Writes `,"id":…` when there is one.
pub fn write_id(out: &mut Vec<u8>, id: &[u8]) {
    if !id.is_empty() {
        out.extend_from_slice(b",\"id\":");
        out.extend_from_slice(id);
    }
}

/// Writes an error frame's payload.
pub fn write_error(out: &mut Vec<u8>, code: &str, error: &str, id: Option<&str>) {
    out.extend_from_slice(b"{\"type\":\"error\",\"code\":");
    write_string(out, code);
    out.extend_from_slice(b",\"error\":");
    write_string(out, error);
    write_id(out, id.unwrap_or_default().as_bytes());
    out.push(b'}');
}

/// Writes seconds with milliseconds, as `timestamp` fields carry them.
pub fn write_seconds(out: &mut Vec<u8>, ms: u64) {
    write_integer(out, ms / 1000);
    let mut fraction = String::with_capacity(4);
    // Writing to a String cannot fail.
    let _ = write!(fraction, ".{:03}", ms % 1000);
    out.extend_from_slice(fraction.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ok(text: &str) -> Envelope<'_> {
        parse(text.as_bytes(), 255).unwrap()
    }

    fn refused(text: &str) -> &'static str {
        parse(text.as_bytes(), 255).unwrap_err().code
    }

    #[test]
    fn commands() {
        assert_eq!(ok(r#"{"type":"ping"}"#).command, Command::Ping);
        let subscribe = ok(r#"{"type":"subscribe","channel":"a\"b","id":"x\u00e9"}"#);
        assert_eq!(subscribe.id, Some(r#""x\u00e9""#));
        assert_eq!(
            subscribe.command,
            Command::Subscribe {
                channel: "a\"b".into(),
                recover: None,
            }
        );
        let publish =
            ok(r#"{"id":-7,"data":{"a": [1, 2.50 ]},"channel":"c","type":"message","echo":false}"#);
        assert_eq!(publish.id, Some("-7"));
        assert_eq!(
            publish.command,
            Command::Publish {
                channel: "c".into(),
                data: r#"{"a": [1, 2.50 ]}"#,
                echo: Some(false),
            },
            "data keeps its bytes"
        );
        assert_eq!(ok(r#"{"type":"connect","id":null}"#).id, None);
        assert_eq!(
            ok(r#"{"type":"auth","token":"c"}"#).command,
            Command::NotAvailable { kind: "auth" }
        );
        let presence = |cursor, limit| Command::Presence {
            channel: "c".into(),
            cursor,
            limit,
        };
        let asked = r#"{"type":"presence","channel":"c","cursor":7,"limit":5}"#;
        assert_eq!(ok(asked).command, presence(7, 5));
        let asked = r#"{"type":"presence","channel":"c"}"#;
        assert_eq!(ok(asked).command, presence(0, 100));
        let wrong = r#"{"type":"presence","channel":"c","cursor":null,"limit":"5"}"#;
        assert_eq!(refused(wrong), "invalid_message");
        assert_eq!(
            ok(r#"{"type":"presence_stats","channel":"c"}"#).command,
            Command::PresenceStats {
                channel: "c".into()
            }
        );
    }

    #[test]
    fn messages_to_users_and_to_everyone() {
        assert_eq!(
            ok(r#"{"type":"direct","to":"4\u0032","data":[1]}"#).command,
            Command::Direct {
                to: "42".into(),
                data: "[1]",
            }
        );
        for (echo, expected) in [("", false), (r#","echo":true"#, true)] {
            let text = format!(r#"{{"type":"broadcast","data":null{echo}}}"#);
            let broadcast = Command::Broadcast {
                data: "null",
                echo: expected,
            };
            assert_eq!(ok(&text).command, broadcast);
        }
        for text in [
            r#"{"type":"direct","data":1}"#.to_owned(),
            r#"{"type":"direct","to":"","data":1}"#.to_owned(),
            r#"{"type":"direct","to":42,"data":1}"#.to_owned(),
            r#"{"type":"direct","to":"42"}"#.to_owned(),
            r#"{"type":"broadcast"}"#.to_owned(),
            format!(r#"{{"type":"direct","to":"{}","data":1}}"#, "x".repeat(129)),
        ] {
            assert_eq!(refused(&text), "invalid_message", "{text}");
        }
    }

    #[test]
    fn places_in_a_channel() {
        let subscribe =
            r#"{"type":"subscribe","channel":"c","recover":{"offset":7,"epoch":281474976710655}}"#;
        let position = Position {
            offset: 7,
            epoch: (1 << 48) - 1,
        };
        assert_eq!(
            ok(subscribe).command,
            Command::Subscribe {
                channel: "c".into(),
                recover: Some(position),
            }
        );
        let history = |limit, since, reverse| Command::History {
            channel: "c".into(),
            limit,
            since,
            reverse,
        };
        assert_eq!(
            ok(r#"{"type":"history","channel":"c","since":null}"#).command,
            history(100, None, false)
        );
        let since = |epoch| Some(Since { offset: 3, epoch });
        for (fields, expected) in [
            (r#""limit":5,"reverse":true"#, history(5, None, true)),
            (r#""since":{"offset":3}"#, history(100, since(None), false)),
            (
                r#""since":{"offset":3,"epoch":9}"#,
                history(100, since(Some(9)), false),
            ),
        ] {
            let text = format!(r#"{{"type":"history","channel":"c",{fields}}}"#);
            assert_eq!(ok(&text).command, expected, "{text}");
        }
        for (text, field) in [
            (r#""type":"subscribe","recover":7"#, "recover"),
            (r#""type":"subscribe","recover":[7,9]"#, "recover"),
            (r#""type":"subscribe","recover":{"offset":7}"#, "recover"),
            (
                r#""type":"subscribe","recover":{"offset":-1,"epoch":1}"#,
                "recover",
            ),
            (r#""type":"history","limit":"5""#, "limit"),
            (r#""type":"history","limit":-5"#, "limit"),
            (r#""type":"history","since":5"#, "since"),
            (r#""type":"history","since":{"epoch":5}"#, "since"),
            (r#""type":"history","reverse":1"#, "reverse"),
        ] {
            let text = format!(r#"{{"id":1,"channel":"c",{text}}}"#);
            let refused = parse(text.as_bytes(), 255).unwrap_err();
            assert_eq!((refused.code, refused.id), ("invalid_message", Some("1")));
            assert!(
                refused.error.contains(&format!("\"{field}\" must")),
                "{}",
                refused.error
            );
        }
        // Those who don't know a field don't mind it.
        assert_eq!(
            ok(r#"{"type":"ping","limit":"x","since":7}"#).command,
            Command::Ping
        );
    }

    #[test]
    fn data_may_be_null() {
        let publish = ok(r#"{"type":"publish","channel":"c","data":null}"#);
        assert!(
            matches!(publish.command, Command::Publish { data: "null", .. }),
            "{publish:?}"
        );
    }

    #[test]
    fn refusals() {
        assert_eq!(refused("{"), "invalid_json");
        assert_eq!(refused(""), "invalid_json");
        assert_eq!(refused("{\"type\":\"ping\"} x"), "invalid_json");
        assert_eq!(refused("[]"), "invalid_message");
        assert_eq!(refused(r#"["ping",7,null,null,null]"#), "invalid_message");
        assert_eq!(refused("{}"), "invalid_message");
        assert_eq!(refused(r#"{"type":7}"#), "invalid_message");
        assert_eq!(refused(r#"{"type":"fly"}"#), "unknown_type");
        assert_eq!(refused(r#"{"type":"subscribe"}"#), "invalid_message");
        assert_eq!(
            refused(r#"{"type":"subscribe","channel":""}"#),
            "invalid_message"
        );
        assert_eq!(
            refused(r#"{"type":"subscribe","channel":"a\nb"}"#),
            "invalid_message"
        );
        assert_eq!(
            refused(r#"{"type":"publish","channel":"c"}"#),
            "invalid_message"
        );
        for id in ["1.5", "true", "[1]", "{}", "1e3"] {
            assert_eq!(
                refused(&format!(r#"{{"type":"ping","id":{id}}}"#)),
                "invalid_message",
                "{id}"
            );
        }
        let long = format!(r#"{{"type":"subscribe","channel":"{}"}}"#, "x".repeat(256));
        assert_eq!(refused(&long), "invalid_message");
        assert_eq!(refused("7"), "invalid_message");
        let error = parse(br#"{"type":"fly","id":7}"#, 255).unwrap_err();
        assert_eq!(error.id, Some("7"), "the id comes back with the error");
    }

    #[test]
    fn answers() {
        let mut out = Vec::new();
        write_error(&mut out, "unknown_type", "no \"fly\"", Some("7"));
        assert_eq!(
            out,
            br#"{"type":"error","code":"unknown_type","error":"no \"fly\"","id":7}"#
        );
        out.clear();
        write_seconds(&mut out, 1_700_000_000_042);
        assert_eq!(out, b"1700000000.042");
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Err(refused) = parse(&bytes, 255) {
                prop_assert!(!refused.error.is_empty());
            }
        }

        #[test]
        fn errors_are_json(code in ".*", error in ".*") {
            let mut out = Vec::new();
            write_error(&mut out, &code, &error, Some("\"i\""));
            let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
            prop_assert_eq!(&value["code"], &serde_json::Value::String(code));
            prop_assert_eq!(&value["error"], &serde_json::Value::String(error));
        }
    }
}
