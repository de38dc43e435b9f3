//! One worker's failure detector: evidence, suspicions, verdicts, and the way back.
//!
//! ```text
//! events.rs    what the worker reports: sent, bytes, outcome          -> evidence
//! judge.rs     a tick: who is silent, and is it they or we            -> Doubt, inquiries
//! inquiry.rs   a suspicion under way: which probes, what they prove   -> Proof
//! keep.rs      what is down: probes, probation, ramp                  -> Returned, Trusted, Ramped
//! verdict.rs   the one place where a state changes, here and on the board
//! owed.rs      answers on connections of which only the bytes are known
//! overdue.rs   who should have been answered by now: of a backend over all workers, of an endpoint
//! checks.rs    active checks;  probes.rs  probes in flight and actions;  advise.rs  what is in flight
//! ```
//!
//! Part of the table's live half; every step is bounded, and nothing allocates once a backend has been used.

pub(crate) mod advise;
mod checks;
mod events;
mod inquiry;
mod judge;
mod keep;
mod overdue;
pub(crate) mod owed;
pub(crate) mod probes;
pub(crate) mod quiet;
mod verdict;

use std::sync::Arc;
use std::time::Duration;

use self::checks::Checks;
use self::inquiry::Inquiry;
use self::keep::Keep;
use self::probes::{Actions, Probes};
use self::quiet::{Linked, Links, QuietList};
use super::EndpointKey;
pub(super) use super::live::Live;
use super::live::Slot;
use super::shed::Pace;
use crate::chunks::Chunks;
use crate::health::action::Evidence;
use crate::health::board::{Board, Subject, Word};
use crate::health::evidence::{ErrorWindow, Flow, HedgeWindow, Lags};
use crate::health::histogram::Histogram;
use crate::health::state::{Reason, State};
use crate::health::waiting::{Overdue, Unanswered};
use crate::id::{BackendId, ClusterId};
use crate::model::{BackendSpec, ClusterSpec, Failback};
use crate::time::MonoTime;

/// Pairs of backend and cluster whose evidence gets room at once: the first before the first request.
const PARTS_CHUNK: usize = 16;

/// Endpoints whose evidence has room before their first request. Beyond it room is made for 256 at a time.
const PULSES_READY: usize = 512;

/// While something is down, nothing that was sent there counts for what is above it.
const NEVER_COUNTED: MonoTime = MonoTime(u64::MAX);

/// How often a line on the board is written at most.
const LINE_INTERVAL: Duration = Duration::from_micros(250);

/// Time between two ticks while something waits for an answer.
pub(crate) const TICK: Duration = Duration::from_millis(1);

/// A verdict as this worker knows it: a copy of the board's word, or the word itself where it is not shared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) word: Word,
    /// Whose verdict: not the next owner's of the same id.
    pub(crate) tag: u16,
    /// The board has no room for it.
    pub(crate) local: bool,
}

impl Verdict {
    pub(crate) fn new(tag: u16) -> Self {
        Self { tag, ..Self::default() }
    }

    pub(crate) fn state(&self) -> State {
        self.word.state()
    }
}

/// What is known about one cluster.
#[derive(Debug, Default)]
pub(crate) struct ClusterEvidence {
    pub(crate) verdict: Verdict,
    pub(crate) flow: Flow,
    /// Round trips of connects.
    pub(crate) round_trips: Histogram,
    /// Answers of probes by the application.
    pub(crate) app_answers: Histogram,
    /// Two endpoints that were used lately, of two backends if there are two: the first to be asked.
    pub(crate) recent: [(EndpointKey, BackendId); 2],
    pub(crate) region: Arc<str>,
    /// Endpoints of all backends.
    pub(crate) endpoints: u32,
    /// Attempts in flight.
    pub(crate) in_flight: u32,
    /// Answers on connections that this worker waits for (see `owed.rs`).
    owed: u32,
    /// Endpoints that turned out to be refused since `refused_since`.
    refused: u32,
    refused_since: MonoTime,
    /// The latest good answer.
    last_good: MonoTime,
    errors: u64,
    /// Of this worker, as of the latest tick.
    overdue: Overdue,
    /// Of this worker, as of the latest tick: the backend that everything waits for, as a line tells it.
    waits_for: u64,
    line_written: MonoTime,
    /// Receptions, to sample gaps over all workers.
    receptions: u32,
    /// When few requests were last asked about, and how long to wait before that is done again.
    asked: MonoTime,
    patience: Duration,
    /// The highest priority of routes that came here from elsewhere, and when.
    pub(crate) highest: (u8, MonoTime),
}

