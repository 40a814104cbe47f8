//! The users that are connected to this shard, and with which connections.

use super::Names;
use super::subscribers::Subscribers;
use slab::Slab;

/// The number of no user: of whoever has not said who it is.
pub const NOBODY: u32 = u32::MAX;

/// The connections of a user; most have one.
#[derive(Clone, Copy)]
enum User {
    One(u32),
    /// A place among [`Users::several`].
    Several(u32),
}

/// Users by name and by number. A user's number stays as long as it is connected to this shard.
pub struct Users {
    users: Names<User>,
    several: Slab<Subscribers>,
}

impl Users {
    /// Nobody. `seed` as for [`Names::new`].
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            users: Names::new(seed),
            several: Slab::new(),
        }
    }

    /// Lets go of room that nobody needs any more.
    pub(crate) fn give_back(&mut self) {
        self.users.give_back();
        if self.several.is_empty() {
            self.several = Slab::new();
        }
    }

    /// A connection turns out to be of this user; returns the user's number.
    pub fn join(&mut self, name: &str, connection: u32) -> u32 {
        let Some(number) = self.users.find(name) else {
            return self.users.insert(name, User::One(connection));
        };
        if let Some(user) = self.users.get_mut(number) {
            match *user {
                User::One(first) => {
                    let mut several = Subscribers::default();
                    several.insert(first);
                    several.insert(connection);
                    *user = User::Several(self.several.insert(several) as u32);
                }
                User::Several(at) => {
                    self.several[at as usize].insert(connection);
                }
            }
        }
        number
    }

    /// A connection of a user has ended.
    pub fn leave(&mut self, number: u32, connection: u32) {
        let Some(user) = self.users.get_mut(number) else {
            return;
        };
        match *user {
            User::One(only) => {
                if only == connection {
                    self.users.remove(number);
                }
            }
            User::Several(at) => {
                let several = &mut self.several[at as usize];
                several.remove(connection);
                if let Subscribers::One(last) = *several {
                    *user = User::One(last);
                    self.several.remove(at as usize);
                }
            }
        }
    }

    /// The name of a number.
    #[must_use]
    pub fn name(&self, number: u32) -> Option<&str> {
        self.users.name(number)
    }

    /// How many connections a user has here.
    #[must_use]
    pub fn connections(&self, name: &str) -> usize {
        match self.user(name) {
            None => 0,
            Some(User::One(_)) => 1,
            Some(User::Several(at)) => self.several[at as usize].len(),
        }
    }

    /// Calls `each` for every connection of a user, in ascending order.
    pub fn for_each(&self, name: &str, mut each: impl FnMut(u32)) {
        match self.user(name) {
            None => {}
            Some(User::One(only)) => each(only),
            Some(User::Several(at)) => self.several[at as usize].for_each(each),
        }
    }

    fn user(&self, name: &str) -> Option<User> {
        let number = self.users.find(name)?;
        self.users.get(number).copied()
    }

    /// Users that are connected.
    #[must_use]
    pub fn len(&self) -> usize {
        self.users.len()
    }

    /// Whether nobody is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeSet, HashMap};

    const _: () = assert!(size_of::<User>() <= 8, "there may be a million");

    proptest! {
        #[test]
        fn behaves_like_a_map_of_sets(steps in prop::collection::vec((any::<bool>(), 0u32..60), 0..300)) {
            let mut users = Users::new(1);
            let mut numbers: HashMap<u32, u32> = HashMap::new();
            let mut model: HashMap<String, BTreeSet<u32>> = HashMap::new();
            for (join, connection) in steps {
                let name = format!("user {}", connection % 4);
                if join && !numbers.contains_key(&connection) {
                    let number = users.join(&name, connection);
                    prop_assert_eq!(users.name(number), Some(&*name));
                    numbers.insert(connection, number);
                    model.entry(name).or_default().insert(connection);
                } else if let Some(number) = numbers.remove(&connection) {
                    prop_assert_eq!(users.name(number), Some(&*name));
                    users.leave(number, connection);
                    let connections = model.get_mut(&name).unwrap();
                    connections.remove(&connection);
                    if connections.is_empty() {
                        model.remove(&name);
                    }
                }
                prop_assert_eq!(users.len(), model.len());
                prop_assert_eq!(users.is_empty(), model.is_empty());
                for at in 0..4 {
                    let name = format!("user {at}");
                    let mut seen = Vec::new();
                    users.for_each(&name, |connection| seen.push(connection));
                    let expected: Vec<u32> = model.get(&name).into_iter().flatten().copied().collect();
                    prop_assert_eq!(users.connections(&name), expected.len());
                    prop_assert_eq!(seen, expected);
                }
            }
        }
    }
}
