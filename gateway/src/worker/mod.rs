//! One worker: a pinned thread with its own ring, listeners, table, pools and statistics.
//!
//! Shares nothing on the request path. Mail comes through [`inbox`], time through [`clock`] and [`wheel`], the
//! other workers' load through [`peers`]. [`supervise::run`] is its thread; it restarts a worker that panicked.

mod apply;
pub mod binds;
pub mod clock;
pub mod detect;
pub mod drill;
pub mod established;
pub mod finding;
pub mod idle;
pub mod inbox;
pub mod peers;
pub mod rebalance;
pub mod record;
pub mod settings;
pub mod supervise;
pub mod wheel;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use crossbeam_channel::Sender;
use rand::rngs::SmallRng;
use routing::delta::Report;
use routing::table::Table;
use routing::time::MonoTime;

use crate::downstream::h1::Runner;
use crate::downstream::tcp::{Door, Usual};
use crate::downstream::udp::Flows;
use crate::exchange::gzip::Streams;
use crate::exchange::scratch::Scratch;
use crate::net::wake::Timer;
use crate::observe::access_log::LogWriter;
use crate::observe::decisions::Decisions;
use crate::observe::recorder::Recorder;
use crate::observe::stats::{Limit, WorkerStats};
use crate::passwords::Desk;
use crate::tls::Terminator;
use crate::upstream::dial::Dialer;
use crate::upstream::h2::Sessions;
use crate::upstream::pool::Pool;
use detect::Detect;
use drill::DrillSlot;
use established::EstablishedList;
use finding::Finding;
use idle::IdleList;
use peers::Peers;
use rebalance::Rebalance;
use settings::Settings;
use wheel::{TimerId, Wheel};

/// Places to run exchanges in that are kept although nobody needed them for a while.
const SPARE_RUNNERS: usize = 16;

/// Everything that the tasks of one worker share. Borrowed briefly, never across an await.
pub struct Worker {
    /// Its number, from 0.
    pub id: u16,
    /// The route table: its own copy.
    pub table: RefCell<Table>,
    /// Randomness for picks and request ids.
    pub rng: RefCell<SmallRng>,
    /// Idle upstream connections.
    pub pool: Pool,
    /// Connections of HTTP/2 to endpoints.
    pub h2: Sessions,
    /// What it needs to connect to backends over TLS.
    pub dialer: Dialer,
    /// Statistics.
    pub stats: Arc<WorkerStats>,
    /// The other workers.
    pub peers: Arc<Peers>,
    /// This worker's part of the access log.
    pub log: RefCell<LogWriter>,
    /// What it knows of its load, and what it gives away.
    pub rebalance: Rebalance,
    /// Memory for what happens between two waits.
    pub scratch: RefCell<Scratch>,
    /// Who may come in by layer-4 listeners.
    pub door: Door,
    /// Flows of datagrams.
    pub flows: Flows,
    /// What is usual on connections of layer 4.
    pub usual: Usual,
    /// Layer-4 connections that are established.
    pub established: EstablishedList,
    /// Bytes of request bodies kept for a retry.
    pub replay_bytes: Cell<usize>,
    /// Did it panic? Then its connections are to end.
    lost: Cell<bool>,
    /// When a connection of this worker was first seen to wait in the drain.
    drains_since: Cell<Option<MonoTime>>,
    /// What is kept for the failure detector.
    pub detect: Detect,
    /// The drill that runs, if any.
    pub drill: DrillSlot,
    /// What it needs to accept TLS.
    pub tls: Terminator,
    /// Responses that are being compressed.
    pub gzip: Rc<Streams>,
    /// Passwords that it has proven, and requests that wait for a proof.
    pub passwords: Desk,
    /// Questions to external authentication in flight.
    pub auth_requests: Cell<u32>,
    settings: RefCell<Rc<Settings>>,
    runners: RefCell<Vec<Runner>>,
    /// Least number of free runners since the last trim: those were never needed.
    runners_low: Cell<usize>,
    reports: Sender<Report>,
    findings: Sender<Finding>,
    /// Its last decisions.
    pub recorder: Recorder,
    /// A sample of the last minute's, for `ringway plan`.
    pub decisions: Decisions,
    wheel: RefCell<Wheel>,
    idle: RefCell<IdleList>,
    timer: Timer,
    /// What the timer is armed for; `u64::MAX` when it is not.
    armed: Cell<u64>,
    /// Open connections of each source address, where those are bounded. The standard map: the peers choose its
    /// keys, so its hashing is randomised.
    sources: RefCell<HashMap<IpAddr, u32>>,
}

