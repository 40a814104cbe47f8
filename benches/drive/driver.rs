//! Measures a server beside its baselines; the scripts `scripts/bench-*` call it.
//!
//! Every command starts its servers itself, pins them to one core and the client to another, runs
//! baseline and server in interleaved rounds, and compares medians of the same run. See
//! `docs/benchmarking.md`.

mod compare;
mod control;
mod crowd;
mod disconnect;
mod echo;
mod fanout;
mod hold;
mod idle;
mod machine;
mod measure;
mod memory;
mod report;
mod server;
mod shards;
mod spread;
mod subscriptions;
mod syscalls;
mod waves;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};

use measure::Setup;
use server::Launch;

/// A shard's table of descriptors holds 20,000 on an ordinary machine; balance needs some room.
const CONNECTIONS_PER_SHARD: u32 = 17_000;

#[derive(Parser)]
#[command(about = "Measures ringwire beside its baselines")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    options: Options,
}

#[derive(Args)]
struct Options {
    /// The server's program [default: ringwire, beside the directory of this program].
    #[arg(long, global = true)]
    server: Option<PathBuf>,
    /// Measure the baseline against itself: how much of a ratio is noise.
    #[arg(long, global = true)]
    self_check: bool,
    /// One short round of everything, small: shows that it works, not how fast.
    #[arg(long, global = true)]
    quick: bool,
    /// Interleaved rounds per case [default: 5; 1 with --quick].
    #[arg(long, global = true)]
    rounds: Option<u32>,
    /// Length of a window, in seconds [default: 3; 0.3 with --quick].
    #[arg(long, global = true)]
    seconds: Option<f64>,
    /// Only cases whose name contains this.
    #[arg(long, global = true)]
    only: Option<String>,
    /// The server's core.
    #[arg(long, global = true, default_value_t = 0)]
    server_core: usize,
    /// The client's core.
    #[arg(long, global = true, default_value_t = 1)]
    client_core: usize,
    /// Where raw data goes.
    #[arg(long, global = true, default_value = "target/bench")]
    out: PathBuf,
    /// Fail (exit code 1) when a figure is not reached.
    #[arg(long, global = true)]
    strict: bool,
}

