//! Updates reach every worker in order whatever the workers do, and an edit is live at once.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use controller::broadcast::{Broadcaster, Reader};
use controller::compile::Defaults;
use controller::operator::{Command, Order, Origin, Refused, Standing};
use controller::{ControllerSettings, Inputs, Mailbox, ManifestSource, SharedView, compile_dir, dump, run};
use crossbeam_channel::{Receiver, Sender, bounded};
use routing::delta::{Change, Mail, Report, RouteTable, TableDelta, Update};
use routing::id::{ClusterId, Generation};
use routing::model::{ClusterSpec, Protocol};

fn mailbox(capacity: usize) -> (Mailbox, Receiver<Mail>, fs::File) {
    let (tx, rx) = bounded(capacity);
    let flags = rustix::event::EventfdFlags::NONBLOCK | rustix::event::EventfdFlags::CLOEXEC;
    let wake = fs::File::from(rustix::event::eventfd(0, flags).unwrap());
    let woken = wake.try_clone().unwrap();
    (Mailbox { tx, wake, reader: Reader::Worker }, rx, woken)
}

fn cluster(id: u16, name: &str) -> TableDelta {
    let spec = ClusterSpec { name: name.into(), ..ClusterSpec::default() };
    TableDelta { clusters: vec![(ClusterId(id), Some(Arc::new(spec)))], ..TableDelta::default() }
}

/// A worker's table, kept as strictly as a worker keeps it.
#[derive(Default)]
struct Worker {
    table: RouteTable,
    generation: Generation,
}

impl Worker {
    /// `false`: out of step.
    fn apply(&mut self, update: &Update) -> bool {
        match &update.change {
            Change::Table(delta) if update.base_generation == self.generation => self.table.apply(delta),
            Change::Snapshot(delta) => {
                self.table = RouteTable::default();
                self.table.apply(delta);
            }
            Change::Health(delta) => {
                for ((id, percent), (_, promoted)) in delta.drained.iter().zip(&delta.promoted) {
                    let Some(spec) = self.table.clusters.get_mut(id) else { continue };
                    let spec = Arc::make_mut(spec);
                    (spec.drain_percent, spec.promoted) = (*percent, *promoted);
                }
                if update.base_generation != self.generation {
                    return true;
                }
            }
            Change::Table(_) => return false,
        }
        self.generation = update.generation;
        true
    }
}

fn updates(rx: &Receiver<Mail>) -> Vec<Arc<Update>> {
    let update = |mail| match mail {
        Mail::Update(update) => update,
        Mail::Adopt(_) | Mail::Wake => panic!("not an update"),
    };
    rx.try_iter().map(update).collect()
}

#[test]
fn a_full_inbox_coalesces_and_nobody_else_waits_for_it() {
    let (slow, slow_rx, _slow_fd) = mailbox(1);
    let (fast, fast_rx, mut fast_fd) = mailbox(64);
    let mut broadcaster = Broadcaster::new(vec![slow, fast]);
    let mut table = RouteTable::default();
    for (id, name) in [(1, "a"), (2, "b"), (3, "c"), (1, "renamed")] {
        let delta = cluster(id, name);
        table.apply(&delta);
        broadcaster.delta(delta, 1, &table);
    }
    assert!(broadcaster.is_behind());
    assert_eq!(broadcaster.coalesced_total, 3);
    let (mut a, mut b) = (Worker::default(), Worker::default());
    let fast_updates = updates(&fast_rx);
    assert_eq!(fast_updates.len(), 4);
    let mut count = [0; 8];
    fast_fd.read_exact(&mut count).unwrap();
    assert_eq!(u64::from_ne_bytes(count), 4, "each mail wakes");
    assert!(fast_updates.iter().all(|update| b.apply(update)));
    let first = updates(&slow_rx);
    assert_eq!(first.len(), 1, "the first change is not delayed");
    assert!(a.apply(&first[0]));
    broadcaster.report(Report::Applied { worker: 0, generation: a.generation, at_ns: 5 }, &table);
    let rest = updates(&slow_rx);
    assert_eq!(rest.len(), 1, "all that was missed is one update");
    assert!(a.apply(&rest[0]));
    assert!(!broadcaster.is_behind());
    assert_eq!(dump::table(&a.table), dump::table(&table));
    assert_eq!(dump::table(&b.table), dump::table(&table));
    assert_eq!((a.generation, b.generation), (Generation(4), Generation(4)));
}

