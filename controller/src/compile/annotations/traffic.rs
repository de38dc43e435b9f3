//! Which backend and which cluster: canaries, destinations, subsets, cluster weights, fallbacks.

use std::collections::BTreeMap;
use std::sync::Arc;

use routing::model::{Predicate, ValueMatch, ValuePattern};

use super::given::Given;
use super::{Annotations, Canary, Reading};
use crate::text;
use crate::text::Regexes;
use crate::world::ServiceName;

/// One line of `destination`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Its share.
    pub weight: u32,
    /// The Service.
    pub service: ServiceName,
    /// Its port; `None` = the one of the Ingress's own backend.
    pub port: Option<u16>,
}

/// One condition of a canary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CanaryWhen {
    /// What must hold.
    pub when: Predicate,
    /// What follows.
    pub word: CanaryWord,
}

/// Where a request goes that meets a canary's condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CanaryWord {
    /// To the canary.
    Always,
    /// Never to the canary.
    Never,
}

/// Labels that name a cluster.
const CLUSTER_LABELS: [&str; 2] = ["topology.istio.io/cluster", "ringway.dev/cluster"];
/// Lines of `destination`.
const DESTINATIONS_MAX: usize = 64;
/// Statuses of `custom-http-errors`.
const STATUSES_MAX: usize = 64;

pub(super) fn read(given: &mut Given<'_, '_>, reading: &mut Reading<'_>, out: &mut Annotations) {
    if given.flag("canary") == Some(true) {
        out.canary = Some(canary(given, reading.regexes));
    }
    weights(given, reading, out);
    let subset = given.raw("service-subset");
    let labels = given.parse("subset-labels", |text| cluster_label(text, reading));
    // "" and "base" are every pod; a name without labels says nothing of clusters.
    match (subset, labels) {
        (Some("" | "base"), Some(_)) => given.ignore("subset-labels", "service-subset asks for every pod"),
        (Some(_) | None, labels) => out.cluster = labels,
    }
    if subset.is_some_and(|name| !matches!(name, "" | "base")) && out.cluster.is_none() {
        given.ignore("service-subset", "without a cluster in subset-labels it chooses no endpoints");
    }
    let namespace = &reading.id.namespace;
    out.destinations = given.parse("destination", |text| destinations(text, namespace)).unwrap_or_default();
    out.default_backend = given.parse("default-backend", service_name);
    out.error_statuses = given.parse("custom-http-errors", statuses).unwrap_or_default();
    if !out.error_statuses.is_empty() && out.default_backend.is_none() {
        given.ignore("custom-http-errors", "there is no default-backend to answer instead");
        out.error_statuses.clear();
    }
}

fn canary(given: &mut Given<'_, '_>, regexes: &mut Regexes) -> Canary {
    let total = given.number("canary-weight-total", 1, text::WEIGHT_MAX).unwrap_or(100);
    let weight = given.number("canary-weight", 0, i64::from(total)).unwrap_or(0);
    let mut when = Vec::new();
    if let Some(name) = given.parse("canary-by-header", text::header_name) {
        let wrap = |value| Predicate::Header(ValueMatch { name: name.clone(), value });
        by(given, regexes, "canary-by-header", &wrap, &mut when);
    }
    if let Some(name) = given.parse("canary-by-query", text::query_name) {
        let wrap = |value| Predicate::Query(ValueMatch { name: name.clone(), value });
        by(given, regexes, "canary-by-query", &wrap, &mut when);
    }
    if let Some(name) = given.parse("canary-by-cookie", text::cookie_name) {
        let wrap = |value| Predicate::Cookie(ValueMatch { name: name.clone(), value });
        by(given, regexes, "canary-by-cookie", &wrap, &mut when);
    }
    let legacy_sessions = super::serving::legacy_sessions(given);
    Canary { when, weight, total, legacy_sessions }
}

