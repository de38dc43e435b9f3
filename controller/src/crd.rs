//! Our own resources, group `ringway.dev/v1alpha1`: the Rust types are the source, `config/crds/` is generated.
//!
//! Values that people get wrong (durations, ranges, names) are plain strings and wide integers here, and are
//! checked where they are compiled: one bad field is then reported by name and costs itself only.

use kube::{CustomResource, CustomResourceExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// API group of our resources.
pub const GROUP: &str = "ringway.dev";
/// The pattern of durations: a number and `ms`, `s`, `m` or `h`, repeated (GEP-2257), for the schema.
const DURATION_PATTERN: &str = "^([0-9]{1,5}(h|m|s|ms)){1,4}$";

/// Every CRD as (file name, YAML), in the order of their kinds. What `ringway crds` prints.
///
/// # Panics
/// Never: the types are ours, and a test serialises them.
#[must_use]
pub fn crds() -> Vec<(&'static str, String)> {
    [
        ("failoverpolicies.yaml", FailoverPolicy::crd()),
        ("gatewayconfigs.yaml", GatewayConfig::crd()),
        ("memberclusters.yaml", MemberCluster::crd()),
    ]
    .into_iter()
    .map(|(file, crd)| (file, serde_saphyr::to_string(&crd).expect("a CRD of ours serialises")))
    .collect()
}

/// A member cluster. `metadata.name` is the cluster id: in a manifests directory, the folder's name.
///
/// The object is optional in a manifests directory: a folder without one has all the defaults.
#[derive(CustomResource, Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[kube(group = "ringway.dev", version = "v1alpha1", kind = "MemberCluster", plural = "memberclusters")]
#[kube(status = "MemberClusterStatus")]
#[kube(doc = "A member cluster; metadata.name is the cluster id.")]
#[serde(rename_all = "camelCase")]
pub struct MemberClusterSpec {
    /// The Secret on the Fleet that holds the kubeconfig. Not read in a manifests directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubeconfig_secret_ref: Option<SecretRef>,
    /// Region, for geo order. Default: unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Zone of endpoints whose own zone is unknown. Default: unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// 0 = active; higher = standby, used only when no lower one can serve. Default 0, 0–255.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 255))]
    pub priority: Option<i64>,
    /// Share among clusters of the same priority, 0–1000000. Default: in proportion to usable pods; 100 once any
    /// other member sets a weight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub weight: Option<i64>,
    /// How its pods are reached. Default `Pod`.
    #[serde(default)]
    pub endpoint_mode: EndpointMode,
    /// Takes no new requests while another cluster can. Default false.
    #[serde(default)]
    pub drained: bool,
    /// Only endpoints within these ranges are believed. Empty (the default) = every address but the refused ones:
    /// link-local, metadata, unspecified, multicast and broadcast are refused whatever is written here.
    #[serde(default, rename = "allowedCIDRs", skip_serializing_if = "Vec::is_empty")]
    pub allowed_cidrs: Vec<String>,
}

/// What the gateways say of a member: written by one of them, read by people.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct MemberClusterStatus {
    /// `Ready`: its API is watched and answers. `Accepted`, `PartiallyInvalid`: what became of its own fields.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<MemberCondition>,
    /// Endpoints of it that are in use.
    #[serde(default)]
    pub endpoints: i64,
    /// When its API last answered, to the minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen_time: Option<String>,
}

/// One condition, in the form of every Kubernetes object: of a member or of a policy.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct MemberCondition {
    /// Its name.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True` or `False`.
    pub status: String,
    /// One word.
    #[serde(default)]
    pub reason: String,
    /// One sentence.
    #[serde(default)]
    pub message: String,
    /// The generation of the object that it speaks of.
    #[serde(default)]
    pub observed_generation: i64,
    /// Since when it is so.
    #[serde(default)]
    pub last_transition_time: String,
}

/// How the pods of a member are reached.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum EndpointMode {
    /// By the pod addresses of its `EndpointSlices`.
    #[default]
    Pod,
    /// By every ready Node's address and the Service's `nodePort`.
    NodePort,
    /// By the addresses of `Service.status.loadBalancer.ingress`.
    LoadBalancer,
}

