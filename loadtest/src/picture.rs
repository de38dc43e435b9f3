//! Charts as SVG, readable in print: each series differs from the others in shape and dash as well as in colour.
//!
//! Pure: numbers in, text out. One kind of chart for all reports: points with spreads, joined or not, over an axis that
//! is linear, logarithmic, or a row of names; in one panel, or in several with the same axes.

use std::collections::HashSet;
use std::fmt::Write as _;

const WIDTH: f64 = 900.0;
const LEFT: f64 = 98.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 92.0;
const BOTTOM: f64 = 56.0;
/// Height of a panel that is alone, and of one of several.
const ALONE: f64 = 282.0;
const SHARED: f64 = 190.0;
/// Above a panel that has a name: for the name.
const GAP: f64 = 30.0;
/// The line of the legend.
const LEGEND: f64 = 68.0;
/// Fewer points than this are drawn large.
const FEW: usize = 100;
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
    /// What is marked in every panel.
    pub(crate) guides: Vec<Guide>,
    /// What is drawn, one below the other; all have the same kinds of series.
    pub(crate) panels: Vec<Panel>,
}

/// A part of a chart.
pub(crate) struct Panel {
    /// Who is measured; empty where there is but one.
    pub(crate) name: String,
    /// What is told beside the name.
    pub(crate) note: String,
    /// What is drawn, in the order of the legend, which is made of the first panel's.
    pub(crate) series: Vec<Series>,
}

impl Panel {
    /// The only one of its chart.
    pub(crate) fn alone(series: Vec<Series>) -> Self {
        Self { name: String::new(), note: String::new(), series }
    }
}

/// A line across a panel.
pub(crate) enum Guide {
    /// Upright, at this place on the axis below, with its name beside it.
    Upright(f64, String),
    /// Level and dashed, at this place on the axis on the left; the legend has its name.
    Level(f64, String),
}

/// An axis.
pub(crate) struct Axis {
    /// What it measures, and in which unit.
    pub(crate) label: String,
    /// How it measures.
    pub(crate) scale: Scale,
    /// Its ends, where they are not those of the points; what is beyond stands at the end.
    pub(crate) span: Option<(f64, f64)>,
}

impl Axis {
    /// One that ends where the points do.
    pub(crate) fn new(label: impl Into<String>, scale: Scale) -> Self {
        Self { label: label.into(), scale, span: None }
    }
}

/// How an axis measures.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Scale {
    /// From zero, where no other span is given.
    Linear,
    /// Powers of ten; what is not above zero is drawn at the lowest of them.
    Log,
    /// The same, with these places marked instead of powers of ten.
    LogAt(Vec<f64>),
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
    /// A purple diamond, joined by dashes and dots.
    Diamond,
}

impl Look {
    fn colour(self) -> &'static str {
        match self {
            Self::Disc => "#14387f",
            Self::Square => "#d4690f",
            Self::Triangle => "#2a9d6a",
            Self::Cross => "#c00000",
            Self::Ring => "#777777",
            Self::Diamond => "#8a3a9b",
        }
    }

    fn dash(self) -> &'static str {
        match self {
            Self::Disc | Self::Ring => "none",
            Self::Square => "9 4",
            Self::Triangle => "4 3",
            Self::Cross => "2 3",
            Self::Diamond => "8 3 2 3",
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
            Self::Diamond => {
                format!("M{x:.1} {:.1}l{half} {half}l-{half} {half}l-{half} -{half}z", y - half)
            }
            Self::Triangle => format!("M{x:.1} {:.1}l{half} {twice}h-{twice}z", y - half),
            Self::Cross => {
                format!("M{:.1} {:.1}l{twice} {twice}m0 -{twice}l-{twice} {twice}", x - half, y - half)
            }
        }
    }

    fn is_filled(self) -> bool {
        match self {
            Self::Disc | Self::Square | Self::Triangle | Self::Diamond => true,
            Self::Cross | Self::Ring => false,
        }
    }
}

