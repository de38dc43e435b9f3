//! The health of one endpoint, by the outcomes of the attempts sent to it.
//!
//! ```text
//! Healthy --consecutive failures--> Ejected --deadline--> Probation --success--> Healthy
//!                                      ^-------failure-------'  (twice as long)
//! ```
//!
//! Pure: time goes in, the next state comes out. The table keeps the states and asks [`Health::at`] when a
//! deadline has passed; nothing here sets a timer.

use std::fmt;
use std::time::Duration;

use crate::model::{GrpcCode, OutlierPolicy, RetryPolicy};
use crate::time::MonoTime;

/// What an endpoint's last attempts say about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Takes requests.
    Healthy {
        /// Failures in a row, fewer than the policy's bound.
        failures: u32,
    },
    /// Takes no requests while another endpoint can.
    Ejected {
        /// When it is tried again.
        until: MonoTime,
        /// Ejections in a row, this one included.
        times: u32,
    },
    /// Takes requests again; the next failure ejects it for longer.
    Probation {
        /// Ejections in a row.
        times: u32,
    },
}

impl Default for Health {
    fn default() -> Self {
        Self::Healthy { failures: 0 }
    }
}

/// How one attempt ended, as far as the endpoint is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It answered: any status that is not reported as [`Outcome::ServerError`] or [`Outcome::Unlisted`].
    Success,
    /// Nobody listens: the connect was refused or reset at once. Takes the endpoint out by itself.
    Refused,
    /// No connection: unreachable, or not within `timeouts.connect`.
    ConnectFailed,
    /// The connection was reset or closed before the response was complete.
    Closed,
    /// No response head within `timeouts.attempt`.
    Timeout,
    /// It answered with a status that the rule's `retry.statuses` lists, or with a code of `retry.grpcCodes`; see
    /// [`Outcome::of_status`], [`Outcome::of_grpc`].
    ServerError(u16),
    /// It answered with a 5xx status that the rule's `retry.statuses` does not list: counts in the error ratio
    /// ([`Detection::errors`](crate::model::Detection::errors)), not towards ejection.
    Unlisted(u16),
    /// We let go of it unanswered: another attempt was faster, or the client left. Nobody is to blame.
    Abandoned,
}

impl Outcome {
    /// The outcome of a complete response head with this status.
    #[must_use]
    pub fn of_status(status: u16, retry: &RetryPolicy) -> Self {
        match status {
            _ if retry.statuses.contains(&status) => Self::ServerError(status),
            // Not implemented, version not supported: about the request, not about who got it.
            501 | 505 => Self::Success,
            500..=599 => Self::Unlisted(status),
            _ => Self::Success,
        }
    }

    /// The outcome of a response of gRPC that says nothing but this code: what its counterpart in HTTP says.
    ///
    /// A code that the rule's `retry.grpcCodes` does not list is about the call, except UNAVAILABLE: that one is about
    /// who got it, as 503 is.
    #[must_use]
    pub fn of_grpc(code: GrpcCode, retry: &RetryPolicy) -> Self {
        match code {
            _ if retry.grpc.contains(code) => Self::ServerError(code.http_status()),
            GrpcCode::UNAVAILABLE => Self::Unlisted(code.http_status()),
            _ => Self::Success,
        }
    }

