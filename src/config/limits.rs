//! Every bound of the system, each with its unit and its reason.
//!
//! A [`Bound`] belongs to one setting of [`super::settings::SETTINGS`] or
//! [`super::rule_settings::RULE_SETTINGS`], which is where its name is; the plain constants are bounds that nobody can set. Relations between them are asserted at the
//! end of this file, at compile time.

/// What a number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Things: shards, entries, channels.
    Count,
    /// Bytes.
    Bytes,
    /// Milliseconds.
    Milliseconds,
    /// Microseconds.
    Microseconds,
}

/// Default, minimum and maximum of one numeric setting.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// The value when nobody sets one; `None`: worked out at start (`auto`).
    pub default: Option<u64>,
    /// Smallest value, apart from 0 where `zero` allows it.
    pub min: u64,
    /// Largest value.
    pub max: u64,
    /// What 0 means, where 0 is allowed although it lies below `min`.
    pub zero: Option<&'static str>,
    /// Whether only powers of two are allowed.
    pub power_of_two: bool,
    /// What the numbers count.
    pub unit: Unit,
    /// Why the bounds are where they are.
    pub why: &'static str,
}

impl Bound {
    const fn new(unit: Unit, default: u64, min: u64, max: u64, why: &'static str) -> Bound {
        Bound {
            default: Some(default),
            min,
            max,
            zero: None,
            power_of_two: false,
            unit,
            why,
        }
    }

    const fn auto(unit: Unit, min: u64, max: u64, why: &'static str) -> Bound {
        Bound {
            default: None,
            min,
            max,
            zero: None,
            power_of_two: false,
            unit,
            why,
        }
    }

    const fn or_zero(mut self, meaning: &'static str) -> Bound {
        self.zero = Some(meaning);
        self
    }

    const fn power_of_two(mut self) -> Bound {
        self.power_of_two = true;
        self
    }

    /// Whether a value is allowed.
    pub const fn allows(&self, value: u64) -> bool {
        if value == 0 && self.zero.is_some() {
            return true;
        }
        value >= self.min && value <= self.max && (!self.power_of_two || value.is_power_of_two())
    }

    /// The default, for a setting that has one.
    ///
    /// # Panics
    /// For a bound whose default is worked out at start; in a constant that is a compile error.
    pub const fn default(&self) -> u64 {
        match self.default {
            Some(value) => value,
            None => panic!("this setting has no fixed default"),
        }
    }
}

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;
const SECOND_MS: u64 = 1_000;
const MINUTE_MS: u64 = 60 * SECOND_MS;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const DAY_MS: u64 = 24 * HOUR_MS;

// ---- Bounds that are not settings ------------------------------------------------------------

/// Connections per shard: what the kernel allows for one table of direct descriptors
/// (`IORING_MAX_FIXED_FILES`); a key in a token would have room for sixteen times as many.
pub const MAX_CONNECTIONS_PER_SHARD: u32 = 1 << 20;

/// What an envelope may add to a message's data, in bytes: the channel's name and the user's, each
/// written as `\u00XX` escapes at worst, and the fixed fields.
pub const ENVELOPE_BYTES: u64 = 64 * KIB;

/// How often the sweep comes by each connection, in milliseconds. Deadlines that the sweep watches
/// cannot be shorter.
pub const SWEEP_MS: u64 = SECOND_MS;

/// Addresses to listen on. Every one costs each shard a socket and accepts in flight; more than a
/// handful is a mistake in a template.
pub const MAX_LISTENERS: usize = 16;

/// Connections that the kernel may hold for a listening socket between their handshake and their
/// accept. listen(2) cuts it down to `net.core.somaxconn` (4,096 unless raised), which is therefore
/// the one bound to set on a host that expects a burst; this one only stays out of its way.
pub const LISTEN_BACKLOG: i32 = 65_535;

/// Bytes of a Unix socket's path: `sun_path` has 108 with its terminating zero (`unix(7)`).
pub const MAX_UNIX_PATH_BYTES: usize = 107;

/// Paths that accept WebSocket upgrades. They are compared one after another at each handshake.
pub const MAX_WEBSOCKET_PATHS: usize = 64;

