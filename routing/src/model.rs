//! The compiled world as plain data: what the controller produces and every worker indexes.
//!
//! Nothing here decides anything. Payloads that many workers share ([`HostRules`], [`Policy`], [`BackendSpec`],
//! [`HashRing`]) travel as `Arc` and are immutable; everything mutable lives in a worker's `Table`.

mod affinity;
mod edit;
mod external;
mod failover;
mod filter;
mod grpc;
mod layer4;
mod password;
mod predicate;
mod tls;
mod transport;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use regex::bytes::Regex;
pub use wire::head::Method;

pub use self::affinity::{AcrossBackends, COOKIE_ATTRIBUTES, CookieAffinity};
pub use self::edit::{FixedResponse, HeaderEdits, PathRewrite, Redirect, Rewrite};
pub use self::external::{Authoriser, ExternalAuth, UrlPart, UrlTemplate};
pub use self::failover::{
    CheckProbe, Condition, Detection, ErrorRatio, Failback, HealthCheck, HedgeMode, WriteFence,
};
pub use self::filter::{
    Access, ClientCertificate, ConcurrencyLimit, Cors, Demand, Fallback, Filters, HttpsRedirect, Mirror,
    Origins, RateKey, RateLimit,
};
pub use self::grpc::{GRPC_CODES, GrpcCode, GrpcCodes};
pub use self::layer4::{Established, Layer4, SendProxy, Speech};
pub use self::password::{BasicAuth, PasswordHash, ShaCrypt, Users};
pub use self::predicate::Predicate;
pub use self::tls::{
    Authorities, Certificate, CertificateSet, ClientAuth, ListenerTls, NameKind, SigningKey, Staple, Terms,
    TlsVersion,
};
pub use self::transport::{Application, BackendTls, Security, TlsSettings, Transport, Verification};
use crate::id::{BackendId, BindId, ClusterId, EndpointId, ListenerId, NodeId, ZoneId};
use crate::matcher::path::PathIndex;

// ---------------------------------------------------------------- clusters

/// A member cluster as the data plane sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterSpec {
    /// The cluster id: `MemberCluster` `metadata.name`, or the folder's name.
    pub name: Arc<str>,
    /// Region, for geo order. Empty = unknown.
    pub region: Arc<str>,
    /// Operator evidence: the share of its requests that goes elsewhere while another cluster can serve, in percent.
    /// 0 (the default) = it serves; 100 = drained (`MemberCluster` `spec.drained`); between them it is being drained.
    pub drain_percent: u8,
    /// Operator evidence: it may take writes although it is a standby (annotation `ringway.dev/promoted`); see
    /// [`WriteFence`].
    pub promoted: bool,
    /// Requests in flight in the cluster, per worker, beyond which load that comes from another cluster is shed
    /// (`capacity.maxInFlight`). 0 = unlimited.
    pub in_flight_max: u32,
}

/// One cluster's part in serving a rule. Resolved by the controller: every cluster that may serve is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterShare {
    /// Which cluster.
    pub cluster: ClusterId,
    /// 0 = active; a higher number is used only when no lower one can serve.
    pub priority: u8,
    /// Share among the clusters of the same priority. `None` everywhere = in proportion to usable endpoints.
    /// A weight of 0 takes nothing while another cluster of the plan can serve.
    pub weight: Option<u32>,
}

// ---------------------------------------------------------------- listeners

/// What is spoken on a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// Cleartext HTTP/1.1.
    Http,
    /// HTTP/1.1 over TLS.
    Https,
    /// Bytes of any kind: a connection is passed on as it is.
    Tcp,
    /// TLS that is passed on as it is, by the name in its ClientHello.
    TlsPassthrough,
    /// TLS that ends here, by the name in its ClientHello; what is inside are bytes of any kind, passed on as they are.
    TlsTerminate,
    /// Datagrams of any kind.
    Udp,
}

/// What carries a protocol. Both have ports of their own: a TCP and a UDP listener may share an address and a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Carrier {
    /// Connections. The default, as in a Kubernetes Service.
    #[default]
    Tcp,
    /// Datagrams.
    Udp,
}

impl Protocol {
    /// What carries it.
    #[must_use]
    pub fn carrier(self) -> Carrier {
        match self {
            Self::Http | Self::Https | Self::Tcp | Self::TlsPassthrough | Self::TlsTerminate => Carrier::Tcp,
            Self::Udp => Carrier::Udp,
        }
    }
}