#[test]
fn a_worker_that_is_out_of_step_gets_the_whole_table_and_goes_on_from_there() {
    let (mail, rx, _fd) = mailbox(8);
    let mut broadcaster = Broadcaster::new(vec![mail]);
    let mut table = RouteTable::default();
    for (id, name) in [(1, "a"), (2, "b")] {
        let delta = cluster(id, name);
        table.apply(&delta);
        broadcaster.delta(delta, 0, &table);
    }
    drop(updates(&rx));
    let mut worker = Worker::default();
    broadcaster.report(Report::OutOfStep { worker: 0, generation: Generation(0) }, &table);
    let delta = cluster(3, "c");
    table.apply(&delta);
    broadcaster.delta(delta, 0, &table);
    assert!(updates(&rx).iter().all(|update| worker.apply(update)));
    assert_eq!(dump::table(&worker.table), dump::table(&table));
    assert_eq!(broadcaster.snapshots_total, 1);
}

#[test]
fn the_controller_holds_an_update_until_no_worker_does() {
    let (mail, rx, _fd) = mailbox(8);
    let mut broadcaster = Broadcaster::new(vec![mail]);
    let delta = cluster(1, "a");
    let Some((_, Some(payload))) = delta.clusters.first().cloned() else { panic!("no cluster") };
    broadcaster.delta(delta, 0, &RouteTable::default());
    let held = updates(&rx).remove(0);
    let weak = Arc::downgrade(&held);
    // The worker's last reference goes, unreported: the destructor still runs in the controller.
    drop(held);
    assert_eq!(Arc::strong_count(&payload), 2);
    assert!(weak.upgrade().is_some());
    broadcaster.flush(&RouteTable::default());
    assert_eq!(Arc::strong_count(&payload), 1);
}

#[test]
fn propagation_counts_from_the_event_to_the_last_worker() {
    let (one, _rx_one, _fd_one) = mailbox(8);
    let (two, _rx_two, _fd_two) = mailbox(8);
    let mut broadcaster = Broadcaster::new(vec![one, two]);
    let table = RouteTable::default();
    broadcaster.delta(cluster(1, "a"), 1_000, &table);
    broadcaster.report(Report::Applied { worker: 0, generation: Generation(1), at_ns: 5_000 }, &table);
    assert_eq!(broadcaster.lag.count, 0);
    broadcaster.report(Report::Applied { worker: 1, generation: Generation(1), at_ns: 901_000 }, &table);
    assert_eq!((broadcaster.lag.count, broadcaster.lag.max_ns), (1, 900_000));
}

fn health(update: &Update) -> Vec<(ClusterId, u8)> {
    match &update.change {
        Change::Health(delta) => delta.drained.clone(),
        Change::Table(_) | Change::Snapshot(_) => Vec::new(),
    }
}

