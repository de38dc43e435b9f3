//! What the admin API needs of the controller, as plain data.
//!
//! This library does not know the controller; the binary knows both and implements [`Controller`].

use std::collections::BTreeMap;

use routing::delta::RouteTable;
use serde::{Deserialize, Serialize};

use super::api::Standing;
use super::operate::{Answer, Order};

/// The controller, as far as it is shown. Called on the admin thread, never on a worker.
pub trait Controller: Send + Sync {
    /// Its state now. Cheap: asked for at every scrape and every probe.
    fn facts(&self) -> Facts;

    /// What became of every object, in order of files. Costs as much as there are objects.
    fn verdicts(&self) -> Vec<VerdictFact>;

    /// Where every member cluster stands with operators, by name.
    fn standings(&self) -> Vec<Standing>;

    /// Carries out an order. Returns at once; `answer` is called when the order has been broadcast, or refused.
    fn order(&self, order: Order, answer: Answer);

    /// Copies the newest table that was compiled. Returns at once; `answer` is called on whatever thread, or dropped when
    /// there is no controller that would answer.
    fn table(&self, answer: TableAnswer) {
        drop(answer);
    }

    /// A table by names, as `ringway plan` compares it. Costs as much as the table is large.
    fn describe(&self, _table: &RouteTable) -> serde_json::Value {
        serde_json::Value::Null
    }
}

/// Gets a table, once.
pub type TableAnswer = Box<dyn FnOnce(RouteTable) + Send>;

/// The controller's state.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Everything that there was at the start has been seen and broadcast.
    pub synced: bool,
    /// The newest generation that was broadcast; 0 = none.
    pub generation: u64,
    /// Objects known, by kind.
    pub objects: BTreeMap<String, u64>,
    /// Objects by outcome: `accepted`, `partly_ignored`, `partly_refused`, `refused`.
    pub outcomes: BTreeMap<&'static str, u64>,
    /// Routes compiled.
    pub routes: u64,
    /// Backends in use.
    pub backends: u64,
    /// From an event to its application on the last worker.
    pub lag: Lag,
    /// API servers that are watched; empty when a directory of manifests is served.
    pub sources: Vec<SourceFact>,
    /// What readiness hides: a start from the disk, members that do not answer. Empty = nothing.
    pub remarks: Vec<String>,
    /// Status written to the hub by this node, and writes that failed.
    pub status_writes: (u64, u64),
    /// Objects whose status waited because of `fleet.status_burst` and `fleet.status_per_second`.
    pub status_deferred: u64,
    /// How often a route or a backend's part in a cluster got no series of its own because of `observe.metrics_series_max`.
    pub series_refused: u64,
    /// Addresses of the pool that Gateways have, and Gateways that it has none for.
    pub gateway_addresses: (u64, u64),
    /// From a cluster's event to the last worker, by cluster.
    pub lags: Vec<(String, Lag)>,
    /// Updates merged into a later one because a worker's inbox was full.
    pub coalesced_total: u64,
    /// Whole tables sent.
    pub snapshots_total: u64,
    /// Restarts of the controller after a panic.
    pub restarts_total: u64,
    /// Tables on trial.
    pub canary: CanaryFact,
}

/// Tables on trial: `[canary]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CanaryFact {
    /// `off`, `skipped`, `idle` or `watching`.
    pub state: String,
    /// Why it is skipped, or why the last table was taken back; empty = nothing to say.
    pub reason: String,
    /// The worker that runs the table on trial.
    pub worker: Option<usize>,
    /// Since when there is one, seconds.
    pub since_seconds: Option<f64>,
    /// Routes on trial.
    pub routes: Vec<String>,
    /// Their requests that the worker has answered so far.
    pub answered: u64,
    /// Of these failed.
    pub failed: u64,
    /// Routes that stay as they were because what they are to be was taken back.
    pub refused: Vec<String>,
    /// Tables so far by verdict: `promoted`, `unproven`, `rolled_back`, `withdrawn`.
    pub verdicts: BTreeMap<String, u64>,
}

/// One API server.
#[derive(Clone, Debug, Default)]
pub struct SourceFact {
    /// `fleet` for the hub, else the member's name.
    pub cluster: String,
    /// Is all well with it?
    pub ready: bool,
    /// Seconds since it last answered; `None` = it never did.
    pub answered_seconds: Option<u64>,
    /// Seconds since it last said something new; `None` = it never did.
    pub event_seconds: Option<u64>,
    /// Its watches.
    pub watches: Vec<WatchFact>,
}

/// One watch.
#[derive(Clone, Copy, Debug, Default)]
pub struct WatchFact {
    /// The kind that is watched.
    pub kind: &'static str,
    /// `waiting`, `watching`, `missing`, `doubting` or `failing`.
    pub state: &'static str,
    /// Lists that were believed.
    pub lists_total: u64,
    /// Lists that were doubted.
    pub doubted_total: u64,
    /// Times that it failed.
    pub failures_total: u64,
}

/// How long updates took from the event to the last worker.
#[derive(Clone, Debug, Default)]
pub struct Lag {
    /// Upper bounds of all buckets but the last, nanoseconds, ascending.
    pub bounds_ns: &'static [u64],
    /// Updates in each bucket (not cumulative); one more than there are bounds.
    pub buckets: Vec<u64>,
    /// Updates.
    pub count: u64,
    /// Their sum, nanoseconds.
    pub sum_ns: u64,
    /// The longest, nanoseconds.
    pub max_ns: u64,
}

/// What became of one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerdictFact {
    /// The object's name; empty for a remark on a whole file.
    pub object: String,
    /// The file it came from, relative to the manifests directory.
    pub file: String,
    /// `accepted`, `partly_ignored`, `partly_refused` or `refused`.
    pub outcome: String,
    /// Why.
    pub notes: Vec<VerdictNote>,
}

/// One remark on one field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerdictNote {
    /// Which field; empty for the whole object.
    pub field: String,
    /// What stands there, cut and escaped.
    pub value: String,
    /// Why, and what is allowed.
    pub reason: String,
}
