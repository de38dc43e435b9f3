//! The routes of the API: what each page asks the [`Room`], and how the answer is put together.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use routing::model::{Condition, Protocol, StatSlot};
use routing::table::{BackendView, EndpointView};
use serde::Serialize;

use super::api::{
    Activity, BackendPart, BackendState, Backends, ClusterState, Clusters, EndpointState, GenerationState,
    HealthState, LIMIT, LIMIT_MAX, Latency, ListenerState, Listeners, NodeState, Routes, RuleState, Standing,
    Verdicts,
};
use super::explain::{self, Question};
use super::health;
use super::names::{backend_sum, has_counters, route_sum};
use super::room::{Desk, Room};
use super::server::problem;
use crate::observe::metrics::{self, TallySum};
use crate::worker::clock;
use crate::worker::finding::Whose;

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
    let ask = |room: &Room| {
        let facts = room.facts();
        (room.not_ready(&facts), room.remarks(&facts))
    };
    match desk.ask(ask).await {
        Some((None, remarks)) if remarks.is_empty() => {
            Json(serde_json::json!({ "ready": true })).into_response()
        }
        Some((None, remarks)) => {
            Json(serde_json::json!({ "ready": true, "remarks": remarks })).into_response()
        }
        Some((Some(reason), remarks)) => {
            let body = Json(serde_json::json!({ "ready": false, "reason": reason, "remarks": remarks }));
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
        let standings = self.sources.controller.standings();
        let backends = self.table.backends();
        let mut clusters = Vec::new();
        for view in self.table.clusters() {
            let count = recent.cluster(view.id);
            let (responses, failures) = (count.tally.responses(), count.tally.failures);
            let state = match (view.drain_percent == 100, view.endpoints.ready + view.endpoints.terminating) {
                (true, _) => Activity::Drained,
                (false, 0) => Activity::NoEndpoints,
                (false, _) if failures * 10 > responses + failures => Activity::Failing,
                (false, _) if responses + failures == 0 => Activity::Idle,
                (false, _) => Activity::Serving,
            };
            let standing = standings.iter().find(|standing| *standing.cluster == *view.name).cloned();
            // The table is ahead of what the controller publishes now and then.
            let drain_percent = view.drain_percent;
            let standing = Standing { drain_percent, ..standing.unwrap_or_default() };
            let in_flight = workers.iter().map(|stats| stats.cluster(view.id).in_flight.get()).sum();
            clusters.push(ClusterState {
                name: view.name.to_string(),
                region: view.region.to_string(),
                state,
                health: self.cluster_health(
                    &view,
                    &backends,
                    (state, &standing),
                    (responses, failures),
                    recent.span,
                ),
                standing,
                ready: view.endpoints.ready,
                terminating: view.endpoints.terminating,
                share: 0.0,
                requests_per_second: recent.rate(responses),
                errors_per_second: recent.rate(count.tally.classes[4]),
                failures_per_second: recent.rate(failures),
                in_flight: if has_counters(view.id) { in_flight } else { 0 },
                latency: Latency::of(&count.latency),
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
                latency: Latency::of(&recent.node.latency),
                retries_total: sum(|stats| stats.retries_total.get() + stats.moves_total.get()),
                ejections_total: sum(|stats| stats.ejections_total.get()),
                restorations_total: sum(|stats| stats.restorations_total.get()),
            },
            clusters,
        }
    }

    fn backends(&self, limit: usize, name: Option<&str>) -> Backends {
        let mut views = self.table.backends();
        views.retain(|view| name.is_none_or(|name| name == &*view.name));
        views.sort_by(|a, b| a.name.cmp(&b.name));
        let left_out = views.len().saturating_sub(limit);
        let clusters = self.table.clusters().into_iter().map(|view| {
            let health = self.verdict(Whose::Cluster(view.id), view.verdict);
            (view.id, health)
        });
        let clusters: BTreeMap<_, _> = clusters.collect();
        let backends = views.iter().take(limit).map(|view| {
            let parts = (0..view.clusters.len()).map(|nth| {
                let of_cluster = clusters.get(&view.clusters[nth].0).and_then(Option::as_ref);
                self.backend_part(view, nth, of_cluster)
            });
            let clusters = parts.collect();
            let all = name.map(|_| self.table.endpoints(view.id));
            let endpoints_left_out = all.as_ref().map_or(0, |all| all.len().saturating_sub(limit));
            let state = |endpoint: EndpointView| self.endpoint_state(&endpoint);
            let endpoints = all.map(|all| all.into_iter().take(limit).map(state).collect());
            BackendState { name: view.name.to_string(), clusters, endpoints, endpoints_left_out }
        });
        Backends { generation: self.table.generation().0, backends: backends.collect(), left_out }
    }

    fn backend_part(&self, view: &BackendView, nth: usize, of_cluster: Option<&HealthState>) -> BackendPart {
        let (cluster, counts) = view.clusters[nth];
        let slot = self.names.backend_slot(view.id, cluster);
        let tally = slot.map(|(slot, base)| backend_sum(&self.sources.stats, slot).since(&base));
        BackendPart {
            cluster: self.table.cluster_name(cluster).to_owned(),
            health: self.part_health(view, nth, of_cluster, tally.as_ref()),
            ready: counts.ready,
            terminating: counts.terminating,
            responses: tally.as_ref().map(classes),
            failures: tally.map(|tally| tally.failures),
        }
    }

    fn endpoint_state(&self, endpoint: &EndpointView) -> EndpointState {
        EndpointState {
            addr: endpoint.addr.to_string(),
            cluster: self.table.cluster_name(endpoint.cluster).to_owned(),
            condition: match endpoint.condition {
                Condition::Ready => "ready".to_owned(),
                Condition::Terminating => "terminating".to_owned(),
            },
            health: self
                .verdict(Whose::Endpoint(endpoint.id), endpoint.verdict)
                .unwrap_or_else(health::quiet),
        }
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
                Protocol::Tcp => "tcp".to_owned(),
                Protocol::TlsPassthrough => "tls (passthrough)".to_owned(),
                Protocol::TlsTerminate => "tls (terminate)".to_owned(),
                Protocol::Udp => "udp".to_owned(),
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
            canary: facts.canary,
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

#[expect(clippy::cast_precision_loss, reason = "figures for people to read")]
fn as_f64(number: u64) -> f64 {
    number as f64
}
