//! HTTP/2 from clients that mean harm, with frames made by hand: SECURITY S11, S20 to S26. The attacker is refused or
//! closed, what it asked for is let go of, memory is bounded, and everybody else is served.
#![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

mod support;

use std::io::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use config::{ByteSize, Config, Period};
use gateway::observe::stats::Limit;
use support::backend::{Backend, Then, respond};
use support::frames::*;
use support::table::world;
use support::{Gateway, config, until};

fn with(config: Config, backend: &Backend) -> Gateway {
    let addr = backend.addr;
    Gateway::start(config, |on| world(&[addr]).undetected().on(on))
}

fn before(backend: &Backend) -> Gateway {
    with(config(), backend)
}

/// Another client is served at once.
#[track_caller]
fn serves_others(gateway: &Gateway) {
    let mut other = Raw::connect(gateway.addr, &[]);
    other.send(get(1, "/other"));
    assert_eq!(other.verdict(1), Verdict::Answered);
}

/// Nothing of what was asked for is under way any more.
#[track_caller]
fn lets_go(gateway: &Gateway) {
    until("nothing is in flight", || gateway.sum(|stats| stats.in_flight.get()) == 0);
    until("no stream is open", || gateway.sum(|stats| stats.http2_streams_open.get()) == 0);
}

/// Memory of this process, both sides of every connection, in bytes.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

const GROWTH_MAX: usize = 64 << 20;

/// What SECURITY claims of an attacker: closed within a second of its first frame, and little memory meanwhile. The tests share
/// their cores with each other and with compilers, so that the second is taken five times; `loadtest attack` prints what it is.
struct Attack {
    began: Instant,
    memory: usize,
    _alone: MutexGuard<'static, ()>,
}

/// Memory is the whole program's: what takes much of it, or measures it, does so alone.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

const CLOSED_WITHIN: Duration = Duration::from_secs(1);
const SLACK: u32 = 5;

impl Attack {
    fn begins() -> Self {
        let alone = alone();
        Self { began: Instant::now(), memory: resident(), _alone: alone }
    }

    /// The attacker's connection has ended.
    #[track_caller]
    fn is_over(&self, what: &str) {
        let took = self.began.elapsed();
        assert!(took <= CLOSED_WITHIN * SLACK, "{what}: closed after {took:?}");
        let growth = resident().saturating_sub(self.memory);
        assert!(growth <= GROWTH_MAX, "{what}: {growth} bytes more");
    }
}

/// What `Limit`s count when a flood is stopped.
fn calmed(gateway: &Gateway) -> u64 {
    [Limit::Http2Resets, Limit::Http2Faults, Limit::Http2Floods, Limit::Http2Cancels, Limit::Http2Control]
        .into_iter()
        .map(|limit| gateway.hits(limit))
        .sum()
}

#[test]
fn malformed_requests_reach_nobody() {
    let backend = Backend::named("web");
    let gateway = before(&backend);
    let method: (&[u8], &[u8]) = (b":method", b"GET");
    let scheme: (&[u8], &[u8]) = (b":scheme", b"http");
    let authority: (&[u8], &[u8]) = (b":authority", b"shop.example");
    let path: (&[u8], &[u8]) = (b":path", b"/");
    let good = [method, scheme, authority, path];
    let mut cases: Vec<(String, Vec<u8>)> = Vec::new();
    for (name, value) in [
        (&b"X-Upper"[..], &b"a"[..]),
        (b"", b"a"),
        (b"a b", b"a"),
        (b"a:b", b"a"),
        (b"a\r\nb", b"a"),
        (b"a\0", b"a"),
        (b"a", b"b\r\nx: y"),
        (b"a", b"b\nc"),
        (b"a", b"b\0c"),
        (b"connection", b"close"),
        (b"proxy-connection", b"close"),
        (b"keep-alive", b"timeout=5"),
        (b"transfer-encoding", b"chunked"),
        (b"upgrade", b"h2c"),
        (b"te", b"gzip"),
        (b"content-length", b"5"),
        (b":path", b"/late"),
        (b":status", b"200"),
        (b":unknown", b"x"),
    ] {
        let name_text = String::from_utf8_lossy(name).into_owned();
        cases.push((name_text, block(&[&good[..], &[(name, value)]].concat())));
    }
    for missing in 0..4 {
        // Without an authority there is still Host, which is missing as well.
        let fields: Vec<_> =
            good.iter().enumerate().filter(|(n, _)| *n != missing).map(|(_, f)| *f).collect();
        cases.push((format!("without field {missing}"), block(&fields)));
    }
    for bad in [&b""[..], b"/a b", b"/a\r\nb", b"relative"] {
        cases.push((format!("path {bad:?}"), block(&[method, scheme, authority, (b":path", bad)])));
    }
    cases.push(("method twice".into(), block(&[method, method, scheme, authority, path])));
    cases.push(("late pseudo-header".into(), block(&[method, scheme, (b"a", b"b"), authority, path])));
    for (what, block) in cases {
        let mut client = Raw::connect(gateway.addr, &[]);
        client.send(frame(HEADERS, END_STREAM | END_HEADERS, 1, &block));
        let verdict = client.verdict(1);
        // A stream error, a connection error, or an answer of our own; nothing is forwarded in any case.
        assert!(!matches!(verdict, Verdict::Silence), "{what}: {verdict:?}");
        assert_eq!(backend.count(), 0, "{what}: {verdict:?}");
    }
    serves_others(&gateway);
    lets_go(&gateway);
}

