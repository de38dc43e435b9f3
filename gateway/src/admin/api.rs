//! The routes of the API and the JSON that they answer with.
//!
//! Lists are bounded: `?limit=N` (default [`LIMIT`], at most [`LIMIT_MAX`]); what is beyond is counted in `left_out`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use routing::model::{Condition, Protocol, StatSlot};
use serde::{Deserialize, Serialize};

use super::explain::{self, Question};
use super::facts::VerdictFact;
use super::names::{backend_sum, has_counters, route_sum};
use super::room::{Desk, Room};
use super::server::problem;
use crate::observe::histogram::Snapshot;
use crate::observe::metrics::{self, TallySum};
use crate::worker::clock;

/// Items of a list, unless asked otherwise.
pub const LIMIT: usize = 1_000;
/// Most items of a list.
pub const LIMIT_MAX: usize = 10_000;

/// `GET /api/v1/clusters`
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Clusters {
    /// The table that these are read from.
    pub generation: u64,
    /// How far back rates and quantiles look, in seconds; shorter right after the start.
    pub window_seconds: f64,
    /// Everything together.
    pub node: NodeState,
    /// Member clusters, by name.
    pub clusters: Vec<ClusterState>,
}

/// The node as a whole.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeState {
    /// Answers to clients, per second.
    pub requests_per_second: f64,
    /// Of these, 5xx.
    pub errors_per_second: f64,
    /// Exchanges in flight.
    pub in_flight: u64,
    /// Client connections.
    pub connections_open: u64,
    /// From the request head complete to the response complete.
    pub latency: Latency,
    /// Attempts repeated elsewhere since the start, paid and free.
    pub retries_total: u64,
    /// Ejections by any worker since the start.
    pub ejections_total: u64,
    /// Ends of ejections since the start.
    pub restorations_total: u64,
}

/// Quantiles of the window in milliseconds; `None` where nothing happened.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Latency {
    /// The median.
    pub p50_ms: Option<f64>,
    /// 99 of 100 are faster.
    pub p99_ms: Option<f64>,
    /// 999 of 1,000 are faster.
    pub p999_ms: Option<f64>,
}

/// What a cluster is doing, as far as all workers' counters tell. Health proper is each worker's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activity {
    /// It answered within the window, and fails rarely.
    Serving,
    /// More than one attempt in ten ended without a response within the window.
    Failing,
    /// Nothing was sent to it within the window.
    Idle,
    /// An operator keeps requests away.
    Drained,
    /// It has no endpoint in use.
    NoEndpoints,
}

impl Activity {
    /// For people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Failing => "failing",
            Self::Idle => "idle",
            Self::Drained => "drained",
            Self::NoEndpoints => "no endpoints",
        }
    }
}

/// One member cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClusterState {
    /// Its name.
    pub name: String,
    /// Its region; empty = unknown.
    pub region: String,
    /// What it is doing.
    pub state: Activity,
    /// Ready endpoints in use.
    pub ready: u32,
    /// Terminating endpoints in use.
    pub terminating: u32,
    /// Its part of all clusters' responses within the window, 0 to 1.
    pub share: f64,
    /// Responses per second.
    pub requests_per_second: f64,
    /// Of these, 5xx.
    pub errors_per_second: f64,
    /// Attempts per second that ended without a response.
    pub failures_per_second: f64,
    /// Attempts in flight.
    pub in_flight: u64,
    /// From an attempt's first byte sent to its response head.
    pub latency: Latency,
}

/// `GET /api/v1/backends`
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Backends {
    /// The table that these are read from.
    pub generation: u64,
    /// By name.
    pub backends: Vec<BackendState>,
    /// Backends beyond the limit.
    pub left_out: usize,
}

/// One backend.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BackendState {
    /// `namespace/service:port`.
    pub name: String,
    /// Its part in each cluster.
    pub clusters: Vec<BackendPart>,
    /// Its endpoints; only where one backend is asked for by `?name=`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<Vec<EndpointState>>,
    /// Endpoints beyond the limit.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub endpoints_left_out: usize,
}

