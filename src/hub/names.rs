//! Names to numbers: named things with an index over their names, each name stored once.

use super::chunks::Chunks;
use compact_str::CompactString;
use foldhash::fast::FixedState;
use hashbrown::HashTable;
use std::hash::BuildHasher;

struct Named<T> {
    /// Up to 24 bytes stand here, without an allocation: most names of channels and users.
    name: CompactString,
    value: T,
}

/// Values found by name or by number. The number of a value never changes while it is there.
pub struct Names<T> {
    values: Chunks<Named<T>>,
    index: HashTable<u32>,
    hasher: FixedState,
}

impl<T> Names<T> {
    /// An empty table. `seed` comes from the operating system's random numbers, once per process:
    /// clients choose the names, so a known seed would let them choose the collisions too.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            values: Chunks::default(),
            index: HashTable::new(),
            hasher: FixedState::with_seed(seed),
        }
    }

    /// The number of `name`.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<u32> {
        let hash = self.hasher.hash_one(name);
        self.index
            .find(hash, |&key| self.name(key) == Some(name))
            .copied()
    }

    /// Adds a value whose name is not there yet; returns its number.
    pub fn insert(&mut self, name: &str, value: T) -> u32 {
        debug_assert!(self.find(name).is_none(), "a name is stored once");
        let Self {
            values,
            index,
            hasher,
        } = self;
        let key = values.insert(Named {
            name: name.into(),
            value,
        });
        index.insert_unique(hasher.hash_one(name), key, |&other| {
            let name = values.get(other).map(|named| named.name.as_str());
            hasher.hash_one(name.unwrap_or_default())
        });
        key
    }

    /// Removes a value.
    pub fn remove(&mut self, key: u32) -> Option<T> {
        let named = self.values.remove(key)?;
        let hash = self.hasher.hash_one(named.name.as_str());
        if let Ok(entry) = self.index.find_entry(hash, |&other| other == key) {
            entry.remove();
        }
        self.shrink_index();
        Some(named.value)
    }

    /// When all have left: the last room goes too. Not with every removal, so that a value that comes and
    /// goes costs no allocation.
    pub(crate) fn give_back(&mut self) {
        self.values.give_back();
        if self.index.is_empty() {
            self.index = HashTable::new();
        }
    }

    /// After a crowd has left: room for many is memory too.
    fn shrink_index(&mut self) {
        let Self {
            values,
            index,
            hasher,
        } = self;
        if index.capacity() > 1024 && index.len() < index.capacity() / 8 {
            index.shrink_to(index.len() * 2, |&other| {
                let name = values.get(other).map(|named| named.name.as_str());
                hasher.hash_one(name.unwrap_or_default())
            });
        }
    }

    /// The value of a number.
    #[must_use]
    pub fn get(&self, key: u32) -> Option<&T> {
        self.values.get(key).map(|named| &named.value)
    }

    /// The value of a number, to change.
    pub fn get_mut(&mut self, key: u32) -> Option<&mut T> {
        self.values.get_mut(key).map(|named| &mut named.value)
    }

    /// A number's name together with its value.
    pub fn entry_mut(&mut self, key: u32) -> Option<(&str, &mut T)> {
        self.values
            .get_mut(key)
            .map(|named| (&*named.name, &mut named.value))
    }

    /// The name of a number.
    #[must_use]
    pub fn name(&self, key: u32) -> Option<&str> {
        self.values.get(key).map(|named| &*named.name)
    }

    /// All values.
    #[cfg(test)]
    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        self.values.values().map(|named| &named.value)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Which of `shards` is home to a channel. All shards of a process use the same `seed`.
#[must_use]
pub(crate) fn home_of(name: &str, seed: u64, shards: usize) -> usize {
    let hash = FixedState::with_seed(seed ^ 0x686f_6d65).hash_one(name);
    ((u128::from(hash) * shards as u128) >> 64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[test]
    fn homes_spread_evenly() {
        let mut counts = [0u32; 8];
        for i in 0..8000 {
            counts[home_of(&format!("channel-{i}"), 42, 8)] += 1;
        }
        assert!(
            counts.iter().all(|&count| (800..1200).contains(&count)),
            "{counts:?}"
        );
        assert_eq!(home_of("x", 7, 1), 0);
    }

    proptest! {
        #[test]
        fn behaves_like_a_map(steps in prop::collection::vec((0u8..3, 0u8..20), 0..200)) {
            let mut names = Names::new(1);
            let mut model: HashMap<String, (u32, u8)> = HashMap::new();
            for (step, n) in steps {
                let name = format!("n{n}");
                match step {
                    0 => {
                        if names.find(&name).is_none() {
                            let key = names.insert(&name, n);
                            model.insert(name, (key, n));
                        }
                    }
                    1 => {
                        if let Some((key, value)) = model.remove(&name) {
                            prop_assert_eq!(names.remove(key), Some(value));
                        }
                    }
                    _ => {
                        prop_assert_eq!(names.find(&name), model.get(&name).map(|&(key, _)| key));
                        if let Some(&(key, value)) = model.get(&name) {
                            prop_assert_eq!(names.name(key), Some(&*name));
                            prop_assert_eq!(names.get(key), Some(&value));
                        }
                    }
                }
                prop_assert_eq!(names.len(), model.len());
            }
        }
    }
}
