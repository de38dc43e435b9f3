//! The laws of the boundary (`routing::delta`), on random tables.
#![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

mod common;

use std::sync::Arc;

use common::*;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use routing::delta::{Change, RouteTable, Update, diff, snapshot};
use routing::id::{BackendId, ClusterId, EndpointId, Generation, ListenerId};
use routing::model::*;
use routing::table::{OutOfStep, Table, TableSettings};
use routing::time::MonoTime;

fn table() -> impl Strategy<Value = RouteTable> {
    let clusters = btree_map(0u16..3, 0u8..3, 0..3);
    let backends = btree_map(0u32..4, 0u8..3, 0..4);
    let endpoints = btree_map(0u32..12, (0u32..4, 0u16..3, 0u32..20, any::<bool>()), 0..12);
    let listeners = btree_map(0u32..3, 0u16..3, 0..3);
    let hosts = btree_map((0u32..3, 0u8..4), 0u8..3, 0..6);
    let rings = btree_map((0u32..4, 0u16..3), 0u64..3, 0..4);
    (clusters, backends, endpoints, listeners, hosts, rings).prop_map(
        |(clusters, backends, endpoints, listeners, hosts, rings)| {
            let mut table = RouteTable::default();
            for (id, name) in clusters {
                table.clusters.insert(ClusterId(id), cluster(&format!("c{name}")));
            }
            for (id, name) in backends {
                table.backends.insert(BackendId(id), backend(&format!("b{name}")));
            }
            for (id, (owner, cluster, n, ready)) in endpoints {
                let condition = if ready { Condition::Ready } else { Condition::Terminating };
                table
                    .endpoints
                    .insert(EndpointId(id), EndpointSpec { condition, ..endpoint(owner, cluster, n) });
            }
            for (id, bind) in listeners {
                table.listeners.insert(ListenerId(id), listener(bind, HostPattern::Any));
            }
            for ((listener, name), path) in hosts {
                let action = action("r", 0, forward(&[(0, 1)]), Arc::new(Policy::default()));
                let rules = HostRules::new([Rule { matches: prefix(&format!("/{path}")), action }]);
                table.hosts.insert(key(listener, exact(&format!("h{name}"))), Arc::new(rules));
            }
            for ((backend, cluster), point) in rings {
                let ring = HashRing { points: [(point, EndpointId(0))].into() };
                table.rings.insert((BackendId(backend), ClusterId(cluster)), Arc::new(ring));
            }
            table
        },
    )
}

/// What a worker's table shows of itself.
fn shown(table: &Table) -> impl PartialEq + std::fmt::Debug + use<> {
    let mut hosts: Vec<_> = table.hosts().map(|host| (host.key.clone(), host.rules.rules.clone())).collect();
    hosts.sort_by(|a, b| a.0.cmp(&b.0));
    let listeners: Vec<_> = table.listeners().into_iter().map(|view| (view.id, view.spec.clone())).collect();
    let clusters = table.clusters();
    let mut endpoints: Vec<_> = (0..4)
        .flat_map(|backend| table.endpoints(BackendId(backend)))
        .map(|view| (view.id, view.addr, view.cluster, view.backend, view.condition, view.health))
        .collect();
    endpoints.sort_by_key(|view| view.0);
    let backends: Vec<_> = table.backends().into_iter().map(|view| (view.id, view.name)).collect();
    (hosts, listeners, clusters, endpoints, backends)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn applying_the_difference_gives_the_new_table(a in table(), b in table()) {
        let mut applied = a.clone();
        applied.apply(&diff(&a, &b));
        prop_assert_eq!(applied, b);
    }

    #[test]
    fn nothing_differs_from_itself(a in table(), b in table()) {
        prop_assert!(diff(&a, &a).is_empty());
        // Equal by value, behind other Arcs: what a full recompile yields.
        let mut copy = b.clone();
        for rules in copy.hosts.values_mut() {
            *rules = Arc::new(HostRules::new(rules.rules.clone()));
        }
        for spec in copy.clusters.values_mut() {
            *spec = Arc::new(ClusterSpec::clone(spec));
        }
        prop_assert!(diff(&b, &copy).is_empty());
    }

    #[test]
    fn two_changes_at_once_equal_one_after_the_other(tables in vec(table(), 4)) {
        let [a, b, c, start] = <[RouteTable; 4]>::try_from(tables).unwrap();
        let (first, second) = (diff(&a, &b), diff(&b, &c));
        // `start` need not be `a`: the law holds for any table.
        let mut stepwise = start.clone();
        stepwise.apply(&first);
        stepwise.apply(&second);
        let mut at_once = start;
        at_once.apply(&first.then(second));
        prop_assert_eq!(at_once, stepwise);
    }

    #[test]
    fn snapshot_builds_the_table_from_nothing(a in table()) {
        let mut built = RouteTable::default();
        built.apply(&snapshot(&a));
        prop_assert_eq!(built, a);
    }

    /// However a worker came to a table, it shows the same.
    #[test]
    fn worker_shows_the_same_by_steps_at_once_and_by_snapshot(tables in vec(table(), 1..5)) {
        let mut stepwise = Worker::new(&RouteTable::default());
        for table in &tables {
            stepwise.move_to(table, MonoTime::ZERO);
        }
        let last = tables.last().unwrap();
        let fresh = Worker::new(last);
        prop_assert_eq!(shown(&stepwise.table), shown(&fresh.table));
        // A worker at another table that is sent a snapshot ends there, too.
        let mut other = Worker::new(&tables[0]);
        let update = Update {
            generation: Generation(77),
            base_generation: Generation(0),
            observed_ns: 0,
            change: Change::Snapshot(snapshot(last)),
        };
        other.table.apply(&update, MonoTime::ZERO).unwrap();
        prop_assert_eq!(other.table.generation(), Generation(77));
        prop_assert_eq!(shown(&other.table), shown(&fresh.table));
        let drained = || Worker::new(last).move_to(&RouteTable::default(), MonoTime::ZERO);
        prop_assert_eq!(drained().removed.len(), last.endpoints.len());
    }
}

#[test]
fn update_of_another_base_is_refused_and_changes_nothing() {
    let mut table = Table::new(TableSettings::default());
    let update = Update {
        generation: Generation(6),
        base_generation: Generation(5),
        observed_ns: 0,
        change: Change::Table(snapshot(&world(&["alpha"], &[(0, 1)], Policy::default()))),
    };
    let refused = table.apply(&update, MonoTime::ZERO);
    assert_eq!(refused, Err(OutOfStep { have: Generation(0), base: Generation(5) }));
    assert_eq!(table.generation(), Generation(0));
    assert!(table.clusters().is_empty());
}

#[test]
fn binds_open_with_their_first_listener_and_close_with_their_last() {
    let mut worker = Worker::new(&RouteTable::default());
    let opened = worker.edit(|world| {
        world.listeners.insert(ListenerId(0), listener(1, exact("a")));
        world.listeners.insert(ListenerId(1), listener(1, exact("b")));
    });
    assert_eq!(opened.opened.len(), 1);
    assert_eq!(opened.opened[0].addr.port(), 8001);
    let kept = worker.edit(|world| drop(world.listeners.remove(&ListenerId(0))));
    assert_eq!((kept.opened.len(), kept.closed.len()), (0, 0));
    let moved = worker.edit(|world| drop(world.listeners.insert(ListenerId(1), listener(2, exact("b")))));
    assert_eq!((moved.opened.len(), moved.closed.len()), (1, 1));
    let closed = worker.edit(|world| world.listeners.clear());
    assert_eq!((closed.opened.len(), closed.closed.len()), (0, 1));
}
