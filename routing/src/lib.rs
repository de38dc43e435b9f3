//! Who serves this request, now? Match, balance, health, failover, retry, table, delta.
//!
//! Pure: no I/O, no clock, no thread and no randomness of its own. `now` and `rng` are passed in. The only crate
//! of ours that it knows is `wire`, and of that only [`wire::head`].
//!
//! [`model`] is what the controller compiles and every worker holds; [`delta`] is how it travels; [`table`] is a
//! worker's index of it and the entry to everything else:
//!
//! ```text
//! subject -> table.route      matcher/   which rule
//!            table.pick       failover, balance/   which backend, cluster, endpoint
//!            table.on_outcome health/    what was learned
//!            table.retry      retry      again elsewhere, or reply
//! ```
#![forbid(unsafe_code)]

pub mod balance;
mod chunks;
pub mod delta;
pub mod failover;
pub mod health;
pub mod id;
pub mod limit;
pub mod matcher;
pub mod model;
pub mod retry;
pub mod subject;
pub mod table;
pub mod time;
