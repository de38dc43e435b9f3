//! What became of objects, as [`Finding`]s for the hub: only of those where something may have changed.
//!
//! A route costs itself; a change of what all routes have in common looks at every object that is not a route, and at
//! the routes whose outcome differs. How many routes a listener has is counted along, never anew.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use crate::compile::context::{GATEWAY_CONTROLLER, GatewayListener};
use crate::compile::route::RouteOutput;
use crate::compile::{Compiler, gateways, layer4};
use crate::finding::{AncestorStanding, Finding, ListenerStanding, ParentStanding, Standing};
use crate::object::{Kind, Object, ObjectId, Role, Source, Spec};
use crate::unbound::{Unbound, Why};
use crate::verdict::{Code, Notes};
use crate::watch::Problem;
use crate::world::{ServiceName, World};

/// Namespace and name.
type GatewayName = (Arc<str>, Arc<str>);
/// Gateway namespace, Gateway name, listener.
type Section = (Arc<str>, Arc<str>, Arc<str>);

/// What was found, and of what it may not be true any more.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// Somebody wants to know; otherwise nothing is kept.
    pub(super) wanted: bool,
    stale: BTreeSet<ObjectId>,
    told: HashMap<ObjectId, Arc<Finding>>,
    attached: HashMap<Section, u32>,
    /// Objects that a backend's or a Secret's remarks were on.
    remarked: BTreeSet<ObjectId>,
    /// What this node cannot listen on.
    unbound: Unbound,
    /// By which Gateways a Service is reached, and by how many routes of each.
    reached: HashMap<ServiceName, BTreeMap<GatewayName, u32>>,
    /// Services of which that has changed.
    moved: BTreeSet<ServiceName>,
}

impl Findings {
    pub(super) fn stale(&mut self, id: &ObjectId) {
        if self.wanted && id.source == Source::Fleet {
            self.stale.insert(id.clone());
        }
    }

    /// A route is compiled anew, or gone.
    pub(super) fn route<'a>(
        &mut self,
        id: &ObjectId,
        before: Option<&'a RouteOutput>,
        now: Option<&'a RouteOutput>,
    ) {
        if !self.wanted {
            return;
        }
        self.reach(before, now);
        let outcome =
            |output: &'a RouteOutput| (&output.uid, output.generation, &output.standing, &output.notes);
        if before.map(outcome) == now.map(outcome) {
            return;
        }
        self.stale.insert(id.clone());
        let sections = |output: Option<&RouteOutput>| -> BTreeSet<Section> {
            let parents: &[ParentStanding] = match output.map(|output| &output.standing) {
                Some(Standing::Route { parents, .. }) => parents,
                // Of routes only an Ingress has another, and it has no parents.
                Some(_) | None => &[],
            };
            let of = |parent: &ParentStanding| {
                let (namespace, name) = parent.gateway.clone();
                let sections = parent.sections.clone();
                sections.into_iter().map(move |section| (namespace.clone(), name.clone(), section))
            };
            parents.iter().flat_map(of).collect()
        };
        let (before, now) = (sections(before), sections(now));
        for section in before.difference(&now) {
            if let Some(count) = self.attached.get_mut(section) {
                *count -= 1;
                if *count == 0 {
                    self.attached.remove(section);
                }
            }
            self.stale.insert(gateway(section));
        }
        for section in now.difference(&before) {
            *self.attached.entry(section.clone()).or_default() += 1;
            self.stale.insert(gateway(section));
        }
    }

    /// Counts by which Gateways the Services of a route are reached.
    fn reach(&mut self, before: Option<&RouteOutput>, now: Option<&RouteOutput>) {
        let gateways = |output: &RouteOutput| -> BTreeSet<GatewayName> {
            let Standing::Route { parents, .. } = &output.standing else { return BTreeSet::new() };
            let attached = parents.iter().filter(|parent| !parent.sections.is_empty());
            attached.map(|parent| parent.gateway.clone()).collect()
        };
        let pairs = |output: Option<&RouteOutput>| -> BTreeSet<(ServiceName, GatewayName)> {
            let Some(output) = output else { return BTreeSet::new() };
            let gateways = gateways(output);
            let services = output.services.iter();
            let each = |service: &ServiceName| {
                let service = service.clone();
                gateways.iter().map(move |gateway| (service.clone(), gateway.clone())).collect::<Vec<_>>()
            };
            services.flat_map(each).collect()
        };
        let (before, now) = (pairs(before), pairs(now));
        for (service, gateway) in before.difference(&now) {
            let Some(counts) = self.reached.get_mut(service) else { continue };
            let count = counts.entry(gateway.clone()).or_default();
            *count = count.saturating_sub(1);
            counts.retain(|_, count| *count > 0);
            if counts.is_empty() {
                self.reached.remove(service);
            }
            self.moved.insert(service.clone());
        }
        for (service, gateway) in now.difference(&before) {
            *self.reached.entry(service.clone()).or_default().entry(gateway.clone()).or_default() += 1;
            self.moved.insert(service.clone());
        }
    }

    fn attached(&self, id: &ObjectId, listener: &Arc<str>) -> u32 {
        let section = (id.namespace.clone(), id.name.clone(), listener.clone());
        self.attached.get(&section).copied().unwrap_or(0)
    }
}

