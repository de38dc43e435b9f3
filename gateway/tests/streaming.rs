//! Large bodies in little memory, and peers that are too slow: SECURITY S19 and S20.
#![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

mod support;

use std::io::{Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use config::{ByteSize, Config, Period};
use gateway::observe::stats::Limit;
use support::backend::{Backend, Peer, Then, respond};
use support::client::{Client, Cut, To};
use support::table::world;
use support::{Gateway, PATIENCE, config, pass, until};

/// Larger than all socket buffers of both hops together.
const LARGE: u64 = 256 << 20;
const PIECE: usize = 256 << 10;

fn before(backend: &Backend, config: Config) -> Gateway {
    let addr = backend.addr;
    Gateway::start(config, |on| world(&[addr]).on(on))
}

/// Resident memory of this process: client, gateway and backend together, in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Sends `LARGE` bytes as fast as they are taken; says how many were.
fn pour(stream: &mut impl Write, count: &AtomicU64) {
    let piece = vec![b'x'; PIECE];
    while count.load(Ordering::Relaxed) < LARGE {
        if stream.write_all(&piece).is_err() {
            return;
        }
        count.fetch_add(PIECE as u64, Ordering::Relaxed);
    }
}

/// Takes `LARGE` bytes and forgets them; says how many came.
fn swallow(peer: &mut Peer) -> u64 {
    let mut count = peer.take_pending().len() as u64;
    let mut piece = vec![0; PIECE];
    while count < LARGE {
        match peer.stream.read(&mut piece) {
            Ok(n) if n > 0 => count += n as u64,
            Ok(_) | Err(_) => break,
        }
    }
    count
}

#[test]
fn large_bodies_pass_both_ways_in_bounded_memory() {
    let backend = Backend::raw(|peer| {
        while let Some(head) = peer.head() {
            peer.stop_recording();
            if head.line().starts_with("GET") {
                peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n"));
                pour(&mut peer.stream, &AtomicU64::new(0));
            } else {
                let count = swallow(peer);
                respond(&mut peer.stream, count.to_string().as_bytes());
            }
        }
    });
    let gateway = before(&backend, config());
    let mut client = Client::connect(gateway.addr);
    let before = resident();

    client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {LARGE}\r\n\r\n"));
    pour(&mut client.stream, &AtomicU64::new(0));
    assert_eq!(client.response().text(), LARGE.to_string());
    let after_upload = resident();

    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(client.head().unwrap().starts_with("HTTP/1.1 200"));
    client.skip(LARGE).unwrap();
    let after_download = resident();
    for after in [after_upload, after_download] {
        assert!(after.saturating_sub(before) < 48 << 20, "{before} bytes resident became {after}");
    }
    assert_eq!(backend.connections(), 1, "a complete exchange keeps its connection, however large");
}

/// Every byte says where it stands.
fn patterned(size: usize) -> Vec<u8> {
    (0..size as u64).map(|n| (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect()
}

fn spliced(gateway: &Gateway) -> u64 {
    gateway.sum(|stats| stats.spliced_bytes_total.get())
}

/// Fast readers and slow ones get the same bytes, inside the kernel or not, and the connection is used again.
#[test]
fn the_middle_of_a_large_answer_passes_inside_the_kernel_and_is_what_was_sent() {
    const SIZE: usize = 12 << 20;
    let body = Arc::new(patterned(SIZE));
    for splice in [true, false] {
        let answer = Arc::clone(&body);
        let backend = Backend::start(move |_, stream| respond(stream, &answer));
        let mut config = config();
        config.worker.splice = splice;
        let gateway = before(&backend, config);
        let mut client = Client::connect(gateway.addr);
        assert!(client.get("/").body == *body, "splice = {splice}");
        assert!(client.get("/again").body == *body, "splice = {splice}");
        let passed = spliced(&gateway);
        assert_eq!(passed > SIZE as u64 / 2, splice, "{passed} bytes passed inside the kernel");
        let mut slow = Client::connect_narrow(gateway.addr);
        slow.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        slow.head().unwrap();
        let mut came = Vec::new();
        while came.len() < SIZE {
            let piece = (SIZE - came.len()).min(SIZE / 16);
            came.extend(slow.exactly(piece).unwrap());
            pass(Duration::from_millis(5));
        }
        assert!(came == *body, "splice = {splice}");
        assert_eq!(backend.connections(), 1, "a complete exchange keeps its connection");
    }
}

/// Whether the endpoint ends or resets its connection in the middle, its answer is seen to be cut.
#[test]
fn a_large_answer_that_breaks_off_while_it_passes_inside_the_kernel_is_cut() {
    const SIZE: usize = 32 << 20;
    for resets in [false, true] {
        let backend = Backend::raw(move |peer| {
            if peer.head().is_some() {
                peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n"));
                let _ = peer.stream.write_all(&vec![b'x'; SIZE / 2]);
                if resets {
                    socket2::SockRef::from(&peer.stream).set_linger(Some(Duration::ZERO)).unwrap();
                }
            }
        });
        let gateway = before(&backend, config());
        let mut client = Client::connect(gateway.addr);
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        client.head().unwrap();
        assert!(client.skip(SIZE as u64).is_err(), "the cut is visible");
        assert!(spliced(&gateway) > 0);
    }
}

/// A reader that stops: the backend is not read any further, and memory stays where it is.
#[test]
fn a_reader_that_stops_holds_the_backend_back() {
    let sent = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&sent);
    let backend = Backend::raw(move |peer| {
        if peer.head().is_some() {
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n"));
            pour(&mut peer.stream, &count);
        }
    });
    let gateway = before(&backend, config());
    let mut client = Client::connect(gateway.addr);
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(client.head().unwrap().starts_with("HTTP/1.1 200"));
    let stalled = stalls_at(&sent);
    assert!(stalled < LARGE / 4, "{stalled} bytes were taken for a client that reads nothing");
    // SECURITY S20, however the bytes came: read, or through the kernel's pipe.
    assert!(spliced(&gateway) > 0);
    until("what is held is counted", || gateway.sum(|stats| stats.buffer_bytes.get()) > 0);
    let held = gateway.sum(|stats| stats.buffer_bytes.get());
    assert!(held <= 64 << 10, "{held} bytes are held for a client that reads nothing");
    // It goes on where it stopped.
    client.skip(LARGE).unwrap();
}

/// The same for an upload to a backend that stops reading, for longer than a *client* may be slow.
#[test]
fn a_backend_that_stops_holds_the_client_back_and_is_nobodys_fault() {
    let (open, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let backend = Backend::raw(move |peer| {
        if peer.head().is_some() {
            peer.stop_recording();
            let _ = gate.lock().unwrap().recv_timeout(PATIENCE);
            let count = swallow(peer);
            respond(&mut peer.stream, count.to_string().as_bytes());
        }
    });
    let mut config = config();
    config.timeouts.body_rate_grace = Period::millis(200);
    let gateway = before(&backend, config);
    let sent = Arc::new(AtomicU64::new(0));
    let mut client = Client::connect(gateway.addr);
    client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {LARGE}\r\n\r\n"));
    let (mut upload, count) = (client.stream.try_clone().unwrap(), Arc::clone(&sent));
    let uploading = std::thread::spawn(move || pour(&mut upload, &count));
    let stalled = stalls_at(&sent);
    assert!(stalled < LARGE / 4, "{stalled} bytes were taken for a backend that reads nothing");
    pass(Duration::from_millis(400));
    open.send(()).unwrap();
    let response = client.response();
    assert_eq!((response.status, response.text()), (200, LARGE.to_string()));
    uploading.join().unwrap();
}

/// Waits until the count has stood still for a while; says where.
fn stalls_at(count: &AtomicU64) -> u64 {
    let (mut last, mut since) = (0, Instant::now());
    until("the sender stalls", || {
        let now = count.load(Ordering::Relaxed);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        last > 0 && since.elapsed() > Duration::from_millis(300)
    });
    last
}

#[test]
fn s20_a_client_that_reads_nothing_is_closed_and_the_backend_let_go() {
    let ended = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&ended);
    let backend = Backend::raw(move |peer| {
        if peer.head().is_some() {
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n"));
            pour(&mut peer.stream, &AtomicU64::new(0));
            seen.fetch_add(1, Ordering::SeqCst);
        }
    });
    let mut config = config();
    config.timeouts.write_stall = Period::millis(300);
    let gateway = before(&backend, config);
    let mut client = Client::connect(gateway.addr);
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    until("the stall is noticed", || gateway.hits(Limit::WriteStall) == 1);
    until("the connection is closed", || gateway.sum(|stats| stats.connections_open.get()) == 0);
    until("the backend is let go", || ended.load(Ordering::SeqCst) == 1);
    assert!(client.skip(LARGE).is_err(), "the cut is visible");
}

/// Pipelines requests for small answers and reads none of them: no state of the connection waits without a limit.
#[test]
fn s20_a_pipelining_client_that_reads_nothing_is_closed() {
    let body = vec![b'x'; 12 << 10];
    let backend = Backend::start(move |_, stream| respond(stream, &body));
    let mut config = config();
    config.timeouts.write_stall = Period::millis(300);
    let gateway = before(&backend, config);
    let mut client = Client::connect(gateway.addr);
    client.stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    for _ in 0..5_000 {
        if client.try_send("GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(8)).is_err() {
            break;
        }
    }
    until("the connection is closed", || gateway.sum(|stats| stats.connections_open.get()) == 0);
    assert_eq!(gateway.hits(Limit::WriteStall), 1);
    assert_eq!(gateway.sum(|stats| stats.in_flight.get()), 0);
}

/// A slow reader that does read is served to the end, however often it pauses.
#[test]
fn s20_a_slow_reader_that_goes_on_is_served() {
    const SIZE: usize = 3 << 20;
    let backend = Backend::start(|_, stream| respond(stream, &vec![b'x'; SIZE]));
    let mut config = config();
    config.timeouts.write_stall = Period::millis(600);
    let gateway = before(&backend, config);
    let mut client = Client::connect(gateway.addr);
    socket2::SockRef::from(&client.stream).set_recv_buffer_size(64 << 10).unwrap();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    client.head().unwrap();
    for _ in 0..8 {
        client.skip(SIZE as u64 / 8).unwrap();
        pass(Duration::from_millis(150));
    }
    assert_eq!(client.get("/").body.len(), SIZE);
}

/// The last bytes of a response may wait in the gateway for as long as a client may stall.
#[test]
fn s20_the_last_response_of_a_connection_reaches_a_slow_reader_whole() {
    const SIZE: usize = 12 << 10;
    let backend = Backend::start(|_, stream| respond(stream, &[b'x'; SIZE]));
    let gateway = before(&backend, config());
    let done = || gateway.sum(|stats| stats.responses.classes[1].get());
    // One request more, without reading its answer. Does the exchange end, that is, is the answer being written?
    let ask = |client: &mut Client, fields: &str| {
        let (before, began) = (done(), Instant::now());
        client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
        while done() == before && began.elapsed() < Duration::from_millis(300) {
            pass(Duration::from_micros(100));
        }
        done() > before
    };
    // How many answers the sockets take: the write of the last of these is stuck.
    let mut probe = Client::connect_narrow(gateway.addr);
    let mut answers = 0;
    while ask(&mut probe, "") {
        answers += 1;
    }
    drop(probe);
    for short in [0, 1] {
        let mut client = Client::connect_narrow(gateway.addr);
        for _ in 1..answers - short {
            ask(&mut client, "");
        }
        ask(&mut client, "Connection: close\r\n");
        pass(Duration::from_millis(1_500));
        for _ in 0..answers - short {
            assert_eq!(client.try_response(To::Get).map(|response| response.body.len()), Ok(SIZE));
        }
        assert_eq!(client.rest(), (Vec::new(), Cut::Closed));
    }
}

fn shortened() -> Config {
    let mut config = config();
    config.timeouts.header = Period::millis(400);
    config.timeouts.body_rate_min = ByteSize::new(1_000);
    config.timeouts.body_rate_grace = Period::millis(300);
    config
}

/// One byte of the head now and then: the limit is on the whole head, not on each byte.
#[test]
fn s19_slow_heads_end_in_408_and_disturb_nobody() {
    let backend = Backend::named("ok");
    let gateway = before(&backend, shortened());
    let began = Instant::now();
    let mut slow: Vec<_> = (0..200).map(|_| Client::connect(gateway.addr)).collect();
    let head = b"GET / HTTP/1.1\r\nHost: shop.example\r\nX-Slow: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    let mut fast = Client::connect(gateway.addr);
    for byte in head {
        slow.iter_mut().for_each(|client| drop(client.try_send([*byte])));
        assert_eq!(fast.get("/").status, 200, "others are served meanwhile");
        if began.elapsed() > Duration::from_millis(800) {
            break;
        }
        pass(Duration::from_millis(10));
    }
    until("all are closed", || gateway.sum(|stats| stats.connections_open.get()) == 1);
    assert!(began.elapsed() >= Duration::from_millis(400));
    assert_eq!(gateway.hits(Limit::HeaderTimeout), 200);
    for client in &mut slow {
        let answer = client.rest().0;
        // Bytes that came after the close may reset the connection before the answer is read.
        assert!(
            answer.is_empty() || answer.starts_with(b"HTTP/1.1 408 "),
            "{}",
            String::from_utf8_lossy(&answer)
        );
    }
    assert!(backend.requests().iter().all(|request| request.one("x-slow").is_none()));
}

#[test]
fn s19_a_head_that_stops_ends_in_408() {
    let backend = Backend::named("ok");
    let gateway = before(&backend, shortened());
    let mut client = Client::connect(gateway.addr);
    // The second request of a connection is no different.
    assert_eq!(client.get("/").status, 200);
    client.send("GET / HTTP/1.1\r\nHo");
    let response = client.response();
    assert_eq!((response.status, response.reason()), (408, "header_timeout"));
    assert_eq!(client.rest(), (Vec::new(), Cut::Closed));
}

/// A byte now and then is not a body's pace.
#[test]
fn s19_slow_bodies_end_in_408() {
    let backend = Backend::named("ok");
    let gateway = before(&backend, shortened());
    for framing in ["Content-Length: 100000", "Transfer-Encoding: chunked"] {
        let mut client = Client::connect(gateway.addr);
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n"));
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(3) && client.try_send("1\r\na\r\n").is_ok() {
            if !client.is_silent(Duration::from_millis(50)) {
                break;
            }
        }
        let response = client.response();
        assert_eq!((response.status, response.reason()), (408, "body_too_slow"), "{framing}");
        let took = began.elapsed();
        assert!((250..2_500).contains(&took.as_millis()), "{framing}: after {took:?}");
    }
    assert_eq!(gateway.hits(Limit::BodyRate), 2);
    assert_eq!(backend.count(), 0, "half a body is no request");
}

/// A body that comes at its lowest lawful pace is taken, however long it lasts.
#[test]
fn s19_a_body_at_its_least_pace_is_served() {
    let backend = Backend::named("ok");
    let gateway = before(&backend, shortened());
    let mut client = Client::connect(gateway.addr);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3000\r\n\r\n");
    for _ in 0..30 {
        // 100 bytes in 30 ms: three times the least rate, so that a busy machine does not decide.
        client.send([b'x'; 100]);
        pass(Duration::from_millis(30));
    }
    assert_eq!(client.response().status, 200);
    assert_eq!(backend.only_request().body.len(), 3_000);
}

/// A response that has begun does not free the client of its pace: else a trickle holds the endpoint for ever.
#[test]
fn s19_the_pace_of_a_body_counts_behind_an_early_response() {
    let (left, seen) = mpsc::channel();
    let left = Mutex::new(left);
    let backend = Backend::raw(move |peer| {
        let Some(head) = peer.head() else { return };
        peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        if head.target() == "/lawful" {
            let _ = peer.exactly(3_000);
            peer.send("4\r\ndone\r\n0\r\n\r\n");
            return;
        }
        // The response streams, so that no idle timeout ends what the client drags out.
        while peer.stream.write_all(b"1\r\nr\r\n").is_ok() {
            pass(Duration::from_millis(20));
        }
        let _ = left.lock().unwrap().send(());
    });
    let gateway = before(&backend, shortened());
    let mut client = Client::connect(gateway.addr);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nu");
    assert!(client.head().unwrap().starts_with("HTTP/1.1 200"), "the response has begun");
    let began = Instant::now();
    while began.elapsed() < PATIENCE && client.try_send("u").is_ok() {
        pass(Duration::from_millis(50));
    }
    let (bytes, cut) = client.rest();
    assert!(cut != Cut::Late && !bytes.ends_with(b"0\r\n\r\n"), "the response is cut, not ended: {cut:?}");
    assert_eq!(gateway.hits(Limit::BodyRate), 1);
    seen.recv_timeout(PATIENCE).expect("the endpoint is free again");

    let mut client = Client::connect(gateway.addr);
    client.send("POST /lawful HTTP/1.1\r\nHost: a\r\nContent-Length: 3000\r\n\r\n");
    for _ in 0..30 {
        client.send([b'x'; 100]);
        pass(Duration::from_millis(30));
    }
    assert_eq!(client.response().text(), "done");
    assert_eq!(gateway.hits(Limit::BodyRate), 1);
}

/// Buffers of a connection go back to their pool when it is idle: see also `memory.rs`.
#[test]
fn an_idle_connection_is_closed_after_its_time() {
    let backend = Backend::answering("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Then::Keep);
    let mut config = config();
    config.timeouts.buffer_idle = Period::millis(20);
    config.timeouts.idle_client = Period::millis(200);
    let gateway = before(&backend, config);
    let (mut silent, mut used) = (Client::connect(gateway.addr), Client::connect(gateway.addr));
    let began = Instant::now();
    assert_eq!(used.get("/").status, 200);
    assert_eq!(silent.rest(), (Vec::new(), Cut::Closed));
    assert_eq!(used.try_response(To::Get).unwrap_err(), Cut::Closed);
    assert!(began.elapsed() >= Duration::from_millis(200));
    // Idle shorter than that, it serves on from its idle state.
    let mut client = Client::connect(gateway.addr);
    for _ in 0..4 {
        assert_eq!(client.get("/").status, 200);
        pass(Duration::from_millis(80));
    }
}
