//! `ringwire bench`: what a server does under load.

use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use clap::{Args, Subcommand, ValueEnum};
use url::Url;

use super::{FAILURE, USAGE, print};
use crate::load::bench::{
    Bench, Clients, Echoes, Options, Own, Publishes, Running, Steady, Target, Tun, prepare_report,
    run, this_program, write_report,
};
use crate::load::tun::Device;
use crate::topology::{Machine, Shared, raise_nofile};

/// How `ringwire bench` ends, for its help.
pub(super) const ENDING: &str = "\
Without --url a server of its own is started for the run, on some of the cores, and the clients use the others. The \
clients check every byte, order and count.

Exit codes: 0 everything that was checked held; 1 something did not, or the run could not begin; 2 wrong flags.";

/// Who has several addresses is tried at each for so long.
const ANSWER: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub(super) struct BenchCommand {
    #[command(subcommand)]
    scenario: ScenarioFlags,
}

/// What happens.
#[derive(Debug, Subcommand)]
enum ScenarioFlags {
    /// Open connections and hold them: memory, and processor time while nothing is said
    Idle {
        /// How long they are held once all are open
        #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
        hold: Duration,
        #[command(flatten)]
        common: Common,
    },
    /// Open connections at a steady rate: how long each takes
    Ramp {
        /// New connections per second
        #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        rate: u32,
        /// How long they are held once all are open
        #[arg(long, default_value = "2s", value_parser = humantime::parse_duration)]
        hold: Duration,
        #[command(flatten)]
        common: Common,
    },
    /// Messages that come back, as fast as they do or at a rate
    Echo {
        #[command(flatten)]
        size: Size,
        /// Messages that each connection has on the way
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_024))]
        depth: u32,
        /// Messages per second in all; latencies then count from when a message was due
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
        rate: Option<u32>,
        #[command(flatten)]
        time: Time,
        #[command(flatten)]
        common: Common,
    },
    /// Messages that come back, at a rate, over minutes: whether it gets slower
    Latency {
        #[command(flatten)]
        size: Size,
        /// Messages per second in all
        #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
        rate: u32,
        #[command(flatten)]
        time: Time,
        #[command(flatten)]
        common: Common,
    },
    /// Silence, then a message on every connection at once
    Burst {
        #[command(flatten)]
        size: Size,
        /// How long the silence lasts
        #[arg(long, default_value = "2s", value_parser = humantime::parse_duration)]
        silence: Duration,
        /// How often
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        rounds: u32,
        #[command(flatten)]
        common: Common,
    },
    /// Publishes to subscribers: until each has it, and until the last one has
    Fanout {
        #[command(flatten)]
        publishes: PublishFlags,
        #[command(flatten)]
        time: Time,
        #[command(flatten)]
        common: Common,
    },
    /// Some subscribers stop reading: what the others notice
    Slow {
        /// Of a hundred subscribers, how many stop
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=99))]
        percent: u32,
        #[command(flatten)]
        publishes: PublishFlags,
        #[command(flatten)]
        time: Time,
        #[command(flatten)]
        common: Common,
    },
    /// Connections come and go, beside others with steady traffic
    Churn {
        /// New connections per second
        #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        rate: u32,
        /// How long each stays, in milliseconds
        #[arg(long, default_value_t = 500)]
        stay_ms: u32,
        #[command(flatten)]
        steady: SteadyFlags,
        #[command(flatten)]
        common: Common,
    },
    /// All connections are cut, and all come back at once
    Storm {
        /// How often
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        rounds: u32,
        #[command(flatten)]
        common: Common,
    },
    /// Connections with a channel of their own and a common one: established, held with heartbeats, heard
    /// once each, told one thing at once, gone; with a verdict. scripts/million makes room for a million
    Million {
        /// How long they are held
        #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
        hold: Duration,
        #[command(flatten)]
        ends: EndFlags,
        #[command(flatten)]
        common: Common,
    },
    /// All connections end at once, beside others with steady traffic
    MassDisconnect {
        #[command(flatten)]
        steady: SteadyFlags,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Clone, Copy, Debug, Args)]
