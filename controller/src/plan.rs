//! What a change would do before it is applied: `ringway plan`. Two tables, compared by names, never by numbers.
//!
//! Pure. A rule is told by its listener, host and match; an endpoint by its backend, cluster and address. An address
//! that leaves one backend of its cluster for another has moved. What is compared is what [`dump`] says of each: of a
//! certificate, the name of its Secret.

use std::collections::BTreeMap;
use std::fmt;

use routing::delta::RouteTable;
use serde::{Deserialize, Serialize};

use crate::dump;

/// Lines of one kind that are printed; the rest is counted.
const LINES_MAX: usize = 200;

/// Which rule: listener, host, what must match.
pub type RuleName = (String, String, String);
/// Which endpoint: backend, cluster, address.
pub type EndpointName = (String, String, String);

/// A table by names: what is compared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Described {
    clusters: Vec<(String, String)>,
    listeners: Vec<(String, String)>,
    rules: Vec<(RuleName, String)>,
    backends: Vec<(String, String)>,
    endpoints: Vec<(EndpointName, String)>,
}

impl Described {
    /// Of a table.
    #[must_use]
    pub fn of(table: &RouteTable) -> Self {
        Self {
            clusters: dump::clusters(table).into_iter().collect(),
            listeners: dump::listeners(table).into_iter().collect(),
            rules: dump::rules(table).into_iter().collect(),
            backends: dump::backends(table).into_iter().collect(),
            endpoints: dump::endpoints(table).into_iter().collect(),
        }
    }
}

/// What would be different of one kind of things.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes<K> {
    /// What comes, and what it is.
    pub added: BTreeMap<K, String>,
    /// What goes.
    pub removed: BTreeMap<K, String>,
    /// What becomes something else: before and after.
    pub changed: BTreeMap<K, (String, String)>,
}

impl<K> Default for Changes<K> {
    fn default() -> Self {
        Self { added: BTreeMap::new(), removed: BTreeMap::new(), changed: BTreeMap::new() }
    }
}

impl<K: Ord> Changes<K> {
    fn between(before: Vec<(K, String)>, after: Vec<(K, String)>) -> Self {
        let mut after: BTreeMap<_, _> = after.into_iter().collect();
        let (mut removed, mut changed) = (BTreeMap::new(), BTreeMap::new());
        for (key, old) in before {
            match after.remove(&key) {
                None => drop(removed.insert(key, old)),
                Some(new) if new == old => {}
                Some(new) => drop(changed.insert(key, (old, new))),
            }
        }
        Self { added: after, removed, changed }
    }

    fn print(
        &self,
        f: &mut fmt::Formatter<'_>,
        what: &str,
        name: impl Fn(&K) -> String,
        gap: &str,
    ) -> fmt::Result {
        section(f, &format!("{what} added"), self.added.iter(), |f, (key, is)| {
            writeln!(f, "{}", format!("  + {}{gap}{is}", name(key)).trim_end())
        })?;
        section(f, &format!("{what} removed"), self.removed.iter(), |f, (key, was)| {
            writeln!(f, "{}", format!("  - {}{gap}{was}", name(key)).trim_end())
        })?;
        section(f, &format!("{what} changed"), self.changed.iter(), |f, (key, (old, new))| {
            writeln!(f, "  ~ {}\n    - {old}\n    + {new}", name(key))
        })
    }
}

/// What would be different.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Clusters by name.
    pub clusters: Changes<String>,
    /// Listeners by name and address.
    pub listeners: Changes<String>,
    /// Rules; a rule is its route and what it does.
    pub rules: Changes<RuleName>,
    /// Backends by name: how they are spoken to.
    pub backends: Changes<String>,
    /// Endpoints; an endpoint is its condition.
    pub endpoints: Changes<EndpointName>,
    /// Addresses that pass from one backend of their cluster to another: cluster and address → from, to.
    pub endpoints_moved: BTreeMap<(String, String), (String, String)>,
}

impl Plan {
    /// From what is served to what would be.
    #[must_use]
    pub fn between(before: &RouteTable, after: &RouteTable) -> Self {
        Self::of(Described::of(before), Described::of(after))
    }

    /// The same of tables that are told by names.
    #[must_use]
    pub fn of(before: Described, after: Described) -> Self {
        let mut plan = Self {
            clusters: Changes::between(before.clusters, after.clusters),
            listeners: Changes::between(before.listeners, after.listeners),
            rules: Changes::between(before.rules, after.rules),
            backends: Changes::between(before.backends, after.backends),
            endpoints: Changes::between(before.endpoints, after.endpoints),
            endpoints_moved: BTreeMap::new(),
        };
        plan.find_moved();
        plan
    }

    fn find_moved(&mut self) {
        let mut left: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
        for (backend, cluster, address) in self.endpoints.removed.keys() {
            left.entry((cluster.clone(), address.clone())).or_default().push(backend.clone());
        }
        for (backend, cluster, address) in self.endpoints.added.keys() {
            let place = (cluster.clone(), address.clone());
            // One that stood in several backends has left them; which one it came from is not known.
            if let Some([from]) = left.get(&place).map(Vec::as_slice) {
                self.endpoints_moved.insert(place, (from.clone(), backend.clone()));
            }
        }
        for ((cluster, address), (from, to)) in &self.endpoints_moved {
            self.endpoints.removed.remove(&(from.clone(), cluster.clone(), address.clone()));
            self.endpoints.added.remove(&(to.clone(), cluster.clone(), address.clone()));
        }
    }

    /// Nothing would be different.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
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
        let triple = |(a, b, c): &(String, String, String)| format!("{a} {b} {c}");
        self.clusters.print(f, "clusters", String::clone, " ")?;
        self.listeners.print(f, "listeners", String::clone, " ")?;
        self.rules.print(f, "rules", triple, "\n      ")?;
        self.backends.print(f, "backends", String::clone, " ")?;
        self.endpoints.print(f, "endpoints", triple, " ")?;
        section(f, "endpoints moved", self.endpoints_moved.iter(), |f, ((cluster, address), (from, to))| {
            writeln!(f, "  > {cluster} {address}: {from} → {to}")
        })
    }
}
