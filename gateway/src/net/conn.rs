//! One TCP connection: at most one read and one write in flight, both started and collected by hand.
//!
//! io_uring owns a buffer while an operation runs, and a read that is dropped loses its bytes. So the operations of
//! a connection live in one future that is allocated with the connection, and the owner starts an operation
//! ([`Conn::start_read`], [`Conn::start_write`]) and collects it later ([`Conn::poll_read`], [`Conn::poll_write`]),
//! from whichever task owns the connection then. Nothing is lost when an exchange ends early, an idle upstream
//! connection keeps its read armed (so that its death is known before it is used), and a write that nobody waits for
//! costs no wake-up.
//!
//! With a thousand busy connections, the memory that a request touches for the first time is what it costs. So a
//! connection is this value and one allocation; what goes in and out of that future passes through a place of the
//! thread (`DESK`) that is always in the cache.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};

use monoio::io::{
    AsyncReadRent, AsyncWriteRent, CancelHandle, CancelableAsyncReadRent, Canceller, OwnedReadHalf,
    OwnedWriteHalf, Splitable,
};
use monoio::net::TcpStream;

use super::Buf;
use crate::sys;
use crate::sys::prefetch::Place;

/// What a finished operation hands back.
pub type Done<T> = (io::Result<T>, Buf);

/// What the owner asks of the future that holds a connection's operations.
enum Order {
    /// Read into this buffer; may be called back where there is a handle.
    Read(Buf, Option<CancelHandle>),
    /// Write all of this buffer.
    Write(Buf),
    /// Give the stream back.
    Stop,
}

/// Which of the two operations is looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    Reader,
    Writer,
}

/// The place of a thread through which owners and operations pass things on: everything is put down and taken up
/// within one poll, so that one is enough for all connections.
struct Desk {
    turn: Cell<Turn>,
    order: Cell<Option<Order>>,
    read: Cell<Option<Done<usize>>>,
    written: Cell<Option<Done<()>>>,
}

thread_local! {
    static DESK: Desk = const {
        Desk {
            turn: Cell::new(Turn::Reader),
            order: Cell::new(None),
            read: Cell::new(None),
            written: Cell::new(None),
        }
    };
}

/// The owner's next order. Registers no waker: the owner polls after each order.
fn next_order() -> impl Future<Output = Order> {
    poll_fn(|_| DESK.with(|desk| desk.order.take()).map_or(Poll::Pending, Poll::Ready))
}

/// May a read in flight be called back ([`Conn::cancel_read`])?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancel {
    /// Yes, at a small price for each read: connections that give their buffer back when idle.
    Allowed,
    /// No: upstream connections of HTTP.
    Never,
}

/// What a connection's stream is doing.
enum Stream {
    /// Nothing, and nothing is allocated for it.
    Rest(TcpStream),
    /// Reading and writing.
    Works(Pin<Box<dyn Future<Output = TcpStream>>>),
    /// Waiting until there is something to read: small, for connections that are idle.
    Watched(Pin<Box<dyn Future<Output = (io::Result<()>, TcpStream)>>>),
    /// It was given away, or lost in a panic.
    Gone,
}

/// One TCP connection.
pub struct Conn {
    stream: Stream,
    /// Of the read in flight and those that follow; none while nothing can be called back.
    canceller: Option<Canceller>,
    /// What ended in the moment it began: nothing to wait for.
    early: Option<Box<Early>>,
    peer: SocketAddr,
    fd: RawFd,
    cancel: Cancel,
    reading: bool,
    writing: bool,
    /// Requests that were counted.
    requests: u32,
}

#[derive(Default)]
struct Early {
    read: Option<Done<usize>>,
    written: Option<Done<()>>,
}

impl Conn {
    /// Takes over a connected stream.
    pub(super) fn new(stream: TcpStream, peer: SocketAddr, cancel: Cancel) -> Self {
        let fd = stream.as_raw_fd();
        Self {
            stream: Stream::Rest(stream),
            canceller: None,
            early: None,
            peer,
            fd,
            cancel,
            reading: false,
            writing: false,
            requests: 0,
        }
    }

    /// Takes over a connected socket that another thread handed over.
    ///
    /// # Errors
    /// When the runtime cannot register it.
    pub fn adopt(socket: OwnedFd, peer: SocketAddr, cancel: Cancel) -> io::Result<Self> {
        Ok(Self::new(TcpStream::from_std(std::net::TcpStream::from(socket))?, peer, cancel))
    }

