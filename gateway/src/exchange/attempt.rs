//! One try of a request on one endpoint: connection, request, response head, both bodies.
//!
//! Everything happens in one task that waits for whichever of its operations finishes first, so that an early
//! response is never missed, a client that leaves cancels the upstream at once, and neither side is read faster
//! than the other side takes it.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use routing::model::{HeaderEdits, RetryPolicy, WeightedBackend};
use routing::retry::{Body, Failure, FailureKind, Response, Sent};
use routing::table::{Pick, RuleRef};
use routing::time::MonoTime;
use wire::error::WireError;
use wire::h1::encode::{self, Edits, RequestEdit, ResponseEdit};
use wire::head::{Persistence, RequestView, ResponseView};

use super::forward::Forwarding;
use super::pace::Pace;
use super::relay::copy_of;
use super::scratch::Scratch;
use super::turn::{Event, Flushed, deadline, earlier, from_client, has_passed, move_upload, next, set};
use super::{Work, reply};
use crate::accept::is_out_of_descriptors;
use crate::downstream::h1::Client;
use crate::net::conn::Conn;
use crate::net::{self, Buf, Class, acquire};
use crate::observe::stats::Limit;
use crate::upstream::pool::RESPONSE_HEADROOM;
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
    /// The client left, or must be closed without a word.
    ClientGone,
    /// The client broke the rules, or was too slow, while its body was read.
    ClientFault(Fault),
    /// An upgraded connection that has ended.
    TunnelEnded,
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
    pub pick: Pick,
    /// Is this the last attempt that the policy allows?
    pub attempt: u8,
}

/// How far an attempt's connection has come.
pub(super) struct Upstream {
    pub conn: Conn,
    /// Was it idle in the pool before?
    pub reused: bool,
    /// Set when a write failed: nothing more is sent, but a response may still come.
    pub write_failed: bool,
    /// Body bytes or head bytes were accepted by the connection.
    pub sent: Sent,
    /// When the attempt began.
    pub begun: MonoTime,
}

/// Runs one attempt.
pub(super) async fn run(flow: &mut Flow<'_>) -> End {
    let mut up = match connection(flow).await {
        Ok(up) => up,
        Err(end) => return end,
    };
    if let Err(end) = send_request(flow, &mut up) {
        return end;
    }
    let buf = match response_head(flow, &mut up).await {
        Ok(buf) => buf,
        Err(end) => return end,
    };
    flow.work.seen = clock::now();
    let latency = flow.work.seen.since(up.begun);
    flow.work.first_byte = latency;
    flow.worker.stats.cluster(flow.pick.cluster).latency.record(latency);
    let status = flow.work.answer.status;
    if status == 101 {
        return super::tunnel::run(flow, up.conn, buf).await;
    }
    if let Some(failed) = retryable(flow, status) {
        return End::Failed(failed);
    }
    super::respond::respond(flow, up, buf).await
}

// ---------------------------------------------------------------- connection

async fn connection(flow: &mut Flow<'_>) -> Result<Upstream, End> {
    let worker = flow.worker;
    let begun = flow.work.seen;
    // Who has lost the keep-alive race once gets a connection that nobody can have closed as idle.
    if !flow.work.raced {
        let taken = worker.pool.take(flow.pick.endpoint);
        worker.stats.idle_closed_total.add(u64::from(taken.closed));
        if let Some(conn) = taken.conn {
            worker.stats.reuses_total.inc();
            return Ok(Upstream { conn, reused: true, write_failed: false, sent: Sent::Nothing, begun });
        }
    }
    if !worker.pool.connect_begins(flow.pick.endpoint, flow.settings.pending_connects_max) {
        worker.stats.hit(Limit::EndpointPending);
        return Err(connect_failed(flow, Blame::Gateway, "pending_per_endpoint_max"));
    }
    let connected = connect(flow, begun).await;
    worker.pool.connect_ends(flow.pick.endpoint);
    let conn = connected?;
    worker.stats.connects_total.inc();
    Ok(Upstream { conn, reused: false, write_failed: false, sent: Sent::Nothing, begun })
}

