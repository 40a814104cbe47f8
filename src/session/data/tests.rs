//! The mapping of data from form to form, against readers of their own for each.

use super::*;
use crate::config::limits::MAX_DATA_NESTING;
use crate::session::msgpack::Reader;
use proptest::prelude::*;
use rmpv::Value;

const PLENTY: usize = 1 << 20;

fn to_msgpack(json: &str) -> Vec<u8> {
    let mut out = b"before".to_vec();
    write_msgpack(json.as_bytes(), &mut out, PLENTY);
    out.split_off(6)
}

fn to_json(msgpack: &[u8]) -> String {
    let mut out = b"before".to_vec();
    write_json(msgpack, &mut out);
    let out = out.split_off(6);
    assert_eq!(out.len(), json_bytes(msgpack));
    String::from_utf8(out).unwrap()
}

/// All of `bytes`, read by the other reader.
fn reread(bytes: &[u8]) -> Value {
    let mut rest = bytes;
    let value = rmpv::decode::read_value(&mut rest).unwrap();
    assert!(rest.is_empty(), "{rest:x?} after {value}");
    value
}

fn write(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    rmpv::encode::write_value(&mut out, value).unwrap();
    out
}

fn checked(msgpack: &[u8]) -> Result<(), Unfit> {
    check(&mut Reader::new(msgpack))
}

fn map(fields: &[(&str, Value)]) -> Value {
    let field = |(name, value): &(&str, Value)| ((*name).into(), value.clone());
    Value::Map(fields.iter().map(field).collect())
}

