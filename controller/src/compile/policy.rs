//! `FailoverPolicy` and its kin: parts that say a little, laid over each other, the most specific last.
//!
//! A [`Part`] holds only what its source says. [`Part::overlay`] lays a more specific one over it, field by field;
//! [`resolve`] fills in the defaults and turns names of clusters into a `routing::model::Policy`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use routing::model::{Balance, ClusterShare, CookieAffinity, Pin, PinMatch, Policy};

use crate::compile::{Defaults, Place};
use crate::crd::{ClusterOrder, FailoverPolicySpec, PinWhen, PolicyCluster};
use crate::merge::Member;
use crate::text;
use crate::verdict::Notes;

/// Pins of one policy.
pub const PINS_MAX: usize = 64;
/// Statuses of one retry policy.
pub const STATUSES_MAX: usize = 32;

/// What one source says; `None` = nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Weights of clusters, if the source sets any.
    pub weights: Option<BTreeMap<Arc<str>, u32>>,
    /// Priorities of clusters, if the source sets any.
    pub priorities: Option<BTreeMap<Arc<str>, u8>>,
    /// Which clusters of one priority come first.
    pub order: Option<ClusterOrder>,
    /// Pins: condition, cluster, strict.
    pub pins: Option<Vec<(PinMatch, Arc<str>, bool)>>,
    /// Balancer.
    pub balance: Option<Balance>,
    /// Cookie affinity.
    pub affinity: Option<CookieAffinity>,
    /// `retry.attempts`.
    pub attempts: Option<u8>,
    /// `retry.budgetPercent`.
    pub budget_percent: Option<u8>,
    /// `retry.maxBodyBytes`.
    pub body_bytes_max: Option<u32>,
    /// `retry.statuses`.
    pub statuses: Option<Vec<u16>>,
    /// `retry.nonIdempotent`.
    pub non_idempotent: Option<bool>,
    /// `timeouts.connect`.
    pub connect: Option<Duration>,
    /// `timeouts.attempt`.
    pub attempt: Option<Duration>,
    /// `timeouts.request`.
    pub request: Option<Duration>,
    /// `timeouts.idle`.
    pub idle: Option<Duration>,
    /// `detection.consecutiveFailures`.
    pub consecutive_failures: Option<u8>,
}

impl Part {
    /// Lays a more specific part over this one.
    pub fn overlay(&mut self, specific: &Self) {
        fn lay<T: Clone>(under: &mut Option<T>, over: &Option<T>) {
            if over.is_some() {
                under.clone_from(over);
            }
        }
        lay(&mut self.weights, &specific.weights);
        lay(&mut self.priorities, &specific.priorities);
        lay(&mut self.order, &specific.order);
        lay(&mut self.pins, &specific.pins);
        lay(&mut self.balance, &specific.balance);
        lay(&mut self.affinity, &specific.affinity);
        lay(&mut self.attempts, &specific.attempts);
        lay(&mut self.budget_percent, &specific.budget_percent);
        lay(&mut self.body_bytes_max, &specific.body_bytes_max);
        lay(&mut self.statuses, &specific.statuses);
        lay(&mut self.non_idempotent, &specific.non_idempotent);
        lay(&mut self.connect, &specific.connect);
        lay(&mut self.attempt, &specific.attempt);
        lay(&mut self.request, &specific.request);
        lay(&mut self.idle, &specific.idle);
        lay(&mut self.consecutive_failures, &specific.consecutive_failures);
    }
}

/// Keeps the value, or says what is allowed.
fn checked<T, U: std::fmt::Display + Clone>(
    notes: &mut Notes,
    field: &str,
    given: Option<U>,
    parse: impl FnOnce(U) -> Result<T, String>,
) -> Option<T> {
    let given = given?;
    match parse(given.clone()) {
        Ok(value) => Some(value),
        Err(allowed) => {
            notes.refused_part(field, given, format!("allowed: {allowed}"));
            None
        }
    }
}

