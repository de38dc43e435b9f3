//! While tables may be on trial: what no route refers to any more stays until no worker's rules do.

use std::collections::BTreeSet;
use std::sync::Arc;

use routing::delta::{RouteTable, TableDelta};
use routing::id::BackendId;

use crate::compile::Compiler;
use crate::verdict::Notes;

impl Compiler {
    /// From now on backends that lose their last route stay, with endpoints that are kept up to date, until
    /// [`Compiler::release`]; numbers are not given again before [`Compiler::settle`]; and what a compile replaces is kept
    /// for [`Compiler::take_before`].
    pub fn keep_unused(&mut self) {
        self.keeps = true;
        self.backends.keep_unused();
    }

    /// What the last compile replaced.
    pub fn take_before(&mut self) -> TableDelta {
        std::mem::take(&mut self.before)
    }

    pub(super) fn note_before(&mut self, delta: &TableDelta) {
        if self.keeps {
            self.before = before(&self.table, delta);
        }
    }

    /// Are there backends that no route refers to?
    #[must_use]
    pub fn has_unused(&self) -> bool {
        self.backends.has_unused()
    }

    /// Lets go of those that are not `pinned`, and says what changes.
    pub fn release(&mut self, pinned: &BTreeSet<BackendId>) -> TableDelta {
        let mut delta = TableDelta::default();
        self.backends.release(pinned, &mut self.ids, &mut delta);
        self.table.apply(&delta);
        delta
    }

    /// Numbers of endpoints and of where they are may be given again: those never wait, so that no worker knows them any
    /// more. Only a ring from before may name an endpoint that is gone.
    pub fn settle_places(&mut self, rings_are_held: bool) {
        self.ids.settle_places(rings_are_held);
    }

    /// Did the last compiles follow from a permission that was changed or taken away?
    pub fn take_revoked(&mut self) -> bool {
        std::mem::take(&mut self.revoked)
    }

    /// Numbers that are not in use may be given again: every worker runs this table.
    pub fn settle(&mut self) {
        self.ids.settle();
    }

    /// These routes, and no others, stay as they were because what they are to be was refused; an empty `reason` leaves
    /// the one from before.
    pub fn refuse(&mut self, routes: &BTreeSet<Arc<str>>, reason: &str) {
        let before = std::mem::take(&mut self.refused);
        for id in self.routes.keys() {
            let name: Arc<str> = id.to_string().into();
            if !routes.contains(&name) {
                continue;
            }
            let notes = before.get(id).cloned().filter(|_| reason.is_empty()).unwrap_or_else(|| {
                let mut notes = Notes::default();
                let text = format!("it was tried on one worker and taken back: {reason}; the route stays as it was until it is changed");
                notes.ignored("", &name, text);
                notes
            });
            self.refused.insert(id.clone(), notes);
        }
        if before != self.refused {
            self.reports = true;
            before.keys().chain(self.refused.keys()).for_each(|id| self.findings.stale(id));
        }
    }
}

/// The values of what the change replaces, where it can be on trial.
fn before(table: &RouteTable, delta: &TableDelta) -> TableDelta {
    TableDelta {
        hosts: delta.hosts.iter().map(|(key, _)| (key.clone(), table.hosts.get(key).cloned())).collect(),
        listeners: delta.listeners.iter().map(|(id, _)| (*id, table.listeners.get(id).cloned())).collect(),
        backends: delta.backends.iter().map(|(id, _)| (*id, table.backends.get(id).cloned())).collect(),
        rings: delta.rings.iter().map(|(key, _)| (*key, table.rings.get(key).cloned())).collect(),
        ..TableDelta::default()
    }
}