fn gateway((namespace, name, _): &Section) -> ObjectId {
    let (namespace, name) = (namespace.clone(), name.clone());
    ObjectId { source: Source::Fleet, kind: Kind::Gateway, namespace, name }
}

impl Compiler {
    /// Why one of the addresses of a listener cannot be listened on.
    fn unbound(&self, listener: &GatewayListener) -> Option<Why> {
        let specs = listener.ids.iter().filter_map(|id| self.context.listeners.get(id));
        specs.into_iter().find_map(|spec| self.findings.unbound.why(spec.addr, spec.protocol.carrier()))
    }

    /// What cannot be listened on has changed.
    pub fn set_unbound(&mut self, unbound: &Unbound) {
        if self.findings.unbound == *unbound {
            return;
        }
        self.findings.unbound = unbound.clone();
        for (namespace, name) in self.context.gateways.keys() {
            let (kind, namespace, name) = (Kind::Gateway, namespace.clone(), name.clone());
            self.findings.stale(&ObjectId { source: Source::Fleet, kind, namespace, name });
        }
    }

    /// The addresses of the pool that Gateways have, and how many Gateways have none.
    #[must_use]
    pub fn pool_addresses(&self) -> (BTreeSet<IpAddr>, usize) {
        if self.context.defaults.pool.is_empty() {
            return (BTreeSet::new(), 0);
        }
        let given = || self.context.gateways.values().filter_map(|info| info.addresses.as_ref());
        (given().flatten().copied().collect(), given().filter(|addresses| addresses.is_empty()).count())
    }

    /// From now on [`Compiler::take_findings`] says something.
    pub fn want_findings(&mut self) {
        self.findings.wanted = true;
    }

    /// What there is to say of objects of the hub that was not said before, or is not true any more (`None`).
    pub fn take_findings(&mut self, world: &World) -> Vec<(ObjectId, Option<Arc<Finding>>)> {
        for service in std::mem::take(&mut self.findings.moved) {
            let policies = self.context.tls_targets.get(&service).into_iter().flatten();
            policies.for_each(|(policy, _)| self.findings.stale(policy));
        }
        let stale = std::mem::take(&mut self.findings.stale);
        if stale.is_empty() {
            return Vec::new();
        }
        let mut judged: HashMap<&ObjectId, Notes> = HashMap::new();
        for (id, note) in self.backends.notes().filter(|(id, _)| stale.contains(id)) {
            judged.entry(id).or_default().push(note.clone());
        }
        let found: Vec<_> = stale.iter().map(|id| (id, self.finding(world, id, judged.get(id)))).collect();
        let mut changed = Vec::new();
        for (id, now) in found {
            let before = self.findings.told.get(id).map(|before| &**before);
            // Nothing that takes the place of nothing is not worth a request.
            let says = |finding: &Finding| match finding.standing {
                Standing::Nothing => false,
                Standing::Remarks => !finding.notes.is_empty(),
                Standing::Route { .. }
                | Standing::Gateway { .. }
                | Standing::Class
                | Standing::Ingress(_)
                | Standing::Policy
                | Standing::Backing(_)
                | Standing::Alb(_)
                | Standing::Mse => true,
            };
            let now = now.filter(|now| says(now) || before.is_some_and(says));
            if before == now.as_ref() {
                continue;
            }
            let now = now.map(Arc::new);
            match &now {
                Some(now) => drop(self.findings.told.insert(id.clone(), now.clone())),
                None => drop(self.findings.told.remove(id)),
            }
            changed.push((id.clone(), now));
        }
        changed
    }

