//! How a request is served once its backend is known: time limits, retries, sessions, balancing, health checks.

use std::sync::Arc;
use std::time::Duration;

use routing::model::{AcrossBackends, Balance, CookieAffinity, HashKey};

use super::given::Given;
use super::registry::Family;
use super::{Annotations, Reading};
use crate::compile::policy::detection::DetectionPart;
use crate::text;

/// Seconds of a day: the longest time limit.
const DAY: i64 = 86_400;
/// The name of a session's cookie by ingress-nginx and MSE.
const SESSION_COOKIE: &str = "INGRESSCOOKIE";
/// The same by ALB.
const ALB_COOKIE: &str = "SERVERID";

pub(super) fn read(given: &mut Given<'_, '_>, reading: &Reading<'_>, out: &mut Annotations) {
    timeouts(given, out);
    out.part.endpoint_max =
        given.number("connection-policy-tcp-max-connection-per-endpoint", 1, text::WEIGHT_MAX);
    out.part.requests_max =
        given.number("connection-policy-http-max-request-per-connection", 1, text::WEIGHT_MAX);
    retries(given, out);
    balance(given, out);
    session(given, out);
    detection(given, reading, out);
}

fn seconds(given: &mut Given<'_, '_>, name: &str, min: i64) -> Option<Duration> {
    given.number(name, min, DAY).map(|seconds| Duration::from_secs(u64::from(seconds)))
}

fn timeouts(given: &mut Given<'_, '_>, out: &mut Annotations) {
    out.part.connect = seconds(given, "proxy-connect-timeout", 1);
    if let Some(read) = seconds(given, "proxy-read-timeout", 1) {
        out.part.attempt = Some(read);
        out.part.idle = Some(read);
        out.part.request = Some(Duration::ZERO);
    }
    if let Some(timeout) = seconds(given, "timeout", 0) {
        out.part.request = Some(timeout);
    }
}

fn retries(given: &mut Given<'_, '_>, out: &mut Annotations) {
    let tries = given.number("proxy-next-upstream-tries", 0, 10);
    // Zero is "no limit" there; ours is 10.
    out.part.attempts = tries.and_then(|tries| u8::try_from(if tries == 0 { 10 } else { tries }).ok());
    out.part.retry_time = seconds(given, "proxy-next-upstream-timeout", 0);
    let Some(words) = given.parse("proxy-next-upstream", next_upstream) else { return };
    if words.off {
        out.part.attempts = Some(1);
    }
    out.part.statuses = Some(words.statuses);
    out.part.non_idempotent = Some(words.non_idempotent);
}

#[derive(Default)]
struct NextUpstream {
    off: bool,
    non_idempotent: bool,
    statuses: Vec<u16>,
}

fn next_upstream(text: &str) -> Result<NextUpstream, String> {
    let mut out = NextUpstream::default();
    let allowed =
        "error, timeout, invalid_header, http_400 to http_599, non_idempotent, off, by space or comma";
    for word in text.split([' ', ',']).filter(|word| !word.is_empty()) {
        match word {
            "error" | "timeout" | "invalid_header" => {}
            "off" => out.off = true,
            "non_idempotent" => out.non_idempotent = true,
            _ => {
                let status = word.strip_prefix("http_").and_then(|status| status.parse().ok());
                out.statuses.push(status.filter(|status| (400..=599).contains(status)).ok_or(allowed)?);
            }
        }
    }
    out.statuses.sort_unstable();
    out.statuses.dedup();
    Ok(out)
}

fn balance(given: &mut Given<'_, '_>, out: &mut Annotations) {
    let balance = given.parse("load-balance", |text| match text {
        "round_robin" => Ok(Balance::RoundRobin),
        "least_conn" | "ewma" => Ok(Balance::LeastRequest),
        "random" => Ok(Balance::Random),
        _ => Err("round_robin, least_conn, random, ewma".to_owned()),
    });
    let parameter = given.parse("backend-scheduler-uch-value", text::query_name);
    let scheduler = given.parse("backend-scheduler", |text| match (text, parameter) {
        ("wrr", _) => Ok(Balance::RoundRobin),
        ("wlc", _) => Ok(Balance::LeastRequest),
        ("sch", _) => Ok(Balance::ConsistentHash(HashKey::Source)),
        ("uch", Some(name)) => Ok(Balance::ConsistentHash(HashKey::Query(name))),
        ("uch", None) => Err("uch together with backend-scheduler-uch-value".to_owned()),
        _ => Err("wrr, wlc, sch, uch".to_owned()),
    });
    let hash = given.parse("upstream-hash-by", hash_key).map(Balance::ConsistentHash);
    // A hash is more telling than a kind.
    if let Some(balance) = hash.or(scheduler).or(balance) {
        out.part.balance = Some(balance);
    }
}

