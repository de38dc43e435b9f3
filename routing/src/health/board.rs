//! What the workers of a node share: verdicts, evidence lines, and the log of what changed.
//!
//! No lock. Each worker writes only its own padded line for each cluster (relaxed stores, at most every 0.25 ms).
//! A verdict is one word: `epoch << 20 | tag << 4 | state`. The epoch is the time of the change, so that one load
//! tells state and since; the tag names whose verdict it is, so that an id that is used again does not inherit
//! one. A change is one compare-exchange, followed by one entry in the log; workers see by one load of the log's
//! length that nothing has changed, and copy what has. Reading and writing are the table's; nothing here decides.
//!
//! Times on the board are compared between workers: [`MonoTime`] must be the same clock (`CLOCK_MONOTONIC`) for all
//! tables that share a board.

use std::sync::atomic::{AtomicU64, Ordering};

use super::state::State;
use crate::id::{BackendId, ClusterId, EndpointId};
use crate::time::MonoTime;

/// Changes that a worker may miss before it reads every word again.
const LOG_ENTRIES: usize = 4096;

/// Bits of a log entry that hold its number.
const SEQUENCE_BITS: u32 = 14;

/// Times on the board count in units of 2^14 ns = 16 µs; 44 bits of them last nine years.
const TIME_SHIFT: u32 = 14;
const TIME_MASK: u64 = (1 << 44) - 1;

/// How large a board is. What does not fit is decided by each worker alone and counted
/// ([`Table::verdicts_local`](crate::table::Table::verdicts_local)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoardLimits {
    /// Workers of the node. 0 counts as 1.
    pub workers: u16,
    /// Clusters with a shared verdict and evidence lines: 128 bytes per worker and cluster. Default 64.
    pub clusters: u16,
    /// Words for (backend, cluster) pairs, by hash: 32 bytes each, and with more than one worker 16 bytes per worker.
    /// Default 8,192.
    pub backends: u32,
    /// Words for endpoints, by hash: 32 bytes each. Default 32,768.
    pub endpoints: u32,
}

impl Default for BoardLimits {
    fn default() -> Self {
        Self { workers: 1, clusters: 64, backends: 8_192, endpoints: 32_768 }
    }
}

/// See the module. Shared by `Arc` in [`TableSettings`](crate::table::TableSettings).
#[derive(Debug)]
pub struct Board {
    limits: BoardLimits,
    /// Of worker `w` and cluster `c` at `w * clusters + c`.
    lines: Box<[Line]>,
    /// Of worker `w` and pair `p` at `w * backends + p`; none where there is one worker.
    parts: Box<[PartWords]>,
    clusters: Words,
    backends: Words,
    endpoints: Words,
    /// Changes so far. Alone on its line: every pick reads it.
    length: Padded,
    log: Box<[AtomicU64]>,
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct Padded(AtomicU64);

/// What one worker knows of one cluster. Two cache lines: x86 prefetches in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Line {
    written: AtomicU64,
    last_rx: AtomicU64,
    outstanding: AtomicU64,
    oldest: AtomicU64,
    errors: AtomicU64,
    overdue: [AtomicU64; 3],
    waits_for: AtomicU64,
}

/// One worker's evidence about one cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LineView {
    /// When it was written: one that is old belongs to a worker that is not running, or has nothing outstanding.
    pub written: MonoTime,
    /// When the latest byte came.
    pub last_rx: MonoTime,
    /// Requests that wait for an answer.
    pub outstanding: u32,
    /// When the oldest of them was sent.
    pub oldest: MonoTime,
    /// Failures so far.
    pub errors: u64,
    /// Requests that should have been answered and wait, …
    pub overdue: u32,
    /// … of so many that were sent in the same time, …
    pub overdue_of: u32,
    /// … of which so many would wait by what is usual, in millionths.
    pub overdue_usual: u64,
    /// The backend that all of them wait for: 0 = none waits, 1 + id, `u64::MAX` = several.
    pub waits_for: u64,
}

