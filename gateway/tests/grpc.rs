//! Calls of gRPC: how they end in log and metrics, what is tried again for a code, deadlines.
#![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

mod support;

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use config::AccessLog;
use gateway::observe::stats::Limit;
use h2::Reason;
use http::{HeaderMap, HeaderValue, Request};
use routing::id::ClusterId;
use routing::model::{GrpcCode, Policy};
use support::backend::Backend;
use support::client::Client;
use support::h2::{self as client_h2, Answer, run};
use support::h2_backend::{Asked, Do, H2Backend};
use support::table::world;
use support::{Gateway, config, until};

const FINE: [(&str, &str); 1] = [("grpc-status", "0")];
const UNAVAILABLE: [(&str, &str); 2] = [("content-type", "application/grpc"), ("grpc-status", "14")];

/// A gateway whose only cluster has these endpoints of HTTP/2.
fn gateway(endpoints: &[SocketAddr], edit: impl FnOnce(&mut Policy)) -> Gateway {
    let world = world(endpoints).undetected().http2().policy(edit);
    Gateway::start(config(), |addr| world.on(addr))
}

/// The head of a call, and what it says of its time.
fn call(path: &str, timeout: Option<&'static str>) -> Request<()> {
    let mut call = client_h2::post(path);
    call.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    call.headers_mut().insert("te", HeaderValue::from_static("trailers"));
    if let Some(timeout) = timeout {
        call.headers_mut().insert("grpc-timeout", HeaderValue::from_static(timeout));
    }
    call
}

/// The status that a call ended with, wherever it is said.
fn code(answer: &Answer) -> Option<u8> {
    let of =
        |fields: &HeaderMap| fields.get("grpc-status").map(|code| code.to_str().unwrap().parse().unwrap());
    answer.trailers.as_ref().and_then(of).or_else(|| of(&answer.headers))
}

fn timeout_of(asked: &Asked) -> Option<Duration> {
    asked.headers.get("grpc-timeout").map(|value| wire::grpc::timeout(value.as_bytes()).unwrap())
}

fn counted(gateway: &Gateway, code: GrpcCode) -> u64 {
    gateway.sum(|stats| stats.calls(Some(code)))
}

#[test]
fn how_a_call_ended_is_logged_and_counted_wherever_it_was_said() {
    let backend = H2Backend::start(|asked| match asked.uri.rsplit_once('/').unwrap().1 {
        "Fine" => Do::Answer("message", FINE.to_vec()),
        "Late" => Do::Answer("message", vec![("grpc-status", "8")]),
        "Gone" => Do::Only(UNAVAILABLE.to_vec()),
        "Odd" => Do::Answer("message", vec![("grpc-status", "fine")]),
        _ => Do::Sized("no trailers at all"),
    });
    let log = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("grpc.log");
    let _ = std::fs::remove_file(&log);
    let mut config = config();
    config.observe.access_log = AccessLog::File(log.clone());
    let world = world(&[backend.addr]).undetected().http2();
    let gateway = Gateway::start(config, |addr| world.on(addr));
    run(async {
        let mut client = client_h2::Client::connect(gateway.addr).await;
        for path in ["/a/Fine", "/a/Late", "/a/Gone", "/a/Odd", "/a/None"] {
            assert_eq!(client.ask(call(path, None)).await.unwrap().status, 200, "{path}");
        }
        client.get("/a/Plain").await;
    });
    let mut lines = Vec::new();
    until("six lines", || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()).collect();
        lines.len() == 6
    });
    let logged: Vec<_> =
        lines.iter().map(|line| (line["path"].as_str().unwrap(), &line["grpc_status"])).collect();
    let none = &serde_json::Value::Null;
    let wanted = [0.into(), 8.into(), 14.into(), 2.into()];
    assert_eq!(
        logged,
        [
            ("/a/Fine", &wanted[0]),
            ("/a/Late", &wanted[1]),
            ("/a/Gone", &wanted[2]),
            ("/a/Odd", &wanted[3]),
            ("/a/None", none),
            ("/a/Plain", none),
        ]
    );
    for (code, calls) in [(0, 1), (8, 1), (14, 1), (2, 1), (4, 0)] {
        assert_eq!(counted(&gateway, GrpcCode::of(code)), calls, "{code}");
    }
    assert_eq!(gateway.sum(|stats| stats.calls(None)), 1, "no code, and what is no call is not counted");
}

