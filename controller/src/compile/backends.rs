//! Backends and their endpoints, one backend at a time: a change costs what changed, whatever else there is.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use routing::delta::TableDelta;
use routing::id::{BackendId, ClusterId, EndpointId};
use routing::model::{BackendSpec, Detection, EndpointSpec, Security, Speech, StatSlot, Transport};

use crate::compile::context::Context;
use crate::compile::ids::{Ids, StatKey};
use crate::compile::order;
use crate::compile::policy::detection::{self, DetectionPart, Said, User};
use crate::compile::transport::{self, TransportPart, Transports};
use crate::merge::{self, BackendKey, Found, Loopback, PortRef};
use crate::object::ObjectId;
use crate::verdict::Note;
use crate::world::{ServiceName, World};

/// A backend that some route refers to.
#[derive(Debug)]
struct Backend {
    id: BackendId,
    routes: usize,
    hashed: usize,
    /// Routes that speak HTTP to it: while there is one, a probe may.
    http: usize,
    endpoints: BTreeMap<(ClusterId, SocketAddr), Placed>,
    stats: BTreeMap<ClusterId, (Arc<str>, StatSlot)>,
    rings: BTreeSet<ClusterId>,
    said: Said,
    /// What came of `said` and of the Service's policy; `None` when that is to be looked at again.
    detection: Option<Detection>,
    spoken: transport::Said,
    /// What came of `spoken`, of the Service's policy and of the port; `None` when that is to be looked at again.
    transport: Option<Transport>,
    /// What the workers know.
    announced: Option<Arc<BackendSpec>>,
}

#[derive(Debug)]
struct Placed {
    id: EndpointId,
    found: Found,
    spec: EndpointSpec,
}

/// All backends that routes refer to.
#[derive(Debug, Default)]
pub struct Backends {
    known: HashMap<BackendKey, Backend>,
    by_service: HashMap<ServiceName, BTreeSet<BackendKey>>,
    stale: BTreeSet<BackendKey>,
    /// Remarks on policies, by the backend that they are about.
    notes: BTreeMap<BackendKey, Vec<(ObjectId, Note)>>,
    /// The same on how they are spoken to.
    remarks: BTreeMap<BackendKey, transport::Remarks>,
    notes_changed: bool,
    keeps: bool,
    /// Those without a route.
    unused: BTreeSet<BackendKey>,
    transports: Transports,
    /// Endpoints of each cluster.
    pub counts: BTreeMap<ClusterId, usize>,
}

/// Which reference of a route to a backend comes or goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// It balances by a consistent hash, so rings are needed.
    Hashed,
    /// Any other.
    Plain,
}

impl Backends {
    /// A route refers to the backend from now on. Is it new?
    pub fn refer(&mut self, key: &BackendKey, id: BackendId, (how, speech): (Use, Speech)) -> bool {
        let is_new = !self.known.contains_key(key);
        let backend = self.known.entry(key.clone()).or_insert_with(|| Backend {
            id,
            routes: 0,
            hashed: 0,
            http: 0,
            endpoints: BTreeMap::new(),
            stats: BTreeMap::new(),
            rings: BTreeSet::new(),
            said: Said::new(),
            detection: None,
            spoken: transport::Said::new(),
            transport: None,
            announced: None,
        });
        backend.routes += 1;
        let needs_rings = how == Use::Hashed && backend.hashed == 0;
        let speaks = speech == Speech::Http && backend.http == 0;
        if backend.routes == 1 || needs_rings || speaks {
            self.stale.insert(key.clone());
            self.by_service.entry(key.service.clone()).or_default().insert(key.clone());
        }
        backend.hashed += usize::from(how == Use::Hashed);
        backend.http += usize::from(speech == Speech::Http);
        self.unused.remove(key);
        is_new
    }

    /// From now on backends that lose their last route stay until [`Backends::release`].
    pub fn keep_unused(&mut self) {
        self.keeps = true;
    }

    /// Are there backends that no route refers to?
    pub fn has_unused(&self) -> bool {
        !self.unused.is_empty()
    }

