//! What an endpoint owes a connection, as evidence for the failure detector.
//!
//! Bytes owe nobody an answer, so silence is evidence only where answers are usual: where most connections to a backend
//! were answered before ([`Habits`]). There a client's bytes are a *question* from when they come until the first byte of
//! the endpoint; what the client adds meanwhile begins it anew, for a request is only answered when it is complete, and one
//! that goes on and on is a stream and no question. Where servers usually speak first, the connect is the first question.
//! A question that nobody answered for a second was none; a connection with several of those asks no more for a while.
//! A stream one way, a subscription, a wait for the next message: each is at most one question that comes to nothing.
//!
//! The detector takes it from there (`routing`, `detector/owed.rs`), and asks endpoints by [`crate::upstream::endings`].

use std::rc::Rc;
use std::time::Duration;

use routing::id::BackendId;
use routing::table::{EndpointKey, Pick, Unanswered};
use routing::time::MonoTime;

use crate::downstream::habits::Habits;
use crate::upstream::endings::Endings;
use crate::worker::{Worker, clock};

/// How long a question waits for its answer.
const ANSWER_WAIT: Duration = Duration::from_secs(1);
/// Pieces of a question; what has more of them is a stream.
const PIECES_MAX: u8 = 8;
/// What a question without answer adds to a connection's doubt; each answer takes one off.
const DOUBT: u8 = 16;
/// From here on a connection's bytes are no questions.
const DOUBT_MAX: u8 = 32;

/// What is usual on connections of layer 4, as one worker has seen it.
#[derive(Default)]
pub struct Usual {
    /// Is the first thing that is said on a connection answered?
    answers: Habits,
    /// Does the server speak before its client?
    greets: Habits,
    /// Which endpoints close what has ended.
    pub(crate) endings: Endings,
}

impl Usual {
    /// Are connections to this backend usually answered?
    pub(super) fn is_answering(&self, backend: BackendId) -> bool {
        self.answers.answers(backend)
    }

    /// The backend has left the table, or its number is another's.
    pub(crate) fn forget_backend(&self, backend: BackendId) {
        self.answers.forget(backend);
        self.greets.forget(backend);
    }
}

/// See the module. One for each connection.
pub(super) struct Owed {
    worker: Rc<Worker>,
    endpoint: EndpointKey,
    backend: BackendId,
    /// Since when an answer is owed, if one is.
    asked: Option<MonoTime>,
    /// When the client first said something, until something comes back or it was too long ago.
    opened: Option<MonoTime>,
    /// Has anything come back?
    heard: bool,
    pieces: u8,
    doubt: u8,
    /// Is its endpoint known to close what has ended, or not to?
    is_acquainted: bool,
}

impl Owed {
    /// A connection that was accepted; `spoken` = the client has said something already.
    pub(super) fn new(worker: &Rc<Worker>, pick: &Pick, spoken: bool, now: MonoTime) -> Self {
        let (endpoint, backend) = (pick.endpoint, pick.backend);
        let mut owed = Self {
            worker: Rc::clone(worker),
            endpoint,
            backend,
            asked: None,
            opened: None,
            heard: false,
            pieces: 0,
            doubt: 0,
            is_acquainted: false,
        };
        let usual = &owed.worker.usual;
        if spoken {
            owed.client(now);
        } else if usual.greets.answers(backend) && usual.is_answering(backend) {
            owed.ask(now);
        }
        owed
    }

    /// Bytes of the client.
    pub(super) fn client(&mut self, now: MonoTime) {
        if !self.heard && self.opened.is_none() {
            self.opened = Some(now);
        }
        if self.asked.is_some() {
            self.forget(Unanswered::Withdrawn, now);
        }
        self.pieces = self.pieces.saturating_add(1);
        if self.pieces <= PIECES_MAX && self.doubt < DOUBT_MAX && self.worker.usual.is_answering(self.backend)
        {
            self.ask(now);
        }
    }

    /// Bytes of the endpoint: an answer, or at least a sign of life.
    pub(super) fn upstream(&mut self, now: MonoTime) {
        self.pieces = 0;
        match self.asked.take() {
            Some(asked) => {
                self.doubt = self.doubt.saturating_sub(1);
                self.worker.replied(self.endpoint, asked, now);
            }
            None => self.worker.heard(self.endpoint, now),
        }
        if !self.heard {
            self.heard = true;
            let usual = &self.worker.usual;
            usual.greets.note(self.backend, self.opened.is_none());
            match self.opened.take() {
                Some(opened) => usual.answers.note(self.backend, now.since(opened) <= ANSWER_WAIT),
                None => usual.answers.note(self.backend, true),
            }
        }
    }

    /// The endpoint has ended or broken the connection: somebody is there.
    pub(super) fn upstream_ended(&mut self, now: MonoTime) {
        if self.asked.is_some() {
            self.forget(Unanswered::Withdrawn, now);
        }
        self.worker.heard(self.endpoint, now);
    }

    /// When a question has waited long enough.
    pub(super) fn due(&self) -> Option<MonoTime> {
        Some(self.asked? + ANSWER_WAIT)
    }

    /// Gives up what has waited long enough.
    pub(super) fn tick(&mut self, now: MonoTime) {
        if self.due().is_some_and(|due| now >= due) {
            self.forget(Unanswered::GivenUp, now);
            self.doubt = self.doubt.saturating_add(DOUBT);
        }
    }

    /// The endpoint was found to answer nothing: what it owes says nothing new, and nothing of its backend's habits.
    pub(super) fn cut(&mut self) {
        self.opened = None;
        if self.asked.is_some() {
            self.forget(Unanswered::Withdrawn, clock::now());
        }
    }

    fn ask(&mut self, now: MonoTime) {
        self.asked = Some(now);
        if !std::mem::replace(&mut self.is_acquainted, true) {
            let addr = self.worker.table.borrow().endpoint(self.endpoint).map(|view| view.addr);
            addr.into_iter().for_each(|addr| Endings::used(&self.worker, self.endpoint, addr));
        }
        self.worker.table.borrow().on_asked(self.endpoint, now);
        self.worker.heed();
    }

    fn forget(&mut self, why: Unanswered, now: MonoTime) {
        if let Some(asked) = self.asked.take() {
            self.worker.table.borrow().on_unanswered(self.endpoint, asked, why, now);
            if why == Unanswered::GivenUp {
                self.worker.heed();
            }
        }
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        let Some(opened) = self.opened.take() else {
            if self.asked.is_some() {
                self.forget(Unanswered::GivenUp, clock::now());
            }
            return;
        };
        // The client has spoken and left without an answer: in a hurry, or because none ever comes.
        let now = clock::now();
        self.forget(Unanswered::GivenUp, now);
        if !self.worker.usual.is_answering(self.backend) || now.since(opened) >= ANSWER_WAIT {
            self.worker.usual.answers.note(self.backend, false);
        }
    }
}
