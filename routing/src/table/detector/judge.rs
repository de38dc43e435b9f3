//! A tick: who has been silent for too long, and is it they, or we?
//!
//! Looks at every cluster with requests that wait, and at the front of the lists of quiet backends and endpoints. A
//! backend or an endpoint is only judged while others of its cluster answer: else the cluster is judged.

use std::time::Duration;

use super::events::{Throttle, line_of};
use super::probes::Ask;
use super::{Detector, NEVER_COUNTED, TICK};
use crate::health::board::Subject;
use crate::health::evidence::{OUTSTANDING_MIN, SILENCE_CAP, SILENCE_FLOOR, Threshold};
use crate::health::state::{Signal, State};
use crate::health::waiting::Overdue;
use crate::id::{BackendId, ClusterId};
use crate::table::live::Live;
use crate::time::MonoTime;

/// A line of another worker that is older than this is not evidence of what waits: that worker is not running, or has
/// nothing to say. Its receptions count all the same.
pub(super) const LINE_STALE: Duration = Duration::from_millis(3);

/// Backends and endpoints that one tick looks at, each.
const LOOKS_MAX: usize = 64;

/// What has been quiet for longer leaves its list until its next sign of life.
const FORGOTTEN: Duration = Duration::from_secs(1);

/// Pairs of backend and cluster that are looked at when a whole cluster is to be judged.
const PARTS_LOOKS: usize = 1_024;

/// A backend that was heard within this is in use.
const IN_USE: Duration = Duration::from_secs(1);

/// Clusters that fall silent within this of each other, with nothing else to be heard: that is us.
const BLIND_WINDOW: Duration = Duration::from_millis(10);

/// An endpoint is suspected after so many times its usual gap: phi 3 where signs of life come at random.
const GAPS_SUSPECT: u32 = 7;

/// An endpoint is suspected when what it owes is as improbable as this, in powers of ten.
const PHI_SUSPECT: f32 = 3.0;

/// Signs of life below which an endpoint's usual gap is not believed.
const GAPS_MIN: u8 = 32;

/// Between two inquiries about few requests: at least this, doubled each time up to the second value.
const PATIENCE: (Duration, Duration) = (Duration::from_millis(40), Duration::from_secs(1));

/// What all workers together know of a cluster.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct All {
    pub(super) outstanding: u32,
    pub(super) last_rx: MonoTime,
    pub(super) oldest: Option<MonoTime>,
    /// Since when what waits has heard nothing; `None` when nothing waits.
    pub(super) silent_since: Option<MonoTime>,
    /// What should have been answered, as of each worker's latest tick.
    pub(super) overdue: Overdue,
    /// The backend that all of it waits for, as a line tells it.
    waits_for: u64,
}

impl Detector {
    pub(super) fn over_all(&mut self, cluster: ClusterId, now: MonoTime) -> All {
        let Some(entry) = self.clusters.get_mut(cluster.index()) else { return All::default() };
        let own = line_of(entry, now);
        let mut all = All { outstanding: own.outstanding, last_rx: own.last_rx, ..All::default() };
        all.oldest = (own.outstanding > 0).then_some(own.oldest);
        (all.overdue, all.waits_for) = (entry.overdue, entry.waits_for);
        for worker in (0..self.workers).filter(|worker| *worker != self.worker) {
            let Some(line) = self.board.line(worker, cluster) else { break };
            all.last_rx = all.last_rx.max(line.last_rx);
            if line.outstanding > 0 && now.since(line.written) <= LINE_STALE {
                all.outstanding += line.outstanding;
                all.overdue = all.overdue.with(Overdue::of_line(&line));
                all.waits_for = both(all.waits_for, line.waits_for);
                all.oldest = Some(all.oldest.map_or(line.oldest, |oldest| oldest.min(line.oldest)));
            }
        }
        all.silent_since = all.oldest.map(|oldest| oldest.max(all.last_rx));
        all
    }

    /// The backend that everything here waits for, as a line tells it.
    fn waits_for(&mut self, cluster: ClusterId, now: MonoTime) -> u64 {
        let mut waits_for = 0;
        let mut next = self.quiet_parts.first();
        for _ in 0..LOOKS_MAX {
            let Some(at) = next else { break };
            next = self.quiet_parts.after(&self.parts, at);
            let part = &mut self.parts[at as usize];
            if part.cluster == cluster && part.uncounted != NEVER_COUNTED && part.flow.waiting.count(now) > 0
            {
                waits_for = both(waits_for, u64::from(part.backend.0) + 1);
            }
        }
        waits_for
    }

