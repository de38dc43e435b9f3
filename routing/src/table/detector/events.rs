//! What the worker reports becomes evidence, in constant time.

use std::time::Duration;

use super::probes::Ask;
use super::{ClusterEvidence, Detector, LINE_INTERVAL, NEVER_COUNTED};
use crate::failover::Tier;
use crate::health::action::{Evidence, ProbeResult};
use crate::health::board::{LineView, Subject};
use crate::health::endpoint::Outcome;
use crate::health::evidence::{First, GAP_MIN, OUTSTANDING_MIN};
use crate::health::state::{Reason, Signal, State};
use crate::id::{BackendId, ClusterId};
use crate::model::{Detection, OutlierPolicy};
use crate::table::live::{Life, Live};
use crate::table::{EndpointKey, HealthEvent};
use crate::time::MonoTime;

/// Time in which more than half of a cluster's endpoints must be refused for the cluster to be so.
const REFUSED_WINDOW: Duration = Duration::from_millis(100);

/// Where an attempt is, as evidence counts it.
#[derive(Clone, Copy)]
pub(super) struct Site {
    pub(super) slot: u32,
    /// In the detector; 0 = not used yet.
    pub(super) pulse: u32,
    pub(super) cluster: ClusterId,
    backend: BackendId,
    pub(super) part: Option<u32>,
    pub(super) is_live: bool,
    /// Does its backend's traffic count for the cluster's silence?
    silence: bool,
}

impl Live {
    pub(super) fn site(&self, key: EndpointKey) -> Option<Site> {
        let slot = self.slot(key)?;
        let entry = self.backends.get(slot.backend.index());
        let spec = entry.and_then(|entry| entry.spec.as_ref());
        let group = entry.and_then(|entry| entry.group(slot.cluster)).filter(|_| slot.life == Life::Live);
        Some(Site {
            slot: key.slot,
            pulse: slot.pulse,
            cluster: slot.cluster,
            backend: slot.backend,
            is_live: slot.life == Life::Live,
            part: group.and_then(|group| group.part.checked_sub(1)),
            silence: spec.is_none_or(|spec| spec.detection.silence),
        })
    }

    pub(crate) fn on_sent(&mut self, key: EndpointKey, now: MonoTime) {
        let Some(mut site) = self.site(key) else { return };
        if site.part.is_none() && site.is_live {
            site.part = self.use_part(site.slot);
        }
        if site.pulse == 0 {
            self.use_pulse(site.slot);
            site.pulse = self.slots[site.slot as usize].pulse;
        }
        let detector = &mut self.detector;
        let pulse = &mut detector.pulses[site.pulse as usize];
        let mut is_counted = pulse.uncounted != NEVER_COUNTED;
        pulse.outstanding += 1;
        if pulse.outstanding == OUTSTANDING_MIN {
            pulse.third = now;
        }
        pulse.unanswered.sent(now, pulse.heard);
        if pulse.outstanding == 1 && site.is_live {
            detector.quiet_endpoints.touch(&mut detector.pulses, site.pulse, now);
        }
        if let Some(at) = site.part {
            let part = &mut detector.parts[at as usize];
            if is_counted {
                part.flow.waiting.sent(now);
            }
            is_counted &= part.uncounted != NEVER_COUNTED;
            if part.recent[0] != key {
                part.recent = [key, part.recent[0]];
            }
            if !part.links.is_listed() {
                detector.quiet_parts.touch(&mut detector.parts, at, now);
            }
        }
        let Some(entry) = detector.clusters.get_mut(site.cluster.index()) else { return };
        if site.silence && is_counted {
            entry.flow.waiting.sent(now);
        }
        entry.used(key, site.backend);
        detector.write_line(site.cluster, now, Throttle::Yes);
    }

    /// The first request of a backend in a cluster: its evidence gets a place.
    fn use_part(&mut self, slot: u32) -> Option<u32> {
        let (backend, cluster) = (self.slots[slot as usize].backend, self.slots[slot as usize].cluster);
        let at = self.detector.take_part(backend, cluster);
        self.backends[backend.index()].group_mut(cluster)?.part = at + 1;
        Some(at)
    }

    pub(crate) fn on_bytes(&mut self, key: EndpointKey, now: MonoTime) {
        let Some(site) = self.site(key) else { return };
        self.heard(site, now);
        self.clear(site, now);
    }

