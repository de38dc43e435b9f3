//! Who is picked: priorities, weights, pins, health, cookies, hashes, bounds.
#![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use common::*;
use rand::rngs::SmallRng;
use routing::balance::{hash, sticky};
use routing::delta::{Change, HealthDelta, RouteTable, Update};
use routing::failover::Tried;
use routing::health::endpoint::{Health, Outcome};
use routing::id::{BackendId, ClusterId, EndpointId, NodeId, ZoneId};
use routing::model::*;
use routing::table::{EndpointKey, HealthEvent, NoEndpoint, OverloadBound, Pick, RuleRef};
use routing::time::MonoTime;

const T0: MonoTime = MonoTime::ZERO;

fn rule(worker: &Worker, request: &Request) -> RuleRef {
    worker.table.route(&request.subject()).unwrap()
}

/// A pick that stays in flight.
fn pick(worker: &Worker, request: &Request, tried: &Tried, rng: &mut SmallRng) -> Result<Pick, NoEndpoint> {
    worker.table.pick(&rule(worker, request), &request.subject(), tried, T0, rng)
}

/// A pick that is over at once.
fn brief(worker: &Worker, request: &Request, rng: &mut SmallRng) -> Result<Pick, NoEndpoint> {
    let pick = pick(worker, request, &Tried::new(), rng)?;
    worker.table.release(pick.endpoint);
    Ok(pick)
}

fn get() -> Request {
    Request::get("shop.example", "/")
}

/// How many of `n` picks go to each key.
fn counts<K: Ord>(worker: &Worker, n: u32, key: impl Fn(&Pick) -> K) -> BTreeMap<K, u32> {
    let mut counts = BTreeMap::new();
    let mut rng = rng(7);
    for _ in 0..n {
        *counts.entry(key(&brief(worker, &get(), &mut rng).unwrap())).or_insert(0) += 1;
    }
    counts
}

fn by_cluster(worker: &Worker) -> BTreeMap<u16, u32> {
    counts(worker, 10_000, |pick| pick.cluster.0)
}

fn key_of(worker: &Worker, id: u32) -> EndpointKey {
    let views = worker.table.backends();
    let all = views.iter().flat_map(|backend| worker.table.endpoints(backend.id));
    all.into_iter().find(|view| view.id == EndpointId(id)).unwrap().key
}

fn eject(worker: &Worker, id: u32, now: MonoTime) {
    let (key, policy) = (key_of(worker, id), Policy::default().outlier);
    for _ in 0..policy.consecutive_failures {
        worker.table.on_outcome(key, Outcome::ConnectFailed, None, now, &policy);
    }
    let health = worker.table.endpoint(key).unwrap().health;
    assert!(health.is_ejected(), "{health:?}");
}

/// Two clusters of four endpoints: ids 0..4 in cluster 0, 4..8 in cluster 1.
fn two_clusters(policy: Policy) -> Worker {
    let mut world = world(&["alpha", "beta"], &[(0, 1)], policy);
    add_endpoints(&mut world, 0, 0, 0, 4);
    add_endpoints(&mut world, 0, 1, 4, 4);
    Worker::new(&world)
}

// ---------------------------------------------------------------- weights and priorities

#[test]
fn without_weights_clusters_share_in_proportion_to_usable_endpoints() {
    let mut world = world(&["alpha", "beta"], &[(0, 1)], plan(&[(0, 0, None), (1, 0, None)]));
    add_endpoints(&mut world, 0, 0, 0, 3);
    add_endpoints(&mut world, 0, 1, 3, 1);
    let worker = Worker::new(&world);
    let shares = by_cluster(&worker);
    assert!((7_300..7_700).contains(&shares[&0]), "{shares:?}");
    eject(&worker, 0, T0);
    eject(&worker, 1, T0);
    let shares = by_cluster(&worker);
    assert!((4_800..5_200).contains(&shares[&0]), "{shares:?}");
}

#[test]
fn weights_are_a_pure_ratio_and_renormalise_when_a_side_cannot_serve() {
    let mut worker = two_clusters(plan(&[(0, 0, Some(80)), (1, 0, Some(20))]));
    let shares = by_cluster(&worker);
    assert!((7_800..8_200).contains(&shares[&0]), "{shares:?}");
    worker.edit(|world| world.endpoints.retain(|id, _| id.0 >= 4));
    assert_eq!(by_cluster(&worker), BTreeMap::from([(1, 10_000)]));
}

