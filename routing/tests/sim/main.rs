//! The whole of failover in one process and no time: several workers with one board, clusters, faults, messages that
//! overtake each other, clocks that are read late and workers that stand still, under one seeded virtual clock.
//!
//! ```text
//! world.rs    the seed's clusters, policy and faults, and what becomes of a connect, a request, a probe
//! node.rs     a worker: its clock, its timer, its hands (as the gateway's worker/detect.rs)
//! exchange.rs requests: attempts, hedges, retries, losers (as the gateway's exchange/)
//! watch.rs    what must hold at every step
//! ```
//!
//! `SIM_SEED=n` runs one seed and prints its log, `SIM_SEEDS=n` runs so many.
#![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]
#![allow(clippy::cast_possible_truncation, reason = "small numbers of a simulation")]

#[path = "../common/mod.rs"]
mod common;
mod exchange;
mod node;
mod scenarios;
mod watch;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use node::{Log, Sim};
use watch::Summary;
use world::Plan;

/// Runs a plan; a violation of any invariant is an error with the end of the log.
fn run(plan: &Plan, seed: u64) -> Result<Summary, String> {
    let once = |log: Option<Log>| {
        let result = catch_unwind(AssertUnwindSafe(|| Sim::new(plan.clone(), seed, log).run()));
        result.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Err(format!("panicked: {}", text.unwrap_or_default()))
        })
    };
    once(None).map_err(|_| {
        // The same once more, this time with a log.
        let log: Log = Arc::new(Mutex::new(Vec::new()));
        let error = once(Some(Arc::clone(&log))).expect_err("a seed decides everything");
        let log = log.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let lines: usize = std::env::var("SIM_LINES").ok().and_then(|n| n.parse().ok()).unwrap_or(60);
        let tail = log[log.len().saturating_sub(lines)..].join("\n");
        format!("seed {seed}: {error}\n{plan:#?}\n{tail}\nseed {seed}: {error}")
    })
}

fn var(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn invariants_hold_for_every_seed() {
    every_seed(256, Plan::random);
}

/// And while active checks are made, idle connections close as they are used, and endpoints leave and come back.
#[test]
fn invariants_hold_for_every_seed_of_a_restless_world() {
    every_seed(64, Plan::restless);
}

fn every_seed(usual: u64, plan: fn(u64) -> Plan) {
    let (first, count) = match var("SIM_SEED") {
        Some(seed) => (seed, 1),
        None => (0, var("SIM_SEEDS").unwrap_or(usual)),
    };
    let next = AtomicU64::new(first);
    let (failures, total) = (Mutex::new(Vec::new()), Mutex::new(Summary::default()));
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        return;
                    }
                    match run(&plan(seed), seed) {
                        Ok(summary) => total.lock().unwrap().add(&summary),
                        Err(failure) => failures.lock().unwrap().push((seed, failure)),
                    }
                }
            });
        }
    });
    let mut failures = failures.into_inner().unwrap();
    failures.sort();
    println!("{:#?}", total.into_inner().unwrap());
    if let Some((_, text)) = failures.first() {
        let seeds: Vec<u64> = failures.iter().map(|(seed, _)| *seed).collect();
        let last: Vec<&str> = failures.iter().filter_map(|(_, text)| text.lines().last()).collect();
        panic!("{text}\n{} failed: {seeds:?}\n{}", seeds.len(), last.join("\n"));
    }
}
