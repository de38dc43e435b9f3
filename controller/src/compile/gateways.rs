//! Gateways of ours and their listeners, as part of the [`Context`].

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use gateway_api::experimental::gateways::{
    Gateway, GatewayInfrastructureParametersRef, GatewayListeners,
    GatewayListenersAllowedRoutesNamespacesFrom, GatewayListenersAllowedRoutesNamespacesSelector,
    GatewayListenersTlsMode,
};
use routing::model::{Carrier, HostPattern, Protocol, WildcardLabels};

use crate::compile::addresses::Given;
use crate::compile::attach::RouteKind;
use crate::compile::context::{
    Context, GATEWAY_CONTROLLER, GatewayInfo, GatewayListener, RoutesFrom, SecretUse, Wanted,
};
use crate::compile::gateway_api::GROUP;
use crate::compile::handshake;
use crate::compile::ids::Ids;
use crate::compile::layer4::{self, Rules};
use crate::compile::listen::{Conflict, Taken};
use crate::compile::namespaces::NamespaceSelector;
use crate::compile::policy::{Part, Permitted};
use crate::crd;
use crate::object::{Kind, Object, ObjectId, Spec};
use crate::text;
use crate::verdict::{Code, Note, Notes, Severity};
use crate::world::World;

impl Context {
    pub(super) fn read_gateways(&mut self, world: &World, taken: &mut Taken, ids: &mut Ids) {
        let mut classes = HashMap::new();
        for object in world.fleet(Kind::GatewayClass) {
            let Spec::GatewayClass(class) = &object.spec else { continue };
            let mut notes = Notes::default();
            if class.spec.controller_name != GATEWAY_CONTROLLER {
                let reason = format!("another controller's; ours: {GATEWAY_CONTROLLER}");
                let given = &class.spec.controller_name;
                let note = Note::new(Severity::Ignored, "spec.controllerName", given, reason);
                notes.push(note.because(Code::Foreign));
                classes.insert(object.id.name.clone(), None);
            } else {
                let mut parameters = (crd::GatewayConfigSpec::default(), Permitted::All, Part::default());
                if let Some(reference) = &class.spec.parameters_ref {
                    if (reference.group.as_str(), reference.kind.as_str()) == (crd::GROUP, "GatewayConfig") {
                        parameters = self.config(world, &reference.name, &mut notes);
                    } else {
                        let given = format!("{} {}", reference.group, reference.kind);
                        let allowed = "allowed: ringway.dev GatewayConfig";
                        let note = Note::new(Severity::RefusedPart, "spec.parametersRef", given, allowed);
                        notes.push(note.because(Code::InvalidParameters));
                    }
                }
                if parameters.0.listeners.iter().any(|listener| listener.layer4.is_none()) {
                    let reason = "not used for a GatewayClass: Gateways bring their own listeners";
                    notes.info("spec.parametersRef", "listeners", reason);
                }
                let layer4 = layer4::rules(&parameters.0.listeners, &mut notes);
                classes.insert(object.id.name.clone(), Some((parameters.1, parameters.2, layer4)));
            }
            self.notes(&object.id).extend(&notes);
        }
        let mut gateways: Vec<&Arc<Object>> = world.fleet(Kind::Gateway).collect();
        gateways.sort_by_key(|object| (object.created, object.id.clone()));
        let mut addresses = self.pooled(&gateways, |class| matches!(classes.get(class), Some(Some(_))));
        for object in gateways {
            let Spec::Gateway(gateway) = &object.spec else { continue };
            let mut notes = Notes::default();
            match classes.get(gateway.spec.gateway_class_name.as_str()) {
                Some(Some((permitted, default, layer4))) => {
                    refuse_parameters(gateway, &mut notes);
                    ignore_client_certificate(gateway, &mut notes);
                    let given = had(addresses.remove(&object.id), gateway, &mut notes);
                    let at = given.as_deref();
                    let listeners =
                        self.gateway_listeners((object, gateway, at), (taken, layer4), ids, &mut notes);
                    let key = (object.id.namespace.clone(), object.id.name.clone());
                    let info = GatewayInfo {
                        listeners,
                        permitted: permitted.clone(),
                        default: default.clone(),
                        addresses: given,
                    };
                    self.gateways.insert(key, info);
                }
                Some(None) => {
                    let class = &gateway.spec.gateway_class_name;
                    let reason = "another controller's class";
                    let note = Note::new(Severity::Ignored, "spec.gatewayClassName", class, reason);
                    notes.push(note.because(Code::Foreign));
                }
                None => {
                    // Whose it would be is not known.
                    let class = &gateway.spec.gateway_class_name;
                    let reason = "no such GatewayClass";
                    let note = Note::new(Severity::Refused, "spec.gatewayClassName", class, reason);
                    notes.push(note.because(Code::Foreign));
                }
            }
            self.notes(&object.id).extend(&notes);
        }
    }

