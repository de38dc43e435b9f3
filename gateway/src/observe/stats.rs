//! Statistics of one worker: counters that it alone writes and anybody reads.
//!
//! Plain relaxed loads and stores: no read-modify-write on the request path. Labels are bounded: routes and
//! (backend, cluster) pairs have slots that the controller hands out up to `observe.metrics_series_max`; slot 0 is shared
//! by everything above.

use std::sync::atomic::{AtomicU64, Ordering};

use routing::id::ClusterId;
use routing::model::{GRPC_CODES, GrpcCode, StatSlot};
use wire::error::WireError;

use super::histogram::{Histogram, add};
use super::layer4::Layer4Stats;
use crate::tls::{Ended, connect};

/// A counter with one writer.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        add(&self.0, n);
    }

    /// Takes `n` away (for gauges).
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).saturating_sub(n), Ordering::Relaxed);
    }

    /// Sets it (for gauges).
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// What it stands at.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Bounds that can be hit: each is `ringway_limit_hits_total{limit="…"}`, and a key of gateway.toml or of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Limit {
    /// `limits.connections_max`
    Connections,
    /// `limits.connections_per_source_max`
    ConnectionsPerSource,
    /// `limits.exchanges_max`
    Exchanges,
    /// `limits.head_bytes_max`
    HeadBytes,
    /// `limits.header_line_bytes_max`
    HeaderLineBytes,
    /// `limits.headers_max`
    Headers,
    /// `limits.uri_bytes_max`
    UriBytes,
    /// `limits.pipeline_bytes_max`
    PipelineBytes,
    /// `limits.buffers_bytes_max`
    BuffersBytes,
    /// `limits.retry_body_bytes_max`, `retry.maxBodyBytes`
    RetryBodyBytes,
    /// `limits.retry_bodies_bytes_max`
    RetryBodiesBytes,
    /// `pool.idle_per_endpoint_max`
    PoolIdle,
    /// `pool.endpoint_in_flight_max`
    EndpointInFlight,
    /// `pool.pending_per_endpoint_max`
    EndpointPending,
    /// `pool.backend_in_flight_max`
    BackendInFlight,
    /// `timeouts.header`
    HeaderTimeout,
    /// `timeouts.body_rate_min`
    BodyRate,
    /// `timeouts.write_stall`
    WriteStall,
    /// `observe.access_log_bytes_max`
    AccessLogBytes,
    /// The process's file descriptors (`LimitNOFILE`).
    Descriptors,
    /// `retry.budgetPercent` of a `FailoverPolicy`.
    RetryBudget,
    /// The channel of reports to the controller.
    Reports,
    /// `limits.probes_max`
    Probes,
    /// `limits.detached_max`
    Detached,
    /// `capacity.maxInFlight` of a `FailoverPolicy`.
    ClusterCapacity,
    /// The channel of verdicts' evidence to the admin thread.
    Findings,
    /// The channel of recordings to the thread that writes them.
    Recordings,
    /// `limits.handshakes_max`
    Handshakes,
    /// `timeouts.tls_handshake`
    HandshakeTimeout,
    /// `limits.connection_sources_max`
    ConnectionSources,
    /// `limits.flows_max`
    Flows,
    /// `layer4.maxConnections` of a `GatewayConfig` listener.
    ListenerConnections,
    /// `layer4.maxSourceConnections` of a `GatewayConfig` listener.
    SourceConnections,
    /// `layer4.maxSourceRate` of a `GatewayConfig` listener.
    SourceRate,
    /// Source ranges of a rule (403).
    Access,
    /// Requests in a time of a rule.
    Rate,
    /// Requests at once of a rule.
    Concurrency,
    /// `Content-Length` of a rule (413).
    RuleBody,
    /// `http2.streams_max`
    Http2Streams,
    /// `http2.pending_resets_max`
    Http2Resets,
    /// `http2.faults_max`
    Http2Faults,
    /// `http2.cancels_max`
    Http2Cancels,
    /// `http2.requests_max`
    Http2Requests,
    /// Bounds on frames that carry nothing: CONTINUATION, empty and tiny DATA, header lists far too large.
    Http2Floods,
    /// `http2.control_bytes_max`
    Http2Control,
    /// Names and passwords of a rule (401).
    Basic,
    /// `limits.password_checks_max`
    PasswordChecks,
    /// `limits.gzip_streams_max`
    GzipStreams,
    /// Clients' certificates that a rule asks for (400, 403).
    ClientCertificate,
    /// `pool.http2_connections_max`
    Http2Connections,
    /// `pool.http2_ping`
    Http2Ping,
    /// `limits.apply_turn`
    ApplyTurn,
    /// `grpc.timeout_max`
    GrpcTimeout,
    /// External authentication of a rule (401, 403, or 302 to sign in).
    External,
    /// `limits.auth_requests_max`
    AuthRequests,
    /// `timeouts.auth_request`
    AuthRequestTimeout,
    /// `observe.decisions_max`
    Decisions,
}

