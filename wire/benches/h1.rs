//! Cost of one head, read and written: `cargo bench -p ringway-wire`.

mod heads;

use divan::{Bencher, black_box};
use heads::{BROWSER, RESPONSE, SMALL};
use wire::h1::decode;
use wire::h1::encode::{self, RequestEdit, ResponseEdit};
use wire::h1::forwarded::{ForwardedFields, ForwardedFor};
use wire::h1::limits::HeadLimits;
use wire::h1::sink::SliceSink;
use wire::head::{BodyLength, Method, RequestHead, RequestView, ResponseHead, ResponseView};

fn main() {
    divan::main();
}

#[divan::bench(args = [("browser", BROWSER), ("small", SMALL)].map(Case::new))]
fn decode_request(bencher: Bencher<'_, '_>, case: &Case) {
    let limits = HeadLimits::default();
    let mut head = RequestHead::default();
    bencher.bench_local(|| decode::request(black_box(case.bytes), &limits, &mut head));
}

#[divan::bench(args = [("browser", BROWSER), ("small", SMALL)].map(Case::new))]
fn encode_request(bencher: Bencher<'_, '_>, case: &Case) {
    let mut head = RequestHead::default();
    decode::request(case.bytes, &HeadLimits::default(), &mut head).expect("a lawful head");
    let forwarded = ForwardedFields {
        x_forwarded_for: ForwardedFor::Replace(b"203.0.113.7"),
        proto: Some(b"https"),
        host: Some(b"shop.example.com"),
        x_request_id: Some(b"0123456789abcdef"),
        ..ForwardedFields::default()
    };
    let edit: RequestEdit<'_, &str> = RequestEdit { forwarded, ..RequestEdit::default() };
    let mut out = [0; 2048];
    bencher.bench_local(|| {
        let mut sink = SliceSink::new(&mut out);
        encode::request(&mut sink, black_box(&RequestView { head: &head, bytes: case.bytes }), &edit);
        sink.written()
    });
}

#[divan::bench]
fn decode_response(bencher: Bencher<'_, '_>) {
    let limits = HeadLimits::default();
    let mut head = ResponseHead::default();
    bencher.bench_local(|| decode::response(black_box(RESPONSE), &limits, Method::Get, &mut head));
}

#[divan::bench]
fn encode_response(bencher: Bencher<'_, '_>) {
    let mut head = ResponseHead::default();
    decode::response(RESPONSE, &HeadLimits::default(), Method::Get, &mut head).expect("a lawful head");
    let edit: ResponseEdit<'_, &str> =
        ResponseEdit { body: BodyLength::Exact(128), ..ResponseEdit::default() };
    let mut out = [0; 2048];
    bencher.bench_local(|| {
        let mut sink = SliceSink::new(&mut out);
        encode::response(&mut sink, black_box(&ResponseView { head: &head, bytes: RESPONSE }), &edit);
        sink.written()
    });
}

/// A head with the name that the report shows.
struct Case {
    name: &'static str,
    bytes: &'static [u8],
}

impl Case {
    fn new((name, bytes): (&'static str, &'static [u8])) -> Self {
        Self { name, bytes }
    }
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}
