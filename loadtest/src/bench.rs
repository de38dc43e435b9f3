//! `loadtest bench`: what a request costs in each proxy, measured side by side.
//!
//! How: backend and load generator on one core, the proxy alone on another with one worker, no access log, keep-alive
//! upstream, one congestion control for all. Rounds are interleaved (A B C, A B C, …), so that a noisy minute hits all
//! alike; what is compared is CPU time per completed request, which noise in latency does not touch. A run is void
//! when a peer stands far from its known ratio to the floor: then something is mis-tuned, or the machine is too noisy.
//!
//! Everything that is started is stopped by its process id, and the kernel setting that is changed is put back, also
//! on SIGINT and SIGTERM.

pub(crate) mod agree;
pub(crate) mod attack;
mod case;
mod cases;
mod charts;
mod churn;
mod envoy;
mod ground;
mod h2load;
mod idle;
pub(crate) mod machine;
pub(crate) mod open;
pub(crate) mod process;
mod proxy;
mod ratios;
mod report;
mod wrk;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;

use case::{Case, Group, Kind, Spec};
use cases::CASES;
use ground::{Ground, Stand};
use machine::{Autogroup, CongestionControl, Facts, Stop, Turn};
use process::{Room, Running};
use proxy::Proxy;
use report::{IdleRow, Offered, Report, Row, Sample};

/// What to compare, and for how long.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Times every proxy is measured per case; the table shows min, median and max.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Seconds of load per measurement.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// What is measured: cases, or groups of them (main, l4, tls, h2, connections, bodies, routes, workers, filters, churn,
    /// open-loop; scaling: connections, bodies, routes and workers; all). Repeatable or separated by commas. Default: main and l4. `--list` tells them.
    #[arg(long = "case", value_delimiter = ',', value_parser = cases_named)]
    cases: Vec<Named>,
    /// Only tell which cases there are.
    #[arg(long)]
    list: bool,
    /// Who is measured; repeatable or separated by commas. Default: all.
    #[arg(long, value_enum, value_delimiter = ',')]
    proxies: Vec<Proxy>,
    #[command(flatten)]
    stand: Stand,
    /// Connections of the cases idle-memory, l4-idle, tls-idle and h2-idle.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=25_000))]
    idle_connections: u32,
    /// Connections and streams on each of the cases h2-32, h2c-32 and grpc-32, such as 16x4; what is known of peers holds
    /// for their own, 2x32.
    #[arg(long, value_name = "CONNECTIONSxSTREAMS", value_parser = shape)]
    streams: Option<(u32, u32)>,
    /// Count system calls per request in an extra run of each case (needs perf).
    #[arg(long)]
    syscalls: bool,
    /// Also write the report here.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Also write bench.json, bench.csv and charts into this folder.
    #[arg(long)]
    out: Option<PathBuf>,
}

/// The cases of one word.
type Named = std::sync::Arc<[Case]>;

fn cases_named(word: &str) -> std::result::Result<Named, String> {
    let cases = Spec::named(word);
    if cases.is_empty() {
        let groups = Group::ALL.map(Group::name).join(", ");
        return Err(format!(
            "neither a case (--list tells them) nor a group of cases ({groups}, scaling, all)"
        ));
    }
    Ok(cases.into())
}

fn shape(word: &str) -> std::result::Result<(u32, u32), String> {
    let of = |text: &str, max| text.parse().ok().filter(|number| (1..=max).contains(number));
    let both = word.split_once('x').and_then(|(left, right)| Some((of(left, 10_000)?, of(right, 100)?)));
    both.ok_or_else(|| "1 to 10000 connections, an x, 1 to 100 streams".to_owned())
}

/// Why there is no result.
#[derive(Debug)]
pub(crate) enum BenchError {
    /// A program is not installed.
    Missing {
        /// Its name.
        program: String,
        /// How to get it.
        remedy: String,
    },
    /// Something the operating system refused.
    Io {
        /// What was being done.
        doing: String,
        /// Its answer.
        cause: io::Error,
    },
    /// A program ran and did not do what it is for.
    Failed {
        /// Which program.
        program: String,
        /// What it said, or what was seen.
        why: String,
    },
    /// SIGINT or SIGTERM.
    Stopped,
}

/// The result of everything in this module.
pub(crate) type Result<T> = std::result::Result<T, BenchError>;

