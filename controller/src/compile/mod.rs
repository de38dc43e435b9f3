//! The world compiled to the route table, incrementally.
//!
//! [`Compiler::compile`] takes what became stale and returns the [`TableDelta`] that brings every worker up to
//! date; the canonical [`RouteTable`] follows along. Endpoints cost what changed; a route costs its own hosts; a
//! change of a class, gateway, cluster, policy or grant looks at everything, and still sends only what differs.
//! That the incremental result equals a fresh compile is held by a property test.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use foldhash::fast::FixedState;
use routing::delta::{RouteTable, TableDelta};
use routing::id::{BackendId, ClusterId, ListenerId};
use routing::model::{BackendLimits, HostKey, Policy, Rule, Timeouts};

pub use crate::compile::addresses::AddressPool;
use crate::compile::backends::{Backends, Use};
use crate::compile::context::Context;
use crate::compile::findings::Findings;
use crate::compile::ids::Ids;
use crate::compile::limits::Limits;
use crate::compile::listen::Listen;
use crate::compile::route::{Env, RouteOutput};
use crate::compile::secrets::Secrets;
use crate::merge::{self, Loopback};
use crate::object::{Kind, ObjectId, Role, Source, Spec};
use crate::text::Regexes;
use crate::verdict::{Notes, Verdict};
use crate::world::{Dirty, ServiceName, Stored, World};

mod addresses;
pub mod annotations;
mod attach;
pub mod backends;
pub mod canary;
mod capacity;
mod cloud;
pub mod context;
mod domain;
pub mod filters;
mod findings;
pub mod gateway_api;
mod gateways;
pub mod grpc_route;
mod handshake;
mod htpasswd;
pub mod ids;
pub mod ingress;
mod layer4;
mod limits;
pub mod listen;
pub mod namespaces;
mod ocsp;
pub mod order;
pub mod policy;
mod release;
mod responses;
pub mod route;
mod secrets;
pub mod transport;

/// What the compiler is told at boot.
#[derive(Clone, Debug)]
pub struct CompilerSettings {
    /// Where Ingress rules are served unless their class says otherwise.
    pub listen: Vec<Listen>,
    /// Statistics slots; what is beyond shares slot 0.
    pub series_max: u32,
    /// May endpoints lie on loopback?
    pub loopback: Loopback,
    /// What holds where no policy says otherwise.
    pub defaults: Defaults,
}

/// Where this node is: gateway.toml's `[node]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// `node.region`; empty = unknown.
    pub region: Arc<str>,
    /// `node.zone`; empty = unknown.
    pub zone: Arc<str>,
}

/// What gateway.toml says that policies build on: `[timeouts]`, `[limits]`, `[pool]`, `[node]`,
/// `[gateway]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// `timeouts.{connect,attempt,request,idle}`
    pub timeouts: Timeouts,
    /// `limits.retry_body_bytes_max`
    pub retry_body_bytes_max: u32,
    /// `pool.{endpoint,backend}_in_flight_max`
    pub limits: BackendLimits,
    /// Where "nearest" is counted from.
    pub place: Place,
    /// `gateway.address_pool`
    pub pool: AddressPool,
}

impl Default for Defaults {
    fn default() -> Self {
        let policy = Policy::default();
        Self {
            timeouts: policy.timeouts,
            retry_body_bytes_max: policy.retry.body_bytes_max,
            limits: BackendLimits::default(),
            place: Place::default(),
            pool: AddressPool::default(),
        }
    }
}

/// The compiler, with everything that it compiled.
#[derive(Debug)]
pub struct Compiler {
    settings: CompilerSettings,
    ids: Ids,
    context: Context,
    table: RouteTable,
    routes: BTreeMap<ObjectId, RouteOutput>,
    hosts: HashMap<HostKey, BTreeSet<ObjectId>>,
    shadowed: HashMap<HostKey, Vec<(ObjectId, String)>>,
    by_service: HashMap<ServiceName, BTreeSet<ObjectId>>,
    /// Ingresses whose rules depend on what a Secret holds.
    by_content: HashMap<ObjectId, BTreeSet<ObjectId>>,
    backends: Backends,
    reviewed: HashMap<ObjectId, Notes>,
    regexes: Regexes,
    policies: HashMap<u64, Arc<Policy>>,
    secrets: Secrets,
    limits: Limits,
    reports: bool,
    findings: Findings,
    keeps: bool,
    revoked: bool,
    before: TableDelta,
    /// Routes that stay as they were on the workers, and why.
    refused: HashMap<ObjectId, Notes>,
}

