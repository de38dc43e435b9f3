//! The table's side of the failure detector: what the worker reports, and what it asks.
//!
//! One attempt, in order: `pick` → [`Table::on_sent`] → [`Table::on_bytes`] (any number) → [`Table::on_outcome`] →
//! `release`. While it waits, [`Table::advise`] says whether to go on waiting. All take `&self`, allocate nothing and
//! take constant time; [`Table::tick`] looks at what is overdue, and only at that.

use std::time::Duration;

pub use super::detector::owed::Unanswered;
use super::{EndpointKey, HealthEvent, Pick, Table};
use crate::failover::Tried;
use crate::health::action::{Action, Advice, ProbeResult, ProbeToken};
use crate::id::BackendId;
use crate::model::{HedgeMode, OutlierPolicy, Policy};
use crate::retry::Spend;
use crate::time::MonoTime;

impl Table {
    /// The attempt waits for its endpoint from now on: its request head was handed to a connection, or a connection
    /// for it is being opened. Once for each pick.
    ///
    /// It waits until the one [`Table::on_outcome`] that every `on_sent` is followed by.
    pub fn on_sent(&self, pick: &Pick, now: MonoTime) {
        self.live.borrow_mut().on_sent(pick.endpoint, now);
    }

    /// A byte came from this endpoint: of any connection, also of an attempt that was given up and only listened
    /// to. A connect that was accepted is no byte: a kernel accepts for an application that hangs.
    pub fn on_bytes(&self, endpoint: EndpointKey, now: MonoTime) {
        self.live.borrow_mut().on_bytes(endpoint, now);
    }

    /// A connect to this endpoint took this long: what a probe of its cluster may take is measured by it.
    pub fn on_connected(&self, endpoint: EndpointKey, took: Duration, now: MonoTime) {
        self.live.borrow_mut().on_connected(endpoint, took, now);
    }

    /// A connect that began then, and was reported by [`Table::on_sent`], was accepted where answers are usual: in place of
    /// [`Table::on_outcome`], for it proves nothing but that a kernel accepts.
    pub fn on_accepted(
        &self,
        endpoint: EndpointKey,
        began: MonoTime,
        now: MonoTime,
        policy: &OutlierPolicy,
    ) -> Option<HealthEvent> {
        self.live.borrow_mut().on_accepted(endpoint, began, now, policy)
    }

    /// A client's bytes on an established connection were passed on: they are owed an answer. At most one on each
    /// connection; until [`Table::on_replied`] or [`Table::on_unanswered`].
    pub fn on_asked(&self, endpoint: EndpointKey, now: MonoTime) {
        self.live.borrow_mut().on_asked(endpoint, now);
    }

    /// The answer to what was asked then begins.
    pub fn on_replied(&self, endpoint: EndpointKey, asked: MonoTime, now: MonoTime) {
        self.live.borrow_mut().on_replied(endpoint, asked, now);
    }

    /// What was asked then is waited for no longer.
    pub fn on_unanswered(&self, endpoint: EndpointKey, asked: MonoTime, why: Unanswered, now: MonoTime) {
        self.live.borrow_mut().on_unanswered(endpoint, asked, why, now);
    }

    /// The connection broke after the response had begun: a failure of the endpoint, of an attempt whose outcome
    /// has been reported.
    pub fn on_cut(
        &self,
        endpoint: EndpointKey,
        now: MonoTime,
        policy: &OutlierPolicy,
    ) -> Option<HealthEvent> {
        self.live.borrow_mut().on_cut(endpoint, now, policy)
    }

    /// A second attempt was started because of this one ([`Advice::Hedge`], [`Advice::Leave`]).
    pub fn on_hedge(&self, pick: &Pick, now: MonoTime) {
        self.live.borrow_mut().on_hedge(pick.endpoint, now);
    }

