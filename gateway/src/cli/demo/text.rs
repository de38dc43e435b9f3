//! Numbers, bars and lines as text: the pure half of what is seen.

use std::fmt::Write;
use std::time::Duration;

/// Eighths of a cell, from nothing to full: for bars that grow to the right.
const RIGHT: [char; 9] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉', '█'];
/// The same, upwards: for columns.
const UP: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// What a piece of text is, not how it looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    /// Text.
    Plain,
    /// A label, a remark.
    Quiet,
    /// A heading.
    Strong,
    /// All is well.
    Good,
    /// Something happens.
    Warn,
    /// Something is lost.
    Bad,
    /// Belongs to the cluster of this number.
    Cluster(usize),
}

/// Whether tones become colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colour {
    /// ANSI escapes.
    Ansi,
    /// Text alone.
    None,
}

/// One line: pieces of text, each with its tone. Every character takes one column.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Line(Vec<(Tone, String)>);

impl Line {
    /// Appends a piece.
    pub(super) fn push(&mut self, tone: Tone, text: impl Into<String>) {
        self.0.push((tone, text.into()));
    }

    /// The line with one more piece.
    pub(super) fn with(mut self, tone: Tone, text: impl Into<String>) -> Self {
        self.push(tone, text);
        self
    }

    /// Columns.
    pub(super) fn width(&self) -> usize {
        self.0.iter().map(|(_, text)| text.chars().count()).sum()
    }

    /// Blanks up to this column.
    pub(super) fn pad_to(&mut self, column: usize) {
        let missing = column.saturating_sub(self.width());
        self.push(Tone::Plain, " ".repeat(missing));
    }

    /// The text, cut at `columns_max`, with or without colours.
    pub(super) fn render(&self, colour: Colour, columns_max: usize) -> String {
        let mut out = String::new();
        let mut room = columns_max;
        for (tone, text) in &self.0 {
            let shown: String = text.chars().take(room).collect();
            room -= shown.chars().count();
            let code = match colour {
                Colour::Ansi => code(*tone),
                Colour::None => "",
            };
            if code.is_empty() || shown.trim().is_empty() {
                out.push_str(&shown);
            } else {
                // Writing to a String cannot fail.
                let _ = write!(out, "\x1b[{code}m{shown}\x1b[0m");
            }
        }
        out.truncate(out.trim_end_matches(' ').len());
        out
    }
}

/// The ANSI code of a tone: only the sixteen colours that every theme makes readable.
fn code(tone: Tone) -> &'static str {
    const CLUSTERS: [&str; 4] = ["36", "35", "34", "33"];
    match tone {
        Tone::Plain => "",
        Tone::Quiet => "2",
        Tone::Strong => "1",
        Tone::Good => "32",
        Tone::Warn => "33",
        Tone::Bad => "1;31",
        Tone::Cluster(number) => CLUSTERS[number % CLUSTERS.len()],
    }
}

/// A number with its thousands apart: `12,345`.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A latency in at most eight columns: `0.42 ms`, `2.1 ms`, `120 ms`, `1.25 s`.
pub(super) fn latency(value: Duration) -> String {
    let millis = value.as_secs_f64() * 1_000.0;
    if millis < 0.995 {
        format!("{millis:.2} ms")
    } else if millis < 99.95 {
        format!("{millis:.1} ms")
    } else if millis < 999.5 {
        format!("{millis:.0} ms")
    } else {
        format!("{:.2} s", value.as_secs_f64())
    }
}

/// A latency, or a dash where there was none.
pub(super) fn latency_or_dash(value: Option<Duration>) -> String {
    value.map_or_else(|| "–".to_owned(), latency)
}

/// A moment of the run: `7.0 s`.
pub(super) fn moment(value: Duration) -> String {
    format!("{:.1} s", value.as_secs_f64())
}

/// How long something took: milliseconds below one second, `1.98 s` above.
pub(super) fn span(value: Duration) -> String {
    if value < Duration::from_secs(1) {
        format!("{} ms", value.as_millis())
    } else {
        format!("{:.2} s", value.as_secs_f64())
    }
}

