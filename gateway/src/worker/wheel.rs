//! A coarse timing wheel: one entry for each connection, whatever happens on it.
//!
//! Pure: `now` is passed in. Moving a deadline later, which is what nearly every request does, is one store: the entry
//! stays where it is and is put where it belongs when its old place comes round. Only a deadline that moves earlier
//! relinks the entry. Four levels of 64 slots of about a millisecond reach 4.9 hours; what lies beyond is capped there
//! and looked at again.
#![expect(
    clippy::cast_possible_truncation,
    reason = "slots, levels and entries are small numbers by construction"
)]

use std::task::Waker;

use routing::time::MonoTime;

/// One tick is 2^20 ns = 1.05 ms.
const TICK_SHIFT: u32 = 20;
const LEVELS: usize = 4;
const SLOTS: u64 = 64;
const NONE: u32 = u32::MAX;
const NEVER: u64 = u64::MAX;

/// Names an entry of a [`Wheel`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerId(u32);

impl TimerId {
    /// The entry's number: small, and used again after the entry was removed.
    #[must_use]
    pub fn index(self) -> u32 {
        self.0
    }

    /// The entry of that number.
    #[must_use]
    pub fn from_index(index: u32) -> Self {
        Self(index)
    }
}

struct Node {
    prev: u32,
    next: u32,
    /// Level × 64 + slot where it is linked; `NONE` when it is not.
    place: u32,
    /// The tick it is linked for; never later than the deadline's.
    queued: u64,
    /// The deadline in nanoseconds; `NEVER` when there is none.
    deadline: u64,
    fired: bool,
    waker: Option<Waker>,
}

/// The wheel.
pub struct Wheel {
    /// Ticks up to here have been expired.
    tick: u64,
    heads: [u32; LEVELS * SLOTS as usize],
    occupied: [u64; LEVELS],
    nodes: Vec<Node>,
    free: Vec<u32>,
    /// Scratch of [`Wheel::expire`], kept for its allocation.
    due: Vec<u32>,
}

impl Wheel {
    /// An empty wheel that starts at `now`.
    #[must_use]
    pub fn new(now: MonoTime) -> Self {
        Self {
            tick: now.0 >> TICK_SHIFT,
            heads: [NONE; LEVELS * SLOTS as usize],
            occupied: [0; LEVELS],
            nodes: Vec::new(),
            free: Vec::new(),
            due: Vec::new(),
        }
    }

    /// A new entry without a deadline.
    pub fn insert(&mut self) -> TimerId {
        let node = Node {
            prev: NONE,
            next: NONE,
            place: NONE,
            queued: NEVER,
            deadline: NEVER,
            fired: false,
            waker: None,
        };
        if let Some(index) = self.free.pop() {
            self.nodes[index as usize] = node;
            TimerId(index)
        } else {
            self.nodes.push(node);
            TimerId(u32::try_from(self.nodes.len() - 1).unwrap_or(NONE))
        }
    }

    /// Forgets an entry. Its id may be given out again.
    pub fn remove(&mut self, id: TimerId) {
        self.unlink(id.0);
        let node = &mut self.nodes[id.0 as usize];
        node.waker = None;
        node.deadline = NEVER;
        self.free.push(id.0);
    }

    /// Sets the deadline of an entry and forgets that an earlier one has passed. `true` when the entry had to be put
    /// at an earlier place: [`Wheel::next_expiry`] may have changed.
    pub fn set(&mut self, id: TimerId, at: MonoTime) -> bool {
        let node = &mut self.nodes[id.0 as usize];
        node.deadline = at.0;
        node.fired = false;
        let tick = tick_of(at.0);
        let earlier = tick < node.queued;
        if earlier {
            self.unlink(id.0);
            self.link(id.0, tick);
        }
        earlier
    }

    /// Takes the deadline away.
    pub fn clear(&mut self, id: TimerId) {
        let node = &mut self.nodes[id.0 as usize];
        node.deadline = NEVER;
        node.fired = false;
    }

