//! What is written to the hub: status of `MemberClusters` and of `GatewayClasses` that are ours.
//!
//! By server-side apply under one field manager, so that what others wrote stays theirs. Only the holder of the Lease
//! writes, only what has changed since its last word, at most [`WRITES_PER_ROUND`] objects a round; what changes faster
//! is written in its newest form. A write that fails is tried again in the next round.

use std::collections::HashMap;
use std::time::Instant;

use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};
use tracing::warn;

use super::lease::{self, Term};
use super::*;
use crate::compile::context::GATEWAY_CONTROLLER;
use crate::digest;
use crate::watch::kinds::Resource;

/// The owner of our entries.
const FIELD_MANAGER: &str = "ringway";
/// Objects written in one round, which lasts a fifth of a renewal of the Lease: 20 a second.
const WRITES_PER_ROUND: usize = 20;
/// Rounds in one renewal.
const ROUNDS_PER_RENEWAL: u32 = 5;
/// `lastSeenTime` moves in steps of so many seconds: a healthy member is not written about more often.
const LAST_SEEN_STEP: i64 = 60;
/// Characters of a condition's message.
const MESSAGE_CHARS_MAX: usize = 256;

/// What one object's status is to say; times of conditions are put in when it is written.
pub(super) struct Wanted {
    kind: &'static str,
    name: Arc<str>,
    generation: i64,
    condition: Condition,
    more: Value,
}

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Condition {
    kind: &'static str,
    holds: bool,
    reason: &'static str,
    message: String,
}

/// What was last written about an object.
struct Written {
    digest: u64,
    holds: bool,
    since: Timestamp,
}

/// Writes for as long as the term lasts; never returns.
pub(super) async fn write(hub: SharedHub, client: Client, term: Term, renew: Duration) {
    let mut written: HashMap<(&'static str, Arc<str>), Written> = HashMap::new();
    let mut round = tokio::time::interval(renew / ROUNDS_PER_RENEWAL);
    loop {
        round.tick().await;
        if term.get().is_none_or(|until| until <= Instant::now()) {
            // Whoever wrote meanwhile may have said something else.
            written.clear();
            continue;
        }
        let wanted = hub.borrow().wanted();
        written.retain(|(kind, name), _| wanted.iter().any(|one| one.kind == *kind && one.name == *name));
        let mut room = WRITES_PER_ROUND;
        for one in wanted {
            let digest = digest::of(&(&one.condition, one.generation, one.more.to_string()));
            let key = (one.kind, one.name.clone());
            let last = written.get(&key);
            if room == 0 || last.is_some_and(|last| last.digest == digest) {
                continue;
            }
            room -= 1;
            let holds = one.condition.holds;
            let since =
                last.filter(|last| last.holds == holds).map_or_else(Timestamp::now, |last| last.since);
            let result = apply(&client, &one, since).await;
            let mut hub = hub.borrow_mut();
            match result {
                Ok(()) => {
                    hub.wrote(true);
                    written.insert(key, Written { digest, holds, since });
                }
                // It has just gone.
                Err(kube::Error::Api(status)) if status.is_not_found() => {}
                Err(error) => {
                    hub.wrote(false);
                    warn!(kind = one.kind, name = &*one.name, error = chain(&error), "status not written");
                }
            }
        }
    }
}

async fn apply(client: &Client, one: &Wanted, since: Timestamp) -> kube::Result<()> {
    let Some(resource) = FLEET.iter().find(|resource| resource.kind == one.kind) else { return Ok(()) };
    let version = resource.versions[0];
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource.api(version));
    let params = PatchParams::apply(FIELD_MANAGER).force();
    api.patch_status(&one.name, &params, &Patch::Apply(body(resource, version, one, since))).await.map(drop)
}

