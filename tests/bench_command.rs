//! `ringwire bench` from outside, against servers of its own, servers that we did not write, and servers
//! that do something wrong.

#[path = "support/settings.rs"]
mod settings;

use settings::without_settings;
use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tungstenite::Message;

/// Exit code, standard output, standard error.
struct Output {
    code: Option<i32>,
    out: String,
    err: String,
}

fn bench(arguments: &[&str]) -> Output {
    let mut command = without_settings(Command::new(env!("CARGO_BIN_EXE_ringwire")));
    let output = command
        .arg("bench")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("the program was built");
    Output {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).expect("UTF-8"),
        err: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}

/// The result of a run that must have passed.
fn passed(arguments: &[&str]) -> Value {
    let arguments = [arguments, &["--json"]].concat();
    let output = bench(&arguments);
    assert_eq!(
        output.code,
        Some(0),
        "{arguments:?}\n{}\n{}",
        output.out,
        output.err
    );
    let result: Value = serde_json::from_str(&output.out).expect("JSON");
    assert_eq!(result["passed"], true, "{result:#}");
    assert!(!result["checks"].as_array().expect("checks").is_empty());
    result
}

fn figure(result: &Value, name: &str) -> f64 {
    let figures = result["figures"].as_array().expect("figures");
    let figure = figures.iter().find(|figure| figure["name"] == name);
    let figure = figure.unwrap_or_else(|| panic!("no {name:?} in {result:#}"));
    figure["value"].as_f64().expect("a number")
}

/// How many were timed under a name.
fn count(result: &Value, name: &str) -> u64 {
    let latencies = result["latencies"].as_array().expect("latencies");
    let latency = latencies.iter().find(|latency| latency["name"] == name);
    let latency = latency.unwrap_or_else(|| panic!("no {name:?} in {result:#}"));
    latency["count"].as_u64().expect("a number")
}

#[test]
fn idle() {
    let result = passed(&["idle", "-n", "200", "--hold", "200ms"]);
    assert_eq!(figure(&result, "connections"), 200.0);
    assert_eq!(count(&result, "connect and upgrade"), 180);
    assert!(figure(&result, "server memory in all") > 0.1);
}

#[test]
fn many_shards_keep_little_memory() {
    let result = passed(&["idle", "-n", "100", "--hold", "100ms", "--shards", "12"]);
    // With huge pages, each of them kept 6 MB.
    let megabytes = figure(&result, "server memory in all");
    assert!(megabytes < 24.0, "{megabytes} MB");
}

#[test]
fn ramp() {
    let result = passed(&["ramp", "-n", "60", "--rate", "40", "--hold", "100ms"]);
    assert_eq!(figure(&result, "connections"), 60.0);
    // 54 of them at 40 a second take 1.35 s.
    assert!(figure(&result, "54 of them connected within") >= 1.3);
}

#[test]
fn echo() {
    let result = passed(&[
        "echo",
        "-n",
        "20",
        "--duration",
        "300ms",
        "--depth",
        "4",
        "--size",
        "300",
    ]);
    assert!(figure(&result, "messages per second") > 0.0);
    assert!(count(&result, "round trip") > 0);
}

#[test]
fn echo_at_a_rate() {
    let result = passed(&["echo", "-n", "20", "--duration", "2s", "--rate", "50"]);
    let answers = count(&result, "from when it was due to the answer");
    assert!((90..=130).contains(&answers), "{answers}");
}

#[test]
fn latency() {
    let result = passed(&["latency", "-n", "5", "--rate", "50", "--duration", "3s"]);
    let parts = ["first third", "second third", "last third"].map(|part| count(&result, part));
    assert_eq!(parts.iter().sum::<u64>(), count(&result, "all of it"));
}

#[test]
fn burst() {
    let result = passed(&["burst", "-n", "100", "--rounds", "3", "--silence", "50ms"]);
    assert_eq!(count(&result, "each answer"), 300);
    assert_eq!(count(&result, "until the last answer"), 3);
}

