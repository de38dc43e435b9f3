//! What a rule of an Ingress does: its backends, its rewrite, its filters.

use std::sync::Arc;

use k8s_openapi::api::networking::v1::IngressBackend;
use routing::model::{
    Access, ConcurrencyLimit, Fallback, Filters, HeaderEdits, Mirror, PathMatch, PathRewrite, RateLimit,
    Rewrite, RuleAction, RuleMatch, Target, WeightedBackend,
};

use super::protect::field_of;
use super::{Compiler, on_path, strip_root};
use crate::compile::annotations::{ConcurrencySpec, RateScope, RateSpec, ServiceRule};
use crate::compile::policy::{Part, detection};
use crate::compile::route::{Builder, Resolved};
use crate::merge::{BackendKey, PortRef};
use crate::object::Kind;
use crate::verdict::Notes;
use crate::world::ServiceName;

/// The port that ALB writes where `actions.SERVICE` takes the Service's place.
pub(super) const USE_ANNOTATION: &str = "use-annotation";

/// Which rule of the Ingress.
pub(super) struct Place<'a> {
    /// Its number among the paths.
    pub index: usize,
    /// Where it stands.
    pub field: &'a str,
    /// Does `spec.tls` name its host?
    pub has_tls: bool,
}

/// A backend with its share; `None` = no number is left for it.
type Reference = (Option<WeightedBackend>, Option<BackendKey>);

