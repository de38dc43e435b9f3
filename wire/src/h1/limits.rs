//! How much of a head is accepted, and what is done with the odd parts of it.

use crate::path::PathPolicy;

/// Hard bound of [`HeadLimits::head_bytes_max`]: a [`Span`](crate::head::Span) counts in 16 bits.
pub const HEAD_BYTES_CAP: usize = 65_535;

/// Hard bound of [`HeadLimits::headers_max`]: the header lines of one head are parsed on the stack.
pub const HEADERS_CAP: usize = 128;

/// Most header lines that a peer may send: what forwarding adds to them still fits [`HEADERS_CAP`].
pub const PEER_HEADERS_MAX: usize = 100;

/// Longest method name accepted, in bytes. The longest registered one is `UPDATEREDIRECTREF` (17).
pub const METHOD_BYTES_MAX: usize = 32;

/// Most names that the Connection fields of one head may nominate; more is refused as
/// [`WireError::TooManyHeaders`](crate::error::WireError::TooManyHeaders), or a hostile head costs names × lines.
pub const CONNECTION_NAMES_MAX: usize = 32;

/// Limits of one head. SECURITY S18.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// Longest head in bytes, from its first byte to its final empty line. Default 32 KiB, at most
    /// [`HEAD_BYTES_CAP`] (a larger value counts as that). Over it:
    /// [`WireError::HeadTooLong`](crate::error::WireError::HeadTooLong).
    pub head_bytes_max: usize,
    /// Longest header line in bytes, without its line ending. Default 8 KiB. Over it:
    /// [`WireError::HeaderTooLong`](crate::error::WireError::HeaderTooLong).
    pub header_line_bytes_max: usize,
    /// Most header lines. Default 100 ([`PEER_HEADERS_MAX`]), at most [`HEADERS_CAP`]. Over it:
    /// [`WireError::TooManyHeaders`](crate::error::WireError::TooManyHeaders).
    pub headers_max: usize,
    /// Longest request-target in bytes. Default 8 KiB. Over it:
    /// [`WireError::TargetTooLong`](crate::error::WireError::TargetTooLong).
    pub uri_bytes_max: usize,
    /// How paths are normalised. SECURITY S15.
    pub path: PathPolicy,
    /// What is done with request headers whose name holds an underscore. SECURITY S16.
    pub underscores: Underscores,
}

impl Default for HeadLimits {
    fn default() -> Self {
        Self {
            head_bytes_max: 32 * 1024,
            header_line_bytes_max: 8 * 1024,
            headers_max: PEER_HEADERS_MAX,
            uri_bytes_max: 8 * 1024,
            path: PathPolicy::default(),
            underscores: Underscores::default(),
        }
    }
}

impl HeadLimits {
    /// For heads of our own, between the gateway's parts: they passed a peer's limits and grew by what forwarding adds.
    #[must_use]
    pub fn of_own_heads() -> Self {
        Self {
            head_bytes_max: HEAD_BYTES_CAP,
            header_line_bytes_max: HEAD_BYTES_CAP,
            uri_bytes_max: HEAD_BYTES_CAP,
            headers_max: HEADERS_CAP,
            underscores: Underscores::Keep,
            ..Self::default()
        }
    }

    /// [`HeadLimits::head_bytes_max`] within its hard bound.
    #[must_use]
    pub fn head_bytes(&self) -> usize {
        self.head_bytes_max.min(HEAD_BYTES_CAP)
    }

    /// [`HeadLimits::headers_max`] within its hard bound.
    #[must_use]
    pub fn headers(&self) -> usize {
        self.headers_max.min(HEADERS_CAP)
    }
}

/// What is done with request headers whose name holds an underscore.
///
/// CGI-like backends read `X_User` and `X-User` as one variable, so a client could speak in the name of a header
/// that the gateway sets or removes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Underscores {
    /// The header does not enter the head: it is neither forwarded nor seen by routing. It counts for the limits.
    #[default]
    Drop,
    /// The header is kept like any other.
    Keep,
    /// The request is refused with [`WireError::HeaderName`](crate::error::WireError::HeaderName).
    Refuse,
}