#[test]
fn fanout() {
    let arguments = [
        "-n",
        "60",
        "--channels",
        "3",
        "--publishers",
        "2",
        "--duration",
        "300ms",
    ];
    let result = passed(&[&["fanout"], &arguments[..]].concat());
    let each = count(&result, "from publish to each subscriber");
    let last = count(&result, "from publish to the last subscriber");
    // Some may have begun before it was measured.
    assert!(last > 0 && each + 200 >= last * 20, "{each} {last}");
}

#[test]
fn slow() {
    // Six of these are more than the buffers of kernel and server hold.
    let arguments = [
        "-n",
        "8",
        "--percent",
        "25",
        "--size",
        "900000",
        "--duration",
        "2s",
    ];
    let result = passed(&[&["slow"], &arguments[..]].concat());
    assert_eq!(figure(&result, "subscribers that stopped reading"), 2.0);
    assert_eq!(figure(&result, "of these, closed by the server"), 2.0);
    assert!(count(&result, "some don't read") > 0);
}

#[test]
fn slow_readers_that_nobody_had_to_wait_for_fail_the_run() {
    let arguments = [
        "-n",
        "40",
        "--percent",
        "10",
        "--rate",
        "10",
        "--duration",
        "300ms",
    ];
    let output = bench(&[&["slow"], &arguments[..]].concat());
    assert_eq!(output.code, Some(1), "{}", output.out);
    let said = "FAILED  the server closed all that did not read: 0 of 4";
    assert!(output.out.contains(said), "{}", output.out);
    assert!(output.out.contains("publish more"), "{}", output.out);
}

#[test]
fn churn() {
    let steady = [
        "--steady-connections",
        "5",
        "--steady-rate",
        "50",
        "--duration",
        "2s",
    ];
    let churn = ["churn", "-n", "60", "--rate", "100", "--stay-ms", "100"];
    let result = passed(&[&churn[..], &steady[..]].concat());
    // More than there is room for at once: others take the places of those that left.
    assert!(figure(&result, "ended") > 60.0);
    assert!(count(&result, "steady traffic, meanwhile") > 0);
}

#[test]
fn server_and_client_on_one_core_are_said_to_be() {
    let allowed = rustix::thread::sched_getaffinity(None).expect("its own");
    let core = (0..1_024).find(|&core| allowed.is_set(core)).expect("one");
    let core = core.to_string();
    let result = passed(&[
        "storm",
        "-n",
        "9",
        "--rounds",
        "1",
        "--cores",
        &core,
        "--server-cores",
        &core,
    ]);
    assert!(
        result["notes"].to_string().contains("share cores"),
        "{result:#}"
    );
}

#[test]
fn storm() {
    let result = passed(&["storm", "-n", "150", "--rounds", "2"]);
    assert_eq!(count(&result, "connect and upgrade"), 300);
}

/// A server that takes its time for each handshake and then echoes, and how many it ever had in hand.
fn unhurried(handshake: Duration) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    let most = Arc::new(AtomicUsize::new(0));
    let (seen, now) = (Arc::clone(&most), Arc::new(AtomicUsize::new(0)));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.expect("a connection");
            let (seen, now) = (Arc::clone(&seen), Arc::clone(&now));
            thread::spawn(move || {
                seen.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                thread::sleep(handshake);
                // The client counts it until it has the answer, which is not sent yet.
                now.fetch_sub(1, Ordering::SeqCst);
                let Ok(mut socket) = tungstenite::accept(stream) else {
                    return;
                };
                while let Ok(message) = socket.read() {
                    let _ = socket.send(message);
                }
            });
        }
    });
    (address, most)
}

#[test]
fn no_more_connect_at_once_than_may() {
    for scenario in [
        "storm -n 20 --rounds 1",
        "churn -n 20 --rate 100 --stay-ms 100 --duration 1s --steady-connections 3 --steady-rate 30",
    ] {
        let (address, most) = unhurried(Duration::from_millis(100));
        let url = format!("ws://{address}/");
        let mut arguments: Vec<&str> = scenario.split(' ').collect();
        arguments.extend(["--url", &url, "--connecting", "3"]);
        let output = bench(&arguments);
        // That churn's rate cannot be reached so is said by a check of its own.
        let most = most.load(Ordering::SeqCst);
        assert!(
            (1..=3).contains(&most),
            "{scenario}: {most} at once\n{}",
            output.out
        );
        let passed = output.code == Some(0);
        assert!(
            passed || output.out.contains("FAILED  connections came at the rate"),
            "{}",
            output.out
        );
    }
}

