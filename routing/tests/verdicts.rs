//! What verdicts do to picks, one at a time: spill, panic, capacity, the write fence, active checks, advice, budgets.
#![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use common::*;
use rand::rngs::SmallRng;
use routing::delta::{Change, HealthDelta, RouteTable, Update, diff};
use routing::failover::Tried;
use routing::health::action::{Action, Advice, ProbeKind, ProbeResult, Scope};
use routing::health::board::{Board, BoardLimits};
use routing::health::endpoint::Outcome;
use routing::health::state::{Reason, State};
use routing::id::{BackendId, ClusterId, EndpointId, Generation};
use routing::model::*;
use routing::table::{EndpointView, NoEndpoint, OverloadBound, Pick, Table, TableSettings};
use routing::time::MonoTime;
use wire::head::Method;

const T0: MonoTime = MonoTime(1_000_000_000_000);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn ask(
    worker: &Worker,
    method: Method,
    tried: &Tried,
    now: MonoTime,
    rng: &mut SmallRng,
) -> Result<Pick, NoEndpoint> {
    let request = Request::get("h", "/").method(method);
    let rule = worker.table.route(&request.subject()).unwrap();
    worker.table.pick(&rule, &request.subject(), tried, now, rng)
}

/// How a thousand picks that are over at once fall.
fn spread<K: Ord>(worker: &Worker, now: MonoTime, key: impl Fn(&Pick) -> K) -> BTreeMap<K, u32> {
    let (mut counts, mut rng) = (BTreeMap::new(), rng(11));
    for _ in 0..1_000 {
        let pick = ask(worker, Method::Post, &Tried::new(), now, &mut rng).unwrap();
        worker.table.release(pick.endpoint);
        *counts.entry(key(&pick)).or_insert(0) += 1;
    }
    counts
}

fn view(worker: &Worker, id: u32) -> EndpointView {
    let backends = worker.table.backends();
    let mut views = backends.iter().flat_map(|backend| worker.table.endpoints(backend.id));
    views.find(|view| view.id == EndpointId(id)).unwrap()
}

/// Nobody listens there any more.
fn refuse(worker: &Worker, id: u32, now: MonoTime) {
    let key = view(worker, id).key;
    worker.table.on_outcome(key, Outcome::Refused, None, now, &Policy::default().outlier);
    assert_eq!(view(worker, id).verdict.state, State::Down(Reason::Refused));
}

/// It fails three times in a row.
fn eject(worker: &Worker, id: u32, now: MonoTime) {
    let key = view(worker, id).key;
    for _ in 0..3 {
        worker.table.on_outcome(key, Outcome::Timeout, None, now, &Policy::default().outlier);
    }
    assert!(view(worker, id).health.is_ejected());
}

/// Two clusters of four endpoints: 0..4 and 4..8.
fn two(policy: Policy) -> RouteTable {
    let mut world = world(&["alpha", "beta"], &[(0, 1)], policy);
    add_endpoints(&mut world, 0, 0, 0, 4);
    add_endpoints(&mut world, 0, 1, 4, 4);
    world
}

fn actions(table: &Table) -> Vec<Action> {
    std::iter::from_fn(|| table.next_action()).collect()
}

// ---------------------------------------------------------------- spill and panic

#[test]
fn spilling_priority_gives_the_next_what_it_lacks() {
    let policy = Policy { spill_percent: 100, ..plan(&[(0, 0, None), (1, 1, None)]) };
    let worker = Worker::new(&two(policy));
    assert_eq!(spread(&worker, T0, |pick| pick.cluster.0), BTreeMap::from([(0, 1_000)]));
    refuse(&worker, 0, T0);
    let shares = spread(&worker, T0, |pick| pick.cluster.0);
    assert!((200..300).contains(&shares[&1]), "a quarter is missing: {shares:?}");
    let threshold = Policy { spill_percent: 70, ..plan(&[(0, 0, None), (1, 1, None)]) };
    let worker = Worker::new(&two(threshold));
    refuse(&worker, 0, T0);
    assert_eq!(spread(&worker, T0, |pick| pick.cluster.0), BTreeMap::from([(0, 1_000)]), "75 % is enough");
}

