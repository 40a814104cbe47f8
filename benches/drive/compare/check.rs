//! Whether a server does what is measured: it must echo, and deliver, before its cost means anything.

use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};

use crate::server::{Launch, Server};

/// An answer takes no longer than this.
const ANSWER: Duration = Duration::from_secs(10);
/// Published, as long as in the measurement.
const DATA_BYTES: usize = 128;
/// Subscribers of the channel.
const SUBSCRIBERS: usize = 3;
/// The fields of a delivery, in ringwire's order.
const FIELDS: [&str; 6] = ["type", "channel", "from", "data", "offset", "timestamp"];
/// A delivery without its data is as long as ringwire's, but for the digits of its offset and its time.
const ENVELOPE_BYTES: usize = 96;
const ENVELOPE_BYTES_TOLERATED: usize = 15;

type Client = WebSocket<TcpStream>;

/// Starts a server and talks to it.
pub(crate) fn talk(launch: &Launch, log_dir: &Path) -> anyhow::Result<()> {
    let server = Server::start(launch, log_dir)?;
    echo(&server).context("echo")?;
    channels(&server).context("channels")?;
    server.stop()?;
    Ok(())
}

/// Connects as the load generator does: without an offer of compression.
fn connect(server: &Server, path: &str) -> anyhow::Result<Client> {
    let stream = TcpStream::connect(server.address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER))?;
    let (socket, response) = tungstenite::client(format!("ws://{}{path}", server.address), stream)
        .map_err(|error| anyhow::anyhow!("the upgrade failed: {error}"))?;
    ensure!(
        !response.headers().contains_key("Sec-WebSocket-Extensions"),
        "it uses an extension that nobody offered"
    );
    Ok(socket)
}

fn echo(server: &Server) -> anyhow::Result<()> {
    let mut client = connect(server, "/echo")?;
    let bytes = |length: usize| -> Vec<u8> { (0..length).map(|at| (at % 251) as u8).collect() };
    for message in [
        Message::text("grüße, 世界"),
        Message::text(""),
        Message::binary(bytes(0)),
        Message::binary(bytes(64)),
        Message::binary(bytes(16 * 1024)),
        Message::binary(bytes(100_000)),
    ] {
        client.send(message.clone())?;
        let came = client.read().context("no answer")?;
        ensure!(
            came == message,
            "{} came back as {}",
            shown(&message),
            shown(&came)
        );
    }
    // Several at once come back one by one, in order.
    for number in 0..16u8 {
        client.write(Message::binary(vec![number; 64]))?;
    }
    client.flush()?;
    for number in 0..16u8 {
        let came = client.read().context("no answer to one of 16 messages")?;
        ensure!(
            came == Message::binary(vec![number; 64]),
            "message {number} of 16 came back as {}",
            shown(&came)
        );
    }
    Ok(())
}

fn channels(server: &Server) -> anyhow::Result<()> {
    let mut publisher = connect(server, "/ws")?;
    let mut subscribers = Vec::new();
    for _ in 0..SUBSCRIBERS {
        let mut client = connect(server, "/ws")?;
        let command = json!({"type": "subscribe", "channel": "check", "id": 1});
        client.send(Message::text(command.to_string()))?;
        let (answer, _) = read_json(&mut client).context("no answer to a subscription")?;
        ensure!(
            answer["type"] == "subscribed" && answer["channel"] == "check" && answer["id"] == 1,
            "a subscription was answered with {answer}"
        );
        subscribers.push(client);
    }
    for number in 0..4 {
        let data = char::from(b'a' + number).to_string().repeat(DATA_BYTES);
        let command = json!({"type": "publish", "channel": "check", "data": data});
        publisher.send(Message::text(command.to_string()))?;
        for client in &mut subscribers {
            let (message, length) = read_json(client).context("a publish was not delivered")?;
            let fields = message.as_object().context("a delivery is no object")?;
            ensure!(
                fields.len() == FIELDS.len()
                    && FIELDS.iter().all(|name| fields.contains_key(*name)),
                "a delivery has not the fields {FIELDS:?}: {message}"
            );
            ensure!(
                message["type"] == "message"
                    && message["channel"] == "check"
                    && message["from"] == Value::Null
                    && message["data"] == data.as_str()
                    && message["offset"].is_u64()
                    && message["timestamp"].is_number(),
                "a delivery is not what was published: {message}"
            );
            ensure!(
                length.abs_diff(ENVELOPE_BYTES + DATA_BYTES) <= ENVELOPE_BYTES_TOLERATED,
                "a delivery has {length} bytes, which is not about as many as ringwire's"
            );
        }
    }
    Ok(())
}

/// A text message as JSON, and its length.
fn read_json(client: &mut Client) -> anyhow::Result<(Value, usize)> {
    match client.read()? {
        Message::Text(text) => Ok((serde_json::from_str(&text)?, text.len())),
        other => bail!("{} came instead of a text", shown(&other)),
    }
}

fn shown(message: &Message) -> String {
    match message {
        Message::Text(text) => format!("the text {text:?}"),
        Message::Binary(bytes) => format!("{} binary bytes", bytes.len()),
        other => format!("{other:?}"),
    }
}
