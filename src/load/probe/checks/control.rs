//! Pings, pongs and the end of a connection.

use super::super::check::{Check, Needs, Passed, Verdict};
use super::super::connection::{Received, closed};
use super::super::context::Context;
use super::super::report::round_ms;
use super::super::stream::Lost;
use crate::wire::close::CloseCode;
use crate::wire::frame::{MAX_CONTROL_BYTES, Opcode};
use serde_json::json;
use std::time::Instant;

const fn control(
    name: &'static str,
    about: &'static str,
    source: &'static str,
    run: fn(&Context<'_>) -> Verdict,
) -> Check {
    Check {
        name,
        group: "control",
        about,
        source,
        needs: Needs::Nothing,
        run: Some(run),
    }
}

pub(super) const CHECKS: &[Check] = &[
    control(
        "ping",
        "pings of 5, 0 and 125 bytes are answered with pongs of the same payload",
        "RFC 6455 sections 5.5.2, 5.5.3",
        ping,
    ),
    control(
        "pong",
        "a pong that nobody asked for is ignored",
        "RFC 6455 section 5.5.3",
        pong,
    ),
    control(
        "close",
        "a close frame with 1000 is answered with 1000, and the server closes the TCP connection",
        "RFC 6455 sections 5.5.1, 7.1.1",
        close,
    ),
];

fn ping(context: &Context<'_>) -> Verdict {
    let longest = [b'x'; MAX_CONTROL_BYTES];
    let mut connection = context.open()?;
    let mut times = Vec::new();
    for payload in [&b"probe"[..], b"", &longest] {
        let took = connection
            .ping(payload)
            .map_err(|error| format!("after a ping of {} bytes: {error}", payload.len()))?;
        times.push(round_ms(took));
    }
    connection.leave();
    let slowest = times.iter().copied().fold(0.0, f64::max);
    Ok(Passed::with(
        format!("3 pongs, each within {slowest:.1} ms"),
        json!({"round_trips_ms": times}),
    ))
}

fn pong(context: &Context<'_>) -> Verdict {
    let mut connection = context.open_echo()?;
    connection.send(Opcode::Pong, true, b"unasked")?;
    context
        .alive(&mut connection)
        .map_err(|error| format!("the {} after it: {error}", context.alive_by()))?;
    connection.leave();
    Ok(Passed::new(format!(
        "the {} after it was answered",
        context.alive_by()
    )))
}

fn close(context: &Context<'_>) -> Verdict {
    let mut connection = context.open()?;
    let begin = Instant::now();
    connection.send_close(CloseCode::NORMAL.get(), "probe")?;
    let deadline = context.deadline();
    let note = loop {
        match connection.receive_until(deadline) {
            Ok(Received::Close(Some(1000), _)) => break "1000",
            // Section 5.5.1: an endpoint "typically" sends the code back.
            Ok(Received::Close(None, _)) => break "no code (allowed, if unusual)",
            Ok(Received::Close(code, reason)) => {
                return Err(format!("{} instead of 1000", closed(code, &reason)).into());
            }
            // What was on its way.
            Ok(Received::Message(..) | Received::Ping | Received::Pong(_)) => {}
            Err(Lost::Silent(waited)) => {
                return Err(format!("no close frame came within {waited:?}").into());
            }
            Err(lost) => return Err(lost.to_string().into()),
        }
    };
    let answered = begin.elapsed();
    connection.wait_end().map_err(|_| {
        format!(
            "the close frame was answered, but the TCP connection is still open after {:?}",
            connection.timeout()
        )
    })?;
    let ended = begin.elapsed();
    Ok(Passed::with(
        format!(
            "answered with {note} in {:.1} ms, TCP closed after {:.1} ms",
            round_ms(answered),
            round_ms(ended)
        ),
        json!({"answer_ms": round_ms(answered), "tcp_closed_ms": round_ms(ended)}),
    ))
}
