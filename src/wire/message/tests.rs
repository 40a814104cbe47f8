//! The decoder rule by rule, then whatever a connection may bring, cut anywhere.

use super::*;
use crate::wire::close::{CloseCode, encode_close};
use crate::wire::frame::{encode, encode_masked};
use proptest::prelude::*;

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
const RULES: Rules = Rules {
    role: Role::Server,
    message_bytes: 1 << 20,
    fragments: 64,
};

/// An event that outlives its buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Said {
    Text(Vec<u8>),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
}

fn said(event: Event<'_>) -> Said {
    match event {
        Event::Message { kind, payload } => {
            let payload = payload.to_vec();
            match kind {
                Kind::Text => Said::Text(payload),
                Kind::Binary => Said::Binary(payload),
            }
        }
        Event::Ping(payload) => Said::Ping(payload.to_vec()),
        Event::Pong(payload) => Said::Pong(payload.to_vec()),
        Event::Close { code, reason } => Said::Close(code, reason.to_owned()),
    }
}

/// A connection that gets its input in pieces.
struct Reader {
    rules: Rules,
    carry: Carry,
    events: Vec<Said>,
    closed: bool,
    /// Stop after every event, instead of going on.
    stops: bool,
}

impl Reader {
    fn new(rules: Rules) -> Self {
        Self {
            rules,
            carry: None,
            events: Vec::new(),
            closed: false,
            stops: false,
        }
    }

    fn read(&mut self, piece: &[u8]) -> Result<(), WireError> {
        let mut input = piece.to_vec();
        let mut at = 0;
        loop {
            if self.closed {
                return Ok(());
            }
            let before = self.events.len();
            let (events, closed, stops) = (&mut self.events, &mut self.closed, self.stops);
            let mut on_event = |event: Event<'_>| {
                assert!(!*closed, "an event after a close");
                *closed |= matches!(event, Event::Close { .. });
                events.push(said(event));
                if stops { Flow::Stop } else { Flow::Continue }
            };
            let rest = &mut input[at..];
            let length = rest.len();
            let consumed = match decode(&mut self.carry, rest, &self.rules, &mut on_event) {
                Ok(consumed) => consumed,
                Err(error) => {
                    assert!(self.carry.is_none(), "an error keeps nothing");
                    return Err(error);
                }
            };
            assert!(consumed <= length);
            let fresh = self.events.len() - before;
            assert!(consumed == length || (self.stops && fresh == 1));
            assert!(!self.stops || fresh <= 1);
            at += consumed;
            if at == input.len() && (!self.stops || fresh == 0) {
                return Ok(());
            }
        }
    }
}

/// Events and error of one way to cut the input.
type Outcome = (Vec<Said>, Option<WireError>, usize);

fn outcome(rules: Rules, bytes: &[u8], cuts: &[usize], stops: bool) -> Outcome {
    let mut bounds = vec![0, bytes.len()];
    bounds.extend(cuts.iter().map(|cut| cut % (bytes.len() + 1)));
    bounds.sort_unstable();
    let mut reader = Reader::new(rules);
    reader.stops = stops;
    let mut error = None;
    for ends in bounds.windows(2) {
        if let Err(wrong) = reader.read(&bytes[ends[0]..ends[1]]) {
            error = Some(wrong);
            break;
        }
    }
    let missing = reader.carry.map_or(0, |partial| partial.remaining_hint());
    (reader.events, error, missing)
}

fn whole(rules: Rules, bytes: &[u8]) -> Outcome {
    outcome(rules, bytes, &[], false)
}

/// The same however it is cut: in every single place, and into single bytes.
fn everywhere(rules: Rules, bytes: &[u8]) -> Outcome {
    let expected = whole(rules, bytes);
    for cut in 0..=bytes.len() {
        assert_eq!(
            outcome(rules, bytes, &[cut], false),
            expected,
            "cut at {cut}"
        );
    }
    let all: Vec<usize> = (0..=bytes.len()).collect();
    assert_eq!(outcome(rules, bytes, &all, false), expected, "single bytes");
    assert_eq!(
        outcome(rules, bytes, &all, true),
        expected,
        "single bytes, stops"
    );
    assert_eq!(outcome(rules, bytes, &[], true), expected, "stops");
    expected
}