    /// Lets go of those that are not `pinned`.
    pub fn release(&mut self, pinned: &BTreeSet<BackendId>, ids: &mut Ids, delta: &mut TableDelta) {
        for key in std::mem::take(&mut self.unused) {
            match self.known.remove(&key) {
                Some(backend) if pinned.contains(&backend.id) => {
                    self.known.insert(key.clone(), backend);
                    self.unused.insert(key);
                }
                Some(backend) => self.forget(&key, backend, ids, delta),
                None => {}
            }
        }
    }

    /// A route no longer refers to the backend.
    pub fn drop_reference(&mut self, key: &BackendKey, (how, speech): (Use, Speech)) {
        let Some(backend) = self.known.get_mut(key) else { return };
        backend.routes = backend.routes.saturating_sub(1);
        backend.hashed = backend.hashed.saturating_sub(usize::from(how == Use::Hashed));
        backend.http = backend.http.saturating_sub(usize::from(speech == Speech::Http));
        self.stale.insert(key.clone());
    }

    /// What a route's policies say of the backend's detection; `None` = nothing, or no longer.
    pub fn say(&mut self, key: &BackendKey, route: &ObjectId, part: Option<&Arc<DetectionPart>>) {
        let Some(backend) = self.known.get_mut(key) else { return };
        let user = User::new(route);
        let before = match part {
            Some(part) => backend.said.insert(user, part.clone()),
            None => backend.said.remove(&user),
        };
        if before.as_ref() != part {
            backend.detection = None;
            self.stale.insert(key.clone());
        }
    }

    /// What a route's annotations say of how the backend is spoken to; `None` = nothing, or no longer.
    pub fn say_transport(&mut self, key: &BackendKey, route: &ObjectId, part: Option<&Arc<TransportPart>>) {
        let Some(backend) = self.known.get_mut(key) else { return };
        let before = match part {
            Some(part) => backend.spoken.insert(route.clone(), part.clone()),
            None => backend.spoken.remove(route),
        };
        if before.as_ref() != part {
            backend.transport = None;
            self.stale.insert(key.clone());
        }
    }

    /// The ports of this Service may have changed.
    pub fn mark_transport(&mut self, service: &ServiceName) {
        for key in self.by_service.get(service).into_iter().flatten() {
            if let Some(backend) = self.known.get_mut(key) {
                backend.transport = None;
            }
            self.stale.insert(key.clone());
        }
    }

    /// What backends over TLS are connected to with may have changed.
    pub fn mark_secure(&mut self) {
        for (key, backend) in &mut self.known {
            let is_clear = backend.transport.as_ref().is_some_and(|now| now.security == Security::Clear);
            if !is_clear {
                backend.transport = None;
                self.stale.insert(key.clone());
            }
        }
    }

    /// The endpoints of these Services may have changed.
    pub fn mark_service(&mut self, service: &ServiceName) {
        if let Some(keys) = self.by_service.get(service) {
            self.stale.extend(keys.iter().cloned());
        }
    }

    /// The endpoints of every backend may have changed.
    pub fn mark_all(&mut self) {
        self.stale.extend(self.known.keys().cloned());
    }

    /// Everything about every backend may have changed: policies, too.
    pub fn mark_policies(&mut self) {
        self.known.values_mut().for_each(|backend| (backend.detection, backend.transport) = (None, None));
        self.mark_all();
    }

    /// Remarks on policies.
    pub fn notes(&self) -> impl Iterator<Item = &(ObjectId, Note)> {
        self.notes.values().flatten().chain(self.remarks.values().flatten())
    }

    /// Have the remarks changed since this was last asked?
    pub fn take_notes_changed(&mut self) -> bool {
        std::mem::take(&mut self.notes_changed)
    }

    /// Brings everything stale up to date, and says what changes.
    pub fn compile(
        &mut self,
        world: &World,
        context: &Context,
        loopback: Loopback,
        ids: &mut Ids,
        delta: &mut TableDelta,
    ) {
        for key in std::mem::take(&mut self.stale) {
            let Some(mut backend) = self.known.remove(&key) else { continue };
            if backend.routes == 0 && !self.keeps {
                self.forget(&key, backend, ids, delta);
                continue;
            }
            let changed = self.endpoints(&key, &mut backend, (world, context, loopback), ids, delta);
            if backend.routes == 0 {
                // Some worker's rules may lead to it: where it is stays true, how it is spoken to is not asked again.
                rings(&mut backend, context, &changed, delta);
                self.unused.insert(key.clone());
                self.known.insert(key, backend);
                continue;
            }
            self.detect(&key, &mut backend, context);
            self.speak(&key, &mut backend, world, context);
            announce(&key, &mut backend, context, ids, delta);
            rings(&mut backend, context, &changed, delta);
            self.known.insert(key, backend);
        }
        self.transports.tidy();
    }

