//! `drive compare`: other servers beside ringwire, each on one core, with the same traffic.
//!
//! In every round every server runs every case once, in an order that rotates. What is compared are the
//! rounds' ratios. `docs/comparison.md` says how each peer is set up, and why.

mod cases;
mod check;
mod peers;
mod publish;
mod results;
mod tables;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use rustix::thread::disable_transparent_huge_pages;
use serde::Serialize;

use crate::idle::{Case as IdleCase, Measurement};
use crate::measure::Setup;
use crate::report::Report;
use crate::server::Launch;
use cases::{CAPACITY, Case, Kind};
use peers::{Absent, Peer};
use results::{FLOOR, Held, Idle, Point, Results};
use ringwire::load::machine::without_folders;

/// What the command takes beside the options of all commands.
#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    /// Where the peers are installed.
    #[arg(long, default_value = "target/peers")]
    peers_dir: PathBuf,
    /// Only these peers, separated by commas [default: all].
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    /// Write the table of the README to this file, as Markdown.
    #[arg(long)]
    markdown: Option<PathBuf>,
    /// Write the raw data and a readable report to DATE-compare in this folder [default: benches/results].
    #[arg(long, num_args = 0..=1, default_missing_value = "benches/results")]
    publish: Option<PathBuf>,
}

/// What the peers are compared with.
pub(crate) struct Servers {
    /// With one shard.
    pub(crate) ringwire: Launch,
    /// Answers upgrades and leaves the sockets alone: what an open socket costs the kernel.
    pub(crate) holder: Launch,
    /// What a message costs that nobody does more with than receive it and send it back.
    pub(crate) echo_floor: Launch,
    /// What a delivery costs that is a `send` and nothing else.
    pub(crate) fanout_floor: Launch,
}

/// A server's version, among the raw data.
#[derive(Serialize)]
struct Version<'a> {
    server: &'a str,
    version: &'a str,
}

/// Measures and prints; true when every figure was reached.
pub(crate) fn run(
    mut setup: Setup,
    servers: &Servers,
    options: &Options,
    quick: bool,
    only: Option<&str>,
) -> anyhow::Result<bool> {
    let cases: Vec<Case> = cases::all(quick)
        .into_iter()
        .filter(|case| only.is_none_or(|only| case.name.contains(only)))
        .collect();
    if cases.is_empty() {
        let all = cases::all(quick);
        let names: Vec<&str> = all.iter().map(|case| case.name).collect();
        bail!(
            "--only {:?} is in the name of no case; there are: {}",
            only.unwrap_or_default(),
            names.join("; ")
        );
    }
    let (peers, absent) = peers::find(&options.peers_dir, &options.peers, setup.server_core)?;
    if !quick {
        // Runtimes that compile while they run must have done so.
        setup.warm_up = setup.warm_up.max(Duration::from_secs(1));
    }
    let mut comparison = Comparison {
        report: Report::begin("compare"),
        servers,
        results: Results::new(peers.iter().map(|peer| peer.launch.name.clone())),
        peers,
        absent,
        setup,
        quick,
    };
    comparison.introduce()?;
    comparison.check()?;
    for round in 0..comparison.setup.rounds {
        comparison.round(&cases, round)?;
    }
    comparison.conclude(&cases, options)
}

/// A comparison in progress.
struct Comparison<'a> {
    setup: Setup,
    quick: bool,
    servers: &'a Servers,
    /// Those that still take part.
    peers: Vec<Peer>,
    absent: Vec<Absent>,
    results: Results,
    report: Report,
}

