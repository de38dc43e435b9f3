//! ALB's `conditions.SERVICE` and `actions.SERVICE`: JSON lists that belong to the rules whose backend is that Service.
//!
//! Conditions that cannot be read take their rules out: a rule without its condition would catch what it must not.
//! Actions that cannot be read make their rules answer 503: one of them may be what protects the backend.

use std::sync::Arc;

use routing::model::{
    FixedResponse, HeaderEdits, PathRewrite, Predicate, RateKey, Redirect, ValueMatch, ValuePattern,
    WildcardLabels,
};
use serde_json::Value;

use super::given::Given;
use super::{Annotations, RateScope, RateSpec, Reading, access, address};
use crate::merge::PortRef;
use crate::text;
use crate::text::Regexes;
use crate::world::ServiceName;

/// Conditions, actions and values of one list.
const ITEMS_MAX: usize = 64;
/// Bytes of a fixed response.
const CONTENT_BYTES_MAX: usize = 16 * 1024;

/// A Service of a `ForwardGroup` with its share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// The Service.
    pub service: ServiceName,
    /// Its port.
    pub port: PortRef,
    /// Its share.
    pub weight: u32,
}

/// What the annotations say of the rules of one Service.
#[derive(Debug, Default)]
pub struct ServiceRule {
    /// Further conditions. `None` = they cannot be read, and the rules are not served.
    pub conditions: Option<Vec<Predicate>>,
    /// Can actions not be read? Then the rules answer 503.
    pub broken: bool,
    /// `ForwardGroup`.
    pub forward: Vec<Forward>,
    /// `FixedResponse`.
    pub fixed: Option<Arc<FixedResponse>>,
    /// `Redirect`.
    pub redirect: Option<Redirect>,
    /// `Rewrite`: the host.
    pub host: Option<Arc<str>>,
    /// `Rewrite`: the path.
    pub path: Option<Arc<str>>,
    /// `InsertHeader`, `RemoveHeader`.
    pub request_headers: HeaderEdits,
    /// The same with `rule-direction.SERVICE: Response`.
    pub response_headers: HeaderEdits,
    /// Is it about responses, as `rule-direction.SERVICE: Response` says?
    pub is_of_responses: bool,
    /// `ResponseStatusCode`; empty = any.
    pub statuses: Vec<u16>,
    /// `ResponseHeader`: one of each group must be there.
    pub response_fields: Vec<Box<[ValueMatch]>>,
    /// `TrafficLimit`.
    pub rates: Vec<RateSpec>,
    /// `TrafficMirror`.
    pub mirror: Option<(ServiceName, PortRef)>,
}

pub(super) fn read(given: &mut Given<'_, '_>, reading: &mut Reading<'_>, out: &mut Annotations) {
    for (service, full) in given.rests("rule-direction.") {
        let direction = given.parse(full, |text| match text {
            "Request" => Ok(false),
            "Response" => Ok(true),
            _ => Err("Request, Response".to_owned()),
        });
        if direction == Some(true) {
            out.services.entry(service.to_owned()).or_default().is_of_responses = true;
        }
    }
    for (service, full) in given.rests("conditions.") {
        let rule = out.services.entry(service.to_owned()).or_default();
        rule.conditions = given.parse(full, |text| conditions(text, reading.regexes, rule));
    }
    for (service, full) in given.rests("actions.") {
        let rule = out.services.entry(service.to_owned()).or_default();
        let namespace = &reading.id.namespace;
        let done =
            given.parse(full, |text| items(text)?.iter().try_for_each(|action| act(action, namespace, rule)));
        rule.broken = done.is_none();
    }
    for (service, rule) in &mut out.services {
        if given.family(&format!("conditions.{service}")).is_none() {
            rule.conditions = Some(Vec::new());
        }
    }
    for (service, full) in given.rests("rule-direction.") {
        if given.family(&format!("actions.{service}")).is_none() {
            given.ignore(full, "no actions belong to it");
        }
    }
}

// ---------------------------------------------------------------- JSON

fn items(text: &str) -> Result<Vec<Value>, String> {
    let list: Vec<Value> =
        serde_json::from_str(text).map_err(|error| format!("a JSON list of objects ({error})"))?;
    let good = list.iter().all(Value::is_object) && !list.is_empty() && list.len() <= ITEMS_MAX;
    if good { Ok(list) } else { Err(format!("a JSON list of 1 to {ITEMS_MAX} objects")) }
}

