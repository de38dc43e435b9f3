//! Conditions of a rule that the Gateway API does not have: cookies, source addresses, sets of methods, alternatives.

use std::sync::Arc;

use ipnet::IpNet;

use super::{Method, ValueMatch, ValuePattern};

/// One more condition of a rule. Regular expressions are anchored at both ends by the compiler of the rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Predicate {
    /// A cookie. Of a repeated cookie the first counts.
    Cookie(ValueMatch),
    /// A header, as in [`RuleMatch::headers`](super::RuleMatch::headers); for alternatives.
    Header(ValueMatch),
    /// A query parameter; for alternatives.
    Query(ValueMatch),
    /// The client's address, as far as it is trusted, lies in one of these ranges.
    Source(Box<[IpNet]>),
    /// One of these methods.
    Methods(Box<[Method]>),
    /// The host, without its port, is one of these.
    Host(Box<[Arc<str>]>),
    /// The whole path, beside the rule's own path condition.
    Path(ValuePattern),
    /// One of these holds. Alternatives are not nested.
    Any(Box<[Predicate]>),
}
