//! The hot paths of this crate, for `scripts/instructions`.

mod counted;
mod heads;

use std::hint::black_box;
use std::process::ExitCode;

use counted::Path;
use heads::{BROWSER, RESPONSE, SMALL};
use wire::body::{BodyDecoder, Progress, TrailerPolicy};
use wire::h1::decode;
use wire::h1::encode::{self, RequestEdit, ResponseEdit};
use wire::h1::forwarded::{ForwardedFields, ForwardedFor};
use wire::h1::limits::HeadLimits;
use wire::head::{BodyLength, Method, RequestHead, RequestView, ResponseHead, ResponseView};

const PATHS: [Path; 6] = [
    ("parse-request-small", |rounds| parse_request(SMALL, rounds)),
    ("parse-request-browser", |rounds| parse_request(BROWSER, rounds)),
    ("encode-request-browser", encode_request),
    ("parse-response", parse_response),
    ("encode-response", encode_response),
    ("relay-chunked-16k", relay_chunked),
];

fn main() -> ExitCode {
    counted::run(&PATHS)
}

fn parse_request(bytes: &[u8], rounds: u32) {
    let limits = HeadLimits::default();
    let mut head = RequestHead::default();
    for _ in 0..rounds {
        black_box(decode::request(black_box(bytes), &limits, &mut head)).expect("a lawful head");
    }
}

fn encode_request(rounds: u32) {
    let mut head = RequestHead::default();
    decode::request(BROWSER, &HeadLimits::default(), &mut head).expect("a lawful head");
    let forwarded = ForwardedFields {
        x_forwarded_for: ForwardedFor::Replace(b"203.0.113.7"),
        proto: Some(b"https"),
        host: Some(b"shop.example.com"),
        x_request_id: Some(b"0123456789abcdef"),
        ..ForwardedFields::default()
    };
    let edit: RequestEdit<'_, &str> = RequestEdit { forwarded, ..RequestEdit::default() };
    let mut out = Vec::with_capacity(4096);
    for _ in 0..rounds {
        out.clear();
        encode::request(&mut out, black_box(&RequestView { head: &head, bytes: BROWSER }), &edit);
        black_box(&out);
    }
}

fn parse_response(rounds: u32) {
    let limits = HeadLimits::default();
    let mut head = ResponseHead::default();
    for _ in 0..rounds {
        black_box(decode::response(black_box(RESPONSE), &limits, Method::Get, &mut head))
            .expect("a lawful head");
    }
}

fn encode_response(rounds: u32) {
    let mut head = ResponseHead::default();
    decode::response(RESPONSE, &HeadLimits::default(), Method::Get, &mut head).expect("a lawful head");
    let edit: ResponseEdit<'_, &str> =
        ResponseEdit { body: BodyLength::Exact(128), ..ResponseEdit::default() };
    let mut out = Vec::with_capacity(4096);
    for _ in 0..rounds {
        out.clear();
        encode::response(&mut out, black_box(&ResponseView { head: &head, bytes: RESPONSE }), &edit);
        black_box(&out);
    }
}

/// One read of 16 KiB of a chunked body, in chunks of 4 KiB: what a relay does between two system calls.
fn relay_chunked(rounds: u32) {
    let chunk = [b"1000\r\n".as_slice(), &[b'x'; 0x1000], b"\r\n"].concat();
    let whole = [chunk.repeat(4).as_slice(), b"0\r\n\r\n"].concat();
    let mut decoder = BodyDecoder::new(BodyLength::Chunked, TrailerPolicy::Forward);
    let mut buf = whole.clone();
    for _ in 0..rounds {
        buf.copy_from_slice(&whole);
        decoder.reset(BodyLength::Chunked);
        let step = decoder.step(black_box(&mut buf)).expect("a lawful body");
        assert_eq!((step.data, step.progress), (0x4000, Progress::Done), "all of it at once");
    }
}
