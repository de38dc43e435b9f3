//! One request and its response: match, pick, attempt, retry, reply. The only orchestrator.
//!
//! Called by `downstream` with a decoded head. Nothing below calls back up.

mod account;
mod affinity;
mod attempt;
mod filter;
mod forward;
pub mod gzip;
mod keep;
mod pace;
mod relay;
pub mod reply;
mod rescue;
mod respond;
mod rewrite;
pub mod scratch;
mod tunnel;
mod turn;
mod wait;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use routing::failover::Tried;
use routing::model::{Fallback, HttpsRedirect, Redirect, Target};
use routing::retry::{Body, Charge, Decision};
use routing::subject::{Subject, SubjectKind};
use routing::table::{NoEndpoint, OverloadBound, Pick, RuleRef};
use routing::time::MonoTime;
use wire::head::{BodyLength, Persistence, RequestHead, RequestView};

use crate::downstream::h1::Client;
use crate::net::Buf;
use crate::observe::access_log::Entry;
use crate::observe::recorder::{What, Whom};
use crate::observe::stats::Limit;
use crate::worker::settings::Settings;
use crate::worker::{Worker, clock};
use account::InFlight;
pub use account::note_health;
pub(crate) use account::{Asked, Held};
use attempt::{Blame, End, Failed, Fault, Flow};
use filter::Fields;
use forward::RequestId;
use relay::Pump;
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
    /// Has the client said that it sends nothing more?
    client_ended: bool,
    /// Is the client read although it owes us nothing, to learn whether it left?
    watches_client: bool,
    /// When the response head must be there, whatever is tried. None until the request is complete.
    response_by: Option<MonoTime>,
    /// Was an idle connection closed under this request? Then no other idle one is tried.
    raced: bool,
    /// Why the rule's fallback is asked instead of its own backends.
    fallen: Option<Fallen>,
    /// The request id that was made here, with the first attempt: all attempts carry the same.
    request_id: Cell<Option<RequestId>>,
}

