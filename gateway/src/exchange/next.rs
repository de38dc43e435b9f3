//! What follows an attempt: the end, or another one.

use routing::failover::Tried;
use routing::retry::{Body, Charge, Decision};
use routing::table::{Pick, RuleRef};
use wire::head::Persistence;

use super::attempt::{Blame, End, Failed, Fault};
use super::grpc;
use super::reply::{self, Reply};
use super::work::Fallen;
use super::{After, Request};
use crate::observe::recorder::{What, Whom};
use crate::observe::stats::Limit;
use crate::worker::clock;

/// What follows.
pub(super) enum Next {
    Done(After),
    /// On a fresh connection; not counted as an attempt.
    Anew,
    Again,
}

impl Request<'_> {
    pub(super) async fn after(&mut self, rule: &RuleRef, pick: &Pick, attempt: u8, end: End) -> Next {
        let failed = match end {
            End::Complete(complete) => return Next::Done(self.complete(complete.client)),
            End::TunnelEnded(after) => return Next::Done(after),
            End::Cut | End::Ended => {
                self.entry.reason = "response_cut";
                return Next::Done(After::Abort);
            }
            End::ClientGone => {
                self.worker.stats.client_aborts_total.inc();
                self.entry.reason = "client_gone";
                return Next::Done(After::Abort);
            }
            End::ClientFault(fault) => return Next::Done(self.client_fault(fault).await),
            End::Diverted(status) => {
                self.work.fallen = Some(Fallen::Status(status));
                self.work.tried = Tried::new();
                return Next::Anew;
            }
            End::Stopped => return Next::Done(self.reply(Reply::shed(grpc::DRAINED)).await),
            End::Expired => return Next::Done(self.reply(grpc::expired()).await),
            End::Failed(failed) => failed,
        };
        if self.work.call.has_expired() {
            return Next::Done(self.reply(grpc::expired()).await);
        }
        if self.is_lost_race(&failed) {
            self.work.raced = true;
            self.worker.stats.moves_total.inc();
            return Next::Anew;
        }
        if failed.blame == Blame::Left {
            let what = What::Retry { failure: failed.failure.kind, charge: Charge::Free };
            self.worker.recorder.note(self.work.seen, Whom::from(pick), what);
            self.worker.stats.moves_total.inc();
            self.work.tried.note(pick);
            self.entry.reason = failed.reason;
            return Next::Again;
        }
        if self.work.response_by.is_some_and(|due| self.work.seen >= due) {
            return Next::Done(self.reply(Reply::new(504, failed.reason)).await);
        }
        let retry_time = rule.policy().retry.time_max;
        if !retry_time.is_zero() && self.work.seen.since(self.began) >= retry_time {
            return Next::Done(self.reply(reply::given_up(&failed)).await);
        }
        self.again(rule, pick, attempt, &failed).await
    }

    /// Tries once more elsewhere, or gives up.
    async fn again(&mut self, rule: &RuleRef, pick: &Pick, attempt: u8, failed: &Failed) -> Next {
        let decision = self.worker.table.borrow().retry(
            pick.backend,
            attempt,
            &rule.policy().retry,
            &failed.failure,
            self.view.head.method,
            clock::now(),
        );
        match decision {
            Decision::Again { charge } => {
                let what = What::Retry { failure: failed.failure.kind, charge };
                self.worker.recorder.note(self.work.seen, Whom::from(pick), what);
                match charge {
                    Charge::Budget => self.worker.stats.retries_total.inc(),
                    Charge::Free => self.worker.stats.moves_total.inc(),
                }
                self.work.tried.note(pick);
                self.entry.reason = failed.reason;
                Next::Again
            }
            Decision::GiveUp { reason } => {
                if reason == routing::retry::GiveUp::BudgetSpent {
                    self.worker.stats.hit(Limit::RetryBudget);
                }
                self.entry.gave_up = Some(reason);
                Next::Done(self.reply(reply::given_up(failed)).await)
            }
        }
    }

    /// A request that may be sent twice and met a connection that was just being closed as idle is sent once more,
    /// on a fresh connection: no failure of anybody's, so it costs no budget. Once for a request.
    pub(super) fn is_lost_race(&self, failed: &Failed) -> bool {
        failed.blame == Blame::Nobody
            && !self.work.raced
            && self.view.head.method.is_idempotent()
            && failed.failure.body == Body::Replayable
    }

    pub(super) fn complete(&mut self, client: Persistence) -> After {
        self.entry.status = self.work.answer.status;
        self.leave(client)
    }

    pub(super) async fn client_fault(&mut self, fault: Fault) -> After {
        match fault {
            Fault::Buffers => self.worker.stats.hit(Limit::BuffersBytes),
            Fault::Wire(error) => self.worker.stats.refused(error),
            Fault::Slow => {}
        }
        if self.work.response_begun {
            self.entry.reason = "client_fault";
            return After::Abort;
        }
        let reply = match fault {
            Fault::Wire(error) => Reply::new(error.status(), error.name()),
            Fault::Slow => Reply::new(408, "body_too_slow"),
            Fault::Buffers => Reply::shed("buffers_bytes_max"),
        };
        self.reply(Reply { persistence: Persistence::Close, ..reply }).await
    }
}
