//! A connection as the exchange sees it, plain, TLS or a [pipe](crate::net::pipe) inside the worker, with the
//! operations of [`Conn`]: for plain TCP each costs one branch more.
//!
//! At most one read and one write in flight, both started and collected by hand, as with [`Conn`]; nothing is lost when
//! whoever waited for one goes away. A write of plaintext may need several sends: whichever of the operations is
//! polled moves it on.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use super::Facts;
use super::session::Session;
use crate::net::conn::{Conn, Done};
use crate::net::pipe::End;
use crate::net::{Buf, Class, acquire};
use crate::sys::prefetch::Place;

/// A connection, of a client or to an endpoint.
pub enum Stream {
    /// TCP in clear. Boxed: from the pool through an attempt back into the pool it moves as a pointer.
    Plain(Box<Conn>),
    /// TLS.
    Secured(Box<(Conn, Secured)>),
    /// One request of a connection that carries several, as of HTTP/2. Whoever multiplexes has the other end.
    Piped(Box<(End, Rc<Origin>)>),
}

/// What the requests of one connection have in common.
pub struct Origin {
    /// Who is at the connection's other end.
    pub peer: SocketAddr,
    /// Our own address on it.
    pub local: SocketAddr,
    /// What was agreed in its handshake; `None` in clear.
    pub tls: Option<Facts>,
}

/// What TLS adds to a connection.
pub struct Secured {
    session: Session,
    agreed: Agreed,
    /// The owner's buffer, while it reads.
    reading: Option<Buf>,
    /// Does the owner wait for anything to read?
    watching: bool,
    /// Was the read called back?
    cancelled: bool,
    /// Did the peer's FIN come?
    ended: bool,
    /// The owner's buffer with what is not encrypted yet, while it writes.
    writing: Option<Buf>,
}

/// What a handshake agreed on, by who is at the other end.
pub(super) enum Agreed {
    /// A client.
    Client(Facts),
    /// A backend, by the settings that it was connected to with: [`BackendTls::fingerprint`].
    ///
    /// [`BackendTls::fingerprint`]: routing::model::BackendTls::fingerprint
    Backend { fingerprint: u64 },
}

impl Stream {
    /// Counts one more request that a connection to an endpoint has carried; how many those are. One of many on a
    /// connection counts none.
    pub fn count_request(&mut self) -> u32 {
        match self {
            Self::Plain(conn) => conn.count_request(),
            Self::Secured(secured) => secured.0.count_request(),
            Self::Piped(_) => 0,
        }
    }

    /// In clear.
    #[must_use]
    pub fn plain(conn: Conn) -> Self {
        Self::Plain(Box::new(conn))
    }

    /// One request of a connection that carries several.
    #[must_use]
    pub fn piped(end: End, origin: Rc<Origin>) -> Self {
        Self::Piped(Box::new((end, origin)))
    }

    /// From now on through `session`. Only of a connection in clear.
    pub(super) fn secure(&mut self, session: Session, agreed: Agreed) {
        let Self::Plain(conn) = self else { return };
        let tls = Secured {
            session,
            agreed,
            reading: None,
            watching: false,
            cancelled: false,
            ended: false,
            writing: None,
        };
        *self = Self::Secured(Box::new((conn.take(), tls)));
    }