/// One listener: a hostname section of one bind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerSpec {
    /// Which socket it is served on.
    pub bind: BindId,
    /// The address and port of that socket; equal for all listeners of a bind.
    pub addr: SocketAddr,
    /// What is spoken there; equal for all listeners of a bind.
    pub protocol: Protocol,
    /// Which hosts belong to it. The most specific listener of a bind owns a host alone (listener isolation,
    /// Gateway API `HTTPListenerIsolation`).
    pub hostname: HostPattern,
    /// `namespace/gateway/section`, or `ingress:ADDR`.
    pub name: Arc<str>,
    /// Its certificates: of a listener with TLS. `None` there means that every handshake is refused.
    pub tls: Option<Arc<ListenerTls>>,
    /// What is asked of a layer-4 connection; equal for all listeners of a bind. `None` = nothing.
    pub layer4: Option<Arc<Layer4>>,
}

/// Which hosts a listener or a set of rules belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostPattern {
    /// Exactly this host: lower case, no port, no trailing dot.
    Exact(Arc<str>),
    /// `*.suffix`: one or more labels before `suffix`, which is stored without `*.`.
    Wildcard {
        /// Everything after `*.`.
        suffix: Arc<str>,
        /// Ingress: exactly one label may stand for `*`; Gateway API: one or more.
        labels: WildcardLabels,
    },
    /// Every host.
    Any,
}

/// How many labels `*` stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WildcardLabels {
    /// Exactly one (`Ingress`: `*.foo.com` does not match `a.b.foo.com`).
    One,
    /// One or more (Gateway API).
    Many,
}

// ---------------------------------------------------------------- rules

/// All rules of one host pattern on one listener, in order of precedence (highest first).
///
/// Equal when the rules are equal; regular expressions are compared as text.
#[derive(Clone, Debug)]
pub struct HostRules {
    /// The rules. The first that matches wins. The order is the Gateway API's precedence, decided by the controller
    /// with [`Precedence`](crate::matcher::precedence::Precedence). Not changed after [`HostRules::new`]: the index
    /// is built from them.
    pub rules: Box<[Rule]>,
    /// Built once, by the controller; all workers share it.
    pub(crate) index: PathIndex,
}

impl HostRules {
    /// Indexes `rules`, which are in order of precedence.
    #[must_use]
    pub fn new(rules: impl Into<Box<[Rule]>>) -> Self {
        let rules = rules.into();
        let index = PathIndex::new(&rules);
        Self { rules, index }
    }
}

impl PartialEq for HostRules {
    fn eq(&self, other: &Self) -> bool {
        self.rules == other.rules
    }
}

impl Eq for HostRules {}

/// One match → action row. An `HTTPRoute` rule with several matches becomes several rows that share an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What must hold.
    pub matches: RuleMatch,
    /// What is done.
    pub action: Arc<RuleAction>,
}

/// What must hold for a rule to be chosen. All conditions are ANDed (`HTTPRouteMatch`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleMatch {
    /// The path condition.
    pub path: PathMatch,
    /// The method, if one is required.
    pub method: Option<Method>,
    /// Header conditions, ANDed.
    pub headers: Box<[ValueMatch]>,
    /// Query parameter conditions, ANDed.
    pub query: Box<[ValueMatch]>,
    /// Conditions of any other kind, ANDed.
    pub more: Box<[Predicate]>,
}

/// A path condition.
#[derive(Clone, Debug)]
pub enum PathMatch {
    /// The whole path, case-sensitive.
    Exact(Arc<str>),
    /// By path elements: `/foo` matches `/foo`, `/foo/` and `/foo/bar`, not `/foobar`. `/` matches everything.
    /// Stored without a trailing slash, except `/` itself.
    Prefix(Arc<str>),
    /// The whole path, anchored at both ends by the compiler of the rule.
    Regex(Regex),
}

impl PartialEq for PathMatch {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(a), Self::Exact(b)) | (Self::Prefix(a), Self::Prefix(b)) => a == b,
            (Self::Regex(a), Self::Regex(b)) => a.as_str() == b.as_str(),
            (Self::Exact(_) | Self::Prefix(_) | Self::Regex(_), _) => false,
        }
    }
}

impl Eq for PathMatch {}

/// A condition on a header or a query parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueMatch {
    /// Header names are in lower case; query names are as written.
    pub name: Arc<str>,
    /// What its value must be.
    pub value: ValuePattern,
}

/// What a value must be.
#[derive(Clone, Debug)]
pub enum ValuePattern {
    /// Exactly this.
    Exact(Arc<str>),
    /// Anchored at both ends by the compiler of the rule.
    Regex(Regex),
}

