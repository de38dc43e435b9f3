//! One try of a request on one endpoint: connection, request, response head, both bodies.
//!
//! Everything happens in one task that waits for whichever of its operations finishes first, so that an early
//! response is never missed, a client that leaves cancels the upstream at once, and neither side is read faster
//! than the other side takes it.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use routing::health::action::Advice;
use routing::health::endpoint::Outcome;
use routing::model::{Application, HeaderEdits, RetryPolicy, WeightedBackend};
use routing::retry::{Body, Failure, FailureKind, Response, Sent};
use routing::table::{Pick, RuleRef};
use routing::time::MonoTime;
use wire::error::WireError;
use wire::grpc::TimeoutText;
use wire::h1::encode::{self, Edits, RequestEdit};
use wire::head::{Persistence, RequestView};

use super::account::Held;
use super::filter;
use super::forward::Forwarding;
use super::relay::copy_of;
use super::rescue::Lane;
use super::scratch::Scratch;
use super::turn::{deadline, earlier, has_passed, set};
use super::{After, Fallen, Work};
use crate::downstream::h1::Client;
use crate::net::{Buf, Class, acquire};
use crate::observe::stats::Limit;
use crate::tls::Stream;
use crate::upstream::dial::{self, NoConnection, REFUSED};
use crate::upstream::h2::Carries;
use crate::upstream::pool::RESPONSE_HEADROOM;
use crate::worker::drill;
use crate::worker::settings::Settings;
use crate::worker::{Worker, clock};

/// How an attempt ended.
pub(super) enum End {
    /// The response is complete, and so is what the client needs of it.
    Complete(Complete),
    /// Nothing of a response has reached the client.
    Failed(Failed),
    /// The response had begun and cannot be completed: the client must see that it is cut.
    Cut,
    /// The same where we end it ourselves: nobody's fault.
    Ended,
    /// The client left, or must be closed without a word.
    ClientGone,
    /// The client broke the rules, or was too slow, while its body was read.
    ClientFault(Fault),
    /// The time is over that the client gave its call: nobody's fault.
    Expired,
    /// The worker stops, and the call of gRPC is told so.
    Stopped,
    /// An upgraded connection that has ended, and how its client is told.
    TunnelEnded(After),
    /// The response has this status, which the rule's fallback answers instead.
    Diverted(u16),
}

/// What a complete response leaves behind.
pub(super) struct Complete {
    /// May the client's connection carry another request?
    pub client: Persistence,
}

/// Whose failure it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blame {
    /// The endpoint's.
    Endpoint,
    /// The gateway's own: a bound of its own, or no descriptors.
    Gateway,
    /// Nobody's: an idle connection was closed while the request was on its way (the keep-alive race).
    Nobody,
    /// What it waited for is down and was left: others have said what is wrong there. Free of charge: the
    /// target's capacity is the bound.
    Left,
}

/// An attempt that may be tried again elsewhere.
pub(super) struct Failed {
    /// Does it say anything about the endpoint?
    pub blame: Blame,
    /// What went wrong, as `retry` asks for it.
    pub failure: Failure,
    /// For people.
    pub reason: &'static str,
}

impl Failed {
    /// A failure of an attempt that was under way beside others.
    pub(super) fn of(flow: &Flow<'_>, kind: FailureKind, reason: &'static str) -> Self {
        let failure =
            Failure { kind, sent: Sent::Head, response: Response::NotBegun, body: flow.work.replayable() };
        Self { blame: Blame::Endpoint, failure, reason }
    }
}

/// What the client did wrong in the middle of an exchange.
pub(super) enum Fault {
    /// Its bytes are not what they should be.
    Wire(WireError),
    /// Its body came too slowly (408).
    Slow,
    /// No buffer memory is left for it (503).
    Buffers,
}

