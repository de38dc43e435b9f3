//! The live view: what the ledger knows, laid out for a width. Pure.

use std::time::Duration;

use super::ledger::{Ledger, Row, State, column_of};
use super::text::{Line, Tone, bar, columns, count, latency, latency_or_dash, moment};
use super::timeline::{Phase, Timeline};

/// Below this nothing is readable any more; lines are then cut.
pub(super) const WIDTH_MIN: usize = 80;
/// Above this eyes have to travel.
const WIDTH_MAX: usize = 140;
const MARGIN: usize = 2;
/// Columns of names, labels and one figure.
const NAME: usize = 11;
const FIGURE: usize = 9;
/// Share in percent, rate, three latencies, state.
const FIGURES: usize = 7 + FIGURE + 3 * FIGURE + 2 + 7;
/// Columns on the right of the charts, for what a full column stands for.
const SCALE: usize = 14;
/// The foot of the latency chart, milliseconds. Its scale is logarithmic: a slow start must not flatten the rest.
const LATENCY_FOOT: f64 = 0.5;

/// What does not change during a run.
#[derive(Clone, Debug)]
pub(super) struct Heading {
    /// Requests per second.
    pub rate: u32,
    /// Where they are sent.
    pub url: String,
    /// Workers of the gateway.
    pub workers: usize,
    /// When what happens.
    pub timeline: Timeline,
}

/// The whole view.
pub(super) fn frame(heading: &Heading, ledger: &Ledger, width: usize) -> Vec<Line> {
    let width = width.clamp(WIDTH_MIN, WIDTH_MAX) - MARGIN;
    let mut lines = vec![title(heading), Line::default(), table_head(width)];
    for (number, name) in ledger.members().iter().enumerate() {
        lines.push(table_row(number, name, &ledger.row(number), width));
    }
    lines.push(all_row(ledger, width));
    lines.push(Line::default());
    lines.extend(charts(heading, ledger, width));
    lines.push(Line::default());
    lines.push(phase(heading, ledger));
    lines.push(totals(ledger));
    lines
}

/// One line about the last second, for where lines cannot be drawn over.
pub(super) fn plain_line(ledger: &Ledger) -> String {
    let mut line = format!("{:>7}", moment(ledger.now()));
    for (number, name) in ledger.members().iter().enumerate() {
        let row = ledger.row(number);
        line += &format!("  {name} {:>3.0} % {:<7}", row.share * 100.0, name_of(row.state));
    }
    let [p50, p99, _] = ledger.latency_now().map(latency_or_dash);
    let (max, sums) = (latency(ledger.max_now()), ledger.sums());
    line += &format!(
        "  {:>6.0}/s  p50 {p50}  p99 {p99}  max {max}  failed {}",
        ledger.per_s(),
        count(sums.failed)
    );
    line
}

/// What is happening, in words.
pub(super) fn sentence(heading: &Heading, ledger: &Ledger) -> String {
    let victim = &ledger.members()[ledger.victim()];
    let Timeline { kill, back, .. } = heading.timeline;
    let killed = ledger.killed_at().unwrap_or(kill);
    match heading.timeline.phase(ledger.now()) {
        Phase::WarmUp => "warming up".to_owned(),
        Phase::Steady => format!("every cluster serves; {victim} will be killed at {}", moment(kill)),
        Phase::Down => {
            let (killed, back) = (moment(killed), moment(back));
            format!("{victim} killed at {killed}: ports closed, connections reset; back at {back}")
        }
        Phase::Back => {
            let back = moment(ledger.back_at().unwrap_or(back));
            match (ledger.time_to_return(), ledger.time_to_first()) {
                (Some(after), _) => {
                    format!("{victim} back at {back}, and at its old share {} later", moment(after))
                }
                (None, Some(_)) => format!("{victim} back at {back}, and in use again"),
                (None, None) => format!("{victim} listens again since {back}; the gateway will try it soon"),
            }
        }
        Phase::Over => "done".to_owned(),
    }
}

