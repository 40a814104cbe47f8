//! What the server counts, and what it logs.

pub mod counters;
pub mod log;