/// What one worker says is overdue of one backend in one cluster.
#[derive(Debug, Default)]
struct PartWords {
    written: AtomicU64,
    /// `tag << 48 | waiting << 36 | sent << 24 | usual`.
    overdue: AtomicU64,
}

/// Overdue requests of one backend in one cluster, as one worker counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PartLine {
    /// That wait; 4,095 stands for more.
    pub(crate) waiting: u32,
    /// That were sent in the same time; 4,095 stands for more.
    pub(crate) sent: u32,
    /// That would wait by what is usual, in 4,096ths.
    pub(crate) usual: u32,
}

impl PartLine {
    /// What `usual` counts in.
    pub(crate) const UNIT: f32 = 4_096.0;
    const COUNT_MAX: u32 = (1 << 12) - 1;
    const USUAL_MAX: u32 = (1 << 24) - 1;

    fn word(self, tag: u16) -> u64 {
        let count = |count: u32| u64::from(count.min(Self::COUNT_MAX));
        // Rounded up: what is usual must not vanish.
        let usual = u64::from(self.usual.saturating_add(1).min(Self::USUAL_MAX));
        u64::from(tag) << 48 | count(self.waiting) << 36 | count(self.sent) << 24 | usual
    }

    /// `None` when it is another's.
    fn of(word: u64, tag: u16) -> Option<Self> {
        let bits =
            |from: u32, bits: u32| u32::try_from(word >> from & ((1 << bits) - 1)).expect("at most 24 bits");
        let line = Self { waiting: bits(36, 12), sent: bits(24, 12), usual: bits(0, 24) };
        (word >> 48 == u64::from(tag)).then_some(line)
    }
}

#[derive(Debug)]
struct Words {
    verdicts: Box<[AtomicU64]>,
    desks: Box<[Desk]>,
}

/// Who leads something back, and how far it is. Apart from the verdicts: these change with every probe.
#[derive(Debug, Default)]
struct Desk {
    keeper: AtomicU64,
    trial: AtomicU64,
    /// On probation: when the first of the good answers in a row was asked for, or when the latest bad one came.
    /// Healthy: when it recovered. In nanoseconds.
    streak: AtomicU64,
}

impl Words {
    fn new(count: usize) -> Self {
        let verdicts = std::iter::repeat_with(AtomicU64::default).take(count).collect();
        Self { verdicts, desks: std::iter::repeat_with(Desk::default).take(count).collect() }
    }
}

/// A verdict as it lies on the board.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Word(pub(crate) u64);

impl Word {
    pub(crate) fn state(self) -> State {
        State::of_code(self.0)
    }

    pub(crate) fn is_healthy(self) -> bool {
        self.state() == State::Healthy
    }

    fn tag(self) -> u16 {
        u16::try_from(self.0 >> 4 & 0xFFFF).expect("16 bits")
    }

    /// When it was written, to 16 µs; zero for one that never was.
    pub(crate) fn since(self) -> MonoTime {
        MonoTime((self.0 >> 20) << TIME_SHIFT)
    }

    /// The word that follows this one: never equal to an earlier one.
    pub(crate) fn then(self, state: State, tag: u16, now: MonoTime) -> Self {
        let epoch = (now.0 >> TIME_SHIFT & TIME_MASK).max((self.0 >> 20) + 1) & TIME_MASK;
        Self(epoch << 20 | u64::from(tag) << 4 | state.code())
    }
}

/// Whose verdict: one word of the board, or of none when it is not on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Subject {
    Cluster(ClusterId),
    Backend(BackendId, ClusterId),
    Endpoint(EndpointId),
}

/// Where a verdict lies, and the tag that makes it this subject's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) subject: Subject,
    pub(crate) tag: u16,
}

/// Who leads something back, until when, and how often it went down in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Keeper {
    pub(crate) worker: u16,
    pub(crate) until: MonoTime,
    pub(crate) times: u8,
}

impl Keeper {
    fn of(word: u64) -> Self {
        Self {
            worker: u16::try_from(word >> 8 & 0xFFF).expect("12 bits"),
            until: MonoTime((word >> 20) << TIME_SHIFT),
            times: u8::try_from(word & 0xFF).expect("8 bits"),
        }
    }

