//! Connections from accept to drain: bounds, pipelining, aborts, load on two workers, and how it all ends.
#![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

mod support;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use config::{ByteSize, Config, HalfClose, Period};
use gateway::observe::stats::Limit;
use support::backend::{Backend, respond};
use support::client::{Client, Cut, To};
use support::table::world;
use support::{Gateway, PATIENCE, config, pass, until};

fn before(backend: &Backend, config: Config) -> Gateway {
    let addr = backend.addr;
    Gateway::start(config, |on| world(&[addr]).on(on))
}

// ---------------------------------------------------------------- requests on one connection

#[test]
fn fifty_pipelined_requests_are_answered_in_order() {
    let backend = Backend::start(|request, stream| respond(stream, request.target().as_bytes()));
    let gateway = before(&backend, config());
    let mut client = Client::connect(gateway.addr);
    for round in 0..3 {
        let all: String = (0..50).map(|n| format!("GET /{round}/{n} HTTP/1.1\r\nHost: a\r\n\r\n")).collect();
        client.send(all);
        for n in 0..50 {
            assert_eq!(client.response().text(), format!("/{round}/{n}"));
        }
    }
    assert_eq!(backend.count(), 150);
}

/// Bodies between them, cut at every place.
#[test]
fn pipelined_bodies_are_taken_apart_wherever_they_are_cut() {
    let backend = Backend::start(|request, stream| respond(stream, &request.body));
    let gateway = before(&backend, config());
    let mut all = Vec::new();
    for n in 0..6 {
        let body = format!("body {n}");
        all.extend(
            format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len()).bytes(),
        );
        all.extend(
            format!("PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nch{n}\r\n0\r\n\r\n")
                .bytes(),
        );
    }
    for step in [1, 7, 64, 100, 333, all.len()] {
        let mut client = Client::connect(gateway.addr);
        for piece in all.chunks(step) {
            client.send(piece);
        }
        for n in 0..6 {
            assert_eq!(client.response().text(), format!("body {n}"), "in pieces of {step}");
            assert_eq!(client.response().text(), format!("ch{n}"), "in pieces of {step}");
        }
    }
}

/// What waits behind a request is bounded; the rest waits with the client and is served in its turn.
#[test]
fn requests_behind_one_that_is_answered_are_held_up_to_a_bound() {
    const COUNT: usize = 2_000;
    for kib in [0, 1, 6, 120] {
        let gate = Arc::new(AtomicBool::new(false));
        let opened = Arc::clone(&gate);
        let backend = Backend::start(move |request, stream| {
            if request.target() == "/first" {
                until("the gate opens", || opened.load(Ordering::SeqCst));
            }
            respond(stream, request.target().as_bytes())
        });
        let mut config = config();
        config.limits.pipeline_bytes_max = ByteSize::kib(kib);
        let gateway = before(&backend, config);
        let received = || gateway.sum(|stats| stats.received_bytes_total.get());
        let mut client = Client::connect(gateway.addr);
        let first = "POST /first HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nb";
        client.send(first);
        until("it is with the backend", || backend.count() == 1);
        let rest: String = (0..COUNT).map(|n| format!("GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n")).collect();
        let bound = (first.len() as u64 + (kib << 10)).min((first.len() + rest.len()) as u64);
        client.send(rest);
        until("as much is held as may be", || received() == bound);
        // Longer than it takes until a waiting client is looked at.
        pass(Duration::from_millis(250));
        assert_eq!(received(), bound, "{kib} KiB: and no more");
        let hits = u64::from(kib > 0 && kib < 120);
        assert_eq!(gateway.hits(Limit::PipelineBytes), hits, "{kib} KiB");
        gate.store(true, Ordering::SeqCst);
        assert_eq!(client.response().text(), "/first");
        for n in 0..COUNT {
            assert_eq!(client.response().text(), format!("/{n}"), "{kib} KiB");
        }
    }
}

