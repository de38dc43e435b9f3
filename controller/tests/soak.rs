//! A world that changes all the time, over the API road: nothing is lost, every worker ends with the same table, and
//! that is the one which a fresh compile of what the API servers hold makes.
//!
//! Small in `cargo test`. With `RINGWAY_SOAK=routes,seconds` (10,000 routes have 100,000 endpoints) it is the
//! measurement of the README, in a release build:
//! `RINGWAY_SOAK=10000,20 cargo test --release -p ringway-controller --test soak -- --nocapture`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/apiserver.rs"]
mod apiserver;
#[path = "support/real.rs"]
mod real;
#[path = "support/rig.rs"]
mod rig;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use apiserver::{ApiServer, OURS, needs_ours};
use controller::compile::{Compiler, CompilerSettings, Defaults};
use controller::merge::Loopback;
use controller::object::Source;
use controller::view::{LAG_BOUNDS_NS, LagHistogram};
use controller::watch::decode::{One, decode_one};
use controller::watch::{Observation, Presence};
use controller::world::World;
use controller::{Mailbox, Reader, SharedView, dump, run};
use crossbeam_channel::{Receiver, Sender, bounded, tick};
use rig::{Temp, declared, undisturbed, writing};
use routing::delta::{Change, Mail, Report, RouteTable, Update};
use routing::model::Protocol;
use routing::table::{Applied, OutOfStep, Progress, Table, TableSettings};
use routing::time::MonoTime;
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

const CLUSTERS: [&str; 2] = ["alpha", "beta"];
/// Endpoints of one Service in one cluster at the start.
const PODS: u32 = 5;
const WORKERS: u16 = 2;
/// Of ten changes so many are of endpoints; the others are of routes.
const OF_ENDPOINTS: u32 = 9;
const CHANGES_PER_TICK: u32 = 10;
/// `limits.apply_turn`
const APPLY_TURN_NS: u64 = 100_000;
/// What no turn of a worker's loop may exceed.
const STALL_MAX: Duration = Duration::from_micros(200);
/// What the allocator may keep without need, and the tasks of connections.
const MEMORY_NOISE: u64 = 16 << 20;
const TICK: Duration = Duration::from_millis(10);

struct Size {
    routes: u32,
    seconds: u64,
    patience: Duration,
    is_measured: bool,
}

fn size() -> Size {
    let Ok(given) = std::env::var("RINGWAY_SOAK") else {
        return Size { routes: 200, seconds: 1, patience: Duration::from_secs(30), is_measured: false };
    };
    let (routes, seconds) = given.split_once(',').expect("RINGWAY_SOAK=routes,seconds");
    Size {
        routes: routes.parse().expect("routes"),
        seconds: seconds.parse().expect("seconds"),
        patience: Duration::from_secs(120),
        is_measured: true,
    }
}

fn ingress(n: u32, path: u32) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"name": format!("i{n}"), "namespace": "default"},
        "spec": {"rules": [{"host": format!("h{n}.example"), "http": {"paths": [{"path": format!("/{path}"), "pathType": "Prefix",
            "backend": {"service": {"name": format!("s{n}"), "port": {"number": 80}}}}]}}]}})
}

fn service(n: u32) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("s{n}"), "namespace": "default"},
        "spec": {"ports": [{"name": "http", "port": 80}]}})
}

fn slice(cluster: usize, n: u32, pods: u32) -> Value {
    let address = |pod: u32| {
        format!("10.{}.{}.{}", 10 * (cluster + 1) + (n / 8000) as usize, n / 32 % 250, n % 32 * 8 + pod)
    };
    let endpoints: Vec<Value> = (0..pods)
        .map(|pod| json!({"addresses": [address(pod)], "conditions": {"ready": true}, "zone": "z1", "nodeName": format!("n{}", pod)}))
        .collect();
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": format!("s{n}-1"), "namespace": "default", "labels": {"kubernetes.io/service-name": format!("s{n}")}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}], "endpoints": endpoints})
}

/// A worker as far as tables go: the real one is brought up to date first and reported, then its canonical form.
struct Worker {
    thread: JoinHandle<RouteTable>,
    generation: Arc<AtomicU64>,
}

/// What applying cost one worker, nanoseconds.
#[derive(Default)]
struct Cost {
    /// Updates.
    count: AtomicU64,
    /// Processor time of all of them.
    cpu: AtomicU64,
    /// Processor time of the longest slice.
    longest_cpu: AtomicU64,
    /// The same by the clock on the wall, with what others did on this core meanwhile.
    longest_wall: AtomicU64,
    slices: AtomicU64,
}

