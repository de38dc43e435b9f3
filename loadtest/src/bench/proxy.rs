//! Who takes part: how each is configured and started.

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use clap::ValueEnum;
use serde::Serialize;

use super::case::{Case, Layer, SECURED_HOST, Speech, Transport, host};
use super::envoy;
use super::process::{files_max, find};
use super::{BenchError, Result};
use crate::manifests::{self, Certificate, Condition};

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
    /// Envoy.
    Envoy,
}

const NGINX: &str = include_str!("../../peers/nginx/nginx.conf.tmpl");
const HAPROXY: &str = include_str!("../../peers/haproxy/haproxy.cfg.tmpl");
const NGINX_L4: &str = include_str!("../../peers/nginx/layer4.conf.tmpl");
const HAPROXY_L4: &str = include_str!("../../peers/haproxy/layer4.cfg.tmpl");
/// As with the peers: a connection is never closed for its count, nor for want of room in a pool; as many connects may be
/// under way as the load has connections, and each has the peers' time.
const RINGWAY: &str = r#"
[observe]
log_level = "warn"
[http2]
requests_max = 1000000000
[pool]
idle_per_endpoint_max = 65535
pending_per_endpoint_max = 1000000
[timeouts]
connect = "5s"
"#;
/// nginx speaks layer 4 by a module that Debian packages apart.
const NGINX_STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// Connections that a peer is configured for, both sides together, where descriptors allow.
const CONNECTIONS_MAX: u64 = 30_000;

/// Places for connections of an nginx that has at most so many: it begins to close idle ones, of clients and of its pool, as
/// soon as fewer than a sixteenth of its places are free, and a client that asks on one meanwhile is reset.
const fn nginx_places(connections: u64) -> u64 {
    connections + connections / 8
}

/// What a proxy is prepared for.
pub(crate) struct Setup<'a> {
    /// What is measured.
    pub(crate) case: Case,
    /// Its own folder.
    pub(crate) home: &'a Path,
    /// The gateway's binary.
    pub(crate) ringway: &'a Path,
    /// Envoy's.
    pub(crate) envoy: &'a Path,
    /// Where it listens.
    pub(crate) listen: SocketAddr,
    /// Where it leads.
    pub(crate) backend: SocketAddr,
}

impl Proxy {
    /// All of them, in the order in which a round measures them.
    pub(crate) const ALL: [Self; 5] = [Self::Floor, Self::Ringway, Self::Nginx, Self::Haproxy, Self::Envoy];

    /// The name on the command line and in the report.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Ringway => "ringway",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Envoy => "envoy",
        }
    }

    /// Whether it is what Ringway is compared with: the floor is a yardstick, not a peer.
    pub(crate) fn is_peer(self) -> bool {
        match self {
            Self::Nginx | Self::Haproxy | Self::Envoy => true,
            Self::Floor | Self::Ringway => false,
        }
    }

    /// Refuses, with the remedy, when its program is not there.
    pub(crate) fn check(self, ringway: &Path, envoy: &Path, case: Case) -> Result<()> {
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
            Self::Envoy => envoy::find(envoy).map(drop),
        }
    }

    /// Writes what it needs into its folder and returns its command line.
    pub(crate) fn prepare(self, setup: &Setup<'_>) -> Result<Vec<OsString>> {
        let Setup { case, home, listen, backend, .. } = *setup;
        let files = files_max();
        if case.transport == Transport::Tls && self.is_peer() {
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
                .replace("{{WORKERS}}", &case.workers.to_string())
                .replace("{{SHARED}}", if case.workers == 1 { "off" } else { "on" })
                .replace("{{PASS}}", &self.pass(case))
                .replace("{{TO}}", if case.backend == Speech::Http1 { "" } else { "proto h2" })
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
                write(&config, &fill(template, nginx_places(files.min(CONNECTIONS_MAX))))?;
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
            Self::Envoy => envoy::prepare(setup),
            Self::Ringway => prepare_ringway(setup),
        }
    }

    /// How nginx is told where a request goes.
    fn pass(self, case: Case) -> String {
        match case.backend {
            Speech::Http1 => "proxy_pass http://backend;".to_owned(),
            Speech::Http2 | Speech::Grpc => "grpc_pass grpc://backend;".to_owned(),
        }
    }

    /// What its listener is told of TLS and HTTP/2.
    fn tls(self, case: Case, home: &Path) -> String {
        let (dir, is_http1) = (home.display(), case.speech == Speech::Http1);
        match (case.transport, self) {
            (_, Self::Floor | Self::Ringway | Self::Envoy) => String::new(),
            (Transport::Plain, Self::Nginx) => if is_http1 { "" } else { "http2" }.to_owned(),
            (Transport::Plain, Self::Haproxy) => if is_http1 { "" } else { "proto h2" }.to_owned(),
            (Transport::Tls, Self::Nginx) => {
                let http2 = if is_http1 { "" } else { " http2" };
                let session = "ssl_session_tickets off; ssl_session_cache off";
                format!(
                    "ssl{http2}; ssl_certificate {dir}/tls.crt; ssl_certificate_key {dir}/tls.key; {session}"
                )
            }
            (Transport::Tls, Self::Haproxy) => {
                let alpn = if is_http1 { "http/1.1" } else { "h2" };
                format!("ssl crt {dir}/tls.pem no-tls-tickets alpn {alpn}")
            }
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
            }
            Self::Nginx | Self::Haproxy | Self::Envoy | Self::Floor | Self::Ringway => String::new(),
        }
    }
}

