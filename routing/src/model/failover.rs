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
    /// `GET path`; good is any status from 200 to 399.
    Http {
        /// Path and query.
        path: Arc<str>,
        /// `Host`; empty = the endpoint's address.
        host: Arc<str>,
    },
    /// `grpc.health.v1.Health/Check`; good is SERVING.
    Grpc {
        /// The service; empty = the whole server.
        service: Arc<str>,
        /// `:authority`; empty = the endpoint's address.
        host: Arc<str>,
    },
    /// A connect; good is that it is accepted.
    Tcp,
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