/// A field; the documentation spells names both ways, so case does not count.
fn field<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    value.as_object()?.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

fn string(value: &Value, name: &str) -> Option<String> {
    match field(value, name)? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

fn need(value: &Value, name: &str) -> Result<String, String> {
    string(value, name).ok_or_else(|| format!("needs {name}"))
}

fn number(value: &Value, name: &str, min: i64, max: i64) -> Result<Option<u32>, String> {
    let Some(text) = string(value, name) else { return Ok(None) };
    let at = |allowed: String| format!("{name}: {allowed}");
    let number: i64 = text.parse().map_err(|_| at(format!("{min} to {max}")))?;
    text::bounded(number, min, max).map(Some).map_err(at)
}

fn list<'a>(value: &'a Value, name: &str) -> Result<&'a [Value], String> {
    let list = field(value, name).and_then(Value::as_array).map(Vec::as_slice);
    list.filter(|list| !list.is_empty() && list.len() <= ITEMS_MAX)
        .ok_or_else(|| format!("needs {name}: a list of 1 to {ITEMS_MAX}"))
}

fn texts(value: &Value) -> Result<Vec<String>, String> {
    let text =
        |value: &Value| value.as_str().map(str::to_owned).ok_or_else(|| "values are strings".to_owned());
    list(value, "values")?.iter().map(text).collect()
}

// ---------------------------------------------------------------- conditions

fn conditions(text: &str, regexes: &mut Regexes, rule: &mut ServiceRule) -> Result<Vec<Predicate>, String> {
    let mut of_request = Vec::new();
    for item in items(text)? {
        match need(&item, "type")?.as_str() {
            "ResponseStatusCode" | "ResponseHeader" if !rule.is_of_responses => {
                return Err("of responses only with rule-direction Response".to_owned());
            }
            "ResponseStatusCode" => rule.statuses.extend(statuses(&item)?),
            "ResponseHeader" => rule.response_fields.push(response_field(&item, regexes)?),
            _ => of_request.push(condition(&item, regexes)?),
        }
    }
    Ok(of_request)
}

fn statuses(item: &Value) -> Result<Vec<u16>, String> {
    let config = field(item, "ResponseStatusCodeConfig").ok_or("needs ResponseStatusCodeConfig")?;
    let status = |text: &String| text.parse().ok().filter(|status| (100..=599).contains(status));
    let read: Option<Vec<u16>> = texts(config)?.iter().map(status).collect();
    read.ok_or_else(|| "ResponseStatusCode: values from 100 to 599".to_owned())
}

fn response_field(item: &Value, regexes: &mut Regexes) -> Result<Box<[ValueMatch]>, String> {
    let config = field(item, "ResponseHeaderConfig").ok_or("needs ResponseHeaderConfig")?;
    let name = text::header_name(&need(config, "key")?)?;
    let one = |value: &String| Ok(ValueMatch { name: name.clone(), value: pattern(value, regexes)? });
    texts(config)?.iter().map(one).collect()
}

/// `*` stands for any characters, `?` for one.
fn pattern(text: &str, regexes: &mut Regexes) -> Result<ValuePattern, String> {
    text::value(text)?;
    if !text.contains(['*', '?']) {
        return Ok(ValuePattern::Exact(Arc::from(text)));
    }
    let regex = address::escaped(text).replace(r"\*", "(?s:.*)").replace(r"\?", "(?s:.)");
    regexes.anchored(&regex).map(ValuePattern::Regex)
}

