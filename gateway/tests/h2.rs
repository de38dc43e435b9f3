//! HTTP/2 towards clients: what a client of another hand sees, and what the backend gets of it in HTTP/1.1.
#![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

mod support;

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use config::Period;
use gateway::observe::stats::Limit;
use h2::Reason;
use h2::client::Builder;
use h2::ext::Protocol;
use http::{HeaderMap, HeaderValue, Method, Request};
use support::backend::{Backend, Then, respond};
use support::client::Client as Http1;
use support::fleet::{Fleet, service};
use support::h2::{Client, answer, get, post, reset_of, run, upload};
use support::table::world;
use support::tls::Ca;
use support::{Gateway, config, until};

fn before(backend: &Backend) -> Gateway {
    with(config(), backend)
}

fn with(config: config::Config, backend: &Backend) -> Gateway {
    let addr = backend.addr;
    Gateway::start(config, |on| world(&[addr]).undetected().on(on))
}

/// Sends the body back, framed as it came, with its trailers.
fn echo() -> Backend {
    Backend::start(|request, stream| {
        if request.one("content-length").is_some() {
            return respond(stream, &request.body);
        }
        let chunk = format!("{:x}\r\n", request.body.len());
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n";
        let trailers = request.trailers.replace('\n', "\r\n");
        let parts =
            [head.as_bytes(), chunk.as_bytes(), &request.body, b"\r\n0\r\n", trailers.as_bytes(), b"\r\n"];
        stream.write_all(&parts.concat()).unwrap();
        Then::Keep
    })
}

