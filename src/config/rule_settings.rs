//! The table of the settings of a rule for channels: what [`super::settings`] is for the server.
//!
//! They stand only in a file (or in a program's [`super::Config`]): there is no name for the third
//! rule's history in the environment. Adding one is a field of [`ChannelRule`] and an entry here.

use super::settings::{Kind, Owner, RULES, Setting, setting};
use super::{ChannelRule, SlowConsumer, limits};

/// The key of a rule's pattern.
pub(super) const MATCH: &str = "match";

/// What rules are, for `config print` and the documentation.
pub(super) const ABOUT: &str = "Rules for channels. The first rule whose match fits a channel's name \
     decides how the channel behaves. The last one is for all other channels: it must match every name. \
     Without rules in the file there is one, for every channel, with the default of each setting.";

/// Rules as one might write them, for the documentation.
pub(super) const EXAMPLE: &str = r##"# The backend publishes, everyone may hear it. Who subscribes gets the last message at once.
[[channels]]
match = "news"
allow.publish = "nobody"
history.size = 100
history.last_on_subscribe = true

# Rooms: whoever is in one and has a user id may write.
[[channels]]
match = "room:*"
allow.publish = "authenticated"
publish_needs_subscription = true
data_bytes = "16KiB"
history.size = 50
history.ttl_ms = "1h"

# Dialogs such as dialog#42,43: for the users 42 and 43.
[[channels]]
match = "dialog#*"
allow.subscribe = "named"
allow.publish = "named"
allow.history = "named"

# Prices such as prices.eur.usd; also through wildcards: prices.eur.* or prices.*.usd, prices.> for all.
# Only the newest of each counts: a publish may carry what it is about as its "key". What comes within
# 50 ms leaves together.
[[channels]]
match = "prices.*"
allow.publish = "nobody"
allow.wildcards = "everyone"
slow_consumer = "conflate"
delivery.batch_ms = 50

# There are no other channels.
[[channels]]
match = "*"
allow.subscribe = "nobody"
allow.publish = "nobody"
"##;

impl Owner for ChannelRule {
    const SETTINGS: &'static [Setting<ChannelRule>] = RULE_SETTINGS;
    const IN_ENVIRONMENT: bool = false;
    const HAS_RULES: bool = false;

    fn home(setting: &Setting<ChannelRule>) -> String {
        match setting.section_and_name().0 {
            "" => format!("directly under [[{RULES}]]"),
            _ => format!("under [[{RULES}]], as {}", setting.key),
        }
    }

    fn header(section: &str) -> String {
        format!("[{RULES}.{section}]")
    }
}

