//! The log: events of the server's life on standard error.
//!
//! Nothing on the way of a message logs above `debug`, so a write to standard error that blocks
//! cannot hold up a shard that does its normal work.

use std::io::{self, IsTerminal};

use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::{Log, filter};

/// Why the log could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter has a mistake. A checked configuration has none.
    #[error("log.filter: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// The program already has a log of its own.
    #[error("the log was already set up in this process")]
    Twice,
}

/// Sends the log of the whole process to standard error. Call it once, at start.
///
/// # Errors
/// When the filter is wrong, or something else has set up `tracing` before.
pub fn init(log: &Log) -> Result<(), LogError> {
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let subscriber = subscriber(log, colours, io::stderr)?;
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::Twice)
}

fn subscriber<W>(
    log: &Log,
    colours: bool,
    writer: W,
) -> Result<Box<dyn Subscriber + Send + Sync>, LogError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::builder().parse(filter::normalized(&log.filter))?)
        .with_ansi(colours)
        .with_writer(writer);
    Ok(if log.json {
        Box::new(builder.json().flatten_event(true).finish())
    } else {
        Box::new(builder.finish())
    })
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(filter: &str, json: bool) -> String {
        let memory = Memory::default();
        let writer = memory.clone();
        let log = Log {
            filter: filter.into(),
            json,
        };
        let subscriber = subscriber(&log, false, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(shard = 3, "started");
            tracing::debug!("detail");
        });
        String::from_utf8(memory.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn the_filter_decides() {
        let text = logged("info", false);
        assert!(
            text.contains("started shard=3") && !text.contains("detail"),
            "{text}"
        );
        assert!(logged("debug", false).contains("detail"));
        let text = logged("warning,ringwire=info", false);
        assert!(
            text.contains("started") && !text.contains("detail"),
            "{text}"
        );
        assert_eq!(logged("off", false), "");
    }

    #[test]
    fn json_is_one_object_per_line() {
        let text = logged("debug", true);
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["message"], "started");
        assert_eq!(lines[0]["shard"], 3);
    }

    #[test]
    fn a_wrong_filter_is_an_error() {
        let log = Log {
            filter: "ringwire=loud".into(),
            json: false,
        };
        assert!(matches!(
            subscriber(&log, false, io::sink),
            Err(LogError::Filter(_))
        ));
    }
}
