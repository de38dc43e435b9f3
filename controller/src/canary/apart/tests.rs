#![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

use std::time::Duration;

use routing::id::BindId;
use routing::model::{
    Authoriser, CertificateSet, ExternalAuth, Filters, HeaderEdits, HostPattern, ListenerTls, Method,
    PathMatch, Policy, Protocol, Rewrite, RuleMatch, StatSlot, Target, WeightedBackend,
};
use routing::time::MonoTime;

use super::*;
use crate::canary::{CanaryPolicy, Figures, Proof, Ruling, Tally, Trial};

/// The compiler's table, and what the workers run: the canary, the others.
#[derive(Default)]
struct Bench {
    apart: Apart,
    table: RouteTable,
    canary: RouteTable,
    others: RouteTable,
    /// Slots of the routes that the last change was of.
    changed: BTreeSet<u32>,
}

impl Bench {
    /// The first table is everybody's.
    fn new(table: &RouteTable) -> Self {
        let (canary, others) = (table.clone(), table.clone());
        Self { table: table.clone(), canary, others, ..Self::default() }
    }

    /// The sources say something else; returns whether the watch begins anew.
    fn change(&mut self, haste: Haste, change: impl Fn(&mut RouteTable)) -> bool {
        let before = self.table.clone();
        change(&mut self.table);
        let (delta, replaced) = (changes(&before, &self.table), changes(&self.table, &before));
        let split = self.apart.split(delta, &replaced, &self.table, haste);
        self.changed = changed_slots(&replaced, &self.table);
        self.others.apply(&split.all);
        self.canary.apply(if self.apart.trial.is_empty() { &split.all } else { &split.canary });
        // What is kept is what a worker is given that begins now.
        let mut lane = self.table.clone();
        lane.apply(&self.apart.refused_before());
        assert_eq!(lane, self.canary);
        lane.apply(&self.apart.trial.before());
        assert_eq!(lane, self.others);
        split.is_new
    }

    fn promote(&mut self) {
        self.others.apply(&std::mem::take(&mut self.apart.trial).wanted(&self.table));
        assert_eq!(self.canary, self.others);
    }

    fn take_back(&mut self) {
        self.canary.apply(&self.apart.trial.before());
        self.apart.refuse();
        assert_eq!(self.canary, self.others);
    }
}

fn changes(before: &RouteTable, after: &RouteTable) -> TableDelta {
    fn of<K: Ord + Clone, V: PartialEq>(
        before: &BTreeMap<K, Arc<V>>,
        after: &BTreeMap<K, Arc<V>>,
    ) -> Changes<K, V> {
        let keys: BTreeSet<&K> = before.keys().chain(after.keys()).collect();
        let changed = keys.into_iter().filter(|key| before.get(key) != after.get(key));
        changed.map(|key| (key.clone(), after.get(key).cloned())).collect()
    }
    TableDelta {
        hosts: of(&before.hosts, &after.hosts),
        listeners: of(&before.listeners, &after.listeners),
        backends: of(&before.backends, &after.backends),
        ..TableDelta::default()
    }
}

fn backend(id: u32) -> Box<[WeightedBackend]> {
    Box::new([WeightedBackend {
        backend: Some(BackendId(id)),
        weight: 1,
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
        cluster: None,
    }])
}

fn key(host: &str) -> HostKey {
    HostKey { listener: ListenerId(1), pattern: HostPattern::Exact(host.into()) }
}

/// `host` goes to backend `to`; `asked` says who may come.
fn route(table: &mut RouteTable, host: &str, to: u32, asked: Option<u32>) {
    counted(table, host, to, asked, to);
}

/// The same, with statistics in this slot.
fn counted(table: &mut RouteTable, host: &str, to: u32, asked: Option<u32>, slot: u32) {
    let external = asked.map(|id| {
        Arc::new(ExternalAuth {
            asked: Authoriser::Service { backends: backend(id), host: "auth".into() },
            target: Box::default(),
            method: Method::Get,
            signin: None,
            redirect: Box::default(),
            fields: Box::default(),
            passes: Box::default(),
            always_sets_cookie: false,
        })
    });
    let action = RuleAction {
        route: host.into(),
        rule_index: 0,
        stat: StatSlot(slot),
        target: Target::Forward(backend(to)),
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
        rewrite: Rewrite::default(),
        policy: Arc::new(Policy::default()),
        filters: Some(Arc::new(Filters { external, ..Filters::default() })),
    };
    let matches = RuleMatch {
        path: PathMatch::Prefix("/".into()),
        method: None,
        headers: Box::default(),
        query: Box::default(),
        more: Box::default(),
    };
    let rules = HostRules::new([Rule { matches, action: Arc::new(action) }]);
    table.hosts.insert(key(host), Arc::new(rules));
}

