//! Who serves this request, now? Match, balance, health, failover, retry, table, delta.
//!
//! Pure: no I/O, no clock, no thread and no randomness of its own. `now` and `rng` are passed in. The only crate
//! of ours that it knows is `wire`, and of that only [`wire::head`].
//!
//! [`model`] is what the controller compiles and every worker holds; [`delta`] is how it travels.
#![forbid(unsafe_code)]

pub mod delta;
pub mod id;
pub mod model;
pub mod time;
