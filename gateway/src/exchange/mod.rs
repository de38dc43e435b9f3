//! One request and its response: match, pick, attempt, retry, reply. The only orchestrator.
//!
//! Called by `downstream` with a decoded head. Nothing below calls back up.

mod account;
mod affinity;
mod answers;
mod attempt;
mod filter;
mod forward;
mod grpc;
pub mod gzip;
mod keep;
mod next;
mod pace;
mod pass;
mod relay;
pub mod reply;
mod rescue;
mod respond;
mod rewrite;
pub mod scratch;
mod source;
mod tunnel;
mod turn;
mod wait;
mod work;

use std::rc::Rc;

use routing::model::{Fallback, Target};
use routing::subject::{Subject, SubjectKind};
use routing::table::{NoEndpoint, Pick, RuleRef};
use routing::time::MonoTime;
use wire::head::{Method, Persistence, RequestHead, RequestView};

use crate::downstream::h1::Client;
use crate::net::Buf;
use crate::observe::access_log::Entry;
use crate::observe::stats::Limit;
use crate::worker::settings::Settings;
use crate::worker::{Worker, clock};
use account::InFlight;
pub use account::note_health;
pub(crate) use account::{Asked, Held};
use attempt::{End, Flow};
use filter::Fields;
use next::Next;
use reply::Reply;
use work::{Fallen, Work};

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

/// Bytes that an idle exchange keeps allocated for bodies and heads.
const SCRATCH_BYTES_KEPT: usize = 16 * 1024;

impl Exchange {
    /// Gives back what an unusually large request made it allocate.
    pub fn shrink(&mut self) {
        self.work.kept.clear();
        self.work.kept.shrink_to(SCRATCH_BYTES_KEPT);
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
    request.work.source = source::forwarded_by(settings, request.client, &request.view);
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
        let wrong = if self.view.head.method == Method::Post { self.hear() } else { None };
        // Before anything is answered: what an answer leaves unread would be taken for the next request.
        if let Err(reply) = self.take_behind(behind) {
            return self.reply(reply).await;
        }
        if self.worker.stats.in_flight.get() > self.settings.exchanges_max {
            self.worker.stats.hit(Limit::Exchanges);
            return self.reply(Reply::shed("exchanges_max")).await;
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
        if self.work.call.is_web()
            && let Err(reply) = self.begin_web(&rule, behind)
        {
            return self.reply(reply).await;
        }
        if let Some(reply) = wrong.filter(|_| self.work.call.is_call()) {
            return self.reply(reply).await;
        }
        if let Some(filters) = &rule.action().filters {
            let mut stop = filter::judge(self, &rule, filters);
            let proves = !filter::is_known(self, filters);
            if let (None, true, Some(basic)) = (&stop, proves, &filters.basic) {
                stop = filter::authenticate(self, &rule, basic).await;
            }
            if let (None, true, Some(external)) = (&stop, proves, &filters.external) {
                // Boxed: few rules ask, and every exchange's memory would be larger.
                stop = Box::pin(filter::ask(self, &rule, external)).await;
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

    /// Does the request's host belong to another listener than the one that the client's server name selected? Then
    /// this connection's certificate vouches for somebody else (RFC 9110 §15.5.20; Gateway API, listener isolation).
    fn is_misdirected(&self) -> bool {
        let Some(tls) = self.client.conn.tls() else { return false };
        let host = self.view.host();
        *host != *tls.server_name.as_bytes()
            && !self.worker.table.borrow().serves(self.client.bind, tls.listener, host)
    }

    fn subject(&self) -> Subject<'_> {
        subject(self.client, self.view, self.work)
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
            self.worker.pool.foresee(pick.endpoint);
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
            {
                filters.mirrors.iter().for_each(|mirror| filter::mirror(&mut flow, mirror));
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
}

fn subject<'a>(client: &Client, view: RequestView<'a>, work: &Work) -> Subject<'a> {
    let peer = work.source.unwrap_or_else(|| client.conn.peer());
    Subject { bind: client.bind, peer, kind: SubjectKind::Http(view) }
}

/// Where a rule's requests go that its own backends fail.
fn fallback_of(rule: &RuleRef) -> Option<&Fallback> {
    rule.action().filters.as_ref()?.fallback.as_ref()
}
