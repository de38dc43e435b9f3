//! The built binary: check, explain, status, crds, completions, and what a running node answers them.

#![allow(clippy::unwrap_used, reason = "the helpers of a test may unwrap, too")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(20);

// ---------------------------------------------------------------- check

#[test]
fn every_example_is_accepted_as_a_whole() {
    let mut count = 0;
    for folder in std::fs::read_dir(examples()).unwrap() {
        let folder = folder.unwrap().path();
        let (code, out, err) = ringway(&["check", folder.to_str().unwrap()]);
        assert_eq!((code, err.as_str()), (0, ""), "{}:\n{out}", folder.display());
        assert!(out.contains("0 partly refused, 0 refused"), "{}:\n{out}", folder.display());
        // What was written for another gateway may ask for what only that one has; each such field has a reason.
        let of_another = ["alb", "mse", "ingress-nginx"].iter().any(|name| folder.ends_with(name));
        for line in out.lines().filter(|line| line.contains(": ignored")) {
            let reason = line.split_once(": ignored: ").map(|(_, reason)| reason);
            assert!(of_another && reason.is_some_and(|reason| !reason.is_empty()), "{line}");
        }
        assert!(of_another || out.contains("0 partly ignored"), "{}:\n{out}", folder.display());
        assert!(out.contains("endpoints in use"), "{}: nothing would be served", folder.display());
        count += 1;
    }
    assert!(count >= 7, "one folder for each scenario, {count} found");
}

#[test]
fn what_is_wrong_is_named_by_object_field_and_value_and_ends_with_1() {
    let dir = copied("active-standby", "broken");
    let web = dir.join("fleet/web.yaml");
    let text = std::fs::read_to_string(&web).unwrap();
    let text = text
        .replace("{path: /, pathType", "{path: cart, pathType")
        .replace("  clusters:\n", "  retry: {attempts: 99}\n  clusters:\n");
    std::fs::write(&web, text).unwrap();
    std::fs::write(dir.join("fleet/z.yaml"), "kind: [unclosed\n").unwrap();
    let (code, out, _) = ringway(&["check", dir.to_str().unwrap()]);
    assert_eq!(code, 1, "{out}");
    for part in [
        "partly refused  Ingress default/web",
        "spec.rules[0].http.paths[0].path: \"cart\": ",
        "partly refused  FailoverPolicy default/web",
        "spec.retry.attempts: \"99\": allowed: 1 to 10",
        "fleet/z.yaml",
        "does not parse",
        "accepted        Service default/web",
    ] {
        assert!(out.contains(part), "{part:?} is missing in\n{out}");
    }
}

#[test]
fn a_directory_that_is_not_there_is_an_error_with_a_hint() {
    let (code, out, err) = ringway(&["check", "/nowhere"]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.starts_with("ringway: /nowhere: not a directory (expected DIR/fleet/*.yaml"), "{err}");
}

// ---------------------------------------------------------------- plan

#[test]
fn plan_names_what_would_be_different_and_says_when_nothing_would() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/examples");
    let path = |name: &str| examples.join(name).to_str().unwrap().to_owned();
    let (code, out, err) = ringway(&["plan", &path("weighted"), "--against", &path("weighted")]);
    assert_eq!((code, out.as_str()), (0, "nothing would change\n"), "{err}");
    let (code, out, err) = ringway(&["plan", &path("weighted"), "--against", &path("quickstart")]);
    assert_eq!(code, 0, "{out}{err}");
    assert!(
        out.contains("rules added: 2\n  + default/public/http [::]:8081 shop.example prefix /\n"),
        "{out}"
    );
    assert!(
        out.contains("\nendpoints added: 6\n  + default/web-next:80 alpha 10.1.0.9:8080 Ready\n"),
        "{out}"
    );
    let (code, _, err) = ringway(&["plan", &path("weighted"), "--against", "/nowhere"]);
    assert_ne!(code, 0);
    assert!(err.contains("/nowhere: not a directory"), "{err}");
}

