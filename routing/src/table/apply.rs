//! Applying an update: what changes is touched, nothing else is looked at.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use super::hosts::HostEntry;
use super::live::Life;
use super::world::{ClusterEntry, stat};
use super::{EndpointKey, Table};
use crate::delta::{Change, HealthDelta, TableDelta, Update};
use crate::health::board::Subject;
use crate::id::{BackendId, BindId, ClusterId, EndpointId, Generation, ListenerId};
use crate::model::{BackendSpec, ClusterSpec, HashRing, HostKey, HostRules, ListenerSpec, Protocol};
use crate::retry::Budget;
use crate::time::MonoTime;

/// What an update changed outside the table: for the worker to act on.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Binds to close: before [`Applied::opened`], an address may move from one to the other.
    pub closed: Vec<BindId>,
    /// Binds to open.
    pub opened: Vec<OpenedBind>,
    /// Endpoints that are gone: their idle connections are to be closed. Attempts in flight go on.
    pub removed: Vec<EndpointKey>,
}

/// A socket to open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenedBind {
    /// Which bind.
    pub bind: BindId,
    /// Its address and port.
    pub addr: SocketAddr,
    /// What is spoken there.
    pub protocol: Protocol,
}

/// An update that was computed against another table. The worker asks for a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfStep {
    /// What this table runs.
    pub have: Generation,
    /// What the update was computed against.
    pub base: Generation,
}

/// Payloads that the table has let go of, on their way home.
#[derive(Debug, Default)]
pub(super) struct Retired {
    hosts: Vec<Rc<HostEntry>>,
    rings: Vec<((BackendId, ClusterId), Arc<HashRing>)>,
    listeners: Vec<(ListenerId, Arc<ListenerSpec>)>,
}

impl Retired {
    /// What no request holds any more.
    pub(super) fn take(&mut self) -> TableDelta {
        let mut hosts = Vec::new();
        for entry in std::mem::take(&mut self.hosts) {
            match Rc::try_unwrap(entry) {
                Ok(entry) => hosts.push((entry.key, Some(entry.rules))),
                Err(entry) => self.hosts.push(entry),
            }
        }
        let rings = std::mem::take(&mut self.rings).into_iter().map(|(key, ring)| (key, Some(ring)));
        let listeners =
            std::mem::take(&mut self.listeners).into_iter().map(|(id, spec)| (id, Some(spec))).collect();
        TableDelta { hosts, rings: rings.collect(), listeners, ..TableDelta::default() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.hosts.is_empty() && self.rings.is_empty() && self.listeners.is_empty()
    }
}

impl Table {
    pub(super) fn apply_update(&mut self, update: &Update, now: MonoTime) -> Result<Applied, OutOfStep> {
        match &update.change {
            Change::Table(delta) => {
                if update.base_generation != self.generation {
                    return Err(OutOfStep { have: self.generation, base: update.base_generation });
                }
                self.generation = update.generation;
                Ok(self.apply_delta(delta, now))
            }
            Change::Snapshot(delta) => {
                self.generation = update.generation;
                Ok(self.apply_snapshot(delta, now))
            }
            Change::Health(delta) => {
                // Evidence is absolute: it counts whatever table we run. Only in step does the number follow.
                if update.base_generation == self.generation {
                    self.generation = update.generation;
                }
                self.apply_health(delta);
                Ok(Applied::default())
            }
        }
    }

    fn apply_delta(&mut self, delta: &TableDelta, now: MonoTime) -> Applied {
        let mut applied = Applied::default();
        for (id, spec) in &delta.clusters {
            self.set_cluster(*id, spec.as_ref(), now);
        }
        for (id, spec) in &delta.backends {
            self.set_backend(*id, spec.as_ref(), now);
        }
        for (id, spec) in &delta.endpoints {
            let live = self.live.get_mut();
            let removed = match spec {
                None => live.remove_endpoint(*id),
                Some(spec) => {
                    let name = self.world.cluster_name(spec.cluster);
                    live.set_endpoint(*id, spec, name, self.world.stat(spec.backend, spec.cluster), now)
                }
            };
            applied.removed.extend(removed);
        }
        for ((backend, cluster), ring) in &delta.rings {
            let stat = self.world.stat(*backend, *cluster);
            let old = self.live.get_mut().set_ring(*backend, *cluster, ring.clone(), stat);
            self.retired.get_mut().rings.extend(old.map(|ring| ((*backend, *cluster), ring)));
        }
        self.apply_listeners(&delta.listeners, &mut applied);
        for (key, rules) in &delta.hosts {
            self.set_host(key, rules.as_ref());
        }
        applied
    }

    fn set_cluster(&mut self, id: ClusterId, spec: Option<&Arc<ClusterSpec>>, now: MonoTime) {
        if self.world.clusters.len() <= id.index() {
            self.world.clusters.resize_with(id.index() + 1, || None);
        }
        self.world.clusters[id.index()] = spec.map(|spec| ClusterEntry {
            spec: Arc::clone(spec),
            drain_percent: spec.drain_percent,
            promoted: spec.promoted,
        });
        self.world.note_drains();
        let live = self.live.get_mut();
        live.detector.set_cluster(id, spec.map(|spec| &**spec));
        live.copy(Subject::Cluster(id), now);
    }

