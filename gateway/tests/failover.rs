//! When an endpoint or a cluster fails: who answers, how often a request is executed, and what it costs.
#![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

mod support;

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use config::ByteSize;
use gateway::observe::stats::Limit;
use routing::id::{ClusterId, NodeId, ZoneId};
use routing::model::{BackendLimits, Balance, HedgeMode, Pin, PinMatch};
use support::backend::{Backend, Request, Then, respond};
use support::client::Client;
use support::table::{World, world};
use support::{Gateway, PATIENCE, Port, config, until};

fn start(world: World) -> Gateway {
    Gateway::start(config(), |on| world.on(on))
}

/// Never ejects and always may retry: for claims about single requests.
fn patient(world: World) -> World {
    world.undetected().policy(|policy| {
        policy.outlier.consecutive_failures = 0;
        policy.retry.budget_percent = 100;
        policy.balance = Balance::RoundRobin;
    })
}

/// Takes a request and resets without an answer.
fn resetting() -> Backend {
    Backend::start(|_, _| Then::Reset)
}

fn executions(backends: &[&Backend]) -> HashMap<String, u64> {
    let mut counts = HashMap::new();
    for request in backends.iter().flat_map(|backend| backend.requests()) {
        *counts.entry(request.target().to_owned()).or_default() += 1;
    }
    counts
}

#[test]
fn a_refused_connect_moves_to_the_next_endpoint_and_then_to_the_next_cluster() {
    let dead = [Port::reserve(), Port::reserve()];
    let (near, far) = (Backend::named("near"), Backend::named("far"));
    let gateway = start(patient(World::new().cluster(0, &[dead[0].addr, near.addr]).cluster(1, &[far.addr])));
    let mut client = Client::connect(gateway.addr);
    for _ in 0..20 {
        assert_eq!(
            client.get("/").text(),
            "near",
            "while an active endpoint serves, the standby gets nothing"
        );
    }
    assert_eq!((near.count(), far.count()), (20, 0));
    assert!(gateway.sum(|stats| stats.moves_total.get()) > 0);
    assert_eq!(gateway.sum(|stats| stats.retries_total.get()), 0, "never sent: free of charge");

    let gateway =
        start(patient(World::new().cluster(0, &[dead[0].addr, dead[1].addr]).cluster(1, &[far.addr])));
    let mut client = Client::connect(gateway.addr);
    for path in ["GET", "POST"] {
        client.send(format!("{path} / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"));
        assert_eq!(client.response().text(), "far", "{path}");
    }
    assert!(far.requests().iter().all(|request| request.body == b"hi"));
}

/// Which endpoints, named `ZONE/NODE`, a request meets one after the other when all of cluster 0 fails: three requests'
/// journeys, the last stop of each in cluster 1.
fn journeys(names: &[&str]) -> Vec<Vec<String>> {
    let met = Arc::<Mutex<HashMap<String, Vec<String>>>>::default();
    let note = |name: &str, status: u16| {
        let (met, name) = (Arc::clone(&met), name.to_owned());
        Backend::start(move |request, stream| {
            met.lock().unwrap().entry(request.target().to_owned()).or_default().push(name.clone());
            let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{name}", name.len());
            // The other side may be gone.
            let _ = stream.write_all(answer.as_bytes());
            Then::Keep
        })
    };
    let failing: Vec<Backend> = names.iter().map(|name| note(name, 503)).collect();
    let far = note("far", 200);
    let addrs: Vec<_> = failing.iter().map(|backend| backend.addr).collect();
    let world = patient(World::new().cluster(0, &addrs).cluster(1, &[far.addr]));
    let mut gateway = start(world.policy(|policy| policy.retry.statuses = [503].into()));
    gateway.change(|table| {
        for (endpoint, name) in table.endpoints.values_mut().zip(names) {
            let (zone, node) = name.split_once('/').unwrap();
            (endpoint.zone, endpoint.node) = (ZoneId(zone.parse().unwrap()), NodeId(node.parse().unwrap()));
        }
    });
    let mut client = Client::connect(gateway.addr);
    // Two attempts more for each: the budget's reserve has that many.
    for n in 0..3 {
        assert_eq!(client.get(&format!("/{n}")).text(), "far");
    }
    let met = met.lock().unwrap();
    (0..3).map(|n| met[&format!("/{n}")].clone()).collect()
}

