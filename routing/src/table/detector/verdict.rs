//! The one place where a state changes: on the board by compare-exchange, in this worker's copy, in the order of a
//! group's members, and in what is done next.

use super::keep::{Keep, Phase};
use super::{Detector, Verdict};
use crate::health::action::{Action, Evidence, Origin, Scope, Transition};
use crate::health::board::{Change, Place, Subject};
use crate::health::state::{Signal, State};
use crate::table::live::{Life, Live};
use crate::time::MonoTime;

/// Times that a change is tried against other workers' changes of the same word.
const TRIES: u32 = 4;

impl Live {
    pub(crate) fn verdict(&self, subject: Subject) -> Option<Verdict> {
        match subject {
            Subject::Cluster(cluster) => Some(self.detector.cluster(cluster)?.verdict),
            Subject::Backend(backend, cluster) => {
                let entry = self.backends.get(backend.index())?;
                let group = entry.group(cluster)?;
                let name = entry.spec.as_ref().map_or("", |spec| &spec.name);
                let tag = super::tag(name.as_bytes(), cluster.0.into());
                Some(Verdict { word: group.word, tag, local: group.local })
            }
            Subject::Endpoint(id) => {
                let slot = &self.slots[self.slot_of(id)? as usize];
                let pulse = &self.detector.pulses[slot.pulse as usize];
                let tag = super::endpoint_tag(slot.affinity, slot.backend);
                Some(Verdict { word: pulse.word, tag, local: pulse.local })
            }
        }
    }

    pub(crate) fn state(&self, subject: Subject) -> State {
        match subject {
            Subject::Cluster(cluster) => self.detector.cluster(cluster).map(|entry| entry.verdict.state()),
            Subject::Backend(backend, cluster) => {
                let group = self.backends.get(backend.index()).and_then(|entry| entry.group(cluster));
                group.map(|group| group.word.state())
            }
            Subject::Endpoint(id) => self.slot_of(id).map(|slot| self.slots[slot as usize].state),
        }
        .unwrap_or_default()
    }

    pub(super) fn scope_of(&self, subject: Subject) -> Option<Scope> {
        match subject {
            Subject::Cluster(cluster) => Some(Scope::Cluster(cluster)),
            Subject::Backend(backend, cluster) => Some(Scope::Backend(backend, cluster)),
            Subject::Endpoint(id) => Some(Scope::Endpoint(self.key(self.slot_of(id)?))),
        }
    }

    /// Raises a signal. Did this worker change the state?
    pub(super) fn signal(
        &mut self,
        subject: Subject,
        signal: Signal,
        evidence: Evidence,
        now: MonoTime,
    ) -> bool {
        for _ in 0..TRIES {
            let Some(verdict) = self.verdict(subject) else { return false };
            let to = verdict.state().next(signal);
            if to == verdict.state() {
                return false;
            }
            if !self.detector.has_room(subject) {
                self.detector.overflows += 1;
                return false;
            }
            let new = verdict.word.then(to, verdict.tag, now);
            let place = Place { subject, tag: verdict.tag };
            let answer =
                if verdict.local { Err(None) } else { self.detector.board.replace(place, verdict.word, new) };
            let local = match answer {
                Ok(()) => false,
                Err(Some(other)) => {
                    // Another worker was faster; what it decided may be the same.
                    self.changed(subject, Verdict { word: other, ..verdict }, Origin::Peer, evidence, now);
                    continue;
                }
                Err(None) => {
                    self.detector.verdicts_local += u64::from(!verdict.local);
                    to != State::Healthy
                }
            };
            self.changed(subject, Verdict { word: new, local, ..verdict }, Origin::Own, evidence, now);
            return true;
        }
        false
    }

    /// Copies what other workers changed. One load when nothing did.
    pub(crate) fn sync(&mut self, now: MonoTime) {
        let changes = self.detector.board.changes();
        if changes != self.detector.seen {
            self.copy_changes(changes, now);
        }
    }

