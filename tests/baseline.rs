//! The baselines of the benchmarks are honest peers: they answer what they get, byte for byte.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tungstenite::{Message, WebSocket};

/// A running baseline; ends with the test.
struct Baseline {
    child: Child,
    address: String,
}

impl Baseline {
    fn start(name: &str, arguments: &[&str]) -> Self {
        let mut child = Command::new(example(name))
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("cannot start {name}: {error}; build it with `cargo build --examples`")
            });
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("stdout is a pipe"))
            .read_line(&mut line)
            .expect("a line is printed at the start");
        let url = line.strip_prefix("listening on ws://").expect("the URL");
        let address = url.split('/').next().expect("host and port").to_owned();
        Self { child, address }
    }

    fn tcp(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).expect("the baseline listens");
        stream.set_nodelay(true).expect("a TCP socket");
        stream
    }

    fn connect(&self) -> WebSocket<TcpStream> {
        let url = format!("ws://{}/", self.address);
        tungstenite::client(url, self.tcp()).expect("an upgrade").0
    }
}

impl Drop for Baseline {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Cargo builds examples next to the directory of the tests.
fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the test's own path");
    let profile = test.ancestors().nth(2).expect("target/PROFILE/deps/test");
    profile.join("examples").join(name)
}

#[test]
fn echoes_every_length() {
    for trigger in ["edge", "level"] {
        let server = Baseline::start("epoll_echo", &["--trigger", trigger]);
        let mut client = server.connect();
        for length in (0..300).chain([16 * 1024, 65_535, 65_536, 70_000, 1 << 20]) {
            let sent: Vec<u8> = (0..length).map(|n| (n * 31 + length) as u8).collect();
            client
                .send(Message::binary(sent.clone()))
                .expect("it is taken");
            let back = client.read().expect("it comes back");
            assert_eq!(back, Message::binary(sent), "{length} bytes, {trigger}");
        }
    }
}

#[test]
fn many_outstanding_come_back_in_order() {
    let server = Baseline::start("epoll_echo", &[]);
    let mut client = server.connect();
    // More than the sockets hold, so that the server has to stop reading and to go on.
    let count = 2_000u32;
    let body = |n: u32| [n.to_be_bytes().repeat(1_000), vec![0; n as usize % 7]].concat();
    let mut writer = client.get_ref().try_clone().expect("a second handle");
    let mask = [1, 2, 3, 4];
    let mut frames = Vec::new();
    for n in 0..count {
        let body = body(n);
        frames.extend([0x82, 0x80 | 126]);
        frames.extend((body.len() as u16).to_be_bytes());
        frames.extend(mask);
        frames.extend(body.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m));
    }
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for piece in frames.chunks(7_919) {
                writer.write_all(piece).expect("the server reads on");
            }
        });
        for n in 0..count {
            assert_eq!(client.read().expect("an answer"), Message::binary(body(n)));
        }
    });
}

#[test]
fn pings_and_closes_are_answered() {
    for name in ["epoll_echo", "fanout_floor"] {
        let server = Baseline::start(name, &[]);
        let mut client = server.connect();
        client.send(Message::Ping("beat".into())).expect("sent");
        assert_eq!(client.read().expect("pong"), Message::Pong("beat".into()));
        client.close(None).expect("sent");
        client.flush().ok();
        // The echo baseline answers the close frame, the floor just ends the connection.
        while client.read().is_ok() {}
    }
}

#[test]
fn nonsense_ends_the_connection() {
    for name in ["epoll_echo", "fanout_floor"] {
        let server = Baseline::start(name, &[]);
        let mut stream = server.tcp();
        stream
            .write_all(b"POST / HTTP/1.1\r\nHost: a\r\n\r\n")
            .expect("sent");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert_eq!(answer, b"");
        // And others are served on.
        let _other = server.connect();
    }
}

#[test]
fn held_connections_stay() {
    let server = Baseline::start("epoll_echo", &["--hold"]);
    let mut clients: Vec<_> = (0..50).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.send(Message::text("no answer")).expect("still open");
    }
}

#[test]
fn the_floor_reaches_all_subscribers_in_order() {
    let server = Baseline::start("fanout_floor", &[]);
    let mut subscribers: Vec<_> = (0..20).map(|_| server.connect()).collect();
    for subscriber in &mut subscribers {
        let subscribe = r#"{"type":"subscribe","channel":"c","id":1}"#;
        subscriber.send(Message::text(subscribe)).expect("sent");
        let answer = subscriber.read().expect("acknowledged");
        assert_eq!(answer, Message::text(r#"{"type":"subscribed"}"#));
    }
    let mut publisher = server.connect();
    for n in 0..10 {
        let publish = format!(r#"{{"type":"publish","channel":"c","data":"number {n}"}}"#);
        publisher.send(Message::text(publish)).expect("sent");
    }
    for subscriber in &mut subscribers {
        for n in 0..10 {
            let message = subscriber.read().expect("delivered");
            assert_eq!(message, Message::text(format!("number {n}")));
        }
    }
}
