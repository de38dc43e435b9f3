//! Namespace sameness: one backend is the Services of one name in every member cluster, and their endpoints.
//!
//! Pure: from the [`World`] to what a backend's endpoints are. Addresses that a member must never point at are left
//! out here and named by [`review`].

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use routing::id::ClusterId;
use routing::model::{Carrier, Condition};

use crate::crd::EndpointMode;
use crate::object::{MemberService, MemberServicePort, MemberSlice, Spec};
use crate::verdict::Notes;
use crate::world::{ServiceName, World};

/// Endpoints of one backend in one cluster; more are left out and reported.
pub const ENDPOINTS_PER_CLUSTER_MAX: usize = 50_000;

/// A Service port as a route names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PortRef {
    /// By the number of a TCP port of the Service.
    Number(u16),
    /// By the name of a TCP port of the Service.
    Name(Arc<str>),
    /// By the number of a UDP port of the Service.
    Datagrams(u16),
}

impl PortRef {
    /// How the `sectionName` of a policy names it.
    #[must_use]
    pub fn section(&self) -> String {
        match self {
            Self::Number(number) | Self::Datagrams(number) => number.to_string(),
            Self::Name(name) => name.to_string(),
        }
    }
}

impl std::fmt::Display for PortRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Name(name) => f.write_str(name),
            Self::Datagrams(number) => write!(f, "{number}/udp"),
        }
    }
}

/// One Service port as seen across clusters.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendKey {
    /// The Service.
    pub service: ServiceName,
    /// Its port.
    pub port: PortRef,
}

impl std::fmt::Display for BackendKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}:{}", self.service.namespace, self.service.name, self.port)
    }
}

/// May a member's endpoint lie on loopback?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loopback {
    /// A directory of manifests: demo, tests, one-node set-ups.
    Allowed,
    /// A member cluster's API: 127.0.0.1 would be the gateway itself.
    Refused,
}

/// A member cluster, with its settings resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its number.
    pub id: ClusterId,
    /// Its id for people.
    pub name: Arc<str>,
    /// `spec.priority`.
    pub priority: u8,
    /// `spec.weight`.
    pub weight: Option<u32>,
    /// `spec.endpointMode`.
    pub mode: EndpointMode,
    /// `spec.allowedCIDRs`; empty = no restriction.
    pub allowed: Vec<IpNet>,
    /// `spec.region`; empty = unknown.
    pub region: Arc<str>,
    /// `spec.zone`; empty = unknown.
    pub zone: Arc<str>,
}

/// What is known of one endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its zone; empty = unknown.
    pub zone: Arc<str>,
    /// Its node; empty = unknown.
    pub node: Arc<str>,
    /// May it take requests?
    pub condition: Condition,
}

/// Addresses of cloud metadata services: credentials for whoever reaches them.
const METADATA: [IpAddr; 4] = [
    IpAddr::V4(std::net::Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V4(std::net::Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(std::net::Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V6(std::net::Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x254)),
];

/// Why an address of this member is not believed, if it is not (SECURITY S38).
#[must_use]
pub fn refusal(ip: IpAddr, member: &Member, loopback: Loopback) -> Option<&'static str> {
    // `::ffff:169.254.169.254` reaches the IPv4 address.
    let ip = ip.to_canonical();
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast() || v4.octets()[0] == 0);
    if METADATA.contains(&ip) {
        Some("a cloud metadata address is never an endpoint")
    } else if link_local {
        Some("a link-local address is never an endpoint")
    } else if ip.is_unspecified() || ip.is_multicast() || broadcast {
        Some("an unspecified, multicast or broadcast address is never an endpoint")
    } else if ip.is_loopback() && loopback == Loopback::Refused {
        Some("a loopback address of a member cluster is never an endpoint")
    } else if !member.allowed.is_empty() && !member.allowed.iter().any(|net| net.contains(&ip)) {
        Some("not within allowedCIDRs of the MemberCluster")
    } else {
        None
    }
}