struct EndFlags {
    /// What the clients are
    #[arg(long, value_enum, default_value = "sockets", help_heading = "Clients")]
    clients: ClientEnds,
    /// With --clients tun: packets for the clients that the device holds; more are lost and sent again [default:
    /// 100,000]
    #[arg(long, value_name = "PACKETS", value_parser = clap::value_parser!(u32).range(1..=500_000), help_heading = "Clients")]
    tun_queue: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ClientEnds {
    /// Sockets of this machine: they take as much kernel memory as the server's
    Sockets,
    /// In user space, behind a TUN device: the kernel has the server's end only. Takes root and /dev/net/tun
    Tun,
}

#[derive(Clone, Copy, Debug, Args)]
struct Size {
    /// Length of a message, in bytes
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(0..=16 << 20))]
    size: u32,
}

#[derive(Clone, Copy, Debug, Args)]
struct Time {
    /// How long it is measured [default: 10s; latency: 2m]
    #[arg(long, value_parser = humantime::parse_duration)]
    duration: Option<Duration>,
}

impl Time {
    fn or(self, seconds: u64) -> Duration {
        self.duration.unwrap_or(Duration::from_secs(seconds))
    }
}

#[derive(Clone, Copy, Debug, Args)]
struct PublishFlags {
    /// Channels among which the subscribers are dealt out
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    channels: u32,
    /// Connections that publish
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    publishers: u32,
    /// Publishes per second of each publisher [default: the next one when all have the one before]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Publishes that a publisher has on the way at most [default: 1, with --rate 1024]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_024))]
    depth: Option<u32>,
    /// Length of a published string, in bytes [default: 128; slow: 16,384]
    #[arg(long, value_parser = clap::value_parser!(u32).range(28..=1 << 20))]
    size: Option<u32>,
}

impl PublishFlags {
    fn with(self, size: u32, duration: Duration) -> Publishes {
        Publishes {
            channels: self.channels,
            publishers: self.publishers,
            size_bytes: self.size.unwrap_or(size) as usize,
            rate: self.rate,
            depth: self
                .depth
                .unwrap_or(if self.rate.is_some() { 1_024 } else { 1 }),
            duration,
        }
    }
}

#[derive(Clone, Copy, Debug, Args)]
struct SteadyFlags {
    /// Connections with steady traffic
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=19_000))]
    steady_connections: u32,
    /// Messages per second in all that these send, and get back
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..))]
    steady_rate: u32,
    /// How long it is measured, once in quiet and once with what happens
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    duration: Duration,
}

impl From<SteadyFlags> for Steady {
    fn from(flags: SteadyFlags) -> Self {
        Self {
            connections: flags.steady_connections,
            rate: flags.steady_rate,
            duration: flags.duration,
        }
    }
}

/// What every scenario takes. (No defaults by a constant of the type: clap keeps the first one for all.)
#[derive(Clone, Debug, Args)]
struct Common {
    /// Connections [default: 100 for echo and latency; 1,000 for burst, fanout and slow; 2,000 for churn;
    /// 1,000,000 for million; 10,000 for the others]
    #[arg(short = 'n', long, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    connections: Option<u32>,
    #[command(flatten)]
    others: Others,
}

#[derive(Clone, Debug, Args)]
struct Others {
    /// A server that runs already, ws://HOST:PORT/PATH [default: one of its own is started]
    #[arg(long, help_heading = "Server")]
    url: Option<String>,
    /// Its process on this machine: memory and processor time are measured, too
    #[arg(long, value_name = "PID", requires = "url", help_heading = "Server")]
    server_pid: Option<u32>,
    /// Cores for the shards of the own server, such as 0-3 or 0,2 [default: a hardware thread of each of the
    /// first half of the physical cores, or of those that the clients do not have]
    #[arg(long, value_name = "LIST", value_parser = cores, conflicts_with = "url", help_heading = "Server")]
    server_cores: Option<Cores>,
    /// Shards of the own server [default: one for each of its cores; more if the limit of open files
    /// asks for it]
    #[arg(
        long,
        value_name = "N",
        conflicts_with = "url",
        help_heading = "Server"
    )]
    shards: Option<usize>,
    /// Cores for the clients, such as 4-7 [default: a hardware thread of each physical core that the server
    /// does not have]
    #[arg(long, value_name = "LIST", value_parser = cores, help_heading = "Clients")]
    cores: Option<Cores>,
    /// Client threads, each with a ring of its own [default: one for each 19,000 connections, and where
    /// messages are counted, one for each of the clients' cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_024), help_heading = "Clients")]
    threads: Option<u32>,
    /// An address of this machine to connect from; can be repeated. One has some 28,000 ports to a server
    #[arg(long, value_name = "ADDRESS", help_heading = "Clients")]
    source: Vec<IpAddr>,
    /// Handshakes in flight for each client thread [default: 64; 1,024 for churn and when a storm comes back]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4_096), help_heading = "Clients")]
    connecting: Option<u32>,
    /// Another header of the upgrade request; can be repeated
    #[arg(long, value_name = "NAME: VALUE", value_parser = header, help_heading = "Clients")]
    header: Vec<(String, String)>,
    /// A subprotocol to offer; can be repeated
    #[arg(long, value_name = "NAME", help_heading = "Clients")]
    subprotocol: Vec<String>,
    /// A token to send as `Authorization: Bearer`; in no output
    #[arg(long, value_name = "TOKEN", help_heading = "Clients")]
    token: Option<String>,
    /// Connections that may fail before the run does
    #[arg(long, default_value_t = 0, help_heading = "Clients")]
    failures_max: u32,
    /// Let the clients sleep while they wait, even on cores of their own: the server then pays for waking
    /// them
    #[arg(long, help_heading = "Clients")]
    no_spin: bool,
    /// Write a page with plots, and the raw data, into this folder
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    report: Option<PathBuf>,
    /// Print JSON
    #[arg(long, help_heading = "Output")]
    json: bool,
}