// ---------------------------------------------------------------- explain

#[test]
fn an_explanation_is_aligned_and_says_who_lost_and_why() {
    let (code, out, err) = explain("active-standby", &["GET", "http://shop.example:8080/cart"]);
    assert_eq!((code, err.as_str()), (0, ""));
    let expected = "\
GET http://shop.example:8080/cart
  matched as  host shop.example, path /cart
  listener    ingress:[::]:8080 on [::]:8080
  rule        Ingress default/web rules[0]: path below /
  action      forward to default/web:80

Backend default/web:80, weight 1, 100.0 % of the rule: chosen
  CLUSTER    SHARE  PRIORITY   WEIGHT  READY  TERMINATING  OUT  DETECTOR  VERDICT
  alpha    100.0 %         0  by pods      2            0    0  healthy   chosen
  beta       0.0 %         1  by pods      1            0    0  healthy   lost: ready, priority 1: another cluster ranks higher
  ENDPOINT       CLUSTER  VERDICT
  10.1.0.1:8080  alpha    chosen
  10.1.0.2:8080  alpha    chosen
  10.2.0.1:8080  beta     lost: its cluster is not chosen
";
    assert_eq!(out, expected);
}

#[test]
fn headers_cookies_queries_and_sources_pin_a_cluster() {
    let url = "http://shop.example:8080/";
    let pinned = |args: &[&str]| {
        let (code, out, err) = explain("header-routing", args);
        assert_eq!((code, err.as_str()), (0, ""), "{out}");
        out.lines().find_map(|line| line.trim().strip_prefix("pinned to")).map(|rest| rest.trim().to_owned())
    };
    assert_eq!(pinned(&["GET", url]), None);
    assert_eq!(pinned(&["GET", url, "-H", "x-cluster: beta"]).as_deref(), Some("beta (falls back)"));
    assert_eq!(pinned(&["GET", url, "-H", "X-Cluster: gamma"]), None);
    assert_eq!(pinned(&["GET", url, "-H", "Cookie: a=b; stay=alpha"]).as_deref(), Some("alpha (falls back)"));
    assert_eq!(
        pinned(&["GET", "http://shop.example:8080/?cluster=beta"]).as_deref(),
        Some("beta (falls back)")
    );
    assert_eq!(pinned(&["GET", url, "--source", "10.9.1.2"]).as_deref(), Some("alpha (strict)"));
}

/// The same folder serves nodes of all regions: each counts what is near from its own place.
#[test]
fn the_nearest_region_is_counted_from_the_place_in_gateway_toml() {
    let ranks = |config: Option<&str>| {
        let dir = examples().join("geo-dr");
        let file = dir.join(config.unwrap_or_default());
        let mut args =
            vec!["explain", "GET", "http://shop.example:8080/", "--manifests", dir.to_str().unwrap()];
        if config.is_some() {
            args.extend(["--config", file.to_str().unwrap()]);
        }
        let (code, out, err) = ringway(&args);
        assert_eq!((code, err.as_str()), (0, ""), "{out}");
        ["frankfurt", "paris", "virginia"].map(|name| {
            let line = out.lines().find(|line| line.trim_start().starts_with(name)).unwrap();
            line.split_whitespace().nth(3).unwrap().to_owned()
        })
    };
    assert_eq!(ranks(None), ["0", "0", "0"], "a node that does not know where it is");
    assert_eq!(ranks(Some("gateway.toml")), ["0", "0", "1"]);
}

