//! Which hosts answer a connect, whatever listens there: what makes a probe of an endpoint that speaks UDP mean something.
//!
//! An endpoint of UDP cannot be asked whether it lives: what it answers to is its own affair. Its host can: a kernel
//! answers a connect to a port without listener with a reset. Some networks drop such a connect, though. So each host is
//! asked once when it is first used; only where it has answered does a later silence count ([`Hosts::answers`]).

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use crate::net;
use crate::upstream::probe::{Place, within};
use crate::worker::{Worker, clock, supervise};

/// Hosts that are known; of more than that nothing is assumed.
const HOSTS_MAX: usize = 65_536;
/// How long a host is listened to when it is asked for the first time.
const PATIENCE: Duration = Duration::from_secs(1);

/// What one worker knows of hosts.
#[derive(Default)]
pub struct Hosts {
    /// `true` = it has answered a connect.
    known: RefCell<HashMap<IpAddr, bool>>,
}

impl Hosts {
    /// Has this host answered a connect before, so that its silence says something?
    #[must_use]
    pub fn answers(&self, ip: IpAddr) -> bool {
        self.known.borrow().get(&ip).copied().unwrap_or(false)
    }

    /// This host answered.
    pub fn note(&self, ip: IpAddr) {
        let mut known = self.known.borrow_mut();
        if known.len() < HOSTS_MAX || known.contains_key(&ip) {
            known.insert(ip, true);
        }
    }

    /// An endpoint there is used. Asks the host, if that was not done yet.
    pub(super) fn used(worker: &Rc<Worker>, addr: SocketAddr) {
        let mut known = worker.flows.hosts.known.borrow_mut();
        if known.contains_key(&addr.ip()) || known.len() >= HOSTS_MAX {
            return;
        }
        let Some(place) = Place::take(worker) else { return };
        known.insert(addr.ip(), false);
        drop(known);
        worker.stats.probes_total.inc();
        let owner = Rc::clone(worker);
        supervise::spawn_guarded(worker, async move {
            let deadline = owner.deadline();
            let due = clock::now() + PATIENCE;
            let result = within(&owner, &deadline, due, net::listen::connect(addr)).await;
            drop(place);
            if result.is_some_and(|result| is_answer(&result)) {
                owner.flows.hosts.note(addr.ip());
            }
        });
    }
}

/// Does a connect that ended so show that the host lives?
pub(crate) fn is_answer<T>(result: &io::Result<T>) -> bool {
    match result {
        Ok(_) => true,
        Err(error) => error.kind() == io::ErrorKind::ConnectionRefused,
    }
}
