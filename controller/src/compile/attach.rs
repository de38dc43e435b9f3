//! Which listeners of Gateways a route is attached to, and for which hosts: routes of every kind.

use std::collections::HashSet;
use std::sync::Arc;

use routing::id::ListenerId;
use routing::model::{HostPattern, Protocol, WildcardLabels};

use crate::compile::context::{Context, GatewayInfo, GatewayListener, RoutesFrom};
use crate::compile::gateway_api::GROUP;
use crate::compile::route::Builder;
use crate::finding::{ParentRef, ParentStanding, Standing};
use crate::object::{Kind, ObjectId, Source};
use crate::text;
use crate::verdict::{Code, Note, Severity};

/// One listener that the route is attached to.
pub(super) struct Attachment<'a> {
    pub(super) gateway_key: (Arc<str>, Arc<str>),
    pub(super) gateway: &'a GatewayInfo,
    pub(super) section: Arc<str>,
    pub(super) ids: &'a [ListenerId],
    pub(super) hosts: Vec<HostPattern>,
}

/// A `parentRef` of a route of any kind.
pub(super) struct Parent<'p> {
    pub(super) group: Option<&'p str>,
    pub(super) kind: Option<&'p str>,
    pub(super) namespace: Option<&'p str>,
    pub(super) name: &'p str,
    pub(super) section_name: Option<&'p str>,
    pub(super) port: Option<i32>,
}

/// The generated types of each kind of route are types of their own, with the same fields.
macro_rules! parents {
    ($refs:expr) => {
        $refs
            .iter()
            .flatten()
            .map(|parent| $crate::compile::attach::Parent {
                group: parent.group.as_deref(),
                kind: parent.kind.as_deref(),
                namespace: parent.namespace.as_deref(),
                name: &parent.name,
                section_name: parent.section_name.as_deref(),
                port: parent.port,
            })
            .collect::<Vec<_>>()
    };
}

pub(super) use parents;

/// `None` = the route names no host; an empty list = every name was wrong.
pub(super) fn hostnames(builder: &mut Builder<'_, '_>, given: &[String]) -> Option<Vec<HostPattern>> {
    if given.is_empty() {
        return None;
    }
    let mut hosts = Vec::new();
    for (index, name) in given.iter().enumerate() {
        match text::host(name, WildcardLabels::Many) {
            Ok(host) => hosts.push(host),
            Err(allowed) => {
                let field = format!("spec.hostnames[{index}]");
                builder.out.notes.refused_part(field, name, format!("allowed: {allowed}"));
            }
        }
    }
    Some(hosts)
}

pub(super) fn attach<'a>(
    builder: &mut Builder<'a, '_>,
    parents: &[Parent<'_>],
    hosts: Option<&[HostPattern]>,
    protocol: Protocol,
) -> Vec<Attachment<'a>> {
    let mut attachments = Vec::new();
    let mut standings = Vec::new();
    let mut seen = HashSet::new();
    let context = builder.env.context;
    let namespace = builder.object.id.namespace.clone();
    for (index, parent) in parents.iter().enumerate() {
        let field = format!("spec.parentRefs[{index}]");
        let kind = (parent.group.unwrap_or(GROUP), parent.kind.unwrap_or("Gateway"));
        if kind != (GROUP, "Gateway") {
            let given = format!("{} {}", kind.0, kind.1);
            builder.out.notes.ignored(field, given, "only Gateways are served");
            continue;
        }
        let of = parent.namespace.map_or_else(|| namespace.clone(), Arc::from);
        let gateway_key = (of, Arc::from(parent.name));
        let Some(gateway) = context.gateways.get(&gateway_key) else {
            not_ours(builder, field, &gateway_key);
            continue;
        };
        let mut refusal = (Code::NoMatchingParent, "no listener has this sectionName and port");
        let mut sections = Vec::new();
        for listener in &gateway.listeners {
            let named = parent.section_name.is_none_or(|section| section == &*listener.section);
            let ported = parent.port.is_none_or(|port| port == listener.port);
            if !named || !ported {
                continue;
            }
            match admit(context, listener, protocol, (&gateway_key.0, &namespace), hosts) {
                Ok(hosts) => {
                    sections.push(listener.section.clone());
                    if seen.insert((gateway_key.clone(), listener.section.clone())) {
                        attachments.push(Attachment {
                            gateway_key: gateway_key.clone(),
                            gateway,
                            section: listener.section.clone(),
                            ids: &listener.ids,
                            hosts,
                        });
                    }
                }
                Err(reason) => refusal = reason,
            }
        }
        if sections.is_empty() {
            let name = format!("{}/{}", gateway_key.0, gateway_key.1);
            let reason = format!("not attached: {}", refusal.1);
            builder.out.notes.push(Note::new(Severity::RefusedPart, field, name, reason).because(refusal.0));
        }
        let refusal = sections.is_empty().then_some(refusal);
        standings.push(ParentStanding { reference: parent.owned(), gateway: gateway_key, sections, refusal });
    }
    if parents.is_empty() {
        builder.out.notes.ignored("spec.parentRefs", "", "attached to no Gateway: it serves nothing");
    }
    if !standings.is_empty() {
        builder.out.standing = Standing::Route { parents: standings, serves: false };
    }
    attachments
}

