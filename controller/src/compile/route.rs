//! What Ingresses and `HTTPRoutes` have in common when they are compiled: rows, references to backends, policies.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use routing::id::{BackendId, ListenerId};
use routing::model::{
    Access, Balance, Carrier, HeaderEdits, HostKey, HostPattern, Policy, ResponseRule, Rewrite, RuleAction,
    RuleMatch, Speech, StatSlot, Target, Terms,
};

use crate::compile::canary::CanaryRow;
use crate::compile::context::{Context, SecretUse};
use crate::compile::ids::{Ids, StatKey};
use crate::compile::limits::Limits;
use crate::compile::policy::detection::DetectionPart;
use crate::compile::policy::{self, Part, Permitted};
use crate::compile::transport::TransportPart;
use crate::finding::Standing;
use crate::merge::{BackendKey, PortRef, port_of};
use crate::object::{Kind, Object, ObjectId};
use crate::text::Regexes;
use crate::verdict::Notes;
use crate::world::{ServiceName, World};

/// Rows of one route: hosts × listeners × matches.
pub const ROWS_PER_ROUTE_MAX: usize = 20_000;

/// One match → action row of one host, with what decides its place.
#[derive(Clone, Debug)]
pub struct Row {
    /// Which set of rules it belongs to.
    pub key: HostKey,
    /// An Ingress's default backend: after everything else of the host.
    pub rank: Rank,
    /// ALB's `order`: the smaller comes first. [`ORDER_DEFAULT`] where nothing is said.
    pub order: u16,
    /// A canary serves only beside a row of another Ingress with the same match.
    pub canary: Option<Arc<CanaryRow>>,
    /// Source ranges that its Ingress asks for, for the whole host.
    pub domain: Option<Arc<Access>>,
    /// It serves nothing: this holds for the responses of other rows.
    pub response: Option<Arc<ResponseRule>>,
    /// Has its Ingress a list of its own of who may come? It comes before the host's.
    pub lists: bool,
    /// What must hold.
    pub matches: RuleMatch,
    /// What is done.
    pub action: Arc<RuleAction>,
    /// Tells `matches` apart from others: taken once, because a host is put together anew with each of its edits.
    pub(crate) digest: u64,
}

impl Row {
    /// A row.
    #[must_use]
    pub fn new(key: HostKey, rank: Rank, matches: RuleMatch, action: Arc<RuleAction>) -> Self {
        let digest = crate::digest::of(&matches);
        Self {
            key,
            rank,
            order: ORDER_DEFAULT,
            canary: None,
            domain: None,
            response: None,
            lists: false,
            matches,
            action,
            digest,
        }
    }
}

/// The place of rows that say nothing of it (ALB).
pub const ORDER_DEFAULT: u16 = 10;

/// Does a row come before or after all others of its host?
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// An ordinary rule.
    Rule,
    /// A default backend.
    Default,
}

/// What a route compiles to.
#[derive(Debug, Default)]
pub struct RouteOutput {
    /// Its age, for precedence.
    pub created: i64,
    /// `namespace/name`, for precedence.
    pub namespaced_name: String,
    /// Its rows.
    pub rows: Vec<Row>,
    /// The backends that it refers to, each once: one reference each in [`Ids::backends`].
    pub backends: BTreeSet<BackendKey>,
    /// Those of them that are balanced by a consistent hash.
    pub hashed: BTreeSet<BackendKey>,
    /// What its policies say of the detection of each of them; those that they say nothing of are not listed.
    pub detections: BTreeMap<BackendKey, Arc<DetectionPart>>,
    /// The Services that it names, found or not.
    pub services: BTreeSet<ServiceName>,
    /// The Secrets and ConfigMaps that decide what its rules do, found or not.
    pub contents: BTreeSet<ObjectId>,
    /// Of an Ingress: the certificates of `spec.tls`, and on which listeners with TLS they are used.
    pub tls: Vec<SecretUse>,
    /// What handshakes with its hosts are made under.
    pub terms: Option<(Vec<HostPattern>, Arc<Terms>)>,
    /// The listeners with TLS that it is served on.
    pub secure: Vec<ListenerId>,
    /// Of an Ingress: what its annotations say of how its backends are spoken to.
    pub transport: Option<Arc<TransportPart>>,
    /// Those of its backends that are spoken to in their own way, whatever the annotations say of the others.
    pub apart: BTreeMap<BackendKey, Option<Arc<TransportPart>>>,
    /// What it speaks to them.
    pub speech: Speech,
    /// `metadata.generation` of what was compiled.
    pub generation: i64,
    /// Its `metadata.uid`.
    pub uid: Arc<str>,
    /// What its status is made of.
    pub standing: Standing,
    /// Its statistics.
    pub stat: Option<StatKey>,
    /// Remarks.
    pub notes: Notes,
}

