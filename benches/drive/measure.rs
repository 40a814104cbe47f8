//! One measurement: a fresh server, a fresh client, a window of time.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::bail;
use ringwire::load::statistics::median;
use ringwire::load::{Counts, CpuTime, LatencySummary, Load, Plan};
use serde::Serialize;

use crate::server::{Launch, Server};
use crate::syscalls;

/// Nothing on loopback takes longer than this.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// How all measurements of a command are made.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// Interleaved rounds per case.
    pub(crate) rounds: u32,
    /// Time before a window, for queues and caches to settle.
    pub(crate) warm_up: Duration,
    /// Length of a window.
    pub(crate) window: Duration,
    /// The server's core and the client's.
    pub(crate) server_core: usize,
    /// The client's core.
    pub(crate) client_core: usize,
    /// Where raw data goes.
    pub(crate) out: PathBuf,
}

/// What one window of one server gave.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sample {
    pub(crate) case: String,
    pub(crate) server: String,
    pub(crate) round: u32,
    pub(crate) seconds: f64,
    pub(crate) counts: Counts,
    pub(crate) cpu: CpuTime,
    /// Of the whole run.
    pub(crate) latency: LatencySummary,
}

impl Sample {
    /// Server processor time per message, in microseconds.
    pub(crate) fn cpu_us(&self) -> f64 {
        self.cpu.total_ns as f64 / 1e3 / self.counts.messages.max(1) as f64
    }

    /// How much of the window the server was busy, over all its threads; 1 is one core.
    pub(crate) fn busy(&self) -> f64 {
        self.cpu.total_ns as f64 / 1e9 / self.seconds
    }

    /// Messages per second.
    pub(crate) fn rate(&self) -> f64 {
        self.counts.messages as f64 / self.seconds
    }
}

/// What tools say about a server under the same traffic, in a run of its own: they disturb.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Inspection {
    /// System calls per message, over all threads of the server.
    pub(crate) syscalls_per_message: Option<f64>,
    /// Share of user space in the server's time, from 0 to 1.
    pub(crate) user_share: Option<f64>,
}

/// Processor time and turns of a server in one window, with tools.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Profiled {
    /// System calls per message.
    pub(crate) syscalls_per_message: f64,
    /// User time per message, in microseconds.
    pub(crate) user_us: f64,
}

impl Setup {
    /// User time and system calls per message, both from the same traffic; needs `perf`. `neighbour`
    /// is another server that has the same traffic at the same time and is not measured.
    pub(crate) fn profiled(
        &self,
        launch: &Launch,
        plan: &Plan,
        neighbour: Option<&Launch>,
    ) -> anyhow::Result<Profiled> {
        if let Some(neighbour) = neighbour {
            let measured =
                self.with_traffic(neighbour, plan, |_, _| self.profiled(launch, plan, None))?;
            return Ok(measured.0);
        }
        let data = self.out.join("perf.data");
        let (profiled, _) = self.with_traffic(launch, plan, |server, load| {
            let (began, cpu, counts) = (Instant::now(), server.process.cpu()?, load.counts());
            let syscalls = syscalls::per_second(server.pid(), self.window)?;
            let profile = syscalls::profile(server.pid(), self.window, data.clone())?;
            let seconds = began.elapsed().as_secs_f64();
            let cpu = server.process.cpu()?.since(cpu);
            let messages = load.counts().since(counts).messages.max(1) as f64;
            Ok(Profiled {
                syscalls_per_message: syscalls * seconds / messages,
                user_us: cpu.total_ns as f64 / 1e3 * profile.user_share / messages,
            })
        })?;
        let _ = std::fs::remove_file(data);
        Ok(profiled)
    }

    /// Starts `launch` and the client of `plan`, lets traffic run and measures one window.
    pub(crate) fn sample(
        &self,
        case: &str,
        launch: &Launch,
        plan: &Plan,
        round: u32,
    ) -> anyhow::Result<Sample> {
        self.with_traffic(launch, plan, |server, load| {
            let (began, cpu, counts) = (Instant::now(), server.process.cpu()?, load.counts());
            self.let_window_pass(load)?;
            let cpu = server.process.cpu()?.since(cpu);
            let counts = load.counts().since(counts);
            Ok((began.elapsed(), cpu, counts))
        })
        .map(|((window, cpu, counts), latency)| Sample {
            case: case.to_owned(),
            server: launch.name.clone(),
            round,
            seconds: window.as_secs_f64(),
            counts,
            cpu,
            latency,
        })
    }

