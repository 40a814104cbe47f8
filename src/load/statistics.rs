//! Numbers from repeated measurements: latencies, medians, ratios.

use hdrhistogram::Histogram;
use serde::Serialize;

/// Room for latencies up to this is there from the beginning, in nanoseconds; for a longer one it is made
/// when it comes.
const COMMON_NS: u64 = 60_000_000_000;
/// 146 years, in nanoseconds: the histogram keeps no larger number.
const LATENCY_MAX_NS: u64 = i64::MAX as u64 / 2;

/// Round-trip times of one worker or of several together; three significant digits.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        Self::new()
    }
}

impl Latencies {
    /// No latencies yet.
    ///
    /// # Panics
    /// Never: the bounds are constants that the histogram takes.
    #[must_use]
    pub fn new() -> Self {
        let mut histogram = Histogram::new_with_bounds(1, COMMON_NS, 3).expect("constant bounds");
        histogram.auto(true);
        Self(histogram)
    }

    /// Adds one round trip, in nanoseconds.
    pub fn record_ns(&mut self, latency_ns: u64) {
        // Within these bounds it makes room.
        let _ = self.0.record(latency_ns.clamp(1, LATENCY_MAX_NS));
    }

    /// Adds those of another worker.
    pub fn merge(&mut self, other: &Self) {
        // It makes room for what the other one has, so that adding cannot fail.
        let _ = self.0.add(&other.0);
    }

    /// The latency that this part (0 to 1) of them did not exceed, in microseconds; 0 when there is none.
    #[must_use]
    pub fn quantile_us(&self, quantile: f64) -> f64 {
        self.0.value_at_quantile(quantile) as f64 / 1_000.0
    }

    /// How many were at most how long (in microseconds) and longer than the entry before; without those
    /// of which there are none.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> {
        let recorded = self.0.iter_recorded();
        recorded.map(|bucket| {
            let up_to_us = bucket.value_iterated_to() as f64 / 1_000.0;
            (up_to_us, bucket.count_at_value())
        })
    }

    /// What to print of them.
    #[must_use]
    pub fn summary(&self) -> LatencySummary {
        let us = |quantile| self.quantile_us(quantile);
        LatencySummary {
            count: self.0.len(),
            p50_us: us(0.5),
            p90_us: us(0.9),
            p99_us: us(0.99),
            p999_us: us(0.999),
            max_us: self.0.max() as f64 / 1_000.0,
        }
    }
}

/// Percentiles of round-trip times, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct LatencySummary {
    /// How many were measured.
    pub count: u64,
    /// The median.
    pub p50_us: f64,
    /// Nine of ten were at most this.
    pub p90_us: f64,
    /// 99 of 100.
    pub p99_us: f64,
    /// 999 of 1,000.
    pub p999_us: f64,
    /// The longest.
    pub max_us: f64,
}

/// The middle of `values` (the mean of the two middle ones when their number is even).
/// `None` when there is none; values that are no number sort last.
#[must_use]
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

/// The median of the ratios `measured[i] / reference[i]` of rounds that ran next to each other:
/// what slows the machine for a while slows both. `None` without a complete pair.
#[must_use]
pub fn paired_ratio(measured: &[f64], reference: &[f64]) -> Option<f64> {
    let ratios: Vec<f64> = measured
        .iter()
        .zip(reference)
        .map(|(measured, reference)| measured / reference)
        .collect();
    median(&ratios)
}

/// Growth of `y` per unit of `x` between two points; `None` when they have the same `x`.
#[must_use]
pub fn slope((x0, y0): (f64, f64), (x1, y1): (f64, f64)) -> Option<f64> {
    (x0 != x1).then(|| (y1 - y0) / (x1 - x0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_median_of_few() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0]), Some(5.0));
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
    }

    #[test]
    fn a_slow_round_hits_both_sides() {
        let ratio = paired_ratio(&[2.0, 20.0, 2.2], &[1.0, 10.0, 1.1]);
        assert!((ratio.unwrap_or_default() - 2.0).abs() < 1e-9);
        assert_eq!(paired_ratio(&[], &[]), None);
    }

    #[test]
    fn slopes() {
        assert_eq!(slope((3_000.0, 1e6), (15_000.0, 2.2e6)), Some(100.0));
        assert_eq!(slope((1.0, 1.0), (1.0, 2.0)), None);
    }

    #[test]
    fn a_latency_of_minutes_is_reported_as_it_was() {
        let minutes_ns = 754_000_000_000;
        let mut latencies = Latencies::new();
        latencies.record_ns(minutes_ns);
        latencies.record_ns(1_000);
        let mut together = Latencies::new();
        together.record_ns(2_000);
        together.merge(&latencies);
        for (latencies, count) in [(latencies, 2), (together, 3)] {
            let summary = latencies.summary();
            assert_eq!(summary.count, count);
            let off = summary.max_us / (minutes_ns as f64 / 1e3) - 1.0;
            assert!((0.0..0.001).contains(&off), "{summary:?}");
            assert_eq!(latencies.buckets().last().map(|(_, count)| count), Some(1));
        }
    }

    proptest! {
        #[test]
        fn a_median_lies_between_the_extremes(values in proptest::collection::vec(-1e9f64..1e9, 1..50)) {
            let middle = median(&values).unwrap_or(f64::NAN);
            let least = values.iter().copied().fold(f64::INFINITY, f64::min);
            let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            prop_assert!(least <= middle && middle <= most);
        }

        #[test]
        fn merged_latencies_are_all_counted(first in proptest::collection::vec(any::<u64>(), 0..40),
                                            second in proptest::collection::vec(any::<u64>(), 0..40)) {
            let mut together = Latencies::new();
            let mut other = Latencies::new();
            first.iter().for_each(|&ns| together.record_ns(ns));
            second.iter().for_each(|&ns| other.record_ns(ns));
            together.merge(&other);
            let summary = together.summary();
            prop_assert_eq!(summary.count as usize, first.len() + second.len());
            prop_assert!(summary.p50_us <= summary.p99_us && summary.p99_us <= summary.max_us);
        }
    }
}
