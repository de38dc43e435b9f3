//! Runs one hot path so many times, for `scripts/instructions` to count what it costs: instructions, not seconds.
//!
//! `instructions` alone names the paths; `instructions PATH ROUNDS` runs one. What setting it up costs is the same
//! for any number of rounds, so the difference of two counts is that of the rounds.

use std::hint::black_box;
use std::process::ExitCode;

use wire::body::{BodyDecoder, Progress, TrailerPolicy};
use wire::h1::decode;
use wire::h1::encode::{self, RequestEdit, ResponseEdit};
use wire::h1::forwarded::{ForwardedFields, ForwardedFor};
use wire::h1::limits::HeadLimits;
use wire::head::{BodyLength, Method, RequestHead, RequestView, ResponseHead, ResponseView};

/// What a browser sends, cut to eight fields.
const BROWSER: &[u8] = b"GET /api/v1/items/4711?sort=price HTTP/1.1\r\nHost: shop.example.com\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\nAccept-Language: en-US,en;q=0.5\r\n\
    Accept-Encoding: gzip, deflate, br\r\nConnection: keep-alive\r\nCookie: session=0123456789abcdef0123456789abcdef\r\n\
    Cache-Control: max-age=0\r\n\r\n";

/// What load generators send.
const SMALL: &[u8] = b"GET / HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n";

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nServer: backend\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
    Content-Type: application/json\r\nContent-Length: 128\r\nCache-Control: no-store\r\nVary: Accept-Encoding\r\n\r\n";

/// A path: its name, and what runs it so many times.
type Path = (&'static str, fn(u32));

const PATHS: [Path; 6] = [
    ("parse-request-small", |rounds| parse_request(SMALL, rounds)),
    ("parse-request-browser", |rounds| parse_request(BROWSER, rounds)),
    ("encode-request-browser", encode_request),
    ("parse-response", parse_response),
    ("encode-response", encode_response),
    ("relay-chunked-16k", relay_chunked),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let [path, rounds] = args.as_slice() else {
        PATHS.iter().for_each(|(name, _)| println!("{name}"));
        return ExitCode::SUCCESS;
    };
    let found = PATHS.iter().find(|(name, _)| name == path);
    match (found, rounds.parse()) {
        (Some((_, run)), Ok(rounds)) => {
            run(rounds);
            ExitCode::SUCCESS
        }
        (None, _) => {
            eprintln!("{path}: no such path; run without arguments for their names");
            ExitCode::FAILURE
        }
        (Some(_), Err(why)) => {
            eprintln!("{rounds}: not a number of rounds: {why}");
            ExitCode::FAILURE
        }
    }
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
