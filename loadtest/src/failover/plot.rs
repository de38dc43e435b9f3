//! Latency over time around a fault: one panel for each proxy, the same axes for all.
//!
//! A mark is a request, at the time when it was due and at the height of its latency.

use std::time::Duration;

use loadgen::Record;

use super::measure::{Seen, ms};
use crate::picture::{Axis, Chart, Guide, Look, Panel, Point, Scale, Series};

/// What is shown of a run: from so many milliseconds before the fault to so many after it.
const SHOWN_MS: (f64, f64) = (-200.0, 1_000.0);
/// Latencies of the axis, milliseconds: from here to the power of ten above the slowest, at least so far.
const LATENCY_MS: (f64, f64) = (1.0, 1_000.0);

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Active,
    Standby,
    Failed,
}

/// The plot of a row: `slow` is the healthy maximum.
pub(crate) fn chart(title: &str, about: String, slow: Duration, panels: Vec<Panel>) -> Chart {
    let points = panels.iter().flat_map(|panel| &panel.series).flat_map(|series| &series.points);
    let slowest = points.map(|point| point.y).fold(LATENCY_MS.1, f64::max);
    let latency = (LATENCY_MS.0, 10f64.powf(slowest.log10().ceil()));
    let axis = |label, scale, span| Axis { span: Some(span), ..Axis::new(label, scale) };
    Chart {
        title: title.to_owned(),
        about,
        x: axis("time at which the request was due, milliseconds after the fault", Scale::Linear, SHOWN_MS),
        y: axis("latency, ms", Scale::Log, latency),
        guides: vec![
            Guide::Upright(0.0, "fault".to_owned()),
            Guide::Level(ms(slow), format!("affected above {:.0} ms", ms(slow))),
        ],
        panels,
    }
}

/// One run of a proxy.
pub(crate) fn panel(name: &str, note: String, seen: &Seen) -> Panel {
    let series = |legend: &str, look, fate| Series {
        name: legend.to_owned(),
        look,
        joined: false,
        points: seen
            .records
            .iter()
            .filter(|record| fate_of(record) == fate)
            .map(|record| Point { x: ms(record.due) - ms(seen.fault), y: ms(record.latency), spread: None })
            .filter(|point| (SHOWN_MS.0..=SHOWN_MS.1).contains(&point.x))
            .collect(),
    };
    Panel {
        name: name.to_owned(),
        note,
        series: vec![
            series("active cluster answered", Look::Disc, Fate::Active),
            series("standby answered", Look::Square, Fate::Standby),
            series("failed, after so long", Look::Cross, Fate::Failed),
        ],
    }
}

fn fate_of(record: &Record) -> Fate {
    match record.value.as_deref() {
        _ if !record.outcome.is_good() => Fate::Failed,
        Some("b") => Fate::Standby,
        Some(_) | None => Fate::Active,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use loadgen::Outcome;

    #[test]
    fn every_request_near_the_fault_is_a_mark_and_no_other_is() {
        let record = |due: u64, status, value: Option<&str>| Record {
            number: due,
            due: Duration::from_millis(due),
            late: None,
            latency: Duration::from_millis(10),
            outcome: Outcome::Answered { status, body: 0 },
            value: value.map(str::to_owned),
        };
        let seen = Seen {
            records: vec![
                record(1_000, 200, Some("a")),
                record(1_900, 200, Some("a")),
                record(2_000, 200, Some("b")),
                record(2_500, 503, Some("a")),
                record(3_500, 503, None),
            ],
            executions: Vec::new(),
            by_active: std::collections::HashSet::new(),
            fault: Duration::from_secs(2),
            heal_begun: Duration::from_secs(3),
            healed: Duration::from_secs(3),
            verdicts: None,
            doubts: Vec::new(),
            downs: None,
            memory: (1, 1),
            steal_percent: 0.0,
        };
        let panel = panel("x", "note".to_owned(), &seen);
        let shown: Vec<Vec<f64>> =
            panel.series.iter().map(|series| series.points.iter().map(|point| point.x).collect()).collect();
        assert_eq!(shown, [vec![-100.0], vec![0.0], vec![500.0]], "by a, by the standby, failed");
        assert!(panel.series.iter().flat_map(|series| &series.points).all(|point| point.y == 10.0));
        let svg = chart("t", "what".to_owned(), Duration::from_millis(45), vec![panel]).svg();
        assert!(svg.contains(">affected above 45 ms</text>") && svg.contains(">fault</text>"));
        assert!(
            svg.contains(">1,000</text>") && !svg.contains(">10,000</text>"),
            "as far as there is something"
        );
    }
}
