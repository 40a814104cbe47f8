//! The measurements run, tiny, so that they cannot rot; what they measure here means nothing.

#[path = "support/settings.rs"]
mod settings;

use settings::without_settings;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tungstenite::Message;

/// Where examples are built.
fn examples() -> PathBuf {
    let test = std::env::current_exe().expect("the test's own path");
    let profile = test.ancestors().nth(2).expect("target/PROFILE");
    profile.join("examples")
}

/// Standard output and standard error.
fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

/// Runs one command of the driver and returns the raw data it wrote.
fn drive(arguments: &[&str]) -> Value {
    let out = tempfile::tempdir().expect("a directory");
    let output = Command::new(examples().join("drive"))
        .args(arguments)
        .args(["--quick", "--seconds", "0.1", "--server"])
        .arg(env!("CARGO_BIN_EXE_ringwire"))
        .arg("--out")
        .arg(out.path())
        .output()
        .expect("the driver is built by `cargo build --examples`");
    let (stdout, stderr) = texts(&output);
    assert!(output.status.success(), "{arguments:?}\n{stdout}\n{stderr}");
    assert!(stdout.contains("kernel    Linux"), "{stdout}");
    let report = std::fs::read_dir(out.path())
        .expect("the directory")
        .map(|entry| entry.expect("an entry").path())
        .find(|path| path.extension().is_some_and(|kind| kind == "json"))
        .expect("raw data");
    let report = std::fs::read(report).expect("it can be read");
    serde_json::from_slice(&report).expect("JSON")
}

/// The figures of a report, by name, with whether they were reached.
fn figures(report: &Value) -> Vec<(String, bool)> {
    let figures = report["figures"].as_array().expect("figures");
    let figure = |figure: &Value| {
        let name = figure["figure"].as_str().expect("a name").to_owned();
        (name, figure["reached"] == true)
    };
    figures.iter().map(figure).collect()
}

fn samples(report: &Value, server: &str) -> usize {
    let samples = report["samples"].as_array().expect("samples");
    samples
        .iter()
        .filter(|sample| sample["server"] == server)
        .filter(|sample| sample["counts"]["messages"].as_u64() > Some(0))
        .count()
}

#[test]
fn echo() {
    let report = drive(&["echo", "--only", "64 B, 100 connections"]);
    // With 16 outstanding, ringwire is also measured with one.
    for (server, expected) in [("epoll_echo", 2), ("ringwire", 3)] {
        assert_eq!(samples(&report, server), expected, "{report:#}");
    }
    assert_eq!(figures(&report).len(), 4);
}

#[test]
fn handshakes() {
    let report = drive(&["echo", "--only", "handshake"]);
    for server in ["epoll_echo", "ringwire"] {
        assert_eq!(samples(&report, server), 1, "{report:#}");
    }
}

#[test]
fn fan_out() {
    let report = drive(&["fanout", "--only", "100 subscribers"]);
    for server in ["fanout_floor", "ringwire"] {
        assert_eq!(samples(&report, server), 2, "{report:#}");
    }
    assert_eq!(figures(&report).len(), 2);
}

#[test]
fn idle() {
    let report = drive(&["idle"]);
    assert_eq!(report["samples"].as_array().map(Vec::len), Some(8));
    assert_eq!(figures(&report).len(), 5);
}

#[test]
fn crowd() {
    let report = drive(&["crowd"]);
    assert_eq!(figures(&report).len(), 3);
    let samples = report["samples"].as_array().expect("samples");
    assert_eq!(samples.len(), 2, "{report:#}");
    for held in samples {
        assert_eq!(held["deliveries"]["count"], 1_000, "{held:#}");
        assert!(held["heartbeats"]["count"].as_u64() > Some(0), "{held:#}");
    }
}

