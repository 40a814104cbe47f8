//! ringwire's own protocol for clients, in JSON: docs/protocol.md.

use super::super::check::{Check, Needs, Passed, Problem, Verdict};
use super::super::connection::{Connection, random_key};
use super::super::context::Context;
use crate::wire::message::Kind;
use serde_json::{Value, json, value::RawValue};

/// Messages that are no answer, at most, before one.
const UNASKED: usize = 100;

const fn ringwire(
    name: &'static str,
    about: &'static str,
    source: &'static str,
    run: fn(&Context<'_>) -> Verdict,
) -> Check {
    Check {
        name,
        group: "ringwire",
        about,
        source,
        needs: Needs::Ringwire,
        run: Some(run),
    }
}

pub(super) const CHECKS: &[Check] = &[
    ringwire(
        "json-ping",
        "{\"type\":\"ping\"} is answered with {\"type\":\"pong\"} and gets its id back",
        "docs/protocol.md, ping and pong",
        json_ping,
    ),
    ringwire(
        "publish",
        "what is published reaches a subscriber, byte for byte, with the next offset",
        "docs/protocol.md, subscribe, publish, message",
        publish,
    ),
    ringwire(
        "error-frame",
        "a text that is no JSON gets the error invalid_json, and the connection stays",
        "docs/protocol.md, Errors",
        error_frame,
    ),
    ringwire(
        "unknown-path",
        "an upgrade at a path that does not exist is answered 404",
        "docs/protocol.md, Endpoints",
        unknown_path,
    ),
    ringwire(
        "healthz",
        "GET /healthz is answered 200",
        "docs/protocol.md, Plain HTTP",
        healthz,
    ),
];

/// Reads the next object.
fn receive(connection: &mut Connection) -> Result<(Value, Vec<u8>), String> {
    let (kind, payload) = connection.message()?;
    let text = String::from_utf8_lossy(&payload).into_owned();
    match serde_json::from_slice(&payload) {
        Ok(value @ Value::Object(_)) if kind == Kind::Text => Ok((value, payload)),
        _ => Err(format!("{text:?} came, which is no JSON object in a text")),
    }
}

/// Sends a command and waits for the answer with this `id`, or a `type` of this name where the
/// answer has none.
fn ask(connection: &mut Connection, command: &Value) -> Result<Value, String> {
    connection.send_message(Kind::Text, command.to_string().as_bytes())?;
    for _ in 0..UNASKED {
        let (answer, _) = receive(connection)?;
        if answer["id"] == command["id"] {
            return Ok(answer);
        }
    }
    Err(format!(
        "{UNASKED} messages came, and none with the id {}",
        command["id"]
    ))
}

fn json_ping(context: &Context<'_>) -> Verdict {
    let mut connection = context.open()?;
    let answer = ask(&mut connection, &json!({"type": "ping", "id": "probe"}))?;
    if answer["type"] != "pong" {
        return Err(format!("{answer} came instead").into());
    }
    connection.leave();
    Ok(Passed::new(answer.to_string()))
}

/// A channel that nobody else uses.
fn random_channel() -> String {
    let hex: String = [random_key(), random_key()]
        .concat()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("ringwire-probe-{hex}")
}

/// What a server that parses it and writes it again would change.
const DATA: &str = r#"{ "b":1.0, "a":[12345678901234567890, "\u00e9"] }"#;

fn publish(context: &Context<'_>) -> Verdict {
    let channel = context.options.channel.clone();
    let channel = channel.unwrap_or_else(random_channel);
    let mut connection = context.open()?;
    let subscribe = json!({"type": "subscribe", "channel": channel, "id": 1});
    let subscribed = ask(&mut connection, &subscribe)?;
    allowed(&subscribed, "subscribe to", &channel)?;
    let Some(before) = subscribed["offset"]
        .as_u64()
        .filter(|_| subscribed["type"] == "subscribed")
    else {
        return Err(format!("{subscribed} came instead of subscribed with an offset").into());
    };
    let command = format!(
        r#"{{"type":"publish","channel":{},"id":2,"data":{DATA}}}"#,
        json!(channel)
    );
    connection.send_message(Kind::Text, command.as_bytes())?;
    let (mut response, mut message) = (None, None);
    for _ in 0..UNASKED {
        let (frame, bytes) = receive(&mut connection)?;
        if frame["id"] == 2 {
            allowed(&frame, "publish in", &channel)?;
            response = Some(frame);
        } else if frame["type"] == "message" && frame["channel"] == channel {
            // Others may publish in a channel that was named.
            let data = raw_data(&bytes);
            if data.as_deref() == Some(DATA) || context.options.channel.is_none() {
                message = Some((frame, data.unwrap_or_default()));
            }
        }
        if let (Some(response), Some((message, data))) = (&response, &message) {
            let offset = &response["data"]["offset"];
            if response["data"]["published"] != true || !offset.is_u64() {
                return Err(format!("the answer to publish is {response}").into());
            }
            if data != DATA {
                return Err(format!("data came as {data:?} instead of {DATA:?}").into());
            }
            if &message["offset"] != offset {
                let text = format!(
                    "the message has the offset {}, the answer {offset}",
                    message["offset"]
                );
                return Err(text.into());
            }
            if context.options.channel.is_none() && offset.as_u64() != Some(before + 1) {
                return Err(format!("the offset after {before} is {offset}").into());
            }
            let detail = format!("subscribed, published and received in {channel}");
            connection.leave();
            return Ok(Passed::new(detail));
        }
    }
    let missing = if response.is_none() {
        "no answer to publish came"
    } else {
        "publish was answered, but no message came"
    };
    Err(format!("{missing} among {UNASKED} messages").into())
}

/// The `data` of a message as it was written.
fn raw_data(bytes: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Message<'a> {
        #[serde(borrow)]
        data: &'a RawValue,
    }
    let message: Message<'_> = serde_json::from_slice(bytes).ok()?;
    Some(message.data.get().to_owned())
}

