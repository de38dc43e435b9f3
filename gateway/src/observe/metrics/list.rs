//! Every metric: name, kind, labels and meaning. README shows the same; a test holds them equal.

/// How a metric behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, until the process restarts.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts values by size; exposed as `_bucket`, `_sum` and `_count`.
    Histogram,
}

impl Kind {
    /// As it is written in the exposition and in README.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name; a counter's ends in `_total`, a duration's in `_seconds`, a size's in `_bytes` (before `_total`).
    pub name: &'static str,
    /// How it behaves.
    pub kind: Kind,
    /// Its labels, joined by `, `; empty = none.
    pub labels: &'static str,
    /// What it says.
    pub help: &'static str,
}

/// Every metric there is, in the order of the exposition.
pub const METRICS: &[Metric] = &[
    gauge("ringway_build_info", "version", "Always 1; the label is the version that runs"),
    gauge("ringway_ready", "", "1 while /readyz answers 200"),
    gauge("ringway_workers", "", "Workers of this node"),
    counter("ringway_connections_total", "worker", "Downstream connections accepted or adopted"),
    gauge("ringway_connections_open", "worker", "Downstream connections open now"),
    counter("ringway_connections_adopted_total", "worker", "Connections taken over from a busier worker"),
    counter("ringway_connections_handed_over_total", "worker", "Connections given to a less busy worker"),
    counter("ringway_requests_total", "worker", "Requests whose head was complete and valid"),
    gauge("ringway_requests_in_flight", "worker", "Exchanges in flight now"),
    counter("ringway_responses_total", "class", "Responses to clients by status class, our own included"),
    histogram(
        "ringway_request_duration_seconds",
        "",
        "From the request head complete to the response complete",
    ),
    counter("ringway_requests_unmatched_total", "", "Requests that matched no rule (404)"),
    counter("ringway_requests_refused_total", "fault", "Requests refused for their form, by fault"),
    counter("ringway_client_aborts_total", "", "Clients that left before their response was complete"),
    counter("ringway_tls_handshakes_total", "result", "TLS handshakes of clients by how they ended"),
    histogram(
        "ringway_tls_handshake_seconds",
        "",
        "From accept to the end of a TLS handshake that succeeded",
    ),
    counter(
        "ringway_upstream_tls_handshakes_total",
        "result",
        "TLS handshakes with backends by how they ended",
    ),
    gauge(
        "ringway_tls_certificate_expiry_seconds",
        "secret",
        "When a certificate in use expires, seconds since 1970",
    ),
    gauge(
        "ringway_tls_staple_expiry_seconds",
        "secret",
        "When the OCSP response of a certificate in use expires, seconds since 1970",
    ),
    counter(
        "ringway_tls_staples_expired_total",
        "",
        "TLS handshakes without the OCSP response that the certificate has, because it has expired",
    ),
    counter("ringway_received_bytes_total", "", "Bytes received from clients"),
    counter("ringway_sent_bytes_total", "", "Bytes sent to clients"),
    counter("ringway_spliced_bytes_total", "", "Those of them that passed inside the kernel (worker.splice)"),
    counter("ringway_http2_connections_total", "", "Connections of clients that speak HTTP/2"),
    gauge("ringway_http2_streams_open", "", "Requests of HTTP/2 in flight now"),
    counter("ringway_http2_resets_total", "", "Requests of HTTP/2 that their client took back"),
    counter(
        "ringway_http2_retired_total",
        "",
        "Connections of HTTP/2 asked to end for their age or number of requests",
    ),
    counter("ringway_grpc_calls_total", "code", "Calls of gRPC by the status that their client got"),
    gauge("ringway_tunnels_open", "", "Upgraded connections (WebSocket) open now"),
    counter("ringway_layer4_connections_total", "", "Layer-4 connections accepted"),
    gauge("ringway_layer4_connections_open", "", "Layer-4 connections open now"),
    counter("ringway_layer4_received_bytes_total", "", "Bytes of layer-4 clients on their way to endpoints"),
    counter("ringway_layer4_sent_bytes_total", "", "Bytes of endpoints on their way to layer-4 clients"),
    histogram(
        "ringway_layer4_connect_seconds",
        "",
        "From a layer-4 connection accepted to its endpoint connected",
    ),
    counter("ringway_layer4_flows_total", "", "Flows of datagrams begun"),
    gauge("ringway_layer4_flows_open", "", "Flows of datagrams now"),
    counter("ringway_layer4_flows_moved_total", "", "Times that a flow went on with another endpoint"),
    counter("ringway_layer4_datagrams_received_total", "", "Datagrams of clients that belong to a flow"),
    counter("ringway_layer4_datagrams_sent_total", "", "Datagrams of endpoints that clients were sent"),
    counter("ringway_layer4_datagrams_dropped_total", "reason", "Datagrams that were dropped, by why"),
    counter("ringway_layer4_ended_total", "reason", "Layer-4 connections and flows by why they ended"),
    counter(
        "ringway_tunnels_evacuated_total",
        "",
        "Upgraded connections closed because their cluster is drained over a time",
    ),
    counter("ringway_upstream_connects_total", "", "Connections opened to endpoints"),
    counter("ringway_upstream_connect_failures_total", "", "Connections to endpoints that failed to open"),
    counter("ringway_upstream_http2_streams_total", "", "Requests sent to endpoints as streams of HTTP/2"),
    gauge("ringway_upstream_http2_connections", "", "Connections of HTTP/2 to endpoints, now"),
    counter("ringway_upstream_reuses_total", "", "Attempts that found an idle connection to their endpoint"),
    gauge("ringway_upstream_idle_connections", "", "Idle connections to endpoints now"),
    counter("ringway_upstream_idle_closed_total", "", "Idle connections that were found closed before use"),
    counter(
        "ringway_upstream_race_lost_total",
        "",
        "Unsafe requests lost to a connection that closed while they were sent (502)",
    ),
    counter("ringway_retries_total", "", "Attempts repeated elsewhere, paid from the retry budget"),
    counter("ringway_moves_total", "", "Attempts repeated elsewhere for free: nothing had been sent"),
    counter("ringway_hedges_total", "", "Second attempts started beside a first that waited"),
    counter("ringway_hedges_won_total", "", "Requests that a second attempt answered"),
    counter("ringway_mirrored_total", "", "Copies of requests sent to mirrors"),
    counter(
        "ringway_auth_requests_total",
        "verdict",
        "Questions to external authentication by what was said: granted, refused, or nothing (failed)",
    ),
    counter("ringway_attempts_detached_total", "", "Attempts given up and listened to for their late answer"),
    counter("ringway_probes_total", "", "Probes sent to endpoints"),
    counter("ringway_suspicions_total", "worker", "Suspicions that a worker's traffic raised"),
    counter("ringway_verdicts_total", "worker", "Clusters, backends and endpoints that a worker found down"),
    counter(
        "ringway_ejections_total",
        "worker",
        "Endpoints that a worker ejected; each worker decides for itself",
    ),
    counter("ringway_restorations_total", "worker", "Endpoints that a worker uses again after an ejection"),
    counter(
        "ringway_recordings_total",
        "",
        "Timelines of verdicts that the flight recorder handed to be written",
    ),
    counter("ringway_drill_faults_total", "", "Attempts that a drill gave a fault to"),
    counter("ringway_limit_hits_total", "limit", "Bounds that were reached, by the bound's name"),
    gauge("ringway_buffer_bytes", "", "Memory that connection buffers hold now"),
    counter(
        "ringway_access_log_lines_lost_total",
        "",
        "Access-log lines dropped because the writer was behind",
    ),
    counter("ringway_panics_total", "worker", "Connection tasks that panicked: our bugs"),
    counter("ringway_worker_restarts_total", "worker", "Restarts of a worker after a panic"),
    gauge("ringway_listeners_open", "worker", "Addresses that a worker listens on"),
    gauge(
        "ringway_listeners_failing",
        "worker",
        "Addresses that a worker cannot listen on; it tries again every second",
    ),
    gauge(
        "ringway_ring_flags_refused",
        "worker",
        "1 when the kernel refused the io_uring flags that were asked for",
    ),
    gauge("ringway_table_generation", "worker", "The table that a worker runs"),
    counter("ringway_table_updates_total", "worker", "Table updates applied"),
    counter("ringway_table_apply_seconds_total", "worker", "Time spent applying table updates"),
    histogram(
        "ringway_table_apply_turn_seconds",
        "",
        "Processor time of each turn of a worker's loop that was spent on table updates: how long it kept requests waiting",
    ),
    gauge("ringway_table_apply_longest_seconds", "worker", "The longest of these turns since the start"),
    counter(
        "ringway_cluster_responses_total",
        "cluster, class",
        "Responses from a member cluster by status class, every attempt",
    ),
    counter(
        "ringway_cluster_failures_total",
        "cluster",
        "Attempts on a member cluster that ended without a response",
    ),
    gauge("ringway_cluster_in_flight", "cluster", "Attempts in flight on a member cluster now"),
    histogram(
        "ringway_cluster_response_seconds",
        "cluster",
        "From an attempt's first byte sent to its response head",
    ),
    gauge(
        "ringway_cluster_endpoints",
        "cluster, condition",
        "Endpoints in use by condition (ready, terminating)",
    ),
    gauge(
        "ringway_cluster_drained",
        "cluster",
        "1 while an operator keeps requests away from a member cluster",
    ),
    gauge(
        "ringway_cluster_state",
        "cluster, state",
        "1 for the state that the failure detector sees a member cluster in: healthy, suspect, probation, ramp, down_REASON",
    ),
    gauge(
        "ringway_cluster_backends",
        "cluster, state",
        "Backends of a member cluster by the state that the failure detector sees them in",
    ),
    counter(
        "ringway_route_responses_total",
        "route, class",
        "Responses to clients by route and status class",
    ),
    counter(
        "ringway_backend_responses_total",
        "backend, cluster, class",
        "Responses from a cluster's part of a backend, every attempt",
    ),
    counter(
        "ringway_backend_failures_total",
        "backend, cluster",
        "Attempts on a cluster's part of a backend that ended without a response",
    ),
    gauge(
        "ringway_controller_synced",
        "",
        "1 once everything that was there at the start has been broadcast",
    ),
    gauge("ringway_controller_generation", "", "The newest table that was broadcast"),
    gauge("ringway_controller_objects", "kind", "Kubernetes objects known"),
    gauge("ringway_controller_verdicts", "outcome", "Objects by what became of them"),
    gauge("ringway_controller_routes", "", "Routes compiled"),
    gauge("ringway_controller_backends", "", "Backends in use"),
    histogram(
        "ringway_propagation_seconds",
        "",
        "From an event (a changed file) to its application on the last worker",
    ),
    counter(
        "ringway_updates_coalesced_total",
        "",
        "Updates merged into a later one because an inbox was full",
    ),
    counter(
        "ringway_snapshots_total",
        "",
        "Whole tables sent: at the start, to restarted workers, to this API",
    ),
    counter("ringway_controller_restarts_total", "", "Restarts of the controller after a panic"),
    gauge("ringway_gateway_addresses", "", "Addresses of gateway.address_pool that Gateways have"),
    gauge(
        "ringway_gateways_without_address",
        "",
        "Gateways without an address: gateway.address_pool has none for them",
    ),
    gauge("ringway_canary_watching", "", "1 while the first worker runs a table that is on trial"),
    gauge(
        "ringway_canary_refused_routes",
        "",
        "Routes that stay as they were because a canary took them back",
    ),
    counter(
        "ringway_canary_verdicts_total",
        "verdict",
        "Tables on trial by how it ended (promoted, unproven, rolled_back, withdrawn)",
    ),
    gauge("ringway_fleet_ready", "cluster", "1 while all is well with a cluster's API: `fleet` is the hub"),
    gauge("ringway_fleet_answered_age_seconds", "cluster", "Since a cluster's API last answered anything"),
    gauge("ringway_fleet_event_age_seconds", "cluster", "Since a cluster's API last said something new"),
    gauge(
        "ringway_fleet_watches",
        "cluster, state",
        "Watches of a cluster's API by state (waiting, watching, missing, doubting, failing)",
    ),
    counter("ringway_fleet_lists_total", "cluster", "Lists of a cluster's objects that were believed"),
    counter(
        "ringway_fleet_lists_doubted_total",
        "cluster",
        "Lists that lost more than half and were asked for again",
    ),
    counter("ringway_fleet_watch_failures_total", "cluster", "Requests of watches that failed"),
    counter(
        "ringway_fleet_status_writes_total",
        "outcome",
        "Writes of status to the hub by this node, which holds the Lease (written, failed)",
    ),
    counter(
        "ringway_fleet_status_deferred_total",
        "",
        "Objects whose status waited 100 ms more because fleet.status_burst and fleet.status_per_second allow no more",
    ),
    histogram(
        "ringway_fleet_propagation_seconds",
        "cluster",
        "From an event of a member's API to its application on the last worker",
    ),
];

const fn counter(name: &'static str, labels: &'static str, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Counter, labels, help }
}

const fn gauge(name: &'static str, labels: &'static str, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Gauge, labels, help }
}

const fn histogram(name: &'static str, labels: &'static str, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Histogram, labels, help }
}