impl Compiler {
    /// Nothing compiled yet.
    #[must_use]
    pub fn new(settings: CompilerSettings) -> Self {
        Self {
            ids: Ids::new(settings.series_max),
            settings,
            context: Context::default(),
            table: RouteTable::default(),
            routes: BTreeMap::new(),
            hosts: HashMap::new(),
            shadowed: HashMap::new(),
            by_service: HashMap::new(),
            by_content: HashMap::new(),
            backends: Backends::default(),
            reviewed: HashMap::new(),
            regexes: Regexes::default(),
            policies: HashMap::new(),
            secrets: Secrets::default(),
            limits: Limits::default(),
            reports: true,
            findings: Findings::default(),
            keeps: false,
            revoked: false,
            before: TableDelta::default(),
            refused: HashMap::new(),
        }
    }

    /// What holds from now on where no policy says otherwise; in force when everything was compiled again.
    pub fn set_defaults(&mut self, defaults: Defaults) {
        self.settings.defaults = defaults;
    }

    /// Is there something to compile although the world has not changed: did a certificate expire?
    #[must_use]
    pub fn is_due(&self) -> bool {
        self.secrets.is_due()
    }

    /// How often a route, or a backend's part in a cluster, got no statistics of its own since this compiler began.
    #[must_use]
    pub fn series_refused(&self) -> u64 {
        self.ids.stats_refused()
    }

    /// Brings the table up to date with the world, and says what changed.
    pub fn compile(&mut self, world: &mut World) -> TableDelta {
        let mut dirty = world.take_dirty();
        let world = &*world;
        let mut delta = TableDelta::default();
        self.reports |= dirty.reports;
        self.revoked |= dirty.revoked;
        dirty.remarked.iter().for_each(|id| self.findings.stale(id));
        self.secrets.stale |= !dirty.secret_names.is_empty() || dirty.everything || self.secrets.is_due();
        let before =
            if dirty.everything { Some(self.rebuild_context(world, &mut dirty, &mut delta)) } else { None };
        for service in &dirty.services {
            self.backends.mark_transport(service);
            dirty.routes.extend(self.by_service.get(service).into_iter().flatten().cloned());
        }
        for content in &dirty.contents {
            dirty.routes.extend(self.by_content.get(content).into_iter().flatten().cloned());
        }
        let mut hosts = BTreeSet::new();
        // All new outputs refer to their backends before any old one lets go: what passes from one route to another
        // keeps its number, its endpoints and, on the workers, its health.
        let mut replaced = Vec::new();
        for id in &dirty.routes {
            replaced.extend(self.compile_route(world, id, &mut hosts).map(|before| (id, before)));
        }
        for (id, before) in replaced {
            self.let_go(id, &before, &mut hosts);
        }
        for key in hosts {
            self.compile_host(&key, &mut delta);
        }
        if dirty.authorities {
            self.backends.mark_secure();
        }
        dirty.endpoints.iter().for_each(|service| self.backends.mark_service(service));
        if self.uses_node_ports(&dirty.nodes) {
            self.backends.mark_all();
        }
        self.backends.compile(world, &self.context, self.settings.loopback, &mut self.ids, &mut delta);
        let mut remarks = self.backends.take_notes_changed();
        if std::mem::take(&mut self.secrets.stale) {
            let listeners = self.secrets.compile(world, &self.context, &self.routes);
            diff(&self.table.listeners, &listeners, &mut delta.listeners);
            remarks |= self.secrets.take_notes_changed();
        }
        if remarks {
            self.reports = true;
            self.stale_remarks();
        }
        if let Some(before) = before {
            self.release_context(before);
        }
        self.review(world, &dirty);
        if !self.keeps {
            self.ids.settle();
        }
        self.note_before(&delta);
        self.table.apply(&delta);
        delta
    }

    /// Returns the context that was replaced: its numbers are given back when the new ones are in use.
    fn rebuild_context(&mut self, world: &World, dirty: &mut Dirty, delta: &mut TableDelta) -> Context {
        self.reports = true;
        let context = Context::build(world, &self.settings, &mut self.ids);
        diff(&self.context.clusters, &context.clusters, &mut delta.clusters);
        self.policies.retain(|_, policy| Arc::strong_count(policy) > 1);
        self.backends.mark_policies();
        dirty.routes.extend(self.routes.keys().cloned());
        for kind in Kind::of_role(Role::Route) {
            dirty.routes.extend(world.fleet(kind).map(|object| object.id.clone()));
        }
        let held = world.objects().map(|(id, _)| id).filter(|id| id.source != Source::Fleet);
        dirty.reviewed.extend(held.cloned());
        self.stale_common(world);
        std::mem::replace(&mut self.context, context)
    }