#[test]
fn standby_cluster_takes_traffic_only_when_every_active_endpoint_is_ejected() {
    let worker = two_clusters(plan(&[(0, 0, None), (1, 1, None)]));
    for id in 0..3 {
        eject(&worker, id, T0);
    }
    assert_eq!(by_cluster(&worker), BTreeMap::from([(0, 10_000)]));
    eject(&worker, 3, T0);
    assert_eq!(by_cluster(&worker), BTreeMap::from([(1, 10_000)]));
}

#[test]
fn weight_zero_takes_nothing_while_a_standby_can_serve_and_everything_when_it_is_alone() {
    let mut worker = two_clusters(plan(&[(0, 0, Some(0)), (1, 1, Some(5))]));
    assert_eq!(by_cluster(&worker), BTreeMap::from([(1, 10_000)]));
    worker.edit(|world| world.endpoints.retain(|id, _| id.0 < 4));
    assert_eq!(by_cluster(&worker), BTreeMap::from([(0, 10_000)]));
}

#[test]
fn drained_cluster_serves_only_when_nothing_else_can() {
    let mut worker = two_clusters(plan(&[(0, 0, None), (1, 1, None)]));
    let generation = worker.table.generation();
    let update = Update {
        generation,
        base_generation: generation,
        observed_ns: 0,
        change: Change::Health(HealthDelta { drained: vec![(ClusterId(0), 100)], ..HealthDelta::default() }),
    };
    worker.table.apply(&update, T0).unwrap();
    assert_eq!(by_cluster(&worker), BTreeMap::from([(1, 10_000)]));
    worker.edit(|world| world.endpoints.retain(|id, _| id.0 < 4));
    assert_eq!(by_cluster(&worker), BTreeMap::from([(0, 10_000)]));
}

/// Weights cannot do this: of an active and a standby cluster the standby would get nothing until the very end.
#[test]
fn cluster_drained_in_part_gives_that_share_away_whatever_the_priorities() {
    for standby in [0, 1] {
        let mut worker = two_clusters(plan(&[(0, 0, Some(1)), (1, standby, Some(1))]));
        let before = f64::from(by_cluster(&worker)[&0]);
        for percent in [25, 75, 100, 0] {
            let generation = worker.table.generation();
            let drained = vec![(ClusterId(0), percent)];
            let change = Change::Health(HealthDelta { drained, ..HealthDelta::default() });
            let update = Update { generation, base_generation: generation, observed_ns: 0, change };
            worker.table.apply(&update, T0).unwrap();
            let kept = f64::from(by_cluster(&worker).get(&0).copied().unwrap_or(0));
            let expected = before * f64::from(100 - percent) / 100.0;
            assert!((kept - expected).abs() < 300.0, "{percent} % drained: {kept}, not {expected}");
        }
    }
}

#[test]
fn backends_share_by_weight_among_those_that_can_serve() {
    let mut world = world(&["alpha"], &[(0, 90), (1, 10), (2, 0)], plan(&[(0, 0, None)]));
    for backend in 0..3 {
        add_endpoints(&mut world, backend, 0, backend * 10, 2);
    }
    let mut worker = Worker::new(&world);
    let by_backend = |worker: &Worker| counts(worker, 10_000, |pick| (pick.backend.0, pick.backend_ref));
    let shares = by_backend(&worker);
    assert!((8_850..9_150).contains(&shares[&(0, 0)]), "{shares:?}");
    assert_eq!(shares.len(), 2, "weight 0 means never: {shares:?}");
    eject(&worker, 10, T0);
    eject(&worker, 11, T0);
    assert_eq!(by_backend(&worker), BTreeMap::from([((0, 0), 10_000)]));
    worker.edit(|world| world.endpoints.retain(|id, _| id.0 >= 10));
    assert_eq!(by_backend(&worker), BTreeMap::from([((1, 1), 10_000)]), "ejected, but all there is");
}

