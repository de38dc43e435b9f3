//! Changes to heads and paths, redirects and answers: what a rule does to a request on its way.

use std::sync::Arc;

use regex::bytes::Regex;

use super::UrlPart;

/// Header changes in the order set, add, remove (`HTTPHeaderFilter`). Names are in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    /// Replace the header, or add it when absent.
    pub set: Box<[(Arc<str>, Arc<str>)]>,
    /// Add a line, whatever is there.
    pub add: Box<[(Arc<str>, Arc<str>)]>,
    /// Remove every line of this name.
    pub remove: Box<[Arc<str>]>,
}

impl HeaderEdits {
    /// Is there nothing to change?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }

    /// These changes and then `later` ones, as one: what the later ones set or take away the first do not write.
    #[must_use]
    pub fn then(&self, later: &Self) -> Self {
        if later.is_empty() {
            return self.clone();
        }
        let is_taken =
            |name: &Arc<str>| later.remove.contains(name) || later.set.iter().any(|(set, _)| set == name);
        let kept = |pairs: &[(Arc<str>, Arc<str>)]| -> Vec<_> {
            pairs.iter().filter(|(name, _)| !is_taken(name)).cloned().collect()
        };
        // What the first have set replaces what was there, also where the later ones take it away.
        let replaced = self.set.iter().map(|(name, _)| name).filter(|name| is_taken(name));
        Self {
            set: kept(&self.set).into_iter().chain(later.set.iter().cloned()).collect(),
            add: kept(&self.add).into_iter().chain(later.add.iter().cloned()).collect(),
            remove: self.remove.iter().chain(replaced).chain(&later.remove).cloned().collect(),
        }
    }
}

/// Changes to what the backend sees (`HTTPURLRewriteFilter`, `rewrite-target`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// Replaces the authority.
    pub hostname: Option<Arc<str>>,
    /// Replaces the path.
    pub path: Option<PathRewrite>,
}

/// How a path is replaced.
#[derive(Clone, Debug)]
pub enum PathRewrite {
    /// The whole path becomes this.
    Full(Arc<str>),
    /// The matched prefix becomes this; the rest of the path stays (`ReplacePrefixMatch`).
    Prefix {
        /// The prefix that the rule matched, without a trailing slash.
        matched: Arc<str>,
        /// What stands in its place.
        replacement: Arc<str>,
    },
    /// The path becomes this template, in which `$1`…`$9` are the captures of the rule's path regex.
    Captures {
        /// The rule's path regex.
        regex: Regex,
        /// The template.
        template: Arc<str>,
    },
}

impl PartialEq for PathRewrite {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Full(a), Self::Full(b)) => a == b,
            (Self::Prefix { matched: a, replacement: x }, Self::Prefix { matched: b, replacement: y }) => {
                a == b && x == y
            }
            (Self::Captures { regex: a, template: x }, Self::Captures { regex: b, template: y }) => {
                a.as_str() == b.as_str() && x == y
            }
            (Self::Full(_) | Self::Prefix { .. } | Self::Captures { .. }, _) => false,
        }
    }
}

impl Eq for PathRewrite {}

/// A redirect (`HTTPRequestRedirectFilter`). What is absent stays as in the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<Arc<str>>,
    /// Host of the location.
    pub hostname: Option<Arc<str>>,
    /// Path of the location.
    pub path: Option<PathRewrite>,
    /// Port of the location; left out where it is the scheme's own.
    pub port: Option<u16>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

/// What becomes of names of inner hosts and paths in a backend's response (`proxy_redirect`, `proxy_cookie_domain` and
/// `proxy_cookie_path` of nginx).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ValueRewrites {
    /// Of `Location`.
    pub location: Option<ValueRewrite>,
    /// Of the `Domain` of each `Set-Cookie`, without its leading dot.
    pub cookie_domain: Option<ValueRewrite>,
    /// Of the `Path` of each `Set-Cookie`.
    pub cookie_path: Option<ValueRewrite>,
}

impl ValueRewrites {
    /// Do they touch cookies?
    #[must_use]
    pub fn is_of_cookies(&self) -> bool {
        self.cookie_domain.is_some() || self.cookie_path.is_some()
    }
}

/// How a value is replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueRewrite {
    /// What of it, and when.
    pub from: ValueFrom,
    /// By what.
    pub to: Box<[ValuePart]>,
}

/// Which values are replaced.
#[derive(Clone, Debug)]
pub enum ValueFrom {
    /// Those that begin so; the beginning alone is replaced.
    Prefix(Arc<str>),
    /// Those that are this, whatever the case.
    Whole(Arc<str>),
    /// Those that match; as a whole.
    Regex(Regex),
}

impl PartialEq for ValueFrom {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Prefix(a), Self::Prefix(b)) | (Self::Whole(a), Self::Whole(b)) => a == b,
            (Self::Regex(a), Self::Regex(b)) => a.as_str() == b.as_str(),
            (Self::Prefix(_) | Self::Whole(_) | Self::Regex(_), _) => false,
        }
    }
}

impl Eq for ValueFrom {}

/// One part of what a value is replaced by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValuePart {
    /// Text, or a fact of the request.
    Fact(UrlPart),
    /// What this group of the regular expression captured.
    Capture(u8),
}

/// An answer that the gateway gives itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FixedResponse {
    /// The status, 200 to 599.
    pub status: u16,
    /// `Content-Type` of the body; empty = none is sent.
    pub content_type: Arc<str>,
    /// The body; at most 16 KiB.
    pub body: Arc<str>,
    /// `Location`; empty = none is sent.
    pub location: Arc<str>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> Box<[(Arc<str>, Arc<str>)]> {
        pairs.iter().map(|(name, value)| (Arc::from(*name), Arc::from(*value))).collect()
    }

    #[test]
    fn of_changes_one_after_the_other_the_later_win() {
        let first = HeaderEdits {
            set: pairs(&[("a", "1"), ("b", "1")]),
            add: pairs(&[("c", "1")]),
            remove: ["d".into()].into(),
        };
        let later =
            HeaderEdits { set: pairs(&[("a", "2")]), add: Box::default(), remove: ["c".into()].into() };
        let both = first.then(&later);
        assert_eq!(both.set, pairs(&[("b", "1"), ("a", "2")]));
        assert_eq!(both.add, pairs(&[]));
        assert_eq!(both.remove.iter().map(|name| &**name).collect::<Vec<_>>(), ["d", "a", "c"]);
        assert_eq!(first.then(&HeaderEdits::default()), first);
    }
}