#[test]
fn panic_spreads_first_attempts_over_all_that_answer_and_leaves_retries_alone() {
    let worker = Worker::new(&two(plan(&[(0, 0, Some(1)), (1, 1, Some(3))])));
    for id in 0..4 {
        eject(&worker, id, T0);
    }
    assert_eq!(spread(&worker, T0, |pick| pick.cluster.0), BTreeMap::from([(1, 1_000)]), "half is enough");
    eject(&worker, 4, T0);
    let shares = spread(&worker, T0, |pick| pick.cluster.0);
    assert!((200..300).contains(&shares[&0]), "by weight: {shares:?}");
    assert_eq!(spread(&worker, T0, |pick| pick.id.0).len(), 8);
    let mut rng = rng(3);
    let first = ask(&worker, Method::Get, &Tried::new(), T0, &mut rng).unwrap();
    let mut tried = Tried::new();
    tried.note(&first);
    for _ in 0..100 {
        let again = ask(&worker, Method::Get, &tried, T0, &mut rng).unwrap();
        assert!((5..8).contains(&again.id.0), "{again:?}");
    }
}

#[test]
fn what_is_proven_unreachable_takes_no_load_off_the_others() {
    let worker = Worker::new(&two(plan(&[(0, 0, None), (1, 1, None)])));
    for id in 0..6 {
        refuse(&worker, id, T0);
    }
    let shares = spread(&worker, T0, |pick| pick.id.0);
    assert_eq!(shares.keys().copied().collect::<Vec<_>>(), [6, 7]);
}

#[test]
fn first_endpoint_back_after_a_total_outage_does_not_take_everything() {
    let check = HealthCheck {
        probe: CheckProbe::Tcp,
        port: None,
        interval: ms(100),
        timeout: ms(50),
        unhealthy_threshold: 1,
        healthy_threshold: 1,
    };
    let mut world = two(plan(&[(0, 0, None), (1, 0, None)]));
    let detection = Detection { check: Some(Arc::new(check)), ..Detection::default() };
    world
        .backends
        .insert(BackendId(0), Arc::new(BackendSpec { detection, ..BackendSpec::clone(&backend("b")) }));
    let worker = Worker::new(&world);
    for id in 0..8 {
        refuse(&worker, id, T0);
    }
    assert_eq!(spread(&worker, T0, |pick| pick.id.0).len(), 8, "nothing is left but to try them all");
    // One answers again, and is trusted.
    let mut now = T0;
    while view(&worker, 3).verdict.state != State::Healthy {
        now = now + ms(5);
        worker.table.tick(now, Duration::ZERO);
        for action in actions(&worker.table) {
            if let Action::Probe(probe) = action {
                let is_back = probe.endpoint == view(&worker, 3).key;
                let latency = Duration::from_micros(100);
                let result = if is_back { ProbeResult::Answered { latency } } else { ProbeResult::Refused };
                worker.table.on_probe(probe.token, result, now);
            }
        }
        assert!(now < T0 + Duration::from_secs(20), "{:?}", view(&worker, 3).verdict);
    }
    let shares = spread(&worker, now, |pick| pick.id.0);
    assert!(shares[&3] < 250, "one of eight: {shares:?}");
}

// ---------------------------------------------------------------- capacity and fence

#[test]
fn standby_sheds_what_is_beyond_its_capacity_and_lower_priorities_first() {
    let worker = |priority: u8| {
        let policy = Policy { route_priority: priority, ..plan(&[(0, 0, None), (1, 1, None)]) };
        let mut world = two(policy);
        let spec = ClusterSpec { in_flight_max: 10, ..ClusterSpec::clone(&cluster("beta")) };
        world.clusters.insert(ClusterId(1), Arc::new(spec));
        Worker::new(&world)
    };
    let worker = worker(0);
    let mut rng = rng(1);
    for _ in 0..50 {
        assert_eq!(ask(&worker, Method::Get, &Tried::new(), T0, &mut rng).unwrap().cluster, ClusterId(0));
    }
    for id in 0..4 {
        refuse(&worker, id, T0);
    }
    let mut fits = Vec::new();
    let none = loop {
        match ask(&worker, Method::Get, &Tried::new(), T0, &mut rng) {
            Ok(pick) => fits.push(pick),
            Err(none) => break none,
        }
    };
    assert_eq!(fits.len(), 10);
    assert_eq!(none, NoEndpoint::Overloaded { bound: OverloadBound::ClusterCapacity });
    assert_eq!((none.status(), none.name()), (503, "cluster_in_flight_max"));
    worker.table.release(fits[0].endpoint);
    assert!(ask(&worker, Method::Get, &Tried::new(), T0, &mut rng).is_ok());
}

