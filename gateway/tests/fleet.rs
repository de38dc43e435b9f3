//! The built binary against API servers: requests flow by what they say, and go on when they are gone.

#![allow(clippy::unwrap_used, reason = "the helpers of a test may unwrap, too")]

#[path = "../../controller/tests/support/apiserver.rs"]
mod apiserver;
#[path = "../../controller/tests/support/ours_only.rs"]
mod real;
mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use apiserver::{ApiServer, GATEWAY_API, OURS};
use serde_json::{Value, json};
use support::tls::{Ca, connect};

const DEADLINE: Duration = Duration::from_secs(30);

#[test]
fn requests_follow_the_members_api_and_flow_on_without_any() {
    let Some(here) = own_address() else {
        eprintln!(
            "skipped: this machine has no address but loopback, and a member's endpoint may not be there"
        );
        return;
    };
    let (first, second) = (backend(here, "first"), backend(here, "second"));
    let (hub, alpha) = (ApiServer::start(), ApiServer::start());
    hub.install(&OURS);
    hub.put(ingress());
    alpha.put(service());
    alpha.put(slice(first));
    let kubeconfig = alpha.kubeconfig("t");
    hub.put(json!({"apiVersion": "v1", "kind": "Secret", "stringData": {},
        "metadata": {"name": "mesh", "namespace": "ringway-system", "labels": {"ringway.dev/member": "alpha"}},
        "data": {"kubeconfig": base64(kubeconfig.as_bytes())}}));
    let mut node = Node::start(&hub);
    node.until("the first endpoint serves", |node| node.get("/") == Some("first".to_owned()));
    alpha.put(slice(second));
    node.until("the second one serves", |node| node.get("/") == Some("second".to_owned()));

    hub.go_down();
    alpha.go_down();
    node.until("both are missed, and the node is ready", |node| {
        let (status, ready) = node.admin("/readyz");
        status == 200 && ["fleet", "alpha"].iter().all(|cluster| ready.contains(&format!("\"{cluster}: ")))
    });
    for _ in 0..50 {
        assert_eq!(node.get("/").as_deref(), Some("second"));
    }
    node.until("the metrics say so", |node| {
        let (_, metrics) = node.admin("/metrics");
        let lines = [
            "ringway_fleet_ready{cluster=\"fleet\"} 0",
            "ringway_fleet_ready{cluster=\"alpha\"} 0",
            "ringway_fleet_propagation_seconds_count{cluster=\"alpha\"}",
        ];
        lines.iter().all(|line| metrics.contains(line))
    });

    // A new process, and still nobody to ask.
    node.restart();
    node.until("it serves from its disk", |node| node.get("/") == Some("second".to_owned()));
    let (status, ready) = node.admin("/readyz");
    assert!(status == 200 && ready.contains("serving what was saved"), "{ready}");
    alpha.put(slice(first));
    alpha.come_up();
    hub.come_up();
    node.until("it hears again", |node| node.get("/") == Some("first".to_owned()));
    node.until("and says no more", |node| node.admin("/readyz").1 == "{\"ready\":true}");
}

