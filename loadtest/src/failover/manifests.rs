//! What Ringway reads: the fleet's Ingress and FailoverPolicy, and the Services and EndpointSlices of both clusters.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use super::pod::HEALTH_PATH;
use super::row::{Layer, Row};
use super::template::Backend;
use super::topology::{Cluster, Plan};
use crate::bench::{BenchError, Result};

/// A directory of manifests.
pub(crate) struct Manifests {
    root: PathBuf,
    pods: u8,
    backends: u8,
}

/// What the slices say of their endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    /// They serve.
    Ready,
    /// They finish what they have.
    Terminating,
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

/// A reader sees the old content or the new one.
pub(crate) fn replace(path: &Path, text: &str) -> Result<()> {
    // Not a name that is read as a manifest.
    let fresh = path.with_extension("new");
    fs::write(&fresh, text)
        .and_then(|()| fs::rename(&fresh, path))
        .map_err(BenchError::io(format!("write {}", path.display())))
}

fn fleet(row: &Row) -> String {
    let (route, target) = match row.layer {
        Layer::Seven => (ingress(row), "{group: networking.k8s.io, kind: Ingress, name: web}"),
        Layer::Four => (tcp_route(), "{group: gateway.networking.k8s.io, kind: TCPRoute, name: web}"),
    };
    format!(
        "\
{route}---
apiVersion: ringway.dev/v1alpha1
kind: FailoverPolicy
metadata: {{name: web, namespace: default}}
spec:
  targetRefs: [{target}]
  clusters:
  - {{name: a, priority: 0}}
  - {{name: b, priority: 1}}
  healthCheck: {{protocol: HTTP, path: {HEALTH_PATH}, interval: 20ms, timeout: 40ms, unhealthyThreshold: 2, healthyThreshold: 3}}
  retry: {{attempts: 3, budgetPercent: 20, statuses: [500, 502, 503, 504]}}
  hedge: {{mode: {}}}
  timeouts: {{connect: 1s, attempt: 0s, request: 30s, idle: 60s}}
",
        row.hedge.name()
    )
}

fn tcp_route() -> String {
    let listen = Plan::listen();
    format!(
        "\
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {{name: ringway}}
spec: {{controllerName: ringway.dev/gateway}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: web, namespace: default}}
spec:
  gatewayClassName: ringway
  addresses: [{{type: IPAddress, value: {}}}]
  listeners: [{{name: tcp, port: {}, protocol: TCP}}]
---
apiVersion: gateway.networking.k8s.io/v1alpha2
kind: TCPRoute
metadata: {{name: web, namespace: default}}
spec:
  parentRefs: [{{name: web}}]
  rules: [{{backendRefs: [{{name: web, port: 80}}]}}]
",
        listen.ip(),
        listen.port()
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
    let conditions = match condition {
        Condition::Ready => "{ready: true, serving: true, terminating: false}",
        Condition::Terminating => "{ready: false, serving: true, terminating: true}",
    };
    let mut text = String::new();
    for index in 0..backends {
        let (name, port) = (Backend::new(index, pods).name, Plan::pod(cluster, 0, index).port());
        write!(
            text,
            "\
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: default}}
spec:
  ports:
  - {{name: http, port: 80, protocol: TCP, targetPort: {port}}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-1, namespace: default, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports:
- {{name: http, port: {port}, protocol: TCP}}
endpoints:
"
        )
        .expect("writing to a string");
        for pod in 0..pods {
            let address = Plan::pod(cluster, pod, index).ip();
            writeln!(text, "- {{addresses: [\"{address}\"], conditions: {conditions}}}").expect("a string");
        }
        text.push_str("---\n");
    }
    text
}