/// Every setting of a rule, in the order of the file.
pub const RULE_SETTINGS: &[Setting<ChannelRule>] = &[
    setting!(
        "match",
        pattern,
        Kind::Pattern,
        None,
        None,
        "Which channels the rule is for: the one with this name, or all whose names begin with what \
         stands before the *. The * alone matches every name.",
    ),
    setting!(
        "allow.subscribe",
        allow.subscribe,
        Kind::Access { named: true },
        None,
        None,
        "Who may subscribe to the channel.",
    ),
    setting!(
        "allow.publish",
        allow.publish,
        Kind::Access { named: true },
        None,
        None,
        "Who may publish to the channel.",
    ),
    setting!(
        "allow.history",
        allow.history,
        Kind::Access { named: true },
        None,
        None,
        "Who of those who may subscribe may also ask for the channel's history, and for what was missed.",
    ),
    setting!(
        "allow.presence",
        allow.presence,
        Kind::Access { named: true },
        None,
        None,
        "Who of those who may subscribe may also ask who is in the channel. With presence.events, all \
         subscribers hear who comes and goes.",
    ),
    setting!(
        "allow.wildcards",
        allow.wildcards,
        Kind::Access { named: false },
        None,
        None,
        "Who of those who may subscribe may also hear the channel through a wildcard such as prices.* \
         (one level below prices) or prices.> (one or more). Nobody by default, because names of channels \
         may be secrets. Whoever subscribes to a wildcard needs this from every rule that is for a name \
         that the wildcard stands for.",
    ),
    setting!(
        "publish_needs_subscription",
        publish_needs_subscription,
        Kind::Switch,
        None,
        None,
        "Whether only subscribers of the channel may publish to it.",
    ),
    setting!(
        "echo",
        echo,
        Kind::Switch,
        None,
        None,
        "Whether publishers that are subscribed get their own messages when they don't say whether they \
         want them.",
    ),
    setting!(
        "slow_consumer",
        slow_consumer,
        Kind::Choice(SlowConsumer::WORDS),
        None,
        None,
        "What happens to a subscriber that does not keep up, so that messages wait for it in its outbox \
         (client.outbox_bytes).",
    ),
    setting!(
        "subscribers",
        subscribers,
        Kind::Number(&limits::CHANNEL_SUBSCRIBERS),
        Some("any number"),
        None,
        "Connections that may be subscribed to the channel at the same time, over all shards. Whoever comes \
         beyond that gets the error too_many_subscribers, and can try again when somebody has left.",
    ),
    setting!(
        "data_bytes",
        data_bytes,
        Kind::Number(&limits::CHANNEL_DATA_BYTES),
        Some("what client.message_bytes allows"),
        None,
        "Largest data of a message. At most client.message_bytes.",
    ),
    setting!(
        "delivery.batch_ms",
        delivery.batch_ms,
        Kind::Number(&limits::DELIVERY_BATCH_MS),
        None,
        None,
        "How long the channel's messages are gathered before they are sent together: fewer and larger sends \
         for as much more latency.",
    ),
    setting!(
        "delivery.batch_bytes",
        delivery.batch_bytes,
        Kind::Number(&limits::DELIVERY_BATCH_BYTES),
        None,
        None,
        "What has gathered is sent earlier when it has this many bytes. Takes a delivery.batch_ms. At most \
         client.outbox_bytes.",
    ),
    setting!(
        "history.size",
        history.size,
        Kind::Number(&limits::HISTORY_SIZE),
        None,
        None,
        "Messages that are kept of each channel, so that who was away can catch up.",
    ),
    setting!(
        "history.ttl_ms",
        history.ttl_ms,
        Kind::Number(&limits::HISTORY_TTL_MS),
        None,
        None,
        "How long each message is kept.",
    ),
    setting!(
        "history.last_on_subscribe",
        history.last_on_subscribe,
        Kind::Switch,
        None,
        None,
        "Whether a new subscriber gets the channel's last message. Takes a history.size of at least 1.",
    ),
    setting!(
        "presence.enabled",
        presence.enabled,
        Kind::Switch,
        None,
        None,
        "Whether it is known who is in the channel: its subscribers, by user. Costs the channel's home \
         shard some 60 bytes per user and channel, and a message per subscription that begins or ends.",
    ),
    setting!(
        "presence.events",
        presence.events,
        Kind::Switch,
        None,
        None,
        "Whether subscribers are told which users come and go. Takes presence.enabled.",
    ),
    setting!(
        "presence.events_max_members",
        presence.events_max_members,
        Kind::Number(&limits::PRESENCE_EVENTS_MAX_MEMBERS),
        None,
        None,
        "In channels with more subscribers (connections), they are told how many there are instead.",
    ),
    setting!(
        "presence.counts_interval_ms",
        presence.counts_interval_ms,
        Kind::Number(&limits::PRESENCE_COUNTS_INTERVAL_MS),
        None,
        None,
        "How often they are told, as long as it changes.",
    ),
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique_and_no_section_is_torn() {
        let keys: HashSet<_> = RULE_SETTINGS.iter().map(|setting| setting.key).collect();
        assert_eq!(keys.len(), RULE_SETTINGS.len());
        let sections = RULE_SETTINGS
            .iter()
            .map(|setting| setting.section_and_name().0)
            .filter(|section| !section.is_empty());
        let mut order: Vec<&str> = sections.collect();
        order.dedup();
        assert_eq!(order.iter().collect::<HashSet<_>>().len(), order.len());
        // What only flags and the environment could set has no place here.
        assert!(RULE_SETTINGS.iter().all(|setting| setting.flag.is_none()));
        assert_eq!(RULE_SETTINGS[0].key, MATCH);
    }
}
