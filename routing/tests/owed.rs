//! Connections of which only the bytes are known: what their answers prove, and what their silence does not.
#![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

mod common;

use std::time::Duration;

use common::*;
use rand::Rng;
use rand::rngs::SmallRng;
use routing::failover::Tried;
use routing::health::action::{Action, ProbeKind, ProbeResult, ProbeToken};
use routing::health::state::{Reason, State};
use routing::id::ClusterId;
use routing::model::Policy;
use routing::table::{Pick, Unanswered};
use routing::time::MonoTime;

const STEP: Duration = Duration::from_micros(250);
/// As the gateway gives a question up.
const GIVEN_UP: Duration = Duration::from_secs(1);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// What a connection's clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Nature {
    /// A question, an answer within a few milliseconds, and so on.
    Asks,
    /// Seconds until the answer comes: a job queue, a long poll, a report.
    Waits,
    /// Asked once and then told whenever there is news, which may be never.
    Listens,
}

struct Conn {
    nature: Nature,
    pick: Pick,
    asked: Option<MonoTime>,
    answer: MonoTime,
    next: MonoTime,
}

struct Net {
    now: MonoTime,
    worker: Worker,
    conns: Vec<Conn>,
    rng: SmallRng,
    probes: Vec<(MonoTime, ProbeToken, ProbeResult)>,
    /// Nobody is answered any more.
    hangs: bool,
    /// Its application does not answer probes.
    is_deaf: bool,
    slower: Duration,
    log: Vec<(MonoTime, State)>,
}

impl Net {
    fn new(seed: u64, natures: &[(Nature, usize)]) -> Self {
        let mut world = world(&["alpha", "beta"], &[(0, 1)], plan(&[(0, 0, None), (1, 1, None)]));
        add_endpoints(&mut world, 0, 0, 0, 2);
        add_endpoints(&mut world, 0, 1, 100, 2);
        let (now, worker) = (MonoTime(1_000_000_000_000), common::Worker::new(&world));
        let mut net = Self {
            now,
            worker,
            conns: Vec::new(),
            rng: rng(seed),
            probes: Vec::new(),
            hangs: false,
            is_deaf: false,
            slower: Duration::ZERO,
            log: Vec::new(),
        };
        for (nature, count) in natures {
            (0..*count).for_each(|_| net.connect(*nature));
        }
        net
    }

    fn connect(&mut self, nature: Nature) {
        let request = Request::get("h", "/");
        let rule = self.worker.table.route(&request.subject()).unwrap();
        let subject = request.subject();
        let pick = self.worker.table.pick(&rule, &subject, &Tried::new(), self.now, &mut self.rng).unwrap();
        self.worker.table.on_sent(&pick, self.now);
        let accepted = self.now + Duration::from_micros(100);
        self.worker.table.on_accepted(pick.endpoint, self.now, accepted, &Policy::default().outlier);
        let next = self.now + Duration::from_micros(self.rng.random_range(0..20_000));
        self.conns.push(Conn { nature, pick, asked: None, answer: self.now, next });
    }

    fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.now = self.now + STEP;
            self.step();
        }
    }

    fn step(&mut self) {
        let (now, table) = (self.now, &self.worker.table);
        for conn in &mut self.conns {
            let Some(asked) = conn.asked else {
                if conn.next <= now {
                    table.on_asked(conn.pick.endpoint, now);
                    let usual = match conn.nature {
                        Nature::Asks if self.rng.random_range(0..100) == 0 => self.rng.random_range(10..30),
                        Nature::Asks => self.rng.random_range(1..3),
                        Nature::Waits => self.rng.random_range(500..8_000),
                        Nature::Listens => 1_000_000,
                    };
                    (conn.asked, conn.answer) = (Some(now), now + ms(usual) + self.slower);
                }
                continue;
            };
            if conn.answer <= now && !self.hangs {
                table.on_replied(conn.pick.endpoint, asked, now);
                let pause = if conn.nature == Nature::Asks { 5..25 } else { 100..3_000 };
                (conn.asked, conn.next) = (None, now + ms(self.rng.random_range(pause)));
            } else if now.since(asked) >= GIVEN_UP {
                table.on_unanswered(conn.pick.endpoint, asked, Unanswered::GivenUp, now);
                (conn.asked, conn.next) = (None, now + ms(self.rng.random_range(1_000..9_000)));
            }
        }
        let due: Vec<_> = self.probes.extract_if(.., |(at, ..)| *at <= now).collect();
        for (_, token, result) in due {
            table.on_probe(token, result, now);
        }
        if table.next_tick().is_some_and(|due| due <= now) {
            table.tick(now, Duration::ZERO);
        }
        while let Some(action) = table.next_action() {
            match action {
                Action::Probe(probe) => {
                    let latency = Duration::from_micros(300);
                    let is_deaf = (self.is_deaf || self.hangs) && probe.kind != ProbeKind::Connect;
                    let answer = match is_deaf {
                        true => (now + probe.timeout, probe.token, ProbeResult::TimedOut),
                        false => (now + latency, probe.token, ProbeResult::Answered { latency }),
                    };
                    self.probes.push(answer);
                }
                Action::Event(change) => self.log.push((now, change.to)),
                Action::Wake(_) | Action::RingPeers => {}
            }
        }
    }
}

const SEEDS: u64 = 6;