#[test]
fn a_length_that_is_not_true_is_a_stream_error() {
    let backend = Backend::named("web");
    let gateway = before(&backend);
    for (announced, sent) in [("5", &b"abc"[..]), ("2", b"abc")] {
        let mut client = Raw::connect(gateway.addr, &[]);
        let head = request("POST", "/", &[("content-length", announced)]);
        client.send(frame(HEADERS, END_HEADERS, 1, &head));
        client.send(frame(DATA, END_STREAM, 1, sent));
        assert_eq!(client.verdict(1), Verdict::Reset(PROTOCOL_ERROR), "{announced}");
    }
    lets_go(&gateway);
    assert_eq!(backend.count(), 0, "no request was complete");
    serves_others(&gateway);
}

/// S20: a thousand streams that never get a byte of window.
#[test]
fn clients_without_window_hold_little_and_are_reset() {
    let _alone = alone();
    let body = vec![b'x'; 1 << 20];
    let backend = Backend::start(move |request, stream| {
        if request.target() == "/other" {
            return respond(stream, b"other");
        }
        let sent =
            stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes());
        match sent.and_then(|()| stream.write_all(&body)) {
            Ok(()) => Then::Keep,
            Err(_) => Then::Close,
        }
    });
    let mut config = config();
    config.timeouts.write_stall = Period::millis(1_500);
    let gateway = with(config, &backend);
    let mut clients: Vec<Raw> = (0..10).map(|_| Raw::connect(gateway.addr, &setting(4, 0))).collect();
    for client in &mut clients {
        for n in 0..100 {
            client.send(get(2 * n + 1, "/large"));
        }
    }
    until("all are under way", || gateway.sum(|stats| stats.http2_streams_open.get()) >= 900);
    serves_others(&gateway);
    until("what they hold was counted", || gateway.sum(|stats| stats.buffer_bytes.get()) > 0);
    let held = gateway.sum(|stats| stats.buffer_bytes.get());
    assert!(held <= 1_000 * 64 * 1024 + (4 << 20), "{held} bytes for a thousand streams");
    for client in &mut clients {
        let mut resets = 0;
        while resets < 100 {
            let frame = client.next().unwrap();
            resets += u32::from(frame.kind == RST_STREAM);
        }
    }
    lets_go(&gateway);
    assert!(gateway.hits(Limit::WriteStall) >= 1_000);
}

/// S20, of the whole connection: what we have to say is not taken.
#[test]
fn a_client_that_reads_nothing_is_closed() {
    let body = vec![b'x'; 64 << 10];
    let backend = Backend::start(move |_, stream| respond(stream, &body));
    let mut config = config();
    config.timeouts.write_stall = Period::millis(300);
    let gateway = with(config, &backend);
    // All the window there is, and nothing is read from the socket.
    let mut client = Raw::connect(gateway.addr, &setting(4, 0x7fff_ffff));
    client.send(window(0, 0x7fff_0000));
    let mut n = 0;
    let deadline = Instant::now() + support::PATIENCE;
    while gateway.hits(Limit::WriteStall) == 0 && Instant::now() < deadline {
        client.send(get(2 * n + 1, "/"));
        n += 1;
        support::pass(Duration::from_millis(2));
    }
    until("it is closed", || gateway.sum(|stats| stats.connections_open.get()) == 0);
    lets_go(&gateway);
    serves_others(&gateway);
}

