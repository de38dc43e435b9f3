//! The admin API over real sockets: who may ask (SECURITY S34), when a node is ready, and that nothing a client
//! sends reaches a label or breaks a line (S44).

#![allow(clippy::unwrap_used, reason = "the helpers of a test may unwrap, too")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use config::{AccessLog, Config};
use gateway::admin::api::{Activity, Backends, Clusters, GenerationState, Listeners, Routes, Standing};
use gateway::admin::explain::{self, Verdict};
use gateway::admin::operate::{Answer, Order, OrderRefused};
use gateway::admin::{Admin, Controller, Facts, VerdictFact};
use gateway::node::Node;
use routing::delta::{Change, Mail, Report, RouteTable, Update, snapshot};
use routing::id::{BackendId, BindId, ClusterId, EndpointId, Generation, ListenerId, NodeId, ZoneId};
use routing::model::{
    BackendLimits, BackendSpec, ClusterShare, ClusterSpec, Condition, EndpointSpec, HeaderEdits, HostKey,
    HostPattern, HostRules, ListenerSpec, PathMatch, Policy, Protocol, Rewrite, Rule, RuleAction, RuleMatch,
    StatSlot, Target, WeightedBackend,
};
use serde::de::DeserializeOwned;

const DEADLINE: Duration = Duration::from_secs(20);

// ---------------------------------------------------------------- S34

#[test]
fn only_reads_are_served_whatever_the_page() {
    let gateway = Gateway::start("reads");
    gateway.serve();
    for path in ["/", "/healthz", "/readyz", "/metrics", "/api/v1/clusters", "/api/v1/explain", "/nowhere"] {
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "BREW"] {
            let answer = gateway.ask(&format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
            assert!([405, 400].contains(&answer.status), "{method} {path}: {}", answer.status);
            assert!(answer.is_closed, "{method} {path} leaves the connection open");
        }
    }
    let post = gateway.ask("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nhi");
    assert_eq!((post.status, post.header("allow")), (405, Some("GET, HEAD")));
}