    /// Has the deadline passed? Otherwise `waker` is woken when it does.
    pub fn poll(&mut self, id: TimerId, waker: &Waker) -> bool {
        let node = &mut self.nodes[id.0 as usize];
        if !node.fired && !node.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            node.waker = Some(waker.clone());
        }
        node.fired
    }

    /// Lets an entry fire now, whatever its deadline.
    pub fn fire(&mut self, id: TimerId) {
        let node = &mut self.nodes[id.0 as usize];
        node.fired = true;
        if let Some(waker) = node.waker.take() {
            waker.wake();
        }
    }

    /// Lets every entry fire now.
    pub fn fire_all(&mut self) {
        for index in 0..self.nodes.len() {
            self.fire(TimerId(u32::try_from(index).unwrap_or(NONE)));
        }
    }

    /// When [`Wheel::expire`] is to be called next, if anything waits. May be early, never late.
    #[must_use]
    pub fn next_expiry(&self) -> Option<MonoTime> {
        let mut best = NEVER;
        for level in 0..LEVELS {
            let shift = 6 * level as u32;
            let base = self.tick >> shift;
            if self.occupied[level] == 0 {
                continue;
            }
            // The first occupied slot at or after the hand, going round once.
            let rotated = self.occupied[level].rotate_right((base % SLOTS) as u32);
            let ahead = u64::from(rotated.trailing_zeros());
            best = best.min((base + ahead) << shift);
        }
        (best != NEVER).then(|| MonoTime(best.max(self.tick) << TICK_SHIFT))
    }

    /// Fires everything whose deadline is not after `now`, and wakes who waits for it.
    pub fn expire(&mut self, now: MonoTime) {
        let target = now.0 >> TICK_SHIFT;
        let mut due = std::mem::take(&mut self.due);
        while self.tick <= target {
            for level in (0..LEVELS).rev() {
                let shift = 6 * level as u32;
                // A slot of a higher level is opened when the hand reaches its first tick.
                if self.tick & ((1 << shift) - 1) == 0 {
                    self.take_slot(level, (self.tick >> shift) % SLOTS, &mut due);
                }
            }
            for index in due.drain(..) {
                self.settle(index, now);
            }
            self.tick = self
                .next_expiry()
                .map_or(target + 1, |at| (at.0 >> TICK_SHIFT).clamp(self.tick + 1, target + 1));
        }
        self.due = due;
    }

    fn settle(&mut self, index: u32, now: MonoTime) {
        let node = &mut self.nodes[index as usize];
        if node.deadline <= now.0 {
            node.deadline = NEVER;
            node.fired = true;
            if let Some(waker) = node.waker.take() {
                waker.wake();
            }
        } else if node.deadline != NEVER {
            let tick = tick_of(node.deadline).max(self.tick + 1);
            self.link(index, tick);
        }
    }

    fn take_slot(&mut self, level: usize, slot: u64, due: &mut Vec<u32>) {
        let place = level * SLOTS as usize + slot as usize;
        while self.heads[place] != NONE {
            let index = self.heads[place];
            self.unlink(index);
            due.push(index);
        }
    }

    fn link(&mut self, index: u32, tick: u64) {
        let tick = tick.max(self.tick);
        // By slots, not by ticks: on each level the slot under the hand was opened already, and an entry put there
        // would wait for a whole round. Failing the level below means at least one slot ahead on this one.
        let slots_ahead = |level: usize| (tick >> (6 * level)) - (self.tick >> (6 * level));
        let level = (0..LEVELS - 1).find(|level| slots_ahead(*level) < SLOTS).unwrap_or(LEVELS - 1);
        let shift = 6 * level;
        // At most one round of the last level. Opened at the slot's first tick, and settled into a finer level then.
        let slot = (tick >> shift).min((self.tick >> shift) + SLOTS - 1) % SLOTS;
        let place = level * SLOTS as usize + slot as usize;
        let head = self.heads[place];
        if head != NONE {
            self.nodes[head as usize].prev = index;
        }
        self.heads[place] = index;
        self.occupied[level] |= 1 << slot;
        let node = &mut self.nodes[index as usize];
        node.prev = NONE;
        node.next = head;
        node.place = place as u32;
        node.queued = tick;
    }

    fn unlink(&mut self, index: u32) {
        let (prev, next, place) = {
            let node = &mut self.nodes[index as usize];
            let old = (node.prev, node.next, node.place);
            node.prev = NONE;
            node.next = NONE;
            node.place = NONE;
            node.queued = NEVER;
            old
        };
        if place == NONE {
            return;
        }
        if prev == NONE {
            self.heads[place as usize] = next;
        } else {
            self.nodes[prev as usize].next = next;
        }
        if next != NONE {
            self.nodes[next as usize].prev = prev;
        }
        if self.heads[place as usize] == NONE {
            self.occupied[place as usize / SLOTS as usize] &= !(1 << (place as u64 % SLOTS));
        }
    }
}

