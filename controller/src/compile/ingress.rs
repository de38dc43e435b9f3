//! `Ingress` to rows: class, hosts, paths, default backend. What a row does is `action`'s.

pub(super) mod action;
mod external;
mod maps;
mod protect;
mod responses;

use std::sync::Arc;

use k8s_openapi::api::networking::v1::{Ingress, IngressSpec};
use routing::id::ListenerId;
use routing::model::{
    Access, BasicAuth, ClientAuth, ClientCertificate, ExternalAuth, Filters, FixedResponse, HeaderEdits,
    HostKey, HostPattern, PathMatch, Predicate, Redirect, RuleAction, RuleMatch, Target, Terms,
    WildcardLabels,
};

use crate::compile::annotations::{self, Annotations, Matching, Reading};
use crate::compile::canary::CanaryRow;
use crate::compile::context::{Class, SecretUse};
use crate::compile::policy::Part;
use crate::compile::route::{Builder, Env, ORDER_DEFAULT, Rank, RouteOutput, Row};
use crate::finding::Standing;
use crate::object::Object;
use crate::text;
use crate::verdict::{Code, Note, Severity};

/// The annotation that came before `spec.ingressClassName`.
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

/// What an Ingress is compiled with.
struct Compiler<'a> {
    class: &'a Class,
    annotations: &'a Annotations,
    /// The class's listeners that `listen-ports` leaves.
    listeners: Vec<ListenerId>,
    canary: Option<Arc<CanaryRow>>,
    /// Source ranges of its hosts.
    domain: Option<Arc<Access>>,
    /// Which certificates clients must show.
    client: Option<ClientCertificate>,
    /// Who may come by name and password.
    basic: Option<BasicAuth>,
    /// Who may come by the word of another service.
    external: Option<Arc<ExternalAuth>>,
    /// Fields of responses that a ConfigMap names; `Some(None)` = it cannot be used, and the rules answer 503.
    custom_headers: Option<Option<HeaderEdits>>,
}

/// Compiles one Ingress. What is wrong is reported and costs itself only.
pub fn compile(env: &mut Env<'_>, object: &Object, ingress: &Ingress) -> RouteOutput {
    let mut builder = Builder::new(env, object);
    let Some(class) = class_of(&mut builder, ingress) else { return builder.out };
    let mut read = {
        let env = &mut *builder.env;
        let mut reading =
            Reading { id: &object.id, members: &env.context.members, regexes: &mut *env.regexes };
        annotations::read(&object.annotations, &mut reading, &mut builder.out.notes)
    };
    let spec = ingress.spec.clone().unwrap_or_default();
    let (client, auth) = protect::client(&mut builder, read.checks.client.as_ref());
    builder.out.transport = read.transport.clone();
    let canary = read.canary.take().map(|spec| {
        let own_policy = read.part != Part::default();
        Arc::new(CanaryRow { spec, own_policy })
    });
    let listeners = listeners(&mut builder, &class, &read);
    let domain = read.checks.domain.clone().map(Arc::new);
    let at = listeners.iter().filter_map(|id| builder.env.context.listeners.get(id));
    builder.out.standing = Standing::Ingress(super::Compiler::particular(at.map(|spec| spec.addr.ip())));
    let basic = read.checks.basic.as_ref().map(|spec| protect::basic(&mut builder, spec));
    let mut compiler = Compiler {
        class: &class,
        annotations: &read,
        listeners,
        canary,
        domain,
        client,
        basic,
        external: None,
        custom_headers: None,
    };
    compiler.external = compiler.authoriser(&mut builder);
    let custom = read.checks.custom_headers.as_ref().map(|name| maps::of_responses(&mut builder, name));
    compiler.custom_headers = custom;
    certificates(&mut builder, &class, &spec);
    terms(&mut builder, &class, &read, (&spec, auth));
    let index = compiler.rules(&mut builder, &spec);
    if let Some(backend) = &spec.default_backend {
        let all = PathMatch::Prefix(Arc::from("/"));
        let place = action::Place { index, field: "spec.defaultBackend", has_tls: false };
        if let Some((action, matches)) = compiler.action(&mut builder, backend, &all, &place) {
            compiler.rows(&mut builder, &[HostPattern::Any], &matches, &action, Rank::Default);
        }
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

/// What handshakes with its hosts are made under.
fn terms(
    builder: &mut Builder<'_, '_>,
    class: &Class,
    read: &Annotations,
    (spec, client): (&IngressSpec, Option<Arc<ClientAuth>>),
) {
    let wanted = read.checks.terms.clone().unwrap_or_default();
    let terms = Terms {
        min: wanted.min.unwrap_or_default(),
        max: wanted.max,
        ciphers: wanted.ciphers.into(),
        alpn: read.checks.alpn.clone(),
        client,
    };
    if terms == Terms::default() {
        return;
    }
    let rules = spec.rules.iter().flatten().map(|rule| rule.host.as_deref().unwrap_or_default());
    // What is no host was refused where it stands.
    let hosts = rules.filter_map(|host| match host {
        "" => Some(HostPattern::Any),
        host => text::host(host, WildcardLabels::One).ok(),
    });
    let hosts = hosts.chain(read.address.aliases.iter().cloned()).collect();
    builder.out.terms = Some((hosts, Arc::new(terms)));
    let secure = class.listeners.iter().filter(|id| builder.env.context.secure.contains_key(id));
    builder.out.secure = secure.copied().collect();
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
            let note = Note::new(Severity::Ignored, field, name, "another controller's class");
            builder.out.notes.push(note.because(Code::Foreign));
            None
        }
        None => {
            // Other controllers serve classes that have no object.
            let note = Note::new(Severity::Refused, field, name, "no such IngressClass on the Fleet");
            builder.out.notes.push(note.because(Code::Foreign));
            None
        }
    }
}

