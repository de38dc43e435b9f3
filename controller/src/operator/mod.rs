//! What operators say of clusters: drained, promoted. It beats what manifests say until it is taken back.
//!
//! [`Words`] are kept by the cluster's name, so that they outlive an update, a restarted worker, a cluster that is
//! away for a while and (with a [`Store`](store::Store)) the process. The broadcast lays them over every table
//! that it sends and sends changes of them at once, without a compile.
//!
//! A drain over a time is a [`Ramp`]: the share of requests that goes elsewhere grows by one percent at a time.
//!
//! ```text
//! drain    0 ──── over ────▶ 100      word: stands until undrained, whatever MemberCluster says
//! undrain  100 ─── over ───▶ 0        word: forgotten once MemberCluster says the same
//! promote / fence                     word: the same, with the annotation ringway.dev/promoted
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use routing::delta::{HealthDelta, RouteTable};
use routing::id::ClusterId;
use routing::model::ClusterSpec;

pub mod store;

/// The longest drain.
pub const OVER_MAX: Duration = Duration::from_secs(24 * 3600);
/// Names of clusters that a refusal lists.
const NAMES_SHOWN_MAX: usize = 16;

/// What an operator wants of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// No new requests while another cluster can serve; reached after this time.
    Drain {
        /// At most [`OVER_MAX`]; zero = at once.
        over: Duration,
    },
    /// Its full share again; reached after this time.
    Undrain {
        /// At most [`OVER_MAX`]; zero = at once.
        over: Duration,
    },
    /// It may take writes although it is a standby.
    Promote,
    /// It may not, any more.
    Fence,
}

/// An order on its way to the controller, and who waits for the answer.
pub struct Command {
    /// The cluster's name.
    pub cluster: Arc<str>,
    /// What is wanted.
    pub order: Order,
    /// Called once, on the controller's thread, when the order has been broadcast.
    pub done: Box<dyn FnOnce(Result<Standing, Refused>) + Send>,
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Command").field("cluster", &self.cluster).field("order", &self.order).finish()
    }
}

/// Why an order is not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There is no such cluster. The names that there are, at most 16.
    NoSuchCluster(Vec<Arc<str>>),
    /// Longer than [`OVER_MAX`].
    TooLong,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchCluster(names) if names.is_empty() => {
                f.write_str("no such member cluster: there is none at all")
            }
            Self::NoSuchCluster(names) => {
                write!(f, "no such member cluster; there are: {}", names.join(", "))
            }
            Self::TooLong => write!(f, "at most {} h", OVER_MAX.as_secs() / 3600),
        }
    }
}

impl std::error::Error for Refused {}

/// Who says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The `MemberCluster` object, or nobody: it is the default.
    Manifest,
    /// An operator, by command.
    Operator,
}

/// Where a cluster stands, and who says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its name.
    pub cluster: Arc<str>,
    /// The share of its requests that goes elsewhere, in percent.
    pub drain_percent: u8,
    /// What that is on its way to.
    pub drain_target: u8,
    /// Who says so.
    pub drain_origin: Origin,
    /// Since when an operator says so, `CLOCK_MONOTONIC` nanoseconds.
    pub drain_since_ns: Option<u64>,
    /// May it take writes as a standby?
    pub promoted: bool,
    /// Who says so.
    pub promoted_origin: Origin,
    /// Since when an operator says so, `CLOCK_MONOTONIC` nanoseconds.
    pub promoted_since_ns: Option<u64>,
}

/// A share that changes linearly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ramp {
    from: u8,
    to: u8,
    since_ns: u64,
    over_ns: u64,
    /// What the workers were told last.
    told: u8,
}

impl Ramp {
    fn at(&self, now_ns: u64) -> u8 {
        let elapsed = now_ns.saturating_sub(self.since_ns);
        if elapsed >= self.over_ns {
            return self.to;
        }
        let way = i128::from(self.to) - i128::from(self.from);
        let gone = way * i128::from(elapsed) / i128::from(self.over_ns);
        u8::try_from(i128::from(self.from) + gone).unwrap_or(self.to)
    }

