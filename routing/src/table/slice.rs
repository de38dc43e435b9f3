//! An update in slices: a worker's loop applies a bounded part of it each turn and serves in between.
//!
//! What is referred to comes before what refers to it, and goes behind it, so that a request between two slices finds
//! a table that serves: clusters, backends, endpoints, rings, rules, listeners are set in this order; then what is
//! gone goes in the opposite one. A listener comes when its rules are there and goes before they do.
//!
//! One case cannot be served in between: a number that now names something else (the controller started anew and gave
//! its numbers again). Rules of the old owner would lead to the new one, and an endpoint's number that another backend
//! gets takes it from the one that had it, which has it back under another number many turns later. Such an update is
//! found out first, and applied in one piece whatever it costs.

use std::sync::Arc;

use regex::bytes::Regex;
use smallvec::SmallVec;

use super::apply::{Applied, OpenedBind, OutOfStep};
use super::live::Life;
use super::{EndpointKey, Table};
use crate::delta::{Change, TableDelta, Update};
use crate::id::{BackendId, BindId, ClusterId, Generation, ListenerId};
use crate::matcher::path::all_regexes;
use crate::model::{HostRules, Protocol};
use crate::time::MonoTime;

/// Entries between two looks at whether there is time for more. An entry costs 0.1 to 2 µs.
pub const ENTRIES_PER_LOOK: usize = 16;

/// Regexes of a host that are made ready as one entry: each gets memory of this worker's own.
const REGEXES_PER_ENTRY: usize = 4;

/// An update that is being applied. Begun by [`Table::begin`], carried on by [`Table::advance`].
///
/// Dropped before it is whole it leaves a table between two generations: only a worker that ends may do that.
#[derive(Debug)]
pub struct Applying {
    generation: Generation,
    step: Step,
    /// The next entry of the step.
    at: usize,
    pace: Pace,
    /// A snapshot over a table that holds something: what the snapshot does not list goes.
    replaces: bool,
    /// Of what anything is to go, as far as it was seen.
    goes: Goes,
    /// What was served on the binds that change, before the first change.
    pub(super) binds: Vec<(BindId, Option<(std::net::SocketAddr, Protocol)>)>,
    /// Of the host that is next.
    regexes: Vec<Regex>,
    pub(super) applied: Applied,
}

impl Applying {
    /// Endpoints that have gone since this was last asked: their idle connections are to be closed. Attempts in flight
    /// go on.
    pub fn take_removed(&mut self) -> impl Iterator<Item = EndpointKey> {
        self.applied.removed.drain(..)
    }

    /// Backends that have gone since this was last asked, and those whose number has another owner since.
    pub fn take_replaced(&mut self) -> impl Iterator<Item = BackendId> {
        self.applied.replaced.drain(..)
    }

    /// Binds to close, then to open, once it is whole.
    pub fn take_sockets(&mut self) -> (Vec<BindId>, Vec<OpenedBind>) {
        (std::mem::take(&mut self.applied.closed), std::mem::take(&mut self.applied.opened))
    }

    /// What is left of what it changed outside the table.
    #[must_use]
    pub fn into_applied(self) -> Applied {
        self.applied
    }

    /// On to the next part in which there is anything to do: most updates are of one kind.
    fn next_step(&mut self, delta: &TableDelta) {
        self.at = 0;
        loop {
            self.step = self.step.next();
            let is_due = match self.step {
                Step::Owners | Step::End => true,
                Step::Clusters => !delta.clusters.is_empty(),
                Step::Backends => !delta.backends.is_empty(),
                Step::Endpoints => !delta.endpoints.is_empty(),
                Step::Rings => !delta.rings.is_empty(),
                Step::Hosts => !delta.hosts.is_empty(),
                Step::Listeners => !delta.listeners.is_empty(),
                Step::GoneListeners => self.goes.listeners,
                Step::GoneHosts => self.goes.hosts,
                Step::GoneRings => self.goes.rings,
                Step::GoneEndpoints => self.goes.endpoints,
                Step::GoneBackends => self.goes.backends,
                Step::GoneClusters => self.goes.clusters,
            };
            if is_due {
                return;
            }
        }
    }
}

/// How far an update has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It is in force.
    Whole,
    /// There is more to do.
    Part,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    /// In slices.
    Sliced,
    /// In one piece: a number has another owner.
    AtOnce,
}

