//! An endpoint of a cluster: a process of its own, so that SIGKILL and SIGSTOP are what they are in life.
//!
//! [`serve`] is what runs inside of it (the hidden command `loadtest pod`); [`Pod`] is the handle that the lab holds.
//! It takes orders on its standard input, one line each, and answers `ok` once an order is in force; when its input
//! ends, so does it.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

use clap::Args;
use loadgen::{Backend, BackendOptions, Behaviour, Bulk, Health, Journal, Latency};
use rustix::process::Signal;

use super::topology::{Cluster, Host, Plan};
use crate::bench::process::{Child, NICENESS};
use crate::bench::{BenchError, Result};

/// The request header with the request's number.
pub(crate) const NUMBER_HEADER: &str = "x-load-number";
/// The health URL.
pub(crate) const HEALTH_PATH: &str = "/healthz";
/// How long a drained endpoint waits for its last connection before it ends.
const DRAIN_MAX: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(5);

/// Command line of an endpoint.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Where to listen.
    #[arg(long)]
    listen: SocketAddr,
    /// The cluster that it belongs to.
    #[arg(long)]
    cluster: String,
    /// Its own name.
    #[arg(long)]
    endpoint: String,
    /// Where executions are written down; continued when it exists.
    #[arg(long)]
    journal: PathBuf,
    /// How many of ten thousand answers take a second.
    #[arg(long, default_value_t = 0)]
    rare: u16,
    /// Bytes of an answer's body, in 20 pieces, 10 ms apart; 0: a short one.
    #[arg(long, default_value_t = 0)]
    bulk: usize,
}

/// An order to a running endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// The status of every answer, the health URL's apart.
    Status(u16),
    /// The status of the health URL.
    Health(u16),
    /// Added to every answer's latency, the health URL's apart; milliseconds.
    Extra(u32),
    /// Ends gracefully.
    Drain,
}

impl Order {
    fn line(self) -> String {
        match self {
            Self::Status(status) => format!("status {status}"),
            Self::Health(status) => format!("health {status}"),
            Self::Extra(millis) => format!("extra {millis}"),
            Self::Drain => "drain 0".to_owned(),
        }
    }
}

impl FromStr for Order {
    type Err = String;

    fn from_str(line: &str) -> std::result::Result<Self, String> {
        let unknown = || format!("not an order: {line:?}");
        let (word, number) = line.split_once(' ').ok_or_else(unknown)?;
        let status = || number.parse().map_err(|_| unknown());
        match word {
            "status" => Ok(Self::Status(status()?)),
            "health" => Ok(Self::Health(status()?)),
            "extra" => Ok(Self::Extra(number.parse().map_err(|_| unknown())?)),
            "drain" => Ok(Self::Drain),
            _ => Err(unknown()),
        }
    }
}

/// A service whose 99.9th percentile is a second, when it is asked for rare answers.
const RARE_LATENCY: Duration = Duration::from_secs(1);

/// Serves until the standard input ends, or a drain is over.
///
/// # Errors
/// The address or the journal cannot be opened, or an order is not understood.
pub(crate) fn serve(options: &Options) -> io::Result<()> {
    let journal = Journal::open(&options.journal, NUMBER_HEADER)?;
    let mut behaviour = Behaviour {
        rare_per_10_000: options.rare,
        rare_latency: RARE_LATENCY,
        health: Some(Health { path: HEALTH_PATH.to_owned(), status: 200 }),
        body: (options.bulk > 0).then_some(Bulk {
            bytes: options.bulk,
            pieces: 20,
            pause: Duration::from_millis(10),
        }),
        ..Behaviour::steady(Latency::service())
    };
    let name = BackendOptions {
        cluster: options.cluster.clone(),
        endpoint: options.endpoint.clone(),
        latency: Latency::default(),
    };
    let backend = Backend::start_as(options.listen, &name, behaviour.clone(), Some(journal))?;
    let mut told = io::stdout().lock();
    let mut tell = |line: &str| writeln!(told, "{line}").and_then(|()| told.flush());
    tell("ok")?;
    for line in io::stdin().lock().lines() {
        match line?.parse().map_err(io::Error::other)? {
            Order::Status(status) => {
                behaviour.status = status;
                // What cannot do its work says so at once, which also draws a least-request balancer to it.
                behaviour.latency = if status < 500 { Latency::service() } else { Latency::default() };
            }
            Order::Health(status) => behaviour.health.iter_mut().for_each(|health| health.status = status),
            Order::Extra(millis) => behaviour.extra = Duration::from_millis(u64::from(millis)),
            Order::Drain => {
                backend.drain()?;
                tell("ok")?;
                let end = Instant::now() + DRAIN_MAX;
                while backend.connections() > 0 && Instant::now() < end {
                    std::thread::park_timeout(POLL);
                }
                return Ok(());
            }
        }
        backend.set_behaviour(behaviour.clone())?;
        tell("ok")?;
    }
    Ok(())
}

