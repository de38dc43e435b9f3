//! The header lines of a head: recognised, marked, and read for what they say about framing and the connection.

use std::mem::MaybeUninit;

use httparse::Header;

use super::limits::{CONNECTION_NAMES_MAX, HEADERS_CAP, HeadLimits, Underscores};
use crate::error::WireError;
use crate::head::{BodyLength, HeaderField, Known, Persistence, Span, Version};
use crate::hop;

/// Room for the parsed lines of one head. Uninitialised, or zeroing it would cost more than a short head's parse.
pub(super) type Lines<'a> = [MaybeUninit<Header<'a>>; HEADERS_CAP];

/// Room for the lines of one head.
pub(super) fn lines<'a>() -> Lines<'a> {
    [const { MaybeUninit::uninit() }; HEADERS_CAP]
}

/// What the header lines of one head say.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// The value of Content-Length.
    content_length: Option<u64>,
    /// `Transfer-Encoding: chunked`.
    coding: Option<Chunked>,
    /// The value of Host.
    pub(super) host: Option<Span>,
    /// The value of Expect.
    pub(super) expect: Option<Span>,
    /// The Upgrade lines.
    upgrade: Upgrade,
    /// The Connection lines.
    connection: Connection,
}

#[derive(Debug)]
struct Chunked;

#[derive(Debug, Default)]
enum Upgrade {
    #[default]
    Absent,
    Once(Span),
    Repeated,
}

/// What all Connection lines together say.
#[derive(Debug, Default)]
struct Connection {
    close: usize,
    keep_alive: usize,
    upgrade: usize,
    names: usize,
}

/// Where `part`, a slice of `bytes`, lies. An empty part has no place: it may be a constant of the parser.
pub(super) fn span(bytes: &[u8], part: &[u8]) -> Span {
    let offset = part.as_ptr().addr().wrapping_sub(bytes.as_ptr().addr());
    match (u16::try_from(offset), u16::try_from(part.len())) {
        (Ok(start), Ok(len)) if len > 0 => Span { start, len },
        _ => Span::default(),
    }
}

