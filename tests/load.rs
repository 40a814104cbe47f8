//! The load generator against the baselines and the server: what it counts is what happened, and what
//! a server does wrong is found.

#[path = "support/settings.rs"]
mod settings;

use settings::without_settings;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use ringwire::load::{
    CONNECTION, ChannelGroup, ChannelsPlan, EchoPlan, Ending, FanoutPlan, Load, Plan, Process,
    Scenario, Traffic,
};

const PATIENCE: Duration = Duration::from_secs(30);

struct Baseline {
    child: Child,
    address: SocketAddr,
}

impl Baseline {
    fn start(name: &str) -> Self {
        let test = std::env::current_exe().expect("the test's own path");
        let profile: PathBuf = test.ancestors().nth(2).expect("target/PROFILE").into();
        Self::spawn(&mut Command::new(profile.join("examples").join(name)))
    }

    /// ringwire itself, with two shards that believe whom a client says it is.
    fn ringwire() -> Self {
        let mut command = Self::program();
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--shards", "2"])
            .env("RINGWIRE_USERS_TRUSTED_PEERS", "127.0.0.1")
            .env("RINGWIRE_USERS_DIRECT", "everyone");
        Self::spawn(&mut command)
    }

    /// The server's program, without what the environment says for the tests.
    fn program() -> Command {
        without_settings(Command::new(env!("CARGO_BIN_EXE_ringwire")))
    }

    fn spawn(command: &mut Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("cannot start {command:?}: {error}; build it with `cargo build --examples`")
            });
        let stdout = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
        let mut lines = stdout.lines().map_while(Result::ok);
        let url = lines
            .find_map(|line| Some(line.strip_prefix("listening on ws://")?.to_owned()))
            .expect("a line says where it listens");
        // So that it can go on to write.
        thread::spawn(move || lines.for_each(drop));
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
        rate,
        ..EchoPlan::new(size_bytes, outstanding)
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

/// Two publishers, 40 subscribers with two common channels and three of twelve others each.
fn channels(server: &Baseline, traffic: Option<Traffic>) -> Plan {
    let scenario = Scenario::Channels(ChannelsPlan {
        groups: vec![
            ChannelGroup::new("common", 2, 2),
            ChannelGroup::new("some", 12, 3),
        ],
        publishers: 2,
        size_bytes: 100,
        traffic,
        held_back: true,
    });
    let mut plan = Plan::new(server.address, "/ws", 42, scenario);
    plan.workers = 3;
    plan
}

#[test]
fn every_delivery_in_many_channels_is_counted_once() {
    let server = Baseline::ringwire();
    let traffic = Traffic {
        group: 1,
        outstanding: 20,
        rate: None,
    };
    let load = Load::start(&channels(&server, Some(traffic))).expect("it starts");
    load.wait_open(PATIENCE).expect("all connections open");
    let connects = load.lap(PATIENCE).expect("no failure").connects.summary();
    assert_eq!((load.opened(), connects.count), (42, 42));
    load.subscribe();
    load.wait_ready(PATIENCE).expect("all subscribe");
    load.resume();
    load.wait_publishes(1_000, PATIENCE).expect("delivered");
    load.pause(PATIENCE).expect("nothing is missing");
    let counts = load.counts();
    assert_eq!(counts.messages, counts.publishes * 10);
    let messages = load.lap(PATIENCE).expect("no failure").messages.summary();
    assert_eq!(messages.count, counts.messages);
    let took = load.burst(0, PATIENCE).expect("delivered");
    assert!(took > Duration::ZERO);
    let summary = load.finish().expect("no failure");
    assert_eq!(summary.counts.publishes, counts.publishes + 2);
    // Since the last lap: two channels with 40 subscribers each.
    assert_eq!(summary.latency.count, 80);
}

#[test]
fn a_burst_takes_channels_and_somebody_who_publishes() {
    let server = Baseline::ringwire();
    let groups = vec![ChannelGroup::new("c", 1, 1)];
    let scenario = Scenario::Channels(ChannelsPlan::subscribing(groups));
    let plan = Plan::new(server.address, "/ws", 2, scenario);
    for (plan, group) in [(plan, 0), (channels(&server, None), 2)] {
        let load = Load::start(&plan).expect("it starts");
        let error = format!("{:#}", load.burst(group, PATIENCE).unwrap_err());
        assert!(error.contains("takes a publisher"), "{error}");
    }
}

