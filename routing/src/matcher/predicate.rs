//! Conditions that the Gateway API does not have.

use std::net::IpAddr;

use regex::bytes::Regex;
use wire::head::RequestView;

use super::{Holds, OwnRegexes, value_holds};
use crate::model::{Predicate, ValuePattern};

/// The index of the first condition that does not hold.
pub(crate) fn first_mismatch(
    conditions: &[Predicate],
    own: &mut OwnRegexes<'_>,
    view: &RequestView<'_>,
    peer: IpAddr,
) -> Option<usize> {
    conditions.iter().position(|condition| holds(condition, own, view, peer) == Holds::No)
}

fn holds(condition: &Predicate, own: &mut OwnRegexes<'_>, view: &RequestView<'_>, peer: IpAddr) -> Holds {
    let simple = |holds: bool| if holds { Holds::Yes } else { Holds::No };
    match condition {
        Predicate::Cookie(value) => value_holds(&value.value, own, view.cookie(value.name.as_bytes())),
        Predicate::Header(value) => value_holds(&value.value, own, view.header(value.name.as_bytes())),
        Predicate::Query(value) => value_holds(&value.value, own, view.query_param(value.name.as_bytes())),
        Predicate::Source(ranges) => {
            let peer = peer.to_canonical();
            simple(ranges.iter().any(|range| range.contains(&peer)))
        }
        Predicate::Methods(methods) => simple(methods.contains(&view.head.method)),
        Predicate::Host(hosts) => simple(hosts.iter().any(|host| host.as_bytes() == view.host())),
        Predicate::Path(pattern) => value_holds(pattern, own, Some(view.path())),
        // All are looked at: each regex has to be asked for in its turn.
        Predicate::Any(alternatives) => {
            alternatives.iter().fold(Holds::No, |before, alternative| {
                match holds(alternative, own, view, peer) {
                    Holds::Yes => Holds::Yes,
                    Holds::No => before,
                }
            })
        }
    }
}

/// The regexes of conditions, in the order in which they are asked for.
pub(crate) fn regexes(conditions: &[Predicate]) -> Box<dyn Iterator<Item = &Regex> + '_> {
    Box::new(conditions.iter().flat_map(|condition| -> Box<dyn Iterator<Item = &Regex> + '_> {
        match condition {
            Predicate::Cookie(value) | Predicate::Header(value) | Predicate::Query(value) => {
                Box::new(regex_of(&value.value).into_iter())
            }
            Predicate::Path(pattern) => Box::new(regex_of(pattern).into_iter()),
            Predicate::Any(alternatives) => regexes(alternatives),
            Predicate::Source(_) | Predicate::Methods(_) | Predicate::Host(_) => Box::new(std::iter::empty()),
        }
    }))
}

fn regex_of(pattern: &ValuePattern) -> Option<&Regex> {
    match pattern {
        ValuePattern::Regex(regex) => Some(regex),
        ValuePattern::Exact(_) => None,
    }
}
