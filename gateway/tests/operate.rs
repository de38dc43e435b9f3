//! Operating a running node over its Unix socket, with the built binary: drain, undrain, promote, fence, drill, and
//! what `status` says of it.

#![allow(clippy::unwrap_used, reason = "the helpers of a test may unwrap, too")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use gateway::admin::api::{ClusterState, Clusters, Origin, Standing};
use gateway::admin::drill::{DrillState, Outcome, Phase, Report};
use serde::de::DeserializeOwned;

const DEADLINE: Duration = Duration::from_secs(30);

// ---------------------------------------------------------------- drain

#[test]
fn a_drained_cluster_gets_nothing_through_an_edit_and_a_new_process_until_it_is_undrained() {
    let mut node = Node::start("drain");
    node.until_both_serve();
    assert_eq!(
        node.ringway(&["drain", "alpha"]),
        (0, "alpha: drained (by an operator, for 0 s)\n".to_owned())
    );
    assert_eq!(node.served(50), (0, 50));
    let alpha = node.cluster("alpha");
    assert_eq!((alpha.health.state.as_str(), alpha.health.reason.as_str()), ("drained", "by an operator"));
    assert!(alpha.health.since_seconds.is_some());
    let (_, status) = node.status();
    let line = status.lines().find(|line| line.starts_with("alpha")).unwrap();
    assert!(line.contains("drained") && line.ends_with("by an operator"), "{status}");

    // The manifest says something of the very cluster: the operator's word stands.
    node.write("fleet/alpha.yaml", &member("alpha", "region: here"));
    node.wait("the edit", || node.cluster("alpha").region == "here");
    assert_eq!(node.served(20), (0, 20));

    node.restart();
    node.wait("the first table", || node.served(1) == (0, 1));
    assert_eq!(node.served(20), (0, 20), "operators' words outlive the process");

    assert_eq!(node.ringway(&["undrain", "alpha"]), (0, "alpha: serves\n".to_owned()));
    node.until_both_serve();
    assert_eq!(node.cluster("alpha").standing.drain_origin, Origin::Manifest, "nothing is left to say");
}

#[test]
fn an_operator_undrains_what_the_manifest_drains() {
    let mut node = Node::start("undrain");
    node.write("fleet/alpha.yaml", &member("alpha", "drained: true"));
    node.wait("the manifest's drain", || node.cluster("alpha").health.reason == "by its MemberCluster");
    assert_eq!(node.served(20), (0, 20));
    let (code, said) = node.ringway(&["undrain", "alpha"]);
    assert_eq!((code, said.as_str()), (0, "alpha: serves (by an operator, for 0 s)\n"));
    node.until_both_serve();
    // The manifest agrees now; when it drains again, it counts again.
    node.write("fleet/alpha.yaml", &member("alpha", "drained: false"));
    node.wait("agreement", || node.cluster("alpha").standing.drain_origin == Origin::Manifest);
    let saved = node.dir.join("state/operator.json");
    node.wait("the word to be forgotten", || !std::fs::read_to_string(&saved).unwrap().contains("alpha"));
    node.restart();
    node.write("fleet/alpha.yaml", &member("alpha", "drained: true"));
    node.wait("the manifest's drain", || node.cluster("alpha").health.state == "drained");
}

#[test]
fn a_drain_over_a_time_passes_through_every_share() {
    let node = Node::start("over");
    node.until_both_serve();
    let standing: Standing = node.post("/api/v1/clusters/alpha/drain?over=2s").1.unwrap();
    assert_eq!(standing.drain_target, 100);
    assert!(standing.drain_percent < 100, "not at once: {standing:?}");
    let mut seen = vec![standing.drain_percent];
    node.wait("the end of the drain", || {
        let alpha = node.cluster("alpha");
        seen.push(alpha.standing.drain_percent);
        if alpha.standing.drain_percent < 100 {
            assert_eq!(alpha.health.state, "draining", "{alpha:?}");
        }
        alpha.health.state == "drained"
    });
    assert!(seen.is_sorted(), "{seen:?}");
    assert!(seen.iter().any(|percent| (1..100).contains(percent)), "{seen:?}");
    assert_eq!(node.served(30), (0, 30));
}

