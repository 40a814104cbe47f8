//! Who may do what with a channel.

use crate::config::{Access, Allow, ChannelRule};
use crate::hub::rules::ChannelRules;

/// Whether `user` (`None`: somebody who has not said who it is) belongs to those who may.
pub(super) fn allows(access: &Access, user: Option<&str>, channel: &str) -> bool {
    match (access, user) {
        (Access::Everyone, _) => true,
        (Access::Nobody, _) | (_, None) => false,
        (Access::Authenticated, Some(_)) => true,
        (Access::Named, Some(user)) => is_named(user, channel),
        (Access::Users(users), Some(user)) => users.iter().any(|one| one == user),
    }
}

/// Whether `user` may read something of a channel that is also for `those`: who may not hear the channel
/// may not read what was said in it, nor who is there.
pub(super) fn may_read(allow: &Allow, those: &Access, user: Option<&str>, channel: &str) -> bool {
    allows(&allow.subscribe, user, channel) && allows(those, user, channel)
}

/// Whether `user` may hear every channel that `wildcard` matches, also those that are yet to come.
///
/// # Errors
/// The first rule that is in the way: it is for a name that the wildcard matches, and refuses the user. Its
/// pattern may itself be a secret to the user.
pub(super) fn may_hear_wildcard<'a>(
    rules: &'a ChannelRules,
    user: Option<&str>,
    wildcard: &str,
) -> Result<(), &'a ChannelRule> {
    let admits = |allow: &Allow| {
        [&allow.subscribe, &allow.wildcards]
            .into_iter()
            .all(|those| allows_everywhere(those, user))
    };
    match rules
        .overlapping(wildcard)
        .find(|rule| !admits(&rule.allow))
    {
        Some(rule) => Err(rule),
        None => Ok(()),
    }
}

/// Whether `user` belongs to those who may, whatever the channel's name.
fn allows_everywhere(access: &Access, user: Option<&str>) -> bool {
    // Whom a channel names is known only with the name.
    *access != Access::Named && allows(access, user, "")
}

