//! What is counted and written down: statistics, the access log.

pub mod access_log;
pub mod histogram;
pub mod metrics;
pub mod stats;
