//! The program as a process: signals, exit codes, files and descriptors.

use crate::client::Client;
use crate::engine::connect;
use crate::support::{PATIENCE, Server, binary, eventually, without_settings};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::fs;
use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};

fn open(server: &Server) -> Client<TcpStream> {
    Client::over(server.connect(), "/ws")
}

const TEN_MINUTES: &str = "600000";

#[test]
fn a_signal_drains_and_the_exit_code_is_0() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let mut server = Server::start();
        let mut clients: Vec<_> = (0..8).map(|_| open(&server)).collect();
        clients
            .iter_mut()
            .for_each(|client| _ = client.subscribe("c"));
        let (silent, mut half) = (server.connect(), server.connect());
        half.write_all(b"GET /ws HTTP/1.1\r\n").unwrap();
        server.signal(signal);
        for client in &mut clients {
            let (frames, end) = client.closed();
            assert_eq!(frames.last().expect("a farewell")["type"], "disconnect");
            assert_eq!(end, Some((1001, "server shutting down".to_owned())));
        }
        assert_eq!(server.wait().code(), Some(0), "{}", server.output());
        drop((silent, half));
    }
}

/// A client that refuses to close holds the server up, and only a second signal ends it.
#[test]
fn a_second_signal_ends_at_once() {
    for (signal, code) in [(Signal::TERM, 128 + 15), (Signal::INT, 128 + 2)] {
        let mut server = Server::configured(&[
            ("RINGWIRE_TIMEOUTS_DRAIN_MS", TEN_MINUTES),
            ("RINGWIRE_TIMEOUTS_CLOSE_MS", TEN_MINUTES),
        ]);
        let mut stubborn = open(&server);
        stubborn.is_alive();
        server.signal(Signal::TERM);
        // It has begun to drain when nobody gets in any more.
        eventually("new connections are refused", || {
            let refused = TcpStream::connect(server.address()).err()?;
            (refused.kind() == ErrorKind::ConnectionRefused).then_some(())
        });
        assert!(server.ended().is_none(), "one client is left");
        server.signal(signal);
        let status = server.wait();
        assert_eq!(
            (status.code(), status.signal()),
            (Some(code), None),
            "{}",
            server.output()
        );
    }
}

#[test]
fn the_drain_timeout_ends_it_with_an_error() {
    let mut server = Server::configured(&[
        ("RINGWIRE_TIMEOUTS_DRAIN_MS", "200"),
        ("RINGWIRE_TIMEOUTS_CLOSE_MS", TEN_MINUTES),
    ]);
    let mut stubborn = open(&server);
    stubborn.is_alive();
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(1));
    let output = server.output();
    assert!(
        output.contains("1 connection was still open after 200 ms and cut off"),
        "{output}"
    );
    assert!(
        output.contains("timeouts.drain_ms") && !output.contains("panicked"),
        "{output}"
    );
}

/// Whoever wants no waiting gets none: everybody is told, and that some did not answer is no failure.
#[test]
fn without_a_drain_timeout_everybody_is_told_and_nobody_waited_for() {
    let mut server = Server::configured(&[
        ("RINGWIRE_TIMEOUTS_DRAIN_MS", "0"),
        ("RINGWIRE_TIMEOUTS_CLOSE_MS", TEN_MINUTES),
    ]);
    let mut stubborn: Vec<_> = (0..5).map(|_| open(&server)).collect();
    stubborn.iter_mut().for_each(Client::is_alive);
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(0), "{}", server.output());
    for client in &mut stubborn {
        assert_eq!(
            client.closed().1,
            Some((1001, "server shutting down".to_owned()))
        );
    }
    let output = server.output();
    assert!(
        output.contains("WARN") && output.contains("cut off") && output.contains("connections=5"),
        "{output}"
    );
}

