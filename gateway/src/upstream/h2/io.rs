//! A connection to an endpoint with the read and write operations that the framing library asks for.
//!
//! Two operations at most, as everywhere: what is written is gathered and leaves in one send for each flush.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::net::{Buf, Class, acquire};
use crate::tls::Stream;

/// The library's side of a connection.
pub(super) struct Io {
    conn: Stream,
    /// What came and was not taken yet.
    held: Option<Buf>,
    /// What is to be sent and is not on its way yet.
    out: Option<Buf>,
}

impl Io {
    pub(super) fn new(conn: Stream) -> Self {
        Self { conn, held: None, out: None }
    }

    fn send(&mut self) {
        if let Some(out) = self.out.take() {
            self.conn.start_write(out);
        }
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
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
            if !self.conn.is_reading() {
                self.conn.start_read(acquire(Class::Small, 0).ok_or(io::ErrorKind::OutOfMemory)?);
            }
            let (result, buf) = ready!(self.conn.poll_read(cx));
            if result? == 0 {
                return Poll::Ready(Ok(()));
            }
            self.held = Some(buf);
        }
    }
}

impl AsyncWrite for Io {
    /// Gathers bytes; sends what was gathered before when there is no room.
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let out = match self.out.take() {
                Some(out) => out,
                None => acquire(Class::Small, 0).ok_or(io::ErrorKind::OutOfMemory)?,
            };
            let n = self.out.insert(out).append(bytes);
            if n > 0 || bytes.is_empty() {
                return Poll::Ready(Ok(n));
            }
            ready!(self.conn.poll_flush(cx))?;
            self.send();
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.conn.poll_flush(cx))?;
            if self.out.is_none() {
                return Poll::Ready(Ok(()));
            }
            self.send();
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(cx))?;
        self.conn.shutdown_write();
        Poll::Ready(Ok(()))
    }
}
