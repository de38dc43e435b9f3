//! The router against a naive reference, and the claims of Ingress and Gateway API about hosts.
#![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

mod common;

use std::sync::Arc;

use common::*;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use regex::bytes::Regex;
use routing::delta::RouteTable;
use routing::id::{BindId, ListenerId};
use routing::matcher::precedence::{Precedence, RouteAge};
use routing::matcher::{self, host};
use routing::model::*;
use routing::table::NoRoute;
use wire::head::Method;

// ---------------------------------------------------------------- random tables

fn path_text() -> impl Strategy<Value = String> {
    vec(select(vec!["a", "b", "ab", "", "c", "an-element-that-is-too-long-for-the-slot"]), 0..4)
        .prop_map(|parts| format!("/{}", parts.join("/")))
}

fn path_match() -> impl Strategy<Value = PathMatch> {
    prop_oneof![
        3 => path_text().prop_map(|path| PathMatch::Exact(path.into())),
        4 => path_text().prop_map(|path| {
            let trimmed = path.trim_end_matches('/');
            PathMatch::Prefix(if trimmed.is_empty() { "/".into() } else { trimmed.into() })
        }),
        1 => select(vec!["/a.*", "/[ab]/b", "/.*c", "/a(/b)?"])
            .prop_map(|regex| PathMatch::Regex(Regex::new(&format!("^(?:{regex})$")).unwrap())),
    ]
}

fn values() -> impl Strategy<Value = Box<[ValueMatch]>> {
    let value = prop_oneof![
        select(vec!["0", "1"]).prop_map(|text| ValuePattern::Exact(text.into())),
        Just("^(?:[01]+)$").prop_map(|regex| ValuePattern::Regex(Regex::new(regex).unwrap())),
    ];
    let condition =
        (select(vec!["x", "y"]), value).prop_map(|(name, value)| ValueMatch { name: name.into(), value });
    vec(condition, 0..2).prop_map(Vec::into_boxed_slice)
}

/// Conditions that the Gateway API does not have; the requests' source is 192.0.2.1.
fn more() -> impl Strategy<Value = Box<[Predicate]>> {
    let alternatives = values().prop_map(|all| {
        Predicate::Any(
            all.into_iter().flat_map(|one| [Predicate::Header(one.clone()), Predicate::Query(one)]).collect(),
        )
    });
    let predicate = prop_oneof![
        alternatives,
        select(vec![Method::Get, Method::Post]).prop_map(|method| Predicate::Methods(Box::new([method]))),
        select(vec!["192.0.2.0/24", "10.0.0.0/8"])
            .prop_map(|range| Predicate::Source(Box::new([range.parse().unwrap()]))),
    ];
    vec(predicate, 0..2).prop_map(Vec::into_boxed_slice)
}

fn rule_match() -> impl Strategy<Value = RuleMatch> {
    (path_match(), option::weighted(0.2, select(vec![Method::Get, Method::Post])), values(), values(), more())
        .prop_map(|(path, method, headers, query, more)| RuleMatch { path, method, headers, query, more })
}

fn host_pattern() -> impl Strategy<Value = HostPattern> {
    let labels = prop_oneof![Just(WildcardLabels::One), Just(WildcardLabels::Many)];
    prop_oneof![
        select(vec!["foo.com", "a.foo.com", "b.a.foo.com", "bar.com"])
            .prop_map(|name| HostPattern::Exact(name.into())),
        (select(vec!["foo.com", "a.foo.com", "com"]), labels)
            .prop_map(|(suffix, labels)| HostPattern::Wildcard { suffix: suffix.into(), labels }),
        Just(HostPattern::Any),
    ]
}

/// Is the order of rules the controller's?
#[derive(Clone, Copy, Debug)]
enum Order {
    Precedence,
    AsTheyCome,
}

