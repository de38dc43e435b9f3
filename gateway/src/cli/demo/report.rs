//! The end of a run in a few lines. Pure: every figure comes from the run itself.

use std::time::Duration;

use loadgen::{Failures, Summary};

use super::ledger::{Fault, Ledger, Sums};
use super::text::{Line, Tone, count, latency, moment, plural, span};

/// Columns of the label on the left and of one figure.
const LABEL: usize = 14;
const FIGURE: usize = 9;

/// What happened.
pub(super) struct Facts<'a> {
    /// The windows of the run.
    pub ledger: &'a Ledger,
    /// The client's own sums.
    pub summary: &'a Summary,
    /// Requests that the pods received during the run.
    pub executions: u64,
    /// Pods of the cluster that was killed.
    pub victim_pods: u64,
    /// Workers of the gateway.
    pub workers: u64,
}

/// Did every request get a good answer?
pub(super) fn is_clean(summary: &Summary) -> bool {
    summary.total.failed.total() == 0
}

/// The report.
pub(super) fn lines(facts: &Facts<'_>) -> Vec<Line> {
    let mut lines = vec![Line::default(), heading(facts), Line::default(), requests(facts)];
    lines.extend(failures(&facts.summary.total.failed));
    lines.extend(latencies(facts));
    lines.extend(victim(facts));
    lines.extend(rescue(facts));
    lines.push(executed(facts));
    lines
}

fn labelled(label: &str) -> Line {
    Line::default().with(Tone::Quiet, format!("  {label:<LABEL$}"))
}

fn heading(facts: &Facts<'_>) -> Line {
    let victim = &facts.ledger.members()[facts.ledger.victim()];
    let (tone, text) = match (is_clean(facts.summary), facts.ledger.killed_at()) {
        (true, Some(_)) => (Tone::Good, format!("Cluster {victim} died, and no request failed.")),
        (true, None) => (Tone::Strong, "No request failed, and no cluster was killed.".to_owned()),
        (false, _) => (Tone::Bad, "Requests failed.".to_owned()),
    };
    Line::default().with(tone, format!("  {text}"))
}

fn requests(facts: &Facts<'_>) -> Line {
    let total = &facts.summary.total;
    let failed = total.failed.total();
    let mut line = labelled("requests").with(
        Tone::Plain,
        format!("{} sent in {}, {} answered, ", count(total.sent), moment(total.length), count(total.ok)),
    );
    line.push(if failed == 0 { Tone::Good } else { Tone::Bad }, format!("{} failed", count(failed)));
    if total.in_flight > 0 {
        line.push(Tone::Plain, format!(", {} given up at the interruption", count(total.in_flight)));
    }
    line
}

/// What kind of failures there were; nothing when there were none.
fn failures(failed: &Failures) -> Option<Line> {
    let Failures { connect, closed, timeout, status, malformed } = failed;
    let kinds = [
        (connect, "not connected"),
        (closed, "connection closed"),
        (timeout, "no answer in time"),
        (status, "status 400 or above"),
        (malformed, "not HTTP"),
    ];
    let named: Vec<_> =
        kinds.iter().filter(|(n, _)| **n > 0).map(|(n, what)| format!("{} {what}", count(**n))).collect();
    (!named.is_empty()).then(|| labelled("failures").with(Tone::Bad, named.join(", ")))
}

fn latencies(facts: &Facts<'_>) -> Vec<Line> {
    let total = &facts.summary.total;
    let head = format!("{:>FIGURE$}{:>FIGURE$}{:>FIGURE$}{:>FIGURE$}", "p50", "p99", "p99.9", "max");
    let row = |label: &str, p: [Duration; 3], max: Duration, who: &str| {
        let figures: String = p.iter().chain([&max]).map(|v| format!("{:>FIGURE$}", latency(*v))).collect();
        labelled(label).with(Tone::Plain, figures).with(Tone::Quiet, format!("  {who}"))
    };
    let mut lines = vec![
        labelled("latency").with(Tone::Quiet, head),
        row("  whole run", [total.p50, total.p99, total.p999], total.max, "client, from the due time"),
    ];
    if let Some(Fault { from, to, latency, max }) = facts.ledger.fault() {
        let label = format!("  {:.1}–{}", from.as_secs_f64(), moment(to));
        lines.push(row(&label, latency, max, "gateway; max: client"));
    }
    lines
}

/// The killed cluster's story; nothing when none was killed.
fn victim(facts: &Facts<'_>) -> Vec<Line> {
    let ledger = facts.ledger;
    let name = &ledger.members()[ledger.victim()];
    let Some(killed) = ledger.killed_at() else { return Vec::new() };
    let pods = plural(facts.victim_pods, "pod", "pods");
    let mut lines = Vec::new();
    let silent = match ledger.time_to_silence() {
        Some(after) if after.is_zero() => "no answer from it after that".to_owned(),
        Some(after) => format!("its last answer within {}", span(after)),
        None => "its answers did not end".to_owned(),
    };
    lines.push(
        labelled(name).with(Tone::Plain, format!("killed at {} with its {pods}; {silent}", moment(killed))),
    );
    let Some(back) = ledger.back_at() else { return lines };
    let first = match ledger.time_to_first() {
        Some(after) => format!("in use {} later", span(after)),
        None => "not in use again before the end".to_owned(),
    };
    let share = match ledger.time_to_return() {
        Some(after) => format!(", old share {} later", span(after)),
        None if ledger.time_to_first().is_some() => ", old share not reached before the end".to_owned(),
        None => String::new(),
    };
    lines.push(labelled("").with(Tone::Plain, format!("back at {}, {first}{share}", moment(back))));
    lines
}

