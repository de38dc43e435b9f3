//! What a failover policy promises beyond moving requests: capacity, write fence, active checks.
#![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

mod support;

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use gateway::observe::stats::Limit;
use routing::id::ClusterId;
use routing::model::{CheckProbe, HealthCheck, HostRules, PathMatch, Protocol, WriteFence};
use support::backend::{Backend, respond};
use support::client::Client;
use support::table::World;
use support::{Gateway, Port, config, until};

#[test]
fn what_moves_to_a_standby_beyond_its_capacity_is_shed_with_retry_after() {
    let dead = Port::reserve();
    let (standby, gate) = Backend::gated("standby");
    let world = World::new().cluster(0, &[dead.addr]).cluster(1, &[standby.addr]).undetected();
    let mut gateway = Gateway::start(config(), |on| world.on(on));
    gateway.change(|table| {
        Arc::make_mut(table.clusters.get_mut(&ClusterId(1)).unwrap()).in_flight_max = 2;
    });
    let mut waiting: Vec<Client> = (0..2).map(|_| Client::connect(gateway.addr)).collect();
    for client in &mut waiting {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    until("the standby is full", || standby.count() == 2);
    let mut third = Client::connect(gateway.addr);
    let response = third.get("/");
    assert_eq!((response.status, response.one("retry-after")), (503, Some("1")), "{}", response.head);
    assert_eq!(response.reason(), "cluster_in_flight_max");
    assert_eq!(gateway.hits(Limit::BackendInFlight), 1);
    gate.store(true, Ordering::SeqCst);
    for client in &mut waiting {
        assert_eq!(client.response().text(), "standby");
    }
    assert_eq!(third.get("/").text(), "standby", "there is room again");
}

/// Of ten places four fifths are for routes of the lowest priority while a higher one is in use.
#[test]
fn routes_of_lower_priority_are_shed_first_when_a_standby_fills_up() {
    // A priority counts for a second after its last request: a machine that takes longer tells nothing, and tries again.
    let told = (0..20).any(|_| is_lower_priority_shed_first());
    assert!(told, "never within a second");
}

fn is_lower_priority_shed_first() -> bool {
    let dead = Port::reserve();
    let (standby, gate) = Backend::gated("standby");
    let world = World::new()
        .cluster(0, &[dead.addr])
        .cluster(1, &[standby.addr])
        .undetected()
        .rule(PathMatch::Prefix("/gold".into()), |_| {});
    let mut gateway = Gateway::start(config(), |on| world.on(on));
    gateway.change(|table| {
        Arc::make_mut(table.clusters.get_mut(&ClusterId(1)).unwrap()).in_flight_max = 10;
        for rules in table.hosts.values_mut() {
            let mut edited = rules.rules.clone();
            let gold = edited.first_mut().unwrap();
            let action = Arc::make_mut(&mut gold.action);
            Arc::make_mut(&mut action.policy).route_priority = 10;
            *rules = Arc::new(HostRules::new(edited));
        }
    });
    let mut waiting = Vec::new();
    let mut fill = |path: &str, count: u64| {
        for _ in 0..count {
            let mut client = Client::connect(gateway.addr);
            client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
            waiting.push(client);
        }
        let all = waiting.len() as u64;
        until("they are there", || standby.count() == all);
    };
    fill("/", 7);
    let seen = Instant::now();
    fill("/gold", 1);
    let mut plain = Client::connect(gateway.addr);
    plain.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    until("it is shed or served", || gateway.hits(Limit::BackendInFlight) == 1 || standby.count() == 9);
    let in_time = seen.elapsed() < Duration::from_secs(1);
    if in_time {
        let response = plain.response();
        assert_eq!((response.status, response.reason()), (503, "cluster_in_flight_max"), "{}", response.head);
        assert_eq!(response.one("retry-after"), Some("1"));
        fill("/gold", 2);
        let response = Client::connect(gateway.addr).get("/gold");
        assert_eq!((response.status, response.reason()), (503, "cluster_in_flight_max"), "all ten are taken");
    }
    gate.store(true, Ordering::SeqCst);
    for client in &mut waiting {
        assert_eq!(client.response().text(), "standby");
    }
    in_time
}

#[test]
fn writes_wait_for_the_promotion_of_the_standby_and_reads_do_not() {
    let dead = Port::reserve();
    let standby = Backend::named("standby");
    let world = World::new()
        .cluster(0, &[dead.addr])
        .cluster(1, &[standby.addr])
        .policy(|policy| policy.write_fence = WriteFence::UntilPromoted);
    let mut gateway = Gateway::start(config(), |on| world.on(on));
    let mut client = Client::connect(gateway.addr);
    let post = "POST /write HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi";
    for _ in 0..3 {
        assert_eq!(client.get("/").text(), "standby");
        let response = client.send(post).response();
        assert_eq!((response.status, response.reason()), (503, "write_fenced"));
        assert_eq!(response.one("retry-after"), Some("1"));
    }
    assert!(standby.requests().iter().all(|request| request.head.starts_with("GET")));
    gateway.change(|table| {
        Arc::make_mut(table.clusters.get_mut(&ClusterId(1)).unwrap()).promoted = true;
    });
    assert_eq!(client.send(post).response().text(), "standby");
}

/// An endpoint whose application says that it is unwell, and serves all the same.
#[test]
fn active_checks_take_an_endpoint_out_and_are_made_once_whatever_the_number_of_workers() {
    let (is_well, checks) = (Arc::new(AtomicBool::new(true)), Arc::<AtomicU64>::default());
    let (says_well, counted) = (Arc::clone(&is_well), Arc::clone(&checks));
    let active = Backend::raw(move |peer| {
        while let Some(request) = peer.request() {
            if request.target() != "/healthz" {
                respond(&mut peer.stream, b"active");
                continue;
            }
            counted.fetch_add(1, Ordering::SeqCst);
            let status = if says_well.load(Ordering::SeqCst) { "200 OK" } else { "503 No" };
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
            // The other side may be gone.
            let _ = peer.stream.write_all(answer.as_bytes());
        }
    });
    let standby = Backend::named("standby");
    let interval = Duration::from_millis(10);
    let mut world = World::new().cluster(0, &[active.addr]).cluster(1, &[standby.addr]);
    world.detection.check = Some(Arc::new(HealthCheck {
        probe: CheckProbe::Http { path: "/healthz".into(), host: "".into(), asks: Default::default() },
        port: None,
        interval,
        timeout: Duration::from_secs(1),
        unhealthy_threshold: 2,
        healthy_threshold: 3,
    }));
    let mut config = config();
    config.worker.count = 2;
    let began = Instant::now();
    let gateway = Gateway::start(config, |on| world.on(on));
    // Without any traffic: nothing but the checks themselves wakes a worker.
    until("it is checked", || checks.load(Ordering::SeqCst) >= 50);
    let (made, rounds) = (checks.load(Ordering::SeqCst), began.elapsed().as_millis() / interval.as_millis());
    assert!(
        u128::from(made) <= rounds + 2,
        "{made} checks in {rounds} intervals: one worker checks, not each"
    );
    let mut client = Client::connect(gateway.addr);
    until("it serves", || client.get("/").text() == "active");
    is_well.store(false, Ordering::SeqCst);
    until("it is left", || client.get("/").text() == "standby");
    is_well.store(true, Ordering::SeqCst);
    until("it is used again", || client.get("/").text() == "active");
}

/// It accepts, and says nothing to anybody: traffic of which the gateway knows nothing but its bytes cannot tell.
#[test]
fn checks_that_are_not_answered_count_while_connections_come_and_go() {
    let active = Backend::raw(|peer| while peer.more().is_some() {});
    let standby = Backend::raw(|peer| {
        peer.send("standby");
        while peer.more().is_some() {}
    });
    let mut world = World::new().cluster(0, &[active.addr]).cluster(1, &[standby.addr]);
    world.detection.check = Some(Arc::new(HealthCheck {
        probe: CheckProbe::Http { path: "/healthz".into(), host: "".into(), asks: Default::default() },
        port: None,
        interval: Duration::from_millis(20),
        timeout: Duration::from_millis(40),
        unhealthy_threshold: 2,
        healthy_threshold: 3,
    }));
    let gateway = Gateway::start(config(), |on| world.layer4(Protocol::Tcp, |_| {}).on(on));
    until("the standby takes over", || {
        let mut client = Client::connect(gateway.addr);
        // Between two connections the worker has nothing to look at: that is not to have stood still.
        client.stream.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        let mut answer = [0; 7];
        client.stream.read_exact(&mut answer).is_ok_and(|()| answer == *b"standby")
    });
}
