//! A worker's mutable half of the table: endpoints in slots, grouped by (backend, cluster), with their health,
//! load and budgets.
//!
//! Every group keeps its members sorted by [`Tier`]: ready ones in front, then terminating, suspected, ejected and
//! unreachable ones.
//! A change of health moves one member over one or two borders by swapping, so a pick knows at once how many
//! endpoints are usable and takes any of them without looking at the others.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::detector::Detector;
use super::group::Group;
use super::{EndpointKey, HealthEvent};
use crate::balance::{hash, sticky};
use crate::chunks::{ChainIndex, Chunks};
use crate::failover::{Counts, Tier, Tried};
use crate::health::board::{Board, Subject, Word};
use crate::health::endpoint::{Health, Outcome};
use crate::health::state::State;
use crate::id::{BackendId, ClusterId, EndpointId, NodeId, ZoneId};
use crate::model::{BackendLimits, BackendSpec, Condition, EndpointSpec, HashRing, OutlierPolicy, StatSlot};
use crate::retry::Budget;
use crate::time::MonoTime;

/// Endpoints that may be ejected at once before an ejection has to allocate.
const RETURNS_RESERVED: usize = 1024;

/// Restorations that wait for [`Table::next_event`](super::Table::next_event); later ones are dropped and counted.
pub(crate) const EVENTS_MAX: usize = 256;

/// Is a slot in use?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Life {
    /// Free; `position` is the next free slot plus one.
    #[default]
    Free,
    /// A member of its group.
    Live,
    /// Removed from its group; freed at its last release.
    Leaving,
}

/// One endpoint.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) addr: SocketAddr,
    pub(crate) health: Health,
    pub(crate) affinity: u64,
    pub(crate) turn: u32,
    pub(crate) id: EndpointId,
    pub(crate) backend: BackendId,
    /// Place in the group's members.
    pub(super) position: u32,
    pub(crate) in_flight: u32,
    pub(crate) node: NodeId,
    pub(crate) cluster: ClusterId,
    pub(crate) zone: ZoneId,
    pub(crate) condition: Condition,
    pub(crate) life: Life,
    /// What the detector says.
    pub(crate) state: State,
    /// What the detector knows besides; 0 = nothing.
    pub(crate) pulse: u32,
}

impl Default for Slot {
    fn default() -> Self {
        Self {
            addr: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
            health: Health::default(),
            affinity: 0,
            turn: 0,
            id: EndpointId(0),
            backend: BackendId(0),
            position: 0,
            in_flight: 0,
            node: NodeId(0),
            cluster: ClusterId(0),
            zone: ZoneId(0),
            condition: Condition::Ready,
            life: Life::Free,
            state: State::Healthy,
            pulse: 0,
        }
    }
}

impl Slot {
    pub(crate) fn tier(&self) -> Tier {
        let tier = match (self.health.is_ejected(), self.condition) {
            (true, Condition::Ready | Condition::Terminating) => Tier::Ejected,
            (false, Condition::Ready) => Tier::Ready,
            (false, Condition::Terminating) => Tier::Terminating,
        };
        tier.max(Tier::of(self.state))
    }
}

/// One backend.
#[derive(Debug, Default)]
pub(crate) struct BackendEntry {
    /// `None` while no spec of it is in the table: it serves nothing.
    pub(crate) spec: Option<Arc<BackendSpec>>,
    /// Nothing of it was usable, and too little is yet.
    pub(crate) outage: bool,
    pub(crate) budget: Option<Budget>,
    /// Attempts in flight on endpoints that are in the table.
    pub(crate) in_flight: u32,
    /// Sorted by cluster.
    pub(crate) groups: Vec<Group>,
}

impl BackendEntry {
    /// What one worker may send to it at once.
    pub(crate) fn limits(&self) -> BackendLimits {
        self.spec.as_ref().map(|spec| spec.limits).unwrap_or_default()
    }

    pub(crate) fn group(&self, cluster: ClusterId) -> Option<&Group> {
        let place = self.groups.binary_search_by_key(&cluster, |group| group.cluster).ok()?;
        Some(&self.groups[place])
    }