fn margin() -> Line {
    Line::default().with(Tone::Plain, " ".repeat(MARGIN))
}

fn title(heading: &Heading) -> Line {
    let Heading { rate, url, workers, .. } = heading;
    let workers = if *workers == 1 { "1 worker".to_owned() } else { format!("{workers} workers") };
    let what = format!("   {} requests/s on {url} · {workers}", count(u64::from(*rate)));
    margin().with(Tone::Strong, "load").with(Tone::Plain, what)
}

fn bar_width(width: usize) -> usize {
    width.saturating_sub(MARGIN + NAME + FIGURES)
}

fn table_head(width: usize) -> Line {
    let bars = bar_width(width);
    let text = format!(
        "{:<NAME$}{:<bars$}{:>7}{:>FIGURE$}{:>FIGURE$}{:>FIGURE$}{:>FIGURE$}  state",
        "cluster", "share", "", "req/s", "p50", "p99", "p99.9"
    );
    margin().with(Tone::Quiet, text)
}

fn table_row(number: usize, name: &str, row: &Row, width: usize) -> Line {
    let tone = Tone::Cluster(number);
    let shown: String = name.chars().take(NAME - 1).collect();
    margin()
        .with(tone, format!("{shown:<NAME$}"))
        .with(tone, bar(row.share, bar_width(width)))
        .with(Tone::Plain, format!("{:>5.0} %", row.share * 100.0))
        .with(Tone::Plain, figures(row.per_s, row.latency))
        .with(tone_of(row.state), format!("  {}", name_of(row.state)))
}

fn all_row(ledger: &Ledger, width: usize) -> Line {
    let before = NAME + bar_width(width) + 7;
    let text = format!("{:<before$}{}", "all", figures(ledger.per_s(), ledger.latency_now()));
    margin().with(Tone::Quiet, text)
}

fn figures(per_s: f64, latencies: [Option<Duration>; 3]) -> String {
    let [p50, p99, p999] = latencies.map(latency_or_dash);
    let rate = format!("{per_s:.0}").parse().map_or_else(|_| "–".to_owned(), count);
    format!("{rate:>FIGURE$}{p50:>FIGURE$}{p99:>FIGURE$}{p999:>FIGURE$}")
}

/// The whole run from left to right: the client's p99, each cluster's share, and what happened when.
fn charts(heading: &Heading, ledger: &Ledger, width: usize) -> Vec<Line> {
    let end = heading.timeline.end;
    let chart = width.saturating_sub(MARGIN + NAME + SCALE);
    let slow = ledger.p99_columns(chart, end);
    let worst = slow.iter().flatten().copied().fold(0.0, f64::max);
    let top = scale_top(worst);
    let heights: Vec<_> = slow.iter().map(|value| value.map(height)).collect();
    let scale = format!("█ {}, log", latency(Duration::from_secs_f64(top / 1e3)));
    let row = |label: &str, tone: Tone, drawn: String, scale: String| {
        let mut line = margin().with(tone, format!("{label:<NAME$}")).with(tone, drawn);
        line.pad_to(MARGIN + NAME + chart + 1);
        line.with(Tone::Quiet, scale)
    };
    let mut lines = vec![row("p99", Tone::Plain, columns(&heights, height(top)), scale)];
    for (number, name) in ledger.members().iter().enumerate() {
        let shares = ledger.share_columns(number, chart, end);
        let shown: String = name.chars().take(NAME - 1).collect();
        lines.push(row(&shown, Tone::Cluster(number), columns(&shares, 1.0), "█ 100 %".to_owned()));
    }
    lines.push(axis(heading, ledger, chart));
    lines
}

/// How high a latency stands in the chart; zero for none.
fn height(millis: f64) -> f64 {
    (millis / LATENCY_FOOT).max(1.0).ln()
}

