//! What comes from a backend: lawful responses of every framing, and evil ones (SECURITY S30).
#![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use support::backend::{Backend, Then, respond};
use support::client::{Client, Cut, To};
use support::table::world;
use support::{Gateway, PATIENCE, config, until};

/// A gateway before this backend that tries everything once.
fn before(backend: &Backend) -> Gateway {
    let addr = backend.addr;
    Gateway::start(config(), |on| world(&[addr]).policy(|policy| policy.retry.attempts = 1).on(on))
}

/// Answers the first request with `bytes`, then as `then` says; all others properly.
fn evil(bytes: &[u8], then: Then) -> Backend {
    let bytes = bytes.to_vec();
    let turn = AtomicUsize::new(0);
    Backend::start(move |_, stream| {
        if turn.fetch_add(1, Ordering::SeqCst) > 0 {
            return respond(stream, b"good");
        }
        let _ = std::io::Write::write_all(stream, &bytes);
        then
    })
}

#[test]
fn s30_malformed_response_heads_become_502_and_cost_the_connection() {
    let cases: &[(&str, &[u8])] = &[
        ("not HTTP", b"SSH-2.0-OpenSSH_9.6\r\n\r\n"),
        ("HTTP/2", b"HTTP/2.0 200 OK\r\nContent-Length: 4\r\n\r\nevil"),
        ("status of two digits", b"HTTP/1.1 20 OK\r\nContent-Length: 4\r\n\r\nevil"),
        ("status of letters", b"HTTP/1.1 abc OK\r\nContent-Length: 4\r\n\r\nevil"),
        ("status 099", b"HTTP/1.1 099 OK\r\nContent-Length: 4\r\n\r\nevil"),
        ("two different lengths", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nevil!"),
        ("two equal lengths", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\nevil"),
        ("a list of lengths", b"HTTP/1.1 200 OK\r\nContent-Length: 4, 4\r\n\r\nevil"),
        ("a negative length", b"HTTP/1.1 200 OK\r\nContent-Length: -4\r\n\r\nevil"),
        ("length and chunked", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n"),
        ("gzip, chunked", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n"),
        ("chunked in HTTP/1.0", b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n"),
        ("folded", b"HTTP/1.1 200 OK\r\nX-A: 1\r\n 2\r\nContent-Length: 4\r\n\r\nevil"),
        ("bare LF", b"HTTP/1.1 200 OK\nContent-Length: 4\n\nevil"),
        ("bare CR in a value", b"HTTP/1.1 200 OK\r\nX-A: a\rSet-Cookie: b\r\nContent-Length: 4\r\n\r\nevil"),
        ("NUL in a value", b"HTTP/1.1 200 OK\r\nX-A: a\0b\r\nContent-Length: 4\r\n\r\nevil"),
        ("space before the colon", b"HTTP/1.1 200 OK\r\nContent-Length : 4\r\n\r\nevil"),
        ("no colon", b"HTTP/1.1 200 OK\r\nnonsense\r\nContent-Length: 4\r\n\r\nevil"),
        ("204 with a length", b"HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\nevil"),
        ("204 with chunks", b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n"),
        ("101 that nobody asked for", b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"),
        ("empty line first", b"\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"),
        ("bad chunk at once", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nevil\r\n0\r\n\r\n"),
    ];
    for (name, bytes) in cases {
        let backend = evil(bytes, Then::Keep);
        let gateway = before(&backend);
        let mut client = Client::connect(gateway.addr);
        let response = client.get("/");
        assert_eq!(response.status, 502, "{name}: {}", response.head);
        assert!(!response.text().contains("evil"), "{name}");
        // The client's connection is fine; the backend's is not used again.
        assert_eq!(client.get("/").text(), "good", "{name}");
        assert_eq!(backend.connections(), 2, "{name}: the connection was used again");
    }
}

#[test]
fn s30_an_oversized_response_head_becomes_502() {
    let large: String = (0..9).map(|n| format!("X-{n}: {}\r\n", "v".repeat(4_000))).collect();
    let many: String = (0..200).map(|n| format!("X-{n}: 1\r\n")).collect();
    let endless = format!("HTTP/1.1 200 OK\r\nX: {}", "v".repeat(200_000));
    let full = |fields: &str| format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 0\r\n\r\n");
    for bytes in [full(&large), full(&many), endless] {
        let backend = evil(bytes.as_bytes(), Then::Keep);
        let gateway = before(&backend);
        let mut client = Client::connect(gateway.addr);
        assert_eq!(client.get("/").status, 502);
        assert_eq!(client.get("/").text(), "good");
    }
}

/// A head larger than the buffer that it is first read into.
#[test]
fn a_response_head_of_30_kib_in_pieces_is_passed_on() {
    let fields: String = (0..5).map(|n| format!("X-{n}: {}\r\n", "v".repeat(6_000))).collect();
    let backend = Backend::raw(move |peer| {
        while peer.request().is_some() {
            let head = format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 2\r\n\r\nok");
            for piece in head.as_bytes().chunks(5_000) {
                peer.send(piece);
                std::thread::yield_now();
            }
        }
    });
    let gateway = before(&backend);
    let mut client = Client::connect(gateway.addr);
    for _ in 0..3 {
        let response = client.get("/");
        assert_eq!((response.status, response.one("x-4").map(str::len)), (200, Some(6_000)));
        assert_eq!(response.text(), "ok");
    }
    assert_eq!(backend.connections(), 1);
}

/// Response splitting: what stands behind a response is nobody's, whichever read it comes with.
#[test]
fn s30_bytes_behind_a_response_cost_the_connection() {
    let second = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
    for first in [
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ngood\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 6\r\n\r\n",
        "HTTP/1.1 204 No Content\r\n\r\n",
    ] {
        let backend = evil(format!("{first}{second}").as_bytes(), Then::Keep);
        let gateway = before(&backend);
        let mut client = Client::connect(gateway.addr);
        assert_ne!(client.get("/").text(), "poison", "{first}");
        assert_eq!(client.get("/").text(), "good", "{first}");
        assert_eq!(backend.connections(), 2, "{first}: the poisoned connection was used again");
    }
}

/// The same when the body's end comes in a later read than its head, and only half of the poison with it.
#[test]
fn s30_bytes_behind_the_end_of_a_streamed_body_cost_the_connection() {
    for (head, end) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\ngood", "good"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ngood\r\n", "4\r\ngood\r\n0\r\n\r\n"),
    ] {
        let (open, gate) = mpsc::channel::<()>();
        let gate = Mutex::new(gate);
        let turn = AtomicUsize::new(0);
        let backend = Backend::raw(move |peer| {
            while peer.request().is_some() {
                if turn.fetch_add(1, Ordering::SeqCst) > 0 {
                    respond(&mut peer.stream, b"fresh");
                    continue;
                }
                peer.send(head);
                let _ = gate.lock().unwrap().recv_timeout(PATIENCE);
                peer.send(format!("{end}HTTP/1.1 200 OK\r\nContent-Le"));
                // The rest of the poison comes with the next request on this connection.
                if peer.request().is_some() {
                    peer.send("ngth: 6\r\n\r\npoison");
                }
            }
        });
        let gateway = before(&backend);
        let mut client = Client::connect(gateway.addr);
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        // The beginning is here: the rest comes in a read of its own.
        until("the head is passed on", || client.stream.peek(&mut [0; 16]).unwrap() > 0);
        open.send(()).unwrap();
        assert_eq!(client.response().text(), "goodgood");
        assert_eq!(client.get("/").text(), "fresh", "{head}");
        assert_eq!(backend.connections(), 2, "{head}: the poisoned connection was used again");
    }
}

/// Bytes on a pooled connection while it is idle (response-queue poisoning).
#[test]
fn s30_unsolicited_bytes_on_an_idle_connection_close_it() {
    let (open, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let turn = AtomicUsize::new(0);
    let poisoned = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&poisoned);
    let backend = Backend::raw(move |peer| {
        while peer.request().is_some() {
            respond(&mut peer.stream, b"good");
            if turn.fetch_add(1, Ordering::SeqCst) == 0 {
                let _ = gate.lock().unwrap().recv_timeout(PATIENCE);
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison");
                seen.store(1, Ordering::SeqCst);
            }
        }
    });
    let gateway = before(&backend);
    let mut client = Client::connect(gateway.addr);
    assert_eq!(client.get("/").text(), "good");
    open.send(()).unwrap();
    until("the poison is out", || poisoned.load(Ordering::SeqCst) == 1);
    // Housekeeping may find it first; what matters is that no client ever gets it.
    for _ in 0..5 {
        assert_eq!(client.get("/").text(), "good");
    }
    assert_eq!(backend.connections(), 2);
}

#[test]
fn s30_a_response_that_breaks_off_is_visibly_cut() {
    let cases: &[(&str, &[u8])] = &[
        ("short of its length", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort"),
        ("no last chunk", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n"),
        ("in a chunk", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n50\r\nshort"),
        (
            "in the trailers",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n0\r\nX-A: b\r\n",
        ),
    ];
    for (name, bytes) in cases {
        for then in [Then::Close, Then::Reset] {
            let backend = evil(bytes, then);
            let gateway = before(&backend);
            let mut client = Client::connect(gateway.addr);
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            match client.try_response(To::Get) {
                // A reset may overtake the head.
                Ok(response) => assert_eq!(response.status, 502, "{name} {then:?}: taken for complete"),
                Err(cut) => assert_ne!(cut, Cut::Late, "{name} {then:?}"),
            }
        }
    }
}

/// A body that lasts until the connection closes is complete only when it closes in an orderly way.
#[test]
fn a_reset_in_a_body_without_a_length_is_visibly_cut() {
    let (open, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let backend = Backend::raw(move |peer| {
        if peer.request().is_some() {
            peer.send("HTTP/1.1 200 OK\r\n\r\nhalf of");
            let _ = gate.lock().unwrap().recv_timeout(PATIENCE);
            peer.reset();
        }
    });
    let gateway = before(&backend);
    for version in ["1.1", "1.0"] {
        let mut client = Client::connect(gateway.addr);
        client.send(format!("GET / HTTP/{version}\r\nHost: a\r\n\r\n"));
        assert!(client.head().unwrap().starts_with("HTTP/1.1 200"));
        // The beginning is here: the end comes alone.
        client.exactly(if version == "1.1" { 12 } else { 7 }).unwrap();
        open.send(()).unwrap();
        assert_eq!(client.rest(), (Vec::new(), Cut::Reset), "HTTP/{version}: taken for complete");
    }
}

/// The same where the reset lies right behind a large body, which is read without waiting.
#[test]
fn a_reset_behind_a_large_body_without_a_length_is_visibly_cut() {
    const FIRST: usize = 64 << 10;
    const SIZE: usize = 1 << 20;
    // Each with a gateway of its own: what was cut counts against the endpoint.
    for _ in 0..4 {
        let (open, gate) = mpsc::channel::<()>();
        let gate = Mutex::new(gate);
        let backend = Backend::raw(move |peer| {
            if peer.request().is_some() {
                peer.send("HTTP/1.1 200 OK\r\n\r\n");
                peer.send(vec![b'x'; FIRST]);
                let _ = gate.lock().unwrap().recv_timeout(PATIENCE);
                peer.send(vec![b'x'; SIZE]);
                peer.reset();
            }
        });
        let gateway = before(&backend);
        let mut client = Client::connect(gateway.addr);
        client.send("GET / HTTP/1.0\r\nHost: a\r\n\r\n");
        assert!(client.head().unwrap().starts_with("HTTP/1.1 200"));
        client.exactly(FIRST).unwrap();
        open.send(()).unwrap();
        let (body, end) = client.rest();
        assert_eq!(end, Cut::Reset, "{} of {SIZE} bytes taken for complete", body.len());
    }
}

/// Every byte of a large body arrives, and its connection carries the next one.
#[test]
fn large_bodies_arrive_byte_for_byte() {
    const SIZE: usize = 3 << 20;
    let body: Vec<u8> = (0..SIZE).map(|at| u8::try_from(at * 7 % 251).unwrap()).collect();
    let sent = body.clone();
    let backend = Backend::start(move |_, stream| respond(stream, &sent));
    let gateway = before(&backend);
    let mut client = Client::connect(gateway.addr);
    for _ in 0..8 {
        assert!(client.get("/").body == body);
    }
    assert_eq!(backend.connections(), 1);
}

#[test]
fn interim_responses_are_passed_through_in_order() {
    let backend = Backend::raw(|peer| {
        while peer.request().is_some() {
            for link in ["a", "b", "c"] {
                // Each in a segment of its own.
                peer.send(format!("HTTP/1.1 103 Early Hints\r\nLink: <{link}>\r\n\r\n"));
                support::pass(std::time::Duration::from_millis(5));
            }
            peer.send("HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let gateway = before(&backend);
    let mut client = Client::connect(gateway.addr);
    for _ in 0..2 {
        let response = client.get("/");
        assert_eq!((response.status, response.text().as_str()), (200, "ok"));
        assert_eq!(response.interim.len(), 4, "{:?}", response.interim);
        assert!(response.interim[1].contains("<b>") && response.interim[3].contains(" 102 "));
    }
    // HTTP/1.0 knows no interim responses.
    let mut old = Client::connect(gateway.addr);
    let response = old.send("GET / HTTP/1.0\r\n\r\n").response();
    assert_eq!((response.status, response.interim.len()), (200, 0));
}

#[test]
fn s30_a_flood_of_interim_responses_becomes_502() {
    let flood = "HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n".repeat(10_000);
    let backend = evil(flood.as_bytes(), Then::Keep);
    let gateway = before(&backend);
    let mut client = Client::connect(gateway.addr);
    let response = client.get("/");
    assert_eq!(response.status, 502);
    assert!(response.interim.len() <= 16, "{}", response.interim.len());
    assert_eq!(client.get("/").text(), "good");
}

#[test]
fn a_100_of_the_backend_goes_no_further() {
    let backend = Backend::start(|_, stream| {
        let _ = std::io::Write::write_all(stream, b"HTTP/1.1 100 Continue\r\n\r\n");
        support::pass(std::time::Duration::from_millis(5));
        respond(stream, b"ok")
    });
    let gateway = before(&backend);
    let response = Client::connect(gateway.addr).get("/");
    assert_eq!((response.status, response.interim.len()), (200, 0));
}

#[test]
fn head_204_and_304_have_no_body_whatever_they_announce() {
    let backend = Backend::start(|request, stream| {
        let bytes: &[u8] = match request.target() {
            "/204" => b"HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n",
            "/304" => b"HTTP/1.1 304 Not Modified\r\nContent-Length: 77\r\nETag: \"x\"\r\n\r\n",
            "/chunked" => b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            _ => b"HTTP/1.1 200 OK\r\nContent-Length: 77\r\n\r\n",
        };
        let _ = std::io::Write::write_all(stream, bytes);
        Then::Keep
    });
    let gateway = before(&backend);
    let mut client = Client::connect(gateway.addr);
    for (method, path, status, length) in [
        ("HEAD", "/", 200, Some("77")),
        ("GET", "/204", 204, None),
        ("GET", "/304", 304, Some("77")),
        ("HEAD", "/chunked", 200, None),
        ("HEAD", "/304", 304, Some("77")),
    ] {
        client.send(format!("{method} {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let response = client.try_response(To::Head).unwrap();
        assert_eq!((response.status, response.one("content-length")), (status, length), "{method} {path}");
    }
    assert_eq!(backend.connections(), 1, "each left the connection clean");
}

#[test]
fn a_body_until_close_becomes_chunks_for_1_1_and_a_close_for_1_0() {
    let backend = Backend::answering("HTTP/1.1 200 OK\r\nX-A: b\r\n\r\nuntil the end", Then::Close);
    let gateway = before(&backend);
    let mut client = Client::connect(gateway.addr);
    for _ in 0..2 {
        let response = client.get("/");
        assert_eq!(response.text(), "until the end");
        assert_eq!((response.one("transfer-encoding"), response.one("connection")), (Some("chunked"), None));
    }
    let mut old = Client::connect(gateway.addr);
    let response = old.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").response();
    assert_eq!(response.text(), "until the end");
    assert_eq!((response.one("transfer-encoding"), response.one("connection")), (None, Some("close")));
}

#[test]
fn a_chunked_body_reaches_a_1_0_client_without_chunks() {
    let body = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\nX-T: 1\r\n\r\n";
    let backend = Backend::answering(body, Then::Keep);
    let gateway = before(&backend);
    let mut old = Client::connect(gateway.addr);
    let response = old.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").response();
    assert_eq!(response.text(), "hello world");
    assert_eq!(response.one("transfer-encoding"), None);
    assert_eq!(backend.connections(), 1);
}

#[test]
fn chunks_and_trailers_travel_both_ways() {
    let backend = Backend::start(|request, stream| {
        let body = String::from_utf8_lossy(&request.body).into_owned();
        let answer = format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\nX-Sum: 7\r\nConnection: close\r\n\r\n",
            body.len()
        );
        let _ = std::io::Write::write_all(stream, answer.as_bytes());
        Then::Keep
    });
    let gateway = before(&backend);
    let mut client = Client::connect(gateway.addr);
    for _ in 0..3 {
        client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nX-Up: 1\r\n\r\n");
        let response = client.response();
        assert_eq!((response.text().as_str(), response.trailers.as_str()), ("abcde", "X-Sum: 7\n"));
    }
    assert!(backend.requests().iter().all(|request| request.trailers == "X-Up: 1\n"));
    assert_eq!(backend.connections(), 1);
}

/// The whole body in one read with its head, in single bytes, and split anywhere.
#[test]
fn a_chunked_response_may_be_cut_anywhere() {
    let bytes: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n00a;x=y\r\n wonderful\r\n0\r\nX-T: 1\r\n\r\n";
    let turn = AtomicUsize::new(1);
    let backend = Backend::start(move |_, stream| {
        let step = turn.fetch_add(7, Ordering::SeqCst);
        for piece in bytes.chunks(step) {
            let _ = std::io::Write::write_all(stream, piece);
            std::thread::yield_now();
        }
        Then::Keep
    });
    let gateway = before(&backend);
    let mut client = Client::connect(gateway.addr);
    for _ in 0..12 {
        let response = client.get("/");
        assert_eq!((response.text().as_str(), response.trailers.as_str()), ("hello wonderful", "X-T: 1\n"));
    }
    assert_eq!(backend.connections(), 1);
}

/// A large response that begins while the upload still runs: neither waits for the other.
#[test]
fn an_early_response_streams_while_the_upload_runs() {
    const SIZE: usize = 4 << 20;
    let backend = Backend::raw(|peer| {
        if peer.head().is_some() {
            peer.stop_recording();
            // The answer first, all of it; the request's body after it.
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n"));
            peer.send(vec![b'd'; SIZE]);
            let _ = peer.exactly(SIZE);
            peer.drained();
        }
    });
    let gateway = before(&backend);
    let mut client = Client::connect(gateway.addr);
    client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {SIZE}\r\n\r\n"));
    client.send("uuuu");
    // Not one further byte of the body is sent before the response is here.
    let head = client.head().unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert_eq!(client.exactly(SIZE).unwrap(), vec![b'd'; SIZE]);
}

/// 413 and the like: the answer arrives although the backend closes with the upload unread.
#[test]
fn an_answer_before_the_end_of_a_large_upload_is_delivered() {
    let backend = Backend::raw(|peer| {
        if peer.head().is_some() {
            peer.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig");
            // Orderly: the answer is out before the unread bytes reset the connection.
            let _ = peer.stream.shutdown(std::net::Shutdown::Write);
            support::pass(std::time::Duration::from_millis(50));
        }
    });
    let gateway = before(&backend);
    for _ in 0..5 {
        let mut client = Client::connect(gateway.addr);
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000\r\n\r\n");
        client.send(vec![b'u'; 40_000]);
        let response = client.response();
        assert_eq!((response.status, response.text().as_str()), (413, "big"));
        assert_eq!(response.one("connection"), Some("close"));
    }
}

#[test]
fn connection_close_of_the_backend_is_honoured_and_not_passed_on() {
    let backend =
        Backend::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok", Then::Keep);
    let gateway = before(&backend);
    let mut client = Client::connect(gateway.addr);
    for _ in 0..3 {
        let response = client.get("/");
        assert_eq!((response.text().as_str(), response.one("connection")), ("ok", None));
    }
    assert_eq!(backend.connections(), 3);
}

#[test]
fn an_http_1_0_backend_is_served() {
    let backend = Backend::answering("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", Then::Close);
    let gateway = before(&backend);
    let mut client = Client::connect(gateway.addr);
    for _ in 0..3 {
        assert_eq!(client.get("/").text(), "ok");
    }
}
