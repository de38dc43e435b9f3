//! `[admin]` and `[observe]`: who may look, and what is written down.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::unit::{ByteSize, as_string};

/// `[admin]`: where the admin thread listens. Not live.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Admin {
    /// Reads: `/healthz`, `/readyz`, `/metrics`, `/api/v1/…`. Default `127.0.0.1:9901`. There is no authentication:
    /// another address than loopback is for a network that is trusted.
    pub listen: SocketAddr,
    /// The Unix socket (mode 0600) for everything that changes state. Default `/run/ringway/admin.sock`; empty = none:
    /// nothing can be changed by command.
    pub socket: PathBuf,
    /// Where operators' words (drained, promoted) and drill reports are kept. Default `/var/lib/ringway`; empty =
    /// nowhere: they end with the process. Made when there is something to write.
    pub state_dir: PathBuf,
    /// The file with the 32 bytes that Secrets are sealed with in `state_dir`, so that a start without the hub serves TLS; a
    /// name without a directory is a credential of the service manager (`$CREDENTIALS_DIRECTORY`). Default empty: Secrets
    /// are left out.
    pub state_key: PathBuf,
    /// Drill reports that are kept; the oldest goes when one more comes. Default 32.
    pub drill_reports_kept: u32,
}

/// `[observe]`: logs and metrics.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Observe {
    /// Where the access log goes: `"off"`, `"stdout"` or a path. Default off. Not live, but a file is reopened
    /// on SIGUSR1.
    pub access_log: AccessLog,
    /// Access-log bytes that one worker holds until they are written. Default 1 MiB. Beyond it lines are dropped
    /// and counted as `access_log_bytes`. Not live.
    pub access_log_bytes_max: ByteSize,
    /// Decisions of the last minute that the node remembers, all workers together, for `ringway plan`: a random sample, at
    /// most 2 KiB each. Default 1,200; 0 = none. What is not in the sample is counted as `decisions`. Not live.
    pub decisions_max: u32,
    /// What is logged to stderr. Default info. Live.
    pub log_level: LogLevel,
    /// Series of one metric that has a label from configuration (route, backend, cluster). Default 4,096. Beyond it
    /// the rest is summed under `other`, and counted as `metrics_series` each time that it is compiled. Not live.
    pub metrics_series_max: u32,
    /// Decisions that each worker's flight recorder remembers, 64 bytes each. Default 4,096; 0 = no recorder. Not live.
    pub recorder_entries: u32,
    /// Where the recordings of verdicts are written. Default empty: `recordings` in `admin.state_dir`, and nowhere when
    /// that is empty, too: then there is no recorder. Made when there is something to write. Not live.
    pub recorder_dir: PathBuf,
    /// Recordings that are kept; the oldest goes when one more comes. Default 16. Not live.
    pub recorder_files: u32,
}

/// Where the access log goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AccessLog {
    /// Nowhere.
    #[default]
    Off,
    /// Standard output, one JSON line per request.
    Stdout,
    /// This file, appended to.
    File(PathBuf),
}

/// How much is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// A human must act.
    Error,
    /// Something was lost, and we went on.
    Warn,
    /// The table, a listener or health changed.
    #[default]
    Info,
    /// Every request.
    Debug,
    /// Every step.
    Trace,
}

impl LogLevel {
    /// The name as written in the file, which is what `tracing` understands, too.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// Why an access log's destination was not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccessLogError;

impl FromStr for AccessLog {
    type Err = AccessLogError;

    fn from_str(text: &str) -> Result<Self, AccessLogError> {
        match text {
            "off" => Ok(Self::Off),
            "stdout" => Ok(Self::Stdout),
            // A bare word is more likely a misspelt keyword than a file in whatever the working directory is.
            path if Path::new(path).is_absolute() || path.starts_with("./") => {
                Ok(Self::File(PathBuf::from(path)))
            }
            _ => Err(AccessLogError),
        }
    }
}

impl fmt::Display for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Stdout => f.write_str("stdout"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

impl fmt::Display for AccessLogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(r#"expected "off", "stdout" or a path that begins with / or ./"#)
    }
}

impl std::error::Error for AccessLogError {}

as_string!(AccessLog);

impl Default for Admin {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 9_901)),
            socket: PathBuf::from("/run/ringway/admin.sock"),
            state_dir: PathBuf::from("/var/lib/ringway"),
            state_key: PathBuf::new(),
            drill_reports_kept: 32,
        }
    }
}

impl Default for Observe {
    fn default() -> Self {
        Self {
            access_log: AccessLog::Off,
            access_log_bytes_max: ByteSize::mib(1),
            decisions_max: 1_200,
            log_level: LogLevel::Info,
            metrics_series_max: 4_096,
            recorder_entries: 4_096,
            recorder_dir: PathBuf::new(),
            recorder_files: 16,
        }
    }
}
