//! Writing what the server says: an object with named fields, in the form of whoever it is for.
//!
//! Every answer, event and error is written through here once, and comes out as a JSON object or as a
//! MessagePack map with the same fields in the same order.

use super::data;
use super::form::Form;
use std::io::Write as _;

/// Fields that an object may have: the count stands in the map's first byte, so that it can be written
/// before it is known.
const MAX_FIELDS: u8 = 15;

/// The first byte of a MessagePack map of no fields; their number is added to it.
const EMPTY_MAP: u8 = 0x80;

/// An object that is being written.
pub(super) struct Object<'a> {
    out: &'a mut Vec<u8>,
    form: Form,
    fields: u8,
}

/// Appends an object whose fields `write` writes.
pub(super) fn write_object(out: &mut Vec<u8>, form: Form, write: impl FnOnce(&mut Object<'_>)) {
    let begins = out.len();
    out.push(match form {
        Form::Json => b'{',
        Form::MessagePack => EMPTY_MAP,
    });
    let mut object = Object {
        out,
        form,
        fields: 0,
    };
    write(&mut object);
    let Object { out, fields, .. } = object;
    match form {
        Form::Json => out.push(b'}'),
        Form::MessagePack => out[begins] = EMPTY_MAP + fields,
    }
}

impl Object<'_> {
    /// Begins a field. Names are ours: short, and nothing in them has to be escaped.
    fn name(&mut self, name: &'static str) {
        self.fields += 1;
        assert!(self.fields <= MAX_FIELDS, "too many fields with {name:?}");
        match self.form {
            Form::Json => {
                let begin: &[u8] = if self.fields == 1 { b"\"" } else { b",\"" };
                self.out.extend_from_slice(begin);
                self.out.extend_from_slice(name.as_bytes());
                self.out.extend_from_slice(b"\":");
            }
            Form::MessagePack => write_string(self.out, self.form, name),
        }
    }

    /// A string.
    pub(super) fn string(&mut self, name: &'static str, value: &str) {
        self.name(name);
        write_string(self.out, self.form, value);
    }

    /// A string, or null.
    pub(super) fn string_or_null(&mut self, name: &'static str, value: Option<&str>) {
        match value {
            Some(value) => self.string(name, value),
            None => self.null(name),
        }
    }

    /// A number that is not negative.
    pub(super) fn integer(&mut self, name: &'static str, value: u64) {
        self.name(name);
        match self.form {
            Form::Json => {
                let mut digits = itoa::Buffer::new();
                self.out.extend_from_slice(digits.format(value).as_bytes());
            }
            Form::MessagePack => {
                // Writing to a Vec cannot fail, here and below.
                let _ = rmp::encode::write_uint(self.out, value);
            }
        }
    }

    /// True or false.
    pub(super) fn boolean(&mut self, name: &'static str, value: bool) {
        self.name(name);
        self.out.extend_from_slice(match (self.form, value) {
            (Form::Json, true) => b"true",
            (Form::Json, false) => b"false",
            (Form::MessagePack, true) => &[0xc3],
            (Form::MessagePack, false) => &[0xc2],
        });
    }

    /// Null.
    pub(super) fn null(&mut self, name: &'static str) {
        self.name(name);
        self.out.extend_from_slice(match self.form {
            Form::Json => b"null",
            Form::MessagePack => &[0xc0],
        });
    }

    /// Seconds, from milliseconds: three digits after the point, or a double.
    pub(super) fn seconds(&mut self, name: &'static str, ms: u64) {
        self.name(name);
        match self.form {
            Form::Json => {
                let _ = write!(self.out, "{}.{:03}", ms / 1000, ms % 1000);
            }
            Form::MessagePack => {
                // The same double that a reader makes of the three digits: both are the nearest one.
                let _ = rmp::encode::write_f64(self.out, ms as f64 / 1000.0);
            }
        }
    }

    /// A value that is in the object's own form already.
    pub(super) fn raw(&mut self, name: &'static str, value: &[u8]) {
        self.name(name);
        self.out.extend_from_slice(value);
    }

    /// The client's own `id`, as it wrote it; no field where there is none (empty).
    pub(super) fn id(&mut self, id: &[u8]) {
        if !id.is_empty() {
            self.raw("id", id);
        }
    }

    /// Published data, byte for byte in its own form, and mapped to the other ([`data`]): not to more than
    /// `largest_bytes`.
    pub(super) fn data(
        &mut self,
        name: &'static str,
        form: Form,
        value: &[u8],
        largest_bytes: usize,
    ) {
        self.name(name);
        match (form, self.form) {
            (Form::Json, Form::MessagePack) => {
                data::write_msgpack(value, self.out, largest_bytes);
            }
            (Form::MessagePack, Form::Json) => data::write_json(value, self.out),
            _ => self.out.extend_from_slice(value),
        }
    }

    /// An object.
    pub(super) fn object(&mut self, name: &'static str, write: impl FnOnce(&mut Object<'_>)) {
        self.name(name);
        write_object(self.out, self.form, write);
    }

    /// An array of objects, one for each of `items`.
    pub(super) fn objects<T>(
        &mut self,
        name: &'static str,
        items: impl ExactSizeIterator<Item = T>,
        mut write: impl FnMut(&mut Object<'_>, T),
    ) {
        self.name(name);
        let form = self.form;
        self.begin_array(items.len());
        for (at, item) in items.enumerate() {
            if at > 0 && form == Form::Json {
                self.out.push(b',');
            }
            write_object(self.out, form, |object| write(object, item));
        }
        self.end_array();
    }

    /// An array of `count` objects that [`write_entry`] wrote one after the other.
    pub(super) fn entries(&mut self, name: &'static str, entries: &[u8], count: usize) {
        self.name(name);
        self.begin_array(count);
        self.out.extend_from_slice(match self.form {
            Form::Json => entries.get(1..).unwrap_or_default(),
            Form::MessagePack => entries,
        });
        self.end_array();
    }

    fn begin_array(&mut self, count: usize) {
        match self.form {
            Form::Json => self.out.push(b'['),
            Form::MessagePack => {
                let count = u32::try_from(count).unwrap_or(u32::MAX);
                let _ = rmp::encode::write_array_len(self.out, count);
            }
        }
    }

    fn end_array(&mut self) {
        if self.form == Form::Json {
            self.out.push(b']');
        }
    }
}

