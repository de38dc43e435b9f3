//! Processes: started on their core, measured as a tree, stopped by their id.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Signal, getrlimit, kill_process};
use serde::Serialize;

use super::machine::{Stop, TICK};
use super::{BenchError, Result, idle};

/// How long a program may take from its start to its first good answer.
const READY_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a program may take to end after SIGTERM before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);
/// How often a program is looked at while it is waited for.
const POLL: Duration = Duration::from_millis(10);

/// Which core does what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cores {
    /// The proxy's.
    pub(crate) proxy: u32,
    /// Backend's and load generator's.
    pub(crate) load: u32,
}

impl Cores {
    /// Refuses cores that are the same: the proxy's caches and its share of time would be the generator's.
    pub(crate) fn check(&self) -> Result<()> {
        if self.proxy == self.load {
            return Err(BenchError::failed("bench", "proxy and load need a core each"));
        }
        Ok(())
    }

    /// Cores of a proxy with so many workers: its own, then others, and the load's only where there are no more.
    pub(crate) fn proxies(&self, workers: u32) -> Vec<u32> {
        self.proxies_of(workers, online())
    }

    fn proxies_of(&self, workers: u32, has: u32) -> Vec<u32> {
        let others = (0..has).filter(|core| *core != self.proxy && *core != self.load);
        let shared = (Room::of(workers, has) == Room::Shared).then_some(self.load);
        [self.proxy].into_iter().chain(others).chain(shared).take(workers as usize).collect()
    }

    /// Cores of backends and load for such a proxy: as many as it has workers, or those of the proxy.
    pub(crate) fn loads(&self, workers: u32) -> Vec<u32> {
        self.loads_of(workers, online())
    }

    fn loads_of(&self, workers: u32, has: u32) -> Vec<u32> {
        let taken = self.proxies_of(workers, has);
        if Room::of(workers, has) == Room::Shared {
            return taken;
        }
        let others = (0..has).filter(|core| *core != self.load && !taken.contains(core));
        [self.load].into_iter().chain(others).take(workers as usize).collect()
    }
}

/// How much room this machine has for a proxy with several workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// A core for each worker, and as many for load and backends.
    Apart,
    /// A core for each worker, which load and backends share.
    Shared,
    /// Fewer cores than workers.
    None,
}

impl Room {
    /// Here.
    pub(crate) fn here(workers: u32) -> Self {
        Self::of(workers, online())
    }

    fn of(workers: u32, has: u32) -> Self {
        match workers {
            0 | 1 => Self::Apart,
            _ if has >= 2 * workers => Self::Apart,
            _ if has >= workers => Self::Shared,
            _ => Self::None,
        }
    }

    /// What a reader must know of figures that were measured in it.
    pub(crate) fn note(self, workers: u32) -> Option<String> {
        let has = online();
        match self {
            Self::Apart => None,
            Self::Shared => Some(format!(
                "{workers} workers share their {workers} cores with load and backends, for this machine has {has}: what a \
                 request costs can be compared, requests per second and latencies cannot"
            )),
            Self::None => {
                Some(format!("not measured: {workers} workers need a core each, this machine has {has}"))
            }
        }
    }
}

/// CPU time of all children of this process that have ended, in ticks of 10 ms: of a load generator, when it is over.
pub(crate) fn ended_children() -> Result<Duration> {
    let text = fs::read_to_string("/proc/self/stat").map_err(BenchError::io("read /proc/self/stat"))?;
    // Behind the name, which may hold anything: cutime and cstime are fields 16 and 17 of all.
    let fields = text.rsplit_once(") ").map_or("", |(_, fields)| fields).split(' ').skip(13).take(2);
    let ticks: Vec<u64> = fields.flat_map(str::parse).collect();
    match ticks.as_slice() {
        [user, system] => Ok(Duration::from_millis((user + system) * TICK)),
        _ => Err(BenchError::failed("kernel", "/proc/self/stat is not understood")),
    }
}

fn online() -> u32 {
    std::thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(1))
}

