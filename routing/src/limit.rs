//! Limits that all workers of a node keep together: requests in a time, requests in flight.
//!
//! The one place on the request path where workers write to the same word, and only for rules that carry such a
//! limit. A rate is kept as one time (the generic cell rate algorithm): a request that is refused costs a relaxed
//! load; only one that is admitted writes, and of those there are no more than the limit itself says. So the
//! contention is bounded by the configuration, not by the load, and the limit is exact whatever the number of workers
//! is: shares for each worker would need lending as soon as connections are spread unevenly, and would still be wrong
//! for limits below one request per worker and second.
//!
//! Nothing here orders other memory: all accesses are relaxed.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::time::MonoTime;

/// Tries to write a word that other workers write, too. Each lost try means that another request was admitted; what
/// loses so often is refused.
const TRIES: usize = 64;

/// How fast: one request per `interval_ns` in the long run, `burst` of them at once after a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rate {
    interval_ns: u64,
    tolerance_ns: u64,
}

impl Rate {
    /// `count` requests in `period_ns`, `burst` (1 or more) at once. A count of zero admits nothing.
    #[must_use]
    pub fn new(count: u64, period_ns: u64, burst: u64) -> Self {
        let interval_ns = period_ns.checked_div(count).unwrap_or(u64::MAX / 4).max(1);
        let tolerance_ns = if count == 0 { 0 } else { interval_ns.saturating_mul(burst.max(1) - 1) };
        Self { interval_ns, tolerance_ns: tolerance_ns.min(u64::MAX / 4) }
    }

    /// The time that the word holds after one more request. `None` = it is one too many.
    fn admit(self, arrival: u64, now: u64) -> Option<u64> {
        let from = arrival.max(now);
        let refused = from - now > self.tolerance_ns || self.interval_ns == u64::MAX / 4;
        (!refused).then(|| from.saturating_add(self.interval_ns))
    }
}

/// What workers share of one rate limit.
#[derive(Default)]
pub struct RateState {
    arrival: AtomicU64,
    sources: Option<Sources>,
}

impl RateState {
    /// For limits of each source.
    #[must_use]
    pub fn by_source() -> Self {
        Self { arrival: AtomicU64::new(0), sources: Some(Sources::default()) }
    }

    /// May one more request come now? If so it is counted.
    #[must_use]
    pub fn take(&self, rate: Rate, now: MonoTime) -> bool {
        let mut arrival = self.arrival.load(Ordering::Relaxed);
        for _ in 0..TRIES {
            let Some(next) = rate.admit(arrival, now.0) else { return false };
            match self.arrival.compare_exchange_weak(arrival, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(changed) => arrival = changed,
            }
        }
        false
    }

    /// The same for one source, given by a hash of its address that no client can foresee.
    #[must_use]
    pub fn take_of(&self, source: u64, rate: Rate, now: MonoTime) -> bool {
        self.sources.as_ref().is_none_or(|sources| sources.take(source, rate, now))
    }
}

/// Sources that one limit remembers at once. Beyond them the one that may soonest come again is forgotten, and starts
/// anew: too many sources loosen the limit of each, they never refuse one that kept to it.
pub const SOURCES_MAX: usize = SETS * WAYS;
const SETS: usize = 1024;
/// One cache line.
const WAYS: usize = 8;
/// Bits of an entry that tell sources of one set apart.
const TAG_BITS: u32 = 16;
/// Entries count time in units of 2^10 ns: 48 bits of them last nine years.
const TICK_SHIFT: u32 = 10;

#[repr(align(64))]
#[derive(Default)]
struct Set([AtomicU64; WAYS]);

struct Sources(Box<[Set]>);

impl Default for Sources {
    fn default() -> Self {
        Self((0..SETS).map(|_| Set::default()).collect())
    }
}

impl Sources {
    #[allow(clippy::cast_possible_truncation, reason = "the index takes some bits of the hash")]
    fn take(&self, source: u64, rate: Rate, now: MonoTime) -> bool {
        let Set(ways) = &self.0[source as usize % SETS];
        let tag = source >> (64 - TAG_BITS) << (64 - TAG_BITS);
        let ticks = |entry: u64| entry << TAG_BITS >> TAG_BITS;
        for _ in 0..TRIES {
            let mut way = &ways[0];
            let mut entry = way.load(Ordering::Relaxed);
            for other in &ways[1..] {
                let seen = other.load(Ordering::Relaxed);
                let is_better = entry & !ticks(u64::MAX) != tag
                    && (seen & !ticks(u64::MAX) == tag || ticks(seen) < ticks(entry));
                if is_better {
                    (way, entry) = (other, seen);
                }
            }
            let is_own = entry & !ticks(u64::MAX) == tag;
            let arrival = if is_own { ticks(entry) << TICK_SHIFT } else { 0 };
            let Some(next) = rate.admit(arrival, now.0) else { return false };
            let next = tag | ticks(next >> TICK_SHIFT);
            if way.compare_exchange(entry, next, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                return true;
            }
        }
        false
    }
}

