//! Hosts and paths: regular expressions, rewrites, redirects, aliases.

use std::sync::Arc;

use routing::model::{
    FixedResponse, HostPattern, HttpsRedirect, Method, Predicate, ValueMatch, ValuePattern, WildcardLabels,
};

use super::given::Given;
use super::registry::Family;
use super::{Annotations, Reading};
use crate::text;

/// How the paths of an Ingress are matched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Matching {
    /// By their `pathType`.
    #[default]
    Typed,
    /// As regular expressions that hold from the path's beginning.
    RegexPrefix,
    /// As regular expressions that hold for the whole path.
    RegexFull,
}

/// What annotations say of hosts, paths and redirects.
#[derive(Clone, Debug, Default)]
pub struct Address {
    /// How paths are matched.
    pub matching: Matching,
    /// Are they matched without case?
    pub ignore_case: bool,
    /// `rewrite-target`.
    pub target: Option<Arc<str>>,
    /// `upstream-vhost`.
    pub upstream_host: Option<Arc<str>>,
    /// `server-alias`.
    pub aliases: Vec<HostPattern>,
    /// `app-root`.
    pub app_root: Option<Arc<str>>,
    /// `permanent-redirect`, `temporal-redirect`.
    pub redirect: Option<Arc<FixedResponse>>,
    /// `from-to-www-redirect`.
    pub www: bool,
    /// `ssl-redirect` without force: it holds for hosts that have TLS.
    pub https_with_tls: bool,
}

/// Aliases of one Ingress.
const ALIASES_MAX: usize = 64;

pub(super) fn read(given: &mut Given<'_, '_>, reading: &mut Reading<'_>, out: &mut Annotations) {
    let address = &mut out.address;
    address.target = given.parse("rewrite-target", template);
    let captures = address.target.as_deref().is_some_and(has_captures);
    let regex = given.flag("use-regex").unwrap_or(false);
    if regex || captures {
        address.matching = Matching::RegexPrefix;
        let by_nginx = |name| given.family(name) == Some(Family::Nginx);
        // ingress-nginx writes `location ~*`.
        address.ignore_case = by_nginx("use-regex") || by_nginx("rewrite-target");
    }
    if given.flag("full-path-regex") == Some(true) {
        address.matching = Matching::RegexFull;
    }
    if let Some(ignores) = given.flag("ignore-path-case") {
        address.ignore_case = ignores;
    }
    if let Some(path) = given.parse("rewrite-path", |path| text::path(path).map(|()| path.to_owned())) {
        out.rewrite_prefix = Some(Arc::from(path.trim_end_matches('/')));
    }
    address.upstream_host = given.parse("upstream-vhost", text::check_host);
    address.aliases = given.parse("server-alias", aliases).unwrap_or_default();
    address.www = given.flag("from-to-www-redirect").unwrap_or(false);
    address.app_root = given.parse("app-root", |path| text::path(path).map(|()| Arc::from(path)));
    redirects(given, out);
    conditions(given, reading, out);
    // Whatever it says: see the registry.
    let _ = given.flag("relative-redirects");
    let order = given.number("order", 1, 1000);
    out.order = order.and_then(|order| u16::try_from(order).ok());
    out.ports = given.parse("listen-ports", listen_ports);
}

/// A rewritten path: what a path may hold, and references to captures.
fn template(text: &str) -> Result<Arc<str>, String> {
    let visible = text.bytes().all(|b| b.is_ascii_graphic());
    let starts = text.starts_with('/') || text.starts_with('$');
    if !visible || !starts || text.len() > text::PATH_CHARS_MAX || text.contains(['?', '#', '\\']) {
        return Err(format!(
            "begins with '/' or '$', at most {} visible ASCII characters, no '?', '#' or '\\'",
            text::PATH_CHARS_MAX
        ));
    }
    Ok(Arc::from(text))
}

fn has_captures(template: &str) -> bool {
    let mut pairs = template.split('$').skip(1);
    pairs.any(|rest| rest.trim_start_matches('{').starts_with(|c: char| c.is_ascii_digit()))
}

fn aliases(text: &str) -> Result<Vec<HostPattern>, String> {
    let names: Vec<&str> = text.split([',', ' ']).map(str::trim).filter(|name| !name.is_empty()).collect();
    if names.is_empty() || names.len() > ALIASES_MAX {
        return Err(format!("1 to {ALIASES_MAX} hosts by comma"));
    }
    names.into_iter().map(|name| text::host(name, WildcardLabels::One)).collect()
}

