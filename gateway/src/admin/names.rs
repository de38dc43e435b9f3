//! Which statistics slot stands for what, and where its counting began.
//!
//! Slots and cluster numbers are dense and are handed out again after their owner has left the table. A series that
//! takes over a slot starts at what the workers had counted there, or a new route would show the past of an old one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use routing::delta::{Change, TableDelta};
use routing::id::{BackendId, ClusterId};
use routing::model::{BackendSpec, StatSlot};
use routing::table::Table;

use crate::observe::histogram::Snapshot;
use crate::observe::metrics::TallySum;
use crate::observe::stats::{CLUSTERS_MAX, WorkerStats};

/// The part of a backend that a slot counts.
pub(super) type Pair = (Arc<str>, Arc<str>);

/// Names of slots, for one table.
#[derive(Default)]
pub(super) struct Names {
    specs: BTreeMap<BackendId, Arc<BackendSpec>>,
    routes: Slots<u32, Arc<str>, TallySum>,
    backends: Slots<u32, Pair, TallySum>,
    clusters: Slots<ClusterId, Arc<str>, ClusterBase>,
}

/// What a cluster's counters stood at when it took its number.
#[derive(Clone, Default)]
pub(super) struct ClusterBase {
    pub(super) tally: TallySum,
    pub(super) latency: Snapshot,
}

/// Numbers that mean something now, with what they stood at when they began to mean it.
struct Slots<K, N, B> {
    named: BTreeMap<K, (N, B)>,
    ever: BTreeSet<K>,
}

impl<K, N, B> Default for Slots<K, N, B> {
    fn default() -> Self {
        Self { named: BTreeMap::new(), ever: BTreeSet::new() }
    }
}

impl<K: Ord + Copy, N: PartialEq, B: Default> Slots<K, N, B> {
    /// Gives every number of `now` its name. `count` is what a number stands at.
    fn rename(&mut self, now: BTreeMap<K, N>, count: impl Fn(K) -> B) {
        let mut before = std::mem::take(&mut self.named);
        for (slot, name) in now {
            let base = match before.remove(&slot) {
                Some((same, base)) if same == name => base,
                Some(_) => count(slot),
                None if self.ever.contains(&slot) => count(slot),
                // The very first owner: what was counted before the name arrived here is its own.
                None => B::default(),
            };
            self.ever.insert(slot);
            self.named.insert(slot, (name, base));
        }
    }
}

impl Names {
    /// Remembers what a table does not show: which slots a backend's clusters have.
    pub(super) fn note(&mut self, change: &Change) {
        match change {
            Change::Snapshot(delta) => {
                self.specs.clear();
                self.note_backends(delta);
            }
            Change::Table(delta) => self.note_backends(delta),
            Change::Health(_) => {}
        }
    }

    fn note_backends(&mut self, delta: &TableDelta) {
        for (id, spec) in &delta.backends {
            match spec {
                Some(spec) => drop(self.specs.insert(*id, Arc::clone(spec))),
                None => drop(self.specs.remove(id)),
            }
        }
    }

    /// Reads the names of a changed table.
    pub(super) fn refresh(&mut self, table: &Table, workers: &[Arc<WorkerStats>]) {
        let mut routes = BTreeMap::new();
        for host in table.hosts() {
            for rule in &host.rules.rules {
                routes.entry(rule.action.stat.0).or_insert_with(|| Arc::clone(&rule.action.route));
            }
        }
        // Shared by all that have none: it is never anybody's own.
        routes.remove(&0);
        self.routes.rename(routes, |slot| route_sum(workers, StatSlot(slot)));

        let clusters: BTreeMap<ClusterId, Arc<str>> =
            table.clusters().into_iter().map(|cluster| (cluster.id, cluster.name)).collect();
        let mut backends = BTreeMap::new();
        for spec in self.specs.values() {
            for (cluster, slot) in spec.stats.iter().filter(|(_, slot)| *slot != StatSlot(0)) {
                if let Some(cluster) = clusters.get(cluster) {
                    backends.insert(slot.0, (Arc::clone(&spec.name), Arc::clone(cluster)));
                }
            }
        }
        self.backends.rename(backends, |slot| backend_sum(workers, StatSlot(slot)));
        let own = clusters.into_iter().filter(|(id, _)| has_counters(*id)).collect();
        self.clusters.rename(own, |id| cluster_base(workers, id));
    }

