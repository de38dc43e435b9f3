//! What is checked and set up before anything is served.

use std::io;

use config::LogLevel;

/// Kernels before this lack what the ring needs.
const KERNEL_MIN: (u32, u32) = (6, 1);

/// Is there an io_uring that we may use?
///
/// # Errors
/// Names what is missing.
pub(crate) fn check_kernel() -> Result<(), String> {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy().into_owned();
    if version_of(&release).is_some_and(|version| version < KERNEL_MIN) {
        let (major, minor) = KERNEL_MIN;
        return Err(format!("Linux {release} is too old: {major}.{minor} or newer is needed for io_uring"));
    }
    match io_uring::IoUring::new(8) {
        Ok(_) => Ok(()),
        Err(error) => Err(refused(&error)),
    }
}

fn refused(error: &io::Error) -> String {
    let sysctl = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    let why = match sysctl.trim() {
        "1" => {
            "; kernel.io_uring_disabled is 1: set it to 0, or give the process CAP_SYS_ADMIN or the io_uring group"
        }
        "2" => "; kernel.io_uring_disabled is 2: set it to 0",
        _ if error.raw_os_error() == Some(libc::EPERM) => {
            "; a seccomp filter (container runtime, systemd SystemCallFilter) forbids io_uring_setup"
        }
        _ if error.raw_os_error() == Some(libc::ENOSYS) => {
            "; this kernel is built without CONFIG_IO_URING, or a sandbox (gVisor) stands in for it"
        }
        _ if error.raw_os_error() == Some(libc::ENOMEM) => "; raise LimitMEMLOCK",
        _ => "",
    };
    format!("io_uring cannot be used: {error}{why}")
}

fn version_of(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// What can be changed of logging while the process runs.
pub(crate) struct Logging(Box<dyn Fn(LogLevel)>);

impl Logging {
    /// Logs at this level from now on, unless the environment (`RINGWAY_LOG`) has said what is logged.
    pub(crate) fn set_level(&self, level: LogLevel) {
        (self.0)(level);
    }
}

/// Logs go to stderr, without time stamps where journald adds its own.
pub(crate) fn start_logging(level: LogLevel) -> Logging {
    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::util::SubscriberInitExt;
    use tracing_subscriber::{EnvFilter, Layer, fmt, reload};
    let of_environment = EnvFilter::try_from_env("RINGWAY_LOG");
    let may_change = of_environment.is_err();
    let filter = of_environment.unwrap_or_else(|_| EnvFilter::new(level.name()));
    let (filter, handle) = reload::Layer::new(filter);
    let lines = fmt::layer().with_writer(io::stderr).with_target(false);
    let to_terminal = io::IsTerminal::is_terminal(&io::stderr());
    let to_journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let lines = if to_journal {
        lines.without_time().with_ansi(false).boxed()
    } else {
        lines.with_ansi(to_terminal).boxed()
    };
    // A second subscriber (demo, tests) is not an error.
    let _ = tracing_subscriber::registry().with(filter).with(lines).try_init();
    Logging(Box::new(move |level| {
        if may_change {
            // Fails only when the subscriber is gone: then nothing is logged anyway.
            let _ = handle.reload(EnvFilter::new(level.name()));
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_releases_are_read_whatever_distributions_append() {
        assert_eq!(version_of("6.1.0-18-amd64"), Some((6, 1)));
        assert_eq!(version_of("6.18.44"), Some((6, 18)));
        assert_eq!(version_of("5.15.0"), Some((5, 15)));
        assert!((5, 15) < KERNEL_MIN);
        assert_eq!(version_of("garbage"), None);
    }
}
