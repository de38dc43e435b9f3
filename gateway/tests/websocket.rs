//! WebSocket in all four combinations of HTTP/1.1 and HTTP/2 (RFC 6455, RFC 8441), with a real library on both sides, and
//! what becomes of it where a backend of HTTP/2 does not take tunnels.
#![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

mod support;

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::HeaderValue;
use support::backend::Backend;
use support::client::Client;
use support::h2::{self as client_h2, run};
use support::h2_backend::{Asked, Do, H2Backend};
use support::table::{World, world};
use support::websocket::UPGRADE;
use support::{Gateway, config, until, websocket};
use tungstenite::protocol::{Role, WebSocket};
use tungstenite::{Message, accept};

/// What a library of WebSocket reads and writes.
trait Wire: std::io::Read + std::io::Write + Send {}
impl<T: std::io::Read + std::io::Write + Send> Wire for T {}
type Socket = WebSocket<Box<dyn Wire>>;

/// A client of HTTP/1.1, whose library makes the whole handshake and judges what answers it.
fn open_1(addr: SocketAddr) -> Socket {
    let stream: Box<dyn Wire> = Box::new(Client::connect(addr).stream);
    let (socket, response) = tungstenite::client("ws://shop.example/chat?room=1", stream).unwrap();
    assert_eq!(response.status(), 101);
    socket
}

/// A client of HTTP/2: one connection for each, so that they are as independent as those of HTTP/1.1.
fn open_2(addr: SocketAddr) -> Socket {
    let (ready, opened) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let mut client = client_h2::Client::connect(addr).await;
            websocket::announced(&client.send).await.expect("the gateway takes tunnels");
            let (response, send) = client.start(websocket::connect("/chat?room=1"), false).await;
            let response = response.await.unwrap();
            assert_eq!(response.status(), 200);
            for gone in ["sec-websocket-accept", "connection", "upgrade"] {
                assert!(!response.headers().contains_key(gone), "{gone}");
            }
            let (library, ours) = websocket::pair();
            ready.send(library).unwrap();
            websocket::pump(response.into_body(), send, ours).await;
        });
    });
    let library: Box<dyn Wire> = Box::new(opened.recv_timeout(support::PATIENCE).unwrap());
    WebSocket::from_raw_socket(library, Role::Client, None)
}

/// What a client of HTTP/2 is answered that gets no tunnel.
fn asked_2(addr: SocketAddr) -> client_h2::Answer {
    run(async {
        let mut client = client_h2::Client::connect(addr).await;
        websocket::announced(&client.send).await.unwrap();
        let (response, _send) = client.start(websocket::connect("/chat"), false).await;
        client_h2::answer(response.await.unwrap()).await.unwrap()
    })
}

/// A server of HTTP/1.1 and of HTTP/2.
fn server_1() -> Backend {
    Backend::raw(|peer| {
        if let Ok(socket) = accept(peer.stream.try_clone().unwrap()) {
            websocket::echo(socket);
        }
    })
}

fn server_2() -> H2Backend {
    H2Backend::tunnels(|_| Do::WebSocket(Vec::new()))
}

fn before(world: World) -> Gateway {
    Gateway::start(config(), |addr| world.undetected().on(addr))
}

/// Messages of many at once, large ones, and the closing handshake.
fn converse(gateway: &Gateway, open: impl Fn(SocketAddr) -> Socket) {
    let mut sockets: Vec<Socket> = (0..6).map(|_| open(gateway.addr)).collect();
    assert_eq!(gateway.sum(|stats| stats.tunnels_open.get()), 6);
    websocket::converse(&mut sockets);
    for size in [0, 1, 4_000, 16_384, 131_072] {
        let data: Vec<u8> = (0..=255).cycle().take(size).collect();
        sockets[0].send(Message::binary(data.clone())).unwrap();
        assert!(sockets[0].read().unwrap().into_data() == data, "{size} bytes");
    }
    for socket in &mut sockets {
        socket.close(None).unwrap();
        // The closing handshake, and then the end, and no other.
        let ended = loop {
            match socket.read() {
                Ok(_) => {}
                Err(ended) => break ended,
            }
        };
        assert!(matches!(ended, tungstenite::Error::ConnectionClosed), "{ended:?}");
    }
    drop(sockets);
    until("the tunnels have ended", || gateway.sum(|stats| stats.tunnels_open.get()) == 0);
    until("their connections, too", || gateway.sum(|stats| stats.connections_open.get()) == 0);
}