/// Listener 1 for `hostname`, with a certificate for `certified`.
fn listener(table: &mut RouteTable, hostname: &str, certified: &str) {
    let mut tls = ListenerTls::default();
    tls.add(
        &HostPattern::Exact(certified.into()),
        &Arc::new(CertificateSet { certificates: Box::default(), terms: None }),
    );
    let spec = ListenerSpec {
        bind: BindId(1),
        addr: ([127, 0, 0, 1], 443).into(),
        protocol: Protocol::Https,
        hostname: HostPattern::Exact(hostname.into()),
        name: "web".into(),
        tls: Some(Arc::new(tls)),
        layer4: None,
    };
    table.listeners.insert(ListenerId(1), Arc::new(spec));
}

fn limited(table: &mut RouteTable, id: u32, in_flight: u32) {
    let mut spec = BackendSpec::default();
    spec.limits.backend_in_flight_max = in_flight;
    table.backends.insert(BackendId(id), Arc::new(spec));
}

#[test]
fn whoever_is_asked_who_may_come_is_pinned_while_rules_from_before_ask_it() {
    let mut table = RouteTable::default();
    route(&mut table, "a", 1, Some(7));
    let mut bench = Bench::new(&table);
    assert!(bench.change(Haste::Tried, |table| route(table, "a", 1, Some(8))));
    assert_eq!(bench.apart.pinned(), BTreeSet::from([BackendId(1), BackendId(7)]));
    bench.take_back();
    assert_eq!(bench.apart.pinned(), BTreeSet::from([BackendId(1), BackendId(7)]));
}

#[test]
fn certificates_of_a_listener_that_waits_reach_every_worker_and_do_not_begin_its_trial_anew() {
    let mut table = RouteTable::default();
    listener(&mut table, "old", "first");
    let mut bench = Bench::new(&table);
    assert!(!bench.change(Haste::Tried, |table| listener(table, "old", "second")), "nothing waits");
    assert!(bench.change(Haste::Tried, |table| listener(table, "new", "second")));
    let seen = |table: &RouteTable| {
        let spec = &table.listeners[&ListenerId(1)];
        let has = |name: &str| spec.tls.as_ref().unwrap().find(Some(name)).is_some();
        (spec.hostname.clone(), ["second", "third", "fourth"].map(has))
    };
    let (old, new) = (HostPattern::Exact("old".into()), HostPattern::Exact("new".into()));

    assert!(!bench.change(Haste::Tried, |table| listener(table, "new", "third")));
    assert_eq!(seen(&bench.others), (old.clone(), [false, true, false]));
    assert_eq!(seen(&bench.canary), (new, [false, true, false]));

    bench.take_back();
    assert!(!bench.change(Haste::Tried, |table| listener(table, "new", "fourth")), "refused as it was");
    assert!(bench.apart.trial.is_empty());
    assert_eq!(seen(&bench.others), (old.clone(), [false, false, true]));
    assert_eq!(seen(&bench.canary), (old, [false, false, true]));
    assert!(bench.change(Haste::Tried, |table| listener(table, "old", "fourth")));
    assert!(bench.apart.is_empty());
}

