use super::*;
use crate::head::{Known, RequestView};

mod responses;

use WireError as E;

#[test]
fn a_plain_request_is_read_into_its_parts() {
    let bytes = b"GET /a/b?c=d HTTP/1.1\r\nHost: Shop.example:8080\r\nAccept:  */*  \r\nX-Empty:\r\n\r\nrest";
    let head = decode(bytes).unwrap();
    let view = RequestView { head: &head, bytes };
    assert_eq!((head.method, head.version, head.body), (Method::Get, Version::Http11, BodyLength::None));
    assert_eq!(
        (view.method_name(), view.path(), view.query()),
        (&b"GET"[..], &b"/a/b"[..], Some(&b"c=d"[..]))
    );
    assert_eq!((view.host(), head.port), (&b"shop.example"[..], Some(8080)));
    assert_eq!(view.authority(), b"Shop.example:8080");
    assert_eq!(view.header(b"accept"), Some(&b"*/*"[..]));
    assert_eq!(view.header(b"x-empty"), Some(&b""[..]));
    assert_eq!(view.known(Known::Host), Some(&b"Shop.example:8080"[..]));
    assert_eq!(head.persistence, Persistence::KeepAlive);
    assert_eq!(&bytes[head.head_len..], b"rest");
}

#[test]
fn a_reused_head_remembers_nothing() {
    let mut head = RequestHead::default();
    let first = b"POST /a/../b?q HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    let second = b"GET / HTTP/1.1\r\nHost: b\r\n\r\n";
    assert_eq!(request(first, &HeadLimits::default(), &mut head), Ok(Decoded::Complete));
    assert!(head.expects_continue);
    assert_eq!(request(second, &HeadLimits::default(), &mut head), Ok(Decoded::Complete));
    assert_eq!(format!("{head:?}"), format!("{:?}", decode(second).unwrap()));
}

// S1, S2: both lengths, in either order, whatever their values.
#[test]
fn content_length_with_transfer_encoding_is_refused() {
    for fields in [
        "Content-Length: 6\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 4",
        "Transfer-Encoding: chunked\r\nContent-Length: 0",
        "content-length: 0\r\nTRANSFER-ENCODING: CHUNKED",
    ] {
        assert_eq!(post(fields), Err(E::LengthConflict), "{fields:?}");
    }
}

// S3
#[test]
fn every_spelling_of_transfer_encoding_but_one_is_refused() {
    let spellings: [&[u8]; 32] = [
        b"Transfer-Encoding: chunked, identity",
        b"Transfer-Encoding: identity, chunked",
        b"Transfer-Encoding: identity",
        b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding: gzip",
        b"Transfer-Encoding: chunked, chunked",
        b"Transfer-Encoding: chunked,",
        b"Transfer-Encoding: ,chunked",
        b"Transfer-Encoding: xchunked",
        b"Transfer-Encoding: chunkedx",
        b"Transfer-Encoding: chunk",
        b"Transfer-Encoding: chunked\x0b",
        b"Transfer-Encoding: \x0bchunked",
        b"Transfer-Encoding: chunked\x0c",
        b"Transfer-Encoding: chunked\x00",
        b"Transfer-Encoding: chunked;q=1",
        b"Transfer-Encoding: \"chunked\"",
        b"Transfer-Encoding: 'chunked'",
        b"Transfer-Encoding: ch\xc3\xbcnked",
        b"Transfer-Encoding: chunked\xa0",
        b"Transfer-Encoding: chunked ",
        b"Transfer-Encoding: chunked\t",
        b"Transfer-Encoding:\tchunked",
        b"Transfer-Encoding:  chunked",
        b"Transfer-Encoding:",
        b"Transfer-Encoding:\r\n chunked",
        b"Transfer-Encoding: x\r\n\tchunked",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        b"Transfer-Encoding : chunked",
        b" Transfer-Encoding: chunked",
        b"Transfer-Encoding\x00: chunked",
    ];
    for spelling in spellings {
        let head = [b"POST / HTTP/1.1\r\nHost: a\r\n", spelling, b"\r\n\r\n"].concat();
        let shown = String::from_utf8_lossy(spelling);
        let error = decode(&head).expect_err(&shown);
        assert!(matches!(error, E::TransferEncoding | E::HeaderValue | E::HeaderName), "{shown:?}: {error}");
    }
    for spelling in ["Transfer-Encoding: chunked", "transfer-encoding:chunked", "TRANSFER-ENCODING: Chunked"]
    {
        assert_eq!(post(spelling).unwrap().body, BodyLength::Chunked, "{spelling:?}");
    }
}

