//! Which names may stand where: crates, folders, io_uring, clocks, locks.

use crate::source::Tree;
use crate::{Breach, breach, holds_here, lines_broken, names_in};

// ---- pure folders ------------------------------------------------------------------------------

/// Folders that compute and nothing else: what they need to know, time included, is handed to them.
const PURE: &[&str] = &["wire", "simd"];

/// What does I/O, reads a clock, or asks the system anything.
const IMPURE_PATHS: &[&[&str]] = &[
    &["std", "io"],
    &["std", "net"],
    &["std", "fs"],
    &["std", "os"],
    &["std", "env"],
    &["std", "process"],
    &["std", "thread"],
    &["glommio"],
    &["io_uring"],
    &["libc"],
    &["rustix"],
    &["socket2"],
    &["getrandom"],
    &["tracing"],
];
const IMPURE_WORDS: &[&str] = &["Instant", "SystemTime", "UNIX_EPOCH"];
const PRINTING: &[&str] = &["print", "println", "eprint", "eprintln"];

fn pure_folders_do_no_io(tree: &Tree) -> Vec<Breach> {
    names_in(tree, PURE)
        .filter(|(_, name)| {
            // A local variable may be called like a crate.
            let crate_named = name.segments.len() > 1 || name.import;
            (crate_named && IMPURE_PATHS.iter().any(|path| name.starts_with(path)))
                || IMPURE_WORDS.iter().any(|word| name.has(word))
                || name.called && PRINTING.iter().any(|word| name.has(word))
        })
        .map(|(file, name)| {
            breach(
                file,
                name.line,
                format!("`{}` does I/O or reads a clock", name.segments.join("::")),
            )
        })
        .collect()
}

#[test]
fn wire_and_simd_do_no_io_and_read_no_clock() {
    holds_here(pure_folders_do_no_io);
}

