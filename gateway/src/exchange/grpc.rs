//! Calls of gRPC: what a request says of its call, by when that must be over, and how it ended.
//!
//! A call is a POST, so that no other request pays for more than the look at its method. What a call's trailers say is
//! only read, for the log and the metrics; a response that is nothing but trailers says it in its head, and may be tried
//! again for it (`retry.grpcCodes`).

use std::time::Duration;

use routing::model::{Application, GrpcCode, Target};
use routing::table::RuleRef;
use routing::time::MonoTime;
use wire::grpc::web::{self, Form};
use wire::grpc::{Content, timeout};
use wire::head::{BodyLength, RequestView, ResponseHead, ResponseView, Version};

use super::relay::{Pump, PumpError};
use super::reply::Reply;
use super::turn::has_passed;
use super::{Request, Work};
use crate::observe::stats::Limit;
use crate::upstream::dial;

/// A deadline that lies further away is none.
const DEADLINE_MAX: Duration = Duration::from_secs(365 * 24 * 3_600);

/// The reason of calls whose own time is over.
pub(super) const EXPIRED: &str = "grpc_timeout";

/// The reason of calls that a drain did not wait for any longer.
pub(super) const DRAINED: &str = "drained";

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

    /// Does its client speak gRPC-Web?
    pub(super) fn is_web(&self) -> bool {
        self.form().is_some()
    }

    fn form(&self) -> Option<Form> {
        self.content.and_then(Content::form)
    }

    /// The type that a call of gRPC-Web has on its way to an endpoint.
    pub(super) fn upstream_type(&self, view: &RequestView<'_>) -> Option<Vec<u8>> {
        self.form()?;
        let (_, rest) = Content::of(view.header(b"content-type")?)?;
        Some([Content::Grpc.media_type().as_bytes(), rest].concat())
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
        let speaks_web = self.settings.grpc.web && self.view.head.version != Version::Http10;
        if content != Content::Grpc && !speaks_web {
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

impl Request<'_> {
    /// Begins a call of gRPC-Web: as one of gRPC where its rule's backends speak that, else as a request like any other.
    pub(super) fn begin_web(&mut self, rule: &RuleRef, behind: &[u8]) -> Result<(), Reply<'static>> {
        if !self.is_translated(rule) {
            self.work.call = Call::default();
        } else if self.work.call.form() == Some(Form::Text) && self.work.upload.wants_more() {
            self.work.upload.reset(self.view.head.body, BodyLength::Chunked);
            self.work.upload.take_base64();
        }
        if behind.is_empty() || !self.work.upload.wants_more() { Ok(()) } else { self.take_first(behind) }
    }

    /// Servers of gRPC speak HTTP/2. A backend of HTTP/1.1 that is sent gRPC-Web speaks that itself.
    fn is_translated(&self, rule: &RuleRef) -> bool {
        let Target::Forward(backends) = &rule.action().target else { return false };
        let is_http2 = |backend| dial::spoken(self.worker, backend).protocol == Application::Http2;
        backends.iter().filter_map(|backend| backend.backend).all(is_http2)
    }
}

/// The last frame of an answer of our own to a client of gRPC-Web.
pub(super) fn frame(content: Content, code: GrpcCode, message: &[u8]) -> Vec<u8> {
    let status = format!("grpc-status: {}\r\ngrpc-message: ", code.number());
    let lines = [status.as_bytes(), message, b"\r\n"].concat();
    let mut frame = Vec::new();
    web::trailers(&lines, content.form().unwrap_or(Form::Binary), &mut frame);
    frame
}

/// What becomes of an answer of gRPC whose client speaks gRPC-Web.
pub(super) struct ForWeb {
    form: Form,
    pub content_type: Vec<u8>,
    /// Trailer lines of an answer that has nothing but trailers.
    only: Option<Vec<u8>>,
}

/// The fields of a head that say how a call ended.
const ENDS: [&[u8]; 3] = [b"grpc-status", b"grpc-message", b"grpc-status-details-bin"];

/// How an answer is written for a client of gRPC-Web; `None` = as it is. What of its head are trailers is left out there:
/// they come in the body, which scripts of other origins may read without being allowed each field.
pub(super) fn for_web(call: &Call, head: &mut ResponseHead, bytes: &[u8]) -> Option<ForWeb> {
    let (content, form) = (call.content?, call.form()?);
    // There is no body behind these for a last frame to stand in (RFC 9110 §15.3.5, §15.3.6, §15.4.5).
    if matches!(head.status, 204 | 205 | 304) {
        return None;
    }
    let given = ResponseView { head, bytes }.header(b"content-type")?;
    let (Content::Grpc, rest) = Content::of(given)? else { return None };
    let content_type = [content.media_type().as_bytes(), rest].concat();
    let mut lines = Vec::new();
    if head.body.is_empty() {
        let ends = |name: &[u8]| ENDS.iter().any(|end| name.eq_ignore_ascii_case(end));
        for field in head.headers.iter_mut().filter(|field| ends(field.name.of(bytes))) {
            field.hop_by_hop = true;
            for part in [field.name.of(bytes), b": ", field.value.of(bytes), b"\r\n"] {
                lines.extend_from_slice(part);
            }
        }
    }
    let only = head.body.is_empty().then_some(lines);
    Some(ForWeb { form, content_type, only })
}

impl ForWeb {
    /// Prepares the body's way, which is framed in chunks.
    pub(super) fn begin(self, download: &mut Pump) -> Result<(), PumpError> {
        download.speak_web(self.form);
        self.only.map_or(Ok(()), |lines| download.end_for_web(&lines))
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