    /// What the pool gives to each Gateway of ours; nothing when there is no pool.
    fn pooled(&self, gateways: &[&Arc<Object>], is_ours: impl Fn(&str) -> bool) -> HashMap<ObjectId, Given> {
        if self.defaults.pool.is_empty() {
            return HashMap::new();
        }
        let ours: Vec<(&Arc<Object>, &Gateway)> = (gateways.iter())
            .filter_map(|object| {
                let Spec::Gateway(gateway) = &object.spec else { return None };
                Some((*object, &**gateway))
            })
            .filter(|(_, gateway)| is_ours(&gateway.spec.gateway_class_name))
            .collect();
        let given = self.defaults.pool.assign(&ours);
        ours.iter().map(|(object, _)| object.id.clone()).zip(given).collect()
    }

    /// `given`: its addresses; `None` = every address of the node.
    fn gateway_listeners(
        &mut self,
        (object, gateway, given): (&Object, &Gateway, Option<&[IpAddr]>),
        (taken, layer4): (&mut Taken, &Rules),
        ids: &mut Ids,
        notes: &mut Notes,
    ) -> Vec<GatewayListener> {
        let every = [IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        let addresses = given.unwrap_or(&every);
        let mut listeners = read_listeners(gateway, notes);
        close_rivals(&mut listeners, notes);
        for listener in &mut listeners {
            let Some(spec) = gateway.spec.listeners.get(listener.index) else { continue };
            let field = field_of(listener.index);
            let secrets = match listener.protocol {
                Protocol::Http | Protocol::Tcp | Protocol::TlsPassthrough | Protocol::Udp => None,
                Protocol::Https | Protocol::TlsTerminate => {
                    let options = spec.tls.as_ref().and_then(|tls| tls.options.as_ref());
                    let terms = handshake::options(options, listener.protocol, &field, notes);
                    let secrets = self.certificate_refs(object, spec, &field, &listener.hostname, notes);
                    Some(Wanted::Gateway(secrets, terms))
                }
            };
            let key = (listener.port, listener.protocol.carrier());
            let rules = layer4.get(&key).filter(|_| layer4::is_layer4(listener.protocol));
            if let Some(Err(reason)) = rules {
                notes.ignored(&field, spec.port, *reason);
                listener.closed = listener.closed.or(Some(reason));
            }
            if addresses.is_empty() {
                listener.closed = listener.closed.or(Some("its Gateway has no address"));
            }
            if listener.closed.is_some() {
                continue;
            }
            let port = u16::try_from(spec.port).unwrap_or(0);
            for ip in addresses {
                let addr = SocketAddr::new(*ip, port);
                if let Err(conflict) = taken.claim(addr, &listener.hostname, listener.protocol) {
                    notes.push(conflicted(&conflict, &field, addr));
                    listener.closed = Some("it conflicts with another listener");
                    continue;
                }
                let name = format!("{}/{}/{}", object.id.namespace, object.id.name, spec.name);
                let key = (Arc::from(name), addr);
                let asked = (listener.protocol, rules.and_then(|rules| rules.as_ref().ok()).cloned());
                let id = self.add_listener(key, listener.hostname.clone(), asked, ids);
                if let (Some(id), Some(secrets)) = (id, &secrets) {
                    self.secure.insert(id, secrets.clone());
                }
                listener.ids.extend(id);
            }
        }
        listeners
    }

    /// The Secrets that a listener refers to and may use.
    fn certificate_refs(
        &self,
        object: &Object,
        spec: &GatewayListeners,
        field: &str,
        hostname: &HostPattern,
        notes: &mut Notes,
    ) -> Arc<[SecretUse]> {
        let refs = spec.tls.as_ref().and_then(|tls| tls.certificate_refs.as_deref()).unwrap_or_default();
        if refs.is_empty() {
            let reason = "no certificate: every TLS handshake is refused";
            let note = Note::new(Severity::RefusedPart, format!("{field}.tls.certificateRefs"), "", reason);
            notes.push(note.because(Code::InvalidCertificateRef));
        }
        let mut secrets = Vec::new();
        for (index, reference) in refs.iter().enumerate() {
            let field = format!("{field}.tls.certificateRefs[{index}]");
            let group = reference.group.as_deref().unwrap_or_default();
            let kind = reference.kind.as_deref().unwrap_or("Secret");
            if (group, kind) != ("", "Secret") {
                let given = format!("{group} {kind}");
                let reason = "InvalidCertificateRef: allowed: Secret";
                let note = Note::new(Severity::RefusedPart, field, given.trim(), reason);
                notes.push(note.because(Code::InvalidCertificateRef));
                continue;
            }
            let own = &object.id.namespace;
            let namespace: Arc<str> = match reference.namespace.as_deref().filter(|name| !name.is_empty()) {
                Some(namespace) => Arc::from(namespace),
                None => Arc::clone(own),
            };
            let name: Arc<str> = Arc::from(reference.name.as_str());
            let from = ("gateway.networking.k8s.io", "Gateway", &**own);
            if namespace != *own && !self.is_granted(from, &namespace, ("", "Secret", &name)) {
                let reason = format!("RefNotPermitted: no ReferenceGrant in namespace {namespace} allows it");
                let note = Note::new(Severity::RefusedPart, field, format!("{namespace}/{name}"), reason);
                notes.push(note.because(Code::RefNotPermitted));
                continue;
            }
            let hosts = vec![hostname.clone()];
            secrets.push(SecretUse { by: object.id.clone(), field, secret: (namespace, name), hosts });
        }
        secrets.into()
    }
}

fn field_of(index: usize) -> String {
    format!("spec.listeners[{index}]")
}

/// The listeners as they are written, but those whose name another one has already.
fn read_listeners(gateway: &Gateway, notes: &mut Notes) -> Vec<GatewayListener> {
    let mut listeners: Vec<GatewayListener> = Vec::new();
    for (index, spec) in gateway.spec.listeners.iter().enumerate() {
        let field = field_of(index);
        if listeners.iter().any(|listener| *listener.section == *spec.name) {
            let reason = "used twice: the first one is served";
            notes.refused_part(format!("{field}.name"), &spec.name, reason);
            continue;
        }
        let mut listener = read_listener(spec, (index, &field), notes);
        if listener.closed.is_none() && is_client_asked(gateway, &listener) {
            let reason = "its Gateway asks clients for certificates (spec.tls.frontend), which is not \
                          supported: nobody would be refused, so it is not served";
            let note = Note::new(Severity::RefusedPart, &field, spec.port, reason);
            notes.push(note.because(Code::UnsupportedValue));
            listener.closed = Some("its Gateway asks clients for certificates, which is not supported");
        }
        if parameters(gateway).is_some() {
            listener.closed = listener.closed.or(Some("its Gateway has parameters that are not known"));
        }
        listeners.push(listener);
    }
    listeners
}

/// Does its Gateway want to see certificates of clients on this listener (GEP-91)?
fn is_client_asked(gateway: &Gateway, listener: &GatewayListener) -> bool {
    let ends_tls = matches!(listener.protocol, Protocol::Https | Protocol::TlsTerminate);
    let asked = gateway.spec.tls.as_ref().and_then(|tls| tls.frontend.as_ref());
    let Some(asked) = asked.filter(|_| ends_tls) else { return false };
    let own = asked.per_port.iter().flatten().find(|own| own.port == listener.port);
    own.map_or(asked.default.validation.is_some(), |own| own.tls.validation.is_some())
}

/// Of listeners of one Gateway that cannot stand beside each other none is served: no winner may be picked (Gateway API,
/// `spec.listeners`).
fn close_rivals(listeners: &mut [GatewayListener], notes: &mut Notes) {
    let open = |listener: &&GatewayListener| listener.closed.is_none();
    let rival = |of: &GatewayListener| {
        let same = |other: &&GatewayListener| {
            (other.port, other.protocol.carrier()) == (of.port, of.protocol.carrier())
                && other.index != of.index
        };
        let others = || listeners.iter().filter(open).filter(same);
        let protocol = others().find(|other| other.protocol != of.protocol);
        let protocol = protocol.map(|other| (Conflict::Protocol(other.protocol), other));
        let hostname = || others().find(|other| other.hostname == of.hostname);
        protocol.or_else(|| hostname().map(|other| (Conflict::Hostname, other)))
    };
    let told = |(conflict, other): (Conflict, &GatewayListener)| match conflict {
        Conflict::Hostname => {
            let reason = format!("{} has this port and hostname, too; neither is served", other.section);
            (Code::HostnameConflict, format!("Conflicted: {reason}"))
        }
        Conflict::Protocol(spoken) => {
            let spoken = layer4::protocol_name(spoken);
            let reason = format!("{} speaks {spoken} on this port; neither is served", other.section);
            (Code::ProtocolConflict, format!("Conflicted: ProtocolConflict: {reason}"))
        }
    };
    let found: Vec<_> = listeners.iter().map(|of| open(&of).then(|| rival(of)).flatten().map(told)).collect();
    for (listener, found) in listeners.iter_mut().zip(found) {
        let Some((code, reason)) = found else { continue };
        let note = Note::new(Severity::RefusedPart, field_of(listener.index), listener.port, reason);
        notes.push(note.because(code));
        listener.closed = Some("it conflicts with another listener");
    }
}

/// What a Gateway says of its own infrastructure besides labels and annotations.
fn parameters(gateway: &Gateway) -> Option<&GatewayInfrastructureParametersRef> {
    gateway.spec.infrastructure.as_ref()?.parameters_ref.as_ref()
}

/// No kind of parameters is known for a single Gateway: one that has some wants what it would not get.
fn refuse_parameters(gateway: &Gateway, notes: &mut Notes) {
    let Some(given) = parameters(gateway) else { return };
    let reason = "none is known for a Gateway; its GatewayClass may name a ringway.dev GatewayConfig";
    let (field, given) = ("spec.infrastructure.parametersRef", format!("{} {}", given.group, given.kind));
    notes.push(Note::new(Severity::Refused, field, given, reason).because(Code::InvalidParameters));
}

/// What a Gateway would show its backends is not its own here.
fn ignore_client_certificate(gateway: &Gateway, notes: &mut Notes) {
    if gateway.spec.tls.as_ref().is_some_and(|tls| tls.backend.is_some()) {
        let reason = "not supported: BackendTLSPolicy has the option ringway.dev/client-certificate, and Ingresses \
                      the annotation proxy-ssl-secret";
        notes.ignored("spec.tls.backend", "", reason);
    }
}

/// The addresses that a Gateway has: what the pool gives it, where there is one.
fn had(pooled: Option<Given>, gateway: &Gateway, notes: &mut Notes) -> Option<Vec<IpAddr>> {
    let Some(given) = pooled else { return asked(gateway, notes) };
    notes.extend(&given.notes);
    Some(given.addresses)
}

/// The addresses that a Gateway asks for where there is no pool; `None` = every address of the node.
fn asked(gateway: &Gateway, notes: &mut Notes) -> Option<Vec<IpAddr>> {
    let asked = gateway.spec.addresses.as_deref().filter(|asked| !asked.is_empty())?;
    let mut addresses = Vec::new();
    for (index, address) in asked.iter().enumerate() {
        let value = address.value.clone().unwrap_or_default();
        match (address.r#type.as_deref().unwrap_or("IPAddress"), value.parse()) {
            ("IPAddress", Ok(ip)) => addresses.push(ip),
            (kind, _) => {
                let reason = "allowed: type IPAddress with an address of this node";
                let (field, given) = (format!("spec.addresses[{index}]"), format!("{kind} {value}"));
                let note = Note::new(Severity::RefusedPart, field, given, reason);
                notes.push(note.because(Code::UnsupportedAddress));
            }
        }
    }
    Some(addresses)
}

fn conflicted(conflict: &Conflict, field: &str, addr: SocketAddr) -> Note {
    let (code, reason) = match conflict {
        Conflict::Hostname => (
            Code::HostnameConflict,
            "Conflicted: another listener has this address, port and hostname".to_owned(),
        ),
        Conflict::Protocol(other) => {
            let other = layer4::protocol_name(*other);
            (Code::ProtocolConflict, format!("Conflicted: ProtocolConflict: {addr} is served as {other}"))
        }
    };
    Note::new(Severity::RefusedPart, field, addr, reason).because(code)
}

/// The kinds of routes that are served on a listener of this protocol.
fn kinds_of(protocol: Protocol) -> &'static [&'static str] {
    match protocol {
        Protocol::Http | Protocol::Https => &["HTTPRoute", "GRPCRoute"],
        Protocol::Tcp => &["TCPRoute"],
        Protocol::TlsPassthrough => &["TLSRoute"],
        Protocol::TlsTerminate => &["TLSRoute", "TCPRoute"],
        Protocol::Udp => &["UDPRoute"],
    }
}

