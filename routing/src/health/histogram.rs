//! A small histogram of durations that forgets: latencies, gaps between receptions, round trips.
//!
//! Four buckets to an octave (a value is known to within 25 %, quantiles are interpolated), 16-bit counts. All counts
//! are halved every seven seconds, so that what is ten seconds old weighs about a third: no clock of its own, the
//! halving happens at the next record.

use std::time::Duration;

use crate::time::MonoTime;

/// Buckets: 16 µs … 137 s.
const BUCKETS: usize = 88;

/// Values count in units of 2^14 ns = 16 µs.
const UNIT_SHIFT: u32 = 14;

/// After this long every count is halved: a mean life of 10 s.
const HALF_LIFE: Duration = Duration::from_secs(7);

/// See the module. 184 bytes.
#[derive(Clone, Debug)]
pub(crate) struct Histogram {
    counts: [u16; BUCKETS],
    total: u32,
    /// When the counts were halved, in seconds: coarse, it fits the padding.
    halved: u32,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: [0; BUCKETS], total: 0, halved: 0 }
    }
}

impl Histogram {
    pub(crate) fn record(&mut self, value: Duration, now: MonoTime) {
        let second = u32::try_from(now.0 / 1_000_000_000).unwrap_or(u32::MAX);
        if u64::from(second.saturating_sub(self.halved)) >= HALF_LIFE.as_secs() {
            let lives = u64::from(second - self.halved) / HALF_LIFE.as_secs();
            self.halve(u32::try_from(lives).unwrap_or(u32::MAX));
            self.halved = second;
        }
        let bucket = bucket(value);
        if self.counts[bucket] == u16::MAX {
            self.halve(1);
        }
        self.counts[bucket] += 1;
        self.total += 1;
    }

    fn halve(&mut self, times: u32) {
        for count in &mut self.counts {
            *count = count.checked_shr(times).unwrap_or(0);
        }
        self.total = self.counts.iter().map(|count| u32::from(*count)).sum();
    }

    /// Values that it remembers.
    #[cfg(test)]
    fn count(&self) -> u32 {
        self.total
    }

    /// The value below which `permille` of a thousand values lie; `None` with fewer than `least` values.
    pub(crate) fn quantile(&self, permille: u32, least: u32) -> Option<Duration> {
        if self.total < least.max(1) {
            return None;
        }
        let wanted = u64::from(self.total) * u64::from(permille);
        let mut below = 0u64;
        for (bucket, count) in self.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            let count = u64::from(*count) * 1_000;
            if below + count >= wanted {
                let (low, high) = (lower_edge(bucket), lower_edge(bucket + 1));
                return Some(units(low + (high - low) * (wanted - below) / count));
            }
            below += count;
        }
        Some(units(lower_edge(BUCKETS)))
    }

    /// The share of values that are at least `value`, rather too large than too small: one more than was seen, and
    /// all of the bucket that `value` falls into.
    #[allow(clippy::cast_precision_loss, reason = "a share to a few percent")]
    pub(crate) fn share_above(&self, value: Duration) -> f32 {
        let above: u32 = self.counts[bucket(value)..].iter().map(|count| u32::from(*count)).sum();
        (above as f32 + 1.0) / (self.total as f32 + 1.0)
    }

    /// Where the middle of those values lies that are larger than `value`; twice `value` where none is.
    pub(crate) fn middle_above(&self, value: Duration) -> Duration {
        let first = bucket(value) + 1;
        let above: u32 = self.counts[first.min(BUCKETS)..].iter().map(|count| u32::from(*count)).sum();
        let mut below = 0;
        for (bucket, count) in self.counts.iter().enumerate().skip(first) {
            below += u32::from(*count);
            if below * 2 > above {
                return units(lower_edge(bucket));
            }
        }
        value * 2
    }

    /// −log10 of the share of values of at least `value`: how surprising it is. 0 while nothing is known.
    #[allow(clippy::cast_precision_loss, reason = "a figure for thresholds and people")]
    pub(crate) fn phi(&self, value: Duration) -> f32 {
        if self.total == 0 {
            return 0.0;
        }
        let at = bucket(value);
        let above: u32 = self.counts[at..].iter().map(|count| u32::from(*count)).sum();
        // Half a value more than was seen: never infinite, and never more certain than the number of values allows.
        -((above as f32 + 0.5) / (self.total as f32 + 1.0)).log10()
    }
}

fn units(count: u64) -> Duration {
    Duration::from_nanos(count << UNIT_SHIFT)
}

/// The bucket of a value: its two leading bits below the highest one, and how high that is.
fn bucket(value: Duration) -> usize {
    let value = u64::try_from(value.as_nanos()).unwrap_or(u64::MAX) >> UNIT_SHIFT;
    if value < 4 {
        return usize::try_from(value).expect("below 4");
    }
    let highest = 63 - value.leading_zeros();
    let fraction = usize::try_from(value >> (highest - 2) & 3).expect("two bits");
    (((highest - 1) * 4) as usize + fraction).min(BUCKETS - 1)
}

/// The smallest value of a bucket, in units.
fn lower_edge(bucket: usize) -> u64 {
    if bucket < 4 {
        return bucket as u64;
    }
    let (octave, fraction) = (bucket / 4 - 1, bucket as u64 % 4);
    (4 + fraction) << octave
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_and_buckets_agree() {
        for at in 0..BUCKETS {
            assert_eq!(bucket(units(lower_edge(at))), at);
            assert_eq!(bucket(units(lower_edge(at + 1)) - Duration::from_nanos(1)), at);
        }
        assert_eq!(bucket(Duration::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_of_even_values_are_near_the_true_ones() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(500, 0), None);
        for us in 1..=10_000 {
            histogram.record(Duration::from_micros(us), MonoTime::ZERO);
        }
        for (permille, us) in [(500, 5_000.0), (950, 9_500.0), (990, 9_900.0)] {
            let found = histogram.quantile(permille, 1).unwrap().as_secs_f64() * 1e6;
            assert!((found / us - 1.0).abs() < 0.08, "{permille}: {found}");
        }
        assert_eq!(histogram.quantile(500, 10_001), None);
    }

    #[test]
    fn phi_grows_with_rarity_and_is_bounded_by_what_was_seen() {
        let mut histogram = Histogram::default();
        assert!(histogram.phi(Duration::from_secs(1)) < 0.1);
        for _ in 0..1_000 {
            histogram.record(Duration::from_micros(500), MonoTime::ZERO);
        }
        assert!(histogram.phi(Duration::from_micros(100)) < 0.1);
        let rare = histogram.phi(Duration::from_millis(4));
        assert!((3.0..3.5).contains(&rare), "{rare}");
    }

    #[test]
    fn ten_seconds_are_forgotten_by_two_thirds() {
        let mut histogram = Histogram::default();
        for _ in 0..1_000 {
            histogram.record(Duration::from_millis(1), MonoTime::ZERO);
        }
        histogram.record(Duration::from_millis(1), MonoTime(14_000_000_000));
        assert_eq!(histogram.count(), 251);
        histogram.record(Duration::from_millis(1), MonoTime(3_600_000_000_000));
        assert_eq!(histogram.count(), 1);
    }

    #[test]
    fn full_bucket_halves_instead_of_overflowing() {
        let mut histogram = Histogram::default();
        for _ in 0..200_000 {
            histogram.record(Duration::from_millis(1), MonoTime::ZERO);
        }
        assert!((32_768..=65_535).contains(&histogram.count()));
    }
}
