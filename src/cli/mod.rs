//! The command line: flags and subcommands, and what they print.
//!
//! Exit codes: 0 done, 1 failed while running, 2 wrong flags or configuration; 128 + N when a second
//! signal N ended it.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
mod config;
mod doctor;
mod flags;
mod probe;
mod serve;

pub use flags::SettingFlags;

/// Something went wrong while running.
pub const FAILURE: u8 = 1;
/// Flags, environment or file are wrong. Clap uses the same.
pub const USAGE: u8 = 2;

/// How `ringwire serve` ends, for its help.
const ENDING: &str = "\
SIGTERM, SIGINT and SIGHUP drain the server: it accepts nothing more, closes every connection with 1001, and ends \
when the last one is gone or --drain-timeout is over. A second signal ends it at once. Started with SIGHUP ignored \
(nohup), it ignores that one.

Exit codes: 0 ended by a signal, everybody gone (or --drain-timeout 0); 1 failed to start or while running, or \
connections cut off when the drain timeout was over; 2 wrong flags or configuration; 128 + its number after a \
second signal.";

/// A WebSocket messaging server for one Linux machine.
#[derive(Debug, Parser)]
#[command(name = "ringwire", version, styles = flags::STYLES, max_term_width = 100)]
#[command(
    arg_required_else_help = true,
    subcommand_required = true,
    propagate_version = true
)]
struct Arguments {
    #[command(subcommand)]
    command: Subcommands,
}

#[derive(Debug, Subcommand)]
enum Subcommands {
    /// Run the server
    #[command(after_help = ENDING)]
    Serve(SettingFlags),
    /// Measure what a server does under load
    #[command(after_help = bench::ENDING)]
    Bench(Box<bench::BenchCommand>),
    /// Check or show the configuration
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Say how many connections this host holds, what stops it, and how to change that
    #[command(after_help = doctor::ENDING)]
    Doctor(doctor::Options),
    /// Test any WebSocket server: handshake, echo, control frames, wrong frames, load, TLS
    #[command(after_help = probe::ENDING)]
    Probe(Box<probe::ProbeArguments>),
}

/// Runs the program with the arguments of the process.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Subcommands::Serve(flags) => serve::run(flags),
        Subcommands::Bench(command) => bench::execute(*command),
        Subcommands::Config(command) => config::run(command),
        Subcommands::Doctor(options) => doctor::run(options),
        Subcommands::Probe(arguments) => probe::run(*arguments),
    };
    match result {
        Ok(code) => code,
        // Who pipes into `head` has seen enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Without its sources: each error's own sentence names them already.
            eprintln!("ringwire: {error}");
            ExitCode::from(FAILURE)
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<PrintError>()
        .is_some_and(|error| error.0.kind() == io::ErrorKind::BrokenPipe)
}

/// Writes to standard output; unlike `println!`, a closed pipe is an error and no panic.
fn print(text: &str) -> Result<(), PrintError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(PrintError)
}

/// Standard output takes no more.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output: {0}")]
struct PrintError(#[source] io::Error);

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}
