//! Request smuggling and malformed requests, as raw sockets see it: SECURITY S1 to S18.
//!
//! I1: a rejected request is answered and its connection closed, and nothing behind it is ever parsed. I2: the backend
//! sees not one byte of it. I3: what is forwarded is written anew.
#![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

mod support;

use routing::model::PathMatch;
use support::backend::{Backend, respond};
use support::client::{Client, Cut};
use support::table::world;
use support::{Gateway, config, until};

/// A recorder and a gateway before it.
fn recorder() -> (Backend, Gateway) {
    let backend = Backend::named("ok");
    let addr = backend.addr;
    (backend, Gateway::start(config(), |on| world(&[addr]).on(on)))
}

/// Sends each case with another request behind it: the answer must have one of `statuses`, nothing must follow it,
/// and the backend must not see a byte.
#[track_caller]
fn refused(statuses: &[u16], cases: &[(&str, Vec<u8>)]) {
    let (backend, gateway) = recorder();
    for (name, bytes) in cases {
        let mut client = Client::connect(gateway.addr);
        let smuggled = b"GET /smuggled HTTP/1.1\r\nHost: shop.example\r\n\r\n";
        client.send([bytes.as_slice(), smuggled].concat());
        let response =
            client.try_response(support::client::To::Get).unwrap_or_else(|cut| panic!("{name}: {cut:?}"));
        assert!(statuses.contains(&response.status), "{name}: {}", response.head);
        assert_eq!(response.one("connection"), Some("close"), "{name}: {}", response.head);
        let (behind, cut) = client.rest();
        assert_eq!(
            (String::from_utf8_lossy(&behind).as_ref(), cut),
            ("", Cut::Closed),
            "{name}: more than one answer"
        );
        assert_eq!(backend.bytes(), 0, "{name}: the backend saw bytes");
    }
    // A lawful request on the same gateway: the backend was reachable all the time.
    assert_eq!(Client::connect(gateway.addr).get("/").status, 200);
    assert_eq!(backend.count(), 1);
}

fn post(fields: &str, body: &str) -> Vec<u8> {
    format!("POST / HTTP/1.1\r\nHost: shop.example\r\n{fields}\r\n{body}").into_bytes()
}

fn get(fields: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: shop.example\r\n{fields}\r\n").into_bytes()
}

fn line(line: &str) -> Vec<u8> {
    format!("{line}\r\nHost: shop.example\r\n\r\n").into_bytes()
}

#[test]
fn s1_s2_length_with_transfer_encoding_is_refused_in_both_orders() {
    let body = "0\r\n\r\nGET /x HTTP/1.1\r\nHost: shop.example\r\n\r\n";
    refused(
        &[400],
        &[
            ("CL.TE", post("Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", body)),
            ("TE.CL", post("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", body)),
            ("CL 0", post("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n", body)),
            ("lower case", post("content-length: 6\r\ntransfer-encoding: chunked\r\n", body)),
        ],
    );
}

#[test]
fn s3_any_transfer_encoding_but_one_chunked_is_refused() {
    let spellings = [
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunkedx",
        "Transfer-Encoding: chunked\x0b",
        "Transfer-Encoding: \x0bchunked",
        "Transfer-Encoding: chunked\t",
        "Transfer-Encoding:\tchunked",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: 'chunked'",
        "Transfer-Encoding: chunked;q=1",
        "Transfer-Encoding: ,chunked",
        "Transfer-Encoding: chunked,",
        "Transfer-Encoding:",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding:\r\n chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: cow\r\nTransfer-Encoding: chunked",
        " Transfer-Encoding: chunked",
        "Foo: bar\r\n Transfer-Encoding: chunked",
        "Transfer-Encoding: chu\0nked",
    ];
    let cases = spellings.map(|field| (field, post(&format!("{field}\r\n"), "0\r\n\r\n")));
    refused(&[400, 501], &cases);
}

