//! What traffic says: who waits for an answer, when the latest byte came, how long gaps and answers usually are, how
//! many answers are failures, how many requests had to be hedged.
//!
//! One [`Flow`] for a cluster and one for each backend in a cluster, by one worker. Constant time and size; times go in
//! as they are, a standstill of our own is subtracted by [`Lags`] where a silence is asked for.

use std::time::Duration;

use super::board::LineView;
use super::histogram::Histogram;
use crate::model::ErrorRatio;
use crate::time::MonoTime;

/// Silence below this is never one.
pub(crate) const SILENCE_FLOOR: Duration = Duration::from_millis(4);

/// A gap that is not known to be usual suspects after this long, unless half of all answers take longer.
pub(crate) const SILENCE_CAP: Duration = Duration::from_millis(40);

/// Requests that must wait before a gap says anything.
pub(crate) const OUTSTANDING_MIN: u32 = 3;

/// Gaps below which their distribution is not believed.
const GAPS_MIN: u32 = 64;

/// What comes closer together was received at once: several calls for one reception.
pub(crate) const GAP_MIN: Duration = Duration::from_micros(20);

/// Answers below which their latency is not believed.
const LATENCIES_MIN: u32 = 20;

/// Answers below which the rarest of them are not believed.
const TAIL_MIN: u32 = 200;

/// Standstills of our own up to this are ordinary scheduling.
pub(crate) const LAG_MIN: Duration = Duration::from_millis(1);

/// How old [`Delays`] may be while answers come.
const DELAYS_AGE: Duration = Duration::from_millis(10);

/// Hedge delay: four times the median, within these.
pub(crate) const HEDGE_DELAY_MIN: Duration = Duration::from_millis(6);
/// See [`HEDGE_DELAY_MIN`].
pub(crate) const HEDGE_DELAY_MAX: Duration = Duration::from_millis(60);

// ---------------------------------------------------------------- who waits

/// Buckets of [`Waiting`].
const AGES: usize = 48;

/// The narrowest bucket, in nanoseconds: 48 of them are a third of a second.
const AGE_NS: u64 = 8_000_000;

/// How many requests wait for an answer, by when they were sent.
///
/// Only young ones are evidence: a long poll that has waited for minutes does not make a cluster silent. What is
/// older than all buckets is forgotten here; buckets are as wide as the service is slow.
#[derive(Clone, Debug)]
pub(crate) struct Waiting {
    counts: [u16; AGES],
    /// When in its bucket the first and the last of them were sent, in 256ths.
    spans: [(u8, u8); AGES],
    /// All that were sent, whether they wait or not.
    sent: [u16; AGES],
    total: u32,
    /// Buckets are `AGE_NS << scale` wide.
    scale: u32,
    /// The number of the newest bucket, counted from time zero.
    head: u64,
}

impl Default for Waiting {
    fn default() -> Self {
        Self { counts: [0; AGES], spans: [(0, 0); AGES], sent: [0; AGES], total: 0, scale: 0, head: 0 }
    }
}

impl Waiting {
    fn number(&self, at: MonoTime) -> u64 {
        at.0 / (AGE_NS << self.scale)
    }

    /// How far into its bucket a time is, in 256ths.
    fn fraction(&self, at: MonoTime) -> u8 {
        let width = AGE_NS << self.scale;
        u8::try_from(at.0 % width / (width / 256)).unwrap_or(u8::MAX)
    }

    fn place(number: u64) -> usize {
        usize::try_from(number % AGES as u64).expect("below AGES")
    }

    fn advance(&mut self, now: MonoTime) {
        let head = self.number(now);
        if head <= self.head {
            return;
        }
        for number in self.head + 1..=head.min(self.head + AGES as u64) {
            let place = Self::place(number);
            self.total -= u32::from(self.counts[place]);
            (self.counts[place], self.sent[place]) = (0, 0);
        }
        self.head = head;
    }

    pub(crate) fn sent(&mut self, now: MonoTime) {
        self.advance(now);
        let (place, fraction) = (Self::place(self.head), self.fraction(now));
        if self.counts[place] < u16::MAX {
            let first = if self.counts[place] == 0 { fraction } else { self.spans[place].0 };
            self.spans[place] = (first, fraction);
            self.counts[place] += 1;
            self.total += 1;
        }
        self.sent[place] = self.sent[place].saturating_add(1);
    }

