//! What an endpoint has got of a connection, so that it is known whether another endpoint may have the connection.
//!
//! What was given to a kernel may be processed, however long its process stood still before. So a connection goes elsewhere
//! only while its client has said nothing, or where `retry.nonIdempotent` allows what it said to be processed twice: then
//! that is kept until the endpoint says something, up to `retry.bodyBytes` and within `limits.retry_bodies_bytes_max`.

use std::rc::Rc;

use routing::model::RetryPolicy;

use crate::observe::stats::Limit;
use crate::worker::Worker;

/// See the module.
pub(super) enum Delivered {
    /// Nothing.
    Nothing,
    /// This, which may be sent again.
    Kept(Kept),
    /// Something that must not be sent again.
    Something,
}

/// Bytes of a client, counted while they are kept.
pub(super) struct Kept {
    worker: Rc<Worker>,
    bytes: Vec<u8>,
}

impl Delivered {
    /// The client has said this, too.
    pub(super) fn add(&mut self, worker: &Rc<Worker>, bytes: &[u8], retry: &RetryPolicy) {
        let kept = match self {
            Self::Something => return,
            Self::Nothing if retry.non_idempotent => Kept { worker: Rc::clone(worker), bytes: Vec::new() },
            Self::Nothing => return *self = Self::Something,
            Self::Kept(kept) => Kept { worker: Rc::clone(worker), bytes: std::mem::take(&mut kept.bytes) },
        };
        *self = kept.with(bytes, retry).map_or(Self::Something, Self::Kept);
    }

    /// The endpoint has said something: it is its connection.
    pub(super) fn answered(&mut self) {
        *self = Self::Something;
    }

    /// What another endpoint is to be sent first, if it may have the connection.
    pub(super) fn again(&self) -> Option<&[u8]> {
        match self {
            Self::Nothing => Some(&[]),
            Self::Kept(kept) => Some(&kept.bytes),
            Self::Something => None,
        }
    }
}

impl Kept {
    fn with(mut self, bytes: &[u8], retry: &RetryPolicy) -> Option<Self> {
        if self.bytes.len() + bytes.len() > retry.body_bytes_max as usize {
            return None;
        }
        let all = self.worker.replay_bytes.get() + bytes.len();
        if all > self.worker.settings().retry_bodies_bytes_max {
            self.worker.stats.hit(Limit::RetryBodiesBytes);
            return None;
        }
        self.worker.replay_bytes.set(all);
        self.bytes.extend_from_slice(bytes);
        Some(self)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.worker.replay_bytes.set(self.worker.replay_bytes.get().saturating_sub(self.bytes.len()));
    }
}
