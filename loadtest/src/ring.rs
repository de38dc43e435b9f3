//! A raw io_uring with a safe face: the only unsafe code of this crate.
//!
//! Safe because the ring owns every buffer that the kernel writes to, hands out a buffer only while no operation is
//! on it, and never frees one before the process ends; what the kernel only reads is `'static`. Flags are those of
//! Ringway's workers: what is compared is the work above the ring, not the ring.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use socket2::SockAddr;

/// Bytes of one slot's buffer: one TLS record, the size proxies use by default.
pub(crate) const BUFFER_BYTES: usize = 16 * 1024;
/// Entries of the submission queue.
const RING_ENTRIES: u32 = 4_096;
/// Entries of the completion queue: four per submission.
const CQ_ENTRIES: u32 = 16_384;

/// How long nothing is accepted after an accept that failed: descriptors have run out, and come back when others close. At
/// once again it would fail again, as fast as the machine can.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Low bits of `user_data` that name the operation; above them is the caller's number or the slot's.
const OP_BITS: u32 = 2;
const ACCEPT: u64 = 0;
const CONNECT: u64 = 1;
const SEND_STATIC: u64 = 2;
const SLOT: u64 = 3;

/// The ring and its buffers.
pub(crate) struct Ring {
    ring: IoUring,
    slots: Vec<Slot>,
    entries: Vec<cqueue::Entry>,
    door: Option<Door>,
}

/// Where connections come in. One operation accepts all that are queued, until it ends.
struct Door {
    listener: TcpListener,
    /// When to ask again; `None` while the kernel accepts.
    again: Option<Instant>,
}

struct Slot {
    buffer: Box<[u8; BUFFER_BYTES]>,
    state: SlotState,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum SlotState {
    Free,
    /// The kernel reads or writes the buffer.
    InFlight,
}

/// A finished operation. `None` in place of a length or a descriptor: it failed.
pub(crate) enum Done {
    /// Of [`Ring::listen`].
    Accepted(Option<OwnedFd>),
    /// Of [`Ring::connect`], under the caller's number.
    Connected(usize, Option<()>),
    /// Of [`Ring::send_static`], under the caller's number.
    Sent(usize, Option<usize>),
    /// Of [`Ring::recv`] or [`Ring::send`], on that slot.
    Moved(usize, Option<usize>),
}

impl Ring {
    /// # Errors
    /// The kernel has no io_uring with these flags.
    pub(crate) fn new() -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_coop_taskrun()
            .setup_submit_all()
            .setup_cqsize(CQ_ENTRIES)
            .build(RING_ENTRIES)?;
        Ok(Self { ring, slots: Vec::new(), entries: Vec::new(), door: None })
    }

    /// One that accepts at `addr`.
    ///
    /// # Errors
    /// The address cannot be bound, or see [`Self::new`].
    pub(crate) fn listening(addr: SocketAddr) -> io::Result<Self> {
        let mut ring = Self::new()?;
        ring.listen(crate::socket::listen(addr)?);
        Ok(ring)
    }

    /// Makes slots up to this number, so that `slot < count` may be used.
    pub(crate) fn reserve(&mut self, count: usize) {
        while self.slots.len() < count {
            self.slots.push(Slot { buffer: Box::new([0; BUFFER_BYTES]), state: SlotState::Free });
        }
    }

    /// The first `length` bytes that the last [`Self::recv`] put into a slot.
    pub(crate) fn bytes(&self, slot: usize, length: usize) -> &[u8] {
        let slot = &self.slots[slot];
        assert_eq!(slot.state, SlotState::Free, "the kernel is writing to this buffer");
        &slot.buffer[..length]
    }

    /// Puts bytes, or the beginning of them, into a slot; how many.
    pub(crate) fn fill(&mut self, slot: usize, bytes: &[u8]) -> usize {
        let slot = &mut self.slots[slot];
        assert_eq!(slot.state, SlotState::Free, "the kernel is using this buffer");
        let length = bytes.len().min(BUFFER_BYTES);
        slot.buffer[..length].copy_from_slice(&bytes[..length]);
        length
    }

    /// Accepts every connection from now on; each comes as a completion.
    pub(crate) fn listen(&mut self, listener: TcpListener) {
        self.door = Some(Door { listener, again: Some(Instant::now()) });
    }

    /// Accepts again where that has ended and its pause is over; how much of the pause is left.
    fn reopen(&mut self) -> io::Result<Option<Duration>> {
        let Some(door) = &mut self.door else { return Ok(None) };
        let Some(again) = door.again else { return Ok(None) };
        let left = again.saturating_duration_since(Instant::now());
        if !left.is_zero() {
            return Ok(Some(left));
        }
        door.again = None;
        let accept = opcode::AcceptMulti::new(fd(&door.listener)).flags(libc::SOCK_CLOEXEC);
        self.push(&accept.build().user_data(ACCEPT)).map(|()| None)
    }

    /// Connects `socket`; `number` comes back with the completion.
    pub(crate) fn connect(
        &mut self,
        number: usize,
        socket: &impl AsFd,
        to: &'static SockAddr,
    ) -> io::Result<()> {
        let connect = opcode::Connect::new(fd(socket), to.as_ptr().cast(), to.len());
        self.push(&connect.build().user_data(data(CONNECT, number)))
    }

