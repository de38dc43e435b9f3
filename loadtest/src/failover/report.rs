//! The table, the claims under it, all claims in one table, the CSV file.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::claims::{Figures, Metric, Verdict, spread};
use super::row::Row;

/// The runs of one proxy in a row.
#[derive(Clone, Debug)]
pub(crate) struct Column {
    /// The proxy's name.
    pub(crate) name: String,
    /// One entry per run; or why there is none.
    pub(crate) runs: Result<Vec<Figures>, String>,
}

/// Of these every table has a column: heading and figure.
const SHOWN: [(&str, Metric); 14] = [
    ("requests", Metric::Requests),
    ("failed", Metric::Failed),
    ("affected", Metric::Affected),
    ("last, ms", Metric::LastAffectedMs),
    ("p99.9 ms", Metric::P999Ms),
    ("max ms", Metric::MaxMs),
    ("executions", Metric::Executions),
    ("twice", Metric::Twice),
    ("verdict ms", Metric::VerdictMs),
    ("first back ms", Metric::FirstBackMs),
    ("full share ms", Metric::FullShareMs),
    ("5xx", Metric::Forwarded5xx),
    ("affected before", Metric::BeforeAffected),
    ("generator late ms", Metric::LateMs),
];

/// Above this many milliseconds the generator's own lateness is told: a third of the distance between the healthy
/// maximum and what counts as affected is still invisible, more is not.
const LATE_MS: f64 = 5.0;
/// Above this percentage stolen time is told.
const STEAL_PERCENT: f64 = 2.0;

/// A row as Markdown: figures of every proxy (median, and least to greatest where runs differ), then the claims.
pub(crate) fn table(row: &Row, columns: &[Column]) -> String {
    let mut out = format!("\n### {}: {} ({} req/s)\n\n", row.name, row.about, row.rate);
    let heads: Vec<&str> = SHOWN.iter().map(|(head, _)| *head).collect();
    writeln!(out, "| proxy | runs | {} |", heads.join(" | ")).expect("writing to a string");
    writeln!(out, "|---|---|{}", "---|".repeat(SHOWN.len())).expect("writing to a string");
    for column in columns {
        match &column.runs {
            Ok(runs) => {
                let cells: Vec<String> = SHOWN.iter().map(|(_, metric)| cell(*metric, runs)).collect();
                writeln!(out, "| {} | {} | {} |", column.name, runs.len(), cells.join(" | "))
            }
            Err(why) => writeln!(out, "| {} | 0 | {why}{} |", column.name, " |".repeat(SHOWN.len() - 1)),
        }
        .expect("writing to a string");
    }
    out.push('\n');
    let measured: Vec<(&str, &[Figures])> =
        columns.iter().filter_map(|c| Some((c.name.as_str(), c.runs.as_deref().ok()?))).collect();
    let names: Vec<&str> = measured.iter().map(|(name, _)| *name).collect();
    writeln!(out, "| claim | {} |", names.join(" | ")).expect("writing to a string");
    writeln!(out, "|---|{}", "---|".repeat(names.len())).expect("writing to a string");
    for claim in &row.claims {
        let cells: Vec<String> =
            measured.iter().map(|(_, runs)| judged(claim.metric, &claim.judge(runs))).collect();
        writeln!(out, "| {} | {} |", claim.text(), cells.join(" | ")).expect("writing to a string");
    }
    for (name, runs) in measured {
        for remark in noise(runs) {
            writeln!(out, "\nNOISE in {name}: {remark}").expect("writing to a string");
        }
    }
    out
}

fn cell(metric: Metric, runs: &[Figures]) -> String {
    let Some((least, median, greatest)) = spread(metric, runs) else { return "n/a".to_owned() };
    let [least, median, greatest] = [least, median, greatest].map(|value| metric.text(value));
    if least == greatest { median } else { format!("{median} ({least}..{greatest})") }
}

fn judged(metric: Metric, verdict: &Verdict) -> String {
    match verdict {
        Verdict::Judged { holds, median, worst } => {
            let holds = if *holds { "holds" } else { "**does not hold**" };
            format!("{holds}: {}, worst {}", metric.text(*median), metric.text(*worst))
        }
        Verdict::Missing { runs, of } if runs == of => "n/a".to_owned(),
        Verdict::Missing { runs, of } => format!("**does not hold**: never in {runs} of {of} runs"),
    }
}