/// An error that says who may do what says nothing against the server.
fn allowed(answer: &Value, what: &str, channel: &str) -> Result<(), Problem> {
    if answer["type"] != "error" {
        return Ok(());
    }
    if answer["code"] == "forbidden" {
        return Err(Problem::Skipped(format!(
            "this client may not {what} {channel}: name another one with --channel"
        )));
    }
    Err(format!("{answer} came when asked to {what} {channel}").into())
}

fn error_frame(context: &Context<'_>) -> Verdict {
    let mut connection = context.open()?;
    connection.send_message(Kind::Text, b"{\"type\":")?;
    let (answer, _) = receive(&mut connection)?;
    if answer["type"] != "error" || answer["code"] != "invalid_json" {
        return Err(format!("{answer} came instead").into());
    }
    let pong = ask(&mut connection, &json!({"type": "ping", "id": 1}))
        .map_err(|error| format!("the ping after it: {error}"))?;
    if pong["type"] != "pong" {
        return Err(format!("{pong} came after it instead of a pong").into());
    }
    connection.leave();
    Ok(Passed::new("invalid_json, and the connection works on"))
}

fn unknown_path(context: &Context<'_>) -> Verdict {
    let target = context
        .options
        .target
        .at("/ringwire-probe/no/such/path")
        .map_err(|error| error.to_string())?;
    let (request, _) = context.request(&target);
    let head = context.ask(&request)?;
    if head.status != 404 {
        return Err(format!("the server answered {}", head.status_line()).into());
    }
    Ok(Passed::new(head.status_line()))
}

fn healthz(context: &Context<'_>) -> Verdict {
    let target = context
        .options
        .target
        .at("/healthz")
        .map_err(|error| error.to_string())?;
    let head = context.get(&target)?;
    if head.status != 200 {
        return Err(format!("the server answered {}", head.status_line()).into());
    }
    Ok(Passed::new(head.status_line()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_compared_as_it_was_written() {
        let message = format!(r#"{{"type":"message","data":{DATA} ,"offset":1}}"#);
        assert_eq!(raw_data(message.as_bytes()).as_deref(), Some(DATA));
        assert_eq!(raw_data(b"{\"type\":\"message\"}"), None);
        assert_ne!(random_channel(), random_channel());
    }
}