#[test]
fn http_1_0_closes_unless_asked_to_keep_the_connection() {
    let backend = Backend::named("ok");
    let gateway = before(&backend, config());
    let mut client = Client::connect(gateway.addr);
    client.send("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(client.response().text(), "ok");
    assert_eq!(client.rest(), (Vec::new(), Cut::Closed));

    let mut client = Client::connect(gateway.addr);
    for _ in 0..3 {
        let response = client.send("GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n").response();
        assert_eq!((response.text().as_str(), response.one("connection")), ("ok", Some("keep-alive")));
    }
    assert!(backend.requests().iter().all(|request| request.line().ends_with("HTTP/1.1")));
}

#[test]
fn connection_close_of_the_client_is_honoured() {
    let backend = Backend::named("ok");
    let gateway = before(&backend, config());
    let mut client = Client::connect(gateway.addr);
    client
        .send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET /more HTTP/1.1\r\nHost: a\r\n\r\n");
    let response = client.response();
    assert_eq!((response.text().as_str(), response.one("connection")), ("ok", Some("close")));
    assert_eq!(client.rest(), (Vec::new(), Cut::Closed));
    assert_eq!(
        backend.only_request().one("connection"),
        None,
        "the upstream connection is the gateway's own"
    );
}

/// The body is asked for once there is an endpoint to send it to, and not when it is not wanted.
#[test]
fn expect_continue_is_answered_when_the_body_is_wanted() {
    let backend = Backend::start(|request, stream| respond(stream, &request.body));
    let gateway = before(&backend, config());
    let mut client = Client::connect(gateway.addr);
    let head = "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    for _ in 0..3 {
        client.send(head);
        assert_eq!(client.head().unwrap(), "HTTP/1.1 100 Continue\r\n\r\n");
        assert_eq!(client.send("hello").response().text(), "hello");
    }
    let nowhere = Gateway::start(config(), |on| world(&[]).on(on));
    let mut client = Client::connect(nowhere.addr);
    let response = client.send(head).response();
    assert_eq!((response.status, response.interim.len()), (503, 0), "no body is asked for in vain");
    assert_eq!(client.rest(), (Vec::new(), Cut::Closed), "and what may still come is not the next request");
}

// ---------------------------------------------------------------- clients that leave

#[test]
fn a_client_that_leaves_cancels_the_upstream() {
    for way in ["close", "reset"] {
        let (left, seen) = mpsc::channel();
        let left = Mutex::new(left);
        let backend = Backend::raw(move |peer| {
            if peer.request().is_some() {
                // No answer: waits until the gateway gives up.
                peer.drained();
                let _ = left.lock().unwrap().send(());
            }
        });
        let gateway = before(&backend, config());
        let mut client = Client::connect(gateway.addr);
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        until("the request is there", || backend.count() == 1);
        match way {
            "close" => drop(client),
            _ => client.abort(),
        }
        seen.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{way}: the upstream was not cancelled"));
        until("it is counted", || gateway.sum(|stats| stats.client_aborts_total.get()) == 1);
        until("nothing is in flight", || gateway.sum(|stats| stats.in_flight.get()) == 0);
        assert_eq!(gateway.sum(|stats| stats.ejections_total.get()), 0);
    }
}

#[test]
fn a_client_that_leaves_in_its_upload_cancels_the_upstream() {
    let (left, seen) = mpsc::channel();
    let left = Mutex::new(left);
    let backend = Backend::raw(move |peer| {
        if peer.head().is_some() {
            peer.drained();
            let _ = left.lock().unwrap().send(());
        }
    });
    let gateway = before(&backend, config());
    let mut client = Client::connect(gateway.addr);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nhalf");
    until("it is there", || backend.bytes() > 0);
    drop(client);
    seen.recv_timeout(PATIENCE).unwrap();
    assert_eq!(backend.count(), 0, "half a body is no request");
}

#[test]
fn a_client_that_leaves_in_its_download_cancels_the_upstream() {
    let (left, seen) = mpsc::channel();
    let left = Mutex::new(left);
    let backend = Backend::raw(move |peer| {
        if peer.request().is_some() {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
            let piece = vec![b'x'; 1 << 16];
            while std::io::Write::write_all(&mut peer.stream, &piece).is_ok() {}
            let _ = left.lock().unwrap().send(());
        }
    });
    let gateway = before(&backend, config());
    let mut client = Client::connect(gateway.addr);
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    client.skip(1 << 20).unwrap();
    drop(client);
    seen.recv_timeout(PATIENCE).unwrap();
    until("nothing is open", || gateway.sum(|stats| stats.connections_open.get()) == 0);
}

