use super::*;
use crate::h1::decode::{self, Decoded};
use crate::h1::forwarded::IpText;
use crate::h1::limits::HeadLimits;
use crate::h1::sink::SliceSink;
use crate::head::{RequestHead, ResponseHead, Span};

type Edit<'a> = RequestEdit<'a, &'static str>;
type Answer<'a> = ResponseEdit<'a, &'static str>;

const GET: &[u8] =
    b"GET /a/../b?c HTTP/1.1\r\nHost: Shop.example\r\nAccept:   */*  \r\nConnection: x-own, close\r\n\
    X-Own: 1\r\nTE: trailers\r\nUpgrade: h2c\r\nExpect: 100-continue\r\nX-Last: z\r\n\r\n";

#[test]
fn a_head_is_written_anew_without_what_concerned_the_last_hop() {
    // Of TE, trailers are asked for anew: they pass.
    let wanted = "GET /b?c HTTP/1.1\r\nHost: Shop.example\r\nAccept: */*\r\nX-Last: z\r\n\
        TE: trailers\r\nConnection: TE\r\n\r\n";
    assert_eq!(sent(GET, &Edit::default()), wanted);
}

#[test]
fn target_and_authority_are_rewritten() {
    let edit = Edit { authority: Some(b"pod.example:80"), path: Some(b"/new"), ..Edit::default() };
    assert!(sent(GET, &edit).starts_with("GET /new?c HTTP/1.1\r\nHost: pod.example:80\r\nAccept"));
    let edit = Edit { query: QueryEdit::Remove, ..Edit::default() };
    assert!(sent(GET, &edit).starts_with("GET /b HTTP/1.1\r\n"));
    let edit = Edit { query: QueryEdit::Set(b"q=1"), ..Edit::default() };
    assert!(sent(GET, &edit).starts_with("GET /b?q=1 HTTP/1.1\r\n"));
    let absolute = b"REPORT http://a?x HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(sent(absolute, &Edit::default()), "REPORT /?x HTTP/1.1\r\nHost: a\r\n\r\n");
    let empty_query = b"GET /? HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(sent(empty_query, &Edit::default()), "GET /? HTTP/1.1\r\nHost: a\r\n\r\n");
}

// S4
#[test]
fn every_request_body_is_framed_by_us() {
    let framed = |body: BodyLength, method: &str| {
        let bytes = format!("{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: 7\r\n\r\n");
        sent(bytes.as_bytes(), &Edit { body, ..Edit::default() })
            .split_once("Host: a\r\n")
            .unwrap()
            .1
            .to_owned()
    };
    assert_eq!(framed(BodyLength::Exact(7), "PUT"), "Content-Length: 7\r\n\r\n");
    assert_eq!(framed(BodyLength::Exact(0), "DELETE"), "Content-Length: 0\r\n\r\n");
    assert_eq!(framed(BodyLength::Exact(u64::MAX), "PUT"), "Content-Length: 18446744073709551615\r\n\r\n");
    assert_eq!(framed(BodyLength::Chunked, "POST"), "Transfer-Encoding: chunked\r\n\r\n");
    assert_eq!(framed(BodyLength::None, "POST"), "Content-Length: 0\r\n\r\n");
    assert_eq!(framed(BodyLength::None, "GET"), "\r\n");
}

#[test]
fn connection_upgrade_and_expect_are_ours() {
    let bytes = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\nConnection: close\r\n\r\n";
    let tail = |edit: &Edit<'_>| sent(bytes, edit).split_once("Host: a\r\n").unwrap().1.to_owned();
    let body = BodyLength::Exact(1);
    assert_eq!(tail(&Edit { body, ..Edit::default() }), "Content-Length: 1\r\n\r\n");
    let edit = Edit { body, expect: Expect::Forward, persistence: Persistence::Close, ..Edit::default() };
    assert_eq!(tail(&edit), "Expect: 100-continue\r\nContent-Length: 1\r\nConnection: close\r\n\r\n");
    let edit = Edit { body, upgrade: Some(b"websocket"), ..Edit::default() };
    assert_eq!(tail(&edit), "Content-Length: 1\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert!(!sent(GET, &Edit { expect: Expect::Forward, ..Edit::default() }).contains("Expect"));
}

/// RFC 9110 §10.1.4: whoever sends TE nominates it; a change of protocols has no trailers.
#[test]
fn trailers_are_asked_for_in_our_own_words() {
    let tail = |te: &str, edit: &Edit<'_>| {
        let bytes = format!("GET / HTTP/1.1\r\nHost: a\r\n{te}\r\n");
        sent(bytes.as_bytes(), edit).split_once("Host: a\r\n").unwrap().1.to_owned()
    };
    let close = Edit { persistence: Persistence::Close, ..Edit::default() };
    let ours = "TE: trailers\r\nConnection: TE, close\r\n\r\n";
    assert_eq!(tail("TE: deflate;q=0.5 , Trailers\r\n", &close), ours);
    assert_eq!(tail("TE: gzip\r\nTE: trailers\r\n", &close), ours);
    assert_eq!(tail("TE: x-trailers\r\n", &close), "Connection: close\r\n\r\n");
    let upgrade = Edit { upgrade: Some(b"websocket"), ..Edit::default() };
    assert_eq!(tail("TE: trailers\r\n", &upgrade), "Connection: upgrade\r\nUpgrade: websocket\r\n\r\n");
}