    fn word(self) -> u64 {
        (self.until.0 >> TIME_SHIFT & TIME_MASK) << 20
            | u64::from(self.worker & 0xFFF) << 8
            | u64::from(self.times)
    }
}

impl Default for Board {
    fn default() -> Self {
        Self::new(BoardLimits::default())
    }
}

/// A board is only equal to itself.
impl PartialEq for Board {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Board {}

impl Board {
    /// A board on which everything is healthy.
    #[must_use]
    pub fn new(limits: BoardLimits) -> Self {
        let limits = BoardLimits { workers: limits.workers.max(1), ..limits };
        let lines = usize::from(limits.workers) * usize::from(limits.clusters);
        // Alone, there is nobody to tell.
        let writers = if limits.workers > 1 { usize::from(limits.workers) } else { 0 };
        let parts = std::iter::repeat_with(PartWords::default).take(writers * limits.backends as usize);
        Self {
            limits,
            parts: parts.collect(),
            lines: std::iter::repeat_with(Line::default).take(lines).collect(),
            clusters: Words::new(usize::from(limits.clusters)),
            backends: Words::new(limits.backends as usize),
            endpoints: Words::new(limits.endpoints as usize),
            length: Padded::default(),
            log: std::iter::repeat_with(AtomicU64::default).take(LOG_ENTRIES).collect(),
        }
    }

    /// How large it is.
    #[must_use]
    pub fn limits(&self) -> BoardLimits {
        self.limits
    }

    /// Changes of verdicts so far, by all workers.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.length.0.load(Ordering::Acquire)
    }

    /// A cluster's state as all workers see it, and since when. For status: any thread may ask.
    #[must_use]
    pub fn cluster(&self, cluster: ClusterId) -> (State, MonoTime) {
        let word = self.clusters.verdicts.get(cluster.index()).map(|word| word.load(Ordering::Relaxed));
        let word = Word(word.unwrap_or_default());
        (word.state(), word.since())
    }

    // ------------------------------------------------------------ evidence lines

    /// What `worker` last wrote about `cluster`; `None` beyond the board's limits.
    #[must_use]
    pub fn line(&self, worker: u16, cluster: ClusterId) -> Option<LineView> {
        let line = self.line_of(worker, cluster)?;
        let time = |word: &AtomicU64| MonoTime(word.load(Ordering::Relaxed));
        let count = |word: &AtomicU64| u32::try_from(word.load(Ordering::Relaxed)).unwrap_or(u32::MAX);
        Some(LineView {
            written: time(&line.written),
            last_rx: time(&line.last_rx),
            outstanding: count(&line.outstanding),
            oldest: time(&line.oldest),
            errors: line.errors.load(Ordering::Relaxed),
            overdue: count(&line.overdue[0]),
            overdue_of: count(&line.overdue[1]),
            overdue_usual: line.overdue[2].load(Ordering::Relaxed),
            waits_for: line.waits_for.load(Ordering::Relaxed),
        })
    }

    pub(crate) fn write_line(&self, worker: u16, cluster: ClusterId, view: &LineView) {
        let Some(line) = self.line_of(worker, cluster) else { return };
        line.last_rx.store(view.last_rx.0, Ordering::Relaxed);
        line.outstanding.store(u64::from(view.outstanding), Ordering::Relaxed);
        line.oldest.store(view.oldest.0, Ordering::Relaxed);
        line.errors.store(view.errors, Ordering::Relaxed);
        line.waits_for.store(view.waits_for, Ordering::Relaxed);
        let overdue = [view.overdue.into(), view.overdue_of.into(), view.overdue_usual];
        for (word, value) in line.overdue.iter().zip(overdue) {
            word.store(value, Ordering::Relaxed);
        }
        line.written.store(view.written.0, Ordering::Relaxed);
    }

    fn line_of(&self, worker: u16, cluster: ClusterId) -> Option<&Line> {
        if worker >= self.limits.workers || cluster.0 >= self.limits.clusters {
            return None;
        }
        self.lines.get(usize::from(worker) * usize::from(self.limits.clusters) + cluster.index())
    }