async fn connect(flow: &mut Flow<'_>, begun: MonoTime) -> Result<Conn, End> {
    let timeout = flow.rule.policy().timeouts.connect;
    let due = earlier(deadline(begun, timeout), flow.work.response_by);
    let mut connecting = pin!(net::listen::connect(flow.pick.addr));
    loop {
        set(flow.client, due);
        let client = &mut *flow.client;
        let first = poll_fn(|cx| match connecting.as_mut().poll(cx) {
            Poll::Ready(result) => Poll::Ready(Some(result)),
            Poll::Pending => client.deadline.poll(cx).map(|()| None),
        });
        match first.await {
            Some(Ok(conn)) => return Ok(conn),
            Some(Err(error)) if is_out_of_descriptors(&error) => {
                flow.worker.stats.hit(Limit::Descriptors);
                return Err(connect_failed(flow, Blame::Gateway, "descriptors"));
            }
            Some(Err(_error)) => return Err(failed_connect(flow, "connect_failed")),
            None if flow.worker.is_stopping() => return Err(End::ClientGone),
            None if has_passed(due) => return Err(failed_connect(flow, "connect_timeout")),
            None => {}
        }
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
    let work = &mut *flow.work;
    let backend = backend_edits(flow.rule, &flow.pick);
    let forwarding = Forwarding::new(flow.worker, flow.settings, flow.client, &flow.view);
    let mut scratch = flow.worker.scratch.borrow_mut();
    let Scratch { head_out, path: path_out, .. } = &mut *scratch;
    path_out.clear();
    let rewrite = &flow.rule.action().rewrite;
    let path = super::rewrite::path(rewrite, flow.view.path(), path_out);
    let edit = RequestEdit {
        authority: rewrite.hostname.as_ref().map(|host| host.as_bytes()),
        path,
        body: flow.view.head.body,
        headers: [
            edits(&flow.rule.action().request_headers),
            backend.map_or_else(Edits::default, |b| edits(&b.request_headers)),
        ],
        forwarded: forwarding.fields(flow.settings, flow.client, &flow.view),
        upgrade: flow.view.head.upgrade.map(|span| span.of(flow.view.bytes)),
        ..RequestEdit::default()
    };
    head_out.clear();
    encode::request(head_out, &flow.view, &edit);
    let mut out = copy_of(head_out).map_err(|_| End::ClientFault(Fault::Buffers))?;
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

pub(super) fn backend_edits<'a>(rule: &'a RuleRef, pick: &Pick) -> Option<&'a WeightedBackend> {
    match &rule.action().target {
        routing::model::Target::Forward(backends) => backends.get(usize::from(pick.backend_ref)),
        routing::model::Target::Redirect(_) | routing::model::Target::Reply { .. } => None,
    }
}

pub(super) fn edits(edits: &HeaderEdits) -> Edits<'_, std::sync::Arc<str>> {
    Edits { set: &edits.set, add: &edits.add, remove: &edits.remove }
}

// ---------------------------------------------------------------- response head

/// A client is read while it waits for its answer only when that takes longer than this: most answers are faster,
/// and each read in flight pins a buffer. Until then a client that leaves is noticed when it is written to.
const WATCH_CLIENT_AFTER: Duration = Duration::from_millis(100);

