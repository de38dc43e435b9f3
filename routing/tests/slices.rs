//! A worker applies an update in slices and serves in between. Counted in entries: no clock says how long one takes.
#![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

mod common;

use std::sync::Arc;

use common::*;
use proptest::collection::vec;
use proptest::prelude::*;
use routing::balance::hash::ring;
use routing::delta::{Change, RouteTable, Update, diff, snapshot};
use routing::failover::Tried;
use routing::id::{BackendId, ClusterId, EndpointId, Generation, ListenerId};
use routing::model::*;
use routing::table::{Applied, ENTRIES_PER_LOOK, Progress, Table, TableSettings};
use routing::time::MonoTime;

const T0: MonoTime = MonoTime::ZERO;

fn update(table: &Table, change: Change) -> Update {
    let base_generation = table.generation();
    Update { generation: Generation(base_generation.0 + 1), base_generation, observed_ns: 0, change }
}

/// Applies it with the smallest slices there are. `between` sees the table after each.
fn in_slices(table: &mut Table, update: &Update, mut between: impl FnMut(&Table)) -> (usize, Applied) {
    let mut applying = table.begin(update, T0).unwrap();
    let (mut slices, mut removed) = (1, Vec::new());
    while table.advance(&mut applying, update, T0, || false) == Progress::Part {
        removed.extend(applying.take_removed());
        between(table);
        slices += 1;
    }
    removed.extend(applying.take_removed());
    (slices, Applied { removed, ..applying.into_applied() })
}

fn endpoint_count(table: &Table, backends: u32) -> usize {
    (0..backends).map(|id| table.endpoints(BackendId(id)).len()).sum()
}

/// `count` hosts, each with a Service of its own that has ten endpoints.
fn many(count: u32) -> RouteTable {
    let backends: Vec<_> = (0..count).map(|id| (id, 1)).collect();
    let mut world = world(&["alpha"], &backends, plan(&[(0, 0, None)]));
    for id in 0..count {
        add_endpoints(&mut world, id, 0, id * 10, 10);
        let action = action("r", 0, forward(&[(id, 1)]), Arc::new(plan(&[(0, 0, None)])));
        let rules = HostRules::new([Rule { matches: prefix("/"), action }]);
        world.hosts.insert(key(0, exact(&format!("h{id}.example"))), Arc::new(rules));
    }
    world
}

#[test]
fn a_slice_of_the_first_sync_is_so_many_entries_and_the_generation_is_reported_when_all_are_there() {
    const HOSTS: u32 = 300;
    let world = many(HOSTS);
    let entries = world.clusters.len()
        + world.backends.len()
        + world.endpoints.len()
        + world.listeners.len()
        + world.hosts.len();
    let mut table = Table::new(TableSettings::default());
    let update = update(&table, Change::Snapshot(snapshot(&world)));
    let mut before = 0;
    let shown = |table: &Table| {
        table.clusters().len()
            + table.backends().len()
            + endpoint_count(table, HOSTS)
            + table.listeners().len()
            + table.hosts().count()
    };
    let (slices, applied) = in_slices(&mut table, &update, |table| {
        let now = shown(table);
        assert!(now - before <= ENTRIES_PER_LOOK, "{before} entries, then {now}");
        assert_eq!(table.generation(), Generation(0), "it is not whole");
        before = now;
    });
    assert!(slices >= entries / ENTRIES_PER_LOOK, "{slices} slices for {entries} entries");
    assert_eq!((shown(&table), table.generation()), (entries, Generation(1)));
    assert_eq!(applied.opened.len(), 1, "the listener opens when it is whole");
}

#[test]
fn a_worker_that_has_time_looks_at_the_clock_once_for_so_many_entries() {
    let world = many(100);
    let mut table = Table::new(TableSettings::default());
    let update = update(&table, Change::Snapshot(snapshot(&world)));
    let mut applying = table.begin(&update, T0).unwrap();
    let mut looks = 0;
    let progress = table.advance(&mut applying, &update, T0, || {
        looks += 1;
        true
    });
    assert_eq!(progress, Progress::Whole);
    let entries = 1 + 100 + 1_000 + 1 + 101;
    assert!((entries / ENTRIES_PER_LOOK..=2 * entries / ENTRIES_PER_LOOK).contains(&looks), "{looks} looks");
}

