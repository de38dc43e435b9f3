//! Who takes part: how each is configured and started.

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use clap::ValueEnum;
use serde::Serialize;

use super::case::Layer;
use super::process::{WorkDir, files_max, find};
use super::{BenchError, Result};

/// A proxy under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Proxy {
    /// The raw io_uring relay of this program.
    Floor,
    /// The gateway.
    Ringway,
    /// Debian's nginx.
    Nginx,
    /// Debian's HAProxy.
    Haproxy,
}

const NGINX: &str = include_str!("../../peers/nginx/nginx.conf.tmpl");
const HAPROXY: &str = include_str!("../../peers/haproxy/haproxy.cfg.tmpl");
const NGINX_L4: &str = include_str!("../../peers/nginx/layer4.conf.tmpl");
const HAPROXY_L4: &str = include_str!("../../peers/haproxy/layer4.cfg.tmpl");
/// nginx speaks layer 4 by a module that Debian packages apart.
const NGINX_STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// Connections that a peer is configured for, both sides together, where descriptors allow.
const CONNECTIONS_MAX: u64 = 30_000;

impl Proxy {
    /// All of them, in the order in which a round measures them.
    pub(crate) const ALL: [Self; 4] = [Self::Floor, Self::Ringway, Self::Nginx, Self::Haproxy];

    /// The name on the command line and in the report.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Ringway => "ringway",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
        }
    }

    /// Whether it is what Ringway is compared with: the floor is a yardstick, not a peer.
    pub(crate) fn is_peer(self) -> bool {
        match self {
            Self::Nginx | Self::Haproxy => true,
            Self::Floor | Self::Ringway => false,
        }
    }

    /// Refuses, with the remedy, when its program is not there.
    pub(crate) fn check(self, ringway: &Path, layer: Layer) -> Result<()> {
        match self {
            Self::Floor => Ok(()),
            Self::Ringway if ringway.is_file() => Ok(()),
            Self::Ringway => Err(BenchError::Missing {
                program: ringway.display().to_string(),
                remedy: "cargo build --release, or --ringway PATH, or --proxies floor,nginx,haproxy"
                    .to_owned(),
            }),
            Self::Nginx if layer == Layer::Four && !Path::new(NGINX_STREAM).is_file() => {
                Err(BenchError::Missing {
                    program: NGINX_STREAM.to_owned(),
                    remedy: "apt-get install libnginx-mod-stream".to_owned(),
                })
            }
            Self::Nginx => find("nginx", "apt-get install nginx-light"),
            Self::Haproxy => find("haproxy", "apt-get install haproxy"),
        }
    }

    /// Writes what it needs into its own folder of `dir` and returns its command line.
    pub(crate) fn prepare(
        self,
        layer: Layer,
        dir: &WorkDir,
        ringway: &Path,
        listen: SocketAddr,
        backend: SocketAddr,
    ) -> Result<Vec<OsString>> {
        let home = dir.fresh(self.name())?;
        let fill = |template: &str, connections: u64| {
            template
                .replace("{{LISTEN}}", &listen.to_string())
                .replace("{{BACKEND}}", &backend.to_string())
                .replace("{{DIR}}", &home.display().to_string())
                .replace("{{FILES}}", &files_max().to_string())
                .replace("{{CONNECTIONS}}", &connections.to_string())
        };
        let files = files_max();
        match self {
            Self::Floor => {
                let own = std::env::current_exe().map_err(BenchError::io("find this program"))?;
                let (listen, backend) = (listen.to_string(), backend.to_string());
                let args = ["floor", "--listen", &listen, "--upstream", &backend].map(OsString::from);
                Ok([own.into_os_string()].into_iter().chain(args).collect())
            }
            Self::Nginx => {
                let config = home.join("nginx.conf");
                let template = if layer == Layer::Four { NGINX_L4 } else { NGINX };
                write(&config, &fill(template, files.min(CONNECTIONS_MAX)))?;
                Ok(vec!["nginx".into(), "-p".into(), home.into(), "-c".into(), config.into()])
            }
            Self::Haproxy => {
                let config = home.join("haproxy.cfg");
                // HAProxy counts clients only; some descriptors are left for upstream connections.
                let template = if layer == Layer::Four { HAPROXY_L4 } else { HAPROXY };
                write(&config, &fill(template, files.saturating_sub(files / 10).min(CONNECTIONS_MAX)))?;
                Ok(vec!["haproxy".into(), "-db".into(), "-f".into(), config.into()])
            }
            Self::Ringway => {
                write_manifests(&home, layer, listen, backend)?;
                let config = home.join("gateway.toml");
                let socket = home.join("admin.sock");
                write(
                    &config,
                    &format!(
                        "[admin]\nsocket = {:?}\n[observe]\nlog_level = \"warn\"\n",
                        socket.display().to_string()
                    ),
                )?;
                let admin = super::free_addr()?;
                let mut command: Vec<OsString> =
                    vec![ringway.into(), "run".into(), "--config".into(), config.into()];
                command.extend(["--manifests".into(), home.join("manifests").into()]);
                // At layer 4 its Gateway listens there, and HTTP somewhere else.
                let http = if layer == Layer::Four { super::free_addr()? } else { listen };
                let (listen, admin) = (format!("{http}/http"), admin.to_string());
                command
                    .extend(["--listen", &listen, "--admin", &admin, "--workers", "1"].map(OsString::from));
                Ok(command)
            }
        }
    }
}

/// One Ingress for every host and path, or one TCPRoute; one Service, one endpoint.
fn write_manifests(home: &Path, layer: Layer, listen: SocketAddr, backend: SocketAddr) -> Result<()> {
    let (ip, port) = (backend.ip(), backend.port());
    let family = if backend.is_ipv4() { "IPv4" } else { "IPv6" };
    let layer4 = format!(
        "\
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {{name: ringway}}
spec: {{controllerName: ringway.dev/gateway}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: bench, namespace: bench}}
spec:
  gatewayClassName: ringway
  addresses: [{{value: \"{}\"}}]
  listeners: [{{name: tcp, port: {}, protocol: TCP}}]
---
apiVersion: gateway.networking.k8s.io/v1alpha2
kind: TCPRoute
metadata: {{name: bench, namespace: bench}}
spec:
  parentRefs: [{{name: bench}}]
  rules: [{{backendRefs: [{{name: web, port: 80}}]}}]
",
        listen.ip(),
        listen.port()
    );
    let layer7 = "\
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: bench, namespace: bench}
spec:
  rules:
  - http:
      paths:
      - path: /
        pathType: Prefix
        backend: {service: {name: web, port: {number: 80}}}
";
    let cluster = format!(
        "\
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: bench}}
spec:
  ports:
  - {{name: http, port: 80, protocol: TCP, targetPort: {port}}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: web-1, namespace: bench, labels: {{kubernetes.io/service-name: web}}}}
addressType: {family}
ports:
- {{name: http, port: {port}, protocol: TCP}}
endpoints:
- addresses: [\"{ip}\"]
  conditions: {{ready: true, serving: true, terminating: false}}
"
    );
    let fleet = if layer == Layer::Four { &*layer4 } else { layer7 };
    let manifests = home.join("manifests");
    for (folder, name, text) in [("fleet", "bench.yaml", fleet), ("clusters/alpha", "bench.yaml", &cluster)] {
        let folder = manifests.join(folder);
        fs::create_dir_all(&folder).map_err(BenchError::io(format!("create {}", folder.display())))?;
        write(&folder.join(name), text)?;
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(BenchError::io(format!("write {}", path.display())))
}
