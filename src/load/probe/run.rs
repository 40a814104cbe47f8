//! The way through all tests: the first connection step by step, what the server is, then one test
//! after the other.

use std::io::ErrorKind;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::check::{Check, Needs, Passed, Problem, Verdict};
use super::checks;
use super::connection::{Received, closed};
use super::context::{Context, Echo, OpenError};
use super::options::{Mode, Options, OptionsError};
use super::report::{Outcome, Report, TestResult, Totals, Unreachable, UnreachableKind, round_ms};
use super::socket::Socket;
use super::stream::{Lost, Stream};
use super::target::Target;
use super::tls::{HandshakeError, Seen, SetupError, Tls, advice, distrust};
use crate::wire::message::Kind;

/// Messages that a server may send unasked before it answers the first one.
const GREETINGS: usize = 8;

/// Why nothing was probed at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// The options are wrong.
    #[error("{0}")]
    Options(#[from] OptionsError),
    /// The certificates that are to be believed cannot be had.
    #[error("{0}")]
    Certificates(String),
}

impl From<SetupError> for ProbeError {
    fn from(error: SetupError) -> Self {
        Self::Certificates(error.to_string())
    }
}

/// What happens while the tests run.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Progress<'a> {
    /// A test has ended. Tests that could not begin, because there is no connection, are only in the
    /// report.
    Test(&'a TestResult),
    /// It was found out, or said, what the server is; and why.
    Mode(Mode, &'a str),
}

/// Probes a server: runs the tests that `options` let run, one after the other, and hands each
/// result to `observer` as soon as it is there.
///
/// Takes [`Options::latency`] and [`Options::idle`], and for every answer that does not come up to
/// [`Options::timeout`]. A server that cannot be reached is a report with an error in it.
///
/// # Errors
/// The options are wrong, or name certificates that cannot be read.
pub fn run(
    options: &Options,
    observer: &mut dyn FnMut(Progress<'_>),
) -> Result<Report, ProbeError> {
    options.check()?;
    let tls = if options.target.tls() {
        Some(Tls::new(options.target.host(), &options.trust)?)
    } else {
        None
    };
    let begin = Instant::now();
    let mut run = Run {
        options,
        observer,
        report: Report {
            url: options.target.to_string(),
            address: None,
            mode: None,
            mode_reason: String::new(),
            echo_url: None,
            tests: Vec::new(),
            totals: Totals::default(),
            error: None,
        },
    };
    match run.reach(tls) {
        Ok(mut context) => {
            run.find_out(&mut context);
            run.tests(&context);
        }
        Err(unreachable) => {
            run.report.error = Some(unreachable);
            run.skip_the_rest();
        }
    }
    run.report.totals.duration_ms = round_ms(begin.elapsed());
    Ok(run.report)
}

struct Run<'a, 'b> {
    options: &'a Options,
    observer: &'b mut dyn FnMut(Progress<'_>),
    report: Report,
}

impl<'a> Run<'a, '_> {
    /// Keeps a result and tells it, if the test is selected. Steps of the first connection that fail
    /// are told in any case.
    fn record(&mut self, check: &Check, verdict: Verdict, duration: Duration) {
        let failed = matches!(verdict, Err(Problem::Failed(_)));
        if self.options.selects(check.name, check.group) || failed {
            let result = self.keep(check, verdict, duration);
            (self.observer)(Progress::Test(&result));
        }
    }

    /// Keeps a result.
    fn keep(&mut self, check: &Check, verdict: Verdict, duration: Duration) -> TestResult {
        let result = TestResult::new(check, verdict, duration);
        let totals = &mut self.report.totals;
        *match result.outcome {
            Outcome::Passed => &mut totals.passed,
            Outcome::Failed => &mut totals.failed,
            Outcome::Skipped => &mut totals.skipped,
        } += 1;
        self.report.tests.push(result.clone());
        result
    }

    /// Keeps and tells what came of a step of the first connection.
    fn note(&mut self, name: &str, verdict: Verdict, duration: Duration) {
        let check = checks::all().find(|check| check.name == name);
        self.record(
            check.expect("the steps are among the tests"),
            verdict,
            duration,
        );
    }

    /// Does a step of the first connection.
    fn step<T>(
        &mut self,
        name: &str,
        step: impl FnOnce() -> Result<(T, Passed), Unreachable>,
    ) -> Result<T, Unreachable> {
        let begin = Instant::now();
        let result = step();
        let duration = begin.elapsed();
        match result {
            Ok((value, passed)) => {
                self.note(name, Ok(passed), duration);
                Ok(value)
            }
            Err(unreachable) => {
                self.note(name, Err(unreachable.message.clone().into()), duration);
                Err(unreachable)
            }
        }
    }

    /// The first connection, step by step.
    fn reach(&mut self, tls: Option<Tls>) -> Result<Context<'a>, Unreachable> {
        let options = self.options;
        let addresses = self.step("dns", || resolve(options))?;
        let (address, socket) = self.step("tcp", || connect(options, &addresses))?;
        self.report.address = Some(address.to_string());
        let stream = self.secure(tls.as_ref(), socket)?;
        let context = Context {
            options,
            address,
            tls,
            echo: None,
            ringwire: false,
        };
        self.step("upgrade", || upgrade(&context, stream))?;
        Ok(context)
    }

    /// TLS over the first connection, where the URL asks for it.
    fn secure(&mut self, tls: Option<&Tls>, socket: Socket) -> Result<Stream, Unreachable> {
        let timeout = self.options.timeout;
        let Some(tls) = tls else {
            for name in ["tls", "certificate"] {
                let reason = "ws:// is without TLS".into();
                self.note(name, Err(Problem::Skipped(reason)), Duration::ZERO);
            }
            return Ok(Stream::plain(socket, timeout));
        };
        let begin = Instant::now();
        let result = tls.connect(socket);
        let duration = begin.elapsed();
        let host = self.options.target.host();
        let seen = tls.seen();
        let certificate = seen.as_ref().and_then(Seen::describe);
        let described = certificate
            .as_ref()
            .map_or_else(|| "it cannot be read".to_owned(), ToString::to_string);
        match result {
            Ok(stream) => {
                let (version, cipher) = stream.parameters();
                let took = round_ms(stream.duration);
                let detail = format!("{version}, {cipher}, handshake in {took:.1} ms");
                let figures = json!({"version": version, "cipher": cipher, "handshake_ms": took});
                self.note("tls", Ok(Passed::with(detail, figures)), duration);
                let verdict = match seen.and_then(|seen| seen.verdict) {
                    Some(Ok(())) => {
                        let figures = certificate.map_or(Value::Null, |seen| seen.to_json());
                        Ok(Passed::with(described, figures))
                    }
                    Some(Err(error)) => Err(Problem::Skipped(format!(
                        "--insecure; else: {} ({described})",
                        distrust(&error, host, certificate.as_ref())
                    ))),
                    None => Err(Problem::Skipped(format!(
                        "--insecure, and this system trusts no certificates ({described})"
                    ))),
                };
                self.note("certificate", verdict, Duration::ZERO);
                Ok(Stream::tls(stream, timeout))
            }
            Err(HandshakeError::Certificate(error)) => {
                let reason = "the handshake ended at the certificate".into();
                self.note("tls", Err(Problem::Skipped(reason)), duration);
                let message = distrust(&error, host, certificate.as_ref());
                let detail = format!("{message} ({described})");
                self.note("certificate", Err(Problem::Failed(detail)), duration);
                Err(Unreachable {
                    kind: UnreachableKind::Certificate,
                    message,
                    advice: advice(&error).into(),
                })
            }
            Err(error) => {
                let message = format!("TLS: {error}");
                self.note("tls", Err(Problem::Failed(message.clone())), duration);
                Err(Unreachable {
                    kind: UnreachableKind::Tls,
                    message,
                    advice:
                        "check the port, and that it speaks TLS 1.2 or 1.3; without TLS the URL \
                             begins with ws://"
                            .into(),
                })
            }
        }
    }

    /// Finds out what the server is.
    fn find_out(&mut self, context: &mut Context<'a>) {
        let options = self.options;
        let echo_target = options.echo_path.as_deref().map(|path| {
            let target = options.target.at(path);
            target.unwrap_or_else(|_| options.target.clone())
        });
        let found = ask(context, &options.target);
        let (mode, reason) = match options.mode {
            Some(mode) => (mode, "--mode says so".to_owned()),
            None => (found.mode, found.reason),
        };
        context.ringwire = mode == Mode::Ringwire;
        context.echo = match echo_target {
            Some(target) => Some(Echo {
                greetings: ask(context, &target).greetings,
                target,
            }),
            None if mode == Mode::Echo => Some(Echo {
                target: options.target.clone(),
                greetings: found.greetings,
            }),
            None => None,
        };
        self.report.echo_url = context.echo.as_ref().map(|echo| echo.target.to_string());
        self.report.mode = Some(mode);
        (self.observer)(Progress::Mode(mode, &reason));
        self.report.mode_reason = reason;
    }

    /// All other tests.
    fn tests(&mut self, context: &Context<'_>) {
        for check in checks::all() {
            let Some(test) = check.run else { continue };
            if !self.options.selects(check.name, check.group) {
                continue;
            }
            let begin = Instant::now();
            let verdict = match check.needs {
                Needs::Echo if context.echo.is_none() => Err(Problem::Skipped(
                    "the server does not echo here; --echo-path names a path where it does, --mode \
                     echo insists"
                        .into(),
                )),
                Needs::Ringwire if !context.ringwire => Err(Problem::Skipped(
                    "the server does not speak ringwire's protocol here; --mode ringwire insists"
                        .into(),
                )),
                _ => test(context),
            };
            self.record(check, verdict, begin.elapsed());
        }
    }

    /// What could not run, because there is no connection. All for the same reason, so that the
    /// report has them and nobody is told one by one.
    fn skip_the_rest(&mut self) {
        for check in checks::all() {
            let done = self.report.tests.iter().any(|done| done.name == check.name);
            if !done && self.options.selects(check.name, check.group) {
                let reason = "there is no connection".into();
                self.keep(check, Err(Problem::Skipped(reason)), Duration::ZERO);
            }
        }
    }
}

