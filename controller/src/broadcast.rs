//! Updates to the workers, reports from them. Never blocks, whatever a worker does.
//!
//! Each worker has a bounded inbox. An update that fits is sent at once; while an inbox is full, what that worker
//! misses is merged into one pending delta and sent when there is room. So the first change is never delayed, and
//! a slow worker costs memory in proportion to what changed, not to how often.
//!
//! What operators say ([`Words`]) is laid over every table that goes out, and goes out alone when it changes.
//!
//! The controller keeps every update until no worker holds it any more: workers never run a big destructor.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::Write;
use std::sync::Arc;

use crossbeam_channel::{Sender, TrySendError};
use routing::delta::{self, Change, Mail, Report, RouteTable, TableDelta, Update};
use routing::id::Generation;

use crate::canary::apart::Apart;
use crate::operator::{Order, Refused, Standing, Words};
use crate::view::LagHistogram;

/// Updates kept because a worker may still hold them; beyond it the oldest is let go.
pub const UPDATES_KEPT_MAX: usize = 4096;
/// Updates whose propagation is being timed; beyond it the oldest is not.
const TIMED_MAX: usize = 4096;

/// The worker that runs a table on trial.
const CANARY: usize = 0;

/// The way to one worker.
#[derive(Debug)]
pub struct Mailbox {
    /// Its inbox: bounded.
    pub tx: Sender<Mail>,
    /// Its eventfd, non-blocking: written after each mail.
    pub wake: File,
    /// What the reader does with it.
    pub reader: Reader,
}

/// Who reads a mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// A worker: an update has propagated when all of these run it.
    Worker,
    /// A subscriber that serves no traffic (the admin thread): nobody waits for it.
    Observer,
}

#[derive(Debug)]
struct Worker {
    mailbox: Mailbox,
    /// The table that it will run once it has read its inbox.
    sent: Generation,
    applied: Generation,
    waiting: Waiting,
    evidence: Evidence,
}

/// Does a worker know what operators say?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Evidence {
    Known,
    /// Its inbox was full: it is told everything when there is room.
    Due,
}

/// What a worker with a full inbox will get next.
#[derive(Debug)]
enum Waiting {
    Nothing,
    Delta { delta: TableDelta, observed_ns: u64 },
    Snapshot { observed_ns: u64 },
}

/// All workers.
#[derive(Debug)]
pub struct Broadcaster {
    workers: Vec<Worker>,
    words: Words,
    generation: Generation,
    snapshot: Option<Arc<Update>>,
    /// What the workers run in place of parts of the table: on trial, or refused.
    pub(crate) apart: Apart,
    /// The worker that runs a table on trial, by its number.
    pub(crate) canary: Option<usize>,
    kept: VecDeque<Arc<Update>>,
    timed: VecDeque<(Generation, u64)>,
    timed_clusters: VecDeque<(Generation, u64, Arc<str>)>,
    /// Event to last worker.
    pub lag: LagHistogram,
    /// The same for each member cluster whose API is watched.
    pub lags: BTreeMap<Arc<str>, LagHistogram>,
    /// Updates merged into a pending one.
    pub coalesced_total: u64,
    /// Snapshots sent.
    pub snapshots_total: u64,
    /// Ejections reported.
    pub ejections_total: u64,
}

impl Broadcaster {
    /// Nothing sent yet; every worker runs the empty table.
    #[must_use]
    pub fn new(mailboxes: Vec<Mailbox>) -> Self {
        let worker = |mailbox| Worker {
            mailbox,
            sent: Generation::default(),
            applied: Generation::default(),
            waiting: Waiting::Nothing,
            evidence: Evidence::Known,
        };
        Self {
            workers: mailboxes.into_iter().map(worker).collect(),
            words: Words::default(),
            generation: Generation::default(),
            snapshot: None,
            apart: Apart::default(),
            canary: None,
            kept: VecDeque::new(),
            timed: VecDeque::new(),
            timed_clusters: VecDeque::new(),
            lag: LagHistogram::default(),
            lags: BTreeMap::new(),
            coalesced_total: 0,
            snapshots_total: 0,
            ejections_total: 0,
        }
    }

    /// The newest generation.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// What each worker runs, as far as it has said.
    #[must_use]
    pub fn applied(&self) -> Vec<Generation> {
        self.serving().map(|worker| worker.applied).collect()
    }

