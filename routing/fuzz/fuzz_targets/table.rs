//! Any request against a table that any sequence of updates has changed: nothing panics, and the router agrees with
//! the plain reading of its rules.
#![no_main]

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use regex::bytes::Regex;
use routing::delta::{Change, RouteTable, TableDelta, Update, diff};
use routing::failover::Tried;
use routing::health::endpoint::Outcome;
use routing::id::*;
use routing::matcher;
use routing::model::*;
use routing::subject::{Subject, SubjectKind};
use routing::table::{Pick, Table, TableSettings};
use routing::time::MonoTime;
use wire::head::{RequestHead, RequestView, Span};

/// Bytes of the input, taken from the front; zeros when it is spent.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn below(&mut self, bound: u8) -> u8 {
        self.byte() % bound
    }

    /// Up to 255 bytes, as long as the input says.
    fn text(&mut self) -> &'a [u8] {
        let len = usize::from(self.byte()).min(self.0.len());
        let (text, rest) = self.0.split_at(len);
        self.0 = rest;
        text
    }

    fn string(&mut self) -> Arc<str> {
        String::from_utf8_lossy(self.text()).into()
    }
}

fn policy(input: &mut Input<'_>) -> Policy {
    let weighted = input.below(2) == 0;
    let shares = (0..3).map(|cluster| ClusterShare {
        cluster: ClusterId(cluster),
        priority: input.below(2),
        weight: weighted.then(|| u32::from(input.below(4))),
    });
    let clusters = shares.collect();
    let balance = match input.below(4) {
        0 => Balance::LeastRequest,
        1 => Balance::RoundRobin,
        2 => Balance::Random,
        _ => Balance::ConsistentHash(HashKey::Path),
    };
    let outlier = OutlierPolicy { consecutive_failures: input.below(3), ..Policy::default().outlier };
    Policy { clusters, balance, outlier, ..Policy::default() }
}

fn rules(input: &mut Input<'_>) -> Arc<HostRules> {
    let policy = Arc::new(policy(input));
    let count = input.below(6);
    let rules = (0..count).map(|index| {
        let path = match input.below(5) {
            0 | 1 => PathMatch::Exact(input.string()),
            2 | 3 => PathMatch::Prefix(input.string()),
            _ => PathMatch::Regex(Regex::new("^(?:/[a-z]*)$").expect("a valid pattern")),
        };
        let backends = (0..2u32).map(|backend| WeightedBackend {
            backend: (input.below(8) != 0).then_some(BackendId(backend)),
            weight: u32::from(input.below(3)),
            request_headers: HeaderEdits::default(),
            response_headers: HeaderEdits::default(),
            cluster: None,
        });
        let action = Arc::new(RuleAction {
            route: "r".into(),
            rule_index: u16::from(index),
            stat: StatSlot(0),
            target: Target::Forward(backends.collect()),
            request_headers: HeaderEdits::default(),
            response_headers: HeaderEdits::default(),
            rewrite: Rewrite::default(),
            policy: Arc::clone(&policy),
            filters: None,
        });
        let matches = RuleMatch {
            path,
            method: None,
            headers: Box::default(),
            query: Box::default(),
            more: Box::default(),
        };
        Rule { matches, action }
    });
    Arc::new(HostRules::new(rules.collect::<Vec<_>>()))
}

fn pattern(input: &mut Input<'_>) -> HostPattern {
    match input.below(4) {
        0 => HostPattern::Any,
        1 => HostPattern::Exact(input.string()),
        2 => HostPattern::Wildcard { suffix: input.string(), labels: WildcardLabels::One },
        _ => HostPattern::Wildcard { suffix: input.string(), labels: WildcardLabels::Many },
    }
}