fn prepare_ringway(setup: &Setup<'_>) -> Result<Vec<OsString>> {
    let Setup { case, home, ringway, listen, backend, .. } = *setup;
    write_manifests(home, case, listen, backend)?;
    let config = home.join("gateway.toml");
    write(&config, &format!("{}{RINGWAY}", manifests::admin(home)))?;
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
    let workers = case.workers.to_string();
    command.extend(["--listen", &listen, "--admin", &admin, "--workers", &workers].map(OsString::from));
    Ok(command)
}

/// A certificate for the load's host, as the peers like it: apart, and in one file.
fn write_certificate(home: &Path) -> Result<()> {
    let Certificate { chain, key } = Certificate::of(SECURED_HOST)?;
    write(&home.join("tls.crt"), &chain)?;
    write(&home.join("tls.key"), &key)?;
    write(&home.join("tls.pem"), &format!("{chain}{key}"))
}

/// One Ingress for every host and path, or one TCPRoute; one Service, one endpoint.
fn write_manifests(home: &Path, case: Case, listen: SocketAddr, backend: SocketAddr) -> Result<()> {
    let fleet = match case.layer {
        Layer::Four => manifests::tcp_route("bench", listen),
        Layer::Seven => ingresses(case)?,
    };
    let speaks = if case.backend == Speech::Http1 { "" } else { "kubernetes.io/h2c" };
    let cluster = manifests::service_speaking("bench", "web", backend.port(), speaks)
        + &manifests::slice("bench", "web", 1, &[backend], Condition::Ready);
    let manifests = home.join("manifests");
    for (folder, name, text) in [("fleet", "bench.yaml", &fleet), ("clusters/alpha", "bench.yaml", &cluster)]
    {
        let folder = manifests.join(folder);
        fs::create_dir_all(&folder).map_err(BenchError::io(format!("create {}", folder.display())))?;
        write(&folder.join(name), text)?;
    }
    Ok(())
}

/// A filter of each kind that lets a request of the load pass, by the annotation that asks for it.
const FILTERS: [&str; 10] = [
    "nginx.ingress.kubernetes.io/whitelist-source-range: 127.0.0.0/8,10.0.0.0/8",
    "nginx.ingress.kubernetes.io/enable-cors: 'true'",
    "nginx.ingress.kubernetes.io/limit-rps: '1000000'",
    "mse.ingress.kubernetes.io/concurrency-limit: '1000000'",
    "nginx.ingress.kubernetes.io/proxy-body-size: 8m",
    "mse.ingress.kubernetes.io/request-header-control-update: x-tenant shop",
    "mse.ingress.kubernetes.io/response-header-control-update: x-served-by gateway",
    "nginx.ingress.kubernetes.io/upstream-vhost: inner.example",
    "nginx.ingress.kubernetes.io/enable-gzip: 'true'",
    "nginx.ingress.kubernetes.io/default-backend: web",
];

/// Hosts that one Ingress has rules for, as people write them.
const HOSTS_PER_INGRESS: u32 = 100;

/// A rule for every host, one for each host that the case has, and the certificate where it wants one.
fn ingresses(case: Case) -> Result<String> {
    let paths =
        "http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}";
    let filters = FILTERS.iter().take(case.filters as usize);
    let annotations: String = filters.map(|filter| format!("    {filter}\n")).collect();
    let annotations =
        if annotations.is_empty() { annotations } else { format!("  annotations:\n{annotations}") };
    let ingress = |name: &str, spec: &str| {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata:\n  name: {name}\n  namespace: bench\n{annotations}spec:\n{spec}---\n"
        )
    };
    let (secret, tls) = match case.transport {
        Transport::Plain => (String::new(), String::new()),
        Transport::Tls => (
            Certificate::of(SECURED_HOST)?.secret("bench", "bench"),
            format!("  tls: [{{hosts: [{SECURED_HOST}], secretName: bench}}]\n"),
        ),
    };
    let named =
        if tls.is_empty() { String::new() } else { format!("  - host: {SECURED_HOST}\n    {paths}\n") };
    let mut text = ingress("bench", &format!("{tls}  rules:\n{named}  - {paths}\n"));
    for first in (0..case.hosts).step_by(HOSTS_PER_INGRESS as usize) {
        let hosts = first..case.hosts.min(first + HOSTS_PER_INGRESS);
        let rules = hosts.map(|nth| format!("  - host: {}\n    {paths}\n", host(nth))).collect::<String>();
        text.push_str(&ingress(&format!("hosts-{first}"), &format!("  rules:\n{rules}")));
    }
    Ok(text + &secret)
}

pub(super) fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(BenchError::io(format!("write {}", path.display())))
}
