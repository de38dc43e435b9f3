//! ALB's health checks, in its grammar of seconds: `healthcheck-*`, `healthy-threshold-count`.
//!
//! A check that would ask something else than what was meant is not made at all: it would take healthy endpoints out.

use std::time::Duration;

use routing::model::{CHECK_CODE_MAX, CheckCodes, CheckMethod, CheckVersion, HttpAsks, StatusClasses};

use super::given::Given;
use crate::compile::policy::detection::{CheckPart, CheckProtocol};
use crate::text;

/// Characters of a path.
const PATH_CHARS_MAX: usize = 80;
/// Ranges of codes of gRPC.
const RANGES_MAX: usize = 20;
const UNMADE: &str = "; no check is made";
const CLASSES: &str = "http_2xx, http_3xx, http_4xx, http_5xx by comma";
const CODES: &str = "of GRPC 1 to 20 codes or ranges from 0 to 99, by comma";

/// What is asked, in the words of the annotation.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    Http,
    /// HTTP, and over TLS on a port of the check's own, too.
    Https,
    Tcp,
    Grpc,
}

pub(super) fn read(given: &mut Given<'_, '_>) -> Option<CheckPart> {
    if given.flag("healthcheck-enabled") != Some(true) {
        return None;
    }
    let asked = needed(given, "healthcheck-protocol", |text| match text {
        "HTTP" => Ok(Asked::Http),
        "HTTPS" => Ok(Asked::Https),
        "TCP" => Ok(Asked::Tcp),
        "GRPC" => Ok(Asked::Grpc),
        _ => Err("HTTP, HTTPS, TCP, GRPC".to_owned()),
    });
    let asked = asked.map(|asked| asked.unwrap_or(Asked::Http));
    let port = needed(given, "healthcheck-connect-port", |text| {
        text.parse::<u16>().map_err(|_| "0 to 65535".to_owned())
    });
    let rhythm = rhythm(given);
    // Read one by one before any of them decides, so that each gets its verdict.
    let part = match asked {
        Ok(Asked::Tcp) => {
            unasked(given, "a connect asks for nothing");
            Ok(CheckPart { protocol: Some(CheckProtocol::Tcp), ..rhythm })
        }
        Ok(Asked::Grpc) => grpc(given, rhythm),
        Ok(asked @ (Asked::Http | Asked::Https)) => {
            let has_port = port.is_ok_and(|port| port.is_some_and(|port| port > 0));
            http(given, rhythm, asked == Asked::Http && has_port)
        }
        Err(Unreadable) => Err(Unreadable),
    };
    let (Ok(part), Ok(port)) = (part, port) else { return None };
    let port = port.filter(|port| *port > 0);
    if part.protocol == Some(CheckProtocol::Grpc) && port.is_some() {
        given.ignore("healthcheck-connect-port", "checks of GRPC go to the endpoint's own port");
        return Some(part);
    }
    Some(CheckPart { port, ..part })
}

/// It is there, and cannot be read.
#[derive(Clone, Copy)]
struct Unreadable;

