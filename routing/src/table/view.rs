//! The table as the admin API and the access log show it. Not for the request path, except [`Table::endpoint`] and
//! the names.

use std::net::SocketAddr;
use std::sync::Arc;

use super::live::{Life, Live};
use super::{EndpointKey, Table};
use crate::failover::Counts;
use crate::health::action::Evidence;
use crate::health::board::Subject;
use crate::health::endpoint::Health;
use crate::health::state::State;
use crate::id::{BackendId, BindId, ClusterId, EndpointId, ListenerId, NodeId, ZoneId};
use crate::model::{Condition, HostKey, HostRules, ListenerSpec, StatSlot};
use crate::time::MonoTime;

/// One endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointView {
    /// Names it in this table.
    pub key: EndpointKey,
    /// Names it everywhere.
    pub id: EndpointId,
    /// Where it is reached.
    pub addr: SocketAddr,
    /// Its cluster; the name is [`Table::cluster_name`].
    pub cluster: ClusterId,
    /// Its backend; the name is [`Table::backend_name`].
    pub backend: BackendId,
    /// Its zone.
    pub zone: ZoneId,
    /// Its node.
    pub node: NodeId,
    /// Ready or terminating.
    pub condition: Condition,
    /// What its attempts say.
    pub health: Health,
    /// What the detector says.
    pub verdict: VerdictView,
    /// Attempts in flight from this worker.
    pub in_flight: u32,
    /// Counters of its (backend, cluster).
    pub stat: StatSlot,
}

/// What the detector says of a cluster, a backend in a cluster, or an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerdictView {
    /// The state; its reason is [`State::reason`].
    pub state: State,
    /// Since when, to 16 µs; zero = always.
    pub since: MonoTime,
    /// What this worker's traffic says at its latest tick.
    pub evidence: Evidence,
}

/// How many endpoints are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HealthCounts {
    /// Ready and taking requests; those on probation included.
    pub ready: u32,
    /// Terminating.
    pub terminating: u32,
    /// Suspected, or not yet trusted again.
    pub suspect: u32,
    /// Ejected, or down.
    pub ejected: u32,
    /// Attempts in flight from this worker.
    pub in_flight: u32,
}

impl HealthCounts {
    fn add(&mut self, counts: Counts, in_flight: u32) {
        let [ready, terminating, suspect, probation, ejected, unreachable] = counts;
        self.ready += ready;
        self.terminating += terminating;
        self.suspect += suspect + probation;
        self.ejected += ejected + unreachable;
        self.in_flight += in_flight;
    }
}

/// One member cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterView {
    /// Which.
    pub id: ClusterId,
    /// Its name.
    pub name: Arc<str>,
    /// Its region; empty = unknown.
    pub region: Arc<str>,
    /// The share of its requests that an operator keeps away, in percent; 100 = drained.
    pub drain_percent: u8,
    /// May it take writes although it is a standby?
    pub promoted: bool,
    /// What the detector says of the whole cluster.
    pub verdict: VerdictView,
    /// Its endpoints, over all backends.
    pub endpoints: HealthCounts,
}

/// One backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendView {
    /// Which.
    pub id: BackendId,
    /// `namespace/service:port`.
    pub name: Arc<str>,
    /// Its endpoints in each cluster that has any.
    pub clusters: Vec<(ClusterId, HealthCounts)>,
    /// What the detector says of it in each of them, in the same order.
    pub verdicts: Vec<VerdictView>,
    /// Attempts in flight from this worker, on endpoints that are in the table.
    pub in_flight: u32,
    /// Whole retries that its budget would grant now.
    pub retries_left: u64,
}

/// One host pattern with its rules.
#[derive(Clone, Copy, Debug)]
pub struct HostView<'a> {
    /// Listener and pattern.
    pub key: &'a HostKey,
    /// Its rules, in order.
    pub rules: &'a HostRules,
}

/// One listener.
#[derive(Clone, Copy, Debug)]
pub struct ListenerView<'a> {
    /// Which.
    pub id: ListenerId,
    /// What it is.
    pub spec: &'a ListenerSpec,
    /// How many host patterns have rules on it.
    pub hosts: usize,
}

impl Table {
    /// The endpoint that `key` names; `None` once it has left and its last attempt has ended.
    #[must_use]
    pub fn endpoint(&self, key: EndpointKey) -> Option<EndpointView> {
        let mut live = self.live.borrow_mut();
        live.slot(key)?;
        Some(self.endpoint_view(&mut live, key))
    }

    fn endpoint_view(&self, live: &mut Live, key: EndpointKey) -> EndpointView {
        let verdict = live.verdict_view(Subject::Endpoint(live.slots[key.slot as usize].id));
        let slot = &live.slots[key.slot as usize];
        EndpointView {
            key,
            id: slot.id,
            addr: slot.addr,
            cluster: slot.cluster,
            backend: slot.backend,
            zone: slot.zone,
            node: slot.node,
            condition: slot.condition,
            health: slot.health,
            verdict,
            in_flight: slot.in_flight,
            stat: self.world.stat(slot.backend, slot.cluster),
        }
    }

