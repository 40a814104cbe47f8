//! The subscribers of one channel on one shard: a set of slab keys that is small when there are
//! few, and is always walked in slab order (at 9,000 subscribers a random order costs 1 µs more
//! per delivery).

use super::{SHAPES, Shape};
use roaring::RoaringBitmap;
use thin_vec::ThinVec;

/// Above this many a bitmap takes over: an insertion into the array would move up to 256 bytes.
const MAX_ARRAY: usize = 64;

/// A sorted set of connection keys.
#[derive(Debug, Clone)]
pub enum Subscribers {
    /// The only one, without an allocation.
    One(u32),
    /// At most `MAX_ARRAY` keys, sorted.
    Few(ThinVec<u32>),
    /// Any number.
    Many(Box<RoaringBitmap>),
}

const _: () = assert!(size_of::<Subscribers>() == 16, "there may be a million");

impl Default for Subscribers {
    fn default() -> Self {
        Self::Few(ThinVec::new())
    }
}

impl Subscribers {
    /// Adds a key; whether it was new.
    pub fn insert(&mut self, key: u32) -> bool {
        match self {
            Self::One(only) if *only == key => false,
            Self::One(only) => {
                let mut keys = ThinVec::with_capacity(2);
                keys.extend([key.min(*only), key.max(*only)]);
                *self = Self::Few(keys);
                true
            }
            Self::Few(keys) if keys.is_empty() => {
                *self = Self::One(key);
                true
            }
            Self::Few(keys) => match keys.binary_search(&key) {
                Ok(_) => false,
                Err(at) if keys.len() < MAX_ARRAY => {
                    keys.insert(at, key);
                    true
                }
                Err(_) => {
                    let mut bitmap: RoaringBitmap = keys.iter().copied().collect();
                    bitmap.insert(key);
                    *self = Self::Many(Box::new(bitmap));
                    true
                }
            },
            Self::Many(bitmap) => bitmap.insert(key),
        }
    }

    /// Removes a key; whether it was there.
    pub fn remove(&mut self, key: u32) -> bool {
        match self {
            Self::One(only) if *only == key => {
                *self = Self::default();
                true
            }
            Self::One(_) => false,
            Self::Few(keys) => match keys.binary_search(&key) {
                Ok(at) => {
                    keys.remove(at);
                    if let [only] = keys[..] {
                        *self = Self::One(only);
                    }
                    true
                }
                Err(_) => false,
            },
            Self::Many(bitmap) => {
                let removed = bitmap.remove(key);
                // Half the threshold, so that a channel at the edge does not change back and forth.
                if removed && bitmap.len() <= (MAX_ARRAY / 2) as u64 {
                    *self = Self::Few(bitmap.iter().collect());
                }
                removed
            }
        }
    }

    /// Whether a key is there.
    #[must_use]
    pub fn contains(&self, key: u32) -> bool {
        match self {
            Self::One(only) => *only == key,
            Self::Few(keys) => keys.binary_search(&key).is_ok(),
            Self::Many(bitmap) => bitmap.contains(key),
        }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Few(keys) => keys.len(),
            Self::Many(bitmap) => bitmap.len() as usize,
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match self {
            Self::One(_) => false,
            Self::Few(keys) => keys.is_empty(),
            Self::Many(bitmap) => bitmap.is_empty(),
        }
    }

    /// Calls `each` for every key, in ascending order.
    pub fn for_each(&self, mut each: impl FnMut(u32)) {
        match self {
            Self::One(only) => each(*only),
            Self::Few(keys) => keys.iter().copied().for_each(each),
            Self::Many(bitmap) => {
                for key in bitmap.iter() {
                    each(key);
                }
            }
        }
    }
}

/// Subscribers by the shape in which they get the channel's messages. Each is in one of the sets.
#[derive(Debug, Default)]
pub struct ByShape {
    /// Of [`Shape::PLAIN`], which is all there is in most channels.
    plain: Subscribers,
    others: Option<Box<[Subscribers; SHAPES - 1]>>,
}

