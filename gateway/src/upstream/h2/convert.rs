//! Messages in the framing library's form, and back; what of them travels is [`wire::h2`]'s say.
//!
//! The request's head was written by the exchange; the response's goes to its decoder, which trusts nothing.

use h2::ext::Protocol;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, Version};
use wire::error::WireError;
use wire::head::{BodyLength, RequestView};

/// A request. `None` when it has no form in HTTP/2.
pub(super) fn request(view: &RequestView<'_>, is_secure: bool) -> Option<Request<()>> {
    let mut request = pseudo(view, is_secure)?;
    let fields = request.headers_mut();
    append(fields, wire::h2::request_fields(view))?;
    let of_grpc = |value: &HeaderValue| value.as_bytes().starts_with(b"application/grpc");
    if fields.get_all(http::header::CONTENT_TYPE).iter().any(of_grpc) {
        // We take trailers, whoever asked: they travel in chunks (gRPC over HTTP/2: a server may insist).
        fields.insert(http::header::TE, HeaderValue::from_static("trailers"));
    }
    Some(request)
}

/// An opening handshake of WebSocket as an extended CONNECT (RFC 8441 §5). `None` when it has no form in HTTP/2.
pub(super) fn connect(view: &RequestView<'_>, is_secure: bool) -> Option<Request<()>> {
    let mut request = pseudo(view, is_secure)?;
    *request.method_mut() = Method::CONNECT;
    request.extensions_mut().insert(Protocol::from_static("websocket"));
    append(request.headers_mut(), wire::h2::connect_fields(view))?;
    Some(request)
}

fn append<'a>(map: &mut HeaderMap, fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Option<()> {
    for (name, value) in fields {
        map.append(HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?);
    }
    Some(())
}

/// Method and target.
fn pseudo(view: &RequestView<'_>, is_secure: bool) -> Option<Request<()>> {
    let (head, bytes) = (view.head, view.bytes);
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
    Some(request)
}

/// Appends a response as an HTTP/1.1 head. `ends` = no data follows.
///
/// # Errors
/// As [`wire::h2::response`].
pub(super) fn response<T>(
    response: &Response<T>,
    ends: bool,
    is_head: bool,
    out: &mut Vec<u8>,
) -> Result<BodyLength, WireError> {
    wire::h2::response(out, response.status().as_u16(), bytes(response.headers()), ends, is_head)
}

/// A value of the library's holds no control characters: it cannot end its line.
pub(super) fn bytes(fields: &HeaderMap) -> impl Iterator<Item = (&[u8], &[u8])> {
    fields.iter().map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()))
}

/// Trailer lines of HTTP/1.1 as fields. What is no field is dropped.
pub(super) fn trailer_map(lines: &[u8]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in wire::h2::trailer_fields(lines) {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            map.append(name, value);
        }
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::h1::decode;
    use wire::h1::limits::HeadLimits;
    use wire::head::RequestHead;

    fn decoded(bytes: &[u8]) -> Request<()> {
        let mut head = RequestHead::default();
        decode::request(bytes, &HeadLimits::default(), &mut head).unwrap();
        request(&RequestView { head: &head, bytes }, true).unwrap()
    }

    #[test]
    fn a_request_keeps_its_target_and_fields_and_one_of_grpc_takes_trailers() {
        let request = decoded(
            b"POST /a/b?c=d HTTP/1.1\r\nHost: shop.example:8080\r\nContent-Type: application/grpc\r\nX-A: 1\r\nX-A: 2\r\n\
              Transfer-Encoding: chunked\r\n\r\n",
        );
        assert_eq!(request.method(), Method::POST);
        assert_eq!(request.uri().to_string(), "https://shop.example:8080/a/b?c=d");
        assert_eq!(request.headers().get_all("x-a").iter().count(), 2);
        assert_eq!(request.headers()["te"], "trailers");
        assert_eq!(request.headers().len(), 4);
        let plain = decoded(b"PUT / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nContent-Length: 5\r\n\r\n");
        assert_eq!(
            (plain.headers().len(), &plain.headers()["content-length"]),
            (1, &HeaderValue::from_static("5"))
        );
    }

    #[test]
    fn trailers_are_fields_again() {
        let map = trailer_map(b"grpc-status: 0\r\ngrpc-message:  fine \r\nno field\r\n");
        assert_eq!((map.len(), &map["grpc-message"]), (2, &HeaderValue::from_static("fine")));
    }
}
