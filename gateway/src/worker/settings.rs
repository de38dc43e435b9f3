//! What a worker needs of the configuration, in the types that it uses.

use std::time::Duration;

use config::{Config, EncodedSlashPolicy, HalfClose, RequestIdPolicy, UnderscorePolicy, ViaPolicy};
use ipnet::IpNet;
use wire::h1::limits::{HeadLimits, PEER_HEADERS_MAX, Underscores};
use wire::path::{EncodedSlashes, PathPolicy};

use crate::net::listen::Presence;
/// Live settings of one worker: replaced as a whole when the configuration is read again.
pub struct Settings {
    /// Bounds of heads, and what becomes of odd names and paths.
    pub head: HeadLimits,
    /// `limits.connections_max`
    pub connections_max: usize,
    /// `limits.connections_per_source_max`; 0 = unlimited.
    pub connections_per_source_max: u32,
    /// `limits.exchanges_max`
    pub exchanges_max: u64,
    /// `limits.pipeline_bytes_max`
    pub pipeline_bytes_max: usize,
    /// `limits.buffers_bytes_max`
    pub buffers_bytes_max: usize,
    /// `limits.retry_bodies_bytes_max`
    pub retry_bodies_bytes_max: usize,
    /// `limits.probes_max`
    pub probes_max: u32,
    /// `limits.detached_max`
    pub detached_max: u32,
    /// `limits.handshakes_max`
    pub handshakes_max: u64,
    /// `limits.gzip_streams_max`
    pub gzip_streams_max: u32,
    /// `limits.auth_requests_max`
    pub auth_requests_max: u32,
    /// `timeouts.auth_request`
    pub auth_request: Duration,
    /// `pool.idle_per_endpoint_max`
    pub pool_idle_max: u32,
    /// `pool.pending_per_endpoint_max`
    pub pending_connects_max: u32,
    /// `pool.http2_connections_max`
    pub http2_connections_max: u32,
    /// `pool.http2_ping`
    pub http2_ping: Duration,
    /// `pool.idle_timeout`
    pub pool_idle_timeout: Duration,
    /// `timeouts.header`
    pub header_timeout: Duration,
    /// `timeouts.tls_handshake`
    pub tls_handshake: Duration,
    /// `timeouts.idle_client`
    pub idle_client: Duration,
    /// `timeouts.drain_idle`
    pub drain_idle: Duration,
    /// `timeouts.buffer_idle`
    pub buffer_idle: Duration,
    /// `timeouts.write_stall`
    pub write_stall: Duration,
    /// `timeouts.tunnel_idle`; zero = none.
    pub tunnel_idle: Duration,
    /// `timeouts.tcp_idle`; zero = none.
    pub tcp_idle: Duration,
    /// `timeouts.tcp_lifetime`; zero = for ever.
    pub tcp_lifetime: Duration,
    /// `timeouts.tcp_hang`; zero = at once.
    pub tcp_hang: Duration,
    /// `timeouts.udp_idle`
    pub udp_idle: Duration,
    /// `limits.connection_sources_max`
    pub connection_sources_max: usize,
    /// `limits.flows_max`
    pub flows_max: usize,
    /// `limits.apply_turn`
    pub apply_turn: Duration,
    /// `timeouts.body_rate_min`, bytes per second; 0 = none.
    pub body_rate_min: u64,
    /// `timeouts.body_rate_grace`
    pub body_rate_grace: Duration,
    /// `http.half_close`
    pub half_close: HalfClose,
    /// `forward.trusted_cidrs`
    pub trusted: Box<[IpNet]>,
    /// `forward.via` on requests.
    pub via_requests: bool,
    /// `forward.via` on responses.
    pub via_responses: bool,
    /// `forward.x_request_id`
    pub request_id: RequestIdPolicy,
    /// `worker.rebalance`
    pub rebalance: bool,
    /// `worker.splice`
    pub splice: bool,
    /// `[http2]`
    pub http2: Http2Settings,
    /// `gateway.address_pool`
    pub address_pool: Box<[config::AddressRange]>,
    /// `[grpc]`
    pub grpc: GrpcSettings,
}

/// Calls of gRPC.
#[derive(Clone, Copy)]
pub struct GrpcSettings {
    /// `grpc.timeout_max`; zero = as clients ask.
    pub timeout_max: Duration,
    /// `grpc.web`
    pub web: bool,
}

/// HTTP/2 towards clients.
#[derive(Clone, Copy)]
pub struct Http2Settings {
    /// `http2.tls`
    pub tls: bool,
    /// `http2.cleartext`
    pub cleartext: bool,
    /// `http2.streams_max`
    pub streams_max: u32,
    /// `http2.stream_window`, bytes.
    pub stream_window: u32,
    /// `http2.connection_window`, bytes.
    pub connection_window: u32,
    /// `http2.pending_resets_max`
    pub pending_resets_max: usize,
    /// `http2.faults_max`
    pub faults_max: usize,
    /// `http2.cancels_max`
    pub cancels_max: u32,
    /// `http2.control_bytes_max`
    pub control_bytes_max: u32,
    /// `http2.requests_max`
    pub requests_max: u32,
    /// `http2.age`; zero = for ever.
    pub age: Duration,
}