/// Sends the rest of the request and waits for a final response head (or a 101).
async fn response_head(flow: &mut Flow<'_>, up: &mut Upstream) -> Result<Buf, End> {
    let mut pace = Pace::new(up.begun, flow.work.upload.taken());
    let mut due = head_due(flow, up, &pace);
    if flow.view.head.expects_continue && flow.work.upload.wants_read() {
        reply::interim_continue(flow.client).await.map_err(|_| End::ClientGone)?;
    }
    set(flow.client, due);
    loop {
        move_upload(flow, up)?;
        match next(flow, up, Flushed::Ignored).await {
            Event::UpRead((Ok(0), buf)) => return Err(closed(flow, up, &buf, "upstream_closed")),
            Event::UpRead((Err(_), buf)) => return Err(closed(flow, up, &buf, "upstream_reset")),
            Event::UpRead((Ok(_), buf)) => {
                if let Some(buf) = read_head(flow, up, buf).await? {
                    return Ok(buf);
                }
                // Passing an interim response on may have had to wait for the client.
                set(flow.client, due);
            }
            Event::UpFlushed(Ok(())) | Event::DownFlushed(Ok(())) => {}
            Event::UpFlushed(Err(_)) => {
                up.write_failed = true;
                flow.work.upload.clear();
            }
            Event::DownFlushed(Err(_)) => return Err(End::ClientGone),
            Event::DownRead(done) => {
                let uploading = flow.work.upload.wants_more();
                from_client(flow, done)?;
                if uploading && !flow.work.upload.wants_more() {
                    // The request is complete: from here on it is the backend's time that runs.
                    flow.work.seen = clock::now();
                    flow.work.response_by = deadline(flow.work.seen, flow.rule.policy().timeouts.request);
                    due = head_due(flow, up, &pace);
                    set(flow.client, due);
                }
            }
            Event::Deadline => {
                late(flow, up, due, &mut pace)?;
                flow.work.watches_client = true;
                due = head_due(flow, up, &pace);
                set(flow.client, due);
            }
        }
    }
}

/// By when the next thing must happen before the response head is there.
///
/// While the client still sends its body, the body's own pace is what counts; the time for the response begins when
/// the request is complete.
fn head_due(flow: &Flow<'_>, up: &Upstream, pace: &Pace) -> Option<MonoTime> {
    let timeouts = &flow.rule.policy().timeouts;
    if flow.work.upload.wants_more() {
        return earlier(deadline(pace.moved, timeouts.idle), pace.due(flow));
    }
    let attempt = deadline(up.begun, timeouts.attempt);
    let watch = (!flow.work.watches_client).then(|| up.begun + WATCH_CLIENT_AFTER);
    earlier(earlier(flow.work.response_by, attempt), watch)
}

/// The deadline fired: for whom?
fn late(flow: &Flow<'_>, up: &Upstream, due: Option<MonoTime>, pace: &mut Pace) -> Result<(), End> {
    if flow.worker.is_stopping() {
        return Err(End::ClientGone);
    }
    let now = clock::now();
    if due.is_none_or(|due| now < due) {
        return Ok(());
    }
    if flow.work.upload.wants_more() {
        pace.turn(flow, now)?;
        let idle = deadline(pace.moved, flow.rule.policy().timeouts.idle);
        return if idle.is_some_and(|due| now >= due) {
            Err(timed_out(flow, up, "upstream_takes_no_body"))
        } else {
            Ok(())
        };
    }
    let timeouts = &flow.rule.policy().timeouts;
    let attempt_over = deadline(up.begun, timeouts.attempt).is_some_and(|due| now >= due);
    if attempt_over || flow.work.response_by.is_some_and(|due| now >= due) {
        return Err(timed_out(flow, up, "upstream_timeout"));
    }
    Ok(())
}

/// Decodes what came. `Some` when a final head (or 101) is complete: the buffer starts with it.
async fn read_head(flow: &mut Flow<'_>, up: &mut Upstream, mut buf: Buf) -> Result<Option<Buf>, End> {
    loop {
        let (limits, method) = (&flow.settings.head, flow.view.head.method);
        let decoded = flow.worker.scratch.borrow_mut().decode(buf.bytes(), limits, method);
        match decoded {
            Ok(Some(answer)) => flow.work.answer = answer,
            Ok(None) => {
                if buf.is_empty() {
                    // Interim responses were passed on: all of the buffer is free again.
                    buf.reset(RESPONSE_HEADROOM);
                } else if buf.readroom() == 0 {
                    buf = larger(&buf).ok_or_else(|| malformed(flow, up, "response_head_too_long"))?;
                }
                up.conn.start_read(buf);
                return Ok(None);
            }
            Err(_error) => return Err(malformed(flow, up, "malformed_response")),
        }
        let status = flow.work.answer.status;
        if status >= 200 {
            return Ok(Some(buf));
        }
        if status == 101 {
            return match flow.view.head.upgrade {
                Some(_) => Ok(Some(buf)),
                None => Err(malformed(flow, up, "unexpected_101")),
            };
        }
        flow.work.interim += 1;
        if flow.work.interim > INTERIM_MAX {
            return Err(malformed(flow, up, "too_many_interim_responses"));
        }
        pass_interim(flow, &buf).await?;
        buf.consume(flow.work.answer.head_len);
    }
}

