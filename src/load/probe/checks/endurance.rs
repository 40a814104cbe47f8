//! Over time, again and again, many at once.

use super::super::check::{Check, Needs, Passed, Problem, Verdict};
use super::super::connection::{Connection, Received, closed};
use super::super::context::Context;
use super::super::report::round_ms;
use super::super::stream::Lost;
use crate::load::Latencies;
use crate::load::statistics::median;
use crate::wire::frame::{Opcode, encode_masked};
use serde_json::json;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

/// How often a client comes back.
const RECONNECTS: usize = 20;

/// Threads that open the connections of the test of many: enough to hide the network's delay.
const OPENERS: usize = 16;

const fn endurance(
    name: &'static str,
    about: &'static str,
    source: &'static str,
    run: fn(&Context<'_>) -> Verdict,
) -> Check {
    Check {
        name,
        group: "endurance",
        about,
        source,
        needs: Needs::Nothing,
        run: Some(run),
    }
}

pub(super) const CHECKS: &[Check] = &[
    endurance(
        "latency",
        "for --duration seconds every message (or ping, without an echo) is answered in time",
        "--duration, --rate, --timeout",
        latency,
    ),
    endurance(
        "idle",
        "a connection without a message for --idle seconds stays open and still works",
        "RFC 6455 section 5.5.2",
        idle,
    ),
    endurance(
        "reconnect",
        "a client that comes back 20 times is served each time",
        "RFC 6455 section 7.2.3",
        reconnect,
    ),
    endurance(
        "reset",
        "after a client vanished within a frame, by a TCP reset, the next one is served",
        "RFC 6455 section 7.2.2",
        reset,
    ),
    endurance(
        "concurrent",
        "--connections connections are open at once, and each is answered",
        "--connections",
        concurrent,
    ),
];

/// Round trips of one stretch of time.
#[derive(Default)]
struct Stretch {
    latencies: Latencies,
    min_ns: Option<u64>,
}

impl Stretch {
    fn record(&mut self, time: Duration) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.latencies.record_ns(ns);
        self.min_ns = Some(self.min_ns.map_or(ns, |min| min.min(ns)));
    }

    fn median_ms(&self) -> Option<f64> {
        let summary = self.latencies.summary();
        (summary.count > 0).then(|| digits(summary.p50_us / 1_000.0))
    }
}

/// Milliseconds with three digits behind the point.
fn digits(ms: f64) -> f64 {
    (ms * 1_000.0).round() / 1_000.0
}

/// One message at a time, at a fixed rate. Each is timed from when it was due: a message that waits
/// for a late answer is late itself, as it would be for a user.
fn latency(context: &Context<'_>) -> Verdict {
    let options = context.options;
    let interval = Duration::from_secs(1) / options.rate;
    let mut connection = context.open_echo()?;
    // The first and the last third are for comparison.
    let (mut all, mut thirds) = (Stretch::default(), <[Stretch; 3]>::default());
    let begin = Instant::now();
    let mut due = begin;
    let mut count = 0_u64;
    while due.duration_since(begin) < options.latency {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        context.alive(&mut connection).map_err(|error| {
            let second = due.duration_since(begin).as_secs_f64();
            format!("after {count} answers, {second:.1} s after the beginning: {error}")
        })?;
        let took = due.elapsed();
        all.record(took);
        let third = due.duration_since(begin).as_secs_f64() * 3.0 / options.latency.as_secs_f64();
        thirds[(third as usize).min(2)].record(took);
        count += 1;
        due += interval;
        // A server that is slower than the rate for long is measured at its own pace: what piled up
        // would only repeat itself.
        let behind = Instant::now().saturating_duration_since(due);
        if behind > options.timeout {
            due = Instant::now();
        }
    }
    connection.leave();
    let summary = all.latencies.summary();
    let ms = |us: f64| digits(us / 1_000.0);
    let (first, last) = (thirds[0].median_ms(), thirds[2].median_ms());
    let min_ms = digits(all.min_ns.unwrap_or(0) as f64 / 1e6);
    let mut detail = format!(
        "{count} answers: min {min_ms:.3} ms, median {:.3} ms, p99 {:.3} ms, max {:.3} ms",
        ms(summary.p50_us),
        ms(summary.p99_us),
        ms(summary.max_us)
    );
    let drift = first.zip(last).map(|(first, last)| digits(last - first));
    if let Some(drift) = drift {
        detail += &format!("; median of the last third {drift:+.3} ms against the first");
    }
    let figures = json!({
        "by": context.alive_by(),
        "count": count,
        "min_ms": min_ms,
        "p50_ms": ms(summary.p50_us),
        "p90_ms": ms(summary.p90_us),
        "p99_ms": ms(summary.p99_us),
        "p999_ms": ms(summary.p999_us),
        "max_ms": ms(summary.max_us),
        "first_third_p50_ms": first,
        "last_third_p50_ms": last,
        "drift_ms": drift,
    });
    Ok(Passed::with(detail, figures))
}

