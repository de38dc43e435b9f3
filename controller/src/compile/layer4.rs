//! `TCPRoute`, `TLSRoute` and `UDPRoute` to rows, and what a layer-4 listener asks of connections and flows.
//!
//! A connection, and a flow of datagrams, has no conditions: a route has one row for each host of each listener, and the first route of a host
//! has it (older, then by name, as for HTTP). A share that leads nowhere is a reset.

use std::collections::HashMap;
use std::sync::Arc;

use ::gateway_api::experimental::tcproutes::TcpRoute;
use ::gateway_api::experimental::tlsroutes::TlsRoute;
use ::gateway_api::experimental::udproutes::UdpRoute;
use ipnet::IpNet;
use routing::model::{
    Carrier, HeaderEdits, HostKey, Layer4, PathMatch, Protocol, RuleMatch, SendProxy, Speech, Target,
    WeightedBackend,
};

use crate::compile::annotations;
use crate::compile::attach::{Attachment, RouteKind, attach, hostnames, parents};
use crate::compile::gateway_api::{self, Backend, backend};
use crate::compile::policy::Part;
use crate::compile::route::{Builder, Env, Rank, RouteOutput, Row};
use crate::crd;
use crate::merge::BackendKey;
use crate::object::Object;
use crate::text;
use crate::verdict::Notes;

/// What becomes of the share of a reference that cannot be resolved.
fn lost_share(speech: Speech) -> &'static str {
    match speech {
        Speech::Http | Speech::Opaque => "its share is reset",
        Speech::Datagrams => "its share is dropped",
    }
}

/// The most that a bound of a listener may be.
const CONNECTIONS_MAX: i64 = 10_000_000;
/// The most new connections of one source per second.
const RATE_MAX: i64 = 1_000_000;

/// One rule of either kind of route.
struct Rule<'a> {
    name: Option<&'a str>,
    backends: Vec<(Backend<'a>, Option<i32>)>,
}

macro_rules! rules {
    ($route:expr) => {
        $route.spec.rules.iter().map(|rule| Rule {
            name: rule.name.as_deref(),
            backends: rule.backend_refs.iter().map(|given| (backend!(given), given.weight)).collect(),
        })
    };
}

/// Compiles one `TCPRoute`. What is wrong is reported and costs itself only.
pub(super) fn tcp(env: &mut Env<'_>, object: &Object, route: &TcpRoute) -> RouteOutput {
    let mut builder = Builder::new(env, object);
    let parents = parents!(route.spec.parent_refs);
    let attachments = attach(&mut builder, &parents, None, RouteKind::Tcp);
    compile(builder, (rules!(route).collect(), Speech::Opaque), &attachments)
}

/// Compiles one `UDPRoute`. What is wrong is reported and costs itself only.
pub(super) fn udp(env: &mut Env<'_>, object: &Object, route: &UdpRoute) -> RouteOutput {
    let mut builder = Builder::new(env, object);
    let parents = parents!(route.spec.parent_refs);
    let attachments = attach(&mut builder, &parents, None, RouteKind::Udp);
    compile(builder, (rules!(route).collect(), Speech::Datagrams), &attachments)
}

/// Compiles one `TLSRoute`. What is wrong is reported and costs itself only.
pub(super) fn tls(env: &mut Env<'_>, object: &Object, route: &TlsRoute) -> RouteOutput {
    let mut builder = Builder::new(env, object);
    let hosts = hostnames(&mut builder, &route.spec.hostnames);
    let parents = parents!(route.spec.parent_refs);
    let attachments = attach(&mut builder, &parents, hosts.as_deref(), RouteKind::Tls);
    compile(builder, (rules!(route).collect(), Speech::Opaque), &attachments)
}