fn masked(frames: &[(Opcode, bool, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (opcode, fin, payload) in frames {
        encode_masked(&mut out, *opcode, *fin, payload, KEY);
    }
    out
}

fn fails(frames: &[(Opcode, bool, &[u8])]) -> WireError {
    everywhere(RULES, &masked(frames)).1.expect("an error")
}

#[test]
fn an_idle_connection_keeps_nothing() {
    let mut reader = Reader::new(RULES);
    reader.read(&[]).unwrap();
    assert!(reader.carry.is_none());
    reader
        .read(&masked(&[
            (Opcode::Text, true, b"whole"),
            (Opcode::Ping, true, b"p"),
            (Opcode::Text, false, b"two "),
            (Opcode::Continuation, true, b"fragments"),
        ]))
        .unwrap();
    assert!(reader.carry.is_none());
    let bytes = masked(&[(Opcode::Binary, true, &[7; 300])]);
    for cut in 1..bytes.len() {
        reader.read(&bytes[..cut]).unwrap();
        assert!(reader.carry.is_some());
        reader.read(&bytes[cut..]).unwrap();
        assert!(reader.carry.is_none(), "cut at {cut}");
    }
    for bytes in [
        masked(&[(Opcode::Ping, true, &[1; 125])]),
        masked(&[(Opcode::Pong, true, b"")]),
    ] {
        for cut in 1..bytes.len() {
            reader.read(&bytes[..cut]).unwrap();
            assert!(reader.carry.is_some());
            reader.read(&bytes[cut..]).unwrap();
            assert!(reader.carry.is_none(), "control frame, cut at {cut}");
        }
    }
    // A control frame's pieces inside a message go, the message stays.
    reader
        .read(&masked(&[(Opcode::Text, false, b"a")]))
        .unwrap();
    let held = reader.carry.as_ref().unwrap().held_bytes();
    let ping = masked(&[(Opcode::Ping, true, &[1; 125])]);
    for cut in 1..ping.len() {
        reader.read(&ping[..cut]).unwrap();
        reader.read(&ping[cut..]).unwrap();
        assert_eq!(reader.carry.as_ref().unwrap().held_bytes(), held);
    }
}

#[test]
fn control_frames_between_fragments() {
    let bytes = masked(&[
        (Opcode::Text, false, "gr\u{fc}\u{df}".as_bytes()),
        (Opcode::Ping, true, b"between"),
        (Opcode::Continuation, false, b""),
        (Opcode::Pong, true, b""),
        (Opcode::Continuation, true, b" Gott"),
        (Opcode::Binary, true, b""),
        (Opcode::Close, true, b"\x03\xe8done"),
        (Opcode::Text, true, b"never read"),
    ]);
    let (events, error, _) = everywhere(RULES, &bytes);
    assert_eq!(error, None);
    assert_eq!(
        events,
        [
            Said::Ping(b"between".to_vec()),
            Said::Pong(Vec::new()),
            Said::Text("gr\u{fc}\u{df} Gott".into()),
            Said::Binary(Vec::new()),
            Said::Close(Some(1000), "done".to_owned()),
        ]
    );
}

#[test]
fn fragments_follow_the_order_of_section_5_4() {
    assert_eq!(
        fails(&[(Opcode::Continuation, true, b"x")]),
        WireError::NothingToContinue
    );
    assert_eq!(
        fails(&[
            (Opcode::Text, true, b"x"),
            (Opcode::Continuation, false, b"x")
        ]),
        WireError::NothingToContinue
    );
    for opcode in [Opcode::Text, Opcode::Binary] {
        for fin in [false, true] {
            assert_eq!(
                fails(&[(Opcode::Text, false, b"x"), (opcode, fin, b"y")]),
                WireError::MessageIncomplete
            );
        }
    }
}

#[test]
fn a_message_too_big_fails_with_its_header() {
    let rules = Rules {
        message_bytes: 1000,
        ..RULES
    };
    let limit = WireError::MessageTooBig { limit: 1000 };
    assert_eq!(limit.close_code(), CloseCode::MESSAGE_TOO_BIG);

    let exact = masked(&[(Opcode::Binary, true, &[1; 1000])]);
    assert_eq!(everywhere(rules, &exact).0, [Said::Binary(vec![1; 1000])]);
    // Only the header of a longer one.
    let long = masked(&[(Opcode::Binary, true, &[1; 1001])]);
    assert_eq!(everywhere(rules, &long[..8]).1, Some(limit));
    // All fragments count.
    let mut bytes = masked(&[(Opcode::Text, false, &[b'a'; 600])]);
    bytes.extend(&masked(&[(Opcode::Continuation, true, &[b'b'; 401])])[..8]);
    assert_eq!(everywhere(rules, &bytes).1, Some(limit));
    // The largest declared length overflows nothing.
    let huge = [
        0x82, 0xff, 0x7f, 255, 255, 255, 255, 255, 255, 255, 1, 2, 3, 4,
    ];
    assert_eq!(everywhere(rules, &huge).1, Some(limit));
    let mut bytes = masked(&[(Opcode::Binary, false, &[1; 600])]);
    bytes.extend([0x80]);
    bytes.extend(&huge[1..]);
    assert_eq!(everywhere(rules, &bytes).1, Some(limit));
    // Control frames are no part of the message.
    let rules = Rules {
        message_bytes: 0,
        ..RULES
    };
    let bytes = masked(&[(Opcode::Ping, true, &[1; 125]), (Opcode::Text, true, b"")]);
    assert_eq!(everywhere(rules, &bytes).0.len(), 2);
}

#[test]
fn fragments_are_limited() {
    let rules = Rules {
        fragments: 3,
        ..RULES
    };
    let mut frames: Vec<(Opcode, bool, &[u8])> = vec![
        (Opcode::Binary, false, b"a"),
        (Opcode::Ping, true, b""),
        (Opcode::Continuation, false, b"b"),
        (Opcode::Continuation, true, b"c"),
    ];
    let (events, error, _) = everywhere(rules, &masked(&frames));
    assert_eq!((events.len(), error), (2, None));
    frames[3].1 = false;
    frames.push((Opcode::Continuation, true, b""));
    let error = everywhere(rules, &masked(&frames)).1;
    assert_eq!(error, Some(WireError::TooManyFragments { limit: 3 }));
}

#[test]
fn text_fails_at_its_first_wrong_byte() {
    // A frame of 1,000 bytes whose second byte is wrong: nothing more is needed.
    let bytes = masked(&[(
        Opcode::Text,
        true,
        &[&b"\xf4\x90"[..], &[b'a'; 998]].concat(),
    )]);
    let header = bytes.len() - 1000;
    let mut reader = Reader::new(RULES);
    reader.read(&bytes[..=header]).unwrap();
    assert_eq!(
        reader.read(&bytes[header + 1..header + 2]),
        Err(WireError::InvalidUtf8)
    );
    assert_eq!(everywhere(RULES, &bytes[..header + 1]).1, None);
    assert_eq!(
        everywhere(RULES, &bytes[..header + 2]).1,
        Some(WireError::InvalidUtf8)
    );

    for wrong in [&b"\xff"[..], b"\xed\xa0\x80", b"caf\xc3"] {
        assert_eq!(
            fails(&[(Opcode::Text, true, wrong)]),
            WireError::InvalidUtf8
        );
        assert_eq!(
            fails(&[
                (Opcode::Text, false, wrong),
                (Opcode::Continuation, true, b"")
            ]),
            WireError::InvalidUtf8
        );
    }
    // A character cut by fragments, with a control frame inside it.
    let bytes = masked(&[
        (Opcode::Text, false, b"\xf0\x9f"),
        (Opcode::Ping, true, b"\xff"),
        (Opcode::Continuation, true, b"\xa6\x80"),
    ]);
    assert_eq!(everywhere(RULES, &bytes).0[1], Said::Text("🦀".into()));
    // Binary is any bytes.
    let bytes = masked(&[(Opcode::Binary, true, b"\xff\xfe")]);
    assert_eq!(
        everywhere(RULES, &bytes).0,
        [Said::Binary(vec![0xff, 0xfe])]
    );
}

#[test]
fn close_frames_are_checked() {
    let close = |payload: &[u8]| everywhere(RULES, &masked(&[(Opcode::Close, true, payload)]));
    assert_eq!(close(b"").0, [Said::Close(None, String::new())]);
    assert_eq!(close(b"\x03").1, Some(WireError::CloseLength));
    assert_eq!(close(b"\x03\xee").1, Some(WireError::CloseCode(1006)));
    assert_eq!(close(b"\x03\xe8\xc3").1, Some(WireError::CloseReason));
    assert_eq!(
        close(b"\x0f\xa0bye").0,
        [Said::Close(Some(4000), "bye".to_owned())]
    );
}

#[test]
fn headers_are_checked_however_they_are_cut() {
    for (bytes, error) in [
        (&[0xc1, 0x80][..], WireError::ReservedBits),
        (&[0x83], WireError::ReservedOpcode(3)),
        (&[0x81, 0x05], WireError::Unmasked),
        (&[0x09, 0x80], WireError::ControlFragmented),
        (&[0x89, 0xfe, 0, 126], WireError::ControlTooLong),
        (
            &[0x82, 0xfe, 0, 125, 1, 2, 3, 4],
            WireError::LengthNotMinimal,
        ),
        (
            &[0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0],
            WireError::LengthTopBit,
        ),
    ] {
        assert_eq!(everywhere(RULES, bytes).1, Some(error));
        // Also inside a message, and behind a whole frame.
        let mut inside = masked(&[(Opcode::Text, true, b"x"), (Opcode::Binary, false, b"y")]);
        inside.extend(bytes);
        assert_eq!(everywhere(RULES, &inside).1, Some(error));
    }
}

#[test]
fn stopping_leaves_the_rest_untouched() {
    let bytes = masked(&[(Opcode::Text, true, b"one"), (Opcode::Text, true, b"two")]);
    let mut input = bytes.clone();
    let mut carry = None;
    let consumed = decode(&mut carry, &mut input, &RULES, &mut |_| Flow::Stop).unwrap();
    assert_eq!(consumed, bytes.len() / 2);
    assert_eq!(input[consumed..], bytes[consumed..]);
    assert!(carry.is_none());
}

#[test]
fn whole_frames_are_handed_out_from_the_input() {
    let mut input = masked(&[
        (Opcode::Text, true, b"in place"),
        (Opcode::Ping, true, b"p"),
    ]);
    let range = input.as_ptr_range();
    let mut seen = 0;
    decode(&mut None, &mut input, &RULES, &mut |event| {
        let (Event::Message { payload, .. } | Event::Ping(payload)) = event else {
            panic!("{event:?}")
        };
        assert!(range.contains(&payload.as_ptr()));
        seen += 1;
        Flow::Continue
    })
    .unwrap();
    assert_eq!(seen, 2);
}

/// A header that was cut off costs no copy of the payload behind it.
#[test]
fn a_cut_header_does_not_copy_the_payload() {
    let bytes = masked(&[(Opcode::Binary, true, &[5; 200])]);
    let mut carry = None;
    decode(&mut carry, &mut bytes[..3].to_vec(), &RULES, &mut |_| {
        Flow::Stop
    })
    .unwrap();
    let mut input = bytes[3..].to_vec();
    let range = input.as_ptr_range();
    let mut inside = false;
    decode(&mut carry, &mut input, &RULES, &mut |event| {
        inside =
            matches!(event, Event::Message { payload, .. } if range.contains(&payload.as_ptr()));
        Flow::Continue
    })
    .unwrap();
    assert!(inside);
}

#[test]
fn memory_follows_what_was_received() {
    let rules = Rules {
        message_bytes: 16 << 20,
        ..RULES
    };
    let small = size_of::<Partial>();
    assert!(small <= 160, "{small}");
    let mut declared = vec![0x82, 0xff];
    declared.extend((16u64 << 20).to_be_bytes());
    declared.extend(KEY);
    let mut reader = Reader::new(rules);
    reader.read(&declared).unwrap();
    let partial = reader.carry.as_ref().unwrap();
    assert_eq!(
        partial.held_bytes(),
        small,
        "a declared length takes nothing"
    );
    assert_eq!(partial.remaining_hint(), 16 << 20);

    let mut received = 0;
    for piece in [1, 10, 1000, 2048, 60_000, 65_536, 1 << 20, 4 << 20] {
        reader.read(&vec![0; piece]).unwrap();
        received += piece;
        let partial = reader.carry.as_ref().unwrap();
        assert!(partial.held_bytes() <= small + 4 * received);
        assert!(partial.held_bytes() <= small + (2 * received).max(EAGER_BYTES));
        assert_eq!(partial.remaining_hint(), (16 << 20) - received);
    }
    reader.read(&vec![0; (16 << 20) - received]).unwrap();
    assert!(reader.carry.is_none());
    assert!(matches!(&reader.events[..], [Said::Binary(payload)] if payload.len() == 16 << 20));

    // The buffer of a whole message never exceeds it.
    let bytes = masked(&[(Opcode::Binary, true, &[1; 5000])]);
    reader.read(&bytes[..2000]).unwrap();
    assert_eq!(reader.carry.as_ref().unwrap().held_bytes(), small + 5000);
}

/// Growing by fragments reallocates a logarithmic number of times.
#[test]
fn many_fragments_do_not_copy_quadratically() {
    let rules = Rules {
        fragments: u32::MAX,
        ..RULES
    };
    let mut reader = Reader::new(rules);
    let mut capacities = std::collections::BTreeSet::new();
    for at in 0..1000 {
        let opcode = if at == 0 {
            Opcode::Text
        } else {
            Opcode::Continuation
        };
        reader
            .read(&masked(&[(opcode, false, &[b'x'; 1000])]))
            .unwrap();
        capacities.insert(reader.carry.as_ref().unwrap().held_bytes());
    }
    assert!(capacities.len() < 12, "{capacities:?}");
}

/// One frame of a conversation.
#[derive(Clone, Debug)]
enum Item {
    Message {
        text: bool,
        payload: Vec<u8>,
        /// Where fragments end, modulo the length.
        cuts: Vec<usize>,
        /// Control frames between them.
        between: Vec<(bool, Vec<u8>)>,
    },
    Control(bool, Vec<u8>),
}

fn control_payload() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..=125)
}

