//! An Ingress with its annotations as `HTTPRoute`s: what the Gateway API can say.

use std::collections::BTreeMap;

use k8s_openapi::api::networking::v1::{HTTPIngressPath, IngressBackend};
use routing::model::{Allowed, Balance, HeaderEdits, Predicate, ValueMatch, ValuePattern};
use serde_json::{Value, json};

use super::Imported;
use crate::compile::annotations::{CanaryWord, Matching};
use crate::verdict::Severity;

/// Annotations that the routes express, by the beginnings of their names.
const EXPRESSED: [&str; 31] = [
    "rewrite-path",
    "use-regex",
    "full-path-regex",
    "upstream-vhost",
    "server-alias",
    "permanent-redirect",
    "temporal-redirect",
    "match-method",
    "exact-match-",
    "regex-match-",
    "prefix-match-",
    "canary",
    "canary-by-header",
    "canary-by-query",
    "canary-weight",
    "request-header-control-",
    "response-header-control-",
    "x-forwarded-prefix",
    "enable-cors",
    "cors-",
    "timeout",
    "proxy-read-timeout",
    "proxy-next-upstream",
    "affinity",
    "session-cookie-name",
    "mirror-target-service",
    "mirror-percentage",
    "destination",
    "canary-by-header-value",
    "canary-by-header-pattern",
    "canary-by-query-value",
];

/// The routes of one Ingress, one for each host, each with what it cannot say.
pub(super) fn of(imported: &Imported, all: &[Imported], gateway: &str) -> Vec<(Value, Vec<String>)> {
    let spec = imported.ingress.spec.clone().unwrap_or_default();
    let mut hosts: BTreeMap<String, Vec<HTTPIngressPath>> = BTreeMap::new();
    for rule in spec.rules.unwrap_or_default() {
        let paths = rule.http.map(|http| http.paths).unwrap_or_default();
        hosts.entry(rule.host.unwrap_or_default()).or_default().extend(paths);
    }
    let several = hosts.len() > 1;
    let mut routes = Vec::new();
    for (index, (host, paths)) in hosts.into_iter().enumerate() {
        let mut left_out = unsaid(imported);
        let mut rules = Vec::new();
        for path in &paths {
            rules.extend(rules_of(imported, all, &host, path, &mut left_out));
        }
        let id = &imported.object.id;
        let name = if several { format!("{}-{index}", id.name) } else { id.name.to_string() };
        let aliases = imported.read.address.aliases.iter().map(crate::dump::host);
        let aliases = aliases.map(|alias| alias.trim_end_matches(" (one label)").to_owned());
        let hostnames: Vec<String> =
            Some(host).filter(|host| !host.is_empty()).into_iter().chain(aliases).collect();
        let mut spec = json!({"parentRefs": [{"name": gateway}], "rules": rules});
        if !hostnames.is_empty() {
            spec["hostnames"] = json!(hostnames);
        }
        let route = json!({
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": {"name": name, "namespace": &*id.namespace},
            "spec": spec,
        });
        routes.push((route, left_out));
    }
    routes
}

/// Annotations that are in force here, and that no route says.
fn unsaid(imported: &Imported) -> Vec<String> {
    let in_force = imported.notes.iter().filter(|note| note.severity == Severity::Info);
    let names =
        in_force.filter_map(|note| note.field.strip_prefix("metadata.annotations[")?.strip_suffix(']'));
    let unsaid = names.filter(|full| {
        let name = full.split_once('/').map_or(*full, |(_, name)| name);
        !EXPRESSED.iter().any(|start| name == *start || start.ends_with('-') && name.starts_with(start))
    });
    unsaid.map(|name| format!("{name}: no equivalent in the Gateway API")).collect()
}

fn rules_of(
    imported: &Imported,
    all: &[Imported],
    host: &str,
    path: &HTTPIngressPath,
    left_out: &mut Vec<String>,
) -> Vec<Value> {
    let mut backends = backend_refs(imported, &path.backend, left_out);
    let mut rules = Vec::new();
    let base = rule(imported, path, left_out);
    for canary in all {
        let Some(spec) = &canary.read.canary else { continue };
        let Some(own) = same_path(imported, canary, host, path) else { continue };
        let to = backend_refs(canary, &own, left_out);
        for when in &spec.when {
            let mut one = base.clone();
            if !add_condition(&mut one["matches"][0], &when.when) {
                left_out.push(format!("{}: a condition on a cookie", canary.object.id));
                continue;
            }
            one["backendRefs"] = match when.word {
                CanaryWord::Always => json!(to),
                CanaryWord::Never => json!(backends),
            };
            rules.push(one);
        }
        if spec.weight > 0 {
            weigh(&mut backends, spec.total - spec.weight.min(spec.total));
            let mut to = to;
            weigh(&mut to, spec.weight);
            backends.extend(to);
        }
    }
    let mut last = base;
    if imported.read.address.redirect.is_none() {
        last["backendRefs"] = json!(backends);
    }
    rules.push(last);
    rules
}

