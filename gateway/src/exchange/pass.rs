//! The middle of a large response body: from socket to socket inside the kernel, where nobody has to see it.
//!
//! Its first bytes, and its last, go the way of all bodies ([`relay`](super::relay)).

use std::io;
use std::task::{Context, Poll, Waker};

use super::attempt::{End, Flow, Upstream};
use super::relay::{BULK_ROOM, PumpError};
use super::respond::cut;
use super::turn::Event;
use crate::net::splice::{self, Broken, PIECE_BYTES, Passed};

/// Less than this that is still to come is read and written: a pipe would not pay.
const LEAST_BYTES: u64 = PIECE_BYTES as u64 / 2;

/// What was done about the body.
pub(super) enum Pass {
    /// Nothing: it is to be read.
    No,
    /// This happened.
    Came(Event),
    /// Nothing is there: it is waited for, without a buffer.
    Waits,
}

/// Passes on what is there, a piece of at most `quota` bytes, if the body and both connections are fit for it.
pub(super) fn on(flow: &mut Flow<'_>, up: &mut Upstream, quota: usize) -> Result<Pass, End> {
    if up.conn.is_watching() {
        return Ok(Pass::Waits);
    }
    let unseen = flow.work.download.unseen();
    let fit = flow.settings.splice && flow.work.download.streams() && unseen >= LEAST_BYTES;
    if !fit || flow.client.conn.is_writing() || !is_quiet(flow, up) {
        return Ok(Pass::No);
    }
    let (Some(from), Some(to)) = (up.conn.in_clear(), flow.client.conn.in_clear()) else {
        return Ok(Pass::No);
    };
    if to.send_room() < BULK_ROOM {
        return Ok(Pass::No);
    }
    if quota == 0 {
        // The others' turn.
        up.conn.start_watch();
        return Ok(Pass::Waits);
    }
    let most = usize::try_from(unseen).unwrap_or(usize::MAX).min(quota);
    match splice::pass(from, to, most) {
        // It ended too early.
        Ok(Passed { bytes: 0, .. }) => Err(End::Cut),
        Ok(Passed { bytes, left }) => {
            flow.work.download.passed(bytes);
            flow.work.sent += bytes as u64;
            flow.worker.stats.spliced_bytes_total.add(bytes as u64);
            if let Some(left) = left {
                flow.client.conn.start_write(left);
            }
            Ok(Pass::Came(Event::Passed(bytes)))
        }
        Err(Broken::Source(error)) if error.kind() == io::ErrorKind::WouldBlock => {
            up.conn.start_watch();
            Ok(Pass::Waits)
        }
        Err(Broken::Source(_)) => Err(End::Cut),
        Err(Broken::Destination(_)) => Err(End::ClientGone),
        Err(Broken::Buffers) => Err(cut(flow, PumpError::Buffers)),
        Err(Broken::Unfit) => Ok(Pass::No),
    }
}

/// Is nothing in flight at the endpoint's connection, nor to be? The request's last write is over, if nobody has asked.
fn is_quiet(flow: &Flow<'_>, up: &mut Upstream) -> bool {
    if up.conn.is_writing() && flow.work.upload.is_finished() {
        let noop = &mut Context::from_waker(Waker::noop());
        if let Poll::Ready((Err(_), _)) = up.conn.poll_write(noop) {
            up.write_failed = true;
        }
    }
    flow.work.upload.is_finished() && !up.conn.is_writing() && !up.conn.is_reading()
}
