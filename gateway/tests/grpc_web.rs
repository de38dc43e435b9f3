//! gRPC-Web: clients of HTTP/1.1 and HTTP/2, binary and in base64, to backends of gRPC; and where it is left alone.
#![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

mod support;

use std::net::SocketAddr;

use bytes::Bytes;
use gateway::observe::stats::Limit;
use http::{HeaderValue, Request};
use routing::model::{Allowed, Cors, Filters, GrpcCode, Origins};
use support::backend::Backend;
use support::client::{Client, Response};
use support::h2::{self as client_h2, run};
use support::h2_backend::{Do, H2Backend};
use support::table::world;
use support::{Gateway, config};
use wire::grpc::web;

const HELLO: &[u8] = b"\0\0\0\0\x05hello";
const FINE: &[u8] = b"\x80\0\0\0\x26grpc-status:0\r\ngrpc-message:all fine\r\n";
const TYPES: [(&str, &str); 2] = [
    ("application/grpc-web+proto", "application/grpc-web+proto"),
    ("application/grpc-web-text+proto", "application/grpc-web-text+proto"),
];

fn is_text(content_type: &str) -> bool {
    content_type.contains("-text")
}

fn gateway(endpoints: &[SocketAddr]) -> Gateway {
    let world = world(endpoints).undetected().http2();
    Gateway::start(config(), |addr| world.on(addr))
}

fn serving() -> H2Backend {
    H2Backend::start(|_| Do::Call(vec![("grpc-status", "0"), ("grpc-message", "all fine")]))
}

/// As a client of that type writes it.
fn written(content_type: &str, bytes: &[u8]) -> Vec<u8> {
    if !is_text(content_type) {
        return bytes.to_vec();
    }
    let mut text = Vec::new();
    // Pieces of their own, as the protocol lets them be.
    bytes.chunks(1_000).for_each(|piece| web::encode(piece, &mut text));
    text
}

/// As it reads it.
#[track_caller]
fn read(content_type: &str, bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if is_text(content_type) {
        let mut decoder = web::Decoder::default();
        let len = decoder.decode(&mut bytes).unwrap();
        decoder.finish().unwrap();
        bytes.truncate(len);
    }
    bytes
}

