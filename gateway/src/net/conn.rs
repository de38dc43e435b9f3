//! One TCP connection: at most one read and one write in flight, both started and collected by hand.
//!
//! io_uring owns a buffer while an operation runs, and a read that is dropped loses its bytes. So the operations of
//! a connection live in two small futures that are allocated once per connection, and the owner starts an
//! operation ([`Conn::start_read`], [`Conn::start_write`]) and collects it later ([`Conn::poll_read`],
//! [`Conn::poll_write`]), from whichever task owns the connection then. Nothing is lost when an exchange ends
//! early, an idle upstream connection keeps its read armed (so that its death is known before it is used), and a
//! write that nobody waits for costs no wake-up.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use monoio::io::{
    AsyncReadRent, AsyncWriteRent, CancelableAsyncReadRent, Canceller, OwnedReadHalf, OwnedWriteHalf,
    Splitable,
};
use monoio::net::TcpStream;

use super::Buf;
use crate::sys;

/// Runs until told to stop, then gives its half of the stream back.
type Engine<H> = Pin<Box<dyn Future<Output = H>>>;
type ReadHalf = OwnedReadHalf<TcpStream>;
type WriteHalf = OwnedWriteHalf<TcpStream>;

/// What a finished operation hands back.
pub type Done<T> = (io::Result<T>, Buf);

/// What the owner asks of the reading side.
enum ReadOrder {
    /// Read into this buffer.
    Read(Buf),
    /// Only wait until there is something to read.
    Watch,
    /// Give the half of the stream back.
    Stop,
}

/// One direction of a connection, seen from outside its engine.
struct Port<O, D> {
    order: Cell<Option<O>>,
    done: Cell<Option<D>>,
    busy: Cell<bool>,
}

impl<O, D> Port<O, D> {
    fn new() -> Self {
        Self { order: Cell::new(None), done: Cell::new(None), busy: Cell::new(false) }
    }

    /// The owner's next order. Registers no waker: the owner polls the engine after each order.
    fn next(&self) -> impl Future<Output = O> + '_ {
        poll_fn(|_| self.order.take().map_or(Poll::Pending, Poll::Ready))
    }
}

/// What the owner and the two engines of a connection share: one allocation.
struct Desk {
    reads: Port<ReadOrder, (io::Result<usize>, Option<Buf>)>,
    writes: Port<Option<Buf>, Done<()>>,
    canceller: RefCell<Canceller>,
}

/// May a read in flight be called back ([`Conn::cancel_read`])?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancel {
    /// Yes, at a small price for each read: connections that give their buffer back when idle.
    Allowed,
    /// No: upstream connections of HTTP.
    Never,
}

/// One TCP connection.
pub struct Conn {
    reader: Engine<ReadHalf>,
    writer: Engine<WriteHalf>,
    desk: Rc<Desk>,
    fd: RawFd,
    peer: SocketAddr,
}

impl Conn {
    /// Takes over a connected stream.
    pub(super) fn new(stream: TcpStream, peer: SocketAddr, cancel: Cancel) -> Self {
        let fd = stream.as_raw_fd();
        let (read_half, write_half) = stream.into_split();
        let desk = Rc::new(Desk {
            reads: Port::new(),
            writes: Port::new(),
            canceller: RefCell::new(Canceller::new()),
        });
        let reader = Box::pin(read(read_half, Rc::clone(&desk), cancel));
        let writer = Box::pin(write(write_half, Rc::clone(&desk)));
        Self { reader, writer, desk, fd, peer }
    }

    /// Takes over a connected socket that another thread handed over.
    ///
    /// # Errors
    /// When the runtime cannot register it.
    pub fn adopt(socket: OwnedFd, peer: SocketAddr, cancel: Cancel) -> io::Result<Self> {
        Ok(Self::new(TcpStream::from_std(std::net::TcpStream::from(socket))?, peer, cancel))
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
        self.order_read(ReadOrder::Read(buf));
    }

    fn order_read(&mut self, order: ReadOrder) {
        debug_assert!(!self.desk.reads.busy.get(), "one read at a time");
        self.desk.reads.busy.set(true);
        self.desk.reads.order.set(Some(order));
        // Submits the operation without asking to be woken; whoever waits for it later says so.
        let _ = self.reader.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    }

    /// Is a read in flight, or finished and not yet collected?
    #[must_use]
    pub fn is_reading(&self) -> bool {
        self.desk.reads.busy.get()
    }

