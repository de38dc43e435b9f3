//! Cross-origin requests (Fetch standard, "HTTP extensions"): which fields an answer to one carries.

use routing::model::{Cors, Origins};
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
    // A wildcard means nothing beside credentials (Fetch): whoever may come is named then.
    let named = cors.credentials || cors.origins != Origins::Any;
    let Some(origin) = view.header(b"origin") else {
        fields.push(if named { ("Vary", b"Origin") } else { ("Access-Control-Allow-Origin", b"*") });
        return fields;
    };
    if named {
        // A cache must not hand one origin's answer to another.
        fields.push(("Vary", b"Origin"));
    }
    match &cors.origins {
        Origins::List(origins) if !origins.iter().any(|pattern| is_origin(pattern, origin)) => return fields,
        Origins::List(_) | Origins::Any => {}
    }
    fields.push(("Access-Control-Allow-Origin", if named { origin } else { b"*" }));
    if cors.credentials {
        fields.push(("Access-Control-Allow-Credentials", b"true"));
    }
    if is_preflight(view) {
        let method = view.header(b"access-control-request-method");
        let every = cors.credentials && &*cors.methods == "*";
        let methods = if every { method } else { Some(cors.methods.as_bytes()) };
        fields.extend(methods.map(|methods| ("Access-Control-Allow-Methods", methods)));
        let asked = view.header(b"access-control-request-headers");
        let headers = if cors.headers.is_empty() { asked } else { Some(cors.headers.as_bytes()) };
        fields.extend(headers.map(|headers| ("Access-Control-Allow-Headers", headers)));
        if !cors.max_age.is_empty() {
            fields.push(("Access-Control-Max-Age", cors.max_age.as_bytes()));
        }
    }
    // Browsers read it on the answer itself; the Gateway API wants it on a preflight's, too.
    if !cors.expose.is_empty() && !(cors.credentials && &*cors.expose == "*") {
        fields.push(("Access-Control-Expose-Headers", cors.expose.as_bytes()));
    }
    fields
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
            ("https://?.example", "https://a-1.example", true),
            ("https://?.example", "https://a.b.example", false),
            ("https://?.example", "https://.example", false),
        ] {
            assert_eq!(is_origin(pattern, origin.as_bytes()), holds, "{pattern} {origin}");
        }
    }
}
