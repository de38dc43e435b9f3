//! What `ringway plan` asks a running node for: the table that its controller has compiled, and a sample of the last
//! minute's requests with where they would go by it.
//!
//! The table is told to whoever may read the rest of the API. Requests are told on the operators' socket only: their paths
//! and the headers that rules ask for are their senders' own business. One such question is answered at a time, by a thread
//! beside this one; the controller's part of it is to copy its table.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use routing::delta::RouteTable;
use routing::table::OutOfStep;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

use super::replay::{Sampled, table_of};
use super::room::{Desk, Room};
use super::server::problem;
use super::{Controller, facts::TableAnswer};
use crate::observe::decisions::{Batch, SPAN};
use crate::worker::clock;

/// How long the controller may take to copy its table: it may be compiling.
const TABLE_TIMEOUT: Duration = Duration::from_secs(5);

/// `GET /api/v1/decisions`
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Decisions {
    /// How far back it reaches at most, in seconds.
    pub window_seconds: f64,
    /// Requests that were answered in that time.
    pub answered: u64,
    /// `observe.decisions_max`
    pub decisions_max: u32,
    /// A sample of them.
    pub decisions: Vec<Sampled>,
}

/// Who asks.
#[derive(Clone)]
pub(super) struct Asker {
    desk: Desk,
    one_at_a_time: Arc<Semaphore>,
}

impl Asker {
    pub(super) fn new(desk: Desk) -> Self {
        Self { desk, one_at_a_time: Arc::new(Semaphore::new(1)) }
    }
}

/// For whoever may read.
pub(super) fn router(asker: Asker) -> Router {
    Router::new()
        .route("/api/v1/table", get(table))
        .route("/api/v1/decisions", get(async || problem(StatusCode::FORBIDDEN, "decisions are told on the operators' socket only (admin.socket): they hold what clients sent")))
        .with_state(asker)
}

/// For operators.
pub(super) fn operators(asker: Asker) -> Router {
    Router::new()
        .route("/api/v1/table", get(table))
        .route("/api/v1/decisions", get(decisions))
        .with_state(asker)
}

async fn table(State(asker): State<Asker>) -> Response {
    let Ok(_turn) = asker.one_at_a_time.acquire().await else { return failed() };
    let Some(controller) = asker.desk.ask(|room| Arc::clone(&room.sources.controller)).await else {
        return failed();
    };
    let Some(table) = copy_of(&*controller).await else { return busy() };
    let described = tokio::task::spawn_blocking(move || controller.describe(&table).to_string());
    match described.await {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json")], Body::from(text)).into_response(),
        Err(_) => failed(),
    }
}

async fn decisions(State(asker): State<Asker>) -> Response {
    let Ok(_turn) = asker.one_at_a_time.acquire().await else { return failed() };
    let ask = |room: &Room| {
        let node = room.sources.config.node.clone();
        (Arc::clone(&room.sources.controller), room.sampled(), node, room.head_limits)
    };
    let Some((controller, mut sample, node, limits)) = asker.desk.ask(ask).await else { return failed() };
    let Some(table) = copy_of(&*controller).await else { return busy() };
    let replayed = tokio::task::spawn_blocking(move || {
        let now = clock::now();
        let table = table_of(&table, &node, now)?;
        for decision in &mut sample.decisions {
            decision.would = decision.replay(&table, &limits, now);
        }
        Ok::<_, OutOfStep>(sample)
    });
    match replayed.await {
        Ok(Ok(sample)) => Json(sample).into_response(),
        Ok(Err(_)) | Err(_) => failed(),
    }
}

/// The controller's table; `None` when it does not answer.
async fn copy_of(controller: &dyn Controller) -> Option<RouteTable> {
    let (answer, answered) = oneshot::channel();
    let answer: TableAnswer = Box::new(move |table| {
        // Nobody waits any more.
        let _ = answer.send(table);
    });
    controller.table(answer);
    timeout(TABLE_TIMEOUT, answered).await.ok()?.ok()
}

fn busy() -> Response {
    problem(StatusCode::SERVICE_UNAVAILABLE, "the controller does not tell its table now; try again")
}

fn failed() -> Response {
    problem(StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be made; the log says more")
}

/// What the workers sampled, as long as it is remembered.
#[derive(Default)]
pub(super) struct Samples(VecDeque<Batch>);

impl Samples {
    /// Takes in what has come and lets go of what is too old, and of the oldest beyond `decisions_max`.
    pub(super) fn take_in(&mut self, fresh: impl Iterator<Item = Batch>, decisions_max: u32) {
        self.0.extend(fresh);
        let now = clock::now();
        let is_old = |batch: &Batch| now.since(batch.at) > SPAN;
        let mut held: usize = self.0.iter().map(|batch| batch.count()).sum();
        while self.0.front().is_some_and(|oldest| is_old(oldest) || held > decisions_max as usize) {
            held -= self.0.pop_front().map_or(0, |oldest| oldest.count());
        }
    }
}

impl Room {
    fn sampled(&self) -> Decisions {
        let mut decisions = Vec::new();
        let mut answered = 0;
        for batch in &self.samples.0 {
            answered += batch.answered;
            #[expect(clippy::cast_precision_loss, reason = "requests of a second, for a share")]
            let weight = batch.answered as f64 / batch.count().max(1) as f64;
            decisions.extend(batch.decisions().map(|decision| Sampled::of(&decision, weight)));
        }
        let decisions_max = self.sources.config.observe.decisions_max;
        Decisions { window_seconds: SPAN.as_secs_f64(), answered, decisions_max, decisions }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(age: Duration, decisions: usize) -> Batch {
        let age = u64::try_from(age.as_nanos()).unwrap();
        let at = routing::time::MonoTime(clock::now().0.saturating_sub(age));
        Batch::of_alike(at, 100, decisions)
    }

    fn held(samples: &Samples) -> Vec<usize> {
        samples.0.iter().map(Batch::count).collect()
    }

    #[test]
    fn what_is_held_is_of_the_last_minute_and_within_its_bound() {
        let mut samples = Samples::default();
        let ages = [(SPAN * 2, 1), (SPAN + Duration::from_secs(1), 2), (SPAN / 2, 3), (Duration::ZERO, 4)];
        samples.take_in(ages.into_iter().map(|(age, count)| batch(age, count)), 100);
        assert_eq!(held(&samples), [3, 4], "what is too old is let go of");
        samples.take_in(std::iter::once(batch(Duration::ZERO, 5)), 9);
        assert_eq!(held(&samples), [4, 5], "the oldest beyond the bound");
        samples.take_in(std::iter::empty(), 8);
        assert_eq!(held(&samples), [5]);
    }
}
