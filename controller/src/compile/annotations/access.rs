//! Who may come and how much: source ranges, rates, requests at once, sizes; and mirrors.

use std::sync::Arc;

use ipnet::IpNet;
use routing::limit::Rate;
use routing::model::{Access, FixedResponse, RateKey};

use super::given::Given;
use super::traffic::service_name;
use super::{Annotations, ConcurrencySpec, RateScope, RateSpec, Reading};
use crate::merge::PortRef;
use crate::text;
use crate::world::ServiceName;

/// Ranges of one list.
const RANGES_MAX: usize = 1024;
/// The largest rate of one limit.
const RATE_MAX: i64 = 1_000_000;
/// The largest number of requests at once of one source: what an entry of the table of sources holds.
const SOURCE_MAX: i64 = 65_535;
/// The largest rate of ALB.
const QPS_MAX: i64 = 100_000;
/// What MSE's own answers are, unless they are JSON.
const TEXT: &str = "text/plain; charset=UTF-8";
const SECOND_NS: u64 = 1_000_000_000;

pub(super) fn read(given: &mut Given<'_, '_>, reading: &Reading<'_>, out: &mut Annotations) {
    ranges_of(given, out);
    rates(given, out);
    concurrency(given, out);
    out.checks.any_suffices = given
        .parse("satisfy", |text| match text {
            "all" => Ok(false),
            "any" => Ok(true),
            _ => Err("all, any; all is used".to_owned()),
        })
        .unwrap_or(false);
    out.checks.gzip = given.flag("enable-gzip");
    out.checks.body_bytes_max = given.parse("proxy-body-size", size).unwrap_or(0);
    let share = given.parse("mirror-percentage", |text| {
        let percent: f64 = text.parse().map_err(|_| "0 to 100".to_owned())?;
        if !(0.0..=100.0).contains(&percent) {
            return Err("0 to 100".to_owned());
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and a million")]
        Ok((percent * 10_000.0) as u32)
    });
    let target = given.parse("mirror-target-service", |text| mirror_target(text, &reading.id.namespace));
    out.mirror = target.map(|(service, port)| (service, port, share.unwrap_or(1_000_000)));
}

/// Ranges and addresses by comma.
pub(crate) fn ranges(text: &str) -> Result<Vec<IpNet>, String> {
    let allowed = || format!("1 to {RANGES_MAX} ranges by comma, such as 10.0.0.0/8 or 192.0.2.1");
    let names: Vec<&str> = text.split([',', '\n']).map(str::trim).filter(|name| !name.is_empty()).collect();
    if names.is_empty() || names.len() > RANGES_MAX {
        return Err(allowed());
    }
    let one = |name: &&str| {
        let range = name.parse().or_else(|_| name.parse().map(|ip: std::net::IpAddr| IpNet::from(ip)));
        range.map(|range: IpNet| range.trunc()).map_err(|_| allowed())
    };
    names.iter().map(one).collect()
}

fn ranges_of(given: &mut Given<'_, '_>, out: &mut Annotations) {
    let mut access = Access::default();
    // Of several lists of who may the first holds. All lists of who may not hold.
    for name in ["whitelist-source-range", "allowlist-source-range"] {
        if given.family(name).is_none() {
            continue;
        }
        match given.parse(name, ranges) {
            Some(_) if !access.allow.is_empty() => given.ignore(name, "a narrower list says who may come"),
            Some(list) => access.allow = list.into(),
            // A list that cannot be read must not become no list.
            None => out.closed = Some(Arc::from(name)),
        }
    }
    let mut deny = Vec::new();
    for name in ["denylist-source-range", "blacklist-source-range"] {
        if given.family(name).is_none() {
            continue;
        }
        match given.parse(name, ranges) {
            Some(list) => deny.extend(list),
            None => out.closed = Some(Arc::from(name)),
        }
    }
    access.deny = deny.into();
    out.checks.access = (access != Access::default()).then_some(access);
    let mut domain = Access::default();
    for (name, list) in [
        ("domain-whitelist-source-range", &mut domain.allow),
        ("domain-blacklist-source-range", &mut domain.deny),
    ] {
        if given.family(name).is_some() {
            match given.parse(name, ranges) {
                Some(ranges) => *list = ranges.into(),
                None => out.closed = Some(Arc::from(name)),
            }
        }
    }
    out.checks.domain = (domain != Access::default()).then_some(domain);
}

fn concurrency(given: &mut Given<'_, '_>, out: &mut Annotations) {
    let mut push = |name, max, (key, scope), exempt, answer| {
        out.checks.concurrency.push(ConcurrencySpec { name, max, key, scope, exempt, answer });
    };
    if let Some(max) = given.number("concurrency-limit", 1, RATE_MAX) {
        let answer = fallback(given, "concurrency-limit");
        push("concurrency-limit", max, (RateKey::All, RateScope::Rule), Vec::new(), answer);
    }
    let full = Arc::new(FixedResponse { status: 503, ..FixedResponse::default() });
    if let Some(max) = given.number("limit-connections", 1, SOURCE_MAX) {
        let exempt = exempt(given);
        push("limit-connections", max, (RateKey::Source, RateScope::Ingress), exempt, full.clone());
    }
    let name = "connection-policy-tcp-max-connection";
    if let Some(max) = given.number(name, 1, RATE_MAX) {
        push(name, max, (RateKey::All, RateScope::Service), Vec::new(), full);
    }
}

fn rates(given: &mut Given<'_, '_>, out: &mut Annotations) {
    let exempt = exempt(given);
    let burst = given.number("limit-burst-multiplier", 1, 1000).unwrap_or(5);
    let plain = |status| Arc::new(FixedResponse { status, ..FixedResponse::default() });
    let local = || {
        let (content_type, body) = (Arc::from("text/plain"), Arc::from("local_rate_limited"));
        Arc::new(FixedResponse { status: 429, content_type, body, location: Arc::from("") })
    };
    for (name, seconds) in [("limit-rps", 1), ("limit-rpm", 60)] {
        if let Some(count) = given.number(name, 1, RATE_MAX) {
            let rate = rate(count, seconds, u64::from(count) * u64::from(burst) + 1);
            let (key, scope, exempt) = (RateKey::Source, RateScope::Ingress, exempt.clone());
            out.checks.rates.push(RateSpec { name, rate, key, scope, exempt, answer: plain(503) });
        }
    }
    let burst = given.number("route-limit-burst-multiplier", 1, 1000).unwrap_or(5);
    let mut push = |name, rate, key, answer| {
        let (scope, exempt) = (RateScope::Rule, Vec::new());
        out.checks.rates.push(RateSpec { name, rate, key, scope, exempt, answer });
    };
    for (name, seconds) in [("route-limit-rps", 1), ("route-limit-rpm", 60)] {
        if let Some(count) = given.number(name, 1, RATE_MAX) {
            push(name, rate(count, seconds, u64::from(count) * u64::from(burst)), RateKey::All, local());
        }
    }
    if let Some(count) = given.number("rate-limit", 1, RATE_MAX) {
        let answer = fallback(given, "rate-limit");
        push("rate-limit", rate(count, 1, u64::from(count)), RateKey::All, answer);
    }
    for (name, key) in [("traffic-limit-qps", RateKey::All), ("traffic-limit-ip-qps", RateKey::Source)] {
        if let Some(count) = given.number(name, 1, QPS_MAX) {
            // No burst is documented: what comes within a tenth of a second counts as at once.
            push(name, rate(count, 1, u64::from(count / 10)), key, plain(503));
        }
    }
}

/// Sources that limits do not count: `limit-allowlist`, or `limit-whitelist` as it was named before.
fn exempt(given: &mut Given<'_, '_>) -> Vec<IpNet> {
    let old = given.parse("limit-whitelist", ranges);
    let new = given.parse("limit-allowlist", ranges);
    if old.is_some() && new.is_some() {
        given.ignore("limit-whitelist", "limit-allowlist says the same, and comes first");
    }
    new.or(old).unwrap_or_default()
}

/// `count` in so many seconds.
pub(super) fn rate(count: u32, seconds: u64, burst: u64) -> Rate {
    Rate::new(u64::from(count), seconds * SECOND_NS, burst.max(1))
}

/// What requests over a limit of MSE are answered.
fn fallback(given: &mut Given<'_, '_>, of: &str) -> Arc<FixedResponse> {
    let name = |what: &str| format!("{of}-fallback-{what}");
    let status =
        given.number(&name("custom-response-code"), 200, 599).and_then(|code| u16::try_from(code).ok());
    let kind = given.parse(&name("custom-response-body-type"), |text| match text {
        "text" => Ok(TEXT),
        "json" | "JSON" => Ok("application/json; charset=UTF-8"),
        _ => Err("text, json".to_owned()),
    });
    let body = given.parse(&name("custom-response-body"), |text| Ok(Arc::from(text)));
    if let Some(location) = given.parse(&name("redirect-url"), super::address::location) {
        return Arc::new(FixedResponse { status: 302, location, ..FixedResponse::default() });
    }
    Arc::new(FixedResponse {
        status: status.unwrap_or(429),
        content_type: Arc::from(kind.unwrap_or(TEXT)),
        body: body.unwrap_or_else(|| Arc::from("sentinel rate limited")),
        location: Arc::from(""),
    })
}

/// nginx's sizes: bytes, or `k`, `m`, `g` of them.
fn size(text: &str) -> Result<u64, String> {
    let lower = text.to_ascii_lowercase();
    let (digits, unit) = match lower.char_indices().last() {
        Some((at, 'k')) => (&lower[..at], 1 << 10),
        Some((at, 'm')) => (&lower[..at], 1 << 20),
        Some((at, 'g')) => (&lower[..at], 1 << 30),
        Some(_) | None => (&*lower, 1),
    };
    let number: Option<u64> = digits.parse().ok();
    number
        .and_then(|number| number.checked_mul(unit))
        .ok_or_else(|| "a size such as 8m, 512k, 1048576; 0 = any".to_owned())
}

/// Without a port the Service's first is meant.
fn mirror_target(text: &str, namespace: &Arc<str>) -> Result<(ServiceName, Option<PortRef>), String> {
    let allowed = || "[NAMESPACE/]SERVICE[:PORT]".to_owned();
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) => (name, Some(port.parse().ok().filter(|port| *port > 0).ok_or_else(allowed)?)),
        None => (text, None),
    };
    let (of, name) = match name.split_once('/') {
        Some((of, name)) => (service_name(of).map_err(|_| allowed())?, name),
        None => (namespace.clone(), name),
    };
    let name = service_name(name).map_err(|_| allowed())?;
    Ok((ServiceName { namespace: of, name }, port.map(PortRef::Number)))
}

/// Header names and values by the rules of [`text`]: for actions.
pub(super) fn header(name: &str, value: &str) -> Result<(Arc<str>, Arc<str>), String> {
    Ok((text::edited_header(name)?, text::value(value)?))
}
