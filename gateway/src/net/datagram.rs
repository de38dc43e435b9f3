//! UDP sockets: readiness on the ring, batches of datagrams in and out by system calls that never wait.
//!
//! A *run* is one or more datagrams of one peer that the kernel hands over, and takes, as one piece (GRO, GSO). A socket
//! that many peers send to works by runs from the start. One that is connected to an endpoint begins with plain calls, for
//! most flows are a question and an answer, and is set up for runs once it has shown to carry more
//! ([`DatagramSocket::batch`]).

use std::cell::OnceCell;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};

use monoio::net::udp::UdpSocket;
use quinn_udp::{BATCH_SIZE, EcnCodepoint, RecvMeta, Transmit, UdpSocketState};
use rustix::net::sockopt::{self, Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery};
use rustix::net::{RecvFlags, SendFlags};
use smallvec::SmallVec;
use socket2::{Domain, Protocol, Socket, Type};

use super::listen::Presence;
use crate::sys;

/// Room for one run: the largest that the kernel puts together, and the largest datagram.
const RUN_BYTES: usize = 64 * 1024;

/// Opens a socket that several workers may share by `SO_REUSEPORT`: the kernel spreads peers over them by address and port,
/// so that those of one peer always come to the same one. An IPv6 wildcard takes IPv4 as well.
///
/// # Errors
/// When the address cannot be bound.
pub fn bind(addr: SocketAddr, presence: Presence) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM.cloexec(), Some(Protocol::UDP))?;
    socket.set_reuse_port(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(!addr.ip().is_unspecified())?;
    }
    socket.set_nonblocking(true)?;
    presence.apply(&socket, addr)?;
    socket.bind(&addr.into())?;
    Ok(socket.into())
}

/// One or more datagrams of one peer.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// One behind the other.
    pub bytes: &'a [u8],
    /// Size of each but the last, which may be shorter.
    stride: usize,
    /// Who sent them, as the socket names it: an IPv4 peer of an IPv6 socket is `::ffff:a.b.c.d`.
    pub peer: SocketAddr,
    /// Which of our addresses they were sent to, where that is known.
    pub local: Option<IpAddr>,
    ecn: Option<EcnCodepoint>,
}

impl<'a> Run<'a> {
    /// One datagram that was kept.
    #[must_use]
    pub fn single(bytes: &'a [u8], peer: SocketAddr) -> Self {
        Self { bytes, stride: bytes.len(), peer, local: None, ecn: None }
    }

    /// How many datagrams it is.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.bytes.len().div_ceil(self.stride.max(1)).max(1) as u64
    }

    /// The first of them.
    #[must_use]
    pub fn first(&self) -> &'a [u8] {
        &self.bytes[..self.stride.min(self.bytes.len())]
    }
}

/// Memory for one call's worth of runs. Grown by the first call; of a worker, not of a socket.
#[derive(Default)]
pub struct Batch {
    memory: Vec<u8>,
    /// Places for what the kernel tells of each run, of which the first `count` hold something.
    runs: [RecvMeta; BATCH_SIZE],
    count: usize,
}

impl Batch {
    /// What the last [`DatagramSocket::receive`] brought.
    pub fn runs(&self) -> impl Iterator<Item = Run<'_>> {
        self.memory.chunks(RUN_BYTES).zip(&self.runs[..self.count]).map(|(memory, meta)| Run {
            bytes: &memory[..meta.len],
            stride: meta.stride,
            peer: meta.addr,
            local: meta.dst_ip,
            ecn: meta.ecn,
        })
    }
}

/// A UDP socket on this worker's ring.
pub struct DatagramSocket {
    socket: UdpSocket,
    fd: RawFd,
    /// `Some` = of an endpoint, the only one that it sends to and hears.
    remote: Option<SocketAddr>,
    batching: OnceCell<UdpSocketState>,
}

impl DatagramSocket {
    /// A bound socket that peers send to; batches from the start.
    ///
    /// # Errors
    /// When the runtime cannot register it, or the kernel refuses an option.
    pub fn listening(socket: std::net::UdpSocket) -> io::Result<Self> {
        let socket = Self::adopt(socket, None)?;
        socket.batch()?;
        Ok(socket)
    }

    /// A socket of its own for an endpoint, so that what ICMP says of the endpoint is told to nobody else.
    ///
    /// # Errors
    /// Out of descriptors or ports, or no route to it.
    pub fn connected(remote: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(remote), Type::DGRAM.cloexec(), Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        socket.connect(&remote.into())?;
        Self::adopt(socket.into(), Some(remote))
    }

    fn adopt(socket: std::net::UdpSocket, remote: Option<SocketAddr>) -> io::Result<Self> {
        let socket = UdpSocket::from_std(socket)?;
        Ok(Self { fd: socket.as_raw_fd(), socket, remote, batching: OnceCell::new() })
    }