    /// What `worker` last wrote of a backend in a cluster, and when; `None` when that place is another's, and beyond the
    /// board's limits.
    pub(crate) fn part(&self, worker: u16, place: Place) -> Option<(MonoTime, PartLine)> {
        let words = self.part_of(worker, place)?;
        let written = MonoTime(words.written.load(Ordering::Acquire));
        Some((written, PartLine::of(words.overdue.load(Ordering::Relaxed), place.tag)?))
    }

    pub(crate) fn write_part(&self, worker: u16, place: Place, line: PartLine, now: MonoTime) {
        let Some(words) = self.part_of(worker, place) else { return };
        words.overdue.store(line.word(place.tag), Ordering::Relaxed);
        words.written.store(now.0, Ordering::Release);
    }

    fn part_of(&self, worker: u16, place: Place) -> Option<&PartWords> {
        let count = self.backends.verdicts.len();
        let at = spread(place.subject, count);
        (at < count && worker < self.limits.workers)
            .then(|| self.parts.get(usize::from(worker) * count + at))?
    }

    // ------------------------------------------------------------ verdicts

    fn find(&self, subject: Subject) -> Option<(&AtomicU64, &Desk)> {
        let (words, index) = match subject {
            Subject::Cluster(cluster) => (&self.clusters, cluster.index()),
            Subject::Backend(..) => (&self.backends, spread(subject, self.backends.verdicts.len())),
            Subject::Endpoint(_) => (&self.endpoints, spread(subject, self.endpoints.verdicts.len())),
        };
        Some((words.verdicts.get(index)?, words.desks.get(index)?))
    }

    /// The verdict at `place`; healthy when the word there is another subject's. `None` = not on the board.
    pub(crate) fn read(&self, place: Place) -> Option<Word> {
        let word = Word(self.find(place.subject)?.0.load(Ordering::Acquire));
        if word.tag() == place.tag || word.is_healthy() { Some(word) } else { None }
    }

    /// Replaces `old`. `Err` holds what lies there instead; `None` inside when that is another subject's.
    pub(crate) fn replace(&self, place: Place, old: Word, new: Word) -> Result<(), Option<Word>> {
        let (word, _) = self.find(place.subject).ok_or(None)?;
        match word.compare_exchange(old.0, new.0, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => {
                self.announce(place.subject);
                Ok(())
            }
            Err(_) => Err(self.read(place)),
        }
    }

    fn announce(&self, subject: Subject) {
        let sequence = self.length.0.fetch_add(1, Ordering::AcqRel);
        let entry = pack(subject) << SEQUENCE_BITS | sequence_mark(sequence);
        self.log[index(sequence)].store(entry, Ordering::Release);
    }

    /// The change number `sequence`, which must be below [`Board::changes`].
    pub(crate) fn change(&self, sequence: u64) -> Change {
        let entry = self.log[index(sequence)].load(Ordering::Acquire);
        if self.changes() - sequence > LOG_ENTRIES as u64 {
            return Change::Overwritten;
        }
        if entry & ((1 << SEQUENCE_BITS) - 1) == sequence_mark(sequence) {
            Change::Of(unpack(entry >> SEQUENCE_BITS))
        } else {
            Change::NotYet
        }
    }

    // ------------------------------------------------------------ return

    pub(crate) fn keeper(&self, subject: Subject) -> Option<Keeper> {
        Some(Keeper::of(self.find(subject)?.1.keeper.load(Ordering::Acquire)))
    }

