//! The failure detector under faults, in virtual time: what is found, how fast, what it costs, and what is left alone.
#![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

mod common;
mod lab;

use std::time::Duration;

use common::*;
use lab::{Fault, Lab, SECOND, ms};
use routing::delta::RouteTable;
use routing::health::action::Scope;
use routing::health::state::{Reason, State};
use routing::id::ClusterId;
use routing::model::*;

const ALPHA: Scope = Scope::Cluster(ClusterId(0));
const BETA: Scope = Scope::Cluster(ClusterId(1));
const SEEDS: u64 = 12;

/// The healthy maximum: nothing that takes longer is as if nothing had happened.
const HEALTHY_MAX: Duration = Duration::from_millis(40);

fn policy() -> Policy {
    let retry = RetryPolicy { statuses: [503].into(), ..Policy::default().retry };
    Policy { retry, ..plan(&[(0, 0, None), (1, 1, None)]) }
}

/// Two clusters of `count` endpoints, the second a standby: ids 0.. and 100..
fn standby(count: u32, policy: Policy) -> RouteTable {
    let mut world = world(&["alpha", "beta"], &[(0, 1)], policy);
    add_endpoints(&mut world, 0, 0, 0, count);
    add_endpoints(&mut world, 0, 1, 100, count);
    world
}

/// A lab that has been healthy for a while, for every seed and for one and two workers.
fn each(world: &RouteTable, run: impl Fn(&mut Lab)) {
    for workers in [1, 2] {
        for seed in 0..SEEDS {
            let mut lab = Lab::new(world, workers, seed);
            println!("seed {seed}, {workers} workers");
            run(&mut lab);
        }
    }
}

fn is_down(state: State) -> bool {
    matches!(state, State::Down(_))
}

#[test]
fn silent_cluster_is_found_within_ten_milliseconds_and_costs_no_request_more_than_the_tail() {
    each(&standby(2, policy()), |lab| {
        lab.run(SECOND * 3);
        let began = lab.now;
        lab.break_all([0, 1], Fault::Drop);
        lab.run(SECOND);
        let down = lab.downs(began);
        let found = lab.first(ALPHA, |to| to == State::Down(Reason::Silent), began);
        println!(
            "  found after {:?}, slowest {:?}, {} probes",
            found.map(|at| at.since(began)),
            lab.slowest(began),
            lab.probes
        );
        for change in &down {
            println!(
                "  {:?} {} -> {} at {:?}: {}",
                change.scope,
                change.from,
                change.to,
                change.at.since(began),
                change.evidence
            );
        }
        assert!(found.unwrap().since(began) <= ms(11));
        assert_eq!(lab.failed(began), 0);
        assert!(lab.slowest(began - ms(40)) <= ms(55), "{:?}", lab.slowest(began));
    });
}

#[test]
fn hanging_cluster_is_found_within_fifteen_milliseconds() {
    each(&standby(2, policy()), |lab| {
        lab.run(SECOND * 3);
        let began = lab.now;
        lab.break_all([0, 1], Fault::Hang);
        lab.run(SECOND);
        let found = lab.first(ALPHA, is_down, began);
        println!("  found after {:?}, slowest {:?}", found.map(|at| at.since(began)), lab.slowest(began));
        for change in lab.downs(began) {
            println!(
                "  {:?} {} -> {} at {:?}: {}",
                change.scope,
                change.from,
                change.to,
                change.at.since(began),
                change.evidence
            );
        }
        let first = lab.log.iter().find(|change| change.scope == ALPHA && is_down(change.to)).unwrap();
        assert_eq!(first.to, State::Down(Reason::Hang));
        assert!(found.unwrap().since(began) <= ms(16));
        assert!(lab.affected(began - ms(40), HEALTHY_MAX + ms(15)).len() <= 2);
        assert_eq!(lab.failed(began), 0);
    });
}

#[test]
fn brownout_is_found_within_thirty_milliseconds_and_not_paid_twice() {
    each(&standby(2, policy()), |lab| {
        lab.run(SECOND * 3);
        let (began, before, arrived) = (lab.now, lab.executions, lab.exchanges.len());
        lab.break_all([0, 1], Fault::Slow(ms(500)));
        lab.run(SECOND * 3);
        let found = lab.first(ALPHA, |to| to == State::Down(Reason::Slow), began);
        let executed = (lab.executions - before) as f64 / (lab.exchanges.len() - arrived) as f64;
        println!(
            "  found after {:?}, slowest {:?}, {executed:.3} executions",
            found.map(|at| at.since(began)),
            lab.slowest(began)
        );
        for change in lab.log.iter().filter(|change| change.at >= began).take(12) {
            println!(
                "  {:?} {} -> {} at {:?}: {}",
                change.scope,
                change.from,
                change.to,
                change.at.since(began),
                change.evidence
            );
        }
        // A late answer of the tail may clear the first suspicion.
        assert!(found.unwrap().since(began) <= ms(60));
        assert!(lab.affected(began, HEALTHY_MAX + ms(15)).len() <= 5);
        assert!(lab.slowest(began) <= ms(80));
        assert!(executed <= 1.10, "{executed}");
        assert_eq!(lab.failed(began), 0);
    });
}

#[test]
fn failures_with_good_probes_are_found_after_five_and_none_is_forwarded() {
    each(&standby(2, policy()), |lab| {
        lab.run(SECOND * 3);
        let (began, before, arrived) = (lab.now, lab.executions, lab.exchanges.len());
        lab.break_all([0, 1], Fault::Errors);
        lab.run(SECOND * 3);
        let executed = (lab.executions - before) as f64 / (lab.exchanges.len() - arrived) as f64;
        println!("  {executed:.3} executions, {} failed", lab.failed(began));
        for change in lab.log.iter().filter(|change| change.at >= began).take(12) {
            println!(
                "  {:?} {} -> {} at {:?}: {}",
                change.scope,
                change.from,
                change.to,
                change.at.since(began),
                change.evidence
            );
        }
        assert_eq!(lab.failed(began), 0);
        assert!(executed <= 1.2);
    });
}

#[test]
fn killed_cluster_costs_nothing() {
    each(&standby(2, policy()), |lab| {
        lab.run(SECOND * 3);
        let began = lab.now;
        lab.break_all([0, 1], Fault::Refuse);
        lab.run(SECOND);
        let found = lab.first(ALPHA, |to| to == State::Down(Reason::Refused), began);
        println!(
            "  found {:?}, {} failed, slowest {:?}",
            found.map(|at| at.since(began)),
            lab.failed(began),
            lab.slowest(began)
        );
        for change in lab.log.iter().filter(|change| change.at >= began).take(12) {
            println!(
                "  {:?} {} -> {} at {:?}: {}",
                change.scope,
                change.from,
                change.to,
                change.at.since(began),
                change.evidence
            );
        }
        assert!(found.unwrap().since(began) <= ms(5));
        assert_eq!(lab.failed(began), 0);
        assert!(lab.slowest(began) <= HEALTHY_MAX + ms(2));
    });
}