/// A Gateway that is not there may come; one of another controller is that controller's to speak of.
fn not_ours(builder: &mut Builder<'_, '_>, field: String, (namespace, name): &(Arc<str>, Arc<str>)) {
    let id = ObjectId {
        source: Source::Fleet,
        kind: Kind::Gateway,
        namespace: namespace.clone(),
        name: name.clone(),
    };
    let (severity, reason) = match builder.env.world.get(&id) {
        Some(_) => (Severity::Ignored, "another controller's Gateway"),
        None => (Severity::RefusedPart, "no such Gateway of ours"),
    };
    builder.out.notes.push(Note::new(severity, field, format!("{namespace}/{name}"), reason));
}

impl Parent<'_> {
    fn owned(&self) -> ParentRef {
        let text = |given: Option<&str>| given.map(str::to_owned);
        ParentRef {
            group: text(self.group),
            kind: text(self.kind),
            namespace: text(self.namespace),
            name: self.name.to_owned(),
            section_name: text(self.section_name),
            port: self.port,
        }
    }
}

/// The hosts that the route serves on this listener.
fn admit(
    context: &Context,
    listener: &GatewayListener,
    protocol: Protocol,
    (gateway_namespace, route_namespace): (&str, &str),
    hosts: Option<&[HostPattern]>,
) -> Result<Vec<HostPattern>, (Code, &'static str)> {
    if let Some(reason) = listener.closed {
        return Err((Code::NotAllowedByListeners, reason));
    }
    let refuse = |reason| Err((Code::NotAllowedByListeners, reason));
    // A route of HTTP says nothing of TLS: it is served with and without.
    let spoken = match listener.protocol {
        Protocol::Https => Protocol::Http,
        Protocol::Http | Protocol::Tcp | Protocol::TlsPassthrough => listener.protocol,
    };
    if spoken != protocol {
        return refuse("NotAllowedByListeners: its protocol serves another kind of route");
    }
    match &listener.from {
        RoutesFrom::All => {}
        RoutesFrom::Selected(selector) if context.namespaces.is_selected(route_namespace, selector) => {}
        RoutesFrom::Selected(_) => {
            return refuse("NotAllowedByListeners: its allowedRoutes select other namespaces");
        }
        RoutesFrom::Same if gateway_namespace == route_namespace => {}
        RoutesFrom::Same => {
            return refuse("NotAllowedByListeners: its allowedRoutes admit only its own namespace");
        }
        RoutesFrom::Nobody => return refuse("NotAllowedByListeners: its allowedRoutes admit nobody"),
    }
    let Some(hosts) = hosts else { return Ok(vec![listener.hostname.clone()]) };
    let mut common: Vec<HostPattern> =
        hosts.iter().filter_map(|host| intersect(&listener.hostname, host)).collect();
    common.sort();
    common.dedup();
    if common.is_empty() {
        Err((Code::NoMatchingListenerHostname, "NoMatchingListenerHostname"))
    } else {
        Ok(common)
    }
}

/// The hosts that both patterns match, if any: always one of the two.
fn intersect(a: &HostPattern, b: &HostPattern) -> Option<HostPattern> {
    let under = |name: &str, suffix: &str| name.strip_suffix(suffix).is_some_and(|head| head.ends_with('.'));
    match (a, b) {
        (HostPattern::Any, other) | (other, HostPattern::Any) => Some(other.clone()),
        (HostPattern::Exact(x), HostPattern::Exact(y)) => (x == y).then(|| a.clone()),
        (HostPattern::Exact(name), HostPattern::Wildcard { suffix, .. }) => {
            under(name, suffix).then(|| a.clone())
        }
        (HostPattern::Wildcard { suffix, .. }, HostPattern::Exact(name)) => {
            under(name, suffix).then(|| b.clone())
        }
        (HostPattern::Wildcard { suffix: x, .. }, HostPattern::Wildcard { suffix: y, .. }) => {
            if x == y || under(x, y) { Some(a.clone()) } else { under(y, x).then(|| b.clone()) }
        }
    }
}
