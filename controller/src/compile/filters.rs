//! `HTTPRoute` filters: header changes, redirects, rewrites, cross-origin requests, mirrors. What cannot be honoured makes the rule answer 500, as
//! the Gateway API demands: a filter that is silently skipped may be one that protects something.

use std::sync::Arc;

use gateway_api::experimental::httproutes as api;
use routing::model::{
    self, Allowed, Cors, HeaderEdits, Mirror, Origins, PathMatch, PathRewrite, Redirect, Rewrite,
    WeightedBackend, WildcardLabels,
};

use crate::compile::annotations;
use crate::compile::gateway_api::{Backend, resolve};
use crate::compile::ingress::strip_root;
use crate::compile::route::Builder;
use crate::text;
use crate::verdict::Notes;

/// Header changes of one filter; more make the rule answer 500.
pub const EDITS_MAX: usize = 64;
/// Mirrors of one rule; more make it answer 500.
const MIRRORS_MAX: usize = 8;

const NO_EXTENSION: &str = "no kind of ExtensionRef is known";
const NO_EXTERNAL_AUTH: &str = "ExternalAuth is not supported: an Ingress asks another service with auth-url";

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
    /// `requestMirror`, of which there may be several.
    pub mirrors: Vec<MirrorSpec>,
    /// What is worth saying of what is honoured.
    told: Vec<&'static str>,
    /// The kinds that are there, of those that may stand once.
    seen: Vec<&'static str>,
    /// Why the rule must answer 500, if it must.
    pub broken: Option<String>,
}

