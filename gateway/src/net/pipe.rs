//! Two ends of a byte stream inside one worker, each with the operations of a [`Conn`](super::conn::Conn).
//!
//! Where HTTP/2 multiplexes requests over a connection, each of them meets the exchange through such a pipe. A direction
//! holds what its writer is writing, one [`Buf`] and nothing else: a write is over when the reader has taken all of it.
//! That is the back-pressure, and the bound: `Class::Bulk` bytes at most for each direction. Where it fits, the
//! writer's buffer is handed to the reader as it is, against the reader's empty one, and no byte is copied.
//!
//! An end that was shut is followed by a clean end; one that was reset, or dropped without having been shut, by an
//! error. Ends may live in two tasks, which then wake each other, or in one: then [`Joint::turn`] polls both until neither
//! moves, because a task that wakes itself is run before all others.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use super::Buf;
use super::conn::Done;
use crate::sys::buf::TAIL_RESERVE;

/// The two ends of a new pipe.
#[must_use]
pub fn pipe() -> (End, End) {
    let pipe = Rc::new(Pipe { lanes: RefCell::default(), wakes: Cell::new(Wakes::Rung) });
    let end = |side| End {
        pipe: Rc::clone(&pipe),
        side,
        reading: None,
        is_writing: false,
        is_watching: false,
        is_cancelled: false,
    };
    (end(Side::A), end(Side::B))
}

/// Which of the two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    A,
    B,
}

impl Side {
    fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

/// What becomes of a wake-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wakes {
    /// It is one.
    Rung,
    /// Both ends are polled by one task, which asks afterwards whether anything moved. Nothing has.
    Noted,
    /// As `Noted`; something has moved.
    Moved,
}

/// What follows behind the bytes of a direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Behind {
    /// More bytes.
    #[default]
    More,
    /// The end.
    End,
    /// An error: the writer went away and did not say that it was done.
    Gone,
    /// An error, at once: what was not read is lost.
    Reset,
    /// The same, and the writer says that it did nothing with what it read.
    Refused,
}

impl Behind {
    /// Is what was written lost?
    fn is_lost(self) -> bool {
        match self {
            Self::Reset | Self::Refused => true,
            Self::More | Self::End | Self::Gone => false,
        }
    }
}

/// One direction.
#[derive(Default)]
struct Lane {
    /// What is being written. Empty once the reader has taken it all, until the writer collects it.
    buf: Option<Buf>,
    behind: Behind,
    /// Is there nobody who reads any more?
    unread: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

struct Pipe {
    /// What A writes, and what B writes.
    lanes: RefCell<[Lane; 2]>,
    wakes: Cell<Wakes>,
}

impl Pipe {
    fn wake(&self, waker: &mut Option<Waker>) {
        match self.wakes.get() {
            Wakes::Rung => {
                if let Some(waker) = waker.take() {
                    waker.wake();
                }
            }
            Wakes::Noted | Wakes::Moved => self.wakes.set(Wakes::Moved),
        }
    }
}

/// One end of a pipe.
pub struct End {
    pipe: Rc<Pipe>,
    side: Side,
    reading: Option<Buf>,
    is_writing: bool,
    is_watching: bool,
    is_cancelled: bool,
}

impl End {
    /// Both ends of this pipe, when one task polls them.
    #[must_use]
    pub fn joint(&self) -> Joint {
        Joint(Rc::clone(&self.pipe))
    }

    /// Starts a read that appends to `buf`. At most one at a time.
    pub fn start_read(&mut self, buf: Buf) {
        debug_assert!(self.reading.is_none(), "one read at a time");
        self.is_cancelled = false;
        self.is_watching = false;
        self.reading = Some(buf);
    }

    /// Is a read in flight, or finished and not yet collected?
    #[must_use]
    pub fn is_reading(&self) -> bool {
        self.reading.is_some()
    }

    /// Collects the read in flight. Pending for ever when there is none. 0 bytes only at a clean end; an error of kind
    /// `ConnectionReset` after a reset.
    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Done<usize>> {
        let Some(mut buf) = self.reading.take() else { return Poll::Pending };
        match self.read(&mut buf) {
            Some(result) => Poll::Ready((result, buf)),
            None if self.is_cancelled => {
                Poll::Ready((Err(io::Error::from_raw_os_error(libc::ECANCELED)), buf))
            }
            None => {
                self.reading = Some(buf);
                let lane = &mut self.pipe.lanes.borrow_mut()[self.side.other() as usize];
                register(&mut lane.reader, cx);
                Poll::Pending
            }
        }
    }