    fn release_context(&mut self, before: Context) {
        for name in before.members.keys() {
            self.ids.clusters.release(name);
        }
        for (key, carrier) in &before.listener_keys {
            self.ids.listeners.release(key);
            self.ids.binds.release(&(key.1, *carrier));
        }
    }

    /// Returns the output that was replaced; it still holds its references.
    fn compile_route(
        &mut self,
        world: &World,
        id: &ObjectId,
        hosts: &mut BTreeSet<HostKey>,
    ) -> Option<RouteOutput> {
        let output = world.get(id).and_then(|object| {
            let mut env = Env {
                world,
                context: &self.context,
                ids: &mut self.ids,
                regexes: &mut self.regexes,
                policies: &mut self.policies,
                limits: &mut self.limits,
            };
            match &object.spec {
                Spec::Ingress(spec) => Some(ingress::compile(&mut env, object, spec)),
                Spec::HttpRoute(spec) => Some(gateway_api::compile(&mut env, object, spec)),
                Spec::GrpcRoute(spec) => Some(grpc_route::compile(&mut env, object, spec)),
                Spec::TcpRoute(spec) => Some(layer4::tcp(&mut env, object, spec)),
                Spec::TlsRoute(spec) => Some(layer4::tls(&mut env, object, spec)),
                Spec::UdpRoute(spec) => Some(layer4::udp(&mut env, object, spec)),
                Spec::IngressClass(_)
                | Spec::Gateway(_)
                | Spec::GatewayClass(_)
                | Spec::ReferenceGrant(_)
                | Spec::BackendTlsPolicy(_)
                | Spec::ConfigMap(_)
                | Spec::ClusterProfile(_)
                | Spec::MemberCluster(_)
                | Spec::GatewayConfig(_)
                | Spec::AlbConfig(_)
                | Spec::MseIngressConfig(_)
                | Spec::FailoverPolicy(_)
                | Spec::Secret(_)
                | Spec::Service(_)
                | Spec::EndpointSlice(_)
                | Spec::Node(_)
                | Spec::Namespace(_)
                | Spec::Other => None,
            }
        });
        self.findings.route(id, self.routes.get(id), output.as_ref());
        let Some(output) = output else {
            let before = self.routes.remove(id);
            self.secrets.stale |= before.as_ref().is_some_and(|before| !before.tls.is_empty());
            return before;
        };
        self.secrets.stale |= match self.routes.get(id) {
            Some(before) => {
                (&before.tls, &before.secure, &before.terms) != (&output.tls, &output.secure, &output.terms)
            }
            None => !output.tls.is_empty() || !output.secure.is_empty() || output.terms.is_some(),
        };
        self.reports |= self.routes.get(id).is_none_or(|before| before.notes != output.notes);
        for key in &output.backends {
            if let Some(backend) = self.ids.backends.get(key) {
                if self.backends.refer(key, BackendId(backend), (used(&output, key), output.speech)) {
                    // Its number is its own for as long as it is known, with or without a route.
                    self.ids.backends.acquire(key);
                }
                self.backends.say(key, id, output.detections.get(key));
                let apart = output.apart.get(key).map(Option::as_ref);
                self.backends.say_transport(key, id, apart.unwrap_or(output.transport.as_ref()));
            }
        }
        for row in &output.rows {
            self.hosts.entry(row.key.clone()).or_default().insert(id.clone());
            hosts.insert(row.key.clone());
        }
        for service in &output.services {
            self.by_service.entry(service.clone()).or_default().insert(id.clone());
        }
        for content in &output.contents {
            self.by_content.entry(content.clone()).or_default().insert(id.clone());
        }
        self.routes.insert(id.clone(), output)
    }

