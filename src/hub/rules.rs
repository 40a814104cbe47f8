//! Which rule a channel follows: the first whose pattern matches its name.
//!
//! Asked at every command that names a channel: the name is compared with one pattern after the other, a
//! few nanoseconds each, until one matches. Rules for busy channels belong to the front.

use super::wildcards;
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

    /// The rules that names which a wildcard matches can fall under, in order, until one is for all of them.
    ///
    /// A rule to which earlier ones, taken together, leave none of these names is among them all the same.
    /// Compares the wildcard with each rule's pattern in turn.
    pub fn overlapping(&self, wildcard: &str) -> impl Iterator<Item = &ChannelRule> {
        let mut rules = self.rules.iter();
        std::iter::from_fn(move || {
            let rule = rules.find(|rule| overlaps(&rule.pattern, wildcard))?;
            if covers(&rule.pattern, wildcard) {
                rules = [].iter();
            }
            Some(rule)
        })
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

/// Whether some name matches both a rule's pattern and a wildcard.
fn overlaps(pattern: &str, wildcard: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => wildcards::may_begin_with(wildcard, beginning),
        None => wildcards::matches(wildcard, pattern),
    }
}

/// Whether a rule's pattern matches every name that a wildcard matches, which are more than one.
fn covers(pattern: &str, wildcard: &str) -> bool {
    pattern
        .strip_suffix('*')
        .is_some_and(|beginning| wildcards::beginning(wildcard).starts_with(beginning))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
    fn a_wildcard_falls_under_rules_until_one_covers_it() {
        let rules = rules(&[
            "prices.secret",
            "prices.eur*",
            "prices.*",
            "news",
            "a.b.*",
            "log.>*",
            "*",
        ]);
        for (wildcard, expected) in [
            (
                "prices.*",
                &["prices.secret", "prices.eur*", "prices.*"][..],
            ),
            ("prices.>", &["prices.secret", "prices.eur*", "prices.*"]),
            ("prices.eur.*", &["prices.eur*"]),
            ("prices.usd.*", &["prices.*"]),
            ("prices.*.usd", &["prices.eur*", "prices.*"]),
            ("*.secret", &["prices.secret", "prices.*", "*"]),
            ("*.usd.*", &["prices.*", "*"]),
            (
                "*.*.*",
                &["prices.eur*", "prices.*", "a.b.*", "log.>*", "*"],
            ),
            ("*", &["news", "*"]),
            ("news.*", &["*"]),
            // A rule's * is for what begins with a >, which a wildcard's is not.
            ("log.>", &["log.>*", "*"]),
        ] {
            let found: Vec<&str> = rules
                .overlapping(wildcard)
                .map(|rule| &*rule.pattern)
                .collect();
            assert_eq!(found, expected, "{wildcard}");
        }
    }

    /// All names of at most `length` letters, which are a, b and the dot.
    fn names(length: usize) -> Vec<String> {
        let mut all = vec![String::new()];
        let mut start = 0;
        for _ in 0..length {
            let end = all.len();
            for index in start..end {
                for letter in ["a", "b", "."] {
                    all.push(format!("{}{letter}", all[index]));
                }
            }
            start = end;
        }
        all
    }

    fn wildcard() -> impl Strategy<Value = String> {
        let level = prop::sample::select(vec!["", "a", "b", "ab", "*", "*", "*"]);
        let last = prop::sample::select(vec!["", "a", "b", "*", ">"]);
        (prop::collection::vec(level, 0..3), last)
            .prop_map(|(levels, last)| [levels, vec![last]].concat().join("."))
            .prop_filter("a wildcard", |name| wildcards::is_wildcard(name))
    }

    proptest! {
        #[test]
        fn a_wildcard_falls_under_the_rules_of_its_names(
            patterns in prop::collection::vec("[ab.]{0,3}\\*|[ab.]{1,4}", 0..6),
            wildcard in wildcard(),
        ) {
            let patterns: Vec<&str> = patterns.iter().map(String::as_str).collect();
            let rules = rules(&patterns);
            // Long enough for a name that any two of these patterns have in common, and for one that only
            // the wildcard matches.
            let mut names = names(8);
            names.retain(|name| wildcards::matches(&wildcard, name));
            let mut expected = Vec::new();
            for pattern in patterns.into_iter().chain(["*"]) {
                let both = names.iter().filter(|name| matches(pattern, name)).count();
                if both > 0 {
                    expected.push(pattern);
                }
                if both == names.len() {
                    break;
                }
            }
            let found: Vec<&str> = rules.overlapping(&wildcard).map(|rule| &*rule.pattern).collect();
            prop_assert_eq!(found, expected);
        }
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
