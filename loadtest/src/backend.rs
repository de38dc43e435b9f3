//! A backend that is cheap enough never to be the bottleneck: one thread, epoll, one prepared response.
//!
//! It finds the ends of request heads and nothing else: requests must have no body (GET, HEAD is answered like GET).
//! Keep-alive, pipelining and `Connection: close` are honoured.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use rustix::fd::OwnedFd;

/// Events taken per system call: more than a wakeup brings with 1,000 connections.
const EVENTS_MAX: usize = 1_024;
/// Bytes read at once; also the longest request head.
const READ_BYTES: usize = 64 * 1024;
/// Pipelined requests that one connection may have unanswered; beyond it the connection is closed.
const OWED_MAX: u32 = 65_536;
/// Reads whose responses wait for their latency, all connections together; beyond it connections are closed.
const DUE_MAX: usize = 1 << 20;
/// Where the listener stands among the epoll tokens; connections are their index.
const LISTENER: u64 = u64::MAX;

struct Connection {
    socket: TcpStream,
    /// The beginning of a head whose end has not arrived.
    partial: Vec<u8>,
    /// Responses to be sent, the one at `offset` among them.
    owed: u32,
    /// Bytes of the first owed response that are sent.
    offset: usize,
    /// What epoll watches for.
    interest: Interest,
    /// The client asked for the connection to be closed after the last owed response.
    last: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Interest {
    Read,
    Write,
}

enum Fate {
    Open,
    Closed,
}

struct Backend {
    epoll: OwnedFd,
    listener: TcpListener,
    response: Vec<u8>,
    latency: Duration,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    /// When to write what is owed: due time, connection, and how many responses. Only with a latency.
    due: BinaryHeap<Reverse<(Instant, usize, u32, u64)>>,
    /// Tells a connection from a later one with the same index in `due`.
    births: Vec<u64>,
    accepted: u64,
    requests: u64,
}

/// Serves until SIGTERM or SIGINT, then prints how many requests and connections there were.
///
/// # Errors
/// The address cannot be bound, or epoll fails.
pub(crate) fn run(listen: SocketAddr, body: usize, latency: Duration) -> io::Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    let listener = crate::socket::listen(listen)?;
    listener.set_nonblocking(true)?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &listener, epoll::EventData::new_u64(LISTENER), epoll::EventFlags::IN)?;
    let mut backend = Backend {
        epoll,
        listener,
        response: response(body),
        latency,
        connections: Vec::new(),
        free: Vec::new(),
        due: BinaryHeap::new(),
        births: Vec::new(),
        accepted: 0,
        requests: 0,
    };
    backend.serve(&stop)?;
    println!("{} requests on {} connections", backend.requests, backend.accepted);
    Ok(())
}

fn response(body: usize) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {body}\r\n\r\n");
    let mut response = head.into_bytes();
    response.resize(response.len() + body, b'x');
    response
}