/// Kinds of entries of which some are to go.
#[derive(Clone, Copy, Debug, Default)]
struct Goes {
    listeners: bool,
    hosts: bool,
    rings: bool,
    endpoints: bool,
    backends: bool,
    clusters: bool,
}

impl Goes {
    /// Of every kind: what a snapshot does not list is found by looking at what is here.
    const ANY: Self =
        Self { listeners: true, hosts: true, rings: true, endpoints: true, backends: true, clusters: true };
}

/// The parts of an update in the order in which they are applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Owners,
    Clusters,
    Backends,
    Endpoints,
    Rings,
    Hosts,
    Listeners,
    GoneListeners,
    GoneHosts,
    GoneRings,
    GoneEndpoints,
    GoneBackends,
    GoneClusters,
    End,
}

impl Step {
    fn next(self) -> Self {
        match self {
            Self::Owners => Self::Clusters,
            Self::Clusters => Self::Backends,
            Self::Backends => Self::Endpoints,
            Self::Endpoints => Self::Rings,
            Self::Rings => Self::Hosts,
            Self::Hosts => Self::Listeners,
            Self::Listeners => Self::GoneListeners,
            Self::GoneListeners => Self::GoneHosts,
            Self::GoneHosts => Self::GoneRings,
            Self::GoneRings => Self::GoneEndpoints,
            Self::GoneEndpoints => Self::GoneBackends,
            Self::GoneBackends => Self::GoneClusters,
            Self::GoneClusters | Self::End => Self::End,
        }
    }
}

/// One place of a list, or of what is here.
enum Found<K> {
    /// Behind the last one.
    End,
    /// Nothing to do.
    Stays,
    Goes(K),
}

impl Table {
    /// Begins to apply `update`. Fails, and changes nothing, as [`Table::apply`] does.
    ///
    /// No other update may be applied before this one is whole.
    pub fn begin(&mut self, update: &Update, now: MonoTime) -> Result<Applying, OutOfStep> {
        self.live.get_mut().restore_due(now);
        let is_empty = self.generation == Generation(0);
        let mut applying = Applying {
            generation: update.generation,
            step: Step::Owners,
            at: 0,
            pace: Pace::Sliced,
            replaces: false,
            goes: Goes::default(),
            binds: Vec::new(),
            regexes: Vec::new(),
            applied: Applied::default(),
        };
        match &update.change {
            Change::Table(_) if update.base_generation != self.generation => {
                return Err(OutOfStep { have: self.generation, base: update.base_generation });
            }
            Change::Table(_) => {}
            // Nobody owns a number yet.
            Change::Snapshot(_) if is_empty => applying.step = Step::Clusters,
            Change::Snapshot(_) => (applying.replaces, applying.goes) = (true, Goes::ANY),
            Change::Health(delta) => {
                // Evidence is absolute: it counts whatever table we run. Only in step does the number follow.
                if update.base_generation != self.generation {
                    applying.generation = self.generation;
                }
                self.apply_health(delta);
                applying.step = Step::End;
            }
        }
        Ok(applying)
    }

    /// Applies entries while `more` says so, which is asked after each [`ENTRIES_PER_LOOK`], and counts the update as in
    /// force when none is left. `update` is the one that it was begun with.
    pub fn advance(
        &mut self,
        applying: &mut Applying,
        update: &Update,
        now: MonoTime,
        mut more: impl FnMut() -> bool,
    ) -> Progress {
        let empty = TableDelta::default();
        let delta = match &update.change {
            Change::Table(delta) | Change::Snapshot(delta) => delta,
            Change::Health(_) => &empty,
        };
        loop {
            for _ in 0..ENTRIES_PER_LOOK {
                if applying.step == Step::End {
                    self.settle_binds(applying);
                    self.generation = applying.generation;
                    return Progress::Whole;
                }
                let at = applying.at;
                applying.at += 1;
                match applying.step {
                    Step::Owners => self.compare_owners(applying, delta, at),
                    Step::Clusters
                    | Step::Backends
                    | Step::Endpoints
                    | Step::Rings
                    | Step::Hosts
                    | Step::Listeners => self.set_entry(applying, delta, at, now),
                    Step::GoneListeners
                    | Step::GoneHosts
                    | Step::GoneRings
                    | Step::GoneEndpoints
                    | Step::GoneBackends
                    | Step::GoneClusters => self.remove_entry(applying, delta, at, now),
                    Step::End => {}
                }
            }
            if applying.pace != Pace::AtOnce && !more() {
                return Progress::Part;
            }
        }
    }

