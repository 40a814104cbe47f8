//! The load generator against the baselines: what it counts is what happened, and what a server
//! does wrong is found.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use ringwire::load::{EchoPlan, FanoutPlan, Load, Plan, Process, Scenario};

const PATIENCE: Duration = Duration::from_secs(30);

struct Baseline {
    child: Child,
    address: SocketAddr,
}

impl Baseline {
    fn start(name: &str) -> Self {
        let test = std::env::current_exe().expect("the test's own path");
        let profile: PathBuf = test.ancestors().nth(2).expect("target/PROFILE").into();
        let mut child = Command::new(profile.join("examples").join(name))
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
        let address = url.split('/').next().expect("host and port");
        Self {
            child,
            address: address.parse().expect("an address"),
        }
    }
}

impl Drop for Baseline {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn echo(size_bytes: usize, outstanding: u32, rate: Option<u32>) -> Scenario {
    Scenario::Echo(EchoPlan {
        size_bytes,
        outstanding,
        rate,
    })
}

/// Lets traffic run until `messages` were counted, and closes.
fn run_until(plan: &Plan, messages: u64) -> ringwire::load::Summary {
    let load = Load::start(plan).expect("it starts");
    load.wait_ready(PATIENCE).expect("all connections open");
    load.resume();
    while load.counts().messages < messages {
        load.check().expect("no failure");
        thread::sleep(Duration::from_millis(1));
    }
    load.pause(PATIENCE).expect("all answers come");
    load.finish().expect("no failure")
}

#[test]
fn every_echo_is_counted_once() {
    let server = Baseline::start("epoll_echo");
    for (connections, size_bytes, outstanding) in [
        (1, 0, 1),
        (7, 64, 1),
        (40, 64, 16),
        (10, 2_000, 3),
        (5, 16 * 1024, 4),
        (2, 300_000, 2),
    ] {
        let scenario = echo(size_bytes, outstanding, None);
        let plan = Plan::new(server.address, "/echo", connections, scenario);
        let summary = run_until(&plan, 200);
        assert_eq!(summary.latency.count, summary.counts.messages);
        let bytes = summary.counts.messages * size_bytes as u64;
        assert_eq!(summary.counts.bytes, bytes);
    }
}

#[test]
fn several_workers_share_the_connections() {
    let server = Baseline::start("epoll_echo");
    let mut plan = Plan::new(server.address, "/echo", 50, echo(64, 2, None));
    plan.workers = 3;
    plan.spin = true;
    plan.sources = vec![[127, 0, 0, 2].into(), [127, 0, 0, 3].into()];
    assert!(run_until(&plan, 1_000).counts.messages >= 1_000);
}

#[test]
fn a_rate_is_not_exceeded() {
    let server = Baseline::start("epoll_echo");
    let plan = Plan::new(server.address, "/echo", 20, echo(64, 1, Some(500)));
    let began = std::time::Instant::now();
    let summary = run_until(&plan, 50);
    let most = began.elapsed().as_secs_f64() * 500.0 + 1.0;
    assert!(summary.counts.messages as f64 <= most);
}

#[test]
fn a_run_can_pause_and_go_on() {
    let server = Baseline::start("epoll_echo");
    let plan = Plan::new(server.address, "/echo", 10, echo(64, 4, None));
    let load = Load::start(&plan).expect("it starts");
    load.wait_ready(PATIENCE).expect("all connections open");
    let mut last = 0;
    for _ in 0..3 {
        load.resume();
        while load.counts().messages <= last + 100 {
            load.check().expect("no failure");
            thread::yield_now();
        }
        load.pause(PATIENCE).expect("all answers come");
        last = load.counts().messages;
        thread::sleep(Duration::from_millis(10));
        assert_eq!(load.counts().messages, last);
    }
}

#[test]
fn every_delivery_is_counted_once() {
    let server = Baseline::start("fanout_floor");
    for (workers, publishers, outstanding) in [(1, 1, 1), (1, 2, 16), (3, 2, 4)] {
        let fanout = FanoutPlan {
            channel: "c".to_owned(),
            publishers,
            size_bytes: 128,
            outstanding,
            publishes: Some(20),
            rate: None,
        };
        let scenario = Scenario::Fanout(fanout);
        let mut plan = Plan::new(server.address, "/ws", 32, scenario);
        plan.workers = workers;
        let load = Load::start(&plan).expect("it starts");
        load.wait_ready(PATIENCE).expect("all subscribe");
        load.resume();
        let publishes = u64::from(publishers) * 20;
        load.wait_publishes(publishes, PATIENCE).expect("delivered");
        load.pause(PATIENCE).expect("nothing is missing");
        let summary = load.finish().expect("no failure");
        assert_eq!(summary.counts.publishes, publishes);
        let subscribers = u64::from(32 - publishers);
        assert_eq!(summary.counts.messages, publishes * subscribers);
        assert_eq!(summary.latency.count, publishes);
    }
}

#[test]
fn the_servers_cost_can_be_read() {
    let server = Baseline::start("epoll_echo");
    let process = Process::new(server.child.id()).expect("it runs");
    let before = process.cpu().expect("its time");
    let plan = Plan::new(server.address, "/echo", 20, echo(64, 1, None));
    run_until(&plan, 5_000);
    assert!(process.cpu().expect("its time").since(before).total_ns > 0);
}

#[test]
fn nobody_listening_is_an_error() {
    let free = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = free.local_addr().expect("its address");
    drop(free);
    let plan = Plan::new(address, "/echo", 3, Scenario::Idle);
    let load = Load::start(&plan).expect("it starts");
    let error = load.wait_ready(PATIENCE).expect_err("nobody is there");
    assert!(format!("{error:#}").contains("cannot connect"), "{error:#}");
}

/// A server that answers each connection's bytes with what `answer` makes of them.
fn fake(answer: fn(&[u8]) -> Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(length @ 1..) = stream.read(&mut buffer) {
                    let answer = answer(&buffer[..length]);
                    if answer.is_empty() || stream.write_all(&answer).is_err() {
                        break;
                    }
                }
            });
        }
    });
    address
}

#[test]
fn what_is_no_websocket_server_is_named() {
    type Answer = fn(&[u8]) -> Vec<u8>;
    let cases: [(Answer, &str); 3] = [
        (|_| b"HTTP/1.1 404 Not Found\r\n\r\n".to_vec(), "404"),
        (|_| b"SSH-2.0-none\r\n\r\n".to_vec(), "not an HTTP"),
        (|_| Vec::new(), "closed"),
    ];
    for (answer, expected) in cases {
        let plan = Plan::new(fake(answer), "/echo", 1, Scenario::Idle);
        let load = Load::start(&plan).expect("it starts");
        let error = format!("{:#}", load.wait_ready(PATIENCE).expect_err("no upgrade"));
        assert!(error.contains(expected), "{error}");
        assert!(load.finish().is_err());
    }
}
