//! A small real HTTP backend: names its cluster and endpoint, can be slow, can be killed and come back.
//!
//! One thread, epoll. Requests of any method and path, with or without a body, are answered 200 with JSON and the
//! headers `x-cluster` and `x-endpoint`, in their order, after a latency drawn for each.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};

use crate::message::{Kind, Progress, Reader};

/// Connections that the kernel queues.
const BACKLOG: i32 = 1_024;
/// Connections at once; beyond it new ones are closed.
const CONNECTIONS_MAX: usize = 10_000;
/// Requests of one connection without an answer; beyond it nothing more is read from it.
const PIPELINE_MAX: usize = 64;
const EVENTS_MAX: usize = 256;
const READ_BYTES: usize = 64 * 1024;
/// Commands wait for the thread one at a time.
const COMMANDS_MAX: usize = 1;
/// How long a command may take: the thread is never busy for long.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(5);

const LISTENER: u64 = u64::MAX;
const WAKE: u64 = u64::MAX - 1;

/// Who the backend is and how fast it answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendOptions {
    /// The value of `x-cluster`.
    pub cluster: String,
    /// The value of `x-endpoint`.
    pub endpoint: String,
    /// How long an answer takes.
    pub latency: Latency,
}

/// How long an answer takes: drawn for each request, evenly between two bounds; a share of them from slower bounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// Shortest and longest of the usual answers. Both zero: at once.
    pub usual: (Duration, Duration),
    /// Shortest and longest of the slow answers.
    pub slow: (Duration, Duration),
    /// How many of a thousand answers are slow; at most 1,000.
    pub slow_permille: u16,
}

/// A running backend. Dropping it kills it and joins its thread.
#[derive(Debug)]
pub struct Backend {
    addr: SocketAddr,
    commands: SyncSender<(Command, SyncSender<io::Result<()>>)>,
    wake: Arc<OwnedFd>,
    requests: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Clone, Copy, Debug)]
enum Command {
    Kill,
    Restart,
    SetLatency(Latency),
}

impl Latency {
    /// Always the same.
    #[must_use]
    pub fn fixed(latency: Duration) -> Self {
        Self { usual: (latency, latency), slow: (latency, latency), slow_permille: 0 }
    }

    /// A usual service: 99 % in 1 to 3 ms, 1 % in 20 to 40 ms.
    #[must_use]
    pub fn service() -> Self {
        let millis = |from, to| (Duration::from_millis(from), Duration::from_millis(to));
        Self { usual: millis(1, 3), slow: millis(20, 40), slow_permille: 10 }
    }

    fn draw(&self, random: &mut Random) -> Duration {
        let is_slow = random.below(1_000) < u64::from(self.slow_permille);
        let (from, to) = if is_slow { self.slow } else { self.usual };
        let spread = u64::try_from(to.saturating_sub(from).as_nanos()).unwrap_or(u64::MAX - 1);
        from + Duration::from_nanos(random.below(spread + 1))
    }
}

impl Backend {
    /// Listens on `addr` (port 0: the kernel chooses, see [`Self::addr`]) and serves on a thread of its own.
    ///
    /// # Errors
    /// The address cannot be bound, or the thread cannot be started.
    pub fn start(addr: SocketAddr, options: BackendOptions) -> io::Result<Self> {
        let listener = listen(addr)?;
        let addr = listener.local_addr()?;
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (commands, inbox) = sync_channel(COMMANDS_MAX);
        let requests = Arc::new(AtomicU64::new(0));
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &*wake, epoll::EventData::new_u64(WAKE), epoll::EventFlags::IN)?;
        let mut server = Server {
            addr,
            options,
            epoll,
            wake: Arc::clone(&wake),
            inbox,
            listener: None,
            connections: Vec::new(),
            free: Vec::new(),
            due: BinaryHeap::new(),
            births: 0,
            random: Random(u64::from(addr.port()) | 1 << 32),
            requests: Arc::clone(&requests),
        };
        server.adopt(listener)?;
        let name = format!("backend-{}", addr.port());
        let thread = std::thread::Builder::new().name(name).spawn(move || server.serve())?;
        Ok(Self { addr, commands, wake, requests, thread: Some(thread) })
    }

    /// Where it listens, or listened before it was killed.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Requests received so far, all lives together.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Closes the listener and resets every connection, as when a process is killed: when this returns, connecting is
    /// refused. Killing twice is no error.
    ///
    /// # Errors
    /// The thread does not answer.
    pub fn kill(&self) -> io::Result<()> {
        self.command(Command::Kill)
    }

    /// Listens again on the same address; no error when it does already.
    ///
    /// # Errors
    /// The address has been taken meanwhile, or the thread does not answer.
    pub fn restart(&self) -> io::Result<()> {
        self.command(Command::Restart)
    }

    /// Changes the latency of requests that arrive from now on.
    ///
    /// # Errors
    /// The thread does not answer.
    pub fn set_latency(&self, latency: Latency) -> io::Result<()> {
        self.command(Command::SetLatency(latency))
    }

    fn command(&self, command: Command) -> io::Result<()> {
        let gone = |_| io::Error::other("the backend's thread has ended");
        let (reply, result) = sync_channel(1);
        self.commands.send((command, reply)).map_err(|_| gone(()))?;
        rustix::io::write(&self.wake, &1_u64.to_ne_bytes())?;
        result.recv_timeout(COMMAND_TIMEOUT).map_err(|_| gone(()))?
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        // The thread ends when the channel is closed; the eventfd makes it look.
        let (closed, _) = sync_channel(COMMANDS_MAX);
        drop(std::mem::replace(&mut self.commands, closed));
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed by its hook.
            let _ = thread.join();
        }
    }
}

fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let family = if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    // So that a restart finds its address free.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    // Inherited by accepted sockets.
    sockopt::set_tcp_nodelay(&socket, true)?;
    rustix::net::bind(&socket, &addr)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

struct Server {
    addr: SocketAddr,
    options: BackendOptions,
    epoll: OwnedFd,
    wake: Arc<OwnedFd>,
    inbox: Receiver<(Command, SyncSender<io::Result<()>>)>,
    listener: Option<TcpListener>,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    /// When which connection has something to send. At most one entry per unanswered request.
    due: BinaryHeap<Reverse<(Instant, usize, u64)>>,
    births: u64,
    random: Random,
    requests: Arc<AtomicU64>,
}

struct Connection {
    socket: TcpStream,
    birth: u64,
    reader: Reader,
    /// Bytes that were read and belong to requests beyond [`PIPELINE_MAX`].
    backlog: Vec<u8>,
    /// When each unanswered request is answered, in their order.
    answers: VecDeque<(Instant, Last)>,
    out: Vec<u8>,
    /// What epoll watches for.
    interest: epoll::EventFlags,
    last: Last,
}

/// Whether the connection is closed after an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    Yes,
    No,
}

enum Fate {
    Open,
    Closed,
}

impl Server {
    fn serve(&mut self) {
        let mut events: Vec<epoll::Event> = Vec::with_capacity(EVENTS_MAX);
        let mut buffer = vec![0; READ_BYTES];
        loop {
            events.clear();
            let timeout = self.next_due();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(why) => panic!("epoll_wait on our own descriptors: {why}"),
            }
            for event in &events {
                match event.data.u64() {
                    LISTENER => self.accept(),
                    WAKE => {
                        let mut count = [0; 8];
                        // Nonblocking: an earlier round may have emptied it.
                        let _ = rustix::io::read(&self.wake, &mut count);
                    }
                    token => self.ready(usize::try_from(token).expect("tokens are slots"), &mut buffer),
                }
            }
            self.answer_due();
            match self.inbox.try_recv() {
                Ok((command, reply)) => {
                    // Nobody waits for the reply any more only when the caller has given up.
                    let _ = reply.send(self.obey(command));
                }
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => return self.kill(),
            }
        }
    }

    fn obey(&mut self, command: Command) -> io::Result<()> {
        match command {
            Command::Kill => self.kill(),
            Command::Restart if self.listener.is_some() => {}
            Command::Restart => {
                let listener = listen(self.addr)?;
                self.adopt(listener)?;
            }
            Command::SetLatency(latency) => self.options.latency = latency,
        }
        Ok(())
    }

    fn adopt(&mut self, listener: TcpListener) -> io::Result<()> {
        epoll::add(&self.epoll, &listener, epoll::EventData::new_u64(LISTENER), epoll::EventFlags::IN)?;
        self.listener = Some(listener);
        Ok(())
    }

    fn kill(&mut self) {
        self.listener = None;
        for connection in self.connections.drain(..).flatten() {
            // Lingering for zero seconds makes close a reset, as the death of a process with unread data does.
            let _ = sockopt::set_socket_linger(&connection.socket, Some(Duration::ZERO));
        }
        self.free.clear();
        self.due.clear();
    }

    fn accept(&mut self) {
        while let Some(listener) = &self.listener {
            let Ok((socket, _)) = listener.accept() else { return };
            let slot = match self.free.pop() {
                Some(slot) => slot,
                None if self.connections.len() < CONNECTIONS_MAX => {
                    self.connections.push(None);
                    self.connections.len() - 1
                }
                None => continue,
            };
            let interest = epoll::EventFlags::IN;
            let data = epoll::EventData::new_u64(slot as u64);
            if socket.set_nonblocking(true).is_err()
                || epoll::add(&self.epoll, &socket, data, interest).is_err()
            {
                self.free.push(slot);
                continue;
            }
            self.births += 1;
            self.connections[slot] = Some(Connection {
                socket,
                birth: self.births,
                reader: Reader::new(Kind::Request, None),
                backlog: Vec::new(),
                answers: VecDeque::new(),
                out: Vec::new(),
                interest,
                last: Last::No,
            });
        }
    }

    fn ready(&mut self, slot: usize, buffer: &mut [u8]) {
        // It may have been closed by an earlier event of the same batch.
        let Some(connection) = self.connections.get_mut(slot).and_then(Option::as_mut) else { return };
        let mut fate = connection.flush();
        if let Fate::Open = fate
            && connection.interest.contains(epoll::EventFlags::IN)
        {
            match connection.socket.read(buffer) {
                Ok(0) => fate = Fate::Closed,
                Ok(length) => {
                    connection.backlog.extend_from_slice(&buffer[..length]);
                    fate = self.requests_of(slot);
                }
                Err(why) if why.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => fate = Fate::Closed,
            }
        }
        self.settle(slot, &fate);
    }

    /// Takes the requests out of what was read, as many as may wait.
    fn requests_of(&mut self, slot: usize) -> Fate {
        let Some(connection) = self.connections[slot].as_mut() else { return Fate::Closed };
        let mut at = 0;
        while at < connection.backlog.len() && connection.answers.len() < PIPELINE_MAX {
            match connection.reader.feed(&connection.backlog[at..]) {
                Ok(Progress::More) => at = connection.backlog.len(),
                Ok(Progress::Done(length)) => {
                    at += length;
                    self.requests.fetch_add(1, Ordering::Relaxed);
                    let earliest = connection.answers.back().map(|(due, _)| *due);
                    let drawn = Instant::now() + self.options.latency.draw(&mut self.random);
                    // Answers keep the order of their requests.
                    let due = earliest.map_or(drawn, |earliest| earliest.max(drawn));
                    let last = if connection.reader.info.last { Last::Yes } else { Last::No };
                    connection.answers.push_back((due, last));
                    self.due.push(Reverse((due, slot, connection.birth)));
                }
                Err(_) => return Fate::Closed,
            }
        }
        connection.backlog.drain(..at);
        Fate::Open
    }

    fn answer_due(&mut self) {
        while let Some(Reverse((due, slot, birth))) = self.due.peek().copied() {
            let now = Instant::now();
            if due > now {
                return;
            }
            self.due.pop();
            let connection = self.connections.get_mut(slot).and_then(Option::as_mut);
            let Some(connection) = connection.filter(|connection| connection.birth == birth) else {
                continue;
            };
            while let Some((_, last)) = connection.answers.front().copied().filter(|(due, _)| *due <= now) {
                connection.answers.pop_front();
                connection.last = last;
                connection.out.extend_from_slice(&answer(&self.options));
            }
            let mut fate = connection.flush();
            if let Fate::Open = fate {
                fate = self.requests_of(slot);
            }
            self.settle(slot, &fate);
        }
    }

    /// Closes the connection, or watches for what it waits for now.
    fn settle(&mut self, slot: usize, fate: &Fate) {
        let Some(connection) = self.connections[slot].as_mut() else { return };
        let mut wanted = epoll::EventFlags::empty();
        wanted.set(epoll::EventFlags::IN, connection.answers.len() < PIPELINE_MAX);
        wanted.set(epoll::EventFlags::OUT, !connection.out.is_empty());
        let data = epoll::EventData::new_u64(slot as u64);
        let watched = wanted == connection.interest
            || epoll::modify(&self.epoll, &connection.socket, data, wanted).is_ok();
        connection.interest = wanted;
        match fate {
            Fate::Open if watched => {}
            Fate::Open | Fate::Closed => {
                // Closing the descriptor takes it out of the epoll set.
                self.connections[slot] = None;
                self.free.push(slot);
            }
        }
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
    fn flush(&mut self) -> Fate {
        while !self.out.is_empty() {
            match self.socket.write(&self.out) {
                Ok(length) => drop(self.out.drain(..length)),
                Err(why) if why.kind() == io::ErrorKind::WouldBlock => return Fate::Open,
                Err(_) => return Fate::Closed,
            }
        }
        match self.last {
            Last::Yes => Fate::Closed,
            Last::No => Fate::Open,
        }
    }
}

fn answer(options: &BackendOptions) -> Vec<u8> {
    let BackendOptions { cluster, endpoint, latency: _ } = options;
    let body = format!("{{\"cluster\":{},\"endpoint\":{}}}\n", quoted(cluster), quoted(endpoint));
    let (cluster, endpoint) = (clean(cluster), clean(endpoint));
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nx-cluster: {cluster}\r\n\
         x-endpoint: {endpoint}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// A JSON string; control characters are left out, names have none.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in clean(text).chars() {
        if c == '"' || c == '\\' {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    quoted
}

fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

/// SplitMix64: latencies need to be spread, not to be secret.
struct Random(u64);

impl Random {
    /// Evenly from 0 to `bound` - 1; 0 when `bound` is 0.
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let wide = u128::from(z ^ (z >> 31)) * u128::from(bound);
        u64::try_from(wide >> 64).expect("the upper half of 128 bits")
    }
}