impl Compiler<'_> {
    /// What the rule does and what must hold for it. `None` = its conditions cannot be read, and it is not served.
    pub(super) fn action(
        &self,
        builder: &mut Builder<'_, '_>,
        backend: &IngressBackend,
        matched: &PathMatch,
        place: &Place<'_>,
    ) -> Option<(Arc<RuleAction>, RuleMatch)> {
        let empty = ServiceRule { conditions: Some(Vec::new()), ..ServiceRule::default() };
        let name = backend.service.as_ref().map_or("", |service| service.name.as_str());
        let rule = self.annotations.services.get(name).unwrap_or(&empty);
        let conditions = rule.conditions.as_ref()?;
        let mut keys = Vec::new();
        let target = self.target(builder, backend, rule, place.field, &mut keys);
        let mut part = self.part(builder, &keys, place.field);
        // Without a path of its own a cookie is for the rule's: two Services of one host keep their sessions apart.
        if let Some(affinity) = part.affinity.as_mut().filter(|affinity| affinity.path.is_empty()) {
            affinity.path = match matched {
                PathMatch::Exact(path) | PathMatch::Prefix(path) => path.clone(),
                PathMatch::Regex(_) => Arc::from("/"),
            };
        }
        let policy = builder.policy(&part, &self.class.permitted, &keys);
        let mut action = builder.action(place.index, target, policy);
        action.request_headers = self.annotations.request_headers.then(&rule.request_headers);
        if self.basic.is_some() {
            // The password is for the gateway: no backend gets to see it (as ingress-nginx does).
            let mut remove = action.request_headers.remove.to_vec();
            remove.push(Arc::from("authorization"));
            action.request_headers.remove = remove.into();
        }
        if let Some(external) = &self.annotations.checks.external {
            // What the answer is to say nobody else may have said; the gateway's own word comes behind this.
            let remove = action.request_headers.remove.iter().chain(&external.passes);
            action.request_headers.remove = remove.cloned().collect();
        }
        let is_narrow = !rule.statuses.is_empty() || !rule.response_fields.is_empty();
        let own = &self.annotations.response_headers;
        action.response_headers = if is_narrow { own.clone() } else { own.then(&rule.response_headers) };
        if let Some(Some(custom)) = &self.custom_headers {
            action.response_headers = custom.then(&action.response_headers);
        }
        action.rewrite = self.rewrite(rule, matched);
        action.filters = self.filters(builder, (backend, rule), place);
        let matches = self.matches(matched, conditions);
        if is_narrow {
            let mut filters = action.filters.as_deref().cloned().unwrap_or_default();
            filters.responses = Box::new([Arc::new(self.response_rule(rule, on_path(matched.clone())))]);
            action.filters = Some(Arc::new(filters));
        }
        Some((Arc::new(action), matches))
    }

    fn target(
        &self,
        builder: &mut Builder<'_, '_>,
        backend: &IngressBackend,
        rule: &ServiceRule,
        field: &str,
        keys: &mut Vec<BackendKey>,
    ) -> Target {
        if let Some(name) = &self.annotations.closed {
            return Target::Reply { status: 503, reason: Arc::from(format!("{name} cannot be honoured")) };
        }
        if self.custom_headers.as_ref().is_some_and(Option::is_none) {
            return Target::Reply { status: 503, reason: Arc::from("custom-headers cannot be honoured") };
        }
        if rule.broken {
            return Target::Reply { status: 503, reason: Arc::from("actions cannot be read") };
        }
        if let Some(answer) = &self.annotations.address.redirect {
            return Target::Fixed(answer.clone());
        }
        if let Some(answer) = &rule.fixed {
            return Target::Fixed(answer.clone());
        }
        if let Some(redirect) = &rule.redirect {
            return Target::Redirect(redirect.clone());
        }
        let mut references: Vec<Reference> = Vec::new();
        if !rule.forward.is_empty() {
            for forward in &rule.forward {
                references.push(self.reference(
                    builder,
                    &forward.service,
                    &forward.port,
                    forward.weight,
                    field,
                ));
            }
        } else if !self.annotations.destinations.is_empty() {
            let own = port_of(backend);
            for destination in &self.annotations.destinations {
                let port = destination.port.map(PortRef::Number).or_else(|| own.clone());
                let Some(port) = port else { continue };
                references.push(self.reference(
                    builder,
                    &destination.service,
                    &port,
                    destination.weight,
                    field,
                ));
            }
        } else {
            match service_of(builder, backend, field) {
                Ok((service, port)) => references.push(self.known(builder, &service, port, 1)),
                Err(reason) => return Target::Reply { status: 500, reason: Arc::from(reason) },
            }
        }
        keys.extend(references.iter().filter_map(|(_, key)| key.clone()));
        let backends: Vec<WeightedBackend> =
            references.into_iter().filter_map(|(backend, _)| backend).collect();
        if backends.iter().all(|backend| backend.backend.is_none()) {
            return Target::Reply { status: 500, reason: Arc::from("no backend can be resolved") };
        }
        Target::Forward(backends.into())
    }

    /// A Service that annotations name: of the Ingress's namespace, or of one that grants it. Its share is answered with
    /// 500 where it may not be used.
    pub(super) fn reference(
        &self,
        builder: &mut Builder<'_, '_>,
        service: &ServiceName,
        port: &PortRef,
        weight: u32,
        field: &str,
    ) -> Reference {
        if !is_permitted(builder, service, field) {
            return (Some(WeightedBackend { backend: None, ..weighted(weight) }), None);
        }
        if builder.resolve(service, port) != Resolved::Yes {
            let shown = format!("{}/{}:{port}", service.namespace, service.name);
            builder.out.notes.info(field, shown, "no member cluster has this Service and port");
        }
        self.known(builder, service, port.clone(), weight)
    }

    fn known(
        &self,
        builder: &mut Builder<'_, '_>,
        service: &ServiceName,
        port: PortRef,
        weight: u32,
    ) -> Reference {
        let Some((id, key)) = builder.backend(service, port) else {
            return (Some(WeightedBackend { backend: None, ..weighted(weight) }), None);
        };
        if builder.out.apart.remove(&key).is_some() {
            // One port is spoken to in one way, and what the rules say of their own backend must not be less for this.
            let reason = "auth-url names a backend of the rules: it is asked as they speak to it";
            let field = field_of(builder, "auth-url");
            builder.out.notes.info(field, key.to_string(), reason);
        }
        let members = &builder.env.context.members;
        let cluster =
            self.annotations.cluster.as_ref().and_then(|name| members.get(name)).map(|member| member.id);
        (Some(WeightedBackend { backend: Some(id), cluster, ..weighted(weight) }), Some(key))
    }

    /// Default, then policies of the Ingress, of the Service, then annotations: the last one wins.
    fn part(&self, builder: &mut Builder<'_, '_>, keys: &[BackendKey], field: &str) -> Part {
        let mut part = self.class.default.clone();
        let id = &builder.object.id;
        if let Some(own) = builder.env.context.policy(Kind::Ingress, &id.namespace, &id.name, "") {
            part.overlay(own);
        }
        detection::overlay(&mut part.detection, self.annotations.part.detection.as_ref());
        builder.detect(&part, keys, field);
        if let Some(service) = builder.service_part(keys) {
            part.overlay(&service);
        }
        part.overlay(&self.annotations.part);
        part
    }

    fn rewrite(&self, rule: &ServiceRule, matched: &PathMatch) -> Rewrite {
        let address = &self.annotations.address;
        let hostname = rule.host.clone().or_else(|| address.upstream_host.clone());
        let prefix = self.annotations.rewrite_prefix.as_ref();
        let path = match (&rule.path, &address.target, prefix) {
            (Some(path), _, _) => Some(PathRewrite::Full(path.clone())),
            (None, Some(template), _) => Some(match matched {
                PathMatch::Regex(regex) => {
                    PathRewrite::Captures { regex: regex.clone(), template: template.clone() }
                }
                PathMatch::Exact(_) | PathMatch::Prefix(_) => PathRewrite::Full(template.clone()),
            }),
            (None, None, Some(replacement)) => Some(match matched {
                PathMatch::Prefix(prefix) => {
                    PathRewrite::Prefix { matched: strip_root(prefix), replacement: replacement.clone() }
                }
                PathMatch::Exact(_) | PathMatch::Regex(_) => PathRewrite::Full(or_root(replacement)),
            }),
            (None, None, None) => None,
        };
        Rewrite { hostname, path }
    }

    fn filters(
        &self,
        builder: &mut Builder<'_, '_>,
        (backend, rule): (&IngressBackend, &ServiceRule),
        place: &Place<'_>,
    ) -> Option<Arc<Filters>> {
        let checks = &self.annotations.checks;
        let service = backend.service.as_ref().map_or("", |service| service.name.as_str());
        let counted = Counted { index: place.index, service };
        let rates = checks.rates.iter().chain(&rule.rates).map(|spec| rate_limit(builder, spec, &counted));
        let rates = rates.collect();
        let bounds = checks.concurrency.iter().map(|spec| concurrency_limit(builder, spec, &counted));
        let concurrency = bounds.collect();
        let mirror = self.annotations.mirror.clone();
        let mirror =
            mirror.or_else(|| rule.mirror.clone().map(|(service, port)| (service, Some(port), 1_000_000)));
        let mirror = mirror.and_then(|(service, port, share_ppm)| {
            let port = port.or_else(|| builder.first_port(&service)).unwrap_or(PortRef::Number(80));
            let (backend, _) = self.reference(builder, &service, &port, 1, place.field);
            let backend = backend.filter(|backend| backend.backend.is_some())?;
            Some(Mirror { backends: Box::new([WeightedBackend { cluster: None, ..backend }]), share_ppm })
        });
        let https = checks.https.filter(|_| place.has_tls || !self.annotations.address.https_with_tls);
        let filters = Filters {
            access: self.access(),
            https,
            client: self.client.clone(),
            cors: checks.cors.clone(),
            rates,
            concurrency,
            body_bytes_max: checks.body_bytes_max,
            known: self.vouched_for(),
            basic: self.basic.clone(),
            external: self.external.clone(),
            values: checks.values.clone(),
            responses: Box::default(),
            gzip: checks.gzip.unwrap_or(self.class.gzip),
            mirrors: mirror.into_iter().collect(),
            fallback: self.fallback(builder, backend, place.field),
        };
        (filters != Filters::default()).then(|| Arc::new(filters))
    }

    /// The class's own list and the Ingress's must both hold: a source that one of them refuses may not come.
    pub(super) fn access(&self) -> Option<Access> {
        let own = self.annotations.checks.access.as_ref().filter(|_| !self.any_suffices());
        both(self.class.access.as_ref(), own)
    }

    /// Who need not prove who they are. A list of who may not come vouches for nobody else.
    fn vouched_for(&self) -> Option<Access> {
        let access = self.annotations.checks.access.as_ref();
        access.filter(|access| self.any_suffices() && !access.allow.is_empty()).cloned()
    }

    /// `satisfy: any`, where there is something beside the source ranges that may hold instead.
    fn any_suffices(&self) -> bool {
        let checks = &self.annotations.checks;
        checks.any_suffices && (checks.basic.is_some() || checks.external.is_some())
    }

    fn fallback(&self, builder: &mut Builder<'_, '_>, own: &IngressBackend, field: &str) -> Option<Fallback> {
        let name = self.annotations.default_backend.clone()?;
        let service = ServiceName { namespace: builder.object.id.namespace.clone(), name };
        let Some(port) = builder.first_port(&service) else {
            let shown = format!("{}/{}", service.namespace, service.name);
            let reason = "default-backend: no member cluster has this Service with a port";
            builder.out.notes.info(field, shown, reason);
            return None;
        };
        let (backend, _) = self.known(builder, &service, port, 1);
        let backend = backend.filter(|backend| backend.backend.is_some())?;
        let statuses = self.annotations.error_statuses.clone().into();
        let backends = Box::new([WeightedBackend { cluster: None, ..backend }]);
        let id = &builder.object.id;
        let port = port_of(own).map(|port| Arc::from(port.to_string()));
        let told = [
            ("X-Namespace", Some(id.namespace.clone())),
            ("X-Ingress-Name", Some(id.name.clone())),
            ("X-Service-Name", own.service.as_ref().map(|service| Arc::from(service.name.as_str()))),
            ("X-Service-Port", port),
        ];
        let told = told.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        Some(Fallback { backends, without_endpoint: true, statuses, told })
    }
}

