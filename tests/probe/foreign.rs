//! Servers that we did not write.

use crate::tools::tool;
use crate::{RINGWIRE, all_passed_but, detail, names, quick, run, text};
use ringwire::load::probe::{Mode, Outcome};
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::thread;
use tungstenite::Message;

/// A process that ends with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const PYTHON: &str = r#"
import asyncio
from websockets.asyncio.server import serve

async def echo(socket):
    async for message in socket:
        await socket.send(message)

async def main():
    async with serve(echo, "127.0.0.1", 0, max_size=2**24) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.wait_closed()

asyncio.run(main())
"#;

#[test]
fn python_websockets() {
    let Some(python) = tool("RINGWIRE_PYTHON") else {
        return;
    };
    let mut child = Command::new(python)
        .args(["-c", PYTHON])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("python runs");
    let mut port = String::new();
    let stdout = child.stdout.take().expect("stdout is piped");
    let process = Process(child);
    BufReader::new(stdout)
        .read_line(&mut port)
        .expect("a line with the port");
    let mut options = quick(&format!("ws://127.0.0.1:{}/a?b=c", port.trim()));
    options.size_max_bytes = 8 << 20;
    let report = run(&options);
    let mut skipped = vec!["tls", "certificate"];
    skipped.extend(RINGWIRE);
    all_passed_but(&report, Mode::Echo, &skipped);
    drop(process);
}

/// tungstenite's server side answers a bad handshake with nothing, and a wrong frame with the end of
/// the connection: the one is a fault, the other is not.
#[test]
fn tungstenite() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let Ok(mut socket) = tungstenite::accept(stream) else {
                    return;
                };
                while let Ok(message) = socket.read() {
                    if let Message::Text(_) | Message::Binary(_) = message
                        && socket.send(message).is_err()
                    {
                        break;
                    }
                }
            });
        }
    });
    let report = run(&quick(&format!("ws://{address}/")));
    let failed = names(&report, Outcome::Failed);
    assert_eq!(failed, ["bad-handshake"], "{}", text(&report));
    assert!(detail(&report, "bad-handshake").contains("closed without an answer"));
    assert!(detail(&report, "unmasked").contains("without a close frame (allowed"));
}
