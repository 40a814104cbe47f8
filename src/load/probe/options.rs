//! What to probe and how, with its bounds.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::checks::{self, GROUPS};
use super::{Target, TargetError};

/// How long one step may take: connecting, a handshake, an answer.
pub const TIMEOUT: Range = Range::new(0.05, 5.0, 600.0);
/// How long latency is measured, in seconds.
pub const LATENCY: Range = Range::new(0.1, 5.0, 3_600.0);
/// How long a connection stays silent before it must still work, in seconds.
pub const IDLE: Range = Range::new(0.0, 3.0, 3_600.0);
/// Connections at once by default.
pub const CONNECTIONS: usize = 100;
/// Most connections at once: this is a test of a server, `ringwire bench` is the load.
pub const CONNECTIONS_MAX: usize = 10_000;
/// Messages per second by default while latency is measured.
pub const RATE: u32 = 100;
/// Most messages per second while latency is measured. Each waits for the answer to the last one.
pub const RATE_MAX: u32 = 100_000;
/// Largest message by default, in bytes.
pub const SIZE_BYTES: u64 = 1024 * 1024;
/// Largest message that can be asked for, in bytes. It is held in memory a few times over.
pub const SIZE_MAX_BYTES: u64 = 256 * 1024 * 1024;

/// The bounds and the default of a duration, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    /// The least.
    pub min_s: f64,
    /// What it is when nothing is said.
    pub default_s: f64,
    /// The most.
    pub max_s: f64,
}

impl Range {
    const fn new(min_s: f64, default_s: f64, max_s: f64) -> Self {
        Self {
            min_s,
            default_s,
            max_s,
        }
    }

    /// The default.
    #[must_use]
    pub fn default(self) -> Duration {
        Duration::from_secs_f64(self.default_s)
    }

    /// Reads a number of seconds.
    ///
    /// # Errors
    /// A text that says what is allowed: it is no number, or out of bounds.
    pub fn parse(self, text: &str) -> Result<Duration, String> {
        text.parse()
            .ok()
            .filter(|seconds| (self.min_s..=self.max_s).contains(seconds))
            .map(Duration::from_secs_f64)
            .ok_or_else(|| format!("allowed: {} to {} seconds", self.min_s, self.max_s))
    }
}

/// What the server is taken for, which decides which tests apply to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// It sends every message back.
    Echo,
    /// It speaks ringwire's JSON protocol (docs/protocol.md).
    Ringwire,
    /// Nothing is known of its messages: only what every WebSocket server does is tested.
    Connect,
}

impl Mode {
    /// Its name on the command line and in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Echo => "echo",
            Self::Ringwire => "ringwire",
            Self::Connect => "connect",
        }
    }
}

/// Whose certificates are believed (`wss://`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// The authorities that this system trusts.
    #[default]
    System,
    /// Only those in this file, PEM.
    File(PathBuf),
    /// Everybody: the connection is encrypted, but nobody knows with whom.
    Nobody,
}

/// What to probe and how. The fields are public; [`Options::check`] says what is wrong with them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// The server.
    pub target: Target,
    /// What it is taken for; `None`: one message finds out.
    pub mode: Option<Mode>,
    /// Another path of the same server that sends messages back: the tests that need an echo run
    /// there.
    pub echo_path: Option<String>,
    /// More headers of every request, with their values.
    pub headers: Vec<(String, String)>,
    /// Subprotocols to offer, the preferred one first.
    pub subprotocols: Vec<String>,
    /// Whose certificates are believed.
    pub trust: Trust,
    /// How long one step may take ([`TIMEOUT`]).
    pub timeout: Duration,
    /// How many connections are open at once in the test of that: 1 to [`CONNECTIONS_MAX`].
    pub connections: usize,
    /// How long latency is measured ([`LATENCY`]).
    pub latency: Duration,
    /// Messages per second while latency is measured: 1 to [`RATE_MAX`].
    pub rate: u32,
    /// How long a connection stays silent before it must still work ([`IDLE`]).
    pub idle: Duration,
    /// The largest message: 1 to [`SIZE_MAX_BYTES`].
    pub size_max_bytes: u64,
    /// The channel that ringwire's tests publish in; `None`: one with a random name.
    pub channel: Option<String>,
    /// Names of tests or groups; when there are any, only these run.
    pub only: Vec<String>,
    /// Names of tests or groups that do not run.
    pub skip: Vec<String>,
}

