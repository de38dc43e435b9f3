//! The second half of an attempt: the response on its way to the client, and what may be kept afterwards.

use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use routing::model::{Filters, GrpcCode};
use routing::retry::{Failure, FailureKind, Response, Sent};
use routing::table::EndpointKey;
use routing::time::MonoTime;
use wire::h1::encode::{self, Edits, ResponseEdit};
use wire::head::{BodyLength, Persistence, RequestView, ResponseView};

use super::Fields;
use super::Work;
use super::attempt::{Blame, Complete, End, Failed, Fault, Flow, Upstream, backend_edits, edits};
use super::grpc;
use super::gzip::{self, Coding, Gzip};
use super::pace::Pace;
use super::pass::{self, Pass};
use super::relay::{Pump, PumpError, copy_of};
use super::scratch::Answer;
use super::turn::{Event, Flushed, deadline, earlier, from_client, move_upload, next, send, set};
use crate::net::conn::Done;
use crate::net::{Buf, Class};
use crate::observe::stats::Limit;
use crate::tls::Stream;
use crate::upstream::pool::Kept;
use crate::worker::settings::Settings;
use crate::worker::{Worker, clock};

/// Bytes of a body that are moved from socket to socket before the worker's other connections have their turn: about 0.1 ms.
const AT_ONCE_BYTES: usize = 2 * Class::Bulk.bytes();

/// Sends the response head and relays the body; then decides what may be kept.
pub(super) async fn respond(flow: &mut Flow<'_>, mut up: Upstream, buf: Buf) -> End {
    let (framing, implied) = encode::client_framing(flow.work.answer.body, flow.view.head.version);
    let client = if client_closes(flow) { Persistence::Close } else { implied };
    let unsolicited = match begin_response(flow, buf, framing, client).await {
        Ok(unsolicited) => unsolicited,
        Err(end) => return end,
    };
    flow.work.response_begun = true;
    if let Err(end) = relay(flow, &mut up).await {
        return end;
    }
    let uploaded = flow.work.upload.is_finished() && !up.write_failed;
    if uploaded && !unsolicited && flow.work.answer.persistence == Persistence::KeepAlive {
        keep(flow, up);
    }
    // A client that has not sent all of its request would send the rest into the next one.
    let client = if uploaded { client } else { Persistence::Close };
    End::Complete(Complete { client })
}

/// Keeps the connection of an answer that the client does not get, where all of that answer is in `buf` already: a storm of
/// failures must not become one of connects, each of which holds a port for a minute after it was closed.
pub(super) fn keep_unused(flow: &mut Flow<'_>, up: Upstream, buf: Buf) {
    let answer = flow.work.answer;
    let uploaded = flow.work.upload.is_finished() && !up.write_failed;
    if uploaded && is_whole(&mut flow.work.download, &answer, buf) {
        keep(flow, up);
    }
}

/// Is all of an answer in `buf`, nothing behind it, and may its connection carry another request?
pub(super) fn is_whole(download: &mut Pump, answer: &Answer, mut buf: Buf) -> bool {
    if answer.persistence != Persistence::KeepAlive {
        return false;
    }
    buf.consume(answer.head_len);
    download.reset(answer.body, answer.body);
    let is_whole = match answer.body.is_empty() {
        true => buf.is_empty(),
        false => matches!(download.take(buf, |_| {}), Ok(None)) && !download.wants_more(),
    };
    download.reset(BodyLength::None, BodyLength::None);
    is_whole
}

fn client_closes(flow: &Flow<'_>) -> bool {
    flow.view.head.persistence == Persistence::Close
        || flow.work.upload.wants_more()
        || (flow.work.client_ended && flow.work.next_request.is_none())
        || flow.worker.is_draining()
}

/// Starts sending the head with the body bytes that came with it. `true` when bytes lie behind the body.
async fn begin_response(
    flow: &mut Flow<'_>,
    buf: Buf,
    framing: BodyLength,
    persistence: Persistence,
) -> Result<bool, End> {
    let (out, rest) = first_bytes(flow, buf, framing, persistence)?;
    flow.client.flush().await.map_err(|_| End::ClientGone)?;
    send(flow, out);
    Ok(rest)
}

