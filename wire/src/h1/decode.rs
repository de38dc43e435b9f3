//! Bytes to heads: request and status lines, header lines, framing (RFC 9112 §3 to §6).
//!
//! `httparse` finds the lines; everything that two implementations could disagree about is decided here, strictly,
//! because a disagreement about framing is request smuggling. Called by the gateway for every message of a
//! connection; after an error the connection is closed and nothing more is decoded from it.
//!
//! Sources: RFC 9112, SECURITY S1–S18 and S30.

use httparse::Status;

use super::fault::{self, Kind};
use super::fields::{self, Seen, span};
use super::limits::{HeadLimits, METHOD_BYTES_MAX, Underscores};
use crate::authority;
use crate::error::WireError;
use crate::head::{BodyLength, Method, Persistence, RequestHead, ResponseHead, Span, Version};
use crate::path::{self, Form};

/// Whether a head was there in full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// The head is decoded; the body starts at its `head_len`.
    Complete,
    /// The end of the head has not come yet: read more and decode from the start again. The head is empty.
    Partial,
}

/// Decodes a request head from the start of `bytes` into `head`, which is cleared first.
///
/// One empty line before the request line is skipped (RFC 9112 §2.2) and counted in `head_len`. Bytes behind the
/// head are not looked at, and at most `limits.head_bytes()` are. `head` is not to be used after an error.
///
/// Fields that `limits.underscores` drops are not in `head.headers`. An Upgrade to HTTP/2 or TLS, on HTTP/1.0, with
/// a body, or given twice is ignored. `Expect` is ignored on HTTP/1.0 and without a body.
///
/// # Errors
/// What is wrong, as soon as it is certain, even before the head is complete: answer with
/// [`WireError::status`] and close.
pub fn request(bytes: &[u8], limits: &HeadLimits, head: &mut RequestHead) -> Result<Decoded, WireError> {
    head.clear();
    let bytes = &bytes[..bytes.len().min(limits.head_bytes())];
    let skip = match bytes {
        [b'\r', b'\n', ..] => 2,
        [b'\r'] => 1,
        [..] => 0,
    };
    let text = &bytes[skip..];
    if let Some(b'\r' | b'\n') = text.first() {
        return Err(if text[0] == b'\n' { WireError::LineEnding } else { WireError::StartLine });
    }
    let mut lines = fields::lines();
    let mut parsed = httparse::Request::new(&mut []);
    let len = match parsed.parse_with_uninit_headers(text, &mut lines[..limits.headers()]) {
        Ok(Status::Complete(len)) => len,
        Ok(Status::Partial) => {
            fault::partial(text, Kind::Request, limits)?;
            return undecided(bytes, limits);
        }
        Err(error) => return Err(fault::of_parser(error, text, Kind::Request)),
    };
    head.head_len = skip + len;
    let (method, target) = (parsed.method.unwrap_or_default(), parsed.path.unwrap_or_default());
    head.version = version(parsed.version);
    head.method = Method::from_bytes(method.as_bytes());
    head.method_span = span(bytes, method.as_bytes());
    if target.len() > limits.uri_bytes_max {
        return Err(WireError::TargetTooLong);
    }
    if method.len() > METHOD_BYTES_MAX {
        return Err(WireError::StartLine);
    }
    check_line_endings(text, method.len() + 1 + target.len() + 1 + 8, len)?;
    let seen = Seen::read(bytes, parsed.headers, limits, &mut head.headers)?;
    match head.method {
        Method::Connect | Method::Trace => return Err(WireError::Method),
        Method::Get
        | Method::Head
        | Method::Post
        | Method::Put
        | Method::Delete
        | Method::Options
        | Method::Patch
        | Method::Other => {}
    }
    head.body = seen.framing(head.version)?.unwrap_or_default();
    head.persistence = seen.persistence(head.version);
    read_host(bytes, &seen, head)?;
    read_target(bytes, target.as_bytes(), limits, head)?;
    head.expects_continue = expects_continue(bytes, &seen, head)?;
    head.upgrade = upgrade(bytes, &seen, head);
    Ok(Decoded::Complete)
}

