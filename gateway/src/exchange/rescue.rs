//! Second attempts beside a first that waits: the rescue of a request while its endpoint, backend or cluster is
//! suspected, and the tie of a trial request.
//!
//! The first attempt runs in the exchange's own future and allocates nothing. Each further one is a [`Lane`], boxed: its
//! request was written out when it began, so that it borrows nothing of the exchange. The first answer wins. A loser
//! whose endpoint is in doubt is not closed but listened to for a while, in a task of its own: its late answer, or its
//! silence, is evidence.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use routing::health::action::Advice;
use routing::model::{Application, HedgeMode, RetryPolicy};
use routing::retry::{Body, Failure, FailureKind, Response, Sent};
use routing::table::{EndpointKey, Pick};
use routing::time::MonoTime;
use wire::h1::limits::HeadLimits;
use wire::head::Method;

use super::account::{Asked, Held};
use super::attempt::{Blame, End, Failed, Flow, NOT_PROCESSED, Upstream, request_bytes};
use super::relay::copy_of;
use super::scratch::Answer;
use super::turn::deadline;
use super::wait::{INTERIM_MAX, larger};
use crate::net::pipe::is_refused;
use crate::net::{Buf, Class, acquire};
use crate::observe::recorder::{What, Whom};
use crate::observe::stats::Limit;
use crate::tls::Stream;
use crate::upstream::dial::{self, NoConnection, REFUSED};
use crate::upstream::h2::Carries;
use crate::upstream::pool::RESPONSE_HEADROOM;
use crate::upstream::probe;
use crate::worker::drill::Fault;
use crate::worker::{Worker, clock, supervise};

/// How long a loser is listened to.
const LISTEN: Duration = Duration::from_secs(1);

/// An attempt beside the first.
pub(super) struct Lane {
    flight: Pin<Box<dyn Future<Output = Landed>>>,
    pick: Pick,
    since: MonoTime,
}

/// How a lane ended.
pub(super) struct Landed {
    pub held: Held,
    pub result: Result<Ready, Failed>,
}

/// A complete response head, with what has come behind it.
pub(super) struct Ready {
    pub up: Upstream,
    pub buf: Buf,
    pub answer: Answer,
    /// The interim responses before it, one buffer each; the client gets them when this one wins.
    pub interim: Vec<Buf>,
}

/// Polls the lanes; the first that has ended leaves the list.
pub(super) fn poll(lanes: &mut Vec<Lane>, cx: &mut Context<'_>) -> Poll<Box<Landed>> {
    for index in 0..lanes.len() {
        if let Poll::Ready(landed) = lanes[index].flight.as_mut().poll(cx) {
            drop(lanes.remove(index));
            return Poll::Ready(Box::new(landed));
        }
    }
    Poll::Pending
}

/// Asks the detector whether to go on waiting for the latest attempt, and starts another one beside it where it says
/// so and the request may be repeated. Returns when to ask again.
pub(super) fn consider(flow: &mut Flow<'_>, now: MonoTime) -> Option<MonoTime> {
    let (pick, since) = match flow.lanes.last() {
        Some(lane) => (lane.pick, lane.since),
        None => (flow.held.pick, flow.held.since),
    };
    let policy = flow.rule.policy();
    let advice = flow.worker.table.borrow().advise(&pick, since, now, policy, &flow.work.tried);
    let again = match advice {
        Advice::Stay { again } => again,
        Advice::Hedge { again, .. } if !may_repeat(flow) => Some(again),
        Advice::Hedge { why, again } => {
            if !flow.worker.table.borrow().may_hedge(pick.backend, policy, now) {
                flow.worker.stats.hit(Limit::RetryBudget);
                Some(again)
            } else if start(flow, &pick, What::Hedge { why, beside: pick.endpoint }, now) {
                None
            } else {
                Some(again)
            }
        }
        Advice::Leave { reason } => {
            if may_repeat(flow) {
                start(flow, &pick, What::Leave { reason, beside: pick.endpoint }, now);
            }
            None
        }
    };
    flow.worker.heed();
    again
}

