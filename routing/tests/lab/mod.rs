//! A node in a laboratory: workers on one board, clusters of endpoints that answer, hang, vanish or fail, and a
//! virtual clock. It does what the gateway does with the detector's answers, and nothing more.
#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use rand::rngs::SmallRng;
use routing::delta::{Change, RouteTable, Update, snapshot};
use routing::failover::Tried;
use routing::health::action::{
    Action, Advice, Origin, ProbeKind, ProbeResult, ProbeToken, Scope, Transition,
};
use routing::health::board::{Board, BoardLimits};
use routing::health::endpoint::Outcome;
use routing::health::state::State;
use routing::id::{ClusterId, EndpointId, Generation};
use routing::retry::{Body, Decision, Failure, FailureKind, Response, Sent};
use routing::table::{NoEndpoint, Pick, Table, TableSettings};
use routing::time::MonoTime;
use wire::head::Method;

use crate::common::{self, Request};

/// What is wrong with an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing comes back, not even a SYN-ACK.
    Drop,
    /// The kernel accepts, the application does not answer.
    Hang,
    /// Killed: connections are reset, connects refused.
    Refuse,
    /// Answers come so much later; probes are answered at once.
    Slow(Duration),
    /// Answers 503; probes are good.
    Errors,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrive,
    Answer(usize),
    Probe(usize, ProbeToken, u8),
    Tick(usize),
    Advise(usize, u32),
    Ring(usize),
    GiveUp(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Waiting,
    /// Nobody waits for it, its answer is still evidence.
    Detached,
    Done,
}

#[derive(Clone, Debug)]
struct Attempt {
    exchange: usize,
    worker: usize,
    pick: Pick,
    sent: MonoTime,
    phase: Phase,
    hedged: bool,
    /// Only the latest timer for advice counts.
    timer: u32,
    status: u16,
}

/// One request and how it ended.
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    pub(crate) arrived: MonoTime,
    pub(crate) worker: usize,
    pub(crate) attempts: u8,
    pub(crate) ended: Option<(MonoTime, u16)>,
    tried: Tried,
    request: usize,
    own: Vec<usize>,
}

impl Exchange {
    pub(crate) fn took(&self) -> Duration {
        self.ended.map_or(Duration::MAX, |(at, _)| at.since(self.arrived))
    }
}

pub(crate) struct Worker {
    pub(crate) table: Table,
    tick: Option<MonoTime>,
    ticked: MonoTime,
    /// Not running until then.
    stalled: MonoTime,
}

pub(crate) struct Lab {
    pub(crate) now: MonoTime,
    pub(crate) workers: Vec<Worker>,
    pub(crate) board: Arc<Board>,
    pub(crate) rng: SmallRng,
    pub(crate) faults: BTreeMap<EndpointId, Fault>,
    pub(crate) exchanges: Vec<Exchange>,
    /// Every change of a state, by who made it.
    pub(crate) log: Vec<Transition>,
    /// (when, worker, cluster) of every pick.
    pub(crate) picks: Vec<(MonoTime, usize, Pick)>,
    pub(crate) probes: u64,
    pub(crate) executions: u64,
    pub(crate) arrived: u64,
    /// Requests a second; 0 = none.
    pub(crate) rate: f64,
    /// Round trip to any endpoint.
    pub(crate) rtt: Duration,
    /// Median think time; the tail is ten times that.
    pub(crate) think: Duration,
    /// The share of answers that take a second.
    pub(crate) rare: f64,
    requests: Vec<Request>,
    attempts: Vec<Attempt>,
    /// Those in flight, and some that are over.
    active: Vec<usize>,
    events: BinaryHeap<Reverse<(MonoTime, u64, Event)>>,
    count: u64,
    ids: BTreeMap<std::net::SocketAddr, EndpointId>,
}

pub(crate) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(crate) const SECOND: Duration = Duration::from_secs(1);

impl Lab {
    pub(crate) fn new(world: &RouteTable, workers: u16, seed: u64) -> Self {
        let board = Arc::new(Board::new(BoardLimits { workers, ..BoardLimits::default() }));
        let workers = (0..workers).map(|worker| Self::worker(world, &board, worker, workers)).collect();
        Self {
            now: MonoTime(1_000_000_000_000),
            workers,
            board,
            rng: common::rng(seed),
            faults: BTreeMap::new(),
            exchanges: Vec::new(),
            log: Vec::new(),
            picks: Vec::new(),
            probes: 0,
            executions: 0,
            arrived: 0,
            rate: 2_000.0,
            rtt: Duration::from_micros(100),
            think: ms(2),
            rare: 0.0,
            requests: vec![Request::get("h", "/")],
            attempts: Vec::new(),
            active: Vec::new(),
            events: BinaryHeap::new(),
            count: 0,
            ids: world.endpoints.iter().map(|(id, spec)| (spec.addr, *id)).collect(),
        }
    }

