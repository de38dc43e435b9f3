//! A [`Part`] with the defaults filled in and names of clusters turned into numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use routing::model::{ClusterShare, Pin, Policy};

use super::Part;
use crate::compile::{Defaults, Place};
use crate::crd::ClusterOrder;
use crate::merge::Member;

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
    retry.grpc = part.grpc_codes.unwrap_or_default();
    retry.non_idempotent = part.non_idempotent.unwrap_or(retry.non_idempotent);
    retry.time_max = part.retry_time.unwrap_or(retry.time_max);
    timeouts.connect = part.connect.unwrap_or(timeouts.connect);
    timeouts.attempt = part.attempt.unwrap_or(timeouts.attempt);
    timeouts.request = part.request.unwrap_or(timeouts.request);
    timeouts.idle = part.idle.unwrap_or(timeouts.idle);
    policy.outlier.consecutive_failures =
        part.consecutive_failures.unwrap_or(policy.outlier.consecutive_failures);
    policy.connections.endpoint_max = part.endpoint_max.unwrap_or(0);
    policy.connections.requests_max = part.requests_max.unwrap_or(0);
    policy.hedge = part.hedge.unwrap_or(policy.hedge);
    policy.spill_percent = part.spill_percent.unwrap_or(policy.spill_percent);
    policy.panic_percent = part.panic_percent.unwrap_or(policy.panic_percent);
    policy.route_priority = part.route_priority.unwrap_or(policy.route_priority);
    policy.write_fence = part.write_fence.unwrap_or(policy.write_fence);
    policy.established = part.established.unwrap_or(policy.established);
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
    /// May this cluster serve?
    #[must_use]
    pub fn allows(&self, cluster: &Arc<str>) -> bool {
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
    use std::time::Duration;

    use routing::id::ClusterId;

    use super::*;

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