    /// One that was sent at `at` waits no longer; `None` = the oldest.
    pub(crate) fn ended(&mut self, at: Option<MonoTime>, now: MonoTime) {
        self.advance(now);
        let number = match at {
            Some(at) => Some(self.number(at)),
            None => self.oldest_number(),
        };
        let Some(number) = number.filter(|number| number + AGES as u64 > self.head) else { return };
        // Rounding of a latency may name the neighbour.
        for number in [number, number + 1, number.saturating_sub(1)] {
            let place = Self::place(number);
            if number <= self.head && number + (AGES as u64) > self.head && self.counts[place] > 0 {
                self.counts[place] -= 1;
                self.total -= 1;
                let (first, last) = self.spans[place];
                // The others were sent later; how much is not known, so that no silence is invented.
                if at.is_none_or(|at| self.fraction(at) <= first.saturating_add(1)) {
                    self.spans[place] = (last, last);
                }
                return;
            }
        }
    }

    /// Takes out what another one counts, request by request.
    pub(crate) fn subtract(&mut self, other: &Self, now: MonoTime) {
        for (place, count) in other.counts.iter().enumerate() {
            let newest = Self::place(other.head);
            let age = (newest + AGES - place) % AGES;
            let at = MonoTime(other.head.saturating_sub(age as u64) * (AGE_NS << other.scale));
            for _ in 0..*count {
                self.ended(Some(at), now);
            }
        }
    }

    /// How many young requests wait.
    pub(crate) fn count(&mut self, now: MonoTime) -> u32 {
        self.advance(now);
        self.total
    }

    /// As [`Waiting::count`], as of the last call that changed it.
    pub(crate) fn total(&self) -> u32 {
        self.total
    }

    fn oldest_number(&self) -> Option<u64> {
        if self.total == 0 {
            return None;
        }
        let first = (self.head + 1).saturating_sub(AGES as u64);
        (first..=self.head).find(|number| self.counts[Self::place(*number)] > 0)
    }

    /// When the oldest of them was sent; where several were sent in one bucket, not before it was.
    pub(crate) fn oldest(&mut self, now: MonoTime) -> Option<MonoTime> {
        self.advance(now);
        let number = self.oldest_number()?;
        let width = AGE_NS << self.scale;
        let into = (u64::from(self.spans[Self::place(number)].0) + 1) * (width / 256);
        Some(MonoTime((number * width + into).min(now.0)))
    }

    /// Of those that were sent before `until`, how many wait, against how many should: over the span that ends there
    /// and says most. `share` is the share of answers that are not there yet of what was sent at a time.
    #[allow(clippy::cast_precision_loss, reason = "counts of requests")]
    pub(crate) fn overdue(&mut self, until: MonoTime, share: impl Fn(MonoTime) -> f32) -> Overdue {
        let newest = self.number(until);
        let oldest = (self.head + 1).saturating_sub(AGES as u64);
        let (mut sum, mut best) = (Overdue::default(), Overdue::default());
        for number in (oldest..=newest.min(self.head)).rev() {
            let place = Self::place(number);
            let (mut waiting, mut sent) = (u32::from(self.counts[place]), u32::from(self.sent[place]));
            let mut latest = MonoTime((number + 1) * (AGE_NS << self.scale));
            if number == newest {
                waiting = self.waiting_before(place, self.fraction(until));
                sent = (sent * (u32::from(self.fraction(until)) + 1)).div_ceil(256);
                latest = until;
            }
            if sent > 0 {
                sum.waiting += waiting;
                sum.sent += sent.max(waiting);
                sum.expected += sent.max(waiting) as f32 * share(latest);
            }
            if waiting > 0 && sum.phi() > best.phi() {
                best = sum;
            }
        }
        best
    }

    /// How many of a bucket's were sent before a part of it, if they are spread evenly.
    fn waiting_before(&self, place: usize, fraction: u8) -> u32 {
        let (first, last) = self.spans[place];
        let count = u32::from(self.counts[place]);
        match fraction {
            fraction if fraction >= last => count,
            fraction if fraction < first => 0,
            fraction => count * u32::from(fraction - first) / u32::from(last - first),
        }
    }

    /// Forgets all: what it counted is no longer in flight.
    pub(crate) fn clear(&mut self) {
        self.counts = [0; AGES];
        self.sent = [0; AGES];
        self.total = 0;
    }

    /// Makes the buckets hold four times `usual`; what waits now is forgotten when they change.
    fn scale_to(&mut self, usual: Duration) {
        let wanted = u64::try_from(usual.as_nanos()).unwrap_or(u64::MAX).saturating_mul(4);
        let mut scale = 0;
        while scale < 12 && (AGE_NS << scale) * (AGES as u64) < wanted {
            scale += 1;
        }
        if scale != self.scale {
            self.clear();
            (self.scale, self.head) = (scale, 0);
        }
    }
}

