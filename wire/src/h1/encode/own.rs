//! Responses of the gateway's own.

use super::{status_line, write_connection, write_length};
use crate::h1::sink::Sink;
use crate::head::{Method, Persistence, Version};

/// A response of the gateway's own.
#[derive(Clone, Copy, Debug)]
pub struct SimpleResponse<'a> {
    /// The status, 100 to 999.
    pub status: u16,
    /// The method that it answers: a HEAD gets the length and no body.
    pub method: Method,
    /// The client's version.
    pub version: Version,
    /// Will the connection carry another request?
    pub persistence: Persistence,
    /// The value of Date (RFC 9110 §6.6.1); empty writes none.
    pub date: &'a [u8],
    /// More fields.
    pub headers: &'a [(&'a str, &'a [u8])],
    /// The body.
    pub body: &'a [u8],
}

/// Writes a whole response of the gateway's own, head and body. An interim one (1xx), 204 and 304 have no body.
pub fn simple_response(sink: &mut impl Sink, response: &SimpleResponse<'_>) {
    status_line(sink, response.status, b"");
    if response.status < 200 {
        sink.put(b"\r\n");
        return;
    }
    if !response.date.is_empty() {
        sink.field(b"Date", response.date);
    }
    for (name, value) in response.headers {
        sink.field(name.as_bytes(), value);
    }
    let has_content = !matches!(response.status, 204 | 304);
    if has_content {
        write_length(sink, response.body.len() as u64);
    }
    write_connection(sink, response.version, response.persistence);
    sink.put(b"\r\n");
    if has_content && response.method != Method::Head {
        sink.put(response.body);
    }
}

/// The standard reason phrase of a status (RFC 9110 §15, RFC 6585, RFC 8297, RFC 7725); empty for others.
#[must_use]
pub fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        102 => "Processing",
        103 => "Early Hints",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        207 => "Multi-Status",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        305 => "Use Proxy",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        423 => "Locked",
        424 => "Failed Dependency",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        511 => "Network Authentication Required",
        _ => "",
    }
}
