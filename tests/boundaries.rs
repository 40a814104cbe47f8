//! The rules of the source tree, enforced.
//!
//! Each rule is a function from the sources to what breaks it. It runs over this package, and over
//! small samples that break it, so that a rule that notices nothing is noticed.

use std::fmt;
use std::path::Path;

#[path = "boundaries/files.rs"]
mod files;
#[path = "boundaries/names.rs"]
mod names;
#[path = "boundaries/source.rs"]
mod source;
#[path = "boundaries/unsafety.rs"]
mod unsafety;

use source::{Name, Source, Tree};

/// Something that breaks a rule.
#[derive(Debug, PartialEq, Eq)]
struct Breach {
    file: String,
    line: usize,
    what: String,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.what)
    }
}

fn breach(file: &Source, line: usize, what: impl Into<String>) -> Breach {
    Breach {
        file: file.path.clone(),
        line,
        what: what.into(),
    }
}

type Rule = fn(&Tree) -> Vec<Breach>;

/// Runs `rule` over this package.
#[track_caller]
fn holds_here(rule: Rule) {
    let tree = Tree::read(Path::new(env!("CARGO_MANIFEST_DIR")));
    assert!(
        tree.files.iter().any(|file| file.path == "src/lib.rs"),
        "the sources were not found"
    );
    let mut breaches = rule(&tree);
    breaches.dedup();
    let list: String = breaches
        .iter()
        .map(|breach| format!("\n  {breach}"))
        .collect();
    assert!(breaches.is_empty(), "{} breaches:{list}", breaches.len());
}

/// The lines of a sample that break the rule, if it were the file `path`.
fn lines_broken(rule: Rule, path: &str, text: &str) -> Vec<usize> {
    rule(&Tree::parse(vec![(path.into(), text.into())]))
        .into_iter()
        .map(|breach| breach.line)
        .collect()
}

/// Files under one of the folders of `src`, with the names that are not for tests only.
fn names_in<'a>(
    tree: &'a Tree,
    folders: &'a [&str],
) -> impl Iterator<Item = (&'a Source, &'a Name)> {
    tree.files
        .iter()
        .filter(|file| {
            file.folder()
                .is_some_and(|folder| folders.contains(&folder))
        })
        .flat_map(|file| file.names.iter().map(move |name| (file, name)))
        .filter(|(file, name)| !file.is_test(name))
}
