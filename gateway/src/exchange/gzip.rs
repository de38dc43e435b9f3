//! Compressing responses on their way to the client: which ones, and piece by piece as they come.
//!
//! What is compressed by default is what ingress-nginx compresses: texts of at least [`MIN_BYTES`], for a client that
//! asks for it (RFC 9110 §12.5.3). What is coded already, part of a whole, or not to be transformed passes as it is.
//! Every piece leaves as soon as it came (a flush after each), so that a stream of events stays one. A stream costs
//! about 270 KiB while it lasts; `limits.gzip_streams_max` of one worker last at once, further ones pass as they are.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use flate2::{Compress, Compression, FlushCompress, Status};
use wire::head::{BodyLength, RequestView, ResponseView, Version};

use super::relay::{BODY_HEADROOM, PumpError};
use crate::net::{Buf, Class, acquire};
use crate::sys::buf::TAIL_RESERVE;

/// A body that is known to be shorter is not worth it (ingress-nginx: `gzip-min-length`).
pub(super) const MIN_BYTES: u64 = 256;
/// ingress-nginx's `gzip-level`: a worker has other requests to serve.
const LEVEL: Compression = Compression::new(1);
/// 32 KiB, the most that gzip knows.
const WINDOW_BITS: u8 = 15;
/// States that are kept for the next streams.
const SPARE_MAX: usize = 4;

/// Types that are compressed, beside all of `text/*`: ingress-nginx's `gzip-types`.
const TYPES: [&str; 14] = [
    "application/atom+xml",
    "application/javascript",
    "application/x-javascript",
    "application/json",
    "application/rss+xml",
    "application/vnd.ms-fontobject",
    "application/x-font-ttf",
    "application/x-web-app-manifest+json",
    "application/xhtml+xml",
    "application/xml",
    "font/opentype",
    "image/svg+xml",
    "image/x-icon",
    "application/wasm",
];

/// Fields that vouch for the bytes as they are (RFC 9530, RFC 1864).
const DIGESTS: [&[u8]; 4] = [b"content-digest", b"repr-digest", b"digest", b"content-md5"];

/// What becomes of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    /// It is none of our business.
    Untouched,
    /// Another client might get it compressed: caches are told so.
    Varies,
    /// It is compressed.
    Gzip,
}

/// Decides, without a look at how many streams there are.
pub(super) fn coding(request: &RequestView<'_>, response: &ResponseView<'_>) -> Coding {
    let head = response.head;
    let length = match head.body {
        // No body: HEAD, 204, 304.
        BodyLength::None => return Coding::Untouched,
        BodyLength::Exact(length) => length,
        BodyLength::Chunked | BodyLength::UntilClose => u64::MAX,
    };
    let is = |name: &[u8]| response.header(name);
    if head.status == 206
        || head.status < 200
        || length < MIN_BYTES
        || is(b"content-range").is_some()
        || is(b"content-encoding").is_some_and(|coding| !coding.eq_ignore_ascii_case(b"identity"))
        || DIGESTS.iter().any(|name| is(name).is_some())
        || values(response, b"cache-control").any(|value| has_word(value, b"no-transform"))
        || !is(b"content-type").is_some_and(is_listed)
    {
        return Coding::Untouched;
    }
    // HTTP/1.0 has no chunks, and its caches know no Vary.
    if request.head.version != Version::Http10 && accepts(request) { Coding::Gzip } else { Coding::Varies }
}

fn values<'a>(response: &'a ResponseView<'a>, name: &'static [u8]) -> impl Iterator<Item = &'a [u8]> {
    let fields = response.head.headers.iter();
    let named = fields.filter(move |field| field.name.of(response.bytes).eq_ignore_ascii_case(name));
    named.map(|field| field.value.of(response.bytes))
}

fn has_word(value: &[u8], word: &[u8]) -> bool {
    value.split(|b| *b == b',').any(|part| part.trim_ascii().eq_ignore_ascii_case(word))
}

fn is_listed(content_type: &[u8]) -> bool {
    let kind = content_type.split(|b| *b == b';').next().unwrap_or_default().trim_ascii();
    let is_text = kind.get(..5).is_some_and(|start| start.eq_ignore_ascii_case(b"text/"));
    is_text || TYPES.iter().any(|listed| listed.as_bytes().eq_ignore_ascii_case(kind))
}

