//! The envelope as a JSON object.

use super::refused::{explain, wrong_id};
use super::{Fields, MAX_ID_BYTES, Place, Refused, Value};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use std::borrow::Cow;

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
    #[serde(borrow)]
    key: Option<&'a RawValue>,
    #[serde(borrow)]
    batch: Option<&'a RawValue>,
}

fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Finds the fields of a message.
pub(super) fn fields(text: &[u8]) -> Result<Fields<'_, &RawValue>, Refused<'_>> {
    // serde would read an array as the fields in order.
    if text.trim_ascii_start().starts_with(b"[") {
        return Err(explain(text));
    }
    let raw: Raw<'_> = serde_json::from_slice(text).map_err(|_| explain(text))?;
    let id = match raw.id.map(RawValue::get) {
        None | Some("null") => None,
        Some(id) if is_id(id) => Some(id.as_bytes()),
        Some(_) => return Err(wrong_id()),
    };
    Ok(Fields {
        kind: raw.kind,
        id,
        channel: raw.channel,
        data: raw.data.map(|data| Ok(data.get().as_bytes())),
        echo: raw.echo,
        to: raw.to,
        recover: raw.recover,
        limit: raw.limit,
        since: raw.since,
        reverse: raw.reverse,
        cursor: raw.cursor,
        key: raw.key,
        batch: raw.batch,
    })
}

impl<'a> Value<'a> for &'a RawValue {
    fn as_text(self) -> Option<Cow<'a, str>> {
        // Without escapes it is the string itself.
        match serde_json::from_str::<&str>(self.get()) {
            Ok(text) => Some(Cow::Borrowed(text)),
            Err(_) => serde_json::from_str::<String>(self.get())
                .ok()
                .map(Cow::Owned),
        }
    }

    fn as_boolean(self) -> Option<bool> {
        serde_json::from_str(self.get()).ok()
    }

    fn as_integer(self) -> Option<u64> {
        serde_json::from_str(self.get()).ok()
    }

    fn as_place(self) -> Option<Place> {
        // serde would read an array as the fields of an object in order.
        match self.get().starts_with('[') {
            true => None,
            false => serde_json::from_str(self.get()).ok(),
        }
    }
}

/// A JSON string or integer of moderate length.
pub(super) fn is_id(text: &str) -> bool {
    let integer = || {
        let digits = text.strip_prefix('-').unwrap_or(text);
        !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
    };
    text.len() <= MAX_ID_BYTES && (text.starts_with('"') || integer())
}