// ---------------------------------------------------------------- who should have been answered

/// Beyond the hedge delay, by which an answer is overdue: with it, a cluster is found slow within the hedge delay + 20 ms.
const OVERDUE_AFTER: Duration = Duration::from_millis(12);

/// Slowness is proven when so many overdue requests are as improbable as this, in powers of ten: six where one answer in
/// a hundred takes that long, three where one in a thousand does.
const PHI_SLOW: f32 = 8.0;

/// Requests that should have been answered, and were not.
///
/// The proof of slowness. It counts requests and not time: at a low rate, or when a rate has just fallen, gaps are long
/// although every answer is in time; and one answer in a thousand that takes a second hides nothing when ten requests in
/// a row take longer than 99 in a hundred do.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Overdue {
    /// That wait.
    pub(crate) waiting: u32,
    /// That were sent in the same time.
    pub(crate) sent: u32,
    /// That would wait by what is usual.
    pub(crate) expected: f32,
}

impl Overdue {
    /// How improbable it is that so many wait (Chernoff's bound); 0 when no more do than were answered.
    #[allow(clippy::cast_precision_loss, reason = "counts of requests")]
    pub(crate) fn phi(&self) -> f32 {
        let waiting = self.waiting as f32;
        if waiting <= self.expected || self.waiting * 2 <= self.sent {
            return 0.0;
        }
        (self.expected - waiting + waiting * (waiting / self.expected).ln()) / std::f32::consts::LN_10
    }

    pub(crate) fn is_proof(&self) -> bool {
        self.waiting >= OUTSTANDING_MIN && self.phi() >= PHI_SLOW
    }

    /// What is usual, as it lies on the board.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small positive figure")]
    pub(crate) fn usual_millionths(&self) -> u64 {
        (self.expected * 1e6) as u64
    }

    /// What another worker wrote there.
    #[allow(clippy::cast_precision_loss, reason = "a figure to six digits")]
    pub(crate) fn of_line(line: &LineView) -> Self {
        let expected = line.overdue_usual as f32 / 1e6;
        Self { waiting: line.overdue, sent: line.overdue_of, expected }
    }

    /// The same over two workers.
    pub(crate) fn with(self, other: Self) -> Self {
        Self {
            waiting: self.waiting + other.waiting,
            sent: self.sent + other.sent,
            expected: self.expected + other.expected,
        }
    }
}

// ---------------------------------------------------------------- one flow

/// What one worker hears from a cluster, or from one backend there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flow {
    /// When the latest byte came, from any connection.
    pub(crate) last_rx: MonoTime,
    pub(crate) waiting: Waiting,
    pub(crate) gaps: Histogram,
    pub(crate) latencies: Histogram,
    rescaled: MonoTime,
    /// What every attempt asks for; a quantile is a walk over the histogram.
    delays: Delays,
    delays_at: MonoTime,
}

/// How long an attempt waits before somebody does something about it. `None` while too little is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Delays {
    /// A second attempt is worth while (`hedge.mode: Always`): four times the median.
    pub(crate) hedge: Option<Duration>,
    /// No answer ever takes as long: the 99.9th percentile.
    pub(crate) stalled: Option<Duration>,
}

/// What is usual for a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Threshold {
    /// A silence of this length is suspicious.
    pub(crate) suspicious: Duration,
    /// A silence of this length does not happen, however rare traffic is.
    pub(crate) unheard_of: Duration,
}

impl Flow {
    /// When what must be answered began to be silent: the latest byte, or the first request after it.
    pub(crate) fn silent_since(&mut self, now: MonoTime) -> Option<MonoTime> {
        Some(self.waiting.oldest(now)?.max(self.last_rx))
    }

    /// A byte came after a gap of `gap`, while enough requests waited.
    pub(crate) fn gap(&mut self, gap: Duration, now: MonoTime) {
        if gap >= GAP_MIN {
            self.gaps.record(gap, now);
        }
    }

    pub(crate) fn answered(&mut self, latency: Duration, now: MonoTime) {
        self.latencies.record(latency, now);
        if now.since(self.delays_at) >= DELAYS_AGE {
            self.delays = Delays { hedge: self.hedge_delay(), stalled: self.stalled() };
            self.delays_at = now;
        }
        if now.since(self.rescaled) >= Duration::from_secs(1) {
            self.rescaled = now;
            if let Some(usual) = self.latencies.quantile(950, TAIL_MIN) {
                self.waiting.scale_to(usual);
            }
        }
    }