/// The body that a request announces is read to its end, or the connection dies with the answer: a backend that
/// answers early gets no second request on that connection (CL.0, 0.CL).
#[test]
fn s4_an_early_response_costs_the_upstream_connection() {
    let backend = Backend::raw(|peer| {
        // Answers at the head, whatever the body does.
        while peer.head().is_some() {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nearly");
        }
    });
    let addr = backend.addr;
    let gateway = Gateway::start(config(), |on| world(&[addr]).on(on));
    let mut client = Client::connect(gateway.addr);
    client.send("POST / HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 44\r\n\r\n");
    let response = client.response();
    assert_eq!((response.status, response.text().as_str()), (200, "early"));
    assert_eq!(response.one("connection"), Some("close"), "the rest of the body would be the next request");
    let _ = client.try_send("GET /smuggled HTTP/1.1\r\nHost: a\r\nFoo: bar\r\n\r\n");
    assert_eq!(client.rest().0, b"", "the body must not be answered");

    assert_eq!(Client::connect(gateway.addr).get("/next").status, 200);
    assert_eq!(backend.connections(), 2, "the next request uses a fresh connection");
    for connection in backend.log() {
        let raw = String::from_utf8_lossy(&connection.raw).into_owned();
        assert_eq!(raw.matches(" HTTP/1.1\r\n").count(), 1, "{raw}");
    }
}

#[test]
fn s4_a_post_without_a_body_says_so_to_the_backend() {
    let (backend, gateway) = recorder();
    for head in
        ["POST / HTTP/1.1\r\nHost: a\r\n\r\n", "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"]
    {
        assert_eq!(Client::connect(gateway.addr).send(head).response().status, 200);
    }
    for request in backend.requests() {
        assert_eq!(request.one("content-length"), Some("0"), "{}", request.head);
    }
}

#[test]
fn s5_an_expectation_that_is_not_100_continue_is_refused() {
    let cases = ["100-continue, x", "200-ok", "x", "100-continuex", "100 continue", ""];
    let cases = cases.map(|value| (value, post(&format!("Expect: {value}\r\nContent-Length: 2\r\n"), "hi")));
    refused(&[417], &cases);
    refused(
        &[417],
        &[("twice", post("Expect: 100-continue\r\nExpect: 100-continue\r\nContent-Length: 2\r\n", "hi"))],
    );
}