/// Waits until the server has `expected` connections of `user`: it counts them when it is asked to
/// deliver something to them.
fn wait_connections(server: &Baseline, user: &str, expected: u32) {
    let stream = std::net::TcpStream::connect(server.address).expect("it connects");
    let url = format!("ws://{}/ws", server.address);
    let (mut socket, _) = tungstenite::client(url, stream).expect("an upgrade");
    let question = format!(r#"{{"type":"direct","to":"{user}","data":1,"id":1}}"#);
    let expected = format!(r#""connections":{expected}}}"#);
    let began = std::time::Instant::now();
    loop {
        socket.send(question.as_str().into()).expect("it is sent");
        let answer = socket.read().expect("an answer").to_string();
        if answer.contains(&expected) {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{expected}: {answer}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn connections_have_names_and_end_as_they_are_told() {
    let server = Baseline::ringwire();
    let groups = vec![ChannelGroup::new("c", 1, 1)];
    let scenario = Scenario::Channels(ChannelsPlan::subscribing(groups));
    let mut plan = Plan::new(server.address, "/ws", 30, scenario);
    plan.headers = vec![("X-User-ID".to_owned(), "everyone".to_owned())];
    plan.first = 7;
    plan.workers = 2;
    let endings = [Ending::Reset, Ending::Close, Ending::MidMessage];
    for endings in [&endings[..1], &endings[1..2], &endings[2..], &endings] {
        plan.endings = endings.to_vec();
        let load = Load::start(&plan).expect("it starts");
        load.wait_ready(PATIENCE).expect("all connections open");
        load.finish()
            .unwrap_or_else(|error| panic!("{endings:?}: {error:#}"));
        wait_connections(&server, "everyone", 0);
    }
    plan.headers[0].1 = format!("u{CONNECTION}");
    plan.scenario = Scenario::Idle;
    let load = Load::start(&plan).expect("it starts");
    load.wait_ready(PATIENCE).expect("all connections open");
    for nobody in ["u000006", "u000037"] {
        wait_connections(&server, nobody, 0);
    }
    load.check().expect("nobody was told anything");
    // An idle connection expects no message, and says so.
    wait_connections(&server, "u000036", 1);
    let error = load
        .pause(PATIENCE)
        .and_then(|()| load.finish().map(|_| ()));
    let error = format!("{:#}", error.expect_err("it was told something"));
    assert!(error.contains("idle connection"), "{error}");
}

#[test]
fn connections_come_at_a_rate() {
    let server = Baseline::ringwire();
    let mut plan = Plan::new(server.address, "/ws", 40, Scenario::Idle);
    plan.connect_rate = Some(200);
    plan.workers = 2;
    let load = Load::start(&plan).expect("it starts");
    let took = load.wait_ready(PATIENCE).expect("all connections open");
    assert!(took >= Duration::from_millis(190), "{took:?}");
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

/// A server that upgrades, and hangs up on the first bytes that it gets.
fn impolite() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut socket =
                tungstenite::accept(stream.expect("a connection")).expect("an upgrade");
            thread::spawn(move || {
                let _ = socket.get_mut().read(&mut [0; 4096]);
            });
        }
    });
    address
}

#[test]
fn last_words_that_are_not_answered_are_noticed() {
    let address = impolite();
    for (ending, fails) in [
        (Ending::Reset, false),
        (Ending::Close, true),
        (Ending::MidMessage, true),
    ] {
        let mut plan = Plan::new(address, "/ws", 3, Scenario::Idle);
        plan.endings = vec![ending];
        let load = Load::start(&plan).expect("it starts");
        load.wait_ready(PATIENCE).expect("all connections open");
        assert_eq!(load.finish().is_err(), fails, "{ending:?}");
    }
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

#[test]
fn connections_come_and_go() {
    let server = Baseline::ringwire();
    let groups = vec![ChannelGroup::new("c", 4, 2)];
    for scenario in [
        Scenario::Idle,
        Scenario::Channels(ChannelsPlan::subscribing(groups)),
    ] {
        let mut plan = Plan::new(server.address, "/ws", 12, scenario);
        plan.stay_ms = Some(20);
        plan.workers = 2;
        plan.endings = vec![Ending::Close, Ending::Reset, Ending::MidMessage];
        plan.headers = vec![("X-User-ID".to_owned(), "everyone".to_owned())];
        let load = Load::start(&plan).expect("it starts");
        while load.live().left < 100 {
            load.check().expect("no failure");
            thread::sleep(Duration::from_millis(1));
        }
        let live = load.live();
        assert!(live.ready <= 12 && live.opened >= 100, "{live:?}");
        load.finish().expect("no failure");
        wait_connections(&server, "everyone", 0);
    }
}

#[test]
fn farewells_that_are_not_answered_are_noticed_while_others_come() {
    let mut plan = Plan::new(impolite(), "/ws", 3, Scenario::Idle);
    plan.stay_ms = Some(1);
    plan.endings = vec![Ending::Close];
    let load = Load::start(&plan).expect("it starts");
    let began = std::time::Instant::now();
    while load.check().is_ok() {
        assert!(began.elapsed() < PATIENCE, "{:?}", load.live());
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn some_connections_may_fail() {
    // Every other connection is refused.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    thread::spawn(move || {
        let mut open = Vec::new();
        for (number, stream) in listener.incoming().enumerate() {
            let mut stream = stream.expect("a connection");
            if number % 2 == 0 {
                open.extend(tungstenite::accept(stream));
            } else {
                let _ = stream.read(&mut [0; 1024]);
                let _ = stream.write_all(b"HTTP/1.1 503 Busy\r\n\r\n");
            }
        }
    });
    let mut plan = Plan::new(address, "/ws", 10, Scenario::Idle);
    plan.connecting = 1;
    plan.failures_max = 5;
    let load = Load::start(&plan).expect("it starts");
    load.wait_ready(PATIENCE).expect("five may fail");
    let live = load.live();
    assert_eq!((live.ready, live.failed), (5, 5));
    let reason = load.first_failure().expect("a reason");
    assert!(reason.contains("503"), "{reason}");
    load.finish().expect("five may fail");
    plan.failures_max = 4;
    let load = Load::start(&plan).expect("it starts");
    assert!(load.wait_ready(PATIENCE).is_err());
}

#[test]
fn those_who_stop_reading_are_cut_and_that_is_no_failure() {
    let mut server = Baseline::program();
    server.args(["serve", "--listen", "127.0.0.1:0", "--shards", "1"]);
    server.args(["--message-limit", "65536", "--outbox-limit", "131072"]);
    let server = Baseline::spawn(&mut server);
    let group = || vec![ChannelGroup::new("c", 1, 1)];
    let scenario = Scenario::Channels(ChannelsPlan {
        size_bytes: 60_000,
        ..ChannelsPlan::subscribing(group())
    });
    let mut plan = Plan::new(server.address, "/ws", 3, scenario);
    plan.stall = true;
    let stalled = Load::start(&plan).expect("it starts");
    stalled.wait_ready(PATIENCE).expect("they subscribe");
    let scenario = Scenario::Channels(ChannelsPlan {
        groups: group(),
        publishers: 1,
        size_bytes: 60_000,
        traffic: Some(Traffic {
            group: 0,
            outstanding: 4,
            rate: None,
        }),
        held_back: false,
    });
    let load = Load::start(&Plan::new(server.address, "/ws", 3, scenario)).expect("it starts");
    load.wait_ready(PATIENCE).expect("they subscribe");
    load.resume();
    // Far more than the buffers of a socket hold.
    load.wait_publishes(400, PATIENCE)
        .expect("those who read are not bothered");
    load.pause(PATIENCE).expect("nothing is missing");
    load.finish().expect("no failure");
    stalled.drain();
    let began = std::time::Instant::now();
    while stalled.live().cut < 3 {
        stalled.check().expect("being cut is no failure");
        assert!(began.elapsed() < PATIENCE, "{:?}", stalled.live());
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(stalled.live().ready, 0);
    stalled.finish().expect("no failure");
}

#[test]
fn everyone_says_something_and_hears_it() {
    let server = Baseline::ringwire();
    let scenario = Scenario::Channels(ChannelsPlan {
        groups: vec![
            ChannelGroup::new("own", 40, 1),
            ChannelGroup::new("all", 1, 1),
        ],
        publishers: 1,
        size_bytes: 64,
        traffic: None,
        held_back: false,
    });
    let mut plan = Plan::new(server.address, "/ws", 41, scenario);
    plan.workers = 3;
    let load = Load::start(&plan).expect("it starts");
    load.wait_ready(PATIENCE).expect("all subscribe");
    for round in 1..=3 {
        load.everyone(0, PATIENCE).expect("all hear themselves");
        assert_eq!(load.counts().messages, round * 40);
    }
    load.burst(1, PATIENCE).expect("all hear it");
    assert_eq!(load.counts().messages, 160);
    assert!(load.everyone(2, PATIENCE).is_err());
    load.finish().expect("no failure");
}

#[test]
fn each_run_has_its_messages() {
    let server = Baseline::start("epoll_echo");
    let scenario = Scenario::Echo(EchoPlan {
        messages: Some(3),
        ..EchoPlan::new(64, 2)
    });
    let mut plan = Plan::new(server.address, "/echo", 10, scenario);
    plan.workers = 2;
    let load = Load::start(&plan).expect("it starts");
    load.wait_ready(PATIENCE).expect("all connections open");
    for run in 1..=3 {
        load.resume();
        load.wait_messages(run * 30, PATIENCE).expect("they come");
        load.pause(PATIENCE).expect("no more is on the way");
        assert_eq!(load.counts().messages, run * 30);
    }
    load.finish().expect("no failure");
}