/// The addresses of the host. The system's resolver knows no deadline, so it works on a thread of
/// its own, which is left behind when it takes too long.
fn resolve(options: &Options) -> Result<(Vec<SocketAddr>, Passed), Unreachable> {
    let (host, port) = (options.target.host().to_owned(), options.target.port());
    let (sender, receiver) = mpsc::channel();
    let name = host.clone();
    thread::spawn(move || {
        let result = (name.as_str(), port).to_socket_addrs();
        // Nobody listens any more when it was too late.
        let _ = sender.send(result.map(Iterator::collect::<Vec<_>>));
    });
    let unreachable = |message: String| Unreachable {
        kind: UnreachableKind::Name,
        message,
        advice: "check the name and this machine's DNS, or write the address into the URL".into(),
    };
    let addresses = match receiver.recv_timeout(options.timeout) {
        Err(_) => {
            let text = format!("no address of {host} came within {:?}", options.timeout);
            return Err(unreachable(text));
        }
        Ok(Err(error)) => return Err(unreachable(format!("{host}: {error}"))),
        Ok(Ok(addresses)) if addresses.is_empty() => {
            return Err(unreachable(format!("{host} has no address")));
        }
        Ok(Ok(mut addresses)) => {
            // One per kind of socket: the same address may be there several times.
            addresses.dedup();
            addresses
        }
    };
    let ips: Vec<String> = addresses
        .iter()
        .map(|address| address.ip().to_string())
        .collect();
    let detail = if ips == [host.as_str()] {
        format!("{host} is an address")
    } else {
        format!("{host} is {}", ips.join(", "))
    };
    Ok((addresses, Passed::with(detail, json!({"addresses": ips}))))
}