    /// The only backend that anything waits for here, while others here were in use until a moment ago: then the
    /// silence is that backend's until a request of another is silent, too.
    pub(super) fn sole_backend(&mut self, cluster: ClusterId, now: MonoTime) -> Option<BackendId> {
        let waits_for = self.over_all(cluster, now).waits_for;
        let backend = BackendId(u32::try_from(waits_for.checked_sub(1)?).ok()?);
        let mut others = self.parts.iter().take(PARTS_LOOKS).filter(|part| {
            part.cluster == cluster && part.backend != backend && part.flow.last_rx > MonoTime::ZERO
        });
        others.any(|part| now.since(part.flow.last_rx) < IN_USE).then_some(backend)
    }

    /// Are more of the backends in use here overdue than in time? Else they are to be judged one by one.
    pub(super) fn backends_are_slow(&mut self, cluster: ClusterId, now: MonoTime) -> bool {
        let (mut slow, mut well) = (0u32, 0u32);
        for at in 0..self.parts.len().min(PARTS_LOOKS) {
            let part = &mut self.parts[at];
            if part.cluster != cluster || part.uncounted == NEVER_COUNTED {
                continue;
            }
            if !part.is_opaque && part.flow.overdue(&self.lags, now).phi() > 0.0 {
                slow += 1;
            } else if self.lags.awake(part.flow.last_rx, now) < part.flow.overdue_after() {
                well += 1;
            }
        }
        slow > well
    }

    /// How long a probe of this cluster may take.
    pub(super) fn patience(&self, cluster: ClusterId, ask: Ask) -> Duration {
        const BELIEVED: u32 = 8;
        let Some(entry) = self.cluster(cluster) else { return Duration::from_millis(250) };
        let (floor, known, guess) = match ask {
            // A round trip is at most as long as the fastest answers.
            Ask::Connect => {
                let fastest = entry.flow.latencies.quantile(50, 20).map(|latency| latency * 4);
                (Duration::from_millis(3), &entry.round_trips, fastest)
            }
            Ask::App => {
                let usual = entry.flow.median().map(|latency| latency * 3);
                (Duration::from_millis(6), &entry.app_answers, usual)
            }
        };
        let known = known.quantile(990, BELIEVED).map(|usual| usual * 4);
        let patience = known.or(guess).unwrap_or(Duration::from_millis(250));
        patience.clamp(floor, Duration::from_secs(1))
    }
}

impl Live {
    pub(crate) fn tick(&mut self, now: MonoTime, lag: Duration) {
        self.detector.lags.note(now, lag);
        self.detector.ticked = now;
        self.detector.due = None;
        self.sync(now);
        self.restore_due(now);
        while let Some(token) = self.detector.probes.overdue(&self.detector.lags, now) {
            self.on_probe(token, crate::health::action::ProbeResult::TimedOut, now);
        }
        self.judge_clusters(now);
        self.judge_parts(now);
        self.judge_endpoints(now);
        self.pursue_all(now);
        self.tend_all(now);
        self.check_due(now);
    }

    pub(crate) fn next_tick(&self) -> Option<MonoTime> {
        let detector = &self.detector;
        let waits = !detector.quiet_endpoints.is_empty()
            || detector.clusters.iter().any(|entry| entry.flow.waiting.total() > 0);
        let tick = waits.then(|| {
            let tick = detector.ticked + TICK;
            detector.due.map_or(tick, |due| tick.min(due))
        });
        let inquiries = detector.inquiries.iter().map(|inquiry| inquiry.next_at);
        let keeps = detector.keeps.iter().map(|keep| keep.next_at);
        let overdue = detector.probes.next_overdue(&detector.lags, detector.ticked);
        let later = [tick, detector.checks.next_due(), self.next_return(), overdue];
        inquiries.chain(keeps).chain(later.into_iter().flatten()).min()
    }

    // ------------------------------------------------------------ clusters

    fn judge_clusters(&mut self, now: MonoTime) {
        for index in 0..self.detector.clusters.len() {
            let cluster = ClusterId(u16::try_from(index).unwrap_or(u16::MAX));
            let entry = &mut self.detector.clusters[index];
            if entry.flow.waiting.total() == 0 && entry.line_written == MonoTime::ZERO {
                continue;
            }
            entry.overdue = entry.flow.overdue(&self.detector.lags, now);
            // Of interest only in a silence.
            let is_quiet = now.since(entry.flow.last_rx) >= SILENCE_FLOOR / 2;
            let waits_for = if is_quiet { self.detector.waits_for(cluster, now) } else { u64::MAX };
            let entry = &mut self.detector.clusters[index];
            entry.waits_for = waits_for;
            if entry.flow.waiting.count(now) > 0 {
                self.detector.write_line(cluster, now, Throttle::No);
                self.judge_cluster(cluster, now);
            } else if entry.line_written != MonoTime::ZERO {
                self.detector.write_line(cluster, now, Throttle::No);
                self.detector.clusters[index].line_written = MonoTime::ZERO;
            }
        }
    }