    pub(crate) fn group_mut(&mut self, cluster: ClusterId) -> Option<&mut Group> {
        let place = self.groups.binary_search_by_key(&cluster, |group| group.cluster).ok()?;
        Some(&mut self.groups[place])
    }

    fn group_or_new(&mut self, cluster: ClusterId, stat: StatSlot) -> &mut Group {
        let place = match self.groups.binary_search_by_key(&cluster, |group| group.cluster) {
            Ok(place) => place,
            Err(place) => {
                // Clusters of a backend are few, and backends many.
                self.groups.reserve_exact(1);
                self.groups.insert(place, Group { cluster, stat, ..Group::default() });
                place
            }
        };
        &mut self.groups[place]
    }
}

/// When an ejected endpoint returns.
type Return = Reverse<(MonoTime, EndpointKey)>;

/// See the module.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) slots: Chunks<Slot>,
    /// The first free slot plus one; 0 = none.
    free: u32,
    /// Slot plus one of each endpoint id; 0 = none.
    by_id: Chunks<u32>,
    by_affinity: ChainIndex,
    pub(crate) backends: Chunks<BackendEntry>,
    returns: BinaryHeap<Return>,
    pub(crate) events: VecDeque<HealthEvent>,
    pub(crate) events_lost: u64,
    pub(crate) detector: Detector,
}

impl Live {
    pub(crate) fn new(board: Arc<Board>, worker: u16, workers: u16) -> Self {
        Self {
            slots: Chunks::default(),
            free: 0,
            by_id: Chunks::default(),
            by_affinity: ChainIndex::default(),
            backends: Chunks::default(),
            returns: BinaryHeap::with_capacity(RETURNS_RESERVED),
            events: VecDeque::with_capacity(EVENTS_MAX),
            events_lost: 0,
            detector: Detector::new(board, worker, workers),
        }
    }

    // ------------------------------------------------------------ endpoints

    pub(crate) fn slot_of(&self, id: EndpointId) -> Option<u32> {
        self.by_id.get(id.index())?.checked_sub(1)
    }

    /// The slot that `key` names, if it is still that endpoint's.
    pub(crate) fn slot(&self, key: EndpointKey) -> Option<&Slot> {
        let slot = self.slots.get(key.slot as usize)?;
        (slot.turn == key.turn && slot.life != Life::Free).then_some(slot)
    }

    pub(crate) fn key(&self, slot: u32) -> EndpointKey {
        EndpointKey { slot, turn: self.slots[slot as usize].turn }
    }

    /// Adds or changes an endpoint. One that stays at its address keeps its slot, its health and its load; what
    /// had to leave comes back.
    pub(crate) fn set_endpoint(
        &mut self,
        id: EndpointId,
        spec: &EndpointSpec,
        cluster_name: &str,
        stat: StatSlot,
        now: MonoTime,
    ) -> Option<EndpointKey> {
        let mut left = None;
        if let Some(index) = self.slot_of(id) {
            let slot = &self.slots[index as usize];
            if (slot.backend, slot.cluster, slot.addr) == (spec.backend, spec.cluster, spec.addr) {
                self.update(index, |slot| {
                    slot.zone = spec.zone;
                    slot.node = spec.node;
                    slot.condition = spec.condition;
                });
                return None;
            }
            left = self.remove_endpoint(id, now);
        }
        let index = self.take_free_slot();
        let affinity = sticky::affinity_of(cluster_name, spec.addr);
        let turn = self.slots[index as usize].turn;
        self.slots[index as usize] = Slot {
            addr: spec.addr,
            health: Health::default(),
            affinity,
            turn,
            id,
            backend: spec.backend,
            position: 0,
            in_flight: 0,
            node: spec.node,
            cluster: spec.cluster,
            zone: spec.zone,
            condition: spec.condition,
            life: Life::Live,
            state: State::Healthy,
            pulse: 0,
        };
        self.by_id.grow_to_hold(id.index());
        self.by_id[id.index()] = index + 1;
        self.by_affinity.insert(affinity_hash(spec.backend, affinity), index);
        self.backends.grow_to_hold(spec.backend.index());
        let backend = &mut self.backends[spec.backend.index()];
        let is_new = backend.group(spec.cluster).is_none();
        backend.group_or_new(spec.cluster, stat).add(&mut self.slots, index);
        self.detector.add_endpoint(self.key(index), spec.backend, spec.cluster);
        self.plan_check(index, now);
        if is_new {
            self.copy(Subject::Backend(spec.backend, spec.cluster), now);
        }
        self.copy(Subject::Endpoint(id), now);
        left
    }