impl Cost {
    fn reset(&self) {
        let all = [&self.count, &self.cpu, &self.longest_cpu, &self.longest_wall, &self.slices];
        all.iter().for_each(|figure| figure.store(0, Ordering::Relaxed));
    }

    /// Applies as a worker of the gateway does, whose turns are of `limits.apply_turn`.
    fn apply(&self, table: &mut Table, update: &Update, now: u64) -> Result<Applied, OutOfStep> {
        let mut applying = table.begin(update, MonoTime(now))?;
        loop {
            let (began, cpu) = (rig::monotonic_ns(), thread_cpu_ns());
            let more = || rig::monotonic_ns() - began < APPLY_TURN_NS;
            let progress = table.advance(&mut applying, update, MonoTime(now), more);
            let cpu = thread_cpu_ns() - cpu;
            self.cpu.fetch_add(cpu, Ordering::Relaxed);
            self.slices.fetch_add(1, Ordering::Relaxed);
            self.longest_cpu.fetch_max(cpu, Ordering::Relaxed);
            self.longest_wall.fetch_max(rig::monotonic_ns() - began, Ordering::Relaxed);
            if progress == Progress::Whole {
                self.count.fetch_add(1, Ordering::Relaxed);
                return Ok(applying.into_applied());
            }
        }
    }

    fn longest_cpu(&self) -> Duration {
        Duration::from_nanos(self.longest_cpu.load(Ordering::Relaxed))
    }

    fn say(&self, what: &str) {
        let of = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
        println!(
            "{what}: {} updates in {} slices; longest slice {:?} of processor time, {:?} on the wall; {:?} each",
            of(&self.count),
            of(&self.slices),
            self.longest_cpu(),
            Duration::from_nanos(of(&self.longest_wall)),
            Duration::from_nanos(of(&self.cpu) / of(&self.count).max(1)),
        );
    }
}

fn thread_cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    u64::try_from(time.tv_sec).unwrap() * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap()
}

