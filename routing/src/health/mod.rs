//! What is known about who can serve: per cluster, per backend in a cluster, and per endpoint.
//!
//! Evidence comes from real traffic; probes only decide which verdict it is. [`state`] is the automaton, [`board`] what
//! the workers of a node share, [`action`] what the detector wants done, [`endpoint`] the older and simpler evidence of
//! failures in a row, which every worker counts alone. Pure, as all of `routing`: bytes, times and probe results go in
//! through the [`Table`](crate::table::Table), verdicts and [`Action`](action::Action)s come out.

pub mod action;
pub mod board;
pub mod endpoint;
pub(crate) mod evidence;
pub(crate) mod histogram;
pub mod state;
pub(crate) mod waiting;
