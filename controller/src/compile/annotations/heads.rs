//! Heads: changes to requests and responses, cross-origin requests.

use std::sync::Arc;

use routing::model::{Allowed, Cors, HeaderEdits, Origins};

use super::external::config_map_name;
use super::given::Given;
use super::registry::Family;
use super::{Annotations, Reading};
use crate::compile::filters::EDITS_MAX;
use crate::text;

/// Origins of one Ingress.
const ORIGINS_MAX: usize = 64;
/// What ingress-nginx lets pages send unless it is told otherwise.
const CORS_METHODS: &str = "GET, PUT, POST, DELETE, PATCH, OPTIONS";
/// The headers that it lets them send.
const CORS_HEADERS: &str = "DNT,Keep-Alive,User-Agent,X-Requested-With,If-Modified-Since,Cache-Control,Content-Type,\
                            Range,Authorization";

pub(super) fn read(given: &mut Given<'_, '_>, reading: &Reading<'_>, out: &mut Annotations) {
    out.request_headers = edits(given, "request");
    out.response_headers = edits(given, "response");
    if let Some(prefix) = given.parse("x-forwarded-prefix", |path| text::path(path).map(|()| Arc::from(path)))
    {
        let mut set = out.request_headers.set.to_vec();
        set.push((Arc::from("x-forwarded-prefix"), prefix));
        out.request_headers.set = set.into();
    }
    let own = &reading.id.namespace;
    let custom = given.parse("custom-headers", |text| {
        config_map_name(text, own).map_err(|allowed| format!("{allowed}; the rules answer 503"))
    });
    if custom.is_none() && given.family("custom-headers").is_some() {
        out.closed.get_or_insert_with(|| Arc::from("custom-headers"));
    }
    out.checks.custom_headers = custom;
    if given.flag("enable-cors") == Some(true) {
        out.checks.cors = Some(cors(given));
    }
}

type Pairs = Box<[(Arc<str>, Arc<str>)]>;

fn edits(given: &mut Given<'_, '_>, of: &str) -> HeaderEdits {
    let name = |what: &str| format!("{of}-header-control-{what}");
    HeaderEdits {
        add: given.parse(&name("add"), pairs).unwrap_or_default(),
        set: given.parse(&name("update"), pairs).unwrap_or_default(),
        remove: given.parse(&name("remove"), names).unwrap_or_default(),
    }
}

/// `NAME VALUE`, one a line; a value may stand between double quotes.
fn pairs(text: &str) -> Result<Pairs, String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let pairs: Result<Vec<_>, String> = lines
        .map(|line| {
            let (name, value) = line.split_once([' ', '\t']).ok_or("NAME VALUE, one a line")?;
            let value = value.trim();
            let value = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value);
            Ok((text::edited_header(name)?, text::value(value)?))
        })
        .collect();
    let pairs = pairs?;
    if pairs.is_empty() || pairs.len() > EDITS_MAX {
        Err(format!("1 to {EDITS_MAX} lines"))
    } else {
        Ok(pairs.into())
    }
}

fn names(text: &str) -> Result<Box<[Arc<str>]>, String> {
    let names = text.split([',', '\n']).map(str::trim).filter(|name| !name.is_empty());
    let names: Result<Vec<_>, String> = names.map(text::edited_header).collect();
    let names = names?;
    if names.is_empty() || names.len() > EDITS_MAX {
        Err(format!("1 to {EDITS_MAX} names"))
    } else {
        Ok(names.into())
    }
}

/// A list of tokens by comma, or `*`: as it is sent.
pub(crate) fn tokens(text: &str) -> Result<Arc<str>, String> {
    let allowed = || "names by comma, or *".to_owned();
    for token in text.split(',').map(str::trim) {
        text::header_name(token).map_err(|_| allowed())?;
    }
    text::value(text)
}

/// RFC 3986 §3.1; pages of applications have schemes of their own.
fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
}