/// Bytes of a path that accepts upgrades: it must fit into the smallest request head with room for
/// the headers of an upgrade (about 200 bytes).
pub const MAX_WEBSOCKET_PATH_BYTES: usize = 255;

/// Highest index of a core: `sched_setaffinity` is called with a `cpu_set_t`, which has 1,024 bits.
pub const MAX_CORE: usize = 1023;

/// Rules for channels. Every command that names a channel compares the name with the patterns in turn.
pub const MAX_CHANNEL_RULES: usize = 256;

/// Bytes of a rule's pattern: no channel's name is longer (`client.channel_name_bytes`).
pub const MAX_CHANNEL_PATTERN_BYTES: usize = 1024;

/// Different wildcards that the connections of one shard may be subscribed to. Every shard has to know those
/// of all shards, so that one costs some 200 bytes on each, at worst 900 where names have 255 bytes: 10,000
/// on each of 16 shards are 32 MB per shard, at worst 144 MB. It is enough for a wildcard of its own for
/// every user on a shard, such as `user.42.>`, where there are 10,000.
pub const MAX_WILDCARDS_PER_SHARD: usize = 10_000;

/// Levels of a wildcard, and those of them that may be `*`. A name can match every mixture of its own levels
/// and `*`, and a lookup meets all that somebody is subscribed to: with these bounds some 2,500 at most,
/// without them 16,000 where 64 connections are subscribed to all mixtures in 14 levels (2 ms per lookup).
pub const MAX_WILDCARD_LEVELS: usize = 16;
/// See [`MAX_WILDCARD_LEVELS`].
pub const MAX_WILDCARD_ONES: usize = 3;

/// User ids that one setting may list. Who has more than these needs a backend to ask, not a file to
/// edit.
pub const MAX_LISTED_USERS: usize = 1000;

/// Bytes of a user id: it is repeated in every message that the user publishes. A UUID has 36, and few
/// e-mail addresses have more than 64.
pub const MAX_USER_ID_BYTES: usize = 128;

/// Bytes of a message's conflation key: it is repeated in every message that has it. A UUID has 36, and
/// a path into a document seldom more than 64.
pub const MAX_KEY_BYTES: usize = 64;

/// Arrays and objects within each other in `data` that is mapped between JSON and MessagePack. Readers on
/// both sides have bounds of their own: serde_json's is 127, and one widespread MessagePack library
/// writes no more than 100.
pub const MAX_DATA_NESTING: usize = 100;

/// Networks whose `X-User-ID` is believed. They are compared one after another at each handshake; a
/// proxy has one or two, a cloud's load balancer a dozen.
pub const MAX_TRUSTED_PEERS: usize = 64;

/// Bytes of a configuration file: hundreds of times a file with every setting in it. A path that
/// names a device or a log by mistake must not fill the memory.
pub const MAX_CONFIG_FILE_BYTES: u64 = MIB;

/// Users that one answer names of a channel's members: more are read in several pages.
pub const PRESENCE_PAGE_MEMBERS: usize = 1000;

/// Messages that one answer gives of a channel's history. Each is some 100 bytes on its way from the
/// home shard, whatever its data; who wants more asks again.
pub const HISTORY_PAGE_MESSAGES: usize = 1000;

/// Bytes of a log filter: some forty directives.
pub const MAX_LOG_FILTER_BYTES: usize = 4096;

// ---- Process ---------------------------------------------------------------------------------

/// `shards`.
pub const SHARDS: Bound = Bound::auto(
    Unit::Count,
    1,
    1024,
    "every shard is a thread with a ring, and has a queue to every other shard (a million of them at \
     1,024 shards). More shards than cores only helps where RLIMIT_NOFILE caps one ring's table of \
     connections",
);

// ---- Heartbeat -------------------------------------------------------------------------------

/// `heartbeat.interval_ms`.
pub const HEARTBEAT_INTERVAL_MS: Bound = Bound::new(
    Unit::Milliseconds,
    25 * SECOND_MS,
    SWEEP_MS,
    HOUR_MS,
    "proxies and mobile networks drop a connection that is quiet for 30 to 60 seconds, so 25 s keeps \
     it open. The sweep comes by once a second, so less cannot be kept; more than an hour is no \
     heartbeat",
)
.or_zero("no pings");

