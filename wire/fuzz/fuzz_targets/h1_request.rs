//! Any bytes as a request head: no panic, no head but one with CRLF endings, the same answer however it arrives, and
//! what is sent on means what was received.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::h1::decode::{self, Decoded};
use wire::h1::encode::{self, RequestEdit};
use wire::h1::limits::HeadLimits;
use wire::head::{RequestHead, RequestView};

fuzz_target!(|bytes: &[u8]| {
    let limits = HeadLimits {
        head_bytes_max: 1024,
        header_line_bytes_max: 128,
        uri_bytes_max: 64,
        ..HeadLimits::default()
    };
    let mut head = RequestHead::default();
    let whole = decode::request(bytes, &limits, &mut head);
    let half = decode::request(&bytes[..bytes.len() / 2], &limits, &mut RequestHead::default());
    match half {
        Ok(Decoded::Complete) => assert_eq!(whole, half),
        Ok(Decoded::Partial) => {}
        Err(_) => assert!(whole.is_err()),
    }
    if whole != Ok(Decoded::Complete) {
        return;
    }
    let lines = &bytes[..head.head_len];
    assert!(lines.ends_with(b"\r\n\r\n"));
    for (at, byte) in lines.iter().enumerate() {
        match byte {
            b'\n' => assert_eq!(lines[at - 1], b'\r'),
            b'\r' => assert_eq!(lines[at + 1], b'\n'),
            other => assert!(*other >= b' ' && *other != 0x7f || *other == b'\t'),
        }
    }
    let view = RequestView { head: &head, bytes };
    let authority = head.host.is_empty().then_some(b"pod".as_slice());
    let edit: RequestEdit<'_, &str> = RequestEdit { authority, body: head.body, ..RequestEdit::default() };
    let mut sent = Vec::new();
    encode::request(&mut sent, &view, &edit);
    let mut again = RequestHead::default();
    assert_eq!(decode::request(&sent, &HeadLimits::default(), &mut again), Ok(Decoded::Complete));
    let next = RequestView { head: &again, bytes: &sent };
    assert_eq!(again.head_len, sent.len());
    assert_eq!(
        (next.method_name(), next.path(), next.query()),
        (view.method_name(), view.path(), view.query())
    );
    assert!(again.body == head.body || again.body.is_empty() && head.body.is_empty());
    if authority.is_none() {
        assert_eq!((next.host(), again.port), (view.host(), head.port));
    }
});