fn condition(item: &Value, regexes: &mut Regexes) -> Result<Predicate, String> {
    let kind = need(item, "type")?;
    let config = field(item, &format!("{kind}Config")).ok_or_else(|| format!("{kind} needs {kind}Config"))?;
    let any = |all: Vec<Predicate>| Predicate::Any(all.into());
    match kind.as_str() {
        "Host" => {
            let hosts =
                texts(config)?.into_iter().map(|name| match text::host(&name, WildcardLabels::Many)? {
                    routing::model::HostPattern::Exact(host) => Ok(host),
                    routing::model::HostPattern::Wildcard { .. } | routing::model::HostPattern::Any => {
                        Err("Host: names without '*'".to_owned())
                    }
                });
            Ok(Predicate::Host(hosts.collect::<Result<_, String>>()?))
        }
        "Path" => {
            let paths = texts(config)?;
            let all: Result<Vec<_>, String> =
                paths.iter().map(|path| pattern(path, regexes).map(Predicate::Path)).collect();
            all.map(any)
        }
        "Header" => {
            let name = text::header_name(&need(config, "key")?)?;
            let values = texts(config)?;
            let one = |value: &String| {
                Ok(Predicate::Header(ValueMatch { name: name.clone(), value: pattern(value, regexes)? }))
            };
            values.iter().map(one).collect::<Result<Vec<_>, String>>().map(any)
        }
        "QueryString" | "Cookie" => {
            let mut all = Vec::new();
            for pair in list(config, "values")? {
                let (key, value) = (need(pair, "key")?, pattern(&need(pair, "value")?, regexes)?);
                all.push(match kind.as_str() {
                    "Cookie" => Predicate::Cookie(ValueMatch { name: text::cookie_name(&key)?, value }),
                    _ => Predicate::Query(ValueMatch { name: text::query_name(&key)?, value }),
                });
            }
            Ok(any(all))
        }
        "Method" => {
            let methods: Result<Vec<_>, String> =
                texts(config)?.iter().map(|name| address::method(name)).collect();
            methods.map(|methods| Predicate::Methods(methods.into()))
        }
        "SourceIp" => {
            access::ranges(&texts(config)?.join(",")).map(|ranges| Predicate::Source(ranges.into()))
        }
        _ => Err(
            "type Host, Path, Header, QueryString, Method, Cookie, SourceIp, ResponseStatusCode, ResponseHeader"
                .to_owned(),
        ),
    }
}

// ---------------------------------------------------------------- actions

fn act(item: &Value, namespace: &Arc<str>, rule: &mut ServiceRule) -> Result<(), String> {
    let kind = need(item, "type")?;
    let name = if kind == "ForwardGroup" { "ForwardConfig".to_owned() } else { format!("{kind}Config") };
    let config = field(item, &name).or_else(|| field(item, &format!("{kind}Config")));
    let config = config.ok_or_else(|| format!("{kind} needs {name}"))?;
    let response = rule.is_of_responses;
    if response && !matches!(kind.as_str(), "InsertHeader" | "RemoveHeader") {
        return Err("in direction Response: type InsertHeader, RemoveHeader".to_owned());
    }
    match kind.as_str() {
        "ForwardGroup" => rule.forward = forward(config, namespace)?,
        "FixedResponse" => rule.fixed = Some(Arc::new(fixed(config)?)),
        "Redirect" => rule.redirect = Some(redirect(config)?),
        "Rewrite" => rewrite(config, rule)?,
        "InsertHeader" => {
            if string(config, "valueType").is_some_and(|kind| kind != "UserDefined") {
                return Err("InsertHeader: valueType UserDefined".to_owned());
            }
            let pair = access::header(&need(config, "key")?, &need(config, "value")?)?;
            let edits = if response { &mut rule.response_headers } else { &mut rule.request_headers };
            edits.set = edits.set.iter().cloned().chain([pair]).collect();
        }
        "RemoveHeader" => {
            let name = text::edited_header(&need(config, "key")?)?;
            let edits = if response { &mut rule.response_headers } else { &mut rule.request_headers };
            edits.remove = edits.remove.iter().cloned().chain([name]).collect();
        }
        "TrafficLimit" => {
            for (name, field, key) in
                [("actions: QPS", "QPS", RateKey::All), ("actions: QPSPerIp", "QPSPerIp", RateKey::Source)]
            {
                let Some(count) = number(config, field, 1, 100_000)? else { continue };
                let rate = access::rate(count, 1, u64::from(count / 10));
                let answer = Arc::new(FixedResponse { status: 503, ..FixedResponse::default() });
                rule.rates.push(RateSpec {
                    name,
                    rate,
                    key,
                    scope: RateScope::Rule,
                    exempt: Vec::new(),
                    answer,
                });
            }
        }
        "TrafficMirror" => {
            let group = field(config, "MirrorGroupConfig").ok_or("TrafficMirror needs MirrorGroupConfig")?;
            let tuple = &list(group, "ServerGroupTuples")?[0];
            rule.mirror = Some(service(tuple, namespace)?);
        }
        _ => {
            return Err("type ForwardGroup, FixedResponse, Redirect, Rewrite, InsertHeader, RemoveHeader, TrafficLimit, \
                        TrafficMirror"
                .to_owned());
        }
    }
    Ok(())
}

