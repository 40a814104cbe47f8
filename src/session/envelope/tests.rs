//! Commands in both forms.

use super::*;
use proptest::prelude::*;

fn ok(text: &str) -> Envelope<'_> {
    parse(Form::Json, text.as_bytes(), 255).unwrap()
}

fn refused(text: &str) -> &'static str {
    parse(Form::Json, text.as_bytes(), 255).unwrap_err().code
}

#[test]
fn commands() {
    assert_eq!(ok(r#"{"type":"ping"}"#).command, Command::Ping);
    let subscribe = ok(r#"{"type":"subscribe","channel":"a\"b","id":"x\u00e9"}"#);
    assert_eq!(subscribe.id, Some(br#""x\u00e9""#.as_slice()));
    assert_eq!(
        subscribe.command,
        Command::Subscribe {
            channel: "a\"b".into(),
            recover: None,
            batch: false,
        }
    );
    let publish =
        ok(r#"{"id":-7,"data":{"a": [1, 2.50 ]},"channel":"c","type":"message","echo":false}"#);
    assert_eq!(publish.id, Some(b"-7".as_slice()));
    assert_eq!(
        publish.command,
        Command::Publish {
            channel: "c".into(),
            data: br#"{"a": [1, 2.50 ]}"#,
            echo: Some(false),
            key: None,
        },
        "data keeps its bytes"
    );
    assert_eq!(ok(r#"{"type":"connect","id":null}"#).id, None);
    assert_eq!(
        ok(r#"{"type":"auth","token":"c"}"#).command,
        Command::NotAvailable { kind: "auth" }
    );
    let presence = |cursor, limit| Command::Presence {
        channel: "c".into(),
        cursor,
        limit,
    };
    let asked = r#"{"type":"presence","channel":"c","cursor":7,"limit":5}"#;
    assert_eq!(ok(asked).command, presence(7, 5));
    let asked = r#"{"type":"presence","channel":"c"}"#;
    assert_eq!(ok(asked).command, presence(0, 100));
    let wrong = r#"{"type":"presence","channel":"c","cursor":null,"limit":"5"}"#;
    assert_eq!(refused(wrong), "invalid_message");
    assert_eq!(
        ok(r#"{"type":"presence_stats","channel":"c"}"#).command,
        Command::PresenceStats {
            channel: "c".into()
        }
    );
}

#[test]
fn messages_to_users_and_to_everyone() {
    assert_eq!(
        ok(r#"{"type":"direct","to":"4\u0032","data":[1]}"#).command,
        Command::Direct {
            to: "42".into(),
            data: b"[1]",
        }
    );
    for (echo, expected) in [("", false), (r#","echo":true"#, true)] {
        let text = format!(r#"{{"type":"broadcast","data":null{echo}}}"#);
        let broadcast = Command::Broadcast {
            data: b"null",
            echo: expected,
        };
        assert_eq!(ok(&text).command, broadcast);
    }
    for text in [
        r#"{"type":"direct","data":1}"#.to_owned(),
        r#"{"type":"direct","to":"","data":1}"#.to_owned(),
        r#"{"type":"direct","to":42,"data":1}"#.to_owned(),
        r#"{"type":"direct","to":"42"}"#.to_owned(),
        r#"{"type":"broadcast"}"#.to_owned(),
        format!(r#"{{"type":"direct","to":"{}","data":1}}"#, "x".repeat(129)),
    ] {
        assert_eq!(refused(&text), "invalid_message", "{text}");
    }
}

#[test]
fn places_in_a_channel() {
    let subscribe =
        r#"{"type":"subscribe","channel":"c","recover":{"offset":7,"epoch":281474976710655}}"#;
    let position = Position {
        offset: 7,
        epoch: (1 << 48) - 1,
    };
    assert_eq!(
        ok(subscribe).command,
        Command::Subscribe {
            channel: "c".into(),
            recover: Some(position),
            batch: false,
        }
    );
    let history = |limit, since, reverse| Command::History {
        channel: "c".into(),
        limit,
        since,
        reverse,
    };
    assert_eq!(
        ok(r#"{"type":"history","channel":"c","since":null}"#).command,
        history(100, None, false)
    );
    let since = |epoch| Some(Since { offset: 3, epoch });
    for (fields, expected) in [
        (r#""limit":5,"reverse":true"#, history(5, None, true)),
        (r#""since":{"offset":3}"#, history(100, since(None), false)),
        (
            r#""since":{"offset":3,"epoch":9}"#,
            history(100, since(Some(9)), false),
        ),
    ] {
        let text = format!(r#"{{"type":"history","channel":"c",{fields}}}"#);
        assert_eq!(ok(&text).command, expected, "{text}");
    }
    for (text, field) in [
        (r#""type":"subscribe","recover":7"#, "recover"),
        (r#""type":"subscribe","recover":[7,9]"#, "recover"),
        (r#""type":"subscribe","recover":{"offset":7}"#, "recover"),
        (
            r#""type":"subscribe","recover":{"offset":-1,"epoch":1}"#,
            "recover",
        ),
        (r#""type":"history","limit":"5""#, "limit"),
        (r#""type":"history","limit":-5"#, "limit"),
        (r#""type":"history","since":5"#, "since"),
        (r#""type":"history","since":{"epoch":5}"#, "since"),
        (r#""type":"history","reverse":1"#, "reverse"),
    ] {
        let text = format!(r#"{{"id":1,"channel":"c",{text}}}"#);
        let refused = parse(Form::Json, text.as_bytes(), 255).unwrap_err();
        assert_eq!(
            (refused.code, refused.id),
            ("invalid_message", Some(b"1".as_slice()))
        );
        assert!(
            refused.error.contains(&format!("\"{field}\" must")),
            "{}",
            refused.error
        );
    }
    // Those who don't know a field don't mind it.
    assert_eq!(
        ok(r#"{"type":"ping","limit":"x","since":7}"#).command,
        Command::Ping
    );
}

#[test]
fn data_may_be_null() {
    let publish = ok(r#"{"type":"publish","channel":"c","data":null}"#);
    assert!(
        matches!(publish.command, Command::Publish { data: b"null", .. }),
        "{publish:?}"
    );
}

#[test]
fn refusals() {
    assert_eq!(refused("{"), "invalid_json");
    assert_eq!(refused(""), "invalid_json");
    assert_eq!(refused("{\"type\":\"ping\"} x"), "invalid_json");
    assert_eq!(refused("[]"), "invalid_message");
    assert_eq!(refused(r#"["ping",7,null,null,null]"#), "invalid_message");
    assert_eq!(refused("{}"), "invalid_message");
    assert_eq!(refused(r#"{"type":7}"#), "invalid_message");
    assert_eq!(refused(r#"{"type":"fly"}"#), "unknown_type");
    assert_eq!(refused(r#"{"type":"subscribe"}"#), "invalid_message");
    assert_eq!(
        refused(r#"{"type":"subscribe","channel":""}"#),
        "invalid_message"
    );
    assert_eq!(
        refused(r#"{"type":"subscribe","channel":"a\nb"}"#),
        "invalid_message"
    );
    assert_eq!(
        refused(r#"{"type":"publish","channel":"c"}"#),
        "invalid_message"
    );
    for id in ["1.5", "true", "[1]", "{}", "1e3"] {
        assert_eq!(
            refused(&format!(r#"{{"type":"ping","id":{id}}}"#)),
            "invalid_message",
            "{id}"
        );
    }
    let long = format!(r#"{{"type":"subscribe","channel":"{}"}}"#, "x".repeat(256));
    assert_eq!(refused(&long), "invalid_message");
    assert_eq!(refused("7"), "invalid_message");
    let error = parse(Form::Json, br#"{"type":"fly","id":7}"#, 255).unwrap_err();
    assert_eq!(
        error.id,
        Some(b"7".as_slice()),
        "the id comes back with the error"
    );
}

#[test]
fn answers() {
    let mut out = Vec::new();
    let id = Some(b"7".as_slice());
    write_error(&mut out, Form::Json, "unknown_type", "no \"fly\"", id);
    assert_eq!(
        out,
        br#"{"type":"error","code":"unknown_type","error":"no \"fly\"","id":7}"#
    );
}

// ---- the same as MessagePack -----------------------------------------------------------------------

/// A JSON document as MessagePack, by another writer. It has no integers beyond 64 bits.
fn msgpack(json: &serde_json::Value) -> rmpv::Value {
    use serde_json::Value;
    match json {
        Value::Null => rmpv::Value::Nil,
        Value::Bool(value) => (*value).into(),
        Value::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
            (Some(value), ..) => value.into(),
            (_, Some(value), _) => value.into(),
            (.., value) => value.unwrap_or_default().into(),
        },
        Value::String(text) => text.as_str().into(),
        Value::Array(items) => rmpv::Value::Array(items.iter().map(msgpack).collect()),
        Value::Object(members) => rmpv::Value::Map(
            members
                .iter()
                .map(|(name, value)| (name.as_str().into(), msgpack(value)))
                .collect(),
        ),
    }
}

fn bytes_of(value: &rmpv::Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    rmpv::encode::write_value(&mut bytes, value).unwrap();
    bytes
}

fn map(fields: &[(&str, rmpv::Value)]) -> Vec<u8> {
    let field = |(name, value): &(&str, rmpv::Value)| ((*name).into(), value.clone());
    bytes_of(&rmpv::Value::Map(fields.iter().map(field).collect()))
}

fn read(bytes: &[u8]) -> Result<Envelope<'_>, Refused<'_>> {
    parse(Form::MessagePack, bytes, 255)
}

#[test]
fn ids_and_data_keep_their_bytes() {
    // Longer than they had to be: 7 in eight bytes, a string with a length of four.
    let id = b"\xcf\0\0\0\0\0\0\0\x07";
    let data = b"\xdb\0\0\0\x02hi";
    let mut bytes = b"\x84\xa2id".to_vec();
    bytes.extend_from_slice(id);
    bytes.extend_from_slice(b"\xa4type\xa7publish\xa7channel\xa1c\xa4data");
    bytes.extend_from_slice(data);
    let publish = read(&bytes).unwrap();
    assert_eq!(publish.id, Some(id.as_slice()));
    assert!(matches!(publish.command, Command::Publish { data: found, .. } if found == data));
}

#[test]
fn ids_are_strings_and_integers() {
    let long = |bytes: usize| rmpv::Value::from("x".repeat(bytes));
    // A string of 254 bytes has a head of two.
    for id in [0.into(), (-1).into(), u64::MAX.into(), "".into(), long(254)] {
        let bytes = map(&[("type", "ping".into()), ("id", id.clone())]);
        assert_eq!(read(&bytes).unwrap().id, Some(bytes_of(&id).as_slice()));
    }
    let none = map(&[("type", "ping".into()), ("id", rmpv::Value::Nil)]);
    assert_eq!(read(&none).unwrap().id, None);
    for id in [
        1.5.into(),
        true.into(),
        rmpv::Value::Array(vec![]),
        rmpv::Value::Binary(vec![1]),
        long(255),
        rmpv::decode::read_value(&mut b"\xa1\xff".as_slice()).unwrap(),
    ] {
        let bytes = map(&[("type", "ping".into()), ("id", id)]);
        let refused = read(&bytes).unwrap_err();
        assert_eq!((refused.code, refused.id), ("invalid_message", None));
        assert!(refused.error.starts_with("\"id\" must be"), "{refused:?}");
    }
}

#[test]
fn what_is_not_msgpack_says_where() {
    for (bytes, words) in [
        (b"".as_slice(), "begins at byte 0"),
        (b"\x81", "begins at byte 1"),
        (b"\x81\xa4type\xa4pin", "begins at byte 6"),
        (b"\x81\xa4type\xc1", "byte 6 is 0xc1"),
        (b"\x81\xa4type\xa4ping\x01", "from byte 11 on"),
        (b"\x81\xa4data\x92\x01", "begins at byte 8"),
        (b"\xdf\xff\xff\xff\xff", "begins at byte 5"),
        (b"\x01\x01", "from byte 1 on"),
    ] {
        let Refused { code, error, id } = read(bytes).unwrap_err();
        assert_eq!((code, id), ("invalid_msgpack", None), "{bytes:x?}");
        assert!(
            error.starts_with("not MessagePack: ") && error.contains(words),
            "{error}"
        );
    }
}

#[test]
fn what_is_no_command_is_named() {
    let id = ("id", rmpv::Value::from(1));
    let binary = || rmpv::Value::Binary(b"ping".to_vec());
    for (bytes, words) in [
        (
            map(&[id.clone(), ("type", 7.into())]),
            "\"type\" must be a string, not a number",
        ),
        (
            map(&[id.clone(), ("type", binary())]),
            "\"type\" must be a string, not binary data",
        ),
        (
            map(&[id.clone(), ("echo", 1.into())]),
            "\"echo\" must be true or false, not a number",
        ),
        (
            map(&[id.clone(), id.clone(), ("type", 7.into())]),
            "\"id\" is there more than once",
        ),
        (
            map(&[("type", 1.into()), ("type", 1.into()), id.clone()]),
            "\"type\" is there more than once",
        ),
        (map(std::slice::from_ref(&id)), "\"type\" is missing"),
        (
            map(&[
                id.clone(),
                ("type", "publish".into()),
                ("channel", "c".into()),
            ]),
            "needs \"data\"",
        ),
        (
            b"\x82\xa2id\x01\xa7channel\xa1\xff".to_vec(),
            "\"channel\" is not UTF-8",
        ),
    ] {
        let refused = read(&bytes).unwrap_err();
        assert_eq!(refused.code, "invalid_message");
        assert!(refused.error.contains(words), "{}", refused.error);
        let expected = (!words.contains("\"id\"")).then_some(b"\x01".as_slice());
        assert_eq!(refused.id, expected, "{words}");
    }
    for (bytes, words) in [
        (b"\x90".as_slice(), "not an array"),
        (b"\xa1x", "not a string"),
        (b"\x07", "not a number"),
        (b"\xc4\x01x", "not binary data"),
    ] {
        let refused = read(bytes).unwrap_err();
        assert_eq!((refused.code, refused.id), ("invalid_message", None));
        assert!(refused.error.contains(words), "{}", refused.error);
    }
}

#[test]
fn other_fields_are_skipped() {
    use rmpv::Value;
    // Keys that no JSON has, and values that could not be published.
    let deep = (0..1000).fold(Value::Nil, |inner, _| Value::Array(vec![inner]));
    let bytes = bytes_of(&Value::Map(vec![
        (7.into(), 1.into()),
        (Value::Nil, Value::Map(vec![(Value::Nil, Value::Nil)])),
        (Value::Array(vec![1.into()]), "x".into()),
        (Value::Binary(b"type".to_vec()), 1.into()),
        ("x".into(), 1.into()),
        ("x".into(), deep.clone()),
        ("type".into(), "ping".into()),
        ("limit".into(), "x".into()),
        ("data".into(), deep),
    ]));
    assert_eq!(read(&bytes).unwrap().command, Command::Ping);
}

#[test]
fn data_that_cannot_be_published_is_refused_by_those_who_would() {
    use rmpv::Value;
    let deep = (0..101).fold(Value::Nil, |inner, _| Value::Array(vec![inner]));
    for (data, words) in [
        (Value::Map(vec![(Value::Nil, 1.into())]), "key is null"),
        (
            Value::Map(vec![(1.5.into(), 1.into())]),
            "key is a number with a fraction",
        ),
        (deep, "more than 100 deep"),
    ] {
        for (kind, other) in [("publish", "channel"), ("direct", "to"), ("broadcast", "x")] {
            // The id comes back from behind, too.
            let bytes = map(&[
                ("type", kind.into()),
                (other, "c".into()),
                ("data", data.clone()),
                ("id", 1.into()),
            ]);
            let refused = read(&bytes).unwrap_err();
            assert_eq!(
                (refused.code, refused.id),
                ("invalid_message", Some(b"\x01".as_slice()))
            );
            assert!(refused.error.contains(words), "{}", refused.error);
        }
    }
}

// ---- both ------------------------------------------------------------------------------------------

#[test]
fn keys_and_batches() {
    let long = "é".repeat(32);
    for (key, allowed) in [
        (serde_json::json!("price"), true),
        ("a\"b".into(), true),
        (long.clone().into(), true),
        ((long + "x").into(), false),
        ("".into(), false),
        ("a\nb".into(), false),
        (7.into(), false),
    ] {
        let message = serde_json::json!({"type": "publish", "channel": "c", "data": 1, "key": key});
        let (text, bytes) = (message.to_string(), bytes_of(&msgpack(&message)));
        for read in [parse(Form::Json, text.as_bytes(), 255), read(&bytes)] {
            match read {
                Ok(envelope) => {
                    let Command::Publish { key: found, .. } = envelope.command else {
                        panic!("{text}");
                    };
                    assert!(allowed, "{text}");
                    assert_eq!(found.as_deref(), key.as_str());
                }
                Err(refused) => {
                    assert!(!allowed, "{text}");
                    assert_eq!(refused.code, "invalid_message");
                    assert!(
                        refused
                            .error
                            .contains("\"key\" must be a string of 1 to 64")
                    );
                }
            }
        }
    }
    for (batch, expected) in [("true", true), ("false", false), ("null", false)] {
        let text = format!(r#"{{"type":"subscribe","channel":"c","batch":{batch}}}"#);
        let subscribe = Command::Subscribe {
            channel: "c".into(),
            recover: None,
            batch: expected,
        };
        assert_eq!(ok(&text).command, subscribe);
    }
    assert_eq!(
        refused(r#"{"type":"subscribe","channel":"c","batch":1}"#),
        "invalid_message"
    );
}

/// Commands, more or less: known fields with values that fit now and then.
fn messages() -> impl Strategy<Value = serde_json::Value> {
    use serde_json::json;
    let kinds = vec![
        "connect",
        "subscribe",
        "unsubscribe",
        "publish",
        "message",
        "direct",
        "broadcast",
        "history",
        "presence",
        "presence_stats",
        "ping",
        "pong",
        "auth",
        "fly",
    ];
    let values = prop::sample::select(vec![
        json!(null),
        json!(true),
        json!(false),
        json!(0),
        json!(7),
        json!(-7),
        json!(1.5),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(""),
        json!("text"),
        json!("a\n"),
        json!([]),
        json!([1, 2]),
        json!({}),
        json!({"offset": 3}),
        json!({"offset": 3, "epoch": 9, "x": []}),
        json!({"offset": 3, "epoch": null}),
        json!({"offset": -3}),
        json!({"offset": "3"}),
        json!({"epoch": 3}),
        json!("x".repeat(129)),
        json!("x".repeat(256)),
    ]);
    let names = vec![
        "type", "id", "channel", "data", "echo", "to", "recover", "limit", "since", "reverse",
        "cursor", "key", "batch", "other",
    ];
    let fields = prop::collection::vec((prop::sample::select(names), values.clone()), 0..8);
    let object = (prop::sample::select(kinds), fields).prop_map(|(kind, fields)| {
        let mut object = serde_json::Map::new();
        object.insert("type".into(), kind.into());
        object.insert("channel".into(), "c".into());
        object.extend(
            fields
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value)),
        );
        serde_json::Value::Object(object)
    });
    prop_oneof![1 => values, 20 => object]
}

/// What is the same whatever the form: the command with its data as JSON, and the words of a refusal.
fn meaning(form: Form, read: Result<Envelope<'_>, Refused<'_>>) -> String {
    let json = |bytes: &[u8]| {
        let mut out = Vec::new();
        match form {
            Form::Json => out.extend_from_slice(bytes),
            Form::MessagePack => crate::session::data::write_json(bytes, &mut out),
        }
        String::from_utf8(out).unwrap()
    };
    match read {
        Ok(Envelope { id, command }) => {
            let id = id.map(json);
            let (Command::Publish { data, .. }
            | Command::Direct { data, .. }
            | Command::Broadcast { data, .. }) = &command
            else {
                return format!("{id:?} {command:?}");
            };
            let data = json(data);
            let command = match command.clone() {
                Command::Publish {
                    channel, echo, key, ..
                } => Command::Publish {
                    channel,
                    data: b"",
                    echo,
                    key,
                },
                Command::Direct { to, .. } => Command::Direct { to, data: b"" },
                Command::Broadcast { echo, .. } => Command::Broadcast { data: b"", echo },
                other => other,
            };
            format!("{id:?} {command:?} {data}")
        }
        Err(Refused { code, error, id }) => {
            let error = error.replace("MessagePack map", "JSON object");
            format!("{code} {error} {:?}", id.map(json))
        }
    }
}

proptest! {
    #[test]
    fn both_forms_mean_the_same(message in messages()) {
        let (text, bytes) = (message.to_string(), bytes_of(&msgpack(&message)));
        prop_assert_eq!(
            meaning(Form::Json, parse(Form::Json, text.as_bytes(), 255)),
            meaning(Form::MessagePack, parse(Form::MessagePack, &bytes, 255)),
            "{}", text
        );
    }

    #[test]
    fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for form in Form::ALL {
            if let Err(refused) = parse(form, &bytes, 255) {
                prop_assert!(!refused.error.is_empty());
            }
        }
    }

    #[test]
    fn bytes_of_a_command_that_were_changed_are_answered(
        message in messages(), at: prop::sample::Index, byte: u8, cut: prop::sample::Index,
    ) {
        let mut bytes = bytes_of(&msgpack(&message));
        let at = at.index(bytes.len());
        bytes[at] = byte;
        bytes.truncate(cut.index(bytes.len()) + 1);
        if let Err(refused) = read(&bytes) {
            prop_assert!(!refused.error.is_empty());
        }
    }

    #[test]
    fn errors_can_be_read(code in ".*", error in ".*") {
        let mut out = Vec::new();
        write_error(&mut out, Form::Json, &code, &error, Some(b"\"i\""));
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        prop_assert_eq!(value["code"].as_str(), Some(code.as_str()));
        prop_assert_eq!(value["error"].as_str(), Some(error.as_str()));
    }
}
