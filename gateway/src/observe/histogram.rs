//! Latency histograms that one worker writes and anybody reads.
//!
//! Log-linear: eight buckets for each power of two, so a value is known to 12.5 %. A bucket is one relaxed load and
//! store of its only writer: no read-modify-write, no lock, no allocation, and a scrape costs the worker nothing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Buckets: values below 2^13 ns (8 µs) share the first octave; 2^36 ns (69 s) and above share the last bucket.
pub const BUCKETS: usize = 8 * OCTAVES + 1;
const OCTAVES: usize = 24;
const FIRST_SHIFT: u32 = 13;

/// One histogram.
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    sum_ns: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: [const { AtomicU64::new(0) }; BUCKETS], sum_ns: AtomicU64::new(0) }
    }
}

impl Histogram {
    /// Counts one value.
    pub fn record(&self, value: Duration) {
        let ns = u64::try_from(value.as_nanos()).unwrap_or(u64::MAX);
        add(&self.buckets[bucket_of(ns)], 1);
        add(&self.sum_ns, ns);
    }

    /// Adds what was counted so far to `into`.
    pub fn read(&self, into: &mut Snapshot) {
        for (bucket, sum) in self.buckets.iter().zip(into.buckets.iter_mut()) {
            *sum += bucket.load(Ordering::Relaxed);
        }
        into.sum_ns += self.sum_ns.load(Ordering::Relaxed);
    }
}

/// A sum of histograms at one moment.
#[derive(Clone)]
pub struct Snapshot {
    /// Count of each bucket.
    pub buckets: [u64; BUCKETS],
    /// Sum of all values in nanoseconds.
    pub sum_ns: u64,
}

impl Default for Snapshot {
    fn default() -> Self {
        Self { buckets: [0; BUCKETS], sum_ns: 0 }
    }
}

impl Snapshot {
    /// Number of values.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// What was counted since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut out = self.clone();
        for (now, then) in out.buckets.iter_mut().zip(&earlier.buckets) {
            *now = now.saturating_sub(*then);
        }
        out.sum_ns = out.sum_ns.saturating_sub(earlier.sum_ns);
        out
    }

    /// The value below which the share `q` (0 to 1) lies, as the upper edge of its bucket. Zero when empty.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        clippy::cast_possible_truncation,
        reason = "a rank among counts; exactness beyond 2^52 requests is not needed"
    )]
    pub fn quantile(&self, q: f64) -> Duration {
        let rank = ((self.count() as f64 * q).ceil() as u64).max(1);
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Duration::from_nanos(upper_edge(index));
            }
        }
        Duration::ZERO
    }
}

/// The first value that no longer belongs to bucket `index`, in nanoseconds.
#[must_use]
pub fn upper_edge(index: usize) -> u64 {
    let octave = index / 8;
    let step = index as u64 % 8 + 1;
    if octave == 0 {
        return step << (FIRST_SHIFT - 3);
    }
    let base = 1_u64 << (FIRST_SHIFT as usize + octave - 1);
    base + (base >> 3) * step
}

fn bucket_of(ns: u64) -> usize {
    if ns < 1 << FIRST_SHIFT {
        return (ns >> (FIRST_SHIFT - 3)) as usize;
    }
    let top = 63 - ns.leading_zeros();
    let octave = (top - FIRST_SHIFT + 1) as usize;
    let step = ((ns >> (top - 3)) & 7) as usize;
    (octave * 8 + step).min(BUCKETS - 1)
}

/// Adds to a counter that has one writer.
pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_below_its_buckets_edge_and_not_below_the_one_before() {
        for exponent in 0..36 {
            for offset in [0_u64, 1, 3, 7] {
                let ns = (1_u64 << exponent) + offset * (1 << exponent) / 8;
                let bucket = bucket_of(ns);
                assert!(ns < upper_edge(bucket), "{ns} in bucket {bucket}");
                assert!(bucket == 0 || ns >= upper_edge(bucket - 1), "{ns} in bucket {bucket}");
            }
        }
    }

    #[test]
    fn quantiles_of_a_known_distribution_are_within_a_bucket() {
        let histogram = Histogram::default();
        for ms in 1..=1000 {
            histogram.record(Duration::from_millis(ms));
        }
        let mut snapshot = Snapshot::default();
        histogram.read(&mut snapshot);
        assert_eq!(snapshot.count(), 1000);
        let p99 = snapshot.quantile(0.99).as_millis();
        assert!((990..=1115).contains(&p99), "{p99}");
    }
}
