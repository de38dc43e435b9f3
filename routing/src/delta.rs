//! How the compiled world travels from the controller to the workers, and what comes back: plain data.
//!
//! Laws, held by property tests: `apply(a, diff(a, b)) == b`; `diff(a, a)` is empty; applying `x` then `y` equals
//! applying `x.then(y)`; a delta never resets health, in-flight counts or latency of an endpoint that survives it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::id::{BackendId, BindId, ClusterId, EndpointId, Generation, ListenerId};
use crate::model::{
    BackendSpec, Carrier, ClusterSpec, EndpointSpec, HashRing, HostKey, HostRules, ListenerSpec,
};

/// Key of a consistent-hash ring: one backend in one cluster.
pub type RingKey = (BackendId, ClusterId);

/// The whole compiled world in its canonical form. The controller holds one; a worker's `Table` is its index.
///
/// Equal when everything in it is equal; payloads behind the same `Arc` are not looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteTable {
    /// Member clusters.
    pub clusters: BTreeMap<ClusterId, Arc<ClusterSpec>>,
    /// Listeners.
    pub listeners: BTreeMap<ListenerId, Arc<ListenerSpec>>,
    /// Rules by listener and host pattern.
    pub hosts: BTreeMap<HostKey, Arc<HostRules>>,
    /// Backends.
    pub backends: BTreeMap<BackendId, Arc<BackendSpec>>,
    /// Endpoints.
    pub endpoints: BTreeMap<EndpointId, EndpointSpec>,
    /// Consistent-hash rings of the backends that need one.
    pub rings: BTreeMap<RingKey, Arc<HashRing>>,
}

/// What differs between two tables. `None` removes, `Some` adds or replaces. At most one entry for each key.
///
/// In [`Change::Snapshot`] each list is in the order of its keys. In which order entries are applied, so that a worker
/// can serve in between, is said at [`Table::advance`](crate::table::Table::advance).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableDelta {
    /// Member clusters.
    pub clusters: Vec<(ClusterId, Option<Arc<ClusterSpec>>)>,
    /// Backends.
    pub backends: Vec<(BackendId, Option<Arc<BackendSpec>>)>,
    /// Endpoints.
    pub endpoints: Vec<(EndpointId, Option<EndpointSpec>)>,
    /// Consistent-hash rings.
    pub rings: Vec<(RingKey, Option<Arc<HashRing>>)>,
    /// Listeners.
    pub listeners: Vec<(ListenerId, Option<Arc<ListenerSpec>>)>,
    /// Rules by listener and host pattern.
    pub hosts: Vec<(HostKey, Option<Arc<HostRules>>)>,
}

impl TableDelta {
    /// Does this change nothing?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.clusters.is_empty()
            && self.backends.is_empty()
            && self.endpoints.is_empty()
            && self.rings.is_empty()
            && self.listeners.is_empty()
            && self.hosts.is_empty()
    }

    /// This change followed by `later`, as one: what a full inbox coalesces.
    ///
    /// Applying the result equals applying both in order; at most one entry for each key.
    #[must_use]
    pub fn then(self, later: Self) -> Self {
        Self {
            clusters: merge(self.clusters, later.clusters),
            backends: merge(self.backends, later.backends),
            endpoints: merge(self.endpoints, later.endpoints),
            rings: merge(self.rings, later.rings),
            listeners: merge(self.listeners, later.listeners),
            hosts: merge(self.hosts, later.hosts),
        }
    }
}

impl RouteTable {
    /// Changes this table by `delta`. Removing what is not here changes nothing.
    pub fn apply(&mut self, delta: &TableDelta) {
        set(&mut self.clusters, &delta.clusters);
        set(&mut self.backends, &delta.backends);
        set(&mut self.endpoints, &delta.endpoints);
        set(&mut self.rings, &delta.rings);
        set(&mut self.listeners, &delta.listeners);
        set(&mut self.hosts, &delta.hosts);
    }
}

/// What turns `old` into `new`: one entry for each key that was added, changed or removed, in order of keys.
///
/// Payloads behind the same `Arc` are equal without a look at them: a compiler that keeps the `Arc` of what it did
/// not recompile makes this cost a walk over the keys.
#[must_use]
pub fn diff(old: &RouteTable, new: &RouteTable) -> TableDelta {
    TableDelta {
        clusters: changes(&old.clusters, &new.clusters, same_arc),
        backends: changes(&old.backends, &new.backends, same_arc),
        endpoints: changes(&old.endpoints, &new.endpoints, EndpointSpec::eq),
        rings: changes(&old.rings, &new.rings, same_arc),
        listeners: changes(&old.listeners, &new.listeners, same_arc),
        hosts: changes(&old.hosts, &new.hosts, same_arc),
    }
}

/// The whole of `table` as a change of the empty table, for [`Change::Snapshot`].
#[must_use]
pub fn snapshot(table: &RouteTable) -> TableDelta {
    diff(&RouteTable::default(), table)
}