    fn worker(world: &RouteTable, board: &Arc<Board>, worker: u16, workers: u16) -> Worker {
        let board = Arc::clone(board);
        let mut table = Table::new(TableSettings { workers, worker, board, ..TableSettings::default() });
        let change = Change::Snapshot(snapshot(world));
        let (generation, base_generation) = (Generation(1), Generation(0));
        let update = Update { generation, base_generation, observed_ns: 0, change };
        table.apply(&update, MonoTime(1_000_000_000)).unwrap();
        Worker { table, tick: None, ticked: MonoTime::ZERO, stalled: MonoTime::ZERO }
    }

    /// Requests alternate between these.
    pub(crate) fn ask(&mut self, requests: Vec<Request>) {
        self.requests = requests;
    }

    pub(crate) fn break_all(&mut self, ids: impl IntoIterator<Item = u32>, fault: Fault) {
        for id in ids {
            self.faults.insert(EndpointId(id), fault);
            if fault == Fault::Refuse {
                for at in 0..self.attempts.len() {
                    if self.attempts[at].phase != Phase::Done && self.attempts[at].pick.id.0 == id {
                        let after = self.rtt.mul_f64(self.rng.random());
                        self.schedule(self.now + after, Event::Answer(at));
                    }
                }
            }
        }
    }

    pub(crate) fn heal(&mut self) {
        self.faults.clear();
    }

    /// Runs for so long.
    pub(crate) fn run(&mut self, lasts: Duration) {
        let end = self.now + lasts;
        if self.rate > 0.0 && !self.events.iter().any(|Reverse((_, _, event))| *event == Event::Arrive) {
            self.arrive_later();
        }
        while let Some(Reverse((at, _, _))) = self.events.peek()
            && *at <= end
        {
            let Some(Reverse((at, _, event))) = self.events.pop() else { return };
            self.now = self.now.max(at);
            self.handle(event);
        }
        self.now = end;
    }

    /// One worker does not run for so long from now on.
    pub(crate) fn stall(&mut self, worker: usize, lasts: Duration) {
        self.workers[worker].stalled = self.now + lasts;
    }

    fn schedule(&mut self, at: MonoTime, event: Event) {
        self.count += 1;
        self.events.push(Reverse((at.max(self.now), self.count, event)));
    }

    fn arrive_later(&mut self) {
        if self.rate > 0.0 {
            let gap = -(1.0 - self.rng.random::<f64>()).ln() / self.rate;
            self.schedule(self.now + Duration::from_secs_f64(gap), Event::Arrive);
        }
    }

    /// What belongs to a worker that stands still waits until it runs again, behind a tick that knows.
    fn postpone(&mut self, worker: usize, event: Event) -> bool {
        let stalled = self.workers[worker].stalled;
        if self.now < stalled {
            self.schedule(stalled, event);
            return true;
        }
        if stalled > self.workers[worker].ticked && stalled > MonoTime::ZERO {
            let due = self.workers[worker].tick.unwrap_or(stalled);
            self.workers[worker].stalled = MonoTime::ZERO;
            self.workers[worker].ticked = self.now;
            self.workers[worker].tick = None;
            self.workers[worker].table.tick(self.now, self.now.since(due));
            self.drain(worker);
        }
        false
    }