#[test]
fn weights_of_clusters_and_of_backends_are_shown_as_shares() {
    let (_, out, _) = explain("weighted", &["GET", "http://shop.example:8080/"]);
    let words = |name: &str| {
        let line =
            out.lines().find(|line| line.trim_start().starts_with(name)).expect("a line for each cluster");
        line.split_whitespace().take(5).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(words("alpha"), ["alpha", "80.0", "%", "0", "80"]);
    assert_eq!(words("beta"), ["beta", "20.0", "%", "0", "20"]);
    let (_, out, _) = explain("weighted", &["GET", "http://shop.example:8081/"]);
    assert!(out.contains("Backend default/web-next:80, weight 5, 5.0 % of the rule: chosen"), "{out}");
}

#[test]
fn a_request_that_nobody_serves_ends_with_1_and_the_reason() {
    let (code, out, _) = explain("active-standby", &["GET", "http://other.example:8080/"]);
    assert_eq!(code, 1);
    assert!(
        out.contains("rule        none: the listener has no rules for the host; the answer is 404"),
        "{out}"
    );
    for (url, reason) in [
        ("ftp://shop.example/", "expected http or https"),
        ("/cart", "names no host"),
        ("http://a b/", "the gateway refuses this request: host (400)"),
        ("http://shop.example/%zz", "the gateway refuses this request: target (400)"),
    ] {
        let (code, out, err) = explain("active-standby", &["GET", url]);
        assert_eq!((code, out.as_str()), (1, ""), "{url}");
        assert!(err.contains(reason), "{url}: {err}");
    }
    let (code, _, err) = explain("active-standby", &["CONNECT", "http://shop.example/"]);
    assert!(code == 1 && err.contains("(405)"), "{err}");
}

#[test]
fn a_port_that_no_listener_has_is_remarked() {
    let (code, out, _) = explain("active-standby", &["GET", "https://shop.example/"]);
    assert_eq!(code, 0);
    assert!(out.contains("(no listener has port 443; explained as if it came to [::]:8080)"), "{out}");
    let (_, out, _) =
        explain("active-standby", &["GET", "https://shop.example/", "--listen", "127.0.0.1:443"]);
    assert!(out.contains("ingress:127.0.0.1:443 on 127.0.0.1:443") && !out.contains("as if"), "{out}");
}

// ---------------------------------------------------------------- a running node

#[test]
fn a_running_node_explains_as_its_manifests_do_and_shows_its_state() {
    let dir = copied("active-standby", "running");
    let node = Running::start(&dir);
    node.wait("readiness", || node.get("/readyz").0 == 200);
    let admin = format!("http://{}", node.admin);
    let url = format!("http://shop.example:{}/cart", node.listen.port());
    let asked = ringway(&["explain", "GET", &url, "--admin", &admin]);
    let listen = node.listen.to_string();
    let offline =
        ringway(&["explain", "GET", &url, "--manifests", dir.to_str().unwrap(), "--listen", &listen]);
    assert_eq!(asked, offline);
    assert_eq!(asked.0, 0, "{}", asked.2);

    let (code, out, err) = ringway(&["status", "--admin", &admin]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.starts_with("1 workers, table "), "{out}");
    for cluster in ["alpha    up", "beta     up"] {
        assert!(out.lines().any(|line| line.starts_with(cluster)), "{cluster:?} is missing in\n{out}");
    }
}

#[test]
fn an_edit_reaches_every_worker_and_its_way_is_timed() {
    let dir = copied("active-standby", "edit");
    let node = Running::start(&dir);
    node.wait("readiness", || node.get("/readyz").0 == 200);
    let count = || node.metric("ringway_propagation_seconds_count");
    let before = count();
    let web = dir.join("fleet/web.yaml");
    let text = std::fs::read_to_string(&web).unwrap().replace("shop.example", "edited.example");
    std::fs::write(dir.join("edit"), text).unwrap();
    std::fs::rename(dir.join("edit"), &web).unwrap();
    node.wait("the edit", || node.get("/api/v1/routes").1.contains("edited.example"));
    node.wait("its propagation", || count() > before);
    let generation = node.metric("ringway_controller_generation");
    node.wait("its generation", || node.metric("ringway_table_generation{worker=\"0\"}") == generation);
    assert!(node.metric("ringway_controller_objects{kind=\"Ingress\"}") == 1.0);
    assert!(node.metric("ringway_controller_verdicts{outcome=\"accepted\"}") > 3.0);
    let broken = dir.join("fleet/z.yaml");
    std::fs::write(&broken, "kind: [unclosed\n").unwrap();
    node.wait("the verdict", || node.get("/api/v1/verdicts").1.contains("does not parse"));
    assert_eq!(node.get("/readyz").0, 200, "a broken file costs itself only");
}

#[test]
fn readyz_is_red_before_accepting_stops_and_the_node_ends_well_with_its_access_log_complete() {
    let dir = copied("active-standby", "drain");
    let log = dir.join("access.log");
    std::fs::write(
        dir.join("gateway.toml"),
        format!("[observe]\naccess_log = {:?}\n", log.to_str().unwrap()),
    )
    .unwrap();
    let mut node = Running::start(&dir);
    node.wait("readiness", || node.get("/readyz").0 == 200);
    assert_eq!(
        status(node.listen, "GET / HTTP/1.1\r\nHost: nobody.example\r\nConnection: close\r\n\r\n").0,
        404
    );
    let pid = rustix::process::Pid::from_child(&node.child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    node.wait("redness", || {
        let (code, body) = node.get("/readyz");
        code == 503 && body.contains("draining")
    });
    let accepts = TcpStream::connect(node.listen).is_ok();
    assert!(accepts, "red comes first: balancers in front need to see it");
    let until = Instant::now() + DEADLINE;
    let ended = loop {
        match node.child.try_wait().unwrap() {
            Some(ended) => break ended,
            None => assert!(Instant::now() < until, "the node has not ended within {DEADLINE:?}"),
        }
        std::thread::yield_now();
    };
    assert!(ended.success(), "{ended}");
    assert!(std::fs::read_to_string(log).unwrap().contains("\"host\":\"nobody.example\""));
}

#[test]
fn a_node_that_is_not_there_is_said_so() {
    let (code, _, err) = ringway(&["status", "--admin", "127.0.0.1:1"]);
    assert_eq!(code, 1);
    assert!(err.contains("no answer from http://127.0.0.1:1") && err.contains("ringway run"), "{err}");
}

#[test]
fn an_admin_address_in_use_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let dir = examples().join("active-standby");
    let (code, _, err) = ringway(&[
        "run",
        "--manifests",
        dir.to_str().unwrap(),
        "--admin",
        &addr,
        "--listen",
        "127.0.0.1:0",
        "--workers",
        "1",
        "--socket",
        "",
    ]);
    assert_eq!(code, 1);
    assert!(err.contains(&format!("admin.listen {addr}: Address already in use")), "{err}");
}

// ---------------------------------------------------------------- crds, completions, help

/// A node that cannot listen is not ready and says so; it listens as soon as it can, without a restart.
#[test]
fn an_address_in_use_keeps_the_node_from_being_ready_until_it_is_free() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap();
    let node = Running::start_on(&examples().join("active-standby"), listen);
    node.wait("worker that cannot listen", || node.metric("ringway_listeners_failing{worker=\"0\"}") == 1.0);
    let (code, body) = node.get("/readyz");
    assert_eq!(code, 503, "{body}");
    assert!(body.contains("cannot listen on any address"), "{body}");
    drop(taken);
    node.wait("green /readyz", || node.get("/readyz").0 == 200);
    assert!(TcpStream::connect(listen).is_ok());
    assert_eq!(node.metric("ringway_listeners_failing{worker=\"0\"}"), 0.0);
    assert_eq!(node.metric("ringway_listeners_open{worker=\"0\"}"), 1.0);
}

