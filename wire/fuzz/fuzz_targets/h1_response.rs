//! Any bytes as a response head: no panic, the same answer however it arrives, and what is sent on means what was
//! received. The first byte chooses the method.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::h1::decode::{self, Decoded};
use wire::h1::encode::{self, ResponseEdit};
use wire::h1::limits::HeadLimits;
use wire::head::{Method, ResponseHead, ResponseView};

fuzz_target!(|input: &[u8]| {
    let Some((first, bytes)) = input.split_first() else { return };
    let method = if first & 1 == 0 { Method::Get } else { Method::Head };
    let limits = HeadLimits { head_bytes_max: 1024, header_line_bytes_max: 128, ..HeadLimits::default() };
    let mut head = ResponseHead::default();
    let whole = decode::response(bytes, &limits, method, &mut head);
    let half = decode::response(&bytes[..bytes.len() / 2], &limits, method, &mut ResponseHead::default());
    match half {
        Ok(Decoded::Complete) => assert_eq!(whole, half),
        Ok(Decoded::Partial) => {}
        Err(_) => assert!(whole.is_err()),
    }
    if whole != Ok(Decoded::Complete) {
        return;
    }
    assert!(bytes[..head.head_len].ends_with(b"\r\n\r\n"));
    let view = ResponseView { head: &head, bytes };
    let upgrade = head.upgrade.map(|span| span.of(bytes));
    let edit: ResponseEdit<'_, &str> = ResponseEdit { body: head.body, upgrade, ..ResponseEdit::default() };
    let mut sent = Vec::new();
    encode::response(&mut sent, &view, &edit);
    let mut again = ResponseHead::default();
    assert_eq!(decode::response(&sent, &HeadLimits::default(), method, &mut again), Ok(Decoded::Complete));
    assert_eq!((again.head_len, again.status, again.body), (sent.len(), head.status, head.body));
});
