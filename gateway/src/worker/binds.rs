//! The listening sockets of one worker: opened and closed as the table says.
//!
//! The sockets outlive a worker that panics: its replacement finds them here with their queues, and accepts from
//! them once it has a table: a connection that waits is better than one that is told that there is no route.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::rc::Rc;

use routing::id::BindId;
use routing::model::{Carrier, Protocol};
use routing::table::OpenedBind;

use super::Worker;
use crate::downstream::udp;
use crate::net;

/// Listening sockets by bind.
#[derive(Default)]
pub struct Binds {
    sockets: RefCell<HashMap<BindId, Open>>,
    backlog: u32,
    /// Are there sockets that nobody accepts from, because their worker panicked?
    inherited: Cell<bool>,
}

struct Open {
    addr: SocketAddr,
    protocol: Protocol,
    socket: Socket,
    /// Does the worker of now accept from it?
    accepting: bool,
}

/// Its socket, which outlives the worker.
enum Socket {
    Stream(TcpListener),
    Datagram(UdpSocket, RefCell<Option<Rc<udp::Listening>>>),
}

impl Socket {
    fn open(addr: SocketAddr, protocol: Protocol, backlog: u32) -> std::io::Result<Self> {
        Ok(match protocol.carrier() {
            Carrier::Tcp => Self::Stream(net::listen::open(addr, backlog)?),
            Carrier::Udp => Self::Datagram(net::datagram::bind(addr)?, RefCell::default()),
        })
    }
}

impl Binds {
    /// None yet. `backlog` as `worker.backlog`.
    #[must_use]
    pub fn new(backlog: u32) -> Self {
        Self { backlog, ..Self::default() }
    }

    /// Listens on an address. One that cannot be bound is logged and does not disturb the others.
    pub fn open(&self, worker: &Rc<Worker>, opened: OpenedBind) {
        let OpenedBind { bind, addr, protocol } = opened;
        if worker.is_draining() {
            return;
        }
        let mut sockets = self.sockets.borrow_mut();
        if let Some(open) = sockets.get_mut(&bind).filter(|open| open.addr == addr) {
            if !open.accepting {
                open.protocol = protocol;
                start(worker, bind, protocol, &open.socket);
                open.accepting = true;
            }
            return;
        }
        match Socket::open(addr, protocol, self.backlog) {
            Ok(socket) => {
                start(worker, bind, protocol, &socket);
                if let Some(old) = sockets.insert(bind, Open { addr, protocol, socket, accepting: true }) {
                    close(worker, bind, &old);
                }
            }
            Err(error) => tracing::error!(%addr, worker = worker.id, %error, "cannot listen"),
        }
    }

    /// Stops listening on an address. What is queued is accepted first.
    pub fn close(&self, worker: &Rc<Worker>, bind: BindId) {
        if let Some(open) = self.sockets.borrow_mut().remove(&bind) {
            close(worker, bind, &open);
        }
    }

    /// The worker that accepted from the sockets is no more.
    pub fn inherit(&self) {
        self.sockets.borrow_mut().values_mut().for_each(|open| open.accepting = false);
        self.inherited.set(true);
    }

    /// The first table of a worker is in force: inherited sockets that it did not ask for are closed.
    pub fn settle(&self, worker: &Rc<Worker>) {
        if self.inherited.replace(false) {
            let gone = self.sockets.borrow_mut().extract_if(|_, open| !open.accepting).collect::<Vec<_>>();
            gone.iter().for_each(|(bind, open)| close(worker, *bind, open));
        }
    }

    /// Stops accepting. What is queued is accepted first. Sockets of datagrams stay open for the flows that there are: new
    /// ones are turned away by the draining worker.
    pub fn close_all(&self, worker: &Rc<Worker>) {
        for (bind, open) in self.sockets.borrow_mut().drain() {
            match &open.socket {
                Socket::Stream(_) => close(worker, bind, &open),
                Socket::Datagram(..) => {}
            }
        }
    }
}

fn start(worker: &Rc<Worker>, bind: BindId, protocol: Protocol, socket: &Socket) {
    let started = match socket {
        Socket::Stream(socket) => socket.try_clone().and_then(net::listen::Listener::new).map(|listener| {
            net::runtime::spawn(crate::accept::serve(Rc::clone(worker), bind, protocol, listener));
        }),
        Socket::Datagram(socket, served) => {
            let listening = socket.try_clone().and_then(|socket| udp::Listening::new(worker, bind, socket));
            listening.map(|listening| {
                *served.borrow_mut() = Some(Rc::clone(&listening));
                net::runtime::spawn(udp::serve(Rc::clone(worker), listening));
            })
        }
    };
    if let Err(error) = started {
        tracing::error!(worker = worker.id, %error, "cannot accept");
    }
}

/// Takes what is queued, for the shutdown would reset it, and ends the accept task.
fn close(worker: &Rc<Worker>, bind: BindId, open: &Open) {
    match &open.socket {
        Socket::Stream(socket) => {
            crate::accept::take_queued(worker, bind, open.protocol, socket);
            let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
        }
        // Datagrams that are queued are lost with the socket, as they may be on any way.
        Socket::Datagram(_, served) => {
            if let Some(listening) = served.borrow_mut().take() {
                listening.close();
            }
            worker.flows.close(bind);
        }
    }
}
