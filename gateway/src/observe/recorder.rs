//! The flight recorder: the last decisions of one worker, so that each failover arrives with its own timeline.
//!
//! A ring of plain entries that is written in place: no allocation, no clock of its own, a store per decision. A verdict
//! of this worker (a cluster or a backend is down) asks for the window around it: [`BEFORE`] before and [`AFTER`] after,
//! as far as the ring reaches. The window leaves as one `Recording` through a bounded channel, with the names that the
//! worker's table knows; another thread writes it ([`recording`](super::recording)).

use std::cell::{Cell, RefCell};
use std::time::Duration;

use crossbeam_channel::Sender;
use routing::health::action::{Evidence, HedgeWhy, Origin, ProbeResult, Scope, Transition};
use routing::health::endpoint::Outcome;
use routing::health::state::{Reason, State};
use routing::id::{BackendId, ClusterId};
use routing::retry::{Charge, FailureKind};
use routing::table::{EndpointKey, NoEndpoint, Pick};
use routing::time::MonoTime;

use super::recording::Window;

/// How much before a verdict its recording shows.
pub const BEFORE: Duration = Duration::from_secs(2);
/// How much after it.
pub const AFTER: Duration = Duration::from_millis(200);
/// Verdicts of one recording. What follows within [`AFTER`] of the first belongs to the same failover.
pub const VERDICTS_MAX: usize = 16;

/// Of whom an entry is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Whom {
    /// The cluster.
    pub cluster: Option<ClusterId>,
    /// The backend.
    pub backend: Option<BackendId>,
    /// The endpoint.
    pub endpoint: Option<EndpointKey>,
}

impl From<&Pick> for Whom {
    fn from(pick: &Pick) -> Self {
        Self { cluster: Some(pick.cluster), backend: Some(pick.backend), endpoint: Some(pick.endpoint) }
    }
}

impl Whom {
    /// Whom a verdict is about; of an endpoint the table knows the rest.
    #[must_use]
    pub fn of(scope: Scope) -> Self {
        match scope {
            Scope::All => Self::default(),
            Scope::Cluster(cluster) => Self { cluster: Some(cluster), ..Self::default() },
            Scope::Backend(backend, cluster) => {
                Self { cluster: Some(cluster), backend: Some(backend), endpoint: None }
            }
            Scope::Endpoint(endpoint) => Self { endpoint: Some(endpoint), ..Self::default() },
        }
    }
}

/// One decision, or what led to it.
#[derive(Clone, Copy, Debug)]
pub enum What {
    /// An attempt was given to the endpoint.
    Pick {
        /// Is it a trial of something that may come back?
        trial: bool,
    },
    /// It ended.
    Outcome {
        /// How.
        outcome: Outcome,
        /// Since the pick, in microseconds.
        took_us: u32,
    },
    /// A second attempt was begun on the endpoint because of one that waits elsewhere.
    Hedge {
        /// Why.
        why: HedgeWhy,
        /// The one that waits.
        beside: EndpointKey,
    },
    /// The same, because nothing answers there.
    Leave {
        /// What is wrong there.
        reason: Reason,
        /// What was left.
        beside: EndpointKey,
    },
    /// The same, because the first is a trial.
    Tie {
        /// The trial.
        beside: EndpointKey,
    },
    /// An attempt failed on the endpoint; the request is tried again.
    Retry {
        /// How it failed.
        failure: FailureKind,
        /// Who pays.
        charge: Charge,
    },
    /// The detector changed a state: of the endpoint, or else of the backend, or else of the cluster.
    State {
        /// Before.
        from: State,
        /// After.
        to: State,
        /// Who decided.
        origin: Origin,
        /// For how long nothing had come, in microseconds.
        silence_us: u32,
        /// Requests that waited.
        outstanding: u32,
    },
    /// A probe of the endpoint ended.
    Probe {
        /// How.
        result: ProbeResult,
    },
    /// A request was turned away.
    Shed {
        /// Why.
        why: NoEndpoint,
    },
}

/// An entry of the ring.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// When.
    pub at: MonoTime,
    /// Of whom.
    pub whom: Whom,
    /// What.
    pub what: What,
}

