//! The samples of what connections carry: HTTP/2, tunnels, and what is sent beside a request.

use routing::model::GrpcCode;

use super::{Row, Scrape, one, row};
use crate::observe::stats::{Counter, WorkerStats};

impl Scrape {
    pub(super) fn of_traffic(&self, name: &str) -> Option<Vec<Row<'_>>> {
        let sum = |counter: fn(&WorkerStats) -> &Counter| {
            one(self.workers.iter().map(|stats| counter(stats).get()).sum())
        };
        Some(match name {
            "ringway_received_bytes_total" => sum(|stats| &stats.received_bytes_total),
            "ringway_sent_bytes_total" => sum(|stats| &stats.sent_bytes_total),
            "ringway_spliced_bytes_total" => sum(|stats| &stats.spliced_bytes_total),
            "ringway_http2_connections_total" => sum(|stats| &stats.http2_connections_total),
            "ringway_http2_streams_open" => sum(|stats| &stats.http2_streams_open),
            "ringway_http2_resets_total" => sum(|stats| &stats.http2_resets_total),
            "ringway_http2_retired_total" => sum(|stats| &stats.http2_retired_total),
            "ringway_grpc_calls_total" => {
                let codes = GrpcCode::all().map(Some).chain([None]);
                let rows = codes.map(|code| {
                    let calls = self.workers.iter().map(|stats| stats.calls(code)).sum();
                    row([("code", code.map_or("none", GrpcCode::name))], calls)
                });
                rows.collect()
            }
            "ringway_tunnels_open" => sum(|stats| &stats.tunnels_open),
            "ringway_tunnels_evacuated_total" => sum(|stats| &stats.tunnels_evacuated_total),
            "ringway_mirrored_total" => sum(|stats| &stats.mirrored_total),
            "ringway_auth_requests_total" => ["granted", "refused", "failed"]
                .into_iter()
                .enumerate()
                .map(|(at, verdict)| {
                    let of = |stats: &std::sync::Arc<WorkerStats>| stats.auth_requests_total[at].get();
                    row([("verdict", verdict)], self.workers.iter().map(of).sum())
                })
                .collect(),
            "ringway_probes_total" => sum(|stats| &stats.probes_total),
            "ringway_drill_faults_total" => sum(|stats| &stats.drill_faults_total),
            _ => return None,
        })
    }
}
