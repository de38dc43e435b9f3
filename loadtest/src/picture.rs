//! Charts as SVG, readable in print: each series differs from the others in shape and dash as well as in colour.
//!
//! Pure: numbers in, text out. One kind of chart for all reports: points with spreads, joined or not, over an axis that
//! is linear, logarithmic, or a row of names.

use std::collections::HashSet;
use std::fmt::Write as _;

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 430.0;
const LEFT: f64 = 78.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 92.0;
const BOTTOM: f64 = 56.0;
/// The line of the legend.
const LEGEND: f64 = 68.0;
/// Steps of a linear axis, about.
const STEPS: f64 = 6.0;

/// A chart.
pub(crate) struct Chart {
    /// What it is of.
    pub(crate) title: String,
    /// The conditions, in a line.
    pub(crate) about: String,
    /// The axis below.
    pub(crate) x: Axis,
    /// The axis on the left.
    pub(crate) y: Axis,
    /// What is drawn, in the order of the legend.
    pub(crate) series: Vec<Series>,
}

/// An axis; its range is that of the points.
pub(crate) struct Axis {
    /// What it measures, and in which unit.
    pub(crate) label: String,
    /// How it measures.
    pub(crate) scale: Scale,
}

/// How an axis measures.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Scale {
    /// From zero.
    Linear,
    /// Powers of ten; what is not above zero is drawn at the lowest of them.
    Log,
    /// Point `n` stands at the n-th name, counted from zero.
    Names(Vec<String>),
}

/// Points of one kind.
pub(crate) struct Series {
    /// As the legend calls it.
    pub(crate) name: String,
    /// Its shape and colour.
    pub(crate) look: Look,
    /// Is each joined with the next?
    pub(crate) joined: bool,
    /// Where they are.
    pub(crate) points: Vec<Point>,
}

/// A figure, and how far apart its samples are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Point {
    /// On the axis below.
    pub(crate) x: f64,
    /// On the axis on the left.
    pub(crate) y: f64,
    /// Lowest and highest sample, where there are several.
    pub(crate) spread: Option<(f64, f64)>,
}

/// Shape, colour and dash of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// A blue disc, joined by a solid line.
    Disc,
    /// An orange square, joined by long dashes.
    Square,
    /// A green triangle, joined by short dashes.
    Triangle,
    /// A red cross, joined by dots: for what failed.
    Cross,
    /// A grey ring, joined by a thin line: a yardstick.
    Ring,
}

impl Look {
    fn colour(self) -> &'static str {
        match self {
            Self::Disc => "#14387f",
            Self::Square => "#d4690f",
            Self::Triangle => "#2a9d6a",
            Self::Cross => "#c00000",
            Self::Ring => "#777777",
        }
    }

    fn dash(self) -> &'static str {
        match self {
            Self::Disc | Self::Ring => "none",
            Self::Square => "9 4",
            Self::Triangle => "4 3",
            Self::Cross => "2 3",
        }
    }

    /// The path of a mark with its middle there.
    fn mark(self, x: f64, y: f64, half: f64) -> String {
        let twice = half * 2.0;
        match self {
            Self::Disc | Self::Ring => format!(
                "M{:.1} {y:.1}a{half} {half} 0 1 0 {twice} 0a{half} {half} 0 1 0 -{twice} 0z",
                x - half
            ),
            Self::Square => format!("M{:.1} {:.1}h{twice}v{twice}h-{twice}z", x - half, y - half),
            Self::Triangle => format!("M{x:.1} {:.1}l{half} {twice}h-{twice}z", y - half),
            Self::Cross => {
                format!("M{:.1} {:.1}l{twice} {twice}m0 -{twice}l-{twice} {twice}", x - half, y - half)
            }
        }
    }

    fn is_filled(self) -> bool {
        match self {
            Self::Disc | Self::Square | Self::Triangle => true,
            Self::Cross | Self::Ring => false,
        }
    }
}