const _: () = assert!(size_of::<Option<Entry>>() <= 64, "observe.recorder_entries says 64 bytes");

/// A verdict that is to be recorded.
#[derive(Clone, Debug)]
pub struct Trigger {
    /// Whose state.
    pub whom: Whom,
    /// Before.
    pub from: State,
    /// After.
    pub to: State,
    /// When.
    pub at: MonoTime,
    /// The numbers that led to it.
    pub evidence: Evidence,
}

/// See the module.
pub struct Recorder {
    /// Its length is a power of two; empty = off.
    ring: Box<[Cell<Option<Entry>>]>,
    /// Entries written so far.
    written: Cell<usize>,
    /// Where the ring has half gone round since the verdict: more would push out what led to it.
    full_at: Cell<usize>,
    /// Verdicts whose aftermath is awaited.
    triggers: RefCell<Vec<Trigger>>,
    out: Option<Sender<Window>>,
}

impl Default for Recorder {
    /// Off.
    fn default() -> Self {
        Self::new(0, None)
    }
}

impl Recorder {
    /// Remembers at least `entries`, and sends windows to `out`; off without either.
    #[must_use]
    pub fn new(entries: u32, out: Option<Sender<Window>>) -> Self {
        let length = if entries == 0 || out.is_none() { 0 } else { (entries as usize).next_power_of_two() };
        Self {
            ring: (0..length).map(|_| Cell::new(None)).collect(),
            written: Cell::new(0),
            full_at: Cell::new(usize::MAX),
            triggers: RefCell::default(),
            out,
        }
    }

    /// Remembers `what`.
    ///
    /// Inlined, so that the entry is put together in its place: out of line it is copied, which costs ten times as much.
    #[inline]
    pub fn note(&self, at: MonoTime, whom: Whom, what: What) {
        let written = self.written.get();
        let place = written & self.ring.len().wrapping_sub(1);
        if let Some(entry) = self.ring.get(place) {
            entry.set(Some(Entry { at, whom, what }));
            self.written.set(written.wrapping_add(1));
        }
    }

    /// Remembers a change of state; a verdict of this worker about more than an endpoint is recorded.
    pub fn note_change(&self, change: &Transition) {
        let Transition { scope, from, to, at, origin, evidence, .. } = *change;
        let whom = Whom::of(scope);
        let silence_us = micros(evidence.silence);
        let outstanding = evidence.outstanding;
        self.note(at, whom, What::State { from, to, origin, silence_us, outstanding });
        let is_wide = match scope {
            Scope::Cluster(_) | Scope::Backend(..) => true,
            Scope::All | Scope::Endpoint(_) => false,
        };
        if self.ring.is_empty() || !is_wide || to.reason().is_none() || origin != Origin::Own {
            return;
        }
        let mut triggers = self.triggers.borrow_mut();
        if triggers.is_empty() {
            self.full_at.set(self.written.get() + self.ring.len() / 2);
        }
        if triggers.len() < VERDICTS_MAX {
            triggers.push(Trigger { whom, from, to, at, evidence });
        }
    }

    /// Is the aftermath of a verdict as complete as it gets without losing what led to it?
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.written.get() >= self.full_at.get()
    }

    /// Is it complete at `now`?
    #[must_use]
    pub fn is_due(&self, now: MonoTime) -> bool {
        let triggers = self.triggers.borrow();
        triggers.first().is_some_and(|first| now.since(first.at) >= AFTER) || self.is_full()
    }

    /// The verdicts that wait, with the entries around them, oldest first.
    pub fn take(&self) -> Option<(Vec<Trigger>, Vec<Entry>)> {
        let triggers = self.triggers.take();
        self.full_at.set(usize::MAX);
        let begin = triggers.first()?.at - BEFORE;
        let length = self.ring.len();
        let oldest = self.written.get() & length.wrapping_sub(1);
        let all = (0..length).map(|nth| &self.ring[(oldest + nth) & (length - 1)]);
        let mut entries: Vec<_> = all.filter_map(Cell::get).filter(|entry| entry.at >= begin).collect();
        // Each says when it was seen: an exchange notes with the clock as it last read it, behind what others read since.
        entries.sort_by_key(|entry| entry.at);
        Some((triggers, entries))
    }

    /// Sends a window to the writing thread. `false` when that is behind: the window is lost.
    #[must_use]
    pub fn send(&self, window: Window) -> bool {
        self.out.as_ref().is_some_and(|out| out.try_send(window).is_ok())
    }
}

