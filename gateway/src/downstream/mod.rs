//! The client's side: one module for each protocol.

pub mod h1;
mod h2;
pub mod tcp;
pub mod udp;

use wire::error::WireError;

use crate::observe::stats::Limit;
use crate::worker::Worker;

/// Counts a bound of heads that a request was refused for.
fn count_limit(worker: &Worker, error: WireError) {
    let limit = match error {
        WireError::HeadTooLong => Limit::HeadBytes,
        WireError::HeaderTooLong => Limit::HeaderLineBytes,
        WireError::TooManyHeaders => Limit::Headers,
        WireError::TargetTooLong => Limit::UriBytes,
        WireError::StartLine
        | WireError::Version
        | WireError::Target
        | WireError::HeaderName
        | WireError::HeaderValue
        | WireError::LineEnding
        | WireError::Host
        | WireError::ContentLength
        | WireError::TransferEncoding
        | WireError::LengthConflict
        | WireError::Chunk
        | WireError::Trailer
        | WireError::Expectation
        | WireError::Method
        | WireError::Protocol
        | WireError::Truncated
        | WireError::Unexpected => return,
    };
    worker.stats.hit(limit);
}
