//! What traffic says: who waits for an answer, when the latest byte came, how long gaps and answers usually are, how
//! many answers are failures, how many requests had to be hedged.
//!
//! One [`Flow`] for a cluster and one for each backend in a cluster, by one worker. Constant time and size; times go in
//! as they are, a standstill of our own is subtracted by [`Lags`] where a silence is asked for.

use std::time::Duration;

use super::histogram::Histogram;
use super::waiting::{OVERDUE_AFTER, Overdue, Waiting};
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

/// What is usual for an endpoint.
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

    /// An attempt that was sent at `sent` ended; `is_given_up` = without an answer or a failure.
    pub(crate) fn ended(&mut self, sent: Option<MonoTime>, is_given_up: bool, lags: &Lags, now: MonoTime) {
        self.waiting.ended(sent, now);
        if let Some(sent) = sent.filter(|_| is_given_up)
            && lags.awake(sent, now) >= self.floor()
        {
            self.waiting.was_given_up(sent);
        }
    }

    /// An attempt was given up after so long: it would have taken longer, as long as those do that take longer.
    pub(crate) fn given_up(&mut self, age: Duration, now: MonoTime) {
        self.answered(self.latencies.middle_above(age), now);
    }

    /// Requests that should have been answered by now.
    pub(crate) fn overdue(&mut self, lags: &Lags, now: MonoTime) -> Overdue {
        if self.delays.hedge.is_none() {
            return Overdue::default();
        }
        let after = self.overdue_after();
        if self.waiting.count(now) == 0
            || self.waiting.oldest(now).is_none_or(|oldest| now.since(oldest) < after)
        {
            return Overdue::default();
        }
        let (until, floor, latencies) = (lags.before(now, after), self.floor(), &self.latencies);
        let share = |sent| latencies.share_above(lags.awake(sent, now));
        self.waiting.overdue(until, share, latencies.share_above(floor))
    }

    pub(crate) fn median(&self) -> Option<Duration> {
        self.latencies.quantile(500, LATENCIES_MIN)
    }

    /// FAILOVER's table: phi 3 of the gaps, at least 4 ms and twice the median, at most 40 ms where that is more than
    /// the median allows.
    pub(crate) fn suspicious(&self) -> Duration {
        let rare = self.gaps.quantile(999, GAPS_MIN);
        let Some(median) = self.median() else {
            return rare.unwrap_or(SILENCE_CAP).max(SILENCE_CAP);
        };
        let floor = SILENCE_FLOOR.max(median * 2);
        rare.map_or(SILENCE_CAP, |rare| rare.min(SILENCE_CAP)).max(floor)
    }

    /// After how long an answer is overdue.
    pub(crate) fn overdue_after(&self) -> Duration {
        self.delays.hedge.unwrap_or(HEDGE_DELAY_MAX) + OVERDUE_AFTER
    }

    /// What was heard within this lives: no silence is shorter.
    pub(crate) fn floor(&self) -> Duration {
        self.median().map_or(SILENCE_FLOOR, |median| SILENCE_FLOOR.max(median * 2))
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

/// Failures among the latest answers are news when they are as improbable as this by what came before them, in powers of
/// ten: five in a row after a hundred good answers, eight where one in ten always fails.
const PHI_ERRORS: f32 = 7.0;

/// Answers and failures of the last window, in ten buckets.
#[derive(Clone, Debug, Default)]
pub(crate) struct ErrorWindow {
    buckets: [Tally; BUCKETS],
    head: u64,
    /// The latest answers, the newest in the lowest bit: 1 = failed. Finer than the buckets, which a failure may begin in
    /// the middle of.
    latest: u64,
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
        self.latest <<= 1;
    }

    /// A failure; `first` = of an endpoint that had none in this window.
    pub(crate) fn failed(&mut self, first: First, now: MonoTime, ratio: &ErrorRatio) {
        self.latest = self.latest << 1 | 1;
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

    /// Are there too many failures: in the whole window, or among the latest answers, where that is improbable by what
    /// came before them? `of` endpoints could have failed; more than half of them must have.
    ///
    /// Without the second, a window full of good answers would have to pass before failures are half of it.
    pub(crate) fn is_too_many(&self, ratio: &ErrorRatio, of: u32) -> bool {
        let all = self.tally();
        all.is_too_many(ratio, of)
            || self.runs().any(|latest| {
                // What failed before the window began is no longer a failure.
                let latest = Tally { endpoints: all.endpoints, ..latest };
                latest.failed <= all.failed && latest.is_too_many(ratio, of) && latest.is_news_after(all)
            })
    }

    /// The latest answers: as many as end with a failure, the shortest run first.
    fn runs(&self) -> impl Iterator<Item = Tally> + '_ {
        (0..u64::BITS).filter(|nth| self.latest >> nth & 1 == 1).map(|nth| {
            let failed = (self.latest << (u64::BITS - 1 - nth)).count_ones();
            Tally { good: nth + 1 - failed, failed, endpoints: 0 }
        })
    }
}

/// Is it an endpoint's first failure in the window?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum First {
    Yes,
    No,
}

impl Tally {
    /// Is so large a share of failures improbable by what else is in `all`? Where nothing else is, nothing is known.
    #[allow(clippy::cast_precision_loss, reason = "counts of answers")]
    fn is_news_after(self, all: Self) -> bool {
        let before = [all.good.saturating_sub(self.good), all.failed - self.failed].map(|count| count as f32);
        // By the rule of succession: as if one more of each had been seen.
        let usual = (before[1] + 1.0) / (before[0] + before[1] + 2.0);
        let (failed, good) = (self.failed as f32, self.good as f32);
        let share = failed / (failed + good);
        if share <= usual {
            return false;
        }
        // The bound of a binomial's tail, in powers of ten.
        let part =
            |count: f32, share: f32, usual: f32| if count > 0.0 { count * (share / usual).ln() } else { 0.0 };
        let nats = part(failed, share, usual) + part(good, 1.0 - share, 1.0 - usual);
        nats / std::f32::consts::LN_10 >= PHI_ERRORS
    }

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
mod tests;
