//! Where the control plane's objects come from when no Kubernetes is configured.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The directory of manifests: `DIR/fleet/*.yaml` and `DIR/clusters/NAME/*.yaml`, watched.
///
/// Default `/etc/ringway/manifests`. Not live: the watch is set up at boot. A directory that is missing at boot is an
/// error of the one who opens it, not of this crate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ManifestsDir(PathBuf);

impl ManifestsDir {
    /// The path as written; a relative one is meant from the working directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl From<PathBuf> for ManifestsDir {
    fn from(path: PathBuf) -> Self {
        Self(path)
    }
}

impl Default for ManifestsDir {
    fn default() -> Self {
        Self(PathBuf::from("/etc/ringway/manifests"))
    }
}
