//! The part of the model that says how failures are found, what follows them, and how traffic comes back.
//!
//! A rule's [`Policy`](super::Policy) holds what is decided for each request (hedging, spill, panic, the write
//! fence); a backend's [`Detection`] what is judged for all requests together.

use std::sync::Arc;
use std::time::Duration;

/// How the failures of a backend's endpoints are found, and how it comes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detection {
    /// Does its traffic count as evidence of its clusters' silence? Default true.
    pub silence: bool,
    /// When a cluster's part of this backend is judged by its errors.
    pub errors: ErrorRatio,
    /// How traffic comes back.
    pub failback: Failback,
    /// Active checks of each endpoint; `None` = traffic alone decides.
    pub check: Option<Arc<HealthCheck>>,
}

impl Default for Detection {
    fn default() -> Self {
        Self { silence: true, errors: ErrorRatio::default(), failback: Failback::default(), check: None }
    }
}

/// May an endpoint take requests? From Kubernetes (`EndpointSlice` conditions); health is another matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Condition {
    /// `ready`: takes requests.
    #[default]
    Ready,
    /// `serving` and `terminating`: takes requests only where no ready endpoint of the backend is left (KEP-1669).
    Terminating,
}

/// An error ratio over a sliding window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorRatio {
    /// Share of failures, 1–100; 0 = never judged. Default 50.
    pub percent: u8,
    /// Failures in the window below which nothing is judged. Default 5.
    pub minimum: u32,
    /// The window. Default 200 ms.
    pub window: Duration,
}

impl Default for ErrorRatio {
    fn default() -> Self {
        Self { percent: 50, minimum: 5, window: Duration::from_millis(200) }
    }
}

/// How traffic comes back after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failback {
    /// How long everything must be good before the first request returns. Default 0.
    pub delay: Duration,
    /// From nothing to its full share. Default 200 ms.
    pub ramp: Duration,
}

impl Default for Failback {
    fn default() -> Self {
        Self { delay: Duration::ZERO, ramp: Duration::from_millis(200) }
    }
}

/// An active check, made of every endpoint of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// What is asked.
    pub probe: CheckProbe,
    /// The port that is asked, where it is not the endpoint's own. Checks in gRPC have none.
    pub port: Option<u16>,
    /// Time between two checks of one endpoint, 10 ms or more. Default 1 s.
    pub interval: Duration,
    /// How long an answer may take. Default: the interval.
    pub timeout: Duration,
    /// Failures in a row that take an endpoint out. Default 2.
    pub unhealthy_threshold: u32,
    /// Successes in a row that let traffic try it again. Default 3.
    pub healthy_threshold: u32,
}

/// What a check asks an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckProbe {
    /// A request of HTTP.
    Http {
        /// Path and query.
        path: Arc<str>,
        /// `Host`; empty = the endpoint's address.
        host: Arc<str>,
        /// How it is asked, and what is a good answer.
        asks: HttpAsks,
    },
    /// `grpc.health.v1.Health/Check`; good is SERVING, or another code of `good`.
    Grpc {
        /// The service; empty = the whole server.
        service: Arc<str>,
        /// `:authority`; empty = the endpoint's address.
        host: Arc<str>,
        /// Codes that are good.
        good: CheckCodes,
    },
    /// A connect; good is that it is accepted.
    Tcp,
}

/// How a check of HTTP is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HttpAsks {
    /// Its method.
    pub method: CheckMethod,
    /// Its version, where it is not spoken over HTTP/2.
    pub version: CheckVersion,
    /// Statuses that are good.
    pub good: StatusClasses,
    /// Without TLS even where the backend is spoken to with it: for a port of the check's own.
    pub in_clear: bool,
}

/// The method of a check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CheckMethod {
    /// The default.
    #[default]
    Get,
    /// Without a body in the answer.
    Head,
}

impl CheckMethod {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
        }
    }
}

/// The version of a check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CheckVersion {
    /// The default.
    #[default]
    Http11,
    /// For servers of old.
    Http10,
}

impl CheckVersion {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http11 => "HTTP/1.1",
            Self::Http10 => "HTTP/1.0",
        }
    }
}

/// A set of classes of statuses: 1 to 5, for 1xx to 5xx. Default: 2 and 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusClasses(u8);

impl Default for StatusClasses {
    fn default() -> Self {
        [2, 3].into_iter().collect()
    }
}

impl StatusClasses {
    /// Is the status of one of them?
    #[must_use]
    pub fn contains(self, status: u16) -> bool {
        (100..600).contains(&status) && self.0 >> (status / 100) & 1 != 0
    }

    /// Those in it, in order.
    pub fn iter(self) -> impl Iterator<Item = u8> {
        (1..=5).filter(move |class| self.0 >> class & 1 != 0)
    }
}

impl FromIterator<u8> for StatusClasses {
    fn from_iter<I: IntoIterator<Item = u8>>(classes: I) -> Self {
        let known = classes.into_iter().filter(|class| (1..=5).contains(class));
        Self(known.fold(0, |set, class| set | 1 << class))
    }
}

/// Codes of gRPC that are a good answer to a check, from 0 to 99. Default: 0 alone, and that with SERVING.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckCodes(u128);

/// The largest code of a check.
pub const CHECK_CODE_MAX: u8 = 99;

impl Default for CheckCodes {
    fn default() -> Self {
        Self(1)
    }
}

impl CheckCodes {
    /// Is the code one of them?
    #[must_use]
    pub fn contains(self, code: u8) -> bool {
        code <= CHECK_CODE_MAX && self.0 >> code & 1 != 0
    }
}

impl FromIterator<u8> for CheckCodes {
    fn from_iter<I: IntoIterator<Item = u8>>(codes: I) -> Self {
        let known = codes.into_iter().filter(|code| *code <= CHECK_CODE_MAX);
        Self(known.fold(0, |set, code| set | 1 << code))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_a_check_hold_what_was_put_in() {
        let good = StatusClasses::default();
        for (status, is_good) in
            [(199, false), (200, true), (399, true), (400, false), (0, false), (999, false)]
        {
            assert_eq!(good.contains(status), is_good, "{status}");
        }
        let four: StatusClasses = [4, 9, 0].into_iter().collect();
        assert_eq!((four.contains(404), four.contains(200)), (true, false));
        assert_eq!(four.iter().collect::<Vec<_>>(), [4]);
        let codes: CheckCodes = [0, 12, 99, 100].into_iter().collect();
        assert!([0, 12, 99].iter().all(|code| codes.contains(*code)));
        assert!(![1, 98, 100, 255].iter().any(|code| codes.contains(*code)));
        assert!(CheckCodes::default().contains(0) && !CheckCodes::default().contains(1));
    }
}

/// When a second attempt is made before the first has failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum HedgeMode {
    /// Never.
    Disabled,
    /// Only while something is suspected. The default.
    #[default]
    Suspect,
    /// Against the tail, too.
    Always,
}

/// May requests whose method is not safe follow a failover to a standby?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WriteFence {
    /// They follow at once. The default.
    #[default]
    Disabled,
    /// They are answered 503 with Retry-After until the standby is promoted.
    UntilPromoted,
}
