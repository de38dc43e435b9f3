//! The controller's hand in trials: splits what the compiler says, asks for figures, sends what was decided.

use std::collections::BTreeSet;
use std::sync::Arc;

use routing::delta::TableDelta;
use routing::model::StatSlot;
use routing::time::MonoTime;
use tracing::{info, warn};

use super::apart::{Haste, Touched, changed_slots};
use super::{Canary, Proof, Ruling, Trial};
use crate::broadcast::Broadcaster;
use crate::clock;
use crate::compile::Compiler;
use crate::view::{CanaryPhase, CanaryView};

/// Routes that are named in a log line and in the view; the rest is counted.
const NAMED_MAX: usize = 20;

/// Trials, or none when they are switched off or cannot be.
#[derive(Debug)]
pub(crate) struct Desk<'a> {
    canary: Option<&'a Canary>,
    /// Why trials are wanted and cannot be.
    skipped: Option<&'static str>,
    now: Option<(Trial, Touched)>,
    refused: BTreeSet<Arc<str>>,
    view: CanaryView,
}

impl<'a> Desk<'a> {
    pub(crate) fn new(canary: Option<&'a Canary>, workers: usize, compiler: &mut Compiler) -> Self {
        let skipped =
            (canary.is_some() && workers < 2).then_some("one worker has no others to be compared with");
        if let Some(reason) = skipped {
            warn!(reason, "canary.enabled is skipped: changes go to all workers at once");
        }
        let canary = canary.filter(|_| skipped.is_none());
        if canary.is_some() {
            compiler.keep_unused();
        }
        Self { canary, skipped, now: None, refused: BTreeSet::new(), view: CanaryView::default() }
    }

    /// A table is on trial: [`Desk::judge`] is to be called.
    pub(crate) fn is_watching(&self) -> bool {
        self.now.is_some()
    }

    /// The first table is everybody's.
    pub(crate) fn everything(&mut self, compiler: &mut Compiler) {
        self.now = None;
        let _ = compiler.take_before();
    }

    /// Sends what the compiler says: what cannot wait to all workers, the rest to the canary.
    pub(crate) fn send(
        &mut self,
        delta: TableDelta,
        observed_ns: u64,
        compiler: &mut Compiler,
        broadcaster: &mut Broadcaster,
    ) {
        let Some(canary) = self.canary else {
            if !delta.is_empty() {
                broadcaster.delta(delta, observed_ns, compiler.table());
            }
            return;
        };
        let before = compiler.take_before();
        let haste = if compiler.take_revoked() { Haste::AtOnce } else { Haste::Tried };
        if !delta.is_empty() {
            let was_on_trial = self.now.is_some();
            let split = broadcaster.apart.split(delta, &before, compiler.table(), haste);
            if was_on_trial || !broadcaster.apart.trial.is_empty() {
                broadcaster.lanes(split.all, split.canary, observed_ns, compiler.table());
            } else {
                broadcaster.delta(split.all, observed_ns, compiler.table());
            }
            if split.is_new {
                let changed = changed_slots(&before, compiler.table());
                self.watch(canary, &changed, compiler, broadcaster);
            }
        }
        self.release(observed_ns, compiler, broadcaster);
    }

    /// Rules that are on trial have changed, those of the routes with the slots that `changed`: their watch begins, or
    /// begins anew.
    fn watch(
        &mut self,
        canary: &Canary,
        changed: &BTreeSet<u32>,
        compiler: &mut Compiler,
        broadcaster: &mut Broadcaster,
    ) {
        let touched = broadcaster.apart.trial.touched(compiler.table());
        let refused = broadcaster.apart.refused_routes(compiler.table());
        if refused != self.refused {
            self.refused = refused;
            compiler.refuse(&self.refused, "");
        }
        if broadcaster.apart.trial.is_empty() {
            if self.now.take().is_some() {
                broadcaster.canary = None;
                self.view.withdrawn_total += 1;
                info!("the table on trial was taken back at its source");
            }
            return;
        }
        let now = MonoTime(clock::monotonic_ns());
        let by_route = !touched.slots.is_empty() && !touched.slots.contains(&0);
        let figures = (canary.measure)(&slots(&touched));
        info!(worker = 0, routes = %names(&touched.routes), watch = ?canary.policy.watch, "a table is on trial");
        let trial = match self.now.take() {
            Some((trial, _)) => trial.anew(now, figures, changed, by_route),
            None => Trial::new(0, now, now, figures, by_route),
        };
        self.now = Some((trial, touched));
    }