fn compile(
    mut builder: Builder<'_, '_>,
    (rules, speech): (Vec<Rule<'_>>, Speech),
    attachments: &[Attachment<'_>],
) -> RouteOutput {
    builder.out.speech = speech;
    let notes = &mut builder.out.notes;
    let mut reading = annotations::Reading {
        id: &builder.object.id,
        members: &builder.env.context.members,
        regexes: &mut *builder.env.regexes,
    };
    let annotated = annotations::read_of_route(&builder.object.annotations, &mut reading, notes);
    if annotated.rewrite_prefix.is_some() {
        notes.ignored("metadata.annotations[ringway.dev/rewrite-prefix]", "", "a connection has no path");
    }
    for (index, rule) in rules.iter().enumerate() {
        let field = format!("spec.rules[{index}]");
        if index > 0 {
            builder.out.notes.ignored(
                field,
                "",
                "a connection has no conditions: the first rule has them all",
            );
            continue;
        }
        let (backends, keys) = backends(&mut builder, rule, &field);
        for attachment in attachments {
            let (name, inline) = ((rule.name, field.as_str()), Part::default());
            let part =
                gateway_api::rule_part(&mut builder, attachment, name, &keys, &annotated.part, &inline);
            let policy = builder.policy(&part, &attachment.gateway.permitted, &keys);
            let action = Arc::new(builder.action(index, target(&backends), policy));
            for (listener, pattern) in
                attachment.ids.iter().flat_map(|id| attachment.hosts.iter().map(move |host| (id, host)))
            {
                let key = HostKey { listener: *listener, pattern: pattern.clone() };
                builder.row(Row::new(key, Rank::Rule, everything(), action.clone()));
            }
        }
    }
    builder.done()
}

fn everything() -> RuleMatch {
    RuleMatch {
        path: PathMatch::Prefix(Arc::from("/")),
        method: None,
        headers: Box::default(),
        query: Box::default(),
        more: Box::default(),
    }
}

fn target(backends: &[WeightedBackend]) -> Target {
    if backends.iter().all(|backend| backend.backend.is_none() || backend.weight == 0) {
        return Target::Reply {
            status: 500,
            reason: Arc::from("no backendRef has a weight and can be resolved"),
        };
    }
    Target::Forward(backends.into())
}

fn backends(
    builder: &mut Builder<'_, '_>,
    rule: &Rule<'_>,
    field: &str,
) -> (Vec<WeightedBackend>, Vec<BackendKey>) {
    let (mut backends, mut keys) = (Vec::new(), Vec::new());
    let lost = lost_share(builder.out.speech);
    for (index, (given, weight)) in rule.backends.iter().enumerate() {
        let field = format!("{field}.backendRefs[{index}]");
        let weight = weight.unwrap_or(1);
        let share = text::bounded(i64::from(weight), 0, text::WEIGHT_MAX).unwrap_or_else(|allowed| {
            let notes = &mut builder.out.notes;
            notes.refused_part(format!("{field}.weight"), weight, format!("allowed: {allowed}"));
            0
        });
        let resolved = gateway_api::resolve(builder, given, &field, lost);
        let found = resolved.and_then(|(service, port)| builder.backend(&service, port));
        let backend = found.map(|(id, key)| {
            keys.push(key);
            id
        });
        let (request_headers, response_headers) = (HeaderEdits::default(), HeaderEdits::default());
        let cluster = None;
        backends.push(WeightedBackend { backend, weight: share, request_headers, response_headers, cluster });
    }
    (backends, keys)
}

// ---------------------------------------------------------------- listeners

/// What the `GatewayConfig` of a class asks of connections, by port; `Err` = why its listeners are not served.
pub(super) type Rules = HashMap<(i32, Carrier), Result<Arc<Layer4>, &'static str>>;

/// Reads the `layer4` of a class's listeners. One that cannot be read closes its port: a restriction that is wrong must
/// not become no restriction.
pub(super) fn rules(listeners: &[crd::ConfigListener], notes: &mut Notes) -> Rules {
    let mut rules = Rules::new();
    for (index, listener) in listeners.iter().enumerate() {
        let (Some(given), Ok(port)) = (&listener.layer4, i32::try_from(listener.port)) else { continue };
        let field = format!("spec.parametersRef: listeners[{index}].layer4");
        let carrier = if listener.protocol == "UDP" { Carrier::Udp } else { Carrier::Tcp };
        let read = read(given, &field, notes);
        if let (Carrier::Udp, Some(rules)) = (carrier, &read)
            && (!rules.proxy_from.is_empty() || rules.send_proxy != SendProxy::Disabled)
        {
            notes.ignored(
                format!("{field}.proxyProtocol"),
                "",
                "a PROXY header is for connections, not for datagrams",
            );
        }
        let read = read.map(|rules| match carrier {
            Carrier::Tcp => rules,
            Carrier::Udp => {
                let (proxy_from, send_proxy) = (Box::default(), SendProxy::Disabled);
                Layer4 { proxy_from, send_proxy, ..rules }
            }
        });
        let read = read.map(Arc::new);
        rules
            .insert((port, carrier), read.ok_or("what its GatewayConfig asks of connections cannot be read"));
    }
    rules
}

fn read(given: &crd::Layer4, field: &str, notes: &mut Notes) -> Option<Layer4> {
    let mut wrong = false;
    let mut ranges = |name: &str, given: &[String]| -> Box<[IpNet]> {
        let parsed = given.iter().enumerate().filter_map(|(index, range)| {
            let parsed = range.parse().ok();
            if parsed.is_none() {
                wrong = true;
                let field = format!("{field}.{name}[{index}]");
                notes.refused_part(field, range, "allowed: a range such as 10.2.0.0/16");
            }
            parsed
        });
        parsed.collect()
    };
    let proxy_from = ranges("proxyProtocolFrom", &given.proxy_protocol_from);
    let allow = ranges("allowSources", &given.allow_sources);
    let deny = ranges("denySources", &given.deny_sources);
    let mut bound = |name: &str, given: i64, max: i64| {
        text::bounded::<u32>(given, 0, max).unwrap_or_else(|allowed| {
            wrong = true;
            notes.refused_part(format!("{field}.{name}"), given, format!("allowed: {allowed}"));
            0
        })
    };
    let rules = Layer4 {
        proxy_from,
        send_proxy: match given.send_proxy_protocol {
            crd::SendProxyProtocol::Disabled => SendProxy::Disabled,
            crd::SendProxyProtocol::V1 => SendProxy::V1,
            crd::SendProxyProtocol::V2 => SendProxy::V2,
        },
        allow,
        deny,
        connections_max: bound("maxConnections", given.max_connections, CONNECTIONS_MAX),
        source_connections_max: bound("maxSourceConnections", given.max_source_connections, CONNECTIONS_MAX),
        source_rate_max: bound("maxSourceRate", given.max_source_rate, RATE_MAX),
    };
    (!wrong).then_some(rules)
}

/// Are connections passed on as they are?
pub(super) fn is_layer4(protocol: Protocol) -> bool {
    match protocol {
        Protocol::Tcp | Protocol::TlsPassthrough | Protocol::TlsTerminate | Protocol::Udp => true,
        Protocol::Http | Protocol::Https => false,
    }
}

/// As a Gateway spells it.
pub(super) fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Http => "HTTP",
        Protocol::Https => "HTTPS",
        Protocol::Tcp => "TCP",
        Protocol::TlsPassthrough | Protocol::TlsTerminate => "TLS",
        Protocol::Udp => "UDP",
    }
}
