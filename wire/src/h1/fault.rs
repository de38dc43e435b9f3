//! What is wrong with a head that the parser refused or has not seen the end of. Off the hot path.

use super::limits::{HeadLimits, METHOD_BYTES_MAX};
use crate::error::WireError;

/// Which kind of start line a head has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A request line (RFC 9112 §3).
    Request,
    /// A status line (RFC 9112 §4).
    Response,
}

/// Is a head whose end has not come yet already over a limit, or does it hold a bare LF?
///
/// `text` is everything received of it, at most `limits.head_bytes()` bytes.
pub(super) fn partial(text: &[u8], kind: Kind, limits: &HeadLimits) -> Result<(), WireError> {
    let mut start = 0;
    for end in memchr::memchr_iter(b'\n', text) {
        if end == 0 || text[end - 1] != b'\r' {
            return Err(WireError::LineEnding);
        }
        check_length(&text[start..end - 1], start, kind, limits)?;
        start = end + 1;
    }
    let last = &text[start..];
    check_length(last.strip_suffix(b"\r").unwrap_or(last), start, kind, limits)
}

fn check_length(line: &[u8], start: usize, kind: Kind, limits: &HeadLimits) -> Result<(), WireError> {
    match kind {
        Kind::Request if start == 0 => check_request_line(line, limits),
        Kind::Request | Kind::Response if line.len() > limits.header_line_bytes_max => {
            Err(WireError::HeaderTooLong)
        }
        Kind::Request | Kind::Response => Ok(()),
    }
}

fn check_request_line(line: &[u8], limits: &HeadLimits) -> Result<(), WireError> {
    let method_len = memchr::memchr(b' ', line).unwrap_or(line.len());
    if method_len > METHOD_BYTES_MAX {
        return Err(WireError::StartLine);
    }
    let target = line.get(method_len + 1..).unwrap_or_default();
    let target_len = memchr::memchr(b' ', target).unwrap_or(target.len());
    if target_len > limits.uri_bytes_max { Err(WireError::TargetTooLong) } else { Ok(()) }
}

/// The name of what the parser refused in `text`.
pub(super) fn of_parser(error: httparse::Error, text: &[u8], kind: Kind) -> WireError {
    match error {
        httparse::Error::TooManyHeaders => WireError::TooManyHeaders,
        httparse::Error::HeaderName | httparse::Error::HeaderValue if is_folded(text) => {
            WireError::HeaderValue
        }
        httparse::Error::HeaderName | httparse::Error::HeaderValue if has_bare_ending(text) => {
            WireError::LineEnding
        }
        httparse::Error::HeaderName => WireError::HeaderName,
        httparse::Error::HeaderValue => WireError::HeaderValue,
        httparse::Error::Status => WireError::StartLine,
        httparse::Error::NewLine | httparse::Error::Token | httparse::Error::Version => match kind {
            Kind::Request => of_request_line(text),
            Kind::Response if error == httparse::Error::Version && text.starts_with(b"HTTP/") => {
                WireError::Version
            }
            Kind::Response if error == httparse::Error::NewLine => WireError::LineEnding,
            Kind::Response => WireError::StartLine,
        },
    }
}

/// A first line that is no request line, unless it is one and the fault lies behind it.
fn of_request_line(text: &[u8]) -> WireError {
    let end = memchr::memchr2(b'\r', b'\n', text).unwrap_or(text.len());
    let mut words = text[..end].splitn(3, |byte| *byte == b' ');
    let (Some(method), Some(target), Some(version)) = (words.next(), words.next(), words.next()) else {
        // HTTP/0.9, or not HTTP at all.
        return WireError::StartLine;
    };
    let is_token = |byte: &u8| byte.is_ascii_graphic() && !b"\"(),/:;<=>?@[\\]{}".contains(byte);
    if method.is_empty() || target.is_empty() || !method.iter().all(is_token) {
        return WireError::StartLine;
    }
    if !target.iter().all(u8::is_ascii_graphic) {
        return WireError::Target;
    }
    match version {
        b"HTTP/1.0" | b"HTTP/1.1" => WireError::LineEnding,
        // White space behind the version, or within the target.
        _ if version.contains(&b' ') => WireError::StartLine,
        _ if version.starts_with(b"HTTP/") => WireError::Version,
        _ => WireError::StartLine,
    }
}

/// Does a line of the head begin with white space (RFC 9112 §5.2)?
fn is_folded(text: &[u8]) -> bool {
    let mut folds = memchr::memchr_iter(b'\n', head_of(text));
    folds.any(|end| matches!(text.get(end + 1), Some(b' ' | b'\t')))
}

/// Is there a CR without LF or an LF without CR in the head?
fn has_bare_ending(text: &[u8]) -> bool {
    let head = head_of(text);
    memchr::memchr2_iter(b'\r', b'\n', head).any(|at| match head[at] {
        b'\r' => head.get(at + 1).is_some_and(|next| *next != b'\n'),
        _ => at == 0 || head[at - 1] != b'\r',
    })
}

/// Everything before the first empty line.
fn head_of(text: &[u8]) -> &[u8] {
    let end = memchr::memmem::find(text, b"\r\n\r\n").map_or(text.len(), |end| end + 4);
    &text[..end]
}
