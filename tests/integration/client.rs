//! A connection that speaks JSON, through tungstenite, over any stream.

use crate::support::PATIENCE;
use serde_json::{Value, json};
use std::io::{ErrorKind, Read, Write};
use std::time::Instant;
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Error, Message, WebSocket};

/// See the module.
pub(crate) struct Client<S> {
    /// The connection itself, for what is not JSON.
    pub(crate) socket: WebSocket<S>,
}

impl<S: Read + Write> Client<S> {
    /// Upgrades a stream at `path`.
    pub(crate) fn over(stream: S, path: &str) -> Self {
        let url = format!("ws://test{path}");
        // The largest messages of these tests are sent in one frame.
        let config = WebSocketConfig::default()
            .max_message_size(None)
            .max_frame_size(None);
        match tungstenite::client::client_with_config(url, stream, Some(config)) {
            Ok((socket, _)) => Self { socket },
            Err(error) => panic!("no upgrade: {error}"),
        }
    }

    /// Sends a message.
    pub(crate) fn send(&mut self, message: impl Into<Message>) {
        self.socket
            .send(message.into())
            .expect("the connection is open");
    }

    /// Sends a frame of the protocol.
    #[expect(clippy::needless_pass_by_value, reason = "callers write json!({…})")]
    pub(crate) fn say(&mut self, frame: Value) {
        self.send(frame.to_string());
    }

    /// The next message that is no ping and no pong.
    pub(crate) fn receive(&mut self) -> Message {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.socket.read().expect("a message") {
                Message::Ping(_) | Message::Pong(_) => {
                    assert!(Instant::now() < deadline, "nothing but pings comes");
                }
                message => return message,
            }
        }
    }

    /// The next frame of the protocol.
    pub(crate) fn hear(&mut self) -> Value {
        match self.receive() {
            Message::Text(text) => {
                serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"))
            }
            other => panic!("expected a text message, got {other:?}"),
        }
    }

    /// Sends a frame and returns the next one that comes.
    pub(crate) fn ask(&mut self, frame: Value) -> Value {
        self.say(frame);
        self.hear()
    }

    /// The connection works, and nothing else was waiting.
    pub(crate) fn is_alive(&mut self) {
        assert_eq!(self.ask(json!({"type": "ping"})), json!({"type": "pong"}));
    }

    /// Subscribes; returns the channel's offset.
    pub(crate) fn subscribe(&mut self, channel: &str) -> u64 {
        let answer = self.ask(json!({"type": "subscribe", "channel": channel}));
        assert_eq!(
            (&answer["type"], &answer["channel"]),
            (&json!("subscribed"), &json!(channel))
        );
        answer["offset"].as_u64().expect("an offset")
    }

    /// Publishes without asking for an answer.
    pub(crate) fn publish(&mut self, channel: &str, data: impl Into<Value>) {
        self.say(json!({"type": "publish", "channel": channel, "data": data.into()}));
    }

    /// The next frame, which must be a message of this channel: its offset and data.
    pub(crate) fn message(&mut self, channel: &str) -> (u64, Value) {
        let mut frame = self.hear();
        assert_eq!(
            (&frame["type"], &frame["channel"]),
            (&json!("message"), &json!(channel)),
            "{:.300}",
            frame.to_string()
        );
        (
            frame["offset"].as_u64().expect("an offset"),
            frame["data"].take(),
        )
    }

    /// The shard that serves this connection: the first part of its name.
    pub(crate) fn shard(&mut self) -> usize {
        let answer = self.ask(json!({"type": "connect"}));
        let name = answer["connection_id"].as_str().expect("a name");
        let (shard, _) = name.split_once('-').expect("a shard in the name");
        usize::from_str_radix(shard, 16).expect("a number")
    }

    /// Closes, and waits until the server has, too.
    pub(crate) fn bye(&mut self) {
        self.socket.close(None).expect("the connection is open");
        assert_eq!(self.closed().1, Some((1005, String::new())));
    }

    /// Reads until the connection ends: the text messages before, and the close code (1005: none
    /// in the frame) and reason, if a close frame came.
    pub(crate) fn closed(&mut self) -> (Vec<Value>, Option<(u16, String)>) {
        let (mut frames, mut end) = (Vec::new(), None);
        loop {
            match self.socket.read() {
                Ok(Message::Close(Some(close))) => {
                    end = Some((close.code.into(), close.reason.to_string()));
                }
                Ok(Message::Close(None)) => end = Some((1005, String::new())),
                Ok(Message::Text(text)) => frames.push(serde_json::from_str(&text).expect("JSON")),
                Ok(_) => {}
                Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => {
                    panic!("the server does not close")
                }
                Err(
                    Error::ConnectionClosed
                    | Error::AlreadyClosed
                    | Error::Protocol(_)
                    | Error::Io(_),
                ) => {
                    return (frames, end);
                }
                Err(error) => panic!("no close: {error}"),
            }
        }
    }
}
