//! `ringwire doctor` from outside: exit codes, what it prints, JSON.

#[path = "support/settings.rs"]
mod settings;

use settings::without_settings;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// Exit code, standard output, standard error.
struct Output {
    code: Option<i32>,
    out: String,
    err: String,
}

fn doctor(arguments: &[&str]) -> Output {
    let mut command = without_settings(Command::new(env!("CARGO_BIN_EXE_ringwire")));
    let output = command
        .arg("doctor")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("the program was built");
    Output {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).expect("UTF-8"),
        err: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}

fn write(root: &Path, path: &str, text: &str) {
    let file = root.join(path);
    fs::create_dir_all(file.parent().expect("a folder")).expect("folders");
    fs::write(file, text).expect("written");
}

/// The least that decides it, enough for a million connections on 4 cores.
fn host() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let root = folder.path();
    for (path, text) in [
        ("proc/sys/kernel/osrelease", "6.1.0-30-amd64\n"),
        (
            "proc/self/limits",
            "Max open files            1024                 1100000              files     \n\
             Max locked memory         67108864             67108864             bytes     \n",
        ),
        ("proc/self/cgroup", "0::/\n"),
        (
            "proc/meminfo",
            "MemTotal: 65000000 kB\nMemAvailable: 60000000 kB\nSwapTotal: 0 kB\n",
        ),
        ("proc/sys/fs/nr_open", "2097152\n"),
        ("proc/sys/fs/file-max", "4000000\n"),
        ("proc/sys/fs/file-nr", "1000\t0\t4000000\n"),
        ("proc/sys/net/core/somaxconn", "128\n"),
    ] {
        write(root, path, text);
    }
    for cpu in 0..8 {
        let topology = format!("sys/devices/system/cpu/cpu{cpu}/topology");
        write(root, &format!("{topology}/physical_package_id"), "0\n");
        write(
            root,
            &format!("{topology}/core_id"),
            &format!("{}\n", cpu / 2),
        );
    }
    folder
}

/// Without the ends of lines, which fall differently with every number.
fn flowing(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn a_host_that_is_large_enough_is_0_and_one_that_is_not_1() {
    let host = host();
    let root = text(host.path());
    let output = doctor(&["--root", root]);
    assert_eq!(output.code, Some(0), "{}{}", output.out, output.err);
    assert_eq!(output.err, "");
    assert!(
        output
            .out
            .starts_with("1,000,000 connections on 4 shards\n"),
        "{}",
        output.out
    );
    for expected in [
        "This host holds 1,000,000 connections as it is.",
        "\nWARN    net.core.somaxconn             128                            25,000\n",
        "         sysctl -w net.core.somaxconn=65535\n",
        "         net.core.somaxconn = 65535\n",
        "Sysctls, limits and interrupts at once: tuning/apply",
    ] {
        assert!(
            output.out.contains(expected),
            "{expected}\nis not in\n{}",
            output.out
        );
    }

    let output = doctor(&["--root", root, "--connections", "20000000"]);
    assert_eq!(output.code, Some(1), "{}", output.err);
    assert!(
        flowing(&output.out)
            .contains("20,000,000 connections don't fit. What stops it: fs.file-max (3,99"),
        "{}",
        output.out
    );

    write(host.path(), "proc/meminfo", "nothing\n");
    let output = doctor(&["--root", root]);
    assert_eq!(output.code, Some(1), "{}", output.err);
    assert!(
        flowing(&output.out).contains("Whether this host holds 1,000,000 connections is not known"),
        "{}",
        output.out
    );
}

#[test]
fn json_has_the_same() {
    let host = host();
    let arguments = ["--root", text(host.path()), "--json", "--shards", "3"];
    let output = doctor(&arguments);
    assert_eq!(output.code, Some(0), "{}", output.err);
    let json: serde_json::Value = serde_json::from_str(&output.out).expect("JSON");
    assert_eq!(json["connections"], 1_000_000);
    assert_eq!(json["shards"], 3);
    assert_eq!(json["fits"], true);
    let limits = json["limits"].as_array().expect("a list");
    assert_eq!(json["holds"], limits[0]["connections"]);
    assert_eq!(limits[0]["setting"], "RLIMIT_NOFILE");
    assert!(
        json["notes"]
            .as_array()
            .is_some_and(|notes| !notes.is_empty())
    );
    let findings = json["findings"].as_array().expect("a list");
    assert!(findings.len() > 25);
    for finding in findings {
        let fields = finding.as_object().expect("an object");
        let names: Vec<&str> = fields.keys().map(String::as_str).collect();
        let expected = [
            "group", "holds", "how", "needed", "now", "setting", "status", "why",
        ];
        let mut sorted = names.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, expected);
        let status = finding["status"].as_str().expect("a word");
        assert!(
            ["ok", "info", "warn", "fail", "unknown"].contains(&status),
            "{status}"
        );
        let how = finding["how"].as_array().expect("a list");
        assert!(
            how.iter()
                .all(|step| step["where"].is_string() && step["line"].is_string())
        );
    }

    write(host.path(), "proc/sys/fs/file-max", "500000\n");
    let output = doctor(&arguments);
    assert_eq!(output.code, Some(1));
    let json: serde_json::Value = serde_json::from_str(&output.out).expect("JSON");
    assert_eq!(json["fits"], false);
    assert_eq!(json["limits"][0]["setting"], "fs.file-max");
    fs::remove_file(host.path().join("proc/sys/fs/file-max")).expect("it was there");
    let output = doctor(&arguments);
    assert_eq!(output.code, Some(1));
    let json: serde_json::Value = serde_json::from_str(&output.out).expect("JSON");
    assert_eq!(json["fits"], serde_json::Value::Null);
}