/// A drain over a long time is a share of the requests: while it stands at a few percent, both clusters serve.
#[test]
fn a_drain_over_a_time_moves_a_growing_share_and_loses_nothing() {
    let node = Node::start("share");
    node.until_both_serve();
    let (code, said) = node.ringway(&["drain", "alpha", "--over", "8s"]);
    assert_eq!(code, 0, "{said}");
    let (mut early, mut late) = ((0, 0), (0, 0));
    node.wait("the end of the drain", || {
        let percent = || node.cluster("alpha").standing.drain_percent;
        let before = percent();
        let (alpha, beta) = node.served(20);
        // A machine that stands still lets some of them be asked for twice.
        assert!(alpha + beta >= 20, "every request is served");
        match (before, percent()) {
            (_, ..35) => early = (early.0 + alpha, early.1 + beta),
            (65.., ..100) => late = (late.0 + alpha, late.1 + beta),
            _ => {}
        }
        before == 100
    });
    assert_eq!(node.served(30), (0, 30));
    // Half of what is not drained is alpha's: at least a third early, at most a fifth late; less than ten rounds say nothing.
    let share = |(alpha, beta): (u64, u64)| (alpha + beta >= 200).then(|| alpha * 100 / (alpha + beta));
    assert!(share(early).is_none_or(|percent| percent >= 25), "{early:?}");
    assert!(share(late).is_none_or(|percent| percent <= 25), "{late:?}");
    assert!(early.0 + early.1 + late.0 + late.1 > 0, "it was seen on its way");
}

// ---------------------------------------------------------------- plan

#[test]
fn a_plan_against_a_running_node_says_which_share_of_its_requests_would_go_elsewhere() {
    let node = Node::start("plan");
    node.until_both_serve();
    let next = node.copy_manifests("next");
    let plan = |args: &[&str]| node.plan(&next, args);
    node.wait("remembered requests", || {
        plan(&[]).1.contains("requests, ") && plan(&[]).1.contains("\n  0.0 % would go elsewhere\n")
    });
    assert!(plan(&[]).1.starts_with("nothing would change\ndecisions of the last 60 s: "), "{}", plan(&[]).1);
    assert!(!plan(&[]).1.contains("  > "), "no way is named");

    // Half of the requests go to beta, which would have no endpoint.
    std::fs::write(next.join("clusters/beta/web.yaml"), "# nothing\n").unwrap();
    let (code, said) = plan(&[]);
    assert_eq!(code, 0, "{said}");
    let beta = node.backends[1].addr;
    for part in [
        format!("endpoints removed: 1\n  - default/web:80 beta {beta} Ready\n"),
        "\n  50.0 % would go elsewhere\n    50.0 % to another cluster\n    0.0 % to another backend\n    0.0 % by another rule\n".to_owned(),
        "\n  > 50.0 % default/web:80 in beta → default/web:80 in alpha, such as GET shop.example/\n".to_owned(),
    ] {
        assert!(said.contains(&part), "{part:?} is missing in\n{said}");
    }

    // Nobody would serve them.
    std::fs::write(next.join("fleet/web.yaml"), "# nothing\n").unwrap();
    let (_, said) = plan(&[]);
    assert!(said.contains("\n  100.0 % would go elsewhere\n") && said.contains("in alpha → 404"), "{said}");

    // The port is for everybody: the table, and no request.
    let (code, said) = plan(&["--admin", &format!("http://{}", node.admin)]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("rules removed: 1\n") && said.contains("operators' socket only"), "{said}");
}