/// The head, with as much of the body as came with it, in one buffer; and whether bytes lie behind the body.
fn first_bytes(
    flow: &mut Flow<'_>,
    mut buf: Buf,
    framing: BodyLength,
    persistence: Persistence,
) -> Result<(Buf, bool), End> {
    let work = &mut *flow.work;
    let mut scratch = flow.worker.scratch.borrow_mut();
    let (limits, method) = (&flow.settings.head, flow.view.head.method);
    let (head, head_out, cookie_out) = scratch.fields(&work.answer, buf.bytes(), limits, method);
    let web = grpc::for_web(&work.call, head, buf.bytes());
    let backend = backend_edits(flow.rule, &flow.held.pick);
    let by_tls = || super::filter::came_by_tls(flow.client, &flow.view);
    let cookie = super::affinity::set_cookie(flow.rule.policy(), &flow.held.pick, by_tls, cookie_out);
    let filters = flow.rule.action().filters.as_deref();
    let cors = filters.and_then(|filters| filters.cors.as_ref());
    let response = ResponseView { head, bytes: buf.bytes() };
    let own_edits = &flow.rule.action().response_headers;
    let changed = filters.filter(|filters| !filters.responses.is_empty()).and_then(|filters| {
        let subject = super::subject(flow.client, flow.view, work);
        super::filter::changed(own_edits, &filters.responses, &subject, &response)
    });
    let rule_edits = changed.as_ref().unwrap_or(own_edits);
    let values = filters.and_then(|filters| filters.values.as_deref());
    let rewritten =
        values.map(|values| super::filter::rewritten(values, (&flow.view, by_tls()), &response, rule_edits));
    let rewritten = rewritten.unwrap_or_default();
    let asks = filters.is_some_and(|filters| filters.gzip);
    let etag = if asks { gzip::weak_etag(&response) } else { None };
    let mut own = cors.map(|cors| super::filter::cors_fields(cors, &flow.view)).unwrap_or_default();
    let gzip = compressed(flow.worker, flow.settings, filters, &flow.view, &response, &mut own);
    let framing = if gzip.is_some() || web.is_some() { BodyLength::Chunked } else { framing };
    own.extend(web.as_ref().map(|web| ("Content-Type", &web.content_type[..])));
    own.extend(etag.as_ref().filter(|_| gzip.is_some()).map(|etag| ("ETag", &**etag)));
    own.extend(rewritten.fields());
    if let Some(granted) = &work.granted {
        own.extend(granted.cookies(work.answer.status));
    }
    let edit = ResponseEdit {
        version: flow.view.head.version,
        body: framing,
        persistence,
        headers: [edits(rule_edits), backend.map_or_else(Edits::default, |b| edits(&b.response_headers))],
        set_cookie: cookie,
        via: flow.settings.via_responses.then_some(super::forward::VIA_NAME),
        upgrade: None,
        own: &own,
        replaces_cookies: rewritten.replaces_cookies(),
    };
    encode::response(head_out, &response, &edit);
    drop(own);
    buf.consume(work.answer.head_len);
    work.download.reset(work.answer.body, framing);
    if let Some(gzip) = gzip {
        work.download.compress(gzip);
    }
    if let Some(web) = web {
        web.begin(&mut work.download).map_err(|_| End::ClientFault(Fault::Buffers))?;
    }
    let rest = if work.answer.body.is_empty() {
        !buf.is_empty()
    } else {
        match work.download.take(buf, |_| {}) {
            Ok(rest) => rest.is_some(),
            Err(PumpError::Wire(_)) => return Err(End::Failed(bad_body(work))),
            // Of our own: no fault of the endpoint's.
            Err(PumpError::Buffers) => return Err(End::ClientFault(Fault::Buffers)),
        }
    };
    let out = joined(work, head_out)?;
    Ok((out, rest))
}

/// Head and body leave in one send: the head is put before the body, where the backend's head was.
fn joined(work: &mut Work, head: &[u8]) -> Result<Buf, End> {
    match work.download.hand_out().map(|mut body| (body.prepend(head), body)) {
        Some((true, whole)) => return Ok(whole),
        Some((false, body)) => work.download.put_back(body),
        None => {}
    }
    copy_of(head).map_err(|_| End::ClientFault(Fault::Buffers))
}

/// A stream to compress the response with, when it is to be; the fields that say so go to `own`.
fn compressed(
    worker: &Worker,
    settings: &Settings,
    filters: Option<&Filters>,
    request: &RequestView<'_>,
    response: &ResponseView<'_>,
    own: &mut Fields<'_>,
) -> Option<Box<Gzip>> {
    if !filters.is_some_and(|filters| filters.gzip) {
        return None;
    }
    let coding = gzip::coding(request, response);
    if coding == Coding::Untouched {
        return None;
    }
    own.push(("Vary", b"Accept-Encoding"));
    if coding == Coding::Varies {
        return None;
    }
    let Some(stream) = worker.gzip.open(settings.gzip_streams_max) else {
        worker.stats.hit(Limit::GzipStreams);
        return None;
    };
    own.push(("Content-Encoding", b"gzip"));
    // Its bytes are made anew for each request: no range of them means anything.
    own.push(("Accept-Ranges", b"none"));
    Some(stream)
}

