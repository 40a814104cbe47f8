//! Where connections go: balanced over the shards, through any listener, bounded by what fits.

use crate::client::Client;
use crate::engine::{Engine, config, connect};
use crate::raw::{Raw, frame, read_head, text, upgrade};
use crate::support::{PATIENCE, Server as Process, binary, eventually, without_settings};
use ringwire::config::Listen;
use ringwire::{Running, Server};
use serde_json::json;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

fn unix(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).expect("the server listens");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Opens many connections at once and checks that no shard has more than its share.
fn balanced<S: Read + Write>(running: &Running, connect: impl Fn() -> S) {
    const CONNECTIONS: usize = 1000;
    let mut streams: Vec<S> = (0..CONNECTIONS).map(|_| connect()).collect();
    for stream in &mut streams {
        stream.write_all(upgrade("/ws").as_bytes()).unwrap();
    }
    for stream in &mut streams {
        let mut start = [0; 12];
        stream.read_exact(&mut start).unwrap();
        assert_eq!(start, *b"HTTP/1.1 101");
    }
    let open: Vec<u64> = running
        .counters()
        .iter()
        .map(|shard| shard.open.get())
        .collect();
    assert_eq!(open.iter().sum::<u64>(), CONNECTIONS as u64);
    let mean = CONNECTIONS as u64 / open.len() as u64;
    assert!(open.iter().all(|open| *open <= mean * 11 / 10), "{open:?}");
    drop(streams);
    eventually("all are gone", || {
        (running.totals().connections == 0).then_some(())
    });
    let totals = running.totals();
    assert_eq!(totals.accepted, CONNECTIONS as u64);
    assert_eq!(totals.handed_over, totals.arrived);
    assert_eq!((totals.hand_over_errors, totals.stale_completions), (0, 0));
}

#[test]
fn a_thousand_connections_are_balanced_over_four_shards() {
    let config = config(|config| config.shards = Some(4));
    let running = Server::builder()
        .config(config)
        .build()
        .unwrap()
        .start()
        .unwrap();
    let Listen::Tcp(address) = running.addresses()[0] else {
        panic!("a TCP listener")
    };
    balanced(&running, || connect(address));
    running.stop(PATIENCE.as_millis() as u32).unwrap();
}

/// A Unix socket has no SO_REUSEPORT: all of its connections arrive at one shard.
#[test]
fn a_thousand_connections_at_one_shard_are_balanced_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let config = config(|config| {
        config.shards = Some(4);
        config.listen = vec![Listen::Unix(path.clone())];
    });
    let running = Server::builder()
        .config(config)
        .build()
        .unwrap()
        .start()
        .unwrap();
    balanced(&running, || unix(&path));
    let totals = running.totals();
    assert!(
        totals.handed_over >= 725,
        "three quarters and some leave: {}",
        totals.handed_over
    );
    running.stop(PATIENCE.as_millis() as u32).unwrap();
}

fn has_ipv6() -> bool {
    TcpListener::bind("[::1]:0").is_ok()
}

#[test]
fn several_listeners_are_one_server() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let mut engine = Engine::configured(|config| {
        config.listen.push("127.0.0.1:0".parse().unwrap());
        config.listen.push(Listen::Unix(path.clone()));
        if has_ipv6() {
            config.listen.push("[::1]:0".parse().unwrap());
        }
    });
    let addresses = engine.running().addresses().to_vec();
    let (mut tcp, mut local) = (Vec::new(), Vec::new());
    for address in &addresses {
        for _ in 0..4 {
            match address {
                Listen::Tcp(address) => tcp.push(Client::over(connect(*address), "/ws")),
                Listen::Unix(path) => local.push(Client::over(unix(path), "/ws")),
            }
        }
    }
    assert_eq!(tcp.len() + local.len(), 4 * addresses.len());
    tcp.iter_mut().for_each(|client| _ = client.subscribe("c"));
    local
        .iter_mut()
        .for_each(|client| _ = client.subscribe("c"));
    let mut expected = 0;
    let mut heard = |tcp: &mut Vec<Client<TcpStream>>, local: &mut Vec<Client<UnixStream>>| {
        expected += 1;
        for client in tcp {
            assert_eq!(client.message("c"), (expected, json!("x")));
        }
        for client in local {
            assert_eq!(client.message("c"), (expected, json!("x")));
        }
    };
    for speaker in 0..tcp.len() {
        tcp[speaker].publish("c", "x");
        heard(&mut tcp, &mut local);
    }
    for speaker in 0..local.len() {
        local[speaker].publish("c", "x");
        heard(&mut tcp, &mut local);
    }
    // Large messages, in both directions, over the Unix socket.
    let mut echo = Client::over(unix(&path), "/echo");
    let large = vec![0x77; 5 << 20];
    let (mut writer, bytes) = (
        echo.socket.get_ref().try_clone().unwrap(),
        frame(0x82, &large),
    );
    let writing = std::thread::spawn(move || writer.write_all(&bytes).unwrap());
    assert!(echo.receive() == tungstenite::Message::binary(large));
    writing.join().unwrap();
    tcp.iter_mut().for_each(Client::bye);
    local.iter_mut().for_each(Client::bye);
    echo.bye();
    engine.is_undisturbed();
    assert!(path.exists());
    engine.finish();
    assert!(!path.exists(), "the socket's file goes with the server");
}