#[test]
fn what_is_remembered_of_a_request_is_what_its_rules_ask_for_and_a_rule_that_asks_for_more_is_not_guessed_about()
 {
    let node = Node::start("remember");
    let policy = |name: &str| {
        format!(
            "apiVersion: ringway.dev/v1alpha1\nkind: FailoverPolicy\nmetadata: {{name: web}}\nspec:\n  \
             targetRefs: [{{group: networking.k8s.io, kind: Ingress, name: web}}]\n  \
             pins: [{{when: {{header: {{name: {name}, value: beta}}}}, cluster: beta}}]\n"
        )
    };
    node.write("fleet/policy.yaml", &policy("x-cluster"));
    let request = "GET /cart?card=4711 HTTP/1.1\r\nHost: shop.example\r\nX-Cluster: beta\r\nAuthorization: Basic c2VjcmV0\r\n\
                   Cookie: session=secret\r\nConnection: close\r\n\r\n";
    let told = || {
        let ask = "GET /api/v1/decisions HTTP/1.0\r\nHost: localhost\r\n\r\n";
        converse(UnixStream::connect(&node.socket).unwrap(), ask)
    };
    node.wait("a request that its pin decided", || {
        let before = node.backends[1].requests.load(Ordering::SeqCst);
        assert_eq!(converse(TcpStream::connect(node.listen).unwrap(), request).0, 200);
        let is_pinned = node.backends[1].requests.load(Ordering::SeqCst) > before;
        is_pinned
            && told().1.contains("GET /cart HTTP/1.1\\r\\nHost: shop.example\\r\\nx-cluster: beta\\r\\n")
    });
    let (status, body) = told();
    assert_eq!(status, 200);
    for secret in ["4711", "c2VjcmV0", "session", "\"source\":\""] {
        assert!(!body.contains(secret), "{secret} is remembered: {body}");
    }
    assert!(body.contains("\"source\":null"), "{body}");
    let ask = "GET /api/v1/decisions HTTP/1.0\r\nHost: localhost\r\n\r\n";
    let (status, body) = converse(TcpStream::connect(node.admin).unwrap(), ask);
    assert_eq!(status, 403, "{body}");

    let next = node.copy_manifests("next");
    std::fs::write(next.join("fleet/policy.yaml"), policy("x-region")).unwrap();
    let (_, said) = node.plan(&next, &[]);
    assert!(
        said.contains(
            "% cannot be told: a rule asks for what was not remembered of them (header x-region)\n"
        ),
        "{said}"
    );
}

// ---------------------------------------------------------------- promote

#[test]
fn a_standby_is_promoted_and_fenced_and_strangers_are_named() {
    let node = Node::start("promote");
    let (code, said) = node.ringway(&["promote", "beta"]);
    assert_eq!((code, said.as_str()), (0, "beta: serves, promoted (by an operator, for 0 s)\n"));
    assert!(node.cluster("beta").standing.promoted);
    let (_, status) = node.status();
    assert!(
        status.lines().any(|l| l.starts_with("beta") && l.ends_with("promoted by an operator")),
        "{status}"
    );
    assert_eq!(node.ringway(&["fence", "beta"]), (0, "beta: serves\n".to_owned()));

    for command in ["drain", "undrain", "promote", "fence"] {
        let (code, _, err) = node.run(&[command, "gamma"]);
        assert_eq!((code, err.as_str()), (1, "ringway: no such member cluster; there are: alpha, beta\n"));
    }
    let (code, _, err) = node.run(&["drain", "alpha", "--over", "25h"]);
    assert_eq!((code, err.as_str()), (1, "ringway: over: at most 24 h\n"));
    let (code, _, err) = node.run(&["drain", "../alpha"]);
    assert!(code == 1 && err.contains("no such"), "{err}");
}

/// Two databases must not take writes at once: a failover moves reads, and writes when an operator says so.
#[test]
fn writes_wait_for_ringway_promote_when_a_standby_takes_over() {
    let node = Node::start("fence");
    node.write(
        "fleet/policy.yaml",
        "apiVersion: ringway.dev/v1alpha1\nkind: FailoverPolicy\nmetadata: {name: web}\nspec:\n  \
         targetRefs: [{group: networking.k8s.io, kind: Ingress, name: web}]\n  \
         clusters: [{name: alpha, priority: 0}, {name: beta, priority: 1}]\n  writeFence: UntilPromoted\n",
    );
    node.wait("the plan", || node.served(10) == (10, 0));
    assert_eq!(node.ask("POST").0, 200, "at home writes are served");
    // Nobody listens where alpha's pods are said to be from now on.
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    node.write("clusters/alpha/web.yaml", &web(free.local_addr().unwrap().port()));
    drop(free);
    node.wait("the failover", || node.served(1) == (0, 1));
    for _ in 0..3 {
        let (status, head) = node.ask("POST");
        assert_eq!(status, 503, "{head}");
        assert!(head.contains("retry-after: 1") && head.contains("write_fenced"), "{head}");
        assert_eq!(node.ask("GET").0, 200);
    }
    assert_eq!(node.ringway(&["promote", "beta"]).0, 0);
    node.wait("the promotion", || node.ask("POST").0 == 200);
    assert_eq!(node.ringway(&["fence", "beta"]).0, 0);
    node.wait("the fence", || node.ask("POST").0 == 503);
    assert_eq!(node.ask("GET").0, 200, "reads never waited");
}

