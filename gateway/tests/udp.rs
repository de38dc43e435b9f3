//! UDP: datagrams both ways, who has a flow and who gets it next, what is bounded, how flows end, QUIC clients that move.
#![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

mod support;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use config::{Config, Period};
use gateway::observe::layer4::{Dropped, Ended};
use gateway::observe::stats::Limit;
use routing::model::{Layer4, Protocol};
use support::table::{World, world};
use support::{Gateway, PATIENCE, config, until};

/// An endpoint that answers each datagram with its name and what it got.
struct Server {
    addr: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    silent: AtomicBool,
    count: AtomicU64,
    /// Who sent something.
    peers: Mutex<BTreeSet<SocketAddr>>,
}

impl Server {
    fn named(name: &'static str) -> Self {
        Self::on("127.0.0.1".parse().unwrap(), move |bytes| [name.as_bytes(), b":", bytes].concat())
    }

    fn on(ip: IpAddr, answer: impl Fn(&[u8]) -> Vec<u8> + Send + 'static) -> Self {
        let socket = UdpSocket::bind((ip, 0)).unwrap();
        let addr = socket.local_addr().unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        let shared = Arc::new(Shared::default());
        let seen = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let mut buf = vec![0; 1 << 16];
            while !seen.stop.load(Ordering::Relaxed) {
                let Ok((len, peer)) = socket.recv_from(&mut buf) else { continue };
                // Probes of the failure detector say nothing.
                if len == 0 {
                    continue;
                }
                seen.count.fetch_add(1, Ordering::Relaxed);
                seen.peers.lock().unwrap().insert(peer);
                if !seen.silent.load(Ordering::Relaxed) {
                    let _ = socket.send_to(&answer(&buf[..len]), peer);
                }
            }
        });
        Self { addr, shared, thread: Some(thread) }
    }

    fn count(&self) -> u64 {
        self.shared.count.load(Ordering::Relaxed)
    }

    /// Closes its socket: from now on its host says that nobody listens.
    fn leave(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.leave();
    }
}

/// A client with a port of its own.
struct Client(UdpSocket);

impl Client {
    fn of(addr: SocketAddr) -> Self {
        let any: IpAddr = if addr.is_ipv6() { "::1".parse().unwrap() } else { "127.0.0.1".parse().unwrap() };
        let socket = UdpSocket::bind((any, 0)).unwrap();
        socket.connect(addr).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(socket)
    }

    fn send(&self, bytes: impl AsRef<[u8]>) {
        self.0.send(bytes.as_ref()).unwrap();
    }

    fn receive(&self) -> Vec<u8> {
        let mut buf = vec![0; 1 << 16];
        let len = self.0.recv(&mut buf).expect("an answer");
        buf.truncate(len);
        buf
    }

    /// Sends, and returns the text of the answer.
    #[track_caller]
    fn ask(&self, text: &str) -> String {
        self.send(text);
        String::from_utf8(self.receive()).unwrap()
    }

    /// Sends, and is answered within `wait` or not at all.
    fn ask_within(&self, text: &str, wait: Duration) -> Option<String> {
        self.0.set_read_timeout(Some(wait)).unwrap();
        self.send(text);
        let mut buf = vec![0; 1 << 16];
        let len = self.0.recv(&mut buf).ok()?;
        Some(String::from_utf8_lossy(&buf[..len]).into_owned())
    }
}

/// An address of loopback where nobody takes datagrams.
fn nobody() -> SocketAddr {
    UdpSocket::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap()
}

fn udp(world: World) -> World {
    world.layer4(Protocol::Udp, |_| {})
}

fn before(config: Config, server: &Server, rules: impl FnOnce(&mut Layer4)) -> Gateway {
    let addr = server.addr;
    Gateway::start(config, |on| world(&[addr]).layer4(Protocol::Udp, rules).on(on))
}

fn flows(gateway: &Gateway) -> (u64, u64) {
    (gateway.sum(|stats| stats.layer4.flows_total.get()), gateway.sum(|stats| stats.layer4.flows_open.get()))
}

fn ended(gateway: &Gateway, why: Ended) -> u64 {
    gateway.sum(|stats| stats.layer4.ended(why))
}

fn dropped(gateway: &Gateway, why: Dropped) -> u64 {
    gateway.sum(|stats| stats.layer4.dropped(why))
}

// ---------------------------------------------------------------- flows

