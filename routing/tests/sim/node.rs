//! The virtual clock, and a worker on it: its reads of the time, its timer and what it does for the detector. As
//! `gateway/src/worker/detect.rs` and `upstream/probe.rs` do it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use routing::delta::{Change, RouteTable, Update, diff};
use routing::health::action::{Action, Probe, ProbeKind, ProbeResult, ProbeToken, Scope};
use routing::health::board::{Board, BoardLimits};
use routing::id::Generation;
use routing::table::{EndpointKey, Table, TableSettings};
use routing::time::MonoTime;

use crate::common;
use crate::exchange::{Attempt, Exchange};
use crate::watch::{Failed, Summary, Watch};
use crate::world::{MS, Plan, Reply, Time, US, Where};

pub(crate) type Log = Arc<Mutex<Vec<String>>>;

/// A worker's timer that is later than this tells of a standstill.
const LAG: Duration = Duration::from_millis(1);

/// Where the workers' clocks begin.
const ORIGIN: Time = 10_000 * MS;

/// Between two looks at whether everything is well again.
const LOOK: Time = 20 * MS;

#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// The next request comes, to whichever worker.
    Arrive,
    Begin {
        backend: u32,
        post: bool,
    },
    /// The detector's timer, as it was armed.
    Timer {
        armed: MonoTime,
    },
    /// A peer rang.
    Bell,
    Probed {
        token: ProbeToken,
        endpoint: u32,
        app: bool,
        sent: Time,
        asked: MonoTime,
        timeout: Duration,
        reply: Reply,
    },
    Attempt {
        attempt: usize,
        reply: Reply,
    },
    /// An exchange's deadline, or `None`: it was woken.
    Ask {
        exchange: usize,
        number: Option<u64>,
    },
    /// A loser has been listened to for long enough.
    Listened {
        attempt: usize,
    },
    Stall,
    /// The controller sends a worker another table.
    Update,
    /// Is everything well again?
    Look,
}

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) table: Table,
    world: RouteTable,
    pub(crate) rng: SmallRng,
    /// How far its reads of the clock are behind.
    behind: Time,
    last: MonoTime,
    armed: MonoTime,
    stalled_until: Time,
    /// Attempts that have not ended.
    pub(crate) active: Vec<usize>,
}

#[derive(Debug)]
pub(crate) struct Sim {
    pub(crate) plan: Plan,
    pub(crate) now: Time,
    pub(crate) rng: SmallRng,
    pub(crate) board: Arc<Board>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) exchanges: Vec<Exchange>,
    pub(crate) attempts: Vec<Attempt>,
    pub(crate) watch: Watch,
    queue: BTreeMap<(Time, u64), (u16, Event)>,
    sequence: u64,
    arriving: bool,
    log: Option<Log>,
}

