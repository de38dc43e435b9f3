//! Every number that the table uses, by the name it stands for.

use std::net::SocketAddr;
use std::sync::Arc;

use routing::id::{BackendId, BindId, ClusterId, ListenerId, NodeId, ZoneId};
use routing::model::{Carrier, StatSlot};

use crate::intern::Interner;
use crate::merge::BackendKey;

/// What a statistics slot counts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum StatKey {
    /// A route.
    Route(Arc<str>),
    /// A cluster's part of a backend.
    Backend(BackendKey, Arc<str>),
}

/// The numbers in use.
#[derive(Debug)]
pub struct Ids {
    /// Member clusters, by name.
    pub clusters: Interner<Arc<str>>,
    /// Sockets.
    pub binds: Interner<(SocketAddr, Carrier)>,
    /// Listeners, by name and socket.
    pub listeners: Interner<(Arc<str>, SocketAddr)>,
    /// Backends.
    pub backends: Interner<BackendKey>,
    /// Endpoints.
    pub endpoints: Interner<(BackendId, ClusterId, SocketAddr)>,
    zones: Interner<Arc<str>>,
    nodes: Interner<(ClusterId, Arc<str>)>,
    stats: Interner<StatKey>,
    /// How often all slots were taken: what is counted shares slot 0 then.
    stats_refused: u64,
}

impl Ids {
    /// No numbers in use; statistics slots up to `series_max`.
    #[must_use]
    pub fn new(series_max: u32) -> Self {
        Self {
            clusters: Interner::new(0, u32::from(u16::MAX)),
            binds: Interner::new(0, u32::from(u16::MAX)),
            listeners: Interner::new(0, u32::MAX),
            backends: Interner::new(0, u32::MAX),
            endpoints: Interner::new(0, u32::MAX),
            zones: Interner::new(1, u32::from(u16::MAX)),
            nodes: Interner::new(1, u32::MAX),
            stats: Interner::new(1, series_max),
            stats_refused: 0,
        }
    }

    /// The cluster's number, with one more reference. `None`: more clusters than numbers.
    pub fn cluster(&mut self, name: &Arc<str>) -> Option<ClusterId> {
        self.clusters.acquire(name).and_then(|id| u16::try_from(id).ok()).map(ClusterId)
    }

    /// The socket's number, with one more reference.
    pub fn bind(&mut self, addr: SocketAddr, carrier: Carrier) -> Option<BindId> {
        self.binds.acquire(&(addr, carrier)).and_then(|id| u16::try_from(id).ok()).map(BindId)
    }

    /// The listener's number, with one more reference.
    pub fn listener(&mut self, key: &(Arc<str>, SocketAddr)) -> Option<ListenerId> {
        self.listeners.acquire(key).map(ListenerId)
    }

    /// The slot of a statistic, with one more reference; 0 when all are taken, which is counted.
    pub fn stat(&mut self, key: &StatKey) -> StatSlot {
        let slot = self.stats.acquire(key);
        self.stats_refused += u64::from(slot.is_none());
        StatSlot(slot.unwrap_or(0))
    }

    /// How often there was no slot.
    #[must_use]
    pub fn stats_refused(&self) -> u64 {
        self.stats_refused
    }

    /// Gives a reference to a slot back.
    pub fn release_stat(&mut self, key: &StatKey) {
        self.stats.release(key);
    }

    /// The zone's number, with one more reference; 0 = unknown.
    pub fn zone(&mut self, name: &Arc<str>) -> ZoneId {
        let id = if name.is_empty() { None } else { self.zones.acquire(name) };
        ZoneId(id.and_then(|id| u16::try_from(id).ok()).unwrap_or(0))
    }

    /// The node's number, with one more reference; 0 = unknown.
    pub fn node(&mut self, cluster: ClusterId, name: &Arc<str>) -> NodeId {
        let id = if name.is_empty() { None } else { self.nodes.acquire(&(cluster, name.clone())) };
        NodeId(id.unwrap_or(0))
    }

    /// Gives the references of one endpoint's zone and node back.
    pub fn release_place(&mut self, cluster: ClusterId, zone: &Arc<str>, node: &Arc<str>) {
        self.zones.release(zone);
        self.nodes.release(&(cluster, node.clone()));
    }

    /// An update went out to everybody, of endpoints: their numbers may be used by later ones, but while somebody's rings
    /// may still name them.
    pub fn settle_places(&mut self, rings_are_held: bool) {
        self.zones.settle();
        self.nodes.settle();
        if !rings_are_held {
            self.endpoints.settle();
        }
    }

    /// An update went out: numbers that it removed may be used by later ones.
    pub fn settle(&mut self) {
        self.clusters.settle();
        self.binds.settle();
        self.listeners.settle();
        self.backends.settle();
        self.endpoints.settle();
        self.zones.settle();
        self.nodes.settle();
        self.stats.settle();
    }
}