#[test]
fn datagrams_travel_both_ways_and_a_client_keeps_its_endpoint() {
    let servers = [Server::named("a"), Server::named("b"), Server::named("c")];
    let addrs = servers.each_ref().map(|server| server.addr);
    let gateway = Gateway::start(config(), |on| udp(world(&addrs)).on(on));
    let mut used = BTreeSet::new();
    for n in 0..30 {
        let client = Client::of(gateway.addr);
        let first = client.ask("hello 0");
        let (name, text) = first.split_once(':').unwrap();
        assert_eq!(text, "hello 0");
        for round in 1..5 {
            assert_eq!(client.ask(&format!("hello {round}")), format!("{name}:hello {round}"), "client {n}");
        }
        used.insert(name.to_owned());
    }
    assert_eq!(used.len(), 3, "clients are spread over endpoints");
    assert_eq!(flows(&gateway).0, 30);
    // The endpoint sees one source for each client, all of the gateway's own.
    let sources: usize = servers.iter().map(|server| server.shared.peers.lock().unwrap().len()).sum();
    assert_eq!(sources, 30);
    let stats = |figure: fn(&gateway::observe::layer4::Layer4Stats) -> u64| {
        gateway.sum(|stats| figure(&stats.layer4))
    };
    assert_eq!(stats(|stats| stats.datagrams_received_total.get()), 150);
    // Counted behind the send: the last client may have its answer before that.
    until("all are counted", || stats(|stats| stats.datagrams_sent_total.get()) == 150);
    assert_eq!(
        stats(|stats| stats.received_bytes_total.get()) + 2 * 150,
        stats(|stats| stats.sent_bytes_total.get())
    );
}

#[test]
fn a_flow_stays_with_its_worker() {
    let server = Server::named("a");
    let mut config = config();
    config.worker.count = 3;
    let gateway = before(config, &server, |_| {});
    let clients: Vec<_> = (0..24).map(|_| Client::of(gateway.addr)).collect();
    for round in 0..4 {
        for client in &clients {
            assert_eq!(client.ask(&format!("{round}")), format!("a:{round}"));
        }
    }
    assert_eq!(flows(&gateway), (24, 24));
    let busy = gateway.node().stats.iter().filter(|stats| stats.layer4.flows_total.get() > 0).count();
    assert!(busy > 1, "24 clients on {busy} of 3 workers");
}

#[test]
fn datagrams_of_any_size_and_runs_of_them_arrive_as_they_were_sent() {
    let server = Server::on("127.0.0.1".parse().unwrap(), <[u8]>::to_vec);
    let gateway = before(config(), &server, |_| {});
    let client = Client::of(gateway.addr);
    for size in [1, 512, 1_200, 1_472, 4_096, 9_000, 60_000] {
        let bytes: Vec<u8> = (0..size).map(|n| u8::try_from(n % 251).unwrap()).collect();
        client.send(&bytes);
        assert_eq!(client.receive(), bytes, "{size} bytes");
    }
    // Enough to be sent and received in runs, few enough at once that no socket overflows.
    for round in 0..100_u32 {
        let window: BTreeSet<Vec<u8>> =
            (0..16_u32).map(|n| [&(round * 16 + n).to_be_bytes()[..], &[7; 1_196]].concat()).collect();
        window.iter().for_each(|bytes| client.send(bytes));
        let back: BTreeSet<Vec<u8>> = (0..16).map(|_| client.receive()).collect();
        assert!(back == window, "round {round}");
    }
    assert_eq!(flows(&gateway).0, 1);
}

#[test]
fn an_empty_datagram_is_one() {
    let server = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let addr = server.local_addr().unwrap();
    let gateway = Gateway::start(config(), |on| udp(world(&[addr])).on(on));
    let client = Client::of(gateway.addr);
    client.send("");
    let (len, peer) = server.recv_from(&mut [0; 8]).unwrap();
    assert_eq!(len, 0);
    server.send_to(b"", peer).unwrap();
    assert_eq!(client.receive(), b"");
}

#[test]
fn ipv6_is_served_and_reached() {
    let server = Server::on("::1".parse().unwrap(), <[u8]>::to_vec);
    let port = support::Port::reserve_on("::1".parse().unwrap());
    let (on, addr) = (port.addr, server.addr);
    let _gateway = Gateway::start(config(), |_| udp(world(&[addr])).on(on));
    assert_eq!(Client::of(on).ask("hello"), "hello");
}