    /// Evaluates silence, slowness, errors and what is on its way back. To be called at [`Table::next_tick`].
    ///
    /// `lag` is how long this worker was not running before `now`, beyond what it had asked for: it is subtracted
    /// from every silence that it falls into. Up to 1 ms it does not count. After a standstill, call this before
    /// reporting the bytes that waited.
    pub fn tick(&self, now: MonoTime, lag: Duration) {
        self.live.borrow_mut().tick(now, lag);
    }

    /// How much of the time between two times this worker was running, as far as ticks told.
    #[must_use]
    pub fn awake(&self, from: MonoTime, to: MonoTime) -> Duration {
        self.live.borrow().detector.lags.awake(from, to)
    }

    /// When [`Table::tick`] is due; `None` while nothing waits for an answer, nothing is suspected, nothing is on its
    /// way back and no check is scheduled. May come earlier after any other call: ask again after each batch.
    #[must_use]
    pub fn next_tick(&self) -> Option<MonoTime> {
        self.live.borrow().next_tick()
    }

    /// What the detector wants done next. To be drained after `tick`, `on_outcome`, `on_probe`, `look` and `advise`;
    /// one `bool` test while there is nothing.
    #[must_use]
    pub fn next_action(&self) -> Option<Action> {
        self.live.borrow_mut().detector.actions.next()
    }

    /// Actions that could not be queued. Wakes and rings are never lost: they are merged.
    #[must_use]
    pub fn actions_lost(&self) -> u64 {
        self.live.borrow().detector.actions.lost
    }

    /// Verdicts that are not shared because the board has no room for them (`BoardLimits`).
    #[must_use]
    pub fn verdicts_local(&self) -> u64 {
        self.live.borrow().detector.verdicts_local
    }

    /// Probes, suspicions and verdicts that were given up because too many were under way: 256 probes in flight, 64
    /// suspicions, 1,024 verdicts.
    #[must_use]
    pub fn detector_overflows(&self) -> u64 {
        self.live.borrow().detector.overflows
    }

    /// The result of a probe; exactly one for each. Late ones and those of an endpoint that left are ignored.
    pub fn on_probe(&self, token: ProbeToken, result: ProbeResult, now: MonoTime) {
        let mut live = self.live.borrow_mut();
        live.sync(now);
        live.on_probe(token, result, now);
    }

    /// Copies what other workers changed on the board; yields a wake for each verdict that concerns attempts in flight.
    /// To be called when a peer rang. `pick` and `tick` do the same.
    pub fn look(&self, now: MonoTime) {
        self.live.borrow_mut().sync(now);
    }

    /// Should an attempt in flight go on waiting?
    ///
    /// `sent_at` is the time of its [`Table::on_sent`]; `tried` what else this exchange has tried or has in flight,
    /// this attempt apart. To be asked at `sent_at`, at the time that the last answer named, and when woken.
    #[must_use]
    pub fn advise(
        &self,
        pick: &Pick,
        sent_at: MonoTime,
        now: MonoTime,
        policy: &Policy,
        tried: &Tried,
    ) -> Advice {
        self.live.borrow_mut().advise(&self.world, pick, sent_at, now, policy, tried.len())
    }

    /// Is the late answer of an attempt that lost to another still evidence? Then listen on, for at most a second,
    /// and report what comes; else cancel it at once. In both cases one [`Table::on_outcome`] ends it.
    #[must_use]
    pub fn listens_on(&self, pick: &Pick) -> bool {
        pick.trial || self.live.borrow().is_suspected(pick.endpoint)
    }

    /// Takes one hedge from the backend's budget, of which hedges may use half.
    #[must_use]
    pub fn may_hedge(&self, backend: BackendId, policy: &Policy, now: MonoTime) -> bool {
        if policy.hedge == HedgeMode::Disabled {
            return false;
        }
        let mut live = self.live.borrow_mut();
        let entry = live.backends.get_mut(backend.index());
        match entry.and_then(|entry| entry.budget.as_mut()) {
            Some(budget) => budget.spend_hedge(now) == Spend::Paid,
            None => false,
        }
    }
}
