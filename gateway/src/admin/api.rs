//! What the API answers with, as data: the JSON of `/api/v1/…`, and what `ringway status` reads.
//!
//! Lists are bounded: `?limit=N` (default [`LIMIT`], at most [`LIMIT_MAX`]); what is beyond is counted in `left_out`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::facts::{CanaryFact, VerdictFact};
use crate::observe::histogram::Snapshot;

/// Items of a list, unless asked otherwise.
pub const LIMIT: usize = 1_000;
/// Most items of a list.
pub const LIMIT_MAX: usize = 10_000;

/// `GET /api/v1/clusters`
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Clusters {
    /// The table that these are read from.
    pub generation: u64,
    /// How far back rates and quantiles look, in seconds; shorter right after the start.
    pub window_seconds: f64,
    /// Everything together.
    pub node: NodeState,
    /// Member clusters, by name.
    pub clusters: Vec<ClusterState>,
}

/// The node as a whole.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeState {
    /// Answers to clients, per second.
    pub requests_per_second: f64,
    /// Of these, 5xx.
    pub errors_per_second: f64,
    /// Exchanges in flight.
    pub in_flight: u64,
    /// Client connections.
    pub connections_open: u64,
    /// From the request head complete to the response complete.
    pub latency: Latency,
    /// Attempts repeated elsewhere since the start, paid and free.
    pub retries_total: u64,
    /// Ejections by any worker since the start.
    pub ejections_total: u64,
    /// Ends of ejections since the start.
    pub restorations_total: u64,
}

/// Quantiles of the window in milliseconds; `None` where nothing happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// The median.
    pub p50_ms: Option<f64>,
    /// 99 of 100 are faster.
    pub p99_ms: Option<f64>,
    /// 999 of 1,000 are faster.
    pub p999_ms: Option<f64>,
}

impl Latency {
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        if snapshot.count() == 0 {
            return Self::default();
        }
        let at = |q| Some(snapshot.quantile(q).as_secs_f64() * 1e3);
        Self { p50_ms: at(0.5), p99_ms: at(0.99), p999_ms: at(0.999) }
    }
}

/// What a cluster is doing, as far as all workers' counters tell. Health proper is each worker's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activity {
    /// It answered within the window, and fails rarely.
    Serving,
    /// More than one attempt in ten ended without a response within the window.
    Failing,
    /// Nothing was sent to it within the window.
    Idle,
    /// An operator keeps requests away.
    Drained,
    /// It has no endpoint in use.
    NoEndpoints,
}

impl Activity {
    /// For people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Failing => "failing",
            Self::Idle => "idle",
            Self::Drained => "drained",
            Self::NoEndpoints => "no endpoints",
        }
    }
}

/// What is known of the health of a cluster, or of its part of a backend, and why.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HealthState {
    /// One word. By traffic and operators: `up`, `failing`, `leaving`, `draining`, `drained`, `down`; by the failure
    /// detector: `suspect`, `down`, `probation`, `ramp`.
    pub state: String,
    /// Why it is in this state; empty where that needs no reason. Of a verdict: `refused`, `silent`, `hang`, `errors`,
    /// `slow`, `check`.
    pub reason: String,
    /// Since when; `None` = since the start, or not known.
    pub since_seconds: Option<f64>,
    /// What was counted; of a verdict: the numbers that led to it.
    pub evidence: String,
}

/// Where a cluster stands with operators: also the answer to `POST /api/v1/clusters/NAME/{drain,…}`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    /// Its name.
    pub cluster: String,
    /// The share of its requests that goes elsewhere, in percent; 100 = drained.
    pub drain_percent: u8,
    /// What that is on its way to.
    pub drain_target: u8,
    /// Who says so.
    pub drain_origin: Origin,
    /// Since when an operator says so.
    pub drain_since_seconds: Option<f64>,
    /// May it take writes as a standby?
    pub promoted: bool,
    /// Who says so.
    pub promoted_origin: Origin,
    /// Since when an operator says so.
    pub promoted_since_seconds: Option<f64>,
}

/// Who says where a cluster stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// `MemberCluster`, or nobody: it is the default.
    #[default]
    Manifest,
    /// An operator, by command.
    Operator,
}

