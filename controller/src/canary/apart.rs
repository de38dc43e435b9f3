//! What the workers do not have in common while a table is on trial, and what was refused.
//!
//! The compiler's table is always what the sources say. Here is kept, by key, what the other workers (`trial`) or all of
//! them (`refused`) run instead: the value from before, `None` for one that was not there. So either lane's table is the
//! compiler's with some entries replaced, and a trial ends by sending a few entries one way or the other.
//!
//! What may wait: rules of hosts; listeners that come, go or change their name; how a backend is spoken to and watched;
//! rings that a changed rule no longer needs. Everything else is of endpoints and never waits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use routing::delta::{RingKey, RouteTable, TableDelta};
use routing::id::{BackendId, ListenerId};
use routing::model::{
    BackendSpec, HashRing, HostKey, HostRules, ListenerSpec, Rule, Target, WeightedBackend,
};

type Kept<K, V> = BTreeMap<K, Option<Arc<V>>>;
type Changes<K, V> = Vec<(K, Option<Arc<V>>)>;

/// Values from before, by key.
#[derive(Debug, Default)]
pub(crate) struct Held {
    hosts: Kept<HostKey, HostRules>,
    listeners: Kept<ListenerId, ListenerSpec>,
    backends: Kept<BackendId, BackendSpec>,
    rings: Kept<RingKey, HashRing>,
}

impl Held {
    pub(crate) fn is_empty(&self) -> bool {
        self.hosts.is_empty()
            && self.listeners.is_empty()
            && self.backends.is_empty()
            && self.rings.is_empty()
    }

    /// The values from before, as a change of the compiler's table.
    pub(crate) fn before(&self) -> TableDelta {
        TableDelta {
            hosts: list(&self.hosts),
            listeners: list(&self.listeners),
            backends: list(&self.backends),
            rings: list(&self.rings),
            ..TableDelta::default()
        }
    }

    /// What the compiler's table has for the same keys, as a change of the table from before.
    pub(crate) fn wanted(&self, table: &RouteTable) -> TableDelta {
        TableDelta {
            hosts: now(&self.hosts, &table.hosts),
            listeners: now(&self.listeners, &table.listeners),
            backends: now(&self.backends, &table.backends),
            rings: now(&self.rings, &table.rings),
            ..TableDelta::default()
        }
    }

    fn take_in(&mut self, other: Self) {
        self.hosts.extend(other.hosts);
        self.listeners.extend(other.listeners);
        self.backends.extend(other.backends);
        self.rings.extend(other.rings);
    }

    /// Routes whose rules are others than before, and their slots.
    pub(crate) fn touched(&self, table: &RouteTable) -> Touched {
        let mut touched = Touched::default();
        for (key, before) in &self.hosts {
            let before = before.as_ref().map_or(&[][..], |rules| &rules.rules);
            let after = table.hosts.get(key).map_or(&[][..], |rules| &rules.rules);
            let (old, new) = (by_route(before), by_route(after));
            for name in old.keys().chain(new.keys()) {
                if old.get(name) != new.get(name) {
                    touched.routes.insert((*name).clone());
                    let rules = old.get(name).into_iter().chain(new.get(name)).flatten();
                    touched.slots.extend(rules.map(|rule| rule.action.stat.0));
                }
            }
        }
        touched
    }

    fn backends_in_use(&self, used: &mut BTreeSet<BackendId>) {
        for rules in self.hosts.values().flatten() {
            for rule in &*rules.rules {
                let mut see =
                    |refs: &[WeightedBackend]| used.extend(refs.iter().filter_map(|one| one.backend));
                if let Target::Forward(refs) = &rule.action.target {
                    see(refs);
                }
                if let Some(filters) = &rule.action.filters {
                    filters.mirror.iter().for_each(|mirror| see(&mirror.backends));
                    filters.fallback.iter().for_each(|fallback| see(&fallback.backends));
                }
            }
        }
        used.extend(self.backends.keys());
    }
}

