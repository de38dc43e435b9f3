//! A worker's immutable half of the table: specs and rules. Only `apply` changes it; `route` reads nothing else.

use std::sync::Arc;

use rand::Rng;
use rand::rngs::SmallRng;

use super::hosts::Hosts;
use crate::failover::Drain;
use crate::id::{BackendId, ClusterId};
use crate::model::{BackendSpec, ClusterSpec, StatSlot};

/// One member cluster.
#[derive(Debug)]
pub(crate) struct ClusterEntry {
    pub(crate) spec: Arc<ClusterSpec>,
    /// By the spec, or by later operator evidence: [`ClusterSpec::drain_percent`].
    pub(crate) drain_percent: u8,
    /// By the spec, or by later operator evidence: it may take writes although it is a standby.
    pub(crate) promoted: bool,
}

#[derive(Debug, Default)]
pub(crate) struct World {
    pub(crate) clusters: Vec<Option<ClusterEntry>>,
    pub(crate) backends: Vec<Option<Arc<BackendSpec>>>,
    pub(crate) hosts: Hosts,
    /// Is any cluster drained in part? Only then does a pick draw lots.
    pub(crate) draining: bool,
}

/// Lots for clusters that are drained in part, one for each pick: 0–99. A cluster counts as drained when its
/// percentage is higher, so the share that stays away is exact whatever priorities and weights are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DrainLot(u8);

impl DrainLot {
    /// Only what is wholly drained counts as drained: where nobody draws, and for people.
    pub(crate) const HIGHEST: Self = Self(99);

    /// Draws, when a cluster of `world` is drained in part.
    pub(crate) fn draw(world: &World, rng: &mut SmallRng) -> Self {
        if world.draining { Self(rng.random_range(0..100)) } else { Self::HIGHEST }
    }
}

impl World {
    pub(crate) fn cluster(&self, id: ClusterId) -> Option<&ClusterEntry> {
        self.clusters.get(id.index())?.as_ref()
    }

    pub(crate) fn backend(&self, id: BackendId) -> Option<&Arc<BackendSpec>> {
        self.backends.get(id.index())?.as_ref()
    }

    /// Is this cluster drained for this request? `None` when it is not in the table: it cannot serve.
    pub(crate) fn drain(&self, id: ClusterId, lot: DrainLot) -> Option<Drain> {
        let percent = self.cluster(id)?.drain_percent;
        Some(if percent > lot.0 { Drain::Drained } else { Drain::Serving })
    }

    /// To be called after any cluster changed.
    pub(crate) fn note_drains(&mut self) {
        self.draining = self.clusters.iter().flatten().any(|entry| (1..100).contains(&entry.drain_percent));
    }

    pub(crate) fn cluster_name(&self, id: ClusterId) -> &str {
        self.cluster(id).map_or("", |entry| &entry.spec.name)
    }

    pub(crate) fn backend_name(&self, id: BackendId) -> &str {
        self.backend(id).map_or("", |spec| &spec.name)
    }

    pub(crate) fn stat(&self, backend: BackendId, cluster: ClusterId) -> StatSlot {
        self.backend(backend).map_or(StatSlot(0), |spec| stat(spec, cluster))
    }
}

pub(crate) fn stat(spec: &BackendSpec, cluster: ClusterId) -> StatSlot {
    match spec.stats.binary_search_by_key(&cluster, |(cluster, _)| *cluster) {
        Ok(place) => spec.stats[place].1,
        Err(_) => StatSlot(0),
    }
}