#[test]
fn both_ways() {
    for (json, msgpack) in [
        ("null", Value::Nil),
        ("true", true.into()),
        ("false", false.into()),
        ("0", 0.into()),
        ("-1", (-1).into()),
        ("18446744073709551615", u64::MAX.into()),
        ("-9223372036854775808", i64::MIN.into()),
        ("1.5", 1.5.into()),
        ("1.0", 1.0.into()),
        ("-0.0", (-0.0).into()),
        ("0.1", 0.1.into()),
        ("1e+300", 1e300.into()),
        ("\"\"", "".into()),
        (r#""a\"\n\u0000grüße🦦""#, "a\"\n\0grüße🦦".into()),
        ("[]", Value::Array(vec![])),
        ("{}", Value::Map(vec![])),
        (
            r#"[1,[2],{"a":null}]"#,
            Value::Array(vec![
                1.into(),
                Value::Array(vec![2.into()]),
                map(&[("a", Value::Nil)]),
            ]),
        ),
        // Order and repetition are kept.
        (
            r#"{"b":1,"a":2,"b":3}"#,
            map(&[("b", 1.into()), ("a", 2.into()), ("b", 3.into())]),
        ),
        (r#"{"$base64":"AAH/"}"#, Value::Binary(vec![0, 1, 255])),
        (r#"{"$base64":""}"#, Value::Binary(vec![])),
        (
            r#"[{"$base64":"aGk="}]"#,
            Value::Array(vec![Value::Binary(b"hi".to_vec())]),
        ),
        (r#"{"$ext":[-1,"AAAAAA=="]}"#, Value::Ext(-1, vec![0; 4])),
        (r#"{"$ext":[127,""]}"#, Value::Ext(127, vec![])),
        // What only looks like it stays what it is.
        (r#"{"$base64":"AA"}"#, map(&[("$base64", "AA".into())])),
        (r#"{"$base64":"AB=="}"#, map(&[("$base64", "AB==".into())])),
        (r#"{"$base64":7}"#, map(&[("$base64", 7.into())])),
        (
            r#"{"$base64":"","a":1}"#,
            map(&[("$base64", "".into()), ("a", 1.into())]),
        ),
        (
            r#"{"$ext":[128,""]}"#,
            map(&[("$ext", Value::Array(vec![128.into(), "".into()]))]),
        ),
        (
            r#"{"$ext":[1]}"#,
            map(&[("$ext", Value::Array(vec![1.into()]))]),
        ),
        (
            r#"{"$ext":[1,"",2]}"#,
            map(&[("$ext", Value::Array(vec![1.into(), "".into(), 2.into()]))]),
        ),
        (r#"{"$json":"1"}"#, map(&[("$json", "1".into())])),
    ] {
        assert_eq!(reread(&to_msgpack(json)), msgpack, "{json}");
        assert_eq!(to_json(&write(&msgpack)), json);
    }
}

#[test]
fn to_json_only() {
    for (msgpack, json) in [
        (b"\xcb\x7f\xf0\0\0\0\0\0\0".as_slice(), "null"),
        (b"\xcb\x7f\xf8\0\0\0\0\0\0", "null"),
        (b"\xca\x7f\xc0\0\0", "null"),
        // A float32 is the double that it is, in every reader.
        (b"\xca\x3d\xcc\xcc\xcd", "0.10000000149011612"),
        (
            b"\x83\x01\xc0\xff\xc0\xcf\xff\xff\xff\xff\xff\xff\xff\xff\xc0",
            r#"{"1":null,"-1":null,"18446744073709551615":null}"#,
        ),
        (b"\xd3\0\0\0\0\0\0\0\x05", "5"),
    ] {
        assert_eq!(to_json(msgpack), json);
        assert_eq!(checked(msgpack), Ok(()));
    }
}

#[test]
fn to_msgpack_only() {
    for (json, msgpack) in [
        (" [ 1 , 2 ] ", Value::Array(vec![1.into(), 2.into()])),
        ("18446744073709551616", 18_446_744_073_709_551_616.0.into()),
        (
            "-9223372036854775809",
            (-9_223_372_036_854_775_808.0).into(),
        ),
        ("1e2", 100.0.into()),
        ("-0", (-0.0).into()),
        (r#""\u00e9\/""#, "é/".into()),
        (r#"{"$base64":"\u0041A=="}"#, Value::Binary(vec![0])),
        // What has no form of its own.
        ("1e400", map(&[("$json", "1e400".into())])),
        (
            r#"[1, "\ud800"]"#,
            map(&[("$json", r#"[1, "\ud800"]"#.into())]),
        ),
    ] {
        assert_eq!(reread(&to_msgpack(json)), msgpack, "{json}");
    }
}

#[test]
fn numbers_keep_every_bit() {
    // Digits for which a quick reader takes a neighbour of the nearest double.
    for text in [
        "2.2250738585072011e-308",
        "1.7976931348623157e308",
        "8.41e21",
        "9007199254740993.0",
    ] {
        let nearest: f64 = text.parse().unwrap();
        assert_eq!(reread(&to_msgpack(text)), nearest.into(), "{text}");
    }
}

#[test]
fn integers_take_the_fewest_bytes() {
    for (json, bytes) in [
        ("127", 1),
        ("128", 2),
        ("-32", 1),
        ("-33", 2),
        ("65536", 5),
        ("4294967296", 9),
    ] {
        assert_eq!(to_msgpack(json).len(), bytes, "{json}");
    }
}

#[test]
fn nesting_has_a_bound() {
    let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    let most = nested(MAX_DATA_NESTING);
    assert_eq!(to_json(&to_msgpack(&most)), most);
    let more = nested(MAX_DATA_NESTING + 1);
    assert_eq!(
        reread(&to_msgpack(&more)),
        map(&[("$json", more.as_str().into())])
    );
    for (first, close) in [(vec![0x91], 0x90), (vec![0x81, 0xa0], 0x80)] {
        let nested = |levels: usize| {
            let mut bytes = first.repeat(levels - 1);
            bytes.push(close);
            bytes
        };
        assert_eq!(checked(&nested(MAX_DATA_NESTING)), Ok(()));
        assert_eq!(checked(&nested(MAX_DATA_NESTING + 1)), Err(Unfit::TooDeep));
        assert_eq!(to_json(&nested(MAX_DATA_NESTING + 1)), "null");
    }
    let much = nested(1 << 20);
    assert!(to_msgpack(&much).ends_with(b"]]"));
}

#[test]
fn what_has_no_json_form_is_refused() {
    for (msgpack, unfit) in [
        (b"\x81\xc0\x01".as_slice(), Unfit::Key("null")),
        (b"\x81\xc3\x01", Unfit::Key("true or false")),
        (
            b"\x81\xcb\x3f\xf0\0\0\0\0\0\0\x01",
            Unfit::Key("a number with a fraction"),
        ),
        (b"\x81\xc4\0\x01", Unfit::Key("binary data")),
        (b"\x81\xd4\x01\x01\x01", Unfit::Key("an extension")),
        (b"\x81\x90\x01", Unfit::Key("an array")),
        (b"\x81\x80\x01", Unfit::Key("an object")),
        (b"\x91\xa1\xff", Unfit::NotText),
        (b"\x81\xa1\xff\x01", Unfit::NotText),
    ] {
        assert_eq!(checked(msgpack), Err(unfit));
        assert_eq!(to_json(msgpack), "null");
    }
    assert!(matches!(checked(b"\x92\x01"), Err(Unfit::Malformed(_))));
    assert!(matches!(checked(b"\xc1"), Err(Unfit::Malformed(_))));
}

#[test]
fn long_arrays_and_maps() {
    for count in [15, 16, 17, 65_535, 65_536] {
        let numbers: Vec<String> = (0..count).map(|n: u32| n.to_string()).collect();
        let array = format!("[{}]", numbers.join(","));
        let members: Vec<String> = numbers.iter().map(|n| format!("\"{n}\":[{n}]")).collect();
        let object = format!("{{{}}}", members.join(","));
        for text in [array, object] {
            // Several of them, each with members before and after.
            let text = format!("[0,{text},[{text}],1,{text}]");
            let mut msgpack = Vec::new();
            write_msgpack(text.as_bytes(), &mut msgpack, usize::MAX);
            assert_eq!(to_json(&msgpack), text);
            assert_eq!(write(&reread(&msgpack)), msgpack, "the shortest form");
        }
    }
}

#[test]
fn what_would_be_too_large_stays_text() {
    let json = format!("[{}0]", "1e9,".repeat(100));
    let text = map(&[("$json", json.as_str().into())]);
    let whole = to_msgpack(&json).len();
    assert!(whole > json.len() + 100, "it grows");
    for (largest, stays) in [(whole, false), (whole - 1, true), (0, true)] {
        let mut out = Vec::new();
        write_msgpack(json.as_bytes(), &mut out, largest);
        assert_eq!(reread(&out) == text, stays);
    }
}

fn json_values() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<u64>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        ".{0,8}".prop_map(Into::into),
        ".{40}".prop_map(Into::into),
    ];
    let names = prop_oneof![
        ".{0,4}",
        Just("$base64".to_owned()),
        Just("$ext".to_owned()),
        Just("$json".to_owned())
    ];
    leaf.prop_recursive(6, 200, 40, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..40).prop_map(Into::into),
            prop::collection::vec((names.clone(), inner), 0..20).prop_map(|members| members
                .into_iter()
                .collect::<serde_json::Map<_, _>>()
                .into()),
        ]
    })
}

fn msgpack_values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Nil),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>()
            .prop_filter("NaN", |value| !value.is_nan())
            .prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
        prop::collection::vec(any::<u8>(), 0..40).prop_map(Value::Binary),
        (any::<i8>(), prop::collection::vec(any::<u8>(), 0..20))
            .prop_map(|(kind, bytes)| Value::Ext(kind, bytes)),
    ];
    leaf.prop_recursive(6, 200, 40, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..40).prop_map(Value::Array),
            prop::collection::vec((".{0,4}".prop_map(Value::from), inner), 0..20)
                .prop_map(Value::Map),
        ]
    })
}

proptest! {
    #[test]
    fn json_comes_back_as_it_was(value in json_values()) {
        let text = value.to_string();
        let msgpack = to_msgpack(&text);
        prop_assert_eq!(checked(&msgpack), Ok(()));
        let back: serde_json::Value = serde_json::from_str(&to_json(&msgpack)).unwrap();
        prop_assert_eq!(&back, &value);
        // Another reader can read it, and would have written the same.
        prop_assert_eq!(write(&reread(&msgpack)), msgpack);
    }

    #[test]
    fn msgpack_comes_back_as_it_was(value in msgpack_values()) {
        let msgpack = write(&value);
        prop_assert_eq!(checked(&msgpack), Ok(()));
        let json = to_json(&msgpack);
        serde_json::from_str::<serde_json::Value>(&json).unwrap();
        prop_assert!(json.len() < MAX_GROWTH * msgpack.len());
        let mut back = Vec::new();
        write_msgpack(json.as_bytes(), &mut back, usize::MAX);
        prop_assert_eq!(to_json(&back), json);
        let infinite = value.to_string().contains("inf");
        if !infinite {
            prop_assert_eq!(reread(&back), value);
        }
    }

    #[test]
    fn any_bytes_are_checked_and_mapped(bytes: Vec<u8>) {
        let mut reader = Reader::new(&bytes);
        let before = reader;
        match check(&mut reader) {
            Ok(()) => {
                let value = reader.since(&before);
                let json = to_json(value);
                serde_json::from_str::<serde_json::Value>(&json).unwrap();
                prop_assert!(json.len() < MAX_GROWTH * value.len());
            }
            Err(_) => prop_assert_eq!(to_json(&bytes), "null"),
        }
        let mut out = Vec::new();
        write_msgpack(&bytes, &mut out, PLENTY);
        prop_assert_eq!(checked(&out), Ok(()));
    }
}