    /// Workers that serve.
    #[must_use]
    pub fn worker_count(&self) -> usize {
        self.serving().count()
    }

    fn serving(&self) -> impl Iterator<Item = &Worker> {
        self.workers.iter().filter(|worker| worker.mailbox.reader == Reader::Worker)
    }

    /// Sends a change to every worker. `table` is the table after it.
    pub fn delta(&mut self, delta: TableDelta, observed_ns: u64, table: &RouteTable) {
        self.send(delta, None, observed_ns, table);
    }

    /// Sends one change to the first worker, which is the canary from now on, and another one to all others.
    pub(crate) fn lanes(
        &mut self,
        all: TableDelta,
        canary: TableDelta,
        observed_ns: u64,
        table: &RouteTable,
    ) {
        self.canary = Some(CANARY);
        self.send(all, Some(canary), observed_ns, table);
    }

    fn send(&mut self, all: TableDelta, canary: Option<TableDelta>, observed_ns: u64, table: &RouteTable) {
        if !all.clusters.is_empty() {
            self.words.settle(table);
        }
        let base = self.generation;
        self.next_generation(observed_ns);
        let all = self.update(all, base, observed_ns);
        let canary = canary.map(|canary| self.update(canary, base, observed_ns));
        for index in 0..self.workers.len() {
            let update = if index == CANARY { canary.as_ref().unwrap_or(&all) } else { &all };
            let worker = &mut self.workers[index];
            let is_next = matches!(worker.waiting, Waiting::Nothing) && worker.sent == base;
            if is_next && worker.send(update) {
                continue;
            }
            self.coalesced_total += 1;
            let Change::Table(delta) = &update.change else { continue };
            worker.wait(delta, observed_ns);
        }
        self.flush(table);
    }

    fn update(&mut self, mut delta: TableDelta, base: Generation, observed_ns: u64) -> Arc<Update> {
        self.overlay(&mut delta);
        let update = Arc::new(Update {
            generation: self.generation,
            base_generation: base,
            observed_ns,
            change: Change::Table(delta),
        });
        self.kept.push_back(update.clone());
        update
    }

    /// Sends the whole table to every worker: the first one, or that of a restarted controller.
    pub fn everything(&mut self, observed_ns: u64, table: &RouteTable) {
        self.words.settle(table);
        // Its numbers may be others than those of what was kept apart.
        (self.apart, self.canary) = (Apart::default(), None);
        self.next_generation(observed_ns);
        for worker in &mut self.workers {
            worker.waiting = Waiting::Snapshot { observed_ns };
        }
        self.flush(table);
    }

    /// Puts the words of earlier operators in force: before anything is sent.
    pub fn resume(&mut self, words: Words) {
        self.words = words;
    }

    /// What operators say.
    #[must_use]
    pub fn words(&self) -> &Words {
        &self.words
    }

    /// Takes an operator's order and sends what follows from it to every worker.
    ///
    /// # Errors
    /// Why nothing is changed.
    pub fn order(
        &mut self,
        cluster: &str,
        order: Order,
        now_ns: u64,
        table: &RouteTable,
    ) -> Result<Standing, Refused> {
        self.words.order(cluster, order, now_ns, table)?;
        self.evidence(&[Arc::from(cluster)], now_ns, table);
        self.words.settle(table);
        Ok(self.words.standing_of(cluster, table))
    }

    /// Sends the steps of drains that are due.
    pub fn step(&mut self, now_ns: u64, table: &RouteTable) {
        let moved = self.words.step(now_ns);
        if !moved.is_empty() {
            self.evidence(&moved, now_ns, table);
            self.words.settle(table);
        }
    }

    fn overlay(&self, delta: &mut TableDelta) {
        for spec in delta.clusters.iter_mut().filter_map(|(_, spec)| spec.as_mut()) {
            *spec = self.words.overlay(spec);
        }
    }

    /// Sends what operators say of these clusters.
    fn evidence(&mut self, clusters: &[Arc<str>], observed_ns: u64, table: &RouteTable) {
        let base = self.generation;
        self.next_generation(observed_ns);
        let update = Arc::new(Update {
            generation: self.generation,
            base_generation: base,
            observed_ns,
            change: Change::Health(self.words.evidence(Some(clusters), table)),
        });
        self.kept.push_back(update.clone());
        for worker in &mut self.workers {
            let is_next = matches!(worker.waiting, Waiting::Nothing) && worker.sent == base;
            if !(is_next && worker.send(&update)) {
                worker.evidence = Evidence::Due;
            }
        }
        self.flush(table);
    }

