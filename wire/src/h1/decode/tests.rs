use super::*;
use crate::head::{Known, RequestView};

fn decode(bytes: &[u8]) -> Result<RequestHead, WireError> {
    let mut head = RequestHead::default();
    match request(bytes, &HeadLimits::default(), &mut head)? {
        Decoded::Complete => Ok(head),
        Decoded::Partial => panic!("partial: {:?}", String::from_utf8_lossy(bytes)),
    }
}

#[test]
fn a_plain_request_is_read_into_its_parts() {
    let bytes = b"GET /a/b?c=d HTTP/1.1\r\nHost: Shop.example:8080\r\nAccept:  */*  \r\n\r\nrest";
    let head = decode(bytes).unwrap();
    let view = RequestView { head: &head, bytes };
    assert_eq!((head.method, head.version, head.body), (Method::Get, Version::Http11, BodyLength::None));
    assert_eq!((view.method_name(), view.path(), view.query()), (&b"GET"[..], &b"/a/b"[..], Some(&b"c=d"[..])));
    assert_eq!((view.host(), head.port), (&b"shop.example"[..], Some(8080)));
    assert_eq!(view.authority(), b"Shop.example:8080");
    assert_eq!(view.header(b"accept"), Some(&b"*/*"[..]));
    assert_eq!(view.known(Known::Host), Some(&b"Shop.example:8080"[..]));
    assert_eq!(head.persistence, Persistence::KeepAlive);
    assert_eq!(&bytes[head.head_len..], b"rest");
}
