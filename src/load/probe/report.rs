//! What is told in the end, for people and for programs.

use std::fmt::{self, Write as _};
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::check::{Check, Problem, Verdict};
use super::checks;
use super::options::Mode;

/// What came of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// What must hold, held.
    Passed,
    /// Something else happened.
    Failed,
    /// Nothing can be said, for a reason that is told.
    Skipped,
}

/// One test and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct TestResult {
    /// Its name.
    pub name: &'static str,
    /// The name of its group.
    pub group: &'static str,
    /// What must hold.
    pub checks: &'static str,
    /// Where that is written, mostly a section of RFC 6455.
    pub source: &'static str,
    /// What came of it.
    pub outcome: Outcome,
    /// How long it took, in milliseconds.
    pub duration_ms: f64,
    /// What was seen, what came instead of what was expected, or why it was skipped.
    pub detail: String,
    /// Figures for programs; `null` where there are none.
    pub figures: Option<Value>,
}

impl TestResult {
    pub(super) fn new(check: &Check, verdict: Verdict, duration: Duration) -> Self {
        let (outcome, detail, figures) = match verdict {
            Ok(passed) => (Outcome::Passed, passed.detail, passed.figures),
            Err(Problem::Failed(detail)) => (Outcome::Failed, detail, None),
            Err(Problem::Skipped(detail)) => (Outcome::Skipped, detail, None),
        };
        Self {
            name: check.name,
            group: check.group,
            checks: check.about,
            source: check.source,
            outcome,
            duration_ms: round_ms(duration),
            detail,
            figures,
        }
    }
}

/// How many tests came out how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Totals {
    /// Tests that passed.
    pub passed: usize,
    /// Tests that failed.
    pub failed: usize,
    /// Tests that did not apply.
    pub skipped: usize,
    /// How long everything took, in milliseconds.
    pub duration_ms: f64,
}

/// Why there was no connection to test.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Unreachable {
    /// Where it ended.
    pub kind: UnreachableKind,
    /// What happened.
    pub message: String,
    /// What to try.
    pub advice: String,
}

/// Where the way to a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum UnreachableKind {
    /// The name of the host has no address.
    Name,
    /// The host refuses connections to this port.
    Refused,
    /// No answer in time.
    Timeout,
    /// Another error of the network.
    Network,
    /// TLS cannot be agreed on.
    Tls,
    /// The certificate is not believed.
    Certificate,
    /// The server does not make it a WebSocket.
    Upgrade,
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.message, self.advice)
    }
}

/// Everything that was found out.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// The URL.
    pub url: String,
    /// The address that took the first connection, with its port.
    pub address: Option<String>,
    /// What the server was taken for; `None` when there was no connection.
    pub mode: Option<Mode>,
    /// Why.
    pub mode_reason: String,
    /// Where the tests ran that need an echo.
    pub echo_url: Option<String>,
    /// All tests that were to run, in their order.
    pub tests: Vec<TestResult>,
    /// How many came out how.
    pub totals: Totals,
    /// Why there was no connection; `None` when there was one.
    pub error: Option<Unreachable>,
}

impl Report {
    /// Whether no test failed, and at least one passed.
    #[must_use]
    pub const fn passed(&self) -> bool {
        self.totals.failed == 0 && self.totals.passed > 0
    }

    /// The last lines for people: totals, and what to make of them.
    #[must_use]
    pub fn summary(&self) -> String {
        let Totals {
            passed,
            failed,
            skipped,
            duration_ms,
        } = self.totals;
        let mut text = format!(
            "{passed} passed, {failed} failed, {skipped} skipped in {:.1} s\n",
            duration_ms / 1_000.0
        );
        if failed == 0 && passed == 0 {
            text += "No test applied to this server: nothing is known about it.\n";
        }
        text
    }
}

/// Milliseconds with three digits behind the point.
pub(super) fn round_ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1_000_000.0).round() / 1_000.0
}

/// A test's line for people, with the newline.
#[must_use]
pub fn line(result: &TestResult) -> String {
    let outcome = match result.outcome {
        Outcome::Passed => "pass",
        Outcome::Failed => "FAIL",
        Outcome::Skipped => "skip",
    };
    let duration = match result.outcome {
        Outcome::Skipped => "-".to_owned(),
        _ => format!("{:.1} ms", result.duration_ms),
    };
    let width = name_width();
    // What a server says may have anything in it; a line of the report stays one line.
    let detail: String = result
        .detail
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let mut text = format!(
        "{outcome}  {:width$}  {duration:>11}  {detail}\n",
        result.name
    );
    if result.outcome == Outcome::Failed {
        let _ = writeln!(
            text,
            "      {:width$}  {:>11}  expected: {} ({})",
            "", "", result.checks, result.source
        );
    }
    text
}

