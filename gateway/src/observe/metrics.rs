//! Everything that is counted, as OpenMetrics text: what `/metrics` answers.
//!
//! [`METRICS`] is the list: name, kind, labels and meaning of every metric; README shows the same. A scrape sums
//! what the workers count for themselves and costs them nothing. Cardinality is bounded whatever clients send:
//! labels are routes, backends and clusters of the configuration (up to `observe.metrics_series_max`, the rest is
//! summed under `other`), workers, and closed sets of ours. No label ever holds bytes of a request.
//!
//! Called by the admin thread only.

mod layer4;
mod list;
mod sources;
mod traffic;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use routing::health::state::{Reason, State};
use wire::error::WireError;

pub use self::list::{Kind, METRICS, Metric};
use super::histogram::{BUCKETS, Histogram, Snapshot, upper_edge};
use super::stats::{Counter, Limit, Tally, WorkerStats};
use crate::admin::Facts;
use crate::tls::{Ended, connect};

/// The media type of [`encode`]'s text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The label of what has no series of its own.
pub const OTHER: &str = "other";
/// Histogram buckets are whole octaves: each bound is a power of two of nanoseconds, 65.5 µs to 34.4 s.
const OCTAVE_FIRST: usize = 3;
const OCTAVE_LAST: usize = 22;

/// What a [`Tally`] stood at, summed over workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TallySum {
    /// Responses by status class: 1xx to 5xx.
    pub classes: [u64; 5],
    /// Attempts without a response.
    pub failures: u64,
}

impl TallySum {
    /// Adds what one worker counted.
    pub fn add(&mut self, tally: &Tally) {
        for (sum, class) in self.classes.iter_mut().zip(&tally.classes) {
            *sum += class.get();
        }
        self.failures += tally.failures.get();
    }

    /// What was counted since `earlier`; never negative.
    #[must_use]
    pub fn since(mut self, earlier: &Self) -> Self {
        for (now, then) in self.classes.iter_mut().zip(earlier.classes) {
            *now = now.saturating_sub(then);
        }
        self.failures = self.failures.saturating_sub(earlier.failures);
        self
    }

    /// Responses of all classes.
    #[must_use]
    pub fn responses(&self) -> u64 {
        self.classes.iter().sum()
    }
}

/// One member cluster, summed over workers.
#[derive(Clone)]
pub struct ClusterSeries {
    /// Its name.
    pub name: Arc<str>,
    /// Responses and failures.
    pub tally: TallySum,
    /// From an attempt's first byte sent to its response head.
    pub latency: Snapshot,
    /// Attempts in flight now.
    pub in_flight: u64,
    /// Ready endpoints in use.
    pub ready: u64,
    /// Terminating endpoints in use.
    pub terminating: u64,
    /// Does an operator keep requests away?
    pub drained: bool,
    /// What the failure detector says of it: 1 for its state; clusters that share a series are summed.
    pub states: StateCounts,
    /// How many of its backends the detector sees in which state.
    pub backends: StateCounts,
}

/// How many are in each state that the failure detector knows, in the order of `STATE_NAMES`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateCounts([u64; STATE_NAMES.len()]);

/// The values of the label `state`.
const STATE_NAMES: [&str; 10] = [
    "healthy",
    "suspect",
    "down_refused",
    "down_silent",
    "down_hang",
    "down_errors",
    "down_slow",
    "down_check",
    "probation",
    "ramp",
];

impl StateCounts {
    /// Counts one more.
    pub fn add(&mut self, state: State) {
        let place = match state {
            State::Healthy => 0,
            State::Suspect => 1,
            State::Down(Reason::Refused) => 2,
            State::Down(Reason::Silent) => 3,
            State::Down(Reason::Hang) => 4,
            State::Down(Reason::Errors) => 5,
            State::Down(Reason::Slow) => 6,
            State::Down(Reason::Check) => 7,
            State::Probation => 8,
            State::Ramp => 9,
        };
        self.0[place] += 1;
    }
}

