//! The built binary as a service: what it tells its manager, and what it does on signals.

#![allow(clippy::unwrap_used, reason = "the helpers of a test may unwrap, too")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

const DEADLINE: Duration = Duration::from_secs(20);

#[test]
fn the_manager_hears_ready_when_requests_are_answered_then_life_signs_then_stopping() {
    let node = Node::start("notify", "");
    assert_eq!(node.hears(), "READY=1", "the first word");
    assert_eq!(
        node.get("/").0,
        503,
        "listens, and has the first table: the example's endpoints do not answer"
    );
    for _ in 0..5 {
        assert_eq!(node.hears(), "WATCHDOG=1");
    }
    node.signal(Signal::TERM);
    loop {
        match node.hears().as_str() {
            "STOPPING=1" => break,
            word => assert_eq!(word, "WATCHDOG=1"),
        }
    }
}

/// A manager that restarts what hangs must see the hang of the whole process, too.
#[test]
fn a_process_that_stands_still_gives_no_sign_of_life() {
    let node = Node::start("still", "");
    assert_eq!(node.hears(), "READY=1");
    node.signal(Signal::STOP);
    // What was sent before it stopped.
    while node.hears_within(Duration::from_millis(500)).is_some() {}
    assert_eq!(node.hears_within(Duration::from_secs(1)), None);
    node.signal(Signal::CONT);
    assert_eq!(node.hears(), "WATCHDOG=1");
}

#[test]
fn usr1_reopens_the_access_log_and_loses_no_line() {
    let dir = folder("rotate");
    let log = dir.join("access.log");
    let node = Node::serve(dir.clone(), &format!("[observe]\naccess_log = {:?}\n", log.to_str().unwrap()));
    assert_eq!(node.hears(), "READY=1");
    let has = |file: &Path, path: &str| {
        std::fs::read_to_string(file).unwrap_or_default().lines().filter(|line| line.contains(path)).count()
    };
    for _ in 0..10 {
        node.get("/before");
    }
    wait("the lines before", || has(&log, "/before") == 10);
    let rotated = dir.join("access.log.1");
    std::fs::rename(&log, &rotated).unwrap();
    node.get("/between");
    wait("the line between, in the file that was moved", || has(&rotated, "/between") == 1);
    node.signal(Signal::USR1);
    wait("the new file", || {
        node.get("/after");
        log.exists()
    });
    node.get("/last");
    wait("the last line", || has(&log, "/last") == 1);
    assert_eq!(has(&rotated, "/before"), 10);
}

/// The manager's socket is not read in here: that it is full must not keep the node from hearing signals.
#[test]
fn hup_applies_what_is_live_and_says_what_waits_for_a_restart() {
    let dir = folder("reload");
    // An endpoint that takes connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    std::fs::write(dir.join("clusters/alpha/slice.yaml"), slice(silent.local_addr().unwrap())).unwrap();
    let text = "[limits]\nuri_bytes_max = \"8KiB\"\n[timeouts]\nrequest = \"3s\"\n";
    let node = Node::serve(dir.clone(), text);
    assert_eq!(node.hears(), "READY=1");
    let long = format!("/{}", "a".repeat(100));
    assert_eq!(node.get(&long).0, 504);

    // A worker's bound, a default that the compiled policies carry, the level of the log, and one that must wait.
    let text = "[limits]\nuri_bytes_max = \"64B\"\n[timeouts]\nrequest = \"123ms\"\n[observe]\nlog_level = \"error\"\n\
                [worker]\nbacklog = 100\n";
    std::fs::write(dir.join("gateway.toml"), text).unwrap();
    node.signal(Signal::HUP);
    wait("the worker's bound", || node.get(&long).0 == 414);
    wait("the policies' timeout", || {
        let began = Instant::now();
        node.get("/").0 == 504 && began.elapsed() < Duration::from_secs(1)
    });
    let said = || node.log.lock().unwrap().clone();
    wait("the report", || said().contains("configuration read again"));
    assert!(said().contains("needs_restart=[\"worker.backlog\", \"admin.state_dir\"]"), "{}", said());
    for key in ["limits.uri_bytes_max", "timeouts.request", "observe.log_level"] {
        assert!(said().contains(&format!("{key:?}")), "{key} is not reported:\n{}", said());
    }
    // The level holds from then on: this one is not reported any more.
    std::fs::write(dir.join("gateway.toml"), text.replace("64B", "65B")).unwrap();
    node.signal(Signal::HUP);
    let of_65 = format!("/{}", "a".repeat(64));
    wait("the third bound", || node.get(&of_65).0 != 414);
    assert_eq!(said().matches("configuration read again").count(), 1, "{}", said());

    // What does not parse changes nothing, and is named.
    std::fs::write(dir.join("gateway.toml"), "[limits]\nuri_bytes_max = \"7B\"\n").unwrap();
    node.signal(Signal::HUP);
    wait("the refusal", || said().contains("configuration not changed"));
    assert!(said().contains("limits.uri_bytes_max"), "{}", said());
    assert_eq!(node.get(&long).0, 414, "what was in force stays");
}

