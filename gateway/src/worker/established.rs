//! Layer-4 connections that are established: ended at once when what they lead to is found to answer nothing.
//!
//! A client that waits on a dead connection waits for its own timeout; one that is reset opens another, which goes where
//! somebody answers. Each connection is registered while it lives; a verdict looks at all of them.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use routing::health::action::{Scope, Transition};
use routing::health::state::{Reason, State};
use routing::id::{BackendId, ClusterId};
use routing::table::{EndpointKey, Pick};

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
    cut: bool,
    next: u32,
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
            cut: false,
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

    /// Is it to end?
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.worker.established.places.borrow()[self.index as usize].cut
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
    /// A verdict: connections to what answers nothing end.
    ///
    /// One endpoint that refuses connects may only be finishing what it has (a server that stops listening first), so
    /// its connections stay; one that is silent has lost them, and one that hangs lets them wait for nobody.
    pub(super) fn cut_established(&self, change: &Transition) {
        let State::Down(reason) = change.to else { return };
        let is_lost = match change.scope {
            Scope::All | Scope::Cluster(_) | Scope::Backend(..) => reason.is_unreachable(),
            Scope::Endpoint(_) => matches!(reason, Reason::Silent | Reason::Hang),
        };
        if !is_lost {
            return;
        }
        let mut places = self.established.places.borrow_mut();
        let mut wheel = self.wheel.borrow_mut();
        for place in places.iter_mut().filter(|place| place.is_in(change.scope)) {
            if let Some(timer) = place.timer {
                place.cut = true;
                wheel.fire(timer);
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
