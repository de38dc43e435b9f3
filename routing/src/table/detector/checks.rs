//! Active checks: every endpoint of a backend that asks for it, spread over time and over the workers.
//!
//! An endpoint belongs to the worker that its id names. It starts as "unknown, keep"; `unhealthy_threshold` failures in
//! a row take it out, `healthy_threshold` successes let traffic try it again, and only traffic trusts it. Checks beyond
//! the bound of probes in flight come late; they are never all made at once.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use super::Live;
use super::probes::{Ask, InFlight, Purpose};
use crate::health::action::{Evidence, ProbeResult};
use crate::health::board::Subject;
use crate::health::state::{Reason, Signal};
use crate::model::CheckProbe;
use crate::table::EndpointKey;
use crate::table::live::Life;
use crate::time::MonoTime;

/// Checks are this far apart at least, whatever the policy says.
const INTERVAL_MIN: Duration = Duration::from_millis(10);

/// A check that found no room is tried again after this.
const AGAIN: Duration = Duration::from_millis(5);

/// Checks that one tick starts.
const STARTS_MAX: usize = 64;

/// When each endpoint of this worker is checked next.
#[derive(Debug, Default)]
pub(super) struct Checks {
    due: BinaryHeap<Reverse<(MonoTime, EndpointKey)>>,
}

impl Checks {
    pub(super) fn next_due(&self) -> Option<MonoTime> {
        self.due.peek().map(|Reverse((due, _))| *due)
    }
}

impl Live {
    /// An endpoint came, or its backend now asks for checks.
    pub(crate) fn plan_check(&mut self, slot: u32, now: MonoTime) {
        let entry = &self.slots[slot as usize];
        let Some(check) = self.spec_of(entry).and_then(|spec| spec.detection.check.as_ref()) else { return };
        if entry.id.0 % u32::from(self.detector.workers) != u32::from(self.detector.worker)
            || self.pulse(slot).is_checked
        {
            return;
        }
        let interval = check.interval.max(INTERVAL_MIN);
        // Evenly over the interval by the endpoint's number, wherever a batch of them begins.
        let share = crate::balance::hash::finish(u64::from(entry.id.0)) >> 48;
        let first = interval.mul_f64(f64::from(u32::try_from(share).unwrap_or_default()) / 65_536.0);
        self.use_pulse(slot).is_checked = true;
        let key = self.key(slot);
        self.detector.checks.due.push(Reverse((now + first, key)));
    }

    pub(super) fn check_due(&mut self, now: MonoTime) {
        for _ in 0..STARTS_MAX {
            match self.detector.checks.due.peek() {
                Some(Reverse((due, _))) if *due <= now => {}
                Some(_) | None => return,
            }
            let Some(Reverse((_, key))) = self.detector.checks.due.pop() else { return };
            let Some(slot) = self.slot(key).filter(|slot| slot.life == Life::Live) else { continue };
            let (subject, spec) = (Subject::Endpoint(slot.id), self.spec_of(slot));
            let Some(check) = spec.and_then(|spec| spec.detection.check.clone()) else {
                self.use_pulse(key.slot).is_checked = false;
                continue;
            };
            let ask = ask_of(&check.probe);
            let sent = self.probe(key.slot, ask, subject, Purpose::Check, now);
            let next = now + if sent { check.interval.max(INTERVAL_MIN) } else { AGAIN };
            self.detector.checks.due.push(Reverse((next, key)));
        }
    }

    /// What the active check of an endpoint asks.
    pub(super) fn check_ask(&self, slot: u32) -> Ask {
        let check = self.spec_of(&self.slots[slot as usize]).and_then(|spec| spec.detection.check.as_ref());
        check.map_or(Ask::App, |check| ask_of(&check.probe))
    }

    pub(super) fn answer_check(&mut self, probe: &InFlight, result: ProbeResult, now: MonoTime) {
        let Some(slot) = self.slot(probe.endpoint).filter(|slot| slot.life == Life::Live) else { return };
        let Some(check) = self.spec_of(slot).and_then(|spec| spec.detection.check.clone()) else { return };
        let is_good = match result {
            ProbeResult::Answered { .. } => true,
            ProbeResult::Refused | ProbeResult::BadStatus(_) => false,
            ProbeResult::TimedOut => {
                // We slept through part of it: that is no answer.
                if self.detector.lags.awake(probe.sent, now) < probe.timeout {
                    return;
                }
                false
            }
        };
        let pulse = self.use_pulse(probe.endpoint.slot);
        if is_good {
            pulse.check_failed = 0;
            return;
        }
        pulse.check_failed = pulse.check_failed.saturating_add(1);
        if u32::from(pulse.check_failed) >= check.unhealthy_threshold.max(1) {
            let evidence = Evidence { probe: Some(result), ..self.evidence(probe.subject, now) };
            self.signal(probe.subject, Signal::Proof(Reason::Check), evidence, now);
        }
    }
}

fn ask_of(probe: &CheckProbe) -> Ask {
    match probe {
        CheckProbe::Http { .. } | CheckProbe::Grpc { .. } => Ask::App,
        CheckProbe::Tcp => Ask::Connect,
    }
}
