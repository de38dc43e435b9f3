//! Messages of HTTP/2 in the form of HTTP/1.1 and back (RFC 9113 §8), so that one exchange serves both.
//!
//! A request is written anew from its fields, each of them checked here whatever the framing layer checked before: what
//! is written is one HTTP/1.1 head and nothing else (SECURITY S11), and [`decode`](crate::h1::decode) reads it like
//! any other. Bodies travel as they are where their length is known, in chunks where it is not. Called by the gateway's
//! HTTP/2 side; nothing here knows frames.

use crate::authority;
use crate::error::WireError;
use crate::h1::fields::decimal;
use crate::h1::sink::Sink;
use crate::h1::{chunked, encode};
use crate::head::{BodyLength, Known, Method, RequestView, ResponseView};
use crate::hop;

/// The pseudo-header fields of a request (RFC 9113 §8.3.1, RFC 8441 §4).
#[derive(Clone, Copy, Debug, Default)]
pub struct Pseudo<'a> {
    /// `:method`
    pub method: &'a [u8],
    /// `:scheme`
    pub scheme: Option<&'a [u8]>,
    /// `:authority`
    pub authority: Option<&'a [u8]>,
    /// `:path`
    pub path: Option<&'a [u8]>,
    /// `:protocol` of an extended CONNECT.
    pub protocol: Option<&'a [u8]>,
}

/// Does anything follow the request's fields?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follows {
    /// Nothing: END_STREAM came with them.
    Nothing,
    /// Data, or at least the end of it.
    Data,
}

/// How the bytes behind a request's head are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// There are none.
    None,
    /// So many, as they are; trailers cannot follow them in HTTP/1.1 and are dropped.
    Exact(u64),
    /// In chunks, with trailers.
    Chunked,
    /// As they are, once the other side has agreed to change protocols.
    Tunnel,
}

/// The length of a `Sec-WebSocket-Key` (RFC 6455 §4.1).
pub const WEBSOCKET_KEY_BYTES: usize = 24;

/// Writes a request as an HTTP/1.1 head. `fields` gives its fields in order, as often as it is asked.
///
/// The lines of Cookie become one (RFC 9113 §8.2.3). `Te: trailers` stays for who comes next. An extended CONNECT to
/// `websocket` becomes the opening handshake of RFC 6455 with `key`, because in HTTP/2 there is none (RFC 8441 §5).
///
/// # Errors
/// What is wrong with it; nothing of it may be used then. `StartLine`: no or a bad `:method` or `:scheme`;
/// `Target`: no `:path`, or one that is none; `Host`: neither `:authority` nor Host, or two that differ;
/// `HeaderName`: not a token in lower case, or a field of a connection (§8.2.2); `HeaderValue`: control bytes, or white
/// space around it (§8.2.1); `ContentLength`; `Method`: CONNECT; `Protocol`: an extended CONNECT to something else.
pub fn request<'a, I: Iterator<Item = (&'a [u8], &'a [u8])>>(
    sink: &mut impl Sink,
    pseudo: &Pseudo<'a>,
    fields: impl Fn() -> I,
    follows: Follows,
    key: &[u8; WEBSOCKET_KEY_BYTES],
) -> Result<Body, WireError> {
    let upgrades = check_pseudo(pseudo)?;
    let mut length = None;
    let mut host = None;
    for (name, value) in fields() {
        let known = check_field(name, value)?;
        if known == Known::ContentLength {
            let given = decimal(value).ok_or(WireError::ContentLength)?;
            if length.replace(given).is_some() {
                return Err(WireError::ContentLength);
            }
        } else if known == Known::Host && host.replace(value).is_some() {
            return Err(WireError::Host);
        }
    }
    let host = one_authority(pseudo.authority, host)?;
    let body = body(upgrades, length, follows)?;

    sink.put(if upgrades { b"GET" } else { pseudo.method });
    sink.put(b" ");
    sink.put(pseudo.path.unwrap_or_default());
    sink.put(b" HTTP/1.1\r\n");
    sink.field(b"host", host);
    let mut has_cookie = false;
    for (name, value) in fields() {
        let known = hop::known(name);
        let is_ours = [Known::ContentLength, Known::Host, Known::Cookie].contains(&known)
            || (upgrades && name == WEBSOCKET_KEY);
        has_cookie |= known == Known::Cookie;
        if !is_ours {
            sink.field(name, value);
        }
    }
    if has_cookie {
        let crumbs = fields().filter(|(name, value)| hop::known(name) == Known::Cookie && !value.is_empty());
        let mut before: &[u8] = b"cookie: ";
        for (_, crumb) in crumbs {
            sink.put(before);
            sink.put(crumb);
            before = b"; ";
        }
        sink.put(if before == b"; " { b"\r\n" } else { b"" });
    }
    match body {
        Body::None if length == Some(0) => sink.put(b"content-length: 0\r\n"),
        Body::None => {}
        Body::Exact(length) => sink.field(b"content-length", itoa::Buffer::new().format(length).as_bytes()),
        Body::Chunked => sink.put(b"transfer-encoding: chunked\r\n"),
        Body::Tunnel => {
            sink.put(b"connection: upgrade\r\nupgrade: websocket\r\n");
            sink.field(b"sec-websocket-key", key);
        }
    }
    sink.put(b"\r\n");
    Ok(body)
}

