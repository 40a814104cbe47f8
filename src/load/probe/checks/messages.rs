//! What is sent comes back.

use super::super::check::{Check, Needs, Passed, Problem, Verdict};
use super::super::connection::{Received, closed, difference, random_key, show};
use super::super::context::Context;
use super::super::options::SIZE_BYTES;
use super::super::report::round_ms;
use crate::wire::frame::{Opcode, encode_masked};
use crate::wire::message::Kind;
use serde_json::json;
use std::time::Instant;

/// Messages that are sent without waiting.
const RAPID: usize = 1_000;
/// How large each of them is, in bytes.
const RAPID_BYTES: usize = 64;
/// The smaller of the large messages, in bytes.
const LARGE_BYTES: u64 = 64 * 1024;

const fn echo(
    name: &'static str,
    about: &'static str,
    source: &'static str,
    run: fn(&Context<'_>) -> Verdict,
) -> Check {
    Check {
        name,
        group: "messages",
        about,
        source,
        needs: Needs::Echo,
        run: Some(run),
    }
}

pub(super) const CHECKS: &[Check] = &[
    echo(
        "text",
        "a text message comes back as it was",
        "RFC 6455 section 5.6",
        |context| one(context, Kind::Text, b"Hello, WebSocket."),
    ),
    echo(
        "utf8",
        "text beyond ASCII comes back byte for byte: 1 to 4 bytes per character, NUL, combining marks",
        "RFC 6455 sections 5.6, 8.1",
        |context| one(context, Kind::Text, UTF8.as_bytes()),
    ),
    echo(
        "binary",
        "a binary message with all 256 bytes comes back as binary",
        "RFC 6455 section 5.6",
        binary,
    ),
    echo(
        "empty",
        "empty messages, text and binary, come back",
        "RFC 6455 section 5.6",
        empty,
    ),
    echo(
        "json",
        "a JSON text comes back byte for byte: spaces, escapes, order, digits of numbers",
        "RFC 6455 section 5.6",
        |context| one(context, Kind::Text, JSON.as_bytes()),
    ),
    echo(
        "fragmented",
        "a message in three fragments comes back whole, and a ping between them is answered",
        "RFC 6455 sections 5.4, 5.5",
        fragmented,
    ),
    echo(
        "large-64k",
        "a binary message of 64 KiB comes back",
        "RFC 6455 section 5.2",
        |context| large(context, LARGE_BYTES),
    ),
    echo(
        "large-1m",
        "a binary message of 1 MiB comes back",
        "RFC 6455 section 5.2",
        |context| large(context, SIZE_BYTES),
    ),
    echo(
        "large-max",
        "a binary message of --size-max bytes comes back",
        "RFC 6455 section 5.2",
        large_max,
    ),
    echo(
        "rapid",
        "1,000 messages sent without waiting all come back, in order",
        "RFC 6455 section 5.4",
        rapid,
    ),
];

/// One to four bytes per character, the borders between them, a combining mark, right-to-left, and
/// the last character of all.
const UTF8: &str = "a\u{0}\u{7f}\u{80}\u{7ff}\u{800}\u{ffff}\u{10000}\u{10ffff} \
                    h\u{e9}llo \u{4f60}\u{597d} \u{1f44b}\u{1f3fd} e\u{301} \u{5e9}\u{5dc}";

/// What a server that parses and writes it again would change.
const JSON: &str = r#"{ "b": 1, "a": [1.0, 1e2, -0, 12345678901234567890], "a":"\u00e9\/",
  "nested": {"x": {"y": [null, true, []]}}, "empty": {} }"#;

fn one(context: &Context<'_>, kind: Kind, payload: &[u8]) -> Verdict {
    let mut connection = context.open_echo()?;
    let took = connection.echo(kind, payload)?;
    connection.leave();
    Ok(Passed::new(format!(
        "{} bytes back in {:.1} ms",
        payload.len(),
        round_ms(took)
    )))
}

fn binary(context: &Context<'_>) -> Verdict {
    let all: Vec<u8> = (0..=255).collect();
    one(context, Kind::Binary, &all)
}

fn empty(context: &Context<'_>) -> Verdict {
    let mut connection = context.open_echo()?;
    for (name, kind) in [("text", Kind::Text), ("binary", Kind::Binary)] {
        connection
            .echo(kind, b"")
            .map_err(|error| format!("empty {name}: {error}"))?;
    }
    connection.leave();
    Ok(Passed::new("text and binary came back empty"))
}