impl Limit {
    /// All of them with the label's value, in the order of their numbers.
    pub const ALL: [(Self, &'static str); 57] = [
        (Self::Connections, "connections"),
        (Self::ConnectionsPerSource, "connections_per_source"),
        (Self::Exchanges, "exchanges"),
        (Self::HeadBytes, "head_bytes"),
        (Self::HeaderLineBytes, "header_line_bytes"),
        (Self::Headers, "headers"),
        (Self::UriBytes, "uri_bytes"),
        (Self::PipelineBytes, "pipeline_bytes"),
        (Self::BuffersBytes, "buffers_bytes"),
        (Self::RetryBodyBytes, "retry_body_bytes"),
        (Self::RetryBodiesBytes, "retry_bodies_bytes"),
        (Self::PoolIdle, "pool_idle"),
        (Self::EndpointInFlight, "endpoint_in_flight"),
        (Self::EndpointPending, "endpoint_pending"),
        (Self::BackendInFlight, "backend_in_flight"),
        (Self::HeaderTimeout, "header_timeout"),
        (Self::BodyRate, "body_rate"),
        (Self::WriteStall, "write_stall"),
        (Self::AccessLogBytes, "access_log_bytes"),
        (Self::Descriptors, "descriptors"),
        (Self::RetryBudget, "retry_budget"),
        (Self::Reports, "reports"),
        (Self::Probes, "probes"),
        (Self::Detached, "detached"),
        (Self::ClusterCapacity, "cluster_in_flight"),
        (Self::Findings, "findings"),
        (Self::Recordings, "recordings"),
        (Self::Handshakes, "handshakes"),
        (Self::HandshakeTimeout, "handshake_timeout"),
        (Self::ConnectionSources, "connection_sources"),
        (Self::Flows, "flows"),
        (Self::ListenerConnections, "listener_connections"),
        (Self::SourceConnections, "source_connections"),
        (Self::SourceRate, "source_rate"),
        (Self::Access, "rule_access"),
        (Self::Rate, "rule_rate"),
        (Self::Concurrency, "rule_concurrency"),
        (Self::RuleBody, "rule_body_bytes"),
        (Self::Http2Streams, "http2_streams"),
        (Self::Http2Resets, "http2_resets"),
        (Self::Http2Faults, "http2_faults"),
        (Self::Http2Cancels, "http2_cancels"),
        (Self::Http2Requests, "http2_requests"),
        (Self::Http2Floods, "http2_floods"),
        (Self::Http2Control, "http2_control"),
        (Self::Basic, "rule_basic"),
        (Self::PasswordChecks, "password_checks"),
        (Self::GzipStreams, "gzip_streams"),
        (Self::ClientCertificate, "rule_client_certificate"),
        (Self::Http2Connections, "upstream_http2_connections"),
        (Self::Http2Ping, "upstream_http2_ping"),
        (Self::ApplyTurn, "apply_turn"),
        (Self::GrpcTimeout, "grpc_timeout"),
        (Self::External, "rule_external_auth"),
        (Self::AuthRequests, "auth_requests"),
        (Self::AuthRequestTimeout, "auth_request_timeout"),
        (Self::Decisions, "decisions"),
    ];
}

/// Counters of one route, or of one cluster's part of a backend.
#[derive(Default)]
pub struct Tally {
    /// Responses by status class: 1xx to 5xx.
    pub classes: [Counter; 5],
    /// Attempts that failed before a response head was there.
    pub failures: Counter,
}

impl Tally {
    /// Counts a response.
    pub fn response(&self, status: u16) {
        let class = usize::from(status / 100).clamp(1, 5) - 1;
        self.classes[class].inc();
    }
}

/// What one worker says of one cluster.
#[derive(Default)]
pub struct ClusterStats {
    /// Responses and failures.
    pub tally: Tally,
    /// Attempts in flight now.
    pub in_flight: Counter,
    /// From the attempt's first byte sent to the response head received.
    pub latency: Histogram,
}

/// Clusters with counters of their own; what lies above shares the last.
pub const CLUSTERS_MAX: usize = 64;

/// Names of wire errors for exposition, and their counters' order.
const WIRE_ERRORS: usize = 32;

/// Everything that one worker counts.
pub struct WorkerStats {
    /// Connections accepted, adopted ones included.
    pub connections_total: Counter,
    /// Downstream connections open now.
    pub connections_open: Counter,
    /// Connections that another worker handed over.
    pub adopted_total: Counter,
    /// Connections handed to another worker.
    pub handed_over_total: Counter,
    /// Requests whose head was complete.
    pub requests_total: Counter,
    /// Exchanges in flight now.
    pub in_flight: Counter,
    /// Responses by status class, our own included.
    pub responses: Tally,
    /// From request head complete to response complete.
    pub latency: Histogram,
    /// Requests that matched no rule.
    pub unmatched_total: Counter,
    /// Bytes received from downstream.
    pub received_bytes_total: Counter,
    /// Bytes sent downstream.
    pub sent_bytes_total: Counter,
    /// Those of them that passed inside the kernel.
    pub spliced_bytes_total: Counter,
    /// Upstream connections opened.
    pub connects_total: Counter,
    /// Upstream connects that failed.
    pub connect_failures_total: Counter,
    /// Attempts that found an idle upstream connection.
    pub reuses_total: Counter,
    /// Idle upstream connections now.
    pub idle_upstream: Counter,
    /// Idle upstream connections that were found closed before use.
    pub idle_closed_total: Counter,
    /// Attempts lost to the keep-alive race after unsafe bytes were written: answered 502.
    pub race_lost_total: Counter,
    /// Attempts that were tried again elsewhere.
    pub retries_total: Counter,
    /// Tries again that were free of charge: nothing had been sent.
    pub moves_total: Counter,
    /// Second attempts started beside a first.
    pub hedges_total: Counter,
    /// Exchanges that a second attempt answered.
    pub hedges_won_total: Counter,
    /// Copies of requests sent to mirrors.
    pub mirrored_total: Counter,
    /// Questions to external authentication that were answered yes, no, or not at all.
    pub auth_requests_total: [Counter; 3],
    /// Suspicions raised by this worker.
    pub suspicions_total: Counter,
    /// Verdicts (down) by this worker.
    pub verdicts_total: Counter,
    /// Probes sent.
    pub probes_total: Counter,
    /// Recordings of verdicts handed to the thread that writes them.
    pub recordings_total: Counter,
    /// Attempts that were given up and listened to for their late answer.
    pub detached_total: Counter,
    /// Endpoints ejected.
    pub ejections_total: Counter,
    /// Endpoints used again after an ejection.
    pub restorations_total: Counter,
    /// Attempts that a drill gave a fault to.
    pub drill_faults_total: Counter,
    /// TLS handshakes by how they ended.
    pub handshakes: [Counter; Ended::ALL.len()],
    /// From accept to the end of a TLS handshake that came to one.
    pub handshake_latency: Histogram,
    /// Handshakes with a certificate whose OCSP response has expired: it was left out.
    pub staples_expired_total: Counter,
    /// TLS handshakes with backends by how they ended.
    pub upstream_handshakes: [Counter; connect::Ended::ALL.len()],
    /// Requests that were sent as streams of HTTP/2.
    pub http2_upstream_streams_total: Counter,
    /// Connections of HTTP/2 to endpoints, now.
    pub http2_upstream_connections: Counter,
    /// Clients that left before their response was complete.
    pub client_aborts_total: Counter,
    /// Upgraded connections (WebSocket) open now.
    pub tunnels_open: Counter,
    /// Upgraded connections closed because their cluster is being drained.
    pub tunnels_evacuated_total: Counter,
    /// Connection tasks that panicked: our bugs.
    pub panics_total: Counter,
    /// Times this worker was restarted.
    pub restarts_total: Counter,
    /// The table's generation.
    pub generation: Counter,
    /// Updates applied.
    pub updates_total: Counter,
    /// Nanoseconds spent applying updates.
    pub apply_ns_total: Counter,
    /// Processor time of the turns of its loop that were spent on updates.
    pub apply_turn: Histogram,
    /// The longest of them, nanoseconds.
    pub apply_longest_ns: Counter,
    /// Addresses that are listened on.
    pub listeners_open: Counter,
    /// Addresses that cannot be listened on.
    pub listeners_failing: Counter,
    /// 1 when the kernel refused the ring flags that were asked for.
    pub ring_flags_refused: Counter,
    /// Buffer memory held, in bytes.
    pub buffer_bytes: Counter,
    /// Access-log lines lost.
    pub log_lines_lost_total: Counter,
    /// Connections of clients that speak HTTP/2.
    pub http2_connections_total: Counter,
    /// Requests of HTTP/2 in flight now.
    pub http2_streams_open: Counter,
    /// Requests of HTTP/2 that their client took back.
    pub http2_resets_total: Counter,
    /// Connections of HTTP/2 that were asked to end for their age or their number of requests.
    pub http2_retired_total: Counter,
    /// Calls of gRPC by the code that their client got; the last: none.
    grpc_codes: [Counter; GRPC_CODES + 1],
    /// Layer-4 connections.
    pub layer4: Layer4Stats,
    limits: [Counter; Limit::ALL.len()],
    wire_errors: [Counter; WIRE_ERRORS],
    clusters: Box<[ClusterStats]>,
    routes: Box<[Tally]>,
    backends: Box<[Tally]>,
}

impl WorkerStats {
    /// All zero, with room for `series_max` routes and as many (backend, cluster) pairs.
    #[must_use]
    pub fn new(series_max: usize) -> Self {
        let series = series_max.max(1);
        Self {
            connections_total: Counter::default(),
            connections_open: Counter::default(),
            adopted_total: Counter::default(),
            handed_over_total: Counter::default(),
            requests_total: Counter::default(),
            in_flight: Counter::default(),
            responses: Tally::default(),
            latency: Histogram::default(),
            unmatched_total: Counter::default(),
            received_bytes_total: Counter::default(),
            spliced_bytes_total: Counter::default(),
            sent_bytes_total: Counter::default(),
            connects_total: Counter::default(),
            connect_failures_total: Counter::default(),
            reuses_total: Counter::default(),
            idle_upstream: Counter::default(),
            idle_closed_total: Counter::default(),
            race_lost_total: Counter::default(),
            retries_total: Counter::default(),
            moves_total: Counter::default(),
            hedges_total: Counter::default(),
            hedges_won_total: Counter::default(),
            mirrored_total: Counter::default(),
            auth_requests_total: Default::default(),
            suspicions_total: Counter::default(),
            verdicts_total: Counter::default(),
            probes_total: Counter::default(),
            recordings_total: Counter::default(),
            detached_total: Counter::default(),
            ejections_total: Counter::default(),
            restorations_total: Counter::default(),
            drill_faults_total: Counter::default(),
            handshakes: Default::default(),
            handshake_latency: Histogram::default(),
            staples_expired_total: Counter::default(),
            upstream_handshakes: Default::default(),
            http2_upstream_streams_total: Counter::default(),
            http2_upstream_connections: Counter::default(),
            client_aborts_total: Counter::default(),
            tunnels_open: Counter::default(),
            tunnels_evacuated_total: Counter::default(),
            panics_total: Counter::default(),
            restarts_total: Counter::default(),
            generation: Counter::default(),
            updates_total: Counter::default(),
            apply_ns_total: Counter::default(),
            apply_turn: Histogram::default(),
            apply_longest_ns: Counter::default(),
            listeners_open: Counter::default(),
            listeners_failing: Counter::default(),
            ring_flags_refused: Counter::default(),
            buffer_bytes: Counter::default(),
            log_lines_lost_total: Counter::default(),
            http2_connections_total: Counter::default(),
            http2_streams_open: Counter::default(),
            http2_resets_total: Counter::default(),
            http2_retired_total: Counter::default(),
            grpc_codes: Default::default(),
            layer4: Layer4Stats::default(),
            limits: std::array::from_fn(|_| Counter::default()),
            wire_errors: Default::default(),
            clusters: (0..CLUSTERS_MAX).map(|_| ClusterStats::default()).collect(),
            routes: (0..series).map(|_| Tally::default()).collect(),
            backends: (0..series).map(|_| Tally::default()).collect(),
        }
    }

