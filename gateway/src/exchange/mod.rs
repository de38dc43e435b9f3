//! One request and its response: match, pick, attempt, retry, reply. The only orchestrator.
//!
//! Called by `downstream` with a decoded head. Nothing below calls back up.

mod affinity;
mod attempt;
mod forward;
mod relay;
pub mod reply;
mod respond;
mod rewrite;
pub mod scratch;
mod tunnel;
mod turn;

use std::rc::Rc;
use std::time::Duration;

use routing::delta::Report;
use routing::failover::Tried;
use routing::health::endpoint::Outcome;
use routing::model::Target;
use routing::retry::{Body, Charge, Decision, FailureKind};
use routing::subject::{Subject, SubjectKind};
use routing::table::{EndpointKey, HealthEvent, NoEndpoint, OverloadBound, Pick, RuleRef};
use routing::time::MonoTime;
use wire::head::{BodyLength, Persistence, RequestHead, RequestView};

use crate::downstream::h1::Client;
use crate::net::Buf;
use crate::observe::access_log::Entry;
use crate::observe::stats::Limit;
use crate::worker::settings::Settings;
use crate::worker::{Worker, clock};
use attempt::{Blame, End, Failed, Fault, Flow};
use relay::{Pump, PumpError, copy_of};
use reply::Reply;
use scratch::Answer;

/// What becomes of the client's connection.
pub enum After {
    /// It may carry another request.
    KeepAlive {
        /// What came behind this one, if anything.
        next: Option<Buf>,
        /// When this one was over.
        ended: MonoTime,
    },
    /// It is closed in an orderly way once the response is out.
    Close,
    /// It is reset: the response is cut, and the client must see that.
    Abort,
}

/// The memory of one exchange, used again by the next.
#[derive(Default)]
pub struct Exchange {
    /// The head that was decoded last.
    pub request: RequestHead,
    work: Work,
}

/// What attempts work with.
#[derive(Default)]
struct Work {
    answer: Answer,
    upload: Pump,
    download: Pump,
    /// The request's body as far as it came, while it may have to be sent again.
    kept: Vec<u8>,
    keeps: bool,
    /// Bytes up to which it is kept.
    keeps_max: usize,
    tried: Tried,
    next_request: Option<Buf>,
    interim: u8,
    sent: u64,
    first_byte: Duration,
    /// The last time that was read from the clock: good enough for what happens in the same turn.
    seen: MonoTime,
    response_begun: bool,
    /// Is the client read although it owes us nothing, to learn whether it left?
    watches_client: bool,
    /// When the response head must be there, whatever is tried. None until the request is complete.
    response_by: Option<MonoTime>,
    /// Was an idle connection closed under this request? Then no other idle one is tried.
    raced: bool,
}

/// Bytes that an idle exchange keeps allocated for bodies and heads.
const SCRATCH_BYTES_KEPT: usize = 16 * 1024;

impl Exchange {
    /// Gives back what an unusually large request made it allocate.
    pub fn shrink(&mut self) {
        self.work.kept.clear();
        self.work.kept.shrink_to(SCRATCH_BYTES_KEPT);
    }
}

impl Work {
    fn reset(&mut self) {
        self.kept.clear();
        self.keeps = false;
        self.tried = Tried::new();
        self.next_request = None;
        self.interim = 0;
        self.sent = 0;
        self.first_byte = Duration::ZERO;
        self.response_begun = false;
        self.watches_client = false;
        self.response_by = None;
        self.raced = false;
        self.upload.reset(BodyLength::None, BodyLength::None);
        self.download.reset(BodyLength::None, BodyLength::None);
    }

    /// Can the request be sent again from its first byte?
    fn replayable(&self) -> Body {
        let whole = self.keeps || self.upload.taken() == 0 || !self.upload.has_given();
        if whole { Body::Replayable } else { Body::Gone }
    }

    /// Takes in body bytes from the client, and keeps a copy while the bounds allow.
    fn take_upload(
        &mut self,
        worker: &Worker,
        settings: &Settings,
        buf: Buf,
    ) -> Result<Option<Buf>, PumpError> {
        let Self { upload, kept, keeps, keeps_max, .. } = self;
        let bound = KeptBound { worker, one_max: *keeps_max, all_max: settings.retry_bodies_bytes_max };
        upload.take(buf, |data| {
            if *keeps && !bound.keep(kept, data) {
                *keeps = false;
            }
        })
    }
}

