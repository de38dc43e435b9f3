//! `HTTPRoute` filters: header changes, redirects, rewrites, cross-origin requests, mirrors. What cannot be honoured makes the rule answer 500, as
//! the Gateway API demands: a filter that is silently skipped may be one that protects something.

use std::sync::Arc;

use gateway_api::experimental::httproutes as api;
use routing::model::{
    self, Cors, HeaderEdits, Mirror, Origins, PathMatch, PathRewrite, Redirect, Rewrite, WeightedBackend,
    WildcardLabels,
};

use crate::compile::annotations;
use crate::compile::ingress::strip_root;
use crate::compile::route::{Builder, Resolved};
use crate::merge::PortRef;
use crate::text;
use crate::verdict::{Code, Note, Notes, Severity};
use crate::world::ServiceName;

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
    /// `cors`.
    pub cors: Option<Cors>,
    /// `requestMirror`.
    pub mirror: Option<MirrorSpec>,
    /// What was honoured with a difference, once.
    pub told: Option<&'static str>,
    /// Why the rule must answer 500, if it must.
    pub broken: Option<String>,
}

/// Where copies go, before it is known whether that Service may be used.
#[derive(Clone, Debug)]
pub struct MirrorSpec {
    group: String,
    kind: String,
    namespace: Option<String>,
    name: String,
    port: i32,
    share_ppm: u32,
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

fn edits(headers: Headers<'_>) -> Result<HeaderEdits, String> {
    if headers.set.len() + headers.add.len() + headers.remove.len() > EDITS_MAX {
        return Err(format!("at most {EDITS_MAX} header changes"));
    }
    let remove = headers.remove.iter().map(|name| text::edited_header(name)).collect::<Result<_, _>>()?;
    Ok(HeaderEdits { set: pairs(headers.set)?, add: pairs(headers.add)?, remove })
}

/// Header names in lower case with their values.
type Pairs = Box<[(Arc<str>, Arc<str>)]>;

fn pairs(given: Given<'_>) -> Result<Pairs, String> {
    let checked = given.into_iter().map(|(name, value)| {
        let at = |allowed| format!("{}: {allowed}", crate::verdict::shown(name));
        Ok((text::edited_header(name).map_err(at)?, text::value(value).map_err(at)?))
    });
    checked.collect()
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

/// A filter, whichever of the API's two families of types it came from.
enum Neutral<'a> {
    Request(Headers<'a>),
    Response(Headers<'a>),
    Redirect {
        scheme: Option<&'static str>,
        hostname: Option<&'a String>,
        path: Option<Replace<'a>>,
        port: Option<i32>,
        status: i64,
    },
    Rewrite {
        hostname: Option<&'a String>,
        path: Option<Replace<'a>>,
    },
    Cors {
        origins: Vec<&'a str>,
        methods: Vec<&'a str>,
        headers: Vec<&'a str>,
        expose: Vec<&'a str>,
        credentials: bool,
        max_age: i32,
    },
    Mirror {
        to: MirrorSpec,
        percent: Option<i32>,
        fraction: Option<(i32, i32)>,
    },
    /// The filter's own field is not set.
    Missing,
    Unsupported,
}

struct Headers<'a> {
    set: Given<'a>,
    add: Given<'a>,
    remove: &'a [String],
}

struct Replace<'a> {
    full: Option<&'a String>,
    prefix: Option<&'a String>,
}

impl Replace<'_> {
    fn spec(&self) -> Result<PathSpec, String> {
        path_spec(self.full, self.prefix)
    }
}

macro_rules! cors_of {
    ($given:expr) => {
        Neutral::Cors {
            origins: $given.allow_origins.iter().flatten().map(String::as_str).collect(),
            methods: $given.allow_methods.iter().flatten().map(String::as_str).collect(),
            headers: $given.allow_headers.iter().flatten().map(String::as_str).collect(),
            expose: $given.expose_headers.iter().flatten().map(String::as_str).collect(),
            credentials: $given.allow_credentials.unwrap_or(false),
            max_age: $given.max_age.unwrap_or(5),
        }
    };
}

macro_rules! mirror_of {
    ($given:expr) => {
        Neutral::Mirror {
            to: MirrorSpec {
                group: $given.backend_ref.group.clone().unwrap_or_default(),
                kind: $given.backend_ref.kind.clone().unwrap_or_else(|| "Service".to_owned()),
                namespace: $given.backend_ref.namespace.clone(),
                name: $given.backend_ref.name.clone(),
                port: $given.backend_ref.port.unwrap_or(0),
                share_ppm: PPM,
            },
            percent: $given.percent,
            fraction: $given.fraction.as_ref().map(|f| (f.numerator, f.denominator.unwrap_or(100))),
        }
    };
}