/// The class's listeners; those that `listen-ports` names, where it names any that the class has.
fn listeners(builder: &mut Builder<'_, '_>, class: &Class, read: &Annotations) -> Vec<ListenerId> {
    let Some(ports) = &read.ports else { return class.listeners.clone() };
    let context = builder.env.context;
    let port = |id: &ListenerId| context.listeners.get(id).map(|spec| spec.addr.port());
    let chosen = class.listeners.iter().filter(|id| port(id).is_some_and(|port| ports.contains(&port)));
    let chosen: Vec<ListenerId> = chosen.copied().collect();
    if chosen.is_empty() {
        let field = "metadata.annotations[alb.ingress.kubernetes.io/listen-ports]";
        let reason = "the class has no listener on these ports: all of its listeners are used";
        builder.out.notes.ignored(field, format!("{ports:?}"), reason);
        return class.listeners.clone();
    }
    chosen
}

impl Compiler<'_> {
    /// The rows of all rules. Returns how many paths there were.
    fn rules(&self, builder: &mut Builder<'_, '_>, spec: &IngressSpec) -> usize {
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
            let has_tls = has_tls(spec, rule.host.as_deref().unwrap_or_default());
            let aliases = self.annotations.address.aliases.iter();
            let patterns: Vec<HostPattern> = [&pattern].into_iter().chain(aliases).cloned().collect();
            for (p, path) in rule.http.iter().flat_map(|http| &http.paths).enumerate() {
                let field = format!("{field}.http.paths[{p}]");
                let given = path.path.as_deref().filter(|path| !path.is_empty());
                let position = index;
                index += 1;
                let Some(matched) = self.path_match(builder, &path.path_type, given, &field) else {
                    continue;
                };
                if self.is_of_responses(&path.backend) {
                    self.response_rows(builder, &patterns, &matched, &path.backend);
                    continue;
                }
                let place = action::Place { index: position, field: &field, has_tls };
                let compiled = self.action(builder, &path.backend, &matched, &place);
                let Some((action, matches)) = compiled else { continue };
                self.rows(builder, &patterns, &matches, &action, Rank::Rule);
            }
            self.beside(builder, &patterns, index);
        }
        index
    }

    /// Rows that no path of the Ingress asks for: `app-root`, `from-to-www-redirect`.
    fn beside(&self, builder: &mut Builder<'_, '_>, patterns: &[HostPattern], index: usize) {
        let address = &self.annotations.address;
        let policy = builder.policy(&self.class.default, &self.class.permitted, &[]);
        let access =
            self.access().map(|access| Arc::new(Filters { access: Some(access), ..Filters::default() }));
        if let Some(root) = &address.app_root {
            let answer = FixedResponse { status: 302, location: root.clone(), ..FixedResponse::default() };
            let mut action = builder.action(index, Target::Fixed(Arc::new(answer)), policy.clone());
            action.filters = access.clone();
            let action = Arc::new(action);
            let matches = on_path(PathMatch::Exact(Arc::from("/")));
            self.rows(builder, patterns, &matches, &action, Rank::Rule);
        }
        for pattern in patterns.iter().filter(|_| address.www) {
            let HostPattern::Exact(host) = pattern else { continue };
            let other = host.strip_prefix("www.").map_or_else(|| format!("www.{host}"), str::to_owned);
            let hostname = Some(host.clone());
            let redirect = Redirect { scheme: None, hostname, path: None, port: None, status: 308 };
            let mut action = builder.action(index, Target::Redirect(redirect), policy.clone());
            action.filters = access.clone();
            let action = Arc::new(action);
            let matches = on_path(PathMatch::Prefix(Arc::from("/")));
            self.rows(builder, &[HostPattern::Exact(Arc::from(other))], &matches, &action, Rank::Rule);
        }
    }

    fn path_match(
        &self,
        builder: &mut Builder<'_, '_>,
        path_type: &str,
        path: Option<&str>,
        field: &str,
    ) -> Option<PathMatch> {
        let path = path.unwrap_or("/");
        let address = &self.annotations.address;
        let checked = match address.matching {
            Matching::Typed if !address.ignore_case => text::path(path).map(|()| None),
            Matching::Typed => text::path(path).and_then(|()| {
                let text = annotations::escaped(path.trim_end_matches('/'));
                let rest = if path_type == "Exact" { "" } else { "(?:/(?s:.*))?" };
                builder.env.regexes.anchored(&format!("(?i:{text}){rest}")).map(Some)
            }),
            Matching::RegexPrefix | Matching::RegexFull => {
                let flag = if address.ignore_case { "i" } else { "" };
                let rest = if address.matching == Matching::RegexFull { "" } else { "(?s:.*)" };
                // Alone first: what is not closed there would be closed here.
                let alone = builder.env.regexes.anchored(path);
                let starts = path.starts_with(['/', '^', '(']);
                alone.and_then(|_| if starts { Ok(()) } else { Err("begins with '/'".to_owned()) }).and_then(
                    |()| {
                        let path = path.trim_start_matches('^');
                        builder.env.regexes.anchored(&format!("(?{flag}:{path}){rest}")).map(Some)
                    },
                )
            }
        };
        match checked {
            Ok(Some(regex)) => return Some(PathMatch::Regex(regex)),
            Ok(None) => {}
            Err(allowed) => {
                builder.out.notes.refused_part(format!("{field}.path"), path, format!("allowed: {allowed}"));
                return None;
            }
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

    fn rows(
        &self,
        builder: &mut Builder<'_, '_>,
        patterns: &[HostPattern],
        matches: &RuleMatch,
        action: &Arc<RuleAction>,
        rank: Rank,
    ) {
        for listener in &self.listeners {
            for pattern in patterns {
                let key = HostKey { listener: *listener, pattern: pattern.clone() };
                builder.row(Row {
                    order: self.annotations.order.unwrap_or(ORDER_DEFAULT),
                    canary: self.canary.clone(),
                    domain: self.domain.clone(),
                    lists: self.annotations.checks.access.as_ref().is_some_and(|own| !own.allow.is_empty()),
                    ..Row::new(key, rank, matches.clone(), action.clone())
                });
            }
        }
    }

    /// What must hold for a path, with what annotations ask for beside it.
    fn matches(&self, path: &PathMatch, more: &[Predicate]) -> RuleMatch {
        let methods = &self.annotations.methods;
        let method = if let [only] = methods[..] { Some(only) } else { None };
        let set = (methods.len() > 1).then(|| Predicate::Methods(methods.clone().into()));
        let more = self.annotations.more.iter().chain(more).cloned().chain(set).collect();
        RuleMatch { method, more, ..on_path(path.clone()) }
    }
}

fn on_path(path: PathMatch) -> RuleMatch {
    RuleMatch { path, method: None, headers: Box::default(), query: Box::default(), more: Box::default() }
}

/// Does `spec.tls` name the host?
fn has_tls(spec: &IngressSpec, host: &str) -> bool {
    let covers = |name: &String| {
        name == host
            || name.strip_prefix('*').is_some_and(|suffix| {
                host.strip_suffix(suffix).is_some_and(|label| !label.is_empty() && !label.contains('.'))
            })
    };
    spec.tls
        .iter()
        .flatten()
        .any(|tls| tls.hosts.as_ref().is_none_or(|hosts| hosts.is_empty() || hosts.iter().any(covers)))
}

/// The prefix as a rewrite stores it: `/` is the empty prefix.
pub fn strip_root(prefix: &Arc<str>) -> Arc<str> {
    Arc::from(prefix.trim_end_matches('/'))
}
