//! What an exchange leaves behind: counts, the log line, and what the table learns of the endpoint.

use std::rc::Rc;
use std::time::Duration;

use routing::delta::Report;
use routing::health::endpoint::Outcome;
use routing::model::OutlierPolicy;
use routing::retry::FailureKind;
use routing::table::{HealthEvent, Pick};
use routing::time::MonoTime;

use super::Request;
use super::attempt::{Blame, End, Failed};
use crate::observe::recorder::{What, Whom, micros};
use crate::upstream::dial::REFUSED;
use crate::worker::detect::WaitingId;
use crate::worker::{Deadline, Worker, clock};

impl Request<'_> {
    /// Counts and logs. Returns when the exchange ended.
    pub(super) fn finish(&mut self) -> MonoTime {
        let (stats, work) = (&self.worker.stats, &mut *self.work);
        self.worker.replay_bytes.set(self.worker.replay_bytes.get().saturating_sub(work.kept.len()));
        let now = clock::now();
        let took = now.since(self.began);
        stats.latency.record(took);
        stats.sent_bytes_total.add(work.sent);
        if self.entry.status > 0 {
            stats.responses.response(self.entry.status);
        }
        if let Some(rule) = &self.entry.rule {
            stats.route(rule.action().stat).response(self.entry.status);
        }
        if work.call.is_call() {
            self.entry.grpc = work.grpc_code();
            stats.call(self.entry.grpc);
            if let Some((_, reason)) = work.call.ended {
                self.entry.reason = reason;
            }
        }
        self.entry.took = took;
        self.entry.first_byte = work.first_byte;
        self.entry.request_id = work.request_id.get();
        self.entry.sent = work.sent;
        self.entry.received = work.upload.taken();
        let mut log = self.worker.log.borrow_mut();
        if log.is_on() {
            log.write(&self.entry, &self.view, self.client, &self.worker.table.borrow());
        }
        drop(log);
        if self.worker.decisions.is_next() {
            self.remember();
        }
        now
    }

    /// Puts the decision into the sample of the last minute's.
    #[cold]
    fn remember(&self) {
        let (worker, subject) = (self.worker, self.subject());
        let went = self.entry.pick.as_ref().map(|pick| (pick.backend, pick.cluster));
        let (table, mut rng) = (worker.table.borrow(), worker.rng.borrow_mut());
        worker.decisions.keep((&subject, &self.view), self.entry.rule.as_ref(), went, &table, &mut *rng);
    }
}

/// An exchange in flight, counted while it exists.
pub(super) struct InFlight<'a>(&'a Worker);

impl<'a> InFlight<'a> {
    pub(super) fn new(worker: &'a Worker) -> Self {
        worker.stats.in_flight.add(1);
        Self(worker)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.stats.in_flight.sub(1);
    }
}

/// Is an attempt's request complete?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Yes: from now on the endpoint owes an answer.
    InFull,
    /// Its body is still on its way from the client: an endpoint that waits for it is not silent.
    InPart,
}

/// A picked endpoint: waited for from the pick to the response head, released when the attempt ends however it ends.
pub(crate) struct Held {
    worker: Rc<Worker>,
    /// The pick.
    pub pick: Pick,
    /// Since when it is waited for; the pick while the request is not complete.
    pub since: MonoTime,
    outlier: OutlierPolicy,
    /// Entry among those that are woken when the detector changes its mind; `None` once there is an outcome.
    waits: Option<WaitingId>,
    /// Does the detector count it among those that wait for an answer?
    asked: Asked,
    told: bool,
}

impl Held {
    /// Begins an attempt. `deadline` is fired when the detector has news of it. What the detector wants now is left to
    /// the next [`Worker::heed`], which the caller sees to before it waits.
    pub(crate) fn new(
        worker: &Rc<Worker>,
        pick: Pick,
        since: MonoTime,
        asked: Asked,
        outlier: OutlierPolicy,
        deadline: &Deadline,
    ) -> Self {
        worker.stats.cluster(pick.cluster).in_flight.add(1);
        worker.recorder.note(since, Whom::from(&pick), What::Pick { trial: pick.trial });
        // A trial is counted whatever its request: it is granted one at a time, and its end is waited for.
        let asked = if pick.trial { Asked::InFull } else { asked };
        if asked == Asked::InFull {
            worker.table.borrow().on_sent(&pick, since);
        }
        let waits = Some(worker.waits(&pick, deadline));
        Self { worker: Rc::clone(worker), pick, since, outlier, waits, asked, told: false }
    }

    /// The rest of the request came: from here on it is the endpoint's time that runs.
    pub(super) fn asked_in_full(&mut self, now: MonoTime) {
        if self.told || self.asked == Asked::InFull {
            return;
        }
        self.asked = Asked::InFull;
        self.since = now;
        self.worker.table.borrow().on_sent(&self.pick, now);
        self.worker.heed();
    }

    /// Nobody is to be woken for it any more.
    pub(crate) fn waits_no_more(&mut self) {
        if let Some(id) = self.waits.take() {
            self.worker.waits_no_more(id);
        }
    }

    /// Bytes came.
    pub(super) fn heard(&self, now: MonoTime) {
        self.worker.heard(self.pick.endpoint, now);
    }

