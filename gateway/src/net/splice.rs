//! Bytes from socket to socket inside the kernel: splice(2) through a pipe of the thread.
//!
//! Of a large body nobody needs to see every byte: copied out of one socket and into another they cost more than all
//! the rest of its way. The ring's own splice would run in threads of the kernel; the system call, on sockets that are
//! set not to block meanwhile, moves what is there and returns. The pipe is empty before and after: what the
//! destination does not take is read into a buffer, which is written like any other.

use std::cell::RefCell;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

use super::conn::Conn;
use super::{Buf, Class, acquire};
use crate::sys;

/// Bytes that are in the pipe at most: they fit into one large buffer when the destination does not take them.
pub const PIECE_BYTES: usize = Class::Bulk.bytes() / 4 * 3;

/// The pipe's size in bytes, as the kernel counts: a page for each piece, and pieces of packets are smaller than pages.
const PIPE_BYTES: usize = 512 * 1024;

/// What came of a piece.
pub struct Passed {
    /// Bytes that were taken from the source; 0 at its end.
    pub bytes: usize,
    /// Those of them that the destination did not take: to be written before anything else.
    pub left: Option<Buf>,
}

/// Why a piece did not pass.
#[derive(Debug)]
pub enum Broken {
    /// Nothing was read: `WouldBlock` when nothing is there, else the source failed.
    Source(io::Error),
    /// The destination failed; what was read is lost.
    Destination(io::Error),
    /// No buffer memory for what the destination did not take: it is lost.
    Buffers,
    /// There is no pipe (descriptors), or the sockets cannot be spliced. Nothing was read.
    Unfit,
}

struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

thread_local! {
    static PIPE: RefCell<Option<Pipe>> = const { RefCell::new(None) };
}

fn open() -> io::Result<Pipe> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    // A smaller one does, too: a piece takes more calls.
    let _ = fcntl_setpipe_size(&write, PIPE_BYTES);
    Ok(Pipe { read, write })
}

/// Moves up to `most` bytes, [`PIECE_BYTES`] at most, from one connection to another. Only while nothing is read at
/// `from` and nothing written at `to`: it would overtake them.
///
/// # Errors
/// [`Broken`].
pub fn pass(from: &Conn, to: &Conn, most: usize) -> Result<Passed, Broken> {
    debug_assert!(!from.is_reading() && !to.is_writing(), "between operations");
    PIPE.with_borrow_mut(|place| {
        // Not in its place meanwhile: one that is not left empty is closed with what is in it.
        let pipe = place.take().map_or_else(open, Ok).map_err(|_| Broken::Unfit)?;
        let (passed, empty) = sys::fd::with_fd(from, from.raw(), |source| {
            sys::fd::with_fd(to, to.raw(), |sink| through(&pipe, source, sink, most.min(PIECE_BYTES)))
        });
        *place = empty.then_some(pipe);
        passed
    })
}

/// Also: is the pipe empty again?
fn through(
    pipe: &Pipe,
    source: BorrowedFd<'_>,
    sink: BorrowedFd<'_>,
    most: usize,
) -> (Result<Passed, Broken>, bool) {
    let bytes = match unblocked(source, || move_some(source, &pipe.write, most)) {
        Ok(bytes) => bytes,
        // Of a sandbox that does not know the call, too.
        Err(Errno::INVAL | Errno::PERM | Errno::NOSYS) => return (Err(Broken::Unfit), true),
        Err(error) => return (Err(Broken::Source(error.into())), true),
    };
    let mut rest = bytes;
    let sent = unblocked(sink, || {
        while rest > 0 {
            rest -= move_some(&pipe.read, sink, rest)?;
        }
        Ok(())
    });
    match sent {
        Ok(()) => (Ok(Passed { bytes, left: None }), true),
        Err(Errno::AGAIN) => match take_back(pipe, rest) {
            Some(left) => (Ok(Passed { bytes, left: Some(left) }), true),
            None => (Err(Broken::Buffers), false),
        },
        Err(error) => (Err(Broken::Destination(error.into())), false),
    }
}

fn move_some(
    from: impl std::os::fd::AsFd,
    to: impl std::os::fd::AsFd,
    most: usize,
) -> rustix::io::Result<usize> {
    rustix::io::retry_on_intr(|| {
        splice(&from, None, &to, None, most, SpliceFlags::MOVE | SpliceFlags::NONBLOCK)
    })
}

