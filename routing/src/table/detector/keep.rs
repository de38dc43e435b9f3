//! The way back: one worker keeps what is down, asks it until it answers, lets single real requests judge it, and
//! gives it its share again over time.
//!
//! The keeper is on the board with a lease that every step renews. Whoever finds the lease over takes the place, so
//! that a worker that dies leaves nothing down for ever. A scope that goes down again while it ramps up, or soon after,
//! is held off: 0.1 s, doubled each time up to 10 s, forgotten after 10 s of health.

use std::time::Duration;

use super::events::Site;
use super::inquiry::SUSPECT_MAX;
use super::probes::{Ask, InFlight, Purpose};
use super::{Detector, Live};
use crate::health::action::{Evidence, ProbeResult};
use crate::health::board::{Keeper, Subject};
use crate::health::endpoint::Outcome;
use crate::health::state::{Reason, Signal, State};
use crate::id::BackendId;
use crate::table::EndpointKey;
use crate::table::live::Life;
use crate::time::MonoTime;

/// Suspicions and verdicts that one worker knows of. Beyond it an endpoint is only ejected by failures in a row.
pub(super) const KEEPS_MAX: usize = 1024;

/// Between two probes of what is down: the first value, doubled up to the second, and after [`FRESH`] up to the third.
const INTERVAL: [Duration; 3] =
    [Duration::from_millis(10), Duration::from_millis(50), Duration::from_secs(1)];

/// As long as something has been down for less than this it is asked every 50 ms: most failures are short, and
/// whoever waits for their end wants to know.
const FRESH: Duration = Duration::from_secs(60);

/// Probes in a row that must be answered.
const GOOD_PROBES: u32 = 3;

/// Real requests in a row that must be answered well.
const GOOD_TRIALS: u8 = 5;

/// Between two single requests: while they fail, and while they are answered well.
const TRIAL_INTERVAL: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(5)];

/// On probation without a bad answer for this long, and without enough requests that may be repeated: the ramp judges.
/// The second of what had answered badly, however green its probes were, where requests come that must not be repeated and
/// no others: the ramp asks with those, and they are lost if nothing has changed.
const PROBATION_MAX: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(10)];

/// A keeper that has not renewed its place for this long is gone.
const LEASE: Duration = Duration::from_millis(500);

/// The longest hold-off, and how long health lasts until earlier failures are forgotten.
const HOLD_OFF: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(10)];

/// An ejected endpoint gets its first single request after this.
const EJECTED_REST: Duration = Duration::from_millis(50);

/// More is down than this: the probes of each become rarer in proportion.
const KEEPS_FAST: usize = 32;

/// What a worker does about something that is not healthy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Another worker keeps it.
    Watching,
    /// Suspected by this worker; the inquiry decides.
    Suspected,
    /// Down: asked until it answers.
    Returning(Reason),
    /// On probation, after this.
    Proving(Reason),
    /// Its share grows.
    Ramping,
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Keep {
    pub(super) subject: Subject,
    phase: Phase,
    since: MonoTime,
    pub(super) next_at: MonoTime,
    interval: Duration,
    rounds: u32,
    /// Probes of this round in flight, and whether one was answered.
    pending: u32,
    answered: bool,
    /// A whole round was not answered since it went down: what answers now is not what failed then.
    was_unheard: bool,
    /// Rounds in a row that were answered, and since when.
    good: u32,
    good_since: MonoTime,
    /// Real requests in a row, and when the next may go, where the board has no room for it.
    trials: u8,
    next_trial: MonoTime,
    /// On probation: a request would have found out, but must not be repeated.
    is_declined: bool,
}

impl Keep {
    pub(super) fn new(subject: Subject, phase: Phase, now: MonoTime) -> Self {
        let first = match phase {
            Phase::Watching => LEASE * 2,
            Phase::Suspected => LEASE / 5,
            Phase::Returning(_) => INTERVAL[0],
            Phase::Proving(_) | Phase::Ramping => Duration::ZERO,
        };
        Self {
            subject,
            phase,
            since: now,
            next_at: now + first,
            interval: INTERVAL[0],
            rounds: 0,
            pending: 0,
            answered: false,
            was_unheard: false,
            good: 0,
            good_since: now,
            trials: 0,
            next_trial: now,
            is_declined: false,
        }
    }
}