/// What is wrong with [`Options`].
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum OptionsError {
    /// The path of the echo.
    #[error("--echo-path: {0}")]
    EchoPath(TargetError),
    /// A header that cannot go into a request.
    #[error("--header: {0}")]
    Header(String),
    /// A subprotocol that is none, or twice there.
    #[error("--subprotocol: {0}")]
    Subprotocol(String),
    /// A name that is neither a test nor a group.
    #[error("{option}: there is no test or group {name:?}{hint}; --list shows them")]
    Name {
        /// `--only` or `--skip`.
        option: &'static str,
        /// What was given.
        name: String,
        /// The name that may have been meant, as a question; or empty.
        hint: String,
    },
    /// Nothing is left to run.
    #[error("--only and --skip together leave no test")]
    Nothing,
    /// A number out of bounds.
    #[error("{option}: {given} is not allowed; allowed: {min} to {max}")]
    Number {
        /// The option.
        option: &'static str,
        /// What was given.
        given: u64,
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
    /// A duration out of bounds.
    #[error("{option}: {given:?} is not allowed; allowed: {} to {} seconds", .range.min_s, .range.max_s)]
    Time {
        /// The option.
        option: &'static str,
        /// What was given.
        given: Duration,
        /// What is allowed.
        range: Range,
    },
    /// Certificates for a connection without TLS.
    #[error("--ca and --insecure are for wss:// URLs; {0} has no TLS")]
    NoTls(Target),
}

impl Options {
    /// The defaults for this server.
    #[must_use]
    pub fn new(target: Target) -> Self {
        Self {
            target,
            mode: None,
            echo_path: None,
            headers: Vec::new(),
            subprotocols: Vec::new(),
            trust: Trust::System,
            timeout: TIMEOUT.default(),
            connections: CONNECTIONS,
            latency: LATENCY.default(),
            rate: RATE,
            idle: IDLE.default(),
            size_max_bytes: SIZE_BYTES,
            channel: None,
            only: Vec::new(),
            skip: Vec::new(),
        }
    }

    /// Checks everything that can be wrong before a connection is opened.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), OptionsError> {
        if self.trust != Trust::System && !self.target.tls() {
            return Err(OptionsError::NoTls(self.target.clone()));
        }
        if let Some(path) = &self.echo_path {
            self.target.at(path).map_err(OptionsError::EchoPath)?;
        }
        for (name, value) in &self.headers {
            check_header(name, value).map_err(OptionsError::Header)?;
        }
        for (index, name) in self.subprotocols.iter().enumerate() {
            if !is_token(name) {
                let text = format!("{name:?} is no name of a subprotocol (RFC 6455 section 4.1)");
                return Err(OptionsError::Subprotocol(text));
            }
            if self.subprotocols[..index].contains(name) {
                return Err(OptionsError::Subprotocol(format!("{name} is there twice")));
            }
        }
        for (option, given, range) in [
            ("--timeout", self.timeout, TIMEOUT),
            ("--duration", self.latency, LATENCY),
            ("--idle", self.idle, IDLE),
        ] {
            if !(range.min_s..=range.max_s).contains(&given.as_secs_f64()) {
                return Err(OptionsError::Time {
                    option,
                    given,
                    range,
                });
            }
        }
        for (option, given, max) in [
            (
                "--connections",
                self.connections as u64,
                CONNECTIONS_MAX as u64,
            ),
            ("--rate", self.rate.into(), RATE_MAX.into()),
            ("--size-max", self.size_max_bytes, SIZE_MAX_BYTES),
        ] {
            if !(1..=max).contains(&given) {
                return Err(OptionsError::Number {
                    option,
                    given,
                    min: 1,
                    max,
                });
            }
        }
        for (option, names) in [("--only", &self.only), ("--skip", &self.skip)] {
            for name in names {
                check_name(option, name)?;
            }
        }
        if !checks::all().any(|check| self.selects(check.name, check.group)) {
            return Err(OptionsError::Nothing);
        }
        Ok(())
    }

    /// Whether `--only` and `--skip` let this test run.
    #[must_use]
    pub(super) fn selects(&self, name: &str, group: &str) -> bool {
        let in_list = |list: &[String]| list.iter().any(|entry| entry == name || entry == group);
        (self.only.is_empty() || in_list(&self.only)) && !in_list(&self.skip)
    }
}

/// RFC 9110 section 5.6.2: what names of headers and subprotocols are made of.
fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// Headers that belong to the handshake itself, in lower case, and what to use instead.
const RESERVED: &[(&str, &str)] = &[
    ("connection", "the handshake has one"),
    ("upgrade", "the handshake has one"),
    ("content-length", "the requests have no body"),
    ("transfer-encoding", "the requests have no body"),
];

