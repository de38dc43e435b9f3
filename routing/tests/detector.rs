//! The failure detector under faults, in virtual time: what is found, how fast, what it costs, and what is left alone.
#![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

mod common;
mod lab;

use std::cell::RefCell;
use std::time::Duration;

use common::*;
use lab::{Fault, Lab, SECOND, ms};
use routing::delta::RouteTable;
use routing::health::action::{Scope, Transition};
use routing::health::state::{Reason, State};
use routing::id::{BackendId, ClusterId, EndpointId};
use routing::model::*;
use wire::head::Method;

const ALPHA: Scope = Scope::Cluster(ClusterId(0));
/// The backend there.
const ALPHA_B: Scope = Scope::Backend(BackendId(0), ClusterId(0));
const BETA: Scope = Scope::Cluster(ClusterId(1));
const SEEDS: u64 = 4;

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

/// Half of them took no longer.
fn median(mut took: Vec<Duration>) -> Duration {
    took.sort_unstable();
    println!("{took:?}");
    took[took.len() / 2]
}

fn is_down(state: State) -> bool {
    matches!(state, State::Down(_))
}

#[test]
fn silent_cluster_is_found_within_ten_milliseconds_and_costs_no_request_more_than_the_tail() {
    let took = RefCell::new(Vec::new());
    each(&standby(2, policy()), |lab| {
        lab.run(SECOND * 3);
        let began = lab.now;
        lab.break_all([0, 1], Fault::Drop);
        lab.run(SECOND);
        let found = lab.first(ALPHA, |to| to == State::Down(Reason::Silent), began);
        lab.story(began);
        took.borrow_mut().push(found.unwrap().since(began));
        assert_eq!(lab.failed(began), 0);
        assert!(lab.slowest(began - ms(40)) <= ms(45), "{:?}", lab.slowest(began));
    });
    assert!(took.borrow().iter().all(|took| *took <= ms(12)));
    assert!(median(took.into_inner()) <= ms(10));
}

#[test]
fn hanging_cluster_is_found_within_fifteen_milliseconds() {
    each(&standby(2, policy()), |lab| {
        lab.run(SECOND * 3);
        let began = lab.now;
        lab.break_all([0, 1], Fault::Hang);
        lab.run(SECOND);
        let found = lab.first(ALPHA, is_down, began);
        lab.story(began);
        let first = lab.log.iter().find(|change| change.scope == ALPHA && is_down(change.to)).unwrap();
        assert_eq!(first.to, State::Down(Reason::Hang));
        assert!(found.unwrap().since(began) <= ms(16));
        assert!(lab.affected(began - ms(40), HEALTHY_MAX + ms(15)).len() <= 2);
        assert_eq!(lab.failed(began), 0);
    });
}

#[test]
fn brownout_is_found_within_thirty_milliseconds_and_not_paid_twice() {
    let took = RefCell::new(Vec::new());
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
        lab.story(began);
        // A late answer of the tail may clear the first suspicion.
        assert!(found.unwrap().since(began) <= ms(60));
        took.borrow_mut().push(found.unwrap().since(began));
        assert!(lab.affected(began, HEALTHY_MAX + ms(15)).len() <= 5);
        assert!(lab.slowest(began) <= ms(80));
        assert!(executed <= 1.10, "{executed}");
        assert_eq!(lab.failed(began), 0);
    });
    assert!(median(took.into_inner()) <= ms(30));
}

#[test]
fn failures_with_good_probes_are_found_after_five_and_none_is_forwarded() {
    each(&standby(2, policy()), |lab| {
        // Not where a window's bucket begins.
        lab.run(SECOND * 3 + ms(13));
        let (began, before, arrived) = (lab.now, lab.executions, lab.exchanges.len());
        lab.break_all([0, 1], Fault::Errors);
        lab.run(SECOND * 3);
        let executed = (lab.executions - before) as f64 / (lab.exchanges.len() - arrived) as f64;
        println!("  {executed:.3} executions, {} failed", lab.failed(began));
        lab.story(began);
        let found = lab.first(ALPHA_B, |to| to == State::Down(Reason::Errors), began);
        assert!(found.unwrap().since(began) <= ms(12), "a window of good answers before it is no excuse");
        assert_eq!(lab.failed(began), 0);
        assert!(executed <= 1.12, "{executed}: what is on probation is asked, and nothing else");
    });
}