    /// Takes an endpoint out of every choice. Its slot stays until its last attempt ends.
    pub(crate) fn remove_endpoint(&mut self, id: EndpointId, now: MonoTime) -> Option<EndpointKey> {
        let index = self.slot_of(id)?;
        let state = self.slots[index as usize].state;
        self.forget_owed(index, now);
        self.by_id[id.index()] = 0;
        let key = self.key(index);
        let slot = &mut self.slots[index as usize];
        slot.life = Life::Leaving;
        let (backend, cluster, in_flight) = (slot.backend, slot.cluster, slot.in_flight);
        self.detector.remove_endpoint(slot.pulse, Subject::Endpoint(id), state, cluster);
        self.by_affinity.remove(affinity_hash(backend, slot.affinity), index);
        let entry = &mut self.backends[backend.index()];
        // Its attempts no longer count for the backend: the id may belong to another one when they end.
        entry.in_flight -= in_flight;
        if let Some(group) = entry.group_mut(cluster) {
            group.remove(&mut self.slots, index);
        }
        self.forget_if_gone(backend);
        if in_flight == 0 {
            self.free_slot(index);
        }
        Some(key)
    }

    fn take_free_slot(&mut self) -> u32 {
        match self.free.checked_sub(1) {
            Some(index) => {
                self.free = self.slots[index as usize].position;
                index
            }
            None => to_u32(self.slots.push(Slot::default())),
        }
    }

    fn free_slot(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        slot.life = Life::Free;
        self.detector.free_pulse(std::mem::take(&mut slot.pulse));
        // Keys of the endpoint that was here name nothing from now on.
        slot.turn = slot.turn.wrapping_add(1);
        slot.position = self.free;
        self.free = index + 1;
    }

    /// Changes a live slot and moves it to the tier where it now belongs.
    pub(crate) fn update(&mut self, index: u32, change: impl FnOnce(&mut Slot)) {
        let slot = &mut self.slots[index as usize];
        let before = slot.tier();
        change(slot);
        let after = slot.tier();
        let (backend, cluster) = (slot.backend, slot.cluster);
        if before != after
            && let Some(group) = self.backends[backend.index()].group_mut(cluster)
        {
            group.shift(&mut self.slots, index, before, after);
        }
    }

    pub(crate) fn find_affinity(&self, backend: BackendId, affinity: u64) -> Option<u32> {
        self.by_affinity.find(affinity_hash(backend, affinity), |index| {
            let slot = &self.slots[index as usize];
            slot.backend == backend && slot.affinity == affinity
        })
    }

    // ------------------------------------------------------------ backends

    pub(crate) fn set_backend(
        &mut self,
        id: BackendId,
        spec: Option<&Arc<BackendSpec>>,
        now: MonoTime,
    ) -> &mut BackendEntry {
        self.backends.grow_to_hold(id.index());
        let entry = &mut self.backends[id.index()];
        let old = std::mem::replace(&mut entry.spec, spec.map(Arc::clone));
        let is_same = |spec: &BackendSpec| old.as_ref().is_some_and(|old| old.name == spec.name);
        if spec.is_some_and(|spec| !is_same(spec)) {
            // Another Service under this id: what was known is not about it.
            for nth in 0..self.backends[id.index()].groups.len() {
                self.forget_group(id, nth);
                let group = &mut self.backends[id.index()].groups[nth];
                (group.word, group.local) = (Word::default(), false);
            }
        }
        // Those of a check that there was before are planned.
        let was_checked = old.as_ref().is_some_and(|old| old.detection.check.is_some());
        if !was_checked && spec.is_some_and(|spec| spec.detection.check.is_some()) {
            for nth in 0..self.backends[id.index()].groups.len() {
                for at in 0..self.backends[id.index()].groups[nth].members.len() {
                    self.plan_check(self.backends[id.index()].groups[nth].members[at], now);
                }
            }
        }
        self.forget_if_gone(id);
        &mut self.backends[id.index()]
    }

