//! What people read of it.

use ringwire::load::LatencySummary;
use ringwire::load::statistics::median;

use super::cases::{Case, Kind};
use super::peers::Peer;
use super::results::{FLOOR, Point, RINGWIRE, Results};
use crate::report::{Table, Verdict, number};

/// The peer that most bounds are about.
const BUN: &str = "bun";

/// All tables, each with its title.
pub(super) fn all(cases: &[Case], results: &Results) -> Vec<(String, Table)> {
    let mut tables = Vec::new();
    let of_kind = |wanted: fn(&Kind) -> bool| cases.iter().filter(move |case| wanted(&case.kind));
    let costs = of_kind(|kind| !matches!(kind, Kind::Idle | Kind::Latency { .. }));
    for case in costs {
        tables.push((
            format!("{}: {}; ratio: ringwire's to it", case.name, case.figure),
            cost(case, results),
        ));
    }
    for case in of_kind(|kind| matches!(kind, Kind::Idle)) {
        tables.push((
            format!(
                "{}: bytes per connection; kernel: slab beyond a socket that is just held",
                case.name
            ),
            idle(case, results),
        ));
    }
    for case in of_kind(|kind| matches!(kind, Kind::Latency { .. })) {
        tables.push((
            format!(
                "{}: both at half of what the slower one can do, from when messages were due",
                case.name
            ),
            latency(case, results),
        ));
    }
    tables
}

fn servers(results: &Results) -> impl Iterator<Item = &str> {
    let peers = results.peers().iter().map(String::as_str);
    [RINGWIRE].into_iter().chain(peers).chain([FLOOR])
}

fn shown(value: Option<f64>) -> String {
    value.map_or_else(String::new, number)
}

/// The least and the most of several rounds.
fn range(values: &[f64]) -> String {
    let least = values.iter().copied().reduce(f64::min);
    let most = values.iter().copied().reduce(f64::max);
    match (least, most) {
        (Some(least), Some(most)) => format!("{}–{}", number(least), number(most)),
        _ => String::new(),
    }
}

/// Median and range of the ratios to a peer.
fn ratio(case: &Case, results: &Results, server: &str) -> [String; 2] {
    if server == RINGWIRE {
        return Default::default();
    }
    let ratios = results.ratios(case.name, server);
    [shown(median(&ratios)), range(&ratios)]
}

fn cost(case: &Case, results: &Results) -> Table {
    let mut table = Table::new(&[
        "server",
        case.figure,
        "least–most",
        "ratio",
        "least–most",
        "per second",
        "busy",
        "p50 µs",
        "p99 µs",
    ]);
    for server in servers(results) {
        let values = results.values(case.name, server);
        let of = |of: fn(&Point) -> Option<f64>| shown(results.middle(case.name, server, of));
        let [ratio, ratios] = ratio(case, results, server);
        table.row([
            server.to_owned(),
            shown(median(&values)),
            range(&values),
            ratio,
            ratios,
            of(|point| point.per_second),
            of(|point| point.busy),
            of(|point| Some(point.latency?.p50_us)),
            of(|point| Some(point.latency?.p99_us)),
        ]);
    }
    table
}

fn idle(case: &Case, results: &Results) -> Table {
    let mut table = Table::new(&[
        "server",
        "user",
        "least–most",
        "ratio",
        "least–most",
        "kernel",
    ]);
    for server in servers(results) {
        let values = results.values(case.name, server);
        let [ratio, ratios] = ratio(case, results, server);
        let kernel = kernel_bytes(case, results, server);
        table.row([
            server.to_owned(),
            shown(median(&values)),
            range(&values),
            ratio,
            ratios,
            kernel.map_or_else(|| "unknown".to_owned(), number),
        ]);
    }
    table
}

/// Kernel memory beyond that of a socket that is just held, per connection.
fn kernel_bytes(case: &Case, results: &Results, server: &str) -> Option<f64> {
    let held: Option<Vec<f64>> = results.held.iter().copied().collect();
    let all = results.middle(case.name, server, |point| point.kernel_bytes)?;
    Some(all - median(&held?)?)
}

