//! What the controller tells the admin API: the one place that knows both.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use controller::plan::Described;
use controller::verdict::{Outcome, Verdict};
use controller::view::{CanaryPhase, CanaryView, LAG_BOUNDS_NS, SourceView, WatchView};
use controller::{Command, ControllerView, LagHistogram, Looker, Order, Refused, SharedView, operator};
use crossbeam_channel::Sender;
use gateway::admin::api::{Origin, Standing};
use gateway::admin::facts::TableAnswer;
use gateway::admin::operate::{Answer, OrderRefused, Wish};
use gateway::admin::{CanaryFact, Controller, Facts, Lag, SourceFact, VerdictFact, VerdictNote, WatchFact};
use gateway::worker::clock;
use routing::delta::RouteTable;
use routing::time::MonoTime;

/// The controller, as the admin API asks for it.
pub struct Told {
    /// What it has published.
    pub view: SharedView,
    /// Where it takes orders.
    pub orders: Sender<Command>,
    /// Where it shows its table.
    pub lookers: Sender<Looker>,
}

impl Controller for Told {
    fn facts(&self) -> Facts {
        let view = self.view.read();
        let mut outcomes: BTreeMap<_, _> = OUTCOMES.iter().map(|outcome| (name(*outcome), 0)).collect();
        for verdict in view.verdicts.iter() {
            *outcomes.entry(name(verdict.outcome)).or_default() += 1;
        }
        Facts {
            synced: view.synced,
            generation: view.generation.0,
            objects: view.objects.iter().map(|(kind, count)| (kind.clone(), *count as u64)).collect(),
            outcomes,
            routes: view.routes as u64,
            backends: view.backends as u64,
            lag: lag(&view.lag),
            remarks: remarks(&view),
            status_writes: (view.status_writes_total, view.status_failures_total),
            status_deferred: view.status_deferred_total,
            series_refused: view.series_refused_total,
            gateway_addresses: (view.gateway_addresses.len() as u64, view.gateways_without_address as u64),
            sources: view.sources.iter().map(|(cluster, source)| source_fact(cluster, source)).collect(),
            lags: view.lags.iter().map(|(cluster, one)| (cluster.to_string(), lag(one))).collect(),
            coalesced_total: view.coalesced_total,
            snapshots_total: view.snapshots_total,
            restarts_total: view.restarts_total,
            canary: canary(&view.canary),
        }
    }

    fn verdicts(&self) -> Vec<VerdictFact> {
        self.view.read().verdicts.iter().map(fact).collect()
    }

    fn standings(&self) -> Vec<Standing> {
        self.view.read().standings.iter().map(standing).collect()
    }

    fn order(&self, order: gateway::admin::operate::Order, answer: Answer) {
        let wish = match order.wish {
            Wish::Drain(over) => Order::Drain { over },
            Wish::Undrain(over) => Order::Undrain { over },
            Wish::Promote => Order::Promote,
            Wish::Fence => Order::Fence,
        };
        let done = Box::new(move |result: Result<controller::Standing, Refused>| {
            answer(result.as_ref().map(standing).map_err(|refused| {
                let reason = refused.to_string();
                match refused {
                    Refused::NoSuchCluster(_) => OrderRefused::Unknown(reason),
                    Refused::TooLong => OrderRefused::Invalid(format!("over: {reason}")),
                }
            }));
        });
        let command = Command { cluster: order.cluster.into(), order: wish, done };
        // Full, or nobody there: what is dropped with the command tells who waits.
        let _ = self.orders.try_send(command);
    }

    fn table(&self, answer: TableAnswer) {
        // As of an order.
        let _ = self.lookers.try_send(Box::new(move |table: &RouteTable| answer(table.clone())));
    }

    fn describe(&self, table: &RouteTable) -> serde_json::Value {
        serde_json::to_value(Described::of(table)).unwrap_or_default()
    }
}

fn lag(lag: &LagHistogram) -> Lag {
    Lag {
        bounds_ns: &LAG_BOUNDS_NS,
        buckets: lag.buckets.to_vec(),
        count: lag.count,
        sum_ns: lag.sum_ns,
        max_ns: lag.max_ns,
    }
}