/// A list of cores.
#[derive(Clone, Debug)]
struct Cores(Vec<usize>);

fn cores(text: &str) -> Result<Cores, String> {
    crate::config::cores::parse(text).map(Cores)
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("write it as `Name: value`")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

impl ScenarioFlags {
    fn take(self) -> (Bench, u32, Others) {
        match self {
            Self::Idle { hold, common } => (
                Bench::Idle { hold },
                common.connections.unwrap_or(10_000),
                common.others,
            ),
            Self::Ramp { rate, hold, common } => (
                Bench::Ramp { rate, hold },
                common.connections.unwrap_or(10_000),
                common.others,
            ),
            Self::Echo {
                size,
                depth,
                rate,
                time,
                common,
            } => {
                let echoes = Echoes {
                    size_bytes: size.size as usize,
                    depth,
                    rate,
                    duration: time.or(10),
                };
                (
                    Bench::Echo(echoes),
                    common.connections.unwrap_or(100),
                    common.others,
                )
            }
            Self::Latency {
                size,
                rate,
                time,
                common,
            } => {
                let size_bytes = size.size as usize;
                let duration = time.or(120);
                let bench = Bench::Latency {
                    size_bytes,
                    rate,
                    duration,
                };
                (bench, common.connections.unwrap_or(100), common.others)
            }
            Self::Burst {
                size,
                silence,
                rounds,
                common,
            } => {
                let size_bytes = size.size as usize;
                let bench = Bench::Burst {
                    size_bytes,
                    silence,
                    rounds,
                };
                (bench, common.connections.unwrap_or(1_000), common.others)
            }
            Self::Fanout {
                publishes,
                time,
                common,
            } => {
                let publishes = publishes.with(128, time.or(10));
                (
                    Bench::Fanout(publishes),
                    common.connections.unwrap_or(1_000),
                    common.others,
                )
            }
            Self::Slow {
                percent,
                publishes,
                time,
                common,
            } => {
                // As much as makes the kernel's buffers and the server's outbox overflow in that time.
                let publishes = publishes.with(16_384, time.or(10));
                let bench = Bench::Slow { percent, publishes };
                (bench, common.connections.unwrap_or(1_000), common.others)
            }
            Self::Churn {
                rate,
                stay_ms,
                steady,
                common,
            } => {
                let steady = steady.into();
                let bench = Bench::Churn {
                    rate,
                    stay_ms,
                    steady,
                };
                (bench, common.connections.unwrap_or(2_000), common.others)
            }
            Self::Million { hold, ends, common } => {
                let queue = ends.tun_queue.unwrap_or(Device::QUEUE);
                let tun = (ends.clients == ClientEnds::Tun).then_some(Tun { queue });
                (
                    Bench::Million { hold, tun },
                    common.connections.unwrap_or(1_000_000),
                    common.others,
                )
            }
            Self::Storm { rounds, common } => (
                Bench::Storm { rounds },
                common.connections.unwrap_or(10_000),
                common.others,
            ),
            Self::MassDisconnect { steady, common } => {
                let bench = Bench::MassDisconnect {
                    steady: steady.into(),
                };
                (bench, common.connections.unwrap_or(10_000), common.others)
            }
        }
    }
}

impl ScenarioFlags {
    /// What its own flags have to do with each other.
    fn check(&self) -> anyhow::Result<()> {
        if let Self::Million { ends, .. } = self
            && ends.tun_queue.is_some()
            && ends.clients != ClientEnds::Tun
        {
            bail!("--tun-queue: sockets have no such queue; it is for --clients tun");
        }
        Ok(())
    }
}

pub(super) fn execute(command: BenchCommand) -> anyhow::Result<ExitCode> {
    let checked = command.scenario.check();
    let (scenario, connections, others) = command.scenario.take();
    let (report, json) = (others.report.clone(), others.json);
    let options = match checked.and_then(|()| options(scenario, connections, others)) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("ringwire bench: {error:#}");
            return Ok(ExitCode::from(USAGE));
        }
    };
    // A ring holds as many sockets as the soft limit says, which may be 1,024.
    raise_nofile();
    if let Some(folder) = &report {
        // Better now than after a long run.
        prepare_report(folder).map_err(|error| anyhow!("{error:#}"))?;
    }
    let outcome = run(&options).map_err(|error| anyhow!("{error:#}"))?;
    if json {
        print(&format!("{}\n", serde_json::to_string_pretty(&outcome)?))?;
    } else {
        print(&outcome.text())?;
    }
    if let Some(folder) = report {
        write_report(&outcome, &folder).map_err(|error| anyhow!("{error:#}"))?;
        eprintln!("report    {}", folder.join("index.html").display());
    }
    Ok(if outcome.passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FAILURE)
    })
}