    /// Every route with a slot of its own.
    pub(super) fn routes(&self) -> impl Iterator<Item = (StatSlot, &Arc<str>, &TallySum)> {
        self.routes.named.iter().map(|(slot, (name, base))| (StatSlot(*slot), name, base))
    }

    /// Every (backend, cluster) with a slot of its own.
    pub(super) fn backends(&self) -> impl Iterator<Item = (StatSlot, &Pair, &TallySum)> {
        self.backends.named.iter().map(|(slot, (name, base))| (StatSlot(*slot), name, base))
    }

    /// Where a cluster's counting began.
    pub(super) fn cluster_base(&self, id: ClusterId) -> ClusterBase {
        self.clusters.named.get(&id).map(|(_, base)| base.clone()).unwrap_or_default()
    }

    /// Where the counting of a cluster's part of a backend began.
    pub(super) fn backend_slot(
        &self,
        backend: BackendId,
        cluster: ClusterId,
    ) -> Option<(StatSlot, TallySum)> {
        let spec = self.specs.get(&backend)?;
        let (_, slot) = spec.stats.iter().find(|(id, _)| *id == cluster)?;
        self.backends.named.get(&slot.0).map(|(_, base)| (*slot, *base))
    }

    /// Where a route's counting began; `None` without a slot of its own.
    pub(super) fn route_base(&self, slot: StatSlot) -> Option<TallySum> {
        self.routes.named.get(&slot.0).map(|(_, base)| *base)
    }
}

/// Has this cluster counters of its own? The last are shared by all above the bound.
pub(super) fn has_counters(id: ClusterId) -> bool {
    id.index() + 1 < CLUSTERS_MAX
}

/// What all workers have counted in a route's slot.
pub(super) fn route_sum(workers: &[Arc<WorkerStats>], slot: StatSlot) -> TallySum {
    let mut sum = TallySum::default();
    workers.iter().for_each(|stats| sum.add(stats.route(slot)));
    sum
}

/// What all workers have counted in a (backend, cluster) slot.
pub(super) fn backend_sum(workers: &[Arc<WorkerStats>], slot: StatSlot) -> TallySum {
    let mut sum = TallySum::default();
    workers.iter().for_each(|stats| sum.add(stats.backend(slot)));
    sum
}

/// What all workers have counted of a cluster.
pub(super) fn cluster_base(workers: &[Arc<WorkerStats>], id: ClusterId) -> ClusterBase {
    let mut sum = ClusterBase::default();
    for stats in workers {
        let cluster = stats.cluster(id);
        sum.tally.add(&cluster.tally);
        cluster.latency.read(&mut sum.latency);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_that_changes_hands_starts_anew_and_a_survivor_keeps_counting() {
        let mut slots: Slots<u32, &str, u64> = Slots::default();
        slots.rename([(1, "a"), (2, "b")].into(), |_| 10);
        assert_eq!(
            slots.named[&1],
            ("a", 0),
            "the first owner keeps what was counted before its name was known"
        );
        slots.rename([(1, "a"), (2, "c")].into(), |_| 20);
        assert_eq!((slots.named[&1], slots.named[&2]), (("a", 0), ("c", 20)));
        slots.rename([(1, "a")].into(), |_| 30);
        slots.rename([(1, "a"), (2, "d")].into(), |_| 40);
        assert_eq!(slots.named[&2], ("d", 40));
    }
}