/// Refuses, with the remedy, when `program` is not on the path.
pub(crate) fn find(program: &str, remedy: &str) -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Debian keeps servers in /usr/sbin, which is not on every user's path.
    let found = std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")])
        .any(|folder| folder.join(program).is_file());
    if found {
        return Ok(());
    }
    Err(BenchError::Missing { program: program.to_owned(), remedy: remedy.to_owned() })
}

/// The beginning of a command line that binds to cores and runs before everything else on it: builds of others then
/// take what is idle, instead of a share. Where negative niceness is not permitted, `nice` says so and goes on.
pub(crate) fn first_on(cores: &[u32]) -> [String; 6] {
    let list = cores.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    ["nice", "-n", NICENESS, "taskset", "-c", &list].map(str::to_owned)
}

/// The niceness of everything that is measured.
pub(crate) const NICENESS: &str = "-20";

/// Descriptors that a started process may have.
pub(crate) fn files_max() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    limit.maximum.unwrap_or(1 << 20).min(1 << 20)
}

/// A directory of this run, removed at its end.
pub(crate) struct WorkDir(PathBuf);

impl WorkDir {
    /// Makes it.
    pub(crate) fn create() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("ringway-bench-{}", std::process::id()));
        fs::create_dir_all(&path).map_err(BenchError::io(format!("create {}", path.display())))?;
        Ok(Self(path))
    }

    /// An empty folder of that name in it.
    pub(crate) fn fresh(&self, name: &str) -> Result<PathBuf> {
        let path = self.0.join(name);
        let made = match fs::remove_dir_all(&path) {
            Err(why) if why.kind() != std::io::ErrorKind::NotFound => Err(why),
            Ok(()) | Err(_) => fs::create_dir_all(&path),
        };
        made.map_err(BenchError::io(format!("create {}", path.display())))?;
        Ok(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        if let Err(why) = fs::remove_dir_all(&self.0) {
            eprintln!("{} could not be removed: {why}", self.0.display());
        }
    }
}

/// A child process that does not outlive this value.
pub(crate) struct Child {
    name: String,
    process: std::process::Child,
}

impl Child {
    /// Starts it.
    pub(crate) fn spawn(name: &str, command: &mut Command) -> Result<Self> {
        let process = command.spawn().map_err(BenchError::io(format!("start {name}")))?;
        Ok(Self { name: name.to_owned(), process })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Waits for its end, at most `timeout`, and returns what it printed (bounded: what fits a pipe).
    pub(crate) fn output(mut self, timeout: Duration, stop: &Stop) -> Result<String> {
        let end = Instant::now() + timeout;
        while self.process.try_wait().map_err(BenchError::io("wait"))?.is_none() {
            if Instant::now() > end {
                return Err(BenchError::failed(&self.name, format!("did not end within {timeout:?}")));
            }
            stop.pause(POLL)?;
        }
        let mut text = String::new();
        if let Some(pipe) = self.process.stdout.as_mut() {
            pipe.read_to_string(&mut text).map_err(BenchError::io(format!("read from {}", self.name)))?;
        }
        Ok(text)
    }

    /// Its standard input and output, once, when both are pipes.
    pub(crate) fn pipes(&mut self) -> Option<(ChildStdin, ChildStdout)> {
        self.process.stdin.take().zip(self.process.stdout.take())
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // Fails only when it has ended, which is what is wanted.
            let _ = kill_process(pid, signal);
        }
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.process.try_wait(), Ok(None))
    }

    /// Sends it a signal and waits for its end; kills it when that takes too long.
    pub(crate) fn end(&mut self, signal: Signal) {
        if self.has_ended() {
            return;
        }
        self.signal(signal);
        let end = Instant::now() + STOP_TIMEOUT;
        while !self.has_ended() && Instant::now() < end {
            std::thread::park_timeout(POLL);
        }
        if !self.has_ended() {
            // Nothing more can be done when even this fails.
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.end(Signal::TERM);
    }
}

