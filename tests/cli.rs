//! The program from outside: exit codes, what it prints, and where.

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

fn ringwire(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = without_settings(Command::new(env!("CARGO_BIN_EXE_ringwire")));
    let output = command
        .args(arguments)
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .output()
        .expect("the program was built");
    Output {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).expect("UTF-8"),
        err: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}

fn write(folder: &Path, text: &str) -> String {
    let path = folder.join("ringwire.toml");
    fs::write(&path, text).expect("a writable folder");
    path.to_str().expect("UTF-8").to_owned()
}

#[test]
fn wrong_flags_get_a_hint_and_exit_code_2() {
    let output = ringwire(&["serve", "--sharts", "3"], &[]);
    assert_eq!(output.code, Some(2));
    assert!(
        output.err.contains("a similar argument exists: '--shards'"),
        "{}",
        output.err
    );
    assert_eq!(output.out, "");
    let output = ringwire(&["sevre"], &[]);
    assert_eq!(output.code, Some(2));
    assert!(output.err.contains("'serve'"), "{}", output.err);
    let output = ringwire(&[], &[]);
    assert_eq!(output.code, Some(2));
    assert!(
        output.err.contains("Usage: ringwire <COMMAND>"),
        "{}",
        output.err
    );
}

#[test]
fn wrong_values_of_flags_and_environment_come_out_together() {
    let output = ringwire(
        &[
            "serve",
            "--listen",
            "localhost:9000",
            "--ping-interval",
            "25",
            "--shards",
            "0",
        ],
        &[
            ("RINGWIRE_LISTN", "127.0.0.1:1"),
            ("RINGWIRE_HEARTBEAT_TIMEOUT_MS", "soon"),
        ],
    );
    assert_eq!(output.code, Some(2));
    assert_eq!(output.out, "");
    for expected in [
        "error: RINGWIRE_LISTN: there is no such variable; did you mean RINGWIRE_LISTEN?",
        "error: RINGWIRE_HEARTBEAT_TIMEOUT_MS: heartbeat.timeout_ms: \"soon\" is not a time",
        "error: --listen: names are not resolved; write 127.0.0.1:9000",
        "error: --ping-interval: heartbeat.interval_ms: \"25\" has no unit: write 25s",
        "error: --shards: 0 is not allowed; allowed: 1 to 1024",
        "5 problems",
    ] {
        assert!(
            output.err.contains(expected),
            "{expected}\nis not in\n{}",
            output.err
        );
    }
}

#[test]
fn a_core_that_is_not_there_is_named() {
    for command in [&["serve"][..], &["config", "check"]] {
        let output = ringwire(&[command, &["--cores", "1023"]].concat(), &[]);
        assert_eq!(output.code, Some(2));
        assert!(
            output
                .err
                .contains("error: --cores: 1023 does not exist on this machine; allowed here: "),
            "{}",
            output.err
        );
    }
    let output = ringwire(
        &["config", "check", "--json"],
        &[("RINGWIRE_CORES", "1023")],
    );
    let json: serde_json::Value = serde_json::from_str(&output.out).expect("JSON");
    assert_eq!(json["problems"][0]["key"], "cores");
    assert_eq!(json["problems"][0]["source"]["variable"], "RINGWIRE_CORES");
}

#[test]
fn check_names_line_and_column_of_every_problem() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = write(
        folder.path(),
        "listen = [\"127.0.0.1:9000\"]\n\n[ring]\n  entries = 100\nbufers = 64\n",
    );
    let output = ringwire(&["config", "check", "--config", &path], &[]);
    assert_eq!(output.code, Some(2));
    assert_eq!(output.out, "");
    let lines: Vec<&str> = output.err.lines().collect();
    assert_eq!(lines.len(), 3, "{}", output.err);
    assert!(lines[0].starts_with(&format!(
        "error: {path}:4:13: ring.entries: 100 is not allowed"
    )));
    assert!(lines[1].starts_with(&format!(
        "error: {path}:5:1: ring.bufers: there is no such setting"
    )));
    assert!(lines[1].ends_with("did you mean buffers?"), "{}", lines[1]);
    assert!(lines[2].contains("2 problems"));

    // The same for programs, and through the environment.
    let output = ringwire(
        &["config", "check", "--json"],
        &[("RINGWIRE_CONFIG", &path)],
    );
    assert_eq!(output.code, Some(2));
    let json: serde_json::Value = serde_json::from_str(&output.out).expect("JSON");
    assert_eq!(json["ok"], false);
    assert_eq!(json["problems"][0]["key"], "ring.entries");
    assert_eq!(json["problems"][0]["source"]["line"], 4);
    assert_eq!(json["problems"][0]["source"]["column"], 13);
    assert_eq!(json["problems"].as_array().map(Vec::len), Some(2));

    // And the server does not start with it.
    let output = ringwire(&["serve", "-c", &path], &[]);
    assert_eq!(output.code, Some(2));
    assert!(
        output.err.contains(&format!("{path}:4:13")),
        "{}",
        output.err
    );
}