/// What a server sends a subscriber for a publish.
fn delivery_of(program: &Path, arguments: &[&str]) -> Value {
    let mut server = without_settings(Command::new(program))
        .args(arguments)
        .args(["--listen", "127.0.0.1:0"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let out = server.stdout.take().expect("a pipe");
    let mut lines = BufReader::new(out).lines().map_while(Result::ok);
    let url = lines.find_map(|line| Some(line.strip_prefix("listening on ")?.to_owned()));
    let url = url.expect("a line says where it listens");
    let url = format!("{}/ws", url.trim_end_matches("/ws").trim_end_matches('/'));
    let (mut socket, _) = tungstenite::connect(&url).expect("an upgrade");
    let mut ask = |text: &str| {
        socket.send(Message::text(text)).expect("it takes it");
        socket
            .read()
            .expect("it answers")
            .into_text()
            .expect("text")
    };
    ask(r#"{"type":"subscribe","channel":"common-0"}"#);
    let message = ask(r#"{"type":"publish","channel":"common-0","data":"abc"}"#);
    server.kill().expect("it runs");
    server.wait().expect("it ends");
    let fields: Value = serde_json::from_str(&message).expect("JSON");
    assert_eq!(fields["data"], "abc");
    serde_json::json!({
        "bytes": message.len(),
        "channel": fields["channel"],
        "from": fields["from"],
        "offset": fields["offset"],
    })
}

#[test]
fn the_crowds_floor_sends_as_many_bytes() {
    let ringwire = Path::new(env!("CARGO_BIN_EXE_ringwire"));
    let ours = delivery_of(ringwire, &["serve", "--shards", "1"]);
    let floor = delivery_of(&examples().join("crowd_floor"), &["--processes", "3"]);
    assert_eq!(ours, floor);
}

#[test]
fn hold() {
    let report = drive(&["hold", "--strict"]);
    let figures = figures(&report);
    assert_eq!(figures.len(), 2);
    assert!(figures.iter().all(|(_, reached)| *reached), "{figures:?}");
}

#[test]
fn waves() {
    let report = drive(&["waves"]);
    let figures = figures(&report);
    // So few connections say nothing about memory.
    let kept: Vec<_> = figures
        .iter()
        .filter(|(name, _)| name.contains("connections"))
        .collect();
    assert_eq!(kept.len(), 2, "{figures:?}");
    assert!(kept.iter().all(|(_, reached)| *reached), "{figures:?}");
    assert_eq!(report["samples"].as_array().map(Vec::len), Some(4));
}

#[test]
fn subscriptions() {
    let report = drive(&["subscriptions", "--strict"]);
    // The subscriptions, and one window of publishes.
    let samples = report["samples"].as_array().expect("samples");
    assert_eq!(samples.len(), 2, "{report:#}");
    assert!(samples[1]["counts"]["publishes"].as_u64() > Some(0));
}

#[test]
fn disconnect() {
    let report = drive(&["disconnect"]);
    assert_eq!(figures(&report).len(), 2);
    let round = &report["samples"][0];
    for window in ["quiet", "leaving"] {
        for latency in ["deliveries", "connects"] {
            let count = round[window][latency]["count"].as_u64();
            assert!(count > Some(0), "{window}, {latency}: {report:#}");
        }
    }
}

#[test]
fn spread() {
    let report = drive(&["spread"]);
    let missing = "deliveries that are missing or too many".to_owned();
    assert!(figures(&report).contains(&(missing, true)), "{report:#}");
    assert_eq!(report["samples"].as_array().map(Vec::len), Some(5));
}

/// Runs `drive compare` with the peers in `directory`, as fast as it goes.
fn compare(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(examples().join("drive"))
        .args(["compare", "--quick", "--seconds", "0.1", "--server"])
        .arg(env!("CARGO_BIN_EXE_ringwire"))
        .arg("--out")
        .arg(directory)
        .arg("--peers-dir")
        .arg(directory)
        .args(arguments)
        .output()
        .expect("the driver is built by `cargo build --examples`")
}

/// Puts a shell script where the peer called `name` would be.
fn stand_in(directory: &Path, name: &str, becomes: &str) {
    let folder = directory.join("rust/release");
    std::fs::create_dir_all(&folder).expect("a folder");
    let file = folder.join(format!("{name}-server"));
    let script = format!(
        "#!/bin/sh\nif [ \"$1\" = --version ]; then echo stand-in 1.2; else exec {becomes}; fi\n"
    );
    std::fs::write(&file, script).expect("a script");
    let executable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(file, executable).expect("its mode");
}

/// All of the comparison, with ringwire in place of a peer.
#[test]
fn comparison() {
    let directory = tempfile::tempdir().expect("a directory");
    let ringwire = env!("CARGO_BIN_EXE_ringwire");
    let becomes = format!("{ringwire} serve --listen 127.0.0.1:0 --shards 1");
    stand_in(directory.path(), "fastwebsockets", &becomes);
    let table = directory.path().join("table.md");
    let publish = directory.path().join("results");
    let arguments = [
        "--peers",
        "fastwebsockets",
        "--markdown",
        table.to_str().expect("UTF-8"),
        "--publish",
        publish.to_str().expect("UTF-8"),
    ];
    let output = compare(directory.path(), &arguments);
    let (stdout, stderr) = texts(&output);
    assert!(output.status.success(), "{stdout}\n{stderr}");
    let published = std::fs::read_dir(&publish).expect("it was published");
    let published = published.map(|entry| entry.expect("an entry").path());
    let published: Vec<PathBuf> = published.collect();
    let [folder] = &published[..] else {
        panic!("{published:?}");
    };
    let name = folder.file_name().and_then(|name| name.to_str());
    assert!(name.is_some_and(|name| name.ends_with("-compare")));
    let raw = std::fs::read_to_string(folder.join("raw.json")).expect("raw data");
    let report: Value = serde_json::from_str(&raw).expect("JSON");
    // Four of echo, two of fan-out, handshakes, memory; what can be done at most is known by then.
    let of = |server: &str| {
        let samples = report["samples"].as_array().expect("samples").iter();
        let own = samples.filter(|sample| sample["server"] == server);
        own.filter(|sample| sample["case"].is_string()).count()
    };
    assert_eq!(of("ringwire"), 8, "{report:#}");
    // And a pair.
    assert_eq!(of("fastwebsockets"), 9, "{report:#}");
    // Bun was not asked for: only latency has a bound.
    assert_eq!(figures(&report).len(), 1);
    let readable = std::fs::read_to_string(folder.join("README.md")).expect("a report");
    let table = std::fs::read_to_string(&table).expect("a table");
    assert_eq!(
        table.lines().filter(|line| line.starts_with("| ")).count(),
        12,
        "{table}"
    );
    assert!(
        readable.contains(table.lines().next().expect("heads")),
        "{readable}"
    );
    assert!(
        readable.contains("fastwebsockets: stand-in 1.2"),
        "{readable}"
    );
    let here = directory.path().to_str().expect("UTF-8");
    for text in [&raw, &readable, &table] {
        assert!(!text.contains(here) && !text.contains(env!("CARGO_MANIFEST_DIR")));
    }
}

#[test]
fn a_comparison_without_its_peers_says_so() {
    let directory = tempfile::tempdir().expect("a directory");
    // It echoes on every path, also what should have been a subscription.
    let echo = examples().join("epoll_echo");
    stand_in(
        directory.path(),
        "tokio-tungstenite",
        &echo.to_string_lossy(),
    );
    std::fs::write(directory.path().join("ws.missing"), "no npm\n").expect("a note");
    let peers = ["--peers", "bun,ws,tokio-tungstenite", "--only", "16 KiB"];
    let output = compare(directory.path(), &peers);
    let (stdout, stderr) = texts(&output);
    assert_eq!(output.status.code(), Some(2), "{stdout}\n{stderr}");
    for reason in [
        "bun: not installed: scripts/compare does that",
        "ws: not installed: no npm",
        "tokio-tungstenite: failed: channels: a subscription was answered with",
    ] {
        assert!(stderr.contains(reason), "{reason}\n{stderr}");
    }
    // What was measured of ringwire is there all the same.
    assert!(stdout.contains("MISSED"), "{stdout}");
    assert!(stdout.contains("raw data"), "{stdout}");
    let unknown = compare(directory.path(), &["--peers", "bun,buns"]);
    let (_, stderr) = texts(&unknown);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(stderr.contains("there is no peer \"buns\""), "{stderr}");
    let nothing = compare(directory.path(), &["--only", "nothing like it"]);
    let (_, stderr) = texts(&nothing);
    assert_eq!(nothing.status.code(), Some(2));
    assert!(stderr.contains("idle memory"), "{stderr}");
}

#[test]
fn a_server_that_does_not_start_is_named() {
    let out = tempfile::tempdir().expect("a directory");
    let output = Command::new(examples().join("drive"))
        .args(["hold", "--quick", "--server", "false", "--out"])
        .arg(out.path())
        .output()
        .expect("the driver is built by `cargo build --examples`");
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("listening on"), "{stderr}");
}