    /// Everything that routes have in common was read anew.
    pub(super) fn stale_common(&mut self, world: &World) {
        if !self.findings.wanted {
            return;
        }
        for kind in Kind::of_role(Role::Common) {
            for object in world.fleet(kind) {
                self.findings.stale.insert(object.id.clone());
            }
        }
        let is_common = |id: &&ObjectId| id.kind.role() == Role::Common;
        self.findings.stale.extend(self.findings.told.keys().filter(is_common).cloned());
    }

    /// Remarks of backends or Secrets have changed.
    pub(super) fn stale_remarks(&mut self) {
        if !self.findings.wanted {
            return;
        }
        let now = self.backends.notes().map(|(id, _)| id).chain(self.secrets.notes().keys());
        let now: BTreeSet<ObjectId> = now.filter(|id| id.source == Source::Fleet).cloned().collect();
        let before = std::mem::replace(&mut self.findings.remarked, now.clone());
        self.findings.stale.extend(before.into_iter().chain(now));
    }

    fn finding(&self, world: &World, id: &ObjectId, judged: Option<&Notes>) -> Option<Finding> {
        if let Some(problem) = world.problem(id) {
            return Some(self.of_problem(id, problem));
        }
        let stored = world.stored(id)?;
        let mut shadowed = Notes::default();
        for key in self.routes.get(id).into_iter().flat_map(RouteOutput::hosts) {
            let losers = self.shadowed.get(key).into_iter().flatten();
            for (_, reason) in losers.filter(|(loser, _)| loser == id) {
                shadowed.ignored("", super::host_text(key, &self.table), reason.clone());
            }
        }
        let notes = self.remarks(id, stored, Some(&shadowed), judged).to_vec();
        let is_foreign = notes.iter().any(|note| note.code == Some(Code::Foreign));
        let standing = if is_foreign { Standing::Nothing } else { self.standing(&stored.object) };
        let Object { generation, uid, .. } = &*stored.object;
        Some(Finding { generation: *generation, uid: uid.clone(), notes, standing })
    }

    /// Of an object that cannot be read something is said where it is known to be meant for us.
    fn of_problem(&self, id: &ObjectId, problem: &Problem) -> Finding {
        let standing = match id.kind.role() {
            Role::Route if id.kind != Kind::Ingress => self.standing_of_unread(id, problem),
            Role::Common if id.kind == Kind::FailoverPolicy => Standing::Policy,
            Role::Route | Role::Common => Standing::Remarks,
            Role::Secret | Role::Bundle | Role::Service | Role::Slice | Role::Node | Role::Unused => {
                Standing::Nothing
            }
        };
        let (generation, uid) = (problem.remains.generation, problem.remains.uid.clone());
        Finding { generation, uid, notes: vec![problem.note.clone()], standing }
    }

    /// A route that cannot be read is told so at each parent of ours.
    fn standing_of_unread(&self, id: &ObjectId, problem: &Problem) -> Standing {
        let parents = problem.remains.parents.iter().filter_map(|reference| {
            let namespace = reference.namespace.as_deref().map_or_else(|| id.namespace.clone(), Arc::from);
            let gateway = (namespace, Arc::from(reference.name.as_str()));
            self.context.gateways.contains_key(&gateway).then(|| ParentStanding {
                reference: reference.clone(),
                gateway,
                sections: Vec::new(),
                refusal: Some((Code::UnsupportedValue, "the route cannot be read")),
            })
        });
        let parents: Vec<ParentStanding> = parents.collect();
        match parents.is_empty() {
            true => Standing::Nothing,
            false => Standing::Route { parents, serves: false },
        }
    }

