//! Builders for tests: small worlds and requests, in as few words as possible.
#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use routing::delta::{Change, RouteTable, TableDelta, Update, diff};
use routing::id::{BackendId, BindId, ClusterId, EndpointId, Generation, ListenerId, NodeId, ZoneId};
use routing::model::*;
use routing::subject::{Subject, SubjectKind};
use routing::table::{Applied, Table, TableSettings};
use routing::time::MonoTime;
use wire::head::{HeaderField, Known, Method, RequestHead, RequestView, Span};

/// A request that owns its bytes.
pub(crate) struct Request {
    head: RequestHead,
    bytes: Vec<u8>,
    pub(crate) bind: BindId,
    pub(crate) peer: SocketAddr,
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let view = self.view();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        write!(f, "{:?} {}", self.head.method, text(view.path()))?;
        if let Some(query) = view.query() {
            write!(f, "?{}", text(query))?;
        }
        write!(f, " Host: {} bind {}", text(view.host()), self.bind.0)?;
        self.head.headers.iter().try_for_each(|field| {
            write!(f, " {}: {}", text(field.name.of(&self.bytes)), text(field.value.of(&self.bytes)))
        })
    }
}

impl Request {
    pub(crate) fn get(host: &str, target: &str) -> Self {
        let mut request = Self {
            head: RequestHead { host: host.as_bytes().to_vec(), ..RequestHead::default() },
            bytes: Vec::new(),
            bind: BindId(0),
            peer: SocketAddr::from(([192, 0, 2, 7], 4711)),
        };
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        };
        request.head.path_span = request.add(path);
        request.head.query_span = query.map(|query| request.add(query));
        request
    }

    fn add(&mut self, text: &str) -> Span {
        let start = u16::try_from(self.bytes.len()).unwrap();
        self.bytes.extend_from_slice(text.as_bytes());
        Span { start, len: u16::try_from(text.len()).unwrap() }
    }

    pub(crate) fn method(mut self, method: Method) -> Self {
        self.head.method = method;
        self
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        let known = if name.eq_ignore_ascii_case("cookie") { Known::Cookie } else { Known::Other };
        let (name, value) = (self.add(name), self.add(value));
        self.head.headers.push(HeaderField { name, value, known, hop_by_hop: false });
        self
    }

    pub(crate) fn bind(mut self, bind: u16) -> Self {
        self.bind = BindId(bind);
        self
    }

    pub(crate) fn peer(mut self, peer: &str) -> Self {
        self.peer = SocketAddr::new(peer.parse().unwrap(), 4711);
        self
    }

    pub(crate) fn view(&self) -> RequestView<'_> {
        RequestView { head: &self.head, bytes: &self.bytes }
    }

    pub(crate) fn subject(&self) -> Subject<'_> {
        Subject { bind: self.bind, peer: self.peer, kind: SubjectKind::Http(self.view()) }
    }
}

pub(crate) fn rng(seed: u64) -> SmallRng {
    SmallRng::seed_from_u64(seed)
}

pub(crate) fn addr(n: u32) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::from(0x0a00_0000 + n), 8080))
}

pub(crate) fn cluster(name: &str) -> Arc<ClusterSpec> {
    Arc::new(ClusterSpec { name: name.into(), ..ClusterSpec::default() })
}

pub(crate) fn backend(name: &str) -> Arc<BackendSpec> {
    Arc::new(BackendSpec { name: name.into(), ..BackendSpec::default() })
}

pub(crate) fn endpoint(backend: u32, cluster: u16, n: u32) -> EndpointSpec {
    EndpointSpec {
        backend: BackendId(backend),
        cluster: ClusterId(cluster),
        zone: ZoneId(0),
        node: NodeId(0),
        addr: addr(n),
        condition: Condition::Ready,
    }
}

pub(crate) fn listener(bind: u16, hostname: HostPattern) -> Arc<ListenerSpec> {
    Arc::new(ListenerSpec {
        bind: BindId(bind),
        addr: SocketAddr::from(([0, 0, 0, 0], 8000 + bind)),
        protocol: Protocol::Http,
        layer4: None,
        hostname,
        name: format!("listener-{bind}").into(),
        tls: None,
    })
}

