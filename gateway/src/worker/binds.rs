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

    /// Listens on an address. One that cannot be bound is logged and does not disturb the others.
    pub fn open(&self, worker: &Rc<Worker>, bind: BindId, addr: SocketAddr) {
        if worker.is_draining() {
            return;
        }
        let mut sockets = self.sockets.borrow_mut();
        if sockets.get(&bind).is_some_and(|(open, _)| *open == addr) {
            // A restarted worker: the socket is here, and its accept task was started by `resume`.
            return;
        }
        match net::listen::open(addr, self.backlog) {
            Ok(socket) => {
                start(worker, bind, &socket);
                if let Some((_, old)) = sockets.insert(bind, (addr, socket)) {
                    close(worker, bind, &old);
                }
            }
            Err(error) => tracing::error!(%addr, worker = worker.id, %error, "cannot listen"),
        }
    }

    /// Stops listening on an address. What is queued is accepted first.
    pub fn close(&self, worker: &Rc<Worker>, bind: BindId) {
        if let Some((_, socket)) = self.sockets.borrow_mut().remove(&bind) {
            close(worker, bind, &socket);
        }
    }

    /// Accepts again from the sockets of the worker that was here before.
    pub fn resume(&self, worker: &Rc<Worker>) {
        for (bind, (_, socket)) in self.sockets.borrow().iter() {
            start(worker, *bind, socket);
        }
    }

    /// Stops accepting. What is queued is accepted first.
    pub fn close_all(&self, worker: &Rc<Worker>) {
        self.sockets.borrow_mut().drain().for_each(|(bind, (_, socket))| close(worker, bind, &socket));
    }
}

fn start(worker: &Rc<Worker>, bind: BindId, socket: &TcpListener) {
    match socket.try_clone().and_then(net::listen::Listener::new) {
        Ok(listener) => net::runtime::spawn(crate::accept::serve(Rc::clone(worker), bind, listener)),
        Err(error) => tracing::error!(worker = worker.id, %error, "cannot accept"),
    }
}

/// Takes what is queued, for the shutdown would reset it, and ends the accept task.
fn close(worker: &Rc<Worker>, bind: BindId, socket: &TcpListener) {
    crate::accept::take_queued(worker, bind, socket);
    let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
}
