//! Where the controller leans on `routing`'s own rules: precedence, indexed host rules, hash rings.

use std::net::SocketAddr;

use routing::balance::hash;
use routing::id::EndpointId;
use routing::matcher::precedence::{Precedence, RouteAge};
use routing::model::{HashRing, HostRules, Rule};

use crate::compile::route::{RouteOutput, Row};

/// A row with the route that it came from.
pub type Placed<'a> = (&'a RouteOutput, &'a Row);

/// Sorts the rows of one host: the first that matches a request is the one that the API says.
pub fn sort(rows: &mut [Placed<'_>]) {
    rows.sort_by_cached_key(|(route, row)| {
        let age = RouteAge {
            created: route.created,
            namespaced_name: &route.namespaced_name,
            rule: u32::from(row.action.rule_index),
        };
        (row.rank, row.order, Precedence::new(&row.matches, age))
    });
}

/// The rules of one host, with their index.
#[must_use]
pub fn host_rules(rules: Vec<Rule>) -> HostRules {
    HostRules::new(rules)
}

/// The consistent-hash ring of one backend in one cluster.
#[must_use]
pub fn ring(cluster: &str, endpoints: &[(EndpointId, SocketAddr)]) -> HashRing {
    hash::ring(cluster, endpoints)
}