/// Everything that an attempt works with.
pub(super) struct Flow<'a> {
    pub worker: &'a Rc<Worker>,
    pub settings: &'a Settings,
    pub client: &'a mut Client,
    pub view: RequestView<'a>,
    pub work: &'a mut Work,
    pub rule: &'a RuleRef,
    /// The attempt whose response is, or will be, relayed.
    pub held: Held,
    /// Number of the latest attempt; the first is 1.
    pub attempt: u8,
    /// Attempts beside the first.
    pub lanes: Vec<Lane>,
}

/// How far an attempt's connection has come.
pub(super) struct Upstream {
    pub conn: Stream,
    /// Was it idle in the pool before?
    pub reused: bool,
    /// Set when a write failed: nothing more is sent, but a response may still come.
    pub write_failed: bool,
    /// Body bytes or head bytes were accepted by the connection.
    pub sent: Sent,
    /// When the attempt began.
    pub begun: MonoTime,
}

/// Runs one attempt, and those that are started beside it while it waits.
pub(super) async fn run(flow: &mut Flow<'_>) -> End {
    let (up, buf) = match answer(flow).await {
        Ok(answer) => answer,
        Err(end) => return end,
    };
    flow.work.first_byte = flow.work.seen.since(up.begun);
    let status = flow.work.answer.status;
    if status == 101 {
        return super::tunnel::run(flow, up.conn, buf).await;
    }
    if diverts(flow, status) {
        super::respond::keep_unused(flow, up, buf);
        return End::Diverted(status);
    }
    if let Some(failed) = retryable(flow) {
        super::respond::keep_unused(flow, up, buf);
        return End::Failed(failed);
    }
    super::respond::respond(flow, up, buf).await
}

/// The response head, and the connection that it came from.
async fn answer(flow: &mut Flow<'_>) -> Result<(Upstream, Buf), End> {
    if let Some(fault) = flow.worker.drill_fault(flow.held.pick.cluster)
        && let Some(answer) = drilled(flow, fault).await?
    {
        return Ok(answer);
    }
    let mut up = connection(flow).await?;
    send_request(flow, &mut up)?;
    super::wait::response_head(flow, up).await
}

/// What a drill does to this attempt. `None` = it goes on, a little later.
async fn drilled(flow: &mut Flow<'_>, fault: drill::Fault) -> Result<Option<(Upstream, Buf)>, End> {
    match fault {
        drill::Fault::Refuse => Err(failed_connect(flow, REFUSED)),
        drill::Fault::Status(status) => {
            let outcome = Outcome::of_status(status, &flow.rule.policy().retry);
            flow.held.answered(status, outcome, clock::now());
            Err(End::Failed(Failed::of(flow, FailureKind::Status(status), "drill")))
        }
        drill::Fault::Blackhole => super::wait::silence(flow, None).await,
        drill::Fault::Latency(delay) => {
            let until = flow.held.since + delay;
            super::wait::silence(flow, Some(until)).await
        }
    }
}

// ---------------------------------------------------------------- connection

async fn connection(flow: &mut Flow<'_>) -> Result<Upstream, End> {
    let worker = flow.worker;
    let begun = flow.work.seen;
    let spoken = dial::spoken(worker, flow.held.pick.backend);
    // Who has lost the keep-alive race once gets a connection that nobody can have closed as idle.
    if !flow.work.raced {
        let taken = worker.pool.take(flow.held.pick.endpoint, spoken.fingerprint);
        worker.stats.idle_closed_total.add(u64::from(taken.closed));
        if let Some(conn) = taken.conn {
            worker.stats.reuses_total.inc();
            return Ok(Upstream { conn, reused: true, write_failed: false, sent: Sent::Nothing, begun });
        }
    }
    if !worker.pool.connect_begins(flow.held.pick.endpoint, flow.settings.pending_connects_max) {
        worker.stats.hit(Limit::EndpointPending);
        return Err(connect_failed(flow, Blame::Gateway, "pending_per_endpoint_max"));
    }
    let connected = connect(flow, spoken.protocol, begun).await;
    worker.pool.connect_ends(flow.held.pick.endpoint);
    let (conn, reused) = connected?;
    let counter = if reused { &worker.stats.reuses_total } else { &worker.stats.connects_total };
    counter.inc();
    Ok(Upstream { conn, reused, write_failed: false, sent: Sent::Nothing, begun })
}

