//! External authentication: `auth-url` and its kin.
//!
//! nginx's variables in these URLs are a closed list of facts ([`UrlPart`]); there is no template language. A URL names a
//! Service, or a host that this gateway serves itself: nothing outside of what the table knows is ever asked, so that no
//! annotation makes the gateway connect to an address of somebody's choice.

use std::sync::Arc;

use routing::model::{HostPattern, Method, UrlPart, UrlTemplate, WildcardLabels};

use super::address::method;
use super::given::Given;
use super::protect::secret_name;
use super::traffic::service_name;
use super::{Annotations, Reading};
use crate::text;
use crate::world::ServiceName;

/// Fields of the answer that a request may go on with.
const PASSES_MAX: usize = 64;
/// Characters of a URL.
const URL_CHARS_MAX: usize = 2048;
const CLOSED: &str = "; the rules answer 503 instead of being open";
/// The parameter that says where to go after signing in.
const REDIRECT_PARAM: &str = "rd";

/// nginx's variables that say something here, longest first where one begins another.
const VARIABLES: [(&str, UrlPart); 13] = [
    ("$escaped_request_uri", UrlPart::EscapedTarget),
    ("$pass_access_scheme", UrlPart::Scheme),
    ("$best_http_host", UrlPart::Authority),
    ("$request_method", UrlPart::Method),
    ("$query_string", UrlPart::Query),
    ("$request_uri", UrlPart::Target),
    ("$server_name", UrlPart::Host),
    ("$http_host", UrlPart::Authority),
    ("$scheme", UrlPart::Scheme),
    ("$is_args$args", UrlPart::Query),
    ("$args", UrlPart::Query),
    ("$host", UrlPart::Host),
    ("$uri", UrlPart::Path),
];

/// `auth-url` and its kin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalSpec {
    /// Who is asked.
    pub to: Asked,
    /// Path and query.
    pub target: UrlTemplate,
    /// `auth-method`
    pub method: Method,
    /// `auth-signin`
    pub signin: Option<UrlTemplate>,
    /// `auth-request-redirect`
    pub redirect: UrlTemplate,
    /// `auth-response-headers`
    pub passes: Vec<Arc<str>>,
    /// `auth-always-set-cookie`
    pub always_sets_cookie: bool,
    /// `auth-proxy-set-headers`: the ConfigMap with fields of the question, by namespace and name.
    pub fields: Option<(Arc<str>, Arc<str>)>,
}

/// Whom `auth-url` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// A Service, as DNS in a cluster names it.
    Service {
        /// Which.
        service: ServiceName,
        /// Its port.
        port: u16,
        /// Over TLS?
        secure: bool,
        /// As the URL writes it.
        host: Arc<str>,
    },
    /// A host that the gateway serves; `None` = the request's own.
    Host(Option<Arc<str>>),
}

pub(super) fn read(given: &mut Given<'_, '_>, reading: &Reading<'_>, out: &mut Annotations) {
    if given.family("auth-url").is_none() {
        return;
    }
    let url = given.parse("auth-url", |text| url(text).map_err(|allowed| format!("{allowed}{CLOSED}")));
    let mut good = url.is_some();
    let mut needed = |given: &Given<'_, '_>, name: &str, found: bool| {
        good &= found || given.family(name).is_none();
    };
    let asked_by = given.parse("auth-method", |text| {
        method(text)
            .ok()
            .filter(|method| !matches!(method, Method::Connect | Method::Trace))
            .ok_or_else(|| format!("GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH{CLOSED}"))
    });
    needed(given, "auth-method", asked_by.is_some());
    let passes = given
        .parse("auth-response-headers", |text| passes(text).map_err(|allowed| format!("{allowed}{CLOSED}")));
    needed(given, "auth-response-headers", passes.is_some());
    let own = &reading.id.namespace;
    let fields = given.parse("auth-proxy-set-headers", |text| {
        config_map_name(text, own).map_err(|allowed| format!("{allowed}{CLOSED}"))
    });
    needed(given, "auth-proxy-set-headers", fields.is_some());
    let parameter = given.parse("auth-signin-redirect-param", text::query_name);
    let signin = given.parse("auth-signin", |text| signin(text, parameter.as_deref()));
    let redirect = given.parse("auth-request-redirect", parts);
    let always_sets_cookie = given.flag("auth-always-set-cookie").unwrap_or(false);
    match url {
        Some((to, target)) if good => {
            out.checks.external = Some(ExternalSpec {
                to,
                target,
                method: asked_by.unwrap_or(Method::Get),
                signin,
                redirect: redirect.unwrap_or_else(|| Box::new([UrlPart::Target])),
                passes: passes.unwrap_or_default(),
                always_sets_cookie,
                fields,
            });
        }
        Some(_) | None => {
            out.closed.get_or_insert_with(|| Arc::from("auth-url"));
        }
    }
}

