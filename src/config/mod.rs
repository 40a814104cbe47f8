//! Raw text (TOML file, `RINGWIRE_…` environment, flags) → checked values, once, at start.
//!
//! Every bound of the system stands in [`limits`] with its reason; nothing below this module
//! reads the environment or checks a value again.

use std::net::SocketAddr;
use std::path::PathBuf;

mod access;
pub mod channels;
mod check;
mod choice;
pub mod cores;
#[cfg(test)]
mod delivery_tests;
mod error;
pub mod filter;
mod help;
pub mod limits;
mod listen;
mod load;
mod pattern;
mod peers;
mod print;
#[cfg(test)]
mod properties;
mod read;
pub mod rule_settings;
#[cfg(test)]
mod rule_tests;
pub mod settings;
mod value;

pub use channels::{
    Access, Allow, ChannelRule, DeliveryRule, HistoryRule, PresenceRule, SlowConsumer,
};
pub use error::{ConfigError, Origin};
pub use listen::ListenSyntaxError;
pub use load::{FlagValue, Loaded, Sources, load};
pub use peers::{PeerSyntaxError, TrustedPeer};
pub(crate) use print::origin_json;
pub use print::reference;
pub use value::{Value, human};

/// The checked configuration of one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where clients connect. At least one.
    pub listen: Vec<Listen>,
    /// Number of shards; `None`: one per physical core that this process may use.
    pub shards: Option<usize>,
    /// Cores (operating system indexes) to pin shards to; `None`: chosen from the topology.
    pub cores: Option<Vec<usize>>,
    /// The endpoints of the public listener.
    pub http: Http,
    /// Keeping connections alive, and noticing dead ones.
    pub heartbeat: Heartbeat,
    /// Deadlines.
    pub timeouts: Timeouts,
    /// Bounds of what one client may make the server hold.
    pub client: ClientLimits,
    /// Who users are, and what they may send apart from channels.
    pub users: Users,
    /// How channels behave: the first rule whose pattern matches a channel's name decides. At least
    /// one; the last matches every name. Default: one rule, [`ChannelRule::default`].
    pub channels: Vec<ChannelRule>,
    /// What the history of channels may cost.
    pub history: HistoryLimits,
    /// The data ring of each shard.
    pub ring: RingConfig,
    /// What goes to standard error.
    pub log: Log,
}

/// One address to listen on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Listen {
    /// IPv4 or IPv6 (`127.0.0.1:9000`, `[::1]:9000`). IPv6 sockets are IPv6-only.
    Tcp(SocketAddr),
    /// A Unix stream socket (`unix:/run/ringwire.sock`).
    Unix(PathBuf),
}

/// The endpoints of the public listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    /// Paths that accept WebSocket upgrades for channels. Default `/` and `/ws`.
    pub websocket_paths: Vec<String>,
    /// Whether `/echo` answers. `None`: only while every listener is loopback or a Unix socket.
    pub echo: Option<bool>,
    /// Whether `GET /` shows the demo page. Default true.
    pub demo_page: bool,
}

/// Keeping connections alive, and noticing dead ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// A ping goes to every connection this often, in milliseconds. Default 25,000. 0: off.
    pub interval_ms: u32,
    /// Without any byte from the client for this long after a ping, the connection is closed
    /// (1001), in milliseconds. Default 10,000.
    pub timeout_ms: u32,
}

/// Deadlines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From accept to a complete upgrade request, in milliseconds. Default 10,000.
    pub handshake_ms: u32,
    /// From the server's close frame to the client's, in milliseconds. Default 5,000.
    pub close_ms: u32,
    /// A send that moves nothing for this long ends the connection, in milliseconds. Default 30,000.
    pub write_ms: u32,
    /// From SIGTERM to exit at the latest, in milliseconds. Default 30,000. 0: clients are told, and
    /// not waited for.
    pub drain_ms: u32,
}

/// Bounds of what one client may make the server hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientLimits {
    /// Connections that one shard holds at most; also the size of its table of direct descriptors.
    /// `None`: as many as RLIMIT_NOFILE allows, at most [`limits::MAX_CONNECTIONS_PER_SHARD`].
    pub connections_per_shard: Option<u32>,
    /// Largest message on a channel endpoint, in bytes. Default 1 MiB.
    pub message_bytes: usize,
    /// Largest message on `/echo`, in bytes. Default 16 MiB.
    pub echo_message_bytes: usize,
    /// Fragments of one message. Default 4,096.
    pub fragments: u32,
    /// Bytes waiting for one slow connection before it is closed with 4010. Default 1 MiB + 64 KiB;
    /// at least `message_bytes` plus [`limits::ENVELOPE_BYTES`].
    pub outbox_bytes: usize,
    /// Bytes of an HTTP request head. Default 8 KiB.
    pub head_bytes: usize,
    /// Header lines of an HTTP request. Default 64.
    pub head_lines: usize,
    /// Channels that one connection may be subscribed to. Default 128.
    pub channels: usize,
    /// Length of a channel's name in bytes. Default 255.
    pub channel_name_bytes: usize,
    /// What may wait for a shard that is behind, in bytes: in its inbox, and as much again on each shard
    /// that sends to it. Default 64 MiB; at least `message_bytes` plus [`limits::ENVELOPE_BYTES`].
    pub mesh_pending_bytes: usize,
}