/// What a `FailoverPolicy` says. A field that is wrong is reported and says nothing.
pub fn read(spec: &FailoverPolicySpec, members: &BTreeMap<Arc<str>, Member>, notes: &mut Notes) -> Part {
    let mut part = Part { order: spec.order, ..Part::default() };
    if let Some(clusters) = &spec.clusters {
        read_clusters(clusters, members, &mut part, notes);
    }
    if let Some(pins) = &spec.pins {
        let mut read = Vec::new();
        for (index, pin) in pins.iter().enumerate() {
            let field = format!("spec.pins[{index}]");
            if index >= PINS_MAX {
                notes.refused_part(field, "", format!("at most {PINS_MAX} pins"));
                break;
            }
            if !members.contains_key(pin.cluster.as_str()) {
                notes.refused_part(format!("{field}.cluster"), &pin.cluster, "no such member cluster");
                continue;
            }
            match read_when(&pin.when) {
                Ok(when) => read.push((when, Arc::from(pin.cluster.as_str()), pin.strict)),
                Err(allowed) => {
                    notes.refused_part(format!("{field}.when"), "", format!("allowed: {allowed}"));
                }
            }
        }
        part.pins = Some(read);
    }
    read_retry(spec, &mut part, notes);
    if let Some(timeouts) = &spec.timeouts {
        let mut read = |name: &str, given: &Option<String>| {
            checked(notes, &format!("spec.timeouts.{name}"), given.as_deref(), text::duration)
        };
        part.connect = read("connect", &timeouts.connect);
        part.attempt = read("attempt", &timeouts.attempt);
        part.request = read("request", &timeouts.request);
        part.idle = read("idle", &timeouts.idle);
    }
    part.balance = checked(notes, "spec.loadBalance", spec.load_balance.as_deref(), text::balance);
    report_later(spec, notes);
    part
}

fn read_clusters(
    clusters: &[PolicyCluster],
    members: &BTreeMap<Arc<str>, Member>,
    part: &mut Part,
    notes: &mut Notes,
) {
    let (mut weights, mut priorities) = (BTreeMap::new(), BTreeMap::new());
    let mut sets_priority = false;
    for (index, cluster) in clusters.iter().enumerate() {
        let field = format!("spec.clusters[{index}]");
        let Some((name, _)) = members.get_key_value(cluster.name.as_str()) else {
            notes.ignored(format!("{field}.name"), &cluster.name, "no such member cluster");
            continue;
        };
        if priorities.contains_key(name) {
            notes.refused_part(format!("{field}.name"), name, "listed twice: the first entry is used");
            continue;
        }
        let weight = checked(notes, &format!("{field}.weight"), cluster.weight, |w| {
            text::bounded(w, 0, text::WEIGHT_MAX)
        });
        let priority =
            checked(notes, &format!("{field}.priority"), cluster.priority, |p| text::bounded(p, 0, 255));
        sets_priority |= priority.is_some();
        priorities.insert(name.clone(), priority.unwrap_or(0));
        weight.map(|weight| weights.insert(name.clone(), weight));
    }
    part.weights = (!weights.is_empty()).then_some(weights);
    part.priorities = sets_priority.then_some(priorities);
}

fn read_when(when: &PinWhen) -> Result<PinMatch, String> {
    let given =
        [when.header.is_some(), when.cookie.is_some(), when.query.is_some(), when.source_cidr.is_some()];
    if given.iter().filter(|given| **given).count() != 1 {
        return Err("exactly one of header, cookie, query, sourceCIDR".to_owned());
    }
    if let Some(header) = &when.header {
        Ok(PinMatch::Header(text::header_name(&header.name)?, text::value(&header.value)?))
    } else if let Some(cookie) = &when.cookie {
        Ok(PinMatch::Cookie(text::cookie_name(&cookie.name)?, text::value(&cookie.value)?))
    } else if let Some(query) = &when.query {
        Ok(PinMatch::Query(text::query_name(&query.name)?, text::value(&query.value)?))
    } else {
        let cidr = when.source_cidr.as_deref().unwrap_or_default();
        cidr.parse().map(PinMatch::SourceCidr).map_err(|_| "a range such as 10.0.0.0/8".to_owned())
    }
}

fn read_retry(spec: &FailoverPolicySpec, part: &mut Part, notes: &mut Notes) {
    if let Some(detection) = &spec.detection {
        let field = "spec.detection.consecutiveFailures";
        part.consecutive_failures =
            checked(notes, field, detection.consecutive_failures, |n| text::bounded(n, 0, 255));
    }
    let Some(retry) = &spec.retry else { return };
    part.attempts = checked(notes, "spec.retry.attempts", retry.attempts, |n| text::bounded(n, 1, 10));
    part.budget_percent =
        checked(notes, "spec.retry.budgetPercent", retry.budget_percent, |n| text::bounded(n, 0, 100));
    part.body_bytes_max =
        checked(notes, "spec.retry.maxBodyBytes", retry.max_body_bytes, |n| text::bounded(n, 0, 1 << 20));
    part.non_idempotent = retry.non_idempotent;
    part.statuses =
        retry.statuses.as_deref().map(|statuses| read_statuses(statuses, "spec.retry.statuses", notes));
}