/// The bounds on kept bodies: one body's, and all bodies' of the worker.
struct KeptBound<'a> {
    worker: &'a Worker,
    one_max: usize,
    all_max: usize,
}

impl KeptBound<'_> {
    /// Appends, or gives up keeping and says so.
    fn keep(&self, kept: &mut Vec<u8>, data: &[u8]) -> bool {
        let all = self.worker.replay_bytes.get() + data.len();
        let too_large = kept.len() + data.len() > self.one_max;
        if too_large || all > self.all_max {
            self.worker.stats.hit(if too_large { Limit::RetryBodyBytes } else { Limit::RetryBodiesBytes });
            self.worker.replay_bytes.set(self.worker.replay_bytes.get() - kept.len());
            kept.clear();
            return false;
        }
        self.worker.replay_bytes.set(all);
        kept.extend_from_slice(data);
        true
    }
}

/// Everything about one request that lives until its response is out.
struct Request<'a> {
    worker: &'a Rc<Worker>,
    settings: &'a Settings,
    client: &'a mut Client,
    view: RequestView<'a>,
    work: &'a mut Work,
    entry: Entry,
    began: MonoTime,
}

/// Serves the request whose head `buf` starts with and was complete at `began`.
pub async fn run(
    worker: &Rc<Worker>,
    settings: &Settings,
    exchange: &mut Exchange,
    client: &mut Client,
    buf: Buf,
    began: MonoTime,
) -> After {
    let Exchange { request: head, work } = exchange;
    work.reset();
    let _in_flight = InFlight::new(worker);
    let mut request = Request {
        worker,
        settings,
        client,
        view: RequestView { head, bytes: buf.bytes() },
        work,
        entry: Entry::default(),
        began,
    };
    request.work.seen = began;
    let mut after = request.serve(&buf.bytes()[head.head_len..]).await;
    let now = request.finish();
    if let After::KeepAlive { ended, .. } = &mut after {
        *ended = now;
    }
    after
}

/// Answers a connection whose bytes are no request; the caller closes it.
pub async fn refuse(
    worker: &Rc<Worker>,
    exchange: &mut Exchange,
    client: &mut Client,
    status: u16,
    reason: &'static str,
) {
    worker.stats.responses.response(status);
    worker.log.borrow_mut().refused(client, status, reason);
    let reply = Reply { status, reason, persistence: Persistence::Close, ..Reply::default() };
    let _ = reply::send(client, &exchange.request, &reply).await;
}

