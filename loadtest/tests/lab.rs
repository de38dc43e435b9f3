//! `scripts/lab`, brought up, used and taken down, where this machine allows namespaces.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

#[test]
fn the_lab_comes_up_serves_the_nearest_moves_on_and_leaves_nothing_behind() {
    let loadtest = Path::new(env!("CARGO_BIN_EXE_loadtest"));
    let ringway = loadtest.with_file_name("ringway");
    if let Some(reason) = cannot(&ringway) {
        // Past the test harness, which keeps what a test prints for itself unless it fails.
        let _ = writeln!(std::io::stderr(), "SKIPPED lab: {reason}");
        return;
    }
    let lab = Lab { name: format!("t{}", std::process::id()), loadtest, ringway: &ringway };
    let up = lab.run(&["up"]);
    assert!(up.status.success(), "{}", said(&up));
    // A cluster that was slower to start than its node may have been found down before: the nearest is used once it is back.
    lab.until("eu", &["cluster alpha", "cluster beta"]);
    lab.until("us", &["cluster gamma"]);
    for cluster in ["alpha", "beta"] {
        assert!(lab.run(&["kill", cluster]).status.success());
    }
    lab.until("eu", &["cluster gamma"]);
    assert!(lab.run(&["kill", "gamma"]).status.success());
    lab.until("eu", &["cluster delta"]);
    assert!(lab.run(&["heal", "alpha"]).status.success());
    lab.until("eu", &["cluster alpha"]);
    assert!(said(&lab.run(&["ringway", "eu", "status"])).contains("alpha"));
    // An operator's word is the lab's own: it is kept in its folder, not where the machine's gateway keeps its own.
    assert!(lab.run(&["ringway", "eu", "drain", "delta"]).status.success());
    let state = std::env::temp_dir().join(format!("rwlab{}", lab.name)).join("eu.state");
    assert!(std::fs::read_dir(&state).unwrap().next().is_some(), "nothing is kept in {}", state.display());
    assert!(!lab.run(&["kill", "nonsense"]).status.success());
    assert!(lab.run(&["down"]).status.success());
    assert!(!namespaces().contains(&lab.name), "{}", namespaces());
}

#[test]
fn a_lab_that_does_not_come_up_says_why_and_leaves_nothing_behind() {
    let loadtest = Path::new(env!("CARGO_BIN_EXE_loadtest"));
    // What is no gateway is not missing either.
    let gateway = Path::new("/bin/false");
    if let Some(reason) = cannot(gateway) {
        let _ = writeln!(std::io::stderr(), "SKIPPED lab: {reason}");
        return;
    }
    let lab = Lab { name: format!("f{}", std::process::id()), loadtest, ringway: gateway };
    let up = lab.run(&["up"]);
    assert_eq!(up.status.code(), Some(1), "{}", said(&up));
    assert!(said(&up).contains("scripts/lab: "), "{}", said(&up));
    assert!(!namespaces().contains(&lab.name), "{}", namespaces());
    assert!(!std::env::temp_dir().join(format!("rwlab{}", lab.name)).exists());
}

struct Lab<'a> {
    name: String,
    loadtest: &'a Path,
    ringway: &'a Path,
}

impl Lab<'_> {
    fn run(&self, args: &[&str]) -> Output {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        Command::new(root.join("scripts/lab"))
            .args(args)
            .env("LAB", &self.name)
            .env("RINGWAY", self.ringway)
            .env("LOADTEST", self.loadtest)
            .output()
            .unwrap()
    }

    fn get(&self, node: &str) -> String {
        said(&self.run(&["get", node]))
    }

    /// Asks until the answer says so.
    fn until(&self, node: &str, wanted: &[&str]) {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let answer = self.get(node);
            if wanted.iter().any(|wanted| answer.contains(wanted)) {
                return;
            }
            assert!(Instant::now() < end, "never {wanted:?}, but {answer}");
        }
    }
}

impl Drop for Lab<'_> {
    fn drop(&mut self) {
        // Also when the test failed in between; nothing happens where there is no lab any more.
        let _ = self.run(&["down"]);
    }
}

/// Why there can be no lab here.
fn cannot(ringway: &Path) -> Option<String> {
    if !ringway.is_file() {
        return Some("no gateway beside loadtest; `cargo test --workspace` builds it".to_owned());
    }
    for program in ["ip", "curl", "setsid"] {
        if Command::new(program).arg("--version").output().is_err() {
            return Some(format!("{program} is missing"));
        }
    }
    // Each test's thread probes for itself.
    let name = format!("rwlab-probe-{:?}", std::thread::current().id()).replace(['(', ')'], "-")
        + &std::process::id().to_string();
    let made = Command::new("ip").args(["netns", "add", &name]).output().unwrap();
    if !made.status.success() {
        return Some(format!("no network namespaces here: {}", String::from_utf8_lossy(&made.stderr)));
    }
    Command::new("ip").args(["netns", "del", &name]).output().unwrap();
    None
}

fn namespaces() -> String {
    String::from_utf8_lossy(&Command::new("ip").args(["netns", "list"]).output().unwrap().stdout).into_owned()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