    fn handle(&mut self, event: Event) {
        let worker = match event {
            Event::Arrive => match self.arrive() {
                Some(worker) => worker,
                None => return,
            },
            Event::GiveUp(at) if at > usize::MAX / 2 => {
                let nth = usize::MAX - at;
                let worker = self.exchanges[nth].worker;
                if self.postpone(worker, event) {
                    return;
                }
                self.start(nth);
                worker
            }
            Event::Answer(at) => {
                let worker = self.attempts[at].worker;
                if self.postpone(worker, event) {
                    return;
                }
                self.answer(at);
                worker
            }
            Event::Probe(worker, token, code) => {
                if self.postpone(worker, event) {
                    return;
                }
                self.answer_probe(worker, token, code);
                worker
            }
            Event::Tick(worker) => {
                if self.workers[worker].tick.is_none_or(|due| due > self.now) || self.postpone(worker, event)
                {
                    return;
                }
                self.workers[worker].tick = None;
                self.workers[worker].ticked = self.now;
                self.workers[worker].table.tick(self.now, Duration::ZERO);
                worker
            }
            Event::Advise(at, timer) => {
                let worker = self.attempts[at].worker;
                if self.attempts[at].timer != timer || self.postpone(worker, event) {
                    return;
                }
                self.advise(at);
                worker
            }
            Event::Ring(worker) => {
                if self.postpone(worker, event) {
                    return;
                }
                self.workers[worker].table.look(self.now);
                worker
            }
            Event::GiveUp(at) => {
                self.let_go(at);
                self.attempts[at].worker
            }
        };
        self.drain(worker);
    }

    /// A request comes; the worker that takes it, if it runs.
    fn arrive(&mut self) -> Option<usize> {
        self.arrive_later();
        self.arrived += 1;
        let (nth, worker) = (self.exchanges.len(), self.rng.random_range(0..self.workers.len()));
        self.exchanges.push(Exchange {
            arrived: self.now,
            worker,
            attempts: 0,
            ended: None,
            tried: Tried::new(),
            request: nth % self.requests.len(),
            own: Vec::new(),
        });
        if self.now < self.workers[worker].stalled {
            // Not accepted while nobody listens.
            let at = self.workers[worker].stalled;
            self.schedule(at, Event::GiveUp(usize::MAX - nth));
            return None;
        }
        self.start(nth);
        Some(worker)
    }

    fn answer_probe(&mut self, worker: usize, token: ProbeToken, code: u8) {
        let result = match code {
            0 => ProbeResult::Answered { latency: self.rtt },
            1 => ProbeResult::Refused,
            2 => ProbeResult::TimedOut,
            _ => ProbeResult::BadStatus(503),
        };
        self.workers[worker].table.on_probe(token, result, self.now);
    }

    fn drain(&mut self, worker: usize) {
        while let Some(action) = self.workers[worker].table.next_action() {
            match action {
                Action::RingPeers => {
                    for peer in (0..self.workers.len()).filter(|peer| *peer != worker) {
                        self.schedule(self.now + Duration::from_micros(50), Event::Ring(peer));
                    }
                }
                Action::Wake(scope) => self.wake(worker, scope),
                Action::Event(transition) => {
                    if transition.origin == Origin::Own {
                        self.log.push(transition);
                    }
                }
                Action::Probe(probe) => {
                    self.probes += 1;
                    let fault = self.faults.get(&self.ids[&probe.addr]).copied();
                    let is_app = probe.kind != ProbeKind::Connect;
                    let (after, code) = match fault {
                        Some(Fault::Drop) => (probe.timeout, 2),
                        Some(Fault::Hang) if is_app => (probe.timeout, 2),
                        Some(Fault::Refuse) => (self.rtt, 1),
                        Some(Fault::Hang | Fault::Slow(_) | Fault::Errors) | None => (self.rtt * 2, 0),
                    };
                    self.schedule(self.now + after, Event::Probe(worker, probe.token, code));
                }
            }
        }
        let next = self.workers[worker].table.next_tick();
        if let Some(next) = next
            && self.workers[worker].tick.is_none_or(|due| next < due)
        {
            let next = next.max(self.now + Duration::from_micros(50));
            self.workers[worker].tick = Some(next);
            self.schedule(next, Event::Tick(worker));
        }
    }

    fn wake(&mut self, worker: usize, scope: Scope) {
        self.active.retain(|at| self.attempts[*at].phase != Phase::Done);
        for at in self.active.clone() {
            let attempt = &self.attempts[at];
            let is_meant = match scope {
                Scope::All => true,
                Scope::Cluster(cluster) => attempt.pick.cluster == cluster,
                Scope::Backend(backend, cluster) => {
                    (attempt.pick.backend, attempt.pick.cluster) == (backend, cluster)
                }
                Scope::Endpoint(key) => attempt.pick.endpoint == key,
            };
            if is_meant && attempt.worker == worker && attempt.phase == Phase::Waiting {
                self.advise(at);
            }
        }
    }

    // ------------------------------------------------------------ attempts