/// Everything that one scrape shows.
pub struct Scrape {
    /// The version that runs.
    pub version: &'static str,
    /// Does `/readyz` answer 200?
    pub ready: bool,
    /// What each worker counts.
    pub workers: Vec<Arc<WorkerStats>>,
    /// Member clusters.
    pub clusters: Vec<ClusterSeries>,
    /// Routes.
    pub routes: Vec<(Arc<str>, TallySum)>,
    /// Backends and clusters.
    pub backends: Vec<(Arc<str>, Arc<str>, TallySum)>,
    /// Certificates in use, and when they expire, seconds since 1970.
    pub certificates: Vec<(Arc<str>, i64)>,
    /// The same of their OCSP responses.
    pub staples: Vec<(Arc<str>, i64)>,
    /// What the controller says.
    pub controller: Facts,
}

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scrape").field("ready", &self.ready).finish_non_exhaustive()
    }
}

/// The scrape as OpenMetrics text.
#[must_use]
pub fn encode(scrape: Scrape) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(scrape));
    let mut text = String::new();
    text::encode(&mut text, &registry).expect("writing to a String does not fail");
    text
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for metric in METRICS {
            let kind = match metric.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Histogram => MetricType::Histogram,
            };
            let name = metric.name.strip_suffix("_total").unwrap_or(metric.name);
            let mut family = encoder.encode_descriptor(name, metric.help, None, kind)?;
            for row in self.rows(metric.name) {
                if row.labels.is_empty() {
                    row.value.encode(metric.kind, &mut family)?;
                } else {
                    row.value.encode(metric.kind, &mut family.encode_family(&row.labels)?)?;
                }
            }
        }
        Ok(())
    }
}

/// One sample with its labels.
struct Row<'a> {
    labels: Vec<(&'static str, Cow<'a, str>)>,
    value: Value,
}

enum Value {
    Count(u64),
    Seconds(f64),
    Histogram { sum: f64, count: u64, buckets: Vec<(f64, u64)> },
}

impl Value {
    fn encode(&self, kind: Kind, encoder: &mut MetricEncoder<'_>) -> fmt::Result {
        match (self, kind) {
            (Self::Count(value), Kind::Counter) => encoder.encode_counter::<NoLabelSet, _, f64>(value, None),
            (Self::Seconds(value), Kind::Counter) => {
                encoder.encode_counter::<NoLabelSet, _, f64>(value, None)
            }
            (Self::Count(value), Kind::Gauge | Kind::Histogram) => encoder.encode_gauge(value),
            (Self::Seconds(value), Kind::Gauge | Kind::Histogram) => encoder.encode_gauge(value),
            (Self::Histogram { sum, count, buckets }, Kind::Counter | Kind::Gauge | Kind::Histogram) => {
                encoder.encode_histogram::<NoLabelSet>(*sum, *count, buckets, None)
            }
        }
    }
}

