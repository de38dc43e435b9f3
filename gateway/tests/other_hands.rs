//! Clients of other hands: curl, nghttp and h2load, over TLS and in clear, HTTP/1.1 and HTTP/2.
//!
//! Each is skipped by name where it is not installed; scripts/test installs them.
#![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

mod support;

use std::cell::Cell;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use gateway::tls::Ended;
use support::backend::Backend;
use support::fleet::{Fleet, localhost};
use support::hands::{Ran, is_installed, run};
use support::tls::Ca;

/// A node that serves `localhost` over TLS and in clear.
struct Site {
    fleet: Fleet,
    backend: Backend,
    dir: PathBuf,
    /// How many requests [`Site::posted`] has shown.
    posts: Cell<usize>,
}

impl Site {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("ringway-hands-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let ca = Ca::new();
        std::fs::write(dir.join("ca.pem"), &ca.pem).unwrap();
        let backend = Backend::named("hello");
        let fleet = localhost("", backend.addr, &ca);
        Self { fleet, backend, dir, posts: Cell::new(0) }
    }

    fn https(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.fleet.tls.port())
    }

    fn http(&self, path: &str) -> String {
        format!("http://localhost:{}{path}", self.fleet.addr.port())
    }

    /// curl, which verifies; `-w` prints the version of HTTP, the status and how many connections it took.
    fn curl(&self, args: &[&str]) -> Ran {
        let ca = self.dir.join("ca.pem");
        let mut all = vec!["-sS", "-4", "--max-time", "20", "--cacert", ca.to_str().unwrap()];
        all.extend(["-w", "\n[%{http_version} %{http_code} %{num_connects} %{ssl_verify_result}]\n"]);
        all.extend(args);
        run("curl", &all)
    }

    /// The lengths of what was sent to `/in` since this was last asked.
    fn posted(&self) -> Vec<usize> {
        let all = self.backend.requests();
        let posts = all.iter().filter(|request| request.head.starts_with("POST /in "));
        let lengths: Vec<usize> = posts.map(|request| request.body.len()).collect();
        let before = self.posts.replace(lengths.len());
        lengths[before..].to_vec()
    }

    fn sum(&self, figure: impl Fn(&gateway::observe::stats::WorkerStats) -> u64) -> u64 {
        self.fleet.node().stats.iter().map(|stats| figure(stats)).sum()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
        if !std::thread::panicking() {
            assert_eq!(self.sum(|stats| stats.panics_total.get() + stats.restarts_total.get()), 0);
        }
    }
}

#[test]
fn curl_speaks_both_versions_of_http_and_of_tls() {
    if !is_installed("curl", "--version") {
        return;
    }
    let site = Site::new();
    let url = site.https("/cart?x=1");
    site.curl(&["--http2", &url]).ended(0).says("hello").says("[2 200 1 0]");
    site.curl(&["--http1.1", &url]).ended(0).says("hello").says("[1.1 200 1 0]");
    site.curl(&["--http2", "--tls-max", "1.2", &url]).ended(0).says("[2 200 1 0]");
    site.curl(&["--http1.1", "--tls-max", "1.2", &url]).ended(0).says("[1.1 200 1 0]");
    site.curl(&["--tlsv1.3", "-v", &url])
        .ended(0)
        .says("SSL connection using TLSv1.3")
        .says("ALPN: server accepted h2");
    // In clear: prior knowledge, and HTTP/1.1 whose Upgrade: h2c is not taken.
    let clear = site.http("/");
    site.curl(&["--http2-prior-knowledge", &clear]).ended(0).says("hello").says("[2 200 1 0]");
    site.curl(&["--http1.1", &clear]).ended(0).says("[1.1 200 1 0]");
    for request in site.backend.requests() {
        assert!(request.head.starts_with("GET /"), "{}", request.head);
    }
    // Several requests share one connection, in either version.
    for version in ["--http2", "--http1.1"] {
        let ran = site.curl(&[version, &url, &url, &url]);
        ran.ended(0);
        assert_eq!(ran.out.matches("hello").count(), 3, "{}", ran.out);
        assert_eq!(ran.out.matches(" 200 0 0]").count(), 2, "two need no connection: {}", ran.out);
    }
}