#[test]
fn s5_expect_is_the_gateways_own_affair() {
    let (backend, gateway) = recorder();
    // With a GET nothing is expected.
    let mut client = Client::connect(gateway.addr);
    let response = client.send(get("Expect: 100-continue\r\n")).response();
    assert_eq!((response.status, response.interim.len()), (200, 0));
    // With a body, it is told to send it before it did.
    client.send(post("Expect: 100-continue\r\nContent-Length: 2\r\n", ""));
    assert_eq!(client.head().unwrap(), "HTTP/1.1 100 Continue\r\n\r\n");
    let response = client.send("hi").response();
    assert_eq!((response.status, response.interim.len()), (200, 0));
    // Who sends the body at once need not be told.
    let response = client.send(post("Expect: 100-continue\r\nContent-Length: 2\r\n", "hi")).response();
    assert_eq!((response.status, response.interim.len()), (200, 0));
    // Upper case is the same expectation; HTTP/1.0 knows none.
    client.send(post("Expect: 100-Continue\r\nContent-Length: 2\r\n", ""));
    assert_eq!(client.head().unwrap(), "HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(client.send("hi").response().status, 200);
    let mut old = Client::connect(gateway.addr);
    old.send("POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    assert!(old.is_silent(std::time::Duration::from_millis(50)));
    assert_eq!(old.send("hi").response().status, 200);
    assert!(backend.requests().iter().all(|request| request.one("expect").is_none()));
}

#[test]
fn s6_bare_line_ends_and_nul_in_the_head_are_refused() {
    let head = "GET /a HTTP/1.1\r\nHost: shop.example\r\nX-A: 1\r\n\r\n";
    let ends: Vec<usize> = head.match_indices("\r\n").map(|(at, _)| at).collect();
    let mut cases = Vec::new();
    for (nth, at) in ends.iter().enumerate() {
        for (what, end) in [("bare LF", "\n"), ("CR CR LF", "\r\r\n"), ("LF CR", "\n\r")] {
            let bytes = [&head[..*at], end, &head[at + 2..]].concat().into_bytes();
            cases.push((format!("{what} at the end of line {nth}"), bytes));
        }
    }
    for at in ["GET", "/a", "HTTP/1.1", "Host", "shop", "X-A", "1\r\n\r\n"] {
        let at = head.find(at).unwrap();
        for byte in ["\0", "\r", "\n", "\x7f", "\x01"] {
            // Inside of what is there, not between two lines.
            let bytes = [&head[..=at], byte, &head[at + 1..]].concat().into_bytes();
            cases.push((format!("{byte:?} after byte {at}"), bytes));
        }
    }
    let cases: Vec<_> = cases.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
    refused(&[400, 505], &cases);
}

#[test]
fn s7_malformed_chunks_are_refused() {
    let bodies = [
        ("no size", "\r\nabc\r\n0\r\n\r\n"),
        ("negative", "-1\r\na\r\n0\r\n\r\n"),
        ("plus", "+1\r\na\r\n0\r\n\r\n"),
        ("0x", "0x1\r\na\r\n0\r\n\r\n"),
        ("space before", " 1\r\na\r\n0\r\n\r\n"),
        ("space behind", "1 \r\na\r\n0\r\n\r\n"),
        ("2^64", "10000000000000000\r\na\r\n0\r\n\r\n"),
        ("2^63", "8000000000000000\r\na\r\n0\r\n\r\n"),
        ("many zeros", "000000000000000000000000000000001\r\na\r\n0\r\n\r\n"),
        ("LF-only size line", "1\na\r\n0\r\n\r\n"),
        ("no CRLF behind data", "1\r\nab\r\n0\r\n\r\n"),
        ("LF behind data", "1\r\na\n0\r\n\r\n"),
        ("CR in an extension", "1;a\rb\r\na\r\n0\r\n\r\n"),
        ("LF in an extension", "1;a\nb\r\na\r\n0\r\n\r\n"),
        ("NUL in an extension", "1;a\0b\r\na\r\n0\r\n\r\n"),
        ("junk behind the last chunk", "1\r\na\r\n0\r\nX\r\n\r\n"),
        ("LF-only end", "1\r\na\r\n0\n\n"),
        ("folded trailer", "1\r\na\r\n0\r\nX: 1\r\n y\r\n\r\n"),
        ("hex junk", "1g\r\na\r\n0\r\n\r\n"),
        ("underscore", "1_0\r\na\r\n0\r\n\r\n"),
    ];
    let mut cases: Vec<(&str, Vec<u8>)> =
        bodies.iter().map(|(name, body)| (*name, post("Transfer-Encoding: chunked\r\n", body))).collect();
    let long = format!("1;{}\r\na\r\n0\r\n\r\n", "e".repeat(64 * 1024));
    cases.push(("an endless extension", post("Transfer-Encoding: chunked\r\n", &long)));
    refused(&[400], &cases);
}

#[test]
fn s7_chunk_extensions_are_dropped_and_chunks_written_anew() {
    let (backend, gateway) = recorder();
    let mut client = Client::connect(gateway.addr);
    let body = "3;a=b;c=\"d\"\r\nabc\r\n002\r\nde\r\n0;x\r\n\r\n";
    assert_eq!(client.send(post("Transfer-Encoding: chunked\r\n", body)).response().status, 200);
    assert_eq!(client.get("/next").status, 200, "the connection goes on behind the last chunk");
    let requests = backend.requests();
    assert_eq!(requests[0].body, b"abcde");
    let raw = String::from_utf8(backend.log()[0].raw.clone()).unwrap();
    // In the head a random request id may hold anything of it.
    let (_, chunks) = raw.split_once("\r\n\r\n").unwrap();
    assert!(!chunks.contains(';') && !chunks.contains("002"), "{raw}");
}

/// A chunked body that turns bad when its beginning is at the backend already: the client is told, and the backend
/// never sees the end of a request.
#[test]
fn s7_a_body_that_turns_bad_while_it_streams_never_becomes_a_request() {
    let (backend, gateway) = recorder();
    let mut client = Client::connect(gateway.addr);
    client.send(post("Transfer-Encoding: chunked\r\n", "3\r\nabc\r\n"));
    until("the first chunk is at the backend", || backend.bytes() > 0);
    client.send("zz\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
    let response = client.response();
    assert_eq!((response.status, response.one("connection")), (400, Some("close")));
    assert_eq!(client.rest(), (Vec::new(), Cut::Closed));
    assert_eq!(Client::connect(gateway.addr).get("/").status, 200);
    assert_eq!(backend.count(), 1, "only the lawful request: {:?}", backend.requests());
    assert_eq!(backend.connections(), 2, "the connection of the bad one is not used again");
}

#[test]
fn s8_folded_lines_are_refused() {
    refused(
        &[400],
        &[
            ("space", get("X-A: 1\r\n 2\r\n")),
            ("tab", get("X-A: 1\r\n\t2\r\n")),
            ("first line", get(" X-A: 1\r\n")),
            ("only white space", get(" \r\n")),
        ],
    );
}

#[test]
fn s9_a_length_that_is_not_one_plain_number_is_refused() {
    let values = [
        "5, 5",
        "5,6",
        "+5",
        "-1",
        "-0",
        "5 ",
        "\t5",
        "0x5",
        "5.0",
        "5e0",
        "",
        "five",
        "5;",
        "\"5\"",
        "5 5",
        "12345678901234567890",
        "99999999999999999999",
        "18446744073709551616",
        "9223372036854775808",
        "٥",
    ];
    let mut cases: Vec<_> =
        values.iter().map(|value| (*value, post(&format!("Content-Length: {value}\r\n"), "hello"))).collect();
    // RFC 9112 §5: leading white space belongs to the syntax of a field and is lawful.
    cases.retain(|(value, _)| *value != "\t5");
    cases.push(("twice, equal", post("Content-Length: 5\r\nContent-Length: 5\r\n", "hello")));
    cases.push(("twice, different", post("Content-Length: 5\r\nContent-Length: 6\r\n", "hello")));
    cases.push(("space before colon", post("Content-Length : 5\r\n", "hello")));
    refused(&[400], &cases);
}

#[test]
fn s10_malformed_header_lines_are_refused() {
    refused(
        &[400],
        &[
            ("space before the colon", get("X-A : 1\r\n")),
            ("tab before the colon", get("X-A\t: 1\r\n")),
            ("no name", get(": 1\r\n")),
            ("no colon", get("nonsense\r\n")),
            ("space in the name", get("X A: 1\r\n")),
            ("slash in the name", get("X/A: 1\r\n")),
            ("quotes in the name", get("\"X\": 1\r\n")),
            ("not ASCII", get("X-Ä: 1\r\n")),
            ("parenthesis", get("X(A): 1\r\n")),
            ("NUL in the value", get("X-A: a\0b\r\n")),
            ("control byte in the value", get("X-A: a\x08b\r\n")),
            ("DEL in the value", get("X-A: a\x7fb\r\n")),
        ],
    );
}

#[test]
fn s12_trailers_that_mean_framing_routing_or_auth_are_dropped() {
    let (backend, gateway) = recorder();
    let trailers = "X-Checksum: 1\r\nHost: evil\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\
        Authorization: Bearer x\r\nCookie: a=b\r\nX-Forwarded-For: 1.2.3.4\r\nConnection: close\r\n";
    let body = format!("1\r\na\r\n0\r\n{trailers}\r\n");
    let mut client = Client::connect(gateway.addr);
    assert_eq!(client.send(post("Transfer-Encoding: chunked\r\n", &body)).response().status, 200);
    assert_eq!(backend.only_request().trailers, "X-Checksum: 1\n");
    assert_eq!(client.get("/next").status, 200);
}

#[test]
fn s13_versions_methods_and_targets_that_are_not_served() {
    refused(
        &[400, 405, 501, 505],
        &[
            ("HTTP/0.9", b"GET /\r\n".to_vec()),
            ("HTTP/1.10", line("GET / HTTP/1.10")),
            ("HTTP/2.0", line("GET / HTTP/2.0")),
            ("HTTP/1.2", line("GET / HTTP/1.2")),
            ("HTTP/0.9 by name", line("GET / HTTP/0.9")),
            ("lower case", line("GET / http/1.1")),
            ("two spaces", line("GET  / HTTP/1.1")),
            ("tab", line("GET\t/ HTTP/1.1")),
            ("no target", line("GET HTTP/1.1")),
            ("CONNECT", line("CONNECT shop.example:80 HTTP/1.1")),
            ("CONNECT with a path", line("CONNECT / HTTP/1.1")),
            ("TRACE", line("TRACE / HTTP/1.1")),
            ("* with GET", line("GET * HTTP/1.1")),
            ("relative", line("GET cart HTTP/1.1")),
            ("absolute form, other host", line("GET http://evil.example/ HTTP/1.1")),
            ("absolute form, other port", line("GET http://shop.example:81/ HTTP/1.1")),
            ("absolute form, userinfo", line("GET http://a@shop.example/ HTTP/1.1")),
            ("absolute form, ftp", line("GET ftp://shop.example/ HTTP/1.1")),
            (
                "chunked in HTTP/1.0",
                b"POST / HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
                    .to_vec(),
            ),
        ],
    );
}

#[test]
fn s13_absolute_form_of_the_same_host_is_served_in_origin_form() {
    let (backend, gateway) = recorder();
    let mut client = Client::connect(gateway.addr);
    assert_eq!(client.send(line("GET http://SHOP.example:80/a?b HTTP/1.1")).response().status, 200);
    assert_eq!(backend.only_request().line(), "GET /a?b HTTP/1.1");
}

/// h2c smuggling: a backend that would agree to HTTP/2 is never asked.
#[test]
fn s13_an_upgrade_to_http2_does_not_travel() {
    let (backend, gateway) = recorder();
    let fields =
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n";
    let mut client = Client::connect(gateway.addr);
    assert_eq!(client.send(get(fields)).response().status, 200);
    let request = backend.only_request();
    for name in ["upgrade", "connection", "http2-settings"] {
        assert_eq!(request.one(name), None, "{}", request.head);
    }
    assert_eq!(client.get("/next").status, 200, "it is an ordinary connection");
}

#[test]
fn s14_hosts_that_name_no_host_are_refused() {
    let with = |host: &str| format!("GET / HTTP/1.1\r\n{host}\r\n\r\n").into_bytes();
    refused(
        &[400],
        &[
            ("missing", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
            ("two", with("Host: a\r\nHost: b")),
            ("two equal", with("Host: a\r\nHost: a")),
            ("userinfo", with("Host: a@b")),
            ("path", with("Host: a/b")),
            ("port junk", with("Host: a:80x")),
            ("port too large", with("Host: a:65536")),
            ("two ports", with("Host: a:80:80")),
            ("space", with("Host: a b")),
            ("comma", with("Host: a,b")),
            ("backslash", with("Host: a\\b")),
            ("percent", with("Host: a%00b")),
            ("open bracket", with("Host: [::1")),
            ("not an address", with("Host: [zz]")),
            ("empty label", with("Host: a..b")),
        ],
    );
}

/// Bad escapes, NUL, fragments, overlong UTF-8.
#[test]
fn s15_paths_with_bad_escapes_and_fragments_are_refused() {
    let paths = [
        "/%",
        "/%0",
        "/%zz",
        "/%00",
        "/a%00b",
        "/#a",
        "/a#b",
        "/\x7f",
        "/a\\..\\b\x00",
        "/%g0",
        "/%c0%ae%c0%ae/admin",
        "/%e0%80%af",
    ];
    let cases = paths.map(|path| (path, line(&format!("GET {path} HTTP/1.1"))));
    refused(&[400], &cases);
}

/// What the route table decides on is what the backend sees.
#[test]
fn s15_the_routed_path_is_the_forwarded_path() {
    let backend = Backend::start(|request, stream| respond(stream, request.target().as_bytes()));
    let addr = backend.addr;
    let gateway = Gateway::start(config(), |on| {
        world(&[addr])
            .rule(PathMatch::Prefix("/admin".into()), |action| {
                action.target = routing::model::Target::Reply { status: 403, reason: "closed".into() };
            })
            .on(on)
    });
    let mut client = Client::connect(gateway.addr);
    for path in [
        "/admin",
        "/admin/",
        "/admin/x",
        "/x/../admin",
        "/./admin",
        "/x/%2e%2e/admin",
        "/x/%2E./admin",
        "/%61dmin",
        "/x/y/../../admin/z",
        "/../admin",
        "/..;/../admin",
        "/admin?x",
        "/admin/../admin",
    ] {
        assert_eq!(client.get(path).status, 403, "{path} reaches what is closed");
    }
    for (path, seen) in [
        ("/a/../b", "/b"),
        ("/a/./b", "/a/b"),
        ("/a/%2e%2e/b", "/b"),
        ("/admin/../b", "/b"),
        ("/a%2fb", "/a%2fb"),
        ("/%2fadmin", "/%2fadmin"),
        ("/a%5cb", "/a%5cb"),
        ("/adminx", "/adminx"),
        ("/a?x=/../y", "/a?x=/../y"),
        ("/..", "/"),
    ] {
        let response = client.get(path);
        assert_eq!(response.status, 200, "{path}");
        assert_eq!(response.text().to_ascii_lowercase(), seen.to_ascii_lowercase(), "{path}");
    }
}

#[test]
fn s16_underscores_and_nominated_fields() {
    let (backend, gateway) = recorder();
    let fields = "X_Forwarded_For: 6.6.6.6\r\nConnection: X-Secret, x-forwarded-for, host, Authorization, close\r\n\
        X-Secret: 1\r\nAuthorization: Bearer x\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nTE: trailers\r\n\
        Proxy-Authorization: Basic eA==\r\n";
    assert_eq!(Client::connect(gateway.addr).send(get(fields)).response().status, 200);
    let request = backend.only_request();
    for gone in ["x_forwarded_for", "x-secret", "keep-alive", "proxy-connection"] {
        assert_eq!(request.one(gone), None, "{gone}: {}", request.head);
    }
    // Ours, not the client's: trailers pass (RFC 9110 §10.1.4).
    assert_eq!((request.one("te"), request.one("connection")), (Some("trailers"), Some("TE")));
    assert_eq!(request.one("host"), Some("shop.example"));
    assert_eq!(request.one("x-forwarded-for"), Some("127.0.0.1"), "ours cannot be nominated away");
    assert_eq!(request.one("authorization"), Some("Bearer x"), "auth cannot be nominated away");
}

#[test]
fn s18_heads_over_their_bounds_are_refused() {
    let many: String = (0..101).map(|n| format!("X-{n}: 1\r\n")).collect();
    let large: String = (0..9).map(|n| format!("X-{n}: {}\r\n", "v".repeat(4_000))).collect();
    refused(
        &[431],
        &[
            ("a line of 8 KiB", get(&format!("X-A: {}\r\n", "v".repeat(8 * 1024)))),
            ("101 lines", get(&many)),
            ("36 KiB together", get(&large)),
        ],
    );
    refused(&[414], &[("a target of 8 KiB", line(&format!("GET /{} HTTP/1.1", "p".repeat(8 * 1024))))]);
    refused(
        &[400, 431, 414],
        &[
            ("an endless name", get(&format!("{}: 1\r\n", "n".repeat(9_000)))),
            ("an endless method", line(&format!("{} / HTTP/1.1", "M".repeat(9_000)))),
        ],
    );
    // What is within the bounds passes.
    let (backend, gateway) = recorder();
    let fields = format!("X-A: {}\r\nX-B: {}\r\n", "v".repeat(8_000), "w".repeat(8_000));
    assert_eq!(Client::connect(gateway.addr).send(get(&fields)).response().status, 200);
    assert_eq!(backend.only_request().one("x-b").unwrap().len(), 8_000);
}

/// I2: never more requests at the backend than the gateway has counted.
#[test]
fn i2_the_backend_counts_what_the_gateway_counts() {
    let (backend, gateway) = recorder();
    let mut client = Client::connect(gateway.addr);
    for n in 0..20 {
        let body = "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n";
        let request = match n % 3 {
            0 => get(""),
            1 => post(&format!("Content-Length: {}\r\n", body.len()), body),
            _ => post("Transfer-Encoding: chunked\r\n", &format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len())),
        };
        assert_eq!(client.send(request).response().status, 200);
    }
    assert_eq!(backend.count(), 20);
    assert_eq!(gateway.sum(|stats| stats.requests_total.get()), 20);
    assert!(backend.requests().iter().all(|request| request.target() == "/"));
}

/// A head that comes byte by byte is the same head.
#[test]
fn a_head_in_single_bytes_is_understood() {
    let (backend, gateway) = recorder();
    let mut client = Client::connect(gateway.addr);
    for byte in post("Content-Length: 5\r\nX-A: b\r\n", "hello") {
        client.send([byte]);
    }
    assert_eq!(client.response().status, 200);
    assert_eq!(backend.only_request().body, b"hello");
}