/// What a backend of HTTP/2 is asked.
fn is_connect(asked: &Asked) {
    assert_eq!((asked.method.as_str(), asked.protocol.as_deref()), ("CONNECT", Some("websocket")));
    assert_eq!(asked.uri, "http://shop.example/chat?room=1");
    assert_eq!(asked.headers["sec-websocket-version"], "13");
    assert_eq!(asked.headers["x-forwarded-proto"], "http");
    for gone in ["sec-websocket-key", "connection", "upgrade", "content-length", "transfer-encoding"] {
        assert!(!asked.headers.contains_key(gone), "{gone}");
    }
}

#[test]
fn from_http_1_to_http_1() {
    let backend = server_1();
    converse(&before(world(&[backend.addr])), open_1);
}

#[test]
fn from_http_2_to_http_1() {
    let backend = server_1();
    converse(&before(world(&[backend.addr])), open_2);
}

#[test]
fn from_http_1_to_http_2() {
    let backend = server_2();
    let gateway = before(world(&[backend.addr]).http2());
    converse(&gateway, open_1);
    let asked = backend.asked();
    asked.iter().for_each(is_connect);
    assert_eq!((asked.len(), backend.connections()), (6, 1), "streams of one connection");
    assert_eq!(backend.seen.cancelled.load(Ordering::SeqCst), 0);
}

#[test]
fn from_http_2_to_http_2() {
    let backend = server_2();
    let gateway = before(world(&[backend.addr]).http2());
    converse(&gateway, open_2);
    backend.asked().iter().for_each(is_connect);
    assert_eq!((backend.asked().len(), backend.connections()), (6, 1));
}

/// The 101 is the gateway's own word: it answers the key, and what the backend says of it counts for nothing.
#[test]
fn the_key_is_answered_here_and_the_backend_s_fields_pass() {
    let backend = H2Backend::tunnels(|_| {
        Do::WebSocket(vec![
            ("sec-websocket-protocol", "chat"),
            ("sec-websocket-accept", "forged"),
            ("x-of-backend", "1"),
        ])
    });
    let gateway = before(world(&[backend.addr]).http2());
    let mut client = Client::connect(gateway.addr);
    let head = client.send(UPGRADE).head().unwrap().to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    assert!(head.contains("\r\nsec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"), "{head}");
    assert_eq!(head.matches("sec-websocket-accept").count(), 1, "{head}");
    assert!(
        head.contains("\r\nsec-websocket-protocol: chat\r\n") && head.contains("\r\nx-of-backend: 1\r\n")
    );
    assert!(head.contains("\r\nupgrade: websocket\r\n") && !head.contains("forged"), "{head}");
}

/// RFC 8441 §3: nothing is sent to who does not announce it, whoever asks; and it is not held against the endpoint.
#[test]
fn a_backend_that_announces_no_tunnels_is_sent_none() {
    let backend = H2Backend::start(|_| Do::Sized("ordinary"));
    let gateway = before(world(&[backend.addr]).http2());
    for round in 0..5 {
        let mut client = Client::connect(gateway.addr);
        let response = client.send(UPGRADE).response();
        assert_eq!((response.status, response.reason()), (502, "upstream_no_websocket"), "{round}");
        let answer = asked_2(gateway.addr);
        assert_eq!((answer.status, answer.one("x-ringway-reason")), (502, Some("upstream_no_websocket")));
    }
    assert_eq!(backend.asked().len(), 0);
    assert_eq!(gateway.sum(|stats| stats.connect_failures_total.get() + stats.ejections_total.get()), 0);
    assert_eq!(Client::connect(gateway.addr).get("/").text(), "ordinary");
    assert_eq!(backend.connections(), 1);
}

/// In the middle of a rollout: some announce it.
#[test]
fn an_endpoint_that_takes_tunnels_gets_those_that_another_does_not() {
    let (old, new) = (H2Backend::start(|_| Do::Sized("old")), server_2());
    let gateway = before(world(&[old.addr, new.addr]).http2());
    for _ in 0..10 {
        let mut socket = open_1(gateway.addr);
        socket.send(Message::text("here")).unwrap();
        assert_eq!(socket.read().unwrap().to_text().unwrap(), "here");
    }
    assert_eq!((old.asked().len(), new.asked().len()), (0, 10));
}

#[test]
fn an_answer_that_does_not_agree_is_passed_on() {
    let backend = H2Backend::tunnels(|_| Do::Status(403, vec![("x-why", "closed")]));
    let gateway = before(world(&[backend.addr]).http2());
    let response = Client::connect(gateway.addr).send(UPGRADE).response();
    assert_eq!((response.status, response.one("x-why")), (403, Some("closed")));
    let answer = asked_2(gateway.addr);
    assert_eq!((answer.status, answer.one("x-why")), (403, Some("closed")));
}

