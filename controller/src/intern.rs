//! Dense, stable numbers for names.
//!
//! A name keeps its number while anything refers to it. A number is used again only after its owner was removed
//! by an earlier update, oldest first, so that it rests for as long as possible.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// Numbers that rest before they are used again.
const RESTING: usize = 64;

/// Numbers for names of one sort.
#[derive(Debug)]
pub struct Interner<K> {
    ids: HashMap<K, (u32, u32)>,
    free: VecDeque<u32>,
    retired: Vec<u32>,
    next: u32,
    max: u32,
}

impl<K: Eq + Hash + Clone> Interner<K> {
    /// Numbers from `first` to `max`, both included.
    #[must_use]
    pub fn new(first: u32, max: u32) -> Self {
        Self { ids: HashMap::new(), free: VecDeque::new(), retired: Vec::new(), next: first, max }
    }

    /// The number of `key`, given now if it has none, and one more reference to it. `None`: all numbers are taken.
    pub fn acquire(&mut self, key: &K) -> Option<u32> {
        if let Some((id, references)) = self.ids.get_mut(key) {
            *references += 1;
            return Some(*id);
        }
        let fresh = self.next <= self.max;
        let id = if self.free.len() > RESTING || !fresh {
            self.free.pop_front()?
        } else {
            self.next += 1;
            self.next - 1
        };
        self.ids.insert(key.clone(), (id, 1));
        Some(id)
    }

    /// Gives one reference back. Returns the number when it was the last.
    pub fn release(&mut self, key: &K) -> Option<u32> {
        let (id, references) = self.ids.get_mut(key)?;
        *references -= 1;
        if *references > 0 {
            return None;
        }
        let id = *id;
        self.ids.remove(key);
        self.retired.push(id);
        Some(id)
    }

    /// The number of `key`, if it has one.
    #[must_use]
    pub fn get(&self, key: &K) -> Option<u32> {
        self.ids.get(key).map(|(id, _)| *id)
    }

    /// An update went out: numbers that it removed may be used by later ones.
    pub fn settle(&mut self) {
        self.free.extend(self.retired.drain(..));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_stable_while_it_is_referred_to_and_rests_before_it_is_used_again() {
        let mut ids = Interner::new(1, 3);
        assert_eq!(ids.acquire(&"a"), Some(1));
        assert_eq!(ids.acquire(&"a"), Some(1));
        assert_eq!(ids.acquire(&"b"), Some(2));
        assert_eq!(ids.release(&"a"), None);
        assert_eq!(ids.release(&"a"), Some(1));
        assert_eq!(ids.acquire(&"c"), Some(3), "1 rests until the update that removed it went out");
        assert_eq!(ids.acquire(&"d"), None, "all are taken, 1 still rests");
        ids.settle();
        assert_eq!(ids.acquire(&"d"), Some(1));
        assert_eq!(ids.get(&"d"), Some(1));
        assert_eq!(ids.get(&"a"), None);
    }
}
