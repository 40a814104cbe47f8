//! The tests, in the order in which they run.

use super::check::Check;

mod control;
mod endurance;
mod handshake;
mod messages;
mod ringwire;
mod violations;

/// A group of tests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Group {
    /// Its name, for `--only` and `--skip`.
    pub(super) name: &'static str,
    /// What its tests are about.
    pub(super) about: &'static str,
}

/// All groups.
pub(super) const GROUPS: &[Group] = &[
    Group {
        name: "handshake",
        about: "from the name to the open connection",
    },
    Group {
        name: "messages",
        about: "what is sent comes back; needs a server that echoes",
    },
    Group {
        name: "control",
        about: "pings, pongs and the end of a connection",
    },
    Group {
        name: "violations",
        about: "frames that a server must refuse",
    },
    Group {
        name: "endurance",
        about: "over time, again and again, many at once",
    },
    Group {
        name: "ringwire",
        about: "ringwire's own protocol, docs/protocol.md; needs a ringwire server",
    },
];

/// All tests.
pub(super) fn all() -> impl Iterator<Item = &'static Check> {
    [
        handshake::CHECKS,
        messages::CHECKS,
        control::CHECKS,
        violations::CHECKS,
        endurance::CHECKS,
        ringwire::CHECKS,
    ]
    .into_iter()
    .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_groups_known() {
        let names: BTreeSet<&str> = all()
            .map(|check| check.name)
            .chain(GROUPS.iter().map(|group| group.name))
            .collect();
        // `--only ringwire` is a group, so no test may be called so.
        assert_eq!(names.len(), all().count() + GROUPS.len());
        for check in all() {
            assert!(
                GROUPS.iter().any(|group| group.name == check.group),
                "{}",
                check.name
            );
        }
        for group in GROUPS {
            assert!(all().any(|check| check.group == group.name));
        }
    }
}