impl Request<'_> {
    async fn serve(&mut self, behind: &[u8]) -> After {
        self.worker.stats.requests_total.inc();
        if self.worker.stats.in_flight.get() > self.settings.exchanges_max {
            self.worker.stats.hit(Limit::Exchanges);
            return self.reply(Reply::shed("exchanges_max")).await;
        }
        if let Err(reply) = self.take_behind(behind) {
            return self.reply(reply).await;
        }
        let subject = self.subject();
        let routed = self.worker.table.borrow().route(&subject);
        let rule = match routed {
            Ok(rule) => rule,
            Err(_no_route) => {
                self.worker.stats.unmatched_total.inc();
                return self.reply(Reply::new(404, "no_route")).await;
            }
        };
        self.entry.rule = Some(rule.clone());
        match &rule.action().target {
            Target::Forward(_) => self.forward(&rule).await,
            Target::Redirect(redirect) => {
                let port = self.client.conn.local_addr().map_or(80, |addr| addr.port());
                let mut location = std::mem::take(&mut self.worker.scratch.borrow_mut().path);
                rewrite::location(redirect, &self.view, port, &mut location);
                let reply = Reply { location: Some(&location), ..Reply::new(redirect.status, "redirect") };
                let after = self.reply(reply).await;
                self.worker.scratch.borrow_mut().path = location;
                after
            }
            Target::Reply { status, .. } => self.reply(Reply::new(*status, "rule")).await,
        }
    }

    fn subject(&self) -> Subject<'_> {
        Subject { bind: self.client.bind, peer: self.client.conn.peer(), kind: SubjectKind::Http(self.view) }
    }

    /// What came in the same read as the head: the body's beginning, or the next request.
    fn take_behind(&mut self, behind: &[u8]) -> Result<(), Reply<'static>> {
        let head = self.view.head;
        let body = if head.upgrade.is_some() { BodyLength::None } else { head.body };
        self.work.upload.reset(body, body);
        if behind.is_empty() {
            return Ok(());
        }
        let buf = copy_of(behind).map_err(|_| Reply::shed("buffers_bytes_max"))?;
        if body.is_empty() {
            self.work.next_request = Some(buf);
            return Ok(());
        }
        // Kept until the rule says otherwise.
        self.work.keeps = true;
        self.work.keeps_max = usize::MAX;
        match self.work.take_upload(self.worker, self.settings, buf) {
            Ok(rest) => {
                self.work.next_request = rest;
                Ok(())
            }
            Err(PumpError::Wire(error)) => {
                self.worker.stats.refused(error);
                Err(Reply { persistence: Persistence::Close, ..Reply::new(error.status(), error.name()) })
            }
            Err(PumpError::Buffers) => Err(Reply::shed("buffers_bytes_max")),
        }
    }

    /// Attempts until one has an answer, or none may follow.
    async fn forward(&mut self, rule: &RuleRef) -> After {
        let policy = rule.policy();
        self.decide_keeping(rule);
        if !self.work.upload.wants_more() {
            self.work.response_by = turn::deadline(self.began, policy.timeouts.request);
        }
        let mut attempt = 1;
        loop {
            let pick = match self.pick(rule) {
                Ok(pick) => pick,
                Err(none) => return self.reply(self.no_endpoint(none)).await,
            };
            if attempt == 1 && !self.work.raced {
                self.worker.table.borrow().on_request(pick.backend, &policy.retry, self.began);
            }
            self.entry.pick = Some(pick);
            self.entry.attempts = attempt;
            let held = Held::new(self.worker, &pick);
            let mut flow = Flow {
                worker: self.worker,
                settings: self.settings,
                client: self.client,
                view: self.view,
                work: self.work,
                rule,
                pick,
                attempt,
            };
            let end = attempt::run(&mut flow).await;
            drop(held);
            if !matches!(end, End::Complete(_)) {
                self.work.seen = clock::now();
            }
            self.learn(rule, &pick, &end);
            match self.after(rule, &pick, attempt, end).await {
                Next::Done(after) => return after,
                Next::Again => attempt += 1,
                Next::Anew => {}
            }
        }
    }

    /// Is the body kept for another attempt? Not when it is known to be too large, or may not be sent again.
    fn decide_keeping(&mut self, rule: &RuleRef) {
        let retry = &rule.policy().retry;
        let fits = match self.view.head.body {
            BodyLength::None => true,
            BodyLength::Exact(length) => length <= u64::from(retry.body_bytes_max),
            BodyLength::Chunked => self.work.upload.taken() <= u64::from(retry.body_bytes_max),
            BodyLength::UntilClose => false,
        };
        if !fits {
            self.worker.stats.hit(Limit::RetryBodyBytes);
        }
        let nothing_lost = self.work.keeps || self.work.upload.taken() == 0;
        self.work.keeps = fits && nothing_lost && retry.attempts > 1;
        self.work.keeps_max = retry.body_bytes_max as usize;
    }

    fn pick(&mut self, rule: &RuleRef) -> Result<Pick, NoEndpoint> {
        let subject = self.subject();
        let table = self.worker.table.borrow();
        let mut rng = self.worker.rng.borrow_mut();
        let pick = table.pick(rule, &subject, &self.work.tried, self.began, &mut rng)?;
        Ok(pick)
    }

    /// Tells the table how the endpoint did.
    fn learn(&mut self, rule: &RuleRef, pick: &Pick, end: &End) {
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
            Outcome::Success | Outcome::ServerError(_) | Outcome::Unlisted(_) => {
                let status = self.work.answer.status;
                stats.cluster(pick.cluster).tally.response(status);
                stats.backend(pick.stat).response(status);
            }
            Outcome::Refused | Outcome::ConnectFailed | Outcome::Closed | Outcome::Timeout => {
                stats.cluster(pick.cluster).tally.failures.inc();
                stats.backend(pick.stat).failures.inc();
            }
            Outcome::Abandoned => {}
        }
        let (key, seen) = (pick.endpoint, self.work.seen);
        let event = self.worker.table.borrow().on_outcome(key, outcome, None, seen, &policy.outlier);
        if let Some(event) = event {
            note_health(self.worker, event);
        }
    }

    async fn after(&mut self, rule: &RuleRef, pick: &Pick, attempt: u8, end: End) -> Next {
        let failed = match end {
            End::Complete(complete) => return Next::Done(self.complete(complete.client)),
            End::TunnelEnded => return Next::Done(After::Close),
            End::Cut => {
                self.entry.reason = "response_cut";
                return Next::Done(After::Abort);
            }
            End::ClientGone => {
                self.worker.stats.client_aborts_total.inc();
                self.entry.reason = "client_gone";
                return Next::Done(After::Abort);
            }
            End::ClientFault(fault) => return Next::Done(self.client_fault(fault).await),
            End::Failed(failed) => failed,
        };
        if self.is_lost_race(&failed) {
            self.work.raced = true;
            self.worker.stats.moves_total.inc();
            return Next::Anew;
        }
        if self.work.response_by.is_some_and(|due| self.work.seen >= due) {
            return Next::Done(self.reply(Reply::new(504, failed.reason)).await);
        }
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
                Next::Done(self.reply(reply::given_up(&failed)).await)
            }
        }
    }

    /// A request that may be sent twice and met a connection that was just being closed as idle is sent once more,
    /// on a fresh connection: no failure of anybody's, so it costs no budget. Once for a request.
    fn is_lost_race(&self, failed: &Failed) -> bool {
        failed.blame == Blame::Nobody
            && !self.work.raced
            && self.view.head.method.is_idempotent()
            && failed.failure.body == Body::Replayable
    }

    fn complete(&mut self, client: Persistence) -> After {
        self.entry.status = self.work.answer.status;
        match client {
            Persistence::KeepAlive => {
                After::KeepAlive { next: self.work.next_request.take(), ended: self.began }
            }
            Persistence::Close => After::Close,
        }
    }

    async fn client_fault(&mut self, fault: Fault) -> After {
        if self.work.response_begun {
            self.entry.reason = "client_fault";
            return After::Abort;
        }
        let reply = match fault {
            Fault::Wire(error) => {
                self.worker.stats.refused(error);
                Reply::new(error.status(), error.name())
            }
            Fault::Slow => Reply::new(408, "body_too_slow"),
            Fault::Buffers => {
                self.worker.stats.hit(Limit::BuffersBytes);
                Reply::shed("buffers_bytes_max")
            }
        };
        self.reply(Reply { persistence: Persistence::Close, ..reply }).await
    }

    fn no_endpoint(&self, none: NoEndpoint) -> Reply<'static> {
        if let NoEndpoint::Overloaded { bound } = none {
            self.worker.stats.hit(match bound {
                OverloadBound::EndpointInFlight => Limit::EndpointInFlight,
                OverloadBound::BackendInFlight | OverloadBound::ClusterCapacity => Limit::BackendInFlight,
            });
        }
        if none.status() == 503 { Reply::shed(none.name()) } else { Reply::new(none.status(), none.name()) }
    }

    /// Answers by ourselves.
    async fn reply(&mut self, mut reply: Reply<'_>) -> After {
        self.entry.status = reply.status;
        self.entry.reason = reply.reason;
        let head = self.view.head;
        // A body that was not read to its end would be taken for the next request.
        let unread = self.work.upload.wants_more() || head.upgrade.is_some();
        if unread || head.persistence == Persistence::Close || self.worker.is_draining() {
            reply.persistence = Persistence::Close;
        }
        match reply::send(self.client, head, &reply).await {
            Ok(bytes) => self.work.sent += bytes,
            Err(_gone) => return After::Abort,
        }
        match reply.persistence {
            Persistence::KeepAlive => {
                After::KeepAlive { next: self.work.next_request.take(), ended: self.began }
            }
            Persistence::Close => After::Close,
        }
    }

    /// Counts and logs. Returns when the exchange ended.
    fn finish(&mut self) -> MonoTime {
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

enum Next {
    Done(After),
    /// On a fresh connection; not counted as an attempt.
    Anew,
    Again,
}

/// An exchange in flight, counted while it exists.
struct InFlight<'a>(&'a Worker);

impl<'a> InFlight<'a> {
    fn new(worker: &'a Worker) -> Self {
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
struct Held<'a> {
    worker: &'a Worker,
    endpoint: EndpointKey,
    cluster: routing::id::ClusterId,
}

impl<'a> Held<'a> {
    fn new(worker: &'a Worker, pick: &Pick) -> Self {
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