    /// The connection below: for a handshake.
    ///
    /// # Errors
    /// `Unsupported` for a pipe.
    pub(super) fn conn(&mut self) -> io::Result<&mut Conn> {
        match self {
            Self::Plain(conn) => Ok(conn),
            Self::Secured(whole) => Ok(&mut whole.0),
            Self::Piped(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// What was agreed in the handshake with a client; `None` in clear.
    #[must_use]
    pub fn tls(&self) -> Option<&Facts> {
        match self {
            Self::Plain(_) => None,
            Self::Secured(whole) => match &whole.1.agreed {
                Agreed::Client(facts) => Some(facts),
                Agreed::Backend { .. } => None,
            },
            Self::Piped(piped) => piped.1.tls.as_ref(),
        }
    }

    /// Which settings a backend was connected to with; 0 in clear. Settings that differ have another number.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        match self {
            Self::Plain(_) | Self::Piped(_) => 0,
            Self::Secured(whole) => match whole.1.agreed {
                Agreed::Backend { fingerprint } => fingerprint,
                Agreed::Client(_) => 0,
            },
        }
    }

    /// Is it one request of a connection that carries several?
    #[must_use]
    pub fn is_piped(&self) -> bool {
        matches!(self, Self::Piped(_))
    }

    /// The largest buffers that are read to be written to it. Of the many requests of one connection each holds little:
    /// a client that takes nothing may leave all of them waiting (SECURITY S20).
    #[must_use]
    pub fn largest(&self) -> Class {
        match self {
            Self::Plain(_) | Self::Secured(_) => Class::Bulk,
            Self::Piped(_) => Class::Small,
        }
    }

    /// Who is at the other end.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        match self {
            Self::Plain(conn) => conn.peer(),
            Self::Secured(whole) => whole.0.peer(),
            Self::Piped(piped) => piped.1.peer,
        }
    }

    /// Our own address on this connection.
    ///
    /// # Errors
    /// As [`Conn::local_addr`].
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Plain(conn) => conn.local_addr(),
            Self::Secured(whole) => whole.0.local_addr(),
            Self::Piped(piped) => Ok(piped.1.local),
        }
    }

    /// As [`Conn::send_room`]; records that are encrypted and not yet sent are not counted. A pipe takes one buffer of any
    /// size: its own bound holds.
    #[must_use]
    pub fn send_room(&self) -> usize {
        match self {
            Self::Plain(conn) => conn.send_room(),
            Self::Secured(whole) => whole.0.send_room(),
            Self::Piped(_) => usize::MAX,
        }
    }

    /// Starts a read that appends to `buf`. At most one at a time.
    pub fn start_read(&mut self, buf: Buf) {
        match self {
            Self::Plain(conn) => conn.start_read(buf),
            Self::Secured(whole) => whole.1.start_read(&mut whole.0, buf),
            Self::Piped(piped) => piped.0.start_read(buf),
        }
    }

    /// As [`Conn::read_now`], where that can be done: in clear, while no read is in flight. Else `WouldBlock`.
    ///
    /// # Errors
    /// As [`Conn::read_now`].
    pub fn read_now(&mut self, buf: &mut Buf) -> io::Result<usize> {
        match self {
            Self::Plain(conn) if !conn.is_reading() => conn.read_now(buf),
            Self::Plain(_) | Self::Secured(_) | Self::Piped(_) => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Is a read in flight, or finished and not yet collected?
    #[must_use]
    pub fn is_reading(&self) -> bool {
        match self {
            Self::Plain(conn) => conn.is_reading(),
            Self::Secured(whole) => whole.1.reading.is_some() || whole.1.watching,
            Self::Piped(piped) => piped.0.is_reading(),
        }
    }

    /// Collects the read in flight. Pending for ever when there is none. Of TLS: 0 bytes only after a close_notify; a
    /// connection that ends without one is an error, so that nobody can cut a body short unnoticed (RFC 8446 §6.1).
    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Done<usize>> {
        match self {
            Self::Plain(conn) => conn.poll_read(cx),
            Self::Secured(whole) => whole.1.poll_read(&mut whole.0, cx),
            Self::Piped(piped) => piped.0.poll_read(cx),
        }
    }

    /// As [`Conn::places`]; nothing where that would pay less.
    #[must_use]
    pub fn places(&self) -> [Place; 2] {
        match self {
            Self::Plain(conn) => conn.places(),
            Self::Secured(_) | Self::Piped(_) => [Place::default(); 2],
        }
    }

    /// Waits for the read in flight.
    pub async fn finish_read(&mut self) -> Done<usize> {
        poll_fn(|cx| self.poll_read(cx)).await
    }

    /// Starts to wait until there is something to read, or the end, without holding a buffer.
    pub fn start_watch(&mut self) {
        match self {
            Self::Plain(conn) => conn.start_watch(),
            // The watch of the socket begins when it is polled: a control message may still be on its way out.
            Self::Secured(whole) => whole.1.watching = true,
            Self::Piped(piped) => piped.0.start_watch(),
        }
    }

    /// Is it watched, or readable and that not yet collected?
    #[must_use]
    pub fn is_watching(&self) -> bool {
        match self {
            Self::Plain(conn) => conn.is_watching(),
            Self::Secured(whole) => whole.1.watching,
            Self::Piped(piped) => piped.0.is_watching(),
        }
    }

    /// Collects the watch in flight. Pending for ever when there is none.
    pub fn poll_watch(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(conn) => conn.poll_watch(cx),
            Self::Secured(whole) => whole.1.poll_watch(&mut whole.0, cx),
            Self::Piped(piped) => piped.0.poll_watch(cx),
        }
    }

    /// Calls back the read in flight: it ends with `ECANCELED`, or with the bytes that came first.
    pub fn cancel_read(&mut self) {
        match self {
            Self::Plain(conn) => conn.cancel_read(),
            Self::Secured(whole) => {
                let (conn, tls) = &mut **whole;
                tls.cancelled = tls.reading.is_some();
                if conn.is_reading() {
                    conn.cancel_read();
                }
            }
            Self::Piped(piped) => piped.0.cancel_read(),
        }
    }

    /// Starts writing all of `buf`. At most one at a time.
    pub fn start_write(&mut self, buf: Buf) {
        match self {
            Self::Plain(conn) => conn.start_write(buf),
            Self::Secured(whole) => {
                let (conn, tls) = &mut **whole;
                debug_assert!(tls.writing.is_none(), "one write at a time");
                tls.writing = Some(buf);
                // Starts the first send; what it came to is asked for later.
                let _ = tls.pump(conn, &mut Context::from_waker(Waker::noop()));
            }
            Self::Piped(piped) => piped.0.start_write(buf),
        }
    }

    /// Writes all of `buf`, what the socket takes of it at once: only the rest, if any, is in flight then. For large
    /// buffers, whose bytes are still in the caches. At most one write at a time.
    pub fn write_now(&mut self, mut buf: Buf) {
        if let Self::Plain(conn) = self
            && !conn.is_writing()
            // What went wrong is told by the write that follows: a socket that cannot be written to stays so.
            && let Ok(n) = conn.send_now(buf.bytes())
        {
            buf.consume(n);
            if buf.is_empty() {
                return;
            }
        }
        self.start_write(buf);
    }

    /// The connection itself, where it is TCP in clear.
    #[must_use]
    pub fn in_clear(&self) -> Option<&Conn> {
        match self {
            Self::Plain(conn) => Some(conn),
            Self::Secured(_) | Self::Piped(_) => None,
        }
    }

    /// Is a write in flight, or finished and not yet collected?
    #[must_use]
    pub fn is_writing(&self) -> bool {
        match self {
            Self::Plain(conn) => conn.is_writing(),
            Self::Secured(whole) => whole.1.writing.is_some(),
            Self::Piped(piped) => piped.0.is_writing(),
        }
    }

    /// Collects the write in flight and gives its buffer back. Pending for ever when there is none.
    pub fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Done<()>> {
        match self {
            Self::Plain(conn) => conn.poll_write(cx),
            Self::Secured(whole) => whole.1.poll_write(&mut whole.0, cx),
            Self::Piped(piped) => piped.0.poll_write(cx),
        }
    }

    /// Ready at once when no write is in flight; otherwise when it has ended.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(conn) => conn.poll_flush(cx),
            Self::Secured(whole) => {
                let (conn, tls) = &mut **whole;
                if tls.writing.is_some() {
                    let (result, _buf) = ready!(tls.poll_write(conn, cx));
                    return Poll::Ready(result);
                }
                // An answer to a control message, or the end of the handshake.
                tls.pump(conn, cx)
            }
            Self::Piped(piped) => piped.0.poll_flush(cx),
        }
    }

    /// Waits until no write is in flight.
    ///
    /// # Errors
    /// When the write failed: the peer is gone.
    pub async fn flush(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Sends the end (of TLS: a close_notify first) behind what was written. The receiving side stays open.
    pub fn shutdown_write(&mut self) {
        match self {
            Self::Plain(conn) => conn.shutdown_write(),
            Self::Secured(whole) => {
                let (conn, tls) = &mut **whole;
                if !conn.is_writing() {
                    let alert = tls.session.close_notify();
                    // The socket has room for it unless the peer takes nothing: then it learns nothing either.
                    let _ = conn.send_now(&alert);
                }
                conn.shutdown_write();
            }
            Self::Piped(piped) => piped.0.shutdown_write(),
        }
    }

    /// Resets the connection now: what the peer sees is an error, never a clean end.
    pub fn reset(&self) {
        match self {
            Self::Plain(conn) => conn.reset(),
            Self::Secured(whole) => whole.0.reset(),
            Self::Piped(piped) => piped.0.reset(),
        }
    }

    /// Takes the socket out, to hand it to another worker. `None` for TLS, whose session stays where it is, for a pipe,
    /// and as [`Conn::into_socket`].
    #[must_use]
    pub fn into_socket(self) -> Option<OwnedFd> {
        match self {
            Self::Plain(conn) => conn.into_socket(),
            Self::Secured(_) | Self::Piped(_) => None,
        }
    }
}

