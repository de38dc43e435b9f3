//! Layer 4: bytes both ways, half-close, back-pressure, who is tried, what must come first, who may come in, how it ends.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a failing helper fails its test; blocks are numbered by a byte"
)]

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use config::{Config, Period};
use gateway::observe::layer4::Ended;
use gateway::observe::stats::Limit;
use routing::id::{BackendId, EndpointId, ListenerId};
use routing::model::{Established, HostKey, HostPattern, Layer4, Protocol, SendProxy, WildcardLabels};
use support::backend::{Backend, Peer};
use support::client::{Client, Cut};
use support::table::{World, world};
use support::{Gateway, PATIENCE, config, until};

/// Sends everything back; at the client's end says goodbye.
fn echo() -> Backend {
    Backend::raw(|peer| {
        while peer.more().is_some() {
            let bytes = peer.take_pending();
            peer.send(bytes);
        }
        peer.send("bye");
    })
}

fn tcp(world: World) -> World {
    world.layer4(Protocol::Tcp, |_| {})
}

fn before(backend: &Backend) -> Gateway {
    before_with(config(), backend, |_| {})
}

fn before_with(config: Config, backend: &Backend, rules: impl FnOnce(&mut Layer4)) -> Gateway {
    let addr = backend.addr;
    // What the detector makes of an endpoint that is late has tests of its own.
    Gateway::start(config, |on| world(&[addr]).undetected().layer4(Protocol::Tcp, rules).on(on))
}

fn ended(gateway: &Gateway, why: Ended) -> u64 {
    gateway.sum(|stats| stats.layer4.ended(why))
}

fn open(gateway: &Gateway) -> u64 {
    gateway.sum(|stats| stats.layer4.connections_open.get())
}

/// Reads to the end of the connection.
fn rest(client: &mut Client) -> (Vec<u8>, Option<std::io::ErrorKind>) {
    let mut bytes = Vec::new();
    let result = client.stream.read_to_end(&mut bytes);
    (bytes, result.err().map(|error| error.kind()))
}

#[track_caller]
fn echoes(client: &mut Client, text: &str) {
    client.send(text);
    assert_eq!(client.exactly(text.len()).unwrap(), text.as_bytes());
}

/// A connection of which nothing comes back but its end, however early that is.
#[track_caller]
fn is_turned_away(addr: SocketAddr, bytes: &[u8]) {
    let Ok(mut client) = Client::try_connect(addr) else { return };
    let _ = client.try_send(bytes);
    let (answer, error) = rest(&mut client);
    assert!(answer.is_empty(), "{answer:?}");
    assert!(matches!(error, None | Some(std::io::ErrorKind::ConnectionReset)), "{error:?}");
}

/// What came on each connection on which anything did: one that ends at once asks whether somebody is there.
fn spoken(backend: &Backend) -> Vec<Vec<u8>> {
    backend.log().into_iter().map(|connection| connection.raw).filter(|raw| !raw.is_empty()).collect()
}

/// Served by nobody: connects there are refused.
fn nobody() -> SocketAddr {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap()
}

#[test]
fn bytes_travel_both_ways_and_each_side_closes_its_half() {
    let backend = echo();
    let gateway = before(&backend);
    let mut client = Client::connect(gateway.addr);
    for round in 0..50 {
        echoes(&mut client, &format!("message {round}"));
    }
    client.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&mut client), (b"bye".to_vec(), None));
    until("the connection is over", || open(&gateway) == 0);
    assert_eq!(ended(&gateway, Ended::ClientClosed), 1);
    let received = gateway.sum(|stats| stats.layer4.received_bytes_total.get());
    assert_eq!(gateway.sum(|stats| stats.layer4.sent_bytes_total.get()), received + 3);
}

