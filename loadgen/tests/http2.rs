//! Open-loop load over HTTP/2 and gRPC, against a server made of the same framing library.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use loadgen::{Asks, Begun, Call, Http2, Load, Method, Outcome, Record, Summary};

#[test]
fn every_request_is_answered_as_a_stream_of_few_connections_with_its_number_and_body() {
    let server = Server::start(Behaviour::Echo);
    let asks = Asks {
        method: Method::Post,
        paths: vec!["/a".into(), "/b".into()],
        body: b"hello".to_vec(),
        number_header: Some("x-number".into()),
    };
    let load = Load { count_header: Some("X-Path".into()), ..load(server.addr, 400) };
    let (records, summary) = send(&load, &asks, Call::Http);
    assert_eq!((records.len(), summary.total.ok, summary.connections), (200, 200, 2));
    for record in &records {
        assert_eq!(
            record.outcome,
            Outcome::Answered { status: 200, body: 5 + 20 },
            "body and number come back"
        );
        let path = if record.number % 2 == 0 { "/a" } else { "/b" };
        assert_eq!(record.value.as_deref(), Some(path));
    }
}

#[test]
fn a_call_of_grpc_is_good_only_with_status_0_wherever_the_status_stands() {
    for (behaviour, outcome) in [
        (Behaviour::Grpc { trailers: Some("0") }, Outcome::Answered { status: 200, body: 9 }),
        (Behaviour::Grpc { trailers: Some("14") }, Outcome::Grpc(Some(14))),
        (Behaviour::Grpc { trailers: None }, Outcome::Grpc(Some(7))),
        (Behaviour::Echo, Outcome::Grpc(None)),
    ] {
        let server = Server::start(behaviour);
        let asks = Asks { body: b"ping".to_vec(), ..Asks::default() };
        let (records, summary) = send(&load(server.addr, 100), &asks, Call::Grpc);
        assert_eq!(records.len(), 50);
        assert!(records.iter().all(|record| record.outcome == outcome), "{behaviour:?}: {records:?}");
        let good = if outcome.is_good() { 50 } else { 0 };
        assert_eq!((summary.total.ok, summary.total.failed.status), (good, 50 - good));
    }
}

#[test]
fn connections_that_are_retired_cost_no_request() {
    let server = Server::start(Behaviour::Retire { after: 20 });
    let (records, summary) = send(&load(server.addr, 400), &Asks::default(), Call::Http);
    assert_eq!(records.len(), 200);
    assert!(records.iter().all(|record| record.outcome.is_good()), "{records:?}");
    assert!(summary.connections >= 8, "{} connections of 20 requests", summary.connections);
}

#[test]
fn a_server_that_stands_still_shows_in_every_request_that_became_due_meanwhile() {
    let server = Server::start(Behaviour::Stall(Duration::from_millis(300)));
    let (records, _) = send(&load(server.addr, 200), &Asks::default(), Call::Http);
    assert_eq!(records.len(), 100);
    // The first is answered after 300 ms; what became due until then waited for the rest of them.
    let waited = records.iter().filter(|record| record.due < Duration::from_millis(200));
    for record in waited {
        let least = Duration::from_millis(300).saturating_sub(record.due);
        assert!(record.latency >= least, "{record:?}");
    }
}

#[test]
fn silence_is_a_timeout_and_the_stream_is_reset_while_its_connection_stays() {
    let server = Server::start(Behaviour::Silent);
    let load = Load { timeout: Duration::from_millis(100), ..load(server.addr, 100) };
    let (records, summary) = send(&load, &Asks::default(), Call::Http);
    assert!(records.iter().all(|record| record.outcome == Outcome::Timeout(Begun::No)), "{records:?}");
    assert_eq!((summary.total.failed.timeout, summary.connections), (50, 2));
}

#[test]
fn nobody_there_and_somebody_who_speaks_something_else_are_told_apart() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (records, _) = send(&load(nobody, 20), &Asks::default(), Call::Http);
    assert!(records.iter().all(|record| record.outcome == Outcome::Connect), "{records:?}");
    let other = loadgen::Backend::start(
        SocketAddr::from(([127, 0, 0, 1], 0)),
        loadgen::BackendOptions {
            cluster: "a".into(),
            endpoint: "one".into(),
            latency: loadgen::Latency::default(),
        },
    )
    .unwrap();
    let (records, summary) = send(&load(other.addr(), 20), &Asks::default(), Call::Http);
    assert!(records.iter().all(|record| !record.outcome.is_good()), "{records:?}");
    assert_eq!(summary.total.ok, 0);
}