// The API's generator made one family of types for a rule's filters and one for a backend's: same fields, other
// names.
macro_rules! reader {
    ($name:ident, $neutral:ident, $filter:ident, $kind:ident, $scheme:ident) => {
        /// Reads the filters; the first that cannot be honoured is named, and reported.
        pub fn $name(filters: Option<&[api::$filter]>, field: &str, notes: &mut Notes) -> Filters {
            let mut out = Filters::default();
            for (index, filter) in filters.unwrap_or_default().iter().enumerate() {
                if let Err(reason) = out.add($neutral(filter)) {
                    let given = format!("{:?}", filter.r#type);
                    let field = format!("{field}.filters[{index}]");
                    notes.refused_part(field, given, format!("{reason}; the rule answers 500"));
                    out.broken.get_or_insert(reason);
                }
            }
            if let Some(told) = out.told {
                notes.info(format!("{field}.filters"), "", told);
            }
            out.exclude(field, notes);
            out
        }

        fn $neutral(filter: &api::$filter) -> Neutral<'_> {
            macro_rules! headers {
                ($given:expr) => {
                    Headers {
                        set: $given
                            .set
                            .iter()
                            .flatten()
                            .map(|h| (h.name.as_str(), h.value.as_str()))
                            .collect(),
                        add: $given
                            .add
                            .iter()
                            .flatten()
                            .map(|h| (h.name.as_str(), h.value.as_str()))
                            .collect(),
                        remove: $given.remove.as_deref().unwrap_or_default(),
                    }
                };
            }
            macro_rules! replace {
                ($given:expr) => {
                    $given.path.as_ref().map(|path| Replace {
                        full: path.replace_full_path.as_ref(),
                        prefix: path.replace_prefix_match.as_ref(),
                    })
                };
            }
            let neutral = match filter.r#type {
                api::$kind::RequestHeaderModifier => {
                    filter.request_header_modifier.as_ref().map(|given| Neutral::Request(headers!(given)))
                }
                api::$kind::ResponseHeaderModifier => {
                    filter.response_header_modifier.as_ref().map(|given| Neutral::Response(headers!(given)))
                }
                api::$kind::RequestRedirect => {
                    filter.request_redirect.as_ref().map(|given| Neutral::Redirect {
                        scheme: given.scheme.as_ref().map(|scheme| match scheme {
                            api::$scheme::Http => "http",
                            api::$scheme::Https => "https",
                        }),
                        hostname: given.hostname.as_ref(),
                        path: replace!(given),
                        port: given.port,
                        status: given.status_code.unwrap_or(302),
                    })
                }
                api::$kind::UrlRewrite => filter.url_rewrite.as_ref().map(|given| Neutral::Rewrite {
                    hostname: given.hostname.as_ref(),
                    path: replace!(given),
                }),
                api::$kind::Cors => filter.cors.as_ref().map(|given| cors_of!(given)),
                api::$kind::RequestMirror => filter.request_mirror.as_ref().map(|given| mirror_of!(given)),
                api::$kind::ExtensionRef | api::$kind::ExternalAuth => Some(Neutral::Unsupported),
            };
            neutral.unwrap_or(Neutral::Missing)
        }
    };
}

reader!(
    read_rule,
    neutral_of_rule,
    HttpRouteRulesFilters,
    HttpRouteRulesFiltersType,
    HttpRouteRulesFiltersRequestRedirectScheme
);
reader!(
    read_backend,
    neutral_of_backend,
    HttpRouteRulesBackendRefsFilters,
    HttpRouteRulesBackendRefsFiltersType,
    HttpRouteRulesBackendRefsFiltersRequestRedirectScheme
);

impl Filters {
    fn add(&mut self, filter: Neutral<'_>) -> Result<(), String> {
        match filter {
            Neutral::Request(headers) => self.request_headers = edits(headers)?,
            Neutral::Response(headers) => self.response_headers = edits(headers)?,
            Neutral::Redirect { scheme, hostname: host, path, port, status } => {
                let status = u16::try_from(status).unwrap_or(0);
                if ![301, 302, 303, 307, 308].contains(&status) {
                    return Err("statusCode is 301, 302, 303, 307 or 308".to_owned());
                }
                self.redirect = Some(RedirectSpec {
                    scheme: scheme.map(Arc::from),
                    hostname: hostname(host)?,
                    path: path.map(|path| path.spec()).transpose()?,
                    port: port.map(|port| text::bounded(i64::from(port), 1, 65_535)).transpose()?,
                    status,
                });
            }
            Neutral::Rewrite { hostname: host, path } => {
                self.hostname = hostname(host)?;
                self.path = path.map(|path| path.spec()).transpose()?;
            }
            Neutral::Cors { origins, methods, headers, expose, credentials, max_age } => {
                let joined = |names: Vec<&str>| match names.is_empty() {
                    true => Ok(Arc::from("")),
                    false => annotations::tokens(&names.join(", ")),
                };
                let origins = annotations::origins(&origins.join(","))?;
                let any = headers == ["*"];
                if credentials && origins == Origins::Any {
                    self.told = Some("any page may send its visitors' cookies: list the origins instead");
                }
                let headers = if any { Arc::from("") } else { joined(headers)? };
                let max_age = Arc::from(max_age.max(1).to_string());
                let (methods, expose) = (joined(methods)?, joined(expose)?);
                self.cors = Some(Cors { origins, methods, headers, expose, credentials, max_age });
            }
            Neutral::Mirror { .. } if self.mirror.is_some() => {
                return Err("one RequestMirror for each rule is supported".to_owned());
            }
            Neutral::Mirror { to, percent, fraction } => {
                let share_ppm = share(percent, fraction)?;
                self.mirror = Some(MirrorSpec { share_ppm, ..to });
            }
            Neutral::Missing => return Err("the field that belongs to this type is missing".to_owned()),
            Neutral::Unsupported => return Err("this filter is not supported yet".to_owned()),
        }
        Ok(())
    }

