//! `[http]`: what HTTP leaves to a gateway's choice towards its clients.

use serde::{Deserialize, Serialize};

/// Choices of HTTP/1. All live: a change holds for new requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    /// What a client's FIN behind a complete request means. Default [`HalfClose::Abort`].
    pub half_close: HalfClose,
}

/// What a client's FIN behind a complete request means, before its response is complete.
///
/// A client that closed its connection and one that only says that it sends nothing more (`shutdown(SHUT_WR)`) look
/// the same until something is written to them: the first then resets the connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HalfClose {
    /// It left: the attempt is cancelled, and the endpoint is free for others. As nginx and Envoy do, because
    /// nearly every FIN at this point is of a client that gave up.
    #[default]
    Abort,
    /// It waits: the response is sent. Only a reset or a write that fails ends the exchange. As HAProxy does
    /// without `option abortonclose`.
    Serve,
}