/// An axis with its range, along so many pixels.
struct Ruler<'a> {
    axis: &'a Axis,
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl<'a> Ruler<'a> {
    fn new(axis: &'a Axis, values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
        let max = values.iter().copied().fold(0.0, f64::max);
        let (low, high) = match &axis.scale {
            Scale::Linear if max > 0.0 => (0.0, ceil_to(max * 1.05, step(max))),
            Scale::Linear => (0.0, 1.0),
            Scale::Log => {
                let positive = values.iter().copied().filter(|value| *value > 0.0);
                let min = positive.fold(f64::INFINITY, f64::min);
                let low = if min.is_finite() { min.log10().floor() } else { 0.0 };
                (low, max.max(1e-9).log10().ceil().max(low + 1.0))
            }
            #[expect(clippy::cast_precision_loss, reason = "a handful of names")]
            Scale::Names(names) => (-0.5, names.len() as f64 - 0.5),
        };
        Self { axis, low, high, from, to }
    }

    /// The pixel of a value.
    fn at(&self, value: f64) -> f64 {
        let value = match self.axis.scale {
            Scale::Log if value > 0.0 => value.log10(),
            Scale::Log => self.low,
            Scale::Linear | Scale::Names(_) => value,
        };
        let share = ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0);
        self.from + share * (self.to - self.from)
    }

    /// Values that are written beside the axis, and how.
    fn ticks(&self) -> Vec<(f64, String)> {
        match &self.axis.scale {
            Scale::Linear => {
                let step = step(self.high);
                let count = (self.high / step).round();
                let mut ticks = Vec::new();
                let mut nth = 0.0;
                while nth <= count {
                    ticks.push((nth * step, number(nth * step)));
                    nth += 1.0;
                }
                ticks
            }
            Scale::Log => {
                let mut ticks = Vec::new();
                let mut power = self.low;
                while power <= self.high {
                    ticks.push((10_f64.powf(power), number(10_f64.powf(power))));
                    power += 1.0;
                }
                ticks
            }
            #[expect(clippy::cast_precision_loss, reason = "a handful of names")]
            Scale::Names(names) => {
                names.iter().enumerate().map(|(n, name)| (n as f64, name.clone())).collect()
            }
        }
    }
}

/// A step of 1, 2 or 5 times a power of ten that divides `max` into about [`STEPS`].
fn step(max: f64) -> f64 {
    let rough = (max / STEPS).max(1e-9);
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0].into_iter().find(|step| step * power >= rough).unwrap_or(10.0);
    step * power
}

fn ceil_to(value: f64, step: f64) -> f64 {
    (value / step).ceil() * step
}

