//! Who takes part: how each is configured and started.

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use clap::ValueEnum;
use serde::Serialize;

use super::case::{Case, Layer, Transport, host};
use super::process::{files_max, find};
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
    pub(crate) fn check(self, ringway: &Path, case: Case) -> Result<()> {
        let layer = case.layer;
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

    /// Writes what it needs into `home` and returns its command line.
    pub(crate) fn prepare(
        self,
        case: Case,
        home: &Path,
        ringway: &Path,
        listen: SocketAddr,
        backend: SocketAddr,
    ) -> Result<Vec<OsString>> {
        let files = files_max();
        if case.transport == Transport::Tls {
            write_certificate(home)?;
        }
        let fill = |template: &str, connections: u64| {
            let (tls, names) = (self.tls(case, home), self.names(case));
            template
                .replace("{{NAMES}}", &names)
                .replace("{{LISTEN}}", &listen.to_string())
                .replace("{{BACKEND}}", &backend.to_string())
                .replace("{{DIR}}", &home.display().to_string())
                .replace("{{FILES}}", &files.to_string())
                .replace("{{CONNECTIONS}}", &connections.to_string())
                .replace("{{TLS}}", &tls)
        };
        match self {
            Self::Floor => {
                let own = std::env::current_exe().map_err(BenchError::io("find this program"))?;
                let (listen, backend) = (listen.to_string(), backend.to_string());
                let args = ["floor", "--listen", &listen, "--upstream", &backend].map(OsString::from);
                Ok([own.into_os_string()].into_iter().chain(args).collect())
            }
            Self::Nginx => {
                let config = home.join("nginx.conf");
                let template = if case.layer == Layer::Four { NGINX_L4 } else { NGINX };
                write(&config, &fill(template, files.min(CONNECTIONS_MAX)))?;
                Ok(vec!["nginx".into(), "-p".into(), home.into(), "-c".into(), config.into()])
            }
            Self::Haproxy => {
                let config = home.join("haproxy.cfg");
                let map = (0..case.hosts).map(|nth| format!("{} pods\n", host(nth))).collect::<String>();
                write(&home.join("hosts.map"), &map)?;
                // HAProxy counts clients only; some descriptors are left for upstream connections.
                let template = if case.layer == Layer::Four { HAPROXY_L4 } else { HAPROXY };
                write(&config, &fill(template, files.saturating_sub(files / 10).min(CONNECTIONS_MAX)))?;
                Ok(vec!["haproxy".into(), "-db".into(), "-f".into(), config.into()])
            }
            Self::Ringway => prepare_ringway(case, home, ringway, listen, backend),
        }
    }

    /// What its listener is told of TLS.
    fn tls(self, case: Case, home: &Path) -> String {
        let dir = home.display();
        match (case.transport, self) {
            (Transport::Plain, _) | (Transport::Tls, Self::Floor | Self::Ringway) => String::new(),
            (Transport::Tls, Self::Nginx) => {
                let session = "ssl_session_tickets off; ssl_session_cache off";
                format!("ssl; ssl_certificate {dir}/tls.crt; ssl_certificate_key {dir}/tls.key; {session}")
            }
            (Transport::Tls, Self::Haproxy) => format!("ssl crt {dir}/tls.pem no-tls-tickets"),
        }
    }

    /// What it is told of the hosts that have a rule.
    fn names(self, case: Case) -> String {
        match self {
            Self::Nginx if case.hosts > 0 => {
                let names = (0..case.hosts).map(host).collect::<Vec<_>>().join(" ");
                format!("server_name {names};")
            }
            Self::Haproxy if case.hosts > 0 => {
                "use_backend %[req.hdr(host),lower,map({{DIR}}/hosts.map,pods)]".to_owned()
            },
            Self::Nginx | Self::Haproxy | Self::Floor | Self::Ringway => String::new(),
        }
    }
}

