//! The table of all settings: the one owner of every name, bound and description.
//!
//! Files, environment, flags, `config print`, `docs/configuration.md` and the checks are all made
//! from [`SETTINGS`]; adding a setting is a field of [`Config`] and an entry here. The settings of a
//! rule for channels have a table of their own, [`super::rule_settings::RULE_SETTINGS`].

use super::limits::{self, Bound};
use super::value::Value;
use super::{Config, access, choice, value};

/// One setting of a `T`: of the server, or of a rule for channels.
#[derive(Debug)]
pub struct Setting<T = Config> {
    /// Its name in a file: `section.name`, or `name` at the top.
    pub key: &'static str,
    /// What values it takes.
    pub kind: Kind,
    /// What `auto` means, for a setting that has it; `auto` is then the default.
    pub auto: Option<&'static str>,
    /// Its flag without the dashes, if it has one. A switch also has `--no-…`.
    pub flag: Option<&'static str>,
    /// What it is, in a sentence or two.
    pub description: &'static str,
    /// Reads it.
    pub get: fn(&T) -> Value,
    /// Writes it. False: not a value of this setting's type.
    pub set: fn(&mut T, Value) -> bool,
}

/// What has settings: the server as a whole, or one rule for channels.
pub trait Owner: Default + 'static {
    /// Its settings, in the order of the file. Those of a section stand together.
    const SETTINGS: &'static [Setting<Self>];

    /// Whether the environment can set them too.
    const IN_ENVIRONMENT: bool;

    /// Whether the rules for channels ([`RULES`]) stand beside its settings.
    const HAS_RULES: bool;

    /// Where in a file a setting belongs, in words that follow "belongs".
    fn home(setting: &Setting<Self>) -> String;

    /// How the beginning of a section is written.
    fn header(section: &str) -> String;
}

impl Owner for Config {
    const SETTINGS: &'static [Setting] = SETTINGS;
    const IN_ENVIRONMENT: bool = true;
    const HAS_RULES: bool = true;

    fn home(setting: &Setting) -> String {
        match setting.section_and_name().0 {
            "" => "at the top, before any section".into(),
            section => format!("in {}", Config::header(section)),
        }
    }

    fn header(section: &str) -> String {
        match section {
            RULES => format!("[[{RULES}]]"),
            section => format!("[{section}]"),
        }
    }
}