    fn judge_cluster(&mut self, cluster: ClusterId, now: MonoTime) {
        let subject = Subject::Cluster(cluster);
        let entry = &mut self.detector.clusters[cluster.index()];
        let Some(own) = entry.flow.silent_since(now) else { return };
        // However much else is heard meanwhile.
        if entry.overdue.waiting > 0 && self.is_slow(subject, now) {
            self.inquire(subject, own, now);
        }
        let entry = &mut self.detector.clusters[cluster.index()];
        // Peers can only make a silence shorter: most ticks end here, without a look at their lines.
        let quiet_ns = now.since(own);
        let suspicious = entry.flow.suspicious();
        if quiet_ns < suspicious.min(SILENCE_FLOOR) {
            return self.detector.wake_at(own + suspicious);
        }
        match self.state(subject) {
            State::Healthy | State::Ramp | State::Probation => {}
            State::Suspect | State::Down(_) => return,
        }
        let all = self.detector.over_all(cluster, now);
        let Some(since) = all.silent_since else { return };
        let silence = self.detector.lags.awake(since, now);
        if all.outstanding >= OUTSTANDING_MIN && silence >= suspicious {
            if self.witness(cluster, since, now) == Witness::Blind {
                return;
            }
            // All that waits is one backend's, and others are there: what is usual for it decides, not what is usual for
            // all together; its cluster is only asked about.
            let doubtful = match self.detector.sole_backend(cluster, now) {
                Some(backend) => Subject::Backend(backend, cluster),
                None => subject,
            };
            if self.state(doubtful) == State::Healthy && silence >= self.suspicious(doubtful) {
                if self.may_doubt(doubtful, now) {
                    let evidence = self.evidence(doubtful, now);
                    self.signal(doubtful, Signal::Doubt, evidence, now);
                }
                self.inquire(doubtful, since, now);
            }
            self.inquire(subject, since, now);
            return;
        }
        if self.is_pursued(subject) {
            return self.detector.wake_at(since + suspicious);
        }
        self.judge_few(cluster, silence, since, now);
        self.detector.wake_at(since + suspicious);
    }

    /// Which silence of a cluster or of a backend there is suspicious, by what this worker knows of it.
    fn suspicious(&self, subject: Subject) -> Duration {
        let flow = match subject {
            Subject::Cluster(cluster) => self.detector.cluster(cluster).map(|entry| &entry.flow),
            Subject::Backend(backend, cluster) => {
                let part = self.detector.part_of(&self.backends, backend, cluster);
                part.map(|at| &self.detector.parts[at as usize].flow)
            }
            Subject::Endpoint(_) => None,
        };
        flow.map_or(SILENCE_CAP, |flow| flow.suspicious())
    }

    /// At a low rate three requests never wait together: the first that is overdue starts the probes.
    fn judge_few(&mut self, cluster: ClusterId, silence: Duration, since: MonoTime, now: MonoTime) {
        let entry = &mut self.detector.clusters[cluster.index()];
        let Some(late) = entry.flow.late_after() else { return };
        if silence < late || now.since(entry.asked) < entry.patience {
            let due = (since + late).max(entry.asked + entry.patience);
            return self.detector.wake_at(due);
        }
        entry.asked = now;
        entry.patience = (entry.patience * 2).clamp(PATIENCE.0, PATIENCE.1);
        self.inquire(Subject::Cluster(cluster), since, now);
    }

    /// As [`Live::witness`], of anything: what a cluster says is also heard while one of its parts is silent.
    pub(super) fn witness_of(&mut self, subject: Subject, since: MonoTime, now: MonoTime) -> Witness {
        let cluster = match subject {
            Subject::Cluster(cluster) => return self.witness(cluster, since, now),
            Subject::Backend(_, cluster) => cluster,
            Subject::Endpoint(id) => match self.slot_of(id) {
                Some(slot) => self.slots[slot as usize].cluster,
                None => return Witness::Hears,
            },
        };
        let heard = self.detector.over_all(cluster, now).last_rx;
        let threshold = self.detector.cluster(cluster).map(|entry| entry.flow.suspicious());
        if threshold.is_some_and(|threshold| self.detector.lags.awake(heard, now) < threshold) {
            return Witness::Hears;
        }
        self.witness(cluster, since.max(heard), now)
    }