    fn read(&self, buf: &mut Buf) -> Option<io::Result<usize>> {
        let lane = &mut self.pipe.lanes.borrow_mut()[self.side.other() as usize];
        let from = lane.buf.as_mut().filter(|from| !from.is_empty() && !lane.behind.is_lost());
        let Some(from) = from else {
            return match lane.behind {
                Behind::More => None,
                Behind::End => Some(Ok(0)),
                Behind::Gone | Behind::Reset => Some(Err(io::ErrorKind::ConnectionReset.into())),
                Behind::Refused => Some(Err(REFUSED.into())),
            };
        };
        let n = from.len().min(buf.readroom());
        if buf.is_empty()
            && n == from.len()
            && from.headroom() >= buf.headroom()
            && from.tailroom() >= TAIL_RESERVE
        {
            std::mem::swap(buf, from);
        } else {
            buf.append(&from.bytes()[..n]);
            from.consume(n);
        }
        if from.is_empty() {
            self.pipe.wake(&mut lane.writer);
        }
        Some(Ok(n))
    }

    /// Waits for the read in flight.
    pub async fn finish_read(&mut self) -> Done<usize> {
        poll_fn(|cx| self.poll_read(cx)).await
    }

    /// Starts to wait until there is something to read, or the end, without holding a buffer.
    pub fn start_watch(&mut self) {
        debug_assert!(self.reading.is_none(), "between operations");
        self.is_watching = true;
    }

    /// Is it watched, or readable and that not yet collected?
    #[must_use]
    pub fn is_watching(&self) -> bool {
        self.is_watching
    }

    /// Collects the watch in flight. Pending for ever when there is none.
    pub fn poll_watch(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.is_watching {
            return Poll::Pending;
        }
        let lane = &mut self.pipe.lanes.borrow_mut()[self.side.other() as usize];
        if lane.buf.as_ref().is_none_or(Buf::is_empty) && lane.behind == Behind::More {
            register(&mut lane.reader, cx);
            return Poll::Pending;
        }
        self.is_watching = false;
        Poll::Ready(Ok(()))
    }

    /// Calls back the read in flight: it ends with `ECANCELED`, or with the bytes that came first.
    pub fn cancel_read(&mut self) {
        self.is_cancelled = self.reading.is_some();
    }

    /// Starts writing all of `buf`. At most one at a time. It is over when the other end has read it.
    pub fn start_write(&mut self, buf: Buf) {
        debug_assert!(!self.is_writing, "one write at a time");
        self.is_writing = true;
        let lane = &mut self.pipe.lanes.borrow_mut()[self.side as usize];
        lane.buf = Some(buf);
        self.pipe.wake(&mut lane.reader);
    }

    /// Is a write in flight, or finished and not yet collected?
    #[must_use]
    pub fn is_writing(&self) -> bool {
        self.is_writing
    }

    /// Collects the write in flight and gives a buffer back, which need not be the one that was written. Pending for
    /// ever when there is none. Fails with `BrokenPipe` when the other end is gone, or the pipe was reset.
    pub fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Done<()>> {
        if !self.is_writing {
            return Poll::Pending;
        }
        let lane = &mut self.pipe.lanes.borrow_mut()[self.side as usize];
        let is_lost = lane.unread || lane.behind.is_lost();
        let Some(buf) = lane.buf.take_if(|buf| buf.is_empty() || is_lost) else {
            register(&mut lane.writer, cx);
            return Poll::Pending;
        };
        self.is_writing = false;
        let result = if buf.is_empty() { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) };
        Poll::Ready((result, buf))
    }

