//! What tests of the running server share: a `ringwire serve` of their own, on a random port.
//!
//! `RINGWIRE_BINARY` names another binary than the one Cargo built for the test: a release build, or
//! one that a virtual machine with an older kernel runs.

pub(crate) mod output;
mod settings;

use output::Output;
use rustix::process::{Pid, Signal, kill_process};
pub(crate) use settings::without_settings;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long anything may take before a test gives up. Generous, because nothing is measured with it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The binary under test.
pub(crate) fn binary() -> PathBuf {
    std::env::var_os("RINGWIRE_BINARY").map_or_else(
        || PathBuf::from(env!("CARGO_BIN_EXE_ringwire")),
        PathBuf::from,
    )
}

/// Waits until `probe` gives something.
///
/// # Panics
/// After [`PATIENCE`], saying `what` did not happen.
pub(crate) fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(Instant::now() < deadline, "gave up waiting: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A running `ringwire serve`. Killed, by its process id, when it goes out of scope; what it wrote is
/// shown when the test failed.
pub(crate) struct Server {
    child: Child,
    output: Output,
    authority: String,
    url: String,
}

impl Server {
    /// A server on a random port of 127.0.0.1 with two shards, so that every test also crosses from
    /// one to the other.
    pub(crate) fn start() -> Self {
        Self::configured(&[])
    }

    /// The same with settings, named as in the environment: `RINGWIRE_CLIENT_CHANNELS`.
    ///
    /// # Panics
    /// When it ends, or does not say where it listens within [`PATIENCE`].
    pub(crate) fn configured(settings: &[(&str, &str)]) -> Self {
        Self::with_arguments(&[], settings)
    }

    /// The same with more arguments: another `--listen` adds a listener.
    ///
    /// # Panics
    /// As [`Self::configured`].
    pub(crate) fn with_arguments(arguments: &[&str], settings: &[(&str, &str)]) -> Self {
        let mut command = without_settings(Command::new(binary()));
        let mut child = command
            .args(["serve", "--listen", "127.0.0.1:0", "--shards", "2"])
            .args(arguments)
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", binary().display()));
        let output = Output::default();
        output.collect(child.stdout.take().expect("stdout is piped"), "");
        output.collect(child.stderr.take().expect("stderr is piped"), "stderr: ");
        // One line for each path; they differ in the path only.
        let Some(line) = output.wait_for("listening on ws://") else {
            let _ = child.kill();
            let status = child.wait();
            panic!(
                "the server said no \"listening on …\" ({status:?}):\n{}",
                output.text()
            );
        };
        let authority = line.split('/').next().unwrap_or_default().to_owned();
        let url = format!("ws://{authority}/ws");
        Self {
            child,
            output,
            authority,
            url,
        }
    }

    /// Where the channels are: `ws://127.0.0.1:PORT/ws`.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The same server at another path, which begins with `/`.
    pub(crate) fn at(&self, path: &str) -> String {
        format!("ws://{}{path}", self.authority())
    }

    /// `127.0.0.1:PORT`.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    /// Where to connect a plain socket.
    pub(crate) fn address(&self) -> SocketAddr {
        self.authority().parse().expect("a numeric address")
    }

    /// A plain socket to the server, with deadlines.
    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address()).expect("the server listens");
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Sends bytes and returns everything that comes until the server closes.
    pub(crate) fn exchange(&self, request: &[u8]) -> String {
        let mut stream = self.connect();
        stream.write_all(request).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the server runs");
    }

    /// How it has ended; `None` while it runs.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it still runs after [`PATIENCE`].
    pub(crate) fn wait(&mut self) -> ExitStatus {
        eventually("the server ends", || self.ended())
    }

    /// What it wrote so far, lines of standard error with a prefix.
    pub(crate) fn output(&self) -> String {
        self.output.text()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("---- the server wrote:\n{}\n----", self.output());
        }
    }
}
