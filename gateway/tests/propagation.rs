//! An edit of a manifest reaches every worker, and how long that takes.
#![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

mod support;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use support::backend::Backend;
use support::client::Client;
use support::fleet::{Fleet, ingress, service};
use support::{config, pass, until};

fn start(workers: u32, backend: &Backend, routes: usize) -> Fleet {
    let mut config = config();
    config.worker.count = workers;
    let others: Vec<String> =
        (0..routes).map(|n| ingress(&format!("other-{n}"), &format!("/other/{n}"))).collect();
    Fleet::start(
        config,
        &[
            ("fleet/web.yaml", &ingress("web", "/")),
            ("fleet/others.yaml", &others.join("---\n")),
            ("clusters/one/web.yaml", &service(&[backend.addr])),
        ],
    )
}

/// Rules, endpoints, and a deletion; each on every worker, and each timed from its event to the last worker.
#[test]
fn an_edited_manifest_is_in_force_on_every_worker() {
    let (old, new) = (Backend::named("old"), Backend::named("new"));
    let fleet = start(4, &old, 0);
    let timed = || fleet.view.read().lag.count;
    let mut seen = fleet.view.read().generation;
    let mut edit = |what: &str, change: &dyn Fn()| {
        let (before, generation) = (timed(), seen.0);
        change();
        until(what, || fleet.generations().iter().all(|worker| *worker > generation) && fleet.is_settled());
        until("it is timed", || timed() > before);
        seen = fleet.view.read().generation;
    };
    // New connections: the kernel spreads them over the workers.
    let all = |path: &str, expected: (u16, &str)| {
        for _ in 0..16 {
            let response = Client::connect(fleet.addr).get(path);
            assert_eq!((response.status, response.text().as_str()), expected, "{path}");
        }
    };
    all("/", (200, "old"));
    edit("endpoints", &|| fleet.write("clusters/one/web.yaml", &service(&[new.addr])));
    all("/", (200, "new"));
    edit("a rule", &|| fleet.write("fleet/web.yaml", &ingress("web", "/only")));
    all("/only", (200, "new"));
    assert_eq!(Client::connect(fleet.addr).get("/").reason(), "no_route");
    edit("an object that is gone", &|| fleet.write("fleet/web.yaml", "# nothing\n"));
    assert_eq!(Client::connect(fleet.addr).get("/only").reason(), "no_route");
    let lag = fleet.view.read().lag;
    assert_eq!(lag.buckets.iter().sum::<u64>(), lag.count);
    assert!(lag.max_ns > 0 && lag.sum_ns >= lag.max_ns);
}

/// Prints from a file's event to its application on the last worker, over 300 edits while light load flows:
/// `cargo test --release -p ringway --test propagation -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement of half a minute, for a quiet machine"]
fn figures() {
    const EDITS: usize = 300;
    const ROUTES: usize = 1_000;
    let (first, second) = (Backend::named("first"), Backend::named("second"));
    let fleet = start(2, &first, ROUTES);
    let (stop, served) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = Client::connect(fleet.addr);
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(client.get("/").status, 200);
                served.fetch_add(1, Ordering::Relaxed);
                pass(Duration::from_millis(1));
            }
        });
        for what in ["endpoints of a Service", "a rule"] {
            let mut took: Vec<Duration> = (0..EDITS)
                .map(|n| {
                    let before = fleet.view.read().lag;
                    match what {
                        "a rule" => fleet.write("fleet/one.yaml", &ingress("one", &format!("/one/{n}"))),
                        _ => {
                            let backend = if n % 2 == 0 { &second } else { &first };
                            fleet.write("clusters/one/web.yaml", &service(&[backend.addr]));
                        }
                    }
                    until("it is timed", || fleet.view.read().lag.count > before.count);
                    let after = fleet.view.read().lag;
                    assert_eq!(after.count, before.count + 1, "one update for each edit");
                    Duration::from_nanos(after.sum_ns - before.sum_ns)
                })
                .collect();
            took.sort_unstable();
            let at = |percent: usize| took[(took.len() * percent / 100).min(took.len() - 1)];
            println!(
                "{what}: {EDITS} edits, {ROUTES} routes, 2 workers: p50 {:?}, p99 {:?}, longest {:?}",
                at(50),
                at(99),
                at(100)
            );
        }
        stop.store(true, Ordering::Relaxed);
    });
    println!("{} requests meanwhile, none failed", served.load(Ordering::Relaxed));
}
