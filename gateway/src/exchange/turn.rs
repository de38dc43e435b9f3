//! What an attempt waits for: whichever of its operations finishes first, or its deadline.

use std::future::poll_fn;
use std::io;
use std::task::Poll;
use std::time::Duration;

use config::HalfClose;
use routing::time::MonoTime;

use super::attempt::{End, Fault, Flow, Upstream};
use super::relay::PumpError;
use super::rescue::{self, Landed};
use crate::downstream::h1::Client;
use crate::net::conn::Done;
use crate::net::{Buf, Class};
use crate::worker::clock;

/// What happened first.
pub(super) enum Event {
    UpRead(Done<usize>),
    UpFlushed(io::Result<()>),
    /// More of the response's body can be passed on, or the endpoint's connection has ended.
    UpReady(io::Result<()>),
    /// So many bytes of the response's body have gone on to the client unseen.
    Passed(usize),
    DownRead(Done<usize>),
    DownFlushed(io::Result<()>),
    /// An attempt beside the first has ended.
    /// Boxed: rare, and six times as large as the others, of which an event is part of every exchange's memory.
    Landed(Box<Landed>),
    Deadline,
}

impl Event {
    /// Bytes of the response that came with it.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::UpRead((_, buf)) => buf.len(),
            Self::Passed(bytes) => *bytes,
            Self::UpFlushed(_)
            | Self::UpReady(_)
            | Self::DownRead(_)
            | Self::DownFlushed(_)
            | Self::Landed(_)
            | Self::Deadline => 0,
        }
    }
}

/// Hands the request's body on, and keeps one read of the client armed: for its body, for its next request, or only
/// to learn that it left.
pub(super) fn move_upload(flow: &mut Flow<'_>, up: &mut Upstream) -> Result<(), End> {
    let work = &mut *flow.work;
    if !up.write_failed && !up.conn.is_writing() {
        work.upload.resend(&work.kept).map_err(|_| End::ClientFault(Fault::Buffers))?;
        if let Some(buf) = work.upload.hand_out() {
            up.conn.start_write(buf);
        }
    }
    if flow.client.conn.is_reading() || work.client_ended {
        return Ok(());
    }
    if work.upload.wants_read() && !up.write_failed {
        let largest = flow.client.conn.largest();
        let buf = work
            .upload
            .read_buffer(largest, || up.conn.send_room())
            .ok_or(End::ClientFault(Fault::Buffers))?;
        flow.client.conn.start_read(buf);
    } else if work.watches_client && !work.upload.wants_more() {
        let buf = work.next_request_buffer(flow.settings);
        if let Some(buf) = buf.map_err(|_| End::ClientFault(Fault::Buffers))? {
            flow.client.conn.start_read(buf);
        }
    }
    Ok(())
}

/// Takes what the client sent: body, or the beginning of its next request.
pub(super) fn from_client(flow: &mut Flow<'_>, (result, buf): Done<usize>) -> Result<(), End> {
    match result {
        // The request is complete: it may only have half-closed.
        Ok(0) if !flow.work.upload.wants_more() && flow.settings.half_close == HalfClose::Serve => {
            flow.work.client_ended = true;
            return Ok(());
        }
        Ok(0) | Err(_) => return Err(End::ClientGone),
        Ok(n) => flow.worker.stats.received_bytes_total.add(n as u64),
    }
    let work = &mut *flow.work;
    let behind = if work.upload.wants_more() {
        work.take_upload(flow.worker, flow.settings, buf)
    } else {
        Ok(Some(buf))
    };
    match behind.and_then(|behind| work.hold_next(flow.worker, flow.settings, behind)) {
        Ok(()) => Ok(()),
        Err(PumpError::Wire(error)) => Err(End::ClientFault(Fault::Wire(error))),
        Err(PumpError::Buffers) => Err(End::ClientFault(Fault::Buffers)),
    }
}

/// Starts writing to the client.
pub(super) fn send(flow: &mut Flow<'_>, buf: Buf) {
    flow.work.sent += buf.len() as u64;
    // More follows at once: it would only wait for this.
    if buf.class() == Class::Bulk || flow.work.download.streams() {
        flow.client.conn.write_now(buf);
    } else {
        flow.client.conn.start_write(buf);
    }
}

/// Must the end of a write to the client be waited for?
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Flushed {
    /// Yes: more is to be written, or its failure ends the exchange.
    Awaited,
    /// No: nothing hangs on it now, and nobody needs waking.
    Ignored,
}

pub(super) async fn next(flow: &mut Flow<'_>, first: Option<&mut Upstream>, flushed: Flushed) -> Event {
    let (client, lanes) = (&mut *flow.client, &mut flow.lanes);
    let mut first = first;
    let uploading = flow.work.upload.wants_more() || !flow.work.upload.is_finished();
    poll_fn(|cx| {
        client.expect(first.as_ref().map(|up| &up.conn));
        if let Some(up) = &mut first {
            if let Poll::Ready(done) = up.conn.poll_read(cx) {
                return Poll::Ready(Event::UpRead(done));
            }
            if up.conn.is_watching()
                && let Poll::Ready(result) = up.conn.poll_watch(cx)
            {
                return Poll::Ready(Event::UpReady(result));
            }
            if uploading && let Poll::Ready((result, _buf)) = up.conn.poll_write(cx) {
                return Poll::Ready(Event::UpFlushed(result));
            }
        }
        if !lanes.is_empty()
            && let Poll::Ready(landed) = rescue::poll(lanes, cx)
        {
            return Poll::Ready(Event::Landed(landed));
        }
        if flushed == Flushed::Awaited
            && let Poll::Ready((result, _buf)) = client.conn.poll_write(cx)
        {
            return Poll::Ready(Event::DownFlushed(result));
        }
        if let Poll::Ready(done) = client.conn.poll_read(cx) {
            return Poll::Ready(Event::DownRead(done));
        }
        client.deadline.poll(cx).map(|()| Event::Deadline)
    })
    .await
}

/// Sets the connection's deadline.
pub(super) fn set(client: &Client, due: Option<MonoTime>) {
    match due {
        Some(due) => client.deadline.set(due),
        None => client.deadline.clear(),
    }
}

/// `after` from `now`; none when that is zero.
pub(super) fn deadline(now: MonoTime, after: Duration) -> Option<MonoTime> {
    (!after.is_zero()).then(|| now + after)
}

pub(super) fn earlier(a: Option<MonoTime>, b: Option<MonoTime>) -> Option<MonoTime> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

pub(super) fn has_passed(due: Option<MonoTime>) -> bool {
    due.is_some_and(|due| clock::now() >= due)
}