/// How long something that went down `times` times in a row stays so at least.
fn hold_off(times: u8) -> Duration {
    match times {
        0 | 1 => Duration::ZERO,
        times => HOLD_OFF[0].saturating_mul(1 << u32::from(times - 2).min(16)).min(HOLD_OFF[1]),
    }
}

impl Detector {
    /// This worker changed a state: it keeps what follows. Returns how often it went down in a row.
    pub(super) fn claim(
        &mut self,
        subject: Subject,
        from: State,
        to: State,
        local: bool,
        now: MonoTime,
    ) -> u8 {
        if local {
            return 1;
        }
        let old = self.board.keeper(subject).unwrap_or_default();
        let was_well = match from {
            State::Healthy | State::Suspect => true,
            State::Down(_) | State::Probation | State::Ramp => false,
        };
        let forgotten = was_well && now.since(self.board.streak(subject)) > HOLD_OFF[1];
        let before = if forgotten { 0 } else { old.times };
        let times = match to {
            State::Down(_) => match from {
                State::Down(_) => before,
                State::Healthy | State::Suspect | State::Probation | State::Ramp => before.saturating_add(1),
            },
            State::Healthy | State::Suspect | State::Probation | State::Ramp => before,
        };
        self.board.replace_keeper(subject, old, Keeper { worker: self.worker, until: now + LEASE, times });
        match (from, to) {
            (_, State::Probation) => {
                let trial = self.board.trial(subject).unwrap_or_default();
                self.board.replace_trial(subject, trial, (now, 0));
                self.board.set_streak(subject, now);
            }
            (State::Ramp, State::Healthy) => self.board.set_streak(subject, now),
            (_, State::Healthy | State::Suspect | State::Down(_) | State::Ramp) => {}
        }
        times
    }

    /// Renews the lease until `until`. `false`: another worker has taken the place.
    fn renew(&self, subject: Subject, until: MonoTime) -> bool {
        let Some(old) = self.board.keeper(subject) else { return true };
        old.worker == self.worker
            && self.board.replace_keeper(subject, old, Keeper { until: until + LEASE, ..old })
    }

    /// Why something is on probation that was down for `reason`: was nobody there meanwhile, that is why.
    pub(super) fn reason_of_probation(&self, subject: Subject, reason: Option<Reason>) -> Reason {
        let keep = self.keeps.iter().find(|keep| keep.subject == subject);
        match reason {
            Some(Reason::Errors | Reason::Slow) if keep.is_some_and(|keep| keep.was_unheard) => {
                Reason::Refused
            }
            Some(reason) => reason,
            None => Reason::Errors,
        }
    }

    /// A request could have found out whether something on probation is well, were it not for its method.
    pub(crate) fn decline(&mut self, subject: Subject) {
        if let Some(keep) = self.keeps.iter_mut().find(|keep| keep.subject == subject) {
            keep.is_declined = true;
        }
    }

    /// Is it this worker's turn to send a single request there?
    pub(crate) fn may_try(&mut self, subject: Subject, local: bool, now: MonoTime) -> bool {
        let interval = |good: u8| TRIAL_INTERVAL[usize::from(good > 0)];
        if local {
            let keep = self.keeps.iter_mut().find(|keep| keep.subject == subject);
            return keep.is_some_and(|keep| {
                let is_due = now >= keep.next_trial;
                if is_due {
                    keep.next_trial = now + interval(keep.trials);
                }
                is_due
            });
        }
        let Some((next, good)) = self.board.trial(subject) else { return false };
        now >= next && self.board.replace_trial(subject, (next, good), (now + interval(good), good))
    }
}

impl Live {
    pub(super) fn tend_all(&mut self, now: MonoTime) {
        let mut at = 0;
        while let Some(keep) = self.detector.keeps.get(at) {
            let subject = keep.subject;
            if keep.next_at <= now {
                self.tend(at, now);
            }
            if self.detector.keeps.get(at).is_some_and(|keep| keep.subject == subject) {
                at += 1;
            }
        }
    }

