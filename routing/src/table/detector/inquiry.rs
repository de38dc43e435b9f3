//! A suspicion under way: two endpoints are asked, first whether their host answers, then whether their application
//! does. What they answer decides which verdict it is; that traffic is still silent is always the other half of the
//! proof.
//!
//! ```text
//! connect unanswered by all          -> Silent (Refused when refused)
//! application unanswered by all      -> Hang
//! answered by some                   -> those that did not are down alone
//! answered, and too much is overdue  -> Slow
//! ```

use std::time::Duration;

use super::judge::Witness;
use super::probes::{Ask, InFlight, Purpose};
use super::{Detector, Live, NEVER_COUNTED};
use crate::health::action::{Evidence, ProbeResult, ProbeToken};
use crate::health::board::Subject;
use crate::health::evidence::{LAG_MIN, OUTSTANDING_MIN, SILENCE_FLOOR};
use crate::health::state::{Reason, Signal, State};
use crate::id::ClusterId;
use crate::table::EndpointKey;
use crate::table::live::Life;
use crate::time::MonoTime;

/// Suspicions that one worker follows up at once.
pub(super) const INQUIRIES_MAX: usize = 64;

/// Probes are answered: what raised no suspicion until then is let be.
const SETTLED_AFTER: Duration = Duration::from_millis(16);

/// Between two looks at an inquiry whose probes are answered, or that must not decide.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// A suspicion that neither proof nor an answer ended until then came to nothing: traffic is let in by and by.
pub(super) const SUSPECT_MAX: Duration = Duration::from_secs(1);

/// One of those that are asked.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Asked {
    pub(super) key: EndpointKey,
    connect: Answer,
    app: Answer,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Answer {
    #[default]
    NotAsked,
    Pending,
    Good,
    Refused,
    /// Not within `timeout`, between these two times.
    Failed {
        sent: MonoTime,
        at: MonoTime,
        timeout: Duration,
    },
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Inquiry {
    pub(super) subject: Subject,
    began: MonoTime,
    /// When the silence began that raised it: a sign of life after that ends it.
    silent_since: MonoTime,
    asked: [Option<Asked>; 2],
    /// One that was asked is down by itself.
    has_blamed: bool,
    probe: Option<ProbeResult>,
    pub(super) next_at: MonoTime,
}

/// What the probes of an inquiry say together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finding {
    /// Not all have answered or failed.
    Open,
    /// Nothing there answers, for this reason.
    Unreachable(Reason),
    /// Somebody answers.
    Green,
}

impl Live {
    pub(super) fn is_pursued(&self, subject: Subject) -> bool {
        self.detector.inquiries.iter().any(|inquiry| inquiry.subject == subject)
    }

    /// Asks two endpoints of `subject`, silent since then, whether they live.
    pub(super) fn inquire(&mut self, subject: Subject, silent_since: MonoTime, now: MonoTime) {
        if self.is_pursued(subject) {
            return;
        }
        if self.detector.inquiries.len() >= INQUIRIES_MAX {
            self.detector.overflows += 1;
            return;
        }
        let slots = self.to_ask(subject, 0);
        let mut asked = [None; 2];
        for (nth, slot) in slots.into_iter().enumerate() {
            let Some(slot) = slot else { continue };
            if self.probe(slot, Ask::Connect, subject, Purpose::Inquiry(nth), now) {
                let key = self.key(slot);
                asked[nth] = Some(Asked { key, connect: Answer::Pending, app: Answer::NotAsked });
            }
        }
        if asked.iter().any(Option::is_some) {
            let next_at = now + LOOK_AGAIN;
            let (began, has_blamed, probe) = (now, false, None);
            let inquiry = Inquiry { subject, began, silent_since, asked, has_blamed, probe, next_at };
            self.detector.inquiries.push(inquiry);
        }
    }

    /// A connection broke or could not be made: is anybody there? No suspicion, one event is ordinary.
    pub(super) fn doubt_endpoint(&mut self, slot: u32, now: MonoTime) {
        let entry = &self.slots[slot as usize];
        if entry.life != Life::Live {
            return;
        }
        let subject = Subject::Endpoint(entry.id);
        match entry.state {
            State::Healthy | State::Suspect | State::Ramp | State::Probation => {
                self.inquire(subject, now, now);
            }
            State::Down(_) => {}
        }
    }