impl Secured {
    fn poll_watch(&mut self, conn: &mut Conn, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.watching {
            return Poll::Pending;
        }
        let mut result = Ok(());
        if !self.session.has_input() && !conn.is_reading() {
            if !conn.is_watching() {
                result = ready!(self.pump(conn, cx));
                conn.start_watch();
            }
            if result.is_ok() {
                result = ready!(conn.poll_watch(cx));
            }
        }
        self.watching = false;
        Poll::Ready(result)
    }

    fn start_read(&mut self, conn: &mut Conn, buf: Buf) {
        debug_assert!(self.reading.is_none(), "one read at a time");
        self.cancelled = false;
        if !self.session.has_input() && !self.ended && !conn.is_reading() {
            // Without a buffer: the reader is told when it asks.
            if let Some(incoming) = self.session.read_buffer(buf.class()) {
                conn.start_read(incoming);
            }
        }
        self.reading = Some(buf);
    }

    fn poll_read(&mut self, conn: &mut Conn, cx: &mut Context<'_>) -> Poll<Done<usize>> {
        let Some(mut buf) = self.reading.take() else { return Poll::Pending };
        let result = self.read(conn, cx, &mut buf);
        // The rest of a write, an alert, or the answer to a key update waits for nobody. A write that only has to be
        // collected does: it wakes nobody.
        let has_more = self.session.has_control() || self.writing.as_ref().is_some_and(|buf| !buf.is_empty());
        let pumped = if has_more { self.pump(conn, cx) } else { Poll::Ready(Ok(())) };
        match result {
            Poll::Pending => {
                self.reading = Some(buf);
                Poll::Pending
            }
            Poll::Ready(Err(error)) => {
                self.alert(conn, &pumped);
                Poll::Ready((Err(error), buf))
            }
            Poll::Ready(Ok(n)) => Poll::Ready((Ok(n), buf)),
        }
    }