impl BenchError {
    /// Something the operating system refused while `doing`.
    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |cause| Self::Io { doing, cause }
    }

    /// A program that did not do what it is for.
    pub(crate) fn failed(program: &str, why: impl Into<String>) -> Self {
        Self::Failed { program: program.to_owned(), why: why.into() }
    }
}

impl fmt::Display for BenchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { program, remedy } => write!(f, "{program} is missing: {remedy}"),
            Self::Io { doing, cause } => write!(f, "{doing}: {cause}"),
            Self::Failed { program, why } => write!(f, "{program}: {why}"),
            Self::Stopped => f.write_str("stopped by a signal; everything that was started has been stopped"),
        }
    }
}

impl std::error::Error for BenchError {}

/// Seconds of load before the first measurement of a proxy in a case: connections and pools are there, caches warm.
const WARM_UP_SECONDS: u32 = 1;

/// Runs the comparison and prints it.
///
/// # Errors
/// A program is missing, a kernel setting cannot be changed, a signal came; or, when every other case has been measured and
/// the report is written, a program did not start or answered wrongly in a case.
pub(crate) fn run(options: &Options) -> Result<()> {
    if options.list {
        for case in &CASES {
            println!("{:<16} {:<12} {}", case.name, case.group.name(), case.about);
        }
        return Ok(());
    }
    let mut cases: Vec<Case> = options.cases.iter().flat_map(|named| named.iter().copied()).collect();
    if cases.is_empty() {
        cases = Spec::usual();
    }
    let proxies =
        if options.proxies.is_empty() { everybody(&options.stand) } else { options.proxies.clone() };
    let stop = Stop::on_signals()?;
    let cores = options.stand.cores()?;
    for program in ["taskset", "setpriv"] {
        process::find(program, "apt-get install util-linux")?;
    }
    for (program, package) in cases.iter().filter_map(|case| case.generator()) {
        process::find(program, &format!("apt-get install {package}"))?;
    }
    if options.syscalls {
        process::find("perf", "apt-get install linux-perf")?;
    }
    for (proxy, case) in proxies.iter().flat_map(|proxy| cases.iter().map(move |case| (proxy, case))) {
        if case.takes(*proxy) {
            proxy.check(&options.stand.ringway, &options.stand.envoy, case)?;
        }
    }
    let bench = Bench { options, ground: Ground::new(&options.stand, stop)? };
    let _turn = Turn::wait(&bench.ground.stop)?;
    let _first = Autogroup::first();
    let _reno = CongestionControl::pin("reno")?;
    let envoy = envoy::find(&options.stand.envoy).ok();
    let facts = Facts::collect(&cores, envoy.as_deref());
    println!("{facts}");

    let mut report = Report::new(facts, options.rounds, options.seconds);
    let measured = each(&cases, |case| {
        let measured = bench.measure(case, &proxies, &mut report);
        if let Err(why @ (BenchError::Missing { .. } | BenchError::Io { .. } | BenchError::Failed { .. })) =
            &measured
        {
            println!("\n{}", report.add_note(case, &format!("FAILED: {why}")));
        }
        measured
    });
    for reason in report.void_reasons() {
        println!("VOID: {reason}");
    }
    write(options, &report)?;
    measured
}

/// Measures one case after the other. One that fails is no reason to lose the others: it is told at the end, by name.
fn each(cases: &[Case], mut measure: impl FnMut(Case) -> Result<()>) -> Result<()> {
    let mut failed = Vec::new();
    for case in cases {
        match measure(case) {
            Ok(()) => {}
            Err(BenchError::Stopped) => return Err(BenchError::Stopped),
            Err(_) => failed.push(case.name),
        }
    }
    match failed.as_slice() {
        [] => Ok(()),
        failed => Err(BenchError::failed("failed", failed.join(", "))),
    }
}

/// The report, where it is wanted.
fn write(options: &Options, report: &Report) -> Result<()> {
    if let Some(path) = &options.json {
        save(path, &report.json())?;
    }
    if let Some(folder) = &options.out {
        std::fs::create_dir_all(folder).map_err(BenchError::io(format!("create {}", folder.display())))?;
        save(&folder.join("bench.json"), &report.json())?;
        save(&folder.join("bench.csv"), &report.csv())?;
        for (name, chart) in charts::all(report) {
            save(&folder.join(format!("bench-{name}.svg")), &chart.svg())?;
        }
    }
    Ok(())
}

