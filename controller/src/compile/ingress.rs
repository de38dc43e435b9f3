//! `Ingress` to rows: class, hosts, paths, default backend.

use std::sync::Arc;

use k8s_openapi::api::networking::v1::{Ingress, IngressBackend, IngressSpec};
use routing::id::ListenerId;
use routing::model::{
    HeaderEdits, HostKey, HostPattern, PathMatch, PathRewrite, Rewrite, RuleAction, RuleMatch, Target,
    WeightedBackend, WildcardLabels,
};

use crate::compile::annotations::{self, Annotations};
use crate::compile::context::{Class, SecretUse};
use crate::compile::policy::Part;
use crate::compile::route::{Builder, Env, Rank, Resolved, RouteOutput, Row};
use crate::merge::PortRef;
use crate::object::{Kind, Object};
use crate::text;
use crate::world::ServiceName;

/// The annotation that came before `spec.ingressClassName`.
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

/// Compiles one Ingress. What is wrong is reported and costs itself only.
pub fn compile(env: &mut Env<'_>, object: &Object, ingress: &Ingress) -> RouteOutput {
    let mut builder = Builder::new(env, object);
    let Some(class) = class_of(&mut builder, ingress) else { return builder.out };
    let read = annotations::read(&object.annotations, &builder.env.context.members, &mut builder.out.notes);
    let compiler = Compiler { class: &class, annotations: &read };
    let spec = ingress.spec.clone().unwrap_or_default();
    certificates(&mut builder, &class, &spec);
    let mut index = 0;
    for (r, rule) in spec.rules.iter().flatten().enumerate() {
        let field = format!("spec.rules[{r}]");
        let pattern = match rule.host.as_deref().filter(|host| !host.is_empty()) {
            None => HostPattern::Any,
            Some(host) => match text::host(host, WildcardLabels::One) {
                Ok(pattern) => pattern,
                Err(allowed) => {
                    let field = format!("{field}.host");
                    builder.out.notes.refused_part(field, host, format!("allowed: {allowed}"));
                    continue;
                }
            },
        };
        for (p, path) in rule.http.iter().flat_map(|http| &http.paths).enumerate() {
            let field = format!("{field}.http.paths[{p}]");
            let given = path.path.as_deref().filter(|path| !path.is_empty());
            let position = index;
            index += 1;
            let matched = path_match(&mut builder, &path.path_type, given, &field);
            let Some(matched) = matched else { continue };
            let action = compiler.action(&mut builder, &path.backend, Some(&matched), position, &field);
            compiler.rows(&mut builder, &pattern, &matched, &action, Rank::Rule);
        }
    }
    if let Some(backend) = &spec.default_backend {
        let action = compiler.action(&mut builder, backend, None, index, "spec.defaultBackend");
        let all = PathMatch::Prefix(Arc::from("/"));
        compiler.rows(&mut builder, &HostPattern::Any, &all, &action, Rank::Default);
    } else if index == 0 && builder.out.notes.is_empty() {
        builder.out.notes.ignored("spec.rules", "", "no path and no default backend: it serves nothing");
    }
    builder.out
}