fn items() -> impl Strategy<Value = Vec<Item>> {
    let payload = prop_oneof![
        4 => any::<String>().prop_map(|text| (true, text.into_bytes())),
        4 => proptest::collection::vec(any::<u8>(), 0..200).prop_map(|bytes| (false, bytes)),
        1 => (0usize..70_000).prop_map(|length| (length % 2 == 0, vec![b'x'; length])),
    ];
    let message = (
        payload,
        prop_oneof![
            Just(Vec::new()),
            proptest::collection::vec(0usize..100_000, 1..5)
        ],
        proptest::collection::vec((any::<bool>(), control_payload()), 0..3),
    );
    let item = prop_oneof![
        3 => message.prop_map(|((text, payload), cuts, between)| Item::Message {
            text, payload, cuts, between,
        }),
        1 => (any::<bool>(), control_payload()).prop_map(|(ping, payload)| Item::Control(ping, payload)),
    ];
    proptest::collection::vec(item, 0..6)
}

/// The traffic as tungstenite encodes it, and what it says.
fn traffic(
    items: &[Item],
    role: Role,
    key: [u8; 4],
    close: Option<(u16, &str)>,
) -> (Vec<u8>, Vec<Said>) {
    use tungstenite::protocol::frame::coding::{Data, OpCode};
    use tungstenite::protocol::frame::{CloseFrame, Frame};
    let mut out = Vec::new();
    let mut expected = Vec::new();
    let mut put = |mut frame: Frame| {
        frame.header_mut().mask = (role == Role::Server).then_some(key);
        frame.format(&mut out).unwrap();
    };
    let control = |ping: bool, payload: &[u8], put: &mut dyn FnMut(Frame)| {
        let payload = payload.to_vec();
        if ping {
            put(Frame::ping(payload.clone()));
            Said::Ping(payload)
        } else {
            put(Frame::pong(payload.clone()));
            Said::Pong(payload)
        }
    };
    for item in items {
        match item {
            Item::Control(ping, payload) => expected.push(control(*ping, payload, &mut put)),
            Item::Message {
                text,
                payload,
                cuts,
                between,
            } => {
                let mut ends: Vec<usize> =
                    cuts.iter().map(|cut| cut % (payload.len() + 1)).collect();
                ends.sort_unstable();
                ends.push(payload.len());
                let mut start = 0;
                let mut between = between.iter();
                for (at, &end) in ends.iter().enumerate() {
                    let data = match (at, *text) {
                        (0, true) => Data::Text,
                        (0, false) => Data::Binary,
                        _ => Data::Continue,
                    };
                    let last = at + 1 == ends.len();
                    put(Frame::message(
                        payload[start..end].to_vec(),
                        OpCode::Data(data),
                        last,
                    ));
                    start = end;
                    if !last && let Some((ping, payload)) = between.next() {
                        expected.push(control(*ping, payload, &mut put));
                    }
                }
                let payload = payload.clone();
                expected.push(if *text {
                    Said::Text(payload)
                } else {
                    Said::Binary(payload)
                });
            }
        }
    }
    if let Some((code, reason)) = close {
        put(Frame::close(Some(CloseFrame {
            code: code.into(),
            reason: reason.into(),
        })));
        expected.push(Said::Close(Some(code), reason.to_owned()));
    }
    (out, expected)
}