    /// When the workers are to be told the next step; `None` when they know the last.
    fn next_step_ns(&self, now_ns: u64) -> Option<u64> {
        if self.told == self.to {
            return None;
        }
        if self.at(now_ns) != self.told {
            return Some(now_ns);
        }
        let way = u128::from(self.to.abs_diff(self.from)).max(1);
        let gone = u128::from(self.told.abs_diff(self.from));
        // Rounded up: a step must not be asked for just before it is due.
        let next = (u128::from(self.over_ns) * (gone + 1)).div_ceil(way);
        Some(self.since_ns.saturating_add(u64::try_from(next).unwrap_or(u64::MAX)))
    }
}

/// What is said of one cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Word {
    drain: Option<Ramp>,
    /// May it take writes; since when.
    promoted: Option<(bool, u64)>,
}

impl Word {
    fn effective(self, spec: &ClusterSpec) -> (u8, bool) {
        (
            self.drain.map_or(spec.drain_percent, |ramp| ramp.told),
            self.promoted.map_or(spec.promoted, |(promoted, _)| promoted),
        )
    }

    fn is_empty(self) -> bool {
        self == Self::default()
    }
}

/// Everything that operators have said and not taken back.
#[derive(Debug, Default)]
pub struct Words {
    said: BTreeMap<Arc<str>, Word>,
}

impl Words {
    /// Takes an order. What follows from it is in the next [`Words::evidence`].
    ///
    /// # Errors
    /// Why nothing is changed.
    pub fn order(
        &mut self,
        cluster: &str,
        order: Order,
        now_ns: u64,
        table: &RouteTable,
    ) -> Result<(), Refused> {
        let spec = spec_of(table, cluster).map(|(_, spec)| spec);
        let Some((name, mut word)) = self.known(cluster, spec) else {
            let names = table.clusters.values().map(|spec| spec.name.clone());
            let mut names: Vec<Arc<str>> = names.take(NAMES_SHOWN_MAX).collect();
            names.sort();
            return Err(Refused::NoSuchCluster(names));
        };
        match order {
            Order::Drain { over } | Order::Undrain { over } if over > OVER_MAX => {
                return Err(Refused::TooLong);
            }
            Order::Drain { over } => word.drain = Some(self.ramp(&name, spec, 100, over, now_ns)),
            Order::Undrain { over } => word.drain = Some(self.ramp(&name, spec, 0, over, now_ns)),
            Order::Promote => word.promoted = Some((true, since(word.promoted, true, now_ns))),
            Order::Fence => word.promoted = Some((false, since(word.promoted, false, now_ns))),
        }
        self.said.insert(name, word);
        Ok(())
    }

    fn known(&self, cluster: &str, spec: Option<&Arc<ClusterSpec>>) -> Option<(Arc<str>, Word)> {
        match (self.said.get_key_value(cluster), spec) {
            (Some((name, word)), _) => Some((name.clone(), *word)),
            (None, Some(spec)) => Some((spec.name.clone(), Word::default())),
            (None, None) => None,
        }
    }

    /// From where the cluster stands now. The same order again changes nothing.
    fn ramp(
        &self,
        name: &Arc<str>,
        spec: Option<&Arc<ClusterSpec>>,
        to: u8,
        over: Duration,
        now_ns: u64,
    ) -> Ramp {
        let before = self.said.get(name).and_then(|word| word.drain);
        if let Some(before) = before.filter(|ramp| ramp.to == to && ramp.told == to) {
            return before;
        }
        let from = before.map_or_else(|| spec.map_or(0, |spec| spec.drain_percent), |ramp| ramp.at(now_ns));
        let over_ns = u64::try_from(over.as_nanos()).unwrap_or(u64::MAX);
        let ramp = Ramp { from, to, since_ns: now_ns, over_ns, told: from };
        Ramp { told: ramp.at(now_ns), ..ramp }
    }

    /// When the next step of any ramp is due.
    #[must_use]
    pub fn next_step_ns(&self, now_ns: u64) -> Option<u64> {
        self.said.values().filter_map(|word| word.drain?.next_step_ns(now_ns)).min()
    }

    /// Takes the steps that are due: the clusters that moved.
    pub fn step(&mut self, now_ns: u64) -> Vec<Arc<str>> {
        let mut moved = Vec::new();
        for (name, word) in &mut self.said {
            let Some(ramp) = &mut word.drain else { continue };
            let at = ramp.at(now_ns);
            if at != ramp.told {
                ramp.told = at;
                moved.push(name.clone());
            }
        }
        moved
    }