/// Where copies go, before it is known whether that Service may be used.
#[derive(Clone, Debug)]
pub struct MirrorSpec {
    group: Option<String>,
    kind: Option<String>,
    namespace: Option<String>,
    name: String,
    port: Option<i32>,
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

/// Of entries with one name the first counts (`HTTPHeader`).
fn first_of_each(pairs: &mut Pairs) -> bool {
    let mut kept: Vec<(Arc<str>, Arc<str>)> = Vec::with_capacity(pairs.len());
    for (name, value) in pairs.iter() {
        if kept.iter().all(|(known, _)| known != name) {
            kept.push((name.clone(), value.clone()));
        }
    }
    let has_others = kept.len() < pairs.len();
    *pairs = kept.into();
    has_others
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
    Cors(GivenCors<'a>),
    Mirror {
        to: MirrorSpec,
        percent: Option<i32>,
        fraction: Option<(i32, i32)>,
    },
    /// The filter's own field is not set.
    Missing,
    /// Why.
    Unsupported(&'static str),
}

struct GivenCors<'a> {
    origins: Vec<&'a str>,
    methods: Vec<&'a str>,
    headers: Vec<&'a str>,
    expose: Vec<&'a str>,
    credentials: bool,
    max_age: i32,
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
        Neutral::Cors(GivenCors {
            origins: $given.allow_origins.iter().flatten().map(String::as_str).collect(),
            methods: $given.allow_methods.iter().flatten().map(String::as_str).collect(),
            headers: $given.allow_headers.iter().flatten().map(String::as_str).collect(),
            expose: $given.expose_headers.iter().flatten().map(String::as_str).collect(),
            credentials: $given.allow_credentials.unwrap_or(false),
            max_age: $given.max_age.unwrap_or(5),
        })
    };
}

macro_rules! mirror_of {
    ($given:expr) => {
        Neutral::Mirror {
            to: MirrorSpec {
                group: $given.backend_ref.group.clone(),
                kind: $given.backend_ref.kind.clone(),
                namespace: $given.backend_ref.namespace.clone(),
                name: $given.backend_ref.name.clone(),
                port: $given.backend_ref.port,
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
            for told in &out.told {
                notes.info(format!("{field}.filters"), "", *told);
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
                api::$kind::ExtensionRef => Some(Neutral::Unsupported(NO_EXTENSION)),
                api::$kind::ExternalAuth => Some(Neutral::Unsupported(NO_EXTERNAL_AUTH)),
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

impl Neutral<'_> {
    /// The name of what may stand once in a rule.
    fn once(&self) -> Option<&'static str> {
        match self {
            Self::Request(_) => Some("RequestHeaderModifier"),
            Self::Response(_) => Some("ResponseHeaderModifier"),
            Self::Redirect { .. } => Some("RequestRedirect"),
            Self::Rewrite { .. } => Some("URLRewrite"),
            Self::Cors(_) => Some("CORS"),
            Self::Mirror { .. } | Self::Missing | Self::Unsupported(_) => None,
        }
    }
}

impl Filters {
    fn edits(&mut self, headers: Headers<'_>) -> Result<HeaderEdits, String> {
        let mut edits = edits(headers)?;
        let repeated = [first_of_each(&mut edits.set), first_of_each(&mut edits.add)];
        if repeated.contains(&true) {
            self.told.push("of header changes with one name the first counts");
        }
        Ok(edits)
    }

    fn add(&mut self, filter: Neutral<'_>) -> Result<(), String> {
        if let Some(name) = filter.once() {
            if self.seen.contains(&name) {
                return Err(format!("{name} stands once at most"));
            }
            self.seen.push(name);
        }
        match filter {
            Neutral::Request(headers) => self.request_headers = self.edits(headers)?,
            Neutral::Response(headers) => self.response_headers = self.edits(headers)?,
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
            Neutral::Cors(given) => self.cors = Some(self.cors(&given)?),
            Neutral::Mirror { .. } if self.mirrors.len() == MIRRORS_MAX => {
                return Err(format!("at most {MIRRORS_MAX} RequestMirrors"));
            }
            Neutral::Mirror { to, percent, fraction } => {
                let share_ppm = share(percent, fraction)?;
                self.mirrors.push(MirrorSpec { share_ppm, ..to });
            }
            Neutral::Missing => return Err("the field that belongs to this type is missing".to_owned()),
            Neutral::Unsupported(why) => return Err(why.to_owned()),
        }
        Ok(())
    }

    /// GEP-1767.
    fn cors(&mut self, given: &GivenCors<'_>) -> Result<Cors, String> {
        let credentials = given.credentials;
        let origins = match given.origins[..] {
            [] => {
                self.told.push("no page of another origin is allowed anything: allowOrigins is empty");
                Origins::List(Box::default())
            }
            [_, ..] if given.origins.contains(&"*") => Origins::Any,
            [_, ..] => annotations::origins(&given.origins.join(","))?,
        };
        if credentials && origins == Origins::Any {
            self.told
                .push("every page may use its visitors' cookies here: allowCredentials with allowOrigins *");
        }
        let allowed = |names: &[&str]| match names {
            [] => Ok(Allowed::Safelisted),
            [_, ..] if names.contains(&"*") => Ok(Allowed::Asked),
            [_, ..] => annotations::tokens(&names.join(", ")).map(Allowed::These),
        };
        let expose: Arc<str> = match given.expose[..] {
            [] => Arc::from(""),
            // With credentials browsers take it for a field of that name.
            [_, ..] if credentials && given.expose.contains(&"*") => {
                self.told.push("exposeHeaders * says nothing beside allowCredentials: list the fields");
                Arc::from("")
            }
            [_, ..] => annotations::tokens(&given.expose.join(", "))?,
        };
        Ok(Cors {
            origins,
            methods: allowed(&given.methods)?,
            headers: allowed(&given.headers)?,
            expose,
            credentials,
            max_age: Arc::from(given.max_age.max(1).to_string()),
        })
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
        let field = format!("{field}.filters");
        let mirrors = self.mirrors.iter().filter_map(|spec| mirror(builder, spec, &field)).collect();
        let filters = model::Filters { cors: self.cors.clone(), mirrors, ..model::Filters::default() };
        (filters != model::Filters::default()).then(|| Arc::new(filters))
    }
}

fn mirror(builder: &mut Builder<'_, '_>, spec: &MirrorSpec, field: &str) -> Option<Mirror> {
    let given = Backend {
        group: spec.group.as_deref(),
        kind: spec.kind.as_deref(),
        namespace: spec.namespace.as_deref(),
        name: &spec.name,
        port: spec.port,
    };
    let (service, port) = resolve(builder, &given, field, "nothing is mirrored")?;
    let Some((id, _)) = builder.backend(&service, port) else {
        builder.out.notes.refused_part(field, &spec.name, "too many backends; nothing is mirrored");
        return None;
    };
    let backend = WeightedBackend {
        backend: Some(id),
        weight: 1,
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
        cluster: None,
    };
    Some(Mirror { backends: Box::new([backend]), share_ppm: spec.share_ppm })
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
