//! A small real HTTP backend: names its cluster and endpoint, can be slow, can be killed and come back.
//!
//! One thread, epoll. Requests of any method and path, with or without a body, are answered as its [`Behaviour`]
//! says, with the headers `x-cluster` and `x-endpoint`, in their order, after a latency drawn for each.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};

use crate::answer::{Answer, Last, Name};
use crate::behaviour::{Behaviour, Latency, Random};
use crate::journal::{Execution, Journal, now};
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

/// A running backend. Dropping it kills it and joins its thread.
#[derive(Debug)]
pub struct Backend {
    addr: SocketAddr,
    commands: SyncSender<(Command, SyncSender<io::Result<()>>)>,
    wake: Arc<OwnedFd>,
    counts: Arc<Counts>,
    thread: Option<JoinHandle<()>>,
}

/// What is counted for others to read.
#[derive(Debug, Default)]
struct Counts {
    requests: AtomicU64,
    connections: AtomicU64,
    journal_errors: AtomicU64,
}

#[derive(Clone, Debug)]
enum Command {
    Kill,
    Restart,
    Drain,
    SetLatency(Latency),
    SetBehaviour(Box<Behaviour>),
}

impl Backend {
    /// Listens on `addr` (port 0: the kernel chooses, see [`Self::addr`]) and serves on a thread of its own.
    ///
    /// # Errors
    /// The address cannot be bound, or the thread cannot be started.
    pub fn start(addr: SocketAddr, options: BackendOptions) -> io::Result<Self> {
        let behaviour = Behaviour::steady(options.latency);
        Self::start_as(addr, &options, behaviour, None)
    }

    /// As [`Self::start`], with a behaviour of its own (`options.latency` is not used) and a journal.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_as(
        addr: SocketAddr,
        options: &BackendOptions,
        behaviour: Behaviour,
        journal: Option<Journal>,
    ) -> io::Result<Self> {
        let listener = listen(addr)?;
        let addr = listener.local_addr()?;
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (commands, inbox) = sync_channel(COMMANDS_MAX);
        let counts = Arc::new(Counts::default());
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &*wake, epoll::EventData::new_u64(WAKE), epoll::EventFlags::IN)?;
        let mut server = Server {
            addr,
            name: Name::new(&options.cluster, &options.endpoint),
            behaviour,
            journal,
            phase: Phase::Serving,
            epoll,
            wake: Arc::clone(&wake),
            inbox,
            listener: None,
            connections: Vec::new(),
            free: Vec::new(),
            due: BinaryHeap::new(),
            births: 0,
            random: Random(seed(addr)),
            counts: Arc::clone(&counts),
        };
        server.adopt(listener)?;
        let name = format!("backend-{}", addr.port());
        let thread = std::thread::Builder::new().name(name).spawn(move || server.serve())?;
        Ok(Self { addr, commands, wake, counts, thread: Some(thread) })
    }

    /// Where it listens, or listened before it was killed.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Requests received so far, all lives together.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.counts.requests.load(Ordering::Relaxed)
    }

    /// Connections that are open now.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.counts.connections.load(Ordering::Relaxed)
    }

    /// Executions that could not be written to the journal.
    #[must_use]
    pub fn journal_errors(&self) -> u64 {
        self.counts.journal_errors.load(Ordering::Relaxed)
    }

    /// Ends gracefully, as a pod does that is told to: listens no more, closes idle connections, finishes what it has
    /// begun with `Connection: close`. Returns at once; it is over when [`Self::connections`] is 0.
    ///
    /// # Errors
    /// The thread does not answer.
    pub fn drain(&self) -> io::Result<()> {
        self.command(Command::Drain)
    }

    /// Changes how requests are answered that arrive from now on.
    ///
    /// # Errors
    /// The thread does not answer.
    pub fn set_behaviour(&self, behaviour: Behaviour) -> io::Result<()> {
        self.command(Command::SetBehaviour(Box::new(behaviour)))
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

/// The same address draws the same latencies, run after run.
fn seed(addr: SocketAddr) -> u64 {
    let host = match addr.ip() {
        IpAddr::V4(ip) => u64::from(ip.to_bits()),
        IpAddr::V6(ip) => ip.segments().iter().fold(0, |seed, part| seed << 8 ^ u64::from(*part)),
    };
    host << 16 ^ u64::from(addr.port())
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
    name: Name,
    behaviour: Behaviour,
    journal: Option<Journal>,
    phase: Phase,
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
    counts: Arc<Counts>,
}

/// Whether new work is taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Serving,
    Draining,
}

