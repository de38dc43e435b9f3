//! Idle upstream connections of one worker, by endpoint.
//!
//! An idle connection keeps a read armed. Before it is used the read is looked at without a system call: if it has
//! finished, the endpoint closed the connection or sent bytes that nobody asked for (RFC 9112 §9.2, response-queue
//! poisoning), and the connection is dropped instead of used. What remains is the true race: a FIN that is on its
//! way while the request is written; `exchange` deals with that.

use std::cell::RefCell;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use routing::table::EndpointKey;
use routing::time::MonoTime;

use crate::net::{Class, acquire};
use crate::sys::prefetch::Place;
use crate::tls::Stream;

/// Room in front of a response, where its rewritten head is put before the body.
pub const RESPONSE_HEADROOM: usize = 1024;

struct Idle {
    conn: Stream,
    since: MonoTime,
}

#[derive(Default)]
struct PerEndpoint {
    turn: u32,
    idle: Vec<Idle>,
    connecting: u32,
}

/// The pool.
#[derive(Default)]
pub struct Pool {
    endpoints: RefCell<Vec<PerEndpoint>>,
    /// Of endpoints that are gone.
    leaving: RefCell<Vec<Idle>>,
}

/// What became of a connection that was to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It is in the pool.
    Yes,
    /// There are `pool.idle_per_endpoint_max` already: closed.
    Full,
    /// Its endpoint is gone, or it ended already: closed.
    Gone,
}

/// What [`Pool::take`] found.
pub struct Taken {
    /// A connection that was alive when looked at.
    pub conn: Option<Stream>,
    /// How many were found closed and dropped.
    pub closed: u32,
}

impl Pool {
    /// The most recently used idle connection of an endpoint.
    ///
    /// Only one that was made with the settings of `fingerprint` ([`Stream::fingerprint`]): others are closed.
    pub fn take(&self, endpoint: EndpointKey, fingerprint: u64) -> Taken {
        let mut endpoints = self.endpoints.borrow_mut();
        let mut taken = Taken { conn: None, closed: 0 };
        let Some(entry) =
            endpoints.get_mut(endpoint.slot as usize).filter(|entry| entry.turn == endpoint.turn)
        else {
            return taken;
        };
        while let Some(mut idle) = entry.idle.pop() {
            if idle.conn.fingerprint() == fingerprint && is_quiet(&mut idle.conn) {
                taken.conn = Some(idle.conn);
                break;
            }
            taken.closed += 1;
        }
        taken
    }

    /// Asks for the memory of the connection that [`Pool::take`] is likely to find, a little before it is used.
    pub fn foresee(&self, endpoint: EndpointKey) {
        let endpoints = self.endpoints.borrow();
        let entry = endpoints.get(endpoint.slot as usize).filter(|entry| entry.turn == endpoint.turn);
        if let Some(idle) = entry.and_then(|entry| entry.idle.last()) {
            idle.conn.places().into_iter().for_each(Place::prefetch);
        }
    }

    /// Keeps a connection whose last exchange ended cleanly.
    pub fn put(&self, endpoint: EndpointKey, mut conn: Stream, idle_max: u32, now: MonoTime) -> Kept {
        let mut endpoints = self.endpoints.borrow_mut();
        let entry = entry(&mut endpoints, endpoint);
        if entry.idle.len() >= idle_max as usize {
            return Kept::Full;
        }
        if !conn.is_reading() {
            let Some(buf) = acquire(Class::Small, RESPONSE_HEADROOM) else { return Kept::Gone };
            conn.start_read(buf);
        }
        entry.idle.push(Idle { conn, since: now });
        Kept::Yes
    }

    /// Counts a connect that begins. `false` when `max` of this endpoint's are under way already.
    #[must_use]
    pub fn connect_begins(&self, endpoint: EndpointKey, max: u32) -> bool {
        let mut endpoints = self.endpoints.borrow_mut();
        let entry = entry(&mut endpoints, endpoint);
        if entry.connecting >= max {
            return false;
        }
        entry.connecting += 1;
        true
    }

    /// Counts a connect that ended, however.
    pub fn connect_ends(&self, endpoint: EndpointKey) {
        let mut endpoints = self.endpoints.borrow_mut();
        if let Some(entry) =
            endpoints.get_mut(endpoint.slot as usize).filter(|entry| entry.turn == endpoint.turn)
        {
            entry.connecting = entry.connecting.saturating_sub(1);
        }
    }

    /// Nobody gets the idle connections of an endpoint that was removed any more; [`Pool::let_go`] closes them.
    pub fn forget(&self, endpoint: EndpointKey) {
        let mut endpoints = self.endpoints.borrow_mut();
        if let Some(entry) = endpoints.get_mut(endpoint.slot as usize) {
            self.leaving.borrow_mut().append(&mut entry.idle);
        }
    }

    /// Closes up to `max` of those that nobody gets any more. `false`: there are none.
    #[must_use]
    pub fn let_go(&self, max: usize) -> bool {
        let mut leaving = self.leaving.borrow_mut();
        let kept = leaving.len().saturating_sub(max);
        let closed = leaving.split_off(kept);
        drop(leaving);
        !closed.is_empty()
    }

    /// Drops all idle connections.
    pub fn clear(&self) {
        self.endpoints.borrow_mut().iter_mut().for_each(|entry| entry.idle.clear());
        self.leaving.borrow_mut().clear();
    }

    /// Drops what has been idle for longer than `timeout` and what was closed meanwhile. Returns how many are left.
    pub fn sweep(&self, now: MonoTime, timeout: Duration) -> u64 {
        let mut left = 0;
        for entry in self.endpoints.borrow_mut().iter_mut() {
            entry.idle.retain_mut(|idle| now.since(idle.since) < timeout && is_quiet(&mut idle.conn));
            left += entry.idle.len() as u64;
        }
        left
    }
}

fn entry(endpoints: &mut Vec<PerEndpoint>, endpoint: EndpointKey) -> &mut PerEndpoint {
    let slot = endpoint.slot as usize;
    if endpoints.len() <= slot {
        endpoints.resize_with(slot + 1, PerEndpoint::default);
    }
    let entry = &mut endpoints[slot];
    if entry.turn != endpoint.turn {
        // The slot has a new owner: connections of the old one lead elsewhere.
        *entry = PerEndpoint { turn: endpoint.turn, ..PerEndpoint::default() };
    }
    entry
}

/// Has nothing come on this connection since it became idle?
fn is_quiet(conn: &mut Stream) -> bool {
    match conn.poll_read(&mut Context::from_waker(Waker::noop())) {
        Poll::Pending => conn.is_reading(),
        Poll::Ready(_ended_or_unsolicited) => false,
    }
}