impl Scrape {
    /// The samples of one metric of [`METRICS`].
    fn rows(&self, name: &str) -> Vec<Row<'_>> {
        self.of_node(name)
            .or_else(|| self.of_workers(name))
            .or_else(|| self.of_traffic(name))
            .or_else(|| self.of_layer4(name))
            .or_else(|| self.of_clusters(name))
            .or_else(|| self.of_configuration(name))
            .or_else(|| self.of_controller(name))
            .or_else(|| self.of_sources(name))
            .expect("every metric of the list has its samples; a test scrapes all of them")
    }

    /// One distribution over all workers.
    fn summed(&self, of: fn(&WorkerStats) -> &Histogram) -> Vec<Row<'_>> {
        let mut all = Snapshot::default();
        self.workers.iter().for_each(|stats| of(stats).read(&mut all));
        vec![Row { labels: Vec::new(), value: distribution(&all) }]
    }

    /// Sums over all workers.
    fn of_node(&self, name: &str) -> Option<Vec<Row<'_>>> {
        let sum = |counter: fn(&WorkerStats) -> &Counter| {
            one(self.workers.iter().map(|stats| counter(stats).get()).sum())
        };
        Some(match name {
            "ringway_build_info" => vec![row([("version", self.version)], 1)],
            "ringway_ready" => one(u64::from(self.ready)),
            "ringway_workers" => one(self.workers.len() as u64),
            "ringway_responses_total" => {
                let mut tally = TallySum::default();
                self.workers.iter().for_each(|stats| tally.add(&stats.responses));
                classes(&[], &tally).collect()
            }
            "ringway_request_duration_seconds" => self.summed(|stats| &stats.latency),
            "ringway_tls_staples_expired_total" => sum(|stats| &stats.staples_expired_total),
            "ringway_requests_unmatched_total" => sum(|stats| &stats.unmatched_total),
            "ringway_requests_refused_total" => FAULTS
                .iter()
                .map(|fault| {
                    let refusals = self.workers.iter().map(|stats| stats.refusals(*fault)).sum();
                    row([("fault", fault.name())], refusals)
                })
                .collect(),
            "ringway_limit_hits_total" => Limit::ALL
                .iter()
                .map(|(limit, name)| {
                    let hits = self.workers.iter().map(|stats| stats.hits(*limit)).sum();
                    row([("limit", *name)], hits)
                })
                // The controller gives slots, and knows when there is none.
                .chain([row([("limit", "metrics_series")], self.controller.series_refused)])
                .collect(),
            "ringway_tls_handshakes_total" => Ended::ALL
                .iter()
                .map(|(ended, name)| {
                    let count =
                        self.workers.iter().map(|stats| stats.handshakes[*ended as usize].get()).sum();
                    row([("result", *name)], count)
                })
                .collect(),
            "ringway_tls_handshake_seconds" => self.summed(|stats| &stats.handshake_latency),
            "ringway_upstream_tls_handshakes_total" => connect::Ended::ALL
                .iter()
                .map(|(ended, name, _)| {
                    let of = |stats: &Arc<WorkerStats>| stats.upstream_handshakes[*ended as usize].get();
                    row([("result", *name)], self.workers.iter().map(of).sum())
                })
                .collect(),
            "ringway_table_apply_turn_seconds" => self.summed(|stats| &stats.apply_turn),
            "ringway_client_aborts_total" => sum(|stats| &stats.client_aborts_total),
            "ringway_upstream_connects_total" => sum(|stats| &stats.connects_total),
            "ringway_upstream_connect_failures_total" => sum(|stats| &stats.connect_failures_total),
            "ringway_upstream_http2_streams_total" => sum(|stats| &stats.http2_upstream_streams_total),
            "ringway_upstream_http2_connections" => sum(|stats| &stats.http2_upstream_connections),
            "ringway_upstream_reuses_total" => sum(|stats| &stats.reuses_total),
            "ringway_upstream_idle_connections" => sum(|stats| &stats.idle_upstream),
            "ringway_upstream_idle_closed_total" => sum(|stats| &stats.idle_closed_total),
            "ringway_upstream_race_lost_total" => sum(|stats| &stats.race_lost_total),
            "ringway_retries_total" => sum(|stats| &stats.retries_total),
            "ringway_moves_total" => sum(|stats| &stats.moves_total),
            "ringway_hedges_total" => sum(|stats| &stats.hedges_total),
            "ringway_hedges_won_total" => sum(|stats| &stats.hedges_won_total),
            "ringway_attempts_detached_total" => sum(|stats| &stats.detached_total),
            "ringway_recordings_total" => sum(|stats| &stats.recordings_total),
            "ringway_buffer_bytes" => sum(|stats| &stats.buffer_bytes),
            "ringway_access_log_lines_lost_total" => sum(|stats| &stats.log_lines_lost_total),
            _ => return None,
        })
    }

    /// One sample for each worker: where a difference between workers says something.
    fn of_workers(&self, name: &str) -> Option<Vec<Row<'_>>> {
        let counter: fn(&WorkerStats) -> &Counter = match name {
            "ringway_connections_total" => |stats| &stats.connections_total,
            "ringway_connections_open" => |stats| &stats.connections_open,
            "ringway_connections_adopted_total" => |stats| &stats.adopted_total,
            "ringway_connections_handed_over_total" => |stats| &stats.handed_over_total,
            "ringway_requests_total" => |stats| &stats.requests_total,
            "ringway_requests_in_flight" => |stats| &stats.in_flight,
            "ringway_suspicions_total" => |stats| &stats.suspicions_total,
            "ringway_verdicts_total" => |stats| &stats.verdicts_total,
            "ringway_ejections_total" => |stats| &stats.ejections_total,
            "ringway_restorations_total" => |stats| &stats.restorations_total,
            "ringway_panics_total" => |stats| &stats.panics_total,
            "ringway_worker_restarts_total" => |stats| &stats.restarts_total,
            "ringway_listeners_open" => |stats| &stats.listeners_open,
            "ringway_listeners_failing" => |stats| &stats.listeners_failing,
            "ringway_ring_flags_refused" => |stats| &stats.ring_flags_refused,
            "ringway_table_generation" => |stats| &stats.generation,
            "ringway_table_updates_total" => |stats| &stats.updates_total,
            "ringway_table_apply_seconds_total" => |stats| &stats.apply_ns_total,
            "ringway_table_apply_longest_seconds" => |stats| &stats.apply_longest_ns,
            _ => return None,
        };
        let rows = self.workers.iter().enumerate().map(|(worker, stats)| {
            let count = counter(stats).get();
            let value =
                if name.contains("_seconds") { Value::Seconds(seconds(count)) } else { Value::Count(count) };
            Row { labels: vec![("worker", worker.to_string().into())], value }
        });
        Some(rows.collect())
    }

    fn of_clusters(&self, name: &str) -> Option<Vec<Row<'_>>> {
        let gauge = |value: fn(&ClusterSeries) -> u64| {
            let rows = self.clusters.iter().map(|cluster| row([("cluster", &*cluster.name)], value(cluster)));
            rows.collect::<Vec<_>>()
        };
        Some(match name {
            "ringway_cluster_responses_total" => {
                let rows = self.clusters.iter().flat_map(|cluster| {
                    classes(&[("cluster", &cluster.name)], &cluster.tally).collect::<Vec<_>>()
                });
                rows.collect()
            }
            "ringway_cluster_response_seconds" => {
                let rows = self.clusters.iter().map(|cluster| Row {
                    labels: vec![("cluster", (&*cluster.name).into())],
                    value: distribution(&cluster.latency),
                });
                rows.collect()
            }
            "ringway_cluster_endpoints" => {
                let rows = self.clusters.iter().flat_map(|cluster| {
                    [("ready", cluster.ready), ("terminating", cluster.terminating)].map(
                        |(condition, count)| {
                            row([("cluster", &*cluster.name), ("condition", condition)], count)
                        },
                    )
                });
                rows.collect()
            }
            "ringway_cluster_state" => states(&self.clusters, |cluster| &cluster.states),
            "ringway_cluster_backends" => states(&self.clusters, |cluster| &cluster.backends),
            "ringway_cluster_failures_total" => gauge(|cluster| cluster.tally.failures),
            "ringway_cluster_in_flight" => gauge(|cluster| cluster.in_flight),
            "ringway_cluster_drained" => gauge(|cluster| u64::from(cluster.drained)),
            _ => return None,
        })
    }

    fn of_configuration(&self, name: &str) -> Option<Vec<Row<'_>>> {
        Some(match name {
            "ringway_route_responses_total" => {
                let rows = self
                    .routes
                    .iter()
                    .flat_map(|(route, tally)| classes(&[("route", route)], tally).collect::<Vec<_>>());
                rows.collect()
            }
            "ringway_backend_responses_total" => {
                let rows = self.backends.iter().flat_map(|(backend, cluster, tally)| {
                    classes(&[("backend", backend), ("cluster", cluster)], tally).collect::<Vec<_>>()
                });
                rows.collect()
            }
            "ringway_tls_certificate_expiry_seconds" => expiries(&self.certificates),
            "ringway_tls_staple_expiry_seconds" => expiries(&self.staples),
            "ringway_backend_failures_total" => {
                let rows = self.backends.iter().map(|(backend, cluster, tally)| {
                    row([("backend", &**backend), ("cluster", &**cluster)], tally.failures)
                });
                rows.collect()
            }
            _ => return None,
        })
    }

    fn of_controller(&self, name: &str) -> Option<Vec<Row<'_>>> {
        let facts = &self.controller;
        Some(match name {
            "ringway_controller_synced" => one(u64::from(facts.synced)),
            "ringway_controller_generation" => one(facts.generation),
            "ringway_controller_objects" => {
                facts.objects.iter().map(|(kind, count)| row([("kind", &**kind)], *count)).collect()
            }
            "ringway_controller_verdicts" => {
                facts.outcomes.iter().map(|(outcome, count)| row([("outcome", *outcome)], *count)).collect()
            }
            "ringway_controller_routes" => one(facts.routes),
            "ringway_controller_backends" => one(facts.backends),
            "ringway_propagation_seconds" => {
                vec![Row { labels: Vec::new(), value: sources::lag(&facts.lag) }]
            }
            "ringway_updates_coalesced_total" => one(facts.coalesced_total),
            "ringway_snapshots_total" => one(facts.snapshots_total),
            "ringway_controller_restarts_total" => one(facts.restarts_total),
            "ringway_canary_watching" => one(u64::from(facts.canary.state == "watching")),
            "ringway_canary_refused_routes" => one(facts.canary.refused.len() as u64),
            "ringway_canary_verdicts_total" => {
                let verdicts = facts.canary.verdicts.iter();
                verdicts.map(|(verdict, count)| row([("verdict", &**verdict)], *count)).collect()
            }
            _ => return None,
        })
    }
}