fn canary(view: &CanaryView) -> CanaryFact {
    let (state, skipped, on) = match view.phase {
        CanaryPhase::Off => ("off", None, None),
        CanaryPhase::Skipped(reason) => ("skipped", Some(reason), None),
        CanaryPhase::Idle => ("idle", None, None),
        CanaryPhase::Watching { worker, began_ns, .. } => ("watching", None, Some((worker, began_ns))),
    };
    let names = |routes: &[std::sync::Arc<str>]| routes.iter().map(ToString::to_string).collect();
    let verdicts = [
        ("promoted", view.promoted_total),
        ("unproven", view.unproven_total),
        ("rolled_back", view.rolled_back_total),
        ("withdrawn", view.withdrawn_total),
    ];
    CanaryFact {
        state: state.to_owned(),
        reason: skipped.map_or_else(|| view.reason.clone(), str::to_owned),
        worker: on.map(|(worker, _)| worker),
        since_seconds: on.map(|(_, began_ns)| clock::now().since(MonoTime(began_ns)).as_secs_f64()),
        routes: names(&view.routes),
        answered: view.answered,
        failed: view.failed,
        refused: names(&view.refused),
        verdicts: verdicts.map(|(verdict, count)| (verdict.to_owned(), count)).into(),
    }
}

/// Clusters that are named in a remark.
const NAMED_MAX: usize = 8;

fn remarks(view: &ControllerView) -> Vec<String> {
    let mut remarks = Vec::new();
    if let Some(written) = view.resumed_from {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let age = now.saturating_sub(written);
        remarks.push(format!("the hub has not answered yet: serving what was saved {age} s ago"));
    }
    let ill = view.sources.iter().filter(|(_, source)| !source.reason.is_empty());
    remarks.extend(ill.take(NAMED_MAX).map(|(cluster, source)| format!("{cluster}: {}", source.reason)));
    remarks
}

fn source_fact(cluster: &str, source: &SourceView) -> SourceFact {
    let since = |at_ns: u64| (at_ns > 0).then(|| clock::now().since(MonoTime(at_ns)).as_secs());
    let watch = |watch: &WatchView| WatchFact {
        kind: watch.kind,
        state: watch.state.name(),
        lists_total: watch.lists_total,
        doubted_total: watch.doubted_total,
        failures_total: watch.failures_total,
    };
    SourceFact {
        cluster: cluster.to_owned(),
        ready: source.reason.is_empty(),
        answered_seconds: since(source.answered_ns),
        event_seconds: since(source.event_ns),
        watches: source.watches.iter().map(watch).collect(),
    }
}

fn standing(standing: &controller::Standing) -> Standing {
    let now = clock::now();
    let since = |since_ns: Option<u64>| Some(now.since(MonoTime(since_ns?)).as_secs_f64());
    let origin = |origin| match origin {
        operator::Origin::Manifest => Origin::Manifest,
        operator::Origin::Operator => Origin::Operator,
    };
    Standing {
        cluster: standing.cluster.to_string(),
        drain_percent: standing.drain_percent,
        drain_target: standing.drain_target,
        drain_origin: origin(standing.drain_origin),
        drain_since_seconds: since(standing.drain_since_ns),
        promoted: standing.promoted,
        promoted_origin: origin(standing.promoted_origin),
        promoted_since_seconds: since(standing.promoted_since_ns),
    }
}

const OUTCOMES: [Outcome; 4] =
    [Outcome::Accepted, Outcome::PartlyIgnored, Outcome::PartlyRefused, Outcome::Refused];

fn name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Accepted => "accepted",
        Outcome::PartlyIgnored => "partly_ignored",
        Outcome::PartlyRefused => "partly_refused",
        Outcome::Refused => "refused",
    }
}

fn fact(verdict: &Verdict) -> VerdictFact {
    let notes = verdict.notes.iter().map(|note| VerdictNote {
        field: note.field.clone(),
        value: note.value.clone(),
        reason: note.reason.clone(),
    });
    VerdictFact {
        object: verdict.object.as_ref().map(ToString::to_string).unwrap_or_default(),
        file: verdict.origin.to_string(),
        outcome: name(verdict.outcome).to_owned(),
        notes: notes.collect(),
    }
}