/// Whether `user` is among those that `channel` names after its last `#`.
fn is_named(user: &str, channel: &str) -> bool {
    let names = channel.rsplit_once('#').map(|(_, names)| names.split(','));
    names.is_some_and(|mut names| names.any(|name| name == user))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::wildcards;
    use proptest::prelude::*;

    #[test]
    fn everybody_and_some() {
        let users = Access::Users(vec!["42".into(), "43".into()]);
        for (access, nobody, anybody, listed) in [
            (&Access::Everyone, true, true, true),
            (&Access::Authenticated, false, true, true),
            (&Access::Nobody, false, false, false),
            (&users, false, false, true),
        ] {
            assert_eq!(allows(access, None, "c"), nobody, "{access:?}");
            assert_eq!(allows(access, Some("7"), "c"), anybody, "{access:?}");
            assert_eq!(allows(access, Some("43"), "c"), listed, "{access:?}");
        }
    }

    fn rule(pattern: &str, subscribe: Access, wildcards: Access) -> ChannelRule {
        let mut rule = ChannelRule {
            pattern: pattern.into(),
            ..ChannelRule::default()
        };
        rule.allow.subscribe = subscribe;
        rule.allow.wildcards = wildcards;
        rule
    }

    #[test]
    fn a_wildcard_takes_leave_from_every_rule_on_its_way() {
        let vip = || Access::Users(vec!["42".into()]);
        let rules = ChannelRules::new(&[
            rule("prices.vip.*", vip(), Access::Everyone),
            rule("prices.*", Access::Everyone, Access::Everyone),
            rule("dialog.*", Access::Named, Access::Everyone),
            rule("log.*", Access::Nobody, Access::Everyone),
            rule("chat.*", Access::Authenticated, vip()),
        ]);
        for (wildcard, nobody, anybody, listed) in [
            ("prices.eur.*", None, None, None),
            ("prices.*", None, None, None),
            ("prices.>", Some("prices.vip.*"), Some("prices.vip.*"), None),
            (
                "prices.*.x",
                Some("prices.vip.*"),
                Some("prices.vip.*"),
                None,
            ),
            (
                "dialog.*",
                Some("dialog.*"),
                Some("dialog.*"),
                Some("dialog.*"),
            ),
            ("log.>", Some("log.*"), Some("log.*"), Some("log.*")),
            ("chat.>", Some("chat.*"), Some("chat.*"), None),
            (
                ">",
                Some("prices.vip.*"),
                Some("prices.vip.*"),
                Some("dialog.*"),
            ),
            ("other.*", Some("*"), Some("*"), Some("*")),
        ] {
            for (user, expected) in [(None, nobody), (Some("7"), anybody), (Some("42"), listed)] {
                let refusing = may_hear_wildcard(&rules, user, wildcard).err();
                let refusing = refusing.map(|rule| &*rule.pattern);
                assert_eq!(refusing, expected, "{wildcard} {user:?}");
            }
        }
    }

    fn access() -> impl Strategy<Value = Access> {
        prop_oneof![
            6 => Just(Access::Everyone),
            3 => Just(Access::Authenticated),
            1 => Just(Access::Named),
            1 => Just(Access::Nobody),
            3 => prop::sample::select(vec!["1", "2"]).prop_map(|id| Access::Users(vec![id.into()])),
        ]
    }

    proptest! {
        #[test]
        fn who_hears_a_wildcard_may_hear_each_of_its_channels(
            rules in prop::collection::vec(("[a.#1]{0,3}\\*|[a.#1]{1,4}", access(), access()), 1..6),
            subscribe in access(),
            wildcards in access(),
            pattern in "([a1*]|a#1)(\\.([a1*]|a#1)?){0,2}(\\.>)?|>",
            user in prop::sample::select(vec![None, Some("1"), Some("2")]),
            names in prop::collection::vec("[a.#1]{0,7}", 60),
        ) {
            let mut rules: Vec<ChannelRule> = rules
                .into_iter()
                .map(|(pattern, subscribe, wildcards)| rule(&pattern, subscribe, wildcards))
                .collect();
            rules.push(rule("*", subscribe, wildcards));
            let rules = ChannelRules::new(&rules);
            match may_hear_wildcard(&rules, user, &pattern) {
                Ok(()) => for name in names.iter().filter(|name| wildcards::matches(&pattern, name)) {
                    let allow = &rules.of(name).allow;
                    prop_assert!(allows(&allow.subscribe, user, name), "{name}");
                    prop_assert!(allows(&allow.wildcards, user, name), "{name}");
                    prop_assert!(allow.subscribe != Access::Named && allow.wildcards != Access::Named);
                },
                Err(rule) => {
                    let those = [&rule.allow.subscribe, &rule.allow.wildcards];
                    let refuses = |access: &Access| *access == Access::Named || !allows(access, user, "");
                    prop_assert!(those.into_iter().any(refuses));
                    prop_assert!(rules.overlapping(&pattern).any(|other| std::ptr::eq(other, rule)));
                }
            }
        }
    }

    #[test]
    fn a_channel_may_name_its_users() {
        for (channel, user, expected) in [
            ("dialog#42,43", "42", true),
            ("dialog#42,43", "43", true),
            ("dialog#42,43", "4", false),
            ("dialog#42,43", "42,43", false),
            ("dialog#42,43", "dialog", false),
            ("a#42#43", "42", false),
            ("a#42#43", "43", true),
            ("42", "42", false),
            ("dialog#", "42", false),
        ] {
            assert_eq!(
                allows(&Access::Named, Some(user), channel),
                expected,
                "{channel} {user}"
            );
        }
        assert!(!allows(&Access::Named, None, "dialog#42"));
        assert!(!allows(&Access::Named, None, "dialog#"));
    }
}
