//! Clients in other languages: Python's `websockets` and `msgpack`, npm's `ws` and `@msgpack/msgpack`,
//! and the demo page in Chromium.
//! `scripts/test` installs them and says where, in `RINGWIRE_PYTHON` and `RINGWIRE_NODE_MODULES`.

use crate::support::{Server, binary};
use crate::tools::{run, tool};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A script that hangs is ended after this long.
const LIMIT: Duration = Duration::from_secs(180);

fn script(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(path)
}

/// Runs a script, which must have tested something and found nothing.
fn passes(command: &mut Command) {
    let output = run(command, LIMIT);
    println!("{output}");
    let summary = output
        .lines()
        .find(|line| line.ends_with(" passed, 0 failed"));
    assert!(
        summary.is_some_and(|line| !line.starts_with("0 ")),
        "no summary in:\n{output}"
    );
}

/// Runs a script against a new server, which the script ends with SIGTERM in its last test.
fn talk(command: Command) {
    talk_to(Server::start(), command);
}

fn talk_to(mut server: Server, mut command: Command) {
    passes(
        command
            .env("RINGWIRE_URL", server.url())
            .env("RINGWIRE_PID", server.pid().to_string()),
    );
    let status = server.wait();
    assert!(
        status.success(),
        "after SIGTERM the server ended with {status}"
    );
}

fn node(path: &str, modules: PathBuf) -> Command {
    let mut command = Command::new("node");
    command.arg(script(path)).env("NODE_PATH", modules);
    command
}

#[test]
fn python_websockets() {
    let Some(python) = tool("RINGWIRE_PYTHON") else {
        return;
    };
    let mut command = Command::new(python);
    command
        .arg("-Werror")
        .arg(script("clients/websockets_client.py"));
    talk(command);
}

#[test]
fn npm_ws() {
    let Some(modules) = tool("RINGWIRE_NODE_MODULES") else {
        return;
    };
    talk(node("clients/ws_client.js", modules));
}

/// A server with history, presence and users, for clients that use all of the protocol.
fn with_everything() -> Server {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ringwire.toml");
    let settings = "\
users.trusted_peers = [\"127.0.0.1\"]
users.broadcast = \"authenticated\"
[[channels]]
match = \"*\"
history.size = 1000
presence.enabled = true
presence.events = true
";
    std::fs::write(&file, settings).unwrap();
    // It has read the file when it listens.
    Server::with_arguments(&["--config", file.to_str().unwrap()], &[])
}

#[test]
fn python_msgpack() {
    let Some(python) = tool("RINGWIRE_PYTHON") else {
        return;
    };
    let mut command = Command::new(python);
    command
        .arg("-Werror")
        .arg(script("clients/msgpack_client.py"));
    talk_to(with_everything(), command);
}

#[test]
fn npm_msgpack() {
    let Some(modules) = tool("RINGWIRE_NODE_MODULES") else {
        return;
    };
    talk_to(
        with_everything(),
        node("clients/msgpack_client.js", modules),
    );
}

/// The script starts and restarts servers by itself.
#[test]
fn demo_page_in_chromium() {
    let Some(modules) = tool("RINGWIRE_NODE_MODULES") else {
        return;
    };
    passes(
        node("browser/demo_page.js", modules)
            .env("RINGWIRE_BINARY", binary())
            .env("RINGWIRE_SCREENSHOTS", env!("CARGO_TARGET_TMPDIR")),
    );
}