/// Appends one of the objects of an array whose length is not known yet ([`Object::entries`]). Any of them
/// may be cut out again: in JSON each begins with the comma that separates it from the one before.
pub(super) fn write_entry(out: &mut Vec<u8>, form: Form, write: impl FnOnce(&mut Object<'_>)) {
    if form == Form::Json {
        out.push(b',');
    }
    write_object(out, form, write);
}

fn write_string(out: &mut Vec<u8>, form: Form, value: &str) {
    match form {
        // A string always has a JSON form.
        Form::Json => {
            let _ = serde_json::to_writer(out, value);
        }
        Form::MessagePack => {
            let _ = rmp::encode::write_str(out, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An object in both forms, each read by a reader of its own.
    fn both(write: impl Fn(&mut Object<'_>)) -> (String, rmpv::Value) {
        let mut json = Vec::new();
        write_object(&mut json, Form::Json, &write);
        let mut msgpack = Vec::new();
        write_object(&mut msgpack, Form::MessagePack, &write);
        let mut rest = msgpack.as_slice();
        let read = rmpv::decode::read_value(&mut rest).unwrap();
        assert!(rest.is_empty());
        (String::from_utf8(json).unwrap(), read)
    }

    #[test]
    fn fields_of_every_kind() {
        let (json, msgpack) = both(|object| {
            object.string("text", "a\"b");
            object.string_or_null("from", None);
            object.integer("offset", u64::MAX);
            object.boolean("more", true);
            object.boolean("complete", false);
            object.seconds("timestamp", 1_700_000_000_042);
            object.object("data", |data| data.integer("n", 1));
            object.objects("members", [7, 8].into_iter(), |member, n| {
                member.integer("n", n)
            });
            object.objects("none", std::iter::empty::<()>(), |_, ()| {});
            object.id(b"");
            object.id(b"5");
        });
        assert_eq!(
            json,
            "{\"text\":\"a\\\"b\",\"from\":null,\"offset\":18446744073709551615,\"more\":true,\
             \"complete\":false,\"timestamp\":1700000000.042,\"data\":{\"n\":1},\
             \"members\":[{\"n\":7},{\"n\":8}],\"none\":[],\"id\":5}"
        );
        let n = |n: u64| rmpv::Value::Map(vec![("n".into(), n.into())]);
        let expected = vec![
            ("text".into(), "a\"b".into()),
            ("from".into(), rmpv::Value::Nil),
            ("offset".into(), u64::MAX.into()),
            ("more".into(), true.into()),
            ("complete".into(), false.into()),
            ("timestamp".into(), 1_700_000_000.042.into()),
            ("data".into(), n(1)),
            ("members".into(), rmpv::Value::Array(vec![n(7), n(8)])),
            ("none".into(), rmpv::Value::Array(Vec::new())),
            // The id is the connection's own: here, the byte of the integer 53.
            ("id".into(), 0x35.into()),
        ];
        assert_eq!(msgpack, rmpv::Value::Map(expected));
    }

    #[test]
    fn empty_objects() {
        assert_eq!(both(|_| {}), ("{}".to_owned(), rmpv::Value::Map(vec![])));
    }

    #[test]
    fn entries_may_be_cut_out() {
        for form in Form::ALL {
            let mut entries = Vec::new();
            let mut ends = vec![0];
            for n in 0..20 {
                write_entry(&mut entries, form, |entry| entry.integer("n", n));
                ends.push(entries.len());
            }
            // The first, one from the middle, and the last.
            for at in [19, 7, 0] {
                entries.drain(ends[at]..ends[at + 1]);
            }
            let mut out = Vec::new();
            write_object(&mut out, form, |object| {
                object.entries("messages", &entries, 17);
            });
            let mut expected = Vec::new();
            let left: Vec<u64> = (1..19).filter(|n| *n != 7).collect();
            write_object(&mut expected, form, |object| {
                object.objects("messages", left.iter(), |entry, n| entry.integer("n", *n));
            });
            assert_eq!(out, expected, "{form:?}");
        }
    }

    #[test]
    #[should_panic(expected = "too many fields with \"n\"")]
    fn more_fields_than_fit_are_a_mistake() {
        write_object(&mut Vec::new(), Form::MessagePack, |object| {
            (0..16).for_each(|n| object.integer("n", n));
        });
    }

    proptest! {
        #[test]
        fn strings_and_times_mean_the_same_in_both_forms(text in ".*", ms in 0..1u64 << 53) {
            let (json, msgpack) = both(|object| {
                object.string("text", &text);
                object.seconds("time", ms);
            });
            let json: serde_json::Value = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(json["text"].as_str(), msgpack["text"].as_str());
            prop_assert_eq!(json["time"].as_f64(), msgpack["time"].as_f64());
        }
    }
}