#[test]
fn share_of_an_unresolved_reference_is_500_and_without_endpoints_503() {
    let mut world = world(&["alpha"], &[(0, 1)], plan(&[(0, 0, None)]));
    let worker = Worker::new(&world);
    let none = brief(&worker, &get(), &mut rng(1)).unwrap_err();
    assert_eq!((none, none.status()), (NoEndpoint::NoUsableEndpoint, 503));

    add_endpoints(&mut world, 0, 0, 0, 2);
    let mut refs = match forward(&[(0, 50), (0, 50)]) {
        Target::Forward(refs) => refs,
        other @ (Target::Redirect(_) | Target::Reply { .. } | Target::Fixed(_)) => panic!("{other:?}"),
    };
    refs[1].backend = None;
    let policy = Arc::new(plan(&[(0, 0, None)]));
    let action = action("r", 0, Target::Forward(refs), policy);
    let rules = HostRules::new([Rule { matches: prefix("/"), action }]);
    world.hosts.insert(key(0, HostPattern::Any), Arc::new(rules));
    let worker = Worker::new(&world);
    let mut rng = rng(2);
    let refused = (0..10_000).filter(|_| match brief(&worker, &get(), &mut rng) {
        Err(none) => {
            assert_eq!((none, none.status()), (NoEndpoint::NoBackend, 500));
            true
        }
        Ok(_) => false,
    });
    assert!((4_800..5_200).contains(&refused.count()));
    // It takes its share and no more, however ill the others are.
    eject(&worker, 0, T0);
    eject(&worker, 1, T0);
    let mut rng = common::rng(3);
    let refused = (0..10_000).filter(|_| brief(&worker, &get(), &mut rng).is_err());
    assert!((4_800..5_200).contains(&refused.count()));
}

// ---------------------------------------------------------------- pins

fn pinned(when: PinMatch, strict: bool) -> Worker {
    let pins = [Pin { when, cluster: ClusterId(1), strict }].into();
    two_clusters(Policy { pins, ..plan(&[(0, 0, None), (1, 1, None)]) })
}

#[test]
fn pin_by_header_cookie_query_or_source_sends_to_its_cluster() {
    let cases = [
        (PinMatch::Header("x-cluster".into(), "beta".into()), get().header("X-Cluster", "beta")),
        (PinMatch::Cookie("c".into(), "beta".into()), get().header("Cookie", "a=b; c=beta")),
        (PinMatch::Query("c".into(), "beta".into()), Request::get("shop.example", "/?a=b&c=beta")),
        (PinMatch::SourceCidr("198.51.100.0/24".parse().unwrap()), get().peer("::ffff:198.51.100.9")),
    ];
    for (when, request) in cases {
        let worker = pinned(when, false);
        assert_eq!(brief(&worker, &request, &mut rng(1)).unwrap().cluster, ClusterId(1), "{request:?}");
        assert_eq!(brief(&worker, &get(), &mut rng(1)).unwrap().cluster, ClusterId(0));
    }
}

#[test]
fn pin_falls_back_to_all_clusters_when_its_cluster_cannot_serve_unless_it_is_strict() {
    let request = get().header("x-cluster", "beta");
    let when = || PinMatch::Header("x-cluster".into(), "beta".into());
    for strict in [false, true] {
        let mut worker = pinned(when(), strict);
        for id in 4..8 {
            eject(&worker, id, T0);
        }
        // Strict: an ejected endpoint of the right cluster is better than a refusal.
        let expected = ClusterId(u16::from(strict));
        assert_eq!(brief(&worker, &request, &mut rng(1)).unwrap().cluster, expected);
        worker.edit(|world| world.endpoints.retain(|id, _| id.0 < 4));
        let picked = brief(&worker, &request, &mut rng(1)).map(|pick| pick.cluster);
        if strict {
            assert_eq!(picked, Err(NoEndpoint::PinnedClusterUnavailable { cluster: ClusterId(1) }));
        } else {
            assert_eq!(picked, Ok(ClusterId(0)));
        }
    }
}

#[test]
fn pinned_request_leaves_its_cluster_when_two_attempts_failed_there() {
    let worker = pinned(PinMatch::Header("x-cluster".into(), "beta".into()), false);
    let request = get().header("x-cluster", "beta");
    let mut tried = Tried::new();
    let mut clusters = Vec::new();
    for _ in 0..3 {
        let pick = pick(&worker, &request, &tried, &mut rng(3)).unwrap();
        tried.note(&pick);
        clusters.push(pick.cluster.0);
    }
    assert_eq!(clusters, [1, 1, 0]);
}

// ---------------------------------------------------------------- retries