    /// A response head with this status came.
    pub(super) fn answered(&mut self, status: u16, outcome: Outcome, now: MonoTime) {
        let stats = &self.worker.stats;
        stats.cluster(self.pick.cluster).tally.response(status);
        stats.backend(self.pick.stat).response(status);
        stats.cluster(self.pick.cluster).latency.record(now.since(self.since));
        self.tell(outcome, now);
    }

    /// How the attempt ended, as far as that is not known yet.
    pub(super) fn ended(&mut self, end: &End, now: MonoTime) {
        match end {
            End::Failed(failed) => self.failed(failed, now),
            End::Cut if self.told => {
                self.count_failure();
                self.worker.table.borrow().on_cut(self.pick.endpoint, now, &self.outlier);
                self.worker.heed();
            }
            End::Cut => {
                self.count_failure();
                self.tell(Outcome::Closed, now);
            }
            // Says nothing about the endpoint; what is not told yet is told as abandoned when this is dropped.
            End::Complete(_)
            | End::TunnelEnded(_)
            | End::ClientGone
            | End::ClientFault(_)
            | End::Ended
            | End::Expired
            | End::Stopped
            | End::Diverted(_) => {}
        }
    }

    /// The attempt failed before its response began.
    pub(super) fn failed(&mut self, failed: &Failed, now: MonoTime) {
        if failed.blame != Blame::Endpoint || self.told {
            return;
        }
        let outcome = match failed.failure.kind {
            FailureKind::Connect if failed.reason == REFUSED => Outcome::Refused,
            FailureKind::Connect => Outcome::ConnectFailed,
            FailureKind::Closed | FailureKind::Malformed => Outcome::Closed,
            FailureKind::Timeout => Outcome::Timeout,
            FailureKind::Status(status) => Outcome::ServerError(status),
            FailureKind::Grpc(code) => Outcome::ServerError(code.http_status()),
        };
        self.count_failure();
        self.tell(outcome, now);
    }

    fn count_failure(&self) {
        let stats = &self.worker.stats;
        stats.cluster(self.pick.cluster).tally.failures.inc();
        stats.backend(self.pick.stat).failures.inc();
    }

    /// What was learned of the endpoint: once for each attempt.
    pub(crate) fn tell(&mut self, outcome: Outcome, now: MonoTime) {
        debug_assert!(!self.told, "one outcome for each attempt");
        self.told = true;
        self.waits_no_more();
        let took = now.since(self.since);
        let what = What::Outcome { outcome, took_us: micros(took) };
        self.worker.recorder.note(now, Whom::from(&self.pick), what);
        if let Some(latency) = self.latency(outcome, took, now) {
            let table = self.worker.table.borrow();
            let event = table.on_outcome(self.pick.endpoint, outcome, Some(latency), now, &self.outlier);
            drop(table);
            if let Some(event) = event {
                note_health(&self.worker, event);
            }
        }
        self.worker.heed();
    }

    /// A connect was accepted, where that is not yet what is waited for: nothing was learned but that.
    pub(crate) fn accepted(&mut self, now: MonoTime) {
        debug_assert!(!self.told, "one outcome for each attempt");
        self.told = true;
        self.waits_no_more();
        let what = What::Outcome { outcome: Outcome::Success, took_us: micros(now.since(self.since)) };
        self.worker.recorder.note(now, Whom::from(&self.pick), what);
        let table = self.worker.table.borrow();
        let event = table.on_accepted(self.pick.endpoint, self.since, now, &self.outlier);
        drop(table);
        if let Some(event) = event {
            note_health(&self.worker, event);
        }
        self.worker.heed();
    }

    /// How long the endpoint took for this outcome, as evidence; `None` when it is none.
    ///
    /// An outcome before the request is complete says nothing of how fast the endpoint is: of such, only failures count.
    fn latency(&self, outcome: Outcome, took: Duration, now: MonoTime) -> Option<Duration> {
        match (self.asked, outcome) {
            (Asked::InFull, _) => Some(took),
            (Asked::InPart, Outcome::Success | Outcome::Abandoned) => None,
            (
                Asked::InPart,
                Outcome::ServerError(_)
                | Outcome::Unlisted(_)
                | Outcome::Closed
                | Outcome::Refused
                | Outcome::ConnectFailed
                | Outcome::Timeout,
            ) => {
                self.worker.table.borrow().on_sent(&self.pick, now);
                Some(Duration::ZERO)
            }
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if !self.told {
            self.tell(Outcome::Abandoned, clock::now());
        }
        self.worker.table.borrow().release(self.pick.endpoint);
        self.worker.stats.cluster(self.pick.cluster).in_flight.sub(1);
    }
}

/// Tells the log, the statistics and the controller that an endpoint's health changed.
pub fn note_health(worker: &Worker, event: HealthEvent) {
    match event {
        HealthEvent::Ejected { endpoint, lasts } => {
            worker.stats.ejections_total.inc();
            let for_ms = u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX);
            worker.report(Report::Ejected { worker: worker.id, endpoint, for_ms });
        }
        HealthEvent::Restored { endpoint } => {
            worker.stats.restorations_total.inc();
            worker.report(Report::Restored { worker: worker.id, endpoint });
        }
    }
}