/// A tick's number: no more digits than it needs, thousands set apart.
fn number(value: f64) -> String {
    let text = if value >= 1_000.0 {
        format!("{value:.0}")
    } else {
        let text = format!("{value:.4}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    match text.len() {
        5.. if !text.contains('.') => {
            let mut apart = String::new();
            for (at, digit) in text.chars().enumerate() {
                if at > 0 && (text.len() - at).is_multiple_of(3) {
                    apart.push(',');
                }
                apart.push(digit);
            }
            apart
        }
        _ => text,
    }
}

impl Chart {
    /// The picture.
    pub(crate) fn svg(&self) -> String {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let heights = points().flat_map(|point| {
            let (low, high) = point.spread.unwrap_or((point.y, point.y));
            [low, point.y, high]
        });
        let x = Ruler::new(&self.x, points().map(|point| point.x), LEFT, WIDTH - RIGHT);
        let y = Ruler::new(&self.y, heights, HEIGHT - BOTTOM, TOP);
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" \
             viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"13\" role=\"img\">\n\
             <title>{title}</title>\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
             <text x=\"{LEFT}\" y=\"24\" font-size=\"17\" font-weight=\"bold\">{title}</text>\n\
             <text x=\"{LEFT}\" y=\"44\" fill=\"#444\">{}</text>\n",
            escape(&self.about),
            title = escape(&self.title),
        );
        self.axes(&mut out, &x, &y);
        self.legend(&mut out);
        for series in &self.series {
            draw(&mut out, series, &x, &y);
        }
        out.push_str("</svg>\n");
        out
    }

    fn axes(&self, out: &mut String, x: &Ruler<'_>, y: &Ruler<'_>) {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        for (value, text) in y.ticks() {
            let at = y.at(value);
            line(
                out,
                &format!(
                    "<path d=\"M{LEFT} {at:.1}H{right}\" stroke=\"#ddd\"/>\
                     <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                    LEFT - 7.0,
                    at + 4.5,
                    escape(&text)
                ),
            );
        }
        for (value, text) in x.ticks() {
            let at = x.at(value);
            line(
                out,
                &format!(
                    "<path d=\"M{at:.1} {bottom}v5\" stroke=\"black\"/>\
                     <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                    bottom + 20.0,
                    escape(&text)
                ),
            );
        }
        let (across, up) = (f64::midpoint(LEFT, right), f64::midpoint(TOP, bottom));
        line(
            out,
            &format!(
                "<rect x=\"{LEFT}\" y=\"{TOP}\" width=\"{}\" height=\"{}\" fill=\"none\" stroke=\"black\"/>\
                 <text x=\"{across}\" y=\"{}\" text-anchor=\"middle\">{}</text>\
                 <text x=\"18\" y=\"{up}\" text-anchor=\"middle\" transform=\"rotate(-90 18 {up})\">{}</text>",
                right - LEFT,
                bottom - TOP,
                HEIGHT - 14.0,
                escape(&self.x.label),
                escape(&self.y.label)
            ),
        );
    }

    fn legend(&self, out: &mut String) {
        let mut x = LEFT;
        for series in &self.series {
            if series.joined {
                let (colour, dash) = (series.look.colour(), series.look.dash());
                line(
                    out,
                    &format!(
                        "<path d=\"M{x} {LEGEND}h30\" stroke=\"{colour}\" stroke-width=\"2\" stroke-dasharray=\"{dash}\"/>"
                    ),
                );
            }
            marks(out, series.look, &series.look.mark(x + 15.0, LEGEND, 4.0));
            line(
                out,
                &format!("<text x=\"{}\" y=\"{}\">{}</text>", x + 36.0, LEGEND + 4.5, escape(&series.name)),
            );
            #[expect(clippy::cast_precision_loss, reason = "the length of a name")]
            let wide = series.name.chars().count() as f64 * 7.2;
            x += 60.0 + wide;
        }
    }
}

fn draw(out: &mut String, series: &Series, x: &Ruler<'_>, y: &Ruler<'_>) {
    let (colour, dash) = (series.look.colour(), series.look.dash());
    let half = if series.joined { 4.0 } else { 1.6 };
    if series.joined {
        let mut path = String::new();
        for point in &series.points {
            let command = if path.is_empty() { 'M' } else { 'L' };
            write!(path, "{command}{:.1} {:.1}", x.at(point.x), y.at(point.y)).expect("writing to a string");
        }
        line(
            out,
            &format!(
                "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" stroke-dasharray=\"{dash}\"/>"
            ),
        );
    }
    let mut spreads = String::new();
    for point in &series.points {
        let Some((low, high)) = point.spread else { continue };
        let (at, low, high) = (x.at(point.x), y.at(low), y.at(high));
        write!(
            spreads,
            "M{:.1} {low:.1}h8m-4 0V{high:.1}m-4 0h8",
            at - 4.0
        )
        .expect("writing to a string");
    }
    if !spreads.is_empty() {
        line(out, &format!("<path d=\"{spreads}\" fill=\"none\" stroke=\"{colour}\"/>"));
    }
    // Thousands of points fall on the same few pixels.
    let mut drawn = HashSet::new();
    let mut path = String::new();
    for point in &series.points {
        let (at, up) = (x.at(point.x), y.at(point.y));
        #[expect(clippy::cast_possible_truncation, reason = "half pixels of a picture")]
        if drawn.insert(((at * 2.0) as i32, (up * 2.0) as i32)) {
            path.push_str(&series.look.mark(at, up, if series.look == Look::Cross { 4.0 } else { half }));
        }
    }
    marks(out, series.look, &path);
}