#[test]
fn an_attempt_avoids_what_the_failure_before_it_implicates_endpoint_node_zone_and_then_the_cluster() {
    let part = |name: &str, nth: usize| name.split('/').nth(nth).unwrap().to_owned();
    // Another zone, while there is one; after two failures another cluster, though endpoints are left.
    for journey in journeys(&["1/1", "1/1", "1/2", "2/3"]) {
        assert_eq!((journey.len(), journey[2].as_str()), (3, "far"), "{journey:?}");
        assert_ne!(part(&journey[0], 0), part(&journey[1], 0), "another zone: {journey:?}");
    }
    // Else another node; else another endpoint; else another cluster.
    for journey in journeys(&["1/1", "1/1", "1/2"]) {
        assert_eq!((journey.len(), journey[2].as_str()), (3, "far"), "{journey:?}");
        assert_ne!(part(&journey[0], 1), part(&journey[1], 1), "another node: {journey:?}");
    }
    for journey in journeys(&["1/1", "1/1"]) {
        assert_eq!(journey, ["1/1", "1/1", "far"], "another endpoint");
    }
    for journey in journeys(&["1/1"]) {
        assert_eq!(journey, ["1/1", "far"], "another cluster");
    }
}

/// A storm of failures is not one of connects: each closed connection would hold its port for a minute.
#[test]
fn connections_that_answered_a_failure_are_used_again() {
    let answers = [
        "HTTP/1.1 503 No\r\nContent-Length: 4\r\n\r\nbusy",
        "HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbusy\r\n0\r\n\r\n",
        "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n",
    ];
    for answer in answers {
        assert_eq!(connects_past(answer, 8), 2, "one connection to each: {answer}");
    }
}

/// What is not complete, or says that it closes, is not kept.
#[test]
fn connections_whose_failure_is_not_over_are_not_used_again() {
    let answers = [
        "HTTP/1.1 503 No\r\nContent-Length: 9\r\n\r\nbusy",
        "HTTP/1.1 503 No\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbusy",
        "HTTP/1.1 503 No\r\nContent-Length: 4\r\n\r\nbusy and more",
    ];
    for answer in answers {
        assert_eq!(connects_past(answer, 5), 6, "{answer}");
    }
}

/// How many connections the gateway opens for so many requests that an endpoint answers like this, and another well.
fn connects_past(answer: &str, requests: u64) -> u64 {
    let bad = Backend::answering(answer, Then::Keep);
    let good = Backend::named("good");
    let world = patient(World::new().cluster(0, &[bad.addr]).cluster(1, &[good.addr]));
    let gateway = start(world.policy(|policy| policy.retry.statuses = [503].into()));
    let mut client = Client::connect(gateway.addr);
    for n in 0..requests {
        assert_eq!(client.get(&format!("/{n}")).text(), "good", "{answer}");
    }
    assert_eq!(bad.count(), requests, "{answer}");
    gateway.sum(|stats| stats.connects_total.get())
}

/// `hedge.mode: Always`: an answer that takes longer than is usual is asked for a second time, and the price is told.
#[test]
fn a_tail_is_cut_in_peace_and_each_second_attempt_is_counted() {
    let (slow, answered) = (Arc::<Mutex<HashSet<String>>>::default(), Arc::<AtomicU64>::default());
    let backends = [(); 2].map(|()| {
        let (slow, answered) = (Arc::clone(&slow), Arc::clone(&answered));
        Backend::start(move |request, stream| {
            // The first that gets it answers after the second has: late, but not hung.
            let number = request.target().strip_prefix("/slow/").map(|n| n.parse::<u64>().unwrap());
            if let Some(n) = number.filter(|_| slow.lock().unwrap().insert(request.target().to_owned())) {
                until("the client has its answer", || answered.load(Ordering::SeqCst) > n);
            }
            respond(stream, b"ok")
        })
    });
    let world = world(&backends.each_ref().map(|backend| backend.addr));
    let gateway = start(world.policy(|policy| {
        policy.hedge = HedgeMode::Always;
        policy.balance = Balance::RoundRobin;
        // On a busy machine many of the first requests have a tail, too: there is to be enough for those that count.
        policy.retry.budget_percent = 100;
    }));
    let mut client = Client::connect(gateway.addr);
    (0..300).for_each(|_| assert_eq!(client.get("/").text(), "ok"));
    let (count, executed) =
        (|| gateway.sum(|stats| stats.hedges_total.get()), || backends.iter().map(Backend::count));
    let (hedges, executions) = (count(), executed().sum::<u64>());
    for n in 0..3 {
        assert_eq!(client.get(&format!("/slow/{n}")).text(), "ok");
        answered.store(n + 1, Ordering::SeqCst);
    }
    // On a busy machine a third attempt may be due before the second has its answer.
    assert!(count() - hedges >= 3);
    until("what it cost is what is counted", || {
        executed().sum::<u64>() - executions == 3 + (count() - hedges)
    });
    assert!(gateway.sum(|stats| stats.hedges_won_total.get()) >= 3);
}