    fn read(&mut self, conn: &mut Conn, cx: &mut Context<'_>, buf: &mut Buf) -> Poll<io::Result<usize>> {
        loop {
            if !conn.is_reading() {
                let n = self.session.read(buf)?;
                if n > 0 || self.session.is_closed() {
                    return Poll::Ready(Ok(n));
                }
                if self.ended {
                    return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                }
                if self.cancelled {
                    return Poll::Ready(Err(io::Error::from_raw_os_error(libc::ECANCELED)));
                }
                let incoming = self.session.read_buffer(buf.class()).ok_or(io::ErrorKind::OutOfMemory)?;
                conn.start_read(incoming);
            }
            let (result, incoming) = ready!(conn.poll_read(cx));
            self.session.put(incoming);
            self.ended |= result? == 0;
        }
    }

    fn poll_write(&mut self, conn: &mut Conn, cx: &mut Context<'_>) -> Poll<Done<()>> {
        if self.writing.is_none() {
            return Poll::Pending;
        }
        let result = ready!(self.pump(conn, cx));
        match self.writing.take() {
            Some(buf) => Poll::Ready((result, buf)),
            None => Poll::Pending,
        }
    }

    /// Sends what is to be sent. Ready when everything is out.
    fn pump(&mut self, conn: &mut Conn, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if conn.is_writing() {
                let (result, _sent) = ready!(conn.poll_write(cx));
                if let Err(error) = result {
                    return Poll::Ready(Err(error));
                }
            }
            let has_data = self.writing.as_ref().is_some_and(|buf| !buf.is_empty());
            if has_data && let Some(plain) = &mut self.writing {
                match self.session.seal(plain) {
                    Ok(out) => conn.start_write(out),
                    Err(error) => return Poll::Ready(Err(error)),
                }
            } else if self.session.has_control() {
                let Some(mut out) = acquire(Class::Small, 0) else {
                    return Poll::Ready(Err(io::ErrorKind::OutOfMemory.into()));
                };
                out.append(&self.session.take_control());
                conn.start_write(out);
            } else {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Tells the peer why the session is over, if that is still to be said and the socket has room.
    fn alert(&mut self, conn: &Conn, pumped: &Poll<io::Result<()>>) {
        if pumped.is_ready() && !conn.is_writing() && self.session.has_control() {
            let _ = conn.send_now(&self.session.take_control());
        }
    }
}
