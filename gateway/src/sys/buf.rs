//! I/O buffers: fixed memory from a per-thread pool, given back when dropped.
//!
//! A [`Buf`] is lent to the kernel by value while a read or a write is in flight. Its bytes are
//! `start..end` of fixed memory: reads append behind `end`, writes send `start..end`, and the room in front of
//! `start` lets a rewritten head be put before a body without moving the body.
//!
//! Pools are per thread, so a `Buf` never crosses threads. Memory held is bounded by
//! `limits.buffers_bytes_max`: [`acquire`] answers `None` beyond it and the caller sheds.

use std::cell::{Cell, RefCell};

use monoio::buf::{IoBuf, IoBufMut};

/// The sizes that the pool deals in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// 4 KiB: a request head.
    Head,
    /// 16 KiB: a response head with a small body.
    Small,
    /// 128 KiB: a streaming body, or a head that outgrew the smaller ones.
    /// Measured on 1 MB bodies: smaller buffers pay a read, a write and two wake-ups each time they fill.
    Bulk,
}

impl Class {
    /// Size of one buffer of this class in bytes.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::Head => 4 * 1024,
            Self::Small => 16 * 1024,
            Self::Bulk => 128 * 1024,
        }
    }
}

struct Pool {
    free: [RefCell<Vec<Box<[u8]>>>; 3],
    /// Least number of free buffers since the last trim: those were never needed.
    low: [Cell<usize>; 3],
    held: Cell<usize>,
    max: Cell<usize>,
}

thread_local! {
    static POOL: Pool = const {
        Pool {
            free: [const { RefCell::new(Vec::new()) }; 3],
            low: [const { Cell::new(0) }; 3],
            held: Cell::new(0),
            max: Cell::new(usize::MAX),
        }
    };
}

/// Sets this thread's bound on buffer memory, free and lent together, in bytes.
pub fn set_bytes_max(max: usize) {
    POOL.with(|pool| pool.max.set(max));
}

/// Buffer memory of this thread, free and lent together, in bytes.
#[must_use]
pub fn bytes_held() -> usize {
    POOL.with(|pool| pool.held.get())
}

/// Takes a buffer with `headroom` bytes in front, or `None` when the bound on buffer memory is reached.
#[must_use]
pub fn acquire(class: Class, headroom: usize) -> Option<Buf> {
    debug_assert!(headroom < class.bytes(), "headroom leaves no room for data");
    POOL.with(|pool| {
        let free = &pool.free[class as usize];
        let recycled = free.borrow_mut().pop();
        let mem = if let Some(mem) = recycled {
            let left = free.borrow().len();
            pool.low[class as usize].set(pool.low[class as usize].get().min(left));
            mem
        } else {
            if pool.held.get() + class.bytes() > pool.max.get() {
                return None;
            }
            pool.held.set(pool.held.get() + class.bytes());
            // Zeroed once in its life, so that no byte of it is ever uninitialised.
            vec![0; class.bytes()].into_boxed_slice()
        };
        Some(Buf { mem, start: headroom, end: headroom, class })
    })
}

/// Free buffers of each class that are kept although nobody needed them for a while, in bytes.
const SPARE_BYTES: usize = 256 * 1024;

/// Gives back to the system what was not needed since the last call, but for a few. Called about every second by the
/// worker.
pub fn trim() {
    POOL.with(|pool| {
        for class in [Class::Head, Class::Small, Class::Bulk] {
            let mut free = pool.free[class as usize].borrow_mut();
            let spare = SPARE_BYTES / class.bytes();
            let excess = pool.low[class as usize].get().min(free.len()).saturating_sub(spare);
            let keep = free.len() - excess;
            free.truncate(keep);
            free.shrink_to(keep.max(64));
            pool.held.set(pool.held.get() - excess * class.bytes());
            pool.low[class as usize].set(free.len());
        }
    });
}

/// Room that reads never fill, so that the end of a chunk and of a chunked body can be put behind the data.
pub const TAIL_RESERVE: usize = 64;

