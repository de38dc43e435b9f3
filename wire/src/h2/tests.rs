use super::*;
use crate::h1::decode::{self, Decoded};
use crate::h1::limits::HeadLimits;
use crate::head::{Method, RequestHead, RequestView, ResponseHead};

const KEY: [u8; WEBSOCKET_KEY_BYTES] = *b"dGhlIHNhbXBsZSBub25jZQ==";

fn get<'a>() -> Pseudo<'a> {
    Pseudo {
        method: b"GET",
        scheme: Some(b"https"),
        authority: Some(b"shop.example"),
        path: Some(b"/cart?a=1"),
        protocol: None,
    }
}

fn written(
    pseudo: Pseudo<'_>,
    fields: &[(&str, &str)],
    follows: Follows,
) -> Result<(String, Body), WireError> {
    let mut out = Vec::new();
    let fields = || fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
    let body = request(&mut out, &pseudo, fields, follows, &KEY)?;
    let mut head = RequestHead::default();
    assert_eq!(decode::request(&out, &HeadLimits::default(), &mut head), Ok(Decoded::Complete));
    assert_eq!(head.head_len, out.len(), "one head and nothing behind it");
    Ok((String::from_utf8(out).unwrap(), body))
}

#[test]
fn a_request_is_one_head_of_http_1() {
    let (text, body) = written(get(), &[("accept", "*/*"), ("te", "trailers")], Follows::Nothing).unwrap();
    assert_eq!(text, "GET /cart?a=1 HTTP/1.1\r\nhost: shop.example\r\naccept: */*\r\nte: trailers\r\n\r\n");
    assert_eq!(body, Body::None);
}

#[test]
fn the_end_of_the_body_is_known_as_the_client_said_it() {
    let post = Pseudo { method: b"POST", ..get() };
    let (text, body) = written(post, &[("content-length", "5")], Follows::Data).unwrap();
    assert!(text.ends_with("content-length: 5\r\n\r\n") && body == Body::Exact(5));
    let (text, body) = written(post, &[], Follows::Data).unwrap();
    assert!(text.ends_with("transfer-encoding: chunked\r\n\r\n") && body == Body::Chunked);
    let (text, body) = written(post, &[("content-length", "0")], Follows::Nothing).unwrap();
    assert!(text.contains("content-length: 0") && body == Body::None);
    for (fields, follows) in [
        (&[("content-length", "5")][..], Follows::Nothing),
        (&[("content-length", "5"), ("content-length", "5")], Follows::Data),
        (&[("content-length", "+5")], Follows::Data),
        (&[("content-length", "")], Follows::Data),
        (&[("content-length", "9223372036854775808")], Follows::Data),
    ] {
        assert_eq!(written(post, fields, follows), Err(WireError::ContentLength), "{fields:?}");
    }
}

#[test]
fn crumbs_of_cookies_become_one_line() {
    let fields = [("cookie", "a=1"), ("x", "y"), ("cookie", ""), ("cookie", "b=2")];
    let (text, _) = written(get(), &fields, Follows::Nothing).unwrap();
    assert_eq!(text.matches("cookie").count(), 1);
    assert!(text.contains("cookie: a=1; b=2\r\n"), "{text}");
    let (text, _) = written(get(), &[("cookie", "")], Follows::Nothing).unwrap();
    assert!(!text.contains("cookie"), "{text}");
}

#[test]
fn authority_and_host_may_differ_in_spelling_only() {
    let both = |authority: Option<&'static [u8]>, host: &'static str| {
        written(Pseudo { authority, ..get() }, &[("host", host)], Follows::Nothing).map(|(text, _)| text)
    };
    assert!(both(None, "shop.example").unwrap().contains("host: shop.example\r\n"));
    assert!(both(Some(b"shop.example"), "SHOP.example.").unwrap().contains("host: shop.example\r\n"));
    for (authority, host) in
        [("shop.example", "evil.example"), ("a:80", "a"), ("a", "a:443"), ("user@a", "a"), ("a", "")]
    {
        assert_eq!(both(Some(authority.as_bytes()), host), Err(WireError::Host), "{authority} {host}");
    }
    let none = Pseudo { authority: None, ..get() };
    assert_eq!(written(none, &[], Follows::Nothing), Err(WireError::Host));
    let twice = [("host", "a"), ("host", "a")];
    assert_eq!(written(none, &twice, Follows::Nothing), Err(WireError::Host));
}