/// `NAME` of the Ingress's own namespace, or `NAMESPACE/NAME`.
pub(super) fn config_map_name(text: &str, own: &Arc<str>) -> Result<(Arc<str>, Arc<str>), String> {
    secret_name(text, own).map_err(|_| "[NAMESPACE/]NAME of a ConfigMap".to_owned())
}

/// A field's value with facts of the request: `$` and the names of [`VARIABLES`].
pub(crate) fn field_value(text: &str) -> Result<UrlTemplate, String> {
    text::value(text)?;
    with_variables(text)
}

/// Who is asked, and for what.
fn url(text: &str) -> Result<(Asked, UrlTemplate), String> {
    let allowed = || {
        "http or https, then SERVICE.NAMESPACE.svc[.cluster.local][:PORT], or $host or a host that this gateway serves, then a \
         path; nothing outside is asked: give it a Service with an EndpointSlice of its addresses"
            .to_owned()
    };
    let mut schemes = [("https://", true), ("http://", false), ("$scheme://", false)].into_iter();
    let (rest, secure) = schemes
        .find_map(|(scheme, secure)| Some((text.strip_prefix(scheme)?, secure)))
        .ok_or_else(allowed)?;
    let end = rest.char_indices().skip(1).find(|(_, c)| matches!(c, '/' | '?' | '$'));
    let (authority, target) = rest.split_at(end.map_or(rest.len(), |(at, _)| at));
    let is_path = ["/", "$uri", "$request_uri"].iter().any(|start| target.starts_with(start));
    let slash = if is_path { "" } else { "/" };
    let target = parts(&format!("{slash}{target}"))?;
    if ["$host", "$http_host", "$best_http_host", "$server_name"].contains(&authority) {
        return Ok((Asked::Host(None), target));
    }
    let (name, port) = match authority.rsplit_once(':') {
        Some((name, port)) => (name, Some(port.parse().ok().filter(|port| *port > 0).ok_or_else(allowed)?)),
        None => (authority, None),
    };
    match text::host(name, WildcardLabels::One) {
        Ok(HostPattern::Exact(_)) => {}
        Ok(HostPattern::Wildcard { .. } | HostPattern::Any) | Err(_) => return Err(allowed()),
    }
    let labels: Vec<&str> = name.split('.').collect();
    // A name that ends in a number is an address in one of its spellings (WHATWG URL, "ends in a number").
    if labels.last().is_some_and(|last| last.starts_with("0x") || last.bytes().all(|b| b.is_ascii_digit())) {
        return Err(allowed());
    }
    let to = match labels[..] {
        [service, namespace, "svc", ..] => {
            let (namespace, name) = (service_name(namespace)?, service_name(service)?);
            let service = ServiceName { namespace, name };
            let port = port.unwrap_or(if secure { 443 } else { 80 });
            Asked::Service { service, port, secure, host: Arc::from(authority) }
        }
        [_, ..] | [] => Asked::Host(Some(Arc::from(authority))),
    };
    Ok((to, target))
}

/// What a URL consists of.
pub(super) fn parts(text: &str) -> Result<UrlTemplate, String> {
    let visible =
        text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'<' | b'>' | b'\\' | b'#'));
    if !visible || text.is_empty() || text.len() > URL_CHARS_MAX {
        return Err(format!("1 to {URL_CHARS_MAX} visible ASCII characters of a URL"));
    }
    with_variables(text)
}

fn with_variables(text: &str) -> Result<UrlTemplate, String> {
    let names = || VARIABLES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let (mut out, mut rest) = (Vec::new(), text);
    while let Some(at) = rest.find('$') {
        let (before, behind) = rest.split_at(at);
        if !before.is_empty() {
            out.push(UrlPart::Text(Arc::from(before)));
        }
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let found = VARIABLES
            .iter()
            .find(|(name, _)| behind.strip_prefix(name).is_some_and(|behind| !behind.starts_with(is_word)));
        let (name, part) = found.ok_or_else(|| format!("no variables ('$') but {}", names()))?;
        out.push(part.clone());
        rest = &behind[name.len()..];
    }
    if !rest.is_empty() {
        out.push(UrlPart::Text(Arc::from(rest)));
    }
    Ok(out.into())
}

