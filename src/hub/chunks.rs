//! A slab that grows by chunks: no growth copies what is there, and chunks that are empty go.
//!
//! One slab of a million channels would be copied each time it doubles, with all shards' messages waiting
//! meanwhile, and the halves that it leaves behind would stay in the allocator's hands.

use slab::Slab;

/// Entries of a chunk. The first one grows up to it: most tables never hold more than a few.
const CHUNK: usize = 1024;

/// Values by number. The number of a value never changes while it is there.
pub(super) struct Chunks<T> {
    chunks: Vec<Slab<T>>,
    /// Chunks that are not full.
    roomy: Vec<u32>,
    len: usize,
}

impl<T> Default for Chunks<T> {
    fn default() -> Self {
        Self {
            chunks: Vec::new(),
            roomy: Vec::new(),
            len: 0,
        }
    }
}

impl<T> Chunks<T> {
    /// Adds a value; returns its number.
    pub(super) fn insert(&mut self, value: T) -> u32 {
        let at = match self.roomy.last() {
            Some(&at) => at as usize,
            None => {
                self.roomy.push(self.chunks.len() as u32);
                self.chunks.push(Slab::new());
                self.chunks.len() - 1
            }
        };
        let chunk = &mut self.chunks[at];
        if at > 0 && chunk.capacity() == 0 {
            *chunk = Slab::with_capacity(CHUNK);
        }
        let key = chunk.insert(value);
        if chunk.len() == CHUNK {
            self.roomy.pop();
        }
        self.len += 1;
        (at * CHUNK + key) as u32
    }

    /// Removes a value.
    pub(super) fn remove(&mut self, key: u32) -> Option<T> {
        let at = key as usize / CHUNK;
        let chunk = self.chunks.get_mut(at)?;
        let value = chunk.try_remove(key as usize % CHUNK)?;
        self.len -= 1;
        if chunk.len() == CHUNK - 1 {
            self.roomy.push(at as u32);
        }
        // One empty chunk stays, so that a value that comes and goes costs no allocation.
        if chunk.is_empty() && self.roomy.len() > 1 {
            *chunk = Slab::new();
            // Those with something in them are filled first, so that this one can stay empty.
            if let Some(place) = self.roomy.iter().position(|&one| one as usize == at) {
                self.roomy.swap(0, place);
            }
        }
        Some(value)
    }

    /// The value of a number.
    pub(super) fn get(&self, key: u32) -> Option<&T> {
        let key = key as usize;
        self.chunks.get(key / CHUNK)?.get(key % CHUNK)
    }

    /// The value of a number, to change.
    pub(super) fn get_mut(&mut self, key: u32) -> Option<&mut T> {
        let key = key as usize;
        self.chunks.get_mut(key / CHUNK)?.get_mut(key % CHUNK)
    }

    /// Lets go of the last chunk when nothing is left.
    pub(super) fn give_back(&mut self) {
        if self.len == 0 {
            *self = Self::default();
        }
    }

    /// All values.
    #[cfg(test)]
    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().flatten().map(|(_, value)| value)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn behaves_like_a_map(steps in prop::collection::vec((any::<bool>(), any::<u16>()), 0..40)) {
            let mut chunks = Chunks::default();
            let mut model: BTreeMap<u32, u32> = BTreeMap::new();
            let mut next = 0;
            for (insert, many) in steps {
                // Some hundred at once, so that chunks become full and empty.
                for step in 0..u32::from(many % 700) {
                    if insert {
                        let key = chunks.insert(next);
                        prop_assert!(model.insert(key, next).is_none());
                        next += 1;
                    } else {
                        let from = u32::from(many).wrapping_mul(step + 1) % (next + 1);
                        let Some((&key, &value)) = model.range(from..).next() else { continue };
                        model.remove(&key);
                        prop_assert_eq!(chunks.remove(key), Some(value));
                        prop_assert_eq!(chunks.remove(key), None);
                    }
                }
                prop_assert_eq!(chunks.len(), model.len());
                prop_assert!(chunks.values().eq(model.values()));
                for (key, value) in &model {
                    prop_assert_eq!(chunks.get(*key), Some(value));
                    prop_assert_eq!(chunks.get_mut(*key).copied(), Some(*value));
                }
                let roomy = chunks.chunks.iter().filter(|chunk| chunk.len() < CHUNK).count();
                prop_assert_eq!(chunks.roomy.len(), roomy);
            }
        }
    }

    #[test]
    fn memory_comes_back() {
        let mut chunks = Chunks::default();
        let keys: Vec<u32> = (0..100_000).map(|value| chunks.insert(value)).collect();
        assert_eq!(chunks.chunks.len(), 100_000usize.div_ceil(CHUNK));
        for key in keys {
            chunks.remove(key);
        }
        let held: usize = chunks.chunks.iter().map(Slab::capacity).sum();
        assert!(held <= 2 * CHUNK, "{held}");
        chunks.give_back();
        assert!(chunks.chunks.is_empty());
        assert_eq!(chunks.insert(1), 0);
        chunks.give_back();
        assert_eq!(chunks.get(0), Some(&1), "it is in use");
    }
}
