//! The measurements run, tiny, so that they cannot rot; what they measure here means nothing.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

/// Runs one command of the driver and returns the raw data it wrote.
fn drive(arguments: &[&str]) -> Value {
    let out = tempfile::tempdir().expect("a directory");
    let test = std::env::current_exe().expect("the test's own path");
    let profile: PathBuf = test.ancestors().nth(2).expect("target/PROFILE").into();
    let output = Command::new(profile.join("examples/drive"))
        .args(arguments)
        .args(["--quick", "--seconds", "0.1", "--server"])
        .arg(env!("CARGO_BIN_EXE_ringwire"))
        .arg("--out")
        .arg(out.path())
        .output()
        .expect("the driver is built by `cargo build --examples`");
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
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

#[test]
fn a_server_that_does_not_start_is_named() {
    let test = std::env::current_exe().expect("the test's own path");
    let profile: PathBuf = test.ancestors().nth(2).expect("target/PROFILE").into();
    let out = tempfile::tempdir().expect("a directory");
    let output = Command::new(profile.join("examples/drive"))
        .args(["hold", "--quick", "--server", "false", "--out"])
        .arg(out.path())
        .output()
        .expect("the driver is built by `cargo build --examples`");
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("listening on"), "{stderr}");
}