/// `heartbeat.timeout_ms`.
pub const HEARTBEAT_TIMEOUT_MS: Bound = Bound::new(
    Unit::Milliseconds,
    10 * SECOND_MS,
    SWEEP_MS,
    10 * MINUTE_MS,
    "a phone that changes networks is back within seconds, and TCP repeats a lost segment several \
     times within 10 s. The sweep comes by once a second, so less cannot be kept",
);

// ---- Timeouts --------------------------------------------------------------------------------

/// `timeouts.handshake_ms`.
pub const HANDSHAKE_TIMEOUT_MS: Bound = Bound::new(
    Unit::Milliseconds,
    10 * SECOND_MS,
    100,
    10 * MINUTE_MS,
    "a request head is one packet; 10 s forgive a lost one on a bad network. A client that sends a \
     byte now and then holds a connection this long at most. Under 100 ms, distant clients fail",
);

/// `timeouts.close_ms`.
pub const CLOSE_TIMEOUT_MS: Bound = Bound::new(
    Unit::Milliseconds,
    5 * SECOND_MS,
    100,
    10 * MINUTE_MS,
    "a client answers a close frame at once (RFC 6455 §5.5.1); 5 s leave room for the data it still \
     has to read before it. Under 100 ms, distant clients see a reset instead of the close code",
);

/// `timeouts.write_ms`.
pub const WRITE_TIMEOUT_MS: Bound = Bound::new(
    Unit::Milliseconds,
    30 * SECOND_MS,
    SWEEP_MS,
    HOUR_MS,
    "a client that takes nothing for 30 s is gone or stopped, and its outbox is memory. The sweep \
     comes by once a second, so less cannot be kept",
);

/// `timeouts.drain_ms`.
pub const DRAIN_TIMEOUT_MS: Bound = Bound::new(
    Unit::Milliseconds,
    30 * SECOND_MS,
    100,
    HOUR_MS,
    "supervisors kill what has not ended some time after SIGTERM (systemd after 90 s, Kubernetes \
     after 30 s). Under 100 ms the close frames do not get out",
)
.or_zero("tell clients and end at once");

// ---- What one client may make the server hold --------------------------------------------------

/// `client.connections_per_shard`.
pub const CONNECTIONS_PER_SHARD: Bound = Bound::auto(
    Unit::Count,
    1,
    MAX_CONNECTIONS_PER_SHARD as u64,
    "the size of a ring's table of direct descriptors (8 bytes each), which RLIMIT_NOFILE caps; the \
     kernel allows no larger one (IORING_MAX_FIXED_FILES)",
);

/// `client.message_bytes`.
pub const MESSAGE_BYTES: Bound = Bound::new(
    Unit::Bytes,
    MIB,
    KIB,
    256 * MIB,
    "a message is held whole before it is published, and again in the outbox of each slow \
     subscriber. Under 1 KiB not even the envelope of a subscription fits",
);

/// `client.echo_message_bytes`.
pub const ECHO_MESSAGE_BYTES: Bound = Bound::new(
    Unit::Bytes,
    16 * MIB,
    KIB,
    256 * MIB,
    "conformance suites echo messages of 16 MiB; a message is held whole before it is sent back",
);

/// `client.fragments`.
pub const FRAGMENTS: Bound = Bound::new(
    Unit::Count,
    4096,
    1,
    1 << 20,
    "every fragment costs a header to parse whatever it carries, so a message of a million empty \
     fragments is an attack. Streaming clients cut messages into pieces of a few KiB; 1 forbids \
     fragmentation",
);

/// `client.outbox_bytes`.
pub const OUTBOX_BYTES: Bound = Bound::new(
    Unit::Bytes,
    MIB + ENVELOPE_BYTES,
    KIB + ENVELOPE_BYTES,
    GIB,
    "what one slow client may cost; must hold the largest message (client.message_bytes) with its \
     envelope of up to 64 KiB, or that message could never be delivered",
);