    /// Replaces the keeper, unless somebody else did.
    pub(crate) fn replace_keeper(&self, subject: Subject, old: Keeper, new: Keeper) -> bool {
        let Some((_, desk)) = self.find(subject) else { return true };
        desk.keeper.compare_exchange(old.word(), new.word(), Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// When the next single request may go there, and how many in a row were answered well.
    pub(crate) fn trial(&self, subject: Subject) -> Option<(MonoTime, u8)> {
        let word = self.find(subject)?.1.trial.load(Ordering::Acquire);
        Some((MonoTime((word >> 20) << TIME_SHIFT), u8::try_from(word & 0xFF).unwrap_or(u8::MAX)))
    }

    pub(crate) fn replace_trial(&self, subject: Subject, old: (MonoTime, u8), new: (MonoTime, u8)) -> bool {
        let pack = |(next, good): (MonoTime, u8)| (next.0 >> TIME_SHIFT & TIME_MASK) << 20 | u64::from(good);
        let Some((_, desk)) = self.find(subject) else { return true };
        desk.trial.compare_exchange(pack(old), pack(new), Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    pub(crate) fn streak(&self, subject: Subject) -> MonoTime {
        self.find(subject).map_or(MonoTime::ZERO, |(_, desk)| MonoTime(desk.streak.load(Ordering::Acquire)))
    }

    pub(crate) fn set_streak(&self, subject: Subject, at: MonoTime) {
        if let Some((_, desk)) = self.find(subject) {
            desk.streak.store(at.0, Ordering::Release);
        }
    }
}

/// One entry of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Its verdict changed.
    Of(Subject),
    /// Another worker is about to write it.
    NotYet,
    /// Too many came since: every word must be read.
    Overwritten,
}

fn index(sequence: u64) -> usize {
    usize::try_from(sequence % LOG_ENTRIES as u64).expect("below LOG_ENTRIES")
}

/// Never zero, which is what an entry holds that was never written.
fn sequence_mark(sequence: u64) -> u64 {
    sequence % ((1 << SEQUENCE_BITS) - 1) + 1
}

fn pack(subject: Subject) -> u64 {
    match subject {
        Subject::Cluster(cluster) => u64::from(cluster.0),
        Subject::Backend(backend, cluster) => 1 << 48 | u64::from(backend.0) << 16 | u64::from(cluster.0),
        Subject::Endpoint(endpoint) => 2 << 48 | u64::from(endpoint.0),
    }
}

fn unpack(packed: u64) -> Subject {
    let low = u16::try_from(packed & 0xFFFF).expect("16 bits");
    match packed >> 48 {
        0 => Subject::Cluster(ClusterId(low)),
        1 => {
            let backend = u32::try_from(packed >> 16 & 0xFFFF_FFFF).expect("32 bits");
            Subject::Backend(BackendId(backend), ClusterId(low))
        }
        _ => Subject::Endpoint(EndpointId(u32::try_from(packed & 0xFFFF_FFFF).expect("32 bits"))),
    }
}

/// Dense ids fill the words one after the other; pairs are spread.
fn spread(subject: Subject, count: usize) -> usize {
    let at = match subject {
        Subject::Cluster(cluster) => cluster.index(),
        Subject::Endpoint(endpoint) => endpoint.index(),
        Subject::Backend(backend, cluster) => {
            let mixed = crate::balance::hash::finish(u64::from(backend.0) << 16 | u64::from(cluster.0));
            usize::try_from(mixed >> 16).unwrap_or_default()
        }
    };
    at.checked_rem(count).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::state::Reason;

    const DOWN: State = State::Down(Reason::Silent);

    fn place(subject: Subject, tag: u16) -> Place {
        Place { subject, tag }
    }

    #[test]
    fn word_tells_state_tag_and_since_and_never_repeats() {
        let now = MonoTime(3_000_000_000);
        let word = Word::default().then(DOWN, 0xBEEF, now);
        assert_eq!((word.state(), word.tag()), (DOWN, 0xBEEF));
        assert!(now.since(word.since()).as_nanos() < 1 << TIME_SHIFT);
        let again = word.then(State::Healthy, 0xBEEF, now).then(DOWN, 0xBEEF, now);
        assert_ne!(again, word);
    }

    #[test]
    fn one_of_two_that_replace_the_same_word_wins() {
        let board = Board::default();
        let at = place(Subject::Cluster(ClusterId(3)), 7);
        let old = board.read(at).unwrap();
        let new = old.then(State::Suspect, 7, MonoTime(1 << 30));
        assert_eq!(board.replace(at, old, new), Ok(()));
        assert_eq!(board.replace(at, old, old.then(DOWN, 7, MonoTime(1 << 30))), Err(Some(new)));
        assert_eq!(board.changes(), 1);
        assert_eq!(board.change(0), Change::Of(at.subject));
    }

    #[test]
    fn verdict_is_not_inherited_by_another_under_the_same_id() {
        let board = Board::default();
        let at = place(Subject::Endpoint(EndpointId(5)), 1);
        let old = board.read(at).unwrap();
        board.replace(at, old, old.then(DOWN, 1, MonoTime(9 << 20))).unwrap();
        assert_eq!(board.read(place(at.subject, 2)), None);
        assert_eq!(board.read(at).unwrap().state(), DOWN);
    }

    #[test]
    fn beyond_the_limits_nothing_is_shared() {
        let limits = BoardLimits { workers: 0, clusters: 1, backends: 0, endpoints: 0 };
        let board = Board::new(limits);
        for subject in [
            Subject::Cluster(ClusterId(1)),
            Subject::Backend(BackendId(0), ClusterId(0)),
            Subject::Endpoint(EndpointId(0)),
        ] {
            assert_eq!(board.read(place(subject, 0)), None);
        }
        assert!(board.line(0, ClusterId(0)).is_some());
        assert!(board.line(1, ClusterId(0)).is_none());
        assert!(board.line(0, ClusterId(1)).is_none());
    }

    #[test]
    fn log_names_every_change_until_it_is_overwritten() {
        let board = Board::default();
        let at = place(Subject::Backend(BackendId(70_000), ClusterId(9)), 3);
        let mut word = board.read(at).unwrap();
        for n in 0..LOG_ENTRIES as u64 + 1 {
            let state = if n % 2 == 0 { State::Suspect } else { State::Healthy };
            let new = word.then(state, 3, MonoTime(n));
            board.replace(at, word, new).unwrap();
            word = new;
            assert_eq!(board.change(n), Change::Of(at.subject));
        }
        assert_eq!(board.change(0), Change::Overwritten);
    }

    #[test]
    fn part_lines_hold_what_was_put_in_for_their_owner_only() {
        let board = Board::new(BoardLimits { workers: 2, ..BoardLimits::default() });
        let at = place(Subject::Backend(BackendId(9), ClusterId(1)), 7);
        let line = PartLine { waiting: 5, sent: 4_000, usual: 77 };
        board.write_part(1, at, line, MonoTime(42));
        // What is usual is rounded up.
        assert_eq!(board.part(1, at), Some((MonoTime(42), PartLine { usual: 78, ..line })));
        assert_eq!(board.part(0, at).map(|(_, line)| line.waiting), None, "nobody has written there");
        assert_eq!(board.part(1, place(at.subject, 8)), None);
        assert_eq!(board.part(2, at), None);
        let full = PartLine { waiting: 1 << 20, sent: 1 << 20, usual: u32::MAX };
        board.write_part(0, at, full, MonoTime(43));
        let max = PartLine { waiting: 4_095, sent: 4_095, usual: (1 << 24) - 1 };
        assert_eq!(board.part(0, at), Some((MonoTime(43), max)));
        let alone = Board::default();
        alone.write_part(0, at, line, MonoTime(1));
        assert_eq!(alone.part(0, at), None);
    }

    #[test]
    fn desk_words_hold_what_was_put_in() {
        let board = Board::default();
        let subject = Subject::Endpoint(EndpointId(1));
        let keeper = Keeper { worker: 4095, until: MonoTime(77 << TIME_SHIFT), times: 200 };
        assert!(board.replace_keeper(subject, Keeper::default(), keeper));
        assert_eq!(board.keeper(subject), Some(keeper));
        assert!(!board.replace_keeper(subject, Keeper::default(), keeper));
        let trial = (MonoTime(5 << TIME_SHIFT), 3);
        assert!(board.replace_trial(subject, (MonoTime::ZERO, 0), trial));
        assert_eq!(board.trial(subject), Some(trial));
    }
}