#[test]
fn mass_disconnect() {
    let steady = [
        "--steady-connections",
        "5",
        "--steady-rate",
        "50",
        "--duration",
        "500ms",
    ];
    let result = passed(&[&["mass-disconnect", "-n", "200"], &steady[..]].concat());
    assert_eq!(figure(&result, "connections that ended at once"), 200.0);
}

#[test]
fn million_of_few() {
    let result = passed(&[
        "million",
        "-n",
        "300",
        "--hold",
        "200ms",
        "--threads",
        "3",
        "--shards",
        "2",
    ]);
    for name in [
        "publish to the own channel, and back",
        "from publish to each subscriber",
    ] {
        assert_eq!(count(&result, name), 300);
    }
    assert_eq!(figure(&result, "connections"), 300.0);
}

#[test]
fn more_than_there_is_memory_for_is_refused() {
    let output = bench(&["million", "-n", "10000000", "--hold", "1s"]);
    assert_eq!(output.code, Some(1), "{}", output.err);
    let said = output.err;
    assert!(said.contains("need 108.1 GiB of memory"), "{said}");
    assert!(said.contains("use --connections"), "{said}");
}

#[test]
fn a_report_that_cannot_be_written_is_refused_at_once() {
    let report = ["--report", "/proc/nowhere/at/all"];
    let output = bench(&[&["echo", "--duration", "1h"], &report[..]].concat());
    assert_eq!(output.code, Some(1));
    let said = output.err;
    assert!(
        said.contains("/proc/nowhere") && said.contains("No such file"),
        "{said}"
    );
}

#[test]
fn flags_that_contradict_each_other_are_refused() {
    for (flags, expected) in [
        ("fanout --failures-max 1", "every subscriber counts"),
        ("fanout --publishers 2", "--channels 1"),
        ("slow -n 5 --channels 9", "more than the 5 subscribers"),
        ("idle -n 3 --threads 4", "more than the 3 connections"),
        ("idle --threads 0", "0 is not in 1..=1024"),
        ("churn --rate 10000 --stay-ms 500", "use --connections 6250"),
    ] {
        let output = bench(&flags.split(' ').collect::<Vec<_>>());
        assert_eq!(output.code, Some(2), "{flags}");
        assert!(output.err.contains(expected), "{flags}: {}", output.err);
    }
}

#[test]
fn a_signal_ends_the_run_and_its_server() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = without_settings(Command::new(env!("CARGO_BIN_EXE_ringwire")));
    let run = command
        .args([
            "bench", "idle", "-n", "50", "--hold", "1h", "--json", "--report",
        ])
        .arg(folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    let pid = run.id();
    let children = format!("/proc/{pid}/task");
    let server = || {
        let tasks = std::fs::read_dir(&children).ok()?;
        tasks.flatten().find_map(|task| {
            let path = task.path().join("children");
            let text = std::fs::read_to_string(path).ok()?;
            text.split_whitespace().next()?.parse::<u32>().ok()
        })
    };
    let began = std::time::Instant::now();
    // When it holds them, the server has them all.
    let server = loop {
        if let Some(server) = server() {
            let held = ringwire::load::Process::new(server).and_then(|server| server.cpu());
            if held.is_ok_and(|cpu| cpu.total_ns > 0) {
                break server;
            }
        }
        assert!(began.elapsed().as_secs() < 30, "no server was started");
        thread::sleep(std::time::Duration::from_millis(20));
    };
    let pid = rustix::process::Pid::from_raw(pid as i32).expect("a process");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
    let output = run.wait_with_output().expect("it ends");
    assert!(
        !Path::new(&format!("/proc/{server}")).exists(),
        "the server was left behind"
    );
    // Before it notices signals, one ends it as any program.
    if let Some(code) = output.status.code() {
        assert_eq!(code, 1);
        let result: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert!(result.to_string().contains("interrupted"), "{result:#}");
        assert!(folder.path().join("result.json").exists());
    }
}