struct Connection {
    socket: TcpStream,
    birth: u64,
    reader: Reader,
    /// Bytes that were read and belong to requests beyond [`PIPELINE_MAX`].
    backlog: Vec<u8>,
    /// What each unanswered request is answered, in their order.
    answers: VecDeque<Answer>,
    out: Vec<u8>,
    /// What epoll watches for.
    interest: epoll::EventFlags,
    last: Last,
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
                self.phase = Phase::Serving;
            }
            Command::Drain => self.drain(),
            Command::SetLatency(latency) => self.behaviour.latency = latency,
            Command::SetBehaviour(behaviour) => self.behaviour = *behaviour,
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
        self.counts.connections.store(0, Ordering::Relaxed);
    }

    fn drain(&mut self) {
        self.phase = Phase::Draining;
        self.listener = None;
        for slot in 0..self.connections.len() {
            if let Some(connection) = &mut self.connections[slot] {
                if connection.answers.is_empty() && connection.out.is_empty() {
                    self.close(slot);
                } else {
                    // The last one that is owed says so.
                    connection.answers.back_mut().into_iter().for_each(|answer| answer.last = Last::Yes);
                }
            }
        }
    }

    fn close(&mut self, slot: usize) {
        // Closing the descriptor takes it out of the epoll set.
        self.connections[slot] = None;
        self.free.push(slot);
        self.counts.connections.fetch_sub(1, Ordering::Relaxed);
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
            self.counts.connections.fetch_add(1, Ordering::Relaxed);
            let header = self.journal.as_ref().map(Journal::header);
            self.connections[slot] = Some(Connection {
                socket,
                birth: self.births,
                reader: Reader::new(Kind::Request, header),
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
                    let info = std::mem::take(&mut connection.reader.info);
                    let is_last = info.last || self.phase == Phase::Draining;
                    let last = if is_last { Last::Yes } else { Last::No };
                    let earliest = connection.answers.back().map(|answer| answer.due);
                    let now_is = Instant::now();
                    let health = self.behaviour.health.as_ref().filter(|health| health.path == info.target);
                    let mut answer = if let Some(health) = health {
                        Answer::health(health.status, now_is, last)
                    } else {
                        self.counts.requests.fetch_add(1, Ordering::Relaxed);
                        let number = info.value.and_then(|value| value.parse().ok());
                        let drawn = self.behaviour.draw(&mut self.random);
                        if let (Some(journal), Some(number)) = (&mut self.journal, number)
                            && journal.write(Execution { number, at: now(), drawn }).is_err()
                        {
                            self.counts.journal_errors.fetch_add(1, Ordering::Relaxed);
                        }
                        let due = now_is + drawn + self.behaviour.extra;
                        Answer::service(&self.behaviour, number, due, last)
                    };
                    // Answers keep the order of their requests.
                    answer.due = earliest.map_or(answer.due, |earliest| earliest.max(answer.due));
                    self.due.push(Reverse((answer.due, slot, connection.birth)));
                    connection.answers.push_back(answer);
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
            while let Some(answer) = connection.answers.front_mut().filter(|answer| answer.due <= now) {
                if let Some(pause) = answer.next_piece(&self.name, &mut connection.out) {
                    answer.due = now + pause;
                    self.due.push(Reverse((answer.due, slot, birth)));
                } else {
                    connection.last = answer.last;
                    connection.answers.pop_front();
                }
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
            Fate::Open | Fate::Closed => self.close(slot),
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