    /// Decides anew how the backend is spoken to, when anything that bears on it changed.
    fn speak(&mut self, key: &BackendKey, backend: &mut Backend, world: &World, context: &Context) {
        if backend.transport.is_some() {
            return;
        }
        let (transport, remarks) = self.transports.resolve(key, &backend.spoken, context, world);
        backend.transport = Some(transport);
        self.remark(key, remarks);
    }

    fn remark(&mut self, key: &BackendKey, remarks: transport::Remarks) {
        let before = match remarks.is_empty() {
            true => self.remarks.remove(key),
            false => self.remarks.insert(key.clone(), remarks),
        };
        self.notes_changed |= before.as_ref() != self.remarks.get(key);
    }

    /// Decides anew how the backend's failures are found, when anything that bears on it changed.
    fn detect(&mut self, key: &BackendKey, backend: &mut Backend, context: &Context) {
        if backend.detection.is_some() {
            return;
        }
        let service = context.service_detection(key);
        let (part, notes) = detection::choose(&key.to_string(), &backend.said, service.as_ref());
        backend.detection = Some(part.resolve());
        self.note(key, notes);
    }

    fn note(&mut self, key: &BackendKey, notes: Vec<(ObjectId, Note)>) {
        let before = match notes.is_empty() {
            true => self.notes.remove(key),
            false => self.notes.insert(key.clone(), notes),
        };
        self.notes_changed |= before.as_ref() != self.notes.get(key);
    }

    /// Returns the clusters whose set of endpoints changed.
    fn endpoints(
        &mut self,
        key: &BackendKey,
        backend: &mut Backend,
        (world, context, loopback): (&World, &Context, Loopback),
        ids: &mut Ids,
        delta: &mut TableDelta,
    ) -> BTreeSet<ClusterId> {
        let mut changed = BTreeSet::new();
        let mut wanted: BTreeMap<(ClusterId, SocketAddr), Found> = BTreeMap::new();
        for member in context.members.values() {
            let found = merge::endpoints(world, member, key, loopback);
            wanted.extend(found.into_iter().map(|(addr, found)| ((member.id, addr), found)));
        }
        let gone: Vec<_> = backend.endpoints.keys().filter(|at| !wanted.contains_key(at)).copied().collect();
        for at in gone {
            if let Some(placed) = backend.endpoints.remove(&at) {
                changed.insert(at.0);
                self.remove(backend.id, at, &placed, ids, delta);
            }
        }
        for (at, found) in wanted {
            let (cluster, addr) = at;
            if backend.endpoints.get(&at).is_some_and(|placed| placed.found == found) {
                continue;
            }
            let before = backend.endpoints.remove(&at);
            let id = match &before {
                Some(placed) => Some(placed.id),
                None => ids.endpoints.acquire(&(backend.id, cluster, addr)).map(EndpointId),
            };
            let Some(id) = id else { continue };
            let (zone, node) = (ids.zone(&found.zone), ids.node(cluster, &found.node));
            match &before {
                Some(placed) => ids.release_place(cluster, &placed.found.zone, &placed.found.node),
                None => {
                    changed.insert(cluster);
                    *self.counts.entry(cluster).or_default() += 1;
                }
            }
            let spec =
                EndpointSpec { backend: backend.id, cluster, zone, node, addr, condition: found.condition };
            if before.as_ref().is_none_or(|placed| placed.spec != spec) {
                delta.endpoints.push((id, Some(spec.clone())));
            }
            backend.endpoints.insert(at, Placed { id, found, spec });
        }
        changed
    }

    fn remove(
        &mut self,
        backend: BackendId,
        at: (ClusterId, SocketAddr),
        placed: &Placed,
        ids: &mut Ids,
        delta: &mut TableDelta,
    ) {
        ids.endpoints.release(&(backend, at.0, at.1));
        ids.release_place(at.0, &placed.found.zone, &placed.found.node);
        if let Some(count) = self.counts.get_mut(&at.0) {
            *count = count.saturating_sub(1);
        }
        delta.endpoints.push((placed.id, None));
    }