/// Requests in flight that workers count together.
#[derive(Default)]
pub struct InFlight {
    all: AtomicU32,
    sources: Option<Box<[Set]>>,
}

impl InFlight {
    /// For bounds of each source. Of up to [`SOURCES_MAX`] at once; what is beyond is not counted.
    #[must_use]
    pub fn by_source() -> Self {
        Self { all: AtomicU32::new(0), sources: Some((0..SETS).map(|_| Set::default()).collect()) }
    }

    /// One more, unless there are `max`.
    #[must_use]
    pub fn enter(&self, max: u32) -> bool {
        // A request that is refused only reads.
        let enter = |now: u32| (now < max).then(|| now + 1);
        self.all.fetch_update(Ordering::Relaxed, Ordering::Relaxed, enter).is_ok()
    }

    /// One less: once for each that entered.
    pub fn leave(&self) {
        self.all.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.all.load(Ordering::Relaxed)
    }

    /// One more of this source, given by a hash of its address that no client can foresee, unless there are `max`.
    #[must_use]
    pub fn enter_of(&self, source: u64, max: u32) -> bool {
        let Some(ways) = self.ways(source) else { return self.enter(max) };
        let tag = source & TAG;
        let max = u64::from(max).min(COUNT);
        for _ in 0..TRIES {
            // Read once: looked at a second time, the place where it has just come in would be another's, and the next
            // one free, and it would have two.
            let seen = ways.each_ref().map(|way| way.load(Ordering::Relaxed));
            let own = seen.iter().position(|entry| *entry != 0 && entry & TAG == tag);
            // No room: it is not counted, and `leave_of` finds nothing to take away.
            let Some(way) = own.or_else(|| seen.iter().position(|entry| *entry == 0)) else { return true };
            let (way, entry) = (&ways[way], seen[way]);
            if entry & COUNT >= max {
                return false;
            }
            let next = tag | ((entry & COUNT) + 1);
            if way.compare_exchange(entry, next, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                return true;
            }
        }
        false
    }

    /// One less of this source: once for each that entered.
    pub fn leave_of(&self, source: u64) {
        let Some(ways) = self.ways(source) else { return self.leave() };
        let leave = |entry: u64| {
            let is_own = entry != 0 && entry & TAG == source & TAG;
            // The last one gives the place back.
            is_own.then(|| if entry & COUNT > 1 { entry - 1 } else { 0 })
        };
        let _ = ways.iter().find(|way| way.fetch_update(Ordering::Relaxed, Ordering::Relaxed, leave).is_ok());
    }

    #[allow(clippy::cast_possible_truncation, reason = "the index takes some bits of the hash")]
    fn ways(&self, source: u64) -> Option<&[AtomicU64; WAYS]> {
        // Other bits than those of the tag: it has the upper ones.
        self.sources.as_ref().map(|sets| &sets[source as usize % SETS].0)
    }
}

/// Of an entry of [`InFlight`]: how many.
const COUNT: u64 = 0xffff;
/// Of an entry of [`InFlight`]: whose.
const TAG: u64 = !COUNT;

/// State that workers share beside plain data. Any two are equal: what stands in it is no configuration.
#[derive(Default)]
pub struct Shared<T>(Arc<T>);

impl<T> Shared<T> {
    /// Shares `state`.
    #[must_use]
    pub fn new(state: T) -> Self {
        Self(Arc::new(state))
    }

    /// The state.
    #[must_use]
    pub fn get(&self) -> &T {
        &self.0
    }

