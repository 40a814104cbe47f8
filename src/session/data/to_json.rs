//! From MessagePack to JSON.

use super::{BASE64, EXTENSION};
use crate::config::limits::MAX_DATA_NESTING;
use crate::session::msgpack::{Item, Malformed, Reader};
use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;
use std::io::{self, Write};

/// Why MessagePack cannot be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::session) enum Unfit {
    /// It is none.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error(
        "\"data\" has a map whose key is {0}; JSON has only strings, and integers can be written as such"
    )]
    Key(&'static str),
    #[error("\"data\" has a string that is not UTF-8")]
    NotText,
    #[error("\"data\" is nested more than {MAX_DATA_NESTING} deep")]
    TooDeep,
}

/// Reads a value, and finds whether it has a JSON form.
pub(in crate::session) fn check(reader: &mut Reader<'_>) -> Result<(), Unfit> {
    check_value(reader, MAX_DATA_NESTING)
}

fn check_value(reader: &mut Reader<'_>, nesting: usize) -> Result<(), Unfit> {
    match reader.next()? {
        Item::Text(text) => {
            as_text(text)?;
        }
        Item::Array(count) => {
            let nesting = deeper(nesting)?;
            for _ in 0..count {
                check_value(reader, nesting)?;
            }
        }
        Item::Map(count) => {
            let nesting = deeper(nesting)?;
            for _ in 0..count {
                match reader.next()? {
                    Item::Text(text) => {
                        as_text(text)?;
                    }
                    Item::Unsigned(_) | Item::Negative(_) => {}
                    other => return Err(wrong_key(other)),
                }
                check_value(reader, nesting)?;
            }
        }
        _ => {}
    }
    Ok(())
}

fn as_text(text: &[u8]) -> Result<&str, Unfit> {
    std::str::from_utf8(text).map_err(|_| Unfit::NotText)
}

fn deeper(nesting: usize) -> Result<usize, Unfit> {
    nesting.checked_sub(1).ok_or(Unfit::TooDeep)
}

fn wrong_key(key: Item<'_>) -> Unfit {
    Unfit::Key(match key {
        Item::Float(_) => "a number with a fraction",
        other => other.kind(),
    })
}

/// Appends the JSON form of a value that `check` has let pass; `null` of anything else.
pub fn write_json(msgpack: &[u8], out: &mut Vec<u8>) {
    let begins = out.len();
    if write_value(&mut Reader::new(msgpack), out, MAX_DATA_NESTING).is_err() {
        out.truncate(begins);
        out.extend_from_slice(b"null");
    }
}

/// How long the JSON form of a value is.
pub(in crate::session) fn json_bytes(msgpack: &[u8]) -> usize {
    struct Counter(usize);
    impl Write for Counter {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut counter = Counter(0);
    match write_value(&mut Reader::new(msgpack), &mut counter, MAX_DATA_NESTING) {
        Ok(()) => counter.0,
        Err(_) => "null".len(),
    }
}

/// What it writes to never fails: bytes are kept or counted.
fn write_value(reader: &mut Reader<'_>, out: &mut impl Write, nesting: usize) -> Result<(), Unfit> {
    let _ = match reader.next()? {
        Item::Nil => out.write_all(b"null"),
        Item::Boolean(true) => out.write_all(b"true"),
        Item::Boolean(false) => out.write_all(b"false"),
        Item::Unsigned(value) => out.write_all(itoa::Buffer::new().format(value).as_bytes()),
        Item::Negative(value) => out.write_all(itoa::Buffer::new().format(value).as_bytes()),
        // The shortest digits that give the same double again; null where there are none (infinities).
        Item::Float(value) => serde_json::to_writer(out, &value).map_err(io::Error::from),
        Item::Text(text) => serde_json::to_writer(out, as_text(text)?).map_err(io::Error::from),
        Item::Binary(bytes) => write!(out, "{{\"{BASE64}\":\"{}\"}}", base64(bytes)),
        Item::Extension(kind, bytes) => {
            write!(out, "{{\"{EXTENSION}\":[{kind},\"{}\"]}}", base64(bytes))
        }
        Item::Array(count) => {
            let nesting = deeper(nesting)?;
            for at in 0..count {
                let _ = out.write_all(if at == 0 { b"[" } else { b"," });
                write_value(reader, out, nesting)?;
            }
            out.write_all(if count == 0 { b"[]" } else { b"]" })
        }
        Item::Map(count) => {
            let nesting = deeper(nesting)?;
            for at in 0..count {
                let _ = out.write_all(if at == 0 { b"{" } else { b"," });
                let _ = match reader.next()? {
                    Item::Text(text) => {
                        serde_json::to_writer(&mut *out, as_text(text)?).map_err(io::Error::from)
                    }
                    Item::Unsigned(key) => write!(out, "\"{key}\""),
                    Item::Negative(key) => write!(out, "\"{key}\""),
                    other => return Err(wrong_key(other)),
                };
                let _ = out.write_all(b":");
                write_value(reader, out, nesting)?;
            }
            out.write_all(if count == 0 { b"{}" } else { b"}" })
        }
    };
    Ok(())
}

fn base64(bytes: &[u8]) -> Base64Display<'_, 'static, base64::engine::GeneralPurpose> {
    Base64Display::new(bytes, &STANDARD)
}