/// One cluster's part of a backend.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BackendPart {
    /// The cluster.
    pub cluster: String,
    /// Ready endpoints.
    pub ready: u32,
    /// Terminating endpoints.
    pub terminating: u32,
    /// Responses by status class since the start; `None` when it shares its counters (`observe.metrics_series_max`).
    pub responses: Option<BTreeMap<String, u64>>,
    /// Attempts without a response since the start.
    pub failures: Option<u64>,
}

/// One endpoint.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EndpointState {
    /// Where it is reached.
    pub addr: String,
    /// Its cluster.
    pub cluster: String,
    /// `ready` or `terminating`.
    pub condition: String,
}

/// `GET /api/v1/routes`
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Routes {
    /// The table that these are read from.
    pub generation: u64,
    /// By listener and host; rules of a host in order of precedence.
    pub rules: Vec<RuleState>,
    /// Rules beyond the limit.
    pub left_out: usize,
}

/// One rule.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RuleState {
    /// Its listener.
    pub listener: String,
    /// Its host pattern.
    pub host: String,
    /// What must hold.
    pub matches: String,
    /// Its route: `Ingress namespace/name` or `HTTPRoute namespace/name`.
    pub route: String,
    /// Its index in the route.
    pub rule: u16,
    /// What is done.
    pub action: String,
    /// The whole route's responses by status class since the start; `None` when it shares its counters.
    pub responses: Option<BTreeMap<String, u64>>,
}

/// `GET /api/v1/listeners`
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Listeners {
    /// The table that these are read from.
    pub generation: u64,
    /// By name.
    pub listeners: Vec<ListenerState>,
    /// Listeners beyond the limit.
    pub left_out: usize,
}

/// One listener.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ListenerState {
    /// `namespace/gateway/section`, or `ingress:ADDR`.
    pub name: String,
    /// The socket.
    pub addr: String,
    /// `http` or `https`.
    pub protocol: String,
    /// The hosts that it owns.
    pub hostname: String,
    /// Host patterns with rules.
    pub hosts: usize,
}

/// `GET /api/v1/generation`
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GenerationState {
    /// The newest table that was broadcast.
    pub newest: u64,
    /// The table that this API answers from.
    pub admin: u64,
    /// The table that each worker runs.
    pub workers: Vec<u64>,
    /// Has everything that was there at the start been broadcast?
    pub synced: bool,
    /// Updates that have reached the last worker.
    pub propagated: u64,
    /// From an event to the last worker, the mean in milliseconds.
    pub propagation_mean_ms: Option<f64>,
    /// The longest, in milliseconds.
    pub propagation_max_ms: Option<f64>,
}

/// `GET /api/v1/verdicts`
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Verdicts {
    /// Objects by outcome.
    pub outcomes: BTreeMap<String, u64>,
    /// The worst first; those that were accepted last.
    pub verdicts: Vec<VerdictFact>,
    /// Objects beyond the limit.
    pub left_out: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

// ---------------------------------------------------------------- routes

type Pairs = Query<Vec<(String, String)>>;

pub(super) fn router(desk: Desk) -> Router {
    Router::new()
        .route("/", get(async || Html(include_str!("dashboard.html"))))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(exposition))
        .route("/api/v1/clusters", get(async |State(desk): State<Desk>| show(&desk, Room::clusters).await))
        .route("/api/v1/generation", get(async |State(desk): State<Desk>| show(&desk, Room::generation).await))
        .route("/api/v1/backends", get(backends))
        .route("/api/v1/routes", get(async |desk: State<Desk>, query: Pairs| list(desk, query, Room::routes).await))
        .route("/api/v1/listeners", get(async |desk: State<Desk>, query: Pairs| list(desk, query, Room::listeners).await))
        .route("/api/v1/verdicts", get(async |desk: State<Desk>, query: Pairs| list(desk, query, Room::verdicts).await))
        .route("/api/v1/explain", get(explained))
        .fallback(async || problem(StatusCode::NOT_FOUND, "no such page; see / and /api/v1/{clusters,backends,routes,listeners,generation,verdicts,explain}"))
        .with_state(desk)
}

async fn show<T: Serialize + Send + 'static>(desk: &Desk, make: fn(&Room) -> T) -> Response {
    match desk.ask(make).await {
        Some(answer) => Json(answer).into_response(),
        None => failed(),
    }
}

