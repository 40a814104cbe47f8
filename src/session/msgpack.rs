//! Reading MessagePack: one item after the other, pointing into the input, allocating nothing.
//!
//! Lengths are believed only as far as there are bytes for them.

use rmp::Marker;

/// One item: a value, or the beginning of one that has others inside, which follow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Item<'a> {
    Nil,
    Boolean(bool),
    Unsigned(u64),
    /// Always negative.
    Negative(i64),
    Float(f64),
    /// Should be UTF-8, and often is.
    Text(&'a [u8]),
    Binary(&'a [u8]),
    Extension(i8, &'a [u8]),
    /// So many items follow.
    Array(u32),
    /// So many keys follow, each with its value.
    Map(u32),
}

impl Item<'_> {
    /// What it is, in the words of the JSON form.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Item::Nil => "null",
            Item::Boolean(_) => "true or false",
            Item::Unsigned(_) | Item::Negative(_) | Item::Float(_) => "a number",
            Item::Text(_) => "a string",
            Item::Binary(_) => "binary data",
            Item::Extension(..) => "an extension",
            Item::Array(_) => "an array",
            Item::Map(_) => "an object",
        }
    }
}

/// What is no MessagePack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("it ends within a value that begins at byte {at}")]
    Cut { at: usize },
    #[error("byte {at} is 0xc1, which begins no value")]
    Reserved { at: usize },
    #[error("more follows after the value, from byte {at} on")]
    Trailing { at: usize },
}