/// What an endpoint is started with.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    /// Its cluster.
    pub(crate) cluster: Cluster,
    /// Its place in the cluster, from 0.
    pub(crate) index: u8,
    /// The backend (Service) that it belongs to, from 0.
    pub(crate) backend: u8,
    /// See [`Options::rare`].
    pub(crate) rare: u16,
    /// See [`Options::bulk`].
    pub(crate) bulk: usize,
}

impl Spec {
    /// Its name: cluster, place, and backend unless it is the first.
    pub(crate) fn name(&self) -> String {
        format!("{}{}-{}", self.cluster.name(), self.index, self.backend)
    }
}

/// A running endpoint.
pub(crate) struct Pod {
    /// What it is.
    pub(crate) spec: Spec,
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Pod {
    /// Starts it in its cluster's namespace; when this returns, it listens.
    pub(crate) fn start(spec: &Spec, plan: &Plan, folder: &Path) -> Result<Self> {
        let own = std::env::current_exe().map_err(BenchError::io("find this program"))?;
        let name = spec.name();
        let log = folder.join(format!("{name}.log"));
        let doing = || format!("write {}", log.display());
        let log = File::options().create(true).append(true).open(&log).map_err(BenchError::io(doing()))?;
        let mut command = inside(plan, Host::Cluster(spec.cluster), "KILL");
        command.arg(own).arg("pod");
        command.args(["--listen", &Plan::pod(spec.cluster, spec.index, spec.backend).to_string()]);
        command.args(["--cluster", spec.cluster.name(), "--endpoint", &name]);
        command.arg("--journal").arg(journal_path(folder, &name));
        command.args(["--rare", &spec.rare.to_string(), "--bulk", &spec.bulk.to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        let mut child = Child::spawn(&name, &mut command)?;
        let (orders, answers) = child.pipes().ok_or_else(|| BenchError::failed(&name, "has no pipes"))?;
        let mut pod = Self { spec: spec.clone(), child, orders, answers: BufReader::new(answers) };
        pod.expect_ok()?;
        Ok(pod)
    }

    /// Gives an order; when this returns, it is in force.
    pub(crate) fn order(&mut self, order: Order) -> Result<()> {
        writeln!(self.orders, "{}", order.line())
            .map_err(BenchError::io(format!("order {}", self.spec.name())))?;
        self.expect_ok()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        self.child.signal(signal);
    }

    /// Waits until it has ended by itself.
    pub(crate) fn wait_end(&mut self) -> Result<()> {
        let end = Instant::now() + DRAIN_MAX * 2;
        while !self.child.has_ended() {
            if Instant::now() > end {
                return Err(BenchError::failed(&self.spec.name(), "does not end"));
            }
            std::thread::park_timeout(POLL);
        }
        Ok(())
    }

    fn expect_ok(&mut self) -> Result<()> {
        let mut line = String::new();
        self.answers.read_line(&mut line).map_err(BenchError::io(format!("hear {}", self.spec.name())))?;
        if line.trim() == "ok" {
            return Ok(());
        }
        let why = format!("said {line:?} instead of ok: see its log");
        Err(BenchError::failed(&self.spec.name(), why))
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        // Works on a stopped process, too, which SIGTERM does not.
        self.child.end(Signal::KILL);
    }
}

/// The journal of the endpoint with that name.
pub(crate) fn journal_path(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.journal"))
}

/// The beginning of a command line that runs in a host's namespace, before others on its core, and gets `last` (a
/// signal's name) when we die: SIGTERM where it has children to end, SIGKILL where it may be stopped.
pub(crate) fn inside(plan: &Plan, host: Host, last: &str) -> Command {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", last, "nice", "-n", NICENESS, "ip", "netns", "exec"]);
    // Not in the terminal's group: Ctrl-C is for the lab, which then ends everything in order.
    command.arg(plan.namespace(host)).env("PATH", path).process_group(0);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_read_as_it_was_written() {
        for order in [Order::Status(503), Order::Health(200), Order::Extra(500), Order::Drain] {
            assert_eq!(order.line().parse(), Ok(order));
        }
        for wrong in ["", "status", "status x", "halt 1"] {
            assert!(wrong.parse::<Order>().is_err(), "{wrong:?}");
        }
    }
}