/// Who takes part when nobody is named: Envoy, which Debian does not package, only where it is or was pointed to.
fn everybody(stand: &Stand) -> Vec<Proxy> {
    let is_there = stand.envoy != Path::new(ground::ENVOY) || envoy::find(&stand.envoy).is_ok();
    if !is_there {
        println!("envoy takes no part: it is not on the path (scripts/bench installs it; --envoy PATH)");
    }
    Proxy::ALL.into_iter().filter(|proxy| *proxy != Proxy::Envoy || is_there).collect()
}

fn save(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(BenchError::io(format!("write {}", path.display())))
}

struct Bench<'a> {
    options: &'a Options,
    ground: Ground,
}

/// A proxy under test with what its measurements gave.
struct Contender {
    proxy: Proxy,
    running: Running,
    /// Its own: what the others keep open takes none of its descriptors.
    backends: Vec<Running>,
    home: PathBuf,
    samples: Vec<Sample>,
    syscalls_per_request: Option<f64>,
}

impl Contender {
    /// CPU time so far of what loads it and of what it asks, where that is on its cores: not somebody else's.
    fn load(&self, case: Case) -> Result<Duration> {
        if Room::here(case.workers) != Room::Shared {
            return Ok(Duration::ZERO);
        }
        self.backends.iter().map(Running::cpu).chain([process::ended_children()]).sum()
    }
}