/// The first of the addresses that takes a connection.
fn connect(
    options: &Options,
    addresses: &[SocketAddr],
) -> Result<((SocketAddr, Socket), Passed), Unreachable> {
    let mut failures = Vec::new();
    let mut kind = UnreachableKind::Network;
    for address in addresses {
        let begin = Instant::now();
        match Socket::connect(*address, options.timeout) {
            Ok(socket) => {
                let took = round_ms(begin.elapsed());
                let mut detail = format!("{address} in {took:.1} ms");
                if !failures.is_empty() {
                    detail += &format!("; before that: {}", failures.join("; "));
                }
                let figures = json!({"address": address.to_string(), "connect_ms": took});
                return Ok(((*address, socket), Passed::with(detail, figures)));
            }
            Err(error) => {
                let what;
                (kind, what) = match error.kind() {
                    ErrorKind::ConnectionRefused => (
                        UnreachableKind::Refused,
                        "the connection was refused".into(),
                    ),
                    ErrorKind::TimedOut => (
                        UnreachableKind::Timeout,
                        format!("no answer within {:?}", options.timeout),
                    ),
                    _ => (UnreachableKind::Network, error.to_string()),
                };
                failures.push(format!("{address}: {what}"));
            }
        }
    }
    let advice = match kind {
        UnreachableKind::Refused => {
            "is the server running, and does it listen on this address and port?"
        }
        UnreachableKind::Timeout => {
            "check the address; a firewall may drop what is sent there; --timeout gives more time"
        }
        _ => "check the address and this machine's network",
    };
    Err(Unreachable {
        kind,
        message: failures.join("; "),
        advice: advice.into(),
    })
}