/// S21, CVE-2023-44487.
#[test]
fn rapid_resets_close_the_connection_and_reach_few() {
    let backend = Backend::named("web");
    let gateway = before(&backend);
    let attack = Attack::begins();
    let mut client = Raw::connect(gateway.addr, &[]);
    let mut stream = 1;
    for _ in 0..100 {
        let burst: Vec<u8> =
            (0..100).flat_map(|n| [get(stream + 2 * n, "/"), reset(stream + 2 * n)].concat()).collect();
        stream += 200;
        if !client.send(&burst) {
            break;
        }
    }
    let ending = client.ending();
    assert!(matches!(ending, Verdict::GoAway(ENHANCE_YOUR_CALM) | Verdict::Closed), "{ending:?}");
    attack.is_over("rapid resets");
    lets_go(&gateway);
    assert!(calmed(&gateway) >= 1);
    assert!(backend.count() < 1_000, "{} of 10,000 requests", backend.count());
    serves_others(&gateway);
}

/// The same in no hurry: each request is looked at, and taken back before its answer.
#[test]
fn requests_that_are_taken_back_one_by_one_are_bounded_too() {
    let backend = Backend::raw(|peer| {
        if peer.head().is_some() {
            peer.drained();
        }
    });
    let mut config = config();
    config.http2.cancels_max = 10;
    let gateway = with(config, &backend);
    let mut client = Raw::connect(gateway.addr, &[]);
    for n in 0..1_000 {
        let stream = 2 * n + 1;
        if !client.send(get(stream, "/"))
            || !client.settle()
            || !client.send(reset(stream))
            || !client.settle()
        {
            break;
        }
        assert!(n < 100, "never closed");
    }
    until("it is counted", || gateway.hits(Limit::Http2Cancels) == 1);
    lets_go(&gateway);
}

/// S22, CVE-2025-8671: mistakes that make us reset our own streams.
#[test]
fn provoked_resets_close_the_connection() {
    let backend = Backend::named("web");
    let gateway = before(&backend);
    type Trigger = fn(u32) -> Vec<u8>;
    let triggers: [(&str, Trigger); 4] = [
        ("no increment", |stream| window(stream, 0)),
        ("a window too large", |stream| window(stream, 0x7fff_ffff)),
        ("data behind the end", |stream| frame(DATA, END_STREAM, stream, b"x")),
        ("headers behind the end", |stream| {
            frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(&[(b"a", b"b")]))
        }),
    ];
    for (what, trigger) in triggers {
        let before = backend.count();
        let attack = Attack::begins();
        let mut client = Raw::connect(gateway.addr, &[]);
        for round in 0..100 {
            let burst: Vec<u8> = (0..20)
                .flat_map(|n| {
                    let stream = 40 * round + 2 * n + 1;
                    [get(stream, "/"), trigger(stream)].concat()
                })
                .collect();
            if !client.send(&burst) {
                break;
            }
        }
        let ending = client.ending();
        assert!(
            matches!(ending, Verdict::GoAway(code) if code != 0) || ending == Verdict::Closed,
            "{what}: {ending:?}"
        );
        attack.is_over(what);
        lets_go(&gateway);
        assert!(backend.count() - before < 1_000, "{what}");
    }
    serves_others(&gateway);
}

/// S23.
#[test]
fn frames_that_carry_nothing_are_bounded() {
    let backend = Backend::named("web");
    let gateway = before(&backend);
    let post = frame(HEADERS, END_HEADERS, 1, &request("POST", "/", &[]));
    let open = frame(HEADERS, 0, 1, &request("GET", "/", &[]));
    let filler = block(&[(b"a", &[b'b'; 100])]);
    let floods: [(&str, &[u8], Vec<u8>); 7] = [
        ("continuations", &open, frame(CONTINUATION, 0, 1, &filler)),
        ("empty continuations", &open, frame(CONTINUATION, 0, 1, &[])),
        ("empty data", &post, frame(DATA, 0, 1, &[])),
        ("tiny data", &post, frame(DATA, 0, 1, b"x")),
        // Deprecated (RFC 9113 §5.3.2) and ignored.
        ("priorities", &[], frame(PRIORITY, 0, 3, &[0, 0, 0, 0, 16])),
        ("window updates", &post, window(0, 1)),
        ("frames of an unknown type", &[], frame(0xbe, 0, 0, b"grease")),
    ];
    for (what, first, flood) in floods {
        let attack = Attack::begins();
        let mut client = Raw::connect(gateway.addr, &[]);
        client.send(first);
        let burst = flood.repeat(100);
        for _ in 0..2_000 {
            if !client.send(&burst) {
                break;
            }
        }
        let ending = client.ending();
        assert!(ending != Verdict::Silence, "{what}: 200,000 frames were taken");
        attack.is_over(what);
        lets_go(&gateway);
    }
    serves_others(&gateway);
    assert!(gateway.hits(Limit::Http2Floods) >= 1);
    assert_eq!(gateway.hits(Limit::Http2Control), 3);
}