// ---------------------------------------------------------------- helpers

fn wait(what: &str, done: impl Fn() -> bool) {
    let until = Instant::now() + DEADLINE;
    while !done() {
        assert!(Instant::now() < until, "no {what} within {DEADLINE:?}");
        std::thread::yield_now();
    }
}

/// SECURITY S35: a dump would have the private keys of TLS in it.
#[test]
fn s35_the_unit_allows_no_core_dump() {
    let unit =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../config/gateway.service")).unwrap();
    let limits: Vec<_> = unit.lines().filter_map(|line| line.trim().strip_prefix("LimitCORE=")).collect();
    assert_eq!(limits, ["0"]);
}

/// SECURITY S35: a hundred reloads, rotations and edits leave the descriptors as they were, and none of them would pass to a
/// program that the process starts.
#[test]
fn s35_reloads_leak_no_descriptor_and_none_outlives_an_exec() {
    let dir = folder("descriptors");
    let backend = TcpListener::bind("127.0.0.1:0").unwrap();
    std::fs::write(dir.join("clusters/alpha/slice.yaml"), slice(backend.local_addr().unwrap())).unwrap();
    let log = dir.join("access.log");
    let settings = |n: usize| {
        format!(
            "[limits]\nuri_bytes_max = \"{}B\"\n[observe]\naccess_log = {:?}\n",
            64 + n,
            log.to_str().unwrap()
        )
    };
    let node = Node::serve(dir.clone(), &settings(0));
    assert_eq!(node.hears(), "READY=1");
    let reload = |n: usize| {
        std::fs::write(dir.join("gateway.toml"), settings(n)).unwrap();
        let ingress = dir.join("fleet/web.yaml");
        let text = std::fs::read_to_string(&ingress).unwrap();
        std::fs::write(&ingress, format!("{text}# edit {n}\n")).unwrap();
        let _ = std::fs::rename(&log, dir.join("access.log.1"));
        node.signal(Signal::USR1);
        node.signal(Signal::HUP);
        let reports = || node.log.lock().unwrap().matches("configuration read again").count();
        wait("the reload", || reports() == n);
    };
    let of_node = |what: &str| PathBuf::from(format!("/proc/{}/{what}", node.child.id()));
    let descriptors = || std::fs::read_dir(of_node("fd")).unwrap().count();
    reload(1);
    let before = descriptors();
    (2..=100).for_each(reload);
    wait("the last access log", || log.exists());
    wait("as many descriptors as before", || descriptors() <= before);

    // What this test's own parent left open passes through it to the node, and is not the node's.
    let handed_down = passing_on(Path::new("/proc/self"));
    let its_own: Vec<_> =
        passing_on(&of_node("")).into_iter().filter(|fd| !handed_down.contains(fd)).collect();
    assert!(its_own.is_empty(), "these would pass on: {its_own:?}");
}