/// A server: a proxy or the backend.
pub(crate) struct Running {
    /// Where it listens.
    pub(crate) addr: SocketAddr,
    child: Child,
    log: PathBuf,
}

/// Memory of a process and its children.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Memory {
    /// Resident bytes; what is shared counts in each process.
    pub(crate) rss: u64,
    /// Resident bytes, what is shared counted in parts.
    pub(crate) pss: u64,
}

impl Running {
    /// Starts `command` on `cores`; it gets SIGTERM when this program dies, however that happens.
    pub(crate) fn start(
        name: &str,
        command: &[OsString],
        cores: &[u32],
        addr: SocketAddr,
        dir: &WorkDir,
    ) -> Result<Self> {
        let log = dir.file(&format!("{name}.log"));
        let file = File::create(&log).map_err(BenchError::io(format!("create {}", log.display())))?;
        let again = file.try_clone().map_err(BenchError::io("duplicate a descriptor"))?;
        let mut path = std::env::var_os("PATH").unwrap_or_default();
        path.push(":/usr/sbin:/sbin");
        let mut full = Command::new("setpriv");
        full.args(["--pdeathsig", "TERM"]).args(first_on(cores)).args(command);
        full.env("PATH", path);
        full.stdin(Stdio::null()).stdout(file).stderr(again);
        Ok(Self { addr, child: Child::spawn(name, &mut full)?, log })
    }

    /// Waits until it answers 200 with a body of `body` bytes.
    pub(crate) fn wait_ready(&self, body: usize, stop: &Stop) -> Result<()> {
        let addr = self.addr;
        self.wait_for(body as u64, stop, || {
            TcpStream::connect_timeout(&addr, Duration::from_secs(1))
                .and_then(|mut connection| idle::ask(&mut connection))
                .map(|length| length as u64)
                .map_err(|why| why.to_string())
        })
    }

    /// Waits until `ask` tells a body of `body` bytes.
    pub(crate) fn wait_for(
        &self,
        body: u64,
        stop: &Stop,
        ask: impl Fn() -> std::result::Result<u64, String>,
    ) -> Result<()> {
        let end = Instant::now() + READY_TIMEOUT;
        loop {
            let last = match ask() {
                Ok(length) if length == body => return Ok(()),
                Ok(length) => format!("a body of {length} bytes instead of {body}"),
                Err(why) => why,
            };
            if Instant::now() > end {
                let said = fs::read_to_string(&self.log).unwrap_or_default();
                let why = format!("not ready after {READY_TIMEOUT:?} ({last}); it said:\n{said}");
                return Err(BenchError::failed(&self.child.name, why));
            }
            stop.pause(POLL)?;
        }
    }

    /// CPU time of the process, its threads and its children so far.
    ///
    /// From the scheduler's own count in nanoseconds: ticks of 10 ms would be a whole percent of a short run.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let mut total = 0;
        for pid in self.tree() {
            let tasks = PathBuf::from(format!("/proc/{pid}/task"));
            for task in fs::read_dir(&tasks).map_err(BenchError::io(format!("read {}", tasks.display())))? {
                let path = task.map_err(BenchError::io("read a directory"))?.path().join("schedstat");
                // A thread may end between the two reads.
                let Ok(text) = fs::read_to_string(&path) else { continue };
                let nanos: Option<u64> = text.split(' ').next().and_then(|word| word.parse().ok());
                total += nanos.ok_or_else(|| {
                    BenchError::failed("kernel", format!("{} is not understood", path.display()))
                })?;
            }
        }
        Ok(Duration::from_nanos(total))
    }

    /// Memory of the process and its children now.
    pub(crate) fn memory(&self) -> Result<Memory> {
        memory(self.child.pid())
    }

    fn tree(&self) -> Vec<u32> {
        tree(self.child.pid())
    }
}

/// Memory of a process and its children now.
pub(crate) fn memory(root: u32) -> Result<Memory> {
    let mut total = Memory::default();
    for pid in tree(root) {
        let path = format!("/proc/{pid}/smaps_rollup");
        let text = fs::read_to_string(&path).map_err(BenchError::io(format!("read {path}")))?;
        let kilobytes = |name: &str| -> u64 {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or(0)
        };
        total.rss += kilobytes("Rss:") << 10;
        total.pss += kilobytes("Pss:") << 10;
    }
    Ok(total)
}

