//! What the controller shows of itself, to the admin thread: never to a worker.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use routing::id::Generation;

use crate::operator::Standing;
use crate::verdict::Verdict;

/// Upper bounds of the propagation histogram, nanoseconds; what is above counts in the last bucket.
pub const LAG_BOUNDS_NS: [u64; 14] = [
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_000_000,
    3_000_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    1_000_000_000,
    10_000_000_000,
];

/// From the event that was seen to its application on the last worker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LagHistogram {
    /// Updates by [`LAG_BOUNDS_NS`] (not cumulative); the last bucket has no upper bound.
    pub buckets: [u64; LAG_BOUNDS_NS.len() + 1],
    /// Updates.
    pub count: u64,
    /// Their sum, nanoseconds.
    pub sum_ns: u64,
    /// The longest, nanoseconds.
    pub max_ns: u64,
}

impl LagHistogram {
    /// Counts one update.
    pub fn record(&mut self, lag_ns: u64) {
        let bucket = LAG_BOUNDS_NS.iter().position(|bound| lag_ns <= *bound).unwrap_or(LAG_BOUNDS_NS.len());
        self.buckets[bucket] += 1;
        self.count += 1;
        self.sum_ns = self.sum_ns.saturating_add(lag_ns);
        self.max_ns = self.max_ns.max(lag_ns);
    }
}

/// The state of the controller as last published.
#[derive(Clone, Debug, Default)]
pub struct ControllerView {
    /// The newest generation that was broadcast.
    pub generation: Generation,
    /// What each worker runs, as far as it has said.
    pub applied: Vec<Generation>,
    /// Everything that there was at the start has been seen and broadcast.
    pub synced: bool,
    /// Objects known, by kind.
    pub objects: BTreeMap<String, usize>,
    /// Routes compiled.
    pub routes: usize,
    /// Backends in use.
    pub backends: usize,
    /// Endpoints in use, by member cluster.
    pub endpoints: BTreeMap<Arc<str>, usize>,
    /// What became of every object, by file and name.
    pub verdicts: Arc<[Verdict]>,
    /// Event to last worker.
    pub lag: LagHistogram,
    /// Updates that waited for a worker with a full inbox and were merged into a later one.
    pub coalesced_total: u64,
    /// Snapshots sent to workers that were out of step.
    pub snapshots_total: u64,
    /// Times that the controller restarted itself after a panic.
    pub restarts_total: u64,
    /// Ejections that workers reported.
    pub ejections_total: u64,
    /// API servers that are watched: the hub as `fleet`, members by their name. Empty for a directory of manifests.
    pub sources: BTreeMap<Arc<str>, SourceView>,
    /// When the snapshot on disk was written that is served because the hub has not answered yet, Unix seconds.
    pub resumed_from: Option<u64>,
    /// Status written to the hub by this node.
    pub status_writes_total: u64,
    /// Writes of status that failed.
    pub status_failures_total: u64,
    /// Objects that waited a round of 100 ms because `fleet.status_burst` and `fleet.status_per_second` allow no more.
    pub status_deferred_total: u64,
    /// How often a route or a backend's part in a cluster got no statistics of its own: `metrics_series_max`.
    pub series_refused_total: u64,
    /// From an event of a cluster to its application on the last worker, by cluster.
    pub lags: BTreeMap<Arc<str>, LagHistogram>,
    /// Addresses of the pool that Gateways have.
    pub gateway_addresses: std::collections::BTreeSet<std::net::IpAddr>,
    /// Gateways that the pool has no address for.
    pub gateways_without_address: usize,
    /// Where every member cluster stands with operators, by name.
    pub standings: Vec<Standing>,
    /// Tables on trial.
    pub canary: CanaryView,
}

/// Tables on trial, as they are shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CanaryView {
    /// What is going on.
    pub phase: CanaryPhase,
    /// Routes on trial.
    pub routes: Vec<Arc<str>>,
    /// Requests of theirs that the canary has answered so far.
    pub answered: u64,
    /// Of these failed.
    pub failed: u64,
    /// Routes that stay as they were because what they are to be was refused.
    pub refused: Vec<Arc<str>>,
    /// Why the last one was.
    pub reason: String,
    /// Tables that went to all workers after they were compared.
    pub promoted_total: u64,
    /// Tables that went to all workers although there were too few requests.
    pub unproven_total: u64,
    /// Tables that were taken back.
    pub rolled_back_total: u64,
    /// Tables whose source was changed back meanwhile.
    pub withdrawn_total: u64,
}

/// What is going on with tables on trial.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CanaryPhase {
    /// They are not wanted.
    #[default]
    Off,
    /// They are wanted and cannot be; why.
    Skipped(&'static str),
    /// All workers run the same.
    Idle,
    /// A worker runs a table that the others do not.
    Watching {
        /// Which worker.
        worker: usize,
        /// When the first change came, `CLOCK_MONOTONIC` nanoseconds.
        began_ns: u64,
        /// When the last one did.
        since_ns: u64,
    },
}

/// One API server that is watched, as it is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceView {
    /// Why it cannot be relied on just now; empty = it can.
    pub reason: String,
    /// When it last answered anything, `CLOCK_MONOTONIC` nanoseconds; 0 = never.
    pub answered_ns: u64,
    /// When it last said something new; 0 = never.
    pub event_ns: u64,
    /// Its watches.
    pub watches: Vec<WatchView>,
}

/// One watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchView {
    /// What it watches.
    pub kind: &'static str,
    /// How it is doing.
    pub state: WatchPhase,
    /// Lists that were believed.
    pub lists_total: u64,
    /// Lists that were doubted.
    pub doubted_total: u64,
    /// Times that it failed.
    pub failures_total: u64,
}

/// How a watch is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchPhase {
    /// It has said nothing yet.
    Waiting,
    /// All is well.
    Watching,
    /// The server does not know the resource.
    Missing,
    /// A list shrank; what was known stays until a second list says the same.
    Doubting,
    /// Its last request failed.
    Failing,
}

impl WatchPhase {
    /// The phase as it stands in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Watching => "watching",
            Self::Missing => "missing",
            Self::Doubting => "doubting",
            Self::Failing => "failing",
        }
    }
}

/// A handle to the view: clones share it.
#[derive(Clone, Debug, Default)]
pub struct SharedView(Arc<RwLock<ControllerView>>);

impl SharedView {
    /// An empty view.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The view as last published. Never call it on a worker: it may wait for the controller's next write.
    #[must_use]
    pub fn read(&self) -> ControllerView {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Endpoints in use, by member cluster.
    #[must_use]
    pub fn read_endpoints(&self) -> BTreeMap<Arc<str>, usize> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).endpoints.clone()
    }

    /// Changes the view.
    pub fn update(&self, change: impl FnOnce(&mut ControllerView)) {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner));
    }
}
