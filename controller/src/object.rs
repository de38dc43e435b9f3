//! The objects that the controller knows, typed and compact, and how they are named.
//!
//! Fleet objects keep their API types; what members hold by the hundred thousand (Services, EndpointSlices,
//! Nodes) is reduced to what routing needs.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use aws_lc_rs::digest::{self, SHA256};
use gateway_api::backendtlspolicies::BackendTlsPolicy;
use gateway_api::experimental::gatewayclasses::GatewayClass;
use gateway_api::experimental::gateways::Gateway;
use gateway_api::experimental::grpcroutes::GrpcRoute;
use gateway_api::experimental::httproutes::HttpRoute;
use gateway_api::experimental::referencegrants::ReferenceGrant;
use gateway_api::experimental::tcproutes::TcpRoute;
use gateway_api::experimental::tlsroutes::TlsRoute;
use gateway_api::experimental::udproutes::UdpRoute;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use routing::model::Carrier;

use crate::crd::{FailoverPolicy, GatewayConfig, MemberCluster, MemberClusterSpec};

/// Where an object was seen.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// The hub.
    Fleet,
    /// A member cluster, by its id.
    Member(Arc<str>),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fleet => f.write_str("fleet"),
            Self::Member(name) => write!(f, "clusters/{name}"),
        }
    }
}

/// The kinds that are told apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "each variant is the Kubernetes kind of that name")]
pub enum Kind {
    Ingress,
    IngressClass,
    Gateway,
    GatewayClass,
    HttpRoute,
    GrpcRoute,
    TcpRoute,
    TlsRoute,
    UdpRoute,
    ReferenceGrant,
    BackendTlsPolicy,
    ConfigMap,
    ClusterProfile,
    MemberCluster,
    GatewayConfig,
    AlbConfig,
    MseIngressConfig,
    FailoverPolicy,
    Namespace,
    Secret,
    Service,
    EndpointSlice,
    Node,
    /// Any other kind: named in reports, never used.
    Other(Arc<str>),
}

/// What objects of a kind are to the compiler, and so what a change of one makes stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Compiled to rules, each for itself.
    Route,
    /// What all routes have in common: a change of it looks at everything.
    Common,
    /// Certificates and passwords, by name.
    Secret,
    /// A bundle of CA certificates.
    Bundle,
    /// Ports of a Service.
    Service,
    /// Endpoints of a Service.
    Slice,
    /// Addresses of node ports.
    Node,
    /// Nothing.
    Unused,
}

impl Kind {
    /// Every kind that is used.
    pub const USED: [Self; 23] = [
        Self::Ingress,
        Self::IngressClass,
        Self::Gateway,
        Self::GatewayClass,
        Self::HttpRoute,
        Self::GrpcRoute,
        Self::TcpRoute,
        Self::TlsRoute,
        Self::UdpRoute,
        Self::ReferenceGrant,
        Self::BackendTlsPolicy,
        Self::ConfigMap,
        Self::ClusterProfile,
        Self::MemberCluster,
        Self::GatewayConfig,
        Self::AlbConfig,
        Self::MseIngressConfig,
        Self::FailoverPolicy,
        Self::Namespace,
        Self::Secret,
        Self::Service,
        Self::EndpointSlice,
        Self::Node,
    ];

    /// What its objects are to the compiler.
    #[must_use]
    pub fn role(&self) -> Role {
        match self {
            Self::Ingress
            | Self::HttpRoute
            | Self::GrpcRoute
            | Self::TcpRoute
            | Self::TlsRoute
            | Self::UdpRoute => Role::Route,
            Self::IngressClass
            | Self::Gateway
            | Self::GatewayClass
            | Self::ReferenceGrant
            | Self::BackendTlsPolicy
            | Self::ClusterProfile
            | Self::MemberCluster
            | Self::GatewayConfig
            | Self::AlbConfig
            | Self::MseIngressConfig
            | Self::FailoverPolicy
            | Self::Namespace => Role::Common,
            Self::Secret => Role::Secret,
            Self::ConfigMap => Role::Bundle,
            Self::Service => Role::Service,
            Self::EndpointSlice => Role::Slice,
            Self::Node => Role::Node,
            Self::Other(_) => Role::Unused,
        }
    }

