//! The listening socket that `floor` and `backend` share.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that the kernel queues: more than any case opens at once. `net.core.somaxconn` bounds it (4,096 where nobody
/// has changed it): what does not fit waits for the client's next SYN.
const BACKLOG: i32 = 65_535;

/// Listens on `addr` and prints `listening on ADDR` with the port that the kernel chose.
///
/// TCP_NODELAY is set here: accepted sockets inherit it, which saves a system call per connection.
///
/// # Errors
/// The address cannot be bound.
pub(crate) fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    // Several backends may share an address: with several workers of a proxy one thread would be the bottleneck.
    socket.set_reuse_port(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    let listener = TcpListener::from(socket);
    println!("listening on {}", listener.local_addr()?);
    Ok(listener)
}