#[test]
fn whatever_is_waited_for_and_however_long_there_is_neither_suspicion_nor_verdict() {
    let mixes: [&[(Nature, usize)]; 5] = [
        &[(Nature::Asks, 8)],
        &[(Nature::Asks, 4), (Nature::Waits, 12)],
        &[(Nature::Asks, 2), (Nature::Listens, 24)],
        &[(Nature::Waits, 16), (Nature::Listens, 16)],
        &[(Nature::Listens, 32)],
    ];
    for (mix, seed) in mixes.iter().flat_map(|mix| (0..SEEDS).map(move |seed| (mix, seed))) {
        let mut net = Net::new(seed, mix);
        net.run(Duration::from_secs(8));
        assert_eq!(net.log, [], "seed {seed}, {mix:?}");
        // All that asks falls still at once, and those that wait are all that is left.
        net.conns.retain(|conn| conn.nature != Nature::Asks || conn.asked.is_some());
        net.run(Duration::from_secs(4));
        assert_eq!(net.log, [], "seed {seed}, {mix:?}");
    }
}

#[test]
fn slow_answers_prove_nothing() {
    for seed in 0..SEEDS {
        let mut net = Net::new(seed, &[(Nature::Asks, 16)]);
        net.run(Duration::from_secs(3));
        net.slower = ms(700);
        net.run(Duration::from_secs(5));
        assert_eq!(net.log, [], "seed {seed}");
    }
}

#[test]
fn unanswered_probes_prove_nothing_while_connections_are_answered() {
    for seed in 0..SEEDS {
        let mut net = Net::new(seed, &[(Nature::Asks, 32)]);
        net.run(Duration::from_secs(3));
        net.is_deaf = true;
        net.run(Duration::from_secs(5));
        assert_eq!(net.log, [], "seed {seed}");
    }
}

#[test]
fn an_application_that_hangs_is_found_within_fifteen_milliseconds_of_its_last_answer_and_never_suspected() {
    let mut took = Vec::new();
    for seed in 0..4 * SEEDS {
        let mut net = Net::new(seed, &[(Nature::Asks, 12), (Nature::Waits, 2)]);
        net.run(Duration::from_secs(3));
        net.hangs = true;
        let began = net.now;
        net.run(Duration::from_secs(1));
        let (at, state) = *net.log.first().unwrap_or_else(|| panic!("seed {seed}: never found"));
        assert_eq!(state, State::Down(Reason::Hang), "seed {seed}");
        took.push(at.since(began));
    }
    took.sort_unstable();
    println!("{took:?}");
    assert!(took[took.len() / 2] <= ms(15), "{took:?}");
    assert!(took.iter().all(|took| *took <= ms(40)), "{took:?}");
}

/// Of a connection of QUIC nobody else knows: it goes where it was, whatever is thought of that endpoint.
#[test]
fn an_endpoint_that_answers_nothing_is_picked_again_for_what_only_it_knows() {
    let mut net = Net::new(1, &[(Nature::Asks, 12)]);
    net.run(Duration::from_secs(3));
    net.hangs = true;
    net.run(Duration::from_secs(1));
    assert_eq!(net.log.first().unwrap().1, State::Down(Reason::Hang));
    let (table, mut rng, request) = (&net.worker.table, rng(2), Request::get("h", "/"));
    let (known, subject) = (net.conns[0].pick, request.subject());
    let rule = table.route(&subject).unwrap();
    let other = table.pick(&rule, &subject, &Tried::new(), net.now, &mut rng).unwrap();
    assert_ne!(other.cluster, known.cluster, "everybody else goes elsewhere");
    let again = table.pick_at(known.endpoint, &rule, &subject, net.now, &mut rng).unwrap();
    assert_eq!((again.endpoint, again.addr), (known.endpoint, known.addr));
}

#[test]
fn endpoints_that_leave_take_with_them_what_they_owe() {
    let mut net = Net::new(1, &[(Nature::Listens, 12)]);
    net.run(ms(200));
    net.worker.edit(|world| world.endpoints.clear());
    for conn in &mut net.conns {
        if let Some(asked) = conn.asked.take() {
            net.worker.table.on_unanswered(conn.pick.endpoint, asked, Unanswered::Withdrawn, net.now);
        }
        net.worker.table.release(conn.pick.endpoint);
    }
    net.conns.clear();
    net.run(Duration::from_secs(2));
    assert_eq!(net.log, []);
    assert_eq!(net.worker.table.next_tick(), None, "nothing is waited for");
}

#[test]
fn what_is_asked_of_endpoints_that_have_left_raises_no_suspicion_either() {
    for (seed, others) in (0..SEEDS).flat_map(|seed| [(seed, 0), (seed, 2)]) {
        let mut net = Net::new(seed, &[(Nature::Asks, 12)]);
        net.run(Duration::from_secs(3));
        // Their connections stay, and fall silent one after the other.
        net.worker.edit(|world| {
            world.endpoints.retain(|_, spec| spec.cluster != ClusterId(0));
            add_endpoints(world, 0, 0, 50, others);
        });
        net.run(ms(20));
        net.conns.iter_mut().for_each(|conn| conn.nature = Nature::Listens);
        net.run(Duration::from_secs(4));
        assert_eq!(net.log, [], "seed {seed}, {others} others");
    }
}
