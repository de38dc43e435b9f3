//! `[http2]`: where HTTP/2 is spoken to clients, and how much one connection may ask for.

use serde::{Deserialize, Serialize};

use crate::unit::{ByteSize, Period};

/// HTTP/2 towards clients. All live: a change holds for new connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Http2 {
    /// Is `h2` offered by ALPN on https listeners, before `http/1.1`? Default true.
    pub tls: bool,
    /// Is HTTP/2 with prior knowledge (RFC 9113 §3.3) spoken on http listeners? Default true. `Upgrade: h2c` never is.
    pub cleartext: bool,
    /// Streams that a client may have open on one connection. Default 128. Beyond it a stream is refused with
    /// REFUSED_STREAM, which a client may send again. Reaching it is counted as `http2_streams`.
    pub streams_max: u32,
    /// Bytes of a request's body that a client may send ahead of what the endpoint takes
    /// (SETTINGS_INITIAL_WINDOW_SIZE). Default 64 KiB.
    pub stream_window: ByteSize,
    /// The same for all bodies of one connection together. Default 1 MiB: this much memory a client can make us hold.
    pub connection_window: ByteSize,
    /// Streams that a client has opened and reset before anybody looked at them (CVE-2023-44487). Default 20. Beyond it
    /// the connection is closed with ENHANCE_YOUR_CALM. Counted as `http2_resets`.
    pub pending_resets_max: u32,
    /// Streams of one connection that we had to reset because of the client's mistakes (CVE-2025-8671). Default 100.
    /// Beyond it the connection is closed with ENHANCE_YOUR_CALM. Counted as `http2_faults`.
    pub faults_max: u32,
    /// Requests of one connection that the client took back before their response began. Default 200. Beyond it, and
    /// when they are more than half of its requests, the connection is closed with ENHANCE_YOUR_CALM. Counted as
    /// `http2_cancels`.
    pub cancels_max: u32,
    /// Bytes of frames that carry nothing (PING, SETTINGS, PRIORITY, WINDOW_UPDATE, RST_STREAM) and of their answers, by
    /// which a client may be ahead of what is carried for it: fields and data that it sends, and all that it is sent. 4 KiB
    /// a second are forgiven. Default 64 KiB. Beyond it the connection is closed with ENHANCE_YOUR_CALM. Counted as
    /// `http2_control`.
    pub control_bytes_max: ByteSize,
    /// Requests after which a connection is retired: GOAWAY, its streams end, and the client opens another, perhaps with
    /// another worker. Default 100,000. A tenth less or more by lot, so that connections which began together do not
    /// end together. Counted as `http2_requests`.
    pub requests_max: u32,
    /// Age after which a connection is retired, a tenth less or more by lot. Default 1 h; 0 = never.
    pub age: Period,
}

impl Default for Http2 {
    fn default() -> Self {
        Self {
            tls: true,
            cleartext: true,
            streams_max: 128,
            stream_window: ByteSize::kib(64),
            connection_window: ByteSize::mib(1),
            pending_resets_max: 20,
            faults_max: 100,
            cancels_max: 200,
            control_bytes_max: ByteSize::kib(64),
            requests_max: 100_000,
            age: Period::secs(3_600),
        }
    }
}