fn latency(case: &Case, results: &Results) -> Table {
    let mut table = Table::new(&[
        "peer",
        "messages/s",
        "p50 µs",
        "ringwire",
        "p99 µs",
        "ringwire",
        "p99.9 µs",
        "ringwire",
        "ratio of p99.9",
        "least–most",
    ]);
    for peer in results.peers() {
        let both = |of: fn(&LatencySummary) -> f64| {
            let theirs = |point: &Point| point.latency.as_ref().map(of);
            let ours = |point: &Point| point.ringwire_latency.as_ref().map(of);
            [
                shown(results.middle(case.name, peer, theirs)),
                shown(results.middle(case.name, peer, ours)),
            ]
        };
        let rate = results.middle(case.name, peer, |point| point.per_second);
        let [p50, our_p50] = both(|latency| latency.p50_us);
        let [p99, our_p99] = both(|latency| latency.p99_us);
        let [p999, our_p999] = both(|latency| latency.p999_us);
        let [ratio, ratios] = ratio(case, results, peer);
        table.row([
            peer.clone(),
            shown(rate),
            p50,
            our_p50,
            p99,
            our_p99,
            p999,
            our_p999,
            ratio,
            ratios,
        ]);
    }
    table
}

/// The table of the README: a row for each case, a column for each server; in brackets ringwire's figure
/// to the peer's.
pub(super) fn summary(cases: &[Case], results: &Results, peers: &[Peer]) -> Table {
    let mut heads = vec!["", RINGWIRE];
    heads.extend(peers.iter().map(|peer| peer.launch.name.as_str()));
    heads.push(FLOOR);
    let mut table = Table::new(&heads);
    let cell = |value: Option<f64>, ratio: Option<f64>| match (value, ratio) {
        (Some(value), Some(ratio)) => format!("{} ({ratio:.2})", number(value)),
        (Some(value), None) => number(value),
        _ => "–".to_owned(),
    };
    for case in cases {
        let mut row = vec![format!("{}, {}", case.name, case.figure)];
        let ours = median(&results.values(case.name, RINGWIRE));
        row.push(cell(ours, None));
        for peer in results.peers() {
            let ratio = median(&results.ratios(case.name, peer));
            let theirs = median(&results.values(case.name, peer));
            // Each pair has a rate of its own, and so a figure of ringwire's own.
            let ours = results.middle(case.name, peer, |point| point.ringwire);
            let pair = ours.map(|ours| format!("{} / ", number(ours)));
            row.push(pair.unwrap_or_default() + &cell(theirs, ratio));
        }
        let floor = median(&results.values(case.name, FLOOR));
        row.push(cell(floor, median(&results.ratios(case.name, FLOOR))));
        table.row(row);
        match case.kind {
            Kind::Handshakes { .. } => {
                let per_second =
                    |server: &str| results.middle(case.name, server, |point| point.per_second);
                further(&mut table, results, "connects per second", per_second);
            }
            Kind::Idle => {
                let kernel = |server: &str| kernel_bytes(case, results, server);
                let name = "idle memory, kernel bytes/connection beyond a held socket";
                further(&mut table, results, name, kernel);
            }
            _ => {}
        }
    }
    table
}

/// A row without ratios.
fn further(table: &mut Table, results: &Results, name: &str, of: impl Fn(&str) -> Option<f64>) {
    let mut row = vec![name.to_owned()];
    row.extend(servers(results).map(|server| of(server).map_or_else(|| "–".to_owned(), number)));
    table.row(row);
}

/// What stands above [`headroom`].
pub(super) const HEADROOM: &str =
    "how low a ratio to Bun's can get: bare sockets do nothing but receive and send";

/// Where a bound asks for less of Bun's cost than the sockets alone take.
pub(super) fn headroom(cases: &[Case], results: &Results) -> Option<Table> {
    let mut table = Table::new(&["", "ringwire to Bun's", "bare sockets to Bun's", "bound"]);
    let mut any = false;
    for case in cases {
        if matches!(case.kind, Kind::Idle | Kind::Latency { .. }) {
            continue;
        }
        let ours = median(&results.ratios(case.name, BUN));
        let floor = median(&results.ratios_of(FLOOR, case.name, BUN));
        any |= floor.is_some();
        table.row([
            format!("{}, {}", case.name, case.figure),
            shown(ours),
            shown(floor),
            number(case.at_most),
        ]);
    }
    any.then_some(table)
}