    fn tend(&mut self, at: usize, now: MonoTime) {
        let keep = &self.detector.keeps[at];
        let (subject, phase) = (keep.subject, keep.phase);
        let Some(verdict) = self.verdict(subject) else {
            self.detector.keeps.remove(at);
            return;
        };
        if !verdict.local && phase != Phase::Watching && !self.detector.renew(subject, now + INTERVAL[2]) {
            let keep = &mut self.detector.keeps[at];
            (keep.phase, keep.next_at) = (Phase::Watching, now + LEASE);
            return;
        }
        match phase {
            Phase::Watching => self.watch(at, now),
            Phase::Suspected => self.tend_suspected(at, now),
            Phase::Returning(reason) => self.tend_returning(at, reason, now),
            Phase::Proving(reason) => self.tend_proving(at, reason, now),
            Phase::Ramping => {
                let ends = verdict.word.since() + self.failback(subject).ramp;
                // Not later than the lease lasts.
                self.detector.keeps[at].next_at = ends.clamp(now + INTERVAL[0], now + INTERVAL[2]);
                if now >= ends {
                    self.signal(subject, Signal::Ramped, Evidence::default(), now);
                }
            }
        }
    }

    /// Another worker keeps it, or does it?
    fn watch(&mut self, at: usize, now: MonoTime) {
        let keep = &mut self.detector.keeps[at];
        let subject = keep.subject;
        let Some(keeper) = self.detector.board.keeper(subject) else { return };
        if now < keeper.until + LEASE {
            keep.next_at = keeper.until + LEASE * 2;
            return;
        }
        let worker = self.detector.worker;
        let own = Keeper { worker, until: now + LEASE, ..keeper };
        if !self.detector.board.replace_keeper(subject, keeper, own) {
            keep.next_at = now + LEASE;
            return;
        }
        let phase = match self.state(subject) {
            State::Suspect | State::Healthy => Phase::Suspected,
            State::Down(reason) => Phase::Returning(reason),
            // What had been wrong is not known here: the worst.
            State::Probation => Phase::Proving(Reason::Errors),
            State::Ramp => Phase::Ramping,
        };
        let keep = &mut self.detector.keeps[at];
        (keep.phase, keep.since, keep.next_at) = (phase, now, now);
    }

    fn tend_suspected(&mut self, at: usize, now: MonoTime) {
        let keep = &mut self.detector.keeps[at];
        keep.next_at = now + LEASE / 5;
        let (subject, since) = (keep.subject, keep.since);
        if now.since(since) > SUSPECT_MAX + LEASE {
            // Its inquiry found no room, or nobody to ask: traffic will show.
            let evidence = self.evidence(subject, now);
            self.signal(subject, Signal::Trusted, evidence, now);
        } else if !self.is_pursued(subject) {
            self.inquire(subject, since, now);
        }
    }

    // ------------------------------------------------------------ down

    fn tend_returning(&mut self, at: usize, reason: Reason, now: MonoTime) {
        let down = self.detector.keeps.len();
        let keep = &mut self.detector.keeps[at];
        let subject = keep.subject;
        if keep.pending > 0 {
            keep.next_at = now + INTERVAL[0];
            return;
        }
        if keep.good >= self.good_wanted(subject, reason) {
            let keep = &self.detector.keeps[at];
            let held = keep.since + hold_off(self.times(subject));
            let ready = held.max(keep.good_since + self.failback(subject).delay);
            if now >= ready {
                let evidence = self.evidence(subject, now);
                self.signal(subject, Signal::Returned, evidence, now);
                return;
            }
        }
        let crowd = u32::try_from(down / KEEPS_FAST).unwrap_or(u32::MAX).max(1);
        let keep = &mut self.detector.keeps[at];
        keep.next_at = now + keep.interval * crowd;
        (keep.pending, keep.answered) = (0, false);
        keep.rounds = keep.rounds.wrapping_add(1);
        let round = keep.rounds / 4;
        let slots = self.to_ask(subject, round);
        for slot in slots.into_iter().flatten() {
            let ask = match reason {
                Reason::Refused | Reason::Silent => Ask::Connect,
                Reason::Hang | Reason::Errors | Reason::Slow => Ask::App,
                Reason::Check => self.check_ask(slot),
            };
            if self.probe(slot, ask, subject, Purpose::Keep, now) {
                self.detector.keeps[at].pending += 1;
            }
        }
    }

    pub(super) fn times(&self, subject: Subject) -> u8 {
        if self.state(subject) == State::Healthy {
            return 0;
        }
        if self.verdict(subject).is_none_or(|verdict| verdict.local) {
            return 1;
        }
        self.detector.board.keeper(subject).map_or(1, |keeper| keeper.times)
    }