    /// A sign of life.
    fn heard(&mut self, site: Site, now: MonoTime) {
        let detector = &mut self.detector;
        let pulse = &mut detector.pulses[site.pulse as usize];
        if site.pulse != 0 {
            (pulse.heard, pulse.third) = (now, now);
            pulse.unanswered.clear();
        }
        if pulse.outstanding > 0 && pulse.links.is_listed() {
            let gap = now.since(pulse.links.since).as_micros();
            let gap = u32::try_from(gap).unwrap_or(u32::MAX).max(1);
            let share = u32::from(pulse.gaps.min(15)) + 1;
            pulse.gap_us = pulse.gap_us - pulse.gap_us / share + gap / share;
            pulse.gaps = pulse.gaps.saturating_add(1);
        }
        if pulse.outstanding > 0 && site.is_live {
            detector.quiet_endpoints.touch(&mut detector.pulses, site.pulse, now);
        }
        if let Some(at) = site.part {
            let flow = &mut detector.parts[at as usize].flow;
            let waits = flow.waiting.count(now);
            if waits >= OUTSTANDING_MIN
                && let Some(since) = flow.silent_since(now)
            {
                flow.gap(now.since(since), now);
            }
            flow.last_rx = now;
            if waits > 0 {
                detector.quiet_parts.touch(&mut detector.parts, at, now);
            }
        }
        detector.heard_cluster(site.cluster, now);
    }

    /// Real traffic is answered: that, and nothing else, clears a suspicion.
    fn clear(&mut self, site: Site, now: MonoTime) {
        let subjects = self.subjects(site);
        for subject in subjects.into_iter().flatten() {
            if self.state(subject) == State::Suspect {
                let evidence = self.evidence(subject, now);
                self.signal(subject, Signal::Answer, evidence, now);
            }
        }
    }

    /// What has a verdict at this place, if any of them is not healthy.
    fn subjects(&self, site: Site) -> [Option<Subject>; 3] {
        let slot = &self.slots[site.slot as usize];
        let is_live = slot.life == Life::Live;
        let endpoint = (is_live && slot.state != State::Healthy).then_some(Subject::Endpoint(slot.id));
        if self.detector.wide == 0 {
            return [endpoint, None, None];
        }
        let backend = is_live.then_some(Subject::Backend(slot.backend, slot.cluster));
        [endpoint, backend, Some(Subject::Cluster(slot.cluster))]
    }

    /// No sign of life: a kernel accepts connections for an application that hangs.
    pub(crate) fn on_connected(&mut self, key: EndpointKey, took: Duration, now: MonoTime) {
        let Some(site) = self.site(key) else { return };
        self.detector.round_trip(site.cluster, Ask::Connect, took, now);
    }

    pub(crate) fn on_hedge(&mut self, key: EndpointKey, now: MonoTime) {
        let Some(site) = self.site(key) else { return };
        // What is hedged because it is suspected already proves nothing new.
        let is_well = |state| matches!(state, State::Healthy | State::Ramp);
        let states = self.worst(&self.slots[site.slot as usize]);
        let Some(at) = site.part.filter(|_| states.into_iter().all(is_well)) else { return };
        let part = &mut self.detector.parts[at as usize];
        part.hedges.hedged(now);
        let subject = Subject::Backend(part.backend, part.cluster);
        let since = part.flow.last_rx;
        if self.is_slow(subject, now) {
            self.inquire(subject, since, now);
        }
    }

    // ------------------------------------------------------------ outcomes

    pub(crate) fn learn(
        &mut self,
        key: EndpointKey,
        outcome: Outcome,
        latency: Option<Duration>,
        now: MonoTime,
    ) {
        let Some(site) = self.site(key) else { return };
        let sent = latency.map(|latency| now - latency);
        self.detector.ended(site, sent, outcome == Outcome::Abandoned, now);
        self.weigh(site, outcome, now);
        let healthy = self.worst(&self.slots[site.slot as usize]).into_iter().all(|state| match state {
            State::Healthy | State::Ramp => true,
            State::Suspect | State::Down(_) | State::Probation => false,
        });
        match outcome {
            Outcome::Success => {
                self.heard(site, now);
                self.clear(site, now);
                if let Some(entry) = self.detector.clusters.get_mut(site.cluster.index()) {
                    entry.last_good = now;
                }
                if healthy && let Some(latency) = latency {
                    self.detector.answered(site, latency, now);
                }
            }
            // What comes late while something is wrong is no measure of what is usual.
            Outcome::Abandoned => {
                if healthy && let Some(age) = latency {
                    self.detector.given_up(site, age, now);
                }
            }
            Outcome::ServerError(_) | Outcome::Unlisted(_) => {
                self.heard(site, now);
                self.clear(site, now);
            }
            Outcome::Closed => {
                self.heard(site, now);
                self.doubt_endpoint(site.slot, now);
            }
            Outcome::Refused => self.refused(site.slot, None, now),
            Outcome::ConnectFailed | Outcome::Timeout => self.doubt_endpoint(site.slot, now),
        }
        self.credit(site, outcome, latency, now);
    }

