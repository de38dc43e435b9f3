//! Waiting for eventfds and timers on the ring.
//!
//! Both are descriptors that become readable; the runtime waits for readiness, and a plain non-blocking read
//! takes the count.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram as StdDatagram;
use std::time::Duration;

use monoio::net::UnixDatagram;
use rustix::event::{EventfdFlags, eventfd};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

/// A descriptor of any kind whose readability is awaited.
pub struct Watch(UnixDatagram);

impl Watch {
    /// Watches `fd`. The runtime only ever polls it, so that the type of socket does not matter.
    ///
    /// # Errors
    /// When the runtime cannot register it.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        UnixDatagram::from_std(StdDatagram::from(fd)).map(Self)
    }

    /// Waits until it is readable.
    ///
    /// # Errors
    /// When the wait cannot be started.
    pub async fn readable(&self) -> io::Result<()> {
        self.0.readable(false).await
    }
}

/// A descriptor that counts: reading it takes the count.
struct Waitable {
    watch: Watch,
    fd: OwnedFd,
}

impl Waitable {
    fn new(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self { watch: Watch::new(fd.try_clone()?)?, fd })
    }

    async fn wait(&self) -> io::Result<()> {
        self.watch.readable().await?;
        let mut count = [0; 8];
        match rustix::io::read(&self.fd, &mut count) {
            Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// The sending half of a worker's doorbell: any thread rings it by writing eight bytes.
///
/// # Errors
/// When the process is out of descriptors.
pub fn doorbell() -> io::Result<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

/// The receiving half of a worker's doorbell.
pub struct Doorbell(Waitable);

impl Doorbell {
    /// Listens on an eventfd made by [`doorbell`].
    ///
    /// # Errors
    /// When the runtime cannot register it.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        Waitable::new(fd).map(Self)
    }

    /// Waits until it was rung at least once since the last wait.
    ///
    /// # Errors
    /// When the wait cannot be started.
    pub async fn wait(&self) -> io::Result<()> {
        self.0.wait().await
    }
}

/// One timer of nanosecond resolution (the runtime's own round up to whole milliseconds).
pub struct Timer(Waitable);

impl Timer {
    /// A timer that is not armed.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        Waitable::new(timerfd_create(TimerfdClockId::Monotonic, flags)?).map(Self)
    }

    /// Lets it fire once, `after` from now (at once, if zero).
    ///
    /// # Errors
    /// Never for a valid duration.
    pub fn arm(&self, after: Duration) -> io::Result<()> {
        let after = after.max(Duration::from_nanos(1));
        let it_value = Timespec {
            tv_sec: i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(after.subsec_nanos()),
        };
        let it_interval = Timespec { tv_sec: 0, tv_nsec: 0 };
        timerfd_settime(&self.0.fd, TimerfdTimerFlags::empty(), &Itimerspec { it_interval, it_value })?;
        Ok(())
    }

    /// Waits until it fires.
    ///
    /// # Errors
    /// When the wait cannot be started.
    pub async fn wait(&self) -> io::Result<()> {
        self.0.wait().await
    }
}