/// S24: answers that are asked for, read and not read. `timeouts.write_stall` is what it is: half a minute.
#[test]
fn pings_and_settings_are_bounded_whether_or_not_their_answers_are_read() {
    let backend = Backend::named("web");
    let gateway = before(&backend);
    let floods =
        [("pings", frame(PING, 0, 0, b"12345678")), ("settings", frame(SETTINGS, 0, 0, &setting(1, 4096)))];
    for (what, flood) in &floods {
        for reads in [true, false] {
            let attack = Attack::begins();
            let mut client = Raw::connect(gateway.addr, &[]);
            let mut other = client.again();
            let reader = std::thread::spawn(move || if reads { Some(other.ending()) } else { None });
            let burst = flood.repeat(1_000);
            let is_closed = (0..2_000).any(|_| !client.send(&burst));
            assert!(is_closed, "{what}: two million frames were taken");
            attack.is_over(what);
            if let Some(ending) = reader.join().unwrap() {
                assert!(
                    matches!(ending, Verdict::GoAway(ENHANCE_YOUR_CALM) | Verdict::Closed),
                    "{what}: {ending:?}"
                );
            }
            lets_go(&gateway);
        }
    }
    serves_others(&gateway);
    assert_eq!(gateway.hits(Limit::Http2Control), 4);
}

/// What honest clients do is far from that: some PINGs beside what they ask for.
#[test]
fn pings_beside_requests_and_now_and_then_are_answered() {
    let backend = Backend::named("web");
    let gateway = before(&backend);
    let mut client = Raw::connect(gateway.addr, &[]);
    for n in 0..2_000 {
        assert!(client.send(get(2 * n + 1, "/")), "request {n}");
        assert!(client.settle() && client.settle(), "request {n}");
    }
    // Keep-alives for hours: what a busy connection could send in the time of a test.
    for n in 0..500 {
        assert!(client.settle(), "PING {n}");
    }
    assert_eq!(gateway.hits(Limit::Http2Control), 0);
}

/// What a download's window is opened with is paid by the download, however small its pieces.
#[test]
fn a_window_for_every_piece_of_a_download_is_no_flood() {
    const PIECE: u32 = 100;
    const PIECES: u32 = 1_000;
    let body = vec![b'x'; (PIECE * PIECES) as usize];
    let backend = Backend::start(move |_, stream| respond(stream, &body));
    let mut config = config();
    config.http2.control_bytes_max = ByteSize::kib(4);
    let gateway = with(config, &backend);
    // SETTINGS_INITIAL_WINDOW_SIZE
    let mut client = Raw::connect(gateway.addr, &setting(4, 0));
    client.send(get(1, "/"));
    for piece in 0..PIECES {
        assert!(client.send([window(0, PIECE), window(1, PIECE)].concat()), "piece {piece}");
        loop {
            let frame = client.next().unwrap_or_else(|_| panic!("piece {piece} does not come"));
            assert!(frame.kind != GOAWAY, "piece {piece}");
            if frame.kind == DATA && !frame.payload.is_empty() {
                break;
            }
        }
    }
    assert_eq!(gateway.hits(Limit::Http2Control), 0);
}

/// Keep-alives of an idle connection: what it owes is forgiven with time.
#[test]
fn pings_now_and_then_are_forgiven() {
    let backend = Backend::named("web");
    let mut config = config();
    config.http2.control_bytes_max = ByteSize::kib(4);
    let gateway = with(config, &backend);
    let mut client = Raw::connect(gateway.addr, &[]);
    // 34 bytes each with its answer, of which 17 were sent: twice as much as may be owed, in two seconds.
    for round in 0..40 {
        for _ in 0..12 {
            assert!(client.settle(), "round {round}");
        }
        support::pass(Duration::from_millis(50));
    }
    assert_eq!(gateway.hits(Limit::Http2Control), 0);
}