#[test]
fn a_server_that_speaks_first_and_closes_first_is_heard_to_its_end() {
    let backend = Backend::raw(|peer| {
        peer.send("220 welcome\r\n");
        peer.stream.shutdown(Shutdown::Write).unwrap();
        while peer.more().is_some() {}
    });
    let gateway = before(&backend);
    let mut client = Client::connect(gateway.addr);
    assert_eq!(rest(&mut client).0, b"220 welcome\r\n");
    client.send("what is said after the server's end still arrives");
    client.stream.shutdown(Shutdown::Write).unwrap();
    until("the connection is over", || open(&gateway) == 0);
    assert_eq!(ended(&gateway, Ended::UpstreamClosed), 1);
    assert!(backend.log()[0].raw.ends_with(b"still arrives"));
}

#[test]
fn a_slow_client_holds_its_server_back_and_gets_every_byte() {
    const BYTES: usize = 48 << 20;
    let backend = Backend::raw(|peer| {
        let mut block = [0; 64 << 10];
        for n in 0..BYTES / block.len() {
            block.fill(n as u8);
            if peer.stream.write_all(&block).is_err() {
                return;
            }
        }
    });
    let gateway = before(&backend);
    let mut client = Client::connect_narrow(gateway.addr);
    let relayed = || gateway.sum(|stats| stats.layer4.sent_bytes_total.get());
    let (mut last, mut since) = (0, Instant::now());
    until("the server is held back", || {
        let now = relayed();
        if std::mem::replace(&mut last, now) != now {
            since = Instant::now();
        }
        now > 0 && since.elapsed() > Duration::from_millis(100)
    });
    assert!(relayed() < BYTES as u64 / 2, "{} relayed to a client that reads nothing", relayed());
    until("what is held is known", || gateway.sum(|stats| stats.buffer_bytes.get()) > 0);
    assert!(gateway.sum(|stats| stats.buffer_bytes.get()) <= 1 << 20);
    let (bytes, error) = rest(&mut client);
    assert_eq!((bytes.len(), error), (BYTES, None));
    assert!(bytes.chunks(64 << 10).enumerate().all(|(n, block)| block.iter().all(|byte| *byte == n as u8)));
}

#[test]
fn bulk_both_ways_at_once_arrives_whole() {
    let backend = echo();
    let gateway = before(&backend);
    let client = Client::connect(gateway.addr);
    let mut sender = client.stream.try_clone().unwrap();
    let sending = std::thread::spawn(move || {
        for n in 0..256_u32 {
            sender.write_all(&[n as u8; 64 << 10]).unwrap();
        }
        sender.shutdown(Shutdown::Write).unwrap();
    });
    let mut client = client;
    let (bytes, error) = rest(&mut client);
    sending.join().unwrap();
    assert_eq!((bytes.len(), error), ((256 << 16) + 3, None));
    assert!(
        bytes[..256 << 16].chunks(64 << 10).enumerate().all(|(n, block)| block.iter().all(|b| *b == n as u8))
    );
}

#[test]
fn idle_connections_give_their_buffers_back_and_go_on() {
    let backend = echo();
    let mut config = config();
    config.timeouts.buffer_idle = Period::millis(5);
    let gateway = before_with(config, &backend, |_| {});
    let mut clients: Vec<_> = (0..40).map(|_| Client::connect(gateway.addr)).collect();
    for round in 0..3 {
        clients.iter_mut().for_each(|client| echoes(client, &format!("round {round}")));
        support::pass(Duration::from_millis(30));
    }
    // In the very moment in which a side's read is called back, the other side speaks.
    for round in 0..30 {
        for client in &mut clients {
            echoes(client, &format!("in between {round}"));
            std::thread::park_timeout(Duration::from_micros(130));
        }
    }
    // What is kept for the next ones is bounded; 40 pairs of armed reads would hold 320 KiB.
    assert_eq!(open(&gateway), 40);
    drop(clients);
    until("all are over", || open(&gateway) == 0);
    assert_eq!(ended(&gateway, Ended::ClientClosed), 40);
}