/// Every figure in which a peer is ahead, in words.
pub(super) fn where_peers_are_better(cases: &[Case], results: &Results) -> Vec<String> {
    let mut lines = Vec::new();
    for case in cases {
        for peer in results.peers() {
            for Rivals { figure, rounds } in rivals(case, results, peer) {
                let ratio = median(&rounds.iter().map(Round::ratio).collect::<Vec<_>>());
                let middle = |of: fn(&Round) -> f64| {
                    let values: Vec<f64> = rounds.iter().map(of).collect();
                    median(&values).map_or_else(String::new, number)
                };
                if let Some(ratio) = ratio.filter(|&ratio| ratio > 1.0) {
                    let ours = middle(|round| round.ours);
                    let theirs = middle(|round| round.theirs);
                    lines.push(format!(
                        "{}, {figure}: {peer} {theirs}, ringwire {ours} ({ratio:.3} × worse)",
                        case.name
                    ));
                }
            }
        }
    }
    if lines.is_empty() {
        lines.push("nowhere in this run".to_owned());
    }
    lines
}

/// A figure of ringwire's and of a peer's, round by round.
struct Rivals {
    figure: &'static str,
    rounds: Vec<Round>,
}

struct Round {
    ours: f64,
    theirs: f64,
    more_is_better: bool,
}

impl Round {
    /// Above 1: the peer is ahead.
    fn ratio(&self) -> f64 {
        match self.more_is_better {
            true => self.theirs / self.ours,
            false => self.ours / self.theirs,
        }
    }
}

/// Everything that is compared in one case.
fn rivals(case: &Case, results: &Results, peer: &str) -> Vec<Rivals> {
    let theirs = results.of(case.name, peer);
    let own = results.of(case.name, RINGWIRE);
    let rivals = |figure, more_is_better, of: &dyn Fn(usize) -> Option<(f64, f64)>| {
        let pairs = (0..theirs.len()).map(|round| {
            let (ours, theirs) = of(round)?;
            Some(Round {
                ours,
                theirs,
                more_is_better,
            })
        });
        let rounds: Option<Vec<Round>> = pairs.collect();
        rounds.map(|rounds| Rivals { figure, rounds })
    };
    let main = rivals(case.figure, false, &|round| {
        let ours = match theirs[round].ringwire {
            Some(ours) => ours,
            None => own.get(round)?.value,
        };
        Some((ours, theirs[round].value))
    });
    let more = match case.kind {
        Kind::Idle => {
            // Beyond a socket that is just held, which is the same for both.
            let figure = "kernel bytes/connection beyond a held socket";
            vec![rivals(figure, false, &|round| {
                let held = results.held.get(round).copied()??;
                let ours = own.get(round)?.kernel_bytes? - held;
                Some((ours, theirs[round].kernel_bytes? - held))
            })]
        }
        Kind::Latency { .. } => {
            let latency = |figure, of: fn(&LatencySummary) -> f64| {
                rivals(figure, false, &|round| {
                    let point = &theirs[round];
                    Some((of(&point.ringwire_latency?), of(&point.latency?)))
                })
            };
            vec![
                latency("p50 µs", |latency| latency.p50_us),
                latency("p99 µs", |latency| latency.p99_us),
            ]
        }
        _ => vec![rivals("per second", true, &|round| {
            Some((own.get(round)?.per_second?, theirs[round].per_second?))
        })],
    };
    [main].into_iter().chain(more).flatten().collect()
}

/// The figures with their bounds: against Bun where it was asked for, and latency against the best peer.
pub(super) fn verdicts(cases: &[Case], results: &Results, bun: bool) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for case in cases {
        match case.kind {
            Kind::Latency { .. } => {
                // At the rate of each pair: who is no worse than every peer is no worse than the best.
                let worst = results
                    .peers()
                    .iter()
                    .filter_map(|peer| Some((median(&results.ratios(case.name, peer))?, peer)))
                    .max_by(|left, right| left.0.total_cmp(&right.0));
                let beside = worst.map_or_else(String::new, |(_, peer)| format!(" ({peer})"));
                verdicts.push(Verdict::at_most(
                    format!("{}: p99.9 to the best peer's{beside}", case.name),
                    worst.map(|(ratio, _)| ratio),
                    case.at_most,
                ));
            }
            _ if bun => verdicts.push(Verdict::at_most(
                format!("{}: {} to Bun's", case.name, case.figure),
                median(&results.ratios(case.name, BUN)),
                case.at_most,
            )),
            _ => {}
        }
    }
    verdicts
}

#[cfg(test)]
mod tests {
    use super::super::cases;
    use super::*;

    fn results(ours: f64, theirs: f64) -> (Vec<Case>, Results) {
        let mut results = Results::new([BUN.to_owned()].into_iter());
        let cases: Vec<Case> = cases::all(true)
            .into_iter()
            .filter(|case| matches!(case.kind, Kind::Echo { .. }))
            .take(1)
            .collect();
        for (server, value) in [(RINGWIRE, ours), (BUN, theirs)] {
            let point = Point {
                value,
                per_second: Some(1e6 / value),
                ..Point::default()
            };
            results.add(cases[0].name, server, point);
        }
        (cases, results)
    }

