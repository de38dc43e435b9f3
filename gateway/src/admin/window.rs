//! The last ten seconds: rates and latency quantiles from what the counters stood at once a second.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use routing::id::ClusterId;
use routing::time::MonoTime;

use super::names::{self, has_counters};
use crate::observe::histogram::Snapshot;
use crate::observe::metrics::TallySum;
use crate::observe::stats::WorkerStats;

/// How far back rates and quantiles look.
pub const SPAN: Duration = Duration::from_secs(10);
/// How often the counters are noted.
pub const INTERVAL: Duration = Duration::from_secs(1);
/// Notes kept: one for each interval of the span, and the one that it starts from.
const SAMPLES_MAX: usize = 11;

/// What the counters stood at.
#[derive(Default)]
struct Sample {
    at: MonoTime,
    node: Count,
    clusters: BTreeMap<ClusterId, Count>,
}

/// Responses, failures and latency, of the node or of a cluster.
#[derive(Clone, Default)]
pub(super) struct Count {
    pub(super) tally: TallySum,
    pub(super) latency: Snapshot,
}

/// What happened within the window.
#[derive(Clone, Default)]
pub(super) struct Recent {
    /// How long the window is: shorter than [`SPAN`] after the start.
    pub(super) span: Duration,
    /// All requests of the node.
    pub(super) node: Count,
    clusters: BTreeMap<ClusterId, Count>,
}

impl Recent {
    /// A cluster's part.
    pub(super) fn cluster(&self, id: ClusterId) -> Count {
        self.clusters.get(&id).cloned().unwrap_or_default()
    }

    /// `count` events per second.
    #[expect(clippy::cast_precision_loss, reason = "a rate for people to read")]
    pub(super) fn rate(&self, count: u64) -> f64 {
        let seconds = self.span.as_secs_f64();
        if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
    }
}

/// The notes of the last [`SPAN`].
#[derive(Default)]
pub(super) struct Window(VecDeque<Sample>);

impl Window {
    /// Notes what the counters stand at. To be called once in an [`INTERVAL`].
    pub(super) fn note(&mut self, now: MonoTime, workers: &[Arc<WorkerStats>], clusters: &[ClusterId]) {
        if self.0.len() == SAMPLES_MAX {
            self.0.pop_front();
        }
        self.0.push_back(sample(now, workers, clusters));
    }

    /// What happened since the oldest note.
    pub(super) fn recent(
        &self,
        now: MonoTime,
        workers: &[Arc<WorkerStats>],
        clusters: &[ClusterId],
    ) -> Recent {
        let Some(oldest) = self.0.front() else { return Recent::default() };
        let latest = sample(now, workers, clusters);
        let clusters = latest.clusters.iter().map(|(id, count)| {
            // A cluster that came later has counted from zero, or from where its number's last owner left off.
            let base = self.0.iter().find_map(|sample| sample.clusters.get(id));
            (*id, base.map_or_else(Count::default, |base| count.since(base)))
        });
        Recent {
            span: now.since(oldest.at),
            node: latest.node.since(&oldest.node),
            clusters: clusters.collect(),
        }
    }
}

impl Count {
    pub(super) fn since(&self, earlier: &Self) -> Self {
        Self { tally: self.tally.since(&earlier.tally), latency: self.latency.since(&earlier.latency) }
    }
}

fn sample(at: MonoTime, workers: &[Arc<WorkerStats>], clusters: &[ClusterId]) -> Sample {
    let mut node = Count::default();
    for stats in workers {
        node.tally.add(&stats.responses);
        stats.latency.read(&mut node.latency);
    }
    let own = clusters.iter().filter(|id| has_counters(**id));
    let clusters = own.map(|id| {
        let names::ClusterBase { tally, latency } = names::cluster_base(workers, *id);
        (*id, Count { tally, latency })
    });
    Sample { at, node, clusters: clusters.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_quantiles_forget_what_is_older_than_the_span() {
        let workers = [Arc::new(WorkerStats::new(1)), Arc::new(WorkerStats::new(1))];
        let alpha = ClusterId(0);
        let mut window = Window::default();
        let second = |n: u64| MonoTime(n * 1_000_000_000);
        let answer = |worker: usize, latency_ms: u64| {
            let stats = workers[worker].cluster(alpha);
            stats.tally.response(200);
            stats.latency.record(Duration::from_millis(latency_ms));
        };
        window.note(second(0), &workers, &[alpha]);
        for _ in 0..100 {
            answer(0, 500);
        }
        for now in 1..=20 {
            for worker in [0, 1] {
                answer(worker, 10);
            }
            window.note(second(now), &workers, &[alpha]);
        }
        let recent = window.recent(second(20), &workers, &[alpha]);
        assert_eq!(recent.span, SPAN);
        let count = recent.cluster(alpha);
        assert_eq!(count.tally.responses(), 20);
        assert!((recent.rate(count.tally.responses()) - 2.0).abs() < 1e-9);
        assert!(
            count.latency.quantile(1.0) < Duration::from_millis(12),
            "the slow second has left the window"
        );
    }
}