    /// Forgets what manifests say as well: an undrained cluster that `MemberCluster` does not drain is simply not
    /// drained. A drain and a promotion stand until they are taken back. `true`: something was forgotten.
    pub fn settle(&mut self, table: &RouteTable) -> bool {
        let before = self.said.len();
        let mut changed = false;
        for (name, word) in &mut self.said {
            let Some((_, spec)) = spec_of(table, name) else { continue };
            if spec.drain_percent == 0 && word.drain.is_some_and(|ramp| (ramp.to, ramp.told) == (0, 0)) {
                word.drain = None;
                changed = true;
            }
            if !spec.promoted && word.promoted.is_some_and(|(promoted, _)| !promoted) {
                word.promoted = None;
                changed = true;
            }
        }
        self.said.retain(|_, word| !word.is_empty());
        changed || self.said.len() != before
    }

    /// A cluster as the workers are to know it.
    #[must_use]
    pub fn overlay(&self, spec: &Arc<ClusterSpec>) -> Arc<ClusterSpec> {
        let Some(word) = self.said.get(&spec.name) else { return spec.clone() };
        let (drain_percent, promoted) = word.effective(spec);
        if (drain_percent, promoted) == (spec.drain_percent, spec.promoted) {
            return spec.clone();
        }
        Arc::new(ClusterSpec { drain_percent, promoted, ..ClusterSpec::clone(spec) })
    }

    /// What workers are to be told of these clusters; of all when `clusters` is `None`.
    #[must_use]
    pub fn evidence(&self, clusters: Option<&[Arc<str>]>, table: &RouteTable) -> HealthDelta {
        let mut delta = HealthDelta::default();
        let wanted =
            table.clusters.iter().filter(|(_, spec)| clusters.is_none_or(|names| names.contains(&spec.name)));
        for (id, spec) in wanted {
            let word = self.said.get(&spec.name).copied().unwrap_or_default();
            let (drain_percent, promoted) = word.effective(spec);
            delta.drained.push((*id, drain_percent));
            delta.promoted.push((*id, promoted));
        }
        delta
    }

    /// Where every cluster of the table stands, by name.
    #[must_use]
    pub fn standings(&self, table: &RouteTable) -> Vec<Standing> {
        let mut all: Vec<Standing> = table.clusters.values().map(|spec| self.standing(spec)).collect();
        all.sort_by(|a, b| a.cluster.cmp(&b.cluster));
        all
    }

    /// Where one cluster stands. A cluster that is away stands where its word says.
    #[must_use]
    pub fn standing_of(&self, cluster: &str, table: &RouteTable) -> Standing {
        match spec_of(table, cluster) {
            Some((_, spec)) => self.standing(spec),
            None => self.standing(&Arc::new(ClusterSpec { name: cluster.into(), ..ClusterSpec::default() })),
        }
    }

    fn standing(&self, spec: &Arc<ClusterSpec>) -> Standing {
        let word = self.said.get(&spec.name).copied().unwrap_or_default();
        let (drain_percent, promoted) = word.effective(spec);
        let origin = |is_word: bool| if is_word { Origin::Operator } else { Origin::Manifest };
        Standing {
            cluster: spec.name.clone(),
            drain_percent,
            drain_target: word.drain.map_or(spec.drain_percent, |ramp| ramp.to),
            drain_origin: origin(word.drain.is_some()),
            drain_since_ns: word.drain.map(|ramp| ramp.since_ns),
            promoted,
            promoted_origin: origin(word.promoted.is_some()),
            promoted_since_ns: word.promoted.map(|(_, since_ns)| since_ns),
        }
    }
}

/// The same order again does not begin anew.
fn since(before: Option<(bool, u64)>, wanted: bool, now_ns: u64) -> u64 {
    before.filter(|(promoted, _)| *promoted == wanted).map_or(now_ns, |(_, since_ns)| since_ns)
}

fn spec_of<'t>(table: &'t RouteTable, cluster: &str) -> Option<(ClusterId, &'t Arc<ClusterSpec>)> {
    table.clusters.iter().find(|(_, spec)| *spec.name == *cluster).map(|(id, spec)| (*id, spec))
}

#[cfg(test)]
mod tests;