fn table() -> impl Strategy<Value = RouteTable> {
    let listeners = vec((0u16..2, host_pattern()), 1..5);
    let hosts = vec((0u32..5, host_pattern(), vec(rule_match(), 1..12)), 1..10);
    let order = prop_oneof![Just(Order::Precedence), Just(Order::AsTheyCome)];
    (listeners, hosts, order).prop_map(|(listeners, hosts, order)| {
        let mut table = RouteTable::default();
        for (id, (bind, hostname)) in (0u32..).zip(listeners) {
            table.listeners.insert(ListenerId(id), listener(bind, hostname));
        }
        for (listener, pattern, mut matches) in hosts {
            if matches!(order, Order::Precedence) {
                let age = RouteAge { created: 0, namespaced_name: "n/r", rule: 0 };
                matches.sort_by(|a, b| Precedence::new(a, age).cmp(&Precedence::new(b, age)));
            }
            let policy = Arc::new(Policy::default());
            let rules = (0u16..).zip(matches).map(|(index, matches)| Rule {
                matches,
                action: action(&format!("{listener} {pattern:?}"), index, forward(&[]), Arc::clone(&policy)),
            });
            let rules = HostRules::new(rules.collect::<Vec<_>>());
            table.hosts.insert(key(listener, pattern), Arc::new(rules));
        }
        table
    })
}

fn request() -> impl Strategy<Value = Request> {
    let host = select(vec![
        "foo.com",
        "a.foo.com",
        "b.a.foo.com",
        "c.b.a.foo.com",
        "bar.com",
        "x.bar.com",
        "com",
        "",
        ".com",
        "a..com",
    ]);
    let path = prop_oneof![9 => path_text(), 1 => Just("*".to_string())];
    let value = || option::of(select(vec!["0", "1", "10", "z"]));
    (host, path, value(), value(), value(), any::<bool>(), 0u16..3).prop_map(
        |(host, path, x, y, query, post, bind)| {
            let target = query.map_or(path.clone(), |value| format!("{path}?y=7&x={value}&x=1"));
            let mut request = Request::get(host, &target).bind(bind);
            for (name, value) in [("X", x), ("y", y)] {
                request = value.into_iter().fold(request, |request, value| request.header(name, value));
            }
            request.method(if post { Method::Post } else { Method::Get })
        },
    )
}

// ---------------------------------------------------------------- reference

/// How specific a pattern is for a host: smaller first.
fn specificity(pattern: &HostPattern) -> (u8, usize, u8) {
    match pattern {
        HostPattern::Exact(_) => (0, 0, 0),
        HostPattern::Wildcard { suffix, labels } => {
            (1, usize::MAX - suffix.len(), u8::from(*labels == WildcardLabels::Many))
        }
        HostPattern::Any => (2, 0, 0),
    }
}

