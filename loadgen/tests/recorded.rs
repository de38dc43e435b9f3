//! Requests told one by one, and the journal of what a backend has executed.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use loadgen::{
    Asks, Backend, BackendOptions, Begun, Behaviour, Bulk, Health, Journal, Latency, Load, Method, Outcome,
    Record, run_recorded,
};

const HEADER: &str = "x-load-number";

#[test]
fn every_request_is_told_once_and_stands_in_the_journal_of_its_backend() {
    let scratch = Scratch::new("told-once");
    let behaviour = Behaviour::steady(Latency::fixed(Duration::from_millis(1)));
    let backend = start("a", behaviour, Some(scratch.journal()));
    let asks = Asks { method: Method::Post, body: b"abc".to_vec(), ..asks() };
    let records = recorded(&load(backend.addr(), 500), &asks, &AtomicBool::new(false), |_| {});
    let numbers: Vec<u64> = (0..100).collect();
    assert_eq!(sorted(records.iter().map(|record| record.number)), numbers);
    assert!(records.iter().all(|record| record.outcome.is_good() && record.value.as_deref() == Some("a")));
    let executions = Journal::read(&scratch.path()).unwrap();
    assert_eq!(sorted(executions.iter().map(|execution| execution.number)), numbers);
    assert!(executions.iter().all(|execution| execution.drawn == Duration::from_millis(1)));
    assert_eq!(backend.journal_errors(), 0);
}

#[test]
fn the_health_path_has_a_status_of_its_own_and_no_journal() {
    let scratch = Scratch::new("health");
    let health = Some(Health { path: "/healthz".into(), status: 200 });
    let sick = Behaviour { status: 503, health, ..Behaviour::steady(Latency::default()) };
    let backend = start("a", sick, Some(scratch.journal()));
    let asks = Asks { paths: vec!["/".into(), "/healthz".into()], ..asks() };
    let records = recorded(&load(backend.addr(), 500), &asks, &AtomicBool::new(false), |_| {});
    for record in records {
        let expected = if record.number % 2 == 0 { 503 } else { 200 };
        assert!(
            matches!(record.outcome, Outcome::Answered { status, .. } if status == expected),
            "{record:?}"
        );
    }
    assert_eq!((backend.requests(), Journal::read(&scratch.path()).unwrap().len()), (50, 50));
}

#[test]
fn a_drained_backend_finishes_what_it_has_begun_and_refuses_the_rest() {
    let backend = start("a", Behaviour::steady(Latency::fixed(Duration::from_millis(50))), None);
    let stop = AtomicBool::new(false);
    let mut drained = false;
    let records = recorded(&load(backend.addr(), 500), &asks(), &stop, |record| {
        if !drained && record.number >= 10 {
            backend.drain().unwrap();
            drained = true;
        }
    });
    let good = records.iter().filter(|record| record.outcome.is_good()).count();
    assert!((10..100).contains(&good), "{good} were answered");
    // A request may be on its way to a connection that is just being closed; none that was begun is cut.
    assert!(records.iter().all(|record| match record.outcome {
        Outcome::Answered { .. } | Outcome::Connect | Outcome::Closed(Begun::No) => true,
        Outcome::Closed(Begun::Yes(_)) | Outcome::Timeout(_) | Outcome::Malformed | Outcome::Grpc(_) => false,
    }));
    let end = Instant::now() + Duration::from_secs(5);
    while backend.connections() > 0 {
        assert!(Instant::now() < end, "{} connections are left", backend.connections());
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

#[test]
fn a_large_answer_that_is_cut_has_begun_and_one_that_is_whole_has_its_bytes() {
    let bulk = Bulk { bytes: 100_000, pieces: 10, pause: Duration::from_millis(10) };
    let behaviour = Behaviour { body: Some(bulk), ..Behaviour::steady(Latency::default()) };
    let backend = start("a", behaviour, None);
    let mut killed = false;
    let records = recorded(&load(backend.addr(), 500), &asks(), &AtomicBool::new(false), |record| {
        if !killed && record.number >= 4 {
            backend.kill().unwrap();
            killed = true;
        }
    });
    let whole = records.iter().filter(|r| r.outcome == Outcome::Answered { status: 200, body: 100_000 });
    assert!(whole.count() >= 4);
    assert!(
        records.iter().any(|r| matches!(r.outcome, Outcome::Closed(Begun::Yes(bytes)) if bytes < 100_000))
    );
}

#[test]
fn a_request_is_sent_when_it_is_due_and_not_at_the_next_millisecond() {
    let backend = start("a", Behaviour::steady(Latency::default()), None);
    let records = recorded(&load(backend.addr(), 400), &asks(), &AtomicBool::new(false), |_| {});
    let mut late: Vec<Duration> = records.iter().filter_map(|record| record.late).collect();
    late.sort_unstable();
    // Of the earliest quarter, which a busy machine leaves alone: rounded up to milliseconds it were 250 µs and more.
    assert!(late[late.len() / 4] < Duration::from_micros(220), "{late:?}");
}

#[test]
fn what_is_unanswered_when_a_load_is_stopped_is_told_as_a_timeout() {
    let backend = start("a", Behaviour::steady(Latency::fixed(Duration::from_secs(60))), None);
    let stop = AtomicBool::new(false);
    let short = Load { timeout: Duration::from_millis(100), connections_max: 2, ..load(backend.addr(), 100) };
    let records = recorded(&short, &asks(), &stop, |_| stop.store(true, Ordering::Relaxed));
    assert!(records.len() > 2, "{} requests", records.len());
    assert!(records.iter().all(|record| record.outcome == Outcome::Timeout(Begun::No)));
    // Two had a connection, the others waited for one.
    assert_eq!(records.iter().filter(|record| record.late.is_some()).count(), 2);
}

/// A file of one test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ringway-loadgen-{name}-{}", std::process::id()));
        let scratch = Self(path);
        let _ = std::fs::remove_file(&scratch.0);
        scratch
    }

    fn path(&self) -> PathBuf {
        self.0.clone()
    }

    fn journal(&self) -> Journal {
        Journal::open(&self.0, HEADER).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn start(cluster: &str, behaviour: Behaviour, journal: Option<Journal>) -> Backend {
    let options = BackendOptions {
        cluster: cluster.to_owned(),
        endpoint: "one".to_owned(),
        latency: Latency::default(),
    };
    Backend::start_as(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), &options, behaviour, journal).unwrap()
}

fn asks() -> Asks {
    Asks { number_header: Some(HEADER.to_owned()), ..Asks::default() }
}

/// A fifth of a second.
fn load(target: SocketAddr, rate_per_s: u32) -> Load {
    Load {
        target,
        host: "shop.example".to_owned(),
        path: "/".to_owned(),
        rate_per_s,
        connections_max: 100,
        duration: Duration::from_millis(200),
        timeout: Duration::from_secs(10),
        headers: Vec::new(),
        count_header: Some("x-cluster".to_owned()),
    }
}

fn recorded(load: &Load, asks: &Asks, stop: &AtomicBool, mut on_record: impl FnMut(&Record)) -> Vec<Record> {
    let mut records = Vec::new();
    run_recorded(load, asks, Instant::now(), stop, |record| {
        on_record(&record);
        records.push(record);
    })
    .unwrap();
    records
}

fn sorted(numbers: impl Iterator<Item = u64>) -> Vec<u64> {
    let mut numbers: Vec<u64> = numbers.collect();
    numbers.sort_unstable();
    numbers
}