/// `client.head_bytes`.
pub const HEAD_BYTES: Bound = Bound::new(
    Unit::Bytes,
    8 * KIB,
    512,
    64 * KIB,
    "8 KiB is what proxies and browsers count on for a request head with cookies. An upgrade needs \
     at least some 200 bytes and its path",
);

/// `client.head_lines`.
pub const HEAD_LINES: Bound = Bound::new(
    Unit::Count,
    64,
    16,
    256,
    "a browser behind two proxies sends about 30 header lines, the shortest upgrade 5; every line \
     costs parsing before anything is known about the client",
);

/// `client.channels`.
pub const CHANNELS: Bound = Bound::new(
    Unit::Count,
    128,
    1,
    65_536,
    "every subscription costs memory on the client's shard, and an entry to remove when the \
     connection ends; a connection with tens of thousands stalls its shard when it closes",
);

/// `client.channel_name_bytes`.
pub const CHANNEL_NAME_BYTES: Bound = Bound::new(
    Unit::Bytes,
    255,
    1,
    1024,
    "the name is repeated in every message of the channel",
);

/// `client.mesh_pending_bytes`.
pub const MESH_PENDING_BYTES: Bound = Bound::new(
    Unit::Bytes,
    64 * MIB,
    MIB,
    16 * GIB,
    "what a stalled shard may cost in memory; beyond it, publishers are told to slow down. Must hold the largest message (client.message_bytes) with its envelope",
);

// ---- Channels and their history ------------------------------------------------------------------

/// `channels.data_bytes`.
pub const CHANNEL_DATA_BYTES: Bound = Bound::auto(
    Unit::Bytes,
    1,
    256 * MIB,
    "data comes in a message, and no message is larger than client.message_bytes. A channel for short \
     messages can refuse longer ones, of which each subscriber would get a copy",
);

/// `channels.history.size`.
pub const HISTORY_SIZE: Bound = Bound::new(
    Unit::Count,
    0,
    1,
    100_000,
    "every message that is kept is memory: 100,000 of 1 KiB are 98 MiB for one channel, more than \
     history.shard_bytes allows a whole shard unless it is raised. Who has to keep more needs a \
     database",
)
.or_zero("no history");

/// `channels.subscribers`.
pub const CHANNEL_SUBSCRIBERS: Bound = Bound::auto(
    Unit::Count,
    1,
    100_000_000,
    "more than one machine holds; without this setting there is no bound but the number of connections",
);

/// `channels.delivery.batch_ms`.
pub const DELIVERY_BATCH_MS: Bound = Bound::new(
    Unit::Milliseconds,
    0,
    1,
    SECOND_MS,
    "people notice a delay from about 100 ms on; what waits for a second is memory",
)
.or_zero("messages are sent at once");

/// `channels.delivery.batch_bytes`.
pub const DELIVERY_BATCH_BYTES: Bound = Bound::new(
    Unit::Bytes,
    64 * KIB,
    KIB,
    256 * KIB,
    "what is gathered is memory per channel, shard and form; from 256 KiB on one send does not take all of it",
);

/// `channels.history.ttl_ms`.
pub const HISTORY_TTL_MS: Bound = Bound::new(
    Unit::Milliseconds,
    5 * MINUTE_MS,
    SECOND_MS,
    30 * DAY_MS,
    "5 minutes are enough for a tunnel, a page that is loaded again or a restart of the client. Under \
     1 s a message is gone before a client has reconnected. History is lost with the process, and few \
     run for 30 days without an update",
);

/// `channels.presence.events_max_members`.
pub const PRESENCE_EVENTS_MAX_MEMBERS: Bound = Bound::new(
    Unit::Count,
    100,
    1,
    1_000_000,
    "everybody is told of everybody: as many members that come within a minute are their square in \
     frames, 10,000 for 100 members, and nobody reads the names of more",
);

/// `channels.presence.counts_interval_ms`.
pub const PRESENCE_COUNTS_INTERVAL_MS: Bound = Bound::new(
    Unit::Milliseconds,
    5 * SECOND_MS,
    SWEEP_MS,
    HOUR_MS,
    "a number of viewers that is 5 s old is new enough. The sweep comes by once a second, so less \
     cannot be kept",
);

