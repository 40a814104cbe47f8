//! Why a message could not be read, in words for whoever wrote the client.
//!
//! serde stops at the first thing in a JSON message that it does not like, and speaks of our types. What it
//! has refused is read once more here, loosely, to name the field and to find the `id` wherever it stands.
//! The words are the same for both forms.

use super::json::is_id;
use super::{MAX_ID_BYTES, Refused};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;

/// The fields that the envelope knows, and what each must be.
pub(super) const FIELDS: [(&str, &str); 13] = [
    ("type", "a string"),
    ("id", "a string or an integer"),
    ("channel", "a string"),
    ("data", "any JSON value"),
    ("echo", "true or false"),
    ("to", "a string"),
    ("recover", "an object"),
    ("limit", "a whole number"),
    ("since", "an object"),
    ("reverse", "true or false"),
    ("cursor", "a whole number"),
    ("key", "a string"),
    ("batch", "true or false"),
];
/// Where `id` stands among them.
pub(super) const ID: usize = 1;

/// The known fields of any object, as they were written.
#[derive(Default)]
struct Fields<'a> {
    values: [Option<&'a RawValue>; FIELDS.len()],
    /// One that is there more than once.
    twice: Option<usize>,
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Fields::default();
                while let Some(name) = map.next_key::<String>()? {
                    match FIELDS.iter().position(|(known, _)| *known == name) {
                        Some(at) if fields.values[at].is_none() => {
                            fields.values[at] = Some(map.next_value()?);
                        }
                        known => {
                            map.next_value::<IgnoredAny>()?;
                            fields.twice = fields.twice.or(known);
                        }
                    }
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// Says what is wrong with a message that cannot be read.
pub(super) fn explain(text: &[u8]) -> Refused<'_> {
    let not_json = |error: serde_json::Error| Refused {
        code: "invalid_json",
        error: format!("not JSON: {error}"),
        id: None,
    };
    if let Err(error) = serde_json::from_slice::<IgnoredAny>(text) {
        return not_json(error);
    }
    let value = text.trim_ascii_start();
    if value.first() != Some(&b'{') {
        let error = format!(
            "expected one JSON object with a \"type\", not {}",
            kind(value)
        );
        return invalid(error, None);
    }
    let fields: Fields<'_> = match serde_json::from_slice(text) {
        Ok(fields) => fields,
        Err(error) => return not_json(error),
    };
    let id = fields.values[ID]
        .map(RawValue::get)
        .filter(|id| fields.twice != Some(ID) && is_id(id))
        .map(str::as_bytes);
    if let Some(at) = fields.twice {
        return twice(at, id);
    }
    for (value, (name, _)) in fields.values.iter().zip(FIELDS) {
        let Some(value) = value.map(RawValue::get).filter(|value| *value != "null") else {
            continue;
        };
        let found = kind(value.as_bytes());
        let wrong = match name {
            "type" | "channel" => found != "a string",
            "echo" => found != "true or false",
            _ => false,
        };
        if wrong {
            return wrong_kind(name, found, id);
        }
        let is_text = matches!(name, "type" | "channel");
        if is_text && serde_json::from_str::<String>(value).is_err() {
            return invalid(
                format!("\"{name}\" contains a \\u escape that is no character"),
                id,
            );
        }
    }
    if id.is_none() && fields.values[ID].is_some_and(|id| id.get() != "null") {
        return wrong_id();
    }
    invalid("expected one JSON object with a \"type\"".to_owned(), id)
}

/// A field, by its place among [`FIELDS`], is there more than once.
pub(super) fn twice(at: usize, id: Option<&[u8]>) -> Refused<'_> {
    let (name, _) = FIELDS[at];
    invalid(format!("\"{name}\" is there more than once"), id)
}

/// A field is of another kind than it must be.
pub(super) fn wrong_kind<'a>(name: &str, found: &str, id: Option<&'a [u8]>) -> Refused<'a> {
    let known = FIELDS.iter().find(|(known, _)| *known == name);
    let expected = known.map_or("something else", |(_, expected)| expected);
    invalid(format!("\"{name}\" must be {expected}, not {found}"), id)
}

/// The `id` itself is wrong, so it is not given back.
pub(super) fn wrong_id() -> Refused<'static> {
    let error = format!("\"id\" must be a string or an integer of at most {MAX_ID_BYTES} bytes");
    invalid(error, None)
}

