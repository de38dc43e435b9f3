//! What a program on a ring has to do with each of its connections, by numbers that are given again when one has ended.

use std::ops::{Index, IndexMut};

/// Connections at once. Beyond it a new one is closed; no case opens as many.
const PLACES_MAX: usize = 65_536;

/// The connections.
pub(crate) struct Places<T> {
    all: Vec<Option<T>>,
    free: Vec<usize>,
}

impl<T> Places<T> {
    /// None yet.
    pub(crate) fn new() -> Self {
        Self { all: Vec::new(), free: Vec::new() }
    }

    /// How many there were at most at once: every number is below it.
    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    /// A number that nobody has; `None` = there are [`PLACES_MAX`]. It is given again until [`Self::put`] is called with it.
    pub(crate) fn vacant(&mut self) -> Option<usize> {
        if self.free.is_empty() && self.all.len() < PLACES_MAX {
            self.all.push(None);
            self.free.push(self.all.len() - 1);
        }
        self.free.last().copied()
    }

    /// Takes the number that [`Self::vacant`] told.
    pub(crate) fn put(&mut self, index: usize, connection: T) {
        assert_eq!(self.free.pop(), Some(index), "the number that is vacant");
        self.all[index] = Some(connection);
    }

    /// The one of that number, where there is one.
    pub(crate) fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        self.all[index].as_mut()
    }

    /// Ends it, where there is one.
    pub(crate) fn free(&mut self, index: usize) {
        if self.all[index].take().is_some() {
            self.free.push(index);
        }
    }
}

impl<T> Index<usize> for Places<T> {
    type Output = T;

    fn index(&self, index: usize) -> &T {
        self.all[index].as_ref().expect("a connection outlives its operations")
    }
}

impl<T> IndexMut<usize> for Places<T> {
    fn index_mut(&mut self, index: usize) -> &mut T {
        self.all[index].as_mut().expect("a connection outlives its operations")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_given_again_and_only_when_their_connection_has_ended() {
        let mut places = Places::new();
        for name in ["a", "b"] {
            let index = places.vacant().unwrap();
            assert_eq!(places.vacant(), Some(index), "until it is taken");
            places.put(index, name);
        }
        assert_eq!((places.len(), places[0], places[1]), (2, "a", "b"));
        places.free(0);
        places.free(0);
        assert!(places.get_mut(0).is_none());
        assert_eq!(places.vacant(), Some(0));
        places.put(0, "c");
        assert_eq!((places.vacant(), places.len()), (Some(2), 3));
    }
}
