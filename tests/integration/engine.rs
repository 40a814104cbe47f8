//! An engine inside the test's own process, so that its counters can be read.

use crate::client::Client;
use crate::raw;
use crate::support::{PATIENCE, eventually};
use ringwire::config::{Config, Listen};
use ringwire::telemetry::counters::Totals;
use ringwire::{Running, Server};
use serde_json::Value;
use std::io::Write as _;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use tungstenite::Message;

/// Connections that a shard has room for, unless a test says otherwise.
const ROOM: u32 = 2048;

const TEN_MINUTES_MS: u32 = 600_000;

/// A server of two shards on a random port of 127.0.0.1, and a witness: a connected client that
/// must not notice what a test does to the server.
pub(crate) struct Engine {
    // Dropped first, because the server waits for its clients when it is dropped.
    witness: Witness,
    running: Running,
    address: SocketAddr,
}

/// The configuration of tests: two shards, a random port, no deadlines; and what `change` changes.
pub(crate) fn config(change: impl FnOnce(&mut Config)) -> Config {
    let mut config = Config {
        listen: vec!["127.0.0.1:0".parse().expect("an address")],
        shards: Some(2),
        ..Config::default()
    };
    config.client.connections_per_shard = Some(ROOM);
    // Nothing happens because time passes, unless a test is about that: a machine may be slow.
    config.heartbeat.interval_ms = 0;
    config.timeouts.handshake_ms = TEN_MINUTES_MS;
    config.timeouts.close_ms = TEN_MINUTES_MS;
    config.timeouts.write_ms = TEN_MINUTES_MS;
    change(&mut config);
    config
}

/// A connection with deadlines.
pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the server listens");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

impl Engine {
    /// With the defaults.
    pub(crate) fn start() -> Self {
        Self::configured(|_| ())
    }

    /// With a changed configuration.
    pub(crate) fn configured(change: impl FnOnce(&mut Config)) -> Self {
        let server = Server::builder().config(config(change)).build();
        let running = server.and_then(Server::start).expect("the server starts");
        let address = running
            .addresses()
            .iter()
            .find_map(|address| match address {
                Listen::Tcp(address) => Some(*address),
                Listen::Unix(_) => None,
            });
        let address = address.expect("one of the listeners is TCP");
        Self {
            witness: Witness::new(connect(address)),
            running,
            address,
        }
    }

    /// The server itself.
    pub(crate) fn running(&self) -> &Running {
        &self.running
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// A plain socket.
    pub(crate) fn connect(&self) -> TcpStream {
        connect(self.address)
    }

    /// A client of the channels.
    pub(crate) fn open(&self) -> Client<TcpStream> {
        Client::over(self.connect(), "/ws")
    }

    /// What all shards have counted.
    pub(crate) fn totals(&self) -> Totals {
        self.running.totals()
    }

    /// Waits until the counters are as wanted.
    pub(crate) fn wait_for(&self, what: &str, mut wanted: impl FnMut(&Totals) -> bool) -> Totals {
        eventually(what, || {
            let totals = self.totals();
            wanted(&totals).then_some(totals)
        })
    }

    /// The witness still gets its messages, a new client is served, and beside the witness no
    /// connection is left in any shard.
    pub(crate) fn is_undisturbed(&mut self) {
        self.serves_others();
        self.wait_for("only the witness is connected", |totals| {
            totals.connections == 1 && totals.open == 1
        });
    }

    /// The witness still gets its messages, and a new client is served.
    pub(crate) fn serves_others(&mut self) {
        let mut fresh = self.open();
        fresh.is_alive();
        fresh.publish("witness", "still here?");
        assert_eq!(self.witness.next()["data"], "still here?");
        fresh.bye();
    }

    /// The witness closes its connection, for a test that ends the server by itself.
    pub(crate) fn witness_goes(&mut self) {
        self.witness.bye();
    }

    /// The end of every test: nobody was disturbed, everything that was opened was closed, and the
    /// server ends when it is asked to.
    pub(crate) fn finish(mut self) -> Totals {
        self.is_undisturbed();
        self.witness.bye();
        let totals = self.wait_for("no connection is left", |totals| totals.connections == 0);
        assert_eq!(totals.open, 0);
        let ended: u64 = totals.close_codes.values().sum();
        assert_eq!(totals.upgrades, ended, "each connection ends once");
        assert_eq!(totals.arrived, totals.handed_over);
        assert_eq!(totals.stale_completions, 0);
        assert_eq!((totals.accept_errors, totals.hand_over_errors), (0, 0));
        self.running
            .stop(PATIENCE.as_millis() as u32)
            .expect("the server ends");
        totals
    }
}

/// A client that hears what is published to "witness", and reads on a thread of its own, so that it
/// answers pings whatever the test does.
struct Witness {
    stream: TcpStream,
    heard: Receiver<Value>,
}

impl Witness {
    fn new(stream: TcpStream) -> Self {
        let own = stream.try_clone().unwrap();
        let mut client = Client::over(stream, "/ws");
        client.subscribe("witness");
        // However quiet the test is, it waits.
        own.set_read_timeout(None).unwrap();
        let (tell, heard) = mpsc::channel();
        thread::spawn(move || {
            // The end of the connection, or of the test.
            while let Ok(message) = client.socket.read() {
                if let Message::Text(text) = message {
                    let frame = serde_json::from_str(&text).expect("JSON");
                    if tell.send(frame).is_err() {
                        break;
                    }
                }
            }
        });
        Self { stream: own, heard }
    }

    /// The next frame, which must be a message.
    fn next(&self) -> Value {
        let frame = self.heard.recv_timeout(PATIENCE).expect("a message");
        assert_eq!(frame["type"], "message", "{frame}");
        frame
    }

    /// Closes. The server's answer ends the thread.
    fn bye(&mut self) {
        self.stream
            .write_all(&raw::frame(0x88, b"\x03\xe8"))
            .expect("the connection is open");
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        // Its thread holds the connection too.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}
