//! Who has been quiet for longest: a list in the order of the last sign of life.
//!
//! Members are what waits for an answer. Each sign of life moves one to the end in constant time, so that a tick looks
//! only at the front, at what is overdue, however many members there are.

use crate::chunks::Chunks;
use crate::time::MonoTime;

/// Place of a member in its list.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Links {
    /// Neighbours, plus one; 0 = none.
    prev: u32,
    next: u32,
    listed: bool,
    /// The last sign of life, or the first request after a rest.
    pub(crate) since: MonoTime,
}

impl Links {
    pub(crate) fn is_listed(&self) -> bool {
        self.listed
    }
}

/// What can be a member.
pub(crate) trait Linked {
    fn links(&self) -> &Links;
    fn links_mut(&mut self) -> &mut Links;
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct QuietList {
    head: u32,
    tail: u32,
}

impl QuietList {
    pub(crate) fn is_empty(&self) -> bool {
        self.head == 0
    }

    /// Moves a member to the end; adds it when it is none.
    pub(crate) fn touch<T: Linked + Default, const N: usize>(
        &mut self,
        items: &mut Chunks<T, N>,
        at: u32,
        now: MonoTime,
    ) {
        if self.tail != at + 1 {
            self.remove(items, at);
            let tail = self.tail;
            *items[at as usize].links_mut() = Links { prev: tail, next: 0, listed: true, since: now };
            match tail.checked_sub(1) {
                Some(tail) => items[tail as usize].links_mut().next = at + 1,
                None => self.head = at + 1,
            }
            self.tail = at + 1;
        }
        items[at as usize].links_mut().since = now;
    }

    /// Takes a member out; nothing when it is none.
    pub(crate) fn remove<T: Linked + Default, const N: usize>(&mut self, items: &mut Chunks<T, N>, at: u32) {
        let links = *items[at as usize].links();
        if !links.listed {
            return;
        }
        match links.prev.checked_sub(1) {
            Some(prev) => items[prev as usize].links_mut().next = links.next,
            None => self.head = links.next,
        }
        match links.next.checked_sub(1) {
            Some(next) => items[next as usize].links_mut().prev = links.prev,
            None => self.tail = links.prev,
        }
        *items[at as usize].links_mut() = Links { since: links.since, ..Links::default() };
    }

    /// The quietest member, if any.
    pub(crate) fn first(&self) -> Option<u32> {
        self.head.checked_sub(1)
    }

    /// The member that is next after `at`.
    pub(crate) fn after<T: Linked + Default, const N: usize>(
        &self,
        items: &Chunks<T, N>,
        at: u32,
    ) -> Option<u32> {
        items[at as usize].links().next.checked_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Item(Links);

    impl Linked for Item {
        fn links(&self) -> &Links {
            &self.0
        }

        fn links_mut(&mut self) -> &mut Links {
            &mut self.0
        }
    }

    fn order(list: &QuietList, items: &Chunks<Item>) -> Vec<u32> {
        std::iter::successors(list.first(), |at| list.after(items, *at)).collect()
    }

    #[test]
    fn members_stand_in_the_order_of_their_last_sign_of_life() {
        let (mut list, mut items) = (QuietList::default(), Chunks::<Item>::default());
        items.grow_to_hold(9);
        for (now, at) in (1..).zip([3, 5, 7, 3, 7, 7, 0, 5]) {
            list.touch(&mut items, at, MonoTime(now));
        }
        assert_eq!(order(&list, &items), [3, 7, 0, 5]);
        assert_eq!(items[7].0.since, MonoTime(6));
        for at in [7, 3, 7, 5] {
            list.remove(&mut items, at);
        }
        assert_eq!(order(&list, &items), [0]);
        list.remove(&mut items, 0);
        assert!(list.is_empty());
        list.touch(&mut items, 4, MonoTime(9));
        assert_eq!(order(&list, &items), [4]);
    }
}
