//! What the controller tells the admin API: the one place that knows both.

use std::collections::BTreeMap;

use controller::SharedView;
use controller::verdict::{Outcome, Verdict};
use controller::view::LAG_BOUNDS_NS;
use gateway::admin::{Controller, Facts, Lag, VerdictFact, VerdictNote};

/// The controller's published view, as the admin API asks for it.
pub struct Told(pub SharedView);

impl Controller for Told {
    fn facts(&self) -> Facts {
        let view = self.0.read();
        let mut outcomes: BTreeMap<_, _> = OUTCOMES.iter().map(|outcome| (name(*outcome), 0)).collect();
        for verdict in view.verdicts.iter() {
            *outcomes.entry(name(verdict.outcome)).or_default() += 1;
        }
        Facts {
            synced: view.synced,
            generation: view.generation.0,
            objects: view.objects.into_iter().map(|(kind, count)| (kind, count as u64)).collect(),
            outcomes,
            routes: view.routes as u64,
            backends: view.backends as u64,
            lag: Lag {
                bounds_ns: &LAG_BOUNDS_NS,
                buckets: view.lag.buckets.to_vec(),
                count: view.lag.count,
                sum_ns: view.lag.sum_ns,
                max_ns: view.lag.max_ns,
            },
            coalesced_total: view.coalesced_total,
            snapshots_total: view.snapshots_total,
            restarts_total: view.restarts_total,
        }
    }

    fn verdicts(&self) -> Vec<VerdictFact> {
        self.0.read().verdicts.iter().map(fact).collect()
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