#[test]
fn lower_priority_is_shed_while_a_higher_one_still_fits() {
    let mut world = two(plan(&[(0, 0, None), (1, 1, None)]));
    let spec = ClusterSpec { in_flight_max: 10, ..ClusterSpec::clone(&cluster("beta")) };
    world.clusters.insert(ClusterId(1), Arc::new(spec));
    for (host, priority) in [("low", 0), ("high", 9)] {
        let policy = Policy { route_priority: priority, ..plan(&[(0, 0, None), (1, 1, None)]) };
        let action = action(host, 0, forward(&[(0, 1)]), Arc::new(policy));
        let rules = HostRules::new([Rule { matches: prefix("/"), action }]);
        world.hosts.insert(key(0, exact(host)), Arc::new(rules));
    }
    let worker = Worker::new(&world);
    for id in 0..4 {
        refuse(&worker, id, T0);
    }
    let mut rng = rng(1);
    let mut one = |host: &str| {
        let request = Request::get(host, "/");
        let rule = worker.table.route(&request.subject()).unwrap();
        worker.table.pick(&rule, &request.subject(), &Tried::new(), T0, &mut rng)
    };
    assert!(one("high").is_ok());
    let low = std::iter::from_fn(|| one("low").ok()).count();
    assert_eq!(low, 7, "four fifths, less the one that is there");
    let high = std::iter::from_fn(|| one("high").ok()).count();
    assert_eq!(high, 2);
}

#[test]
fn writes_do_not_follow_a_failover_until_the_standby_is_promoted() {
    let policy = Policy { write_fence: WriteFence::UntilPromoted, ..plan(&[(0, 0, None), (1, 1, None)]) };
    let mut worker = Worker::new(&two(policy));
    let mut rng = rng(1);
    assert!(ask(&worker, Method::Post, &Tried::new(), T0, &mut rng).is_ok());
    for id in 0..4 {
        refuse(&worker, id, T0);
    }
    for method in [Method::Post, Method::Put, Method::Delete] {
        let none = ask(&worker, method, &Tried::new(), T0, &mut rng).unwrap_err();
        assert_eq!(none, NoEndpoint::Fenced { cluster: ClusterId(1) });
        assert_eq!((none.status(), none.name()), (503, "write_fenced"));
    }
    assert_eq!(ask(&worker, Method::Get, &Tried::new(), T0, &mut rng).unwrap().cluster, ClusterId(1));
    let generation = worker.table.generation();
    let delta = HealthDelta { promoted: vec![(ClusterId(1), true)], ..HealthDelta::default() };
    let change = Change::Health(delta);
    let update = Update { generation, base_generation: generation, observed_ns: 0, change };
    worker.table.apply(&update, T0).unwrap();
    assert_eq!(ask(&worker, Method::Post, &Tried::new(), T0, &mut rng).unwrap().cluster, ClusterId(1));
}

// ---------------------------------------------------------------- active checks

fn checked(interval: Duration, unhealthy_threshold: u32) -> RouteTable {
    let mut world = two(plan(&[(0, 0, None), (1, 1, None)]));
    let check = HealthCheck {
        probe: CheckProbe::Http { path: "/healthz".into(), host: "".into(), asks: Default::default() },
        port: None,
        interval,
        timeout: ms(20),
        unhealthy_threshold,
        healthy_threshold: 3,
    };
    let detection = Detection { check: Some(Arc::new(check)), ..Detection::default() };
    let spec = BackendSpec { name: "default/b0:80".into(), detection, ..BackendSpec::default() };
    world.backends.insert(BackendId(0), Arc::new(spec));
    world
}