/// The handshake of the first connection, which is not used for more.
fn upgrade(context: &Context<'_>, stream: Stream) -> Result<((), Passed), Unreachable> {
    match context.upgrade(stream, &context.options.target) {
        Ok((connection, subprotocol)) => {
            connection.leave();
            let offered = &context.options.subprotocols;
            let detail = match &subprotocol {
                Some(name) => format!("101, subprotocol {name}"),
                None if offered.is_empty() => "101".into(),
                None => format!("101, none of the subprotocols {}", offered.join(", ")),
            };
            Ok((
                (),
                Passed::with(detail, json!({"subprotocol": subprotocol})),
            ))
        }
        Err(error) => {
            let message = match error {
                OpenError::Upgrade(text) => text,
                error => error.to_string(),
            };
            Err(Unreachable {
                kind: UnreachableKind::Upgrade,
                advice: upgrade_advice(&message).into(),
                message,
            })
        }
    }
}

/// What to try when the server made no WebSocket of it.
fn upgrade_advice(message: &str) -> &'static str {
    let status = message
        .strip_prefix("the server answered ")
        .and_then(|rest| rest.get(..3)?.parse::<u16>().ok());
    match status {
        Some(401 | 407) => "give credentials with --token or --header 'Authorization: …'",
        Some(403) => {
            "the server wants something else of this client: --token, or --header 'Origin: …'"
        }
        Some(404) => "check the path of the URL",
        Some(200..=299) => "at this path is a page and no WebSocket; check the path of the URL",
        Some(300..=399) => "use the URL that the server names",
        Some(429 | 503) => "the server takes no more connections now; try again later",
        Some(500..) => "see the log of the server, or of the proxy before it",
        Some(_) => "check that the URL is one of a WebSocket",
        None if message.starts_with("the header") || message.starts_with("the answer has") => {
            "no client may go on after such an answer; see the server, or the proxy before it"
        }
        None => "check that a WebSocket server is there; one with TLS has a URL with wss://",
    }
}

/// What one message says about a server.
struct Found {
    mode: Mode,
    reason: String,
    /// Messages that came before the answer.
    greetings: usize,
}