// S3 and S16: names that CGI-like backends take for framing never travel.
#[test]
fn underscore_headers_are_dropped_kept_or_refused_as_told() {
    let bytes = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer_Encoding: chunked\r\nContent_Length: 9\r\nX_User: root\r\n\r\n";
    let mut head = RequestHead::default();
    let mut limits = HeadLimits::default();
    request(bytes, &limits, &mut head).unwrap();
    assert_eq!((head.body, head.headers.len()), (BodyLength::None, 1));
    assert_eq!(RequestView { head: &head, bytes }.header(b"x_user"), None);
    limits.underscores = Underscores::Keep;
    request(bytes, &limits, &mut head).unwrap();
    assert_eq!((head.body, head.headers.len()), (BodyLength::None, 4));
    limits.underscores = Underscores::Refuse;
    assert_eq!(request(bytes, &limits, &mut head), Err(E::HeaderName));
}

// S5
#[test]
fn only_100_continue_may_be_expected_and_only_with_a_body() {
    assert!(post("Expect: 100-continue\r\nContent-Length: 5").unwrap().expects_continue);
    assert!(post("expect: 100-Continue\r\nTransfer-Encoding: chunked").unwrap().expects_continue);
    assert!(!post("Expect: 100-continue\r\nContent-Length: 0").unwrap().expects_continue);
    assert!(!decode(b"GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n").unwrap().expects_continue);
    assert!(
        !decode(b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
            .unwrap()
            .expects_continue
    );
    assert!(!decode(b"POST / HTTP/1.0\r\nExpect: x\r\nContent-Length: 5\r\n\r\n").unwrap().expects_continue);
    for fields in [
        "Expect: 100-continuex\r\nContent-Length: 5",
        "Expect: y 100-continue\r\nContent-Length: 5",
        "Expect: 100-continue, 100-continue\r\nContent-Length: 5",
        "Expect:\r\nContent-Length: 5",
        "Expect: 200-ok",
        "Expect: 100-continue\r\nExpect: 100-continue\r\nContent-Length: 5",
    ] {
        assert_eq!(post(fields), Err(E::Expectation), "{fields:?}");
    }
    assert_eq!(post("Expect: \x0b100-continue"), Err(E::HeaderValue));
    assert_eq!(post("Expect : 100-continue"), Err(E::HeaderName));
}

// S6: each place in a head, for each byte that ends or breaks a line elsewhere.
#[test]
fn bare_line_endings_and_nul_are_refused_wherever_they_stand() {
    let whole = b"GET /path HTTP/1.1\r\nHost: a\r\nX-One: two\r\n\r\n";
    let ends: Vec<usize> = memchr::memchr_iter(b'\n', whole).collect();
    for end in ends {
        let mut bare_lf = whole.to_vec();
        bare_lf.remove(end - 1);
        assert_eq!(decode(&bare_lf), Err(E::LineEnding), "LF at {end}");
        let mut bare_cr = whole.to_vec();
        bare_cr.remove(end);
        // At the end of everything, a CR alone may still become CRLF.
        bare_cr.push(b'x');
        assert!(decode(&bare_cr).is_err(), "CR at {end}");
    }
    for at in 0..whole.len() - 1 {
        for byte in [0, b'\r', b'\n', 0x0b, 0x7f, 0x1b] {
            let mut broken = whole.to_vec();
            broken.insert(at, byte);
            let refused = decode(&broken).is_err();
            assert!(refused, "{byte:#x} at {at}: {:?}", String::from_utf8_lossy(&broken));
        }
    }
    assert_eq!(decode(b"GET / HTTP/1.1\nHost: a\n\n"), Err(E::LineEnding));
    assert_eq!(decode(b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"), Err(E::LineEnding));
    // A value long enough for the parser's vector code.
    for byte in [0, 0x7f, b'\r', 0x08] {
        let value = [b"a".repeat(70), vec![byte], b"a".repeat(70)].concat();
        let head = [b"GET / HTTP/1.1\r\nHost: a\r\nX: ", value.as_slice(), b"\r\n\r\n"].concat();
        assert!(decode(&head).is_err(), "{byte:#x}");
    }
}

#[test]
fn one_empty_line_before_the_request_is_skipped() {
    let head = decode(b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\nX").unwrap();
    assert_eq!(head.head_len, 29);
    assert_eq!(decode(b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"), Err(E::StartLine));
}

// S8
#[test]
fn folded_lines_are_refused() {
    for fields in ["X: a\r\n b", "X: a\r\n\tb", "X:\r\n b", " X: a", "X: a\r\n \r\nY: b"] {
        assert_eq!(post(fields), Err(E::HeaderValue), "{fields:?}");
    }
}

// S9
#[test]
fn a_content_length_is_one_plain_number() {
    for value in [
        "5, 5",
        "5,5",
        "+5",
        "-1",
        "-0",
        "5 ",
        "5\t",
        "0x5",
        "5a",
        "5.0",
        "5 5",
        "",
        "9223372036854775808",
        "18446744073709551616",
        "00000000000000000005",
        "١",
    ] {
        assert_eq!(post(&format!("Content-Length: {value}")), Err(E::ContentLength), "{value:?}");
    }
    for fields in ["Content-Length: 5\r\nContent-Length: 5", "Content-Length: 5\r\ncontent-length: 6"] {
        assert_eq!(post(fields), Err(E::ContentLength), "{fields:?}");
    }
    for (value, length) in [("0", 0), ("5", 5), ("05", 5), ("9223372036854775807", i64::MAX.unsigned_abs())] {
        assert_eq!(post(&format!("Content-Length: {value}")).unwrap().body, BodyLength::Exact(length));
    }
}

// S10
#[test]
fn header_names_are_tokens_that_end_at_the_colon() {
    for line in [
        "X : a",
        "X\t: a",
        ": a",
        "X y: a",
        "X(: a",
        "X",
        "X@y: a",
        "\"X\": a",
        "X/y: a",
        "X[]: a",
        "Ünicode: a",
    ] {
        assert_eq!(post(line), Err(E::HeaderName), "{line:?}");
    }
}

// S13
#[test]
fn versions_other_than_1_0_and_1_1_are_refused() {
    for version in ["HTTP/1.10", "HTTP/1.2", "HTTP/2.0", "HTTP/0.9", "HTTP/1.01", "HTTP/11", "HTTP/3"] {
        let head = format!("GET / {version}\r\nHost: a\r\n\r\n");
        assert_eq!(decode(head.as_bytes()), Err(E::Version), "{version}");
    }
    for line in [
        "GET /",
        "GET",
        "GET  / HTTP/1.1",
        " GET / HTTP/1.1",
        "GET / HTTP/1.1 ",
        "GET / http/1.1",
        "GET / FOO/1.1",
        "GET /a b HTTP/1.1",
        "G@T / HTTP/1.1",
        "GET\t/\tHTTP/1.1",
        "/ HTTP/1.1",
        "GET / HTTP/1.1 HTTP/1.1",
    ] {
        let head = format!("{line}\r\nHost: a\r\n\r\n");
        assert_eq!(decode(head.as_bytes()), Err(E::StartLine), "{line:?}");
    }
    assert_eq!(decode(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), Err(E::Version));
    assert_eq!(decode(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"), Err(E::StartLine));
}

#[test]
fn http_1_0_closes_unless_told_and_knows_no_chunks() {
    let head = decode(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!((head.version, head.persistence), (Version::Http10, Persistence::Close));
    assert!(head.host.is_empty());
    let head = decode(b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").unwrap();
    assert_eq!(head.persistence, Persistence::KeepAlive);
    let head = b"POST / HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(decode(head), Err(E::TransferEncoding));
    for (fields, wanted) in [
        ("Connection: close", Persistence::Close),
        ("Connection: x, Close", Persistence::Close),
        ("Connection: keep-alive, close", Persistence::Close),
        ("Connection: keep-alive\r\nConnection: close", Persistence::Close),
        ("Connection: closed", Persistence::KeepAlive),
        ("Connection: ,, ,", Persistence::KeepAlive),
    ] {
        assert_eq!(post(fields).unwrap().persistence, wanted, "{fields:?}");
    }
}

#[test]
fn connect_and_trace_are_refused() {
    assert_eq!(decode(b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n"), Err(E::Method));
    assert_eq!(decode(b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n"), Err(E::Method));
    assert_eq!(decode(b"PURGE / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap().method, Method::Other);
    assert_eq!(decode(b"get / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap().method, Method::Other);
}

#[test]
fn an_absolute_target_must_name_the_host() {
    let target = |target: &str, host: &str| {
        let bytes = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes();
        decode(&bytes).map(|head| {
            let view = RequestView { head: &head, bytes: &bytes };
            let text = |part: &[u8]| String::from_utf8(part.to_vec()).unwrap();
            (text(view.host()), text(view.path()), view.query().map(text))
        })
    };
    let parts = |path: &str, query: Option<&str>| Ok(("a.b".into(), path.into(), query.map(str::to_owned)));
    assert_eq!(target("http://a.b/c?d", "a.b"), parts("/c", Some("d")));
    assert_eq!(target("HTTP://A.B./c", "a.b"), parts("/c", None));
    assert_eq!(target("http://a.b", "a.b"), parts("/", None));
    assert_eq!(target("http://a.b?x", "a.b"), parts("/", Some("x")));
    assert_eq!(target("http://a.b:80/", "a.b"), parts("/", None));
    assert_eq!(target("https://a.b/", "a.b:443"), parts("/", None));
    assert_eq!(target("http://a.b/../x", "a.b"), parts("/x", None));
    for (other, host) in [
        ("http://a.c/", "a.b"),
        ("http://a.b:81/", "a.b"),
        ("http://a.b/", "a.b:81"),
        ("http://u@a.b/", "a.b"),
        ("http:///", "a.b"),
        ("http://a.b:/", "a.b"),
        ("http://a.b\\@c/", "a.b"),
    ] {
        assert_eq!(target(other, host), Err(E::Host), "{other} {host}");
    }
    for other in
        ["ftp://a.b/", "a.b", "a.b:80", "http:/a.b", "*", "?x", "http://a.b#x", "//a.b/x#", "file:///etc"]
    {
        assert_eq!(target(other, "a.b"), Err(E::Target), "{other}");
    }
    let bytes = b"GET http://A.b:80/ HTTP/1.0\r\n\r\n";
    let head = decode(bytes).unwrap();
    assert_eq!((head.host.as_slice(), head.port), (&b"a.b"[..], Some(80)));
    assert_eq!(head.authority_span.of(bytes), b"A.b:80");
}

#[test]
fn options_may_ask_about_the_server() {
    for target in ["*", "http://a"] {
        let bytes = format!("OPTIONS {target} HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes();
        let head = decode(&bytes).unwrap();
        assert_eq!(RequestView { head: &head, bytes: &bytes }.path(), b"*", "{target}");
    }
}

#[test]
fn only_upgrades_that_pass_through_are_honoured() {
    let upgrade = |bytes: &[u8]| decode(bytes).unwrap().upgrade.map(|span| span.of(bytes).to_vec());
    let get = |fields: &str| upgrade(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n").as_bytes());
    assert_eq!(get("Connection: Upgrade\r\nUpgrade: websocket"), Some(b"websocket".to_vec()));
    assert_eq!(get("Upgrade: WebSocket\r\nConnection: keep-alive, upgrade"), Some(b"WebSocket".to_vec()));
    for fields in [
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__",
        "Connection: Upgrade\r\nUpgrade: websocket, h2c",
        "Connection: Upgrade\r\nUpgrade: H2C",
        "Connection: Upgrade\r\nUpgrade: HTTP/2.0",
        "Connection: Upgrade\r\nUpgrade: TLS/1.2",
        "Connection: Upgrade\r\nUpgrade:",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: websocket",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 1",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked",
    ] {
        assert_eq!(get(fields), None, "{fields:?}");
    }
    assert_eq!(upgrade(b"GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"), None);
}

// S14
#[test]
fn http_1_1_needs_exactly_one_host() {
    for fields in [
        "",
        "Host: a\r\n",
        "Host:\r\n",
        "Host: a\r\nHost: a\r\n",
        "Host: a\r\nhost: b\r\n",
        "Host: a, b\r\n",
        "Host: u@a\r\n",
        "Host: a:x\r\n",
        "Host: a/b\r\n",
        "Host : a\r\n",
    ] {
        let result = decode(format!("GET / HTTP/1.1\r\n{fields}\r\n").as_bytes());
        match fields {
            "Host: a\r\n" => assert!(result.is_ok()),
            "Host : a\r\n" => assert_eq!(result, Err(E::HeaderName)),
            _ => assert_eq!(result, Err(E::Host), "{fields:?}"),
        }
    }
    assert_eq!(decode(b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n"), Err(E::Host));
    assert_eq!(decode(b"GET / HTTP/1.0\r\nHost: a b\r\n\r\n"), Err(E::Host));
}

// S16
#[test]
fn connection_nominates_but_never_takes_what_is_relied_on() {
    let bytes = b"GET / HTTP/1.1\r\nHost: a\r\nX-Own: 1\r\nx-own: 2\r\nX-Forwarded-For: 1.2.3.4\r\nAuthorization: b\r\n\
        X-Forwarded-Prefix: /x\r\nCookie: c\r\nVia: v\r\nContent-Type: t\r\nTE: trailers\r\nKeep-Alive: 5\r\n\
        Proxy-Authorization: p\r\nProxy-Connection: x\r\nX-Other: 3\r\nTrailer: t\r\n\
        Connection: X-OWN, x-forwarded-for, authorization, host, cookie, via\r\n\
        Connection: x-forwarded-prefix, content-type, absent\r\n\r\n";
    let head = decode(bytes).unwrap();
    let gone = head.headers.iter().filter(|field| field.hop_by_hop);
    let gone: Vec<_> =
        gone.map(|field| String::from_utf8_lossy(field.name.of(bytes)).to_lowercase()).collect();
    let wanted = [
        "x-own",
        "x-own",
        "te",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "connection",
        "connection",
    ];
    assert_eq!(gone, wanted);
    let many = format!("Connection: {}", "x,".repeat(33));
    assert_eq!(post(&many), Err(E::TooManyHeaders));
}

// S18
#[test]
fn heads_over_a_limit_are_refused_before_they_are_complete() {
    let limits = HeadLimits::default();
    let check = |bytes: &[u8]| request(bytes, &limits, &mut RequestHead::default());
    let start = b"GET / HTTP/1.1\r\nHost: a\r\n";
    let line = |len: usize| [start.as_slice(), b"X: ", &b"a".repeat(len - 3)].concat();
    let whole = |head: Vec<u8>| [head.as_slice(), b"\r\n\r\n"].concat();
    assert_eq!(check(&line(8192)), Ok(Decoded::Partial));
    assert_eq!(check(&whole(line(8192))), Ok(Decoded::Complete));
    assert_eq!(check(&line(8193)), Err(E::HeaderTooLong));
    assert_eq!(check(&whole(line(8193))), Err(E::HeaderTooLong));
    let target = |len: usize| [b"GET /".as_slice(), &b"a".repeat(len - 1)].concat();
    let whole = |head: Vec<u8>| [head.as_slice(), b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
    assert_eq!(check(&target(8192)), Ok(Decoded::Partial));
    assert_eq!(check(&whole(target(8192))), Ok(Decoded::Complete));
    assert_eq!(check(&target(8193)), Err(E::TargetTooLong));
    assert_eq!(check(&whole(target(8193))), Err(E::TargetTooLong));
    assert_eq!(check(&target(60_000)), Err(E::TargetTooLong));
    assert_eq!(check(&[b'A'; 33]), Err(E::StartLine));
    assert_eq!(
        check(&[b"A".repeat(33).as_slice(), b" / HTTP/1.1\r\nHost: a\r\n\r\n"].concat()),
        Err(E::StartLine)
    );
    let lines = |count: usize| [start.as_slice(), &b"X: a\r\n".repeat(count - 1)].concat();
    assert_eq!(check(&[&lines(100), b"\r\n".as_slice()].concat()), Ok(Decoded::Complete));
    assert_eq!(check(&lines(101)), Err(E::TooManyHeaders));
}

#[test]
fn a_head_may_be_exactly_as_long_as_its_limit() {
    let limits = HeadLimits { head_bytes_max: 40, ..HeadLimits::default() };
    let check = |bytes: &[u8]| request(bytes, &limits, &mut RequestHead::default());
    let exact = b"GET / HTTP/1.1\r\nHost: a\r\nX-Ab: 1234\r\n\r\n";
    assert_eq!(exact.len(), 40 - 1);
    let exact = b"GET / HTTP/1.1\r\nHost: a\r\nX-Ab: 12345\r\n\r\n";
    assert_eq!(check(exact), Ok(Decoded::Complete));
    assert_eq!(check(&exact[..39]), Ok(Decoded::Partial));
    assert_eq!(check(b"GET / HTTP/1.1\r\nHost: a\r\nX-Ab: 123456\r\n\r\n"), Err(E::HeadTooLong));
    assert_eq!(check(b"GET / HTTP/1.1\r\nHost: a\r\nX-Ab: 12345678901"), Err(E::HeadTooLong));
    // Limits above what a span can hold count as that.
    let limits =
        HeadLimits { head_bytes_max: 1 << 20, header_line_bytes_max: 1 << 20, ..HeadLimits::default() };
    let long = [b"GET / HTTP/1.1\r\nHost: a\r\nX: ".as_slice(), &b"a".repeat(70_000), b"\r\n\r\n"].concat();
    assert_eq!(request(&long, &limits, &mut RequestHead::default()), Err(E::HeadTooLong));
}

fn decode(bytes: &[u8]) -> Result<RequestHead, WireError> {
    let mut head = RequestHead::default();
    match request(bytes, &HeadLimits::default(), &mut head)? {
        Decoded::Complete => Ok(head),
        Decoded::Partial => panic!("partial: {:?}", String::from_utf8_lossy(bytes)),
    }
}

fn post(fields: &str) -> Result<RequestHead, WireError> {
    decode(format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n").as_bytes())
}
