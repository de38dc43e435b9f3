//! What a change would do before it is applied: `ringway plan`. Two tables, compared by names, never by numbers.
//!
//! Pure. A rule is told by its listener, host and match; an endpoint by its backend, cluster and address. An address
//! that leaves one backend of its cluster for another has moved.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use routing::delta::RouteTable;

use crate::dump;

/// Lines of one kind that are printed; the rest is counted.
const LINES_MAX: usize = 200;

/// Which rule: listener, host, what must match.
pub type RuleName = (String, String, String);
/// Which endpoint: backend, cluster, address.
pub type EndpointName = (String, String, String);

/// What would be different.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Listeners that come.
    pub listeners_added: BTreeSet<String>,
    /// Listeners that go.
    pub listeners_removed: BTreeSet<String>,
    /// Rules that come, with their route and what they do.
    pub rules_added: BTreeMap<RuleName, String>,
    /// Rules that go.
    pub rules_removed: BTreeMap<RuleName, String>,
    /// Rules that do something else, or belong to another route: before and after.
    pub rules_changed: BTreeMap<RuleName, (String, String)>,
    /// Endpoints that come, with their condition.
    pub endpoints_added: BTreeMap<EndpointName, String>,
    /// Endpoints that go.
    pub endpoints_removed: BTreeMap<EndpointName, String>,
    /// Endpoints whose condition differs: before and after.
    pub endpoints_changed: BTreeMap<EndpointName, (String, String)>,
    /// Addresses that pass from one backend of their cluster to another: cluster and address → from, to.
    pub endpoints_moved: BTreeMap<(String, String), (String, String)>,
}

impl Plan {
    /// From what is served to what would be.
    #[must_use]
    pub fn between(before: &RouteTable, after: &RouteTable) -> Self {
        let (mut plan, rules) = (Self::default(), (dump::rules(before), dump::rules(after)));
        let listeners = |table: &RouteTable| -> BTreeSet<String> {
            table.listeners.values().map(|one| format!("{} {}", one.name, one.addr)).collect()
        };
        let (old, new) = (listeners(before), listeners(after));
        plan.listeners_added = new.difference(&old).cloned().collect();
        plan.listeners_removed = old.difference(&new).cloned().collect();
        (plan.rules_added, plan.rules_removed, plan.rules_changed) = diff(rules.0, rules.1);
        let endpoints = (dump::endpoints(before), dump::endpoints(after));
        (plan.endpoints_added, plan.endpoints_removed, plan.endpoints_changed) =
            diff(endpoints.0, endpoints.1);
        plan.find_moved();
        plan
    }

    fn find_moved(&mut self) {
        let mut left: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
        for (backend, cluster, address) in self.endpoints_removed.keys() {
            left.entry((cluster.clone(), address.clone())).or_default().push(backend.clone());
        }
        for (backend, cluster, address) in self.endpoints_added.keys() {
            let place = (cluster.clone(), address.clone());
            // One that stood in several backends has left them; which one it came from is not known.
            if let Some([from]) = left.get(&place).map(Vec::as_slice) {
                self.endpoints_moved.insert(place, (from.clone(), backend.clone()));
            }
        }
        for ((cluster, address), (from, to)) in &self.endpoints_moved {
            self.endpoints_removed.remove(&(from.clone(), cluster.clone(), address.clone()));
            self.endpoints_added.remove(&(to.clone(), cluster.clone(), address.clone()));
        }
    }

    /// Nothing would be different.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

type Diff<K> = (BTreeMap<K, String>, BTreeMap<K, String>, BTreeMap<K, (String, String)>);

/// What comes, what goes, what differs.
fn diff<K: Ord + Clone>(before: BTreeMap<K, String>, mut after: BTreeMap<K, String>) -> Diff<K> {
    let (mut removed, mut changed) = (BTreeMap::new(), BTreeMap::new());
    for (key, old) in before {
        match after.remove(&key) {
            None => drop(removed.insert(key, old)),
            Some(new) if new == old => {}
            Some(new) => drop(changed.insert(key, (old, new))),
        }
    }
    (after, removed, changed)
}

/// One kind of change, within the bound.
fn section<T>(
    f: &mut fmt::Formatter<'_>,
    title: &str,
    items: impl ExactSizeIterator<Item = T>,
    line: impl Fn(&mut fmt::Formatter<'_>, T) -> fmt::Result,
) -> fmt::Result {
    let count = items.len();
    if count == 0 {
        return Ok(());
    }
    writeln!(f, "{title}: {count}")?;
    for item in items.take(LINES_MAX) {
        line(f, item)?;
    }
    if count > LINES_MAX {
        writeln!(f, "  … and {} more", count - LINES_MAX)?;
    }
    Ok(())
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return writeln!(f, "nothing would change");
        }
        section(f, "listeners added", self.listeners_added.iter(), |f, one| writeln!(f, "  + {one}"))?;
        section(f, "listeners removed", self.listeners_removed.iter(), |f, one| writeln!(f, "  - {one}"))?;
        let rule = |name: &RuleName| format!("{} {} {}", name.0, name.1, name.2);
        section(f, "rules added", self.rules_added.iter(), |f, (name, does)| {
            writeln!(f, "  + {}\n      {does}", rule(name))
        })?;
        section(f, "rules removed", self.rules_removed.iter(), |f, (name, did)| {
            writeln!(f, "  - {}\n      {did}", rule(name))
        })?;
        section(f, "rules changed", self.rules_changed.iter(), |f, (name, (old, new))| {
            writeln!(f, "  ~ {}\n    - {old}\n    + {new}", rule(name))
        })?;
        let endpoint = |name: &EndpointName| format!("{} {} {}", name.0, name.1, name.2);
        section(f, "endpoints added", self.endpoints_added.iter(), |f, (name, is)| {
            writeln!(f, "  + {} {is}", endpoint(name))
        })?;
        section(f, "endpoints removed", self.endpoints_removed.iter(), |f, (name, was)| {
            writeln!(f, "  - {} {was}", endpoint(name))
        })?;
        section(f, "endpoints changed", self.endpoints_changed.iter(), |f, (name, (old, new))| {
            writeln!(f, "  ~ {} {old} → {new}", endpoint(name))
        })?;
        section(f, "endpoints moved", self.endpoints_moved.iter(), |f, ((cluster, address), (from, to))| {
            writeln!(f, "  > {cluster} {address}: {from} → {to}")
        })
    }
}