fn body(resource: &Resource, version: &str, one: &Wanted, since: Timestamp) -> Value {
    let condition = json!({
        "type": one.condition.kind,
        "status": if one.condition.holds { "True" } else { "False" },
        "reason": one.condition.reason,
        "message": one.condition.message,
        "observedGeneration": one.generation,
        "lastTransitionTime": seconds(since.as_second()),
    });
    let mut status = one.more.clone();
    status["conditions"] = json!([condition]);
    let api_version = resource.api(version).api_version;
    json!({"apiVersion": api_version, "kind": one.kind, "metadata": {"name": &*one.name}, "status": status})
}

/// Kubernetes takes times in whole seconds.
fn seconds(unix: i64) -> String {
    Timestamp::from_second(unix).map(|time| time.to_string()).unwrap_or_default()
}

impl Hub {
    /// Starts the tasks that write, unless the configuration says otherwise.
    pub(super) fn start_writing(&self, hub: &SharedHub) {
        let Some(identity) = self.settings.writer.clone() else { return };
        let (namespace, renew) = (self.settings.namespace.clone(), self.settings.tuning.renew);
        let term = Term::default();
        let hold = lease::hold(self.client.clone(), namespace, identity, renew, term.clone());
        tokio::task::spawn_local(hold);
        tokio::task::spawn_local(write(hub.clone(), self.client.clone(), term, renew));
    }

    fn wrote(&mut self, done: bool) {
        self.view.update(|view| match done {
            true => view.status_writes_total += 1,
            false => view.status_failures_total += 1,
        });
    }

    /// What every object's status is to say now.
    fn wanted(&self) -> Vec<Wanted> {
        let endpoints = self.view.read().endpoints;
        let mut wanted = Vec::new();
        let now = (Timestamp::now().as_second(), crate::clock::monotonic_ns());
        for (name, generation) in &self.generations.members {
            let Some(member) = self.members.get(name) else { continue };
            let view = member.view(self.settings.tuning);
            let holds = view.reason.is_empty();
            let message = match holds {
                true => "its API is watched".to_owned(),
                false => view.reason.chars().take(MESSAGE_CHARS_MAX).collect(),
            };
            let mut more = json!({"endpoints": endpoints.get(name).copied().unwrap_or(0)});
            if view.answered_ns > 0 {
                let ago = i64::try_from(now.1.saturating_sub(view.answered_ns) / 1_000_000_000).unwrap_or(0);
                let seen = (now.0 - ago) / LAST_SEEN_STEP * LAST_SEEN_STEP;
                more["lastSeenTime"] = seconds(seen).into();
            }
            let reason = if holds { "Watching" } else { "Unreachable" };
            let condition = Condition { kind: "Ready", holds, reason, message };
            let generation = *generation;
            wanted.push(Wanted { kind: "MemberCluster", name: name.clone(), generation, condition, more });
        }
        for (name, generation) in &self.generations.classes {
            let condition = Condition {
                kind: "Accepted",
                holds: true,
                reason: "Accepted",
                message: "served by Ringway".to_owned(),
            };
            let (generation, more) = (*generation, json!({}));
            wanted.push(Wanted { kind: "GatewayClass", name: name.clone(), generation, condition, more });
        }
        wanted
    }
}

/// Generations of the objects that status is written to.
#[derive(Debug, Default)]
pub(super) struct Generations {
    members: BTreeMap<Arc<str>, i64>,
    classes: BTreeMap<Arc<str>, i64>,
}

impl Generations {
    /// An object is there.
    pub(super) fn note(&mut self, object: &Object) {
        let name = object.id.name.clone();
        if let Spec::MemberCluster(member) = &object.spec {
            self.members.insert(name, member.metadata.generation.unwrap_or(0));
        } else if let Spec::GatewayClass(class) = &object.spec {
            if class.spec.controller_name == GATEWAY_CONTROLLER {
                self.classes.insert(name, class.metadata.generation.unwrap_or(0));
            } else {
                self.classes.remove(&name);
            }
        }
    }

    /// An object is gone.
    pub(super) fn forget(&mut self, id: &ObjectId) {
        if id.kind == Kind::MemberCluster {
            self.members.remove(&id.name);
        } else if id.kind == Kind::GatewayClass {
            self.classes.remove(&id.name);
        }
    }
}
