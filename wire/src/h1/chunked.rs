//! The chunked transfer coding, both ways (RFC 9112 §7.1).
//!
//! Reading is done in place by [`BodyDecoder`](crate::body::BodyDecoder):
//!
//! ```text
//! Size ─hex─> Size ─CR─> SizeLf ─> Data ─> DataCr ─> DataLf ─> Size
//!   └─";" or space─> Extension ─CR─┘ └─size 0─> LineStart ─> TrailerLine ─> LineStart
//!                                                └─CR─> LastLf ─> Done
//! ```

use crate::body::{BodyStep, Progress, TrailerPolicy};
use crate::error::WireError;
use crate::hop;

/// What ends a chunk's data.
pub const CRLF: &[u8] = b"\r\n";

/// The end of a chunked body without trailers.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// The end of a chunked body with trailers: this, the trailer lines, [`CRLF`].
pub const LAST_CHUNK_WITH_TRAILERS: &[u8] = b"0\r\n";

/// Longest chunk prefix: 16 hex digits and CRLF.
pub const PREFIX_BYTES_MAX: usize = 18;

/// Most bytes of extensions (RFC 9112 §7.1.1) on one chunk; they are dropped. Over it: [`WireError::Chunk`].
pub const EXTENSION_BYTES_MAX: u32 = 1024;

/// Most bytes of extensions in one body. Over it: [`WireError::Chunk`].
pub const EXTENSIONS_BYTES_MAX: u32 = 16 * 1024;

/// Most bytes of a trailer section, its last empty line not counted. Over it: [`WireError::Trailer`].
pub const TRAILER_BYTES_MAX: usize = 8 * 1024;

/// Most trailer fields. Over it: [`WireError::Trailer`].
pub const TRAILERS_MAX: usize = 32;

/// Writes what goes before `len` bytes of chunk data, the size in hexadecimal and CRLF; returns its length.
///
/// `len` is not zero: that would be the last chunk.
pub fn chunk_prefix(len: usize, out: &mut [u8; PREFIX_BYTES_MAX]) -> usize {
    debug_assert!(len > 0, "an empty chunk ends the body");
    let digits = (usize::BITS - len.leading_zeros()).div_ceil(4).max(1) as usize;
    for (at, digit) in out[..digits].iter_mut().enumerate() {
        *digit = b"0123456789abcdef"[len >> (4 * (digits - 1 - at)) & 0xf];
    }
    out[digits..digits + 2].copy_from_slice(CRLF);
    digits + 2
}

/// Where in the coding the next byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Size {
        value: u64,
        digits: u8,
    },
    /// White space behind a size: only `;` may follow.
    ExtensionSpace {
        value: u64,
        len: u32,
    },
    Extension {
        value: u64,
        len: u32,
    },
    SizeLf {
        value: u64,
    },
    Data {
        remaining: u64,
    },
    DataCr,
    DataLf,
    LineStart,
    TrailerLine,
    LastLf,
    Done,
}

const NEXT_SIZE: Phase = Phase::Size { value: 0, digits: 0 };

/// Takes the coding off a body.
#[derive(Debug)]
pub(crate) struct ChunkDecoder {
    phase: Phase,
    extension_bytes: u32,
}

/// The trailer section of one body.
#[derive(Debug, Default)]
pub(crate) struct Trailers {
    /// The lines as received, while they come.
    received: Vec<u8>,
    /// The lines that travel on, serialised.
    pub(crate) kept: Vec<u8>,
}

impl Trailers {
    pub(crate) fn clear(&mut self) {
        self.received.clear();
        self.kept.clear();
    }
}

impl ChunkDecoder {
    pub(crate) fn new() -> Self {
        Self { phase: NEXT_SIZE, extension_bytes: 0 }
    }

    /// See [`BodyDecoder::step`](crate::body::BodyDecoder::step).
    pub(crate) fn step(
        &mut self,
        buf: &mut [u8],
        trailers: &mut Trailers,
        policy: TrailerPolicy,
    ) -> Result<BodyStep, WireError> {
        let (mut consumed, mut data) = (0, 0);
        while consumed < buf.len() && self.phase != Phase::Done {
            match self.phase {
                Phase::Data { remaining } => {
                    let here = usize::try_from(remaining).unwrap_or(usize::MAX).min(buf.len() - consumed);
                    // `data <= consumed` always: the framing only ever shrinks.
                    buf.copy_within(consumed..consumed + here, data);
                    data += here;
                    consumed += here;
                    let remaining = remaining - here as u64;
                    self.phase = if remaining == 0 { Phase::DataCr } else { Phase::Data { remaining } };
                }
                Phase::TrailerLine => consumed += self.trailer_line(&buf[consumed..], trailers)?,
                Phase::LastLf => {
                    expect(buf[consumed], b'\n', WireError::Trailer)?;
                    consumed += 1;
                    keep_trailers(trailers, policy)?;
                    self.phase = Phase::Done;
                }
                Phase::Size { .. }
                | Phase::ExtensionSpace { .. }
                | Phase::Extension { .. }
                | Phase::SizeLf { .. }
                | Phase::DataCr
                | Phase::DataLf
                | Phase::LineStart
                | Phase::Done => {
                    let byte = buf[consumed];
                    // A trailer line's first byte belongs to the line.
                    let (next, used) = self.after(byte)?;
                    self.phase = next;
                    consumed += used;
                }
            }
        }
        let progress = if self.phase == Phase::Done { Progress::Done } else { Progress::More };
        Ok(BodyStep { consumed, data, progress })
    }

