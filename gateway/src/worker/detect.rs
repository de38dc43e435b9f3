//! The worker's side of the failure detector: time for it, and hands.
//!
//! The detector (`routing::table`) decides and never acts. Here its timer is armed, attempts that it wants to ask again
//! are woken, the other workers' bells are rung, probes are sent and changes of state are told.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use routing::health::action::{Action, Origin, Scope, Transition};
use routing::health::state::State;
use routing::table::{EndpointKey, Pick};
use routing::time::MonoTime;

use super::finding::Finding;
use super::{Deadline, Worker, clock};
use crate::net::wake::Timer;
use crate::upstream::probe;
use crate::worker::wheel::TimerId;

/// How late the detector's timer may be before the time in between counts as our own standstill.
const LAG: Duration = Duration::from_millis(1);

/// Names an attempt that waits, until it is told that the wait is over.
#[derive(Clone, Copy, Debug)]
pub struct WaitingId(u32);

/// One attempt that waits for its response head.
#[derive(Clone, Copy)]
struct Waiting {
    pick: EndpointKey,
    cluster: routing::id::ClusterId,
    backend: routing::id::BackendId,
    /// Whom to wake; `None` = this place is free, and `next` is the next free one plus one.
    timer: Option<TimerId>,
    next: u32,
}

impl Waiting {
    fn is_in(&self, scope: Scope) -> bool {
        match scope {
            Scope::All => true,
            Scope::Cluster(cluster) => self.cluster == cluster,
            Scope::Backend(backend, cluster) => self.backend == backend && self.cluster == cluster,
            Scope::Endpoint(endpoint) => self.pick == endpoint,
        }
    }
}

/// What a worker keeps for the detector.
pub struct Detect {
    timer: Timer,
    /// What the timer is armed for; `u64::MAX` when it is not.
    armed: Cell<u64>,
    waiting: RefCell<Vec<Waiting>>,
    /// The first free place plus one; 0 = none.
    free: Cell<u32>,
    /// Attempts that were given up and are only listened to.
    pub detached: Cell<u32>,
    /// Probes in flight.
    pub probes: Cell<u32>,
}

impl Detect {
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self {
            timer: Timer::new()?,
            armed: Cell::new(u64::MAX),
            waiting: RefCell::default(),
            free: Cell::new(0),
            detached: Cell::new(0),
            probes: Cell::new(0),
        })
    }
}

impl Worker {
    /// An attempt waits from now on; `deadline` is fired when it is to ask for advice again.
    #[must_use]
    pub fn waits(&self, pick: &Pick, deadline: &Deadline) -> WaitingId {
        let entry = Waiting {
            pick: pick.endpoint,
            cluster: pick.cluster,
            backend: pick.backend,
            timer: Some(deadline.id()),
            next: 0,
        };
        let mut waiting = self.detect.waiting.borrow_mut();
        match self.detect.free.get().checked_sub(1) {
            Some(index) => {
                self.detect.free.set(waiting[index as usize].next);
                waiting[index as usize] = entry;
                WaitingId(index)
            }
            None => {
                waiting.push(entry);
                WaitingId(u32::try_from(waiting.len() - 1).unwrap_or(u32::MAX))
            }
        }
    }

    /// The attempt waits no longer.
    pub fn waits_no_more(&self, id: WaitingId) {
        let mut waiting = self.detect.waiting.borrow_mut();
        let place = &mut waiting[id.0 as usize];
        place.timer = None;
        place.next = self.detect.free.replace(id.0 + 1);
    }

    /// Bytes came from an endpoint. After a standstill of our own the detector hears of that first.
    pub fn heard(self: &Rc<Self>, endpoint: EndpointKey, now: MonoTime) {
        self.note_standstill(now);
        self.table.borrow().on_bytes(endpoint, now);
    }

    /// An endpoint begins to answer what was asked on a connection then.
    pub fn replied(self: &Rc<Self>, endpoint: EndpointKey, asked: MonoTime, now: MonoTime) {
        self.note_standstill(now);
        self.table.borrow().on_replied(endpoint, asked, now);
        self.heed();
    }

    /// How long this worker was running between two times, the second of which is now.
    pub fn awake(self: &Rc<Self>, from: MonoTime, now: MonoTime) -> Duration {
        self.note_standstill(now);
        self.table.borrow().awake(from, now)
    }

