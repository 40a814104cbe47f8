//! What a test is, and what comes of it.

use serde_json::Value;

use super::context::Context;

/// One test.
#[derive(Clone, Copy, Debug)]
pub(super) struct Check {
    /// Its name, for `--only` and `--skip`, and for programs.
    pub(super) name: &'static str,
    /// The name of its group.
    pub(super) group: &'static str,
    /// What must hold.
    pub(super) about: &'static str,
    /// Where that is written.
    pub(super) source: &'static str,
    /// What it needs of the server.
    pub(super) needs: Needs,
    /// The test itself; `None` for the steps of the first connection, which come before all others.
    pub(super) run: Option<fn(&Context<'_>) -> Verdict>,
}

/// What a test needs of the server to say anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    /// A connection.
    Nothing,
    /// That messages come back.
    Echo,
    /// ringwire's protocol.
    Ringwire,
}

/// What comes of a test.
pub(super) type Verdict = Result<Passed, Problem>;

/// It passed, and this was seen.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Passed {
    pub(super) detail: String,
    /// The same for programs, where there is more to it than text.
    pub(super) figures: Option<Value>,
}

impl Passed {
    pub(super) fn new(detail: impl Into<String>) -> Self {
        Self {
            detail: detail.into(),
            figures: None,
        }
    }

    pub(super) fn with(detail: impl Into<String>, figures: Value) -> Self {
        Self {
            detail: detail.into(),
            figures: Some(figures),
        }
    }
}

/// It did not pass.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Problem {
    /// The server did something else; this.
    Failed(String),
    /// Nothing can be said about this server, because of this.
    Skipped(String),
}

impl From<String> for Problem {
    fn from(text: String) -> Self {
        Self::Failed(text)
    }
}
