//! The program: `ringwire probe` with its exit codes, its text and its JSON, against ringwire itself.

use crate::echo::{Echo, Quirk};
use crate::support::output::Output;
use crate::tls::Secure;
use serde_json::Value;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Exit code, standard output, standard error.
struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

fn ringwire() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringwire"));
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"RINGWIRE_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

fn probe(arguments: &[&str]) -> Ended {
    end(ringwire().arg("probe").args(arguments))
}

/// The same with little time for what only takes time.
fn quick(arguments: &[&str]) -> Ended {
    let quick = ["--duration=0.2", "--idle=0.1", "--connections=20"];
    probe(&[arguments, &quick].concat())
}

fn end(command: &mut Command) -> Ended {
    let output = command.output().expect("the program was built");
    Ended {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).expect("UTF-8"),
        err: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}

/// A `ringwire serve` on a random port.
struct Server {
    child: Child,
    /// `ws://127.0.0.1:PORT`.
    url: String,
}

impl Server {
    fn start() -> Self {
        let mut child = ringwire()
            .args(["serve", "--listen", "127.0.0.1:0", "--shards", "2"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program was built");
        let output = Output::default();
        output.collect(child.stdout.take().expect("stdout is piped"), "");
        let line = output.wait_for("listening on ");
        let mut server = Self {
            child,
            url: String::new(),
        };
        let line = line.unwrap_or_else(|| panic!("no address:\n{}", output.text()));
        server.url = line.trim_end_matches('/').to_owned();
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The names of tests with this outcome in a JSON report.
fn names(report: &Value, outcome: &str) -> Vec<String> {
    let tests = report["tests"].as_array().expect("an array").iter();
    tests
        .filter(|test| test["outcome"] == outcome)
        .map(|test| test["name"].as_str().expect("a name").to_owned())
        .collect()
}

#[test]
fn ringwire_passes_at_both_of_its_paths() {
    let server = Server::start();
    let echo = quick(&[&format!("{}/echo", server.url), "--size-max=4MiB"]);
    assert_eq!(echo.code, Some(0), "{}{}", echo.out, echo.err);
    assert_eq!(echo.err, "");
    let lines: Vec<&str> = echo.out.lines().collect();
    assert_eq!(lines[0], format!("{}/echo", server.url));
    assert!(lines.contains(&"mode: echo (a message came back)"));
    let last = lines.last().unwrap();
    assert!(
        last.starts_with("28 passed, 0 failed, 7 skipped in "),
        "{}",
        echo.out
    );

    // Both in one run: nothing is left out but TLS, and the largest message, which is another's.
    let url = format!("{}/ws?token=none", server.url);
    let both = quick(&[
        &url,
        "--echo-path=/echo",
        "--subprotocol=unknown",
        "--subprotocol=ringwire.json.v1",
        "--header=X-Probe: yes",
        "--token=t",
        "--json",
    ]);
    assert_eq!(both.code, Some(0), "{}{}", both.out, both.err);
    let report: Value = serde_json::from_str(&both.out).expect("JSON and nothing else");
    assert_eq!(report["url"], url);
    assert_eq!(report["mode"], "ringwire");
    assert_eq!(report["echo_url"], format!("{}/echo", server.url));
    assert_eq!(
        names(&report, "skipped"),
        ["tls", "certificate", "large-max"]
    );
    assert_eq!(names(&report, "failed"), [""; 0]);
    assert_eq!(report["totals"]["passed"], 32);
    assert_eq!(report["error"], Value::Null);
    let upgrade = &report["tests"][4];
    assert_eq!(upgrade["figures"]["subprotocol"], "ringwire.json.v1");
    let latency = report["tests"].as_array().unwrap().iter();
    let latency = latency.into_iter().find(|test| test["name"] == "latency");
    assert!(latency.unwrap()["figures"]["count"].as_u64().unwrap() >= 10);

    // Without an echo, what needs one does not count as passed.
    let alone = quick(&[&url, "--json", "--only=text", "--only=ping"]);
    let report: Value = serde_json::from_str(&alone.out).unwrap();
    assert_eq!(names(&report, "skipped"), ["text"]);
    assert_eq!(names(&report, "passed"), ["ping"]);
}

/// A ringwire that is taken for something else fails; in its own mode an echo server does.
#[test]
fn insisting_on_a_mode_finds_who_is_something_else() {
    let server = Server::start();
    let url = format!("{}/ws", server.url);
    let wrong = quick(&[&url, "--mode=echo", "--only=text", "--timeout=2"]);
    assert_eq!(wrong.code, Some(1));
    assert!(wrong.out.contains("FAIL  text"), "{}", wrong.out);
    assert!(
        wrong.out.contains("expected: a text message comes back"),
        "{}",
        wrong.out
    );

    let echo = format!("{}/echo", server.url);
    let wrong = quick(&[&echo, "--mode=ringwire", "--only=ringwire", "--json"]);
    assert_eq!(wrong.code, Some(1));
    let report: Value = serde_json::from_str(&wrong.out).unwrap();
    // What does not depend on the path is still right.
    assert_eq!(names(&report, "passed"), ["unknown-path", "healthz"]);
    assert_eq!(
        names(&report, "failed"),
        ["json-ping", "publish", "error-frame"]
    );
}

#[test]
fn a_channel_that_is_not_allowed_says_nothing_against_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ringwire.toml");
    let rules = "[[channels]]\nmatch = \"open\"\n[[channels]]\nmatch = \"*\"\nallow.subscribe = \"nobody\"\n";
    std::fs::write(&file, rules).unwrap();
    let mut child = ringwire()
        .args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--shards",
            "1",
            "--config",
        ])
        .arg(&file)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let output = Output::default();
    output.collect(child.stdout.take().unwrap(), "");
    let url = output.wait_for("listening on ").expect("an address");
    let server = Server { child, url };
    let url = server.url.as_str();
    let closed = quick(&[url, "--only=publish", "--json"]);
    let report: Value = serde_json::from_str(&closed.out).unwrap();
    assert_eq!(names(&report, "skipped"), ["publish"], "{}", closed.out);
    assert!(
        report["tests"][0]["detail"]
            .as_str()
            .unwrap()
            .contains("--channel")
    );
    // Nothing was found out, and that is no success.
    assert_eq!(closed.code, Some(1));
    let open = quick(&[url, "--only=publish", "--channel=open"]);
    assert_eq!(open.code, Some(0), "{}{}", open.out, open.err);
}

#[test]
fn a_failed_test_is_exit_code_1_and_says_what_came() {
    let server = Echo::start(Quirk::WrongPong);
    let ended = quick(&[&server.url(), "--only=control"]);
    assert_eq!(ended.code, Some(1));
    assert_eq!(ended.err, "");
    let lines: Vec<&str> = ended.out.lines().collect();
    let line = lines
        .iter()
        .position(|line| line.starts_with("FAIL"))
        .unwrap();
    assert!(lines[line].contains("the pong's payload is \"?robe!\" instead of \"probe\""));
    assert!(
        lines[line + 1]
            .trim_start()
            .starts_with("expected: pings of 5, 0 and 125")
    );
    assert!(
        ended.out.contains("2 passed, 1 failed, 0 skipped"),
        "{}",
        ended.out
    );
}

#[test]
fn a_server_that_cannot_be_reached_says_what_to_try() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    drop(listener);
    let ended = probe(&[&url]);
    assert_eq!(ended.code, Some(1));
    let expected = format!("ringwire: cannot reach {url}: ");
    assert!(ended.err.starts_with(&expected), "{}", ended.err);
    assert!(
        ended.err.contains("refused; is the server running"),
        "{}",
        ended.err
    );
    assert!(
        ended.out.contains("1 passed, 1 failed, 33 skipped"),
        "{}",
        ended.out
    );
    // For programs the same, on standard output.
    let ended = probe(&[&url, "--json"]);
    assert_eq!(ended.code, Some(1));
    let report: Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(report["error"]["kind"], "refused");
    assert_eq!(report["mode"], Value::Null);
    assert_eq!(names(&report, "failed"), ["tcp"]);
}