    /// An attempt was given up after so long: it would have taken longer, as long as those do that take longer.
    pub(crate) fn given_up(&mut self, age: Duration, now: MonoTime) {
        self.answered(self.latencies.middle_above(age), now);
    }

    /// Requests that should have been answered by now.
    pub(crate) fn overdue(&mut self, lags: &Lags, now: MonoTime) -> Overdue {
        let Some(delay) = self.delays.hedge else { return Overdue::default() };
        let after = delay + OVERDUE_AFTER;
        if self.waiting.count(now) == 0
            || self.waiting.oldest(now).is_none_or(|oldest| now.since(oldest) < after)
        {
            return Overdue::default();
        }
        let latencies = &self.latencies;
        self.waiting.overdue(lags.before(now, after), |sent| latencies.share_above(lags.awake(sent, now)))
    }

    pub(crate) fn median(&self) -> Option<Duration> {
        self.latencies.quantile(500, LATENCIES_MIN)
    }

    /// FAILOVER's table: phi 3 of the gaps, at least 4 ms and twice the median, at most 40 ms where that is more than
    /// the median allows.
    pub(crate) fn threshold(&self) -> Threshold {
        let rare = self.gaps.quantile(999, GAPS_MIN);
        let Some(median) = self.median() else {
            let suspicious = rare.unwrap_or(SILENCE_CAP).max(SILENCE_CAP);
            return Threshold { suspicious, unheard_of: suspicious * 4 };
        };
        let floor = SILENCE_FLOOR.max(median * 2);
        let suspicious = rare.map_or(SILENCE_CAP, |rare| rare.min(SILENCE_CAP)).max(floor);
        let tail = self.latencies.quantile(990, LATENCIES_MIN).unwrap_or(median);
        let unheard_of = rare.unwrap_or(tail * 2).max(suspicious);
        Threshold { suspicious, unheard_of }
    }

    /// How long the first of few requests may wait before somebody asks: the 95th percentile.
    pub(crate) fn late_after(&self) -> Option<Duration> {
        Some(self.latencies.quantile(950, LATENCIES_MIN)?.max(SILENCE_FLOOR))
    }

    /// As of a few milliseconds ago.
    pub(crate) fn delays(&self) -> Delays {
        self.delays
    }

    /// How long an answer never takes: what waits longer is stalled.
    pub(crate) fn stalled(&self) -> Option<Duration> {
        Some(self.latencies.quantile(999, TAIL_MIN)?.max(self.hedge_delay()?))
    }

    /// After how long a second attempt is worth while (`hedge.mode: Always`).
    fn hedge_delay(&self) -> Option<Duration> {
        Some((self.median()? * 4).clamp(HEDGE_DELAY_MIN, HEDGE_DELAY_MAX))
    }

    /// Is an answer after `latency` as good as before the failure? Where little is known, every one is.
    pub(crate) fn is_good(&self, latency: Duration) -> bool {
        self.latencies.quantile(990, LATENCIES_MIN).is_none_or(|usual| latency < usual * 2)
    }
}

// ---------------------------------------------------------------- failures

/// Buckets of an error window.
const BUCKETS: usize = 10;

/// Answers and failures of the last window, in ten buckets.
#[derive(Clone, Debug, Default)]
pub(crate) struct ErrorWindow {
    buckets: [Tally; BUCKETS],
    head: u64,
}

/// What fell into one bucket, or into all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) good: u32,
    pub(crate) failed: u32,
    /// Endpoints that failed for the first time in the window.
    pub(crate) endpoints: u32,
}

impl ErrorWindow {
    fn advance(&mut self, now: MonoTime, ratio: &ErrorRatio) -> &mut Tally {
        let width = u64::try_from(ratio.window.as_nanos()).unwrap_or(u64::MAX) / BUCKETS as u64;
        let head = now.0 / width.max(1);
        let place = |number: u64| usize::try_from(number % BUCKETS as u64).expect("below BUCKETS");
        if head > self.head || head + (BUCKETS as u64) < self.head {
            for number in (self.head + 1).max(head.saturating_sub(BUCKETS as u64 - 1))..=head {
                self.buckets[place(number)] = Tally::default();
            }
            self.head = head;
        }
        &mut self.buckets[place(self.head)]
    }