// ---------------------------------------------------------------- the socket

#[test]
fn what_changes_state_is_on_the_socket_only_and_the_socket_is_ours_only() {
    let mut node = Node::start("socket");
    let mode = std::fs::metadata(&node.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let paths =
        ["clusters/alpha/drain", "clusters/alpha/undrain", "clusters/alpha/promote", "clusters/alpha/fence"];
    let drills = ["clusters/alpha/drill?fault=refuse&share=1%25&for=1s", "drill/stop"];
    for path in paths.iter().chain(&drills) {
        for method in ["POST", "GET", "PUT", "DELETE"] {
            let request = format!("{method} /api/v1/{path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
            let (status, _) = converse(TcpStream::connect(node.admin).unwrap(), &request);
            assert!([404, 405].contains(&status), "{method} {path} over TCP: {status}");
        }
    }
    assert_eq!(node.cluster("alpha").standing.drain_percent, 0);
    // Everything that can be read can be read there, too; a body and other methods are refused.
    let on_socket = |request: &str| converse(UnixStream::connect(&node.socket).unwrap(), request).0;
    assert_eq!(on_socket("GET /metrics HTTP/1.0\r\nHost: x\r\n\r\n"), 200);
    assert_eq!(on_socket("POST /api/v1/clusters/alpha/drain HTTP/1.0\r\nContent-Length: 2\r\n\r\nhi"), 413);
    assert_eq!(on_socket("DELETE /api/v1/drill HTTP/1.0\r\n\r\n"), 405);
    assert_eq!(on_socket("GET /api/v1/clusters/alpha/drain HTTP/1.0\r\n\r\n"), 405);
    for wrong in [
        "clusters/alpha/drain?over=soon",
        "clusters/alpha/drain?under=1s",
        "clusters/alpha/promote?over=1s",
        "clusters/alpha/drill?fault=refuse&share=1%25",
        "clusters/alpha/drill?fault=fire&share=1%25&for=1s",
        "clusters/alpha/drill?fault=refuse&share=0%25&for=1s",
        "clusters/alpha/drill?fault=refuse&share=1%25&for=1s&abort-on=never",
    ] {
        assert_eq!(node.post::<Standing>(&format!("/api/v1/{wrong}")).0, 400, "{wrong}");
    }
    node.stop();
    assert!(!node.socket.exists(), "the file goes with the node");
    let (code, _, err) = node.run(&["drain", "alpha"]);
    assert!(code == 1 && err.contains("admin.sock: No such file") && err.contains("ringway run"), "{err}");
}

#[test]
fn a_socket_left_behind_is_replaced_and_a_second_node_leaves_the_first_ones_alone() {
    let mut node = Node::start("stale");
    node.kill();
    assert!(node.socket.exists(), "as a killed process leaves it");
    let (code, _, err) = node.run(&["drain", "alpha"]);
    assert!(code == 1 && err.contains("the process that made it has ended"), "{err}");
    node.restart();
    assert_eq!(node.ringway(&["drain", "alpha"]).0, 0);

    let mut second = Node::new("stale-second");
    second.socket.clone_from(&node.socket);
    second.restart();
    second.until_both_serve();
    assert!(second.log.contains("another process listens on it"), "{}", second.log);
    drop(second);
    assert_eq!(node.ringway(&["undrain", "alpha"]).0, 0, "the first one still has its socket");

    let mut without = Node::new("without");
    without.socket = PathBuf::new();
    without.restart();
    without.until_both_serve();
    assert!(!without.log.contains("operators"), "{}", without.log);
}

// ---------------------------------------------------------------- drill

#[test]
fn a_drill_ends_by_its_time_with_a_report_that_is_kept() {
    let node = Node::start("drill");
    node.until_both_serve();
    let args = ["drill", "alpha", "--fault", "latency=1ms", "--share", "5%", "--for", "1s", "--json"];
    std::thread::scope(|scope| {
        let drill = scope.spawn(|| node.run(&args));
        node.wait("the drill", || node.drill().phase == Phase::Running);
        let (status, _) = node.post::<Standing>("/api/v1/clusters/beta/drill?fault=refuse&share=1%25&for=1s");
        assert_eq!(status, 409, "never two at once");
        while !drill.is_finished() {
            node.served(20);
        }
        let (code, out, err) = drill.join().unwrap();
        assert_eq!((code, err.as_str()), (0, ""), "{out}");
        let report: Report = serde_json::from_str(&out).unwrap();
        assert_eq!((report.cluster.as_str(), report.fault.as_str()), ("alpha", "latency=1ms"));
        assert_eq!((report.outcome, report.during.failed), (Outcome::Finished, 0));
        assert!(report.during.requests > 0 && report.after.requests > 0, "{report:?}");
        assert!(report.during.latency.p999_ms.is_some() && report.during.seconds >= 1.0);
        let kept: Vec<_> = std::fs::read_dir(node.dir.join("state/drills")).unwrap().collect();
        let kept = std::fs::read(kept[0].as_ref().unwrap().path()).unwrap();
        assert_eq!(serde_json::from_slice::<Report>(&kept).unwrap(), report);
    });
    assert_eq!(node.drill().phase, Phase::Idle);
}

#[test]
fn a_failed_request_or_an_operator_aborts_a_drill() {
    let node = Node::start("abort");
    node.until_both_serve();
    let path = "/api/v1/clusters/alpha/drill?fault=latency%3D1ms&share=1%25&for=1h&abort-on=failed%3D1";
    let (status, begun) = node.post::<DrillState>(path);
    assert_eq!((status, begun.unwrap().phase), (202, Phase::Running));
    // The application fails, not the drill: an operator's rule does not ask why.
    node.answer_with(503);
    node.request();
    node.answer_with(200);
    node.wait("the end of the fault", || node.drill().phase == Phase::Measuring);
    assert_eq!(node.post::<DrillState>("/api/v1/drill/stop").0, 409, "it is over");
    node.wait("the report", || node.drill().phase == Phase::Idle);
    let report = node.drill().report.unwrap();
    assert_eq!((report.outcome, report.reason.as_str()), (Outcome::Aborted, "1 requests failed"));

    assert_eq!(node.post::<DrillState>(path).0, 202);
    assert_eq!(node.post::<DrillState>("/api/v1/drill/stop").0, 200);
    node.wait("the second report", || {
        node.drill().report.is_some_and(|report| report.reason == "stopped by an operator")
    });
}

// ---------------------------------------------------------------- a node with two clusters

fn member(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: ringway.dev/v1alpha1\nkind: MemberCluster\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n"
    )
}

/// A Service and its only endpoint.
fn web(port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec: {{ports: [{{name: http, port: 80}}]}}\n\
         ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: web-1, labels: {{kubernetes.io/service-name: web}}}}\naddressType: IPv4\n\
         ports: [{{name: http, port: {port}}}]\nendpoints: [{{addresses: [127.0.0.1]}}]\n"
    )
}