/// A wildcard address serves IPv4 clients, too, and answers from the address that they sent to.
#[test]
fn a_wildcard_listener_answers_from_the_address_that_was_asked() {
    let server = Server::named("a");
    let port = support::Port::reserve_on("::".parse().unwrap());
    let (on, addr) = (port.addr, server.addr);
    let _gateway = Gateway::start(config(), |_| udp(world(&[addr])).on(on));
    for ip in ["127.0.0.1", "127.0.0.2", "::1"] {
        // A connected client hears nobody but the address that it sent to.
        let client = Client::of(SocketAddr::new(ip.parse().unwrap(), on.port()));
        assert_eq!(client.ask("hello"), "a:hello", "{ip}");
    }
}

// ---------------------------------------------------------------- who gets it next

#[test]
fn where_nobody_listens_the_first_datagram_goes_elsewhere_and_nobody_waits() {
    let server = Server::named("alive");
    let (dead, addr) = (nobody(), server.addr);
    let gateway =
        Gateway::start(config(), |on| udp(World::new().cluster(0, &[dead]).cluster(1, &[addr])).on(on));
    for n in 0..20 {
        assert_eq!(Client::of(gateway.addr).ask(&format!("{n}")), format!("alive:{n}"));
    }
    assert!(gateway.sum(|stats| stats.verdicts_total.get()) >= 1, "an endpoint that refuses is down");
    assert_eq!(dropped(&gateway, Dropped::NoEndpoint), 0);
}

#[test]
fn a_flow_whose_endpoint_leaves_goes_on_with_another_and_loses_no_question() {
    let (mut first, second) = (Server::named("first"), Server::named("second"));
    let addrs = [first.addr, second.addr];
    let gateway = Gateway::start(config(), |on| {
        udp(World::new().cluster(0, &[addrs[0]]).cluster(1, &[addrs[1]])).on(on)
    });
    let clients: Vec<_> = (0..8).map(|_| Client::of(gateway.addr)).collect();
    for client in &clients {
        assert_eq!(client.ask("before"), "first:before");
    }
    first.leave();
    for client in &clients {
        assert_eq!(client.ask("after"), "second:after");
    }
    assert_eq!(gateway.sum(|stats| stats.layer4.flows_moved_total.get()), 8);
    assert_eq!(flows(&gateway), (8, 8));
    // What was learned holds for new clients: nobody asks where nobody listens.
    assert_eq!(Client::of(gateway.addr).ask("new"), "second:new");
}

#[test]
fn an_endpoint_that_is_taken_out_of_the_table_gets_nothing_more() {
    let servers = [Server::named("a"), Server::named("b")];
    let addrs = servers.each_ref().map(|server| server.addr);
    let mut gateway = Gateway::start(config(), |on| udp(world(&addrs[..1])).on(on));
    let client = Client::of(gateway.addr);
    assert_eq!(client.ask("1"), "a:1");
    let on = gateway.addr;
    gateway.change(|table| *table = udp(world(&addrs[1..])).on(on));
    assert_eq!(client.ask("2"), "b:2");
    assert_eq!((flows(&gateway).0, servers[0].count()), (1, 1));
}

/// Where answers are usual, silence counts: endpoints that take and do not answer lose their clients.
#[test]
fn an_endpoint_that_answered_and_falls_silent_loses_its_clients() {
    let (first, second) = (Server::named("first"), Server::named("second"));
    let addrs = [first.addr, second.addr];
    let gateway = Gateway::start(config(), |on| {
        let world = World::new().cluster(0, &[addrs[0]]).cluster(1, &[addrs[1]]);
        udp(world.policy(|policy| policy.timeouts.attempt = Duration::from_millis(60))).on(on)
    });
    for n in 0..8 {
        assert_eq!(Client::of(gateway.addr).ask(&format!("{n}")), format!("first:{n}"));
    }
    first.shared.silent.store(true, Ordering::Relaxed);
    let answered = |wait| Client::of(gateway.addr).ask_within("anybody?", wait);
    until("somebody else answers", || answered(Duration::from_millis(40)).is_some());
    assert!(gateway.sum(|stats| stats.ejections_total.get() + stats.verdicts_total.get()) > 0);
    assert_eq!(Client::of(gateway.addr).ask_within("new", PATIENCE).as_deref(), Some("second:new"));
}

