//! Who waits for an answer, since when, and who should not have to any more: the proof of slowness.

use std::time::Duration;

use super::board::{LineView, PartLine};
use super::evidence::OUTSTANDING_MIN;
use crate::time::MonoTime;

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
    /// That were given up unanswered although most answers take less.
    given_up: [u16; AGES],
    total: u32,
    /// Buckets are `AGE_NS << scale` wide.
    scale: u32,
    /// The number of the newest bucket, counted from time zero.
    head: u64,
    /// No request waits that was sent in a bucket before this one: where the search for the oldest begins.
    none_before: u64,
}

impl Default for Waiting {
    fn default() -> Self {
        Self {
            counts: [0; AGES],
            spans: [(0, 0); AGES],
            sent: [0; AGES],
            given_up: [0; AGES],
            total: 0,
            scale: 0,
            head: 0,
            none_before: 0,
        }
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
            (self.counts[place], self.sent[place], self.given_up[place]) = (0, 0, 0);
        }
        self.head = head;
    }

    pub(crate) fn sent(&mut self, now: MonoTime) {
        self.advance(now);
        let (place, fraction) = (Self::place(self.head), self.fraction(now));
        if self.counts[place] < u16::MAX {
            if self.total == 0 {
                self.none_before = self.head;
            }
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

    /// One that was sent at `at` was given up at an age at which most are answered: it is overdue for as long as it is
    /// remembered. To be called beside [`Waiting::ended`].
    pub(super) fn was_given_up(&mut self, at: MonoTime) {
        let number = self.number(at);
        if number <= self.head && number + AGES as u64 > self.head {
            let given_up = &mut self.given_up[Self::place(number)];
            *given_up = given_up.saturating_add(1);
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

    fn oldest_number(&mut self) -> Option<u64> {
        if self.total == 0 {
            return None;
        }
        let first = (self.head + 1).saturating_sub(AGES as u64).max(self.none_before);
        let oldest = (first..=self.head).find(|number| self.counts[Self::place(*number)] > 0);
        self.none_before = oldest.unwrap_or(first);
        oldest
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
    /// and says most. `share` is the share of answers that are not there yet of what was sent at a time, `longer` that
    /// of what was given up.
    #[allow(clippy::cast_precision_loss, reason = "counts of requests")]
    pub(crate) fn overdue(
        &mut self,
        until: MonoTime,
        share: impl Fn(MonoTime) -> f32,
        longer: f32,
    ) -> Overdue {
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
            if sent == 0 {
                continue;
            }
            let mut share = share(latest);
            if number < newest && self.given_up[place] > 0 {
                waiting += u32::from(self.given_up[place]);
                share = share.max(longer);
            }
            let all = |sent: u32| Overdue {
                waiting,
                sent: sent.max(waiting),
                expected: sent.max(waiting) as f32 * share,
            };
            if waiting > 0 {
                // What was sent before the first of those that wait belongs to better times.
                let is_known = self.counts[place] > 0 && self.given_up[place] == 0;
                let first = if is_known { self.spans[place].0 } else { 0 };
                let after = 256 - u32::from(first);
                let since = sum.with(all((sent * after).div_ceil(256)));
                best = if since.phi() > best.phi() { since } else { best };
            }
            sum = sum.with(all(sent));
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
        self.given_up = [0; AGES];
        self.total = 0;
        self.none_before = 0;
    }

    /// Makes the buckets hold four times `usual`; what waits now is forgotten when they change.
    pub(super) fn scale_to(&mut self, usual: Duration) {
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
pub(super) const OVERDUE_AFTER: Duration = Duration::from_millis(12);

/// Slowness is proven when so many overdue requests are as improbable as this, in powers of ten: five where one answer in
/// a hundred takes that long, three where one in a thousand does.
const PHI_SLOW: f32 = 7.0;

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

    /// Of one backend, as it lies on the board.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small positive figure")]
    pub(crate) fn of_part(self) -> PartLine {
        PartLine { waiting: self.waiting, sent: self.sent, usual: (self.expected * PartLine::UNIT) as u32 }
    }

    /// What another worker wrote there.
    #[allow(clippy::cast_precision_loss, reason = "a figure to three digits")]
    pub(crate) fn of_part_line(line: PartLine) -> Self {
        Self { waiting: line.waiting, sent: line.sent, expected: line.usual as f32 / PartLine::UNIT }
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

/// Requests that are remembered of one endpoint since it last answered.
const UNANSWERED: usize = 6;

/// Microseconds between two readings of the clock for one sending, at most.
const SAME_SENDING_US: u32 = 200;

/// When the first requests were sent to one endpoint since its latest sign of life, none of which is answered.
///
/// What had been waiting when the sign of life came does not count: a balancer turns away from an endpoint that is busy
/// with a few rare, slow requests, and then hears nothing of it although it is well.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Unanswered {
    /// Microseconds after the sign of life, up to 71 minutes; oldest first.
    after: [u32; UNANSWERED],
    count: u8,
}

impl Unanswered {
    fn micros(sent: MonoTime, heard: MonoTime) -> u32 {
        u32::try_from(sent.0.saturating_sub(heard.0) / 1_000).unwrap_or(u32::MAX)
    }

    /// One was sent; `heard` = the latest sign of life. Beyond six none is remembered.
    pub(crate) fn sent(&mut self, now: MonoTime, heard: MonoTime) {
        if let Some(place) = self.after.get_mut(usize::from(self.count)) {
            *place = Self::micros(now, heard);
            self.count += 1;
        }
    }

    /// One that was sent at `sent` waits no longer: given up, or answered. One that is not remembered is nobody.
    pub(crate) fn ended(&mut self, sent: MonoTime, heard: MonoTime) {
        if sent < heard {
            return;
        }
        let (at, count) = (Self::micros(sent, heard), usize::from(self.count));
        let nearest = (0..count).min_by_key(|nth| self.after[*nth].abs_diff(at));
        if let Some(nth) = nearest.filter(|nth| self.after[*nth].abs_diff(at) <= SAME_SENDING_US) {
            self.after.copy_within(nth + 1..count, nth);
            self.count -= 1;
        }
    }

    /// It lives: all begins anew.
    pub(crate) fn clear(&mut self) {
        self.count = 0;
    }

    /// The oldest of them that say most together. `share` = of the answers to what is sent at a time, how many are not
    /// there yet.
    #[allow(clippy::cast_possible_truncation, reason = "at most six")]
    pub(crate) fn overdue(&self, heard: MonoTime, share: impl Fn(MonoTime) -> f32) -> Overdue {
        let (mut sum, mut best) = (Overdue::default(), Overdue::default());
        for after in &self.after[..usize::from(self.count)] {
            let one = Overdue {
                waiting: 1,
                sent: 1,
                expected: share(heard + Duration::from_micros((*after).into())),
            };
            sum = sum.with(one);
            best = if sum.phi() > best.phi() { sum } else { best };
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEARD: MonoTime = MonoTime(5_000_000_000);

    fn at(ms: u64) -> MonoTime {
        HEARD + Duration::from_millis(ms)
    }

    /// One in a hundred takes longer than 20 ms, one in a thousand longer than 40.
    fn usual(now: MonoTime) -> impl Fn(MonoTime) -> f32 {
        move |sent| match now.since(sent).as_millis() {
            0..20 => 1.0,
            20..40 => 0.01,
            _ => 0.001,
        }
    }

    #[test]
    fn endpoint_is_slow_once_what_it_was_sent_since_it_answered_is_improbably_late() {
        let mut unanswered = Unanswered::default();
        (1..=3).for_each(|ms| unanswered.sent(at(ms), HEARD));
        assert!(!unanswered.overdue(HEARD, usual(at(15))).is_proof());
        assert!(!unanswered.overdue(HEARD, usual(at(35))).is_proof(), "three of the hundredth");
        assert!(unanswered.overdue(HEARD, usual(at(44))).is_proof(), "three of the thousandth");
        (4..=5).for_each(|ms| unanswered.sent(at(ms), HEARD));
        assert!(unanswered.overdue(HEARD, usual(at(26))).is_proof(), "five of the hundredth");
        // Those that were just sent are no excuse for those that are late.
        let mut unanswered = Unanswered::default();
        [1, 2, 3, 43, 43, 43].into_iter().for_each(|ms| unanswered.sent(at(ms), HEARD));
        assert_eq!(unanswered.overdue(HEARD, usual(at(44))).waiting, 3);
        assert!(unanswered.overdue(HEARD, usual(at(44))).is_proof());
    }

    #[test]
    fn what_was_given_up_or_sent_before_a_sign_of_life_says_nothing() {
        let mut unanswered = Unanswered::default();
        (1..=9).for_each(|ms| unanswered.sent(at(ms), HEARD));
        assert!(unanswered.overdue(HEARD, usual(at(60))).is_proof());
        // Six are remembered; those that came later are nobody, and so is what was sent before.
        (7..=9).for_each(|ms| unanswered.ended(at(ms), HEARD));
        unanswered.ended(HEARD - Duration::from_millis(1), HEARD);
        assert_eq!(unanswered.overdue(HEARD, usual(at(60))).waiting, 6);
        (1..=4).for_each(|ms| unanswered.ended(at(ms), HEARD));
        assert!(!unanswered.overdue(HEARD, usual(at(60))).is_proof(), "two are left");
        (10..=13).for_each(|ms| unanswered.sent(at(ms), HEARD));
        assert!(unanswered.overdue(HEARD, usual(at(60))).is_proof());
        unanswered.clear();
        assert_eq!(unanswered.overdue(HEARD, usual(at(60))), Overdue::default());
    }
}
