//! Who waits costs nothing: a worker that drains and has connections or flows left sleeps until something comes.
//!
//! A file of its own: processor time is the process's, and other tests would spend it, too.
#![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

mod support;

use std::time::{Duration, Instant};

use config::Period;
use routing::model::Protocol;
use rustix::time::{ClockId, clock_gettime};
use support::backend::Backend;
use support::client::Client;
use support::table::world;
use support::{Gateway, config, datagrams, pass};

/// How long a worker is watched. A flow is over when it has been quiet for a second.
const WATCHED: Duration = Duration::from_millis(600);

#[test]
fn a_worker_that_drains_sleeps_while_what_is_left_is_quiet() {
    let mut settings = config();
    settings.timeouts.drain_idle = Period::secs(30);
    let http = Backend::named("hello");
    let gateway = Gateway::start(settings, |on| world(&[http.addr]).on(on));
    let mut client = Client::connect(gateway.addr);
    assert_eq!(client.get("/").status, 200);
    sleeps("HTTP/1.1", gateway, |gateway| gateway.sum(|stats| stats.connections_open.get()));

    let echo = Backend::raw(|peer| {
        peer.exactly(5);
        peer.send("hello");
        peer.drained();
    });
    let gateway = Gateway::start(config(), |on| world(&[echo.addr]).layer4(Protocol::Tcp, |_| {}).on(on));
    let mut client = Client::connect(gateway.addr);
    client.send("hello");
    assert_eq!(client.exactly(5).unwrap(), b"hello");
    sleeps("TCP", gateway, |gateway| gateway.sum(|stats| stats.layer4.connections_open.get()));

    let server = datagrams::Server::named("a");
    let gateway = Gateway::start(config(), |on| world(&[server.addr]).layer4(Protocol::Udp, |_| {}).on(on));
    let client = datagrams::Client::of(gateway.addr);
    assert_eq!(client.ask("hello"), "a:hello");
    sleeps("UDP", gateway, |gateway| gateway.sum(|stats| stats.layer4.flows_open.get()));
}

fn sleeps(what: &str, gateway: Gateway, left: impl Fn(&Gateway) -> u64) {
    gateway.drain();
    pass(Duration::from_millis(20));
    let (before, began) = (cpu_time(), Instant::now());
    pass(WATCHED);
    let spent = cpu_time().saturating_sub(before);
    assert_eq!(left(&gateway), 1, "{what}: it is still there");
    assert!(spent < began.elapsed() / 5, "{what}: {spent:?} of processor time in {:?}", began.elapsed());
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap(), u32::try_from(time.tv_nsec).unwrap())
}