    /// Do we hear anything else?
    ///
    /// Two unrelated clusters that fall silent together, with nothing else to be heard, are our own link or machine: no
    /// verdict, everything stays in use. Clusters of one region may well fail together. A cluster that answers proves
    /// that we hear; one that is to answer and has not yet, nothing.
    pub(super) fn witness(&mut self, cluster: ClusterId, since: MonoTime, now: MonoTime) -> Witness {
        let Some(entry) = self.detector.cluster(cluster) else { return Witness::Hears };
        let region = entry.region.clone();
        // What was heard before that may have been heard before our own silence began, too.
        let heard = since + entry.flow.suspicious();
        let own = [since, self.detector.over_all(cluster, now).last_rx];
        let mut witness = Witness::Hears;
        for index in (0..self.detector.clusters.len()).filter(|index| *index != cluster.index()) {
            let other = ClusterId(u16::try_from(index).unwrap_or(u16::MAX));
            let all = self.detector.over_all(other, now);
            if all.last_rx > heard {
                return Witness::Hears;
            }
            let entry = &self.detector.clusters[index];
            let is_related = !region.is_empty() && entry.region == region;
            let Some(other_since) = all.silent_since.filter(|_| !is_related) else { continue };
            // By the latest byte, or by the first request since: whichever is nearer.
            let apart = own.iter().flat_map(|own| [other_since, all.last_rx].map(|other| apart(*own, other)));
            let together = apart.min().is_some_and(|apart| apart <= BLIND_WINDOW);
            let silence = self.detector.lags.awake(other_since, now);
            if silence < entry.flow.suspicious() {
                witness = witness.max(Witness::NotYet);
            } else if together {
                witness = Witness::Blind;
            }
        }
        witness
    }

    // ------------------------------------------------------------ backends

    fn judge_parts(&mut self, now: MonoTime) {
        let mut next = self.detector.quiet_parts.first();
        for _ in 0..LOOKS_MAX {
            let Some(at) = next else { return };
            let since = self.detector.parts[at as usize].links.since;
            if now.since(since) < SILENCE_FLOOR {
                return;
            }
            next = self.detector.quiet_parts.after(&self.detector.parts, at);
            if now.since(since) > FORGOTTEN {
                self.detector.quiet_parts.remove(&mut self.detector.parts, at);
            } else {
                self.judge_part(at, now);
            }
        }
    }

    fn judge_part(&mut self, at: u32, now: MonoTime) {
        let part = &mut self.detector.parts[at as usize];
        let subject = Subject::Backend(part.backend, part.cluster);
        let cluster = part.cluster;
        let (waits, suspicious) = (part.flow.waiting.count(now), part.flow.suspicious());
        let Some(since) = part.flow.silent_since(now) else { return };
        let (late, asked) = (part.flow.late_after(), part.asked);
        let silence = self.detector.lags.awake(since, now);
        let backend = self.detector.parts[at as usize].backend;
        let is_sole = self.detector.sole_backend(cluster, now) == Some(backend);
        let doubtful = match self.doubtful(subject, cluster, since, suspicious) {
            Some(doubtful) => doubtful,
            // The cluster's silence is this backend's: the cluster's turn raised the doubt.
            None if is_sole => Doubtful::No,
            None => return,
        };
        if self.is_slow(subject, now) {
            self.inquire(subject, since, now);
        }
        if waits >= OUTSTANDING_MIN && silence >= suspicious {
            if doubtful == Doubtful::Yes && self.may_doubt(subject, now) {
                let evidence = self.evidence(subject, now);
                self.signal(subject, Signal::Doubt, evidence, now);
            }
            self.inquire(subject, since, now);
        } else if late.is_some_and(|late| silence >= late) && now.since(asked) >= PATIENCE.0 {
            self.detector.parts[at as usize].asked = now;
            self.inquire(subject, since, now);
        }
    }

    /// Is it worth while to judge this part of a cluster by itself? Only while other parts answer.
    fn doubtful(
        &self,
        subject: Subject,
        cluster: ClusterId,
        since: MonoTime,
        suspicious: Duration,
    ) -> Option<Doubtful> {
        let heard = self.detector.cluster(cluster)?.flow.last_rx;
        if heard <= since + suspicious / 2 {
            return None;
        }
        match self.state(Subject::Cluster(cluster)) {
            State::Healthy | State::Ramp => {}
            State::Suspect | State::Down(_) | State::Probation => return None,
        }
        match self.state(subject) {
            State::Healthy => Some(Doubtful::Yes),
            State::Ramp | State::Probation => Some(Doubtful::No),
            State::Suspect | State::Down(_) => None,
        }
    }