fn hash_key(text: &str) -> Result<HashKey, String> {
    let name = text.strip_prefix('$').map(|name| name.trim_matches(['{', '}'])).unwrap_or_default();
    match name {
        "request_uri" | "uri" => Ok(HashKey::Path),
        "host" | "http_host" => Ok(HashKey::Header(Arc::from("host"))),
        "remote_addr" | "binary_remote_addr" => Ok(HashKey::Source),
        _ => {
            if let Some(header) = name.strip_prefix("http_") {
                text::header_name(&header.replace('_', "-")).map(HashKey::Header)
            } else if let Some(parameter) = name.strip_prefix("arg_") {
                text::query_name(parameter).map(HashKey::Query)
            } else if let Some(cookie) = name.strip_prefix("cookie_") {
                text::cookie_name(cookie).map(HashKey::Cookie)
            } else {
                Err("$request_uri, $uri, $host, $remote_addr, $http_NAME, $arg_NAME, $cookie_NAME".to_owned())
            }
        }
    }
}

fn session(given: &mut Given<'_, '_>, out: &mut Annotations) {
    let by_cookie = given.parse("affinity", |text| match text {
        "cookie" => Ok(()),
        _ => Err("cookie".to_owned()),
    });
    let _ = given.parse("affinity-mode", |text| match text {
        "balanced" | "persistent" => Ok(()),
        _ => Err("balanced, persistent".to_owned()),
    });
    if by_cookie.is_some() {
        out.part.affinity = Some(nginx_cookie(given));
    }
    let kind = given.parse("sticky-session-type", |text| match text {
        "Insert" | "Server" => Ok(()),
        _ => Err("Insert, Server".to_owned()),
    });
    let age = given.number("cookie-timeout", 1, DAY);
    let is_sticky = given.flag("sticky-session");
    if is_sticky == Some(true) && out.part.affinity.is_none() {
        let _ = kind;
        let max_age = Some(Duration::from_secs(u64::from(age.unwrap_or(1000))));
        let attributes = Arc::from(routing::model::COOKIE_ATTRIBUTES);
        out.part.affinity = Some(CookieAffinity {
            cookie: Arc::from(ALB_COOKIE),
            path: Arc::from("/"),
            max_age,
            expires: None,
            secure_over_tls: false,
            attributes,
            across: Default::default(),
        });
    }
}

/// `affinity-canary-behavior`: is the choice between an Ingress and its canaries made anew for each request of a session?
pub(super) fn legacy_sessions(given: &mut Given<'_, '_>) -> bool {
    let read = given.parse("affinity-canary-behavior", |text| match text {
        "sticky" => Ok(false),
        "legacy" => Ok(true),
        _ => Err("sticky, legacy".to_owned()),
    });
    read.unwrap_or(false)
}

fn nginx_cookie(given: &mut Given<'_, '_>) -> CookieAffinity {
    let is_nginx = given.family("affinity") == Some(Family::Nginx);
    let cookie = given.parse("session-cookie-name", text::cookie_name);
    let path = given.parse("session-cookie-path", |path| text::path(path).map(|()| Arc::from(path)));
    let year = 31_536_000;
    let max_age = given.number("session-cookie-max-age", 0, year);
    let expires = given.number("session-cookie-expires", 0, year);
    let domain = given.parse("session-cookie-domain", |name| text::check_host(name.trim_start_matches('.')));
    let same_site = given.parse("session-cookie-samesite", |text| match text {
        "None" | "Lax" | "Strict" => Ok(text.to_owned()),
        _ => Err("None, Lax, Strict".to_owned()),
    });
    let across = match legacy_sessions(given) {
        true => AcrossBackends::Anew,
        false => AcrossBackends::Stay,
    };
    let secure = given.flag("session-cookie-secure").unwrap_or(false);
    let mut attributes = String::new();
    if let Some(domain) = domain {
        attributes += &format!("; Domain={domain}");
    }
    // Browsers take SameSite=None only of a secure cookie.
    if secure || same_site.as_deref() == Some("None") {
        attributes += "; Secure";
    }
    attributes += "; HttpOnly";
    // ingress-nginx says nothing where it is told nothing.
    let same_site = same_site.as_deref().or(if is_nginx { None } else { Some("Lax") });
    if let Some(same_site) = same_site {
        attributes += &format!("; SameSite={same_site}");
    }
    let lasts = |age: Option<u32>| age.filter(|age| *age > 0).map(|age| Duration::from_secs(u64::from(age)));
    CookieAffinity {
        cookie: cookie.unwrap_or_else(|| Arc::from(SESSION_COOKIE)),
        // Empty = the rule's, as in ingress-nginx; MSE's is for the whole host.
        path: path.unwrap_or_else(|| Arc::from(if is_nginx { "" } else { "/" })),
        max_age: lasts(max_age),
        expires: lasts(expires),
        secure_over_tls: is_nginx && !secure,
        attributes: Arc::from(attributes),
        across,
    }
}

fn detection(given: &mut Given<'_, '_>, reading: &Reading<'_>, out: &mut Annotations) {
    let ramp = given.number("warmup", 0, 3600).map(|seconds| Duration::from_secs(u64::from(seconds)));
    let check = super::checks::read(given);
    if ramp.is_some() || check.is_some() {
        let from = vec![reading.id.clone()];
        out.part.detection = Some(Arc::new(DetectionPart { ramp, check, from, ..DetectionPart::default() }));
    }
}
