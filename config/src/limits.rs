//! `[limits]`: what one worker holds at most, and how large one request's head may be.
//!
//! Reaching a limit is never fatal: it is answered or queued as said here, and counted in
//! `ringway_limit_hits_total{limit="…"}` under the name given with each key (see [`KEYS`](crate::KEYS)).

use serde::{Deserialize, Serialize};

use crate::unit::ByteSize;

/// Bounds of memory, connections and heads. All live: a change holds for new connections and new requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Client connections of one worker. Default 100,000. Beyond it the oldest idle connection is closed, and
    /// where none is idle the new one is answered 503. Counted as `connections`.
    pub connections_max: u32,
    /// Client connections of one source address on one worker. Default 0 = unlimited. Beyond it the new connection
    /// is closed. Counted as `connections_per_source`.
    pub connections_per_source_max: u32,
    /// Exchanges in flight on one worker. Default 100,000. Beyond it a request is answered 503 with Retry-After.
    /// Counted as `exchanges`.
    pub exchanges_max: u32,
    /// A request's or response's head: start line and all header lines. Default 32 KiB. Beyond it 431 (a response:
    /// 502). Counted as `head_bytes`.
    pub head_bytes_max: ByteSize,
    /// One header line. Default 8 KiB, at most `head_bytes_max`. Beyond it 431. Counted as `header_line_bytes`.
    pub header_line_bytes_max: ByteSize,
    /// Header lines of one head. Default 100. Beyond it 431. Counted as `headers`.
    pub headers_max: u32,
    /// The request-target. Default 8 KiB, at most `head_bytes_max`. Beyond it 414. Counted as `uri_bytes`.
    pub uri_bytes_max: ByteSize,
    /// Bytes of following requests that a connection holds while one of its requests is answered (pipelining).
    /// Default 16 KiB; at most 120 KiB. Beyond it nothing more is read until the answer has been sent, not even to learn
    /// that the client left. What came in one read with the request is held whatever its size. Counted as
    /// `pipeline_bytes`.
    pub pipeline_bytes_max: ByteSize,
    /// Memory for buffers of one worker. Default 1 GiB. Beyond it new requests are answered 503 with Retry-After.
    /// Counted as `buffers_bytes`.
    pub buffers_bytes_max: ByteSize,
    /// A request's body that is kept so that it can be sent again, where no policy says otherwise. Default 64 KiB;
    /// 0 keeps none. A larger body is streamed and not replayed. Counted as `retry_body_bytes`.
    pub retry_body_bytes_max: ByteSize,
    /// All kept bodies of one worker together. Default 64 MiB. Beyond it bodies are streamed and not replayed.
    /// Counted as `retry_bodies_bytes`.
    pub retry_bodies_bytes_max: ByteSize,
    /// Probes of the failure detector and of health checks in flight at once, per worker. Default 256. Beyond it a
    /// probe counts as answered. Counted as `probes`.
    pub probes_max: u32,
    /// Attempts that were given up for a faster one and are listened to for their late answer, per worker. Default
    /// 1024. Beyond it they are closed. Counted as `detached`.
    pub detached_max: u32,
    /// TLS handshakes in flight on one worker, slow clients included. Default 8,192. Beyond it the new connection is
    /// closed. Counted as `handshakes`.
    pub handshakes_max: u32,
    /// Responses that one worker compresses at once, about 270 KiB each. Default 256; 0 compresses none. Beyond it a
    /// response passes as its backend sent it. Counted as `gzip_streams`.
    pub gzip_streams_max: u32,
    /// Comparisons of passwords that wait for the one thread that makes them, the whole node's. Default 64. Beyond it a
    /// request is answered 503 with Retry-After. Counted as `password_checks`.
    pub password_checks_max: u32,
    /// Questions to external authentication (`auth-url`) in flight, per worker. Default 4,096. Beyond it a request is
    /// answered 503 with Retry-After. Counted as `auth_requests`.
    pub auth_requests_max: u32,
    /// Sources (IPv4 addresses, IPv6 /64 networks) whose layer-4 connections are counted at once, per worker, where a
    /// listener bounds them. Default 65,536. Beyond it a new source is served uncounted. Counted as
    /// `connection_sources`.
    pub connection_sources_max: u32,
    /// Flows of datagrams (UDP listeners) of one worker; each has a descriptor. Default 16,384. Beyond it the flow that is
    /// quiet longest ends, if it has been quiet for a second; otherwise the datagram is dropped. Counted as `flows`.
    pub flows_max: u32,
    /// How long one turn of a worker's loop may be spent on updates of its table. Default 100 µs; the rest waits for the
    /// next turn, and requests are served in between. Shorter makes a large update take longer. Counted as `apply_turn`.
    pub apply_turn: crate::Period,
}

/// `[pool]`: connections to endpoints, and how many requests may be on their way to one endpoint or backend.
///
/// Per worker: workers share nothing, so a node's bound is this times the number of workers. All live.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Pool {
    /// Idle connections kept per endpoint. Default 1,024; 0 keeps none. Beyond it the connection is closed after
    /// its response. Counted as `pool_idle`.
    pub idle_per_endpoint_max: u32,
    /// Connections of HTTP/2 to one endpoint, each with up to 100 requests at once. Default 8. Beyond it, when all are full,
    /// a request goes to another endpoint, or is answered 503. Counted as `upstream_http2_connections`.
    pub http2_connections_max: u32,
    /// A connection of HTTP/2 with requests under way is asked by a PING after so long; without an answer within as long
    /// again it is closed. Default 10 s; never zero. Expiry is counted as `upstream_http2_ping`.
    pub http2_ping: crate::Period,
    /// How long an idle connection is kept. Default 60 s.
    pub idle_timeout: crate::Period,
    /// Requests in flight on one endpoint. Default 0 = unlimited. Beyond it a request goes to another endpoint, or is
    /// answered 503: none waits. Counted as `endpoint_in_flight`.
    pub endpoint_in_flight_max: u32,
    /// Connects to one endpoint under way. Default 1,024. Beyond it a request goes to another endpoint, or is answered 503
    /// with Retry-After. Counted as `endpoint_pending`.
    pub pending_per_endpoint_max: u32,
    /// Requests in flight on one backend, all clusters together. Default 0 = unlimited. Beyond it 503 with
    /// Retry-After. Counted as `backend_in_flight`.
    pub backend_in_flight_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 100_000,
            connections_per_source_max: 0,
            exchanges_max: 100_000,
            head_bytes_max: ByteSize::kib(32),
            header_line_bytes_max: ByteSize::kib(8),
            headers_max: 100,
            uri_bytes_max: ByteSize::kib(8),
            pipeline_bytes_max: ByteSize::kib(16),
            buffers_bytes_max: ByteSize::mib(1_024),
            retry_body_bytes_max: ByteSize::kib(64),
            retry_bodies_bytes_max: ByteSize::mib(64),
            probes_max: 256,
            detached_max: 1024,
            handshakes_max: 8_192,
            gzip_streams_max: 256,
            password_checks_max: 64,
            auth_requests_max: 4_096,
            connection_sources_max: 65_536,
            flows_max: 16_384,
            apply_turn: crate::Period::new(std::time::Duration::from_micros(100)),
        }
    }
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            idle_per_endpoint_max: 1_024,
            http2_connections_max: 8,
            http2_ping: crate::Period::secs(10),
            idle_timeout: crate::Period::secs(60),
            endpoint_in_flight_max: 0,
            pending_per_endpoint_max: 1_024,
            backend_in_flight_max: 0,
        }
    }
}