#[test]
fn crds_are_those_of_the_config_folder() {
    let (code, out, _) = ringway(&["crds"]);
    assert_eq!(code, 0);
    let mut files: Vec<_> =
        std::fs::read_dir(config_folder("crds")).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    assert_eq!(files.len(), 3);
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let (_comment, yaml) = text.split_once('\n').unwrap();
        assert!(
            yaml.starts_with("apiVersion:") && out.contains(yaml.trim_end()),
            "{} is missing",
            file.display()
        );
    }
    assert_eq!(out.lines().filter(|line| *line == "---").count(), 3);
}

#[test]
fn completions_are_offered_for_the_usual_shells() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (code, out, _) = ringway(&["completions", shell]);
        assert_eq!(code, 0);
        for command in ["check", "explain", "status"] {
            assert!(out.contains(command), "{shell} lacks {command}");
        }
    }
    assert_eq!(ringway(&["completions", "tcsh"]).0, 2);
}

#[test]
fn help_names_every_command_and_each_has_examples_or_says_what_it_prints() {
    let (code, out, _) = ringway(&["--help"]);
    assert_eq!(code, 0);
    for command in ["run", "check", "explain", "status", "crds", "completions"] {
        assert!(
            out.lines().any(|line| line.trim_start().starts_with(&format!("{command} "))),
            "{command}:\n{out}"
        );
    }
    for command in ["check", "explain", "status", "completions"] {
        let (code, out, _) = ringway(&[command, "--help"]);
        assert!(code == 0 && out.contains("Examples:\n  "), "{command}:\n{out}");
    }
}