/// A place in a MessagePack document.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a> {
    all: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(all: &'a [u8]) -> Self {
        Self { all, at: 0 }
    }

    /// Nothing may follow any more.
    pub(super) fn end(self) -> Result<(), Malformed> {
        match self.at == self.all.len() {
            true => Ok(()),
            false => Err(Malformed::Trailing { at: self.at }),
        }
    }

    /// What was read since `earlier`, a copy of this reader.
    pub(super) fn since(&self, earlier: &Self) -> &'a [u8] {
        self.all.get(earlier.at..self.at).unwrap_or_default()
    }

    /// The next item.
    pub(super) fn next(&mut self) -> Result<Item<'a>, Malformed> {
        let begins = self.at;
        let cut = Malformed::Cut { at: begins };
        self.item(begins).ok_or(cut)?
    }

    /// `None`: the input ends too early.
    fn item(&mut self, begins: usize) -> Option<Result<Item<'a>, Malformed>> {
        let [marker] = self.array()?;
        let item = match Marker::from_u8(marker) {
            Marker::Null => Item::Nil,
            Marker::True => Item::Boolean(true),
            Marker::False => Item::Boolean(false),
            Marker::FixPos(value) => Item::Unsigned(value.into()),
            Marker::FixNeg(value) => Item::Negative(value.into()),
            Marker::U8 => Item::Unsigned(self.u8()?.into()),
            Marker::U16 => Item::Unsigned(self.u16()?.into()),
            Marker::U32 => Item::Unsigned(self.u32()?.into()),
            Marker::U64 => Item::Unsigned(u64::from_be_bytes(self.array()?)),
            Marker::I8 => signed(i8::from_be_bytes(self.array()?).into()),
            Marker::I16 => signed(i16::from_be_bytes(self.array()?).into()),
            Marker::I32 => signed(i32::from_be_bytes(self.array()?).into()),
            Marker::I64 => signed(i64::from_be_bytes(self.array()?)),
            Marker::F32 => Item::Float(f32::from_be_bytes(self.array()?).into()),
            Marker::F64 => Item::Float(f64::from_be_bytes(self.array()?)),
            Marker::FixStr(length) => Item::Text(self.bytes(length)?),
            Marker::Str8 => Item::Text(self.u8().and_then(|length| self.bytes(length))?),
            Marker::Str16 => Item::Text(self.u16().and_then(|length| self.bytes(length))?),
            Marker::Str32 => Item::Text(self.u32().and_then(|length| self.bytes(length))?),
            Marker::Bin8 => Item::Binary(self.u8().and_then(|length| self.bytes(length))?),
            Marker::Bin16 => Item::Binary(self.u16().and_then(|length| self.bytes(length))?),
            Marker::Bin32 => Item::Binary(self.u32().and_then(|length| self.bytes(length))?),
            Marker::FixExt1 => self.extension(1_u8)?,
            Marker::FixExt2 => self.extension(2_u8)?,
            Marker::FixExt4 => self.extension(4_u8)?,
            Marker::FixExt8 => self.extension(8_u8)?,
            Marker::FixExt16 => self.extension(16_u8)?,
            Marker::Ext8 => self.u8().and_then(|length| self.extension(length))?,
            Marker::Ext16 => self.u16().and_then(|length| self.extension(length))?,
            Marker::Ext32 => self.u32().and_then(|length| self.extension(length))?,
            Marker::FixArray(count) => Item::Array(count.into()),
            Marker::Array16 => Item::Array(self.u16()?.into()),
            Marker::Array32 => Item::Array(self.u32()?),
            Marker::FixMap(count) => Item::Map(count.into()),
            Marker::Map16 => Item::Map(self.u16()?.into()),
            Marker::Map32 => Item::Map(self.u32()?),
            Marker::Reserved => return Some(Err(Malformed::Reserved { at: begins })),
        };
        Some(Ok(item))
    }

    /// Skips the next value with all that is inside, and returns it as it was written. However deeply
    /// values are nested, only their number is counted.
    pub(super) fn skip(&mut self) -> Result<&'a [u8], Malformed> {
        let before = *self;
        let mut values: u64 = 1;
        while values > 0 {
            values -= 1;
            // No overflow: five bytes add 2^33 at most, and there is no input of 2^33 bytes.
            values += match self.next()? {
                Item::Array(count) => u64::from(count),
                Item::Map(count) => 2 * u64::from(count),
                _ => 0,
            };
            // Each is a byte at least.
            if values > (self.all.len() - self.at) as u64 {
                return Err(Malformed::Cut { at: before.at });
            }
        }
        Ok(self.since(&before))
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let array = self.all.get(self.at..)?.first_chunk()?;
        self.at += N;
        Some(*array)
    }

    fn bytes(&mut self, length: impl Into<u32>) -> Option<&'a [u8]> {
        let length = usize::try_from(length.into()).ok()?;
        let bytes = self.all.get(self.at..)?.get(..length)?;
        self.at += length;
        Some(bytes)
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_be_bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn extension(&mut self, length: impl Into<u32>) -> Option<Item<'a>> {
        let kind = i8::from_be_bytes(self.array()?);
        Some(Item::Extension(kind, self.bytes(length)?))
    }
}