#[test]
fn a_body_is_refused_and_what_follows_it_is_not_read_as_a_request() {
    let gateway = Gateway::start("bodies");
    gateway.serve();
    let smuggled = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for field in [
        "Content-Length: 1000000".to_owned(),
        "Transfer-Encoding: chunked".to_owned(),
        format!("Content-Length: {}", smuggled.len()),
    ] {
        let answer =
            gateway.ask(&format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\n{field}\r\n\r\n{smuggled}"));
        assert_eq!(answer.status, 413, "{field}");
        assert!(answer.is_closed && !answer.text().contains("ringway_"), "{field}: {}", answer.text());
    }
}

#[test]
fn a_name_that_is_not_ours_is_refused_so_that_dns_cannot_be_rebound() {
    let gateway = Gateway::start("names");
    gateway.serve();
    let port = gateway.admin.addr().port();
    for ours in [
        "localhost".to_owned(),
        format!("localhost:{port}"),
        format!("127.0.0.1:{port}"),
        "127.0.0.1".into(),
        format!("[::1]:{port}"),
    ] {
        assert_eq!(gateway.ask(&get("/metrics", &ours)).status, 200, "{ours}");
    }
    for foreign in [
        "evil.example",
        "localhost.evil.example:9901",
        "127.0.0.1.nip.io",
        "192.0.2.1",
        "",
        "localhost@evil.example",
        "10.0.0.1:9901",
    ] {
        for page in ["/", "/metrics", "/healthz", "/api/v1/routes"] {
            let answer = gateway.ask(&get(page, foreign));
            assert!([400, 421].contains(&answer.status), "{foreign} {page}: {}", answer.status);
            assert!(!answer.text().contains("ringway_"), "{foreign} {page}");
        }
    }
    let cases = [
        ("no Host", "GET /metrics HTTP/1.1\r\n\r\n".to_owned()),
        ("no Host in 1.0", "GET /metrics HTTP/1.0\r\n\r\n".to_owned()),
        ("two Hosts", "GET /metrics HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n".to_owned()),
        ("foreign target", get("http://evil.example/metrics", "localhost")),
        ("foreign Host, our target", get("http://localhost/metrics", "evil.example")),
    ];
    for (case, request) in cases {
        let answer = gateway.ask(&request);
        assert!([400, 421].contains(&answer.status), "{case}: {}", answer.status);
        assert!(!answer.text().contains("ringway_"), "{case}");
    }
}

#[test]
fn answers_are_not_for_other_origins_caches_or_frames() {
    let gateway = Gateway::start("origins");
    gateway.serve();
    for page in ["/", "/metrics", "/api/v1/clusters", "/nowhere"] {
        let request = format!(
            "GET {page} HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example\r\nConnection: close\r\n\r\n"
        );
        let answer = gateway.ask(&request);
        assert_eq!(answer.header("access-control-allow-origin"), None);
        assert_eq!(answer.header("cross-origin-resource-policy"), Some("same-origin"), "{page}");
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert_eq!(answer.header("x-frame-options"), Some("DENY"));
        assert!(
            answer
                .header("content-security-policy")
                .is_some_and(|policy| policy.contains("default-src 'none'"))
        );
    }
    let head = gateway.ask("HEAD /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    assert_eq!((head.status, head.body.len()), (200, 0));
}

#[test]
fn paths_lead_nowhere_but_to_the_listed_pages() {
    let gateway = Gateway::start("paths");
    gateway.serve();
    for path in [
        "/../etc/passwd",
        "/%2e%2e/etc/passwd",
        "//metrics",
        "/metrics/",
        "/METRICS",
        "/metrics%00",
        "/api/v1",
        "/api/v2/clusters",
    ] {
        let answer = gateway.ask(&get(path, "localhost"));
        assert!([400, 404].contains(&answer.status), "{path}: {}", answer.status);
    }
    for (path, named) in [
        ("/api/v1/routes?limit=0", "limit"),
        ("/api/v1/routes?limit=10001", "limit"),
        ("/api/v1/routes?limits=1", "limits"),
        ("/api/v1/explain", "url"),
        ("/api/v1/explain?url=http://a/&header=x", "header"),
        ("/api/v1/explain?url=http://a/&source=here", "source"),
    ] {
        let answer = gateway.ask(&get(path, "localhost"));
        assert_eq!(answer.status, 400, "{path}");
        assert!(answer.text().contains(named), "{path}: {}", answer.text());
    }
    let split = gateway.ask(&get("/api/v1/explain?url=http://a/&header=x:%20y%0d%0aHost:%20b", "localhost"));
    assert_eq!(split.status, 422, "a header must not become two: {}", split.text());
}

#[test]
fn clients_that_say_nothing_or_too_much_lose_their_connection_and_the_next_is_served() {
    let gateway = Gateway::start("slow");
    gateway.serve();
    let long = gateway
        .ask(&format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "a".repeat(40_000)));
    assert_eq!((long.status, long.is_closed), (431, true));
    // As many as the bound on connections: silent ones, and ones that never end their head.
    let hold: Vec<_> = (0..64)
        .map(|n| {
            let mut stream = TcpStream::connect(gateway.admin.addr()).unwrap();
            if n % 2 == 0 {
                stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: local").unwrap();
            }
            stream
        })
        .collect();
    let answer = gateway.ask(&get("/healthz", "localhost"));
    assert_eq!(answer.status, 200);
    drop(hold);
}

// ---------------------------------------------------------------- readiness

#[test]
fn ready_after_the_first_table_on_every_worker_and_until_draining() {
    let gateway = Gateway::start("ready");
    let ready = || {
        let answer = gateway.ask(&get("/readyz", "localhost"));
        let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(gateway.ask(&get("/healthz", "localhost")).status, 200, "alive in every phase");
        (answer.status, body["reason"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(ready(), (503, "the first table is still being made".to_owned()));
    gateway.controller.synced.store(true, Ordering::Relaxed);
    assert_eq!(ready(), (503, "1 of 1 workers have no table yet".to_owned()));
    gateway.update(1, &gateway.table());
    gateway.wait("ready", || ready().0 == 200);
    assert!(gateway.metrics().lines().any(|line| line == "ringway_ready 1"));
    gateway.admin.set_draining();
    assert_eq!(ready(), (503, "draining".to_owned()));
    assert!(gateway.metrics().lines().any(|line| line == "ringway_ready 0"));
}

#[test]
fn an_update_that_does_not_fit_is_reported_so_that_a_snapshot_comes() {
    let gateway = Gateway::start("step");
    let update = Update {
        generation: Generation(7),
        base_generation: Generation(6),
        observed_ns: 0,
        change: Change::Table(snapshot(&gateway.table())),
    };
    gateway.mail(&gateway.admin.mailbox().unwrap(), update);
    let out = |report: Report| match report {
        Report::OutOfStep { worker, generation } => Some((worker, generation)),
        Report::Applied { .. }
        | Report::Ejected { .. }
        | Report::Restored { .. }
        | Report::Listening { .. }
        | Report::Address { .. }
        | Report::Spent(_) => None,
    };
    let reports = std::iter::from_fn(|| gateway.node.as_ref()?.reports.recv_timeout(DEADLINE).ok());
    assert_eq!(reports.into_iter().find_map(out), Some((1, Generation(0))));
}

// ---------------------------------------------------------------- what is shown

#[test]
fn what_the_workers_count_is_shown_by_cluster_backend_and_route() {
    let gateway = Gateway::start("shown");
    gateway.serve();
    for _ in 0..20 {
        assert_eq!(gateway.request("/shop/cart"), 200);
    }
    assert_eq!(gateway.request("/elsewhere"), 404);
    let clusters: Clusters = gateway.json("/api/v1/clusters");
    let alpha = &clusters.clusters[0];
    assert_eq!((alpha.name.as_str(), alpha.state, alpha.ready), ("alpha", Activity::Serving, 1));
    assert!((alpha.share - 1.0).abs() < 1e-9 && alpha.requests_per_second > 0.0);
    assert!(alpha.latency.p99_ms.is_some_and(|p99| p99 > 0.0));
    let backends: Backends = gateway.json("/api/v1/backends?name=default/web:80");
    let part = &backends.backends[0].clusters[0];
    assert_eq!(part.responses.as_ref().unwrap()["2xx"], 20);
    assert_eq!(backends.backends[0].endpoints.as_ref().unwrap()[0].addr, gateway.backend.to_string());
    let routes: Routes = gateway.json("/api/v1/routes");
    assert_eq!(routes.rules[0].responses.as_ref().unwrap()["2xx"], 20);
    assert_eq!(routes.rules[0].matches, "path below /shop");
    let listeners: Listeners = gateway.json("/api/v1/listeners");
    assert_eq!(listeners.listeners[0].addr, gateway.listen.to_string());
    let generation: GenerationState = gateway.json("/api/v1/generation");
    assert_eq!((generation.admin, generation.workers), (1, vec![1]));
    let metrics = gateway.metrics();
    for line in [
        "ringway_route_responses_total{route=\"Ingress default/web\",class=\"2xx\"} 20",
        "ringway_backend_responses_total{backend=\"default/web:80\",cluster=\"alpha\",class=\"2xx\"} 20",
        "ringway_cluster_responses_total{cluster=\"alpha\",class=\"2xx\"} 20",
        "ringway_cluster_response_seconds_count{cluster=\"alpha\"} 20",
        "ringway_requests_unmatched_total 1",
    ] {
        assert!(metrics.lines().any(|other| other == line), "{line} is missing in\n{metrics}");
    }
    let page = gateway.ask(&get("/", "localhost"));
    assert!(
        page.text().contains("<title>Ringway</title>") && !page.text().contains("https://"),
        "self-contained"
    );
}

#[test]
fn an_explanation_names_the_rule_that_serves_and_the_reason_where_none_does() {
    let gateway = Gateway::start("explained");
    gateway.serve();
    let url = |path: &str| format!("/api/v1/explain?url=http%3A%2F%2F{}{path}", gateway.listen);
    let served: explain::Answer = gateway.json(&url("/shop/a/../cart"));
    let rule = served.rule.unwrap();
    assert_eq!((rule.route.as_str(), served.path.as_str()), ("Ingress default/web", "/shop/cart"));
    assert_eq!(served.backends[0].clusters[0].endpoints[0].verdict, Verdict::Chosen);
    assert_eq!(served.remark, None);
    let lost: explain::Answer = gateway.json(&url("/elsewhere"));
    assert!(lost.rule.is_none() && lost.no_rule.is_some());
    assert_eq!(lost.rules[0].verdict, Verdict::Lost);
}

#[test]
fn a_route_that_takes_over_a_slot_does_not_show_the_past_of_the_one_before() {
    let gateway = Gateway::start("takeover");
    gateway.serve();
    for _ in 0..5 {
        gateway.request("/shop");
    }
    gateway.update(2, &gateway.table_named("Ingress default/next"));
    gateway.wait("the new table", || gateway.json::<GenerationState>("/api/v1/generation").workers == [2]);
    assert_eq!(gateway.request("/shop"), 200);
    let metrics = gateway.metrics();
    assert!(
        metrics.contains("ringway_route_responses_total{route=\"Ingress default/next\",class=\"2xx\"} 1\n")
    );
    assert!(!metrics.contains("Ingress default/web"), "a route that is gone has no series");
    assert!(
        metrics.contains("ringway_cluster_responses_total{cluster=\"alpha\",class=\"2xx\"} 6\n"),
        "the cluster stayed"
    );
}

// ---------------------------------------------------------------- S44

#[test]
fn a_thousand_odd_paths_add_no_series_and_break_no_line() {
    let gateway = Gateway::start("odd");
    gateway.serve();
    gateway.request("/shop");
    let before = series(&gateway.metrics());
    let odd = |n: usize| match n % 8 {
        0 => format!("/shop/%0d%0aringway_fake_total%20{n}"),
        1 => format!("/shop/\u{1b}[31m{n}"),
        2 => format!("/shop/\"}}{n}"),
        3 => format!("/{n}/ringway_fake_total{{x=\"y\"}}"),
        4 => format!("/shop/%1b%5b31m{n}"),
        5 => format!("/shop/ünïcode/{n}?q=\"\\\\\""),
        6 => format!("/shop/{}?id={n}", "a".repeat(n)),
        _ => format!("/users/{n}/orders/{n}"),
    };
    let mut statuses = BTreeMap::new();
    for n in 0..1_000 {
        *statuses.entry(gateway.request(&odd(n))).or_insert(0) += 1;
    }
    assert!(statuses[&200] > 100 && statuses[&404] > 100 && statuses[&400] > 100, "{statuses:?}");
    let text = gateway.metrics();
    assert_eq!(series(&text), before, "what clients send is never a label");
    assert!(!text.contains("ringway_fake") && !text.contains('\u{1b}'));
    let refused =
        text.lines().find_map(|line| line.strip_prefix("ringway_requests_refused_total{fault=\"target\"} "));
    assert!(
        refused.is_some_and(|count| count.parse::<u64>().unwrap() > 100),
        "counted by fault: {refused:?}"
    );

    let log = gateway.stop();
    let lines = log.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let mut count = 0;
    for line in lines {
        assert!(
            line.iter().all(|byte| *byte >= 0x20),
            "raw control bytes: {}",
            String::from_utf8_lossy(line)
        );
        serde_json::from_slice::<serde_json::Value>(line).expect("every line is one JSON object");
        count += 1;
    }
    assert!(count > 500, "{count} lines");
}

/// Every series of an exposition; panics at the first line that is not well-formed.
fn series(text: &str) -> BTreeSet<String> {
    assert!(text.ends_with("# EOF\n"));
    let mut all = BTreeSet::new();
    let mut family = "";
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (kind, name) = (words.next().unwrap(), words.next().unwrap_or_default());
            assert!(matches!(kind, "HELP" | "TYPE" | "EOF"), "{line}");
            if kind == "HELP" {
                family = name;
            }
            continue;
        }
        let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
        assert!(value.parse::<f64>().is_ok(), "{line}");
        assert!(name.starts_with(family), "{line} stands outside of its family {family}");
        let (metric, labels) = name.split_once('{').unwrap_or((name, "}"));
        assert!(metric.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_')), "{line}");
        parse_labels(labels, line);
        assert!(all.insert(name.to_owned()), "{line} is there twice");
    }
    all
}

fn parse_labels(labels: &str, line: &str) {
    let mut rest = labels;
    while let Some((key, after)) = rest.split_once("=\"") {
        assert!(!key.is_empty() && key.bytes().all(|byte| byte.is_ascii_lowercase()), "{line}");
        let mut escaped = false;
        let end = after.bytes().position(|byte| {
            let ends = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            ends
        });
        rest = &after[end.unwrap_or_else(|| panic!("{line}")) + 1..];
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
    assert_eq!(rest, "}", "{line}");
}

#[test]
fn readme_lists_every_metric() {
    let readme = include_str!("../../README.md");
    let section = readme.split("\n## Metrics").nth(1).expect("README has the section");
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows: Vec<_> = section.lines().filter(|line| line.starts_with("| `ringway_")).collect();
    let listed = gateway::observe::metrics::METRICS.iter().map(|metric| {
        let labels =
            metric.labels.split(", ").filter(|label| !label.is_empty()).map(|label| format!("`{label}`"));
        let labels = labels.collect::<Vec<_>>().join(", ");
        format!("| `{}` | {} | {labels} | {} |", metric.name, metric.kind.name(), metric.help)
    });
    let listed: Vec<_> = listed.collect();
    assert_eq!(rows, listed, "README.md, section Metrics, is to hold:\n{}", listed.join("\n"));
}

// ---------------------------------------------------------------- the gateway under test

#[derive(Default)]
struct Fake {
    synced: AtomicBool,
}

impl Controller for Fake {
    fn facts(&self) -> Facts {
        Facts { synced: self.synced.load(Ordering::Relaxed), generation: 1, ..Facts::default() }
    }

    fn verdicts(&self) -> Vec<VerdictFact> {
        Vec::new()
    }

    fn standings(&self) -> Vec<Standing> {
        Vec::new()
    }

    fn order(&self, _order: Order, answer: Answer) {
        answer(Err(OrderRefused::Busy));
    }
}

struct Gateway {
    node: Option<Node>,
    admin: Admin,
    controller: Arc<Fake>,
    listen: SocketAddr,
    backend: SocketAddr,
    log: PathBuf,
}

impl Gateway {
    /// One worker without a table.
    fn start(name: &str) -> Self {
        let log = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("admin-{name}.log"));
        let _ = std::fs::remove_file(&log);
        let mut config = Config::default();
        config.worker.count = 1;
        config.worker.pin = false;
        config.admin.listen = ([127, 0, 0, 1], 0).into();
        config.admin.socket = PathBuf::new();
        config.admin.state_dir = PathBuf::new();
        config.observe.access_log = AccessLog::File(log.clone());
        let config = Arc::new(config);
        let node = Node::start(&config).unwrap();
        let controller = Arc::new(Fake::default());
        let admin = Admin::start(&config, &node, Arc::clone(&controller) as Arc<dyn Controller>).unwrap();
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let listen = free.local_addr().unwrap();
        Self { node: Some(node), admin, controller, listen, backend: backend(), log }
    }

    /// Gives every reader the table and waits until it is in force.
    fn serve(&self) {
        self.controller.synced.store(true, Ordering::Relaxed);
        self.update(1, &self.table());
        self.wait("readiness", || self.ask(&get("/readyz", "localhost")).status == 200);
        self.wait("the admin's table", || self.json::<GenerationState>("/api/v1/generation").admin == 1);
    }

    fn update(&self, generation: u64, table: &RouteTable) {
        let node = self.node.as_ref().unwrap();
        let mut readers = node.mailboxes().unwrap();
        readers.push(self.admin.mailbox().unwrap());
        for reader in readers {
            let update = Update {
                generation: Generation(generation),
                base_generation: Generation(0),
                observed_ns: 0,
                change: Change::Snapshot(snapshot(table)),
            };
            self.mail(&reader, update);
        }
    }

    fn mail(&self, (mail, bell): &(crossbeam_channel::Sender<Mail>, OwnedFd), update: Update) {
        mail.send(Mail::Update(Arc::new(update))).unwrap();
        rustix::io::write(bell, &1_u64.to_ne_bytes()).unwrap();
    }

    fn wait(&self, what: &str, done: impl Fn() -> bool) {
        let until = Instant::now() + DEADLINE;
        while !done() {
            assert!(Instant::now() < until, "no {what} within {DEADLINE:?}");
            std::thread::yield_now();
        }
    }

    fn table(&self) -> RouteTable {
        self.table_named("Ingress default/web")
    }

    /// `/shop` on the listener goes to the one endpoint of the one cluster.
    fn table_named(&self, route: &str) -> RouteTable {
        let (alpha, web, listener) = (ClusterId(0), BackendId(0), ListenerId(0));
        let share = ClusterShare { cluster: alpha, priority: 0, weight: None };
        let action = RuleAction {
            route: route.into(),
            rule_index: 0,
            stat: StatSlot(1),
            target: Target::Forward(Box::new([WeightedBackend {
                backend: Some(web),
                weight: 1,
                request_headers: HeaderEdits::default(),
                response_headers: HeaderEdits::default(),
                cluster: None,
            }])),
            request_headers: HeaderEdits::default(),
            response_headers: HeaderEdits::default(),
            rewrite: Rewrite::default(),
            policy: Arc::new(Policy { clusters: Box::new([share]), ..Policy::default() }),
            filters: None,
        };
        let matches = RuleMatch {
            path: PathMatch::Prefix("/shop".into()),
            method: None,
            headers: Box::default(),
            query: Box::default(),
            more: Box::default(),
        };
        let rules = HostRules::new(vec![Rule { matches, action: Arc::new(action) }]);
        let cluster = ClusterSpec { name: "alpha".into(), ..ClusterSpec::default() };
        let listener_spec = ListenerSpec {
            bind: BindId(0),
            addr: self.listen,
            protocol: Protocol::Http,
            layer4: None,
            hostname: HostPattern::Any,
            name: format!("ingress:{}", self.listen).into(),
            tls: None,
        };
        let backend = BackendSpec {
            name: "default/web:80".into(),
            limits: BackendLimits::default(),
            stats: Box::new([(alpha, StatSlot(2))]),
            ..BackendSpec::default()
        };
        let endpoint = EndpointSpec {
            backend: web,
            cluster: alpha,
            zone: ZoneId(0),
            node: NodeId(0),
            addr: self.backend,
            condition: Condition::Ready,
        };
        RouteTable {
            clusters: [(alpha, Arc::new(cluster))].into(),
            listeners: [(listener, Arc::new(listener_spec))].into(),
            hosts: [(HostKey { listener, pattern: HostPattern::Any }, Arc::new(rules))].into(),
            backends: [(web, Arc::new(backend))].into(),
            endpoints: [(EndpointId(0), endpoint)].into(),
            rings: BTreeMap::new(),
        }
    }

    /// One request through the gateway: the status.
    fn request(&self, target: &str) -> u16 {
        let request = format!("GET {target} HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n");
        converse(self.listen, request.as_bytes()).status
    }

    /// One raw request to the admin API.
    fn ask(&self, request: &str) -> Answered {
        converse(self.admin.addr(), request.as_bytes())
    }

    fn json<T: DeserializeOwned>(&self, path: &str) -> T {
        let answer = self.ask(&get(path, "localhost"));
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        serde_json::from_slice(&answer.body).unwrap()
    }

    fn metrics(&self) -> String {
        let answer = self.ask(&get("/metrics", "localhost"));
        assert_eq!(answer.header("content-type"), Some(gateway::observe::metrics::CONTENT_TYPE));
        answer.text()
    }

    /// Ends the workers; the access log.
    fn stop(mut self) -> Vec<u8> {
        let node = self.node.take().unwrap();
        node.peers.stop();
        node.join().unwrap();
        std::fs::read(&self.log).unwrap()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Some(node) = self.node.take() {
            node.peers.stop();
            let _ = node.join();
        }
        let _ = std::fs::remove_file(&self.log);
    }
}

fn get(path: &str, host: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
}

struct Answered {
    status: u16,
    head: String,
    body: Vec<u8>,
    is_closed: bool,
}

impl Answered {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (other, value) = line.split_once(':')?;
            other.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Sends `request` and reads until the other side closes.
fn converse(to: SocketAddr, request: &[u8]) -> Answered {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    // A refusal may come, and the connection end, before all is written.
    let _ = stream.write_all(request);
    let mut bytes = Vec::new();
    let is_closed = match stream.read_to_end(&mut bytes) {
        Ok(_) => true,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    };
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or_else(|| {
        panic!("no head in the answer to {:?}", String::from_utf8_lossy(&request[..request.len().min(80)]))
    });
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status line");
    Answered { status, head, body: bytes.split_off(end + 4), is_closed }
}

/// Answers every request with 200, for as long as the test runs.
fn backend() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream);
                let mut line = Vec::new();
                while reader.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
                    let is_last = line == b"\r\n";
                    line.clear();
                    if is_last
                        && reader
                            .get_mut()
                            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                            .is_err()
                    {
                        return;
                    }
                }
            });
        }
    });
    addr
}
