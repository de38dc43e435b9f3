//! `HTTPRoute` to rows: attachment to listeners, hostnames, matches, filters, weighted backends.

use std::sync::Arc;

use gateway_api::experimental::httproutes as api;
use gateway_api::experimental::httproutes::HttpRoute;
use routing::model::Method;
use routing::model::{
    COOKIE_ATTRIBUTES, CookieAffinity, HeaderEdits, HostKey, PathMatch, RuleAction, RuleMatch, Target,
    ValueMatch, ValuePattern, WeightedBackend,
};

use crate::compile::annotations::{self, Reading};
use crate::compile::attach::{Attachment, RouteKind, attach, hostnames, parents};
use crate::compile::context::MCS_GROUP;
use crate::compile::filters::{self, Filters};
use crate::compile::policy::{self, Part};
use crate::compile::route::{Builder, Env, Rank, Resolved, RouteOutput, Row};
use crate::merge::{BackendKey, PortRef};
use crate::object::{Kind, Object};
use crate::text;
use crate::verdict::{Code, Note, Notes, Severity};
use crate::world::ServiceName;

pub(crate) const GROUP: &str = "gateway.networking.k8s.io";
/// The cookie of `sessionPersistence` without a `sessionName`.
const SESSION_COOKIE: &str = "ringway-session";
/// Header conditions of one match (Gateway API: 16).
const CONDITIONS_MAX: usize = 16;

/// A `backendRef` of a route of any kind.
pub(super) struct Backend<'p> {
    pub(super) group: Option<&'p str>,
    pub(super) kind: Option<&'p str>,
    pub(super) namespace: Option<&'p str>,
    pub(super) name: &'p str,
    pub(super) port: Option<i32>,
}

/// As [`parents`](crate::compile::attach).
macro_rules! backend {
    ($given:expr) => {
        $crate::compile::gateway_api::Backend {
            group: $given.group.as_deref(),
            kind: $given.kind.as_deref(),
            namespace: $given.namespace.as_deref(),
            name: &$given.name,
            port: $given.port,
        }
    };
}

pub(super) use backend;

/// Compiles one `HTTPRoute`. What is wrong is reported and costs itself only.
pub fn compile(env: &mut Env<'_>, object: &Object, route: &HttpRoute) -> RouteOutput {
    let mut builder = Builder::new(env, object);
    let hosts = hostnames(&mut builder, route.spec.hostnames.as_deref().unwrap_or_default());
    let parents = parents!(route.spec.parent_refs);
    let kind = if object.id.kind == Kind::GrpcRoute { RouteKind::Grpc } else { RouteKind::Http };
    let attachments = attach(&mut builder, &parents, hosts.as_deref(), kind);
    let annotated = {
        let env = &mut *builder.env;
        let mut reading =
            Reading { id: &object.id, members: &env.context.members, regexes: &mut *env.regexes };
        annotations::read_of_route(&object.annotations, &mut reading, &mut builder.out.notes)
    };
    let notes = &mut builder.out.notes;
    if annotated.rewrite_prefix.is_some() {
        notes.ignored("metadata.annotations[ringway.dev/rewrite-prefix]", "", "use the URLRewrite filter");
    }
    for (index, rule) in route.spec.rules.iter().flatten().enumerate() {
        let field = format!("spec.rules[{index}]");
        compile_rule(&mut builder, rule, index, &field, &attachments, &annotated.part);
    }
    builder.done()
}

