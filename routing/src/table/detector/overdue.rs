//! Who should have been answered by now, and was not: the proof of slowness, of a cluster and of a backend there over
//! all workers, of an endpoint by the worker that sends to it.

use super::Live;
use super::judge::LINE_STALE;
use crate::health::board::{Place, Subject};
use crate::health::evidence::OUTSTANDING_MIN;
use crate::health::state::State;
use crate::health::waiting::Overdue;
use crate::time::MonoTime;

impl Live {
    /// Have so many requests waited for so long that it must be slow? A silence alone is no proof of that, and what
    /// one endpoint owes is its own.
    pub(super) fn is_slow(&mut self, subject: Subject, now: MonoTime) -> bool {
        match self.state(subject) {
            State::Healthy | State::Suspect | State::Ramp => {}
            State::Down(_) | State::Probation => return false,
        }
        if self.is_opaque(subject) {
            return false;
        }
        match subject {
            Subject::Cluster(cluster) => {
                self.detector.over_all(cluster, now).overdue.is_proof()
                    && self.detector.sole_backend(cluster, now).is_none()
                    && self.detector.backends_are_slow(cluster, now)
                    && self.is_wide(subject, now)
            }
            Subject::Backend(backend, cluster) => {
                let Some(at) = self.detector.part_of(&self.backends, backend, cluster) else { return false };
                let overdue = self.part_overdue(subject, at, now);
                let is_proof = overdue.is_proof() || self.detector.parts[at as usize].hedges.is_slow(now);
                is_proof && self.is_wide(subject, now)
            }
            Subject::Endpoint(id) => {
                let Some(slot) = self.slot_of(id) else { return false };
                if self.endpoint_overdue(slot, now).is_proof() {
                    return true;
                }
                let pulse = self.pulse(slot);
                // Three that have all waited longer than one in a thousand does.
                pulse.outstanding >= OUTSTANDING_MIN
                    && self.detector.lags.awake(pulse.third, now) >= self.endpoint_threshold(slot).unheard_of
            }
        }
    }

    /// What a backend in a cluster owes to all workers: of the others what they wrote as of their latest tick, where that
    /// is fresh. A worker writes while it hears nothing from there.
    fn part_overdue(&mut self, subject: Subject, part: u32, now: MonoTime) -> Overdue {
        let detector = &mut self.detector;
        let own = detector.parts[part as usize].flow.overdue(&detector.lags, now);
        if detector.workers == 1 {
            return own;
        }
        let Some(verdict) = self.verdict(subject) else { return own };
        let (detector, place) = (&self.detector, Place { subject, tag: verdict.tag });
        detector.board.write_part(detector.worker, place, own.of_part(), now);
        let others = (0..detector.workers).filter(|worker| *worker != detector.worker);
        let lines = others.filter_map(|worker| detector.board.part(worker, place));
        let fresh = lines.filter(|(written, _)| now.since(*written) <= LINE_STALE);
        fresh.fold(own, |sum, (_, line)| sum.with(Overdue::of_part_line(line)))
    }

    /// What an endpoint owes to this worker of what it was sent since its latest sign of life, by what is usual for its
    /// backend in its cluster. Nothing before the time by which a backend's answers are overdue, too.
    pub(super) fn endpoint_overdue(&self, slot: u32, now: MonoTime) -> Overdue {
        let (entry, pulse, lags) = (&self.slots[slot as usize], self.pulse(slot), &self.detector.lags);
        let Some(part) = self.detector.part_of(&self.backends, entry.backend, entry.cluster) else {
            return Overdue::default();
        };
        let flow = &self.detector.parts[part as usize].flow;
        if flow.delays().hedge.is_none() {
            return Overdue::default();
        }
        let after = flow.overdue_after();
        pulse.unanswered.overdue(pulse.heard, |sent| {
            let age = lags.awake(sent, now);
            if age < after { 1.0 } else { flow.latencies.share_above(age) }
        })
    }
}