    /// Has the owner of one number changed? Then nothing may be served before the update is whole.
    fn compare_owners(&self, applying: &mut Applying, delta: &TableDelta, at: usize) {
        let (clusters, backends, listeners) =
            (delta.clusters.len(), delta.backends.len(), delta.listeners.len());
        let is_another = if let Some((id, spec)) = delta.clusters.get(at) {
            spec.as_ref()
                .is_some_and(|spec| self.world.cluster(*id).is_some_and(|entry| entry.spec.name != spec.name))
        } else if let Some((id, spec)) = delta.backends.get(at - clusters) {
            spec.as_ref()
                .is_some_and(|spec| self.world.backend(*id).is_some_and(|before| before.name != spec.name))
        } else if let Some((id, spec)) = delta.listeners.get(at - clusters - backends) {
            spec.as_ref().is_some_and(|spec| {
                let before = self.world.hosts.listener(*id);
                before.is_some_and(|before| (&before.name, before.addr) != (&spec.name, spec.addr))
            })
        } else if let Some((id, spec)) = delta.endpoints.get(at - clusters - backends - listeners) {
            // At another address, but of the same backend in the same cluster, it stays in its group.
            let live = self.live.borrow();
            spec.as_ref().is_some_and(|spec| {
                let before = live.slot_of(*id).map(|slot| &live.slots[slot as usize]);
                before.is_some_and(|slot| (slot.backend, slot.cluster) != (spec.backend, spec.cluster))
            })
        } else {
            return applying.next_step(delta);
        };
        if is_another {
            applying.pace = Pace::AtOnce;
            applying.next_step(delta);
        }
    }

    fn set_entry(&mut self, applying: &mut Applying, delta: &TableDelta, at: usize, now: MonoTime) {
        let is_there = match applying.step {
            Step::Clusters => delta.clusters.get(at).map(|(id, spec)| match spec {
                Some(_) => self.set_cluster(*id, spec.as_ref(), now),
                None => applying.goes.clusters = true,
            }),
            Step::Backends => delta.backends.get(at).map(|(id, spec)| match spec {
                Some(_) if self.set_backend(*id, spec.as_ref(), now) => applying.applied.replaced.push(*id),
                Some(_) => {}
                None => applying.goes.backends = true,
            }),
            Step::Endpoints => delta.endpoints.get(at).map(|(id, spec)| {
                let Some(spec) = spec else { return applying.goes.endpoints = true };
                let name = self.world.cluster_name(spec.cluster);
                let stat = self.world.stat(spec.backend, spec.cluster);
                let removed = self.live.get_mut().set_endpoint(*id, spec, name, stat, now);
                applying.applied.removed.extend(removed);
            }),
            Step::Rings => delta.rings.get(at).map(|(key, ring)| match ring {
                Some(_) => self.set_ring(*key, ring.clone()),
                None => applying.goes.rings = true,
            }),
            Step::Hosts => delta.hosts.get(at).map(|(key, rules)| {
                let Some(rules) = rules else { return applying.goes.hosts = true };
                match next_regexes(rules, &mut applying.regexes) {
                    Progress::Part => applying.at = at,
                    Progress::Whole => {
                        let own = std::mem::take(&mut applying.regexes);
                        self.set_host(key, Some((rules, own.into())));
                    }
                }
            }),
            Step::Listeners => delta.listeners.get(at).map(|(id, spec)| match spec {
                Some(spec) => self.set_listener(*id, Some(spec), applying),
                None => applying.goes.listeners = true,
            }),
            Step::Owners
            | Step::GoneListeners
            | Step::GoneHosts
            | Step::GoneRings
            | Step::GoneEndpoints
            | Step::GoneBackends
            | Step::GoneClusters
            | Step::End => None,
        };
        if is_there.is_none() {
            applying.next_step(delta);
        }
    }