    /// Where `byte` leads, and whether it is used up there (1) or looked at again (0).
    fn after(&mut self, byte: u8) -> Result<(Phase, usize), WireError> {
        let next = match self.phase {
            Phase::Size { value, digits } => {
                return self.after_size(byte, value, digits).map(|next| (next, 1));
            }
            Phase::ExtensionSpace { value, len } => match byte {
                b';' => Phase::Extension { value, len: self.extended(len)? },
                b' ' | b'\t' => Phase::ExtensionSpace { value, len: self.extended(len)? },
                _ => return Err(WireError::Chunk),
            },
            Phase::Extension { value, len } => match byte {
                b'\r' => Phase::SizeLf { value },
                b'\t' | b' '..=0x7e | 0x80.. => Phase::Extension { value, len: self.extended(len)? },
                _ => return Err(WireError::Chunk),
            },
            Phase::SizeLf { value } => {
                expect(byte, b'\n', WireError::Chunk)?;
                if value == 0 { Phase::LineStart } else { Phase::Data { remaining: value } }
            }
            Phase::DataCr => {
                expect(byte, b'\r', WireError::Chunk)?;
                Phase::DataLf
            }
            Phase::DataLf => {
                expect(byte, b'\n', WireError::Chunk)?;
                NEXT_SIZE
            }
            Phase::LineStart => match byte {
                b'\r' => Phase::LastLf,
                b'\n' => return Err(WireError::Trailer),
                _ => return Ok((Phase::TrailerLine, 0)),
            },
            Phase::Data { .. } | Phase::TrailerLine | Phase::LastLf | Phase::Done => {
                return Ok((self.phase, 0));
            }
        };
        Ok((next, 1))
    }

    /// RFC 9112 §7.1: hex digits only, and a size that no signed 64-bit reader takes for another one.
    fn after_size(&mut self, byte: u8, value: u64, digits: u8) -> Result<Phase, WireError> {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            b'\r' if digits > 0 => return Ok(Phase::SizeLf { value }),
            b';' if digits > 0 => return Ok(Phase::Extension { value, len: self.extended(0)? }),
            b' ' | b'\t' if digits > 0 => return Ok(Phase::ExtensionSpace { value, len: self.extended(0)? }),
            _ => return Err(WireError::Chunk),
        };
        if digits == 16 || value >> 59 != 0 {
            return Err(WireError::Chunk);
        }
        Ok(Phase::Size { value: value << 4 | u64::from(digit), digits: digits + 1 })
    }

    /// Counts one byte of extension; `len` were on this chunk before it.
    fn extended(&mut self, len: u32) -> Result<u32, WireError> {
        self.extension_bytes += 1;
        if len >= EXTENSION_BYTES_MAX || self.extension_bytes > EXTENSIONS_BYTES_MAX {
            return Err(WireError::Chunk);
        }
        Ok(len + 1)
    }

    /// Keeps a trailer line up to its end, or what has come of it; returns the bytes used.
    fn trailer_line(&mut self, rest: &[u8], trailers: &mut Trailers) -> Result<usize, WireError> {
        let end = memchr::memchr(b'\n', rest);
        let used = end.map_or(rest.len(), |end| end + 1);
        if trailers.received.len() + used > TRAILER_BYTES_MAX {
            return Err(WireError::Trailer);
        }
        trailers.received.extend_from_slice(&rest[..used]);
        if end.is_some() {
            if !trailers.received.ends_with(CRLF) {
                return Err(WireError::Trailer);
            }
            self.phase = Phase::LineStart;
        }
        Ok(used)
    }
}

fn expect(byte: u8, wanted: u8, error: WireError) -> Result<(), WireError> {
    if byte == wanted { Ok(()) } else { Err(error) }
}

/// Parses the received trailer lines and serialises those that may travel on.
fn keep_trailers(trailers: &mut Trailers, policy: TrailerPolicy) -> Result<(), WireError> {
    if trailers.received.is_empty() {
        return Ok(());
    }
    trailers.received.extend_from_slice(CRLF);
    let mut fields = [httparse::EMPTY_HEADER; TRAILERS_MAX];
    let parsed = httparse::parse_headers(&trailers.received, &mut fields);
    let Ok(httparse::Status::Complete((used, fields))) = parsed else { return Err(WireError::Trailer) };
    // Every line was seen to end in CRLF, so the parser's only empty line is ours.
    if used != trailers.received.len() {
        return Err(WireError::Trailer);
    }
    for field in fields.iter().filter(|field| policy.keeps(field.name.as_bytes())) {
        trailers.kept.extend_from_slice(field.name.as_bytes());
        trailers.kept.extend_from_slice(b": ");
        trailers.kept.extend_from_slice(field.value);
        trailers.kept.extend_from_slice(CRLF);
    }
    Ok(())
}

impl TrailerPolicy {
    fn keeps(self, name: &[u8]) -> bool {
        match self {
            Self::Forward => hop::may_be_trailer(name),
            Self::Drop => false,
        }
    }
}
