//! What the workers do not have in common while a table is on trial, and what was refused.
//!
//! The compiler's table is always what the sources say. Here is kept, by key, what the other workers (`trial`) or all of
//! them (`refused`) run instead: the value from before, `None` for one that was not there. So either lane's table is the
//! compiler's with some entries replaced, and a trial ends by sending a few entries one way or the other.
//!
//! What may wait: rules of hosts; listeners that come, go or change their name; how a backend is spoken to and watched;
//! rings that a changed rule no longer needs. Everything else is of endpoints or certificates and never waits: an entry of
//! which only a part waits goes to the other workers with that part as it was.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use routing::delta::{RingKey, RouteTable, TableDelta};
use routing::id::{BackendId, ListenerId};
use routing::model::{
    BackendSpec, BackendTls, HashRing, HostKey, HostRules, ListenerSpec, Rule, RuleAction, Security,
    Transport,
};

type Kept<K, V> = BTreeMap<K, Option<Arc<V>>>;
type Changes<K, V> = Vec<(K, Option<Arc<V>>)>;

/// Values from before, by key.
#[derive(Clone, Debug, Default)]
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

    pub(crate) fn take_in(&mut self, other: Self) {
        self.hosts.extend(other.hosts);
        self.listeners.extend(other.listeners);
        self.backends.extend(other.backends);
        self.rings.extend(other.rings);
    }

    pub(crate) fn holds_rings(&self) -> bool {
        !self.rings.is_empty()
    }

    /// Routes whose rules are others than before, or lead to a backend that is; and their slots.
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
        if !self.backends.is_empty() {
            let leads = |action: &RuleAction| action.backends().any(|id| self.backends.contains_key(&id));
            for rule in
                table.hosts.values().flat_map(|rules| &*rules.rules).filter(|rule| leads(&rule.action))
            {
                touched.routes.insert(rule.action.route.clone());
                touched.slots.insert(rule.action.stat.0);
            }
        }
        touched
    }

    /// The values from before where rules and backends are to change.
    fn of(before: &TableDelta) -> Self {
        let (hosts, backends) = (before.hosts.iter().cloned(), before.backends.iter().cloned());
        Self { hosts: hosts.collect(), backends: backends.collect(), ..Self::default() }
    }

    fn backends_in_use(&self, used: &mut BTreeSet<BackendId>) {
        for rules in self.hosts.values().flatten() {
            used.extend(rules.rules.iter().flat_map(|rule| rule.action.backends()));
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

/// The statistics of routes that a change of the compiler's table is of. `before` holds what it replaced.
pub(crate) fn changed_slots(before: &TableDelta, table: &RouteTable) -> BTreeSet<u32> {
    Held::of(before).touched(table).slots
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
    /// Of all workers: what was taken back, one for each trial. What was tried together is tried together again.
    refused: Vec<Held>,
}

/// Who gets what of a compiler's change.
#[derive(Debug)]
pub(crate) struct Split {
    /// All workers but the canary; all, while nothing is on trial.
    pub(crate) all: TableDelta,
    /// The canary.
    pub(crate) canary: TableDelta,
    /// What is on trial, or refused, is another than before.
    pub(crate) is_new: bool,
}

/// Does what may wait wait?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Haste {
    /// Yes.
    Tried,
    /// No: the change takes a permission away.
    AtOnce,
}

impl Apart {
    pub(crate) fn is_empty(&self) -> bool {
        self.trial.is_empty() && self.refused.is_empty()
    }

    /// The values from before of everything that was refused, as a change of the compiler's table.
    pub(crate) fn refused_before(&self) -> TableDelta {
        self.all_refused().before()
    }

    fn all_refused(&self) -> Held {
        let mut all = Held::default();
        for held in &self.refused {
            all.take_in(held.clone());
        }
        all
    }

    /// Routes that are not what their sources say.
    pub(crate) fn refused_routes(&self, table: &RouteTable) -> BTreeSet<Arc<str>> {
        self.all_refused().touched(table).routes
    }

    pub(crate) fn holds_rings(&self) -> bool {
        self.trial.holds_rings() || self.refused.iter().any(Held::holds_rings)
    }

    /// Parts a compiler's change in what all workers get at once and what is on trial from now on. `before` holds what
    /// the change replaced in the compiler's table, `table` is what that is now.
    pub(crate) fn split(
        &mut self,
        delta: TableDelta,
        before: &TableDelta,
        table: &RouteTable,
        haste: Haste,
    ) -> Split {
        let rules_change = !delta.hosts.is_empty();
        let is_tried = haste == Haste::Tried;
        let mut split = Split { all: delta.clone(), canary: delta, is_new: false };
        let mut taken = BTreeSet::new();
        macro_rules! part {
            ($field:ident, $meanwhile:expr) => {
                Part {
                    all: &mut split.all.$field,
                    canary: &mut split.canary.$field,
                    trial: &mut self.trial.$field,
                    refused: self.refused.iter_mut().map(|held| &mut held.$field).collect(),
                    is_new: &mut split.is_new,
                    taken: &mut taken,
                }
                .run(&before.$field, $meanwhile)
            };
        }
        part!(hosts, |base, after| if is_tried { base.cloned() } else { after.cloned() });
        part!(listeners, listener_meanwhile);
        part!(backends, |base, after| if is_tried { backend_meanwhile(base, after) } else { after.cloned() });
        part!(rings, |base, after| match (base, after) {
            (Some(base), None) if rules_change && is_tried => Some(base.clone()),
            (_, after) => after.cloned(),
        });
        for index in taken.into_iter().rev() {
            let group = self.refused.remove(index);
            let wanted = group.wanted(table);
            split.canary.hosts.extend(wanted.hosts);
            split.canary.listeners.extend(wanted.listeners);
            split.canary.backends.extend(wanted.backends);
            split.canary.rings.extend(wanted.rings);
            self.trial.take_in(group);
        }
        self.refused.retain(|held| !held.is_empty());
        split
    }

    /// The trial is over, and refused.
    pub(crate) fn refuse(&mut self) {
        self.refused.push(std::mem::take(&mut self.trial));
    }

    /// Backends that the rules from before need.
    pub(crate) fn pinned(&self) -> BTreeSet<BackendId> {
        let mut used = BTreeSet::new();
        self.trial.backends_in_use(&mut used);
        self.refused.iter().for_each(|held| held.backends_in_use(&mut used));
        used
    }
}

/// A listener as it was, but for its certificates and terms, which never wait.
fn listener_meanwhile(
    base: Option<&Arc<ListenerSpec>>,
    after: Option<&Arc<ListenerSpec>>,
) -> Option<Arc<ListenerSpec>> {
    match (base, after) {
        (Some(base), Some(after)) if base.bind == after.bind => {
            Some(Arc::new(ListenerSpec { hostname: base.hostname.clone(), ..(**after).clone() }))
        }
        (base, _) => base.cloned(),
    }
}

/// A backend as it was, but for what never waits: slots for clusters that serve it now, and other certificates under the
/// terms that it had.
fn backend_meanwhile(
    base: Option<&Arc<BackendSpec>>,
    after: Option<&Arc<BackendSpec>>,
) -> Option<Arc<BackendSpec>> {
    let (Some(base), Some(after)) = (base, after) else { return after.cloned() };
    let terms = |tls: &BackendTls| (tls.source.clone(), tls.server_name.clone(), tls.verification.clone());
    let security = match (&base.transport.security, &after.transport.security) {
        (Security::Tls(was), Security::Tls(is)) if terms(was) == terms(is) => Security::Tls(Arc::clone(is)),
        (was, _) => was.clone(),
    };
    let transport = Transport { security, ..base.transport.clone() };
    Some(Arc::new(BackendSpec { stats: after.stats.clone(), transport, ..(**base).clone() }))
}

/// One kind of entries of a change, on their ways.
struct Part<'a, K, V> {
    all: &'a mut Changes<K, V>,
    canary: &'a mut Changes<K, V>,
    trial: &'a mut Kept<K, V>,
    refused: Vec<&'a mut Kept<K, V>>,
    is_new: &'a mut bool,
    /// Numbers of the refused trials of which something has changed.
    taken: &'a mut BTreeSet<usize>,
}

