//! What is counted and written down: statistics, the access log, the flight recorder.

pub mod access_log;
pub mod compared;
pub mod decisions;
pub mod histogram;
pub mod layer4;
pub mod metrics;
pub(crate) mod newest;
pub mod recorder;
pub mod recording;
pub mod stats;
