//! Laws of the HTTP/1 codec, and of what is read of QUIC, on bytes that nobody thought of.

use proptest::prelude::*;
use wire::authority::canonical;
use wire::body::{BodyDecoder, TrailerPolicy};
use wire::error::WireError;
use wire::h1::decode::{self, Decoded};
use wire::h1::encode::{self, RequestEdit, ResponseEdit};
use wire::h1::forwarded::{ForwardedFields, PeerTrust};
use wire::h1::limits::HeadLimits;
use wire::head::{BodyLength, Method, RequestHead, RequestView, ResponseHead, ResponseView};
use wire::path::{EncodedSlashes, PathPolicy, RepeatedSlashes, normalise};
use wire::quic::{self, CONNECTION_ID_BYTES_MAX, ConnectionId, Header};

proptest! {
    #[test]
    fn a_request_is_read_alike_however_it_arrives(bytes in prop_oneof![requests(), mangled(requests())]) {
        let limits = HeadLimits::default();
        let whole = read_request(&bytes, &limits);
        for end in 0..bytes.len() {
            match read_request(&bytes[..end], &limits) {
                // A complete head stays what it is, whatever follows it.
                Ok(Some(head)) => prop_assert_eq!(Ok(Some(head)), whole.clone(), "at {}", end),
                Ok(None) => {}
                Err(error) => prop_assert!(whole.is_err(), "{error} at {end}, {whole:?}"),
            }
        }
        if let Ok(Some(head)) = whole {
            let skip = if bytes.starts_with(b"\r\n") { 2 } else { 0 };
            let end = bytes[skip..].windows(4).position(|window| window == b"\r\n\r\n").unwrap();
            let wanted = format!("head_len: {} ", skip + end + 4);
            prop_assert!(head.contains(&wanted), "{wanted} {head}");
        }
    }

    #[test]
    fn a_response_is_read_alike_however_it_arrives(bytes in prop_oneof![responses(), mangled(responses())]) {
        let limits = HeadLimits::default();
        let whole = read_response(&bytes, &limits);
        for end in 0..bytes.len() {
            match read_response(&bytes[..end], &limits) {
                Ok(Some(head)) => prop_assert_eq!(Ok(Some(head)), whole.clone(), "at {}", end),
                Ok(None) => {}
                Err(error) => prop_assert!(whole.is_err(), "{error} at {end}, {whole:?}"),
            }
        }
    }

    #[test]
    fn limits_are_kept_however_small_and_however_it_arrives(
        bytes in requests(), head in 0..200_usize, line in 0..40_usize, count in 0..6_usize, uri in 0..20_usize,
    ) {
        let limits = HeadLimits {
            head_bytes_max: head, header_line_bytes_max: line, headers_max: count, uri_bytes_max: uri, ..HeadLimits::default()
        };
        let whole = read_request(&bytes, &limits);
        prop_assert!(!matches!(whole, Ok(None)), "all of it is here: {whole:?}");
        for end in 0..bytes.len() {
            match read_request(&bytes[..end], &limits) {
                Ok(None) => prop_assert!(end < head, "a full buffer is an answer"),
                Ok(Some(head)) => prop_assert_eq!(Ok(Some(head)), whole.clone()),
                Err(_) => prop_assert!(whole.is_err()),
            }
        }
    }

    #[test]
    fn what_is_sent_on_means_what_was_received(bytes in requests()) {
        let mut head = RequestHead::default();
        let limits = HeadLimits::default();
        if decode::request(&bytes, &limits, &mut head) != Ok(Decoded::Complete) {
            return Ok(());
        }
        let view = RequestView { head: &head, bytes: &bytes };
        let forwarded = ForwardedFields { trust: PeerTrust::Trusted, ..ForwardedFields::default() };
        let edit: RequestEdit<'_, &str> = RequestEdit {
            // HTTP/1.0 may name no host; the caller then names the endpoint.
            authority: head.host.is_empty().then_some(b"pod"),
            body: head.body,
            forwarded,
            ..RequestEdit::default()
        };
        let mut sent = Vec::new();
        encode::request(&mut sent, &view, &edit);
        let mut again = RequestHead::default();
        prop_assert_eq!(decode::request(&sent, &limits, &mut again), Ok(Decoded::Complete));
        let next = RequestView { head: &again, bytes: &sent };
        prop_assert_eq!(again.head_len, sent.len());
        prop_assert_eq!(next.method_name(), view.method_name());
        prop_assert_eq!(next.path(), view.path());
        prop_assert_eq!(next.query(), view.query());
        let host = if head.host.is_empty() { b"pod" } else { view.host() };
        prop_assert_eq!((next.host(), again.port), (host, head.port));
        let same_body = again.body == head.body || (head.body.is_empty() && again.body.is_empty());
        prop_assert!(same_body, "{:?} {:?}", again.body, head.body);
        prop_assert_eq!(request_fields(next), request_fields(view));
    }

    #[test]
    fn a_response_sent_on_means_what_was_received(bytes in responses()) {
        let mut head = ResponseHead::default();
        let limits = HeadLimits::default();
        if decode::response(&bytes, &limits, Method::Get, &mut head) != Ok(Decoded::Complete) {
            return Ok(());
        }
        let view = ResponseView { head: &head, bytes: &bytes };
        let upgrade = head.upgrade.map(|span| span.of(&bytes));
        let edit: ResponseEdit<'_, &str> = ResponseEdit { body: head.body, upgrade, ..ResponseEdit::default() };
        let mut sent = Vec::new();
        encode::response(&mut sent, &view, &edit);
        let mut again = ResponseHead::default();
        prop_assert_eq!(decode::response(&sent, &limits, Method::Get, &mut again), Ok(Decoded::Complete));
        prop_assert_eq!((again.head_len, again.status, again.body), (sent.len(), head.status, head.body));
        let next = ResponseView { head: &again, bytes: &sent };
        prop_assert_eq!(response_fields(next), response_fields(view));
    }

    /// A path's normal form is never longer, holds no dot segment, and is its own normal form.
    #[test]
    fn a_path_is_normalised_once_and_for_all(
        parts in proptest::collection::vec(proptest::sample::select(PATH_PARTS.to_vec()), 0..8),
        slashes in proptest::sample::select(vec![
            EncodedSlashes::Keep, EncodedSlashes::Decode, EncodedSlashes::Refuse,
        ]),
        repeated in proptest::sample::select(vec![RepeatedSlashes::Keep, RepeatedSlashes::Merge]),
    ) {
        let policy = PathPolicy { encoded_slashes: slashes, repeated_slashes: repeated };
        let path = format!("/{}", parts.concat());
        let (mut once, mut twice) = (Vec::new(), Vec::new());
        if normalise(path.as_bytes(), policy, &mut once).is_ok() {
            prop_assert!(once.starts_with(b"/") && once.len() <= path.len());
            prop_assert!(once.split(|byte| *byte == b'/').all(|segment| segment != b"." && segment != b".."));
            prop_assert_eq!(normalise(&once, policy, &mut twice), Ok(()));
            prop_assert_eq!(once, twice);
        }
    }

    /// A host's canonical form is its own canonical form.
    #[test]
    fn a_host_is_canonical_once_and_for_all(
        parts in proptest::collection::vec(proptest::sample::select(HOST_PARTS.to_vec()), 0..6),
    ) {
        let (mut once, mut twice) = (Vec::new(), Vec::new());
        if canonical(parts.concat().as_bytes(), &mut once).is_ok() {
            prop_assert!(once.iter().all(|byte| !byte.is_ascii_uppercase() && byte.is_ascii_graphic()));
            prop_assert_eq!(canonical(&once, &mut twice), Ok(None));
            prop_assert_eq!(once, twice);
        }
    }

    #[test]
    fn the_ids_of_a_quic_handshake_are_read_back_and_nothing_that_is_cut_is_read(
        first in 0x80..=0xff_u8, version in any::<u32>(), destination in id(0..24), source in id(0..24), rest in id(0..1_300),
    ) {
        let sized = |id: &[u8]| [&[u8::try_from(id.len()).unwrap()][..], id].concat();
        let ids = [&[first][..], &version.to_be_bytes(), &sized(&destination), &sized(&source)].concat();
        let whole = [&ids[..], &rest].concat();
        let wanted = ConnectionId::new(&destination).zip(ConnectionId::new(&source)).map(|(destination, source)| {
            Header::Long { version, destination, source }
        });
        prop_assert_eq!(wanted.is_some(), destination.len().max(source.len()) <= CONNECTION_ID_BYTES_MAX);
        prop_assert_eq!(quic::header(&whole), wanted);
        for end in 0..ids.len() {
            prop_assert_eq!(quic::header(&whole[..end]), None, "at {}", end);
        }
        let opens = wanted.is_some() && version != 0 && whole.len() >= 1_200 && destination.len() >= 8;
        prop_assert_eq!(quic::opens_connection(&whole), opens);
    }

    #[test]
    fn random_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let limits = HeadLimits::default();
        let _ = read_request(&bytes, &limits);
        let _ = read_response(&bytes, &limits);
        let mut body = BodyDecoder::new(BodyLength::Chunked, TrailerPolicy::Forward);
        let before = bytes.len();
        if let Ok(step) = body.step(&mut bytes) {
            prop_assert!(step.data <= step.consumed && step.consumed <= before);
        }
    }
}

