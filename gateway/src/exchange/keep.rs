//! Keeping what comes before its time: a request's body while it may have to be sent again, and the requests behind
//! it (pipelining). Both have bounds.

use routing::table::RuleRef;
use wire::head::{BodyLength, Persistence};

use super::relay::{PumpError, copy_of};
use super::reply::Reply;
use super::{Request, Work};
use crate::net::{Buf, Class, acquire, joined};
use crate::observe::stats::Limit;
use crate::worker::Worker;
use crate::worker::settings::Settings;

impl Work {
    /// Takes in body bytes from the client, and keeps a copy while the bounds allow.
    pub(super) fn take_upload(
        &mut self,
        worker: &Worker,
        settings: &Settings,
        buf: Buf,
    ) -> Result<Option<Buf>, PumpError> {
        let Self { upload, kept, keeps, keeps_max, .. } = self;
        let bound = KeptBound { worker, one_max: *keeps_max, all_max: settings.retry_bodies_bytes_max };
        upload.take(buf, |data| {
            if *keeps && !bound.keep(kept, data) {
                *keeps = false;
            }
        })
    }
}

impl Work {
    /// A buffer to read the client with that owes us nothing: for its next request, or only to learn that it left.
    /// It takes no more than may be held; `Ok(None)` when that is nothing, and the client waits.
    ///
    /// # Errors
    /// [`PumpError::Buffers`].
    pub(super) fn next_request_buffer(&self, settings: &Settings) -> Result<Option<Buf>, PumpError> {
        let held = self.next_request.as_ref().map_or(0, Buf::len);
        let room = settings.pipeline_bytes_max.saturating_sub(held);
        if room == 0 {
            return Ok(None);
        }
        let mut buf = acquire(Class::Head, 0).ok_or(PumpError::Buffers)?;
        buf.reset(buf.readroom().saturating_sub(room));
        Ok(Some(buf))
    }

    /// Holds what lies behind the request until its turn. What came in one read with the request is held whatever
    /// its size; reading on is bounded.
    ///
    /// # Errors
    /// [`PumpError::Buffers`].
    pub(super) fn hold_next(
        &mut self,
        worker: &Worker,
        settings: &Settings,
        behind: Option<Buf>,
    ) -> Result<(), PumpError> {
        let Some(buf) = behind else { return Ok(()) };
        let held = match self.next_request.take() {
            None => buf,
            Some(first) => joined(first, &buf).ok_or(PumpError::Buffers)?,
        };
        if held.len() >= settings.pipeline_bytes_max {
            worker.stats.hit(Limit::PipelineBytes);
        }
        self.next_request = Some(held);
        Ok(())
    }
}

impl Request<'_> {
    /// What came in the same read as the head: the body's beginning, or the next request.
    pub(super) fn take_behind(&mut self, behind: &[u8]) -> Result<(), Reply<'static>> {
        let head = self.view.head;
        let body = if head.upgrade.is_some() { BodyLength::None } else { head.body };
        self.work.upload.reset(body, body);
        // Of a body of gRPC-Web the rule decides what becomes of it.
        if behind.is_empty() || (self.work.call.is_web() && self.work.upload.wants_more()) {
            return Ok(());
        }
        self.take_first(behind)
    }

    pub(super) fn take_first(&mut self, behind: &[u8]) -> Result<(), Reply<'static>> {
        let body = self.work.upload.framing();
        let buf = copy_of(behind).map_err(|_| Reply::shed("buffers_bytes_max"))?;
        if body.is_empty() {
            let held = self.work.hold_next(self.worker, self.settings, Some(buf));
            return held.map_err(|_| Reply::shed("buffers_bytes_max"));
        }
        // Kept until the rule says otherwise.
        self.work.keeps = true;
        self.work.keeps_max = usize::MAX;
        let taken = self.work.take_upload(self.worker, self.settings, buf);
        match taken.and_then(|rest| self.work.hold_next(self.worker, self.settings, rest)) {
            Ok(()) => Ok(()),
            Err(PumpError::Wire(error)) => {
                self.worker.stats.refused(error);
                Err(Reply { persistence: Persistence::Close, ..Reply::new(error.status(), error.name()) })
            }
            Err(PumpError::Buffers) => Err(Reply::shed("buffers_bytes_max")),
        }
    }

    /// Is the body kept for another attempt? Not when it is known to be too large, or may not be sent again.
    pub(super) fn decide_keeping(&mut self, rule: &RuleRef) {
        let retry = &rule.policy().retry;
        let fits = match self.view.head.body {
            BodyLength::None => true,
            BodyLength::Exact(length) => length <= u64::from(retry.body_bytes_max),
            BodyLength::Chunked => self.work.upload.taken() <= u64::from(retry.body_bytes_max),
            BodyLength::UntilClose => false,
        };
        if !fits {
            self.worker.stats.hit(Limit::RetryBodyBytes);
        }
        let nothing_lost = self.work.keeps || self.work.upload.taken() == 0;
        self.work.keeps = fits && nothing_lost && retry.attempts > 1;
        self.work.keeps_max = retry.body_bytes_max as usize;
    }
}

/// The bounds on kept bodies: one body's, and all bodies' of the worker.
struct KeptBound<'a> {
    worker: &'a Worker,
    one_max: usize,
    all_max: usize,
}

impl KeptBound<'_> {
    /// Appends, or gives up keeping and says so.
    fn keep(&self, kept: &mut Vec<u8>, data: &[u8]) -> bool {
        let all = self.worker.replay_bytes.get() + data.len();
        let too_large = kept.len() + data.len() > self.one_max;
        if too_large || all > self.all_max {
            self.worker.stats.hit(if too_large { Limit::RetryBodyBytes } else { Limit::RetryBodiesBytes });
            self.worker.replay_bytes.set(self.worker.replay_bytes.get() - kept.len());
            kept.clear();
            return false;
        }
        self.worker.replay_bytes.set(all);
        kept.extend_from_slice(data);
        true
    }
}