    /// Counts a call of gRPC that is over.
    pub fn call(&self, code: Option<GrpcCode>) {
        self.grpc_codes[code.map_or(GRPC_CODES, |code| code.number().into())].inc();
    }

    /// How many calls of gRPC ended with this code.
    #[must_use]
    pub fn calls(&self, code: Option<GrpcCode>) -> u64 {
        self.grpc_codes[code.map_or(GRPC_CODES, |code| code.number().into())].get()
    }

    /// Counts a bound that was hit.
    pub fn hit(&self, limit: Limit) {
        self.limits[limit as usize].inc();
    }

    /// How often a bound was hit.
    #[must_use]
    pub fn hits(&self, limit: Limit) -> u64 {
        self.limits[limit as usize].get()
    }

    /// Counts a request that was refused for its form, and the bound of heads that it was beyond, if that is why.
    pub fn refused(&self, error: WireError) {
        self.wire_errors[(error as usize).min(WIRE_ERRORS - 1)].inc();
        if let Some(limit) = bound(error) {
            self.hit(limit);
        }
    }

    /// How many requests were refused for this fault.
    #[must_use]
    pub fn refusals(&self, error: WireError) -> u64 {
        self.wire_errors[(error as usize).min(WIRE_ERRORS - 1)].get()
    }

    /// The counters of a cluster.
    #[must_use]
    pub fn cluster(&self, cluster: ClusterId) -> &ClusterStats {
        &self.clusters[cluster.index().min(CLUSTERS_MAX - 1)]
    }

    /// The counters of a route.
    #[must_use]
    pub fn route(&self, slot: StatSlot) -> &Tally {
        self.routes.get(slot.0 as usize).unwrap_or(&self.routes[0])
    }

    /// The counters of one cluster's part of a backend.
    #[must_use]
    pub fn backend(&self, slot: StatSlot) -> &Tally {
        self.backends.get(slot.0 as usize).unwrap_or(&self.backends[0])
    }
}

/// The bound of heads that was reached.
fn bound(error: WireError) -> Option<Limit> {
    match error {
        WireError::HeadTooLong => Some(Limit::HeadBytes),
        WireError::HeaderTooLong => Some(Limit::HeaderLineBytes),
        WireError::TooManyHeaders => Some(Limit::Headers),
        WireError::TargetTooLong => Some(Limit::UriBytes),
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
        | WireError::Base64
        | WireError::Truncated
        | WireError::Unexpected => None,
    }
}
