//! Where the control plane's objects come from: a Kubernetes API, or a directory.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::unit::Period;

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

/// `[fleet]`: the hub cluster whose API is watched in place of a directory of manifests. Not live: the watches are set
/// up at boot; what they see is, of course.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Fleet {
    /// The hub's kubeconfig: a path, or `in-cluster` for the service account of the pod that this runs in. Default
    /// empty: no hub, the directory of manifests is served.
    pub kubeconfig: PathBuf,
    /// The namespace of the Lease, and of kubeconfig Secrets (by their label) and `ClusterProfiles` that make members. Default
    /// `ringway-system`; 1 to 63 bytes.
    pub namespace: String,
    /// More namespaces whose labelled kubeconfig Secrets and `ClusterProfiles` make members (`istio-system`, `argocd`). Whoever can write a
    /// Secret there can add a member cluster. Default none; at most 32.
    pub secret_namespaces: Vec<String>,
    /// How long an empty or much smaller list from an API server is doubted before it is asked for again, and believed
    /// if it says the same. Default 5 s.
    pub confirm_after: Period,
    /// Are status and Events written to the hub, by the holder of the Lease? Default true.
    pub write_status: bool,
    /// Where clients reach the nodes, as it is reported in the status of Gateways and Ingresses that name no address of
    /// their own: IP addresses or DNS names, of a load balancer or a virtual IP. Default none: the address from which
    /// the writing node reaches the hub. At most 16.
    pub addresses: Vec<String>,
    /// Objects of the hub that are written at once after a quiet time. What waits is counted in
    /// `ringway_fleet_status_deferred_total`. Default 300; 1 to 10,000.
    pub status_burst: u32,
    /// Objects of the hub that are written per second for any length of time. Default 50; 1 to 10,000.
    pub status_per_second: u32,
}

impl Fleet {
    /// Is there a hub?
    #[must_use]
    pub fn is_set(&self) -> bool {
        !self.kubeconfig.as_os_str().is_empty()
    }
}

impl Default for Fleet {
    fn default() -> Self {
        Self {
            kubeconfig: PathBuf::new(),
            namespace: "ringway-system".to_owned(),
            secret_namespaces: Vec::new(),
            confirm_after: Period::millis(5_000),
            write_status: true,
            addresses: Vec::new(),
            status_burst: 300,
            status_per_second: 50,
        }
    }
}
