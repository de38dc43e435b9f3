//! Where programs are measured: backend and load on one core, what is measured on another.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use super::case::{Case, Transport};
use super::machine::Stop;
use super::process::{Cores, Running, WorkDir};
use super::proxy::{Proxy, Setup};
use super::{BenchError, Result, free_addr, open};

/// The gateway, and what stands on which core.
#[derive(Args, Clone, Debug)]
pub(crate) struct Stand {
    /// The gateway's binary.
    #[arg(long, default_value = "target/release/ringway")]
    pub(crate) ringway: PathBuf,
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
        Ok(Self { cores: stand.cores()?, stop, dir: WorkDir::create()?, ringway: stand.ringway.clone() })
    }

    /// A backend with so many bytes in its answers, which serves.
    pub(crate) fn backend(&self, body: usize) -> Result<Running> {
        let own = std::env::current_exe().map_err(BenchError::io("find this program"))?;
        let addr = free_addr()?;
        let (listen, bytes) = (addr.to_string(), body.to_string());
        let args = ["backend", "--listen", &listen, "--body", &bytes].map(OsString::from);
        let command: Vec<OsString> = [own.into_os_string()].into_iter().chain(args).collect();
        let backend = Running::start("backend", &command, self.cores.load, addr, &self.dir)?;
        backend.wait_ready(body, &self.stop)?;
        Ok(backend)
    }

    /// A proxy in front of it, which serves, and the proxy's folder.
    pub(crate) fn proxy(&self, proxy: Proxy, case: Case, backend: &Running) -> Result<(Running, PathBuf)> {
        let listen = free_addr()?;
        let home = self.dir.fresh(proxy.name())?;
        let setup = Setup { case, home: &home, ringway: &self.ringway, listen, backend: backend.addr };
        let command = proxy.prepare(&setup)?;
        let running = Running::start(proxy.name(), &command, self.cores.proxy, listen, &self.dir)?;
        match case.transport {
            Transport::Plain => running.wait_ready(case.body, &self.stop)?,
            Transport::Tls => open::wait_ready(listen, case, &self.stop)?,
        }
        Ok((running, home))
    }
}
