//! Load over TLS against a server of the test's own.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use loadgen::{Asks, Load, Outcome, Record, Tls};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

#[test]
fn connections_are_kept_and_every_answer_is_counted() {
    let server = Server::start();
    let (records, tls) = send(server.addr, 40, Vec::new());
    assert_eq!(records.len(), 20);
    assert!(records.iter().all(|record| record.outcome == Outcome::Answered { status: 200, body: 100_000 }));
    assert_eq!(tls.certificates_seen(), 1);
    // Each is asked again while it is idle; how many there are depends on how long answers take here.
    assert!(server.handshakes.load(Ordering::SeqCst) < 20, "no connection was used twice");
}

#[test]
fn a_connection_for_each_request_is_a_full_handshake_each() {
    let server = Server::start();
    let close = vec![("Connection".to_owned(), "close".to_owned())];
    let (records, _) = send(server.addr, 40, close);
    assert!(records.iter().all(|record| record.outcome.is_good()), "{records:?}");
    assert_eq!(server.handshakes.load(Ordering::SeqCst), 20);
    assert_eq!(server.resumed.load(Ordering::SeqCst), 0);
}

#[test]
fn whoever_does_not_speak_tls_fails_the_request_and_a_bad_name_is_refused_before() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        while let Ok((mut socket, _)) = listener.accept() {
            let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let (records, tls) = send(addr, 20, Vec::new());
    assert!(records.iter().all(|record| matches!(record.outcome, Outcome::Closed(_))), "{records:?}");
    assert_eq!(tls.certificates_seen(), 0);
    assert!(Tls::to("not a name").is_err());
}

/// Half a second of load.
fn send(target: SocketAddr, rate_per_s: u32, headers: Vec<(String, String)>) -> (Vec<Record>, Tls) {
    let load = Load {
        target,
        host: "shop.example".to_owned(),
        path: "/".to_owned(),
        rate_per_s,
        connections_max: 50,
        duration: Duration::from_millis(500),
        timeout: Duration::from_secs(10),
        headers,
        count_header: None,
    };
    let (tls, stop, mut records) = (Tls::to("shop.example").unwrap(), AtomicBool::new(false), Vec::new());
    let keep = |record| records.push(record);
    loadgen::run_secured(&load, &Asks::default(), &tls, Instant::now(), &stop, keep).unwrap();
    (records, tls)
}

/// Answers every request with 100,000 bytes, one thread per connection; lives as long as the test.
struct Server {
    addr: SocketAddr,
    handshakes: Arc<AtomicU64>,
    resumed: Arc<AtomicU64>,
}

impl Server {
    fn start() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["shop.example".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap().der().clone();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let server = Self { addr, handshakes: Arc::default(), resumed: Arc::default() };
        let (handshakes, resumed) = (Arc::clone(&server.handshakes), Arc::clone(&server.resumed));
        std::thread::spawn(move || {
            while let Ok((socket, _)) = listener.accept() {
                let tls = ServerConnection::new(Arc::clone(&config)).unwrap();
                let (handshakes, resumed) = (Arc::clone(&handshakes), Arc::clone(&resumed));
                std::thread::spawn(move || serve(StreamOwned::new(tls, socket), &handshakes, &resumed));
            }
        });
        server
    }
}

fn serve(mut stream: StreamOwned<ServerConnection, TcpStream>, handshakes: &AtomicU64, resumed: &AtomicU64) {
    let mut held = Vec::new();
    let mut buffer = [0; 4096];
    let mut is_first = true;
    while let Ok(n) = stream.read(&mut buffer) {
        if n == 0 {
            return;
        }
        if std::mem::take(&mut is_first) {
            handshakes.fetch_add(1, Ordering::SeqCst);
            if stream.conn.handshake_kind() == Some(rustls::HandshakeKind::Resumed) {
                resumed.fetch_add(1, Ordering::SeqCst);
            }
        }
        held.extend_from_slice(&buffer[..n]);
        if held.ends_with(b"\r\n\r\n") {
            let closes = held.windows(17).any(|window| window == b"Connection: close");
            held.clear();
            let mut answer = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n".to_vec();
            answer.resize(answer.len() + 100_000, b'x');
            if stream.write_all(&answer).is_err() || closes {
                stream.conn.send_close_notify();
                let _ = stream.flush();
                return;
            }
        }
    }
}