/// A sink of log lines never answers: that must raise no suspicion, however long it goes on.
#[test]
fn an_endpoint_that_never_answers_is_never_suspected() {
    let server = Server::named("sink");
    server.shared.silent.store(true, Ordering::Relaxed);
    let addr = server.addr;
    let gateway = Gateway::start(config(), |on| {
        udp(world(&[addr]).policy(|policy| policy.timeouts.attempt = Duration::from_millis(20))).on(on)
    });
    let clients: Vec<_> = (0..40).map(|_| Client::of(gateway.addr)).collect();
    for _ in 0..5 {
        clients.iter().for_each(|client| client.send("<13> a line of a log"));
        support::pass(Duration::from_millis(50));
    }
    until("all have arrived", || server.count() == 200);
    let doubts = gateway
        .sum(|stats| stats.suspicions_total.get() + stats.verdicts_total.get() + stats.ejections_total.get());
    assert_eq!(doubts, 0);
}

// ---------------------------------------------------------------- QUIC

/// A client's first packet (RFC 9000 §17.2.2), as far as anybody without keys can see.
fn initial() -> Vec<u8> {
    let mut packet = vec![0xc3, 0, 0, 0, 1, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0];
    packet.resize(1_200, 0xaa);
    packet
}

/// Answers an Initial with a handshake packet that names it `id`, and anything else with `id`.
fn quic_server(id: &'static [u8; 8]) -> Server {
    Server::on("127.0.0.1".parse().unwrap(), move |bytes| {
        if bytes[0] & 0x80 == 0 {
            return id.to_vec();
        }
        [&[0xe3, 0, 0, 0, 1, 0, 8][..], id, b"handshake"].concat()
    })
}

#[test]
fn a_quic_client_whose_address_changes_keeps_its_endpoint_over_a_path_of_its_own() {
    let ids: [&[u8; 8]; 8] = [
        b"server-0",
        b"server-1",
        b"server-2",
        b"server-3",
        b"server-4",
        b"server-5",
        b"server-6",
        b"server-7",
    ];
    let servers: Vec<Server> = ids.iter().map(|id| quic_server(id)).collect();
    let addrs: Vec<SocketAddr> = servers.iter().map(|server| server.addr).collect();
    let gateway = Gateway::start(config(), |on| udp(world(&addrs)).on(on));
    for _ in 0..10 {
        let client = Client::of(gateway.addr);
        client.send(initial());
        let answer = client.receive();
        let id: [u8; 8] = answer[7..15].try_into().unwrap();
        let number = ids.iter().position(|known| **known == id).unwrap();
        let paths = || servers[number].shared.peers.lock().unwrap().len();
        let before = paths();
        for round in 1..4 {
            // A NAT has forgotten the client: the same connection from another port.
            let moved = Client::of(gateway.addr);
            moved.send([&[0x41][..], &id, b"encrypted"].concat());
            assert_eq!(moved.receive(), id);
            assert_eq!(paths(), before + round, "the endpoint must see a new path, to validate it");
        }
    }
}

// ---------------------------------------------------------------- bounds

#[test]
fn the_table_of_flows_is_bounded_and_the_one_that_is_quiet_longest_goes_first() {
    let server = Server::named("a");
    let mut config = config();
    config.limits.flows_max = 5;
    let gateway = before(config, &server, |_| {});
    let clients: Vec<_> = (0..5).map(|_| Client::of(gateway.addr)).collect();
    clients.iter().for_each(|client| assert_eq!(client.ask("x"), "a:x"));
    // None is quiet: the newcomer is dropped, and nobody pays for it.
    Client::of(gateway.addr).send("one too many");
    until("it is dropped", || dropped(&gateway, Dropped::Full) == 1);
    assert_eq!((gateway.hits(Limit::Flows), flows(&gateway)), (1, (5, 5)));
    support::pass(Duration::from_millis(1_100));
    clients[1..].iter().for_each(|client| assert_eq!(client.ask("still here"), "a:still here"));
    assert_eq!(Client::of(gateway.addr).ask("next"), "a:next");
    until("the quiet one has ended", || ended(&gateway, Ended::Evicted) == 1);
    clients[1..].iter().for_each(|client| assert_eq!(client.ask("and on"), "a:and on"));
    assert_eq!(flows(&gateway), (6, 5));
}

