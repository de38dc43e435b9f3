//! The pace of a request's body: who sends slower than `timeouts.body_rate_min` holds an endpoint for nothing.

use routing::time::MonoTime;

use super::attempt::{End, Fault, Flow};
use crate::observe::stats::Limit;

/// Bytes since the beginning of a window of `timeouts.body_rate_grace`.
pub(super) struct Pace {
    since: MonoTime,
    taken: u64,
    /// The end of the last window in which anything came.
    pub moved: MonoTime,
}

impl Pace {
    /// A window that begins now, `taken` body bytes into the request.
    pub(super) fn new(now: MonoTime, taken: u64) -> Self {
        Self { since: now, taken, moved: now }
    }

    /// When the window ends. None while no rate is asked for, or nothing of the body is to come.
    pub(super) fn due(&self, flow: &Flow<'_>) -> Option<MonoTime> {
        let asked = flow.settings.body_rate_min > 0 && flow.work.upload.wants_more();
        asked.then(|| self.since + flow.settings.body_rate_grace)
    }

    /// Ends the window and begins the next.
    ///
    /// # Errors
    /// [`Fault::Slow`] when too little came in it.
    pub(super) fn turn(&mut self, flow: &Flow<'_>, now: MonoTime) -> Result<(), End> {
        let window = now.since(self.since);
        let taken = flow.work.upload.taken();
        let came = taken - self.taken;
        let owed = u128::from(flow.settings.body_rate_min) * window.as_millis() / 1_000;
        // Only who is waited for can be slow: while the backend takes nothing, the client is not read. A stream of gRPC
        // messages is as slow as what it tells of.
        let is_slow = flow.client.conn.is_reading() && u128::from(came) < owed.max(1);
        if is_slow && !flow.work.call.is_call() {
            flow.worker.stats.hit(Limit::BodyRate);
            return Err(End::ClientFault(Fault::Slow));
        }
        let moved = if came > 0 { now } else { self.moved };
        *self = Self { since: now, taken, moved };
        Ok(())
    }
}