/// S25.
#[test]
fn header_lists_are_bounded_while_they_are_decoded() {
    let backend = Backend::named("web");
    let gateway = before(&backend);
    // One large entry for the table, then ten thousand references of one byte each: 40 MB.
    let mut bomb = request("GET", "/", &[]);
    bomb.push(0x40);
    for text in [&b"a"[..], &[b'b'; 3_900]] {
        integer(&mut bomb, 7, 0, text.len());
        bomb.extend_from_slice(text);
    }
    bomb.extend(std::iter::repeat_n(0x80 | 62, 10_000));
    let crumbs = request("GET", "/", &vec![("cookie", "a=1"); 10_000]);
    let one = "x".repeat(33 * 1024);
    let large = request("GET", "/", &[("a", &one)]);
    for (what, block) in [("bomb", bomb), ("crumbs", crumbs), ("one large field", large)] {
        let attack = Attack::begins();
        let mut client = Raw::connect(gateway.addr, &[]);
        let mut parts = block.chunks(16_000).peekable();
        let mut kind = HEADERS;
        while let Some(part) = parts.next() {
            let last = if parts.peek().is_none() { END_HEADERS } else { 0 };
            let ends = if kind == HEADERS { END_STREAM } else { 0 };
            client.send(frame(kind, ends | last, 1, part));
            kind = CONTINUATION;
        }
        // 431, or the end of the connection.
        let verdict = client.verdict(1);
        assert!(verdict != Verdict::Silence, "{what}");
        assert_eq!(backend.count(), 0, "{what}: {verdict:?}");
        attack.is_over(what);
    }
    // The size of the table may change twice in a block, and not beyond what we allow (RFC 7541 §4.2).
    let mut churn = vec![0x20; 1_000];
    churn.extend(request("GET", "/", &[]));
    let mut client = Raw::connect(gateway.addr, &[]);
    client.send(frame(HEADERS, END_STREAM | END_HEADERS, 1, &churn));
    assert!(client.verdict(1) != Verdict::Silence);
    let mut grown = Vec::new();
    integer(&mut grown, 5, 0x20, 1 << 20);
    grown.extend(request("GET", "/", &[]));
    let mut client = Raw::connect(gateway.addr, &[]);
    client.send(frame(HEADERS, END_STREAM | END_HEADERS, 1, &grown));
    assert!(matches!(client.verdict(1), Verdict::GoAway(COMPRESSION_ERROR | PROTOCOL_ERROR)));
}

/// S26 and RFC 9113 §5.1, §6: what ends a connection.
#[test]
fn broken_framing_ends_the_connection() {
    let backend = Backend::named("web");
    let gateway = before(&backend);
    let cases: Vec<(&str, Vec<u8>, u32)> = vec![
        ("an even stream", get(2, "/"), PROTOCOL_ERROR),
        ("a stream number that went back", [get(5, "/"), get(3, "/")].concat(), PROTOCOL_ERROR),
        ("data on an idle stream", frame(DATA, END_STREAM, 9, b"x"), PROTOCOL_ERROR),
        ("a reset of an idle stream", reset(9), PROTOCOL_ERROR),
        ("a window for an idle stream", window(9, 1), PROTOCOL_ERROR),
        ("no window for the connection", window(0, 0), PROTOCOL_ERROR),
        ("a window too large", window(0, 0x7fff_ffff), FLOW_CONTROL_ERROR),
        ("headers on stream 0", frame(HEADERS, 5, 0, &request("GET", "/", &[])), PROTOCOL_ERROR),
        ("data on stream 0", frame(DATA, 0, 0, b"x"), PROTOCOL_ERROR),
        ("settings on a stream", frame(SETTINGS, 0, 1, &[]), PROTOCOL_ERROR),
        ("settings of an odd length", frame(SETTINGS, 0, 0, &[0; 5]), FRAME_SIZE_ERROR),
        ("an answer to settings with content", frame(SETTINGS, ACK, 0, &setting(1, 1)), FRAME_SIZE_ERROR),
        ("a window size too large", frame(SETTINGS, 0, 0, &setting(4, 1 << 31)), FLOW_CONTROL_ERROR),
        ("a frame size too small", frame(SETTINGS, 0, 0, &setting(5, 1)), PROTOCOL_ERROR),
        ("push that is neither on nor off", frame(SETTINGS, 0, 0, &setting(2, 2)), PROTOCOL_ERROR),
        ("a ping of seven bytes", frame(PING, 0, 0, &[0; 7]), FRAME_SIZE_ERROR),
        ("a ping on a stream", frame(PING, 0, 1, &[0; 8]), PROTOCOL_ERROR),
        ("a continuation of nothing", frame(CONTINUATION, 4, 1, &[]), PROTOCOL_ERROR),
        ("a push", frame(PUSH_PROMISE, 4, 1, &[0, 0, 0, 2]), PROTOCOL_ERROR),
        ("a frame too large", frame(DATA, 0, 1, &vec![0; 16_385]), FRAME_SIZE_ERROR),
        ("a block that does not decode", frame(HEADERS, 5, 1, &[0xff; 8]), COMPRESSION_ERROR),
        (
            "something between headers",
            [frame(HEADERS, 1, 1, &request("GET", "/", &[])), frame(PING, 0, 0, &[0; 8])].concat(),
            PROTOCOL_ERROR,
        ),
        ("padding beyond the frame", frame(HEADERS, 5 | 8, 1, &[200, 0]), PROTOCOL_ERROR),
    ];
    for (what, bytes, code) in cases {
        let mut client = Raw::connect(gateway.addr, &[]);
        client.send(bytes);
        let ending = client.ending();
        // PROTOCOL_ERROR says less and is not wrong (RFC 9113 §5.4).
        let wanted = [Verdict::GoAway(code), Verdict::GoAway(PROTOCOL_ERROR), Verdict::Closed];
        assert!(wanted.contains(&ending), "{what}: {ending:?}, not {code}");
    }
    let mut client = Raw::bare(gateway.addr);
    client.send(&PREFACE[..20]);
    client.send("garbage that is no preface at all");
    assert!(matches!(client.ending(), Verdict::Closed | Verdict::GoAway(_)));
    // The last number there is: the stream is served, and none can follow it.
    let mut client = Raw::connect(gateway.addr, &[]);
    client.send(get(0x7fff_ffff, "/last"));
    assert_eq!(client.verdict(0x7fff_ffff), Verdict::Answered);
    client.send(get(1, "/"));
    assert!(matches!(client.ending(), Verdict::GoAway(_) | Verdict::Closed));
    serves_others(&gateway);
    lets_go(&gateway);
}

