//! The loop around a shard's turns, as a task of its core's glommio executor.
//!
//! While there is work the shard turns and never sleeps. Without work it first waits a moment on
//! its ring (cheap to enter and to leave), then parks in the executor, where timers and other tasks
//! run too.

use super::connection::Ms;
use super::core::Clock;
use super::handler::Handler;
use super::{Shard, Turn};
use crate::ring::{Alarm, Parker, Ring, Uring, Wait};
use std::io;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A busy shard lets the executor look at its timers and other tasks this often. A pass costs up to
/// eight system calls.
const REACTOR_PASS: Duration = Duration::from_millis(4);

/// Tasks that take turns to tick: what makes the executor park although a task is runnable can happen
/// to a tick as well, and then that one's timer is spent.
const TICKERS: u32 = 8;

/// How long to wait for another shard to empty its inbox. Not busily: it may need this core.
const RETRY: Wait = Wait::For {
    timeout_us: 200,
    min_wait_us: 0,
};

/// How a shard waits.
#[derive(Clone, Copy, Debug)]
pub struct Waiting {
    /// Wait on the ring this long before parking, in microseconds; 0: park at once.
    pub wait_us: u32,
    /// Gather completions at least this long per wait, in microseconds; 0: take the first.
    pub min_wait_us: u32,
    /// The executor wakes at least this often, whatever happens: glommio 0.9 can park while a task
    /// is runnable, and a timer is what brings it back. Bounds such a stall. (`TICKERS` says why several
    /// tasks do it.)
    pub ticker: Duration,
}

/// Reads the time once per turn.
struct TurnClock {
    started: Instant,
    /// The last reading.
    now: Instant,
    wall_ms: u64,
    wall_read_ms: u64,
}

impl TurnClock {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            started: now,
            now,
            wall_ms: wall_ms(),
            wall_read_ms: 0,
        }
    }

    fn read(&mut self) -> Clock {
        self.now = Instant::now();
        let elapsed_ms = self.now.duration_since(self.started).as_millis() as u64;
        // The wall clock can be set; following it once a second is enough for time stamps.
        if elapsed_ms - self.wall_read_ms >= 1000 {
            self.wall_ms = wall_ms();
            self.wall_read_ms = elapsed_ms;
        }
        Clock {
            now: Ms(elapsed_ms as u32),
            elapsed_ms,
            unix_ms: self.wall_ms + (elapsed_ms - self.wall_read_ms),
        }
    }
}

fn wall_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}

/// Turns until the shard has ended. Must run on the executor that the ring belongs to.
///
/// # Errors
/// When the ring is unusable.
pub async fn run<H: Handler>(mut shard: Shard<Uring, H>, waiting: Waiting) -> io::Result<()> {
    let mut parker = Parker::new(&mut shard.ring)?;
    let mut clock = TurnClock::new();
    let tickers: Vec<_> = (1..=TICKERS)
        .map(|ticks| {
            let mut next = clock.now + waiting.ticker * ticks;
            glommio::spawn_local(async move {
                loop {
                    let now = Instant::now();
                    glommio::timer::sleep(next.saturating_duration_since(now)).await;
                    // Always at its own times: a long turn must not make all of them tick together.
                    while next <= Instant::now() {
                        next += waiting.ticker * TICKERS;
                    }
                }
            })
        })
        .collect();
    let mut passed_at = clock.now;
    let wait_us = waiting.wait_us.max(waiting.min_wait_us);
    let wait = match waiting.min_wait_us {
        0 => Wait::Event,
        min_wait_us => Wait::For {
            timeout_us: wait_us,
            min_wait_us,
        },
    };
    let (may_wait, alarm) = (wait_us > 0, Duration::from_micros(wait_us.into()));
    let until = |in_ms: u32| Duration::from_millis(in_ms.max(1).into());
    let mut last = Turn {
        worked: true,
        more: true,
        held_back: false,
        ended: false,
        due_in_ms: None,
    };
    // Nothing happened between an alarm's setting and its going off.
    let mut quiet = false;
    let mut worked_since_alarm = false;
    while !last.ended {
        let (ring, core, completions) = (&mut shard.ring, &shard.core, &mut shard.completions);
        if last.more || ring.has_urgent() || (last.worked && !may_wait) {
            ring.turn(Wait::Look, completions)?;
        } else if last.held_back {
            ring.sleep(RETRY, || !core.mesh.is_idle(), completions)?;
        } else if may_wait && !quiet {
            if ring.arm_alarm(Alarm::Wait, alarm) {
                worked_since_alarm = false;
            }
            if let Some(due) = last.due_in_ms.map(until).filter(|due| *due < alarm) {
                ring.arm_alarm(Alarm::Due, due);
            }
            ring.sleep(wait, || !core.mesh.is_idle(), completions)?;
        } else {
            // Goes off while the shard is parked, and wakes it.
            if let Some(in_ms) = last.due_in_ms {
                ring.arm_alarm(Alarm::Due, until(in_ms));
            }
            parker
                .park(ring, || !core.mesh.is_idle(), completions)
                .await?;
            passed_at = Instant::now();
        }
        last = shard.turn(clock.read());
        worked_since_alarm |= last.worked;
        quiet = !worked_since_alarm && !shard.ring.has_alarm(Alarm::Wait);
        if clock.now.saturating_duration_since(passed_at) >= REACTOR_PASS {
            // A sleep of zero would not yield.
            glommio::timer::sleep(Duration::from_micros(1)).await;
            passed_at = clock.now;
        }
    }
    for ticker in tickers {
        ticker.cancel().await;
    }
    Ok(())
}
