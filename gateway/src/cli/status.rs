//! `ringway status`: a running node at a glance.

use std::process::ExitCode;

use clap::Args;
use gateway::admin::CanaryFact;
use gateway::admin::api::{
    Activity, BackendState, Backends, ClusterState, Clusters, GenerationState, HealthState, Latency, Origin,
};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::client::{self, AdminUrl};
use super::operate::age;
use super::table::{self, Align};

/// Which node.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Rates and latencies are those of the last 10 seconds, of all workers together.

STATE of a cluster: up, failing (more than one attempt in ten ends without a response), draining, drained; and what
the failure detector says: suspect, down, probation (single requests decide), ramp (its share grows back). WHY of
down is refused, silent (no byte, connects unanswered), hang (connects answered, requests not), errors, slow or
check (its health check fails), with the numbers that led to it. Where operators have a say, WHY names who says so;
`promoted` is a standby that may take writes.

Examples:
  ringway status
  ringway status --backends
  ringway status --endpoints default/web:80
  watch -n1 ringway status --admin http://127.0.0.1:9901")]
pub struct StatusArgs {
    /// The node's admin API.
    #[arg(long, value_name = "URL", default_value_t)]
    pub admin: AdminUrl,
    /// List every backend, not only those that are not up in some cluster.
    #[arg(long)]
    pub backends: bool,
    /// List the endpoints of this backend, too.
    #[arg(long, value_name = "NAMESPACE/SERVICE:PORT")]
    pub endpoints: Option<String>,
}

/// Asks and prints.
pub fn main(args: &StatusArgs) -> Result<ExitCode, String> {
    let state: Clusters = client::get(args.admin, "/api/v1/clusters")?;
    let tables: GenerationState = client::get(args.admin, "/api/v1/generation")?;
    let backends: Backends = client::get(args.admin, "/api/v1/backends")?;
    let mut out = render(&state, &tables);
    out.push_str(&render_canary(&tables.canary));
    out.push_str(&render_backends(&backends, args.backends));
    if let Some(name) = &args.endpoints {
        let name = utf8_percent_encode(name, NON_ALPHANUMERIC);
        let one: Backends = client::get(args.admin, &format!("/api/v1/backends?name={name}"))?;
        let backend = one.backends.first().ok_or_else(|| format!("no backend {:?}", args.endpoints))?;
        out.push_str(&render_endpoints(backend));
    }
    table::print(&out).map(|()| ExitCode::SUCCESS)
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
        "SINCE",
        "WHY",
    ];
    let mut rows = vec![title.map(str::to_owned)];
    for cluster in &state.clusters {
        let Latency { p50_ms, p99_ms, p999_ms } = cluster.latency;
        rows.push([
            cluster.name.clone(),
            cluster.health.state.clone(),
            format!("{:.1} %", cluster.share * 100.0),
            format!("{:.1}", cluster.requests_per_second),
            ms(p50_ms),
            ms(p99_ms),
            ms(p999_ms),
            format!("{:.1}", cluster.errors_per_second),
            format!("{:.1}", cluster.failures_per_second),
            cluster.in_flight.to_string(),
            cluster.ready.to_string(),
            since(&cluster.health),
            why(cluster),
        ]);
    }
    let mut align = [Align::Right; 13];
    (align[0], align[1], align[12]) = (Align::Left, Align::Left, Align::Left);
    out.push_str(&table::render("", align, &rows));
    out
}

/// Tables on trial, where there is something to say.
fn render_canary(canary: &CanaryFact) -> String {
    let mut out = String::new();
    if canary.state == "skipped" {
        out.push_str(&format!("\ncanary: skipped: {}\n", canary.reason));
    }
    if let (Some(worker), Some(since)) = (canary.worker, canary.since_seconds) {
        out.push_str(&format!(
            "\ncanary: worker {worker} tries {} for {}: {} requests, {} failed\n",
            canary.routes.join(", "),
            age(since),
            canary.answered,
            canary.failed
        ));
    }
    if !canary.refused.is_empty() {
        out.push_str(&format!("\ncanary: taken back: {}: {}\n", canary.refused.join(", "), canary.reason));
    }
    out
}

/// What is known of the cluster beyond its state: reason, promotion, and what it is doing where that says more.
fn why(cluster: &ClusterState) -> String {
    let mut parts = Vec::new();
    if !cluster.health.reason.is_empty() {
        parts.push(cluster.health.reason.clone());
        if is_verdict(&cluster.health) {
            parts.push(cluster.health.evidence.clone());
        }
    } else if cluster.state == Activity::Idle {
        parts.push("idle".to_owned());
    }
    let standing = &cluster.standing;
    match (standing.promoted, standing.promoted_origin) {
        (true, Origin::Operator) => parts.push("promoted by an operator".to_owned()),
        (true, Origin::Manifest) => parts.push("promoted".to_owned()),
        (false, Origin::Operator) => parts.push("fenced by an operator".to_owned()),
        (false, Origin::Manifest) => {}
    }
    parts.join(", ")
}

/// Is it the failure detector that says so, and does it know why?
fn is_verdict(health: &HealthState) -> bool {
    ["suspect", "down", "probation", "ramp"].contains(&health.state.as_str()) && !health.evidence.is_empty()
}

fn since(health: &HealthState) -> String {
    health.since_seconds.map_or_else(|| "-".to_owned(), age)
}

/// Backends that are not up somewhere, or all of them.
fn render_backends(backends: &Backends, all: bool) -> String {
    let mut rows =
        vec![["BACKEND", "CLUSTER", "STATE", "READY", "SINCE", "WHY", "EVIDENCE"].map(str::to_owned)];
    for backend in &backends.backends {
        for part in backend.clusters.iter().filter(|part| all || part.health.state != "up") {
            let health = &part.health;
            rows.push([
                backend.name.clone(),
                part.cluster.clone(),
                health.state.clone(),
                part.ready.to_string(),
                since(health),
                health.reason.clone(),
                health.evidence.clone(),
            ]);
        }
    }
    if rows.len() == 1 {
        return String::new();
    }
    let mut align = [Align::Left; 7];
    (align[3], align[4]) = (Align::Right, Align::Right);
    let mut out = format!("\n{}", table::render("", align, &rows));
    if backends.left_out > 0 {
        out.push_str(&format!("and {} more backends\n", backends.left_out));
    }
    out
}

fn render_endpoints(backend: &BackendState) -> String {
    let title = ["ENDPOINT", "CLUSTER", "CONDITION", "STATE", "SINCE", "WHY", "EVIDENCE"];
    let mut rows = vec![title.map(str::to_owned)];
    for endpoint in backend.endpoints.iter().flatten() {
        let health = &endpoint.health;
        rows.push([
            endpoint.addr.clone(),
            endpoint.cluster.clone(),
            endpoint.condition.clone(),
            health.state.clone(),
            since(health),
            health.reason.clone(),
            health.evidence.clone(),
        ]);
    }
    let mut align = [Align::Left; 7];
    align[4] = Align::Right;
    let mut out = format!("\n{}", table::render("", align, &rows));
    if backend.endpoints_left_out > 0 {
        out.push_str(&format!("and {} more endpoints\n", backend.endpoints_left_out));
    }
    out
}

fn ms(value: Option<f64>) -> String {
    match value {
        Some(value) if value < 1.0 => format!("{:.0} µs", value * 1e3),
        Some(value) => format!("{value:.1} ms"),
        None => "-".to_owned(),
    }
}