/// As wide as the longest name.
fn name_width() -> usize {
    checks::all()
        .map(|check| check.name.len())
        .max()
        .unwrap_or(0)
}

/// All tests, for people: their names and what must hold, by group.
#[must_use]
pub fn list() -> String {
    let width = name_width();
    let mut text = String::new();
    for group in checks::GROUPS {
        let _ = writeln!(text, "{}: {}", group.name, group.about);
        for check in checks::all().filter(|check| check.group == group.name) {
            let _ = writeln!(
                text,
                "  {:width$}  {} ({})",
                check.name, check.about, check.source
            );
        }
    }
    text
}

/// The same for programs.
#[must_use]
pub fn list_json() -> Value {
    checks::all()
        .map(|check| {
            serde_json::json!({
                "name": check.name,
                "group": check.group,
                "checks": check.about,
                "source": check.source,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::check::Passed;
    use super::*;

    fn result(verdict: Verdict) -> TestResult {
        let check = checks::all().find(|check| check.name == "ping").unwrap();
        TestResult::new(check, verdict, Duration::from_micros(1_234))
    }

    #[test]
    fn lines_are_aligned_and_say_what_was_expected() {
        let passed = line(&result(Ok(Passed::new("fine"))));
        let skipped = line(&result(Err(Problem::Skipped("no echo".into()))));
        let failed = line(&result(Err("no\r\npong".to_owned().into())));
        assert_eq!(
            passed.split_whitespace().collect::<Vec<_>>(),
            ["pass", "ping", "1.2", "ms", "fine"]
        );
        assert_eq!(passed.find("fine"), skipped.find("no echo"));
        let lines: Vec<&str> = failed.lines().collect();
        assert_eq!(lines.len(), 2, "{failed}");
        assert!(lines[0].starts_with("FAIL  ping ") && lines[0].ends_with("no  pong"));
        assert_eq!(lines[0].find("no  pong"), lines[1].find("expected: "));
        assert!(
            lines[1].ends_with("(RFC 6455 sections 5.5.2, 5.5.3)"),
            "{failed}"
        );
    }

    #[test]
    fn programs_get_everything() {
        let json = serde_json::to_value(result(Ok(Passed::with(
            "fine",
            serde_json::json!({"count": 3}),
        ))))
        .unwrap();
        assert_eq!(json["name"], "ping");
        assert_eq!(json["group"], "control");
        assert_eq!(json["outcome"], "passed");
        assert_eq!(json["duration_ms"], 1.234);
        assert_eq!(json["figures"]["count"], 3);
        let json = serde_json::to_value(result(Err("x".to_owned().into()))).unwrap();
        assert_eq!(
            (&json["outcome"], &json["detail"]),
            (&"failed".into(), &"x".into())
        );
        assert!(json["figures"].is_null());
    }

    #[test]
    fn nothing_tested_is_not_passed() {
        let report = |passed, failed, skipped| Report {
            url: "ws://a/".into(),
            address: None,
            mode: None,
            mode_reason: String::new(),
            echo_url: None,
            tests: Vec::new(),
            totals: Totals {
                passed,
                failed,
                skipped,
                duration_ms: 1_500.0,
            },
            error: None,
        };
        assert!(report(1, 0, 3).passed());
        assert!(!report(1, 1, 0).passed());
        assert!(!report(0, 0, 3).passed());
        assert_eq!(
            report(2, 1, 3).summary(),
            "2 passed, 1 failed, 3 skipped in 1.5 s\n"
        );
        assert!(report(0, 0, 3).summary().contains("No test applied"));
    }

    #[test]
    fn the_list_has_every_test_once() {
        let (text, json) = (list(), list_json());
        assert_eq!(json.as_array().unwrap().len(), checks::all().count());
        for check in checks::all() {
            let start = format!("  {} ", check.name);
            let lines = text.lines().filter(|line| line.starts_with(&start));
            assert_eq!(lines.count(), 1, "{}", check.name);
        }
    }
}
