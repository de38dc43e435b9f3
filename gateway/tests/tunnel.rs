//! Upgraded connections: WebSocket with a real library on both sides, and what must not pass before the 101.
#![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

mod support;

use std::net::TcpStream;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use config::Period;
use gateway::observe::stats::Limit;
use routing::id::ClusterId;
use support::backend::{Backend, Then};
use support::client::{Client, Cut};
use support::table::{World, world};
use support::websocket::{self, UPGRADE};
use support::{Gateway, PATIENCE, config, pass, until};
use tungstenite::protocol::WebSocket;
use tungstenite::{Message, accept};

const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

fn before(backend: &Backend) -> Gateway {
    let addr = backend.addr;
    Gateway::start(config(), |on| world(&[addr]).on(on))
}

/// A real WebSocket server that sends every message back.
fn echo() -> Backend {
    Backend::raw(|peer| {
        let Ok(socket) = accept(peer.stream.try_clone().unwrap()) else { return };
        websocket::echo(socket);
    })
}

fn open(gateway: &Gateway) -> WebSocket<TcpStream> {
    let stream = Client::connect(gateway.addr).stream;
    let (socket, response) = tungstenite::client("ws://shop.example/chat?room=1", stream).unwrap();
    assert_eq!(response.status(), 101);
    socket
}

#[test]
fn websocket_messages_travel_both_ways() {
    let backend = echo();
    let gateway = before(&backend);
    let mut sockets: Vec<_> = (0..8).map(|_| open(&gateway)).collect();
    assert_eq!(gateway.sum(|stats| stats.tunnels_open.get()), 8);
    websocket::converse(&mut sockets);
    for socket in &mut sockets {
        socket.close(None).unwrap();
        // The closing handshake, then the end.
        while socket.read().is_ok() {}
    }
    drop(sockets);
    until("the tunnels have ended", || gateway.sum(|stats| stats.tunnels_open.get()) == 0);
    until("their connections, too", || gateway.sum(|stats| stats.connections_open.get()) == 0);
}

#[test]
fn large_websocket_messages_travel_both_ways() {
    let backend = echo();
    let gateway = before(&backend);
    let mut socket = open(&gateway);
    for size in [0, 1, 4_000, 16_384, 131_072, 1 << 20] {
        let data: Vec<u8> = (0..=255).cycle().take(size).collect();
        socket.send(Message::binary(data.clone())).unwrap();
        assert!(socket.read().unwrap().into_data() == data, "{size} bytes");
    }
}

/// What the backend sends right behind its 101 belongs to the tunnel.
#[test]
fn bytes_behind_the_101_arrive() {
    let backend = Backend::raw(|peer| {
        if peer.head().is_some() {
            // A server's text frame (RFC 6455 §5.2).
            peer.send(format!("{SWITCH}\u{1}\u{5}first"));
            peer.drained();
        }
    });
    let gateway = before(&backend);
    let mut client = Client::connect(gateway.addr);
    client.send(UPGRADE);
    assert!(client.head().unwrap().starts_with("HTTP/1.1 101"));
    assert_eq!(client.exactly(7).unwrap(), b"\x01\x05first");
}

