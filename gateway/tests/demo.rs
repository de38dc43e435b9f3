//! `ringway demo` as a user starts it, without a terminal.

#![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// Three seconds of load, start and end; the rest is for a machine that is busy with other tests.
const DEADLINE: Duration = Duration::from_secs(60);

fn demo(args: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_ringway"))
        .arg("demo")
        .args(args)
        // No manifests are read from here: the example is inside the binary.
        .current_dir("/")
        .env_remove("RINGWAY_LOG")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits for the end; a demo that does not come to it is killed and fails the test.
fn finish(child: Child) -> Output {
    let pid = Pid::from_child(&child);
    let (sender, receiver) = channel();
    let waiting = std::thread::spawn(move || sender.send(child.wait_with_output().unwrap()));
    let output = receiver.recv_timeout(DEADLINE).unwrap_or_else(|_| {
        kill_process(pid, Signal::KILL).unwrap();
        let output = receiver.recv().unwrap();
        panic!("no end within {DEADLINE:?}:\n{}", String::from_utf8_lossy(&output.stdout));
    });
    waiting.join().unwrap().unwrap();
    output
}

#[test]
fn a_cluster_dies_during_the_demo_and_no_request_fails() {
    let output = finish(demo(&["--seconds", "3", "--rate", "300"]));
    let text = String::from_utf8(output.stdout).unwrap();
    let told = format!("{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{told}");
    for expected in [
        "2 member clusters with 4 pods",
        "gateway up after",
        "-- beta killed at 1.",
        "Cluster beta died, and no request failed.",
        "900 sent in 3.",
        "900 answered, 0 failed",
        "p50      p99    p99.9      max",
        "  whole run",
        "killed at 1.",
        "back at 1.",
        "tried again",
        "more than once",
    ] {
        assert!(text.contains(expected), "{expected:?} is missing in\n{told}");
    }
    assert!(!text.contains('\x1b'), "escapes are for terminals:\n{told}");
    assert!(
        text.lines().filter(|line| line.contains("failed 0")).count() >= 2,
        "a line each second:\n{told}"
    );
}

#[test]
fn a_cluster_that_does_not_exist_cannot_be_killed() {
    let output = finish(demo(&["--kill", "gamma", "--seconds", "1"]));
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("--kill gamma: there is no such cluster; there is alpha, beta"), "{errors}");
}

#[test]
fn an_interrupt_ends_the_demo_with_the_report_so_far() {
    let mut child = demo(&["--seconds", "600", "--rate", "100"]);
    let pid = Pid::from_child(&child);
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut text = String::new();
    while !text.contains("warming up") {
        assert!(lines.read_line(&mut text).unwrap() > 0, "it ended by itself:\n{text}");
    }
    kill_process(pid, Signal::INT).unwrap();
    let output = finish(child);
    lines.read_to_string(&mut text).unwrap();
    assert!(output.status.success(), "{text}");
    assert!(text.contains("No request failed, and no cluster was killed."), "{text}");
    let own = format!("ringway-demo-{}-", pid.as_raw_nonzero());
    let left: Vec<_> = std::fs::read_dir(std::env::temp_dir())
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&own))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}