    pub(crate) fn good(&mut self, now: MonoTime, ratio: &ErrorRatio) {
        self.advance(now, ratio).good += 1;
    }

    /// A failure; `first` = of an endpoint that had none in this window.
    pub(crate) fn failed(&mut self, first: First, now: MonoTime, ratio: &ErrorRatio) {
        let tally = self.advance(now, ratio);
        tally.failed += 1;
        tally.endpoints += match first {
            First::Yes => 1,
            First::No => 0,
        };
    }

    pub(crate) fn tally(&self) -> Tally {
        self.buckets.iter().fold(Tally::default(), |sum, tally| Tally {
            good: sum.good + tally.good,
            failed: sum.failed + tally.failed,
            endpoints: sum.endpoints + tally.endpoints,
        })
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Is it an endpoint's first failure in the window?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum First {
    Yes,
    No,
}

impl Tally {
    /// Are these too many failures? `of` endpoints could have failed; more than half of them must have.
    pub(crate) fn is_too_many(self, ratio: &ErrorRatio, of: u32) -> bool {
        ratio.percent > 0
            && self.failed >= ratio.minimum.max(1)
            && u64::from(self.failed) * 100 >= u64::from(self.failed + self.good) * u64::from(ratio.percent)
            && self.endpoints * 2 > of
    }
}

// ---------------------------------------------------------------- hedges

/// Hedges that make a backend slow, in [`HEDGE_WINDOW`].
const HEDGES_MIN: u32 = 6;

/// See [`HEDGES_MIN`].
pub(crate) const HEDGE_WINDOW: Duration = Duration::from_millis(20);

/// Hedges and ordinary answers of the last 20 ms.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct HedgeWindow {
    began: MonoTime,
    hedges: [u32; 2],
    answers: [u32; 2],
}

impl HedgeWindow {
    fn advance(&mut self, now: MonoTime) {
        let half = HEDGE_WINDOW / 2;
        let passed = now.since(self.began);
        if passed >= HEDGE_WINDOW {
            *self = Self { began: now, ..Self::default() };
        } else if passed >= half {
            self.began = self.began + half;
            (self.hedges, self.answers) = ([self.hedges[1], 0], [self.answers[1], 0]);
        }
    }

    pub(crate) fn hedged(&mut self, now: MonoTime) {
        self.advance(now);
        self.hedges[1] += 1;
    }

    pub(crate) fn answered(&mut self, now: MonoTime) {
        self.advance(now);
        self.answers[1] += 1;
    }

    pub(crate) fn hedges(&self) -> u32 {
        self.hedges.iter().sum()
    }

    /// At least six, and more than were answered in the ordinary way.
    pub(crate) fn is_slow(&mut self, now: MonoTime) -> bool {
        self.advance(now);
        self.hedges() >= HEDGES_MIN && self.hedges() > self.answers.iter().sum()
    }
}

// ---------------------------------------------------------------- our own standstills

/// Standstills that are remembered.
const LAGS: usize = 32;

/// When this worker was not running: the world is not silent because we did not listen.
#[derive(Clone, Debug)]
pub(crate) struct Lags {
    /// On the heap: looked at only where a silence is.
    spans: Box<[(MonoTime, MonoTime)]>,
    next: usize,
}

impl Default for Lags {
    fn default() -> Self {
        Self { spans: [(MonoTime::ZERO, MonoTime::ZERO); LAGS].into(), next: 0 }
    }
}

impl Lags {
    /// The worker stood still for `lag` until `now`.
    pub(crate) fn note(&mut self, now: MonoTime, lag: Duration) {
        if lag > LAG_MIN {
            self.spans[self.next] = (now - lag, now);
            self.next = (self.next + 1) % LAGS;
        }
    }

    /// The time since when it has been running for `awake`.
    pub(crate) fn before(&self, now: MonoTime, awake: Duration) -> MonoTime {
        let mut since = now - awake;
        for _ in 0..LAGS {
            let missing = awake.saturating_sub(self.awake(since, now));
            if missing.is_zero() {
                break;
            }
            since = since - missing;
        }
        since
    }

