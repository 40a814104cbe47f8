//! Benchmarks that anyone can run: `ringwire bench`.
//!
//! [`run()`] starts a server (or goes to one that runs), sends clients to it, watches both, and says what it
//! saw as an [`Outcome`]. The clients check every byte, order and count, as always: a message that is
//! missing, changed or doubled fails the run.

mod crowds;
mod million;
mod options;
mod outcome;
mod page;
mod publishing;
mod run;
mod steady;
mod watch;

pub use options::{Bench, Clients, Echoes, Options, Own, Publishes, Running, Steady, Target, Tun};
pub use outcome::{Check, Distribution, Figure, Outcome, Phase, Sample, number};
pub use page::{prepare_report, write_report};
pub use run::{run, this_program};