impl ClusterEvidence {
    /// The next to be asked: this one, and the latest of another backend, or at least another one.
    pub(crate) fn used(&mut self, key: EndpointKey, backend: BackendId) {
        let [(latest, latest_of), (_, other_of)] = self.recent;
        if latest == key {
            return;
        }
        let keeps_other = latest_of == backend && other_of != backend;
        self.recent = [(key, backend), if keeps_other { self.recent[1] } else { self.recent[0] }];
    }
}

/// What is known about one backend in one cluster. Exists once the pair has been used.
#[derive(Debug, Default)]
pub(crate) struct Part {
    links: Links,
    pub(crate) backend: BackendId,
    pub(crate) cluster: ClusterId,
    pub(crate) flow: Flow,
    pub(crate) errors: ErrorWindow,
    pub(crate) hedges: HedgeWindow,
    pub(crate) recent: [EndpointKey; 2],
    /// Answers on connections that this worker waits for, and whether there ever was one: then its speech is not known.
    owed: u32,
    is_opaque: bool,
    asked: MonoTime,
    /// What was sent until then is not counted for its cluster: it was down. [`NEVER_COUNTED`] while it is.
    uncounted: MonoTime,
    /// The next free part, plus one, while this is free.
    next_free: u32,
}

impl Linked for Part {
    fn links(&self) -> &Links {
        &self.links
    }

    fn links_mut(&mut self) -> &mut Links {
        &mut self.links
    }
}

/// What is known about one endpoint beyond its slot. Exists once the endpoint has been used, is checked, or has a
/// verdict; the first stands for all that have none.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    links: Links,
    /// The verdict; its tag is made of the slot.
    word: Word,
    local: bool,
    /// Whose it is. While it is nobody's: the next free one, 0 = none.
    slot: u32,
    /// The latest sign of life.
    heard: MonoTime,
    /// When it was last asked because it was quiet.
    asked: MonoTime,
    /// What was sent until then is not counted for its backend and cluster: it was down.
    uncounted: MonoTime,
    /// Mean gap between two signs of life while something waits, in microseconds; 0 = not known.
    gap_us: u32,
    pub(crate) outstanding: u32,
    /// Of those, answers on connections (see `owed.rs`).
    owed: u32,
    /// While it is ejected: since when, good answers in a row, and when the next single request may go.
    ejected: MonoTime,
    next_trial: MonoTime,
    trials: u8,
    /// When the third of those that wait was sent, or the latest sign of life came.
    third: MonoTime,
    /// What was sent since the latest sign of life.
    unanswered: Unanswered,
    /// Failures and good answers since `window`, for the endpoint's own error ratio.
    failed: u16,
    good: u16,
    /// Start of that window, in milliseconds.
    window_ms: u32,
    /// Active checks that failed in a row.
    check_failed: u8,
    /// Its next active check is planned.
    is_checked: bool,
    /// Signs of life that `gap_us` is made of, up to 255.
    gaps: u8,
}

impl Linked for Pulse {
    fn links(&self) -> &Links {
        &self.links
    }