    /// A response that had begun was cut.
    pub(crate) fn on_cut(
        &mut self,
        key: EndpointKey,
        now: MonoTime,
        policy: &OutlierPolicy,
    ) -> Option<HealthEvent> {
        let site = self.site(key)?;
        self.heard(site, now);
        self.weigh(site, Outcome::Closed, now);
        self.doubt_endpoint(site.slot, now);
        self.eject(key, Outcome::Closed, now, policy)
    }

    /// Counts an answer or a failure, and judges the endpoint's and the backend's share of failures.
    fn weigh(&mut self, site: Site, outcome: Outcome, now: MonoTime) {
        let is_good = match outcome {
            Outcome::Success => true,
            Outcome::ServerError(_)
            | Outcome::Unlisted(_)
            | Outcome::Closed
            | Outcome::Timeout
            | Outcome::ConnectFailed => false,
            Outcome::Refused | Outcome::Abandoned => return,
        };
        let Some(at) = site.part else { return };
        let ratio = self
            .spec_of(&self.slots[site.slot as usize])
            .map_or(Detection::default().errors, |spec| spec.detection.errors);
        let window_ms = u32::try_from((now.0 / 1_000_000) & u64::from(u32::MAX)).unwrap_or_default();
        let pulse = self.use_pulse(site.slot);
        if u128::from(window_ms.wrapping_sub(pulse.window_ms)) >= ratio.window.as_millis() {
            (pulse.window_ms, pulse.failed, pulse.good) = (window_ms, 0, 0);
        }
        if is_good {
            pulse.good = pulse.good.saturating_add(1);
            let part = &mut self.detector.parts[at as usize];
            part.errors.good(now, &ratio);
            part.hedges.answered(now);
            return;
        }
        let first = if pulse.failed == 0 { First::Yes } else { First::No };
        pulse.failed = pulse.failed.saturating_add(1);
        let (good, failed) = (u32::from(pulse.good), u32::from(pulse.failed));
        let own = crate::health::evidence::Tally { good, failed, endpoints: 1 };
        let part = &mut self.detector.parts[at as usize];
        part.errors.failed(first, now, &ratio);
        if let Some(entry) = self.detector.clusters.get_mut(site.cluster.index()) {
            entry.errors += 1;
        }
        let slot = &self.slots[site.slot as usize];
        let (endpoint, backend) = (Subject::Endpoint(slot.id), Subject::Backend(slot.backend, slot.cluster));
        // Endpoints that are out already had their chance to fail.
        let group = self.backends.get(slot.backend.index()).and_then(|entry| entry.group(slot.cluster));
        let in_use =
            group.map_or(1, |group| group.counts[..=Tier::Suspect as usize].iter().sum::<u32>().max(1));
        let is_backend = self.detector.parts[at as usize].errors.is_too_many(&ratio, in_use);
        for (subject, is_proof) in [(backend, is_backend), (endpoint, own.is_too_many(&ratio, 1))] {
            if is_proof {
                let evidence = self.evidence(subject, now);
                self.signal(subject, Signal::Proof(Reason::Errors), evidence, now);
            }
        }
    }

    /// One event is enough for an endpoint; a cluster needs more than half of its endpoints, and no answer meanwhile.
    pub(super) fn refused(&mut self, slot: u32, probe: Option<ProbeResult>, now: MonoTime) {
        let (id, cluster) = (self.slots[slot as usize].id, self.slots[slot as usize].cluster);
        let subject = Subject::Endpoint(id);
        let evidence = Evidence { probe, ..self.evidence(subject, now) };
        if !self.signal(subject, Signal::Proof(Reason::Refused), evidence, now) {
            return;
        }
        let Some(entry) = self.detector.clusters.get_mut(cluster.index()) else { return };
        if now.since(entry.refused_since) > REFUSED_WINDOW || entry.last_good > entry.refused_since {
            (entry.refused, entry.refused_since) = (0, now);
        }
        entry.refused += 1;
        if entry.refused * 2 > entry.endpoints {
            let subject = Subject::Cluster(cluster);
            let evidence = self.evidence(subject, now);
            self.signal(subject, Signal::Proof(Reason::Refused), evidence, now);
        }
    }

