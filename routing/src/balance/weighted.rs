//! A weighted choice in one pass, without a list of the candidates.

use rand::Rng;
use rand::rngs::SmallRng;

/// Keeps one of the offers of the best rank seen so far, each with a probability in proportion to its weight.
///
/// Weighted reservoir sampling: an offer replaces the kept one with probability `weight / total so far`.
#[derive(Debug)]
pub(crate) struct Reservoir<R, T> {
    kept: Option<(R, T)>,
    total: u64,
}

impl<R: Ord, T> Reservoir<R, T> {
    pub(crate) fn new() -> Self {
        Self { kept: None, total: 0 }
    }

    /// Offers `item`. A lower rank beats every higher one; `weight` counts among offers of the same rank.
    pub(crate) fn offer(&mut self, rank: R, weight: u64, item: T, rng: &mut SmallRng) {
        match &self.kept {
            Some((kept, _)) if *kept < rank => return,
            Some((kept, _)) if *kept == rank => {}
            Some(_) | None => {
                self.kept = Some((rank, item));
                self.total = weight;
                return;
            }
        }
        self.total += weight;
        if weight > 0 && rng.random_range(0..self.total) < weight {
            self.kept = Some((rank, item));
        }
    }

    /// The kept offer with its rank.
    pub(crate) fn take(self) -> Option<(R, T)> {
        self.kept
    }
}
