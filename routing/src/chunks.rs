//! Growable storage without growth spikes: what a worker's table is made of.
//!
//! [`Chunks`] is a vector that never moves its elements; [`ChainIndex`] is a hash index that grows one bucket at a
//! time (linear hashing). With both, adding one endpoint to 100,000 costs what adding it to 100 costs, and no update
//! makes a worker copy or rehash what is already there. Neither knows what it stores; the table uses both.

use std::ops::{Index, IndexMut};

/// Elements of one chunk, unless its owner says otherwise: for 96-byte slots 24 KiB, small beside a worker's buffers and large beside malloc's cost.
const CHUNK_LEN: usize = 256;

/// A vector in chunks: elements stay where they are, growth allocates one chunk.
#[derive(Debug)]
pub(crate) struct Chunks<T, const CHUNK: usize = CHUNK_LEN> {
    chunks: Vec<Box<[T]>>,
    len: usize,
}

impl<T, const CHUNK: usize> Default for Chunks<T, CHUNK> {
    fn default() -> Self {
        Self { chunks: Vec::new(), len: 0 }
    }
}

impl<T: Default, const CHUNK: usize> Chunks<T, CHUNK> {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn get(&self, index: usize) -> Option<&T> {
        if index < self.len { Some(&self.chunks[index / CHUNK][index % CHUNK]) } else { None }
    }

    pub(crate) fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        if index < self.len { Some(&mut self.chunks[index / CHUNK][index % CHUNK]) } else { None }
    }

    /// Makes `index` valid, filling with defaults.
    pub(crate) fn grow_to_hold(&mut self, index: usize) {
        while self.chunks.len() * CHUNK <= index {
            self.chunks.push(std::iter::repeat_with(T::default).take(CHUNK).collect());
        }
        self.len = self.len.max(index + 1);
    }

    /// Makes every index of the last chunk valid, or of one chunk more when it is full.
    pub(crate) fn fill_chunk(&mut self) {
        self.grow_to_hold(self.len);
        self.len = self.chunks.len() * CHUNK;
    }

    pub(crate) fn push(&mut self, value: T) -> usize {
        let index = self.len;
        self.grow_to_hold(index);
        self[index] = value;
        index
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().flat_map(|chunk| chunk.iter()).take(self.len)
    }
}

impl<T: Default, const CHUNK: usize> Index<usize> for Chunks<T, CHUNK> {
    type Output = T;

    fn index(&self, index: usize) -> &T {
        &self.chunks[index / CHUNK][index % CHUNK]
    }
}

impl<T: Default, const CHUNK: usize> IndexMut<usize> for Chunks<T, CHUNK> {
    fn index_mut(&mut self, index: usize) -> &mut T {
        &mut self.chunks[index / CHUNK][index % CHUNK]
    }
}

/// An element's place in its bucket's chain. `next` is the index plus one; 0 ends the chain.
#[derive(Clone, Copy, Debug, Default)]
struct Link {
    hash: u32,
    next: u32,
}

/// A hash index over elements that live elsewhere and are numbered densely.
///
/// Linear hashing: every insertion adds at most one bucket and moves one chain. Lookups compare 32 bits of hash
/// before they ask the caller to compare the element itself.
#[derive(Debug, Default)]
pub(crate) struct ChainIndex {
    /// First element of each bucket, plus one; 0 = empty.
    heads: Chunks<u32>,
    links: Chunks<Link>,
    count: usize,
    /// The power of two with `base <= buckets < 2 * base`, once there is a bucket.
    base: usize,
}

impl ChainIndex {
    fn bucket(&self, hash: u32) -> usize {
        let wide = hash as usize & (2 * self.base - 1);
        if wide < self.heads.len() { wide } else { hash as usize & (self.base - 1) }
    }

    /// Adds element `index`, which must not be in the index yet.
    pub(crate) fn insert(&mut self, hash: u32, index: u32) {
        if self.heads.len() == 0 {
            self.heads.push(0);
            self.base = 1;
        } else if self.count >= self.heads.len() {
            self.split();
        }
        self.links.grow_to_hold(index as usize);
        self.count += 1;
        self.push_front(hash, index);
    }

    fn push_front(&mut self, hash: u32, index: u32) {
        let bucket = self.bucket(hash);
        self.links[index as usize] = Link { hash, next: self.heads[bucket] };
        self.heads[bucket] = index + 1;
    }

    /// Adds the next bucket and moves to it what belongs there: all of it sits in one other chain.
    fn split(&mut self) {
        let old = self.heads.push(0) & (self.base - 1);
        let mut next = std::mem::take(&mut self.heads[old]);
        while next != 0 {
            let index = next - 1;
            let link = self.links[index as usize];
            next = link.next;
            self.push_front(link.hash, index);
        }
        if self.heads.len() == 2 * self.base {
            self.base *= 2;
        }
    }

    /// Takes element `index` out; nothing happens when it is not there.
    pub(crate) fn remove(&mut self, hash: u32, index: u32) {
        if self.count == 0 {
            return;
        }
        let bucket = self.bucket(hash);
        let mut at = self.heads[bucket];
        let mut before = None;
        while at != 0 {
            let next = self.links[at as usize - 1].next;
            if at == index + 1 {
                match before {
                    None => self.heads[bucket] = next,
                    Some(before) => self.links[before].next = next,
                }
                self.count -= 1;
                return;
            }
            before = Some(at as usize - 1);
            at = next;
        }
    }

    /// The element with this hash that `is_it` accepts.
    pub(crate) fn find(&self, hash: u32, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        if self.count == 0 {
            return None;
        }
        let mut at = self.heads[self.bucket(hash)];
        while at != 0 {
            let index = at - 1;
            let link = self.links[index as usize];
            if link.hash == hash && is_it(index) {
                return Some(index);
            }
            at = link.next;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn index_holds_exactly_what_was_inserted_and_not_removed(
            ops in proptest::collection::vec((0u32..2, 0u32..600, 0u32..12), 0..1500)
        ) {
            let mut index = ChainIndex::default();
            let mut model: BTreeMap<u32, u32> = BTreeMap::new();
            for (op, element, hash) in ops {
                // Few distinct hashes: chains are long and collisions are the rule.
                if op == 0 && !model.contains_key(&element) {
                    index.insert(hash.wrapping_mul(0x9E37_79B9), element);
                    model.insert(element, hash);
                } else if let Some(hash) = model.remove(&element) {
                    index.remove(hash.wrapping_mul(0x9E37_79B9), element);
                }
            }
            for element in 0..600u32 {
                let found = (0..12u32).filter(|hash| {
                    index.find(hash.wrapping_mul(0x9E37_79B9), |index| index == element).is_some()
                });
                prop_assert_eq!(found.collect::<Vec<_>>(), model.get(&element).copied().into_iter().collect::<Vec<_>>());
            }
            prop_assert_eq!(index.count, model.len());
        }
    }

    #[test]
    fn elements_keep_their_place_while_the_vector_grows() {
        let mut chunks: Chunks<u32> = Chunks::default();
        chunks.push(7u32);
        let place = std::ptr::from_ref(&chunks[0]);
        for value in 0..10_000 {
            chunks.push(value);
        }
        assert_eq!(place, std::ptr::from_ref(&chunks[0]));
        assert_eq!(chunks.len(), 10_001);
        assert_eq!(chunks.get(10_001), None);
        assert_eq!(chunks.iter().copied().last(), Some(9_999));
    }
}