    /// Judges the table on trial, and sends what follows.
    pub(crate) fn judge(&mut self, compiler: &mut Compiler, broadcaster: &mut Broadcaster) {
        let (Some(canary), Some((trial, touched))) = (self.canary, &self.now) else { return };
        let now_ns = clock::monotonic_ns();
        let figures = (canary.measure)(&slots(touched));
        let tally = trial.tally(&figures);
        (self.view.answered, self.view.failed) = (tally.answered, tally.failed);
        match trial.rule(MonoTime(now_ns), &figures, &canary.policy) {
            Ruling::Watch => return,
            Ruling::Promote(proof) => {
                info!(routes = %names(&touched.routes), ?proof, requests = tally.answered, "the table on trial goes to all workers");
                match proof {
                    Proof::Compared => self.view.promoted_total += 1,
                    Proof::Unproven => self.view.unproven_total += 1,
                }
                let trial = std::mem::take(&mut broadcaster.apart.trial);
                let wanted = trial.wanted(compiler.table());
                broadcaster.lanes(wanted, TableDelta::default(), now_ns, compiler.table());
            }
            Ruling::RollBack(reason) => {
                warn!(routes = %names(&touched.routes), reason, "the table on trial is taken back: its routes stay as they were until they are changed");
                self.view.rolled_back_total += 1;
                self.view.reason.clone_from(&reason);
                let before = broadcaster.apart.trial.before();
                broadcaster.apart.refuse();
                broadcaster.lanes(TableDelta::default(), before, now_ns, compiler.table());
                self.refused = broadcaster.apart.refused_routes(compiler.table());
                compiler.refuse(&self.refused, &reason);
            }
        }
        self.now = None;
        broadcaster.canary = None;
        self.release(now_ns, compiler, broadcaster);
    }

    /// Lets go of backends that neither the sources nor rules from before refer to.
    fn release(&self, observed_ns: u64, compiler: &mut Compiler, broadcaster: &mut Broadcaster) {
        compiler.settle_places(broadcaster.apart.holds_rings());
        if !compiler.has_unused() {
            if broadcaster.apart.is_empty() {
                compiler.settle();
            }
            return;
        }
        let freed = compiler.release(&broadcaster.apart.pinned());
        if !freed.is_empty() {
            broadcaster.delta(freed, observed_ns, compiler.table());
        }
        if broadcaster.apart.is_empty() {
            compiler.settle();
        }
    }

    /// As it is shown.
    pub(crate) fn view(&self) -> CanaryView {
        let mut view = self.view.clone();
        view.phase = match (self.canary, self.skipped, &self.now) {
            (_, Some(reason), _) => CanaryPhase::Skipped(reason),
            (None, None, _) => CanaryPhase::Off,
            (Some(_), None, None) => CanaryPhase::Idle,
            (Some(_), None, Some((trial, _))) => {
                CanaryPhase::Watching { worker: 0, began_ns: trial.began.0, since_ns: trial.watched_since.0 }
            }
        };
        view.routes = self.now.iter().flat_map(|(_, touched)| touched.routes.iter().cloned()).collect();
        view.refused = self.refused.iter().cloned().collect();
        view
    }
}

fn slots(touched: &Touched) -> Vec<StatSlot> {
    touched.slots.iter().copied().map(StatSlot).collect()
}

fn names(routes: &BTreeSet<Arc<str>>) -> String {
    let mut text = routes.iter().take(NAMED_MAX).map(|name| &**name).collect::<Vec<_>>().join(", ");
    if routes.len() > NAMED_MAX {
        text += &format!(" and {} more", routes.len() - NAMED_MAX);
    }
    text
}