fn check_header(name: &str, value: &str) -> Result<(), String> {
    if !is_token(name) {
        return Err(format!(
            "{name:?} is no name of a header (RFC 9110 section 5.1); write 'Name: value'"
        ));
    }
    let lower = name.to_ascii_lowercase();
    if lower == "sec-websocket-protocol" {
        return Err("use --subprotocol for Sec-WebSocket-Protocol".into());
    }
    if lower.starts_with("sec-websocket-") {
        return Err(format!("{name} belongs to the handshake"));
    }
    if let Some((_, why)) = RESERVED.iter().find(|(reserved, _)| *reserved == lower) {
        return Err(format!("{name} cannot be set: {why}"));
    }
    // The value is not repeated: it may be a secret.
    if value.chars().any(|c| c.is_control() && c != '\t') {
        return Err(format!(
            "the value of {name} has a control character in it, which no header may have"
        ));
    }
    Ok(())
}

fn check_name(option: &'static str, name: &str) -> Result<(), OptionsError> {
    let names = || {
        checks::all()
            .map(|check| check.name)
            .chain(GROUPS.iter().map(|group| group.name))
    };
    if names().any(|known| known == name) {
        return Ok(());
    }
    let nearest = names()
        .max_by(|a, b| strsim::jaro_winkler(a, name).total_cmp(&strsim::jaro_winkler(b, name)));
    let hint = nearest
        .filter(|nearest| strsim::jaro_winkler(nearest, name) > 0.8)
        .map_or_else(String::new, |nearest| format!(", did you mean {nearest}?"));
    Err(OptionsError::Name {
        option,
        name: name.into(),
        hint,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        Options::new(Target::parse("ws://127.0.0.1:9000/").unwrap())
    }

    fn refused(change: impl FnOnce(&mut Options)) -> String {
        let mut options = options();
        change(&mut options);
        options.check().unwrap_err().to_string()
    }

    fn header(name: &str, value: &str) -> String {
        refused(|options| options.headers.push((name.into(), value.into())))
    }

    #[test]
    fn the_defaults_are_allowed() {
        options().check().unwrap();
        for range in [TIMEOUT, LATENCY, IDLE] {
            assert!((range.min_s..=range.max_s).contains(&range.default_s));
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert!(refused(|o| o.connections = 0).contains("--connections: 0 is not allowed"));
        assert!(refused(|o| o.connections = 10_001).contains("allowed: 1 to 10000"));
        assert!(refused(|o| o.rate = 0).contains("--rate"));
        assert!(refused(|o| o.size_max_bytes = 0).contains("--size-max"));
        assert!(refused(|o| o.timeout = Duration::ZERO).contains("--timeout: 0ns"));
        assert!(refused(|o| o.echo_path = Some("echo".into())).contains("--echo-path"));
        assert!(refused(|o| o.trust = Trust::Nobody).contains("has no TLS"));
        assert!(refused(|o| o.subprotocols = vec!["a b".into()]).contains("\"a b\""));
        let twice = vec!["a".to_owned(), "b".into(), "a".into()];
        assert!(refused(|o| o.subprotocols = twice).contains("a is there twice"));
        assert!(refused(|o| o.only = vec!["pings".into()]).contains("did you mean ping?"));
        assert!(refused(|o| o.skip = vec!["zzz".into()]).contains("\"zzz\"; --list"));
        let nothing = refused(|o| {
            o.only = vec!["ping".into()];
            o.skip = vec!["control".into()];
        });
        assert!(nothing.contains("leave no test"), "{nothing}");
    }

    #[test]
    fn headers_that_would_break_the_request_are_refused() {
        assert!(header("", "x").contains("'Name: value'"));
        assert!(header("a b", "x").contains("is no name of a header"));
        assert!(header("X-A", "b\r\nX-B: c").contains("control character"));
        assert!(header("Connection", "close").contains("cannot be set"));
        assert!(header("sec-websocket-protocol", "a").contains("use --subprotocol"));
        assert!(header("Sec-WebSocket-Key", "a").contains("belongs to the handshake"));
        assert!(!header("X-Token", "secret\0").contains("secret"));
    }

    #[test]
    fn seconds() {
        assert_eq!(IDLE.parse("0.5"), Ok(Duration::from_millis(500)));
        for text in ["", "x", "-1", "NaN", "inf", "3601", "1s"] {
            assert_eq!(
                IDLE.parse(text),
                Err("allowed: 0 to 3600 seconds".to_owned())
            );
        }
    }

    #[test]
    fn only_and_skip_take_tests_and_groups() {
        let mut options = options();
        assert!(options.selects("ping", "control"));
        options.only = vec!["control".into(), "text".into()];
        options.skip = vec!["close".into()];
        assert!(options.selects("ping", "control"));
        assert!(options.selects("text", "messages"));
        assert!(!options.selects("binary", "messages"));
        assert!(!options.selects("close", "control"));
    }
}