#[test]
fn edits_of_a_rule_and_of_a_backend_apply_in_turn() {
    let bytes = b"GET / HTTP/1.1\r\nHost: a\r\nX-A: 1\r\nx-b: 2\r\nX-C: 3\r\nX-A: 4\r\nX-D: 5\r\n\r\n";
    let set =
        [("x-a", "rule"), ("x-both", "rule"), ("host", "evil"), ("content-length", "9"), ("connection", "x")];
    let rule = Edits { set: &set, add: &[("x-c", "added"), ("x-gone", "rule")], remove: &["X-B"] };
    let backend = Edits { set: &[("x-both", "backend")], add: &[], remove: &["x-gone", "x-d"] };
    let lines = sent(bytes, &Edit { headers: [rule, backend], ..Edit::default() });
    let wanted = "GET / HTTP/1.1\r\nHost: a\r\nX-C: 3\r\nx-a: rule\r\nx-c: added\r\nx-both: backend\r\n\r\n";
    assert_eq!(lines, wanted);
}

// S17
#[test]
fn what_only_a_proxy_may_say_is_replaced_unless_the_peer_is_trusted() {
    let bytes = b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 6.6.6.6\r\nx-forwarded-for: 7.7.7.7\r\n\
        X-Forwarded-Proto: evil\r\nX-Forwarded-Host: evil\r\nX-Forwarded-Port: 1\r\nX-Real-IP: evil\r\n\
        X-Request-Id: theirs\r\nForwarded: for=evil\r\nX-Forwarded-Prefix: /p\r\nX-Forwarded-Client-Cert: evil\r\n\
        X-Envoy-Original-Path: evil\r\nSsl-Client-Verify: evil\r\nClient-Cert: evil\r\nX-Ssl-Cert: evil\r\n\
        X-Original-URL: /admin\r\nVia: 1.0 old\r\nX-Plain: p\r\nCustom: c\r\n\r\n";
    let peer = IpText::new("10.0.0.1".parse().unwrap());
    let forwarded = ForwardedFields {
        trust: PeerTrust::Untrusted,
        x_forwarded_for: ForwardedFor::Append(peer.as_bytes()),
        proto: Some(b"https"),
        host: Some(b"a"),
        port: Some(443),
        x_real_ip: Some(peer.as_bytes()),
        x_request_id: Some(b"ours"),
        via: Some("ringway"),
    };
    let rest = "X-Forwarded-Proto: https\r\nX-Forwarded-Host: a\r\nX-Forwarded-Port: 443\r\nX-Real-IP: 10.0.0.1\r\n\
        X-Request-Id: ours\r\nVia: 1.1 ringway\r\n\r\n";
    let own = "Via: 1.0 old\r\nX-Plain: p\r\nCustom: c\r\n";
    assert_eq!(
        sent(bytes, &Edit { forwarded, ..Edit::default() }),
        format!("GET / HTTP/1.1\r\nHost: a\r\n{own}X-Forwarded-For: 10.0.0.1\r\n{rest}")
    );
    let trusted = ForwardedFields { trust: PeerTrust::Trusted, ..forwarded };
    let lines = sent(bytes, &Edit { forwarded: trusted, ..Edit::default() });
    assert!(lines.contains("X-Forwarded-For: 6.6.6.6, 7.7.7.7, 10.0.0.1\r\n"), "{lines}");
    assert!(lines.contains("Forwarded: for=evil\r\nX-Forwarded-Prefix: /p\r\n"), "{lines}");
    assert!(lines.ends_with(rest), "{lines}");
    // Nothing to say, and nobody trusted: only the request id is the client's to choose.
    let lines = sent(bytes, &Edit::default());
    assert_eq!(lines, format!("GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: theirs\r\n{own}\r\n"));
    // A rule's own word wins.
    let rule = Edits { set: &[("x-forwarded-proto", "rule")], add: &[], remove: &["x-forwarded-for"] };
    let lines =
        sent(bytes, &Edit { forwarded: trusted, headers: [rule, Edits::default()], ..Edit::default() });
    assert!(lines.contains("x-forwarded-proto: rule\r\n") && !lines.contains("https"), "{lines}");
    assert!(!lines.contains("X-Forwarded-For"), "{lines}");
}

