//! HTTP/2 to backends: requests of HTTP/1.1 clients as streams, what a stream's end means, gRPC's trailers, bounds.
#![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

mod support;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use gateway::observe::stats::Limit;
use h2::Reason;
use http::{HeaderMap, HeaderName, HeaderValue};
use routing::model::HedgeMode;
use support::backend::Backend;
use support::client::{Client, Cut};
use support::fleet::{Fleet, ingress, service};
use support::h2::{self as client_h2, reset_of, run};
use support::h2_backend::{Asked, Do, H2Backend};
use support::table::world;
use support::{Gateway, config, until};

/// A gateway whose only cluster has these endpoints of HTTP/2.
fn gateway(endpoints: &[std::net::SocketAddr]) -> Gateway {
    let world = world(endpoints).undetected().http2();
    Gateway::start(config(), |addr| world.on(addr))
}

fn post(path: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: shop.example\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn header<'a>(asked: &'a Asked, name: &str) -> &'a str {
    asked.headers.get(name).map_or("", |value| value.to_str().unwrap())
}

#[test]
fn requests_of_one_client_are_streams_of_one_connection() {
    let backend = H2Backend::start(|_| Do::Sized("streamed"));
    let gateway = gateway(&[backend.addr]);
    let mut client = Client::connect(gateway.addr);
    for n in 0..20 {
        let response = client.get(&format!("/a/{n}?q=1"));
        assert_eq!((response.status, response.text().as_str()), (200, "streamed"), "{}", response.head);
    }
    let asked = backend.asked();
    assert_eq!((asked.len(), backend.connections()), (20, 1));
    assert_eq!(asked[3].uri, "http://shop.example/a/3?q=1");
    assert_eq!(asked[3].method, "GET");
    for gone in ["connection", "host", "transfer-encoding", "keep-alive", "upgrade"] {
        assert!(!asked[3].headers.contains_key(gone), "{gone}");
    }
    assert_eq!(header(&asked[3], "x-forwarded-proto"), "http");
    assert_eq!(gateway.sum(|stats| stats.http2_upstream_streams_total.get()), 20);
}

#[test]
fn many_at_once_share_connections() {
    static OPEN: AtomicU64 = AtomicU64::new(0);
    let backend = H2Backend::start(|_| {
        OPEN.fetch_add(1, Ordering::SeqCst);
        Do::Echo
    });
    let gateway = gateway(&[backend.addr]);
    // Each is held open by a body that is not complete.
    let mut clients: Vec<Client> = (0..150).map(|_| Client::connect(gateway.addr)).collect();
    for client in &mut clients {
        client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
    }
    until("all are open at once", || OPEN.load(Ordering::SeqCst) == 150);
    assert!((2..=8).contains(&backend.connections()), "{} connections", backend.connections());
    for client in &mut clients {
        client.send("3\r\ndef\r\n0\r\n\r\n");
        let response = client.response();
        assert_eq!((response.status, response.text().as_str()), (200, "abcdef"));
    }
}