impl Settings {
    /// Takes from the configuration what a worker needs.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let (limits, timeouts, pool) = (&config.limits, &config.timeouts, &config.pool);
        Self {
            head: head_limits(config),
            connections_max: limits.connections_max as usize,
            connections_per_source_max: limits.connections_per_source_max,
            exchanges_max: u64::from(limits.exchanges_max),
            pipeline_bytes_max: limits.pipeline_bytes_max.bytes(),
            buffers_bytes_max: limits.buffers_bytes_max.bytes(),
            retry_bodies_bytes_max: limits.retry_bodies_bytes_max.bytes(),
            probes_max: limits.probes_max,
            detached_max: limits.detached_max,
            handshakes_max: u64::from(limits.handshakes_max),
            gzip_streams_max: limits.gzip_streams_max,
            auth_requests_max: limits.auth_requests_max,
            auth_request: timeouts.auth_request.get(),
            pool_idle_max: pool.idle_per_endpoint_max,
            pending_connects_max: pool.pending_per_endpoint_max,
            http2_connections_max: pool.http2_connections_max,
            http2_ping: pool.http2_ping.get(),
            pool_idle_timeout: pool.idle_timeout.get(),
            header_timeout: timeouts.header.get(),
            tls_handshake: timeouts.tls_handshake.get(),
            idle_client: timeouts.idle_client.get(),
            drain_idle: timeouts.drain_idle.get(),
            buffer_idle: timeouts.buffer_idle.get(),
            write_stall: timeouts.write_stall.get(),
            tunnel_idle: timeouts.tunnel_idle.get(),
            tcp_idle: timeouts.tcp_idle.get(),
            tcp_lifetime: timeouts.tcp_lifetime.get(),
            tcp_hang: timeouts.tcp_hang.get(),
            udp_idle: timeouts.udp_idle.get(),
            connection_sources_max: limits.connection_sources_max as usize,
            flows_max: limits.flows_max as usize,
            apply_turn: limits.apply_turn.get(),
            body_rate_min: timeouts.body_rate_min.get(),
            body_rate_grace: timeouts.body_rate_grace.get(),
            half_close: config.http.half_close,
            trusted: config.forward.trusted_cidrs.clone().into_boxed_slice(),
            via_requests: config.forward.via != ViaPolicy::Off,
            via_responses: config.forward.via == ViaPolicy::Both,
            request_id: config.forward.x_request_id,
            rebalance: config.worker.rebalance,
            splice: config.worker.splice,
            http2: http2(&config.http2),
            grpc: GrpcSettings { timeout_max: config.grpc.timeout_max.get(), web: config.grpc.web },
            address_pool: config.gateway.address_pool.clone().into_boxed_slice(),
        }
    }

    /// May this address come to this machine later?
    #[must_use]
    pub fn presence(&self, ip: std::net::IpAddr) -> Presence {
        match self.address_pool.iter().any(|range| range.contains(ip)) {
            true => Presence::Awaited,
            false => Presence::Required,
        }
    }

    /// Is this peer one whose forwarding headers are believed?
    #[must_use]
    pub fn trusts(&self, peer: std::net::IpAddr) -> bool {
        self.trusted.iter().any(|range| range.contains(&peer))
    }
}

fn http2(http2: &config::Http2) -> Http2Settings {
    // Their ranges lie far below what is cut off here.
    let bytes = |size: config::ByteSize| u32::try_from(size.bytes()).unwrap_or(i32::MAX.unsigned_abs());
    Http2Settings {
        tls: http2.tls,
        cleartext: http2.cleartext,
        streams_max: http2.streams_max,
        stream_window: bytes(http2.stream_window),
        connection_window: bytes(http2.connection_window),
        pending_resets_max: http2.pending_resets_max as usize,
        faults_max: http2.faults_max as usize,
        cancels_max: http2.cancels_max,
        control_bytes_max: bytes(http2.control_bytes_max),
        requests_max: http2.requests_max,
        age: http2.age.get(),
    }
}

fn head_limits(config: &Config) -> HeadLimits {
    let limits = &config.limits;
    HeadLimits {
        head_bytes_max: limits.head_bytes_max.bytes(),
        header_line_bytes_max: limits.header_line_bytes_max.bytes(),
        headers_max: (limits.headers_max as usize).min(PEER_HEADERS_MAX),
        uri_bytes_max: limits.uri_bytes_max.bytes(),
        path: PathPolicy {
            encoded_slashes: match config.forward.encoded_slash {
                EncodedSlashPolicy::Keep => EncodedSlashes::Keep,
                EncodedSlashPolicy::Decode => EncodedSlashes::Decode,
                EncodedSlashPolicy::Reject => EncodedSlashes::Refuse,
            },
            ..PathPolicy::default()
        },
        underscores: match config.forward.underscores {
            UnderscorePolicy::Drop => Underscores::Drop,
            UnderscorePolicy::Keep => Underscores::Keep,
            UnderscorePolicy::Reject => Underscores::Refuse,
        },
    }
}