/// One random edit of the canonical table.
fn edit(world: &mut RouteTable, input: &mut Input<'_>) {
    let remove = input.below(4) == 0;
    match input.below(6) {
        0 => {
            let id = ClusterId(u16::from(input.below(3)));
            let name = format!("c{}", input.below(3)).into();
            let spec = ClusterSpec {
                name,
                drain_percent: [0, 40, 100][usize::from(input.below(3))],
                ..ClusterSpec::default()
            };
            set(&mut world.clusters, id, remove, Arc::new(spec));
        }
        1 => {
            let id = BackendId(u32::from(input.below(3)));
            let name = format!("b{}", input.below(3)).into();
            let (endpoint, backend) = (input.below(4), input.below(6));
            let limits = BackendLimits {
                endpoint_in_flight_max: u32::from(endpoint),
                backend_in_flight_max: u32::from(backend),
            };
            set(
                &mut world.backends,
                id,
                remove,
                Arc::new(BackendSpec { name, limits, ..BackendSpec::default() }),
            );
        }
        2 => {
            let id = EndpointId(u32::from(input.below(12)));
            let spec = EndpointSpec {
                backend: BackendId(u32::from(input.below(3))),
                cluster: ClusterId(u16::from(input.below(3))),
                zone: ZoneId(u16::from(input.below(3))),
                node: NodeId(u32::from(input.below(3))),
                addr: SocketAddr::from(([10, 0, 0, input.below(20)], 80)),
                condition: if input.below(4) == 0 { Condition::Terminating } else { Condition::Ready },
            };
            set(&mut world.endpoints, id, remove, spec);
        }
        3 => {
            let key = (BackendId(u32::from(input.below(3))), ClusterId(u16::from(input.below(3))));
            let members = (0..12).map(|n| (EndpointId(n), SocketAddr::from(([10, 0, 0, 1], n as u16))));
            let ring = routing::balance::hash::ring("c", &members.collect::<Vec<_>>());
            set(&mut world.rings, key, remove, Arc::new(ring));
        }
        4 => {
            let bind = u16::from(input.below(2));
            let spec = ListenerSpec {
                bind: BindId(bind),
                addr: SocketAddr::from(([0, 0, 0, 0], 80 + bind)),
                protocol: Protocol::Http,
                layer4: None,
                hostname: pattern(input),
                name: "l".into(),
                tls: None,
            };
            set(&mut world.listeners, ListenerId(u32::from(input.below(3))), remove, Arc::new(spec));
        }
        _ => {
            let key = HostKey { listener: ListenerId(u32::from(input.below(3))), pattern: pattern(input) };
            set(&mut world.hosts, key, remove, rules(input));
        }
    }
}

fn set<K: Ord, V>(map: &mut std::collections::BTreeMap<K, V>, key: K, remove: bool, value: V) {
    if remove { drop(map.remove(&key)) } else { drop(map.insert(key, value)) }
}

/// The plain reading: of the host entry that the table chose, the first rule that matches.
fn check_rule(world: &RouteTable, subject: &Subject<'_>, table: &Table) {
    let Ok(rule) = table.route(subject) else {
        let view = subject.http().expect("requests only");
        let any = world.hosts.iter().find(|(key, rules)| {
            world.listeners.get(&key.listener).is_some_and(|spec| spec.hostname == HostPattern::Any)
                && world.listeners.len() == 1
                && world.listeners.values().all(|spec| spec.bind == subject.bind)
                && matcher::host::is_match(&key.pattern, view.host())
                && view.host().len() <= matcher::host::HOST_BYTES_MAX
                && rules.rules.iter().any(|rule| matcher::mismatch(&rule.matches, subject).is_none())
        });
        assert!(any.is_none(), "a rule of the only listener matches: {any:?}");
        return;
    };
    assert_eq!(matcher::mismatch(rule.matches(), subject), None);
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let mut world = RouteTable::default();
    let mut table = Table::new(TableSettings::default());
    let mut now = MonoTime::ZERO;
    let mut rng = SmallRng::seed_from_u64(u64::from(input.byte()));
    let mut in_flight: VecDeque<Pick> = VecDeque::new();
    while !input.0.is_empty() {
        let mut pending = TableDelta::default();
        for _ in 0..=input.below(4) {
            let before = world.clone();
            edit(&mut world, &mut input);
            pending = pending.then(diff(&before, &world));
        }
        let base = table.generation();
        let generation = Generation(base.0 + 1);
        let change = Change::Table(pending);
        let update = Update { generation, base_generation: base, observed_ns: 0, change };
        table.apply(&update, now).expect("in step");
        drop(table.take_spent());

        let (host, path) = (input.text(), input.text());
        let path_span = Span { start: 0, len: path.len() as u16 };
        let head = RequestHead { host: host.to_vec(), path_span, ..RequestHead::default() };
        let view = RequestView { head: &head, bytes: path };
        let bind = BindId(u16::from(input.below(3)));
        let peer = SocketAddr::from(([192, 0, 2, 1], 1));
        let subject = Subject { bind, peer, kind: SubjectKind::Http(view) };
        check_rule(&world, &subject, &table);
        drop(table.explain(&subject, now).to_string());
        let Ok(rule) = table.route(&subject) else { continue };
        let mut tried = Tried::new();
        for _ in 0..input.below(13) {
            let Ok(pick) = table.pick(&rule, &subject, &tried, now, &mut rng) else { break };
            tried.note(&pick);
            in_flight.push_back(pick);
            let outcome = if input.below(3) == 0 { Outcome::Success } else { Outcome::Closed };
            table.on_outcome(pick.endpoint, outcome, None, now, &rule.policy().outlier);
        }
        now = now + Duration::from_millis(u64::from(input.byte()) * 10);
        for _ in 0..input.below(8) {
            if let Some(pick) = in_flight.pop_front() {
                assert_eq!(table.endpoint(pick.endpoint).expect("in flight").addr, pick.addr);
                table.release(pick.endpoint);
            }
        }
    }
    for pick in in_flight {
        table.release(pick.endpoint);
    }
    assert!(table.backends().iter().all(|backend| backend.in_flight == 0));
});
