//! What all routes have in common: members, listeners, classes, gateways, grants and policies.
//!
//! Rebuilt as a whole when one of these kinds changes; routes are then compiled against it one by one.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use routing::id::{ClusterId, ListenerId};
use routing::model::{Access, Carrier, ClusterSpec, HostPattern, Layer4, ListenerSpec, Protocol, Terms};

use crate::compile::attach::RouteKind;
use crate::compile::capacity::{self, Capacity};
use crate::compile::ids::Ids;
use crate::compile::listen::{Conflict, Listen, Taken};
use crate::compile::namespaces::{NamespaceSelector, Namespaces};
use crate::compile::policy::detection::{self, DetectionPart};
use crate::compile::policy::{self, Part, Permitted};
use crate::compile::{CompilerSettings, Defaults, transport};
use crate::crd;
use crate::merge::{BackendKey, Loopback, Member};
use crate::object::{FleetProfile, Kind, Object, ObjectId, Source, Spec};
use crate::text;
use crate::verdict::{Code, Note, Notes, Severity};
use crate::watch::files::is_cluster_name;
use crate::world::{ServiceName, World};

/// The controller names that a class of ours may carry; the last two are ACK One's.
pub const INGRESS_CONTROLLERS: [&str; 3] =
    ["ringway.dev/gateway", "ingress.k8s.alibabacloud/alb", "mse.alibabacloud.com/ingress"];
/// Gateway API controller name.
pub const GATEWAY_CONTROLLER: &str = "ringway.dev/gateway";
/// The annotation that lets a standby take writes.
const PROMOTED: &str = "ringway.dev/promoted";
/// The group of `ServiceImport` (Multi-Cluster Services API, KEP-1645).
pub const MCS_GROUP: &str = "multicluster.x-k8s.io";
/// Member clusters at once.
pub const MEMBERS_MAX: usize = 256;
/// Listeners at once.
pub const LISTENERS_MAX: usize = 4096;

/// What all routes have in common.
#[derive(Debug, Default)]
pub struct Context {
    /// What holds where no policy says otherwise.
    pub defaults: Defaults,
    /// Members by name.
    pub members: BTreeMap<Arc<str>, Member>,
    /// Their canonical form.
    pub clusters: BTreeMap<ClusterId, Arc<ClusterSpec>>,
    /// Listeners.
    pub listeners: BTreeMap<ListenerId, Arc<ListenerSpec>>,
    /// Names under which listeners were numbered.
    pub listener_keys: Vec<((Arc<str>, SocketAddr), Carrier)>,
    /// Ingress classes by name; `None` = another controller's.
    pub classes: HashMap<String, Option<Class>>,
    /// The class that is marked default, if any class is.
    pub default_class: Option<String>,
    /// Where an Ingress without a class is served when no class is marked default.
    pub classless: Class,
    /// Gateways of ours by namespace and name.
    pub gateways: HashMap<(Arc<str>, Arc<str>), GatewayInfo>,
    /// Reference grants.
    pub grants: Vec<Grant>,
    /// Labels of namespaces.
    pub namespaces: Namespaces,
    /// Policies by what they are attached to.
    pub policies: HashMap<PolicyTarget, (ObjectId, Part)>,
    /// `capacity.maxInFlight` of each policy that sets it.
    pub(super) capacities: Vec<Capacity>,
    /// Policies that a `GatewayConfig` names, with the clusters that it permits.
    pub(super) default_policies: HashMap<ObjectId, Vec<Permitted>>,
    /// Listeners with TLS, and where their certificates come from.
    pub(super) secure: BTreeMap<ListenerId, Wanted>,
    /// `BackendTLSPolicies` by what they are attached to.
    pub(super) tls_policies: HashMap<transport::PolicyTarget, Arc<Object>>,
    /// Every `BackendTLSPolicy` that names a Service, and whether it holds there.
    pub(super) tls_targets: HashMap<ServiceName, Vec<(ObjectId, bool)>>,
    /// Where the Ingresses of each `AlbConfig` are served.
    pub(super) alb_listeners: HashMap<Arc<str>, Vec<Listen>>,
    /// The world comes from a directory of manifests, not from API servers.
    is_directory: bool,
    /// Remarks on the objects that were read here.
    pub notes: HashMap<ObjectId, Notes>,
}

