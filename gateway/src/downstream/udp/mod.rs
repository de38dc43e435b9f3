//! Datagrams of clients: taken from a listener's socket in batches, sorted into flows, passed to endpoints and back.
//!
//! A *flow* is what one client address and port sends to one address and port of ours. It has an endpoint, picked as for
//! any other protocol, and a socket of its own to it ([`flow`]): so an ICMP error names the flow that it belongs to, and
//! the endpoint sees one source for each client. Flows are few enough to look up and bounded ([`flows`]); one that is
//! quiet for `timeouts.udp_idle` ends.
//!
//! `SO_REUSEPORT` spreads datagrams over the workers by client and local address and port, so a flow stays with its worker.
//! A QUIC client that comes from another address or port is known by the connection ID that its endpoint chose, and keeps
//! its endpoint ([`quic`]), where the kernel's choice is the same worker.
//!
//! Nothing here understands what datagrams hold. Nobody is answered, nothing is repeated that an endpoint may have got;
//! what cannot be passed on is dropped and counted, as on any network.
//!
//! ```text
//! serve --run--> Flows::take --known--> Flow::forward --> endpoint
//!                            --new: door, bound, rule, pick--> Flow   (a task of its own hears the endpoint)
//! ```

mod flow;
mod flows;
mod hosts;
mod path;
mod quic;

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use routing::id::BindId;

pub use self::flow::Flow;
pub use self::flows::Flows;
pub use self::hosts::Hosts;
pub(crate) use self::hosts::is_answer;
use crate::net::datagram::DatagramSocket;
use crate::worker::{Deadline, Worker, clock};

/// Batches taken in one go; then other tasks have their turn.
const BATCHES_MAX: usize = 4;

/// A listener's socket on one worker.
pub struct Listening {
    /// Which bind it is of.
    pub bind: BindId,
    socket: DatagramSocket,
    /// Wakes the task that serves it.
    wake: Deadline,
    closed: Cell<bool>,
}

impl Listening {
    /// Takes over a bound socket. Must run on the worker's own thread.
    ///
    /// # Errors
    /// When the runtime cannot register it.
    pub fn new(worker: &Rc<Worker>, bind: BindId, socket: std::net::UdpSocket) -> io::Result<Rc<Self>> {
        let socket = DatagramSocket::listening(socket)?;
        Ok(Rc::new(Self { bind, socket, wake: worker.deadline(), closed: Cell::new(false) }))
    }

    /// Nothing more is taken from it.
    pub fn close(&self) {
        self.closed.set(true);
        self.wake.fire();
    }
}

/// Takes datagrams from one socket until it is closed. While the worker drains, those of flows that are there already are
/// passed on.
pub async fn serve(worker: Rc<Worker>, listening: Rc<Listening>) {
    loop {
        let ready = {
            let mut readable = pin!(listening.socket.readable());
            poll_fn(|cx| {
                if listening.wake.poll(cx).is_ready() {
                    listening.wake.clear();
                    return Poll::Ready(Ok(()));
                }
                readable.as_mut().poll(cx)
            })
            .await
        };
        // A worker that panicked leaves what is queued to the one that takes its place.
        if ready.is_err() || listening.closed.get() || worker.is_abandoned() {
            return;
        }
        for _ in 0..BATCHES_MAX {
            if !take(&worker, &listening) {
                break;
            }
        }
    }
}

/// Takes one batch. `false` = nothing is there.
fn take(worker: &Rc<Worker>, listening: &Rc<Listening>) -> bool {
    let mut batch = worker.flows.batch.borrow_mut();
    match listening.socket.receive(&mut batch) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
        Err(error) => {
            tracing::debug!(worker = worker.id, %error, "datagrams cannot be received");
            return false;
        }
    }
    let now = clock::now();
    for run in batch.runs() {
        worker.flows.take(worker, listening, &run, now);
    }
    drop(batch);
    // What this taught the detector.
    worker.heed();
    true
}