/// The first tick whose expiry is not before `deadline`.
fn tick_of(deadline: u64) -> u64 {
    deadline.div_ceil(1 << TICK_SHIFT)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    /// Random sets, clears and removals against a plain list of deadlines.
    #[test]
    fn every_deadline_fires_once_and_within_two_ticks() {
        for seed in 0..64 {
            let mut rng = SmallRng::seed_from_u64(seed);
            let mut now = MonoTime(rng.random_range(0..1 << 50));
            let mut wheel = Wheel::new(now);
            let ids: Vec<_> = (0..50).map(|_| wheel.insert()).collect();
            let mut wanted = vec![None::<MonoTime>; ids.len()];
            let waker = Waker::noop();
            for step in 0..3_000 {
                let pick = rng.random_range(0..ids.len());
                match rng.random_range(0..10) {
                    0 => {
                        wheel.clear(ids[pick]);
                        wanted[pick] = None;
                    }
                    1..=6 => {
                        let span: u64 = 1 << rng.random_range(10..44);
                        let at = now + Duration::from_nanos(rng.random_range(0..span));
                        wheel.set(ids[pick], at);
                        wanted[pick] = Some(at);
                    }
                    _ => {
                        let span: u64 = 1 << rng.random_range(10..42);
                        now = now + Duration::from_nanos(rng.random_range(0..span));
                        wheel.expire(now);
                    }
                }
                for (index, id) in ids.iter().enumerate() {
                    let fired = wheel.poll(*id, waker);
                    if let Some(at) = wanted[index] {
                        assert!(!fired || at <= now, "seed {seed} step {step}: fired early");
                        let late = now.since(at) > Duration::from_nanos(2 << TICK_SHIFT);
                        let ran = wheel.tick > (now.0 >> TICK_SHIFT);
                        assert!(
                            fired || !late || !ran,
                            "seed {seed} step {step}: late by {:?}",
                            now.since(at)
                        );
                        if fired {
                            wanted[index] = None;
                            wheel.clear(*id);
                        }
                    } else {
                        assert!(!fired, "seed {seed} step {step}: fired without a deadline");
                    }
                }
                if let Some(next) = wheel.next_expiry() {
                    let first = wanted.iter().flatten().min();
                    let slack = Duration::from_nanos(2 << TICK_SHIFT);
                    assert!(
                        first.is_none_or(|at| next <= *at + slack),
                        "seed {seed} step {step}: asked too late"
                    );
                }
            }
        }
    }

    #[test]
    fn moving_a_deadline_later_does_not_relink() {
        let mut wheel = Wheel::new(MonoTime::ZERO);
        let id = wheel.insert();
        wheel.set(id, MonoTime::ZERO + Duration::from_secs(1));
        let place = wheel.nodes[0].place;
        wheel.set(id, MonoTime::ZERO + Duration::from_secs(30));
        assert_eq!(wheel.nodes[0].place, place);
        wheel.expire(MonoTime::ZERO + Duration::from_secs(2));
        assert!(!wheel.poll(id, Waker::noop()));
        wheel.expire(MonoTime::ZERO + Duration::from_secs(31));
        assert!(wheel.poll(id, Waker::noop()));
    }
}