    fn exclude(&mut self, field: &str, notes: &mut Notes) {
        if self.redirect.is_some() && (self.hostname.is_some() || self.path.is_some()) {
            let reason = "requestRedirect and urlRewrite exclude each other";
            notes.refused_part(format!("{field}.filters"), "", format!("{reason}; the rule answers 500"));
            self.broken.get_or_insert(reason.to_owned());
        }
    }

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

/// All requests, in millionths.
const PPM: u32 = 1_000_000;

fn share(percent: Option<i32>, fraction: Option<(i32, i32)>) -> Result<u32, String> {
    let (numerator, denominator) = match (percent, fraction) {
        (None, None) => return Ok(PPM),
        (Some(percent), None) => (percent, 100),
        (None, Some(fraction)) => fraction,
        (Some(_), Some(_)) => return Err("either percent or fraction".to_owned()),
    };
    if denominator < 1 || !(0..=denominator).contains(&numerator) {
        return Err("a share from 0 to 1".to_owned());
    }
    text::bounded(i64::from(numerator) * i64::from(PPM) / i64::from(denominator), 0, i64::from(PPM))
}

impl Filters {
    /// The filters that run before and beside forwarding. A mirror whose Service may not be used, or is not there, is
    /// reported and left out, as the Gateway API demands; requests are served.
    pub fn rule_filters(&self, builder: &mut Builder<'_, '_>, field: &str) -> Option<Arc<model::Filters>> {
        let mirror = self.mirror.as_ref().and_then(|spec| {
            let found = mirror_backend(builder, spec);
            found
                .map_err(|(code, reason)| {
                    let field = format!("{field}.filters");
                    let note = Note::new(Severity::RefusedPart, field, &spec.name, reason);
                    builder.out.notes.push(note.because(code));
                })
                .ok()
        });
        let filters = model::Filters { cors: self.cors.clone(), mirror, ..model::Filters::default() };
        (filters != model::Filters::default()).then(|| Arc::new(filters))
    }
}

fn mirror_backend(builder: &mut Builder<'_, '_>, spec: &MirrorSpec) -> Result<Mirror, (Code, String)> {
    if (spec.group.as_str(), spec.kind.as_str()) != ("", "Service") {
        let reason = "InvalidKind: only Services are supported; nothing is mirrored";
        return Err((Code::InvalidKind, reason.to_owned()));
    }
    let own = builder.object.id.namespace.clone();
    let namespace = spec.namespace.as_deref().map_or_else(|| own.clone(), Arc::from);
    let service = ServiceName { namespace, name: Arc::from(spec.name.as_str()) };
    let route = builder.object.id.kind.clone();
    let from = ("gateway.networking.k8s.io", route.as_str(), &*own);
    if service.namespace != own
        && !builder.env.context.is_granted(from, &service.namespace, ("", "Service", &service.name))
    {
        let namespace = &service.namespace;
        let reason =
            format!("RefNotPermitted: no ReferenceGrant in {namespace} allows it; nothing is mirrored");
        return Err((Code::RefNotPermitted, reason));
    }
    let port = text::bounded::<u16>(i64::from(spec.port), 1, 65_535)
        .map_err(|allowed| (Code::UnsupportedValue, format!("port: {allowed}")))?;
    let port = PortRef::Number(port);
    if builder.resolve(&service, &port) != Resolved::Yes {
        let reason = "BackendNotFound: no member cluster has this Service and port; nothing is mirrored";
        return Err((Code::BackendNotFound, reason.to_owned()));
    }
    let too_many = || (Code::UnsupportedValue, "too many backends".to_owned());
    let (id, _) = builder.backend(&service, port).ok_or_else(too_many)?;
    let backend = WeightedBackend {
        backend: Some(id),
        weight: 1,
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
        cluster: None,
    };
    Ok(Mirror { backends: Box::new([backend]), share_ppm: spec.share_ppm })
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