/// A Secret of the Fleet.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub struct SecretRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// What an `IngressClass` or a `GatewayClass` serves: its `parametersRef`. Cluster-scoped.
#[derive(CustomResource, Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[kube(group = "ringway.dev", version = "v1alpha1", kind = "GatewayConfig", plural = "gatewayconfigs")]
#[kube(doc = "Clusters, listeners and default policy of an IngressClass or a GatewayClass.")]
#[serde(rename_all = "camelCase")]
pub struct GatewayConfigSpec {
    /// The member clusters that may serve. Empty (the default) = all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clusters: Vec<String>,
    /// Where Ingress rules of the class are served. Empty (the default) = the command line's `--listen`.
    /// Gateways bring listeners of their own: for a `GatewayClass` only `layer4` is used, on the listeners of that port.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub listeners: Vec<ConfigListener>,
    /// The policy of everything that has no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failover_policy_ref: Option<PolicyRef>,
}

/// One port of a `GatewayConfig`.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub struct ConfigListener {
    /// Port on every address of the node, IPv4 and IPv6, 1–65535.
    #[schemars(range(min = 1, max = 65_535))]
    pub port: i64,
    /// `HTTP` or `HTTPS`; the certificates of the latter are those of `spec.tls` of the Ingresses. For a `GatewayClass`
    /// `TCP`, `TLS` or `UDP`, too.
    pub protocol: String,
    /// What is asked of layer-4 connections to this port of a Gateway. Default: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer4: Option<Layer4>,
}

/// What a TCP, TLS or UDP listener asks of connections; a flow of datagrams counts as one. Bounds hold per worker, 0 =
/// unlimited; a source is an IPv4 address or an IPv6 /64.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Layer4 {
    /// Peers that speak for their clients: from them a PROXY header (version 1 or 2) must come first, and all other
    /// peers are refused. Empty (the default) = a PROXY header is payload.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub proxy_protocol_from: Vec<String>,
    /// Which PROXY header endpoints get. Default `Disabled`.
    #[serde(default)]
    pub send_proxy_protocol: SendProxyProtocol,
    /// Sources that are served. Empty (the default) = all but `denySources`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_sources: Vec<String>,
    /// Sources that are not served, whatever `allowSources` says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny_sources: Vec<String>,
    /// Connections at once. 0–10000000. Default 0.
    #[serde(default)]
    #[schemars(range(min = 0, max = 10_000_000))]
    pub max_connections: i64,
    /// Connections of one source at once. 0–10000000. Default 0.
    #[serde(default)]
    #[schemars(range(min = 0, max = 10_000_000))]
    pub max_source_connections: i64,
    /// New connections of one source per second, and at once after a quiet second. 0–1000000. Default 0.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub max_source_rate: i64,
}

/// Which PROXY header endpoints get.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum SendProxyProtocol {
    /// None. The default.
    #[default]
    Disabled,
    /// Version 1, text.
    V1,
    /// Version 2, binary, with the server name and the protocol that a TLS client asks for.
    V2,
}

/// A `FailoverPolicy` by name.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub struct PolicyRef {
    /// Its name.
    pub name: String,
    /// Its namespace. Default `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// Which cluster serves, when another takes over, and what a failure may cost.
///
/// Attaches to a Gateway, a route, an Ingress or a Service of its own namespace. Each field is decided by the
/// most specific policy that sets it: Service, then Ingress or route, then Gateway, then the one that
/// `GatewayConfig` names, then the default. Of two policies with the same target the older wins.
///
/// `healthCheck`, `failback` and `detection` (but for `consecutiveFailures`) hold for a Service port as a whole. Where
/// its routes' policies differ and none is on the Service, the first by kind, namespace and name wins; the others are
/// told.
#[derive(CustomResource, Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[kube(group = "ringway.dev", version = "v1alpha1", kind = "FailoverPolicy", plural = "failoverpolicies")]
#[kube(namespaced)]
#[kube(status = "FailoverPolicyStatus")]
#[kube(doc = "Which cluster serves, when another takes over, and what a failure may cost.")]
#[serde(rename_all = "camelCase")]
pub struct FailoverPolicySpec {
    /// What it applies to, in its own namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub target_refs: Vec<TargetRef>,
    /// Priorities and weights of clusters. A cluster that is not listed is a last resort: one priority after all
    /// listed ones where priorities are given, weight 0 where weights are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clusters: Option<Vec<PolicyCluster>>,
    /// Which clusters of one priority come first. Default `Weight`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<ClusterOrder>,
    /// Active checks of each endpoint. Default: none, traffic alone decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
    /// What counts as a failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detection: Option<Detection>,
    /// Trying again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// A second attempt before the first has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hedge: Option<Hedge>,
    /// Time limits. `0s` = none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<TimeoutSpec>,
    /// Requests pinned to a cluster; the first match wins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pins: Option<Vec<PinSpec>>,
    /// When a priority shares its load with the next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spill: Option<Spill>,
    /// When health is no longer believed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub panic: Option<Panic>,
    /// What a cluster can take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<Capacity>,
    /// How traffic comes back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failback: Option<Failback>,
    /// May writes follow a failover?
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_fence: Option<WriteFence>,
    /// What becomes of layer-4 connections (TCPRoute, TLSRoute) to a cluster that is found to answer nothing. Default
    /// `Reset`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub established: Option<Established>,
    /// Which endpoint of a cluster: `least_request` (default), `round_robin`, `random`, `hash(source)`,
    /// `hash(path)`, `hash(header:NAME)`, `hash(cookie:NAME)` or `hash(query:NAME)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balance: Option<String>,
}