/// `true` for an extended CONNECT that becomes an upgrade.
fn check_pseudo(pseudo: &Pseudo<'_>) -> Result<bool, WireError> {
    if pseudo.method.is_empty() || !pseudo.method.iter().all(|byte| is_token(*byte)) {
        return Err(WireError::StartLine);
    }
    let connects = pseudo.method == b"CONNECT";
    match pseudo.protocol {
        None if connects => return Err(WireError::Method),
        Some(_) if !connects => return Err(WireError::StartLine),
        Some(protocol) if !protocol.eq_ignore_ascii_case(b"websocket") => return Err(WireError::Protocol),
        Some(_) | None => {}
    }
    let scheme = pseudo.scheme.unwrap_or_default();
    if !scheme.eq_ignore_ascii_case(b"http") && !scheme.eq_ignore_ascii_case(b"https") {
        return Err(WireError::StartLine);
    }
    let path = pseudo.path.unwrap_or_default();
    let is_path = path.first() == Some(&b'/') || (path == b"*" && pseudo.method == b"OPTIONS");
    if !is_path || path.iter().any(|byte| matches!(byte, 0..=b' ' | 0x7f)) {
        return Err(WireError::Target);
    }
    Ok(connects)
}

/// What the name spells, of a field that HTTP/2 may carry.
fn check_field(name: &[u8], value: &[u8]) -> Result<Known, WireError> {
    if name.is_empty() || !name.iter().all(|byte| is_token(*byte) && !byte.is_ascii_uppercase()) {
        return Err(WireError::HeaderName);
    }
    let is_padded = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let is_control = |byte: &u8| matches!(byte, 0..=8 | 10..=31 | 0x7f);
    if value.iter().any(is_control) || is_padded(value.first()) || is_padded(value.last()) {
        return Err(WireError::HeaderValue);
    }
    let known = hop::known(name);
    if is_of_a_connection(known) || (known == Known::Te && !value.eq_ignore_ascii_case(b"trailers")) {
        return Err(WireError::HeaderName);
    }
    Ok(known)
}

/// Fields that HTTP/2 does not have (RFC 9113 §8.2.2).
fn is_of_a_connection(known: Known) -> bool {
    [Known::Connection, Known::ProxyConnection, Known::KeepAlive, Known::TransferEncoding, Known::Upgrade]
        .contains(&known)
}

