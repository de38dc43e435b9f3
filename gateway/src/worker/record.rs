//! The worker's side of the flight recorder: names for what was recorded, and the way out.

use routing::table::Table;
use routing::time::MonoTime;

use super::{Worker, clock};
use crate::observe::recorder::{Entry, Trigger, What, Whom};
use crate::observe::recording::{Names, Window};
use crate::observe::stats::Limit;

impl Worker {
    /// Hands the window around a verdict to the writing thread, once it is complete. Called a few times a second, and
    /// when the recorder is full.
    pub fn record_if_due(&self, now: MonoTime) {
        if self.recorder.is_due(now) {
            self.record();
        }
    }

    /// The same without waiting for the aftermath: the worker ends.
    pub fn record(&self) {
        let Some((triggers, entries)) = self.recorder.take() else { return };
        let names = names(&self.table.borrow(), &triggers, &entries);
        let clocks = (clock::now(), clock::wall());
        let window = Window { worker: self.id, triggers, entries, names, clocks };
        if self.recorder.send(window) {
            self.stats.recordings_total.inc();
        } else {
            self.stats.hit(Limit::Recordings);
        }
    }
}

/// What the table calls everything that occurs.
fn names(table: &Table, triggers: &[Trigger], entries: &[Entry]) -> Names {
    let mut names = Names::default();
    let mut note = |whom: Whom| {
        let (mut cluster, mut backend) = (whom.cluster, whom.backend);
        if let Some(key) = whom.endpoint
            && !names.endpoints.contains_key(&Names::key(key))
            && let Some(view) = table.endpoint(key)
        {
            names.endpoints.insert(Names::key(key), (view.addr.to_string(), view.backend, view.cluster));
            (cluster, backend) = (Some(view.cluster), Some(view.backend));
        }
        if let Some(id) = cluster {
            names.clusters.entry(id).or_insert_with(|| table.cluster_name(id).to_owned());
        }
        if let Some(id) = backend {
            names.backends.entry(id).or_insert_with(|| table.backend_name(id).to_owned());
        }
    };
    for entry in entries {
        note(entry.whom);
        match entry.what {
            What::Hedge { beside, .. } | What::Leave { beside, .. } | What::Tie { beside } => {
                note(Whom { endpoint: Some(beside), ..Whom::default() });
            }
            What::Pick { .. }
            | What::Outcome { .. }
            | What::Retry { .. }
            | What::State { .. }
            | What::Probe { .. }
            | What::Shed { .. } => {}
        }
    }
    triggers.iter().for_each(|trigger| note(trigger.whom));
    names
}
