//! Other programs that tests run: installed tools, scripts.

use crate::support::output::Output;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// A tool that a test needs and that `scripts/test` installs, from an environment variable. Without
/// it a person's run says SKIPPED; in continuous integration (`CI` is set) the test fails.
pub(crate) fn tool(variable: &str) -> Option<PathBuf> {
    if let Some(path) = std::env::var_os(variable).filter(|path| !path.is_empty()) {
        return Some(PathBuf::from(path));
    }
    let test = thread::current().name().unwrap_or("?").to_owned();
    let hint = format!("{variable} is not set; scripts/test installs what it names");
    assert!(std::env::var_os("CI").is_none(), "{test}: {hint}");
    // Not eprintln: the test harness would swallow that.
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {hint}");
    None
}

/// Runs a program to its end and returns what it wrote.
///
/// # Panics
/// When it fails or takes longer than `limit`, with what it wrote.
pub(crate) fn run(command: &mut Command, limit: Duration) -> String {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    let output = Output::default();
    output.collect(child.stdout.take().expect("stdout is piped"), "");
    output.collect(child.stderr.take().expect("stderr is piped"), "");
    let deadline = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break Some(status);
        }
        if Instant::now() >= deadline {
            let _ = child.kill();
            let _ = child.wait();
            break None;
        }
        thread::sleep(Duration::from_millis(10));
    };
    // The threads see the end of the pipes a moment after the end of the process.
    let _ = output.wait_for("\0");
    let text = output.text();
    match status {
        Some(status) if status.success() => text,
        Some(status) => panic!("{command:?} ended with {status}:\n{text}"),
        None => panic!("{command:?} did not end within {limit:?}:\n{text}"),
    }
}
