//! Tests of any WebSocket server from outside: what RFC 6455 asks of one, what a client may rely
//! on, and, where the server speaks it, ringwire's own protocol. `ringwire probe` is this.
//!
//! The way: [`Options`] say which server ([`Target`]) and how; [`run()`] opens a first connection
//! step by step, finds out with one message whether the server echoes, and runs every test that
//! applies on connections of its own, over a blocking socket with deadlines. A test that does not
//! apply is skipped with its reason, never passed. Frames are read by [`crate::wire`], which is
//! stricter than client libraries are: nothing that a server does wrong is repaired on the way.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use ringwire::load::probe::{self, Options, Target};
//!
//! let mut options = Options::new(Target::parse("ws://127.0.0.1:9000/echo")?);
//! options.connections = 10;
//! let report = probe::run(&options, &mut |_| {})?;
//! assert!(report.passed(), "{}", report.summary());
//! # Ok(())
//! # }
//! ```

mod check;
mod checks;
mod connection;
mod context;
mod http;
mod options;
mod report;
mod run;
mod socket;
mod stream;
mod target;
mod tls;

pub use options::{
    CONNECTIONS, CONNECTIONS_MAX, IDLE, LATENCY, Mode, Options, OptionsError, RATE, RATE_MAX,
    Range, SIZE_BYTES, SIZE_MAX_BYTES, TIMEOUT, Trust,
};
pub use report::{
    Outcome, Report, TestResult, Totals, Unreachable, UnreachableKind, line, list, list_json,
};
pub use run::{ProbeError, Progress, run};
pub use target::{Target, TargetError};
