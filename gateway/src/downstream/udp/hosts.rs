//! Which hosts answer a connect, whatever listens there: what makes a probe of an endpoint that speaks UDP mean something.
//!
//! An endpoint of UDP cannot be asked whether it lives: what it answers to is its own affair. Its host can: a kernel
//! answers a connect to a port without listener with a reset. Some networks drop such a connect, though. So the host of each
//! endpoint is asked once when that is first used; only where it has answered does a later silence count
//! ([`Hosts::answers`]). What is known goes with its endpoint, so there is no more of it than the table has endpoints.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use routing::table::{EndpointKey, Pick};

use crate::net;
use crate::upstream::probe::{Place, within};
use crate::worker::{Worker, clock, supervise};

/// How long a host is listened to when it is asked for the first time.
const PATIENCE: Duration = Duration::from_secs(1);

/// What one worker knows of the hosts of endpoints that are in its table.
#[derive(Default)]
pub struct Hosts {
    /// `true` = it has answered a connect.
    known: RefCell<HashMap<EndpointKey, bool>>,
}

impl Hosts {
    /// Has the host of this endpoint answered a connect before, so that its silence says something?
    #[must_use]
    pub fn answers(&self, endpoint: EndpointKey) -> bool {
        self.known.borrow().get(&endpoint).copied().unwrap_or(false)
    }

    /// Its host answered. Nothing is kept of an endpoint that was not used, or has left.
    pub fn note(&self, endpoint: EndpointKey) {
        if let Some(answers) = self.known.borrow_mut().get_mut(&endpoint) {
            *answers = true;
        }
    }

    /// The endpoint has left the table.
    pub(crate) fn forget(&self, endpoint: EndpointKey) {
        self.known.borrow_mut().remove(&endpoint);
    }

    /// An endpoint is used. Asks its host, if that was not done yet.
    pub(super) fn used(worker: &Rc<Worker>, pick: &Pick) {
        let (endpoint, addr) = (pick.endpoint, pick.addr);
        let mut known = worker.flows.hosts.known.borrow_mut();
        if known.contains_key(&endpoint) || !worker.table.borrow().is_listed(endpoint) {
            return;
        }
        let Some(place) = Place::take(worker) else { return };
        known.insert(endpoint, false);
        drop(known);
        worker.stats.probes_total.inc();
        let owner = Rc::clone(worker);
        supervise::spawn_guarded(worker, async move {
            let deadline = owner.deadline();
            let due = clock::now() + PATIENCE;
            let result = within(&owner, &deadline, due, net::listen::connect(addr)).await;
            drop(place);
            if result.is_some_and(|result| is_answer(&result)) {
                owner.flows.hosts.note(endpoint);
            }
        });
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.known.borrow().len()
    }
}

/// Does a connect that ended so show that the host lives?
pub(crate) fn is_answer<T>(result: &io::Result<T>) -> bool {
    match result {
        Ok(_) => true,
        Err(error) => error.kind() == io::ErrorKind::ConnectionRefused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_of_a_host_goes_with_its_endpoint() {
        let hosts = Hosts::default();
        let key = |turn| EndpointKey { slot: 1, turn };
        hosts.known.borrow_mut().insert(key(0), false);
        hosts.note(key(0));
        assert!(hosts.answers(key(0)) && !hosts.answers(key(1)));
        hosts.forget(key(0));
        // An answer that comes late says nothing of whoever has the place next.
        hosts.note(key(0));
        assert_eq!((hosts.len(), hosts.answers(key(0))), (0, false));
    }
}
