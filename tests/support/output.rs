//! What a process writes, line by line, while it runs.

use super::PATIENCE;
use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Instant;

/// The lines that a process has written, and whether more can come.
#[derive(Default)]
struct Lines {
    lines: Vec<String>,
    open_streams: usize,
}

/// What a process wrote so far.
#[derive(Clone, Default)]
pub(crate) struct Output(Arc<(Mutex<Lines>, Condvar)>);

impl Output {
    /// Collects a stream's lines on a thread, so that the process never blocks on a full pipe.
    pub(crate) fn collect(&self, stream: impl Read + Send + 'static, prefix: &'static str) {
        let shared = Arc::clone(&self.0);
        shared.0.lock().unwrap().open_streams += 1;
        thread::spawn(move || {
            let mut reader = BufReader::new(stream);
            let mut line = Vec::new();
            while reader
                .read_until(b'\n', &mut line)
                .is_ok_and(|read| read > 0)
            {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                shared
                    .0
                    .lock()
                    .unwrap()
                    .lines
                    .push(format!("{prefix}{text}"));
                shared.1.notify_all();
                line.clear();
            }
            shared.0.lock().unwrap().open_streams -= 1;
            shared.1.notify_all();
        });
    }

    /// The rest of the first line that begins with `start`; `None` when all streams ended without.
    pub(crate) fn wait_for(&self, start: &str) -> Option<String> {
        let deadline = Instant::now() + PATIENCE;
        let (mutex, changed) = &*self.0;
        let mut output = mutex.lock().unwrap();
        loop {
            if let Some(rest) = output
                .lines
                .iter()
                .find_map(|line| line.strip_prefix(start))
            {
                return Some(rest.to_owned());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if output.open_streams == 0 || left.is_zero() {
                return None;
            }
            output = changed.wait_timeout(output, left).unwrap().0;
        }
    }

    /// All of it.
    pub(crate) fn text(&self) -> String {
        self.0.0.lock().unwrap().lines.join("\n")
    }
}