/// The one authority that a request is for (RFC 9113 §8.3.1; SECURITY S14).
fn one_authority<'a>(authority: Option<&'a [u8]>, host: Option<&'a [u8]>) -> Result<&'a [u8], WireError> {
    let (authority, host) = match (authority, host) {
        (Some(authority), Some(host)) if authority != host => (authority, host),
        (Some(one), _) | (None, Some(one)) => return Ok(one),
        (None, None) => return Err(WireError::Host),
    };
    // Rarely: spelled in two ways.
    let (mut left, mut right) = (Vec::new(), Vec::new());
    let ports = (authority::canonical(authority, &mut left)?, authority::canonical(host, &mut right)?);
    if left == right && ports.0 == ports.1 { Ok(authority) } else { Err(WireError::Host) }
}

fn body(upgrades: bool, length: Option<u64>, follows: Follows) -> Result<Body, WireError> {
    match (follows, length) {
        // A tunnel has no message body; its bytes follow the switch.
        (_, Some(_)) if upgrades => Err(WireError::ContentLength),
        (_, None) if upgrades => Ok(Body::Tunnel),
        (Follows::Nothing, None | Some(0)) => Ok(Body::None),
        (Follows::Nothing, Some(_)) => Err(WireError::ContentLength),
        (Follows::Data, Some(0)) => Ok(Body::None),
        (Follows::Data, Some(length)) => Ok(Body::Exact(length)),
        (Follows::Data, None) => Ok(Body::Chunked),
    }
}

/// RFC 9110 §5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// The fields of a response that HTTP/2 carries, in order, names as spelled: write them in lower case.
///
/// Content-Length is among them where it is true of the body, or of what a GET would bring (RFC 9110 §8.6).
pub fn response_fields<'a>(view: &ResponseView<'a>) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
    let (head, bytes) = (view.head, view.bytes);
    let has_length = match head.body {
        BodyLength::Exact(_) => true,
        BodyLength::None => head.status >= 200 && head.status != 204,
        BodyLength::Chunked | BodyLength::UntilClose => false,
    };
    let travels = move |known: Known, hop_by_hop: bool, name: &[u8]| {
        if known == Known::ContentLength {
            return has_length;
        }
        let is_handshake = head.status == 101 && name.eq_ignore_ascii_case(WEBSOCKET_ACCEPT);
        !hop_by_hop && !is_handshake && !is_of_a_connection(known)
    };
    let fields = head.headers.iter().map(move |field| (field, field.name.of(bytes)));
    fields
        .filter(move |(field, name)| travels(field.known, field.hop_by_hop, name))
        .map(move |(field, name)| (name, field.value.of(bytes)))
}

/// The fields of a request that HTTP/2 carries, in order, names as spelled: write them in lower case.
///
/// Not among them are Host, which is `:authority`, what concerns the connection only (RFC 9113 §8.2.2), and Te, which is
/// for its sender to say.
pub fn request_fields<'a>(view: &RequestView<'a>) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
    let bytes = view.bytes;
    let fields = view.head.headers.iter().map(move |field| (field, field.name.of(bytes)));
    fields
        .filter(|(field, _)| {
            let stays = matches!(field.known, Known::Host | Known::Te)
                || field.hop_by_hop
                || is_of_a_connection(field.known);
            field.known == Known::ContentLength || !stays
        })
        .map(move |(field, name)| (name, field.value.of(bytes)))
}

/// The `Sec-WebSocket-Key` of a request that is the opening handshake of RFC 6455 (§4.1), and asks for nothing else.
///
/// Its form is all that is looked at. One that has none is an ordinary request (RFC 9110 §7.8: an Upgrade may be ignored).
#[must_use]
pub fn websocket_key<'a>(view: &RequestView<'a>) -> Option<&'a [u8]> {
    let upgrade = view.head.upgrade?.of(view.bytes);
    let is_opening = view.head.method == Method::Get && upgrade.eq_ignore_ascii_case(b"websocket");
    let key = view.header(WEBSOCKET_KEY).filter(|key| key.len() == WEBSOCKET_KEY_BYTES)?;
    is_opening.then_some(key)
}

const WEBSOCKET_KEY: &[u8] = b"sec-websocket-key";
const WEBSOCKET_ACCEPT: &[u8] = b"sec-websocket-accept";