/// Health URLs are green, and nothing that comes may be repeated: nobody finds out whether the failures are over but by
/// losing a request. That is not done for ten seconds.
#[test]
fn writes_are_not_sent_to_what_is_down_for_failures_to_find_out_whether_it_still_is() {
    each(&standby(2, policy()), |lab| {
        lab.ask(vec![Request::get("h", "/").method(Method::Post)]);
        lab.run(SECOND * 3 + ms(15));
        let began = lab.now;
        lab.break_all([0, 1], Fault::Errors);
        lab.run(SECOND * 9);
        lab.story(began);
        let (first, later) = (lab.failed(began - ms(5)), lab.failed(began + ms(15)));
        assert!(first <= 14, "{first} of the first few milliseconds");
        assert_eq!(later, 0, "of those that came when it was known");
        // It does return, if only after a while: nothing is down for ever.
        lab.heal();
        lab.run(SECOND * 3);
        assert!(lab.share(0, lab.now - SECOND) > 0.95, "{}", lab.share(0, lab.now - SECOND));
    });
}

/// What fails and then dies is another one when it is back: writes need not wait for ten seconds.
#[test]
fn what_was_dead_after_its_failures_is_sent_writes_again_after_two_seconds() {
    each(&standby(2, policy()), |lab| {
        lab.ask(vec![Request::get("h", "/").method(Method::Post)]);
        lab.run(SECOND * 3 + ms(15));
        let began = lab.now;
        lab.break_all([0, 1], Fault::Errors);
        lab.run(ms(12));
        lab.break_all([0, 1], Fault::Refuse);
        lab.run(ms(500));
        assert!(lab.first(ALPHA_B, |to| to == State::Down(Reason::Errors), began).is_some());
        lab.heal();
        lab.run(SECOND * 5);
        lab.story(began);
        assert!(lab.share(0, lab.now - SECOND) > 0.95, "{}", lab.share(0, lab.now - SECOND));
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
        lab.story(began);
        assert!(found.unwrap().since(began) <= ms(5));
        assert_eq!(lab.failed(began), 0);
        assert!(lab.slowest(began) <= HEALTHY_MAX + ms(2));
    });
}

// ---------------------------------------------------------------- the way back

#[test]
fn healed_cluster_serves_within_a_tenth_of_a_second_and_fully_within_eight() {
    for fault in [Fault::Drop, Fault::Hang, Fault::Refuse, Fault::Slow(ms(500)), Fault::Errors] {
        each(&standby(2, policy()), |lab| {
            lab.run(SECOND * 3);
            lab.break_all([0, 1], fault);
            lab.run(SECOND * 5);
            let healed = lab.now;
            lab.heal();
            lab.run(SECOND * 2);
            let first = lab.picks.iter().find(|(at, _, pick)| *at > healed && pick.cluster == ClusterId(0));
            let first = first.map(|(at, _, _)| at.since(healed));
            let full = (1..200)
                .map(|n| healed + ms(n * 10))
                .find(|from| lab.share_until(0, *from, *from + ms(50)) > 0.95);
            let full = full.map(|at| at.since(healed));
            println!(
                "  {fault:?}: first after {first:?}, full share after {full:?}, {} affected",
                lab.affected(healed, HEALTHY_MAX).len()
            );
            assert!(first.unwrap() <= ms(100), "{fault:?}");
            assert!(full.unwrap() <= ms(800), "{fault:?} {full:?}");
            assert!(lab.affected(healed, HEALTHY_MAX).is_empty());
            assert!(lab.share_until(1, lab.now - ms(500), lab.now) < 0.05);
        });
    }
}

// ---------------------------------------------------------------- partial failures