impl PartialEq for ValuePattern {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(a), Self::Exact(b)) => a == b,
            (Self::Regex(a), Self::Regex(b)) => a.as_str() == b.as_str(),
            (Self::Exact(_) | Self::Regex(_), _) => false,
        }
    }
}

impl Eq for ValuePattern {}

/// What a rule does, and everything that is frozen for a request at its match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleAction {
    /// `Ingress namespace/name` or `HTTPRoute namespace/name`.
    pub route: Arc<str>,
    /// Index of the rule within its route, for people: `rules[2]`.
    pub rule_index: u16,
    /// Numbers this route's statistics; see [`StatSlot`].
    pub stat: StatSlot,
    /// What to do.
    pub target: Target,
    /// Changes to the request's headers.
    pub request_headers: HeaderEdits,
    /// Changes to the response's headers.
    pub response_headers: HeaderEdits,
    /// Changes to the authority and the path that the backend sees.
    pub rewrite: Rewrite,
    /// Retries, timeouts, weights, balancing.
    pub policy: Arc<Policy>,
    /// What is checked and done before and beside forwarding; `None` = nothing, and it costs nothing.
    pub filters: Option<Arc<Filters>>,
}

/// Where a counter of a route or of a (backend, cluster) pair lives.
///
/// Given by the controller, dense, bounded by `metrics.series_max`; 0 is shared by everything above that bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct StatSlot(pub u32);

/// What a rule does with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Send it to one of these backends, by weight.
    Forward(Box<[WeightedBackend]>),
    /// Answer with a redirect.
    Redirect(Redirect),
    /// Answer with this status: 500 for a reference that cannot be resolved (Gateway API `ResolvedRefs`), 404 …
    Reply {
        /// The status code.
        status: u16,
        /// Why, for the access log and `explain`.
        reason: Arc<str>,
    },
    /// Answer with this.
    Fixed(Arc<FixedResponse>),
}

/// One `backendRef`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightedBackend {
    /// Which backend; `None` for a reference that cannot be resolved: its share is answered with 500.
    pub backend: Option<BackendId>,
    /// Share among the rule's backends. 0 = never.
    pub weight: u32,
    /// Changes to the request's headers for this backend only.
    pub request_headers: HeaderEdits,
    /// Changes to the response's headers for this backend only.
    pub response_headers: HeaderEdits,
    /// Its requests go to this cluster while that can serve, as if pinned; a [`Pin`] of the policy comes first.
    pub cluster: Option<ClusterId>,
}

// ---------------------------------------------------------------- policy

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
    /// Statuses that are tried again when the method is idempotent. Default: none.
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

// ---------------------------------------------------------------- backends

/// One Service port as seen across clusters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackendSpec {
    /// `namespace/service:port`.
    pub name: Arc<str>,
    /// Limits of what one worker sends to one endpoint and to the backend at once.
    pub limits: BackendLimits,
    /// Statistics slot of each cluster's part of this backend. Sorted by cluster; clusters without a slot use 0.
    pub stats: Box<[(ClusterId, StatSlot)]>,
    /// How failures are found.
    pub detection: Detection,
    /// What is spoken to its endpoints: what a probe may send where no check says what to ask.
    pub speech: Speech,
    /// How requests and probes get to its endpoints.
    pub transport: Transport,
}

/// Overload bounds, per worker. 0 = unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendLimits {
    /// Requests in flight on one endpoint.
    pub endpoint_in_flight_max: u32,
    /// Requests in flight on the whole backend.
    pub backend_in_flight_max: u32,
}

/// One address of one backend in one cluster. Endpoints that are neither ready nor serving are not listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSpec {
    /// Whose endpoint it is.
    pub backend: BackendId,
    /// Where it runs.
    pub cluster: ClusterId,
    /// Its zone, a failure domain.
    pub zone: ZoneId,
    /// Its node, a failure domain.
    pub node: NodeId,
    /// Where it is reached.
    pub addr: SocketAddr,
    /// May it take requests?
    pub condition: Condition,
}

/// A consistent-hash ring of one backend in one cluster, built by the controller.
///
/// Sorted by point. A key goes to the first usable endpoint at or after its hash.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HashRing {
    /// (point on the ring, endpoint).
    pub points: Box<[(u64, EndpointId)]>,
}

/// Key of a set of rules: one host pattern on one listener.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostKey {
    /// Which listener.
    pub listener: ListenerId,
    /// Which hosts.
    pub pattern: HostPattern,
}
