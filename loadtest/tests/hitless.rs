//! `loadtest hitless` with the gateway of the same build, a few seconds of it.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

use std::collections::HashMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

#[test]
fn no_request_notices_reloads_new_certificates_signals_and_a_change_of_processes() {
    let loadtest = Path::new(env!("CARGO_BIN_EXE_loadtest"));
    let ringway = loadtest.with_file_name("ringway");
    if !ringway.is_file() {
        // Past the test harness, which keeps what a test prints for itself unless it fails.
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED hitless: no gateway beside loadtest; `cargo test --workspace` builds it"
        );
        return;
    }
    let out = Folder::new();
    let run = Command::new(loadtest)
        .args(["hitless", "--seconds", "3", "--rate", "100", "--workers", "2", "--ringway"])
        .arg(&ringway)
        .arg("--out")
        .arg(&out.0)
        .output()
        .unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success(), "{said}");
    let csv = fs::read_to_string(out.0.join("hitless.csv")).unwrap();
    let mut lines = csv.lines().map(|line| line.split(','));
    let names: Vec<&str> = lines.next().unwrap().collect();
    let rows: Vec<HashMap<&str, &str>> =
        lines.map(|values| names.iter().copied().zip(values).collect()).collect();
    assert_eq!(rows.len(), 6, "{csv}");
    for row in &rows {
        // 3 s at 100 and, on new connections, at 10 requests per second; of TLS, 25.
        let requests: u32 = row["requests"].parse().unwrap();
        assert!(requests == 330 || requests == 375, "{row:?}");
        assert_eq!(row["failed"], "0", "{said}");
        assert_eq!(row["row"] == "quiet", row["done"] == "0", "{row:?}");
        let svg = fs::read_to_string(out.0.join(format!("hitless-{}.svg", row["row"]))).unwrap();
        assert!(svg.starts_with("<svg ") && svg.contains("latency, milliseconds"));
    }
}

#[test]
fn a_missing_gateway_is_named_with_its_remedy() {
    let run = Command::new(env!("CARGO_BIN_EXE_loadtest"))
        .args(["hitless", "--ringway", "/nonexistent/ringway"])
        .output()
        .unwrap();
    assert!(!run.status.success());
    assert!(String::from_utf8_lossy(&run.stderr).contains("/nonexistent/ringway is missing: cargo build"));
}

/// A folder of this test's own, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        Self(std::env::temp_dir().join(format!("ringway-hitless-{}", std::process::id())))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
