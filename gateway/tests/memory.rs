//! What a request and an idle connection cost in heap memory: counted on the worker's own thread.
#![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

mod support;

use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use allocation_counter::AllocationInfo;
use config::{Config, Period};
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use gateway::observe::access_log::LogWriter;
use gateway::observe::stats::WorkerStats;
use gateway::worker::inbox::Inbox;
use gateway::worker::peers::{Peers, Postbox};
use gateway::worker::supervise::{self, Charter};
use routing::delta::{Change, Mail, Report, Update, snapshot};
use routing::id::Generation;
use routing::model::Protocol;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::backend::Backend;
use support::client::Client;
use support::table::{World, world};
use support::tls::{Ca, certified, connect};
use support::{PATIENCE, Port, config, pass, until};

/// One worker on a thread that counts what it allocates.
struct Counted {
    port: Port,
    /// The far end of its doorbell.
    bell: TcpStream,
    stats: Arc<WorkerStats>,
    thread: JoinHandle<AllocationInfo>,
    _config: Sender<Arc<Config>>,
    _reports: Receiver<Report>,
}

impl Counted {
    fn start(config: Config, backend: &Backend) -> Self {
        Self::serving(config, world(&[backend.addr]))
    }

    fn serving(config: Config, world: World) -> Self {
        let port = Port::reserve();
        let (mail_in, mail) = bounded(16);
        let (config_in, config_out) = unbounded();
        let (reports_in, reports) = bounded(1_024);
        let (bell, far) = breakable_bell();
        let peers = Peers::new(vec![Postbox::new(mail_in, far.try_clone().unwrap().into())], 1);
        let stats = Arc::new(WorkerStats::new(1));
        let charter = Charter {
            id: 0,
            core: None,
            config: Arc::new(config),
            inbox: Inbox::new(mail, config_out, crossbeam_channel::never()),
            bell,
            peers: Arc::clone(&peers),
            stats: Arc::clone(&stats),
            findings: crossbeam_channel::bounded(1).0,
            samples: bounded(4).0,
            windows: Some(crossbeam_channel::bounded(1).0),
            reports: reports_in,
            log: {
                let stats = Arc::clone(&stats);
                Box::new(move || LogWriter::new(None, Arc::clone(&stats)))
            },
        };
        let thread = std::thread::spawn(move || {
            allocation_counter::measure(|| drop(supervise::run(&charter).unwrap_err()))
        });
        let update = Update {
            generation: Generation(1),
            base_generation: Generation(0),
            observed_ns: 0,
            change: Change::Snapshot(snapshot(&world.on(port.addr))),
        };
        peers.boxes[0].send(Mail::Update(Arc::new(update))).unwrap();
        loop {
            let report = reports.recv_timeout(PATIENCE).expect("the worker applies the table");
            if matches!(report, Report::Applied { .. }) {
                break;
            }
        }
        Self { port, bell: far, stats, thread, _config: config_in, _reports: reports }
    }

    /// Ends the worker where it stands, by a bell that breaks: one that is told to stop ends its connections first, and what
    /// they hold would not be counted. Everything that it ever allocated.
    fn stop(self) -> AllocationInfo {
        rustix::net::connect_unspec(&self.bell).unwrap();
        self.thread.join().unwrap()
    }
}

/// A doorbell and its far end: a connection, for that can be reset.
fn breakable_bell() -> (OwnedFd, TcpStream) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (near, _) = listener.accept().unwrap();
    [&near, &far].into_iter().for_each(|end| end.set_nonblocking(true).unwrap());
    (near.into(), far)
}

/// What a worker allocates that serves `count` requests on one connection, none of which waited so long that the
/// detector began to ask questions.
///
/// Where this process or its backend is not scheduled for some milliseconds, the detector suspects the backend and
/// probes it: each probe is a task and a connection, and the change of state is told by name. That is by the clock and
/// by verdict, not by request, so such a run says nothing and is made again.
fn cost_of(count: u64, request: &str, response: &'static str) -> u64 {
    let end = Instant::now() + PATIENCE;
    loop {
        let backend = Backend::answering(response, support::backend::Then::Keep);
        let worker = Counted::start(config(), &backend);
        let mut client = Client::connect(worker.port.addr);
        for _ in 0..count {
            client.send(request).response();
        }
        let stats = Arc::clone(&worker.stats);
        let asked = stats.suspicions_total.get() + stats.probes_total.get() + stats.hedges_total.get();
        let cost = worker.stop().count_total;
        if asked == 0 {
            return cost;
        }
        println!("{count} requests: {cost} allocations, but {asked} questions of the detector: once more");
        assert!(Instant::now() < end, "no run without a suspicion: the machine is too busy to tell");
    }
}

