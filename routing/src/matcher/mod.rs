//! Does this rule match this request, and which of those that do comes first?
//!
//! [`path`] indexes the paths of one host's rules, [`header`] and [`query`] check the other conditions, [`host`] takes
//! host names apart, and [`precedence`] is the order in which the controller sorts. Called by the table's `route`
//! and, rule by rule, by its `explain`.

pub mod header;
pub mod host;
pub mod path;
pub mod precedence;
mod predicate;
pub mod query;

use std::fmt;
use std::net::IpAddr;

use regex::bytes::Regex;
use wire::head::RequestView;

use crate::model::{RuleMatch, ValuePattern};
use crate::subject::Subject;

/// The first condition of a rule that does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// The path is another one.
    Path,
    /// The method is another one.
    Method,
    /// The header condition with this index does not hold.
    Header(usize),
    /// The query condition with this index does not hold.
    Query(usize),
    /// The further condition with this index does not hold.
    More(usize),
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path => f.write_str("path does not match"),
            Self::Method => f.write_str("method does not match"),
            Self::Header(index) => write!(f, "headers[{index}] does not match"),
            Self::Query(index) => write!(f, "queryParams[{index}] does not match"),
            Self::More(index) => write!(f, "condition {index} does not match"),
        }
    }
}

/// A worker's own copies of the regexes of one rule, in the order path, headers, query, further conditions.
///
/// A `Regex` that threads share guards its scratch space with a lock; a clone has scratch space of its own.
pub(crate) struct OwnRegexes<'a>(std::slice::Iter<'a, Regex>);

impl<'a> OwnRegexes<'a> {
    /// Copies for one rule; empty = use the rule's own.
    pub(crate) fn new(regexes: &'a [Regex]) -> Self {
        Self(regexes.iter())
    }

    /// The copy of `shared`, when there are copies. Must be called once for each regex, in order.
    pub(crate) fn next_for<'b>(&mut self, shared: &'b Regex) -> &'b Regex
    where
        'a: 'b,
    {
        self.0.next().unwrap_or(shared)
    }
}

/// The conditions of `matches` other than its path. `own` stands after the path's regex.
pub(crate) fn other_mismatch(
    matches: &RuleMatch,
    own: &mut OwnRegexes<'_>,
    view: &RequestView<'_>,
    peer: IpAddr,
) -> Option<Mismatch> {
    if matches.method.is_some_and(|method| method != view.head.method) {
        return Some(Mismatch::Method);
    }
    if let Some(index) = header::first_mismatch(&matches.headers, own, view) {
        return Some(Mismatch::Header(index));
    }
    if let Some(index) = query::first_mismatch(&matches.query, own, view) {
        return Some(Mismatch::Query(index));
    }
    predicate::first_mismatch(&matches.more, own, view, peer).map(Mismatch::More)
}

/// Every condition of `matches`, the path first; `None` = the rule matches. For `explain`, which has time.
#[must_use]
pub fn mismatch(matches: &RuleMatch, subject: &Subject<'_>) -> Option<Mismatch> {
    // A connection has nothing that a condition could ask for.
    let view = subject.http()?;
    if !path::is_match(&matches.path, view.path()) {
        return Some(Mismatch::Path);
    }
    other_mismatch(matches, &mut OwnRegexes::new(&[]), view, subject.peer.ip())
}

fn value_holds(pattern: &ValuePattern, own: &mut OwnRegexes<'_>, value: Option<&[u8]>) -> Holds {
    let holds = match pattern {
        ValuePattern::Exact(wanted) => value.is_some_and(|value| value == wanted.as_bytes()),
        ValuePattern::Regex(regex) => {
            let regex = own.next_for(regex);
            value.is_some_and(|value| regex.is_match(value))
        }
    };
    if holds { Holds::Yes } else { Holds::No }
}

/// Does a condition hold?
#[derive(Clone, Copy, PartialEq, Eq)]
enum Holds {
    Yes,
    No,
}
