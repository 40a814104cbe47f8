//! What the handler hears when it is not in the middle of something else, and the answers that it gives.

use super::connection::ConnectionId;
use super::core::{Answer, Core, Event};
use super::handler::{Batch, Context, Handler, Published, Refusal, Subscribed};
use crate::hub::home::CatchUp;
use crate::hub::{Delivery, Shape};
use crate::wire::frame;
use bytes::Bytes;

/// What a new subscriber gets first.
#[derive(Default)]
struct First {
    recovered: Option<bool>,
    /// Whole frames.
    frames: Vec<u8>,
    /// How many messages they carry.
    count: u64,
}

/// Writes what a new subscriber gets first, if there is room for it.
fn catch_up_in<H: Handler>(
    handler: &mut H,
    core: &mut Core,
    connection: ConnectionId,
    channel: (u32, &str),
    catch_up: CatchUp,
) -> First {
    let CatchUp {
        recovered,
        messages,
        ..
    } = catch_up;
    if recovered.is_some() {
        core.counters.recoveries.add(1);
    }
    let frames = match messages.is_empty() {
        true => Some(Vec::new()),
        false => write_messages(handler, core, connection, channel, &messages),
    };
    if frames.is_none() || recovered == Some(false) {
        core.counters.recoveries_failed.add(1);
    }
    match frames {
        Some(frames) => First {
            recovered,
            frames,
            count: messages.len() as u64,
        },
        None => First {
            recovered: Some(false),
            ..First::default()
        },
    }
}

/// Messages of a channel as one subscriber gets them. `None`: there is not enough room.
fn write_messages<H: Handler>(
    handler: &mut H,
    core: &mut Core,
    connection: ConnectionId,
    (channel, name): (u32, &str),
    messages: &[Delivery],
) -> Option<Vec<u8>> {
    let form = core.form(connection.key);
    let state = core.local.channel(channel);
    let shape = state.and_then(|state| state.subscribers().shape_of(connection.key));
    let batched = shape.is_some_and(Shape::is_batched);
    let mut frames = Vec::new();
    let mut payload = Vec::new();
    for message in messages {
        let published = Published {
            form,
            channel: name,
            wildcard: None,
            offset: message.offset,
            timestamp_ms: message.timestamp_ms,
            publication: &message.publication,
        };
        if batched {
            handler.encode_entry(&published, &mut payload);
        } else {
            payload.clear();
            let kind = handler.encode(&published, &mut payload);
            frame::encode(&mut frames, kind.into(), &payload);
        }
        // Written, a message may have many times the bytes that were published.
        let written = if batched { &payload } else { &frames };
        if !core.has_room_for(connection, written.len()) {
            return None;
        }
    }
    if batched {
        let batch = Batch {
            form,
            channel: name,
            wildcard: false,
            entries: &payload,
            count: messages.len() as u32,
        };
        let mut sealed = Vec::with_capacity(payload.len() + name.len() + 64);
        let kind = H::encode_batch(&batch, &mut sealed);
        frame::encode(&mut frames, kind.into(), &sealed);
    }
    Some(frames)
}

/// Gives a handler what it asked for, if there is room for the answer.
fn answer_question<H: Handler>(
    handler: &mut H,
    core: &mut Core,
    connection: ConnectionId,
    answer: &Answer,
    tag: &Bytes,
) {
    if !core.is_open(connection) {
        return;
    }
    let refusal = match answer {
        Answer::History(Err(pending_bytes)) | Answer::Members(Err(pending_bytes)) => {
            Some(Refusal::Busy {
                pending_bytes: *pending_bytes,
            })
        }
        answer if core.has_room_for(connection, answer.bytes()) => None,
        _ => Some(Refusal::Full {
            pending_bytes: core.get(connection).map_or(0, |c| c.outbox_bytes as usize),
        }),
    };
    if let Some(refusal) = refusal {
        return handler.refused(&mut Context { core }, connection, refusal, Some(tag));
    }
    core.push_bulk(connection.key, |core| {
        let context = &mut Context { core };
        match answer {
            Answer::History(Ok(page)) => handler.history(context, connection, page, tag),
            Answer::Members(Ok(page)) => handler.members(context, connection, page, tag),
            _ => {}
        }
    });
}

/// Tells the handler what happened while it was busy.
pub(super) fn run_events<H: Handler>(handler: &mut H, core: &mut Core) {
    while let Some(event) = core.events.pop_front() {
        match event {
            Event::Subscribed {
                connection,
                channel,
                position,
                tag,
                catch_up,
            } => {
                // Whose connection has ended meanwhile hears of that; its number may be another's now.
                if !core.has_channel(connection, channel) {
                    continue;
                }
                let state = core.local.channel(channel);
                let wildcard = state.is_some_and(|state| state.is_wildcard());
                let Some(name) = core.local.name(channel) else {
                    continue;
                };
                // The name is lent to the handler while the handler changes the channels.
                let name: smallvec::SmallVec<[u8; 64]> = name.as_bytes().into();
                let Ok(name) = std::str::from_utf8(&name) else {
                    continue;
                };
                let first = match catch_up {
                    None => First::default(),
                    Some(catch_up) => {
                        catch_up_in(handler, core, connection, (channel, name), *catch_up)
                    }
                };
                let subscribed = Subscribed {
                    channel: name,
                    position: (!wildcard).then_some(position),
                    recovered: first.recovered,
                    tag: &tag,
                };
                handler.subscribed(&mut Context { core }, connection, &subscribed);
                if first.count > 0 && core.is_open(connection) {
                    core.counters.history_deliveries.add(first.count);
                    core.push_bulk(connection.key, |core| {
                        core.push_with(connection.key, |out| out.extend_from_slice(&first.frames));
                    });
                }
            }
            Event::Answer {
                connection,
                answer,
                tag,
            } => answer_question(handler, core, connection, &answer, &tag),
            Event::Abandoned {
                connection,
                channel,
                tag,
            } => handler.abandoned(&mut Context { core }, connection, &channel, &tag),
            Event::Published {
                connection,
                position,
                tag,
            } => handler.published(&mut Context { core }, connection, position, &tag),
            Event::Sent {
                connection,
                connections,
                tag,
            } => handler.sent(&mut Context { core }, connection, connections, &tag),
            Event::Refused {
                connection,
                refusal,
                tag,
            } => handler.refused(&mut Context { core }, connection, refusal, tag.as_ref()),
            Event::Closed { connection, closed } => {
                handler.close(&mut Context { core }, connection, &closed);
            }
        }
    }
}
