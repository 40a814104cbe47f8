//! Who is in a channel: kept by its home shard, one entry per user, whatever the number of its connections.
//!
//! A member that comes or goes costs the same in a channel of three and of a million. Members keep their
//! places while they stay, so that who reads them page by page meets everybody who stays exactly once.

use super::Names;

/// How many are in a channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Users, each counted once.
    pub users: u32,
    /// Connections that belong to no user.
    pub anonymous: u32,
    /// All connections.
    pub connections: u32,
}

/// What a channel's subscribers are told about its members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PresenceEvent {
    /// A user has come, with its first connection.
    Join(Box<str>),
    /// A user has gone, with its last connection.
    Leave(Box<str>),
    /// There are too many to tell them one by one: this is how many.
    Counts(Counts),
}

/// A user in a channel, and how many of its connections are.
pub type Member = (Box<str>, u32);

/// Some of a channel's members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MembersPage {
    /// How many there are in all.
    pub counts: Counts,
    /// Users that were asked for, at most; 0: only how many there are.
    pub limit: usize,
    /// Users, in no order that means anything.
    pub members: Vec<Member>,
    /// Where the next page begins; `None`: this was the last one.
    pub next: Option<u32>,
}

/// Places that are looked at for one page.
const PLACES_PER_PAGE: u32 = 10_000;

/// The members of one channel.
pub(super) struct Presence {
    users: Names<u32>,
    anonymous: u32,
    connections: u32,
    /// One more than the largest number that a user ever had here.
    end: u32,
    /// Subscribers have not been told of the newest counts.
    pub(super) changed: bool,
    /// The last that they were told is a number, not who came or went.
    pub(super) numbered: bool,
    /// When they were last told a number, in milliseconds since the shard started.
    pub(super) told_ms: u64,
}

impl Presence {
    /// Nobody. `seed` as for [`Names::new`].
    pub(super) fn new(seed: u64) -> Self {
        Self {
            users: Names::new(seed),
            anonymous: 0,
            connections: 0,
            end: 0,
            changed: false,
            numbered: false,
            told_ms: 0,
        }
    }

    pub(super) fn counts(&self) -> Counts {
        Counts {
            users: self.users.len() as u32,
            anonymous: self.anonymous,
            connections: self.connections,
        }
    }

    /// A connection has come. Returns whether it is its user's first.
    pub(super) fn join(&mut self, user: Option<&str>) -> bool {
        self.connections += 1;
        let Some(user) = user else {
            self.anonymous += 1;
            return false;
        };
        if let Some(number) = self.users.find(user) {
            if let Some(connections) = self.users.get_mut(number) {
                *connections += 1;
            }
            return false;
        }
        let number = self.users.insert(user, 1);
        self.end = self.end.max(number + 1);
        true
    }

    /// A connection has gone. Returns whether it was its user's last.
    pub(super) fn leave(&mut self, user: Option<&str>) -> bool {
        debug_assert!(self.connections > 0, "who leaves has joined");
        self.connections = self.connections.saturating_sub(1);
        let Some(user) = user else {
            debug_assert!(self.anonymous > 0, "who leaves has joined");
            self.anonymous = self.anonymous.saturating_sub(1);
            return false;
        };
        let Some(number) = self.users.find(user) else {
            debug_assert!(false, "who leaves has joined");
            return false;
        };
        let last = match self.users.get_mut(number) {
            Some(connections) => {
                *connections -= 1;
                *connections == 0
            }
            None => false,
        };
        if last {
            self.users.remove(number);
        }
        last
    }

    /// Up to `limit` users, from place `from` on. Looks at so many places at most that a channel that has
    /// had very many members costs no more than others; then a page may be short.
    pub(super) fn page(&self, from: u32, limit: usize) -> MembersPage {
        let mut page = MembersPage {
            counts: self.counts(),
            limit,
            ..MembersPage::default()
        };
        // Who asks how many there are asks for nobody.
        let end = if limit == 0 { from } else { self.end };
        let look_until = end.min(from.saturating_add(PLACES_PER_PAGE));
        if look_until < end {
            page.next = Some(look_until);
        }
        for number in from..look_until {
            let Some((name, connections)) = self.users.name(number).zip(self.users.get(number))
            else {
                continue;
            };
            if page.members.len() == limit {
                page.next = Some(number);
                break;
            }
            page.members.push((name.into(), *connections));
        }
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn user(number: u32) -> Option<String> {
        (number > 0).then(|| format!("user {number}"))
    }

    proptest! {
        #[test]
        fn counts_like_a_map(steps in prop::collection::vec((any::<bool>(), 0u32..6), 0..200)) {
            let mut presence = Presence::new(1);
            let mut model: BTreeMap<u32, u32> = BTreeMap::new();
            for (join, number) in steps {
                let name = user(number);
                let connections = model.entry(number).or_default();
                if join {
                    let first = *connections == 0 && number > 0;
                    prop_assert_eq!(presence.join(name.as_deref()), first);
                    *connections += 1;
                } else if *connections > 0 {
                    *connections -= 1;
                    let last = *connections == 0 && number > 0;
                    prop_assert_eq!(presence.leave(name.as_deref()), last);
                }
                let anonymous = model.get(&0).copied().unwrap_or(0);
                let users: Vec<_> = model.iter().filter(|(number, count)| **number > 0 && **count > 0).collect();
                let counts = Counts {
                    users: users.len() as u32,
                    anonymous,
                    connections: model.values().sum(),
                };
                prop_assert_eq!(presence.counts(), counts);
                let page = presence.page(0, 100);
                prop_assert_eq!(page.next, None);
                let listed: BTreeMap<String, u32> =
                    page.members.into_iter().map(|(name, count)| (name.into(), count)).collect();
                let expected: BTreeMap<String, u32> = users
                    .into_iter()
                    .map(|(number, count)| (user(*number).unwrap(), *count))
                    .collect();
                prop_assert_eq!(listed, expected);
            }
        }

        /// Who stays while the pages are read is met once, whoever else comes and goes.
        #[test]
        fn pages_meet_everybody_who_stays_once(
            limit in 1usize..7,
            moves in prop::collection::vec(prop::collection::vec((any::<bool>(), 0u32..40), 0..6), 40),
        ) {
            let mut presence = Presence::new(1);
            let mut there: BTreeSet<u32> = (0..40).collect();
            for number in &there {
                presence.join(Some(&number.to_string()));
            }
            let mut stayed = there.clone();
            let mut seen: Vec<u32> = Vec::new();
            let mut from = Some(0);
            for moves in moves {
                let Some(at) = from else { break };
                let page = presence.page(at, limit);
                prop_assert!(page.members.len() <= limit);
                seen.extend(page.members.iter().map(|(name, _)| name.parse::<u32>().unwrap()));
                from = page.next;
                for (join, number) in moves {
                    if join && there.insert(number) {
                        presence.join(Some(&number.to_string()));
                    } else if !join && there.remove(&number) {
                        presence.leave(Some(&number.to_string()));
                        stayed.remove(&number);
                    }
                }
            }
            prop_assume!(from.is_none());
            for number in stayed {
                prop_assert_eq!(seen.iter().filter(|one| **one == number).count(), 1, "{}", number);
            }
        }
    }
}
