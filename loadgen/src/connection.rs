//! One nonblocking connection of the generator: connect, write a request, read its response.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};

use crate::message::{Info, Kind, Progress, Reader};
use crate::socket::Socket;
use crate::tls::Tls;

/// Bytes read per system call.
const READ_BYTES: usize = 64 * 1024;

/// A connection with at most one request on its way.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: Socket,
    phase: Phase,
    reader: Reader,
}

/// What the connection does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Connecting {
        due: Duration,
    },
    Idle,
    /// `written` bytes of the request are sent.
    Busy {
        due: Duration,
        written: usize,
    },
}

/// What became of the connection and of its request when it was ready.
#[derive(Debug)]
pub(crate) enum Event {
    /// Nothing is decided yet.
    Pending,
    /// A complete response to the request that was due then; the connection is idle, or must be dropped.
    Answered { due: Duration, info: Info, reuse: Reuse },
    /// The connection is over; the request that was due then, if there was one, failed like this.
    Over { due: Option<Duration>, why: Why, begun: Begun },
}

/// Whether a connection takes another request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reuse {
    Yes,
    No,
}

/// Why a connection is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    Connect,
    Closed,
    Malformed,
}

/// How far the response to a request had come when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    /// Its head was not complete: whoever stands between could still have asked elsewhere.
    No,
    /// Its head was complete, and so many bytes of its body had come.
    Yes(u64),
}

impl Connection {
    /// Begins to connect, for the request that was due then.
    pub(crate) fn open(
        target: SocketAddr,
        due: Duration,
        wanted: Option<&str>,
        tls: Option<&Tls>,
    ) -> io::Result<Self> {
        let reader = Reader::new(Kind::Response, wanted);
        let socket = Socket::new(connect(target)?, tls.map(Tls::begin).transpose()?);
        Ok(Self { socket, phase: Phase::Connecting { due }, reader })
    }

    pub(crate) fn socket(&self) -> &TcpStream {
        self.socket.tcp()
    }

    /// When the request that it works on was due.
    pub(crate) fn due(&self) -> Option<Duration> {
        match self.phase {
            Phase::Connecting { due } | Phase::Busy { due, .. } => Some(due),
            Phase::Idle => None,
        }
    }

    /// Sends a request on an idle connection.
    pub(crate) fn send(&mut self, due: Duration, request: &[u8]) -> Event {
        self.phase = Phase::Busy { due, written: 0 };
        self.write(request)
    }

    /// Does whatever is possible now: all of it, since readiness is told once (edge-triggered).
    pub(crate) fn ready(&mut self, request: &[u8], buffer: &mut [u8]) -> Event {
        if let Phase::Connecting { due } = self.phase {
            match sockopt::socket_error(self.socket.tcp()) {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return self.over(Why::Connect),
            }
            if self.socket.tcp().peer_addr().is_err() {
                return Event::Pending;
            }
            self.phase = Phase::Busy { due, written: 0 };
        }
        if self.socket.flush().is_err() {
            return self.over(Why::Closed);
        }
        match self.write(request) {
            Event::Pending => self.read(buffer),
            decided @ (Event::Answered { .. } | Event::Over { .. }) => decided,
        }
    }

    fn write(&mut self, request: &[u8]) -> Event {
        while let Phase::Busy { due, written } = self.phase
            && written < request.len()
        {
            match self.socket.write(&request[written..]) {
                Ok(more) => self.phase = Phase::Busy { due, written: written + more },
                Err(why) if why.kind() == io::ErrorKind::WouldBlock => return Event::Pending,
                Err(_) => return self.over(Why::Closed),
            }
        }
        Event::Pending
    }

    fn read(&mut self, buffer: &mut [u8]) -> Event {
        let mut answered = None;
        loop {
            let length = match self.socket.read(buffer) {
                Ok(0) => return self.at_close(answered),
                Ok(length) => length,
                Err(why) if why.kind() == io::ErrorKind::WouldBlock => {
                    return answered.unwrap_or(Event::Pending);
                }
                Err(_) => return self.at_error(answered),
            };
            let Phase::Busy { due, .. } = self.phase else { return self.at_unexpected(answered) };
            match self.reader.feed(&buffer[..length]) {
                Ok(Progress::More) => {}
                Ok(Progress::Done(end)) => {
                    let info = std::mem::take(&mut self.reader.info);
                    self.phase = Phase::Idle;
                    // Bytes behind the response belong to nothing that was asked for.
                    let reuse = if info.last || end < length { Reuse::No } else { Reuse::Yes };
                    answered = Some(Event::Answered { due, info, reuse });
                }
                Err(_) => return self.over(Why::Malformed),
            }
        }
    }

    fn at_close(&mut self, answered: Option<Event>) -> Event {
        match (self.phase, self.reader.ends_on_close()) {
            (Phase::Busy { due, .. }, true) => {
                let info = std::mem::take(&mut self.reader.info);
                Event::Answered { due, info, reuse: Reuse::No }
            }
            (Phase::Busy { .. } | Phase::Idle | Phase::Connecting { .. }, _) => self.at_error(answered),
        }
    }

    /// The connection broke: a response that was complete before stays good.
    fn at_error(&self, answered: Option<Event>) -> Event {
        match answered {
            Some(Event::Answered { due, info, .. }) => Event::Answered { due, info, reuse: Reuse::No },
            Some(Event::Pending | Event::Over { .. }) | None => self.over(Why::Closed),
        }
    }

    fn at_unexpected(&self, answered: Option<Event>) -> Event {
        match answered {
            Some(Event::Answered { due, info, .. }) => Event::Answered { due, info, reuse: Reuse::No },
            Some(Event::Pending | Event::Over { .. }) | None => self.over(Why::Malformed),
        }
    }

    fn over(&self, why: Why) -> Event {
        Event::Over { due: self.due(), why, begun: self.begun() }
    }

    /// How far the response has come.
    pub(crate) fn begun(&self) -> Begun {
        if self.reader.has_head() { Begun::Yes(self.reader.info.body) } else { Begun::No }
    }
}

/// A nonblocking socket that is being connected.
pub(crate) fn connect(target: SocketAddr) -> io::Result<TcpStream> {
    let family = if target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    match rustix::net::connect(&socket, &target) {
        Ok(()) | Err(Errno::INPROGRESS) => {}
        Err(why) => return Err(why.into()),
    }
    Ok(socket.into())
}

/// A read buffer for [`Connection::ready`].
pub(crate) fn read_buffer() -> Vec<u8> {
    vec![0; READ_BYTES]
}
