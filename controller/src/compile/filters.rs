//! `HTTPRoute` filters: header changes, redirects, rewrites. What cannot be honoured makes the rule answer 500, as
//! the Gateway API demands: a filter that is silently skipped may be one that protects something.

use std::sync::Arc;

use gateway_api::experimental::httproutes as api;
use routing::model::{HeaderEdits, PathMatch, PathRewrite, Redirect, Rewrite, WildcardLabels};

use crate::compile::ingress::strip_root;
use crate::text;
use crate::verdict::Notes;

/// Header changes of one filter; more make the rule answer 500.
pub const EDITS_MAX: usize = 64;

/// What the filters of a rule, or of one of its backends, amount to.
#[derive(Clone, Debug, Default)]
pub struct Filters {
    /// Changes to the request.
    pub request_headers: HeaderEdits,
    /// Changes to the response.
    pub response_headers: HeaderEdits,
    /// The redirect, if there is one.
    pub redirect: Option<RedirectSpec>,
    /// `urlRewrite.hostname`.
    pub hostname: Option<Arc<str>>,
    /// `urlRewrite.path`.
    pub path: Option<PathSpec>,
    /// Why the rule must answer 500, if it must.
    pub broken: Option<String>,
}

/// A path modifier before it is known which prefix was matched.
#[derive(Clone, Debug)]
pub enum PathSpec {
    /// `ReplaceFullPath`.
    Full(Arc<str>),
    /// `ReplacePrefixMatch`.
    Prefix(Arc<str>),
}

/// A redirect before it is known which prefix was matched.
#[derive(Clone, Debug, Default)]
pub struct RedirectSpec {
    scheme: Option<Arc<str>>,
    hostname: Option<Arc<str>>,
    path: Option<PathSpec>,
    port: Option<u16>,
    status: u16,
}

/// Header names and values as given.
type Given<'a> = Vec<(&'a str, &'a str)>;

fn edits(set: Given<'_>, add: Given<'_>, remove: &[String]) -> Result<HeaderEdits, String> {
    if set.len() + add.len() + remove.len() > EDITS_MAX {
        return Err(format!("at most {EDITS_MAX} header changes"));
    }
    let pairs = |given: Given<'_>| -> Result<Box<[(Arc<str>, Arc<str>)]>, String> {
        given
            .into_iter()
            .map(|(name, value)| {
                let at = |allowed| format!("{}: {allowed}", crate::verdict::shown(name));
                Ok((text::edited_header(name).map_err(at)?, text::value(value).map_err(at)?))
            })
            .collect()
    };
    let remove = remove.iter().map(|name| text::edited_header(name)).collect::<Result<_, _>>()?;
    Ok(HeaderEdits { set: pairs(set)?, add: pairs(add)?, remove })
}

fn path_spec(full: Option<&String>, prefix: Option<&String>) -> Result<PathSpec, String> {
    match (full, prefix) {
        (Some(path), None) => text::path(path).map(|()| PathSpec::Full(Arc::from(path.as_str()))),
        (None, Some(path)) => {
            // An empty replacement strips the prefix.
            if !path.is_empty() {
                text::path(path)?;
            }
            Ok(PathSpec::Prefix(Arc::from(path.trim_end_matches('/'))))
        }
        (Some(_), Some(_)) | (None, None) => {
            Err("exactly one of replaceFullPath, replacePrefixMatch".to_owned())
        }
    }
}

fn hostname(given: Option<&String>) -> Result<Option<Arc<str>>, String> {
    let Some(given) = given else { return Ok(None) };
    match text::host(given, WildcardLabels::One)? {
        routing::model::HostPattern::Exact(host) => Ok(Some(host)),
        routing::model::HostPattern::Wildcard { .. } | routing::model::HostPattern::Any => {
            Err("a host without '*'".to_owned())
        }
    }
}