#[test]
fn a_reset_before_the_response_is_tried_again_for_get() {
    let (bad, good) = (resetting(), Backend::named("good"));
    let gateway = start(patient(world(&[bad.addr, good.addr])));
    let mut client = Client::connect(gateway.addr);
    for n in 0..40 {
        assert_eq!(client.get(&format!("/{n}")).text(), "good");
    }
    assert!(bad.count() > 0);
    // A probe may find it refusing while a request is there: that one is moved before its reset comes.
    assert_eq!(gateway.sum(|stats| stats.retries_total.get() + stats.hedges_total.get()), bad.count());
}

#[test]
fn every_way_of_failing_before_the_response_is_tried_again_for_get() {
    let ways: [(&str, Backend); 5] = [
        ("closes", Backend::start(|_, _| Then::Close)),
        ("half a head", Backend::answering("HTTP/1.1 200 OK\r\nContent-Le", Then::Close)),
        ("not HTTP", Backend::answering("SSH-2.0-x\r\n\r\n", Then::Close)),
        ("interim only", Backend::answering("HTTP/1.1 103 Early Hints\r\n\r\n", Then::Reset)),
        ("closes at accept", Backend::raw(|peer| peer.reset())),
    ];
    for (name, bad) in ways {
        let good = Backend::named("good");
        let gateway = start(patient(World::new().cluster(0, &[bad.addr]).cluster(1, &[good.addr])));
        let mut client = Client::connect(gateway.addr);
        for _ in 0..3 {
            assert_eq!(client.get("/").text(), "good", "{name}");
        }
    }
}

#[test]
fn a_post_is_never_executed_twice() {
    let (bad, good) = (resetting(), Backend::named("good"));
    let gateway = start(patient(world(&[bad.addr, good.addr])));
    let mut statuses = HashMap::<u16, u64>::new();
    for n in 0..40 {
        for method in ["POST", "PATCH", "CUSTOM"] {
            let mut client = Client::connect(gateway.addr);
            client.send(format!("{method} /{method}{n} HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"));
            *statuses.entry(client.response().status).or_default() += 1;
        }
    }
    assert!(executions(&[&bad, &good]).values().all(|count| *count == 1), "{:?}", executions(&[&bad, &good]));
    assert_eq!(statuses.get(&502).copied(), Some(bad.count()), "what may have been processed is reported");
    assert_eq!(statuses.get(&200).copied(), Some(good.count()));
}

