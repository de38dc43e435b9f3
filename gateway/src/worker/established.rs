//! Layer-4 connections that are established: ended when what they lead to is found to answer nothing.
//!
//! A client that waits on a dead connection waits for its own timeout; one that is reset opens another, which goes where
//! somebody answers. Each connection is registered while it lives; a verdict looks at all of them. What is silent or
//! refuses has lost them; what hangs may only pause, so its connections know the verdict, and what they make of it is theirs.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use routing::health::action::{Scope, Transition};
use routing::health::state::{Reason, State};
use routing::id::{BackendId, ClusterId};
use routing::table::{EndpointKey, Pick};
use routing::time::MonoTime;

use super::wheel::TimerId;
use super::{Deadline, Worker};

/// The connections of one worker.
#[derive(Default)]
pub struct EstablishedList {
    places: RefCell<Vec<Place>>,
    /// The first free place plus one; 0 = none.
    free: Cell<u32>,
}

#[derive(Clone, Copy)]
struct Place {
    endpoint: EndpointKey,
    cluster: ClusterId,
    backend: BackendId,
    /// Whom to wake; `None` = this place is free, and `next` is the next free one plus one.
    timer: Option<TimerId>,
    verdict: Option<(Scope, Verdict)>,
    next: u32,
}

/// What was found of that to which a connection leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// When.
    pub at: MonoTime,
    /// May it go on later as if nothing had been: does its kernel still hold the connection?
    pub may_return: bool,
}

/// One connection, registered while this lives.
pub struct Established {
    worker: Rc<Worker>,
    index: u32,
}

impl Established {
    /// Registers a connection to `pick`; `deadline` is fired when it is to end.
    #[must_use]
    pub fn new(worker: &Rc<Worker>, pick: &Pick, deadline: &Deadline) -> Self {
        let list = &worker.established;
        let place = Place {
            endpoint: pick.endpoint,
            cluster: pick.cluster,
            backend: pick.backend,
            timer: Some(deadline.id()),
            verdict: None,
            next: 0,
        };
        let mut places = list.places.borrow_mut();
        let index = match list.free.get().checked_sub(1) {
            Some(index) => {
                list.free.set(places[index as usize].next);
                places[index as usize] = place;
                index
            }
            None => {
                places.push(place);
                u32::try_from(places.len() - 1).unwrap_or(u32::MAX)
            }
        };
        Self { worker: Rc::clone(worker), index }
    }

    /// What it leads to was found to answer nothing, and still is.
    #[must_use]
    pub fn verdict(&self) -> Option<Verdict> {
        self.worker.established.places.borrow()[self.index as usize].verdict.map(|(_, verdict)| verdict)
    }
}

impl Drop for Established {
    fn drop(&mut self) {
        let list = &self.worker.established;
        let mut places = list.places.borrow_mut();
        let place = &mut places[self.index as usize];
        place.timer = None;
        place.next = list.free.replace(self.index + 1);
    }
}

impl Worker {
    /// A verdict: connections to what answers nothing learn of it, and that it holds no longer.
    ///
    /// One endpoint that refuses connects may only be finishing what it has (a server that stops listening first), so
    /// its connections stay; one that is silent has lost them, and one that hangs lets them wait for nobody.
    pub(super) fn judge_established(&self, change: &Transition) {
        let verdict = match (change.to, change.scope) {
            (State::Down(Reason::Refused), Scope::Endpoint(_)) => None,
            (State::Down(reason), _) if reason.is_unreachable() => {
                Some(Verdict { at: change.at, may_return: reason == Reason::Hang })
            }
            _ => None,
        };
        let mut places = self.established.places.borrow_mut();
        let mut wheel = self.wheel.borrow_mut();
        for place in places.iter_mut().filter(|place| place.is_in(change.scope)) {
            let Some(timer) = place.timer else { continue };
            match (verdict, place.verdict) {
                // It hangs whoever says so: the hold that has begun goes on.
                (Some(new), Some((_, old))) if new.may_return || !old.may_return => {}
                (Some(new), _) => {
                    place.verdict = Some((change.scope, new));
                    wheel.fire(timer);
                }
                (None, Some((scope, _))) if scope == change.scope => place.verdict = None,
                (None, _) => {}
            }
        }
    }
}

impl Place {
    fn is_in(&self, scope: Scope) -> bool {
        match scope {
            Scope::All => true,
            Scope::Cluster(cluster) => self.cluster == cluster,
            Scope::Backend(backend, cluster) => self.backend == backend && self.cluster == cluster,
            Scope::Endpoint(endpoint) => self.endpoint == endpoint,
        }
    }
}