/// Asks the detector about an attempt whose request the client is still sending. A second attempt beside it has to wait
/// for the rest, but what is down is left at once: all that came of the body is kept, goes elsewhere from its first byte,
/// and what still comes follows it.
///
/// # Errors
/// The end of the attempt, when it is left.
pub(super) fn consider_upload(flow: &Flow<'_>, now: MonoTime) -> Result<(), End> {
    let (pick, policy) = (flow.held.pick, flow.rule.policy());
    let advice = flow.worker.table.borrow().advise(&pick, now, now, policy, &flow.work.tried);
    match advice {
        Advice::Leave { .. } if may_be_sent_again(flow) => {
            let failed = Failed::of(flow, FailureKind::Closed, "left_what_is_down");
            Err(End::Failed(Failed { blame: Blame::Left, ..failed }))
        }
        Advice::Leave { .. } | Advice::Hedge { .. } | Advice::Stay { .. } => Ok(()),
    }
}

/// Starts the second attempt that a trial is tied to, where the budget has one.
pub(super) fn tie(flow: &mut Flow<'_>, now: MonoTime) {
    let (pick, policy) = (flow.held.pick, flow.rule.policy());
    if policy.hedge != HedgeMode::Disabled
        && may_repeat(flow)
        && flow.worker.table.borrow().may_hedge(pick.backend, policy, now)
    {
        start(flow, &pick, What::Tie { beside: pick.endpoint }, now);
    }
}

/// May the request be sent a second time while the first is under way? Only when all of it is there.
fn may_repeat(flow: &Flow<'_>) -> bool {
    !flow.work.upload.wants_more() && flow.work.keeps_all() && may_be_sent_again(flow)
}

/// May the request be sent again from its first byte?
fn may_be_sent_again(flow: &Flow<'_>) -> bool {
    let policy: &RetryPolicy = &flow.rule.policy().retry;
    let (head, work) = (flow.view.head, &*flow.work);
    flow.attempt < policy.attempts
        && (head.method.is_idempotent() || policy.non_idempotent)
        && work.replayable() == Body::Replayable
        && work.interim == 0
        && work.fallen.is_none()
        && head.upgrade.is_none()
}

/// Starts an attempt elsewhere, for the recorder's `what`. `false` when there is nothing better than what is under way.
fn start(flow: &mut Flow<'_>, beside: &Pick, what: What, now: MonoTime) -> bool {
    flow.work.tried.note(beside);
    let subject = super::subject(flow.client, flow.view, flow.work);
    let picked = {
        let (table, mut rng) = (flow.worker.table.borrow(), flow.worker.rng.borrow_mut());
        table.pick(flow.rule, &subject, &flow.work.tried, now, &mut rng)
    };
    let Ok(pick) = picked else { return false };
    let (outlier, policy) = (flow.rule.policy().outlier, &flow.rule.policy().timeouts);
    let same =
        pick.endpoint == beside.endpoint || flow.lanes.iter().any(|lane| lane.pick.endpoint == pick.endpoint);
    if same {
        flow.worker.table.borrow().release(pick.endpoint);
        return false;
    }
    let Ok(request) = request_in_full(flow, &pick) else {
        flow.worker.table.borrow().release(pick.endpoint);
        return false;
    };
    let held = Held::new(flow.worker, pick, now, Asked::InFull, outlier, &flow.client.deadline);
    flow.worker.table.borrow().on_hedge(beside, now);
    flow.worker.stats.hedges_total.inc();
    flow.worker.recorder.note(now, Whom::from(&pick), what);
    flow.attempt += 1;
    let flight = Box::pin(fly(Flight {
        worker: Rc::clone(flow.worker),
        held,
        request,
        limits: flow.settings.head,
        method: flow.view.head.method,
        is_call: flow.work.call.is_call(),
        pending_max: flow.settings.pending_connects_max,
        connect: policy.connect,
        due: deadline(now, policy.attempt),
    }));
    flow.lanes.push(Lane { flight, pick, since: now });
    true
}

/// The whole request as bytes: the head for this endpoint, and the kept body.
fn request_in_full(flow: &mut Flow<'_>, pick: &Pick) -> Result<Vec<Buf>, ()> {
    let mut bufs = vec![request_bytes(flow, pick).map_err(|_| ())?];
    bufs.extend(flow.work.upload.copies(&flow.work.kept).map_err(|_| ())?);
    Ok(bufs)
}