/// RFC 9110 §7.8: what is no opening handshake is a request like any other.
#[test]
fn an_upgrade_that_is_no_opening_handshake_is_an_ordinary_request() {
    let backend = H2Backend::tunnels(|_| Do::Sized("ordinary"));
    let gateway = before(world(&[backend.addr]).http2());
    for odd in [
        UPGRADE.replace("dGhlIHNhbXBsZSBub25jZQ==", "short"),
        UPGRADE.replace("websocket", "chat"),
        UPGRADE.replace("GET", "PUT"),
    ] {
        let response = Client::connect(gateway.addr).send(&odd).response();
        assert_eq!((response.status, response.text().as_str()), (200, "ordinary"), "{odd}");
    }
    for asked in backend.asked() {
        assert!(asked.protocol.is_none() && asked.method != "CONNECT", "{asked:?}");
    }
}

#[test]
fn half_close_travels_both_ways() {
    let backend = H2Backend::tunnels(|_| Do::Echo);
    let gateway = before(world(&[backend.addr]).http2());
    let mut client = Client::connect(gateway.addr);
    assert!(client.send(UPGRADE).head().unwrap().starts_with("HTTP/1.1 101"));
    client.send("ping");
    assert_eq!(client.exactly(4).unwrap(), b"ping");
    client.send("last").finish();
    let (rest, _) = client.rest();
    assert_eq!(rest, b"last", "the backend has seen the end, and ended behind it");
    until("the tunnel has ended", || gateway.sum(|stats| stats.tunnels_open.get()) == 0);
}

#[test]
fn whoever_leaves_ends_the_other_side() {
    let backend = H2Backend::tunnels(|asked| match asked.uri.ends_with("/cut") {
        true => Do::Cut,
        false => Do::Hang,
    });
    let gateway = before(world(&[backend.addr]).http2());
    // The client, while it waits to be told.
    let mut client = Client::connect(gateway.addr);
    client.send(UPGRADE);
    until("it is asked", || backend.asked().len() == 1);
    client.abort();
    until("its stream is cancelled", || backend.seen.cancelled.load(Ordering::SeqCst) == 1);
    // The backend, in the middle.
    let mut client = Client::connect(gateway.addr);
    let head = client.send(UPGRADE.replace("/chat", "/cut")).head().unwrap();
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    client.rest();
    run(async {
        let mut client = client_h2::Client::connect(gateway.addr).await;
        websocket::announced(&client.send).await.unwrap();
        let (response, _send) = client.start(websocket::connect("/cut"), false).await;
        let ended = client_h2::answer(response.await.unwrap()).await;
        assert_eq!(client_h2::reset_of(ended), Reason::INTERNAL_ERROR);
    });
    until("the tunnels have ended", || gateway.sum(|stats| stats.tunnels_open.get()) == 0);
    assert_eq!(backend.connections(), 1, "a stream that ends costs no connection");
}

/// A client that takes nothing holds its backend back, and so itself: what waits in between is bounded.
#[test]
fn a_tunnel_moves_at_the_pace_of_the_slower_side() {
    let backend = H2Backend::tunnels(|_| Do::Echo);
    let gateway = before(world(&[backend.addr]).http2());
    run(async {
        let mut client = client_h2::Client::connect(gateway.addr).await;
        websocket::announced(&client.send).await.unwrap();
        let mut request = websocket::connect("/chat");
        request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("chat"));
        let (response, mut send) = client.start(request, false).await;
        let mut body = response.await.unwrap().into_body();
        let sent = std::rc::Rc::new(std::cell::Cell::new(0_usize));
        let counted = std::rc::Rc::clone(&sent);
        let piece = vec![7; 16 << 10];
        let pieces = 256;
        let local = tokio::task::LocalSet::new();
        let upload = local.spawn_local(async move {
            for _ in 0..pieces {
                websocket::push(&mut send, &piece).await.unwrap();
                counted.set(counted.get() + piece.len());
            }
            send.send_data(Bytes::new(), true).unwrap();
        });
        local
            .run_until(async {
                // Until no more of it has been taken for a while.
                let (mut before, mut quiet) = (0, 0);
                while quiet < 20 {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    quiet = if sent.get() == before { quiet + 1 } else { 0 };
                    before = sent.get();
                }
                let all = pieces * (16 << 10);
                assert!(before > 0 && before < all / 2, "{before} of {all} bytes were taken");
                let mut came = 0;
                while let Some(data) = body.data().await {
                    let data = data.unwrap();
                    came += data.len();
                    body.flow_control().release_capacity(data.len()).unwrap();
                }
                assert_eq!(came, all);
                upload.await.unwrap();
            })
            .await;
    });
}
