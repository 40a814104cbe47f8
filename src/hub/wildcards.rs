//! Wildcards: patterns that stand for many channels, and which of them a channel's name matches.
//!
//! The levels of a name lie between its dots; two dots in a row have an empty level between them, which
//! is one like others. A level of a pattern that is `*` and nothing else stands for any one level, and
//! a last one that is `>` for one or more: `prices.*` matches `prices.eur`, `prices.>` also
//! `prices.eur.usd`, and neither matches `prices`. Everything else is literal, `a*` and `*b` included.
//!
//! On the way of a message this stands beside the names of channels: whoever has patterns to look a
//! name up in keeps them in [`Wildcards`].

use crate::config::limits::{MAX_WILDCARD_LEVELS, MAX_WILDCARD_ONES};
use foldhash::fast::FixedState;
use hashbrown::HashTable;
use smallvec::SmallVec;
use std::hash::BuildHasher;

/// Stands for exactly one level.
const ONE: &str = "*";
/// Stands for one or more levels, at the end.
const REST: &str = ">";

/// Levels that a lookup goes down before what it has yet to look at moves to the heap. The names of
/// ordinary channels have half a dozen.
const USUAL_LEVELS: usize = 32;

/// Tables with less than one in so many places taken are made smaller.
const SPARSE: usize = 4;

/// Why a pattern is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the level > stands for all levels that follow and must be the last one; write * for exactly one level"
)]
pub struct MisplacedRest;

/// Whether a name is a wildcard: it has a level `*`, or ends with a level `>`. Costs next to nothing
/// for names without either character.
#[must_use]
pub fn is_wildcard(name: &str) -> bool {
    memchr::memchr2(b'*', b'>', name.as_bytes()).is_some() && first_wildcard(name).is_some()
}

/// Checks that a level `>` is the last one. Costs next to nothing for names without the character.
///
/// # Errors
/// Says what to write instead.
pub fn check(name: &str) -> Result<(), MisplacedRest> {
    if memchr::memchr(b'>', name.as_bytes()).is_none() {
        return Ok(());
    }
    let mut levels = Levels::of(name);
    while let Some(level) = levels.next() {
        if level == REST && !levels.is_empty() {
            return Err(MisplacedRest);
        }
    }
    Ok(())
}

/// Whether a name has a level that stands for others, at whatever place: it is no channel's.
#[must_use]
pub fn is_reserved(name: &str) -> bool {
    is_wildcard(name) || check(name).is_err()
}

/// A wildcard that looking up names would cost too much with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a wildcard may have {MAX_WILDCARD_LEVELS} levels, and {MAX_WILDCARD_ONES} of them may be *"
)]
pub struct TooCostly;

/// Checks that a wildcard has few levels, and few that are `*`: a name can match as many mixtures of `*` and
/// text as there are, and all of them are looked at.
///
/// # Errors
/// Says how many there may be.
pub fn check_cost(wildcard: &str) -> Result<(), TooCostly> {
    let (mut levels, mut ones) = (0, 0);
    for level in wildcard.split('.') {
        levels += 1;
        ones += usize::from(level == ONE);
    }
    match levels <= MAX_WILDCARD_LEVELS && ones <= MAX_WILDCARD_ONES {
        true => Ok(()),
        false => Err(TooCostly),
    }
}

/// Whether a pattern matches a name. One that [`check`] refuses matches nothing.
#[must_use]
pub fn matches(pattern: &str, name: &str) -> bool {
    Levels::of(pattern)
        .follow(Levels::of(name))
        .is_some_and(Levels::is_empty)
}

/// Where the first level of a pattern begins that stands for others.
fn first_wildcard(pattern: &str) -> Option<usize> {
    let mut levels = Levels::of(pattern);
    let mut at = 0;
    while let Some(level) = levels.next() {
        if level == ONE || level == REST && levels.is_empty() {
            return Some(at);
        }
        at += level.len() + 1;
    }
    None
}

/// What all names begin with that a pattern matches, and no more: behind it they differ at once. Of a
/// pattern that is a single name, that name.
pub(super) fn beginning(pattern: &str) -> &str {
    &pattern[..first_wildcard(pattern).unwrap_or(pattern.len())]
}