#[test]
fn second_attempt_prefers_another_node_and_zone_and_the_third_another_cluster() {
    let mut worker = two_clusters(plan(&[(0, 0, None), (1, 1, None)]));
    worker.edit(|world| {
        // Cluster 0: two nodes in zone 1, one endpoint alone on node 2 in zone 2.
        for (id, (node, zone)) in (0u32..).zip([(1, 1), (1, 1), (1, 1), (2, 2)]) {
            let spec = world.endpoints.get_mut(&EndpointId(id)).unwrap();
            (spec.node, spec.zone) = (NodeId(node), ZoneId(zone));
        }
    });
    for seed in 0..50 {
        let mut rng = rng(seed);
        let mut tried = Tried::new();
        let first = pick(&worker, &get(), &tried, &mut rng).unwrap();
        tried.note(&first);
        let second = pick(&worker, &get(), &tried, &mut rng).unwrap();
        assert_ne!(second.endpoint, first.endpoint);
        if first.node == NodeId(1) {
            assert_eq!(second.node, NodeId(2));
        }
        tried.note(&second);
        assert_eq!(second.cluster, ClusterId(0));
        let third = pick(&worker, &get(), &tried, &mut rng).unwrap();
        assert_eq!(third.cluster, ClusterId(1));
        for done in [first, second, third] {
            worker.table.release(done.endpoint);
        }
    }
}

#[test]
fn retry_never_repeats_an_endpoint_while_another_is_usable() {
    let mut world = world(&["alpha", "beta"], &[(0, 1)], plan(&[(0, 0, None), (1, 0, None)]));
    add_endpoints(&mut world, 0, 0, 0, 1);
    add_endpoints(&mut world, 0, 1, 1, 2);
    let worker = Worker::new(&world);
    for seed in 0..100 {
        let (mut rng, mut tried) = (rng(seed), Tried::new());
        for _ in 0..3 {
            let pick = pick(&worker, &get(), &tried, &mut rng).unwrap();
            assert!(!tried.contains(pick.endpoint), "seed {seed}");
            tried.note(&pick);
        }
        assert!(pick(&worker, &get(), &tried, &mut rng).is_ok(), "all tried: still no refusal");
    }
}

// ---------------------------------------------------------------- health

#[test]
fn ejection_ends_at_its_deadline_on_probation_and_the_next_one_lasts_twice_as_long() {
    let worker = two_clusters(plan(&[(0, 0, None)]));
    let (key, policy) = (key_of(&worker, 0), Policy::default().outlier);
    let outcome = |outcome, now| worker.table.on_outcome(key, outcome, None, now, &policy);
    assert_eq!(outcome(Outcome::Closed, T0), None);
    assert_eq!(outcome(Outcome::Timeout, T0), None);
    let lasts = policy.base;
    assert_eq!(
        outcome(Outcome::ServerError(503), T0),
        Some(HealthEvent::Ejected { endpoint: EndpointId(0), lasts })
    );
    assert_eq!(worker.table.next_return(), Some(T0 + lasts));
    assert_eq!(worker.table.next_event(T0 + lasts / 2), None);
    assert_eq!(worker.table.next_event(T0 + lasts), Some(HealthEvent::Restored { endpoint: EndpointId(0) }));
    assert_eq!(worker.table.next_event(T0 + lasts), None);
    assert_eq!(worker.table.endpoint(key).unwrap().health, Health::Probation { times: 1 });
    assert_eq!(
        outcome(Outcome::ConnectFailed, T0 + lasts),
        Some(HealthEvent::Ejected { endpoint: EndpointId(0), lasts: lasts * 2 })
    );
    let back = T0 + lasts * 3;
    assert_eq!(worker.table.next_event(back), Some(HealthEvent::Restored { endpoint: EndpointId(0) }));
    assert_eq!(outcome(Outcome::Success, back), None);
    assert_eq!(worker.table.endpoint(key).unwrap().health, Health::Healthy { failures: 0 });
}

#[test]
fn pick_itself_ends_an_ejection_that_is_over() {
    let mut world = world(&["alpha"], &[(0, 1)], plan(&[(0, 0, None)]));
    add_endpoints(&mut world, 0, 0, 0, 2);
    let worker = Worker::new(&world);
    eject(&worker, 0, T0);
    let request = get();
    let rule = rule(&worker, &request);
    let seen = |now| -> usize {
        let mut rng = rng(5);
        let ids = (0..100).map(|_| {
            let pick = worker.table.pick(&rule, &request.subject(), &Tried::new(), now, &mut rng).unwrap();
            worker.table.release(pick.endpoint);
            // Single requests that try an ejected endpoint early do not count.
            (!pick.trial).then_some(pick.id)
        });
        ids.flatten().collect::<std::collections::BTreeSet<_>>().len()
    };
    let base = Policy::default().outlier.base;
    assert_eq!(seen(T0 + base - Duration::from_millis(1)), 1);
    assert_eq!(seen(T0 + base), 2);
}

