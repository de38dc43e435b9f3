//! What changes the state of a node: served on the Unix socket only, beside everything that can be read.
//!
//! ```text
//! POST /api/v1/clusters/NAME/drain?over=30s     /undrain?over=30s   /promote   /fence
//! POST /api/v1/clusters/NAME/drill?fault=refuse&share=10%&for=30s&abort-on=failed=1
//! POST /api/v1/drill/stop                       GET /api/v1/drill
//! ```
//!
//! Orders go to the controller, which answers when they have been broadcast; drills are this thread's own.

use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::api::Standing;
use super::drill::{self, Plan};
use super::room::{Desk, Room};
use super::server::problem;

/// How long the controller may take to carry out an order: it may be starting anew, or compiling.
const ORDER_TIMEOUT: Duration = Duration::from_secs(8);

/// What an operator wants of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// The cluster's name.
    pub cluster: String,
    /// What is wanted.
    pub wish: Wish,
}

/// What is wanted of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// No new requests while another cluster can serve; reached after this time, zero = at once.
    Drain(Duration),
    /// Its full share again; reached after this time, zero = at once.
    Undrain(Duration),
    /// It may take writes although it is a standby.
    Promote,
    /// It may not, any more.
    Fence,
}

/// Why an order is not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OrderRefused {
    /// No such cluster; those that there are.
    Unknown(String),
    /// Not allowed, and what is.
    Invalid(String),
    /// The controller does not take orders now.
    Busy,
}

/// Gets the answer to an order, once, on whatever thread.
pub type Answer = Box<dyn FnOnce(Result<Standing, OrderRefused>) + Send>;

/// Who is at the other end of the socket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operator {
    /// User id; `None` when the kernel does not say.
    pub(super) uid: Option<u32>,
}

pub(super) fn router(desk: Desk) -> Router {
    Router::new()
        .route("/api/v1/clusters/{name}/drain", post(drain))
        .route("/api/v1/clusters/{name}/undrain", post(undrain))
        .route("/api/v1/clusters/{name}/promote", post(promote))
        .route("/api/v1/clusters/{name}/fence", post(fence))
        .route("/api/v1/clusters/{name}/drill", post(start_drill))
        .route("/api/v1/drill/stop", post(stop_drill))
        .route("/api/v1/drill", get(show_drill))
        .with_state(desk)
}

type Pairs = Query<Vec<(String, String)>>;
type Who = Extension<Operator>;

async fn drain(
    State(desk): State<Desk>,
    who: Who,
    Path(name): Path<String>,
    Query(query): Pairs,
) -> Response {
    with_time(&desk, who.0, name, &query, Wish::Drain).await
}

async fn undrain(
    State(desk): State<Desk>,
    who: Who,
    Path(name): Path<String>,
    Query(query): Pairs,
) -> Response {
    with_time(&desk, who.0, name, &query, Wish::Undrain).await
}

async fn promote(
    State(desk): State<Desk>,
    who: Who,
    Path(name): Path<String>,
    Query(query): Pairs,
) -> Response {
    without_time(&desk, who.0, name, &query, Wish::Promote).await
}

async fn fence(
    State(desk): State<Desk>,
    who: Who,
    Path(name): Path<String>,
    Query(query): Pairs,
) -> Response {
    without_time(&desk, who.0, name, &query, Wish::Fence).await
}

async fn with_time(
    desk: &Desk,
    who: Operator,
    cluster: String,
    query: &[(String, String)],
    wish: fn(Duration) -> Wish,
) -> Response {
    let mut over = Duration::ZERO;
    for (key, value) in query {
        match (key.as_str(), value.parse::<config::Period>()) {
            ("over", Ok(period)) => over = period.get(),
            ("over", Err(_)) => {
                return invalid(&format!("over={value:?}: expected a time such as 30s; at most 24h"));
            }
            (other, _) => return invalid(&format!("unknown parameter {other:?}; allowed: over")),
        }
    }
    obey(desk, who, Order { cluster, wish: wish(over) }).await
}

async fn without_time(
    desk: &Desk,
    who: Operator,
    cluster: String,
    query: &[(String, String)],
    wish: Wish,
) -> Response {
    match query.first() {
        Some((key, _)) => invalid(&format!("unknown parameter {key:?}; none is allowed")),
        None => obey(desk, who, Order { cluster, wish }).await,
    }
}