#[test]
fn check_names_every_mistake_in_rules_for_channels() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = write(
        folder.path(),
        "[[channels]]\n\
         match = \"chat:*\"\n\
         allow.publish = \"everbody\"\n\
         history.size = 200000\n\
         \n\
         [[channels]]\n\
         match = \"chat:vip:*\"\n\
         histroy.size = 10\n\
         \n\
         [[channels]]\n\
         allow.subscribe = [\"42\", \"42\"]\n\
         \n\
         [[channels]]\n\
         match = \"news\"\n\
         allow.publish = \"named\"\n\
         data_bytes = \"2MiB\"\n\
         history.last_on_subscribe = true\n",
    );
    let output = ringwire(&["config", "check", "--config", &path], &[]);
    assert_eq!(output.code, Some(2));
    let expected = [
        ("3:17: channels[0].allow.publish", "did you mean everyone?"),
        (
            "4:16: channels[0].history.size",
            "allowed: 0 (no history) or 1 to 100000",
        ),
        (
            "7:9: channels[1].match",
            "`chat:vip:*` is unreachable: `chat:*` in line 2 comes first and matches all of it",
        ),
        (
            "8:1: channels[1].histroy",
            "did you mean [channels.history]?",
        ),
        ("10:1: channels[2]", "match is missing"),
        (
            "11:26: channels[2].allow.subscribe",
            "\"42\" is listed twice",
        ),
        (
            "14:9: channels[3].match",
            "add a last rule with match = \"*\"",
        ),
        (
            "15:17: channels[3].allow.publish",
            "named allows nobody here",
        ),
        (
            "16:14: channels[3].data_bytes",
            "2 MiB is more than the largest message (client.message_bytes, 1 MiB)",
        ),
        (
            "17:29: channels[3].history.last_on_subscribe",
            "set history.size to at least 1",
        ),
    ];
    let lines: Vec<&str> = output.err.lines().collect();
    assert_eq!(lines.len(), expected.len() + 1, "{}", output.err);
    for (line, (place, words)) in lines.iter().zip(expected) {
        assert!(
            line.starts_with(&format!("error: {path}:{place}: ")) && line.contains(words),
            "{line}\nis not\n{place} … {words}"
        );
    }
    assert!(lines[expected.len()].contains("10 problems"));

    // What they say to do makes it good; rules can be printed and read back.
    let path = write(
        folder.path(),
        "client.message_bytes = \"2MiB\"\n\
         [[channels]]\n\
         match = \"chat:vip:*\"\n\
         allow.subscribe = [\"42\", \"43\"]\n\
         [[channels]]\n\
         match = \"chat:*\"\n\
         history.size = 10\n\
         [[channels]]\n\
         match = \"*\"\n\
         data_bytes = \"2MiB\"\n",
    );
    let first = ringwire(&["config", "print", "--config", &path], &[]);
    assert_eq!(first.code, Some(0), "{}", first.err);
    let rules = |path: &str| {
        let output = ringwire(&["config", "print", "--json", "--config", path], &[]);
        let json: serde_json::Value = serde_json::from_str(&output.out).expect("JSON");
        let rules = json["channels"].as_array().expect("a list").clone();
        rules
            .into_iter()
            .map(|rule| {
                let settings = rule.as_object().expect("an object").clone();
                settings
                    .into_iter()
                    .map(|(key, entry)| (key, entry["value"].clone()))
                    .collect::<Vec<_>>()
            })
            .collect::<Vec<_>>()
    };
    let before = rules(&path);
    assert_eq!(before.len(), 3);
    assert!(before[0].contains(&("match".into(), "chat:vip:*".into())));
    assert_eq!(rules(&write(folder.path(), &first.out)), before);
}

