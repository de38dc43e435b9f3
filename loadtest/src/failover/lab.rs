//! One run: four hosts, endpoints, a proxy, a load, a fault in the middle. Everything ends with the run.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use loadgen::{Execution, Journal};

use super::fault;
use super::freeze::Frozen;
use super::http;
use super::load;
use super::measure::Seen;
use super::pod::{Pod, Spec, journal_path};
use super::proxy::{ADMIN, Contender, Programs, Running};
use super::row::{Controller, Kind, Row};
use super::topology::{Cluster, Host, Plan, Topology};
use super::verdict;
use crate::bench::machine::Stop;
use crate::bench::{BenchError, Result, process};

/// How long the proxy may take from its start to its first good answer.
const READY_TIMEOUT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(10);
/// The name of the controller's thread in Ringway's process.
const CONTROLLER_THREAD: &str = "controller";

/// The three parts of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Phases {
    /// Before the fault, the warm-up included.
    pub(crate) before: Duration,
    /// While it lasts.
    pub(crate) fault: Duration,
    /// After it is healed.
    pub(crate) after: Duration,
}

impl Phases {
    /// Of a run of so many seconds: 30, 30 and 40 %; where the row says how long its fault lasts, that is kept and
    /// the others are as long as ever.
    pub(crate) fn of(row: &Row, seconds: u32) -> Self {
        let tenth = Duration::from_secs(u64::from(seconds)) / 10;
        let after = match row.kind {
            // Nothing to come back from: only the last answers are waited for.
            Kind::Nothing | Kind::GatewayPauses => tenth,
            Kind::Kill
            | Kind::Drain
            | Kind::Drop
            | Kind::LinkDown
            | Kind::Stop
            | Kind::Errors
            | Kind::ErrorsRed
            | Kind::Brownout => tenth * 4,
        };
        Self { before: tenth * 3, fault: row.fault.unwrap_or(tenth * 3), after }
    }

    /// All of it.
    pub(crate) fn total(self) -> Duration {
        self.before + self.fault + self.after
    }
}

/// Everything of one run; the order of the fields is that in which they end.
pub(crate) struct Lab<'a> {
    /// What is shown.
    pub(crate) row: &'a Row,
    /// The proxy under test.
    pub(crate) proxy: Running,
    /// The endpoints of both clusters.
    pub(crate) pods: Vec<Pod>,
    /// The run's own folder.
    pub(crate) folder: PathBuf,
    /// The hosts.
    pub(crate) topology: Topology,
}

/// Runs a row once with one proxy.
///
/// # Errors
/// A program that does not start, an answer that does not come, a signal.
pub(crate) fn run(
    row: &Row,
    contender: &Contender,
    programs: &Programs,
    phases: Phases,
    folder: &Path,
    stop: &Stop,
) -> Result<Seen> {
    let mut lab = Lab::set_up(row, contender, programs, folder)?;
    lab.wait_ready(stop)?;
    let frozen = lab.stop_controller()?;
    let downs_before = lab.downs();
    let steal = Steal::begin();
    let load = load::start(row, lab.topology.plan(), phases.total())?;
    pause_until(load.start + phases.before, stop)?;
    let memory_before = process::memory(lab.proxy.child.pid())?;
    let fault = load.start.elapsed();
    fault::inject(&mut lab)?;
    let injected = load.start.elapsed();
    fault::hold(&lab, (fault + phases.fault).saturating_sub(injected), stop)?;
    let memory_after = process::memory(lab.proxy.child.pid())?;
    let heal_begun = load.start.elapsed();
    fault::heal(&mut lab)?;
    let healed = load.start.elapsed();
    pause_until(load.start + phases.total(), stop)?;
    if lab.proxy.child.has_ended() {
        let said = fs::read_to_string(&lab.proxy.log).unwrap_or_default();
        return Err(BenchError::failed(&contender.name(), format!("has ended by itself; it said:\n{said}")));
    }
    let downs = lab.downs().zip(downs_before).map(|(after, before)| after - before);
    drop(frozen);
    let (wall, records) = (load.wall, load.finish()?);
    let log = fs::read_to_string(&lab.proxy.log).unwrap_or_default();
    Ok(Seen {
        records,
        by_active: lab.executions(|pod| pod.spec.cluster == Cluster::A)?.iter().map(|e| e.number).collect(),
        executions: lab.executions(|_| true)?,
        fault,
        heal_begun,
        healed,
        verdicts: verdict::read(&log, wall),
        doubts: verdict::doubts(&log, Cluster::A.name(), wall),
        downs,
        memory: (memory_before.rss, memory_after.rss),
        steal_percent: steal.percent(),
    })
}

