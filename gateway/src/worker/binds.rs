//! The listening sockets of one worker: opened and closed as the table says.
//!
//! The sockets outlive a worker that panics: its replacement finds them here with their queues, and accepts from
//! them once it has a table: a connection that waits is better than one that is told that there is no route.
//!
//! An address that cannot be bound (another process has it, the interface is not up yet) is tried again about every
//! second until it can, or until the table has no such bind any more.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
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
    /// Those that could not be bound.
    failing: RefCell<HashMap<BindId, OpenedBind>>,
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

    /// Listens on an address. One that cannot be bound is logged and does not disturb the others; see [`Binds::retry`].
    pub fn open(&self, worker: &Rc<Worker>, opened: OpenedBind) {
        self.failing.borrow_mut().remove(&opened.bind);
        match self.try_open(worker, opened) {
            Ok(()) if worker.id == 0 => tracing::info!(addr = %opened.addr, "listening"),
            Ok(()) => {}
            Err(error) => {
                let hint = hint(&error);
                tracing::error!(addr = %opened.addr, worker = worker.id, %error, hint, "cannot listen; trying again");
                self.failing.borrow_mut().insert(opened.bind, opened);
            }
        }
        self.count(worker);
    }

    /// Tries again what could not be bound.
    pub fn retry(&self, worker: &Rc<Worker>) {
        if self.failing.borrow().is_empty() {
            return;
        }
        self.failing.borrow_mut().retain(|_, opened| {
            let result = self.try_open(worker, *opened);
            if result.is_ok() {
                tracing::info!(addr = %opened.addr, worker = worker.id, "listening at last");
            }
            result.is_err()
        });
        self.count(worker);
    }

    fn count(&self, worker: &Worker) {
        worker.stats.listeners_open.set(self.sockets.borrow().len() as u64);
        worker.stats.listeners_failing.set(self.failing.borrow().len() as u64);
    }

    fn try_open(&self, worker: &Rc<Worker>, opened: OpenedBind) -> io::Result<()> {
        let OpenedBind { bind, addr, protocol } = opened;
        if worker.is_draining() {
            return Ok(());
        }
        let mut sockets = self.sockets.borrow_mut();
        if let Some(open) = sockets.get_mut(&bind).filter(|open| open.addr == addr) {
            if !open.accepting {
                open.protocol = protocol;
                start(worker, bind, protocol, &open.socket);
                open.accepting = true;
            }
            return Ok(());
        }
        let socket = Socket::open(addr, protocol, self.backlog)?;
        start(worker, bind, protocol, &socket);
        if let Some(old) = sockets.insert(bind, Open { addr, protocol, socket, accepting: true }) {
            close(worker, bind, &old);
        }
        Ok(())
    }

    /// Stops listening on an address. What is queued is accepted first.
    pub fn close(&self, worker: &Rc<Worker>, bind: BindId) {
        self.failing.borrow_mut().remove(&bind);
        if let Some(open) = self.sockets.borrow_mut().remove(&bind) {
            close(worker, bind, &open);
        }
        self.count(worker);
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
            self.count(worker);
        }
    }

    /// Stops accepting. What is queued is accepted first. Sockets of datagrams stay open for the flows that there are: new
    /// ones are turned away by the draining worker.
    pub fn close_all(&self, worker: &Rc<Worker>) {
        self.failing.borrow_mut().clear();
        for (bind, open) in self.sockets.borrow_mut().drain() {
            match &open.socket {
                Socket::Stream(_) => close(worker, bind, &open),
                Socket::Datagram(..) => {}
            }
        }
        self.count(worker);
    }
}

/// What an operator can do about it.
fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EADDRINUSE) => "another process listens there: ss -ltnp shows which",
        Some(libc::EACCES) => {
            "ports below net.ipv4.ip_unprivileged_port_start need CAP_NET_BIND_SERVICE (gateway.service grants it)"
        }
        Some(libc::EADDRNOTAVAIL) => "no interface of this machine has that address now",
        Some(libc::EAFNOSUPPORT) => {
            "IPv6 is switched off on this machine: give an IPv4 address such as 0.0.0.0"
        }
        _ => "",
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