fn rescue(facts: &Facts<'_>) -> Vec<Line> {
    let Sums { retries, moves, ejections, .. } = facts.ledger.sums();
    let tried = format!(
        "{} elsewhere: {} had not been sent, {} from the retry budget",
        count(retries + moves),
        count(moves),
        count(retries)
    );
    let who = match facts.workers {
        1 => "by the one worker".to_owned(),
        workers => format!("by {workers} workers, each for itself"),
    };
    let ejected = format!("{} {who}, longer each time", plural(ejections, "time", "times"));
    let mut lines = vec![labelled("tried again").with(Tone::Plain, tried)];
    if ejections > 0 {
        lines.push(labelled("ejected").with(Tone::Plain, ejected));
    }
    lines
}

fn executed(facts: &Facts<'_>) -> Line {
    let (total, pods) = (&facts.summary.total, facts.executions);
    let line = labelled("executed").with(Tone::Plain, format!("{} requests reached pods", count(pods)));
    if total.ok != total.sent {
        // Which of those without an answer were executed is not known.
        return line;
    }
    // Every request was answered by one execution; the rest are those whose pod died before it could answer.
    line.with(Tone::Plain, format!(": {} more than once", count(pods.saturating_sub(total.ok))))
}

#[cfg(test)]
mod tests {
    use loadgen::{ValueWindow, WINDOW, Window};

    use super::super::ledger::{ClusterReading, Reading};
    use super::super::text::Colour;
    use super::*;

    fn ledger(killed: Option<u32>, back: Option<u32>) -> Ledger {
        let mut ledger = Ledger::new(vec!["alpha".into(), "beta".into()], 1);
        for number in 0..30 {
            let start = WINDOW * number;
            if killed == Some(number) {
                ledger.killed(start);
            }
            if back == Some(number) {
                ledger.brought_back(start);
                ledger.reached_again(start + Duration::from_millis(40));
            }
            let is_down = killed.is_some_and(|k| number >= k) && back.is_none_or(|b| number < b);
            let beta = if is_down { 0 } else { 10 };
            let value = |name: &str, ok| ValueWindow { value: name.into(), ok, ..ValueWindow::default() };
            let values = vec![value("alpha", 20 - beta), value("beta", beta)];
            let max = Duration::from_millis(40);
            let window = Window { start, length: WINDOW, sent: 20, ok: 20, max, values, ..Window::default() };
            let clusters = vec![ClusterReading::default(); 2];
            let (retries, moves) = if killed.is_some_and(|k| number >= k) { (2, 5) } else { (0, 0) };
            ledger.add(&window, Reading { clusters, retries, moves, ejections: moves, ..Reading::default() });
        }
        ledger
    }

    fn summary() -> Summary {
        let millis = Duration::from_millis;
        let (p50, p99, p999, max) = (millis(2), millis(31), millis(39), millis(41));
        let total =
            Window { length: millis(3_012), sent: 600, ok: 600, p50, p99, p999, max, ..Window::default() };
        Summary { total, connections: 4 }
    }

    fn told(ledger: &Ledger, summary: &Summary) -> Vec<String> {
        let facts = Facts { ledger, summary, executions: 603, victim_pods: 2, workers: 2 };
        lines(&facts).iter().map(|line| line.render(Colour::None, usize::MAX)).collect()
    }

    #[test]
    fn a_clean_run_is_told_in_full_and_fits_eighty_columns() {
        let lines = told(&ledger(Some(10), Some(18)), &summary());
        let text = lines.join("\n");
        for expected in [
            "Cluster beta died, and no request failed.",
            "600 sent in 3.0 s, 600 answered, 0 failed",
            "  whole run      2.0 ms  31.0 ms  39.0 ms  41.0 ms",
            "  1.0–1.9 s",
            "killed at 1.0 s with its 2 pods; no answer from it after that",
            "back at 1.8 s, in use 40 ms later, old share 100 ms later",
            "7 elsewhere: 5 had not been sent, 2 from the retry budget",
            "603 requests reached pods: 3 more than once",
        ] {
            assert!(text.contains(expected), "{expected:?} in\n{text}");
        }
        assert!(!text.contains("failures"));
        assert!(lines.iter().all(|line| line.chars().count() <= 80), "{text}");
    }

    #[test]
    fn failures_are_named_and_nothing_is_claimed_about_executions() {
        let mut summary = summary();
        summary.total.ok = 597;
        summary.total.failed = Failures { closed: 1, status: 2, ..Failures::default() };
        let text = told(&ledger(Some(10), None), &summary).join("\n");
        assert!(!is_clean(&summary));
        for expected in ["Requests failed.", "3 failed", "1 connection closed, 2 status 400 or above"] {
            assert!(text.contains(expected), "{expected:?} in\n{text}");
        }
        assert!(!text.contains("more than once") && !text.contains("back at"), "{text}");
    }

    #[test]
    fn a_run_that_was_interrupted_before_the_kill_says_so() {
        let mut summary = summary();
        summary.total.ok = 590;
        summary.total.in_flight = 10;
        let text = told(&ledger(None, None), &summary).join("\n");
        assert!(text.contains("no cluster was killed"), "{text}");
        assert!(text.contains("10 given up at the interruption"), "{text}");
    }
}
