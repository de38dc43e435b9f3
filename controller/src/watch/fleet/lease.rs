//! Who writes to the hub: the holder of one Lease (`coordination.k8s.io/v1`). Every node serves; one writes status.
//!
//! Another holder's Lease is taken only when it was not renewed for as long as it lasts, by this node's own clock; a
//! holder that cannot renew stops writing before that. Two nodes never hold it at once as far as their clocks run at
//! the same rate.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tracing::{info, warn};

use crate::watch::client::chain;

/// The name of the Lease.
const NAME: &str = "ringway";
/// It lasts so many renewals.
const RENEWALS: u32 = 3;

/// Until when this node may write; `None` = it does not hold the Lease.
pub(super) type Term = Rc<Cell<Option<Instant>>>;

/// What was last seen of another holder, and since when nothing of it has changed.
struct Seen {
    holder: Option<String>,
    renewed: Option<MicroTime>,
    since: Instant,
}

/// Holds the Lease whenever it can be had; never returns.
pub(super) async fn hold(client: Client, namespace: String, identity: String, renew: Duration, term: Term) {
    let api: Api<Lease> = Api::namespaced(client, &namespace);
    let (mut seen, mut told) = (None, String::new());
    loop {
        let began = Instant::now();
        let attempt = tokio::time::timeout(renew, attempt(&api, &identity, renew, &mut seen)).await;
        let held = match attempt {
            Ok(Ok(held)) => held,
            Ok(Err(error)) => {
                complain(&mut told, chain(&error), &namespace);
                false
            }
            Err(_) => {
                complain(&mut told, format!("no answer within {renew:?}"), &namespace);
                false
            }
        };
        if held {
            told.clear();
        }
        let was = term.get().is_some_and(|until| until > began);
        if held {
            // One renewal less than it lasts: whoever takes it over finds nobody writing.
            term.set(Some(began + renew * (RENEWALS - 1)));
        }
        if held != was {
            info!(identity, holds_the_lease = held, "who writes status to the hub");
        }
        tokio::time::sleep(renew).await;
    }
}

/// Once for each reason: a namespace or a permission that is missing keeps every status from being written.
fn complain(told: &mut String, reason: String, namespace: &str) {
    if *told != reason {
        warn!(
            namespace,
            lease = NAME,
            reason,
            "the Lease cannot be had: no status is written to the hub by this node"
        );
        *told = reason;
    }
}

async fn attempt(
    api: &Api<Lease>,
    identity: &str,
    renew: Duration,
    seen: &mut Option<Seen>,
) -> kube::Result<bool> {
    let seconds = i32::try_from((renew * RENEWALS).as_secs().max(1)).unwrap_or(i32::MAX);
    let now = MicroTime(Timestamp::now());
    let Some(mut lease) = api.get_opt(NAME).await? else {
        let mut lease = Lease::default();
        lease.metadata.name = Some(NAME.to_owned());
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(identity.to_owned()),
            lease_duration_seconds: Some(seconds),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            lease_transitions: Some(0),
            ..LeaseSpec::default()
        });
        return won(api.create(&PostParams::default(), &lease).await);
    };
    let spec = lease.spec.get_or_insert_default();
    let is_ours = spec.holder_identity.as_deref() == Some(identity);
    let is_free = spec.holder_identity.as_deref().is_none_or(str::is_empty);
    if !is_ours && !is_free {
        let same = |seen: &&Seen| seen.holder == spec.holder_identity && seen.renewed == spec.renew_time;
        let since = seen.as_ref().filter(same).map_or_else(Instant::now, |seen| seen.since);
        *seen = Some(Seen { holder: spec.holder_identity.clone(), renewed: spec.renew_time.clone(), since });
        let lasts = u64::try_from(spec.lease_duration_seconds.unwrap_or(seconds)).unwrap_or(0);
        if since.elapsed() < Duration::from_secs(lasts) {
            return Ok(false);
        }
    }
    if !is_ours {
        spec.holder_identity = Some(identity.to_owned());
        spec.acquire_time = Some(now.clone());
        spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0).saturating_add(1));
    }
    spec.lease_duration_seconds = Some(seconds);
    spec.renew_time = Some(now);
    // With the version that was read: of two that try, the server refuses one.
    won(api.replace(NAME, &PostParams::default(), &lease).await)
}

/// Refused because somebody else was faster is an answer, not an error.
fn won(result: kube::Result<Lease>) -> kube::Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}