/// What values a setting takes.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A list of addresses.
    Listen,
    /// A list of cores.
    Cores,
    /// A list of URL paths.
    Paths,
    /// A filter for the log.
    Filter,
    /// A channel's name, or the beginning of names followed by `*`. It has to be set.
    Pattern,
    /// Who may do something.
    Access {
        /// Whether users can stand in a channel's name.
        named: bool,
    },
    /// A list of networks, which may be empty.
    Networks,
    /// One of these words.
    Choice(&'static [Word]),
    /// True or false.
    Switch,
    /// A number within bounds.
    Number(&'static Bound),
}

/// One word of a [`Kind::Choice`].
#[derive(Clone, Copy, Debug)]
pub struct Word {
    /// As it stands in a file.
    pub word: &'static str,
    /// What it means: what follows the word and a colon.
    pub meaning: &'static str,
}

impl Kind {
    /// Whether it is a list, with commas between its items in the environment and in flags.
    pub const fn is_list(self) -> bool {
        matches!(self, Kind::Listen | Kind::Paths | Kind::Networks)
    }
}

impl Setting {
    /// Its name in the environment: `RINGWIRE_HEARTBEAT_INTERVAL_MS`.
    pub fn variable(&self) -> String {
        format!(
            "{VARIABLE_PREFIX}{}",
            self.key.replace('.', "_").to_ascii_uppercase()
        )
    }
}

impl<T: Owner> Setting<T> {
    /// Its section and its name there; the section is empty for what stands outside of any.
    pub fn section_and_name(&self) -> (&'static str, &'static str) {
        self.key.split_once('.').unwrap_or(("", self.key))
    }

    /// The default as it would stand in a file.
    pub fn default_toml(&self) -> String {
        value::to_toml(&(self.get)(&T::default()))
    }

    /// What values are allowed, for errors and for the documentation.
    pub fn allowed(&self) -> String {
        let allowed = match self.kind {
            Kind::Listen => format!(
                "1 to {} addresses such as 127.0.0.1:9000, [::1]:9000 or unix:/run/ringwire.sock",
                limits::MAX_LISTENERS
            ),
            Kind::Cores => format!(
                "a list of cores such as 0,2-5, each at most {}",
                limits::MAX_CORE
            ),
            Kind::Paths => format!(
                "1 to {} paths such as /ws, each at most {} bytes",
                limits::MAX_WEBSOCKET_PATHS,
                limits::MAX_WEBSOCKET_PATH_BYTES
            ),
            Kind::Filter => {
                "off, error, warn, info, debug, trace, or levels by module such as ringwire::shard=debug,warn".into()
            },
            Kind::Pattern => format!(
                "a name such as news, or the beginning of names with * at its end such as chat:*; 1 to {} \
                 bytes, no control characters",
                limits::MAX_CHANNEL_PATTERN_BYTES
            ),
            Kind::Access { named } => format!(
                "{}, or a list of 1 to {} user ids such as [\"42\", \"43\"]{}, each of 1 to {} bytes without \
                 control characters",
                access::words(named),
                limits::MAX_LISTED_USERS,
                if T::IN_ENVIRONMENT {
                    " (in the environment users:42,43)"
                } else {
                    ""
                },
                limits::MAX_USER_ID_BYTES
            ),
            Kind::Networks => format!(
                "at most {} networks such as 10.0.0.0/8 or ::1/128, addresses such as 127.0.0.1, or unix",
                limits::MAX_TRUSTED_PEERS
            ),
            Kind::Choice(words) => choice::allowed(words),
            Kind::Switch if self.auto.is_some() => return "true, false or auto".into(),
            Kind::Switch => "true or false".into(),
            Kind::Number(bound) => value::allowed_numbers(bound),
        };
        if self.auto.is_some() {
            format!("{allowed}, or auto")
        } else {
            allowed
        }
    }

    /// The unit that a bare number has, for people.
    pub fn unit(&self) -> Option<&'static str> {
        match self.kind {
            Kind::Number(bound) => value::unit_name(bound.unit),
            _ => None,
        }
    }

    /// Writes a value that has been checked.
    ///
    /// # Panics
    /// When the value is not of this setting's type, or too wide for its field: a mistake in the
    /// table, which a test would have found.
    pub(super) fn store(&self, owner: &mut T, value: Value) {
        assert!(
            (self.set)(owner, value),
            "{}: the table and the field disagree",
            self.key
        );
    }
}

/// What the names of all environment variables begin with.
pub const VARIABLE_PREFIX: &str = "RINGWIRE_";

/// The environment variable that names the file.
pub const CONFIG_VARIABLE: &str = "RINGWIRE_CONFIG";

/// Where the rules for channels stand in a file, one table each.
pub const RULES: &str = "channels";

/// The setting with this key.
pub fn find<T: Owner>(key: &str) -> Option<&'static Setting<T>> {
    T::SETTINGS.iter().find(|setting| setting.key == key)
}

/// Sections of the file, in order, with what they are about. The first is the top of the file.
pub const SECTIONS: &[(&str, &str)] = &[
    ("", "Where the server listens, and on which cores it runs."),
    ("http", "The endpoints of the public listener."),
    (
        "heartbeat",
        "Keeping connections alive, and noticing dead ones.",
    ),
    ("timeouts", "Deadlines."),
    (
        "client",
        "Bounds of what one client may make the server hold.",
    ),
    (
        "users",
        "Who users are, and what they may send apart from channels.",
    ),
    ("history", "What the history of channels may cost."),
    (
        "ring",
        "The io_uring of each shard. The defaults were measured; see docs/architecture.md.",
    ),
    ("log", "What goes to standard error."),
];

macro_rules! setting {
    ($key:literal, $($field:ident).+, $kind:expr, $auto:expr, $flag:expr, $description:expr $(,)?) => {
        $crate::config::settings::Setting {
            key: $key,
            kind: $kind,
            auto: $auto,
            flag: $flag,
            description: $description,
            get: |owner| $crate::config::value::Field::value(&owner.$($field).+),
            set: |owner, value| $crate::config::value::Field::replace(&mut owner.$($field).+, value),
        }
    };
}
pub(super) use setting;

