//! gRPC of other hands through the gateway: tonic and grpcio (Python), each as client and as server. Every kind of call,
//! half-close, replies of trailers only, a status behind messages, deadlines.
//!
//! grpcio is skipped by name where it is not installed: `scripts/grpcio` brings it, and scripts/test asks that.
#![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

mod shop;
#[path = "../support/mod.rs"]
mod support;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;

use routing::model::GrpcCode;
use shop::Serving;
use support::fleet::localhost;
use support::hands::run;
use support::table::world;
use support::tls::Ca;
use support::{Gateway, config, until};

const PEER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/grpc_hands/peer.py");

/// Python with grpcio: `GRPCIO`, or where `scripts/grpcio` puts it. Says so where it is not.
fn python() -> Option<String> {
    let own = std::env::var_os("GRPCIO").map(PathBuf::from);
    // Test programs are in DIR/debug/deps of the target directory.
    let program = std::env::current_exe().unwrap();
    let target = program.ancestors().nth(3).unwrap().join("grpcio/bin/python");
    let found = own.unwrap_or(target).to_str()?.to_owned();
    let works = Command::new(&found).args(["-c", "import grpc"]).stderr(Stdio::null()).status();
    if works.is_ok_and(|status| status.success()) {
        return Some(found);
    }
    println!("SKIPPED: grpcio is not installed (scripts/grpcio TARGET)");
    None
}

/// grpcio's server: ends with its input.
struct Peer {
    addr: SocketAddr,
    child: Child,
}

impl Peer {
    fn start(python: &str) -> Self {
        let mut command = Command::new(python);
        command.args([PEER, "serve"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut port = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut port).unwrap();
        Self { addr: ([127, 0, 0, 1], port.trim().parse().unwrap()).into(), child }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

fn before(server: SocketAddr) -> Gateway {
    let world = world(&[server]).undetected().http2();
    Gateway::start(config(), |addr| world.on(addr))
}

fn called(addr: SocketAddr) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(shop::call(addr));
}

/// What the gateway counts of the calls of one client: each of them.
fn counted(gateway: &Gateway) {
    let calls = |number| gateway.sum(|stats| stats.calls(Some(GrpcCode::of(number))));
    // Fine, FAILED_PRECONDITION, ABORTED, UNIMPLEMENTED.
    let wanted = [(0, 5), (9, 1), (10, 1), (12, 1)];
    until("every call is counted", || wanted.iter().all(|(number, count)| calls(*number) == *count));
    until("nothing is in flight", || gateway.sum(|stats| stats.in_flight.get()) == 0);
}

#[test]
fn tonic_calls_tonic() {
    let server = Serving::start();
    let gateway = before(server.addr);
    called(gateway.addr);
    counted(&gateway);
    // The deadline reached it, and so did its end.
    until("the slow call is given up", || server.seen.given_up.load(Ordering::SeqCst) == 1);
    assert_eq!(server.seen.bounded.load(Ordering::SeqCst), 1);
}

#[test]
fn tonic_calls_grpcio() {
    let Some(python) = python() else { return };
    let server = Peer::start(&python);
    let gateway = before(server.addr);
    called(gateway.addr);
    counted(&gateway);
}

#[test]
fn grpcio_calls_tonic_and_grpcio() {
    let Some(python) = python() else { return };
    let (tonic, grpcio) = (Serving::start(), Peer::start(&python));
    for (what, server) in [("tonic", tonic.addr), ("grpcio", grpcio.addr)] {
        let gateway = before(server);
        println!("{what}");
        run(&python, &[PEER, "call", &gateway.addr.to_string()]).ended(0).says("all as it should be");
        counted(&gateway);
    }
    until("the slow call is given up", || tonic.seen.given_up.load(Ordering::SeqCst) == 1);
}

#[test]
fn grpcio_calls_over_tls() {
    let Some(python) = python() else { return };
    let server = Serving::start();
    let ca = Ca::new();
    let fleet = localhost("nginx.ingress.kubernetes.io/backend-protocol: GRPC", server.addr, &ca);
    let pem = std::env::temp_dir().join(format!("ringway-grpcio-{}.pem", std::process::id()));
    std::fs::write(&pem, &ca.pem).unwrap();
    let addr = format!("localhost:{}", fleet.tls.port());
    let ran = run(&python, &[PEER, "call", &addr, pem.to_str().unwrap()]);
    let _ = std::fs::remove_file(&pem);
    ran.ended(0).says("all as it should be");
}