/// Decodes a response head to a `method` request from the start of `bytes` into `head`, which is cleared first.
///
/// Bytes behind the head are not looked at, and at most `limits.head_bytes()` are. `limits.path`, `uri_bytes_max`
/// and `underscores` do not concern responses. The end of the body follows from the method, the status and the
/// fields (RFC 9112 §6.3); interim responses (1xx) have none. `head` is not to be used after an error.
///
/// # Errors
/// What is wrong, as soon as it is certain: discard the connection and answer 502 (SECURITY S30).
/// [`WireError::Unexpected`] is a 101 that does not say to what the protocol changes.
pub fn response(
    bytes: &[u8],
    limits: &HeadLimits,
    method: Method,
    head: &mut ResponseHead,
) -> Result<Decoded, WireError> {
    head.clear();
    let bytes = &bytes[..bytes.len().min(limits.head_bytes())];
    if let Some(b'\r' | b'\n') = bytes.first() {
        return Err(WireError::StartLine);
    }
    let mut lines = fields::lines();
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let lines = &mut lines[..limits.headers()];
    let len = match config.parse_response_with_uninit_headers(&mut parsed, bytes, lines) {
        Ok(Status::Complete(len)) => len,
        Ok(Status::Partial) => {
            fault::partial(bytes, Kind::Response, limits)?;
            return undecided(bytes, limits);
        }
        Err(error) => return Err(fault::of_parser(error, bytes, Kind::Response)),
    };
    head.head_len = len;
    head.version = version(parsed.version);
    head.status = parsed.code.unwrap_or_default();
    if head.status < 100 {
        return Err(WireError::StartLine);
    }
    // A reason with bytes above 0x7e comes back empty: the line's end is found, not computed.
    let line_end = memchr::memchr(b'\n', bytes).unwrap_or(0);
    check_line_endings(bytes, line_end.saturating_sub(1), len)?;
    if line_end > limits.header_line_bytes_max {
        return Err(WireError::HeaderTooLong);
    }
    head.reason = span(bytes, parsed.reason.unwrap_or_default().as_bytes());
    let limits = HeadLimits { underscores: Underscores::Keep, ..*limits };
    let seen = Seen::read(bytes, parsed.headers, &limits, &mut head.headers)?;
    head.body = response_body(&seen, method, head)?;
    head.persistence = match head.body {
        BodyLength::UntilClose => Persistence::Close,
        BodyLength::None | BodyLength::Exact(_) | BodyLength::Chunked => seen.persistence(head.version),
    };
    if head.status == 101 {
        head.upgrade = Some(seen.upgrade().ok_or(WireError::Unexpected)?);
    }
    Ok(Decoded::Complete)
}

/// The end of the head is not in `bytes`: may it still come?
fn undecided(bytes: &[u8], limits: &HeadLimits) -> Result<Decoded, WireError> {
    if bytes.len() >= limits.head_bytes() { Err(WireError::HeadTooLong) } else { Ok(Decoded::Partial) }
}

fn version(minor: Option<u8>) -> Version {
    if minor == Some(0) { Version::Http10 } else { Version::Http11 }
}

/// The parser takes a bare LF for a line's end; the start line's and the head's last must be CRLF.
/// (`Seen::read` looks at the lines between.)
fn check_line_endings(text: &[u8], start_line_end: usize, len: usize) -> Result<(), WireError> {
    if text.get(start_line_end) == Some(&b'\r') && text[..len].ends_with(b"\r\n") {
        Ok(())
    } else {
        Err(WireError::LineEnding)
    }
}

/// RFC 9112 §3.2: exactly one valid Host in HTTP/1.1; HTTP/1.0 may do without.
fn read_host(bytes: &[u8], seen: &Seen, head: &mut RequestHead) -> Result<(), WireError> {
    let Some(value) = seen.host else {
        return if head.version == Version::Http10 { Ok(()) } else { Err(WireError::Host) };
    };
    head.authority_span = value;
    head.port = authority::canonical(value.of(bytes), &mut head.host)?;
    Ok(())
}