    /// Gives the memory of a removed backend back, once nothing is left in it.
    fn forget_if_gone(&mut self, id: BackendId) {
        let entry = &self.backends[id.index()];
        let empty = |group: &Group| group.members.is_empty() && group.ring.is_none();
        if entry.spec.is_some() || !entry.groups.iter().all(empty) {
            return;
        }
        for nth in 0..self.backends[id.index()].groups.len() {
            self.forget_group(id, nth);
        }
        self.backends[id.index()] = BackendEntry::default();
    }

    /// What the detector knows of a backend in a cluster is no longer about it.
    fn forget_group(&mut self, id: BackendId, nth: usize) {
        let group = &mut self.backends[id.index()].groups[nth];
        let (cluster, word) = (group.cluster, group.word);
        if let Some(part) = std::mem::take(&mut group.part).checked_sub(1) {
            self.detector.free_part(part);
        }
        self.detector.forget(Subject::Backend(id, cluster), word.state());
    }

    /// Sets or removes a ring; the one that it replaces comes back.
    pub(crate) fn set_ring(
        &mut self,
        backend: BackendId,
        cluster: ClusterId,
        ring: Option<Arc<HashRing>>,
        stat: StatSlot,
    ) -> Option<Arc<HashRing>> {
        self.backends.grow_to_hold(backend.index());
        let entry = &mut self.backends[backend.index()];
        if ring.is_none() && entry.group(cluster).is_none() {
            return None;
        }
        let old = std::mem::replace(&mut entry.group_or_new(cluster, stat).ring, ring);
        self.forget_if_gone(backend);
        old
    }

    // ------------------------------------------------------------ attempts

    /// Counted before the connect, not after it: an endpoint whose connects hang must look busy at once.
    pub(crate) fn begin(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        slot.in_flight += 1;
        self.backends[slot.backend.index()].in_flight += 1;
        if let Some(entry) = self.detector.clusters.get_mut(slot.cluster.index()) {
            entry.in_flight += 1;
        }
    }

    /// The end of an attempt. A key that names nothing changes nothing.
    pub(crate) fn release(&mut self, key: EndpointKey) {
        if self.slot(key).is_none() {
            return;
        }
        let slot = &mut self.slots[key.slot as usize];
        slot.in_flight = slot.in_flight.saturating_sub(1);
        let (cluster, in_flight) = (slot.cluster, slot.in_flight);
        if let Some(entry) = self.detector.clusters.get_mut(cluster.index()) {
            entry.in_flight = entry.in_flight.saturating_sub(1);
        }
        self.settle(key, in_flight);
        let slot = &self.slots[key.slot as usize];
        match slot.life {
            Life::Live => {
                let entry = &mut self.backends[slot.backend.index()];
                entry.in_flight = entry.in_flight.saturating_sub(1);
            }
            Life::Leaving if slot.in_flight == 0 => self.free_slot(key.slot),
            Life::Leaving | Life::Free => {}
        }
    }

    pub(crate) fn on_outcome(
        &mut self,
        key: EndpointKey,
        outcome: Outcome,
        latency: Option<Duration>,
        now: MonoTime,
        policy: &OutlierPolicy,
    ) -> Option<HealthEvent> {
        self.restore_due(now);
        self.sync(now);
        self.learn(key, outcome, latency, now);
        self.eject(key, outcome, now, policy)
    }