    /// The kinds of one role.
    pub fn of_role(role: Role) -> impl Iterator<Item = Self> {
        Self::USED.into_iter().filter(move |kind| kind.role() == role)
    }

    /// The kind as it is written in YAML.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Ingress => "Ingress",
            Self::IngressClass => "IngressClass",
            Self::Gateway => "Gateway",
            Self::GatewayClass => "GatewayClass",
            Self::HttpRoute => "HTTPRoute",
            Self::GrpcRoute => "GRPCRoute",
            Self::TcpRoute => "TCPRoute",
            Self::TlsRoute => "TLSRoute",
            Self::UdpRoute => "UDPRoute",
            Self::ReferenceGrant => "ReferenceGrant",
            Self::BackendTlsPolicy => "BackendTLSPolicy",
            Self::ConfigMap => "ConfigMap",
            Self::ClusterProfile => "ClusterProfile",
            Self::MemberCluster => "MemberCluster",
            Self::GatewayConfig => "GatewayConfig",
            Self::AlbConfig => "AlbConfig",
            Self::MseIngressConfig => "MseIngressConfig",
            Self::FailoverPolicy => "FailoverPolicy",
            Self::Namespace => "Namespace",
            Self::Secret => "Secret",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Node => "Node",
            Self::Other(kind) => kind,
        }
    }

    /// Objects of this kind have no namespace.
    #[must_use]
    pub fn is_cluster_scoped(&self) -> bool {
        match self {
            Self::IngressClass
            | Self::GatewayClass
            | Self::MemberCluster
            | Self::GatewayConfig
            | Self::Namespace
            | Self::AlbConfig
            | Self::MseIngressConfig
            | Self::Node => true,
            Self::Ingress
            | Self::Gateway
            | Self::HttpRoute
            | Self::GrpcRoute
            | Self::TcpRoute
            | Self::TlsRoute
            | Self::UdpRoute
            | Self::ReferenceGrant
            | Self::BackendTlsPolicy
            | Self::ConfigMap
            | Self::ClusterProfile
            | Self::FailoverPolicy
            | Self::Secret
            | Self::Service
            | Self::EndpointSlice
            | Self::Other(_) => false,
        }
    }
}

/// One object in one cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectId {
    /// Where.
    pub source: Source,
    /// What.
    pub kind: Kind,
    /// Its namespace; empty for cluster-scoped kinds.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.as_str())?;
        if self.namespace.is_empty() {
            write!(f, " {}", self.name)
        } else {
            write!(f, " {}/{}", self.namespace, self.name)
        }
    }
}

/// An object with its name, its age and its annotations.
#[derive(Clone, Debug)]
pub struct Object {
    /// Its name.
    pub id: ObjectId,
    /// Seconds of `metadata.creationTimestamp`; `i64::MAX` when it has none, so that it counts as the newest.
    pub created: i64,
    /// `metadata.generation`; 0 = it has none, or what members hold.
    pub generation: i64,
    /// `metadata.uid`: another one is another object, however much it says the same. Empty of what members hold, to
    /// which nothing is written.
    pub uid: Arc<str>,
    /// `metadata.annotations`.
    pub annotations: BTreeMap<String, String>,
    /// What it says.
    pub spec: Spec,
}

/// What an object says.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "each variant is the Kubernetes kind of that name")]
pub enum Spec {
    Ingress(Box<Ingress>),
    IngressClass(Box<IngressClass>),
    Gateway(Box<Gateway>),
    GatewayClass(Box<GatewayClass>),
    HttpRoute(Box<HttpRoute>),
    GrpcRoute(Box<GrpcRoute>),
    TcpRoute(Box<TcpRoute>),
    TlsRoute(Box<TlsRoute>),
    UdpRoute(Box<UdpRoute>),
    ReferenceGrant(Box<ReferenceGrant>),
    BackendTlsPolicy(Box<BackendTlsPolicy>),
    ConfigMap(FleetConfigMap),
    ClusterProfile(Box<FleetProfile>),
    MemberCluster(Box<MemberCluster>),
    GatewayConfig(Box<GatewayConfig>),
    /// Its `spec`, as it is written: most of it is the cloud's.
    AlbConfig(Box<serde_json::Value>),
    /// Its `spec`, as it is written: most of it is the cloud's.
    MseIngressConfig(Box<serde_json::Value>),
    FailoverPolicy(Box<FailoverPolicy>),
    /// Its labels.
    Namespace(BTreeMap<String, String>),
    Secret(FleetSecret),
    Service(MemberService),
    EndpointSlice(MemberSlice),
    Node(MemberNode),
    /// Not used; it is known only so that it is named in reports.
    Other,
}