#[test]
fn an_operators_word_goes_out_alone_and_stays_in_every_later_table() {
    let (mail, rx, _fd) = mailbox(64);
    let mut broadcaster = Broadcaster::new(vec![mail]);
    let mut table = RouteTable::default();
    let mut worker = Worker::default();
    let mut change = |broadcaster: &mut Broadcaster, delta: TableDelta| {
        table.apply(&delta);
        broadcaster.delta(delta, 0, &table);
        table.clone()
    };
    let table_now = change(&mut broadcaster, cluster(1, "a"));
    broadcaster.order("a", Order::Drain { over: Duration::ZERO }, 0, &table_now).unwrap();
    let sent = updates(&rx);
    assert_eq!(sent.iter().map(|update| health(update).len()).sum::<usize>(), 1, "one cluster, once");
    assert!(sent.iter().all(|update| worker.apply(update)));
    let drained = |worker: &Worker| worker.table.clusters[&ClusterId(1)].drain_percent;
    assert_eq!((drained(&worker), worker.generation), (100, Generation(2)));
    // A change of the cluster itself, and of another, and a snapshot for a restarted worker.
    for delta in [cluster(1, "a"), cluster(2, "b")] {
        change(&mut broadcaster, delta);
        assert!(updates(&rx).iter().all(|update| worker.apply(update)));
        assert_eq!(drained(&worker), 100);
    }
    let table_now = change(&mut broadcaster, TableDelta::default());
    let mut restarted = Worker::default();
    drop(updates(&rx));
    broadcaster.report(Report::OutOfStep { worker: 0, generation: Generation(0) }, &table_now);
    assert!(updates(&rx).iter().all(|update| restarted.apply(update)));
    assert_eq!((drained(&restarted), restarted.generation), (100, broadcaster.generation()));
    // The number of the cluster changes hands: the word belongs to the name.
    let table_now = change(&mut broadcaster, cluster(1, "c"));
    assert!(updates(&rx).iter().all(|update| restarted.apply(update)));
    assert_eq!(drained(&restarted), 0);
    assert_eq!(broadcaster.order("nobody", Order::Promote, 0, &table_now).unwrap_err(), {
        Refused::NoSuchCluster(vec!["b".into(), "c".into()])
    });
}

#[test]
fn a_worker_with_a_full_inbox_learns_the_last_word_and_stays_in_step() {
    let (slow, slow_rx, _slow_fd) = mailbox(1);
    let (fast, fast_rx, _fast_fd) = mailbox(256);
    let mut broadcaster = Broadcaster::new(vec![slow, fast]);
    let mut table = RouteTable::default();
    let delta = cluster(1, "a");
    table.apply(&delta);
    broadcaster.delta(delta, 0, &table);
    broadcaster.order("a", Order::Drain { over: Duration::from_secs(1) }, 0, &table).unwrap();
    for step in 1..=50 {
        broadcaster.step(step * 10_000_000, &table);
        if step == 25 {
            let delta = cluster(2, "b");
            table.apply(&delta);
            broadcaster.delta(delta, 0, &table);
        }
    }
    assert!(broadcaster.is_behind());
    let mut workers = [Worker::default(), Worker::default()];
    for _ in 0..10 {
        for (worker, rx) in workers.iter_mut().zip([&slow_rx, &fast_rx]) {
            assert!(updates(rx).iter().all(|update| worker.apply(update)));
        }
        broadcaster.flush(&table);
    }
    assert!(!broadcaster.is_behind());
    for worker in &workers {
        assert_eq!(worker.table.clusters[&ClusterId(1)].drain_percent, 50);
        assert_eq!((worker.table.clusters.len(), worker.generation), (2, broadcaster.generation()));
    }
}

struct Running {
    root: PathBuf,
    view: SharedView,
    stop: Sender<()>,
    orders: Sender<Command>,
    threads: Vec<JoinHandle<RouteTable>>,
    controller: Option<JoinHandle<()>>,
}

fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap() * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap()
}