/// Those of them that the listener allows, in its own order; all when it names none. None where its protocol is not one
/// that is known: whatever stands for it then.
pub(super) fn kinds(spec: &GatewayListeners, protocol: Protocol) -> Vec<&'static str> {
    let is_known = ["HTTP", "HTTPS", "TCP", "TLS", "UDP"].contains(&spec.protocol.as_str());
    let served = if is_known { kinds_of(protocol) } else { &[] };
    let allowed = spec.allowed_routes.as_ref().and_then(|allowed| allowed.kinds.as_deref());
    match allowed.filter(|allowed| !allowed.is_empty()) {
        None => served.to_vec(),
        Some(allowed) => allowed
            .iter()
            .filter(|allowed| allowed.group.as_deref().is_none_or(|group| group == GROUP))
            .filter_map(|allowed| served.iter().find(|kind| **kind == allowed.kind).copied())
            .collect(),
    }
}

fn read_listener(
    spec: &GatewayListeners,
    (index, field): (usize, &str),
    notes: &mut Notes,
) -> GatewayListener {
    let mut wrong = None;
    let hostname = match spec.hostname.as_deref().filter(|hostname| !hostname.is_empty()) {
        None => HostPattern::Any,
        Some(hostname) => text::host(hostname, WildcardLabels::Many).unwrap_or_else(|allowed| {
            notes.refused_part(format!("{field}.hostname"), hostname, format!("allowed: {allowed}"));
            wrong = Some("its hostname is wrong");
            HostPattern::Any
        }),
    };
    if text::bounded::<u16>(i64::from(spec.port), 1, 65_535).is_err() {
        notes.refused_part(format!("{field}.port"), spec.port, "allowed: 1 to 65535");
        wrong = Some("its port is wrong");
    }
    let (protocol, mut closed) = spoken(spec);
    let hostname = match protocol {
        Protocol::Tcp | Protocol::Udp if hostname != HostPattern::Any => {
            let reason = match protocol.carrier() {
                Carrier::Tcp => "a TCP connection names no host",
                Carrier::Udp => "a datagram names no host",
            };
            notes.ignored(format!("{field}.hostname"), "", reason);
            HostPattern::Any
        }
        Protocol::Tcp
        | Protocol::Udp
        | Protocol::Http
        | Protocol::Https
        | Protocol::TlsPassthrough
        | Protocol::TlsTerminate => hostname,
    };
    if let Some(reason) = closed {
        let note = Note::new(Severity::Ignored, format!("{field}.protocol"), &spec.protocol, reason);
        notes.push(note.because(Code::UnsupportedProtocol));
    }
    closed = wrong.or(closed);
    let served = kinds(spec, protocol);
    closed = closed.or(say_lost_kinds(spec, protocol, &served, field, notes));
    let allowed = spec.allowed_routes.as_ref();
    let namespaces = allowed.and_then(|allowed| allowed.namespaces.as_ref());
    let from = match namespaces.and_then(|namespaces| namespaces.from.as_ref()) {
        None | Some(GatewayListenersAllowedRoutesNamespacesFrom::Same) => RoutesFrom::Same,
        Some(GatewayListenersAllowedRoutesNamespacesFrom::All) => RoutesFrom::All,
        Some(GatewayListenersAllowedRoutesNamespacesFrom::Selector) => {
            let given = namespaces.and_then(|namespaces| namespaces.selector.as_ref());
            selected(given, &format!("{field}.allowedRoutes.namespaces"), notes)
        }
    };
    let section = Arc::from(spec.name.as_str());
    let (ids, kinds) = (Vec::new(), RouteKind::of(protocol).iter().copied());
    let kinds = kinds.filter(|kind| served.contains(&kind.name())).collect();
    GatewayListener { section, index, port: spec.port, hostname, ids, from, protocol, kinds, closed }
}