/// Where and with what the Ingresses of a class are served.
#[derive(Clone, Debug, Default)]
pub struct Class {
    /// The listeners.
    pub listeners: Vec<ListenerId>,
    /// The clusters.
    pub permitted: Permitted,
    /// The policy that `GatewayConfig` names.
    pub default: Part,
    /// Who may come.
    pub access: Option<Access>,
    /// Are texts compressed?
    pub gzip: bool,
}

/// A Gateway of ours.
#[derive(Debug, Default)]
pub struct GatewayInfo {
    /// Its listeners, in its own order.
    pub listeners: Vec<GatewayListener>,
    /// The clusters.
    pub permitted: Permitted,
    /// The policy that `GatewayConfig` names.
    pub default: Part,
    /// The addresses that it asks for and has, or that the pool gives it; `None` = those of the node.
    pub addresses: Option<Vec<IpAddr>>,
}

/// A listener of a Gateway.
#[derive(Debug)]
pub struct GatewayListener {
    /// Its section name.
    pub section: Arc<str>,
    /// Its place in `spec.listeners`.
    pub index: usize,
    /// Its port.
    pub port: i32,
    /// Its hosts.
    pub hostname: HostPattern,
    /// Its numbers, one for each address; empty when it is not served.
    pub ids: Vec<ListenerId>,
    /// Which namespaces' routes may attach.
    pub from: RoutesFrom,
    /// What is spoken there.
    pub protocol: Protocol,
    /// Which kinds of route may attach: those of its protocol that `allowedRoutes` admit.
    pub kinds: Vec<RouteKind>,
    /// Why no route can attach, if none can.
    pub closed: Option<&'static str>,
}

/// Where the certificates of a listener come from.
#[derive(Clone, Debug)]
pub(super) enum Wanted {
    /// From `spec.tls` of the Ingresses that are served there.
    Ingress,
    /// From these Secrets, whatever names they are for, under these terms.
    Gateway(Arc<[SecretUse]>, Option<Arc<Terms>>),
}

/// A Secret that an object refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretUse {
    /// Who refers to it, and by which field: told when there is something wrong.
    pub by: ObjectId,
    /// `spec.tls[0].secretName`
    pub field: String,
    /// The Secret's namespace and name.
    pub secret: (Arc<str>, Arc<str>),
    /// The hosts that it is to be used for; of a Gateway's listener: its hostname.
    pub hosts: Vec<HostPattern>,
}

/// Which namespaces' routes may attach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoutesFrom {
    /// The Gateway's own.
    Same,
    /// All.
    All,
    /// Those whose labels are chosen.
    Selected(NamespaceSelector),
    /// None.
    Nobody,
}

/// What a policy is attached to: kind, namespace, name, section (empty = all of it).
pub type PolicyTarget = (Kind, Arc<str>, Arc<str>, String);

/// One pair of a `ReferenceGrant`'s `from` and `to`.
#[derive(Debug)]
pub struct Grant {
    from: (String, String, String),
    to_namespace: Arc<str>,
    to: (String, String, Option<String>),
}

impl Context {
    /// Reads the world.
    pub fn build(world: &World, settings: &CompilerSettings, ids: &mut Ids) -> Self {
        let is_directory = settings.loopback == Loopback::Allowed;
        let mut context = Self { defaults: settings.defaults.clone(), is_directory, ..Self::default() };
        context.read_members(world, ids);
        context.read_policies(world);
        context.read_grants(world);
        context.read_tls_policies(world);
        let mut taken = Taken::default();
        for listen in &settings.listen {
            let listeners = context.ingress_listener(*listen, &mut taken, ids);
            context.classless.listeners.extend(listeners);
        }
        context.read_classes(world, &mut taken, ids);
        context.read_gateways(world, &mut taken, ids);
        context.namespaces = Namespaces::read(world);
        context.bound_clusters();
        context
    }

    /// The remarks on one object.
    pub fn notes(&mut self, id: &ObjectId) -> &mut Notes {
        self.notes.entry(id.clone()).or_default()
    }