pub(crate) fn exact(name: &str) -> HostPattern {
    HostPattern::Exact(name.into())
}

pub(crate) fn wildcard(suffix: &str, labels: WildcardLabels) -> HostPattern {
    HostPattern::Wildcard { suffix: suffix.into(), labels }
}

pub(crate) fn key(listener: u32, pattern: HostPattern) -> HostKey {
    HostKey { listener: ListenerId(listener), pattern }
}

pub(crate) fn on_path(path: PathMatch) -> RuleMatch {
    RuleMatch { path, method: None, headers: Box::default(), query: Box::default(), more: Box::default() }
}

pub(crate) fn prefix(path: &str) -> RuleMatch {
    on_path(PathMatch::Prefix(path.into()))
}

pub(crate) fn forward(backends: &[(u32, u32)]) -> Target {
    let backends = backends.iter().map(|(backend, weight)| WeightedBackend {
        backend: Some(BackendId(*backend)),
        weight: *weight,
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
        cluster: None,
    });
    Target::Forward(backends.collect())
}

pub(crate) fn action(name: &str, index: u16, target: Target, policy: Arc<Policy>) -> Arc<RuleAction> {
    Arc::new(RuleAction {
        route: name.into(),
        rule_index: index,
        stat: StatSlot(0),
        target,
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
        rewrite: Rewrite::default(),
        policy,
        filters: None,
    })
}

/// A plan: (cluster, priority, weight).
pub(crate) fn plan(shares: &[(u16, u8, Option<u32>)]) -> Policy {
    let shares = shares.iter().map(|(cluster, priority, weight)| ClusterShare {
        cluster: ClusterId(*cluster),
        priority: *priority,
        weight: *weight,
    });
    Policy { clusters: shares.collect(), ..Policy::default() }
}

/// One host-less rule over `backends` with this policy, clusters `0..names.len()`, no endpoint yet.
pub(crate) fn world(names: &[&str], backends: &[(u32, u32)], policy: Policy) -> RouteTable {
    let mut table = RouteTable::default();
    for (id, name) in (0u16..).zip(names) {
        table.clusters.insert(ClusterId(id), cluster(name));
    }
    for (id, _) in backends {
        table.backends.insert(BackendId(*id), backend(&format!("default/b{id}:80")));
    }
    table.listeners.insert(ListenerId(0), listener(0, HostPattern::Any));
    let action = action("Ingress default/web", 0, forward(backends), Arc::new(policy));
    let rules = HostRules::new([Rule { matches: prefix("/"), action }]);
    table.hosts.insert(key(0, HostPattern::Any), Arc::new(rules));
    table
}

/// Adds `count` ready endpoints of a backend in a cluster; ids and addresses start at `first`.
pub(crate) fn add_endpoints(table: &mut RouteTable, backend: u32, cluster: u16, first: u32, count: u32) {
    for n in first..first + count {
        table.endpoints.insert(EndpointId(n), endpoint(backend, cluster, n));
    }
}

/// A worker's table with the canonical table that it was built from.
pub(crate) struct Worker {
    pub(crate) table: Table,
    pub(crate) world: RouteTable,
}

impl Worker {
    pub(crate) fn new(world: &RouteTable) -> Self {
        let table = Table::new(TableSettings::default());
        let mut worker = Self { table, world: RouteTable::default() };
        worker.move_to(world, MonoTime::ZERO);
        worker
    }

    /// Applies the difference to `world`.
    pub(crate) fn move_to(&mut self, world: &RouteTable, now: MonoTime) -> Applied {
        let delta = diff(&self.world, world);
        self.world.apply(&delta);
        self.send(delta, now)
    }

    pub(crate) fn edit(&mut self, edit: impl FnOnce(&mut RouteTable)) -> Applied {
        let mut world = self.world.clone();
        edit(&mut world);
        self.move_to(&world, MonoTime::ZERO)
    }

    pub(crate) fn send(&mut self, delta: TableDelta, now: MonoTime) -> Applied {
        let base = self.table.generation();
        let update = Update {
            generation: Generation(base.0 + 1),
            base_generation: base,
            observed_ns: 0,
            change: Change::Table(delta),
        };
        self.table.apply(&update, now).unwrap()
    }
}