/// The response ends in the middle, and the client sees that.
pub(super) fn cut(flow: &Flow<'_>, error: PumpError) -> End {
    match error {
        PumpError::Wire(_) => {}
        PumpError::Buffers => flow.worker.stats.hit(Limit::BuffersBytes),
    }
    End::Cut
}

fn bad_body(work: &Work) -> Failed {
    let failure = Failure {
        kind: FailureKind::Malformed,
        sent: Sent::Head,
        response: Response::NotBegun,
        body: work.replayable(),
    };
    Failed { blame: Blame::Endpoint, failure, reason: "malformed_response_body" }
}

/// Moves both bodies until the response is with the client, or on its way there.
async fn relay(flow: &mut Flow<'_>, up: &mut Upstream) -> Result<(), End> {
    if flow.work.download.is_finished() {
        return Ok(());
    }
    flow.work.watches_client = true;
    let idle = flow.rule.policy().timeouts.idle;
    let mut due = stream_due(flow, idle);
    let mut pace = Pace::new(flow.work.seen, flow.work.upload.taken());
    let mut quota = AT_ONCE_BYTES;
    loop {
        due = earlier(due, write_on(flow));
        if flow.work.download.is_finished() {
            return Ok(());
        }
        let came = come_on(flow, up, quota)?;
        move_upload(flow, up)?;
        let event = match came {
            Some(event) => {
                quota = quota.saturating_sub(event.bytes());
                event
            }
            None => {
                quota = AT_ONCE_BYTES;
                set(flow.client, look_at(flow, up, due, &pace));
                next(flow, Some(&mut *up), Flushed::Awaited).await
            }
        };
        match event {
            Event::UpRead((Ok(n), buf)) if n > 0 => {
                flow.held.heard(flow.work.seen);
                let behind = flow.work.download.take(buf, |_| {}).map_err(|error| cut(flow, error))?;
                if behind.is_some() {
                    // Nobody asked for these bytes: the connection is not used again (SECURITY S30).
                    flow.work.answer.persistence = Persistence::Close;
                }
            }
            Event::Passed(_) => flow.held.heard(flow.work.seen),
            Event::UpReady(Ok(())) => {}
            Event::UpReady(Err(_)) => return Err(End::Cut),
            // A reset is never the end of a body, not even of one that lasts until the connection closes.
            Event::UpRead((Err(_), _)) => return Err(End::Cut),
            Event::UpRead((Ok(_), _)) => {
                // Only a body that lasts until the connection closes is complete now.
                flow.work.download.source_closed().map_err(|error| cut(flow, error))?;
                flow.work.answer.persistence = Persistence::Close;
            }
            Event::UpFlushed(Ok(())) | Event::DownFlushed(Ok(())) => {}
            Event::UpFlushed(Err(_)) => {
                up.write_failed = true;
                flow.work.upload.clear();
            }
            Event::DownFlushed(Err(_)) => return Err(End::ClientGone),
            Event::DownRead(done) => from_client(flow, done)?,
            // Whoever won let the others go.
            Event::Landed(_) => {}
            Event::Deadline if is_running(flow) && flow.worker.is_stopping() => {
                return end_call(flow, GrpcCode::UNAVAILABLE, grpc::DRAINED).await;
            }
            Event::Deadline if is_running(flow) && flow.work.call.has_expired() => {
                return end_call(flow, GrpcCode::DEADLINE_EXCEEDED, grpc::EXPIRED).await;
            }
            Event::Deadline => {
                late(flow, up, due, &mut pace)?;
                continue;
            }
        }
        due = stream_due(flow, idle);
    }
}

/// Hands on what is ready, if the client takes it. By when the client must have taken it, if not at once.
fn write_on(flow: &mut Flow<'_>) -> Option<MonoTime> {
    if flow.client.conn.is_writing() {
        return None;
    }
    let buf = flow.work.download.hand_out()?;
    send(flow, buf);
    flow.client.conn.is_writing().then(|| flow.work.seen + flow.settings.write_stall)
}

/// Sees to it that the response's body comes on: passed on unseen, or read. `Some` when some of it has come already.
fn come_on(flow: &mut Flow<'_>, up: &mut Upstream, quota: usize) -> Result<Option<Event>, End> {
    match pass::on(flow, up, quota)? {
        Pass::Came(event) => Ok(Some(event)),
        Pass::Waits => Ok(None),
        Pass::No => Ok(read_on(flow, up, quota)?.map(Event::UpRead)),
    }
}

