//! What the table costs: `cargo bench -p ringway-routing`.
//!
//! Hosts are random for every lookup, the request itself is warm, as it is in a worker.

#[path = "../tests/common/mod.rs"]
mod common;

use std::sync::Arc;
use std::time::Duration;

use common::*;
use divan::{Bencher, black_box};
use routing::delta::{Change, RouteTable, TableDelta, Update};
use routing::failover::Tried;
use routing::health::endpoint::Outcome;
use routing::id::{BackendId, BindId, EndpointId, Generation, ListenerId};
use routing::model::*;
use routing::subject::{Subject, SubjectKind};
use routing::time::MonoTime;
use wire::head::{RequestHead, RequestView, Span};

fn main() {
    divan::main();
}

/// `hosts` hosts with `routes` prefix routes each, spread over sixteen deeper paths.
fn routes(hosts: u32, routes: u32) -> Worker {
    let policy = Arc::new(plan(&[(0, 0, None), (1, 0, None)]));
    let mut table = RouteTable::default();
    table.listeners.insert(ListenerId(0), listener(0, HostPattern::Any));
    for host in 0..hosts {
        let rules = (0..routes).map(|nth| Rule {
            matches: prefix(&path(nth)),
            action: action(&format!("r{nth}"), 0, forward(&[(host, 1)]), Arc::clone(&policy)),
        });
        let rules = HostRules::new(rules.collect::<Vec<_>>());
        table.hosts.insert(key(0, exact(&host_name(host))), Arc::new(rules));
    }
    Worker::new(&table)
}

fn host_name(host: u32) -> String {
    format!("shop-{host:05}.tenant-{}.example", host % 97)
}

fn path(nth: u32) -> String {
    format!("/api/v{}/resource-{nth}", nth % 16)
}

/// A request whose host and path are written over for every lookup.
struct Reused {
    head: RequestHead,
    bytes: Vec<u8>,
    targets: Vec<(String, String)>,
    next: usize,
}

impl Reused {
    fn new(hosts: u32, routes: u32) -> Self {
        let mut random = 0x9e37_79b9u32;
        let targets = (0..1 << 14).map(|_| {
            random ^= random << 13;
            random ^= random >> 17;
            random ^= random << 5;
            (host_name(random % hosts), format!("{}/items/17", path((random >> 8) % routes)))
        });
        Self { head: RequestHead::default(), bytes: Vec::new(), targets: targets.collect(), next: 0 }
    }

    fn next(&mut self) -> Subject<'_> {
        self.next = (self.next + 1) % self.targets.len();
        let (host, path) = &self.targets[self.next];
        self.head.host.clear();
        self.head.host.extend_from_slice(host.as_bytes());
        self.bytes.clear();
        self.bytes.extend_from_slice(path.as_bytes());
        self.head.path_span = Span { start: 0, len: u16::try_from(path.len()).expect("short") };
        let view = RequestView { head: &self.head, bytes: &self.bytes };
        let peer = ([192, 0, 2, 7], 4711).into();
        Subject { bind: BindId(0), peer, kind: SubjectKind::Http(view) }
    }
}

const SHAPES: [(u32, u32); 5] = [(100, 10), (1_000, 10), (10_000, 10), (100, 1_000), (1, 100_000)];

#[divan::bench(args = SHAPES, sample_size = 10_000)]
fn route(bencher: Bencher<'_, '_>, (hosts, per_host): (u32, u32)) {
    let worker = routes(hosts, per_host);
    let mut request = Reused::new(hosts, per_host);
    bencher.bench_local(move || {
        let subject = request.next();
        black_box(worker.table.route(&subject).expect("every request has a route").index())
    });
}

/// What of `route` above is the making of the request.
#[divan::bench(sample_size = 10_000)]
fn request_alone(bencher: Bencher<'_, '_>) {
    let mut request = Reused::new(10_000, 10);
    bencher.bench_local(move || black_box(request.next().host().len()));
}