#[test]
fn a_good_configuration_is_called_good() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = write(
        folder.path(),
        "shards = 2\n[client]\nmessage_bytes = \"2MiB\"\n",
    );
    let output = ringwire(&["config", "check", "--config", &path], &[]);
    assert_eq!(output.code, Some(0), "{}", output.err);
    assert!(
        output.out.ends_with("the configuration is good\n"),
        "{}",
        output.out
    );
    assert!(
        output
            .out
            .contains("note: client.outbox_bytes is 2112 KiB instead of"),
        "{}",
        output.out
    );
    let output = ringwire(&["config", "check", "--config", "/nonexistent.toml"], &[]);
    assert_eq!(output.code, Some(2));
    assert!(
        output.err.contains("/nonexistent.toml: cannot be read"),
        "{}",
        output.err
    );
}

#[test]
fn what_print_prints_can_be_read_back() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = write(
        folder.path(),
        "shards = 3\nlisten = [\"[::1]:7\", \"unix:/run/a \\\"b\\\".sock\"]\n\
         cores = \"5,1-3\"\nhttp.echo = true\nheartbeat.interval_ms = \"20s\"\n",
    );
    let first = ringwire(
        &["config", "print", "-c", &path, "--shards", "4"],
        &[("RINGWIRE_HTTP_ECHO", "false"), ("RINGWIRE_SHARDS", "5")],
    );
    assert_eq!(first.code, Some(0), "{}", first.err);
    for expected in [
        "shards = 4 # from --shards",
        "echo = false # from RINGWIRE_HTTP_ECHO",
        &format!("interval_ms = 20000 # 20 s; from {path}:5:25"),
        "timeout_ms = 10000 # 10 s; default",
        "cores = \"5,1-3\"",
    ] {
        assert!(
            first.out.contains(expected),
            "{expected}\nis not in\n{}",
            first.out
        );
    }
    let values = |arguments: &[&str], environment: &[(&str, &str)]| {
        let output = ringwire(
            &[&["config", "print", "--json"], arguments].concat(),
            environment,
        );
        let json: serde_json::Value = serde_json::from_str(&output.out).expect("JSON");
        let settings = json["settings"].as_object().expect("an object").clone();
        settings
            .into_iter()
            .map(|(key, entry)| (key, entry["value"].clone()))
            .collect::<Vec<_>>()
    };
    let before = values(
        &["-c", &path, "--shards", "4"],
        &[("RINGWIRE_HTTP_ECHO", "false")],
    );
    assert!(before.contains(&("shards".into(), 4.into())));
    assert!(before.contains(&("http.echo".into(), false.into())));
    assert!(before.contains(&(
        "client.connections_per_shard".into(),
        serde_json::Value::Null
    )));

    let printed = write(folder.path(), &first.out);
    assert_eq!(values(&["-c", &printed], &[]), before);
}

#[test]
fn reference_is_the_page_in_docs() {
    let output = ringwire(&["config", "reference"], &[]);
    assert_eq!(output.code, Some(0));
    let page = fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/docs/configuration.md"
    ));
    assert_eq!(
        output.out,
        page.unwrap_or_default(),
        "run: cargo run -- config reference > docs/configuration.md"
    );
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_ringwire"))
        .args(["config", "reference"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program was built");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_word_that_is_no_level_does_not_silence_the_log() {
    let output = ringwire(&["serve", "--log", "verbose"], &[]);
    assert_eq!(output.code, Some(2));
    assert!(
        output.err.contains(
            "--log: log.filter: \"verbose\" is not a filter: \"verbose\" is no level; levels are off, error, warn"
        ),
        "{}",
        output.err
    );
    let output = ringwire(&["config", "check", "--log", "warning"], &[]);
    assert_eq!(output.code, Some(0), "{}", output.err);
}

#[test]
fn a_full_disk_is_named_with_what_was_written() {
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_ringwire"))
        .args(["config", "reference"])
        .stdout(full)
        .output()
        .expect("the program was built");
    assert_eq!(output.status.code(), Some(1));
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(
        err.starts_with("ringwire: cannot write to standard output: No space left"),
        "{err}"
    );
}

#[test]
fn the_version_is_the_packages() {
    let output = ringwire(&["--version"], &[]);
    assert_eq!(output.code, Some(0));
    assert_eq!(
        output.out,
        format!("ringwire {}\n", env!("CARGO_PKG_VERSION"))
    );
}
