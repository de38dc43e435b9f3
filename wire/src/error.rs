//! Everything that can be wrong with a peer's bytes, and what it costs: one table.
//!
//! A [`WireError`] never says anything about us. On the downstream side it becomes the status of
//! [`WireError::status`] and a closed connection; on the upstream side it becomes 502 and a closed connection.

use std::fmt;

/// What a peer sent that cannot be accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WireError {
    /// The request or status line is not of the form of RFC 9112 §3 and §4.
    StartLine,
    /// The version is not HTTP/1.0 or HTTP/1.1 (RFC 9112 §2.3).
    Version,
    /// The request-target is not of the form of RFC 9112 §3.2, or holds a bad escape, NUL or fragment.
    Target,
    /// The request-target is longer than `limits.uri_bytes_max`.
    TargetTooLong,
    /// A field name is not a token, or white space stands before the colon (RFC 9112 §5.1).
    HeaderName,
    /// A field value holds NUL, CR, LF or another control byte, or is folded (RFC 9112 §5.2).
    HeaderValue,
    /// One header line is longer than `limits.header_line_bytes_max`.
    HeaderTooLong,
    /// There are more header lines than `limits.headers_max`.
    TooManyHeaders,
    /// The head is longer than `limits.head_bytes_max`.
    HeadTooLong,
    /// A bare LF or CR where CRLF is required (RFC 9112 §2.2).
    LineEnding,
    /// Host is missing, repeated, malformed, or differs from an absolute-form target (RFC 9112 §3.2).
    Host,
    /// Content-Length is not one plain decimal number, or is given twice (RFC 9112 §6.3).
    ContentLength,
    /// Transfer-Encoding is anything but exactly one `chunked`, or came with HTTP/1.0 (RFC 9112 §6.1).
    TransferEncoding,
    /// Both Content-Length and Transfer-Encoding (RFC 9112 §6.1: request smuggling).
    LengthConflict,
    /// A chunk size, chunk extension or chunk end is malformed or over its bound (RFC 9112 §7.1).
    Chunk,
    /// The trailer section is malformed or over its bound (RFC 9112 §7.1.2).
    Trailer,
    /// Expect holds something else than `100-continue` (RFC 9110 §10.1.1).
    Expectation,
    /// A method that this gateway refuses: CONNECT, TRACE.
    Method,
    /// An extended CONNECT (RFC 8441) to another protocol than `websocket`.
    Protocol,
    /// A body of gRPC-Web that is to be base64 and is not.
    Base64,
    /// The peer closed in the middle of a message.
    Truncated,
    /// Bytes came where none may come: after a response, on an idle connection, or a 101 that nobody asked for.
    Unexpected,
}

impl WireError {
    /// The status with which a request that has this fault is answered before its connection is closed.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::StartLine
            | Self::Target
            | Self::HeaderName
            | Self::HeaderValue
            | Self::LineEnding
            | Self::Host
            | Self::ContentLength
            | Self::LengthConflict
            | Self::Chunk
            | Self::Trailer
            | Self::Base64
            | Self::Truncated
            | Self::Unexpected => 400,
            Self::TransferEncoding | Self::Protocol => 501,
            Self::Version => 505,
            Self::TargetTooLong => 414,
            Self::HeaderTooLong | Self::TooManyHeaders | Self::HeadTooLong => 431,
            Self::Expectation => 417,
            Self::Method => 405,
        }
    }

    /// A short name for logs and metrics: lower case, words joined by `_`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::StartLine => "start_line",
            Self::Version => "version",
            Self::Target => "target",
            Self::TargetTooLong => "target_too_long",
            Self::HeaderName => "header_name",
            Self::HeaderValue => "header_value",
            Self::HeaderTooLong => "header_too_long",
            Self::TooManyHeaders => "too_many_headers",
            Self::HeadTooLong => "head_too_long",
            Self::LineEnding => "line_ending",
            Self::Host => "host",
            Self::ContentLength => "content_length",
            Self::TransferEncoding => "transfer_encoding",
            Self::LengthConflict => "length_conflict",
            Self::Chunk => "chunk",
            Self::Trailer => "trailer",
            Self::Expectation => "expectation",
            Self::Method => "method",
            Self::Protocol => "protocol",
            Self::Base64 => "base64",
            Self::Truncated => "truncated",
            Self::Unexpected => "unexpected",
        }
    }
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::error::Error for WireError {}
