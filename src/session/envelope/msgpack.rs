//! The envelope as a MessagePack map.

use super::refused::{self, FIELDS, ID};
use super::{Fields, MAX_ID_BYTES, Place, Refused, Value};
use crate::session::data::{self, Unfit};
use crate::session::msgpack::{Item, Malformed, Reader};
use std::borrow::Cow;

/// A value as it was written; whole, because it has been read once.
#[derive(Clone, Copy)]
pub(super) struct Raw<'a>(&'a [u8]);

impl<'a> Raw<'a> {
    /// The value, or how it begins.
    fn item(self) -> Item<'a> {
        // Cannot fail.
        Reader::new(self.0).next().unwrap_or(Item::Nil)
    }

    fn is_id(self) -> bool {
        let kind = match self.item() {
            Item::Unsigned(_) | Item::Negative(_) => true,
            Item::Text(text) => std::str::from_utf8(text).is_ok(),
            _ => false,
        };
        kind && self.0.len() <= MAX_ID_BYTES
    }
}

/// The known fields of a map.
#[derive(Default)]
struct Found<'a> {
    values: [Option<Raw<'a>>; FIELDS.len()],
    /// One that is there more than once.
    twice: Option<usize>,
    /// Why `data` cannot be published.
    unfit: Option<String>,
}

impl<'a> Found<'a> {
    /// A field, unless it is nil.
    fn get(&self, name: &str) -> Option<Raw<'a>> {
        self.raw(name).filter(|value| value.item() != Item::Nil)
    }

    fn raw(&self, name: &str) -> Option<Raw<'a>> {
        let at = FIELDS.iter().position(|(known, _)| *known == name)?;
        self.values[at]
    }
}

/// Finds the fields of a message.
pub(super) fn fields(message: &[u8]) -> Result<Fields<'_, Raw<'_>>, Refused<'_>> {
    let not_msgpack = |error: Malformed| Refused {
        code: "invalid_msgpack",
        error: format!("not MessagePack: {error}"),
        id: None,
    };
    let found = match find(message) {
        Ok(Ok(found)) => found,
        Ok(Err(other)) => {
            let error = format!(
                "expected one MessagePack map with a \"type\", not {}",
                other.kind()
            );
            return Err(refused::invalid(error, None));
        }
        Err(error) => return Err(not_msgpack(error)),
    };
    let id = found.get(FIELDS[ID].0);
    let known_id = id
        .filter(|id| found.twice != Some(ID) && id.is_id())
        .map(|id| id.0);
    if let Some(twice) = found.twice {
        return Err(refused::twice(twice, known_id));
    }
    let wrong = |name, value: Raw<'_>| refused::wrong_kind(name, value.item().kind(), known_id);
    let text = |name| match found.get(name) {
        None => Ok(None),
        Some(value) => match value.item() {
            Item::Text(text) => match std::str::from_utf8(text) {
                Ok(text) => Ok(Some(Cow::Borrowed(text))),
                Err(_) => Err(refused::invalid(
                    format!("\"{name}\" is not UTF-8"),
                    known_id,
                )),
            },
            _ => Err(wrong(name, value)),
        },
    };
    let kind = text("type")?;
    let channel = text("channel")?;
    let echo = match found.get("echo") {
        None => None,
        Some(value) => Some(value.as_boolean().ok_or_else(|| wrong("echo", value))?),
    };
    if id.is_some() && known_id.is_none() {
        return Err(refused::wrong_id());
    }
    let data = found.raw("data").map(|data| match &found.unfit {
        None => Ok(data.0),
        Some(error) => Err(error.clone()),
    });
    Ok(Fields {
        kind,
        id: known_id,
        channel,
        data,
        echo,
        to: found.get("to"),
        recover: found.get("recover"),
        limit: found.get("limit"),
        since: found.get("since"),
        reverse: found.get("reverse"),
        cursor: found.get("cursor"),
        key: found.get("key"),
        batch: found.get("batch"),
    })
}

/// Reads the whole message once. The inner error is what it is, if no map.
fn find(message: &[u8]) -> Result<Result<Found<'_>, Item<'_>>, Malformed> {
    let mut reader = Reader::new(message);
    let mut found = Found::default();
    let before = reader;
    let count = match reader.next()? {
        Item::Map(count) => count,
        other => {
            let mut whole = before;
            whole.skip()?;
            whole.end()?;
            return Ok(Err(other));
        }
    };
    for _ in 0..count {
        let name = Raw(reader.skip()?).item();
        let known = match name {
            Item::Text(name) => FIELDS
                .iter()
                .position(|(known, _)| known.as_bytes() == name),
            _ => None,
        };
        match known {
            Some(at) if found.values[at].is_none() => {
                let value = match FIELDS[at].0 {
                    "data" => read_data(&mut reader, &mut found.unfit)?,
                    _ => reader.skip()?,
                };
                found.values[at] = Some(Raw(value));
            }
            known => {
                reader.skip()?;
                found.twice = found.twice.or(known);
            }
        }
    }
    reader.end()?;
    Ok(Ok(found))
}

/// Reads published data, and finds out at the same time whether it can be published.
fn read_data<'a>(
    reader: &mut Reader<'a>,
    unfit: &mut Option<String>,
) -> Result<&'a [u8], Malformed> {
    let before = *reader;
    match data::check(reader) {
        Ok(()) => Ok(reader.since(&before)),
        Err(Unfit::Malformed(error)) => Err(error),
        Err(error) => {
            *unfit = Some(error.to_string());
            *reader = before;
            reader.skip()
        }
    }
}

impl<'a> Value<'a> for Raw<'a> {
    fn as_text(self) -> Option<Cow<'a, str>> {
        match self.item() {
            Item::Text(text) => std::str::from_utf8(text).ok().map(Cow::Borrowed),
            _ => None,
        }
    }

    fn as_boolean(self) -> Option<bool> {
        match self.item() {
            Item::Boolean(value) => Some(value),
            _ => None,
        }
    }

    fn as_integer(self) -> Option<u64> {
        match self.item() {
            Item::Unsigned(value) => Some(value),
            _ => None,
        }
    }

    fn as_place(self) -> Option<Place> {
        let mut reader = Reader::new(self.0);
        let Item::Map(count) = reader.next().ok()? else {
            return None;
        };
        // As in JSON: neither may be there twice, and a nil epoch is none.
        let (mut offset, mut epoch) = (None, None);
        for _ in 0..count {
            let name = Raw(reader.skip().ok()?).item();
            let value = Raw(reader.skip().ok()?);
            match name {
                Item::Text(b"offset") if offset.is_none() => offset = Some(value.as_integer()?),
                Item::Text(b"epoch") if epoch.is_none() => {
                    epoch = Some(match value.item() {
                        Item::Nil => None,
                        _ => Some(value.as_integer()?),
                    });
                }
                Item::Text(b"offset" | b"epoch") => return None,
                _ => {}
            }
        }
        Some(Place {
            offset: offset?,
            epoch: epoch.flatten(),
        })
    }
}