    /// Does anybody else hold it?
    #[must_use]
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> PartialEq for Shared<T> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl<T> Eq for Shared<T> {}

impl<T> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shared")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_burst_is_admitted_at_once_and_then_the_rate() {
        let (state, rate) = (RateState::default(), Rate::new(10, SECOND, 5));
        let admitted = |ms: u64| state.take(rate, MonoTime(SECOND + ms * 1_000_000));
        assert_eq!((0..20).filter(|_| admitted(0)).count(), 5);
        assert!(!admitted(99) && admitted(100) && !admitted(100));
        // After a pause the burst is there again, and no more than that.
        assert_eq!((0..20).filter(|_| admitted(60_000)).count(), 5);
        assert!(!RateState::default().take(Rate::new(0, SECOND, 1), MonoTime(1)));
    }

    /// Ten times the limit from four workers, whose clocks run side by side: within 5 % (it is exact but for the burst).
    #[test]
    fn workers_together_admit_what_the_limit_says() {
        let (state, rate) = (Shared::new(RateState::default()), Rate::new(10_000, SECOND, 100));
        let workers: Vec<_> = (0..4)
            .map(|worker| {
                let state = state.clone();
                // 100,000 requests per second together, for one second.
                let times = (0..25_000u64).map(move |nth| SECOND + nth * 40_000 + worker * 10_000);
                std::thread::spawn(move || {
                    times.filter(|time| state.get().take(rate, MonoTime(*time))).count()
                })
            })
            .collect();
        let admitted: usize = workers.into_iter().map(|worker| worker.join().unwrap()).sum();
        // Threads of a test do not run in step: who is behind sees the future's bookings. None is admitted twice.
        assert!(admitted <= 10_500, "{admitted}");
        let alone = RateState::default();
        let all = (0..100_000u64).filter(|nth| alone.take(rate, MonoTime(SECOND + nth * 10_000))).count();
        assert!((9_500..=10_500).contains(&all), "{all}");
    }

    #[test]
    fn each_source_has_its_own_limit() {
        let (state, rate) = (RateState::by_source(), Rate::new(10, SECOND, 2));
        let hash = |n: u64| crate::balance::hash::hash(&n.to_le_bytes());
        for source in 0..500 {
            let admitted = (0..5).filter(|_| state.take_of(hash(source), rate, MonoTime(SECOND))).count();
            assert_eq!(admitted, 2, "{source}");
        }
        // More sources than are remembered: nobody who keeps to the limit is refused.
        assert!((1000..30_000).all(|source| state.take_of(hash(source), rate, MonoTime(2 * SECOND))));
        let later = MonoTime(3 * SECOND);
        assert!(state.take_of(hash(1), rate, later) && state.take_of(hash(1), rate, later));
        assert!(!state.take_of(hash(1), rate, later));
    }

    #[test]
    fn what_is_in_flight_is_bounded() {
        let state = InFlight::default();
        assert!(state.enter(2) && state.enter(2) && !state.enter(2));
        state.leave();
        assert!(state.enter(2) && state.count() == 2);
    }

    #[test]
    fn what_each_source_has_in_flight_is_bounded_and_given_back() {
        let state = InFlight::by_source();
        let hash = |n: u64| crate::balance::hash::hash(&n.to_le_bytes());
        for source in 0..1_000 {
            assert!(state.enter_of(hash(source), 2) && state.enter_of(hash(source), 2), "{source}");
            assert!(!state.enter_of(hash(source), 2), "{source}");
        }
        // More sources than are remembered: nobody who keeps to the bound is refused, and nothing is left over.
        assert!((1_000..50_000).all(|source| state.enter_of(hash(source), 1)));
        (1_000..50_000).for_each(|source| state.leave_of(hash(source)));
        (0..1_000).for_each(|source| [(); 2].iter().for_each(|()| state.leave_of(hash(source))));
        // Whose places were given back: they are there for others, who are counted.
        assert!((50_000..50_500).all(|source| state.enter_of(hash(source), 1)));
        assert!((50_000..50_500).all(|source| !state.enter_of(hash(source), 1)));
    }

    /// From four threads: never more than the bound at once, and all places are free in the end.
    #[test]
    fn sources_are_counted_by_all_workers_together() {
        let (state, now, most) = (
            Shared::new(InFlight::by_source()),
            Shared::new(AtomicU32::new(0)),
            Shared::new(AtomicU32::new(0)),
        );
        let workers: Vec<_> = (0..4)
            .map(|_| {
                let (state, now, most) = (state.clone(), now.clone(), most.clone());
                std::thread::spawn(move || {
                    for _ in 0..20_000 {
                        if state.get().enter_of(7 << 40, 2) {
                            most.get()
                                .fetch_max(now.get().fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                            now.get().fetch_sub(1, Ordering::SeqCst);
                            state.get().leave_of(7 << 40);
                        }
                    }
                })
            })
            .collect();
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        assert!((1..=2).contains(&most.get().load(Ordering::SeqCst)));
        assert!(state.get().enter_of(7 << 40, 2) && state.get().enter_of(7 << 40, 2));
        assert!(!state.get().enter_of(7 << 40, 2));
    }
}