/// What a worker starts with.
pub struct Parts {
    /// Its number, from 0.
    pub id: u16,
    /// An empty table.
    pub table: Table,
    /// Seeded by the caller.
    pub rng: SmallRng,
    /// Survives a restart of the worker.
    pub stats: Arc<WorkerStats>,
    /// The other workers.
    pub peers: Arc<Peers>,
    /// Its part of the access log.
    pub log: LogWriter,
    /// Its settings.
    pub settings: Settings,
    /// To the controller.
    pub reports: Sender<Report>,
    /// To the admin thread.
    pub findings: Sender<Finding>,
    /// For its last decisions.
    pub recorder: Recorder,
    /// For a sample of the last minute's.
    pub decisions: Decisions,
}

impl Worker {
    /// Puts a worker together. Must run on the worker's own thread, inside its runtime.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn new(parts: Parts) -> std::io::Result<Rc<Self>> {
        crate::sys::buf::set_bytes_max(parts.settings.buffers_bytes_max);
        Ok(Rc::new(Self {
            id: parts.id,
            table: RefCell::new(parts.table),
            rng: RefCell::new(parts.rng),
            pool: Pool::default(),
            h2: Sessions::default(),
            dialer: Dialer::default(),
            stats: parts.stats,
            peers: parts.peers,
            log: RefCell::new(parts.log),
            rebalance: Rebalance::default(),
            scratch: RefCell::default(),
            door: Door::default(),
            flows: Flows::default(),
            usual: Usual::default(),
            established: EstablishedList::default(),
            replay_bytes: Cell::new(0),
            lost: Cell::new(false),
            drains_since: Cell::new(None),
            detect: Detect::new()?,
            drill: DrillSlot::default(),
            tls: Terminator::default(),
            gzip: Rc::default(),
            passwords: Desk::default(),
            auth_requests: Cell::new(0),
            settings: RefCell::new(Rc::new(parts.settings)),
            runners: RefCell::default(),
            runners_low: Cell::new(0),
            reports: parts.reports,
            findings: parts.findings,
            recorder: parts.recorder,
            decisions: parts.decisions,
            wheel: RefCell::new(Wheel::new(clock::now())),
            idle: RefCell::default(),
            timer: Timer::new()?,
            armed: Cell::new(u64::MAX),
            sources: RefCell::default(),
        }))
    }

    /// The settings in force. A request keeps those it began with.
    #[must_use]
    pub fn settings(&self) -> Rc<Settings> {
        Rc::clone(&self.settings.borrow())
    }

    /// Puts new settings in force.
    pub fn set_settings(&self, settings: Settings) {
        crate::sys::buf::set_bytes_max(settings.buffers_bytes_max);
        *self.settings.borrow_mut() = Rc::new(settings);
    }

    /// Tells the controller something. A hint: dropped and counted when it does not listen.
    pub fn report(&self, report: Report) {
        self.try_report(report);
    }

    /// The same; returns whether it was heard.
    fn try_report(&self, report: Report) -> bool {
        let is_heard = self.reports.try_send(report).is_ok();
        if !is_heard {
            self.stats.hit(Limit::Reports);
        }
        is_heard
    }

    /// Tells the admin thread what was found out. Dropped and counted when it does not listen.
    fn publish(&self, finding: Finding) {
        if self.findings.try_send(finding).is_err() {
            self.stats.hit(Limit::Findings);
        }
    }

    /// A place to run exchanges in, from the pool.
    #[must_use]
    pub fn take_runner(self: &Rc<Self>) -> Runner {
        let mut runners = self.runners.borrow_mut();
        let recycled = runners.pop();
        self.runners_low.set(self.runners_low.get().min(runners.len()));
        drop(runners);
        recycled.unwrap_or_else(|| Runner::new(Rc::clone(self)))
    }

    /// Gives a place back.
    pub fn put_runner(&self, runner: Runner) {
        self.runners.borrow_mut().push(runner);
    }

    /// Gives the memory of places that were not needed since the last call back to the system, but for a few.
    pub fn trim_runners(&self) {
        let mut runners = self.runners.borrow_mut();
        let excess = self.runners_low.get().saturating_sub(SPARE_RUNNERS);
        let keep = runners.len().saturating_sub(excess);
        runners.truncate(keep);
        runners.shrink_to(keep);
        self.runners_low.set(keep);
    }

    /// A new deadline for a connection.
    #[must_use]
    pub fn deadline(self: &Rc<Self>) -> Deadline {
        Deadline { id: self.wheel.borrow_mut().insert(), worker: Rc::clone(self) }
    }

    /// Counts a connection of a source. `false` when it has `max` already.
    #[must_use]
    pub fn source_enters(&self, source: IpAddr, max: u32) -> bool {
        if max == 0 {
            return true;
        }
        let mut sources = self.sources.borrow_mut();
        let count = sources.entry(source).or_insert(0);
        if *count >= max {
            return false;
        }
        *count += 1;
        true
    }

    /// Counts a connection of a source that ended.
    pub fn source_leaves(&self, source: IpAddr) {
        let mut sources = self.sources.borrow_mut();
        if let Some(count) = sources.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                sources.remove(&source);
            }
        }
    }

    /// Closes the connection that has been idle longest. `false` when none is idle.
    #[must_use]
    pub fn shed_oldest_idle(&self) -> bool {
        let Some(index) = self.idle.borrow_mut().take_oldest() else { return false };
        self.wheel.borrow_mut().fire(TimerId::from_index(index));
        true
    }

    /// Is this worker to finish what it has?
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.lost.get() || self.peers.is_draining()
    }

    /// Until when a client's connection may wait for its next request: `usual`, or `timeouts.drain_idle` into the drain.
    #[must_use]
    pub fn idle_until(&self, usual: MonoTime) -> MonoTime {
        if !self.is_draining() {
            return usual;
        }
        if self.is_stopping() {
            return MonoTime::ZERO;
        }
        let since = self.drains_since.get().unwrap_or_else(clock::now);
        self.drains_since.set(Some(since));
        since + self.settings().drain_idle
    }

    /// When a connection of HTTP/2 that has drawn `lot`, from 0 to 1, is asked to leave: spread over `timeouts.drain_idle`, so
    /// that all clients of a node do not come to the others at once.
    #[must_use]
    pub fn leaves_at(&self, lot: f64) -> MonoTime {
        let begun = self.idle_until(MonoTime::ZERO);
        begun - self.settings().drain_idle.mul_f64(1.0 - lot)
    }

    /// Is everything to end now, whatever is in flight: past the drain's deadline, or after a panic?
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.lost.get() || self.peers.is_stopping()
    }

    /// Did this worker panic, so that another takes its place?
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.lost.get()
    }

    /// Tells everything that this worker runs to end: it panicked, and another takes its place.
    pub fn abandon(&self) {
        self.lost.set(true);
        self.wake_all();
    }

    /// Wakes every connection, so that it looks at the state of the process.
    pub fn wake_all(&self) {
        self.wheel.borrow_mut().fire_all();
    }

    /// Runs the wheel for ever.
    pub async fn keep_time(&self) {
        while self.timer.wait().await.is_ok() {
            self.armed.set(u64::MAX);
            self.wheel.borrow_mut().expire(clock::now());
            self.arm();
        }
    }

    fn arm(&self) {
        let Some(next) = self.wheel.borrow().next_expiry() else { return };
        if next.0 < self.armed.get() {
            self.armed.set(next.0);
            // Cannot fail for a valid time; if it did, the next deadline would arm it again.
            let _ = self.timer.arm(next.since(clock::now()));
        }
    }
}

