//! One message of HTTP/1.1 as fields of HTTP/2, and back (RFC 9113 §8.2, §8.3).
//!
//! The request's head was written by the exchange; the response's goes to its decoder, which trusts nothing. What concerns
//! one connection only is dropped in both directions (RFC 9113 §8.2.2).

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, Version};
use wire::head::{BodyLength, Known, RequestHead};

/// Fields that are of one connection of HTTP/1.1.
const OF_CONNECTION: [&str; 5] =
    ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"];

/// The fields of a request whose head `bytes` starts with. `None` when it has no form in HTTP/2.
pub(super) fn request(head: &RequestHead, bytes: &[u8], is_secure: bool) -> Option<Request<()>> {
    let scheme = if is_secure { "https" } else { "http" };
    let authority = head.authority_span.of(bytes);
    let mut target = head.path_span.of(bytes).to_vec();
    if let Some(query) = head.query_span {
        target.push(b'?');
        target.extend_from_slice(query.of(bytes));
    }
    // `OPTIONS *` is the only target that is no path.
    let uri = Uri::builder().scheme(scheme).authority(authority).path_and_query(target).build().ok()?;
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(head.method_span.of(bytes)).ok()?;
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_2;
    let fields = request.headers_mut();
    let mut is_grpc = false;
    for field in &head.headers {
        let name = HeaderName::from_bytes(field.name.of(bytes)).ok()?;
        let of_connection = field.hop_by_hop && !matches!(field.known, Known::ContentLength);
        if field.known == Known::Host
            || of_connection
            || OF_CONNECTION.contains(&name.as_str())
            || name == "te"
        {
            continue;
        }
        let value = HeaderValue::from_bytes(field.value.of(bytes)).ok()?;
        is_grpc |= name == http::header::CONTENT_TYPE && value.as_bytes().starts_with(b"application/grpc");
        fields.append(name, value);
    }
    if is_grpc {
        // We take trailers, whoever asked: they travel in chunks (gRPC over HTTP/2: a server may insist).
        fields.insert(http::header::TE, HeaderValue::from_static("trailers"));
    }
    Some(request)
}

/// How the body behind a response's head is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// As it comes: its length is known, or there is none.
    Plain,
    /// In chunks, with trailers.
    Chunked,
}

/// Appends a response as an HTTP/1.1 head. `ends` = no data follows.
pub(super) fn response<T>(response: &Response<T>, ends: bool, is_head: bool, out: &mut Vec<u8>) -> Framing {
    let status = response.status();
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(wire::h1::encode::reason(status.as_u16()).as_bytes());
    out.extend_from_slice(b"\r\n");
    let mut has_length = false;
    for (name, value) in response.headers() {
        if OF_CONNECTION.contains(&name.as_str()) {
            continue;
        }
        has_length |= name == http::header::CONTENT_LENGTH;
        line(name, value, out);
    }
    let bodiless = is_head || status.as_u16() == 204 || status.as_u16() == 304;
    let framing = if has_length || bodiless {
        Framing::Plain
    } else if ends {
        out.extend_from_slice(b"Content-Length: 0\r\n");
        Framing::Plain
    } else {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
        Framing::Chunked
    };
    out.extend_from_slice(b"\r\n");
    framing
}

/// Appends the end of a chunked body, with these trailers.
pub(super) fn trailers(fields: Option<&HeaderMap>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"0\r\n");
    for (name, value) in fields.into_iter().flatten() {
        if wire::hop::may_be_trailer(name.as_str().as_bytes()) {
            line(name, value, out);
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// A value of the library's holds no control characters: it cannot end its line.
fn line(name: &HeaderName, value: &HeaderValue, out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_str().as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Trailer lines of HTTP/1.1 as fields. What is no field is dropped.
pub(super) fn trailer_map(lines: &[u8]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for line in lines.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let Some(at) = line.iter().position(|byte| *byte == b':') else { continue };
        let name = HeaderName::from_bytes(&line[..at]);
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(line[at + 1..].trim_ascii())) {
            map.append(name, value);
        }
    }
    map
}

/// Does a request of this length end with its head?
pub(super) fn ends(body: BodyLength) -> bool {
    body.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::h1::decode;
    use wire::h1::limits::HeadLimits;

    fn decoded(bytes: &[u8]) -> Request<()> {
        let mut head = RequestHead::default();
        decode::request(bytes, &HeadLimits::default(), &mut head).unwrap();
        request(&head, bytes, true).unwrap()
    }

    #[test]
    fn a_request_keeps_its_fields_and_loses_what_is_of_its_connection() {
        let request = decoded(
            b"POST /a/b?c=d HTTP/1.1\r\nHost: shop.example:8080\r\nContent-Type: application/grpc\r\nX-A: 1\r\nX-A: 2\r\n\
              Connection: x-gone\r\nX-Gone: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        );
        assert_eq!(request.method(), Method::POST);
        assert_eq!(request.uri().to_string(), "https://shop.example:8080/a/b?c=d");
        assert_eq!(request.headers().get_all("x-a").iter().count(), 2);
        for gone in ["host", "connection", "x-gone", "transfer-encoding"] {
            assert!(!request.headers().contains_key(gone), "{gone}");
        }
        assert_eq!(request.headers()["te"], "trailers");
    }

    #[test]
    fn a_length_travels() {
        let request = decoded(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n");
        assert_eq!(request.headers()["content-length"], "5");
    }

    fn written(status: u16, fields: &[(&str, &str)], ends: bool, is_head: bool) -> (Framing, String) {
        let mut builder = Response::builder().status(status);
        for (name, value) in fields {
            builder = builder.header(*name, *value);
        }
        let mut out = Vec::new();
        let framing = response(&builder.body(()).unwrap(), ends, is_head, &mut out);
        (framing, String::from_utf8(out).unwrap())
    }

    #[test]
    fn a_response_is_framed_by_what_is_known_of_its_length() {
        let (framing, head) = written(200, &[("x-a", "1"), ("connection", "close")], false, false);
        assert_eq!(framing, Framing::Chunked);
        assert_eq!(head, "HTTP/1.1 200 OK\r\nx-a: 1\r\nTransfer-Encoding: chunked\r\n\r\n");
        let (framing, head) = written(200, &[("grpc-status", "14")], true, false);
        assert_eq!((framing, head.contains("Content-Length: 0")), (Framing::Plain, true));
        assert_eq!(written(200, &[("content-length", "3")], false, false).0, Framing::Plain);
        for (status, is_head) in [(204, false), (304, false), (200, true)] {
            let (framing, head) = written(status, &[], true, is_head);
            assert_eq!(framing, Framing::Plain);
            assert!(!head.contains("Content-Length") && !head.contains("chunked"), "{head}");
        }
    }

    #[test]
    fn trailers_go_both_ways() {
        let map = trailer_map(b"grpc-status: 0\r\ngrpc-message:  fine \r\nno field\r\n");
        assert_eq!((map.len(), &map["grpc-message"]), (2, &HeaderValue::from_static("fine")));
        let mut out = Vec::new();
        trailers(Some(&map), &mut out);
        let text = String::from_utf8(out).unwrap();
        assert!(
            text.starts_with("0\r\n") && text.ends_with("\r\n\r\n") && text.contains("grpc-status: 0\r\n")
        );
    }
}
