//! The backend's HTTP/2 side, in clear with prior knowledge: as cheap as the other one, for plain answers and for gRPC.
//!
//! It finds the ends of requests and nothing else: heads are not decoded, so that every request gets the same answer,
//! which is prepared once. It keeps the peer's connection window and gives its own back; answers that came due together
//! leave together. What it cannot do closes the connection.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::net::Shutdown;

use crate::backend::{Serves, serve};
use crate::places::Places;
use crate::ring::{Done, Ring};

/// Bytes of one DATA frame at most (RFC 9113 §6.5.2, the initial value), which an answer's body must fit into.
const FRAME_BYTES_MAX: usize = 16_384;
/// Received bytes that are given back to the peer's connection window at a time.
const WINDOW_STEP: u32 = 32_768;
/// The initial window of a connection and of a stream (RFC 9113 §6.9.2).
const WINDOW: i64 = 65_535;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEAD: usize = 9;

/// What is answered.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// 200 with a body.
    Plain,
    /// 200 with one message, the body, and `grpc-status: 0` behind it.
    Grpc,
}

/// The frames of an answer, and where their stream's number stands.
struct Prepared {
    bytes: Vec<u8>,
    numbers_at: Vec<usize>,
    /// Bytes that count for flow control.
    data: i64,
}

struct Connection {
    socket: OwnedFd,
    /// Tells a connection from a later one in the same place.
    birth: u64,
    /// A frame whose end has not arrived.
    partial: Vec<u8>,
    has_preface: bool,
    /// The stream whose request ends with its continued head.
    ends: bool,
    out: Vec<u8>,
    is_sending: bool,
    is_receiving: bool,
    is_closed: bool,
    /// What the peer takes at once, on the connection and on a new stream.
    window: i64,
    stream_window: i64,
    /// Streams whose answers wait for the window.
    owed: VecDeque<u32>,
    /// Bytes received and not yet given back.
    received: u32,
}

struct Backend {
    ring: Ring,
    answer: Prepared,
    latency: Duration,
    connections: Places<Connection>,
    /// When which stream of which connection is answered. Only with a latency; bounded by the streams that peers open.
    due: BinaryHeap<Reverse<(Instant, usize, u64, u32)>>,
    births: u64,
    requests: u64,
}

/// Serves until SIGTERM or SIGINT, then prints how many requests and connections there were.
///
/// # Errors
/// The address cannot be bound, the body does not fit into a frame, or the kernel has no io_uring.
pub(crate) fn run(listen: SocketAddr, body: usize, latency: Duration, answer: Answer) -> io::Result<()> {
    let answer = Prepared::new(body, answer)?;
    let ring = Ring::listening(listen)?;
    let (connections, due) = (Places::new(), BinaryHeap::new());
    let mut backend = Backend { ring, answer, latency, connections, due, births: 0, requests: 0 };
    serve(&mut backend)?;
    println!("{} requests on {} connections", backend.requests, backend.births);
    Ok(())
}

impl Prepared {
    fn new(body: usize, answer: Answer) -> io::Result<Self> {
        let data = match answer {
            Answer::Plain => vec![b'x'; body],
            Answer::Grpc => {
                let length = u32::try_from(body).unwrap_or(u32::MAX);
                [&[0], length.to_be_bytes().as_slice(), &vec![b'x'; body]].concat()
            }
        };
        if data.len() > FRAME_BYTES_MAX {
            return Err(io::Error::other(format!("over HTTP/2 a body fits into {FRAME_BYTES_MAX} bytes")));
        }
        let mut prepared = Self { bytes: Vec::new(), numbers_at: Vec::new(), data: WINDOW };
        prepared.data = i64::try_from(data.len()).unwrap_or(WINDOW);
        match answer {
            Answer::Plain => {
                // :status 200, content-type (31), content-length (28): literals that nobody indexes (RFC 7541 §6.2.2).
                let length = body.to_string();
                let head = [&[0x88], field(31, "text/plain").as_slice(), &field(28, &length)].concat();
                let is_empty = data.is_empty();
                prepared.frame(1, if is_empty { 0x5 } else { 0x4 }, &head);
                if !is_empty {
                    prepared.frame(0, 0x1, &data);
                }
            }
            Answer::Grpc => {
                prepared.frame(1, 0x4, &[&[0x88], field(31, "application/grpc").as_slice()].concat());
                prepared.frame(0, 0, &data);
                prepared.frame(1, 0x5, b"\x00\x0bgrpc-status\x010");
            }
        }
        Ok(prepared)
    }