/// Whether some name that a pattern matches begins with `text`, which may end within a level.
pub(super) fn may_begin_with(pattern: &str, text: &str) -> bool {
    let mut pattern = Levels::of(pattern);
    let mut text = Levels::of(text);
    while let Some(level) = text.next() {
        let Some(token) = pattern.next() else {
            return false;
        };
        if token == REST {
            return pattern.is_empty();
        }
        // A name's level goes on behind the end of the text.
        let fits = match text.is_empty() {
            true => token.starts_with(level),
            false => token == level,
        };
        if token != ONE && !fits {
            return false;
        }
    }
    true
}

/// The levels of a name or a pattern that are left.
#[derive(Clone, Copy)]
struct Levels<'a> {
    /// `None`: no level is left. An empty text is an empty level.
    rest: Option<&'a str>,
}

impl<'a> Levels<'a> {
    fn of(name: &'a str) -> Self {
        Self { rest: Some(name) }
    }

    fn is_empty(self) -> bool {
        self.rest.is_none()
    }

    /// Follows these levels of a pattern along a name; returns what is then left of the name. `None`: they
    /// do not match.
    fn follow<'b>(mut self, mut name: Levels<'b>) -> Option<Levels<'b>> {
        while let Some(token) = self.next() {
            let level = name.next()?;
            if token == REST {
                return self.is_empty().then_some(Levels { rest: None });
            }
            if token != ONE && token != level {
                return None;
            }
        }
        Some(name)
    }
}

impl<'a> Iterator for Levels<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let rest = self.rest?;
        let level = first(rest);
        self.rest = rest.get(level.len() + 1..);
        Some(level)
    }
}

/// The first level.
fn first(name: &str) -> &str {
    match memchr::memchr(b'.', name.as_bytes()) {
        Some(dot) => &name[..dot],
        None => name,
    }
}

/// How many bytes two patterns have in common at their beginning, in whole levels. The first levels are
/// the same.
fn shared(one: &str, other: &str) -> usize {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    let same = one.iter().zip(other).take_while(|(a, b)| a == b).count();
    let ends = |bytes: &[u8]| bytes.get(same).is_none_or(|&byte| byte == b'.');
    if ends(one) && ends(other) {
        return same;
    }
    memchr::memrchr(b'.', &one[..same]).expect("the first levels are the same")
}

/// Values at patterns, found by the names that the patterns match.
///
/// A tree of levels in which a node without values has at least two children: the levels between two
/// nodes stand together in the lower one. So there are fewer than two nodes per pattern, however many
/// levels it has; a pattern costs some 120 bytes and its length, at worst another 160 and its length again
/// for a node where it parts from another.
///
/// A lookup takes at each node the children whose levels the name goes on with: the one with the name's
/// level (one look into a table), the one with `*`, and the one with `>`. A name of n levels takes at most
/// n looks where no `*` is on its way; each level where both children go on doubles what is below it. A
/// node stands at one place of a name, so that none is visited twice, and the nodes are the worst case:
/// all mixtures of `a` and `*` in 14 levels, 8,192 patterns, make each lookup of `a.a.a.…` meet 16,383
/// nodes. [`check_cost`] is against that: with at most three `*` in 16 levels it is some 2,500.
///
/// It is meant for few and small values per pattern: [`Self::insert`] and [`Self::remove`] look at all of
/// a pattern's.
pub struct Wildcards<T> {
    root: Node<T>,
    patterns: usize,
    version: u64,
    hasher: FixedState,
}

struct Node<T> {
    /// The levels from the root to here: the pattern, where there are values.
    path: Box<str>,
    /// Where in the path the levels begin that follow the parent's; its length, for one empty level.
    start: usize,
    values: SmallVec<[T; 1]>,
    /// The children whose first level is text, by that level.
    literal: HashTable<Box<Node<T>>>,
    /// The child whose first level is `*`.
    one: Option<Box<Node<T>>>,
    /// The child for `>`, which has none itself.
    rest: Option<Box<Node<T>>>,
}

