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

use routing::delta::Report;
use routing::id::BindId;
use routing::model::{Carrier, Protocol};
use routing::table::OpenedBind;

use super::Worker;
use crate::downstream::udp;
use crate::net;
use crate::net::listen::Presence;

/// Listening sockets by bind.
#[derive(Default)]
pub struct Binds {
    sockets: RefCell<HashMap<BindId, Open>>,
    /// Those that could not be bound.
    failing: RefCell<HashMap<BindId, Failing>>,
    /// Those that fail no longer, which the controller has not heard yet.
    healed: RefCell<Vec<OpenedBind>>,
    backlog: u32,
    /// Are there sockets that nobody accepts from, because their worker panicked?
    inherited: Cell<bool>,
}

/// A bind that could not be bound.
#[derive(Clone, Copy)]
struct Failing {
    opened: OpenedBind,
    /// The error that the controller knows of.
    told: Option<i32>,
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
    fn open(addr: SocketAddr, protocol: Protocol, (backlog, presence): (u32, Presence)) -> io::Result<Self> {
        Ok(match protocol.carrier() {
            Carrier::Tcp => Self::Stream(net::listen::open(addr, backlog, presence)?),
            Carrier::Udp => Self::Datagram(net::datagram::bind(addr, presence)?, RefCell::default()),
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
        let before = self.failing.borrow_mut().remove(&opened.bind);
        match self.try_open(worker, opened) {
            Ok(()) => {
                if worker.id == 0 {
                    tracing::info!(addr = %opened.addr, "listening");
                }
                self.heal(worker, before);
            }
            Err(error) => {
                let hint = hint(&error);
                tracing::error!(addr = %opened.addr, worker = worker.id, %error, hint, "cannot listen; trying again");
                if before.as_ref().is_some_and(|before| before.opened.addr != opened.addr) {
                    self.heal(worker, before);
                }
                // It is not healed, whatever is still to be said of the worker before.
                let socket = |opened: &OpenedBind| (opened.addr, opened.protocol.carrier());
                self.healed.borrow_mut().retain(|healed| socket(healed) != socket(&opened));
                let mut failing = Failing { opened, told: None };
                failing.tell(worker, &error);
                self.failing.borrow_mut().insert(opened.bind, failing);
            }
        }
        self.count(worker);
    }

    /// Tries again what could not be bound.
    pub fn retry(&self, worker: &Rc<Worker>) {
        self.healed.borrow_mut().retain(|opened| !worker.try_report(listening(worker, opened, None)));
        if self.failing.borrow().is_empty() {
            return;
        }
        let mut at_last = Vec::new();
        self.failing.borrow_mut().retain(|_, failing| match self.try_open(worker, failing.opened) {
            Ok(()) => {
                tracing::info!(addr = %failing.opened.addr, worker = worker.id, "listening at last");
                at_last.push(*failing);
                false
            }
            Err(error) => {
                failing.tell(worker, &error);
                true
            }
        });
        at_last.into_iter().for_each(|failing| self.heal(worker, Some(failing)));
        self.count(worker);
    }

    /// What the controller was told is not so any more.
    fn heal(&self, worker: &Worker, before: Option<Failing>) {
        let Some(Failing { opened, told: Some(_) }) = before else { return };
        if !worker.try_report(listening(worker, &opened, None)) {
            self.healed.borrow_mut().push(opened);
        }
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
        let presence = worker.settings().presence(addr.ip());
        let socket = Socket::open(addr, protocol, (self.backlog, presence))?;
        start(worker, bind, protocol, &socket);
        if let Some(old) = sockets.insert(bind, Open { addr, protocol, socket, accepting: true }) {
            close(worker, bind, &old);
        }
        Ok(())
    }

    /// Stops listening on an address. What is queued is accepted first.
    pub fn close(&self, worker: &Rc<Worker>, bind: BindId) {
        let before = self.failing.borrow_mut().remove(&bind);
        self.heal(worker, before);
        if let Some(open) = self.sockets.borrow_mut().remove(&bind) {
            close(worker, bind, &open);
        }
        self.count(worker);
    }

    /// The worker that accepted from the sockets is no more.
    pub fn inherit(&self) {
        self.sockets.borrow_mut().values_mut().for_each(|open| open.accepting = false);
        // The next one binds what its own table says; what the controller was told of others is not so any more.
        let told = self.failing.borrow_mut().drain().map(|(_, failing)| failing).collect::<Vec<_>>();
        let told = told.into_iter().filter(|failing| failing.told.is_some());
        self.healed.borrow_mut().extend(told.map(|failing| failing.opened));
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

impl Failing {
    /// Tells the controller, unless it knows.
    fn tell(&mut self, worker: &Worker, error: &io::Error) {
        // 0: there is no error of that number; it stands for one that is not the system's.
        let error = error.raw_os_error().unwrap_or(0);
        if self.told != Some(error) && worker.try_report(listening(worker, &self.opened, Some(error))) {
            self.told = Some(error);
        }
    }
}

fn listening(worker: &Worker, opened: &OpenedBind, error: Option<i32>) -> Report {
    let (addr, carrier) = (opened.addr, opened.protocol.carrier());
    Report::Listening { worker: worker.id, addr, carrier, error }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

    use super::*;

    #[test]
    fn what_a_worker_could_not_bind_is_healed_for_those_who_were_told_when_its_successor_begins() {
        let binds = Binds::new(1);
        let opened = |bind: u16| OpenedBind {
            bind: BindId(bind),
            addr: SocketAddr::from(([127, 0, 0, 1], bind)),
            protocol: Protocol::Http,
        };
        for (bind, told) in [(1, Some(libc::EADDRINUSE)), (2, None)] {
            binds.failing.borrow_mut().insert(BindId(bind), Failing { opened: opened(bind), told });
        }
        binds.inherit();
        assert!(binds.failing.borrow().is_empty());
        let healed: Vec<BindId> = binds.healed.borrow().iter().map(|healed| healed.bind).collect();
        assert_eq!(healed, [BindId(1)]);
    }
}
