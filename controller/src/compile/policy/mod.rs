//! `FailoverPolicy` and its kin: parts that say a little, laid over each other, the most specific last.
//!
//! A [`Part`] holds only what its source says. [`Part::overlay`] lays a more specific one over it, field by field;
//! [`resolve()`] fills in the defaults and turns names of clusters into a `routing::model::Policy`. What is judged for
//! all requests of a backend together is [`detection`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use routing::model::{Balance, CookieAffinity, Established, GrpcCodes, HedgeMode, PinMatch, WriteFence};

pub mod detection;
mod read;
mod resolve;

use self::detection::DetectionPart;
pub use self::read::{PINS_MAX, STATUSES_MAX, read, read_statuses};
pub use self::resolve::{Permitted, resolve};
use crate::crd::ClusterOrder;

/// What one source says; `None` = nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Weights of clusters, if the source sets any.
    pub weights: Option<BTreeMap<Arc<str>, u32>>,
    /// Priorities of clusters, if the source sets any.
    pub priorities: Option<BTreeMap<Arc<str>, u8>>,
    /// Which clusters of one priority come first.
    pub order: Option<ClusterOrder>,
    /// Pins: condition, cluster, strict.
    pub pins: Option<Vec<(PinMatch, Arc<str>, bool)>>,
    /// Balancer.
    pub balance: Option<Balance>,
    /// Cookie affinity.
    pub affinity: Option<CookieAffinity>,
    /// `retry.attempts`.
    pub attempts: Option<u8>,
    /// `retry.budgetPercent`.
    pub budget_percent: Option<u8>,
    /// `retry.maxBodyBytes`.
    pub body_bytes_max: Option<u32>,
    /// `retry.statuses`.
    pub statuses: Option<Vec<u16>>,
    /// `retry.grpcCodes`.
    pub grpc_codes: Option<GrpcCodes>,
    /// `retry.nonIdempotent`.
    pub non_idempotent: Option<bool>,
    /// How long after the request's beginning another try may begin.
    pub retry_time: Option<Duration>,
    /// Requests in flight on one endpoint.
    pub endpoint_max: Option<u32>,
    /// Requests of one connection.
    pub requests_max: Option<u32>,
    /// `timeouts.connect`.
    pub connect: Option<Duration>,
    /// `timeouts.attempt`.
    pub attempt: Option<Duration>,
    /// `timeouts.request`.
    pub request: Option<Duration>,
    /// `timeouts.idle`.
    pub idle: Option<Duration>,
    /// `detection.consecutiveFailures`.
    pub consecutive_failures: Option<u8>,
    /// `hedge.mode`.
    pub hedge: Option<HedgeMode>,
    /// `spill.healthyPercent`.
    pub spill_percent: Option<u8>,
    /// `panic.usablePercent`.
    pub panic_percent: Option<u8>,
    /// `capacity.routePriority`.
    pub route_priority: Option<u8>,
    /// `writeFence`.
    pub write_fence: Option<WriteFence>,
    /// `established`.
    pub established: Option<Established>,
    /// `healthCheck`, `failback` and the rest of `detection`; shared by all that have it from one policy.
    pub detection: Option<Arc<DetectionPart>>,
}

/// Lays what is over upon what is under, where it says anything.
fn lay<T: Clone>(under: &mut Option<T>, over: &Option<T>) {
    if over.is_some() {
        under.clone_from(over);
    }
}

impl Part {
    /// Lays a more specific part over this one.
    pub fn overlay(&mut self, specific: &Self) {
        lay(&mut self.weights, &specific.weights);
        lay(&mut self.priorities, &specific.priorities);
        lay(&mut self.order, &specific.order);
        lay(&mut self.pins, &specific.pins);
        lay(&mut self.balance, &specific.balance);
        lay(&mut self.affinity, &specific.affinity);
        lay(&mut self.attempts, &specific.attempts);
        lay(&mut self.budget_percent, &specific.budget_percent);
        lay(&mut self.body_bytes_max, &specific.body_bytes_max);
        lay(&mut self.statuses, &specific.statuses);
        lay(&mut self.grpc_codes, &specific.grpc_codes);
        lay(&mut self.non_idempotent, &specific.non_idempotent);
        lay(&mut self.retry_time, &specific.retry_time);
        lay(&mut self.endpoint_max, &specific.endpoint_max);
        lay(&mut self.requests_max, &specific.requests_max);
        lay(&mut self.connect, &specific.connect);
        lay(&mut self.attempt, &specific.attempt);
        lay(&mut self.request, &specific.request);
        lay(&mut self.idle, &specific.idle);
        lay(&mut self.consecutive_failures, &specific.consecutive_failures);
        lay(&mut self.hedge, &specific.hedge);
        lay(&mut self.spill_percent, &specific.spill_percent);
        lay(&mut self.panic_percent, &specific.panic_percent);
        lay(&mut self.route_priority, &specific.route_priority);
        lay(&mut self.write_fence, &specific.write_fence);
        lay(&mut self.established, &specific.established);
        detection::overlay(&mut self.detection, specific.detection.as_ref());
    }
}