#[test]
fn a_call_that_an_endpoint_answers_unavailable_goes_elsewhere_where_the_policy_lists_it() {
    for listed in [true, false] {
        let failing = H2Backend::start(|_| Do::Only(UNAVAILABLE.to_vec()));
        let serving = H2Backend::start(|_| Do::Answer("served", FINE.to_vec()));
        let gateway = gateway(&[failing.addr, serving.addr], |policy| {
            policy.retry.grpc = listed.then_some(GrpcCode::UNAVAILABLE).into_iter().collect();
            policy.retry.budget_percent = 100;
        });
        let codes: Vec<_> = run(async {
            let mut client = client_h2::Client::connect(gateway.addr).await;
            let mut codes = Vec::new();
            while failing.asked().len() < 3 || codes.len() < 10 {
                codes.push(code(&client.ask(call("/shop.Web/Get", None)).await.unwrap()).unwrap());
            }
            codes
        });
        let (failed, ejections) = (
            codes.iter().filter(|code| **code == 14).count(),
            gateway.sum(|stats| stats.ejections_total.get()),
        );
        if listed {
            assert_eq!(failed, 0, "{codes:?}");
            assert!(gateway.sum(|stats| stats.retries_total.get()) >= 3);
            assert!(ejections >= 1, "a listed code is a failure of the endpoint");
        } else {
            assert_eq!(failed, failing.asked().len(), "each is passed on: {codes:?}");
            assert_eq!((gateway.sum(|stats| stats.retries_total.get()), ejections), (0, 0));
        }
    }
}

#[test]
fn a_call_that_has_had_a_message_is_not_made_again_and_what_is_left_untried_says_so() {
    let talking = H2Backend::start(|asked| match asked.uri.ends_with("/Talk") {
        true => Do::Answer("message", vec![("grpc-status", "14")]),
        false => Do::Only(UNAVAILABLE.to_vec()),
    });
    let gateway = gateway(&[talking.addr], |policy| {
        policy.retry.grpc = [GrpcCode::UNAVAILABLE].into_iter().collect();
        policy.retry.attempts = 2;
        policy.outlier.consecutive_failures = 0;
    });
    run(async {
        let mut client = client_h2::Client::connect(gateway.addr).await;
        let answer = client.ask(call("/shop.Web/Talk", None)).await.unwrap();
        assert_eq!((&answer.body[..], code(&answer)), (&b"message"[..], Some(14)));
        assert_eq!(talking.asked().len(), 1);
        // The last attempt's answer is the answer.
        let answer = client.ask(call("/shop.Web/Gone", None)).await.unwrap();
        assert_eq!((answer.status, code(&answer)), (200, Some(14)));
        assert_eq!(talking.asked().len(), 3);
    });
}