    /// The attempt has ended, whatever is known of it: nothing of it may be left in the counts.
    pub(crate) fn settle(&mut self, key: EndpointKey, in_flight: u32) {
        let outstanding = self.pulse(key.slot).outstanding;
        if outstanding <= in_flight {
            return;
        }
        let now = self.detector.ticked.max(self.pulse(key.slot).links.since);
        for _ in in_flight..outstanding {
            if let Some(site) = self.site(key) {
                self.detector.ended(site, None, false, now);
            }
        }
    }
}

/// Is a line written at most every [`LINE_INTERVAL`]?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Throttle {
    Yes,
    No,
}

impl Detector {
    pub(super) fn ended(&mut self, site: Site, sent: Option<MonoTime>, is_given_up: bool, now: MonoTime) {
        let pulse = &mut self.pulses[site.pulse as usize];
        let at_latest = sent.unwrap_or(now);
        let mut is_counted = at_latest > pulse.uncounted;
        pulse.outstanding = pulse.outstanding.saturating_sub(1);
        pulse.unanswered.ended(at_latest, pulse.heard);
        if pulse.outstanding == 0 {
            pulse.unanswered.clear();
            self.quiet_endpoints.remove(&mut self.pulses, site.pulse);
        }
        if let Some(at) = site.part {
            let part = &mut self.parts[at as usize];
            if is_counted {
                part.flow.ended(sent, is_given_up, &self.lags, now);
            }
            is_counted &= at_latest > part.uncounted;
            if part.flow.waiting.total() == 0 {
                self.quiet_parts.remove(&mut self.parts, at);
            }
        }
        let counts = site.silence && is_counted;
        if let Some(entry) = self.clusters.get_mut(site.cluster.index()).filter(|_| counts) {
            entry.flow.ended(sent, is_given_up, &self.lags, now);
        }
    }

    /// A backend in a cluster went down, or came back from it: what waits there says nothing about the cluster.
    pub(super) fn discount_part(&mut self, at: u32, is_down: bool, now: MonoTime) {
        let part = &mut self.parts[at as usize];
        if !is_down {
            part.uncounted = now;
            return;
        }
        part.uncounted = NEVER_COUNTED;
        let (cluster, waits) = (part.cluster, part.flow.waiting.clone());
        if let Some(entry) = self.clusters.get_mut(cluster.index()) {
            entry.flow.waiting.subtract(&waits, now);
        }
    }

    /// The same of an endpoint, for its backend and its cluster.
    pub(super) fn discount_pulse(&mut self, at: u32, part: Option<u32>, cluster: ClusterId, now: MonoTime) {
        let pulse = &mut self.pulses[at as usize];
        pulse.uncounted = NEVER_COUNTED;
        let outstanding = pulse.outstanding;
        for _ in 0..outstanding {
            let mut is_counted = true;
            if let Some(part) = part {
                let part = &mut self.parts[part as usize];
                part.flow.waiting.ended(None, now);
                is_counted = part.uncounted != NEVER_COUNTED;
            }
            if let Some(entry) = self.clusters.get_mut(cluster.index()).filter(|_| is_counted) {
                entry.flow.waiting.ended(None, now);
            }
        }
    }

    fn answered(&mut self, site: Site, latency: Duration, now: MonoTime) {
        if let Some(at) = site.part {
            self.parts[at as usize].flow.answered(latency, now);
        }
        if let Some(entry) = self.clusters.get_mut(site.cluster.index()) {
            entry.flow.answered(latency, now);
        }
    }

    fn given_up(&mut self, site: Site, age: Duration, now: MonoTime) {
        if let Some(at) = site.part {
            self.parts[at as usize].flow.given_up(age, now);
        }
        if let Some(entry) = self.clusters.get_mut(site.cluster.index()) {
            entry.flow.given_up(age, now);
        }
    }

    fn heard_cluster(&mut self, cluster: ClusterId, now: MonoTime) {
        let Some(entry) = self.clusters.get_mut(cluster.index()) else { return };
        if now.since(entry.flow.last_rx) >= GAP_MIN {
            entry.receptions = entry.receptions.wrapping_add(1);
        }
        // With peers, every so many-th gap is measured over all workers: an even sample, at the price of one line
        // read for each reception.
        if entry.receptions % u32::from(self.workers) == 0 && now.since(entry.flow.last_rx) >= GAP_MIN {
            let all = self.over_all(cluster, now);
            let entry = &mut self.clusters[cluster.index()];
            if all.outstanding >= OUTSTANDING_MIN
                && let Some(since) = all.silent_since
            {
                entry.flow.gap(self.lags.awake(since, now), now);
            }
        }
        let entry = &mut self.clusters[cluster.index()];
        entry.flow.last_rx = now;
        (entry.patience, entry.asked) = (Duration::ZERO, MonoTime::ZERO);
        self.write_line(cluster, now, Throttle::Yes);
    }

