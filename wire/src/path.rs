//! Which path a request is for: the one form in which it is matched *and* forwarded (SECURITY S15).
//!
//! What is normalised is only what RFC 3986 §6.2.2 calls equivalent: dot segments go (also spelled `%2e`), and escapes
//! of unreserved characters become those characters, so that a rule for `/admin` also sees `/%61dmin`, as a backend
//! will. Everything else is data: `//` stays unless told otherwise, `\` and `;` mean nothing, `%2f` is no slash unless
//! told otherwise, and the case of escapes stays as sent.

use crate::error::WireError;

/// How paths are normalised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathPolicy {
    /// What `%2f` and `%5c` are.
    pub encoded_slashes: EncodedSlashes,
    /// What `//` is.
    pub repeated_slashes: RepeatedSlashes,
}

/// What `%2f` and `%5c` are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EncodedSlashes {
    /// Data: they stay encoded, separate no segments, and are matched as they are.
    #[default]
    Keep,
    /// They become `/` and `\` before dot segments are removed, for backends that decode before they route.
    Decode,
    /// The request is refused with [`WireError::Target`].
    Refuse,
}

/// What `//` is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RepeatedSlashes {
    /// An empty segment, kept (RFC 3986 §3.3).
    #[default]
    Keep,
    /// One slash.
    Merge,
}

/// A request-target's path and query, split at the first `?`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Split {
    /// Length of the path.
    pub(crate) path_len: usize,
    /// May [`normalise`] find something to do?
    pub(crate) form: Form,
}

/// Whether a path may have to be rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// It stands as sent.
    Plain,
    /// It holds `%`, `/.` or `//`.
    Suspect,
}

const BAD: u8 = 1;
const PERCENT: u8 = 2;
const QUERY: u8 = 4;
const SLASH: u8 = 8;
const DOT: u8 = 16;

/// What each byte of a target means to [`split`].
static CLASS: [u8; 256] = {
    let mut class = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        class[byte] = match byte {
            0..=0x20 | 0x23 | 0x7f..=0xff => BAD,
            0x25 => PERCENT,
            0x3f => QUERY,
            0x2f => SLASH,
            0x2e => DOT,
            _ => 0,
        };
        byte += 1;
    }
    class
};

/// Finds the query and checks every byte of `target`, a path with an optional query.
///
/// # Errors
/// [`WireError::Target`] for white space, control bytes, `#` and bytes above 0x7e (RFC 3986 §2).
pub(crate) fn split(target: &[u8]) -> Result<Split, WireError> {
    let mut form = Form::Plain;
    let mut before = 0;
    for (at, byte) in target.iter().enumerate() {
        let class = CLASS[usize::from(*byte)];
        if class != 0 {
            if class == QUERY {
                check_query(&target[at + 1..])?;
                return Ok(Split { path_len: at, form });
            }
            if class == BAD {
                return Err(WireError::Target);
            }
            if class == PERCENT || (before == SLASH && (class == SLASH || class == DOT)) {
                form = Form::Suspect;
            }
        }
        before = class;
    }
    Ok(Split { path_len: target.len(), form })
}

/// A query is data, escapes included: only bytes that no target may hold are refused.
fn check_query(query: &[u8]) -> Result<(), WireError> {
    let bad = query.iter().fold(0, |seen, byte| seen | (CLASS[usize::from(*byte)] & BAD));
    if bad == 0 { Ok(()) } else { Err(WireError::Target) }
}

/// Writes the normal form of `path` into `out`, which is cleared first.
///
/// `path` starts with `/`, and so does the result. The result is never longer than `path`, holds no dot segment, and
/// normalising it again changes nothing.
///
/// # Errors
/// [`WireError::Target`] for an escape that is not `%` and two hex digits, for `%00`, for escapes that spell UTF-8
/// in more bytes than it takes (RFC 3629 §3), and for encoded slashes when the policy refuses them.
pub fn normalise(path: &[u8], policy: PathPolicy, out: &mut Vec<u8>) -> Result<(), WireError> {
    out.clear();
    // Start of the segment that is being written.
    let mut segment = 0;
    let mut at = 0;
    while at < path.len() {
        let (byte, used) = match path[at] {
            b'%' => escape(&path[at..], policy.encoded_slashes)?,
            byte => (Some(byte), 1),
        };
        match byte {
            Some(b'/') => segment = slash(out, segment, policy.repeated_slashes),
            Some(byte) => out.push(byte),
            None => out.extend_from_slice(&path[at..at + used]),
        }
        at += used;
    }
    close_segment(out, segment);
    if out.is_empty() {
        out.push(b'/');
    }
    Ok(())
}

/// Ends a segment with a slash; returns where the next one starts.
fn slash(out: &mut Vec<u8>, segment: usize, repeated: RepeatedSlashes) -> usize {
    let removed = close_segment(out, segment);
    let merged = repeated == RepeatedSlashes::Merge && out.last() == Some(&b'/');
    if !(removed || merged) || out.is_empty() {
        out.push(b'/');
    }
    out.len()
}

/// Removes the segment that ends here, if it is a dot segment (RFC 3986 §5.2.4). Was it one?
fn close_segment(out: &mut Vec<u8>, segment: usize) -> bool {
    match &out[segment..] {
        b"." => out.truncate(segment),
        b".." => {
            // Without the slash before `..`, then without the segment before that. Above the root there is nothing:
            // `out` is empty then, and the caller writes the root's slash again.
            out.truncate(segment.saturating_sub(1));
            let parent = memchr::memrchr(b'/', out).map_or(0, |slash| slash + 1);
            out.truncate(parent);
        }
        _ => return false,
    }
    true
}

/// The character that the escape at the start of `text` stands for, when it is written plainly, and its length.
fn escape(text: &[u8], slashes: EncodedSlashes) -> Result<(Option<u8>, usize), WireError> {
    let value = hex_pair(text).ok_or(WireError::Target)?;
    match value {
        0 => Err(WireError::Target),
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => Ok((Some(value), 3)),
        b'/' | b'\\' => match slashes {
            EncodedSlashes::Keep => Ok((None, 3)),
            EncodedSlashes::Decode => Ok((Some(value), 3)),
            EncodedSlashes::Refuse => Err(WireError::Target),
        },
        // A lenient decoder reads C0 AE, E0 80 AE or F0 80 80 AE as a dot, C0 AF as a slash.
        0xc0 | 0xc1 | 0xe0 | 0xf0 if is_overlong(value, text) => Err(WireError::Target),
        _ => Ok((None, 3)),
    }
}

fn is_overlong(lead: u8, text: &[u8]) -> bool {
    let Some(next) = text.get(3..).and_then(hex_pair) else { return false };
    match lead {
        0xe0 => (0x80..=0x9f).contains(&next),
        0xf0 => (0x80..=0x8f).contains(&next),
        _ => (0x80..=0xbf).contains(&next),
    }
}

/// The value of `%XX` at the start of `text`.
fn hex_pair(text: &[u8]) -> Option<u8> {
    let [b'%', high, low, ..] = text else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(*high)? << 4 | digit(*low)?)
}

#[cfg(test)]
mod tests;
