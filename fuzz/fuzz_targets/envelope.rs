//! The JSON envelope. What is accepted points into the input and says what an ordinary JSON reader
//! finds there; what is refused is answered with JSON.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringwire::session::envelope::{Command, Envelope, MAX_ID_BYTES, Refused, parse, write_error};
use ringwire::session::form::Form;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use serde_json::value::RawValue;

/// An error as a client reads it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer<'a> {
    #[serde(rename = "type")]
    kind: String,
    code: String,
    error: String,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
}

/// A part of the input, not a copy.
fn within<'a>(text: &[u8], part: &'a [u8]) -> &'a str {
    let (text, place) = (text.as_ptr_range(), part.as_ptr_range());
    assert!(
        text.start <= place.start && place.end <= text.end,
        "{part:?} is a copy"
    );
    std::str::from_utf8(part).expect("JSON is UTF-8")
}

fn assert_id(text: &[u8], id: &[u8]) {
    let id = within(text, id);
    assert!(id.len() <= MAX_ID_BYTES);
    // No number type takes them all, but a string or an integer ends the same way it begins.
    let digits = id.strip_prefix('-').unwrap_or(id);
    let is_integer = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let is_string = id.len() >= 2 && id.starts_with('"') && id.ends_with('"');
    assert!(is_integer || is_string, "{id}");
    assert_json(id);
}

/// By the grammar of RFC 8259: a `Value` would also refuse lone surrogates and deep nesting.
fn assert_json(text: &str) {
    serde_json::from_str::<IgnoredAny>(text).expect("JSON");
}

fn channel_of<'a>(command: &'a Command<'_>) -> Option<&'a str> {
    match command {
        Command::Subscribe { channel, .. }
        | Command::Unsubscribe { channel }
        | Command::History { channel, .. }
        | Command::Presence { channel, .. }
        | Command::PresenceStats { channel }
        | Command::Publish { channel, .. } => Some(channel),
        Command::Connect
        | Command::Direct { .. }
        | Command::Broadcast { .. }
        | Command::Ping
        | Command::Pong
        | Command::NotAvailable { .. } => None,
    }
}

fn accepted(text: &[u8], envelope: &Envelope<'_>, channel_name_bytes: usize) {
    // What another reader of the same text sees, where it can read it.
    let seen = serde_json::from_slice::<Value>(text).ok();
    let sees = |field: &str, value: Value| {
        if let Some(seen) = &seen {
            assert_eq!(seen[field], value, "{field}");
        }
    };
    let reread = |part: &str| serde_json::from_str::<Value>(part);
    if let Some(id) = envelope.id {
        assert_id(text, id);
        if let Ok(value) = reread(within(text, id)) {
            sees("id", value);
        }
    }
    if let Some(channel) = channel_of(&envelope.command) {
        assert!((1..=channel_name_bytes).contains(&channel.len()));
        assert!(!channel.chars().any(char::is_control));
        sees("channel", channel.into());
    }
    let sees_data = |data: &[u8]| {
        let data = within(text, data);
        assert_json(data);
        if let Ok(value) = reread(data) {
            sees("data", value);
        }
    };
    let sees_at = |path: &str, value: Value| {
        if let Some(seen) = &seen {
            assert_eq!(seen.pointer(path), Some(&value), "{path}");
        }
    };
    let kind = match &envelope.command {
        Command::Connect => "connect",
        Command::Subscribe { recover, batch, .. } => {
            if *batch {
                sees("batch", true.into());
            }
            if let Some(position) = recover {
                sees_at("/recover/offset", position.offset.into());
                sees_at("/recover/epoch", position.epoch.into());
            }
            "subscribe"
        }
        Command::History {
            limit,
            since,
            reverse,
            ..
        } => {
            if *limit != 100 {
                sees("limit", (*limit).into());
            }
            if let Some(since) = since {
                sees_at("/since/offset", since.offset.into());
                if let Some(epoch) = since.epoch {
                    sees_at("/since/epoch", epoch.into());
                }
            }
            if *reverse {
                sees("reverse", true.into());
            }
            "history"
        }
        Command::Presence { cursor, limit, .. } => {
            if *cursor != 0 {
                sees("cursor", (*cursor).into());
            }
            if *limit != 100 {
                sees("limit", (*limit).into());
            }
            "presence"
        }
        Command::PresenceStats { .. } => "presence_stats",
        Command::Direct { to, data } => {
            assert!((1..=128).contains(&to.len()));
            sees("to", (**to).into());
            sees_data(data);
            "direct"
        }
        Command::Broadcast { data, echo } => {
            sees_data(data);
            if *echo {
                sees("echo", true.into());
            }
            "broadcast"
        }
        Command::Unsubscribe { .. } => "unsubscribe",
        Command::Publish {
            data, echo, key, ..
        } => {
            sees_data(data);
            if let Some(key) = key {
                assert!((1..=64).contains(&key.len()));
                sees("key", (**key).into());
            }
            if let Some(echo) = echo {
                sees("echo", (*echo).into());
            }
            match seen.as_ref().map(|seen| &seen["type"]) {
                Some(Value::String(kind)) if kind == "message" => "message",
                _ => "publish",
            }
        }
        Command::Ping => "ping",
        Command::Pong => "pong",
        Command::NotAvailable { kind } => kind,
    };
    sees("type", kind.into());
}

fn refused(text: &[u8], refused: &Refused<'_>) {
    assert!(["invalid_json", "invalid_message", "unknown_type"].contains(&refused.code));
    assert!(!refused.error.is_empty());
    if let Some(id) = refused.id {
        assert_id(text, id);
    }
    let mut out = Vec::new();
    write_error(
        &mut out,
        Form::Json,
        refused.code,
        &refused.error,
        refused.id,
    );
    let answer: Answer<'_> = serde_json::from_slice(&out).expect("JSON");
    assert_eq!(answer.kind, "error");
    assert_eq!(answer.code, refused.code);
    assert_eq!(answer.error, refused.error);
    assert_eq!(answer.id.map(|id| id.get().as_bytes()), refused.id);
}

fuzz_target!(|bytes: &[u8]| {
    let [limit, text @ ..] = bytes else {
        return;
    };
    let limit = usize::from(*limit);
    let result = parse(Form::Json, text, limit);
    match &result {
        Ok(envelope) => accepted(text, envelope, limit),
        Err(error) => refused(text, error),
    }
    // The bound on names changes nothing but what happens to names beyond it.
    let unbounded = parse(Form::Json, text, usize::MAX);
    let too_long = matches!(&unbounded, Ok(envelope)
        if channel_of(&envelope.command).is_some_and(|channel| channel.len() > limit));
    if too_long {
        assert_eq!(result.map_err(|error| error.code), Err("invalid_message"));
    } else if unbounded.is_ok() {
        assert_eq!(result, unbounded);
    } else {
        assert!(result.is_err());
    }
});