#[test]
fn a_snapshot_over_a_full_table_removes_in_slices_too() {
    let world = many(100);
    let mut worker = Worker::new(&world);
    let few = many(10);
    let update = update(&worker.table, Change::Snapshot(snapshot(&few)));
    let mut before = endpoint_count(&worker.table, 100);
    let (_, applied) = in_slices(&mut worker.table, &update, |table| {
        let now = endpoint_count(table, 100);
        assert!(before - now <= ENTRIES_PER_LOOK, "{before} endpoints, then {now}");
        before = now;
    });
    assert_eq!((applied.removed.len(), endpoint_count(&worker.table, 100)), (900, 100));
    assert_eq!(worker.table.hosts().count(), 11);
}

/// Does a request for this host find a backend with an endpoint?
fn serves(table: &Table, host: &str) -> Option<BackendId> {
    let request = Request::get(host, "/");
    let rule = table.route(&request.subject()).ok()?;
    let pick = table.pick(&rule, &request.subject(), &Tried::new(), T0, &mut rng(1)).ok()?;
    table.release(pick.endpoint);
    Some(pick.backend)
}

#[test]
fn between_slices_every_host_is_served_while_its_backend_and_its_listener_are_replaced() {
    let mut worker = Worker::new(&many(60));
    let mut after = worker.world.clone();
    after.listeners.insert(ListenerId(7), listener(0, wildcard("example", WildcardLabels::Many)));
    for id in 0..60u32 {
        // Another Service with endpoints of its own, and another listener that owns the host more narrowly.
        after.backends.remove(&BackendId(id));
        after.endpoints.retain(|_, spec| spec.backend != BackendId(id));
        let new = 100 + id;
        after.backends.insert(BackendId(new), backend(&format!("default/n{id}:80")));
        add_endpoints(&mut after, new, 0, 10_000 + id * 10, 10);
        let action = action("r", 0, forward(&[(new, 1)]), Arc::new(plan(&[(0, 0, None)])));
        let rules = Arc::new(HostRules::new([Rule { matches: prefix("/"), action }]));
        let pattern = exact(&format!("h{id}.example"));
        after.hosts.remove(&key(0, pattern.clone()));
        after.hosts.insert(key(7, pattern), rules);
    }
    let update = update(&worker.table, Change::Table(diff(&worker.world, &after)));
    let (slices, _) = in_slices(&mut worker.table, &update, |table| {
        for id in 0..60u32 {
            let served = serves(table, &format!("h{id}.example"));
            assert!(
                served == Some(BackendId(id)) || served == Some(BackendId(100 + id)),
                "h{id}.example goes to {served:?}"
            );
        }
    });
    assert!(slices > 60, "{slices} slices");
    assert_eq!(serves(&worker.table, "h9.example"), Some(BackendId(109)));
}

#[test]
fn a_number_that_changes_hands_makes_the_update_one_piece() {
    let mut worker = Worker::new(&many(40));
    // A controller that began anew counts the other way round: h0's backend was number 0, and is 39 from now on.
    let mut after = many(40);
    for id in 0..40u32 {
        after.backends.insert(BackendId(id), backend(&format!("default/b{}:80", 39 - id)));
    }
    let update = update(&worker.table, Change::Snapshot(snapshot(&after)));
    let (slices, applied) = in_slices(&mut worker.table, &update, |table| {
        let names = table.backends();
        assert!(names.iter().all(|view| *view.name == *format!("default/b{}:80", view.id.0)), "{names:?}");
    });
    assert!(slices <= 10, "only the owners were compared in slices: {slices}");
    assert_eq!(&*worker.table.backends()[0].name, "default/b39:80");
    assert_eq!(applied.replaced, (0..40).map(BackendId).collect::<Vec<_>>(), "each has another owner");
}

