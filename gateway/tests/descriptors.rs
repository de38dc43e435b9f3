//! The process runs out of descriptors: nothing spins, nobody is blamed, and it recovers. Alone in its process, for
//! the limit is the process's.
#![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

mod support;

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use gateway::observe::stats::Limit;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};
use support::backend::{Backend, respond};
use support::client::{Client, Cut};
use support::table::world;
use support::{Gateway, config, pass, until};

#[test]
fn s31_out_of_descriptors_sheds_idle_connections_and_does_not_spin() {
    let gate = Arc::new(AtomicBool::new(false));
    let opened = Arc::clone(&gate);
    let backend = Backend::start(move |request, stream| {
        if request.target() == "/hold" {
            until("the gate opens", || opened.load(Ordering::SeqCst));
        }
        respond(stream, b"ok")
    });
    let addr = backend.addr;
    let mut config = config();
    config.timeouts.buffer_idle = config::Period::millis(10);
    config.timeouts.header = config::Period::secs(60);
    let gateway = Gateway::start(config, |on| world(&[addr]).on(on));
    let open = || gateway.sum(|stats| stats.connections_open.get());
    let mut idle: Vec<_> = (0..10).map(|_| Client::connect(gateway.addr)).collect();
    for client in &mut idle {
        assert_eq!(client.get("/").status, 200);
    }
    let mut begun = Client::connect(gateway.addr);
    begun.send("GET / HTTP/1.1\r\n");
    until("all are there", || open() == 11);
    pass(Duration::from_millis(100));

    // Every descriptor is taken, but for two sockets that are not connected yet.
    let spare = || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let (first, second) = (spare(), spare());
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(lowest_free() + 2), maximum: limit.maximum }).unwrap();
    let mut taken = Vec::new();
    take_all(&mut taken);

    // An idle connection gives way, and the new one is served over the pooled upstream connection.
    first.connect(&gateway.addr.into()).unwrap();
    until("the bound is hit", || gateway.hits(Limit::Descriptors) > 0);
    let mut held = Client::over(first.into());
    assert_eq!(held.get("/").status, 200);
    let shed: Vec<_> = idle.iter_mut().filter_map(Client::ended).collect();
    assert!(shed.iter().all(|cut| *cut == Cut::Closed) && !shed.is_empty(), "{shed:?}");

    // Nobody is idle now, and the pooled connection is in use.
    held.send("GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
    drop(idle);
    until("the idle ones are gone", || open() == 2);
    take_all(&mut taken);
    second.connect(&gateway.addr.into()).unwrap();
    let before = gateway.hits(Limit::Descriptors);
    until("the bound is hit again", || gateway.hits(Limit::Descriptors) > before);
    let (cpu, began) = (cpu_time(), Instant::now());
    pass(Duration::from_millis(500));
    let spent = cpu_time() - cpu;
    assert!(spent < began.elapsed() / 4, "{spent:?} of processor time in {:?}", began.elapsed());
    // A request that needs an upstream connection of its own is shed; its endpoint is not to blame.
    for _ in 0..5 {
        begun.send("Host: a\r\n\r\n");
        let response = begun.response();
        assert_eq!((response.status, response.reason()), (503, "descriptors"));
        begun.send("GET / HTTP/1.1\r\n");
    }
    assert_eq!(gateway.sum(|stats| stats.ejections_total.get()), 0);

    setrlimit(Resource::Nofile, limit).unwrap();
    drop(taken);
    assert_eq!(Client::over(second.into()).get("/").status, 200, "the one in the queue is served");
    assert_eq!(
        Client::connect(gateway.addr).get("/").status,
        200,
        "the listener outlived what accepting met"
    );
    gate.store(true, Ordering::SeqCst);
    assert_eq!(held.response().status, 200);
}

/// Opens files until there is no descriptor left.
fn take_all(taken: &mut Vec<File>) {
    while let Ok(file) = File::open("/dev/null") {
        taken.push(file);
    }
}

/// The number of the next descriptor that is opened.
fn lowest_free() -> u64 {
    use std::os::fd::AsRawFd;
    u64::try_from(File::open("/dev/null").unwrap().as_raw_fd()).unwrap()
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap(), u32::try_from(time.tv_nsec).unwrap())
}
