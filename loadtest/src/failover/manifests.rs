//! What Ringway reads: the fleet's Ingress and FailoverPolicy, and the Services and EndpointSlices of both clusters.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use super::pod::HEALTH_PATH;
use super::row::{Layer, Row};
use super::template::Backend;
use super::topology::{Cluster, Plan};
use crate::bench::{BenchError, Result};
use crate::manifests::{self, Condition, replace};

/// A directory of manifests.
pub(crate) struct Manifests {
    root: PathBuf,
    pods: u8,
    backends: u8,
}

impl Manifests {
    /// Writes everything.
    pub(crate) fn write(root: &Path, row: &Row) -> Result<Self> {
        let manifests = Self { root: root.to_path_buf(), pods: row.pods, backends: row.backends };
        for folder in ["fleet", "clusters/a", "clusters/b"] {
            let folder = root.join(folder);
            fs::create_dir_all(&folder).map_err(BenchError::io(format!("create {}", folder.display())))?;
        }
        replace(&root.join("fleet/web.yaml"), &fleet(row))?;
        for cluster in Cluster::ALL {
            manifests.set(cluster, Condition::Ready)?;
        }
        Ok(manifests)
    }

    /// The directory.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Hub and members can no longer be reached.
    pub(crate) fn remove(&self) -> Result<()> {
        fs::remove_dir_all(&self.root).map_err(BenchError::io(format!("remove {}", self.root.display())))
    }

    /// Writes what a cluster says of its endpoints, in one step.
    pub(crate) fn set(&self, cluster: Cluster, condition: Condition) -> Result<()> {
        let path = self.root.join(format!("clusters/{}/web.yaml", cluster.name()));
        replace(&path, &slices(cluster, self.pods, self.backends, condition))
    }
}

/// Of connections nothing is known but their bytes: traffic alone must tell.
const NO_CHECK: &str = "";

fn fleet(row: &Row) -> String {
    let check = format!(
        "
  healthCheck: {{protocol: HTTP, path: {HEALTH_PATH}, interval: 20ms, timeout: 40ms, unhealthyThreshold: 2, healthyThreshold: 3}}"
    );
    let check = match row.layer {
        Layer::Seven => &check,
        Layer::Four => NO_CHECK,
    };
    let (route, target) = match row.layer {
        Layer::Seven => (ingress(row) + "---\n", "{group: networking.k8s.io, kind: Ingress, name: web}"),
        Layer::Four => (
            manifests::tcp_route("default", Plan::listen()),
            "{group: gateway.networking.k8s.io, kind: TCPRoute, name: web}",
        ),
    };
    format!(
        "\
{route}apiVersion: ringway.dev/v1alpha1
kind: FailoverPolicy
metadata: {{name: web, namespace: default}}
spec:
  targetRefs: [{target}]
  clusters:
  - {{name: a, priority: 0}}
  - {{name: b, priority: 1}}{check}
  retry: {{attempts: 3, budgetPercent: 20, statuses: [500, 502, 503, 504]}}
  hedge: {{mode: {}}}
  timeouts: {{connect: 1s, attempt: 0s, request: 30s, idle: 60s}}
",
        row.hedge.name()
    )
}

fn ingress(row: &Row) -> String {
    let mut paths = String::new();
    for Backend { name, path, .. } in (0..row.backends).map(|index| Backend::new(index, row.pods)) {
        writeln!(
            paths,
            "      - {{path: {path}, pathType: Prefix, backend: {{service: {{name: {name}, port: {{number: 80}}}}}}}}"
        )
        .expect("writing to a string");
    }
    format!(
        "\
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {{name: web, namespace: default}}
spec:
  rules:
  - http:
      paths:
{paths}"
    )
}

fn slices(cluster: Cluster, pods: u8, backends: u8, condition: Condition) -> String {
    let mut text = String::new();
    for index in 0..backends {
        let name = Backend::new(index, pods).name;
        let endpoints: Vec<_> = (0..pods).map(|pod| Plan::pod(cluster, pod, index)).collect();
        text.push_str(&manifests::service("default", &name, Plan::pod(cluster, 0, index).port()));
        text.push_str(&manifests::slice("default", &name, 1, &endpoints, condition));
    }
    text
}