    /// Probes in a row that bring it back: an active check has its own threshold.
    fn good_wanted(&self, subject: Subject, reason: Reason) -> u32 {
        let Subject::Endpoint(id) = subject else { return GOOD_PROBES };
        let slot = self.slot_of(id).map(|slot| &self.slots[slot as usize]);
        let spec = slot.and_then(|slot| self.spec_of(slot));
        match (reason, spec.and_then(|spec| spec.detection.check.as_ref())) {
            (Reason::Check, Some(check)) => check.healthy_threshold.max(1),
            (Reason::Check, None) => 0,
            (Reason::Refused | Reason::Silent | Reason::Hang | Reason::Errors | Reason::Slow, _) => {
                GOOD_PROBES
            }
        }
    }

    pub(super) fn answer_keep(&mut self, probe: &InFlight, result: ProbeResult, now: MonoTime) {
        let keeps = &mut self.detector.keeps;
        let Some(keep) = keeps.iter_mut().find(|keep| keep.subject == probe.subject) else { return };
        let is_returning = match keep.phase {
            Phase::Returning(_) => true,
            Phase::Watching | Phase::Suspected | Phase::Proving(_) | Phase::Ramping => false,
        };
        if !is_returning || keep.pending == 0 {
            return;
        }
        keep.pending -= 1;
        keep.answered |= match result {
            ProbeResult::Answered { .. } => true,
            ProbeResult::Refused | ProbeResult::TimedOut | ProbeResult::BadStatus(_) => false,
        };
        if keep.pending > 0 {
            return;
        }
        if keep.answered {
            if keep.good == 0 {
                keep.good_since = now;
            }
            keep.good += 1;
            keep.interval = INTERVAL[0];
            keep.next_at = keep.next_at.min(now + INTERVAL[0]);
        } else {
            let longest = if now.since(keep.since) < FRESH { INTERVAL[1] } else { INTERVAL[2] };
            (keep.good, keep.was_unheard) = (0, true);
            keep.interval = (keep.interval * 2).min(longest);
        }
    }

    // ------------------------------------------------------------ probation

    fn tend_proving(&mut self, at: usize, reason: Reason, now: MonoTime) {
        self.detector.keeps[at].next_at = now + INTERVAL[1];
        let subject = self.detector.keeps[at].subject;
        let bad_at = self.detector.board.streak(subject).max(self.detector.keeps[at].since);
        let ([unheard, answered_badly], is_declined) = (PROBATION_MAX, self.detector.keeps[at].is_declined);
        let longest = match reason {
            Reason::Refused | Reason::Silent | Reason::Hang | Reason::Check => unheard,
            Reason::Errors | Reason::Slow if is_declined && self.good_trials(subject) == 0 => answered_badly,
            Reason::Errors | Reason::Slow => unheard,
        };
        if now.since(bad_at) >= longest {
            let evidence = self.evidence(subject, now);
            self.signal(subject, Signal::Trusted, evidence, now);
        }
    }

    /// Real requests in a row that something on probation has answered well.
    fn good_trials(&self, subject: Subject) -> u8 {
        let own = || self.detector.keeps.iter().find(|keep| keep.subject == subject).map(|keep| keep.trials);
        match self.verdict(subject) {
            Some(verdict) if !verdict.local => self.detector.board.trial(subject).map(|(_, good)| good),
            Some(_) | None => own(),
        }
        .unwrap_or_default()
    }

    /// An attempt ended: does it count for something on probation?
    pub(super) fn credit(&mut self, site: Site, outcome: Outcome, latency: Option<Duration>, now: MonoTime) {
        let slot = &self.slots[site.slot as usize];
        let is_tried = !self.detector.probation.is_empty() || !self.detector.ejected.is_empty();
        if !is_tried || slot.life != Life::Live {
            return;
        }
        let sent = latency.map_or(now, |latency| now - latency);
        let flow = site.part.map(|at| &self.detector.parts[at as usize].flow);
        let in_time = latency.is_none_or(|latency| flow.is_none_or(|flow| flow.is_good(latency)));
        let is_good = match outcome {
            Outcome::Success => in_time,
            // Unanswered when the other of the tied pair was answered: only telling when it was late already.
            Outcome::Abandoned if in_time => return,
            Outcome::Abandoned
            | Outcome::Refused
            | Outcome::ConnectFailed
            | Outcome::Closed
            | Outcome::Timeout
            | Outcome::ServerError(_)
            | Outcome::Unlisted(_) => false,
        };
        let subjects = [
            Subject::Endpoint(slot.id),
            Subject::Backend(slot.backend, slot.cluster),
            Subject::Cluster(slot.cluster),
        ];
        if !self.detector.ejected.is_empty() {
            self.credit_ejected(site.slot, is_good, sent);
        }
        for subject in subjects {
            let Some(verdict) = self.verdict(subject) else { continue };
            // What was sent before says nothing about now.
            if verdict.state() == State::Probation && sent >= verdict.word.since() {
                self.credit_one(subject, verdict.local, is_good, sent, now);
            }
        }
    }