/// What is on trial, for people and for the figures.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    /// Routes by name.
    pub(crate) routes: BTreeSet<Arc<str>>,
    /// Their statistics.
    pub(crate) slots: BTreeSet<u32>,
}

fn by_route(rules: &[Rule]) -> BTreeMap<&Arc<str>, Vec<&Rule>> {
    let mut routes = BTreeMap::<_, Vec<_>>::new();
    rules.iter().for_each(|rule| routes.entry(&rule.action.route).or_default().push(rule));
    routes
}

fn list<K: Ord + Clone, V>(kept: &Kept<K, V>) -> Changes<K, V> {
    kept.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn now<K: Ord + Clone, V>(kept: &Kept<K, V>, table: &BTreeMap<K, Arc<V>>) -> Changes<K, V> {
    kept.keys().map(|key| (key.clone(), table.get(key).cloned())).collect()
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Apart {
    /// Of all workers but the canary.
    pub(crate) trial: Held,
    /// Of all workers.
    pub(crate) refused: Held,
}

impl Apart {
    pub(crate) fn is_empty(&self) -> bool {
        self.trial.is_empty() && self.refused.is_empty()
    }

    /// The part of a compiler's change that all workers get at once; the rest is on trial from now on. `before` holds what
    /// the change replaced.
    pub(crate) fn split(&mut self, mut delta: TableDelta, before: &TableDelta) -> TableDelta {
        let (trial, refused) = (&mut self.trial, &mut self.refused);
        let rules_change = !delta.hosts.is_empty();
        part(&mut delta.hosts, &before.hosts, &mut trial.hosts, &mut refused.hosts, |_, _| true);
        part(
            &mut delta.listeners,
            &before.listeners,
            &mut trial.listeners,
            &mut refused.listeners,
            |base, after| match (base, after) {
                (Some(base), Some(after)) => (&base.hostname, base.bind) != (&after.hostname, after.bind),
                (_, _) => true,
            },
        );
        part(
            &mut delta.backends,
            &before.backends,
            &mut trial.backends,
            &mut refused.backends,
            |base, after| match (base, after) {
                // A slot for a cluster that serves it now is none of its ways.
                (Some(base), Some(after)) => {
                    BackendSpec { stats: after.stats.clone(), ..(**base).clone() } != **after
                }
                (_, _) => false,
            },
        );
        part(&mut delta.rings, &before.rings, &mut trial.rings, &mut refused.rings, |base, after| {
            rules_change && base.is_some() && after.is_none()
        });
        delta
    }

    /// The trial is over, and refused.
    pub(crate) fn refuse(&mut self) {
        let trial = std::mem::take(&mut self.trial);
        self.refused.take_in(trial);
    }

    /// Backends that the rules from before need.
    pub(crate) fn pinned(&self) -> BTreeSet<BackendId> {
        let mut used = BTreeSet::new();
        self.trial.backends_in_use(&mut used);
        self.refused.backends_in_use(&mut used);
        used
    }
}

fn part<K: Ord + Clone, V: PartialEq>(
    changes: &mut Changes<K, V>,
    before: &Changes<K, V>,
    trial: &mut Kept<K, V>,
    refused: &mut Kept<K, V>,
    waits: impl Fn(Option<&Arc<V>>, Option<&Arc<V>>) -> bool,
) {
    if changes.is_empty() {
        return;
    }
    let before: BTreeMap<&K, &Option<Arc<V>>> = before.iter().map(|(key, value)| (key, value)).collect();
    changes.retain(|(key, after)| {
        // A changed source is tried anew, whatever became of it before.
        let apart = trial.remove(key).or_else(|| refused.remove(key));
        let is_apart = apart.is_some();
        let base = apart.unwrap_or_else(|| before.get(key).and_then(|value| (*value).clone()));
        if is_apart && base == *after {
            return false;
        }
        if waits(base.as_ref(), after.as_ref()) {
            trial.insert(key.clone(), base);
            return false;
        }
        true
    });
}