const PATH_PARTS: [&str; 18] = [
    "a", "/", "/", ".", "..", "/../", "/./", "%2e", "%2E%2e", "%2f", "%5c", "%00", "%c0%ae", "%zz", "%", ";",
    "\\", "%41",
];
const HOST_PARTS: [&str; 16] = [
    "a", "Shop", ".", "..", "-", "_", ":80", ":", "@", "[::1]", "[", "]", "1.2.3.4", "%41", "\0", ".example",
];

type Read = Result<Option<String>, WireError>;

fn read_request(bytes: &[u8], limits: &HeadLimits) -> Read {
    let mut head = RequestHead::default();
    let decoded = decode::request(bytes, limits, &mut head)?;
    Ok((decoded == Decoded::Complete).then(|| format!("{head:?}")))
}

fn read_response(bytes: &[u8], limits: &HeadLimits) -> Read {
    let mut head = ResponseHead::default();
    let decoded = decode::response(bytes, limits, Method::Get, &mut head)?;
    Ok((decoded == Decoded::Complete).then(|| format!("{head:?}")))
}

type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// The fields that travel, in order, without Host, which is checked by itself.
fn request_fields(view: RequestView<'_>) -> Fields {
    let fields = view.head.headers.iter().filter(|field| !field.hop_by_hop);
    let fields =
        fields.map(|field| (field.name.of(view.bytes).to_vec(), field.value.of(view.bytes).to_vec()));
    fields.filter(|(name, _)| !name.eq_ignore_ascii_case(b"host")).collect()
}