impl<K: Ord + Clone, V: PartialEq> Part<'_, K, V> {
    /// `meanwhile`: what a worker runs that had the first and is to have the second, while that is on trial.
    fn run(
        &mut self,
        before: &Changes<K, V>,
        meanwhile: impl Fn(Option<&Arc<V>>, Option<&Arc<V>>) -> Option<Arc<V>>,
    ) {
        let before: BTreeMap<&K, &Option<Arc<V>>> = before.iter().map(|(key, value)| (key, value)).collect();
        let mut for_canary = BTreeMap::new();
        self.all.retain_mut(|(key, after)| {
            let was = before.get(key).and_then(|value| (*value).clone());
            let group = self.refused.iter().position(|refused| refused.contains_key(key));
            let on_trial = self.trial.remove(key);
            let apart = on_trial.clone().or_else(|| self.refused[group?].remove(key));
            let is_apart = apart.is_some();
            let base = apart.unwrap_or_else(|| was.clone());
            let now = meanwhile(base.as_ref(), after.as_ref());
            // Nothing that waits has changed: certificates have, under the terms of before.
            let is_same = is_apart && meanwhile(was.as_ref(), after.as_ref()) == *after && now != *after;
            match group {
                Some(group) if is_same && on_trial.is_none() => {
                    self.refused[group].insert(key.clone(), now.clone());
                    for_canary.insert(key.clone(), now.clone());
                }
                _ => {
                    *self.is_new |= !is_same && (is_apart || now != *after);
                    // A changed source is tried anew, whatever became of it before, with what was refused together with it.
                    self.taken.extend(group);
                    if now != *after {
                        self.trial.insert(key.clone(), now.clone());
                    }
                }
            }
            *after = now;
            *after != base
        });
        for (key, value) in self.canary.iter_mut() {
            if let Some(now) = for_canary.remove(key) {
                *value = now;
            }
        }
    }
}

#[cfg(test)]
mod tests;