    /// May `from` (group, kind, namespace) refer to `to` (group, kind, name) in `namespace`?
    #[must_use]
    pub fn is_granted(&self, from: (&str, &str, &str), namespace: &str, to: (&str, &str, &str)) -> bool {
        self.grants.iter().any(|grant| {
            (grant.from.0.as_str(), grant.from.1.as_str(), grant.from.2.as_str()) == from
                && &*grant.to_namespace == namespace
                && (grant.to.0.as_str(), grant.to.1.as_str()) == (to.0, to.1)
                && grant.to.2.as_deref().is_none_or(|name| name == to.2)
        })
    }

    /// The policy attached to an object, or to a section of it.
    #[must_use]
    pub fn policy(&self, kind: Kind, namespace: &Arc<str>, name: &Arc<str>, section: &str) -> Option<&Part> {
        let target = (kind, namespace.clone(), name.clone(), section.to_owned());
        self.policies.get(&target).map(|(_, part)| part)
    }

    /// What the policies on a backend's Service, and on its port, say of detection.
    #[must_use]
    pub fn service_detection(&self, key: &BackendKey) -> Option<Arc<DetectionPart>> {
        let (namespace, name) = (&key.service.namespace, &key.service.name);
        let of = |section: &str| self.policy(Kind::Service, namespace, name, section)?.detection.clone();
        let mut part = of("");
        detection::overlay(&mut part, of(&key.port.to_string()).as_ref());
        part
    }

    fn read_members(&mut self, world: &World, ids: &mut Ids) {
        let objects: BTreeMap<Arc<str>, &Arc<Object>> =
            world.fleet(Kind::MemberCluster).map(|object| (object.id.name.clone(), object)).collect();
        let profiles: BTreeMap<Arc<str>, &FleetProfile> = (world.fleet(Kind::ClusterProfile))
            .filter_map(|object| Some((object.id.name.clone(), object.spec.profile()?)))
            .filter(|(_, profile)| profile.is_member)
            .collect();
        let mut names: Vec<Arc<str>> = world.members().iter().chain(objects.keys()).cloned().collect();
        names.sort();
        names.dedup();
        for name in names {
            let object = objects.get(&name).copied();
            let mut notes = Notes::default();
            let spec = object.and_then(|object| object.spec.member()).map(|member| member.spec.clone());
            let mut spec = spec.unwrap_or_default();
            profiles.get(&name).into_iter().for_each(|profile| profile.place(&mut spec));
            let promoted = object.is_some_and(|object| is_promoted(object, &mut notes));
            if object.is_some() && !world.members().contains(&name) {
                notes.ignored(
                    "metadata.name",
                    &name,
                    format!("no folder clusters/{name}: it has no endpoints"),
                );
            }
            let room = self.members.len() < MEMBERS_MAX && is_cluster_name(&name);
            match if room { ids.cluster(&name) } else { None } {
                Some(id) => self.add_member((id, name), spec, promoted, &mut notes),
                None => notes.refused("metadata.name", &name, format!("a cluster id; at most {MEMBERS_MAX}")),
            }
            if let Some(object) = object {
                self.notes(&object.id).extend(&notes);
            }
        }
    }

