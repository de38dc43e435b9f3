//! Where programs are measured: backend and load on one core, what is measured on another.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::case::{Case, Speech, Transport};
use super::machine::Stop;
use super::process::{Cores, Running, WorkDir};
use super::proxy::{Proxy, Setup};
use super::{BenchError, Result, free_addr, open};

/// The name that Envoy has on a path.
pub(crate) const ENVOY: &str = "envoy";

/// The gateway, and what stands on which core.
#[derive(Args, Clone, Debug)]
pub(crate) struct Stand {
    /// The gateway's binary.
    #[arg(long, default_value = "target/release/ringway")]
    pub(crate) ringway: PathBuf,
    /// Envoy's binary: a path, or a name that is looked up on PATH.
    #[arg(long, env = "ENVOY", default_value = ENVOY)]
    pub(crate) envoy: PathBuf,
    /// Core of what is measured.
    #[arg(long, default_value_t = 0)]
    proxy_core: u32,
    /// Core of backend, load and everybody else.
    #[arg(long, default_value_t = 1)]
    load_core: u32,
}

/// Programs start here; what it made is removed with it.
pub(crate) struct Ground {
    /// What stands where.
    pub(crate) cores: Cores,
    /// Whether to go on.
    pub(crate) stop: Stop,
    /// Files of this run.
    pub(crate) dir: WorkDir,
    ringway: PathBuf,
    envoy: PathBuf,
}

impl Stand {
    /// The two cores, which differ.
    pub(crate) fn cores(&self) -> Result<Cores> {
        let cores = Cores { proxy: self.proxy_core, load: self.load_core };
        cores.check()?;
        Ok(cores)
    }
}

impl Ground {
    /// Nothing has been started yet.
    pub(crate) fn new(stand: &Stand, stop: Stop) -> Result<Self> {
        let (ringway, envoy) = (stand.ringway.clone(), stand.envoy.clone());
        Ok(Self { cores: stand.cores()?, stop, dir: WorkDir::create()?, ringway, envoy })
    }

    /// Backends on one address that speak and answer as the case says, and serve: one for each worker of a proxy, which
    /// they must not hold up.
    pub(crate) fn backend(&self, case: Case) -> Result<Vec<Running>> {
        self.backends(case, Duration::ZERO)
    }

    /// The same with a latency.
    pub(crate) fn backends(&self, case: Case, latency: Duration) -> Result<Vec<Running>> {
        let own = std::env::current_exe().map_err(BenchError::io("find this program"))?;
        let addr = free_addr()?;
        let (listen, bytes) = (addr.to_string(), case.body.to_string());
        let latency = latency.as_millis().to_string();
        let mut args = vec!["backend", "--listen", &listen, "--body", &bytes, "--latency-ms", &latency];
        match case.backend {
            Speech::Http1 => {}
            Speech::Http2 => args.push("--http2"),
            Speech::Grpc => args.push("--grpc"),
        }
        let args = args.into_iter().map(OsString::from);
        let command: Vec<OsString> = [own.into_os_string()].into_iter().chain(args).collect();
        let cores = self.cores.loads(case.workers);
        let start = |_| Running::start("backend", &command, &cores, addr, &self.dir);
        let backends = (0..case.workers).map(start).collect::<Result<Vec<_>>>()?;
        for backend in &backends {
            match case.backend {
                Speech::Http1 => backend.wait_ready(case.body, &self.stop)?,
                speech @ (Speech::Http2 | Speech::Grpc) => {
                    self.wait_ready(backend, case, speech, Transport::Plain)?;
                }
            }
        }
        Ok(backends)
    }

    /// A proxy in front of them, which serves, and the proxy's folder.
    pub(crate) fn proxy(&self, proxy: Proxy, case: Case, backend: &[Running]) -> Result<(Running, PathBuf)> {
        let listen = free_addr()?;
        let home = self.dir.fresh(proxy.name())?;
        let backend = backend.first().ok_or_else(|| BenchError::failed("bench", "no backend"))?.addr;
        let (ringway, envoy) = (&self.ringway, &self.envoy);
        let setup = Setup { case, home: &home, ringway, envoy, listen, backend };
        let command = proxy.prepare(&setup)?;
        let cores = self.cores.proxies(case.workers);
        let running = Running::start(proxy.name(), &command, &cores, listen, &self.dir)?;
        match (case.transport, case.speech) {
            (Transport::Plain, Speech::Http1) => running.wait_ready(case.body, &self.stop)?,
            (transport, speech) => self.wait_ready(&running, case, speech, transport)?,
        }
        Ok((running, home))
    }

    /// Waits until a request of our own generator is answered well.
    fn wait_ready(&self, running: &Running, case: Case, speech: Speech, how: Transport) -> Result<()> {
        // A message of gRPC has five bytes before it.
        let body = case.body as u64 + if speech == Speech::Grpc { 5 } else { 0 };
        running.wait_for(body, &self.stop, || open::ask(running.addr, &case.host(), speech, how))
    }
}
