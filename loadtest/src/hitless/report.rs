//! The rows as text, CSV and JSON, and latency over time as a picture.

use std::fs;
use std::path::Path;
use std::time::Duration;

use loadgen::{Outcome as Ended, Record};
use serde::Serialize;

use super::flow::Flow;
use super::row::Row;
use crate::bench::machine::Facts;
use crate::bench::{BenchError, Result};
use crate::picture::{Axis, Chart, Look, Panel, Point, Scale, Series};

/// Failed requests that are told one by one.
const NOTES_MAX: usize = 8;

/// What a row did.
pub(super) struct Outcome {
    /// How often.
    pub(super) done: u32,
    /// What shows that it had an effect.
    pub(super) proof: String,
}

/// One row of the report.
#[derive(Serialize)]
pub(super) struct Line {
    row: &'static str,
    about: &'static str,
    /// How often it was done.
    done: u32,
    proof: String,
    requests: usize,
    /// Of them, on a connection each.
    fresh: usize,
    failed: usize,
    p50_ms: f64,
    p99_ms: f64,
    p999_ms: f64,
    max_ms: f64,
    /// How long the generator was late with a request at most: what is below that is its own.
    generator_late_ms: f64,
    #[serde(skip)]
    notes: Vec<String>,
}

impl Line {
    pub(super) fn new(row: Row, outcome: &Outcome, flow: &Flow) -> Self {
        let all = || flow.kept.iter().chain(&flow.fresh);
        let mut latencies: Vec<Duration> =
            all().filter(|record| record.outcome.is_good()).map(|record| record.latency).collect();
        latencies.sort_unstable();
        let failed: Vec<&Record> = all().filter(|record| !record.outcome.is_good()).collect();
        let at = |share: f64| quantile(&latencies, share);
        Self {
            row: row.name(),
            about: row.about(),
            done: outcome.done,
            proof: outcome.proof.clone(),
            requests: flow.kept.len() + flow.fresh.len(),
            fresh: flow.fresh.len(),
            failed: failed.len(),
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: at(1.0),
            generator_late_ms: ms(all().filter_map(|record| record.late).max().unwrap_or_default()),
            notes: notes(&failed),
        }
    }

    /// The claim: no request failed, and there were some.
    pub(super) fn holds(&self) -> bool {
        self.failed == 0 && self.requests > 0
    }

    pub(super) fn text(&self) -> String {
        format!(
            "{:<14} {:>6} {:>9} {:>7} {:>8.2} {:>8.2} {:>8.2} {:>8.1}  {} ({})",
            self.row,
            self.done,
            self.requests,
            self.failed,
            self.p50_ms,
            self.p99_ms,
            self.p999_ms,
            self.max_ms,
            if self.holds() { "holds" } else { "DOES NOT HOLD" },
            self.proof
        )
    }

    /// Failed requests, one by one as far as they are few.
    pub(super) fn notes(&self) -> &[String] {
        &self.notes
    }

    fn csv(&self) -> String {
        format!(
            "{},{},{},{},{},{:.3},{:.3},{:.3},{:.3},{:.3}\n",
            self.row,
            self.done,
            self.requests,
            self.fresh,
            self.failed,
            self.p50_ms,
            self.p99_ms,
            self.p999_ms,
            self.max_ms,
            self.generator_late_ms
        )
    }
}

/// The line above the rows.
pub(super) fn heading() -> String {
    format!(
        "{:<14} {:>6} {:>9} {:>7} {:>8} {:>8} {:>8} {:>8}",
        "row", "done", "requests", "failed", "p50 ms", "p99", "p99.9", "max"
    )
}

fn notes(failed: &[&Record]) -> Vec<String> {
    let mut notes: Vec<String> = failed
        .iter()
        .take(NOTES_MAX)
        .map(|record| {
            let what = match record.outcome {
                Ended::Answered { status, .. } => format!("status {status}"),
                Ended::Connect => "not connected".to_owned(),
                Ended::Closed(begun) => format!("closed, response begun: {begun:?}"),
                Ended::Timeout(begun) => format!("no answer in time, response begun: {begun:?}"),
                Ended::Malformed => "not HTTP/1.1".to_owned(),
                Ended::Grpc(code) => format!("grpc-status {code:?}"),
            };
            format!("request {} due at {:.1} ms: {what}", record.number, ms(record.due))
        })
        .collect();
    if failed.len() > NOTES_MAX {
        notes.push(format!("and {} more", failed.len() - NOTES_MAX));
    }
    notes
}

