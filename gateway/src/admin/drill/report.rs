//! What a drill found: as JSON for the API and the state directory, as text for people.

use std::fmt::Write;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::admin::api::Latency;
use crate::admin::window::Count;

/// `GET /api/v1/drill`
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DrillState {
    /// What goes on.
    pub phase: Phase,
    /// The cluster of the drill that goes on.
    pub cluster: Option<String>,
    /// Its fault.
    pub fault: Option<String>,
    /// When it began, milliseconds since 1970: tells one drill from the next.
    pub began_unix_ms: Option<u64>,
    /// Since its beginning.
    pub elapsed_seconds: Option<f64>,
    /// The last drill that is over, since the start of the process.
    pub report: Option<Report>,
}

/// What goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Nothing.
    Idle,
    /// Attempts get faults.
    Running,
    /// The fault has ended; what came of it is measured.
    Measuring,
}

/// How a drill ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It lasted as long as it was to.
    Finished,
    /// An abort rule, an operator or the end of its cluster ended it.
    Aborted,
}

/// What a drill found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Whose attempts got faults.
    pub cluster: String,
    /// Which.
    pub fault: String,
    /// Which part of them was to, in percent.
    pub share_percent: f64,
    /// What was to end it early.
    pub abort_on: String,
    /// When it began, milliseconds since 1970.
    pub began_unix_ms: u64,
    /// How long it was to last.
    pub planned_seconds: f64,
    /// How it ended.
    pub outcome: Outcome,
    /// Why, when it was aborted.
    pub reason: String,
    /// Attempts that got the fault.
    pub faults: u64,
    /// From the beginning to the first verdict against an endpoint, in steps of 20 ms; `None` = there was none.
    pub detection_ms: Option<f64>,
    /// Attempts tried again elsewhere for free: nothing had been sent. Of the whole node, during the drill.
    pub moved: u64,
    /// Attempts tried again elsewhere, paid from the budget. Of the whole node, during the drill.
    pub retried: u64,
    /// Second attempts made before the first had failed.
    pub hedged: u64,
    /// The ten seconds before.
    pub before: Figures,
    /// While attempts got faults.
    pub during: Figures,
    /// The time after.
    pub after: Figures,
}

/// What clients saw of the whole node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// How long.
    pub seconds: f64,
    /// Answers.
    pub requests: u64,
    /// Of these, 5xx.
    pub failed: u64,
    /// From the request head complete to the response complete.
    pub latency: Latency,
}

impl Figures {
    pub(in crate::admin) fn new(count: &Count, span: Duration) -> Self {
        Self {
            seconds: span.as_secs_f64(),
            requests: count.tally.responses(),
            failed: count.tally.classes[4],
            latency: Latency::of(&count.latency),
        }
    }
}

/// The report as text.
#[must_use]
pub fn render(report: &Report) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_report(&mut out, report);
    out
}

fn write_report(out: &mut String, report: &Report) -> std::fmt::Result {
    let Report { cluster, fault, share_percent, during, planned_seconds, .. } = report;
    write!(out, "Drill of {fault} on {share_percent} % of the attempts on {cluster}: ")?;
    match report.outcome {
        Outcome::Finished => writeln!(out, "finished after {:.1} s", during.seconds)?,
        Outcome::Aborted => {
            writeln!(out, "aborted after {:.1} s of {planned_seconds} s: {}", during.seconds, report.reason)?;
        }
    }
    let detection = report.detection_ms.map_or("no verdict".to_owned(), |ms| format!("{ms:.0} ms"));
    writeln!(out, "  attempts with the fault  {}", report.faults)?;
    writeln!(out, "  detection                {detection}")?;
    let (moved, retried, hedged) = (report.moved, report.retried, report.hedged);
    writeln!(out, "  moved, retried, hedged   {moved}, {retried}, {hedged}")?;
    writeln!(out, "\n           SECONDS  REQUESTS  FAILED       P50       P99     P99.9")?;
    for (name, figures) in [("before", report.before), ("during", *during), ("after", report.after)] {
        let Figures { seconds, requests, failed, latency } = figures;
        let ms = |value: Option<f64>| value.map_or("-".to_owned(), |ms| format!("{ms:.1} ms"));
        let (p50, p99, p999) = (ms(latency.p50_ms), ms(latency.p99_ms), ms(latency.p999_ms));
        writeln!(
            out,
            "  {name:<7} {seconds:>8.1}  {requests:>8}  {failed:>6}  {p50:>8}  {p99:>8}  {p999:>8}"
        )?;
    }
    Ok(())
}