impl RouteOutput {
    /// The sets of rules that it has rows in, each once.
    pub(super) fn hosts(&self) -> BTreeSet<&HostKey> {
        self.rows.iter().map(|row| &row.key).collect()
    }
}

/// What a route is compiled with.
pub struct Env<'a> {
    /// The world.
    pub world: &'a World,
    /// Members, listeners, classes, policies.
    pub context: &'a Context,
    /// Numbers.
    pub ids: &'a mut Ids,
    /// Compiled patterns.
    pub regexes: &'a mut Regexes,
    /// Policies, each content once.
    pub policies: &'a mut HashMap<u64, Arc<Policy>>,
    /// State of limits.
    pub limits: &'a mut Limits,
}

/// A route that is being compiled.
pub struct Builder<'a, 'b> {
    /// With what.
    pub env: &'b mut Env<'a>,
    /// The object.
    pub object: &'b Object,
    /// What it has become so far.
    pub out: RouteOutput,
    name: Arc<str>,
    slot: StatSlot,
}

/// Can a Service port be resolved?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolved {
    /// Some member has it.
    Yes,
    /// No member has the Service.
    NoService,
    /// Members have the Service, but not the port.
    NoPort,
}

impl<'a, 'b> Builder<'a, 'b> {
    /// Starts with nothing.
    pub fn new(env: &'b mut Env<'a>, object: &'b Object) -> Self {
        let namespaced_name = format!("{}/{}", object.id.namespace, object.id.name);
        let name: Arc<str> = Arc::from(object.id.to_string());
        let stat = StatKey::Route(name.clone());
        let slot = env.ids.stat(&stat);
        let out = RouteOutput {
            created: object.created,
            namespaced_name,
            generation: object.generation,
            uid: object.uid.clone(),
            stat: Some(stat),
            ..RouteOutput::default()
        };
        Self { env, object, out, name, slot }
    }

    /// The backend's number. `None` when all numbers are taken.
    pub fn backend(&mut self, service: &ServiceName, port: PortRef) -> Option<(BackendId, BackendKey)> {
        let key = BackendKey { service: service.clone(), port };
        self.out.services.insert(service.clone());
        let id = if self.out.backends.contains(&key) {
            self.env.ids.backends.get(&key)?
        } else {
            let id = self.env.ids.backends.acquire(&key)?;
            self.out.backends.insert(key.clone());
            id
        };
        Some((BackendId(id), key))
    }

    /// Is there such a Service port in any member?
    pub fn resolve(&mut self, service: &ServiceName, port: &PortRef) -> Resolved {
        self.out.services.insert(service.clone());
        let mut resolved = Resolved::NoService;
        for name in self.env.context.members.keys() {
            match self.env.world.service(name, service) {
                Some(found) if port_of(found, port).is_some() => return Resolved::Yes,
                Some(_) => resolved = Resolved::NoPort,
                None => {}
            }
        }
        resolved
    }

