//! `loadtest hitless`: what changes while requests flow, and whether one of them noticed.
//!
//! Each row starts a gateway in front of three backends on loopback and sends it open-loop load: one stream of
//! requests on keep-alive connections, and a tenth as many on a new connection each. Meanwhile the row does its thing
//! again and again. Its claim is: 0 requests failed, and the thing really happened; what is proof of that is the row's
//! own say, seen from outside. That a worker panics cannot be brought about from outside: the gateway's own tests do.

mod act;
mod flow;
mod gateway;
mod report;
mod row;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::bench::machine::{Facts, Stop};
use crate::bench::process::{self, Cores, WorkDir};
use crate::bench::{BenchError, Result};
use flow::{Flow, Plan};
use gateway::{Backends, Gateway};
use report::{Line, Outcome};
use row::Row;

/// What to do, under which load.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// What is done meanwhile; repeatable or separated by commas. Default: all.
    #[arg(long = "row", value_enum, value_delimiter = ',')]
    rows: Vec<Row>,
    /// Requests per second on keep-alive connections; a tenth as many come on new connections beside them.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(10..=100_000))]
    rate: u32,
    /// Seconds of load per row, half of one before the first change and half of one behind the last.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(2..=600))]
    seconds: u32,
    /// Workers of the gateway.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=256))]
    workers: u32,
    /// The gateway's binary.
    #[arg(long, default_value = "target/release/ringway")]
    ringway: PathBuf,
    /// Where hitless.csv, hitless.json and a plot per row are written.
    #[arg(long, default_value = "target/hitless")]
    out: PathBuf,
}

/// Load before the first change, and behind the last.
const QUIET: Duration = Duration::from_millis(500);

/// Runs the rows and prints a line each. `false` when a claim does not hold.
///
/// # Errors
/// A program is missing, does not start or answers wrongly; a signal came.
pub(crate) fn run(options: &Options) -> Result<bool> {
    let rows = if options.rows.is_empty() { Row::ALL.to_vec() } else { options.rows.clone() };
    let stop = Stop::on_signals()?;
    process::find("setpriv", "apt-get install util-linux")?;
    if !options.ringway.is_file() {
        return Err(BenchError::Missing {
            program: options.ringway.display().to_string(),
            remedy: "cargo build --release, or --ringway PATH".to_owned(),
        });
    }
    fs::create_dir_all(&options.out).map_err(BenchError::io(format!("create {}", options.out.display())))?;
    // Nothing is pinned: what is claimed is that nothing fails, not what it costs.
    let facts = Facts::collect(&Cores { proxy: 0, load: 0 }, None);
    println!("{}\n", facts.machine());
    println!("{}", report::heading());
    let dir = WorkDir::create()?;
    let mut lines = Vec::new();
    for row in rows {
        let (outcome, flow) = one(row, options, &dir, &stop)?;
        let line = Line::new(row, &outcome, &flow);
        println!("{}", line.text());
        for note in line.notes() {
            println!("    {note}");
        }
        report::plot(&options.out, row, &line, &flow)?;
        lines.push(line);
    }
    report::write(&options.out, &facts, options.rate, options.seconds, &lines)?;
    Ok(lines.iter().all(Line::holds))
}

fn one(row: Row, options: &Options, dir: &WorkDir, stop: &Stop) -> Result<(Outcome, Flow)> {
    let backends = Backends::start()?;
    let mut gateway = Gateway::start(row, options, &backends, dir, stop)?;
    let plan = Plan {
        target: gateway.listen(),
        tls: row.is_secured().then(|| gateway.tls()).transpose()?,
        rate: options.rate,
        duration: Duration::from_secs(u64::from(options.seconds)),
    };
    let running = flow::start(&plan)?;
    stop.pause(QUIET)?;
    let acted = act::until(row, &mut gateway, plan.duration - QUIET * 2, stop);
    let flow = running.finish()?;
    // The requests first: a change that failed says less than they do.
    let done = acted?;
    let proof = act::proof(row, &mut gateway, &done, plan.tls.as_ref())?;
    Ok((Outcome { done: done.count, proof }, flow))
}