    fn start(&mut self, nth: usize) {
        let (worker, tried, request) =
            (self.exchanges[nth].worker, self.exchanges[nth].tried, self.exchanges[nth].request);
        let table = &self.workers[worker].table;
        let subject = self.requests[request].subject();
        let rule = table.route(&subject).unwrap();
        match table.pick(&rule, &subject, &tried, self.now, &mut self.rng) {
            Err(none) => {
                if !self.is_waited_for(nth) {
                    self.end(nth, none.status());
                }
            }
            Ok(pick) => {
                if self.exchanges[nth].attempts == 0 {
                    table.on_request(pick.backend, &rule.policy().retry, self.now);
                }
                self.exchanges[nth].attempts += 1;
                self.picks.push((self.now, worker, pick));
                table.on_sent(&pick, self.now);
                let at = self.attempts.len();
                self.exchanges[nth].own.push(at);
                self.active.push(at);
                let phase = Phase::Waiting;
                let (sent, hedged) = (self.now, false);
                self.attempts.push(Attempt {
                    exchange: nth,
                    worker,
                    pick,
                    sent,
                    phase,
                    hedged,
                    timer: 0,
                    status: 200,
                });
                self.send(at);
                if pick.trial {
                    self.attempts[at].hedged = true;
                    self.exchanges[nth].tried.note(&pick);
                    self.start(nth);
                }
                if self.attempts[at].phase == Phase::Waiting {
                    self.advise(at);
                }
            }
        }
    }

    fn send(&mut self, at: usize) {
        let (tail, share): (bool, f64) = (self.rng.random_bool(0.01), self.rng.random());
        let think =
            if tail { self.think.mul_f64(10.0 + 10.0 * share) } else { self.think.mul_f64(0.5 + share) };
        let is_rare = self.rare > 0.0 && self.rng.random_bool(self.rare);
        let think = if is_rare { SECOND } else { think };
        let id = self.attempts[at].pick.id;
        let after = match self.faults.get(&id) {
            Some(Fault::Drop | Fault::Hang) => return,
            Some(Fault::Refuse) => self.rtt,
            Some(Fault::Slow(longer)) => think + *longer,
            Some(Fault::Errors) => self.rtt,
            None => think,
        };
        self.executions += u64::from(self.faults.get(&id) != Some(&Fault::Refuse));
        self.attempts[at].status = if self.faults.get(&id) == Some(&Fault::Errors) { 503 } else { 200 };
        self.schedule(self.now + after, Event::Answer(at));
    }

    fn answer(&mut self, at: usize) {
        let Attempt { exchange: nth, worker, pick, sent, phase, status, .. } = self.attempts[at].clone();
        if phase == Phase::Done {
            return;
        }
        let fault = self.faults.get(&pick.id).copied();
        if matches!(fault, Some(Fault::Drop | Fault::Hang)) {
            return;
        }
        let table = &self.workers[worker].table;
        let subject = self.requests[self.exchanges[nth].request].subject();
        let rule = table.route(&subject).unwrap();
        let policy = rule.policy().clone();
        let outcome = match fault {
            Some(Fault::Refuse) if sent == self.now || self.now.since(sent) == self.rtt => Outcome::Refused,
            Some(Fault::Refuse) => Outcome::Closed,
            _ => {
                table.on_bytes(pick.endpoint, self.now);
                Outcome::of_status(status, &policy.retry)
            }
        };
        let took = self.now.since(sent);
        table.on_outcome(pick.endpoint, outcome, Some(took), self.now, &policy.outlier);
        table.release(pick.endpoint);
        self.attempts[at].phase = Phase::Done;
        if self.exchanges[nth].ended.is_some() {
            return;
        }
        let kind = match outcome {
            Outcome::Success | Outcome::Abandoned => return self.end(nth, status),
            Outcome::Refused | Outcome::ConnectFailed => FailureKind::Connect,
            Outcome::Closed => FailureKind::Closed,
            Outcome::Timeout => FailureKind::Timeout,
            Outcome::ServerError(status) | Outcome::Unlisted(status) => FailureKind::Status(status),
        };
        let sent = if kind == FailureKind::Connect { Sent::Nothing } else { Sent::Head };
        let failure = Failure { kind, sent, response: Response::NotBegun, body: Body::Replayable };
        let attempts = self.exchanges[nth].attempts;
        let method = subject.http().unwrap().head.method;
        let decision = table.retry(pick.backend, attempts, &policy.retry, &failure, method, self.now);
        if self.is_waited_for(nth) {
            // The other of a pair goes on.
            return;
        }
        self.exchanges[nth].tried.note(&pick);
        match decision {
            Decision::Again { .. } => self.start(nth),
            Decision::GiveUp { .. } if !self.is_waited_for(nth) => self.end(nth, 502),
            Decision::GiveUp { .. } => {}
        }
    }