fn prepare_ringway(
    case: Case,
    home: &Path,
    ringway: &Path,
    listen: SocketAddr,
    backend: SocketAddr,
) -> Result<Vec<OsString>> {
    write_manifests(home, case, listen, backend)?;
    let config = home.join("gateway.toml");
    let socket = home.join("admin.sock");
    write(
        &config,
        &format!("[admin]\nsocket = {:?}\n[observe]\nlog_level = \"warn\"\n", socket.display().to_string()),
    )?;
    let admin = super::free_addr()?;
    let mut command: Vec<OsString> = vec![ringway.into(), "run".into(), "--config".into(), config.into()];
    command.extend(["--manifests".into(), home.join("manifests").into()]);
    // At layer 4 its Gateway listens there, and HTTP somewhere else.
    let http = if case.layer == Layer::Four { super::free_addr()? } else { listen };
    let protocol = match case.transport {
        Transport::Plain => "http",
        Transport::Tls => "https",
    };
    let (listen, admin) = (format!("{http}/{protocol}"), admin.to_string());
    command.extend(["--listen", &listen, "--admin", &admin, "--workers", "1"].map(OsString::from));
    Ok(command)
}

/// A certificate for the load's host, as the proxies like it: apart, and in one file.
fn write_certificate(home: &Path) -> Result<()> {
    let failed = |why: rcgen::Error| BenchError::failed("certificate", why.to_string());
    let key = rcgen::KeyPair::generate().map_err(failed)?;
    let params = rcgen::CertificateParams::new(vec!["bench.example".to_owned()]).map_err(failed)?;
    let certificate = params.self_signed(&key).map_err(failed)?.pem();
    let key = key.serialize_pem();
    write(&home.join("tls.crt"), &certificate)?;
    write(&home.join("tls.key"), &key)?;
    write(&home.join("tls.pem"), &format!("{certificate}{key}"))
}

/// One Ingress for every host and path, or one TCPRoute; one Service, one endpoint.
fn write_manifests(home: &Path, case: Case, listen: SocketAddr, backend: SocketAddr) -> Result<()> {
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
    let layer7 = ingresses(case, home)?;
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
    let fleet = if case.layer == Layer::Four { layer4 } else { layer7 };
    let manifests = home.join("manifests");
    for (folder, name, text) in [("fleet", "bench.yaml", &fleet), ("clusters/alpha", "bench.yaml", &cluster)] {
        let folder = manifests.join(folder);
        fs::create_dir_all(&folder).map_err(BenchError::io(format!("create {}", folder.display())))?;
        write(&folder.join(name), text)?;
    }
    Ok(())
}

/// Hosts that one Ingress has rules for, as people write them.
const HOSTS_PER_INGRESS: u32 = 100;

/// A rule for every host, one for each host that the case has, and the certificate where it wants one.
fn ingresses(case: Case, home: &Path) -> Result<String> {
    let paths = "http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}";
    let ingress = |name: &str, spec: &str| {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: {name}, namespace: bench}}\nspec:\n{spec}---\n"
        )
    };
    let (secret, tls) = match case.transport {
        Transport::Plain => (String::new(), ""),
        Transport::Tls => {
            (secret(home)?, "  tls: [{hosts: [bench.example], secretName: bench}]\n")
        }
    };
    let named = if tls.is_empty() { String::new() } else { format!("  - host: bench.example\n    {paths}\n") };
    let mut text = ingress("bench", &format!("{tls}  rules:\n{named}  - {paths}\n"));
    for first in (0..case.hosts).step_by(HOSTS_PER_INGRESS as usize) {
        let hosts = first..case.hosts.min(first + HOSTS_PER_INGRESS);
        let rules = hosts.map(|nth| format!("  - host: {}\n    {paths}\n", host(nth))).collect::<String>();
        text.push_str(&ingress(&format!("hosts-{first}"), &format!("  rules:\n{rules}")));
    }
    Ok(text + &secret)
}

fn secret(home: &Path) -> Result<String> {
    let block = |name: &str| -> Result<String> {
        let path = home.join(name);
        let text = fs::read_to_string(&path).map_err(BenchError::io(format!("read {}", path.display())))?;
        Ok(text.lines().map(|line| format!("\n    {line}")).collect())
    };
    Ok(format!(
        "apiVersion: v1\nkind: Secret\ntype: kubernetes.io/tls\nmetadata: {{name: bench, namespace: bench}}\n\
         stringData:\n  tls.crt: |{}\n  tls.key: |{}\n",
        block("tls.crt")?,
        block("tls.key")?
    ))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(BenchError::io(format!("write {}", path.display())))
}