/// Half a second of load.
fn load(target: SocketAddr, rate_per_s: u32) -> Load {
    Load {
        target,
        host: "shop.example".to_owned(),
        path: "/".to_owned(),
        rate_per_s,
        connections_max: 2,
        duration: Duration::from_millis(500),
        timeout: Duration::from_secs(10),
        headers: Vec::new(),
        count_header: None,
    }
}

fn send(load: &Load, asks: &Asks, call: Call) -> (Vec<Record>, Summary) {
    let (stop, mut records, http2) = (AtomicBool::new(false), Vec::new(), Http2 { streams_max: 50, call });
    let keep = |record| records.push(record);
    let summary = loadgen::run_http2(load, asks, http2, None, Instant::now(), &stop, keep).unwrap();
    (records, summary)
}

#[derive(Clone, Copy, Debug)]
enum Behaviour {
    /// The request's body and its number come back, its path in a header.
    Echo,
    /// A message with this status behind it; or an end at once with status 7 in the head.
    Grpc { trailers: Option<&'static str> },
    /// A connection says goodbye after so many requests.
    Retire { after: u64 },
    /// Nothing at all is read for so long after the first request.
    Stall(Duration),
    /// Requests are taken and never answered.
    Silent,
}

/// Lives as long as the test.
struct Server {
    addr: SocketAddr,
}

impl Server {
    fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let stalled = Arc::new(AtomicU64::new(0));
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
            listener.set_nonblocking(true).unwrap();
            let local = tokio::task::LocalSet::new();
            local.block_on(&runtime, async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                loop {
                    let (socket, _) = listener.accept().await.unwrap();
                    tokio::task::spawn_local(serve(socket, behaviour, Arc::clone(&stalled)));
                }
            });
        });
        Self { addr }
    }
}

async fn serve(socket: tokio::net::TcpStream, behaviour: Behaviour, stalled: Arc<AtomicU64>) {
    let Ok(mut connection) = h2::server::handshake(socket).await else { return };
    let (mut count, mut kept) = (0, Vec::new());
    while let Some(Ok((request, answer))) = connection.accept().await {
        count += 1;
        match behaviour {
            Behaviour::Retire { after } if count == after => connection.graceful_shutdown(),
            Behaviour::Stall(length) if stalled.swap(1, Ordering::Relaxed) == 0 => std::thread::sleep(length),
            Behaviour::Silent => {
                kept.push((request, answer));
                continue;
            }
            _ => {}
        }
        tokio::task::spawn_local(answer_to(request, answer, behaviour));
    }
}

async fn answer_to(
    request: Request<h2::RecvStream>,
    mut answer: h2::server::SendResponse<Bytes>,
    behaviour: Behaviour,
) {
    let (head, mut body) = request.into_parts();
    let mut bytes = Vec::new();
    while let Some(Ok(data)) = body.data().await {
        bytes.extend_from_slice(&data);
    }
    let mut response = Response::builder().header("x-path", head.uri.path());
    match behaviour {
        Behaviour::Grpc { trailers } => {
            assert_eq!((head.method.as_str(), &head.headers["te"]), ("POST", &"trailers".parse().unwrap()));
            assert_eq!(bytes, b"\0\0\0\0\x04ping");
            let Some(status) = trailers else {
                response = response.header("grpc-status", "7");
                answer.send_response(response.body(()).unwrap(), true).unwrap();
                return;
            };
            let mut stream = answer.send_response(response.body(()).unwrap(), false).unwrap();
            stream.send_data(bytes.into(), false).unwrap();
            let trailers = [("grpc-status".parse().unwrap(), status.parse().unwrap())];
            stream.send_trailers(HeaderMap::from_iter(trailers)).unwrap();
        }
        _ => {
            bytes.extend(head.headers.get("x-number").map_or(&b""[..], |value| value.as_bytes()));
            let mut stream = answer.send_response(response.body(()).unwrap(), false).unwrap();
            stream.send_data(bytes.into(), true).unwrap();
        }
    }
}