/// The Secrets of `spec.tls`, for the listeners with TLS of its class.
fn certificates(builder: &mut Builder<'_, '_>, class: &Class, spec: &IngressSpec) {
    let tls = spec.tls.as_deref().unwrap_or_default();
    if tls.is_empty() {
        return;
    }
    let secure = class.listeners.iter().filter(|id| builder.env.context.secure.contains_key(id));
    builder.out.secure = secure.copied().collect();
    if builder.out.secure.is_empty() {
        let reason = "not used: its class is served on no HTTPS listener; its hosts are served over HTTP";
        builder.out.notes.ignored("spec.tls", "", reason);
        return;
    }
    let rules = spec.rules.iter().flatten().map(|rule| rule.host.as_deref().unwrap_or_default());
    let hosts_of_rules: Vec<&str> = rules.collect();
    for (index, entry) in tls.iter().enumerate() {
        let field = format!("spec.tls[{index}]");
        let Some(secret) = entry.secret_name.as_deref().filter(|name| !name.is_empty()) else {
            let reason = "no certificate: name the Secret that holds it";
            builder.out.notes.refused_part(format!("{field}.secretName"), "", reason);
            continue;
        };
        // Without hosts of its own an entry is for those of the rules; a rule without a host is for all.
        let own = entry.hosts.iter().flatten().map(String::as_str);
        let mut given: Vec<&str> = own.collect();
        if given.is_empty() {
            given.clone_from(&hosts_of_rules);
        }
        let mut hosts = Vec::new();
        for (h, host) in given.into_iter().enumerate() {
            match if host.is_empty() { Ok(HostPattern::Any) } else { text::host(host, WildcardLabels::One) } {
                Ok(pattern) if !hosts.contains(&pattern) => hosts.push(pattern),
                Ok(_twice) => {}
                Err(allowed) => {
                    let field = format!("{field}.hosts[{h}]");
                    builder.out.notes.refused_part(field, host, format!("allowed: {allowed}"));
                }
            }
        }
        builder.out.tls.push(SecretUse {
            by: builder.object.id.clone(),
            field: format!("{field}.secretName"),
            secret: (builder.object.id.namespace.clone(), Arc::from(secret)),
            hosts,
        });
    }
}

/// The class that serves it; `None` when none of ours does, which is then remarked on.
fn class_of(builder: &mut Builder<'_, '_>, ingress: &Ingress) -> Option<Class> {
    let spec_class = ingress.spec.as_ref().and_then(|spec| spec.ingress_class_name.as_ref());
    let annotated = builder.object.annotations.get(CLASS_ANNOTATION);
    let context = builder.env.context;
    let (field, name) = match (spec_class, annotated) {
        (Some(name), _) => ("spec.ingressClassName", Some(name)),
        (None, Some(name)) => ("metadata.annotations[kubernetes.io/ingress.class]", Some(name)),
        (None, None) => ("spec.ingressClassName", context.default_class.as_ref()),
    };
    let Some(name) = name else { return Some(context.classless.clone()) };
    match context.classes.get(name) {
        Some(Some(class)) => Some(class.clone()),
        Some(None) => {
            builder.out.notes.ignored(field, name, "another controller's class");
            None
        }
        None => {
            builder.out.notes.refused(field, name, "no such IngressClass on the Fleet");
            None
        }
    }
}

fn path_match(
    builder: &mut Builder<'_, '_>,
    path_type: &str,
    path: Option<&str>,
    field: &str,
) -> Option<PathMatch> {
    let path = path.unwrap_or("/");
    if let Err(allowed) = text::path(path) {
        builder.out.notes.refused_part(format!("{field}.path"), path, format!("allowed: {allowed}"));
        return None;
    }
    match path_type {
        "Exact" => Some(PathMatch::Exact(Arc::from(path))),
        "Prefix" | "ImplementationSpecific" => Some(PathMatch::Prefix(Arc::from(text::prefix(path)))),
        other => {
            let allowed = "allowed: Exact, Prefix, ImplementationSpecific";
            builder.out.notes.refused_part(format!("{field}.pathType"), other, allowed);
            None
        }
    }
}

struct Compiler<'a> {
    class: &'a Class,
    annotations: &'a Annotations,
}