/// More at once than is allowed is refused with a code that says that nothing was done.
#[test]
fn streams_beyond_the_bound_are_refused() {
    let backend = Backend::raw(|peer| {
        if peer.head().is_some() {
            peer.drained();
        }
    });
    let mut config = config();
    config.http2.streams_max = 5;
    let gateway = with(config, &backend);
    let mut client = Raw::connect(gateway.addr, &[]);
    // Until the client knows the bound it is not held to it.
    client.send(frame(SETTINGS, ACK, 0, &[]));
    assert!(client.settle());
    (0..6).for_each(|n| assert!(client.send(get(2 * n + 1, "/"))));
    assert_eq!(client.verdict(11), Verdict::Reset(7));
    assert!(gateway.hits(Limit::Http2Streams) >= 1);
    drop(client);
    lets_go(&gateway);
}

/// A client that says nothing behind its preface, or not even all of that.
#[test]
fn a_preface_that_does_not_end_is_closed_in_time() {
    let backend = Backend::named("web");
    let mut config = config();
    config.timeouts.header = Period::millis(200);
    let gateway = with(config, &backend);
    let mut client = Raw::bare(gateway.addr);
    client.send(&PREFACE[..18]);
    assert!(matches!(client.ending(), Verdict::Closed | Verdict::GoAway(_)));
    assert!(gateway.hits(Limit::HeaderTimeout) >= 1);
}

/// S26: HTTP/2 where TLS agreed on HTTP/1.1.
#[test]
fn a_preface_where_http_1_was_agreed_on_is_refused() {
    let ca = support::tls::Ca::new();
    let backend = Backend::named("web");
    let ingress = "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: web}\nspec:\n  rules:\n  \
        - {host: shop.example, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}\n  \
        tls: [{hosts: [shop.example], secretName: shop}]\n";
    let fleet = support::fleet::Fleet::start(
        config(),
        &[
            ("fleet/a.yaml", ingress),
            ("fleet/s.yaml", &ca.leaf(&["shop.example"]).secret("shop")),
            ("clusters/alpha/web.yaml", &support::fleet::service(&[backend.addr])),
        ],
    );
    let mut client = support::tls::connect(fleet.tls, "shop.example", &Arc::new(ca.trust())).unwrap();
    client.send(PREFACE);
    let (status, _, _) = client.response().unwrap();
    assert_eq!(status, 505);
    assert_eq!(backend.count(), 0);
}
