//! Latency over time around a fault, as SVG: one panel for each proxy, the same axes for all.
//!
//! A dot is a request, at the time when it was due and at the height of its latency (logarithmic). Dots differ in
//! shape as well as in colour, so that a print in black and white can be read.

use std::fmt::Write as _;
use std::time::Duration;

use loadgen::Record;

use super::measure::{Seen, ms};

/// What is shown of a run: from so many milliseconds before the fault to so many after it.
const FROM_MS: f64 = -200.0;
const TO_MS: f64 = 1_000.0;
/// Latencies of the axis, milliseconds.
const LOW_MS: f64 = 1.0;
const HIGH_MS: f64 = 10_000.0;

const WIDTH: f64 = 900.0;
const PANEL: f64 = 190.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const HEAD: f64 = 80.0;
/// The line of the legend.
const LEGEND: f64 = 62.0;
const FOOT: f64 = 50.0;
/// Between two panels, with the name of the lower one.
const GAP: f64 = 30.0;

/// One panel.
pub(crate) struct Panel<'a> {
    /// The proxy's name.
    pub(crate) name: String,
    /// The run that is shown.
    pub(crate) seen: &'a Seen,
    /// What is told beside the name.
    pub(crate) note: String,
}

/// What became of a request, as a dot shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    Active,
    Standby,
    Failed,
}

/// The plot of the row `name`; `about` says what it shows, `slow` is the healthy maximum.
pub(crate) fn svg(name: &str, about: &str, slow: Duration, panels: &[Panel<'_>]) -> String {
    #[expect(clippy::cast_precision_loss, reason = "a handful of panels")]
    let height = HEAD + FOOT + panels.len() as f64 * (PANEL + GAP);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"16\" font-weight=\"bold\">{}</text>\n\
         <text x=\"{LEFT}\" y=\"41\" font-size=\"13\">{}</text>\n",
        escape(name),
        escape(about)
    );
    legend(&mut out, slow);
    let mut top = HEAD;
    for panel in panels {
        top += GAP;
        draw(&mut out, panel, top, slow);
        top += PANEL;
    }
    let middle = f64::midpoint(LEFT, WIDTH - RIGHT);
    for time in (0..=6).map(|step| FROM_MS + f64::from(step) * 200.0) {
        let x = x_of(time);
        writeln!(out, "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{time:.0}</text>", top + 18.0)
            .expect("writing to a string");
    }
    writeln!(
        out,
        "<text x=\"{middle}\" y=\"{:.1}\" text-anchor=\"middle\">time at which the request was due, milliseconds after the fault</text>\n</svg>",
        top + 38.0
    )
    .expect("writing to a string");
    out
}

fn legend(out: &mut String, slow: Duration) {
    let (mut x, text_y) = (LEFT, LEGEND + 4.0);
    let entries = [
        (Mark::Active, "answered by cluster a"),
        (Mark::Standby, "answered by the standby"),
        (Mark::Failed, "failed (at the time of failure)"),
    ];
    for (mark, text) in entries {
        dots(out, mark, &format!("M{:.1} {LEGEND}h.01", x + 5.0), &[(x + 5.0, LEGEND)]);
        writeln!(out, "<text x=\"{:.1}\" y=\"{text_y}\">{text}</text>", x + 16.0)
            .expect("writing to a string");
        x += 200.0;
    }
    writeln!(
        out,
        "<path d=\"M{x} {LEGEND}h24\" stroke=\"#444\" stroke-dasharray=\"5 4\"/>\
         <text x=\"{}\" y=\"{text_y}\">affected above {:.0} ms</text>",
        x + 30.0,
        ms(slow)
    )
    .expect("writing to a string");
}

