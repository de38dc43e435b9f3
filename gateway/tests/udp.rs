//! UDP: datagrams both ways, who has a flow and who gets it next, what is bounded, how flows end, QUIC clients that move.
#![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

mod support;

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use config::{Config, Period};
use gateway::observe::layer4::{Dropped, Ended};
use gateway::observe::stats::Limit;
use gateway::worker::drill::{Drill, Fault};
use routing::id::ClusterId;
use routing::model::{Established, Layer4, Protocol};
use routing::time::MonoTime;
use support::datagrams::{Client, Server, nobody};
use support::table::{World, world};
use support::{Gateway, PATIENCE, config, until};

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
    let sources: usize = servers.iter().map(|server| server.paths()).sum();
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
    first.silence();
    let answered = |wait| Client::of(gateway.addr).ask_within("anybody?", wait);
    until("somebody else answers", || answered(Duration::from_millis(40)).is_some());
    assert!(gateway.sum(|stats| stats.ejections_total.get() + stats.verdicts_total.get()) > 0);
    assert_eq!(Client::of(gateway.addr).ask_within("new", PATIENCE).as_deref(), Some("second:new"));
}

/// A sink of log lines never answers: that must raise no suspicion, however long it goes on.
#[test]
fn an_endpoint_that_never_answers_is_never_suspected() {
    let server = Server::named("sink");
    server.silence();
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

/// Two clusters: the second is for when the first does not serve. Nothing but drills and ICMP moves anybody.
fn two(config: Config, servers: [&Server; 2], edit: impl FnOnce(World) -> World) -> Gateway {
    let [first, second] = servers.map(|server| server.addr);
    Gateway::start(config, |on| {
        udp(edit(World::new().cluster(0, &[first]).cluster(1, &[second]).undetected())).on(on)
    })
}

/// Puts a drill of the first cluster in force, or ends it.
fn drill(gateway: &mut Gateway, fault: Option<Fault>) {
    let share = "100%".parse().unwrap();
    let drill = |fault| Drill { cluster: ClusterId(0), fault, share, until: MonoTime(u64::MAX) };
    gateway.node().drill_board().put(fault.map(drill));
    // A worker looks for drills before it looks for tables: by the second table it has the drill.
    gateway.change(|_| {});
    gateway.change(|_| {});
}

fn faults(gateway: &Gateway) -> u64 {
    gateway.sum(|stats| stats.drill_faults_total.get())
}

/// To a flow a drilled cluster looks as one where nobody listens: everything goes elsewhere, and nothing goes twice.
#[test]
fn a_drill_that_refuses_moves_flows_and_repeats_nothing() {
    let (first, second) = (Server::named("first"), Server::named("second"));
    let mut gateway = two(config(), [&first, &second], |world| world);
    let known = Client::of(gateway.addr);
    assert_eq!(known.ask("before"), "first:before");
    drill(&mut gateway, Some(Fault::Refuse));
    // Two datagrams that come as one run.
    let client = Client::of(gateway.addr);
    client.send_run(b"onetwo", 3);
    let both = BTreeSet::from([client.receive(), client.receive()]);
    assert_eq!(both, BTreeSet::from([b"second:one".to_vec(), b"second:two".to_vec()]));
    assert!(faults(&gateway) >= 1, "its first pick was drilled");
    assert_eq!(client.ask("end"), "second:end");
    assert_eq!(known.ask("after"), "second:after");
    assert_eq!((first.count(), second.count()), (1, 4), "each datagram once");
    assert_eq!(dropped(&gateway, Dropped::NoEndpoint), 0);
}

#[test]
fn a_drill_that_swallows_lets_no_datagram_through() {
    let (first, second) = (Server::named("first"), Server::named("second"));
    let mut gateway = two(config(), [&first, &second], |world| world);
    let client = Client::of(gateway.addr);
    assert_eq!(client.ask("before"), "first:before");
    drill(&mut gateway, Some(Fault::Blackhole));
    client.send("swallowed");
    until("it is taken", || faults(&gateway) == 1);
    drill(&mut gateway, None);
    assert_eq!(client.ask("after"), "first:after");
    assert_eq!((first.count(), second.count()), (2, 0));
}

/// A datagram waits at an endpoint that is then found dead: whether it goes elsewhere is for the policy to say. How many
/// the second endpoint got.
fn waits_at_a_dead_endpoint(non_idempotent: bool) -> u64 {
    let (mut first, second) = (Server::named("first"), Server::named("second"));
    let addrs = [first.addr, second.addr];
    let gateway = Gateway::start(config(), |on| {
        let world = World::new().cluster(0, &[addrs[0]]).cluster(1, &[addrs[1]]).policy(|policy| {
            policy.established = Established::Reset;
            policy.retry.non_idempotent = non_idempotent;
            policy.timeouts.attempt = PATIENCE;
        });
        udp(world).on(on)
    });
    let asker = Client::of(gateway.addr);
    first.silence();
    asker.send("question");
    until("it has arrived", || first.count() == 1);
    first.leave();
    assert_eq!(Client::of(gateway.addr).ask("after"), "second:after");
    until("there is a verdict", || gateway.sum(|stats| stats.verdicts_total.get()) > 0);
    if non_idempotent {
        assert_eq!(asker.receive(), b"second:question");
    }
    // Not lost is what the client asks next.
    assert_eq!(asker.ask("again"), "second:again");
    second.count()
}

#[test]
fn what_a_dead_endpoint_may_have_got_is_sent_again_only_where_the_policy_says_so() {
    assert_eq!(waits_at_a_dead_endpoint(true), 3);
    assert_eq!(waits_at_a_dead_endpoint(false), 2);
}

/// ICMP speaks of the datagram that was sent last: an earlier one may have been taken before the endpoint left.
#[test]
fn what_waits_is_not_repeated_for_the_refusal_of_a_later_datagram() {
    let (mut first, second) = (Server::named("first"), Server::named("second"));
    first.silence();
    let gateway =
        two(config(), [&first, &second], |world| world.policy(|policy| policy.timeouts.attempt = PATIENCE));
    let client = Client::of(gateway.addr);
    client.send("question");
    until("it has arrived", || first.count() == 1);
    first.leave();
    client.send("refused");
    until("ICMP has said so", || gateway.sum(|stats| stats.connect_failures_total.get()) == 1);
    assert_eq!(client.ask("next"), "second:next");
    assert_eq!(second.count(), 1);
}

/// Every datagram of a flow goes by a host that is asked once, and not at all where no probe may be in flight.
#[test]
fn a_host_is_asked_once_whether_it_answers_connects() {
    for (probes_max, asked) in [(8, 1), (0, 0)] {
        // Somebody else may have the port of the same number.
        let mut both = std::iter::repeat_with(|| Server::named("a"))
            .filter_map(|server| Some((TcpListener::bind(server.addr).ok()?, server)));
        let (host, server) = both.next().unwrap();
        host.set_nonblocking(true).unwrap();
        let mut config = config();
        config.limits.probes_max = probes_max;
        let addr = server.addr;
        let gateway = Gateway::start(config, |on| udp(world(&[addr]).undetected()).on(on));
        for n in 0..5 {
            assert_eq!(Client::of(gateway.addr).ask(&format!("{n}")), format!("a:{n}"));
        }
        assert_eq!(gateway.sum(|stats| stats.probes_total.get()), asked);
        assert_eq!(gateway.hits(Limit::Probes), 5 * (1 - asked));
        until("it is connected to", || host.accept().is_ok() || asked == 0);
        assert!(host.accept().is_err(), "once");
    }
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
        let paths = || servers[number].paths();
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

/// An endpoint is in doubt, and a client that comes from another address goes on with a connection that only this endpoint
/// has: not one datagram goes elsewhere, and all of them by one path, or the endpoint would see the client move with each.
#[test]
fn a_quic_connection_stays_with_an_endpoint_that_is_in_doubt() {
    let servers = [quic_server(b"server-0"), quic_server(b"server-1")];
    let addrs = servers.each_ref().map(|server| server.addr);
    let gateway = Gateway::start(config(), |on| {
        let world = World::new().cluster(0, &addrs[..1]).cluster(1, &addrs[1..]);
        udp(world.policy(|policy| policy.timeouts.attempt = Duration::from_millis(50))).on(on)
    });
    // Answers become usual, so that their absence says something.
    for _ in 0..8 {
        let client = Client::of(gateway.addr);
        client.send(initial());
        assert_eq!(&client.receive()[7..15], b"server-0");
    }
    servers[0].silence();
    let moved = Client::of(gateway.addr);
    let goes_on = [&[0x41][..], b"server-0", b"encrypted"].concat();
    let mut sent = 0;
    until("clients that ask for a connection have one elsewhere", || {
        moved.send(&goes_on);
        sent += 1;
        Client::of(gateway.addr).send(initial());
        support::pass(Duration::from_millis(5));
        servers[1].count() >= 20
    });
    until("all have arrived", || servers[0].count() >= 8 + sent);
    assert_eq!(servers[0].paths_of(&goes_on[..9]), 1, "one path for all of them");
    // Whoever moves only now is picked for while everybody else goes elsewhere.
    for late in 2..=20 {
        Client::of(gateway.addr).send(&goes_on);
        until("it has arrived", || {
            servers.iter().map(|server| server.paths_of(&goes_on[..9])).sum::<usize>() >= late
        });
    }
    assert_eq!(servers[0].paths_of(&goes_on[..9]), 20, "a path for each of them");
    assert_eq!(servers[1].paths_of(&goes_on[..9]), 0, "nobody else knows the connection");
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

/// Nobody listens: datagrams are dropped and counted, the flow stays, and whoever listens there next is found.
#[test]
fn nobody_to_send_to_costs_datagrams_and_nothing_else() {
    let addr = nobody();
    let gateway = Gateway::start(config(), |on| udp(world(&[addr])).on(on));
    let client = Client::of(gateway.addr);
    until("they are dropped", || {
        client.send("anybody?");
        dropped(&gateway, Dropped::NoEndpoint) > 0
    });
    assert_eq!(flows(&gateway), (1, 1));
    let server = UdpSocket::bind(addr).unwrap();
    server.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
    until("somebody is found", || {
        client.send("there you are");
        // Probes of the failure detector say nothing.
        server.recv(&mut [0; 32]).is_ok_and(|len| len > 0)
    });
    assert_eq!(flows(&gateway), (1, 1));
}

/// One endpoint after the other says that nobody listens: that is over after `retry.attempts`.
#[test]
fn a_datagram_that_nobody_takes_is_not_sent_for_ever() {
    let addrs = [nobody(), nobody()];
    for addrs in [&addrs[..1], &addrs] {
        let gateway = Gateway::start(config(), |on| {
            udp(world(addrs).undetected().policy(|policy| policy.retry.attempts = 3)).on(on)
        });
        Client::of(gateway.addr).send("anybody?");
        until("it is given up", || dropped(&gateway, Dropped::NoEndpoint) == 1);
        support::pass(Duration::from_millis(50));
        assert_eq!(gateway.sum(|stats| stats.connects_total.get()), 3);
        assert_eq!(dropped(&gateway, Dropped::NoEndpoint), 1);
    }
}