    #[cold]
    fn copy_changes(&mut self, changes: u64, now: MonoTime) {
        while self.detector.seen < changes {
            match self.detector.board.change(self.detector.seen) {
                Change::Of(subject) => self.copy(subject, now),
                Change::NotYet => return,
                Change::Overwritten => {
                    self.detector.seen = changes;
                    return self.copy_all(now);
                }
            }
            self.detector.seen += 1;
        }
    }

    /// Every verdict anew. Only when thousands of changes were missed, and for a new table.
    fn copy_all(&mut self, now: MonoTime) {
        let clusters = u16::try_from(self.detector.clusters.len()).unwrap_or(u16::MAX);
        for id in 0..clusters {
            self.copy(Subject::Cluster(crate::id::ClusterId(id)), now);
        }
        for backend in 0..self.backends.len() {
            let id = crate::id::BackendId(u32::try_from(backend).unwrap_or(u32::MAX));
            for nth in 0..self.backends[backend].groups.len() {
                let cluster = self.backends[backend].groups[nth].cluster;
                self.copy(Subject::Backend(id, cluster), now);
            }
        }
        for slot in 0..self.slots.len() {
            if self.slots[slot].life == Life::Live {
                self.copy(Subject::Endpoint(self.slots[slot].id), now);
            }
        }
    }

    pub(crate) fn copy(&mut self, subject: Subject, now: MonoTime) {
        let Some(verdict) = self.verdict(subject) else { return };
        if verdict.local {
            return;
        }
        let place = Place { subject, tag: verdict.tag };
        // Another subject's word says nothing about this one.
        let word = self.detector.board.read(place).unwrap_or_default();
        let is_unused = match subject {
            Subject::Endpoint(id) => {
                self.slot_of(id).is_some_and(|slot| self.slots[slot as usize].pulse == 0)
            }
            Subject::Cluster(_) | Subject::Backend(..) => false,
        };
        if word == verdict.word || is_unused && word.is_healthy() {
            return;
        }
        if word.state() == verdict.state() {
            // Gone and come back between two looks, or healthy as somebody else left it.
            self.set_word(subject, Verdict { word, ..verdict });
            return;
        }
        self.changed(subject, Verdict { word, ..verdict }, Origin::Peer, Evidence::default(), now);
    }

    /// The state of `subject` is another: everything that follows from it.
    fn changed(
        &mut self,
        subject: Subject,
        new: Verdict,
        origin: Origin,
        mut evidence: Evidence,
        now: MonoTime,
    ) {
        let Some(old) = self.verdict(subject) else { return };
        let (from, to) = (old.state(), new.state());
        self.set_word(subject, new);
        if from == to {
            return;
        }
        self.detector.count(subject, from, to);
        if to == State::Ramp {
            self.forgive(subject);
        }
        if is_out(from) != is_out(to) {
            self.discount(subject, is_out(to), now);
        }
        if origin == Origin::Own {
            evidence.times = self.detector.claim(subject, from, to, new.local, now);
        }
        self.follow(subject, (from, to), origin, now);
        let Some(scope) = self.scope_of(subject) else { return };
        let actions = &mut self.detector.actions;
        match to {
            State::Suspect | State::Down(_) => actions.push(Action::Wake(scope)),
            State::Healthy | State::Probation | State::Ramp => {}
        }
        if origin == Origin::Own && !new.local {
            actions.ring();
        }
        let since = old.word.since();
        actions.push(Action::Event(Transition { scope, from, to, at: now, since, origin, evidence }));
    }

    fn set_word(&mut self, subject: Subject, verdict: Verdict) {
        match subject {
            Subject::Cluster(cluster) => {
                if let Some(entry) = self.detector.clusters.get_mut(cluster.index()) {
                    entry.verdict = verdict;
                }
            }
            Subject::Backend(backend, cluster) => {
                let entry = self.backends.get_mut(backend.index());
                if let Some(group) = entry.and_then(|entry| entry.group_mut(cluster)) {
                    (group.word, group.local) = (verdict.word, verdict.local);
                }
            }
            Subject::Endpoint(id) => {
                if let Some(slot) = self.slot_of(id) {
                    let pulse = self.use_pulse(slot);
                    (pulse.word, pulse.local) = (verdict.word, verdict.local);
                    self.update(slot, |slot| slot.state = verdict.state());
                }
            }
        }
    }

