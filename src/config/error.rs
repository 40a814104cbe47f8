//! What is wrong with a configuration, and where.

use std::fmt;
use std::path::PathBuf;

use super::settings::VARIABLE_PREFIX;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// Nobody set it, and its default was raised to fit another setting; or somebody set it too low.
    Raised,
    /// The program that uses the library.
    Program,
    /// A file. Lines and columns count from 1, columns in characters.
    File {
        /// The file as it was named.
        path: PathBuf,
        /// Line of the value, or of the key where the key is the problem. 0: the whole file.
        line: usize,
        /// Column there.
        column: usize,
    },
    /// An environment variable.
    Environment {
        /// Its name.
        variable: String,
    },
    /// A flag.
    Flag {
        /// As it was written, with its dashes.
        flag: String,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::Raised => f.write_str("raised to fit client.message_bytes"),
            Origin::Program => f.write_str("program"),
            Origin::File { path, line: 0, .. } => write!(f, "{}", path.display()),
            Origin::File { path, line, column } => write!(f, "{}:{line}:{column}", path.display()),
            Origin::Environment { variable } => f.write_str(variable),
            Origin::Flag { flag } => f.write_str(flag),
        }
    }
}

/// One problem of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Where the value came from.
    pub origin: Origin,
    /// The setting (`heartbeat.interval_ms`) or what stands in its place; `None`: the file as such.
    pub key: Option<String>,
    /// What is wrong, what is allowed, what to write instead.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.origin, &self.key) {
            // The value was set by the caller: its name says where.
            (Origin::Program | Origin::Default | Origin::Raised, Some(key)) => {
                write!(f, "{key}: ")?
            }
            (origin, None) => write!(f, "{origin}: ")?,
            // A flag or variable that is called like the setting has named it.
            (Origin::Flag { flag: name } | Origin::Environment { variable: name }, Some(key))
                if names(name, key) =>
            {
                write!(f, "{name}: ")?
            }
            (origin, Some(key)) => write!(f, "{origin}: {key}: ")?,
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for ConfigError {}

/// Whether a flag or a variable is the same word as the setting: `--listen`, `RINGWIRE_LISTEN`.
fn names(name: &str, key: &str) -> bool {
    let word = name
        .trim_start_matches(VARIABLE_PREFIX)
        .trim_start_matches("--");
    word.eq_ignore_ascii_case(key)
}
