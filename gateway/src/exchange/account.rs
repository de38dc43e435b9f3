//! What an exchange leaves behind: counts, the log line, and what the table learns of the endpoint.

use routing::delta::Report;
use routing::health::endpoint::Outcome;
use routing::retry::FailureKind;
use routing::table::{EndpointKey, HealthEvent, Pick, RuleRef};
use routing::time::MonoTime;

use super::Request;
use super::attempt::{Blame, End};
use crate::worker::{Worker, clock};

impl Request<'_> {
    /// Tells the table how the endpoint did.
    pub(super) fn learn(&mut self, rule: &RuleRef, pick: &Pick, end: &End) {
        let policy = rule.policy();
        let outcome = match end {
            End::Complete(_) | End::TunnelEnded => Outcome::of_status(self.work.answer.status, &policy.retry),
            // Says nothing about the endpoint.
            End::Failed(failed) if failed.blame != Blame::Endpoint => return,
            End::Failed(failed) => match failed.failure.kind {
                FailureKind::Connect => Outcome::ConnectFailed,
                FailureKind::Closed | FailureKind::Malformed => Outcome::Closed,
                FailureKind::Timeout => Outcome::Timeout,
                FailureKind::Status(status) => Outcome::ServerError(status),
            },
            End::Cut => Outcome::Closed,
            // Says nothing about the endpoint.
            End::ClientGone | End::ClientFault(_) => return,
        };
        let stats = &self.worker.stats;
        match outcome {
            Outcome::Success | Outcome::ServerError(_) => {
                let status = self.work.answer.status;
                stats.cluster(pick.cluster).tally.response(status);
                stats.backend(pick.stat).response(status);
            }
            Outcome::ConnectFailed | Outcome::Closed | Outcome::Timeout => {
                stats.cluster(pick.cluster).tally.failures.inc();
                stats.backend(pick.stat).failures.inc();
            }
        }
        let event =
            self.worker.table.borrow().on_outcome(pick.endpoint, outcome, self.work.seen, &policy.outlier);
        if let Some(event) = event {
            note_health(self.worker, event);
        }
    }

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
        self.entry.took = took;
        self.entry.first_byte = work.first_byte;
        self.entry.sent = work.sent;
        self.entry.received = work.upload.taken();
        let mut log = self.worker.log.borrow_mut();
        if log.is_on() {
            log.write(&self.entry, &self.view, self.client, &self.worker.table.borrow());
        }
        now
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

/// A picked endpoint, released when the attempt ends however it ends.
pub(super) struct Held<'a> {
    worker: &'a Worker,
    endpoint: EndpointKey,
    cluster: routing::id::ClusterId,
}

impl<'a> Held<'a> {
    pub(super) fn new(worker: &'a Worker, pick: &Pick) -> Self {
        worker.stats.cluster(pick.cluster).in_flight.add(1);
        Self { worker, endpoint: pick.endpoint, cluster: pick.cluster }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.worker.table.borrow().release(self.endpoint);
        self.worker.stats.cluster(self.cluster).in_flight.sub(1);
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