    fn set_backend(&mut self, id: BackendId, spec: Option<&Arc<BackendSpec>>, now: MonoTime) {
        if self.world.backends.len() <= id.index() {
            self.world.backends.resize_with(id.index() + 1, || None);
        }
        let old = std::mem::replace(&mut self.world.backends[id.index()], spec.map(Arc::clone));
        let entry = self.live.get_mut().set_backend(id, spec, now);
        let Some(spec) = spec else { return };
        // Another Service under a used id starts with a budget of its own.
        if entry.budget.is_none() || old.is_some_and(|old| old.name != spec.name) {
            entry.budget = Some(Budget::new(self.settings.workers));
        }
        for group in &mut entry.groups {
            group.stat = stat(spec, group.cluster);
        }
    }

    fn set_host(&mut self, key: &HostKey, rules: Option<&Arc<HostRules>>) {
        let old = self.world.hosts.set(key, rules.map(Arc::clone));
        // Never dropped here: this may be the last reference to 100,000 rules.
        self.retired.get_mut().hosts.extend(old);
    }

    fn apply_listeners(
        &mut self,
        listeners: &[(ListenerId, Option<Arc<ListenerSpec>>)],
        applied: &mut Applied,
    ) {
        let mut before: Vec<(BindId, Option<(SocketAddr, Protocol)>)> = Vec::new();
        for (id, spec) in listeners {
            let old = self.world.hosts.listener(*id).map(|spec| spec.bind);
            for bind in old.into_iter().chain(spec.as_ref().map(|spec| spec.bind)) {
                if before.iter().all(|(seen, _)| *seen != bind) {
                    before.push((bind, self.world.hosts.served(bind)));
                }
            }
            let old = self.world.hosts.set_listener(*id, spec.clone());
            // Never dropped here: this may be the last reference to 10,000 certificates.
            self.retired.get_mut().listeners.extend(old.map(|old| (*id, old)));
        }
        for (bind, before) in before {
            let after = self.world.hosts.served(bind);
            if before == after {
                continue;
            }
            if before.is_some() {
                applied.closed.push(bind);
            }
            applied.opened.extend(after.map(|(addr, protocol)| OpenedBind { bind, addr, protocol }));
        }
    }

    fn apply_health(&mut self, delta: &HealthDelta) {
        for (id, percent) in &delta.drained {
            if let Some(Some(entry)) = self.world.clusters.get_mut(id.index()) {
                entry.drain_percent = *percent;
            }
        }
        self.world.note_drains();
        for (id, promoted) in &delta.promoted {
            if let Some(Some(entry)) = self.world.clusters.get_mut(id.index()) {
                entry.promoted = *promoted;
            }
        }
    }

    /// The whole world at once: what it does not list goes, what it lists and is here already stays as it is.
    fn apply_snapshot(&mut self, snapshot: &TableDelta, now: MonoTime) -> Applied {
        let mut whole = self.removals(snapshot);
        whole.clusters.extend_from_slice(&snapshot.clusters);
        whole.backends.extend_from_slice(&snapshot.backends);
        whole.endpoints.extend_from_slice(&snapshot.endpoints);
        whole.rings.extend_from_slice(&snapshot.rings);
        whole.listeners.extend_from_slice(&snapshot.listeners);
        whole.hosts.extend_from_slice(&snapshot.hosts);
        self.apply_delta(&whole, now)
    }

    /// Removes everything that is here and not in `snapshot`. Used once per snapshot: it looks at everything.
    fn removals(&mut self, snapshot: &TableDelta) -> TableDelta {
        let live = self.live.get_mut();
        let used = live.slots.iter().filter(|slot| slot.life == Life::Live);
        let endpoints: Vec<EndpointId> = used.map(|slot| slot.id).collect();
        let clusters = (0u16..).zip(&self.world.clusters).filter(|(_, spec)| spec.is_some());
        let backends = (0u32..).zip(&self.world.backends).filter(|(_, spec)| spec.is_some());
        let mut rings = Vec::new();
        for (id, entry) in (0u32..).zip(live.backends.iter()) {
            let with_ring = entry.groups.iter().filter(|group| group.ring.is_some());
            rings.extend(with_ring.map(|group| (BackendId(id), group.cluster)));
        }
        TableDelta {
            clusters: absent(clusters.map(|(id, _)| ClusterId(id)), &snapshot.clusters),
            backends: absent(backends.map(|(id, _)| BackendId(id)), &snapshot.backends),
            endpoints: absent(endpoints, &snapshot.endpoints),
            rings: absent(rings, &snapshot.rings),
            listeners: absent(self.world.hosts.listeners().map(|(id, _)| id), &snapshot.listeners),
            hosts: absent(self.world.hosts.hosts().map(|entry| entry.key.clone()), &snapshot.hosts),
        }
    }
}

/// A removal for each of `here` that `there` does not hold.
fn absent<K: Ord + Clone, V>(
    here: impl IntoIterator<Item = K>,
    there: &[(K, Option<V>)],
) -> Vec<(K, Option<V>)> {
    let there: std::collections::BTreeSet<&K> = there.iter().map(|(key, _)| key).collect();
    here.into_iter().filter(|key| !there.contains(key)).map(|key| (key, None)).collect()
}
