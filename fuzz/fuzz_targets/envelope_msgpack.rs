//! The MessagePack envelope. What is accepted points into the input and says what another reader finds
//! there; what is refused is answered with MessagePack.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringwire::session::data::write_json;
use ringwire::session::envelope::{Command, Envelope, MAX_ID_BYTES, Refused, parse, write_error};
use ringwire::session::form::Form;
use rmpv::Value;

/// All of `bytes`, read by the other reader.
fn reread(bytes: &[u8]) -> Value {
    let mut rest = bytes;
    let value = rmpv::decode::read_value(&mut rest).expect("MessagePack");
    assert!(rest.is_empty());
    value
}

fn within(message: &[u8], part: &[u8]) {
    let (message, part) = (message.as_ptr_range(), part.as_ptr_range());
    assert!(
        message.start <= part.start && part.end <= message.end,
        "a copy"
    );
}

fn assert_id(message: &[u8], id: &[u8]) {
    within(message, id);
    assert!(id.len() <= MAX_ID_BYTES);
    let id = reread(id);
    assert!(id.is_str() || id.is_u64() || id.is_i64(), "{id}");
}

/// The input's field, which is there only once if the protocol knows it.
fn field<'a>(seen: &'a Value, name: &str) -> &'a Value {
    let fields = seen.as_map().expect("a map");
    let found = fields.iter().find(|(key, _)| key.as_str() == Some(name));
    found.map_or(&Value::Nil, |(_, value)| value)
}

fn data_of<'a>(command: &Command<'a>) -> Option<&'a [u8]> {
    match command {
        Command::Publish { data, .. }
        | Command::Direct { data, .. }
        | Command::Broadcast { data, .. } => Some(data),
        _ => None,
    }
}

fn accepted(message: &[u8], envelope: &Envelope<'_>) {
    if let Some(id) = envelope.id {
        assert_id(message, id);
    }
    if let Some(data) = data_of(&envelope.command) {
        within(message, data);
        let mut json = Vec::new();
        write_json(data, &mut json);
        serde_json::from_slice::<serde_json::Value>(&json).expect("JSON");
    }
    // The other reader goes only so deep, and it takes 0xc1 for nil.
    let mut rest = message;
    let Ok(seen) = rmpv::decode::read_value(&mut rest) else {
        return;
    };
    assert!(rest.is_empty());
    let id = envelope.id.map_or(Value::Nil, reread);
    assert_eq!(field(&seen, "id"), &id);
    if let Some(data) = data_of(&envelope.command) {
        // Not equal where there is a NaN, which is not equal to itself.
        assert_eq!(field(&seen, "data").to_string(), reread(data).to_string());
    }
    let sees = |name: &str, value: &str| assert_eq!(field(&seen, name).as_str(), Some(value));
    match &envelope.command {
        Command::Subscribe {
            channel,
            recover,
            batch,
        } => {
            sees("channel", channel);
            assert_eq!(field(&seen, "batch").as_bool().unwrap_or(false), *batch);
            if let Some(position) = recover {
                let place = field(&seen, "recover");
                assert_eq!(field(place, "offset").as_u64(), Some(position.offset));
                assert_eq!(field(place, "epoch").as_u64(), Some(position.epoch));
            }
        }
        Command::Publish {
            channel, echo, key, ..
        } => {
            sees("channel", channel);
            assert_eq!(field(&seen, "echo").as_bool(), *echo);
            assert_eq!(field(&seen, "key").as_str(), key.as_deref());
        }
        Command::Direct { to, .. } => sees("to", to),
        Command::History { channel, limit, .. } => {
            sees("channel", channel);
            let asked = field(&seen, "limit").as_u64();
            assert_eq!(asked.unwrap_or(100), *limit as u64);
        }
        Command::NotAvailable { kind } => sees("type", kind),
        _ => {}
    }
}

fn refused(message: &[u8], refused: &Refused<'_>) {
    let codes = ["invalid_msgpack", "invalid_message", "unknown_type"];
    assert!(codes.contains(&refused.code));
    if let Some(id) = refused.id {
        assert_id(message, id);
    }
    let mut out = Vec::new();
    write_error(
        &mut out,
        Form::MessagePack,
        refused.code,
        &refused.error,
        refused.id,
    );
    let answer = reread(&out);
    assert_eq!(field(&answer, "type").as_str(), Some("error"));
    assert_eq!(field(&answer, "code").as_str(), Some(refused.code));
    assert_eq!(
        field(&answer, "error").as_str(),
        Some(refused.error.as_str())
    );
    let id = refused.id.map_or(Value::Nil, reread);
    assert_eq!(field(&answer, "id"), &id);
}

fuzz_target!(|message: &[u8]| {
    match parse(Form::MessagePack, message, 255) {
        Ok(envelope) => accepted(message, &envelope),
        Err(error) => refused(message, &error),
    }
});
