//! `unsafe`: only where it must be, and never without its argument.

use crate::source::Tree;
use crate::{Breach, breach, holds_here, lines_broken};

/// Folders whose work cannot be done in safe code.
const UNSAFE: &[&str] = &["ring", "simd"];

fn unsafe_stays_in_its_place(tree: &Tree) -> Vec<Breach> {
    tree.files
        .iter()
        .filter(|file| {
            file.path.starts_with("src/") && !file.folder().is_some_and(|own| UNSAFE.contains(&own))
        })
        .flat_map(|file| file.names.iter().map(move |name| (file, name)))
        .filter(|(_, name)| name.segments == ["unsafe"])
        .map(|(file, name)| breach(file, name.line, "`unsafe` outside of ring and simd"))
        .collect()
}

/// Every `unsafe` block and `unsafe impl` needs its argument just above. An `unsafe fn` passes the
/// duty on to its callers instead; clippy asks for its `# Safety` section.
fn unsafe_blocks_carry_their_argument(tree: &Tree) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for file in &tree.files {
        let lines: Vec<&str> = file.text.lines().collect();
        let mut last = 0;
        for name in file.names.iter().filter(|name| name.segments == ["unsafe"]) {
            let after = lines[name.line - 1]
                .split_once("unsafe")
                .map_or("", |(_, after)| after.trim_start());
            let next: String = after.chars().take_while(|c| c.is_alphanumeric()).collect();
            let passes_on = ["fn", "extern", "trait"].contains(&next.as_str());
            // Two on one line share it.
            if !passes_on && name.line != last && !argument_above(&lines, name.line - 1) {
                breaches.push(breach(
                    file,
                    name.line,
                    "no `// SAFETY:` comment above this `unsafe`",
                ));
            }
            last = name.line;
        }
    }
    breaches
}

/// Whether a comment with `SAFETY:` stands above the statement that line `at` belongs to.
fn argument_above(lines: &[&str], at: usize) -> bool {
    let is_comment = |line: &str| line.starts_with("//");
    let above = |at: usize| lines[..at].iter().rev().map(|line| line.trim());
    // Back to where the statement begins (`let x =` may stand on a line of its own).
    let statement = above(at)
        .take_while(|line| {
            !line.is_empty() && !is_comment(line) && !line.ends_with([';', '{', '}', ',', '('])
        })
        .count();
    above(at - statement)
        .take_while(|line| is_comment(line))
        .any(|line| line.contains("SAFETY:"))
}

#[test]
fn unsafe_appears_only_in_ring_and_simd() {
    holds_here(unsafe_stays_in_its_place);
}

#[test]
fn every_unsafe_block_carries_its_argument() {
    holds_here(unsafe_blocks_carry_their_argument);
}

#[test]
fn unsafe_elsewhere_is_noticed() {
    let sample = "\
#![deny(unsafe_code)]
// unsafe
fn f() { unsafe { g() } }
macro_rules! m { () => { unsafe { g() } } }
";
    assert_eq!(
        lines_broken(unsafe_stays_in_its_place, "src/topology/a.rs", sample),
        [3, 4]
    );
    assert_eq!(
        lines_broken(unsafe_stays_in_its_place, "src/main.rs", sample),
        [3, 4]
    );
    assert_eq!(
        lines_broken(unsafe_stays_in_its_place, "src/ring/a.rs", sample),
        []
    );
}

#[test]
fn unsafe_without_argument_is_noticed() {
    let sample = "\
fn f() {
    unsafe { g() };

    // SAFETY: g has no conditions
    // that matter here.
    unsafe { g() };
    // SAFETY: as above.
    let x =
        unsafe { g() };
    // Just because.
    let y = unsafe { g() };
    unsafe { g() };
}
// SAFETY: no state.
unsafe impl Send for X {}
unsafe impl Sync for X {}
/// # Safety
/// None.
unsafe fn g() {}
type G = unsafe fn();
unsafe extern \"C\" fn h() {}
";
    assert_eq!(
        lines_broken(unsafe_blocks_carry_their_argument, "src/ring/a.rs", sample),
        [2, 11, 12, 16]
    );
}
