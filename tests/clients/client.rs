//! One connection that speaks JSON, through tungstenite.

use crate::support::Server;
use serde_json::{Value, json};
use std::net::TcpStream;
use tungstenite::client::IntoClientRequest as _;
use tungstenite::http::HeaderValue;
use tungstenite::{Error, Message, WebSocket};

/// The subprotocol that clients may name.
pub(crate) const SUBPROTOCOL: &str = "ringwire.json.v1";

/// A connection to the channels.
pub(crate) struct Client {
    /// The connection itself, for what is not JSON.
    pub(crate) socket: WebSocket<TcpStream>,
}

impl Client {
    /// Connects to the channels, without a subprotocol.
    pub(crate) fn open(server: &Server) -> Self {
        Self::open_at(server, server.url(), None).0
    }

    /// Connects to an address of the server; also returns the subprotocol that was chosen.
    pub(crate) fn open_at(
        server: &Server,
        url: &str,
        offer: Option<&str>,
    ) -> (Self, Option<String>) {
        let mut request = url.into_client_request().expect("a valid address");
        if let Some(offer) = offer {
            let offer = HeaderValue::from_str(offer).expect("a valid header");
            request
                .headers_mut()
                .insert("Sec-WebSocket-Protocol", offer);
        }
        let (socket, response) =
            tungstenite::client(request, server.connect()).expect("the upgrade succeeds");
        let chosen = response.headers().get("Sec-WebSocket-Protocol");
        let chosen = chosen.map(|value| value.to_str().expect("a token").to_owned());
        (Self { socket }, chosen)
    }

    /// Sends a text message.
    pub(crate) fn send_text(&mut self, text: &str) {
        self.socket
            .send(Message::text(text))
            .expect("the connection is open");
    }

    /// Sends a frame.
    #[expect(clippy::needless_pass_by_value, reason = "callers write json!({…})")]
    pub(crate) fn send(&mut self, frame: Value) {
        self.send_text(&frame.to_string());
    }

    /// The next message that is no ping and no pong.
    pub(crate) fn receive_message(&mut self) -> Message {
        loop {
            match self.socket.read().expect("a message") {
                Message::Ping(_) | Message::Pong(_) => {}
                message => return message,
            }
        }
    }

    /// The next text message, as it came.
    pub(crate) fn receive_text(&mut self) -> String {
        match self.receive_message() {
            Message::Text(text) => text.as_str().to_owned(),
            other => panic!("expected a text message, got {other:?}"),
        }
    }

    /// The next frame.
    pub(crate) fn receive(&mut self) -> Value {
        let text = self.receive_text();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"))
    }

    /// Sends a frame and returns the next one that comes.
    pub(crate) fn ask(&mut self, frame: Value) -> Value {
        self.send(frame);
        self.receive()
    }

    /// Subscribes; returns the channel's offset and epoch.
    pub(crate) fn subscribe(&mut self, channel: &str) -> (u64, u64) {
        let answer = self.ask(json!({"type": "subscribe", "channel": channel}));
        assert_eq!(answer["type"], "subscribed", "{answer}");
        assert_eq!(answer["channel"], channel, "{answer}");
        let number = |field: &str| {
            answer[field]
                .as_u64()
                .unwrap_or_else(|| panic!("{field} in {answer}"))
        };
        (number("offset"), number("epoch"))
    }

    /// Publishes without asking for an answer.
    pub(crate) fn publish(&mut self, channel: &str, data: impl Into<Value>) {
        self.send(json!({"type": "publish", "channel": channel, "data": data.into()}));
    }

    /// The next frame, which must be a message of this channel: its offset and data.
    pub(crate) fn message(&mut self, channel: &str) -> (u64, Value) {
        let mut frame = self.receive();
        assert_eq!(frame["type"], "message", "{frame}");
        assert_eq!(frame["channel"], channel, "{frame}");
        let offset = frame["offset"]
            .as_u64()
            .unwrap_or_else(|| panic!("offset in {frame}"));
        (offset, frame["data"].take())
    }

    /// The connection works, and nothing else was waiting.
    pub(crate) fn is_alive(&mut self) {
        assert_eq!(self.ask(json!({"type": "ping"})), json!({"type": "pong"}));
    }

    /// The next frame is an error with this code.
    pub(crate) fn error(&mut self, code: &str) -> Value {
        let frame = self.receive();
        assert_eq!(frame["type"], "error", "{frame}");
        assert_eq!(frame["code"], code, "{frame}");
        assert!(
            frame["error"].as_str().is_some_and(|text| !text.is_empty()),
            "{frame}"
        );
        frame
    }

    /// Reads until the server closes: the frames before, the close code and the reason; 1005 without
    /// a code, 1006 without a close frame.
    pub(crate) fn closed(&mut self) -> (Vec<String>, u16, String) {
        let mut frames = Vec::new();
        let mut end = (1006, String::new());
        loop {
            match self.socket.read() {
                Ok(Message::Close(Some(frame))) => {
                    end = (frame.code.into(), frame.reason.to_string())
                }
                Ok(Message::Close(None)) => end.0 = 1005,
                Ok(Message::Text(text)) => frames.push(text.to_string()),
                Ok(_) => {}
                Err(Error::ConnectionClosed | Error::AlreadyClosed | Error::Protocol(_)) => break,
                Err(Error::Io(error)) if error.kind() != std::io::ErrorKind::WouldBlock => break,
                Err(error) => panic!("no close: {error}"),
            }
        }
        (frames, end.0, end.1)
    }
}