impl ByShape {
    /// Those of one shape.
    #[must_use]
    pub fn of(&self, shape: Shape) -> Option<&Subscribers> {
        let set = match shape.index() {
            0 => &self.plain,
            at => &self.others.as_ref()?[at - 1],
        };
        (!set.is_empty()).then_some(set)
    }

    /// The shapes that somebody gets.
    pub fn shapes(&self) -> impl Iterator<Item = Shape> {
        Shape::all().filter(|shape| self.of(*shape).is_some())
    }

    /// The shape that a subscriber gets; `None`: it is no subscriber.
    #[must_use]
    pub fn shape_of(&self, key: u32) -> Option<Shape> {
        self.shapes()
            .find(|shape| self.of(*shape).is_some_and(|set| set.contains(key)))
    }

    /// Adds a subscriber, or changes its shape. Whether it is new.
    pub fn insert(&mut self, key: u32, shape: Shape) -> bool {
        // Nobody changes its shape where there is only one.
        let known = match (&self.others, shape) {
            (None, Shape::PLAIN) => return self.plain.insert(key),
            _ => self.shape_of(key),
        };
        if known == Some(shape) {
            return false;
        }
        self.remove(key);
        match shape.index() {
            0 => self.plain.insert(key),
            at => self.others.get_or_insert_default()[at - 1].insert(key),
        };
        known.is_none()
    }

    /// Removes a subscriber; whether it was one.
    pub fn remove(&mut self, key: u32) -> bool {
        if self.plain.remove(key) {
            return true;
        }
        let Some(others) = &mut self.others else {
            return false;
        };
        let removed = others.iter_mut().any(|set| set.remove(key));
        if others.iter().all(Subscribers::is_empty) {
            self.others = None;
        }
        removed
    }

    /// Whether nobody is subscribed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        // The others are there only with somebody in them.
        self.plain.is_empty() && self.others.is_none()
    }

    /// Calls `each` for every subscriber.
    #[cfg(test)]
    pub(crate) fn for_each(&self, mut each: impl FnMut(u32)) {
        self.shapes()
            .filter_map(|shape| self.of(shape))
            .for_each(|set| set.for_each(&mut each));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    proptest! {
        #[test]
        fn behaves_like_a_sorted_set(steps in prop::collection::vec((any::<bool>(), 0u32..150), 0..600)) {
            let mut set = Subscribers::default();
            let mut model = BTreeSet::new();
            for (insert, key) in steps {
                if insert {
                    prop_assert_eq!(set.insert(key), model.insert(key));
                } else {
                    prop_assert_eq!(set.remove(key), model.remove(&key));
                }
                prop_assert_eq!(set.len(), model.len());
                prop_assert_eq!(set.contains(key), insert);
                prop_assert_eq!(set.is_empty(), model.is_empty());
            }
            let mut seen = Vec::new();
            set.for_each(|key| seen.push(key));
            prop_assert_eq!(seen, model.into_iter().collect::<Vec<_>>());
        }

        #[test]
        fn everybody_is_in_one_form(steps in prop::collection::vec((0u8..5, 0u32..6), 0..200)) {
            let mut sets = ByShape::default();
            let mut model: BTreeMap<u32, Shape> = BTreeMap::new();
            for (step, key) in steps {
                match Shape::all().nth(step.into()) {
                    Some(shape) => {
                        prop_assert_eq!(sets.insert(key, shape), model.insert(key, shape).is_none());
                    }
                    None => prop_assert_eq!(sets.remove(key), model.remove(&key).is_some()),
                }
                prop_assert_eq!(sets.is_empty(), model.is_empty());
                prop_assert_eq!(sets.shape_of(key), model.get(&key).copied());
                let mut seen = Vec::new();
                sets.for_each(|key| seen.push(key));
                seen.sort_unstable();
                prop_assert!(seen.iter().eq(model.keys()));
                let mut shapes: Vec<Shape> = model.values().copied().collect();
                shapes.sort_unstable();
                shapes.dedup();
                prop_assert!(sets.shapes().eq(shapes));
            }
        }
    }
}