fn naive(table: &RouteTable, bind: BindId, request: &Request) -> Result<(String, u16), NoRoute> {
    let view = request.view();
    let covers = |pattern: &HostPattern| host::is_match(pattern, view.host());
    let owning = table.listeners.iter().filter(|(_, spec)| spec.bind == bind && covers(&spec.hostname));
    let best = owning.clone().map(|(_, spec)| specificity(&spec.hostname)).min().ok_or(NoRoute::Listener)?;
    let mut none = NoRoute::Host;
    for (listener, _) in owning.filter(|(_, spec)| specificity(&spec.hostname) == best) {
        let mut hosts: Vec<_> =
            table.hosts.iter().filter(|(key, _)| key.listener == *listener && covers(&key.pattern)).collect();
        hosts.sort_by_key(|(key, _)| specificity(&key.pattern));
        for (_, rules) in hosts {
            none = NoRoute::Rule;
            for rule in &rules.rules {
                if matcher::mismatch(&rule.matches, &request.subject()).is_none() {
                    return Ok((rule.action.route.to_string(), rule.action.rule_index));
                }
            }
        }
    }
    Err(none)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn router_agrees_with_the_naive_reference(table in table(), requests in vec(request(), 24)) {
        let worker = Worker::new(&table);
        for request in &requests {
            let found = worker.table.route(&request.subject());
            let found = found.map(|rule| (rule.action().route.to_string(), rule.action().rule_index));
            prop_assert_eq!(found.clone(), naive(&table, request.bind, request));
            let explained = worker.table.explain(&request.subject(), routing::time::MonoTime::ZERO);
            let chosen: Vec<_> = explained.rules.iter().filter(|rule| rule.why == routing::table::Why::Chosen)
                .map(|rule| (rule.route.to_string(), rule.rule_index)).collect();
            prop_assert_eq!(chosen, found.ok().into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn router_agrees_after_every_change_of_the_table(tables in vec(table(), 2..5), requests in vec(request(), 8)) {
        let mut worker = Worker::new(&RouteTable::default());
        for table in &tables {
            worker.move_to(table, routing::time::MonoTime::ZERO);
            for request in &requests {
                let found = worker.table.route(&request.subject());
                let found = found.map(|rule| (rule.action().route.to_string(), rule.action().rule_index));
                prop_assert_eq!(found, naive(table, request.bind, request));
            }
        }
    }
}

// ---------------------------------------------------------------- claims

/// One rule for each (pattern, path), named by both.
fn routes(listeners: &[HostPattern], rules: &[(u32, HostPattern, &str)]) -> Worker {
    let mut table = RouteTable::default();
    for (id, hostname) in (0u32..).zip(listeners) {
        table.listeners.insert(ListenerId(id), listener(0, hostname.clone()));
    }
    for (listener, pattern, path) in rules {
        let action = action(path, 0, forward(&[]), Arc::new(Policy::default()));
        let rules = HostRules::new([Rule { matches: prefix(path), action }]);
        table.hosts.insert(key(*listener, pattern.clone()), Arc::new(rules));
    }
    Worker::new(&table)
}

fn routed(worker: &Worker, host: &str, path: &str) -> Result<String, NoRoute> {
    let request = Request::get(host, path);
    worker.table.route(&request.subject()).map(|rule| rule.action().route.to_string())
}

#[test]
fn host_without_a_matching_rule_leaves_the_request_to_less_specific_hosts() {
    let worker = routes(
        &[HostPattern::Any],
        &[
            (0, exact("a.foo.com"), "/exact"),
            (0, wildcard("foo.com", WildcardLabels::Many), "/wild"),
            (0, HostPattern::Any, "/any"),
        ],
    );
    assert_eq!(routed(&worker, "a.foo.com", "/exact").unwrap(), "/exact");
    assert_eq!(routed(&worker, "a.foo.com", "/wild").unwrap(), "/wild");
    assert_eq!(routed(&worker, "a.foo.com", "/any/x").unwrap(), "/any");
    assert_eq!(routed(&worker, "a.foo.com", "/other"), Err(NoRoute::Rule));
}

#[test]
fn most_specific_listener_owns_its_hosts_alone() {
    let worker = routes(
        &[HostPattern::Any, wildcard("foo.com", WildcardLabels::Many), exact("a.foo.com")],
        &[(0, HostPattern::Any, "/"), (1, HostPattern::Any, "/wild")],
    );
    assert_eq!(routed(&worker, "bar.com", "/x").unwrap(), "/");
    assert_eq!(routed(&worker, "b.foo.com", "/wild").unwrap(), "/wild");
    assert_eq!(routed(&worker, "b.foo.com", "/x"), Err(NoRoute::Rule), "not the listener of every host");
    assert_eq!(routed(&worker, "a.foo.com", "/wild"), Err(NoRoute::Host), "its own listener has no rules");
}

#[test]
fn longest_wildcard_suffix_wins_and_one_label_before_many() {
    let worker = routes(
        &[HostPattern::Any],
        &[
            (0, wildcard("com", WildcardLabels::Many), "/"),
            (0, wildcard("foo.com", WildcardLabels::Many), "/a"),
            (0, wildcard("foo.com", WildcardLabels::One), "/a/b"),
        ],
    );
    assert_eq!(routed(&worker, "x.foo.com", "/a/b").unwrap(), "/a/b");
    assert_eq!(routed(&worker, "y.x.foo.com", "/a/b").unwrap(), "/a");
    assert_eq!(routed(&worker, "foo.com", "/a/b").unwrap(), "/");
}

#[test]
fn hostile_hosts_and_paths_cost_no_more_than_the_deepest_rule() {
    let worker = routes(&[HostPattern::Any], &[(0, HostPattern::Any, "/a/b"), (0, exact("foo.com"), "/")]);
    let slashes = "/".repeat(8_000);
    assert_eq!(routed(&worker, "bar.com", &slashes), Err(NoRoute::Rule));
    let dots = "a.".repeat(4_000);
    assert_eq!(routed(&worker, &dots, "/a/b/c").unwrap(), "/a/b");
    let long = format!("/a/b/{}", "x".repeat(8_000));
    assert_eq!(routed(&worker, "bar.com", &long).unwrap(), "/a/b");
}

#[test]
fn rule_outlives_its_removal_for_the_request_that_holds_it_and_is_then_sent_home() {
    let mut worker = routes(&[HostPattern::Any], &[(0, HostPattern::Any, "/a")]);
    let request = Request::get("foo.com", "/a");
    let rule = worker.table.route(&request.subject()).unwrap();
    worker.edit(|world| world.hosts.clear());
    assert_eq!(routed(&worker, "foo.com", "/a"), Err(NoRoute::Host));
    assert!(worker.table.take_spent().is_none(), "a request holds the rules");
    assert_eq!(&*rule.action().route, "/a");
    drop(rule);
    let spent = worker.table.take_spent().expect("nothing holds the rules");
    let routing::delta::Change::Table(delta) = &spent.change else { panic!("a table change") };
    assert_eq!(delta.hosts.len(), 1);
    assert!(worker.table.take_spent().is_none());
}

#[test]
fn precedence_is_the_gateway_apis() {
    let headers = |count: usize| -> Box<[ValueMatch]> {
        (0..count)
            .map(|n| ValueMatch { name: format!("h{n}").into(), value: ValuePattern::Exact("v".into()) })
            .collect()
    };
    let regex = |text: &str| on_path(PathMatch::Regex(Regex::new(text).unwrap()));
    let age = |created, namespaced_name, rule| RouteAge { created, namespaced_name, rule };
    // Best first; every neighbour differs in one condition that outweighs all later ones.
    let ordered = [
        (RuleMatch { method: None, ..on_path(PathMatch::Exact("/a".into())) }, age(9, "z/z", 9)),
        (regex("^/aaaaaaaa$"), age(9, "z/z", 9)),
        (regex("^/a$"), age(9, "z/z", 9)),
        (prefix("/aaa"), age(9, "z/z", 9)),
        (RuleMatch { method: Some(Method::Get), ..prefix("/aa") }, age(9, "z/z", 9)),
        (RuleMatch { headers: headers(2), ..prefix("/aa") }, age(9, "z/z", 9)),
        (RuleMatch { headers: headers(1), query: headers(5), ..prefix("/aa") }, age(9, "z/z", 9)),
        (RuleMatch { headers: headers(1), query: headers(1), ..prefix("/aa") }, age(9, "z/z", 9)),
        (RuleMatch { headers: headers(1), ..prefix("/aa") }, age(8, "z/z", 9)),
        (RuleMatch { headers: headers(1), ..prefix("/aa") }, age(9, "a/b", 9)),
        (RuleMatch { headers: headers(1), ..prefix("/aa") }, age(9, "z/a", 8)),
        (RuleMatch { headers: headers(1), ..prefix("/aa") }, age(9, "z/a", 9)),
        (prefix("/aa"), age(0, "a/a", 0)),
        (prefix("/"), age(0, "a/a", 0)),
    ];
    for pair in ordered.windows(2) {
        let keys: Vec<_> = pair.iter().map(|(matches, age)| Precedence::new(matches, *age)).collect();
        assert!(keys[0] < keys[1], "{pair:?}");
    }
}

#[test]
fn ingress_prefix_matches_by_elements() {
    let worker = routes(&[HostPattern::Any], &[(0, HostPattern::Any, "/foo")]);
    for path in ["/foo", "/foo/", "/foo/bar", "/foo//"] {
        assert_eq!(routed(&worker, "h", path).unwrap(), "/foo", "{path}");
    }
    for path in ["/foobar", "/", "/fo", "/Foo", "*"] {
        assert_eq!(routed(&worker, "h", path), Err(NoRoute::Rule), "{path}");
    }
}