    /// Where a bind listens; `None` when it has no listener.
    #[must_use]
    pub fn address(&self, bind: BindId) -> Option<SocketAddr> {
        self.world.hosts.served(bind).map(|(addr, _)| addr)
    }

    /// The name of a cluster; empty when it is not in the table.
    #[must_use]
    pub fn cluster_name(&self, id: ClusterId) -> &str {
        self.world.cluster_name(id)
    }

    /// How much of a cluster's load goes elsewhere because it is drained, in percent; 100 when it is not in the table.
    #[must_use]
    pub fn drain_percent(&self, id: ClusterId) -> u8 {
        self.world.cluster(id).map_or(100, |entry| entry.drain_percent)
    }

    /// The name of a backend; empty when it is not in the table.
    #[must_use]
    pub fn backend_name(&self, id: BackendId) -> &str {
        self.world.backend_name(id)
    }

    /// Every cluster with what it has.
    #[must_use]
    pub fn clusters(&self) -> Vec<ClusterView> {
        let mut counts = vec![HealthCounts::default(); self.world.clusters.len()];
        let mut live = self.live.borrow_mut();
        live.sync_for_view();
        for group in live.backends.iter().flat_map(|entry| &entry.groups) {
            if let Some(counts) = counts.get_mut(group.cluster.index()) {
                counts.add(group.counts, 0);
            }
        }
        for slot in live.slots.iter().filter(|slot| slot.life == Life::Live) {
            if let Some(counts) = counts.get_mut(slot.cluster.index()) {
                counts.in_flight += slot.in_flight;
            }
        }
        let entries = (0u16..).zip(&self.world.clusters).zip(counts);
        let views = entries.filter_map(|((id, entry), endpoints)| {
            let entry = entry.as_ref()?;
            Some(ClusterView {
                id: ClusterId(id),
                name: Arc::clone(&entry.spec.name),
                region: Arc::clone(&entry.spec.region),
                drain_percent: entry.drain_percent,
                promoted: entry.promoted,
                verdict: live.verdict_view(Subject::Cluster(ClusterId(id))),
                endpoints,
            })
        });
        views.collect()
    }

    /// Every backend with what it has.
    #[must_use]
    pub fn backends(&self) -> Vec<BackendView> {
        let mut live = self.live.borrow_mut();
        live.sync_for_view();
        let specs = (0u32..).zip(&self.world.backends);
        let views = specs.filter_map(|(id, spec)| {
            let (id, spec) = (BackendId(id), spec.as_ref()?);
            let here: Vec<ClusterId> =
                live.backends.get(id.index())?.groups.iter().map(|group| group.cluster).collect();
            let verdicts = here.into_iter().map(|cluster| live.verdict_view(Subject::Backend(id, cluster)));
            let verdicts = verdicts.collect();
            let entry = &live.backends[id.index()];
            let clusters = entry.groups.iter().map(|group| {
                let mut counts = HealthCounts::default();
                let members = group.members.iter();
                counts.add(group.counts, members.map(|slot| live.slots[*slot as usize].in_flight).sum());
                (group.cluster, counts)
            });
            Some(BackendView {
                id,
                name: Arc::clone(&spec.name),
                clusters: clusters.collect(),
                verdicts,
                in_flight: entry.in_flight,
                retries_left: entry.budget.map_or(0, |budget| budget.left()),
            })
        });
        views.collect()
    }

    /// The endpoints of one backend.
    #[must_use]
    pub fn endpoints(&self, backend: BackendId) -> Vec<EndpointView> {
        let mut live = self.live.borrow_mut();
        live.sync_for_view();
        let Some(entry) = live.backends.get(backend.index()) else { return Vec::new() };
        let slots: Vec<u32> = entry.groups.iter().flat_map(|group| &group.members).copied().collect();
        let views = slots.into_iter().map(|slot| {
            let key = live.key(slot);
            self.endpoint_view(&mut live, key)
        });
        views.collect()
    }

    /// Every host pattern with its rules, in no order.
    pub fn hosts(&self) -> impl Iterator<Item = HostView<'_>> {
        self.world.hosts.hosts().map(|entry| HostView { key: &entry.key, rules: &entry.rules })
    }

    /// Every listener.
    #[must_use]
    pub fn listeners(&self) -> Vec<ListenerView<'_>> {
        let mut hosts = std::collections::BTreeMap::new();
        for entry in self.world.hosts.hosts() {
            *hosts.entry(entry.key.listener).or_insert(0) += 1;
        }
        let listeners = self.world.hosts.listeners();
        listeners
            .map(|(id, spec)| ListenerView { id, spec, hosts: hosts.get(&id).copied().unwrap_or(0) })
            .collect()
    }
}

impl Live {
    fn verdict_view(&mut self, subject: Subject) -> VerdictView {
        let Some(verdict) = self.verdict(subject) else { return VerdictView::default() };
        let evidence = self.evidence_now(subject);
        VerdictView { state: verdict.state(), since: verdict.word.since(), evidence }
    }
}
