//! `[timeouts]`: how long a client, an endpoint and a drain may take.

use serde::{Deserialize, Serialize};

use crate::unit::{ByteSize, Period};

/// Time limits. Zero means none where a key says so. All live: a change holds for new connections and requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// First byte of a request's head to its last. Total, not per byte: one byte a second does not stretch it.
    /// Default 5 s; never zero. Expiry: 408 and close, counted as `header_timeout`.
    pub header: Period,
    /// A TLS handshake, from accept to its end. Total: one byte a second does not stretch it. Default 5 s; never zero.
    /// Expiry: close, counted as `handshake_timeout`.
    pub tls_handshake: Period,
    /// How long a client's connection may be idle between requests (keep-alive). Default 60 s; never zero.
    pub idle_client: Period,
    /// The least rate of a request's body, bytes per second over `body_rate_grace`. Default 240 B; 0 = none.
    /// Below it: 408 and close, counted as `body_rate`.
    pub body_rate_min: ByteSize,
    /// How long a body may stay below `body_rate_min` before it counts. Default 5 s; never zero.
    pub body_rate_grace: Period,
    /// TCP connect to an endpoint, where no policy says otherwise. Default 1 s; never zero.
    pub connect: Period,
    /// One attempt, first request byte sent to response head received, where no policy says otherwise. Default
    /// 0 = none (GEP-1742, `backendRequest`).
    pub attempt: Period,
    /// The whole exchange, retries included, where no policy says otherwise. Default 30 s; 0 = none (GEP-1742,
    /// `request`).
    pub request: Period,
    /// No byte in either direction of a streaming body, where no policy says otherwise. Default 60 s; 0 = none.
    pub idle: Period,
    /// What external authentication (`auth-url`) may take to answer for one request, tries again included. Default 10 s;
    /// never zero. Expiry: 500, counted as `auth_request_timeout`.
    pub auth_request: Period,
    /// How long a peer may take no byte that we have to send (zero window, slow read). Default 30 s; never zero.
    /// Expiry: close, counted as `write_stall`.
    pub write_stall: Period,
    /// No byte in either direction of a tunnel (WebSocket and other upgrades). Default 1 h; 0 = none.
    pub tunnel_idle: Period,
    /// No byte in either direction of a layer-4 connection. Default 1 h; 0 = none.
    pub tcp_idle: Period,
    /// How long a layer-4 connection stays with an endpoint that is found to hang and has got something of it. Default 1 s;
    /// 0 = reset at the verdict. A server that pauses (a collection of garbage, a slow script) goes on where it stood.
    pub tcp_hang: Period,
    /// No datagram in either direction of a flow (UDP listeners). Default 60 s; never zero. RFC 4787 §4.3 asks NATs for two
    /// minutes and lets well-known ports have less.
    pub udp_idle: Period,
    /// How long a layer-4 connection may live at all. Default 0 = for ever.
    pub tcp_lifetime: Period,
    /// How long a drain waits for exchanges to finish before they are cut. Default 30 s; 0 = cut at once.
    pub drain: Period,
    /// How long a drain leaves idle client connections open. Default 500 ms; 0 = closed at once. One that is used in that time
    /// gets its answer with `Connection: close`; one that is closed at once may have a request on its way, which is lost
    /// then (RFC 9112 §9.6). Connections of HTTP/2 get their GOAWAY at a moment within it, by lot.
    pub drain_idle: Period,
    /// How long a connection is idle before its buffer goes back to the pool. Default 100 ms; 0 = at once.
    /// Shorter saves memory, longer saves a system call per request on slow connections.
    pub buffer_idle: Period,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            header: Period::secs(5),
            tls_handshake: Period::secs(5),
            idle_client: Period::secs(60),
            body_rate_min: ByteSize::new(240),
            body_rate_grace: Period::secs(5),
            connect: Period::secs(1),
            attempt: Period::secs(0),
            request: Period::secs(30),
            idle: Period::secs(60),
            auth_request: Period::secs(10),
            write_stall: Period::secs(30),
            tunnel_idle: Period::secs(3_600),
            tcp_idle: Period::secs(3_600),
            tcp_hang: Period::secs(1),
            udp_idle: Period::secs(60),
            tcp_lifetime: Period::secs(0),
            drain: Period::secs(30),
            drain_idle: Period::millis(500),
            buffer_idle: Period::millis(100),
        }
    }
}
