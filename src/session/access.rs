//! Who may do what with a channel.

use crate::config::{Access, Allow};

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

/// Whether `user` is among those that `channel` names after its last `#`.
fn is_named(user: &str, channel: &str) -> bool {
    let names = channel.rsplit_once('#').map(|(_, names)| names.split(','));
    names.is_some_and(|mut names| names.any(|name| name == user))
}

#[cfg(test)]
mod tests {
    use super::*;

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
