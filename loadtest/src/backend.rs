//! A backend that is cheap enough not to be the bottleneck: one thread, one ring, one prepared response.
//!
//! It finds the ends of request heads and nothing else: requests must have no body, and HEAD is answered like GET.
//! Keep-alive, pipelining and `Connection: close` are honoured.
//!
//! A connection has one operation in flight: `recv`, or the `send` of an owed response, or none while responses wait
//! for their latency.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::places::Places;
use crate::ring::{BUFFER_BYTES, Done, Ring};

/// Bytes of one request head at most; beyond it the connection is closed.
const HEAD_BYTES_MAX: usize = BUFFER_BYTES;
/// The longest wait, so that the stop flag is seen even when its signal came just before the wait.
const WAIT_MAX: Duration = Duration::from_millis(200);

struct Connection {
    socket: OwnedFd,
    /// The beginning of a head whose end has not arrived.
    partial: Vec<u8>,
    /// Responses to be sent, the one at `offset` among them. Bounded by what one `recv` can ask for.
    owed: usize,
    /// Bytes of the first owed response that are sent.
    offset: usize,
    after: After,
}

/// What follows the last owed response.
#[derive(Clone, Copy, PartialEq, Eq)]
enum After {
    KeepAlive,
    Close,
}

struct Backend {
    ring: Ring,
    response: &'static [u8],
    latency: Duration,
    connections: Places<Connection>,
    /// When which connection sends what it owes: one entry at most for each. Only with a latency.
    due: BinaryHeap<Reverse<(Instant, usize)>>,
    accepted: u64,
    requests: u64,
}

/// Serves until SIGTERM or SIGINT, then prints how many requests and connections there were.
///
/// # Errors
/// The address cannot be bound, or the kernel has no io_uring.
pub(crate) fn run(listen: SocketAddr, body: usize, latency: Duration) -> io::Result<()> {
    let ring = Ring::listening(listen)?;
    let mut backend = Backend {
        ring,
        // One response for as long as the process lives.
        response: response(body).leak(),
        latency,
        connections: Places::new(),
        due: BinaryHeap::new(),
        accepted: 0,
        requests: 0,
    };
    serve(&mut backend)?;
    println!("{} requests on {} connections", backend.requests, backend.accepted);
    Ok(())
}

/// A program on a ring whose answers may be due later.
pub(crate) trait Serves {
    /// Its ring.
    fn ring(&mut self) -> &mut Ring;

    /// An operation has ended.
    fn complete(&mut self, done: Done) -> io::Result<()>;

    /// How long until the next answer is due, where one waits.
    fn next_due(&self) -> Option<Duration>;

    /// Sends what is due.
    fn answer_due(&mut self) -> io::Result<()>;
}

/// Serves until SIGTERM or SIGINT.
pub(crate) fn serve(program: &mut impl Serves) -> io::Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    let mut batch = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let timeout = program.next_due().map_or(WAIT_MAX, |due| due.min(WAIT_MAX));
        program.ring().wait(Some(timeout), &mut batch)?;
        for done in batch.drain(..) {
            program.complete(done)?;
        }
        program.answer_due()?;
    }
    Ok(())
}

fn response(body: usize) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {body}\r\n\r\n");
    let mut response = head.into_bytes();
    response.resize(response.len() + body, b'x');
    response
}

impl Serves for Backend {
    fn ring(&mut self) -> &mut Ring {
        &mut self.ring
    }

    fn complete(&mut self, done: Done) -> io::Result<()> {
        match done {
            // Nothing can be done about a peer that failed to arrive, and running out of descriptors passes.
            Done::Accepted(socket) => socket.map_or(Ok(()), |socket| self.adopt(socket)),
            Done::Moved(index, Some(length)) if length > 0 => self.received(index, length),
            Done::Moved(index, Some(_) | None) | Done::Sent(index, None) => {
                self.close(index);
                Ok(())
            }
            Done::Sent(index, Some(length)) => self.sent(index, length),
            Done::Connected(..) => unreachable!("the backend connects nowhere"),
        }
    }

    fn answer_due(&mut self) -> io::Result<()> {
        while let Some(Reverse((due, index))) = self.due.peek().copied() {
            if due > Instant::now() {
                break;
            }
            self.due.pop();
            self.send(index)?;
        }
        Ok(())
    }

    fn next_due(&self) -> Option<Duration> {
        let Reverse((due, _)) = self.due.peek()?;
        Some(due.saturating_duration_since(Instant::now()))
    }
}

impl Backend {
    fn adopt(&mut self, socket: OwnedFd) -> io::Result<()> {
        let Some(index) = self.connections.vacant() else { return Ok(()) };
        self.ring.reserve(self.connections.len());
        self.accepted += 1;
        self.ring.recv(index, &socket)?;
        let (partial, after) = (Vec::new(), After::KeepAlive);
        self.connections.put(index, Connection { socket, partial, owed: 0, offset: 0, after });
        Ok(())
    }

    fn received(&mut self, index: usize, length: usize) -> io::Result<()> {
        let connection = &mut self.connections[index];
        connection.take(self.ring.bytes(index, length));
        self.requests += connection.owed as u64;
        if connection.partial.len() > HEAD_BYTES_MAX {
            self.close(index);
            return Ok(());
        }
        if connection.owed == 0 {
            return self.ring.recv(index, &connection.socket);
        }
        if self.latency.is_zero() {
            return self.send(index);
        }
        self.due.push(Reverse((Instant::now() + self.latency, index)));
        Ok(())
    }

    fn send(&mut self, index: usize) -> io::Result<()> {
        let connection = &self.connections[index];
        self.ring.send_static(index, &connection.socket, &self.response[connection.offset..])
    }

    fn sent(&mut self, index: usize, length: usize) -> io::Result<()> {
        let connection = &mut self.connections[index];
        connection.offset += length;
        if connection.offset == self.response.len() {
            connection.offset = 0;
            connection.owed -= 1;
        }
        match (connection.owed, connection.after) {
            (0, After::KeepAlive) => self.ring.recv(index, &connection.socket),
            (0, After::Close) => {
                self.close(index);
                Ok(())
            }
            (_, After::KeepAlive | After::Close) => self.send(index),
        }
    }

    fn close(&mut self, index: usize) {
        self.connections.free(index);
    }
}

impl Connection {
    /// Takes the bytes of one `recv`: counts the heads that end in them, keeps the rest.
    fn take(&mut self, fresh: &[u8]) {
        let joined = (!self.partial.is_empty()).then(|| [&self.partial, fresh].concat());
        let bytes = joined.as_deref().unwrap_or(fresh);
        let mut start = 0;
        for end in memchr::memmem::find_iter(bytes, b"\r\n\r\n") {
            if memchr::memmem::find(&bytes[start..end], b"onnection: close").is_some() {
                self.after = After::Close;
            }
            start = end + 4;
            self.owed += 1;
        }
        if start < bytes.len() || joined.is_some() {
            self.partial = bytes[start..].to_vec();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_counted_however_they_are_cut() {
        let requests = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nConnection: close\r\n\r\nGET";
        for size in 1..requests.len() {
            let (near, _far) = std::os::unix::net::UnixStream::pair().unwrap();
            let socket = OwnedFd::from(near);
            let mut connection =
                Connection { socket, partial: Vec::new(), owed: 0, offset: 0, after: After::KeepAlive };
            for piece in requests.chunks(size) {
                connection.take(piece);
            }
            assert_eq!(
                (connection.owed, connection.partial.as_slice()),
                (2, b"GET".as_slice()),
                "pieces of {size}"
            );
            assert!(connection.after == After::Close);
        }
    }
}