#[test]
fn what_was_refused_together_is_tried_together_again() {
    let mut table = RouteTable::default();
    for (host, to) in [("a", 1), ("b", 2), ("c", 3)] {
        route(&mut table, host, to, None);
        limited(&mut table, to, 0);
    }
    let mut bench = Bench::new(&table);
    bench.change(Haste::Tried, |table| {
        route(table, "a", 3, None);
        limited(table, 2, 10);
    });
    let names = |bench: &Bench| {
        let routes = bench.apart.trial.touched(&bench.table).routes;
        routes.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(names(&bench), ["a", "b"], "b leads to a backend that is another");
    bench.take_back();
    bench.change(Haste::Tried, |table| route(table, "c", 1, None));
    bench.take_back();
    let refused = bench.apart.refused_routes(&bench.table);
    assert_eq!(refused.iter().map(|name| &**name).collect::<Vec<_>>(), ["a", "b", "c"]);

    // The fix of a route takes with it what was refused with it, and nothing else.
    assert!(bench.change(Haste::Tried, |table| route(table, "a", 1, None)));
    assert_eq!(names(&bench), ["b"]);
    assert_eq!(bench.canary.backends[&BackendId(2)].limits.backend_in_flight_max, 10);
    assert_eq!(bench.others.backends[&BackendId(2)].limits.backend_in_flight_max, 0);
    let refused = bench.apart.refused_routes(&bench.table);
    assert_eq!(refused.iter().map(|name| &**name).collect::<Vec<_>>(), ["c"]);
}

#[test]
fn what_follows_from_a_permission_that_ends_is_everybodys_at_once() {
    let mut table = RouteTable::default();
    route(&mut table, "a", 1, None);
    route(&mut table, "b", 1, None);
    let mut bench = Bench::new(&table);
    bench.change(Haste::Tried, |table| route(table, "a", 2, None));
    bench.take_back();
    bench.change(Haste::AtOnce, |table| {
        route(table, "a", 3, None);
        route(table, "b", 3, None);
    });
    assert!(bench.apart.is_empty());
    assert_eq!((&bench.others, &bench.canary), (&bench.table, &bench.table));
}

/// Twenty changes a second of one route, by the clock of the test, beside one that changed once: how the first trial ends,
/// and when.
fn churn(fails: bool) -> (Bench, Ruling, Duration) {
    const STEP: Duration = Duration::from_millis(50);
    const BUSY: u32 = 1;
    const QUIET: u32 = 2;
    let policy = CanaryPolicy {
        watch: Duration::from_secs(30),
        longest: Duration::from_secs(120),
        requests: 100,
        errors_above: 2,
        p99_above: 100,
    };
    let mut table = RouteTable::default();
    counted(&mut table, "busy", 1, None, BUSY);
    counted(&mut table, "quiet", 1, None, QUIET);
    let mut bench = Bench::new(&table);
    let mut trial: Option<Trial> = None;
    let tally = |answered, failed| Tally { answered, failed };
    for step in 0.. {
        let now = MonoTime::ZERO + STEP * step;
        let count = u64::from(step);
        let figures = |failed| Figures {
            all: tally(2 * count, failed),
            routes: BTreeMap::from([(BUSY, tally(count, 0)), (QUIET, tally(count, failed))]),
            ..Figures::default()
        };
        let seen = vec![figures(if fails { count } else { 0 }), figures(0)];
        let is_new = bench.change(Haste::Tried, |table| match step {
            0 => counted(table, "quiet", 2, None, QUIET),
            step => counted(table, "busy", 1 + step, None, BUSY),
        });
        assert!(is_new && !bench.apart.trial.is_empty());
        let ours = match trial.take() {
            Some(trial) => trial.anew(now, seen.clone(), &bench.changed, true),
            None => Trial::new(0, now, now, seen.clone(), true),
        };
        match ours.rule(now, &seen, &policy) {
            Ruling::Watch => trial = Some(ours),
            ruling @ (Ruling::Promote(_) | Ruling::RollBack(_)) => {
                return (bench, ruling, now.since(MonoTime::ZERO));
            }
        }
    }
    unreachable!("a trial ends at its longest time")
}

#[test]
fn under_churn_a_route_that_fails_is_found_as_soon_as_without() {
    let (mut bench, ruling, after) = churn(true);
    assert!(matches!(ruling, Ruling::RollBack(_)), "{ruling:?} after {after:?}");
    assert!(after <= Duration::from_secs(6), "100 requests at 20 a second: {after:?}");
    bench.take_back();
}

#[test]
fn under_churn_changes_reach_every_worker_within_the_longest_time_and_none_is_lost() {
    let (mut bench, ruling, after) = churn(false);
    assert_eq!((ruling, after), (Ruling::Promote(Proof::Compared), Duration::from_secs(120)));
    bench.promote();
    assert_eq!(bench.others, bench.table, "the last change, too");
}
