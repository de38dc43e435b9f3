//! Calls of gRPC: what a request says of its call, by when that must be over, and how it ended.
//!
//! A call is a POST, so that no other request pays for more than the look at its method. What a call's trailers say is
//! only read, for the log and the metrics; a response that is nothing but trailers says it in its head, and may be tried
//! again for it (`retry.grpcCodes`).

use std::time::Duration;

use routing::model::GrpcCode;
use routing::time::MonoTime;
use wire::grpc::{Content, timeout};

use super::reply::Reply;
use super::turn::has_passed;
use super::{Request, Work};
use crate::observe::stats::Limit;

/// A deadline that lies further away is none.
const DEADLINE_MAX: Duration = Duration::from_secs(365 * 24 * 3_600);

/// The reason of calls whose own time is over.
pub(super) const EXPIRED: &str = "grpc_timeout";

/// What is known of a request that is a call.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Call {
    /// What its client speaks; `None` = it is no call.
    pub content: Option<Content>,
    /// By when it must be over, as its client asks.
    pub due: Option<MonoTime>,
    /// What we ended it with ourselves, and why.
    pub ended: Option<(GrpcCode, &'static str)>,
}

impl Call {
    pub(super) fn is_call(&self) -> bool {
        self.content.is_some()
    }

    /// Is the time over that its client gave it?
    pub(super) fn has_expired(&self) -> bool {
        has_passed(self.due)
    }
}

/// The answer to a call whose own time is over.
pub(super) fn expired() -> Reply<'static> {
    Reply { grpc: Some(GrpcCode::DEADLINE_EXCEEDED), ..Reply::new(504, EXPIRED) }
}

impl Request<'_> {
    /// Is it a call? `Some` = what it says of itself cannot be.
    pub(super) fn hear(&mut self) -> Option<Reply<'static>> {
        let (content, _) = Content::of(self.view.header(b"content-type")?)?;
        if content != Content::Grpc {
            return None;
        }
        self.work.call.content = Some(content);
        let (fields, bytes) = (&self.view.head.headers, self.view.bytes);
        let mut given =
            fields.iter().filter(|field| field.name.of(bytes).eq_ignore_ascii_case(b"grpc-timeout"));
        let first = given.next()?;
        let asked = timeout(first.value.of(bytes)).filter(|_| given.next().is_none());
        let Some(mut asked) = asked else { return Some(Reply::new(400, "grpc_timeout_malformed")) };
        let max = self.settings.grpc.timeout_max;
        if !max.is_zero() && asked > max {
            self.worker.stats.hit(Limit::GrpcTimeout);
            asked = max;
        }
        self.work.call.due = (asked <= DEADLINE_MAX).then(|| self.began + asked);
        None
    }
}

impl Work {
    /// The status that the client of a call got.
    pub(super) fn grpc_code(&self) -> Option<GrpcCode> {
        if let Some((code, _)) = self.call.ended {
            return Some(code);
        }
        if !self.response_begun {
            return None;
        }
        let trailers = || wire::grpc::status_of(self.download.trailers()).map(GrpcCode::of);
        self.answer.grpc.or_else(trailers)
    }
}