impl Compiler<'_> {
    fn action(
        &self,
        builder: &mut Builder<'_, '_>,
        backend: &IngressBackend,
        matched: Option<&PathMatch>,
        index: usize,
        field: &str,
    ) -> Arc<RuleAction> {
        let mut keys = Vec::new();
        let target = match service_of(builder, backend, field) {
            Ok((service, port)) => match builder.backend(&service, port) {
                Some((id, key)) => {
                    keys.push(key);
                    let backend = WeightedBackend {
                        backend: Some(id),
                        weight: 1,
                        request_headers: HeaderEdits::default(),
                        response_headers: HeaderEdits::default(),
                    };
                    Target::Forward(Box::new([backend]))
                }
                None => Target::Reply { status: 500, reason: Arc::from("too many backends") },
            },
            Err(reason) => Target::Reply { status: 500, reason: Arc::from(reason) },
        };
        let part = self.part(builder, &keys, field);
        let policy = builder.policy(&part, &self.class.permitted, &keys);
        let mut action = builder.action(index, target, policy);
        if let Some(replacement) = &self.annotations.rewrite_prefix {
            action.rewrite = match matched {
                Some(PathMatch::Prefix(prefix)) => {
                    let (matched, replacement) = (prefix.clone(), replacement.clone());
                    rewrite(PathRewrite::Prefix { matched: strip_root(&matched), replacement })
                }
                Some(PathMatch::Exact(_) | PathMatch::Regex(_)) => {
                    rewrite(PathRewrite::Full(or_root(replacement)))
                }
                None => Rewrite::default(),
            };
        }
        Arc::new(action)
    }

    /// Default, then policies of the Ingress, of the Service, then annotations: the last one wins.
    fn part(&self, builder: &mut Builder<'_, '_>, keys: &[crate::merge::BackendKey], field: &str) -> Part {
        let mut part = self.class.default.clone();
        let id = &builder.object.id;
        if let Some(own) = builder.env.context.policy(Kind::Ingress, &id.namespace, &id.name, "") {
            part.overlay(own);
        }
        builder.detect(&part, keys, field);
        if let Some(service) = builder.service_part(keys) {
            part.overlay(&service);
        }
        part.overlay(&self.annotations.part);
        part
    }

    fn rows(
        &self,
        builder: &mut Builder<'_, '_>,
        pattern: &HostPattern,
        path: &PathMatch,
        action: &Arc<RuleAction>,
        rank: Rank,
    ) {
        let listeners: &[ListenerId] = &self.class.listeners;
        for listener in listeners {
            let key = HostKey { listener: *listener, pattern: pattern.clone() };
            let (headers, query) = (Box::default(), Box::default());
            let matches = RuleMatch { path: path.clone(), method: None, headers, query };
            builder.row(Row::new(key, rank, matches, action.clone()));
        }
    }
}

fn or_root(path: &Arc<str>) -> Arc<str> {
    if path.is_empty() { Arc::from("/") } else { path.clone() }
}

fn rewrite(path: PathRewrite) -> Rewrite {
    Rewrite { hostname: None, path: Some(path) }
}

/// The prefix as a rewrite stores it: `/` is the empty prefix.
pub fn strip_root(prefix: &Arc<str>) -> Arc<str> {
    Arc::from(prefix.trim_end_matches('/'))
}

fn service_of(
    builder: &mut Builder<'_, '_>,
    backend: &IngressBackend,
    field: &str,
) -> Result<(ServiceName, PortRef), &'static str> {
    let Some(service) = &backend.service else {
        let reason = "only Services are supported as backends: answered with 500";
        let kind = backend.resource.as_ref().map_or("", |resource| resource.kind.as_str());
        builder.out.notes.refused_part(format!("{field}.backend.resource"), kind, reason);
        return Err("backend is not a Service");
    };
    let port = service.port.clone().unwrap_or_default();
    let number = port.number.and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0);
    let port = match (number, port.name.filter(|name| !name.is_empty())) {
        (Some(number), None) => PortRef::Number(number),
        (None, Some(name)) => PortRef::Name(Arc::from(name)),
        (Some(_), Some(_)) | (None, None) => {
            let field = format!("{field}.backend.service.port");
            builder.out.notes.refused_part(
                field,
                "",
                "either a number from 1 to 65535 or a name: answered with 500",
            );
            return Err("backend has no port");
        }
    };
    let namespace = builder.object.id.namespace.clone();
    let name = ServiceName { namespace, name: Arc::from(service.name.as_str()) };
    let shown = format!("{}/{}:{port}", name.namespace, name.name);
    match builder.resolve(&name, &port) {
        Resolved::Yes => {}
        // Not a refusal: the Service may come later, and until then requests get 503.
        Resolved::NoService => {
            builder.out.notes.info(
                format!("{field}.backend.service"),
                shown,
                "no member cluster has this Service",
            );
        }
        Resolved::NoPort => {
            let reason = "no member cluster's Service has this port";
            builder.out.notes.refused_part(format!("{field}.backend.service.port"), shown, reason);
        }
    }
    Ok((name, port))
}