    fn let_go(&mut self, id: &ObjectId, before: &RouteOutput, hosts: &mut BTreeSet<HostKey>) {
        for key in &before.backends {
            if self.routes.get(id).is_none_or(|now| !now.backends.contains(key)) {
                self.backends.say(key, id, None);
                self.backends.say_transport(key, id, None);
            }
            self.backends.drop_reference(key, (used(before, key), before.speech));
            self.ids.backends.release(key);
        }
        if let Some(stat) = &before.stat {
            self.ids.release_stat(stat);
        }
        let now: BTreeSet<&HostKey> = self
            .routes
            .get(id)
            .into_iter()
            .flat_map(|output| output.rows.iter().map(|row| &row.key))
            .collect();
        for row in &before.rows {
            hosts.insert(row.key.clone());
            if let (false, Some(routes)) = (now.contains(&row.key), self.hosts.get_mut(&row.key)) {
                routes.remove(id);
            }
        }
        let kept = self.routes.get(id).map(|output| &output.contents);
        let lost = before.contents.iter().filter(|content| kept.is_none_or(|kept| !kept.contains(*content)));
        for content in lost {
            if let Some(routes) = self.by_content.get_mut(content) {
                routes.remove(id);
                if routes.is_empty() {
                    self.by_content.remove(content);
                }
            }
        }
        let kept = self.routes.get(id).map(|output| &output.services);
        let lost = before.services.iter().filter(|service| kept.is_none_or(|kept| !kept.contains(*service)));
        for service in lost {
            if let Some(routes) = self.by_service.get_mut(service) {
                routes.remove(id);
                if routes.is_empty() {
                    self.by_service.remove(service);
                }
            }
        }
    }

    fn compile_host(&mut self, key: &HostKey, delta: &mut TableDelta) {
        let ids = self.hosts.get(key).cloned().unwrap_or_default();
        let mut rows: Vec<order::Placed<'_>> = ids
            .iter()
            .filter_map(|id| self.routes.get(id))
            .flat_map(|route| route.rows.iter().filter(|row| row.key == *key).map(move |row| (route, row)))
            .collect();
        order::sort(&mut rows);
        let mut told = canary::Told::new();
        let responses = responses::Responses::taken_from(&mut rows);
        let domain = domain::Domain::of(&rows);
        let rows = canary::compose(&rows, &mut told);
        let strangers = domain.iter().flat_map(domain::Domain::strangers);
        told.extend(strangers.map(|route| (route.clone(), domain::ANOTHERS)));
        let mut shadowed: Vec<(Arc<str>, Arc<str>)> = Vec::new();
        let mut rules: Vec<Rule> = Vec::with_capacity(rows.len());
        // Of two rows with the same match only the first can ever serve.
        let mut seen: HashMap<u64, usize, FixedState> = HashMap::default();
        seen.reserve(rows.len());
        for row in rows {
            let first =
                seen.get(&row.digest).map(|at| &rules[*at]).filter(|first| first.matches == row.matches);
            if let Some(first) = first {
                if first.action.route != row.action.route {
                    shadowed.push((row.action.route.clone(), first.action.route.clone()));
                }
                continue;
            }
            seen.insert(row.digest, rules.len());
            let action = match &domain {
                Some(domain) => domain.guard(row.row, &row.action),
                None => row.action,
            };
            let action = responses.changed(action);
            rules.push(Rule { matches: row.matches, action });
        }
        let mut named: Vec<(ObjectId, String)> = shadowed
            .iter()
            .filter_map(|(loser, winner)| {
                let id = ids.iter().find(|id| id.to_string() == **loser)?;
                Some((id.clone(), format!("{winner} has the same match on this host and comes first")))
            })
            .collect();
        named.extend(canary::told_of(told, &ids));
        let before = self.shadowed.get(key).map_or(&[][..], Vec::as_slice);
        if before != named {
            self.reports = true;
            before.iter().chain(&named).for_each(|(id, _)| self.findings.stale(id));
        }
        if named.is_empty() {
            self.shadowed.remove(key);
        } else {
            self.shadowed.insert(key.clone(), named);
        }
        if rules.is_empty() {
            // Canaries that wait for their Ingress are remembered.
            if ids.is_empty() {
                self.hosts.remove(key);
            }
            if self.table.hosts.contains_key(key) {
                delta.hosts.push((key.clone(), None));
            }
            return;
        }
        let rules = order::host_rules(rules);
        if self.table.hosts.get(key).is_none_or(|before| **before != rules) {
            delta.hosts.push((key.clone(), Some(Arc::new(rules))));
        }
    }

    fn uses_node_ports(&self, changed: &BTreeSet<Arc<str>>) -> bool {
        changed.iter().filter_map(|name| self.context.members.get(name)).any(|member| match member.mode {
            crate::crd::EndpointMode::NodePort => true,
            crate::crd::EndpointMode::Pod | crate::crd::EndpointMode::LoadBalancer => false,
        })
    }

