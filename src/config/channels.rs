//! Rules for channels: the entries of `[[channels]]`. The first rule whose pattern matches a
//! channel's name decides how the channel behaves; the last rule matches every name.

use super::limits;

/// How channels with certain names behave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelRule {
    /// A channel's name, or the beginning of names followed by `*` (`chat:*`; `*` alone matches every
    /// name). 1 to [`limits::MAX_CHANNEL_PATTERN_BYTES`] bytes, no control characters.
    pub pattern: String,
    /// Who may do what.
    pub allow: Allow,
    /// Whether only subscribers of a channel may publish to it. Default false.
    pub publish_needs_subscription: bool,
    /// Whether publishers that are subscribed get their own messages when they don't say whether they
    /// want them. Default true.
    pub echo: bool,
    /// What happens to subscribers that do not keep up. Default disconnect.
    pub slow_consumer: SlowConsumer,
    /// Connections that may be subscribed to a channel, over all shards, 1 to
    /// [`limits::CHANNEL_SUBSCRIBERS`]. `None`: any number.
    pub subscribers: Option<u32>,
    /// Largest `data` of a message, in bytes; at most `client.message_bytes`. `None`: what that allows.
    pub data_bytes: Option<usize>,
    /// When messages leave.
    pub delivery: DeliveryRule,
    /// What is kept of a channel's messages.
    pub history: HistoryRule,
    /// Who is there.
    pub presence: PresenceRule,
}

/// Who may do what with a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allow {
    /// Hear it. Default everyone.
    pub subscribe: Access,
    /// Publish to it. Default everyone.
    pub publish: Access,
    /// Ask for its history, and for what was missed. Default everyone who may hear it.
    pub history: Access,
    /// Ask who is there. Default everyone who may hear it. Events tell all subscribers who comes and goes.
    pub presence: Access,
    /// Hear it through a wildcard such as `prices.*`, too, of those who may hear it. Default nobody: names of
    /// channels may be secrets. Never [`Access::Named`], because a wildcard stands for many names; nobody
    /// where `subscribe` is that.
    pub wildcards: Access,
}

/// Who may do something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Whoever is connected.
    Everyone,
    /// Whoever has a user id.
    Authenticated,
    /// The users whose ids stand in the channel's name after the last `#`, with commas between them:
    /// users 42 and 43 for `dialog#42,43`.
    Named,
    /// Nobody that is connected: only the backend.
    Nobody,
    /// These users: 1 to [`limits::MAX_LISTED_USERS`] ids, none twice, each of 1 to
    /// [`limits::MAX_USER_ID_BYTES`] bytes without control characters.
    Users(Vec<String>),
}

/// What happens to a subscriber that does not keep up: whose outbox is full (`client.outbox_bytes`), or for
/// whom messages wait at all (conflate).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SlowConsumer {
    /// It is disconnected (close code 4010), and can come back and recover.
    #[default]
    Disconnect,
    /// It loses the oldest messages that wait for it, and is told how many.
    DropOldest,
    /// Of the messages that wait for it, those that a newer one of the channel with the same key replaces
    /// are left out. When its outbox is full all the same, it loses the oldest ones and is told how many.
    Conflate,
}

/// When a channel's messages leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeliveryRule {
    /// How long messages are gathered before they are sent together, in milliseconds, at most 1,000.
    /// Default 0: they are sent at once.
    pub batch_ms: u32,
    /// What has gathered is sent earlier when it has this many bytes. Default 65,536.
    pub batch_bytes: usize,
}

/// What is kept of a channel's messages, so that who was away can catch up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryRule {
    /// Messages kept per channel, at most 100,000. Default 0: none.
    pub size: u32,
    /// How long each is kept, in milliseconds, from a second to 30 days. Default 300,000 (5 minutes).
    pub ttl_ms: u32,
    /// Whether a new subscriber gets the channel's last message. Takes a `size` of at least 1. Default
    /// false.
    pub last_on_subscribe: bool,
}

/// Who is subscribed to a channel, and what its subscribers are told about that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PresenceRule {
    /// Whether it is known who is there. Default false.
    pub enabled: bool,
    /// Whether subscribers are told who comes and who goes. Takes `enabled`. Default false.
    pub events: bool,
    /// With more subscribers than this (connections), they are told how many there are instead, from time
    /// to time. Default 100.
    pub events_max_members: u32,
    /// How often they are told that, in milliseconds, from a second to an hour. Default 5,000.
    pub counts_interval_ms: u32,
}

impl Default for ChannelRule {
    fn default() -> ChannelRule {
        ChannelRule {
            pattern: "*".into(),
            allow: Allow {
                subscribe: Access::Everyone,
                publish: Access::Everyone,
                history: Access::Everyone,
                presence: Access::Everyone,
                wildcards: Access::Nobody,
            },
            publish_needs_subscription: false,
            echo: true,
            slow_consumer: SlowConsumer::Disconnect,
            subscribers: None,
            data_bytes: None,
            delivery: DeliveryRule {
                batch_ms: limits::DELIVERY_BATCH_MS.default() as u32,
                batch_bytes: limits::DELIVERY_BATCH_BYTES.default() as usize,
            },
            history: HistoryRule {
                size: limits::HISTORY_SIZE.default() as u32,
                ttl_ms: limits::HISTORY_TTL_MS.default() as u32,
                last_on_subscribe: false,
            },
            presence: PresenceRule {
                enabled: false,
                events: false,
                events_max_members: limits::PRESENCE_EVENTS_MAX_MEMBERS.default() as u32,
                counts_interval_ms: limits::PRESENCE_COUNTS_INTERVAL_MS.default() as u32,
            },
        }
    }
}