fn start(root: &Path, workers: u16) -> Running {
    let (stop, stopped) = bounded(1);
    let (report, reports) = bounded(1024);
    let view = SharedView::new();
    let done = Arc::new(AtomicBool::new(false));
    let mut mailboxes = Vec::new();
    let mut threads = Vec::new();
    for worker in 0..workers {
        let (mailbox, rx, _) = mailbox(4);
        mailboxes.push(mailbox);
        let (report, done) = (report.clone(), done.clone());
        threads.push(std::thread::spawn(move || {
            let mut state = Worker::default();
            while !done.load(Ordering::Relaxed) {
                let Ok(Mail::Update(update)) = rx.recv_timeout(Duration::from_millis(5)) else { continue };
                if state.apply(&update) {
                    let generation = state.generation;
                    report.try_send(Report::Applied { worker, generation, at_ns: now_ns() }).unwrap();
                } else {
                    report.try_send(Report::OutOfStep { worker, generation: state.generation }).unwrap();
                }
                let _ = report.try_send(Report::Spent(update));
            }
            state.table
        }));
    }
    let listen: SocketAddr = "[::]:8080".parse().unwrap();
    let settings = ControllerSettings {
        source: ManifestSource::Manifests(root.to_path_buf()),
        listen: vec![(listen, Protocol::Http)],
        series_max: 1000,
        defaults: Defaults::default(),
        state_dir: None,
        state_key: None,
    };
    let shared = view.clone();
    let (orders_in, orders) = bounded(16);
    let inputs = Inputs {
        reports,
        orders,
        defaults: crossbeam_channel::never(),
        lookers: crossbeam_channel::never(),
        canary: None,
        stop: stopped,
    };
    let controller = std::thread::spawn(move || {
        run(&settings, mailboxes, &inputs, &shared);
        done.store(true, Ordering::Relaxed);
    });
    Running { root: root.to_path_buf(), view, stop, orders: orders_in, threads, controller: Some(controller) }
}

impl Running {
    /// Waits until every worker runs what a fresh look at the directory compiles to.
    fn settle(&self, what: &str, holds: impl Fn(&controller::ControllerView) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !holds(&self.view.read()) {
            assert!(Instant::now() < deadline, "{what}: {:?}", self.view.read());
            std::thread::yield_now();
        }
    }

    /// What the controller answers to an order.
    fn order(&self, cluster: &str, order: Order) -> Result<Standing, Refused> {
        let (answer, answered) = bounded(1);
        let done = Box::new(move |result| answer.send(result).unwrap());
        self.orders.send(Command { cluster: cluster.into(), order, done }).unwrap();
        answered.recv_timeout(Duration::from_secs(10)).unwrap()
    }

    fn replace(&self, file: &str, text: &str) {
        let path = self.root.join(file);
        let swap = path.with_extension("swap");
        fs::write(&swap, text).unwrap();
        fs::rename(&swap, &path).unwrap();
    }

    fn stop(mut self) -> Vec<RouteTable> {
        self.stop.send(()).unwrap();
        self.controller.take().unwrap().join().unwrap();
        std::mem::take(&mut self.threads).into_iter().map(|thread| thread.join().unwrap()).collect()
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target)
        } else {
            fs::copy(entry.path(), target).map(drop).unwrap()
        }
    }
}