/// Milliseconds below which this share of `sorted` lies.
fn quantile(sorted: &[Duration], share: f64) -> f64 {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index of a list"
    )]
    let index = ((sorted.len() as f64 * share).ceil() as usize).clamp(1, sorted.len().max(1)) - 1;
    sorted.get(index).map_or(0.0, |latency| ms(*latency))
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Every request of a row, at the time when it was due.
pub(super) fn plot(out: &Path, row: Row, line: &Line, flow: &Flow) -> Result<()> {
    let of = |records: &[Record], good: bool| -> Vec<Point> {
        let wanted = records.iter().filter(|record| record.outcome.is_good() == good);
        wanted
            .map(|record| Point { x: record.due.as_secs_f64(), y: ms(record.latency), spread: None })
            .collect()
    };
    let series = |name: &str, look, points| Series { name: name.to_owned(), look, joined: false, points };
    let failed = [of(&flow.kept, false), of(&flow.fresh, false)].concat();
    let chart = Chart {
        title: format!("{}: {}", row.name(), row.about()),
        about: format!("{} requests, {} failed; done {} times", line.requests, line.failed, line.done),
        x: Axis::new("time at which the request was due, seconds", Scale::Linear),
        y: Axis::new("latency, milliseconds", Scale::Log),
        guides: Vec::new(),
        panels: vec![Panel::alone(vec![
            series("on keep-alive connections", Look::Disc, of(&flow.kept, true)),
            series("on a new connection", Look::Square, of(&flow.fresh, true)),
            series("failed", Look::Cross, failed),
        ])],
    };
    save(&out.join(format!("hitless-{}.svg", row.name())), &chart.svg())
}

/// hitless.csv and hitless.json.
pub(super) fn write(out: &Path, facts: &Facts, rate: u32, seconds: u32, lines: &[Line]) -> Result<()> {
    let mut csv =
        "row,done,requests,fresh,failed,p50_ms,p99_ms,p999_ms,max_ms,generator_late_ms\n".to_owned();
    csv.extend(lines.iter().map(Line::csv));
    save(&out.join("hitless.csv"), &csv)?;
    let report = serde_json::json!({
        "machine": facts, "rate": rate, "seconds": seconds, "rows": lines,
    });
    let text = serde_json::to_string_pretty(&report).expect("a report is numbers and strings");
    save(&out.join("hitless.json"), &text)
}

fn save(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(BenchError::io(format!("write {}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use loadgen::Begun;

    fn record(latency_ms: u64, outcome: Ended) -> Record {
        Record {
            number: latency_ms,
            due: Duration::from_millis(latency_ms * 10),
            late: Some(Duration::from_micros(300)),
            latency: Duration::from_millis(latency_ms),
            outcome,
            value: None,
        }
    }

    #[test]
    fn one_failed_request_is_told_and_breaks_the_claim() {
        let outcome = Outcome { done: 3, proof: "seen".to_owned() };
        let good = |latency| record(latency, Ended::Answered { status: 200, body: 1 });
        let flow = Flow { kept: (1..=99).map(good).collect(), fresh: vec![good(100)] };
        let line = Line::new(Row::Reload, &outcome, &flow);
        assert!(line.holds() && line.notes().is_empty());
        assert_eq!((line.requests, line.p50_ms, line.p99_ms, line.max_ms), (100, 50.0, 99.0, 100.0));
        let broken = Flow { fresh: vec![record(7, Ended::Closed(Begun::No))], ..flow };
        let line = Line::new(Row::Reload, &outcome, &broken);
        assert!(!line.holds() && line.failed == 1);
        assert!(line.text().contains("DOES NOT HOLD"));
        assert!(line.notes()[0].contains("due at 70.0 ms: closed"), "{:?}", line.notes());
    }

    #[test]
    fn a_row_without_requests_claims_nothing() {
        let outcome = Outcome { done: 0, proof: String::new() };
        assert!(!Line::new(Row::Quiet, &outcome, &Flow { kept: vec![], fresh: vec![] }).holds());
    }
}