    fn links_mut(&mut self) -> &mut Links {
        &mut self.links
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Detector {
    pub(crate) board: Arc<Board>,
    worker: u16,
    pub(crate) workers: u16,
    /// Changes on the board that have been copied.
    seen: u64,
    pub(crate) clusters: Vec<ClusterEvidence>,
    pub(crate) parts: Chunks<Part, PARTS_CHUNK>,
    free_part: u32,
    pub(crate) pulses: Chunks<Pulse>,
    free_pulse: u32,
    quiet_endpoints: QuietList,
    quiet_parts: QuietList,
    pub(crate) lags: Lags,
    inquiries: Vec<Inquiry>,
    keeps: Vec<Keep>,
    probes: Probes,
    pub(crate) actions: Actions,
    checks: Checks,
    /// Verdicts that had to be decided by this worker alone.
    pub(crate) verdicts_local: u64,
    /// Suspicions and verdicts that were not followed up because too many were.
    pub(crate) overflows: u64,
    /// Clusters and parts that are not healthy: while there is none, a pick asks for no verdict.
    pub(crate) wide: u32,
    /// Endpoints, parts and clusters in ramp.
    pub(crate) ramps: u32,
    /// Endpoints in the table.
    endpoints: usize,
    /// What waits for single real requests.
    pub(crate) probation: Vec<Subject>,
    /// Endpoints that failures in a row took out; what is over is dropped when it is met.
    pub(crate) ejected: Vec<EndpointKey>,
    /// Single requests of this worker.
    pub(crate) pace: Pace,
    ticked: MonoTime,
    due: Option<MonoTime>,
}

impl Detector {
    pub(crate) fn new(board: Arc<Board>, worker: u16, workers: u16) -> Self {
        Self {
            board,
            worker,
            workers: workers.max(1),
            seen: 0,
            clusters: Vec::new(),
            parts: Chunks::default(),
            free_part: 0,
            pulses: Chunks::default(),
            free_pulse: 0,
            quiet_endpoints: QuietList::default(),
            quiet_parts: QuietList::default(),
            lags: Lags::default(),
            inquiries: Vec::with_capacity(inquiry::INQUIRIES_MAX),
            keeps: Vec::with_capacity(keep::KEEPS_MAX),
            probes: Probes::new(),
            actions: Actions::new(),
            checks: Checks::default(),
            verdicts_local: 0,
            overflows: 0,
            wide: 0,
            ramps: 0,
            endpoints: 0,
            probation: Vec::with_capacity(keep::KEEPS_MAX),
            ejected: Vec::with_capacity(keep::KEEPS_MAX),
            pace: Pace::default(),
            ticked: MonoTime::ZERO,
            due: None,
        }
    }

    // ------------------------------------------------------------ the world changes

    pub(crate) fn set_cluster(&mut self, id: ClusterId, spec: Option<&ClusterSpec>) {
        if self.clusters.len() <= id.index() {
            self.clusters.resize_with(id.index() + 1, ClusterEvidence::default);
        }
        let Some(spec) = spec else { return };
        let tag = tag(spec.name.as_bytes(), 0);
        let entry = &mut self.clusters[id.index()];
        entry.region = Arc::clone(&spec.region);
        if entry.verdict.tag != tag {
            let old = entry.verdict;
            let (endpoints, in_flight, recent) = (entry.endpoints, entry.in_flight, entry.recent);
            let owed = entry.owed;
            let region = Arc::clone(&entry.region);
            *entry = ClusterEvidence {
                verdict: Verdict::new(tag),
                endpoints,
                in_flight,
                owed,
                recent,
                region,
                ..ClusterEvidence::default()
            };
            self.forget(Subject::Cluster(id), old.state());
        }
    }

    pub(crate) fn cluster(&self, id: ClusterId) -> Option<&ClusterEvidence> {
        self.clusters.get(id.index())
    }

    /// An endpoint's slot was given out.
    pub(crate) fn add_endpoint(&mut self, key: EndpointKey, backend: BackendId, cluster: ClusterId) {
        self.endpoints += 1;
        // Room before the first request needs it: one chunk at a time, up to a bound.
        if self.pulses.len() <= self.endpoints.min(PULSES_READY) {
            let from = self.pulses.len();
            self.pulses.fill_chunk();
            for at in (from.max(1)..self.pulses.len()).rev() {
                let at = u32::try_from(at).expect("endpoints are fewer than 2^32");
                self.pulses[at as usize].slot = self.free_pulse;
                self.free_pulse = at;
            }
        }
        if self.clusters.len() <= cluster.index() {
            self.clusters.resize_with(cluster.index() + 1, ClusterEvidence::default);
        }
        if self.parts.len() == 0 {
            self.parts.fill_chunk();
            for at in (0..PARTS_CHUNK).rev() {
                self.parts[at].next_free = self.free_part;
                self.free_part = u32::try_from(at + 1).expect("one chunk");
            }
        }
        let entry = &mut self.clusters[cluster.index()];
        entry.endpoints += 1;
        entry.used(key, backend);
    }

    /// An endpoint left every choice.
    pub(crate) fn remove_endpoint(&mut self, pulse: u32, subject: Subject, state: State, cluster: ClusterId) {
        self.endpoints -= 1;
        self.quiet_endpoints.remove(&mut self.pulses, pulse);
        if let Some(entry) = self.clusters.get_mut(cluster.index()) {
            entry.endpoints = entry.endpoints.saturating_sub(1);
        }
        self.forget(subject, state);
    }

    /// Nothing more is done about it: it left the table, or is another by now.
    pub(crate) fn forget(&mut self, subject: Subject, state: State) {
        if state == State::Healthy && self.inquiries.is_empty() {
            return;
        }
        self.count(subject, state, State::Healthy);
        self.inquiries.retain(|inquiry| inquiry.subject != subject);
        self.keeps.retain(|keep| keep.subject != subject);
    }

    fn take_pulse(&mut self, slot: u32) -> u32 {
        let at = if self.free_pulse == 0 {
            self.pulses.grow_to_hold(0);
            u32::try_from(self.pulses.push(Pulse::default())).expect("endpoints are fewer than 2^32")
        } else {
            let at = self.free_pulse;
            self.free_pulse = self.pulses[at as usize].slot;
            at
        };
        self.pulses[at as usize] = Pulse { slot, ..Pulse::default() };
        at
    }

    /// A slot is free: so is what was known about its endpoint.
    pub(crate) fn free_pulse(&mut self, at: u32) {
        if at != 0 {
            self.quiet_endpoints.remove(&mut self.pulses, at);
            self.pulses[at as usize] = Pulse { slot: self.free_pulse, ..Pulse::default() };
            self.free_pulse = at;
        }
    }

    /// Evidence of a pair that is used for the first time.
    fn take_part(&mut self, backend: BackendId, cluster: ClusterId) -> u32 {
        let at = match self.free_part.checked_sub(1) {
            Some(at) => {
                self.free_part = self.parts[at as usize].next_free;
                at
            }
            None => u32::try_from(self.parts.push(Part::default())).expect("fewer pairs than endpoints"),
        };
        self.parts[at as usize] = Part { backend, cluster, ..Part::default() };
        at
    }

    /// A pair left the table, or became another.
    pub(crate) fn free_part(&mut self, at: u32) {
        self.quiet_parts.remove(&mut self.parts, at);
        self.parts[at as usize] = Part { next_free: self.free_part, ..Part::default() };
        self.free_part = at + 1;
    }
}

/// Sixteen bits that tell two owners of one id apart.
pub(crate) fn tag(name: &[u8], salt: u64) -> u16 {
    let mixed = crate::balance::hash::finish(crate::balance::hash::hash(name) ^ salt);
    u16::try_from(mixed & 0xFFFF).expect("16 bits")
}

/// An endpoint's tag: another address under its id is another endpoint.
pub(crate) fn endpoint_tag(affinity: u64, backend: BackendId) -> u16 {
    let mixed = crate::balance::hash::finish(affinity ^ u64::from(backend.0) << 20);
    u16::try_from(mixed & 0xFFFF).expect("16 bits")
}

impl Live {
    /// How traffic comes back to `subject`: of its backend, or the slowest way of all backends in a cluster.
    fn failback(&self, subject: Subject) -> Failback {
        let of = |backend: BackendId| {
            let spec = self.backends.get(backend.index()).and_then(|entry| entry.spec.as_ref());
            spec.map(|spec| spec.detection.failback)
        };
        match subject {
            Subject::Backend(backend, _) => of(backend).unwrap_or_default(),
            Subject::Endpoint(id) => {
                let slot = self.slot_of(id).map(|slot| self.slots[slot as usize].backend);
                slot.and_then(of).unwrap_or_default()
            }
            Subject::Cluster(cluster) => {
                let here = self.backends.iter().filter(|entry| entry.group(cluster).is_some());
                let ways = here.filter_map(|entry| entry.spec.as_ref()).map(|spec| spec.detection.failback);
                ways.reduce(|a, b| Failback { delay: a.delay.max(b.delay), ramp: a.ramp.max(b.ramp) })
                    .unwrap_or_default()
            }
        }
    }

    pub(crate) fn spec_of(&self, slot: &Slot) -> Option<&Arc<BackendSpec>> {
        self.backends.get(slot.backend.index())?.spec.as_ref()
    }

    /// What is known of a cluster, and of a backend there.
    pub(crate) fn states(&self, backend: BackendId, cluster: ClusterId) -> (State, State) {
        (self.state(Subject::Cluster(cluster)), self.state(Subject::Backend(backend, cluster)))
    }

    /// The numbers of the latest tick.
    pub(crate) fn evidence_now(&mut self, subject: Subject) -> Evidence {
        let now = self.detector.ticked;
        let times = self.times(subject);
        Evidence { times, ..self.evidence(subject, now) }
    }

    /// As [`Live::sync`], by who has no time at hand.
    pub(crate) fn sync_for_view(&mut self) {
        let now = self.detector.ticked;
        self.sync(now);
    }

    /// What is known about an endpoint; nothing at all while it has not been used.
    pub(crate) fn pulse(&self, slot: u32) -> &Pulse {
        &self.detector.pulses[self.slots[slot as usize].pulse as usize]
    }

    pub(crate) fn pulse_word(&self, slot: &Slot) -> Word {
        self.detector.pulses[slot.pulse as usize].word
    }

    /// The same, to be written.
    pub(crate) fn use_pulse(&mut self, slot: u32) -> &mut Pulse {
        let entry = &mut self.slots[slot as usize];
        if entry.pulse == 0 {
            entry.pulse = self.detector.take_pulse(slot);
        }
        &mut self.detector.pulses[entry.pulse as usize]
    }

    /// Is anything wrong where this endpoint is?
    pub(crate) fn is_suspected(&self, key: EndpointKey) -> bool {
        let states = self.slot(key).map(|slot| self.worst(slot)).unwrap_or_default();
        states.into_iter().any(|state| state != State::Healthy)
    }

    /// Does any of a slot's three verdicts say that nothing answers there, or what else is wrong?
    pub(crate) fn worst(&self, slot: &Slot) -> [State; 3] {
        let cluster = self.detector.cluster(slot.cluster).map(|entry| entry.verdict.state());
        let group = self.backends.get(slot.backend.index()).and_then(|entry| entry.group(slot.cluster));
        let part = group.map(|group| group.word.state());
        [cluster.unwrap_or_default(), part.unwrap_or_default(), slot.state]
    }
}

/// The reason among states that says that nothing answers.
pub(crate) fn unreachable(states: [State; 3]) -> Option<Reason> {
    states.into_iter().filter_map(State::reason).find(|reason| reason.is_unreachable())
}