/// Statuses that are tried again.
pub fn read_statuses(statuses: &[i64], field: &str, notes: &mut Notes) -> Vec<u16> {
    let mut read = BTreeSet::new();
    for status in statuses {
        let parsed = checked(notes, field, Some(*status), |s| text::bounded(s, 400, 599));
        if let Some(status) = parsed.filter(|_| read.len() < STATUSES_MAX) {
            read.insert(status);
        }
    }
    read.into_iter().collect()
}

/// Fields whose behaviour is not there yet: accepted, so that one policy works today and tomorrow, and named.
fn report_later(spec: &FailoverPolicySpec, notes: &mut Notes) {
    let detection = spec.detection.as_ref();
    let later = [
        ("spec.healthCheck", spec.health_check.is_some()),
        ("spec.detection.silence", detection.is_some_and(|d| d.silence.is_some())),
        ("spec.detection.errors", detection.is_some_and(|d| d.errors.is_some())),
        ("spec.hedge", spec.hedge.is_some()),
        ("spec.spill", spec.spill.is_some()),
        ("spec.panic", spec.panic.is_some()),
        ("spec.capacity", spec.capacity.is_some()),
        ("spec.failback", spec.failback.is_some()),
        ("spec.writeFence", spec.write_fence.is_some()),
    ];
    for (field, _) in later.iter().filter(|(_, given)| *given) {
        notes.ignored(*field, "", "accepted, not in force yet");
    }
}

/// The policy that `part` amounts to, for the clusters that may serve.
#[must_use]
pub fn resolve(
    part: &Part,
    members: &BTreeMap<Arc<str>, Member>,
    permitted: &Permitted,
    defaults: &Defaults,
) -> Policy {
    let serving: Vec<&Member> = members.values().filter(|member| permitted.allows(&member.name)).collect();
    let mut policy = Policy {
        clusters: shares(part, &serving, &defaults.place),
        timeouts: defaults.timeouts,
        ..Policy::default()
    };
    policy.retry.body_bytes_max = defaults.retry_body_bytes_max;
    policy.pins = part
        .pins
        .iter()
        .flatten()
        .filter(|(_, cluster, _)| permitted.allows(cluster))
        .filter_map(|(when, cluster, strict)| {
            let cluster = members.get(cluster)?.id;
            Some(Pin { when: when.clone(), cluster, strict: *strict })
        })
        .collect();
    policy.balance = part.balance.clone().unwrap_or_default();
    policy.affinity.clone_from(&part.affinity);
    let (retry, timeouts) = (&mut policy.retry, &mut policy.timeouts);
    retry.attempts = part.attempts.unwrap_or(retry.attempts);
    retry.budget_percent = part.budget_percent.unwrap_or(retry.budget_percent);
    retry.body_bytes_max = part.body_bytes_max.unwrap_or(retry.body_bytes_max);
    retry.statuses = part.statuses.clone().unwrap_or_default().into();
    retry.non_idempotent = part.non_idempotent.unwrap_or(retry.non_idempotent);
    timeouts.connect = part.connect.unwrap_or(timeouts.connect);
    timeouts.attempt = part.attempt.unwrap_or(timeouts.attempt);
    timeouts.request = part.request.unwrap_or(timeouts.request);
    timeouts.idle = part.idle.unwrap_or(timeouts.idle);
    policy.outlier.consecutive_failures =
        part.consecutive_failures.unwrap_or(policy.outlier.consecutive_failures);
    policy
}

/// Which clusters may serve.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Permitted {
    /// Every member.
    #[default]
    All,
    /// Only these (`GatewayConfig` `spec.clusters`).
    Only(BTreeSet<Arc<str>>),
}

impl Permitted {
    fn allows(&self, cluster: &Arc<str>) -> bool {
        match self {
            Self::All => true,
            Self::Only(names) => names.contains(cluster),
        }
    }
}