/// Sees to it that the response's body is read. `Some` when a large buffer was read already: what is there goes on to the
/// client while it is in the processor's caches. Not while the client takes nothing: it would be out of them by then.
fn read_on(flow: &mut Flow<'_>, up: &mut Upstream, quota: usize) -> Result<Option<Done<usize>>, End> {
    let client = &flow.client.conn;
    if !flow.work.download.wants_read() || up.conn.is_reading() {
        return Ok(None);
    }
    if flow.work.download.streams() && client.is_writing() {
        return Ok(None);
    }
    let buf = flow.work.download.read_buffer(client.largest(), || client.send_room());
    let mut buf = buf.ok_or_else(|| cut(flow, PumpError::Buffers))?;
    if buf.class() == Class::Bulk && quota > 0 {
        match up.conn.read_now(&mut buf) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return Ok(Some((result, buf))),
        }
    }
    up.conn.start_read(buf);
    Ok(None)
}

/// Is it a call of gRPC whose end has not come yet? One whose end waits for the client needs no other.
fn is_running(flow: &Flow<'_>) -> bool {
    flow.work.call.is_call() && flow.work.download.wants_more()
}

/// Ends a call of gRPC whose response has begun: its trailers say why, where they can; else it is cut. Its endpoint has
/// done nothing wrong.
async fn end_call(flow: &mut Flow<'_>, code: GrpcCode, reason: &'static str) -> Result<(), End> {
    let lines = format!("grpc-status: {}\r\ngrpc-message: {reason}\r\n", code.number());
    flow.work.call.ended = Some((code, reason));
    if !flow.work.download.end_with(lines.as_bytes()).map_err(|error| cut(flow, error))? {
        return Err(End::Ended);
    }
    // What the endpoint still says is for nobody.
    flow.work.answer.persistence = Persistence::Close;
    while let Some(buf) = flow.work.download.hand_out() {
        flow.client.flush().await.map_err(|_| End::ClientGone)?;
        send(flow, buf);
    }
    Ok(())
}

/// When both bodies and the call's time are looked at again.
fn look_at(flow: &Flow<'_>, up: &Upstream, due: Option<MonoTime>, pace: &Pace) -> Option<MonoTime> {
    let call_due = flow.work.call.due.filter(|_| flow.work.download.wants_more());
    earlier(earlier(due, pace_due(flow, up, pace)), call_due)
}

/// When the request's body is looked at again. A body that the backend does not take any more may come as it likes.
fn pace_due(flow: &Flow<'_>, up: &Upstream, pace: &Pace) -> Option<MonoTime> {
    if up.write_failed { None } else { pace.due(flow) }
}

/// The deadline fired: for whom? `due` is by when anything must have moved.
fn late(flow: &Flow<'_>, up: &Upstream, due: Option<MonoTime>, pace: &mut Pace) -> Result<(), End> {
    if flow.worker.is_stopping() {
        return Err(End::Ended);
    }
    let now = clock::now();
    if due.is_some_and(|due| now >= due) {
        if flow.client.conn.is_writing() {
            flow.worker.stats.hit(Limit::WriteStall);
            return Err(End::ClientGone);
        }
        return Err(End::Cut);
    }
    if pace_due(flow, up, pace).is_some_and(|due| now >= due) {
        pace.turn(flow, now)?;
    }
    Ok(())
}

fn stream_due(flow: &mut Flow<'_>, idle: Duration) -> Option<MonoTime> {
    let now = clock::now();
    flow.work.seen = now;
    let stalled = flow.client.conn.is_writing().then(|| now + flow.settings.write_stall);
    earlier(deadline(now, idle), stalled)
}

fn keep(flow: &Flow<'_>, up: Upstream) {
    let keeping = Keeping {
        worker: flow.worker,
        requests_max: flow.rule.policy().connections.requests_max,
        idle_max: flow.settings.pool_idle_max,
    };
    keeping.keep(flow.held.pick.endpoint, up.conn, flow.work.seen);
}

/// What decides whether a connection is kept.
pub(super) struct Keeping<'a> {
    pub worker: &'a Worker,
    /// Requests of one connection; 0 = any number.
    pub requests_max: u32,
    /// Idle connections of one endpoint.
    pub idle_max: u32,
}

impl Keeping<'_> {
    /// Puts a connection whose exchange ended cleanly among the idle ones.
    pub(super) fn keep(&self, endpoint: EndpointKey, mut conn: Stream, now: MonoTime) {
        if conn.is_piped() {
            // Its stream ends with it; the connection is kept elsewhere.
            return;
        }
        // The request went out long ago; what is left is to collect its buffer.
        let noop = &mut Context::from_waker(std::task::Waker::noop());
        if conn.is_writing() && !matches!(conn.poll_write(noop), Poll::Ready((Ok(()), _))) {
            return;
        }
        if self.requests_max > 0 && conn.count_request() >= self.requests_max {
            return;
        }
        match self.worker.pool.put(endpoint, conn, self.idle_max, now) {
            Kept::Yes | Kept::Gone => {}
            Kept::Full => self.worker.stats.hit(Limit::PoolIdle),
        }
    }
}