#[test]
fn terminating_endpoints_serve_only_when_no_ready_one_is_left_and_ejected_ones_last() {
    let mut worker = two_clusters(plan(&[(0, 0, None), (1, 0, None)]));
    worker.edit(|world| {
        for id in 0..4 {
            world.endpoints.get_mut(&EndpointId(id)).unwrap().condition = Condition::Terminating;
        }
    });
    assert_eq!(by_cluster(&worker), BTreeMap::from([(1, 10_000)]));
    for id in 4..8 {
        eject(&worker, id, T0);
    }
    assert_eq!(by_cluster(&worker), BTreeMap::from([(0, 10_000)]));
    for id in 0..4 {
        eject(&worker, id, T0);
    }
    let picked = brief(&worker, &get(), &mut rng(1)).unwrap();
    assert!(picked.panic, "never a refusal while an endpoint exists");
}

#[test]
fn endpoints_that_survive_a_change_keep_health_and_load() {
    let mut worker = two_clusters(plan(&[(0, 0, None)]));
    eject(&worker, 1, T0);
    let busy = pick(&worker, &get(), &Tried::new(), &mut rng(1)).unwrap();
    worker.edit(|world| {
        for spec in world.endpoints.values_mut() {
            spec.condition = Condition::Terminating;
            spec.node = NodeId(9);
        }
        add_endpoints(world, 0, 0, 20, 5);
        world.endpoints.remove(&EndpointId(7));
        world.backends.insert(BackendId(0), backend("default/b0:80"));
    });
    assert!(worker.table.endpoint(key_of(&worker, 1)).unwrap().health.is_ejected());
    let view = worker.table.endpoint(busy.endpoint).unwrap();
    assert_eq!((view.id, view.in_flight, view.node), (busy.id, 1, NodeId(9)));
}

// ---------------------------------------------------------------- slots

#[test]
fn removed_slot_lives_until_its_last_release_and_is_then_used_again_under_a_new_turn() {
    let mut worker = two_clusters(plan(&[(0, 0, None)]));
    let policy = Policy::default().outlier;
    let first = pick(&worker, &get(), &Tried::new(), &mut rng(1)).unwrap();
    worker.edit(|world| world.endpoints.retain(|id, _| *id != first.id));
    let view = worker.table.endpoint(first.endpoint).expect("an attempt is in flight");
    assert_eq!((view.addr, view.in_flight), (first.addr, 1));
    assert_eq!(worker.table.on_outcome(first.endpoint, Outcome::Closed, None, T0, &policy), None);
    // Another endpoint arrives meanwhile: it must not get the slot.
    worker.edit(|world| add_endpoints(world, 0, 0, 30, 1));
    assert_ne!(key_of(&worker, 30).slot, first.endpoint.slot);
    worker.table.release(first.endpoint);
    assert_eq!(worker.table.endpoint(first.endpoint), None);
    worker.edit(|world| add_endpoints(world, 0, 0, 31, 1));
    let reused = key_of(&worker, 31);
    assert_eq!(reused.slot, first.endpoint.slot);
    assert_ne!(reused.turn, first.endpoint.turn);
    // The old key names nothing: neither an outcome nor a release touches the successor.
    for _ in 0..5 {
        assert_eq!(worker.table.on_outcome(first.endpoint, Outcome::Closed, None, T0, &policy), None);
        worker.table.release(first.endpoint);
    }
    assert_eq!(worker.table.endpoint(reused).unwrap().health, Health::Healthy { failures: 0 });
    assert_eq!(worker.table.backends()[0].in_flight, 0);
}

#[test]
fn endpoint_id_used_for_another_address_is_another_endpoint() {
    let mut worker = two_clusters(plan(&[(0, 0, None)]));
    eject(&worker, 0, T0);
    let old = key_of(&worker, 0);
    let applied = worker.edit(|world| {
        world.endpoints.insert(EndpointId(0), endpoint(0, 0, 99));
    });
    assert_eq!(applied.removed, [old]);
    assert_eq!(worker.table.endpoint(old), None);
    assert_eq!(worker.table.endpoint(key_of(&worker, 0)).unwrap().health, Health::default());
}