impl Sim {
    pub(crate) fn new(plan: Plan, seed: u64, log: Option<Log>) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed ^ 0x5DEE_CE66);
        let board = Arc::new(Board::new(BoardLimits { workers: plan.workers, ..BoardLimits::default() }));
        let world = plan.table(0);
        let nodes = (0..plan.workers).map(|worker| {
            let settings = TableSettings {
                workers: plan.workers,
                worker,
                board: Arc::clone(&board),
                ..TableSettings::default()
            };
            let mut own = common::Worker { table: Table::new(settings), world: Default::default() };
            own.move_to(&world, MonoTime(ORIGIN));
            Node {
                table: own.table,
                world: own.world,
                rng: SmallRng::seed_from_u64(rng.random()),
                behind: if worker == 0 { 0 } else { rng.random_range(0..200 * US) },
                last: MonoTime(ORIGIN),
                armed: MonoTime(u64::MAX),
                stalled_until: 0,
                active: Vec::new(),
            }
        });
        let nodes = nodes.collect();
        let watch = Watch::new(&plan);
        Self {
            plan,
            now: MS,
            rng,
            board,
            nodes,
            exchanges: Vec::new(),
            attempts: Vec::new(),
            watch,
            queue: BTreeMap::new(),
            sequence: 0,
            arriving: true,
            log,
        }
    }

    pub(crate) fn note(&self, line: impl FnOnce() -> String) {
        if let Some(log) = &self.log {
            let line = format!("{:>12.3} ms  {}", self.now as f64 / MS as f64, line());
            log.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(line);
        }
    }

    pub(crate) fn push(&mut self, at: Time, worker: usize, event: Event) {
        self.sequence += 1;
        // Things of one moment come in any order.
        let order = self.sequence | u64::from(self.rng.random::<u16>()) << 48;
        self.queue.insert((at.max(self.now), order), (worker as u16, event));
    }

    /// A worker looks at the clock.
    pub(crate) fn read(&mut self, worker: usize) -> MonoTime {
        let late = self.rng.random_range(0..20 * US);
        let node = &mut self.nodes[worker];
        node.last = node.last.max(MonoTime(ORIGIN + self.now - node.behind - late));
        node.last
    }

    /// When a worker's clock will show that time.
    pub(crate) fn when(&self, worker: usize, at: MonoTime) -> Time {
        (at.0 + self.nodes[worker].behind).saturating_sub(ORIGIN)
    }

    // ------------------------------------------------------------ the loop

    pub(crate) fn run(mut self) -> Result<Summary, String> {
        self.push(MS, 0, Event::Arrive);
        self.push(self.plan.until, 0, Event::Look);
        if self.plan.stall_gap > 0 {
            for worker in 0..self.nodes.len() {
                let at = self.rng.random_range(0..self.plan.stall_gap * 2);
                self.push(at, worker, Event::Stall);
            }
        }
        for (_, from, to) in self.plan.absences.clone() {
            for (worker, at) in (0..self.nodes.len()).flat_map(|worker| [(worker, from), (worker, to)]) {
                let late = self.rng.random_range(0..2 * MS);
                self.push(at + late, worker, Event::Update);
            }
        }
        while let Some(((at, _), (worker, event))) = self.queue.pop_first() {
            self.now = at;
            self.step(usize::from(worker), event).map_err(|Failed(text)| text)?;
            if !self.arriving && self.exchanges.iter().rev().take(512).all(|exchange| exchange.done) {
                let ended = self.exchanges.iter().all(|exchange| exchange.done);
                if ended && self.nodes.iter().all(|node| node.active.is_empty()) {
                    break;
                }
            }
        }
        for node in &self.nodes {
            self.watch.settled(&self.plan, &node.table).map_err(|Failed(text)| text)?;
        }
        self.watch.summary.requests = self.exchanges.len() as u64;
        self.watch.conserved().map_err(|Failed(text)| text)?;
        Ok(self.watch.summary)
    }

    fn step(&mut self, worker: usize, event: Event) -> Result<(), Failed> {
        let is_own = match event {
            Event::Arrive | Event::Look | Event::Stall => true,
            Event::Begin { .. }
            | Event::Timer { .. }
            | Event::Bell
            | Event::Probed { .. }
            | Event::Attempt { .. }
            | Event::Ask { .. }
            | Event::Update
            | Event::Listened { .. } => false,
        };
        let resumes = self.nodes[worker].stalled_until;
        if !is_own && self.now < resumes {
            // What came meanwhile is seen in any order; at worst the timers first.
            let is_timer = matches!(event, Event::Timer { .. } | Event::Probed { reply: Reply::Lost, .. });
            let first = self.plan.stall_at_probes && is_timer;
            let after = if first { 0 } else { self.rng.random_range(US..100 * US) };
            self.push(resumes + after, worker, event);
            return Ok(());
        }
        match event {
            Event::Arrive => self.arrive(),
            Event::Begin { backend, post } => return self.begin(worker, backend, post),
            Event::Timer { armed } => {
                if self.nodes[worker].armed == armed {
                    let now = self.read(worker);
                    self.tick(worker, now);
                    return self.heed(worker);
                }
            }
            Event::Bell => {
                let now = self.read(worker);
                self.nodes[worker].table.look(now);
                return self.heed(worker);
            }
            Event::Probed { .. } => return self.probed(worker, event),
            Event::Attempt { attempt, reply } => return self.answer(attempt, reply),
            Event::Ask { exchange, number } => return self.ask(exchange, number),
            Event::Listened { attempt } => return self.listened(attempt),
            Event::Stall => self.stall(worker),
            Event::Update => {
                self.update(worker);
                return self.heed(worker);
            }
            Event::Look => return self.look(),
        }
        Ok(())
    }

    fn arrive(&mut self) {
        if !self.arriving {
            return;
        }
        let worker = self.rng.random_range(0..self.nodes.len());
        let backend = self.rng.random_range(0..self.plan.backends);
        let post = self.rng.random_range(0..100) < self.plan.posts;
        self.push(self.now, worker, Event::Begin { backend, post });
        // Exponential gaps, roughly: the sum of few uniform ones would be too regular.
        let uniform: f64 = self.rng.random_range(0.001..1.0);
        let gap = (self.plan.gap as f64 * -uniform.ln()) as Time;
        self.push(self.now + gap, 0, Event::Arrive);
    }

    fn stall(&mut self, worker: usize) {
        if self.plan.stall_gap == 0 || !self.arriving {
            return;
        }
        let lasts = self.rng.random_range(5 * MS..30 * MS);
        self.stand_still(worker, lasts);
        let next = self.now + lasts + self.rng.random_range(0..self.plan.stall_gap * 2);
        self.push(next, worker, Event::Stall);
    }

    fn stand_still(&mut self, worker: usize, lasts: Time) {
        self.note(|| format!("w{worker} stands still for {:.1} ms", lasts as f64 / MS as f64));
        let node = &mut self.nodes[worker];
        node.stalled_until = node.stalled_until.max(self.now + lasts);
        self.watch.stalled(worker, self.now, self.now + lasts);
    }

    /// Endpoints leave and come back, whatever is wrong there meanwhile.
    fn update(&mut self, worker: usize) {
        let (now, world) = (self.read(worker), self.plan.table(self.now));
        let node = &mut self.nodes[worker];
        let delta = diff(&node.world, &world);
        node.world = world;
        let base_generation = node.table.generation();
        let generation = Generation(base_generation.0 + 1);
        let update = Update { generation, base_generation, observed_ns: 0, change: Change::Table(delta) };
        node.table.apply(&update, now).expect("of the same table");
        self.note(|| format!("w{worker} has another table"));
    }

    /// After the last fault everything comes back, and in time.
    fn look(&mut self) -> Result<(), Failed> {
        let mut ill = None;
        for worker in 0..self.nodes.len() {
            let now = self.read(worker);
            self.nodes[worker].table.look(now);
            self.heed(worker)?;
            ill = ill.or_else(|| Watch::ill(&self.plan, &self.nodes[worker].table));
        }
        match ill {
            None => {
                let took = self.now.saturating_sub(self.plan.healed());
                self.watch.summary.longest_return_ms = self.watch.summary.longest_return_ms.max(took / MS);
                self.arriving = false;
            }
            Some(ill) if self.now > self.plan.healed().max(self.plan.until) + self.plan.return_bound => {
                return Err(Failed(format!("does not come back: {ill}")));
            }
            Some(_) => self.push(self.now + LOOK, 0, Event::Look),
        }
        Ok(())
    }

    // ------------------------------------------------------------ the detector's hands

    fn tick(&mut self, worker: usize, now: MonoTime) {
        let node = &mut self.nodes[worker];
        let late = now.since(std::mem::replace(&mut node.armed, MonoTime(u64::MAX)));
        let lag = if late > LAG { late } else { Duration::ZERO };
        node.table.tick(now, lag);
    }

    /// Bytes came. After a standstill the detector hears of that first.
    pub(crate) fn heard(&mut self, worker: usize, endpoint: EndpointKey, now: MonoTime) {
        self.note_standstill(worker, now);
        self.nodes[worker].table.on_bytes(endpoint, now);
    }

    fn note_standstill(&mut self, worker: usize, now: MonoTime) {
        let armed = self.nodes[worker].armed;
        if now.0 > armed.0.saturating_add(LAG.as_nanos() as u64) {
            self.tick(worker, now);
        }
    }

    pub(crate) fn heed(&mut self, worker: usize) -> Result<(), Failed> {
        while let Some(action) = self.nodes[worker].table.next_action() {
            match action {
                Action::Wake(scope) => self.wake(worker, scope),
                Action::RingPeers => {
                    for peer in (0..self.nodes.len()).filter(|peer| *peer != worker) {
                        let way = self.rng.random_range(5 * US..300 * US);
                        self.push(self.now + way, peer, Event::Bell);
                    }
                }
                Action::Probe(probe) => self.probe(worker, probe),
                Action::Event(change) => {
                    self.note(|| {
                        let (from, to) = (change.from, change.to);
                        let (scope, origin) = (change.scope, change.origin);
                        format!("w{worker} {scope:?} {from} -> {to} {origin:?}: {}", change.evidence)
                    });
                    let at = self.place(worker, change.scope);
                    self.watch.changed(&self.plan, worker, at, &change, self.now)?;
                }
            }
        }
        if let Some(next) = self.nodes[worker].table.next_tick()
            && next < self.nodes[worker].armed
        {
            // Nothing is due before it is asked for.
            let next = next.max(self.nodes[worker].last);
            self.nodes[worker].armed = next;
            let late = match self.rng.random_range(0..100) {
                0 => self.rng.random_range(0..900 * US),
                _ => self.rng.random_range(20 * US..150 * US),
            };
            let at = self.when(worker, next).max(self.now) + late;
            self.push(at, worker, Event::Timer { armed: next });
        }
        Ok(())
    }

    /// What a scope is, outside of any table.
    fn place(&self, worker: usize, scope: Scope) -> Option<Where> {
        match scope {
            Scope::All => None,
            Scope::Cluster(cluster) => Some(Where::Cluster(cluster.0)),
            Scope::Backend(backend, cluster) => Some(Where::Backend(backend.0, cluster.0)),
            Scope::Endpoint(key) => {
                self.nodes[worker].table.endpoint(key).map(|view| Where::Endpoint(view.id.0))
            }
        }
    }

    fn wake(&mut self, worker: usize, scope: Scope) {
        let mut woken = Vec::new();
        for attempt in &self.nodes[worker].active {
            let Attempt { pick, waits, exchange, .. } = &self.attempts[*attempt];
            let is_in = match scope {
                Scope::All => true,
                Scope::Cluster(cluster) => pick.cluster == cluster,
                Scope::Backend(backend, cluster) => pick.backend == backend && pick.cluster == cluster,
                Scope::Endpoint(endpoint) => pick.endpoint == endpoint,
            };
            if *waits && is_in && !woken.contains(exchange) {
                woken.push(*exchange);
            }
        }
        for exchange in woken {
            self.push(self.now, worker, Event::Ask { exchange, number: None });
        }
    }

    fn probe(&mut self, worker: usize, probe: Probe) {
        let Probe { token, timeout, kind, .. } = probe;
        let Some(view) = self.nodes[worker].table.endpoint(probe.endpoint) else { return };
        let endpoint = view.id.0;
        let app = match kind {
            ProbeKind::Connect => false,
            ProbeKind::Ping | ProbeKind::Http { .. } | ProbeKind::Grpc { .. } => true,
        };
        let (sent, asked) = (self.now, self.read(worker));
        let (at, reply) = self.plan.probe(endpoint, app, sent, &mut self.rng);
        let what = |reply| Event::Probed { token, endpoint, app, sent, asked, timeout, reply };
        if reply != Reply::Lost {
            self.push(at, worker, what(reply));
        }
        let over = sent + timeout.as_nanos() as Time + self.rng.random_range(20 * US..150 * US);
        self.push(over, worker, what(Reply::Lost));
        self.note(|| format!("w{worker} probes e{endpoint} {kind:?} within {timeout:?}"));
        if self.plan.stall_at_probes && self.rng.random_bool(0.5) {
            let lasts = self.rng.random_range(5 * MS..30 * MS);
            self.stand_still(worker, lasts);
        }
    }

    fn probed(&mut self, worker: usize, event: Event) -> Result<(), Failed> {
        let Event::Probed { token, endpoint, app, sent, asked, timeout, reply } = event else {
            return Ok(());
        };
        let now = self.read(worker);
        if reply == Reply::Lost {
            // As the gateway waits for a probe: while it stood still it could not hear.
            self.note_standstill(worker, now);
            let missing = timeout.saturating_sub(self.nodes[worker].table.awake(asked, now));
            if !missing.is_zero() {
                let at = self.now + missing.as_nanos() as Time + 20 * US;
                self.push(at, worker, Event::Probed { token, endpoint, app, sent, asked, timeout, reply });
                return self.heed(worker);
            }
        }
        if !self.watch.first_result(worker, token) {
            return Ok(());
        }
        let result = match reply {
            Reply::Refused => ProbeResult::Refused,
            Reply::Lost => ProbeResult::TimedOut,
            Reply::Connected | Reply::Closed | Reply::Status(_) => {
                ProbeResult::Answered { latency: now.since(asked) }
            }
        };
        self.note(|| format!("w{worker} probe of e{endpoint}: {result:?}"));
        if result == ProbeResult::TimedOut {
            self.watch.unanswered(worker, endpoint, app, (sent, self.now), timeout);
        }
        self.nodes[worker].table.on_probe(token, result, now);
        self.heed(worker)
    }
}