#[test]
fn checks_are_spread_over_time_and_over_workers_and_take_out_what_fails() {
    let world = checked(ms(100), 2);
    let board = Arc::new(Board::new(BoardLimits { workers: 2, ..BoardLimits::default() }));
    let mut workers: Vec<Worker> = (0..2)
        .map(|worker| {
            let board = Arc::clone(&board);
            let table = Table::new(TableSettings { workers: 2, worker, board, ..TableSettings::default() });
            Worker { table, world: RouteTable::default() }
        })
        .collect();
    for worker in &mut workers {
        worker.move_to(&world, T0);
        assert_eq!(view(worker, 0).verdict.state, State::Healthy, "unknown: keep");
    }
    let red = view(&workers[0], 5).addr;
    let mut asked: BTreeMap<(usize, std::net::SocketAddr), Vec<u64>> = BTreeMap::new();
    for step in 0..1_000 {
        let now = T0 + ms(step);
        for (nth, worker) in workers.iter().enumerate() {
            worker.table.tick(now, Duration::ZERO);
            for action in actions(&worker.table) {
                let Action::Probe(probe) = action else { continue };
                assert_eq!(
                    probe.kind,
                    ProbeKind::Http { path: "/healthz".into(), host: "".into(), asks: Default::default() }
                );
                asked.entry((nth, probe.addr)).or_default().push(step);
                let result = match probe.addr == red {
                    true => ProbeResult::BadStatus(503),
                    false => ProbeResult::Answered { latency: ms(1) },
                };
                worker.table.on_probe(probe.token, result, now);
            }
        }
    }
    let healthy = asked.iter().filter(|((_, addr), _)| *addr != red);
    for ((worker, addr), times) in healthy.clone() {
        assert!((9..=11).contains(&times.len()), "{worker} {addr} {times:?}");
    }
    assert_eq!(healthy.clone().count(), 7, "each by one worker");
    let firsts: std::collections::BTreeSet<u64> = healthy.map(|(_, times)| times[0] / 10).collect();
    assert!(firsts.len() >= 4, "not all at once: {firsts:?}");
    for worker in &workers {
        worker.table.look(T0 + ms(1_000));
        assert_eq!(view(worker, 5).verdict.state, State::Down(Reason::Check));
        assert_eq!(view(worker, 0).verdict.state, State::Healthy);
    }
}

#[test]
fn one_failed_check_is_none_and_a_good_one_lets_traffic_try_again() {
    let worker = Worker::new(&checked(ms(50), 2));
    let mut now = T0;
    let mut run = |until: MonoTime, result: &dyn Fn(u32) -> ProbeResult| {
        let mut count = 0;
        while now < until {
            now = now + ms(1);
            worker.table.tick(now, Duration::ZERO);
            for action in actions(&worker.table) {
                if let Action::Probe(probe) = action {
                    if probe.addr == addr(0) {
                        count += 1;
                    }
                    let answer = if probe.addr == addr(0) {
                        result(count)
                    } else {
                        ProbeResult::Answered { latency: ms(1) }
                    };
                    worker.table.on_probe(probe.token, answer, now);
                }
            }
        }
    };
    run(T0 + ms(500), &|nth| {
        if nth % 2 == 0 { ProbeResult::BadStatus(500) } else { ProbeResult::Answered { latency: ms(1) } }
    });
    assert_eq!(view(&worker, 0).verdict.state, State::Healthy);
    run(T0 + ms(800), &|_| ProbeResult::BadStatus(500));
    assert_eq!(view(&worker, 0).verdict.state, State::Down(Reason::Check));
    run(T0 + ms(1_000), &|_| ProbeResult::Answered { latency: ms(1) });
    assert_eq!(view(&worker, 0).verdict.state, State::Probation, "a check alone trusts nobody");
    run(T0 + ms(4_000), &|_| ProbeResult::Answered { latency: ms(1) });
    assert_eq!(view(&worker, 0).verdict.state, State::Healthy, "nor does no traffic condemn");
}

/// What a rule allows the whole node is divided over its workers, at least one each; the backend's own bound is a
/// worker's.
#[test]
fn connections_to_an_endpoint_are_bounded_for_the_node() {
    let room = |endpoint_max: u32, endpoint_in_flight_max: u32| {
        let connections = ConnectionBounds { endpoint_max, ..ConnectionBounds::default() };
        let mut world = two(Policy { connections, ..plan(&[(0, 0, None)]) });
        let limits = BackendLimits { endpoint_in_flight_max, ..BackendLimits::default() };
        world.backends.insert(BackendId(0), Arc::new(BackendSpec { limits, ..BackendSpec::default() }));
        let table = Table::new(TableSettings { workers: 4, ..TableSettings::default() });
        let mut worker = Worker { table, world: RouteTable::default() };
        worker.move_to(&world, T0);
        let mut rng = rng(3);
        let count =
            (0..100).take_while(|_| ask(&worker, Method::Get, &Tried::new(), T0, &mut rng).is_ok()).count();
        (count / 4, count % 4)
    };
    assert_eq!([room(5, 0), room(3, 0), room(8, 1), room(8, 3)], [(2, 0), (1, 0), (1, 0), (2, 0)]);
}