#[derive(Clone, Subcommand)]
enum Command {
    /// Echo: processor time per message, system calls, latency; handshakes.
    Echo,
    /// Fan-out: processor time per delivery, deliveries per second.
    Fanout,
    /// Memory of idle connections: user and kernel.
    Idle,
    /// A connected crowd beside bare sockets: memory, heartbeats, a message to all.
    Crowd {
        /// Connections; one shard, or one process of the baseline, for each 17,000.
        #[arg(long, default_value_t = 100_000)]
        connections: u32,
        /// Seconds between two heartbeats of a connection.
        #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u32).range(1..=3_600))]
        heartbeat: u32,
    },
    /// Other servers beside ringwire: cost of messages and handshakes, memory, latency.
    Compare(compare::Options),
    /// Two shards against one: user time per message.
    Shards,
    /// 100,000 connections to one process, one message to all.
    Hold {
        /// Connections; the server gets one shard per 17,000, six for 100,000.
        #[arg(long, default_value_t = 100_000)]
        connections: u32,
    },
    /// A million subscriptions over a hundred thousand channels, and publishes to them.
    Subscriptions {
        /// Connections that subscribe.
        #[arg(long, default_value_t = 10_000)]
        connections: u32,
        /// Subscriptions of each.
        #[arg(long, default_value_t = 100)]
        each: u32,
        /// Channels among which they are dealt out: a multiple of the subscriptions of each.
        #[arg(long, default_value_t = 100_000)]
        channels: u32,
        /// The server's shards: one on its core, or several on all cores.
        #[arg(long, default_value_t = 1)]
        shards: usize,
    },
    /// One large channel against many small ones with the same subscribers: time to the last delivery.
    Spread {
        /// Subscribers; the server gets one shard per 17,000, at least two.
        #[arg(long, default_value_t = 25_000)]
        connections: u32,
        /// Small channels.
        #[arg(long, default_value_t = 50)]
        channels: u32,
    },
    /// Thousands of subscribers disconnect at once: what others notice.
    Disconnect {
        /// Connections that disconnect.
        #[arg(long, default_value_t = 10_000)]
        connections: u32,
        /// The server's shards: one on its core, or several on all cores.
        #[arg(long, default_value_t = 1)]
        shards: usize,
    },
    /// Connections in waves, which end in all ways: nothing must be left of them.
    Waves {
        /// Waves.
        #[arg(long, default_value_t = 20)]
        waves: u32,
        /// Connections of a wave.
        #[arg(long, default_value_t = 10_000)]
        connections: u32,
        /// The server's shards.
        #[arg(long, default_value_t = 2)]
        shards: usize,
        /// Channels that nobody used before in every wave, and the minute after which the server has
        /// forgotten them before its memory is read.
        #[arg(long)]
        fresh_channels: bool,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(reached) if reached || !arguments.options.strict => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    let options = &arguments.options;
    std::fs::create_dir_all(&options.out)
        .with_context(|| format!("cannot make {}", options.out.display()))?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let core = |core: usize| core.min(cores - 1);
    let quick = options.quick;
    let seconds = options.seconds.unwrap_or(if quick { 0.3 } else { 3.0 });
    let setup = Setup {
        rounds: options.rounds.unwrap_or(if quick { 1 } else { 5 }),
        warm_up: Duration::from_millis(if quick { 50 } else { 500 }),
        window: Duration::from_secs_f64(seconds),
        server_core: core(options.server_core),
        client_core: core(options.client_core),
        out: options.out.clone(),
    };
    // The client's rings hold as many sockets as the soft limit says, which may be 1,024.
    ringwire::topology::raise_nofile();
    server::pin_thread(&[setup.client_core])?;
    let programs = Programs::find(options)?;
    let only = options.only.as_deref();
    match arguments.command.clone() {
        Command::Echo => {
            let baseline = programs.baseline("epoll_echo", &setup);
            let ringwire = programs.ringwire(&setup, &baseline);
            echo::run(&setup, &baseline, &ringwire, quick, only)
        }
        Command::Fanout => {
            let floor = programs.baseline("fanout_floor", &setup);
            let ringwire = programs.ringwire(&setup, &floor);
            fanout::run(&setup, &floor, &ringwire, quick, only)
        }
        Command::Idle => {
            let mut holder = programs.baseline("epoll_echo", &setup);
            holder.name = "held".to_owned();
            holder.arguments.push("--hold".to_owned());
            let ringwire = programs.ringwire(&setup, &holder);
            idle::run(&setup, &holder, &ringwire, quick)
        }
        Command::Crowd {
            connections,
            heartbeat,
        } => {
            let all = if quick {
                connections / 200
            } else {
                connections
            };
            let heartbeat = if quick { 1 } else { heartbeat };
            let intervals = options.seconds.unwrap_or(0.0) / f64::from(heartbeat);
            let size = crowd::Size {
                few: all / 5,
                all,
                heartbeat: Duration::from_secs(heartbeat.into()),
                intervals: (intervals.ceil() as u32).max(2),
                broadcasts: if quick { 2 } else { 5 },
                quiet: Duration::from_millis(if quick { 200 } else { 1_500 }),
                slab_looks: if quick { 4 } else { 120 },
            };
            anyhow::ensure!(size.few > 0, "--connections {connections}: use at least 5");
            let setup = Setup {
                // Each of them opens and holds all connections twice.
                rounds: options.rounds.unwrap_or(if quick { 1 } else { 3 }),
                ..setup
            };
            let parts = all.div_ceil(CONNECTIONS_PER_SHARD);
            let mut floor = programs.baseline("crowd_floor", &setup);
            let heartbeat_ms = size.heartbeat.as_millis().to_string();
            let words = [
                "--processes",
                &parts.to_string(),
                "--heartbeat-ms",
                &heartbeat_ms,
            ];
            floor.arguments.extend(words.map(str::to_owned));
            let ringwire = match &programs.server {
                Some(program) => {
                    // Everybody is on these few cores: an answer may take longer than across a network.
                    let config =
                        format!("[heartbeat]\ninterval_ms = {heartbeat_ms}\ntimeout_ms = 120000\n");
                    ringwire(program, parts as usize, &[setup.server_core]).with_config(&config)
                }
                None => programs.ringwire(&setup, &floor),
            };
            crowd::run(&setup, &floor, &ringwire, size)
        }
        Command::Compare(options) => {
            let mut holder = programs.baseline("epoll_echo", &setup);
            holder.name = "held".to_owned();
            holder.arguments.push("--hold".to_owned());
            let server = programs.server()?;
            let servers = compare::Servers {
                ringwire: ringwire(server, 1, &[setup.server_core]),
                holder,
                echo_floor: programs.baseline("epoll_echo", &setup),
                fanout_floor: programs.baseline("fanout_floor", &setup),
            };
            compare::run(setup, &servers, &options, quick, only)
        }
        Command::Shards => {
            let server = programs.server()?;
            let launch = |cores: &[usize]| ringwire(server, cores.len(), cores);
            shards::run(&setup, launch, quick, only)
        }
        Command::Hold { connections } => {
            let connections = if quick { connections / 50 } else { connections };
            let shards = connections.div_ceil(CONNECTIONS_PER_SHARD).max(2);
            server::pin_thread(&(0..cores).collect::<Vec<_>>())?;
            let ringwire = ringwire(programs.server()?, shards as usize, &[]);
            hold::run(&setup, &ringwire, connections)
        }
        Command::Subscriptions {
            connections,
            each,
            channels,
            shards,
        } => {
            let divide = if quick { 20 } else { 1 };
            let size = subscriptions::Size {
                connections: connections / divide,
                each: each / divide.min(5),
                channels: channels / divide / divide.min(5),
            };
            let ringwire = programs.sharded(shards, &setup)?;
            subscriptions::run(&setup, &ringwire, size)
        }
        Command::Disconnect {
            connections,
            shards,
        } => {
            let crowd = if quick { connections / 20 } else { connections };
            let ringwire = programs.sharded(shards, &setup)?;
            disconnect::run(&setup, &ringwire, disconnect::Size { crowd })
        }
        Command::Spread {
            connections,
            channels,
        } => {
            let divide = if quick { 10 } else { 1 };
            let size = spread::Size {
                subscribers: connections / divide,
                channels: channels / divide,
            };
            let setup = Setup {
                // A round takes a fraction of a second, and one is much like the next on average only.
                rounds: options.rounds.unwrap_or(if quick { 5 } else { 100 }),
                ..setup
            };
            let shards = size.subscribers.div_ceil(CONNECTIONS_PER_SHARD).max(2);
            server::pin_thread(&(0..cores).collect::<Vec<_>>())?;
            let ringwire = ringwire(programs.server()?, shards as usize, &[]);
            spread::run(&setup, &ringwire, size)
        }
        Command::Waves {
            waves,
            connections,
            shards,
            fresh_channels,
        } => {
            let size = waves::Size {
                waves: if quick { waves.min(4) } else { waves },
                connections: if quick { connections / 20 } else { connections },
                fresh_channels,
            };
            let ringwire = ringwire(programs.server()?, shards, &[]);
            waves::run(&setup, &ringwire, size)
        }
    }
}

/// Where the servers are.
struct Programs {
    examples: PathBuf,
    /// `None`: the baselines are measured against themselves.
    server: Option<PathBuf>,
}

impl Programs {
    fn find(options: &Options) -> anyhow::Result<Self> {
        let this = std::env::current_exe()?;
        let examples = this.parent().map(Path::to_path_buf).unwrap_or_default();
        let server = match (&options.server, options.self_check) {
            (_, true) => None,
            (Some(server), false) => Some(server.clone()),
            (None, false) => Some(examples.join("../ringwire")),
        };
        Ok(Self { examples, server })
    }

