//! What is done while requests flow.

use std::time::Duration;

use clap::ValueEnum;

/// One thing that an operator, a cluster or a certificate manager does all the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Row {
    /// Nothing: what the load itself looks like here.
    Quiet,
    /// The hub's routes are edited 50 times per second.
    Reload,
    /// Endpoints come and go: 100 changes of the table per second.
    TableChanges,
    /// The certificate of the TLS listener is replaced ten times per second; half of the load is new handshakes.
    Certificates,
    /// SIGHUP ten times per second, with settings that differ each time.
    Sighup,
    /// A new process takes the port and the old one is told to drain (SIGTERM), once a second.
    Handover,
}

impl Row {
    /// All of them.
    pub(crate) const ALL: [Self; 6] =
        [Self::Quiet, Self::Reload, Self::TableChanges, Self::Certificates, Self::Sighup, Self::Handover];

    /// The name on the command line and in the report.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Quiet => "quiet",
            Self::Reload => "reload",
            Self::TableChanges => "table-changes",
            Self::Certificates => "certificates",
            Self::Sighup => "sighup",
            Self::Handover => "handover",
        }
    }

    /// In words, for people.
    pub(crate) fn about(self) -> &'static str {
        match self {
            Self::Quiet => "nothing is done",
            Self::Reload => "routes edited 50 times per second",
            Self::TableChanges => "endpoints come and go, 100 changes per second",
            Self::Certificates => "certificate replaced 10 times per second, load over TLS",
            Self::Sighup => "SIGHUP with other settings 10 times per second",
            Self::Handover => "a new process takes the port, the old one drains, once a second",
        }
    }

    /// From one time to the next; none where nothing is done.
    pub(crate) fn interval(self) -> Option<Duration> {
        match self {
            Self::Quiet => None,
            Self::Reload => Some(Duration::from_millis(20)),
            Self::TableChanges => Some(Duration::from_millis(10)),
            Self::Certificates | Self::Sighup => Some(Duration::from_millis(100)),
            Self::Handover => Some(Duration::from_secs(1)),
        }
    }

    /// Does its load come over TLS?
    pub(crate) fn is_secured(self) -> bool {
        match self {
            Self::Certificates => true,
            Self::Quiet | Self::Reload | Self::TableChanges | Self::Sighup | Self::Handover => false,
        }
    }
}