impl Seen {
    /// Reads `lines` into `headers`.
    pub(super) fn read(
        bytes: &[u8],
        lines: &[Header<'_>],
        limits: &HeadLimits,
        headers: &mut Vec<HeaderField>,
    ) -> Result<Self, WireError> {
        let mut seen = Self::default();
        headers.reserve(lines.len());
        for line in lines {
            check_line(bytes, line, limits.header_line_bytes_max)?;
            let name = line.name.as_bytes();
            let known = hop::known(name);
            if known == Known::Other && name.contains(&b'_') {
                match limits.underscores {
                    Underscores::Drop => continue,
                    Underscores::Keep => {}
                    Underscores::Refuse => return Err(WireError::HeaderName),
                }
            }
            let value = span(bytes, line.value);
            let hop_by_hop = hop::is_hop_by_hop(known, name);
            headers.push(HeaderField { name: span(bytes, name), value, known, hop_by_hop });
            seen.note(bytes, known, value)?;
        }
        if seen.connection.names > 0 {
            apply_nominations(bytes, headers);
        }
        Ok(seen)
    }

    fn note(&mut self, bytes: &[u8], known: Known, value: Span) -> Result<(), WireError> {
        let text = value.of(bytes);
        match known {
            Known::ContentLength => {
                let length = decimal(text).ok_or(WireError::ContentLength)?;
                if !ends_its_line(bytes, value) || self.content_length.replace(length).is_some() {
                    return Err(WireError::ContentLength);
                }
            }
            Known::TransferEncoding => {
                let plain = text.eq_ignore_ascii_case(b"chunked") && ends_its_line(bytes, value);
                let padded = !matches!(bytes[..usize::from(value.start)], [.., b':'] | [.., b':', b' ']);
                if !plain || padded || self.coding.replace(Chunked).is_some() {
                    return Err(WireError::TransferEncoding);
                }
            }
            Known::Host => {
                if self.host.replace(value).is_some() {
                    return Err(WireError::Host);
                }
            }
            Known::Expect => {
                if self.expect.replace(value).is_some() {
                    return Err(WireError::Expectation);
                }
            }
            Known::Upgrade => {
                self.upgrade = match self.upgrade {
                    Upgrade::Absent => Upgrade::Once(value),
                    Upgrade::Once(_) | Upgrade::Repeated => Upgrade::Repeated,
                };
            }
            Known::Connection => self.connection.note(text)?,
            Known::Other
            | Known::Cookie
            | Known::Forwarded
            | Known::KeepAlive
            | Known::ProxyAuthenticate
            | Known::ProxyAuthorization
            | Known::ProxyConnection
            | Known::Te
            | Known::Trailer
            | Known::Via
            | Known::XForwardedFor
            | Known::XForwardedHost
            | Known::XForwardedPort
            | Known::XForwardedProto
            | Known::XRealIp
            | Known::XRequestId
            | Known::Date
            | Known::Server
            | Known::SetCookie => {}
        }
        Ok(())
    }

    /// The framing that the fields announce; `None` when they say nothing. RFC 9112 §6.3.
    pub(super) fn framing(&self, version: Version) -> Result<Option<BodyLength>, WireError> {
        match (&self.coding, self.content_length) {
            (Some(Chunked), Some(_)) => Err(WireError::LengthConflict),
            // RFC 9112 §6.1: an HTTP/1.0 sender does not know Transfer-Encoding; what it meant is unknown.
            (Some(Chunked), None) if version == Version::Http10 => Err(WireError::TransferEncoding),
            (Some(Chunked), None) => Ok(Some(BodyLength::Chunked)),
            (None, Some(length)) => Ok(Some(BodyLength::Exact(length))),
            (None, None) => Ok(None),
        }
    }

    /// Does the sender keep the connection open? RFC 9112 §9.3.
    pub(super) fn persistence(&self, version: Version) -> Persistence {
        let asks = self.connection.keep_alive > 0 || version != Version::Http10;
        if self.connection.close == 0 && asks { Persistence::KeepAlive } else { Persistence::Close }
    }

    /// The value of the one Upgrade line.
    pub(super) fn upgrade(&self) -> Option<Span> {
        match self.upgrade {
            Upgrade::Once(value) => Some(value),
            Upgrade::Absent | Upgrade::Repeated => None,
        }
    }

    /// Does Connection name Upgrade?
    pub(super) fn is_upgrade_nominated(&self) -> bool {
        self.connection.upgrade > 0
    }
}

impl Connection {
    fn note(&mut self, value: &[u8]) -> Result<(), WireError> {
        // What nearly every client sends.
        if value.eq_ignore_ascii_case(b"keep-alive") {
            self.keep_alive += 1;
            return Ok(());
        }
        for option in options(value) {
            match option.len() {
                5 if option.eq_ignore_ascii_case(b"close") => self.close += 1,
                7 if option.eq_ignore_ascii_case(b"upgrade") => self.upgrade += 1,
                10 if option.eq_ignore_ascii_case(b"keep-alive") => self.keep_alive += 1,
                _ => self.names += 1,
            }
        }
        if self.names > CONNECTION_NAMES_MAX { Err(WireError::TooManyHeaders) } else { Ok(()) }
    }
}

/// Is there no white space behind `value`? It is lawful there, but nobody sends it with a framing field except to find
/// a parser that does not trim it (SECURITY S3, S9).
fn ends_its_line(bytes: &[u8], value: Span) -> bool {
    bytes.get(usize::from(value.start) + usize::from(value.len)) == Some(&b'\r')
}

/// The members of a comma-separated list (RFC 9110 §5.6.1), without empty ones.
pub(super) fn options(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|option| !option.is_empty())
}

fn apply_nominations(bytes: &[u8], headers: &mut [HeaderField]) {
    for at in 0..headers.len() {
        if headers[at].known == Known::Connection {
            for name in options(headers[at].value.of(bytes)) {
                hop::nominate(headers, bytes, name);
            }
        }
    }
}

/// A line must end in CRLF, which the parser does not insist on, and within its limit.
fn check_line(bytes: &[u8], line: &Header<'_>, line_bytes_max: usize) -> Result<(), WireError> {
    let start = line.name.as_ptr().addr().wrapping_sub(bytes.as_ptr().addr());
    let mut end = line.value.as_ptr().addr().wrapping_sub(bytes.as_ptr().addr()) + line.value.len();
    while let Some(b' ' | b'\t') = bytes.get(end) {
        end += 1;
    }
    if bytes.get(end) != Some(&b'\r') {
        return Err(WireError::LineEnding);
    }
    if end - start > line_bytes_max { Err(WireError::HeaderTooLong) } else { Ok(()) }
}

/// A plain decimal number of at most 19 digits and below 2^63, or nothing.
pub(crate) fn decimal(text: &[u8]) -> Option<u64> {
    if !(1..=19).contains(&text.len()) || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = text.iter().fold(0_u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    (value <= i64::MAX.unsigned_abs()).then_some(value)
}