impl Spec {
    /// The Service, of a Service.
    #[must_use]
    pub fn service(&self) -> Option<&MemberService> {
        if let Self::Service(service) = self { Some(service) } else { None }
    }

    /// The slice, of an `EndpointSlice`.
    #[must_use]
    pub fn slice(&self) -> Option<&MemberSlice> {
        if let Self::EndpointSlice(slice) = self { Some(slice) } else { None }
    }

    /// The node, of a Node.
    #[must_use]
    pub fn node(&self) -> Option<&MemberNode> {
        if let Self::Node(node) = self { Some(node) } else { None }
    }

    /// The contents, of a Secret.
    #[must_use]
    pub fn secret(&self) -> Option<&FleetSecret> {
        if let Self::Secret(secret) = self { Some(secret) } else { None }
    }

    /// The contents, of a ConfigMap.
    #[must_use]
    pub fn config_map(&self) -> Option<&FleetConfigMap> {
        if let Self::ConfigMap(map) = self { Some(map) } else { None }
    }

    /// What is used, of a `ClusterProfile`.
    #[must_use]
    pub fn profile(&self) -> Option<&FleetProfile> {
        if let Self::ClusterProfile(profile) = self { Some(profile) } else { None }
    }

    /// The settings, of a `MemberCluster`.
    #[must_use]
    pub fn member(&self) -> Option<&MemberCluster> {
        if let Self::MemberCluster(member) = self { Some(member) } else { None }
    }
}

/// What is used of a ConfigMap; what else it holds is not kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FleetConfigMap {
    /// `ca.crt`: a bundle of CA certificates, PEM. `None` = it has none.
    pub authorities: Option<String>,
    /// What else it holds, where all of it reads as fields of HTTP: names as they are written, and values.
    pub fields: BTreeMap<Arc<str>, Arc<str>>,
    /// The key that keeps it from being a list of fields.
    pub unfit: Option<Arc<str>>,
}

/// What is used of a `ClusterProfile` (KEP-4322): where a cluster is, and how its API is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FleetProfile {
    /// Property `topology.kubernetes.io/region`, or `location`; empty = unknown.
    pub region: Arc<str>,
    /// Property `topology.kubernetes.io/zone`; empty = unknown.
    pub zone: Arc<str>,
    /// The first provider whose credentials are in a Secret.
    pub access: Option<ProfileAccess>,
    /// What is wrong with the providers, where none can be followed.
    pub refused: Vec<crate::verdict::Note>,
    /// It stands for the member of its name. Not so where another one does, or where it may not.
    pub is_member: bool,
}

impl FleetProfile {
    /// Says where a member is, as far as its `MemberCluster` does not.
    pub fn place(&self, spec: &mut MemberClusterSpec) {
        let given = |text: &Arc<str>| (!text.is_empty()).then(|| text.to_string());
        spec.region = spec.region.take().or_else(|| given(&self.region));
        spec.zone = spec.zone.take().or_else(|| given(&self.zone));
    }
}

/// How a `ClusterProfile` says that its API is reached, as far as that takes no program.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProfileAccess {
    /// Where it says so: `status.accessProviders[0]`.
    pub field: String,
    /// The name of the profile that says so.
    pub profile: String,
    /// The Secret's namespace; the profile's own when absent, and no other one is allowed.
    pub namespace: Option<String>,
    /// The Secret's name.
    pub secret: String,
    /// What the Secret holds.
    pub holds: ProfileSecret,
    /// `cluster.server`; empty = as the kubeconfig says.
    pub server: String,
    /// `cluster.certificate-authority-data`, base64; empty = none.
    pub authority: String,
    /// `cluster.tls-server-name`; empty = the server's.
    pub server_name: String,
}

/// What the Secret of a `ClusterProfile` holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ProfileSecret {
    /// A kubeconfig.
    Kubeconfig {
        /// Under this key.
        key: String,
        /// Its context that is meant; empty = the current one.
        context: String,
    },
    /// A bearer token, under `token`.
    Token,
}