    /// One or two slots that stand for `subject`; another choice for each `round`.
    pub(super) fn to_ask(&self, subject: Subject, round: u32) -> [Option<u32>; 2] {
        let live =
            |key: &EndpointKey| self.slot(*key).filter(|slot| slot.life == Life::Live).map(|_| key.slot);
        match subject {
            Subject::Endpoint(id) => [self.slot_of(id), None],
            Subject::Backend(backend, cluster) => {
                let group = self.backends.get(backend.index()).and_then(|entry| entry.group(cluster));
                let Some(members) = group.map(|group| &group.members).filter(|members| !members.is_empty())
                else {
                    return [None; 2];
                };
                let at = |nth: usize| members[(round as usize * 2 + nth) % members.len()];
                if members.len() == 1 { [Some(at(0)), None] } else { [Some(at(0)), Some(at(1))] }
            }
            Subject::Cluster(cluster) => {
                let recent = self.detector.cluster(cluster).map(|entry| entry.recent).unwrap_or_default();
                let mut found = [live(&recent[0].0), live(&recent[1].0)];
                if found[0] == found[1] {
                    found[1] = None;
                }
                // Every other round, and where those are gone: whoever comes next in the slots.
                if found == [None; 2] || round % 2 == 1 { self.any_of(cluster, round) } else { found }
            }
        }
    }

    fn any_of(&self, cluster: ClusterId, round: u32) -> [Option<u32>; 2] {
        /// Slots that are looked at.
        const WINDOW: usize = 256;
        let count = self.slots.len();
        let start = round as usize * WINDOW;
        let window = (0..WINDOW.min(count)).map(|nth| (start + nth) % count);
        let mut here = window.filter(|at| {
            let slot = &self.slots[*at];
            slot.life == Life::Live && slot.cluster == cluster
        });
        let mut next = || here.next().and_then(|at| u32::try_from(at).ok());
        [next(), next()]
    }

    // ------------------------------------------------------------ answers

    pub(crate) fn on_probe(&mut self, token: ProbeToken, result: ProbeResult, now: MonoTime) {
        let Some(probe) = self.detector.probes.end(token) else { return };
        let cluster = self.slot(probe.endpoint).map(|slot| slot.cluster);
        if let (ProbeResult::Answered { latency }, Some(cluster)) = (result, cluster) {
            self.detector.round_trip(cluster, probe.ask, latency, now);
        }
        match probe.purpose {
            Purpose::Inquiry(nth) => self.answer_inquiry(&probe, nth, result, now),
            Purpose::Keep => self.answer_keep(&probe, result, now),
            Purpose::Check => self.answer_check(&probe, result, now),
        }
        let is_there = self.slot(probe.endpoint).is_some_and(|slot| slot.life == Life::Live);
        if result == ProbeResult::Refused && is_there {
            self.refused(probe.endpoint.slot, Some(result), now);
        }
    }

    fn answer_inquiry(&mut self, probe: &InFlight, nth: usize, result: ProbeResult, now: MonoTime) {
        // A probe of an inquiry that has ended says nothing about the silence of this one.
        let is_of = |inquiry: &Inquiry| inquiry.subject == probe.subject && inquiry.began <= probe.sent;
        let Some(at) = self.detector.inquiries.iter().position(is_of) else { return };
        let inquiry = &mut self.detector.inquiries[at];
        let Some(asked) = inquiry.asked[nth].as_mut().filter(|asked| asked.key == probe.endpoint) else {
            return;
        };
        let answer = match result {
            // For life any status will do.
            ProbeResult::Answered { .. } | ProbeResult::BadStatus(_) => Answer::Good,
            ProbeResult::Refused => Answer::Refused,
            ProbeResult::TimedOut => Answer::Failed { sent: probe.sent, at: now, timeout: probe.timeout },
        };
        match probe.ask {
            Ask::Connect => asked.connect = answer,
            Ask::App => asked.app = answer,
        }
        inquiry.probe = Some(result);
        // A worker that stood still hears the timer before the answer: decide at the tick, which knows of it.
        if now.since(self.detector.ticked) > LAG_MIN * 2 {
            self.detector.inquiries[at].next_at = now;
        } else {
            self.pursue(at, now);
        }
    }