    /// Ready at once when no write is in flight; otherwise when it has ended.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.is_writing {
            return Poll::Ready(Ok(()));
        }
        let (result, _buf) = ready!(self.poll_write(cx));
        Poll::Ready(result)
    }

    /// Waits until no write is in flight.
    ///
    /// # Errors
    /// When the write failed: the other end is gone.
    pub async fn flush(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Puts the end behind what was written. The receiving side stays open.
    pub fn shutdown_write(&self) {
        let lane = &mut self.pipe.lanes.borrow_mut()[self.side as usize];
        if lane.behind == Behind::More {
            lane.behind = Behind::End;
            self.pipe.wake(&mut lane.reader);
        }
    }

    /// Ends both directions now, with an error for whoever reads or writes. What was not read is lost.
    pub fn reset(&self) {
        for lane in self.pipe.lanes.borrow_mut().iter_mut() {
            lane.behind = Behind::Reset;
            self.pipe.wake(&mut lane.reader);
            self.pipe.wake(&mut lane.writer);
        }
    }

    /// As [`End::reset`], and tells the other end that nothing was done with what it wrote: [`is_refused`].
    pub fn refuse(&self) {
        for lane in self.pipe.lanes.borrow_mut().iter_mut() {
            lane.behind = Behind::Refused;
            self.pipe.wake(&mut lane.reader);
            self.pipe.wake(&mut lane.writer);
        }
    }

    /// Was the pipe reset, or the other end dropped without having been shut?
    #[must_use]
    pub fn is_reset(&self) -> bool {
        match self.pipe.lanes.borrow()[self.side.other() as usize].behind {
            Behind::More | Behind::End => false,
            Behind::Gone | Behind::Reset | Behind::Refused => true,
        }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let mut lanes = self.pipe.lanes.borrow_mut();
        let own = &mut lanes[self.side as usize];
        if own.behind == Behind::More {
            own.behind = Behind::Gone;
        }
        self.pipe.wake(&mut own.reader);
        let other = &mut lanes[self.side.other() as usize];
        other.unread = true;
        self.pipe.wake(&mut other.writer);
    }
}

/// How a refused pipe tells its reader. No connection ends a read with it: it is an error of connecting.
const REFUSED: io::ErrorKind = io::ErrorKind::ConnectionRefused;

/// Is this the end of a read from a pipe that was [refused](End::refuse)?
#[must_use]
pub fn is_refused(result: &io::Result<usize>) -> bool {
    result.as_ref().is_err_and(|error| error.kind() == REFUSED)
}

fn register(place: &mut Option<Waker>, cx: &Context<'_>) {
    if !place.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
        *place = Some(cx.waker().clone());
    }
}

/// Both ends of a pipe that one task polls.
pub struct Joint(Rc<Pipe>);