#[test]
fn a_self_signed_certificate_names_both_ways_out() {
    let server = Secure::start(&["127.0.0.1"]);
    let other = Secure::start(&["127.0.0.1"]);
    let url = server.url();
    // So that it does not matter what this machine trusts.
    let ended = end(ringwire()
        .args(["probe", &url])
        .env("SSL_CERT_FILE", &other.file)
        .env_remove("SSL_CERT_DIR"));
    assert_eq!(ended.code, Some(1), "{}{}", ended.out, ended.err);
    assert!(ended.out.contains("FAIL  certificate"), "{}", ended.out);
    for expected in ["self-signed", "--ca FILE", "--insecure"] {
        assert!(ended.err.contains(expected), "{}", ended.err);
    }
    let file = server.file.to_str().unwrap();
    let trusted = quick(&[&url, "--ca", file, "--only=handshake"]);
    assert_eq!(trusted.code, Some(0), "{}{}", trusted.out, trusted.err);
    let insecure = quick(&[&url, "--insecure", "--only=handshake"]);
    assert_eq!(insecure.code, Some(0), "{}{}", insecure.out, insecure.err);
    assert!(
        insecure.out.contains("skip  certificate"),
        "{}",
        insecure.out
    );
}

#[test]
fn wrong_flags_are_exit_code_2() {
    for (arguments, expected) in [
        (&[][..], "<URL>"),
        (&["127.0.0.1:9000"], "write ws://127.0.0.1:9000"),
        (&["ws://a/", "--only=pings"], "did you mean ping?"),
        (&["ws://a/", "--ca=x"], "has no TLS"),
        (
            &["wss://a/", "--ca=/nonexistent"],
            "cannot read certificates from /nonexistent",
        ),
        (&["ws://a/", "--timeout=0"], "allowed: 0.05 to 600 seconds"),
        (&["ws://a/", "--header=x"], "write 'Name: value'"),
        (
            &["ws://a/", "--mode=chat"],
            "possible values: auto, echo, ringwire, connect",
        ),
    ] {
        let ended = probe(arguments);
        assert_eq!(ended.code, Some(2), "{arguments:?}");
        assert!(ended.err.contains(expected), "{arguments:?}: {}", ended.err);
        assert!(ended.err.starts_with("error: "), "{}", ended.err);
    }
}

/// docs/probe.md names every test, every group and every option.
#[test]
fn the_page_about_it_is_complete() {
    let page = include_str!("../../docs/probe.md");
    let limit = Duration::from_secs(30);
    let list = crate::tools::run(ringwire().args(["probe", "--list", "--json"]), limit);
    let list: Value = serde_json::from_str(&list).unwrap();
    for test in list.as_array().unwrap() {
        let name = test["name"].as_str().unwrap();
        assert!(page.contains(&format!("| `{name}` |")), "{name} is missing");
        let group = test["group"].as_str().unwrap();
        assert!(page.contains(&format!("`{group}`")), "{group} is missing");
    }
    let help = probe(&["--help"]);
    let options = help.out.split_whitespace().filter(|word| {
        word.starts_with("--")
            && word.len() > 2
            && word.chars().all(|c| c == '-' || c.is_alphabetic())
    });
    for option in options {
        assert!(page.contains(&format!("`{option}")), "{option} is missing");
    }
    let text = probe(&["--list"]);
    assert!(text.out.contains("  ping "), "{}", text.out);
}