    pub(super) fn pursue_all(&mut self, now: MonoTime) {
        let mut at = 0;
        while let Some(inquiry) = self.detector.inquiries.get(at) {
            let before = inquiry.subject;
            if inquiry.next_at <= now {
                self.pursue(at, now);
            }
            // One that ended left its place to another.
            if self.detector.inquiries.get(at).is_some_and(|inquiry| inquiry.subject == before) {
                at += 1;
            }
        }
    }

    /// Goes on with one inquiry: asks, waits, or decides.
    fn pursue(&mut self, at: usize, now: MonoTime) {
        let inquiry = &self.detector.inquiries[at];
        let (subject, silent_since, probe) = (inquiry.subject, inquiry.silent_since, inquiry.probe);
        self.detector.inquiries[at].next_at = now + LOOK_AGAIN;
        let is_heard = self.heard_since(subject, silent_since, now);
        if is_heard && !self.is_slow(subject, now) {
            let evidence = Evidence { probe, ..self.evidence(subject, now) };
            self.detector.inquiries.remove(at);
            self.signal(subject, Signal::Answer, evidence, now);
            return;
        }
        self.ask_on(at, now);
        match self.detector.inquiries[at].finding() {
            Finding::Open => {}
            Finding::Unreachable(_) if is_heard => drop(self.detector.inquiries.remove(at)),
            Finding::Unreachable(reason) => self.prove(at, reason, now),
            Finding::Green => self.conclude(at, now),
        }
    }

    /// Somebody there answers probes: is it slow, or is it well?
    fn conclude(&mut self, at: usize, now: MonoTime) {
        let subject = self.detector.inquiries[at].subject;
        self.blame_those_that_failed(at, now);
        // Verdicts on others may have ended inquiries before this one.
        let found = self.detector.inquiries.iter().position(|inquiry| inquiry.subject == subject);
        let Some(at) = found else { return };
        let Inquiry { began, has_blamed, probe, .. } = self.detector.inquiries[at];
        if self.is_slow(subject, now) {
            return self.prove(at, Reason::Slow, now);
        }
        let waited = self.detector.lags.awake(began, now);
        let (signal, is_over) = match self.state(subject) {
            // What raised it is explained by a verdict below it. Not the probes clear it: there is nothing left of it.
            State::Suspect if has_blamed && self.waits(subject, now) < OUTSTANDING_MIN => {
                (Signal::Answer, true)
            }
            State::Suspect => (Signal::Trusted, waited >= SUSPECT_MAX),
            // Few requests, or one event: it lives, and that was the question.
            State::Healthy | State::Down(_) | State::Probation | State::Ramp => {
                if waited >= SETTLED_AFTER {
                    self.detector.inquiries.remove(at);
                }
                return;
            }
        };
        if is_over {
            let evidence = Evidence { probe, ..self.evidence(subject, now) };
            self.signal(subject, signal, evidence, now);
        }
    }

    /// Sends the next probe to each that can be asked further.
    fn ask_on(&mut self, at: usize, now: MonoTime) {
        let subject = self.detector.inquiries[at].subject;
        for nth in 0..2 {
            let Some(mut asked) = self.detector.inquiries[at].asked[nth] else { continue };
            if self.slot(asked.key).is_none_or(|slot| slot.life != Life::Live) {
                self.detector.inquiries[at].asked[nth] = None;
                continue;
            }
            for (ask, answer) in [(Ask::Connect, &mut asked.connect), (Ask::App, &mut asked.app)] {
                if let Answer::Failed { sent, at, timeout } = *answer {
                    // We slept through part of it: that is no answer, however often it happens.
                    let awake = self.detector.lags.awake(sent, at);
                    if awake + LAG_MIN / 2 < timeout {
                        *answer = Answer::NotAsked;
                    }
                }
                let is_due = *answer == Answer::NotAsked;
                if is_due && self.probe(asked.key.slot, ask, subject, Purpose::Inquiry(nth), now) {
                    *answer = Answer::Pending;
                }
                if *answer != Answer::Good {
                    break;
                }
            }
            self.detector.inquiries[at].asked[nth] = Some(asked);
        }
    }

