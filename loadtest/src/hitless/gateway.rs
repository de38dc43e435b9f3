//! The gateway under load: its manifests, its settings, its processes.

use std::ffi::OsString;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use loadgen::{Backend, BackendOptions, Latency, Tls};
use rustix::process::Signal;

use super::Options;
use super::row::Row;
use crate::bench::machine::Stop;
use crate::bench::process::{Child, WorkDir};
use crate::bench::{BenchError, Result, free_addr};
use crate::failover::http::{Answer, ask};
use crate::manifests::{self, Certificate, Condition, admin, replace};

/// Host of every request of the load.
pub(super) const HOST: &str = "shop.example";
/// How long an answer takes.
const LATENCY: Duration = Duration::from_millis(1);
/// How long a gateway may take to be ready, or to be gone.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often it is asked meanwhile.
const POLL: Duration = Duration::from_millis(5);

/// Three backends of one Service.
pub(super) struct Backends(Vec<Backend>);

impl Backends {
    pub(super) fn start() -> Result<Self> {
        let start = |n: usize| {
            let options = BackendOptions {
                cluster: "alpha".to_owned(),
                endpoint: format!("e{n}"),
                latency: Latency::fixed(LATENCY),
            };
            Backend::start((Ipv4Addr::LOCALHOST, 0).into(), options)
                .map_err(BenchError::io("start a backend"))
        };
        Ok(Self((0..3).map(start).collect::<Result<_>>()?))
    }
}

/// One process, or for a moment two, on one port.
pub(super) struct Gateway {
    home: PathBuf,
    ringway: PathBuf,
    workers: u32,
    row: Row,
    listen: SocketAddr,
    /// Keeps the port ours while processes take turns on it; never listens.
    _port: socket2::Socket,
    backends: Vec<SocketAddr>,
    admin: SocketAddr,
    process: Child,
    started: u32,
}

impl Gateway {
    /// Starts it and waits until it serves.
    pub(super) fn start(
        row: Row,
        options: &Options,
        backends: &Backends,
        dir: &WorkDir,
        stop: &Stop,
    ) -> Result<Self> {
        let home = dir.fresh(row.name())?;
        for folder in ["manifests/fleet", "manifests/clusters/alpha"] {
            let folder = home.join(folder);
            fs::create_dir_all(&folder).map_err(BenchError::io(format!("create {}", folder.display())))?;
        }
        let (port, listen) = shared_port().map_err(BenchError::io("reserve a port"))?;
        let backends: Vec<SocketAddr> = backends.0.iter().map(Backend::addr).collect();
        let mut gateway = Self {
            ringway: options.ringway.clone(),
            workers: options.workers,
            process: Child::spawn("nothing", Command::new("true").stdin(Stdio::null()))?,
            admin: listen,
            _port: port,
            home,
            row,
            listen,
            backends,
            started: 0,
        };
        gateway.write_routes(0)?;
        gateway.write_endpoints(0)?;
        gateway.write_certificate()?;
        gateway.write_settings(0)?;
        gateway.process = gateway.spawn(stop)?;
        Ok(gateway)
    }

    /// Where it serves.
    pub(super) fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// How a client secures its connections.
    pub(super) fn tls(&self) -> Result<Tls> {
        Tls::to(HOST).map_err(|why| BenchError::failed("loadgen", why.to_string()))
    }

    // ------------------------------------------------------------ changes

    /// Routes of the hub: the load's own, and one that tells edit `nth` from all others.
    pub(super) fn write_routes(&self, nth: u32) -> Result<()> {
        let tls = if self.row.is_secured() {
            format!("  tls: [{{hosts: [{HOST}], secretName: shop}}]\n")
        } else {
            String::new()
        };
        let rule = |host: &str| {
            format!(
                "  - host: {host}\n    http: {{paths: [{{path: /, pathType: Prefix, backend: {{service: {{name: web, port: {{number: 80}}}}}}}}]}}\n"
            )
        };
        let text = format!(
            "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: shop, namespace: shop}}\nspec:\n{tls}  rules:\n{}{}",
            rule(HOST),
            rule(&edit_host(nth))
        );
        replace(&self.home.join("manifests/fleet/shop.yaml"), &text)
    }

    /// Endpoints: all but one, which takes turns. So no request ever finds none.
    pub(super) fn write_endpoints(&self, nth: u32) -> Result<()> {
        let absent = nth as usize % self.backends.len();
        let mut text = manifests::service("shop", "web", "http");
        for (n, addr) in self.backends.iter().enumerate().filter(|(n, _)| *n != absent || nth == 0) {
            text.push_str(&manifests::slice("shop", "web", n, &[*addr], Condition::Ready));
        }
        replace(&self.home.join("manifests/clusters/alpha/web.yaml"), &text)
    }