/// A body that was sent to one endpoint is sent again in full to the next, however it was framed and cut.
#[test]
fn a_body_within_the_bound_is_replayed_byte_for_byte() {
    let good = Backend::start(|request, stream| respond(stream, request.body.len().to_string().as_bytes()));
    let bad = resetting();
    let gateway =
        start(patient(World::new().cluster(0, &[bad.addr]).cluster(1, &[good.addr])).policy(|policy| {
            policy.retry.body_bytes_max = 1 << 20;
        }));
    let pattern: Vec<u8> = (0..=250_u8).cycle().take(900_000).collect();
    for size in [1, 3_000, 10_000, 60_000, 131_000, 131_072, 300_000, 900_000] {
        for chunked in [false, true] {
            let body = &pattern[..size];
            let mut client = Client::connect(gateway.addr);
            if chunked {
                client.send("PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
                for piece in body.chunks(70_001) {
                    client.send(format!("{:x}\r\n", piece.len())).send(piece).send("\r\n");
                }
                client.send("0\r\nX-T: 1\r\n\r\n");
            } else {
                client
                    .send(format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n"))
                    .send(body);
            }
            let response = client.response();
            assert_eq!((response.status, response.text()), (200, size.to_string()), "chunked {chunked}");
            let last = good.requests().pop().unwrap();
            assert!(last.body == body, "{size} bytes, chunked {chunked}: the body was changed");
            assert_eq!(last.trailers, if chunked { "X-T: 1\n" } else { "" });
            assert_eq!(client.get("/after").status, 200, "the client's connection goes on");
        }
    }
    assert!(bad.count() > 0);
}

#[test]
fn a_body_over_the_bound_is_not_replayed_in_part() {
    for framing in ["Content-Length", "chunked"] {
        let (bad, good) = (resetting(), Backend::named("good"));
        let gateway =
            start(patient(World::new().cluster(0, &[bad.addr]).cluster(1, &[good.addr])).policy(|policy| {
                policy.retry.body_bytes_max = 10_000;
            }));
        let mut client = Client::connect(gateway.addr);
        let body = "x".repeat(20_000);
        if framing == "chunked" {
            client.send("PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
            let _ = client.try_send(format!("4e20\r\n{body}\r\n0\r\n\r\n"));
        } else {
            client.send("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 20000\r\n\r\n");
            let _ = client.try_send(&body);
        }
        let response = client.response();
        assert_eq!(response.status, 502, "{framing}");
        assert_eq!(good.count(), 0);
        assert_eq!(gateway.hits(Limit::RetryBodyBytes), 1);
    }
}

/// A connect that fails has taken nothing: any body moves on, whatever the bounds on kept bodies.
#[test]
fn a_body_that_cannot_be_kept_still_survives_a_refused_connect() {
    let dead = Port::reserve();
    let good = Backend::named("good");
    let mut config = config();
    config.limits.retry_bodies_bytes_max = ByteSize::new(100);
    let world = patient(World::new().cluster(0, &[dead.addr]).cluster(1, &[good.addr]));
    let gateway = Gateway::start(config, |on| world.on(on));
    let body = "y".repeat(2_000);
    for method in ["POST", "PUT"] {
        let mut client = Client::connect(gateway.addr);
        client.send(format!("{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: 2000\r\n\r\n{body}"));
        assert_eq!(client.response().status, 200, "{method}");
    }
    assert!(good.requests().iter().all(|request| request.body == body.as_bytes()));
}

/// A backend that closes each connection a moment after its response, without saying so.
#[test]
fn the_keep_alive_race_fails_no_get_and_ejects_nobody() {
    let backend = Backend::start(|_, stream| {
        respond(stream, b"ok");
        Then::Close
    });
    let gateway = start(world(&[backend.addr]));
    let failed = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = Client::connect(gateway.addr);
                for _ in 0..250 {
                    match client.try_get("/") {
                        Ok(response) if response.status == 200 => {}
                        Ok(_) | Err(_) => {
                            failed.fetch_add(1, Ordering::Relaxed);
                            client = Client::connect(gateway.addr);
                        }
                    }
                }
            });
        }
    });
    assert_eq!(failed.load(Ordering::Relaxed), 0);
    assert_eq!(
        gateway.sum(|stats| stats.ejections_total.get()),
        0,
        "closing an idle connection is no failure"
    );
}

#[test]
fn consecutive_failures_take_an_endpoint_out_and_it_comes_back() {
    let broken = Arc::new(AtomicBool::new(true));
    let state = Arc::clone(&broken);
    let sick =
        Backend::start(
            move |_, stream| {
                if state.load(Ordering::SeqCst) { Then::Reset } else { respond(stream, b"sick") }
            },
        );
    let well = Backend::named("well");
    let gateway = start(world(&[sick.addr, well.addr]).undetected().policy(|policy| {
        policy.retry.budget_percent = 100;
        policy.balance = Balance::RoundRobin;
        policy.outlier.consecutive_failures = 3;
        policy.outlier.base = Duration::from_millis(500);
    }));
    let mut client = Client::connect(gateway.addr);
    until("it is taken out", || {
        let before = sick.count();
        (0..20).for_each(|_| assert_eq!(client.get("/").text(), "well"));
        before > 0 && sick.count() == before
    });
    assert!(sick.count() <= 3, "three failures in a row are enough: {}", sick.count());
    broken.store(false, Ordering::SeqCst);
    until("it is used again", || client.get("/").text() == "sick");
}