/// One member cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClusterState {
    /// Its name.
    pub name: String,
    /// Its region; empty = unknown.
    pub region: String,
    /// What it is doing.
    pub state: Activity,
    /// How it is, and why.
    pub health: HealthState,
    /// What operators want of it.
    pub standing: Standing,
    /// Ready endpoints in use.
    pub ready: u32,
    /// Terminating endpoints in use.
    pub terminating: u32,
    /// Its part of all clusters' responses within the window, 0 to 1.
    pub share: f64,
    /// Responses per second.
    pub requests_per_second: f64,
    /// Of these, 5xx.
    pub errors_per_second: f64,
    /// Attempts per second that ended without a response.
    pub failures_per_second: f64,
    /// Attempts in flight.
    pub in_flight: u64,
    /// From an attempt's first byte sent to its response head.
    pub latency: Latency,
}

/// `GET /api/v1/backends`
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Backends {
    /// The table that these are read from.
    pub generation: u64,
    /// By name.
    pub backends: Vec<BackendState>,
    /// Backends beyond the limit.
    pub left_out: usize,
}

/// One backend.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BackendState {
    /// `namespace/service:port`.
    pub name: String,
    /// Its part in each cluster.
    pub clusters: Vec<BackendPart>,
    /// Its endpoints; only where one backend is asked for by `?name=`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<Vec<EndpointState>>,
    /// Endpoints beyond the limit.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub endpoints_left_out: usize,
}

/// One cluster's part of a backend.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BackendPart {
    /// The cluster.
    pub cluster: String,
    /// How it is, and why.
    pub health: HealthState,
    /// Ready endpoints.
    pub ready: u32,
    /// Terminating endpoints.
    pub terminating: u32,
    /// Responses by status class since the start; `None` when it shares its counters (`observe.metrics_series_max`).
    pub responses: Option<BTreeMap<String, u64>>,
    /// Attempts without a response since the start.
    pub failures: Option<u64>,
}

/// One endpoint.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EndpointState {
    /// Where it is reached.
    pub addr: String,
    /// Its cluster.
    pub cluster: String,
    /// `ready` or `terminating`.
    pub condition: String,
    /// How it is by itself, and why; its backend or its cluster may be worse.
    pub health: HealthState,
}

/// `GET /api/v1/routes`
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Routes {
    /// The table that these are read from.
    pub generation: u64,
    /// By listener and host; rules of a host in order of precedence.
    pub rules: Vec<RuleState>,
    /// Rules beyond the limit.
    pub left_out: usize,
}

/// One rule.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RuleState {
    /// Its listener.
    pub listener: String,
    /// Its host pattern.
    pub host: String,
    /// What must hold.
    pub matches: String,
    /// Its route: `Ingress namespace/name` or `HTTPRoute namespace/name`.
    pub route: String,
    /// Its index in the route.
    pub rule: u16,
    /// What is done.
    pub action: String,
    /// The whole route's responses by status class since the start; `None` when it shares its counters.
    pub responses: Option<BTreeMap<String, u64>>,
}

/// `GET /api/v1/listeners`
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Listeners {
    /// The table that these are read from.
    pub generation: u64,
    /// By name.
    pub listeners: Vec<ListenerState>,
    /// Listeners beyond the limit.
    pub left_out: usize,
}

/// One listener.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ListenerState {
    /// `namespace/gateway/section`, or `ingress:ADDR`.
    pub name: String,
    /// The socket.
    pub addr: String,
    /// `http` or `https`.
    pub protocol: String,
    /// The hosts that it owns.
    pub hostname: String,
    /// Host patterns with rules.
    pub hosts: usize,
}

/// `GET /api/v1/generation`
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GenerationState {
    /// The newest table that was broadcast.
    pub newest: u64,
    /// The table that this API answers from.
    pub admin: u64,
    /// The table that each worker runs.
    pub workers: Vec<u64>,
    /// Has everything that was there at the start been broadcast?
    pub synced: bool,
    /// Updates that have reached the last worker.
    pub propagated: u64,
    /// From an event to the last worker, the mean in milliseconds.
    pub propagation_mean_ms: Option<f64>,
    /// The longest, in milliseconds.
    pub propagation_max_ms: Option<f64>,
    /// Tables on trial.
    pub canary: CanaryFact,
}

/// `GET /api/v1/verdicts`
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Verdicts {
    /// Objects by outcome.
    pub outcomes: BTreeMap<String, u64>,
    /// The worst first; those that were accepted last.
    pub verdicts: Vec<VerdictFact>,
    /// Objects beyond the limit.
    pub left_out: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}