    /// How long it was running between two times.
    pub(crate) fn awake(&self, from: MonoTime, to: MonoTime) -> Duration {
        let mut awake = to.since(from);
        for (start, end) in &self.spans {
            if *end > from {
                awake = awake.saturating_sub((*end).min(to).since((*start).max(from)));
            }
        }
        awake
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> MonoTime {
        MonoTime(ms * 1_000_000)
    }

    const fn long(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn requests_wait_from_sent_to_ended_and_are_forgotten_when_old() {
        let mut waiting = Waiting::default();
        for at in [1_000, 1_010, 1_020] {
            waiting.sent(ms(at));
        }
        assert_eq!(waiting.count(ms(1_025)), 3);
        let oldest = waiting.oldest(ms(1_025)).unwrap();
        assert!((ms(1_000)..ms(1_001)).contains(&oldest), "{oldest:?}");
        waiting.ended(Some(ms(1_000)), ms(1_026));
        assert_eq!(waiting.count(ms(1_026)), 2);
        assert!(waiting.oldest(ms(1_026)).unwrap() >= ms(1_008));
        waiting.ended(None, ms(1_027));
        assert_eq!(waiting.count(ms(1_027)), 1);
        assert_eq!(waiting.count(ms(3_000)), 0, "a long poll is no evidence");
        waiting.ended(Some(ms(1_020)), ms(3_000));
        assert_eq!(waiting.count(ms(3_000)), 0);
        assert_eq!(waiting.oldest(ms(3_000)), None);
    }

    #[test]
    fn buckets_are_as_wide_as_the_service_is_slow() {
        let mut flow = Flow::default();
        for n in 0..300 {
            flow.answered(long(900), ms(10_000 + n * 10));
        }
        flow.waiting.sent(ms(13_000));
        assert_eq!(flow.waiting.count(ms(15_500)), 1);
        assert_eq!(flow.waiting.count(ms(60_000)), 0);
    }

    #[test]
    fn threshold_is_the_rare_gap_between_floor_and_cap() {
        let mut flow = Flow::default();
        assert_eq!(flow.threshold().suspicious, SILENCE_CAP, "nothing is known");
        for _ in 0..1_000 {
            flow.answered(long(1), ms(0));
        }
        assert_eq!(flow.threshold().suspicious, SILENCE_CAP, "no gap is known");
        for _ in 0..1_000 {
            flow.gap(long(1), ms(0));
        }
        assert_eq!(flow.threshold().suspicious, SILENCE_FLOOR);
        for _ in 0..1_000 {
            flow.gap(long(20), ms(0));
        }
        let suspicious = flow.threshold().suspicious;
        assert!((long(19)..long(24)).contains(&suspicious), "{suspicious:?}");
        for _ in 0..1_000 {
            flow.gap(long(500), ms(0));
        }
        assert_eq!(flow.threshold().suspicious, SILENCE_CAP);
        assert!(flow.threshold().unheard_of > long(450));
        for _ in 0..9_000 {
            flow.answered(long(100), ms(0));
        }
        assert!(flow.threshold().suspicious > long(160), "half of all answers take longer than the cap");
    }

    #[test]
    fn errors_leave_the_window_and_one_endpoint_is_not_its_backend() {
        let ratio = ErrorRatio::default();
        let mut window = ErrorWindow::default();
        for n in 0..5 {
            let first = if n == 0 { First::Yes } else { First::No };
            window.failed(first, ms(1_000 + n), &ratio);
        }
        assert!(!window.tally().is_too_many(&ratio, 2));
        assert!(window.tally().is_too_many(&ratio, 1));
        window.failed(First::Yes, ms(1_010), &ratio);
        assert!(window.tally().is_too_many(&ratio, 2));
        for _ in 0..7 {
            window.good(ms(1_050), &ratio);
        }
        assert!(!window.tally().is_too_many(&ratio, 2), "fewer than half");
        window.good(ms(1_201), &ratio);
        assert_eq!(window.tally().failed, 0);
        assert_eq!(window.tally().good, 8);
    }

    #[test]
    fn six_hedges_are_slow_when_fewer_were_answered() {
        let mut window = HedgeWindow::default();
        for _ in 0..6 {
            window.hedged(ms(100));
        }
        assert!(window.is_slow(ms(101)));
        for _ in 0..6 {
            window.answered(ms(101));
        }
        assert!(!window.is_slow(ms(101)));
        window.hedged(ms(140));
        assert_eq!(window.hedges(), 1);
    }

    #[test]
    fn only_time_awake_counts() {
        let mut lags = Lags::default();
        lags.note(ms(130), long(20));
        lags.note(ms(140), LAG_MIN);
        assert_eq!(lags.awake(ms(100), ms(135)), long(15));
        assert_eq!(lags.awake(ms(120), ms(125)), long(0));
        assert_eq!(lags.awake(ms(131), ms(141)), long(10));
        assert_eq!(lags.awake(ms(90), ms(95)), long(5));
    }
}