    /// Silence and failed probes have come together, unless it is our own fault.
    fn prove(&mut self, at: usize, reason: Reason, now: MonoTime) {
        let inquiry = &self.detector.inquiries[at];
        let (subject, probe) = (inquiry.subject, inquiry.probe);
        let since = inquiry.silent_since;
        match self.witness_of(subject, since, now) {
            Witness::Hears => {}
            Witness::NotYet if reason != Reason::Refused => return,
            Witness::Blind if reason != Reason::Refused => {
                return self.detector.inquiries[at].ask_again();
            }
            Witness::NotYet | Witness::Blind => {}
        }
        let evidence = Evidence { probe, ..self.evidence(subject, now) };
        self.detector.inquiries.remove(at);
        match (subject, reason) {
            (Subject::Endpoint(id), Reason::Refused) => {
                if let Some(slot) = self.slot_of(id) {
                    self.refused(slot, probe, now);
                }
            }
            (_, _) => drop(self.signal(subject, Signal::Proof(reason), evidence, now)),
        }
    }

    /// Of a cluster or backend that lives, those endpoints that did not answer are down by themselves: they are
    /// silent, too.
    fn blame_those_that_failed(&mut self, at: usize, now: MonoTime) {
        let inquiry = &self.detector.inquiries[at];
        let (subject, silent_since, all) = (inquiry.subject, inquiry.silent_since, inquiry.asked);
        for asked in all.into_iter().flatten() {
            let Some(reason) = asked.failed() else { continue };
            let Some(slot) = self.slot(asked.key).filter(|slot| slot.life == Life::Live) else { continue };
            let endpoint = Subject::Endpoint(slot.id);
            let pulse = self.pulse(asked.key.slot);
            // A request that was sent there only now says nothing about it yet.
            let silence = self.detector.lags.awake(pulse.links.since, now);
            let waits = pulse.outstanding > 0 && silence >= SILENCE_FLOOR;
            if endpoint == subject || !waits || self.heard_since(endpoint, silent_since, now) {
                continue;
            }
            let evidence = Evidence { probe: Some(ProbeResult::TimedOut), ..self.evidence(endpoint, now) };
            self.signal(endpoint, Signal::Proof(reason), evidence, now);
            let inquiry = self.detector.inquiries.iter_mut().find(|inquiry| inquiry.subject == subject);
            if let Some(inquiry) = inquiry {
                inquiry.has_blamed = true;
            }
        }
    }

    /// Has there been a sign of life from `subject` since then?
    fn heard_since(&mut self, subject: Subject, since: MonoTime, now: MonoTime) -> bool {
        match subject {
            Subject::Cluster(cluster) => self.detector.over_all(cluster, now).last_rx > since,
            Subject::Backend(backend, cluster) => self
                .detector
                .part_of(&self.backends, backend, cluster)
                .is_some_and(|at| self.detector.parts[at as usize].flow.last_rx > since),
            Subject::Endpoint(id) => self.slot_of(id).is_some_and(|slot| self.pulse(slot).heard > since),
        }
    }

    /// Requests that wait for `subject` and count as evidence.
    fn waits(&mut self, subject: Subject, now: MonoTime) -> u32 {
        match subject {
            Subject::Cluster(cluster) => self.detector.over_all(cluster, now).outstanding,
            Subject::Backend(backend, cluster) => {
                let part = self.detector.part_of(&self.backends, backend, cluster);
                part.map_or(0, |at| self.detector.parts[at as usize].flow.waiting.count(now))
            }
            Subject::Endpoint(id) => self.slot_of(id).map_or(0, |slot| self.pulse(slot).outstanding),
        }
    }