/// Why a request goes to its rule's fallback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fallen {
    /// The rule's backends have no endpoint that could serve it.
    NoEndpoint,
    /// They answered with this status.
    Status(u16),
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
        self.client_ended = false;
        self.watches_client = false;
        self.response_by = None;
        self.raced = false;
        self.fallen = None;
        self.request_id.set(None);
        self.upload.reset(BodyLength::None, BodyLength::None);
        self.download.reset(BodyLength::None, BodyLength::None);
    }

    /// Is there a copy of all that came of the body?
    fn keeps_all(&self) -> bool {
        self.keeps || self.upload.taken() == 0
    }

    /// Can the request be sent again from its first byte?
    fn replayable(&self) -> Body {
        let whole = self.keeps_all() || !self.upload.has_given();
        if whole { Body::Replayable } else { Body::Gone }
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
    /// Its place among those at once, where its rule bounds them.
    entered: Option<filter::Entered>,
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
        entered: None,
    };
    request.work.seen = began;
    // Looking costs nothing there, and a client of HTTP/2 may take any number of requests back in no time.
    request.work.watches_client = request.client.conn.is_piped();
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
    let view = RequestView { head: &exchange.request, bytes: &[] };
    let _ = reply::send(client, &view, &reply, &[]).await;
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
        if self.is_misdirected() {
            return self.reply(Reply::new(421, "misdirected")).await;
        }
        let subject = self.subject();
        let routed = self.worker.table.borrow().route(&subject);
        let rule = match routed {
            Ok(rule) => rule,
            // A worker that was just restarted: a connection that another handed to it came before the table.
            Err(_no_route) if self.worker.stats.generation.get() == 0 => {
                return self.reply(Reply::shed("no_table")).await;
            }
            Err(_no_route) => {
                self.worker.stats.unmatched_total.inc();
                return self.reply(Reply::new(404, "no_route")).await;
            }
        };
        self.entry.rule = Some(rule.clone());
        if let Some(filters) = &rule.action().filters {
            let mut stop = filter::judge(self, &rule, filters);
            if let (None, Some(basic)) = (&stop, &filters.basic) {
                stop = filter::authenticate(self, &rule, basic).await;
            }
            if let Some(stop) = stop {
                return self.stopped(stop).await;
            }
        }
        match &rule.action().target {
            Target::Forward(_) => self.forward(&rule).await,
            Target::Redirect(redirect) => self.redirect(redirect).await,
            Target::Reply { status, .. } => self.reply(Reply::new(*status, "rule")).await,
            Target::Fixed(answer) => self.reply(filter::fixed(answer, "rule")).await,
        }
    }

    async fn redirect(&mut self, redirect: &Redirect) -> After {
        let own = match self.client.conn.tls() {
            None => ("http", 80),
            Some(_) => ("https", 443),
        };
        let port = self.client.conn.local_addr().map_or(own.1, |addr| addr.port());
        let mut location = std::mem::take(&mut self.worker.scratch.borrow_mut().path);
        rewrite::location(redirect, &self.view, (own.0, port), &mut location);
        let reply = Reply { location: Some(&location), ..Reply::new(redirect.status, "redirect") };
        let after = self.reply(reply).await;
        self.worker.scratch.borrow_mut().path = location;
        after
    }

    /// A filter decided.
    async fn stopped(&mut self, stop: filter::Stop<'_>) -> After {
        match stop {
            filter::Stop::Reply(reply) => self.reply(reply).await,
            filter::Stop::ToHttps(HttpsRedirect { status, port }) => {
                let scheme = Some("https".into());
                let port = Some(port);
                self.redirect(&Redirect { scheme, hostname: None, path: None, port, status }).await
            }
        }
    }

    /// Does the request's host belong to another listener than the one that the client's server name selected? Then
    /// this connection's certificate vouches for somebody else (RFC 9110 §15.5.20; Gateway API, listener isolation).
    fn is_misdirected(&self) -> bool {
        let Some(tls) = self.client.conn.tls() else { return false };
        let host = self.view.host();
        *host != *tls.server_name.as_bytes()
            && !self.worker.table.borrow().serves(self.client.bind, tls.listener, host)
    }

    fn subject(&self) -> Subject<'_> {
        subject(self.client, self.view)
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
            let (outlier, deadline) = (policy.outlier, &self.client.deadline);
            let asked = if self.work.upload.wants_more() { Asked::InPart } else { Asked::InFull };
            let held = Held::new(self.worker, pick, self.work.seen, asked, outlier, deadline);
            let mut flow = Flow {
                worker: self.worker,
                settings: self.settings,
                client: self.client,
                view: self.view,
                work: self.work,
                rule,
                held,
                attempt,
                lanes: Vec::new(),
            };
            if attempt == 1
                && let Some(filters) = &rule.action().filters
                && let Some(mirror) = &filters.mirror
            {
                filter::mirror(&mut flow, mirror);
            }
            let end = attempt::run(&mut flow).await;
            if !matches!(end, End::Complete(_)) {
                flow.work.seen = clock::now();
            }
            flow.held.ended(&end, flow.work.seen);
            // Another attempt may have won, and some more may have been made.
            let (pick, made) = (flow.held.pick, flow.attempt);
            drop((flow.held, flow.lanes));
            attempt = made;
            self.entry.pick = Some(pick);
            self.entry.attempts = attempt;
            match self.after(rule, &pick, attempt, end).await {
                Next::Done(after) => return after,
                Next::Again => attempt += 1,
                Next::Anew => {}
            }
        }
    }

    fn pick(&mut self, rule: &RuleRef) -> Result<Pick, NoEndpoint> {
        let subject = self.subject();
        let table = self.worker.table.borrow();
        let mut rng = self.worker.rng.borrow_mut();
        let fallback = fallback_of(rule);
        let picked = match self.work.fallen {
            None => table.pick(rule, &subject, &self.work.tried, self.began, &mut rng),
            Some(_) => Err(NoEndpoint::NoUsableEndpoint),
        };
        match (picked, fallback) {
            (Err(NoEndpoint::NoUsableEndpoint), Some(fallback))
                if fallback.without_endpoint || self.work.fallen.is_some() =>
            {
                let refs = &fallback.backends;
                let pick = table.pick_among(refs, rule, &subject, &self.work.tried, self.began, &mut rng)?;
                self.work.fallen.get_or_insert(Fallen::NoEndpoint);
                // The changes that a backend of the rule asks for are not for this one.
                Ok(Pick { backend_ref: u16::MAX, ..pick })
            }
            (picked, _) => picked,
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
            End::Diverted(status) => {
                self.work.fallen = Some(Fallen::Status(status));
                self.work.tried = Tried::new();
                return Next::Anew;
            }
            End::Failed(failed) => failed,
        };
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

    fn no_endpoint(&self, none: NoEndpoint) -> Reply<'static> {
        self.worker.recorder.note(self.work.seen, Whom::default(), What::Shed { why: none });
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
        let cors = self.entry.rule.clone().filter(|rule| rule.action().filters.is_some());
        let filters = cors.as_ref().and_then(|rule| rule.action().filters.as_deref());
        let more = filters.and_then(|filters| filters.cors.as_ref());
        let more = more.map(|cors| filter::cors_fields(cors, &self.view)).unwrap_or_default();
        match reply::send(self.client, &self.view, &reply, &more).await {
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
}

fn subject<'a>(client: &Client, view: RequestView<'a>) -> Subject<'a> {
    Subject { bind: client.bind, peer: client.conn.peer(), kind: SubjectKind::Http(view) }
}

/// Where a rule's requests go that its own backends fail.
fn fallback_of(rule: &RuleRef) -> Option<&Fallback> {
    rule.action().filters.as_ref()?.fallback.as_ref()
}

enum Next {
    Done(After),
    /// On a fresh connection; not counted as an attempt.
    Anew,
    Again,
}