/// `http.half_close = "serve"`: a FIN behind a complete request is no farewell, whether the response has begun or not.
#[test]
fn a_client_that_half_closes_is_served_where_it_is_told_so() {
    const SIZE: usize = 8 << 20;
    let gate = Arc::new(AtomicBool::new(false));
    let opened = Arc::clone(&gate);
    let backend = Backend::raw(move |peer| {
        while let Some(request) = peer.request() {
            if request.target() == "/slow" {
                until("the gate opens", || opened.load(Ordering::SeqCst));
            }
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n"));
            peer.send(vec![b'x'; SIZE]);
        }
    });
    let mut config = config();
    config.http.half_close = HalfClose::Serve;
    let gateway = before(&backend, config);
    for request in ["GET /slow HTTP/1.1\r\nHost: a\r\n\r\n", "GET /slow HTTP/1.0\r\n\r\n"] {
        gate.store(false, Ordering::SeqCst);
        let mut client = Client::connect(gateway.addr);
        client.send(request).finish();
        // Longer than it takes until a waiting client is looked at.
        pass(Duration::from_millis(300));
        gate.store(true, Ordering::SeqCst);
        let response = client.response();
        assert_eq!((response.status, response.body.len()), (200, SIZE));
        assert_eq!(client.rest(), (Vec::new(), Cut::Closed));
    }
    // Several before the FIN, and one that comes while the body is on its way.
    let mut client = Client::connect(gateway.addr);
    client.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n").finish();
    assert_eq!((client.response().body.len(), client.response().body.len()), (SIZE, SIZE));
    let mut client = Client::connect(gateway.addr);
    client.send("GET /3 HTTP/1.1\r\nHost: a\r\n\r\n");
    client.head().unwrap();
    client.finish().skip(SIZE as u64).unwrap();
    assert_eq!(gateway.sum(|stats| stats.client_aborts_total.get()), 0);
    until("nothing is open", || gateway.sum(|stats| stats.connections_open.get()) == 0);
}

/// Also there, a client that is really gone cancels the upstream: by its reset at once, else when it is written to.
#[test]
fn a_client_that_leaves_is_noticed_where_half_closing_is_served() {
    for way in ["reset", "close"] {
        let (left, seen) = mpsc::channel();
        let left = Mutex::new(left);
        let backend = Backend::raw(move |peer| {
            if peer.request().is_some() {
                if way == "close" {
                    peer.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
                    let piece = vec![b'x'; 1 << 16];
                    while std::io::Write::write_all(&mut peer.stream, &piece).is_ok() {}
                } else {
                    peer.drained();
                }
                let _ = left.lock().unwrap().send(());
            }
        });
        let mut config = config();
        config.http.half_close = HalfClose::Serve;
        let gateway = before(&backend, config);
        let mut client = Client::connect(gateway.addr);
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        until("the request is there", || backend.count() == 1);
        match way {
            "close" => drop(client),
            _ => client.abort(),
        }
        seen.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{way}: the upstream was not cancelled"));
        until("it is counted", || gateway.sum(|stats| stats.client_aborts_total.get()) == 1);
    }
}

/// By default a FIN is a farewell: of a client that half-closes, too.
#[test]
fn a_client_that_half_closes_counts_as_gone_by_default() {
    let (left, seen) = mpsc::channel();
    let left = Mutex::new(left);
    let backend = Backend::raw(move |peer| {
        if peer.request().is_some() {
            peer.drained();
            let _ = left.lock().unwrap().send(());
        }
    });
    let gateway = before(&backend, config());
    let mut client = Client::connect(gateway.addr);
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").finish();
    seen.recv_timeout(PATIENCE).expect("the upstream is cancelled");
    assert!(client.rest().0.is_empty());
}

// ---------------------------------------------------------------- bounds

#[test]
fn beyond_the_bound_the_oldest_idle_connection_makes_room() {
    let backend = Backend::named("ok");
    let mut config = config();
    config.limits.connections_max = 4;
    config.timeouts.buffer_idle = Period::millis(10);
    let gateway = before(&backend, config);
    let mut idle: Vec<_> = (0..4).map(|_| Client::connect(gateway.addr)).collect();
    for client in &mut idle {
        assert_eq!(client.get("/").status, 200);
        // One after the other into idleness, so that the oldest is known.
        pass(Duration::from_millis(30));
    }
    let mut fresh = Client::connect(gateway.addr);
    assert_eq!(fresh.get("/").status, 200);
    assert_eq!(idle[0].rest(), (Vec::new(), Cut::Closed), "the oldest gave way");
    for client in &mut idle[1..] {
        assert_eq!(client.get("/").status, 200);
    }
    assert_eq!(gateway.hits(Limit::Connections), 1);
}