fn fragmented(context: &Context<'_>) -> Verdict {
    let whole = "in \u{20ac} pieces";
    // The euro sign's three bytes are divided between the fragments.
    let (first, rest) = whole.as_bytes().split_at(4);
    let (second, third) = rest.split_at(1);
    let mut connection = context.open_echo()?;
    connection.send(Opcode::Text, false, first)?;
    connection.send(Opcode::Ping, true, b"between")?;
    connection.send(Opcode::Continuation, false, second)?;
    connection.send(Opcode::Continuation, true, third)?;
    let deadline = context.deadline();
    let (mut pong, mut message) = (false, false);
    while !(pong && message) {
        match connection.receive_until(deadline) {
            // Whether its payload is right is another test's.
            Ok(Received::Pong(_)) => pong = true,
            Ok(Received::Message(kind, payload)) => {
                if let Some(text) = difference((Kind::Text, whole.as_bytes()), (kind, &payload)) {
                    return Err(text.into());
                }
                message = true;
            }
            Ok(Received::Ping) => {}
            Ok(Received::Close(code, reason)) => return Err(closed(code, &reason).into()),
            Err(lost) => {
                let missing = match (pong, message) {
                    (false, false) => "neither the message nor the pong came",
                    (false, true) => "the message came back, but no pong",
                    _ => "the pong came, but not the message",
                };
                return Err(format!("{missing}: {lost}").into());
            }
        }
    }
    connection.leave();
    Ok(Passed::new("3 fragments came back as one message"))
}

fn large_max(context: &Context<'_>) -> Verdict {
    match context.options.size_max_bytes {
        size if [LARGE_BYTES, SIZE_BYTES].contains(&size) => Err(Problem::Skipped(format!(
            "--size-max is {size} bytes, which another test sends"
        ))),
        size => large(context, size),
    }
}

fn large(context: &Context<'_>, size_bytes: u64) -> Verdict {
    let most = context.options.size_max_bytes;
    if size_bytes > most {
        let reason = format!("{size_bytes} bytes are more than --size-max ({most})");
        return Err(Problem::Skipped(reason));
    }
    let payload = noise(size_bytes as usize);
    let mut connection = context.open_echo()?;
    let took = connection.echo(Kind::Binary, &payload)?;
    connection.leave();
    Ok(Passed::with(
        format!("{size_bytes} bytes back in {:.1} ms", round_ms(took)),
        json!({"bytes": size_bytes, "round_trip_ms": round_ms(took)}),
    ))
}

/// Bytes without a pattern (xorshift), so that what is lost, doubled or in another order shows, and
/// nothing compresses them on their way.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn rapid(context: &Context<'_>) -> Verdict {
    let payload = |number: usize| format!("{number:0>RAPID_BYTES$}");
    let mut connection = context.open_echo()?;
    let mut bytes = Vec::new();
    for number in 0..RAPID {
        let text = payload(number);
        encode_masked(
            &mut bytes,
            Opcode::Text,
            true,
            text.as_bytes(),
            random_key(),
        );
    }
    let begin = Instant::now();
    connection.send_raw(&bytes)?;
    for number in 0..RAPID {
        let (kind, got) = connection
            .message()
            .map_err(|error| format!("{number} of {RAPID} came back, then: {error}"))?;
        if kind == Kind::Text && got == payload(number).as_bytes() {
            continue;
        }
        let other = std::str::from_utf8(&got)
            .ok()
            .filter(|text| kind == Kind::Text && text.len() == RAPID_BYTES)
            .and_then(|text| text.parse::<usize>().ok());
        return Err(match other {
            Some(other) if other > number => {
                format!("message {number} is missing: {other} came in its place")
            }
            Some(other) => format!("message {other} came again in the place of {number}"),
            None => format!("message {number} came back changed: {}", show(kind, &got)),
        }
        .into());
    }
    let took = begin.elapsed();
    connection.leave();
    let per_second = (RAPID as f64 / took.as_secs_f64()).round();
    Ok(Passed::with(
        format!("{RAPID} messages in {:.1} ms", round_ms(took)),
        json!({"messages": RAPID, "duration_ms": round_ms(took), "per_second": per_second}),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_what_the_tests_say() {
        for length in [0, 1, 7, 8, 9, 65_536] {
            assert_eq!(noise(length).len(), length);
        }
        let bytes = noise(65_536);
        assert_ne!(bytes[..32_768], bytes[32_768..]);
        serde_json::from_str::<serde_json::Value>(JSON).unwrap();
        let lengths: Vec<usize> = (1..=4)
            .filter(|length| UTF8.chars().any(|c| c.len_utf8() == *length))
            .collect();
        assert_eq!(lengths, [1, 2, 3, 4]);
    }
}