/// `history.shard_bytes`.
pub const HISTORY_SHARD_BYTES: Bound = Bound::new(
    Unit::Bytes,
    64 * MIB,
    MIB,
    64 * GIB,
    "rules bound the history of one channel, and clients choose how many channels there are: this \
     bounds what all of them cost together. Under 1 MiB not even one large message fits; more than \
     64 GiB is more than a core's share of most machines",
);

// ---- The ring --------------------------------------------------------------------------------

/// `ring.entries`.
pub const RING_ENTRIES: Bound = Bound::new(
    Unit::Count,
    512,
    64,
    32_768,
    "the queue is handed to the kernel when it is full, and fan-out gains nothing beyond 512 sends \
     per hand-over (measured). The kernel's limit is 32,768 (io_uring_setup(2))",
)
.power_of_two();

/// `ring.completion_entries`.
pub const RING_COMPLETION_ENTRIES: Bound = Bound::new(
    Unit::Count,
    16_384,
    256,
    65_536,
    "holds what one turn completes at worst, at 16 bytes each; an overflow loses nothing but costs \
     time. The kernel's limit is 65,536, and it wants at least ring.entries",
)
.power_of_two();

/// `ring.buffers`.
pub const RING_BUFFERS: Bound = Bound::new(
    Unit::Count,
    256,
    8,
    32_768,
    "256 measured the same as 4,096, and a buffer ring becomes resident as a whole (2 KiB each). The \
     kernel's limit is 32,768 (io_uring_register_buf_ring(3))",
)
.power_of_two();

/// `ring.large_buffers`.
pub const RING_LARGE_BUFFERS: Bound = Bound::new(
    Unit::Count,
    16,
    1,
    4096,
    "one is in use only while a connection is in the middle of a large message; a buffer ring \
     becomes resident as a whole (64 KiB each, so 4,096 are 256 MiB per shard)",
)
.power_of_two();

/// `ring.wait_us`.
pub const RING_WAIT_US: Bound = Bound::new(
    Unit::Microseconds,
    2000,
    1,
    10_000,
    "parking and waking cost about 15 µs and a dozen system calls, so waiting on the ring pays while \
     messages come; meanwhile the executor's own tasks wait as long as this, and a timer goes off as \
     often (some 20 µs on a virtual machine)",
)
.or_zero("park at once");

/// `ring.min_wait_us`.
pub const RING_MIN_WAIT_US: Bound = Bound::new(
    Unit::Microseconds,
    0,
    1,
    10_000,
    "every message may wait this long for others to share its system call: at 200 µs, 0.83 of the \
     CPU was measured below saturation. Beyond 10 ms people notice",
)
.or_zero("off");

// ---- Relations -------------------------------------------------------------------------------

/// Every bound that is a setting, for the assertions below.
const ALL: [&Bound; 32] = [
    &SHARDS,
    &HEARTBEAT_INTERVAL_MS,
    &HEARTBEAT_TIMEOUT_MS,
    &HANDSHAKE_TIMEOUT_MS,
    &CLOSE_TIMEOUT_MS,
    &WRITE_TIMEOUT_MS,
    &DRAIN_TIMEOUT_MS,
    &CONNECTIONS_PER_SHARD,
    &MESSAGE_BYTES,
    &ECHO_MESSAGE_BYTES,
    &FRAGMENTS,
    &OUTBOX_BYTES,
    &HEAD_BYTES,
    &HEAD_LINES,
    &CHANNELS,
    &CHANNEL_NAME_BYTES,
    &MESH_PENDING_BYTES,
    &CHANNEL_DATA_BYTES,
    &CHANNEL_SUBSCRIBERS,
    &DELIVERY_BATCH_MS,
    &DELIVERY_BATCH_BYTES,
    &HISTORY_SIZE,
    &HISTORY_TTL_MS,
    &PRESENCE_EVENTS_MAX_MEMBERS,
    &PRESENCE_COUNTS_INTERVAL_MS,
    &HISTORY_SHARD_BYTES,
    &RING_ENTRIES,
    &RING_COMPLETION_ENTRIES,
    &RING_BUFFERS,
    &RING_LARGE_BUFFERS,
    &RING_WAIT_US,
    &RING_MIN_WAIT_US,
];