impl<T> Wildcards<T> {
    /// No patterns. `seed` comes from the operating system's random numbers: clients choose the levels, so
    /// a known seed would let them choose the collisions too.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            root: Node::new("", 0),
            patterns: 0,
            version: 0,
            hasher: FixedState::with_seed(seed),
        }
    }

    /// Patterns that have values.
    #[must_use]
    pub fn len(&self) -> usize {
        self.patterns
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.patterns == 0
    }

    /// A number that every change makes another: while it stays, a name matches what it matched. 0 as long
    /// as nothing was ever added.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The values of a pattern, in the order in which they came.
    #[must_use]
    pub fn get(&self, pattern: &str) -> &[T] {
        let mut node = &self.root;
        let mut start = 0;
        while let Some(below) = pattern.get(start..) {
            let Some(child) = node.child(first(below), &self.hasher) else {
                return &[];
            };
            if shared(child.levels(), below) < child.levels().len() {
                return &[];
            }
            start += child.levels().len() + 1;
            node = child;
        }
        &node.values
    }

    /// Adds a value to a pattern; whether it was new. An equal one is kept once, and none at a pattern
    /// that [`check`] refuses.
    pub fn insert(&mut self, pattern: &str, value: T) -> bool
    where
        T: PartialEq,
    {
        let values = self.get(pattern);
        if values.contains(&value) || check(pattern).is_err() {
            return false;
        }
        self.patterns += usize::from(values.is_empty());
        self.version += 1;
        self.root.insert(pattern, 0, value, &self.hasher);
        true
    }

    /// Removes those values of a pattern for which `which` is true, and what nothing needs any more;
    /// returns how many there were.
    pub fn remove(&mut self, pattern: &str, mut which: impl FnMut(&T) -> bool) -> usize {
        let Some((removed, left)) = self.root.remove(pattern, 0, &mut which, &self.hasher) else {
            return 0;
        };
        self.patterns -= usize::from(left == 0);
        self.version += 1;
        removed
    }

    /// Calls `each` for every value of every pattern that matches a name, with the pattern, in no order
    /// that means anything.
    pub fn for_each_match<'a>(&'a self, name: &str, mut each: impl FnMut(&'a str, &'a T)) {
        // Every level adds two nodes at most, and takes one: what waits never grows beyond the levels.
        let mut waiting: SmallVec<[(&Node<T>, Levels<'_>); USUAL_LEVELS]> = SmallVec::new();
        if !self.is_empty() {
            waiting.push((&self.root, Levels::of(name)));
        }
        while let Some((node, left)) = waiting.pop() {
            let Some(level) = left.rest.map(first) else {
                continue;
            };
            let literal = node.literal_child(level, &self.hasher);
            let children = [literal, node.one.as_deref(), node.rest.as_deref()];
            for child in children.into_iter().flatten() {
                let Some(left) = Levels::of(child.levels()).follow(left) else {
                    continue;
                };
                if !left.is_empty() {
                    waiting.push((child, left));
                } else {
                    for value in &child.values {
                        each(&child.path, value);
                    }
                }
            }
        }
    }
}

impl<T> Node<T> {
    fn new(path: &str, start: usize) -> Self {
        Self {
            path: path.into(),
            start,
            values: SmallVec::new(),
            literal: HashTable::new(),
            one: None,
            rest: None,
        }
    }

    /// The levels between the parent and this node.
    fn levels(&self) -> &str {
        &self.path[self.start..]
    }

    fn first_level(&self) -> &str {
        first(self.levels())
    }

    fn children(&self) -> usize {
        self.literal.len() + usize::from(self.one.is_some()) + usize::from(self.rest.is_some())
    }

    fn literal_child(&self, level: &str, hasher: &FixedState) -> Option<&Node<T>> {
        if self.literal.is_empty() {
            return None;
        }
        self.literal
            .find(hasher.hash_one(level), |child| child.first_level() == level)
            .map(|child| &**child)
    }

    /// The child whose levels begin with this one of a pattern.
    fn child(&self, level: &str, hasher: &FixedState) -> Option<&Node<T>> {
        match level {
            ONE => self.one.as_deref(),
            REST => self.rest.as_deref(),
            _ => self.literal_child(level, hasher),
        }
    }

    fn child_mut(&mut self, level: &str, hasher: &FixedState) -> Option<&mut Box<Node<T>>> {
        match level {
            ONE => self.one.as_mut(),
            REST => self.rest.as_mut(),
            _ => self
                .literal
                .find_mut(hasher.hash_one(level), |child| child.first_level() == level),
        }
    }

    /// Takes a child whose first level no other has.
    fn adopt(&mut self, child: Box<Node<T>>, hasher: &FixedState) {
        match child.first_level() {
            ONE => self.one = Some(child),
            REST => self.rest = Some(child),
            level => {
                let hash = hasher.hash_one(level);
                self.literal
                    .insert_unique(hash, child, |child| hasher.hash_one(child.first_level()));
            }
        }
    }

    /// Drops the child whose levels begin with this one.
    fn disown(&mut self, level: &str, hasher: &FixedState) {
        match level {
            ONE => self.one = None,
            REST => self.rest = None,
            _ => {
                let hash = hasher.hash_one(level);
                if let Ok(entry) = self
                    .literal
                    .find_entry(hash, |child| child.first_level() == level)
                {
                    entry.remove();
                }
                if self.literal.is_empty() {
                    self.literal = HashTable::new();
                } else if self.literal.len() < self.literal.capacity() / SPARSE {
                    self.literal.shrink_to(2 * self.literal.len(), |child| {
                        hasher.hash_one(child.first_level())
                    });
                }
            }
        }
    }

    /// The only child, taken out.
    fn take_only_child(&mut self) -> Option<Box<Node<T>>> {
        if self.children() != 1 {
            return None;
        }
        let special = self.one.take().or_else(|| self.rest.take());
        special.or_else(|| self.literal.drain().next())
    }

    /// Adds a value to a pattern whose levels from `start` on lie below this node. Goes as deep as the
    /// pattern has levels.
    fn insert(&mut self, pattern: &str, start: usize, value: T, hasher: &FixedState) {
        let below = &pattern[start..];
        let Some(child) = self.child_mut(first(below), hasher) else {
            let mut child = Box::new(Node::new(pattern, start));
            child.values.push(value);
            return self.adopt(child, hasher);
        };
        let end = start + shared(child.levels(), below);
        if end < child.path.len() {
            // The pattern parts from the child's levels here.
            let upper = Box::new(Node::new(&pattern[..end], start));
            let mut lower = std::mem::replace(child, upper);
            lower.start = end + 1;
            child.adopt(lower, hasher);
        }
        if end == pattern.len() {
            child.values.push(value);
        } else {
            child.insert(pattern, end + 1, value, hasher);
        }
    }

    /// Removes values of a pattern whose levels from `start` on lie below this node. Returns how many it
    /// removed, if any, and how many the pattern has left. Goes as deep as the pattern has levels.
    fn remove(
        &mut self,
        pattern: &str,
        start: usize,
        which: &mut impl FnMut(&T) -> bool,
        hasher: &FixedState,
    ) -> Option<(usize, usize)> {
        let below = &pattern[start..];
        let level = first(below);
        let child = self.child_mut(level, hasher)?;
        let end = start + shared(child.levels(), below);
        if end < child.path.len() {
            return None;
        }
        let result = if end == pattern.len() {
            let before = child.values.len();
            child.values.retain(|value| !which(value));
            let left = child.values.len();
            if left == before {
                return None;
            }
            if left < child.values.capacity() / SPARSE {
                child.values.shrink_to_fit();
            }
            (before - left, left)
        } else {
            child.remove(pattern, end + 1, which, hasher)?
        };
        if child.values.is_empty() {
            if child.children() == 0 {
                self.disown(level, hasher);
            } else if let Some(mut only) = child.take_only_child() {
                only.start = start;
                *child = only;
            }
        }
        Some(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    /// Whether a pattern matches a name, as it is explained to people.
    fn naive(pattern: &str, name: &str) -> bool {
        fn levels(pattern: &[&str], name: &[&str]) -> bool {
            match (pattern, name) {
                ([], []) => true,
                ([">"], [_, ..]) => true,
                ([">", ..], _) => false,
                (["*", pattern @ ..], [_, name @ ..]) => levels(pattern, name),
                ([token, pattern @ ..], [level, name @ ..]) => {
                    token == level && levels(pattern, name)
                }
                _ => false,
            }
        }
        let split = |text| str::split(text, '.').collect::<Vec<_>>();
        levels(&split(pattern), &split(name))
    }

    /// Patterns and names, wrong ones among them.
    fn text() -> impl Strategy<Value = String> {
        let level = prop::sample::select(vec!["a", "b", "", "*", "*", ">", "a*", "ab", "ü"]);
        prop::collection::vec(level, 1..6).prop_map(|levels| levels.join("."))
    }

    /// Counts the nodes below one, and checks that each is needed and reachable.
    fn nodes<T>(node: &Node<T>) -> usize {
        let special = node.one.iter().chain(&node.rest);
        let mut count = 0;
        for child in special.chain(&node.literal) {
            let needed = !child.values.is_empty() || child.children() > 1;
            assert!(needed, "{:?} is not needed", child.path);
            let begins = child.path.get(..node.path.len()) == Some(&*node.path);
            assert!(begins, "{:?} is not below {:?}", child.path, node.path);
            count += 1 + nodes(child);
        }
        count
    }

    fn found(wildcards: &Wildcards<u8>, name: &str) -> Vec<(String, u8)> {
        let mut found = Vec::new();
        wildcards.for_each_match(name, |pattern, &value| found.push((pattern.into(), value)));
        found.sort();
        found
    }

    #[test]
    fn a_level_of_its_own_is_a_wildcard() {
        for name in [
            "*", ">", "*.a", "a.*", "a.*.b", "a.>", "..*", "..>", "a*.*", "*.>", "*.>.a", "ü.*",
        ] {
            assert!(is_wildcard(name), "{name}");
        }
        for name in [
            "", ".", "a", "a.b", "a*", "*a", "**", "a.b*", "a.*b.c", ">a", "a>", "a.>>", ">.a",
            "a.>.b", "a.> ",
        ] {
            assert!(!is_wildcard(name), "{name}");
        }
    }

    #[test]
    fn what_stands_for_all_levels_below_is_the_last() {
        for name in ["", "a", ">", "a.>", "*.>", "a.b>.c", "a.>b.c", "*"] {
            assert_eq!(check(name), Ok(()), "{name}");
        }
        for name in [">.a", "a.>.b", ">.>", "a.>.", "*.>.*"] {
            assert_eq!(check(name), Err(MisplacedRest), "{name}");
        }
        let error = MisplacedRest.to_string();
        assert!(error.contains("must be the last one; write *"), "{error}");
    }

    #[test]
    fn patterns_match_what_they_say() {
        for (pattern, name, expected) in [
            ("prices.*", "prices.eur", true),
            ("prices.*", "prices.", true),
            ("prices.*", "prices", false),
            ("prices.*", "prices.eur.usd", false),
            ("prices.>", "prices.eur", true),
            ("prices.>", "prices.eur.usd", true),
            ("prices.>", "prices.", true),
            ("prices.>", "prices", false),
            ("prices.>", "pricess.eur", false),
            ("*.eur", "prices.eur", true),
            ("*.eur", ".eur", true),
            ("a.*.b", "a..b", true),
            ("a*", "ab", false),
            ("a*", "a*", true),
            ("*", "a", true),
            ("*", "a.b", false),
            (">", "a.b", true),
            (">", "", true),
            ("a.>.b", "a.c.b", false),
            ("a.b", "a.b", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn what_is_shared_parts_at_a_level() {
        let mut wildcards = Wildcards::new(1);
        for pattern in ["prices.eur.usd.>", "prices.eur.gbp.*", "prices.euro.*"] {
            assert!(wildcards.insert(pattern, 1));
        }
        assert_eq!(wildcards.len(), 3);
        assert_eq!(nodes(&wildcards.root), 5);
        assert_eq!(found(&wildcards, "prices.eur.usd.x.y").len(), 1);
        assert_eq!(found(&wildcards, "prices.eur.usd"), []);
        assert_eq!(wildcards.remove("prices.eur.gbp.*", |_| true), 1);
        assert_eq!(nodes(&wildcards.root), 3);
        assert_eq!(wildcards.remove("prices.eur.gbp.*", |_| true), 0);
        assert_eq!(wildcards.remove("prices.eur", |_| true), 0);
        assert_eq!(wildcards.version(), 4);
    }

    #[test]
    fn names_of_many_levels_are_looked_up() {
        let deep = |last: &str| format!("{}{last}", "*.a.".repeat(250));
        let mut wildcards = Wildcards::new(1);
        for last in [">", "*", "a.b"] {
            wildcards.insert(&deep(last), 1);
        }
        for levels in 0..250 {
            wildcards.insert(&format!("{}>", "a.".repeat(levels)), 1);
        }
        assert!(nodes(&wildcards.root) < 2 * wildcards.len());
        assert_eq!(found(&wildcards, &"a.".repeat(501)).len(), 251);
        let name = "a.".repeat(500) + "b";
        assert_eq!(found(&wildcards, &name).len(), 252);
        wildcards.remove(&deep(">"), |_| true);
        assert_eq!(found(&wildcards, &name).len(), 251);
    }

    #[test]
    fn a_million_steps_leave_nothing() {
        let mut wildcards = Wildcards::new(7);
        let levels = ["a", "b", "c", "*", ""];
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        let mut draw = |below: usize| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random % below as u64) as usize
        };
        let mut used = BTreeSet::new();
        for _ in 0..1_000_000 {
            let depth = draw(6);
            let mut pattern: String = (0..depth).flat_map(|_| [levels[draw(5)], "."]).collect();
            pattern.push_str(["*", ">", "a"][draw(3)]);
            let value = draw(3);
            if draw(2) == 0 {
                wildcards.insert(&pattern, value);
                used.insert(pattern);
            } else {
                wildcards.remove(&pattern, |&other| other == value);
            }
        }
        assert!(wildcards.len() > 1000, "{}", wildcards.len());
        assert!(nodes(&wildcards.root) < 2 * wildcards.len());
        for pattern in used {
            wildcards.remove(&pattern, |_| true);
            assert!(wildcards.get(&pattern).is_empty());
        }
        assert!(wildcards.is_empty());
        assert_eq!(nodes(&wildcards.root), 0);
        assert_eq!(wildcards.root.literal.capacity(), 0);
    }

    #[test]
    fn tables_and_values_shrink() {
        let mut wildcards = Wildcards::new(1);
        let pattern = |n: u32| format!("{n}.*");
        for n in 0..1000 {
            wildcards.insert(&pattern(n), n);
            wildcards.insert("*", n);
        }
        for n in 10..1000 {
            assert_eq!(wildcards.remove(&pattern(n), |_| true), 1);
        }
        assert_eq!(wildcards.remove("*", |&n| n > 0), 999);
        assert_eq!(wildcards.get("*"), [0]);
        assert_eq!(wildcards.len(), 11);
        assert!(wildcards.root.literal.capacity() < 100);
        assert!(!wildcards.root.one.as_ref().unwrap().values.spilled());
        for n in 0..10 {
            assert_eq!(wildcards.get(&pattern(n)), [n]);
        }
    }

    proptest! {
        #[test]
        fn a_match_is_what_is_explained(pattern in text(), name in text()) {
            prop_assert_eq!(matches(&pattern, &name), naive(&pattern, &name));
        }

        #[test]
        fn a_wildcard_has_a_level_of_its_own(name in text()) {
            let levels: Vec<&str> = name.split('.').collect();
            let last = levels.len() - 1;
            prop_assert_eq!(is_wildcard(&name), levels.contains(&"*") || levels[last] == ">");
            prop_assert_eq!(check(&name).is_ok(), !levels[..last].contains(&">"));
        }

        #[test]
        fn finds_what_matches(
            steps in prop::collection::vec((0u8..3, text(), 0u8..3), 0..120),
            names in prop::collection::vec(text(), 20),
        ) {
            let mut wildcards = Wildcards::new(1);
            let mut model: BTreeMap<String, Vec<u8>> = BTreeMap::new();
            let mut patterns: Vec<String> = Vec::new();
            for (step, pattern, value) in steps {
                let version = wildcards.version();
                let changed = if step < 2 {
                    let values = model.get(&pattern);
                    let known = values.is_some_and(|values| values.contains(&value));
                    let new = !known && check(&pattern).is_ok();
                    if new {
                        model.entry(pattern.clone()).or_default().push(value);
                        patterns.push(pattern.clone());
                    }
                    prop_assert_eq!(wildcards.insert(&pattern, value), new);
                    new
                } else {
                    // One that is there, where there is any.
                    let at = pattern.len() % patterns.len().max(1);
                    let pattern = patterns.get(at).unwrap_or(&pattern).clone();
                    let values = model.entry(pattern.clone()).or_default();
                    let before = values.len();
                    values.retain(|&other| other > value);
                    let removed = before - values.len();
                    if values.is_empty() {
                        model.remove(&pattern);
                    }
                    prop_assert_eq!(wildcards.remove(&pattern, |&other| other <= value), removed);
                    removed > 0
                };
                prop_assert_eq!(wildcards.version() != version, changed);
                prop_assert_eq!(wildcards.len(), model.len());
                prop_assert_eq!(wildcards.is_empty(), model.is_empty());
                let nodes = nodes(&wildcards.root);
                prop_assert!(nodes < 2 * model.len() || nodes == 0 && model.is_empty());
            }
            for pattern in &patterns {
                prop_assert_eq!(wildcards.get(pattern), model.get(pattern).map_or(&[][..], |values| values));
            }
            for name in &names {
                let mut expected: Vec<(String, u8)> = model
                    .iter()
                    .filter(|(pattern, _)| naive(pattern, name))
                    .flat_map(|(pattern, values)| values.iter().map(|&value| (pattern.clone(), value)))
                    .collect();
                expected.sort();
                prop_assert_eq!(found(&wildcards, name), expected);
            }
        }
    }
}