/// Does the client take gzip, and not rather the plain form? `x-gzip` is gzip (RFC 9110 §8.4.1.3).
fn accepts(request: &RequestView<'_>) -> bool {
    let (mut gzip, mut any, mut identity) = (None, None, None);
    let named = |name: &[u8]| name.eq_ignore_ascii_case(b"accept-encoding");
    let lines = request.head.headers.iter().filter(|field| named(field.name.of(request.bytes)));
    for part in lines.flat_map(|line| line.value.of(request.bytes).split(|b| *b == b',')) {
        let mut words = part.split(|b| *b == b';').map(<[u8]>::trim_ascii);
        let coding = words.next().unwrap_or_default();
        let Some(weight) = words.next().map_or(Some(1000), weight) else { continue };
        if coding.eq_ignore_ascii_case(b"gzip") || coding.eq_ignore_ascii_case(b"x-gzip") {
            gzip = Some(weight);
        } else if coding == b"*" {
            any = Some(weight);
        } else if coding.eq_ignore_ascii_case(b"identity") {
            identity = Some(weight);
        }
    }
    let gzip = gzip.or(any).unwrap_or(0);
    gzip > 0 && gzip >= identity.unwrap_or(0)
}

/// `q=0.5`, in thousandths (RFC 9110 §12.4.2); `None` when it is none.
fn weight(text: &[u8]) -> Option<u32> {
    let digits = text.strip_prefix(b"q=").or_else(|| text.strip_prefix(b"Q="))?;
    let (whole, rest) = digits.split_first()?;
    let rest = match rest {
        [] => rest,
        [b'.', rest @ ..] if rest.len() <= 3 => rest,
        _ => return None,
    };
    let mut thousandths = 0;
    for place in 0..3 {
        let digit = rest.get(place).copied().unwrap_or(b'0');
        thousandths = thousandths * 10 + u32::from(digit.is_ascii_digit().then(|| digit - b'0')?);
    }
    match (whole, thousandths) {
        (b'0', part) => Some(part),
        (b'1', 0) => Some(1000),
        _ => None,
    }
}

/// A strong validator vouches for every byte, and they change (RFC 9110 §8.8.3.3): `W/` before it. `None` = it is weak
/// already, or there is none.
pub(super) fn weak_etag(response: &ResponseView<'_>) -> Option<Vec<u8>> {
    let tag = response.header(b"etag").filter(|tag| tag.starts_with(b"\""))?;
    Some([b"W/", tag].concat())
}

// ---------------------------------------------------------------- streams

/// A worker's streams.
#[derive(Default)]
pub struct Streams {
    open: Cell<u32>,
    spare: RefCell<Vec<Compress>>,
}

impl Streams {
    /// Another stream, if there are fewer than `max`.
    pub(super) fn open(self: &Rc<Self>, max: u32) -> Option<Box<Gzip>> {
        if self.open.get() >= max {
            return None;
        }
        self.open.set(self.open.get() + 1);
        let spare = self.spare.borrow_mut().pop();
        let state = spare.unwrap_or_else(|| Compress::new_gzip(LEVEL, WINDOW_BITS));
        Some(Box::new(Gzip { state: Some(state), home: Rc::clone(self) }))
    }
}

/// One stream.
pub(super) struct Gzip {
    /// There until it is dropped.
    state: Option<Compress>,
    home: Rc<Streams>,
}

impl Drop for Gzip {
    fn drop(&mut self) {
        self.home.open.set(self.home.open.get() - 1);
        let mut spare = self.home.spare.borrow_mut();
        if let Some(mut state) = self.state.take()
            && spare.len() < SPARE_MAX
        {
            state.reset();
            spare.push(state);
        }
    }
}

/// Is there more to come?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// What came so far must reach the client.
    More,
    /// The end.
    Last,
}