async fn connect(flow: &mut Flow<'_>, protocol: Application, begun: MonoTime) -> Result<(Stream, bool), End> {
    let timeout = flow.rule.policy().timeouts.connect;
    let due = earlier(deadline(begun, timeout), flow.work.response_by);
    flow.worker.heed();
    let (worker, pick) = (flow.worker, flow.held.pick);
    let carries = match wire::h2::websocket_key(&flow.view) {
        Some(_) => Carries::Tunnel,
        None => Carries::Request,
    };
    let mut connecting = pin!(dial::connect(worker, protocol, &pick, carries));
    let mut again = advised(flow, begun)?;
    loop {
        set(flow.client, earlier(earlier(due, again), flow.work.call.due));
        let client = &mut *flow.client;
        let first = poll_fn(|cx| match connecting.as_mut().poll(cx) {
            Poll::Ready(result) => Poll::Ready(Some(result)),
            Poll::Pending => client.deadline.poll(cx).map(|()| None),
        });
        match first.await {
            Some(Ok((stream, reused))) => {
                let now = clock::now();
                flow.work.seen = now;
                if !reused {
                    flow.worker.table.borrow().on_connected(pick.endpoint, now.since(begun), now);
                }
                return Ok((stream, reused));
            }
            Some(Err(none)) => return Err(no_connection(flow, none)),
            None if flow.worker.is_stopping() => return Err(stopped(flow)),
            None if flow.work.call.has_expired() => return Err(End::Expired),
            None if has_passed(due) => return Err(failed_connect(flow, "connect_timeout")),
            None => again = advised(flow, clock::now())?,
        }
    }
}

/// Asks the detector whether to go on connecting. Nothing has been sent: where it doubts, the request moves on at once,
/// while it has attempts left.
fn advised(flow: &Flow<'_>, now: MonoTime) -> Result<Option<MonoTime>, End> {
    let (held, policy) = (&flow.held, flow.rule.policy());
    let advice = flow.worker.table.borrow().advise(&held.pick, held.since, now, policy, &flow.work.tried);
    match advice {
        Advice::Stay { again } => Ok(again),
        Advice::Hedge { .. } | Advice::Leave { .. } if flow.attempt < policy.retry.attempts => {
            Err(connect_failed(flow, Blame::Gateway, "suspected"))
        }
        Advice::Hedge { .. } | Advice::Leave { .. } => Ok(None),
    }
}

fn no_connection(flow: &Flow<'_>, none: NoConnection) -> End {
    match none.fault() {
        dial::Fault::Endpoint => failed_connect(flow, none.reason()),
        dial::Fault::Gateway => {
            if none == NoConnection::Descriptors {
                flow.worker.stats.hit(Limit::Descriptors);
            }
            connect_failed(flow, Blame::Gateway, none.reason())
        }
        dial::Fault::Nobody => connect_failed(flow, Blame::Nobody, none.reason()),
    }
}

fn failed_connect(flow: &Flow<'_>, reason: &'static str) -> End {
    flow.worker.stats.connect_failures_total.inc();
    connect_failed(flow, Blame::Endpoint, reason)
}

fn connect_failed(flow: &Flow<'_>, blame: Blame, reason: &'static str) -> End {
    let failure = Failure {
        kind: FailureKind::Connect,
        sent: Sent::Nothing,
        response: Response::NotBegun,
        body: flow.work.replayable(),
    };
    End::Failed(Failed { blame, failure, reason })
}

// ---------------------------------------------------------------- request