    /// Sets the socket up for runs: GRO, GSO, explicit congestion notification. Once; later calls do nothing.
    ///
    /// # Errors
    /// When the kernel refuses an option.
    pub fn batch(&self) -> io::Result<()> {
        if self.batching.get().is_some() {
            return Ok(());
        }
        let state = sys::fd::with_fd(&self.socket, self.fd, |fd| {
            let state = UdpSocketState::new((&fd).into())?;
            // The library forbids fragments, as QUIC wants it. We pass on what others make, and a DNS answer of 4 KB is a
            // datagram like any other.
            let is_ipv6 = rustix::net::getsockname(fd).is_ok_and(|addr| match SocketAddr::try_from(addr) {
                Ok(addr) => addr.is_ipv6(),
                Err(_) => false,
            });
            sockopt::set_ip_mtu_discover(fd, Ipv4PathMtuDiscovery::DONT)?;
            if is_ipv6 {
                sockopt::set_ipv6_mtu_discover(fd, Ipv6PathMtuDiscovery::DONT)?;
                sys::fd::allow_ipv6_fragments(fd)?;
            }
            Ok::<_, io::Error>(state)
        })?;
        let _ = self.batching.set(state);
        Ok(())
    }

    /// Waits until there is something to receive, or an error to be told.
    ///
    /// # Errors
    /// When the wait cannot be started.
    pub async fn readable(&self) -> io::Result<()> {
        self.socket.readable(false).await
    }

    /// Takes what is there now, up to one batch, in place of what `batch` held.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is there; of a connected socket what ICMP says of the endpoint.
    pub fn receive(&self, batch: &mut Batch) -> io::Result<()> {
        batch.count = 0;
        if batch.memory.is_empty() {
            batch.memory = vec![0; BATCH_SIZE * RUN_BYTES];
        }
        match (self.batching.get(), self.remote) {
            (Some(state), _) => {
                let mut slices: SmallVec<[IoSliceMut<'_>; BATCH_SIZE]> =
                    batch.memory.chunks_mut(RUN_BYTES).map(IoSliceMut::new).collect();
                batch.count = sys::fd::with_fd(&self.socket, self.fd, |fd| {
                    state.recv((&fd).into(), &mut slices, &mut batch.runs)
                })?;
            }
            (None, remote) => {
                let memory = &mut batch.memory[..RUN_BYTES];
                let len = sys::fd::with_fd(&self.socket, self.fd, |fd| {
                    rustix::net::recv(fd, memory, RecvFlags::DONTWAIT)
                })?
                .0;
                let mut meta = RecvMeta::default();
                (meta.len, meta.stride) = (len, len);
                meta.addr = remote.unwrap_or(meta.addr);
                (batch.runs[0], batch.count) = (meta, 1);
            }
        }
        Ok(())
    }

    /// Takes one datagram that is there now, and forgets it.
    ///
    /// # Errors
    /// As [`DatagramSocket::receive`].
    pub fn look(&self) -> io::Result<()> {
        sys::fd::with_fd(&self.socket, self.fd, |fd| {
            rustix::net::recv(fd, &mut [0; 1], RecvFlags::DONTWAIT)
        })?;
        Ok(())
    }

    /// Sends a run to the endpoint that the socket is connected to.
    ///
    /// # Errors
    /// `WouldBlock` when the socket has no room; what ICMP says of the endpoint, for an earlier datagram: then this one was
    /// not sent.
    pub fn send(&self, run: &Run<'_>) -> io::Result<()> {
        match (self.batching.get(), self.remote) {
            (Some(_), Some(remote)) => self.send_to(run, remote, None),
            (Some(_) | None, _) if run.bytes.is_empty() => self.send_one(&[]),
            (Some(_) | None, _) => run.bytes.chunks(run.stride.max(1)).try_for_each(|one| self.send_one(one)),
        }
    }

    /// Sends one datagram, which may be empty, to the endpoint that the socket is connected to.
    ///
    /// # Errors
    /// As [`DatagramSocket::send`].
    pub fn send_one(&self, datagram: &[u8]) -> io::Result<()> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        sys::fd::with_fd(&self.socket, self.fd, |fd| rustix::net::send(fd, datagram, flags))?;
        Ok(())
    }

    /// Sends a run to `peer`, from this one of our addresses.
    ///
    /// # Errors
    /// `WouldBlock` when the socket has no room.
    pub fn send_to(&self, run: &Run<'_>, peer: SocketAddr, local: Option<IpAddr>) -> io::Result<()> {
        let Some(state) = self.batching.get() else { return Err(io::ErrorKind::Unsupported.into()) };
        let mut rest = run.bytes;
        loop {
            // Asked each time: a driver without GSO shows that by failing once.
            let most = run.stride.saturating_mul(state.max_gso_segments().max(1));
            let (contents, after) = rest.split_at(rest.len().min(most));
            let segment_size = (contents.len() > run.stride).then_some(run.stride);
            let transmit =
                Transmit { destination: peer, ecn: run.ecn, contents, segment_size, src_ip: local };
            let sent = sys::fd::with_fd(&self.socket, self.fd, |fd| state.try_send((&fd).into(), &transmit));
            match sent {
                Ok(()) => rest = after,
                Err(_) if segment_size.is_some() && state.max_gso_segments() == 1 => {}
                Err(error) => return Err(error),
            }
            if rest.is_empty() {
                return Ok(());
            }
        }
    }
}
