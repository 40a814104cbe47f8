//! What a figure was measured on, with the commit and the compiler.

use std::process::Command;

use ringwire::load::machine::Machine;

/// Looks around.
pub(crate) fn look() -> Machine {
    let commit = output("git", &["rev-parse", "--short", "HEAD"]);
    let compiler = output("rustc", &["--version"]);
    Machine::look(vec![format!("commit {commit}"), compiler])
}

fn output(program: &str, arguments: &[&str]) -> String {
    Command::new(program)
        .args(arguments)
        .output()
        .ok()
        .filter(|output| output.status.success())
        .map_or_else(
            || "unknown".to_owned(),
            |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        )
}
