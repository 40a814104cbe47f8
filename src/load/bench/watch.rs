//! Watching a run: samples over time, and what a person sees meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use super::outcome::{Phase, Sample, number};
use crate::load::machine::memory_kib;
use crate::load::{Counts, Lap, Latencies, Live, Load, Process};

/// How often a sample is taken.
const SAMPLE: Duration = Duration::from_millis(500);
/// How often what a person sees is renewed.
const LOOK: Duration = Duration::from_millis(10);
/// Answers of client threads take no longer.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// Below this much available memory, a run ends: the machine has to stay alive. In bytes.
pub(super) const FLOOR_BYTES: u64 = 1 << 30;
/// A signal has come that asks to end.
static SIGNAL: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// From now on SIGINT and SIGTERM end the run as a failure does, so that the server is stopped and the report
/// written; a second one ends the program.
pub(super) fn notice_signals() -> std::io::Result<()> {
    for signal in [SIGINT, SIGTERM] {
        let ended = 128 + signal;
        flag::register_conditional_shutdown(signal, ended, Arc::clone(&SIGNAL))?;
        flag::register(signal, Arc::clone(&SIGNAL))?;
    }
    Ok(())
}

/// Ends the run before the machine runs out of memory.
fn still_alive() -> anyhow::Result<()> {
    let free = memory_kib("MemAvailable").unwrap_or(u64::MAX / 1024) * 1024;
    anyhow::ensure!(
        free >= FLOOR_BYTES,
        "only {:.2} GiB of memory are left: the run ends here, so that the machine stays alive",
        free as f64 / f64::from(1 << 30)
    );
    Ok(())
}

/// The run so far.
pub(super) struct Watch {
    began: Instant,
    process: Option<Process>,
    bar: ProgressBar,
    pub(super) phases: Vec<Phase>,
    pub(super) samples: Vec<Sample>,
    last: Instant,
    /// What loads counted that have ended.
    past: (Counts, Live),
    /// Latencies since the phase began: of messages, to the last of several, of connects.
    pub(super) messages: Latencies,
    pub(super) lasts: Latencies,
    pub(super) connects: Latencies,
}