pub(crate) fn origins(text: &str) -> Result<Origins, String> {
    if text == "*" {
        return Ok(Origins::Any);
    }
    let allowed = || "* or origins by comma, such as https://a.example, https://*.a.example:8443".to_owned();
    let mut origins = Vec::new();
    for origin in text.split(',').map(str::trim).filter(|origin| !origin.is_empty()) {
        let origin = origin.trim_end_matches('/').to_ascii_lowercase();
        let (_, rest) =
            origin.split_once("://").filter(|(scheme, _)| is_scheme(scheme)).ok_or_else(allowed)?;
        let (host, port) = rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(port)));
        let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
        // An address may be an origin, too; a star only in place of the first labels.
        let is_address = host.parse::<std::net::Ipv4Addr>().is_ok();
        if !(is_address || host == "*" || text::host(host, routing::model::WildcardLabels::Many).is_ok())
            || !port.is_none_or(is_port)
        {
            return Err(allowed());
        }
        let own = [("https:", ":443"), ("http:", ":80")];
        let own = own.into_iter().find(|(scheme, _)| origin.starts_with(scheme)).map(|(_, port)| port);
        let without = own.and_then(|own| origin.strip_suffix(own));
        origins.push(Arc::from(without.unwrap_or(&origin)));
    }
    if origins.is_empty() || origins.len() > ORIGINS_MAX {
        Err(allowed())
    } else {
        Ok(Origins::List(origins.into()))
    }
}

/// Could anything not be read?
enum Unread {
    Nothing,
    /// What is allowed.
    Some(String),
}

/// `https://*`, which the Gateway API knows, and ingress-nginx does not.
fn is_every_host(origin: &str) -> bool {
    origin.split_once("://*").is_some_and(|(_, rest)| !rest.starts_with('.'))
}

/// As ingress-nginx reads them: what is no origin costs itself only, nothing and `*` among them are everybody, and a star
/// stands for one label (written `?`, see [`Origins::List`]).
fn origins_of_ingress(text: &str) -> Result<(Origins, Unread), String> {
    let names: Vec<&str> = text.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    if names.is_empty() || names.contains(&"*") {
        return Ok((Origins::Any, Unread::Nothing));
    }
    let (mut found, mut unread) = (Vec::new(), Unread::Nothing);
    for name in names {
        match origins(name) {
            Ok(Origins::List(list)) if list.iter().any(|origin| is_every_host(origin)) => {
                unread = Unread::Some("a name, or *. and a name".to_owned());
            }
            Ok(Origins::List(list)) => {
                found.extend(list.iter().map(|origin| Arc::from(origin.replace('*', "?"))))
            }
            Ok(Origins::Any) => return Ok((Origins::Any, Unread::Nothing)),
            Err(allowed) => unread = Unread::Some(allowed),
        }
    }
    if found.len() > ORIGINS_MAX {
        return Err(format!("at most {ORIGINS_MAX} origins"));
    }
    match unread {
        Unread::Some(allowed) if found.is_empty() => Err(allowed),
        unread @ (Unread::Some(_) | Unread::Nothing) => Ok((Origins::List(found.into()), unread)),
    }
}

fn cors(given: &mut Given<'_, '_>) -> Cors {
    let age_of_family = if given.family("enable-cors") == Some(Family::Alb) { 172_800 } else { 1_728_000 };
    // An origin that cannot be read must not become every origin.
    let nobody = || Origins::List(Box::default());
    let origins = match given.family("cors-allow-origin") {
        None => Origins::Any,
        Some(_) => match given.parse("cors-allow-origin", origins_of_ingress) {
            Some((origins, Unread::Nothing)) => origins,
            Some((origins, Unread::Some(allowed))) => {
                given.refuse("cors-allow-origin", &format!("allowed: {allowed}; the others hold"));
                origins
            }
            None => nobody(),
        },
    };
    let mut list =
        |name: &str, default: &str| given.parse(name, tokens).unwrap_or_else(|| Arc::from(default));
    let methods = list("cors-allow-methods", CORS_METHODS);
    let headers = list("cors-allow-headers", CORS_HEADERS);
    let expose = list("cors-expose-headers", "");
    let credentials = given.flag("cors-allow-credentials").unwrap_or(true);
    let age = given.parse("cors-max-age", |text| {
        let age: i64 = text.parse().map_err(|_| "-1 to 1728000".to_owned())?;
        text::bounded::<i64>(age, -1, 1_728_000)
    });
    let max_age = Arc::from(age.unwrap_or(age_of_family).to_string());
    let credentials = credentials && origins != Origins::Any;
    Cors {
        origins,
        methods: Allowed::These(methods),
        headers: if &*headers == "*" { Allowed::Asked } else { Allowed::These(headers) },
        expose,
        credentials,
        max_age,
    }
}
