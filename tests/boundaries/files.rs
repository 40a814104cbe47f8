//! Files: none too long, none forgotten, none unfinished.

use crate::source::Tree;
use crate::{Breach, breach, holds_here, lines_broken};
use std::path::Path;

/// Longest source file, in lines: what one can still read in one go.
const LONGEST_FILE: usize = 800;

fn files_are_short(tree: &Tree) -> Vec<Breach> {
    tree.files
        .iter()
        .filter(|file| file.text.lines().count() > LONGEST_FILE)
        .map(|file| {
            breach(
                file,
                LONGEST_FILE + 1,
                format!("{} lines: divide it", file.text.lines().count()),
            )
        })
        .collect()
}

fn every_file_is_compiled(tree: &Tree) -> Vec<Breach> {
    let what = || "no `mod` declaration leads here".to_owned();
    tree.orphans
        .iter()
        .map(|file| Breach {
            file: file.clone(),
            line: 1,
            what: what(),
        })
        .collect()
}

#[test]
fn no_file_is_too_long() {
    holds_here(files_are_short);
}

#[test]
fn no_file_is_an_orphan() {
    holds_here(every_file_is_compiled);
}

#[test]
fn long_files_are_noticed() {
    assert_eq!(
        lines_broken(files_are_short, "src/wire/a.rs", &"\n".repeat(801)),
        [801]
    );
    assert_eq!(
        lines_broken(files_are_short, "src/wire/a.rs", &"\n".repeat(800)),
        []
    );
}

#[test]
fn orphans_are_noticed() {
    let files = [
        (
            "src/lib.rs",
            "pub mod wire; #[cfg(test)] mod checks; #[path = \"odd/name.rs\"] mod odd;",
        ),
        ("src/main.rs", "mod cli { mod flags; }"),
        ("src/cli/flags.rs", ""),
        ("src/odd/name.rs", ""),
        ("src/checks.rs", "mod helper;"),
        ("src/checks/helper.rs", "use std::fs::File;"),
        ("src/wire/mod.rs", "mod frame; // mod forgotten;"),
        ("src/wire/frame.rs", "mod deep;"),
        ("src/wire/frame/deep.rs", ""),
        ("src/wire/forgotten.rs", "mod deep;"),
        ("src/deep.rs", ""),
        ("tests/anything.rs", ""),
    ];
    let tree = Tree::parse(files.map(|(path, text)| (path.into(), text.into())).into());
    assert_eq!(tree.orphans, ["src/wire/forgotten.rs", "src/deep.rs"]);
    let breaches = every_file_is_compiled(&tree);
    assert_eq!(
        breaches[0].to_string(),
        "src/wire/forgotten.rs:1: no `mod` declaration leads here"
    );
    // What only tests reach is itself a test.
    let tests_only: Vec<&str> = tree
        .files
        .iter()
        .filter(|file| file.test)
        .map(|file| file.path.as_str())
        .collect();
    assert_eq!(tests_only, ["src/checks.rs", "src/checks/helper.rs"]);
}

// ---- nothing unfinished -----------------------------------------------------------------------

const UNFINISHED: &[&str] = &["todo", "unimplemented", "dbg"];

fn nothing_is_unfinished(tree: &Tree) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for file in &tree.files {
        for name in &file.names {
            let last = name.segments.last().map_or("", String::as_str);
            if name.called && UNFINISHED.contains(&last) {
                breaches.push(breach(
                    file,
                    name.line,
                    format!("`{last}!` is unfinished work"),
                ));
            }
            if name.segments == ["dead_code"] && file.path.starts_with("src/") {
                breaches.push(breach(
                    file,
                    name.line,
                    "what nothing uses is removed, not allowed",
                ));
            }
        }
    }
    breaches
}

#[test]
fn no_unfinished_work_is_left() {
    holds_here(nothing_is_unfinished);
}

#[test]
fn unfinished_work_is_noticed() {
    // Written so that a search for the real ones does not find these.
    let sample = "\
fn f() { LATER!() }
fn g(x: u8) -> u8 { std::dbg!(x) }
fn h() { if LATER != 1 { NEVER!(\"later\") } }
#[allow(dead_code)]
fn i() { let text = \"LATER!()\"; }
"
    .replace("LATER", concat!("to", "do"))
    .replace("NEVER", concat!("un", "implemented"));
    let sample = sample.as_str();
    assert_eq!(
        lines_broken(nothing_is_unfinished, "src/wire/a.rs", sample),
        [1, 2, 3, 4]
    );
    assert_eq!(
        lines_broken(nothing_is_unfinished, "tests/a.rs", sample),
        [1, 2, 3]
    );
}

/// What the README shows compiles: it is `examples/shout.rs`, under the line that says what it is.
#[test]
fn the_readme_shows_an_example() {
    let read = |path: &str| {
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
    };
    let (readme, example) = (read("README.md"), read("examples/shout.rs"));
    let (_, code) = example.split_once("\n\n").unwrap();
    assert!(
        readme.contains(&format!("```rust,no_run\n{code}```\n")),
        "README.md and examples/shout.rs differ"
    );
}