impl<'a> Lab<'a> {
    fn set_up(row: &'a Row, contender: &Contender, programs: &Programs, folder: &Path) -> Result<Self> {
        let topology = Topology::create(Plan::new(std::process::id(), row.pods))?;
        let mut pods = Vec::new();
        for cluster in Cluster::ALL {
            for index in 0..row.pods {
                for backend in 0..row.backends {
                    let spec = Spec { cluster, index, backend, rare: row.rare, bulk: row.bulk };
                    pods.push(Pod::start(&spec, topology.plan(), folder)?);
                }
            }
        }
        let proxy = contender.start(row, topology.plan(), programs, folder)?;
        Ok(Self { row, proxy, pods, folder: folder.to_path_buf(), topology })
    }

    /// Waits until the proxy answers with what cluster a says.
    fn wait_ready(&mut self, stop: &Stop) -> Result<()> {
        let end = Instant::now() + READY_TIMEOUT;
        loop {
            let answer = self.topology.inside(Host::Client, || ask(Plan::listen(), "/"))?;
            let last = match answer {
                Ok(answer) if answer.status == 200 && answer.header("x-cluster") == Some("a") => {
                    return Ok(());
                }
                Ok(answer) => format!("status {}", answer.status),
                Err(why) => why.to_string(),
            };
            if Instant::now() > end || self.proxy.child.has_ended() {
                let said = fs::read_to_string(&self.proxy.log).unwrap_or_default();
                return Err(BenchError::failed("proxy", format!("not ready ({last}); it said:\n{said}")));
            }
            stop.pause(POLL)?;
        }
    }

    /// Verdicts against anybody since the proxy's start, where it counts them.
    fn downs(&self) -> Option<u64> {
        self.proxy.manifests.as_ref()?;
        let answer = self
            .topology
            .inside(Host::Gateway, || ask(SocketAddr::from(ADMIN), verdict::COUNT_PATH))
            .ok()?
            .ok()?;
        verdict::count(&answer.body)
    }

    /// What the row says of our controller; a peer has none.
    fn stop_controller(&self) -> Result<Option<Frozen>> {
        match (self.row.controller, &self.proxy.manifests) {
            (Controller::Stopped, Some(manifests)) => {
                let frozen = Frozen::thread(self.proxy.child.pid(), CONTROLLER_THREAD)?;
                manifests.remove()?;
                Ok(Some(frozen))
            }
            (Controller::Stopped, None) | (Controller::Runs, _) => Ok(None),
        }
    }

    fn executions(&self, of: impl Fn(&Pod) -> bool) -> Result<Vec<Execution>> {
        let mut executions = Vec::new();
        for pod in self.pods.iter().filter(|pod| of(pod)) {
            let path = journal_path(&self.folder, &pod.spec.name());
            let read = Journal::read(&path).map_err(BenchError::io(format!("read {}", path.display())))?;
            executions.extend(read);
        }
        Ok(executions)
    }
}

fn ask(addr: SocketAddr, path: &str) -> std::io::Result<http::Answer> {
    let mut connection = TcpStream::connect_timeout(&addr, Duration::from_secs(1))?;
    connection.set_read_timeout(Some(Duration::from_secs(2)))?;
    http::ask(&mut connection, &addr.to_string(), path)
}

fn pause_until(moment: Instant, stop: &Stop) -> Result<()> {
    stop.pause(moment.saturating_duration_since(Instant::now()))
}

/// Time that the hypervisor gave to others.
struct Steal(Option<(u64, u64)>);

impl Steal {
    fn begin() -> Self {
        Self(Self::now())
    }

    fn percent(&self) -> f64 {
        let Some(((stolen_before, before), (stolen, total))) = self.0.zip(Self::now()) else { return 0.0 };
        #[expect(clippy::cast_precision_loss, reason = "ticks of a run are far below 2^52")]
        let percent = 100.0 * (stolen - stolen_before) as f64 / (total - before).max(1) as f64;
        percent
    }

    /// Stolen ticks, and all ticks.
    fn now() -> Option<(u64, u64)> {
        let text = fs::read_to_string("/proc/stat").ok()?;
        let ticks: Vec<u64> = text.lines().next()?.split(' ').filter_map(|word| word.parse().ok()).collect();
        Some((*ticks.get(7)?, ticks.iter().take(8).sum()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failover::row::Lengths;

    #[test]
    fn a_run_is_as_long_as_asked_unless_its_row_says_how_long_the_fault_is() {
        let lengths = Lengths { false_alarms: Duration::from_secs(600), all_down: Duration::from_secs(30) };
        let phases = |name: &str| {
            let rows = Row::select(&[name.to_owned()], lengths).unwrap();
            Phases::of(&rows[0], 10)
        };
        assert_eq!(phases("kill").total(), Duration::from_secs(10));
        assert_eq!(phases("all-down").total(), Duration::from_secs(37));
        assert_eq!(phases("false-alarms").fault, Duration::from_secs(600));
    }
}