/// A value, a pattern, or else the words `always` and `never`.
fn by(
    given: &mut Given<'_, '_>,
    regexes: &mut Regexes,
    name: &str,
    wrap: &dyn Fn(ValuePattern) -> Predicate,
    out: &mut Vec<CanaryWhen>,
) {
    let (value_name, pattern_name) = (format!("{name}-value"), format!("{name}-pattern"));
    let asked = given.family(&value_name).is_some() || given.family(&pattern_name).is_some();
    let value = given.parse(&value_name, |text| text::value(text).map(ValuePattern::Exact));
    let pattern = given.parse(&pattern_name, |text| regexes.anchored(text).map(ValuePattern::Regex));
    if value.is_some() && pattern.is_some() {
        given.ignore(&pattern_name, &format!("{value_name} comes first"));
    }
    if let Some(value) = value.or(pattern) {
        out.push(CanaryWhen { when: wrap(value), word: CanaryWord::Always });
    } else if !asked {
        let exact = |word: &str| wrap(ValuePattern::Exact(Arc::from(word)));
        out.push(CanaryWhen { when: exact("always"), word: CanaryWord::Always });
        out.push(CanaryWhen { when: exact("never"), word: CanaryWord::Never });
    }
}

/// `cluster-weight.CLUSTER`; those of `ringway.dev/` win.
fn weights(given: &mut Given<'_, '_>, reading: &Reading<'_>, out: &mut Annotations) {
    let mut weights = BTreeMap::new();
    for (cluster, full) in given.rests("cluster-weight.") {
        let parsed = given.parse(full, |text| {
            super::ours::cluster_number(cluster, text, text::WEIGHT_MAX, reading.members)
        });
        weights.extend(parsed);
    }
    if !weights.is_empty() {
        weights.extend(out.part.weights.take().unwrap_or_default());
        out.part.weights = Some(weights);
    }
}

fn cluster_label(text: &str, reading: &Reading<'_>) -> Result<Arc<str>, String> {
    let mut words = text.split_whitespace();
    let (Some(label), Some(value), None) = (words.next(), words.next(), words.next()) else {
        return Err("LABEL VALUE, with a space between".to_owned());
    };
    if !CLUSTER_LABELS.contains(&label) {
        return Err(format!("{} and the name of a cluster", CLUSTER_LABELS.join(" or ")));
    }
    let found = reading.members.get_key_value(value);
    found.map(|(name, _)| name.clone()).ok_or_else(|| super::ours::names(reading.members))
}

fn destinations(text: &str, namespace: &Arc<str>) -> Result<Vec<Destination>, String> {
    let allowed = || {
        "lines of [PERCENT%] SERVICE.NAMESPACE.svc.cluster.local[:PORT]; percentages sum up to 100".to_owned()
    };
    let mut out = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let mut words = line.split_whitespace().peekable();
        let percent = words.next_if(|word| word.ends_with('%'));
        let weight =
            percent.map_or(Ok(100), |word| word.trim_end_matches('%').parse().map_err(|_| allowed()))?;
        let (Some(host), None) = (words.next(), words.next()) else { return Err(allowed()) };
        let (host, port) = match host.split_once(':') {
            Some((host, port)) => (host, Some(port.parse().map_err(|_| allowed())?)),
            None => (host, None),
        };
        let mut labels = host.split('.');
        let name = service_name(labels.next().unwrap_or_default())?;
        let of = labels.next().map_or_else(|| Ok(namespace.clone()), service_name)?;
        let rest: Vec<&str> = labels.collect();
        if !(rest.is_empty() || rest == ["svc"] || rest == ["svc", "cluster", "local"]) || port == Some(0) {
            return Err(allowed());
        }
        out.push(Destination { weight, service: ServiceName { namespace: of, name }, port });
    }
    let sum: u64 = out.iter().map(|destination| u64::from(destination.weight)).sum();
    if out.is_empty() || out.len() > DESTINATIONS_MAX || sum != 100 {
        return Err(allowed());
    }
    Ok(out)
}

/// The name of a Service (RFC 1035 label; RFC 1123 for those of others).
pub(super) fn service_name(text: &str) -> Result<Arc<str>, String> {
    let is_label = !text.is_empty()
        && text.len() <= 63
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if is_label { Ok(Arc::from(text)) } else { Err("names of lower-case letters, digits and '-'".to_owned()) }
}

fn statuses(text: &str) -> Result<Vec<u16>, String> {
    let allowed = || format!("1 to {STATUSES_MAX} statuses from 300 to 599, by comma");
    let read: Result<Vec<u16>, _> = text.split(',').map(|status| status.trim().parse::<u16>()).collect();
    let mut read = read.map_err(|_| allowed())?;
    read.sort_unstable();
    read.dedup();
    let good = read.iter().all(|status| (300..=599).contains(status));
    if good && read.len() <= STATUSES_MAX { Ok(read) } else { Err(allowed()) }
}