    fn review(&mut self, world: &World, dirty: &Dirty) {
        for id in &dirty.reviewed {
            let Source::Member(cluster) = &id.source else { continue };
            let notes = match (world.get(id), self.context.members.get(cluster)) {
                (Some(object), Some(member)) => merge::review(&object.spec, member, self.settings.loopback),
                (Some(_) | None, _) => Notes::default(),
            };
            let before = if notes.is_empty() {
                self.reviewed.remove(id).unwrap_or_default()
            } else {
                self.reviewed.insert(id.clone(), notes.clone()).unwrap_or_default()
            };
            self.reports |= before != notes;
        }
    }

    /// The canonical table.
    #[must_use]
    pub fn table(&self) -> &RouteTable {
        &self.table
    }

    /// Backends in use.
    #[must_use]
    pub fn backend_count(&self) -> usize {
        self.backends.count()
    }

    /// Routes that were compiled.
    #[must_use]
    pub fn route_count(&self) -> usize {
        self.routes.len()
    }

    /// Endpoints of each member.
    #[must_use]
    pub fn endpoint_counts(&self) -> BTreeMap<Arc<str>, usize> {
        let count = |id: &ClusterId| self.backends.counts.get(id).copied().unwrap_or(0);
        self.context.members.values().map(|member| (member.name.clone(), count(&member.id))).collect()
    }

    /// Has anything changed that [`Compiler::verdicts`] shows, since it was last asked?
    pub fn take_reports_changed(&mut self) -> bool {
        std::mem::take(&mut self.reports)
    }

    /// What became of every object, by file and name. Costs all objects: not for every change.
    #[must_use]
    pub fn verdicts(&self, world: &World) -> Vec<Verdict> {
        let mut shadowed: HashMap<&ObjectId, Notes> = HashMap::new();
        for (key, losers) in &self.shadowed {
            for (id, reason) in losers {
                shadowed.entry(id).or_default().ignored("", host_text(key, &self.table), reason.clone());
            }
        }
        let mut judged: HashMap<&ObjectId, Notes> = HashMap::new();
        for (id, note) in self.backends.notes() {
            judged.entry(id).or_default().push(note.clone());
        }
        let mut verdicts = Vec::new();
        for (origin, problems) in world.problems() {
            for problem in problems {
                verdicts.push(Verdict::new(
                    problem.object.clone(),
                    origin.clone(),
                    vec![problem.note.clone()],
                ));
            }
        }
        for (id, stored) in world.objects() {
            let notes = self.remarks(id, stored, shadowed.get(id), judged.get(id));
            verdicts.push(Verdict::new(Some(id.clone()), stored.origin.clone(), notes.to_vec()));
        }
        verdicts.sort_by(|a, b| (&a.origin, &a.object).cmp(&(&b.origin, &b.object)));
        verdicts
    }

    /// Every remark on one object.
    fn remarks(
        &self,
        id: &ObjectId,
        stored: &Stored,
        shadowed: Option<&Notes>,
        judged: Option<&Notes>,
    ) -> Notes {
        let mut notes = stored.notes.clone();
        let more = [
            self.context.notes.get(id),
            self.routes.get(id).map(|route| &route.notes),
            self.reviewed.get(id),
            self.refused.get(id),
            shadowed,
            judged,
            self.secrets.notes().get(id),
        ];
        more.into_iter().flatten().for_each(|more| notes.extend(more));
        notes
    }
}

fn host_text(key: &HostKey, table: &RouteTable) -> String {
    let listener: Option<&ListenerId> = Some(&key.listener);
    let name = listener.and_then(|id| table.listeners.get(id)).map_or("?", |listener| &listener.name);
    format!("{} on {name}", crate::dump::host(&key.pattern))
}

fn used(output: &RouteOutput, key: &crate::merge::BackendKey) -> Use {
    if output.hashed.contains(key) { Use::Hashed } else { Use::Plain }
}

fn diff<K: Ord + Copy, V: PartialEq>(
    before: &BTreeMap<K, Arc<V>>,
    after: &BTreeMap<K, Arc<V>>,
    out: &mut Vec<(K, Option<Arc<V>>)>,
) {
    out.extend(before.keys().filter(|key| !after.contains_key(key)).map(|key| (*key, None)));
    let changed = after.iter().filter(|(key, value)| before.get(key) != Some(value));
    out.extend(changed.map(|(key, value)| (*key, Some(value.clone()))));
}