fn marks(out: &mut String, look: Look, path: &str) {
    if path.is_empty() {
        return;
    }
    let colour = look.colour();
    let (fill, stroke) = if look.is_filled() { (colour, "none") } else { ("none", colour) };
    line(out, &format!("<path d=\"{path}\" fill=\"{fill}\" stroke=\"{stroke}\" stroke-width=\"1.6\"/>"));
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

/// Text as XML and HTML show it.
pub(crate) fn escape(text: &str) -> String {
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

    fn point(x: f64, y: f64) -> Point {
        Point { x, y, spread: None }
    }

    fn chart(x: Scale, y: Scale, points: Vec<Point>) -> Chart {
        let axis = |scale| Axis { label: "a<b, ms".to_owned(), scale };
        let series = Series { name: "one & two".to_owned(), look: Look::Square, joined: true, points };
        Chart { title: "t".into(), about: String::new(), x: axis(x), y: axis(y), series: vec![series] }
    }

    #[test]
    fn steps_are_round_and_numbers_short() {
        assert!((step(97.0) - 20.0).abs() < 1e-9 && (step(0.3) - 0.05).abs() < 1e-9);
        assert_eq!([0.0, 0.05, 2.5, 999.0, 1e4, 1e6].map(number), ["0", "0.05", "2.5", "999", "10,000", "1,000,000"]);
    }

    #[test]
    fn a_logarithmic_axis_holds_all_points_and_ends_at_powers_of_ten() {
        let points = vec![point(1.0, 0.3), point(1_000.0, 4_200.0), point(5.0, 0.0)];
        let chart = chart(Scale::Log, Scale::Log, points);
        let y = Ruler::new(&chart.y, [0.3, 4_200.0, 0.0].into_iter(), 100.0, 0.0);
        assert!((y.at(0.1) - 100.0).abs() < 1e-9 && y.at(10_000.0).abs() < 1e-9);
        assert!((y.at(0.0) - 100.0).abs() < 1e-9, "zero has no logarithm: it stands at the end");
        assert_eq!(y.ticks().len(), 6);
        let svg = chart.svg();
        assert!(svg.contains(">0.1</text>") && svg.contains(">10,000</text>"));
    }

    #[test]
    fn text_is_escaped_and_every_series_is_in_the_legend() {
        let svg = chart(Scale::Names(vec!["p50".into(), "p99".into()]), Scale::Linear, vec![point(0.0, 3.0)]).svg();
        assert!(svg.contains("a&lt;b, ms") && svg.contains("one &amp; two") && svg.contains(">p99</text>"));
        assert!(svg.trim_end().ends_with("</svg>"));
        assert_eq!(escape("a\u{1b}\"b\""), "a&quot;b&quot;");
    }

    #[test]
    fn nothing_to_draw_is_an_empty_chart_and_no_panic() {
        assert!(chart(Scale::Linear, Scale::Log, Vec::new()).svg().contains("<svg "));
        assert!(chart(Scale::Log, Scale::Linear, vec![point(f64::NAN, f64::NAN)]).svg().contains("<svg "));
    }

    #[test]
    fn points_on_one_pixel_are_drawn_once() {
        let points = vec![point(1.0, 1.0); 1_000];
        let mut chart = chart(Scale::Linear, Scale::Linear, points);
        chart.series[0].joined = false;
        assert!(chart.svg().len() < 6_000);
    }
}
