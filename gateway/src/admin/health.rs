//! The health of clusters, of their parts of backends and of endpoints, as `ringway status` shows it: state, reason,
//! since, evidence.
//!
//! What operators decided comes first, then the verdict of the failure detector, then what all workers' counters say.

use std::time::Duration;

use routing::health::action::Evidence;
use routing::health::state::State;
use routing::id::ClusterId;
use routing::table::{BackendView, ClusterView, HealthCounts, VerdictView};
use routing::time::MonoTime;

use super::api::{Activity, HealthState, Origin, Standing};
use super::room::Room;
use crate::observe::metrics::TallySum;
use crate::worker::clock;
use crate::worker::finding::Whose;

/// The state of what answers.
const UP: &str = "up";

impl Room {
    /// The verdict on something, unless it is healthy.
    pub(super) fn verdict(&self, whose: Whose, view: VerdictView) -> Option<HealthState> {
        let evidence = self.evidence.get(&whose).filter(|(state, _)| *state == view.state);
        of_verdict(view, evidence.map(|(_, evidence)| evidence), clock::now())
    }

    /// A cluster with all of `backends`. `counts`: responses and attempts without one within `span`.
    pub(super) fn cluster_health(
        &self,
        view: &ClusterView,
        backends: &[BackendView],
        (activity, standing): (Activity, &Standing),
        counts: (u64, u64),
        span: Duration,
    ) -> HealthState {
        drained(view, standing, counted(counts, span))
            .or_else(|| self.verdict(Whose::Cluster(view.id), view.verdict))
            .or_else(|| self.of_parts(view.id, backends))
            .unwrap_or_else(|| of_activity(activity, counts, span))
    }

    /// A cluster about which nothing is said as a whole, by the backends that it has: down when all of them are.
    fn of_parts(&self, cluster: ClusterId, backends: &[BackendView]) -> Option<HealthState> {
        let parts = backends.iter().flat_map(|view| {
            let here = view.clusters.iter().zip(&view.verdicts).filter(|((id, _), _)| *id == cluster);
            here.map(|(_, verdict)| (view.id, *verdict))
        });
        let parts: Vec<_> = parts.collect();
        let down: Vec<_> = parts.iter().filter(|(_, verdict)| verdict.state.reason().is_some()).collect();
        let (backend, latest) = **down.iter().max_by_key(|(_, verdict)| verdict.since)?;
        let health = self.verdict(Whose::Backend(backend, cluster), latest)?;
        let (count, all) = (down.len(), parts.len());
        if count < all {
            let reason = format!("{count} of its {all} backends are down");
            return Some(HealthState { state: UP.to_owned(), reason, ..health });
        }
        Some(health)
    }

    /// One cluster's part of a backend: the `nth` of `view`. `tally`: since the start; `None` when it shares its
    /// counters.
    pub(super) fn part_health(
        &self,
        view: &BackendView,
        nth: usize,
        cluster: Option<&HealthState>,
        tally: Option<&TallySum>,
    ) -> HealthState {
        let (id, counts) = view.clusters[nth];
        let own = self.verdict(Whose::Backend(view.id, id), view.verdicts[nth]);
        let of_its_cluster = || {
            let whole = cluster?;
            let reason = format!("cluster {}: {}", whole.state, whole.reason);
            let reason = reason.trim_end_matches(": ").to_owned();
            Some(HealthState { reason, ..whole.clone() })
        };
        own.or_else(of_its_cluster).unwrap_or_else(|| of_counts(&counts, tally))
    }
}

/// What the failure detector says; `None` while it says nothing.
fn of_verdict(view: VerdictView, evidence: Option<&Evidence>, now: MonoTime) -> Option<HealthState> {
    let reason = match view.state {
        State::Healthy => return None,
        State::Suspect => "its traffic is in doubt",
        State::Down(reason) => reason.name(),
        State::Probation => "single requests decide",
        State::Ramp => "its share grows back",
    };
    Some(HealthState {
        state: view.state.name().to_owned(),
        reason: reason.to_owned(),
        since_seconds: (view.since > MonoTime::ZERO).then(|| now.since(view.since).as_secs_f64()),
        evidence: evidence.map(ToString::to_string).unwrap_or_default(),
    })
}

/// What an operator made of it, if anything.
fn drained(view: &ClusterView, standing: &Standing, evidence: String) -> Option<HealthState> {
    if view.drain_percent == 0 && standing.drain_target == 0 {
        return None;
    }
    let by = match standing.drain_origin {
        Origin::Manifest => "by its MemberCluster",
        Origin::Operator => "by an operator",
    };
    let (state, reason) = match view.drain_percent {
        100 => ("drained", by.to_owned()),
        percent => ("draining", format!("{percent} % of {} %, {by}", standing.drain_target.max(percent))),
    };
    let since_seconds = standing.drain_since_seconds;
    Some(HealthState { state: state.to_owned(), reason, since_seconds, evidence })
}

fn of_activity(activity: Activity, counts: (u64, u64), span: Duration) -> HealthState {
    let (state, reason) = match activity {
        Activity::Serving | Activity::Idle | Activity::Drained => (UP, String::new()),
        Activity::Failing => {
            let percent = counts.1 * 100 / (counts.0 + counts.1).max(1);
            ("failing", format!("{percent} % of its attempts ended without a response"))
        }
        Activity::NoEndpoints => ("down", "no endpoint in use".to_owned()),
    };
    let evidence = counted(counts, span);
    HealthState { state: state.to_owned(), reason, since_seconds: None, evidence }
}

fn counted((responses, failures): (u64, u64), span: Duration) -> String {
    format!("{responses} responses, {failures} failures in {} s", span.as_secs())
}

fn of_counts(counts: &HealthCounts, tally: Option<&TallySum>) -> HealthState {
    let usable = counts.ready + counts.suspect;
    let (state, reason) = match (usable, counts.terminating, counts.ejected) {
        (0, 0, 0) => ("down", "no endpoint".to_owned()),
        (0, 0, down) => ("down", format!("every endpoint is down ({down})")),
        (0, _, _) => ("leaving", "only terminating endpoints".to_owned()),
        (_, _, 0) => (UP, String::new()),
        (_, _, down) => (UP, format!("{down} down")),
    };
    let evidence = tally.map_or_else(String::new, |tally| {
        format!("{} responses, {} failures since the start", tally.responses(), tally.failures)
    });
    HealthState { state: state.to_owned(), reason, since_seconds: None, evidence }
}

/// An endpoint about which the detector says nothing.
pub(super) fn quiet() -> HealthState {
    HealthState { state: UP.to_owned(), ..HealthState::default() }
}