#[test]
fn io_and_clocks_are_noticed() {
    let sample = "\
use std::{fmt, io::{self, Read}};
use std::time::{Duration, Instant};
fn f() { let now = std::time::SystemTime::now(); }
fn g() { println!(\"x\"); }
fn h() { ::std::fs::read(\"x\").ok(); }
/// std::fs::read in a comment, and a \"std::net\" in
const TEXT: &str = \"std::net::TcpStream Instant\";
use getrandom::fill;
fn i(print: u32) -> u32 { print }
#[cfg(test)]
mod tests { use std::fs::File; }
";
    assert_eq!(
        lines_broken(pure_folders_do_no_io, "src/wire/a.rs", sample),
        [1, 1, 2, 3, 4, 5, 8]
    );
    assert_eq!(
        lines_broken(pure_folders_do_no_io, "src/simd/mod.rs", sample).len(),
        7
    );
    assert_eq!(
        lines_broken(pure_folders_do_no_io, "src/shard/a.rs", sample),
        []
    );
}

// ---- who may name what -------------------------------------------------------------------------

/// The layout: each folder of `src`, and the other folders that it may name. Besides those,
/// everybody may name `config`, where every bound stands, except who is in [`ALONE`].
///
/// From the bottom up: a folder names only folders above its own row, so no two need each other.
/// `session` gives the shard its `Handler` and knows it; the shard does not know `session`.
const FOLDERS: &[(&str, &[&str])] = &[
    ("config", &[]),
    ("topology", &[]),
    ("ring", &[]),
    ("simd", &[]),
    ("wire", &["simd"]),
    ("telemetry", &["wire"]),
    ("hub", &[]),
    ("mesh", &["hub"]),
    ("shard", &["ring", "wire", "hub", "mesh", "telemetry"]),
    ("session", &["wire", "hub", "shard"]),
    ("backplane", &["telemetry"]),
    ("gateway", &["telemetry"]),
    ("load", &["ring", "wire"]),
    // Tries a ring; reads everything else itself, so that it can read a copied tree.
    ("doctor", &["ring"]),
];

/// Folders that put the others together: the command line, and the library's entry.
const ASSEMBLY: &[&str] = &["cli", "server"];

/// Folders that name no other, not even `config`.
const ALONE: &[&str] = &["simd"];

/// Crates that only some folders may name (and those of [`ASSEMBLY`], and the crate roots). Not
/// `libc`: without `unsafe`, nothing of it can be used but numbers.
const OWNED_CRATES: &[(&str, &[&str])] = &[
    ("hwlocality", &["topology"]),
    ("core_affinity", &["topology", "load"]),
    ("simdutf8", &["simd"]),
    // `load` is a client: its probe names each thing that is wrong with an answer.
    ("httparse", &["wire", "load"]),
    // The server itself is behind a proxy that does TLS; only the probe speaks it.
    ("rustls", &["load"]),
    ("rustls_native_certs", &["load"]),
    ("x509_parser", &["load"]),
    ("url", &["load"]),
    // Clients in user space.
    ("etherparse", &["load"]),
    ("tun_rs", &["load"]),
    ("crossbeam_channel", &["mesh"]),
    ("hyper", &["gateway"]),
];

fn folders_name_what_they_may(tree: &Tree) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for file in &tree.files {
        let Some(own) = file.folder() else { continue };
        if ASSEMBLY.contains(&own) {
            continue;
        }
        let Some((_, may_name)) = FOLDERS.iter().find(|(folder, _)| *folder == own) else {
            breaches.push(breach(
                file,
                1,
                format!("`{own}` has no row in the layout: say what it may name"),
            ));
            continue;
        };
        for name in file.names.iter().filter(|name| !file.is_test(name)) {
            let Some(path) = name.in_crate() else {
                continue;
            };
            let other = path.first().copied().unwrap_or("*");
            let everyone = other == "config" && !ALONE.contains(&own);
            if other != own && !everyone && !may_name.contains(&other) {
                breaches.push(breach(
                    file,
                    name.line,
                    format!("`{own}` may not name `{other}`"),
                ));
            }
        }
    }
    breaches
}

fn crates_stay_with_their_owners(tree: &Tree) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for file in &tree.files {
        let Some(own) = file.folder().filter(|own| !ASSEMBLY.contains(own)) else {
            continue;
        };
        for name in file.names.iter().filter(|name| !file.is_test(name)) {
            let crate_named = name.segments.len() > 1 || name.import;
            for (owned, owners) in OWNED_CRATES {
                if crate_named && name.starts_with(&[owned]) && !owners.contains(&own) {
                    breaches.push(breach(
                        file,
                        name.line,
                        format!("only {} may name `{owned}`", owners.join(", ")),
                    ));
                }
            }
        }
    }
    breaches
}

#[test]
fn folders_name_only_what_the_layout_allows() {
    holds_here(folders_name_what_they_may);
}

#[test]
fn the_layout_goes_from_the_bottom_up() {
    for (row, (folder, may_name)) in FOLDERS.iter().enumerate() {
        for other in *may_name {
            let above = FOLDERS[..row].iter().any(|(name, _)| name == other);
            assert!(
                above,
                "`{folder}` may not name `{other}`, which is not above it"
            );
        }
    }
}

#[test]
fn crates_are_named_only_by_their_owners() {
    holds_here(crates_stay_with_their_owners);
}

#[test]
fn a_forbidden_folder_is_noticed() {
    let sample = "\
use crate::{config::limits, hub::Hub, simd};
use super::super::shard::Shard;
fn f() { crate::mesh::send(); }
use super::frame;
pub(super) use self::inner::X;
mod inner { use super::super::frame; use super::super::super::session; }
// crate::mesh
#[cfg(test)]
use crate::ring::sim;
use crate::*;
";
    assert_eq!(
        lines_broken(folders_name_what_they_may, "src/wire/a.rs", sample),
        [1, 2, 3, 6, 10]
    );
    assert_eq!(
        lines_broken(folders_name_what_they_may, "src/cli/a.rs", sample),
        []
    );
    assert_eq!(
        lines_broken(folders_name_what_they_may, "src/lib.rs", sample),
        []
    );
    assert_eq!(
        lines_broken(
            folders_name_what_they_may,
            "src/simd/a.rs",
            "use crate::config::limits;"
        ),
        [1]
    );
    assert_eq!(
        lines_broken(folders_name_what_they_may, "src/unheard_of.rs", "fn f() {}"),
        [1]
    );
}

#[test]
fn a_crate_away_from_its_owner_is_noticed() {
    let sample = "\
use hwlocality::Topology;
use {httparse, crossbeam_channel::Sender as S};
fn f(httparse: u32) -> u32 { httparse }
fn g() { simdutf8::basic::from_utf8(b\"\").ok(); }
";
    assert_eq!(
        lines_broken(crates_stay_with_their_owners, "src/hub/a.rs", sample),
        [1, 2, 4]
    );
    assert_eq!(
        lines_broken(
            crates_stay_with_their_owners,
            "src/hub/a.rs",
            "use httparse;"
        ),
        [1]
    );
    assert_eq!(
        lines_broken(
            crates_stay_with_their_owners,
            "src/hub/a.rs",
            "extern crate hyper;"
        ),
        [1]
    );
    assert_eq!(
        lines_broken(
            crates_stay_with_their_owners,
            "src/wire/a.rs",
            "use httparse::Request;"
        ),
        []
    );
    assert_eq!(
        lines_broken(crates_stay_with_their_owners, "src/cli/a.rs", sample),
        []
    );
}

// ---- the ring alone talks to io_uring ----------------------------------------------------------

fn only_the_ring_names_io_uring(tree: &Tree) -> Vec<Breach> {
    tree.files
        .iter()
        .filter(|file| file.path.starts_with("src/") && file.folder() != Some("ring"))
        .flat_map(|file| file.names.iter().map(move |name| (file, name)))
        .filter(|(_, name)| name.has("io_uring"))
        .map(|(file, name)| breach(file, name.line, "only `ring` names `io_uring`"))
        .collect()
}

#[test]
fn io_uring_is_named_only_in_the_ring() {
    holds_here(only_the_ring_names_io_uring);
}

#[test]
fn io_uring_elsewhere_is_noticed() {
    let sample = "\
//! About io_uring.
use io_uring::opcode;
fn f() { let sysctl = \"kernel.io_uring_disabled\"; }
#[cfg(test)]
mod tests { fn f() { io_uring::IoUring::new(1); } }
";
    assert_eq!(
        lines_broken(only_the_ring_names_io_uring, "src/shard/a.rs", sample),
        [2, 5]
    );
    assert_eq!(
        lines_broken(only_the_ring_names_io_uring, "src/main.rs", sample),
        [2, 5]
    );
    assert_eq!(
        lines_broken(only_the_ring_names_io_uring, "src/ring/a.rs", sample),
        []
    );
}

// ---- locks -------------------------------------------------------------------------------------

/// Folders on the way of a message, where a shard waits for nobody.
const LOCKLESS: &[&str] = &["shard", "hub", "session", "wire"];
const LOCKS: &[&str] = &[
    "Mutex",
    "RwLock",
    "Condvar",
    "Barrier",
    "ReentrantLock",
    "parking_lot",
    "mpsc",
    "Semaphore",
    "SpinLock",
];

fn no_locks_on_the_way_of_a_message(tree: &Tree) -> Vec<Breach> {
    names_in(tree, LOCKLESS)
        .filter(|(_, name)| LOCKS.iter().any(|lock| name.has(lock)))
        .map(|(file, name)| {
            breach(
                file,
                name.line,
                format!("`{}` makes a shard wait", name.segments.join("::")),
            )
        })
        .collect()
}

#[test]
fn no_lock_stands_in_the_way_of_a_message() {
    holds_here(no_locks_on_the_way_of_a_message);
}

#[test]
fn locks_are_noticed() {
    let sample = "\
use std::sync::{Arc, Mutex};
struct S { lock: std::sync::RwLock<u8>, mutexes: u8 }
use parking_lot as p;
// Mutex
";
    assert_eq!(
        lines_broken(no_locks_on_the_way_of_a_message, "src/hub/mod.rs", sample),
        [1, 2, 3]
    );
    assert_eq!(
        lines_broken(
            no_locks_on_the_way_of_a_message,
            "src/backplane/a.rs",
            sample
        ),
        []
    );
}

// ---- the reader itself ------------------------------------------------------------------------

#[test]
fn code_for_tests_is_told_from_other_code() {
    let sample = "\
use std::fs as a;
#[cfg(test)] use std::fs as b;
use std::fs as c;
#[cfg(not(test))] use std::fs as d;
#[cfg(all(test, unix))] fn e<A, B>() { std::fs::read(\"\").ok(); }
struct S { #[cfg(test)] f: std::fs::File, g: std::fs::File }
#[cfg(any(test, unix))] fn h() { std::fs::read(\"\").ok(); }
";
    assert_eq!(
        lines_broken(pure_folders_do_no_io, "src/wire/a.rs", sample),
        [1, 3, 4, 6, 7]
    );
    let whole = format!("#![cfg(test)]\n{sample}");
    assert_eq!(
        lines_broken(pure_folders_do_no_io, "src/wire/a.rs", &whole),
        []
    );
}
