//! `loadtest failover`: what a client sees when a cluster fails, with Ringway and with tuned peers in between.
//!
//! Client, gateway, cluster a (active) and cluster b (standby) are network namespaces that this command makes by
//! itself ([`topology`]); endpoints are processes of their own ([`pod`]); the load is open-loop and counts from the
//! scheduled time. In the middle of every run there is one [`fault`]. Figures come from the client's records and from
//! what the endpoints wrote down as executed ([`measure`]); [`claims`] are judged over several runs, interleaved over
//! the proxies so that a noisy minute hits all alike.
//!
//! A long table can be made in pieces: `--row`, `--runs` and `--minutes` say how much of it, `--resume` goes on with what an
//! earlier call has left in its folder. The last thing that is printed is one table of all claims, ours beside theirs.
//!
//! It stops by itself and cleans up, also on SIGINT and SIGTERM and when it panics: processes die with it, namespaces
//! are removed by its guards, and what a SIGKILL left is removed by the next run.

mod claims;
mod fault;
mod freeze;
pub(crate) mod http;
mod lab;
mod load;
mod manifests;
mod measure;
mod plot;
pub(crate) mod pod;
mod proxy;
mod report;
mod row;
mod template;
mod topology;
mod verdict;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;

use self::claims::{Figures, Metric};
use self::lab::Phases;
use self::measure::Seen;
use self::proxy::{Contender, Programs, Proxy};
use self::report::Column;
use self::row::{Hedge, Lengths, Row};
use crate::bench::machine::{Autogroup, Facts, Stop, Turn};
use crate::bench::process::{Cores, WorkDir, find};
use crate::bench::{BenchError, Result};
use crate::picture::Panel;

/// Which faults, with whom, how often.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Rows of the table, or groups of them (all, eight, partial, independence, alone, tcp, post); repeatable or separated by
    /// commas. Default: all.
    #[arg(long = "row", value_delimiter = ',')]
    rows: Vec<String>,
    /// Who is measured; repeatable or separated by commas. Default: all that are installed.
    #[arg(long = "proxy", value_enum, value_delimiter = ',')]
    proxies: Vec<Proxy>,
    /// Worker threads of Ringway, one column each; repeatable or separated by commas.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2])]
    workers: Vec<u16>,
    /// Runs of each row and proxy; the table shows their median and the worst.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
    /// Runs of each row that is not of the group eight, where they shall be fewer. Default: as many.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    other_runs: Option<u32>,
    /// Runs of each row and peer, where they shall be fewer than ours. Default: as many.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    peer_runs: Option<u32>,
    /// Rows in which peers take part; repeatable or separated by commas. Default: all that are chosen.
    #[arg(long = "peer-row", value_delimiter = ',')]
    peer_rows: Vec<String>,
    /// Go on where an earlier call with the same --out has stopped: what is in its runs.csv is not run again.
    #[arg(long)]
    resume: bool,
    /// Begin no run that would not end within so many minutes of the start; what is left is told.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    minutes: Option<u32>,
    /// Seconds of load of one run: 30 % before the fault, 30 % with it, 40 % after it.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Requests per second, where it shall not be the row's.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    rate: Option<u32>,
    /// Seconds of the row false-alarms.
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    false_alarm_seconds: u32,
    /// Seconds for which everything is down in the row all-down.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    all_down_seconds: u32,
    /// The gateway's binary.
    #[arg(long, default_value = "target/release/ringway")]
    ringway: PathBuf,
    /// Envoy's binary: a path, or a name that is looked up on PATH.
    #[arg(long, env = "ENVOY", default_value = "envoy")]
    envoy: PathBuf,
    /// Folder for report.md, runs.csv and a plot of each row.
    #[arg(long, default_value = "target/failover")]
    out: PathBuf,
    /// Do not wait for other benchmarks on this machine to end: for trying out, not for figures.
    #[arg(long)]
    beside_others: bool,
    /// Print the rows with what they claim, and do nothing.
    #[arg(long)]
    list: bool,
}