fn draw(out: &mut String, panel: &Panel<'_>, top: f64, slow: Duration) {
    let (right, bottom) = (WIDTH - RIGHT, top + PANEL);
    writeln!(
        out,
        "<text x=\"{LEFT}\" y=\"{:.1}\" font-weight=\"bold\">{}</text>\
         <text x=\"{right}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#444\">{}</text>",
        top - 6.0,
        escape(&panel.name),
        top - 6.0,
        escape(&panel.note)
    )
    .expect("writing to a string");
    for power in 0..=4 {
        let latency = 10_f64.powi(power);
        let y = y_of(latency, top);
        writeln!(
            out,
            "<path d=\"M{LEFT} {y:.1}H{right}\" stroke=\"#ddd\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{latency:.0}</text>",
            LEFT - 6.0,
            y + 4.0
        )
        .expect("writing to a string");
    }
    let (fault, slow) = (x_of(0.0), y_of(ms(slow), top));
    let middle = f64::midpoint(top, bottom);
    writeln!(
        out,
        "<path d=\"M{fault:.1} {top}V{bottom}\" stroke=\"black\"/>\
         <text x=\"{:.1}\" y=\"{:.1}\">fault</text>\
         <path d=\"M{LEFT} {slow:.1}H{right}\" stroke=\"#444\" stroke-dasharray=\"5 4\"/>\
         <rect x=\"{LEFT}\" y=\"{top}\" width=\"{:.1}\" height=\"{PANEL}\" fill=\"none\" stroke=\"black\"/>\
         <text x=\"18\" y=\"{middle}\" text-anchor=\"middle\" transform=\"rotate(-90 18 {middle})\">latency, ms</text>",
        fault + 4.0,
        top + 13.0,
        right - LEFT
    )
    .expect("writing to a string");
    for mark in [Mark::Active, Mark::Standby, Mark::Failed] {
        let points: Vec<(f64, f64)> = panel
            .seen
            .records
            .iter()
            .filter(|record| mark_of(record) == mark)
            .filter_map(|record| {
                let time = ms(record.due) - ms(panel.seen.fault);
                (FROM_MS..=TO_MS).contains(&time).then(|| (x_of(time), y_of(ms(record.latency), top)))
            })
            .collect();
        let mut path = String::new();
        for (x, y) in &points {
            write!(path, "M{x:.1} {y:.1}h.01").expect("writing to a string");
        }
        dots(out, mark, &path, &points);
    }
}

/// Dots of one kind: discs, squares, or crosses.
fn dots(out: &mut String, mark: Mark, path: &str, points: &[(f64, f64)]) {
    match mark {
        Mark::Active => {
            writeln!(
                out,
                "<path d=\"{path}\" stroke=\"#6bbf8a\" stroke-width=\"3\" stroke-linecap=\"round\"/>"
            )
        }
        Mark::Standby => {
            writeln!(
                out,
                "<path d=\"{path}\" stroke=\"#14387f\" stroke-width=\"3\" stroke-linecap=\"square\"/>"
            )
        }
        Mark::Failed => {
            let crosses: String =
                points.iter().map(|(x, y)| format!("M{:.1} {:.1}l6 6m0 -6l-6 6", x - 3.0, y - 3.0)).collect();
            writeln!(out, "<path d=\"{crosses}\" stroke=\"#c00\" stroke-width=\"1.2\" fill=\"none\"/>")
        }
    }
    .expect("writing to a string");
}

fn mark_of(record: &Record) -> Mark {
    match record.value.as_deref() {
        _ if !record.outcome.is_good() => Mark::Failed,
        Some("b") => Mark::Standby,
        Some(_) | None => Mark::Active,
    }
}

fn x_of(time: f64) -> f64 {
    LEFT + (time - FROM_MS) / (TO_MS - FROM_MS) * (WIDTH - LEFT - RIGHT)
}

fn y_of(latency: f64, top: f64) -> f64 {
    let share = latency.clamp(LOW_MS, HIGH_MS).log10() / HIGH_MS.log10();
    top + PANEL * (1.0 - share)
}

/// Text as XML shows it.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            // XML 1.0 has no way to write most of them.
            c if c.is_control() => {}
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use loadgen::Outcome;

    #[test]
    fn text_is_escaped() {
        assert_eq!(escape("a<b> & \"c\"\u{1b}[1m"), "a&lt;b&gt; &amp; &quot;c&quot;[1m");
    }

    #[test]
    fn every_request_near_the_fault_is_a_dot_and_no_other_is() {
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
        let panel = Panel { name: "x<y".into(), seen: &seen, note: "1 & 2".into() };
        let svg = svg("t", "<what>", Duration::from_millis(45), &[panel]);
        // One of each in the legend.
        let count = |text: &str| svg.matches(text).count();
        assert_eq!(count("h.01"), 2 + 2, "a disc and a square, and the legend's");
        assert_eq!(count("l6 6m0 -6l-6 6"), 1 + 1);
        assert!(svg.contains("&lt;what&gt;") && svg.contains("affected above 45 ms"));
        assert!(svg.contains("x&lt;y") && svg.contains("1 &amp; 2") && svg.trim_end().ends_with("</svg>"));
    }

    #[test]
    fn axes_end_where_they_should() {
        assert!((x_of(FROM_MS) - LEFT).abs() < 1e-9 && (x_of(TO_MS) - (WIDTH - RIGHT)).abs() < 1e-9);
        assert!((y_of(0.1, 5.0) - (5.0 + PANEL)).abs() < 1e-9 && (y_of(1e9, 5.0) - 5.0).abs() < 1e-9);
    }
}
