//! Strings that users write, checked: hosts, paths, headers, durations, regular expressions.
//!
//! There is no text template anywhere in Ringway, so nothing here escapes: what is not plainly allowed is refused,
//! with what would be (the class of CVE-2025-1974 and its kin starts where this is not done).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use regex::bytes::{Regex, RegexBuilder};
use routing::model::{Balance, GrpcCode, GrpcCodes, HashKey, HostPattern, WildcardLabels};

/// Characters of a path (Gateway API).
pub const PATH_CHARS_MAX: usize = 1024;
/// Characters of a header value or a query value (Gateway API).
pub const VALUE_CHARS_MAX: usize = 4096;
/// Characters of a header name (Gateway API).
pub const NAME_CHARS_MAX: usize = 256;
/// Characters of a regular expression.
pub const REGEX_CHARS_MAX: usize = 1024;
/// Bytes of a compiled regular expression.
pub const REGEX_BYTES_MAX: usize = 512 * 1024;
/// The longest duration that is accepted.
pub const DURATION_MAX: Duration = Duration::from_secs(24 * 3600);
/// The largest weight (Gateway API).
pub const WEIGHT_MAX: i64 = 1_000_000;

/// What a host may look like.
const HOST_ALLOWED: &str =
    "a DNS name in lower case, or *.NAME: labels of 1 to 63 letters, digits or '-', no port, no IP address";

/// A host of a rule or of a listener. Empty and `*` alone are not hosts: the caller decides what they mean.
///
/// # Errors
/// What is allowed.
pub fn host(text: &str, labels: WildcardLabels) -> Result<HostPattern, String> {
    let (name, wildcard) = match text.strip_prefix("*.") {
        Some(suffix) => (suffix, true),
        None => (text, false),
    };
    let is_label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if text.len() > 253 || !name.split('.').all(is_label) || name.parse::<IpAddr>().is_ok() {
        return Err(HOST_ALLOWED.to_owned());
    }
    let name = Arc::from(name);
    Ok(if wildcard { HostPattern::Wildcard { suffix: name, labels } } else { HostPattern::Exact(name) })
}

/// A literal path of a match, a rewrite or a redirect.
///
/// Dot segments and empty segments are refused: the gateway resolves them before it matches, so such a path would
/// never match.
///
/// # Errors
/// What is allowed.
pub fn path(text: &str) -> Result<(), String> {
    let visible = text.bytes().all(|b| b.is_ascii_graphic());
    if !text.starts_with('/') || !visible || text.len() > PATH_CHARS_MAX || text.contains(['?', '#']) {
        return Err(format!(
            "starts with '/', at most {PATH_CHARS_MAX} visible ASCII characters, no '?' and no '#'"
        ));
    }
    let lower = text.to_ascii_lowercase();
    let has_bad_segment = text.split('/').any(|segment| segment == "." || segment == "..");
    if has_bad_segment || text.contains("//") || lower.contains("%2f") || lower.contains("%00") {
        return Err("no '//', no '.' or '..' segment, no %2f and no %00".to_owned());
    }
    Ok(())
}

/// A prefix as the table stores it: without a trailing slash, except `/` itself.
#[must_use]
pub fn prefix(path: &str) -> &str {
    match path.trim_end_matches('/') {
        "" => "/",
        trimmed => trimmed,
    }
}

/// A header name, in lower case (RFC 9110 §5.6.2).
///
/// # Errors
/// What is allowed.
pub fn header_name(text: &str) -> Result<Arc<str>, String> {
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if text.is_empty() || text.len() > NAME_CHARS_MAX || !text.bytes().all(is_token) {
        return Err(format!("1 to {NAME_CHARS_MAX} characters of a header name (RFC 9110 token)"));
    }
    Ok(Arc::from(text.to_ascii_lowercase()))
}

/// Headers that decide about framing or routing between hops: no configuration may touch them.
const HEADERS_RESERVED: [&str; 10] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// The name of a header that is to be changed.
///
/// # Errors
/// What is allowed.
pub fn edited_header(text: &str) -> Result<Arc<str>, String> {
    let name = header_name(text)?;
    if HEADERS_RESERVED.contains(&&*name) {
        return Err(format!(
            "not one of {} (the host is changed by URLRewrite)",
            HEADERS_RESERVED.join(", ")
        ));
    }
    Ok(name)
}

/// A header value (RFC 9110 §5.5), a cookie value or a query value: no control characters.
///
/// # Errors
/// What is allowed.
pub fn value(text: &str) -> Result<Arc<str>, String> {
    if text.len() > VALUE_CHARS_MAX || text.chars().any(|c| c.is_control() && c != '\t') {
        return Err(format!("at most {VALUE_CHARS_MAX} bytes, no control characters"));
    }
    Ok(Arc::from(text))
}