/// Descriptors above the standard ones that an exec would not close, with what they are.
fn passing_on(process: &Path) -> Vec<(u32, PathBuf)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(process.join("fd")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        // It may be gone again: a connection, a directory that is being read.
        let Ok(info) = std::fs::read_to_string(process.join("fdinfo").join(&name)) else { continue };
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim();
        let flags = i32::from_str_radix(flags, 8).unwrap();
        let number: u32 = name.parse().unwrap();
        if number > 2 && flags & libc::O_CLOEXEC == 0 {
            all.push((number, std::fs::read_link(process.join("fd").join(&name)).unwrap_or_default()));
        }
    }
    all
}

fn folder(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("service-{name}"));
    let _ = std::fs::remove_dir_all(&dir);
    for sub in ["fleet", "clusters/alpha"] {
        std::fs::create_dir_all(dir.join(sub)).unwrap();
    }
    let ingress = "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: web}\nspec:\n  \
                   defaultBackend: {service: {name: web, port: {number: 80}}}\n";
    std::fs::write(dir.join("fleet/web.yaml"), ingress).unwrap();
    let service =
        "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {ports: [{name: http, port: 80}]}\n";
    std::fs::write(dir.join("clusters/alpha/web.yaml"), service).unwrap();
    dir
}

fn slice(endpoint: SocketAddr) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: web-1, labels: {{kubernetes.io/service-name: web}}}}\naddressType: IPv4\n\
         ports: [{{name: http, port: {}}}]\nendpoints: [{{addresses: [\"{}\"]}}]\n",
        endpoint.port(),
        endpoint.ip()
    )
}

/// `ringway run` with one worker, started as systemd does.
struct Node {
    child: Child,
    manager: UnixDatagram,
    listen: SocketAddr,
    log: Arc<Mutex<String>>,
}

impl Node {
    fn start(name: &str, config: &str) -> Self {
        Self::serve(folder(name), config)
    }

    fn serve(dir: PathBuf, config: &str) -> Self {
        let socket = dir.join("notify");
        let manager = UnixDatagram::bind(&socket).unwrap();
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let listen = free.local_addr().unwrap();
        drop(free);
        // What another node of this machine has kept is not this one's.
        let own = format!("{config}\n[admin]\nstate_dir = \"\"\n");
        std::fs::write(dir.join("gateway.toml"), own).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringway"));
        command.args(["run", "--workers", "1", "--admin", "127.0.0.1:0", "--listen", &listen.to_string()]);
        command.args(["--socket", "", "--manifests"]).arg(&dir).arg("--config").arg(dir.join("gateway.toml"));
        command.env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "2000000").env_remove("WATCHDOG_PID");
        command.env_remove("RINGWAY_LOG");
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        let log = Arc::new(Mutex::new(String::new()));
        loop {
            let mut line = String::new();
            assert!(lines.read_line(&mut line).unwrap() > 0, "the node ended:\n{}", log.lock().unwrap());
            log.lock().unwrap().push_str(&line);
            if line.contains("admin API listen=") {
                break;
            }
        }
        let kept = Arc::clone(&log);
        std::thread::spawn(move || {
            let mut line = String::new();
            while lines.read_line(&mut line).is_ok_and(|read| read > 0) {
                kept.lock().unwrap().push_str(&line);
                line.clear();
            }
        });
        Self { child, manager, listen, log }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// The next word to the manager.
    fn hears(&self) -> String {
        self.hears_within(DEADLINE).expect("a word")
    }

    fn hears_within(&self, time: Duration) -> Option<String> {
        self.manager.set_read_timeout(Some(time)).unwrap();
        let mut word = [0; 256];
        let length = self.manager.recv(&mut word).ok()?;
        Some(String::from_utf8_lossy(&word[..length]).trim().to_owned())
    }

    fn get(&self, path: &str) -> (u16, String) {
        status(self.listen, &format!("GET {path} HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n"))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends one request and reads to the end: status and body.
fn status(to: SocketAddr, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}
