//! Frames that a server must refuse, by failing the connection (RFC 6455 section 7.1.7).

use super::super::check::{Check, Needs, Passed, Problem, Verdict};
use super::super::connection::{Received, closed, show};
use super::super::context::Context;
use super::super::stream::Lost;
use crate::wire::frame::{Opcode, encode, encode_masked};

/// Any key does.
const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

const fn violation(
    name: &'static str,
    about: &'static str,
    source: &'static str,
    run: fn(&Context<'_>) -> Verdict,
) -> Check {
    Check {
        name,
        group: "violations",
        about,
        source,
        needs: Needs::Nothing,
        run: Some(run),
    }
}

pub(super) const CHECKS: &[Check] = &[
    violation(
        "unmasked",
        "a frame without a mask makes the server close, with 1002",
        "RFC 6455 section 5.1",
        |context| {
            let mut bytes = Vec::new();
            encode(&mut bytes, Opcode::Text, b"unmasked");
            refused(context, &bytes, b"unmasked", 1002)
        },
    ),
    violation(
        "reserved-bits",
        "a frame with RSV1 set, without an extension, makes the server close, with 1002",
        "RFC 6455 section 5.2",
        |context| {
            changed(context, Opcode::Text, b"reserved", 1002, |first| {
                first | 0x40
            })
        },
    ),
    violation(
        "reserved-opcode",
        "a frame with the opcode 3 makes the server close, with 1002",
        "RFC 6455 section 5.2",
        |context| changed(context, Opcode::Text, b"opcode", 1002, |_| 0x83),
    ),
    violation(
        "invalid-utf8",
        "a text message that is not UTF-8 makes the server close, with 1007",
        "RFC 6455 section 8.1",
        |context| {
            changed(
                context,
                Opcode::Text,
                b"\xce\xba\xed\xa0\x80",
                1007,
                |first| first,
            )
        },
    ),
    violation(
        "fragmented-ping",
        "a ping without FIN makes the server close, with 1002",
        "RFC 6455 section 5.5",
        |context| changed(context, Opcode::Ping, b"ping", 1002, |first| first & 0x7f),
    ),
    violation(
        "continuation",
        "a continuation frame with nothing to continue makes the server close, with 1002",
        "RFC 6455 section 5.4",
        |context| changed(context, Opcode::Continuation, b"more", 1002, |first| first),
    ),
];

/// A masked frame whose first byte is changed.
fn changed(
    context: &Context<'_>,
    opcode: Opcode,
    payload: &[u8],
    code: u16,
    change: fn(u8) -> u8,
) -> Verdict {
    let mut bytes = Vec::new();
    encode_masked(&mut bytes, opcode, true, payload, KEY);
    bytes[0] = change(bytes[0]);
    refused(context, &bytes, payload, code)
}

/// Sends `bytes`, which must make the server close with `code`. `payload` is what one that takes
/// them would send back.
fn refused(context: &Context<'_>, bytes: &[u8], payload: &[u8], code: u16) -> Verdict {
    let mut connection = context.open_echo()?;
    connection.send_raw(bytes)?;
    let deadline = context.deadline();
    let mut answers = String::new();
    loop {
        match connection.receive_until(deadline) {
            Ok(Received::Message(kind, got)) => {
                let text = format!("the server took it and sent back {}", show(kind, &got));
                if context.echo.is_some() || got == payload {
                    return Err(Problem::Failed(text));
                }
                // It may have been on its way: what counts is whether the connection ends.
                answers = format!("; {text}");
            }
            Ok(Received::Pong(got)) if got == payload => {
                return Err("the server took it and answered with a pong"
                    .to_owned()
                    .into());
            }
            Ok(Received::Ping | Received::Pong(_)) => {}
            Ok(Received::Close(Some(got), _)) if got == code => break,
            Ok(Received::Close(got, reason)) => {
                let text = format!("{} instead of {code}", closed(got, &reason));
                return Err(Problem::Failed(text));
            }
            // Section 7.1.7: a close frame is a SHOULD, closing is a MUST.
            Err(Lost::Ended | Lost::Reset) => {
                return Ok(Passed::new(format!(
                    "closed without a close frame (allowed; {code} would say why)"
                )));
            }
            Err(Lost::Silent(waited)) => {
                let text = format!("the server was still connected after {waited:?}{answers}");
                return Err(Problem::Failed(text));
            }
            Err(lost) => return Err(Problem::Failed(lost.to_string())),
        }
    }
    connection.wait_end().map_err(|_| {
        format!(
            "the server closed with {code}, but the TCP connection is still open after {:?}",
            connection.timeout()
        )
    })?;
    Ok(Passed::new(format!("closed with {code}")))
}
