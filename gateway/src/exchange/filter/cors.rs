//! Cross-origin requests (Fetch standard, "HTTP extensions"): which fields an answer to one carries.

use routing::model::{Allowed, Cors, Origins};
use smallvec::SmallVec;
use wire::head::{Method, RequestView};

/// Fields of a response, by name.
pub(in crate::exchange) type Fields<'a> = SmallVec<[(&'a str, &'a [u8]); 8]>;

/// Does a browser ask whether it may send the request that it has?
pub(super) fn is_preflight(view: &RequestView<'_>) -> bool {
    view.head.method == Method::Options
        && view.header(b"origin").is_some()
        && view.header(b"access-control-request-method").is_some()
}

/// What the response to this request carries. Nothing that allows anything when the origin is not listed.
pub(in crate::exchange) fn fields<'a>(cors: &'a Cors, view: &RequestView<'a>) -> Fields<'a> {
    let mut fields = Fields::new();
    let is_any = cors.origins == Origins::Any && !cors.credentials;
    if !is_any {
        // A cache must not hand one origin's answer to another.
        fields.push(("Vary", b"Origin"));
    }
    let Some(origin) = view.header(b"origin") else {
        if is_any {
            fields.push(("Access-Control-Allow-Origin", b"*"));
        }
        return fields;
    };
    if !admits(&cors.origins, origin) {
        return fields;
    }
    fields.push(("Access-Control-Allow-Origin", if is_any { b"*" } else { origin }));
    if cors.credentials {
        fields.push(("Access-Control-Allow-Credentials", b"true"));
    }
    if is_preflight(view) {
        let mut tell = |name, allowed: &'a Allowed, asked: &[u8]| {
            let told = match allowed {
                Allowed::Safelisted => None,
                Allowed::Asked => view.header(asked),
                Allowed::These(these) => Some(these.as_bytes()),
            };
            fields.extend(told.map(|told| (name, told)));
        };
        tell("Access-Control-Allow-Methods", &cors.methods, b"access-control-request-method");
        tell("Access-Control-Allow-Headers", &cors.headers, b"access-control-request-headers");
        if !cors.max_age.is_empty() {
            fields.push(("Access-Control-Max-Age", cors.max_age.as_bytes()));
        }
    }
    // Browsers read it on the answer itself; the Gateway API wants it on a preflight's, too.
    if !cors.expose.is_empty() {
        fields.push(("Access-Control-Expose-Headers", cors.expose.as_bytes()));
    }
    fields
}

fn admits(origins: &Origins, origin: &[u8]) -> bool {
    match origins {
        Origins::Any => true,
        Origins::List(origins) => {
            let origin = without_own_port(origin);
            origins.iter().any(|pattern| is_origin(pattern, origin))
        }
    }
}

/// An origin as browsers write it: the port of its scheme is left out (RFC 6454 §6.1).
fn without_own_port(origin: &[u8]) -> &[u8] {
    let own: &[u8] = if origin.starts_with(b"https:") { b":443" } else { b":80" };
    origin.strip_suffix(own).unwrap_or(origin)
}

/// Browsers send origins in lower case; `*` stands for one label or more, `?` for one.
fn is_origin(pattern: &str, origin: &[u8]) -> bool {
    let dots = pattern.contains('*');
    match pattern.split_once(['*', '?']) {
        None => pattern.as_bytes() == origin,
        Some((before, after)) => origin
            .strip_prefix(before.as_bytes())
            .and_then(|rest| rest.strip_suffix(after.as_bytes()))
            .is_some_and(|labels| {
                !labels.is_empty()
                    && labels.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-' || dots && *b == b'.')
            }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_labels_only() {
        for (pattern, origin, holds) in [
            ("https://a.example", "https://a.example", true),
            ("https://a.example", "http://a.example", false),
            ("https://*.example", "https://a.b.example", true),
            ("https://*.example", "https://.example", false),
            ("https://*.example", "https://evil.com/.example", false),
            ("https://*.example:8443", "https://a.example:8443", true),
            ("https://*.example", "https://a.example.evil.com", false),
            ("https://*", "https://a.b.example", true),
            ("https://*", "https://a.example:443", true),
            ("https://*", "https://a.example:8443", false),
            ("https://*", "http://a.example", false),
            ("http://a.example", "http://a.example:80", true),
            ("http://a.example", "http://a.example:443", false),
            ("https://?.example", "https://a-1.example", true),
            ("https://?.example", "https://a.b.example", false),
            ("https://?.example", "https://.example", false),
        ] {
            let listed = Origins::List(Box::new([pattern.into()]));
            assert_eq!(admits(&listed, origin.as_bytes()), holds, "{pattern} {origin}");
        }
    }
}