    #[test]
    fn what_a_peer_does_better_is_said() {
        let (cases, behind) = results(3.0, 2.0);
        let lines = where_peers_are_better(&cases, &behind);
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(
            lines[0].contains("bun 2.000, ringwire 3.000 (1.500 × worse)"),
            "{lines:?}"
        );
        assert!(lines[1].contains("per second"), "{lines:?}");
        let verdicts = verdicts(&cases, &behind, true);
        assert!(verdicts.len() == 1 && !verdicts[0].reached);
        let (cases, ahead) = results(1.0, 2.0);
        assert_eq!(
            where_peers_are_better(&cases, &ahead),
            ["nowhere in this run"]
        );
        assert!(self::verdicts(&cases, &ahead, true)[0].reached);
    }

    #[test]
    fn a_pair_in_which_the_peer_is_faster_is_said() {
        let all = cases::all(true).into_iter();
        let cases: Vec<Case> = all
            .filter(|case| matches!(case.kind, Kind::Latency { .. }))
            .collect();
        let latency = |us: f64| LatencySummary {
            p50_us: us,
            p99_us: 2.0 * us,
            p999_us: 3.0 * us,
            ..LatencySummary::default()
        };
        let mut results = Results::new([BUN.to_owned(), "ws".to_owned()].into_iter());
        for (peer, theirs) in [(BUN, 10.0), ("ws", 30.0)] {
            let point = Point {
                value: latency(theirs).p999_us,
                ringwire: Some(latency(20.0).p999_us),
                latency: Some(latency(theirs)),
                ringwire_latency: Some(latency(20.0)),
                ..Point::default()
            };
            results.add(cases[0].name, peer, point);
        }
        let lines = where_peers_are_better(&cases, &results);
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(
            lines
                .iter()
                .all(|line| line.contains("bun") && line.contains("2.000 × worse"))
        );
        // The bound is about the best peer, whoever else is worse.
        let verdicts = verdicts(&cases, &results, true);
        assert_eq!(verdicts[0].value, Some(2.0));
        assert!(verdicts[0].figure.contains("(bun)"));
    }

    #[test]
    fn kernel_memory_is_compared_beyond_a_held_socket() {
        let all = cases::all(true).into_iter();
        let cases: Vec<Case> = all.filter(|case| matches!(case.kind, Kind::Idle)).collect();
        let mut results = Results::new([BUN.to_owned()].into_iter());
        results.held.push(Some(8_000.0));
        for (server, user, kernel) in [(RINGWIRE, 100.0, 8_300.0), (BUN, 1_000.0, 8_200.0)] {
            let point = Point {
                value: user,
                kernel_bytes: Some(kernel),
                ..Point::default()
            };
            results.add(cases[0].name, server, point);
        }
        let lines = where_peers_are_better(&cases, &results);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(
            lines[0].contains("bun 200, ringwire 300 (1.500 × worse)"),
            "{lines:?}"
        );
    }

    #[test]
    fn bare_sockets_are_shown_and_are_no_peer() {
        let (cases, mut results) = results(3.0, 4.0);
        assert!(headroom(&cases, &results).is_none());
        let floor = Point {
            value: 2.0,
            ..Point::default()
        };
        results.add(cases[0].name, FLOOR, floor);
        let table = headroom(&cases, &results).expect("a floor").markdown();
        assert!(table.contains("| 0.750 | 0.500 |"), "{table}");
        let table = summary(&cases, &results, &[]).markdown();
        assert!(table.contains("2.000 (1.50)"), "{table}");
        let lines = where_peers_are_better(&cases, &results);
        assert_eq!(lines, ["nowhere in this run"], "it serves nobody");
    }

    #[test]
    fn a_peer_that_is_gone_reaches_nothing() {
        let (cases, mut results) = results(1.0, 2.0);
        results.forget(BUN);
        let table = summary(&cases, &results, &[]).markdown();
        assert!(!table.contains("bun"), "{table}");
        let latency = cases::all(true)
            .into_iter()
            .filter(|case| matches!(case.kind, Kind::Latency { .. }))
            .collect::<Vec<_>>();
        let verdicts = verdicts(&latency, &results, true);
        assert!(verdicts.len() == 1 && !verdicts[0].reached);
    }
}
