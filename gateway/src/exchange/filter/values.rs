//! Inner names in a response on its way out: `Location`, and `Domain` and `Path` of cookies. Pure.

use routing::model::{HeaderEdits, ValueFrom, ValuePart, ValueRewrite, ValueRewrites};
use smallvec::SmallVec;
use wire::head::{Known, RequestView, ResponseView};

use super::external::render;

/// The fields of a response that were rewritten.
#[derive(Default)]
pub(in crate::exchange) struct Rewritten {
    location: Option<Vec<u8>>,
    /// All of them, as soon as one may be rewritten.
    cookies: Option<SmallVec<[Vec<u8>; 4]>>,
}

impl Rewritten {
    /// As the gateway writes them.
    pub(in crate::exchange) fn fields(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let location = self.location.iter().map(|value| ("Location", &**value));
        location.chain(self.cookies.iter().flatten().map(|value| ("Set-Cookie", &**value)))
    }

    /// Do its cookies stand for those of the backend?
    pub(in crate::exchange) fn replaces_cookies(&self) -> bool {
        self.cookies.is_some()
    }
}

/// What becomes of a response to this request. What the rule itself sets or takes away is left to it.
pub(in crate::exchange) fn rewritten(
    values: &ValueRewrites,
    asked: (&RequestView<'_>, bool),
    response: &ResponseView<'_>,
    edits: &HeaderEdits,
) -> Rewritten {
    let is_edited = |name: &str| {
        edits.set.iter().any(|(set, _)| **set == *name)
            || edits.remove.iter().any(|removed| **removed == *name)
    };
    let mut out = Rewritten::default();
    if let Some(rewrite) = values.location.as_ref().filter(|_| !is_edited("location")) {
        let location = response.header(b"location");
        out.location = location.and_then(|location| replaced(rewrite, location, asked));
    }
    if values.is_of_cookies() && !is_edited("set-cookie") {
        let lines = response.head.headers.iter().filter(|field| field.known == Known::SetCookie);
        let cookies = lines.map(|field| cookie(values, field.value.of(response.bytes), asked));
        out.cookies = Some(cookies.collect());
    }
    out
}

/// A cookie with the attributes that it has become to have (RFC 6265 §4.1.1).
fn cookie(values: &ValueRewrites, line: &[u8], asked: (&RequestView<'_>, bool)) -> Vec<u8> {
    let mut out = Vec::with_capacity(line.len() + 32);
    for (nth, part) in line.split(|byte| *byte == b';').enumerate() {
        if nth > 0 {
            out.push(b';');
        }
        let equals = memchr::memchr(b'=', part).filter(|_| nth > 0);
        let Some((name, value)) = equals.map(|at| (&part[..at], part[at + 1..].trim_ascii())) else {
            out.extend_from_slice(part);
            continue;
        };
        let attribute = name.trim_ascii();
        let new = if attribute.eq_ignore_ascii_case(b"domain") {
            let value = value.strip_prefix(b".").unwrap_or(value);
            values.cookie_domain.as_ref().and_then(|rewrite| replaced(rewrite, value, asked))
        } else if attribute.eq_ignore_ascii_case(b"path") {
            values.cookie_path.as_ref().and_then(|rewrite| replaced(rewrite, value, asked))
        } else {
            None
        };
        match new {
            Some(new) => {
                out.extend_from_slice(name);
                out.push(b'=');
                out.extend_from_slice(&new);
            }
            None => out.extend_from_slice(part),
        }
    }
    out
}

/// What takes the value's place; `None` = it stays.
fn replaced(
    rewrite: &ValueRewrite,
    value: &[u8],
    (request, tls): (&RequestView<'_>, bool),
) -> Option<Vec<u8>> {
    let (rest, captures) = match &rewrite.from {
        ValueFrom::Prefix(start) => (value.strip_prefix(start.as_bytes())?, None),
        ValueFrom::Whole(whole) if value.eq_ignore_ascii_case(whole.as_bytes()) => (&value[..0], None),
        ValueFrom::Whole(_) => return None,
        ValueFrom::Regex(regex) => (&value[..0], Some(regex.captures(value)?)),
    };
    let mut out = Vec::with_capacity(value.len() + 64);
    for part in &rewrite.to {
        match part {
            ValuePart::Fact(fact) => render(fact, request, tls, &mut out),
            ValuePart::Capture(group) => {
                let group = captures.as_ref().and_then(|captures| captures.get(usize::from(*group)));
                out.extend_from_slice(group.map_or(&[][..], |group| group.as_bytes()));
            }
        }
    }
    out.extend_from_slice(rest);
    Some(out)
}