/// An endpoint that counts its requests.
struct Backend {
    addr: SocketAddr,
    requests: Arc<AtomicU64>,
    status: Arc<AtomicU16>,
}

impl Backend {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let (requests, status) = (Arc::<AtomicU64>::default(), Arc::new(AtomicU16::new(200)));
        let (counted, answer) = (Arc::clone(&requests), Arc::clone(&status));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (counted, answer) = (Arc::clone(&counted), Arc::clone(&answer));
                std::thread::spawn(move || {
                    let mut reader = BufReader::new(stream);
                    let mut line = Vec::new();
                    while reader.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
                        let is_last = line == b"\r\n";
                        line.clear();
                        if is_last {
                            counted.fetch_add(1, Ordering::SeqCst);
                            let status = answer.load(Ordering::SeqCst);
                            let text = format!("HTTP/1.1 {status} X\r\nContent-Length: 2\r\n\r\nok");
                            if reader.get_mut().write_all(text.as_bytes()).is_err() {
                                return;
                            }
                        }
                    }
                });
            }
        });
        Self { addr, requests, status }
    }
}

struct Node {
    dir: PathBuf,
    socket: PathBuf,
    backends: [Backend; 2],
    child: Option<Child>,
    admin: SocketAddr,
    listen: SocketAddr,
    /// What it logged until it listened.
    log: String,
    edits: AtomicU64,
}