#[test]
fn address_texts_are_the_shortest_form() {
    for (address, text) in [
        ("10.0.0.1", "10.0.0.1"),
        ("255.255.255.255", "255.255.255.255"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8:0:0::1", "2001:db8::1"),
        ("2001:db8:1111:2222:3333:4444:5555:6666", "2001:db8:1111:2222:3333:4444:5555:6666"),
    ] {
        assert_eq!(IpText::new(address.parse().unwrap()).as_bytes(), text.as_bytes());
    }
}

// RFC 9113 §8.2.3
#[test]
fn cookie_crumbs_of_http_2_become_one_line() {
    let bytes = b"GET / HTTP/1.1\r\nHost: a\r\nCookie: a=1\r\nX: y\r\nCookie: b=2\r\n\r\n";
    let mut head = decoded(bytes);
    assert_eq!(head.headers.iter().filter(|field| field.known == Known::Cookie).count(), 2);
    head.version = Version::H2;
    let mut out = Vec::new();
    request(&mut out, &RequestView { head: &head, bytes }, &Edit::default());
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\ncookie: a=1; b=2\r\n\r\n"
    );
}

#[test]
fn responses_are_framed_for_the_client() {
    let bytes = b"HTTP/1.1 200 Fine\r\nServer: s\r\nTransfer-Encoding: chunked\r\nConnection: close, x-own\r\nX-Own: 1\r\n\
        Keep-Alive: 5\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\r\n";
    let start = "HTTP/1.1 200 Fine\r\nServer: s\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n";
    let (body, persistence) = client_framing(BodyLength::Chunked, Version::Http11);
    let edit = Answer { body, persistence, ..Answer::default() };
    assert_eq!(answered(bytes, Method::Get, &edit), format!("{start}Transfer-Encoding: chunked\r\n\r\n"));
    let (body, persistence) = client_framing(BodyLength::Chunked, Version::Http10);
    let edit = Answer { body, persistence, version: Version::Http10, ..Answer::default() };
    assert_eq!(answered(bytes, Method::Get, &edit), format!("{start}Connection: close\r\n\r\n"));
    let edit = Answer { body: BodyLength::Exact(3), version: Version::Http10, ..Answer::default() };
    let wanted = format!("{start}Content-Length: 3\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!(answered(bytes, Method::Get, &edit), wanted);
    let edit = Answer { body: BodyLength::Exact(3), persistence: Persistence::Close, ..Answer::default() };
    let wanted = format!("{start}Content-Length: 3\r\nConnection: close\r\n\r\n");
    assert_eq!(answered(bytes, Method::Get, &edit), wanted);
    assert_eq!(
        client_framing(BodyLength::UntilClose, Version::Http11),
        (BodyLength::Chunked, Persistence::KeepAlive)
    );
    assert_eq!(
        client_framing(BodyLength::Exact(1), Version::Http10),
        (BodyLength::Exact(1), Persistence::KeepAlive)
    );
}

#[test]
fn response_edits_cookie_and_via_are_written() {
    let bytes = b"HTTP/1.1 200 OK\r\nServer: s\r\nX-A: 1\r\nVia: 1.1 pod\r\n\r\n";
    let rule = Edits { set: &[("x-a", "2")], add: &[], remove: &["server"] };
    let edit = Answer {
        headers: [rule, Edits::default()],
        set_cookie: Some(b"stick=1"),
        via: Some("ringway"),
        body: BodyLength::Exact(0),
        ..Answer::default()
    };
    let wanted = "HTTP/1.1 200 OK\r\nVia: 1.1 pod\r\nSet-Cookie: stick=1\r\nVia: 1.1 ringway\r\nx-a: 2\r\n\
        Content-Length: 0\r\n\r\n";
    assert_eq!(answered(bytes, Method::Get, &edit), wanted);
}

// RFC 9110 §8.6
#[test]
fn the_length_of_what_is_not_sent_is_passed_on() {
    let none = Answer::default();
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 77\r\n\r\n";
    assert_eq!(answered(head, Method::Head, &none), "HTTP/1.1 200 OK\r\nContent-Length: 77\r\n\r\n");
    let not_modified = b"HTTP/1.1 304 NM\r\nContent-Length: 77\r\n\r\n";
    assert_eq!(answered(not_modified, Method::Get, &none), "HTTP/1.1 304 NM\r\nContent-Length: 77\r\n\r\n");
    let empty = b"HTTP/1.1 204 NC\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(answered(empty, Method::Get, &none), "HTTP/1.1 204 NC\r\n\r\n");
}

#[test]
fn interim_responses_and_switches_pass() {
    let hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
    let closing = Answer { persistence: Persistence::Close, ..Answer::default() };
    assert_eq!(answered(hints, Method::Get, &closing).as_bytes(), hints);
    let switch =
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-X: y\r\n\r\n";
    let edit = Answer { upgrade: Some(b"websocket"), ..Answer::default() };
    let wanted =
        "HTTP/1.1 101 Switching Protocols\r\nSec-X: y\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert_eq!(answered(switch, Method::Get, &edit), wanted);
}

#[test]
fn responses_of_our_own_are_complete() {
    let response = SimpleResponse {
        status: 503,
        method: Method::Get,
        version: Version::Http11,
        persistence: Persistence::Close,
        date: b"Sun, 06 Nov 1994 08:49:37 GMT",
        headers: &[("Retry-After", b"1")],
        body: b"no endpoint\n",
    };
    let own = |response: &SimpleResponse<'_>| {
        let mut out = Vec::new();
        simple_response(&mut out, response);
        String::from_utf8(out).unwrap()
    };
    let head = "HTTP/1.1 503 Service Unavailable\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nRetry-After: 1\r\n\
        Content-Length: 12\r\nConnection: close\r\n\r\n";
    assert_eq!(own(&response), format!("{head}no endpoint\n"));
    assert_eq!(own(&SimpleResponse { method: Method::Head, ..response }), head);
    let small = SimpleResponse { date: b"", headers: &[], persistence: Persistence::KeepAlive, ..response };
    let not_modified = SimpleResponse { status: 304, version: Version::Http10, ..small };
    assert_eq!(own(&not_modified), "HTTP/1.1 304 Not Modified\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!(own(&SimpleResponse { status: 100, ..response }), "HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(
        own(&SimpleResponse { status: 599, ..small }),
        "HTTP/1.1 599 \r\nContent-Length: 12\r\n\r\nno endpoint\n"
    );
}

#[test]
fn a_buffer_that_is_too_small_is_told_and_never_overrun() {
    let head = decoded(GET);
    let view = RequestView { head: &head, bytes: GET };
    let mut whole = Vec::new();
    request(&mut whole, &view, &Edit::default());
    for room in 0..whole.len() {
        let mut buffer = vec![0; room];
        let mut sink = SliceSink::new(&mut buffer);
        request(&mut sink, &view, &Edit::default());
        assert_eq!(sink.written(), None, "{room}");
    }
    let mut buffer = vec![0; whole.len() + 3];
    let mut sink = SliceSink::new(&mut buffer);
    request(&mut sink, &view, &Edit::default());
    assert_eq!(sink.written(), Some(whole.len()));
    assert_eq!(&buffer[..whole.len()], whole);
}

// I3: even a head that was put together wrongly writes no framing but ours.
#[test]
fn unmarked_framing_fields_are_not_written() {
    let mut head =
        decoded(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 7\r\nTE: x\r\nConnection: y\r\n\r\n");
    head.headers.iter_mut().for_each(|field| field.hop_by_hop = false);
    head.method_span = Span { start: 0, len: 4 };
    let bytes = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 7\r\nTE: x\r\nConnection: y\r\n\r\n";
    let mut out = Vec::new();
    request(
        &mut out,
        &RequestView { head: &head, bytes },
        &Edit { body: BodyLength::Chunked, ..Edit::default() },
    );
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
}

fn decoded(bytes: &[u8]) -> RequestHead {
    let mut head = RequestHead::default();
    assert_eq!(decode::request(bytes, &HeadLimits::default(), &mut head), Ok(Decoded::Complete));
    head
}

fn sent(bytes: &[u8], edit: &Edit<'_>) -> String {
    let head = decoded(bytes);
    let mut out = Vec::new();
    request(&mut out, &RequestView { head: &head, bytes }, edit);
    String::from_utf8(out).unwrap()
}

fn answered(bytes: &[u8], method: Method, edit: &Answer<'_>) -> String {
    let mut head = ResponseHead::default();
    assert_eq!(decode::response(bytes, &HeadLimits::default(), method, &mut head), Ok(Decoded::Complete));
    let mut out = Vec::new();
    response(&mut out, &ResponseView { head: &head, bytes }, edit);
    String::from_utf8(out).unwrap()
}
