//! A worker's immutable half of the table: specs and rules. Only `apply` changes it; `route` reads nothing else.

use std::sync::Arc;

use super::hosts::Hosts;
use crate::failover::Drain;
use crate::id::{BackendId, ClusterId};
use crate::model::{BackendSpec, ClusterSpec, StatSlot};

/// One member cluster.
#[derive(Debug)]
pub(crate) struct ClusterEntry {
    pub(crate) spec: Arc<ClusterSpec>,
    /// By the spec, or by later operator evidence.
    pub(crate) drain: Drain,
    /// By the spec, or by later operator evidence: it may take writes although it is a standby.
    pub(crate) promoted: bool,
}

#[derive(Debug, Default)]
pub(crate) struct World {
    pub(crate) clusters: Vec<Option<ClusterEntry>>,
    pub(crate) backends: Vec<Option<Arc<BackendSpec>>>,
    pub(crate) hosts: Hosts,
}

impl World {
    pub(crate) fn cluster(&self, id: ClusterId) -> Option<&ClusterEntry> {
        self.clusters.get(id.index())?.as_ref()
    }

    pub(crate) fn backend(&self, id: BackendId) -> Option<&Arc<BackendSpec>> {
        self.backends.get(id.index())?.as_ref()
    }

    /// Is this cluster drained? `None` when it is not in the table: it cannot serve.
    pub(crate) fn drain(&self, id: ClusterId) -> Option<Drain> {
        Some(self.cluster(id)?.drain)
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