/// The same, by a controller that counts endpoints from another one on.
fn renumbered(mut world: RouteTable, by: u32) -> RouteTable {
    let count = u32::try_from(world.endpoints.len()).unwrap();
    let moved = |(id, spec): (EndpointId, EndpointSpec)| (EndpointId((id.0 + by) % count), spec);
    world.endpoints = std::mem::take(&mut world.endpoints).into_iter().map(moved).collect();
    for id in world.backends.keys() {
        let own = world.endpoints.iter().filter(|(_, spec)| spec.backend == *id);
        let own: Vec<_> = own.map(|(id, spec)| (*id, spec.addr)).collect();
        world.rings.insert((*id, ClusterId(0)), Arc::new(ring("alpha", &own)));
    }
    world
}

#[test]
fn endpoints_that_are_numbered_afresh_take_nobody_elses_place_between_slices() {
    let mut first = many(40);
    first.endpoints.clear();
    (0..40).for_each(|id| add_endpoints(&mut first, id, 0, id, 1));
    let mut worker = Worker::new(&first);
    let mut after = first.clone();
    let turned = |(id, spec): (&EndpointId, &EndpointSpec)| (EndpointId(39 - id.0), spec.clone());
    after.endpoints = first.endpoints.iter().map(turned).collect();
    let update = update(&worker.table, Change::Snapshot(snapshot(&after)));
    let (slices, _) = in_slices(&mut worker.table, &update, |table| {
        for id in 0..40 {
            assert_eq!(serves(table, &format!("h{id}.example")), Some(BackendId(id)));
        }
    });
    assert!(slices <= 10, "only the owners were compared in slices: {slices}");
    assert_eq!(endpoint_count(&worker.table, 40), 40);
}

#[test]
fn regexes_of_a_host_are_made_ready_a_few_at_a_time() {
    let mut world = many(1);
    let policy = Arc::new(plan(&[(0, 0, None)]));
    let rules = (0..200u16).map(|nth| Rule {
        matches: on_path(PathMatch::Regex(regex::bytes::Regex::new(&format!("^/r{nth}/[0-9]+$")).unwrap())),
        action: action("r", nth, forward(&[(0, 1)]), Arc::clone(&policy)),
    });
    let rules = HostRules::new(rules.collect::<Vec<_>>());
    let mut worker = Worker::new(&world);
    world.hosts.insert(key(0, exact("regex.example")), Arc::new(rules));
    let update = update(&worker.table, Change::Table(diff(&worker.world, &world)));
    let (slices, _) = in_slices(&mut worker.table, &update, |_| {});
    assert!(slices >= 3, "{slices}");
    let request = Request::get("regex.example", "/r199/7");
    let rule = worker.table.route(&request.subject()).unwrap();
    assert_eq!(rule.index(), 199);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    /// Worlds of a few hosts, one after the other, by delta or by snapshot, with endpoints that are numbered afresh: sliced
    /// or not, the same table and the same sockets, and what is there before and after is served all the time.
    #[test]
    fn slices_lead_to_the_table_of_one_piece(steps in vec((1u32..30, 0u32..40, any::<bool>()), 1..5)) {
        let mut whole = Worker::new(&RouteTable::default());
        let mut sliced = Table::new(TableSettings::default());
        let mut before = 0;
        for (count, by, afresh) in steps {
            let world = renumbered(many(count), by);
            let change = || match afresh {
                true => Change::Snapshot(snapshot(&world)),
                false => Change::Table(diff(&whole.world, &world)),
            };
            let (in_one, in_parts) = (update(&whole.table, change()), update(&sliced, change()));
            let (_, mut applied) = in_slices(&mut sliced, &in_parts, |table| {
                for id in 0..before.min(count) {
                    assert_eq!(serves(table, &format!("h{id}.example")), Some(BackendId(id)));
                }
            });
            let mut at_once = whole.table.apply(&in_one, T0).unwrap();
            whole.world = world.clone();
            applied.removed.sort_unstable();
            at_once.removed.sort_unstable();
            prop_assert_eq!(applied.replaced.len(), (before.saturating_sub(count)) as usize);
            prop_assert_eq!(applied, at_once);
            prop_assert_eq!(endpoint_count(&sliced, 30), world.endpoints.len());
            prop_assert_eq!(sliced.hosts().count(), world.hosts.len());
            for id in 0..count {
                prop_assert_eq!(serves(&sliced, &format!("h{id}.example")), Some(BackendId(id)));
            }
            before = count;
        }
    }
}