/// Interim responses that one exchange passes on (RFC 9110 §15.2 sets no bound; a flood of them is an attack).
const INTERIM_MAX: u8 = 16;

/// Passes an interim response on. 100 is not: the client was told already, or did not ask (RFC 9110 §15.2.1).
async fn pass_interim(flow: &mut Flow<'_>, buf: &Buf) -> Result<(), End> {
    if flow.work.answer.status == 100 || flow.view.head.version == wire::head::Version::Http10 {
        return Ok(());
    }
    let out = {
        let mut scratch = flow.worker.scratch.borrow_mut();
        let (limits, method) = (&flow.settings.head, flow.view.head.method);
        let (head, head_out, _) = scratch.fields(&flow.work.answer, buf.bytes(), limits, method);
        encode::response(
            head_out,
            &ResponseView { head, bytes: buf.bytes() },
            &ResponseEdit::<&str>::default(),
        );
        copy_of(head_out).map_err(|_| End::ClientFault(Fault::Buffers))?
    };
    flow.client.flush().await.map_err(|_| End::ClientGone)?;
    flow.client.conn.start_write(out);
    Ok(())
}

/// A larger buffer with the same bytes, unless it is the largest already.
fn larger(buf: &Buf) -> Option<Buf> {
    if buf.class() == Class::Bulk {
        return None;
    }
    let mut large = acquire(Class::Bulk, RESPONSE_HEADROOM)?;
    large.append(buf.bytes());
    Some(large)
}

fn retryable(flow: &Flow<'_>, status: u16) -> Option<Failed> {
    let policy: &RetryPolicy = &flow.rule.policy().retry;
    let listed = policy.statuses.contains(&status);
    let body = flow.work.replayable();
    let idempotent = flow.view.head.method.is_idempotent();
    if !listed || flow.attempt >= policy.attempts || !idempotent || body == Body::Gone {
        return None;
    }
    let failure =
        Failure { kind: FailureKind::Status(status), sent: Sent::Head, response: Response::NotBegun, body };
    Some(Failed { blame: Blame::Endpoint, failure, reason: "retryable_status" })
}

/// The connection ended before the response head was complete; `buf` holds what came of it.
fn closed(flow: &Flow<'_>, up: &Upstream, buf: &Buf, reason: &'static str) -> End {
    let raced = up.reused && buf.is_empty() && flow.work.interim == 0;
    if raced && !flow.view.head.method.is_idempotent() {
        flow.worker.stats.race_lost_total.inc();
    }
    let blame = if raced { Blame::Nobody } else { Blame::Endpoint };
    failed(flow, up, blame, FailureKind::Closed, reason)
}

fn malformed(flow: &Flow<'_>, up: &Upstream, reason: &'static str) -> End {
    failed(flow, up, Blame::Endpoint, FailureKind::Malformed, reason)
}

fn timed_out(flow: &Flow<'_>, up: &Upstream, reason: &'static str) -> End {
    failed(flow, up, Blame::Endpoint, FailureKind::Timeout, reason)
}

fn failed(flow: &Flow<'_>, up: &Upstream, blame: Blame, kind: FailureKind, reason: &'static str) -> End {
    let failure = Failure { kind, sent: up.sent, response: Response::NotBegun, body: flow.work.replayable() };
    End::Failed(Failed { blame, failure, reason })
}