    /// Collects the read in flight. Pending for ever when there is none.
    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Done<usize>> {
        let (result, buf) = ready!(self.poll_reader(cx));
        match buf {
            Some(buf) => Poll::Ready((result, buf)),
            // A watch that nobody collected: it said nothing about bytes.
            None => Poll::Pending,
        }
    }

    fn poll_reader(&mut self, cx: &mut Context<'_>) -> Poll<(io::Result<usize>, Option<Buf>)> {
        if !self.desk.reads.busy.get() {
            return Poll::Pending;
        }
        let done = match self.desk.reads.done.take() {
            Some(done) => done,
            None => {
                let _ = self.reader.as_mut().poll(cx);
                match self.desk.reads.done.take() {
                    Some(done) => done,
                    None => return Poll::Pending,
                }
            }
        };
        self.desk.reads.busy.set(false);
        Poll::Ready(done)
    }

    /// Waits for the read in flight.
    pub async fn finish_read(&mut self) -> Done<usize> {
        poll_fn(|cx| self.poll_read(cx)).await
    }

    /// Starts to wait until there is something to read, or the end, without holding a buffer.
    pub fn start_watch(&mut self) {
        self.order_read(ReadOrder::Watch);
    }

    /// Collects the watch in flight. Pending for ever when there is none.
    pub fn poll_watch(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (result, _none) = ready!(self.poll_reader(cx));
        Poll::Ready(result.map(|_| ()))
    }

    /// Calls back the read in flight, if it is of the cancelable kind: it ends with `ECANCELED`, or with the bytes
    /// that came first.
    pub fn cancel_read(&self) {
        let canceller = self.desk.canceller.take();
        *self.desk.canceller.borrow_mut() = canceller.cancel();
    }

    /// Starts writing all of `buf`. At most one at a time.
    pub fn start_write(&mut self, buf: Buf) {
        debug_assert!(!self.desk.writes.busy.get(), "one write at a time");
        self.desk.writes.busy.set(true);
        self.desk.writes.order.set(Some(Some(buf)));
        let _ = self.writer.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    }

    /// Is a write in flight, or finished and not yet collected?
    #[must_use]
    pub fn is_writing(&self) -> bool {
        self.desk.writes.busy.get()
    }

    /// Collects the write in flight and gives its buffer back. Pending for ever when there is none.
    pub fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Done<()>> {
        if !self.desk.writes.busy.get() {
            return Poll::Pending;
        }
        let done = match self.desk.writes.done.take() {
            Some(done) => done,
            None => {
                let _ = self.writer.as_mut().poll(cx);
                match self.desk.writes.done.take() {
                    Some(done) => done,
                    None => return Poll::Pending,
                }
            }
        };
        self.desk.writes.busy.set(false);
        Poll::Ready(done)
    }

    /// Ready at once when no write is in flight; otherwise when it has ended.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.desk.writes.busy.get() {
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
        if self.desk.reads.busy.get() || self.desk.writes.busy.get() {
            return None;
        }
        self.desk.reads.order.set(Some(ReadOrder::Stop));
        self.desk.writes.order.set(Some(None));
        let mut cx = Context::from_waker(Waker::noop());
        let read_half = self.reader.as_mut().poll(&mut cx);
        let write_half = self.writer.as_mut().poll(&mut cx);
        let (Poll::Ready(read_half), Poll::Ready(write_half)) = (read_half, write_half) else {
            return None;
        };
        Some(sys::fd::own(read_half.reunite(write_half).ok()?.into_raw_fd()))
    }
}

async fn read(mut half: ReadHalf, desk: Rc<Desk>, cancel: Cancel) -> ReadHalf {
    loop {
        let done = match desk.reads.next().await {
            ReadOrder::Read(buf) if cancel == Cancel::Never => {
                let (result, buf) = half.read(buf).await;
                (result, Some(buf))
            }
            ReadOrder::Read(buf) => {
                let handle = desk.canceller.borrow().handle();
                let (result, buf) = half.cancelable_read(buf, handle).await;
                (result, Some(buf))
            }
            ReadOrder::Watch => (sys::fd::readable(&half).await.map(|()| 0), None),
            ReadOrder::Stop => return half,
        };
        desk.reads.done.set(Some(done));
    }
}

async fn write(mut half: WriteHalf, desk: Rc<Desk>) -> WriteHalf {
    while let Some(mut buf) = desk.writes.next().await {
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
        desk.writes.done.set(Some((result, buf)));
    }
    half
}
