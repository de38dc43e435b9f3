//! What the detector wants done: plain data, drained by the worker from
//! [`Table::next_action`](crate::table::Table::next_action).
//!
//! The detector decides and never acts: waking tasks, ringing other workers, opening sockets and writing logs are the
//! caller's.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::state::{Reason, State};
use crate::id::{BackendId, ClusterId};
use crate::model::{CheckCodes, HttpAsks};
use crate::table::EndpointKey;
use crate::time::MonoTime;

/// What a verdict is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Everything: more changed than could be queued one by one.
    All,
    /// A whole cluster.
    Cluster(ClusterId),
    /// One backend in one cluster.
    Backend(BackendId, ClusterId),
    /// One endpoint.
    Endpoint(EndpointKey),
}

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// This worker's attempts in flight inside the scope must ask
    /// [`Table::advise`](crate::table::Table::advise) again.
    Wake(Scope),
    /// Every other worker must call [`Table::look`](crate::table::Table::look): ring their eventfds.
    RingPeers,
    /// Ask an endpoint; the result comes back by [`Table::on_probe`](crate::table::Table::on_probe).
    Probe(Probe),
    /// For logs, metrics and the flight recorder.
    Event(Transition),
}

/// Names one probe until its result is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProbeToken(pub u64);

/// One probe, always on a connection of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Goes back with the result.
    pub token: ProbeToken,
    /// Whom to ask.
    pub endpoint: EndpointKey,
    /// Where.
    pub addr: SocketAddr,
    /// What to ask.
    pub kind: ProbeKind,
    /// How long the answer may take, the connect included.
    pub timeout: Duration,
}

/// What a probe asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeKind {
    /// A connect; accepted = answered.
    Connect,
    /// `OPTIONS *` (RFC 9110 §9.3.7) on a connection of its own; any byte = answered. Used where no check says what
    /// to ask.
    Ping,
    /// A request for `path`; a good status = answered, another = [`ProbeResult::BadStatus`].
    Http {
        /// Path and query.
        path: Arc<str>,
        /// `Host`; empty = the endpoint's address.
        host: Arc<str>,
        /// How it is asked, and what is good.
        asks: HttpAsks,
    },
    /// `grpc.health.v1.Health/Check` for `service` with `host` as the authority.
    Grpc {
        /// The service; empty = the whole server.
        service: Arc<str>,
        /// The authority; empty = the address.
        host: Arc<str>,
        /// Codes that are good.
        good: CheckCodes,
    },
}

/// How a probe ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeResult {
    /// As wished.
    Answered {
        /// From the first byte (SYN) sent to the answer.
        latency: Duration,
    },
    /// Refused, reset or unreachable: at once, not by silence.
    Refused,
    /// No answer within [`Probe::timeout`].
    TimedOut,
    /// It answered with this status.
    BadStatus(u16),
}

/// One change of state, with the evidence that led to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// Whose state.
    pub scope: Scope,
    /// Before.
    pub from: State,
    /// After.
    pub to: State,
    /// When.
    pub at: MonoTime,
    /// Since when `from` had held.
    pub since: MonoTime,
    /// Did this worker make the change, or read it from the board?
    pub origin: Origin,
    /// The numbers at that moment.
    pub evidence: Evidence,
}

/// Who changed a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// This worker: it reports to the controller and to the log.
    Own,
    /// Another one.
    Peer,
}

/// What was known when a state changed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Evidence {
    /// How long not one byte had come, own standstill subtracted.
    pub silence: Duration,
    /// −log10 of the probability of a gap of at least this length; 0 where the gaps are not known.
    pub phi: f32,
    /// Requests that waited for an answer, over all workers.
    pub outstanding: u32,
    /// How long the oldest of them had waited.
    pub oldest: Duration,
    /// Failures in the error window.
    pub errors: u32,
    /// Answers in the error window, failures included.
    pub answers: u32,
    /// Requests that should have been answered and wait, and their improbability: −log10, 0 where it is usual.
    pub overdue: (u32, f32),
    /// Hedges in the last 20 ms.
    pub hedges: u32,
    /// The latest probe's result.
    pub probe: Option<ProbeResult>,
    /// Times down in a row.
    pub times: u8,
}

/// Never NaN: written by the detector alone.
impl Eq for Evidence {}

/// What to do with an attempt in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Wait for it.
    Stay {
        /// Ask again then, if no [`Action::Wake`] came before; `None` = only when woken.
        again: Option<MonoTime>,
    },
    /// Start a second attempt beside it, if it may be repeated and
    /// [`Table::may_hedge`](crate::table::Table::may_hedge) grants it. Report it with
    /// [`Table::on_hedge`](crate::table::Table::on_hedge).
    Hedge {
        /// Why, for metrics.
        why: HedgeWhy,
        /// Ask again then, when it was not granted.
        again: MonoTime,
    },
    /// Nothing answers there: give it up and try elsewhere if it may be repeated. Costs no budget; the target's
    /// capacity is the bound.
    Leave {
        /// What is wrong there.
        reason: Reason,
    },
}

/// Why a second attempt is worth while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HedgeWhy {
    /// Its cluster, its backend there or its endpoint is suspected.
    Suspect,
    /// What it waits for is down but still answers: errors, slowness, a failing check.
    Down(Reason),
    /// It has waited longer than this endpoint's answers ever take, though nothing else is wrong: one connection
    /// stalls.
    Stalled,
    /// It has waited longer than the hedge delay (`hedge.mode: Always`).
    Delay,
}

impl HedgeWhy {
    /// A short name for logs and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Suspect => "suspect",
            Self::Down(reason) => reason.name(),
            Self::Stalled => "stalled",
            Self::Delay => "delay",
        }
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |duration: Duration| duration.as_secs_f64() * 1_000.0;
        write!(
            f,
            "silent {:.1} ms (phi {:.1}), {} outstanding, oldest {:.1} ms, {} overdue (phi {:.1}), {} errors of {}, {} hedges",
            ms(self.silence),
            self.phi,
            self.outstanding,
            ms(self.oldest),
            self.overdue.0,
            self.overdue.1,
            self.errors,
            self.answers,
            self.hedges
        )?;
        match self.probe {
            None => {}
            Some(ProbeResult::Answered { latency }) => {
                write!(f, ", probe answered in {:.1} ms", ms(latency))?
            }
            Some(ProbeResult::Refused) => f.write_str(", probe refused")?,
            Some(ProbeResult::TimedOut) => f.write_str(", probe not answered")?,
            Some(ProbeResult::BadStatus(status)) => write!(f, ", probe answered {status}")?,
        }
        match self.times {
            0 | 1 => Ok(()),
            times => write!(f, ", {times} times in a row"),
        }
    }
}
