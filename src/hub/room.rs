//! Room that nothing needs any more: lists grow with a burst, and would stay that large.

use std::collections::{BinaryHeap, VecDeque};

/// Room for fewer entries than this is left alone.
const SMALL: usize = 64;

/// A list that can do with less.
pub(crate) trait Room {
    /// Lets go of room for more than twice of what is there, if most of it is empty.
    fn give_back(&mut self);
}

/// To how much room a list shrinks.
fn enough(len: usize, capacity: usize) -> Option<usize> {
    (capacity > SMALL && len < capacity / 4).then_some(2 * len)
}

macro_rules! room {
    ($($list:ty),+) => {
        $(impl<T> Room for $list {
            fn give_back(&mut self) {
                if let Some(room) = enough(self.len(), self.capacity()) {
                    self.shrink_to(room);
                }
            }
        })+
    };
}

room!(Vec<T>, VecDeque<T>, BinaryHeap<T>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_goes_and_entries_stay() {
        let mut list: Vec<u32> = (0..10_000).collect();
        list.truncate(3_000);
        list.give_back();
        assert!(list.capacity() >= 10_000, "a quarter is in use");
        list.truncate(100);
        list.give_back();
        assert!((100..1_000).contains(&list.capacity()));
        assert!(list.iter().copied().eq(0..100));
        list.clear();
        list.give_back();
        assert_eq!(list.capacity(), 0);
        list.reserve_exact(SMALL);
        list.give_back();
        assert_eq!(list.capacity(), SMALL, "not worth it");
    }
}