/// More clients than fit: the rest wait in the kernel, and are served when others leave.
#[test]
fn connections_beyond_the_room_wait_and_none_is_lost() {
    let mut engine = Engine::configured(|config| config.client.connections_per_shard = Some(4));
    let mut waiting: Vec<TcpStream> = (0..40)
        .map(|_| {
            let mut stream = engine.connect();
            stream.write_all(upgrade("/ws").as_bytes()).unwrap();
            stream
                .write_all(&text(r#"{"type":"ping","id":"early"}"#))
                .unwrap();
            stream
        })
        .collect();
    // Each is served sooner or later, in whatever order the shards get to them.
    let mut served = 0;
    let deadline = std::time::Instant::now() + PATIENCE;
    while !waiting.is_empty() {
        assert!(
            std::time::Instant::now() < deadline,
            "{} are still waiting",
            waiting.len()
        );
        assert!(engine.totals().connections <= 8);
        let mut still = Vec::new();
        for mut stream in waiting {
            stream.set_nonblocking(true).unwrap();
            let readable = stream.peek(&mut [0]).is_ok_and(|bytes| bytes > 0);
            stream.set_nonblocking(false).unwrap();
            if readable {
                assert!(read_head(&mut stream).starts_with("HTTP/1.1 101 "));
                assert_eq!(
                    Raw { stream }.read_text(),
                    r#"{"type":"pong","id":"early"}"#
                );
                served += 1;
            } else {
                still.push(stream);
            }
        }
        waiting = still;
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    assert_eq!(served, 40);
    engine.is_undisturbed();
    engine.finish();
}

#[test]
fn an_address_that_is_taken_is_named() {
    let process = Process::start();
    let taken = process.authority();
    let output = without_settings(Command::new(binary()))
        .args(["serve", "--listen", taken, "--shards", "1"])
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(
        error.contains(&format!("cannot listen on {taken}")) && error.contains("ss -ltnp"),
        "{error}"
    );
    // The one that was there first is not disturbed.
    let mut client = Client::over(process.connect(), "/ws");
    client.is_alive();
}

#[test]
fn a_core_that_is_not_there_is_named() {
    let server = Server::builder().config(config(|config| config.cores = Some(vec![1000])));
    let error = server.build().err().expect("no such core").to_string();
    assert!(error.contains("1000"), "{error}");
}

/// The server says what the limit is, what it needs, and what to type.
#[test]
fn too_few_open_files_are_named() {
    for (limit, setting) in [
        ("40", None),
        (
            "500",
            Some(("RINGWIRE_CLIENT_CONNECTIONS_PER_SHARD", "100000")),
        ),
    ] {
        let output = without_settings(Command::new("sh"))
            .args(["-c", "ulimit -n \"$0\" && exec \"$@\"", limit])
            .arg(binary())
            .args(["serve", "--listen", "127.0.0.1:0", "--shards", "8"])
            .envs(setting)
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success());
        assert!(
            error.contains("LimitNOFILE=") && error.contains("ulimit -n"),
            "{error}"
        );
        assert!(!error.contains("panicked"), "{error}");
    }
}
