//! The floor: a relay over a raw io_uring that parses nothing, allocates nothing per message and knows no timeouts.
//!
//! What it decides: nothing. Bytes of a client go to an upstream connection of its own, and back. What a gateway costs
//! above this is what it spends on HTTP, routing, pools and statistics.
//!
//! Each direction of a connection is a state machine of its own:
//! `recv -> send -> … -> recv`, and at the end of the stream `shutdown` of the other side. A pair is freed when both
//! directions have ended, so a completion never finds its buffer gone.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use rustix::net::Shutdown;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// Bytes of one direction's buffer: one TLS record, the size proxies use by default.
const BUFFER_BYTES: usize = 16 * 1024;
/// Entries of the submission queue.
const RING_ENTRIES: u32 = 4_096;
/// Entries of the completion queue: four per submission.
const CQ_ENTRIES: u32 = 16_384;
/// Pairs at once. Beyond it a new client is closed; no case opens as many.
const PAIRS_MAX: usize = 65_536;

/// `user_data` of the one accept that is always in flight; a pair's is its index above [`OP_BITS`].
const ACCEPT: u64 = u64::MAX;
/// Low bits of `user_data` that name the operation of a pair.
const OP_BITS: u32 = 2;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    ToUpstream,
    ToClient,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Op {
    Connect,
    Move(Side),
}

/// What a direction is doing: exactly one operation is in flight, unless it has ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Receiving,
    Sending { sent: usize, len: usize },
    Ended,
}

struct Direction {
    phase: Phase,
    buffer: Box<[u8; BUFFER_BYTES]>,
}

struct Pair {
    client: OwnedFd,
    upstream: OwnedFd,
    to_upstream: Direction,
    to_client: Direction,
}

struct Floor {
    ring: IoUring,
    listener: TcpListener,
    upstream: SocketAddr,
    /// Read by the kernel while a connect is in flight: must not move or die, hence boxed and never replaced.
    upstream_raw: Box<SockAddr>,
    pairs: Vec<Option<Pair>>,
    free: Vec<usize>,
}

/// Relays until killed.
///
/// # Errors
/// The address cannot be bound, or the kernel has no io_uring with the flags that Ringway's workers use.
pub(crate) fn run(listen: SocketAddr, upstream: SocketAddr) -> io::Result<()> {
    let ring = IoUring::builder()
        .setup_single_issuer()
        .setup_coop_taskrun()
        .setup_submit_all()
        .setup_cqsize(CQ_ENTRIES)
        .build(RING_ENTRIES)?;
    let listener = crate::socket::listen(listen)?;
    let upstream_raw = Box::new(SockAddr::from(upstream));
    let mut floor = Floor { ring, listener, upstream, upstream_raw, pairs: Vec::new(), free: Vec::new() };
    floor.accept()?;
    floor.serve()
}

impl Floor {
    fn serve(&mut self) -> io::Result<()> {
        // Completions are copied out before they are handled: handling needs the ring for new submissions.
        let mut batch: Vec<(u64, i32)> = Vec::with_capacity(CQ_ENTRIES as usize);
        loop {
            match self.ring.submit_and_wait(1) {
                Ok(_) => {}
                Err(why) if why.raw_os_error() == Some(libc::EINTR) => continue,
                Err(why) => return Err(why),
            }
            batch.extend(
                self.ring.completion().map(|entry: cqueue::Entry| (entry.user_data(), entry.result())),
            );
            for (user_data, result) in batch.drain(..) {
                self.complete(user_data, result)?;
            }
        }
    }

    fn complete(&mut self, user_data: u64, result: i32) -> io::Result<()> {
        if user_data == ACCEPT {
            // Nothing can be done about a connection that failed to arrive, and running out of descriptors passes.
            if let Ok(fd) = u32::try_from(result) {
                self.open(own(fd))?;
            }
            return self.accept();
        }
        let index = usize::try_from(user_data >> OP_BITS).expect("pair indexes are below PAIRS_MAX");
        let op = Op::decode(user_data);
        let length = usize::try_from(result).ok();
        let pair = self.pairs[index].as_mut().expect("a pair outlives its operations");
        match op {
            Op::Connect if length.is_some() => {
                self.start(index, Side::ToUpstream)?;
                self.start(index, Side::ToClient)
            }
            Op::Connect => {
                (pair.to_upstream.phase, pair.to_client.phase) = (Phase::Ended, Phase::Ended);
                self.close_if_ended(index);
                Ok(())
            }
            Op::Move(side) => {
                pair.advance(side, length);
                self.start(index, side)
            }
        }
    }