    pub(super) fn round_trip(&mut self, cluster: ClusterId, ask: Ask, took: Duration, now: MonoTime) {
        let Some(entry) = self.clusters.get_mut(cluster.index()) else { return };
        // A retransmitted SYN says nothing about the way.
        if took < Duration::from_secs(1) {
            match ask {
                Ask::Connect => entry.round_trips.record(took, now),
                Ask::App => entry.app_answers.record(took, now),
            }
        }
    }

    /// Shows the other workers what this one knows.
    pub(super) fn write_line(&mut self, cluster: ClusterId, now: MonoTime, throttle: Throttle) {
        let Some(entry) = self.clusters.get_mut(cluster.index()) else { return };
        if throttle == Throttle::Yes && now.since(entry.line_written) < LINE_INTERVAL {
            return;
        }
        entry.line_written = now;
        let view = line_of(entry, now);
        self.board.write_line(self.worker, cluster, &view);
    }
}

pub(super) fn line_of(entry: &mut ClusterEvidence, now: MonoTime) -> LineView {
    LineView {
        written: now,
        last_rx: entry.flow.last_rx,
        outstanding: entry.flow.waiting.count(now),
        oldest: entry.flow.waiting.oldest(now).unwrap_or(MonoTime::ZERO),
        errors: entry.errors,
        overdue: entry.overdue.waiting,
        overdue_of: entry.overdue.sent,
        overdue_usual: entry.overdue.usual_millionths(),
        waits_for: entry.waits_for,
    }
}

impl Live {
    /// The numbers of this moment, for whoever reads about a verdict.
    pub(super) fn evidence(&mut self, subject: Subject, now: MonoTime) -> Evidence {
        let at = match subject {
            Subject::Cluster(cluster) => {
                let all = self.detector.over_all(cluster, now);
                let Some(entry) = self.detector.cluster(cluster) else { return Evidence::default() };
                let silence = all.silent_since.map(|since| self.detector.lags.awake(since, now));
                let (silence, overdue) = (silence.unwrap_or_default(), all.overdue);
                return Evidence {
                    silence,
                    phi: entry.flow.gaps.phi(silence),
                    outstanding: all.outstanding,
                    oldest: all.oldest.map(|oldest| now.since(oldest)).unwrap_or_default(),
                    overdue: (overdue.waiting, overdue.phi()),
                    errors: entry.refused,
                    ..Evidence::default()
                };
            }
            Subject::Backend(backend, cluster) => {
                let group = self.backends.get(backend.index()).and_then(|entry| entry.group(cluster));
                group.and_then(|group| group.part.checked_sub(1))
            }
            Subject::Endpoint(id) => {
                let Some(slot) = self.slot_of(id) else { return Evidence::default() };
                let pulse = self.pulse(slot);
                let waits = pulse.outstanding > 0;
                let silence =
                    if waits { self.detector.lags.awake(pulse.links.since, now) } else { Duration::ZERO };
                return Evidence {
                    silence,
                    outstanding: pulse.outstanding,
                    errors: u32::from(pulse.failed),
                    answers: u32::from(pulse.failed) + u32::from(pulse.good),
                    ..Evidence::default()
                };
            }
        };
        let Some(at) = at else { return Evidence::default() };
        let overdue = self.detector.parts[at as usize].flow.overdue(&self.detector.lags, now);
        let part = &mut self.detector.parts[at as usize];
        let silence = part.flow.silent_since(now).map(|since| self.detector.lags.awake(since, now));
        let (tally, silence) = (part.errors.tally(), silence.unwrap_or_default());
        Evidence {
            silence,
            phi: part.flow.gaps.phi(silence),
            outstanding: part.flow.waiting.total(),
            oldest: part.flow.waiting.oldest(now).map(|oldest| now.since(oldest)).unwrap_or_default(),
            overdue: (overdue.waiting, overdue.phi()),
            errors: tally.failed,
            answers: tally.failed + tally.good,
            hedges: part.hedges.hedges(),
            ..Evidence::default()
        }
    }
}