#[test]
fn beyond_the_bound_and_with_nobody_idle_a_connection_is_answered_503() {
    let (backend, gate) = Backend::gated("done");
    let mut config = config();
    config.limits.connections_max = 2;
    let gateway = before(&backend, config);
    let mut busy: Vec<_> = (0..2).map(|_| Client::connect(gateway.addr)).collect();
    for client in &mut busy {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    until("both are busy", || backend.count() == 2);
    let mut refused = Client::connect(gateway.addr);
    let response = refused.response();
    assert_eq!((response.status, response.one("retry-after")), (503, Some("1")));
    assert!(response.text().contains("connections"));
    assert_eq!(refused.rest().0, b"");
    gate.store(true, Ordering::SeqCst);
    for client in &mut busy {
        assert_eq!(client.response().text(), "done");
    }
}

#[test]
fn one_source_holds_no_more_than_its_share_of_connections() {
    let backend = Backend::named("ok");
    let mut config = config();
    config.limits.connections_per_source_max = 2;
    let gateway = before(&backend, config);
    let mut held: Vec<_> = (0..2).map(|_| Client::connect(gateway.addr)).collect();
    for client in &mut held {
        assert_eq!(client.get("/").status, 200);
    }
    for _ in 0..3 {
        let (bytes, cut) = Client::connect(gateway.addr).rest();
        assert!(bytes.is_empty() && cut != Cut::Late, "closed without a word");
    }
    assert_eq!(gateway.hits(Limit::ConnectionsPerSource), 3);
    held.pop();
    until("there is room again", || {
        Client::connect(gateway.addr).try_get("/").is_ok_and(|r| r.status == 200)
    });
}

#[test]
fn exchanges_in_flight_are_bounded() {
    let (backend, gate) = Backend::gated("done");
    let mut config = config();
    config.limits.exchanges_max = 2;
    let gateway = before(&backend, config);
    let mut busy: Vec<_> = (0..2).map(|_| Client::connect(gateway.addr)).collect();
    for client in &mut busy {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    until("both are busy", || backend.count() == 2);
    let mut third = Client::connect(gateway.addr);
    let response = third.get("/");
    assert_eq!((response.status, response.reason()), (503, "exchanges_max"));
    assert_eq!(response.one("retry-after"), Some("1"));
    // The next request is not lost with the first, and a body that nobody reads is no request.
    third.send("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /second HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((third.response().status, third.response().status), (503, 503));
    let hidden = "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut fourth = Client::connect(gateway.addr);
    fourth.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{hidden}", hidden.len()));
    assert_eq!(fourth.response().reason(), "exchanges_max");
    gate.store(true, Ordering::SeqCst);
    busy.iter_mut().for_each(|client| assert_eq!(client.response().status, 200));
    assert_eq!(fourth.get("/after").text(), "done", "the same connection is served when there is room");
    assert_eq!(third.get("/").status, 200);
    let seen = backend.requests();
    assert!(seen.iter().all(|request| request.target() != "/hidden"), "a body became a request");
}

/// Buffer memory runs out: requests are shed, nothing breaks, and what was lent comes back.
#[test]
fn buffer_memory_is_bounded() {
    let (backend, gate) = Backend::gated("done");
    let mut config = config();
    config.limits.buffers_bytes_max = config::ByteSize::kib(256);
    let gateway = before(&backend, config);
    let mut clients: Vec<_> = (0..40).map(|_| Client::connect(gateway.addr)).collect();
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    until("the bound is hit", || gateway.hits(Limit::BuffersBytes) > 0);
    gate.store(true, Ordering::SeqCst);
    let mut served = 0;
    for client in &mut clients {
        match client.try_response(To::Get) {
            Ok(response) if response.status == 200 => served += 1,
            Ok(response) => assert_eq!(response.status, 503),
            Err(cut) => assert_ne!(cut, Cut::Late),
        }
    }
    assert!(served > 0);
    drop(clients);
    assert_eq!(Client::connect(gateway.addr).get("/").status, 200, "the memory came back");
}

// ---------------------------------------------------------------- two workers

/// 64 keep-alive connections of which four carry most of the load.
#[test]
fn load_spreads_over_workers_by_requests_and_not_by_connections() {
    let backend = Backend::named("ok");
    let mut config = config();
    config.worker.count = 2;
    let gateway = before(&backend, config);
    let stop = AtomicBool::new(false);
    let failed = AtomicU64::new(0);
    let ratio = std::thread::scope(|scope| {
        for n in 0..8 {
            let (stop, failed, addr) = (&stop, &failed, gateway.addr);
            scope.spawn(move || {
                // Each thread drives eight connections, the first of four threads a busy one.
                let mut clients: Vec<_> = (0..8).map(|_| Client::connect(addr)).collect();
                while !stop.load(Ordering::Relaxed) {
                    for (index, client) in clients.iter_mut().enumerate() {
                        let weight = if n < 4 && index == 0 { 40 } else { 1 };
                        for _ in 0..weight {
                            if client.try_get("/").map(|response| response.status) != Ok(200) {
                                failed.fetch_add(1, Ordering::Relaxed);
                                return;
                            }
                        }
                    }
                }
            });
        }
        let ratio = settled_ratio(&gateway);
        stop.store(true, Ordering::Relaxed);
        ratio
    });
    assert_eq!(failed.load(Ordering::Relaxed), 0, "a connection that is handed over loses nothing");
    assert!(ratio <= 1.25, "busiest/least worker = {ratio:.2}");
}

/// The best ratio of requests of the busiest to the least busy worker over any second, once it has had time.
fn settled_ratio(gateway: &Gateway) -> f64 {
    let counts =
        || -> Vec<u64> { gateway.node().stats.iter().map(|stats| stats.requests_total.get()).collect() };
    let deadline = Instant::now() + PATIENCE;
    let mut ratio = f64::MAX;
    while ratio > 1.25 && Instant::now() < deadline {
        let before = counts();
        pass(Duration::from_millis(1_000));
        let mut went: Vec<u64> = counts().iter().zip(&before).map(|(now, then)| now - then).collect();
        went.sort_unstable();
        ratio = went[1] as f64 / went[0].max(1) as f64;
    }
    ratio
}

/// Three busy connections on the same worker: with rebalancing one of them moves, without none does.
#[test]
fn connections_move_only_where_rebalancing_is_on() {
    let backend = Backend::named("ok");
    for rebalance in [true, false] {
        let mut config = config();
        config.worker.count = 2;
        config.worker.rebalance = rebalance;
        let gateway = before(&backend, config);
        let on_first = || gateway.node().stats[0].requests_total.get();
        let mut busy = Vec::new();
        let mut others = Vec::new();
        while busy.len() < 3 {
            let (mut client, before) = (Client::connect(gateway.addr), on_first());
            assert_eq!(client.get("/").status, 200);
            if on_first() > before { busy.push(client) } else { others.push(client) }
        }
        let began = Instant::now();
        let moved = || gateway.sum(|stats| stats.handed_over_total.get());
        let patience = if rebalance { PATIENCE } else { Duration::from_millis(1_200) };
        while moved() == 0 && began.elapsed() < patience {
            for client in &mut busy {
                assert_eq!(client.get("/").status, 200);
            }
        }
        assert_eq!(moved() > 0, rebalance);
        until("what was handed over arrives", || gateway.sum(|stats| stats.adopted_total.get()) == moved());
    }
}

// ---------------------------------------------------------------- the end

#[test]
fn a_drain_finishes_what_is_in_flight_and_nothing_else() {
    let (backend, gate) = Backend::gated("done");
    let gateway = before(&backend, config());
    let mut busy = Client::connect(gateway.addr);
    busy.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let (mut idle, mut untouched) = (Client::connect(gateway.addr), Client::connect(gateway.addr));
    assert_eq!(idle.get("/free").status, 200);
    until("one is in flight, one was", || backend.count() == 2);
    gateway.drain();
    assert_eq!(idle.rest(), (Vec::new(), Cut::Closed), "an idle connection is closed");
    assert_eq!(untouched.rest(), (Vec::new(), Cut::Closed), "so is one that was never used");
    until("new connects are refused", || {
        Client::try_connect(gateway.addr).is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused)
    });
    assert!(!gateway.node().has_ended(), "one exchange is in flight");
    gate.store(true, Ordering::SeqCst);
    let response = busy.response();
    assert_eq!((response.text().as_str(), response.one("connection")), ("done", Some("close")));
    assert_eq!(busy.rest(), (Vec::new(), Cut::Closed));
    drop((idle, untouched, busy));
    gateway.ended();
}

/// What a client sends before it can know of the drain is not lost with its connection (`timeouts.drain_idle`), whether
/// that waits with a buffer or, after `timeouts.buffer_idle`, without.
#[test]
fn a_request_on_an_idle_connection_is_served_although_the_drain_has_begun() {
    for buffer_idle in [Period::secs(60), Period::secs(0)] {
        let backend = Backend::named("ok");
        let mut config = config();
        config.timeouts.buffer_idle = buffer_idle;
        config.timeouts.drain_idle = Period::secs(600);
        let gateway = before(&backend, config);
        let mut clients = [(); 3].map(|()| Client::connect(gateway.addr));
        for client in &mut clients {
            assert_eq!(client.get("/").status, 200);
        }
        gateway.drain();
        until("new connects are refused", || Client::try_connect(gateway.addr).is_err());
        for client in &mut clients {
            let response = client.get("/late");
            assert_eq!(
                (response.status, response.one("connection")),
                (200, Some("close")),
                "{buffer_idle:?}"
            );
            assert_eq!(client.rest(), (Vec::new(), Cut::Closed));
        }
        drop(clients);
        gateway.ended();
    }
}

/// A head that has begun to arrive is in flight, too.
#[test]
fn a_drain_waits_for_a_request_that_has_begun() {
    let backend = Backend::named("ok");
    let gateway = before(&backend, config());
    let mut client = Client::connect(gateway.addr);
    assert_eq!(client.get("/").status, 200);
    client.send("GET /begun HTTP/1.1\r\nHo");
    until("it is read", || gateway.sum(|stats| stats.received_bytes_total.get()) > 60);
    gateway.drain();
    until("new connects are refused", || Client::try_connect(gateway.addr).is_err());
    client.send("st: a\r\n\r\n");
    let response = client.response();
    assert_eq!((response.status, response.one("connection")), (200, Some("close")));
    drop(client);
    gateway.ended();
}

#[test]
fn a_drain_lets_large_downloads_and_tunnels_finish() {
    const SIZE: usize = 32 << 20;
    let backend = Backend::raw(|peer| {
        while let Some(head) = peer.head() {
            if head.one("upgrade").is_some() {
                peer.send(
                    "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
                );
                while let Some(()) = peer.more() {
                    let bytes = peer.take_pending();
                    peer.send(bytes);
                }
                return;
            }
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n"));
            peer.send(vec![b'x'; SIZE]);
        }
    });
    let gateway = before(&backend, config());
    let (mut download, mut tunnel) = (Client::connect(gateway.addr), Client::connect(gateway.addr));
    download.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    download.head().unwrap();
    tunnel.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert!(tunnel.head().unwrap().starts_with("HTTP/1.1 101"));
    gateway.drain();
    until("new connects are refused", || Client::try_connect(gateway.addr).is_err());
    tunnel.send("still");
    assert_eq!(tunnel.exactly(5).unwrap(), b"still");
    download.skip(SIZE as u64).unwrap();
    drop((download, tunnel));
    gateway.ended();
}

/// Past the drain's deadline everything ends, and what is cut is visibly cut.
#[test]
fn a_stop_cuts_what_is_left() {
    let (backend, gate) = Backend::gated("done");
    let gateway = before(&backend, config());
    let mut busy = Client::connect(gateway.addr);
    busy.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    until("it is in flight", || backend.count() == 1);
    gateway.drain();
    gateway.node().peers.stop();
    gateway.ended();
    gate.store(true, Ordering::SeqCst);
}

/// Connections that were accepted by the kernel before the drain are served.
#[test]
fn connects_in_the_queue_are_served_when_a_drain_begins() {
    let backend = Backend::named("ok");
    for _ in 0..5 {
        let gateway = before(&backend, config());
        let clients: Vec<_> = (0..100)
            .map(|_| {
                let mut client = Client::connect(gateway.addr);
                client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
                client
            })
            .collect();
        gateway.drain();
        for mut client in clients {
            assert_eq!(client.response().status, 200);
        }
        gateway.ended();
    }
}