/// `1 pod`, `2 pods`.
pub(super) fn plural(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { many })
}

/// A bar of `share` (0 to 1) of `columns`, in eighths of a column; always exactly `columns` wide.
pub(super) fn bar(share: f64, columns: usize) -> String {
    let eighths = eighths(share, columns * 8);
    let full = eighths / 8;
    let mut out: String = std::iter::repeat_n('█', full).collect();
    if full < columns {
        out.push(RIGHT[eighths % 8]);
    }
    out.extend(std::iter::repeat_n(' ', columns.saturating_sub(full + 1)));
    out
}

/// A column for each value, as high as its part of `top`. A value above zero is never invisible; `None` is blank.
pub(super) fn columns(values: &[Option<f64>], top: f64) -> String {
    let column = |value: &Option<f64>| match value {
        Some(value) if *value > 0.0 && top > 0.0 => UP[eighths(value / top, 8).max(1)],
        Some(_) | None => ' ',
    };
    values.iter().map(column).collect()
}

/// `share` of `whole`, rounded, never more than `whole`.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to 0..=1 before, and `whole` is a screen's width"
)]
fn eighths(share: f64, whole: usize) -> usize {
    let clamped = if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 };
    (clamped * whole as f64).round() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well_at_every_size() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        let micros = [0, 420, 994, 996, 2_130, 99_949, 99_951, 999_400, 999_600, 12_345_678];
        let shown = micros.map(|micros| latency(Duration::from_micros(micros)));
        let expected = [
            "0.00 ms", "0.42 ms", "0.99 ms", "1.0 ms", "2.1 ms", "99.9 ms", "100 ms", "999 ms", "1.00 s",
            "12.35 s",
        ];
        assert_eq!(shown, expected);
        assert!(shown.iter().all(|text| text.len() <= 8));
        assert_eq!(latency_or_dash(None), "–");
        assert_eq!(moment(Duration::from_millis(7_040)), "7.0 s");
        assert_eq!([4, 1_984].map(|ms| span(Duration::from_millis(ms))), ["4 ms", "1.98 s"]);
        assert_eq!([0, 1, 2].map(|n| plural(n, "pod", "pods")), ["0 pods", "1 pod", "2 pods"]);
    }

    #[test]
    fn bars_are_exactly_as_wide_as_asked_and_grow_by_eighths() {
        for columns in [1, 2, 20, 33] {
            for permille in 0..=1_000 {
                assert_eq!(bar(f64::from(permille) / 1_000.0, columns).chars().count(), columns);
            }
        }
        assert_eq!([0.0, 0.5, 1.0].map(|share| bar(share, 4)), ["    ", "██  ", "████"]);
        assert_eq!([0.125, 0.375, 2.0, f64::NAN].map(|share| bar(share, 1)), ["▏", "▍", "█", " "]);
    }

    #[test]
    fn columns_show_every_value_above_zero() {
        let values = [None, Some(0.0), Some(0.001), Some(4.0), Some(8.0), Some(9.0)];
        assert_eq!(columns(&values, 8.0), "  ▁▄██");
        assert_eq!(columns(&values[2..], 0.0), "    ");
    }

    #[test]
    fn lines_are_cut_by_columns_and_coloured_only_when_asked() {
        let line = Line::default().with(Tone::Plain, "ab ").with(Tone::Bad, "█cd").with(Tone::Plain, "  ");
        assert_eq!(line.width(), 8);
        assert_eq!(line.render(Colour::None, 80), "ab █cd");
        assert_eq!(line.render(Colour::None, 4), "ab █");
        assert_eq!(line.render(Colour::Ansi, 5), "ab \x1b[1;31m█c\x1b[0m");
        let mut padded = Line::default().with(Tone::Plain, "a");
        padded.pad_to(4);
        padded.push(Tone::Plain, "b");
        assert_eq!(padded.render(Colour::None, 80), "a   b");
    }
}