impl Options {
    fn rows(&self) -> Result<Vec<Row>> {
        let seconds = |count: u32| Duration::from_secs(u64::from(count));
        let lengths = Lengths {
            false_alarms: seconds(self.false_alarm_seconds),
            all_down: seconds(self.all_down_seconds),
        };
        let mut rows = Row::select(&self.rows, lengths).map_err(|why| BenchError::failed("failover", why))?;
        for row in &mut rows {
            row.rate = self.rate.unwrap_or(row.rate);
        }
        Ok(rows)
    }

    /// Every proxy that was asked for, or why it cannot take part. What was asked for by name must be there.
    fn contenders(&self, programs: &Programs) -> Result<Vec<(Contender, Option<String>)>> {
        let proxies = if self.proxies.is_empty() { &Proxy::ALL[..] } else { &self.proxies };
        let mut contenders = Vec::new();
        for proxy in proxies.iter().copied() {
            let workers = if proxy == Proxy::Ringway { &self.workers[..] } else { &[1] };
            for contender in workers.iter().map(|workers| Contender { proxy, workers: *workers }) {
                match contender.check(programs) {
                    Ok(()) => contenders.push((contender, None)),
                    Err(why) if self.proxies.is_empty() => {
                        contenders.push((contender, Some(why.to_string())))
                    }
                    Err(why) => return Err(why),
                }
            }
        }
        Ok(contenders)
    }
}

/// Runs the table and prints it.
///
/// # Errors
/// Without root or network namespaces, when a program that was asked for is missing or does not start, on a signal.
pub(crate) fn run(options: &Options) -> Result<()> {
    let rows = options.rows()?;
    if options.list {
        for row in &rows {
            println!("{:<22} {}", row.name, row.about);
            row.claims.iter().for_each(|claim| println!("{:<22}   {}", "", claim.text()));
        }
        return Ok(());
    }
    let programs = Programs { ringway: options.ringway.clone(), envoy: options.envoy.clone() };
    let contenders = options.contenders(&programs)?;
    topology::check_rights()?;
    for program in ["setpriv", "nice"] {
        find(program, "apt-get install util-linux coreutils")?;
    }
    let stop = Stop::on_signals()?;
    let doing = || format!("create {}", options.out.display());
    fs::create_dir_all(&options.out).map_err(BenchError::io(doing()))?;
    let peer_rows =
        Row::select(&options.peer_rows, LENGTHS_UNUSED).map_err(|why| BenchError::failed("failover", why))?;
    let peer_rows = peer_rows.into_iter().map(|row| row.name).collect();
    let (mut out, done) = Output::create(&options.out, options.resume)?;
    let table = Table { options, programs, contenders, peer_rows, done, dir: WorkDir::create()?, stop };
    let _turn = if options.beside_others { None } else { Some(Turn::wait(&table.stop)?) };
    let _first = Autogroup::first();
    out.tell(&table.facts())?;
    let began = Instant::now();
    eprintln!("{}", table.plan(&rows));
    let (mut all, mut left) = (Vec::new(), 0);
    for row in &rows {
        let (columns, not_run) = table.row(row, began, &mut out)?;
        all.push((row, columns));
        left += not_run;
    }
    let summary = report::summary(&all);
    out.tell(&summary)?;
    out.file("table.md", &summary)?;
    if left > 0 {
        out.tell(&format!("\n{left} runs did not fit: the same command with --resume makes them\n"))?;
    }
    Ok(())
}

/// Only names are asked for.
const LENGTHS_UNUSED: Lengths = Lengths { false_alarms: Duration::ZERO, all_down: Duration::ZERO };

/// What a run takes beside its load: namespaces, processes, readiness, the last answers.
const AROUND: Duration = Duration::from_millis(1_500);

struct Table<'a> {
    options: &'a Options,
    programs: Programs,
    contenders: Vec<(Contender, Option<String>)>,
    /// Rows in which peers take part.
    peer_rows: BTreeSet<String>,
    /// Runs of an earlier call.
    done: Done,
    dir: WorkDir,
    stop: Stop,
}