#[test]
fn one_of_four_endpoints_is_found_alone_and_its_cluster_keeps_its_share() {
    for fault in [Fault::Drop, Fault::Hang, Fault::Refuse, Fault::Slow(ms(500)), Fault::Errors] {
        each(&standby(4, policy()), |lab| {
            lab.run(SECOND * 3);
            let began = lab.now;
            lab.break_all([2], fault);
            lab.run(SECOND * 2);
            let affected = lab.affected(began, HEALTHY_MAX).len();
            println!(
                "  {fault:?}: {affected} affected, slowest {:?}, share {}",
                lab.slowest(began),
                lab.share(0, began)
            );
            lab.story(began);
            assert!(affected <= 5, "{fault:?} {affected}");
            assert!(lab.slowest(began) <= ms(85), "{fault:?} {:?}", lab.slowest(began));
            assert!(lab.share(0, began) > 0.97, "{fault:?} {}", lab.share(0, began));
            assert_eq!(lab.failed(began), 0);
            assert!(lab.first(ALPHA, is_down, began).is_none());
        });
    }
}

#[test]
fn one_of_two_backends_is_found_while_the_other_keeps_its_cluster() {
    for fault in [Fault::Drop, Fault::Hang, Fault::Slow(ms(500)), Fault::Errors] {
        let mut world = world(&["alpha", "beta"], &[(0, 1), (1, 1)], policy());
        add_endpoints(&mut world, 0, 0, 0, 2);
        add_endpoints(&mut world, 0, 1, 100, 2);
        add_endpoints(&mut world, 1, 0, 10, 2);
        add_endpoints(&mut world, 1, 1, 110, 2);
        each(&world, |lab| {
            lab.run(SECOND * 3);
            let began = lab.now;
            lab.break_all([10, 11], fault);
            lab.run(SECOND);
            let affected = lab.affected(began, HEALTHY_MAX).len();
            println!(
                "  {fault:?}: {affected} affected, slowest {:?}, share {}",
                lab.slowest(began),
                lab.share(0, began)
            );
            lab.story(began);
            assert!(affected <= 5, "{fault:?} {affected}");
            assert!(lab.slowest(began) <= ms(85), "{fault:?} {:?}", lab.slowest(began));
            assert_eq!(lab.failed(began), 0);
            assert!(lab.first(ALPHA, is_down, began).is_none());
            let later = lab.picks.iter().filter(|(at, _, pick)| *at > began + ms(100) && !pick.trial);
            let (mut good, mut bad) = (0, 0);
            for (_, _, pick) in later {
                match (pick.backend.0, pick.cluster.0) {
                    (0, 0) => good += 1,
                    (1, 0) => bad += 1,
                    _ => {}
                }
            }
            assert!(good > 700 && bad < 20, "{good} {bad}");
        });
    }
}

/// The service's 99.9th percentile is a second: no single answer that is late proves anything before that, several do.
#[test]
fn slow_endpoint_is_found_long_before_what_one_answer_in_a_thousand_takes() {
    let took = RefCell::new(Vec::new());
    each(&standby(4, policy()), |lab| {
        lab.rare = 0.001;
        lab.run(SECOND * 10);
        let calm = lab.now - SECOND * 5;
        assert!(lab.downs(calm).is_empty(), "{:?}", lab.downs(calm));
        let began = lab.now;
        lab.break_all([2], Fault::Slow(ms(500)));
        lab.run(SECOND * 4);
        lab.story(began);
        let of_two = |change: &&Transition| {
            let Scope::Endpoint(key) = change.scope else { return false };
            is_down(change.to)
                && lab.picks.iter().any(|(_, _, pick)| pick.endpoint == key && pick.id == EndpointId(2))
        };
        let found = lab.log.iter().filter(|change| change.at >= began).find(of_two);
        took.borrow_mut().push(found.unwrap().at.since(began));
        assert!(lab.first(ALPHA, is_down, began).is_none() && lab.first(ALPHA_B, is_down, began).is_none());
    });
    assert!(took.borrow().iter().all(|took| *took <= ms(500)));
    assert!(median(took.into_inner()) <= ms(120));
}