    fn frame(&mut self, kind: u8, flags: u8, payload: &[u8]) {
        self.numbers_at.push(self.bytes.len() + 5);
        push_frame(&mut self.bytes, kind, flags, 0, payload);
    }

    fn append_to(&self, out: &mut Vec<u8>, stream: u32) {
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        for at in &self.numbers_at {
            out[start + at..start + at + 4].copy_from_slice(&stream.to_be_bytes());
        }
    }
}

/// A field with the name of that entry of the static table; names from 15 on take two bytes, values are short.
fn field(name: u8, value: &str) -> Vec<u8> {
    let length = u8::try_from(value.len()).expect("values are constants and lengths");
    [&[0x0f, name - 15, length], value.as_bytes()].concat()
}

fn push_frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("a frame is at most 16 KiB");
    out.extend_from_slice(&length.to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

impl Serves for Backend {
    fn ring(&mut self) -> &mut Ring {
        &mut self.ring
    }

    fn complete(&mut self, done: Done) -> io::Result<()> {
        match done {
            // Nothing can be done about a peer that failed to arrive, and running out of descriptors passes.
            Done::Accepted(socket) => socket.map_or(Ok(()), |socket| self.adopt(socket)),
            Done::Moved(slot, length) if slot % 2 == 0 => self.received(slot / 2, length),
            Done::Moved(slot, length) => self.sent(slot / 2, length),
            Done::Connected(..) | Done::Sent(..) => {
                unreachable!("the backend receives into and sends from slots")
            }
        }
    }

    fn answer_due(&mut self) -> io::Result<()> {
        let mut touched = Vec::new();
        while let Some(Reverse((at, index, birth, stream))) = self.due.peek().copied() {
            if at > Instant::now() {
                break;
            }
            self.due.pop();
            let connection = self.connections.get_mut(index).filter(|one| one.birth == birth);
            if let Some(connection) = connection {
                connection.owed.push_back(stream);
                touched.push(index);
            }
        }
        touched.dedup();
        for index in touched {
            self.pay(index);
            self.flush(index)?;
        }
        Ok(())
    }

    fn next_due(&self) -> Option<Duration> {
        let Reverse((at, ..)) = self.due.peek()?;
        Some(at.saturating_duration_since(Instant::now()))
    }
}

impl Backend {
    fn adopt(&mut self, socket: OwnedFd) -> io::Result<()> {
        let Some(index) = self.connections.vacant() else { return Ok(()) };
        self.ring.reserve(2 * self.connections.len());
        self.births += 1;
        self.ring.recv(2 * index, &socket)?;
        let mut out = Vec::new();
        push_frame(&mut out, 4, 0, 0, &[]);
        let connection = Connection {
            socket,
            birth: self.births,
            partial: Vec::new(),
            has_preface: false,
            ends: false,
            out,
            is_sending: false,
            is_receiving: true,
            is_closed: false,
            window: WINDOW,
            stream_window: WINDOW,
            owed: VecDeque::new(),
            received: 0,
        };
        self.connections.put(index, connection);
        self.flush(index)
    }

    fn received(&mut self, index: usize, length: Option<usize>) -> io::Result<()> {
        let connection = &mut self.connections[index];
        connection.is_receiving = false;
        let fresh = match length {
            Some(length) if length > 0 => self.ring.bytes(2 * index, length),
            Some(_) | None => {
                self.close(index);
                return Ok(());
            }
        };
        let mut asked = Vec::new();
        if connection.take(fresh, &mut asked).is_none() {
            self.close(index);
            return Ok(());
        }
        self.requests += asked.len() as u64;
        let birth = connection.birth;
        if self.latency.is_zero() {
            connection.owed.extend(asked);
        } else {
            let at = Instant::now() + self.latency;
            self.due.extend(asked.into_iter().map(|stream| Reverse((at, index, birth, stream))));
        }
        connection.is_receiving = true;
        self.ring.recv(2 * index, &connection.socket)?;
        self.pay(index);
        self.flush(index)
    }

    /// Makes answers of what is owed, as far as the peer's window goes.
    fn pay(&mut self, index: usize) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        while connection.window >= self.answer.data
            && let Some(stream) = connection.owed.pop_front()
        {
            connection.window -= self.answer.data;
            self.answer.append_to(&mut connection.out, stream);
        }
        if connection.stream_window < self.answer.data {
            // Its streams could never take an answer.
            self.close(index);
        }
    }

    fn flush(&mut self, index: usize) -> io::Result<()> {
        let Some(connection) = self.connections.get_mut(index) else { return Ok(()) };
        if connection.is_sending || connection.is_closed || connection.out.is_empty() {
            return Ok(());
        }
        connection.is_sending = true;
        let length = self.ring.fill(2 * index + 1, &connection.out);
        self.ring.send(2 * index + 1, &connection.socket, 0..length)
    }

    fn sent(&mut self, index: usize, length: Option<usize>) -> io::Result<()> {
        let connection = &mut self.connections[index];
        connection.is_sending = false;
        let Some(length) = length.filter(|_| !connection.is_closed) else {
            self.close(index);
            return Ok(());
        };
        connection.out.drain(..length);
        self.flush(index)
    }

    /// Ends a connection; its place is free when the kernel has let go of its buffers.
    fn close(&mut self, index: usize) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        connection.is_closed = true;
        if connection.is_receiving || connection.is_sending {
            // Wakes the other operation. Fails only when already shut down.
            let _ = rustix::net::shutdown(&connection.socket, Shutdown::Both);
            return;
        }
        self.connections.free(index);
    }
}