#[test]
fn a_report_holds_the_page_and_the_raw_data() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("some/where");
    let report = path.to_str().expect("UTF-8");
    let output = bench(&[
        "echo",
        "-n",
        "10",
        "--duration",
        "1200ms",
        "--report",
        report,
    ]);
    assert_eq!(output.code, Some(0), "{}", output.err);
    assert!(output.err.contains("index.html"), "{}", output.err);
    let read = |name: &str| std::fs::read_to_string(path.join(name)).expect("it is there");
    let page = read("index.html");
    for part in [
        "<svg",
        "Latency by percentile",
        "messages per second",
        "passed",
        "fs.file-max",
    ] {
        assert!(page.contains(part), "{part}");
    }
    assert!(!page.contains(report), "folders are nobody's business");
    assert!(
        !page.contains("http:") || page.contains("www.w3.org/2000/svg"),
        "it needs nothing else"
    );
    let result: Value = serde_json::from_str(&read("result.json")).expect("JSON");
    assert_eq!(result["scenario"], "echo");
    let samples = read("samples.csv");
    assert!(
        samples.starts_with("seconds,phase,connections,accepted"),
        "{samples}"
    );
    assert!(samples.lines().count() > 4, "{samples}");
    let answers = count(&result, "round trip");
    let timed: u64 = read("latencies.csv")
        .lines()
        .filter_map(|line| {
            line.strip_prefix("round trip,")?
                .split(',')
                .nth(1)?
                .parse::<u64>()
                .ok()
        })
        .sum();
    assert_eq!(timed, answers);
}

/// A server that we did not write: an echo by `tungstenite`, which does `to` each message.
fn echoing(to: fn(usize, Message) -> Vec<Message>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.expect("a connection");
            thread::spawn(move || {
                let Ok(mut socket) = tungstenite::accept(stream) else {
                    return;
                };
                let mut number = 0;
                while let Ok(message) = socket.read() {
                    number += 1;
                    for answer in to(number, message) {
                        let _ = socket.send(answer);
                    }
                }
            });
        }
    });
    address
}

#[test]
fn any_server_that_echoes() {
    let address = echoing(|_, message| vec![message]);
    let url = format!("ws://{address}/anything?at=all");
    let result = passed(&["echo", "--url", &url, "-n", "8", "--duration", "300ms"]);
    assert!(figure(&result, "messages per second") > 0.0);
    let figures = result["figures"].as_array().expect("figures");
    assert!(
        figures
            .iter()
            .all(|figure| figure["name"] != "server CPU per message")
    );
    passed(&[
        "burst",
        "--url",
        &url,
        "-n",
        "8",
        "--rounds",
        "2",
        "--silence",
        "10ms",
    ]);
    passed(&[
        "ramp", "--url", &url, "-n", "20", "--rate", "100", "--hold", "10ms",
    ]);
    passed(&["storm", "--url", &url, "-n", "20"]);
}

#[test]
fn a_server_that_loses_changes_or_doubles_fails_the_run() {
    type Wrong = fn(usize, Message) -> Vec<Message>;
    let changes: Wrong = |number, message| {
        let mut data = message.into_data().to_vec();
        if number == 5 {
            data[3] ^= 1;
        }
        vec![Message::binary(data)]
    };
    let doubles: Wrong = |number, message| vec![message; if number == 5 { 2 } else { 1 }];
    let closes: Wrong = |number, message| {
        vec![if number == 5 {
            Message::Close(None)
        } else {
            message
        }]
    };
    for (wrong, said) in [
        (changes, "byte 3 of message"),
        (doubles, "message"),
        (closes, "closed"),
    ] {
        let url = format!("ws://{}/", echoing(wrong));
        let output = bench(&["echo", "--url", &url, "-n", "2", "--duration", "2s"]);
        assert_eq!(output.code, Some(1), "{}", output.out);
        assert!(
            output.out.contains("FAILED") && output.out.contains(said),
            "{}",
            output.out
        );
    }
}