    fn is_waited_for(&self, nth: usize) -> bool {
        self.exchanges[nth].own.iter().any(|at| self.attempts[*at].phase == Phase::Waiting)
    }

    fn advise(&mut self, at: usize) {
        let Attempt { exchange: nth, worker, pick, sent, phase, hedged, .. } = self.attempts[at].clone();
        if phase != Phase::Waiting || self.exchanges[nth].ended.is_some() {
            return;
        }
        let table = &self.workers[worker].table;
        let subject = self.requests[self.exchanges[nth].request].subject();
        let may_repeat = subject.is_idempotent();
        let rule = table.route(&subject).unwrap();
        let policy = rule.policy();
        let mut others = self.exchanges[nth].tried;
        if hedged {
            others.note(&pick);
        }
        match table.advise(&pick, sent, self.now, policy, &others) {
            Advice::Stay { again } => self.ask_again(at, again),
            Advice::Hedge { again, .. } => {
                if may_repeat && !hedged && table.may_hedge(pick.backend, policy, self.now) {
                    table.on_hedge(&pick, self.now);
                    self.attempts[at].hedged = true;
                    self.exchanges[nth].tried.note(&pick);
                    self.start(nth);
                } else if may_repeat && !hedged {
                    self.ask_again(at, Some(again));
                }
            }
            Advice::Leave { .. } => {
                if may_repeat && !hedged {
                    self.attempts[at].hedged = true;
                    self.attempts[at].phase = Phase::Detached;
                    self.schedule(self.now + SECOND, Event::GiveUp(at));
                    self.exchanges[nth].tried.note(&pick);
                    self.start(nth);
                }
            }
        }
    }

    fn ask_again(&mut self, at: usize, again: Option<MonoTime>) {
        let Some(again) = again else { return };
        self.attempts[at].timer += 1;
        let timer = self.attempts[at].timer;
        self.schedule(again, Event::Advise(at, timer));
    }

    fn end(&mut self, nth: usize, status: u16) {
        self.exchanges[nth].ended = Some((self.now, status));
        for at in self.exchanges[nth].own.clone() {
            let attempt = &self.attempts[at];
            if attempt.phase != Phase::Waiting {
                continue;
            }
            if self.workers[attempt.worker].table.listens_on(&attempt.pick) {
                self.attempts[at].phase = Phase::Detached;
                self.schedule(self.now + SECOND, Event::GiveUp(at));
            } else {
                self.let_go(at);
            }
        }
    }

    fn let_go(&mut self, at: usize) {
        let Attempt { exchange: nth, worker, pick, sent, phase, .. } = self.attempts[at].clone();
        if phase == Phase::Done {
            return;
        }
        let table = &self.workers[worker].table;
        let rule = table.route(&self.requests[self.exchanges[nth].request].subject()).unwrap();
        let age = self.now.since(sent);
        table.on_outcome(pick.endpoint, Outcome::Abandoned, Some(age), self.now, &rule.policy().outlier);
        table.release(pick.endpoint);
        self.attempts[at].phase = Phase::Done;
    }

    // ------------------------------------------------------------ what came of it

    /// Exchanges that arrived since then, were to end by now, and did not end well or took longer than `longest`.
    pub(crate) fn affected(&self, since: MonoTime, longest: Duration) -> Vec<&Exchange> {
        let arrived = self.exchanges.iter().filter(|exchange| exchange.arrived >= since);
        let settled = arrived.filter(|exchange| exchange.arrived + longest < self.now);
        settled
            .filter(|exchange| exchange.took() > longest || exchange.ended.is_none_or(|end| end.1 >= 400))
            .collect()
    }

    pub(crate) fn failed(&self, since: MonoTime) -> usize {
        let arrived = self.exchanges.iter().filter(|exchange| exchange.arrived >= since);
        arrived.filter(|exchange| exchange.ended.is_some_and(|end| end.1 >= 400)).count()
    }

