//! Which rule a channel follows: the first whose pattern matches its name.
//!
//! Asked at every command that names a channel: the name is compared with one pattern after the other, a
//! few nanoseconds each, until one matches. Rules for busy channels belong to the front.

use crate::config::ChannelRule;
use std::sync::Arc;

/// The rules of a server, shared by its shards.
#[derive(Clone, Debug)]
pub struct ChannelRules {
    rules: Arc<[ChannelRule]>,
}

/// Number of a rule.
pub type RuleNumber = u16;

impl ChannelRules {
    /// These rules, and behind them one that matches every name, should the last one not.
    #[must_use]
    pub fn new(rules: &[ChannelRule]) -> Self {
        let matches_all = rules.last().is_some_and(|rule| rule.pattern == "*");
        let default = (!matches_all).then(ChannelRule::default);
        Self {
            rules: rules.iter().cloned().chain(default).collect(),
        }
    }

    /// The number of the rule for a channel.
    #[must_use]
    pub fn find(&self, channel: &str) -> RuleNumber {
        let last = self.rules.len() - 1;
        let found = self.rules[..last]
            .iter()
            .position(|rule| matches(&rule.pattern, channel));
        found.unwrap_or(last) as RuleNumber
    }

    /// The rule of a number that [`Self::find`] returned.
    #[must_use]
    pub fn get(&self, number: RuleNumber) -> &ChannelRule {
        &self.rules[usize::from(number)]
    }

    /// The rule for a channel.
    #[must_use]
    pub fn of(&self, channel: &str) -> &ChannelRule {
        self.get(self.find(channel))
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = &ChannelRule> {
        self.rules.iter()
    }

    /// How many there are; at least one.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "there is always one")]
    pub fn len(&self) -> usize {
        self.rules.len()
    }
}

fn matches(pattern: &str, channel: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => channel.starts_with(beginning),
        None => pattern == channel,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(patterns: &[&str]) -> ChannelRules {
        let rule = |pattern: &&str| ChannelRule {
            pattern: (*pattern).into(),
            ..ChannelRule::default()
        };
        ChannelRules::new(&patterns.iter().map(rule).collect::<Vec<_>>())
    }

    #[test]
    fn the_first_match_wins_and_the_last_rule_takes_the_rest() {
        let rules = rules(&["chat:lobby", "chat:*", "a*", "*"]);
        for (channel, expected) in [
            ("chat:lobby", 0),
            ("chat:lobby2", 1),
            ("chat:", 1),
            ("chat", 3),
            ("a", 2),
            ("", 3),
            ("*", 3),
        ] {
            assert_eq!(rules.find(channel), expected, "{channel:?}");
        }
        assert_eq!(rules.of("chat:x").pattern, "chat:*");
    }

    #[test]
    fn there_is_always_a_rule() {
        for patterns in [&[][..], &["x"]] {
            let rules = rules(patterns);
            assert_eq!(rules.of("y").pattern, "*");
            assert_eq!(rules.len(), patterns.len() + 1);
        }
    }
}