    /// Sends `bytes`, or the beginning of them; `number` comes back with the completion.
    pub(crate) fn send_static(
        &mut self,
        number: usize,
        socket: &impl AsFd,
        bytes: &'static [u8],
    ) -> io::Result<()> {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let send = opcode::Send::new(fd(socket), bytes.as_ptr(), length).flags(libc::MSG_NOSIGNAL);
        self.push(&send.build().user_data(data(SEND_STATIC, number)))
    }

    /// Receives into a slot.
    pub(crate) fn recv(&mut self, slot: usize, socket: &impl AsFd) -> io::Result<()> {
        let buffer = self.take(slot);
        let length = u32::try_from(BUFFER_BYTES).expect("a buffer is 16 KiB");
        let recv = opcode::Recv::new(fd(socket), buffer.as_mut_ptr(), length);
        self.push(&recv.build().user_data(data(SLOT, slot)))
    }

    /// Sends bytes of a slot, or the beginning of them.
    pub(crate) fn send(
        &mut self,
        slot: usize,
        socket: &impl AsFd,
        range: std::ops::Range<usize>,
    ) -> io::Result<()> {
        let bytes = &self.take(slot)[range];
        let length = u32::try_from(bytes.len()).expect("a buffer is 16 KiB");
        let send = opcode::Send::new(fd(socket), bytes.as_ptr(), length).flags(libc::MSG_NOSIGNAL);
        self.push(&send.build().user_data(data(SLOT, slot)))
    }

    /// Submits what was asked for, waits for at least one completion or the timeout, and appends all there are.
    pub(crate) fn wait(&mut self, timeout: Option<Duration>, done: &mut Vec<Done>) -> io::Result<()> {
        let pause = self.reopen()?;
        let timeout = [timeout, pause].into_iter().flatten().min();
        let waited = match timeout {
            None => self.ring.submit_and_wait(1),
            Some(timeout) => {
                let time = types::Timespec::new().sec(timeout.as_secs()).nsec(timeout.subsec_nanos());
                self.ring.submitter().submit_with_args(1, &types::SubmitArgs::new().timespec(&time))
            }
        };
        match waited {
            Ok(_) => {}
            Err(why) if matches!(why.raw_os_error(), Some(libc::EINTR | libc::ETIME)) => {}
            Err(why) => return Err(why),
        }
        let mut entries = std::mem::take(&mut self.entries);
        entries.extend(self.ring.completion());
        done.extend(entries.drain(..).map(|entry| self.finish(&entry)));
        self.entries = entries;
        Ok(())
    }

    fn finish(&mut self, entry: &cqueue::Entry) -> Done {
        let number = usize::try_from(entry.user_data() >> OP_BITS).expect("numbers came from usize");
        let result = u32::try_from(entry.result()).ok();
        let length = result.map(|length| length as usize);
        match entry.user_data() & ((1 << OP_BITS) - 1) {
            ACCEPT => {
                if let Some(door) = self.door.as_mut().filter(|_| !cqueue::more(entry.flags())) {
                    let pause = if result.is_some() { Duration::ZERO } else { ACCEPT_PAUSE };
                    door.again = Some(Instant::now() + pause);
                }
                Done::Accepted(result.map(own))
            }
            CONNECT => Done::Connected(number, result.map(|_| ())),
            SEND_STATIC => Done::Sent(number, length),
            _ => {
                self.slots[number].state = SlotState::Free;
                Done::Moved(number, length)
            }
        }
    }

    /// A slot's buffer, for the kernel from now on.
    fn take(&mut self, slot: usize) -> &mut [u8; BUFFER_BYTES] {
        let slot = &mut self.slots[slot];
        assert_eq!(slot.state, SlotState::Free, "one operation per slot at a time");
        slot.state = SlotState::InFlight;
        &mut slot.buffer
    }

    #[expect(unsafe_code, reason = "a submission hands the kernel pointers that the compiler cannot follow")]
    fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        if self.ring.submission().is_full() {
            self.ring.submit()?;
        }
        // SAFETY: every entry is built in this module, and its pointers are null (accept), to `'static` memory that
        // is only read (connect, send_static), or into a slot's buffer (recv, send). Slots are boxed, are never
        // removed, and are leaked when the ring is dropped. While the operation is in flight the slot is `InFlight`:
        // `bytes` and `take` refuse it, so that no reference to the buffer exists. A descriptor that its owner closes
        // early makes the operation fail or end; it cannot touch other memory.
        let pushed = unsafe { self.ring.submission().push(entry) };
        pushed.map_err(|_| io::Error::other("the submission queue is full right after a submit"))
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // Closing a ring does not wait for its operations: the kernel may still write to these.
        std::mem::forget(std::mem::take(&mut self.slots));
    }
}

fn fd(of: &impl AsFd) -> types::Fd {
    types::Fd(of.as_fd().as_raw_fd())
}

fn data(op: u64, number: usize) -> u64 {
    (number as u64) << OP_BITS | op
}

#[expect(unsafe_code, reason = "the kernel returns an accepted descriptor as a number")]
fn own(fd: u32) -> OwnedFd {
    let fd = RawFd::try_from(fd).expect("the kernel's descriptors are non-negative ints");
    // SAFETY: `fd` is the result of a completed accept: open, and known to nobody else.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