    /// A new client: opens its upstream connection.
    fn open(&mut self, client: OwnedFd) -> io::Result<()> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.pairs.len() < PAIRS_MAX => {
                self.pairs.push(None);
                self.pairs.len() - 1
            }
            None => return Ok(()),
        };
        let socket = Socket::new(Domain::for_address(self.upstream), Type::STREAM, Some(Protocol::TCP));
        let Ok(upstream) = socket.and_then(|socket| socket.set_tcp_nodelay(true).map(|()| socket)) else {
            // Out of descriptors: this client is dropped, those that are served go on.
            self.free.push(index);
            return Ok(());
        };
        let upstream = OwnedFd::from(upstream);
        let fd = types::Fd(upstream.as_raw_fd());
        self.pairs[index] =
            Some(Pair { client, upstream, to_upstream: Direction::new(), to_client: Direction::new() });
        let connect = opcode::Connect::new(fd, self.upstream_raw.as_ptr().cast(), self.upstream_raw.len());
        self.push(&connect.build().user_data(Op::Connect.encode(index)))
    }

    /// Submits what the direction's phase asks for; frees the pair after the last one.
    fn start(&mut self, index: usize, side: Side) -> io::Result<()> {
        let pair = self.pairs[index].as_mut().expect("a pair outlives its operations");
        let (from, to) = pair.fds(side);
        let direction = pair.direction(side);
        let entry = match direction.phase {
            Phase::Receiving => {
                let length = u32::try_from(BUFFER_BYTES).expect("a buffer is 16 KiB");
                opcode::Recv::new(types::Fd(from), direction.buffer.as_mut_ptr(), length).build()
            }
            Phase::Sending { sent, len } => {
                let rest = &direction.buffer[sent..len];
                let length = u32::try_from(rest.len()).expect("a buffer is 16 KiB");
                opcode::Send::new(types::Fd(to), rest.as_ptr(), length).flags(libc::MSG_NOSIGNAL).build()
            }
            Phase::Ended => {
                self.close_if_ended(index);
                return Ok(());
            }
        };
        self.push(&entry.user_data(Op::Move(side).encode(index)))
    }

    fn close_if_ended(&mut self, index: usize) {
        let ended =
            |pair: &Pair| pair.to_upstream.phase == Phase::Ended && pair.to_client.phase == Phase::Ended;
        if self.pairs[index].as_ref().is_some_and(ended) {
            self.pairs[index] = None;
            self.free.push(index);
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        let fd = types::Fd(self.listener.as_raw_fd());
        let accept =
            opcode::Accept::new(fd, std::ptr::null_mut(), std::ptr::null_mut()).flags(libc::SOCK_CLOEXEC);
        self.push(&accept.build().user_data(ACCEPT))
    }

    #[expect(unsafe_code, reason = "a submission hands the kernel pointers that the compiler cannot follow")]
    fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        if self.ring.submission().is_full() {
            self.ring.submit()?;
        }
        // SAFETY: the entry's pointers are null (accept), into `upstream_raw` (connect), or into a buffer of a pair
        // (recv, send). `upstream_raw` is boxed and lives as long as the ring. A buffer is boxed and its pair is
        // dropped only in `close_if_ended`, when both directions have ended: then none of its operations is in
        // flight. While one is, nothing else touches the buffer: a direction has one operation at a time. The
        // descriptors are owned by the listener and the pair, which outlive the operation for the same reasons.
        let pushed = unsafe { self.ring.submission().push(entry) };
        pushed.map_err(|_| io::Error::other("the submission queue is full right after a submit"))
    }
}

#[expect(unsafe_code, reason = "the kernel returns an accepted descriptor as a number")]
fn own(fd: u32) -> OwnedFd {
    let fd = RawFd::try_from(fd).expect("the kernel's descriptors are non-negative ints");
    // SAFETY: `fd` is the result of a completed accept: open, and known to nobody else.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

impl Op {
    fn encode(self, index: usize) -> u64 {
        let op = match self {
            Self::Connect => 0,
            Self::Move(Side::ToUpstream) => 1,
            Self::Move(Side::ToClient) => 2,
        };
        (index as u64) << OP_BITS | op
    }

    fn decode(user_data: u64) -> Self {
        match user_data & ((1 << OP_BITS) - 1) {
            0 => Self::Connect,
            1 => Self::Move(Side::ToUpstream),
            _ => Self::Move(Side::ToClient),
        }
    }
}

impl Direction {
    fn new() -> Self {
        Self { phase: Phase::Receiving, buffer: Box::new([0; BUFFER_BYTES]) }
    }
}

impl Pair {
    /// The descriptors that `side` reads from and writes to.
    fn fds(&self, side: Side) -> (RawFd, RawFd) {
        let (client, upstream) = (self.client.as_raw_fd(), self.upstream.as_raw_fd());
        match side {
            Side::ToUpstream => (client, upstream),
            Side::ToClient => (upstream, client),
        }
    }

    fn direction(&mut self, side: Side) -> &mut Direction {
        match side {
            Side::ToUpstream => &mut self.to_upstream,
            Side::ToClient => &mut self.to_client,
        }
    }

    /// The next phase, after an operation moved `length` bytes; `None` = it failed.
    fn advance(&mut self, side: Side, length: Option<usize>) {
        let phase = match (self.direction(side).phase, length) {
            (Phase::Receiving, Some(len)) if len > 0 => Phase::Sending { sent: 0, len },
            (Phase::Receiving, Some(_)) => {
                // The stream's end goes to the other side; the other direction may still have much to say.
                let to = match side {
                    Side::ToUpstream => &self.upstream,
                    Side::ToClient => &self.client,
                };
                // Fails only when the peer is gone already, which the other direction will notice.
                let _ = rustix::net::shutdown(to, Shutdown::Write);
                Phase::Ended
            }
            (Phase::Sending { sent, len }, Some(more)) if sent + more < len => {
                Phase::Sending { sent: sent + more, len }
            }
            (Phase::Sending { .. }, Some(_)) => Phase::Receiving,
            (Phase::Receiving | Phase::Sending { .. } | Phase::Ended, None) | (Phase::Ended, Some(_)) => {
                // Wakes the other direction's operation, which then ends, too. Fails only when already shut down.
                let _ = rustix::net::shutdown(&self.client, Shutdown::Both);
                let _ = rustix::net::shutdown(&self.upstream, Shutdown::Both);
                Phase::Ended
            }
        };
        self.direction(side).phase = phase;
    }
}
