//! The two servers of `loadtest` as processes on loopback, and what `bench` says when it cannot run.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use loadgen::{Asks, Call, Http2, Load, Outcome};

const DEADLINE: Duration = Duration::from_secs(10);

#[test]
fn the_backend_answers_keep_alive_pipelined_and_close_with_the_body_asked_for() {
    let backend = Server::start(&["backend", "--listen", "127.0.0.1:0", "--body", "10000"]);
    let mut client = connect(backend.addr);
    let requests =
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(49) + "GET /x HTTP/1.1\r\nConnection: close\r\n\r\n";
    // Cut in the middle of a head.
    client.write_all(&requests.as_bytes()[..40]).unwrap();
    client.write_all(&requests.as_bytes()[40..]).unwrap();
    let answers = read_all(&mut client);
    assert_eq!(count(&answers, b"HTTP/1.1 200 OK\r\n"), 50);
    assert_eq!(
        answers.iter().filter(|byte| **byte == b'x').count(),
        50 * 10_001,
        "the bodies and text/plain's x"
    );
}

/// An accept that fails for want of descriptors would fail again at once, as often as the machine can.
#[test]
fn a_backend_without_descriptors_left_takes_a_rest_and_goes_on_when_there_are_some() {
    for kind in [&["backend"][..], &["backend", "--http2"]] {
        // The limit counts as it was when the kernel was asked to accept.
        let mut few = Command::new("sh");
        few.args(["-c", "ulimit -n 24; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_loadtest")]);
        let backend = Server::of(few.args(kind).args(["--listen", "127.0.0.1:0"]));
        let mut clients: Vec<TcpStream> = (0..40).map(|_| connect(backend.addr)).collect();
        let before = backend.ticks();
        // The last is in the kernel's queue, and nobody greets it.
        let last = clients.last_mut().unwrap();
        last.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        last.read(&mut [0; 64]).unwrap_err();
        let ticks = backend.ticks() - before;
        assert!(ticks < 10, "{kind:?}: {ticks} ticks of 10 ms in half a second");
        drop(clients);
        let mut client = connect(backend.addr);
        let request: &[u8] = match kind {
            [_, "--http2"] => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
            _ => b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        };
        client.write_all(request).unwrap();
        assert!(client.read(&mut [0; 64]).unwrap() > 0, "{kind:?}");
    }
}

#[test]
fn the_backend_answers_http2_and_grpc_within_the_peers_window() {
    for (flag, call, bytes) in [("--http2", Call::Http, 10_000), ("--grpc", Call::Grpc, 10_005)] {
        let backend = Server::start(&[
            "backend",
            "--listen",
            "127.0.0.1:0",
            "--body",
            "10000",
            "--latency-ms",
            "2",
            flag,
        ]);
        let load = Load {
            target: backend.addr,
            host: "bench.example".to_owned(),
            path: "/".to_owned(),
            // 64 answers at once are ten times the window that a connection begins with.
            rate_per_s: 20_000,
            connections_max: 1,
            duration: Duration::from_millis(200),
            timeout: DEADLINE,
            headers: Vec::new(),
            count_header: None,
        };
        let (stop, mut outcomes, http2) =
            (AtomicBool::new(false), Vec::new(), Http2 { streams_max: 64, call });
        // Calls carry so much that the backend must give the connection's window back.
        let asks = Asks { body: vec![b'x'; if flag == "--grpc" { 1_000 } else { 0 }], ..Asks::default() };
        let keep = |record: loadgen::Record| outcomes.push(record.outcome);
        loadgen::run_http2(&load, &asks, http2, None, Instant::now(), &stop, keep).unwrap();
        assert_eq!(outcomes.len(), 4_000);
        let good = Outcome::Answered { status: 200, body: bytes };
        assert!(outcomes.iter().all(|outcome| *outcome == good), "{flag}: {:?}", outcomes.last());
    }
}

#[test]
fn the_floor_relays_large_streams_both_ways_at_once_and_their_ends() {
    let echo = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let upstream = echo.local_addr().unwrap().to_string();
    let echoing = std::thread::spawn(move || {
        for _ in 0..8 {
            let (mut socket, _) = echo.accept().unwrap();
            std::thread::spawn(move || {
                let mut copy = socket.try_clone().unwrap();
                std::io::copy(&mut socket, &mut copy).unwrap();
                copy.shutdown(Shutdown::Write).unwrap();
            });
        }
    });
    let floor = Server::start(&["floor", "--listen", "127.0.0.1:0", "--upstream", &upstream]);
    let clients: Vec<_> = (0..8_u8)
        .map(|seed| {
            let mut client = connect(floor.addr);
            std::thread::spawn(move || {
                let sent: Vec<u8> = (0..3_000_000_u32).map(|i| i.to_le_bytes()[1] ^ seed).collect();
                let mut writer = client.try_clone().unwrap();
                let copy = sent.clone();
                let writing = std::thread::spawn(move || {
                    writer.write_all(&copy).unwrap();
                    writer.shutdown(Shutdown::Write).unwrap();
                });
                let received = read_all(&mut client);
                writing.join().unwrap();
                assert!(received == sent, "{} of {} bytes came back", received.len(), sent.len());
            })
        })
        .collect();
    for client in clients {
        client.join().unwrap();
    }
    echoing.join().unwrap();
}

#[test]
fn the_floor_closes_a_client_whose_upstream_refuses_and_goes_on() {
    // A port on which nobody listens: bound, then given back.
    let refused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let floor = Server::start(&["floor", "--listen", "127.0.0.1:0", "--upstream", &refused]);
    for _ in 0..3 {
        let mut client = connect(floor.addr);
        assert_eq!(read_all(&mut client), b"");
    }
}

#[test]
fn a_missing_gateway_is_named_with_its_remedy_before_anything_is_changed() {
    let output =
        bench(&["--proxies", "ringway", "--ringway", "/nonexistent/ringway", "--case", "idle-memory"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(said.contains("/nonexistent/ringway is missing: cargo build --release"), "{said}");
}

#[test]
fn one_core_for_proxy_and_load_is_refused() {
    let output = bench(&["--proxy-core", "1", "--load-core", "1"]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("a core each"));
}

struct Server {
    process: Child,
    addr: SocketAddr,
}

impl Server {
    fn start(args: &[&str]) -> Self {
        Self::of(Command::new(env!("CARGO_BIN_EXE_loadtest")).args(args))
    }

    fn of(command: &mut Command) -> Self {
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let addr = line.trim().strip_prefix("listening on ").unwrap_or_else(|| panic!("said {line:?}"));
        Self { addr: addr.parse().unwrap(), process }
    }

    /// CPU time so far, user's and system's, in ticks.
    fn ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap();
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        fields.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

fn bench(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_loadtest")).arg("bench").args(args).output().unwrap()
}

fn connect(addr: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect_timeout(&addr, DEADLINE).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket.set_write_timeout(Some(DEADLINE)).unwrap();
    socket
}

fn read_all(socket: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    socket.read_to_end(&mut bytes).unwrap();
    bytes
}

fn count(bytes: &[u8], part: &[u8]) -> usize {
    bytes.windows(part.len()).filter(|window| *window == part).count()
}
