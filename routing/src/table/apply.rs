//! One entry of an update: what changes is touched, nothing else is looked at. In which order is said in `slice`.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use regex::bytes::Regex;

use super::hosts::HostEntry;
use super::slice::Applying;
use super::world::{ClusterEntry, stat};
use super::{EndpointKey, Table};
use crate::delta::{HealthDelta, TableDelta};
use crate::health::board::Subject;
use crate::id::{BackendId, BindId, ClusterId, Generation, ListenerId};
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
    /// Backends that are gone, or whose numbers are others' now: what was known is not about these.
    pub replaced: Vec<BackendId>,
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
    pub(super) fn set_cluster(&mut self, id: ClusterId, spec: Option<&Arc<ClusterSpec>>, now: MonoTime) {
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

    /// `true`: there was one under this number, and it is no longer there.
    pub(super) fn set_backend(
        &mut self,
        id: BackendId,
        spec: Option<&Arc<BackendSpec>>,
        now: MonoTime,
    ) -> bool {
        if self.world.backends.len() <= id.index() {
            self.world.backends.resize_with(id.index() + 1, || None);
        }
        let old = std::mem::replace(&mut self.world.backends[id.index()], spec.map(Arc::clone));
        let entry = self.live.get_mut().set_backend(id, spec, now);
        let is_replaced = old.is_some_and(|old| spec.is_none_or(|spec| old.name != spec.name));
        let Some(spec) = spec else { return is_replaced };
        // Another Service under a used id starts with a budget of its own.
        if entry.budget.is_none() || is_replaced {
            entry.budget = Some(Budget::new(self.settings.workers));
        }
        for group in &mut entry.groups {
            group.stat = stat(spec, group.cluster);
        }
        is_replaced
    }

    pub(super) fn set_ring(&mut self, key: (BackendId, ClusterId), ring: Option<Arc<HashRing>>) {
        let stat = self.world.stat(key.0, key.1);
        let old = self.live.get_mut().set_ring(key.0, key.1, ring, stat);
        self.retired.get_mut().rings.extend(old.map(|ring| (key, ring)));
    }

    /// With the worker's own regexes of the rules: see [`HostEntry`].
    pub(super) fn set_host(&mut self, key: &HostKey, rules: Option<(&Arc<HostRules>, Box<[Regex]>)>) {
        let old = self.world.hosts.set(key, rules.map(|(rules, own)| (Arc::clone(rules), own)));
        // Never dropped here: this may be the last reference to 100,000 rules.
        self.retired.get_mut().hosts.extend(old);
    }

    pub(super) fn set_listener(
        &mut self,
        id: ListenerId,
        spec: Option<&Arc<ListenerSpec>>,
        applying: &mut Applying,
    ) {
        let old = self.world.hosts.listener(id).map(|spec| spec.bind);
        for bind in old.into_iter().chain(spec.map(|spec| spec.bind)) {
            if applying.binds.iter().all(|(seen, _)| *seen != bind) {
                applying.binds.push((bind, self.world.hosts.served(bind)));
            }
        }
        let old = self.world.hosts.set_listener(id, spec.cloned());
        // Never dropped here: this may be the last reference to 10,000 certificates.
        self.retired.get_mut().listeners.extend(old.map(|old| (id, old)));
    }

    /// Which sockets follow from the listeners that changed.
    pub(super) fn settle_binds(&self, applying: &mut Applying) {
        for (bind, before) in std::mem::take(&mut applying.binds) {
            let after = self.world.hosts.served(bind);
            if before == after {
                continue;
            }
            if before.is_some() {
                applying.applied.closed.push(bind);
            }
            let opened = after.map(|(addr, protocol)| OpenedBind { bind, addr, protocol });
            applying.applied.opened.extend(opened);
        }
    }

    pub(super) fn apply_health(&mut self, delta: &HealthDelta) {
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
}