/// RFC 9112 §3.2: origin-form, absolute-form, or `*` for OPTIONS.
fn read_target(
    bytes: &[u8],
    target: &[u8],
    limits: &HeadLimits,
    head: &mut RequestHead,
) -> Result<(), WireError> {
    if target == b"*" {
        head.path_span = span(bytes, target);
        return if head.method == Method::Options { Ok(()) } else { Err(WireError::Target) };
    }
    let origin = if target.first() == Some(&b'/') { target } else { read_absolute(bytes, target, head)? };
    let split = path::split(origin)?;
    let (path, query) = origin.split_at(split.path_len);
    head.query_span = query.split_first().map(|(_, query)| span(bytes, query));
    head.path_span = span(bytes, path);
    if path.is_empty() {
        // RFC 9112 §3.2.4: `OPTIONS http://host` asks about the server as `*` does; other methods ask for the root.
        let star = head.method == Method::Options && query.is_empty();
        head.path_normalised.push(if star { b'*' } else { b'/' });
    } else if split.form == Form::Suspect {
        path::normalise(path, limits.path, &mut head.path_normalised)?;
        if head.path_normalised == path {
            head.path_normalised.clear();
        }
    }
    Ok(())
}

/// Checks the authority of an absolute-form target against Host; returns its path and query. SECURITY S13.
fn read_absolute<'a>(bytes: &[u8], target: &'a [u8], head: &mut RequestHead) -> Result<&'a [u8], WireError> {
    let (scheme, default_port) = match target {
        [b'h' | b'H', b't' | b'T', b't' | b'T', b'p' | b'P', b':', b'/', b'/', ..] => (7, 80),
        [b'h' | b'H', b't' | b'T', b't' | b'T', b'p' | b'P', b's' | b'S', b':', b'/', b'/', ..] => (8, 443),
        [..] => return Err(WireError::Target),
    };
    let rest = &target[scheme..];
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')).unwrap_or(rest.len());
    let (authority, origin) = rest.split_at(end);
    let given = head.host.len();
    let port = authority::canonical(authority, &mut head.host)?;
    if given == 0 {
        // HTTP/1.0 without Host: the target alone says it.
        head.authority_span = span(bytes, authority);
        head.port = port;
        return Ok(origin);
    }
    let same_host = head.host[..given] == head.host[given..];
    let same_port = head.port.unwrap_or(default_port) == port.unwrap_or(default_port);
    head.host.truncate(given);
    if same_host && same_port { Ok(origin) } else { Err(WireError::Host) }
}

/// RFC 9110 §10.1.1.
fn expects_continue(bytes: &[u8], seen: &Seen, head: &RequestHead) -> Result<bool, WireError> {
    match seen.expect {
        None => Ok(false),
        Some(_) if head.version == Version::Http10 => Ok(false),
        Some(value) if value.of(bytes).eq_ignore_ascii_case(b"100-continue") => Ok(!head.body.is_empty()),
        Some(_) => Err(WireError::Expectation),
    }
}

/// RFC 9110 §7.8. A body before the switch would have to be framed by two parsers alike: such an upgrade is ignored.
fn upgrade(bytes: &[u8], seen: &Seen, head: &RequestHead) -> Option<Span> {
    let value = seen.upgrade()?;
    let wanted = seen.is_upgrade_nominated() && head.version == Version::Http11 && head.body.is_empty();
    let mut protocols = fields::options(value.of(bytes));
    let allowed = wanted && value.len > 0 && protocols.all(may_upgrade_to);
    allowed.then_some(value)
}

/// HTTP and TLS are negotiated with the gateway, not through it: `h2c` would open a second way in (SECURITY S13).
fn may_upgrade_to(protocol: &[u8]) -> bool {
    let name = protocol.split(|byte| *byte == b'/').next().unwrap_or_default();
    ![b"h2c".as_slice(), b"h2", b"h3", b"http", b"tls"].iter().any(|kept| name.eq_ignore_ascii_case(kept))
}

/// RFC 9112 §6.3, for responses.
fn response_body(seen: &Seen, method: Method, head: &ResponseHead) -> Result<BodyLength, WireError> {
    let framing = seen.framing(head.version)?;
    match (head.status, method, framing) {
        // RFC 9110 §6.4.1, §8.6: these have no content and announce none. One that does is read in two ways.
        (100..=199 | 204, _, Some(BodyLength::Chunked)) => Err(WireError::TransferEncoding),
        (100..=199 | 204, _, Some(BodyLength::Exact(1..))) => Err(WireError::ContentLength),
        (100..=199 | 204 | 304, _, _) | (_, Method::Head, _) | (200..=299, Method::Connect, _) => {
            Ok(BodyLength::None)
        }
        (_, _, Some(length)) => Ok(length),
        (_, _, None) => Ok(BodyLength::UntilClose),
    }
}

#[cfg(test)]
mod tests;