    /// Takes the connection out of its place, with what is in flight. What stays there is to be dropped or overwritten.
    #[must_use]
    pub(crate) fn take(&mut self) -> Self {
        let stream = std::mem::replace(&mut self.stream, Stream::Gone);
        let (canceller, early) = (self.canceller.take(), self.early.take());
        let (reading, writing) = (std::mem::take(&mut self.reading), std::mem::take(&mut self.writing));
        let Self { peer, fd, cancel, requests, .. } = *self;
        Self { stream, canceller, early, peer, fd, cancel, reading, writing, requests }
    }

    /// Who is at the other end.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Our own address on this connection.
    ///
    /// # Errors
    /// When the kernel does not know it any more. One system call: not for every request.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        let addr = sys::fd::with_fd(self, self.fd, |fd| rustix::net::getsockname(fd))?;
        SocketAddr::try_from(addr).map_err(io::Error::from)
    }

    /// Starts a read that appends to `buf`. At most one at a time.
    pub fn start_read(&mut self, buf: Buf) {
        debug_assert!(!self.reading, "one read at a time");
        let handle = match self.cancel {
            Cancel::Allowed => Some(self.canceller.get_or_insert_with(Canceller::new).handle()),
            Cancel::Never => None,
        };
        self.reading = true;
        self.order(Turn::Reader, Order::Read(buf, handle));
        if let Some(done) = DESK.with(|desk| desk.read.take()) {
            self.early.get_or_insert_default().read = Some(done);
        }
    }

    /// Counts one more request that it has carried; how many those are.
    pub fn count_request(&mut self) -> u32 {
        self.requests = self.requests.saturating_add(1);
        self.requests
    }

    /// Is a read in flight, or finished and not yet collected?
    #[must_use]
    pub fn is_reading(&self) -> bool {
        self.reading
    }

    /// Collects the read in flight. Pending for ever when there is none.
    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Done<usize>> {
        if !self.reading {
            return Poll::Pending;
        }
        let early = self.early.as_mut().and_then(|early| early.read.take());
        let Some(done) = early.or_else(|| {
            self.turn(Turn::Reader, cx);
            DESK.with(|desk| desk.read.take())
        }) else {
            return Poll::Pending;
        };
        self.reading = false;
        Poll::Ready(done)
    }

    /// Where it lies, and what it allocated for reading and writing.
    #[must_use]
    pub fn places(&self) -> [Place; 2] {
        let work = match &self.stream {
            Stream::Works(work) => Place::of(&**work),
            Stream::Rest(_) | Stream::Watched(_) | Stream::Gone => Place::default(),
        };
        [Place::of(self), work]
    }

    /// Waits for the read in flight.
    pub async fn finish_read(&mut self) -> Done<usize> {
        poll_fn(|cx| self.poll_read(cx)).await
    }

    /// Starts to wait until there is something to read, or the end, without holding a buffer. Nothing else may be in
    /// flight; what the connection allocated for reading and writing is freed. The next read or write ends it.
    pub fn start_watch(&mut self) {
        debug_assert!(!self.reading && !self.writing, "between operations");
        self.canceller = None;
        self.early = None;
        if let Some(stream) = self.take_stream() {
            self.stream = Stream::Watched(Box::pin(watch(stream)));
        }
    }

    /// Is it watched, or readable and that not yet collected?
    #[must_use]
    pub fn is_watching(&self) -> bool {
        matches!(self.stream, Stream::Watched(_))
    }

    /// Collects the watch in flight. Pending for ever when there is none.
    pub fn poll_watch(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Stream::Watched(watch) = &mut self.stream else { return Poll::Pending };
        let (result, stream) = ready!(watch.as_mut().poll(cx));
        self.stream = Stream::Rest(stream);
        Poll::Ready(result)
    }

    /// Calls back the read in flight, if it is of the cancelable kind: it ends with `ECANCELED`, or with the bytes
    /// that came first.
    pub fn cancel_read(&mut self) {
        self.canceller = self.canceller.take().map(Canceller::cancel);
    }

    /// Starts writing all of `buf`. At most one at a time.
    pub fn start_write(&mut self, buf: Buf) {
        debug_assert!(!self.writing, "one write at a time");
        self.writing = true;
        self.order(Turn::Writer, Order::Write(buf));
        if let Some(done) = DESK.with(|desk| desk.written.take()) {
            self.early.get_or_insert_default().written = Some(done);
        }
    }

    /// Is a write in flight, or finished and not yet collected?
    #[must_use]
    pub fn is_writing(&self) -> bool {
        self.writing
    }

    /// Collects the write in flight and gives its buffer back. Pending for ever when there is none.
    pub fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Done<()>> {
        if !self.writing {
            return Poll::Pending;
        }
        let early = self.early.as_mut().and_then(|early| early.written.take());
        let Some(done) = early.or_else(|| {
            self.turn(Turn::Writer, cx);
            DESK.with(|desk| desk.written.take())
        }) else {
            return Poll::Pending;
        };
        self.writing = false;
        Poll::Ready(done)
    }

    /// Ready at once when no write is in flight; otherwise when it has ended.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.writing {
            return Poll::Ready(Ok(()));
        }
        let (result, _buf) = ready!(self.poll_write(cx));
        Poll::Ready(result)
    }

    /// Waits until no write is in flight.
    ///
    /// # Errors
    /// When the write failed: the peer is gone.
    pub async fn flush(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Sends a few bytes if the socket has room for them now. Only while no write is in flight: it would overtake it.
    ///
    /// # Errors
    /// As `send(2)`; what was not taken is lost.
    pub fn send_now(&self, bytes: &[u8]) -> io::Result<usize> {
        let flags = rustix::net::SendFlags::DONTWAIT | rustix::net::SendFlags::NOSIGNAL;
        Ok(sys::fd::with_fd(self, self.fd, |fd| rustix::net::send(fd, bytes, flags))?)
    }

    /// Its descriptor, open as long as this value lives.
    pub(super) fn raw(&self) -> RawFd {
        self.fd
    }

    /// Reads what is there, without waiting: appends to `buf`. Only while no read is in flight: it would overtake it.
    /// 0 bytes are the peer's end.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is there; else as `recv(2)`, whose error is told once and is not found again by a read.
    pub fn read_now(&mut self, buf: &mut Buf) -> io::Result<usize> {
        debug_assert!(!self.reading, "one read at a time");
        let room = buf.readroom();
        let into = &mut buf.tail_mut()[..room];
        let flags = rustix::net::RecvFlags::DONTWAIT;
        let (n, _) = sys::fd::with_fd(&self.stream, self.fd, |fd| rustix::net::recv(fd, into, flags))?;
        buf.grow(n);
        Ok(n)
    }

    /// What the socket takes for sending at once, in bytes as the kernel counts them; what is being written just now may
    /// not be counted yet. 0 when it cannot be asked. One system call: not for every request.
    #[must_use]
    pub fn send_room(&self) -> usize {
        sys::fd::send_room(self, self.fd)
    }

    /// Sends FIN behind what was written. The receiving side stays open.
    pub fn shutdown_write(&self) {
        sys::fd::shutdown(self, self.fd, rustix::net::Shutdown::Write);
    }

    /// Ends both directions at once: operations in flight complete, the owner sees the end.
    pub fn shutdown_both(&self) {
        sys::fd::shutdown(self, self.fd, rustix::net::Shutdown::Both);
    }

    /// Resets the connection now: what the peer sees is an error, never a clean end.
    ///
    /// Not by a linger time of zero: the runtime shuts its write half down when that is dropped, and the FIN would
    /// come first. To a peer that reads until the close, a FIN says that the body is complete.
    pub fn reset(&self) {
        let _ = sys::fd::with_fd(self, self.fd, |fd| rustix::net::connect_unspec(fd));
    }

    /// Takes the socket out, to hand it to another worker. `None` when an operation is in flight (then the
    /// connection is dropped: call this only between operations).
    #[must_use]
    pub fn into_socket(mut self) -> Option<OwnedFd> {
        if self.reading || self.writing {
            return None;
        }
        Some(sys::fd::own(self.take_stream()?.into_raw_fd()))
    }

    /// The stream itself, between operations.
    fn take_stream(&mut self) -> Option<TcpStream> {
        match std::mem::replace(&mut self.stream, Stream::Gone) {
            Stream::Rest(stream) => Some(stream),
            Stream::Works(mut work) => {
                let desk = |turn| DESK.with(|desk| (desk.turn.set(turn), desk.order.set(Some(Order::Stop))));
                let mut cx = Context::from_waker(Waker::noop());
                desk(Turn::Reader);
                let _ = work.as_mut().poll(&mut cx);
                desk(Turn::Writer);
                match work.as_mut().poll(&mut cx) {
                    Poll::Ready(stream) => Some(stream),
                    Poll::Pending => None,
                }
            }
            Stream::Watched(mut watch) => {
                DESK.with(|desk| desk.order.set(Some(Order::Stop)));
                match watch.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                    Poll::Ready((_, stream)) => Some(stream),
                    Poll::Pending => None,
                }
            }
            Stream::Gone => None,
        }
    }

    /// Gives an order and starts what it asks for, without asking to be woken; whoever waits for it later says so.
    fn order(&mut self, turn: Turn, order: Order) {
        if let Stream::Rest(_) | Stream::Watched(_) = self.stream
            && let Some(stream) = self.take_stream()
        {
            self.stream = Stream::Works(Box::pin(work(stream)));
        }
        DESK.with(|desk| desk.order.set(Some(order)));
        self.turn(turn, &mut Context::from_waker(Waker::noop()));
    }

    /// Lets the reader or the writer look at its operation.
    fn turn(&mut self, turn: Turn, cx: &mut Context<'_>) {
        if let Stream::Works(work) = &mut self.stream {
            sys::prefetch::prefetch(&**work);
            DESK.with(|desk| desk.turn.set(turn));
            let _pending = work.as_mut().poll(cx);
        }
    }
}