#[test]
fn what_cannot_be_reached_is_explained() {
    let free = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("ws://{}/", free.local_addr().expect("its address"));
    drop(free);
    let output = bench(&["idle", "--url", &url, "-n", "3", "--hold", "1s"]);
    assert_eq!(output.code, Some(1));
    assert!(
        output.out.contains("is the server running?"),
        "{}",
        output.out
    );
    // An address for documentation (RFC 5737), and one of the wrong kind.
    for (source, said) in [
        ("192.0.2.1", "no address of this machine"),
        ("::1", "IPv4 or IPv6"),
    ] {
        let output = bench(&["idle", "-n", "3", "--hold", "1s", "--source", source]);
        assert_eq!(output.code, Some(1));
        assert!(output.out.contains(said), "{}", output.out);
        assert!(!output.out.contains("port is left"), "{}", output.out);
    }
    let output = bench(&["echo", "--url", "wss://127.0.0.1/"]);
    assert_eq!(output.code, Some(2));
    assert!(output.err.contains("speaks no TLS"), "{}", output.err);
    let output = bench(&["echo", "--cores", "1023"]);
    assert_eq!(output.code, Some(2));
    assert!(
        output.err.contains("may not run on core 1023"),
        "{}",
        output.err
    );
    let output = bench(&["fanout", "--size", "5"]);
    assert_eq!(output.code, Some(2));
    assert!(output.err.contains("28"), "{}", output.err);
}

struct Stopped(Child);

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[expect(
    clippy::result_large_err,
    reason = "the callback's type is tungstenite's"
)]
fn headers_tokens_and_subprotocols_are_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("ws://{}/", listener.local_addr().expect("its address"));
    let server = thread::spawn(move || {
        let mut seen = Vec::new();
        let (stream, _) = listener.accept().expect("a connection");
        let note = |request: &tungstenite::handshake::server::Request,
                    mut response: tungstenite::handshake::server::Response| {
            for name in ["authorization", "x-room", "sec-websocket-protocol"] {
                let value = request.headers().get(name).expect(name);
                seen.push(value.to_str().expect("text").to_owned());
            }
            let chosen = "two".parse().expect("a header");
            response
                .headers_mut()
                .insert("Sec-WebSocket-Protocol", chosen);
            Ok(response)
        };
        let mut socket = tungstenite::accept_hdr(stream, note).expect("an upgrade");
        while let Ok(message) = socket.read() {
            let _ = socket.send(message);
        }
        seen
    });
    let client = [
        "--token",
        "abc",
        "--header",
        "X-Room: 7",
        "--subprotocol",
        "one",
        "--subprotocol",
        "two",
    ];
    let result = passed(
        &[
            &["echo", "--url", &url, "-n", "1", "--duration", "100ms"],
            &client[..],
        ]
        .concat(),
    );
    assert!(
        !result.to_string().contains("abc"),
        "a token is nobody's business"
    );
    assert_eq!(
        server.join().expect("it ends"),
        ["Bearer abc", "7", "one, two"]
    );
}

#[test]
fn a_running_server_is_measured_by_its_process() {
    let program = Path::new(env!("CARGO_BIN_EXE_ringwire"));
    let mut command = without_settings(Command::new(program));
    let mut server = command
        .args(["serve", "--listen", "127.0.0.1:0", "--shards", "1"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let out = server.stdout.take().expect("a pipe");
    let server = Stopped(server);
    let mut lines = BufReader::new(out).lines().map_while(Result::ok);
    let url = lines
        .find_map(|line| Some(line.strip_prefix("listening on ")?.to_owned()))
        .expect("a line says where it listens");
    let origin = url.trim_end_matches('/').to_owned();
    let pid = server.0.id().to_string();
    let arguments = ["--server-pid", &pid, "-n", "10", "--duration", "300ms"];
    let result = passed(&[&["fanout", "--url", &url], &arguments[..]].concat());
    assert!(figure(&result, "server CPU per delivery") > 0.0);
    let echo = format!("{origin}/echo");
    let result = passed(&[&["echo", "--url", &echo], &arguments[..]].concat());
    assert!(figure(&result, "server CPU per message") > 0.0);
    let missing: PathBuf = "/proc/4194305".into();
    assert!(!missing.exists(), "no process has this number");
    let output = bench(&["idle", "--url", &url, "--server-pid", "4194305"]);
    assert_eq!(output.code, Some(1));
    assert!(output.err.contains("no such process"), "{}", output.err);
}