    fn add_member(
        &mut self,
        (id, name): (ClusterId, Arc<str>),
        spec: crd::MemberClusterSpec,
        promoted: bool,
        notes: &mut Notes,
    ) {
        let mut number = |field: &str, given: Option<i64>, max: i64| {
            given.and_then(|number| match text::bounded::<u32>(number, 0, max) {
                Ok(number) => Some(number),
                Err(allowed) => {
                    notes.refused_part(format!("spec.{field}"), number, format!("allowed: {allowed}"));
                    None
                }
            })
        };
        let priority = number("priority", spec.priority, 255).and_then(|p| u8::try_from(p).ok()).unwrap_or(0);
        let weight = number("weight", spec.weight, text::WEIGHT_MAX);
        let mut allowed = Vec::new();
        for (index, cidr) in spec.allowed_cidrs.iter().enumerate() {
            match cidr.parse() {
                Ok(net) => allowed.push(net),
                Err(_) => notes.refused_part(
                    format!("spec.allowedCIDRs[{index}]"),
                    cidr,
                    "allowed: a range such as 10.2.0.0/16",
                ),
            }
        }
        if allowed.is_empty() && !spec.allowed_cidrs.is_empty() {
            // A restriction that cannot be read must not become no restriction.
            allowed.push(ipnet::IpNet::from(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED)));
        }
        if spec.kubeconfig_secret_ref.is_some() && self.is_directory {
            notes.info("spec.kubeconfigSecretRef", "", "not read in a directory of manifests");
        }
        let text = |given: Option<String>| Arc::<str>::from(given.unwrap_or_default());
        let region = text(spec.region);
        let cluster = ClusterSpec {
            name: name.clone(),
            region: region.clone(),
            drain_percent: if spec.drained { 100 } else { 0 },
            promoted,
            in_flight_max: 0,
        };
        self.clusters.insert(id, Arc::new(cluster));
        let (mode, zone) = (spec.endpoint_mode, text(spec.zone));
        let member = Member { id, name, priority, weight, mode, allowed, region, zone };
        self.members.insert(member.name.clone(), member);
    }

    fn read_policies(&mut self, world: &World) {
        let mut policies: Vec<&Arc<Object>> = world.fleet(Kind::FailoverPolicy).collect();
        policies.sort_by_key(|object| (object.created, object.id.clone()));
        for object in policies {
            let Spec::FailoverPolicy(policy) = &object.spec else { continue };
            let mut notes = Notes::default();
            let part = policy::read(&object.id, &policy.spec, &self.members, &mut notes);
            self.capacities.extend(capacity::read(&object.id, &policy.spec, &mut notes));
            let namespace = &object.id.namespace;
            for (index, target) in policy.spec.target_refs.iter().enumerate() {
                let field = format!("spec.targetRefs[{index}]");
                let Some(kind) = target_kind(&target.group, &target.kind) else {
                    let allowed = "allowed: Ingress, HTTPRoute, TCPRoute, TLSRoute, UDPRoute, Gateway, Service, ServiceImport (with \
                                   their groups)";
                    notes.refused_part(field, format!("{} {}", target.group, target.kind), allowed);
                    continue;
                };
                let section = target.section_name.clone().unwrap_or_default();
                let key = (kind, namespace.clone(), Arc::from(target.name.as_str()), section);
                match self.policies.get(&key) {
                    Some((first, _)) => {
                        notes.refused_part(
                            field,
                            &target.name,
                            format!("{first} has this target and comes first (older, then by name)"),
                        );
                    }
                    None => {
                        self.policies.insert(key, (object.id.clone(), part.clone()));
                    }
                }
            }
            // By its own name, for GatewayConfig.
            let own = (Kind::FailoverPolicy, namespace.clone(), object.id.name.clone(), String::new());
            self.policies.insert(own, (object.id.clone(), part));
            self.notes(&object.id).extend(&notes);
        }
    }

    pub(super) fn ingress_listener(
        &mut self,
        Listen { addr, protocol }: Listen,
        taken: &mut Taken,
        ids: &mut Ids,
    ) -> Option<ListenerId> {
        let name: Arc<str> = Arc::from(format!("ingress:{addr}"));
        match taken.claim(addr, &HostPattern::Any, protocol) {
            Ok(()) => {}
            // Two classes may share an address: it is one listener.
            Err(Conflict::Hostname) => return ids.listeners.get(&(name, addr)).map(ListenerId),
            Err(Conflict::Protocol(_)) => return None,
        }
        let id = self.add_listener((name, addr), HostPattern::Any, (protocol, None), ids)?;
        if protocol == Protocol::Https {
            self.secure.insert(id, Wanted::Ingress);
        }
        Some(id)
    }

    pub(super) fn add_listener(
        &mut self,
        key: (Arc<str>, SocketAddr),
        hostname: HostPattern,
        (protocol, layer4): (Protocol, Option<Arc<Layer4>>),
        ids: &mut Ids,
    ) -> Option<ListenerId> {
        let (name, addr) = key.clone();
        if self.listeners.len() >= LISTENERS_MAX {
            return None;
        }
        let bind = ids.bind(addr, protocol.carrier())?;
        let id = ids.listener(&key)?;
        let spec = ListenerSpec { bind, addr, protocol, hostname, name, tls: None, layer4 };
        self.listeners.insert(id, Arc::new(spec));
        self.listener_keys.push((key, protocol.carrier()));
        Some(id)
    }

    pub(super) fn config(
        &mut self,
        world: &World,
        name: &str,
        notes: &mut Notes,
    ) -> (crd::GatewayConfigSpec, Permitted, Part) {
        let id = ObjectId {
            source: Source::Fleet,
            kind: Kind::GatewayConfig,
            namespace: Arc::from(""),
            name: Arc::from(name),
        };
        let Some(Spec::GatewayConfig(config)) = world.get(&id).map(|object| &object.spec) else {
            let reason = "no such GatewayConfig: the defaults are used";
            let note = Note::new(Severity::RefusedPart, "parametersRef", name, reason);
            notes.push(note.because(Code::InvalidParameters));
            return Default::default();
        };
        let spec = config.spec.clone();
        let mut config_notes = Notes::default();
        for (index, cluster) in spec.clusters.iter().enumerate() {
            if !self.members.contains_key(cluster.as_str()) {
                config_notes.ignored(format!("spec.clusters[{index}]"), cluster, "no such member cluster");
            }
        }
        let permitted = match spec.clusters.is_empty() {
            true => Permitted::All,
            false => Permitted::Only(spec.clusters.iter().map(|name| Arc::from(name.as_str())).collect()),
        };
        let default = spec.failover_policy_ref.as_ref().map(|policy| {
            let namespace: Arc<str> = Arc::from(policy.namespace.as_deref().unwrap_or("default"));
            let key =
                (Kind::FailoverPolicy, namespace.clone(), Arc::from(policy.name.as_str()), String::new());
            let Some((policy_id, mut part)) = self.policies.get(&key).cloned() else {
                let wanted = format!("{namespace}/{}", policy.name);
                config_notes.refused_part("spec.failoverPolicyRef", wanted, "no such FailoverPolicy");
                return Part::default();
            };
            part.detection = part.detection.as_ref().map(detection::as_default);
            self.note_default(policy_id, &permitted);
            part
        });
        // A config that two classes share is remarked on once.
        self.notes.insert(id, config_notes);
        (spec, permitted, default.unwrap_or_default())
    }

    fn read_classes(&mut self, world: &World, taken: &mut Taken, ids: &mut Ids) {
        for object in world.fleet(Kind::IngressClass) {
            let Spec::IngressClass(class) = &object.spec else { continue };
            let spec = class.spec.clone().unwrap_or_default();
            let controller = spec.controller.unwrap_or_default();
            let name = object.id.name.to_string();
            let mut notes = Notes::default();
            let is_default = object.annotations.get("ingressclass.kubernetes.io/is-default-class");
            if is_default.is_some_and(|value| value == "true") {
                match &self.default_class {
                    None => self.default_class = Some(name.clone()),
                    Some(first) => {
                        let reason = format!("IngressClass {first} is the default already");
                        notes.refused_part("metadata.annotations", "is-default-class", reason);
                    }
                }
            }
            if !INGRESS_CONTROLLERS.contains(&controller.as_str()) {
                let ours = INGRESS_CONTROLLERS.join(", ");
                let reason = format!("another controller's; ours: {ours}");
                let note = Note::new(Severity::Ignored, "spec.controller", controller, reason);
                notes.push(note.because(Code::Foreign));
                self.classes.insert(name, None);
                self.notes(&object.id).extend(&notes);
                continue;
            }
            let mut class = self.classless.clone();
            if let Some(parameters) = spec.parameters {
                let group = parameters.api_group.unwrap_or_default();
                let name = parameters.name.as_str();
                let cloud = match (group.as_str(), parameters.kind.as_str()) {
                    ("alibabacloud.com", "AlbConfig") => Some(Kind::AlbConfig),
                    ("mse.alibabacloud.com", "MseIngressConfig") => Some(Kind::MseIngressConfig),
                    _ => None,
                };
                if let Some(kind) = cloud {
                    class = self.cloud_class(world, (kind, name), taken, ids, &mut notes);
                } else if (group.as_str(), parameters.kind.as_str()) == (crd::GROUP, "GatewayConfig") {
                    class = self.class(world, name, taken, ids, &mut notes);
                } else {
                    let given = format!("{group} {}", parameters.kind);
                    let reason = "ignored: allowed are GatewayConfig, AlbConfig, MseIngressConfig; the class is \
                                  served on --listen by all clusters";
                    notes.ignored("spec.parameters", given, reason);
                }
            }
            self.classes.insert(name, Some(class));
            self.notes(&object.id).extend(&notes);
        }
    }

    fn class(
        &mut self,
        world: &World,
        config: &str,
        taken: &mut Taken,
        ids: &mut Ids,
        notes: &mut Notes,
    ) -> Class {
        let (spec, permitted, default) = self.config(world, config, notes);
        let mut listeners = Vec::new();
        for (index, listener) in spec.listeners.iter().enumerate() {
            let field = format!("{config}: spec.listeners[{index}]");
            let port = text::bounded::<u16>(listener.port, 1, 65_535);
            let protocol = match listener.protocol.as_str() {
                "HTTP" => Protocol::Http,
                "HTTPS" => Protocol::Https,
                other => {
                    notes.refused_part(field, other, "allowed: HTTP, HTTPS");
                    continue;
                }
            };
            match port {
                Ok(port) => {
                    let listen = Listen { addr: any_address(port), protocol };
                    let id = self.ingress_listener(listen, taken, ids);
                    if id.is_none() {
                        notes.refused_part(
                            field,
                            listen.addr,
                            "not served: the port speaks another protocol",
                        );
                    }
                    listeners.extend(id);
                }
                Err(allowed) => {
                    notes.refused_part(field, listener.port, format!("allowed: {allowed}"));
                }
            }
        }
        if spec.listeners.is_empty() {
            listeners.clone_from(&self.classless.listeners);
        }
        Class { listeners, permitted, default, access: None, gzip: false }
    }

    fn read_grants(&mut self, world: &World) {
        for object in world.fleet(Kind::ReferenceGrant) {
            let Spec::ReferenceGrant(grant) = &object.spec else { continue };
            for from in &grant.spec.from {
                for to in &grant.spec.to {
                    self.grants.push(Grant {
                        from: (from.group.clone(), from.kind.clone(), from.namespace.clone()),
                        to_namespace: object.id.namespace.clone(),
                        to: (
                            to.group.clone(),
                            to.kind.clone(),
                            to.name.clone().filter(|name| !name.is_empty()),
                        ),
                    });
                }
            }
        }
    }
}

