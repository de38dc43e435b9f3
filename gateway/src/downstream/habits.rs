//! What the endpoints of a backend usually do: only where they answer, silence is evidence.

use std::cell::RefCell;

use routing::id::BackendId;

/// Which backends do it, by their numbers, which are dense: this is looked at for every message. Learned of each worker's own
/// traffic; forgotten with the backend, for its number may be another's next.
#[derive(Default)]
pub(crate) struct Habits(RefCell<Vec<u8>>);

impl Habits {
    /// Times in a row, less those when it was not so: from here on it is usual.
    const ANSWERING: u8 = 4;
    /// The most that is counted: so many times without make it none.
    const SCORE_MAX: u8 = 16;

    pub(crate) fn answers(&self, backend: BackendId) -> bool {
        self.0.borrow().get(backend.index()).is_some_and(|score| *score >= Self::ANSWERING)
    }

    pub(crate) fn note(&self, backend: BackendId, answered: bool) {
        let mut scores = self.0.borrow_mut();
        if scores.len() <= backend.index() {
            scores.resize(backend.index() + 1, 0);
        }
        let score = &mut scores[backend.index()];
        *score =
            if answered { score.saturating_add(1).min(Self::SCORE_MAX) } else { score.saturating_sub(1) };
    }

    /// The backend has left the table, or its number is another's.
    pub(crate) fn forget(&self, backend: BackendId) {
        if let Some(score) = self.0.borrow_mut().get_mut(backend.index()) {
            *score = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_evidence_only_where_answers_are_usual() {
        let (habits, backend) = (Habits::default(), BackendId(1));
        (0..3).for_each(|_| habits.note(backend, true));
        assert!(!habits.answers(backend));
        (0..100).for_each(|_| habits.note(backend, true));
        assert!(habits.answers(backend) && !habits.answers(BackendId(2)));
        (0..13).for_each(|_| habits.note(backend, false));
        assert!(!habits.answers(backend), "an endpoint that takes and never answers is no failure");
        habits.note(backend, true);
        assert!(habits.answers(backend));
        habits.forget(backend);
        habits.note(backend, true);
        assert!(!habits.answers(backend), "who gets its number begins anew");
    }
}