/// The process and everything below it.
pub(crate) fn tree(root: u32) -> Vec<u32> {
    let parents = parents();
    let mut tree = vec![root];
    let mut next = 0;
    while let Some(parent) = tree.get(next).copied() {
        tree.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    tree
}

/// Every process with its parent.
fn parents() -> Vec<(u32, u32)> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| {
            let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            // The name stands in brackets and may hold anything: the fields begin after the last bracket.
            let (_, fields) = stat.rsplit_once(") ")?;
            Some((pid, fields.split(' ').nth(1)?.parse().ok()?))
        })
        .collect()
}

/// Counts a process tree's system calls with `perf stat`.
pub(crate) struct SyscallCounter {
    child: Child,
    file: PathBuf,
}

impl SyscallCounter {
    /// Begins to count; when this returns, it counts.
    pub(crate) fn start(running: &Running, dir: &WorkDir, stop: &Stop) -> Result<Self> {
        let file = dir.file("perf.csv");
        let pids = running.tree().iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        // As urgent as what it counts: otherwise it gets to run when the load is over.
        let mut command = Command::new("nice");
        command.args([
            "-n",
            NICENESS,
            "perf",
            "stat",
            "-x,",
            "-e",
            "raw_syscalls:sys_enter",
            "-p",
            &pids,
            "-o",
        ]);
        command.arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let counter = Self { child: Child::spawn("perf", &mut command)?, file };
        let end = Instant::now() + READY_TIMEOUT;
        while !counter.is_attached() {
            if Instant::now() > end {
                return Err(BenchError::failed("perf", "does not attach (needs tracefs and root)"));
            }
            stop.pause(POLL)?;
        }
        Ok(counter)
    }

    /// Whether perf has its counters open.
    fn is_attached(&self) -> bool {
        let Ok(mut files) = fs::read_dir(format!("/proc/{}/fd", self.child.pid())) else { return false };
        files.any(|file| {
            let target = file.and_then(|file| fs::read_link(file.path()));
            target.is_ok_and(|target| target.to_string_lossy().contains("[perf_event]"))
        })
    }

    /// Ends, and returns how many there were.
    pub(crate) fn finish(mut self) -> Result<u64> {
        // perf prints when it is interrupted, as from a terminal.
        self.child.end(Signal::INT);
        let text =
            fs::read_to_string(&self.file).map_err(BenchError::io("read perf's output (tracefs, root)"))?;
        let line = text.lines().find(|line| line.contains("raw_syscalls"));
        line.and_then(|line| line.split(',').next()?.parse().ok())
            .ok_or_else(|| BenchError::failed("perf", format!("printed what is not understood:\n{text}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_have_cores_apart_from_the_load_where_there_are_enough_and_share_them_where_not() {
        let cores = Cores { proxy: 0, load: 1 };
        let of = |workers, has| (cores.proxies_of(workers, has), cores.loads_of(workers, has));
        assert_eq!((Room::of(1, 2), of(1, 2)), (Room::Apart, (vec![0], vec![1])));
        assert_eq!((Room::of(2, 4), of(2, 4)), (Room::Apart, (vec![0, 2], vec![1, 3])));
        assert_eq!((Room::of(2, 2), of(2, 2)), (Room::Shared, (vec![0, 1], vec![0, 1])));
        assert_eq!((Room::of(2, 3), of(2, 3)), (Room::Shared, (vec![0, 2], vec![0, 2])));
        assert_eq!(Room::of(4, 3), Room::None);
    }

    #[test]
    fn what_a_child_has_used_is_known_when_it_has_ended() {
        let before = ended_children().unwrap();
        let ended =
            Command::new("sh").args(["-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done"]).status();
        assert!(ended.unwrap().success());
        assert!(ended_children().unwrap() > before);
    }
}
