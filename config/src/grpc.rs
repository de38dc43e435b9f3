//! `[grpc]`: what the gateway does for calls of gRPC.

use serde::{Deserialize, Serialize};

use crate::unit::Period;

/// Calls of gRPC. All live.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Grpc {
    /// The longest deadline (`grpc-timeout`) that a client is granted; one that asks for more gets this. Default 0 = as
    /// it asks. A call without a deadline gets none here. Counted as `grpc_timeout`.
    pub timeout_max: Period,
}