/// One I/O buffer. Dropping it gives its memory back to the pool of the thread.
#[derive(Debug)]
pub struct Buf {
    mem: Box<[u8]>,
    start: usize,
    end: usize,
    class: Class,
}

impl Buf {
    /// The bytes held.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.mem[self.start..self.end]
    }

    /// The bytes held, to decode in place.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.mem[self.start..self.end]
    }

    /// Number of bytes held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Does it hold no bytes?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Free room behind the bytes. A read leaves the last [`TAIL_RESERVE`] bytes of it free.
    #[must_use]
    pub fn tailroom(&self) -> usize {
        self.mem.len() - self.end
    }

    /// How many bytes the next read may bring.
    #[must_use]
    pub fn readroom(&self) -> usize {
        (self.mem.len() - TAIL_RESERVE).saturating_sub(self.end)
    }

    /// Free room in front of the bytes.
    #[must_use]
    pub fn headroom(&self) -> usize {
        self.start
    }

    /// Which class it is of.
    #[must_use]
    pub fn class(&self) -> Class {
        self.class
    }

    /// Drops the first `n` bytes (all, if there are fewer).
    pub fn consume(&mut self, n: usize) {
        self.start = (self.start + n).min(self.end);
    }

    /// Keeps only the first `n` bytes.
    pub fn truncate(&mut self, n: usize) {
        self.end = self.end.min(self.start + n);
    }

    /// Empties it and leaves `headroom` bytes in front.
    pub fn reset(&mut self, headroom: usize) {
        debug_assert!(headroom < self.mem.len(), "headroom leaves no room for data");
        self.start = headroom;
        self.end = headroom;
    }

    /// Appends as many bytes as there is room for and says how many those were.
    pub fn append(&mut self, bytes: &[u8]) -> usize {
        let n = bytes.len().min(self.tailroom());
        self.mem[self.end..self.end + n].copy_from_slice(&bytes[..n]);
        self.end += n;
        n
    }

    /// Puts bytes in front. `false`, and nothing done, when the headroom is too small.
    #[must_use]
    pub fn prepend(&mut self, bytes: &[u8]) -> bool {
        let Some(start) = self.start.checked_sub(bytes.len()) else {
            return false;
        };
        self.mem[start..self.start].copy_from_slice(bytes);
        self.start = start;
        true
    }

    /// The free room behind the bytes, to write into directly; commit with [`Buf::grow`].
    pub fn tail_mut(&mut self) -> &mut [u8] {
        &mut self.mem[self.end..]
    }

    /// Counts `n` bytes of the tail as held (as many as there are, at most).
    pub fn grow(&mut self, n: usize) {
        self.end = (self.end + n).min(self.mem.len());
    }
}

impl Drop for Buf {
    fn drop(&mut self) {
        let mem = std::mem::take(&mut self.mem);
        let class = self.class;
        // During thread exit the pool may be gone already: then the memory is simply freed.
        let _ = POOL.try_with(|pool| pool.free[class as usize].borrow_mut().push(mem));
    }
}

// SAFETY: `mem` is heap memory that stays where it is while the `Buf` itself is moved; it is freed only in Drop,
// and the runtime keeps the `Buf` until the operation has completed. All its bytes are initialised (zeroed once),
// and `start <= end <= mem.len()` holds in every method.
unsafe impl IoBuf for Buf {
    fn read_ptr(&self) -> *const u8 {
        self.mem[self.start..].as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.end - self.start
    }
}

// SAFETY: as above; the kernel may write `bytes_total` bytes from `write_ptr`, which lies inside the tail of `mem`,
// and `set_init` is told how many of those were written.
unsafe impl IoBufMut for Buf {
    fn write_ptr(&mut self) -> *mut u8 {
        self.mem[self.end..].as_mut_ptr()
    }

    fn bytes_total(&mut self) -> usize {
        self.readroom()
    }

    unsafe fn set_init(&mut self, pos: usize) {
        self.grow(pos);
    }
}