/// Every fault of a request's form.
const FAULTS: [WireError; WireError::Unexpected as usize + 1] = [
    WireError::StartLine,
    WireError::Version,
    WireError::Target,
    WireError::TargetTooLong,
    WireError::HeaderName,
    WireError::HeaderValue,
    WireError::HeaderTooLong,
    WireError::TooManyHeaders,
    WireError::HeadTooLong,
    WireError::LineEnding,
    WireError::Host,
    WireError::ContentLength,
    WireError::TransferEncoding,
    WireError::LengthConflict,
    WireError::Chunk,
    WireError::Trailer,
    WireError::Expectation,
    WireError::Method,
    WireError::Protocol,
    WireError::Base64,
    WireError::Truncated,
    WireError::Unexpected,
];

fn one<'a>(value: u64) -> Vec<Row<'a>> {
    vec![Row { labels: Vec::new(), value: Value::Count(value) }]
}

/// When what Secrets hold expires.
fn expiries(all: &[(Arc<str>, i64)]) -> Vec<Row<'_>> {
    let seconds = |at: i64| u64::try_from(at).unwrap_or(0);
    all.iter().map(|(secret, at)| row([("secret", &**secret)], seconds(*at))).collect()
}

fn row<'a, const N: usize>(labels: [(&'static str, &'a str); N], value: u64) -> Row<'a> {
    let labels = labels.into_iter().map(|(name, value)| (name, value.into())).collect();
    Row { labels, value: Value::Count(value) }
}

