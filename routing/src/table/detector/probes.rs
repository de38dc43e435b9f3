//! Probes in flight and actions that wait to be drained. Both bounded and allocated once.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use crate::health::action::{Action, Probe, ProbeKind, ProbeToken, Scope};
use crate::health::board::Subject;
use crate::health::evidence::Lags;
use crate::model::{CheckProbe, HealthCheck};
use crate::table::EndpointKey;
use crate::table::live::Live;
use crate::time::MonoTime;

/// Probes of one worker in flight at once, active checks included.
pub(crate) const PROBES_MAX: usize = 256;

/// Of those, active checks.
pub(crate) const CHECKS_MAX: usize = 192;

/// Actions that wait. Beyond that wakes become one wake of everything, events are dropped and counted.
const ACTIONS_MAX: usize = 1024;

/// A probe whose result is this late is taken for unanswered: whoever sent it forgot it. Late by the time that this worker was
/// running: whoever sent it stood still with it, and still waits.
const FORGOTTEN: Duration = Duration::from_secs(1);

/// What a probe is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A suspicion: which of the two that are asked.
    Inquiry(usize),
    /// The way back.
    Keep,
    /// An active check.
    Check,
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// Does the host answer a connect?
    Connect,
    /// Does the application answer?
    App,
}

/// One probe in flight.
#[derive(Clone, Copy, Debug)]
pub(super) struct InFlight {
    pub(super) subject: Subject,
    pub(super) endpoint: EndpointKey,
    pub(super) purpose: Purpose,
    pub(super) ask: Ask,
    pub(super) sent: MonoTime,
    pub(super) timeout: Duration,
}

#[derive(Debug)]
pub(super) struct Probes {
    /// With the number of times that the place was used.
    places: Vec<(u32, Option<InFlight>)>,
    free: Vec<u32>,
    checks: usize,
}

impl Probes {
    pub(super) fn new() -> Self {
        let count = u32::try_from(PROBES_MAX).expect("a small constant");
        Self { places: vec![(0, None); PROBES_MAX], free: (0..count).rev().collect(), checks: 0 }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.free.len() == PROBES_MAX
    }

    fn has_room(&self, purpose: Purpose) -> bool {
        match purpose {
            Purpose::Inquiry(_) | Purpose::Keep => !self.free.is_empty(),
            Purpose::Check => !self.free.is_empty() && self.checks < CHECKS_MAX,
        }
    }

    fn begin(&mut self, probe: InFlight) -> Option<ProbeToken> {
        let at = self.free.pop()?;
        let (turn, place) = &mut self.places[at as usize];
        *place = Some(probe);
        self.checks += usize::from(probe.purpose == Purpose::Check);
        Some(ProbeToken(u64::from(*turn) << 32 | u64::from(at)))
    }

    pub(super) fn end(&mut self, token: ProbeToken) -> Option<InFlight> {
        let at = u32::try_from(token.0 & u64::from(u32::MAX)).ok()?;
        let (turn, place) = self.places.get_mut(at as usize)?;
        if u64::from(*turn) != token.0 >> 32 {
            return None;
        }
        let probe = place.take()?;
        *turn = turn.wrapping_add(1);
        self.free.push(at);
        self.checks -= usize::from(probe.purpose == Purpose::Check);
        Some(probe)
    }

    /// One whose result never came.
    pub(super) fn overdue(&self, lags: &Lags, now: MonoTime) -> Option<ProbeToken> {
        if self.is_idle() {
            return None;
        }
        let late = |probe: &InFlight| lags.awake(probe.sent, now) > probe.timeout + FORGOTTEN;
        let at = self.places.iter().position(|(_, place)| place.as_ref().is_some_and(late))?;
        Some(ProbeToken(u64::from(self.places[at].0) << 32 | at as u64))
    }

    /// When the first of them is overdue, if the worker runs on from `now`.
    pub(super) fn next_overdue(&self, lags: &Lags, now: MonoTime) -> Option<MonoTime> {
        if self.is_idle() {
            return None;
        }
        let due = |probe: &InFlight| {
            let asleep = now.since(probe.sent).saturating_sub(lags.awake(probe.sent, now));
            probe.sent + probe.timeout + FORGOTTEN + asleep
        };
        self.places.iter().filter_map(|(_, place)| place.as_ref().map(due)).min()
    }
}

/// See [`Action`].
#[derive(Debug)]
pub(crate) struct Actions {
    queue: VecDeque<Action>,
    ring: bool,
    wake_all: bool,
    pub(crate) lost: u64,
}

impl Actions {
    pub(super) fn new() -> Self {
        Self { queue: VecDeque::with_capacity(ACTIONS_MAX), ring: false, wake_all: false, lost: 0 }
    }

    pub(super) fn push(&mut self, action: Action) {
        if self.queue.len() < ACTIONS_MAX {
            self.queue.push_back(action);
            return;
        }
        match action {
            Action::Wake(_) => self.wake_all = true,
            Action::RingPeers => self.ring = true,
            Action::Probe(_) | Action::Event(_) => self.lost += 1,
        }
    }

    pub(super) fn ring(&mut self) {
        self.ring = true;
    }

