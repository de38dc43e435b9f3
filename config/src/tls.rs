//! `[tls]`: TLS towards clients.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What holds for TLS on every listener; certificates, versions and ciphers are the listeners' own. All live.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// A file with the secrets that keys of session tickets are made of, one on each line, 32 to 1,024 characters, up to
    /// four: nodes that have the same resume each other's sessions. The first makes tickets, all of them are accepted.
    /// Default empty: every process draws keys of its own. Read at the start and on SIGHUP.
    pub ticket_secrets: PathBuf,
}