    fn forget(&mut self, key: &BackendKey, backend: Backend, ids: &mut Ids, delta: &mut TableDelta) {
        for (at, placed) in &backend.endpoints {
            self.remove(backend.id, *at, placed, ids, delta);
        }
        for (name, _) in backend.stats.values() {
            ids.release_stat(&StatKey::Backend(key.clone(), name.clone()));
        }
        delta.rings.extend(backend.rings.iter().map(|cluster| ((backend.id, *cluster), None)));
        delta.backends.push((backend.id, None));
        ids.backends.release(key);
        self.note(key, Vec::new());
        self.remark(key, Vec::new());
        if let Some(keys) = self.by_service.get_mut(&key.service) {
            keys.remove(key);
            if keys.is_empty() {
                self.by_service.remove(&key.service);
            }
        }
    }

    /// Backends in use.
    #[must_use]
    pub fn count(&self) -> usize {
        self.known.len()
    }
}

/// Tells the workers what the backend is, when that changed.
fn announce(
    key: &BackendKey,
    backend: &mut Backend,
    context: &Context,
    ids: &mut Ids,
    delta: &mut TableDelta,
) {
    let serving: BTreeSet<ClusterId> = backend.endpoints.keys().map(|(cluster, _)| *cluster).collect();
    // A slot is kept while the cluster is a member: endpoints come and go, counters must not.
    backend.stats.retain(|id, (name, _)| {
        let keep = context.clusters.get(id).is_some_and(|cluster| cluster.name == *name);
        if !keep {
            ids.release_stat(&StatKey::Backend(key.clone(), name.clone()));
        }
        keep
    });
    for cluster in serving {
        if let (false, Some(spec)) = (backend.stats.contains_key(&cluster), context.clusters.get(&cluster)) {
            let slot = ids.stat(&StatKey::Backend(key.clone(), spec.name.clone()));
            backend.stats.insert(cluster, (spec.name.clone(), slot));
        }
    }
    let after: Vec<(ClusterId, StatSlot)> =
        backend.stats.iter().map(|(id, (_, slot))| (*id, *slot)).collect();
    let spec = BackendSpec {
        name: backend.announced.as_ref().map_or_else(|| Arc::from(key.to_string()), |spec| spec.name.clone()),
        limits: context.defaults.limits,
        stats: after.into_iter().filter(|(_, slot)| slot.0 != 0).collect(),
        detection: backend.detection.clone().unwrap_or_default(),
        speech: match key.port {
            PortRef::Datagrams(_) => Speech::Datagrams,
            PortRef::Number(_) | PortRef::Name(_) if backend.http > 0 => Speech::Http,
            PortRef::Number(_) | PortRef::Name(_) => Speech::Opaque,
        },
        transport: backend.transport.clone().filter(|_| backend.http > 0).unwrap_or_default(),
    };
    if backend.announced.as_deref() != Some(&spec) {
        let spec = Arc::new(spec);
        backend.announced = Some(spec.clone());
        delta.backends.push((backend.id, Some(spec)));
    }
}

fn rings(backend: &mut Backend, context: &Context, changed: &BTreeSet<ClusterId>, delta: &mut TableDelta) {
    // Without a route it keeps the rings that its last one needed.
    let is_hashed = backend.hashed > 0 || backend.routes == 0 && !backend.rings.is_empty();
    let wanted: BTreeSet<ClusterId> = match is_hashed {
        false => BTreeSet::new(),
        true => backend.endpoints.keys().map(|(cluster, _)| *cluster).collect(),
    };
    for cluster in backend.rings.difference(&wanted) {
        delta.rings.push(((backend.id, *cluster), None));
    }
    for cluster in &wanted {
        if backend.rings.contains(cluster) && !changed.contains(cluster) {
            continue;
        }
        let name = context.clusters.get(cluster).map_or("", |spec| &spec.name);
        let endpoints: Vec<(EndpointId, SocketAddr)> = backend
            .endpoints
            .iter()
            .filter(|((of, _), _)| of == cluster)
            .map(|((_, addr), placed)| (placed.id, *addr))
            .collect();
        delta.rings.push(((backend.id, *cluster), Some(Arc::new(order::ring(name, &endpoints)))));
    }
    backend.rings = wanted;
}