// ---------------------------------------------------------------- helpers

fn config_folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../config").join(name)
}

fn examples() -> PathBuf {
    config_folder("examples")
}

/// Runs the binary to its end: exit code, stdout, stderr.
fn ringway(args: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_ringway")).args(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().expect("not killed"), text(output.stdout), text(output.stderr))
}

fn explain(example: &str, args: &[&str]) -> (i32, String, String) {
    let dir = examples().join(example);
    ringway(&[&["explain"], args, &["--manifests", dir.to_str().unwrap()]].concat())
}

/// A copy of an example, for a test to change.
fn copied(example: &str, name: &str) -> PathBuf {
    let to = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("cli-{name}"));
    let _ = std::fs::remove_dir_all(&to);
    copy(&examples().join(example), &to);
    to
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// `ringway run` with one worker.
struct Running {
    child: Child,
    admin: SocketAddr,
    listen: SocketAddr,
}

impl Running {
    /// Serves `dir`, with the settings of `dir/gateway.toml` if there is one.
    fn start(dir: &Path) -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let listen = free.local_addr().unwrap();
        drop(free);
        Self::start_on(dir, listen)
    }

    fn start_on(dir: &Path, listen: SocketAddr) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringway"));
        command.args(["run", "--workers", "1", "--admin", "127.0.0.1:0", "--listen", &listen.to_string()]);
        command.args(["--socket", ""]).arg("--manifests").arg(dir);
        // What another node of this machine has kept is not this one's.
        let config = dir.join("gateway.toml");
        let text = std::fs::read_to_string(&config).unwrap_or_default();
        if !text.contains("state_dir") {
            std::fs::write(&config, text + "\n[admin]\nstate_dir = \"\"\n").unwrap();
        }
        command.arg("--config").arg(config);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut text = String::new();
        let admin = loop {
            let mut line = String::new();
            assert!(log.read_line(&mut line).unwrap() > 0, "the node ended:\n{text}");
            text.push_str(&line);
            if let Some((_, rest)) = line.split_once("admin API listen=") {
                break rest.split_whitespace().next().unwrap().parse().unwrap();
            }
        };
        // Read on, or the node would wait for room in the pipe.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Self { child, admin, listen }
    }

    fn get(&self, path: &str) -> (u16, String) {
        status(self.admin, &format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n"))
    }

    /// The value of one series; 0 when it is not there.
    fn metric(&self, series: &str) -> f64 {
        let (code, text) = self.get("/metrics");
        assert_eq!(code, 200);
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok());
        value.unwrap_or(0.0)
    }

    fn wait(&self, what: &str, done: impl Fn() -> bool) {
        let until = Instant::now() + DEADLINE;
        while !done() {
            assert!(Instant::now() < until, "no {what} within {DEADLINE:?}");
            std::thread::yield_now();
        }
    }
}

impl Drop for Running {
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