/// What the flags of a scenario have to do with each other.
fn check(scenario: Bench, connections: u32, others: &Others) -> anyhow::Result<()> {
    if scenario.speaks_ringwire() && others.failures_max > 0 {
        bail!(
            "--failures-max: here every subscriber counts; it is for scenarios without publishes"
        );
    }
    if let Some(threads) = others.threads.filter(|threads| *threads > connections) {
        bail!("--threads {threads}: more than the {connections} connections");
    }
    if scenario.tun().is_some() && (others.threads.is_some() || !others.source.is_empty()) {
        bail!(
            "--clients tun: one thread has all of them, on addresses of their own; leave out --threads and --source"
        );
    }
    match scenario {
        Bench::Fanout(publishes) | Bench::Slow { publishes, .. } => {
            if publishes.publishers > publishes.channels {
                bail!(
                    "--publishers {}: each has channels of its own, and there are --channels {}",
                    publishes.publishers,
                    publishes.channels
                );
            }
            if publishes.channels > connections {
                bail!(
                    "--channels {}: more than the {connections} subscribers",
                    publishes.channels
                );
            }
        }
        Bench::Churn { rate, stay_ms, .. } => {
            let needed = u64::from(rate) * u64::from(stay_ms) / 1_000;
            if needed > connections.into() {
                bail!(
                    "--rate {rate} with --stay-ms {stay_ms} takes {needed} connections at a time; use \
                     --connections {}",
                    needed + needed / 4
                );
            }
        }
        _ => {}
    }
    Ok(())
}

fn options(scenario: Bench, connections: u32, others: Others) -> anyhow::Result<Options> {
    check(scenario, connections, &others)?;
    let machine = Machine::detect()?;
    let allowed = machine.allowed();
    let given = |cores: Option<Cores>| cores.map(|Cores(list)| list);
    for core in others
        .cores
        .iter()
        .chain(&others.server_cores)
        .flat_map(|cores| &cores.0)
    {
        if !allowed.contains(core) {
            bail!("this process may not run on core {core}; it may on {allowed:?}");
        }
    }
    let local = others.url.is_none();
    let (server_cores, given) = (given(others.server_cores), given(others.cores));
    let sides = machine.sides(server_cores.as_deref(), given.as_deref());
    // A server that runs already is where it is, perhaps on another machine.
    let cores = match given {
        None if !local => allowed.clone(),
        _ => sides.clients,
    };
    let notes: Vec<String> = note(sides.shared).filter(|_| local).into_iter().collect();
    let server = match &others.url {
        Some(url) => Target::Running(running(url, others.server_pid)?),
        None => Target::Own(Own {
            program: this_program()?,
            cores: sides.server,
            shards: others.shards,
            config: String::new(),
        }),
    };
    let mut headers = others.header;
    headers.extend(
        others
            .token
            .map(|token| ("Authorization".to_owned(), format!("Bearer {token}"))),
    );
    let subprotocols = (!others.subprotocol.is_empty()).then(|| others.subprotocol.join(", "));
    Ok(Options {
        server,
        clients: Clients {
            connections,
            threads: others.threads,
            cores,
            sources: others.source,
            connecting: others.connecting,
            headers,
            subprotocols,
            failures_max: others.failures_max,
            spin: local && sides.shared == Shared::Nothing && !others.no_spin,
        },
        scenario,
        notes,
        report: others.report,
        progress: std::io::IsTerminal::is_terminal(&std::io::stderr()),
    })
}

