//! What subscribers of both forms are sent.

use super::*;
use meta::Meta;
use rmpv::Value;

/// What was written, read by a reader that is not ours: JSON as it is, MessagePack as its value.
#[derive(Debug, PartialEq)]
enum Frame {
    Json(String),
    MessagePack(Value),
}

fn frame(kind: Kind, payload: &[u8]) -> Frame {
    match kind {
        Kind::Text => Frame::Json(String::from_utf8(payload.to_vec()).unwrap()),
        Kind::Binary => {
            let mut rest = payload;
            let value = rmpv::decode::read_value(&mut rest).unwrap();
            assert!(rest.is_empty());
            Frame::MessagePack(value)
        }
    }
}

fn json(text: &str) -> Frame {
    Frame::Json(text.to_owned())
}

fn map(fields: Vec<(&str, Value)>) -> Value {
    let field = |(name, value): (&str, Value)| (name.into(), value);
    Value::Map(fields.into_iter().map(field).collect())
}

fn publication(form: Form, user: Option<&str>, key: Option<&str>, data: &[u8]) -> Publication {
    Meta { form, user, key }.publication(data)
}

fn published<'a>(
    form: Form,
    publication: &'a Publication,
    wildcard: Option<&'a str>,
) -> Published<'a> {
    Published {
        form: form.number(),
        channel: "news",
        wildcard,
        offset: 42,
        timestamp_ms: 1_764_000_000_123,
        publication,
    }
}

fn encode(form: Form, publication: &Publication, wildcard: Option<&str>) -> Frame {
    let mut payload = Vec::new();
    let kind = Session::new(&Config::default())
        .encode(&published(form, publication, wildcard), &mut payload);
    frame(kind, &payload)
}

#[test]
fn messages_go_out_in_the_form_of_who_hears_them() {
    let said = br#"{"a": 1.50}"#;
    let publication = publication(Form::Json, None, None, said);
    assert_eq!(
        encode(Form::Json, &publication, None),
        json(
            r#"{"type":"message","channel":"news","from":null,"data":{"a": 1.50},"offset":42,"timestamp":1764000000.123}"#
        )
    );
    let expected = map(vec![
        ("type", "message".into()),
        ("channel", "news".into()),
        ("from", Value::Nil),
        ("data", map(vec![("a", 1.5.into())])),
        ("offset", 42.into()),
        ("timestamp", 1_764_000_000.123.into()),
    ]);
    assert_eq!(
        encode(Form::MessagePack, &publication, None),
        Frame::MessagePack(expected)
    );
}

#[test]
fn users_keys_and_wildcards_are_named() {
    let publication = publication(
        Form::MessagePack,
        Some("4\"2"),
        Some("price"),
        b"\xc4\x01\xff",
    );
    assert_eq!(
        encode(Form::Json, &publication, Some("n*")),
        json(
            r#"{"type":"message","channel":"news","wildcard":"n*","from":"4\"2","data":{"$base64":"/w=="},"offset":42,"timestamp":1764000000.123,"key":"price"}"#
        )
    );
    let expected = map(vec![
        ("type", "message".into()),
        ("channel", "news".into()),
        ("wildcard", "n*".into()),
        ("from", "4\"2".into()),
        ("data", Value::Binary(vec![255])),
        ("offset", 42.into()),
        ("timestamp", 1_764_000_000.123.into()),
        ("key", "price".into()),
    ]);
    assert_eq!(
        encode(Form::MessagePack, &publication, Some("n*")),
        Frame::MessagePack(expected)
    );
}

fn batch(form: Form, wildcard: Option<&str>) -> Frame {
    let mut session = Session::new(&Config::default());
    let (mut entries, mut ends) = (Vec::new(), vec![0]);
    for number in 1..4 {
        let key = (number == 3).then_some("k");
        let publication = publication(Form::Json, None, key, number.to_string().as_bytes());
        session.encode_entry(&published(form, &publication, wildcard), &mut entries);
        ends.push(entries.len());
    }
    // One was its receiver's own.
    entries.drain(ends[0]..ends[1]);
    let batch = Batch {
        form: form.number(),
        channel: wildcard.unwrap_or("news"),
        wildcard: wildcard.is_some(),
        entries: &entries,
        count: 2,
    };
    let mut payload = Vec::new();
    let kind = Session::encode_batch(&batch, &mut payload);
    frame(kind, &payload)
}

