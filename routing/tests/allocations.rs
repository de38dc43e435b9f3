//! What the request path and an update may allocate: counted, not guessed.
#![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

mod common;

use std::sync::Arc;

use common::*;
use routing::balance::{hash, sticky};
use routing::delta::{Change, RouteTable, TableDelta, Update, snapshot};
use routing::failover::Tried;
use routing::health::action::{Action, Advice, ProbeResult};
use routing::health::endpoint::Outcome;
use routing::id::{BackendId, ClusterId, EndpointId, Generation};
use routing::model::*;
use routing::table::{Progress, Table, TableSettings};
use routing::time::MonoTime;

/// How often `run` allocates on this thread.
fn allocations(run: impl FnOnce()) -> u64 {
    allocation_counter::measure(run).count_total
}

/// Every balancer and condition that a request may meet.
fn policies() -> Vec<(&'static str, Policy)> {
    let shares = || plan(&[(0, 0, Some(3)), (1, 0, Some(1)), (2, 1, None)]);
    let affinity = CookieAffinity {
        cookie: "SRV".into(),
        path: "/".into(),
        max_age: None,
        expires: None,
        secure_over_tls: false,
        attributes: COOKIE_ATTRIBUTES.into(),
        across: Default::default(),
    };
    let pin = Pin {
        when: PinMatch::Header("x-cluster".into(), "beta".into()),
        cluster: ClusterId(1),
        strict: false,
    };
    vec![
        ("least request", Policy { balance: Balance::LeastRequest, ..shares() }),
        ("round robin", Policy { balance: Balance::RoundRobin, ..shares() }),
        ("random", Policy { balance: Balance::Random, ..shares() }),
        ("hash", Policy { balance: Balance::ConsistentHash(HashKey::Header("x-user".into())), ..shares() }),
        ("affinity", Policy { affinity: Some(affinity), ..shares() }),
        ("pin", Policy { pins: [pin].into(), ..shares() }),
    ]
}

#[test]
fn request_path_allocates_nothing() {
    let cookie = sticky::format(sticky::affinity_of("alpha", addr(3)));
    let request = Request::get("shop.example", "/cart/items?x=1")
        .header("Cookie", &format!("SRV={}", String::from_utf8(cookie.to_vec()).unwrap()))
        .header("X-Cluster", "beta")
        .header("X-User", "u1");
    for (name, policy) in policies() {
        let (retry, outlier) = (policy.retry.clone(), policy.outlier);
        let mut world = world(&["alpha", "beta", "gamma"], &[(0, 9), (1, 1)], policy);
        for backend in 0..2 {
            for cluster in 0..3u16 {
                let first = backend * 1_000 + u32::from(cluster) * 100;
                add_endpoints(&mut world, backend, cluster, first, 50);
                let members: Vec<_> = (first..first + 50).map(|n| (EndpointId(n), addr(n))).collect();
                let ring = hash::ring("any", &members);
                world.rings.insert((BackendId(backend), ClusterId(cluster)), Arc::new(ring));
            }
        }
        let worker = Worker::new(&world);
        let mut rng = rng(1);
        let count = allocations(|| {
            let mut now = MonoTime::ZERO;
            for nth in 0..2_000u64 {
                now = MonoTime(now.0 + 1_000_000);
                let subject = request.subject();
                let rule = worker.table.route(&subject).unwrap();
                let mut tried = Tried::new();
                for attempt in 1..=3 {
                    let pick = worker.table.pick(&rule, &subject, &tried, now, &mut rng).unwrap();
                    worker.table.on_request(pick.backend, &retry, now);
                    let outcome = if nth % 3 == 0 { Outcome::Closed } else { Outcome::Success };
                    let table = &worker.table;
                    table.on_sent(&pick, now);
                    let advice = table.advise(&pick, now, now, rule.policy(), &tried);
                    assert!(matches!(
                        advice,
                        Advice::Stay { .. } | Advice::Hedge { .. } | Advice::Leave { .. }
                    ));
                    let later = MonoTime(now.0 + 300_000);
                    table.on_bytes(pick.endpoint, later);
                    let took = Some(later.since(now));
                    table.on_outcome(pick.endpoint, outcome, took, later, &outlier);
                    table.release(pick.endpoint);
                    table.tick(later, std::time::Duration::ZERO);
                    while let Some(action) = table.next_action() {
                        if let Action::Probe(probe) = action {
                            let latency = std::time::Duration::from_micros(90);
                            table.on_probe(probe.token, ProbeResult::Answered { latency }, later);
                        }
                    }
                    assert!(worker.table.endpoint(pick.endpoint).is_some());
                    tried.note(&pick);
                    assert_eq!(tried.len(), attempt);
                }
                while worker.table.next_event(now).is_some() {}
            }
        });
        assert_eq!(count, 0, "{name}");
    }
}

