use std::time::Duration;

use gateway::observe::histogram::Histogram;
use loadgen::{Failures, ValueWindow, WINDOW, Window};

use super::*;

const ALPHA: usize = 0;
const BETA: usize = 1;

/// A run that is written window by window, 200 requests in each.
struct Script {
    ledger: Ledger,
    latency: Histogram,
    failures: [u64; 2],
}

impl Script {
    fn new() -> Self {
        let ledger = Ledger::new(vec!["alpha".into(), "beta".into()], BETA);
        Self { ledger, latency: Histogram::default(), failures: [0; 2] }
    }

    /// `windows` of them, in which beta answers `beta` of 200 and fails `failures` times.
    fn play(&mut self, windows: usize, beta: u64, failures: u64, latency: Duration) {
        for _ in 0..windows {
            self.failures[BETA] += failures;
            for _ in 0..200 {
                self.latency.record(latency);
            }
            let value = |name: &str, ok| ValueWindow { value: name.into(), ok, ..ValueWindow::default() };
            let window = Window {
                start: self.ledger.now(),
                length: WINDOW,
                sent: 200,
                ok: 200,
                p99: latency,
                max: latency,
                values: vec![value("beta", beta), value("alpha", 200 - beta)],
                ..Window::default()
            };
            self.ledger.add(&window, self.reading());
        }
    }

    fn reading(&self) -> Reading {
        let mut latency = Snapshot::default();
        self.latency.read(&mut latency);
        let clusters = self.failures.map(|failures| ClusterReading { failures, latency: latency.clone() });
        Reading { latency, clusters: clusters.into(), retries: 3, moves: 4, ejections: 2 }
    }

    fn states(&self) -> [State; 2] {
        [ALPHA, BETA].map(|member| self.ledger.row(member).state)
    }
}

const FAST: Duration = Duration::from_millis(2);
const SLOW: Duration = Duration::from_millis(30);

#[test]
fn a_killed_cluster_is_seen_going_down_and_coming_back() {
    let mut script = Script::new();
    assert_eq!(script.states(), [State::Idle, State::Idle]);
    script.play(20, 100, 0, FAST);
    assert_eq!(script.states(), [State::Healthy, State::Healthy]);
    script.ledger.killed(script.ledger.now());
    script.play(1, 10, 12, SLOW);
    assert_eq!(script.states(), [State::Healthy, State::Suspect]);
    script.play(3, 0, 0, FAST);
    assert_eq!(script.states(), [State::Healthy, State::Down]);
    script.play(20, 0, 0, FAST);
    assert_eq!(script.states(), [State::Healthy, State::Down]);
    let back = script.ledger.now();
    script.ledger.brought_back(back);
    script.play(10, 0, 1, FAST);
    assert_eq!(script.states()[BETA], State::Down);
    script.ledger.reached_again(back + Duration::from_millis(1_010));
    script.ledger.reached_again(back + Duration::from_millis(1_020));
    script.play(11, 20, 0, FAST);
    assert_eq!(script.states()[BETA], State::Ramp);
    script.play(4, 100, 0, FAST);
    assert_eq!(script.states()[BETA], State::Healthy);

    let ledger = &script.ledger;
    assert_eq!(ledger.time_to_silence(), Some(WINDOW));
    assert_eq!(ledger.time_to_first(), Some(Duration::from_millis(1_010)));
    // Of three windows with 20, 100 and 100 answers of 200 each the share is still too small.
    assert_eq!(ledger.time_to_return(), Some(WINDOW * 22));
    let fault = ledger.fault().unwrap();
    assert_eq!((fault.from, fault.max), (Duration::from_secs(2), SLOW));
    assert_eq!(fault.to, back + WINDOW * 22);
    assert!(fault.latency[0] >= FAST && fault.latency[0] < FAST * 5 / 4, "{fault:?}");
    assert_eq!(fault.latency[2], SLOW, "never above what the client saw");
}

#[test]
fn a_standby_is_idle_and_not_down() {
    let mut script = Script::new();
    script.play(10, 0, 0, FAST);
    assert_eq!(script.states(), [State::Healthy, State::Idle]);
    script.ledger.killed(script.ledger.now());
    script.play(10, 0, 0, FAST);
    script.ledger.brought_back(script.ledger.now());
    script.play(10, 0, 0, FAST);
    assert_eq!(script.states(), [State::Healthy, State::Idle]);
    assert_eq!(script.ledger.time_to_return(), None);
}

#[test]
fn rates_shares_and_latencies_are_of_the_last_second() {
    let mut script = Script::new();
    script.play(20, 0, 0, SLOW);
    script.play(10, 50, 0, FAST);
    let beta = script.ledger.row(BETA);
    assert!((beta.share - 0.25).abs() < 1e-9 && (beta.per_s - 500.0).abs() < 1e-6, "{beta:?}");
    assert_eq!(
        beta.latency,
        [Some(FAST); 3],
        "no trace of the slow seconds before, and not above the maximum"
    );
    assert_eq!(script.ledger.latency_now(), [Some(FAST); 3]);
    assert_eq!(script.ledger.max_now(), FAST);
    assert!((script.ledger.per_s() - 2_000.0).abs() < 1e-6);
    let sums = script.ledger.sums();
    assert_eq!((sums.sent, sums.ok, sums.failed), (6_000, 6_000, 0));
    assert_eq!((sums.retries, sums.moves, sums.ejections), (3, 4, 2));
}

#[test]
fn failed_requests_are_summed() {
    let mut script = Script::new();
    let failed = Failures { timeout: 2, status: 1, ..Failures::default() };
    let window = Window { length: WINDOW, sent: 3, failed, ..Window::default() };
    let reading = script.reading();
    script.ledger.add(&window, reading);
    assert_eq!(script.ledger.sums().failed, 3);
    assert_eq!(script.ledger.row(ALPHA).latency, [None; 3]);
}

#[test]
fn columns_cover_the_whole_run_whether_they_are_more_or_fewer_than_windows() {
    let mut script = Script::new();
    script.play(2, 100, 0, FAST);
    script.play(3, 0, 0, SLOW);
    let second = Duration::from_secs(1);
    assert_eq!(script.ledger.share_columns(BETA, 5, second), [Some(0.5), Some(0.0), Some(0.0), None, None]);
    assert_eq!(script.ledger.p99_columns(5, second), [Some(2.0), Some(30.0), Some(30.0), None, None]);
    let wide = script.ledger.share_columns(BETA, 20, second);
    assert_eq!(&wide[..4], [Some(0.5); 4], "a window fills the columns up to the next one");
    assert!(wide[9..].iter().all(Option::is_none));
    assert_eq!(column_of(second, 10, second), 10);
    assert_eq!(column_of(Duration::ZERO, 10, Duration::ZERO), 0);
}
