//! A connection's bytes, cut as the input itself says.
//!
//! Byte 0: the role, whether the caller stops after every event, and whether the limits are small.
//! Byte 1: how many cuts follow, each as a little-endian distance of two bytes from the last one.
//! The rest arrives. Events, error and what is kept must be those of the uncut input.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringwire::wire::message::{Carry, Event, Flow, Kind, Partial, Rules, decode};
use ringwire::wire::{Role, WireError};

#[derive(Clone, Debug, PartialEq)]
enum Said {
    Message(Kind, Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
}

#[derive(Debug, Default, PartialEq)]
struct Outcome {
    events: Vec<Said>,
    error: Option<WireError>,
    /// Bytes that the last frame misses.
    missing: usize,
    /// Whether anything is kept.
    carries: bool,
}

fn say(event: Event<'_>, rules: &Rules) -> Said {
    match event {
        Event::Message { kind, payload } => {
            assert!(payload.len() <= rules.message_bytes);
            if kind == Kind::Text {
                assert!(std::str::from_utf8(payload).is_ok());
            }
            Said::Message(kind, payload.to_vec())
        }
        Event::Ping(payload) => Said::Ping(payload.to_vec()),
        Event::Pong(payload) => Said::Pong(payload.to_vec()),
        Event::Close { code, reason } => Said::Close(code, reason.to_owned()),
    }
}

fn run<'a>(pieces: impl Iterator<Item = &'a [u8]>, rules: &Rules, stops: bool) -> Outcome {
    let mut outcome = Outcome::default();
    let mut carry: Carry = None;
    let mut received = 0;
    'pieces: for piece in pieces {
        received += piece.len();
        let mut input = piece.to_vec();
        let mut at = 0;
        loop {
            let before = outcome.events.len();
            let rest = &mut input[at..];
            let length = rest.len();
            let result = decode(&mut carry, rest, rules, &mut |event| {
                outcome.events.push(say(event, rules));
                if stops { Flow::Stop } else { Flow::Continue }
            });
            let fresh = outcome.events.len() - before;
            match result {
                Err(error) => {
                    assert!(carry.is_none());
                    outcome.error = Some(error);
                    break 'pieces;
                }
                Ok(consumed) => {
                    assert!(consumed == length || (stops && fresh == 1));
                    at += consumed;
                }
            }
            if matches!(outcome.events.last(), Some(Said::Close(..))) {
                assert!(carry.is_none() || fresh > 0);
                carry = None;
                break 'pieces;
            }
            if let Some(partial) = &carry {
                let box_bytes = size_of::<Partial>() + 125;
                assert!(partial.held_bytes() <= box_bytes + 4 * received);
            }
            if at == input.len() && (!stops || fresh == 0) {
                break;
            }
        }
    }
    outcome.carries = carry.is_some();
    outcome.missing = carry.map_or(0, |partial| partial.remaining_hint());
    outcome
}

fuzz_target!(|data: &[u8]| {
    let [flags, count, rest @ ..] = data else {
        return;
    };
    let count = usize::from(*count % 16).min(rest.len() / 2);
    let (cuts, bytes) = rest.split_at(2 * count);
    let small = flags & 4 != 0;
    let rules = Rules {
        role: if flags & 1 == 0 {
            Role::Server
        } else {
            Role::Client
        },
        message_bytes: if small { 100 } else { 1 << 20 },
        fragments: if small { 3 } else { 4096 },
    };
    let mut pieces = Vec::new();
    let mut left = bytes;
    for cut in cuts.chunks_exact(2) {
        let distance = usize::from(u16::from_le_bytes([cut[0], cut[1]]));
        let (piece, rest) = left.split_at(distance.min(left.len()));
        pieces.push(piece);
        left = rest;
    }
    pieces.push(left);

    let whole = run(std::iter::once(bytes), &rules, false);
    assert_eq!(run(pieces.into_iter(), &rules, flags & 2 != 0), whole);
    assert_eq!(run(bytes.chunks(1), &rules, false), whole);
});