fn idle(context: &Context<'_>) -> Verdict {
    let mut connection = context.open_echo()?;
    let end = Instant::now() + context.options.idle;
    let (mut pings, mut messages) = (0, 0);
    loop {
        match connection.receive_until(end) {
            Ok(Received::Ping) => pings += 1,
            Ok(Received::Message(..)) => messages += 1,
            Ok(Received::Pong(_)) => {}
            Ok(Received::Close(code, reason)) => return Err(closed(code, &reason).into()),
            Err(Lost::Silent(_)) => break,
            Err(lost) => return Err(lost.to_string().into()),
        }
    }
    context
        .alive(&mut connection)
        .map_err(|error| format!("the {} after it: {error}", context.alive_by()))?;
    connection.leave();
    let mut detail = format!("still open after {:?}", context.options.idle);
    if pings > 0 {
        detail += &format!("; {pings} pings of the server's answered");
    }
    if messages > 0 {
        detail += &format!("; {messages} messages came unasked");
    }
    Ok(Passed::with(
        detail,
        json!({"server_pings": pings, "messages": messages}),
    ))
}

fn reconnect(context: &Context<'_>) -> Verdict {
    let mut times = Vec::new();
    for number in 1..=RECONNECTS {
        let begin = Instant::now();
        let round = || -> Result<(Connection, Duration), String> {
            let mut connection = context.open_echo()?;
            let opened = begin.elapsed();
            context.alive(&mut connection)?;
            Ok((connection, opened))
        };
        let (connection, opened) =
            round().map_err(|error| format!("connection {number} of {RECONNECTS}: {error}"))?;
        times.push(round_ms(opened));
        connection.leave();
    }
    let median = median(&times).unwrap_or(0.0);
    let slowest = times.iter().copied().fold(0.0, f64::max);
    Ok(Passed::with(
        format!(
            "{RECONNECTS} connections, opened in {median:.1} ms (median), {slowest:.1} ms at most"
        ),
        json!({"connections": RECONNECTS, "open_p50_ms": digits(median), "open_max_ms": digits(slowest)}),
    ))
}

fn reset(context: &Context<'_>) -> Verdict {
    let mut connection = context.open_echo()?;
    context.alive(&mut connection)?;
    // The header promises more than what comes.
    let mut frame = Vec::new();
    encode_masked(&mut frame, Opcode::Binary, true, &[0; 100], [1, 2, 3, 4]);
    connection.send_raw(&frame[..50])?;
    connection.reset()?;
    let mut connection = context
        .open_echo()
        .map_err(|error| format!("the connection after it: {error}"))?;
    context
        .alive(&mut connection)
        .map_err(|error| format!("the {} after it: {error}", context.alive_by()))?;
    connection.leave();
    Ok(Passed::new("the next connection works"))
}

fn concurrent(context: &Context<'_>) -> Verdict {
    let total = context.options.connections;
    let openers = total.min(OPENERS);
    // All are open before the first one speaks, and nobody leaves before the last one was answered.
    let (opened, answered) = (Barrier::new(openers), Barrier::new(openers));
    let begin = Instant::now();
    let results: Vec<Share> = thread::scope(|scope| {
        let threads: Vec<_> = (0..openers)
            .map(|opener| {
                let share = total / openers + usize::from(opener < total % openers);
                let (opened, answered) = (&opened, &answered);
                scope.spawn(move || open_share(context, share, opened, answered))
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_default())
            .collect()
    });
    let sum = |count: fn(&Share) -> usize| results.iter().map(count).sum::<usize>();
    let (open, alive) = (sum(|share| share.open), sum(|share| share.answered));
    if alive < total {
        let first = results
            .iter()
            .find_map(|share| share.error.as_deref())
            .unwrap_or("a thread of the probe ended early");
        let text = format!("{open} of {total} opened, {alive} answered; the first error: {first}");
        return Err(Problem::Failed(text));
    }
    let took = round_ms(begin.elapsed());
    Ok(Passed::with(
        format!("{total} open at once, each answered, in {took:.1} ms"),
        json!({"connections": total, "duration_ms": took}),
    ))
}

/// What came of one thread's share of the connections.
#[derive(Default)]
struct Share {
    open: usize,
    answered: usize,
    error: Option<String>,
}

fn open_share(context: &Context<'_>, count: usize, opened: &Barrier, answered: &Barrier) -> Share {
    let mut share = Share::default();
    let mut connections = Vec::new();
    for _ in 0..count {
        match context.open_echo() {
            Ok(connection) => connections.push(connection),
            // A server that is full stays full: no need to wait for every single one.
            Err(error) => {
                share.error = Some(error);
                break;
            }
        }
    }
    share.open = connections.len();
    opened.wait();
    for connection in &mut connections {
        match context.alive(connection) {
            Ok(_) => share.answered += 1,
            Err(error) => {
                share.error.get_or_insert(error);
            }
        }
    }
    answered.wait();
    Connection::leave_all(connections);
    share
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stretch_knows_its_least() {
        let mut stretch = Stretch::default();
        assert_eq!(stretch.median_ms(), None);
        for ms in [3, 1, 2] {
            stretch.record(Duration::from_millis(ms));
        }
        assert_eq!(stretch.min_ns, Some(1_000_000));
        let median = stretch.median_ms().unwrap();
        assert!((1.99..2.01).contains(&median), "{median}");
    }
}