    // ------------------------------------------------------------ endpoints

    fn judge_endpoints(&mut self, now: MonoTime) {
        let mut next = self.detector.quiet_endpoints.first();
        for _ in 0..LOOKS_MAX {
            let Some(at) = next else { return };
            let since = self.detector.pulses[at as usize].links.since;
            if now.since(since) < SILENCE_FLOOR {
                return;
            }
            next = self.detector.quiet_endpoints.after(&self.detector.pulses, at);
            if now.since(since) > FORGOTTEN {
                self.detector.quiet_endpoints.remove(&mut self.detector.pulses, at);
            } else {
                self.judge_endpoint(self.detector.pulses[at as usize].slot, since, now);
            }
        }
    }

    fn judge_endpoint(&mut self, slot: u32, since: MonoTime, now: MonoTime) {
        if self.pulse(slot).outstanding < OUTSTANDING_MIN {
            return;
        }
        let threshold = self.endpoint_threshold(slot);
        let silence = self.detector.lags.awake(since, now);
        if silence < threshold.suspicious {
            return;
        }
        let entry = &self.slots[slot as usize];
        let (subject, cluster) = (Subject::Endpoint(entry.id), entry.cluster);
        match self.state(Subject::Backend(entry.backend, entry.cluster)) {
            State::Healthy | State::Ramp => {}
            State::Suspect | State::Down(_) | State::Probation => return,
        }
        let Some(doubtful) = self.doubtful(subject, cluster, since, threshold.suspicious) else { return };
        // The balancer turns away from an endpoint that is busy with slow requests: then it is quiet, and well. What it was
        // sent since it last answered tells the two apart.
        let is_late =
            silence >= threshold.unheard_of / 2 || self.endpoint_overdue(slot, now).phi() >= PHI_SUSPECT;
        if doubtful == Doubtful::Yes && is_late && self.may_doubt(subject, now) {
            let evidence = self.evidence(subject, now);
            self.signal(subject, Signal::Doubt, evidence, now);
        }
        if now.since(self.pulse(slot).asked) >= PATIENCE.0 {
            self.use_pulse(slot).asked = now;
            self.inquire(subject, since, now);
        }
    }

    /// An endpoint's own: gaps by their mean, latency by its backend's.
    ///
    /// It is asked after the first time, and suspected after half of the second, twice the 99.9th percentile, at the
    /// latest: what it owes may tell earlier.
    pub(super) fn endpoint_threshold(&self, slot: u32) -> Threshold {
        let entry = &self.slots[slot as usize];
        let group = self.backends.get(entry.backend.index()).and_then(|backend| backend.group(entry.cluster));
        let part = group.and_then(|group| group.part.checked_sub(1));
        let flow = part.map(|at| &self.detector.parts[at as usize].flow);
        let median = flow.and_then(|flow| flow.median());
        let floor = median.map_or(SILENCE_CAP, |median| SILENCE_FLOOR.max(median * 2));
        let pulse = self.pulse(slot);
        let gap = Duration::from_micros(u64::from(pulse.gap_us)) * GAPS_SUSPECT;
        let known = pulse.gaps >= GAPS_MIN;
        let suspicious = floor.max(if known { gap } else { SILENCE_CAP });
        let tail = flow.and_then(|flow| flow.stalled()).map_or(FORGOTTEN, |tail| tail * 2);
        Threshold { suspicious, unheard_of: (suspicious * 2).max(tail) }
    }
}

/// Two lines' words for what is waited for.
fn both(a: u64, b: u64) -> u64 {
    match (a, b) {
        (0, other) | (other, 0) => other,
        (a, b) if a == b => a,
        (_, _) => u64::MAX,
    }
}

fn apart(a: MonoTime, b: MonoTime) -> Duration {
    a.since(b).max(b.since(a))
}

/// Is a silence theirs, or ours?
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Witness {
    /// Something else answers, or nothing else is to answer: theirs.
    Hears,
    /// Something else is to answer, and has had no time yet.
    NotYet,
    /// Something else is to answer, and is as silent: ours.
    Blind,
}

/// May a suspicion be raised, or only an inquiry be made?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doubtful {
    Yes,
    No,
}

impl Detector {
    /// The next tick is not later than this.
    fn wake_at(&mut self, at: MonoTime) {
        // Never closer than a quarter of a tick: a worker must not spin on what a peer will decide.
        let at = at.max(self.ticked + TICK / 4);
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }
}
