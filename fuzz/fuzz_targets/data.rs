//! Published data, mapped from one form to the other and back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringwire::session::data::{write_json, write_msgpack};
use rmpv::Value;

const PLENTY: usize = usize::MAX;

fn to_json(msgpack: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    write_json(msgpack, &mut out);
    out
}

fn to_msgpack(json: &[u8], largest_bytes: usize) -> Vec<u8> {
    let mut out = Vec::new();
    write_msgpack(json, &mut out, largest_bytes);
    let mut rest = out.as_slice();
    rmpv::decode::read_value(&mut rest).expect("MessagePack");
    assert!(rest.is_empty());
    out
}

/// The map that holds the text of a document, which is not mapped.
fn as_text(json: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(json).into_owned();
    let mut out = Vec::new();
    let value = Value::Map(vec![("$json".into(), text.into())]);
    rmpv::encode::write_value(&mut out, &value).expect("a Vec takes everything");
    out
}

fuzz_target!(|bytes: &[u8]| {
    let [largest, bytes @ ..] = bytes else {
        return;
    };
    // As JSON.
    let msgpack = to_msgpack(bytes, PLENTY);
    let text = as_text(bytes);
    if msgpack != text {
        let value: serde_json::Value = serde_json::from_slice(bytes).expect("it was mapped");
        // A value keeps the last of several members of the same name.
        let back: serde_json::Value = serde_json::from_slice(&to_json(&msgpack)).expect("JSON");
        assert_eq!(back, value);
        assert_eq!(to_msgpack(&to_json(&msgpack), PLENTY), msgpack);
    }
    let largest = usize::from(*largest);
    let bounded = to_msgpack(bytes, largest);
    assert_eq!(
        bounded,
        if msgpack.len() <= largest {
            msgpack
        } else {
            text
        }
    );
    // As MessagePack: whatever it is, what is written is JSON, and settles at once.
    let json = to_json(bytes);
    serde_json::from_slice::<serde_json::Value>(&json).expect("JSON");
    let there = to_msgpack(&json, PLENTY);
    // Where mapped keys and markers nest deeper than allowed, the text stays.
    if there != as_text(&json) {
        assert_eq!(to_json(&there), json);
    }
});