    fn remove_entry(&mut self, applying: &mut Applying, delta: &TableDelta, at: usize, now: MonoTime) {
        let replaces = applying.replaces;
        let hosts = &self.world.hosts;
        let is_over = match applying.step {
            Step::GoneListeners => {
                let here = || hosts.listener_at(at).map(|spec| spec.map(|_| ListenerId(to_u32(at))));
                take(gone(replaces, &delta.listeners, at, here), |id| self.set_listener(id, None, applying))
            }
            Step::GoneHosts => {
                let here = || hosts.key_at(at);
                take(gone(replaces, &delta.hosts, at, here), |key| self.set_host(&key, None))
            }
            Step::GoneRings if replaces => self.remove_rings(delta, BackendId(to_u32(at))),
            Step::GoneRings => take(gone(false, &delta.rings, at, || None), |key| self.set_ring(key, None)),
            Step::GoneEndpoints => {
                let live = self.live.get_mut();
                let here = || live.slots.get(at).map(|slot| (slot.life == Life::Live).then_some(slot.id));
                take(gone(replaces, &delta.endpoints, at, here), |id| {
                    applying.applied.removed.extend(live.remove_endpoint(id, now));
                })
            }
            Step::GoneBackends => {
                let here =
                    || self.world.backends.get(at).map(|spec| spec.as_ref().map(|_| BackendId(to_u32(at))));
                take(gone(replaces, &delta.backends, at, here), |id| {
                    if self.set_backend(id, None, now) {
                        applying.applied.replaced.push(id);
                    }
                })
            }
            Step::GoneClusters => {
                let id = || u16::try_from(at).ok().map(ClusterId);
                let here = || self.world.clusters.get(at).map(|entry| entry.as_ref().and_then(|_| id()));
                take(gone(replaces, &delta.clusters, at, here), |id| self.set_cluster(id, None, now))
            }
            Step::Owners
            | Step::Clusters
            | Step::Backends
            | Step::Endpoints
            | Step::Rings
            | Step::Hosts
            | Step::Listeners
            | Step::End => true,
        };
        if is_over {
            applying.next_step(delta);
        }
    }

    /// Of one backend. `true`: there is no such backend, nor one behind it.
    fn remove_rings(&mut self, snapshot: &TableDelta, backend: BackendId) -> bool {
        let Some(entry) = self.live.get_mut().backends.get(backend.index()) else { return true };
        let here = entry.groups.iter().filter(|group| group.ring.is_some());
        let gone: SmallVec<[_; 4]> = here
            .map(|group| (backend, group.cluster))
            .filter(|key| snapshot.rings.binary_search_by_key(key, |(key, _)| *key).is_err())
            .collect();
        gone.into_iter().for_each(|key| self.set_ring(key, None));
        false
    }
}

/// What is to go at this place: of the delta's own list, or of what is `here` when a snapshot replaces it.
fn gone<K: Ord + Clone, V>(
    replaces: bool,
    list: &[(K, Option<V>)],
    at: usize,
    here: impl FnOnce() -> Option<Option<K>>,
) -> Found<K> {
    if !replaces {
        return match list.get(at) {
            None => Found::End,
            Some((_, Some(_))) => Found::Stays,
            Some((key, None)) => Found::Goes(key.clone()),
        };
    }
    match here() {
        None => Found::End,
        Some(None) => Found::Stays,
        // A snapshot's lists are in the order of their keys.
        Some(Some(key)) => match list.binary_search_by(|(other, _)| other.cmp(&key)) {
            Ok(_) => Found::Stays,
            Err(_) => Found::Goes(key),
        },
    }
}

/// `true`: the list has ended.
fn take<K>(found: Found<K>, remove: impl FnOnce(K)) -> bool {
    match found {
        Found::End => return true,
        Found::Stays => {}
        Found::Goes(key) => remove(key),
    }
    false
}

/// Makes some more of the host's regexes ready; whole when there are no more.
fn next_regexes(rules: &Arc<HostRules>, ready: &mut Vec<Regex>) -> Progress {
    if !rules.index.has_regexes() {
        return Progress::Whole;
    }
    let before = ready.len();
    ready.extend(all_regexes(&rules.rules).skip(before).take(REGEXES_PER_ENTRY).cloned());
    if ready.len() - before < REGEXES_PER_ENTRY { Progress::Whole } else { Progress::Part }
}

fn to_u32(at: usize) -> u32 {
    u32::try_from(at).expect("numbers of a table are of 32 bits")
}