/// What has to be said beside the figures when server and clients are not apart.
fn note(shared: Shared) -> Option<String> {
    let what = match shared {
        Shared::Nothing => return None,
        Shared::Cores => {
            "server and clients are on hardware threads of the same physical core (SMT siblings), where each \
             slows the other down"
        }
        Shared::Threads => "server and clients share cores, and wait for each other",
    };
    Some(format!(
        "{what}: compare figures only with others of this kind (--server-cores and --cores choose)"
    ))
}

/// The server that a URL names.
fn running(text: &str, pid: Option<u32>) -> anyhow::Result<Running> {
    let url = Url::parse(text).with_context(|| format!("--url {text}"))?;
    match url.scheme() {
        "ws" => {}
        "wss" => bail!(
            "--url {text}: the load generator speaks no TLS; measure the plain listener behind it \
             (`ringwire probe` speaks TLS)"
        ),
        other => bail!("--url {text}: the scheme is {other}, not ws"),
    }
    let host = url
        .host_str()
        .with_context(|| format!("--url {text}: it names no host"))?;
    let port = url.port_or_known_default().unwrap_or(80);
    let name = host.trim_start_matches('[').trim_end_matches(']');
    let addresses: Vec<SocketAddr> = (name, port)
        .to_socket_addrs()
        .with_context(|| format!("--url {text}: cannot find {name}"))?
        .collect();
    // A name may have several, of which the server has one: `localhost` is 127.0.0.1 and ::1.
    let answers = |address: &&SocketAddr| TcpStream::connect_timeout(address, ANSWER).is_ok();
    let address = match addresses.as_slice() {
        [] => bail!("--url {text}: {name} has no address"),
        [one] => *one,
        [first, ..] => *addresses.iter().find(answers).unwrap_or(first),
    };
    let query = url
        .query()
        .map_or_else(String::new, |query| format!("?{query}"));
    Ok(Running {
        address,
        host: format!("{host}:{port}"),
        path: format!("{}{query}", url.path()),
        pid,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_has_its_own_defaults() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            bench: BenchCommand,
        }
        for (name, expected) in [
            ("idle", 10_000),
            ("echo", 100),
            ("fanout", 1_000),
            ("churn", 2_000),
            ("million", 1_000_000),
        ] {
            let line = <Line as clap::Parser>::try_parse_from(["bench", name]).ok();
            let (scenario, connections, _) = line.unwrap().bench.scenario.take();
            assert_eq!((scenario.name(), connections), (name, expected));
        }
    }

    #[test]
    fn a_url_says_where_the_server_is() {
        let server = running("ws://127.0.0.1:9000/chat?room=1", None).unwrap();
        assert_eq!(server.address, ([127, 0, 0, 1], 9000).into());
        assert_eq!(
            (&*server.host, &*server.path),
            ("127.0.0.1:9000", "/chat?room=1")
        );
        let server = running("ws://[::1]", Some(1)).unwrap();
        assert_eq!(server.address, "[::1]:80".parse().unwrap());
        assert_eq!((&*server.host, &*server.path), ("[::1]:80", "/"));
    }

    #[test]
    fn what_is_no_such_url_is_refused() {
        for (url, word) in [
            ("wss://127.0.0.1/", "TLS"),
            ("http://127.0.0.1/", "http"),
            ("127.0.0.1:9000", "127.0.0.1:9000"),
        ] {
            let error = format!("{:#}", running(url, None).unwrap_err());
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn headers_have_a_name_and_a_value() {
        let given = header("X-User-ID:  a:b ").unwrap();
        assert_eq!(given, ("X-User-ID".to_owned(), "a:b".to_owned()));
        assert!(header("nothing").is_err());
    }
}