impl Connection {
    /// Takes the bytes of one `recv`; streams whose requests ended go to `asked`. `None`: this is no HTTP/2.
    fn take(&mut self, fresh: &[u8], asked: &mut Vec<u32>) -> Option<()> {
        let joined = (!self.partial.is_empty()).then(|| [&self.partial, fresh].concat());
        let mut bytes = joined.as_deref().unwrap_or(fresh);
        if !self.has_preface && bytes.len() >= PREFACE.len() {
            bytes = bytes.strip_prefix(PREFACE)?;
            self.has_preface = true;
        }
        while self.has_preface && bytes.len() >= FRAME_HEAD {
            let length = usize::from(bytes[0]) << 16 | usize::from(bytes[1]) << 8 | usize::from(bytes[2]);
            if length > FRAME_BYTES_MAX {
                return None;
            }
            let Some(payload) = bytes.get(FRAME_HEAD..FRAME_HEAD + length) else { break };
            let stream = u32::from_be_bytes(bytes[5..9].try_into().ok()?) & 0x7fff_ffff;
            self.frame(bytes[3], bytes[4], stream, payload, asked)?;
            bytes = &bytes[FRAME_HEAD + length..];
        }
        self.partial = bytes.to_vec();
        if self.received >= WINDOW_STEP {
            push_frame(&mut self.out, 8, 0, 0, &self.received.to_be_bytes());
            self.received = 0;
        }
        Some(())
    }

    fn frame(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: &[u8],
        asked: &mut Vec<u32>,
    ) -> Option<()> {
        let (is_last, is_whole) = (flags & 0x1 != 0, flags & 0x4 != 0);
        let number = |bytes: &[u8]| bytes.try_into().map(u32::from_be_bytes).ok();
        match kind {
            // DATA. The window of a stream is not given back: a request larger than it is not for this backend.
            0 => {
                self.received += u32::try_from(payload.len()).ok()?;
                asked.extend(is_last.then_some(stream));
            }
            // HEADERS, which CONTINUATION may follow.
            1 => {
                asked.extend((is_last && is_whole).then_some(stream));
                self.ends = is_last && !is_whole;
            }
            9 => {
                asked.extend((self.ends && is_whole).then_some(stream));
                self.ends &= !is_whole;
            }
            3 => self.owed.retain(|owed| *owed != stream),
            4 if flags & 0x1 == 0 => {
                for setting in payload.chunks_exact(6).filter(|setting| setting[..2] == [0, 4]) {
                    self.stream_window = i64::from(number(&setting[2..])?);
                }
                push_frame(&mut self.out, 4, 0x1, 0, &[]);
            }
            6 if flags & 0x1 == 0 => push_frame(&mut self.out, 6, 0x1, 0, payload),
            8 if stream == 0 => self.window += i64::from(number(payload)?),
            // PRIORITY, acknowledgements, GOAWAY, windows of streams, what is unknown (RFC 9113 §5.5).
            _ => {}
        }
        Some(())
    }
}
