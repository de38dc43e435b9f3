//! What a layer-4 connection has to begin with before it can be routed: a PROXY header, a ClientHello.
//!
//! Bounded in bytes and in time (`timeouts.header`, once for both). What was read and is not a PROXY header goes to the
//! endpoint as it came.

use std::future::poll_fn;
use std::task::Poll;

use routing::time::MonoTime;
use wire::{client_hello, proxy_protocol};

use super::{Failure, Session};
use crate::net::{Buf, with_room};
use crate::observe::layer4::Ended;
use crate::observe::stats::Limit;
use crate::worker::clock;

/// Reads what has to come first.
pub(super) struct Prelude {
    /// What came so far.
    held: Option<Buf>,
    due: MonoTime,
}

impl Prelude {
    pub(super) fn new(session: &Session) -> Self {
        Self { held: None, due: session.began + session.worker.settings().header_timeout }
    }

    /// The PROXY header: takes the client's address from it.
    pub(super) async fn proxy_header(&mut self, session: &mut Session) -> Result<(), Failure> {
        loop {
            let bytes = self.held.as_ref().map_or(&[][..], Buf::bytes);
            match proxy_protocol::decode(bytes) {
                Ok(Some(header)) => {
                    if let Some((source, _)) = header.addresses {
                        session.source = source;
                    }
                    let len = header.len;
                    if let Some(held) = &mut self.held {
                        held.consume(len);
                    }
                    return Ok(());
                }
                Ok(None) => self.more(session).await?,
                Err(error) => return Err(Failure::of(Ended::Malformed, error.name())),
            }
        }
    }

    /// The ClientHello: remembers whom it asks for.
    pub(super) async fn client_hello(&mut self, session: &mut Session) -> Result<(), Failure> {
        let mut scratch = Vec::new();
        loop {
            let bytes = self.held.as_ref().map_or(&[][..], Buf::bytes);
            match client_hello::peek(bytes, &mut scratch) {
                Ok(Some(hello)) => {
                    session.sni = hello.server_name.map(Box::from);
                    session.alpn = hello.alpn().next().map(Box::from);
                    return Ok(());
                }
                Ok(None) => self.more(session).await?,
                Err(error) => return Err(Failure::of(Ended::Malformed, error.name())),
            }
        }
    }

    /// What was read and belongs to a handshake.
    pub(super) fn take(&mut self) -> Option<Buf> {
        self.held.take().filter(|buf| !buf.is_empty())
    }

    /// What was read and belongs to the endpoint.
    pub(super) fn rest(self) -> Option<Buf> {
        self.held.filter(|buf| !buf.is_empty())
    }

    async fn more(&mut self, session: &mut Session) -> Result<(), Failure> {
        let Some(buf) = with_room(self.held.take()) else {
            session.worker.stats.hit(Limit::BuffersBytes);
            return Err(Failure::of(Ended::Buffers, ""));
        };
        session.down.start_read(buf);
        loop {
            session.deadline.set(self.due);
            if session.worker.is_stopping() {
                return Err(Failure::of(Ended::Stopped, ""));
            }
            let (down, deadline) = (&mut session.down, &session.deadline);
            let first = poll_fn(|cx| match down.poll_read(cx) {
                Poll::Ready(done) => Poll::Ready(Some(done)),
                Poll::Pending => deadline.poll(cx).map(|()| None),
            });
            match first.await {
                Some((Ok(n), buf)) if n > 0 => {
                    self.held = Some(buf);
                    return Ok(());
                }
                Some(_) => return Err(Failure::of(Ended::Unbegun, "client_left")),
                None if clock::now() >= self.due => {
                    session.worker.stats.hit(Limit::HeaderTimeout);
                    return Err(Failure::of(Ended::Unbegun, "header_timeout"));
                }
                None => {}
            }
        }
    }
}