// ---------------------------------------------------------------- advice

#[test]
fn attempt_leaves_what_answers_nothing_and_stays_where_there_is_nothing_better() {
    let policy = plan(&[(0, 0, None), (1, 1, None)]);
    let worker = Worker::new(&two(policy.clone()));
    let mut rng = rng(2);
    let pick = ask(&worker, Method::Get, &Tried::new(), T0, &mut rng).unwrap();
    worker.table.on_sent(&pick, T0);
    let advise = |policy: &Policy| worker.table.advise(&pick, T0, T0 + ms(1), policy, &Tried::new());
    assert_eq!(advise(&policy), Advice::Stay { again: None });
    refuse(&worker, pick.id.0, T0);
    let woken = actions(&worker.table);
    assert!(woken.contains(&Action::Wake(Scope::Endpoint(pick.endpoint))), "{woken:?}");
    assert_eq!(advise(&policy), Advice::Leave { reason: Reason::Refused });
    let once = Policy { retry: RetryPolicy { attempts: 1, ..policy.retry.clone() }, ..policy.clone() };
    assert_eq!(advise(&once), Advice::Stay { again: None }, "attempts are spent");
    for id in (0..8).filter(|id| *id != pick.id.0) {
        refuse(&worker, id, T0);
    }
    let nowhere = Advice::Stay { again: Some(T0 + ms(51)) };
    assert_eq!(advise(&policy), nowhere, "nowhere to go, until somebody is back");
    assert_eq!(advise(&Policy { hedge: HedgeMode::Disabled, ..policy }), nowhere);
}

#[test]
fn attempt_is_hedged_against_the_tail_only_where_the_policy_says_so() {
    let base = plan(&[(0, 0, None), (1, 1, None)]);
    let worker = Worker::new(&two(base.clone()));
    let mut rng = rng(2);
    let mut now = T0;
    let mut last = None;
    for _ in 0..500 {
        now = now + ms(1);
        let pick = ask(&worker, Method::Get, &Tried::new(), now, &mut rng).unwrap();
        worker.table.on_sent(&pick, now);
        worker.table.on_bytes(pick.endpoint, now + ms(2));
        worker.table.on_outcome(pick.endpoint, Outcome::Success, Some(ms(2)), now + ms(2), &base.outlier);
        worker.table.release(pick.endpoint);
        last = Some(pick);
    }
    let pick = ask(&worker, Method::Get, &Tried::new(), now, &mut rng).unwrap();
    assert_ne!(Some(pick), last, "another turn of another endpoint or the same: in flight");
    worker.table.on_sent(&pick, now);
    let always = Policy { hedge: HedgeMode::Always, ..base.clone() };
    let never = Policy { hedge: HedgeMode::Disabled, ..base.clone() };
    let after =
        |wait: u64, policy: &Policy| worker.table.advise(&pick, now, now + ms(wait), policy, &Tried::new());
    let Advice::Stay { again: Some(again) } = after(0, &always) else { panic!("{:?}", after(0, &always)) };
    assert!((ms(6)..ms(10)).contains(&again.since(now)), "four times the median: {:?}", again.since(now));
    assert!(matches!(after(12, &always), Advice::Hedge { .. }));
    assert_eq!(after(12, &never), Advice::Stay { again: None });
    assert!(!worker.table.may_hedge(BackendId(0), &never, now));
    assert!(worker.table.may_hedge(BackendId(0), &always, now));
    // Nobody else can take it: it is asked about again, for they may be back while it still waits.
    for id in (0..8).filter(|id| *id != pick.id.0) {
        refuse(&worker, id, now);
    }
    assert_eq!(after(12, &always), Advice::Stay { again: Some(now + ms(62)) });
}

// ---------------------------------------------------------------- the rest

