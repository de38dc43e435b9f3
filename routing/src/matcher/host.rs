//! Host names as the table looks them up: exact, then wildcards by longest suffix, then any.

use crate::model::{HostPattern, WildcardLabels};

/// Longest host that is looked up by name (RFC 1035 §2.3.4 allows 253 characters); longer ones match only
/// [`HostPattern::Any`]. Bounds the number of suffixes of one lookup to 127.
pub const HOST_BYTES_MAX: usize = 255;

/// A suffix of a host, after one or more whole labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suffix<'a> {
    /// Everything after the dot.
    pub text: &'a [u8],
    /// How many labels stand before it.
    pub before: WildcardLabels,
}

/// The suffixes of `host` that a wildcard could name, the longest first.
pub fn suffixes(host: &[u8]) -> impl Iterator<Item = Suffix<'_>> {
    let dots = host.iter().enumerate().filter(|(at, byte)| **byte == b'.' && *at > 0);
    dots.enumerate().map(move |(nth, (at, _))| Suffix {
        text: &host[at + 1..],
        before: if nth == 0 { WildcardLabels::One } else { WildcardLabels::Many },
    })
}

/// Does `pattern` cover `host` (lower case, no port, no trailing dot)?
#[must_use]
pub fn is_match(pattern: &HostPattern, host: &[u8]) -> bool {
    match pattern {
        HostPattern::Any => true,
        HostPattern::Exact(name) => name.as_bytes() == host,
        HostPattern::Wildcard { suffix, labels } => suffixes(host)
            .any(|candidate| candidate.text == suffix.as_bytes() && covers(*labels, candidate.before)),
    }
}

/// May a `*` that stands for `pattern` labels stand for `labels`?
#[must_use]
pub(crate) fn covers(pattern: WildcardLabels, labels: WildcardLabels) -> bool {
    match (pattern, labels) {
        (WildcardLabels::Many, WildcardLabels::One | WildcardLabels::Many) => true,
        (WildcardLabels::One, WildcardLabels::One) => true,
        (WildcardLabels::One, WildcardLabels::Many) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ingress_wildcard_stands_for_one_label_and_gateway_wildcard_for_one_or_more() {
        let pattern = |labels| HostPattern::Wildcard { suffix: "foo.com".into(), labels };
        assert!(is_match(&pattern(WildcardLabels::One), b"a.foo.com"));
        assert!(!is_match(&pattern(WildcardLabels::One), b"a.b.foo.com"));
        assert!(is_match(&pattern(WildcardLabels::Many), b"a.b.foo.com"));
        assert!(!is_match(&pattern(WildcardLabels::Many), b"foo.com"));
        assert!(!is_match(&pattern(WildcardLabels::Many), b".foo.com"));
        assert!(!is_match(&pattern(WildcardLabels::Many), b"xfoo.com"));
    }
}
