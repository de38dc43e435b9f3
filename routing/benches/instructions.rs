//! The hot paths of this crate, for `scripts/instructions`.

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "../../wire/benches/counted/mod.rs"]
mod counted;

use std::hint::black_box;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use common::*;
use counted::Path;
use routing::delta::{Change, RouteTable, TableDelta, Update};
use routing::failover::Tried;
use routing::health::endpoint::Outcome;
use routing::id::{BackendId, EndpointId, Generation, ListenerId};
use routing::model::*;
use routing::time::MonoTime;

const PATHS: [Path; 4] = [
    ("route-1000-hosts-10-routes", route),
    ("pick-2-clusters-64-endpoints", pick),
    ("attempt-with-detector", attempt),
    ("apply-one-endpoint", apply),
];

fn main() -> ExitCode {
    counted::run(&PATHS)
}

fn route(rounds: u32) {
    let policy = Arc::new(plan(&[(0, 0, None), (1, 0, None)]));
    let mut table = RouteTable::default();
    table.listeners.insert(ListenerId(0), listener(0, HostPattern::Any));
    let host = |nth: u32| format!("shop-{nth:04}.example");
    for nth in 0..1_000 {
        let rules = (0..10).map(|route| Rule {
            matches: prefix(&format!("/api/v{route}")),
            action: action(&format!("r{route}"), 0, forward(&[(nth, 1)]), Arc::clone(&policy)),
        });
        let rules = HostRules::new(rules.collect::<Vec<_>>());
        table.hosts.insert(key(0, exact(&host(nth))), Arc::new(rules));
    }
    let worker = Worker::new(&table);
    let requests: Vec<Request> = (0..64)
        .map(|n| Request::get(&host(n * 7919 % 1_000), &format!("/api/v{}/items/17", n % 10)))
        .collect();
    for request in requests.iter().cycle().take(rounds as usize) {
        let rule = worker.table.route(&black_box(request).subject());
        black_box(rule.expect("every request has a route").index());
    }
}

/// Two clusters with 32 endpoints each.
fn crowd() -> Worker {
    let mut world = world(&["alpha", "beta"], &[(0, 1)], plan(&[(0, 0, Some(80)), (1, 0, Some(20))]));
    world.backends.insert(BackendId(0), backend("default/b0:80"));
    for n in 0..64 {
        world.endpoints.insert(EndpointId(n), endpoint(0, u16::from(n % 2 == 1), n));
    }
    Worker::new(&world)
}

fn pick(rounds: u32) {
    let worker = crowd();
    let request = Request::get("h", "/");
    let rule = worker.table.route(&request.subject()).expect("one rule");
    let (mut rng, tried, policy) = (rng(1), Tried::new(), Policy::default().outlier);
    for _ in 0..rounds {
        let subject = black_box(&request).subject();
        let pick = worker.table.pick(&rule, &subject, &tried, MonoTime::ZERO, &mut rng).expect("healthy");
        worker.table.on_outcome(pick.endpoint, Outcome::Success, None, MonoTime::ZERO, &policy);
        worker.table.release(pick.endpoint);
        black_box(pick.addr);
    }
}

/// What one request costs the table, with all that the failure detector is told and asked, while 63 others wait.
fn attempt(rounds: u32) {
    let worker = crowd();
    let table = &worker.table;
    let request = Request::get("h", "/");
    let rule = table.route(&request.subject()).expect("one rule");
    let (mut rng, tried, policy) = (rng(1), Tried::new(), rule.policy().clone());
    let mut now = MonoTime(1_000_000_000);
    let mut begin = |now| {
        let pick = table.pick(&rule, &request.subject(), &tried, now, &mut rng).expect("healthy");
        table.on_sent(&pick, now);
        (pick, now)
    };
    let mut waiting: std::collections::VecDeque<_> = (0..63).map(|_| begin(now)).collect();
    for _ in 0..rounds {
        now = now + Duration::from_micros(30);
        waiting.push_back(begin(now));
        let (pick, sent) = waiting.pop_front().expect("64 of them wait");
        black_box(table.advise(&pick, sent, now, &policy, &tried));
        table.on_bytes(pick.endpoint, now);
        table.on_outcome(pick.endpoint, Outcome::Success, Some(now.since(sent)), now, &policy.outlier);
        table.release(pick.endpoint);
        while let Some(action) = table.next_action() {
            black_box(action);
        }
        black_box(table.next_tick());
    }
}

fn apply(rounds: u32) {
    let mut worker = crowd();
    for nth in 0..rounds {
        let n = nth % 64;
        let condition = if nth / 64 % 2 == 0 { Condition::Terminating } else { Condition::Ready };
        let spec = EndpointSpec { condition, ..endpoint(0, u16::from(n % 2 == 1), n) };
        let endpoints = vec![(EndpointId(n), Some(spec))];
        let generation = worker.table.generation();
        let update = Update {
            generation: Generation(generation.0),
            base_generation: generation,
            observed_ns: 0,
            change: Change::Table(TableDelta { endpoints, ..TableDelta::default() }),
        };
        black_box(worker.table.apply(&update, MonoTime::ZERO).expect("in step"));
    }
}