/// What an attempt needs that borrows nothing of its exchange: a lane, a mirror's copy, a question to external authentication.
pub(super) struct Flight {
    pub worker: Rc<Worker>,
    pub held: Held,
    pub request: Vec<Buf>,
    pub limits: HeadLimits,
    pub method: Method,
    /// Is it a call of gRPC?
    pub is_call: bool,
    pub pending_max: u32,
    /// How long a connect may take; zero: as long as it likes.
    pub connect: Duration,
    /// When the response head must be there.
    pub due: Option<MonoTime>,
}

pub(super) async fn fly(mut flight: Flight) -> Landed {
    let (worker, due) = (Rc::clone(&flight.worker), flight.due);
    let result = match within(&worker, due, pin!(attempt(&mut flight))).await {
        Some(result) => result,
        None => Err(failed(FailureKind::Timeout, Blame::Endpoint, "upstream_timeout")),
    };
    Landed { held: flight.held, result }
}

async fn attempt(flight: &mut Flight) -> Result<Ready, Failed> {
    let (worker, endpoint) = (&flight.worker, flight.held.pick.endpoint);
    match worker.drill_fault(flight.held.pick.cluster) {
        None => {}
        Some(Fault::Blackhole | Fault::Latency(_)) => std::future::pending().await,
        Some(Fault::Refuse) => return Err(failed(FailureKind::Connect, Blame::Endpoint, REFUSED)),
        Some(Fault::Status(status)) => {
            return Err(failed(FailureKind::Status(status), Blame::Endpoint, "drill"));
        }
    }
    let spoken = dial::spoken(worker, flight.held.pick.backend);
    let taken = worker.pool.take(endpoint, spoken.fingerprint);
    worker.stats.idle_closed_total.add(u64::from(taken.closed));
    let (mut conn, reused) = match taken.conn {
        Some(conn) => {
            worker.stats.reuses_total.inc();
            (conn, true)
        }
        None => connect(flight, spoken.protocol).await?,
    };
    if !conn.is_reading() {
        let buf = acquire(Class::Small, RESPONSE_HEADROOM)
            .ok_or_else(|| failed(FailureKind::Closed, Blame::Gateway, "buffers_bytes_max"))?;
        conn.start_read(buf);
    }
    for buf in flight.request.drain(..) {
        // A response may come all the same, and says more than the broken write.
        if conn.flush().await.is_err() {
            break;
        }
        conn.start_write(buf);
    }
    let mut interim = Vec::new();
    let listening = Listening {
        held: &flight.held,
        worker: &flight.worker,
        limits: &flight.limits,
        method: flight.method,
        is_call: flight.is_call,
    };
    match listening.head(&mut conn, &mut interim).await {
        Ok((buf, answer)) => {
            let begun = flight.held.since;
            let up = Upstream { conn, reused, write_failed: false, sent: Sent::Head, begun };
            Ok(Ready { up, buf, answer, interim })
        }
        // Nobody's fault: it was just being closed as idle.
        Err(NoHead::Closed) if reused && interim.is_empty() => {
            Err(failed(FailureKind::Closed, Blame::Nobody, "upstream_closed"))
        }
        Err(NoHead::Refused) => {
            let refused = failed(FailureKind::Closed, Blame::Nobody, NOT_PROCESSED);
            Err(Failed { failure: Failure { sent: Sent::Nothing, ..refused.failure }, ..refused })
        }
        Err(NoHead::Closed) => Err(failed(FailureKind::Closed, Blame::Endpoint, "upstream_closed")),
        Err(NoHead::Malformed) => Err(failed(FailureKind::Malformed, Blame::Endpoint, "malformed_response")),
    }
}