fn same_arc<T: PartialEq>(a: &Arc<T>, b: &Arc<T>) -> bool {
    Arc::ptr_eq(a, b) || a == b
}

/// Walks both maps at once.
fn changes<K: Ord + Clone, V: Clone>(
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
    same: impl Fn(&V, &V) -> bool,
) -> Vec<(K, Option<V>)> {
    let mut changes = Vec::new();
    let mut old = old.iter().peekable();
    for (key, value) in new {
        while let Some((gone, _)) = old.next_if(|(other, _)| *other < key) {
            changes.push((gone.clone(), None));
        }
        match old.next_if(|(other, _)| *other == key) {
            Some((_, before)) if same(before, value) => {}
            Some(_) | None => changes.push((key.clone(), Some(value.clone()))),
        }
    }
    changes.extend(old.map(|(gone, _)| (gone.clone(), None)));
    changes
}

fn set<K: Ord + Clone, V: Clone>(map: &mut BTreeMap<K, V>, changes: &[(K, Option<V>)]) {
    for (key, value) in changes {
        match value {
            Some(value) => map.insert(key.clone(), value.clone()),
            None => map.remove(key),
        };
    }
}

fn merge<K: Ord, V>(first: Vec<(K, Option<V>)>, later: Vec<(K, Option<V>)>) -> Vec<(K, Option<V>)> {
    if first.is_empty() {
        return later;
    }
    let mut merged: BTreeMap<K, Option<V>> = first.into_iter().collect();
    merged.extend(later);
    merged.into_iter().collect()
}

/// Kubernetes and operator evidence about clusters that needs no compile: it goes straight to the workers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealthDelta {
    /// Clusters that an operator drains or gives back: [`ClusterSpec::drain_percent`], 0–100.
    pub drained: Vec<(ClusterId, u8)>,
    /// Standbys that an operator promotes (`true`) or fences again (`false`).
    pub promoted: Vec<(ClusterId, bool)>,
}

/// One change of a worker's table.
#[derive(Debug)]
pub enum Change {
    /// What differs from the table of `base_generation`.
    Table(TableDelta),
    /// The whole world as a delta from the empty table: for a restarted worker.
    Snapshot(TableDelta),
    /// Operator evidence.
    Health(HealthDelta),
}

/// One numbered update, shared by all workers and never freed by one (see [`Report::Spent`]).
#[derive(Debug)]
pub struct Update {
    /// The number of the table after this update.
    pub generation: Generation,
    /// The number of the table that [`Change::Table`] was computed against.
    pub base_generation: Generation,
    /// When the controller saw the event that led here, in nanoseconds of the system's monotonic clock
    /// (`CLOCK_MONOTONIC`); 0 when there was none.
    pub observed_ns: u64,
    /// What changes.
    pub change: Change,
}

/// An accepted connection on its way to a less loaded worker. No byte of it is in any buffer of ours.
#[derive(Debug)]
pub struct Handoff {
    /// The socket.
    pub socket: OwnedFd,
    /// On which bind it was accepted.
    pub bind: BindId,
    /// Who is at the other end.
    pub peer: SocketAddr,
}

/// To a worker: bounded channel + eventfd.
#[derive(Debug)]
pub enum Mail {
    /// A change of the table.
    Update(Arc<Update>),
    /// A connection to serve.
    Adopt(Handoff),
    /// Look at the shared words, or at the process's state (drain): nothing else.
    Wake,
}

/// From a worker: hints. Dropped and counted when the channel is full.
#[derive(Debug)]
pub enum Report {
    /// This worker now runs `generation`.
    Applied {
        /// Which worker.
        worker: u16,
        /// Which generation.
        generation: Generation,
        /// When it was applied, `CLOCK_MONOTONIC` nanoseconds.
        at_ns: u64,
    },
    /// This worker's table is not at the update's base: it needs a [`Change::Snapshot`].
    OutOfStep {
        /// Which worker.
        worker: u16,
        /// What it runs.
        generation: Generation,
    },
    /// This worker ejected an endpoint.
    Ejected {
        /// Which worker.
        worker: u16,
        /// Which endpoint.
        endpoint: EndpointId,
        /// For how long, in milliseconds.
        for_ms: u64,
    },
    /// This worker uses an ejected endpoint again.
    Restored {
        /// Which worker.
        worker: u16,
        /// Which endpoint.
        endpoint: EndpointId,
    },
    /// This worker cannot listen on an address, or can at last. Said once for each change.
    Listening {
        /// Which worker.
        worker: u16,
        /// Which address and port.
        addr: SocketAddr,
        /// Of TCP or of UDP.
        carrier: Carrier,
        /// The error of the system (`errno`); `None` = it listens, or is not asked to any more.
        error: Option<i32>,
    },
    /// An address of a Gateway cannot be put on its interface, or is there at last. Of no worker.
    Address {
        /// Which address.
        ip: IpAddr,
        /// Why not; `None` = it is there, or nobody has it any more.
        failure: Option<Box<str>>,
    },
    /// An applied update on its way home: the controller runs its destructor, never a worker.
    Spent(Arc<Update>),
}