    /// The newest update holds what this cluster said at that time.
    pub fn attribute(&mut self, cluster: &Arc<str>, observed_ns: u64) {
        self.timed_clusters.push_back((self.generation, observed_ns, cluster.clone()));
        if self.timed_clusters.len() > TIMED_MAX {
            self.timed_clusters.pop_front();
        }
    }

    fn next_generation(&mut self, observed_ns: u64) {
        self.generation = Generation(self.generation.0 + 1);
        self.snapshot = None;
        if observed_ns != 0 {
            self.timed.push_back((self.generation, observed_ns));
            if self.timed.len() > TIMED_MAX {
                self.timed.pop_front();
            }
        }
    }

    /// Sends what waited to those workers that have room again, and lets go of what nobody holds.
    pub fn flush(&mut self, table: &RouteTable) {
        for index in 0..self.workers.len() {
            let base_generation = self.workers[index].sent;
            match std::mem::replace(&mut self.workers[index].waiting, Waiting::Nothing) {
                Waiting::Nothing => self.tell_all(index, table),
                Waiting::Delta { delta, observed_ns } => {
                    let generation = self.generation;
                    let change = Change::Table(delta);
                    let update = Arc::new(Update { generation, base_generation, observed_ns, change });
                    if self.workers[index].send(&update) {
                        self.kept.push_back(update);
                        self.tell_all(index, table);
                    } else if let Some(Update { change: Change::Table(delta), .. }) = Arc::into_inner(update)
                    {
                        self.workers[index].waiting = Waiting::Delta { delta, observed_ns };
                    }
                }
                Waiting::Snapshot { observed_ns } => {
                    let update = self.snapshot(index, observed_ns, table);
                    if self.workers[index].send(&update) {
                        self.snapshots_total += 1;
                        self.workers[index].evidence = Evidence::Known;
                    } else {
                        self.workers[index].waiting = Waiting::Snapshot { observed_ns };
                    }
                }
            }
        }
        self.let_go();
    }

    /// Everything that operators say, for a worker that has missed some of it.
    fn tell_all(&mut self, index: usize, table: &RouteTable) {
        if self.workers[index].evidence == Evidence::Known {
            return;
        }
        let update = Arc::new(Update {
            generation: self.generation,
            base_generation: self.workers[index].sent,
            observed_ns: 0,
            change: Change::Health(self.words.evidence(None, table)),
        });
        if self.workers[index].send(&update) {
            self.workers[index].evidence = Evidence::Known;
            self.kept.push_back(update);
        }
    }

    /// Does any worker wait for room in its inbox?
    #[must_use]
    pub fn is_behind(&self) -> bool {
        let waits = |worker: &Worker| !matches!(worker.waiting, Waiting::Nothing);
        self.workers.iter().any(|worker| waits(worker) || worker.evidence == Evidence::Due)
    }

    /// The whole table of the newest generation as this worker is to run it; built once for all but a canary.
    fn snapshot(&mut self, index: usize, observed_ns: u64, table: &RouteTable) -> Arc<Update> {
        let is_canary = self.canary == Some(index);
        if let Some(snapshot) = self.snapshot.as_ref().filter(|_| !is_canary) {
            return snapshot.clone();
        }
        let mut whole = if self.apart.is_empty() {
            delta::snapshot(table)
        } else {
            let mut lane = table.clone();
            lane.apply(&self.apart.refused_before());
            if !is_canary {
                lane.apply(&self.apart.trial.before());
            }
            delta::snapshot(&lane)
        };
        self.overlay(&mut whole);
        let update = Arc::new(Update {
            generation: self.generation,
            base_generation: Generation::default(),
            observed_ns,
            change: Change::Snapshot(whole),
        });
        self.kept.push_back(update.clone());
        if !is_canary {
            self.snapshot = Some(update.clone());
        }
        update
    }

    /// The controller's own reference is dropped last, so the destructor runs here.
    fn let_go(&mut self) {
        let held_by_us = |update: &Arc<Update>| Arc::strong_count(update) == 1;
        while self.kept.front().is_some_and(held_by_us) || self.kept.len() > UPDATES_KEPT_MAX {
            self.kept.pop_front();
        }
    }