/// Processor time of the threads of this name so far: the controller's loop, the fleet's watches.
fn cpu_of(name: &str) -> Duration {
    let mut sum = 0;
    for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        let read = |file| std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
        if read("comm").trim() == name {
            sum += read("schedstat").split(' ').next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    Duration::from_nanos(sum)
}

/// Changes made so far, and ticks that took longer than they may.
#[derive(Default)]
struct Churn {
    changes: u32,
    late: u32,
    took: Duration,
}

impl Churn {
    fn run(&mut self, time: Duration, routes: u32, hub: &ApiServer, members: &[ApiServer]) {
        let ticks = tick(TICK);
        let began = Instant::now();
        while began.elapsed() < time {
            ticks.recv().unwrap();
            let behind = Instant::now();
            for _ in 0..CHANGES_PER_TICK {
                let n = self.changes.wrapping_mul(7919) % routes;
                if self.changes % 10 < OF_ENDPOINTS {
                    let cluster = (self.changes / 10 % 2) as usize;
                    members[cluster].put(slice(cluster, n, 1 + self.changes % 7));
                } else {
                    hub.put(ingress(n, self.changes));
                }
                self.changes += 1;
            }
            self.late += u32::from(behind.elapsed() > TICK);
        }
        self.took += began.elapsed();
    }
}

fn worker(id: u16, mail: Receiver<Mail>, reports: Sender<Report>, cost: Arc<Cost>) -> Worker {
    let generation = Arc::new(AtomicU64::new(0));
    let seen = generation.clone();
    let thread = std::thread::spawn(move || {
        let mut table =
            Table::new(TableSettings { workers: WORKERS, worker: id, ..TableSettings::default() });
        let mut canonical = RouteTable::default();
        while let Ok(mail) = mail.recv() {
            let Mail::Update(update) = mail else { continue };
            let applied = cost.apply(&mut table, &update, rig::monotonic_ns());
            let at_ns = rig::monotonic_ns();
            let report = match &applied {
                Ok(_) => Report::Applied { worker: id, generation: update.generation, at_ns },
                Err(out) => Report::OutOfStep { worker: id, generation: out.have },
            };
            if reports.send(report).is_err() {
                break;
            }
            if applied.is_err() {
                continue;
            }
            match &update.change {
                Change::Table(delta) => canonical.apply(delta),
                Change::Snapshot(delta) => {
                    canonical = RouteTable::default();
                    canonical.apply(delta);
                }
                Change::Health(_) => {}
            }
            seen.store(update.generation.0, Ordering::Release);
            if let Some(spent) = table.take_spent() {
                drop(spent);
            }
        }
        canonical
    });
    Worker { thread, generation }
}

fn digest(table: &RouteTable) -> u64 {
    let mut hasher = DefaultHasher::new();
    dump::table(table).hash(&mut hasher);
    hasher.finish()
}

/// What the API servers hold, compiled anew by a compiler that knows nothing else.
fn fresh(hub: &ApiServer, members: &[ApiServer]) -> RouteTable {
    let mut world = World::default();
    let mut observe = |source: &Source, objects: Vec<Value>| {
        for object in objects {
            if let One::Object(object, notes) = decode_one(object, source) {
                world.observe(Observation::Upsert { object, origin: Arc::from(""), notes });
            }
        }
    };
    ["ingresses", "memberclusters"].iter().for_each(|plural| observe(&Source::Fleet, hub.objects(plural)));
    for (name, server) in CLUSTERS.iter().zip(members) {
        let source = Source::Member(Arc::from(*name));
        ["services", "endpointslices"].iter().for_each(|plural| observe(&source, server.objects(plural)));
    }
    for name in CLUSTERS {
        world.observe(Observation::Member { name: Arc::from(name), presence: Presence::Present });
    }
    world.observe(Observation::Synced);
    let settings = CompilerSettings {
        listen: vec![(std::net::SocketAddr::from(([127, 0, 0, 1], 80)), Protocol::Http).into()],
        series_max: 100,
        loopback: Loopback::Refused,
        defaults: Defaults::default(),
    };
    let mut compiler = Compiler::new(settings);
    let _ = compiler.compile(&mut world);
    compiler.table().clone()
}

/// Resident memory of this process, bytes.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// The bound below which this share of the updates lies.
fn quantile(lag: &LagHistogram, share: f64) -> Duration {
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
    let wanted = lag.count as f64 * share;
    let mut sum = 0.0;
    for (count, bound) in lag.buckets.iter().zip(LAG_BOUNDS_NS) {
        #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
        let count = *count as f64;
        sum += count;
        if sum >= wanted {
            return Duration::from_nanos(bound);
        }
    }
    Duration::from_nanos(lag.max_ns)
}

fn minus(after: &LagHistogram, before: &LagHistogram) -> LagHistogram {
    let mut left = after.clone();
    left.buckets.iter_mut().zip(before.buckets).for_each(|(after, before)| *after -= before);
    left.count -= before.count;
    left.sum_ns -= before.sum_ns;
    left
}

#[test]
#[allow(clippy::too_many_lines, reason = "one measurement, in the order of time")]
fn a_world_in_churn_loses_no_update_and_all_workers_end_with_the_table_of_a_fresh_compile() {
    if needs_ours("more changes a second than a test may ask of a real one") {
        return;
    }
    let size = size();
    let hub = ApiServer::start();
    let members: Vec<ApiServer> = CLUSTERS.iter().map(|_| ApiServer::start()).collect();
    hub.install(&OURS);
    for n in 0..size.routes {
        hub.put(ingress(n, 0));
        for (cluster, server) in members.iter().enumerate() {
            server.put(service(n));
            server.put(slice(cluster, n, PODS));
        }
    }
    for (name, server) in CLUSTERS.iter().zip(&members) {
        declared(&hub, name, &server.kubeconfig("t"));
        server.forget_events();
    }
    hub.forget_events();
    let before = resident();

    let temp = Temp::new();
    let began = Instant::now();
    // Status of ten thousand Ingresses is written meanwhile, as in life.
    let settings = writing(&hub, &temp.0, "soak");
    let (reports, heard) = bounded(1024);
    let (stop, stopped) = bounded(1);
    let costs: Vec<Arc<Cost>> = (0..WORKERS).map(|_| Arc::default()).collect();
    let mut mailboxes = Vec::new();
    let mut workers = Vec::new();
    for id in 0..WORKERS {
        let (tx, mail) = bounded(256);
        let wake = std::fs::File::options().write(true).open("/dev/null").unwrap();
        mailboxes.push(Mailbox { tx, wake, reader: Reader::Worker });
        workers.push(worker(id, mail, reports.clone(), costs[usize::from(id)].clone()));
    }
    let view = SharedView::new();
    let (seen, inputs) = (view.clone(), undisturbed(heard, stopped));
    let controller = std::thread::Builder::new().name("controller".into());
    let controller = controller.spawn(move || run(&settings, mailboxes, &inputs, &seen)).unwrap();
    let poll = tick(Duration::from_millis(5));
    let until = |what: &str, holds: &dyn Fn() -> bool| {
        let deadline = Instant::now() + size.patience;
        while !holds() {
            assert!(Instant::now() < deadline, "never happened: {what}");
            poll.recv().unwrap();
        }
    };
    let all = (size.routes * PODS) as usize;
    until("the first table", &|| {
        let view = view.read();
        view.synced && CLUSTERS.iter().all(|name| view.endpoints.get(*name) == Some(&all))
    });
    until("every worker runs it", &|| {
        let newest = view.read().generation.0;
        workers.iter().all(|worker| worker.generation.load(Ordering::Acquire) == newest)
    });
    let synced = began.elapsed();
    let settled = view.read().lags;
    costs.iter().enumerate().for_each(|(id, cost)| cost.say(&format!("first sync, worker {id}")));
    costs.iter().for_each(|cost| cost.reset());

    let threads = ["controller", "fleet"];
    let cpu_before = threads.map(cpu_of);
    let mut churn = Churn::default();
    let leg = Duration::from_secs(size.seconds) / 2;
    let quiet = |what: &str| {
        let mut newest = (view.read().generation.0, Instant::now());
        while newest.1.elapsed() < Duration::from_millis(300) {
            poll.recv().unwrap();
            let now = view.read().generation.0;
            if now != newest.0 {
                newest = (now, Instant::now());
            }
        }
        until(what, &|| workers.iter().all(|worker| worker.generation.load(Ordering::Acquire) == newest.0));
        // What the API servers of the test remember of the changes is none of the controller's memory.
        [&hub].into_iter().chain(&members).for_each(ApiServer::forget_events);
        resident()
    };
    churn.run(leg, size.routes, &hub, &members);
    let halfway = quiet("every worker runs the table of the first half");
    churn.run(leg, size.routes, &hub, &members);
    let after = quiet("every worker runs the last table");
    let cpu = threads.map(cpu_of);
    let expected = fresh(&hub, &members);
    let endpoints = expected.endpoints.len();
    until("all endpoints are told", &|| view.read().endpoints.values().sum::<usize>() == endpoints);
    quiet("every worker runs the last table");
    let lags = view.read().lags;
    stop.send(()).unwrap();
    controller.join().expect("the controller's thread panicked");
    drop(reports);
    let digests: Vec<u64> =
        workers.into_iter().map(|worker| digest(&worker.thread.join().unwrap())).collect();

    println!(
        "{} routes, {} endpoints: first sync {synced:?}; {} changes in {:?} ({} ticks late); memory above the API servers' {} MiB: \
         {} MiB halfway, {} MiB at the end",
        size.routes,
        all * CLUSTERS.len(),
        churn.changes,
        churn.took,
        churn.late,
        before >> 20,
        halfway.saturating_sub(before) >> 20,
        after.saturating_sub(before) >> 20,
    );
    for ((name, before), after) in threads.into_iter().zip(cpu_before).zip(cpu) {
        println!("{name}: {:?} of processor time for a change", (after - before) / churn.changes);
    }
    costs.iter().enumerate().for_each(|(id, cost)| cost.say(&format!("churn, worker {id}")));
    for name in CLUSTERS {
        let zero = LagHistogram::default();
        let lag = minus(&lags[name], settled.get(name).unwrap_or(&zero));
        assert!(lag.count > 0, "{name}: changes were timed");
        println!(
            "{name}: {} updates, watch to last worker p50 <= {:?}, p99 <= {:?}, p99.9 <= {:?}",
            lag.count,
            quantile(&lag, 0.5),
            quantile(&lag, 0.99),
            quantile(&lag, 0.999)
        );
    }
    assert_eq!(
        digests,
        vec![digest(&expected); usize::from(WORKERS)],
        "a worker's table is not that of a fresh compile"
    );
    assert!(
        after <= halfway + (halfway - before) / 8 + MEMORY_NOISE,
        "memory grows with the changes: {halfway} bytes halfway, {after} at the end"
    );
    if size.is_measured && !cfg!(debug_assertions) {
        let longest = costs.iter().map(|cost| cost.longest_cpu()).max().unwrap();
        assert!(longest <= STALL_MAX, "a worker's loop stood for {longest:?}");
    }
}