/// Everything resets: what was executed is bounded by the budget, and nothing hangs.
#[test]
fn when_all_endpoints_fail_executions_stay_within_the_budget() {
    let all = [resetting(), resetting(), resetting(), resetting()];
    let gateway =
        start(World::new().cluster(0, &[all[0].addr, all[1].addr]).cluster(1, &[all[2].addr, all[3].addr]));
    let began = Instant::now();
    let mut client = Client::connect(gateway.addr);
    for n in 0..300 {
        assert_eq!(client.get(&format!("/{n}")).status, 502);
    }
    let executed: u64 = all.iter().map(Backend::count).sum();
    // 20 %, and the reserve of this one worker: a second's worth at the start, and 10 a second from then on.
    let reserve = 10 + 10 * (1 + u64::try_from(began.elapsed().as_millis()).unwrap() / 1_000) + 2;
    assert!(executed <= 300 + 60 + reserve, "{executed} executions of 300 requests");
    assert!(gateway.hits(Limit::RetryBudget) > 0);
}

#[test]
fn when_nothing_listens_the_answer_comes_at_once() {
    let dead = [Port::reserve(), Port::reserve()];
    let gateway = start(World::new().cluster(0, &[dead[0].addr]).cluster(1, &[dead[1].addr]));
    let mut client = Client::connect(gateway.addr);
    for _ in 0..50 {
        let response = client.get("/");
        assert_eq!((response.status, response.reason()), (502, "connect_refused"));
    }
    let none = start(world(&[]));
    let response = Client::connect(none.addr).get("/");
    assert_eq!((response.status, response.reason()), (503, "no_usable_endpoint"));
    assert_eq!(response.one("retry-after"), Some("1"));
}

#[test]
fn listed_statuses_are_tried_elsewhere_and_the_last_one_is_forwarded() {
    let busy = "HTTP/1.1 503 Service Unavailable\r\nX-Who: backend\r\nContent-Length: 4\r\n\r\nbusy";
    let (a, b) = (Backend::answering(busy, Then::Keep), Backend::answering(busy, Then::Keep));
    let good = Backend::named("good");
    let listed = |world: World| patient(world).policy(|policy| policy.retry.statuses = Box::new([503]));
    let gateway = start(listed(World::new().cluster(0, &[a.addr]).cluster(1, &[good.addr])));
    let mut client = Client::connect(gateway.addr);
    for _ in 0..10 {
        assert_eq!(client.get("/").text(), "good");
    }
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    let response = client.response();
    assert_eq!(
        (response.status, response.text().as_str()),
        (503, "busy"),
        "a POST was executed: its answer stands"
    );

    let gateway = start(listed(World::new().cluster(0, &[a.addr]).cluster(1, &[b.addr])));
    let response = Client::connect(gateway.addr).get("/");
    assert_eq!(
        (response.status, response.one("x-who")),
        (503, Some("backend")),
        "all agree: the answer stands"
    );

    // The budget does not turn a backend's status into another one.
    let spent = start(World::new().cluster(0, &[a.addr]).cluster(1, &[b.addr]).policy(|policy| {
        policy.retry.statuses = Box::new([503]);
        policy.retry.budget_percent = 0;
    }));
    let mut client = Client::connect(spent.addr);
    for _ in 0..60 {
        assert_eq!(client.get("/").status, 503);
    }
    assert!(spent.hits(Limit::RetryBudget) > 0);
}