    /// Takes note of what a worker says.
    pub fn report(&mut self, report: Report, table: &RouteTable) {
        match report {
            Report::Applied { worker, generation, at_ns } => {
                if let Some(worker) = self.workers.get_mut(usize::from(worker)) {
                    worker.applied = worker.applied.max(generation);
                    if worker.mailbox.reader == Reader::Worker {
                        self.time(at_ns);
                    }
                }
            }
            Report::OutOfStep { worker, generation } => {
                if let Some(worker) = self.workers.get_mut(usize::from(worker)) {
                    worker.applied = generation;
                    worker.waiting = Waiting::Snapshot { observed_ns: 0 };
                }
            }
            Report::Ejected { .. } => self.ejections_total += 1,
            // What cannot be listened on is the loop's to keep.
            Report::Restored { .. } | Report::Listening { .. } | Report::Address { .. } => {}
            Report::Spent(update) => drop(update),
        }
        self.flush(table);
    }

    /// An update has propagated when its last worker runs it, or a later one.
    fn time(&mut self, at_ns: u64) {
        let everywhere = self.serving().map(|worker| worker.applied).min().unwrap_or_default();
        while let Some((generation, observed_ns)) = self.timed.front().copied() {
            if generation > everywhere {
                break;
            }
            self.timed.pop_front();
            self.lag.record(at_ns.saturating_sub(observed_ns));
        }
        while self.timed_clusters.front().is_some_and(|(generation, _, _)| *generation <= everywhere) {
            let Some((_, observed_ns, cluster)) = self.timed_clusters.pop_front() else { break };
            self.lags.entry(cluster).or_default().record(at_ns.saturating_sub(observed_ns));
        }
    }
}

impl Worker {
    /// `false`: the inbox is full. A worker that is gone counts as served: its successor asks for a snapshot.
    fn send(&mut self, update: &Arc<Update>) -> bool {
        match self.mailbox.tx.try_send(Mail::Update(update.clone())) {
            Ok(()) => {
                self.sent = update.generation;
                // A full eventfd counter means that the worker is woken already.
                let _ = (&self.mailbox.wake).write(&1u64.to_ne_bytes());
                true
            }
            Err(TrySendError::Full(_)) => false,
            Err(TrySendError::Disconnected(_)) => {
                self.sent = update.generation;
                true
            }
        }
    }

    fn wait(&mut self, delta: &TableDelta, observed_ns: u64) {
        self.waiting = match std::mem::replace(&mut self.waiting, Waiting::Nothing) {
            Waiting::Nothing => Waiting::Delta { delta: delta.clone(), observed_ns },
            Waiting::Delta { delta: before, observed_ns } => {
                Waiting::Delta { delta: before.then(delta.clone()), observed_ns }
            }
            Waiting::Snapshot { observed_ns } => Waiting::Snapshot { observed_ns },
        };
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::{Receiver, bounded};

    use super::*;

    fn reader(reader: Reader) -> (Mailbox, Receiver<Mail>) {
        let (tx, mail) = bounded(4);
        let wake = File::options().write(true).open("/dev/null").expect("there is a null device");
        (Mailbox { tx, wake, reader }, mail)
    }

    #[test]
    fn propagation_ends_at_the_last_worker_and_never_waits_for_an_observer() {
        let (first, _first_mail) = reader(Reader::Worker);
        let (last, _last_mail) = reader(Reader::Worker);
        let (observer, observer_mail) = reader(Reader::Observer);
        let mut broadcaster = Broadcaster::new(vec![first, last, observer]);
        let table = RouteTable::default();
        broadcaster.everything(1_000, &table);
        assert_eq!(observer_mail.len(), 1, "it is told like a worker");
        let generation = broadcaster.generation();
        let applied = |worker, at_ns| Report::Applied { worker, generation, at_ns };
        broadcaster.report(applied(0, 2_000), &table);
        assert_eq!(broadcaster.lag.count, 0, "one worker is missing");
        broadcaster.report(applied(1, 5_000), &table);
        assert_eq!((broadcaster.lag.count, broadcaster.lag.max_ns), (1, 4_000));
        broadcaster.report(applied(2, 900_000), &table);
        assert_eq!((broadcaster.lag.count, broadcaster.lag.max_ns), (1, 4_000));
        assert_eq!(broadcaster.applied(), [generation, generation]);
    }
}