/// The fields of an extended CONNECT that says what an opening handshake of RFC 6455 says (RFC 8441 §5), as [`request_fields`].
pub fn connect_fields<'a>(view: &RequestView<'a>) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
    request_fields(view).filter(|(name, _)| {
        !name.eq_ignore_ascii_case(WEBSOCKET_KEY) && hop::known(name) != Known::ContentLength
    })
}

/// Writes the head that ends an opening handshake of RFC 6455 (§4.2.2), for a response to an extended CONNECT that agrees.
/// `accept` is what its key asks for.
pub fn switching<'a>(
    sink: &mut impl Sink,
    accept: &[u8],
    fields: impl Iterator<Item = (&'a [u8], &'a [u8])>,
) {
    sink.put(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n");
    sink.field(WEBSOCKET_ACCEPT, accept);
    for (name, value) in fields {
        let known = hop::known(name);
        // A tunnel has no length, and whoever speaks HTTP/2 has nothing to say of our handshake.
        let stays = is_of_a_connection(known)
            || known == Known::ContentLength
            || name.eq_ignore_ascii_case(WEBSOCKET_ACCEPT);
        if !stays {
            sink.field(name, value);
        }
    }
    sink.put(chunked::CRLF);
}

/// Writes a response of HTTP/2 as an HTTP/1.1 head, and says how the bytes behind it are written: as many as its length
/// says, in chunks, or none. `ends` = END_STREAM came with it.
///
/// Whoever decodes the head judges its fields; what could end a line must have been refused before.
///
/// # Errors
/// `ContentLength`: it is no number.
pub fn response<'a>(
    sink: &mut impl Sink,
    status: u16,
    fields: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    ends: bool,
    is_head: bool,
) -> Result<BodyLength, WireError> {
    sink.put(b"HTTP/1.1 ");
    sink.put(itoa::Buffer::new().format(status).as_bytes());
    sink.put(b" ");
    sink.put(encode::reason(status).as_bytes());
    sink.put(chunked::CRLF);
    let mut length = None;
    for (name, value) in fields {
        let known = hop::known(name);
        if is_of_a_connection(known) {
            continue;
        }
        if known == Known::ContentLength {
            length = Some(decimal(value).ok_or(WireError::ContentLength)?);
        }
        sink.field(name, value);
    }
    let body = match length {
        // Of interim ones a final one follows.
        _ if is_head || status < 200 || status == 204 || status == 304 => BodyLength::None,
        Some(length) => BodyLength::Exact(length),
        None if ends => {
            sink.field(b"Content-Length", b"0");
            BodyLength::None
        }
        None => {
            sink.field(b"Transfer-Encoding", b"chunked");
            BodyLength::Chunked
        }
    };
    sink.put(chunked::CRLF);
    Ok(body)
}

/// Writes the end of a chunked body, with those of these trailer fields that may travel (SECURITY S12).
pub fn last_chunk<'a>(sink: &mut impl Sink, trailers: impl Iterator<Item = (&'a [u8], &'a [u8])>) {
    sink.put(chunked::LAST_CHUNK_WITH_TRAILERS);
    for (name, value) in trailers.filter(|(name, _)| hop::may_be_trailer(name)) {
        sink.field(name, value);
    }
    sink.put(chunked::CRLF);
}

/// The fields of a trailer section as [`BodyDecoder::trailers`](crate::body::BodyDecoder::trailers) gives it.
pub fn trailer_fields(lines: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    lines.split(|byte| *byte == b'\n').filter_map(|line| {
        let line = line.strip_suffix(b"\r")?;
        let colon = memchr::memchr(b':', line)?;
        Some((&line[..colon], line[colon + 1..].trim_ascii()))
    })
}

/// May a request's trailer field of this name and value be written into a chunked body's trailer section?
///
/// Whether it travels further is decided there (SECURITY S12).
#[must_use]
pub fn is_trailer(name: &[u8], value: &[u8]) -> bool {
    check_field(name, value).is_ok()
}

mod ledger;

pub use ledger::Ledger;

#[cfg(test)]
mod tests;
