//! The path and the location that a rule's rewrite or redirect asks for. Pure.

use routing::model::{PathRewrite, Redirect, Rewrite};
use wire::head::RequestView;

/// The path that the backend sees, when the rule changes it; written into `out`.
pub(super) fn path<'a>(rewrite: &Rewrite, path: &[u8], out: &'a mut Vec<u8>) -> Option<&'a [u8]> {
    let change = rewrite.path.as_ref()?;
    out.clear();
    apply(change, path, out);
    Some(out)
}

/// The value of Location.
pub(super) fn location(
    redirect: &Redirect,
    view: &RequestView<'_>,
    (own_scheme, listener_port): (&str, u16),
    out: &mut Vec<u8>,
) {
    let scheme = redirect.scheme.as_deref().unwrap_or(own_scheme);
    out.clear();
    out.extend_from_slice(scheme.as_bytes());
    out.extend_from_slice(b"://");
    match &redirect.hostname {
        Some(host) => out.extend_from_slice(host.as_bytes()),
        None => out.extend_from_slice(view.host()),
    }
    // GEP-1742 and the Gateway API's rules for `port`: given, else the scheme's own when a scheme is given, else
    // the listener's. The scheme's own is not written.
    let own = if scheme == "https" { 443 } else { 80 };
    let port = redirect.port.unwrap_or(if redirect.scheme.is_some() { own } else { listener_port });
    if port != own {
        out.push(b':');
        out.extend_from_slice(itoa::Buffer::new().format(port).as_bytes());
    }
    match &redirect.path {
        Some(change) => apply(change, view.path(), out),
        None => out.extend_from_slice(view.path()),
    }
    if let Some(query) = view.query() {
        out.push(b'?');
        out.extend_from_slice(query);
    }
}

fn apply(change: &PathRewrite, path: &[u8], out: &mut Vec<u8>) {
    match change {
        PathRewrite::Full(full) => out.extend_from_slice(full.as_bytes()),
        PathRewrite::Prefix { matched, replacement } => {
            let matched = matched.trim_end_matches('/').as_bytes();
            let rest = path.strip_prefix(matched).unwrap_or(path);
            let replacement = replacement.trim_end_matches('/').as_bytes();
            out.extend_from_slice(replacement);
            if !rest.is_empty() && !rest.starts_with(b"/") {
                out.push(b'/');
            }
            out.extend_from_slice(rest);
            if replacement.is_empty() && rest.is_empty() {
                out.push(b'/');
            }
        }
        PathRewrite::Captures { regex, template } => {
            let start = out.len();
            if let Some(captures) = regex.captures(path) {
                expand(&captures, template.as_bytes(), out);
            }
            if out.get(start) != Some(&b'/') {
                out.insert(start, b'/');
            }
        }
    }
}

/// `$1`…`$9` and `${1}`…`${9}` become the captures; what did not take part in the match becomes nothing.
fn expand(captures: &regex::bytes::Captures<'_>, template: &[u8], out: &mut Vec<u8>) {
    let mut rest = template;
    while let Some(at) = memchr::memchr(b'$', rest) {
        out.extend_from_slice(&rest[..at]);
        rest = &rest[at + 1..];
        let (digit, used) = match rest {
            [b'{', digit @ b'0'..=b'9', b'}', ..] => (*digit, 3),
            [digit @ b'0'..=b'9', ..] => (*digit, 1),
            _ => {
                out.push(b'$');
                continue;
            }
        };
        if let Some(group) = captures.get(usize::from(digit - b'0')) {
            out.extend_from_slice(group.as_bytes());
        }
        rest = &rest[used..];
    }
    out.extend_from_slice(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(change: PathRewrite, from: &str) -> String {
        let mut out = Vec::new();
        apply(&change, from.as_bytes(), &mut out);
        String::from_utf8(out).unwrap()
    }

    /// The table of the Gateway API's `ReplacePrefixMatch`.
    #[test]
    fn prefix_replacement_follows_the_gateway_api_table() {
        for (from, prefix, replacement, to) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            ("/bar", "/", "/xyz", "/xyz/bar"),
        ] {
            let change = PathRewrite::Prefix { matched: prefix.into(), replacement: replacement.into() };
            assert_eq!(rewritten(change, from), to, "{from} {prefix} {replacement}");
        }
    }

    #[test]
    fn captures_fill_the_template_and_a_path_stays_a_path() {
        let regex = regex::bytes::Regex::new("^/api/([^/]+)(/.*)?$").unwrap();
        let change =
            |template: &str| PathRewrite::Captures { regex: regex.clone(), template: template.into() };
        assert_eq!(rewritten(change("/v2/$1$2"), "/api/cart/items"), "/v2/cart/items");
        assert_eq!(rewritten(change("${1}"), "/api/cart"), "/cart");
        assert_eq!(rewritten(change("/a$"), "/api/cart"), "/a$");
    }
}