/// `retry.nonIdempotent` is the consent for listed statuses, too, and for a body that is kept.
#[test]
fn a_post_is_tried_elsewhere_for_a_listed_status_where_the_policy_consents() {
    let busy = Backend::start(|request, stream| match request.body.len() {
        0 => Then::Close,
        _ => match stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy") {
            Ok(()) => Then::Keep,
            Err(_) => Then::Close,
        },
    });
    let good = Backend::named("good");
    let consents = patient(World::new().cluster(0, &[busy.addr]).cluster(1, &[good.addr])).policy(|policy| {
        policy.retry.statuses = Box::new([503]);
        policy.retry.non_idempotent = true;
        policy.retry.body_bytes_max = 1_000;
    });
    let gateway = start(consents);
    let mut client = Client::connect(gateway.addr);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
    let response = client.response();
    assert_eq!((response.status, response.text().as_str()), (200, "good"));
    let seen = good.requests();
    assert_eq!((seen.len(), &seen[0].body[..]), (1, &b"hello"[..]), "the body went with it");
    // What is not kept cannot be sent again: the answer stands.
    let large = "x".repeat(100_000);
    client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{large}", large.len()));
    let response = client.response();
    assert_eq!((response.status, response.text().as_str()), (503, "busy"));
    assert_eq!((busy.count(), good.count()), (2, 1));
}

fn pinned(strict: bool) -> World {
    World::new().policy(|policy| {
        let when = PinMatch::Header("x-cluster".into(), "beta".into());
        policy.pins = Box::new([Pin { when, cluster: ClusterId(1), strict }]);
    })
}

#[test]
fn a_pin_holds_and_falls_back_unless_strict() {
    let (alpha, mut beta) = (Backend::named("alpha"), Backend::named("beta"));
    let pin = "GET / HTTP/1.1\r\nHost: a\r\nX-Cluster: beta\r\n\r\n";
    let clusters = |world: World| world.cluster(0, &[alpha.addr]).cluster(1, &[beta.addr]);
    let (strict, loose) = (start(clusters(pinned(true))), start(clusters(pinned(false))));
    let mut clients = [Client::connect(strict.addr), Client::connect(loose.addr)];
    for client in &mut clients {
        assert_eq!(client.send(pin).response().text(), "beta", "although it is the standby");
        assert_eq!(client.get("/").text(), "alpha");
    }
    beta.kill();
    assert_eq!(clients[1].send(pin).response().text(), "alpha");
    let response = clients[0].send(pin).response();
    assert!(matches!(response.status, 502 | 503), "{}", response.head);
    let mut strict = strict;
    strict.change(|table| table.endpoints.retain(|_, endpoint| endpoint.cluster == ClusterId(0)));
    let response = clients[0].send(pin).response();
    assert_eq!((response.status, response.reason()), (503, "pinned_cluster_unavailable"));
}

#[test]
fn a_cluster_that_dies_under_load_fails_no_get() {
    let mut dying = [Backend::named("a"), Backend::named("a")];
    let standby = [Backend::named("b"), Backend::named("b")];
    let gateway = start(
        World::new()
            .cluster(0, &[dying[0].addr, dying[1].addr])
            .cluster(1, &[standby[0].addr, standby[1].addr])
            .policy(|policy| policy.outlier.base = Duration::from_millis(200)),
    );
    let (failed, served, stop) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = Client::connect(gateway.addr);
                while !stop.load(Ordering::Relaxed) {
                    match client.try_get("/") {
                        Ok(response) if response.status == 200 => served.fetch_add(1, Ordering::Relaxed),
                        Ok(_) | Err(_) => {
                            client = Client::connect(gateway.addr);
                            failed.fetch_add(1, Ordering::Relaxed)
                        }
                    };
                }
            });
        }
        until("the active side serves", || dying.iter().all(|backend| backend.count() > 50));
        assert_eq!(standby[0].count() + standby[1].count(), 0);
        dying.iter_mut().for_each(Backend::kill);
        until("the standby serves", || standby.iter().all(|backend| backend.count() > 100));
        dying.iter_mut().for_each(Backend::revive);
        let (back, away) = (dying[0].count(), standby[0].count());
        until("the active side serves again", || dying[0].count() > back + 100);
        assert!(standby[0].count() >= away);
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(failed.load(Ordering::Relaxed), 0, "of {}", served.load(Ordering::Relaxed));
}