#[test]
fn wrong_flags_are_2() {
    let host = host();
    let root = text(host.path());
    let empty = tempfile::tempdir().expect("a temporary folder");
    for (arguments, expected) in [
        (vec!["--connections", "0"], "0 is not in 1..="),
        (vec!["--connections", "many"], "invalid value 'many'"),
        (vec!["--shards", "0"], "is not allowed; allowed: 1 to 1024"),
        (vec!["--shards", "-1"], "is negative; allowed: 1 to 1024"),
        (vec!["--root", text(empty.path())], "has no folder proc"),
        (vec!["--root", root, "--pid", "5"], "there is no process 5"),
        (
            vec!["--config", "/nonexistent.toml"],
            "/nonexistent.toml: cannot be read",
        ),
        (vec!["--json", "--all"], "cannot be used with"),
    ] {
        let output = doctor(&arguments);
        assert_eq!(output.code, Some(2), "{arguments:?}: {}", output.err);
        assert!(
            output.err.contains(expected),
            "{arguments:?}: {}",
            output.err
        );
        assert_eq!(output.out, "", "{arguments:?}");
    }
    fs::remove_dir_all(host.path().join("sys")).expect("it was there");
    let output = doctor(&["--root", root]);
    assert_eq!(output.code, Some(2));
    assert!(output.err.contains("give --shards"), "{}", output.err);
}

#[test]
fn shards_and_tables_come_from_the_configuration() {
    let host = host();
    write(
        host.path(),
        "ringwire.toml",
        "shards = 7\n[client]\nconnections_per_shard = 1000\n",
    );
    let config = host.path().join("ringwire.toml");
    let arguments = [
        "--root",
        text(host.path()),
        "--config",
        text(&config),
        "--json",
    ];
    let output = doctor(&arguments);
    assert_eq!(output.code, Some(1), "{}", output.err);
    let json: serde_json::Value = serde_json::from_str(&output.out).expect("JSON");
    assert_eq!(json["shards"], 7);
    assert_eq!(json["limits"][0]["setting"], "client.connections_per_shard");
    // A flag wins.
    let output = doctor(&[&arguments[..], &["--shards", "2"]].concat());
    let json: serde_json::Value = serde_json::from_str(&output.out).expect("JSON");
    assert_eq!(json["shards"], 2);
}

#[test]
fn this_machine_is_examined_with_a_ring() {
    let output = doctor(&["--connections", "1", "--shards", "1", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&output.out).expect("JSON");
    // Wherever the tests of the server run, one connection on one shard fits.
    assert_eq!(output.code, Some(0), "{}", output.out);
    let ring = json["findings"]
        .as_array()
        .and_then(|findings| {
            findings
                .iter()
                .find(|finding| finding["setting"] == "io_uring")
        })
        .expect("the finding");
    assert_eq!(ring["status"], "ok");
    assert!(
        ring["now"]
            .as_str()
            .is_some_and(|now| now.contains("works (tried)")),
        "{ring}"
    );
    let output = doctor(&["--connections", "1", "--shards", "1", "--all"]);
    assert_eq!(output.code, Some(0));
    assert!(
        output.out.contains("Why, and how to set it"),
        "{}",
        output.out
    );
    assert!(output.out.contains("\nok io_uring: "), "{}", output.out);
}
