//! Memory that one step between two waits uses: one for the whole worker, so that it stays in the cache.
//!
//! With a thousand busy connections, what each of them touches for itself is what a request costs. Heads of
//! responses and heads on their way out live only from one read to the next write, so all exchanges share one place.

use routing::health::endpoint::Outcome;
use routing::model::{GrpcCode, RetryPolicy};
use wire::error::WireError;
use wire::h1::decode::{self, Decoded};
use wire::h1::limits::HeadLimits;
use wire::head::{BodyLength, Method, Persistence, ResponseHead, ResponseView};

/// What a worker's exchanges share. Never borrowed across a wait.
#[derive(Default)]
pub struct Scratch {
    /// Heads on their way out are put together here.
    pub(super) head_out: Vec<u8>,
    /// A rewritten path.
    pub(super) path: Vec<u8>,
    /// The value of Set-Cookie.
    pub(super) cookie: Vec<u8>,
    response: ResponseHead,
    /// Which [`Answer`] `response` holds the fields of.
    holds: u64,
}

/// What an exchange remembers of its response head; the fields are in the scratch, or decoded again.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: BodyLength,
    pub(super) persistence: Persistence,
    pub(super) head_len: usize,
    /// What an answer to a call of gRPC says that is nothing but trailers; of others it is not asked.
    pub(super) grpc: Option<GrpcCode>,
    number: u64,
}

impl Answer {
    /// What it says of its endpoint.
    pub(super) fn outcome(&self, retry: &RetryPolicy) -> Outcome {
        match self.grpc {
            None => Outcome::of_status(self.status, retry),
            Some(code) => Outcome::of_grpc(code, retry),
        }
    }
}

impl Scratch {
    /// The place where heads are put together, empty.
    pub fn head_out(&mut self) -> &mut Vec<u8> {
        self.head_out.clear();
        &mut self.head_out
    }

    /// Decodes a response head. `None` when more bytes are needed.
    ///
    /// # Errors
    /// As `wire::h1::decode::response`.
    pub(super) fn decode(
        &mut self,
        bytes: &[u8],
        limits: &HeadLimits,
        method: Method,
    ) -> Result<Option<Answer>, WireError> {
        self.holds += 1;
        match decode::response(bytes, limits, method, &mut self.response)? {
            Decoded::Partial => Ok(None),
            Decoded::Complete => Ok(Some(Answer {
                status: self.response.status,
                body: self.response.body,
                persistence: self.response.persistence,
                head_len: self.response.head_len,
                grpc: None,
                number: self.holds,
            })),
        }
    }

    /// The code of gRPC in the head that was decoded last, whose bytes are `bytes`; `None` where more than trailers follows.
    pub(super) fn grpc_code(&self, bytes: &[u8]) -> Option<GrpcCode> {
        let head = &self.response;
        let status = ResponseView { head, bytes }.header(b"grpc-status").filter(|_| head.body.is_empty())?;
        Some(GrpcCode::of(wire::grpc::status(status)))
    }

    /// The fields of `answer`, whose bytes are `bytes`, and the place to write the next head to. Decoded again when
    /// another exchange used the scratch meanwhile.
    pub(super) fn fields(
        &mut self,
        answer: &Answer,
        bytes: &[u8],
        limits: &HeadLimits,
        method: Method,
    ) -> (&mut ResponseHead, &mut Vec<u8>, &mut Vec<u8>) {
        if self.holds != answer.number {
            self.holds += 1;
            // It was decoded before: the same bytes give the same head.
            let _ = decode::response(bytes, limits, method, &mut self.response);
        }
        self.head_out.clear();
        (&mut self.response, &mut self.head_out, &mut self.cookie)
    }
}