async fn connect(flight: &Flight, protocol: Application) -> Result<(Stream, bool), Failed> {
    let (worker, pick) = (&flight.worker, &flight.held.pick);
    if !worker.pool.connect_begins(pick.endpoint, flight.pending_max) {
        worker.stats.hit(Limit::EndpointPending);
        return Err(failed(FailureKind::Connect, Blame::Gateway, "pending_per_endpoint_max"));
    }
    let pending = Pending(worker, pick.endpoint);
    let due = deadline(flight.held.since, flight.connect);
    let connected = within(worker, due, pin!(dial::connect(worker, protocol, pick, Carries::Request))).await;
    drop(pending);
    let reason = match connected {
        Some(Ok((conn, true))) => {
            worker.stats.reuses_total.inc();
            return Ok((conn, true));
        }
        Some(Ok((conn, false))) => {
            let now = clock::now();
            worker.table.borrow().on_connected(pick.endpoint, now.since(flight.held.since), now);
            worker.stats.connects_total.inc();
            return Ok((conn, false));
        }
        Some(Err(none)) => match none.fault() {
            dial::Fault::Endpoint => none.reason(),
            dial::Fault::Gateway => {
                if none == NoConnection::Descriptors {
                    worker.stats.hit(Limit::Descriptors);
                }
                return Err(failed(FailureKind::Connect, Blame::Gateway, none.reason()));
            }
            dial::Fault::Nobody => return Err(failed(FailureKind::Connect, Blame::Nobody, none.reason())),
        },
        None => "connect_timeout",
    };
    worker.stats.connect_failures_total.inc();
    Err(failed(FailureKind::Connect, Blame::Endpoint, reason))
}

/// A connect under way, counted while this exists: a lane may be dropped at any time.
struct Pending<'a>(&'a Worker, EndpointKey);

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.pool.connect_ends(self.1);
    }
}

/// The future's result, or `None` when it is not there by `due`.
async fn within<T>(worker: &Rc<Worker>, due: Option<MonoTime>, future: impl Future<Output = T>) -> Option<T> {
    match due {
        None => Some(future.await),
        Some(due) => probe::within(worker, &worker.deadline(), due, future).await,
    }
}

/// Who reads a response head that the exchange does not wait for by itself.
struct Listening<'a> {
    held: &'a Held,
    worker: &'a Worker,
    limits: &'a HeadLimits,
    method: Method,
    /// Is it a call of gRPC?
    is_call: bool,
}

/// Why there is no response head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NoHead {
    Closed,
    /// The endpoint says that it did not process the request.
    Refused,
    Malformed,
}

impl Listening<'_> {
    /// Reads until a final response head is complete. Interim ones are put aside: they came for a request that may yet
    /// be answered by another.
    async fn head(&self, conn: &mut Stream, interim: &mut Vec<Buf>) -> Result<(Buf, Answer), NoHead> {
        loop {
            let (result, mut buf) = conn.finish_read().await;
            if is_refused(&result) {
                return Err(NoHead::Refused);
            }
            if !result.is_ok_and(|n| n > 0) {
                return Err(if buf.is_empty() { NoHead::Closed } else { NoHead::Malformed });
            }
            self.held.heard(clock::now());
            loop {
                let decoded = self.worker.scratch.borrow_mut().decode(buf.bytes(), self.limits, self.method);
                let Some(mut answer) = decoded.map_err(|_| NoHead::Malformed)? else { break };
                if answer.status >= 200 {
                    if self.is_call {
                        answer.grpc = self.worker.scratch.borrow().grpc_code(buf.bytes());
                    }
                    return Ok((buf, answer));
                }
                if answer.status == 101 || interim.len() >= usize::from(INTERIM_MAX) {
                    return Err(NoHead::Malformed);
                }
                interim.push(copy_of(&buf.bytes()[..answer.head_len]).map_err(|_| NoHead::Malformed)?);
                buf.consume(answer.head_len);
            }
            if buf.is_empty() {
                buf.reset(RESPONSE_HEADROOM);
            } else if buf.readroom() == 0 {
                buf = larger(&buf).ok_or(NoHead::Malformed)?;
            }
            conn.start_read(buf);
        }
    }
}

/// The first attempt was sent, whatever became of this one.
fn failed(kind: FailureKind, blame: Blame, reason: &'static str) -> Failed {
    let failure = Failure { kind, sent: Sent::Head, response: Response::NotBegun, body: Body::Replayable };
    Failed { blame, failure, reason }
}

// ---------------------------------------------------------------- losers

/// Lets the lanes go: another attempt has won.
pub(super) fn let_lanes_go(flow: &mut Flow<'_>) {
    for lane in std::mem::take(&mut flow.lanes) {
        if in_doubt(flow, &lane.pick, lane.since) {
            let policy = flow.rule.policy().retry.clone();
            listen(flow.worker, flow.settings.detached_max, async move {
                let mut landed = lane.flight.await;
                if let Ok(ready) = &landed.result {
                    let status = ready.answer.status;
                    landed.held.answered(status, ready.answer.outcome(&policy), clock::now());
                } else if let Err(failed) = &landed.result {
                    landed.held.failed(failed, clock::now());
                }
            });
        }
    }
}

