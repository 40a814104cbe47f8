//! `ringwire probe` against servers: ringwire itself, two that we did not write, and ones that do one
//! thing wrong on purpose, which must fail exactly the test of that thing.

use ringwire::load::probe::{self, Mode, Options, Outcome, Report, Target};
use std::time::Duration;

#[path = "probe/command.rs"]
mod command;
#[path = "probe/echo.rs"]
mod echo;
#[path = "probe/foreign.rs"]
mod foreign;
#[path = "probe/quirks.rs"]
mod quirks;
#[path = "probe/tls.rs"]
mod tls;
#[path = "support/tools.rs"]
mod tools;
// `tools` names it through here.
mod support {
    #[path = "../support/output.rs"]
    pub(crate) mod output;

    pub(crate) const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);
}

/// Options that take little time. Answers still have some seconds: the machine may be busy.
fn quick(url: &str) -> Options {
    let mut options = Options::new(Target::parse(url).expect("a URL"));
    options.timeout = Duration::from_secs(3);
    options.latency = Duration::from_millis(300);
    options.idle = Duration::from_millis(100);
    options.connections = 8;
    options
}

fn run(options: &Options) -> Report {
    probe::run(options, &mut |_| {}).unwrap_or_else(|error| panic!("{error}"))
}

/// The names of the tests that came out so, in their order.
fn names(report: &Report, outcome: Outcome) -> Vec<&'static str> {
    let tests = report.tests.iter();
    tests
        .filter(|test| test.outcome == outcome)
        .map(|test| test.name)
        .collect()
}

/// What was told about a test.
fn detail<'a>(report: &'a Report, name: &str) -> &'a str {
    let mut tests = report.tests.iter();
    let test = tests.find(|test| test.name == name);
    &test.unwrap_or_else(|| panic!("no test {name}")).detail
}

/// All of the report, for a test that fails.
fn text(report: &Report) -> String {
    report.tests.iter().map(probe::line).collect()
}

/// Every test passed but those, which did not apply.
#[track_caller]
fn all_passed_but(report: &Report, mode: Mode, skipped: &[&str]) {
    let text = text(report);
    assert_eq!(report.mode, Some(mode), "{text}");
    assert_eq!(names(report, Outcome::Failed), [""; 0], "{text}");
    assert_eq!(names(report, Outcome::Skipped), skipped, "{text}");
    assert!(report.passed());
}

/// Tests that need ringwire's protocol.
const RINGWIRE: [&str; 5] = [
    "json-ping",
    "publish",
    "error-frame",
    "unknown-path",
    "healthz",
];
