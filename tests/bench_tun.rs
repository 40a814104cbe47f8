//! `ringwire bench million --clients tun`, each run in a network namespace of its own. Takes root, `unshare` and
//! /dev/net/tun.

#[path = "support/settings.rs"]
mod settings;

use settings::without_settings;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use serde_json::Value;

/// Why it cannot be tried here, if it cannot.
fn missing() -> Option<String> {
    if !Path::new("/dev/net/tun").exists() {
        return Some("there is no /dev/net/tun".to_owned());
    }
    let tried = Command::new("unshare").args(["--net", "true"]).output();
    match tried {
        Ok(tried) if tried.status.success() => None,
        Ok(tried) => Some(String::from_utf8_lossy(&tried.stderr).trim().to_owned()),
        Err(error) => Some(format!("unshare: {error}")),
    }
}

fn test_name() -> String {
    thread::current().name().unwrap_or("?").to_owned()
}

/// Runs a command of a shell in a namespace of its own, with the program as `$0`: exit code, standard output
/// and error. `None` where that is not possible.
fn inside(script: &str) -> Option<(Option<i32>, String, String)> {
    if let Some(missing) = missing() {
        assert!(std::env::var_os("CI").is_none(), "{missing}");
        // Not eprintln: the test harness would swallow that.
        let _ = writeln!(std::io::stderr(), "SKIPPED {}: {missing}", test_name());
        return None;
    }
    let mut command = without_settings(Command::new("unshare"));
    let output = command
        .args(["--net", "sh", "-ec", script, env!("CARGO_BIN_EXE_ringwire")])
        .stdin(Stdio::null())
        .output()
        .expect("it has been tried");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Some((
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    ))
}

/// The result of a run that must have passed.
fn passed(flags: &str) -> Option<Value> {
    let (code, out, err) = inside(&format!(
        r#""$0" bench million --clients tun --json {flags}"#
    ))?;
    assert_eq!(code, Some(0), "{out}\n{err}");
    let result: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(result["passed"], true, "{result:#}");
    Some(result)
}

fn figure(result: &Value, name: &str) -> f64 {
    let figures = result["figures"].as_array().expect("figures");
    let figure = figures.iter().find(|figure| figure["name"] == name);
    let figure = figure.unwrap_or_else(|| panic!("no {name:?} in {result:#}"));
    figure["value"].as_f64().expect("a number")
}

#[test]
fn the_recipe_with_the_servers_memory_alone() {
    let Some(result) = passed("-n 2000 --hold 200ms --shards 2") else {
        return;
    };
    assert_eq!(figure(&result, "connections"), 2_000.0);
    let way = result["way"].as_str().expect("a way");
    assert!(way.starts_with("(c) ") && way.contains("TUN"), "{way}");
    assert_eq!(figure(&result, "packets that came damaged"), 0.0);
    // How much that is depends on what else the machine does meanwhile.
    for name in [
        "kernel slab per connection, the server's end alone",
        "user and kernel memory per connection",
        "the clients' own memory per connection",
    ] {
        assert!(figure(&result, name).is_finite());
    }
}

/// A device that holds so few packets loses many.
#[test]
fn what_the_device_loses_is_made_up_for() {
    let flags = "-n 100 --hold 200ms --shards 2 --connecting 40 --tun-queue 24";
    let Some(result) = passed(flags) else {
        return;
    };
    let lost = figure(&result, "packets for the clients that the device lost");
    assert!(lost > 0.0, "nothing was lost: {result:#}");
}

#[test]
fn a_server_that_runs_already() {
    let script = r#"
        said=$(mktemp)
        trap 'rm "$said"; kill $!' EXIT
        "$0" serve --listen 0.0.0.0:9000 --shards 1 --log off >"$said" &
        until grep -q listening "$said"; do sleep 0.05; done
        "$0" bench million --clients tun --json -n 100 --hold 100ms --server-pid $! --url ws://198.18.0.1:9000/ws
    "#;
    let Some((code, out, err)) = inside(script) else {
        return;
    };
    assert_eq!(code, Some(0), "{out}\n{err}");
}

#[test]
fn what_does_not_go_together_is_refused() {
    for (flags, code, expected) in [
        ("--threads 2", 2, "leave out --threads"),
        ("--source 127.0.0.2", 2, "leave out --threads and --source"),
        (
            "--url ws://127.0.0.1:9/ws",
            1,
            "use --url ws://198.18.0.1:9/ws",
        ),
        ("--clients rubber", 2, "sockets, tun"),
        (
            "--clients sockets --tun-queue 5",
            2,
            "it is for --clients tun",
        ),
    ] {
        let clients = if flags.contains("--clients") {
            ""
        } else {
            "--clients tun"
        };
        let script = format!(r#""$0" bench million -n 10 --hold 100ms {clients} {flags}"#);
        let Some((got, _, err)) = inside(&script) else {
            return;
        };
        assert_eq!(got, Some(code), "{flags}: {err}");
        assert!(err.contains(expected), "{flags}: {err}");
    }
}

#[test]
fn two_at_a_time_need_two_namespaces() {
    // An address of the clients' network that is there already looks like another run.
    let script = r#"
        ip address add 198.18.0.1/15 dev lo
        ip link set lo up
        "$0" bench million --clients tun -n 10 --hold 100ms
    "#;
    let Some((code, _, err)) = inside(script) else {
        return;
    };
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("namespace of its own"), "{err}");
}
