//! `loadtest failover`: what a client sees when a cluster fails, with Ringway and with tuned peers in between.
//!
//! Client, gateway, cluster a (active) and cluster b (standby) are network namespaces that this command makes by
//! itself ([`topology`]); endpoints are processes of their own ([`pod`]); the load is open-loop and counts from the
//! scheduled time. In the middle of every run there is one [`fault`]. Figures come from the client's records and from
//! what the endpoints wrote down as executed ([`measure`]); [`claims`] are judged over several runs, interleaved over
//! the proxies so that a noisy minute hits all alike.
//!
//! It stops by itself and cleans up, also on SIGINT and SIGTERM and when it panics: processes die with it, namespaces
//! are removed by its guards, and what a SIGKILL left is removed by the next run.

mod claims;
mod fault;
mod freeze;
mod http;
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

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use self::claims::{Figures, Metric};
use self::lab::Phases;
use self::measure::Seen;
use self::plot::Panel;
use self::proxy::{Contender, Programs, Proxy};
use self::report::Column;
use self::row::{Hedge, Lengths, Row};
use crate::bench::machine::{Autogroup, Facts, Stop, Turn};
use crate::bench::process::{Cores, WorkDir, find};
use crate::bench::{BenchError, Result};

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
    /// Envoy's binary.
    #[arg(long, default_value = "envoy")]
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
    let table = Table { options, programs, contenders, dir: WorkDir::create()?, stop };
    let _turn = if options.beside_others { None } else { Some(Turn::wait(&table.stop)?) };
    let _first = Autogroup::first();
    let mut out = Output::create(&options.out)?;
    out.tell(&table.facts())?;
    for row in &rows {
        table.row(row, &mut out)?;
    }
    Ok(())
}

struct Table<'a> {
    options: &'a Options,
    programs: Programs,
    contenders: Vec<(Contender, Option<String>)>,
    dir: WorkDir,
    stop: Stop,
}

/// The runs of one proxy.
#[derive(Default)]
struct Runs {
    figures: Vec<Figures>,
    /// What was seen in the run that is plotted: the one with the greatest latency in the middle so far.
    seen: Vec<Seen>,
}

impl Table<'_> {
    fn facts(&self) -> String {
        let facts = Facts::collect(&Cores { proxy: 0, load: 0 });
        let versions: Vec<String> = self
            .contenders
            .iter()
            .filter(|(contender, skipped)| skipped.is_none() && contender.workers <= 1)
            .filter_map(|(contender, _)| {
                Some(format!("{}: {}", contender.name(), contender.version(&self.programs)?))
            })
            .collect();
        format!(
            "machine: {} ({} cpus, shared by client, proxy and endpoints), Linux {}\n\
             load average before: {}\nniceness {}, congestion control reno in every namespace\n{}\n",
            facts.cpu,
            facts.cpus,
            facts.kernel,
            facts.load_average,
            facts.niceness,
            versions.join("\n")
        )
    }

    fn row(&self, row: &Row, out: &mut Output) -> Result<()> {
        let runs = self.options.runs.min(row.runs_max);
        let mut all: Vec<Runs> = self.contenders.iter().map(|_| Runs::default()).collect();
        for number in 1..=runs {
            for ((contender, skipped), runs) in self.contenders.iter().zip(&mut all) {
                if skipped.is_none() && contender.takes_part(row) {
                    eprintln!("{} {} run {number} …", row.name, contender.name());
                    let (figures, seen) = self.once(row, contender)?;
                    out.csv(&report::csv_line(&row.name, &contender.name(), number as usize, &figures))?;
                    runs.figures.push(figures);
                    runs.seen.push(seen);
                }
            }
        }
        let columns: Vec<Column> = self
            .contenders
            .iter()
            .zip(&all)
            .map(|((contender, skipped), runs)| Column {
                name: contender.name(),
                runs: match skipped {
                    Some(why) => Err(format!("skipped: {why}")),
                    None if !contender.takes_part(row) => Err("not compared on layer 4".to_owned()),
                    None => Ok(runs.figures.clone()),
                },
            })
            .collect();
        out.tell(&report::table(row, &columns))?;
        let panels: Vec<Panel<'_>> =
            columns.iter().zip(&all).filter_map(|(c, runs)| panel(&c.name, runs)).collect();
        let about = format!("{}; {} requests per second", row.about, row.rate);
        out.file(&format!("{}.svg", row.name), &plot::svg(&row.name, &about, row.slow, &panels))
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

/// The run whose greatest latency is the median of all.
fn panel<'a>(name: &str, runs: &'a Runs) -> Option<Panel<'a>> {
    let longest = |index: &usize| runs.figures[*index].get(&Metric::MaxMs).copied().unwrap_or(0.0);
    let mut order: Vec<usize> = (0..runs.figures.len()).collect();
    order.sort_by(|one, other| longest(one).total_cmp(&longest(other)));
    let index = *order.get(order.len().checked_sub(1)? / 2)?;
    let figure = |metric: Metric| {
        runs.figures[index].get(&metric).map_or("n/a".to_owned(), |value| metric.text(*value))
    };
    let note = format!(
        "run {}: {} failed, {} affected, max {} ms",
        index + 1,
        figure(Metric::Failed),
        figure(Metric::Affected),
        figure(Metric::MaxMs)
    );
    Some(Panel { name: name.to_owned(), seen: &runs.seen[index], note })
}

/// The folder with the results; written as they come, so that an early end leaves what there is.
struct Output {
    folder: PathBuf,
    report: String,
    csv: String,
}

impl Output {
    fn create(folder: &Path) -> Result<Self> {
        let mut output = Self { folder: folder.to_path_buf(), report: String::new(), csv: String::new() };
        output.csv(&report::csv_head())?;
        Ok(output)
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
