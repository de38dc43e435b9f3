//! The only place that reads a clock.
//!
//! Time is `CLOCK_MONOTONIC`: comparable between workers, the controller and the kernel's timers.

use routing::time::MonoTime;
use rustix::time::{ClockId, clock_gettime};

/// Now, in nanoseconds of the system's monotonic clock. About 25 ns: a few times a request, not per byte.
#[must_use]
pub fn now() -> MonoTime {
    let time = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    MonoTime(seconds * 1_000_000_000 + nanos)
}

/// What this thread has used of a processor so far. A system call, about 0.2 µs: not for requests.
#[must_use]
pub fn thread_cpu() -> std::time::Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
    std::time::Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), nanos)
}

/// Wall-clock time, for log lines and the Date field.
#[must_use]
pub fn wall() -> std::time::SystemTime {
    std::time::SystemTime::now()
}
