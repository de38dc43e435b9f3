//! `[grpc]`: what the gateway does for calls of gRPC.

use serde::{Deserialize, Serialize};

use crate::unit::Period;

/// Calls of gRPC. All live.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Grpc {
    /// The longest deadline (`grpc-timeout`) that a client is granted; one that asks for more gets this. Default 0 = as
    /// it asks. A call without a deadline gets none here. Counted as `grpc_timeout`.
    pub timeout_max: Period,
    /// Is gRPC-Web spoken to clients (`application/grpc-web`, `application/grpc-web-text`)? Default true. Only for rules whose
    /// backends are all spoken to in HTTP/2, which is what servers of gRPC speak; to others it passes as it is, because
    /// a server behind HTTP/1.1 that is sent it speaks it itself.
    pub web: bool,
}

impl Default for Grpc {
    fn default() -> Self {
        Self { timeout_max: Period::default(), web: true }
    }
}