#[test]
fn refused_endpoints_and_a_refused_cluster_cost_no_connection() {
    let backend = echo();
    let addr = backend.addr;
    let gateway = Gateway::start(config(), |on| {
        tcp(World::new().cluster(0, &[nobody(), nobody()]).cluster(1, &[addr])).on(on)
    });
    for n in 0..50 {
        let mut client = Client::connect(gateway.addr);
        echoes(&mut client, &format!("connection {n}"));
    }
    assert!(gateway.sum(|stats| stats.moves_total.get()) >= 2);
    assert_eq!(ended(&gateway, Ended::ConnectFailed) + ended(&gateway, Ended::NoEndpoint), 0);
}

#[test]
fn the_clients_first_bytes_wait_for_whoever_accepts() {
    let backend = echo();
    let addr = backend.addr;
    let gateway = Gateway::start(config(), |on| {
        tcp(World::new().cluster(0, &[nobody()]).cluster(1, &[nobody()]).cluster(2, &[addr])).on(on)
    });
    let mut client = Client::connect(gateway.addr);
    echoes(&mut client, "sent before anybody had accepted");
    assert_eq!(backend.log()[0].raw, b"sent before anybody had accepted");
}

/// A listener whose queue is full: its kernel drops every SYN, as a dead host does.
fn black_hole() -> (TcpListener, Vec<TcpStream>) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let listener = TcpListener::from(socket);
    let addr = listener.local_addr().unwrap();
    let mut queued = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&addr, Duration::from_millis(200)) {
        queued.push(stream);
    }
    (listener, queued)
}

#[test]
fn a_silent_cluster_is_left_before_its_connects_time_out() {
    let (hole, _queued) = black_hole();
    let backend = echo();
    let (dead, addr) = (hole.local_addr().unwrap(), backend.addr);
    let gateway = Gateway::start(config(), |on| {
        let world = World::new().cluster(0, &[dead]).cluster(1, &[addr]);
        tcp(world.policy(|policy| policy.timeouts.connect = Duration::from_secs(8))).on(on)
    });
    let began = Instant::now();
    let mut clients: Vec<_> = (0..8).map(|_| Client::connect(gateway.addr)).collect();
    clients.iter_mut().for_each(|client| echoes(client, "somebody is there"));
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}

#[test]
fn nobody_to_connect_to_is_a_reset() {
    let gateway = Gateway::start(config(), |on| tcp(world(&[nobody()])).on(on));
    is_turned_away(gateway.addr, b"");
    until("it is counted", || {
        ended(&gateway, Ended::ConnectFailed) + ended(&gateway, Ended::NoEndpoint) == 1
    });
}