/// The deadline of one connection: set as often as its state changes, for the price of a store.
pub struct Deadline {
    id: TimerId,
    worker: Rc<Worker>,
}

impl Deadline {
    /// Its entry on the wheel.
    fn id(&self) -> TimerId {
        self.id
    }

    /// Sets it.
    pub fn set(&self, at: MonoTime) {
        let earlier = self.worker.wheel.borrow_mut().set(self.id, at);
        if earlier {
            self.worker.arm();
        }
    }

    /// Takes it away.
    pub fn clear(&self) {
        self.worker.wheel.borrow_mut().clear(self.id);
    }

    /// Lets it fire now: its owner looks at the clock, at the worker, and at what the caller has left for it.
    pub fn fire(&self) {
        self.worker.wheel.borrow_mut().fire(self.id);
    }

    /// Ready when it has passed, or when the worker wants the connection's attention (drain, shedding): look at the
    /// clock and at the worker to learn which.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.worker.wheel.borrow_mut().poll(self.id, cx.waker()) { Poll::Ready(()) } else { Poll::Pending }
    }

    /// The connection is idle from now on: it may be shed.
    pub fn enter_idle(&self) {
        self.worker.idle.borrow_mut().enter(self.id.index());
    }

    /// The connection is no longer idle. `false` when it was shed meanwhile and must close.
    #[must_use]
    pub fn leave_idle(&self) -> bool {
        self.worker.idle.borrow_mut().leave(self.id.index())
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.worker.idle.borrow_mut().leave(self.id.index());
        self.worker.wheel.borrow_mut().remove(self.id);
    }
}