/// What the gateways say of a policy: written by one of them, read by people.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct FailoverPolicyStatus {
    /// `Accepted`: it is in force; `PartiallyInvalid`: some of its fields are not, and the message says which.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<MemberCondition>,
}

/// Which clusters of one priority come first.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum ClusterOrder {
    /// None: they share the load by their weights, or in proportion to ready pods.
    #[default]
    Weight,
    /// The nearest to the gateway's node (`[node]` region and zone in gateway.toml): those of its zone, then those of
    /// its region, then all others. Where the node's place is unknown all are equally near.
    Nearest,
}

/// What a policy applies to.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct TargetRef {
    /// API group: `networking.k8s.io`, `gateway.networking.k8s.io` or, for a Service, empty.
    #[serde(default)]
    pub group: String,
    /// `Ingress`, `HTTPRoute`, `TCPRoute`, `TLSRoute`, `UDPRoute`, `Gateway` or `Service`.
    pub kind: String,
    /// Its name, in the policy's namespace.
    pub name: String,
    /// A Gateway's listener, a route's rule or a Service's port, by name. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
}

/// One cluster's part.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub struct PolicyCluster {
    /// The cluster id.
    pub name: String,
    /// 0 = active, higher = standby. 0–255.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 255))]
    pub priority: Option<i64>,
    /// Share among the clusters of the same priority. 0–1000000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub weight: Option<i64>,
}

/// Active checks of endpoints.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct HealthCheck {
    /// `HTTP` (good is a status from 200 to 399), `GRPC` (`grpc.health.v1.Health/Check`; good is SERVING) or `TCP` (good is a
    /// connect). Default `HTTP`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// Path of the request, with its query if it has one. Default `/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// `Host` of the request. Default: the endpoint's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Of `GRPC`: the service that is asked for. Default: the whole server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Time between two checks of one endpoint, 10ms–1h. Default 1s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = DURATION_PATTERN))]
    pub interval: Option<String>,
    /// How long an answer may take, 1ms–1h. Default: the interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = DURATION_PATTERN))]
    pub timeout: Option<String>,
    /// Failures in a row that take an endpoint out, 1–100. Default 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub unhealthy_threshold: Option<i64>,
    /// Successes in a row that let traffic try it again, 1–100. Default 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub healthy_threshold: Option<i64>,
}

/// What counts as a failure.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Detection {
    /// Does this traffic count as evidence of its clusters' silence? Default true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silence: Option<bool>,
    /// When a cluster's part of a backend is judged by its errors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errors: Option<ErrorRatio>,
    /// Failures in a row that eject an endpoint, 0–255; 0 = never. Default 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 255))]
    pub consecutive_failures: Option<i64>,
}

/// An error ratio over a sliding window.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub struct ErrorRatio {
    /// Share of failures, 0–100; 0 = never judged. Default 50.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub percent: Option<i64>,
    /// Failures in the window below which nothing is judged, 1–1000000. Default 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub minimum: Option<i64>,
    /// The window, 10ms–1m. Default 200ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = DURATION_PATTERN))]
    pub window: Option<String>,
}

