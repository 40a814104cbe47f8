//! What was measured, by case and server.

use std::collections::BTreeMap;

use anyhow::Context as _;
use ringwire::load::LatencySummary;
use ringwire::load::statistics::median;
use serde::Serialize;

use super::cases::Window;
use crate::idle::Growth;
use crate::measure::Sample;

/// What ringwire is called.
pub(super) const RINGWIRE: &str = "ringwire";
/// What the baselines are called together: the least that can be done with a socket.
pub(super) const FLOOR: &str = "bare sockets";

/// Memory of idle connections, as raw data.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Idle {
    pub(super) case: String,
    pub(super) server: String,
    pub(super) round: u32,
    /// The numbers of connections between which it grew.
    pub(super) connections: [u32; 2],
    /// Per connection.
    pub(super) user_bytes: f64,
    /// Per connection, with both of its ends; `None` for anyone but root.
    pub(super) kernel_bytes: Option<f64>,
}

impl Idle {
    pub(super) fn of(
        case: &str,
        server: &str,
        round: u32,
        growth: &Growth,
        connections: [u32; 2],
    ) -> anyhow::Result<Self> {
        let user_bytes = growth.user_bytes();
        Ok(Self {
            case: case.to_owned(),
            server: server.to_owned(),
            round,
            connections,
            user_bytes: user_bytes.context("both points have as many connections")?,
            kernel_bytes: growth.kernel_bytes(),
        })
    }
}

/// Kernel memory of sockets that are just held, as raw data.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Held {
    pub(super) server: String,
    pub(super) round: u32,
    pub(super) kernel_bytes: Option<f64>,
}

/// ringwire and a peer at the same rate, as raw data.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Pair {
    pub(super) case: String,
    pub(super) server: String,
    pub(super) round: u32,
    /// Messages per second that were due.
    pub(super) rate: u32,
    pub(super) ringwire: Window,
    pub(super) peer: Window,
}

/// What one round gave for one case and server.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Point {
    /// The compared figure: less is better.
    pub(super) value: f64,
    /// ringwire's in the same pair. `None`: it has a point of its own.
    pub(super) ringwire: Option<f64>,
    /// Messages, deliveries or handshakes per second that came back, or were due.
    pub(super) per_second: Option<f64>,
    pub(super) busy: Option<f64>,
    pub(super) latency: Option<LatencySummary>,
    /// ringwire's in the same pair.
    pub(super) ringwire_latency: Option<LatencySummary>,
    /// Kernel slab per idle connection, with both ends.
    pub(super) kernel_bytes: Option<f64>,
}

impl Point {
    pub(super) fn of_sample(sample: &Sample) -> Self {
        Self {
            value: sample.cpu_us(),
            per_second: Some(sample.rate()),
            busy: Some(sample.busy()),
            // Handshakes have none.
            latency: (sample.latency.count > 0).then_some(sample.latency),
            ..Self::default()
        }
    }

    pub(super) fn of_idle(idle: &Idle) -> Self {
        Self {
            value: idle.user_bytes,
            kernel_bytes: idle.kernel_bytes,
            ..Self::default()
        }
    }

    pub(super) fn of_pair(pair: &Pair) -> Self {
        Self {
            value: pair.peer.latency.p999_us,
            ringwire: Some(pair.ringwire.latency.p999_us),
            per_second: Some(pair.rate.into()),
            busy: Some(pair.peer.busy),
            latency: Some(pair.peer.latency),
            ringwire_latency: Some(pair.ringwire.latency),
            ..Self::default()
        }
    }
}

/// All points.
pub(super) struct Results {
    points: BTreeMap<(&'static str, String), Vec<Point>>,
    /// The peers, in the order in which they are shown.
    peers: Vec<String>,
    /// What the kernel keeps for a socket that is just held, by round.
    pub(super) held: Vec<Option<f64>>,
}

impl Results {
    pub(super) fn new(peers: impl Iterator<Item = String>) -> Self {
        Self {
            points: BTreeMap::new(),
            peers: peers.collect(),
            held: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, case: &'static str, server: &str, point: Point) {
        let points = self.points.entry((case, server.to_owned())).or_default();
        points.push(point);
    }

    /// As if this peer had never been there.
    pub(super) fn forget(&mut self, peer: &str) {
        self.peers.retain(|name| name != peer);
        self.points.retain(|(_, server), _| server != peer);
    }

    /// The peers whose figures count.
    pub(super) fn peers(&self) -> &[String] {
        &self.peers
    }

    /// The points of a case, one per round.
    pub(super) fn of(&self, case: &'static str, server: &str) -> &[Point] {
        self.points
            .get(&(case, server.to_owned()))
            .map_or(&[], Vec::as_slice)
    }

    /// The values of a case, round by round.
    pub(super) fn values(&self, case: &'static str, server: &str) -> Vec<f64> {
        self.of(case, server)
            .iter()
            .map(|point| point.value)
            .collect()
    }

    /// The median of something over the rounds; `None` where a round has none.
    pub(super) fn middle(
        &self,
        case: &'static str,
        server: &str,
        of: impl Fn(&Point) -> Option<f64>,
    ) -> Option<f64> {
        let values: Option<Vec<f64>> = self.of(case, server).iter().map(of).collect();
        median(&values?)
    }

    /// ringwire's figure to a peer's, round by round.
    pub(super) fn ratios(&self, case: &'static str, peer: &str) -> Vec<f64> {
        self.ratios_of(RINGWIRE, case, peer)
    }

    /// A server's figure to a peer's, round by round.
    pub(super) fn ratios_of(&self, server: &str, case: &'static str, peer: &str) -> Vec<f64> {
        let theirs = self.of(case, peer);
        let ours = self.of(case, server);
        let paired = theirs.iter().enumerate().filter_map(|(round, point)| {
            let ours = point.ringwire.or(ours.get(round).map(|ours| ours.value))?;
            Some(ours / point.value)
        });
        paired.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(value: f64) -> Point {
        Point {
            value,
            ..Point::default()
        }
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        let mut results = Results::new(["bun".to_owned()].into_iter());
        for (ours, theirs) in [(1.0, 2.0), (30.0, 40.0)] {
            results.add("case", RINGWIRE, point(ours));
            results.add("case", "bun", point(theirs));
        }
        assert_eq!(results.ratios("case", "bun"), [0.5, 0.75]);
        assert!(results.ratios("other", "bun").is_empty());
        results.forget("bun");
        assert!(results.peers().is_empty());
    }

    #[test]
    fn a_pair_brings_its_own_figure_of_ringwire() {
        let mut results = Results::new(["bun".to_owned()].into_iter());
        let pair = Point {
            ringwire: Some(3.0),
            ..point(4.0)
        };
        results.add("latency", "bun", pair);
        assert_eq!(results.ratios("latency", "bun"), [0.75]);
        assert_eq!(results.middle("latency", "bun", |point| point.busy), None);
    }
}