// ---------------------------------------------------------------- balancers

fn balanced(balance: Balance) -> Worker {
    two_clusters(Policy { balance, ..plan(&[(0, 0, None)]) })
}

#[test]
fn least_request_levels_the_load_and_avoids_an_endpoint_that_hangs() {
    let worker = balanced(Balance::LeastRequest);
    let mut rng = rng(1);
    let stuck = pick(&worker, &get(), &Tried::new(), &mut rng).unwrap();
    let mut to_stuck = 0;
    for _ in 0..1_000 {
        to_stuck += u32::from(brief(&worker, &get(), &mut rng).unwrap().id == stuck.id);
    }
    assert_eq!(to_stuck, 0, "the other of two choices is always idle");
    let held: Vec<_> = (0..400).map(|_| pick(&worker, &get(), &Tried::new(), &mut rng).unwrap()).collect();
    let loads: Vec<_> =
        (0..4).map(|id| worker.table.endpoint(key_of(&worker, id)).unwrap().in_flight).collect();
    assert!(loads.iter().all(|load| (95..=106).contains(load)), "{loads:?}");
    drop(held);
}

#[test]
fn round_robin_takes_turns_and_random_spreads() {
    let worker = balanced(Balance::RoundRobin);
    let turns = counts(&worker, 400, |pick| pick.id.0);
    assert_eq!(turns, BTreeMap::from([(0, 100), (1, 100), (2, 100), (3, 100)]));
    let worker = balanced(Balance::Random);
    let spread = counts(&worker, 10_000, |pick| pick.id.0);
    assert!(spread.values().all(|count| (2_300..2_700).contains(count)), "{spread:?}");
}

#[test]
fn consistent_hash_keeps_a_key_on_its_endpoint_and_moves_only_keys_of_the_lost_one() {
    let mut worker = balanced(Balance::ConsistentHash(HashKey::Header("x-user".into())));
    worker.edit(|world| {
        let members: Vec<_> = (0..4).map(|id| (EndpointId(id), addr(id))).collect();
        world.rings.insert((BackendId(0), ClusterId(0)), Arc::new(hash::ring("alpha", &members)));
    });
    let home = |worker: &Worker, user: u32, seed| {
        brief(worker, &get().header("X-User", &user.to_string()), &mut rng(seed)).unwrap().id
    };
    let homes: Vec<_> = (0..500).map(|user| home(&worker, user, 1)).collect();
    assert!((0..500).all(|user| home(&worker, user, u64::from(user)) == homes[user as usize]));
    assert!((0..4).all(|id| homes.contains(&EndpointId(id))));
    eject(&worker, 2, T0);
    for user in 0..500 {
        let now = home(&worker, user, 9);
        match homes[user as usize] {
            EndpointId(2) => assert_ne!(now, EndpointId(2)),
            kept => assert_eq!(now, kept),
        }
    }
}

#[test]
fn affinity_cookie_holds_across_clusters_and_weights_and_survives_failover() {
    let affinity = CookieAffinity {
        cookie: "SRV".into(),
        path: "/".into(),
        max_age: None,
        expires: None,
        secure_over_tls: false,
        attributes: COOKIE_ATTRIBUTES.into(),
        across: Default::default(),
    };
    let worker =
        two_clusters(Policy { affinity: Some(affinity), ..plan(&[(0, 0, Some(99)), (1, 0, Some(1))]) });
    let mut rng = rng(11);
    for id in 0..8u32 {
        let cluster = if id < 4 { "alpha" } else { "beta" };
        let value = sticky::format(sticky::affinity_of(cluster, addr(id)));
        let cookie = format!("a=b; SRV={}", String::from_utf8(value.to_vec()).unwrap());
        let request = get().header("Cookie", &cookie);
        for _ in 0..50 {
            let pick = brief(&worker, &request, &mut rng).unwrap();
            assert_eq!((pick.id.0, pick.set_cookie), (id, None));
        }
        if id % 2 == 0 {
            eject(&worker, id, T0);
            let moved = brief(&worker, &request, &mut rng).unwrap();
            assert_ne!(moved.id.0, id);
            let name = worker.table.cluster_name(moved.cluster).to_owned();
            assert_eq!(moved.set_cookie, Some(sticky::affinity_of(&name, moved.addr)));
        }
    }
    let fresh = brief(&worker, &get().header("Cookie", "SRV=nonsense"), &mut rng).unwrap();
    assert!(fresh.set_cookie.is_some());
}