#[test]
fn access_lists_and_rates_are_asked_before_a_flow_is_made() {
    let server = Server::named("a");
    let gateway = before(config(), &server, |rules| rules.deny = ["127.0.0.0/8".parse().unwrap()].into());
    Client::of(gateway.addr).send("hello");
    until("it is dropped", || dropped(&gateway, Dropped::Denied) == 1);
    assert_eq!((flows(&gateway).0, server.count()), (0, 0));

    let gateway = before(config(), &server, |rules| rules.source_rate_max = 5);
    for n in 0..20 {
        Client::of(gateway.addr).send(format!("{n}"));
    }
    until("all are served or dropped", || flows(&gateway).0 + dropped(&gateway, Dropped::Limited) == 20);
    assert!((5..=8).contains(&flows(&gateway).0), "{:?} of 20 at once", flows(&gateway));

    let gateway = before(config(), &server, |rules| rules.connections_max = 3);
    let clients: Vec<_> = (0..3).map(|_| Client::of(gateway.addr)).collect();
    clients.iter().for_each(|client| assert_eq!(client.ask("x"), "a:x"));
    Client::of(gateway.addr).send("a fourth");
    until("it is dropped", || dropped(&gateway, Dropped::Limited) == 1);
}

// ---------------------------------------------------------------- how flows end

#[test]
fn each_flow_leaves_one_line_in_the_access_log() {
    let server = Server::named("a");
    let path = std::env::temp_dir().join(format!("ringway-udp-log-{}", std::process::id()));
    let mut config = config();
    config.timeouts.udp_idle = Period::millis(150);
    config.observe.access_log = config::AccessLog::File(path.clone());
    let gateway = before(config, &server, |_| {});
    let client = Client::of(gateway.addr);
    for _ in 0..3 {
        assert_eq!(client.ask("hello"), "a:hello");
    }
    let text = || std::fs::read_to_string(&path).unwrap_or_default();
    until("it is written", || text().ends_with('\n'));
    let text = text();
    let _ = std::fs::remove_file(&path);
    assert_eq!(text.lines().count(), 1, "{text}");
    let line: serde_json::Value = serde_json::from_str(&text).unwrap();
    for (name, value) in [
        ("protocol", "udp"),
        ("client", "127.0.0.1"),
        ("cluster", "cluster-0"),
        ("backend", "default/web:80"),
        ("ended", "idle"),
    ] {
        assert_eq!(line[name], value, "{line}");
    }
    assert_eq!(line["endpoint"], server.addr.to_string());
    assert_eq!((&line["received_bytes"], &line["sent_bytes"]), (&15.into(), &21.into()), "{line}");
}

#[test]
fn a_quiet_flow_ends_and_its_client_gets_a_new_one() {
    let server = Server::named("a");
    let mut config = config();
    config.timeouts.udp_idle = Period::millis(150);
    let gateway = before(config, &server, |_| {});
    let client = Client::of(gateway.addr);
    assert_eq!(client.ask("1"), "a:1");
    until("it has ended", || ended(&gateway, Ended::Idle) == 1 && flows(&gateway).1 == 0);
    assert_eq!(client.ask("2"), "a:2");
    assert_eq!(flows(&gateway).0, 2);
}

#[test]
fn a_drain_serves_flows_until_they_are_quiet_and_takes_no_new_ones() {
    let server = Server::named("a");
    let gateway = before(config(), &server, |_| {});
    let client = Client::of(gateway.addr);
    assert_eq!(client.ask("before"), "a:before");
    gateway.drain();
    until("new ones are turned away", || {
        Client::of(gateway.addr).send("too late");
        dropped(&gateway, Dropped::Draining) > 0
    });
    assert_eq!(client.ask("while it drains"), "a:while it drains");
    gateway.ended();
}

#[test]
fn a_listener_that_is_removed_ends_its_flows_and_frees_its_port() {
    let server = Server::named("a");
    let mut gateway = before(config(), &server, |_| {});
    let client = Client::of(gateway.addr);
    assert_eq!(client.ask("1"), "a:1");
    gateway.change(|table| table.listeners.clear());
    until("its flows have ended", || ended(&gateway, Ended::Stopped) == 1 && flows(&gateway).1 == 0);
    until("nobody listens there", || {
        client.send("2");
        client.0.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        client.0.recv(&mut [0; 8]).is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
    });
}

#[test]
fn nobody_to_send_to_costs_datagrams_and_nothing_else() {
    let gateway = Gateway::start(config(), |on| udp(world(&[nobody()])).on(on));
    let client = Client::of(gateway.addr);
    until("it is known that nobody listens", || {
        client.send("anybody?");
        support::pass(Duration::from_millis(5));
        dropped(&gateway, Dropped::NoEndpoint) > 0
            || gateway.sum(|stats| stats.layer4.ended(Ended::NoEndpoint) + stats.verdicts_total.get()) > 0
    });
}
