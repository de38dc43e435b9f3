//! The compiled world as plain data: what the controller produces and every worker indexes.
//!
//! Nothing here decides anything. Payloads that many workers share ([`HostRules`], [`Policy`], [`BackendSpec`],
//! [`HashRing`]) travel as `Arc` and are immutable; everything mutable lives in a worker's `Table`.

mod edit;
mod external;
mod failover;
mod filter;
mod grpc;
mod layer4;
mod password;
mod policy;
mod predicate;
mod tls;
mod transport;

use std::net::SocketAddr;
use std::sync::Arc;

use regex::bytes::Regex;
pub use wire::head::Method;

pub use self::edit::{
    FixedResponse, HeaderEdits, PathRewrite, Redirect, Rewrite, ValueFrom, ValuePart, ValueRewrite,
    ValueRewrites,
};
pub use self::external::{Authoriser, ExternalAuth, UrlPart, UrlTemplate};
pub use self::failover::{
    CHECK_CODE_MAX, CheckCodes, CheckMethod, CheckProbe, CheckVersion, Condition, Detection, ErrorRatio,
    Failback, HealthCheck, HedgeMode, HttpAsks, StatusClasses, WriteFence,
};
pub use self::filter::{
    Access, Allowed, ClientCertificate, ConcurrencyLimit, Cors, Demand, Fallback, Filters, HttpsRedirect,
    Mirror, Origins, RateKey, RateLimit, ResponseRule,
};
pub use self::grpc::{GRPC_CODES, GrpcCode, GrpcCodes};
pub use self::layer4::{Established, Layer4, SendProxy, Speech};
pub use self::password::{BasicAuth, PasswordHash, ShaCrypt, Users};
pub use self::policy::{
    AcrossBackends, Balance, COOKIE_ATTRIBUTES, ConnectionBounds, CookieAffinity, HashKey, OutlierPolicy,
    Pin, PinMatch, Policy, RetryPolicy, Timeouts,
};
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

impl RuleAction {
    /// Every backend that a request of this rule may reach, in whatever role.
    pub fn backends(&self) -> impl Iterator<Item = BackendId> + '_ {
        let own: &[WeightedBackend] = match &self.target {
            Target::Forward(refs) => refs,
            Target::Redirect(_) | Target::Reply { .. } | Target::Fixed(_) => &[],
        };
        let beside = self.filters.as_deref().into_iter().flat_map(Filters::backends);
        own.iter().chain(beside).filter_map(|one| one.backend)
    }
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