/// The least round number of milliseconds that is not below `worst`.
fn scale_top(worst: f64) -> f64 {
    [5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0, 2_000.0, 5_000.0, 10_000.0]
        .into_iter()
        .find(|top| worst <= *top)
        .unwrap_or(worst)
}

/// Time so far as a line, and the moments of the kill and of the return once they have come.
fn axis(heading: &Heading, ledger: &Ledger, chart: usize) -> Line {
    let Timeline { end, .. } = heading.timeline;
    let mut line = margin().with(Tone::Quiet, format!("{:<NAME$}", moment(ledger.now())));
    let start = line.width();
    let so_far = start + column_of(ledger.now(), chart, end);
    let marks = [(ledger.killed_at(), "▲ killed", Tone::Bad), (ledger.back_at(), "▲ back", Tone::Good)];
    for (at, text, tone) in marks {
        let Some(at) = at else { continue };
        let column = start + column_of(at, chart, end);
        // A narrow or short run: the second mark does not push the first one aside.
        if column >= line.width() {
            rule(&mut line, column, so_far);
            line.push(tone, text);
        }
    }
    rule(&mut line, start + chart, so_far);
    line.with(Tone::Quiet, format!(" {}", moment(end)))
}

/// Draws the axis up to `column`: what has been is a line, what is to come is dotted.
fn rule(line: &mut Line, column: usize, so_far: usize) {
    let past = column.min(so_far).saturating_sub(line.width());
    line.push(Tone::Quiet, "─".repeat(past));
    let to_come = column.saturating_sub(line.width());
    line.push(Tone::Quiet, "·".repeat(to_come));
}

fn phase(heading: &Heading, ledger: &Ledger) -> Line {
    let tone = match heading.timeline.phase(ledger.now()) {
        Phase::Down => Tone::Warn,
        Phase::WarmUp | Phase::Steady | Phase::Back | Phase::Over => Tone::Plain,
    };
    margin().with(tone, sentence(heading, ledger))
}

fn totals(ledger: &Ledger) -> Line {
    let sums = ledger.sums();
    let good = if sums.failed == 0 { Tone::Good } else { Tone::Bad };
    let again = sums.retries + sums.moves;
    margin()
        .with(Tone::Plain, format!("sent {}", count(sums.sent)))
        .with(Tone::Quiet, " · ")
        .with(Tone::Plain, format!("answered {}", count(sums.ok)))
        .with(Tone::Quiet, " · ")
        .with(good, format!("failed {}", count(sums.failed)))
        .with(Tone::Quiet, " · ")
        .with(Tone::Plain, format!("tried again {}", count(again)))
        .with(Tone::Quiet, " · ")
        .with(Tone::Plain, format!("ejected {}", count(sums.ejections)))
}

fn name_of(state: State) -> &'static str {
    match state {
        State::Idle => "Idle",
        State::Healthy => "Healthy",
        State::Suspect => "Suspect",
        State::Down => "Down",
        State::Ramp => "Ramp",
    }
}

fn tone_of(state: State) -> Tone {
    match state {
        State::Idle => Tone::Quiet,
        State::Healthy => Tone::Good,
        State::Suspect | State::Ramp => Tone::Warn,
        State::Down => Tone::Bad,
    }
}

#[cfg(test)]
mod tests {
    use loadgen::{ValueWindow, WINDOW, Window};

    use super::super::ledger::{ClusterReading, Reading};
    use super::super::text::Colour;
    use super::*;

    fn heading() -> Heading {
        let timeline = Timeline::of(Duration::from_secs(20));
        Heading { rate: 2_000, url: "http://localhost:8080/".into(), workers: 2, timeline }
    }