/// An axis with its range, along so many pixels.
#[derive(Clone, Copy)]
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
        let (low, high) = match (&axis.scale, axis.span) {
            (Scale::Linear | Scale::Names(_), Some(span)) => span,
            (Scale::Log | Scale::LogAt(_), Some((low, high))) => (low.log10(), high.log10()),
            (Scale::LogAt(places), None) => {
                let positive = || places.iter().copied().filter(|place| *place > 0.0).map(f64::log10);
                let low = positive().fold(f64::INFINITY, f64::min);
                let high = positive().fold(f64::NEG_INFINITY, f64::max);
                // What stands at an end stands apart from the frame.
                if low.is_finite() { (low - 0.15, high + 0.15) } else { (0.0, 1.0) }
            }
            (Scale::Linear, None) if max > 0.0 => (0.0, ceil_to(max * 1.05, step(max))),
            (Scale::Linear, None) => (0.0, 1.0),
            (Scale::Log, None) => {
                let positive = values.iter().copied().filter(|value| *value > 0.0);
                let min = positive.fold(f64::INFINITY, f64::min);
                let low = if min.is_finite() { min.log10().floor() } else { 0.0 };
                (low, max.max(1e-9).log10().ceil().max(low + 1.0))
            }
            #[expect(clippy::cast_precision_loss, reason = "a handful of names")]
            (Scale::Names(names), None) => (-0.5, names.len() as f64 - 0.5),
        };
        Self { axis, low, high, from, to }
    }

    /// The pixel of a value.
    fn at(&self, value: f64) -> f64 {
        let value = match self.axis.scale {
            Scale::Log | Scale::LogAt(_) if value > 0.0 => value.log10(),
            Scale::Log | Scale::LogAt(_) => self.low,
            Scale::Linear | Scale::Names(_) => value,
        };
        let share = ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0);
        self.from + share * (self.to - self.from)
    }

    /// Values that are written beside the axis, and how.
    fn ticks(&self) -> Vec<(f64, String)> {
        match &self.axis.scale {
            Scale::Linear => {
                let step = step(self.high - self.low);
                let mut ticks = Vec::new();
                let mut nth = (self.low / step).ceil();
                while nth <= (self.high / step).round() {
                    ticks.push((nth * step, number(nth * step)));
                    nth += 1.0;
                }
                ticks
            }
            Scale::Log => {
                let mut ticks = Vec::new();
                let mut power = self.low;
                // Over a short range powers of ten alone say too little.
                let between: &[f64] = if self.high - self.low <= 2.0 { &[1.0, 2.0, 5.0] } else { &[1.0] };
                while power <= self.high {
                    let of = |times: &f64| times * 10_f64.powf(power);
                    let within = |value: &f64| value.log10() <= self.high + 1e-9;
                    ticks.extend(between.iter().map(of).filter(within).map(|value| (value, number(value))));
                    power += 1.0;
                }
                ticks
            }
            Scale::LogAt(places) => places.iter().map(|place| (*place, number(*place))).collect(),
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
    match text.trim_start_matches('-').len() {
        4.. if !text.contains('.') => {
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
        let series = || self.panels.iter().flat_map(|panel| &panel.series);
        let points = || series().flat_map(|series| &series.points);
        let heights = points().flat_map(|point| {
            let (low, high) = point.spread.unwrap_or((point.y, point.y));
            [low, point.y, high]
        });
        let x = Ruler::new(&self.x, points().map(|point| point.x), LEFT, WIDTH - RIGHT);
        let y = Ruler::new(&self.y, heights, 0.0, 0.0);
        let (mut body, mut bottom) = (String::new(), TOP);
        self.legend(&mut body);
        for panel in &self.panels {
            let top = if panel.name.is_empty() { bottom } else { bottom + GAP };
            bottom = top + if self.panels.len() == 1 { ALONE } else { SHARED };
            let y = Ruler { from: bottom, to: top, ..y };
            panel.name(&mut body, top);
            self.frame(&mut body, x, y);
            panel.series.iter().for_each(|series| draw(&mut body, series, x, y));
        }
        self.foot(&mut body, x, bottom);
        let height = bottom + BOTTOM;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
             viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"13\" role=\"img\">\n\
             <title>{title}</title>\n<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"white\"/>\n\
             <text x=\"{LEFT}\" y=\"24\" font-size=\"17\" font-weight=\"bold\">{title}</text>\n\
             <text x=\"{LEFT}\" y=\"44\" fill=\"#444\">{about}</text>\n{body}</svg>\n",
            title = escape(&self.title),
            about = escape(&self.about),
        )
    }

    /// A panel's lines, the guides, the frame, and what the axis on the left measures.
    fn frame(&self, out: &mut String, x: Ruler<'_>, y: Ruler<'_>) {
        let (right, top, bottom) = (WIDTH - RIGHT, y.to, y.from);
        for (value, text) in y.ticks() {
            let at = y.at(value);
            line(out, &format!("<path d=\"M{LEFT} {at:.1}H{right}\" stroke=\"#ddd\"/>"));
            words(out, (LEFT - 7.0, at + 4.5), "text-anchor=\"end\"", &text);
        }
        for guide in &self.guides {
            match guide {
                Guide::Upright(value, name) => {
                    let at = x.at(*value);
                    line(out, &format!("<path d=\"M{at:.1} {top}V{bottom}\" stroke=\"black\"/>"));
                    words(out, (at + 4.0, top + 13.0), "", name);
                }
                Guide::Level(value, _) => level(out, LEFT, y.at(*value), right),
            }
        }
        let (wide, high, up) = (right - LEFT, bottom - top, f64::midpoint(top, bottom));
        line(
            out,
            &format!(
                "<rect x=\"{LEFT}\" y=\"{top}\" width=\"{wide}\" height=\"{high}\" fill=\"none\" stroke=\"black\"/>"
            ),
        );
        let upwards = format!("text-anchor=\"middle\" transform=\"rotate(-90 18 {up})\"");
        words(out, (18.0, up), &upwards, &self.y.label);
    }

    /// The axis below the last panel.
    fn foot(&self, out: &mut String, x: Ruler<'_>, bottom: f64) {
        let middle = "text-anchor=\"middle\"";
        for (value, text) in x.ticks() {
            let at = x.at(value);
            line(out, &format!("<path d=\"M{at:.1} {bottom}v5\" stroke=\"black\"/>"));
            words(out, (at, bottom + 20.0), middle, &text);
        }
        let across = f64::midpoint(LEFT, WIDTH - RIGHT);
        words(out, (across, bottom + BOTTOM - 14.0), middle, &self.x.label);
    }

    fn legend(&self, out: &mut String) {
        let mut x = LEFT;
        for series in self.panels.first().into_iter().flat_map(|panel| &panel.series) {
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
            named(out, &mut x, &series.name);
        }
        for guide in &self.guides {
            if let Guide::Level(_, name) = guide {
                level(out, x, LEGEND, x + 30.0);
                named(out, &mut x, name);
            }
        }
    }
}

impl Panel {
    fn name(&self, out: &mut String, top: f64) {
        if self.name.is_empty() {
            return;
        }
        words(out, (LEFT, top - 6.0), "font-weight=\"bold\"", &self.name);
        words(out, (WIDTH - RIGHT, top - 6.0), "text-anchor=\"end\" fill=\"#444\"", &self.note);
    }
}

/// The name of what the legend shows at `x`, which goes on to the next.
fn named(out: &mut String, x: &mut f64, name: &str) {
    words(out, (*x + 36.0, LEGEND + 4.5), "", name);
    #[expect(clippy::cast_precision_loss, reason = "the length of a name")]
    let wide = name.chars().count() as f64 * 7.2;
    *x += 60.0 + wide;
}

/// A level guide.
fn level(out: &mut String, from: f64, y: f64, to: f64) {
    line(out, &format!("<path d=\"M{from} {y:.1}H{to}\" stroke=\"#444\" stroke-dasharray=\"5 4\"/>"));
}

/// Text at a place, with these attributes.
fn words(out: &mut String, (x, y): (f64, f64), how: &str, text: &str) {
    let gap = if how.is_empty() { "" } else { " " };
    line(out, &format!("<text x=\"{x:.1}\" y=\"{y:.1}\"{gap}{how}>{}</text>", escape(text)));
}

fn draw(out: &mut String, series: &Series, x: Ruler<'_>, y: Ruler<'_>) {
    let (colour, dash) = (series.look.colour(), series.look.dash());
    // A cloud of requests, or a handful of figures.
    let half = if series.joined || series.points.len() < FEW { 4.0 } else { 1.6 };
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
        write!(spreads, "M{:.1} {low:.1}h8m-4 0V{high:.1}m-4 0h8", at - 4.0).expect("writing to a string");
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
            path.push_str(&series.look.mark(at, up, half));
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
        let axis = |scale| Axis::new("a<b, ms", scale);
        let series = Series { name: "one & two".to_owned(), look: Look::Square, joined: true, points };
        Chart {
            title: "t".into(),
            about: String::new(),
            x: axis(x),
            y: axis(y),
            guides: Vec::new(),
            panels: vec![Panel::alone(vec![series])],
        }
    }

    #[test]
    fn steps_are_round_and_numbers_short() {
        assert!((step(97.0) - 20.0).abs() < 1e-9 && (step(0.3) - 0.05).abs() < 1e-9);
        assert_eq!(
            [0.0, 0.05, 2.5, -200.0, 999.0, 1e4, 1e6].map(number),
            ["0", "0.05", "2.5", "-200", "999", "10,000", "1,000,000"]
        );
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
        let svg =
            chart(Scale::Names(vec!["p50".into(), "p99".into()]), Scale::Linear, vec![point(0.0, 3.0)]).svg();
        assert!(svg.contains("a&lt;b, ms") && svg.contains("one &amp; two") && svg.contains(">p99</text>"));
        assert!(svg.trim_end().ends_with("</svg>"));
        assert_eq!(escape("a\u{1b}\"b\""), "a&quot;b&quot;");
    }

    #[test]
    fn an_axis_with_a_span_has_those_ends_whatever_the_points_are() {
        let span = |scale, low, high| Axis { span: Some((low, high)), ..Axis::new("", scale) };
        let (x, y) = (span(Scale::Linear, -200.0, 1_000.0), span(Scale::Log, 1.0, 10_000.0));
        let x = Ruler::new(&x, [5_000.0].into_iter(), 0.0, 120.0);
        let texts: Vec<String> = x.ticks().into_iter().map(|(_, text)| text).collect();
        assert_eq!(texts, ["-200", "0", "200", "400", "600", "800", "1,000"]);
        assert_eq!([-200.0, 0.0, 1_000.0, 5_000.0].map(|value| x.at(value)), [0.0, 20.0, 120.0, 120.0]);
        let y = Ruler::new(&y, [0.1].into_iter(), 100.0, 0.0);
        assert_eq!([0.1, 1.0, 100.0, 1e9].map(|value| y.at(value)), [100.0, 100.0, 50.0, 0.0]);
        assert_eq!(y.ticks().len(), 5);
    }

    #[test]
    fn panels_stand_below_each_other_with_one_legend_and_the_guides_in_each() {
        let mut chart = chart(Scale::Linear, Scale::Linear, vec![point(1.0, 1.0)]);
        let mut lower = Panel::alone(Vec::new());
        (lower.name, lower.note) = ("x<y".to_owned(), "1 & 2".to_owned());
        chart.panels.push(lower);
        chart.guides =
            vec![Guide::Upright(0.5, "fault".to_owned()), Guide::Level(0.5, "slow & above".to_owned())];
        let svg = chart.svg();
        let count = |text: &str| svg.matches(text).count();
        assert_eq!(count(">fault</text>"), 2, "one in each panel");
        assert_eq!((count(">slow &amp; above</text>"), count("stroke-dasharray=\"5 4\"")), (1, 3));
        assert_eq!((count(">one &amp; two</text>"), count("fill=\"none\" stroke=\"black\"")), (1, 2));
        assert!(svg.contains(">x&lt;y</text>") && svg.contains(">1 &amp; 2</text>"));
        let height = TOP + SHARED + GAP + SHARED + BOTTOM;
        assert!(svg.contains(&format!("height=\"{height}\"")), "{svg}");
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
        chart.panels[0].series[0].joined = false;
        assert!(chart.svg().len() < 6_000);
    }
}