    /// A window in which nothing came back (a short one, on a busy machine) would make messages cost
    /// nothing: it goes on until something has.
    pub(crate) fn let_window_pass(&self, load: &Load) -> anyhow::Result<()> {
        let before = load.counts().messages;
        let began = Instant::now();
        thread::sleep(self.window);
        while load.counts().messages == before {
            load.check()?;
            if began.elapsed() > PATIENCE {
                bail!("nothing came back in {} s", PATIENCE.as_secs());
            }
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Looks at the server with tools while the same traffic runs, up to three times; the medians.
    pub(crate) fn inspect(&self, launch: &Launch, plan: &Plan) -> anyhow::Result<Inspection> {
        let looks: Vec<Inspection> = (0..self.rounds.min(3))
            .map(|_| self.inspect_once(launch, plan))
            .collect::<anyhow::Result<_>>()?;
        let middle = |of: fn(&Inspection) -> Option<f64>| {
            let values: Option<Vec<f64>> = looks.iter().map(of).collect();
            median(&values?)
        };
        Ok(Inspection {
            syscalls_per_message: middle(|look| look.syscalls_per_message),
            user_share: middle(|look| look.user_share),
        })
    }

    fn inspect_once(&self, launch: &Launch, plan: &Plan) -> anyhow::Result<Inspection> {
        let window = self.window.min(Duration::from_secs(2));
        let data = self.out.join("perf.data");
        let (inspection, _) = self.with_traffic(launch, plan, |server, load| {
            let (began, before) = (Instant::now(), load.counts());
            let syscalls = syscalls::per_second(server.pid(), window);
            let messages = load.counts().since(before).messages as f64;
            let rate = messages / began.elapsed().as_secs_f64();
            let profile = syscalls::profile(server.pid(), window, data.clone());
            for error in [syscalls.as_ref().err(), profile.as_ref().err()]
                .into_iter()
                .flatten()
            {
                eprintln!("note: {error:#}");
            }
            Ok(Inspection {
                syscalls_per_message: syscalls.ok().map(|calls| calls / rate),
                user_share: profile.ok().map(|profile| profile.user_share),
            })
        })?;
        let _ = std::fs::remove_file(data);
        Ok(inspection)
    }

    /// Opens `plan`'s connections and measures just that: `counts.messages` are handshakes. The server
    /// has held as many before, so that what grows once has grown.
    pub(crate) fn handshakes(
        &self,
        case: &str,
        launch: &Launch,
        plan: &Plan,
        round: u32,
    ) -> anyhow::Result<Sample> {
        let server = Server::start(launch, &self.out)?;
        let plan = self.aimed(plan, &server);
        let load = Load::start(&plan)?;
        load.wait_ready(PATIENCE)?;
        load.finish()?;
        thread::sleep(self.warm_up);
        let cpu = server.process.cpu()?;
        let load = Load::start(&plan)?;
        let took = load.wait_ready(PATIENCE)?;
        let cpu = server.process.cpu()?.since(cpu);
        load.finish()?;
        server.stop()?;
        Ok(Sample {
            case: case.to_owned(),
            server: launch.name.clone(),
            round,
            seconds: took.as_secs_f64(),
            counts: Counts {
                messages: plan.connections.into(),
                ..Counts::default()
            },
            cpu,
            latency: LatencySummary::default(),
        })
    }

    /// Lets `measure` look at `launch` while the traffic of `plan` runs, after the warm-up; also returns
    /// the round trips of the whole run.
    pub(crate) fn with_traffic<T>(
        &self,
        launch: &Launch,
        plan: &Plan,
        measure: impl FnOnce(&Server, &Load) -> anyhow::Result<T>,
    ) -> anyhow::Result<(T, LatencySummary)> {
        let server = Server::start(launch, &self.out)?;
        let plan = self.aimed(plan, &server);
        let load = Load::start(&plan)?;
        load.wait_ready(PATIENCE)?;
        load.resume();
        thread::sleep(self.warm_up);
        let measured = measure(&server, &load)?;
        load.pause(PATIENCE)?;
        let summary = load.finish()?;
        server.stop()?;
        Ok((measured, summary.latency))
    }

    /// `plan` for the server that was started, from the client's core unless it names cores.
    pub(crate) fn aimed(&self, plan: &Plan, server: &Server) -> Plan {
        let mut plan = plan.clone();
        plan.address = server.address;
        if plan.cores.is_empty() {
            plan.cores = vec![self.client_core];
        }
        plan
    }
}
