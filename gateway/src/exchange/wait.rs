//! Waiting for the response head: sends the rest of the request, passes interim responses on, and asks the detector
//! whether another attempt is worth while.

use std::time::Duration;

use routing::health::endpoint::Outcome;
use routing::retry::FailureKind;
use routing::time::MonoTime;
use wire::h1::encode::{self, ResponseEdit};
use wire::head::ResponseView;

use super::attempt::{
    End, Failed, Fault, Flow, Upstream, closed, malformed, not_processed, stopped, timed_out,
};
use super::pace::Pace;
use super::relay::copy_of;
use super::reply;
use super::rescue::{self, Landed};
use super::scratch::Answer;
use super::turn::{Event, Flushed, deadline, earlier, from_client, move_upload, next, set};
use crate::net::pipe::is_refused;
use crate::net::{Buf, Class, acquire};
use crate::upstream::pool::RESPONSE_HEADROOM;
use crate::worker::clock;

/// A client is read while it waits for its answer only when that takes longer than this: most answers are faster,
/// and each read in flight pins a buffer. Until then a client that leaves is noticed when it is written to.
const WATCH_CLIENT_AFTER: Duration = Duration::from_millis(100);

/// What is waited for, and until when.
struct Wait {
    /// The first attempt; `None` once it has failed while others were under way.
    first: Option<Upstream>,
    begun: MonoTime,
    /// Has the first attempt failed while others were under way?
    first_over: bool,
    pace: Pace,
    /// When the detector wants to be asked again.
    again: Option<MonoTime>,
    /// What the client's deadline is set to.
    due: Option<MonoTime>,
}

impl Wait {
    fn new(flow: &mut Flow<'_>, first: Option<Upstream>, begun: MonoTime) -> Result<Self, End> {
        let pace = Pace::new(begun, flow.work.upload.taken());
        let mut wait = Self { first, begun, first_over: false, pace, again: None, due: None };
        wait.consider(flow, flow.work.seen)?;
        Ok(wait)
    }

    /// Asks the detector what to do.
    fn consider(&mut self, flow: &mut Flow<'_>, now: MonoTime) -> Result<(), End> {
        self.again = if flow.work.upload.wants_more() {
            rescue::consider_upload(flow, now)?;
            None
        } else {
            rescue::consider(flow, now)
        };
        self.set_due(flow);
        Ok(())
    }

    fn set_due(&mut self, flow: &Flow<'_>) {
        self.due = earlier(head_due(flow, self), self.again);
        set(flow.client, self.due);
    }
}

/// Sends the rest of the request and waits for a final response head (or a 101), of the first attempt or of one that
/// was started beside it.
pub(super) async fn response_head(flow: &mut Flow<'_>, up: Upstream) -> Result<(Upstream, Buf), End> {
    let begun = up.begun;
    if flow.view.head.expects_continue && flow.work.upload.wants_read() {
        flow.worker.heed();
        reply::interim_continue(flow.client).await.map_err(|_| End::ClientGone)?;
    }
    if flow.held.pick.trial {
        rescue::tie(flow, flow.work.seen);
    }
    let mut wait = Wait::new(flow, Some(up), begun)?;
    loop {
        if let Some(up) = &mut wait.first {
            move_upload(flow, up)?;
        }
        let event = next(flow, wait.first.as_mut(), Flushed::Ignored).await;
        if let Some(won) = turn(flow, &mut wait, event).await? {
            return Ok(won);
        }
    }
}

/// Waits as for an endpoint that says nothing, until that time: what a drill makes of an attempt. `None` when the time
/// is over; an attempt that was started meanwhile may win, as ever.
pub(super) async fn silence(
    flow: &mut Flow<'_>,
    until: Option<MonoTime>,
) -> Result<Option<(Upstream, Buf)>, End> {
    let begun = flow.held.since;
    let mut wait = Wait::new(flow, None, begun)?;
    loop {
        wait.again = earlier(wait.again, until);
        wait.set_due(flow);
        let event = next(flow, None, Flushed::Ignored).await;
        if let Some(won) = turn(flow, &mut wait, event).await? {
            return Ok(Some(won));
        }
        if until.is_some_and(|until| clock::now() >= until) {
            return Ok(None);
        }
    }
}