/// In steady state, on the common path: a keep-alive connection on either side, bodies that fit their buffer.
#[test]
fn a_request_allocates_nothing() {
    for (name, request, response) in [
        (
            "GET",
            "GET /cart?x=1 HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: t\r\nAccept: */*\r\nCookie: a=b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello",
        ),
        (
            "POST",
            "POST /cart HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 5\r\n\r\nhello",
            "HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n",
        ),
        (
            "chunks",
            "PUT /cart HTTP/1.1\r\nHost: shop.example\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        ),
    ] {
        let (few, many) = (cost_of(500, request, response), cost_of(2_500, request, response));
        // Two workers differ by a few allocations of their housekeeping, which is by the clock, not by requests.
        let more = many.saturating_sub(few);
        assert!(more < 40, "{name}: {more} allocations for 2,000 requests more");
    }
}

/// Live heap bytes of a worker whose connections are idle, when the last has given its buffers back, and the pools what they
/// do not need.
fn at_rest<C>(worker: Counted, clients: Vec<C>) -> u64 {
    pass(std::time::Duration::from_millis(2_500));
    let info = worker.stop();
    drop(clients);
    u64::try_from(info.bytes_current).unwrap()
}

/// By what a worker holds with one and with `count`.
fn costs_at_most(bound: u64, what: &str, count: usize, live_bytes: impl Fn(usize) -> u64) {
    let (one, all) = (live_bytes(1), live_bytes(count));
    let each = all.saturating_sub(one) / (count as u64 - 1);
    println!("live heap bytes of a worker: {one} with 1 idle {what}, {all} with {count}: {each} each");
    assert!(each <= bound, "{each} bytes for each idle {what}");
}

/// Each connection has had a request, and waits for its next.
#[test]
fn an_idle_connection_costs_little() {
    const COUNT: usize = 2_000;
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
    let backend = Backend::named("hello");
    let live_bytes = |connections: usize| {
        let mut config = config();
        config.timeouts.buffer_idle = Period::millis(5);
        let worker = Counted::start(config, &backend);
        let mut clients: Vec<_> = (0..connections).map(|_| Client::connect(worker.port.addr)).collect();
        for request in 0..COUNT {
            assert_eq!(clients[request % connections].get("/").status, 200);
        }
        until("all are there", || worker.stats.connections_open.get() == connections as u64);
        at_rest(worker, clients)
    };
    costs_at_most(1_600, "connection", COUNT, live_bytes);
}

/// The same over TLS: what the library keeps for a session comes on top. What its part in C keeps (the contexts of two
/// ciphers) is not counted here: `loadtest bench --case tls-idle` counts all.
#[test]
fn an_idle_connection_over_tls_costs_little() {
    const COUNT: usize = 500;
    let ca = Ca::new();
    let (leaf, trust) = (ca.leaf(&["a.example"]), Arc::new(ca.trust()));
    let key = certified(&leaf);
    let backend = Backend::named("hello");
    let live_bytes = |connections: usize| {
        let mut config = config();
        config.timeouts.buffer_idle = Period::millis(5);
        let world = world(&[backend.addr]).secured(&[("a.example", Arc::clone(&key))]);
        let worker = Counted::serving(config, world);
        let mut clients: Vec<_> =
            (0..connections).map(|_| connect(worker.port.addr, "a.example", &trust).unwrap()).collect();
        for request in 0..COUNT {
            assert_eq!(clients[request % connections].get("a.example", "/").0, 200);
        }
        until("all are there", || worker.stats.connections_open.get() == connections as u64);
        at_rest(worker, clients)
    };
    costs_at_most(5_000, "TLS connection", COUNT, live_bytes);
}

/// A worker holds a pointer to what all share: that a listener has thousands of certificates costs it nothing.
#[test]
fn certificates_cost_a_worker_nothing() {
    let ca = Ca::new();
    let key = certified(&ca.leaf(&["a.example"]));
    let trust = Arc::new(ca.trust());
    let backend = Backend::named("hello");
    let live_bytes = |count: usize| {
        let names: Vec<String> = (0..count).map(|n| format!("h{n}.example")).collect();
        let all: Vec<_> = names.iter().map(|name| (name.as_str(), Arc::clone(&key))).collect();
        let worker = Counted::serving(config(), world(&[backend.addr]).secured(&all));
        let mut client = connect(worker.port.addr, "a.example", &trust).unwrap();
        assert_eq!(client.get("a.example", "/").0, 200);
        let info = worker.stop();
        (info.bytes_total, info.bytes_current)
    };
    let (few, many) = (live_bytes(1), live_bytes(5_000));
    println!(
        "bytes that a worker ever allocated, and holds: {few:?} with 1 certificate, {many:?} with 5,000"
    );
    // By the clock a worker allocates this and that; 5,000 pointers are 40,000 bytes.
    let bound = 32 * 1024;
    assert!(many.0 < few.0 + bound && many.1 < few.1 + i64::try_from(bound).unwrap(), "{few:?}, {many:?}");
}

/// Each has passed something on in both directions, and is quiet: a layer-4 connection is two, and holds no buffer.
#[test]
fn an_idle_pair_of_layer_4_costs_little() {
    const COUNT: usize = 400;
    let live_bytes = |connections: usize| {
        let backend = Backend::raw(|peer| {
            peer.exactly(5);
            peer.send("hello");
            peer.drained();
        });
        let mut config = config();
        config.timeouts.buffer_idle = Period::millis(5);
        let worker = Counted::serving(config, world(&[backend.addr]).layer4(Protocol::Tcp, |_| {}));
        let clients: Vec<_> = (0..connections)
            .map(|_| {
                let mut client = Client::connect(worker.port.addr);
                client.send("hello");
                assert_eq!(client.exactly(5).unwrap(), b"hello");
                client
            })
            .collect();
        assert_eq!(worker.stats.layer4.connections_open.get(), connections as u64);
        at_rest(worker, clients)
    };
    costs_at_most(3_000, "pair", COUNT, live_bytes);
}

/// A connection that comes and goes leaves nothing behind.
#[test]
fn connections_that_end_leave_no_memory_behind() {
    let backend = Backend::named("hello");
    let live_bytes = |connections: usize| {
        let worker = Counted::start(config(), &backend);
        for _ in 0..connections {
            assert_eq!(Client::connect(worker.port.addr).get("/").status, 200);
        }
        until("all are gone", || worker.stats.connections_open.get() == 0);
        worker.stop().bytes_current
    };
    let (few, many) = (live_bytes(200), live_bytes(1_200));
    assert!(many - few < 100_000, "{few} live bytes after 200 connections, {many} after 1,200");
}

/// Keeps several clients busy while memory is measured: the buffers of a burst go back.
#[test]
fn buffers_of_a_burst_go_back_to_the_system() {
    let gate = Arc::new(AtomicBool::new(false));
    let opened = Arc::clone(&gate);
    let backend = Backend::start(move |_, stream| {
        until("the gate opens", || opened.load(Ordering::SeqCst));
        support::backend::respond(stream, b"hello")
    });
    let worker = Counted::start(config(), &backend);
    let mut clients: Vec<_> = (0..200).map(|_| Client::connect(worker.port.addr)).collect();
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    let peak = AtomicU64::new(0);
    until("all are in flight", || worker.stats.in_flight.get() == 200);
    until("their buffers are counted", || {
        peak.fetch_max(worker.stats.buffer_bytes.get(), Ordering::Relaxed);
        // Half of them at once are a burst: on one hanging endpoint some are between two attempts.
        peak.load(Ordering::Relaxed) > 100 * 16 * 1024
    });
    gate.store(true, Ordering::SeqCst);
    for client in &mut clients {
        assert_eq!(client.response().status, 200);
    }
    drop(clients);
    // The pool of idle upstream connections keeps a read, and so a buffer, for each.
    let pooled = |stats: &WorkerStats| stats.idle_upstream.get() * 16 * 1024;
    until("the rest is given back", || worker.stats.buffer_bytes.get() < pooled(&worker.stats) + (1 << 20));
    worker.stop();
}