/// The name of a query parameter: any visible characters but `&` and `=`.
///
/// # Errors
/// What is allowed.
pub fn query_name(text: &str) -> Result<Arc<str>, String> {
    let allowed = |c: char| !c.is_control() && !c.is_whitespace() && !matches!(c, '&' | '=' | '#');
    if text.is_empty() || text.len() > NAME_CHARS_MAX || !text.chars().all(allowed) {
        return Err(format!("1 to {NAME_CHARS_MAX} characters, no spaces, '&', '=' or '#'"));
    }
    Ok(Arc::from(text))
}

/// The name of a cookie (RFC 6265 §4.1.1: a token). Case-sensitive.
///
/// # Errors
/// What is allowed.
pub fn cookie_name(text: &str) -> Result<Arc<str>, String> {
    header_name(text).map(|_| Arc::from(text)).map_err(|_| "a cookie name (RFC 6265 token)".to_owned())
}

/// A duration: numbers with `h`, `m`, `s` or `ms`, largest first or in any order (GEP-2257).
///
/// # Errors
/// What is allowed.
pub fn duration(text: &str) -> Result<Duration, String> {
    let allowed = || "a duration from 0s to 24h: 20ms, 1s, 1m30s (GEP-2257)".to_owned();
    let mut total = Duration::ZERO;
    let mut rest = text;
    let mut parts = 0;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, tail) = rest.split_at(digits);
        let unit = tail.len() - tail.trim_start_matches(|c: char| c.is_ascii_alphabetic()).len();
        let (unit, tail) = tail.split_at(unit);
        if digits == 0 || digits > 5 || parts == 4 {
            return Err(allowed());
        }
        let number: u64 = number.parse().map_err(|_| allowed())?;
        total += match unit {
            "h" => Duration::from_secs(number * 3600),
            "m" => Duration::from_secs(number * 60),
            "s" => Duration::from_secs(number),
            "ms" => Duration::from_millis(number),
            _ => return Err(allowed()),
        };
        rest = tail;
        parts += 1;
    }
    if parts == 0 || total > DURATION_MAX { Err(allowed()) } else { Ok(total) }
}

/// A duration within bounds, both included.
///
/// # Errors
/// What is allowed.
pub fn duration_between(text: &str, min: Duration, max: Duration) -> Result<Duration, String> {
    let shown = |duration: Duration| match duration.as_secs() {
        0 if duration.is_zero() => "0s".to_owned(),
        hours if hours >= 3600 && hours % 3600 == 0 => format!("{}h", hours / 3600),
        _ => format!("{duration:?}"),
    };
    let allowed =
        || format!("a duration from {} to {}, such as 20ms or 1m30s (GEP-2257)", shown(min), shown(max));
    duration(text).ok().filter(|duration| (min..=max).contains(duration)).ok_or_else(allowed)
}

/// The path of a health check, with its query if it has one.
///
/// # Errors
/// What is allowed.
pub fn check_path(text: &str) -> Result<Arc<str>, String> {
    let (path_only, query) = text.split_once('?').unwrap_or((text, ""));
    path(path_only)?;
    if !query.bytes().all(|b| b.is_ascii_graphic() && b != b'#') || query.len() > PATH_CHARS_MAX {
        return Err(format!("a query of at most {PATH_CHARS_MAX} visible ASCII characters, no '#'"));
    }
    Ok(Arc::from(text))
}

/// The `Host` of a health check: a DNS name.
///
/// # Errors
/// What is allowed.
pub fn check_host(text: &str) -> Result<Arc<str>, String> {
    match host(text, WildcardLabels::One)? {
        HostPattern::Exact(name) => Ok(name),
        HostPattern::Wildcard { .. } | HostPattern::Any => Err("a DNS name without '*'".to_owned()),
    }
}

/// The name of a gRPC service: `shop.v1.Web`.
///
/// # Errors
/// What is allowed.
pub fn grpc_service(text: &str) -> Result<Arc<str>, String> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/');
    if text.is_empty() || text.len() > 120 || !text.bytes().all(good) {
        return Err("the name of a gRPC service, 1 to 120 letters, digits, '.', '_', '-', '/'".to_owned());
    }
    Ok(Arc::from(text))
}

/// A code of gRPC that a call may be tried again for.
///
/// # Errors
/// What is allowed.
pub fn grpc_code(text: &str) -> Result<GrpcCode, String> {
    let found = GrpcCodes::RETRYABLE.into_iter().find(|(name, _)| *name == text);
    found.map(|(_, code)| code).ok_or_else(|| GrpcCodes::RETRYABLE.map(|(name, _)| name).join(", "))
}

/// `least_request`, `round_robin`, `random` or `hash(…)`.
///
/// # Errors
/// What is allowed.
pub fn balance(text: &str) -> Result<Balance, String> {
    let allowed = "least_request, round_robin, random, hash(source), hash(path), hash(header:NAME), \
                   hash(cookie:NAME) or hash(query:NAME)";
    match text {
        "least_request" => return Ok(Balance::LeastRequest),
        "round_robin" => return Ok(Balance::RoundRobin),
        "random" => return Ok(Balance::Random),
        _ => {}
    }
    let key = text.strip_prefix("hash(").and_then(|rest| rest.strip_suffix(')')).ok_or(allowed)?;
    let key = match key.split_once(':') {
        None if key == "source" => HashKey::Source,
        None if key == "path" => HashKey::Path,
        Some(("header", name)) => HashKey::Header(header_name(name)?),
        Some(("cookie", name)) => HashKey::Cookie(cookie_name(name)?),
        Some(("query", name)) => HashKey::Query(query_name(name)?),
        None | Some(_) => return Err(allowed.to_owned()),
    };
    Ok(Balance::ConsistentHash(key))
}