#[test]
fn curl_sends_large_bodies_and_is_refused_where_it_should_be() {
    if !is_installed("curl", "--version") {
        return;
    }
    let site = Site::new();
    let body = site.dir.join("body");
    std::fs::write(&body, vec![b'x'; 300_000]).unwrap();
    let data = format!("@{}", body.display());
    for version in ["--http2", "--http1.1"] {
        site.curl(&[version, "--data-binary", &data, &site.https("/in")])
            .ended(0)
            .says("hello")
            .says(" 200 1 0]");
        assert_eq!(site.posted(), [300_000], "{version}");
    }
    // Versions that are no more: what this curl is built with may refuse to try, too; it is no success either way.
    let old = ["--tls-max", "1.1", "--ciphers", "DEFAULT@SECLEVEL=0", &site.https("/")];
    site.curl(&old).ended(35);
    // A name that nobody has a certificate for: an alert, and no other certificate.
    let resolve = format!("other.example:{}:127.0.0.1", site.fleet.tls.port());
    let other = format!("https://other.example:{}/", site.fleet.tls.port());
    site.curl(&["--resolve", &resolve, &other]).ended(35).says("unrecognized name");
    assert_eq!(site.sum(|stats| stats.handshakes[Ended::UnknownName as usize].get()), 1);
    // HTTPS to the clear port, and clear to the TLS port.
    let wrong = format!("https://localhost:{}/", site.fleet.addr.port());
    site.curl(&[&wrong]).ended(35);
    let wrong = format!("http://localhost:{}/", site.fleet.tls.port());
    assert_ne!(site.curl(&["--http1.1", &wrong]).code, Some(0));
    assert_eq!(site.backend.count(), 2, "nothing of it has reached the backend");
}

#[test]
fn nghttp_gets_its_streams_over_tls_and_in_clear() {
    if !is_installed("nghttp", "--version") {
        return;
    }
    let site = Site::new();
    for url in [site.https("/"), site.http("/")] {
        let ran = run("nghttp", &["-v", "--timeout=20s", "--no-verify-peer", "-m", "20", &url]);
        ran.ended(0).says("recv (stream_id=").says(":status: 200").says("recv SETTINGS frame");
        assert_eq!(ran.out.matches(":status: 200").count(), 20, "{}", ran.out);
        assert_eq!(ran.out.matches("hello").count(), 20, "{}", ran.out);
        assert!(!ran.out.contains("RST_STREAM") && !ran.out.contains("ENHANCE_YOUR_CALM"), "{}", ran.out);
    }
    // A body that is longer than the stream's window, with its trailer.
    let body = site.dir.join("body");
    std::fs::write(&body, vec![b'x'; 300_000]).unwrap();
    let path = body.to_str().unwrap();
    let ran = run("nghttp", &["-v", "--timeout=20s", "--no-verify-peer", "-d", path, &site.https("/in")]);
    ran.ended(0).says(":status: 200").says("recv WINDOW_UPDATE frame");
    assert_eq!(site.posted(), [300_000]);
}

#[test]
fn h2load_fails_at_nothing_in_any_combination() {
    if !is_installed("h2load", "--version") {
        return;
    }
    let site = Site::new();
    let (secure, clear) = (site.https("/"), site.http("/"));
    for (what, args, protocol) in [
        ("HTTP/2 over TLS", vec!["-m", "10", &*secure], "Application protocol: h2\n"),
        ("HTTP/1.1 over TLS", vec!["--h1", &*secure], "Application protocol: http/1.1\n"),
        ("HTTP/2 in clear", vec!["-m", "10", "-p", "h2c", &*clear], "Application protocol: h2c\n"),
        ("HTTP/1.1 in clear", vec!["-p", "http/1.1", &*clear], "Application protocol: http/1.1\n"),
    ] {
        let mut all = vec!["-n", "1000", "-c", "10", "-T", "20", "-N", "20"];
        all.extend(args);
        let ran = run("h2load", &all);
        println!("{what}");
        ran.ended(0).says(protocol);
        ran.says(
            "requests: 1000 total, 1000 started, 1000 done, 1000 succeeded, 0 failed, 0 errored, 0 timeout",
        );
        ran.says("status codes: 1000 2xx, 0 3xx, 0 4xx, 0 5xx");
    }
    assert_eq!(site.backend.count(), 4_000);
}