#[test]
fn a_gateway_whose_port_somebody_else_has_is_not_programmed_until_it_is_free() {
    let hub = ApiServer::start();
    hub.install(&OURS);
    hub.install(&GATEWAY_API);
    let api = "gateway.networking.k8s.io/v1";
    hub.put(json!({"apiVersion": api, "kind": "GatewayClass", "metadata": {"name": "ringway"},
        "spec": {"controllerName": "ringway.dev/gateway"}}));
    // Not shared: our sockets would be, among themselves.
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let (taken, open) = (holder.local_addr().unwrap().port(), free().port());
    let gateway = |name: &str, port: u16| {
        json!({"apiVersion": api, "kind": "Gateway", "metadata": {"name": name, "namespace": "default"},
            "spec": {"gatewayClassName": "ringway", "addresses": [{"value": "127.0.0.1"}],
                "listeners": [{"name": "http", "port": port, "protocol": "HTTP"}]}})
    };
    hub.put(gateway("web", taken));
    hub.put(gateway("other", open));
    let node = Node::start(&hub);
    let programmed = |name: &str| {
        let status = hub.object("gateways", "default", name).unwrap_or_default()["status"].clone();
        let of = |conditions: &Value| {
            let one = conditions.as_array()?.iter().find(|one| one["type"] == "Programmed")?;
            Some(format!("{} {} {}", one["status"], one["reason"], one["message"]))
        };
        let lists = [&status["conditions"], &status["listeners"][0]["conditions"]];
        lists.map(|conditions| of(conditions).unwrap_or_default())
    };
    node.until("the reason is told", |_| {
        let refused =
            |told: &String| told.starts_with("\"False\" \"PortUnavailable\"") && told.contains("in use");
        programmed("web").iter().all(refused)
    });
    node.until("the other one is served", |_| {
        programmed("other").iter().all(|told| told.starts_with("\"True\""))
    });
    drop(holder);
    node.until("it listens at last", |_| programmed("web").iter().all(|told| told.starts_with("\"True\"")));
    assert!(TcpStream::connect(("127.0.0.1", taken)).is_ok());
}

#[test]
fn tls_is_served_without_the_hub_by_the_key_that_the_node_sealed_it_with_and_by_no_other() {
    let hub = ApiServer::start();
    hub.install(&OURS);
    let ca = Ca::new();
    let leaf = ca.leaf(&["web.example"]);
    let data = json!({"tls.crt": base64(leaf.chain.as_bytes()), "tls.key": base64(leaf.key.as_bytes())});
    hub.put(json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "data": data,
        "metadata": {"name": "web-tls", "namespace": "default"}}));
    let mut web = ingress();
    web["spec"]["tls"] = json!([{"hosts": ["web.example"], "secretName": "web-tls"}]);
    hub.put(web);
    let trust = Arc::new(ca.trust());
    let greets = |node: &Node| connect(node.tls, "web.example", &trust).is_ok();
    let mut node = Node::configured(&hub, |dir| {
        std::fs::write(dir.join("key"), [b'Q'; 32]).unwrap();
        format!("state_key = {:?}\n", dir.join("key"))
    });
    node.until("the hub's certificate", greets);
    let (dir, state) = (node.dir.clone(), node.dir.join("state/world.jsonl"));
    let saved = || std::fs::read_to_string(&state).unwrap();
    let log = || std::fs::read_to_string(dir.join("log")).unwrap();
    let is_alive = |node: &Node| node.admin("/readyz").0 == 200 && converse(node.listen, "/").is_some();
    node.end();
    assert!(saved().contains("\"salt\"") && saved().contains("default/web-tls"), "{}", saved());
    let secret = base64(leaf.key.as_bytes());
    assert!(!saved().contains(&secret) && !saved().contains("tls.key"));
    hub.go_down();
    node.start_again();
    node.until("it is served without the hub", greets);

    std::fs::write(dir.join("key"), [b'W'; 32]).unwrap();
    node.restart();
    node.until("the rest serves with another key", is_alive);
    assert!(!greets(&node), "its Secret is absent");
    let named = |log: &str| {
        log.lines().filter(|line| line.contains("absent") && line.contains("default/web-tls")).count()
    };
    assert_eq!(named(&log()), 1, "and named: {}", log());
    std::fs::remove_file(dir.join("key")).unwrap();
    node.restart();
    node.until("the rest serves without a key", is_alive);
    assert!(!greets(&node), "its Secret is absent");
    let log = log();
    assert!(log.contains("admin.state_key cannot be used"), "{log}");
    for byte in [b'Q', b'W'] {
        let forms = [
            String::from_utf8(vec![byte; 8]).unwrap(),
            format!("{byte:02x}").repeat(8),
            format!("{byte}, {byte}, {byte}"),
            base64(&[byte; 9]),
        ];
        assert!(forms.iter().all(|form| !log.contains(form)), "the key is in the log\n{log}");
    }
    hub.come_up();
    node.until("and with the hub it is there again", greets);
}

/// An address of this machine that is not loopback; no packet is sent to find it.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
}