fn crowd(count: u32, per_backend: u32) -> Worker {
    let mut world = world(&["alpha", "beta"], &[(0, 1)], plan(&[(0, 0, Some(80)), (1, 0, Some(20))]));
    for id in 0..count / per_backend {
        world.backends.insert(BackendId(id), backend(&format!("default/b{id}:80")));
    }
    for n in 0..count {
        let spec = endpoint(n / per_backend, u16::from(n % 2 == 1), n);
        world.endpoints.insert(EndpointId(n), spec);
    }
    Worker::new(&world)
}

/// A whole attempt: pick, outcome, release.
#[divan::bench(args = [10, 1_000, 100_000], sample_size = 10_000)]
fn attempt(bencher: Bencher<'_, '_>, per_backend: u32) {
    let worker = crowd(100_000, per_backend);
    let request = Request::get("h", "/");
    let rule = single(&worker, &request);
    let (mut rng, tried, policy) = (rng(1), Tried::new(), Policy::default().outlier);
    bencher.bench_local(move || {
        let subject = request.subject();
        let pick = worker.table.pick(&rule, &subject, &tried, MonoTime::ZERO, &mut rng).expect("healthy");
        worker.table.on_outcome(pick.endpoint, Outcome::Success, None, MonoTime::ZERO, &policy);
        worker.table.release(pick.endpoint);
        pick.addr
    });
}

/// The same with all that the failure detector is told and asked: sent, advice, bytes, outcome with latency.
#[divan::bench(args = [10, 1_000, 100_000], sample_size = 10_000)]
fn tracked_attempt(bencher: Bencher<'_, '_>, per_backend: u32) {
    let worker = crowd(100_000, per_backend);
    let request = Request::get("h", "/");
    let rule = single(&worker, &request);
    let (mut rng, tried, policy) = (rng(1), Tried::new(), rule.policy().clone());
    let mut now = MonoTime(1_000_000_000);
    bencher.bench_local(move || {
        let (subject, table) = (request.subject(), &worker.table);
        let pick = table.pick(&rule, &subject, &tried, now, &mut rng).expect("healthy");
        table.on_sent(&pick, now);
        black_box(table.advise(&pick, now, now, &policy, &tried));
        let sent = now;
        now = now + Duration::from_micros(100);
        table.on_bytes(pick.endpoint, now);
        let took = Some(now.since(sent));
        table.on_outcome(pick.endpoint, Outcome::Success, took, now, &policy.outlier);
        table.release(pick.endpoint);
        pick.addr
    });
}

fn single(worker: &Worker, request: &Request) -> routing::table::RuleRef {
    worker.table.route(&request.subject()).expect("one rule")
}

/// One endpoint turns terminating and ready again: one update each.
#[divan::bench(args = [100, 100_000], sample_size = 1_000)]
fn apply_condition(bencher: Bencher<'_, '_>, endpoints: u32) {
    apply(bencher, endpoints, |spec, nth| EndpointSpec {
        condition: if nth % 2 == 0 { Condition::Terminating } else { Condition::Ready },
        ..spec
    });
}

/// One endpoint is replaced by another address: one update each.
#[divan::bench(args = [100, 100_000], sample_size = 1_000)]
fn apply_replaced(bencher: Bencher<'_, '_>, endpoints: u32) {
    apply(bencher, endpoints, |spec, nth| EndpointSpec { addr: addr(1_000_000 + nth % 2_000_000), ..spec });
}

fn apply(bencher: Bencher<'_, '_>, endpoints: u32, change: impl Fn(EndpointSpec, u32) -> EndpointSpec) {
    let mut worker = crowd(endpoints, 10);
    let mut nth = 0u32;
    bencher
        .with_inputs(|| {
            nth = nth.wrapping_add(1);
            let n = nth.wrapping_mul(0x9E37_79B1) % endpoints;
            let spec = change(endpoint(n / 10, u16::from(n % 2 == 1), n), nth / 7);
            let endpoints = vec![(EndpointId(n), Some(spec))];
            Update {
                generation: Generation(0),
                base_generation: Generation(0),
                observed_ns: 0,
                change: Change::Table(TableDelta { endpoints, ..TableDelta::default() }),
            }
        })
        .bench_local_values(move |mut update| {
            update.base_generation = worker.table.generation();
            update.generation = update.base_generation;
            let applied = worker.table.apply(&update, MonoTime::ZERO).expect("in step");
            (applied, update)
        });
}
