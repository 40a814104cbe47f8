//! One connection that asks the server what it knows, beside the traffic.

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use tungstenite::client::IntoClientRequest as _;
use tungstenite::http::HeaderValue;
use tungstenite::{Message, WebSocket};

/// An answer takes no longer than this, or the server is stuck.
const ANSWER: Duration = Duration::from_secs(20);
/// How often a question is repeated whose answer has to change.
const AGAIN: Duration = Duration::from_millis(20);

/// The connection.
pub(crate) struct Control {
    socket: WebSocket<TcpStream>,
    questions: u64,
}

impl Control {
    /// Connects as the user `control`.
    pub(crate) fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER))?;
        let mut request = format!("ws://{address}/ws").into_client_request()?;
        let user = HeaderValue::from_static("control");
        request.headers_mut().insert("X-User-ID", user);
        let (socket, _) = tungstenite::client(request, stream)
            .map_err(|error| anyhow::anyhow!("the control connection: {error}"))?;
        Ok(Self {
            socket,
            questions: 0,
        })
    }

    /// Sends a command and returns its answer; messages that come before it are of no interest.
    pub(crate) fn ask(&mut self, mut command: Value) -> anyhow::Result<Value> {
        self.questions += 1;
        command["id"] = self.questions.into();
        let text = command.to_string();
        self.socket.send(Message::text(text.clone()))?;
        let began = Instant::now();
        while began.elapsed() < ANSWER {
            let answer = self.socket.read();
            let answer = answer.with_context(|| format!("no answer to {text}"))?;
            let Message::Text(answer) = answer else {
                continue;
            };
            let answer: Value = serde_json::from_str(&answer)?;
            if answer["id"] == self.questions {
                if answer["type"] == "error" {
                    bail!("{text} was answered with {answer}");
                }
                return Ok(answer);
            }
        }
        bail!("no answer to {text} in {} s", ANSWER.as_secs())
    }

    /// Subscribes to a channel.
    pub(crate) fn subscribe(&mut self, channel: &str) -> anyhow::Result<()> {
        self.ask(json!({"type": "subscribe", "channel": channel}))?;
        Ok(())
    }

    /// The connections in a channel that has presence.
    pub(crate) fn present(&mut self, channel: &str) -> anyhow::Result<u64> {
        let answer = self.ask(json!({"type": "presence_stats", "channel": channel}))?;
        let connections = answer["data"]["connections"].as_u64();
        connections.with_context(|| format!("no number of connections in {answer}"))
    }

    /// All connections of the server, with this one: as many as a broadcast goes to.
    pub(crate) fn connections(&mut self) -> anyhow::Result<u64> {
        let answer = self.ask(json!({"type": "broadcast", "data": null, "echo": true}))?;
        let connections = answer["data"]["connections"].as_u64();
        connections.with_context(|| format!("no number of connections in {answer}"))
    }

    /// Asks again until the answer is `expected`, and returns how long that took.
    pub(crate) fn wait_for(
        &mut self,
        what: &str,
        expected: u64,
        limit: Duration,
        question: impl Fn(&mut Self) -> anyhow::Result<u64>,
    ) -> anyhow::Result<Duration> {
        let began = Instant::now();
        loop {
            let came = question(self)?;
            if came == expected {
                return Ok(began.elapsed());
            }
            if began.elapsed() > limit {
                bail!(
                    "{what}: {expected} expected, still {came} after {} s",
                    limit.as_secs()
                );
            }
            thread::sleep(AGAIN);
        }
    }

    /// Lets `time` pass, as a client that is still there.
    pub(crate) fn rest(&mut self, time: Duration) -> anyhow::Result<()> {
        let began = Instant::now();
        while began.elapsed() < time {
            self.ask(json!({"type": "ping"}))?;
            thread::sleep(
                time.saturating_sub(began.elapsed())
                    .min(Duration::from_secs(1)),
            );
        }
        Ok(())
    }
}

/// TCP connections whose near end is `address` that somebody still holds, by the kernel's own list: what
/// a server has forgotten but not closed is there, and what it has closed but counts is not.
pub(crate) fn held_sockets(address: SocketAddr) -> anyhow::Result<u64> {
    let list = match address {
        SocketAddr::V4(_) => "/proc/net/tcp",
        SocketAddr::V6(_) => "/proc/net/tcp6",
    };
    let text = fs::read_to_string(list).with_context(|| format!("cannot read {list}"))?;
    // Words as they lie in memory, in hexadecimal.
    let word = |bytes: &[u8]| {
        format!(
            "{:08X}",
            u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
        )
    };
    let host: String = match address.ip() {
        IpAddr::V4(ip) => word(&ip.octets()),
        IpAddr::V6(ip) => ip.octets().chunks(4).map(word).collect(),
    };
    let server = format!("{host}:{:04X}", address.port());
    let held = text.lines().skip(1).filter(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let near = fields.next().unwrap_or_default();
        let state = fields.nth(1).unwrap_or_default();
        // Established, and CLOSE_WAIT: the peer has closed, this side has not. All others are the
        // kernel's (proc(5), tcp_states.h).
        near == server && ["01", "08"].contains(&state)
    });
    Ok(held.count() as u64)
}