async fn list<T: Serialize + Send + 'static>(
    State(desk): State<Desk>,
    Query(query): Pairs,
    make: fn(&Room, usize) -> T,
) -> Response {
    match parse_list(&query, &["limit"]) {
        Ok((limit, _)) => match desk.ask(move |room| make(room, limit)).await {
            Some(answer) => Json(answer).into_response(),
            None => failed(),
        },
        Err(reason) => problem(StatusCode::BAD_REQUEST, &reason),
    }
}

async fn backends(State(desk): State<Desk>, Query(query): Pairs) -> Response {
    let (limit, name) = match parse_list(&query, &["limit", "name"]) {
        Ok(parsed) => parsed,
        Err(reason) => return problem(StatusCode::BAD_REQUEST, &reason),
    };
    match desk.ask(move |room| room.backends(limit, name.as_deref())).await {
        Some(answer) => Json(answer).into_response(),
        None => failed(),
    }
}

async fn healthz(State(desk): State<Desk>) -> Response {
    match desk.ask(Room::not_healthy).await {
        Some(None) => Json(serde_json::json!({ "healthy": true })).into_response(),
        Some(Some(reason)) => {
            let body = Json(serde_json::json!({ "healthy": false, "reason": reason }));
            (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
        }
        None => failed(),
    }
}

async fn readyz(State(desk): State<Desk>) -> Response {
    match desk.ask(|room| room.not_ready(&room.facts())).await {
        Some(None) => Json(serde_json::json!({ "ready": true })).into_response(),
        Some(Some(reason)) => {
            let body = Json(serde_json::json!({ "ready": false, "reason": reason }));
            (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
        }
        None => failed(),
    }
}

async fn exposition(State(desk): State<Desk>) -> Response {
    match desk.ask(|room| metrics::encode(room.scrape())).await {
        Some(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        None => failed(),
    }
}

async fn explained(State(desk): State<Desk>, Query(query): Pairs) -> Response {
    let question = match parse_question(query) {
        Ok(question) => question,
        Err(reason) => return problem(StatusCode::BAD_REQUEST, &reason),
    };
    let answer =
        desk.ask(move |room| explain::answer(&room.table, &room.head_limits, &question, clock::now()));
    match answer.await {
        Some(Ok(answer)) => Json(answer).into_response(),
        Some(Err(reason)) => problem(StatusCode::UNPROCESSABLE_ENTITY, &reason),
        None => failed(),
    }
}

fn failed() -> Response {
    problem(StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be made; the log says more")
}

/// The limit and the name of a list's query, of which only `allowed` may be given.
fn parse_list(query: &[(String, String)], allowed: &[&str]) -> Result<(usize, Option<String>), String> {
    let (mut limit, mut name) = (LIMIT, None);
    for (key, value) in query {
        match key.as_str() {
            key if !allowed.contains(&key) => {
                return Err(format!("unknown parameter {key:?}; allowed: {}", allowed.join(", ")));
            }
            "limit" => match value.parse() {
                Ok(number) if (1..=LIMIT_MAX).contains(&number) => limit = number,
                Ok(_) | Err(_) => return Err(format!("limit={value:?}: expected 1 to {LIMIT_MAX}")),
            },
            _ => name = Some(value.clone()),
        }
    }
    Ok((limit, name))
}

fn parse_question(query: Vec<(String, String)>) -> Result<Question, String> {
    let mut question = Question {
        method: "GET".to_owned(),
        url: String::new(),
        headers: Vec::new(),
        source: IpAddr::V4(Ipv4Addr::LOCALHOST),
    };
    for (key, value) in query {
        match key.as_str() {
            "method" => question.method = value,
            "url" => question.url = value,
            "header" => {
                let (name, value) = value.split_once(':').ok_or("header: expected 'name: value'")?;
                question.headers.push((name.trim().to_owned(), value.trim().to_owned()));
            }
            "source" => {
                question.source =
                    value.parse().map_err(|_| format!("source={value:?}: expected an IP address"))?;
            }
            _ => return Err(format!("unknown parameter {key:?}; allowed: method, url, header, source")),
        }
    }
    if question.url.is_empty() {
        return Err("url is missing: /api/v1/explain?method=GET&url=http://HOST/PATH".to_owned());
    }
    Ok(question)
}

// ---------------------------------------------------------------- answers

impl Room {
    fn clusters(&self) -> Clusters {
        let workers = &self.sources.stats;
        let recent = self.recent();
        let mut clusters = Vec::new();
        for view in self.table.clusters() {
            let count = recent.cluster(view.id);
            let (responses, failures) = (count.tally.responses(), count.tally.failures);
            let state = match (view.drained, view.endpoints.ready + view.endpoints.terminating) {
                (true, _) => Activity::Drained,
                (false, 0) => Activity::NoEndpoints,
                (false, _) if failures * 10 > responses + failures => Activity::Failing,
                (false, _) if responses + failures == 0 => Activity::Idle,
                (false, _) => Activity::Serving,
            };
            let in_flight = workers.iter().map(|stats| stats.cluster(view.id).in_flight.get()).sum();
            clusters.push(ClusterState {
                name: view.name.to_string(),
                region: view.region.to_string(),
                state,
                ready: view.endpoints.ready,
                terminating: view.endpoints.terminating,
                share: 0.0,
                requests_per_second: recent.rate(responses),
                errors_per_second: recent.rate(count.tally.classes[4]),
                failures_per_second: recent.rate(failures),
                in_flight: if has_counters(view.id) { in_flight } else { 0 },
                latency: latency(&count.latency),
            });
        }
        let total: f64 = clusters.iter().map(|cluster| cluster.requests_per_second).sum();
        for cluster in clusters.iter_mut().filter(|_| total > 0.0) {
            cluster.share = cluster.requests_per_second / total;
        }
        clusters.sort_by(|a, b| a.name.cmp(&b.name));
        let sum = |counter: fn(&crate::observe::stats::WorkerStats) -> u64| {
            workers.iter().map(|stats| counter(stats)).sum()
        };
        Clusters {
            generation: self.table.generation().0,
            window_seconds: recent.span.as_secs_f64(),
            node: NodeState {
                requests_per_second: recent.rate(recent.node.tally.responses()),
                errors_per_second: recent.rate(recent.node.tally.classes[4]),
                in_flight: sum(|stats| stats.in_flight.get()),
                connections_open: sum(|stats| stats.connections_open.get()),
                latency: latency(&recent.node.latency),
                retries_total: sum(|stats| stats.retries_total.get() + stats.moves_total.get()),
                ejections_total: sum(|stats| stats.ejections_total.get()),
                restorations_total: sum(|stats| stats.restorations_total.get()),
            },
            clusters,
        }
    }

    fn backends(&self, limit: usize, name: Option<&str>) -> Backends {
        let workers = &self.sources.stats;
        let mut views = self.table.backends();
        views.retain(|view| name.is_none_or(|name| name == &*view.name));
        views.sort_by(|a, b| a.name.cmp(&b.name));
        let left_out = views.len().saturating_sub(limit);
        let backends = views.iter().take(limit).map(|view| {
            let parts = view.clusters.iter().map(|(cluster, counts)| {
                let slot = self.names.backend_slot(view.id, *cluster);
                let tally = slot.map(|(slot, base)| backend_sum(workers, slot).since(&base));
                BackendPart {
                    cluster: self.table.cluster_name(*cluster).to_owned(),
                    ready: counts.ready,
                    terminating: counts.terminating,
                    responses: tally.as_ref().map(classes),
                    failures: tally.map(|tally| tally.failures),
                }
            });
            let clusters = parts.collect();
            let all = name.map(|_| self.table.endpoints(view.id));
            let endpoints_left_out = all.as_ref().map_or(0, |all| all.len().saturating_sub(limit));
            let state = |endpoint: routing::table::EndpointView| EndpointState {
                addr: endpoint.addr.to_string(),
                cluster: self.table.cluster_name(endpoint.cluster).to_owned(),
                condition: match endpoint.condition {
                    Condition::Ready => "ready".to_owned(),
                    Condition::Terminating => "terminating".to_owned(),
                },
            };
            let endpoints = all.map(|all| all.into_iter().take(limit).map(state).collect());
            BackendState { name: view.name.to_string(), clusters, endpoints, endpoints_left_out }
        });
        Backends { generation: self.table.generation().0, backends: backends.collect(), left_out }
    }

    fn routes(&self, limit: usize) -> Routes {
        let workers = &self.sources.stats;
        let listeners: BTreeMap<_, _> =
            self.table.listeners().iter().map(|view| (view.id, view.spec.name.to_string())).collect();
        let mut hosts: Vec<_> = self.table.hosts().collect();
        hosts.sort_by(|a, b| {
            let of = |key: &routing::model::HostKey| listeners.get(&key.listener);
            (of(a.key), &a.key.pattern).cmp(&(of(b.key), &b.key.pattern))
        });
        let total: usize = hosts.iter().map(|host| host.rules.rules.len()).sum();
        let all = hosts.iter().flat_map(|host| host.rules.rules.iter().map(move |rule| (host.key, rule)));
        let rules = all.take(limit).map(|(key, rule)| {
            let (matches, action) = explain::line(&self.table, rule);
            let slot: StatSlot = rule.action.stat;
            let base = self.names.route_base(slot);
            RuleState {
                listener: listeners.get(&key.listener).cloned().unwrap_or_default(),
                host: explain::host(&key.pattern),
                matches,
                route: rule.action.route.to_string(),
                rule: rule.action.rule_index,
                action,
                responses: base.map(|base| classes(&route_sum(workers, slot).since(&base))),
            }
        });
        let rules: Vec<_> = rules.collect();
        Routes { generation: self.table.generation().0, left_out: total - rules.len(), rules }
    }

    fn listeners(&self, limit: usize) -> Listeners {
        let mut views = self.table.listeners();
        views.sort_by(|a, b| (&a.spec.name, a.spec.addr).cmp(&(&b.spec.name, b.spec.addr)));
        let left_out = views.len().saturating_sub(limit);
        let listeners = views.iter().take(limit).map(|view| ListenerState {
            name: view.spec.name.to_string(),
            addr: view.spec.addr.to_string(),
            protocol: match view.spec.protocol {
                Protocol::Http => "http".to_owned(),
                Protocol::Https => "https".to_owned(),
            },
            hostname: explain::host(&view.spec.hostname),
            hosts: view.hosts,
        });
        Listeners { generation: self.table.generation().0, listeners: listeners.collect(), left_out }
    }

    fn generation(&self) -> GenerationState {
        let facts = self.facts();
        let ms = |ns: u64| as_f64(ns) / 1e6;
        let some = facts.lag.count > 0;
        GenerationState {
            newest: facts.generation,
            admin: self.table.generation().0,
            workers: self.sources.stats.iter().map(|stats| stats.generation.get()).collect(),
            synced: facts.synced,
            propagated: facts.lag.count,
            propagation_mean_ms: some.then(|| ms(facts.lag.sum_ns) / as_f64(facts.lag.count)),
            propagation_max_ms: some.then(|| ms(facts.lag.max_ns)),
        }
    }

    fn verdicts(&self, limit: usize) -> Verdicts {
        let mut verdicts = self.sources.controller.verdicts();
        let severity = |outcome: &str| {
            ["refused", "partly_refused", "partly_ignored"]
                .iter()
                .position(|worse| *worse == outcome)
                .unwrap_or(3)
        };
        let mut outcomes = BTreeMap::new();
        for verdict in &verdicts {
            *outcomes.entry(verdict.outcome.clone()).or_insert(0) += 1;
        }
        verdicts.sort_by_key(|verdict| severity(&verdict.outcome));
        let left_out = verdicts.len().saturating_sub(limit);
        verdicts.truncate(limit);
        Verdicts { outcomes, verdicts, left_out }
    }
}

fn classes(tally: &TallySum) -> BTreeMap<String, u64> {
    ["1xx", "2xx", "3xx", "4xx", "5xx"].into_iter().map(str::to_owned).zip(tally.classes).collect()
}

fn latency(snapshot: &Snapshot) -> Latency {
    if snapshot.count() == 0 {
        return Latency::default();
    }
    let at = |q| Some(snapshot.quantile(q).as_secs_f64() * 1e3);
    Latency { p50_ms: at(0.5), p99_ms: at(0.99), p999_ms: at(0.999) }
}

#[expect(clippy::cast_precision_loss, reason = "figures for people to read")]
fn as_f64(number: u64) -> f64 {
    number as f64
}
