//! Compressed responses end to end: what a client that asks for them gets, byte for byte, and what passes as it is.
#![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

mod support;

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use flate2::read::GzDecoder;
use gateway::observe::stats::Limit;
use support::backend::{Backend, Then};
use support::client::{Client, Response, To};
use support::fleet::{Fleet, service};
use support::{config, until};

fn ingress(value: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata:\n  name: web\n  annotations: \
         {{nginx.ingress.kubernetes.io/enable-gzip: \"{value}\"}}\nspec:\n  rules:\n  - http:\n      paths:\n      - {{path: /, \
         pathType: Prefix, backend: {{service: {{name: web, port: {{number: 80}}}}}}}}\n"
    )
}

fn start(config: config::Config, value: &str, web: &Backend) -> Fleet {
    let files = [("fleet/web.yaml", ingress(value)), ("clusters/one/all.yaml", service(&[web.addr]))];
    Fleet::start(config, &files.each_ref().map(|(name, text)| (*name, text.as_str())))
}

/// Answers with the head that the path asks for and `body`.
fn backend(head: &'static str, body: &[u8]) -> Backend {
    let head = head.replace('\n', "\r\n").replace("LENGTH", &body.len().to_string());
    Backend::answering([head.as_bytes(), body].concat(), Then::Keep)
}

fn ask(fleet: &Fleet, method: &str, fields: &str) -> Response {
    let mut client = Client::connect(fleet.addr);
    client.send(format!("{method} / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
    let to = if method == "HEAD" { To::Head } else { To::Get };
    client.try_response(to).unwrap()
}

fn decoded(response: &Response) -> Vec<u8> {
    let mut out = Vec::new();
    GzDecoder::new(&response.body[..]).read_to_end(&mut out).unwrap();
    out
}

const GZIP: &str = "Accept-Encoding: br, gzip;q=0.8\r\n";

#[test]
fn a_text_comes_compressed_to_who_asks_and_plain_to_others() {
    let body = "{\"all\": \"work and no play\"}".repeat(4000).into_bytes();
    let web = backend(
        "HTTP/1.1 200 OK\nContent-Type: application/json\nETag: \"v1\"\nAccept-Ranges: bytes\nVary: Cookie\nContent-Length: LENGTH\n\n",
        &body,
    );
    let fleet = start(config(), "true", &web);
    let coded = ask(&fleet, "GET", GZIP);
    assert_eq!(decoded(&coded), body);
    assert!(coded.body.len() < body.len() / 20, "{}", coded.body.len());
    assert_eq!((coded.one("content-encoding"), coded.one("etag")), (Some("gzip"), Some("W/\"v1\"")));
    assert_eq!((coded.one("content-length"), coded.one("transfer-encoding")), (None, Some("chunked")));
    assert_eq!(
        (coded.all("vary"), coded.one("accept-ranges")),
        (vec!["Cookie", "Accept-Encoding"], Some("none"))
    );
    for fields in ["", "Accept-Encoding: gzip;q=0\r\n", "Accept-Encoding: identity\r\n"] {
        let plain = ask(&fleet, "GET", fields);
        assert_eq!((plain.body, plain.head.contains("ncoding: gzip")), (body.clone(), false), "{fields}");
        assert!(plain.head.contains("ETag: \"v1\""), "{}", plain.head);
        assert!(plain.head.contains("Vary: Accept-Encoding"), "{}", plain.head);
    }
    // The connection lives on.
    let mut client = Client::connect(fleet.addr);
    for _ in 0..3 {
        client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{GZIP}\r\n"));
        assert_eq!(decoded(&client.response()), body);
    }
    let off = start(config(), "false", &web);
    assert_eq!(ask(&off, "GET", GZIP).one("vary"), Some("Cookie"));
}

#[test]
fn what_is_coded_short_part_or_without_a_body_passes_as_it_is() {
    let long = vec![b'x'; 4000];
    for (head, body, method) in [
        ("HTTP/1.1 200 OK\nContent-Type: text/plain\nContent-Length: LENGTH\n\n", &long[..255], "GET"),
        (
            "HTTP/1.1 200 OK\nContent-Type: text/plain\nContent-Encoding: br\nContent-Length: LENGTH\n\n",
            &long,
            "GET",
        ),
        (
            "HTTP/1.1 206 Part\nContent-Type: text/plain\nContent-Range: bytes 0-3999/8000\nContent-Length: LENGTH\n\n",
            &long,
            "GET",
        ),
        ("HTTP/1.1 200 OK\nContent-Type: image/png\nContent-Length: LENGTH\n\n", &long, "GET"),
        ("HTTP/1.1 200 OK\nContent-Type: text/plain\nContent-Length: 4000\n\n", b"", "HEAD"),
        ("HTTP/1.1 204 None\nContent-Type: text/plain\n\n", b"", "GET"),
        ("HTTP/1.1 304 Same\nContent-Type: text/plain\nETag: \"v1\"\n\n", b"", "GET"),
    ] {
        let web = backend(head, body);
        let fleet = start(config(), "true", &web);
        let response = ask(&fleet, method, GZIP);
        assert_eq!(response.body, body, "{head}");
        for name in ["etag", "content-length", "content-encoding", "content-range"] {
            let sent = support::backend::values(
                &head.replace('\n', "\r\n").replace("LENGTH", &body.len().to_string()),
                name,
            )
            .first()
            .map(|value| (*value).to_owned());
            assert_eq!(response.one(name).map(str::to_owned), sent, "{head} {name}");
        }
    }
}

/// A stream stays one: what the backend has said is with the client before it says more.
#[test]
fn every_piece_of_a_stream_arrives_at_once() {
    let seen = Arc::new(AtomicUsize::new(0));
    let told = Arc::clone(&seen);
    let web = Backend::raw(move |peer| {
        let _ = peer.request();
        peer.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
        for piece in 0..5 {
            peer.send(format!("9\r\ndata: {piece}\n\n\r\n"));
            until("the piece has arrived", || told.load(Ordering::SeqCst) > piece);
        }
        peer.send("0\r\n\r\n");
    });
    let fleet = start(config(), "true", &web);
    let mut client = Client::connect(fleet.addr);
    client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{GZIP}\r\n"));
    let head = client.head().unwrap();
    assert!(head.contains("Content-Encoding: gzip"), "{head}");
    let mut coded = Vec::new();
    let chunk = |client: &mut Client| {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            line.extend(client.exactly(1).unwrap());
        }
        let length = usize::from_str_radix(std::str::from_utf8(&line).unwrap().trim(), 16).unwrap();
        let data = client.exactly(length + 2).unwrap();
        data[..length].to_vec()
    };
    let mut text = String::new();
    for piece in 0..5 {
        text += &format!("data: {piece}\n\n");
        let mut first = vec![0; text.len()];
        while GzDecoder::new(&coded[..]).read_exact(&mut first).is_err() {
            coded.extend(chunk(&mut client));
        }
        assert_eq!(first, text.as_bytes());
        seen.store(piece + 1, Ordering::SeqCst);
    }
    loop {
        let data = chunk(&mut client);
        if data.is_empty() {
            break;
        }
        coded.extend(data);
    }
    let mut all = String::new();
    GzDecoder::new(&coded[..]).read_to_string(&mut all).unwrap();
    assert_eq!(all, text);
}

#[test]
fn large_bodies_come_whole_and_the_streams_at_once_are_bounded() {
    let body: Vec<u8> = (0..3_000_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[2]).collect();
    let web = backend("HTTP/1.1 200 OK\nContent-Type: text/css\nContent-Length: LENGTH\n\n", &body);
    let fleet = start(config(), "true", &web);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert!(decoded(&ask(&fleet, "GET", GZIP)) == body));
        }
    });
    let mut settings = config();
    settings.limits.gzip_streams_max = 0;
    let fleet = start(settings, "true", &web);
    let plain = ask(&fleet, "GET", GZIP);
    assert!(plain.body == body && plain.one("content-encoding").is_none());
    assert_eq!(plain.one("vary"), Some("Accept-Encoding"));
    assert_eq!(fleet.node().stats.iter().map(|stats| stats.hits(Limit::GzipStreams)).sum::<u64>(), 1);
    // Until the connection closes: the end comes without a length.
    let until_close = Backend::answering(
        [b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n".as_slice(), &body[..50_000]].concat(),
        Then::Close,
    );
    let fleet = start(config(), "true", &until_close);
    assert!(decoded(&ask(&fleet, "GET", GZIP)) == body[..50_000]);
}
