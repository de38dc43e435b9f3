//! What every end-to-end test needs: a gateway of its own, recording backends, raw clients, deadlines.
//!
//! Nothing sleeps: what is waited for has a deadline ([`until`], socket timeouts), and what must be slow is held by a
//! gate that the test opens. Sockets are loopback, ports are the kernel's choice.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    reason = "each test file uses its own part of this"
)]

pub mod backend;
pub mod client;
pub mod datagrams;
pub mod fleet;
pub mod frames;
pub mod h2;
pub mod h2_backend;
pub mod hands;
pub mod load;
pub mod manifests;
pub mod secure;
pub mod table;
pub mod tls;
pub mod websocket;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use config::Config;
use gateway::node::Node;
use gateway::observe::stats::{Limit, WorkerStats};
use routing::delta::{Change, Mail, Report, RouteTable, Update, diff};
use routing::id::Generation;
use socket2::{Domain, Socket, Type};

/// How long anything may take before a test says that it never happens.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Waits until `holds`; panics with `what` when it does not within [`PATIENCE`].
#[track_caller]
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

/// Lets `time` pass: only where a claim is about time itself (a timeout that must not fire).
pub fn pass(time: Duration) {
    let end = Instant::now() + time;
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        std::thread::park_timeout(left);
    }
}

/// A small configuration: one worker, not pinned, a small ring.
pub fn config() -> Config {
    let mut config = Config::default();
    config.worker.count = 1;
    config.worker.pin = false;
    config.worker.ring_entries = 256;
    config.worker.cq_entries = 4096;
    // No recordings of verdicts outside of the test that wants them.
    config.admin.state_dir = std::path::PathBuf::new();
    config
}

/// A port that nobody else gets while this lives, and that the workers of this process can listen on, for TCP and UDP.
pub struct Port {
    _reserved: [Socket; 2],
    pub addr: SocketAddr,
}

impl Port {
    pub fn reserve() -> Self {
        Self::reserve_on(std::net::Ipv4Addr::LOCALHOST.into())
    }

    pub fn reserve_on(ip: std::net::IpAddr) -> Self {
        loop {
            let addr = SocketAddr::new(ip, 0);
            let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None).unwrap();
            // Without SO_REUSEADDR: the kernel gives this port to no other test, but lets SO_REUSEPORT sockets join.
            socket.set_reuse_port(true).unwrap();
            socket.bind(&addr.into()).unwrap();
            let addr = socket.local_addr().unwrap().as_socket().unwrap();
            let datagrams = Socket::new(Domain::for_address(addr), Type::DGRAM, None).unwrap();
            datagrams.set_reuse_port(true).unwrap();
            if datagrams.bind(&addr.into()).is_err() {
                continue;
            }
            // Connected, to a port that never sends: it takes no datagram from those who listen.
            datagrams.connect(&SocketAddr::new(ip, 1).into()).unwrap();
            return Self { _reserved: [socket, datagrams], addr };
        }
    }
}

/// A running data plane with a table.
pub struct Gateway {
    pub addr: SocketAddr,
    node: Option<Node>,
    world: RouteTable,
    generation: Generation,
    _port: Port,
}

impl Gateway {
    /// Starts workers as `config` says and puts `world`, which is told the address, in force on all of them.
    pub fn start(config: Config, world: impl FnOnce(SocketAddr) -> RouteTable) -> Self {
        let port = Port::reserve();
        let node = Node::start(&Arc::new(config)).unwrap();
        let mut gateway = Self {
            addr: port.addr,
            node: Some(node),
            world: RouteTable::default(),
            generation: Generation(0),
            _port: port,
        };
        let world = world(gateway.addr);
        gateway.change(|table| *table = world);
        gateway
    }

    pub fn node(&self) -> &Node {
        self.node.as_ref().unwrap()
    }

    /// Edits the table; returns when every worker runs the new one.
    pub fn change(&mut self, edit: impl FnOnce(&mut RouteTable)) {
        let mut next = self.world.clone();
        edit(&mut next);
        let base = self.generation;
        self.generation = Generation(base.0 + 1);
        let update = Arc::new(Update {
            generation: self.generation,
            base_generation: base,
            observed_ns: 0,
            change: Change::Table(diff(&self.world, &next)),
        });
        self.world = next;
        for postbox in &self.node().peers.boxes {
            postbox.send(Mail::Update(Arc::clone(&update))).unwrap();
        }
        let mut waiting = self.node().stats.len();
        while waiting > 0 {
            let report = self.node().reports.recv_timeout(PATIENCE).expect("a worker applies the table");
            if let Report::Applied { generation, .. } = report
                && generation == self.generation
            {
                waiting -= 1;
            }
        }
    }

    /// A figure of all workers together.
    pub fn sum(&self, figure: impl Fn(&WorkerStats) -> u64) -> u64 {
        self.node().stats.iter().map(|stats| figure(stats)).sum()
    }

    /// How often a bound was hit.
    pub fn hits(&self, limit: Limit) -> u64 {
        self.sum(|stats| stats.hits(limit))
    }

    /// Tells all workers to finish.
    pub fn drain(&self) {
        self.node().peers.drain();
    }

    /// Waits until every worker has ended by itself.
    pub fn ended(mut self) {
        until("the workers end", || self.node().has_ended());
        self.node.take().unwrap().join().unwrap();
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let Some(node) = self.node.take() else { return };
        let panics =
            node.stats.iter().map(|stats| stats.panics_total.get() + stats.restarts_total.get()).sum::<u64>();
        node.peers.stop();
        let joined = node.join();
        if !std::thread::panicking() {
            joined.unwrap();
            assert_eq!(panics, 0, "a task of the gateway panicked");
        }
    }
}