    fn standing(&self, object: &Object) -> Standing {
        let id = &object.id;
        match &object.spec {
            Spec::Ingress(_)
            | Spec::HttpRoute(_)
            | Spec::GrpcRoute(_)
            | Spec::TcpRoute(_)
            | Spec::TlsRoute(_)
            | Spec::UdpRoute(_) => {
                self.routes.get(id).map(|route| route.standing.clone()).unwrap_or_default()
            }
            Spec::Gateway(gateway) => {
                let key = (id.namespace.clone(), id.name.clone());
                let Some(info) = self.context.gateways.get(&key) else { return Standing::Nothing };
                let listener = |listener: &GatewayListener| {
                    let spec = gateway.spec.listeners.get(listener.index);
                    ListenerStanding {
                        name: listener.section.clone(),
                        index: listener.index,
                        kinds: spec.map(|spec| gateways::kinds(spec, listener.protocol)).unwrap_or_default(),
                        attached: self.findings.attached(id, &listener.section),
                        serves: !listener.ids.is_empty(),
                        unbound: self.unbound(listener),
                    }
                };
                let addresses = info.addresses.clone();
                Standing::Gateway { listeners: info.listeners.iter().map(listener).collect(), addresses }
            }
            Spec::GatewayClass(class) if class.spec.controller_name == GATEWAY_CONTROLLER => Standing::Class,
            Spec::GatewayClass(_) => Standing::Nothing,
            Spec::FailoverPolicy(_) => Standing::Policy,
            Spec::BackendTlsPolicy(policy) => {
                let names = policy.spec.target_refs.iter().map(|target| Arc::from(target.name.as_str()));
                self.backing(id, names.collect())
            }
            // Only what a class of ours names is read, and remarked on.
            Spec::AlbConfig(_) if self.context.notes.contains_key(id) => {
                let served = self.context.alb_listeners.get(&id.name).into_iter().flatten();
                let text = |listen: &crate::compile::listen::Listen| {
                    let protocol = layer4::protocol_name(listen.protocol);
                    format!("{}/{protocol}", listen.addr.port())
                };
                Standing::Alb(served.map(text).collect())
            }
            Spec::MseIngressConfig(_) if self.context.notes.contains_key(id) => Standing::Mse,
            Spec::IngressClass(_)
            | Spec::ReferenceGrant(_)
            | Spec::GatewayConfig(_)
            | Spec::ClusterProfile(_)
            // Its status is the watches' to write, and they look its remarks up here.
            | Spec::MemberCluster(_) => Standing::Remarks,
            Spec::AlbConfig(_)
            | Spec::MseIngressConfig(_)
            | Spec::ConfigMap(_)
            | Spec::Namespace(_)
            | Spec::Secret(_)
            | Spec::Service(_)
            | Spec::EndpointSlice(_)
            | Spec::Node(_)
            | Spec::Other => Standing::Nothing,
        }
    }

    /// The Gateways by which the Services of these names, in the policy's namespace, are reached.
    fn backing(&self, id: &ObjectId, names: BTreeSet<Arc<str>>) -> Standing {
        let mut found: BTreeMap<GatewayName, bool> = BTreeMap::new();
        for name in names {
            let service = ServiceName { namespace: id.namespace.clone(), name };
            let targets = self.context.tls_targets.get(&service).into_iter().flatten();
            let mut own = targets.filter(|(policy, _)| policy == id).map(|(_, holds)| *holds).peekable();
            if own.peek().is_none() {
                continue;
            }
            let holds = own.any(|holds| holds);
            for gateway in self.findings.reached.get(&service).into_iter().flat_map(BTreeMap::keys) {
                *found.entry(gateway.clone()).or_default() |= holds;
            }
        }
        let ancestor =
            |(gateway, holds): (GatewayName, bool)| AncestorStanding { gateway, conflicted: !holds };
        Standing::Backing(found.into_iter().map(ancestor).collect())
    }

    /// The addresses of these listeners, where all of them are particular ones.
    pub(super) fn particular(addresses: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
        let mut addresses: Vec<IpAddr> = addresses.collect();
        if addresses.iter().any(IpAddr::is_unspecified) {
            return Vec::new();
        }
        addresses.sort_unstable();
        addresses.dedup();
        addresses
    }
}
