//! Whether our generator measures what wrk and h2load measure: the same backend, the same number of connections and
//! streams, in turns.
//!
//! They can be compared where the backend decides, not the generator: it takes [`LATENCY`] for each answer. At saturation
//! (all connections busy) the throughput must be the same, at low load (one request at a time) the median latency. The
//! open loop is given more than the backend can do in the first case, and far less in the second. Tails are not compared:
//! a closed loop hides them, which is why there is an open one.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;

use super::case::{Case, Reuse, Spec, Speech};
use super::ground::{Ground, Stand};
use super::machine::{Autogroup, Facts, Stop, Turn};
use super::report::Offered;
use super::{BenchError, Result, h2load, open, process, wrk};

/// How long the backend takes for an answer.
const LATENCY: Duration = Duration::from_millis(5);
/// Requests at once at saturation.
const AT_ONCE: u32 = 64;
/// Requests per second at low load: one at a time, with pauses.
const LOW_RATE: u32 = 100;
/// Share of the other's figure that ours may be off.
const RATE_TOLERANCE: f64 = 0.05;
const LATENCY_TOLERANCE: f64 = 0.10;

/// How thoroughly.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Times each is measured; medians are compared.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    #[command(flatten)]
    stand: Stand,
}

/// What is compared.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Figure {
    Throughput,
    Median,
}

/// One comparison.
struct Row {
    about: &'static str,
    /// Which case says what is spoken.
    case: &'static str,
    figure: Figure,
}

const ROWS: [Row; 6] = [
    Row { about: "HTTP/1.1, 64 connections, requests/s", case: "h1-64", figure: Figure::Throughput },
    Row { about: "HTTP/1.1, one at a time, p50 µs", case: "h1-64", figure: Figure::Median },
    Row {
        about: "HTTP/2, 2 connections × 32 streams, requests/s",
        case: "h2c-32",
        figure: Figure::Throughput,
    },
    Row { about: "HTTP/2, one at a time, p50 µs", case: "h2c-32", figure: Figure::Median },
    Row { about: "gRPC, 2 connections × 32 streams, calls/s", case: "grpc-32", figure: Figure::Throughput },
    Row { about: "gRPC, one at a time, p50 µs", case: "grpc-32", figure: Figure::Median },
];

/// Compares and prints a table; whether they agree.
///
/// # Errors
/// A program is missing or fails, or a signal came.
pub(crate) fn run(options: &Options) -> Result<bool> {
    for (program, package) in [("wrk", "wrk"), ("h2load", "nghttp2-client"), ("setpriv", "util-linux")] {
        process::find(program, &format!("apt-get install {package}"))?;
    }
    let ground = Ground::new(&options.stand, Stop::on_signals()?)?;
    let _turn = Turn::wait(&ground.stop)?;
    let _first = Autogroup::first();
    println!("{}\n", Facts::collect(&ground.cores, None));
    println!(
        "{:<48} {:>8} {:>10} {:>10} {:>8} {:>8}  agree",
        "a backend that takes 5 ms", "other", "its", "ours", "off", "allowed"
    );
    let mut all = true;
    for row in &ROWS {
        let case = *Spec::named(row.case).first().ok_or_else(|| BenchError::failed("agree", row.case))?;
        let (mut theirs, mut ours) = (Vec::new(), Vec::new());
        let backends = ground.backends(case, LATENCY)?;
        let target = backends.first().ok_or_else(|| BenchError::failed("agree", "no backend"))?.addr;
        let turns = Turns { ground: &ground, target, case, figure: row.figure, seconds: options.seconds };
        for _ in 0..options.rounds {
            theirs.push(row.figure.of(&turns.other()?));
            ours.push(row.figure.of(&turns.own()?));
        }
        all &= compare(row, case, median(theirs), median(ours));
    }
    Ok(all)
}

fn compare(row: &Row, case: Case, theirs: f64, ours: f64) -> bool {
    let (off, allowed) = (ours / theirs - 1.0, row.figure.tolerance());
    let agrees = off.abs() <= allowed;
    let other = case.generator().map_or("", |(program, _)| program);
    println!(
        "{:<48} {other:>8} {theirs:>10.0} {ours:>10.0} {:>6.1} % {:>6.0} %  {}",
        row.about,
        off * 100.0,
        allowed * 100.0,
        if agrees { "yes" } else { "NO" }
    );
    agrees
}

impl Figure {
    fn of(self, offered: &Offered) -> f64 {
        match self {
            Self::Throughput => offered.rate,
            Self::Median => offered.p50.as_secs_f64() * 1e6,
        }
    }

    fn tolerance(self) -> f64 {
        match self {
            Self::Throughput => RATE_TOLERANCE,
            Self::Median => LATENCY_TOLERANCE,
        }
    }

    /// Connections, and streams on each.
    fn shape(self, case: Case) -> (u32, u32) {
        match (self, case.speech) {
            (Self::Median, _) => (1, 1),
            (Self::Throughput, Speech::Http1) => (AT_ONCE, 1),
            (Self::Throughput, Speech::Http2 | Speech::Grpc) => (2, AT_ONCE / 2),
        }
    }
}

/// What is measured in turns.
struct Turns<'a> {
    ground: &'a Ground,
    target: SocketAddr,
    case: Case,
    figure: Figure,
    seconds: u32,
}

impl Turns<'_> {
    /// A run of wrk or h2load.
    fn other(&self) -> Result<Offered> {
        let Self { ground, target, case, seconds, .. } = *self;
        let (connections, streams) = self.figure.shape(case);
        match case.speech {
            Speech::Http1 => {
                wrk::run(&ground.cores, target, case, (connections, Reuse::KeepAlive), seconds, &ground.stop)
            }
            Speech::Http2 | Speech::Grpc => {
                let (shape, place) = ((connections, streams), (&ground.dir, &ground.stop));
                h2load::run(&ground.cores, target, case, shape, seconds, place)
            }
        }
    }

    /// A run of ours: a third more than the backend can answer, or one request at a time.
    fn own(&self) -> Result<Offered> {
        let (connections, streams) = self.figure.shape(self.case);
        let most = u128::from(AT_ONCE) * 1_000 / LATENCY.as_millis();
        let rate = match self.figure {
            Figure::Throughput => u32::try_from(most * 4 / 3).unwrap_or(u32::MAX),
            Figure::Median => LOW_RATE,
        };
        let shape = open::Shape { rate, connections, streams };
        open::run(&self.ground.cores, self.target, self.case, shape, self.seconds, &self.ground.stop)
    }
}

/// The middle of some values, of an even number the upper one of the two.
pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_off_by_more_than_is_allowed_does_not_agree_and_nothing_measured_neither() {
        let case = Spec::named("h1-64")[0];
        let [throughput, median, ..] = &ROWS;
        assert!(compare(throughput, case, 1_000.0, 1_049.0) && compare(throughput, case, 1_000.0, 951.0));
        assert!(!compare(throughput, case, 1_000.0, 940.0) && !compare(throughput, case, 1_000.0, 1_060.0));
        assert!(compare(median, case, 5_100.0, 5_500.0) && !compare(median, case, 5_100.0, 5_700.0));
        assert!(!compare(median, case, f64::NAN, 5_700.0));
    }

    #[test]
    fn every_row_has_another_generator() {
        for row in &ROWS {
            assert!(Spec::named(row.case)[0].generator().is_some(), "{}", row.case);
        }
    }
}