pub(super) fn invalid(error: String, id: Option<&[u8]>) -> Refused<'_> {
    Refused {
        code: "invalid_message",
        error,
        id,
    }
}

/// What a JSON value is, by its first byte.
fn kind(value: &[u8]) -> &'static str {
    match value.first() {
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b'"') => "a string",
        Some(b't' | b'f') => "true or false",
        Some(b'n') => "null",
        _ => "a number",
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Envelope, parse};
    use super::*;
    use crate::session::form::Form;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<Envelope<'_>, Refused<'_>> {
        parse(Form::Json, text.as_bytes(), 255)
    }

    fn refused(text: &str) -> (&'static str, String, Option<&str>) {
        let Refused { code, error, id } = read(text).unwrap_err();
        (code, error, id.map(|id| std::str::from_utf8(id).unwrap()))
    }

    #[test]
    fn the_field_is_named_and_the_id_comes_back() {
        for (text, words, id) in [
            (
                r#"{"id":7,"type":"subscribe","channel":5}"#,
                "\"channel\" must be a string, not a number",
                Some("7"),
            ),
            (
                r#"{"type":"publish","channel":"c","data":1,"echo":"no","id":"x"}"#,
                "\"echo\" must be true or false, not a string",
                Some("\"x\""),
            ),
            (
                r#"{"type":["ping"],"id":-1}"#,
                "\"type\" must be a string, not an array",
                Some("-1"),
            ),
            (
                r#"{"type":"ping","type":"ping","id":1}"#,
                "\"type\" is there more than once",
                Some("1"),
            ),
            (
                r#"{"type":"ping","id":1,"id":2}"#,
                "\"id\" is there more than once",
                None,
            ),
            (
                r#"{"type":"subscribe","channel":"\ud800","id":1}"#,
                "\"channel\" contains a \\u escape",
                Some("1"),
            ),
            (r#"{"type":"ping","id":{}}"#, "\"id\" must be", None),
            (r#"{"type":7,"id":1.5}"#, "\"type\" must be", None),
            ("7", "not a number", None),
            (" null", "not null", None),
            (r#"["ping"]"#, "not an array", None),
        ] {
            let (code, error, found) = refused(text);
            assert_eq!(code, "invalid_message", "{text}");
            assert!(error.contains(words), "{text}: {error}");
            assert_eq!(found, id, "{text}");
        }
    }

    #[test]
    fn what_is_not_json_says_where() {
        for text in ["", "{", "[1", "7 8", "{\"type\":7} x", "{\"id\":1,}", "nul"] {
            let (code, error, _) = refused(text);
            assert_eq!(code, "invalid_json", "{text}");
            assert!(
                error.starts_with("not JSON: ") && error.contains(" line 1 "),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn what_is_not_json_says_what() {
        for (text, words) in [
            ("7 8", "trailing characters"),
            ("[1", "EOF"),
            ("{\"id\":1,}", "key must be a string"),
        ] {
            let (_, error, _) = refused(text);
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn unknown_fields_may_be_there_twice() {
        assert!(read(r#"{"type":"ping","x":1,"x":{"type":7}}"#).is_ok());
    }

    fn value() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec![
            "null",
            "true",
            "7",
            "-1.5e3",
            "\"text\"",
            "\"\\ud800\"",
            "[1]",
            "{\"id\":3}",
        ])
    }

    proptest! {
        #[test]
        fn every_refusal_of_an_object_names_its_id_and_none_of_our_types(
            fields in prop::collection::vec((prop::sample::select(vec![
                "type", "channel", "data", "echo", "other",
            ]), value()), 0..6),
            at in 0..6usize,
        ) {
            let mut parts: Vec<String> =
                fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
            parts.insert(at.min(parts.len()), "\"id\":\"mine\"".to_owned());
            let text = format!("{{{}}}", parts.join(","));
            if let Err(refused) = read(&text) {
                prop_assert_eq!(refused.id, Some(b"\"mine\"".as_slice()), "{}", text);
                prop_assert!(!refused.error.contains("Raw") && !refused.error.contains("struct"));
                prop_assert!(refused.error.contains("\"type\"") || refused.error.contains("\"channel\"")
                    || refused.error.contains("\"data\"") || refused.error.contains("\"echo\""), "{}", refused.error);
            }
        }
    }
}