/// Without it there is no check.
fn needed<T>(
    given: &mut Given<'_, '_>,
    name: &str,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<Option<T>, Unreadable> {
    let read = given.parse(name, |text| parse(text).map_err(|allowed| format!("{allowed}{UNMADE}")));
    if read.is_none() && given.family(name).is_some() { Err(Unreadable) } else { Ok(read) }
}

/// How often, and what follows. What is wrong of it is as if it were not there.
fn rhythm(given: &mut Given<'_, '_>) -> CheckPart {
    let seconds = |number: u32| Some(Duration::from_secs(u64::from(number)));
    CheckPart {
        timeout: seconds(given.number("healthcheck-timeout-seconds", 1, 300).unwrap_or(5)),
        interval: seconds(given.number("healthcheck-interval-seconds", 1, 50).unwrap_or(2)),
        healthy_threshold: Some(given.number("healthy-threshold-count", 2, 10).unwrap_or(3)),
        unhealthy_threshold: Some(given.number("unhealthy-threshold-count", 2, 10).unwrap_or(3)),
        ..CheckPart::default()
    }
}

fn http(given: &mut Given<'_, '_>, rhythm: CheckPart, in_clear: bool) -> Result<CheckPart, Unreadable> {
    let path = needed(given, "healthcheck-path", |path| match path.len() {
        1..=PATH_CHARS_MAX => text::check_path(path),
        _ => Err(format!("a path of 1 to {PATH_CHARS_MAX} characters")),
    });
    let method = needed(given, "healthcheck-method", |text| match text {
        "HEAD" => Ok(CheckMethod::Head),
        "GET" => Ok(CheckMethod::Get),
        _ => Err("HEAD, GET; of GRPC POST".to_owned()),
    });
    let version = needed(given, "healthcheck-httpversion", |text| match text {
        "HTTP1.0" => Ok(CheckVersion::Http10),
        "HTTP1.1" => Ok(CheckVersion::Http11),
        _ => Err("HTTP1.0, HTTP1.1".to_owned()),
    });
    let good = codes(given, |text| classes(text).ok_or_else(|| CLASSES.to_owned()));
    let asks = HttpAsks {
        method: method?.unwrap_or(CheckMethod::Head),
        version: version?.unwrap_or_default(),
        good: good?.unwrap_or_else(|| [2].into_iter().collect()),
        in_clear,
    };
    Ok(CheckPart { protocol: Some(CheckProtocol::Http), path: path?, asks: Some(asks), ..rhythm })
}

fn grpc(given: &mut Given<'_, '_>, rhythm: CheckPart) -> Result<CheckPart, Unreadable> {
    for name in ["healthcheck-path", "healthcheck-httpversion"] {
        given.ignore(name, "a check of GRPC asks grpc.health.v1.Health/Check over HTTP/2");
    }
    let method = needed(given, "healthcheck-method", |text| match text {
        "POST" | "GET" | "HEAD" => Ok(text == "POST"),
        _ => Err("POST, GET, HEAD".to_owned()),
    });
    if method?.is_some_and(|is_post| !is_post) {
        given.ignore("healthcheck-method", "calls of gRPC are made with POST");
    }
    let good = codes(given, |text| ranges(text).ok_or_else(|| CODES.to_owned()))?;
    Ok(CheckPart { protocol: Some(CheckProtocol::Grpc), good, ..rhythm })
}

/// What a connect has no use for.
fn unasked(given: &mut Given<'_, '_>, why: &str) {
    for name in ["path", "method", "httpversion", "httpcode", "code"] {
        given.ignore(&format!("healthcheck-{name}"), why);
    }
}

/// `healthcheck-code`, or else `healthcheck-httpcode`.
fn codes<T>(
    given: &mut Given<'_, '_>,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<Option<T>, Unreadable> {
    if given.family("healthcheck-code").is_none() {
        return needed(given, "healthcheck-httpcode", parse);
    }
    given.ignore("healthcheck-httpcode", "healthcheck-code comes first");
    needed(given, "healthcheck-code", parse)
}

fn classes(text: &str) -> Option<StatusClasses> {
    let class = |code: &str| match code.trim() {
        "http_2xx" => Some(2),
        "http_3xx" => Some(3),
        "http_4xx" => Some(4),
        "http_5xx" => Some(5),
        _ => None,
    };
    text.split(',').map(class).collect()
}

fn ranges(text: &str) -> Option<CheckCodes> {
    let ranges: Vec<&str> = text.split(',').collect();
    if ranges.len() > RANGES_MAX {
        return None;
    }
    let read = ranges.into_iter().map(|range| {
        let (first, last) = range.trim().split_once('-').unwrap_or((range.trim(), range.trim()));
        let (first, last) = (first.parse::<u8>().ok()?, last.parse::<u8>().ok()?);
        (first <= last && last <= CHECK_CODE_MAX).then_some(first..=last)
    });
    let read: Option<Vec<_>> = read.collect();
    read.map(|ranges| ranges.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_single_or_ranges_and_not_many() {
        let good = ranges("0, 12,50-99").unwrap();
        assert!([0, 12, 50, 99].into_iter().all(|code| good.contains(code)) && !good.contains(49));
        for bad in ["", "100", "9-1", "a", "0-", "-1", "1;2"] {
            assert_eq!(ranges(bad), None, "{bad}");
        }
        assert_eq!(ranges(&["1"; RANGES_MAX + 1].join(",")), None);
        assert_eq!(classes("http_2xx,http_4xx"), Some([2, 4].into_iter().collect()));
        assert_eq!(classes("http_2xx,200"), None);
    }
}