impl Bench<'_> {
    fn measure(&self, case: Case, proxies: &[Proxy], report: &mut Report) -> Result<()> {
        let room = Room::here(case.workers);
        if let Some(note) = room.note(case.workers) {
            println!("\n{}", report.add_note(case, &note));
        }
        if room == Room::None {
            return Ok(());
        }
        match case.kind {
            Kind::Load { .. } | Kind::Streams { .. } | Kind::Open { .. } => self.load(case, proxies, report),
            Kind::Idle => self.idle(case, proxies, report),
        }
    }

    fn load(&self, case: Case, proxies: &[Proxy], report: &mut Report) -> Result<()> {
        if let Some((asked, given)) = connections(case).filter(|(asked, given)| given < asked) {
            let files = process::files_max();
            println!("\n{}", report.add_note(case, &fewer(asked, given, files)));
        }
        let mut contenders = self.start(case, proxies)?;
        eprintln!(
            "{}: {} rounds of {} s × {} …",
            case.name,
            self.options.rounds,
            self.options.seconds,
            contenders.len()
        );
        for contender in &contenders {
            self.offer(contender, case, WARM_UP_SECONDS)?;
        }
        for _ in 0..self.options.rounds {
            for contender in &mut contenders {
                let sample = self.sample(contender, case)?;
                contender.samples.push(sample);
            }
        }
        if self.options.syscalls {
            for contender in &mut contenders {
                contender.syscalls_per_request = Some(self.count_syscalls(contender, case)?);
            }
        }
        let rows = contenders.iter().map(|c| Row::new(c.proxy, &c.samples, c.syscalls_per_request)).collect();
        println!("{}", report.add_load(case, rows));
        Ok(())
    }

    /// One run of the case's load.
    fn offer(&self, contender: &Contender, case: Case, seconds: u32) -> Result<Offered> {
        let target = contender.running.addr;
        let _churn = churn::Running::start(case, contender.home.clone());
        match case.kind {
            Kind::Load { connections, reuse } => {
                let connections = Spec::within(connections, process::files_max(), case.files_each());
                wrk::run(&self.ground.cores, target, case, (connections, reuse), seconds, &self.ground.stop)
            }
            Kind::Streams { connections, streams } => {
                let (ground, shape) = (&self.ground, self.options.streams.unwrap_or((connections, streams)));
                h2load::run(&ground.cores, target, case, shape, seconds, (&ground.dir, &ground.stop))
            }
            Kind::Open { rate } => {
                let shape = open::Shape::of(case, rate);
                open::run(&self.ground.cores, target, case, shape, seconds, &self.ground.stop)
            }
            Kind::Idle => Err(BenchError::failed("bench", format!("{} has no load", case.name))),
        }
    }

    fn sample(&self, contender: &Contender, case: Case) -> Result<Sample> {
        let cores = self.ground.cores.proxies(case.workers);
        let (core_before, before) = (machine::busy(&cores)?, contender.running.cpu()?);
        let load_before = contender.load(case)?;
        let begin = Instant::now();
        let result = self.offer(contender, case, self.options.seconds)?;
        let cpu = contender.running.cpu()?.saturating_sub(before);
        let load = contender.load(case)?.saturating_sub(load_before);
        let core = machine::busy(&cores)?.saturating_sub(core_before).saturating_sub(load);
        if result.errors > 0 {
            let why =
                format!("{} of {} requests failed in case {}", result.errors, result.requests, case.name);
            return Err(BenchError::failed(contender.proxy.name(), why));
        }
        let foreign =
            core.saturating_sub(cpu).as_secs_f64() / begin.elapsed().as_secs_f64() / f64::from(case.workers);
        Ok(Sample::new(cpu, foreign, &result))
    }

    /// System calls of the proxy per request, in a run of its own: counting slows the proxy down.
    fn count_syscalls(&self, contender: &Contender, case: Case) -> Result<f64> {
        let counter =
            process::SyscallCounter::start(&contender.running, &self.ground.dir, &self.ground.stop)?;
        let result = self.offer(contender, case, self.options.seconds)?;
        #[expect(clippy::cast_precision_loss, reason = "counts of a few seconds are far below 2^52")]
        let per_request = counter.finish()? as f64 / result.requests.max(1) as f64;
        Ok(per_request)
    }

    fn idle(&self, case: Case, proxies: &[Proxy], report: &mut Report) -> Result<()> {
        let contenders = self.start(case, proxies)?;
        let (asked, files) = (self.options.idle_connections, process::files_max());
        let count = Spec::within(asked, files, case.files_each());
        if count < asked {
            println!("\n{}", report.add_note(case, &fewer(asked, count, files)));
        }
        eprintln!("{}: {count} connections × {} …", case.name, contenders.len());
        let mut rows = Vec::new();
        for contender in &contenders {
            let before = contender.running.memory()?;
            let connections = idle::open(case, contender.running.addr, count, &self.ground.stop)?;
            // Long enough for buffers of idle connections to be given back.
            self.ground.stop.pause(Duration::from_secs(2))?;
            let after = contender.running.memory()?;
            drop(connections);
            rows.push(IdleRow::new(case, contender.proxy, count, before, after));
        }
        println!("{}", report.add_idle(case, rows));
        Ok(())
    }

    /// Every proxy that takes part in the case, each with a backend behind it, ready to serve.
    fn start(&self, case: Case, proxies: &[Proxy]) -> Result<Vec<Contender>> {
        let mut contenders = Vec::new();
        for proxy in proxies.iter().copied().filter(|proxy| case.takes(*proxy)) {
            let backend = self.ground.backend(case)?;
            let (running, home) = self.ground.proxy(proxy, case, &backend)?;
            contenders.push(Contender {
                proxy,
                running,
                backends: backend,
                home,
                samples: Vec::new(),
                syscalls_per_request: None,
            });
        }
        Ok(contenders)
    }
}

/// Connections that the case asks for, and as many as it gets.
fn connections(case: Case) -> Option<(u32, u32)> {
    let asked = case.connections()?;
    Some((asked, Spec::within(asked, process::files_max(), case.files_each())))
}

fn fewer(asked: u32, given: u32, files: u64) -> String {
    format!("{given} connections, not {asked}: a proxy may have {files} descriptors (ulimit -n)")
}

/// An address that nobody listens on now. Somebody else may take it before we use it: then the start fails by name.
pub(crate) fn free_addr() -> Result<SocketAddr> {
    std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map_err(BenchError::io("find a free port"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_that_fails_is_named_and_the_others_are_measured() {
        let cases: Vec<Case> = CASES.iter().take(3).collect();
        let mut seen = Vec::new();
        let ran = each(&cases, |case| {
            seen.push(case.name);
            if seen.len() == 1 { Err(BenchError::failed("nginx", "some failed")) } else { Ok(()) }
        });
        assert_eq!(seen, cases.iter().map(|case| case.name).collect::<Vec<_>>());
        assert!(ran.unwrap_err().to_string().contains(cases[0].name));

        let mut seen = 0;
        let ran = each(&cases, |_| {
            seen += 1;
            Err(BenchError::Stopped)
        });
        assert!(matches!(ran, Err(BenchError::Stopped)) && seen == 1, "a signal ends it");
    }
}
