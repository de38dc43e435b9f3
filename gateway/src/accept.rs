//! Accepting connections: bounds first, then a task for each.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use routing::delta::{Handoff, Mail};
use routing::id::BindId;
use routing::model::Protocol;

use crate::downstream::{h1, tcp};
use crate::net::conn::{Cancel, Conn};
use crate::net::listen::{self, Accepted, Listener};
use crate::net::wake::Timer;
use crate::observe::stats::Limit;
use crate::worker::Worker;

/// Connections taken in one go; then other tasks have their turn.
const BATCH_MAX: usize = 32;
/// How long accepting rests when the process is out of descriptors and none could be freed: no busy loop.
const OUT_OF_DESCRIPTORS_PAUSE: std::time::Duration = std::time::Duration::from_millis(20);

/// Accepts on one socket until it is shut down.
pub async fn serve(worker: Rc<Worker>, bind: BindId, protocol: Protocol, listener: Listener) {
    // Made before it is needed: when descriptors run out, there is none for a timer either.
    let timer = match Timer::new() {
        Ok(timer) => timer,
        Err(error) => {
            tracing::error!(worker = worker.id, %error, "cannot accept");
            return;
        }
    };
    // A worker that panicked leaves what is queued to the one that takes its place.
    while listener.ready().await.is_ok() && !worker.is_abandoned() {
        for _ in 0..BATCH_MAX {
            match listener.accept() {
                Ok(Some(accepted)) => admit(&worker, bind, protocol, accepted),
                Ok(None) => break,
                Err(error) if is_out_of_descriptors(&error) => {
                    worker.stats.hit(Limit::Descriptors);
                    if !worker.shed_oldest_idle() {
                        pause(&timer).await;
                    }
                    break;
                }
                // Shut down: the table has no such bind any more, or the process drains.
                Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => return,
                // accept(2) passes on what befell one connection, or a firewall's word: the next may be fine.
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    pause(&timer).await;
                    break;
                }
            }
        }
    }
}

/// Takes every connection that waits in the queue of a listening socket that is about to be shut down.
pub fn take_queued(worker: &Rc<Worker>, bind: BindId, protocol: Protocol, socket: &std::net::TcpListener) {
    while let Ok(Some(accepted)) = listen::accept(socket) {
        admit(worker, bind, protocol, accepted);
    }
}

fn admit(worker: &Rc<Worker>, bind: BindId, protocol: Protocol, accepted: Accepted) {
    let Accepted { socket, peer } = accepted;
    let settings = worker.settings();
    if worker.stats.connections_open.get() >= settings.connections_max as u64 {
        worker.stats.hit(Limit::Connections);
        if !worker.shed_oldest_idle() {
            match protocol {
                Protocol::Http => refuse(&socket),
                // In clear only: a TLS client has no use for an answer outside of TLS.
                Protocol::Https
                | Protocol::Tcp
                | Protocol::TlsPassthrough
                | Protocol::TlsTerminate
                | Protocol::Udp => {}
            }
            return;
        }
    }
    let socket = match protocol {
        Protocol::Http | Protocol::Https if settings.rebalance => match hand_over(worker, bind, socket, peer)
        {
            Some(socket) => socket,
            None => return,
        },
        Protocol::Http
        | Protocol::Https
        | Protocol::Tcp
        | Protocol::TlsPassthrough
        | Protocol::TlsTerminate
        | Protocol::Udp => socket,
    };
    match Conn::adopt(socket, peer, Cancel::Allowed) {
        Ok(conn) => match protocol {
            Protocol::Http | Protocol::Https => h1::spawn(worker, conn, bind),
            Protocol::Tcp => tcp::spawn(worker, conn, bind, tcp::Content::Any),
            Protocol::TlsPassthrough => tcp::spawn(worker, conn, bind, tcp::Content::Tls),
            Protocol::TlsTerminate => tcp::spawn(worker, conn, bind, tcp::Content::Secured),
            // No such socket accepts: see `worker::binds`.
            Protocol::Udp => {}
        },
        Err(error) => tracing::warn!(%peer, %error, "an accepted connection is lost"),
    }
}

/// Gives a connection from which nothing was read yet to a worker that has less in flight, if there is one. The socket
/// comes back when it stays here.
fn hand_over(worker: &Worker, bind: BindId, socket: OwnedFd, peer: SocketAddr) -> Option<OwnedFd> {
    if worker.is_draining() {
        // The other one may be gone already.
        return Some(socket);
    }
    let Some(target) = worker.rebalance.give_accepted() else { return Some(socket) };
    match worker.peers.boxes[usize::from(target)].send(Mail::Adopt(Handoff { socket, bind, peer })) {
        Ok(()) => {
            worker.stats.handed_over_total.inc();
            None
        }
        // Its inbox is full: it has enough to do.
        Err(Mail::Adopt(Handoff { socket, .. })) => Some(socket),
        Err(Mail::Update(_) | Mail::Wake) => None,
    }
}

/// Best effort: one write that never waits, then the close.
fn refuse(socket: &std::os::fd::OwnedFd) {
    const ANSWER: &[u8] =
        b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Type: text/plain\r\n\
        Content-Length: 34\r\nConnection: close\r\n\r\nringway: connections limit reached";
    let flags = rustix::net::SendFlags::DONTWAIT | rustix::net::SendFlags::NOSIGNAL;
    let _ = rustix::net::send(socket, ANSWER, flags);
}

async fn pause(timer: &Timer) {
    if timer.arm(OUT_OF_DESCRIPTORS_PAUSE).is_ok() {
        let _ = timer.wait().await;
    }
}

/// Is the process, or the machine, out of descriptors or socket memory?
pub(crate) fn is_out_of_descriptors(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}