impl Joint {
    /// Polls until nothing moves between the two ends any more: `poll` polls whoever holds them.
    pub fn turn<T>(&self, mut poll: impl FnMut() -> Poll<T>) -> Poll<T> {
        loop {
            self.0.wakes.set(Wakes::Noted);
            let polled = poll();
            let moved = self.0.wakes.replace(Wakes::Rung) == Wakes::Moved;
            if polled.is_ready() || !moved {
                return polled;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::task::Wake;

    use super::*;
    use crate::net::{Class, acquire};

    fn buf(bytes: &[u8]) -> Buf {
        let mut buf = acquire(Class::Head, 0).unwrap();
        buf.append(bytes);
        buf
    }

    fn noop() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    fn read(end: &mut End) -> Poll<Result<Vec<u8>, io::ErrorKind>> {
        if !end.is_reading() {
            end.start_read(buf(b""));
        }
        end.poll_read(&mut noop())
            .map(|(result, buf)| result.map(|_| buf.bytes().to_vec()).map_err(|error| error.kind()))
    }

    #[derive(Default)]
    struct Count(AtomicU32);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_write_is_over_when_its_bytes_were_read() {
        let (mut a, mut b) = pipe();
        a.start_write(buf(b"hello"));
        assert!(a.poll_write(&mut noop()).is_pending());
        assert_eq!(read(&mut b), Poll::Ready(Ok(b"hello".to_vec())));
        let Poll::Ready((Ok(()), back)) = a.poll_write(&mut noop()) else { panic!("the write has ended") };
        assert!(back.is_empty() && !a.is_writing());
        assert!(read(&mut b).is_pending());
    }

    #[test]
    fn a_reader_with_little_room_takes_a_write_in_parts() {
        let (mut a, mut b) = pipe();
        a.start_write(buf(b"0123456789"));
        let mut small = acquire(Class::Head, 0).unwrap();
        small.reset(small.readroom() - 4);
        b.start_read(small);
        let Poll::Ready((Ok(4), first)) = b.poll_read(&mut noop()) else { panic!("four bytes fit") };
        assert_eq!(first.bytes(), b"0123");
        assert!(a.poll_write(&mut noop()).is_pending());
        assert_eq!(read(&mut b), Poll::Ready(Ok(b"456789".to_vec())));
        assert!(a.poll_write(&mut noop()).is_ready());
    }

    #[test]
    fn a_whole_buffer_changes_hands_and_headroom_that_was_asked_for_is_there() {
        let (mut a, mut b) = pipe();
        let written = buf(b"x");
        let place = written.bytes().as_ptr();
        a.start_write(written);
        b.start_read(acquire(Class::Head, 0).unwrap());
        let Poll::Ready((Ok(1), got)) = b.poll_read(&mut noop()) else { panic!("one byte") };
        assert_eq!(got.bytes().as_ptr(), place, "no copy");
        assert!(a.poll_flush(&mut noop()).is_ready());

        a.start_write(buf(b"y"));
        b.start_read(acquire(Class::Head, 32).unwrap());
        let Poll::Ready((Ok(1), got)) = b.poll_read(&mut noop()) else { panic!("one byte") };
        assert!(got.headroom() >= 32);
    }

    #[test]
    fn the_end_comes_behind_the_bytes_and_the_other_direction_stays_open() {
        let (mut a, mut b) = pipe();
        a.start_write(buf(b"last"));
        a.shutdown_write();
        assert_eq!(read(&mut b), Poll::Ready(Ok(b"last".to_vec())));
        assert_eq!(read(&mut b), Poll::Ready(Ok(Vec::new())));
        b.start_write(buf(b"answer"));
        assert_eq!(read(&mut a), Poll::Ready(Ok(b"answer".to_vec())));
        drop(a);
        assert_eq!(read(&mut b), Poll::Ready(Ok(Vec::new())), "it was shut before it was dropped");
    }

    #[test]
    fn a_reset_is_an_error_at_once_and_a_drop_one_behind_the_bytes() {
        let (mut a, mut b) = pipe();
        a.start_write(buf(b"lost"));
        a.reset();
        assert_eq!(read(&mut b), Poll::Ready(Err(io::ErrorKind::ConnectionReset)));
        assert!(b.is_reset());
        assert!(matches!(a.poll_write(&mut noop()), Poll::Ready((Err(_), _))));

        let (mut a, mut b) = pipe();
        a.start_write(buf(b"kept"));
        drop(a);
        assert_eq!(read(&mut b), Poll::Ready(Ok(b"kept".to_vec())));
        assert_eq!(read(&mut b), Poll::Ready(Err(io::ErrorKind::ConnectionReset)));
        b.start_write(buf(b"nobody reads"));
        assert!(matches!(b.poll_write(&mut noop()), Poll::Ready((Err(_), _))));
    }

    #[test]
    fn a_read_that_is_called_back_ends_unless_bytes_came_first() {
        let (mut a, mut b) = pipe();
        assert!(read(&mut b).is_pending());
        b.cancel_read();
        let Poll::Ready((Err(error), _)) = b.poll_read(&mut noop()) else { panic!("called back") };
        assert_eq!(error.raw_os_error(), Some(libc::ECANCELED));
        assert!(read(&mut b).is_pending());
        b.cancel_read();
        a.start_write(buf(b"first"));
        assert_eq!(read(&mut b), Poll::Ready(Ok(b"first".to_vec())));
    }

    #[test]
    fn watching_holds_no_buffer_and_takes_no_byte() {
        let (mut a, mut b) = pipe();
        b.start_watch();
        assert!(b.poll_watch(&mut noop()).is_pending() && b.is_watching());
        a.start_write(buf(b"there"));
        assert!(b.poll_watch(&mut noop()).is_ready() && !b.is_watching());
        assert_eq!(read(&mut b), Poll::Ready(Ok(b"there".to_vec())));
        b.start_watch();
        drop(a);
        assert!(b.poll_watch(&mut noop()).is_ready());
    }

    #[test]
    fn two_tasks_wake_each_other_and_one_task_never_itself() {
        let (mut a, mut b) = pipe();
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let cx = &mut Context::from_waker(&waker);
        b.start_read(buf(b""));
        assert!(b.poll_read(cx).is_pending());
        a.start_write(buf(b"1"));
        assert_eq!(count.0.load(Ordering::Relaxed), 1, "the reader");
        assert!(a.poll_write(cx).is_pending());
        assert!(b.poll_read(cx).is_ready());
        assert_eq!(count.0.load(Ordering::Relaxed), 2, "the writer");
        assert!(a.poll_write(cx).is_ready());

        // Reader first, so that its bytes come after it was polled: the turn goes round again by itself.
        b.start_read(buf(b""));
        let turned = a.joint().turn(|| {
            if let Poll::Ready((Ok(1), _)) = b.poll_read(cx) {
                return Poll::Ready(());
            }
            if !a.is_writing() {
                a.start_write(buf(b"2"));
            }
            Poll::Pending
        });
        assert!(turned.is_ready());
        assert_eq!(count.0.load(Ordering::Relaxed), 2);
        assert!(
            b.joint().turn(|| b.poll_read(cx)).is_pending(),
            "nothing moves: it does not go round for ever"
        );
    }
}