fn signed(value: i64) -> Item<'static> {
    u64::try_from(value).map_or(Item::Negative(value), Item::Unsigned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(bytes: &[u8]) -> Result<Item<'_>, Malformed> {
        Reader::new(bytes).next()
    }

    #[test]
    fn every_marker() {
        for (bytes, expected) in [
            (b"\xc0".as_slice(), Item::Nil),
            (b"\xc2", Item::Boolean(false)),
            (b"\xc3", Item::Boolean(true)),
            (b"\x7f", Item::Unsigned(127)),
            (b"\xe0", Item::Negative(-32)),
            (b"\xcc\xff", Item::Unsigned(255)),
            (b"\xcd\x01\x00", Item::Unsigned(256)),
            (b"\xce\0\x01\0\0", Item::Unsigned(1 << 16)),
            (
                b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
                Item::Unsigned(u64::MAX),
            ),
            (b"\xd0\xff", Item::Negative(-1)),
            // Some writers use signed markers for what is not negative.
            (b"\xd0\x05", Item::Unsigned(5)),
            (b"\xd1\xff\0", Item::Negative(-256)),
            (b"\xd2\x80\0\0\0", Item::Negative(i32::MIN.into())),
            (b"\xd3\x80\0\0\0\0\0\0\0", Item::Negative(i64::MIN)),
            (b"\xca\x3f\x80\0\0", Item::Float(1.0)),
            (b"\xcb\xbf\xf8\0\0\0\0\0\0", Item::Float(-1.5)),
            (b"\xa2hi", Item::Text(b"hi")),
            (b"\xd9\x01x", Item::Text(b"x")),
            (b"\xda\0\x01x", Item::Text(b"x")),
            (b"\xdb\0\0\0\x01x", Item::Text(b"x")),
            (b"\xc4\x01\xff", Item::Binary(b"\xff")),
            (b"\xc5\0\x01\xff", Item::Binary(b"\xff")),
            (b"\xc6\0\0\0\x01\xff", Item::Binary(b"\xff")),
            (b"\xd4\xff\x01", Item::Extension(-1, b"\x01")),
            (b"\xd5\x05ab", Item::Extension(5, b"ab")),
            (b"\xd6\x05abcd", Item::Extension(5, b"abcd")),
            (b"\xd7\x05abcdefgh", Item::Extension(5, b"abcdefgh")),
            (
                b"\xd8\x050123456789abcdef",
                Item::Extension(5, b"0123456789abcdef"),
            ),
            (b"\xc7\0\x05", Item::Extension(5, b"")),
            (b"\xc8\0\x01\x05a", Item::Extension(5, b"a")),
            (b"\xc9\0\0\0\x01\x05a", Item::Extension(5, b"a")),
            (b"\x90", Item::Array(0)),
            (b"\xdc\x01\0", Item::Array(256)),
            (b"\xdd\0\x01\0\0", Item::Array(1 << 16)),
            (b"\x8f", Item::Map(15)),
            (b"\xde\x01\0", Item::Map(256)),
            (b"\xdf\0\x01\0\0", Item::Map(1 << 16)),
        ] {
            assert_eq!(read(bytes), Ok(expected), "{bytes:x?}");
            for cut in 0..bytes.len() {
                assert_eq!(read(&bytes[..cut]), Err(Malformed::Cut { at: 0 }));
            }
        }
        assert_eq!(read(b"\xc1"), Err(Malformed::Reserved { at: 0 }));
    }

    #[test]
    fn lengths_without_bytes_are_not_believed() {
        for bytes in [
            b"\xdd\xff\xff\xff\xff".as_slice(),
            b"\xdf\xff\xff\xff\xff\x01\x02",
            b"\xdb\xff\xff\xff\xffabc",
            b"\xc9\xff\xff\xff\xff\x01abc",
            b"\x92\xdd\xff\xff\xff\xff\xdd\xff\xff\xff\xff",
        ] {
            let error = Reader::new(bytes).skip().unwrap_err();
            assert!(matches!(error, Malformed::Cut { .. }), "{bytes:x?}");
        }
    }

    #[test]
    fn nesting_costs_nothing_to_skip() {
        let mut bytes = vec![0x91; 1 << 20];
        bytes.push(0xc0);
        assert_eq!(Reader::new(&bytes).skip(), Ok(bytes.as_slice()));
    }

    proptest! {
        #[test]
        fn what_is_skipped_is_what_another_reader_reads(bytes: Vec<u8>) {
            let mut rest = bytes.as_slice();
            let other = rmpv::decode::read_value_ref(&mut rest);
            let mut reader = Reader::new(&bytes);
            let skipped = reader.skip();
            // It takes 0xc1 for nil.
            let reserved = matches!(skipped, Err(Malformed::Reserved { .. }));
            prop_assert_eq!(skipped.is_ok(), other.is_ok() && !reserved);
            if let Ok(value) = skipped {
                prop_assert_eq!(value.len(), bytes.len() - rest.len());
                prop_assert_eq!(reader.end().is_ok(), rest.is_empty());
            }
        }
    }
}
