//! What is written next, and how fast: a token bucket, and three queues.
//!
//! What has just changed goes before what could not be written and what is only to be looked through after the Lease
//! was won, so that a change is told at once in a world of any size; these two take turns, so that what fails for ever
//! keeps nothing else waiting. An object waits once, however often it changes. Pure: time is passed in.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use crate::object::ObjectId;

/// An object that could not be written is tried again after this.
const RETRY: Duration = Duration::from_secs(1);

/// `[fleet] status_burst`, `status_per_second`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Objects that are written at once after a quiet time.
    pub burst: u32,
    /// Objects written per second for any length of time.
    pub per_second: u32,
}

/// Which of the two was served last.
#[derive(Clone, Copy, Debug)]
enum Turn {
    Again,
    Backlog,
}

/// What waits to be written, and how much may be.
#[derive(Debug)]
pub(super) struct Pace {
    limits: Limits,
    /// Thousandths of an object.
    tokens: u64,
    filled: Option<Instant>,
    news: BTreeSet<ObjectId>,
    /// Everything there was when the Lease was won; what changes meanwhile leaves it for `news`.
    backlog: BTreeSet<ObjectId>,
    /// What could not be written, and when it is tried again: in the order in which it failed.
    again: VecDeque<(Instant, ObjectId)>,
    turn: Turn,
}

impl Pace {
    pub(super) fn new(limits: Limits) -> Self {
        let tokens = u64::from(limits.burst) * 1000;
        Self {
            limits,
            tokens,
            filled: None,
            news: BTreeSet::new(),
            backlog: BTreeSet::new(),
            again: VecDeque::new(),
            turn: Turn::Backlog,
        }
    }

    /// The Lease was lost: somebody else writes, and all is looked through when it is won again.
    pub(super) fn forget(&mut self) {
        self.news.clear();
        self.backlog.clear();
        self.again.clear();
    }

    /// The Lease was won.
    pub(super) fn look_through(&mut self, all: BTreeSet<ObjectId>) {
        self.backlog = all;
    }

    /// These have changed.
    pub(super) fn news(&mut self, news: BTreeSet<ObjectId>) {
        for id in news {
            self.backlog.remove(&id);
            self.news.insert(id);
        }
        self.again.retain(|(_, id)| !self.news.contains(id));
    }

    /// This one could not be written.
    pub(super) fn again(&mut self, id: ObjectId, now: Instant) {
        self.again.push_back((now + RETRY, id));
    }

    /// What is written now. What waits behind it is what the second value counts.
    pub(super) fn take(&mut self, now: Instant) -> (Vec<ObjectId>, usize) {
        self.fill(now);
        let room = usize::try_from(self.tokens / 1000).unwrap_or(usize::MAX);
        let mut batch: Vec<ObjectId> = Vec::new();
        while batch.len() < room
            && let Some(id) = self.news.pop_first()
        {
            batch.push(id);
        }
        // Half of the burst stays for what changes meanwhile.
        let room = room.saturating_sub(usize::try_from(self.limits.burst / 2).unwrap_or(usize::MAX));
        while batch.len() < room
            && let Some(id) = self.next(now)
        {
            batch.push(id);
        }
        self.tokens -= 1000 * u64::try_from(batch.len()).unwrap_or(u64::MAX);
        (batch, self.news.len())
    }

    /// In turns, of what failed and is due, and of what is looked through.
    fn next(&mut self, now: Instant) -> Option<ObjectId> {
        let is_due = self.again.front().is_some_and(|(at, _)| *at <= now);
        self.turn = match (self.turn, is_due, self.backlog.is_empty()) {
            (_, false, true) => return None,
            (_, true, true) | (Turn::Backlog, true, false) => Turn::Again,
            (_, false, false) | (Turn::Again, true, false) => Turn::Backlog,
        };
        match self.turn {
            Turn::Again => self.again.pop_front().map(|(_, id)| id),
            Turn::Backlog => self.backlog.pop_first(),
        }
    }