    /// Failures in a row.
    pub(crate) fn eject(
        &mut self,
        key: EndpointKey,
        outcome: Outcome,
        now: MonoTime,
        policy: &OutlierPolicy,
    ) -> Option<HealthEvent> {
        let slot = self.slot(key).filter(|slot| slot.life == Life::Live)?;
        match slot.state {
            // The detector leads it back: what fails on the way says nothing new.
            State::Down(_) | State::Probation => return None,
            State::Healthy | State::Suspect | State::Ramp => {}
        }
        let (before, endpoint) = (slot.health, slot.id);
        let after = before.on_outcome(outcome, now, policy);
        if after == before {
            return None;
        }
        self.update(key.slot, |slot| slot.health = after);
        match after {
            Health::Ejected { until, .. } => {
                self.returns.push(Reverse((until, key)));
                self.detector_ejected(key, now);
                Some(HealthEvent::Ejected { endpoint, lasts: until.since(now) })
            }
            Health::Healthy { .. } | Health::Probation { .. } => None,
        }
    }

    /// Real requests were answered well: an ejection ends before its time. The next failure ejects for longer.
    pub(crate) fn restore_early(&mut self, key: EndpointKey) {
        let Some(slot) = self.slot(key) else { return };
        let (health, endpoint) = (slot.health, slot.id);
        if let Health::Ejected { times, .. } = health {
            self.update(key.slot, |slot| slot.health = Health::Probation { times });
            self.tell(HealthEvent::Restored { endpoint });
        }
    }

    fn tell(&mut self, event: HealthEvent) {
        if self.events.len() < EVENTS_MAX {
            self.events.push_back(event);
        } else {
            self.events_lost += 1;
        }
    }

    /// Ends the ejections that are over at `now`.
    pub(crate) fn restore_due(&mut self, now: MonoTime) {
        while let Some(Reverse((until, key))) = self.returns.peek().copied()
            && until <= now
        {
            self.returns.pop();
            // The endpoint may have left since; its successor in the slot has another turn.
            let Some(slot) = self.slot(key).filter(|slot| slot.life == Life::Live) else { continue };
            let (before, endpoint) = (slot.health, slot.id);
            let after = before.at(now);
            if after == before {
                continue;
            }
            self.update(key.slot, |slot| slot.health = after);
            self.tell(HealthEvent::Restored { endpoint });
        }
    }

    pub(crate) fn next_return(&self) -> Option<MonoTime> {
        self.returns.peek().map(|Reverse((until, _))| *until)
    }

    /// How many endpoints of `group`, by tier, this exchange has tried.
    pub(crate) fn tried_in(&self, backend: BackendId, cluster: ClusterId, tried: &Tried) -> Counts {
        let mut counts = Counts::default();
        for (nth, entry) in tried.endpoints().iter().enumerate() {
            let again = tried.endpoints()[..nth].iter().any(|other| other.endpoint == entry.endpoint);
            if entry.backend != backend || entry.cluster != cluster || again {
                continue;
            }
            if let Some(slot) = self.slot(entry.endpoint).filter(|slot| slot.life == Life::Live) {
                counts[slot.tier() as usize] += 1;
            }
        }
        counts
    }

    pub(crate) fn tier_of(&self, index: u32) -> Tier {
        self.slots[index as usize].tier()
    }

    /// Round robin goes on by one.
    pub(crate) fn advance_cursor(&mut self, backend: BackendId, cluster: ClusterId) {
        let group = self.backends.get_mut(backend.index()).and_then(|entry| entry.group_mut(cluster));
        if let Some(group) = group {
            group.cursor = group.cursor.wrapping_add(1);
        }
    }
}

#[allow(clippy::cast_possible_truncation, reason = "the index takes 32 bits of the hash")]
fn affinity_hash(backend: BackendId, affinity: u64) -> u32 {
    hash::finish(affinity ^ u64::from(backend.0)) as u32
}

/// Slots are numbered with 32 bits: 4 billion endpoints do not fit in memory.
pub(super) fn to_u32(value: usize) -> u32 {
    u32::try_from(value).expect("endpoints are fewer than 2^32")
}
