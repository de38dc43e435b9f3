//! Connections that are passed on: which rule by SNI or by nothing, and the same pick as for requests.
#![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

mod common;

use std::net::SocketAddr;
use std::sync::Arc;

use common::*;
use routing::failover::Tried;
use routing::health::endpoint::Outcome;
use routing::id::{BindId, ClusterId, EndpointId, ListenerId};
use routing::model::*;
use routing::subject::{Subject, SubjectKind};
use routing::table::{NoEndpoint, NoRoute, Table, TableSettings};
use routing::time::MonoTime;

fn connection<'a>(kind: SubjectKind<'a>, peer: &str) -> Subject<'a> {
    Subject { bind: BindId(0), peer: SocketAddr::new(peer.parse().unwrap(), 4711), kind }
}

fn named(name: &str) -> SubjectKind<'_> {
    SubjectKind::Tls { sni: Some(name.as_bytes()), alpn: b"h2" }
}

fn table(world: &routing::delta::RouteTable) -> Table {
    let mut table = Table::new(TableSettings::default());
    let update = routing::delta::Update {
        generation: routing::id::Generation(1),
        base_generation: routing::id::Generation(0),
        observed_ns: 0,
        change: routing::delta::Change::Table(routing::delta::snapshot(world)),
    };
    table.apply(&update, MonoTime::ZERO).unwrap();
    table
}

fn rules(name: &str, policy: &Arc<Policy>) -> Arc<HostRules> {
    let action = action(name, 0, forward(&[(0, 1)]), Arc::clone(policy));
    Arc::new(HostRules::new([Rule { matches: prefix("/"), action }]))
}

/// Listener 0 has every name, listener 1 those below example.com.
fn by_name() -> Table {
    let policy = Arc::new(plan(&[(0, 0, None)]));
    let mut world = world(&["alpha"], &[(0, 1)], (*policy).clone());
    world.endpoints.insert(EndpointId(0), endpoint(0, 0, 1));
    world.listeners.insert(ListenerId(1), listener(0, wildcard("example.com", WildcardLabels::Many)));
    world.hosts.insert(key(0, HostPattern::Any), rules("any", &policy));
    world.hosts.insert(key(0, exact("db.other.org")), rules("exact", &policy));
    world.hosts.insert(key(1, exact("a.example.com")), rules("a", &policy));
    world.hosts.insert(key(1, wildcard("deep.example.com", WildcardLabels::Many)), rules("deep", &policy));
    table(&world)
}

#[test]
fn a_name_goes_to_the_most_specific_listener_and_rule_and_no_name_to_the_rule_for_all() {
    let table = by_name();
    let route =
        |kind| table.route(&connection(kind, "192.0.2.7")).map(|rule| rule.action().route.to_string());
    assert_eq!(route(named("db.other.org")).as_deref(), Ok("exact"));
    assert_eq!(route(named("any.name")).as_deref(), Ok("any"));
    assert_eq!(route(named("a.example.com")).as_deref(), Ok("a"));
    assert_eq!(route(named("x.y.deep.example.com")).as_deref(), Ok("deep"));
    // Its listener owns the name alone: the rule of the other listener does not get it.
    assert_eq!(route(named("b.example.com")), Err(NoRoute::Host));
    assert_eq!(route(SubjectKind::Tls { sni: None, alpn: b"" }).as_deref(), Ok("any"));
    assert_eq!(route(SubjectKind::Tcp).as_deref(), Ok("any"));
    let explained = table.explain(&connection(named("a.example.com"), "192.0.2.7"), MonoTime::ZERO);
    assert_eq!((explained.rules.len(), explained.backends.len()), (1, 1));
}

fn two_clusters(policy: Policy) -> Table {
    let mut world = world(&["alpha", "beta"], &[(0, 1)], policy);
    for n in 0..4 {
        let cluster = u16::try_from(n / 2).unwrap();
        world.endpoints.insert(EndpointId(n), endpoint(0, cluster, n));
    }
    table(&world)
}

fn pick(table: &Table, peer: &str) -> Result<(ClusterId, SocketAddr), NoEndpoint> {
    let subject = connection(SubjectKind::Tcp, peer);
    let rule = table.route(&subject).unwrap();
    let pick = table.pick(&rule, &subject, &Tried::new(), MonoTime::ZERO, &mut rng(1))?;
    table.release(pick.endpoint);
    Ok((pick.cluster, pick.addr))
}

#[test]
fn a_source_pins_a_connection_and_conditions_on_a_head_never_match_one() {
    let pin = |when, cluster| Pin { when, cluster: ClusterId(cluster), strict: false };
    let pins = [
        pin(PinMatch::Header("host".into(), "x".into()), 1),
        pin(PinMatch::SourceCidr("192.0.2.0/24".parse().unwrap()), 1),
    ];
    let table = two_clusters(Policy { pins: pins.into(), ..plan(&[(0, 0, None), (1, 1, None)]) });
    assert_eq!(pick(&table, "192.0.2.7").map(|(cluster, _)| cluster), Ok(ClusterId(1)));
    assert_eq!(pick(&table, "198.51.100.7").map(|(cluster, _)| cluster), Ok(ClusterId(0)));
}

