//! What a worker found out, with the numbers that led to it: for the admin API.
//!
//! State and time of a verdict are on the board that all workers share; the evidence is only with the worker that
//! decided. It leaves through a bounded channel and is dropped and counted when nobody reads: `ringway status` then
//! shows the verdict without its numbers.

use routing::health::action::{Evidence, Scope, Transition};
use routing::health::state::State;
use routing::id::{BackendId, ClusterId, EndpointId};
use routing::table::Table;

/// Findings that wait for the admin thread, all workers together. Beyond it they are dropped and counted as `findings`.
pub const FINDINGS_CAP: usize = 1_024;

/// Whose state a finding is about. Unlike [`Scope`] it means the same in every worker's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Whose {
    /// A whole cluster.
    Cluster(ClusterId),
    /// One backend in one cluster.
    Backend(BackendId, ClusterId),
    /// One endpoint.
    Endpoint(EndpointId),
}

impl Whose {
    /// What `scope` means in `table`; `None` for everything at once and for an endpoint that has left.
    #[must_use]
    pub fn of(scope: Scope, table: &Table) -> Option<Self> {
        match scope {
            Scope::All => None,
            Scope::Cluster(cluster) => Some(Self::Cluster(cluster)),
            Scope::Backend(backend, cluster) => Some(Self::Backend(backend, cluster)),
            Scope::Endpoint(key) => table.endpoint(key).map(|view| Self::Endpoint(view.id)),
        }
    }
}

/// A change of state that a worker made.
#[derive(Clone, Copy, Debug)]
pub struct Finding {
    /// Whose state.
    pub whose: Whose,
    /// What it is now.
    pub state: State,
    /// The numbers at that moment.
    pub evidence: Evidence,
}

impl Finding {
    /// What `change` says to the other threads.
    #[must_use]
    pub fn of(change: &Transition, table: &Table) -> Option<Self> {
        let whose = Whose::of(change.scope, table)?;
        Some(Self { whose, state: change.to, evidence: change.evidence })
    }
}