/// Trying again.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Retry {
    /// All tries together, 1–10. Default 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10))]
    pub attempts: Option<i64>,
    /// Retries per hundred requests of the backend, 0–100. Default 20.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub budget_percent: Option<i64>,
    /// Bodies up to this many bytes are kept so that they can be sent again, 0–1048576. Default 65536.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_048_576))]
    pub max_body_bytes: Option<i64>,
    /// Statuses that are tried again when the method is idempotent, or `nonIdempotent` consents, 400–599. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statuses: Option<Vec<i64>>,
    /// Codes of gRPC that a call is tried again for: `cancelled`, `deadline-exceeded`, `internal`, `resource-exhausted`,
    /// `unavailable`. Only where the endpoint answered nothing else, and whatever the method: every call is a POST.
    /// Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc_codes: Option<Vec<String>>,
    /// Also replay requests that are not idempotent (RFC 9110 §9.2.2). Default false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub non_idempotent: Option<bool>,
}

/// A second attempt before the first has failed.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub struct Hedge {
    /// When. Default `Suspect`.
    #[serde(default)]
    pub mode: HedgeMode,
}

/// When a second attempt is made.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum HedgeMode {
    /// Never.
    Disabled,
    /// Only while something is suspected. The default.
    #[default]
    Suspect,
    /// Against the tail, too.
    Always,
}

/// Time limits of an exchange. `0s` = none.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub struct TimeoutSpec {
    /// TCP connect. Default 1s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = DURATION_PATTERN))]
    pub connect: Option<String>,
    /// One attempt. Default 0s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = DURATION_PATTERN))]
    pub attempt: Option<String>,
    /// The whole exchange. Default 30s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = DURATION_PATTERN))]
    pub request: Option<String>,
    /// No byte in either direction. Default 60s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = DURATION_PATTERN))]
    pub idle: Option<String>,
}

/// Sends matching requests to one cluster.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub struct PinSpec {
    /// What must hold: exactly one condition.
    pub when: PinWhen,
    /// The cluster id.
    pub cluster: String,
    /// 503 when that cluster cannot serve; otherwise all clusters. Default false.
    #[serde(default)]
    pub strict: bool,
}

/// A condition of a pin: exactly one field is set.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub struct PinWhen {
    /// A header with this value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<NameValue>,
    /// A cookie with this value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie: Option<NameValue>,
    /// A query parameter with this value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<NameValue>,
    /// The client's address lies in this range.
    #[serde(default, rename = "sourceCIDR", skip_serializing_if = "Option::is_none")]
    pub source_cidr: Option<String>,
}

/// A name and the value it must have.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub struct NameValue {
    /// The name.
    pub name: String,
    /// The exact value.
    pub value: String,
}

/// When a priority shares its load with the next one.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Spill {
    /// Below this share of usable endpoints, in percent, 0–100. Default 0: only when nothing is usable.
    #[schemars(range(min = 0, max = 100))]
    pub healthy_percent: i64,
}

/// When health is no longer believed.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Panic {
    /// Below this share of usable endpoints of all its clusters, in percent, a backend is spread over all of them by
    /// weight, usable or not. 0–100; 0 = never. Default 50.
    #[schemars(range(min = 0, max = 100))]
    pub usable_percent: i64,
}

/// What a cluster can take when the load of another one comes.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Capacity {
    /// Requests in flight in one cluster, from one worker, beyond which load that comes from another cluster is
    /// shed. 0–1000000; 0 (the default) = unlimited. In the policy that a `GatewayConfig` names it holds for each of
    /// its clusters, in another for those that the policy lists; of several the smallest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub max_in_flight: Option<i64>,
    /// Which routes are shed first: those with the lower number. 0–255. Default 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 255))]
    pub route_priority: Option<i64>,
}

/// How traffic comes back after a failure.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub struct Failback {
    /// How long everything must be good before the first request returns, 0s–1h. Default 0s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = DURATION_PATTERN))]
    pub delay: Option<String>,
    /// From nothing to its full share, 0s–1h. Default 200ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = DURATION_PATTERN))]
    pub ramp: Option<String>,
}

/// What becomes of established layer-4 connections to a cluster that is found to answer nothing.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum Established {
    /// They are reset at once, so that clients connect anew. The default.
    #[default]
    Reset,
    /// They are left alone.
    Keep,
}

/// May writes follow a failover?
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum WriteFence {
    /// They follow at once. The default.
    #[default]
    Disabled,
    /// Requests whose method is not safe are answered 503 with Retry-After until the standby is promoted: by
    /// `ringway promote`, or by the annotation `ringway.dev/promoted: "true"` on its `MemberCluster`.
    UntilPromoted,
}