/// The annotation `ringway.dev/promoted` of a `MemberCluster`: it may take writes although it is a standby.
fn is_promoted(object: &Object, notes: &mut Notes) -> bool {
    match object.annotations.get(PROMOTED).map(String::as_str) {
        None | Some("false") => false,
        Some("true") => true,
        Some(other) => {
            notes.refused_part(format!("metadata.annotations[{PROMOTED}]"), other, "allowed: true, false");
            false
        }
    }
}

/// A port on every address of the node, IPv4 and IPv6.
pub(super) fn any_address(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port)
}

fn target_kind(group: &str, kind: &str) -> Option<Kind> {
    match (group, kind) {
        ("networking.k8s.io", "Ingress") => Some(Kind::Ingress),
        ("gateway.networking.k8s.io", "HTTPRoute") => Some(Kind::HttpRoute),
        ("gateway.networking.k8s.io", "GRPCRoute") => Some(Kind::GrpcRoute),
        ("gateway.networking.k8s.io", "TCPRoute") => Some(Kind::TcpRoute),
        ("gateway.networking.k8s.io", "TLSRoute") => Some(Kind::TlsRoute),
        ("gateway.networking.k8s.io", "UDPRoute") => Some(Kind::UdpRoute),
        ("gateway.networking.k8s.io", "Gateway") => Some(Kind::Gateway),
        // Namespace sameness: an import is the Services of its name.
        ("", "Service") | (MCS_GROUP, "ServiceImport") => Some(Kind::Service),
        _ => None,
    }
}