impl Node {
    fn start(name: &str) -> Self {
        let mut node = Self::new(name);
        node.restart();
        node
    }

    /// Everything but the process.
    fn new(name: &str) -> Self {
        // Not below the target folder: the path of a Unix socket has 107 bytes at most.
        let dir = std::env::temp_dir().join(format!("ringway-operate-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        let backends = [Backend::start(), Backend::start()];
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let socket = dir.join("admin.sock");
        let node = Self {
            dir,
            socket,
            backends,
            child: None,
            admin: any,
            listen: any,
            log: String::new(),
            edits: AtomicU64::new(0),
        };
        node.write(
            "fleet/web.yaml",
            "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: web}\nspec:\n  \
             defaultBackend: {service: {name: web, port: {number: 80}}}\n",
        );
        for (name, backend) in ["alpha", "beta"].iter().zip(&node.backends) {
            node.write(&format!("clusters/{name}/web.yaml"), &web(backend.addr.port()));
        }
        node
    }

    /// Puts a manifest in place, as a whole.
    fn write(&self, path: &str, text: &str) {
        let path = self.dir.join("manifests").join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let next = self.dir.join(format!("edit-{}", self.edits.fetch_add(1, Ordering::SeqCst)));
        std::fs::write(&next, text).unwrap();
        std::fs::rename(next, path).unwrap();
    }

    /// Starts the process, in place of the one that runs.
    fn restart(&mut self) {
        self.stop();
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        self.listen = free.local_addr().unwrap();
        drop(free);
        let config = self.dir.join("gateway.toml");
        let state = self.dir.join("state");
        std::fs::write(&config, format!("[admin]\nstate_dir = {:?}\n", state.to_str().unwrap())).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringway"));
        command.args(["run", "--workers", "2", "--admin", "127.0.0.1:0"]);
        command.args(["--listen", &self.listen.to_string()]);
        command.arg("--config").arg(config);
        // As one argument: an empty one is none.
        command.arg(format!("--socket={}", self.socket.display()));
        command.arg("--manifests").arg(self.dir.join("manifests"));
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        self.log.clear();
        self.admin = loop {
            let mut line = String::new();
            assert!(log.read_line(&mut line).unwrap() > 0, "the node ended:\n{}", self.log);
            self.log.push_str(&line);
            if let Some((_, rest)) = line.split_once("admin API listen=") {
                break rest.split_whitespace().next().unwrap().parse().unwrap();
            }
        };
        // Read on, or the node would wait for room in the pipe.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        self.child = Some(child);
        let ready = "GET /readyz HTTP/1.0\r\nHost: localhost\r\n\r\n";
        self.wait("readiness", || converse(TcpStream::connect(self.admin).unwrap(), ready).0 == 200);
    }

    /// Ends the process as an operator would.
    fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let pid = rustix::process::Pid::from_child(&child);
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
            assert!(child.wait().unwrap().success());
        }
    }

    /// Ends the process without a chance to tidy up.
    fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn wait(&self, what: &str, mut done: impl FnMut() -> bool) {
        let until = Instant::now() + DEADLINE;
        while !done() {
            assert!(Instant::now() < until, "no {what} within {DEADLINE:?}");
            std::thread::yield_now();
        }
    }

    fn answer_with(&self, status: u16) {
        self.backends.iter().for_each(|backend| backend.status.store(status, Ordering::SeqCst));
    }

    fn request(&self) -> u16 {
        let request = "GET / HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n";
        TcpStream::connect(self.listen).map_or(0, |stream| converse(stream, request).0)
    }

    /// Status and head of the answer to a request of this method.
    fn ask(&self, method: &str) -> (u16, String) {
        let request = format!(
            "{method} / HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        );
        let mut stream = TcpStream::connect(self.listen).unwrap();
        stream.be_patient();
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let head = text.split("\r\n\r\n").next().unwrap_or_default().to_lowercase();
        (head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0), head)
    }