/// A backend that answers with its name.
fn backend(ip: IpAddr, name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind((ip, 0)).unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || answer(stream, name));
        }
    });
    addr
}

fn answer(mut stream: TcpStream, name: &str) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    while let Some(Ok(_)) = lines.next() {
        while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
        let response = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len());
        if stream.write_all(response.as_bytes()).is_err() {
            return;
        }
    }
}

fn ingress() -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"rules": [{"http": {"paths": [
            {"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "web", "port": {"number": 80}}}}]}}]}})
}

fn service() -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default"},
        "spec": {"ports": [{"name": "http", "port": 80}]}})
}

fn slice(endpoint: SocketAddr) -> Value {
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "web-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": endpoint.port()}],
        "endpoints": [{"addresses": [endpoint.ip().to_string()]}]})
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for piece in bytes.chunks(3) {
        let word =
            piece.iter().fold(0u32, |word, byte| (word << 8) | u32::from(*byte)) << (8 * (3 - piece.len()));
        for index in 0..4 {
            let digit = char::from(ALPHABET[((word >> (18 - 6 * index)) & 63) as usize]);
            out.push(if index <= piece.len() { digit } else { '=' });
        }
    }
    out
}

/// A running `ringway run --fleet-kubeconfig`.
struct Node {
    dir: PathBuf,
    listen: SocketAddr,
    /// Where it serves TLS.
    tls: SocketAddr,
    admin: SocketAddr,
    child: Child,
}

impl Node {
    fn start(hub: &ApiServer) -> Self {
        Self::configured(hub, |_| String::new())
    }

    /// With more lines in `[admin]`.
    fn configured(hub: &ApiServer, admin: impl FnOnce(&Path) -> String) -> Self {
        let dir = std::env::temp_dir().join(format!(
            "ringway-fleet-bin-{}-{}",
            std::process::id(),
            hub.addr.port()
        ));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("hub.yaml"), hub.kubeconfig("hub")).unwrap();
        let state = dir.join("state");
        let text = format!("[worker]\npin = false\n[admin]\nstate_dir = {state:?}\n{}", admin(&dir));
        std::fs::write(dir.join("gateway.toml"), text).unwrap();
        let (listen, tls, admin) = (free(), free(), free());
        let child = Self::spawn(&dir, [listen, tls, admin]);
        Self { dir, listen, tls, admin, child }
    }

    fn spawn(dir: &Path, [listen, tls, admin]: [SocketAddr; 3]) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringway"));
        command.args([
            "run",
            "--workers",
            "1",
            "--listen",
            &listen.to_string(),
            "--listen",
            &format!("{tls}/https"),
            "--admin",
            &admin.to_string(),
        ]);
        command.arg("--config").arg(dir.join("gateway.toml"));
        command.arg("--socket").arg(dir.join("admin.sock"));
        command.arg("--fleet-kubeconfig").arg(dir.join("hub.yaml"));
        let log = std::fs::File::options().create(true).append(true).open(dir.join("log")).unwrap();
        command.stdout(Stdio::null()).stderr(log).spawn().unwrap()
    }

    fn restart(&mut self) {
        self.end();
        self.start_again();
    }

    fn start_again(&mut self) {
        self.child = Self::spawn(&self.dir, [self.listen, self.tls, self.admin]);
    }

    /// SIGTERM, as systemd does.
    fn end(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap();
    }

    fn until(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let end = Instant::now() + DEADLINE;
        while !holds(self) {
            let log = || std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
            let ready = || self.admin("/readyz");
            assert!(Instant::now() < end, "never happened: {what}; /readyz says {:?}\n{}", ready(), log());
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }

    /// The body of a 200.
    fn get(&self, path: &str) -> Option<String> {
        let (status, body) = converse(self.listen, path)?;
        (status == 200).then_some(body)
    }

    fn admin(&self, path: &str) -> (u16, String) {
        converse(self.admin, path).unwrap_or_default()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn converse(to: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(to).ok()?;
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut response = String::new();
    stream.read_to_string(&mut response).ok()?;
    let (head, body) = response.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}