/// Waits until there is something to read, or until it is stopped.
#[expect(
    clippy::manual_async_fn,
    reason = "an `async fn` holds its argument twice: a third of what idles here"
)]
fn watch(stream: TcpStream) -> impl Future<Output = (io::Result<()>, TcpStream)> {
    async move {
        let result = {
            let (mut readable, mut stopped) = (pin!(stream.readable(false)), pin!(next_order()));
            poll_fn(|cx| match stopped.as_mut().poll(cx) {
                Poll::Ready(_) => Poll::Ready(Ok(())),
                Poll::Pending => readable.as_mut().poll(cx),
            })
            .await
        };
        (result, stream)
    }
}

/// Both directions of a connection, each polled in its turn; ends when both have stopped.
async fn work(stream: TcpStream) -> TcpStream {
    let (read_half, write_half) = stream.into_split();
    let (mut reader, mut writer) = (pin!(read(read_half)), pin!(write(write_half)));
    let mut stopped = None;
    poll_fn(|cx| {
        match DESK.with(|desk| desk.turn.get()) {
            Turn::Reader => stopped = Some(ready!(reader.as_mut().poll(cx))),
            Turn::Writer => {
                let write_half = ready!(writer.as_mut().poll(cx));
                let whole: Option<ReadHalf> = stopped.take();
                let whole = whole.and_then(|read_half| read_half.reunite(write_half).ok());
                return whole.map_or(Poll::Pending, Poll::Ready);
            }
        }
        Poll::Pending
    })
    .await
}

type ReadHalf = OwnedReadHalf<TcpStream>;
type WriteHalf = OwnedWriteHalf<TcpStream>;

async fn read(mut half: ReadHalf) -> ReadHalf {
    loop {
        let done = match next_order().await {
            Order::Read(buf, None) => half.read(buf).await,
            Order::Read(buf, Some(handle)) => half.cancelable_read(buf, handle).await,
            Order::Stop => return half,
            Order::Write(_) => unreachable!("writes are ordered in the writer's turn"),
        };
        DESK.with(|desk| desk.read.set(Some(done)));
    }
}

async fn write(mut half: WriteHalf) -> WriteHalf {
    loop {
        let mut buf = match next_order().await {
            Order::Write(buf) => buf,
            Order::Stop => return half,
            Order::Read(..) => unreachable!("reads are ordered in the reader's turn"),
        };
        let result = loop {
            if buf.is_empty() {
                break Ok(());
            }
            let (result, back) = half.write(buf).await;
            buf = back;
            match result {
                Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => buf.consume(n),
                Err(error) => break Err(error),
            }
        };
        DESK.with(|desk| desk.written.set(Some((result, buf))));
    }
}

#[cfg(test)]
mod tests;