/// All claims of all rows: what must be shown, and what each proxy has shown.
pub(crate) fn summary(rows: &[(&Row, Vec<Column>)]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for column in rows.iter().flat_map(|(_, columns)| columns) {
        if !names.contains(&column.name.as_str()) {
            names.push(&column.name);
        }
    }
    let mut out = String::from(
        "\n## All claims\n\nMedian of the runs, and the worst where it is another; **bold**: does not hold.\n\n",
    );
    writeln!(out, "| fault | must show (aim) | {} |", names.join(" | ")).expect("writing to a string");
    writeln!(out, "|---|---|{}", "---|".repeat(names.len())).expect("writing to a string");
    for (row, columns) in rows {
        for (number, claim) in row.claims.iter().enumerate() {
            let cells: Vec<String> = names
                .iter()
                .map(|name| {
                    let runs = columns.iter().find(|column| column.name == *name).map(|column| &column.runs);
                    match runs {
                        Some(Ok(runs)) => shown(claim.metric, &claim.judge(runs)),
                        Some(Err(_)) | None => "–".to_owned(),
                    }
                })
                .collect();
            let name = if number == 0 { row.name.as_str() } else { "" };
            writeln!(out, "| {name} | {} | {} |", claim.text(), cells.join(" | "))
                .expect("writing to a string");
        }
    }
    out
}

/// As [`judged`], in a few characters.
fn shown(metric: Metric, verdict: &Verdict) -> String {
    match verdict {
        Verdict::Judged { holds, median, worst } => {
            let (median, worst) = (metric.text(*median), metric.text(*worst));
            let text = if median == worst { median } else { format!("{median} ({worst})") };
            if *holds { text } else { format!("**{text}**") }
        }
        Verdict::Missing { runs, of } if runs == of => "n/a".to_owned(),
        Verdict::Missing { runs, of } => format!("**never in {runs} of {of}**"),
    }
}

/// What about the machine may have made a run look worse than the proxy is.
fn noise(runs: &[Figures]) -> Vec<String> {
    let worst = |metric: Metric| spread(metric, runs).map_or(0.0, |(_, _, greatest)| greatest);
    let mut remarks = Vec::new();
    if worst(Metric::BeforeAffected) > 0.0 {
        let count = worst(Metric::BeforeAffected);
        remarks.push(format!("up to {count:.0} requests were affected before there was any fault"));
    }
    if worst(Metric::LateMs) > LATE_MS {
        remarks.push(format!("the generator itself was up to {:.0} ms late", worst(Metric::LateMs)));
    }
    if worst(Metric::StealPercent) > STEAL_PERCENT {
        remarks.push(format!("the hypervisor took up to {:.0} % of the time", worst(Metric::StealPercent)));
    }
    remarks
}

/// The first line of the CSV file.
pub(crate) fn csv_head() -> String {
    let names: Vec<&str> = Metric::ALL.iter().map(|metric| metric.name()).collect();
    format!("row,proxy,run,{}\n", names.join(","))
}

/// The line of one run; what was not measured is empty.
pub(crate) fn csv_line(row: &str, proxy: &str, run: u32, figures: &Figures) -> String {
    let values: Vec<String> = Metric::ALL
        .iter()
        .map(|metric| figures.get(metric).map_or(String::new(), |value| format!("{value:.3}")))
        .collect();
    format!("{},{},{run},{}\n", csv_field(row), csv_field(proxy), values.join(","))
}

/// The runs of a file that [`csv_head`] and [`csv_line`] made, by row, proxy and number.
///
/// # Errors
/// When the file is of another version, or a line is not of this form.
pub(crate) fn csv_read(text: &str) -> Result<BTreeMap<(String, String, u32), Figures>, String> {
    let head = csv_head();
    let Some(lines) = text.strip_prefix(&head) else {
        return Err(format!("its first line is not the one that this version writes: {}", head.trim_end()));
    };
    let mut runs = BTreeMap::new();
    for (number, line) in (2..).zip(lines.lines()) {
        let run = csv_run(line).ok_or_else(|| format!("line {number} is no run: {line}"))?;
        runs.insert(run.0, run.1);
    }
    Ok(runs)
}

/// Names of rows and proxies need no quotes.
fn csv_run(line: &str) -> Option<((String, String, u32), Figures)> {
    let mut fields = line.split(',');
    let key = (fields.next()?.to_owned(), fields.next()?.to_owned(), fields.next()?.parse().ok()?);
    let mut figures = Figures::new();
    for metric in Metric::ALL {
        let field = fields.next()?;
        if !field.is_empty() {
            figures.insert(metric, field.parse().ok()?);
        }
    }
    fields.next().is_none().then_some((key, figures))
}