/// The backend hangs: after the request's time there is an answer and no further attempt.
#[test]
fn the_request_timeout_ends_everything() {
    let (_open, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let hangs = Backend::start(move |_, _| {
        let _ = gate.lock().unwrap().recv_timeout(PATIENCE);
        Then::Close
    });
    let other = Backend::named("other");
    let gateway =
        start(patient(World::new().cluster(0, &[hangs.addr]).cluster(1, &[other.addr])).policy(|policy| {
            policy.timeouts.request = Duration::from_millis(200);
        }));
    let began = Instant::now();
    let response = Client::connect(gateway.addr).get("/");
    assert_eq!((response.status, response.reason()), (504, "upstream_timeout"));
    assert!((200..2_000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    assert_eq!(other.connections(), 0, "no time was left for another attempt");
    drop(gateway);
    drop(_open);
}

#[test]
fn the_attempt_timeout_moves_a_get_on() {
    let (open, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let hangs = Backend::start(move |_, _| {
        let _ = gate.lock().unwrap().recv_timeout(PATIENCE);
        Then::Close
    });
    let other = Backend::named("other");
    let gateway =
        start(patient(World::new().cluster(0, &[hangs.addr]).cluster(1, &[other.addr])).policy(|policy| {
            policy.timeouts.attempt = Duration::from_millis(150);
        }));
    let mut client = Client::connect(gateway.addr);
    assert_eq!(client.get("/").text(), "other");
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi");
    assert_eq!(client.response().status, 504, "a POST may have been processed");
    drop(open);
}

/// Our own bound is no evidence against an endpoint.
#[test]
fn too_many_connects_at_once_are_shed_and_eject_nobody() {
    let backend = Backend::named("ok");
    let mut config = config();
    config.pool.pending_per_endpoint_max = 0;
    let gateway = Gateway::start(config, |on| world(&[backend.addr]).on(on));
    let mut client = Client::connect(gateway.addr);
    for _ in 0..10 {
        let response = client.get("/");
        assert_eq!((response.status, response.one("retry-after")), (503, Some("1")), "{}", response.head);
    }
    assert_eq!(gateway.sum(|stats| stats.ejections_total.get()), 0);
    assert!(gateway.hits(Limit::EndpointPending) >= 10);
}

#[test]
fn requests_in_flight_on_endpoints_and_backends_are_bounded() {
    for (limits, limit, reason) in [
        (
            BackendLimits { endpoint_in_flight_max: 2, backend_in_flight_max: 0 },
            Limit::EndpointInFlight,
            "endpoint_in_flight_max",
        ),
        (
            BackendLimits { endpoint_in_flight_max: 0, backend_in_flight_max: 2 },
            Limit::BackendInFlight,
            "backend_in_flight_max",
        ),
    ] {
        let (backend, gate) = Backend::gated("ok");
        let gateway = start(world(&[backend.addr]).limits(limits));
        let mut held: Vec<_> = (0..2).map(|_| Client::connect(gateway.addr)).collect();
        for client in &mut held {
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        }
        until("both are there", || backend.count() == 2);
        let mut third = Client::connect(gateway.addr);
        let response = third.get("/");
        assert_eq!((response.status, response.reason()), (503, reason));
        assert_eq!(response.one("retry-after"), Some("1"));
        assert_eq!(gateway.hits(limit), 1);
        gate.store(true, Ordering::SeqCst);
        for client in &mut held {
            assert_eq!(client.response().status, 200);
        }
        assert_eq!(third.get("/").status, 200, "there is room again");
    }
}

/// Endpoints that come and go while requests run.
#[test]
fn endpoints_that_are_removed_finish_what_they_have() {
    let gate = Arc::new(AtomicBool::new(false));
    let opened = Arc::clone(&gate);
    let old = Backend::start(move |request: &Request, stream| {
        if request.target() == "/slow" {
            until("the gate opens", || opened.load(Ordering::SeqCst));
        }
        respond(stream, b"old")
    });
    let new = Backend::named("new");
    let mut gateway = start(world(&[old.addr]));
    let mut client = Client::connect(gateway.addr);
    assert_eq!(client.get("/").text(), "old");
    client.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    until("it is there", || old.count() == 2);
    let addr = new.addr;
    gateway.change(|table| {
        table.endpoints.clear();
        table.endpoints.insert(routing::id::EndpointId(7), support::table::spec_of(ClusterId(0), addr));
    });
    let mut other = Client::connect(gateway.addr);
    for _ in 0..5 {
        assert_eq!(other.get("/").text(), "new");
    }
    gate.store(true, Ordering::SeqCst);
    assert_eq!(client.response().text(), "old", "in flight on a removed endpoint");
    assert_eq!(client.get("/").text(), "new");
    assert_eq!(old.count(), 2);
}