/// Microseconds, up to 71 minutes.
#[must_use]
pub fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn recorder(entries: u32) -> Recorder {
        Recorder::new(entries, Some(crossbeam_channel::bounded(1).0))
    }

    fn pick(recorder: &Recorder, at_ms: u64) {
        recorder.note(MonoTime(at_ms * MS), Whom::default(), What::Pick { trial: false });
    }

    fn change(scope: Scope, to: State, origin: Origin, at_ms: u64) -> Transition {
        Transition {
            scope,
            from: State::Suspect,
            to,
            at: MonoTime(at_ms * MS),
            since: MonoTime::ZERO,
            origin,
            evidence: Evidence::default(),
        }
    }

    const CLUSTER: Scope = Scope::Cluster(ClusterId(0));

    #[test]
    fn only_own_verdicts_on_more_than_an_endpoint_are_recorded() {
        let recorder = recorder(64);
        let down = State::Down(Reason::Hang);
        recorder.note_change(&change(CLUSTER, State::Suspect, Origin::Own, 1));
        recorder.note_change(&change(CLUSTER, down, Origin::Peer, 2));
        recorder.note_change(&change(
            Scope::Endpoint(EndpointKey { slot: 0, turn: 0 }),
            down,
            Origin::Own,
            3,
        ));
        assert!(!recorder.is_due(MonoTime(u64::MAX)));
        assert!(recorder.take().is_none());
        recorder.note_change(&change(Scope::Backend(BackendId(0), ClusterId(0)), down, Origin::Own, 4));
        assert!(!recorder.is_due(MonoTime(203 * MS)), "the aftermath belongs to it");
        assert!(recorder.is_due(MonoTime(204 * MS)));
        let (triggers, entries) = recorder.take().unwrap();
        assert_eq!((triggers.len(), entries.len()), (1, 4), "all of them are in the timeline");
        assert!(recorder.take().is_none(), "once");
    }

    #[test]
    fn a_window_begins_two_seconds_before_its_first_verdict_and_is_in_order() {
        let recorder = recorder(64);
        for at in [100, 999, 1_000, 2_500] {
            pick(&recorder, at);
        }
        recorder.note_change(&change(CLUSTER, State::Down(Reason::Silent), Origin::Own, 3_000));
        recorder.note_change(&change(CLUSTER, State::Down(Reason::Hang), Origin::Own, 3_100));
        pick(&recorder, 3_150);
        pick(&recorder, 3_149);
        let (triggers, entries) = recorder.take().unwrap();
        let times: Vec<u64> = entries.iter().map(|entry| entry.at.0 / MS).collect();
        assert_eq!(times, [1_000, 2_500, 3_000, 3_100, 3_149, 3_150]);
        assert_eq!(triggers.len(), 2, "one failover");
    }

    #[test]
    fn a_busy_worker_does_not_push_out_what_led_to_the_verdict() {
        let recorder = recorder(64);
        (0..1_000).for_each(|at| pick(&recorder, at));
        recorder.note_change(&change(CLUSTER, State::Down(Reason::Silent), Origin::Own, 1_000));
        let mut after = 0;
        while !recorder.is_full() {
            after += 1;
            pick(&recorder, 1_000);
        }
        assert!(recorder.is_due(MonoTime(1_000 * MS)), "at once");
        let (_, entries) = recorder.take().unwrap();
        let before = entries.iter().filter(|entry| entry.at < MonoTime(1_000 * MS)).count();
        assert_eq!((before, after, entries.len()), (31, 32, 64));
    }

    #[test]
    fn without_entries_or_a_place_to_send_them_nothing_is_kept() {
        for off in [Recorder::new(64, None), recorder(0)] {
            pick(&off, 1);
            off.note_change(&change(CLUSTER, State::Down(Reason::Silent), Origin::Own, 2));
            assert!(!off.is_full() && off.take().is_none() && !off.is_due(MonoTime(u64::MAX)));
        }
    }
}