#[test]
fn batches_carry_what_messages_do() {
    assert_eq!(
        batch(Form::Json, None),
        json(
            r#"{"type":"messages","channel":"news","messages":[{"from":null,"data":2,"offset":42,"timestamp":1764000000.123},{"from":null,"data":3,"offset":42,"timestamp":1764000000.123,"key":"k"}]}"#
        )
    );
    assert_eq!(
        batch(Form::Json, Some("n*")),
        json(
            r#"{"type":"messages","wildcard":"n*","messages":[{"channel":"news","from":null,"data":2,"offset":42,"timestamp":1764000000.123},{"channel":"news","from":null,"data":3,"offset":42,"timestamp":1764000000.123,"key":"k"}]}"#
        )
    );
    for (wildcard, name) in [(None, "channel"), (Some("n*"), "wildcard")] {
        let entry = |data: u64, key: bool| {
            let mut fields = vec![
                ("channel", "news".into()),
                ("from", Value::Nil),
                ("data", data.into()),
                ("offset", 42.into()),
                ("timestamp", 1_764_000_000.123.into()),
                ("key", "k".into()),
            ];
            fields.retain(|(field, _)| match *field {
                "channel" => wildcard.is_some(),
                "key" => key,
                _ => true,
            });
            map(fields)
        };
        let expected = map(vec![
            ("type", "messages".into()),
            (name, wildcard.unwrap_or("news").into()),
            (
                "messages",
                Value::Array(vec![entry(2, false), entry(3, true)]),
            ),
        ]);
        assert_eq!(
            batch(Form::MessagePack, wildcard),
            Frame::MessagePack(expected)
        );
    }
}

#[test]
fn who_lags_is_told_what_it_lost() {
    let encode = |form: Form, offset| {
        let dropped = Dropped {
            form: form.number(),
            channel: "news",
            count: 7,
            offset,
        };
        let mut payload = Vec::new();
        let kind = Session::encode_dropped(&dropped, &mut payload).expect("it is told");
        frame(kind, &payload)
    };
    assert_eq!(
        encode(Form::Json, Some(42)),
        json(r#"{"type":"dropped","channel":"news","count":7,"offset":42}"#)
    );
    assert_eq!(
        encode(Form::Json, None),
        json(r#"{"type":"dropped","wildcard":"news","count":7}"#)
    );
    let expected = map(vec![
        ("type", "dropped".into()),
        ("channel", "news".into()),
        ("count", 7.into()),
        ("offset", 42.into()),
    ]);
    assert_eq!(
        encode(Form::MessagePack, Some(42)),
        Frame::MessagePack(expected)
    );
}

#[test]
fn direct_messages_and_presence() {
    let mut session = Session::new(&Config::default());
    let mut direct = |form: Form, publication: &Publication, audience| {
        let mut payload = Vec::new();
        let kind = session.encode_direct(form.number(), publication, audience, &mut payload);
        frame(kind, &payload)
    };
    let publication = publication(Form::Json, Some("42"), None, b"[1]");
    assert_eq!(
        direct(Form::Json, &publication, Audience::Everyone),
        json(r#"{"type":"broadcast","from":"42","data":[1]}"#)
    );
    let expected = map(vec![
        ("type", "direct".into()),
        ("from", "42".into()),
        ("data", Value::Array(vec![1.into()])),
    ]);
    assert_eq!(
        direct(Form::MessagePack, &publication, Audience::User),
        Frame::MessagePack(expected)
    );
    let mut session = Session::new(&Config::default());
    let mut presence = |form: Form, event: &PresenceEvent| {
        let mut payload = Vec::new();
        let kind = session.encode_presence(form.number(), "room", event, &mut payload);
        frame(kind, &payload)
    };
    let join = PresenceEvent::Join("42".into());
    assert_eq!(
        presence(Form::Json, &join),
        json(r#"{"type":"join","channel":"room","user_id":"42"}"#)
    );
    let expected = map(vec![
        ("type", "join".into()),
        ("channel", "room".into()),
        ("user_id", "42".into()),
    ]);
    assert_eq!(
        presence(Form::MessagePack, &join),
        Frame::MessagePack(expected)
    );
}

#[test]
fn a_farewell_in_the_form_of_the_endpoint() {
    let farewell = |endpoint| {
        let mut payload = Vec::new();
        let kind = Session::farewell(endpoint, CloseCode::GOING_AWAY, "bye", &mut payload)?;
        Some(frame(kind, &payload))
    };
    assert_eq!(
        farewell(CHANNELS_JSON),
        Some(json(
            r#"{"type":"disconnect","code":1001,"reason":"bye","reconnect":true,"after_ms":1000}"#
        ))
    );
    let expected = map(vec![
        ("type", "disconnect".into()),
        ("code", 1001.into()),
        ("reason", "bye".into()),
        ("reconnect", true.into()),
        ("after_ms", 1000.into()),
    ]);
    assert_eq!(
        farewell(CHANNELS_MSGPACK),
        Some(Frame::MessagePack(expected))
    );
    assert_eq!(farewell(ECHO), None);
}

#[test]
fn endpoints_speak_the_form_that_the_engine_is_told() {
    let endpoints = Session::new(&Config::default()).endpoints();
    for (number, endpoint) in (0..).zip(endpoints) {
        let form = form_at(number).unwrap_or(Form::Json);
        assert_eq!(endpoint.form, form.number());
        assert_eq!(endpoint.hears_broadcasts, form_at(number).is_some());
    }
}