    /// The policy attached to the rule's Service, when all its backends agree on it.
    pub fn service_part(&self, keys: &[BackendKey]) -> Option<Part> {
        let of = |key: &BackendKey| {
            let (namespace, name) = (&key.service.namespace, &key.service.name);
            let port = key.port.section();
            let whole = self.env.context.policy(Kind::Service, namespace, name, "");
            let section = self.env.context.policy(Kind::Service, namespace, name, &port);
            let mut part = whole.cloned();
            if let Some(section) = section {
                part.get_or_insert_with(Part::default).overlay(section);
            }
            part
        };
        let first = of(keys.first()?)?;
        keys.iter().all(|key| of(key).as_ref() == Some(&first)).then_some(first)
    }

    /// What the policies of this route, their Services' apart, say of the detection of these backends. Of two rules
    /// with one backend the first that says anything decides; the other is told when it differs.
    pub fn detect(&mut self, part: &Part, keys: &[BackendKey], field: &str) {
        let Some(detection) = part.detection.as_ref() else { return };
        for key in keys {
            let before = self.out.detections.entry(key.clone()).or_insert_with(|| detection.clone());
            if before != detection {
                let reason =
                    "ignored: a backend is judged as a whole, and a rule before this one has another policy";
                self.out.notes.ignored(field, key, reason);
            }
        }
    }

    /// The policy that `part` amounts to; each content exists once.
    pub fn policy(&mut self, part: &Part, permitted: &Permitted, keys: &[BackendKey]) -> Arc<Policy> {
        let policy = policy::resolve(part, &self.env.context.members, permitted, &self.env.context.defaults);
        if matches!(policy.balance, Balance::ConsistentHash(_)) {
            self.out.hashed.extend(keys.iter().cloned());
        }
        let mut digest = crate::digest::of(&policy);
        loop {
            match self.env.policies.get(&digest) {
                Some(known) if **known == policy => return known.clone(),
                Some(_) => digest = digest.wrapping_add(1),
                None => break,
            }
        }
        let policy = Arc::new(policy);
        self.env.policies.insert(digest, policy.clone());
        policy
    }

    /// An action of this route.
    pub fn action(&self, rule_index: usize, target: Target, policy: Arc<Policy>) -> RuleAction {
        RuleAction {
            route: self.name.clone(),
            rule_index: u16::try_from(rule_index).unwrap_or(u16::MAX),
            stat: self.slot,
            target,
            request_headers: HeaderEdits::default(),
            response_headers: HeaderEdits::default(),
            rewrite: Rewrite::default(),
            policy,
            filters: None,
        }
    }

    /// The route's name for people.
    #[must_use]
    pub fn name(&self) -> Arc<str> {
        self.name.clone()
    }

    /// The first port of a Service, in the first member that has it.
    pub fn first_port(&mut self, service: &ServiceName) -> Option<PortRef> {
        self.out.services.insert(service.clone());
        let members = self.env.context.members.keys();
        let mut found = members.filter_map(|name| {
            let ports = &self.env.world.service(name, service)?.ports;
            ports.iter().find(|port| port.carrier == Carrier::Tcp)
        });
        found.next().map(|port| PortRef::Number(port.port))
    }

    /// What it has become.
    #[must_use]
    pub fn done(mut self) -> RouteOutput {
        if let Standing::Route { serves, .. } = &mut self.out.standing {
            *serves = !self.out.rows.is_empty();
        }
        self.out
    }

    /// Adds a row, within the bound.
    pub fn row(&mut self, row: Row) {
        if self.out.rows.len() < ROWS_PER_ROUTE_MAX {
            self.out.rows.push(row);
        } else if self.out.rows.len() == ROWS_PER_ROUTE_MAX {
            let reason =
                format!("more than {ROWS_PER_ROUTE_MAX} host and path combinations: the rest is not served");
            self.out.notes.refused_part("spec.rules", "", reason);
        }
    }
}