/// Who users are, and what they may send apart from channels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Users {
    /// Peers whose header `X-User-ID` is believed: it names the user of the connection. Default: none,
    /// and the header means nothing. At most [`limits::MAX_TRUSTED_PEERS`].
    pub trusted_peers: Vec<TrustedPeer>,
    /// Who may send messages to single users. Not [`Access::Named`]: there is no channel's name.
    /// Default [`Access::Authenticated`].
    pub direct: Access,
    /// Who may send messages to everyone. Not [`Access::Named`]. Default [`Access::Nobody`].
    pub broadcast: Access,
}

/// What the history of channels may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryLimits {
    /// What the history of all channels at home on one shard may keep in memory, in bytes: messages and
    /// bookkeeping. When it is full, the oldest messages go first. Default 64 MiB.
    pub shard_bytes: usize,
}

/// The data ring of each shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingConfig {
    /// Submission queue entries; a power of two. Default 512.
    pub entries: u32,
    /// Completion queue entries; a power of two. Default 16,384.
    pub completion_entries: u32,
    /// Receive buffers of 2 KiB; a power of two. Default 256.
    pub buffers: u16,
    /// Receive buffers of 64 KiB; a power of two. Default 16.
    pub large_buffers: u16,
    /// Wait on the ring this long before parking in the executor, in microseconds. Default 100;
    /// 0 where shards outnumber cores.
    pub wait_us: u32,
    /// Gather completions at least this long per wait (Linux 6.12), in microseconds. Default 0: off.
    pub min_wait_us: u32,
}

/// What goes to standard error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// A `tracing` filter (`info`, `ringwire::shard=debug`). Default `info`.
    pub filter: String,
    /// Text for people or one JSON object per line. Default text.
    pub json: bool,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            listen: vec![Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], 9000)))],
            shards: None,
            cores: None,
            http: Http::default(),
            heartbeat: Heartbeat::default(),
            timeouts: Timeouts::default(),
            client: ClientLimits::default(),
            users: Users::default(),
            channels: vec![ChannelRule::default()],
            history: HistoryLimits::default(),
            ring: RingConfig::default(),
            log: Log::default(),
        }
    }
}

impl Config {
    /// Whether `/echo` answers: as set, or else only while nobody but this machine can connect.
    pub fn echo_enabled(&self) -> bool {
        self.http
            .echo
            .unwrap_or_else(|| self.listen.iter().all(Listen::is_local))
    }
}

impl Default for Http {
    fn default() -> Http {
        Http {
            websocket_paths: vec!["/".into(), "/ws".into()],
            echo: None,
            demo_page: true,
        }
    }
}

impl Default for Heartbeat {
    fn default() -> Heartbeat {
        Heartbeat {
            interval_ms: limits::HEARTBEAT_INTERVAL_MS.default() as u32,
            timeout_ms: limits::HEARTBEAT_TIMEOUT_MS.default() as u32,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts {
            handshake_ms: limits::HANDSHAKE_TIMEOUT_MS.default() as u32,
            close_ms: limits::CLOSE_TIMEOUT_MS.default() as u32,
            write_ms: limits::WRITE_TIMEOUT_MS.default() as u32,
            drain_ms: limits::DRAIN_TIMEOUT_MS.default() as u32,
        }
    }
}

impl Default for ClientLimits {
    fn default() -> ClientLimits {
        ClientLimits {
            connections_per_shard: None,
            message_bytes: limits::MESSAGE_BYTES.default() as usize,
            echo_message_bytes: limits::ECHO_MESSAGE_BYTES.default() as usize,
            fragments: limits::FRAGMENTS.default() as u32,
            outbox_bytes: limits::OUTBOX_BYTES.default() as usize,
            head_bytes: limits::HEAD_BYTES.default() as usize,
            head_lines: limits::HEAD_LINES.default() as usize,
            channels: limits::CHANNELS.default() as usize,
            channel_name_bytes: limits::CHANNEL_NAME_BYTES.default() as usize,
            mesh_pending_bytes: limits::MESH_PENDING_BYTES.default() as usize,
        }
    }
}

impl Default for Users {
    fn default() -> Users {
        Users {
            trusted_peers: Vec::new(),
            direct: Access::Authenticated,
            broadcast: Access::Nobody,
        }
    }
}

impl Default for HistoryLimits {
    fn default() -> HistoryLimits {
        HistoryLimits {
            shard_bytes: limits::HISTORY_SHARD_BYTES.default() as usize,
        }
    }
}

impl Default for RingConfig {
    fn default() -> RingConfig {
        RingConfig {
            entries: limits::RING_ENTRIES.default() as u32,
            completion_entries: limits::RING_COMPLETION_ENTRIES.default() as u32,
            buffers: limits::RING_BUFFERS.default() as u16,
            large_buffers: limits::RING_LARGE_BUFFERS.default() as u16,
            wait_us: limits::RING_WAIT_US.default() as u32,
            min_wait_us: limits::RING_MIN_WAIT_US.default() as u32,
        }
    }
}

impl Default for Log {
    fn default() -> Log {
        Log {
            filter: "info".into(),
            json: false,
        }
    }
}