fn weigh(backends: &mut [Value], weight: u32) {
    for backend in backends {
        backend["weight"] = json!(weight);
    }
}

/// The canary's backend for the same namespace, host and path.
fn same_path(
    main: &Imported,
    canary: &Imported,
    host: &str,
    path: &HTTPIngressPath,
) -> Option<IngressBackend> {
    if main.object.id.namespace != canary.object.id.namespace {
        return None;
    }
    let rules = canary.ingress.spec.as_ref()?.rules.as_ref()?.iter();
    let mut same = rules
        .filter(|rule| rule.host.as_deref().unwrap_or_default() == host)
        .flat_map(|rule| rule.http.iter().flat_map(|http| &http.paths))
        .filter(|other| other.path == path.path && other.path_type == path.path_type);
    same.next().map(|path| path.backend.clone())
}

fn backend_refs(imported: &Imported, backend: &IngressBackend, left_out: &mut Vec<String>) -> Vec<Value> {
    let port = backend.service.as_ref().and_then(|service| service.port.as_ref()?.number);
    if !imported.read.destinations.is_empty() {
        let destinations = imported.read.destinations.iter().map(|to| {
            let port = to.port.map(i32::from).or(port);
            json!({"name": &*to.service.name, "namespace": &*to.service.namespace, "port": port, "weight": to.weight})
        });
        return destinations.collect();
    }
    let Some(service) = &backend.service else { return Vec::new() };
    if port.is_none() {
        left_out.push(format!("Service {}: a port by name; write its number", service.name));
    }
    vec![json!({"name": service.name, "port": port.unwrap_or(80)})]
}

/// Everything of a rule but its backends.
fn rule(imported: &Imported, path: &HTTPIngressPath, left_out: &mut Vec<String>) -> Value {
    let read = &imported.read;
    let value = path.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
    let (kind, value) = match (read.address.matching, path.path_type.as_str()) {
        (Matching::RegexPrefix, _) => ("RegularExpression", format!("{value}.*")),
        (Matching::RegexFull, _) => ("RegularExpression", value.to_owned()),
        (Matching::Typed, "Exact") => ("Exact", value.to_owned()),
        (Matching::Typed, _) => ("PathPrefix", value.to_owned()),
    };
    let mut matched = json!({"path": {"type": kind, "value": value}});
    if let [method] = read.methods[..] {
        matched["method"] = json!(format!("{method:?}").to_ascii_uppercase());
    }
    for condition in &read.more {
        if !add_condition(&mut matched, condition) {
            left_out.push("a condition that the Gateway API does not have".to_owned());
        }
    }
    let mut rule = json!({"matches": [matched]});
    let filters = filters(imported, left_out);
    if !filters.is_empty() {
        rule["filters"] = json!(filters);
    }
    let seconds = |duration: std::time::Duration| format!("{}s", duration.as_secs());
    let mut timeouts = serde_json::Map::new();
    timeouts.extend(read.part.request.map(|time| ("request".to_owned(), json!(seconds(time)))));
    timeouts.extend(read.part.attempt.map(|time| ("backendRequest".to_owned(), json!(seconds(time)))));
    if !timeouts.is_empty() {
        rule["timeouts"] = Value::Object(timeouts);
    }
    if read.part.attempts.is_some() || read.part.statuses.as_ref().is_some_and(|list| !list.is_empty()) {
        let attempts = read.part.attempts.map_or(2, |attempts| attempts.saturating_sub(1));
        rule["retry"] =
            json!({"attempts": attempts, "codes": read.part.statuses.clone().unwrap_or_default()});
    }
    if let Some(affinity) = &read.part.affinity {
        rule["sessionPersistence"] = json!({"sessionName": &*affinity.cookie, "type": "Cookie"});
    }
    if read.part.balance.as_ref().is_some_and(|balance| *balance != Balance::LeastRequest) {
        left_out.push("the balancer: FailoverPolicy spec.loadBalance".to_owned());
    }
    rule
}