/// Lets the first attempt go: a lane has won.
pub(super) fn let_first_go(flow: &Flow<'_>, up: Upstream, mut held: Held) {
    held.waits_no_more();
    if !in_doubt(flow, &held.pick, held.since) {
        return;
    }
    let policy = flow.rule.policy().retry.clone();
    let (limits, method, is_call) = (flow.settings.head, flow.view.head.method, flow.work.call.is_call());
    let worker = Rc::clone(flow.worker);
    listen(flow.worker, flow.settings.detached_max, async move {
        let Upstream { mut conn, .. } = up;
        let listening = Listening { held: &held, worker: &worker, limits: &limits, method, is_call };
        match listening.head(&mut conn, &mut Vec::new()).await {
            Ok((_, answer)) => {
                let outcome = answer.outcome(&policy);
                held.answered(answer.status, outcome, clock::now());
            }
            Err(_) => {
                let failed = failed(FailureKind::Closed, Blame::Endpoint, "upstream_closed");
                held.failed(&failed, clock::now());
            }
        }
    });
}

/// Sends a copy of the request to a mirror, in a task of its own.
pub(super) fn send_copy(flow: &mut Flow<'_>, mut held: Held) {
    // The client's deadline is not the copy's: it must not wake the exchange.
    held.waits_no_more();
    let Ok(request) = request_in_full(flow, &held.pick) else { return };
    let timeouts = flow.rule.policy().timeouts;
    let flight = Flight {
        worker: Rc::clone(flow.worker),
        held,
        request,
        limits: flow.settings.head,
        method: flow.view.head.method,
        is_call: flow.work.call.is_call(),
        pending_max: flow.settings.pending_connects_max,
        connect: timeouts.connect,
        due: deadline(clock::now(), timeouts.attempt),
    };
    flow.worker.stats.mirrored_total.inc();
    let policy = flow.rule.policy().retry.clone();
    listen(flow.worker, flow.settings.detached_max, async move {
        let Landed { mut held, result } = fly(flight).await;
        match result {
            Ok(ready) => {
                let outcome = ready.answer.outcome(&policy);
                held.answered(ready.answer.status, outcome, clock::now());
            }
            Err(failed) => held.failed(&failed, clock::now()),
        }
    });
}

/// Is a late answer of this attempt worth waiting for?
fn in_doubt(flow: &Flow<'_>, pick: &Pick, since: MonoTime) -> bool {
    let (policy, now) = (flow.rule.policy(), clock::now());
    pick.trial
        || match flow.worker.table.borrow().advise(pick, since, now, policy, &flow.work.tried) {
            Advice::Stay { .. } => false,
            Advice::Hedge { .. } | Advice::Leave { .. } => true,
        }
}

/// Runs `flight` in a task of its own, for at most [`LISTEN`]. Dropped, and so closed, when there are too many.
fn listen(worker: &Rc<Worker>, max: u32, flight: impl Future<Output = ()> + 'static) {
    if worker.detect.detached.get() >= max {
        worker.stats.hit(Limit::Detached);
        return;
    }
    worker.detect.detached.set(worker.detect.detached.get() + 1);
    worker.stats.detached_total.inc();
    let owner = Rc::clone(worker);
    supervise::spawn_guarded(worker, async move {
        let deadline = owner.deadline();
        let due = clock::now() + LISTEN;
        // Boxed once: it is dropped before the count goes down.
        let mut flight = Some(Box::pin(flight));
        deadline.set(due);
        poll_fn(|cx| {
            let Some(running) = flight.as_mut() else { return Poll::Ready(()) };
            if running.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            loop {
                match deadline.poll(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(()) if clock::now() >= due || owner.is_stopping() => return Poll::Ready(()),
                    Poll::Ready(()) => deadline.set(due),
                }
            }
        })
        .await;
        drop(flight.take());
        owner.detect.detached.set(owner.detect.detached.get() - 1);
    });
}