/// Where to sign in; where the request wanted to go is added, unless the URL says so itself.
fn signin(text: &str, parameter: Option<&str>) -> Result<UrlTemplate, String> {
    let starts = ["http://", "https://", "$scheme://", "$pass_access_scheme://"];
    let is_path = text.starts_with('/') && !text.starts_with("//");
    if !is_path && !starts.iter().any(|start| text.starts_with(start)) {
        return Err("an http or https URL, or a path".to_owned());
    }
    let mut out = parts(text)?.into_vec();
    let parameter = parameter.unwrap_or(REDIRECT_PARAM);
    let query = text.split_once('?').map(|(_, query)| query);
    let says = |query: &str| query.split('&').any(|pair| pair.split('=').next() == Some(parameter));
    if !query.is_some_and(says) {
        let sign = if query.is_some() { '&' } else { '?' };
        out.push(UrlPart::Text(Arc::from(format!("{sign}{parameter}="))));
        let there = [UrlPart::Scheme, UrlPart::Text(Arc::from("://")), UrlPart::Authority];
        out.extend(there);
        out.push(UrlPart::EscapedTarget);
    }
    Ok(out.into())
}

fn passes(text: &str) -> Result<Vec<Arc<str>>, String> {
    let names: Vec<&str> = text.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    if names.is_empty() || names.len() > PASSES_MAX {
        return Err(format!("1 to {PASSES_MAX} header names by comma"));
    }
    names.into_iter().map(text::edited_header).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(text: &str) -> Option<Asked> {
        url(text).ok().map(|(asked, _)| asked)
    }

    #[test]
    fn a_url_names_a_service_or_a_host_of_the_gateway_and_nothing_else() {
        let service = |port, secure, host: &str| Asked::Service {
            service: ServiceName { namespace: Arc::from("auth"), name: Arc::from("proxy") },
            port,
            secure,
            host: Arc::from(host),
        };
        for (text, wanted) in [
            ("http://proxy.auth.svc.cluster.local/x", service(80, false, "proxy.auth.svc.cluster.local")),
            ("https://proxy.auth.svc", service(443, true, "proxy.auth.svc")),
            ("http://proxy.auth.svc:4180/oauth2/auth?x", service(4180, false, "proxy.auth.svc:4180")),
            ("https://$host/oauth2/auth", Asked::Host(None)),
            ("https://$host$uri", Asked::Host(None)),
            ("$scheme://$http_host/a", Asked::Host(None)),
            ("https://auth.example/a", Asked::Host(Some(Arc::from("auth.example")))),
        ] {
            assert_eq!(asked(text), Some(wanted), "{text}");
        }
        for bad in [
            "",
            "proxy",
            "ftp://proxy.auth.svc/",
            "http://",
            "http:///x",
            "http://169.254.169.254/latest/meta-data",
            "http://127.0.0.1:9901/",
            "http://[::1]/",
            "http://2130706433/",
            "http://user@auth.example/",
            "http://$arg_to/",
            "http://auth.example:0/",
            "http://auth.example/$http_cookie",
            "http://auth.example/a b",
            "http://*.example/",
        ] {
            assert_eq!(asked(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_page_to_sign_in_is_told_where_to_go_back_to_once() {
        let there = |sign: &str| {
            vec![
                UrlPart::Text(Arc::from(sign)),
                UrlPart::Scheme,
                UrlPart::Text(Arc::from("://")),
                UrlPart::Authority,
                UrlPart::EscapedTarget,
            ]
        };
        for (text, parameter, wanted) in [
            ("/in", None, Some("?rd=")),
            ("/in?a=b", None, Some("&rd=")),
            ("/in?rd=x", None, None),
            ("/in?rd=x", Some("to"), Some("&to=")),
            ("/in?to=x", Some("to"), None),
        ] {
            let mut all = vec![UrlPart::Text(Arc::from(text))];
            all.extend(wanted.map(there).unwrap_or_default());
            assert_eq!(signin(text, parameter).unwrap().into_vec(), all, "{text}");
        }
        assert!(signin("//evil.example", None).is_err());
        assert!(signin("javascript:alert(1)", None).is_err());
    }
}