    /// A new certificate for the load's host.
    pub(super) fn write_certificate(&self) -> Result<()> {
        let text = Certificate::of(HOST)?.secret("shop", "shop");
        replace(&self.home.join("manifests/fleet/secret.yaml"), &text)
    }

    /// Settings that a client can see: whether answers carry Via.
    pub(super) fn write_settings(&self, nth: u32) -> Result<()> {
        let via = if has_via(nth) { "both" } else { "request" };
        replace(
            &self.home.join("gateway.toml"),
            &format!("{}[observe]\nlog_level = \"warn\"\n[forward]\nvia = \"{via}\"\n", admin(&self.home)),
        )
    }

    /// Sends a signal to the process that serves.
    pub(super) fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// A second process takes the port; then the first is told to drain, and its end is awaited.
    pub(super) fn hand_over(&mut self, stop: &Stop) -> Result<()> {
        let next = self.spawn(stop)?;
        let mut last = std::mem::replace(&mut self.process, next);
        last.signal(Signal::TERM);
        let end = Instant::now() + PATIENCE;
        while !last.has_ended() {
            if Instant::now() > end {
                return Err(BenchError::failed(
                    "ringway",
                    format!("does not end within {PATIENCE:?} of SIGTERM"),
                ));
            }
            stop.pause(POLL)?;
        }
        Ok(())
    }

    // ------------------------------------------------------------ what is seen from outside

    /// One request on a connection of its own.
    pub(super) fn ask(&self, host: &str) -> Result<Answer> {
        get(self.listen, host, "/").map_err(BenchError::io("ask the gateway"))
    }

    /// The newest table that every worker runs.
    pub(super) fn generation(&self) -> Result<u64> {
        let answer = get(self.admin, "localhost", "/metrics").map_err(BenchError::io("read metrics"))?;
        let of = |line: &str| {
            line.strip_prefix("ringway_table_generation{")?.split_once("} ")?.1.trim().parse().ok()
        };
        answer
            .body
            .lines()
            .filter_map(of)
            .min()
            .ok_or_else(|| BenchError::failed("ringway", "its metrics name no ringway_table_generation"))
    }

    /// How many processes have served.
    pub(super) fn processes(&self) -> u32 {
        self.started
    }

    // ------------------------------------------------------------ processes

    fn spawn(&mut self, stop: &Stop) -> Result<Child> {
        self.started += 1;
        self.admin = free_addr()?;
        let protocol = if self.row.is_secured() { "https" } else { "http" };
        let socket = self.home.join(format!("admin-{}.sock", self.started));
        let log = self.home.join(format!("ringway-{}.log", self.started));
        let file = fs::File::create(&log).map_err(BenchError::io(format!("create {}", log.display())))?;
        let again = file.try_clone().map_err(BenchError::io("duplicate a descriptor"))?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM"]).arg(&self.ringway).arg("run");
        command.arg("--config").arg(self.home.join("gateway.toml"));
        command.arg("--manifests").arg(self.home.join("manifests"));
        let listen = format!("{}/{protocol}", self.listen);
        let (admin, workers) = (self.admin.to_string(), self.workers.to_string());
        command.args(["--listen", &listen, "--admin", &admin, "--workers", &workers].map(OsString::from));
        command.arg("--socket").arg(socket);
        command.stdin(Stdio::null()).stdout(file).stderr(again);
        let mut process = Child::spawn("ringway", &mut command)?;
        let end = Instant::now() + PATIENCE;
        loop {
            let is_ready = get(self.admin, "localhost", "/readyz").is_ok_and(|answer| answer.status == 200);
            if is_ready {
                return Ok(process);
            }
            if process.has_ended() || Instant::now() > end {
                let said = fs::read_to_string(&log).unwrap_or_default();
                return Err(BenchError::failed("ringway", format!("is not ready; it said:\n{said}")));
            }
            stop.pause(POLL)?;
        }
    }
}

/// The host that only edit `nth` has a rule for.
pub(super) fn edit_host(nth: u32) -> String {
    format!("edit-{nth}.example")
}

/// Do answers carry Via after settings `nth`?
pub(super) fn has_via(nth: u32) -> bool {
    nth % 2 == 1
}

fn get(addr: SocketAddr, host: &str, path: &str) -> std::io::Result<Answer> {
    let mut connection = TcpStream::connect_timeout(&addr, Duration::from_secs(2))?;
    connection.set_read_timeout(Some(Duration::from_secs(2)))?;
    ask(&mut connection, host, path)
}

/// A port of loopback that processes share by `SO_REUSEPORT`, held by a socket that does not listen.
fn shared_port() -> std::io::Result<(socket2::Socket, SocketAddr)> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    // Without SO_REUSEADDR: only who asks for SO_REUSEPORT, and is of the same user, may have it beside us.
    socket.set_reuse_port(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    let addr = socket.local_addr()?.as_socket().ok_or(std::io::ErrorKind::AddrNotAvailable)?;
    Ok((socket, addr))
}