#[test]
fn a_reset_on_one_side_is_a_reset_on_the_other() {
    let backend = Backend::raw(|peer| {
        peer.exactly(5);
        peer.reset();
    });
    let gateway = before(&backend);
    let mut client = Client::connect(gateway.addr);
    client.send("reset");
    assert_eq!(rest(&mut client).1, Some(std::io::ErrorKind::ConnectionReset));
    until("it is counted", || ended(&gateway, Ended::UpstreamReset) == 1);

    let (tell, told) = std::sync::mpsc::channel();
    let backend = Backend::raw(move |peer: &mut Peer| {
        peer.exactly(5);
        let error = peer.stream.read(&mut [0; 16]).err().map(|error| error.kind());
        tell.send(error).unwrap();
    });
    let gateway = before(&backend);
    let mut client = Client::connect(gateway.addr);
    client.send("hello");
    until("it has arrived", || backend.bytes() == 5);
    socket2::SockRef::from(&client.stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    assert_eq!(told.recv_timeout(PATIENCE).unwrap(), Some(std::io::ErrorKind::ConnectionReset));
    until("it is counted", || ended(&gateway, Ended::ClientReset) == 1);
}

// ---------------------------------------------------------------- TLS passthrough

/// A ClientHello that names `name`, in records of at most `record` bytes.
fn hello(name: &str, record: usize) -> Vec<u8> {
    let len16 = |bytes: &[u8]| [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat();
    let entry = [&[0][..], &len16(name.as_bytes())].concat();
    let extension = [&[0, 0][..], &len16(&len16(&entry))].concat();
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.push(0);
    body.extend(len16(&[0x13, 0x01]));
    body.extend([1, 0]);
    body.extend(len16(&extension));
    let message = [&[1, 0][..], &len16(&body)].concat();
    message.chunks(record).flat_map(|piece| [&[22, 3, 1][..], &len16(piece)].concat()).collect()
}

/// Serves `default` for no name at all, and further backends by name.
fn by_name(
    gateway_on: SocketAddr,
    default: SocketAddr,
    names: &[(HostPattern, SocketAddr)],
) -> routing::delta::RouteTable {
    let mut table = world(&[default]).layer4(Protocol::TlsPassthrough, |_| {}).on(gateway_on);
    let any = HostKey { listener: ListenerId(0), pattern: HostPattern::Any };
    let rules = table.hosts.remove(&any).unwrap();
    for (n, (pattern, addr)) in (1..).zip(names) {
        let mut backend = (*table.backends[&BackendId(0)]).clone();
        backend.name = format!("default/tls-{n}:443").into();
        table.backends.insert(BackendId(n), Arc::new(backend));
        let mut endpoint = table.endpoints[&EndpointId(0)].clone();
        (endpoint.backend, endpoint.addr) = (BackendId(n), *addr);
        table.endpoints.insert(EndpointId(n), endpoint);
        let mut rule = rules.rules[0].clone();
        let mut action = (*rule.action).clone();
        action.target = support::table::forward(n);
        rule.action = Arc::new(action);
        let key = HostKey { listener: ListenerId(0), pattern: pattern.clone() };
        table.hosts.insert(key, Arc::new(routing::model::HostRules::new([rule])));
    }
    table
}

#[test]
fn a_client_hello_in_many_segments_goes_where_its_name_says_and_an_unknown_name_nowhere() {
    let (exact, wild, unused) = (echo(), echo(), echo());
    let names = [
        (HostPattern::Exact("db.example".into()), exact.addr),
        (HostPattern::Wildcard { suffix: "example".into(), labels: WildcardLabels::Many }, wild.addr),
    ];
    let default = unused.addr;
    let gateway = Gateway::start(config(), |on| by_name(on, default, &names));
    for (name, backend) in [("DB.example", &exact), ("other.example", &wild), ("a.b.example", &wild)] {
        for (record, segment) in [(1 << 14, 1 << 14), (1 << 14, 1), (7, 3)] {
            let bytes = hello(name, record);
            let mut client = Client::connect(gateway.addr);
            for piece in bytes.chunks(segment) {
                client.send(piece);
            }
            assert_eq!(client.exactly(bytes.len()).unwrap(), bytes, "{name}: it arrives as it was sent");
            assert_eq!(spoken(backend).last().unwrap(), &bytes);
            echoes(&mut client, "and everything behind it");
        }
    }
    for bytes in [hello("example", 99), hello("elsewhere.org", 99), b"GET / HTTP/1.1\r\n\r\n".to_vec()] {
        is_turned_away(gateway.addr, &bytes);
    }
    until("they are counted", || {
        ended(&gateway, Ended::NoRoute) == 2 && ended(&gateway, Ended::Malformed) == 1
    });
    assert_eq!([&unused, &exact, &wild].map(|backend| spoken(backend).len()), [0, 3, 6]);
}

#[test]
fn a_client_hello_that_does_not_come_is_given_up() {
    let backend = echo();
    let mut config = config();
    config.timeouts.header = Period::millis(100);
    let addr = backend.addr;
    let gateway = Gateway::start(config, |on| world(&[addr]).layer4(Protocol::TlsPassthrough, |_| {}).on(on));
    let mut client = Client::connect(gateway.addr);
    client.send(&hello("db.example", 99)[..20]);
    assert_eq!(rest(&mut client).0, b"");
    until("it is counted", || ended(&gateway, Ended::Unbegun) == 1);
    assert_eq!((gateway.hits(Limit::HeaderTimeout), backend.connections()), (1, 0));
}

#[test]
fn openssl_speaks_through_to_openssl() {
    if Command::new("openssl").arg("version").output().is_err() {
        println!("SKIPPED: openssl is not installed");
        return;
    }
    let dir = std::env::temp_dir().join(format!("ringway-openssl-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let (key, cert) = (dir.join("key.pem"), dir.join("cert.pem"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=db.example"])
        .args(["-addext", "subjectAltName=DNS:db.example", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&cert)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let addr = nobody();
    let mut server = Command::new("openssl")
        .args(["s_server", "-quiet", "-rev", "-accept", &addr.to_string(), "-key"])
        .arg(&key)
        .arg("-cert")
        .arg(&cert)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    until("the server listens", || TcpStream::connect(addr).is_ok());
    let names = [(HostPattern::Exact("db.example".into()), addr)];
    let gateway = Gateway::start(config(), |on| by_name(on, addr, &names));
    let mut client = Command::new("openssl")
        .args(["s_client", "-quiet", "-verify_return_error", "-verify_hostname", "db.example"])
        .args(["-servername", "db.example", "-connect", &gateway.addr.to_string(), "-CAfile"])
        .arg(&cert)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    client.stdin.as_mut().unwrap().write_all(b"passed through\n").unwrap();
    let mut answer = [0; 15];
    let read = client.stdout.as_mut().unwrap().read_exact(&mut answer);
    let (_, _) = (client.kill(), server.kill());
    let (_, _) = (client.wait(), server.wait());
    let _ = std::fs::remove_dir_all(&dir);
    read.unwrap();
    assert_eq!(&answer, b"hguorht dessap\n");
    assert_eq!(gateway.sum(|stats| stats.layer4.connections_total.get()), 1);
}

// ---------------------------------------------------------------- PROXY protocol

/// S43: from a peer that may speak for its clients, both versions; the endpoint is told by the version it is to get.
#[test]
fn a_trusted_peer_says_who_its_client_is_and_the_endpoint_is_told() {
    let backend = echo();
    let gateway = before_with(config(), &backend, |rules| {
        rules.proxy_from = [("127.0.0.0/8").parse().unwrap()].into();
        rules.send_proxy = SendProxy::V1;
        rules.deny = ["203.0.113.0/24".parse().unwrap()].into();
    });
    let v2 = |ip: [u8; 4]| {
        let head =
            [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x10"[..], &ip, &[127, 0, 0, 1, 0xdc, 4, 1, 0xbb]].concat();
        [&head[..], &[4, 0, 1, 0]].concat()
    };
    for header in [b"PROXY TCP4 192.0.2.7 127.0.0.1 56324 443\r\n".to_vec(), v2([192, 0, 2, 7])] {
        let mut client = Client::connect(gateway.addr);
        for byte in &header {
            client.send([*byte]);
        }
        client.send("hello");
        let line = format!("PROXY TCP4 192.0.2.7 127.0.0.1 56324 {}\r\nhello", gateway.addr.port());
        assert_eq!(client.exactly(line.len()).unwrap(), line.as_bytes());
    }
    // The access list asks for the source that the header names.
    is_turned_away(gateway.addr, &v2([203, 0, 113, 9]));
    until("it is counted", || ended(&gateway, Ended::Denied) == 1);
    assert_eq!(backend.connections(), 2);
}

/// S43: whoever may not say so is refused, and what is no header, or lies about its length, is refused.
#[test]
fn spoofed_and_broken_headers_reach_no_endpoint() {
    let backend = echo();
    let addr = backend.addr;
    let mut gateway = before_with(config(), &backend, |rules| {
        rules.proxy_from = ["10.0.0.0/8".parse().unwrap()].into();
    });
    is_turned_away(gateway.addr, b"PROXY TCP4 10.0.0.1 127.0.0.1 1 2\r\nhello");
    until("it is counted", || ended(&gateway, Ended::Denied) == 1);

    let on = gateway.addr;
    gateway.change(|table| {
        let trusting = world(&[addr]).layer4(Protocol::Tcp, |rules| {
            rules.proxy_from = ["127.0.0.0/8".parse().unwrap()].into();
        });
        *table = trusting.on(on);
    });
    let broken = [
        &b"hello without a header"[..],
        b"PROXY TCP4 192.0.2.7 127.0.0.1 1\r\nhello",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0f\xc0\x00\x02\x07\x7f\x00\x00\x01\x00\x01\x00\x02\x02\xff\xff",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
    ];
    for bytes in broken {
        is_turned_away(gateway.addr, bytes);
    }
    until("they are counted", || ended(&gateway, Ended::Malformed) == broken.len() as u64);
    assert_eq!(backend.connections(), 0);

    // Where nobody is trusted a header is payload, and says nothing to us.
    gateway.change(|table| *table = tcp(world(&[addr])).on(on));
    let mut client = Client::connect(gateway.addr);
    echoes(&mut client, "PROXY TCP4 10.0.0.1 127.0.0.1 1 2\r\n");
}

#[test]
fn version_2_tells_the_name_that_the_client_asked_for() {
    let backend = echo();
    let addr = backend.addr;
    let gateway = Gateway::start(config(), |on| {
        world(&[addr]).layer4(Protocol::TlsPassthrough, |rules| rules.send_proxy = SendProxy::V2).on(on)
    });
    let bytes = hello("db.example", 1 << 14);
    let mut client = Client::connect(gateway.addr);
    client.send(&bytes);
    let header = client.exactly(16 + 12 + 3 + 10).unwrap();
    let read = wire::proxy_protocol::decode(&header).unwrap().unwrap();
    assert_eq!(read.addresses, Some((client.stream.local_addr().unwrap(), gateway.addr)));
    assert_eq!(read.tlvs().collect::<Vec<_>>(), [(2, &b"db.example"[..])]);
    assert_eq!(client.exactly(bytes.len()).unwrap(), bytes);
}

// ---------------------------------------------------------------- who may come in

#[test]
fn access_lists_are_asked_before_anything_is_connected() {
    let backend = echo();
    let addr = backend.addr;
    let mut gateway =
        before_with(config(), &backend, |rules| rules.allow = ["10.0.0.0/8".parse().unwrap()].into());
    is_turned_away(gateway.addr, b"hello");
    until("it is counted", || ended(&gateway, Ended::Denied) == 1);
    let on = gateway.addr;
    gateway.change(|table| {
        let allowing = world(&[addr]).layer4(Protocol::Tcp, |rules| {
            rules.allow = ["127.0.0.0/8".parse().unwrap()].into();
        });
        *table = allowing.on(on);
    });
    echoes(&mut Client::connect(gateway.addr), "let in, and the listener never closed");
}

/// S31: one source cannot take more than its part.
#[test]
fn a_source_and_a_listener_have_as_many_connections_as_they_may_and_get_them_back() {
    let backend = echo();
    for (edit, limit) in [
        (
            &(|rules: &mut Layer4| rules.source_connections_max = 3) as &dyn Fn(&mut Layer4),
            Limit::SourceConnections,
        ),
        (&|rules| rules.connections_max = 3, Limit::ListenerConnections),
    ] {
        let gateway = before_with(config(), &backend, edit);
        let mut clients: Vec<_> = (0..3).map(|_| Client::connect(gateway.addr)).collect();
        clients.iter_mut().for_each(|client| echoes(client, "one of three"));
        is_turned_away(gateway.addr, b"a fourth");
        until("it is counted", || (gateway.hits(limit), ended(&gateway, Ended::Limited)) == (1, 1));
        clients.pop();
        until("its place is free", || open(&gateway) == 2);
        echoes(&mut Client::connect(gateway.addr), "the next one");
    }
}

#[test]
fn a_source_opens_as_many_connections_a_second_as_it_may() {
    let backend = echo();
    let gateway = before_with(config(), &backend, |rules| rules.source_rate_max = 5);
    let mut served = 0;
    for _ in 0..20 {
        let Ok(mut client) = Client::try_connect(gateway.addr) else { continue };
        let _ = client.try_send("x");
        served += u64::from(client.exactly(1).is_ok());
    }
    assert!((5..=8).contains(&served), "{served} of 20 at once");
    assert_eq!(gateway.hits(Limit::SourceRate), 20 - served);
}

// ---------------------------------------------------------------- how it ends

#[test]
fn idle_time_and_lifetime_end_a_connection() {
    let backend = echo();
    let mut idle = config();
    idle.timeouts.tcp_idle = Period::millis(150);
    let mut short = config();
    short.timeouts.tcp_lifetime = Period::millis(300);
    for (config, why) in [(idle, Ended::Idle), (short, Ended::Lifetime)] {
        let gateway = before_with(config, &backend, |_| {});
        let mut client = Client::connect(gateway.addr);
        let began = Instant::now();
        echoes(&mut client, "hello");
        assert_eq!(rest(&mut client).1, Some(std::io::ErrorKind::ConnectionReset));
        assert!(began.elapsed() >= Duration::from_millis(140), "{:?}", began.elapsed());
        until("it is counted", || ended(&gateway, why) == 1);
    }
}

#[test]
fn a_drain_lets_connections_finish_and_takes_no_new_ones() {
    let backend = echo();
    let gateway = before(&backend);
    let mut client = Client::connect(gateway.addr);
    echoes(&mut client, "before");
    gateway.drain();
    until("nobody listens", || TcpStream::connect(gateway.addr).is_err());
    echoes(&mut client, "while it drains");
    client.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&mut client).0, b"bye");
    gateway.ended();
}

#[test]
fn the_drains_deadline_resets_what_is_left() {
    let backend = echo();
    let gateway = before(&backend);
    let mut client = Client::connect(gateway.addr);
    echoes(&mut client, "before");
    gateway.drain();
    gateway.node().peers.stop();
    assert_eq!(rest(&mut client).1, Some(std::io::ErrorKind::ConnectionReset));
    gateway.ended();
}

/// Accepts connections, keeps them, and stops listening when told: what is established stays.
struct Leaver {
    addr: SocketAddr,
    leave: std::sync::mpsc::Sender<()>,
    kept: std::thread::JoinHandle<Vec<TcpStream>>,
}

fn leaver() -> Leaver {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let addr = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    let (leave, left) = std::sync::mpsc::channel();
    let kept = std::thread::spawn(move || {
        let mut kept = Vec::new();
        let mut leaves = false;
        while !leaves {
            // One more look after it was told: what is queued would be reset with the queue.
            leaves = left.recv_timeout(Duration::from_millis(1)).is_ok();
            while let Ok((stream, _)) = listener.accept() {
                kept.push(stream);
            }
        }
        kept
    });
    Leaver { addr, leave, kept }
}

fn outlives_its_cluster(established: Established) -> (Gateway, Client, Vec<TcpStream>) {
    let (leaver, backend) = (leaver(), echo());
    let addr = backend.addr;
    let first = leaver.addr;
    let gateway = Gateway::start(config(), |on| {
        let world = World::new().cluster(0, &[first]).cluster(1, &[addr]);
        tcp(world.policy(|policy| policy.established = established)).on(on)
    });
    let mut client = Client::connect(gateway.addr);
    // Whoever has said nothing yet may go elsewhere.
    client.send("said");
    until("it has arrived", || gateway.sum(|stats| stats.layer4.received_bytes_total.get()) == 4);
    leaver.leave.send(()).unwrap();
    let kept = leaver.kept.join().unwrap();
    // The next connection finds the cluster gone, and goes to the other one.
    echoes(&mut Client::connect(gateway.addr), "elsewhere");
    until("there is a verdict", || gateway.sum(|stats| stats.verdicts_total.get()) > 0);
    (gateway, client, kept)
}

#[test]
fn a_connection_without_a_word_goes_elsewhere_when_its_cluster_is_found_down() {
    let (leaver, backend) = (leaver(), echo());
    let (first, addr) = (leaver.addr, backend.addr);
    let gateway =
        Gateway::start(config(), |on| tcp(World::new().cluster(0, &[first]).cluster(1, &[addr])).on(on));
    let mut client = Client::connect(gateway.addr);
    until("it is connected", || gateway.sum(|stats| stats.connects_total.get()) == 1);
    leaver.leave.send(()).unwrap();
    let _kept = leaver.kept.join().unwrap();
    echoes(&mut Client::connect(gateway.addr), "elsewhere");
    until("it is moved", || gateway.sum(|stats| stats.connects_total.get()) == 3);
    echoes(&mut client, "here");
    assert_eq!(ended(&gateway, Ended::Down), 0);
}

#[test]
fn connections_to_a_cluster_that_is_found_down_are_reset_at_once() {
    let (gateway, mut client, _kept) = outlives_its_cluster(Established::Reset);
    assert_eq!(rest(&mut client).1, Some(std::io::ErrorKind::ConnectionReset));
    until("it is counted", || ended(&gateway, Ended::Down) == 1);
}

#[test]
fn connections_to_a_cluster_that_is_found_down_stay_where_the_policy_says_so() {
    let (gateway, mut client, kept) = outlives_its_cluster(Established::Keep);
    let mut server = kept.into_iter().next().unwrap();
    server.set_nonblocking(false).unwrap();
    server.write_all(b"still here").unwrap();
    assert_eq!(client.exactly(10).unwrap(), b"still here");
    assert_eq!(ended(&gateway, Ended::Down), 0);
}

/// An idle connection waits for nothing: it must raise no suspicion, however long it says nothing.
#[test]
fn idle_connections_never_look_like_requests_that_wait() {
    let backend = Backend::raw(|peer| peer.drained());
    let gateway = before(&backend);
    let mut clients: Vec<_> = (0..20).map(|_| Client::connect(gateway.addr)).collect();
    for client in &mut clients {
        client.send("a question that a silent server never answers");
    }
    until("all has arrived", || backend.bytes() == 20 * 45);
    support::pass(Duration::from_millis(600));
    assert_eq!(gateway.sum(|stats| stats.suspicions_total.get() + stats.verdicts_total.get()), 0);
    assert_eq!(gateway.sum(|stats| stats.probes_total.get()), 0);
    assert!(clients.iter_mut().all(|client| client.ended() != Some(Cut::Reset)));
}

#[test]
fn ipv6_is_served_and_reached() {
    let listener = TcpListener::bind("[::1]:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut bytes = [0; 5];
        stream.read_exact(&mut bytes).unwrap();
        stream.write_all(&bytes).unwrap();
    });
    let port = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None).unwrap();
    port.set_reuse_port(true).unwrap();
    port.bind(&"[::1]:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    let on = port.local_addr().unwrap().as_socket().unwrap();
    let _gateway = Gateway::start(config(), |_| tcp(world(&[addr])).on(on));
    echoes(&mut Client::connect(on), "hello");
}
