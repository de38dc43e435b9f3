//! From a file's event to its application on the last worker: 200 edits of each kind while light load flows.
//! `cargo bench -p ringway --bench propagation`, on a quiet machine; it takes most of a minute.
//!
//! The times are the controller's own, those of the histogram `ringway_propagation_seconds`.
#![allow(clippy::unwrap_used, reason = "a failing helper fails the measurement")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use support::backend::Backend;
use support::client::Client;
use support::fleet::{Fleet, ingress, service};
use support::{config, pass, until};

const EDITS: usize = 200;
const ROUTES: usize = 1_000;
const WORKERS: u32 = 2;

fn start(backend: &Backend) -> Fleet {
    let mut config = config();
    config.worker.count = WORKERS;
    let others: Vec<String> =
        (0..ROUTES).map(|n| ingress(&format!("other-{n}"), &format!("/other/{n}"))).collect();
    Fleet::start(
        config,
        &[
            ("fleet/web.yaml", &ingress("web", "/")),
            ("fleet/others.yaml", &others.join("---\n")),
            ("clusters/one/web.yaml", &service(&[backend.addr])),
        ],
    )
}

fn main() {
    let (first, second) = (Backend::named("first"), Backend::named("second"));
    let fleet = start(&first);
    // The first table is timed, too, and is not an edit.
    until("the start is timed", || fleet.view.read().lag.count > 0);
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
                    // The regular look at everything may meet an edit half way and make two updates of it.
                    Duration::from_nanos((after.sum_ns - before.sum_ns) / (after.count - before.count))
                })
                .collect();
            took.sort_unstable();
            let at = |percent: usize| took[(took.len() * percent / 100).min(took.len() - 1)];
            println!(
                "{what}: {EDITS} edits, {ROUTES} routes, {WORKERS} workers: p50 {:?}, p99 {:?}, longest {:?}",
                at(50),
                at(99),
                at(100)
            );
        }
        stop.store(true, Ordering::Relaxed);
    });
    println!("{} requests meanwhile, none failed", served.load(Ordering::Relaxed));
}