fn compile_rule(
    builder: &mut Builder<'_, '_>,
    rule: &api::HttpRouteRules,
    index: usize,
    field: &str,
    attachments: &[Attachment<'_>],
    annotated: &Part,
) {
    let mut filters = filters::read_rule(rule.filters.as_deref(), field, &mut builder.out.notes);
    let mut matches = Vec::new();
    for (m, given) in rule.matches.iter().flatten().enumerate() {
        matches.extend(read_match(builder, given, &format!("{field}.matches[{m}]")));
    }
    if rule.matches.as_ref().is_none_or(Vec::is_empty) {
        matches.push(RuleMatch {
            path: PathMatch::Prefix(Arc::from("/")),
            method: None,
            headers: Box::default(),
            query: Box::default(),
            more: Box::default(),
        });
    }
    if filters.needs_prefix() && matches.iter().any(|m| !matches!(m.path, PathMatch::Prefix(_))) {
        let reason = "replacePrefixMatch needs PathPrefix matches";
        builder.out.notes.refused_part(
            format!("{field}.filters"),
            "",
            format!("{reason}; the rule answers 500"),
        );
        filters.broken.get_or_insert(reason.to_owned());
    }
    let (backends, keys) = backends(builder, rule, field, &mut filters);
    let rule_filters = filters.rule_filters(builder, field);
    let mut inline = inline_part(builder, rule, field);
    if let (Some(affinity), Some(path)) = (&mut inline.affinity, only_path(&matches)) {
        affinity.path = path;
    }
    for attachment in attachments {
        let part = rule_part(builder, attachment, (rule.name.as_deref(), field), &keys, annotated, &inline);
        let policy = builder.policy(&part, &attachment.gateway.permitted, &keys);
        // Matches of one path share one action; only a prefix rewrite or redirect depends on the path.
        let mut shared: Option<Arc<RuleAction>> = None;
        for matched in &matches {
            let action = match &shared {
                Some(action) if !filters.needs_prefix() => action.clone(),
                Some(_) | None => {
                    let target = target(&filters, &matched.path, &backends);
                    let mut action = builder.action(index, target, policy.clone());
                    action.request_headers = filters.request_headers.clone();
                    action.response_headers = filters.response_headers.clone();
                    action.rewrite = filters.rewrite(&matched.path);
                    action.filters = rule_filters.clone();
                    Arc::new(action)
                }
            };
            shared = Some(action.clone());
            for listener in attachment.ids {
                for pattern in &attachment.hosts {
                    let key = HostKey { listener: *listener, pattern: pattern.clone() };
                    builder.row(Row::new(key, Rank::Rule, matched.clone(), action.clone()));
                }
            }
        }
    }
}

fn target(filters: &Filters, path: &PathMatch, backends: &[WeightedBackend]) -> Target {
    if let Some(reason) = &filters.broken {
        return Target::Reply { status: 500, reason: Arc::from(reason.as_str()) };
    }
    if let Some(redirect) = filters.redirect(path) {
        return Target::Redirect(redirect);
    }
    if backends.iter().all(|backend| backend.weight == 0) {
        // Gateway API: a rule without backends, or with weights of zero only, answers 500.
        return Target::Reply { status: 500, reason: Arc::from("no backend has a weight") };
    }
    if backends.iter().all(|backend| backend.backend.is_none() || backend.weight == 0) {
        return Target::Reply { status: 500, reason: Arc::from("no backendRef can be resolved") };
    }
    Target::Forward(backends.into())
}

/// The path that all matches of a rule have, as a cookie is limited to it: sessions of two rules keep apart.
fn only_path(matches: &[RuleMatch]) -> Option<Arc<str>> {
    let first = matches.first()?;
    match &first.path {
        PathMatch::Exact(path) | PathMatch::Prefix(path) if matches.iter().all(|m| m.path == first.path) => {
            Some(path.clone())
        }
        PathMatch::Exact(_) | PathMatch::Prefix(_) | PathMatch::Regex(_) => None,
    }
}

/// Default, Gateway, listener, route, rule, Service, annotations, the rule's own fields: the last one wins.
pub(super) fn rule_part(
    builder: &mut Builder<'_, '_>,
    attachment: &Attachment<'_>,
    (rule, field): (Option<&str>, &str),
    keys: &[BackendKey],
    annotated: &Part,
    inline: &Part,
) -> Part {
    let context = builder.env.context;
    let mut part = attachment.gateway.default.clone();
    let (namespace, name) = &attachment.gateway_key;
    let id = &builder.object.id;
    let layers = [
        context.policy(Kind::Gateway, namespace, name, ""),
        context.policy(Kind::Gateway, namespace, name, &attachment.section),
        context.policy(id.kind.clone(), &id.namespace, &id.name, ""),
        rule.and_then(|rule| context.policy(id.kind.clone(), &id.namespace, &id.name, rule)),
    ];
    for layer in layers.into_iter().flatten() {
        part.overlay(layer);
    }
    builder.detect(&part, keys, field);
    if let Some(service) = builder.service_part(keys) {
        part.overlay(&service);
    }
    part.overlay(annotated);
    part.overlay(inline);
    part
}

fn read_match(
    builder: &mut Builder<'_, '_>,
    given: &api::HttpRouteRulesMatches,
    field: &str,
) -> Option<RuleMatch> {
    let result = (|| -> Result<RuleMatch, (String, String, String)> {
        let path = read_path(builder, given.path.as_ref())
            .map_err(|(value, allowed)| (format!("{field}.path"), value, allowed))?;
        let method = given.method.as_ref().map(method);
        let mut headers: Vec<ValueMatch> = Vec::new();
        for (index, header) in given.headers.iter().flatten().enumerate() {
            let at = |allowed| (format!("{field}.headers[{index}]"), header.name.clone(), allowed);
            let name = text::header_name(&header.name).map_err(at)?;
            let regex =
                matches!(header.r#type, Some(api::HttpRouteRulesMatchesHeadersType::RegularExpression));
            let value = pattern(builder, &header.value, regex).map_err(at)?;
            // Gateway API: of two conditions on one name the first counts.
            if headers.len() < CONDITIONS_MAX && headers.iter().all(|known| known.name != name) {
                headers.push(ValueMatch { name, value });
            }
        }
        let mut query: Vec<ValueMatch> = Vec::new();
        for (index, parameter) in given.query_params.iter().flatten().enumerate() {
            let at = |allowed| (format!("{field}.queryParams[{index}]"), parameter.name.clone(), allowed);
            let name = text::query_name(&parameter.name).map_err(at)?;
            let regex = matches!(
                parameter.r#type,
                Some(api::HttpRouteRulesMatchesQueryParamsType::RegularExpression)
            );
            let value = pattern(builder, &parameter.value, regex).map_err(at)?;
            if query.len() < CONDITIONS_MAX && query.iter().all(|known| known.name != name) {
                query.push(ValueMatch { name, value });
            }
        }
        Ok(RuleMatch { path, method, headers: headers.into(), query: query.into(), more: Box::default() })
    })();
    match result {
        Ok(matched) => Some(matched),
        Err((field, value, allowed)) => {
            // The match is not served at all: one without its condition would catch what it must not.
            builder.out.notes.refused_part(field, value, format!("allowed: {allowed}"));
            None
        }
    }
}

fn read_path(
    builder: &mut Builder<'_, '_>,
    given: Option<&api::HttpRouteRulesMatchesPath>,
) -> Result<PathMatch, (String, String)> {
    let value = given.and_then(|path| path.value.as_deref()).unwrap_or("/");
    let at = |allowed| (value.to_owned(), allowed);
    match given.and_then(|path| path.r#type.as_ref()) {
        Some(api::HttpRouteRulesMatchesPathType::Exact) => {
            text::path(value).map_err(at)?;
            Ok(PathMatch::Exact(Arc::from(value)))
        }
        None | Some(api::HttpRouteRulesMatchesPathType::PathPrefix) => {
            text::path(value).map_err(at)?;
            Ok(PathMatch::Prefix(Arc::from(text::prefix(value))))
        }
        Some(api::HttpRouteRulesMatchesPathType::RegularExpression) => {
            builder.env.regexes.anchored(value).map(PathMatch::Regex).map_err(at)
        }
    }
}

fn pattern(builder: &mut Builder<'_, '_>, value: &str, regex: bool) -> Result<ValuePattern, String> {
    if regex {
        builder.env.regexes.anchored(value).map(ValuePattern::Regex)
    } else {
        text::value(value).map(ValuePattern::Exact)
    }
}

fn method(given: &api::HttpRouteRulesMatchesMethod) -> Method {
    match given {
        api::HttpRouteRulesMatchesMethod::Get => Method::Get,
        api::HttpRouteRulesMatchesMethod::Head => Method::Head,
        api::HttpRouteRulesMatchesMethod::Post => Method::Post,
        api::HttpRouteRulesMatchesMethod::Put => Method::Put,
        api::HttpRouteRulesMatchesMethod::Delete => Method::Delete,
        api::HttpRouteRulesMatchesMethod::Connect => Method::Connect,
        api::HttpRouteRulesMatchesMethod::Options => Method::Options,
        api::HttpRouteRulesMatchesMethod::Trace => Method::Trace,
        api::HttpRouteRulesMatchesMethod::Patch => Method::Patch,
    }
}

fn backends(
    builder: &mut Builder<'_, '_>,
    rule: &api::HttpRouteRules,
    field: &str,
    filters: &mut Filters,
) -> (Vec<WeightedBackend>, Vec<BackendKey>) {
    let (mut backends, mut keys) = (Vec::new(), Vec::new());
    for (index, given) in rule.backend_refs.iter().flatten().enumerate() {
        let field = format!("{field}.backendRefs[{index}]");
        let weight = match text::bounded(i64::from(given.weight.unwrap_or(1)), 0, text::WEIGHT_MAX) {
            Ok(weight) => weight,
            Err(allowed) => {
                let weight = given.weight.unwrap_or(1);
                builder.out.notes.refused_part(
                    format!("{field}.weight"),
                    weight,
                    format!("allowed: {allowed}"),
                );
                0
            }
        };
        let own = filters::read_backend(given.filters.as_deref(), &field, &mut builder.out.notes);
        let misplaced = own.redirect.is_some()
            || own.hostname.is_some()
            || own.path.is_some()
            || own.cors.is_some()
            || !own.mirrors.is_empty();
        if misplaced && own.broken.is_none() {
            let reason = "only header changes are supported here, the rest on the rule; this share is answered with 500";
            builder.out.notes.refused_part(format!("{field}.filters"), "", reason);
        }
        let resolved = if own.broken.is_some() || misplaced {
            None
        } else {
            resolve(builder, &backend!(given), &field, "its share is answered with 500")
        };
        let id = resolved.and_then(|(service, port)| builder.backend(&service, port));
        let backend = id.map(|(id, key)| {
            keys.push(key);
            id
        });
        let (request_headers, response_headers) = match backend {
            Some(_) => (own.request_headers, own.response_headers),
            None => (HeaderEdits::default(), HeaderEdits::default()),
        };
        backends.push(WeightedBackend { backend, weight, request_headers, response_headers, cluster: None });
    }
    if filters.redirect.is_some() && !backends.is_empty() {
        let reason = "not used: the rule redirects";
        builder.out.notes.ignored(format!("{field}.backendRefs"), "", reason);
    }
    (backends, keys)
}

/// `share` = what becomes of the share of a reference that cannot be resolved.
pub(super) fn resolve(
    builder: &mut Builder<'_, '_>,
    given: &Backend<'_>,
    field: &str,
    share: &str,
) -> Option<(ServiceName, PortRef)> {
    let kind = (given.group.unwrap_or(""), given.kind.unwrap_or("Service"));
    // Namespace sameness makes them one: what an import names is the Services of that name in all members.
    if !matches!(kind, ("", "Service") | (MCS_GROUP, "ServiceImport")) {
        let reason =
            format!("InvalidKind: only Service and {MCS_GROUP} ServiceImport are supported; {share}");
        let note = Note::new(Severity::RefusedPart, field, format!("{} {}", kind.0, kind.1), reason);
        builder.out.notes.push(note.because(Code::InvalidKind));
        return None;
    }
    let own: Arc<str> = builder.object.id.namespace.clone();
    let namespace = given.namespace.map_or_else(|| own.clone(), Arc::from);
    let name = ServiceName { namespace, name: Arc::from(given.name) };
    let shown = format!("{}/{}", name.namespace, name.name);
    let route = builder.object.id.kind.clone();
    let from = (GROUP, route.as_str(), &*own);
    let to = (kind.0, kind.1, &*name.name);
    if name.namespace != own && !builder.env.context.is_granted(from, &name.namespace, to) {
        let reason = format!("RefNotPermitted: no ReferenceGrant in {} allows it; {share}", name.namespace);
        let note = Note::new(Severity::RefusedPart, field, shown, reason);
        builder.out.notes.push(note.because(Code::RefNotPermitted));
        return None;
    }
    let Some(port) = given.port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0) else {
        let reason = format!("a Service needs a port from 1 to 65535; {share}");
        builder.out.notes.refused_part(format!("{field}.port"), given.port.unwrap_or(0), reason);
        return None;
    };
    let is_udp = builder.object.id.kind == Kind::UdpRoute;
    let port = if is_udp { PortRef::Datagrams(port) } else { PortRef::Number(port) };
    match builder.resolve(&name, &port) {
        Resolved::Yes => Some((name, port)),
        Resolved::NoService => {
            let reason = format!("BackendNotFound: no member cluster has this Service; {share}");
            let note = Note::new(Severity::RefusedPart, field, shown, reason);
            builder.out.notes.push(note.because(Code::BackendNotFound));
            None
        }
        Resolved::NoPort => {
            let reason = format!("BackendNotFound: no member cluster's Service has this port; {share}");
            let note = Note::new(Severity::RefusedPart, format!("{field}.port"), port, reason);
            builder.out.notes.push(note.because(Code::BackendNotFound));
            None
        }
    }
}

/// `timeouts`, `retry` and `sessionPersistence` of the rule itself.
fn inline_part(builder: &mut Builder<'_, '_>, rule: &api::HttpRouteRules, field: &str) -> Part {
    let notes = &mut builder.out.notes;
    let mut part = Part::default();
    if let Some(timeouts) = &rule.timeouts {
        part.request = timeout(timeouts.request.as_deref(), &format!("{field}.timeouts.request"), notes);
        part.attempt =
            timeout(timeouts.backend_request.as_deref(), &format!("{field}.timeouts.backendRequest"), notes);
        // Zero is no limit.
        if let (Some(request), Some(attempt)) = (part.request, part.attempt)
            && !request.is_zero()
            && (attempt > request || attempt.is_zero())
        {
            let given = timeouts.backend_request.as_deref().unwrap_or_default();
            notes.refused_part(
                format!("{field}.timeouts.backendRequest"),
                given,
                "allowed: no more than timeouts.request, which holds",
            );
            part.attempt = None;
        }
    }
    if let Some(retry) = &rule.retry {
        if let Some(retries) = retry.attempts {
            match text::bounded::<u8>(retries, 0, 9) {
                // Gateway API counts retries, a policy counts tries.
                Ok(retries) => part.attempts = Some(retries + 1),
                Err(allowed) => {
                    notes.refused_part(
                        format!("{field}.retry.attempts"),
                        retries,
                        format!("allowed: {allowed}"),
                    );
                }
            }
        }
        if let Some(codes) = &retry.codes {
            part.statuses = Some(policy::read_statuses(codes, &format!("{field}.retry.codes"), notes));
        }
        if let Some(backoff) = &retry.backoff {
            notes.ignored(format!("{field}.retry.backoff"), backoff, "another endpoint is tried at once");
        }
    }
    if let Some(session) = &rule.session_persistence {
        part.affinity = session_of(session, &format!("{field}.sessionPersistence"), notes);
    }
    part
}

/// GEP-1619. Nothing is kept of a session here: its cookie says all, and the browser when it ends.
fn session_of(
    session: &api::HttpRouteRulesSessionPersistence,
    field: &str,
    notes: &mut Notes,
) -> Option<CookieAffinity> {
    if matches!(session.r#type, Some(api::HttpRouteRulesSessionPersistenceType::Header)) {
        notes.ignored(format!("{field}.type"), "Header", "no session is kept: only Cookie is supported");
        return None;
    }
    let max_age = timeout(session.absolute_timeout.as_deref(), &format!("{field}.absoluteTimeout"), notes);
    if let Some(idle) = &session.idle_timeout {
        notes.ignored(format!("{field}.idleTimeout"), idle, "the cookie is not renewed by requests");
    }
    let lifetime = session.cookie_config.as_ref().and_then(|config| config.lifetime_type.as_ref());
    let is_permanent =
        matches!(lifetime, Some(api::HttpRouteRulesSessionPersistenceCookieConfigLifetimeType::Permanent));
    match (is_permanent, max_age) {
        (true, None) => {
            let reason = "Permanent needs absoluteTimeout; the session ends with the browser's";
            notes.refused_part(format!("{field}.cookieConfig.lifetimeType"), "Permanent", reason);
        }
        (false, Some(_)) => {
            let given = session.absolute_timeout.as_deref().unwrap_or_default();
            let reason = "it is the cookie's Max-Age, which also outlives the browser's session";
            notes.info(format!("{field}.absoluteTimeout"), given, reason);
        }
        (true, Some(_)) | (false, None) => {}
    }
    let name = session.session_name.as_deref().unwrap_or(SESSION_COOKIE);
    match text::cookie_name(name) {
        Ok(cookie) => Some(CookieAffinity {
            cookie,
            path: Arc::from("/"),
            max_age,
            expires: None,
            secure_over_tls: true,
            attributes: Arc::from(COOKIE_ATTRIBUTES),
            across: Default::default(),
        }),
        Err(allowed) => {
            notes.refused_part(format!("{field}.sessionName"), name, format!("allowed: {allowed}"));
            None
        }
    }
}

fn timeout(given: Option<&str>, field: &str, notes: &mut Notes) -> Option<std::time::Duration> {
    match text::duration(given?) {
        Ok(duration) => Some(duration),
        Err(allowed) => {
            notes.refused_part(field, given.unwrap_or_default(), format!("allowed: {allowed}"));
            None
        }
    }
}