#[test]
fn a_deadline_bounds_the_call_is_told_to_the_endpoint_and_is_not_its_fault() {
    let backend = H2Backend::start(|_| Do::Hang);
    let gateway = gateway(&[backend.addr], |_| {});
    run(async {
        let mut client = client_h2::Client::connect(gateway.addr).await;
        for n in 1..=5 {
            let began = Instant::now();
            let answer = client.ask(call("/shop.Web/Hang", Some("80m"))).await.unwrap();
            assert!((80..2_000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
            assert_eq!((answer.status, code(&answer)), (200, Some(4)), "{answer:?}");
            assert_eq!(answer.one("x-ringway-reason"), Some("grpc_timeout"));
            client_h2::until(|| backend.seen.cancelled.load(Ordering::SeqCst) == n).await;
        }
    });
    let told = timeout_of(&backend.asked()[0]).unwrap();
    assert!(told < Duration::from_millis(80) && told > Duration::from_millis(10), "{told:?}");
    assert_eq!(backend.asked().len(), 5, "each was sent once");
    assert_eq!(counted(&gateway, GrpcCode::DEADLINE_EXCEEDED), 5);
    assert_eq!(
        gateway.sum(|stats| stats.ejections_total.get()),
        0,
        "clients eject nobody by asking for the impossible"
    );
}

#[test]
fn each_attempt_is_told_what_is_left() {
    let backend = H2Backend::start(|_| Do::Only(UNAVAILABLE.to_vec()));
    let gateway = gateway(&[backend.addr], |policy| {
        policy.retry.grpc = [GrpcCode::UNAVAILABLE].into_iter().collect();
        policy.outlier.consecutive_failures = 0;
    });
    run(async {
        let mut client = client_h2::Client::connect(gateway.addr).await;
        let answer = client.ask(call("/shop.Web/Get", Some("50S"))).await.unwrap();
        assert_eq!(code(&answer), Some(14));
    });
    let mut told: Vec<_> = backend.asked().iter().map(|asked| timeout_of(asked).unwrap()).collect();
    assert_eq!(told.len(), 3);
    told.insert(0, Duration::from_secs(50));
    assert!(told.is_sorted_by(|before, after| before > after), "{told:?}");
    assert!(told[3] > Duration::from_secs(40), "{told:?}");
}

#[test]
fn a_deadline_that_is_none_is_refused_and_one_beyond_the_maximum_is_cut() {
    let backend = H2Backend::start(|_| Do::Hang);
    let mut config = config();
    config.grpc.timeout_max = config::Period::millis(50);
    let world = world(&[backend.addr]).undetected().http2();
    let gateway = Gateway::start(config, |addr| world.on(addr));
    run(async {
        let mut client = client_h2::Client::connect(gateway.addr).await;
        for timeout in ["5", "5s", "123456789S", "-1S", ""] {
            let answer = client.ask(call("/shop.Web/Hang", Some(timeout))).await.unwrap();
            assert_eq!(code(&answer), Some(13), "{timeout:?}");
            assert_eq!(answer.one("grpc-message"), Some("400 Bad Request: grpc_timeout_malformed"));
        }
        assert_eq!(backend.asked().len(), 0);
        let answer = client.ask(call("/shop.Web/Hang", Some("1H"))).await.unwrap();
        assert_eq!(code(&answer), Some(4));
    });
    assert!(timeout_of(&backend.asked()[0]).unwrap() <= Duration::from_millis(50));
    assert_eq!(gateway.hits(Limit::GrpcTimeout), 1);
}

#[test]
fn a_stream_whose_time_is_over_ends_with_a_status_and_the_connection_stays() {
    let backend = H2Backend::start(|_| Do::Echo);
    let gateway = gateway(&[backend.addr], |_| {});
    run(async {
        let mut client = client_h2::Client::connect(gateway.addr).await;
        let (response, mut send) = client.start(call("/shop.Web/Talk", Some("1S")), false).await;
        send.send_data(Bytes::from_static(b"hello"), false).unwrap();
        let mut body = response.await.unwrap().into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), "hello");
        assert!(body.data().await.is_none());
        let trailers = body.trailers().await.unwrap().unwrap();
        assert_eq!(
            (&trailers["grpc-status"], &trailers["grpc-message"]),
            (&"4".parse().unwrap(), &"grpc_timeout".parse().unwrap())
        );
        // Nobody reads what the client still sends.
        let reset = std::future::poll_fn(|cx| send.poll_reset(cx)).await.unwrap();
        assert_eq!(reset, Reason::NO_ERROR);
        let (response, mut send) = client.start(call("/shop.Web/Talk", None), false).await;
        send.send_data(Bytes::from_static(b"again"), true).unwrap();
        assert_eq!(client_h2::answer(response.await.unwrap()).await.unwrap().body, "again");
    });
    assert_eq!(counted(&gateway, GrpcCode::DEADLINE_EXCEEDED), 1);
    assert_eq!((backend.connections(), gateway.sum(|stats| stats.http2_connections_total.get())), (1, 1));
}