    fn fill(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.filled.unwrap_or(now));
        let fresh = u64::try_from(since.as_micros()).unwrap_or(u64::MAX) / 1000;
        let fresh = fresh.saturating_mul(u64::from(self.limits.per_second));
        if fresh > 0 || self.filled.is_none() {
            self.filled = Some(now);
        }
        self.tokens = self.tokens.saturating_add(fresh).min(u64::from(self.limits.burst) * 1000);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::object::{Kind, Source};

    fn ids(range: std::ops::Range<u32>) -> BTreeSet<ObjectId> {
        let id = |n| ObjectId {
            source: Source::Fleet,
            kind: Kind::HttpRoute,
            namespace: Arc::from("a"),
            name: Arc::from(format!("{n:05}")),
        };
        range.map(id).collect()
    }

    #[test]
    fn a_change_is_written_at_once_while_a_large_world_is_looked_through() {
        let mut pace = Pace::new(Limits { burst: 100, per_second: 50 });
        let start = Instant::now();
        pace.look_through(ids(0..10_000));
        let (batch, waiting) = pace.take(start);
        assert_eq!((batch.len(), waiting), (50, 0), "half of the burst");
        let mut total = 0;
        for round in 1..=100 {
            let now = start + Duration::from_millis(100 * round);
            pace.news(ids(9_000 + u32::try_from(round).unwrap()..9_001 + u32::try_from(round).unwrap()));
            let (batch, waiting) = pace.take(now);
            assert_eq!(waiting, 0, "nothing that changed waits");
            total += batch.len();
        }
        assert!((490..=510).contains(&total), "{total} in 10 s at 50 a second");
    }

    #[test]
    fn more_changes_than_the_burst_wait_in_their_last_form_and_are_counted() {
        let mut pace = Pace::new(Limits { burst: 10, per_second: 10 });
        let start = Instant::now();
        for _ in 0..5 {
            pace.news(ids(0..25));
        }
        let (batch, waiting) = pace.take(start);
        assert_eq!((batch.len(), waiting), (10, 15));
        let (batch, waiting) = pace.take(start + Duration::from_secs(1));
        assert_eq!((batch.len(), waiting), (10, 5));
        pace.again(batch[0].clone(), start + Duration::from_secs(1));
        let (batch, _) = pace.take(start + Duration::from_millis(1500));
        assert_eq!(batch.len(), 5, "what failed is not due yet");
        let (batch, _) = pace.take(start + Duration::from_millis(2500));
        assert_eq!(batch.len(), 1, "now it is");
    }

    #[test]
    fn what_fails_for_ever_keeps_nothing_else_waiting() {
        let mut pace = Pace::new(Limits { burst: 20, per_second: 20 });
        let start = Instant::now();
        // 500 that can never be written, and as many to be looked through: 10 a second for both, 10 for what changes.
        ids(0..500).into_iter().for_each(|id| pace.again(id, start));
        pace.look_through(ids(500..1000));
        let (mut others, mut failed) = (BTreeSet::new(), BTreeSet::new());
        for round in 0..1200 {
            let now = start + Duration::from_millis(100 * round);
            let changed = ids(2_000..2_001);
            pace.news(changed.clone());
            let (batch, waiting) = pace.take(now);
            assert_eq!(waiting, 0, "round {round}: what has changed does not wait");
            for id in batch.into_iter().filter(|id| !changed.contains(id)) {
                match id < *ids(500..501).first().unwrap() {
                    true => {
                        failed.insert(id.clone());
                        pace.again(id, now);
                    }
                    false => drop(others.insert(id)),
                }
            }
            if round == 0 {
                assert!(pace.again.len() == 500 && others.len() == 9, "{others:?}");
            }
        }
        assert_eq!((failed.len(), others.len()), (500, 500), "each had its turn in 120 s");
    }
}