#[test]
fn bodies_are_moved_at_the_pace_of_the_slower_side() {
    let backend = H2Backend::start(|_| Do::Echo);
    let gateway = gateway(&[backend.addr]);
    let body: Vec<u8> = (0..5_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let mut client = Client::connect(gateway.addr);
    let mut writer = Client::over(client.stream.try_clone().unwrap());
    let sent = body.clone();
    let sending = std::thread::spawn(move || {
        writer.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", sent.len()));
        writer.send(&sent);
    });
    let response = client.response();
    sending.join().unwrap();
    assert_eq!(response.status, 200);
    assert!(response.body == body, "{} bytes", response.body.len());
}

#[test]
fn trailers_of_grpc_pass_and_so_do_replies_of_trailers_only() {
    let backend = H2Backend::start(|asked| {
        if asked.uri.ends_with("/Fine") {
            Do::Answer("message", vec![("grpc-status", "0"), ("grpc-message", "fine")])
        } else {
            Do::Only(vec![("content-type", "application/grpc"), ("grpc-status", "14")])
        }
    });
    let gateway = gateway(&[backend.addr]);
    let call = |method: &str| {
        format!(
            "POST /shop.Web/{method} HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nContent-Type: application/grpc\r\nContent-Length: \
             5\r\n\r\nhello"
        )
    };
    let mut client = Client::connect(gateway.addr);
    let response = client.send(call("Fine")).response();
    assert_eq!((response.status, response.text().as_str()), (200, "message"));
    assert!(response.trailers.contains("grpc-status: 0"), "{}", response.trailers);
    assert_eq!(header(&backend.asked()[0], "te"), "trailers");
    let response = client.send(call("Gone")).response();
    assert_eq!((response.status, response.one("grpc-status")), (200, Some("14")));
}

#[test]
fn a_refused_stream_goes_elsewhere_whatever_its_method() {
    let refusing = H2Backend::start(|_| Do::Reset(Reason::REFUSED_STREAM));
    let serving = H2Backend::start(|_| Do::Sized("served"));
    let gateway = gateway(&[refusing.addr, serving.addr]);
    let mut client = Client::connect(gateway.addr);
    until("some were refused", || {
        let response = client.send(post("/", "hello")).response();
        assert_eq!((response.status, response.text().as_str()), (200, "served"), "{}", response.head);
        refusing.asked().len() >= 3
    });
    assert_eq!(gateway.sum(|stats| stats.retries_total.get()), 0, "what was not processed costs no budget");
    assert!(gateway.sum(|stats| stats.moves_total.get()) >= 3);
}

#[test]
fn a_reset_after_processing_is_replayed_only_for_idempotent_requests() {
    let failing = H2Backend::start(|_| Do::Reset(Reason::INTERNAL_ERROR));
    let serving = H2Backend::start(|_| Do::Sized("served"));
    let gateway = gateway(&[failing.addr, serving.addr]);
    let mut client = Client::connect(gateway.addr);
    until("a GET met the failing endpoint", || {
        assert_eq!(client.get("/").status, 200);
        !failing.asked().is_empty()
    });
    let mut statuses = Vec::new();
    until("a POST met it", || {
        // What failed is ejected for a while.
        statuses.push(client.send(post("/", "hello")).response().status);
        statuses.contains(&502)
    });
    let posts = |backend: &H2Backend| backend.asked().iter().filter(|asked| asked.method == "POST").count();
    assert_eq!(posts(&failing) + posts(&serving), statuses.len(), "no POST was sent twice");
}

#[test]
fn a_connection_that_goes_away_takes_no_more_and_nothing_is_lost() {
    let backend = H2Backend::start(|_| Do::Last("served"));
    let gateway = gateway(&[backend.addr]);
    let mut client = Client::connect(gateway.addr);
    for _ in 0..10 {
        let response = client.send(post("/", "hello")).response();
        assert_eq!((response.status, response.text().as_str()), (200, "served"), "{}", response.head);
    }
    assert!(backend.connections() >= 2, "each is retired after its first request");
}

#[test]
fn a_client_that_leaves_takes_its_stream_with_it_and_the_connection_stays() {
    let backend =
        H2Backend::start(|asked| if asked.uri.ends_with("/hang") { Do::Hang } else { Do::Sized("served") });
    let gateway = gateway(&[backend.addr]);
    let mut leaving = Client::connect(gateway.addr);
    leaving.send("GET /hang HTTP/1.1\r\nHost: a\r\n\r\n");
    until("it is under way", || backend.asked().len() == 1);
    drop(leaving);
    until("its stream is cancelled", || backend.seen.cancelled.load(Ordering::SeqCst) == 1);
    assert_eq!(Client::connect(gateway.addr).get("/").status, 200);
    assert_eq!(backend.connections(), 1);
}

#[test]
fn a_response_that_is_reset_is_cut_for_the_client_too() {
    let backend = H2Backend::start(|_| Do::Cut);
    let gateway = gateway(&[backend.addr]);
    let mut client = Client::connect(gateway.addr);
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let cut = client.try_response(support::client::To::Get);
    assert!(matches!(cut, Err(Cut::Reset | Cut::Closed)), "{cut:?}");
    assert_eq!(backend.asked().len(), 1, "what has begun is not tried again");
}

#[test]
fn a_call_of_http_2_is_one_from_end_to_end() {
    let backend = H2Backend::start(|asked| match asked.uri.rsplit_once('/') {
        Some((_, "Cut")) => Do::Cut,
        Some((_, "Hang")) => Do::Hang,
        Some(_) | None => Do::Echo,
    });
    let gateway = gateway(&[backend.addr]);
    run(async {
        let mut client = client_h2::Client::connect(gateway.addr).await;
        let mut call = client_h2::post("/shop.Web/Talk");
        call.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
        let (response, mut send) = client.start(call, false).await;
        let mut body = response.await.unwrap().into_body();
        for message in ["first", "other", "third"] {
            send.send_data(Bytes::from_static(message.as_bytes()), false).unwrap();
            let mut came = Vec::new();
            while came.len() < message.len() {
                came.extend_from_slice(&body.data().await.unwrap().unwrap());
            }
            assert_eq!(came, message.as_bytes(), "back before the next is sent");
        }
        send.send_trailers(HeaderMap::from_iter([(
            HeaderName::from_static("x-sum"),
            HeaderValue::from_static("3"),
        )]))
        .unwrap();
        assert!(body.data().await.is_none_or(|data| data.unwrap().is_empty()));
        assert_eq!(body.trailers().await.unwrap().unwrap()["x-sum"], "3");

        let (response, mut send) = client.start(client_h2::get("/shop.Web/Hang"), true).await;
        client_h2::until(|| backend.asked().len() == 2).await;
        send.send_reset(Reason::CANCEL);
        client_h2::until(|| backend.seen.cancelled.load(Ordering::SeqCst) == 1).await;
        assert_eq!(backend.connections(), 1, "a stream is ended, and no connection");
        drop(response);
        let cut = client.ask(client_h2::get("/shop.Web/Cut")).await;
        assert_eq!(reset_of(cut), Reason::INTERNAL_ERROR);
    });
    let asked: Vec<_> = backend.asked().into_iter().map(|asked| asked.uri).collect();
    assert_eq!(asked.len(), 3, "each was sent once: {asked:?}");
    assert_eq!(
        gateway.sum(|stats| stats.http2_connections_total.get()),
        1,
        "no connection ended with its streams"
    );
}

#[test]
fn a_peer_that_answers_no_ping_is_given_up() {
    // Its settings come, and then nothing.
    let backend = Backend::raw(|peer| {
        peer.send([0, 0, 0, 4, 0, 0, 0, 0, 0]);
        peer.drained();
    });
    let mut config = config();
    config.pool.http2_ping = config::Period::millis(50);
    let world = world(&[backend.addr]).undetected().http2();
    let gateway = Gateway::start(config, |addr| world.on(addr));
    let response = Client::connect(gateway.addr).send(post("/", "hello")).response();
    assert_eq!(response.status, 502, "{}", response.head);
    assert_eq!(gateway.hits(Limit::Http2Ping), 1);
}

#[test]
fn a_backend_that_speaks_another_protocol_is_a_502() {
    let backend = Backend::named("HTTP/1.1");
    let gateway = gateway(&[backend.addr]);
    let response = Client::connect(gateway.addr).get("/");
    assert_eq!(response.status, 502, "{}", response.head);
}

#[test]
fn unary_calls_survive_the_death_of_a_cluster() {
    let mut dying = H2Backend::start(|_| Do::Answer("first", vec![("grpc-status", "0")]));
    let standby = H2Backend::start(|_| Do::Answer("second", vec![("grpc-status", "0")]));
    let world = world(&[dying.addr]).cluster(1, &[standby.addr]).http2();
    let gateway = Gateway::start(config(), |addr| world.on(addr));
    let mut client = Client::connect(gateway.addr);
    assert_eq!(client.send(post("/shop.Web/Get", "hello")).response().text(), "first");
    dying.kill();
    // The connection's end may be on its way still: a call that was sent on it is not sent twice.
    until("the standby serves", || {
        let response = client.send(post("/shop.Web/Get", "hello")).response();
        response.status == 200 && response.text() == "second"
    });
    for _ in 0..20 {
        let response = client.send(post("/shop.Web/Get", "hello")).response();
        assert_eq!((response.status, response.text().as_str()), (200, "second"));
    }
}

/// One stream hangs, the others of its connection do not: the request is made elsewhere as well, and the stream taken back.
#[test]
fn a_stream_that_hangs_is_hedged_and_the_one_that_loses_is_reset() {
    let active = H2Backend::start(|asked| match asked.uri.ends_with("/hang") {
        true => Do::Hang,
        false => Do::Sized("active"),
    });
    let standby = H2Backend::start(|_| Do::Sized("standby"));
    let world = world(&[active.addr]).cluster(1, &[standby.addr]).http2();
    let world = world.policy(|policy| policy.hedge = HedgeMode::Always);
    let gateway = Gateway::start(config(), |addr| world.on(addr));
    let mut client = Client::connect(gateway.addr);
    // What a response usually takes.
    (0..200).for_each(|_| assert_eq!(client.get("/").status, 200));
    until("the active cluster serves", || client.get("/").text() == "active");
    let response = client.get("/hang");
    assert_eq!((response.status, response.text().as_str()), (200, "standby"), "{}", response.head);
    assert!(gateway.sum(|stats| stats.hedges_won_total.get()) >= 1);
    until("the stream that lost is reset", || active.seen.cancelled.load(Ordering::SeqCst) == 1);
    until("the active cluster serves on", || client.get("/").text() == "active");
    assert_eq!(gateway.hits(Limit::Http2Ping), 0, "its connection was well");
}

#[test]
fn a_service_port_or_an_annotation_says_that_a_backend_speaks_it() {
    let backend = H2Backend::start(|_| Do::Sized("h2c"));
    let plain = service(&[backend.addr]);
    let declared = plain
        .replace("{name: http, port: 80}]}\n", "{name: http, port: 80, appProtocol: kubernetes.io/h2c}]}\n");
    let fleet = Fleet::start(
        config(),
        &[("fleet/web.yaml", &ingress("web", "/")), ("clusters/alpha/web.yaml", &declared)],
    );
    assert_eq!(Client::connect(fleet.addr).get("/").text(), "h2c");
    fleet.write("clusters/alpha/web.yaml", &plain);
    until("it is spoken to in HTTP/1.1", || Client::connect(fleet.addr).get("/").status == 502);
    let annotated = ingress("web", "/").replace(
        "metadata: {name: web}\n",
        "metadata: {name: web, annotations: {nginx.ingress.kubernetes.io/backend-protocol: GRPC}}\n",
    );
    fleet.write("fleet/web.yaml", &annotated);
    until("the annotation says so", || Client::connect(fleet.addr).get("/").text() == "h2c");
}

#[test]
fn streams_may_stay_half_closed_for_long() {
    let backend = H2Backend::start(|_| Do::Echo);
    let gateway = gateway(&[backend.addr]);
    let mut client = Client::connect(gateway.addr);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    let mut raw = Client::over(client.stream.try_clone().unwrap());
    for n in 0..5 {
        client.send(format!("2\r\n{n}\n\r\n"));
        until("it comes back before the next is sent", || {
            use std::io::Read;
            raw.stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            let mut buf = [0; 4096];
            let n_read = raw.stream.read(&mut buf).unwrap_or(0);
            support::backend::find(&buf[..n_read], format!("{n}\n").as_bytes()).is_some()
        });
    }
}

#[test]
fn a_grpc_route_matches_services_and_methods_and_its_backends_are_checked() {
    let backend = H2Backend::start(|asked| match asked.uri.rsplit_once('/') {
        // HealthCheckResponse { status: SERVING }.
        Some((_, "Check")) => Do::Answer("\0\0\0\0\x02\x08\x01", vec![("grpc-status", "0")]),
        Some((_, "Get")) => Do::Answer("get", vec![("grpc-status", "0")]),
        Some(_) | None => Do::Answer("other", vec![("grpc-status", "0")]),
    });
    let port = support::Port::reserve();
    let route = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {{name: ringway}}\nspec: {{controllerName: \
         ringway.dev/gateway}}\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: edge}}\nspec:\n  \
         gatewayClassName: ringway\n  listeners: [{{name: grpc, port: {}, protocol: HTTP, allowedRoutes: {{kinds: [{{kind: \
         GRPCRoute}}]}}}}]\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {{name: web}}\nspec:\n  \
         parentRefs: [{{name: edge}}]\n  rules:\n  - matches: [{{method: {{service: shop.Web, method: Get}}}}, {{method: {{type: \
         RegularExpression, service: \"shop[.].*\", method: \"List.*\"}}}}]\n    backendRefs: [{{name: web, port: 80}}]\n",
        port.addr.port()
    );
    let check = "apiVersion: ringway.dev/v1alpha1\nkind: FailoverPolicy\nmetadata: {name: web}\nspec:\n  targetRefs: \
                 [{group: \"\", kind: Service, name: web}]\n  healthCheck: {protocol: GRPC, service: shop.Web, interval: 50ms}\n";
    let fleet = Fleet::start(
        config(),
        &[
            ("fleet/route.yaml", &route),
            ("fleet/check.yaml", check),
            ("clusters/alpha/web.yaml", &service(&[backend.addr])),
        ],
    );
    let mut client = Client::connect(port.addr);
    let calls =
        [("/shop.Web/Get", 200, "get"), ("/shop.Other/ListAll", 200, "other"), ("/shop.Web/Put", 404, "")];
    for (path, status, text) in calls {
        let response = client.send(post(path, "hello")).response();
        assert_eq!(response.status, status, "{path}: {}", response.head);
        if status == 200 {
            assert_eq!(response.text(), text);
        }
    }
    until("a check in gRPC", || {
        backend.asked().iter().any(|asked| asked.uri.ends_with("/grpc.health.v1.Health/Check"))
    });
    assert_eq!(client.send(post("/shop.Web/Get", "hello")).response().status, 200, "it serves");
    drop(fleet);
}

#[test]
fn an_endpoint_that_says_it_does_not_serve_gets_no_traffic() {
    let bad = H2Backend::start(|asked| {
        if asked.uri.ends_with("/Check") {
            Do::Answer("\0\0\0\0\x02\x08\x02", vec![("grpc-status", "0")])
        } else {
            Do::Sized("bad")
        }
    });
    let good = H2Backend::start(|asked| {
        if asked.uri.ends_with("/Check") {
            Do::Answer("\0\0\0\0\x02\x08\x01", vec![("grpc-status", "0")])
        } else {
            Do::Sized("good")
        }
    });
    let mut world = world(&[bad.addr, good.addr]).http2();
    world.detection.check = Some(std::sync::Arc::new(routing::model::HealthCheck {
        probe: routing::model::CheckProbe::Grpc {
            service: "".into(),
            host: "".into(),
            good: Default::default(),
        },
        port: None,
        interval: Duration::from_millis(20),
        timeout: Duration::from_secs(5),
        unhealthy_threshold: 2,
        healthy_threshold: 2,
    }));
    let gateway = Gateway::start(config(), |addr| world.on(addr));
    let mut client = Client::connect(gateway.addr);
    until("only the one that serves is asked", || (0..20).all(|_| client.get("/").text() == "good"));
}

#[test]
fn interim_responses_pass_to_clients_of_either_version() {
    let backend = H2Backend::start(|_| Do::Early("served"));
    let gateway = gateway(&[backend.addr]);
    let response = Client::connect(gateway.addr).get("/");
    assert_eq!((response.status, response.text().as_str()), (200, "served"));
    // 100 is for who asked for it.
    assert_eq!(response.interim.len(), 1, "{:?}", response.interim);
    let early = response.interim[0].to_lowercase();
    assert!(early.starts_with("http/1.1 103 ") && early.contains("link: </a.css>\r\n"), "{early}");
    assert!(!early.contains("transfer-encoding") && !early.contains("content-length"), "{early}");
    run(async {
        let mut client = client_h2::Client::connect(gateway.addr).await;
        let (mut response, _) = client.start(client_h2::get("/"), true).await;
        let early = std::future::poll_fn(|cx| response.poll_informational(cx)).await.unwrap().unwrap();
        assert_eq!(
            (early.status().as_u16(), &early.headers()["link"]),
            (103, &HeaderValue::from_static("</a.css>"))
        );
        assert_eq!(client_h2::answer(response.await.unwrap()).await.unwrap().body, "served");
    });
}
