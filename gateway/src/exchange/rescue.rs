//! Second attempts beside a first that waits: the rescue of a request while its endpoint, backend or cluster is
//! suspected, and the tie of a trial request.
//!
//! The first attempt runs in the exchange's own future and allocates nothing. Each further one is a [`Lane`], boxed: its
//! request was written out when it began, so that it borrows nothing of the exchange. The first answer wins. A loser
//! whose endpoint is in doubt is not closed but listened to for a while, in a task of its own: its late answer, or its
//! silence, is evidence.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use routing::health::action::Advice;
use routing::health::endpoint::Outcome;
use routing::model::{HedgeMode, RetryPolicy};
use routing::retry::{Body, Failure, FailureKind, Response, Sent};
use routing::table::Pick;
use routing::time::MonoTime;
use wire::h1::limits::HeadLimits;
use wire::head::Method;

use super::account::Held;
use super::attempt::{Blame, Failed, Flow, Upstream, request_bytes};
use super::scratch::Answer;
use crate::net::conn::Conn;
use crate::net::{self, Buf, Class, acquire};
use crate::observe::recorder::{What, Whom};
use crate::observe::stats::Limit;
use crate::upstream::pool::RESPONSE_HEADROOM;
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
}

/// Polls the lanes; the first that has ended leaves the list.
pub(super) fn poll(lanes: &mut Vec<Lane>, cx: &mut Context<'_>) -> Poll<Landed> {
    for index in 0..lanes.len() {
        if let Poll::Ready(landed) = lanes[index].flight.as_mut().poll(cx) {
            drop(lanes.remove(index));
            return Poll::Ready(landed);
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

/// May the request be sent a second time while the first is under way?
fn may_repeat(flow: &Flow<'_>) -> bool {
    let policy: &RetryPolicy = &flow.rule.policy().retry;
    let (head, work) = (flow.view.head, &*flow.work);
    flow.attempt < policy.attempts
        && (head.method.is_idempotent() || policy.non_idempotent)
        && !work.upload.wants_more()
        && work.replayable() == Body::Replayable
        && work.interim == 0
        && work.fallen.is_none()
        && head.upgrade.is_none()
}

/// Starts an attempt elsewhere, for the recorder's `what`. `false` when there is nothing better than what is under way.
fn start(flow: &mut Flow<'_>, beside: &Pick, what: What, now: MonoTime) -> bool {
    flow.work.tried.note(beside);
    let subject = super::subject(flow.client, flow.view);
    let picked = {
        let (table, mut rng) = (flow.worker.table.borrow(), flow.worker.rng.borrow_mut());
        table.pick(flow.rule, &subject, &flow.work.tried, now, &mut rng)
    };
    let Ok(pick) = picked else { return false };
    let outlier = flow.rule.policy().outlier;
    let same =
        pick.endpoint == beside.endpoint || flow.lanes.iter().any(|lane| lane.pick.endpoint == pick.endpoint);
    if same {
        flow.worker.table.borrow().release(pick.endpoint);
        return false;
    }
    let held = Held::new(flow.worker, pick, now, outlier, &flow.client.deadline);
    let Ok(request) = request_in_full(flow, &pick) else { return false };
    flow.worker.table.borrow().on_hedge(beside, now);
    flow.worker.stats.hedges_total.inc();
    flow.worker.recorder.note(now, Whom::from(&pick), what);
    flow.attempt += 1;
    let flight = Box::pin(fly(Flight {
        worker: Rc::clone(flow.worker),
        held,
        request,
        limits: flow.settings.head.clone(),
        method: flow.view.head.method,
        pending_max: flow.settings.pending_connects_max,
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

/// What a lane needs: all its own.
struct Flight {
    worker: Rc<Worker>,
    held: Held,
    request: Vec<Buf>,
    limits: HeadLimits,
    method: Method,
    pending_max: u32,
}

async fn fly(mut flight: Flight) -> Landed {
    let result = attempt(&mut flight).await;
    Landed { held: flight.held, result }
}

async fn attempt(flight: &mut Flight) -> Result<Ready, Failed> {
    let (worker, endpoint) = (&flight.worker, flight.held.pick.endpoint);
    match worker.drill_fault(flight.held.pick.cluster) {
        None => {}
        Some(Fault::Blackhole | Fault::Latency(_)) => std::future::pending().await,
        Some(Fault::Refuse) => return Err(failed(FailureKind::Connect, Blame::Endpoint)),
        Some(Fault::Status(status)) => return Err(failed(FailureKind::Status(status), Blame::Endpoint)),
    }
    let taken = worker.pool.take(endpoint);
    worker.stats.idle_closed_total.add(u64::from(taken.closed));
    let mut conn = match taken.conn {
        Some(conn) => {
            worker.stats.reuses_total.inc();
            conn
        }
        None => connect(flight).await?,
    };
    if !conn.is_reading() {
        let buf = acquire(Class::Small, RESPONSE_HEADROOM)
            .ok_or_else(|| failed(FailureKind::Closed, Blame::Gateway))?;
        conn.start_read(buf);
    }
    for buf in flight.request.drain(..) {
        // A response may come all the same, and says more than the broken write.
        if conn.flush().await.is_err() {
            break;
        }
        conn.start_write(buf);
    }
    let (buf, answer) = head(&mut conn, &flight.held, &flight.worker, &flight.limits, flight.method)
        .await
        .ok_or_else(|| failed(FailureKind::Closed, Blame::Endpoint))?;
    let up =
        Upstream { conn, reused: false, write_failed: false, sent: Sent::Head, begun: flight.held.since };
    Ok(Ready { up, buf, answer })
}

async fn connect(flight: &Flight) -> Result<Conn, Failed> {
    let (worker, pick) = (&flight.worker, &flight.held.pick);
    if !worker.pool.connect_begins(pick.endpoint, flight.pending_max) {
        worker.stats.hit(Limit::EndpointPending);
        return Err(failed(FailureKind::Connect, Blame::Gateway));
    }
    let connected = net::listen::connect(pick.addr).await;
    worker.pool.connect_ends(pick.endpoint);
    let Ok(conn) = connected else {
        worker.stats.connect_failures_total.inc();
        return Err(failed(FailureKind::Connect, Blame::Endpoint));
    };
    let now = clock::now();
    worker.table.borrow().on_connected(pick.endpoint, now.since(flight.held.since), now);
    worker.stats.connects_total.inc();
    Ok(conn)
}

/// Reads until a final response head is complete. Interim ones are not passed on: they came for a request that may yet
/// be answered by another.
async fn head(
    conn: &mut Conn,
    held: &Held,
    worker: &Worker,
    limits: &HeadLimits,
    method: Method,
) -> Option<(Buf, Answer)> {
    loop {
        let (result, mut buf) = conn.finish_read().await;
        if result.ok()? == 0 {
            return None;
        }
        held.heard(clock::now());
        loop {
            let decoded = worker.scratch.borrow_mut().decode(buf.bytes(), limits, method).ok()?;
            match decoded {
                Some(answer) if answer.status >= 200 => return Some((buf, answer)),
                Some(answer) if answer.status == 101 => return None,
                Some(answer) => buf.consume(answer.head_len),
                None => break,
            }
        }
        if buf.is_empty() {
            buf.reset(RESPONSE_HEADROOM);
        }
        if buf.readroom() == 0 {
            return None;
        }
        conn.start_read(buf);
    }
}

fn failed(kind: FailureKind, blame: Blame) -> Failed {
    let failure = Failure { kind, sent: Sent::Head, response: Response::NotBegun, body: Body::Replayable };
    Failed { blame, failure, reason: "second_attempt_failed" }
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
                    landed.held.answered(status, Outcome::of_status(status, &policy), clock::now());
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
    let (limits, method) = (flow.settings.head.clone(), flow.view.head.method);
    let worker = Rc::clone(flow.worker);
    listen(flow.worker, flow.settings.detached_max, async move {
        let Upstream { mut conn, .. } = up;
        match head(&mut conn, &held, &worker, &limits, method).await {
            Some((_, answer)) => {
                let outcome = Outcome::of_status(answer.status, &policy);
                held.answered(answer.status, outcome, clock::now());
            }
            None => held.failed(&failed(FailureKind::Closed, Blame::Endpoint), clock::now()),
        }
    });
}

/// Sends a copy of the request to a mirror, in a task of its own.
pub(super) fn send_copy(flow: &mut Flow<'_>, mut held: Held) {
    // The client's deadline is not the copy's: it must not wake the exchange.
    held.waits_no_more();
    let Ok(request) = request_in_full(flow, &held.pick) else { return };
    let flight = Flight {
        worker: Rc::clone(flow.worker),
        held,
        request,
        limits: flow.settings.head,
        method: flow.view.head.method,
        pending_max: flow.settings.pending_connects_max,
    };
    flow.worker.stats.mirrored_total.inc();
    let policy = flow.rule.policy().retry.clone();
    listen(flow.worker, flow.settings.detached_max, async move {
        let Landed { mut held, result } = fly(flight).await;
        match result {
            Ok(ready) => {
                let outcome = Outcome::of_status(ready.answer.status, &policy);
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