#[test]
fn a_hash_of_the_source_keeps_a_client_on_its_endpoint_and_one_of_a_header_falls_back() {
    for key in [HashKey::Source, HashKey::Path] {
        let balance = Balance::ConsistentHash(key.clone());
        let policy = Policy { balance, ..plan(&[(0, 0, None)]) };
        let mut world = world(&["alpha"], &[(0, 1)], policy);
        let all: Vec<_> = (0..4).map(|n| (EndpointId(n), endpoint(0, 0, n).addr)).collect();
        for n in 0..4 {
            world.endpoints.insert(EndpointId(n), endpoint(0, 0, n));
        }
        let ring = routing::balance::hash::ring("alpha", &all);
        world.rings.insert((routing::id::BackendId(0), ClusterId(0)), Arc::new(ring));
        let table = table(&world);
        let of = |n: u8| pick(&table, &format!("192.0.2.{n}")).unwrap().1;
        assert!((0..50).all(|n| of(n) == of(n)), "{key:?}");
        let distinct: std::collections::BTreeSet<_> = (0..50).map(of).collect();
        // Without anything to hash the balancer chooses, here with the same randomness each time.
        assert_eq!(distinct.len(), if key == HashKey::Source { 4 } else { 1 }, "{key:?}");
    }
}

#[test]
fn the_write_fence_keeps_connections_from_a_standby_for_they_may_write() {
    let policy = Policy { write_fence: WriteFence::UntilPromoted, ..plan(&[(0, 0, None), (1, 1, None)]) };
    let mut world = world(&["alpha", "beta"], &[(0, 1)], policy);
    world.endpoints.insert(EndpointId(0), endpoint(0, 1, 0));
    assert_eq!(pick(&table(&world), "192.0.2.7"), Err(NoEndpoint::Fenced { cluster: ClusterId(1) }));
}

#[test]
fn what_listeners_ask_of_connections_changes_without_closing_them() {
    let asks = Arc::new(Layer4 { connections_max: 7, ..Layer4::default() });
    let base = |layer4| {
        let mut world = world(&["alpha"], &[(0, 1)], plan(&[(0, 0, None)]));
        let mut spec = (*listener(0, HostPattern::Any)).clone();
        (spec.protocol, spec.layer4) = (Protocol::Tcp, layer4);
        world.listeners.insert(ListenerId(0), Arc::new(spec));
        world
    };
    let (before, after) = (base(None), base(Some(Arc::clone(&asks))));
    let mut table = table(&before);
    let update = routing::delta::Update {
        generation: routing::id::Generation(2),
        base_generation: routing::id::Generation(1),
        observed_ns: 0,
        change: routing::delta::Change::Table(routing::delta::diff(&before, &after)),
    };
    let applied = table.apply(&update, MonoTime::ZERO).unwrap();
    assert!(applied.closed.is_empty() && applied.opened.is_empty());
    assert_eq!(table.layer4(BindId(0)), Some(&asks));
}

/// A connection whose client comes from another address goes where it was, while that takes anything.
#[test]
fn an_endpoint_is_picked_again_for_the_same_connection_until_it_leaves_the_table() {
    let base = |endpoints: &[u32]| {
        let mut world = world(&["alpha"], &[(0, 1)], plan(&[(0, 0, None)]));
        for n in endpoints {
            world.endpoints.insert(EndpointId(*n), endpoint(0, 0, *n));
        }
        world
    };
    let (before, after) = (base(&[0, 1, 2, 3]), base(&[0, 1, 2]));
    let mut table = table(&before);
    let subject = connection(SubjectKind::Udp, "192.0.2.7");
    let rule = table.route(&subject).unwrap();
    let (first, mut rng) = (Tried::new(), rng(7));
    let picks: Vec<_> =
        (0..64).map(|_| table.pick(&rule, &subject, &first, MonoTime::ZERO, &mut rng).unwrap()).collect();
    for pick in &picks {
        let again = table.pick_at(pick.endpoint, &rule, &subject, MonoTime::ZERO, &mut rng).unwrap();
        assert_eq!((again.endpoint, again.addr, again.trial), (pick.endpoint, pick.addr, false));
        table.release(again.endpoint);
    }
    let refusing = picks.iter().find(|pick| pick.id == EndpointId(0)).unwrap().endpoint;
    table.on_outcome(refusing, Outcome::Refused, None, MonoTime::ZERO, &Policy::default().outlier);
    assert_eq!(table.pick_at(refusing, &rule, &subject, MonoTime::ZERO, &mut rng), None, "nobody is there");
    let leaver = picks.iter().find(|pick| pick.id == EndpointId(3)).unwrap();
    assert!(table.is_listed(leaver.endpoint));
    let update = routing::delta::Update {
        generation: routing::id::Generation(2),
        base_generation: routing::id::Generation(1),
        observed_ns: 0,
        change: routing::delta::Change::Table(routing::delta::diff(&before, &after)),
    };
    table.apply(&update, MonoTime::ZERO).unwrap();
    // It is held, so it is known; but it takes nothing new.
    assert!(!table.is_listed(leaver.endpoint));
    assert_eq!(table.pick_at(leaver.endpoint, &rule, &subject, MonoTime::ZERO, &mut rng), None);
    picks.iter().for_each(|pick| table.release(pick.endpoint));
}
