//! The listening sockets of one worker: opened and closed as the table says.
//!
//! The sockets outlive a worker that panics: its replacement finds them here with their queues.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;

use routing::id::BindId;

use super::Worker;
use crate::net;

/// Listening sockets by bind.
#[derive(Default)]
pub struct Binds {
    sockets: RefCell<HashMap<BindId, (SocketAddr, TcpListener)>>,
    backlog: u32,
}

impl Binds {
    /// None yet. `backlog` as `worker.backlog`.
    #[must_use]
    pub fn new(backlog: u32) -> Self {
        Self { sockets: RefCell::default(), backlog }
    }

    /// Opens what the table has and we have not, closes what it has no longer.
    ///
    /// An address that cannot be bound is logged and does not disturb the others.
    pub fn update(&self, worker: &Rc<Worker>) {
        let wanted: HashMap<BindId, SocketAddr> = worker.table.borrow().binds().collect();
        let mut sockets = self.sockets.borrow_mut();
        sockets.retain(|bind, (addr, socket)| {
            let keep = wanted.get(bind) == Some(addr);
            if !keep {
                close(socket);
            }
            keep
        });
        for (bind, addr) in wanted {
            if sockets.contains_key(&bind) || worker.is_draining() {
                continue;
            }
            match net::listen::open(addr, self.backlog) {
                Ok(socket) => {
                    start(worker, bind, &socket);
                    sockets.insert(bind, (addr, socket));
                }
                Err(error) => tracing::error!(%addr, worker = worker.id, %error, "cannot listen"),
            }
        }
    }

    /// Accepts again from the sockets of the worker that was here before.
    pub fn resume(&self, worker: &Rc<Worker>) {
        for (bind, (_, socket)) in self.sockets.borrow().iter() {
            start(worker, *bind, socket);
        }
    }

    /// Stops accepting. What is queued is accepted first.
    pub fn close_all(&self) {
        self.sockets.borrow_mut().drain().for_each(|(_, (_, socket))| close(&socket));
    }
}

fn start(worker: &Rc<Worker>, bind: BindId, socket: &TcpListener) {
    match socket.try_clone().and_then(net::listen::Listener::new) {
        Ok(listener) => net::runtime::spawn(crate::accept::serve(Rc::clone(worker), bind, listener)),
        Err(error) => tracing::error!(worker = worker.id, %error, "cannot accept"),
    }
}

/// Wakes the accept task, which takes what is queued and ends.
fn close(socket: &TcpListener) {
    let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
}