/// What a Secret holds that something refers to. Prints nothing of it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct FleetSecret {
    /// `tls.crt`: the chain, PEM, the leaf first. Empty = it has none.
    pub certificate: Vec<u8>,
    /// `tls.key`: the private key, PEM. Empty = it has none.
    pub key: Vec<u8>,
    /// Everything else, by key: `ca.crt`, `auth`, names with their passwords.
    pub others: BTreeMap<String, Vec<u8>>,
}

/// A digest in place of the contents: what is told apart by what it prints is told apart, and no key is printed.
impl fmt::Debug for FleetSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut hash = digest::Context::new(&SHA256);
        hash.update(&self.certificate.len().to_le_bytes());
        hash.update(&self.certificate);
        hash.update(&self.key.len().to_le_bytes());
        hash.update(&self.key);
        for (key, value) in &self.others {
            hash.update(&key.len().to_le_bytes());
            hash.update(key.as_bytes());
            hash.update(&value.len().to_le_bytes());
            hash.update(value);
        }
        write!(f, "FleetSecret({:?})", hash.finish())
    }
}

/// What routing needs of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberService {
    /// Its ports.
    pub ports: Vec<MemberServicePort>,
    /// `status.loadBalancer.ingress` addresses.
    pub load_balancer: Vec<IpAddr>,
    /// `type: ExternalName`: it has no endpoints.
    pub external_name: Option<String>,
}

/// One port of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberServicePort {
    /// Its name; empty for the only port of a Service.
    pub name: Arc<str>,
    /// The Service's port.
    pub port: u16,
    /// Its protocol. `SCTP` ports are not kept.
    pub carrier: Carrier,
    /// The port on every node; 0 = none.
    pub node_port: u16,
    /// What its endpoints speak.
    pub app_protocol: AppProtocol,
}

/// `appProtocol` of a Service port, as far as it says how its endpoints are spoken to (GEP-1911).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AppProtocol {
    /// Nothing that matters here.
    #[default]
    Unspecified,
    /// `http`, `kubernetes.io/ws`: HTTP/1.1 in clear.
    Http,
    /// `https`, `kubernetes.io/wss`: HTTP/1.1 over TLS.
    Https,
    /// `kubernetes.io/h2c`: HTTP/2 in clear, with prior knowledge.
    H2c,
}

impl AppProtocol {
    /// What the field says.
    #[must_use]
    pub fn read(text: Option<&str>) -> Self {
        match text {
            Some("http" | "HTTP" | "kubernetes.io/ws") => Self::Http,
            Some("https" | "HTTPS" | "kubernetes.io/wss") => Self::Https,
            Some("kubernetes.io/h2c") => Self::H2c,
            Some(_) | None => Self::Unspecified,
        }
    }

    /// The field that says so; `None` = nothing does.
    #[must_use]
    pub fn text(self) -> Option<&'static str> {
        match self {
            Self::Unspecified => None,
            Self::Http => Some("http"),
            Self::Https => Some("https"),
            Self::H2c => Some("kubernetes.io/h2c"),
        }
    }
}

/// What routing needs of an EndpointSlice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberSlice {
    /// Label `kubernetes.io/service-name`; empty when it has none.
    pub service: Arc<str>,
    /// Its ports: name (empty = unnamed), protocol and number.
    pub ports: Vec<(Arc<str>, Carrier, u16)>,
    /// Its endpoints.
    pub endpoints: Vec<SliceEndpoint>,
}

/// One endpoint of a slice. The addresses of one endpoint are interchangeable (API), so only the first is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// Its address.
    pub ip: IpAddr,
    /// May it take requests? `None` = neither ready nor serving.
    pub condition: Option<routing::model::Condition>,
    /// Its zone; empty = unknown.
    pub zone: Arc<str>,
    /// Its node; empty = unknown.
    pub node: Arc<str>,
}

/// What routing needs of a Node, for `endpointMode: NodePort`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberNode {
    /// Its addresses: the internal ones, or the external ones when it has no internal one.
    pub addresses: Vec<IpAddr>,
    /// Label `topology.kubernetes.io/zone`; empty = unknown.
    pub zone: Arc<str>,
    /// Condition `Ready` is true or absent, and it is schedulable as a traffic target.
    pub ready: bool,
}
