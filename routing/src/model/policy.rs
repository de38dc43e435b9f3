//! What policies and annotations say for a rule: which endpoint, how often, how long.

use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::{ClusterShare, Established, GrpcCodes, HedgeMode, WriteFence};
use crate::id::ClusterId;

/// What the most specific `FailoverPolicy` and annotations say for a rule, defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Every cluster that may serve, with priority and weight.
    pub clusters: Box<[ClusterShare]>,
    /// Requests pinned to a cluster; the first match wins.
    pub pins: Box<[Pin]>,
    /// Which endpoint of a cluster.
    pub balance: Balance,
    /// Cookie affinity, if asked for. Takes precedence over `balance` for a request that carries the cookie.
    pub affinity: Option<CookieAffinity>,
    /// How often, and at what cost, a request is tried again.
    pub retry: RetryPolicy,
    /// Time limits.
    pub timeouts: Timeouts,
    /// Bounds of connections to endpoints.
    pub connections: ConnectionBounds,
    /// When an endpoint is ejected.
    pub outlier: OutlierPolicy,
    /// When a second attempt is made.
    pub hedge: HedgeMode,
    /// A priority below this share of usable endpoints, in percent, shares its load with the next. Default 0 = only
    /// when nothing is usable.
    pub spill_percent: u8,
    /// Below this share of usable endpoints of all its clusters, in percent, a backend is spread over all of them by
    /// weight, usable or not. Default 50; 0 = never.
    pub panic_percent: u8,
    /// Lower is shed first where a cluster's `in_flight_max` is reached (`capacity.routePriority`). Default 0.
    pub route_priority: u8,
    /// May writes follow a failover?
    pub write_fence: WriteFence,
    /// What becomes of layer-4 connections to what is found down.
    pub established: Established,
}

/// Sends matching requests to one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// What must hold.
    pub when: PinMatch,
    /// Where such requests go.
    pub cluster: ClusterId,
    /// `true`: 503 when that cluster cannot serve. `false`: all clusters, as if there were no pin.
    pub strict: bool,
}

/// What pins a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PinMatch {
    /// A header with exactly this value. The name is in lower case.
    Header(Arc<str>, Arc<str>),
    /// A cookie with exactly this value.
    Cookie(Arc<str>, Arc<str>),
    /// A query parameter with exactly this value.
    Query(Arc<str>, Arc<str>),
    /// The source address lies in this range.
    SourceCidr(IpNet),
}

/// How an endpoint of a cluster is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// The less busy of two random endpoints (power of two choices). The default.
    #[default]
    LeastRequest,
    /// One after the other.
    RoundRobin,
    /// Uniformly.
    Random,
    /// The same key goes to the same endpoint while that endpoint is usable; few keys move when one comes or goes.
    ConsistentHash(HashKey),
}

/// What a consistent hash is taken of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashKey {
    /// The value of this header (lower case).
    Header(Arc<str>),
    /// The value of this cookie.
    Cookie(Arc<str>),
    /// The client's address.
    Source,
    /// The path.
    Path,
    /// The value of this query parameter.
    Query(Arc<str>),
}

/// Cookie affinity. The cookie names the endpoint; when that cannot serve, another is chosen and set anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CookieAffinity {
    /// The cookie's name.
    pub cookie: Arc<str>,
    /// The cookie's `Path` attribute.
    pub path: Arc<str>,
    /// The cookie's `Max-Age`; `None` = a session cookie.
    pub max_age: Option<Duration>,
    /// The cookie's `Expires`, so long from the response; `None` = none is sent.
    pub expires: Option<Duration>,
    /// Is it `Secure` where the client came by TLS? Where it always is, the attributes say so.
    pub secure_over_tls: bool,
    /// Its further attributes as they are sent, the first `; ` included. Default [`COOKIE_ATTRIBUTES`].
    pub attributes: Arc<str>,
    /// Does a session stay with its backend, too, where a rule has several?
    pub across: AcrossBackends,
}

/// What a session means for the choice between the backends of a rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AcrossBackends {
    /// It stays with the backend that it has, whatever the weights.
    #[default]
    Stay,
    /// The backend is chosen by weight for each request; the session holds within it.
    Anew,
}

/// What an affinity cookie carries unless it is told otherwise.
pub const COOKIE_ATTRIBUTES: &str = "; HttpOnly; SameSite=Lax";

/// How often a request is tried, and what it may cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// All tries together, the first included. 1 = no retry. Default 3, at most 10.
    pub attempts: u8,
    /// Retries per hundred requests of the backend, over any ten seconds or more. Default 20. Where that is less, 10 per
    /// second and node.
    pub budget_percent: u8,
    /// Bodies up to this size are kept so that they can be sent again. Default 64 KiB.
    pub body_bytes_max: u32,
    /// Statuses that are tried again when the method is idempotent, or `non_idempotent` consents. Default: none.
    pub statuses: Box<[u16]>,
    /// Also replay requests that are not idempotent. Default: never (RFC 9110 §9.2.2).
    pub non_idempotent: bool,
    /// Codes of gRPC that a call is tried again for which was answered by nothing else, whatever its method. Default: none.
    pub grpc: GrpcCodes,
    /// How long after the request's beginning another try may begin. Default zero = as long as the request may take.
    pub time_max: Duration,
}

/// Bounds of connections to endpoints, of one rule. 0 = none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionBounds {
    /// Requests in flight on one endpoint, the whole node's: in HTTP/1 each has a connection of its own. Every worker has
    /// its share, at least one.
    pub endpoint_max: u32,
    /// Requests that one connection carries before it is closed.
    pub requests_max: u32,
}

/// Time limits of an exchange. Zero = none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP connect to an endpoint. Default 1 s.
    pub connect: Duration,
    /// One attempt: first request byte sent to response head received. Default none (GEP-1742 `backendRequest`).
    pub attempt: Duration,
    /// The whole exchange, retries included. Default 30 s (GEP-1742 `request`).
    pub request: Duration,
    /// No byte in either direction of a streaming body or tunnel. Default 60 s.
    pub idle: Duration,
}

/// When an endpoint is ejected by its own evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutlierPolicy {
    /// Consecutive failures (connect failure, reset, no answer, 5xx where `retry.statuses` says so). Default 3;
    /// 0 = never ejected.
    pub consecutive_failures: u8,
    /// How long the first ejection lasts; doubles each time in a row. Default 100 ms: a single request that finds the
    /// endpoint still failing is tried elsewhere, and costs nobody a second.
    pub base: Duration,
    /// The longest an ejection lasts. Default 10 s.
    pub max: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            clusters: Box::default(),
            pins: Box::default(),
            balance: Balance::default(),
            affinity: None,
            retry: RetryPolicy {
                attempts: 3,
                budget_percent: 20,
                body_bytes_max: 64 * 1024,
                statuses: Box::default(),
                non_idempotent: false,
                grpc: GrpcCodes::default(),
                time_max: Duration::ZERO,
            },
            connections: ConnectionBounds::default(),
            timeouts: Timeouts {
                connect: Duration::from_secs(1),
                attempt: Duration::ZERO,
                request: Duration::from_secs(30),
                idle: Duration::from_secs(60),
            },
            outlier: OutlierPolicy {
                consecutive_failures: 3,
                base: Duration::from_millis(100),
                max: Duration::from_secs(10),
            },
            hedge: HedgeMode::default(),
            spill_percent: 0,
            panic_percent: 50,
            route_priority: 0,
            write_fence: WriteFence::default(),
            established: Established::default(),
        }
    }
}