/// The runs of one proxy.
#[derive(Default)]
struct Runs {
    figures: Vec<Figures>,
    /// What was seen in those that this call made: by their place in `figures`.
    seen: Vec<(usize, Seen)>,
}

/// Figures of runs by row, proxy and number.
type Done = BTreeMap<(String, String, u32), Figures>;

impl Table<'_> {
    fn facts(&self) -> String {
        let facts = Facts::collect(&Cores { proxy: 0, load: 0 }, None);
        let versions: Vec<String> = self
            .contenders
            .iter()
            .filter(|(contender, skipped)| skipped.is_none() && contender.workers <= 1)
            .filter_map(|(contender, _)| {
                Some(format!("{}: {}", contender.name(), contender.version(&self.programs)?))
            })
            .collect();
        format!(
            "{}\nclient, proxy and endpoints share its processors; niceness {}, congestion control reno in every \
             namespace\n{}\n",
            facts.machine(),
            facts.niceness,
            versions.join("\n")
        )
    }

    /// How many runs a contender makes in a row; none where peers take no part.
    fn runs_of(&self, row: &Row, contender: &Contender) -> u32 {
        let most = if row.answers_to("eight") { None } else { self.options.other_runs };
        let all = self.options.runs.min(row.runs_max).min(most.unwrap_or(u32::MAX));
        if contender.proxy == Proxy::Ringway {
            all
        } else if contender.takes_part(row) && self.peer_rows.contains(&row.name) {
            all.min(self.options.peer_runs.unwrap_or(u32::MAX))
        } else {
            0
        }
    }

    /// About how long one run of a row lasts.
    fn lasts(&self, row: &Row, contender: &Contender) -> Duration {
        let run = Phases::of(row, self.options.seconds).total() + AROUND;
        if row.compares_hedging() && contender.proxy == Proxy::Ringway { run * 2 } else { run }
    }

    fn is_done(&self, row: &Row, contender: &Contender, number: u32) -> Option<&Figures> {
        self.done.get(&(row.name.clone(), contender.name(), number))
    }

    /// What is to be done, and how long it takes.
    fn plan(&self, rows: &[Row]) -> String {
        let (mut count, mut lasts) = (0, Duration::ZERO);
        for row in rows {
            for (contender, _) in self.contenders.iter().filter(|(_, skipped)| skipped.is_none()) {
                let runs = 1..=self.runs_of(row, contender);
                let runs = runs.filter(|number| self.is_done(row, contender, *number).is_none()).count();
                let runs = u32::try_from(runs).unwrap_or(u32::MAX);
                count += runs;
                lasts += self.lasts(row, contender) * runs;
            }
        }
        format!("{count} runs, about {} min", lasts.as_secs().div_ceil(60))
    }

    /// Makes the runs of a row. Returns its columns, and how many runs there was no time for.
    fn row(&self, row: &Row, began: Instant, out: &mut Output) -> Result<(Vec<Column>, u32)> {
        let end = self.options.minutes.map(|minutes| Duration::from_secs(60 * u64::from(minutes)));
        let (mut all, mut left): (Vec<Runs>, _) =
            (self.contenders.iter().map(|_| Runs::default()).collect(), 0);
        for number in 1..=self.options.runs {
            for ((contender, skipped), runs) in self.contenders.iter().zip(&mut all) {
                if skipped.is_some() || number > self.runs_of(row, contender) {
                    continue;
                }
                if let Some(figures) = self.is_done(row, contender, number) {
                    runs.figures.push(figures.clone());
                    continue;
                }
                if end.is_some_and(|end| began.elapsed() + self.lasts(row, contender) > end) {
                    left += 1;
                    continue;
                }
                eprintln!("{} {} run {number} …", row.name, contender.name());
                let (figures, seen) = self.once(row, contender)?;
                out.csv(&report::csv_line(&row.name, &contender.name(), number, &figures))?;
                runs.seen.push((runs.figures.len(), seen));
                runs.figures.push(figures);
            }
        }
        let columns: Vec<Column> = self
            .contenders
            .iter()
            .zip(&all)
            .filter(|((contender, _), _)| self.runs_of(row, contender) > 0)
            .map(|((contender, skipped), runs)| Column {
                name: contender.name(),
                runs: match skipped {
                    Some(why) => Err(format!("skipped: {why}")),
                    None if runs.figures.is_empty() => Err("not run yet".to_owned()),
                    None => Ok(runs.figures.clone()),
                },
            })
            .collect();
        out.tell(&report::table(row, &columns))?;
        let named = self.contenders.iter().zip(&all);
        let panels: Vec<Panel> = named.filter_map(|((c, _), runs)| panel(&c.title(), runs)).collect();
        if !panels.is_empty() {
            let about = format!("{}; {} requests per second", row.about, row.rate);
            let chart = plot::chart(&row.name, about, row.slow, panels);
            out.file(&format!("{}.svg", row.name), &chart.svg())?;
        }
        Ok((columns, left))
    }

    /// One run; of the row that compares hedge modes one run of each.
    fn once(&self, row: &Row, contender: &Contender) -> Result<(Figures, Seen)> {
        let phases = Phases::of(row, self.options.seconds);
        let run = |row: &Row| {
            let folder = self.dir.fresh(&contender.name())?;
            let seen = lab::run(row, contender, &self.programs, phases, &folder, &self.stop)?;
            Ok((measure::figures(row, &seen), seen))
        };
        let (figures, seen) = run(row)?;
        if !row.compares_hedging() || contender.proxy != Proxy::Ringway {
            return Ok((figures, seen));
        }
        let (always, seen) = run(&Row { hedge: Hedge::Always, ..row.clone() })?;
        Ok((measure::compare_hedging(&figures, &always), seen))
    }
}