#[test]
fn idle_table_needs_no_timer() {
    let worker = Worker::new(&two(plan(&[(0, 0, None), (1, 1, None)])));
    assert_eq!(worker.table.next_tick(), None);
    let pick = ask(&worker, Method::Get, &Tried::new(), T0, &mut rng(1)).unwrap();
    worker.table.on_sent(&pick, T0);
    assert!(worker.table.next_tick().is_some());
    worker.table.on_bytes(pick.endpoint, T0 + ms(1));
    worker.table.on_outcome(
        pick.endpoint,
        Outcome::Success,
        Some(ms(1)),
        T0 + ms(1),
        &Policy::default().outlier,
    );
    worker.table.release(pick.endpoint);
    worker.table.tick(T0 + ms(2), Duration::ZERO);
    assert_eq!(worker.table.next_tick(), None);
    assert_eq!(worker.table.next_action(), None);
}

#[test]
fn attempt_that_nobody_reported_the_end_of_is_settled_when_it_is_released() {
    let worker = Worker::new(&two(plan(&[(0, 0, None), (1, 1, None)])));
    let pick = ask(&worker, Method::Get, &Tried::new(), T0, &mut rng(1)).unwrap();
    worker.table.on_sent(&pick, T0);
    worker.table.release(pick.endpoint);
    worker.table.tick(T0 + ms(1), Duration::ZERO);
    assert_eq!(worker.table.next_tick(), None);
}

#[test]
fn verdict_leaves_with_its_owner_and_stays_with_who_stays() {
    let mut worker = Worker::new(&two(plan(&[(0, 0, None), (1, 1, None)])));
    refuse(&worker, 0, T0);
    refuse(&worker, 1, T0);
    let mut changed = worker.world.clone();
    // Endpoint 0 gets another address under its id, 1 only turns terminating.
    changed.endpoints.insert(EndpointId(0), endpoint(0, 0, 77));
    let terminating = EndpointSpec { condition: Condition::Terminating, ..endpoint(0, 0, 1) };
    changed.endpoints.insert(EndpointId(1), terminating);
    worker.move_to(&changed, T0);
    assert_eq!(view(&worker, 0).verdict.state, State::Healthy);
    assert_eq!(view(&worker, 1).verdict.state, State::Down(Reason::Refused));
    // All of it goes, under verdicts; nothing of it is left to be done.
    for id in [0, 2, 3] {
        refuse(&worker, id, T0);
    }
    let gone = RouteTable { endpoints: BTreeMap::new(), ..worker.world.clone() };
    worker.move_to(&gone, T0);
    while worker.table.next_action().is_some() {}
    let cluster = worker.table.clusters();
    assert_eq!(cluster[0].endpoints, Default::default());
    assert!(diff(&worker.world, &gone).is_empty());
}

#[test]
fn explanation_names_the_verdict_and_the_fence() {
    let policy = Policy { write_fence: WriteFence::UntilPromoted, ..plan(&[(0, 0, None), (1, 1, None)]) };
    let worker = Worker::new(&two(policy));
    for id in 0..4 {
        refuse(&worker, id, T0);
    }
    let text = worker.table.explain(&Request::get("h", "/").subject(), T0).to_string();
    assert!(text.contains("cluster down (refused)"), "{text}");
    let post = Request::get("h", "/").method(Method::Post);
    let text = worker.table.explain(&post.subject(), T0).to_string();
    assert!(text.contains("writes do not follow"), "{text}");
    let view = &worker.table.clusters()[0];
    assert_eq!(view.verdict.state, State::Down(Reason::Refused));
    assert!(T0.since(view.verdict.since) < ms(1));
}

#[test]
fn beyond_the_board_every_worker_decides_alone() {
    let limits = BoardLimits { workers: 2, clusters: 0, backends: 0, endpoints: 0 };
    let board = Arc::new(Board::new(limits));
    let tables: Vec<Worker> = (0..2)
        .map(|worker| {
            let board = Arc::clone(&board);
            let table = Table::new(TableSettings { workers: 2, worker, board, ..TableSettings::default() });
            let mut worker = Worker { table, world: RouteTable::default() };
            worker.move_to(&two(plan(&[(0, 0, None), (1, 1, None)])), T0);
            worker
        })
        .collect();
    for id in 0..4 {
        refuse(&tables[0], id, T0);
    }
    assert_eq!(spread(&tables[0], T0, |pick| pick.cluster.0), BTreeMap::from([(1, 1_000)]));
    assert_eq!(spread(&tables[1], T0, |pick| pick.cluster.0), BTreeMap::from([(0, 1_000)]));
    assert!(tables[0].table.verdicts_local() >= 5);
    assert_eq!(tables[0].table.generation(), Generation(1));
}