/// Asks a server what it is: a text that an echo sends back, and that ringwire answers.
fn ask(context: &Context<'_>, target: &Target) -> Found {
    const QUESTION: &[u8] = b"{\"type\":\"ping\"}";
    let found = |mode, reason: String, greetings| Found {
        mode,
        reason,
        greetings,
    };
    let opened = context
        .stream()
        .and_then(|stream| context.upgrade(stream, target));
    let mut connection = match opened {
        Ok((connection, _)) => connection,
        Err(error) => return found(Mode::Connect, error.to_string(), 0),
    };
    if let Err(error) = connection.send_message(Kind::Text, QUESTION) {
        return found(Mode::Connect, error, 0);
    }
    let deadline = context.deadline();
    let mut others = 0;
    let result = loop {
        match connection.receive_until(deadline) {
            Ok(Received::Message(kind, payload)) => {
                if kind == Kind::Text && payload == QUESTION {
                    break found(Mode::Echo, "a message came back".into(), others);
                }
                let answer: Option<Value> = serde_json::from_slice(&payload).ok();
                if answer.is_some_and(|answer| answer["type"] == "pong") {
                    let reason = "{\"type\":\"ping\"} was answered with a pong".into();
                    break found(Mode::Ringwire, reason, 0);
                }
                others += 1;
                if others > GREETINGS {
                    let reason = "it sends messages of its own, and none came back";
                    break found(Mode::Connect, reason.into(), 0);
                }
            }
            Ok(Received::Ping | Received::Pong(_)) => {}
            Ok(Received::Close(code, reason)) => {
                let reason = format!("{} when a text was sent", closed(code, &reason));
                break found(Mode::Connect, reason, 0);
            }
            Err(Lost::Silent(waited)) => {
                let reason = match others {
                    0 => format!("nothing came back within {waited:?}"),
                    _ => format!("only other messages came within {waited:?}"),
                };
                break found(Mode::Connect, reason, 0);
            }
            Err(lost) => break found(Mode::Connect, lost.to_string(), 0),
        }
    };
    connection.leave();
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn probe(url: &str, change: impl FnOnce(&mut Options)) -> Report {
        let mut options = Options::new(Target::parse(url).unwrap());
        change(&mut options);
        run(&options, &mut |_| {}).unwrap()
    }

    #[test]
    fn a_refused_connection_says_what_to_try() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("ws://{}/", listener.local_addr().unwrap());
        drop(listener);
        let report = probe(&url, |_| {});
        let error = report.error.clone().unwrap();
        assert_eq!(error.kind, UnreachableKind::Refused);
        assert!(error.to_string().contains("is the server running"));
        let failed: Vec<&str> = report
            .tests
            .iter()
            .filter(|test| test.outcome == Outcome::Failed)
            .map(|test| test.name)
            .collect();
        assert_eq!(failed, ["tcp"]);
        // Everything else is there, as not done.
        assert_eq!(report.tests.len(), checks::all().count());
        assert_eq!((report.totals.passed, report.totals.failed), (1, 1));
        assert!(!report.passed());
    }

    #[test]
    fn a_name_without_address_says_so() {
        // RFC 6761 section 6.4: .invalid never has one.
        let report = probe("ws://ringwire-probe.invalid/", |_| {});
        let error = report.error.unwrap();
        assert_eq!(error.kind, UnreachableKind::Name);
        assert!(error.message.contains("ringwire-probe.invalid"));
    }

    #[test]
    fn only_what_was_selected_is_told() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("ws://{}/", listener.local_addr().unwrap());
        drop(listener);
        let report = probe(&url, |options| options.only = vec!["ping".into()]);
        let names: Vec<&str> = report.tests.iter().map(|test| test.name).collect();
        assert_eq!(names, ["tcp", "ping"]);
    }

    #[test]
    fn advice_fits_the_status() {
        for (status, expected) in [
            ("401 Unauthorized", "--token"),
            ("403 Forbidden", "Origin"),
            ("404 Not Found", "path"),
            ("200 OK", "page"),
            ("301 Moved Permanently", "names"),
            ("503 Service Unavailable", "later"),
            ("502 Bad Gateway", "log"),
            ("400 Bad Request", "WebSocket"),
        ] {
            let advice = upgrade_advice(&format!("the server answered {status} instead of 101"));
            assert!(advice.contains(expected), "{status}: {advice}");
        }
        assert!(upgrade_advice("the server closed without an answer").contains("wss://"));
        assert!(upgrade_advice("the answer has no Upgrade header").contains("proxy"));
    }
}