/// Of the runs of this call the one whose greatest latency is in the middle.
fn panel(name: &str, runs: &Runs) -> Option<Panel> {
    let figures = |(index, _): &(usize, Seen)| &runs.figures[*index];
    let longest = |run: &(usize, Seen)| figures(run).get(&Metric::MaxMs).copied().unwrap_or(0.0);
    let mut order: Vec<&(usize, Seen)> = runs.seen.iter().collect();
    order.sort_by(|one, other| longest(one).total_cmp(&longest(other)));
    let run = *order.get(order.len().checked_sub(1)? / 2)?;
    let figure =
        |metric: Metric| figures(run).get(&metric).map_or("n/a".to_owned(), |value| metric.text(*value));
    let note = format!(
        "run {}: {} failed, {} affected, max {} ms",
        run.0 + 1,
        figure(Metric::Failed),
        figure(Metric::Affected),
        figure(Metric::MaxMs)
    );
    Some(plot::panel(name, note, &run.1))
}

/// The folder with the results; written as they come, so that an early end leaves what there is.
struct Output {
    folder: PathBuf,
    report: String,
    csv: String,
}

impl Output {
    /// With what an earlier call has left there, where that is to be gone on with.
    fn create(folder: &Path, resume: bool) -> Result<(Self, Done)> {
        let mut output = Self { folder: folder.to_path_buf(), report: String::new(), csv: String::new() };
        let path = folder.join("runs.csv");
        let earlier = match fs::read_to_string(&path) {
            Ok(text) if resume => text,
            Ok(_) => report::csv_head(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => report::csv_head(),
            Err(error) => return Err(BenchError::io(format!("read {}", path.display()))(error)),
        };
        let done = report::csv_read(&earlier)
            .map_err(|why| BenchError::failed("--resume", format!("{}: {why}", path.display())))?;
        output.csv(&earlier)?;
        Ok((output, done))
    }

    /// Prints, and adds to the report.
    fn tell(&mut self, text: &str) -> Result<()> {
        println!("{text}");
        self.report.push_str(text);
        self.file("report.md", &self.report)
    }

    fn csv(&mut self, line: &str) -> Result<()> {
        self.csv.push_str(line);
        self.file("runs.csv", &self.csv)
    }

    fn file(&self, name: &str, text: &str) -> Result<()> {
        let path = self.folder.join(name);
        fs::write(&path, text).map_err(BenchError::io(format!("write {}", path.display())))
    }
}