    /// Has the detector's timer been due for a while? Then it is told before anything else.
    fn note_standstill(self: &Rc<Self>, now: MonoTime) {
        if now.0 > self.detect.armed.get().saturating_add(ns(LAG)) {
            self.tick(now);
        }
    }

    /// Does what the detector wants done, and sees to its timer. To be called after every call that may make it want
    /// something: one test when it does not.
    pub fn heed(self: &Rc<Self>) {
        loop {
            let Some(action) = self.table.borrow().next_action() else { break };
            match action {
                Action::Wake(scope) => self.wake(scope),
                Action::RingPeers => {
                    for (number, postbox) in self.peers.boxes.iter().enumerate() {
                        if number != usize::from(self.id) {
                            postbox.ring();
                        }
                    }
                }
                Action::Probe(probe) => probe::send(self, probe),
                Action::Event(transition) => self.tell(&transition),
            }
        }
        if self.recorder.is_full() {
            self.record_if_due(clock::now());
        }
        let next = self.table.borrow().next_tick();
        if let Some(next) = next
            && next.0 < self.detect.armed.get()
        {
            let now = clock::now();
            // Nothing is due before it is asked for: a worker that had nothing to look at until now, and whose last look is
            // long ago, has not stood still since.
            self.detect.armed.set(next.max(now).0);
            // Cannot fail for a valid time; if it did, the next call would arm it again.
            let _ = self.detect.timer.arm(next.since(now));
        }
    }

    /// Lets the detector look at what is overdue, for ever.
    pub async fn keep_watch(self: &Rc<Self>) {
        while self.detect.timer.wait().await.is_ok() {
            if self.detect.armed.get() != u64::MAX {
                self.tick(clock::now());
            }
            self.heed();
        }
    }

    /// Copies what other workers decided. Called when the doorbell rang.
    pub fn look_at_peers(self: &Rc<Self>) {
        self.table.borrow().look(clock::now());
        self.heed();
    }

    fn tick(self: &Rc<Self>, now: MonoTime) {
        let due = MonoTime(self.detect.armed.replace(u64::MAX));
        let late = now.since(due);
        let lag = if late > LAG { late } else { Duration::ZERO };
        self.table.borrow().tick(now, lag);
    }

    fn wake(&self, scope: Scope) {
        let waiting = self.detect.waiting.borrow();
        let mut wheel = self.wheel.borrow_mut();
        let concerned = waiting.iter().filter(|entry| entry.is_in(scope));
        concerned.filter_map(|entry| entry.timer).for_each(|timer| wheel.fire(timer));
    }

    /// Tells the log and the statistics that a state has changed.
    fn tell(&self, change: &Transition) {
        self.recorder.note_change(change);
        self.judge_established(change);
        let (scope, cluster) = self.name_of(change.scope);
        let ms = change.at.since(change.since).as_millis();
        let (from, to, evidence) = (change.from, change.to, &change.evidence);
        match change.origin {
            Origin::Own => {}
            Origin::Peer => {
                tracing::debug!(worker = self.id, %scope, %cluster, %from, %to, "a peer's verdict");
                return;
            }
        }
        if let Some(finding) = Finding::of(change, &self.table.borrow()) {
            self.publish(finding);
        }
        match to {
            State::Suspect => {
                self.stats.suspicions_total.inc();
                tracing::info!(worker = self.id, %scope, %cluster, %from, %to, held_ms = ms, %evidence, "verdict");
            }
            State::Down(_) => {
                self.stats.verdicts_total.inc();
                tracing::warn!(worker = self.id, %scope, %cluster, %from, %to, held_ms = ms, %evidence, "verdict");
            }
            State::Healthy | State::Probation | State::Ramp => {
                tracing::info!(worker = self.id, %scope, %cluster, %from, %to, held_ms = ms, %evidence, "verdict");
            }
        }
    }

    fn name_of(&self, scope: Scope) -> (String, String) {
        let table = self.table.borrow();
        match scope {
            Scope::All => ("all".to_owned(), String::new()),
            Scope::Cluster(cluster) => ("cluster".to_owned(), table.cluster_name(cluster).to_owned()),
            Scope::Backend(backend, cluster) => {
                (format!("backend {}", table.backend_name(backend)), table.cluster_name(cluster).to_owned())
            }
            Scope::Endpoint(key) => match table.endpoint(key) {
                Some(view) => {
                    (format!("endpoint {}", view.addr), table.cluster_name(view.cluster).to_owned())
                }
                None => ("endpoint that left".to_owned(), String::new()),
            },
        }
    }
}

fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