    /// Peers first: they have requests in flight, too.
    pub(crate) fn next(&mut self) -> Option<Action> {
        if std::mem::take(&mut self.ring) {
            return Some(Action::RingPeers);
        }
        if std::mem::take(&mut self.wake_all) {
            return Some(Action::Wake(Scope::All));
        }
        self.queue.pop_front()
    }

    fn has_room(&self) -> bool {
        self.queue.len() < ACTIONS_MAX
    }
}

impl Live {
    /// Sends a probe, if there is room for one more.
    pub(super) fn probe(
        &mut self,
        slot: u32,
        ask: Ask,
        subject: Subject,
        purpose: Purpose,
        now: MonoTime,
    ) -> bool {
        if !self.detector.probes.has_room(purpose) || !self.detector.actions.has_room() {
            self.detector.overflows += 1;
            return false;
        }
        let endpoint = self.key(slot);
        let (addr, cluster) = (self.slots[slot as usize].addr, self.slots[slot as usize].cluster);
        let check = self.spec_of(&self.slots[slot as usize]).and_then(|spec| spec.detection.check.clone());
        let timeout = match (purpose, &check) {
            (Purpose::Check, Some(check)) => check.timeout,
            (Purpose::Check | Purpose::Inquiry(_), _) => self.detector.patience(cluster, ask),
            // Nobody waits for the way back: a slow answer is one, too.
            (Purpose::Keep, _) => self.detector.patience(cluster, ask).max(Duration::from_millis(20)),
        };
        let in_flight = InFlight { subject, endpoint, purpose, ask, sent: now, timeout };
        let Some(token) = self.detector.probes.begin(in_flight) else { return false };
        let kind = kind(ask, check.as_deref());
        let elsewhere = check.as_deref().and_then(|check| elsewhere(purpose, ask, check));
        let addr = elsewhere.map_or(addr, |port| SocketAddr::new(addr.ip(), port));
        self.detector.actions.push(Action::Probe(Probe { token, endpoint, addr, kind, timeout }));
        true
    }
}

fn kind(ask: Ask, check: Option<&HealthCheck>) -> ProbeKind {
    match (ask, check.map(|check| &check.probe)) {
        (Ask::Connect, _) => ProbeKind::Connect,
        (Ask::App, Some(CheckProbe::Http { path, host, asks })) => {
            ProbeKind::Http { path: path.clone(), host: host.clone(), asks: *asks }
        }
        (Ask::App, Some(CheckProbe::Grpc { service, host, good })) => {
            ProbeKind::Grpc { service: service.clone(), host: host.clone(), good: *good }
        }
        (Ask::App, Some(CheckProbe::Tcp) | None) => ProbeKind::Ping,
    }
}

/// The port of the check's own, where it is the check's question that is asked.
fn elsewhere(purpose: Purpose, ask: Ask, check: &HealthCheck) -> Option<u16> {
    match (ask, purpose, &check.probe) {
        (Ask::App, _, CheckProbe::Http { .. }) | (Ask::Connect, Purpose::Check, CheckProbe::Tcp) => {
            check.port
        }
        (Ask::App | Ask::Connect, _, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ClusterId;

    fn check() -> InFlight {
        InFlight {
            subject: Subject::Cluster(ClusterId(0)),
            endpoint: EndpointKey::default(),
            purpose: Purpose::Check,
            ask: Ask::App,
            sent: MonoTime::ZERO,
            timeout: Duration::from_millis(5),
        }
    }

    #[test]
    fn checks_leave_room_for_suspicions_and_a_token_is_good_once() {
        let mut probes = Probes::new();
        let mut first = None;
        while probes.has_room(Purpose::Check) {
            first = first.or(probes.begin(check()));
        }
        assert!(probes.has_room(Purpose::Inquiry(0)));
        let first = first.unwrap();
        assert!(probes.end(first).is_some());
        assert!(probes.end(first).is_none());
        assert!(probes.has_room(Purpose::Check));
        let lags = Lags::default();
        assert!(probes.overdue(&lags, MonoTime(1_004_000_000)).is_none());
        let late = probes.overdue(&lags, MonoTime(1_006_000_000)).unwrap();
        assert!(probes.end(late).is_some());
    }

    #[test]
    fn a_probe_is_not_given_up_for_the_time_that_we_stood_still() {
        let (mut probes, mut lags) = (Probes::new(), Lags::default());
        probes.begin(check()).unwrap();
        let after = |ms: u64| MonoTime(ms * 1_000_000);
        lags.note(after(1_502), Duration::from_millis(1_500));
        assert!(probes.overdue(&lags, after(1_502)).is_none(), "two milliseconds were ours");
        let due = probes.next_overdue(&lags, after(1_502)).unwrap();
        assert_eq!(due, after(2_505), "nobody is to look before that in vain");
        assert!(probes.overdue(&lags, due).is_none());
        assert!(probes.overdue(&lags, after(2_506)).is_some());
    }

    #[test]
    fn wakes_and_rings_are_merged_and_never_lost() {
        let mut actions = Actions::new();
        for id in 0..2_000 {
            actions.push(Action::Wake(Scope::Cluster(ClusterId(id))));
            actions.ring();
        }
        assert_eq!(actions.next(), Some(Action::RingPeers));
        assert_eq!(actions.next(), Some(Action::Wake(Scope::All)));
        let rest = std::iter::from_fn(|| actions.next()).count();
        assert_eq!((rest, actions.lost), (ACTIONS_MAX, 0));
    }
}