#[test]
fn regexes_allocate_only_their_first_time() {
    let regex = |text| PathMatch::Regex(regex::bytes::Regex::new(text).unwrap());
    let mut world = RouteTable::default();
    world.listeners.insert(routing::id::ListenerId(0), listener(0, HostPattern::Any));
    let rule = |path| Rule {
        matches: on_path(path),
        action: action("r", 0, forward(&[]), Arc::new(Policy::default())),
    };
    let rules = HostRules::new([rule(regex("^/a/[0-9]+$")), rule(regex("^/.*/b$"))]);
    world.hosts.insert(key(0, HostPattern::Any), Arc::new(rules));
    let worker = Worker::new(&world);
    let request = Request::get("h", "/x/y/b");
    assert_eq!(worker.table.route(&request.subject()).unwrap().index(), 1);
    let count = allocations(|| {
        for _ in 0..100 {
            assert_eq!(worker.table.route(&request.subject()).unwrap().index(), 1);
        }
    });
    assert_eq!(count, 0);
}

/// A worker with `count` endpoints, ten to a backend, over two clusters.
fn crowd(count: u32) -> Worker {
    let backends: Vec<_> = (0..count / 10).map(|id| (id, 1)).collect();
    let mut world = world(&["alpha", "beta"], &backends, plan(&[(0, 0, None), (1, 0, None)]));
    for n in 0..count {
        let spec = endpoint(n / 10, u16::try_from(n % 2).unwrap(), n);
        world.endpoints.insert(EndpointId(n), spec);
    }
    Worker::new(&world)
}

#[test]
fn one_endpoint_change_allocates_the_same_at_a_hundred_and_at_a_hundred_thousand() {
    let mut small = crowd(100);
    let mut large = crowd(100_000);
    let change = |id: u32, spec: Option<EndpointSpec>| TableDelta {
        endpoints: vec![(EndpointId(id), spec)],
        ..TableDelta::default()
    };
    let terminating = EndpointSpec { condition: Condition::Terminating, ..endpoint(4, 1, 41) };
    let steps = [
        ("condition", change(41, Some(terminating))),
        ("address", change(42, Some(endpoint(4, 0, 500_000)))),
        ("removal", change(43, None)),
        ("return", change(43, Some(endpoint(4, 1, 43)))),
        ("other backend", change(44, Some(endpoint(5, 0, 44)))),
    ];
    for (name, delta) in steps {
        let count = |worker: &mut Worker| {
            let delta = delta.clone();
            allocations(|| drop(worker.send(delta, MonoTime::ZERO)))
        };
        assert_eq!(count(&mut small), count(&mut large), "{name}");
    }
}

/// The first table of a worker: 10,000 hosts with ten rules each, and 100,000 endpoints.
fn first_sync() -> Update {
    let backends: Vec<_> = (0..10_000).map(|id| (id, 1)).collect();
    let mut world = world(&["alpha", "beta"], &backends, plan(&[(0, 0, None), (1, 0, None)]));
    for n in 0..100_000 {
        let spec = endpoint(n / 10, u16::try_from(n % 2).unwrap(), n);
        world.endpoints.insert(EndpointId(n), spec);
    }
    let policy = Arc::new(plan(&[(0, 0, None), (1, 0, None)]));
    for host in 0..10_000u32 {
        let rules = (0..10u16).map(|nth| Rule {
            matches: prefix(&format!("/api/v1/r{nth}")),
            action: action("r", nth, forward(&[(host, 1)]), Arc::clone(&policy)),
        });
        let rules = HostRules::new(rules.collect::<Vec<_>>());
        world.hosts.insert(key(0, exact(&format!("host-{host}.example"))), Arc::new(rules));
    }
    Update {
        generation: Generation(1),
        base_generation: Generation(0),
        observed_ns: 0,
        change: Change::Snapshot(snapshot(&world)),
    }
}

#[test]
fn table_of_ten_thousand_hosts_and_a_hundred_thousand_endpoints_takes_a_quarter_of_its_bound() {
    let update = first_sync();
    let mut table = Table::new(TableSettings::default());
    let used = allocation_counter::measure(|| drop(table.apply(&update, MonoTime::ZERO).unwrap()));
    println!("{} bytes in {} blocks", used.bytes_current, used.count_current);
    assert!(used.bytes_current <= 16 << 20, "{} bytes", used.bytes_current);
    assert_eq!(table.endpoints(BackendId(9_999)).len(), 10);
}

/// What is large is asked of the kernel, first touched and copied in one piece, whatever the clock says.
#[test]
fn a_slice_of_a_first_sync_is_so_many_entries_and_allocates_little() {
    // The most is what the list of backends takes when it doubles, 16 bytes for each of 8,192; endpoints, hosts and their
    // indexes grow in chunks.
    const SLICE_BYTES_MAX: u64 = 160 << 10;
    let update = first_sync();
    let mut table = Table::new(TableSettings::default());
    let mut applying = table.begin(&update, MonoTime::ZERO).unwrap();
    let mut slices = Vec::new();
    let mut progress = Progress::Part;
    while progress == Progress::Part {
        let used = allocation_counter::measure(|| {
            progress = table.advance(&mut applying, &update, MonoTime::ZERO, || false);
        });
        slices.push((used.bytes_total, slices.len()));
    }
    let count = slices.len();
    slices.sort_unstable();
    let largest: Vec<_> = slices.into_iter().rev().take(8).collect();
    println!("bytes and slice, of {count}: {largest:?}");
    // 2 clusters, 10,000 backends, 100,000 endpoints, 10,000 hosts and a listener, and the end of each list.
    assert!((7_500..7_510).contains(&count), "{count} slices");
    assert!(largest[0].0 <= SLICE_BYTES_MAX, "bytes and slice: {largest:?}");
}