/// Writes the head, and as much of the body as is there and fits, in one go; arms the read of the response.
fn send_request(flow: &mut Flow<'_>, up: &mut Upstream) -> Result<(), End> {
    let pick = flow.held.pick;
    let mut out = request_bytes(flow, &pick)?;
    let work = &mut *flow.work;
    work.upload.replay();
    work.upload.resend(&work.kept).map_err(|_| End::ClientFault(Fault::Buffers))?;
    if let Some(body) = work.upload.hand_out() {
        if body.len() <= out.tailroom() {
            out.append(body.bytes());
        } else {
            work.upload.put_back(body);
        }
    }
    if !up.conn.is_reading() {
        let buf = acquire(Class::Small, RESPONSE_HEADROOM).ok_or(End::ClientFault(Fault::Buffers))?;
        up.conn.start_read(buf);
    }
    up.conn.start_write(out);
    up.sent = Sent::Head;
    Ok(())
}

/// The request's head as the picked endpoint is to see it.
pub(super) fn request_bytes(flow: &Flow<'_>, pick: &Pick) -> Result<Buf, End> {
    let backend = backend_edits(flow.rule, pick);
    let own_id = &flow.work.request_id;
    let forwarding = Forwarding::new(flow.worker, flow.settings, flow.client, &flow.view, own_id);
    let mut scratch = flow.worker.scratch.borrow_mut();
    let Scratch { head_out, path: path_out, .. } = &mut *scratch;
    path_out.clear();
    let rewrite = &flow.rule.action().rewrite;
    let mut code = itoa::Buffer::new();
    // As ingress-nginx does: the fallback is asked for its root where the backend has answered.
    let path = match flow.work.fallen {
        Some(Fallen::Status(_)) => Some(b"/".as_slice()),
        Some(Fallen::NoEndpoint) | None => super::rewrite::path(rewrite, flow.view.path(), path_out),
    };
    let filters = flow.rule.action().filters.as_deref();
    // What is left of it, for this attempt.
    let timeout = flow.work.call.due.map(|due| TimeoutText::new(due.since(clock::now())));
    let content_type = flow.work.call.upstream_type(&flow.view);
    let mut failed = String::new();
    let mut own = filter::Told::new();
    if let Some(fallen) = flow.work.fallen {
        own.push(("X-Code", code.format(fallen.status()).as_bytes()));
        own.extend(filter::told_of_fallback(flow.rule, &flow.view));
    }
    own.extend(content_type.as_ref().map(|content_type| ("content-type", &content_type[..])));
    own.extend(timeout.as_ref().map(|timeout| ("grpc-timeout", timeout.as_bytes())));
    if let Some(wanted) = filters.and_then(|filters| filters.client.as_ref()) {
        own.extend(filter::shown_fields(wanted, flow.client, &mut failed));
    }
    if let Some(granted) = &flow.work.granted {
        own.extend(granted.of_request());
    }
    let edit = RequestEdit {
        authority: rewrite.hostname.as_ref().map(|host| host.as_bytes()),
        path,
        body: if flow.work.call.is_web() { flow.work.upload.framing() } else { flow.view.head.body },
        headers: [
            edits(&flow.rule.action().request_headers),
            backend.map_or_else(Edits::default, |b| edits(&b.request_headers)),
        ],
        forwarded: forwarding.fields(flow.settings, flow.client, &flow.view),
        upgrade: flow.view.head.upgrade.map(|span| span.of(flow.view.bytes)),
        own: &own,
        ..RequestEdit::default()
    };
    head_out.clear();
    encode::request(head_out, &flow.view, &edit);
    copy_of(head_out).map_err(|_| End::ClientFault(Fault::Buffers))
}

pub(super) fn backend_edits<'a>(rule: &'a RuleRef, pick: &Pick) -> Option<&'a WeightedBackend> {
    match &rule.action().target {
        routing::model::Target::Forward(backends) => backends.get(usize::from(pick.backend_ref)),
        routing::model::Target::Redirect(_)
        | routing::model::Target::Reply { .. }
        | routing::model::Target::Fixed(_) => None,
    }
}

