use super::*;
use crate::head::ResponseView;

#[test]
fn a_plain_response_is_read_into_its_parts() {
    let bytes = b"HTTP/1.1 404 Not Here\r\nContent-Length: 3\r\nX: y\r\n\r\nabc";
    let head = respond(bytes, Method::Get).unwrap();
    assert_eq!((head.status, head.reason.of(bytes)), (404, &b"Not Here"[..]));
    assert_eq!((head.body, head.persistence), (BodyLength::Exact(3), Persistence::KeepAlive));
    assert_eq!(ResponseView { head: &head, bytes }.header(b"x"), Some(&b"y"[..]));
    assert_eq!(&bytes[head.head_len..], b"abc");
    assert_eq!(respond(b"HTTP/1.1 200\r\n\r\n", Method::Get).unwrap().reason, Span::default());
    assert_eq!(respond(b"HTTP/1.1 200 \r\n\r\n", Method::Get).unwrap().reason, Span::default());
    assert_eq!(respond(b"HTTP/1.1 200 \xe9t\xe9\r\n\r\n", Method::Get).unwrap().status, 200);
}

#[test]
fn the_end_of_a_response_follows_from_method_status_and_fields() {
    let body = |status: u16, method: Method, fields: &str| {
        let bytes = format!("HTTP/1.1 {status} x\r\n{fields}\r\n");
        respond(bytes.as_bytes(), method).map(|head| (head.body, head.persistence))
    };
    use BodyLength as B;
    use Persistence::{Close, KeepAlive};
    assert_eq!(body(200, Method::Get, ""), Ok((B::UntilClose, Close)));
    assert_eq!(body(200, Method::Get, "Connection: keep-alive\r\n"), Ok((B::UntilClose, Close)));
    assert_eq!(body(200, Method::Get, "Transfer-Encoding: chunked\r\n"), Ok((B::Chunked, KeepAlive)));
    assert_eq!(body(200, Method::Post, "Content-Length: 0\r\n"), Ok((B::Exact(0), KeepAlive)));
    assert_eq!(
        body(200, Method::Get, "Content-Length: 1\r\nConnection: close\r\n"),
        Ok((B::Exact(1), Close))
    );
    assert_eq!(body(200, Method::Head, "Content-Length: 7\r\n"), Ok((B::None, KeepAlive)));
    assert_eq!(body(200, Method::Head, "Transfer-Encoding: chunked\r\n"), Ok((B::None, KeepAlive)));
    assert_eq!(body(200, Method::Head, ""), Ok((B::None, KeepAlive)));
    assert_eq!(body(304, Method::Get, "Content-Length: 7\r\n"), Ok((B::None, KeepAlive)));
    assert_eq!(body(204, Method::Get, ""), Ok((B::None, KeepAlive)));
    assert_eq!(body(204, Method::Get, "Content-Length: 0\r\n"), Ok((B::None, KeepAlive)));
    assert_eq!(body(103, Method::Get, "Link: </a>\r\n"), Ok((B::None, KeepAlive)));
    let bytes = b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n";
    assert_eq!(respond(bytes, Method::Get).unwrap().persistence, Close);
}

// S30, and the response halves of S1 to S10.
#[test]
fn evil_responses_are_refused() {
    let cases: [(&[u8], E); 27] = [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n", E::ContentLength),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", E::ContentLength),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n", E::ContentLength),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n", E::ContentLength),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", E::LengthConflict),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", E::TransferEncoding),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n", E::TransferEncoding),
        (b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", E::TransferEncoding),
        (b"HTTP/1.1 204 x\r\nContent-Length: 5\r\n\r\n", E::ContentLength),
        (b"HTTP/1.1 204 x\r\nTransfer-Encoding: chunked\r\n\r\n", E::TransferEncoding),
        (b"HTTP/1.1 100 x\r\nContent-Length: 5\r\n\r\n", E::ContentLength),
        (b"HTTP/1.1 304 x\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n", E::ContentLength),
        (b"HTTP/1.1 101 x\r\nConnection: upgrade\r\n\r\n", E::Unexpected),
        (b"HTTP/1.1 200 OK\nContent-Length: 5\r\n\r\n", E::LineEnding),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\n\r\n", E::LineEnding),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\n", E::LineEnding),
        (b"HTTP/1.1 200 OK\r\nX: a\rSet-Cookie: b\r\n\r\n", E::LineEnding),
        (b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n", E::HeaderValue),
        (b"HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n", E::HeaderValue),
        (b"HTTP/1.1 200 OK\r\nX : a\r\n\r\n", E::HeaderName),
        (b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", E::HeaderName),
        (b"\r\nHTTP/1.1 200 OK\r\n\r\n", E::StartLine),
        (b"HTTP/1.1 20 OK\r\n\r\n", E::StartLine),
        (b"HTTP/1.1 099 OK\r\n\r\n", E::StartLine),
        (b"HTTP/1.1 2000 OK\r\n\r\n", E::StartLine),
        (b"HTTP/2.0 200 OK\r\n\r\n", E::Version),
        (b"ICY 200 OK\r\n\r\n", E::StartLine),
    ];
    for (bytes, error) in cases {
        assert_eq!(respond(bytes, Method::Get), Err(error), "{:?}", String::from_utf8_lossy(bytes));
    }
    let limits = HeadLimits::default();
    let mut head = ResponseHead::default();
    let long = [b"HTTP/1.1 200 ".as_slice(), &b"a".repeat(9000)].concat();
    assert_eq!(response(&long, &limits, Method::Get, &mut head), Err(E::HeaderTooLong));
    let whole = [long.as_slice(), b"\r\n\r\n"].concat();
    assert_eq!(response(&whole, &limits, Method::Get, &mut head), Err(E::HeaderTooLong));
    let many = [b"HTTP/1.1 200 OK\r\n".as_slice(), &b"X: a\r\n".repeat(101)].concat();
    assert_eq!(response(&many, &limits, Method::Get, &mut head), Err(E::TooManyHeaders));
    let big = [
        b"HTTP/1.1 200 OK\r\n".as_slice(),
        &[b"X: ".as_slice(), &b"a".repeat(995), b"\r\n"].concat().repeat(40),
    ]
    .concat();
    assert_eq!(response(&big, &limits, Method::Get, &mut head), Err(E::HeadTooLong));
}

#[test]
fn a_switch_of_protocols_says_to_what() {
    let bytes = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let head = respond(bytes, Method::Get).unwrap();
    assert_eq!(head.upgrade.map(|span| span.of(bytes)), Some(&b"websocket"[..]));
    assert_eq!(head.body, BodyLength::None);
    let bytes = b"HTTP/1.1 426 x\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(respond(bytes, Method::Get).unwrap().upgrade, None);
}

/// Equality of results without equality of heads.
impl PartialEq for RequestHead {
    fn eq(&self, other: &Self) -> bool {
        format!("{self:?}") == format!("{other:?}")
    }
}

impl PartialEq for ResponseHead {
    fn eq(&self, other: &Self) -> bool {
        format!("{self:?}") == format!("{other:?}")
    }
}

fn respond(bytes: &[u8], method: Method) -> Result<ResponseHead, WireError> {
    let mut head = ResponseHead::default();
    match response(bytes, &HeadLimits::default(), method, &mut head)? {
        Decoded::Complete => Ok(head),
        Decoded::Partial => panic!("partial: {:?}", String::from_utf8_lossy(bytes)),
    }
}
