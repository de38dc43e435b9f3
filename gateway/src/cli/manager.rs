//! What the service manager (systemd) is told: ready, alive, stopping. Without one there is nobody to tell.
//!
//! The watchdog is fed by the slowest worker: one that hangs is a hang, whatever the others do.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use routing::time::MonoTime;

/// `WatchdogSec` where the manager does not say.
const WATCHDOG_DEFAULT: Duration = Duration::from_secs(5);

/// The service manager that started us, if one did.
pub(crate) struct Manager {
    /// A worker that has not come round for this long is hung: the watchdog is not fed.
    hung_after: Duration,
    told_ready: bool,
}

impl Manager {
    /// As the environment says (`NOTIFY_SOCKET`, `WATCHDOG_USEC`).
    pub(crate) fn from_environment() -> Self {
        Self::new(sd_notify::watchdog_enabled().unwrap_or(WATCHDOG_DEFAULT))
    }

    fn new(watchdog: Duration) -> Self {
        // Silent for half of the time, then not fed for the other half: the manager acts after `WatchdogSec` of a hang,
        // not after twice that.
        Self { hung_after: watchdog / 2, told_ready: false }
    }

    /// Every worker listens and runs the first table. Told until it is taken.
    pub(crate) fn ready(&mut self) {
        if !self.told_ready {
            self.told_ready = tell("READY=1\n").is_ok();
        }
    }

    /// Feeds the watchdog once we are ready, unless a worker hangs. `alive_ns`: when each worker last came round, 0 = it has not begun.
    pub(crate) fn feed(&self, now: MonoTime, alive_ns: impl Iterator<Item = u64>) {
        if self.told_ready && self.all_come_round(now, alive_ns) {
            // One that is lost is followed by the next.
            let _ = tell("WATCHDOG=1\n");
        }
    }

    fn all_come_round(&self, now: MonoTime, alive_ns: impl Iterator<Item = u64>) -> bool {
        let hung_ns = u64::try_from(self.hung_after.as_nanos()).unwrap_or(u64::MAX);
        let mut alive_ns = alive_ns;
        // A worker that has not begun yet has nothing to show.
        alive_ns.all(|alive| alive == 0 || now.0.saturating_sub(alive) < hung_ns)
    }

    /// The drain begins.
    pub(crate) fn stopping(&self) {
        // A manager that does not listen is no reason to go on.
        let _ = tell("STOPPING=1\n");
    }
}

/// Sends one word, or does nothing where nobody listens. Never waits: a manager that does not read must not keep us
/// from hearing signals.
fn tell(word: &str) -> io::Result<()> {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    let manager = match path.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(&path)?,
    };
    socket.send_to_addr(word.as_bytes(), &manager).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_worker_that_hangs_starves_the_watchdog_whatever_the_others_do() {
        let manager = Manager::new(Duration::from_secs(4));
        let second = 1_000_000_000;
        let at = |alive: &[u64]| manager.all_come_round(MonoTime(10 * second), alive.iter().copied());
        assert!(at(&[10 * second, 9 * second, 0]), "one has not begun");
        assert!(!at(&[10 * second, 8 * second, 10 * second]), "one is silent for half of WatchdogSec");
        assert!(at(&[11 * second]), "a worker's clock may be ahead of ours");
    }
}
