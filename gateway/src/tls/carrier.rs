//! A connection with the read and write operations that a framing library asks for, a client's or one to an endpoint.
//!
//! Two operations at most, as everywhere: what is written is gathered and leaves in one send for each flush; what is
//! read goes from a pooled buffer to the library's. A flush is over when the kernel has everything, so that an error
//! shows where it happens. A connection that rests ([`Carrier::rest`]) reads into a small buffer and holds no other.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use routing::time::MonoTime;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use wire::h2::Ledger;

use super::Stream;
use crate::net::{Buf, Class, acquire};
use crate::worker::clock;

/// Whose connection it is.
pub trait Owner {
    /// The connection.
    fn conn(&mut self) -> &mut Stream;

    /// The library sends nothing more, and everything is out.
    fn finished(&mut self);
}

impl Owner for Stream {
    fn conn(&mut self) -> &mut Stream {
        self
    }

    fn finished(&mut self) {
        self.shutdown_write();
    }
}

/// The connection, shared by the library (through [`Io`]) and the task that looks after it. Borrowed briefly.
pub struct Carrier<O> {
    /// Who has it.
    pub owner: O,
    /// What came and was not taken yet.
    held: Option<Buf>,
    /// What is to be sent and is not on its way yet.
    out: Option<Buf>,
    /// Since when a write is on its way.
    writing_since: Option<MonoTime>,
    /// Is nothing expected for a while?
    rests: bool,
    /// Was the read called back, to go on with a smaller buffer?
    is_cancelled: bool,
    received: u64,
    /// What its peer owes, and when of that was last forgiven.
    account: Option<(Ledger, MonoTime)>,
}

/// Bytes of frames that carry nothing which are forgiven in a second: some hundred PINGs.
const FORGIVEN_PER_SECOND: u64 = 4 * 1024;

impl<O: Owner> Carrier<O> {
    /// A connection of which `held` came already.
    #[must_use]
    pub fn new(owner: O, held: Option<Buf>) -> Self {
        Self {
            owner,
            held,
            out: None,
            writing_since: None,
            rests: false,
            is_cancelled: false,
            received: 0,
            account: None,
        }
    }

    /// The same, and keeps account of what its peer sends (SECURITY S23, S24).
    #[must_use]
    pub fn watched(owner: O, held: Option<Buf>) -> Self {
        let mut ledger = Ledger::new();
        ledger.received(held.as_ref().map_or(&[], Buf::bytes));
        Self { account: Some((ledger, clock::now())), ..Self::new(owner, held) }
    }

    /// Has its peer sent so much that carries nothing that it owes more than `max` bytes?
    pub fn floods(&mut self, max: u32) -> bool {
        let Some((ledger, at)) = self.account.as_mut().filter(|(ledger, _)| ledger.owed() > max) else {
            return false;
        };
        let now = clock::now();
        let nanos = u64::try_from(now.since(*at).as_nanos()).unwrap_or(u64::MAX);
        let forgiven = nanos / 1_000 * FORGIVEN_PER_SECOND / 1_000_000;
        if forgiven > 0 {
            *at = now;
            ledger.pay(u32::try_from(forgiven).unwrap_or(u32::MAX));
        }
        ledger.owed() > max
    }

    /// Since when bytes wait that the peer does not take.
    #[must_use]
    pub fn writing_since(&self) -> Option<MonoTime> {
        self.writing_since
    }

    /// Nothing is expected for a while: goes on with a small read buffer. The library is to be polled afterwards.
    pub fn rest(&mut self) {
        if !self.rests && self.owner.conn().is_reading() {
            self.is_cancelled = true;
            self.owner.conn().cancel_read();
        }
        self.rests = true;
    }

    /// Bytes that came since the last call.
    pub fn take_received(&mut self) -> u64 {
        std::mem::take(&mut self.received)
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            if let Some(held) = &mut self.held {
                let n = held.len().min(into.remaining());
                into.put_slice(&held.bytes()[..n]);
                held.consume(n);
                if held.is_empty() {
                    self.held = None;
                }
                return Poll::Ready(Ok(()));
            }
            let conn = self.owner.conn();
            if !conn.is_reading() {
                let class = if self.rests { Class::Head } else { Class::Small };
                conn.start_read(acquire(class, 0).ok_or(io::ErrorKind::OutOfMemory)?);
            }
            let (result, buf) = ready!(conn.poll_read(cx));
            match result {
                Ok(0) => return Poll::Ready(Ok(())),
                Ok(n) => {
                    self.received += n as u64;
                    self.rests = false;
                    if let Some((ledger, _)) = &mut self.account {
                        ledger.received(buf.bytes());
                    }
                    self.held = Some(buf);
                }
                Err(_) if self.is_cancelled => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
            self.is_cancelled = false;
        }
    }

    /// Gathers bytes; sends what was gathered before when there is no room.
    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let out = match self.out.take() {
                None => acquire(Class::Small, 0),
                Some(out) if out.tailroom() == 0 && out.class() == Class::Small => larger(out),
                Some(out) => Some(out),
            };
            let out = self.out.insert(out.ok_or(io::ErrorKind::OutOfMemory)?);
            let n = out.append(bytes);
            if n > 0 || bytes.is_empty() {
                return Poll::Ready(Ok(n));
            }
            ready!(self.poll_sent(cx))?;
            self.send();
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_sent(cx))?;
            if self.out.is_none() {
                return Poll::Ready(Ok(()));
            }
            self.send();
        }
    }

    /// Ready when nothing is on its way.
    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = ready!(self.owner.conn().poll_flush(cx));
        self.writing_since = None;
        Poll::Ready(result)
    }

    fn send(&mut self) {
        if let Some(out) = self.out.take() {
            self.writing_since = Some(clock::now());
            if let Some((ledger, _)) = &mut self.account {
                ledger.pay(u32::try_from(out.len()).unwrap_or(u32::MAX));
            }
            self.owner.conn().start_write(out);
        }
    }
}

fn larger(out: Buf) -> Option<Buf> {
    let mut large = acquire(Class::Bulk, 0)?;
    large.append(out.bytes());
    Some(large)
}

/// The library's side of a connection.
pub struct Io<O>(pub Rc<RefCell<Carrier<O>>>);

impl<O: Owner> AsyncRead for Io<O> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().poll_read(cx, into)
    }
}

impl<O: Owner> AsyncWrite for Io<O> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut carrier = self.0.borrow_mut();
        let mut sum = 0;
        for part in parts.iter().filter(|part| !part.is_empty()) {
            let mut rest = &part[..];
            while !rest.is_empty() {
                match carrier.poll_write(cx, rest) {
                    Poll::Ready(Ok(n)) => {
                        sum += n;
                        rest = &rest[n..];
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending if sum > 0 => return Poll::Ready(Ok(sum)),
                    Poll::Pending => return Poll::Pending,
                }
            }
        }
        Poll::Ready(Ok(sum))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut carrier = self.0.borrow_mut();
        ready!(carrier.poll_flush(cx))?;
        carrier.owner.finished();
        Poll::Ready(Ok(()))
    }
}