impl Backend {
    fn serve(&mut self, stop: &AtomicBool) -> io::Result<()> {
        let mut events: Vec<epoll::Event> = Vec::with_capacity(EVENTS_MAX);
        let mut buffer = vec![0; READ_BYTES];
        while !stop.load(Ordering::Relaxed) {
            events.clear();
            let timeout = self.next_due();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(why) => return Err(why.into()),
            }
            for event in &events {
                let token = event.data.u64();
                if token == LISTENER {
                    self.accept()?;
                } else {
                    let index = usize::try_from(token).expect("tokens are indexes");
                    self.ready(index, &mut buffer)?;
                }
            }
            self.answer_due()?;
        }
        Ok(())
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            let socket = match self.listener.accept() {
                Ok((socket, _)) => socket,
                Err(why) if why.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // The client has gone again, or descriptors have run out: the others go on.
                Err(_) => return Ok(()),
            };
            socket.set_nonblocking(true)?;
            let index = self.free.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.births.push(0);
                self.connections.len() - 1
            });
            self.accepted += 1;
            self.births[index] = self.accepted;
            epoll::add(&self.epoll, &socket, epoll::EventData::new_u64(index as u64), epoll::EventFlags::IN)?;
            self.connections[index] = Some(Connection {
                socket,
                partial: Vec::new(),
                owed: 0,
                offset: 0,
                interest: Interest::Read,
                last: false,
            });
        }
    }

    fn ready(&mut self, index: usize, buffer: &mut [u8]) -> io::Result<()> {
        // The connection may have been closed by an earlier event of the same batch.
        let Some(connection) = self.connections[index].as_mut() else { return Ok(()) };
        let fate = match connection.interest {
            Interest::Write => connection.write(&self.response),
            Interest::Read => match connection.read(buffer) {
                Some(0) => Fate::Open,
                None => Fate::Closed,
                Some(asked) if self.latency.is_zero() => {
                    self.requests += u64::from(asked);
                    connection.owed += asked;
                    connection.write(&self.response)
                }
                Some(_) if self.due.len() >= DUE_MAX => Fate::Closed,
                Some(asked) => {
                    self.requests += u64::from(asked);
                    let due = Instant::now() + self.latency;
                    self.due.push(Reverse((due, index, asked, self.births[index])));
                    Fate::Open
                }
            },
        };
        self.settle(index, &fate)
    }

    fn answer_due(&mut self) -> io::Result<()> {
        if self.due.is_empty() {
            return Ok(());
        }
        let now = Instant::now();
        while let Some(Reverse((due, index, asked, birth))) = self.due.peek().copied() {
            if due > now {
                break;
            }
            self.due.pop();
            if self.births[index] != birth {
                continue;
            }
            let Some(connection) = self.connections[index].as_mut() else { continue };
            connection.owed += asked;
            let fate = connection.write(&self.response);
            self.settle(index, &fate)?;
        }
        Ok(())
    }

    /// Watches for what the connection waits for now, or closes it.
    fn settle(&mut self, index: usize, fate: &Fate) -> io::Result<()> {
        let Some(connection) = self.connections[index].as_mut() else { return Ok(()) };
        match fate {
            Fate::Closed => {
                // Closing the descriptor takes it out of the epoll set.
                self.connections[index] = None;
                self.free.push(index);
            }
            Fate::Open => {
                let wanted = if connection.owed == 0 { Interest::Read } else { Interest::Write };
                if wanted != connection.interest {
                    connection.interest = wanted;
                    let flags = match wanted {
                        Interest::Read => epoll::EventFlags::IN,
                        Interest::Write => epoll::EventFlags::OUT,
                    };
                    let data = epoll::EventData::new_u64(index as u64);
                    epoll::modify(&self.epoll, &connection.socket, data, flags)?;
                }
            }
        }
        Ok(())
    }

    fn next_due(&self) -> Option<Timespec> {
        let Reverse((due, ..)) = self.due.peek()?;
        let wait = due.saturating_duration_since(Instant::now());
        Some(Timespec {
            tv_sec: i64::try_from(wait.as_secs()).ok()?,
            tv_nsec: i64::from(wait.subsec_nanos()),
        })
    }
}

impl Connection {
    /// Reads once; how many heads ended, or `None` when the connection is over.
    fn read(&mut self, buffer: &mut [u8]) -> Option<u32> {
        let length = match self.socket.read(buffer) {
            Ok(0) => return None,
            Ok(length) => length,
            Err(why) if why.kind() == io::ErrorKind::WouldBlock => return Some(0),
            Err(_) => return None,
        };
        let fresh = &buffer[..length];
        let asked = if self.partial.is_empty() {
            let (asked, rest) = self.count(fresh);
            self.partial.extend_from_slice(&fresh[rest..]);
            asked
        } else {
            let mut all = std::mem::take(&mut self.partial);
            all.extend_from_slice(fresh);
            let (asked, rest) = self.count(&all);
            all.drain(..rest);
            self.partial = all;
            asked
        };
        (self.partial.len() <= READ_BYTES && self.owed.saturating_add(asked) <= OWED_MAX).then_some(asked)
    }

    /// How many heads end in `bytes`, and where the rest begins.
    fn count(&mut self, bytes: &[u8]) -> (u32, usize) {
        let (mut asked, mut start) = (0, 0);
        while let Some(end) = memchr::memmem::find(&bytes[start..], b"\r\n\r\n") {
            self.last |= memchr::memmem::find(&bytes[start..start + end], b"onnection: close").is_some();
            start += end + 4;
            asked += 1;
        }
        (asked, start)
    }

    /// Writes what is owed until it is done or the socket is full.
    fn write(&mut self, response: &[u8]) -> Fate {
        while self.owed > 0 {
            match self.socket.write(&response[self.offset..]) {
                Ok(length) => self.offset += length,
                Err(why) if why.kind() == io::ErrorKind::WouldBlock => return Fate::Open,
                Err(_) => return Fate::Closed,
            }
            if self.offset == response.len() {
                self.offset = 0;
                self.owed -= 1;
            }
        }
        if self.last { Fate::Closed } else { Fate::Open }
    }
}
