//! The endpoints of one backend in one cluster, sorted by [`Tier`].

use std::sync::Arc;

use super::live::{Slot, to_u32};
use crate::chunks::Chunks;
use crate::failover::{Counts, TIERS, Tier};
use crate::health::board::Word;
use crate::id::ClusterId;
use crate::model::{HashRing, StatSlot};

/// Members come and go at the end.
const LAST: Tier = TIERS[TIERS.len() - 1];

/// The endpoints of one backend in one cluster.
#[derive(Debug, Default)]
pub(crate) struct Group {
    pub(crate) cluster: ClusterId,
    pub(crate) stat: StatSlot,
    /// Slots, sorted by tier.
    pub(crate) members: Vec<u32>,
    /// How many members are in each of [`TIERS`].
    pub(crate) counts: Counts,
    /// The detector's verdict on them together, and whether it is only this worker's.
    pub(crate) word: Word,
    pub(crate) local: bool,
    /// The detector's evidence plus one; 0 = not used yet.
    pub(crate) part: u32,
    /// Where round robin stands.
    pub(crate) cursor: u32,
    pub(crate) ring: Option<Arc<HashRing>>,
}

impl Group {
    /// The members of `tier`.
    pub(crate) fn tier(&self, tier: Tier) -> &[u32] {
        self.span(tier, tier)
    }

    /// The members of all tiers from `from` to `to`.
    pub(crate) fn span(&self, from: Tier, to: Tier) -> &[u32] {
        let end = self.start(to) + self.counts[to as usize] as usize;
        &self.members[self.start(from)..end]
    }

    fn start(&self, tier: Tier) -> usize {
        self.counts[..tier as usize].iter().map(|count| *count as usize).sum()
    }

    fn swap(&mut self, slots: &mut Chunks<Slot>, a: usize, b: usize) {
        self.members.swap(a, b);
        for position in [a, b] {
            slots[self.members[position] as usize].position = to_u32(position);
        }
    }

    /// Moves a member of tier `from` to tier `to`, one border at a time.
    pub(super) fn shift(&mut self, slots: &mut Chunks<Slot>, slot: u32, from: Tier, to: Tier) {
        let mut at = from as usize;
        while at < to as usize {
            // Behind the last of its tier, then the border moves before it.
            let last = self.start(TIERS[at]) + self.counts[at] as usize - 1;
            self.swap(slots, slots[slot as usize].position as usize, last);
            self.counts[at] -= 1;
            self.counts[at + 1] += 1;
            at += 1;
        }
        while at > to as usize {
            let first = self.start(TIERS[at]);
            self.swap(slots, slots[slot as usize].position as usize, first);
            self.counts[at] -= 1;
            self.counts[at - 1] += 1;
            at -= 1;
        }
    }

    pub(super) fn add(&mut self, slots: &mut Chunks<Slot>, slot: u32) {
        slots[slot as usize].position = to_u32(self.members.len());
        self.members.push(slot);
        self.counts[LAST as usize] += 1;
        let tier = slots[slot as usize].tier();
        self.shift(slots, slot, LAST, tier);
    }

    pub(super) fn remove(&mut self, slots: &mut Chunks<Slot>, slot: u32) {
        let tier = slots[slot as usize].tier();
        self.shift(slots, slot, tier, LAST);
        let last = self.members.len() - 1;
        self.swap(slots, slots[slot as usize].position as usize, last);
        self.members.pop();
        self.counts[LAST as usize] -= 1;
    }
}
