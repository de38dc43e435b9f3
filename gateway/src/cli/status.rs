//! `ringway status`: a running node at a glance.

use std::process::ExitCode;

use clap::Args;
use gateway::admin::api::{Clusters, GenerationState, Latency};

use super::client::{self, AdminUrl};
use super::table::{self, Align};

/// Which node.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Rates and latencies are those of the last 10 seconds. Health is each worker's own; what is shown is what all
workers count together.

Examples:
  ringway status
  watch -n1 ringway status --admin http://127.0.0.1:9901")]
pub struct StatusArgs {
    /// The node's admin API.
    #[arg(long, value_name = "URL", default_value_t)]
    pub admin: AdminUrl,
}

/// Asks and prints.
pub fn main(args: &StatusArgs) -> Result<ExitCode, String> {
    let state: Clusters = client::get(args.admin, "/api/v1/clusters")?;
    let tables: GenerationState = client::get(args.admin, "/api/v1/generation")?;
    table::print(&render(&state, &tables)).map(|()| ExitCode::SUCCESS)
}

fn render(state: &Clusters, tables: &GenerationState) -> String {
    let node = &state.node;
    let same = tables.workers.iter().all(|generation| *generation == tables.newest);
    let running = if same { String::new() } else { format!(", workers run {:?}", tables.workers) };
    let mut out = format!(
        "{} workers, table {}{running}\n{:.1} req/s, p50 {}, p99 {}, {:.1} 5xx/s, {} in flight, {} connections, {} ejections\n\n",
        tables.workers.len(),
        tables.newest,
        node.requests_per_second,
        ms(node.latency.p50_ms),
        ms(node.latency.p99_ms),
        node.errors_per_second,
        node.in_flight,
        node.connections_open,
        node.ejections_total,
    );
    let title = [
        "CLUSTER",
        "STATE",
        "SHARE",
        "REQ/S",
        "P50",
        "P99",
        "P99.9",
        "5XX/S",
        "FAILED/S",
        "IN FLIGHT",
        "READY",
    ];
    let mut rows = vec![title.map(str::to_owned)];
    for cluster in &state.clusters {
        let Latency { p50_ms, p99_ms, p999_ms } = cluster.latency;
        rows.push([
            cluster.name.clone(),
            cluster.state.name().to_owned(),
            format!("{:.1} %", cluster.share * 100.0),
            format!("{:.1}", cluster.requests_per_second),
            ms(p50_ms),
            ms(p99_ms),
            ms(p999_ms),
            format!("{:.1}", cluster.errors_per_second),
            format!("{:.1}", cluster.failures_per_second),
            cluster.in_flight.to_string(),
            cluster.ready.to_string(),
        ]);
    }
    let mut align = [Align::Right; 11];
    (align[0], align[1]) = (Align::Left, Align::Left);
    out.push_str(&table::render("", align, &rows));
    out
}

fn ms(value: Option<f64>) -> String {
    match value {
        Some(value) if value < 1.0 => format!("{:.0} µs", value * 1e3),
        Some(value) => format!("{value:.1} ms"),
        None => "-".to_owned(),
    }
}
