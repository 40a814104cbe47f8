//! SIGTERM, SIGINT and SIGHUP: the first drains, the second ends the process at once.

use super::StartError;
use super::running::DrainHandle;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals as Iterator;
use std::sync::{Arc, Mutex, PoisonError};

/// The signals of the process, caught from now on.
///
/// Caught before the first shard starts, so that a signal during a long start is not lost: the server
/// drains as soon as there is something to drain, and a second signal ends it even while it starts.
pub(super) struct Signals(Arc<Mutex<State>>);

/// What the first signal finds.
enum State {
    /// The server is still starting.
    Starting,
    /// It was asked to end before it ran.
    Asked,
    /// It runs, and this ends it.
    Running(DrainHandle),
}

impl Signals {
    /// Catches the signals on a thread of its own.
    pub(super) fn catch() -> Result<Self, StartError> {
        let mut caught = vec![SIGINT, SIGTERM];
        // Who starts a server with nohup(1) wants it to outlive the terminal.
        if !is_ignored(SIGHUP) {
            caught.push(SIGHUP);
        }
        let mut signals = Iterator::new(caught).map_err(StartError::Signals)?;
        let state = Arc::new(Mutex::new(State::Starting));
        let shared = Arc::clone(&state);
        let watch = move || {
            let mut signals = signals.forever();
            if let Some(signal) = signals.next() {
                tracing::info!(
                    signal = name(signal),
                    "draining; another signal ends at once"
                );
                let mut state = shared.lock().unwrap_or_else(PoisonError::into_inner);
                match &*state {
                    State::Running(handle) => handle.drain(),
                    State::Starting | State::Asked => *state = State::Asked,
                }
            }
            if let Some(signal) = signals.next() {
                tracing::warn!(signal = name(signal), "ended at once");
                // What a shell reports for a process that a signal ended.
                std::process::exit(128 + signal);
            }
        };
        std::thread::Builder::new()
            .name("ringwire-signals".to_owned())
            .spawn(watch)
            .map_err(|error| StartError::System {
                what: "starting the thread for signals",
                error,
            })?;
        Ok(Self(state))
    }

    /// The server runs: the first signal drains it, also when it has come already.
    pub(super) fn drain_with(self, handle: DrainHandle) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match *state {
            State::Asked => handle.drain(),
            State::Starting | State::Running(_) => *state = State::Running(handle),
        }
    }
}

/// Whether whoever started this process had it ignore a signal. Asked of procfs (proc_pid_status(5)),
/// because sigaction(2) cannot be asked without `unsafe`. Where it cannot be read: no.
fn is_ignored(signal: i32) -> bool {
    std::fs::read_to_string("/proc/self/status")
        .is_ok_and(|status| mask_has(&status, "SigIgn:", signal))
}

/// Whether the mask of signals in the line `field` of a process's status contains `signal`.
fn mask_has(status: &str, field: &str, signal: i32) -> bool {
    status
        .lines()
        .find_map(|line| line.strip_prefix(field))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & (1 << (signal - 1)) != 0)
}

fn name(signal: i32) -> &'static str {
    match signal {
        SIGINT => "SIGINT",
        SIGHUP => "SIGHUP",
        _ => "SIGTERM",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_of_signals_are_read() {
        let status = "Name:\tx\nSigBlk:\t0000000000000002\nSigIgn:\t0000000000001001\n";
        assert!(mask_has(status, "SigIgn:", SIGHUP));
        assert!(!mask_has(status, "SigIgn:", SIGINT));
        assert!(mask_has(status, "SigBlk:", SIGINT));
        assert!(!mask_has("SigIgn:\tx\n", "SigIgn:", SIGHUP));
        assert!(!mask_has("", "SigIgn:", SIGHUP));
    }
}
