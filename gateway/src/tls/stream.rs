//! A client's connection, plain or TLS, with the operations of [`Conn`]: for plain TCP each costs one branch more.
//!
//! At most one read and one write in flight, both started and collected by hand, as with [`Conn`]; nothing is lost when
//! whoever waited for one goes away. A write of plaintext may need several sends: whichever of the operations is
//! polled moves it on.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, Waker, ready};

use super::Facts;
use super::session::Session;
use crate::net::conn::{Conn, Done};
use crate::net::{Buf, Class, acquire};

/// A connection of a client.
pub struct Stream {
    conn: Conn,
    tls: Option<Box<Secured>>,
}

/// What TLS adds to a connection.
pub(super) struct Secured {
    session: Session,
    facts: Facts,
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

impl Stream {
    /// In clear.
    #[must_use]
    pub fn plain(conn: Conn) -> Self {
        Self { conn, tls: None }
    }

    /// From now on through `session`.
    pub(super) fn secure(&mut self, session: Session, facts: Facts) {
        self.tls = Some(Box::new(Secured {
            session,
            facts,
            reading: None,
            watching: false,
            cancelled: false,
            ended: false,
            writing: None,
        }));
    }

    /// The connection below: for a handshake.
    pub(super) fn conn(&mut self) -> &mut Conn {
        &mut self.conn
    }

    /// What was agreed in the handshake; `None` in clear.
    #[must_use]
    pub fn tls(&self) -> Option<&Facts> {
        self.tls.as_ref().map(|tls| &tls.facts)
    }

    /// Who is at the other end.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.conn.peer()
    }

    /// Our own address on this connection.
    ///
    /// # Errors
    /// As [`Conn::local_addr`].
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.conn.local_addr()
    }

    /// As [`Conn::send_room`]; records that are encrypted and not yet sent are not counted.
    #[must_use]
    pub fn send_room(&self) -> usize {
        self.conn.send_room()
    }

    /// Starts a read that appends to `buf`. At most one at a time.
    pub fn start_read(&mut self, buf: Buf) {
        match &mut self.tls {
            None => self.conn.start_read(buf),
            Some(tls) => tls.start_read(&mut self.conn, buf),
        }
    }

    /// Is a read in flight, or finished and not yet collected?
    #[must_use]
    pub fn is_reading(&self) -> bool {
        match &self.tls {
            None => self.conn.is_reading(),
            Some(tls) => tls.reading.is_some() || tls.watching,
        }
    }

    /// Collects the read in flight. Pending for ever when there is none. Of TLS: 0 bytes only after a close_notify; a
    /// connection that ends without one is an error, so that nobody can cut a body short unnoticed (RFC 8446 §6.1).
    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Done<usize>> {
        match &mut self.tls {
            None => self.conn.poll_read(cx),
            Some(tls) => tls.poll_read(&mut self.conn, cx),
        }
    }

    /// Waits for the read in flight.
    pub async fn finish_read(&mut self) -> Done<usize> {
        poll_fn(|cx| self.poll_read(cx)).await
    }

    /// Starts to wait until there is something to read, or the end, without holding a buffer.
    pub fn start_watch(&mut self) {
        let Some(tls) = &mut self.tls else { return self.conn.start_watch() };
        // The watch of the socket begins when it is polled: a control message may still be on its way out.
        tls.watching = true;
    }

    /// Collects the watch in flight. Pending for ever when there is none.
    pub fn poll_watch(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(tls) = &mut self.tls else { return self.conn.poll_watch(cx) };
        if !tls.watching {
            return Poll::Pending;
        }
        let mut result = Ok(());
        if !tls.session.has_input() && !self.conn.is_reading() {
            if !self.conn.is_watching() {
                result = ready!(tls.pump(&mut self.conn, cx));
                self.conn.start_watch();
            }
            if result.is_ok() {
                result = ready!(self.conn.poll_watch(cx));
            }
        }
        tls.watching = false;
        Poll::Ready(result)
    }

    /// Calls back the read in flight: it ends with `ECANCELED`, or with the bytes that came first.
    pub fn cancel_read(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.cancelled = tls.reading.is_some();
            if !self.conn.is_reading() {
                return;
            }
        }
        self.conn.cancel_read();
    }

    /// Starts writing all of `buf`. At most one at a time.
    pub fn start_write(&mut self, buf: Buf) {
        match &mut self.tls {
            None => self.conn.start_write(buf),
            Some(tls) => {
                debug_assert!(tls.writing.is_none(), "one write at a time");
                tls.writing = Some(buf);
                // Starts the first send; what it came to is asked for later.
                let _ = tls.pump(&mut self.conn, &mut Context::from_waker(Waker::noop()));
            }
        }
    }

    /// Is a write in flight, or finished and not yet collected?
    #[must_use]
    pub fn is_writing(&self) -> bool {
        match &self.tls {
            None => self.conn.is_writing(),
            Some(tls) => tls.writing.is_some(),
        }
    }

    /// Collects the write in flight and gives its buffer back. Pending for ever when there is none.
    pub fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Done<()>> {
        match &mut self.tls {
            None => self.conn.poll_write(cx),
            Some(tls) => tls.poll_write(&mut self.conn, cx),
        }
    }

    /// Ready at once when no write is in flight; otherwise when it has ended.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(tls) = &mut self.tls else { return self.conn.poll_flush(cx) };
        if tls.writing.is_some() {
            let (result, _buf) = ready!(tls.poll_write(&mut self.conn, cx));
            return Poll::Ready(result);
        }
        // An answer to a control message, or the end of the handshake.
        tls.pump(&mut self.conn, cx)
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
        if let Some(tls) = &mut self.tls
            && !self.conn.is_writing()
        {
            let alert = tls.session.close_notify();
            // The socket has room for it unless the peer takes nothing: then it learns nothing either.
            let _ = self.conn.send_now(&alert);
        }
        self.conn.shutdown_write();
    }

    /// Resets the connection now: what the peer sees is an error, never a clean end.
    pub fn reset(&self) {
        self.conn.reset();
    }

    /// Takes the socket out, to hand it to another worker. `None` for TLS, whose session stays where it is, and as
    /// [`Conn::into_socket`].
    #[must_use]
    pub fn into_socket(self) -> Option<OwnedFd> {
        if self.tls.is_some() { None } else { self.conn.into_socket() }
    }
}

impl Secured {
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
