//! From JSON to MessagePack.

use super::{BASE64, EXTENSION, JSON};
use crate::config::limits::MAX_DATA_NESTING;
use crate::session::msgpack::{Item, Reader};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rmp::encode;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// First bytes of an empty map and an empty array; up to 15 members are added to them.
const MAP: u8 = 0x80;
const ARRAY: u8 = 0x90;

/// Appends the MessagePack form of a JSON document. One that has none, or whose form would be more than
/// `largest_bytes`, becomes a map that holds its text.
pub fn write_msgpack(json: &[u8], out: &mut Vec<u8>, largest_bytes: usize) {
    let begins = out.len();
    let mut writer = Writer {
        out,
        many: Vec::new(),
        nesting: MAX_DATA_NESTING,
    };
    let mut reader = serde_json::Deserializer::from_slice(json);
    let read = (&mut writer)
        .deserialize(&mut reader)
        .and_then(|()| reader.end());
    let many = writer.many;
    let written = out.len() - begins + many.iter().map(Many::growth).sum::<usize>();
    if read.is_ok() && written <= largest_bytes {
        widen(out, many);
    } else {
        out.truncate(begins);
        out.push(MAP + 1);
        // Writing to a Vec cannot fail, here and below.
        let _ = encode::write_str(out, JSON);
        let _ = encode::write_str(out, &String::from_utf8_lossy(json));
    }
}

/// An array or a map with more members than its first byte can say. JSON does not say how many there are
/// before they have been read, so room for the number is made at the end, once for all of them.
struct Many {
    at: usize,
    count: u32,
}

impl Many {
    /// Bytes that the number needs besides the first.
    fn growth(&self) -> usize {
        match u16::try_from(self.count) {
            Ok(_) => 2,
            Err(_) => 4,
        }
    }
}

/// Makes room for the numbers, from the last to the first, so that every byte is moved once.
fn widen(out: &mut Vec<u8>, mut many: Vec<Many>) {
    many.sort_unstable_by_key(|one| one.at);
    let mut end = out.len();
    let mut shift: usize = many.iter().map(Many::growth).sum();
    out.resize(end + shift, 0);
    for one in many.iter().rev() {
        let Many { at, count } = *one;
        out.copy_within(at + 1..end, at + 1 + shift);
        shift -= one.growth();
        let is_map = out[at] == MAP;
        let mut room = &mut out[at + shift..];
        let _ = match is_map {
            true => encode::write_map_len(&mut room, count),
            false => encode::write_array_len(&mut room, count),
        };
        end = at;
    }
}

struct Writer<'a> {
    out: &'a mut Vec<u8>,
    many: Vec<Many>,
    /// How much deeper it may go.
    nesting: usize,
}

impl Writer<'_> {
    /// Begins an array or a map; [`Self::end`] ends it.
    fn begin<E: serde::de::Error>(&mut self, first: u8) -> Result<usize, E> {
        let Some(nesting) = self.nesting.checked_sub(1) else {
            return Err(E::custom("nested too deeply"));
        };
        self.nesting = nesting;
        self.out.push(first);
        Ok(self.out.len() - 1)
    }

    fn end(&mut self, at: usize, count: u32) {
        self.nesting += 1;
        match u8::try_from(count) {
            Ok(few @ 0..16) => self.out[at] += few,
            _ => self.many.push(Many { at, count }),
        }
    }

    /// Replaces a map of one member by what it stands for, if it does.
    fn replace(&mut self, at: usize) {
        let mut reader = Reader::new(&self.out[at + 1..]);
        // Of what has just been written: it can be read, and texts are UTF-8.
        let mut next = || reader.next().ok();
        let name = next();
        if name == Some(Item::Text(BASE64.as_bytes())) {
            let Some(Item::Text(text)) = next() else {
                return;
            };
            let Ok(bytes) = STANDARD.decode(text) else {
                return;
            };
            self.out.truncate(at);
            let _ = encode::write_bin(self.out, &bytes);
        } else if name == Some(Item::Text(EXTENSION.as_bytes())) {
            let Some(Item::Array(2)) = next() else { return };
            let kind = match next() {
                Some(Item::Unsigned(kind)) => i8::try_from(kind),
                Some(Item::Negative(kind)) => i8::try_from(kind),
                _ => return,
            };
            let (Ok(kind), Some(Item::Text(text))) = (kind, next()) else {
                return;
            };
            let Ok(bytes) = STANDARD.decode(text) else {
                return;
            };
            let Ok(length) = u32::try_from(bytes.len()) else {
                return;
            };
            self.out.truncate(at);
            let _ = encode::write_ext_meta(self.out, length, kind);
            self.out.extend_from_slice(&bytes);
        }
    }
}

/// A value, or a member's name.
impl<'de> DeserializeSeed<'de> for &mut Writer<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for &mut Writer<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        let _ = encode::write_nil(self.out);
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        let _ = encode::write_bool(self.out, value);
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        let _ = encode::write_uint(self.out, value);
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        let _ = encode::write_sint(self.out, value);
        Ok(())
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        let _ = encode::write_f64(self.out, value);
        Ok(())
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        let _ = encode::write_str(self.out, value);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<(), A::Error> {
        let at = self.begin(ARRAY)?;
        let mut count = 0;
        while let Some(()) = array.next_element_seed(&mut *self)? {
            count += 1;
        }
        self.end(at, count);
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<(), A::Error> {
        let at = self.begin(MAP)?;
        let mut count = 0;
        while let Some(()) = object.next_key_seed(&mut *self)? {
            object.next_value_seed(&mut *self)?;
            count += 1;
        }
        self.end(at, count);
        if count == 1 {
            self.replace(at);
        }
        Ok(())
    }
}
