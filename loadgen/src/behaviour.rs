//! How a backend behaves: how fast, with which status, how large its answers are.

use std::time::Duration;

/// How long an answer takes: drawn for each request, evenly between two bounds; a share of them from slower bounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// Shortest and longest of the usual answers. Both zero: at once.
    pub usual: (Duration, Duration),
    /// Shortest and longest of the slow answers.
    pub slow: (Duration, Duration),
    /// How many of a thousand answers are slow; at most 1,000.
    pub slow_permille: u16,
}

impl Latency {
    /// Always the same.
    #[must_use]
    pub fn fixed(latency: Duration) -> Self {
        Self { usual: (latency, latency), slow: (latency, latency), slow_permille: 0 }
    }

    /// A usual service: 99 % in 1 to 3 ms, 1 % in 20 to 40 ms.
    #[must_use]
    pub fn service() -> Self {
        let millis = |from, to| (Duration::from_millis(from), Duration::from_millis(to));
        Self { usual: millis(1, 3), slow: millis(20, 40), slow_permille: 10 }
    }

    pub(crate) fn draw(&self, random: &mut Random) -> Duration {
        let is_slow = random.below(1_000) < u64::from(self.slow_permille);
        let (from, to) = if is_slow { self.slow } else { self.usual };
        let spread = u64::try_from(to.saturating_sub(from).as_nanos()).unwrap_or(u64::MAX - 1);
        from + Duration::from_nanos(random.below(spread + 1))
    }
}

/// Everything about a backend's answers that can be changed while it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Behaviour {
    /// How long an answer takes.
    pub latency: Latency,
    /// So many of ten thousand answers take [`Self::rare_latency`] instead; at most 10,000. For a tail beyond the
    /// 99.9th percentile.
    pub rare_per_10_000: u16,
    /// See [`Self::rare_per_10_000`].
    pub rare_latency: Duration,
    /// Added to every answer but those of the health path: a brownout.
    pub extra: Duration,
    /// The status of every answer but those of the health path, 200 to 599.
    pub status: u16,
    /// A path that is answered at once, is not counted and is not written to the journal.
    pub health: Option<Health>,
    /// The body; none: a short JSON text that names cluster and endpoint.
    pub body: Option<Bulk>,
}

/// The health path of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// The request-target.
    pub path: String,
    /// The status of its answers, 200 to 599.
    pub status: u16,
}

/// A large body that takes its time: sent in equal pieces with a pause before each but the first.
///
/// Requests with an even number (see [`crate::Journal`]) are answered with Content-Length, those with an odd one
/// chunked: a body that is cut must be seen to be cut in both framings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bulk {
    /// Bytes of the body.
    pub bytes: usize,
    /// Pieces, at least 1.
    pub pieces: u32,
    /// Between two pieces.
    pub pause: Duration,
}

impl Behaviour {
    /// Answers 200 with a short text after `latency`.
    #[must_use]
    pub fn steady(latency: Latency) -> Self {
        Self {
            latency,
            rare_per_10_000: 0,
            rare_latency: Duration::ZERO,
            extra: Duration::ZERO,
            status: 200,
            health: None,
            body: None,
        }
    }

    /// The latency of one answer, without [`Self::extra`].
    pub(crate) fn draw(&self, random: &mut Random) -> Duration {
        if random.below(10_000) < u64::from(self.rare_per_10_000) {
            return self.rare_latency;
        }
        self.latency.draw(random)
    }
}

/// SplitMix64: latencies need to be spread, not to be secret.
#[derive(Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// Evenly from 0 to `bound` - 1; 0 when `bound` is 0.
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let wide = u128::from(z ^ (z >> 31)) * u128::from(bound);
        u64::try_from(wide >> 64).expect("the upper half of 128 bits")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_service_draws_one_answer_in_a_hundred_from_its_tail() {
        let mut random = Random(1);
        let behaviour = Behaviour {
            rare_per_10_000: 10,
            rare_latency: Duration::from_secs(1),
            ..Behaviour::steady(Latency::service())
        };
        let drawn: Vec<_> = (0..100_000).map(|_| behaviour.draw(&mut random).as_micros()).collect();
        let within = |from, to| drawn.iter().filter(|latency| (from..=to).contains(*latency)).count();
        assert_eq!(within(1_000, 3_000) + within(20_000, 40_000) + within(1_000_000, 1_000_000), 100_000);
        assert!((800..1_200).contains(&within(20_000, 40_000)), "{}", within(20_000, 40_000));
        assert!((60..140).contains(&within(1_000_000, 1_000_000)), "{}", within(1_000_000, 1_000_000));
    }
}