fn shares(part: &Part, serving: &[&Member], node: &Place) -> Box<[ClusterShare]> {
    // The most specific source that sets any priority decides. Whom it does not list comes after all listed ones:
    // a cluster that joins later must not turn a standby pair into an active trio.
    let last = part.priorities.iter().flat_map(BTreeMap::values).max().map_or(0, |max| max.saturating_add(1));
    let priority_of = |member: &Member| match &part.priorities {
        Some(priorities) => priorities.get(&member.name).copied().unwrap_or(last),
        None => member.priority,
    };
    let members_set_weights = serving.iter().any(|member| member.weight.is_some());
    let weight_of = |member: &Member| match &part.weights {
        Some(weights) => weights.get(&member.name).copied(),
        None => members_set_weights.then(|| member.weight.unwrap_or(100)),
    };
    let mut shares: Vec<ClusterShare> = serving
        .iter()
        .map(|member| ClusterShare {
            cluster: member.id,
            priority: priority_of(member),
            weight: weight_of(member),
        })
        .collect();
    if part.order == Some(ClusterOrder::Nearest) {
        // Distance decides within one priority: a standby stays a standby, however near it is.
        let ranked: Vec<(u8, u8)> =
            serving.iter().map(|member| (priority_of(member), distance(node, member))).collect();
        let ranks: BTreeSet<(u8, u8)> = ranked.iter().copied().collect();
        for (share, place) in shares.iter_mut().zip(&ranked) {
            share.priority = u8::try_from(ranks.range(..place).count()).unwrap_or(u8::MAX);
        }
    }
    // Within one priority either every cluster has a weight or none: a missing one next to others is 0.
    let weighted: BTreeSet<u8> =
        shares.iter().filter(|share| share.weight.is_some()).map(|share| share.priority).collect();
    for share in &mut shares {
        if share.weight.is_none() && weighted.contains(&share.priority) {
            share.weight = Some(0);
        }
    }
    shares.sort_by_key(|share| share.cluster);
    shares.into()
}

/// How far a member is from the node: 0 in its zone, 1 in its region, 2 elsewhere. A place that is unknown is
/// nowhere near; for a node whose place is unknown all are alike.
fn distance(node: &Place, member: &Member) -> u8 {
    let same = |ours: &str, theirs: &str| !ours.is_empty() && ours == theirs;
    let other_region = !node.region.is_empty() && !member.region.is_empty() && node.region != member.region;
    // Zones of two regions may bear one name.
    if same(&node.zone, &member.zone) && !other_region {
        0
    } else if same(&node.region, &member.region) {
        1
    } else {
        2
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use routing::id::ClusterId;

    fn members(names: &[(&str, u8, Option<u32>)]) -> BTreeMap<Arc<str>, Member> {
        let member = |(index, (name, priority, weight)): (usize, &(&str, u8, Option<u32>))| {
            let name: Arc<str> = Arc::from(*name);
            let id = ClusterId(u16::try_from(index).unwrap());
            let mode = crate::crd::EndpointMode::Pod;
            let (region, zone) = (Arc::from(""), Arc::from(""));
            let (priority, weight) = (*priority, *weight);
            (name.clone(), Member { id, name, priority, weight, mode, allowed: vec![], region, zone })
        };
        names.iter().enumerate().map(member).collect()
    }

    fn shares_of(part: &Part, members: &BTreeMap<Arc<str>, Member>) -> Vec<(u8, Option<u32>)> {
        let policy = resolve(part, members, &Permitted::All, &Defaults::default());
        policy.clusters.iter().map(|share| (share.priority, share.weight)).collect()
    }

    #[test]
    fn nobody_sets_a_weight_so_pods_decide() {
        let all = members(&[("a", 0, None), ("b", 0, None)]);
        assert_eq!(shares_of(&Part::default(), &all), [(0, None), (0, None)]);
    }

    #[test]
    fn one_member_with_a_weight_gives_the_others_a_hundred() {
        let all = members(&[("a", 0, Some(50)), ("b", 0, None)]);
        assert_eq!(shares_of(&Part::default(), &all), [(0, Some(50)), (0, Some(100))]);
    }

    #[test]
    fn a_cluster_that_a_policy_does_not_list_is_a_last_resort() {
        let all = members(&[("a", 0, Some(1)), ("b", 0, Some(1)), ("c", 0, Some(1))]);
        let weights = Some(BTreeMap::from([(Arc::from("a"), 80), (Arc::from("b"), 20)]));
        assert_eq!(
            shares_of(&Part { weights, ..Part::default() }, &all),
            [(0, Some(80)), (0, Some(20)), (0, Some(0))]
        );
        let priorities = Some(BTreeMap::from([(Arc::from("a"), 0), (Arc::from("b"), 1)]));
        let part = Part { priorities, ..Part::default() };
        let priorities: Vec<u8> = shares_of(&part, &all).into_iter().map(|share| share.0).collect();
        assert_eq!(priorities, [0, 1, 2]);
    }

    #[test]
    fn the_more_specific_part_wins_field_by_field() {
        let mut part = Part { attempts: Some(5), idle: Some(Duration::ZERO), ..Part::default() };
        part.overlay(&Part { attempts: Some(2), connect: Some(Duration::ZERO), ..Part::default() });
        assert_eq!(
            (part.attempts, part.idle, part.connect),
            (Some(2), Some(Duration::ZERO), Some(Duration::ZERO))
        );
    }
}
