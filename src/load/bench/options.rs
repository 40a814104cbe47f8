//! What a benchmark is asked to do.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

/// A benchmark: against what, with how many clients, and what they do.
#[derive(Clone, Debug)]
pub struct Options {
    /// The server.
    pub server: Target,
    /// The other end.
    pub clients: Clients,
    /// What happens.
    pub scenario: Bench,
    /// What has to be said beside the figures, if anything.
    pub notes: Vec<String>,
    /// Where the page with the plots and the raw data go, if anywhere.
    pub report: Option<PathBuf>,
    /// Show on standard error what happens.
    pub progress: bool,
}

/// Where the server is.
#[derive(Clone, Debug)]
pub enum Target {
    /// A process of its own is started for the run.
    Own(Own),
    /// It runs already.
    Running(Running),
}

/// How to start a server for the run.
#[derive(Clone, Debug)]
pub struct Own {
    /// The program.
    pub program: PathBuf,
    /// The cores (operating system indexes) of its shards.
    pub cores: Vec<usize>,
    /// Shards, if not one for each of those cores.
    pub shards: Option<usize>,
    /// The text of its configuration file, beside what the scenario needs.
    pub config: String,
}

/// A server that runs already.
#[derive(Clone, Debug)]
pub struct Running {
    /// Where it listens.
    pub address: SocketAddr,
    /// The `Host` of the upgrade request.
    pub host: String,
    /// Path and query of the upgrade request.
    pub path: String,
    /// Its process on this machine, so that memory and processor time can be measured.
    pub pid: Option<u32>,
}

/// The client side of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Clients {
    /// Connections.
    pub connections: u32,
    /// Client threads, each with a ring of its own. `None`: as few as hold the connections.
    pub threads: Option<u32>,
    /// Cores (operating system indexes) that the threads are pinned to, in turn. Empty: anywhere.
    pub cores: Vec<usize>,
    /// Local addresses that connections come from, in turn. Empty: the kernel's choice, or, to a server on
    /// loopback, an address of loopback for each thread.
    pub sources: Vec<IpAddr>,
    /// Handshakes in flight for each thread. `None`: 64; 1,024 where everybody comes back at once, and where
    /// connections come and go.
    pub connecting: Option<u32>,
    /// Further lines of the upgrade request. (Of these, only the names are written anywhere.)
    #[serde(serialize_with = "names_only")]
    pub headers: Vec<(String, String)>,
    /// Subprotocols to offer, comma-separated.
    pub subprotocols: Option<String>,
    /// Connections that may fail before the run does.
    pub failures_max: u32,
    /// Never sleep while traffic runs.
    pub spin: bool,
}

fn names_only<S: serde::Serializer>(
    headers: &[(String, String)],
    to: S,
) -> Result<S::Ok, S::Error> {
    to.collect_seq(headers.iter().map(|(name, _)| name))
}

/// What happens.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bench {
    /// Connections open and stay.
    Idle {
        /// For how long, once all are open.
        hold: Duration,
    },
    /// Connections open at a steady rate.
    Ramp {
        /// New connections per second.
        rate: u32,
        /// How long they stay once all are open.
        hold: Duration,
    },
    /// Every message comes back.
    Echo(Echoes),
    /// Echo at a rate that leaves the server idle most of the time, over minutes.
    Latency {
        /// Length of a message, in bytes.
        size_bytes: usize,
        /// Messages per second in all.
        rate: u32,
        /// For how long.
        duration: Duration,
    },
    /// Silence, then a message on every connection at once; again and again.
    Burst {
        /// Length of a message, in bytes.
        size_bytes: usize,
        /// How long the silence lasts.
        silence: Duration,
        /// How often.
        rounds: u32,
    },
    /// Publishes to subscribers.
    Fanout(Publishes),
    /// Some subscribers stop reading: what the others notice.
    Slow {
        /// Of a hundred subscribers, how many stop.
        percent: u32,
        /// What is published.
        publishes: Publishes,
    },
    /// Connections come and go at a rate, beside others with steady traffic.
    Churn {
        /// New connections per second.
        rate: u32,
        /// How long each stays.
        stay_ms: u32,
        /// The steady traffic.
        steady: Steady,
    },
    /// All connections are cut, and all come back at once.
    Storm {
        /// How often.
        rounds: u32,
    },
    /// Connections with a channel of their own and a common one: held, heard, told something at once, gone.
    Million {
        /// How long they are held.
        hold: Duration,
        /// The clients are behind a TUN device, and are no sockets.
        tun: Option<Tun>,
    },
    /// All connections but those with steady traffic end at once.
    MassDisconnect {
        /// The steady traffic.
        steady: Steady,
    },
}

impl Bench {
    /// What the command line calls it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Idle { .. } => "idle",
            Self::Ramp { .. } => "ramp",
            Self::Echo(_) => "echo",
            Self::Latency { .. } => "latency",
            Self::Burst { .. } => "burst",
            Self::Fanout(_) => "fanout",
            Self::Slow { .. } => "slow",
            Self::Churn { .. } => "churn",
            Self::Storm { .. } => "storm",
            Self::Million { .. } => "million",
            Self::MassDisconnect { .. } => "mass-disconnect",
        }
    }

    /// The TUN device that the clients are behind, if they are.
    #[must_use]
    pub const fn tun(&self) -> Option<Tun> {
        match self {
            Self::Million { tun, .. } => *tun,
            _ => None,
        }
    }

    /// Whether the clients speak ringwire's protocol. The others are for any WebSocket server, those with
    /// messages for one that echoes.
    #[must_use]
    pub const fn speaks_ringwire(&self) -> bool {
        matches!(
            self,
            Self::Fanout(_) | Self::Slow { .. } | Self::Million { .. }
        )
    }
}

/// Clients in user space behind a TUN device: the kernel's memory is the server's alone.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Tun {
    /// Packets for them that the device holds. More are lost, and the server sends them again.
    pub queue: u32,
}

/// Echo traffic.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Echoes {
    /// Length of a message, in bytes.
    pub size_bytes: usize,
    /// Messages that a connection has on the way.
    pub depth: u32,
    /// Messages per second in all; `None`: as many as come back.
    pub rate: Option<u32>,
    /// For how long.
    pub duration: Duration,
}

/// Publishes to channels.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Publishes {
    /// Channels among which the subscribers are dealt out, one each.
    pub channels: u32,
    /// Connections that publish.
    pub publishers: u32,
    /// Length of a published string, in bytes.
    pub size_bytes: usize,
    /// Publishes per second and publisher; `None`: the next one when all have the one before.
    pub rate: Option<u32>,
    /// Publishes that a publisher has on the way at most.
    pub depth: u32,
    /// For how long.
    pub duration: Duration,
}

/// Echo traffic of some connections, so that it can be seen what others do to them.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Steady {
    /// Connections with it.
    pub connections: u32,
    /// Messages per second in all.
    pub rate: u32,
    /// Length of each half of the run: the quiet time, and the time with the event.
    pub duration: Duration,
}
