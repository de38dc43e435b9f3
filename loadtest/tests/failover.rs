//! `loadtest failover` in real network namespaces, as far as this machine allows them.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

use std::collections::HashMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Far more than a run takes.
const DEADLINE: Duration = Duration::from_secs(60);

#[test]
fn a_killed_cluster_is_measured_and_nothing_is_left_behind() {
    let Some(proxy) = lab_or_reason("measured") else { return };
    let out = Folder::new("measured");
    let mut run = start(&proxy, &["--seconds", "3"], &out);
    let pid = run.id();
    let status = wait(&mut run);
    let report = fs::read_to_string(out.0.join("report.md")).unwrap_or_default();
    assert!(status.success(), "{report}");
    let csv = fs::read_to_string(out.0.join("runs.csv")).unwrap();
    let mut lines = csv.lines().map(|line| line.split(','));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let figures: HashMap<&str, &str> = names.zip(values).collect();
    let figure = |name: &str| figures[name].parse::<f64>().unwrap();
    // 3 s at 200 requests per second, the warm-up of 0.3 s apart.
    assert!((figure("requests") - 540.0).abs() < 1.5, "{csv}");
    assert!(figure("failed") <= figure("requests") / 10.0, "most requests survive a kill\n{report}");
    assert!(figure("standby_answers") > 0.0, "the standby took over\n{report}");
    assert!(figure("executions_per_request") > 0.5, "endpoints write down what they execute\n{report}");
    let svg = fs::read_to_string(out.0.join("kill.svg")).unwrap();
    assert!(svg.starts_with("<svg ") && svg.contains("fault"));
    assert_eq!(left_behind(pid), Vec::<String>::new());
}

#[test]
fn an_interrupted_run_takes_everything_down_with_it() {
    let Some(proxy) = lab_or_reason("interrupted") else { return };
    let out = Folder::new("interrupted");
    let mut run = start(&proxy, &["--seconds", "30"], &out);
    let pid = run.id();
    let end = Instant::now() + DEADLINE;
    // The four hosts, and then processes in the last of them.
    while left_behind(pid).len() < 4 || !has_processes(pid) {
        assert!(
            Instant::now() < end && run.try_wait().unwrap().is_none(),
            "no namespaces: {:?}",
            left_behind(pid)
        );
        std::thread::park_timeout(Duration::from_millis(5));
    }
    assert!(Command::new("kill").args(["-INT", &pid.to_string()]).status().unwrap().success());
    assert!(!wait(&mut run).success(), "an interrupted run has no result");
    assert_eq!(left_behind(pid), Vec::<String>::new());
}

#[test]
fn every_row_says_what_it_claims() {
    let output = Command::new(env!("CARGO_BIN_EXE_loadtest")).args(["failover", "--list"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    for row in
        ["kill", "brownout", "endpoint-hangs", "large-answers", "low-rate", "post-drop", "all-down", "peace"]
    {
        assert!(text.lines().any(|line| line.starts_with(&format!("{row} "))), "{row} is not in\n{text}");
    }
    assert!(text.contains("failed ≤ 0 in every run"));
    let unknown = Command::new(env!("CARGO_BIN_EXE_loadtest"))
        .args(["failover", "--row", "nonsense", "--list"])
        .output()
        .unwrap();
    assert!(!unknown.status.success());
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("nonsense"));
}

/// The arguments that name a proxy which this machine has; `None`, with a line that says why, where no lab can be.
fn lab_or_reason(test: &str) -> Option<Vec<String>> {
    // Past the test harness, which keeps what a test prints for itself unless it fails.
    let skip =
        |why: &str| std::io::stderr().write_all(format!("SKIPPED {test}: {why}\n").as_bytes()).unwrap();
    let own = Path::new(env!("CARGO_BIN_EXE_loadtest"));
    // Built by the same command into the same folder, when the whole workspace is tested.
    let ringway = own.with_file_name("ringway");
    let probe = format!("ringway-probe-{}-{test}", std::process::id());
    let ip = |verb: &str| {
        let output = Command::new("ip").args(["netns", verb, &probe]).output();
        output.is_ok_and(|output| output.status.success())
    };
    if !ip("add") {
        skip("network namespaces cannot be made here (root and iproute2 are needed)");
        return None;
    }
    ip("del");
    let arguments = |words: &[&str]| Some(words.iter().map(|word| (*word).to_owned()).collect());
    if ringway.is_file() {
        let path = ringway.display().to_string();
        return arguments(&["--proxy", "ringway", "--workers", "1", "--ringway", &path]);
    }
    for (name, path) in [("haproxy", "/usr/sbin/haproxy"), ("nginx", "/usr/sbin/nginx")] {
        if Path::new(path).is_file() {
            return arguments(&["--proxy", name]);
        }
    }
    let gateway = ringway.display();
    skip(&format!("no proxy to test: {gateway} is not built, haproxy and nginx are not installed"));
    None
}

fn start(proxy: &[String], more: &[&str], out: &Folder) -> Child {
    Command::new(env!("CARGO_BIN_EXE_loadtest"))
        .args(["failover", "--row", "kill", "--runs", "1", "--rate", "200", "--beside-others"])
        .args(proxy)
        .args(more)
        .arg("--out")
        .arg(&out.0)
        .stdin(Stdio::null())
        .spawn()
        .unwrap()
}

fn wait(run: &mut Child) -> std::process::ExitStatus {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(status) = run.try_wait().unwrap() {
            return status;
        }
        if Instant::now() > end {
            run.kill().unwrap();
            panic!("did not end within {DEADLINE:?}");
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// Namespaces of the run with that process id.
fn left_behind(pid: u32) -> Vec<String> {
    let Ok(entries) = fs::read_dir("/run/netns") else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.starts_with(&format!("ringway-lab-{pid}-"))).collect()
}

fn has_processes(pid: u32) -> bool {
    let output =
        Command::new("ip").args(["netns", "pids", &format!("ringway-lab-{pid}-gateway")]).output().unwrap();
    !output.stdout.is_empty()
}

/// A folder of one test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("ringway-failover-{name}-{}", std::process::id())))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
