//! Opening listeners and accepting from them.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use monoio::net::TcpStream;
use socket2::{Domain, Protocol, Socket, Type};

use super::conn::{Cancel, Conn};

/// Must an address be on an interface of this machine to be listened on?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It must.
    Required,
    /// It may come later: a virtual IP (`IP_FREEBIND`).
    Awaited,
}

impl Presence {
    pub(super) fn apply(self, socket: &Socket, addr: SocketAddr) -> io::Result<()> {
        match (self, addr.is_ipv4()) {
            (Self::Required, _) => Ok(()),
            (Self::Awaited, true) => socket.set_freebind_v4(true),
            (Self::Awaited, false) => socket.set_freebind_v6(true),
        }
    }
}

/// Opens a listening socket that several workers may share by `SO_REUSEPORT`.
///
/// An IPv6 wildcard accepts IPv4 as well. Accepted sockets inherit TCP_NODELAY.
///
/// # Errors
/// When the address cannot be bound.
pub fn open(addr: SocketAddr, backlog: u32, presence: Presence) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM.cloexec(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(!addr.ip().is_unspecified())?;
    }
    socket.set_tcp_nodelay(true)?;
    presence.apply(&socket, addr)?;
    socket.bind(&addr.into())?;
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}

/// One listening socket of one worker.
///
/// Readiness is awaited on the ring, the connections are taken by `accept4`: an accept that waits inside the ring
/// would take a connection with it when its worker is lost.
pub struct Listener {
    watch: super::wake::Watch,
    socket: std::net::TcpListener,
}

/// A connection that nothing was read from yet.
#[derive(Debug)]
pub struct Accepted {
    /// The socket; TCP_NODELAY is set.
    pub socket: OwnedFd,
    /// Who is at the other end; an IPv4-mapped address is given as the IPv4 address.
    pub peer: SocketAddr,
}

impl Listener {
    /// Accepts from a listening socket, of which the caller may keep a duplicate.
    ///
    /// # Errors
    /// When the runtime cannot register it.
    pub fn new(socket: std::net::TcpListener) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let watch = super::wake::Watch::new(OwnedFd::from(socket.try_clone()?))?;
        Ok(Self { watch, socket })
    }

    /// Waits until a connection is there (or the socket was shut down).
    ///
    /// # Errors
    /// When the wait cannot be started.
    pub async fn ready(&self) -> io::Result<()> {
        self.watch.readable().await
    }

    /// The next connection that is there now, or `None`.
    ///
    /// # Errors
    /// As `accept(2)`: out of descriptors, or the listener was shut down.
    pub fn accept(&self) -> io::Result<Option<Accepted>> {
        accept(&self.socket)
    }
}

/// The next connection of a non-blocking listening socket that is there now, or `None`.
///
/// # Errors
/// As `accept(2)`.
pub fn accept(socket: &std::net::TcpListener) -> io::Result<Option<Accepted>> {
    loop {
        match socket.accept() {
            Ok((stream, peer)) => {
                return Ok(Some(Accepted { socket: stream.into(), peer: canonical(peer) }));
            }
            Err(error) => {
                let kind = error.kind();
                if kind == io::ErrorKind::WouldBlock {
                    return Ok(None);
                }
                // Otherwise the client gave up while it was queued: the next one, please.
                if kind != io::ErrorKind::ConnectionAborted && kind != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

/// Connects to an endpoint. TCP_NODELAY is set before the connect.
///
/// # Errors
/// As `connect(2)`.
pub async fn connect(addr: SocketAddr) -> io::Result<Conn> {
    connect_with(addr, Cancel::Never).await
}

/// The same, with a choice whether its reads can be called back.
///
/// # Errors
/// As `connect(2)`.
pub async fn connect_with(addr: SocketAddr, cancel: Cancel) -> io::Result<Conn> {
    let stream = TcpStream::connect_addr(addr).await?;
    stream.set_nodelay(true)?;
    Ok(Conn::new(stream, addr, cancel))
}

fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}