/// What two lists let through together. Two lists of who may come become their intersection.
pub(crate) fn both(class: Option<&Access>, own: Option<&Access>) -> Option<Access> {
    let (Some(class), Some(own)) = (class, own) else { return class.or(own).cloned() };
    let deny = class.deny.iter().chain(&own.deny).copied().collect();
    let allow = match (class.allow.is_empty(), own.allow.is_empty()) {
        (true, _) => own.allow.clone(),
        (_, true) => class.allow.clone(),
        (false, false) => {
            let pairs = class.allow.iter().flat_map(|a| own.allow.iter().map(move |b| (a, b)));
            let common =
                pairs.filter_map(|(a, b)| if a.contains(b) { Some(*b) } else { b.contains(a).then_some(*a) });
            let common: Vec<_> = common.collect();
            if common.is_empty() {
                // Nobody is in both: an empty list would be everybody.
                Vec::from([ipnet::IpNet::from(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED))]).into()
            } else {
                common.into()
            }
        }
    };
    Some(Access { allow, deny })
}

/// Which rule's requests are counted.
struct Counted<'a> {
    index: usize,
    service: &'a str,
}

impl Counted<'_> {
    /// The name of what is counted together.
    fn key(
        &self,
        builder: &Builder<'_, '_>,
        scope: RateScope,
        name: &'static str,
    ) -> (Arc<str>, Option<usize>, &'static str) {
        match scope {
            RateScope::Ingress => (builder.name(), None, name),
            RateScope::Rule => (builder.name(), Some(self.index), name),
            RateScope::Service => (Arc::from(format!("{} {}", builder.name(), self.service)), None, name),
        }
    }
}