#[test]
fn requests_with_prior_knowledge_reach_the_backend_as_http_1() {
    let backend = Backend::named("web");
    let gateway = before(&backend);
    run(async {
        let mut client = Client::connect(gateway.addr).await;
        let request = Request::get("http://Shop.Example/cart?a=1")
            .header("x-a", "1")
            .header("cookie", "a=1")
            .header("cookie", "b=2")
            .header("x-forwarded-proto", "https")
            .body(());
        let answer = client.ask(request.unwrap()).await.unwrap();
        assert_eq!((answer.status, &answer.body[..]), (200, &b"web"[..]));
        assert_eq!(answer.one("content-length"), Some("3"));
        assert_eq!(answer.one("connection"), None);
        assert_eq!(client.get("/again").await.status, 200);
    });
    let requests = backend.requests();
    assert_eq!(requests[0].line(), "GET /cart?a=1 HTTP/1.1");
    assert_eq!(requests[0].one("host"), Some("Shop.Example"));
    assert_eq!(requests[0].one("cookie"), Some("a=1; b=2"));
    assert_eq!(requests[0].one("x-forwarded-proto"), Some("http"));
    assert_eq!(requests[0].one("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(gateway.sum(|stats| stats.http2_connections_total.get()), 1);
    assert_eq!(gateway.sum(|stats| stats.connections_total.get()), 1, "its requests are no connections");
    until("the connection has ended", || gateway.sum(|stats| stats.connections_open.get()) == 0);
    assert_eq!(gateway.sum(|stats| stats.http2_streams_open.get()), 0);
}

#[test]
fn a_hundred_requests_at_once_are_all_answered_over_one_connection() {
    let backend = Backend::start(|request, stream| respond(stream, request.target().as_bytes()));
    let gateway = before(&backend);
    run(async {
        let mut client = Client::connect(gateway.addr).await;
        let mut waiting = Vec::new();
        for n in 0..100 {
            waiting.push((n, client.start(get(&format!("/{n}")), true).await.0));
        }
        for (n, response) in waiting {
            assert_eq!(&answer(response.await.unwrap()).await.unwrap().body[..], format!("/{n}").as_bytes());
        }
    });
    assert_eq!(backend.count(), 100);
}

#[test]
fn bodies_of_any_length_travel_both_ways() {
    let backend = echo();
    let gateway = before(&backend);
    let pattern = |len: usize| -> Bytes { (0..len).map(|n| u8::try_from(n * 31 % 251).unwrap()).collect() };
    run(async {
        let mut client = Client::connect(gateway.addr).await;
        for len in [1, 1_000, 16_384, 65_535, 65_536, 1_000_000] {
            for announced in [true, false] {
                let mut request = post("/");
                if announced {
                    request.headers_mut().insert("content-length", HeaderValue::from(len));
                }
                let (response, mut send) = client.start(request, false).await;
                upload(&mut send, pattern(len), None).await;
                let answer = answer(response.await.unwrap()).await.unwrap();
                assert_eq!(answer.body, pattern(len), "{len} bytes, announced: {announced}");
                assert_eq!(answer.one("content-length").is_some(), announced);
                assert!(answer.trailers.is_none());
            }
        }
    });
    let framings = backend.requests();
    assert!(framings[0].one("content-length").is_some() && framings[1].one("transfer-encoding").is_some());
}

/// gRPC over a backend that speaks HTTP/1.1.
#[test]
fn trailers_pass_both_ways_and_the_backend_is_told_that_they_are_taken() {
    let backend = echo();
    let gateway = before(&backend);
    run(async {
        let mut client = Client::connect(gateway.addr).await;
        let mut request = post("/pkg.Service/Method");
        request.headers_mut().insert("te", HeaderValue::from_static("trailers"));
        request.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
        let (response, mut send) = client.start(request, false).await;
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", HeaderValue::from_static("42"));
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        // Not to be had this way (SECURITY S12).
        trailers.insert("authorization", HeaderValue::from_static("secret"));
        upload(&mut send, Bytes::from_static(b"hello"), Some(trailers)).await;
        let answer = answer(response.await.unwrap()).await.unwrap();
        assert_eq!((answer.status, &answer.body[..]), (200, &b"hello"[..]));
        let trailers = answer.trailers.unwrap();
        assert_eq!(trailers["x-sum"], "42");
        assert_eq!(trailers["grpc-status"], "0");
        assert_eq!(trailers.len(), 2);
    });
    let request = backend.only_request();
    assert_eq!(request.one("te"), Some("trailers"));
    assert_eq!(request.trailers, "x-sum: 42\ngrpc-status: 0\n");
}

#[test]
fn responses_without_content_end_with_their_head() {
    let backend = Backend::start(|request, stream| {
        let response = match request.target() {
            "/head" => "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n",
            "/204" => "HTTP/1.1 204 No Content\r\n\r\n",
            "/304" => "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: \"a\"\r\n\r\n",
            _ => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        };
        stream.write_all(response.as_bytes()).unwrap();
        Then::Keep
    });
    let gateway = before(&backend);
    run(async {
        let mut client = Client::connect(gateway.addr).await;
        for (path, method, status, length) in [
            ("/head", Method::HEAD, 200, Some("1234")),
            ("/204", Method::GET, 204, None),
            ("/304", Method::GET, 304, Some("5")),
            ("/empty", Method::GET, 200, Some("0")),
        ] {
            let mut request = get(path);
            *request.method_mut() = method;
            let answer = client.ask(request).await.unwrap();
            assert_eq!((answer.status, answer.one("content-length")), (status, length), "{path}");
            assert!(answer.ended_with_head && answer.body.is_empty(), "{path}");
        }
    });
}

#[test]
fn interim_responses_come_before_the_final_one() {
    let backend = Backend::start(|_, stream| {
        stream.write_all(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n").unwrap();
        respond(stream, b"done")
    });
    let gateway = before(&backend);
    run(async {
        let mut client = Client::connect(gateway.addr).await;
        let mut request = post("/");
        request.headers_mut().insert("expect", HeaderValue::from_static("100-continue"));
        let (mut response, mut send) = client.start(request, false).await;
        let interim = std::future::poll_fn(|cx| response.poll_informational(cx)).await.unwrap().unwrap();
        assert_eq!(interim.status(), 100);
        upload(&mut send, Bytes::from_static(b"body"), None).await;
        let interim = std::future::poll_fn(|cx| response.poll_informational(cx)).await.unwrap().unwrap();
        assert_eq!(
            (interim.status().as_u16(), interim.headers()["link"].to_str().unwrap()),
            (103, "</a.css>")
        );
        assert_eq!(&answer(response.await.unwrap()).await.unwrap().body[..], b"done");
    });
}

#[test]
fn an_answer_before_the_end_of_the_request_stops_the_upload_without_an_error() {
    let backend = Backend::raw(|peer| {
        peer.head().unwrap();
        peer.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig");
        peer.drained();
    });
    let gateway = before(&backend);
    run(async {
        let mut client = Client::connect(gateway.addr).await;
        let (response, mut send) = client.start(post("/"), false).await;
        send.send_data(Bytes::from_static(b"the beginning"), false).unwrap();
        let answer = answer(response.await.unwrap()).await.unwrap();
        assert_eq!((answer.status, &answer.body[..]), (413, &b"big"[..]));
        let reset = std::future::poll_fn(|cx| send.poll_reset(cx)).await.unwrap();
        assert_eq!(reset, Reason::NO_ERROR);
    });
}

#[test]
fn a_client_that_takes_its_request_back_frees_the_endpoint() {
    let gone = Arc::new(AtomicBool::new(false));
    let backend = Backend::raw({
        let gone = Arc::clone(&gone);
        move |peer| {
            if peer.head().is_some() {
                peer.drained();
                gone.store(true, Ordering::SeqCst);
            }
        }
    });
    let gateway = before(&backend);
    run(async {
        let mut client = Client::connect(gateway.addr).await;
        let (response, mut send) = client.start(get("/slow"), true).await;
        support::h2::until(|| backend.connections() == 1).await;
        send.send_reset(Reason::CANCEL);
        drop(response);
        // The connection goes on.
        support::h2::until(|| gone.load(Ordering::SeqCst)).await;
    });
    until("it is counted", || gateway.sum(|stats| stats.http2_resets_total.get()) == 1);
    assert_eq!(gateway.sum(|stats| stats.in_flight.get()), 0);
}

#[test]
fn a_response_that_is_cut_ends_in_a_reset() {
    for framing in ["Content-Length: 100", "Transfer-Encoding: chunked"] {
        let response = format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n5\r\nhello\r\n");
        let backend = Backend::answering(response, Then::Close);
        let gateway = before(&backend);
        run(async {
            let mut client = Client::connect(gateway.addr).await;
            let reset = reset_of(client.ask(get("/")).await);
            assert_eq!(reset, Reason::INTERNAL_ERROR, "{framing}");
            let failed = client.ask(get("/")).await;
            assert!(failed.is_err(), "the connection goes on, and the backend as well");
        });
    }
}

#[test]
fn a_client_without_window_holds_its_own_stream_up_and_no_other() {
    let backend = Backend::start(|request, stream| match request.target() {
        "/large" => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 50000000\r\n\r\n");
            for _ in 0..500 {
                if stream.write_all(&[b'x'; 100_000]).is_err() {
                    return Then::Close;
                }
            }
            Then::Keep
        }
        _ => respond(stream, b"small"),
    });
    let mut config = config();
    config.timeouts.write_stall = Period::millis(400);
    let gateway = with(config, &backend);
    run(async {
        let mut builder = Builder::new();
        builder.initial_window_size(1_000).initial_connection_window_size(1 << 20);
        let mut client = Client::connect_with(gateway.addr, &builder).await;
        let mut waiting = Vec::new();
        for _ in 0..20 {
            let (response, _) = client.start(get("/large"), true).await;
            waiting.push(response.await.unwrap());
        }
        for _ in 0..50 {
            assert_eq!(&client.get("/").await.body[..], b"small");
        }
        // 16 KiB here, in the pipe and in the exchange, and what is on its way in.
        let held = gateway::sys::buf::Class::Small.bytes() as u64 * 4 * 20 + 512 * 1024;
        assert!(gateway.sum(|stats| stats.buffer_bytes.get()) <= held);
        for response in waiting {
            let mut body = response.into_body();
            let mut came = 0;
            let reset = loop {
                match body.data().await.unwrap() {
                    Ok(data) => came += data.len(),
                    Err(error) => break error.reason(),
                }
            };
            assert!(reset.is_some() && came <= 1_000, "{reset:?} after {came} bytes");
        }
    });
    assert!(gateway.hits(Limit::WriteStall) >= 20);
}

#[test]
fn an_upload_waits_for_the_backend_and_not_in_memory() {
    let open = Arc::new(AtomicBool::new(false));
    let backend = Backend::raw({
        let open = Arc::clone(&open);
        move |peer| {
            peer.stop_recording();
            let Some(_) = peer.head() else { return };
            until("the test looks", || open.load(Ordering::SeqCst));
            let already = peer.take_pending().len();
            peer.exactly(8_000_000 - already);
            respond(&mut peer.stream, b"all");
        }
    });
    let mut config = config();
    config.limits.buffers_bytes_max = config::ByteSize::mib(4);
    let gateway = with(config, &backend);
    run(async {
        let mut client = Client::connect(gateway.addr).await;
        let mut request = post("/");
        request.headers_mut().insert("content-length", HeaderValue::from_static("8000000"));
        let (response, mut send) = client.start(request, false).await;
        let uploading = tokio::spawn(async move {
            upload(&mut send, Bytes::from(vec![b'x'; 8_000_000]), None).await;
        });
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!uploading.is_finished(), "more than windows and sockets hold");
        open.store(true, Ordering::SeqCst);
        assert_eq!(&answer(response.await.unwrap()).await.unwrap().body[..], b"all");
        uploading.await.unwrap();
    });
}

#[test]
fn a_drain_says_goaway_and_serves_what_it_has() {
    let open = Arc::new(AtomicBool::new(false));
    let backend = Backend::start({
        let open = Arc::clone(&open);
        move |_, stream| {
            until("the test opens the gate", || open.load(Ordering::SeqCst));
            respond(stream, b"in time")
        }
    });
    let gateway = before(&backend);
    run(async {
        let mut client = Client::connect(gateway.addr).await;
        let (response, _) = client.start(get("/"), true).await;
        support::h2::until(|| backend.count() == 1).await;
        gateway.drain();
        tokio::time::sleep(Duration::from_millis(50)).await;
        open.store(true, Ordering::SeqCst);
        assert_eq!(&answer(response.await.unwrap()).await.unwrap().body[..], b"in time");
        assert!(client.ended.await.unwrap().is_ok(), "GOAWAY without an error");
    });
    gateway.ended();
}

#[test]
fn idle_connections_and_old_ones_are_asked_to_leave() {
    let backend = Backend::named("web");
    let mut idle = config();
    idle.timeouts.idle_client = Period::millis(200);
    idle.timeouts.buffer_idle = Period::millis(20);
    let mut old = config();
    old.http2.age = Period::millis(200);
    let mut many = config();
    many.http2.requests_max = 1;
    for (config, what) in [(idle, "idle"), (old, "old"), (many, "many")] {
        let gateway = with(config, &backend);
        run(async {
            let mut client = Client::connect(gateway.addr).await;
            assert_eq!(client.get("/").await.status, 200, "{what}");
            let ended = client.ended.await.unwrap();
            assert!(ended.is_ok(), "{what}: {ended:?}");
        });
        let retired = gateway.sum(|stats| stats.http2_retired_total.get());
        assert_eq!(retired, u64::from(what != "idle"), "{what}");
        assert_eq!(gateway.hits(Limit::Http2Requests), u64::from(what == "many"), "{what}");
        until("it is closed", || gateway.sum(|stats| stats.connections_open.get()) == 0);
    }
}

#[test]
fn a_connection_that_rested_is_used_again() {
    let backend = Backend::named("web");
    let mut config = config();
    config.timeouts.buffer_idle = Period::millis(10);
    let gateway = with(config, &backend);
    run(async {
        let mut client = Client::connect(gateway.addr).await;
        for _ in 0..5 {
            assert_eq!(client.get("/").await.status, 200);
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    });
    assert_eq!(gateway.sum(|stats| stats.http2_connections_total.get()), 1);
}

/// RFC 8441.
#[test]
fn websocket_over_http_2_becomes_an_upgrade() {
    let backend = Backend::raw(|peer| {
        let Some(head) = peer.head() else { return };
        assert_eq!(head.line(), "GET /chat HTTP/1.1");
        assert_eq!(head.one("upgrade"), Some("websocket"));
        assert_eq!(head.one("sec-websocket-key").map(str::len), Some(24));
        assert_eq!(head.one("sec-websocket-version"), Some("13"));
        peer.send(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
            Sec-WebSocket-Accept: x\r\nSec-WebSocket-Protocol: chat\r\n\r\nhello",
        );
        while let Some(bytes) = peer.exactly(4) {
            peer.send(bytes);
        }
    });
    let gateway = before(&backend);
    run(async {
        let mut client = Client::connect(gateway.addr).await;
        // The first answer brings the settings: extended CONNECT is allowed from then on.
        while !client.send.is_extended_connect_protocol_enabled() {
            tokio::task::yield_now().await;
        }
        let mut request = Request::connect("http://shop.example/chat").body(()).unwrap();
        request.extensions_mut().insert(Protocol::from_static("websocket"));
        request.headers_mut().insert("sec-websocket-version", HeaderValue::from_static("13"));
        let (response, mut send) = client.start(request, false).await;
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["sec-websocket-protocol"], "chat");
        assert!(!response.headers().contains_key("sec-websocket-accept"));
        let mut body = response.into_body();
        let mut came = Vec::new();
        for expected in ["hello", "helloping", "hellopingpong"] {
            while came.len() < expected.len() {
                came.extend_from_slice(&body.data().await.unwrap().unwrap());
            }
            assert_eq!(came, expected.as_bytes());
            let next = if expected == "hello" { "ping" } else { "pong" };
            if expected != "hellopingpong" {
                send.send_data(Bytes::from_static(next.as_bytes()), false).unwrap();
            }
        }
        send.send_data(Bytes::new(), true).unwrap();
        while let Some(data) = body.data().await {
            assert!(data.unwrap().is_empty(), "nothing but the end comes back");
        }

        let mut request = Request::connect("http://shop.example/chat").body(()).unwrap();
        request.extensions_mut().insert(Protocol::from_static("connect-udp"));
        assert_eq!(client.ask(request).await.unwrap().status, 501);
    });
    until("the tunnel has ended", || gateway.sum(|stats| stats.tunnels_open.get()) == 0);
}

#[test]
fn errors_of_the_gateway_are_spoken_in_grpc_to_clients_of_grpc() {
    let dead = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
    let gateway = Gateway::start(config(), |on| world(&[dead]).undetected().on(on));
    run(async {
        let mut client = Client::connect(gateway.addr).await;
        let mut request = post("/pkg.Service/Method");
        request.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc+proto"));
        let (response, mut send) = client.start(request, false).await;
        upload(&mut send, Bytes::from_static(b"\0\0\0\0\0"), None).await;
        let answer = answer(response.await.unwrap()).await.unwrap();
        assert_eq!((answer.status, answer.one("content-type")), (200, Some("application/grpc")));
        assert_eq!(answer.one("grpc-status"), Some("14"));
        assert!(answer.one("grpc-message").unwrap().starts_with("50"), "{answer:?}");
        assert!(answer.ended_with_head, "trailers only");
        // Everybody else gets a status.
        let plain = client.get("/").await;
        assert!(plain.status >= 502 && plain.one("grpc-status").is_none());
    });
}

fn offering(ca: &Ca, protocols: &[&[u8]]) -> Arc<rustls::ClientConfig> {
    let mut config = ca.trust();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}

fn shop(config: config::Config, ca: &Ca, backend: &Backend) -> Fleet {
    let ingress = "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: web}\nspec:\n  rules:\n  \
        - {host: shop.example, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}\n  \
        tls: [{hosts: [shop.example], secretName: shop}]\n";
    Fleet::start(
        config,
        &[
            ("fleet/a.yaml", ingress),
            ("fleet/s.yaml", &ca.leaf(&["shop.example"]).secret("shop")),
            ("clusters/alpha/web.yaml", &service(&[backend.addr])),
        ],
    )
}

#[test]
fn http_2_is_agreed_on_by_alpn_and_can_be_switched_off() {
    let ca = Ca::new();
    let backend = Backend::named("web");
    let fleet = shop(config(), &ca, &backend);
    run(async {
        let both = offering(&ca, &[b"http/1.1", b"h2"]);
        let mut client = Box::pin(Client::connect_tls(fleet.tls, "shop.example", &both)).await;
        let request = Request::get("https://shop.example/").body(()).unwrap();
        assert_eq!(client.ask(request).await.unwrap().status, 200);
        let other = Request::get("https://other.example/").body(()).unwrap();
        assert_eq!(client.ask(other).await.unwrap().status, 404, "nobody's host, on the listener of all");
    });
    assert_eq!(backend.only_request().one("x-forwarded-proto"), Some("https"));
    let only_1 = offering(&ca, &[b"http/1.1"]);
    let mut client = support::tls::connect(fleet.tls, "shop.example", &only_1).unwrap();
    assert_eq!(client.get("shop.example", "/").0, 200);

    let mut off = config();
    off.http2.tls = false;
    let fleet = shop(off, &ca, &backend);
    let both = offering(&ca, &[b"h2", b"http/1.1"]);
    let mut client = support::tls::connect(fleet.tls, "shop.example", &both).unwrap();
    assert_eq!(client.stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
    assert_eq!(client.get("shop.example", "/").0, 200);
}

#[test]
fn cleartext_can_be_switched_off_and_is_never_an_upgrade() {
    const PREFACE: &str = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let backend = Backend::named("web");
    let mut off = config();
    off.http2.cleartext = false;
    let gateway = with(off, &backend);
    let refused = Http1::connect(gateway.addr).send(PREFACE).response();
    assert_eq!(refused.status, 505, "{refused:?}");

    let gateway = before(&backend);
    // Behind a request of HTTP/1 it is garbage.
    let mut client = Http1::connect(gateway.addr);
    assert_eq!(client.get("/").status, 200);
    assert_eq!(client.send(PREFACE).response().status, 505);
    let upgrade = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
        HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n\r\n";
    assert_eq!(Http1::connect(gateway.addr).send(upgrade).response().status, 200, "served as HTTP/1.1");
    assert_eq!(gateway.sum(|stats| stats.http2_connections_total.get()), 0);
    assert!(backend.requests().iter().all(|request| request.one("upgrade").is_none()));
}

#[test]
fn authority_and_host_that_differ_are_refused() {
    let backend = Backend::named("web");
    let gateway = before(&backend);
    run(async {
        let mut client = Client::connect(gateway.addr).await;
        for host in ["evil.example", "shop.example:81", "user@shop.example"] {
            let mut request = get("/");
            request.headers_mut().insert("host", HeaderValue::from_static(host));
            assert_eq!(client.ask(request).await.unwrap().status, 400, "{host}");
        }
        let mut request = get("/");
        request.headers_mut().insert("host", HeaderValue::from_static("SHOP.example"));
        assert_eq!(client.ask(request).await.unwrap().status, 200);
    });
    assert_eq!(backend.count(), 1);
}

/// Who takes back too much while the process stops is not waited for: the worker comes to its end.
#[test]
fn requests_that_are_taken_back_in_a_stop_do_not_hold_it_up() {
    for _ in 0..3 {
        let backend = Backend::raw(|peer| {
            if peer.head().is_some() {
                peer.drained();
            }
        });
        let mut config = config();
        config.http2.cancels_max = 10;
        let gateway = Gateway::start(config, |addr| world(&[backend.addr]).undetected().on(addr));
        let mut client = support::frames::Raw::connect(gateway.addr, &[]);
        let streams = || (0..60).map(|n| 2 * n + 1);
        client.send(streams().flat_map(|stream| support::frames::get(stream, "/")).collect::<Vec<u8>>());
        until("all are asked", || gateway.sum(|stats| stats.http2_streams_open.get()) == 60);
        client.send(streams().skip(1).flat_map(support::frames::reset).collect::<Vec<u8>>());
        gateway.node().peers.stop();
        gateway.ended();
    }
}