/// What a listener speaks, and why it serves nothing if that cannot be.
fn spoken(spec: &GatewayListeners) -> (Protocol, Option<&'static str>) {
    let mode = spec.tls.as_ref().and_then(|tls| tls.mode.as_ref());
    match (spec.protocol.as_str(), mode) {
        ("HTTP", _) => (Protocol::Http, None),
        ("HTTPS", Some(GatewayListenersTlsMode::Passthrough)) => {
            (Protocol::Https, Some("allowed for HTTPS: tls.mode Terminate"))
        }
        ("HTTPS", Some(GatewayListenersTlsMode::Terminate) | None) => (Protocol::Https, None),
        ("TCP", _) => (Protocol::Tcp, None),
        ("TLS", Some(GatewayListenersTlsMode::Passthrough)) => (Protocol::TlsPassthrough, None),
        ("TLS", Some(GatewayListenersTlsMode::Terminate) | None) => (Protocol::TlsTerminate, None),
        ("UDP", _) => (Protocol::Udp, None),
        _ => (Protocol::Http, Some("this protocol is not known; allowed: HTTP, HTTPS, TCP, TLS, UDP")),
    }
}

/// Remarks on kinds of routes that a listener allows and cannot serve. Returns why it serves nothing, if none is left.
fn say_lost_kinds(
    spec: &GatewayListeners,
    protocol: Protocol,
    served: &[&'static str],
    field: &str,
    notes: &mut Notes,
) -> Option<&'static str> {
    let allowed = spec.allowed_routes.as_ref();
    let asked = allowed.and_then(|allowed| allowed.kinds.as_ref()).filter(|kinds| !kinds.is_empty());
    if let Some(asked) = asked.filter(|asked| asked.len() > served.len()) {
        let (only, none) = match protocol {
            Protocol::Http | Protocol::Https => {
                ("only HTTPRoute and GRPCRoute are served", "it allows no HTTPRoute and no GRPCRoute")
            }
            Protocol::Tcp => ("only TCPRoute is served", "it allows no TCPRoute"),
            Protocol::TlsPassthrough => ("only TLSRoute is served", "it allows no TLSRoute"),
            Protocol::TlsTerminate => {
                ("only TLSRoute and TCPRoute are served", "it allows neither TLSRoute nor TCPRoute")
            }
            Protocol::Udp => ("only UDPRoute is served", "it allows no UDPRoute"),
        };
        let lost = asked.iter().map(|kind| kind.kind.as_str()).filter(|kind| !served.contains(kind));
        let (field, lost) = (format!("{field}.allowedRoutes.kinds"), lost.collect::<Vec<_>>().join(", "));
        notes.push(Note::new(Severity::Ignored, field, lost, only).because(Code::InvalidRouteKinds));
        if served.is_empty() {
            return Some(none);
        }
    }
    None
}

/// A selector that is missing or cannot be read admits nobody: it was meant to restrict.
fn selected(
    given: Option<&GatewayListenersAllowedRoutesNamespacesSelector>,
    field: &str,
    notes: &mut Notes,
) -> RoutesFrom {
    let Some(given) = given else {
        let reason = "from: Selector needs one; no route attaches";
        notes.refused_part(format!("{field}.selector"), "", reason);
        return RoutesFrom::Nobody;
    };
    match NamespaceSelector::read(given) {
        Ok(selector) => RoutesFrom::Selected(selector),
        Err((within, value, allowed)) => {
            let reason = format!("allowed: {allowed}; no route attaches");
            notes.refused_part(format!("{field}.selector.{within}"), value, reason);
            RoutesFrom::Nobody
        }
    }
}