    fn verdict(self) -> Verdict {
        match self {
            Self::Success | Self::Unlisted(_) => Verdict::Good,
            Self::Abandoned => Verdict::None,
            Self::Refused | Self::ConnectFailed | Self::Closed | Self::Timeout | Self::ServerError(_) => {
                Verdict::Bad
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Verdict {
    Good,
    Bad,
    None,
}

impl Health {
    /// The state after an attempt ended with `outcome`.
    #[must_use]
    pub fn on_outcome(self, outcome: Outcome, now: MonoTime, policy: &OutlierPolicy) -> Self {
        let failures_max = u32::from(policy.consecutive_failures);
        match (self, outcome.verdict()) {
            (same, Verdict::None) => same,
            (Self::Healthy { .. }, Verdict::Good) => Self::Healthy { failures: 0 },
            (Self::Healthy { failures }, Verdict::Bad) if failures_max == 0 => {
                // Never ejected; the count still shows in the admin API.
                Self::Healthy { failures: failures.saturating_add(1) }
            }
            (Self::Healthy { failures }, Verdict::Bad) if failures.saturating_add(1) < failures_max => {
                Self::Healthy { failures: failures + 1 }
            }
            (Self::Healthy { .. }, Verdict::Bad) => {
                Self::Ejected { until: now + backoff(policy, 1), times: 1 }
            }
            (Self::Probation { .. }, Verdict::Good) => Self::Healthy { failures: 0 },
            // The policy of another rule may have ejected it; one that never ejects does not do it again.
            (Self::Probation { .. }, Verdict::Bad) if failures_max == 0 => Self::Healthy { failures: 1 },
            (Self::Probation { times }, Verdict::Bad) => {
                let times = times.saturating_add(1);
                Self::Ejected { until: now + backoff(policy, times), times }
            }
            // A request sent before the ejection says nothing about now; only the deadline leads out.
            (ejected @ Self::Ejected { .. }, Verdict::Good | Verdict::Bad) => ejected,
        }
    }

    /// The state at `now` when nothing happened: an ejection ends.
    #[must_use]
    pub fn at(self, now: MonoTime) -> Self {
        match self {
            Self::Ejected { until, times } if now >= until => Self::Probation { times },
            Self::Healthy { .. } | Self::Ejected { .. } | Self::Probation { .. } => self,
        }
    }

    /// Does this state keep requests away while another endpoint can take them?
    #[must_use]
    pub fn is_ejected(self) -> bool {
        match self {
            Self::Ejected { .. } => true,
            Self::Healthy { .. } | Self::Probation { .. } => false,
        }
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Healthy { failures: 0 } => f.write_str("healthy"),
            Self::Healthy { failures } => write!(f, "healthy, {failures} failures in a row"),
            Self::Ejected { times, .. } => write!(f, "ejected, {times} times in a row"),
            Self::Probation { times } => write!(f, "probation after {times} ejections"),
        }
    }
}

/// How long ejection number `times` lasts: `base`, doubled each time, at most `max`.
fn backoff(policy: &OutlierPolicy, times: u32) -> Duration {
    let factor = 1u32.checked_shl(times.saturating_sub(1)).unwrap_or(u32::MAX);
    policy.base.saturating_mul(factor).min(policy.max)
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: OutlierPolicy =
        OutlierPolicy { consecutive_failures: 3, base: Duration::from_secs(1), max: Duration::from_secs(30) };

    #[test]
    fn one_success_forgives_all_failures_in_a_row() {
        let health = Health::Healthy { failures: 2 };
        assert_eq!(
            health.on_outcome(Outcome::Success, MonoTime(5), &POLICY),
            Health::Healthy { failures: 0 }
        );
    }

    #[test]
    fn ejections_in_a_row_double_up_to_the_bound() {
        let mut health = Health::Healthy { failures: 2 };
        let mut lasted = Vec::new();
        for _ in 0..40 {
            let now = MonoTime(7);
            health = health.on_outcome(Outcome::Closed, now, &POLICY);
            let Health::Ejected { until, times } = health else { panic!("{health:?}") };
            lasted.push(until.since(now).as_secs());
            assert_eq!(health.at(MonoTime(until.0 - 1)), health);
            health = health.at(until);
            assert_eq!(health, Health::Probation { times });
        }
        assert_eq!(lasted[..7], [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(lasted[39], 30);
    }

    #[test]
    fn of_the_codes_of_grpc_those_listed_are_failures_and_unavailable_counts_in_the_ratio() {
        let retry = RetryPolicy {
            grpc: [GrpcCode::INTERNAL].into_iter().collect(),
            ..crate::model::Policy::default().retry
        };
        assert_eq!(Outcome::of_grpc(GrpcCode::INTERNAL, &retry), Outcome::ServerError(500));
        assert_eq!(Outcome::of_grpc(GrpcCode::UNAVAILABLE, &retry), Outcome::Unlisted(503));
        assert_eq!(Outcome::of_grpc(GrpcCode::RESOURCE_EXHAUSTED, &retry), Outcome::Success);
    }

    #[test]
    fn outcomes_of_before_the_ejection_change_nothing() {
        let ejected = Health::Ejected { until: MonoTime(100), times: 2 };
        for outcome in [Outcome::Success, Outcome::Closed, Outcome::Timeout, Outcome::ServerError(503)] {
            assert_eq!(ejected.on_outcome(outcome, MonoTime(50), &POLICY), ejected);
        }
    }

    #[test]
    fn policy_of_zero_failures_never_ejects() {
        let never = OutlierPolicy { consecutive_failures: 0, ..POLICY };
        let mut health = Health::default();
        for _ in 0..1_000 {
            health = health.on_outcome(Outcome::ConnectFailed, MonoTime(1), &never);
        }
        assert!(!health.is_ejected());
        let probation = Health::Probation { times: 3 };
        assert!(!probation.on_outcome(Outcome::Closed, MonoTime(1), &never).is_ejected());
    }

    #[test]
    fn only_listed_statuses_are_failures() {
        let retry = RetryPolicy { statuses: [503].into(), ..crate::model::Policy::default().retry };
        assert_eq!(Outcome::of_status(503, &retry), Outcome::ServerError(503));
        assert_eq!(Outcome::of_status(500, &retry), Outcome::Unlisted(500));
        assert_eq!(Outcome::of_status(501, &retry), Outcome::Success);
        assert_eq!(Outcome::of_status(429, &retry), Outcome::Success);
        let health = Health::Healthy { failures: 2 };
        let after = health.on_outcome(Outcome::Unlisted(500), MonoTime(5), &POLICY);
        assert_eq!(after, Health::Healthy { failures: 0 });
        assert_eq!(health.on_outcome(Outcome::Abandoned, MonoTime(5), &POLICY), health);
    }
}
