//! The floor: a relay over a raw io_uring that parses nothing, allocates nothing per message and knows no timeouts.
//!
//! What it decides: nothing. Bytes of a client go to an upstream connection of its own, and back. What a gateway costs
//! above this is what it spends on HTTP, routing, pools and statistics.
//!
//! Each direction of a connection is a state machine of its own with a buffer of its own:
//! `recv -> send -> … -> recv`, and at the end of the stream `shutdown` of the other side. A pair is freed when both
//! directions have ended.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::net::Shutdown;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::places::Places;
use crate::ring::{Done, Ring};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    ToUpstream,
    ToClient,
}

/// What a direction is doing: exactly one operation is in flight, unless it has ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Receiving,
    Sending { sent: usize, len: usize },
    Ended,
}

struct Pair {
    client: OwnedFd,
    upstream: OwnedFd,
    to_upstream: Phase,
    to_client: Phase,
}

struct Floor {
    ring: Ring,
    upstream: SocketAddr,
    /// The same as the kernel reads it.
    upstream_raw: &'static SockAddr,
    pairs: Places<Pair>,
}

/// Relays until killed.
///
/// # Errors
/// The address cannot be bound, or the kernel has no io_uring with the flags that Ringway's workers use.
pub(crate) fn run(listen: SocketAddr, upstream: SocketAddr) -> io::Result<()> {
    let ring = Ring::listening(listen)?;
    // One address for as long as the process lives.
    let upstream_raw = Box::leak(Box::new(SockAddr::from(upstream)));
    let mut floor = Floor { ring, upstream, upstream_raw, pairs: Places::new() };
    let mut batch = Vec::new();
    loop {
        floor.ring.wait(None, &mut batch)?;
        for done in batch.drain(..) {
            floor.complete(done)?;
        }
    }
}

impl Floor {
    fn complete(&mut self, done: Done) -> io::Result<()> {
        match done {
            // Nothing can be done about a peer that failed to arrive, and running out of descriptors passes.
            Done::Accepted(client) => client.map_or(Ok(()), |client| self.open(client)),
            Done::Connected(index, Some(())) => {
                self.start(index, Side::ToUpstream)?;
                self.start(index, Side::ToClient)
            }
            Done::Connected(index, None) => {
                self.pairs.free(index);
                Ok(())
            }
            Done::Moved(slot, length) => {
                let (index, side) = (slot / 2, if slot % 2 == 0 { Side::ToUpstream } else { Side::ToClient });
                self.pairs[index].advance(side, length);
                self.start(index, side)
            }
            Done::Sent(..) => unreachable!("the floor sends from slots only"),
        }
    }

    /// A new client: opens its upstream connection.
    fn open(&mut self, client: OwnedFd) -> io::Result<()> {
        let Some(index) = self.pairs.vacant() else { return Ok(()) };
        self.ring.reserve(2 * self.pairs.len());
        let socket = Socket::new(Domain::for_address(self.upstream), Type::STREAM, Some(Protocol::TCP));
        let Ok(socket) = socket.and_then(|socket| socket.set_tcp_nodelay(true).map(|()| socket)) else {
            // Out of descriptors: this client is dropped, those that are served go on.
            return Ok(());
        };
        let upstream = OwnedFd::from(socket);
        self.ring.connect(index, &upstream, self.upstream_raw)?;
        let (to_upstream, to_client) = (Phase::Receiving, Phase::Receiving);
        self.pairs.put(index, Pair { client, upstream, to_upstream, to_client });
        Ok(())
    }

    /// Submits what the direction's phase asks for; frees the pair after the last one.
    fn start(&mut self, index: usize, side: Side) -> io::Result<()> {
        let pair = &self.pairs[index];
        let (slot, phase, from, to) = match side {
            Side::ToUpstream => (2 * index, pair.to_upstream, &pair.client, &pair.upstream),
            Side::ToClient => (2 * index + 1, pair.to_client, &pair.upstream, &pair.client),
        };
        match phase {
            Phase::Receiving => self.ring.recv(slot, from),
            Phase::Sending { sent, len } => self.ring.send(slot, to, sent..len),
            Phase::Ended => {
                if pair.to_upstream == Phase::Ended && pair.to_client == Phase::Ended {
                    self.pairs.free(index);
                }
                Ok(())
            }
        }
    }
}

impl Pair {
    /// The next phase, after an operation moved `length` bytes; `None` = it failed.
    fn advance(&mut self, side: Side, length: Option<usize>) {
        let (phase, to) = match side {
            Side::ToUpstream => (&mut self.to_upstream, &self.upstream),
            Side::ToClient => (&mut self.to_client, &self.client),
        };
        *phase = match (*phase, length) {
            (Phase::Receiving, Some(len)) if len > 0 => Phase::Sending { sent: 0, len },
            (Phase::Receiving, Some(_)) => {
                // The stream's end goes to the other side; the other direction may still have much to say.
                // Fails only when the peer is gone already, which the other direction will notice.
                let _ = rustix::net::shutdown(to, Shutdown::Write);
                Phase::Ended
            }
            (Phase::Sending { sent, len }, Some(more)) if sent + more < len => {
                Phase::Sending { sent: sent + more, len }
            }
            (Phase::Sending { .. }, Some(_)) => Phase::Receiving,
            (Phase::Receiving | Phase::Sending { .. } | Phase::Ended, None) | (Phase::Ended, Some(_)) => {
                // Wakes the other direction's operation, which then ends, too. Fails only when already shut down.
                let _ = rustix::net::shutdown(&self.client, Shutdown::Both);
                let _ = rustix::net::shutdown(&self.upstream, Shutdown::Both);
                Phase::Ended
            }
        };
    }
}