/// SECURITY S11: whatever a framing layer lets through, no byte of it can end a line or the head.
#[test]
fn nothing_that_http_1_would_read_differently_is_written() {
    for (name, value, error) in [
        ("X-Upper", "a", WireError::HeaderName),
        ("", "a", WireError::HeaderName),
        ("a b", "a", WireError::HeaderName),
        ("a:", "a", WireError::HeaderName),
        (":path", "/", WireError::HeaderName),
        ("a\r\nb", "a", WireError::HeaderName),
        ("a\0", "a", WireError::HeaderName),
        ("a", "b\r\nc: d", WireError::HeaderValue),
        ("a", "b\nc", WireError::HeaderValue),
        ("a", "b\rc", WireError::HeaderValue),
        ("a", "b\0c", WireError::HeaderValue),
        ("a", "\x7f", WireError::HeaderValue),
        ("a", " b", WireError::HeaderValue),
        ("a", "b\t", WireError::HeaderValue),
        ("connection", "close", WireError::HeaderName),
        ("proxy-connection", "close", WireError::HeaderName),
        ("keep-alive", "timeout=5", WireError::HeaderName),
        ("transfer-encoding", "chunked", WireError::HeaderName),
        ("upgrade", "h2c", WireError::HeaderName),
        ("te", "gzip", WireError::HeaderName),
        ("te", "trailers, chunked", WireError::HeaderName),
    ] {
        assert_eq!(written(get(), &[(name, value)], Follows::Nothing), Err(error), "{name:?}: {value:?}");
    }
    for path in [None, Some(""), Some("cart"), Some("/a b"), Some("/a\r\nb"), Some("/\0"), Some("*")] {
        let pseudo = Pseudo { path: path.map(str::as_bytes), ..get() };
        assert_eq!(written(pseudo, &[], Follows::Nothing), Err(WireError::Target), "{path:?}");
    }
    for method in ["", "GET ", "G\r\nT", "a/b"] {
        let pseudo = Pseudo { method: method.as_bytes(), ..get() };
        assert_eq!(written(pseudo, &[], Follows::Nothing), Err(WireError::StartLine), "{method:?}");
    }
    for scheme in [None, Some("ftp"), Some("")] {
        let pseudo = Pseudo { scheme: scheme.map(str::as_bytes), ..get() };
        assert_eq!(written(pseudo, &[], Follows::Nothing), Err(WireError::StartLine), "{scheme:?}");
    }
}