fn states(clusters: &[ClusterSeries], of: fn(&ClusterSeries) -> &StateCounts) -> Vec<Row<'_>> {
    let rows = clusters.iter().flat_map(|cluster| {
        let counts = STATE_NAMES.into_iter().zip(of(cluster).0);
        counts.map(|(state, count)| row([("cluster", &*cluster.name), ("state", state)], count))
    });
    rows.collect()
}

fn classes<'a>(labels: &[(&'static str, &'a str)], tally: &TallySum) -> impl Iterator<Item = Row<'a>> {
    ["1xx", "2xx", "3xx", "4xx", "5xx"].into_iter().zip(tally.classes).map(|(class, count)| {
        let labels = labels.iter().copied().chain([("class", class)]);
        Row { labels: labels.map(|(name, value)| (name, value.into())).collect(), value: Value::Count(count) }
    })
}

/// Octaves of our histogram as buckets: their bounds are edges of ours, so that nothing is estimated.
fn distribution(latency: &Snapshot) -> Value {
    let mut buckets = Vec::with_capacity(OCTAVE_LAST - OCTAVE_FIRST + 2);
    let mut start = 0;
    for octave in OCTAVE_FIRST..=OCTAVE_LAST {
        let end = octave * 8 + 8;
        buckets.push((seconds(upper_edge(end - 1)), latency.buckets[start..end].iter().sum()));
        start = end;
    }
    buckets.push((f64::INFINITY, latency.buckets[start..BUCKETS].iter().sum()));
    Value::Histogram { sum: seconds(latency.sum_ns), count: latency.count(), buckets }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "exact up to 104 days of nanoseconds; a sum beyond loses its last digits"
)]
fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

#[cfg(test)]
mod tests;