/// Neither of two workers has enough of them; together they have.
#[test]
fn overdue_requests_of_one_backend_count_over_all_workers() {
    let mut world = world(&["alpha", "beta"], &[(0, 1), (1, 1)], policy());
    add_endpoints(&mut world, 0, 0, 0, 2);
    add_endpoints(&mut world, 0, 1, 100, 2);
    add_endpoints(&mut world, 1, 0, 10, 2);
    add_endpoints(&mut world, 1, 1, 110, 2);
    let took = [1, 4].map(|workers| {
        let took = (0..16).map(|seed| {
            let mut lab = Lab::new(&world, workers, seed);
            lab.rate = 400.0;
            lab.run(SECOND * 10);
            let began = lab.now;
            lab.break_all([10, 11], Fault::Slow(ms(500)));
            lab.run(SECOND);
            let found = lab.first(Scope::Backend(BackendId(1), ClusterId(0)), is_down, began);
            found.map_or(SECOND, |at| at.since(began))
        });
        median(took.collect())
    });
    assert!(took[1] <= took[0] * 3 / 2, "{took:?}: four workers need no more requests than one");
}

#[test]
fn at_a_low_rate_the_first_request_that_is_overdue_is_enough() {
    each(&standby(2, policy()), |lab| {
        lab.rate = 20.0;
        lab.run(SECOND * 30);
        let began = lab.now;
        lab.break_all([0, 1], Fault::Drop);
        lab.run(SECOND * 5);
        lab.story(began);
        assert!(lab.slowest(began - ms(40)) <= HEALTHY_MAX + ms(30), "{:?}", lab.slowest(began));
        assert_eq!(lab.failed(began), 0);
    });
}

// ---------------------------------------------------------------- false alarms

#[test]
fn minutes_of_health_with_a_node_that_stands_still_every_second_bring_no_verdict() {
    for (workers, rate, minutes) in [(1, 2_000.0, 1), (2, 2_000.0, 1), (2, 200.0, 3), (1, 20.0, 3)] {
        let mut lab = Lab::new(&standby(2, policy()), workers, u64::from(workers));
        lab.rate = rate;
        for _ in 0..minutes * 60 {
            for worker in 0..usize::from(workers) {
                lab.stall(worker, ms(20));
            }
            lab.run(SECOND);
            lab.tidy();
        }
        let down: Vec<_> = lab.downs(routing::time::MonoTime::ZERO).into_iter().cloned().collect();
        println!(
            "{workers} workers, {rate}/s: {} executions of {}, {} suspicions, {} probes",
            lab.executions,
            lab.arrived,
            lab.log.len() / 2,
            lab.probes
        );
        lab.story(routing::time::MonoTime::ZERO);
        assert!(down.is_empty(), "{}", down.len());
        assert!(lab.executions as f64 <= lab.arrived as f64 * 1.01);
    }
}

#[test]
fn when_nothing_at_all_is_heard_it_is_our_own_fault_and_everything_stays_in_use() {
    let world = |regions: [&str; 3]| {
        let mut world = world(
            &["alpha", "beta", "gamma"],
            &[(0, 1)],
            Policy { ..plan(&[(0, 0, None), (1, 0, None), (2, 0, None)]) },
        );
        for (id, region) in (0..).zip(regions) {
            let spec =
                ClusterSpec { region: region.into(), ..ClusterSpec::clone(&world.clusters[&ClusterId(id)]) };
            world.clusters.insert(ClusterId(id), std::sync::Arc::new(spec));
            add_endpoints(&mut world, 0, id, u32::from(id) * 100, 2);
        }
        world
    };
    each(&world(["", "", ""]), |lab| {
        lab.run(SECOND * 3);
        let began = lab.now;
        lab.break_all([0, 1, 100, 101, 200, 201], Fault::Drop);
        lab.run(ms(200));
        let found: Vec<_> =
            lab.downs(began).into_iter().filter(|change| matches!(change.scope, Scope::Cluster(_))).collect();
        lab.story(began);
        assert!(found.is_empty(), "{found:?}");
        lab.heal();
        let healed = lab.now;
        lab.run(SECOND);
        assert!(lab.affected(healed, HEALTHY_MAX).is_empty());
    });
    // Two that answer nothing while a third does: they are to blame, not we.
    each(&world(["eu", "eu", "us"]), |lab| {
        lab.run(SECOND * 3);
        let began = lab.now;
        lab.break_all([0, 1, 100, 101], Fault::Drop);
        lab.run(ms(200));
        for scope in [ALPHA, BETA] {
            assert!(lab.first(scope, is_down, began).unwrap().since(began) <= ms(30));
        }
        assert_eq!(lab.failed(began), 0);
    });
}

