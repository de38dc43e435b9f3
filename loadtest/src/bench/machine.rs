//! The machine: what it is, the one kernel setting that is pinned, and the signals that end a run.

use std::fmt;
use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::Serialize;

use super::process::{Cores, NICENESS};
use super::{BenchError, Result};

const CONGESTION_CONTROL: &str = "/proc/sys/net/ipv4/tcp_congestion_control";

/// What the figures were measured on.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Facts {
    /// The processor's model.
    pub(crate) cpu: String,
    /// Processors that are online.
    pub(crate) cpus: usize,
    /// The kernel's release.
    pub(crate) kernel: String,
    /// The scaling governor of the proxy's core; `none` where the machine has none to choose.
    pub(crate) governor: String,
    /// What the kernel does against flaws of the processor, as far as it does anything: it makes system calls dearer.
    pub(crate) mitigations: Vec<String>,
    /// The commit of the tree that this runs in, with `+` when it has changes; `unknown` outside of one.
    pub(crate) commit: String,
    /// Congestion control during the run.
    pub(crate) congestion_control: String,
    /// The load average before the run: more than 0.5 means that somebody else is at work.
    pub(crate) load_average: String,
    /// Niceness of everything that is measured: below zero, builds of others take only what is idle.
    pub(crate) niceness: String,
    /// Core of the proxy.
    pub(crate) proxy_core: u32,
    /// Core of backend and load generator.
    pub(crate) load_core: u32,
    /// Versions of the peers and of the load generators.
    pub(crate) versions: Vec<String>,
}

impl Facts {
    /// Looks. What cannot be read is said to be unknown.
    pub(crate) fn collect(cores: &Cores, envoy: Option<&Path>) -> Self {
        let read = |path: &str| fs::read_to_string(path).map(|text| text.trim().to_owned()).ok();
        let unknown = || "unknown".to_owned();
        let cpu = read("/proc/cpuinfo").and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("model name"))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        });
        Self {
            cpu: cpu.unwrap_or_else(unknown),
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: read("/proc/sys/kernel/osrelease").unwrap_or_else(unknown),
            governor: read(&format!("/sys/devices/system/cpu/cpu{}/cpufreq/scaling_governor", cores.proxy))
                .unwrap_or_else(|| "none".to_owned()),
            mitigations: mitigations(),
            commit: commit().unwrap_or_else(unknown),
            congestion_control: read(CONGESTION_CONTROL).unwrap_or_else(unknown),
            load_average: read("/proc/loadavg").unwrap_or_else(unknown),
            niceness: niceness().unwrap_or_else(unknown),
            proxy_core: cores.proxy,
            load_core: cores.load,
            versions: versions(envoy),
        }
    }
}

/// The flaws that the kernel works around, each with what it does.
fn mitigations() -> Vec<String> {
    let Ok(entries) = fs::read_dir("/sys/devices/system/cpu/vulnerabilities") else { return Vec::new() };
    let mut all: Vec<String> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let text = fs::read_to_string(&path).ok()?;
            let does = text.trim().strip_prefix("Mitigation: ")?.to_owned();
            Some(format!("{}: {does}", path.file_name()?.to_string_lossy()))
        })
        .collect();
    all.sort_unstable();
    all
}

/// The commit that is checked out here.
fn commit() -> Option<String> {
    let git = |args: &[&str]| {
        let output = std::process::Command::new("git").args(args).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let head = git(&["rev-parse", "--short=12", "HEAD"])?;
    let changes = git(&["status", "--porcelain", "--untracked-files=no"])?;
    Some(if changes.is_empty() { head } else { format!("{head}+") })
}

/// What `nice` really gives.
fn niceness() -> Option<String> {
    let output = std::process::Command::new("nice").args(["-n", NICENESS, "nice"]).output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// CPU time that cores have spent on anything so far; steal, which is nobody's here, apart.
pub(crate) fn busy(cores: &[u32]) -> Result<Duration> {
    let text = fs::read_to_string("/proc/stat").map_err(BenchError::io("read /proc/stat"))?;
    cores.iter().map(|core| busy_core(&text, *core)).sum()
}

fn busy_core(text: &str, core: u32) -> Result<Duration> {
    let name = format!("cpu{core}");
    let line = text.lines().find(|line| line.split(' ').next() == Some(name.as_str()));
    let ticks: Vec<u64> =
        line.into_iter().flat_map(|line| line.split(' ').skip(1)).flat_map(str::parse).collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, ..] = ticks.as_slice() else {
        return Err(BenchError::failed("kernel", format!("/proc/stat has no {name}")));
    };
    Ok(Duration::from_millis((user + nice + system + irq + softirq) * TICK))
}

/// Milliseconds of one tick of `/proc/stat`: USER_HZ is 100 on every architecture that Ringway runs on.
pub(crate) const TICK: u64 = 10;

/// The first line that each program says about its version; those not installed are left out.
fn versions(envoy: Option<&Path>) -> Vec<String> {
    let programs = [("nginx", "-v"), ("haproxy", "-v"), ("wrk", "-v"), ("h2load", "--version")];
    let programs = programs.map(|(program, flag)| (Path::new(program), flag));
    let all = programs.into_iter().chain(envoy.map(|envoy| (envoy, "--version")));
    all.filter_map(|(program, flag)| {
        let output = std::process::Command::new(program).arg(flag).output().ok()?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        // Envoy's line begins with its path.
        let line = said.lines().map(str::trim).find(|line| !line.is_empty())?;
        Some(
            line.rsplit_once("  version: ")
                .map_or(line.to_owned(), |(_, version)| format!("envoy {version}")),
        )
    })
    .collect()
}

impl Facts {
    /// What does not depend on what is measured, in lines.
    pub(crate) fn machine(&self) -> String {
        format!(
            "machine: {} ({} cpus), Linux {}\ncommit {}, governor {}\nmitigations: {}\nload average before: {}",
            self.cpu,
            self.cpus,
            self.kernel,
            self.commit,
            self.governor,
            self.mitigations.join("; "),
            self.load_average
        )
    }
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.machine())?;
        writeln!(
            f,
            "proxy on core {}, backend and load on core {}, niceness {}, congestion control {}",
            self.proxy_core, self.load_core, self.niceness, self.congestion_control
        )?;
        write!(f, "{}", self.versions.join("; "))
    }
}