impl Gzip {
    /// Compresses one piece; hands each full buffer, and what is left in the last one, to `out`.
    ///
    /// # Errors
    /// [`PumpError::Buffers`] when no buffer memory is left.
    pub(super) fn push(
        &mut self,
        mut input: &[u8],
        piece: Piece,
        mut out: impl FnMut(Buf),
    ) -> Result<(), PumpError> {
        let Some(state) = &mut self.state else { return Ok(()) };
        let flush = match piece {
            Piece::More => FlushCompress::Sync,
            Piece::Last => FlushCompress::Finish,
        };
        let class = if input.len() < Class::Small.bytes() / 2 { Class::Small } else { Class::Bulk };
        loop {
            // Where memory is short a small one will do, again and again.
            let buf = acquire(class, BODY_HEADROOM).or_else(|| acquire(Class::Head, BODY_HEADROOM));
            let mut buf = buf.ok_or(PumpError::Buffers)?;
            let room = buf.readroom();
            debug_assert!(buf.tailroom() - room == TAIL_RESERVE, "the framing has its place");
            let (taken, made) = (state.total_in(), state.total_out());
            // Cannot fail: the state is one of compressing, and its buffers are given.
            let status =
                state.compress(input, &mut buf.tail_mut()[..room], flush).map_err(|_| PumpError::Buffers)?;
            #[allow(clippy::cast_possible_truncation, reason = "no more than the two slices hold")]
            let (taken, made) = ((state.total_in() - taken) as usize, (state.total_out() - made) as usize);
            input = &input[taken..];
            buf.grow(made);
            let is_over = match status {
                Status::StreamEnd => true,
                Status::Ok | Status::BufError => piece == Piece::More && input.is_empty() && made < room,
            };
            if made > 0 {
                out(buf);
            }
            if is_over {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;
    use wire::h1::decode;
    use wire::h1::limits::HeadLimits;
    use wire::head::{Method, RequestHead, ResponseHead};

    use super::*;

    fn judged(request: &str, response: &str) -> Coding {
        let (request, response) = (request.replace('\n', "\r\n"), response.replace('\n', "\r\n"));
        let (mut asked, mut head) = (RequestHead::default(), ResponseHead::default());
        decode::request(request.as_bytes(), &HeadLimits::default(), &mut asked).unwrap();
        let method = if request.starts_with("HEAD") { Method::Head } else { Method::Get };
        decode::response(response.as_bytes(), &HeadLimits::default(), method, &mut head).unwrap();
        let asked = RequestView { head: &asked, bytes: request.as_bytes() };
        coding(&asked, &ResponseView { head: &head, bytes: response.as_bytes() })
    }

    #[test]
    fn what_the_client_says_of_codings_decides() {
        let response = "HTTP/1.1 200 OK\nContent-Type: text/html; charset=utf-8\nContent-Length: 1000\n\n";
        for (accept, expected) in [
            ("gzip", true),
            ("GZIP;q=0.001", true),
            ("x-gzip", true),
            ("deflate, gzip;q=1.0, *;q=0.5", true),
            ("*", true),
            ("br, *;q=0.1", true),
            ("gzip;q=0", false),
            ("gzip;q=0, *", false),
            ("gzip;q=0.000", false),
            ("*;q=0", false),
            ("identity", false),
            ("identity;q=1, gzip;q=0.5", false),
            ("identity;q=0.5, gzip;q=0.5", true),
            ("br", false),
            ("", false),
            ("gzip;q=2", false),
            ("gzip;q=0.5555", false),
            ("gzip;q=x", false),
        ] {
            let request = format!("GET / HTTP/1.1\nHost: a\nAccept-Encoding: {accept}\n\n");
            let wanted = if expected { Coding::Gzip } else { Coding::Varies };
            assert_eq!(judged(&request, response), wanted, "{accept}");
        }
        let lines = "GET / HTTP/1.1\nHost: a\nAccept-Encoding: br\nAccept-Encoding: gzip\n\n";
        assert_eq!(judged(lines, response), Coding::Gzip);
        assert_eq!(judged("GET / HTTP/1.1\nHost: a\n\n", response), Coding::Varies);
        let old = "GET / HTTP/1.0\nHost: a\nAccept-Encoding: gzip\n\n";
        assert_eq!(judged(old, response), Coding::Varies);
    }

    #[test]
    fn what_must_stay_as_it_is_does() {
        let request = "GET / HTTP/1.1\nHost: a\nAccept-Encoding: gzip\n\n";
        let text = "Content-Type: text/plain\n";
        for (head, expected) in [
            ("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nContent-Type: application/json\n\n", Coding::Gzip),
            ("HTTP/1.1 404 No\nTransfer-Encoding: chunked\nContent-Type: TEXT/css\n\n", Coding::Gzip),
            ("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nContent-Type: image/png\n\n", Coding::Untouched),
            ("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n", Coding::Untouched),
        ] {
            assert_eq!(judged(request, head), expected, "{head}");
        }
        for (status, more) in [
            ("200 OK", "Content-Length: 255"),
            ("206 Part", "Content-Length: 1000\nContent-Range: bytes 0-999/2000"),
            ("200 OK", "Content-Length: 1000\nContent-Range: bytes 0-999/2000"),
            ("200 OK", "Content-Length: 1000\nContent-Encoding: br"),
            ("200 OK", "Content-Length: 1000\nCache-Control: max-age=1, No-Transform"),
            ("200 OK", "Content-Length: 1000\nContent-Digest: sha-256=:x:"),
            ("204 No", "X: y"),
            ("304 No", "Content-Length: 1000"),
        ] {
            let head = format!("HTTP/1.1 {status}\n{text}{more}\n\n");
            assert_eq!(judged(request, &head), Coding::Untouched, "{head}");
        }
        let head = format!("HTTP/1.1 200 OK\n{text}Content-Length: 1000\n\n");
        assert_eq!(judged(&request.replace("GET", "HEAD"), &head), Coding::Untouched);
    }

    /// Whatever the pieces: the bytes come out as they went in, and what was pushed can be read at once.
    #[test]
    fn pieces_come_out_as_they_went_in_and_at_once() {
        let streams = Rc::new(Streams::default());
        let noise: Vec<u8> =
            (0..300_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[2]).collect();
        let text = b"all work and no play ".repeat(10_000);
        for body in [&noise[..], &text[..], b"", b"x"] {
            for size in [1, 1_000, 100_000, 1 << 20] {
                let size = size.max(body.len() / 2_000);
                let mut gzip = streams.open(1).unwrap();
                let mut coded = Vec::new();
                for piece in body.chunks(size) {
                    gzip.push(piece, Piece::More, |buf| coded.extend_from_slice(buf.bytes())).unwrap();
                    let mut seen = vec![0; piece.len()];
                    if coded.len() < 200_000 {
                        let sent = body.len().min(size);
                        let mut first = vec![0; sent];
                        GzDecoder::new(&coded[..]).read_exact(&mut first).unwrap();
                        seen.copy_from_slice(piece);
                        assert_eq!(first, body[..sent]);
                    }
                }
                gzip.push(&[], Piece::Last, |buf| coded.extend_from_slice(buf.bytes())).unwrap();
                let mut decoded = Vec::new();
                GzDecoder::new(&coded[..]).read_to_end(&mut decoded).unwrap();
                assert_eq!(decoded, body, "{size}");
                assert!(body.len() < 1_000 || size < 1_000 || body != text || coded.len() < text.len() / 5);
            }
        }
        let held = streams.open(1);
        assert!(held.is_some() && streams.open(1).is_none(), "bounded");
    }

    #[test]
    fn where_memory_is_short_small_buffers_will_do() {
        let streams = Rc::new(Streams::default());
        let noise: Vec<u8> =
            (0..100_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[2]).collect();
        crate::sys::buf::set_bytes_max(Class::Small.bytes());
        let (mut gzip, mut coded) = (streams.open(1).unwrap(), Vec::new());
        let pushed = gzip.push(&noise, Piece::Last, |buf| coded.extend_from_slice(buf.bytes()));
        crate::sys::buf::set_bytes_max(usize::MAX);
        assert_eq!(pushed, Ok(()));
        let mut decoded = Vec::new();
        GzDecoder::new(&coded[..]).read_to_end(&mut decoded).unwrap();
        assert!(decoded == noise);
    }
}