/// A number within bounds.
///
/// # Errors
/// What is allowed.
pub fn bounded<T: TryFrom<i64>>(number: i64, min: i64, max: i64) -> Result<T, String> {
    let allowed = || format!("{min} to {max}");
    if number < min || number > max {
        return Err(allowed());
    }
    T::try_from(number).map_err(|_| allowed())
}

/// Compiled regular expressions, each text once: a hundred routes with one pattern share it.
#[derive(Debug, Default)]
pub struct Regexes {
    compiled: HashMap<String, Result<Regex, String>>,
}

/// Patterns remembered; beyond it all are forgotten and compiled again when needed.
const REGEXES_MAX: usize = 10_000;

impl Regexes {
    /// The pattern, anchored at both ends. Matching is linear in the input whatever the pattern is.
    ///
    /// # Errors
    /// What is wrong with it, or which limit it breaks.
    pub fn anchored(&mut self, pattern: &str) -> Result<Regex, String> {
        if let Some(known) = self.compiled.get(pattern) {
            return known.clone();
        }
        if self.compiled.len() >= REGEXES_MAX {
            self.compiled.clear();
        }
        let compiled = compile(pattern);
        self.compiled.insert(pattern.to_owned(), compiled.clone());
        compiled
    }
}

fn compile(pattern: &str) -> Result<Regex, String> {
    if pattern.is_empty() || pattern.len() > REGEX_CHARS_MAX || pattern.chars().any(char::is_control) {
        return Err(format!("1 to {REGEX_CHARS_MAX} characters, no control characters"));
    }
    let build = |text: &str| {
        RegexBuilder::new(text)
            .unicode(false)
            .size_limit(REGEX_BYTES_MAX)
            .dfa_size_limit(REGEX_BYTES_MAX)
            .nest_limit(64)
            .build()
    };
    // Alone first: `a)|(b` would be well-formed between the anchoring parentheses.
    build(pattern).and_then(|_| build(&format!("^(?:{pattern})$"))).map_err(|error| {
        if let regex::Error::CompiledTooBig(_) = error {
            return format!("compiles to more than {REGEX_BYTES_MAX} bytes");
        }
        let text = error.to_string();
        let last = text.lines().last().unwrap_or_default().trim();
        format!("not a regular expression (RE2 syntax): {last}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_dns_names_and_nothing_else() {
        for good in ["a", "shop.example", "*.shop.example", "xn--bcher-kva.example", "shop.localhost"] {
            assert!(host(good, WildcardLabels::One).is_ok(), "{good}");
        }
        let long = "a.".repeat(130);
        for bad in
            ["", "*", "*.*.x", "a..b", "A.b", "a:80", "1.2.3.4", "a_b.c", "-a.b", "a.b.", "a\n.b", &long]
        {
            assert!(host(bad, WildcardLabels::One).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn paths_that_could_never_match_are_refused() {
        for good in ["/", "/a", "/a/", "/a/b.c/%20", "/.well-known/x"] {
            assert!(path(good).is_ok(), "{good}");
        }
        for bad in
            ["", "a", "/a//b", "/a/../b", "/..", "/a/.", "/a%2Fb", "/a b", "/a\n", "/a?b", "/a#b", "/a%00"]
        {
            assert!(path(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn durations_have_units_and_bounds() {
        assert_eq!(duration("20ms"), Ok(Duration::from_millis(20)));
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        for bad in ["", "1", "s", "1x", "-1s", "25h", "999999s", "1s1s1s1s1s", "1.5s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_pattern_cannot_escape_its_anchors_or_its_size() {
        let mut regexes = Regexes::default();
        assert!(regexes.anchored("a)|(b").is_err());
        assert!(regexes.anchored("(a{1000}){1000}").is_err());
        assert!(regexes.anchored(&"(".repeat(2000)).is_err());
        assert!(regexes.anchored("x\ny").is_err());
        let ok = regexes.anchored("/a|/b").unwrap();
        assert!(ok.is_match(b"/a") && !ok.is_match(b"/ab") && !ok.is_match(b"x/b"));
    }

    #[test]
    fn framing_headers_cannot_be_changed() {
        for bad in ["Transfer-Encoding", "host", "Content-Length", "connection", "a b", "a\r\nb", ""] {
            assert!(edited_header(bad).is_err(), "{bad:?}");
        }
        assert_eq!(edited_header("X-A").unwrap().as_ref(), "x-a");
        assert!(value("a\r\nb").is_err());
    }
}