/// Of a socket, splice(2) heeds only what the socket is set to. The ring wants it to block: else its operations end at once
/// where they should wait.
fn unblocked<T>(
    socket: BorrowedFd<'_>,
    calls: impl FnOnce() -> rustix::io::Result<T>,
) -> rustix::io::Result<T> {
    fcntl_setfl(socket, OFlags::NONBLOCK)?;
    let result = calls();
    fcntl_setfl(socket, OFlags::empty())?;
    result
}

/// What is left in the pipe.
fn take_back(pipe: &Pipe, rest: usize) -> Option<Buf> {
    let mut buf = acquire(Class::Bulk, 0)?;
    while buf.len() < rest {
        let room = buf.readroom();
        let n = rustix::io::read(&pipe.read, &mut buf.tail_mut()[..room]).ok().filter(|n| *n > 0)?;
        buf.grow(n);
    }
    Some(buf)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};

    use super::*;
    use crate::net::conn::Cancel;
    use crate::net::runtime::{self, RingFlags};

    /// A connection as the worker has it, and its peer.
    fn pair() -> (Conn, TcpStream) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (ours, from) = listener.accept().unwrap();
        (Conn::adopt(ours.into(), from, Cancel::Never).unwrap(), peer)
    }

    fn run(test: impl FnOnce()) {
        runtime::build(RingFlags::Coop, 64, 256).unwrap().run(async { test() }, || std::future::ready(()));
    }

    fn blocks(conn: &Conn) -> bool {
        let flags = sys::fd::with_fd(conn, conn.raw(), |fd| rustix::fs::fcntl_getfl(fd)).unwrap();
        !flags.contains(OFlags::NONBLOCK)
    }

    #[test]
    fn what_is_there_passes_and_no_more_than_was_asked_for() {
        run(|| {
            let ((from, mut source), (to, mut sink)) = (pair(), pair());
            let nothing = pass(&from, &to, 10);
            assert!(
                matches!(nothing, Err(Broken::Source(error)) if error.kind() == io::ErrorKind::WouldBlock)
            );
            source.write_all(b"hello world").unwrap();
            let Ok(Passed { bytes: 5, left: None }) = pass(&from, &to, 5) else { panic!("five bytes pass") };
            let Ok(Passed { bytes: 6, left: None }) = pass(&from, &to, 100) else {
                panic!("the rest passes")
            };
            let mut came = [0; 11];
            sink.read_exact(&mut came).unwrap();
            assert_eq!(&came, b"hello world");
            source.shutdown(Shutdown::Write).unwrap();
            assert!(matches!(pass(&from, &to, 100), Ok(Passed { bytes: 0, left: None })), "the end");
            assert!(blocks(&from) && blocks(&to), "as the ring wants them");
        });
    }

    #[test]
    fn what_the_destination_does_not_take_comes_back_in_order() {
        run(|| {
            let ((from, mut source), (to, mut sink)) = (pair(), pair());
            let sent: Vec<u8> = (0..64 << 20_u32).map(|n| (n / 7 % 251) as u8).collect();
            let feed = sent.clone();
            let feeding = std::thread::spawn(move || source.write_all(&feed));
            let (mut passed, mut left) = (0, None);
            while left.is_none() {
                match pass(&from, &to, usize::MAX) {
                    Ok(piece) => {
                        assert!(piece.bytes <= PIECE_BYTES);
                        passed += piece.bytes;
                        left = piece.left;
                    }
                    Err(Broken::Source(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                        std::thread::yield_now();
                    }
                    Err(broken) => panic!("{broken:?}"),
                }
                assert!(passed < sent.len(), "nobody reads, so that it fills up");
            }
            let left = left.unwrap();
            let mut came = vec![0; passed - left.len()];
            sink.read_exact(&mut came).unwrap();
            came.extend_from_slice(left.bytes());
            assert!(came == sent[..passed]);
            from.reset();
            let _ = feeding.join().unwrap();
        });
    }

    #[test]
    fn bytes_for_a_destination_that_is_gone_never_reach_another() {
        run(|| {
            let ((from, mut source), (to, sink)) = (pair(), pair());
            to.shutdown_both();
            drop(sink);
            source.write_all(b"lost").unwrap();
            assert!(matches!(pass(&from, &to, 100), Err(Broken::Destination(_))));
            let ((from, mut source), (to, mut sink)) = (pair(), pair());
            source.write_all(b"new").unwrap();
            assert!(matches!(pass(&from, &to, 100), Ok(Passed { bytes: 3, left: None })));
            let mut came = [0; 3];
            sink.read_exact(&mut came).unwrap();
            assert_eq!(&came, b"new");
        });
    }
}