const _: () = {
    let mut i = 0;
    while i < ALL.len() {
        let bound = ALL[i];
        assert!(bound.min <= bound.max);
        if let Some(default) = bound.default {
            assert!(
                bound.allows(default),
                "a default lies outside its own bounds"
            );
        }
        if bound.power_of_two {
            assert!(bound.min.is_power_of_two() && bound.max.is_power_of_two());
        }
        i += 1;
    }

    // The fields of `Config` are as wide as their maxima.
    assert!(HEARTBEAT_INTERVAL_MS.max <= u32::MAX as u64);
    assert!(WRITE_TIMEOUT_MS.max <= u32::MAX as u64);
    assert!(DRAIN_TIMEOUT_MS.max <= u32::MAX as u64);
    assert!(CHANNEL_SUBSCRIBERS.max <= u32::MAX as u64);
    assert!(DELIVERY_BATCH_MS.max <= u32::MAX as u64);
    assert!(HISTORY_SIZE.max <= u32::MAX as u64);
    assert!(HISTORY_TTL_MS.max <= u32::MAX as u64);
    assert!(RING_BUFFERS.max <= u16::MAX as u64);
    assert!(RING_LARGE_BUFFERS.max <= u16::MAX as u64);
    assert!(
        MESH_PENDING_BYTES.max <= usize::MAX as u64,
        "ringwire needs a 64-bit machine"
    );
    assert!(HISTORY_SHARD_BYTES.max <= usize::MAX as u64);

    // A key in a token has 24 bits.
    assert!(MAX_CONNECTIONS_PER_SHARD <= 1 << 24);

    // Any message that is allowed fits into an outbox and between shards, and can be made to.
    assert!(OUTBOX_BYTES.default() >= MESSAGE_BYTES.default() + ENVELOPE_BYTES);
    assert!(OUTBOX_BYTES.min >= MESSAGE_BYTES.min + ENVELOPE_BYTES);
    assert!(OUTBOX_BYTES.max >= MESSAGE_BYTES.max + ENVELOPE_BYTES);
    assert!(MESH_PENDING_BYTES.default() >= MESSAGE_BYTES.default() + ENVELOPE_BYTES);
    assert!(MESH_PENDING_BYTES.max >= MESSAGE_BYTES.max + ENVELOPE_BYTES);

    // Whoever gathers messages need not say how much: the default fits into any outbox.
    assert!(DELIVERY_BATCH_BYTES.default() <= OUTBOX_BYTES.min);

    // A channel's name and a user's, six bytes per byte when escaped, and the fixed fields.
    assert!(2 * 6 * CHANNEL_NAME_BYTES.max + 4 * KIB <= ENVELOPE_BYTES);
    assert!(MAX_USER_ID_BYTES as u64 <= CHANNEL_NAME_BYTES.max);

    // Every channel's name can be a pattern, and a rule can allow what a message may carry.
    assert!(MAX_CHANNEL_PATTERN_BYTES as u64 == CHANNEL_NAME_BYTES.max);
    assert!(CHANNEL_DATA_BYTES.max == MESSAGE_BYTES.max);

    // A path, the word GET, the version and the headers of an upgrade fit into any head.
    assert!(MAX_WEBSOCKET_PATH_BYTES as u64 + 257 <= HEAD_BYTES.min);

    // The kernel wants at least as many completions as submissions, also by default.
    assert!(RING_COMPLETION_ENTRIES.default() >= RING_ENTRIES.default());
    assert!(RING_COMPLETION_ENTRIES.max >= RING_ENTRIES.max);

    // What the sweep watches is not shorter than its round.
    assert!(HEARTBEAT_INTERVAL_MS.min >= SWEEP_MS);
    assert!(HEARTBEAT_TIMEOUT_MS.min >= SWEEP_MS);
    assert!(WRITE_TIMEOUT_MS.min >= SWEEP_MS);
};