fn roles() -> impl Strategy<Value = Role> {
    proptest::sample::select(vec![Role::Server, Role::Client])
}

fn cuts() -> impl Strategy<Value = Vec<usize>> {
    proptest::collection::vec(any::<usize>(), 0..12)
}

/// A stream that takes what is written to it and forgets it.
struct ReadOnly<R>(R);

impl<R: std::io::Read> std::io::Read for ReadOnly<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer)
    }
}

impl<R> std::io::Write for ReadOnly<R> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// tungstenite's traffic says what it should, however it is cut.
    #[test]
    fn valid_traffic_cut_anywhere(
        items in items(), role in roles(), key: [u8; 4], cuts in cuts(), stops: bool,
        close in proptest::option::of(proptest::sample::select(vec![1000u16, 1001, 3000, 4999])),
    ) {
        let (bytes, expected) = traffic(&items, role, key, close.map(|code| (code, "so long")));
        let rules = Rules { role, ..RULES };
        prop_assert_eq!(whole(rules, &bytes), (expected.clone(), None, 0));
        prop_assert_eq!(outcome(rules, &bytes, &cuts, stops), (expected, None, 0));
    }

    /// Traffic with wrong bytes fails in the same place with the same error, however it is cut.
    #[test]
    fn damaged_traffic_cut_anywhere(
        items in items(), role in roles(), key: [u8; 4], cuts in cuts(), stops: bool,
        damage in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..4),
    ) {
        let (mut bytes, _) = traffic(&items, role, key, Some((1000, "")));
        for (at, change) in damage {
            let at = at % bytes.len();
            bytes[at] ^= change;
        }
        for rules in [Rules { role, ..RULES }, Rules { role, message_bytes: 100, fragments: 3 }] {
            prop_assert_eq!(outcome(rules, &bytes, &cuts, stops), whole(rules, &bytes));
        }
    }

    #[test]
    fn random_bytes_cut_anywhere(
        bytes in proptest::collection::vec(any::<u8>(), 0..400), role in roles(), cuts in cuts(), stops: bool,
    ) {
        let rules = Rules { role, ..RULES };
        prop_assert_eq!(outcome(rules, &bytes, &cuts, stops), whole(rules, &bytes));
    }

    /// What this module's encoder writes, tungstenite reads.
    #[test]
    fn tungstenite_reads_what_we_write(items in items()) {
        use tungstenite::protocol::{Role as TheirRole, WebSocket};
        use tungstenite::Message;
        let mut out = Vec::new();
        let mut expected = Vec::new();
        for item in &items {
            let (opcode, payload, said) = match item.clone() {
                Item::Message { text: true, payload, .. } => (Opcode::Text, payload.clone(), Said::Text(payload)),
                Item::Message { text: false, payload, .. } => (Opcode::Binary, payload.clone(), Said::Binary(payload)),
                Item::Control(true, payload) => (Opcode::Ping, payload.clone(), Said::Ping(payload)),
                Item::Control(false, payload) => (Opcode::Pong, payload.clone(), Said::Pong(payload)),
            };
            encode(&mut out, opcode, &payload);
            expected.push(said);
        }
        encode_close(&mut out, CloseCode::GOING_AWAY, "server shutting down");
        expected.push(Said::Close(Some(1001), "server shutting down".to_owned()));
        // Its pongs must not go where it still reads.
        let stream = std::io::Cursor::new(out);
        let mut socket = WebSocket::from_raw_socket(ReadOnly(stream), TheirRole::Client, None);
        for expected in expected {
            let read = match socket.read().unwrap() {
                Message::Text(text) => Said::Text(text.as_bytes().to_vec()),
                Message::Binary(bytes) => Said::Binary(bytes.to_vec()),
                Message::Ping(bytes) => Said::Ping(bytes.to_vec()),
                Message::Pong(bytes) => Said::Pong(bytes.to_vec()),
                Message::Close(Some(frame)) => Said::Close(Some(frame.code.into()), frame.reason.to_string()),
                other => panic!("{other:?}"),
            };
            prop_assert_eq!(read, expected);
        }
    }
}
