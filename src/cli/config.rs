//! `ringwire config check`, `print` and `reference`.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::json;

use super::{SettingFlags, USAGE, print};
use crate::config::{ConfigError, Loaded, origin_json, reference};
use crate::topology::{self, TopologyError};

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Check file, environment and flags, also against the cores of this machine, and print every
    /// problem (exit code 2 if there is one)
    Check(Show),
    /// Print the effective values as a commented TOML file, with where each came from
    Print(Show),
    /// Print the page about all settings: what they are, defaults, bounds, names (Markdown)
    Reference,
}

#[derive(Debug, Args)]
pub(super) struct Show {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    flags: SettingFlags,
}

pub(super) fn run(command: ConfigCommand) -> anyhow::Result<ExitCode> {
    match command {
        ConfigCommand::Check(show) => check(show),
        ConfigCommand::Print(show) => match show.flags.load() {
            Ok(loaded) if show.json => {
                print(&format!("{:#}\n", loaded.to_json()))?;
                Ok(ExitCode::SUCCESS)
            }
            Ok(loaded) => {
                for note in &loaded.notes {
                    eprintln!("note: {note}");
                }
                print(&loaded.to_toml())?;
                Ok(ExitCode::SUCCESS)
            }
            Err(problems) => Ok(refuse(&problems)),
        },
        ConfigCommand::Reference => {
            print(&reference())?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn check(show: Show) -> anyhow::Result<ExitCode> {
    let result = show.flags.load().and_then(|loaded| {
        let placed = topology::plan(&loaded.config);
        match placed {
            Err(error @ TopologyError::Cores { .. }) => Err(vec![not_placed(&loaded, &error)]),
            // That nothing is known of this machine is no mistake of the configuration.
            _ => Ok(loaded),
        }
    });
    if show.json {
        let (notes, problems) = match &result {
            Ok(loaded) => (loaded.notes.as_slice(), [].as_slice()),
            Err(problems) => ([].as_slice(), problems.as_slice()),
        };
        let listed: Vec<_> = problems
            .iter()
            .map(|problem| {
                json!({
                    "key": problem.key,
                    "message": problem.message,
                    "source": origin_json(&problem.origin),
                })
            })
            .collect();
        print(&format!(
            "{:#}\n",
            json!({ "ok": result.is_ok(), "notes": notes, "problems": listed })
        ))?;
        return Ok(if result.is_ok() {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(USAGE)
        });
    }
    match result {
        Ok(loaded) => {
            let mut text = String::new();
            for note in &loaded.notes {
                text += &format!("note: {note}\n");
            }
            match &loaded.file {
                Some(file) => text += &format!("{}: the configuration is good\n", file.display()),
                None => text += "the configuration is good (no file was given)\n",
            }
            print(&text)?;
            Ok(ExitCode::SUCCESS)
        }
        Err(problems) => Ok(refuse(&problems)),
    }
}

/// Why the shards have no place on this machine, as a problem of the setting that could mend it.
pub(super) fn not_placed(loaded: &Loaded, error: &TopologyError) -> ConfigError {
    let key = "cores";
    let message = error.to_string();
    let message = message.strip_prefix("cores: ").unwrap_or(&message);
    ConfigError {
        origin: loaded.origin(key).clone(),
        key: Some(key.to_owned()),
        message: message.to_owned(),
    }
}

/// Prints all problems; the exit code that goes with them.
pub(super) fn refuse(problems: &[ConfigError]) -> ExitCode {
    for problem in problems {
        eprintln!("error: {problem}");
    }
    let count = match problems.len() {
        1 => "1 problem".to_owned(),
        count => format!("{count} problems"),
    };
    eprintln!(
        "ringwire: {count} in the configuration; `ringwire config reference` describes every setting"
    );
    ExitCode::from(USAGE)
}