fn call(content_type: &str, body: &[u8], more: &str) -> Vec<u8> {
    let head = format!(
        "POST /shop.Web/Get HTTP/1.1\r\nHost: a\r\nContent-Type: {content_type}\r\nX-Grpc-Web: 1\r\n{more}Content-Length: \
         {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

fn request(content_type: &'static str) -> Request<()> {
    let mut request = client_h2::post("/shop.Web/Get");
    request.headers_mut().insert("content-type", HeaderValue::from_static(content_type));
    request
}

/// The status in the last frame of an answer that has nothing else.
#[track_caller]
fn only_status(content_type: &str, response: &Response) -> u8 {
    assert_eq!((response.status, response.one("grpc-status")), (200, None), "{}", response.head);
    let body = read(content_type, &response.body);
    assert_eq!(body[0], 0x80, "{body:?}");
    assert_eq!(u32::from_be_bytes(body[1..5].try_into().unwrap()) as usize, body.len() - 5);
    wire::grpc::status_of(&body[5..]).expect("a status")
}

#[test]
fn a_call_of_either_form_is_one_of_grpc_to_its_endpoint_and_its_trailers_are_the_last_frame() {
    let backend = serving();
    let gateway = gateway(&[backend.addr]);
    let mut client = Client::connect(gateway.addr);
    for (asked, wanted) in TYPES {
        let response = client.send(call(asked, &written(asked, HELLO), "")).response();
        assert_eq!((response.status, response.one("content-type")), (200, Some(wanted)), "{}", response.head);
        assert_eq!(read(asked, &response.body), [HELLO, FINE].concat());
        assert!(response.trailers.is_empty(), "{}", response.trailers);
        let seen = backend.asked().pop().unwrap();
        assert_eq!(seen.headers["content-type"], "application/grpc+proto");
        assert_eq!(seen.headers["te"], "trailers");
        assert_eq!(seen.headers["x-grpc-web"], "1");
    }
    run(async {
        let mut client = client_h2::Client::connect(gateway.addr).await;
        for (asked, wanted) in TYPES {
            let (response, mut send) = client.start(request(asked), false).await;
            client_h2::upload(&mut send, written(asked, HELLO).into(), None).await;
            let answer = client_h2::answer(response.await.unwrap()).await.unwrap();
            assert_eq!((answer.status, answer.one("content-type")), (200, Some(wanted)));
            assert_eq!((read(asked, &answer.body), answer.trailers), ([HELLO, FINE].concat(), None));
        }
    });
    assert_eq!(gateway.sum(|stats| stats.calls(Some(GrpcCode::of(0)))), 4);
}

#[test]
fn a_reply_of_trailers_only_is_nothing_but_the_last_frame() {
    let backend = H2Backend::start(|_| {
        Do::Only(vec![
            ("content-type", "application/grpc"),
            ("grpc-status", "5"),
            ("grpc-message", "no such shop"),
            ("x-shop", "none"),
        ])
    });
    let gateway = gateway(&[backend.addr]);
    let mut client = Client::connect(gateway.addr);
    for (asked, _) in TYPES {
        let response = client.send(call(asked, &written(asked, HELLO), "")).response();
        assert_eq!(only_status(asked, &response), 5);
        assert_eq!((response.one("x-shop"), response.one("grpc-message")), (Some("none"), None));
        let body = read(asked, &response.body);
        assert!(body.ends_with(b"grpc-message:no such shop\r\n"), "{:?}", String::from_utf8_lossy(&body));
    }
    assert_eq!(gateway.sum(|stats| stats.calls(Some(GrpcCode::of(5)))), 2);
}

#[test]
fn messages_pass_as_they_come_and_large_ones_whole() {
    let backend = serving();
    let gateway = gateway(&[backend.addr]);
    run(async {
        let mut client = client_h2::Client::connect(gateway.addr).await;
        for (asked, _) in TYPES {
            let (response, mut send) = client.start(request(asked), false).await;
            let mut body = None;
            let mut response = Some(response);
            for message in ["first", "other", "third"] {
                send.send_data(written(asked, message.as_bytes()).into(), false).unwrap();
                if let Some(response) = response.take() {
                    body = Some(response.await.unwrap().into_body());
                }
                let mut came = Vec::new();
                while read(asked, &came).len() < message.len() {
                    came.extend_from_slice(&body.as_mut().unwrap().data().await.unwrap().unwrap());
                }
                assert_eq!(read(asked, &came), message.as_bytes(), "back before the next is sent");
            }
            send.send_data(Bytes::new(), true).unwrap();
            let mut rest = Vec::new();
            while let Some(data) = body.as_mut().unwrap().data().await {
                rest.extend_from_slice(&data.unwrap());
            }
            assert_eq!(read(asked, &rest), FINE);

            let large: Vec<u8> = (0..1_500_000u32).map(|n| (n % 251) as u8).collect();
            let (response, mut send) = client.start(request(asked), false).await;
            let upload = tokio::spawn({
                let body = written(asked, &large).into();
                async move { client_h2::upload(&mut send, body, None).await }
            });
            let answer = client_h2::answer(response.await.unwrap()).await.unwrap();
            upload.await.unwrap();
            assert!(read(asked, &answer.body) == [&large[..], FINE].concat(), "{} bytes", answer.body.len());
        }
    });
}

#[test]
fn what_the_gateway_says_itself_it_says_in_grpc_web() {
    let hanging = H2Backend::start(|_| Do::Hang);
    let gateway = gateway(&[hanging.addr]);
    let nobody = self::gateway(&[]);
    for (asked, wanted) in TYPES {
        let wanted = wanted.trim_end_matches("+proto");
        let body = written(asked, HELLO);
        let mut client = Client::connect(nobody.addr);
        let response = client.send(call(asked, &body, "")).response();
        assert_eq!((only_status(asked, &response), response.one("content-type")), (14, Some(wanted)));
        let mut client = Client::connect(gateway.addr);
        let response = client.send(call(asked, &body, "grpc-timeout: 60m\r\n")).response();
        assert_eq!((only_status(asked, &response), response.reason()), (4, "grpc_timeout"));
        let response = client.send(call(asked, &body, "grpc-timeout: soon\r\n")).response();
        assert_eq!((only_status(asked, &response), response.reason()), (13, "grpc_timeout_malformed"));
    }
    assert_eq!(gateway.hits(Limit::GrpcTimeout), 0);
}

#[test]
fn what_is_no_base64_is_refused_and_never_completed() {
    let backend = serving();
    let gateway = gateway(&[backend.addr]);
    for body in ["AAAA*AAA", "AAA", "AA=A"] {
        let mut client = Client::connect(gateway.addr);
        let response = client.send(call("application/grpc-web-text", body.as_bytes(), "")).response();
        assert_eq!((only_status("-text", &response), response.reason()), (13, "base64"), "{body}");
    }
    assert_eq!(backend.asked().len(), 0);
    assert_eq!(gateway.sum(|stats| stats.refusals(wire::error::WireError::Base64)), 3);
}

/// What a client reads of a stream that it begins with `sent` and never ends: its time ends it.
async fn overdue(
    client: &mut client_h2::Client,
    asked: &'static str,
    timeout: &'static str,
    sent: &[u8],
) -> Vec<u8> {
    let mut call = request(asked);
    call.headers_mut().insert("grpc-timeout", HeaderValue::from_static(timeout));
    let (response, mut send) = client.start(call, false).await;
    send.send_data(written(asked, sent).into(), false).unwrap();
    let answer = client_h2::answer(response.await.unwrap()).await.unwrap();
    read(asked, &answer.body)
}

#[test]
fn a_stream_whose_time_is_over_ends_with_a_frame() {
    let backend = serving();
    let gateway = gateway(&[backend.addr]);
    run(async {
        let mut client = client_h2::Client::connect(gateway.addr).await;
        for (asked, _) in TYPES {
            let body = overdue(&mut client, asked, "1S", HELLO).await;
            let last = body.strip_prefix(HELLO).expect("the message");
            assert_eq!((last[0], wire::grpc::status_of(&last[5..])), (0x80, Some(4)), "{last:?}");
        }
    });
}

#[test]
fn it_is_left_alone_where_a_backend_speaks_http_1_or_the_configuration_says_so() {
    let plain = Backend::named("ok");
    let of_grpc = serving();
    let mut off = config();
    off.grpc.web = false;
    let gateways = [
        Gateway::start(config(), |addr| world(&[plain.addr]).undetected().on(addr)),
        Gateway::start(off, |addr| world(&[of_grpc.addr]).undetected().http2().on(addr)),
    ];
    for (gateway, wanted) in gateways.iter().zip(["ok", "AAAAAAVo*"]) {
        let mut client = Client::connect(gateway.addr);
        // No base64 either: nobody looks.
        let sent = call("application/grpc-web-text", b"AAAAAAVo*", "grpc-timeout: odd\r\n");
        let response = client.send(sent).response();
        assert_eq!((response.status, response.text().as_str()), (200, wanted), "{}", response.head);
        assert_eq!(gateway.sum(|stats| stats.calls(None)), 0);
    }
    let seen = plain.requests().pop().unwrap();
    assert_eq!(
        (seen.one("content-type"), &seen.body[..]),
        (Some("application/grpc-web-text"), &b"AAAAAAVo*"[..])
    );
    assert_eq!(of_grpc.asked()[0].headers["content-type"], "application/grpc-web-text");
}

#[test]
fn scripts_of_other_origins_may_call_where_the_rule_lets_them() {
    let backend = serving();
    let cors = Cors {
        origins: Origins::List(["https://shop.example".into()].into()),
        methods: Allowed::These("POST".into()),
        headers: Allowed::These("content-type,x-grpc-web".into()),
        expose: "".into(),
        credentials: false,
        max_age: "".into(),
    };
    let world = world(&[backend.addr]).undetected().http2().action(|action| {
        action.filters = Some(std::sync::Arc::new(Filters { cors: Some(cors), ..Filters::default() }));
    });
    let gateway = Gateway::start(config(), |addr| world.on(addr));
    let mut client = Client::connect(gateway.addr);
    let origin = "Origin: https://shop.example\r\n";
    let preflight = format!(
        "OPTIONS /shop.Web/Get HTTP/1.1\r\nHost: a\r\n{origin}Access-Control-Request-Method: POST\r\n\r\n"
    );
    let response = client.send(preflight).response();
    assert_eq!(
        response.one("access-control-allow-headers"),
        Some("content-type,x-grpc-web"),
        "{}",
        response.head
    );
    for more in [origin.to_owned(), format!("{origin}grpc-timeout: x\r\n")] {
        let response = client.send(call("application/grpc-web", HELLO, &more)).response();
        assert_eq!(
            response.one("access-control-allow-origin"),
            Some("https://shop.example"),
            "{}",
            response.head
        );
        assert_eq!(response.one("content-type").unwrap().split('+').next(), Some("application/grpc-web"));
    }
}

#[test]
fn a_status_that_has_no_body_has_none_and_the_connection_goes_on() {
    let backend = H2Backend::start(|asked| match asked.headers.get("x-as") {
        None => Do::Call(vec![("grpc-status", "0"), ("grpc-message", "all fine")]),
        Some(status) => Do::Status(
            status.to_str().unwrap().parse().unwrap(),
            vec![("content-type", "application/grpc"), ("grpc-status", "5")],
        ),
    });
    let gateway = gateway(&[backend.addr]);
    for (asked, _) in TYPES {
        for status in [204, 304] {
            let mut client = Client::connect(gateway.addr);
            let more = format!("X-As: {status}\r\n");
            let response = client.send(call(asked, &written(asked, HELLO), &more)).response();
            assert_eq!(
                (response.status, response.one("transfer-encoding")),
                (status, None),
                "{}",
                response.head
            );
            // Nothing of an answer before this one lies in its way.
            let response = client.send(call(asked, &written(asked, HELLO), "")).response();
            assert_eq!(
                (response.status, read(asked, &response.body)),
                (200, [HELLO, FINE].concat()),
                "{status}"
            );
        }
    }
}

#[test]
fn a_stream_that_ends_within_a_message_has_no_frame_behind_it() {
    let backend = serving();
    let gateway = gateway(&[backend.addr]);
    run(async {
        let mut client = client_h2::Client::connect(gateway.addr).await;
        for (asked, _) in TYPES {
            assert_eq!(overdue(&mut client, asked, "600m", &HELLO[..9]).await, &HELLO[..9], "{asked}");
        }
    });
    assert_eq!(gateway.sum(|stats| stats.calls(Some(GrpcCode::DEADLINE_EXCEEDED))), 2);
}