pub(super) fn edits(edits: &HeaderEdits) -> Edits<'_, std::sync::Arc<str>> {
    Edits { set: &edits.set, add: &edits.add, remove: &edits.remove }
}

/// Is a response of this status answered by the rule's fallback? Only once, and only when the request can be sent again.
fn diverts(flow: &Flow<'_>, status: u16) -> bool {
    super::fallback_of(flow.rule).is_some_and(|fallback| fallback.statuses.contains(&status))
        && flow.work.fallen.is_none()
        && flow.work.replayable() == Body::Replayable
        && !flow.work.upload.wants_more()
}

/// Is the response one that the policy would rather have from another endpoint?
fn retryable(flow: &Flow<'_>) -> Option<Failed> {
    let policy: &RetryPolicy = &flow.rule.policy().retry;
    let (answer, body) = (&flow.work.answer, flow.work.replayable());
    let may_repeat = flow.view.head.method.is_idempotent() || policy.non_idempotent;
    let (kind, reason) = match answer.grpc {
        Some(code) if policy.grpc.contains(code) => (FailureKind::Grpc(code), "retryable_grpc_status"),
        Some(_) | None if may_repeat && policy.statuses.contains(&answer.status) => {
            (FailureKind::Status(answer.status), "retryable_status")
        }
        Some(_) | None => return None,
    };
    if flow.attempt >= policy.attempts || body == Body::Gone {
        return None;
    }
    let failure = Failure { kind, sent: Sent::Head, response: Response::NotBegun, body };
    Some(Failed { blame: Blame::Endpoint, failure, reason })
}

/// The worker ends now, and the request has no response yet.
pub(super) fn stopped(flow: &Flow<'_>) -> End {
    if flow.work.call.is_call() { End::Stopped } else { End::ClientGone }
}

/// The connection ended before the response head was complete; `buf` holds what came of it.
pub(super) fn closed(flow: &Flow<'_>, up: &Upstream, buf: &Buf, reason: &'static str) -> End {
    let raced = up.reused && buf.is_empty() && flow.work.interim == 0;
    if raced && !flow.view.head.method.is_idempotent() {
        flow.worker.stats.race_lost_total.inc();
    }
    let blame = if raced { Blame::Nobody } else { Blame::Endpoint };
    failed(flow, up, blame, FailureKind::Closed, reason)
}

/// The endpoint says that it did not process the request (REFUSED_STREAM, or above the last that its GOAWAY names: RFC 9113
/// §8.7): as good as never sent, whatever the method, and no fault of anybody's.
pub(super) fn not_processed(flow: &Flow<'_>) -> End {
    let failure = Failure {
        kind: FailureKind::Closed,
        sent: Sent::Nothing,
        response: Response::NotBegun,
        body: flow.work.replayable(),
    };
    End::Failed(Failed { blame: Blame::Nobody, failure, reason: NOT_PROCESSED })
}

/// The reason of a request that the endpoint says it did not process.
pub(super) const NOT_PROCESSED: &str = "upstream_refused_stream";

pub(super) fn malformed(flow: &Flow<'_>, up: &Upstream, reason: &'static str) -> End {
    failed(flow, up, Blame::Endpoint, FailureKind::Malformed, reason)
}

pub(super) fn timed_out(flow: &Flow<'_>, up: &Upstream, reason: &'static str) -> End {
    failed(flow, up, Blame::Endpoint, FailureKind::Timeout, reason)
}

fn failed(flow: &Flow<'_>, up: &Upstream, blame: Blame, kind: FailureKind, reason: &'static str) -> End {
    let failure = Failure { kind, sent: up.sent, response: Response::NotBegun, body: flow.work.replayable() };
    End::Failed(Failed { blame, failure, reason })
}