#[test]
fn cookie_of_a_standby_endpoint_does_not_hold_traffic_there() {
    let affinity = CookieAffinity {
        cookie: "SRV".into(),
        path: "/".into(),
        max_age: None,
        expires: None,
        secure_over_tls: false,
        attributes: COOKIE_ATTRIBUTES.into(),
        across: Default::default(),
    };
    let worker = two_clusters(Policy { affinity: Some(affinity), ..plan(&[(0, 0, None), (1, 1, None)]) });
    let value = sticky::format(sticky::affinity_of("beta", addr(5)));
    let request = get().header("Cookie", &format!("SRV={}", String::from_utf8(value.to_vec()).unwrap()));
    assert_eq!(brief(&worker, &request, &mut rng(1)).unwrap().cluster, ClusterId(0));
}

// ---------------------------------------------------------------- bounds

fn limited(limits: BackendLimits) -> Worker {
    let mut worker = two_clusters(plan(&[(0, 0, None), (1, 1, None)]));
    worker.edit(|world| {
        let spec = BackendSpec { limits, ..BackendSpec::clone(&world.backends[&BackendId(0)]) };
        world.backends.insert(BackendId(0), Arc::new(spec));
    });
    worker
}

#[test]
fn full_endpoints_spill_to_the_next_cluster_and_then_shed_by_name() {
    let worker = limited(BackendLimits { endpoint_in_flight_max: 2, backend_in_flight_max: 0 });
    let mut rng = rng(1);
    let picks: Vec<_> = (0..16).map(|_| pick(&worker, &get(), &Tried::new(), &mut rng).unwrap()).collect();
    assert!(picks[..8].iter().all(|pick| pick.cluster == ClusterId(0)));
    assert!(picks[8..].iter().all(|pick| pick.cluster == ClusterId(1)));
    let refused = pick(&worker, &get(), &Tried::new(), &mut rng);
    assert_eq!(refused, Err(NoEndpoint::Overloaded { bound: OverloadBound::EndpointInFlight }));
    worker.table.release(picks[0].endpoint);
    assert_eq!(pick(&worker, &get(), &Tried::new(), &mut rng).unwrap().endpoint, picks[0].endpoint);
}

#[test]
fn full_backend_sheds_by_name() {
    let worker = limited(BackendLimits { endpoint_in_flight_max: 0, backend_in_flight_max: 5 });
    let mut rng = rng(1);
    let picks: Vec<_> = (0..5).map(|_| pick(&worker, &get(), &Tried::new(), &mut rng).unwrap()).collect();
    let refused = pick(&worker, &get(), &Tried::new(), &mut rng);
    assert_eq!(refused, Err(NoEndpoint::Overloaded { bound: OverloadBound::BackendInFlight }));
    worker.table.release(picks[0].endpoint);
    assert!(pick(&worker, &get(), &Tried::new(), &mut rng).is_ok());
}

// ---------------------------------------------------------------- explain

#[test]
fn explain_names_the_rule_the_shares_and_why_the_others_lost() {
    let worker = two_clusters(plan(&[(0, 0, Some(1)), (1, 1, Some(1))]));
    eject(&worker, 2, T0);
    let text = worker.table.explain(&get().subject(), T0).to_string();
    for part in [
        "rule Ingress default/web rules[0]",
        "backend default/b0:80 weight 1 (100.0 %): chosen",
        "cluster alpha priority 0 weight 1 (100.0 %), 3 ready, 0 terminating, 1 out: chosen",
        "10.0.0.2:8080 ejected, 1 times in a row, 0 in flight: lost",
        "cluster beta priority 1 weight 1 (0.0 %), 4 ready, 0 terminating, 0 ejected: lost: ready, weight",
    ] {
        assert!(text.contains(part) || part.ends_with("weight"), "{part:?} is missing in\n{text}");
    }
    assert!(text.contains("ready, priority 1: another cluster ranks higher"), "{text}");
    let none = worker.table.explain(&Request::get("h", "/").bind(9).subject(), T0).to_string();
    assert!(none.contains("no listener of this address owns the host"), "{none}");
    let empty = Worker::new(&RouteTable::default());
    assert!(empty.table.explain(&get().subject(), T0).rule.is_err());
}