/// A signal that comes while the shards start is kept, not taken for the default: to die.
#[test]
fn a_signal_during_the_start_drains_too() {
    let mut command = without_settings(Command::new(binary()));
    let mut child = command
        .args(["serve", "--listen", "127.0.0.1:0", "--shards", "64"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let threads = format!("/proc/{}/task", child.id());
    let named = |prefix: &str| -> Vec<i32> {
        let tasks = fs::read_dir(&threads).into_iter().flatten().flatten();
        tasks
            .filter(|task| {
                fs::read_to_string(task.path().join("comm"))
                    .is_ok_and(|name| name.starts_with(prefix))
            })
            .filter_map(|task| task.file_name().to_str()?.parse().ok())
            .collect()
    };
    // Names of threads have 15 bytes at most.
    let catcher = eventually("signals are caught", || named("ringwire-signal").pop());
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    // Threads are numbered as they are made, this one before all shards; after the largest number comes the
    // first one again.
    let numbers = fs::read_to_string("/proc/sys/kernel/pid_max").unwrap();
    let numbers: i32 = numbers.trim().parse().unwrap();
    let later = |shard: &i32| (shard - catcher).rem_euclid(numbers) < numbers / 2;
    assert!(named("shard-").iter().all(later));
    let status = eventually("it ends", || child.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
}

/// nohup(1) has SIGHUP ignored, and means it.
#[test]
fn an_ignored_hangup_stays_ignored() {
    let mut command = without_settings(Command::new("sh"));
    let mut child = command
        .args(["-c", "trap '' HUP; exec \"$0\" \"$@\""])
        .arg(binary())
        .args(["serve", "--listen", "127.0.0.1:0", "--shards", "1"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let listening = |line: &String| line.starts_with("listening on");
    assert!(lines.any(|line| line.is_ok_and(|line| listening(&line))));
    let pid = Pid::from_child(&child);
    kill_process(pid, Signal::HUP).unwrap();
    // Were it caught, this would be the second signal, and the exit code that of an end at once.
    kill_process(pid, Signal::TERM).unwrap();
    let status = eventually("it ends", || child.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_unix_socket_comes_and_goes_with_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listen = format!("unix:{}", path.display());
    let mut server = Server::with_arguments(&["--listen", &listen], &[]);
    let stream = UnixStream::connect(&path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut local, mut remote) = (Client::over(stream, "/ws"), open(&server));
    local.subscribe("c");
    remote.publish("c", "over both");
    assert_eq!(local.message("c"), (1, json!("over both")));
    server.signal(Signal::TERM);
    local.closed();
    remote.closed();
    assert_eq!(server.wait().code(), Some(0));
    assert!(!path.exists(), "the file is removed");
    // One that was killed leaves its file behind; the next server takes its place.
    let mut server = Server::with_arguments(&["--listen", &listen], &[]);
    server.signal(Signal::KILL);
    server.wait();
    assert!(path.exists());
    // At once: its rings, which hold the socket, may not be gone yet.
    let server = Server::with_arguments(&["--listen", &listen], &[]);
    Client::over(UnixStream::connect(&path).unwrap(), "/ws").is_alive();
    drop(server);
}

/// The same for a port.
#[test]
fn a_killed_server_can_be_restarted_at_once() {
    let mut server = Server::start();
    let address = server.address().to_string();
    for _ in 0..5 {
        open(&server).is_alive();
        server.signal(Signal::KILL);
        server.wait();
        server = Server::with_arguments(&["--listen", &address], &[]);
    }
}

/// The umask decides who may connect; what it leaves is there from the first moment on.
#[test]
fn the_umask_decides_about_the_file_of_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    for (umask, mode) in [("0022", 0o755), ("0117", 0o660)] {
        let path = folder.path().join(umask);
        let mut command = without_settings(Command::new("sh"));
        let mut child = command
            .args(["-c", "umask $0; exec \"$@\"", umask])
            .arg(binary())
            .args(["serve", "--shards", "1", "--listen"])
            .arg(format!("unix:{}", path.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let file = eventually("the socket is there", || fs::metadata(&path).ok());
        let _ = child.kill();
        let _ = child.wait();
        assert_eq!(file.permissions().mode() & 0o777, mode);
    }
}

/// Connections are no descriptors of the process, and none of what they need stays.
#[test]
fn nothing_is_left_of_many_connections() {
    let server = Server::start();
    let descriptors = || {
        fs::read_dir(format!("/proc/{}/fd", server.pid()))
            .unwrap()
            .count()
    };
    // Without the kernel's workers, which come when a request would block, and go by themselves.
    let threads = || {
        let tasks = fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap();
        tasks
            .filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok())
            .filter(|name| !name.starts_with("iou-"))
            .count()
    };
    let mut before = None;
    for round in 0..10 {
        let mut clients: Vec<_> = (0..20).map(|_| open(&server)).collect();
        clients
            .iter_mut()
            .for_each(|client| _ = client.subscribe("c"));
        clients[0].publish("c", round);
        clients
            .iter_mut()
            .for_each(|client| _ = client.message("c"));
        // By now both shards have served somebody, so that all that they need is there.
        let now = (descriptors(), threads());
        assert_eq!(now, *before.get_or_insert(now));
        clients.iter_mut().take(10).for_each(Client::bye);
        drop(clients);
        let refused = server.exchange(b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(refused.starts_with("HTTP/1.1 404 "), "{refused}");
    }
    assert_eq!(Some((descriptors(), threads())), before);
    assert!(!server.output().contains("panicked"));
}

/// What the program prints is where it listens.
#[test]
fn the_printed_addresses_work() {
    let server = Server::start();
    for url in [server.url().to_owned(), server.at("/"), server.at("/echo")] {
        // The first address tells that the server runs; the others are printed after it.
        eventually(&format!("{url} is printed"), || {
            server
                .output()
                .lines()
                .find(|line| line.ends_with(&url))
                .map(drop)
        });
        let path = url
            .strip_prefix("ws://")
            .and_then(|rest| rest.find('/').map(|at| &rest[at..]));
        let mut client = Client::over(connect(server.address()), path.expect("a path"));
        client.socket.close(None).unwrap();
        client.closed();
    }
}

/// An application that panics.
struct Panics;

impl ringwire::app::Handler for Panics {
    fn endpoints(&self) -> Vec<ringwire::app::Endpoint> {
        vec![ringwire::app::Endpoint {
            message_bytes: 1024,
            fragments: 16,
            hears_broadcasts: false,
            form: 0,
        }]
    }

    fn upgrade(
        &mut self,
        _request: &ringwire::app::Request<'_>,
        _peer: Option<std::net::SocketAddr>,
    ) -> Result<ringwire::app::Accept, ringwire::app::Rejection> {
        panic!("a handler's own fault")
    }

    fn message(
        &mut self,
        _context: &mut ringwire::app::Context<'_>,
        _from: ringwire::app::ConnectionId,
        _message: ringwire::app::Message<'_>,
    ) {
    }
}

/// A server that went on with one shard less would leave that shard's clients waiting for ever.
#[test]
fn a_handler_that_panics_ends_the_process() {
    const INSIDE: &str = "TEST_OF_A_PANIC";
    if std::env::var_os(INSIDE).is_some() {
        let server = ringwire::Server::builder()
            .config(crate::engine::config(|_| ()))
            .handler(|_, _| Panics)
            .build();
        let running = server.and_then(ringwire::Server::start).expect("it starts");
        let ringwire::config::Listen::Tcp(address) = running.addresses()[0] else {
            panic!("it listens on TCP");
        };
        let mut client = connect(address);
        client
            .write_all(crate::raw::upgrade("/ws").as_bytes())
            .expect("it listens");
        let _ = std::io::Read::read(&mut client, &mut [0]);
        std::thread::sleep(PATIENCE);
        std::process::exit(0);
    }
    let this = std::env::current_exe().expect("the test's program");
    let name = "process::a_handler_that_panics_ends_the_process";
    let output = without_settings(Command::new(this))
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        output.status.signal(),
        Some(Signal::ABORT.as_raw()),
        "{said}"
    );
    assert!(said.contains("a handler's own fault"), "{said}");
}