fn rate_limit(builder: &mut Builder<'_, '_>, spec: &RateSpec, counted: &Counted<'_>) -> RateLimit {
    let key = counted.key(builder, spec.scope, spec.name);
    RateLimit {
        rate: spec.rate,
        key: spec.key,
        exempt: spec.exempt.clone().into(),
        answer: spec.answer.clone(),
        state: builder.env.limits.rate(key, spec.rate, spec.key),
    }
}

fn concurrency_limit(
    builder: &mut Builder<'_, '_>,
    spec: &ConcurrencySpec,
    counted: &Counted<'_>,
) -> ConcurrencyLimit {
    let key = counted.key(builder, spec.scope, spec.name);
    ConcurrencyLimit {
        max: spec.max,
        key: spec.key,
        exempt: spec.exempt.clone().into(),
        answer: spec.answer.clone(),
        state: builder.env.limits.in_flight(key, spec.key),
    }
}

fn weighted(weight: u32) -> WeightedBackend {
    WeightedBackend {
        backend: None,
        weight,
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
        cluster: None,
    }
}

fn or_root(path: &Arc<str>) -> Arc<str> {
    if path.is_empty() { Arc::from("/") } else { path.clone() }
}

/// May the Ingress use a Service of another namespace?
fn is_permitted(builder: &mut Builder<'_, '_>, service: &ServiceName, field: &str) -> bool {
    let own = builder.object.id.namespace.clone();
    let from = ("networking.k8s.io", "Ingress", &*own);
    if service.namespace == own
        || builder.env.context.is_granted(from, &service.namespace, ("", "Service", &service.name))
    {
        return true;
    }
    let shown = format!("{}/{}", service.namespace, service.name);
    let reason = format!("no ReferenceGrant in {} lets Ingresses of {own} use it", service.namespace);
    builder.out.notes.refused_part(field, shown, reason);
    false
}

