//! `[canary]`: a changed table goes to one worker first.

use serde::{Deserialize, Serialize};

use crate::unit::Period;

/// How changes of rules are tried before they go to all workers. Endpoints never wait. A restart applies a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Canary {
    /// Are they tried? Default false. With one worker there is nobody to compare with: skipped, and said.
    pub enabled: bool,
    /// How long the first worker is compared with the others before the change goes to all. Default 30 s. Further changes
    /// meanwhile go to the first worker, too, and begin the watch anew.
    pub watch: Period,
    /// How long a change may be watched at all, at least `watch`: with further changes, or with too few requests. Default
    /// 2 min. Then it goes to all.
    pub longest: Period,
    /// Requests of the changed routes on the first worker that a verdict needs. Default 100.
    pub requests: u32,
    /// Percentage points that the share of failed requests (5xx, and 404 for want of a rule) may lie above that of the
    /// other workers. Default 2. Beyond it the change is taken back at once.
    pub errors_above: u32,
    /// Percent that the 99th percentile of all requests' durations may lie above that of the other workers, and 1 ms.
    /// Default 100. Beyond it, at the end of the watch, the change is taken back.
    pub p99_above: u32,
}

impl Default for Canary {
    fn default() -> Self {
        Self {
            enabled: false,
            watch: Period::secs(30),
            longest: Period::secs(120),
            requests: 100,
            errors_above: 2,
            p99_above: 100,
        }
    }
}