impl Watch {
    pub(super) fn new(process: Option<Process>, progress: bool) -> Self {
        let target = if progress {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(None, target);
        if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix:<24} {bar:24} {msg}") {
            bar.set_style(style);
        }
        Self {
            began: Instant::now(),
            process,
            bar,
            phases: Vec::new(),
            samples: Vec::new(),
            last: Instant::now(),
            past: Default::default(),
            messages: Latencies::new(),
            lasts: Latencies::new(),
            connects: Latencies::new(),
        }
    }

    pub(super) fn process(&self) -> Option<&Process> {
        self.process.as_ref()
    }

    /// A new phase begins; what was measured before `loads` came to it is forgotten.
    pub(super) fn phase(&mut self, name: &str, loads: &[&Load]) -> anyhow::Result<()> {
        self.phases.push(Phase {
            name: name.to_owned(),
            began_seconds: self.began.elapsed().as_secs_f64(),
        });
        self.bar.set_prefix(name.to_owned());
        self.sample(loads)?;
        self.messages = Latencies::new();
        self.lasts = Latencies::new();
        self.connects = Latencies::new();
        Ok(())
    }

    /// Watches `loads` until `done` says how far it has come is all the way (1.0), at most for `limit`.
    ///
    /// Says how long it took.
    ///
    /// # Errors
    /// When a connection failed, `limit` is over, memory is short, or a signal came.
    pub(super) fn until(
        &mut self,
        loads: &[&Load],
        limit: Duration,
        mut done: impl FnMut() -> f64,
    ) -> anyhow::Result<Duration> {
        let began = Instant::now();
        loop {
            for load in loads {
                load.check()?;
            }
            let part = done();
            if self.last.elapsed() >= SAMPLE {
                self.sample(loads)?;
                still_alive()?;
            }
            self.show(loads, part);
            if part >= 1.0 {
                let took = began.elapsed();
                self.sample(loads)?;
                return Ok(took);
            }
            anyhow::ensure!(!SIGNAL.load(Ordering::Relaxed), "interrupted by a signal");
            if began.elapsed() > limit {
                anyhow::bail!(
                    "not done after {} s ({:.0} %)",
                    limit.as_secs(),
                    part * 100.0
                );
            }
            thread::sleep(LOOK.min(SAMPLE));
        }
    }

    /// Watches `loads` for a time.
    pub(super) fn for_a_time(&mut self, loads: &[&Load], time: Duration) -> anyhow::Result<()> {
        let began = Instant::now();
        self.until(loads, time + PATIENCE, || {
            began.elapsed().as_secs_f64() / time.as_secs_f64().max(f64::MIN_POSITIVE)
        })?;
        Ok(())
    }

    /// A load has ended: its numbers are kept.
    pub(super) fn ended(&mut self, counts: Counts, live: Live) {
        let (past, were) = &mut self.past;
        past.messages += counts.messages;
        past.bytes += counts.bytes;
        past.publishes += counts.publishes;
        were.opened += live.opened;
        were.failed += live.failed;
        were.cut += live.cut;
        were.left += live.left;
    }

    /// What all loads counted, those that have ended included.
    pub(super) fn totals(&self, loads: &[&Load]) -> (Counts, Live) {
        let (mut counts, mut live) = self.past;
        for load in loads {
            let (more, now) = (load.counts(), load.live());
            counts.messages += more.messages;
            counts.bytes += more.bytes;
            counts.publishes += more.publishes;
            live.ready += now.ready;
            live.opened += now.opened;
            live.failed += now.failed;
            live.cut += now.cut;
            live.left += now.left;
        }
        (counts, live)
    }

    /// Takes a sample now.
    pub(super) fn sample(&mut self, loads: &[&Load]) -> anyhow::Result<()> {
        self.last = Instant::now();
        let mut since = Latencies::new();
        for load in loads {
            let Lap {
                messages,
                lasts,
                connects,
            } = load.lap(PATIENCE)?;
            since.merge(&messages);
            self.lasts.merge(&lasts);
            self.connects.merge(&connects);
        }
        self.messages.merge(&since);
        let summary = since.summary();
        let of = |value: f64| (summary.count > 0).then_some(value);
        let (counts, live) = self.totals(loads);
        let process = self.process.as_ref();
        let cpu = process.and_then(|process| process.cpu().ok());
        self.samples.push(Sample {
            seconds: self.began.elapsed().as_secs_f64(),
            phase: self.phases.len().saturating_sub(1),
            connections: live.ready.into(),
            accepted: live.opened,
            failed: live.failed,
            messages: counts.messages,
            bytes: counts.bytes,
            publishes: counts.publishes,
            server_memory_bytes: process.and_then(|process| process.private_dirty_bytes().ok()),
            server_cpu_seconds: cpu.map(|cpu| cpu.total_ns as f64 / 1e9),
            p50_us: of(summary.p50_us),
            p99_us: of(summary.p99_us),
            max_us: of(summary.max_us),
        });
        Ok(())
    }

    fn show(&self, loads: &[&Load], part: f64) {
        let (counts, live) = self.totals(loads);
        let rate = match self.samples.as_slice() {
            [.., before, _] => {
                let seconds = self.began.elapsed().as_secs_f64() - before.seconds;
                (counts.messages - before.messages) as f64 / seconds.max(0.001)
            }
            _ => 0.0,
        };
        let mut message = format!("{} connections, {}/s", live.ready, number(rate.round()));
        if live.failed > 0 {
            message += &format!(", {} failed", live.failed);
        }
        let memory = self
            .samples
            .last()
            .and_then(|sample| sample.server_memory_bytes);
        if let Some(bytes) = memory {
            message += &format!(", server {:.1} MB", bytes as f64 / 1e6);
        }
        self.bar.set_length(1_000);
        self.bar
            .set_position((part.clamp(0.0, 1.0) * 1_000.0) as u64);
        self.bar.set_message(message);
        self.bar.tick();
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
