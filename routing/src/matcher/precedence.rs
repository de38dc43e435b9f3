//! Which of two matching rules comes first: the Gateway API's order as an `Ord` key.
//!
//! The controller sorts the rules of a host with it; the table takes the first rule that matches and never
//! compares again. Source: `HTTPRouteRule.matches` in the Gateway API reference.

use std::cmp::Reverse;

use crate::model::{PathMatch, RuleMatch};

/// What decides between matches that are otherwise equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteAge<'a> {
    /// The route's `creationTimestamp`, in seconds since 1970; the oldest route wins.
    pub created: i64,
    /// `namespace/name` of the route; the alphabetically first wins.
    pub namespaced_name: &'a str,
    /// Index of the rule in its route; the first wins. (Matches of one rule keep their order: the sort is stable.)
    pub rule: u32,
}

/// The sort key of a rule: the smallest comes first.
///
/// Exact paths, then regular expressions, then prefixes (the place of regular expressions is the
/// implementation's choice; this is the common one). Among regular expressions and among prefixes the one with
/// more characters comes first; then a method condition, then more header conditions (and such
/// that the API does not have), then more query
/// conditions; then the older route, the alphabetically first `namespace/name`, the first rule. Ingress
/// `ImplementationSpecific` is a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Precedence<'a> {
    path: PathRank,
    path_len: Reverse<usize>,
    method: MethodRank,
    headers: Reverse<usize>,
    query: Reverse<usize>,
    created: i64,
    namespaced_name: &'a str,
    rule: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum PathRank {
    Exact,
    Regex,
    Prefix,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum MethodRank {
    One,
    Any,
}

impl<'a> Precedence<'a> {
    /// The key of `matches` in a route of this age.
    #[must_use]
    pub fn new(matches: &RuleMatch, age: RouteAge<'a>) -> Self {
        // "Characters", not bytes: the API server counts them so.
        let (path, path_len) = match &matches.path {
            PathMatch::Exact(path) => (PathRank::Exact, path.chars().count()),
            PathMatch::Regex(regex) => (PathRank::Regex, regex.as_str().chars().count()),
            PathMatch::Prefix(path) => (PathRank::Prefix, path.chars().count()),
        };
        Self {
            path,
            path_len: Reverse(path_len),
            method: if matches.method.is_some() { MethodRank::One } else { MethodRank::Any },
            headers: Reverse(matches.headers.len() + matches.more.len()),
            query: Reverse(matches.query.len()),
            created: age.created,
            namespaced_name: age.namespaced_name,
            rule: age.rule,
        }
    }
}