async fn obey(desk: &Desk, who: Operator, order: Order) -> Response {
    tracing::info!(uid = ?who.uid, cluster = %order.cluster, wish = ?order.wish, "an order by the admin socket");
    let (answer, answered) = oneshot::channel();
    let answer: Answer = Box::new(move |result| {
        // Nobody waits any more: the operator has left; the order stands.
        let _ = answer.send(result);
    });
    if desk.ask(move |room| room.sources.controller.order(order, answer)).await.is_none() {
        return problem(StatusCode::INTERNAL_SERVER_ERROR, "the order could not be given; the log says more");
    }
    match timeout(ORDER_TIMEOUT, answered).await {
        Ok(Ok(Ok(standing))) => Json(standing).into_response(),
        Ok(Ok(Err(OrderRefused::Unknown(reason)))) => problem(StatusCode::NOT_FOUND, &reason),
        Ok(Ok(Err(OrderRefused::Invalid(reason)))) => invalid(&reason),
        Ok(Ok(Err(OrderRefused::Busy)) | Err(_)) => {
            problem(StatusCode::SERVICE_UNAVAILABLE, "the controller takes no orders now; try again")
        }
        Err(_) => problem(
            StatusCode::GATEWAY_TIMEOUT,
            "the controller has not answered; the order may still be carried out: see `ringway status`",
        ),
    }
}

fn invalid(reason: &str) -> Response {
    problem(StatusCode::BAD_REQUEST, reason)
}

// ---------------------------------------------------------------- drills

async fn start_drill(
    State(desk): State<Desk>,
    who: Who,
    Path(cluster): Path<String>,
    Query(query): Pairs,
) -> Response {
    let plan = match plan(cluster, &query) {
        Ok(plan) => plan,
        Err(reason) => return invalid(&reason),
    };
    tracing::info!(uid = ?who.0.uid, cluster = %plan.cluster, fault = %plan.fault, share = %plan.share, "a drill by the admin socket");
    match desk.ask(move |room| room.start_drill(plan)).await {
        Some(Ok(state)) => (StatusCode::ACCEPTED, Json(state)).into_response(),
        Some(Err((status, reason))) => problem(status, &reason),
        None => problem(StatusCode::INTERNAL_SERVER_ERROR, "the drill could not be begun; the log says more"),
    }
}

async fn stop_drill(State(desk): State<Desk>, who: Who) -> Response {
    tracing::info!(uid = ?who.0.uid, "a drill is stopped by the admin socket");
    match desk.ask(Room::stop_drill).await {
        Some(Some(state)) => Json(state).into_response(),
        Some(None) => problem(StatusCode::CONFLICT, "no drill is running"),
        None => {
            problem(StatusCode::INTERNAL_SERVER_ERROR, "the drill could not be stopped; the log says more")
        }
    }
}

async fn show_drill(State(desk): State<Desk>) -> Response {
    match desk.ask(Room::drill_state).await {
        Some(state) => Json(state).into_response(),
        None => problem(StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be made; the log says more"),
    }
}

fn plan(cluster: String, query: &[(String, String)]) -> Result<Plan, String> {
    let (mut fault, mut share, mut lasts, mut abort_on) = (None, None, None, drill::AbortRules::default());
    for (key, value) in query {
        let named = |reason: String| format!("{key}={value:?}: {reason}");
        match key.as_str() {
            "fault" => fault = Some(value.parse().map_err(named)?),
            "share" => share = Some(value.parse().map_err(named)?),
            "for" => lasts = Some(drill::parse_lasts(value).map_err(named)?),
            "abort-on" => abort_on = value.parse().map_err(named)?,
            other => {
                return Err(format!("unknown parameter {other:?}; allowed: fault, share, for, abort-on"));
            }
        }
    }
    let missing = |name: &str| format!("{name} is missing");
    Ok(Plan {
        cluster,
        fault: fault.ok_or_else(|| missing("fault"))?,
        share: share.ok_or_else(|| missing("share"))?,
        lasts: lasts.ok_or_else(|| missing("for"))?,
        abort_on,
    })
}
