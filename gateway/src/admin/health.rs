//! The health of clusters and of their parts of backends, as `ringway status` shows it: state, reason, since,
//! evidence.
//!
//! What is judged here is what all workers' counters and operators say: each worker's own verdicts are not known to
//! this thread.

use std::time::Duration;

use routing::table::{ClusterView, HealthCounts};

use super::api::{Activity, HealthState, Origin, Standing};
use crate::observe::metrics::TallySum;

/// A cluster. `counts`: responses and attempts without one within `span`.
pub(super) fn of_cluster(
    view: &ClusterView,
    activity: Activity,
    standing: &Standing,
    (responses, failures): (u64, u64),
    span: Duration,
) -> HealthState {
    let seconds = span.as_secs();
    let evidence = format!("{responses} responses, {failures} failures in {seconds} s");
    let health = |state: &str, reason: String| HealthState {
        state: state.to_owned(),
        reason,
        since_seconds: None,
        evidence: evidence.clone(),
    };
    if view.drain_percent > 0 || standing.drain_target > 0 {
        let by = match standing.drain_origin {
            Origin::Manifest => "by its MemberCluster",
            Origin::Operator => "by an operator",
        };
        let (state, reason) = match view.drain_percent {
            100 => ("drained", by.to_owned()),
            percent => ("draining", format!("{percent} % of {} %, {by}", standing.drain_target.max(percent))),
        };
        return HealthState { since_seconds: standing.drain_since_seconds, ..health(state, reason) };
    }
    match activity {
        Activity::Serving | Activity::Idle | Activity::Drained => health("up", String::new()),
        Activity::Failing => {
            let percent = failures * 100 / (responses + failures).max(1);
            health("failing", format!("{percent} % of its attempts ended without a response"))
        }
        Activity::NoEndpoints => health("down", "no endpoint in use".to_owned()),
    }
}

/// One cluster's part of a backend. `tally`: since the start; `None` when it shares its counters.
pub(super) fn of_part(counts: &HealthCounts, tally: Option<&TallySum>) -> HealthState {
    let (state, reason) = match (counts.ready, counts.terminating, counts.ejected) {
        (0, 0, 0) => ("down", "no endpoint".to_owned()),
        (0, 0, ejected) => ("down", format!("every endpoint is ejected ({ejected})")),
        (0, _, _) => ("leaving", "only terminating endpoints".to_owned()),
        (_, _, 0) => ("up", String::new()),
        (_, _, ejected) => ("up", format!("{ejected} ejected")),
    };
    let evidence = tally.map_or_else(String::new, |tally| {
        format!("{} responses, {} failures since the start", tally.responses(), tally.failures)
    });
    HealthState { state: state.to_owned(), reason, since_seconds: None, evidence }
}
