//! The idle downstream connections of a worker, oldest first: what is shed when there are too many connections.
//!
//! An intrusive list over small numbers; entering, leaving and finding the oldest are O(1). Pure.

const NONE: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Link {
    prev: u32,
    next: u32,
    listed: bool,
}

/// The list. Its members are the indexes of their timers.
pub struct IdleList {
    links: Vec<Link>,
    oldest: u32,
    newest: u32,
    len: usize,
}

impl Default for IdleList {
    fn default() -> Self {
        Self { links: Vec::new(), oldest: NONE, newest: NONE, len: 0 }
    }
}

impl IdleList {
    /// Number of idle connections.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Is no connection idle?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// `member` becomes the newest.
    pub fn enter(&mut self, member: u32) {
        self.leave(member);
        let index = member as usize;
        if self.links.len() <= index {
            self.links.resize(index + 1, Link { prev: NONE, next: NONE, listed: false });
        }
        self.links[index] = Link { prev: self.newest, next: NONE, listed: true };
        match self.newest {
            NONE => self.oldest = member,
            newest => self.links[newest as usize].next = member,
        }
        self.newest = member;
        self.len += 1;
    }

    /// `member` is no longer idle. `false` when it was not.
    pub fn leave(&mut self, member: u32) -> bool {
        let Some(link) = self.links.get(member as usize).copied().filter(|link| link.listed) else {
            return false;
        };
        match link.prev {
            NONE => self.oldest = link.next,
            prev => self.links[prev as usize].next = link.next,
        }
        match link.next {
            NONE => self.newest = link.prev,
            next => self.links[next as usize].prev = link.prev,
        }
        self.links[member as usize].listed = false;
        self.len -= 1;
        true
    }

    /// The one that has been idle longest. It stays.
    #[must_use]
    pub fn oldest(&self) -> Option<u32> {
        (self.oldest != NONE).then_some(self.oldest)
    }

    /// Takes the one that has been idle longest.
    pub fn take_oldest(&mut self) -> Option<u32> {
        let oldest = (self.oldest != NONE).then_some(self.oldest)?;
        self.leave(oldest);
        Some(oldest)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    #[test]
    fn behaves_like_a_queue_with_removal() {
        for seed in 0..32 {
            let mut rng = SmallRng::seed_from_u64(seed);
            let (mut list, mut model) = (IdleList::default(), VecDeque::new());
            for _ in 0..2_000 {
                let member = rng.random_range(0..40);
                match rng.random_range(0..3) {
                    0 => {
                        list.enter(member);
                        model.retain(|other| *other != member);
                        model.push_back(member);
                    }
                    1 => {
                        list.leave(member);
                        model.retain(|other| *other != member);
                    }
                    _ => assert_eq!(list.take_oldest(), model.pop_front(), "seed {seed}"),
                }
                assert_eq!(list.len(), model.len(), "seed {seed}");
                assert_eq!(list.is_empty(), model.is_empty(), "seed {seed}");
            }
        }
    }
}