    /// Is more than half of what is used there silent? Else its endpoints are to be judged one by one.
    pub(super) fn is_wide(&self, subject: Subject, now: MonoTime) -> bool {
        /// Endpoints that are looked at.
        const LOOKS: usize = 1_024;
        let (mut silent, mut lively) = (0u32, 0u32);
        let mut look = |slot: u32, floor: Duration| {
            let pulse = self.pulse(slot);
            // Those that are out are explained.
            if pulse.uncounted == NEVER_COUNTED {
                return;
            }
            if self.detector.lags.awake(pulse.heard, now) < floor {
                lively += 1;
            } else if pulse.outstanding > 0 && self.detector.lags.awake(pulse.links.since, now) >= floor {
                silent += 1;
            }
        };
        match subject {
            Subject::Cluster(cluster) => {
                let Some(entry) = self.detector.cluster(cluster) else { return false };
                let floor = entry.flow.floor();
                let here = (0..self.slots.len()).filter(|at| {
                    let slot = &self.slots[*at];
                    slot.life == Life::Live && slot.cluster == cluster && slot.pulse != 0
                });
                for at in here.take(LOOKS) {
                    look(u32::try_from(at).unwrap_or(u32::MAX), floor);
                }
            }
            Subject::Backend(backend, cluster) => {
                let Some(at) = self.detector.part_of(&self.backends, backend, cluster) else { return false };
                let floor = self.detector.parts[at as usize].flow.floor();
                let group = self.backends.get(backend.index()).and_then(|entry| entry.group(cluster));
                for slot in group.into_iter().flat_map(|group| &group.members).take(LOOKS) {
                    look(*slot, floor);
                }
            }
            Subject::Endpoint(_) => return true,
        }
        silent > lively
    }
}

impl Asked {
    /// What is wrong with it, once that is known.
    fn failed(&self) -> Option<Reason> {
        match (self.connect, self.app) {
            (Answer::Refused, _) | (_, Answer::Refused) => Some(Reason::Refused),
            (Answer::Failed { .. }, _) => Some(Reason::Silent),
            (Answer::Good, Answer::Failed { .. }) => Some(Reason::Hang),
            (Answer::NotAsked | Answer::Pending, _)
            | (Answer::Good, Answer::NotAsked | Answer::Pending | Answer::Good) => None,
        }
    }

    fn is_open(&self) -> bool {
        match (self.connect, self.app) {
            (Answer::NotAsked | Answer::Pending, _) => true,
            (Answer::Good, Answer::NotAsked | Answer::Pending) => true,
            (Answer::Good, Answer::Good | Answer::Refused | Answer::Failed { .. }) => false,
            (Answer::Refused | Answer::Failed { .. }, _) => false,
        }
    }
}

impl Inquiry {
    fn finding(&self) -> Finding {
        let asked = || self.asked.iter().flatten();
        let lives = |one: &&Asked| one.app == Answer::Good;
        if asked().any(|one| lives(&one)) && asked().all(|one| !one.is_open()) {
            return Finding::Green;
        }
        if asked().next().is_none() {
            // Those that were asked have left. Nothing is known.
            return Finding::Green;
        }
        if asked().any(Asked::is_open) {
            return Finding::Open;
        }
        // The mildest of what was found: a host that answers is not silent.
        let found = asked().filter_map(Asked::failed);
        let mildest = found.max_by_key(|reason| match reason {
            Reason::Hang => 2,
            Reason::Silent => 1,
            Reason::Refused | Reason::Errors | Reason::Slow | Reason::Check => 0,
        });
        mildest.map_or(Finding::Open, Finding::Unreachable)
    }

    /// All over again, a little later.
    fn ask_again(&mut self) {
        for asked in self.asked.iter_mut().flatten() {
            (asked.connect, asked.app) = (Answer::NotAsked, Answer::NotAsked);
        }
        self.next_at = self.next_at + SETTLED_AFTER;
    }
}

impl Detector {
    pub(super) fn part_of(
        &self,
        backends: &crate::chunks::Chunks<crate::table::live::BackendEntry>,
        backend: crate::id::BackendId,
        cluster: ClusterId,
    ) -> Option<u32> {
        backends.get(backend.index())?.group(cluster)?.part.checked_sub(1)
    }
}