/// A backend that sends the head of an answer and these pieces of its body, each chunked where `length` is `None`.
fn slow(length: Option<usize>, pieces: Vec<Vec<u8>>, end: &'static str) -> Backend {
    Backend::raw(move |peer| {
        if peer.head().is_none() {
            return;
        }
        let framing = match length {
            None => "Transfer-Encoding: chunked".to_owned(),
            Some(length) => format!("Content-Length: {length}"),
        };
        peer.send(format!("HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\n{framing}\r\n\r\n"));
        for piece in &pieces {
            match length {
                None => peer.send([format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat()),
                Some(_) => peer.send(piece),
            }
            support::pass(Duration::from_millis(20));
        }
        peer.send(end);
        peer.drained();
    })
}

/// Of a policy under which one failure ejects.
fn strict(backend: &Backend) -> Gateway {
    let world = world(&[backend.addr]).undetected().policy(|policy| policy.outlier.consecutive_failures = 1);
    Gateway::start(config(), |addr| world.on(addr))
}

#[track_caller]
fn blames_nobody(gateway: &Gateway) {
    let failures = gateway.sum(|stats| stats.cluster(ClusterId(0)).tally.failures.get());
    assert_eq!((failures, gateway.sum(|stats| stats.ejections_total.get())), (0, 0));
}

#[test]
fn a_stream_of_known_length_whose_time_is_over_is_cut_and_blames_nobody() {
    let backend = slow(Some(100), vec![b"some of it".to_vec()], "");
    let gateway = strict(&backend);
    run(async {
        let mut client = client_h2::Client::connect(gateway.addr).await;
        for _ in 0..3 {
            let (response, _send) = client.start(call("/shop.Web/Get", Some("200m")), true).await;
            client_h2::answer(response.await.unwrap()).await.unwrap_err();
        }
    });
    assert_eq!(counted(&gateway, GrpcCode::DEADLINE_EXCEEDED), 3);
    blames_nobody(&gateway);
}

#[test]
fn an_answer_that_waits_for_a_client_that_stalls_blames_nobody_for_the_time_it_waits() {
    // The first piece is all the window that the client has; how many of the others wait where is for the gateway.
    for more in 0..6 {
        let pieces = [vec![vec![b'x'; 65_535]], vec![vec![b'y'; 500]; more]].concat();
        let all = pieces.concat().len();
        let backend = slow(None, pieces, "0\r\ngrpc-status: 0\r\n\r\n");
        let gateway = strict(&backend);
        run(async {
            let mut client = client_h2::Client::connect(gateway.addr).await;
            let (response, _send) = client.start(call("/shop.Web/Get", Some("300m")), true).await;
            let response = response.await.unwrap();
            tokio::time::sleep(Duration::from_millis(450)).await;
            let answer = client_h2::answer(response).await.unwrap();
            match code(&answer) {
                Some(0) => assert_eq!(answer.body.len(), all, "{more}"),
                code => assert_eq!(code, Some(4), "{more}"),
            }
        });
        blames_nobody(&gateway);
    }
}

#[test]
fn what_is_no_call_has_no_deadline() {
    let backend = H2Backend::start(|_| Do::Sized("served"));
    let gateway = gateway(&[backend.addr], |_| {});
    let mut client = Client::connect(gateway.addr);
    for head in [
        "GET / HTTP/1.1\r\nContent-Type: application/grpc",
        "POST / HTTP/1.1\r\nContent-Type: application/json",
    ] {
        let response = client.send(format!("{head}\r\nHost: a\r\ngrpc-timeout: odd\r\n\r\n")).response();
        assert_eq!((response.status, response.text().as_str()), (200, "served"), "{}", response.head);
    }
    let passed = backend.asked().iter().all(|asked| asked.headers["grpc-timeout"] == "odd");
    assert!(passed, "{:?}", backend.asked());
    assert_eq!(gateway.sum(|stats| GrpcCode::all().map(|code| stats.calls(Some(code))).sum::<u64>() + stats.calls(None)), 0);
}

#[test]
fn calls_that_a_drain_waits_for_no_longer_end_unavailable() {
    let backend = H2Backend::start(|asked| if asked.uri.ends_with("/Hang") { Do::Hang } else { Do::Echo });
    let gateway = gateway(&[backend.addr], |_| {});
    run(async {
        let mut client = client_h2::Client::connect(gateway.addr).await;
        let (talk, mut send) = client.start(call("/shop.Web/Talk", None), false).await;
        send.send_data(Bytes::from_static(b"one"), false).unwrap();
        let mut body = talk.await.unwrap().into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), "one");
        let (hanging, _) = client.start(call("/shop.Web/Hang", None), true).await;
        client_h2::until(|| backend.asked().len() == 2).await;
        gateway.drain();
        // What there is goes on.
        send.send_data(Bytes::from_static(b"two"), false).unwrap();
        assert_eq!(body.data().await.unwrap().unwrap(), "two");
        gateway.node().peers.stop();
        assert!(body.data().await.is_none());
        let trailers = body.trailers().await.unwrap().unwrap();
        assert_eq!(
            (&trailers["grpc-status"], &trailers["grpc-message"]),
            (&"14".parse().unwrap(), &"drained".parse().unwrap())
        );
        let answer = client_h2::answer(hanging.await.unwrap()).await.unwrap();
        assert_eq!((code(&answer), answer.one("x-ringway-reason")), (Some(14), Some("drained")));
        assert!(client.ended.await.unwrap().is_ok(), "and the connection ends without an error");
    });
    assert_eq!(counted(&gateway, GrpcCode::UNAVAILABLE), 2);
    gateway.ended();
}

#[test]
fn a_drain_asks_connections_to_leave_one_by_one() {
    let backend = H2Backend::start(|_| Do::Sized("served"));
    let mut config = config();
    config.timeouts.drain_idle = config::Period::millis(400);
    let world = world(&[backend.addr]).undetected().http2();
    let gateway = Gateway::start(config, |addr| world.on(addr));
    let mut left = run(async {
        let mut ended = Vec::new();
        for _ in 0..20 {
            let mut client = client_h2::Client::connect(gateway.addr).await;
            assert_eq!(client.get("/").await.status, 200);
            ended.push(tokio::spawn(async move {
                let client_h2::Client { send, ended } = client;
                assert!(ended.await.unwrap().is_ok());
                // A client that nobody holds leaves by itself.
                drop(send);
                Instant::now()
            }));
        }
        gateway.drain();
        let mut left = Vec::new();
        for ended in ended {
            left.push(ended.await.unwrap());
        }
        left
    });
    left.sort();
    let spread = left[19] - left[0];
    assert!(spread > Duration::from_millis(100), "all left within {spread:?}");
    gateway.ended();
}
