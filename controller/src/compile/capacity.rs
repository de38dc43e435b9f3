//! `capacity.maxInFlight`: what each cluster can take, from all policies together, as part of the [`Context`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use routing::id::ClusterId;

use crate::compile::context::Context;
use crate::compile::policy::Permitted;
use crate::crd::FailoverPolicySpec;
use crate::object::ObjectId;
use crate::text;
use crate::verdict::Notes;

/// The largest bound that a policy may set.
const IN_FLIGHT_MAX: i64 = 1_000_000;

/// What one policy says.
#[derive(Debug)]
pub(super) struct Capacity {
    policy: ObjectId,
    /// Never 0: a policy that sets no bound is not kept.
    in_flight_max: u32,
    /// The clusters that the policy lists.
    listed: Vec<Arc<str>>,
}

/// Reads the field. `None`: the policy sets no bound.
pub(super) fn read(id: &ObjectId, spec: &FailoverPolicySpec, notes: &mut Notes) -> Option<Capacity> {
    let given = spec.capacity.as_ref()?.max_in_flight?;
    let in_flight_max = match text::bounded(given, 0, IN_FLIGHT_MAX) {
        Ok(0) => return None,
        Ok(max) => max,
        Err(allowed) => {
            let reason = format!("allowed: {allowed}; 0 = unlimited");
            notes.refused_part("spec.capacity.maxInFlight", given, reason);
            return None;
        }
    };
    let clusters = spec.clusters.iter().flatten();
    let listed = clusters.map(|cluster| Arc::from(cluster.name.as_str())).collect();
    Some(Capacity { policy: id.clone(), in_flight_max, listed })
}

impl Context {
    /// Gives each cluster its bound: the smallest of those that policies set for it. Who sets which is reported.
    pub(super) fn bound_clusters(&mut self) {
        let mut notes: BTreeMap<ObjectId, Notes> = BTreeMap::new();
        let mut said: BTreeMap<ClusterId, Vec<(u32, &ObjectId)>> = BTreeMap::new();
        for capacity in &self.capacities {
            let default_of = self.default_policies.get(&capacity.policy);
            let held = self.members.values().filter(|member| match default_of {
                Some(configs) => configs.iter().any(|permitted| permitted.allows(&member.name)),
                None => capacity.listed.contains(&member.name),
            });
            let mut nowhere = true;
            for member in held {
                nowhere = false;
                said.entry(member.id).or_default().push((capacity.in_flight_max, &capacity.policy));
            }
            if nowhere {
                let reason = "it holds for clusters: list them in spec.clusters, or name this policy in a GatewayConfig";
                let notes = notes.entry(capacity.policy.clone()).or_default();
                notes.ignored("spec.capacity.maxInFlight", capacity.in_flight_max, reason);
            }
        }
        let mut in_force: BTreeMap<(&ObjectId, u32), BTreeSet<Arc<str>>> = BTreeMap::new();
        for (id, mut bounds) in said {
            bounds.sort();
            let Some(((max, winner), others)) = bounds.split_first() else { continue };
            let Some(cluster) = self.clusters.get_mut(&id) else { continue };
            Arc::make_mut(cluster).in_flight_max = *max;
            in_force.entry((winner, *max)).or_default().insert(cluster.name.clone());
            for (more, loser) in others.iter().filter(|(more, _)| more > max) {
                let reason =
                    format!("ignored for cluster {}: {winner} sets {max}, the smallest wins", cluster.name);
                notes.entry((*loser).clone()).or_default().ignored("spec.capacity.maxInFlight", more, reason);
            }
        }
        for ((policy, max), clusters) in in_force {
            let names: Vec<&str> = clusters.iter().map(|name| &**name).collect();
            let reason = format!("holds for each worker in each of: {}", names.join(", "));
            notes.entry(policy.clone()).or_default().info("spec.capacity.maxInFlight", max, reason);
        }
        for (id, notes) in notes {
            self.notes(&id).extend(&notes);
        }
    }

    /// Remembers that a `GatewayConfig` names this policy, for the clusters that it permits.
    pub(super) fn note_default(&mut self, policy: ObjectId, permitted: &Permitted) {
        self.default_policies.entry(policy).or_default().push(permitted.clone());
    }
}