#[test]
fn edits_of_a_watched_directory_are_live_on_every_worker_within_milliseconds() {
    let root = std::env::temp_dir().join(format!("ringway-watch-{}", std::process::id()));
    let _ = fs::remove_dir_all(&root);
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/examples/quickstart"), &root);
    let running = start(&root, 3);
    let everywhere = |view: &controller::ControllerView, generation: u64| {
        view.applied.len() == 3 && view.applied.iter().all(|applied| applied.0 >= generation)
    };
    running.settle("the first table", |view| view.synced && everywhere(view, 1));
    assert_eq!(running.view.read().endpoints.values().sum::<usize>(), 4);
    let slice = fs::read_to_string(root.join("clusters/beta/web.yaml")).unwrap();
    for round in 0..20u16 {
        let port = 9300 + round;
        let before = running.view.read().generation.0;
        running.replace("clusters/beta/web.yaml", &slice.replace("9201", &port.to_string()));
        running.settle("an edit", |view| view.generation.0 > before && everywhere(view, before + 1));
    }
    // In place, as an editor does it; a new folder; a folder that goes.
    let before = running.view.read().generation.0;
    fs::write(root.join("clusters/beta/web.yaml"), &slice).unwrap();
    running.settle("a write in place", |view| view.generation.0 > before && everywhere(view, before + 1));
    copy(&root.join("clusters/alpha"), &root.join("clusters/gamma"));
    running.settle("a new cluster", |view| view.endpoints.get("gamma") == Some(&2));
    running.replace("fleet/web.yaml", "a: [");
    running.settle("a broken edit", |view| view.verdicts.iter().any(|v| v.object.is_none()));
    fs::remove_dir_all(root.join("clusters/alpha")).unwrap();
    running.settle("a cluster that goes", |view| !view.endpoints.contains_key("alpha"));
    fs::remove_file(root.join("fleet/web.yaml")).unwrap();
    running.settle("a file that goes", |view| {
        view.verdicts.iter().all(|v| v.object.is_some()) && view.routes == 1
    });
    let last = running.view.read().generation.0;
    running.settle("the last table", |view| everywhere(view, last));
    let lag = running.view.read().lag;
    println!(
        "event to last worker: {} updates, mean {} us, max {} us",
        lag.count,
        lag.sum_ns / lag.count / 1000,
        lag.max_ns / 1000
    );
    // The median, not the maximum: the machine of a test run has other things to do.
    let within: u64 = lag.buckets.iter().take(9).sum();
    assert!(within * 2 > lag.count, "half of the edits took longer than 25 ms: {lag:?}");
    let (table, _) =
        compile_dir(&root, &["[::]:8080".parse::<std::net::SocketAddr>().unwrap()], &Defaults::default());
    for worker in running.stop() {
        assert_eq!(dump::table(&worker), dump::table(&table));
    }
    fs::remove_dir_all(&root).unwrap();
}

#[test]
fn a_drain_over_a_time_reaches_every_worker_step_by_step_and_outlives_an_edit() {
    let root = std::env::temp_dir().join(format!("ringway-drain-{}", std::process::id()));
    let _ = fs::remove_dir_all(&root);
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/examples/quickstart"), &root);
    let running = start(&root, 2);
    running.settle("the first table", |view| view.synced);
    let over = Duration::from_millis(200);
    let begun = running.order("alpha", Order::Drain { over }).unwrap();
    assert!(begun.drain_percent < 100 && begun.drain_target == 100, "{begun:?}");
    let stands = |view: &controller::ControllerView| {
        let alpha = view.standings.iter().find(|standing| &*standing.cluster == "alpha").unwrap();
        (alpha.drain_percent, alpha.drain_origin)
    };
    let before = running.view.read().generation.0;
    running.settle("the end of the drain", |view| stands(view) == (100, Origin::Operator));
    assert!(running.view.read().generation.0 > before + 1, "more than one step");
    // The manifest says something about the very cluster: the word stands.
    let generation = running.view.read().generation.0;
    running.replace(
        "fleet/alpha.yaml",
        "apiVersion: ringway.dev/v1alpha1\nkind: MemberCluster\nmetadata: {name: alpha}\nspec: {region: eu}\n",
    );
    running.settle("the edit", |view| {
        view.generation.0 > generation && view.applied.iter().all(|applied| *applied == view.generation)
    });
    assert_eq!(stands(&running.view.read()), (100, Origin::Operator));
    assert!(running.order("nobody", Order::Promote).is_err());
    running.order("beta", Order::Promote).unwrap();
    running.settle("every worker", |view| view.applied.iter().all(|applied| *applied == view.generation));
    for table in running.stop() {
        let of = |name: &str| table.clusters.values().find(|spec| &*spec.name == name).unwrap();
        assert_eq!((of("alpha").drain_percent, of("alpha").promoted), (100, false));
        assert_eq!((of("beta").drain_percent, of("beta").promoted), (0, true));
        assert_eq!(&*of("alpha").region, "eu");
    }
    fs::remove_dir_all(&root).unwrap();
}