// ---------------------------------------------------------------- several workers

#[test]
fn no_worker_picks_a_suspected_cluster_once_the_word_is_set() {
    each(&standby(2, policy()), |lab| {
        lab.run(SECOND * 3);
        let began = lab.now;
        lab.break_all([0, 1], Fault::Drop);
        lab.run(ms(200));
        let suspected = lab.first(ALPHA, |to| to == State::Suspect, began).unwrap();
        let back = lab.first(ALPHA, |to| to == State::Healthy, suspected).unwrap_or(lab.now);
        let late: Vec<_> = lab
            .picks
            .iter()
            .filter(|(at, _, pick)| {
                *at > suspected && *at < back && pick.cluster == ClusterId(0) && !pick.trial
            })
            .collect();
        assert!(late.is_empty(), "{late:?}");
    });
}

#[test]
fn worker_that_dies_leaves_nothing_down_for_ever() {
    let world = standby(2, policy());
    for seed in 0..SEEDS {
        let mut lab = Lab::new(&world, 2, seed);
        lab.run(SECOND * 3);
        lab.break_all([0, 1], Fault::Drop);
        lab.run(ms(100));
        lab.heal();
        let keeper = lab.workers.iter().position(|worker| worker.table.next_tick().is_some()).unwrap();
        for worker in 0..2 {
            // Each in turn is gone: whoever kept the cluster is among them.
            lab.restart(&world, (keeper + worker) % 2);
            lab.run(SECOND * 5);
            assert_eq!(lab.board.cluster(ClusterId(0)).0, State::Healthy, "seed {seed}");
        }
    }
}

#[test]
fn flapping_cluster_is_held_off_for_longer_each_time() {
    let mut lab = Lab::new(&standby(2, policy()), 1, 3);
    lab.run(SECOND * 3);
    let mut lasted = Vec::new();
    for _ in 0..5 {
        let began = lab.now;
        lab.break_all([0, 1], Fault::Drop);
        lab.run(ms(60));
        lab.heal();
        lab.run(SECOND * 4);
        let down = lab.first(ALPHA, is_down, began).unwrap();
        let probation = lab.first(ALPHA, |to| to == State::Probation, began).unwrap();
        lasted.push(probation.since(down).as_millis());
    }
    println!("{lasted:?}");
    assert!(lasted[0] < 150 && lasted[4] >= 800, "{lasted:?}");
    assert!(lasted.is_sorted(), "{lasted:?}");
    // Ten seconds of health forgive.
    lab.run(SECOND * 12);
    let began = lab.now;
    lab.break_all([0, 1], Fault::Drop);
    lab.run(ms(60));
    lab.heal();
    lab.run(SECOND);
    let down = lab.first(ALPHA, is_down, began).unwrap();
    let probation = lab.first(ALPHA, |to| to == State::Probation, began).unwrap();
    assert!(probation.since(down) < ms(150));
}

#[test]
fn total_outage_of_failing_answers_costs_little_and_ends_at_once() {
    each(&standby(2, policy()), |lab| {
        lab.run(SECOND * 3);
        let (before, arrived) = (lab.executions, lab.arrived);
        lab.break_all([0, 1, 100, 101], Fault::Errors);
        lab.run(SECOND * 10);
        let executed = (lab.executions - before) as f64 / (lab.arrived - arrived) as f64;
        lab.heal();
        let healed = lab.now;
        lab.run(SECOND);
        println!("  {executed:.3} executions");
        assert!(executed <= 1.2, "{executed}");
        assert!(lab.affected(healed + ms(50), HEALTHY_MAX).is_empty());
    });
}