    /// How many of so many requests each cluster has got.
    fn served(&self, count: u64) -> (u64, u64) {
        let counts = || self.backends.each_ref().map(|backend| backend.requests.load(Ordering::SeqCst));
        let before = counts();
        for _ in 0..count {
            self.request();
        }
        let after = counts();
        (after[0] - before[0], after[1] - before[1])
    }

    fn until_both_serve(&self) {
        self.wait("requests in both clusters", || {
            let (alpha, beta) = self.served(10);
            alpha > 0 && beta > 0
        });
    }

    /// Runs a command against the socket: exit code, stdout, stderr.
    fn run(&self, args: &[&str]) -> (i32, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringway"));
        let output = command.args(args).arg("--socket").arg(&self.socket).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().expect("not killed"), text(output.stdout), text(output.stderr))
    }

    /// Runs a command that has nothing to complain about.
    fn ringway(&self, args: &[&str]) -> (i32, String) {
        let (code, out, err) = self.run(args);
        assert_eq!(err, "");
        (code, out)
    }

    /// A directory with what is served now.
    fn copy_manifests(&self, name: &str) -> PathBuf {
        let to = self.dir.join(name);
        for path in ["fleet", "clusters/alpha", "clusters/beta"] {
            std::fs::create_dir_all(to.join(path)).unwrap();
            for file in std::fs::read_dir(self.dir.join("manifests").join(path)).unwrap() {
                let file = file.unwrap();
                std::fs::copy(file.path(), to.join(path).join(file.file_name())).unwrap();
            }
        }
        to
    }

    /// What a directory would change, by the socket unless `args` name the port.
    fn plan(&self, dir: &std::path::Path, args: &[&str]) -> (i32, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringway"));
        command.arg("plan").arg(dir).args(["--listen", &self.listen.to_string()]).args(args);
        if args.is_empty() {
            command.arg("--admin").arg(&self.socket);
        }
        let output = command.output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    }

    fn status(&self) -> (i32, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringway"));
        let output = command.args(["status", "--admin", &self.admin.to_string()]).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    }

    fn cluster(&self, name: &str) -> ClusterState {
        let request = "GET /api/v1/clusters HTTP/1.0\r\nHost: localhost\r\n\r\n";
        let (status, body) = converse(TcpStream::connect(self.admin).unwrap(), request);
        assert_eq!(status, 200, "{body}");
        let all: Clusters = serde_json::from_str(&body).unwrap();
        all.clusters.into_iter().find(|cluster| cluster.name == name).expect("a cluster of that name")
    }

    fn post<T: DeserializeOwned>(&self, path: &str) -> (u16, Option<T>) {
        let request = format!("POST {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
        let (status, body) = converse(UnixStream::connect(&self.socket).unwrap(), &request);
        (status, serde_json::from_str(&body).ok())
    }

    fn drill(&self) -> DrillState {
        let request = "GET /api/v1/drill HTTP/1.0\r\nHost: localhost\r\n\r\n";
        let (status, body) = converse(UnixStream::connect(&self.socket).unwrap(), request);
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

trait Patient {
    fn be_patient(&self);
}

impl Patient for TcpStream {
    fn be_patient(&self) {
        self.set_read_timeout(Some(DEADLINE)).unwrap();
    }
}

impl Patient for UnixStream {
    fn be_patient(&self) {
        self.set_read_timeout(Some(DEADLINE)).unwrap();
    }
}

/// Sends one request and reads to the end: status and body. 0 = no answer.
fn converse(mut stream: impl Read + Write + Patient, request: &str) -> (u16, String) {
    stream.be_patient();
    // A refusal may come, and the connection end, before all is written.
    let _ = stream.write_all(request.as_bytes());
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return (0, text) };
    (head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0), body.to_owned())
}

#[test]
fn the_help_of_every_command_has_examples() {
    for command in ["drain", "undrain", "promote", "fence", "drill", "status", "plan"] {
        let output = Command::new(env!("CARGO_BIN_EXE_ringway")).args([command, "--help"]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("Examples:\n  ringway") && text.contains("Usage: ringway"), "{text}");
        let completions =
            Command::new(env!("CARGO_BIN_EXE_ringway")).args(["completions", "bash"]).output().unwrap();
        assert!(String::from_utf8(completions.stdout).unwrap().contains(command));
    }
}