/// The Service's port that a route means.
#[must_use]
pub fn port_of<'a>(service: &'a MemberService, port: &PortRef) -> Option<&'a MemberServicePort> {
    service.ports.iter().find(|candidate| match port {
        PortRef::Number(number) => candidate.port == *number && candidate.carrier == Carrier::Tcp,
        PortRef::Name(name) => candidate.name == *name && candidate.carrier == Carrier::Tcp,
        PortRef::Datagrams(number) => candidate.port == *number && candidate.carrier == Carrier::Udp,
    })
}

/// The endpoints of a backend in one member.
#[must_use]
pub fn endpoints(
    world: &World,
    member: &Member,
    backend: &BackendKey,
    loopback: Loopback,
) -> BTreeMap<SocketAddr, Found> {
    let mut found = BTreeMap::new();
    let Some(service) = world.service(&member.name, &backend.service) else { return found };
    let Some(port) = port_of(service, &backend.port) else { return found };
    if service.external_name.is_some() {
        return found;
    }
    let mut add = |ip: IpAddr, port: u16, what: Found| {
        if refusal(ip, member, loopback).is_some() || found.len() >= ENDPOINTS_PER_CLUSTER_MAX {
            return;
        }
        let slot = found.entry(SocketAddr::new(ip, port)).or_insert_with(|| what.clone());
        // An address that moves between slices is listed twice for a moment: the better news counts.
        if what.condition == Condition::Ready {
            *slot = what;
        }
    };
    match member.mode {
        EndpointMode::Pod => {
            for slice in world.slices(&member.name, &backend.service) {
                pods(slice, port, member, &mut add);
            }
        }
        EndpointMode::NodePort if port.node_port == 0 => {}
        EndpointMode::NodePort => {
            for (name, node) in world.nodes(&member.name).filter(|(_, node)| node.ready) {
                for ip in &node.addresses {
                    let zone = or(&node.zone, &member.zone);
                    add(*ip, port.node_port, Found { zone, node: name.clone(), condition: Condition::Ready });
                }
            }
        }
        EndpointMode::LoadBalancer => {
            for ip in &service.load_balancer {
                let (zone, node) = (member.zone.clone(), Arc::from(""));
                add(*ip, port.port, Found { zone, node, condition: Condition::Ready });
            }
        }
    }
    found
}

fn pods(
    slice: &MemberSlice,
    port: &MemberServicePort,
    member: &Member,
    add: &mut dyn FnMut(IpAddr, u16, Found),
) {
    // A slice's ports carry the names of the Service's ports and the numbers of the pods' (`targetPort` resolved).
    let is_it =
        |(name, carrier, _): &&(Arc<str>, Carrier, u16)| *name == port.name && *carrier == port.carrier;
    let Some((_, _, number)) = slice.ports.iter().find(is_it) else { return };
    for endpoint in &slice.endpoints {
        if let Some(condition) = endpoint.condition {
            let zone = or(&endpoint.zone, &member.zone);
            add(endpoint.ip, *number, Found { zone, node: endpoint.node.clone(), condition });
        }
    }
}

fn or(first: &Arc<str>, second: &Arc<str>) -> Arc<str> {
    if first.is_empty() { second.clone() } else { first.clone() }
}

/// What is wrong with the addresses of a slice, a Service or a Node of this member.
#[must_use]
pub fn review(spec: &Spec, member: &Member, loopback: Loopback) -> Notes {
    let mut notes = Notes::default();
    let mut check = |field: String, ip: IpAddr| {
        if let Some(reason) = refusal(ip, member, loopback) {
            notes.refused_part(field, ip, reason);
        }
    };
    match (spec.slice(), spec.service(), spec.node(), member.mode) {
        (Some(slice), None, None, EndpointMode::Pod) => {
            for endpoint in &slice.endpoints {
                check("endpoints[].addresses[0]".to_owned(), endpoint.ip);
            }
        }
        (None, Some(service), None, EndpointMode::LoadBalancer) => {
            service.load_balancer.iter().for_each(|ip| check("status.loadBalancer.ingress".to_owned(), *ip));
        }
        (None, None, Some(node), EndpointMode::NodePort) => {
            node.addresses.iter().for_each(|ip| check("status.addresses".to_owned(), *ip));
        }
        (_, _, _, EndpointMode::Pod | EndpointMode::NodePort | EndpointMode::LoadBalancer) => {}
    }
    notes
}