    fn baseline(&self, name: &str, setup: &Setup) -> Launch {
        Launch {
            name: name.to_owned(),
            program: self.examples.join(name),
            arguments: Vec::new(),
            config: String::new(),
            cores: vec![setup.server_core],
            collects_garbage: false,
        }
    }

    /// ringwire with one shard on the server's core; the baseline under another name for a self-check.
    fn ringwire(&self, setup: &Setup, baseline: &Launch) -> Launch {
        match &self.server {
            Some(program) => ringwire(program, 1, &[setup.server_core]),
            None => Launch {
                name: "itself".to_owned(),
                ..baseline.clone()
            },
        }
    }

    /// ringwire with one shard on the server's core, or with several anywhere.
    fn sharded(&self, shards: usize, setup: &Setup) -> anyhow::Result<Launch> {
        let core = [setup.server_core];
        let cores = if shards == 1 { &core[..] } else { &[] };
        Ok(ringwire(self.server()?, shards, cores))
    }

    fn server(&self) -> anyhow::Result<&Path> {
        self.server
            .as_deref()
            .context("this command has no baseline to check against itself")
    }
}

/// ringwire with `shards`, on `cores` if there are any.
fn ringwire(program: &Path, shards: usize, cores: &[usize]) -> Launch {
    let mut words = vec!["serve", "--listen", "127.0.0.1:0", "--shards"]
        .into_iter()
        .map(str::to_owned)
        .collect::<Vec<_>>();
    words.push(shards.to_string());
    if !cores.is_empty() {
        let list: Vec<String> = cores.iter().map(usize::to_string).collect();
        words.extend(["--cores".to_owned(), list.join(",")]);
    }
    Launch {
        name: "ringwire".to_owned(),
        program: program.to_owned(),
        arguments: words,
        config: String::new(),
        cores: cores.to_vec(),
        collects_garbage: false,
    }
}