/// One thing that happened. `Some` when an attempt has won.
async fn turn(flow: &mut Flow<'_>, wait: &mut Wait, event: Event) -> Result<Option<(Upstream, Buf)>, End> {
    match event {
        Event::UpRead((Ok(n), buf)) if n > 0 => {
            flow.work.seen = clock::now();
            flow.held.heard(flow.work.seen);
            match read_head(flow, wait.first.as_mut(), buf).await {
                // Passing an interim response on may have had to wait for the client.
                Ok(None) => set(flow.client, wait.due),
                Ok(Some(buf)) => return Ok(first_answered(flow, wait, buf)),
                Err(end) => first_failed(flow, wait, end)?,
            }
        }
        Event::UpRead((result, buf)) => {
            let reason = if result.is_ok() { "upstream_closed" } else { "upstream_reset" };
            let refused = is_refused(&result);
            let of = |up| if refused { not_processed(flow) } else { closed(flow, up, &buf, reason) };
            let end = wait.first.as_ref().map(of);
            end.map_or(Ok(()), |end| first_failed(flow, wait, end))?;
        }
        // Nothing is passed on unseen before there is a response.
        Event::UpFlushed(Ok(())) | Event::DownFlushed(Ok(())) | Event::UpReady(_) | Event::Passed(_) => {}
        Event::UpFlushed(Err(_)) => {
            if let Some(up) = &mut wait.first {
                up.write_failed = true;
            }
            flow.work.upload.clear();
        }
        Event::DownFlushed(Err(_)) => return Err(End::ClientGone),
        Event::DownRead(done) => from_client_while_waiting(flow, wait, done)?,
        // Boxed: it happens seldom, and would make every request's future larger.
        Event::Landed(landed) => return Box::pin(landed_first(flow, wait, landed)).await,
        Event::Deadline => {
            late(flow, wait)?;
            wait.consider(flow, clock::now())?;
        }
    }
    Ok(None)
}

fn from_client_while_waiting(
    flow: &mut Flow<'_>,
    wait: &mut Wait,
    done: crate::net::conn::Done<usize>,
) -> Result<(), End> {
    let uploading = flow.work.upload.wants_more();
    from_client(flow, done)?;
    if uploading && !flow.work.upload.wants_more() {
        // The request is complete: from here on it is the backend's time that runs.
        flow.work.seen = clock::now();
        flow.work.response_by = deadline(flow.work.seen, flow.rule.policy().timeouts.request);
        flow.held.asked_in_full(flow.work.seen);
        wait.consider(flow, flow.work.seen)?;
    }
    Ok(())
}

/// The first attempt has its response head, which `buf` starts with. It has won, unless its answer is a failure and
/// another attempt may have a better one.
fn first_answered(flow: &mut Flow<'_>, wait: &mut Wait, buf: Buf) -> Option<(Upstream, Buf)> {
    let status = flow.work.answer.status;
    let outcome = flow.work.answer.outcome(&flow.rule.policy().retry);
    flow.held.answered(status, outcome, flow.work.seen);
    if !flow.lanes.is_empty() && outcome != Outcome::Success {
        wait.first = None;
        return None;
    }
    rescue::let_lanes_go(flow);
    wait.first.take().map(|up| (up, buf))
}

/// The first attempt failed. Its end is the exchange's, unless others are under way.
fn first_failed(flow: &mut Flow<'_>, wait: &mut Wait, end: End) -> Result<(), End> {
    if flow.lanes.is_empty() || !matches!(end, End::Failed(_)) {
        return Err(end);
    }
    flow.work.seen = clock::now();
    flow.held.ended(&end, flow.work.seen);
    flow.held.waits_no_more();
    wait.first = None;
    wait.first_over = true;
    Ok(())
}

/// An attempt beside the first has ended. `Some` when it has won.
async fn landed_first(
    flow: &mut Flow<'_>,
    wait: &mut Wait,
    landed: Box<Landed>,
) -> Result<Option<(Upstream, Buf)>, End> {
    let Landed { mut held, result } = *landed;
    let now = clock::now();
    flow.work.seen = now;
    match result {
        Ok(ready) => {
            let status = ready.answer.status;
            let outcome = ready.answer.outcome(&flow.rule.policy().retry);
            held.answered(status, outcome, now);
            let others = wait.first.is_some() || !flow.lanes.is_empty();
            if others && outcome != Outcome::Success {
                return Ok(None);
            }
            flow.worker.stats.hedges_won_total.inc();
            flow.work.answer = ready.answer;
            let loser = std::mem::replace(&mut flow.held, held);
            if let Some(up) = wait.first.take() {
                rescue::let_first_go(flow, up, loser);
            }
            rescue::let_lanes_go(flow);
            for head in &ready.interim {
                pass_on(flow, head).await?;
            }
            Ok(Some((ready.up, ready.buf)))
        }
        Err(failed) => {
            held.failed(&failed, now);
            if wait.first.is_none() && flow.lanes.is_empty() {
                // The last one under way: its failure is the exchange's.
                flow.held = held;
                return Err(End::Failed(failed));
            }
            wait.consider(flow, now)?;
            Ok(None)
        }
    }
}