fn response_fields(view: ResponseView<'_>) -> Fields {
    let fields = view.head.headers.iter().filter(|field| !field.hop_by_hop);
    fields.map(|field| (field.name.of(view.bytes).to_vec(), field.value.of(view.bytes).to_vec())).collect()
}

fn id(len: std::ops::Range<usize>) -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), len)
}

fn requests() -> impl Strategy<Value = Vec<u8>> {
    let lines = [
        "GET / HTTP/1.1",
        "POST /a/b?c=d HTTP/1.1",
        "HEAD /%2e%2e/x HTTP/1.1",
        "GET http://a/b HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "PUT //x HTTP/1.0",
        "PATCH /./a?? HTTP/1.1",
        "PURGE / HTTP/1.1",
        "GET  / HTTP/1.1",
        "\r\nGET /x HTTP/1.1",
        "GET / HTTP/1.2",
    ];
    let fields = [
        "Host: a",
        "Host: A.:80",
        "Accept: */*",
        "X-Empty:",
        "x-tab:\ta\t",
        "Cookie: a=b; c=d",
        "Connection: close",
        "TE: trailers",
        "Connection: x-empty, keep-alive",
        "Content-Length: 5",
        "Content-Length: 0",
        "Transfer-Encoding: chunked",
        "X_Y: z",
        "Expect: 100-continue",
        "X-Forwarded-For: 1.2.3.4",
        "Upgrade: websocket",
        "Connection: upgrade",
        "X-Long: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    ];
    heads(lines.to_vec(), fields.to_vec(), "Host: a")
}

fn responses() -> impl Strategy<Value = Vec<u8>> {
    let lines = [
        "HTTP/1.1 200 OK",
        "HTTP/1.0 404 Not Found",
        "HTTP/1.1 304 ",
        "HTTP/1.1 204",
        "HTTP/1.1 100 Continue",
        "HTTP/1.1 101 x",
        "HTTP/1.1 999 \u{e9}",
        "HTTP/1.1 42 x",
    ];
    let fields = [
        "Content-Length: 5",
        "Content-Length: 0",
        "Transfer-Encoding: chunked",
        "Connection: close",
        "Connection: x-a",
        "X-A: b",
        "Set-Cookie: a",
        "Set-Cookie: b",
        "Upgrade: websocket",
        "Server:",
        "Date: x",
        "X_Y: z",
    ];
    heads(lines.to_vec(), fields.to_vec(), "Via: 1.1 pod")
}

/// Mostly lawful heads, followed by a little body.
fn heads(
    lines: Vec<&'static str>,
    fields: Vec<&'static str>,
    first: &'static str,
) -> impl Strategy<Value = Vec<u8>> {
    let fields = proptest::collection::vec(proptest::sample::select(fields), 0..5);
    (proptest::sample::select(lines), any::<bool>(), fields).prop_map(move |(line, with_first, fields)| {
        let mut text = format!("{line}\r\n");
        for field in with_first.then_some(first).into_iter().chain(fields) {
            text.push_str(field);
            text.push_str("\r\n");
        }
        text.push_str("\r\nbody\r\n\r\n");
        text.into_bytes()
    })
}

/// The same with a byte or two replaced, inserted or removed.
fn mangled(heads: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let byte = proptest::sample::select(b"\r\n\t\0 :,;/.%aA0_\x7f\xff".to_vec());
    let edit = (any::<proptest::sample::Index>(), byte, 0..3_u8);
    (heads, proptest::collection::vec(edit, 1..3)).prop_map(|(mut bytes, edits)| {
        for (index, byte, kind) in edits {
            let at = index.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => drop(bytes.remove(at)),
            }
        }
        bytes
    })
}
