//! Inner names in responses: `proxy-redirect-from`, `proxy-redirect-to`, `proxy-cookie-domain`, `proxy-cookie-path`.
//!
//! What they hold is nginx's, read as a closed grammar: a beginning or a regular expression, and a text with captures and, in
//! a Location, facts of the request.

use std::sync::Arc;

use routing::model::{UrlPart, ValueFrom, ValuePart, ValueRewrite, ValueRewrites};

use super::external::parts;
use super::given::Given;
use super::{Annotations, Reading};
use crate::text;
use crate::text::Regexes;

/// Where nothing is rewritten: also ingress-nginx's `default`, for its own name of the backend stands in no Location.
const NOTHING: [&str; 2] = ["off", "default"];

pub(super) fn read(given: &mut Given<'_, '_>, reading: &mut Reading<'_>, out: &mut Annotations) {
    let values = ValueRewrites {
        location: redirect(given, reading.regexes),
        cookie_domain: cookie(given, "proxy-cookie-domain", &mut |text| domain(text, reading.regexes)),
        cookie_path: cookie(given, "proxy-cookie-path", &mut |text| beginning(text, reading.regexes)),
    };
    out.checks.values = (values != ValueRewrites::default()).then(|| Arc::new(values));
}

fn redirect(given: &mut Given<'_, '_>, regexes: &mut Regexes) -> Option<ValueRewrite> {
    let pair = ["proxy-redirect-from", "proxy-redirect-to"];
    for (one, other) in [(pair[0], pair[1]), (pair[1], pair[0])] {
        if given.family(other).is_none() {
            given.ignore(one, &format!("it says something only together with {other}"));
            return None;
        }
    }
    let from = given.parse(pair[0], |text| match text {
        text if NOTHING.contains(&text) => Ok(None),
        text => beginning(text, regexes).map(Some),
    });
    let to = given.parse(pair[1], |text| match text {
        "off" => Ok(None),
        text => replacement(text, Facts::Allowed).map(Some),
    });
    let (Some(Some(from)), Some(Some(to))) = (from, to) else { return None };
    Some(ValueRewrite { from, to })
}

type Read<'a> = &'a mut dyn FnMut(&str) -> Result<ValueFrom, String>;

/// `off`, or two words.
fn cookie(given: &mut Given<'_, '_>, name: &str, from: Read<'_>) -> Option<ValueRewrite> {
    let read = given.parse(name, |text| {
        if text == "off" {
            return Ok(None);
        }
        let words: Vec<&str> = text.split_whitespace().collect();
        let [first, second] = words[..] else {
            return Err("off, or two words: what, and by what".to_owned());
        };
        let to = if name == "proxy-cookie-domain" { second.trim_start_matches('.') } else { second };
        Ok(Some(ValueRewrite { from: from(first)?, to: replacement(to, Facts::Refused)? }))
    });
    read.flatten()
}

/// The beginning of a value, `~` and a regular expression, or `~*` and one that ignores case.
fn beginning(text: &str, regexes: &mut Regexes) -> Result<ValueFrom, String> {
    if let Some(regex) = expression(text, regexes) {
        return regex;
    }
    plain(text).map(ValueFrom::Prefix)
}

fn domain(text: &str, regexes: &mut Regexes) -> Result<ValueFrom, String> {
    if let Some(regex) = expression(text, regexes) {
        return regex;
    }
    text::check_host(text.trim_start_matches('.')).map(ValueFrom::Whole)
}

fn expression(text: &str, regexes: &mut Regexes) -> Option<Result<ValueFrom, String>> {
    let pattern = text.strip_prefix('~')?;
    let (flag, pattern) = pattern.strip_prefix('*').map_or(("", pattern), |pattern| ("i", pattern));
    // Alone first: what is not closed there would be closed here.
    let alone = regexes.anchored(pattern);
    let read = alone.and_then(|_| regexes.anchored(&format!("(?s:.*?)(?{flag}:{pattern})(?s:.*)")));
    Some(read.map(ValueFrom::Regex))
}

fn plain(text: &str) -> Result<Arc<str>, String> {
    let visible =
        text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'<' | b'>' | b'\\' | b';' | b'$'));
    if !visible || text.is_empty() || text.len() > text::VALUE_CHARS_MAX {
        return Err(format!(
            "1 to {} visible ASCII characters without ';', quotes and variables ('$'), or ~ and a regular expression",
            text::VALUE_CHARS_MAX
        ));
    }
    Ok(Arc::from(text))
}

/// May the request's own words stand in it? Not in cookies: a `;` of a path would become an attribute.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Facts {
    Allowed,
    Refused,
}

/// Text, `$1` to `$9` or `${1}` to `${9}`, and facts.
fn replacement(text: &str, facts: Facts) -> Result<Box<[ValuePart]>, String> {
    let (mut out, mut rest) = (Vec::new(), text);
    let before = |text: &str, out: &mut Vec<ValuePart>| {
        if text.is_empty() {
            return Ok(());
        }
        if text.contains(';') {
            return Err("no ';'".to_owned());
        }
        let read = parts(text)?;
        if facts == Facts::Refused && read.iter().any(|part| !matches!(part, UrlPart::Text(_))) {
            return Err("no variables ('$') but the captures $1 to $9".to_owned());
        }
        out.extend(read.into_iter().map(ValuePart::Fact));
        Ok(())
    };
    let mut from = 0;
    while let Some(at) = rest[from..].find('$').map(|at| at + from) {
        let (group, used) = match rest.as_bytes()[at + 1..] {
            [b'{', digit @ b'1'..=b'9', b'}', ..] => (digit - b'0', 4),
            [digit @ b'1'..=b'9', ..] => (digit - b'0', 2),
            _ => {
                from = at + 1;
                continue;
            }
        };
        before(&rest[..at], &mut out)?;
        out.push(ValuePart::Capture(group));
        (rest, from) = (&rest[at + used..], 0);
    }
    before(rest, &mut out)?;
    if out.is_empty() { Err("what takes its place".to_owned()) } else { Ok(out.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replacement_is_text_captures_and_facts() {
        let text = |text: &str| ValuePart::Fact(UrlPart::Text(Arc::from(text)));
        let read = |given: &str| replacement(given, Facts::Allowed).map(<[_]>::into_vec);
        assert_eq!(read("/a"), Ok(vec![text("/a")]));
        let all = [
            ValuePart::Fact(UrlPart::Scheme),
            text("://"),
            ValuePart::Fact(UrlPart::Host),
            text("/"),
            ValuePart::Capture(1),
            text("/x"),
            ValuePart::Capture(2),
        ];
        assert_eq!(read("$scheme://$host/$1/x${2}"), Ok(all.to_vec()));
        for bad in ["", "a;b", "$pid", "a\"b", "$0"] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert!(replacement("$host", Facts::Refused).is_err());
        assert!(replacement("/$1", Facts::Refused).is_ok());
    }
}