/// Every setting, in the order of the file.
pub const SETTINGS: &[Setting] = &[
    setting!(
        "listen",
        listen,
        Kind::Listen,
        None,
        Some("listen"),
        "Addresses that clients connect to: ADDRESS:PORT, or unix:PATH for a Unix socket. Port 0 \
         takes any free port, which is printed at start. IPv6 sockets take IPv6 only. A Unix socket's \
         file gets the mode that the umask leaves of 0777: with the usual 0022 that is 0755, and only \
         this user can connect, which takes the right to write. A umask of 0007 (UMask= in a systemd \
         unit) lets the group connect; the modes of the folders above restrict it further.",
    ),
    setting!(
        "shards",
        shards,
        Kind::Number(&limits::SHARDS),
        Some("one per physical core that this process may use, or one per core in cores"),
        Some("shards"),
        "Threads that serve connections, each pinned to a core with its own io_uring. Where shards \
         outnumber cores, they share them in turn and never wait busily.",
    ),
    setting!(
        "cores",
        cores,
        Kind::Cores,
        Some("the first thread of each physical core, NUMA node by NUMA node"),
        Some("cores"),
        "Cores to pin shards to, by the operating system's numbers (lscpu -e), in the order of the \
         shards. They must be among those that this process may use (cpuset, taskset).",
    ),
    setting!(
        "http.websocket_paths",
        http.websocket_paths,
        Kind::Paths,
        None,
        None,
        "Paths that accept WebSocket upgrades for channels.",
    ),
    setting!(
        "http.echo",
        http.echo,
        Kind::Switch,
        Some("true while every address to listen on is loopback or a Unix socket"),
        Some("echo"),
        "Whether /echo sends every message back, for load and conformance tools.",
    ),
    setting!(
        "http.demo_page",
        http.demo_page,
        Kind::Switch,
        None,
        None,
        "Whether GET / shows the demo page.",
    ),
    setting!(
        "heartbeat.interval_ms",
        heartbeat.interval_ms,
        Kind::Number(&limits::HEARTBEAT_INTERVAL_MS),
        None,
        Some("ping-interval"),
        "How often every connection gets a ping.",
    ),
    setting!(
        "heartbeat.timeout_ms",
        heartbeat.timeout_ms,
        Kind::Number(&limits::HEARTBEAT_TIMEOUT_MS),
        None,
        Some("ping-timeout"),
        "A connection from which no byte came for this long after a ping is closed (1001).",
    ),
    setting!(
        "timeouts.handshake_ms",
        timeouts.handshake_ms,
        Kind::Number(&limits::HANDSHAKE_TIMEOUT_MS),
        None,
        Some("handshake-timeout"),
        "From accept to a complete request head; then the connection is closed.",
    ),
    setting!(
        "timeouts.close_ms",
        timeouts.close_ms,
        Kind::Number(&limits::CLOSE_TIMEOUT_MS),
        None,
        None,
        "From the server's close frame to the client's; then the connection is cut.",
    ),
    setting!(
        "timeouts.write_ms",
        timeouts.write_ms,
        Kind::Number(&limits::WRITE_TIMEOUT_MS),
        None,
        None,
        "A send that moves nothing for this long ends the connection (4010).",
    ),
    setting!(
        "timeouts.drain_ms",
        timeouts.drain_ms,
        Kind::Number(&limits::DRAIN_TIMEOUT_MS),
        None,
        Some("drain-timeout"),
        "From SIGTERM, SIGINT or SIGHUP to exit at the latest. Connections that are left then are cut off, \
         and the exit code is 1; with 0 that is what was asked for, so it is 0. A second signal ends at \
         once.",
    ),
    setting!(
        "client.connections_per_shard",
        client.connections_per_shard,
        Kind::Number(&limits::CONNECTIONS_PER_SHARD),
        Some("as many as RLIMIT_NOFILE allows, at most 1048576"),
        None,
        "Connections that one shard holds at most.",
    ),
    setting!(
        "client.message_bytes",
        client.message_bytes,
        Kind::Number(&limits::MESSAGE_BYTES),
        None,
        Some("message-limit"),
        "Largest message on a channel endpoint. A larger one closes the connection (1009) as soon \
         as its length is known.",
    ),
    setting!(
        "client.echo_message_bytes",
        client.echo_message_bytes,
        Kind::Number(&limits::ECHO_MESSAGE_BYTES),
        None,
        None,
        "Largest message on /echo.",
    ),
    setting!(
        "client.fragments",
        client.fragments,
        Kind::Number(&limits::FRAGMENTS),
        None,
        None,
        "Frames that one message may be cut into.",
    ),
    setting!(
        "client.outbox_bytes",
        client.outbox_bytes,
        Kind::Number(&limits::OUTBOX_BYTES),
        None,
        Some("outbox-limit"),
        "Bytes waiting for one slow client before it is disconnected (4010), or loses messages where a \
         channel's rule says so (slow_consumer). At least client.message_bytes + 64 KiB: raised to that, with a note, when only one of the two is set. \
         What one turn brings for a client whose socket has taken everything so far may be four times \
         as much.",
    ),
    setting!(
        "client.head_bytes",
        client.head_bytes,
        Kind::Number(&limits::HEAD_BYTES),
        None,
        None,
        "Bytes of an HTTP request head (431 beyond).",
    ),
    setting!(
        "client.head_lines",
        client.head_lines,
        Kind::Number(&limits::HEAD_LINES),
        None,
        None,
        "Header lines of an HTTP request (431 beyond).",
    ),
    setting!(
        "client.channels",
        client.channels,
        Kind::Number(&limits::CHANNELS),
        None,
        None,
        "Channels that one connection may be subscribed to.",
    ),
    setting!(
        "client.channel_name_bytes",
        client.channel_name_bytes,
        Kind::Number(&limits::CHANNEL_NAME_BYTES),
        None,
        None,
        "Length of a channel's name.",
    ),
    setting!(
        "client.mesh_pending_bytes",
        client.mesh_pending_bytes,
        Kind::Number(&limits::MESH_PENDING_BYTES),
        None,
        None,
        "What may wait for a shard that is behind: in its inbox, and as much again on each shard that \
         sends to it. At least client.message_bytes + 64 KiB: raised to that, with a note, when only one of the two is set.",
    ),
    setting!(
        "users.trusted_peers",
        users.trusted_peers,
        Kind::Networks,
        None,
        None,
        "Peers whose header X-User-ID is believed in an upgrade request: it names the user of the \
         connection. They are proxies that have authenticated the user, and that remove the header from \
         what clients send. An address alone is a network of one; unix is whoever connects through a \
         Unix socket. An IPv4-mapped address (::ffff:10.0.0.1) is compared as IPv4. With an empty list \
         nobody is believed, and the header means nothing.",
    ),
    setting!(
        "users.direct",
        users.direct,
        Kind::Access { named: false },
        None,
        None,
        "Who may send messages to single users.",
    ),
    setting!(
        "users.broadcast",
        users.broadcast,
        Kind::Access { named: false },
        None,
        None,
        "Who may send messages to everyone who is connected.",
    ),
    setting!(
        "history.shard_bytes",
        history.shard_bytes,
        Kind::Number(&limits::HISTORY_SHARD_BYTES),
        None,
        None,
        "What the history of all channels at home on one shard may keep in memory: messages and \
         bookkeeping. When it is full, the oldest messages go first, and are counted. Rules say which \
         channels have a history, and how much of it: with history.size = 0 in all of them nothing is \
         kept.",
    ),
    setting!(
        "ring.entries",
        ring.entries,
        Kind::Number(&limits::RING_ENTRIES),
        None,
        None,
        "Entries of the submission queue.",
    ),
    setting!(
        "ring.completion_entries",
        ring.completion_entries,
        Kind::Number(&limits::RING_COMPLETION_ENTRIES),
        None,
        None,
        "Entries of the completion queue. At least ring.entries.",
    ),
    setting!(
        "ring.buffers",
        ring.buffers,
        Kind::Number(&limits::RING_BUFFERS),
        None,
        None,
        "Receive buffers of 2 KiB, for nearly every read.",
    ),
    setting!(
        "ring.large_buffers",
        ring.large_buffers,
        Kind::Number(&limits::RING_LARGE_BUFFERS),
        None,
        None,
        "Receive buffers of 64 KiB, for connections in the middle of something large.",
    ),
    setting!(
        "ring.wait_us",
        ring.wait_us,
        Kind::Number(&limits::RING_WAIT_US),
        None,
        None,
        "How long a shard waits on its ring before it parks. Taken as 0 where shards outnumber cores.",
    ),
    setting!(
        "ring.min_wait_us",
        ring.min_wait_us,
        Kind::Number(&limits::RING_MIN_WAIT_US),
        None,
        Some("min-wait-us"),
        "Gather completions at least this long per wait: less CPU below saturation for as much more \
         latency. Needs Linux 6.12.",
    ),
    setting!(
        "log.filter",
        log.filter,
        Kind::Filter,
        None,
        Some("log"),
        "What is logged: a level (warning is another name of warn, and off logs nothing), or levels by \
         module. Modules without one are silent unless a level for all the others is among them.",
    ),
    setting!(
        "log.json",
        log.json,
        Kind::Switch,
        None,
        Some("log-json"),
        "One JSON object per line instead of text for people.",
    ),
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::fmt::Debug;

    use super::super::ChannelRule;
    use super::*;

    #[test]
    fn names_are_unique_everywhere() {
        let keys: HashSet<_> = SETTINGS.iter().map(|setting| setting.key).collect();
        let variables: HashSet<_> = SETTINGS.iter().map(Setting::variable).collect();
        let flags: Vec<_> = SETTINGS.iter().filter_map(|setting| setting.flag).collect();
        assert_eq!(keys.len(), SETTINGS.len());
        assert_eq!(variables.len(), SETTINGS.len());
        assert_eq!(flags.iter().collect::<HashSet<_>>().len(), flags.len());
        assert!(!variables.contains(CONFIG_VARIABLE));
        assert!(
            find::<Config>(RULES).is_none() && SECTIONS.iter().all(|section| section.0 != RULES)
        );
    }

    #[test]
    fn sections_are_known_and_in_order() {
        let mut order: Vec<&str> = SETTINGS
            .iter()
            .map(|setting| setting.section_and_name().0)
            .collect();
        order.dedup();
        assert_eq!(
            order,
            SECTIONS.iter().map(|section| section.0).collect::<Vec<_>>()
        );
    }

    fn values_can_be_written_back_and_auto_is_the_default<T>()
    where
        T: Owner + Debug + PartialEq,
    {
        for setting in T::SETTINGS {
            let mut config = T::default();
            let value = (setting.get)(&config);
            assert_eq!(
                setting.auto.is_some(),
                value == Value::Auto,
                "{}",
                setting.key
            );
            assert!((setting.set)(&mut config, value), "{}", setting.key);
            assert_eq!(config, T::default());
            if let Kind::Number(bound) = setting.kind {
                if setting.key == "client.connections_per_shard" {
                    let most = format!("at most {}", bound.max);
                    assert!(setting.auto.is_some_and(|auto| auto.ends_with(&most)));
                }
                assert_eq!(
                    bound.default.is_none(),
                    setting.auto.is_some(),
                    "{}",
                    setting.key
                );
                if let Some(default) = bound.default {
                    let value = (setting.get)(&config);
                    assert_eq!(value, Value::Number(default), "{}", setting.key);
                }
                for number in [bound.min, bound.max] {
                    assert!(
                        (setting.set)(&mut config, Value::Number(number)),
                        "{}",
                        setting.key
                    );
                    assert_eq!(
                        (setting.get)(&config),
                        Value::Number(number),
                        "{}",
                        setting.key
                    );
                }
            }
            if let Kind::Choice(words) = setting.kind {
                for word in words {
                    let value = Value::Choice(word.word);
                    let is_set = (setting.set)(&mut config, value.clone());
                    assert!(is_set, "{}: {}", setting.key, word.word);
                    assert_eq!((setting.get)(&config), value, "{}", setting.key);
                }
            }
            let wrong = match setting.kind {
                Kind::Switch => Value::Number(1),
                _ => Value::Switch(true),
            };
            assert!(!(setting.set)(&mut config, wrong), "{}", setting.key);
        }
    }

    #[test]
    fn every_value_can_be_written_back_and_auto_is_the_default() {
        values_can_be_written_back_and_auto_is_the_default::<Config>();
        values_can_be_written_back_and_auto_is_the_default::<ChannelRule>();
    }

    fn units_stand_in_names_of<T: Owner>() {
        for setting in T::SETTINGS {
            let suffix = match setting.unit() {
                Some("bytes") => "_bytes",
                Some("ms") => "_ms",
                Some("µs") => "_us",
                _ => continue,
            };
            assert!(setting.key.ends_with(suffix), "{}", setting.key);
        }
    }

    #[test]
    fn units_stand_in_names() {
        units_stand_in_names_of::<Config>();
        units_stand_in_names_of::<ChannelRule>();
    }
}
