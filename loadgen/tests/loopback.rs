//! Generator and backend against each other on loopback: port 0, deadlines, no sleeping.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use loadgen::{Backend, BackendOptions, Latency, Load, LoadError, Summary, Window, run};

#[test]
fn a_constant_rate_is_sent_and_every_answer_is_counted_under_its_cluster() {
    for ip in [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), SocketAddr::from((Ipv6Addr::LOCALHOST, 0))] {
        let backend = Backend::start(ip, options("alpha", Latency::fixed(Duration::from_millis(2)))).unwrap();
        let (summary, windows) = load(&Load { rate_per_s: 1_000, ..steady(backend.addr()) });
        let total = &summary.total;
        assert_eq!((total.sent, total.ok, total.failed.total(), total.in_flight), (500, 500, 0, 0));
        assert!(total.p50 >= Duration::from_millis(2), "{total:?}");
        assert_eq!(total.values.len(), 1);
        assert_eq!((total.values[0].value.as_str(), total.values[0].ok), ("alpha", 500));
        assert_eq!(backend.requests(), 500);
        // The windows are the same load, cut in pieces.
        assert!(windows.len() >= 5, "{} windows", windows.len());
        assert_eq!(windows.iter().map(|window| window.sent).sum::<u64>(), 500);
        assert_eq!(windows.iter().map(|window| window.ok).sum::<u64>(), 500);
        // Connections are kept, not opened for each request.
        assert!(summary.connections <= 50, "{} connections", summary.connections);
    }
}

#[test]
fn latency_is_counted_from_when_a_request_was_due() {
    // One connection can do 10 of the 50 requests in the half second: the others wait for their turn.
    let backend = Backend::start(any(), options("a", Latency::fixed(Duration::from_millis(50)))).unwrap();
    let (summary, _) = load(&Load { rate_per_s: 100, connections_max: 1, ..steady(backend.addr()) });
    assert_eq!((summary.total.ok, summary.connections), (50, 1));
    // 50 × 50 ms = 2.5 s of work, due within 0.5 s.
    assert!(summary.total.max >= Duration::from_millis(1_900), "{:?}", summary.total.max);
    assert!(summary.total.p50 >= Duration::from_millis(900), "{:?}", summary.total.p50);
}

#[test]
fn a_killed_backend_refuses_and_resets_and_a_restarted_one_serves_again() {
    let backend = Backend::start(any(), options("a", Latency::fixed(Duration::from_millis(20)))).unwrap();
    let load = Load { rate_per_s: 500, duration: Duration::from_millis(1_200), ..steady(backend.addr()) };
    let mut windows: Vec<Window> = Vec::new();
    let summary = run(&load, &AtomicBool::new(false), |window| {
        windows.push(window.clone());
        match windows.len() {
            3 => backend.kill().unwrap(),
            6 => backend.restart().unwrap(),
            _ => {}
        }
    })
    .unwrap();
    let failed = summary.total.failed;
    assert!(failed.closed > 0, "requests on their way were reset: {failed:?}");
    assert!(failed.connect > 0, "later ones were refused: {failed:?}");
    assert_eq!(failed.total(), failed.closed + failed.connect);
    assert_eq!(summary.total.sent, summary.total.ok + failed.total());
    assert_eq!(windows[4].ok, 0, "nothing is served while it is dead");
    assert!(windows.last().is_some_and(|last| last.failed.total() == 0) && windows[8].ok > 0, "{windows:#?}");
}

#[test]
fn an_answer_that_comes_too_late_is_a_timeout() {
    let backend = Backend::start(any(), options("a", Latency::fixed(Duration::from_secs(5)))).unwrap();
    let begin = Instant::now();
    let (summary, _) =
        load(&Load { timeout: Duration::from_millis(50), rate_per_s: 100, ..steady(backend.addr()) });
    assert_eq!((summary.total.ok, summary.total.failed.timeout, summary.total.sent), (0, 50, 50));
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
}

#[test]
fn requests_that_never_get_a_connection_time_out_too() {
    let backend = Backend::start(any(), options("a", Latency::fixed(Duration::from_secs(5)))).unwrap();
    let load_it = Load { timeout: Duration::from_millis(80), connections_max: 1, ..steady(backend.addr()) };
    let (summary, _) = load(&Load { rate_per_s: 1_000, ..load_it });
    assert_eq!((summary.total.failed.timeout, summary.total.sent), (500, 500));
    assert!(backend.requests() < 20, "{} reached the backend", backend.requests());
}