// The API's generator made one family of types for a rule's filters and one for a backend's: same fields, other names.
macro_rules! reader {
    ($name:ident, $filter:ident, $kind:ident, $scheme:ident) => {
        /// Reads the filters; the first that cannot be honoured is named, and reported.
        pub fn $name(filters: Option<&[api::$filter]>, field: &str, notes: &mut Notes) -> Filters {
            let mut out = Filters::default();
            for (index, filter) in filters.unwrap_or_default().iter().enumerate() {
                let field = format!("{field}.filters[{index}]");
                let result: Result<(), String> = (|| {
                    match filter.r#type {
                        api::$kind::RequestHeaderModifier => {
                            let given = filter
                                .request_header_modifier
                                .as_ref()
                                .ok_or("requestHeaderModifier is missing")?;
                            let list = given
                                .set
                                .iter()
                                .flatten()
                                .map(|h| (h.name.as_str(), h.value.as_str()))
                                .collect();
                            let add = given
                                .add
                                .iter()
                                .flatten()
                                .map(|h| (h.name.as_str(), h.value.as_str()))
                                .collect();
                            out.request_headers =
                                edits(list, add, given.remove.as_deref().unwrap_or_default())?;
                        }
                        api::$kind::ResponseHeaderModifier => {
                            let given = filter
                                .response_header_modifier
                                .as_ref()
                                .ok_or("responseHeaderModifier is missing")?;
                            let list = given
                                .set
                                .iter()
                                .flatten()
                                .map(|h| (h.name.as_str(), h.value.as_str()))
                                .collect();
                            let add = given
                                .add
                                .iter()
                                .flatten()
                                .map(|h| (h.name.as_str(), h.value.as_str()))
                                .collect();
                            out.response_headers =
                                edits(list, add, given.remove.as_deref().unwrap_or_default())?;
                        }
                        api::$kind::RequestRedirect => {
                            let given =
                                filter.request_redirect.as_ref().ok_or("requestRedirect is missing")?;
                            let status = u16::try_from(given.status_code.unwrap_or(302)).unwrap_or(0);
                            if ![301, 302, 303, 307, 308].contains(&status) {
                                return Err("statusCode is 301, 302, 303, 307 or 308".to_owned());
                            }
                            let port = match given.port {
                                None => None,
                                Some(port) => Some(text::bounded(i64::from(port), 1, 65_535)?),
                            };
                            let path = match &given.path {
                                None => None,
                                Some(p) => Some(path_spec(
                                    p.replace_full_path.as_ref(),
                                    p.replace_prefix_match.as_ref(),
                                )?),
                            };
                            let scheme = given.scheme.as_ref().map(|scheme| {
                                Arc::from(match scheme {
                                    api::$scheme::Http => "http",
                                    api::$scheme::Https => "https",
                                })
                            });
                            let hostname = hostname(given.hostname.as_ref())?;
                            out.redirect = Some(RedirectSpec { scheme, hostname, path, port, status });
                        }
                        api::$kind::UrlRewrite => {
                            let given = filter.url_rewrite.as_ref().ok_or("urlRewrite is missing")?;
                            out.hostname = hostname(given.hostname.as_ref())?;
                            out.path = match &given.path {
                                None => None,
                                Some(p) => Some(path_spec(
                                    p.replace_full_path.as_ref(),
                                    p.replace_prefix_match.as_ref(),
                                )?),
                            };
                        }
                        api::$kind::RequestMirror
                        | api::$kind::ExtensionRef
                        | api::$kind::Cors
                        | api::$kind::ExternalAuth => {
                            return Err("this filter is not supported yet".to_owned());
                        }
                    }
                    Ok(())
                })();
                if let Err(reason) = result {
                    let given = format!("{:?}", filter.r#type);
                    notes.refused_part(field, given, format!("{reason}; the rule answers 500"));
                    out.broken.get_or_insert(reason);
                }
            }
            if out.redirect.is_some() && (out.hostname.is_some() || out.path.is_some()) {
                let reason = "requestRedirect and urlRewrite exclude each other";
                notes.refused_part(format!("{field}.filters"), "", format!("{reason}; the rule answers 500"));
                out.broken.get_or_insert(reason.to_owned());
            }
            out
        }
    };
}

reader!(
    read_rule,
    HttpRouteRulesFilters,
    HttpRouteRulesFiltersType,
    HttpRouteRulesFiltersRequestRedirectScheme
);
reader!(
    read_backend,
    HttpRouteRulesBackendRefsFilters,
    HttpRouteRulesBackendRefsFiltersType,
    HttpRouteRulesBackendRefsFiltersRequestRedirectScheme
);

impl Filters {
    /// Does it depend on which prefix was matched?
    #[must_use]
    pub fn needs_prefix(&self) -> bool {
        let redirect = self.redirect.as_ref().and_then(|redirect| redirect.path.as_ref());
        [self.path.as_ref(), redirect].into_iter().flatten().any(|path| matches!(path, PathSpec::Prefix(_)))
    }

    /// The rewrite of a rule that matched `path`.
    #[must_use]
    pub fn rewrite(&self, path: &PathMatch) -> Rewrite {
        Rewrite { hostname: self.hostname.clone(), path: self.path.as_ref().and_then(|p| at(p, path)) }
    }

    /// The redirect of a rule that matched `path`.
    #[must_use]
    pub fn redirect(&self, path: &PathMatch) -> Option<Redirect> {
        let spec = self.redirect.as_ref()?;
        Some(Redirect {
            scheme: spec.scheme.clone(),
            hostname: spec.hostname.clone(),
            path: spec.path.as_ref().and_then(|p| at(p, path)),
            port: spec.port,
            status: spec.status,
        })
    }
}

/// `None` for a prefix replacement where no prefix was matched; such rules are refused before.
fn at(spec: &PathSpec, matched: &PathMatch) -> Option<PathRewrite> {
    match (spec, matched) {
        (PathSpec::Full(path), _) => Some(PathRewrite::Full(path.clone())),
        (PathSpec::Prefix(replacement), PathMatch::Prefix(prefix)) => {
            Some(PathRewrite::Prefix { matched: strip_root(prefix), replacement: replacement.clone() })
        }
        (PathSpec::Prefix(_), PathMatch::Exact(_) | PathMatch::Regex(_)) => None,
    }
}
