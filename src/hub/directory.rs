//! Which shards a user is connected to: kept by the user's home shard, for messages to the user.
//!
//! Users are known here by a hash of their names, 16 bytes per user and shard, because there may be a
//! million. Should two users ever have the same, each shard that one of them is on is asked for either;
//! the shards know them by name.

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use std::hash::BuildHasher;

/// Keeps users' homes apart from channels'.
const SALT: u64 = 0x7573_6572_7300;

/// A user, as homes know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserHash(u64);

impl UserHash {
    /// The hash of a user's name. All shards of a process use the same `seed`, from the operating system.
    #[must_use]
    pub fn of(name: &str, seed: u64) -> Self {
        Self(FixedState::with_seed(seed ^ SALT).hash_one(name))
    }

    /// Which of `shards` is the user's home.
    #[must_use]
    pub fn home(self, shards: usize) -> u16 {
        ((u128::from(self.0) * shards as u128) >> 64) as u16
    }
}

struct Entry {
    user: u64,
    connections: u32,
    shard: u16,
}

const _: () = assert!(size_of::<Entry>() == 16, "there may be a million");

/// The users at home on one shard.
#[derive(Default)]
pub struct Directory {
    entries: HashTable<Entry>,
}

impl Directory {
    /// Lets go of room that nobody needs any more.
    pub(crate) fn give_back(&mut self) {
        let entries = &mut self.entries;
        if entries.capacity() > 1024 && entries.len() < entries.capacity() / 8 {
            entries.shrink_to(2 * entries.len(), |entry| entry.user);
        }
    }

    /// A user has one connection more on a shard.
    pub fn joined(&mut self, user: UserHash, shard: u16) {
        let UserHash(hash) = user;
        let same = |entry: &Entry| entry.user == hash && entry.shard == shard;
        match self.entries.find_mut(hash, same) {
            Some(entry) => entry.connections += 1,
            None => {
                let entry = Entry {
                    user: hash,
                    connections: 1,
                    shard,
                };
                self.entries.insert_unique(hash, entry, |entry| entry.user);
            }
        }
    }

    /// A user has one connection less on a shard.
    pub fn left(&mut self, user: UserHash, shard: u16) {
        let UserHash(hash) = user;
        let same = |entry: &Entry| entry.user == hash && entry.shard == shard;
        let Ok(mut entry) = self.entries.find_entry(hash, same) else {
            debug_assert!(false, "who leaves has joined");
            return;
        };
        entry.get_mut().connections -= 1;
        if entry.get().connections == 0 {
            entry.remove();
        }
    }

    /// The shards that a user is connected to, each with how many connections.
    pub fn shards(&self, user: UserHash) -> impl Iterator<Item = (u16, u32)> {
        let UserHash(hash) = user;
        self.entries
            .iter_hash(hash)
            .filter(move |entry| entry.user == hash)
            .map(|entry| (entry.shard, entry.connections))
    }

    /// Users and shards.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nobody is connected that is at home here.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn homes_spread_evenly() {
        let mut counts = [0u32; 8];
        for number in 0..8000 {
            let user = UserHash::of(&format!("user {number}"), 42);
            counts[usize::from(user.home(8))] += 1;
        }
        let even = |count: &u32| (800..1200).contains(count);
        assert!(counts.iter().all(even), "{counts:?}");
        assert_eq!(UserHash::of("x", 7).home(1), 0);
    }

    proptest! {
        #[test]
        fn counts_like_a_map(steps in prop::collection::vec((any::<bool>(), 0u64..4, 0u16..3), 0..300)) {
            let mut directory = Directory::default();
            let mut model: BTreeMap<(u64, u16), u32> = BTreeMap::new();
            for (join, user, shard) in steps {
                if join {
                    directory.joined(UserHash(user), shard);
                    *model.entry((user, shard)).or_default() += 1;
                } else if let Some(count) = model.get_mut(&(user, shard)) {
                    directory.left(UserHash(user), shard);
                    *count -= 1;
                    if *count == 0 {
                        model.remove(&(user, shard));
                    }
                }
                prop_assert_eq!(directory.len(), model.len());
                prop_assert_eq!(directory.is_empty(), model.is_empty());
                for user in 0..4 {
                    let mut found: Vec<(u16, u32)> = directory.shards(UserHash(user)).collect();
                    found.sort_unstable();
                    let expected: Vec<(u16, u32)> = model
                        .iter()
                        .filter(|((one, _), _)| *one == user)
                        .map(|((_, shard), count)| (*shard, *count))
                        .collect();
                    prop_assert_eq!(found, expected);
                }
            }
        }
    }
}