#[test]
fn what_is_not_http_and_what_closes_early_is_told_apart() {
    for (bytes, is_malformed) in
        [("SSH-2.0-OpenSSH\r\n\r\n", true), ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx", false)]
    {
        let listener = TcpListener::bind(any()).unwrap();
        let addr = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let length = socket.read(&mut [0; 1_024]).unwrap();
            socket.write_all(bytes.as_bytes()).unwrap();
            length
        });
        let one = Load { rate_per_s: 1, duration: Duration::from_millis(100), ..steady(addr) };
        let (summary, _) = load(&one);
        assert!(server.join().unwrap() > 0);
        let failed = summary.total.failed;
        assert_eq!((failed.malformed, failed.closed), if is_malformed { (1, 0) } else { (0, 1) });
    }
}

#[test]
fn the_stop_flag_ends_a_load_at_once_and_what_is_left_is_told() {
    let backend = Backend::start(any(), options("a", Latency::fixed(Duration::from_secs(5)))).unwrap();
    let stop = AtomicBool::new(false);
    let begin = Instant::now();
    let endless = Load { duration: Duration::from_secs(3_600), ..steady(backend.addr()) };
    let summary = run(&endless, &stop, |_| stop.store(true, Ordering::Relaxed)).unwrap();
    assert!(begin.elapsed() < Duration::from_secs(2));
    assert_eq!(summary.total.in_flight, summary.total.sent);
    assert!(summary.total.sent > 0);
}

#[test]
fn a_load_out_of_its_bounds_is_refused_before_anything_is_sent() {
    let good = steady(any());
    let bad = [
        Load { rate_per_s: 0, ..good.clone() },
        Load { connections_max: 0, ..good.clone() },
        Load { timeout: Duration::ZERO, ..good.clone() },
        Load { path: "x".to_owned(), ..good.clone() },
        Load { path: "/ HTTP/1.1".to_owned(), ..good.clone() },
        Load { host: "a\r\nb: c".to_owned(), ..good.clone() },
        Load { headers: vec![("a".to_owned(), "b\n".to_owned())], ..good },
    ];
    for load in bad {
        let result = run(&load, &AtomicBool::new(false), |_| {});
        assert!(matches!(result, Err(LoadError::Invalid(_))), "{load:?} gave {result:?}");
    }
}

#[test]
fn the_backend_answers_pipelined_requests_with_bodies_in_order_and_honours_close() {
    let slow_first = Latency { usual: (Duration::ZERO, Duration::from_millis(5)), ..Latency::default() };
    let backend = Backend::start(any(), options("al\"pha", slow_first)).unwrap();
    let mut socket = TcpStream::connect(backend.addr()).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    // More than the backend takes at once, so that its back-pressure is passed through, too.
    let requests = "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc".repeat(200)
        + "POST /b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"
        + "GET /c HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    socket.write_all(requests.as_bytes()).unwrap();
    let mut answers = String::new();
    socket.read_to_string(&mut answers).unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200 OK\r\n").count(), 202);
    assert!(answers.ends_with("{\"cluster\":\"al\\\"pha\",\"endpoint\":\"one\"}\n"), "{answers}");
    assert_eq!(backend.requests(), 202);
}

#[test]
fn a_dropped_backend_leaves_nothing_behind() {
    let backend = Backend::start(any(), options("a", Latency::default())).unwrap();
    let addr = backend.addr();
    backend.kill().unwrap();
    backend.kill().unwrap();
    backend.restart().unwrap();
    backend.restart().unwrap();
    TcpStream::connect(addr).unwrap();
    drop(backend);
    assert!(TcpStream::connect(addr).is_err());
    // The address is free for the next one.
    let next = Backend::start(addr, options("b", Latency::service())).unwrap();
    assert_eq!(next.addr(), addr);
}

fn any() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

fn options(cluster: &str, latency: Latency) -> BackendOptions {
    BackendOptions { cluster: cluster.to_owned(), endpoint: "one".to_owned(), latency }
}

/// 200 requests a second for half a second.
fn steady(target: SocketAddr) -> Load {
    Load {
        target,
        host: "shop.example".to_owned(),
        path: "/".to_owned(),
        rate_per_s: 200,
        connections_max: 100,
        duration: Duration::from_millis(500),
        timeout: Duration::from_secs(10),
        headers: vec![("x-test".to_owned(), "yes".to_owned())],
        count_header: Some("X-Cluster".to_owned()),
    }
}

fn load(load: &Load) -> (Summary, Vec<Window>) {
    let mut windows = Vec::new();
    let summary = run(load, &AtomicBool::new(false), |window| windows.push(window.clone())).unwrap();
    (summary, windows)
}