#[test]
fn extended_connect_becomes_a_websocket_handshake_and_nothing_else_does() {
    let connect = Pseudo { method: b"CONNECT", protocol: Some(b"websocket"), ..get() };
    let fields = [("sec-websocket-version", "13"), ("sec-websocket-key", "of the client"), ("origin", "x")];
    let (text, body) = written(connect, &fields, Follows::Data).unwrap();
    assert_eq!(body, Body::Tunnel);
    assert_eq!(
        text,
        "GET /cart?a=1 HTTP/1.1\r\nhost: shop.example\r\nsec-websocket-version: 13\r\norigin: x\r\n\
        connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    let other = |pseudo| written(pseudo, &[], Follows::Data).map(|(text, _)| text);
    assert_eq!(other(Pseudo { protocol: Some(b"connect-udp"), ..connect }), Err(WireError::Protocol));
    assert_eq!(other(Pseudo { protocol: None, ..connect }), Err(WireError::Method));
    assert_eq!(other(Pseudo { protocol: Some(b"websocket"), ..get() }), Err(WireError::StartLine));
    let length = written(connect, &[("content-length", "1")], Follows::Data);
    assert_eq!(length, Err(WireError::ContentLength));
}

fn fields_of(bytes: &str, method: Method) -> Vec<(String, String)> {
    let mut head = ResponseHead::default();
    let decoded = decode::response(bytes.as_bytes(), &HeadLimits::default(), method, &mut head);
    assert_eq!(decoded, Ok(Decoded::Complete));
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    response_fields(&ResponseView { head: &head, bytes: bytes.as_bytes() })
        .map(|(name, value)| (text(name), text(value)))
        .collect()
}

#[test]
fn a_response_keeps_its_length_and_loses_what_belongs_to_the_connection() {
    let response =
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\nKeep-Alive: timeout=5\r\nX: y\r\n\r\n";
    let wanted = [("Content-Length", "5"), ("X", "y")].map(|(a, b)| (a.to_owned(), b.to_owned()));
    assert_eq!(fields_of(response, Method::Get), wanted);
    assert_eq!(fields_of(response, Method::Head), wanted);
    assert_eq!(fields_of("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Method::Get), []);
    let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: chat\r\n\r\n";
    assert_eq!(fields_of(switch, Method::Get), [("Sec-WebSocket-Protocol".to_owned(), "chat".to_owned())]);
}

#[test]
fn trailer_lines_are_taken_apart() {
    let fields: Vec<_> = trailer_fields(b"grpc-status: 0\r\ngrpc-message: a: b\r\n").collect();
    assert_eq!(fields, [(&b"grpc-status"[..], &b"0"[..]), (b"grpc-message", b"a: b")]);
    assert!(trailer_fields(b"").next().is_none());
    assert!(is_trailer(b"x-checksum", b"1") && !is_trailer(b"X", b"1") && !is_trailer(b"x", b"a\nb"));
}

/// What was read back is what was meant, of every head that is written at all.
#[test]
fn the_written_head_says_what_the_fields_say() {
    let (text, _) =
        written(get(), &[("x-a", "1"), ("cookie", "c=3"), ("expect", "100-continue")], Follows::Data)
            .unwrap();
    let mut head = RequestHead::default();
    decode::request(text.as_bytes(), &HeadLimits::default(), &mut head).unwrap();
    let view = RequestView { head: &head, bytes: text.as_bytes() };
    assert_eq!((view.path(), view.query()), (&b"/cart"[..], Some(&b"a=1"[..])));
    assert_eq!(
        (view.host(), view.header(b"x-a"), view.cookie(b"c")),
        (&b"shop.example"[..], Some(&b"1"[..]), Some(&b"3"[..]))
    );
    assert!(head.expects_continue && head.body == BodyLength::Chunked);
}

#[test]
fn a_forwarded_request_keeps_its_fields_and_loses_what_is_of_its_connection() {
    let bytes = b"POST / HTTP/1.1\r\nHost: a\r\nX-A: 1\r\nX-A: 2\r\nConnection: x-gone, te\r\nX-Gone: 1\r\nTE: trailers\r\n\
        Keep-Alive: 1\r\nContent-Length: 5\r\n\r\n";
    let mut head = RequestHead::default();
    decode::request(bytes, &HeadLimits::default(), &mut head).unwrap();
    let fields: Vec<_> = request_fields(&RequestView { head: &head, bytes }).collect();
    assert_eq!(fields, [(&b"X-A"[..], &b"1"[..]), (b"X-A", b"2"), (b"Content-Length", b"5")]);
}

fn response_head(status: u16, fields: &[(&str, &str)], ends: bool, is_head: bool) -> (BodyLength, String) {
    let mut out = Vec::new();
    let fields = fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
    let body = response(&mut out, status, fields, ends, is_head).unwrap();
    (body, String::from_utf8(out).unwrap())
}

#[test]
fn a_response_is_framed_by_what_is_known_of_its_length() {
    assert_eq!(
        response_head(200, &[("x-a", "1"), ("connection", "close"), ("keep-alive", "1")], false, false),
        (BodyLength::Chunked, "HTTP/1.1 200 OK\r\nx-a: 1\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned())
    );
    assert_eq!(
        response_head(200, &[("grpc-status", "14")], true, false),
        (BodyLength::None, "HTTP/1.1 200 OK\r\ngrpc-status: 14\r\nContent-Length: 0\r\n\r\n".to_owned())
    );
    let given = [("content-length", "3")];
    assert_eq!(response_head(200, &given, false, false).0, BodyLength::Exact(3));
    assert_eq!(
        response_head(200, &given, true, true),
        (BodyLength::None, "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n".to_owned()),
        "what a GET would bring"
    );
    for (status, is_head) in [(204, false), (304, false), (200, true)] {
        let (body, head) = response_head(status, &[], true, is_head);
        assert_eq!(body, BodyLength::None);
        assert_eq!(head.lines().count(), 2, "no framing: {head}");
    }
    let wrong = [(&b"content-length"[..], &b"+3"[..])].into_iter();
    assert_eq!(response(&mut Vec::new(), 200, wrong, false, false), Err(WireError::ContentLength));
}

#[test]
fn trailers_that_may_travel_end_a_chunked_body() {
    let mut out = Vec::new();
    let fields = [(&b"grpc-status"[..], &b"0"[..]), (b"content-length", b"5"), (b"grpc-message", b"fine")];
    last_chunk(&mut out, fields.into_iter());
    assert_eq!(out, b"0\r\ngrpc-status: 0\r\ngrpc-message: fine\r\n\r\n");
}
