//! A report's charts: cost by connections, bodies and routes, cost of each case, latency percentiles of open loops.

use super::case::{Case, Group, Kind};
use super::proxy::Proxy;
use super::report::{Report, Row, Spread};
use crate::picture::{Axis, Chart, Look, Panel, Point, Scale, Series};

/// The charts that the report has figures for, each with the name of its file.
pub(crate) fn all(report: &Report) -> Vec<(&'static str, Chart)> {
    let by = [
        (Group::Connections, "CPU per request by connections", "connections"),
        (
            Group::Bodies,
            "CPU per request by size of the body",
            "bytes of the body (0 stands at the left end)",
        ),
        (Group::Routes, "CPU per request by routes", "hosts with a rule"),
        (
            Group::Workers,
            "CPU per request by workers",
            "workers, each with a core (more than half of the cores: shared with the load)",
        ),
    ];
    let mut charts: Vec<(&str, Chart)> = by
        .into_iter()
        .filter_map(|(group, title, x)| Some((group.name(), by_scale(report, group, title, x)?)))
        .collect();
    charts.extend(costs(report).map(|chart| ("cost", chart)));
    charts.extend(percentiles(report).map(|chart| ("percentiles", chart)));
    charts
}

fn look(proxy: Proxy) -> Look {
    match proxy {
        Proxy::Floor => Look::Ring,
        Proxy::Ringway => Look::Disc,
        Proxy::Nginx => Look::Triangle,
        Proxy::Haproxy => Look::Square,
        Proxy::Envoy => Look::Diamond,
    }
}

fn point(x: f64, spread: Spread) -> Point {
    Point { x, y: spread.median, spread: Some((spread.min, spread.max)) }
}

/// One series for each proxy, of the points that `of` makes of its rows.
fn series(proxies: impl Fn(Proxy) -> Vec<Point>, joined: bool) -> Vec<Series> {
    Proxy::ALL
        .into_iter()
        .map(|proxy| Series {
            name: proxy.name().to_owned(),
            look: look(proxy),
            joined,
            points: proxies(proxy),
        })
        .filter(|series| !series.points.is_empty())
        .collect()
}

/// A place in a list, on an axis.
#[expect(clippy::cast_precision_loss, reason = "lists of a handful")]
fn of(at: usize) -> f64 {
    at as f64
}

fn row_of(rows: &[Row], proxy: Proxy) -> Option<&Row> {
    rows.iter().find(|row| row.proxy() == proxy)
}

fn chart(report: &Report, title: &str, x: Axis, y: (&str, Scale), series: Vec<Series>) -> Option<Chart> {
    (!series.is_empty()).then(|| Chart {
        title: title.to_owned(),
        about: report.conditions(),
        x,
        y: Axis::new(y.0, y.1),
        guides: Vec::new(),
        panels: vec![Panel::alone(series)],
    })
}

fn by_scale(report: &Report, group: Group, title: &str, x: &str) -> Option<Chart> {
    let points = |proxy| {
        let cases = report.load().filter(|(case, _)| case.group == group);
        cases
            .filter_map(|(case, rows)| Some(point(case.scale()?, row_of(rows, proxy)?.cpu_us())))
            .collect::<Vec<_>>()
    };
    let mut places: Vec<f64> =
        report.load().filter(|(case, _)| case.group == group).filter_map(|(case, _)| case.scale()).collect();
    places.sort_by(f64::total_cmp);
    places.dedup();
    let scale = if places.first() == Some(&0.0) { Scale::Log } else { Scale::LogAt(places) };
    let x = Axis::new(x, scale);
    chart(report, title, x, ("CPU per request, microseconds", Scale::Log), series(points, true))
}

/// The cases of the comparison side by side.
fn costs(report: &Report) -> Option<Chart> {
    let is_shown = |group| {
        matches!(
            group,
            Group::Main | Group::Tls | Group::Http2 | Group::Layer4 | Group::Filters | Group::Churn
        )
    };
    let cases: Vec<_> = report.load().filter(|(case, _)| is_shown(case.group)).collect();
    let names = cases.iter().map(|(case, _)| case.name.to_owned()).collect();
    let points = |proxy: Proxy| {
        // Beside each other, so that no mark hides another.
        let aside = Proxy::ALL.iter().position(|other| *other == proxy).unwrap_or(0);
        let rows = cases.iter().enumerate();
        rows.filter_map(|(at, (_, rows))| {
            let x = of(at) + of(aside) * 0.14 - 0.21;
            Some(point(x, row_of(rows, proxy)?.cpu_us()))
        })
        .collect()
    };
    let x = Axis::new("case", Scale::Names(names));
    let y = ("CPU per request, microseconds", Scale::Log);
    chart(report, "CPU per request of each case", x, y, series(points, false))
}

/// Latency at each percentile, a panel for each case with an open loop.
fn percentiles(report: &Report) -> Option<Chart> {
    let cases: Vec<_> = report.load().filter(|(case, _)| matches!(case.kind, Kind::Open { .. })).collect();
    let panel = |(case, rows): &(Case, &[Row])| {
        let points = |proxy| {
            let spreads = row_of(rows, proxy).and_then(Row::percentiles);
            spreads.into_iter().flatten().enumerate().map(|(at, spread)| point(of(at), spread)).collect()
        };
        let name = if cases.len() > 1 { case.about.to_owned() } else { String::new() };
        Panel { name, note: String::new(), series: series(points, true) }
    };
    let title = match cases.as_slice() {
        [] => return None,
        [(only, _)] => only.about.to_owned(),
        _ => "Latency at a constant rate".to_owned(),
    };
    let names = ["p50", "p99", "p99.9", "p99.99"].map(str::to_owned).to_vec();
    let x = Axis::new("percentile of latency, counted from when a request was due", Scale::Names(names));
    Some(Chart {
        title,
        about: report.conditions(),
        x,
        y: Axis::new("latency, microseconds", Scale::Log),
        guides: Vec::new(),
        panels: cases.iter().map(panel).collect(),
    })
}