fn service(group: &Value, namespace: &Arc<str>) -> Result<(ServiceName, PortRef), String> {
    if field(group, "ServerGroupID").is_some() {
        return Err("ServiceName and ServicePort: a ServerGroupID is the cloud's".to_owned());
    }
    let name = super::traffic::service_name(&need(group, "ServiceName")?)?;
    let port = number(group, "ServicePort", 1, 65_535)?.and_then(|port| u16::try_from(port).ok());
    let port = PortRef::Number(port.ok_or("needs ServicePort")?);
    Ok((ServiceName { namespace: namespace.clone(), name }, port))
}

fn forward(config: &Value, namespace: &Arc<str>) -> Result<Vec<Forward>, String> {
    let one = |group: &Value| {
        let (service, port) = service(group, namespace)?;
        let weight = number(group, "Weight", 0, 100)?.unwrap_or(100);
        Ok(Forward { service, port, weight })
    };
    list(config, "ServerGroups")?.iter().map(one).collect()
}

fn fixed(config: &Value) -> Result<FixedResponse, String> {
    let status = number(config, "httpCode", 200, 599)?.ok_or("needs httpCode")?;
    let content_type = string(config, "contentType").unwrap_or_else(|| "text/plain".to_owned());
    let body = string(config, "content").unwrap_or_default();
    if body.len() > CONTENT_BYTES_MAX {
        return Err(format!("content: at most {CONTENT_BYTES_MAX} bytes"));
    }
    Ok(FixedResponse {
        status: u16::try_from(status).unwrap_or(503),
        content_type: text::value(&content_type)?,
        body: Arc::from(body),
        location: Arc::from(""),
    })
}

/// A part of a redirect: a variable that stands for the request's own part is left out.
fn part(config: &Value, name: &str) -> Result<Option<String>, String> {
    let variable = format!("${{{name}}}");
    match string(config, name) {
        None => Ok(None),
        Some(text) if text == variable || text.is_empty() => Ok(None),
        Some(text) if text.contains('$') => Err(format!("{name}: {variable}, or a value without variables")),
        Some(text) => Ok(Some(text)),
    }
}

fn redirect(config: &Value) -> Result<Redirect, String> {
    let status = number(config, "httpCode", 301, 308)?.unwrap_or(301);
    let status = u16::try_from(status).ok().filter(|status| [301, 302, 303, 307, 308].contains(status));
    if part(config, "query")?.is_some() {
        return Err("query: ${query}".to_owned());
    }
    let scheme = part(config, "protocol")?.map(|scheme| scheme.to_ascii_lowercase());
    if scheme.as_deref().is_some_and(|scheme| !matches!(scheme, "http" | "https")) {
        return Err("protocol: HTTP, HTTPS, ${protocol}".to_owned());
    }
    let path = part(config, "path")?;
    if let Some(path) = &path {
        text::path(path)?;
    }
    let port = part(config, "port")?
        .map(|port| port.parse().ok().filter(|port| *port > 0).ok_or("port: 1 to 65535"));
    Ok(Redirect {
        scheme: scheme.map(Arc::from),
        hostname: part(config, "host")?.map(|host| text::check_host(&host)).transpose()?,
        path: path.map(|path| PathRewrite::Full(Arc::from(path))),
        port: port.transpose()?,
        status: status.ok_or("httpCode: 301, 302, 303, 307, 308")?,
    })
}

fn rewrite(config: &Value, rule: &mut ServiceRule) -> Result<(), String> {
    rule.host = part(config, "host")?.map(|host| text::check_host(&host)).transpose()?;
    if part(config, "query")?.is_some() {
        return Err("Rewrite: query ${query}".to_owned());
    }
    if let Some(path) = part(config, "path")? {
        text::path(&path)?;
        rule.path = Some(Arc::from(path));
    }
    Ok(())
}