/// Holds the system's congestion control at one value, and puts the old one back when dropped.
pub(crate) struct CongestionControl {
    before: String,
}

impl CongestionControl {
    /// Pins it: BBR paces with timers, which makes every proxy pay for the kernel's choice instead of its own work.
    pub(crate) fn pin(name: &str) -> Result<Self> {
        let doing = || format!("set {CONGESTION_CONTROL} to {name} (needs root)");
        let before =
            fs::read_to_string(CONGESTION_CONTROL).map_err(BenchError::io(doing()))?.trim().to_owned();
        if before != name {
            fs::write(CONGESTION_CONTROL, name).map_err(BenchError::io(doing()))?;
        }
        Ok(Self { before })
    }
}

impl Drop for CongestionControl {
    fn drop(&mut self) {
        if let Err(why) = fs::write(CONGESTION_CONTROL, &self.before) {
            eprintln!("{CONGESTION_CONTROL} could not be set back to {}: {why}", self.before);
        }
    }
}

/// Held while a benchmark runs: two at once measure each other, and would put back each other's kernel settings.
pub(crate) struct Turn {
    _lock: File,
}

impl Turn {
    /// Waits until no other benchmark of this machine runs, at most half an hour.
    pub(crate) fn wait(stop: &Stop) -> Result<Self> {
        let path = std::env::temp_dir().join("ringway-bench.lock");
        let doing = || format!("lock {}", path.display());
        let lock = File::create(&path).map_err(BenchError::io(doing()))?;
        let end = Instant::now() + TURN_TIMEOUT;
        let mut told = false;
        while let Err(why) = flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            if why != Errno::WOULDBLOCK {
                return Err(BenchError::io(doing())(why.into()));
            }
            if Instant::now() > end {
                return Err(BenchError::failed(
                    "bench",
                    "another benchmark has been running for half an hour",
                ));
            }
            if !std::mem::replace(&mut told, true) {
                eprintln!("another benchmark is running: waiting for its end");
            }
            stop.pause(Duration::from_millis(500))?;
        }
        Ok(Self { _lock: lock })
    }
}

/// How long to wait for another benchmark.
const TURN_TIMEOUT: Duration = Duration::from_secs(30 * 60);

const AUTOGROUP: &str = "/proc/self/autogroup";

/// Puts this session's whole scheduling group before the others', and puts it back when dropped.
///
/// With autogroups, which Debian has, niceness counts only inside of a session: a build in another terminal would
/// get half of the core whatever its niceness is.
pub(crate) struct Autogroup {
    before: Option<String>,
}

impl Autogroup {
    /// Does nothing where there are no autogroups or where it is not permitted: the report then shows what others took.
    pub(crate) fn first() -> Self {
        // "/autogroup-8 nice 0"
        let text = fs::read_to_string(AUTOGROUP).unwrap_or_default();
        let before = text.trim().rsplit_once(' ').map(|(_, nice)| nice.to_owned());
        Self { before: before.filter(|_| fs::write(AUTOGROUP, NICENESS).is_ok()) }
    }
}

impl Drop for Autogroup {
    fn drop(&mut self) {
        let Some(before) = &self.before else { return };
        if let Err(why) = fs::write(AUTOGROUP, before) {
            eprintln!("{AUTOGROUP} could not be set back to {before}: {why}");
        }
    }
}

/// Set by SIGINT and SIGTERM, so that a run ends by returning: then every guard puts its thing back.
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Takes the two signals over.
    pub(crate) fn on_signals() -> Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&flag))
                .map_err(BenchError::io("take over signals"))?;
        }
        Ok(Self(flag))
    }

    /// Whether to go on.
    pub(crate) fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) { Err(BenchError::Stopped) } else { Ok(()) }
    }

    /// Waits, or ends early with the signal.
    pub(crate) fn pause(&self, duration: Duration) -> Result<()> {
        let end = Instant::now() + duration;
        loop {
            self.check()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            wait(left.min(Duration::from_millis(100)));
        }
    }
}

/// Waits once, at most `duration`; a signal ends it early.
fn wait(duration: Duration) {
    let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    let timeout = Timespec { tv_sec: seconds, tv_nsec: i64::from(duration.subsec_nanos()) };
    // The only errors are "interrupted", which is what we want to notice, and faults that an empty set cannot have.
    let _ = rustix::event::poll(&mut [], Some(&timeout));
}