    fn ledger_after(windows: u32) -> Ledger {
        let mut ledger = Ledger::new(vec!["alpha".into(), "beta".into()], 1);
        for number in 0..windows {
            let start = WINDOW * number;
            let is_down = (70..120).contains(&number);
            match number {
                70 => ledger.killed(start),
                120 => ledger.brought_back(start),
                _ => {}
            }
            let beta = if is_down { 0 } else { 100 };
            let value = |name: &str, ok| ValueWindow { value: name.into(), ok, ..ValueWindow::default() };
            let values = vec![value("alpha", 200 - beta), value("beta", beta)];
            let p99 = Duration::from_millis(if is_down { 40 } else { 10 });
            let window = Window {
                start,
                length: WINDOW,
                sent: 200,
                ok: 200,
                p99,
                max: p99,
                values,
                ..Window::default()
            };
            let failures = if number >= 70 { 6 } else { 0 };
            let beta = ClusterReading { failures, ..ClusterReading::default() };
            let clusters = vec![ClusterReading::default(), beta];
            ledger.add(&window, Reading { clusters, ..Reading::default() });
        }
        ledger
    }

    fn drawn(windows: u32, width: usize) -> Vec<String> {
        frame(&heading(), &ledger_after(windows), width)
            .iter()
            .map(|line| line.render(Colour::None, usize::MAX))
            .collect()
    }

    #[test]
    fn every_line_fits_and_figures_stand_below_each_other() {
        for width in [80, 81, 100, 120, 200] {
            for windows in [0, 1, 50, 71, 100, 130, 200, 201] {
                let lines = drawn(windows, width);
                let widest = lines.iter().map(|line| line.chars().count()).max().unwrap();
                assert!(widest <= width, "{widest} columns of {width}:\n{}", lines.join("\n"));
                let column_of = |line: &str, text: &str| {
                    line.find(text).map(|at| line[..at].chars().count()).unwrap_or_else(|| panic!("{line}"))
                };
                let state = column_of(&lines[2], "state");
                let word = if windows == 0 { "Idle" } else { "Healthy" };
                assert_eq!(column_of(&lines[3], word), state, "{}", lines.join("\n"));
                assert_eq!(lines.len(), drawn(0, width).len(), "the view never changes its height");
            }
        }
    }

    #[test]
    fn marks_stand_where_the_run_is_cut_and_only_when_it_has_come_there() {
        let before = drawn(60, 80);
        assert!(!before.iter().any(|line| line.contains('▲')));
        let after = drawn(150, 80);
        let axis = after.iter().find(|line| line.contains("▲ killed")).unwrap();
        let beta =
            after.iter().rfind(|line| line.trim_start().starts_with("beta  ") && line.contains('▄')).unwrap();
        let at = axis.chars().position(|c| c == '▲').unwrap();
        // The column of the mark holds moments before and after it.
        let around: Vec<char> = beta.chars().skip(at - 1).take(3).collect();
        let [before, during, since] = around[..] else { panic!("{axis}") };
        assert!(
            before == '▄' && ('▁'..'▄').contains(&during) && since == ' ',
            "beta's share ends below the mark:\n{}",
            after.join("\n")
        );
        assert!(axis.contains("▲ back") && axis.ends_with("20.0 s"));
    }

    #[test]
    fn sentences_follow_the_run() {
        let told = |windows| sentence(&heading(), &ledger_after(windows));
        assert_eq!(told(1), "warming up");
        assert_eq!(told(30), "every cluster serves; beta will be killed at 7.0 s");
        assert_eq!(told(80), "beta killed at 7.0 s: ports closed, connections reset; back at 12.0 s");
        assert_eq!(told(121), "beta listens again since 12.0 s; the gateway will try it soon");
        assert_eq!(told(150), "beta back at 12.0 s, and at its old share 0.1 s later");
        assert_eq!(told(201), "done");
    }

    #[test]
    fn the_plain_line_says_the_same() {
        let line = plain_line(&ledger_after(80));
        assert!(line.starts_with("  8.0 s  alpha 100 % Healthy  beta   0 % Down "), "{line}");
        assert!(line.contains("max 40.0 ms") && line.ends_with("failed 0"), "{line}");
    }
}
