//! A head costs no allocation once its vectors have grown, neither read nor written.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::Ipv6Addr;

use wire::body::{BodyDecoder, Progress, TrailerPolicy};
use wire::h1::chunked::{PREFIX_BYTES_MAX, chunk_prefix};
use wire::h1::decode::{self, Decoded};
use wire::h1::encode::{self, Edits, RequestEdit, ResponseEdit};
use wire::h1::forwarded::{ForwardedFields, ForwardedFor, IpText};
use wire::h1::limits::HeadLimits;
use wire::h1::sink::SliceSink;
use wire::head::{BodyLength, Method, RequestHead, RequestView, ResponseHead, ResponseView};

thread_local! {
    // Of this thread only: the test harness allocates on others.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

#[expect(
    unsafe_code,
    reason = "counting allocations takes an allocator; this one hands everything to the system's"
)]
// SAFETY: every call is passed to `System` unchanged, which upholds the contract. The counter is a thread-local
// without destructor, so counting neither allocates nor touches freed storage.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller upholds `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from `System` with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: `pointer` came from `System` with this layout, and the caller upholds `realloc`'s contract.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const REQUEST: &[u8] = b"POST /a/../b%61?c=d HTTP/1.1\r\nHost: Shop.example:8080\r\nAccept: */*\r\nCookie: a=b\r\n\
    X-Forwarded-For: 1.2.3.4\r\nConnection: keep-alive, x-own\r\nX-Own: 1\r\nTransfer-Encoding: chunked\r\n\r\n";
const RESPONSE: &[u8] =
    b"HTTP/1.1 200 OK\r\nServer: s\r\nDate: d\r\nContent-Type: t\r\nTransfer-Encoding: chunked\r\n\r\n";
const BODY: &[u8] = b"5;x\r\nhello\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n";

#[test]
fn a_steady_exchange_allocates_nothing() {
    let mut exchange = Exchange::new();
    // Grows the vectors; and shows that the counter counts.
    assert!(allocations(|| exchange.run()) > 0);
    assert_eq!(allocations(|| (0..100).for_each(|_| exchange.run())), 0);
}

/// What a connection keeps from message to message.
struct Exchange {
    limits: HeadLimits,
    request: RequestHead,
    response: ResponseHead,
    body: BodyDecoder,
    peer: IpText,
    out: [u8; 1024],
}

impl Exchange {
    fn new() -> Self {
        Self {
            limits: HeadLimits::default(),
            request: RequestHead::default(),
            response: ResponseHead::default(),
            body: BodyDecoder::new(BodyLength::None, TrailerPolicy::Forward),
            peer: IpText::new(Ipv6Addr::LOCALHOST.into()),
            out: [0; 1024],
        }
    }

    fn run(&mut self) {
        let decoded = decode::request(REQUEST, &self.limits, &mut self.request);
        assert_eq!(decoded, Ok(Decoded::Complete));
        let edits = Edits { set: &[("x-set", "1")], add: &[("x-add", "2")], remove: &["accept"] };
        let edit = RequestEdit {
            body: self.request.body,
            headers: [edits, edits],
            forwarded: ForwardedFields {
                x_forwarded_for: ForwardedFor::Append(self.peer.as_bytes()),
                port: Some(80),
                via: Some("ringway"),
                ..ForwardedFields::default()
            },
            ..RequestEdit::default()
        };
        let mut sink = SliceSink::new(&mut self.out);
        encode::request(&mut sink, &RequestView { head: &self.request, bytes: REQUEST }, &edit);
        assert!(sink.written().is_some());

        let decoded = decode::response(RESPONSE, &self.limits, Method::Post, &mut self.response);
        assert_eq!(decoded, Ok(Decoded::Complete));
        let edit: ResponseEdit<'_, &str> =
            ResponseEdit { body: BodyLength::Exact(8), ..ResponseEdit::default() };
        let mut sink = SliceSink::new(&mut self.out);
        encode::response(&mut sink, &ResponseView { head: &self.response, bytes: RESPONSE }, &edit);
        assert!(sink.written().is_some());

        let mut bytes = [0; BODY.len()];
        bytes.copy_from_slice(BODY);
        self.body.reset(BodyLength::Chunked);
        let step = self.body.step(&mut bytes).expect("a lawful body");
        assert_eq!((step.data, step.progress), (8, Progress::Done));
        assert_eq!(self.body.trailers(), b"X-Sum: 1\r\n");
        chunk_prefix(step.data, &mut [0; PREFIX_BYTES_MAX]);
    }
}

fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.with(Cell::get);
    work();
    ALLOCATIONS.with(Cell::get) - before
}
