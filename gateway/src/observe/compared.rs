//! What of a worker's statistics one worker is compared with the others by.

use routing::model::StatSlot;

use super::histogram::{Snapshot, upper_edge};
use super::stats::{Tally, WorkerStats};

/// Since the process started.
pub struct Compared {
    /// Requests that were answered, and those of them that failed: 5xx, and 404 for want of a rule.
    pub all: (u64, u64),
    /// The same of each of some routes, 5xx only, in the order in which they were asked for.
    pub routes: Vec<(u64, u64)>,
    /// Panics of tasks and of the worker.
    pub panics: u64,
    /// Requests by duration: upper bound in nanoseconds, count.
    pub latency: Vec<(u64, u64)>,
}

impl WorkerStats {
    /// `routes` of those with these slots.
    #[must_use]
    pub fn compared(&self, slots: &[StatSlot]) -> Compared {
        let (answered, failed) = count(&self.responses);
        let routes = slots.iter().map(|slot| count(self.route(*slot))).collect();
        let mut latency = Snapshot::default();
        self.latency.read(&mut latency);
        Compared {
            all: (answered, failed + self.unmatched_total.get()),
            routes,
            panics: self.panics_total.get() + self.restarts_total.get(),
            latency: latency.buckets.iter().enumerate().map(|(at, count)| (upper_edge(at), *count)).collect(),
        }
    }
}

/// Final answers, and those that say that we or the endpoint failed.
fn count(tally: &Tally) -> (u64, u64) {
    let [_, rest @ ..] = &tally.classes;
    (rest.iter().map(super::stats::Counter::get).sum(), tally.classes[4].get())
}