/// The port of a rule's own backend, if it says one.
pub(super) fn port_of(backend: &IngressBackend) -> Option<PortRef> {
    let port = backend.service.as_ref()?.port.clone()?;
    let number = port.number.and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0);
    match (number, port.name.filter(|name| !name.is_empty())) {
        (Some(number), None) => Some(PortRef::Number(number)),
        (None, Some(name)) => Some(PortRef::Name(Arc::from(name))),
        (Some(_), Some(_)) | (None, None) => None,
    }
}

fn service_of(
    builder: &mut Builder<'_, '_>,
    backend: &IngressBackend,
    field: &str,
) -> Result<(ServiceName, PortRef), &'static str> {
    let notes: &mut Notes = &mut builder.out.notes;
    let Some(service) = &backend.service else {
        let reason = "only Services are supported as backends: answered with 500";
        let kind = backend.resource.as_ref().map_or("", |resource| resource.kind.as_str());
        notes.refused_part(format!("{field}.backend.resource"), kind, reason);
        return Err("backend is not a Service");
    };
    let Some(port) = port_of(backend) else {
        let reason = "either a number from 1 to 65535 or a name: answered with 500";
        notes.refused_part(format!("{field}.backend.service.port"), "", reason);
        return Err("backend has no port");
    };
    if port == PortRef::Name(Arc::from(USE_ANNOTATION)) {
        let reason = format!(
            "{USE_ANNOTATION} needs actions.{} with ForwardGroup, FixedResponse or Redirect",
            service.name
        );
        notes.refused_part(format!("{field}.backend.service.port"), USE_ANNOTATION, reason);
        return Err("no action takes the backend's place");
    }
    let namespace = builder.object.id.namespace.clone();
    let name = ServiceName { namespace, name: Arc::from(service.name.as_str()) };
    let shown = format!("{}/{}:{port}", name.namespace, name.name);
    match builder.resolve(&name, &port) {
        Resolved::Yes => {}
        // Not a refusal: the Service may come later, and until then requests get 503.
        Resolved::NoService => {
            let reason = "no member cluster has this Service";
            builder.out.notes.info(format!("{field}.backend.service"), shown, reason);
        }
        Resolved::NoPort => {
            let reason = "no member cluster's Service has this port";
            builder.out.notes.refused_part(format!("{field}.backend.service.port"), shown, reason);
        }
    }
    Ok((name, port))
}
