//! One guard each, at its worst moment. `scripts/mutations` switches each guard off and wants its test here to fail.

use routing::model::{Balance, HedgeMode};

use crate::run;
use crate::watch::Summary;
use crate::world::{Fault, Kind, MS, Plan, US, Where};

/// Runs a plan with eight seeds. Panics where an invariant does not hold.
fn all(plan: &Plan) -> Summary {
    let mut total = Summary::default();
    for seed in 0..8 {
        total.add(&run(plan, seed).unwrap_or_else(|failure| panic!("{failure}")));
    }
    total
}

fn fault(kind: Kind, at: Where, from: u64, lasts: u64) -> Fault {
    Fault { kind, at, from: from * MS, to: (from + lasts) * MS }
}

fn verdicts(summary: &Summary, reason: &str) -> u64 {
    let of = summary.verdicts.iter().filter(|(name, _)| name.starts_with(reason));
    of.map(|(_, count)| count).sum()
}

#[test]
fn storm_of_errors_stays_within_the_budget() {
    let everywhere = [0, 1].map(|cluster| fault(Kind::Errors, Where::Cluster(cluster), 300, 700));
    let summary = all(&Plan { faults: everywhere.into(), until: 1_300 * MS, ..Plan::quiet() });
    assert!(summary.retries > 0 && summary.gave_up["budget_spent"] > 0, "{summary:#?}");
}

/// One endpoint of four is slower than the rest, for ever: a quarter of all requests wants a hedge, a tenth gets one.
#[test]
fn hedges_stay_within_their_half_of_the_budget() {
    let mut plan = Plan::quiet();
    plan.fill(|_, _| 4);
    (plan.policy.hedge, plan.policy.balance) = (HedgeMode::Always, Balance::RoundRobin);
    plan.faults = [fault(Kind::Slow(30), Where::Endpoint(0), 300, 600)].into();
    let summary = all(&plan);
    assert!(summary.hedges > 0 && summary.hedges_refused > 0, "{summary:#?}");
}

/// The worker stands still while its probes are in flight, and sees its timers before what came meanwhile.
#[test]
fn standstill_of_our_own_is_no_silence() {
    let summary = all(&Plan { stall_at_probes: true, gap: 4 * MS, until: 3_000 * MS, ..Plan::quiet() });
    assert!(summary.stalls > 0, "{summary:#?}");
    assert!(summary.verdicts.is_empty(), "{summary:#?}");
}

/// Probes are dropped, traffic is not: one in a hundred answers comes just before a probe is given up.
#[test]
fn failed_probes_alone_are_no_verdict() {
    let deaf = fault(Kind::DeafToProbes, Where::Cluster(0), 300, 2_000);
    let tail = (4_500 * US, 6_800 * US);
    let plan = Plan { faults: [deaf].into(), gap: 4 * MS, until: 2_500 * MS, tail, ..Plan::quiet() };
    let summary = all(&plan);
    assert!(summary.answered > 0 && summary.verdicts.is_empty(), "{summary:#?}");
}

/// Two of four endpoints drop probes. They are asked with their cluster, while nothing waits for them; who sends them a
/// request then must not find them silent for as long as it has been since.
#[test]
fn endpoint_that_was_only_just_used_is_not_silent() {
    let mut plan = Plan { gap: 4 * MS, until: 2_500 * MS, ..Plan::quiet() };
    plan.fill(|_, _| 4);
    plan.faults = [0, 1].map(|id| fault(Kind::DeafToProbes, Where::Endpoint(id), 300, 2_000)).into();
    let summary = all(&plan);
    assert!(summary.answered > 0 && summary.failed == 0, "{summary:#?}");
}

/// Requests hang, probes are answered: that is slowness.
#[test]
fn silence_alone_is_no_verdict_but_slowness() {
    let slow = fault(Kind::Slow(400), Where::Cluster(0), 300, 300);
    let summary = all(&Plan { faults: [slow].into(), ..Plan::quiet() });
    assert!(verdicts(&summary, "slow") > 0, "{summary:#?}");
    assert_eq!(verdicts(&summary, "silent") + verdicts(&summary, "hang"), 0, "{summary:#?}");
}

/// The same: what traffic raised is not cleared by the probes.
#[test]
fn answered_probes_clear_no_suspicion() {
    let slow = fault(Kind::Slow(400), Where::Cluster(0), 300, 300);
    let summary = all(&Plan { faults: [slow].into(), ..Plan::quiet() });
    assert!(summary.suspicions > 0 && verdicts(&summary, "slow") > 0, "{summary:#?}");
}

#[test]
fn write_that_may_have_been_processed_is_not_sent_again() {
    let killed = fault(Kind::Refuse, Where::Cluster(0), 300, 100);
    let summary = all(&Plan { faults: [killed].into(), posts: 100, ..Plan::quiet() });
    assert!(summary.gave_up["not_idempotent"] > 0 && summary.moves > 0, "{summary:#?}");
}

#[test]
fn cluster_that_vanishes_and_one_that_hangs_are_told_apart() {
    for (kind, name) in [(Kind::Silent, "silent cluster"), (Kind::Hang, "hang cluster")] {
        let gone = fault(kind, Where::Cluster(0), 500, 200);
        let summary = all(&Plan { workers: 2, faults: [gone].into(), ..Plan::quiet() });
        assert!(summary.verdicts.get(name).is_some_and(|count| *count >= 8), "{summary:#?}");
        assert!(summary.longest_return_ms < 3_000, "{summary:#?}");
        assert_eq!(summary.failed, 0, "{summary:#?}");
    }
}
