//! Which requests a backend has executed: written as they arrive, so that it outlives a killed backend.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Bytes of one entry: three numbers.
const ENTRY_BYTES: usize = 24;

/// Where a backend writes down what it executes.
#[derive(Debug)]
pub struct Journal {
    file: File,
    header: String,
}

/// One execution: a complete request arrived. Whether its answer was ever sent is another matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Execution {
    /// The request's number, from its number header.
    pub number: u64,
    /// When it had arrived, on the machine's monotonic clock (see [`now`]).
    pub at: Duration,
    /// The latency that the service drew for it; what a brownout adds is not in it.
    pub drawn: Duration,
}

impl Journal {
    /// Writes to a new file, or goes on in it when it exists; numbers are read from the request header `header`.
    /// Requests without a number are not written down.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(path: &Path, header: &str) -> io::Result<Self> {
        let file = File::options().create(true).append(true).open(path)?;
        Ok(Self { file, header: header.to_owned() })
    }

    pub(crate) fn header(&self) -> &str {
        &self.header
    }

    /// One entry; a whole write each, because nobody warns before SIGKILL.
    pub(crate) fn write(&mut self, entry: Execution) -> io::Result<()> {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).to_le_bytes();
        self.file.write_all(&[entry.number.to_le_bytes(), nanos(entry.at), nanos(entry.drawn)].concat())
    }

    /// All entries of a file, in the order in which they were written.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(path: &Path) -> io::Result<Vec<Execution>> {
        let mut bytes = Vec::new();
        File::open(path)?.read_to_end(&mut bytes)?;
        let number = |entry: &[u8], at: usize| {
            u64::from_le_bytes(entry[at..at + 8].try_into().expect("eight bytes of an entry"))
        };
        let entry = |entry: &[u8]| Execution {
            number: number(entry, 0),
            at: Duration::from_nanos(number(entry, 8)),
            drawn: Duration::from_nanos(number(entry, 16)),
        };
        Ok(bytes.chunks_exact(ENTRY_BYTES).map(entry).collect())
    }
}

/// The machine's monotonic clock, the same in all its processes and network namespaces.
#[must_use]
pub fn now() -> Duration {
    let time = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}