    pub(crate) fn slowest(&self, since: MonoTime) -> Duration {
        let arrived = self.exchanges.iter().filter(|exchange| exchange.arrived >= since);
        arrived.filter(|exchange| exchange.ended.is_some()).map(Exchange::took).max().unwrap_or_default()
    }

    /// What a test that fails wants to be read: the first changes of states since then.
    pub(crate) fn story(&self, since: MonoTime) {
        let (failed, slowest) = (self.failed(since), self.slowest(since));
        println!(
            "  {failed} failed, slowest {slowest:?}, {} executions, {} probes",
            self.executions, self.probes
        );
        for change in self.log.iter().filter(|change| change.at >= since).take(12) {
            let (scope, from, to) = (change.scope, change.from, change.to);
            println!("  {:?} {scope:?} {from} -> {to}: {}", change.at.since(since), change.evidence);
        }
    }

    /// Changes into a down state since then.
    pub(crate) fn downs(&self, since: MonoTime) -> Vec<&Transition> {
        let down = |to| matches!(to, State::Down(_));
        self.log.iter().filter(|change| change.at >= since && down(change.to)).collect()
    }

    /// The first change of a cluster into such a state since then.
    pub(crate) fn first(
        &self,
        scope: Scope,
        to: impl Fn(State) -> bool,
        since: MonoTime,
    ) -> Option<MonoTime> {
        let changes = self.log.iter().filter(|change| change.at >= since && change.scope == scope);
        changes.filter(|change| to(change.to)).map(|change| change.at).min()
    }

    /// Forgets what is over: for runs of minutes.
    pub(crate) fn tidy(&mut self) {
        self.picks.clear();
        if self.attempts.iter().all(|attempt| attempt.phase == Phase::Done)
            && self.exchanges.iter().all(|exchange| exchange.ended.is_some())
        {
            self.attempts.clear();
            self.active.clear();
            self.exchanges.clear();
            self.events.retain(|Reverse((_, _, event))| {
                !matches!(event, Event::Answer(_) | Event::Advise(..) | Event::GiveUp(_))
            });
        }
    }

    /// A worker dies, with all that it knew, and another takes its place.
    pub(crate) fn restart(&mut self, world: &RouteTable, worker: usize) {
        for at in 0..self.attempts.len() {
            if self.attempts[at].worker == worker && self.attempts[at].phase != Phase::Done {
                self.attempts[at].phase = Phase::Done;
                let nth = self.attempts[at].exchange;
                self.exchanges[nth].ended.get_or_insert((self.now, 200));
            }
        }
        self.events.retain(|Reverse((_, _, event))| match event {
            Event::Probe(of, ..) | Event::Tick(of) | Event::Ring(of) => *of != worker,
            Event::Arrive | Event::Answer(_) | Event::Advise(..) | Event::GiveUp(_) => true,
        });
        let workers = u16::try_from(self.workers.len()).unwrap();
        self.workers[worker] = Self::worker(world, &self.board, u16::try_from(worker).unwrap(), workers);
        self.drain(worker);
    }

    /// Share of the picks in a span that went to a cluster.
    pub(crate) fn share_until(&self, cluster: u16, since: MonoTime, until: MonoTime) -> f64 {
        let picks = self.picks.iter().filter(|(at, _, _)| *at >= since && *at < until);
        let (here, all) = picks.fold((0u32, 0u32), |(here, all), (_, _, pick)| {
            (here + u32::from(pick.cluster == ClusterId(cluster)), all + 1)
        });
        f64::from(here) / f64::from(all.max(1))
    }

    /// Share of the picks since then that went to a cluster.
    pub(crate) fn share(&self, cluster: u16, since: MonoTime) -> f64 {
        let picks = self.picks.iter().filter(|(at, _, _)| *at >= since);
        let (here, all) = picks.fold((0u32, 0u32), |(here, all), (_, _, pick)| {
            (here + u32::from(pick.cluster == ClusterId(cluster)), all + 1)
        });
        f64::from(here) / f64::from(all.max(1))
    }

    /// One request of a worker, outside the load.
    pub(crate) fn pick(&mut self, worker: usize, method: Method) -> Result<Pick, NoEndpoint> {
        let request = Request::get("h", "/").method(method);
        let table = &self.workers[worker].table;
        let rule = table.route(&request.subject()).unwrap();
        table.pick(&rule, &request.subject(), &Tried::new(), self.now, &mut self.rng)
    }
}