/// The value of Location: an absolute URL of http or https, or a path.
pub(super) fn location(text: &str) -> Result<Arc<str>, String> {
    let is_absolute =
        ["http://", "https://"].iter().any(|scheme| text.len() > scheme.len() && text.starts_with(scheme));
    let is_path = text.starts_with('/') && !text.starts_with("//");
    let visible = text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'<' | b'>' | b'\\'));
    if !(is_absolute || is_path) || !visible || text.len() > text::VALUE_CHARS_MAX || text.contains('$') {
        return Err(
            "an http or https URL, or a path; visible ASCII characters, no variables ('$')".to_owned()
        );
    }
    Ok(Arc::from(text))
}

fn redirect_status(text: &str) -> Result<u16, String> {
    let status = text.parse().ok().filter(|status| [301, 302, 303, 307, 308].contains(status));
    status.ok_or_else(|| "301, 302, 303, 307, 308".to_owned())
}

fn redirects(given: &mut Given<'_, '_>, out: &mut Annotations) {
    for (name, code, default) in [
        ("temporal-redirect", "temporal-redirect-code", 302),
        ("permanent-redirect", "permanent-redirect-code", 301),
    ] {
        let Some(location) = given.parse(name, location) else { continue };
        let status = given.parse(code, redirect_status).unwrap_or(default);
        if out.address.redirect.is_some() {
            given.ignore(name, "temporal-redirect comes first");
            continue;
        }
        let answer = FixedResponse { status, location, ..FixedResponse::default() };
        out.address.redirect = Some(Arc::new(answer));
    }
    let forced = given.flag("force-ssl-redirect").unwrap_or(false);
    let asked = given.flag("ssl-redirect").unwrap_or(false);
    let by_alb = given.family("ssl-redirect") == Some(Family::Alb);
    if forced || asked {
        out.checks.https = Some(HttpsRedirect { status: 308, port: 443 });
        out.address.https_with_tls = !forced && !by_alb;
    }
}

/// Higress's own conditions.
fn conditions(given: &mut Given<'_, '_>, reading: &mut Reading<'_>, out: &mut Annotations) {
    out.methods =
        given.parse("match-method", |text| text.split_whitespace().map(method).collect()).unwrap_or_default();
    for (what, is_header) in [("header", true), ("query", false)] {
        for kind in ["exact", "prefix", "regex"] {
            for (name, full) in given.rests(&format!("{kind}-match-{what}-")) {
                let found = given.parse(full, |value| {
                    let name = if is_header { text::header_name(name)? } else { text::query_name(name)? };
                    let value = match kind {
                        "exact" => ValuePattern::Exact(text::value(value)?),
                        "prefix" => {
                            ValuePattern::Regex(reading.regexes.anchored(&format!("{}.*", escaped(value)))?)
                        }
                        _ => ValuePattern::Regex(reading.regexes.anchored(value)?),
                    };
                    let value = ValueMatch { name, value };
                    Ok(if is_header { Predicate::Header(value) } else { Predicate::Query(value) })
                });
                out.more.extend(found);
            }
        }
    }
}

/// Characters as a regular expression that means just them.
pub fn escaped(text: &str) -> String {
    regex::escape(text)
}

pub(super) fn method(text: &str) -> Result<Method, String> {
    match Method::from_bytes(text.as_bytes()) {
        Method::Other => Err("GET, HEAD, POST, PUT, DELETE, CONNECT, OPTIONS, TRACE, PATCH".to_owned()),
        method @ (Method::Get
        | Method::Head
        | Method::Post
        | Method::Put
        | Method::Delete
        | Method::Connect
        | Method::Options
        | Method::Trace
        | Method::Patch) => Ok(method),
    }
}

/// `[{"HTTP":80},{"HTTPS":443}]`: ports, whatever is spoken there.
fn listen_ports(text: &str) -> Result<Vec<u16>, String> {
    let allowed = || r#"a JSON list such as [{"HTTP":80},{"HTTPS":443}]"#.to_owned();
    let list: Vec<std::collections::BTreeMap<String, u16>> =
        serde_json::from_str(text).map_err(|_| allowed())?;
    let entries: Vec<(String, u16)> = list.into_iter().flatten().collect();
    if entries.is_empty()
        || entries.iter().any(|(kind, _)| !["HTTP", "HTTPS", "QUIC"].contains(&kind.as_str()))
    {
        return Err(allowed());
    }
    Ok(entries.into_iter().map(|(_, port)| port).collect())
}
