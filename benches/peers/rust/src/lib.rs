//! What Rust's WebSocket crates as peers of `scripts/compare` share: arguments, the listener, and channels
//! as their examples have them (a list of senders behind a mutex that only one thread takes).

use std::collections::HashMap;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::exit;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use futures_channel::mpsc::UnboundedSender;
use serde::Deserialize;
use serde_json::json;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Connections that the kernel completes before they are accepted.
const BACKLOG: u32 = 1_024;

/// Runs a server until a signal ends it: `serve` has each connection. `--version` says instead which
/// version of `peer` this is.
pub fn run<F>(peer: &str, serve: impl Fn(TcpStream) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let port = match words[..] {
        [] => Some(0),
        ["--version"] => {
            println!("{peer} {}, tokio {}", locked(peer), locked("tokio"));
            return;
        }
        ["--port", port] => port.parse::<u16>().ok(),
        _ => None,
    };
    let Some(port) = port else {
        eprintln!("usage: {peer}-server [--port 0..65535] | --version");
        exit(2);
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build();
    let served = runtime.and_then(|runtime| runtime.block_on(accept(port, serve)));
    if let Err(error) = served {
        eprintln!("{peer}-server: {error}");
        exit(1);
    }
}

async fn accept<F>(port: u16, serve: impl Fn(TcpStream) -> F) -> std::io::Result<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = listen(port)?;
    println!("listening on ws://{}/echo", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(serve(stream));
    }
}

fn listen(port: u16) -> std::io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    // Linux hands it down to the accepted sockets, which saves them a call each.
    socket.set_nodelay(true)?;
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    socket.listen(BACKLOG)
}

/// The version of a crate in the lock file that this was built with.
fn locked(name: &str) -> &'static str {
    let lock = include_str!("../Cargo.lock");
    let entry = lock.split("[[package]]").find(|entry| {
        let own = entry
            .lines()
            .find_map(|line| line.strip_prefix("name = \""));
        own.and_then(|own| own.strip_suffix('"')) == Some(name)
    });
    let version = entry.and_then(|entry| {
        entry
            .lines()
            .find_map(|line| line.strip_prefix("version = \""))
    });
    version.map_or("of an unknown version", |version| {
        version.trim_end_matches('"')
    })
}

/// Where a connection goes by the path of its request; `None`: nowhere.
#[must_use]
pub fn route(path: &str) -> Option<Route> {
    match path {
        "/echo" => Some(Route::Echo),
        "/ws" => Some(Route::Channels),
        _ => None,
    }
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Messages go back as they came.
    Echo,
    /// Commands as ringwire's: `subscribe` and `publish`.
    Channels,
}

/// A command of a client.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Command {
    Subscribe {
        channel: String,
        #[serde(default)]
        id: serde_json::Value,
    },
    Publish {
        channel: String,
        data: serde_json::Value,
    },
}

/// The channels: senders of their subscribers. `M` is what waits for a connection; cloning it must not
/// copy its bytes.
pub struct Hub<M> {
    inner: Mutex<Channels<M>>,
}

struct Channels<M> {
    subscribers: HashMap<String, Vec<UnboundedSender<M>>>,
    offset: u64,
}

impl<M> Default for Hub<M> {
    fn default() -> Self {
        Self {
            inner: Mutex::new(Channels {
                subscribers: HashMap::new(),
                offset: 0,
            }),
        }
    }
}

impl<M: Clone + From<String>> Hub<M> {
    /// Does what a text message of the connection behind `sender` asks for.
    ///
    /// # Errors
    /// When it is neither a subscription nor a publish.
    pub fn command(
        &self,
        text: &str,
        sender: &UnboundedSender<M>,
    ) -> Result<(), serde_json::Error> {
        // A panic ends the process.
        let mut channels = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        match serde_json::from_str(text)? {
            Command::Subscribe { channel, id } => {
                let offset = channels.offset;
                let answer = json!({
                    "type": "subscribed", "channel": channel, "id": id, "offset": offset, "epoch": 1,
                });
                // Who is gone already hears nothing.
                let _ = sender.unbounded_send(answer.to_string().into());
                let subscribers = channels.subscribers.entry(channel).or_default();
                subscribers.push(sender.clone());
            }
            Command::Publish { channel, data } => {
                channels.offset += 1;
                let message = M::from(envelope(&channel, &data, channels.offset));
                if let Some(subscribers) = channels.subscribers.get_mut(&channel) {
                    // Those who are gone go.
                    subscribers.retain(|to| to.unbounded_send(message.clone()).is_ok());
                }
            }
        }
        Ok(())
    }
}

/// What ringwire sends its subscribers, so that as many bytes are on the wire.
fn envelope(channel: &str, data: &serde_json::Value, offset: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let timestamp = now.map_or(0.0, |now| now.as_millis() as f64 / 1_000.0);
    let channel = serde_json::Value::from(channel);
    format!(
        r#"{{"type":"message","channel":{channel},"from":null,"data":{data},"offset":{offset},"timestamp":{timestamp}}}"#
    )
}