    /// An endpoint was ejected by failures in a row. Single requests may end that early: nobody else asks it.
    pub(crate) fn detector_ejected(&mut self, key: EndpointKey, now: MonoTime) {
        let pulse = self.use_pulse(key.slot);
        (pulse.trials, pulse.next_trial, pulse.ejected) = (0, now + EJECTED_REST, now);
        let ejected = &mut self.detector.ejected;
        if ejected.len() < KEEPS_MAX && !ejected.contains(&key) {
            ejected.push(key);
        }
    }

    /// An ejected endpoint of `backend` that a single request may be sent to now. Looks at a few of them.
    pub(crate) fn ejected_to_try(&mut self, backend: BackendId, turn: usize, now: MonoTime) -> Option<u32> {
        /// Of all that are ejected.
        const LOOKS: usize = 8;
        for nth in 0..LOOKS.min(self.detector.ejected.len()) {
            let at = (turn + nth) % self.detector.ejected.len();
            let key = self.detector.ejected[at];
            let slot = self.slot(key).filter(|slot| slot.life == Life::Live && slot.health.is_ejected());
            let Some(slot) = slot else {
                self.detector.ejected.swap_remove(at);
                return None;
            };
            if slot.backend == backend
                && slot.state == State::Healthy
                && now >= self.pulse(key.slot).next_trial
            {
                let pulse = self.use_pulse(key.slot);
                pulse.next_trial = now + TRIAL_INTERVAL[usize::from(pulse.trials > 0)];
                return Some(key.slot);
            }
        }
        None
    }

    fn credit_ejected(&mut self, slot: u32, is_good: bool, sent: MonoTime) {
        let entry = &self.slots[slot as usize];
        let is_ejected = entry.health.is_ejected() && entry.state == State::Healthy;
        let key = self.key(slot);
        let pulse = self.use_pulse(slot);
        if !is_ejected || sent <= pulse.ejected {
            return;
        }
        pulse.trials = if is_good { pulse.trials.saturating_add(1) } else { 0 };
        if pulse.trials >= GOOD_TRIALS {
            self.restore_early(key);
        }
    }

    fn credit_one(&mut self, subject: Subject, local: bool, is_good: bool, sent: MonoTime, now: MonoTime) {
        let board = &self.detector.board;
        let (next, before) = if local {
            let keep = self.detector.keeps.iter().find(|keep| keep.subject == subject);
            keep.map_or((now, 0), |keep| (keep.next_trial, keep.trials))
        } else {
            board.trial(subject).unwrap_or_default()
        };
        // Sent before the first of those that were answered well: it was slow then, and is not now.
        if !is_good && before > 0 && !local && sent < board.streak(subject) {
            return;
        }
        let good = if is_good { before.saturating_add(1) } else { 0 };
        if local {
            if let Some(keep) = self.detector.keeps.iter_mut().find(|keep| keep.subject == subject) {
                keep.trials = good;
            }
        } else {
            board.replace_trial(subject, (next, before), (next, good));
            match (is_good, before) {
                (true, 0) => board.set_streak(subject, sent),
                (true, _) => {}
                (false, _) => board.set_streak(subject, now),
            }
        }
        if good >= GOOD_TRIALS {
            let evidence = self.evidence(subject, now);
            self.signal(subject, Signal::Trusted, evidence, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hold_off_doubles_from_a_tenth_of_a_second_to_ten() {
        let lasts: Vec<u128> = (0..12).map(|times| hold_off(times).as_millis()).collect();
        assert_eq!(lasts, [0, 0, 100, 200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000, 10_000]);
        assert_eq!(hold_off(u8::MAX), HOLD_OFF[1]);
    }
}