fn filters(imported: &Imported, left_out: &mut Vec<String>) -> Vec<Value> {
    let read = &imported.read;
    let mut filters = Vec::new();
    for (edits, kind, field) in [
        (&read.request_headers, "RequestHeaderModifier", "requestHeaderModifier"),
        (&read.response_headers, "ResponseHeaderModifier", "responseHeaderModifier"),
    ] {
        if !edits.is_empty() {
            filters.push(json!({"type": kind, field: header_edits(edits)}));
        }
    }
    let mut rewrite = serde_json::Map::new();
    rewrite.extend(read.address.upstream_host.as_ref().map(|host| ("hostname".to_owned(), json!(&**host))));
    if let Some(prefix) = &read.rewrite_prefix {
        let replacement = if prefix.is_empty() { "/" } else { prefix };
        let path = json!({"type": "ReplacePrefixMatch", "replacePrefixMatch": replacement});
        rewrite.insert("path".to_owned(), path);
    }
    match &read.address.target {
        Some(target) if !target.contains('$') => {
            let path = json!({"type": "ReplaceFullPath", "replaceFullPath": &**target});
            rewrite.insert("path".to_owned(), path);
        }
        Some(_) => left_out.push("a rewrite with captures".to_owned()),
        None => {}
    }
    if !rewrite.is_empty() {
        filters.push(json!({"type": "URLRewrite", "urlRewrite": rewrite}));
    }
    if let Some(answer) = &read.address.redirect {
        match redirect(&answer.location, answer.status) {
            Some(filter) => filters.push(filter),
            None => left_out.push(format!("a redirect to {}", answer.location)),
        }
    }
    if let Some(cors) = &read.checks.cors {
        let list = |text: &str| -> Vec<String> {
            text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
        };
        let origins = match &cors.origins {
            routing::model::Origins::Any => vec!["*".to_owned()],
            routing::model::Origins::List(origins) => origins.iter().map(ToString::to_string).collect(),
        };
        let allowed = |allowed: &Allowed| match allowed {
            Allowed::Safelisted => Vec::new(),
            Allowed::Asked => vec!["*".to_owned()],
            Allowed::These(these) => list(these),
        };
        filters.push(json!({"type": "CORS", "cors": {
            "allowOrigins": origins, "allowMethods": allowed(&cors.methods), "allowHeaders": allowed(&cors.headers),
            "exposeHeaders": list(&cors.expose), "allowCredentials": cors.credentials,
            "maxAge": cors.max_age.parse::<i32>().unwrap_or(5).max(1),
        }}));
    }
    if let Some((service, port, ppm)) = &read.mirror {
        let port: Option<u16> = port.as_ref().and_then(|port| port.to_string().parse().ok());
        filters.push(json!({"type": "RequestMirror", "requestMirror": {
            "backendRef": {"name": &*service.name, "namespace": &*service.namespace, "port": port},
            "fraction": {"numerator": ppm, "denominator": 1_000_000},
        }}));
    }
    filters
}

fn header_edits(edits: &HeaderEdits) -> Value {
    let pairs = |pairs: &[(std::sync::Arc<str>, std::sync::Arc<str>)]| -> Vec<Value> {
        pairs.iter().map(|(name, value)| json!({"name": &**name, "value": &**value})).collect()
    };
    let remove: Vec<&str> = edits.remove.iter().map(|name| &**name).collect();
    json!({"set": pairs(&edits.set), "add": pairs(&edits.add), "remove": remove})
}

/// Only what `requestRedirect` can say: a host and a path without a query.
fn redirect(location: &str, status: u16) -> Option<Value> {
    let mut out = serde_json::Map::new();
    let path = match location.split_once("://") {
        None => location,
        Some((scheme, rest)) => {
            let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let (host, port) = host.split_once(':').map_or((host, None), |(host, port)| (host, Some(port)));
            out.insert("scheme".to_owned(), json!(scheme));
            out.insert("hostname".to_owned(), json!(host));
            if let Some(port) = port {
                out.insert("port".to_owned(), json!(port.parse::<u16>().ok()?));
            }
            path
        }
    };
    if path.contains(['?', '#']) {
        return None;
    }
    let path = if path.is_empty() { "/" } else { path };
    out.insert("path".to_owned(), json!({"type": "ReplaceFullPath", "replaceFullPath": path}));
    out.insert("statusCode".to_owned(), json!(status));
    Some(json!({"type": "RequestRedirect", "requestRedirect": out}))
}

/// Adds a condition to a match. `false` = the Gateway API has no such condition.
fn add_condition(matched: &mut Value, condition: &Predicate) -> bool {
    let entry = |value: &ValueMatch| match &value.value {
        ValuePattern::Exact(text) => json!({"type": "Exact", "name": &*value.name, "value": &**text}),
        ValuePattern::Regex(regex) => {
            let text = regex.as_str();
            let text = text.strip_prefix("^(?:").and_then(|text| text.strip_suffix(")$")).unwrap_or(text);
            json!({"type": "RegularExpression", "name": &*value.name, "value": text})
        }
    };
    let (list, entry) = match condition {
        Predicate::Header(value) => ("headers", entry(value)),
        Predicate::Query(value) => ("queryParams", entry(value)),
        Predicate::Cookie(_)
        | Predicate::Source(_)
        | Predicate::Methods(_)
        | Predicate::Host(_)
        | Predicate::Path(_)
        | Predicate::Any(_) => return false,
    };
    match matched[list].as_array_mut() {
        Some(entries) => entries.push(entry),
        None => matched[list] = json!([entry]),
    }
    true
}
