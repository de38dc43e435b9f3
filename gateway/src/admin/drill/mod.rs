//! Drills: a fault on purpose, for a share of one cluster's attempts, for a time, with a report.
//!
//! One drill at a time. It begins and ends on the admin thread (`Drills`), workers only draw lots
//! ([`worker::drill`](crate::worker::drill)). It ends by its time, by its abort rules, by command, or when its cluster
//! leaves; when this thread dies, by the deadline that every worker has. What happened meanwhile is read from the
//! workers' counters: before, during and after.
//!
//! ```text
//! Idle ──start──▶ Running ──time, abort rule, command──▶ Measuring ──AFTER──▶ Idle, with a report
//! ```

mod machine;
mod report;
mod store;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

pub use self::machine::AFTER;
pub(super) use self::machine::{Machine, Sample, Step};
pub use self::report::{DrillState, Figures, Outcome, Phase, Report, render};
pub(super) use self::store::Reports;

use crate::worker::drill::{Fault, Share};

/// The shortest drill.
pub const LASTS_MIN: Duration = Duration::from_secs(1);
/// The longest drill.
pub const LASTS_MAX: Duration = Duration::from_secs(3_600);
/// Rules that a drill may be aborted by.
pub const RULES_MAX: usize = 8;

/// What is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Whose attempts.
    pub cluster: String,
    /// What happens to them.
    pub fault: Fault,
    /// To which part of them.
    pub share: Share,
    /// For how long: [`LASTS_MIN`] to [`LASTS_MAX`].
    pub lasts: Duration,
    /// When it ends early.
    pub abort_on: AbortRules,
}

/// When a drill ends early: as soon as any of these holds. At most [`RULES_MAX`].
#[derive(Clone, Debug, PartialEq)]
pub struct AbortRules(Vec<AbortRule>);

/// One rule.
#[derive(Clone, Copy, Debug, PartialEq)]
enum AbortRule {
    /// So many requests were answered 5xx since the drill began.
    Failed(u64),
    /// This quantile of the node's latency since the drill began is above the limit. Judged once there are enough
    /// responses for it to mean anything.
    Slow { quantile: Quantile, limit: Duration },
}

/// A quantile of latency.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Quantile {
    name: &'static str,
    at: f64,
    /// Responses from which on it is judged.
    from: u64,
}

const QUANTILES: [Quantile; 4] = [
    Quantile { name: "p50", at: 0.5, from: 20 },
    Quantile { name: "p90", at: 0.9, from: 50 },
    Quantile { name: "p99", at: 0.99, from: 100 },
    Quantile { name: "p99.9", at: 0.999, from: 1_000 },
];

/// The rules of a drill without any: one failed request ends it.
impl Default for AbortRules {
    fn default() -> Self {
        Self(vec![AbortRule::Failed(1)])
    }
}

impl FromStr for AbortRules {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rules = text.split(',').map(str::parse).collect::<Result<Vec<AbortRule>, String>>()?;
        if rules.len() > RULES_MAX {
            return Err(format!("at most {RULES_MAX} rules"));
        }
        Ok(Self(rules))
    }
}

impl FromStr for AbortRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let allowed =
            || "expected failed=N (1 or more) or p50|p90|p99|p99.9=TIME, joined by commas".to_owned();
        let (name, value) = text.trim().split_once('=').ok_or_else(allowed)?;
        if name == "failed" {
            let failed = value.parse().ok().filter(|failed| *failed > 0);
            return failed.map(Self::Failed).ok_or_else(allowed);
        }
        let quantile = QUANTILES.into_iter().find(|quantile| quantile.name == name).ok_or_else(allowed)?;
        let limit = value.parse::<config::Period>().map_err(|_| allowed())?.get();
        if limit.is_zero() {
            return Err(allowed());
        }
        Ok(Self::Slow { quantile, limit })
    }
}

impl fmt::Display for AbortRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, rule) in self.0.iter().enumerate() {
            f.write_str(if index == 0 { "" } else { "," })?;
            match rule {
                AbortRule::Failed(count) => write!(f, "failed={count}")?,
                AbortRule::Slow { quantile, limit } => write!(f, "{}={limit:?}", quantile.name)?,
            }
        }
        Ok(())
    }
}

/// A drill's length as it is written: within its bounds.
///
/// # Errors
/// What is allowed.
pub fn parse_lasts(text: &str) -> Result<Duration, String> {
    let lasts = text.parse::<config::Period>().ok().map(config::Period::get);
    lasts
        .filter(|lasts| (LASTS_MIN..=LASTS_MAX).contains(lasts))
        .ok_or_else(|| "expected a time from 1s to 1h".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_as_they_are_written_and_nothing_else_is() {
        for text in ["failed=1", "p99.9=200ms,failed=1", "p50=1ms,p90=2ms,p99=3s"] {
            assert_eq!(text.parse::<AbortRules>().unwrap().to_string(), text);
        }
        assert_eq!(AbortRules::default().to_string(), "failed=1");
        let many = ["failed=1"; 9].join(",");
        for text in [
            "",
            ",",
            "failed",
            "failed=0",
            "failed=-1",
            "p99",
            "p98=1s",
            "p99=0s",
            "p99=fast",
            "failed=1,",
            &many,
        ] {
            assert!(text.parse::<AbortRules>().is_err(), "{text}");
        }
        for (text, lasts) in [("1s", 1), ("30s", 30), ("1h", 3_600)] {
            assert_eq!(parse_lasts(text).unwrap().as_secs(), lasts);
        }
        for text in ["", "0s", "999ms", "61m", "30"] {
            assert!(parse_lasts(text).is_err(), "{text}");
        }
    }
}
