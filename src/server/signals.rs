//! SIGTERM and SIGINT: the first drains, the second ends the process at once.

use super::StartError;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals as Iterator;
use std::io;

/// The signals of the process, caught from now on.
pub(super) struct Signals(Iterator);

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        Iterator::new([SIGINT, SIGTERM]).map(Self)
    }

    /// Calls `drain` at the first signal, on a thread of its own.
    pub(super) fn watch(mut self, drain: impl FnOnce() + Send + 'static) -> Result<(), StartError> {
        let watch = move || {
            let mut signals = self.0.forever();
            if let Some(signal) = signals.next() {
                tracing::info!(
                    signal = name(signal),
                    "draining; another signal ends at once"
                );
                drain();
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
            .map(drop)
            .map_err(|error| StartError::System {
                what: "starting the thread for signals",
                error,
            })
    }
}

fn name(signal: i32) -> &'static str {
    if signal == SIGINT {
        "SIGINT"
    } else {
        "SIGTERM"
    }
}