    /// What waits for something that is down is no evidence of what is above it.
    fn discount(&mut self, subject: Subject, is_down: bool, now: MonoTime) {
        match subject {
            Subject::Cluster(_) => {}
            Subject::Backend(backend, cluster) => {
                if let Some(at) = self.detector.part_of(&self.backends, backend, cluster) {
                    self.detector.discount_part(at, is_down, now);
                }
            }
            Subject::Endpoint(id) => {
                let Some(slot) = self.slot_of(id) else { return };
                if !is_down {
                    self.use_pulse(slot).uncounted = now;
                    return;
                }
                let entry = &self.slots[slot as usize];
                let (backend, cluster, pulse) = (entry.backend, entry.cluster, entry.pulse);
                let part = self.detector.part_of(&self.backends, backend, cluster);
                self.detector.discount_pulse(pulse, part, cluster, now);
            }
        }
    }

    /// Failures of before it was trusted again say nothing about its ramp.
    fn forgive(&mut self, subject: Subject) {
        match subject {
            Subject::Cluster(_) => {}
            Subject::Backend(backend, cluster) => {
                if let Some(at) = self.detector.part_of(&self.backends, backend, cluster) {
                    self.detector.parts[at as usize].errors.clear();
                }
            }
            Subject::Endpoint(id) => {
                if let Some(slot) = self.slot_of(id) {
                    let pulse = self.use_pulse(slot);
                    (pulse.failed, pulse.good, pulse.check_failed) = (0, 0, 0);
                    self.restore_early(self.key(slot));
                }
            }
        }
    }

    /// What is to be done from now on.
    fn follow(&mut self, subject: Subject, (from, to): (State, State), origin: Origin, now: MonoTime) {
        let detector = &mut self.detector;
        if to != State::Suspect {
            detector.inquiries.retain(|inquiry| inquiry.subject != subject);
        }
        let phase = match (to, origin) {
            (State::Healthy, Origin::Own | Origin::Peer) => {
                detector.keeps.retain(|keep| keep.subject != subject);
                return;
            }
            (State::Suspect | State::Down(_) | State::Probation | State::Ramp, Origin::Peer) => {
                Phase::Watching
            }
            (State::Suspect, Origin::Own) => Phase::Suspected,
            (State::Down(reason), Origin::Own) => Phase::Returning(reason),
            (State::Probation, Origin::Own) => {
                Phase::Proving(detector.reason_of_probation(subject, from.reason()))
            }
            (State::Ramp, Origin::Own) => Phase::Ramping,
        };
        detector.keeps.retain(|keep| keep.subject != subject);
        if detector.keeps.len() < super::keep::KEEPS_MAX {
            let keep = Keep::new(subject, phase, now);
            detector.keeps.push(keep);
        } else {
            detector.overflows += 1;
        }
    }
}

/// Does it get single requests at most? They are evidence of nothing else.
fn is_out(state: State) -> bool {
    match state {
        State::Down(_) | State::Probation => true,
        State::Healthy | State::Suspect | State::Ramp => false,
    }
}

impl Detector {
    /// Can one more suspicion or verdict be followed up?
    fn has_room(&self, subject: Subject) -> bool {
        self.keeps.len() < super::keep::KEEPS_MAX || self.keeps.iter().any(|keep| keep.subject == subject)
    }

    pub(super) fn count(&mut self, subject: Subject, from: State, to: State) {
        let is_wide = match subject {
            Subject::Cluster(_) | Subject::Backend(..) => true,
            Subject::Endpoint(_) => false,
        };
        if is_wide {
            match (from, to) {
                (State::Healthy, State::Healthy) => {}
                (State::Healthy, _) => self.wide += 1,
                (_, State::Healthy) => self.wide -= 1,
                (_, _) => {}
            }
        }
        if from == State::Ramp {
            self.ramps -= 1;
        }
        if to == State::Ramp {
            self.ramps += 1;
        }
        self.probation.retain(|other| *other != subject);
        if to == State::Probation && self.probation.len() < super::keep::KEEPS_MAX {
            self.probation.push(subject);
        }
    }
}
