//! Route tables in a few words.

use std::net::SocketAddr;
use std::sync::Arc;

use routing::delta::RouteTable;
use routing::id::{BackendId, BindId, ClusterId, EndpointId, ListenerId, NodeId, ZoneId};
use routing::model::*;
use rustls::sign::CertifiedKey;

/// A world of one backend, one listener and one rule for everything.
pub struct World {
    pub policy: Policy,
    pub action: RuleAction,
    pub limits: BackendLimits,
    pub detection: Detection,
    clusters: Vec<Vec<SocketAddr>>,
    shares: Vec<ClusterShare>,
    rules: Vec<(RuleMatch, RuleAction)>,
    protocol: Protocol,
    layer4: Option<Arc<Layer4>>,
    transport: Transport,
    tls: Option<Arc<ListenerTls>>,
}

/// A world whose only cluster has these endpoints.
pub fn world(endpoints: &[SocketAddr]) -> World {
    World::new().cluster(0, endpoints)
}

impl World {
    pub fn new() -> Self {
        Self {
            policy: Policy::default(),
            action: action(forward(0)),
            limits: BackendLimits::default(),
            detection: Detection::default(),
            clusters: Vec::new(),
            shares: Vec::new(),
            rules: Vec::new(),
            protocol: Protocol::Http,
            layer4: None,
            transport: Transport::default(),
            tls: None,
        }
    }

    /// Served as layer 4, on a listener that asks this of connections.
    pub fn layer4(mut self, protocol: Protocol, edit: impl FnOnce(&mut Layer4)) -> Self {
        let mut layer4 = Layer4::default();
        edit(&mut layer4);
        (self.protocol, self.layer4) = (protocol, Some(Arc::new(layer4)));
        self
    }

    /// Served over TLS with these certificates, each for its name; the first one for every other name, too.
    pub fn secured(mut self, certificates: &[(&str, Arc<CertifiedKey>)]) -> Self {
        let mut tls = ListenerTls::default();
        for (number, (name, key)) in certificates.iter().enumerate() {
            let mut digest = [0; 32];
            digest[..8].copy_from_slice(&number.to_le_bytes());
            let certificate = Certificate {
                secret: format!("default/{name}").into(),
                digest,
                names: Box::default(),
                not_after: i64::MAX,
                key: SigningKey::new(Arc::clone(key)),
                staple: None,
            };
            let set = CertificateSet { certificates: Box::new([Arc::new(certificate)]), terms: None };
            let set = Arc::new(set);
            tls.add(&HostPattern::Exact((*name).into()), &set);
            tls.add(&HostPattern::Any, &set);
        }
        (self.protocol, self.tls) = (Protocol::Https, Some(Arc::new(tls)));
        self
    }

    /// Its endpoints are spoken to in HTTP/2 with prior knowledge.
    pub fn http2(mut self) -> Self {
        self.transport.protocol = Application::Http2;
        self
    }

    /// One more cluster with these endpoints; priority 0 is active.
    pub fn cluster(mut self, priority: u8, endpoints: &[SocketAddr]) -> Self {
        let cluster = ClusterId(u16::try_from(self.clusters.len()).unwrap());
        self.shares.push(ClusterShare { cluster, priority, weight: None });
        self.clusters.push(endpoints.to_vec());
        self
    }

    pub fn policy(mut self, edit: impl FnOnce(&mut Policy)) -> Self {
        edit(&mut self.policy);
        self
    }

    pub fn action(mut self, edit: impl FnOnce(&mut RuleAction)) -> Self {
        edit(&mut self.action);
        self
    }

    pub fn limits(mut self, limits: BackendLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Traffic raises no verdicts and starts no second attempts: what is tested is the attempt after a failure.
    pub fn undetected(mut self) -> Self {
        self.detection.silence = false;
        self.detection.errors.percent = 0;
        self.policy.hedge = HedgeMode::Disabled;
        self
    }

    /// A rule beside the one for everything.
    pub fn rule(mut self, path: PathMatch, edit: impl FnOnce(&mut RuleAction)) -> Self {
        let mut action = action(forward(0));
        edit(&mut action);
        self.rules.push((on(path), action));
        self
    }

    /// The table, served on `addr`.
    pub fn on(self, addr: SocketAddr) -> RouteTable {
        let mut table = RouteTable::default();
        let mut policy = self.policy;
        policy.clusters = self.shares.into_boxed_slice();
        let policy = Arc::new(policy);
        let mut endpoint = 0;
        for (number, addrs) in self.clusters.into_iter().enumerate() {
            let cluster = ClusterId(u16::try_from(number).unwrap());
            let spec = ClusterSpec { name: format!("cluster-{number}").into(), ..ClusterSpec::default() };
            table.clusters.insert(cluster, Arc::new(spec));
            for addr in addrs {
                table.endpoints.insert(EndpointId(endpoint), spec_of(cluster, addr));
                endpoint += 1;
            }
        }
        let backend = BackendSpec {
            name: "default/web:80".into(),
            limits: self.limits,
            detection: self.detection.clone(),
            speech: match self.protocol {
                Protocol::Http | Protocol::Https => Speech::Http,
                Protocol::Tcp | Protocol::TlsPassthrough | Protocol::TlsTerminate => Speech::Opaque,
                Protocol::Udp => Speech::Datagrams,
            },
            transport: self.transport,
            ..BackendSpec::default()
        };
        table.backends.insert(BackendId(0), Arc::new(backend));
        let listener = ListenerSpec {
            bind: BindId(0),
            addr,
            protocol: self.protocol,
            layer4: self.layer4,
            hostname: HostPattern::Any,
            name: "test".into(),
            tls: self.tls,
        };
        table.listeners.insert(ListenerId(0), Arc::new(listener));
        // Most specific first, as the controller orders them.
        let mut rules = self.rules;
        rules.push((on(PathMatch::Prefix("/".into())), self.action));
        let rules = rules.into_iter().map(|(matches, mut action)| {
            action.policy = Arc::clone(&policy);
            Rule { matches, action: Arc::new(action) }
        });
        let rules: Vec<Rule> = rules.collect();
        let key = HostKey { listener: ListenerId(0), pattern: HostPattern::Any };
        table.hosts.insert(key, Arc::new(HostRules::new(rules)));
        table
    }
}

/// One more endpoint, or an endpoint that replaces another.
pub fn spec_of(cluster: ClusterId, addr: SocketAddr) -> EndpointSpec {
    EndpointSpec {
        backend: BackendId(0),
        cluster,
        zone: ZoneId(0),
        node: NodeId(0),
        addr,
        condition: Condition::Ready,
    }
}

pub fn forward(backend: u32) -> Target {
    Target::Forward(Box::new([WeightedBackend {
        backend: Some(BackendId(backend)),
        weight: 1,
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
        cluster: None,
    }]))
}

pub fn on(path: PathMatch) -> RuleMatch {
    RuleMatch { path, method: None, headers: Box::default(), query: Box::default(), more: Box::default() }
}

fn action(target: Target) -> RuleAction {
    RuleAction {
        route: "Ingress default/web".into(),
        rule_index: 0,
        stat: StatSlot(0),
        target,
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
        rewrite: Rewrite::default(),
        policy: Arc::default(),
        filters: None,
    }
}