impl Comparison<'_> {
    /// Says who is compared, and how each is started.
    fn introduce(&mut self) -> anyhow::Result<()> {
        for launch in [
            &self.servers.ringwire,
            &self.servers.echo_floor,
            &self.servers.fanout_floor,
        ] {
            self.report.server(launch);
        }
        for peer in &self.peers {
            self.report.server(&peer.launch);
            println!("          {}", peer.version);
            self.report.keep(&Version {
                server: &peer.launch.name,
                version: &peer.version,
            })?;
        }
        for absent in &self.absent {
            println!("{:<9} MISSING: {}", absent.peer, absent.reason);
        }
        println!();
        Ok(())
    }

    /// Whether everybody does what is measured.
    fn check(&mut self) -> anyhow::Result<()> {
        check::talk(&self.servers.ringwire, &self.setup.out).context("ringwire")?;
        for peer in self.peers.clone() {
            if let Err(error) = check::talk(&peer.launch, &self.setup.out) {
                self.drop_out(&peer.launch.name, &error);
            }
        }
        Ok(())
    }

    /// A peer that fails takes no further part, and none of its figures is shown.
    fn drop_out(&mut self, name: &str, error: &anyhow::Error) {
        eprintln!("{name} FAILED: {error:#}");
        self.peers.retain(|peer| peer.launch.name != name);
        self.results.forget(name);
        self.absent.push(Absent {
            peer: name.to_owned(),
            reason: without_folders(&format!("failed: {error:#}")),
        });
    }

    fn round(&mut self, cases: &[Case], round: u32) -> anyhow::Result<()> {
        // Messages per second that each server managed in this round.
        let mut capacities = BTreeMap::new();
        for (number, case) in cases.iter().enumerate() {
            eprintln!(
                "round {} of {}: {} …",
                round + 1,
                self.setup.rounds,
                case.name
            );
            let peers = self.peers.iter().map(|peer| &peer.launch);
            let own = match case.kind {
                Kind::Latency { .. } => Vec::new(),
                _ => vec![self.servers.ringwire.clone(), self.floor(case)],
            };
            let mut turn: Vec<Launch> = own.into_iter().chain(peers.cloned()).collect();
            let first = (round as usize + number) % turn.len().max(1);
            turn.rotate_left(first);
            match case.kind {
                Kind::Latency { .. } => {
                    for peer in &turn {
                        if let Err(failure) = self.pair(case, peer, round, &mut capacities) {
                            self.blame(failure)?;
                        }
                    }
                }
                Kind::Idle => {
                    // Servers inherit this. With huge pages a touched byte counts as 2 MiB.
                    disable_transparent_huge_pages(true)?;
                    self.hold(round)?;
                    let measured = self.each(case, turn, round, &mut capacities);
                    disable_transparent_huge_pages(false)?;
                    measured?;
                }
                _ => self.each(case, turn, round, &mut capacities)?,
            }
        }
        Ok(())
    }

    /// One case for all servers, in this order.
    fn each(
        &mut self,
        case: &Case,
        turn: Vec<Launch>,
        round: u32,
        capacities: &mut BTreeMap<String, f64>,
    ) -> anyhow::Result<()> {
        for launch in turn {
            let measured = match case.kind {
                Kind::Idle => self.idle(case, &launch, round),
                _ => self.traffic(case, &launch, round, capacities),
            };
            if let Err(error) = measured {
                self.blame(Failure::of(&launch, error))?;
            }
        }
        Ok(())
    }

    /// The bare sockets beside which a case is measured.
    fn floor(&self, case: &Case) -> Launch {
        let floor = match case.kind {
            Kind::Fanout { .. } => &self.servers.fanout_floor,
            _ => &self.servers.echo_floor,
        };
        Launch {
            name: FLOOR.to_owned(),
            ..floor.clone()
        }
    }

    /// A peer that failed drops out; without ringwire, or what it stands on, there is nothing to compare.
    fn blame(&mut self, failure: Failure) -> anyhow::Result<()> {
        if failure.server == self.servers.ringwire.name || failure.server == FLOOR {
            return Err(failure.error.context(failure.server));
        }
        self.drop_out(&failure.server, &failure.error);
        Ok(())
    }

    fn traffic(
        &mut self,
        case: &Case,
        launch: &Launch,
        round: u32,
        capacities: &mut BTreeMap<String, f64>,
    ) -> anyhow::Result<()> {
        let plan = case.plan(&self.setup, None);
        let sample = match case.kind {
            Kind::Handshakes { .. } => self.setup.handshakes(case.name, launch, &plan, round)?,
            _ => self.setup.sample(case.name, launch, &plan, round)?,
        };
        self.report.keep(&sample)?;
        if case.name == CAPACITY {
            capacities.insert(launch.name.clone(), sample.rate());
        }
        self.results
            .add(case.name, &launch.name, Point::of_sample(&sample));
        Ok(())
    }

    fn idle(&mut self, case: &Case, launch: &Launch, round: u32) -> anyhow::Result<()> {
        let measurement = Measurement::new(&self.setup, "/echo", self.quick);
        let growth = measurement.growth(launch, IdleCase::Idle, round)?;
        let idle = Idle::of(case.name, &launch.name, round, &growth, measurement.sizes)?;
        self.report.keep(&idle)?;
        self.results
            .add(case.name, &launch.name, Point::of_idle(&idle));
        Ok(())
    }

    /// What the kernel keeps for sockets that are just held.
    fn hold(&mut self, round: u32) -> anyhow::Result<()> {
        let measurement = Measurement::new(&self.setup, "/echo", self.quick);
        let growth = measurement.growth(&self.servers.holder, IdleCase::Idle, round)?;
        let held = Held {
            server: self.servers.holder.name.clone(),
            round,
            kernel_bytes: growth.kernel_bytes(),
        };
        self.report.keep(&held)?;
        self.results.held.push(held.kernel_bytes);
        Ok(())
    }

    /// ringwire and a peer at half of what the slower one of them can do.
    fn pair(
        &mut self,
        case: &Case,
        peer: &Launch,
        round: u32,
        capacities: &mut BTreeMap<String, f64>,
    ) -> Result<(), Failure> {
        let ringwire = self.servers.ringwire.clone();
        let mut slower = f64::INFINITY;
        for launch in [&ringwire, peer] {
            if !capacities.contains_key(&launch.name) {
                // The case that tells is not among those that were asked for.
                let plan = cases::capacity(self.quick).plan(&self.setup, None);
                let sample = self.setup.sample(CAPACITY, launch, &plan, round);
                let sample = sample.map_err(|error| Failure::of(launch, error))?;
                capacities.insert(launch.name.clone(), sample.rate());
            }
            slower = slower.min(capacities[&launch.name]);
        }
        let rate = (slower / 2.0).max(1.0) as u32;
        let plan = case.plan(&self.setup, Some(rate));
        let mut order = [&ringwire, peer];
        if round % 2 == 1 {
            order.reverse();
        }
        let mut windows = BTreeMap::new();
        for launch in order {
            let window = cases::window(&self.setup, launch, &plan);
            let window = window.map_err(|error| Failure::of(launch, error))?;
            windows.insert(launch.name.clone(), window);
        }
        let pair = results::Pair {
            case: case.name.to_owned(),
            server: peer.name.clone(),
            round,
            rate,
            ringwire: windows[&ringwire.name],
            peer: windows[&peer.name],
        };
        self.report
            .keep(&pair)
            .map_err(|error| Failure::of(&ringwire, error))?;
        self.results
            .add(case.name, &peer.name, Point::of_pair(&pair));
        Ok(())
    }

    /// Tables, figures, files.
    fn conclude(mut self, cases: &[Case], options: &Options) -> anyhow::Result<bool> {
        for absent in &self.absent {
            self.report.keep(absent)?;
        }
        let tables = tables::all(cases, &self.results);
        if self.quick {
            println!("{}\n", publish::QUICK);
        }
        for (title, table) in &tables {
            println!("{title}");
            table.print();
        }
        let better = tables::where_peers_are_better(cases, &self.results);
        let headroom = tables::headroom(cases, &self.results);
        if let Some(headroom) = &headroom {
            println!("{}", tables::HEADROOM);
            headroom.print();
        }
        println!("where a peer is better than ringwire");
        for line in &better {
            println!("  {line}");
        }
        println!();
        let bun_was_asked_for =
            options.peers.is_empty() || options.peers.iter().any(|name| name == "bun");
        for verdict in tables::verdicts(cases, &self.results, bun_was_asked_for) {
            self.report.verdict(verdict);
        }
        let finished = self.report.finish(&self.setup.out)?;
        let reached = finished.reached;
        if let Some(file) = &options.markdown {
            let table = tables::summary(cases, &self.results, &self.peers).markdown();
            std::fs::write(file, table)
                .with_context(|| format!("cannot write {}", file.display()))?;
            println!("summary   {}", file.display());
        }
        if let Some(folder) = &options.publish {
            let document = publish::Document {
                finished,
                quick: self.quick,
                summary: tables::summary(cases, &self.results, &self.peers),
                tables: tables
                    .into_iter()
                    .chain(headroom.map(|table| (tables::HEADROOM.to_owned(), table)))
                    .collect(),
                better,
                peers: &self.peers,
                absent: &self.absent,
            };
            println!("published {}", document.write(folder)?.display());
        }
        if !self.absent.is_empty() {
            let list: Vec<String> = self
                .absent
                .iter()
                .map(|absent| format!("{}: {}", absent.peer, absent.reason))
                .collect();
            bail!("the comparison is not complete: {}", list.join("; "));
        }
        Ok(reached)
    }
}

/// A measurement that went wrong, and the server's name.
struct Failure {
    server: String,
    error: anyhow::Error,
}

impl Failure {
    fn of(launch: &Launch, error: anyhow::Error) -> Self {
        Self {
            server: launch.name.clone(),
            error,
        }
    }
}
