//! Updates of the table, a turn of the loop at a time.
//!
//! An update is applied for at most `limits.apply_turn` in one turn, the rest in the next ones; requests are served in
//! between. Updates keep their order, and one is reported as applied when it is whole and its sockets are open. What
//! follows from an update takes its time from the same turn: idle connections of endpoints that went, and listeners.
//!
//! Called by [`inbox`](super::inbox) only.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use routing::delta::{Report, Update};
use routing::id::BindId;
use routing::table::{Applying, OpenedBind, Progress};
use routing::time::MonoTime;

use super::binds::Binds;
use super::{Worker, clock};
use crate::observe::stats::Limit;

/// Idle connections of endpoints that went that are closed between two looks at the clock; each is a few µs.
const CLOSED_PER_LOOK: usize = 4;

/// One turn of the loop, as far as it is spent on updates. No clock is read in a turn without one.
pub(super) struct Turn {
    budget: Duration,
    began: Option<Began>,
}

struct Began {
    at: MonoTime,
    cpu: Duration,
}

impl Turn {
    pub(super) fn new(budget: Duration) -> Self {
        Self { budget, began: None }
    }

    /// Is there time for more? The first question begins it.
    fn has_time(&mut self) -> bool {
        let now = clock::now();
        let began = self.began.get_or_insert_with(|| Began { at: now, cpu: clock::thread_cpu() });
        now.since(began.at) < self.budget
    }

    /// Counts it. `left`: there was more to do than the turn had time for.
    pub(super) fn end(self, worker: &Worker, left: bool) {
        let Some(began) = self.began else { return };
        let wall = clock::now().since(began.at);
        // Of this thread alone: a core that was lent to somebody else meanwhile is no work of ours.
        let cpu = clock::thread_cpu().saturating_sub(began.cpu);
        let stats = &worker.stats;
        stats.apply_ns_total.add(u64::try_from(wall.as_nanos()).unwrap_or(u64::MAX));
        stats.apply_turn.record(cpu);
        let cpu_ns = u64::try_from(cpu.as_nanos()).unwrap_or(u64::MAX);
        stats.apply_longest_ns.set(stats.apply_longest_ns.get().max(cpu_ns));
        if left {
            stats.hit(Limit::ApplyTurn);
        }
    }
}

/// The update that is being applied.
#[derive(Default)]
pub(super) struct Updates {
    now: Option<Pending>,
}

struct Pending {
    update: Arc<Update>,
    stage: Stage,
}

enum Stage {
    Table(Applying),
    Sockets { closed: VecDeque<BindId>, opened: VecDeque<OpenedBind> },
}

impl Updates {
    /// Begins with an update. None may be under way.
    pub(super) fn begin(&mut self, worker: &Rc<Worker>, update: Arc<Update>) {
        let begun = worker.table.borrow_mut().begin(&update, clock::now());
        match begun {
            Ok(applying) => self.now = Some(Pending { update, stage: Stage::Table(applying) }),
            Err(out) => {
                worker.report(Report::OutOfStep { worker: worker.id, generation: out.have });
                worker.report(Report::Spent(update));
            }
        }
    }

    /// Goes on with what is under way while the turn lasts. `true`: nothing is.
    pub(super) fn go_on(&mut self, worker: &Rc<Worker>, binds: &Binds, turn: &mut Turn) -> bool {
        while let Some(mut pending) = self.now.take() {
            if !turn.has_time() {
                self.now = Some(pending);
                return false;
            }
            match pending.advance(worker, binds, turn) {
                Progress::Part => self.now = Some(pending),
                Progress::Whole => finish(worker, binds, pending.update),
            }
        }
        while worker.pool.let_go(CLOSED_PER_LOOK) {
            if !turn.has_time() {
                return false;
            }
        }
        true
    }
}

impl Pending {
    fn advance(&mut self, worker: &Rc<Worker>, binds: &Binds, turn: &mut Turn) -> Progress {
        match &mut self.stage {
            Stage::Table(applying) => {
                let mut table = worker.table.borrow_mut();
                let progress = table.advance(applying, &self.update, clock::now(), || turn.has_time());
                // What the table let go of travels home: its destructors never run here.
                let spent = table.take_spent();
                drop(table);
                applying.take_removed().for_each(|endpoint| {
                    worker.pool.forget(endpoint);
                    worker.h2.forget(endpoint);
                    worker.usual.endings.forget(endpoint);
                    worker.flows.hosts.forget(endpoint);
                });
                applying.take_replaced().for_each(|backend| {
                    worker.usual.forget_backend(backend);
                    worker.flows.habits.forget(backend);
                });
                if let Some(spent) = spent {
                    worker.report(Report::Spent(spent));
                }
                if progress == Progress::Whole {
                    let sockets = applying.take_sockets();
                    self.stage = Stage::Sockets { closed: sockets.0.into(), opened: sockets.1.into() };
                }
                Progress::Part
            }
            // Closed first: an address may move from one to the other.
            Stage::Sockets { closed, opened } => {
                if let Some(bind) = closed.pop_front() {
                    binds.close(worker, bind);
                } else if let Some(bind) = opened.pop_front() {
                    binds.open(worker, bind);
                }
                if closed.is_empty() && opened.is_empty() { Progress::Whole } else { Progress::Part }
            }
        }
    }
}

fn finish(worker: &Rc<Worker>, binds: &Binds, update: Arc<Update>) {
    binds.settle(worker);
    worker.stats.updates_total.inc();
    worker.stats.generation.set(update.generation.0);
    // Checks of what came are due, and a worker without traffic has nobody else who would say so.
    worker.heed();
    worker.report(Report::Applied {
        worker: worker.id,
        generation: update.generation,
        at_ns: clock::now().0,
    });
    worker.report(Report::Spent(update));
}