/// By when the next thing must happen before the response head is there.
///
/// While the client still sends its body, the body's own pace is what counts; the time for the response begins when
/// the request is complete.
fn head_due(flow: &Flow<'_>, wait: &Wait) -> Option<MonoTime> {
    let timeouts = &flow.rule.policy().timeouts;
    let call = flow.work.call.due;
    if flow.work.upload.wants_more() {
        return earlier(earlier(deadline(wait.pace.moved, timeouts.idle), wait.pace.due(flow)), call);
    }
    // Attempts beside the first have deadlines of their own.
    let attempt = deadline(wait.begun, timeouts.attempt).filter(|_| !wait.first_over);
    let watch = (!flow.work.watches_client).then(|| wait.begun + WATCH_CLIENT_AFTER);
    earlier(earlier(flow.work.response_by, attempt), earlier(watch, call))
}

/// The deadline fired: for whom?
fn late(flow: &mut Flow<'_>, wait: &mut Wait) -> Result<(), End> {
    if flow.worker.is_stopping() {
        return Err(stopped(flow));
    }
    let now = clock::now();
    if flow.work.call.due.is_some_and(|due| now >= due) {
        return Err(End::Expired);
    }
    if now >= wait.begun + WATCH_CLIENT_AFTER {
        flow.work.watches_client = true;
    }
    if wait.due.is_none_or(|due| now < due) {
        return Ok(());
    }
    if flow.work.upload.wants_more() {
        if wait.pace.due(flow).is_some_and(|due| now >= due) {
            wait.pace.turn(flow, now)?;
        }
        let idle = deadline(wait.pace.moved, flow.rule.policy().timeouts.idle);
        if idle.is_some_and(|due| now >= due) {
            return Err(overdue(flow, wait, "upstream_takes_no_body"));
        }
        return Ok(());
    }
    if flow.work.response_by.is_some_and(|due| now >= due) {
        return Err(overdue(flow, wait, "upstream_timeout"));
    }
    let attempt = deadline(wait.begun, flow.rule.policy().timeouts.attempt).filter(|_| !wait.first_over);
    if attempt.is_some_and(|due| now >= due) {
        let end = overdue(flow, wait, "upstream_timeout");
        return first_failed(flow, wait, end);
    }
    Ok(())
}

fn overdue(flow: &Flow<'_>, wait: &Wait, reason: &'static str) -> End {
    match &wait.first {
        Some(up) => timed_out(flow, up, reason),
        None => End::Failed(Failed::of(flow, FailureKind::Timeout, reason)),
    }
}

/// Decodes what came. `Some` when a final head (or 101) is complete: the buffer starts with it.
async fn read_head(
    flow: &mut Flow<'_>,
    first: Option<&mut Upstream>,
    mut buf: Buf,
) -> Result<Option<Buf>, End> {
    let Some(up) = first else { return Ok(None) };
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
            if flow.work.call.is_call() {
                flow.work.answer.grpc = flow.worker.scratch.borrow().grpc_code(buf.bytes());
            }
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
        let interim = flow.work.answer;
        pass_interim(flow, &interim, &buf).await?;
        buf.consume(interim.head_len);
    }
}

/// Interim responses that one exchange passes on (RFC 9110 §15.2 sets no bound; a flood of them is an attack).
pub(super) const INTERIM_MAX: u8 = 16;

/// Passes an interim response on that an attempt beside the first put aside, as [`pass_interim`] does.
async fn pass_on(flow: &mut Flow<'_>, head: &Buf) -> Result<(), End> {
    let (limits, method) = (&flow.settings.head, flow.view.head.method);
    let decoded = flow.worker.scratch.borrow_mut().decode(head.bytes(), limits, method);
    let Ok(Some(interim)) = decoded else { return Ok(()) };
    pass_interim(flow, &interim, head).await
}

/// Passes an interim response on. 100 is not: the client was told already, or did not ask (RFC 9110 §15.2.1).
async fn pass_interim(flow: &mut Flow<'_>, interim: &Answer, buf: &Buf) -> Result<(), End> {
    if interim.status == 100 || flow.view.head.version == wire::head::Version::Http10 {
        return Ok(());
    }
    let out = {
        let mut scratch = flow.worker.scratch.borrow_mut();
        let (limits, method) = (&flow.settings.head, flow.view.head.method);
        let (head, head_out, _) = scratch.fields(interim, buf.bytes(), limits, method);
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
pub(super) fn larger(buf: &Buf) -> Option<Buf> {
    if buf.class() == Class::Bulk {
        return None;
    }
    let mut large = acquire(Class::Bulk, RESPONSE_HEADROOM)?;
    large.append(buf.bytes());
    Some(large)
}