/// SECURITY S13: bytes that the client sends before the backend has agreed stay here until it has.
#[test]
fn nothing_passes_before_the_101() {
    let (agree, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let backend = Backend::raw(move |peer| {
        if peer.head().is_some() {
            let _ = gate.lock().unwrap().recv_timeout(PATIENCE);
            peer.send(SWITCH);
            while peer.more().is_some() {}
        }
    });
    // An endpoint that holds its answer back may be asked again on another connection, were it found to hang.
    let addr = backend.addr;
    let gateway = Gateway::start(config(), |on| world(&[addr]).undetected().on(on));
    let mut client = Client::connect(gateway.addr);
    client.send(format!("{UPGRADE}early bytes"));
    until("the request is there", || backend.bytes() > 0);
    client.send(" and more");
    assert!(client.is_silent(Duration::from_millis(100)));
    assert!(backend.log()[0].raw.ends_with(b"\r\n\r\n"), "bytes passed before the 101");
    agree.send(()).unwrap();
    assert!(client.head().unwrap().starts_with("HTTP/1.1 101"));
    until("they arrive after it", || backend.log()[0].raw.ends_with(b"\r\n\r\nearly bytes and more"));
}

/// What stands behind an upgrade that is refused is the next request, judged and written anew like any other: not
/// one byte of it travels as part of a tunnel.
#[test]
fn behind_a_refused_upgrade_comes_an_ordinary_request() {
    let backend = Backend::answering("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", Then::Keep);
    let gateway = before(&backend);
    let mut client = Client::connect(gateway.addr);
    client.send(format!("{UPGRADE}GET /next HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n"));
    for _ in 0..2 {
        let response = client.response();
        assert_eq!((response.status, response.text().as_str()), (403, "no"));
    }
    let next = backend.requests().pop().unwrap();
    assert_eq!((next.target(), next.one("x-forwarded-for")), ("/next", Some("127.0.0.1")));
    // What is no request is refused here and seen by nobody.
    let mut client = Client::connect(gateway.addr);
    client.send(format!("{UPGRADE}\u{1}\u{5}first\r\n\r\n"));
    assert_eq!((client.response().status, client.response().status), (403, 400));
    assert_eq!(backend.count(), 3);
    assert_eq!(gateway.sum(|stats| stats.tunnels_open.get()), 0);
}

#[test]
fn a_switch_that_names_no_protocol_becomes_502() {
    let backend = Backend::answering("HTTP/1.1 101 Switching Protocols\r\n\r\n", Then::Keep);
    let gateway = before(&backend);
    let mut client = Client::connect(gateway.addr);
    assert_eq!(client.send(UPGRADE).response().status, 502);
}

/// Each side may end its own direction and go on receiving.
#[test]
fn half_close_travels_both_ways() {
    let backend = Backend::raw(|peer| {
        if peer.head().is_some() {
            peer.send(SWITCH);
            peer.drained();
            // The client has ended; this side still speaks.
            peer.send("after your end");
        }
    });
    let gateway = before(&backend);
    let mut client = Client::connect(gateway.addr);
    client.send(UPGRADE);
    client.head().unwrap();
    client.send("last words").finish();
    assert_eq!(client.rest(), (b"after your end".to_vec(), Cut::Closed));

    let backend = Backend::raw(|peer| {
        if peer.head().is_some() {
            peer.send(format!("{SWITCH}bye"));
            peer.stream.shutdown(std::net::Shutdown::Write).unwrap();
            while peer.more().is_some() {}
        }
    });
    let gateway = before(&backend);
    let mut client = Client::connect(gateway.addr);
    client.send(UPGRADE);
    client.head().unwrap();
    assert_eq!(client.rest(), (b"bye".to_vec(), Cut::Closed));
    client.send("still speaking");
    until("it arrives", || backend.log()[0].raw.ends_with(b"still speaking"));
    client.finish();
    until("the tunnel has ended", || gateway.sum(|stats| stats.tunnels_open.get()) == 0);
}

#[test]
fn a_silent_tunnel_ends_after_its_time_and_a_busy_one_does_not() {
    let backend = echo();
    let addr = backend.addr;
    let mut config = config();
    // Longer than a tunnel's look at its cluster takes to come round: that is no traffic.
    config.timeouts.tunnel_idle = Period::millis(1_500);
    let gateway = Gateway::start(config, |on| world(&[addr]).on(on));
    let (mut busy, mut silent) = (open(&gateway), open(&gateway));
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(3_000) {
        busy.send(Message::text("tick")).unwrap();
        assert_eq!(busy.read().unwrap().to_text().unwrap(), "tick");
        support::pass(Duration::from_millis(20));
    }
    assert!(silent.read().is_err());
    assert_eq!(gateway.sum(|stats| stats.tunnels_open.get()), 1);
}

/// SECURITY S20: a client that takes nothing is closed, in a tunnel as in a body.
#[test]
fn s20_a_tunnel_whose_client_reads_nothing_is_closed() {
    let backend = Backend::raw(|peer| {
        if peer.head().is_some() {
            peer.send(SWITCH);
            let _ = std::io::copy(&mut std::io::repeat(b'x'), &mut peer.stream);
        }
    });
    let addr = backend.addr;
    let mut config = config();
    config.timeouts.write_stall = Period::millis(300);
    let gateway = Gateway::start(config, |on| world(&[addr]).on(on));
    let mut client = Client::connect_narrow(gateway.addr);
    client.send(UPGRADE);
    until("it is closed", || gateway.hits(Limit::WriteStall) == 1);
    until("nothing is left", || gateway.sum(|stats| stats.tunnels_open.get()) == 0);
}

/// Tunnels are silent most of the time, and there are many: what each of them held in its busiest moment is given back.
#[test]
fn silent_tunnels_hold_little_whatever_they_carried() {
    const TUNNELS: usize = 24;
    let backend = echo();
    let addr = backend.addr;
    let gateway = Gateway::start(config(), |on| world(&[addr]).on(on));
    let large = "x".repeat(1 << 20);
    let mut sockets: Vec<_> = (0..TUNNELS).map(|_| open(&gateway)).collect();
    for socket in &mut sockets {
        for text in [large.as_str(), "small", "small", "small", "small"] {
            socket.send(Message::text(text)).unwrap();
            assert_eq!(socket.read().unwrap().to_text().unwrap(), text);
        }
    }
    // For each a head and two small buffers; and what the pool keeps at hand.
    let most = (TUNNELS as u64 * 24 + 3 * 256) << 10;
    until("their buffers are small", || gateway.sum(|stats| stats.buffer_bytes.get()) <= most);
}

/// A tunnel is not bounded by the timeouts of ordinary exchanges.
#[test]
fn request_and_idle_timeouts_do_not_cut_a_tunnel() {
    let backend = echo();
    let addr = backend.addr;
    let gateway = Gateway::start(config(), |on| {
        world(&[addr])
            .policy(|policy| {
                policy.timeouts.request = Duration::from_millis(100);
                policy.timeouts.idle = Duration::from_millis(100);
                policy.timeouts.attempt = Duration::from_millis(100);
            })
            .on(on)
    });
    let mut socket = open(&gateway);
    support::pass(Duration::from_millis(300));
    socket.send(Message::text("still here")).unwrap();
    assert_eq!(socket.read().unwrap().to_text().unwrap(), "still here");
}

#[test]
fn a_client_that_vanishes_ends_the_tunnel_on_the_other_side() {
    let backend = Backend::raw(|peer| {
        if peer.head().is_some() {
            peer.send(SWITCH);
            while peer.more().is_some() {}
        }
    });
    let gateway = before(&backend);
    let mut client = Client::connect(gateway.addr);
    client.send(UPGRADE);
    client.head().unwrap();
    client.abort();
    until("the tunnel has ended", || gateway.sum(|stats| stats.tunnels_open.get()) == 0);
}

/// Clients come back elsewhere, one after the other.
#[test]
fn a_gradual_drain_takes_the_tunnels_along_and_a_drain_at_once_leaves_them() {
    let (near, far) = (echo(), echo());
    let world = World::new().cluster(0, &[near.addr]).cluster(1, &[far.addr]);
    let mut gateway = Gateway::start(config(), |on| world.on(on));
    let drain = |gateway: &mut Gateway, percent: u8| {
        gateway.change(|table| {
            Arc::make_mut(table.clusters.get_mut(&ClusterId(0)).unwrap()).drain_percent = percent;
        });
    };
    let _sockets: Vec<_> = (0..8).map(|_| open(&gateway)).collect();
    let open_now = |gateway: &Gateway| gateway.sum(|stats| stats.tunnels_open.get());
    drain(&mut gateway, 100);
    pass(Duration::from_millis(1_200));
    assert_eq!(open_now(&gateway), 8, "they end by themselves");
    drain(&mut gateway, 0);
    pass(Duration::from_millis(1_200));
    drain(&mut gateway, 50);
    pass(Duration::from_millis(1_200));
    drain(&mut gateway, 100);
    until("all have left", || open_now(&gateway) == 0);
    assert_eq!(gateway.sum(|stats| stats.tunnels_evacuated_total.get()), 8);
    drop(near);
    let mut back = open(&gateway);
    back.send(Message::text("hello")).unwrap();
    assert_eq!(back.read().unwrap(), Message::text("hello"));
}
