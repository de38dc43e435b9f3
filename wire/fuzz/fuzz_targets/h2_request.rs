//! Any bytes as the fields of an HTTP/2 request: what is written is refused, or is one HTTP/1.1 head and nothing behind
//! it, whose framing is the one that was meant.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::h1::decode::{self, Decoded};
use wire::h1::limits::{HEAD_BYTES_CAP, HeadLimits};
use wire::h2::{self, Body, Follows, Pseudo};
use wire::head::{BodyLength, RequestHead};

fuzz_target!(|input: (Vec<u8>, Option<Vec<u8>>, Vec<u8>, bool, bool, Vec<(Vec<u8>, Vec<u8>)>)| {
    let (method, authority, path, connects, more, list) = input;
    let pseudo = Pseudo {
        method: if connects { b"CONNECT" } else { &method },
        scheme: Some(b"https"),
        authority: authority.as_deref(),
        path: Some(&path),
        protocol: connects.then_some(b"websocket"),
    };
    let fields = || list.iter().map(|(name, value)| (&name[..], &value[..]));
    let follows = if more { Follows::Data } else { Follows::Nothing };
    let mut out = Vec::new();
    let Ok(body) = h2::request(&mut out, &pseudo, fields, follows, b"dGhlIHNhbXBsZSBub25jZQ==") else { return };
    let limits = HeadLimits {
        head_bytes_max: HEAD_BYTES_CAP,
        header_line_bytes_max: HEAD_BYTES_CAP,
        uri_bytes_max: HEAD_BYTES_CAP,
        ..HeadLimits::default()
    };
    let mut head = RequestHead::default();
    if decode::request(&out, &limits, &mut head) != Ok(Decoded::Complete) {
        return;
    }
    assert_eq!(head.head_len, out.len());
    match body {
        Body::None => assert!(head.body.is_empty()),
        Body::Exact(length) => assert_eq!(head.body, BodyLength::Exact(length)),
        Body::Chunked => assert_eq!(head.body, BodyLength::Chunked),
        Body::Tunnel => assert!(head.body.is_empty() && head.upgrade.is_some()),
    }
});