/// A field of CSV (RFC 4180): quoted when it needs to be.
fn csv_field(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::failover::row::Lengths;

    fn drop_row() -> Row {
        let lengths = Lengths { false_alarms: Duration::ZERO, all_down: Duration::ZERO };
        Row::select(&["drop".to_owned()], lengths).unwrap().remove(0)
    }

    fn run(failed: f64) -> Figures {
        Figures::from([(Metric::Failed, failed), (Metric::Affected, 0.0), (Metric::LateMs, 0.4)])
    }

    #[test]
    fn the_table_shows_medians_worst_runs_and_who_could_not_be_measured() {
        let columns = [
            Column { name: "ours".into(), runs: Ok(vec![run(0.0), run(0.0), run(3.0)]) },
            Column { name: "theirs".into(), runs: Err("not installed".into()) },
        ];
        let table = table(&drop_row(), &columns);
        let line = |begin: &str| table.lines().find(|line| line.starts_with(begin)).unwrap().to_owned();
        assert!(line("| ours ").contains("| 0 (0..3) |"), "{table}");
        assert!(line("| theirs ").contains("not installed"), "{table}");
        assert!(line("| failed").contains("**does not hold**: 0, worst 3"), "{table}");
        assert!(line("| verdict ms").ends_with("| n/a |"), "what nobody tells is not said to hold\n{table}");
        assert!(!table.contains("NOISE"));
        // Every line of a table has as many cells as its head.
        for block in table.split("\n\n").filter(|block| block.starts_with('|')) {
            let cells: Vec<usize> = block.lines().map(|line| line.matches('|').count()).collect();
            assert!(cells.iter().all(|count| *count == cells[0]), "{cells:?}\n{block}");
        }
    }

    #[test]
    fn what_only_some_runs_reached_does_not_hold() {
        let columns = [Column {
            name: "ours".into(),
            runs: Ok(vec![Figures::from([(Metric::FirstBackMs, 1.0)]), Figures::new()]),
        }];
        assert!(table(&drop_row(), &columns).contains("**does not hold**: never in 1 of 2 runs"));
    }

    #[test]
    fn noise_is_said() {
        let noisy = Figures::from([(Metric::BeforeAffected, 2.0), (Metric::LateMs, 30.0)]);
        assert_eq!(noise(&[noisy, run(0.0)]).len(), 2);
        assert!(noise(&[run(0.0)]).is_empty());
    }

    #[test]
    fn all_claims_stand_in_one_table_ours_beside_theirs() {
        let row = drop_row();
        let columns = vec![
            Column { name: "ours".into(), runs: Ok(vec![run(0.0), run(0.0), run(3.0)]) },
            Column { name: "theirs".into(), runs: Err("not installed".into()) },
        ];
        let summary = summary(&[(&row, columns)]);
        let rows: Vec<&str> = summary.lines().filter(|line| line.starts_with('|')).collect();
        assert_eq!(rows.len(), 2 + row.claims.len());
        assert_eq!(rows[0], "| fault | must show (aim) | ours | theirs |");
        assert_eq!(rows[2], "| drop | failed ≤ 0 in every run | **0 (3)** | – |");
        assert!(
            rows.iter().any(|line| line.contains("verdict ms ≤ 10") && line.contains("| n/a |")),
            "{summary}"
        );
        assert!(rows.iter().all(|line| line.matches('|').count() == 5), "{summary}");
    }

    #[test]
    fn what_was_written_is_gone_on_with_and_another_form_is_refused() {
        let text =
            csv_head() + &csv_line("drop", "envoy", 3, &run(2.0)) + &csv_line("drop", "envoy", 4, &run(0.0));
        let runs = csv_read(&text).unwrap();
        assert_eq!(runs.len(), 2);
        assert_eq!(runs[&("drop".to_owned(), "envoy".to_owned(), 3)], run(2.0));
        assert!(csv_read("row,proxy\n").unwrap_err().contains("first line"));
        assert!(csv_read(&format!("{}drop,envoy,x\n", csv_head())).unwrap_err().contains("line 2"));
        assert!(csv_read(&(text + "drop,envoy,5\n")).unwrap_err().contains("line 4"), "cut short");
    }

    #[test]
    fn csv_has_a_field_for_every_metric_and_quotes_what_must_be() {
        let line = csv_line("a,\"b\"", "x", 1, &run(2.0));
        assert!(line.starts_with("\"a,\"\"b\"\"\",x,1,,2.000,0.000,"), "{line}");
        let plain = csv_line("a", "x", 1, &run(2.0));
        assert_eq!(plain.matches(',').count(), csv_head().matches(',').count());
    }
}
